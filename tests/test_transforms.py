"""JAX's transformations: vmap, jvp, second order, remat, export with symbolic shapes, lowering for other platforms."""

import re
from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax import export
from jax.flatten_util import ravel_pytree

from jlstm import LSTM, Bidirectional, LSTMState, Stack, Variant

B, T, D, N = 2, 4, 2, 3
LAYER = LSTM(N, return_sequences=True)
WEIGHTS, STATE, X = cases.weights(1, D, N), cases.state(2, B, N), cases.inputs(3, B, T, D)
MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 0]], bool)


def loss(layer, params, state, x, mask=None):
    state, y = layer.apply(params, state, x, mask=mask)
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves((state, y)))


def drawn(layer, seed=0, batch=B, size=D):
    params, state = layer.init(jax.random.key(seed), size), layer.initial_state(batch)
    return params, jax.tree.map(lambda a: a + 0.1, state)


# --- derivatives ----------------------------------------------------------------------------------------------------


def test_gradients_match_finite_differences_of_the_oracle():
    def oracle(weights, x):
        (h, c), y = reference.lstm(weights, STATE, x, mask=MASK)
        return np.sum(h**2) + np.sum(c**2) + np.sum(y**2)

    grads = jax.jit(jax.grad(partial(loss, LAYER), argnums=(0, 2)))(
        cases.params(WEIGHTS), cases.lstm_state(STATE), cases.array(X), jnp.asarray(MASK)
    )
    eps = 1e-6
    for name, weight in WEIGHTS.items():
        for index in np.random.default_rng(0).choice(weight.size, 5, replace=False):
            values = []
            for sign in (1, -1):
                moved = weight.copy()
                moved.flat[index] += sign * eps
                values.append(oracle({**WEIGHTS, name: moved}, X))
            got = np.asarray(getattr(grads[0], name)).flat[index]
            # the difference quotient is good to 1e-8 or so: float32 sets the tolerance
            np.testing.assert_allclose(got, (values[0] - values[1]) / (2 * eps), rtol=2e-4, atol=1e-4)
    for index in ((0, 0, 1), (0, 2, 0), (1, 1, 0), (1, 3, 1)):  # (0, 2) and (1, 3) are masked
        values = []
        for sign in (1, -1):
            moved = X.copy()
            moved[index] += sign * eps
            values.append(oracle(WEIGHTS, moved))
        np.testing.assert_allclose(grads[1][index], (values[0] - values[1]) / (2 * eps), rtol=2e-4, atol=1e-4)


