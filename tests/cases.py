"""Weights, states and inputs for the tests: drawn in float64 NumPy, converted to what jlstm takes."""

import jax
import jax.numpy as jnp
import numpy as np

from jlstm import LSTMParams, LSTMState

# One float32 step rounds to about 1e-7; over the few steps of these tests, through saturating gates, that stays
# below 1e-6, with a margin of five for sums in another order.
F32 = {"rtol": 5e-6, "atol": 5e-6}
# Gradients add such errors over steps and examples, and reach a few units.
F32_GRAD = {"rtol": 5e-5, "atol": 5e-5}
# The same sums compiled twice (chunked, unrolled, under vmap): XLA may fuse or order them differently.
SAME = {"rtol": 2e-6, "atol": 2e-6}
# In float64 jlstm and the oracle differ by the order of sums alone.
F64 = {"rtol": 1e-12, "atol": 1e-12}
# bfloat16 has 8 bits: a relative error of 2**-8 a product, over a few steps.
BF16 = {"rtol": 5e-2, "atol": 5e-2}

# Options of jax.jit for a function that runs once: nearly all the time of such a test goes into compilation, and these
# leave a quarter of it. The second is known to exist
# in jax 0.10; a version without it would refuse to compile.
QUICKLY_COMPILED = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
    QUICKLY_COMPILED |= {"xla_cpu_use_fusion_emitters": False}


def weights(seed, D, N, P=None, *, bias=True, peephole=False, projection=False):
    """Draw a dict of float64 weights, as tests/reference.py takes them."""
    rng = np.random.default_rng(seed)
    P = P or N
    made = {
        "kernel": rng.normal(0, 0.7, (D, 4 * N)),
        "recurrent_kernel": rng.normal(0, 0.7, (P, 4 * N)),
    }
    if bias:
        made["bias"] = rng.normal(0, 0.5, 4 * N)
    if peephole:
        made["peephole"] = rng.normal(0, 0.5, (3, N))
    if projection:
        made["projection"] = rng.normal(0, 0.7, (N, P))
    return made


def state(seed, B, N, P=None):
    """Draw (h [B, P], c [B, N]); B=() for one example."""
    rng = np.random.default_rng(seed)
    batch = B if isinstance(B, tuple) else (B,)
    return rng.normal(0, 0.5, (*batch, P or N)), rng.normal(0, 1, (*batch, N))


def inputs(seed, *shape):
    """Draw x [B, T, D] (or any other shape)."""
    return np.random.default_rng(seed).normal(0, 1, shape)


def bools(seed, *shape, p=0.6):
    """Draw a bool array, True with probability p."""
    return np.random.default_rng(seed).random(shape) < p


def params(made, dtype="float32"):
    """A dict of weights as LSTMParams."""
    return LSTMParams(**{name: jnp.asarray(value, dtype) for name, value in made.items()})


def lstm_state(pair, dtype="float32"):
    """A pair (h, c) as LSTMState."""
    return LSTMState(h=jnp.asarray(pair[0], dtype), c=jnp.asarray(pair[1], dtype))


def array(value, dtype="float32"):
    """A NumPy array as a jax array; None stays None."""
    return None if value is None else jnp.asarray(value, dtype)


def close(got, expected, **tolerance):
    """Assert that two pytrees have the same structure and, leaf by leaf, the same shapes and close values."""
    got_leaves, got_tree = jax.tree.flatten(got)
    expected_leaves, expected_tree = jax.tree.flatten(expected)
    assert got_tree == expected_tree
    for a, b in zip(got_leaves, expected_leaves, strict=True):
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), **tolerance)


def same_bits(got, expected):
    """Assert that two pytrees hold the same bits."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
