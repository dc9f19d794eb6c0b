"""Keras's weight constraints as an Optax transformation. Needs optax; `import jlstm` does not import this module."""

from collections.abc import Callable
from typing import Any

import jax
import optax


def apply_constraints(constrain: Callable[[Any], Any]) -> optax.GradientTransformation:
    """Change updates so that the updated params satisfy the constraints. It goes last in a chain.

    Args:
        constrain: a function of the params that are optimised: layer.constrain, or one that calls it on its part.

    Returns:
        A transformation whose update needs `params`, and raises ValueError without them.

    Example:
        >>> import jax, jax.numpy as jnp, jlstm, jlstm.optax, optax
        >>> layer = jlstm.LSTM(2, bias_constraint=jlstm.MaxNorm(0.5))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> optimizer = optax.chain(optax.sgd(0.1), jlstm.optax.apply_constraints(layer.constrain))
        >>> gradient = jax.tree.map(jnp.ones_like, params)
        >>> updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        >>> float(jnp.linalg.norm(optax.apply_updates(params, updates).bias).round(3))
        0.5
    """

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params must be given to the update of apply_constraints, got None")
        constrained = constrain(optax.apply_updates(params, updates))
        return jax.tree.map(lambda new, old: new - old, constrained, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
