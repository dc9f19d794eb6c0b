"""Any spec as a flax linen module; needs flax, and `import jlstm` does not import this module."""

from typing import Any

import flax.linen as nn
import jax

from jlstm import checks
from jlstm.compose import Bidirectional, Stack
from jlstm.layers import LSTM
from jlstm.paths import flatten, unflatten


class Layer(nn.Module):
    """LSTM, Bidirectional or Stack as a linen module.

    Its params are named by their place in the params of the spec: "kernel", "forward.kernel", "0.kernel". With
    stateful, the state is kept in the collection "carry" (so apply(..., mutable="carry")), made by init for the batch
    size that it sees, and keeps its dtype.

    Attributes:
        spec: jlstm.LSTM, jlstm.Bidirectional or jlstm.Stack.
        stateful: keep the state from each call to the next, instead of starting from zeros.
        return_state: a call returns (state, y) instead of y.

    Example:
        >>> import jax, jax.numpy as jnp, jlstm, jlstm.linen
        >>> layer = jlstm.linen.Layer(jlstm.LSTM(5, dropout=0.1))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 7, 3)))
        >>> sorted(variables["params"]), layer.apply(variables, jnp.ones((2, 7, 3))).shape
        (['bias', 'kernel', 'recurrent_kernel'], (2, 5))
    """

    spec: LSTM | Bidirectional | Stack
    stateful: bool = False
    return_state: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        initial_state: Any = None,
        mask: jax.Array | None = None,
        lengths: jax.Array | None = None,
        reset: jax.Array | None = None,
        reset_state: Any = None,
        deterministic: bool = True,
    ) -> Any:
        """Run the layer over whole sequences.

        Args:
            x: [B, T, D], real floating.
            initial_state: where to start; None means the state kept with stateful, zeros otherwise.
            mask, lengths, reset, reset_state: as jlstm.LSTM.apply.
            deterministic: whether dropout is off; otherwise it is drawn from the stream "dropout".

        Returns:
            y, as the spec's apply gives it; with return_state the pair (state, y).
        """
        spec: Any = self.spec
        checks.instance("spec", spec, LSTM, Bidirectional, Stack)
        B, _, D = checks.array("x", x, "floating", ("B", "T", "D")).shape

        shapes = jax.eval_shape(lambda key: spec.init(key, D), jax.random.key(0))
        missing = not all(self.has_variable("params", name.replace("/", ".")) for name in flatten(shapes))
        # Drawn once for all. Afterwards flax takes the weights given and compares their shapes with these alone.
        drawn = missing and self.is_mutable_collection("params")
        values = spec.init(self.make_rng("params"), D) if drawn else shapes
        params = unflatten(
            shapes,
            {name: self.param(name.replace("/", "."), lambda _, a=a: a) for name, a in flatten(values).items()},
        )
        carry = self.variable("carry", "state", spec.initial_state, B) if self.stateful else None
        if initial_state is None:
            initial_state = spec.initial_state(B) if carry is None else carry.value
        key = None if deterministic else self.make_rng("dropout")
        options = {"mask": mask, "lengths": lengths, "reset": reset, "reset_state": reset_state, "key": key}
        state, y = spec.apply(params, initial_state, x, **options)
        if carry is not None and not self.is_initializing():
            carry.value = jax.tree.map(lambda new, kept: new.astype(kept.dtype), state, carry.value)
        return (state, y) if self.return_state else y