def test_second_order_and_forward_mode_agree():
    layer = LSTM(2, backend="xla", remat_every=2, variant=Variant(peephole=True))
    with jax.enable_x64(True):
        params, state = drawn(layer)
        params, state = jax.tree.map(lambda a: a.astype("float64"), (params, state))
        flat, unravel = ravel_pytree(params)

        def f(flat):
            return loss(layer, unravel(flat), state, jnp.asarray(X), jnp.asarray(MASK))

        v = jnp.asarray(cases.inputs(7, flat.size))
        grad = jax.jit(jax.grad(f))
        slope = jax.jit(lambda p: jax.jvp(f, (p,), (v,))[1])(flat)
        forward_over_reverse = jax.jit(lambda p: jax.jvp(jax.grad(f), (p,), (v,))[1])(flat)
        reverse_over_reverse = jax.jit(jax.grad(lambda p: jax.grad(f)(p) @ v))(flat)
        # a central difference of step 1e-5 in float64 is good to about 1e-9
        difference = (grad(flat + 1e-5 * v) - grad(flat - 1e-5 * v)) / 2e-5
        np.testing.assert_allclose(slope, grad(flat) @ v, rtol=1e-10)
        np.testing.assert_allclose(forward_over_reverse, reverse_over_reverse, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(difference, forward_over_reverse, rtol=1e-6, atol=1e-7)
        assert np.max(np.abs(difference)) > 1e-2


def test_hessian_is_symmetric_and_equals_jacfwd_of_jacrev():
    layer, params = LSTM(1), cases.params(cases.weights(1, 1, 1))
    flat, unravel = ravel_pytree(params)

    def f(flat):
        return loss(layer, unravel(flat), layer.initial_state(1), cases.array(cases.inputs(3, 1, 3, 1)))

    @jax.jit
    def both(flat):
        return jax.jacrev(jax.grad(f))(flat), jax.hessian(f)(flat)

    reverse, hessian = both(flat)
    assert reverse.shape == (12, 12)
    assert np.all(np.diag(reverse) != 0)
    np.testing.assert_allclose(reverse, reverse.T, **cases.F32_GRAD)
    np.testing.assert_allclose(reverse, hessian, **cases.F32_GRAD)


@pytest.mark.parametrize("wrap", [jax.checkpoint, jax.jit, lambda f: jax.checkpoint(jax.jit(f))])
def test_remat_of_the_whole_layer_changes_nothing(wrap):
    arguments = cases.params(WEIGHTS), cases.lstm_state(STATE), cases.array(X)
    plain = jax.jit(jax.value_and_grad(partial(loss, LAYER)))(*arguments)
    wrapped = jax.jit(jax.value_and_grad(wrap(partial(loss, LAYER))))(*arguments)
    cases.close(wrapped, plain, **cases.SAME)


# --- vmap -----------------------------------------------------------------------------------------------------------


def test_vmap_over_params_is_an_ensemble():
    members = 3
    keys = jax.random.split(jax.random.key(0), members)
    x, state = cases.array(X), LAYER.initial_state(B)
    of_one = jax.value_and_grad(partial(loss, LAYER))
    params = jax.jit(jax.vmap(lambda key: LAYER.init(key, D)))(keys)
    values, grads = jax.jit(jax.vmap(of_one, in_axes=(0, None, None)))(params, state, x)
    assert len(set(values.tolist())) == members
    alone = jax.jit(of_one)
    for n in range(members):
        member, of_member = jax.tree.map(lambda a, n=n: a[n], (params, (values, grads)))
        cases.close(of_member, alone(member, state, x), **cases.F32_GRAD)
    cases.close(member, LAYER.init(keys[-1], D), **cases.SAME)


def test_vmap_over_a_further_batch_axis():
    x, mask = cases.inputs(5, 3, B, T, D), cases.bools(6, 3, B, T)
    h, c = cases.state(7, (3, B), N)
    run = jax.jit(jax.vmap(lambda state, x, mask: LAYER.apply(cases.params(WEIGHTS), state, x, mask=mask)))
    state, y = run(cases.lstm_state((h, c)), cases.array(x), jnp.asarray(mask))
    for n in range(3):
        (want_h, want_c), want_y = reference.lstm(WEIGHTS, (h[n], c[n]), x[n], mask=mask[n])
        cases.close((state.h[n], state.c[n], y[n]), (want_h, want_c, want_y), **cases.F32)


def test_scan_over_a_layer_with_its_state_as_carry():
    chunks = cases.array(X).reshape(B, 2, T // 2, D).swapaxes(0, 1)
    body = partial(LAYER.apply, cases.params(WEIGHTS))
    state, ys = jax.jit(lambda s, xs: jax.lax.scan(body, s, xs))(cases.lstm_state(STATE), chunks)
    (h, c), y = reference.lstm(WEIGHTS, STATE, X)
    cases.close((state, ys.swapaxes(0, 1).reshape(B, T, N)), (LSTMState(h=h, c=c), y), **cases.F32)


def test_the_same_call_gives_the_same_bits():
    arguments = cases.params(WEIGHTS), cases.lstm_state(STATE), cases.array(X)
    run = jax.jit(jax.value_and_grad(partial(loss, LAYER)))
    first = run(*arguments)
    for _ in range(3):
        cases.same_bits(run(*arguments), first)


# --- tracing with symbolic sizes, and for other platforms -----------------------------------------------------------

EXPORTED = {
    "LSTM": LSTM(N, return_sequences=True, zero_output_for_mask=True),
    "backwards": LSTM(N, return_sequences=True, go_backwards=True),
    "last output, variant": LSTM(N, variant=Variant(peephole=True, projection=2)),
    "Bidirectional": Bidirectional(LSTM(N, return_sequences=True)),
    "Stack": Stack((Bidirectional(LSTM(N, return_sequences=True)), LSTM(N))),
}


@pytest.mark.parametrize("padding", ["mask", "lengths"])
@pytest.mark.parametrize("layer", EXPORTED.values(), ids=EXPORTED)
def test_symbolic_batch_and_time(layer, padding):
    params = layer.init(jax.random.key(0), D)

    @jax.jit
    def run(x, valid):
        return jax.tree.leaves(layer.apply(params, layer.initial_state(x.shape[0]), x, **{padding: valid}))

    b, t = export.symbolic_shape("b, t")
    of_valid = ((b, t), "bool") if padding == "mask" else ((b,), "int32")
    exported = export.export(run)(jax.ShapeDtypeStruct((b, t, D), "float32"), jax.ShapeDtypeStruct(*of_valid))
    for batch, steps in ((2, 4), (3, 1)):
        x = cases.array(cases.inputs(1, batch, steps, D))
        mask = cases.bools(2, batch, steps)
        valid = jnp.asarray(mask) if padding == "mask" else jnp.asarray(mask.sum(1), "int32")
        cases.close(exported.call(x, valid), run(x, valid), **cases.SAME)


def test_symbolic_batch_and_time_with_resets():
    (b, t) = export.symbolic_shape("b, t")
    params = cases.params(WEIGHTS)

    def run(x, reset):
        return LAYER.apply(params, LAYER.initial_state(x.shape[0]), x, reset=reset)[1]

    exported = export.export(jax.jit(run))(
        jax.ShapeDtypeStruct((b, t, D), "float32"), jax.ShapeDtypeStruct((b, t), "bool")
    )
    for batch, steps in ((2, 4), (3, 1)):
        x, reset = cases.inputs(1, batch, steps, D), cases.bools(2, batch, steps)
        _, expected = reference.lstm(WEIGHTS, [np.zeros((batch, N))] * 2, x, reset=reset)
        np.testing.assert_allclose(exported.call(cases.array(x), jnp.asarray(reset)), expected, **cases.F32)


def test_symbolic_batch_of_a_step():
    (b,) = export.symbolic_shape("b")
    params = cases.params(WEIGHTS)

    def run(h, c, x):
        state, y = LAYER.step(params, LSTMState(h=h, c=c), x)
        return state.h, state.c, y

    sizes = [jax.ShapeDtypeStruct((b, size), "float32") for size in (N, N, D)]
    exported = export.export(jax.jit(run))(*sizes)
    for batch in (1, 5):
        h, c = cases.state(1, batch, N)
        x = cases.inputs(2, batch, 1, D)
        (h1, c1), y = reference.lstm(WEIGHTS, (h, c), x)
        cases.close(exported.call(*map(cases.array, (h, c, x[:, 0]))), (h1, c1, y[:, 0]), **cases.F32)


@pytest.mark.parametrize("platform", ["cuda", "tpu", "rocm"])
def test_lowers_for_other_platforms(platform):
    layer = Stack((Bidirectional(LSTM(N, return_sequences=True, dropout=0.5)), LSTM(N, recurrent_dropout=0.5)))
    params, state = drawn(layer)

    def step(params, x, key, lengths):
        return (
            jax.grad(lambda p: jnp.sum(layer.apply(p, state, x, lengths=lengths, key=key)[1]))(params)
            .__getitem__(1)
            .bias
        )

    arguments = (params, jnp.ones((B, T, D)), jax.random.PRNGKey(0), jnp.array([T, 2]))
    sizes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    lowered = jax.jit(step).trace(*sizes).lower(lowering_platforms=(platform,))
    assert "stablehlo.while" in lowered.as_text()


def test_exports_for_several_platforms_at_once():
    params = cases.params(WEIGHTS)

    def run(x):
        return LAYER.apply(params, LAYER.initial_state(B), x)[1]

    exported = export.export(jax.jit(run), platforms=["cpu", "cuda", "tpu"])(jnp.ones((B, T, D)))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    back = export.deserialize(exported.serialize())
    np.testing.assert_allclose(back.call(cases.array(X)), run(cases.array(X)), **cases.SAME)


@pytest.mark.parametrize(("B", "T"), [(8, 5), (1, 1)])
def test_forwards_the_scan_compiles_to_the_textbook_scan(B, T):
    """With two products a step, and with no loop for one step; so it is no slower than what others write."""
    layer = LSTM(16, return_sequences=True, backend="xla")
    params, x = layer.init(jax.random.key(0), 3), jnp.ones((B, T, 3))

    def ours(params, x):
        state, y = layer.apply(params, layer.initial_state(B), x)
        return y, state.h, state.c

    def textbook(params, x):
        def step(state, x):
            h, c = state
            z = x @ params.kernel + h @ params.recurrent_kernel + params.bias[None]
            i, f, g, o = jnp.split(z, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros((B, 16))
        (h, c), y = jax.lax.scan(step, (zeros, zeros), jnp.swapaxes(x, 0, 1))
        return jnp.swapaxes(y, 0, 1), h, c

    def instructions(f):
        text = jax.jit(f).lower(params, x).compile().as_text()
        return sorted(re.findall(r"= (\w+\[[\d,]*\])\S* ([\w-]+)\(", text))

    assert instructions(ours) == instructions(textbook)
