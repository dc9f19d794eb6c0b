"""JAX's transformations of the fused kernel: vmap over rows and members, remat, higher orders, scan, export."""

from dataclasses import replace
from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from both import agree, compare_under, drawn, key_of, needs_kernel, values_and_gradients
from jax import export
from jax.flatten_util import ravel_pytree

from jlstm import LSTM, LSTMParams, LSTMState, Variant

pytestmark = needs_kernel

B, T, D, N, V, W = 3, 6, 2, 5, 3, 2
LAYER = LSTM(N, return_sequences=True)
# A hessian is a sum of products of gradients, each with its own error.
SECOND_ORDER = 1e-4


def loss(layer, params, state, x, **options):
    state, y = layer.apply(params, state, x, **options)
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves((state, y)))


def stacked(count, of_one):
    """A pytree with a leading axis, from of_one(0), ..., of_one(count - 1)."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(of_one, range(count)))


def arguments(seed=0, layer=LAYER):
    return drawn(layer, B, T, D, seed=seed)


MEMBERS = stacked(V, lambda n: arguments(n)[0])
PARAMS, STATE, X = arguments()
STATES, XS = stacked(V, lambda n: arguments(n)[1]), stacked(V, lambda n: arguments(n)[2])
MASKS, RESETS = jnp.asarray(cases.bools(5, V, B, T)), jnp.asarray(cases.bools(6, V, B, T, p=0.2))


# --- vmap -----------------------------------------------------------------------------------------------------------


def of_layer(backend, layer=LAYER):
    """(params, state, x, options) -> values and gradients."""
    return partial(values_and_gradients, replace(layer, backend=backend))


VMAPS = {
    "params": ((0, None, None, None), (MEMBERS, STATE, X, {})),
    "x": ((None, None, 0, None), (PARAMS, STATE, XS, {})),
    "params, state and x": ((0, 0, 0, None), (MEMBERS, STATES, XS, {})),
    "the bias alone": (
        (LSTMParams(None, None, 0), None, None, None),
        (replace(PARAMS, bias=MEMBERS.bias), STATE, X, {}),
    ),
    "the last axis of params": (
        (-1, None, None, None),
        (jax.tree.map(lambda a: jnp.moveaxis(a, 0, -1), MEMBERS), STATE, X, {}),
    ),
    "the mask alone": ((None, None, None, 0), (PARAMS, STATE, X, {"mask": MASKS})),
    "params and what else there is": (
        (0, None, None, {"mask": 0, "reset": None, "reset_state": 0}),
        (MEMBERS, STATE, X, {"mask": MASKS, "reset": RESETS[0], "reset_state": STATES}),
    ),
    "the reset state alone": (
        (None, None, None, {"reset": None, "reset_state": 0}),
        (PARAMS, STATE, X, {"reset": RESETS[0], "reset_state": STATES}),
    ),
}


@pytest.mark.parametrize(("axes", "given"), VMAPS.values(), ids=VMAPS)
def test_vmap(axes, given):
    compare_under(lambda backend: jax.vmap(of_layer(backend), in_axes=axes), *given)


NESTED = {
    "params, then x": ((0, None, None), (None, None, 0), (MEMBERS, STATE, XS[:W])),
    "x, then params": ((None, None, 0), (0, None, None), (MEMBERS, STATE, XS[:W])),
    "params twice": (
        (0, None, None),
        (0, None, 0),
        (jax.tree.map(lambda a: jnp.stack([a, -a]), MEMBERS), STATE, XS),
    ),
    "x twice": ((None, None, 0), (None, 0, 0), (PARAMS, STATES, jnp.stack([XS, -XS]))),
}


@pytest.mark.parametrize(("outer", "inner", "given"), NESTED.values(), ids=NESTED)
def test_nested_vmap(outer, inner, given):
    def twice(backend):
        one = partial(of_layer(backend), options={})
        return jax.vmap(jax.vmap(one, in_axes=inner), in_axes=outer)

    compare_under(twice, *given)


def test_vmap_of_dropout_and_of_other_variants():
    layer = LSTM(N, dropout=0.3, recurrent_dropout=0.3, variant=Variant(peephole=True), return_sequences=True)
    members = stacked(V, lambda n: arguments(n, layer)[0])
    keys = jax.random.split(key_of(0), V)

    def each(backend):
        one = partial(values_and_gradients, replace(layer, backend=backend))
        return jax.vmap(lambda params, x, key: one(params, STATE, x, {}, key))

    compare_under(each, members, XS, keys)


def test_a_gradient_for_each_example():
    def each(backend):
        def of_example(params, h, c, x):
            state = LSTMState(h=h[None], c=c[None])
            return jax.grad(partial(loss, replace(LAYER, backend=backend)))(params, state, x[None])

        return jax.vmap(of_example, in_axes=(None, 0, 0, 0))

    compare_under(each, PARAMS, STATE.h, STATE.c, X)


def test_gradient_of_a_vmap():
    def total(backend):
        def summed(members, params, state, xs):
            each = jax.vmap(partial(loss, replace(LAYER, backend=backend)), in_axes=(0, None, 0))
            shared = jax.vmap(partial(loss, replace(LAYER, backend=backend)), in_axes=(None, None, 0))
            return jnp.sum(each(members, state, xs) ** 2) + jnp.sum(shared(params, state, xs) ** 2)

        return jax.grad(summed, argnums=(0, 1, 2, 3))

    compare_under(total, MEMBERS, PARAMS, STATE, XS)


# --- remat, higher orders, forward mode -----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.dots_saveable], ids=["nothing", "dots"])
def test_checkpoint(policy):
    def remat(backend):
        return jax.grad(
            jax.checkpoint(partial(loss, replace(LAYER, backend=backend)), policy=policy), argnums=(0, 1, 2)
        )

    compare_under(remat, PARAMS, STATE, X)


def small(layer):
    """A function of a flat vector, and the vector."""
    params, state, x = drawn(layer, 2, 2, 1)
    flat, unravel = ravel_pytree((params, state, x))
    mask = jnp.array([[True, False], [True, True]])
    return lambda backend, flat: loss(replace(layer, backend=backend), *unravel(flat), mask=mask), flat


def test_hessian_and_gradient_of_a_gradient():
    f, flat = small(LSTM(2, variant=Variant(peephole=True), return_sequences=True))
    v = cases.array(cases.inputs(7, flat.size))

    def second(backend):
        def both(flat):
            of_slope = jax.grad(lambda p: jax.grad(partial(f, backend))(p) @ v)
            return of_slope(flat), jax.hessian(partial(f, backend))(flat)

        return both

    product, hessian = compare_under(second, flat, tolerance=SECOND_ORDER)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-4)
    np.testing.assert_allclose(hessian @ v, product, atol=1e-3)
    assert np.max(np.abs(hessian)) > 1


def test_jacrev_of_outputs():
    def jacobian(backend):
        layer = replace(LAYER, backend=backend)
        return jax.jacrev(lambda params, x: layer.apply(params, STATE, x), argnums=(0, 1))

    compare_under(jacobian, PARAMS, X)


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(
    "forward",
    [lambda f, x: jax.jvp(f, (x,), (x,)), lambda f, x: jax.jacfwd(f)(x), lambda f, x: jax.linearize(f, x)[1](x)],
    ids=["jvp", "jacfwd", "linearize"],
)
def test_forward_mode_is_an_error_that_names_xla(forward, jit):
    layer = replace(LAYER, backend="cpu")
    with pytest.raises(NotImplementedError, match='backend="xla"'):
        jit(lambda x: forward(lambda x: layer.apply(PARAMS, STATE, x)[1], x))(X)


def test_forward_mode_where_nothing_is_differentiated_passes():
    layer = replace(LAYER, backend="cpu")
    mask = cases.inputs(1, B, T)

    def f(threshold):
        return layer.apply(PARAMS, STATE, X, mask=mask > threshold)[1]

    y, dot = jax.jvp(f, (0.0,), (1.0,))
    agree(y, layer.apply(PARAMS, STATE, X, mask=mask > 0)[1])
    assert not np.any(dot)


# --- control flow, donation -----------------------------------------------------------------------------------------


def test_scan_over_chunks_with_the_state_as_carry():
    chunks = XS  # [V, B, T, D]: V chunks of T steps

    def truncated(backend):
        layer = replace(LAYER, backend=backend)

        def total(params, state, chunks):
            def body(state, x):
                state, y = layer.apply(params, jax.lax.stop_gradient(state), x)
                return state, y

            state, ys = jax.lax.scan(body, state, chunks)
            return jnp.sum(ys**2) + jnp.sum(state.c), (state, ys)

        return jax.value_and_grad(total, argnums=(0, 2), has_aux=True)

    (_, (state, ys)), _ = compare_under(truncated, PARAMS, STATE, chunks)
    whole = jax.jit(replace(LAYER, backend="cpu").apply)(PARAMS, STATE, jnp.concatenate(list(chunks), axis=1))
    agree((state, jnp.concatenate(list(ys), axis=1)), whole)


def test_cond_and_while():
    def either(backend):
        layer = replace(LAYER, backend=backend)

        def run(state, x):
            state = jax.lax.fori_loop(0, 3, lambda _, s: layer.apply(PARAMS, s, x)[0], state)
            return jax.lax.cond(x[0, 0, 0] > 0, lambda s: layer.apply(PARAMS, s, x)[0], lambda s: s, state)

        return run

    compare_under(either, STATE, X)
    compare_under(either, STATE, -X)


def test_a_donated_state_is_used_up_and_changes_nothing():
    layer = LSTM(N, backend="cpu")
    expected = jax.jit(layer.apply)(PARAMS, STATE, X)
    state = jax.tree.map(jnp.copy, STATE)
    got = jax.jit(layer.apply, donate_argnums=1)(PARAMS, state, X)
    cases.same_bits(got, expected)
    assert state.h.is_deleted()
    assert state.c.is_deleted()


def test_without_jit():
    layer = replace(LAYER, backend="cpu")
    agree(layer.apply(PARAMS, STATE, X), replace(LAYER, backend="xla").apply(PARAMS, STATE, X))
    agree(*(jax.grad(partial(loss, replace(LAYER, backend=b)))(PARAMS, STATE, X) for b in ("cpu", "xla")))


# --- other platforms, and artifacts ---------------------------------------------------------------------------------


def gradient(backend):
    return jax.jit(jax.grad(partial(loss, replace(LAYER, backend=backend))))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_auto_lowers_to_the_scan_elsewhere(platform):
    traced = gradient("auto").trace(PARAMS, STATE, X)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.while" in text
    assert "custom_call" not in text
    assert "jlstm_backward" in traced.lower().as_text()  # here it is the kernel
    with pytest.raises(ValueError, match='backend must be "auto" or "xla" to export or to lower'):
        gradient("cpu").trace(PARAMS, STATE, X).lower(lowering_platforms=(platform,))


def test_auto_exports_the_scan():
    run = gradient("auto")
    exported = export.export(run, platforms=["cpu", "cuda"])(PARAMS, STATE, X)
    assert "stablehlo.while" in exported.mlir_module()
    assert "custom_call" not in exported.mlir_module()
    flat = export.export(jax.jit(lambda h, c, x: LAYER.apply(PARAMS, LSTMState(h=h, c=c), x)[1]))(*STATE_AND_X)
    back = export.deserialize(flat.serialize())
    agree(back.call(*STATE_AND_X), replace(LAYER, backend="xla").apply(PARAMS, STATE, X)[1])
    with pytest.raises(ValueError, match='backend must be "auto" or "xla" to export'):
        export.export(gradient("cpu"))(PARAMS, STATE, X)


STATE_AND_X = (STATE.h, STATE.c, X)


# --- edges -----------------------------------------------------------------------------------------------------------


def test_disable_jit():
    layer = replace(LAYER, backend="cpu")
    with jax.disable_jit():
        got = layer.apply(PARAMS, STATE, X)
    cases.close(got, jax.jit(layer.apply)(PARAMS, STATE, X), **cases.SAME)


def test_gradients_of_a_cond_mapped_over_its_predicate():
    def gradients(layer, x, taken):
        def f(params):
            return jax.lax.cond(taken, lambda p: loss(layer, p, STATE, x), lambda p: 0.0 * jnp.sum(p.kernel), params)

        return jax.grad(f)(PARAMS)

    xs, taken = jnp.stack([X, 2 * X]), jnp.array([True, False])
    cpu, xla = (
        jax.jit(jax.vmap(partial(gradients, replace(LAYER, backend=backend))))(xs, taken) for backend in ("cpu", "xla")
    )
    agree(cpu, xla)


def test_vmap_over_no_example():
    layer = replace(LAYER, backend="cpu")
    _, y = jax.vmap(lambda x: layer.apply(PARAMS, STATE, x))(jnp.zeros((0, *X.shape)))
    assert y.shape == (0, B, T, N)


def test_inputs_of_no_width():
    params = LSTMParams(jnp.zeros((0, 4 * N)), PARAMS.recurrent_kernel, PARAMS.bias)
    x = jnp.zeros((B, T, 0))
    cpu, xla = (replace(LAYER, backend=backend).apply(params, STATE, x) for backend in ("cpu", "xla"))
    agree(cpu, xla)


def test_a_state_of_mixed_dtypes_is_left_to_the_scan():
    mixed = LSTMState(h=STATE.h, c=STATE.c.astype("bfloat16"))
    state, _ = LAYER.apply(PARAMS, mixed, X)
    assert (state.h.dtype, state.c.dtype) == ("float32", "bfloat16")
    with pytest.raises(ValueError, match="keeps the state in float32, not bfloat16"):
        replace(LAYER, backend="cpu").apply(PARAMS, mixed, X)
