"""The two backends side by side: a layer's outputs, state and all gradients under each, and how far they may differ."""

import os
from dataclasses import replace

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jlstm.backends import library

# Both compute in float32, sums of some hundred terms in another order, over up to forty steps; relative to the largest
# entry of an array.
TOLERANCE = 2e-5

_REASON = library.unavailable()
if _REASON and os.environ.get("JLSTM_REQUIRE_PEERS") == "1":
    pytest.fail(f"JLSTM_REQUIRE_PEERS=1, but {_REASON}")
needs_kernel = pytest.mark.skipif(_REASON is not None, reason=str(_REASON))


def values_and_gradients(layer, params, state, x, options=None, key=None):
    """((state, y), gradients) of a weighted sum of all that apply returns; gradients by the name of the argument."""
    options = {} if options is None else options
    given = {"params": params, "state": state, "x": x}
    if "reset_state" in options:
        given["reset_state"] = options["reset_state"]
    rest = {name: value for name, value in options.items() if name != "reset_state"}

    def loss(given):
        extra = {"reset_state": given["reset_state"]} if "reset_state" in given else {}
        out = layer.apply(given["params"], given["state"], given["x"], key=key, **rest, **extra)
        total = jnp.zeros((), "float32")
        for n, leaf in enumerate(jax.tree.leaves(out)):  # weights: another number for each entry
            total += jnp.sum(leaf.astype("float32") * jnp.cos(jnp.arange(leaf.size) + n).reshape(leaf.shape))
        return total, out

    (_, out), grads = jax.value_and_grad(loss, has_aux=True)(given)
    return out, grads


compiled = jax.jit(values_and_gradients, static_argnums=0)
# The reference need not be fast: without optimisation it compiles in half the time.
QUICKLY = {"xla_backend_optimization_level": 0}
compiled_reference = jax.jit(values_and_gradients, static_argnums=0, compiler_options=QUICKLY)


def compare(layer, *arguments, tolerance=TOLERANCE):
    """Assert that the backends agree on a layer; returns what the kernel gave."""
    got = compiled(replace(layer, backend="cpu"), *arguments)
    agree(got, compiled_reference(replace(layer, backend="xla"), *arguments), tolerance)
    return got


def compare_under(transform, *arguments, tolerance=TOLERANCE):
    """Assert that a function of the backend's name, jitted, gives the same under both."""
    got = jax.jit(transform("cpu"), compiler_options=QUICKLY)(*arguments)
    agree(got, jax.jit(transform("xla"), compiler_options=QUICKLY)(*arguments), tolerance)
    return got


def agree(got, expected, tolerance=TOLERANCE):
    """Assert equal structures, shapes and dtypes, NaN and infinities at the same places, and close numbers."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        where = jax.tree_util.keystr(path)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        finite = np.isfinite(b)
        np.testing.assert_array_equal(np.where(finite & np.isfinite(a), 0, a), np.where(finite, 0, b), where)
        if finite.any():
            error, largest = np.max(np.abs(a[finite] - b[finite])), np.max(np.abs(b[finite]))
            assert error <= tolerance * largest, f"{where} is off by {error:.1e}, its largest entry is {largest:.1e}"


def drawn(layer, B, T, D, *, seed=0, dtype="float32"):
    """params, state and x for a layer; small enough weights that no activation runs away."""
    N, rng = layer.units, np.random.default_rng(seed)
    params = cases.params(cases.weights(seed, D, N, bias=layer.use_bias, peephole=layer.variant.peephole))
    params = jax.tree.map(lambda a: a / np.float32(np.sqrt(D + N)) if a.ndim > 1 else a, params)
    return params, cases.lstm_state(cases.state(seed + 1, B, N)), jnp.asarray(rng.normal(0, 1, (B, T, D)), dtype)


def key_of(seed):
    """A random key of the generator that compiles fast."""
    return jax.random.key(seed, impl="unsafe_rbg")
