"""A spec beside another JAX library's layer: outputs, final states and gradients, as one number, the worst error."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from cases import QUICKLY_COMPILED

from jlstm import LSTMState


def normal(tree, seed, scale=0.5):
    """Draw a pytree of float32 arrays of these shapes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, scale, a.shape), jnp.float32), tree)


def drawn(spec, D, B, T, seed=0):
    """Draw a state and x for a spec."""
    state = normal(jax.eval_shape(lambda: spec.initial_state(B)), seed + 1)
    return state, normal(jax.ShapeDtypeStruct((B, T, D), jnp.float32), seed + 2, 1.0)


def worst_error(ours, theirs, convert, state, x):
    """Run both and differentiate both.

    Args:
        ours, theirs: pairs of a function (weights, state, x) -> (outputs, final states), each any pytree of arrays,
            the same for both, and its weights.
        convert: what makes a gradient of our weights' structure of one of theirs.
        state: our initial state; theirs takes it as such.
        x: [B, T, D].

    Returns:
        The largest error of outputs and states, relative to the largest entry or 1, and of gradients with respect to
        weights, state and x, relative to the largest entry.
    """
    functions, weights = zip(ours, theirs, strict=True)
    results = jax.eval_shape(functions[0], weights[0], state, x)
    factors = normal(results, 7, 1.0)

    def values_and_gradients(function, weights):
        def loss(weights, state, x):
            results = function(weights, state, x)
            terms = jax.tree.map(lambda a, w: jnp.sum(a * w), results, factors)
            return sum(jax.tree.leaves(terms)), results

        @partial(jax.jit, compiler_options=QUICKLY_COMPILED)
        def both(*arguments):
            (_, results), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*arguments)
            return results, gradients

        return both(weights, state, x)

    got, gradients = values_and_gradients(functions[0], weights[0])
    expected, wanted = values_and_gradients(functions[1], weights[1])
    wanted = convert(wanted[0]), *wanted[1:]
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    assert jax.tree.structure(gradients) == jax.tree.structure(wanted)
    outputs = jax.tree.map(partial(error, smallest=1.0), got, expected)
    return max(jax.tree.leaves(outputs) + jax.tree.leaves(jax.tree.map(error, gradients, wanted)))


def error(got, expected, smallest=1e-3):
    """The largest difference, relative to the largest entry expected, or to `smallest` where that is larger."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    worst = np.max(np.abs(got - expected)) / max(np.max(np.abs(expected)), smallest)
    return math.inf if np.isnan(worst) else float(worst)


def ch(state):
    """Our state as flax's carry (c, h)."""
    return (state.c, state.h) if isinstance(state, LSTMState) else (ch(state.forward), ch(state.backward))
