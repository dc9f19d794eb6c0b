"""inspect: every gate and cell of every step against the oracle, in every kind of layer."""

from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from test_variant import VARIANTS

from jlstm import LSTM, Bidirectional, Directions, LSTMParams, LSTMState, LSTMTrace, Stack, Variant, inspect

B, T, D, N = 3, 5, 2, 4
X, MASK, LENGTHS = cases.inputs(0, B, T, D), cases.bools(1, B, T), np.array([5, 0, 3])


@partial(jax.jit, static_argnums=0)
def run(layer, params, state, x, options):
    return inspect(layer, params, state, x, **options)


def expected(weights, state, x, *, mask=None, reset=None, go_backwards=False, **fields):
    """The trace that the oracle gives: gates NaN at masked steps, c and h as they were kept there."""
    record = []
    reference.lstm(weights, state, x, mask=mask, reset=reset, go_backwards=go_backwards, record=record, **fields)
    steps, (B, T, _) = iter(record), x.shape
    (_, P), N = state[0].shape, state[1].shape[1]
    gates, c, h = np.full((4, B, T, N), np.nan), np.zeros((B, T, N)), np.zeros((B, T, P))
    for b in range(B):
        h_now, c_now = state[0][b], state[1][b]
        for t in reversed(range(T)) if go_backwards else range(T):
            if reset is not None and reset[b, t]:
                h_now, c_now = np.zeros(P), np.zeros(N)
            if mask is None or mask[b, t]:
                gates[:, b, t], c_now, h_now = next(steps)
            c[b, t], h[b, t] = c_now, h_now
    assert next(steps, None) is None
    return LSTMTrace(*gates, c=c, h=h)


def test_a_linear_cell_by_hand():
    # x = 2, h = 1, c = 3, all activations linear: i = 3, f = 4, g = 1, o = 2, c' = 4·3 + 3·1 = 15, h' = 2·15 = 30
    params = LSTMParams(jnp.array([[1, 2, -1, 0.5]]), jnp.array([[1.0, -1, 2, 3]]), jnp.array([0.0, 1, 1, -2]))
    layer = LSTM(1, activation="linear", recurrent_activation="linear")
    trace = inspect(layer, params, LSTMState(jnp.ones((1, 1)), 3 * jnp.ones((1, 1))), jnp.full((1, 1, 1), 2.0))
    assert [float(getattr(trace, name)[0, 0, 0]) for name in "ifgoch"] == [3, 4, 1, 2, 15, 30]


@pytest.mark.parametrize("fields", [{}, *VARIANTS.values()], ids=["plain", *VARIANTS])
def test_gates_and_cells_are_those_of_the_oracle(fields):
    width = fields.get("projection")
    weights = cases.weights(2, D, N, width, peephole=fields.get("peephole", False), projection=bool(width))
    state, reset = cases.state(3, B, N, width), cases.bools(4, B, T, p=0.2)
    options = {"mask": jnp.asarray(MASK), "reset": jnp.asarray(reset)}
    got = run(
        LSTM(N, variant=Variant(**fields)), cases.params(weights), cases.lstm_state(state), cases.array(X), options
    )
    cases.close(got, expected(weights, state, X, mask=MASK, reset=reset, **fields), **cases.F32)


def test_a_reset_starts_from_the_state_given():
    weights, state, fresh = cases.weights(2, D, N), cases.state(3, B, N), cases.state(4, B, N)
    reset = np.zeros((B, T), bool)
    reset[:, 2] = True
    options = {"reset": jnp.asarray(reset), "reset_state": cases.lstm_state(fresh)}
    got = run(LSTM(N), cases.params(weights), cases.lstm_state(state), cases.array(X), options)
    parts = expected(weights, state, X[:, :2]), expected(weights, fresh, X[:, 2:])
    cases.close(got, jax.tree.map(lambda a, b: np.concatenate([a, b], axis=1), *parts), **cases.F32)


@pytest.mark.parametrize("keep_order", [False, True])
def test_time_is_in_the_order_of_the_input_backwards_too(keep_order):
    weights, state = cases.weights(2, D, N), cases.state(3, B, N)
    layer = LSTM(N, go_backwards=True, keep_order=keep_order)
    got = run(layer, cases.params(weights), cases.lstm_state(state), cases.array(X), {"mask": jnp.asarray(MASK)})
    cases.close(got, expected(weights, state, X, mask=MASK, go_backwards=True), **cases.F32)


def test_layers_of_a_stack_and_both_directions():
    made = [cases.weights(5, D, 3), cases.weights(6, D, 3), cases.weights(7, 6, N)]
    states = [cases.state(8, B, 3), cases.state(9, B, 3), cases.state(10, B, N)]
    layer = Stack((Bidirectional(LSTM(3, return_sequences=True)), LSTM(N, go_backwards=True)))
    params = Directions(*map(cases.params, made[:2])), cases.params(made[2])
    state = Directions(*map(cases.lstm_state, states[:2])), cases.lstm_state(states[2])
    got = run(layer, params, state, cases.array(X), {"lengths": jnp.asarray(LENGTHS)})
    mask = np.arange(T) < LENGTHS[:, None]
    _, y = reference.bidirectional(made[:2], states[:2], X, lengths=LENGTHS)
    wanted = (
        Directions(
            expected(made[0], states[0], X, mask=mask),
            expected(made[1], states[1], X, mask=mask, go_backwards=True),
        ),
        expected(made[2], states[2], y, mask=mask, go_backwards=True),
    )
    cases.close(got, wanted, **cases.F32)


def test_the_last_cell_and_output_are_those_of_apply():
    # in bfloat16 over a float32 state, with options of the layer that no cell knows
    layer = LSTM(N, dtype="bfloat16", zero_output_for_mask=True, recurrent_dropout=0.5, remat_every=2)
    params = layer.init(jax.random.key(0), D)
    state = layer.initial_state(B)
    x, lengths = cases.array(X), jnp.asarray(LENGTHS)
    both = jax.jit(lambda *a: (inspect(layer, *a, lengths=lengths), layer.apply(*a, lengths=lengths)[0]))
    trace, after = both(params, state, x)
    cases.close(LSTMState(trace.h[:, -1], trace.c[:, -1]), after, **cases.BF16)
    assert trace.c.dtype == jnp.float32


def test_what_padding_holds_reaches_nothing():
    layer = LSTM(N)
    params, state = layer.init(jax.random.key(0), D), layer.initial_state(B)
    x = np.where(MASK[:, :, None], X, np.nan)
    clean, got = (inspect(layer, params, state, cases.array(a), mask=jnp.asarray(MASK)) for a in (np.nan_to_num(x), x))
    cases.same_bits(got, clean)
    assert np.isfinite(got.c).all()
    assert (np.isnan(got.f).all(axis=2) == ~MASK).all()


def test_all_layers_of_a_stack_run_by_xla_and_so_forward_mode_works():
    layer = Stack((Bidirectional(LSTM(2, return_sequences=True)), LSTM(N)))
    params, state = layer.init(jax.random.key(0), D), layer.initial_state(B)

    def top(x):
        return inspect(layer, params, state, x)[1].h.sum()

    x, step = cases.array(X), 1e-2
    slope = jax.jit(lambda x: jax.jvp(top, (x,), (x,))[1])(x)
    higher, lower = (jax.jit(top)((1 + s) * x) for s in (step, -step))
    np.testing.assert_allclose(slope, (higher - lower) / (2 * step), rtol=1e-2)


def test_a_trace_fulfils_the_equations_of_its_docstring():
    layer = LSTM(N, variant=Variant(projection=3, output_activation="relu", peephole=True))
    params, state = layer.init(jax.random.key(0), D), layer.initial_state(B)
    reset = np.zeros((B, T), bool)
    reset[:, 2] = True
    trace = run(layer, params, state, cases.array(X), {"reset": jnp.asarray(reset)})
    before = np.concatenate([np.zeros((B, 1, N)), trace.c[:, :-1]], axis=1) * ~reset[:, :, None]
    np.testing.assert_allclose(trace.c, trace.f * before + trace.i * trace.g, rtol=1e-5, atol=1e-6)
    h = trace.o * np.maximum(trace.c, 0) @ np.asarray(params.projection)
    np.testing.assert_allclose(trace.h, h, rtol=1e-5, atol=1e-6)


def test_errors_are_those_of_apply():
    layer = Bidirectional(LSTM(N))
    params, state = layer.init(jax.random.key(0), D), layer.initial_state(B)
    with pytest.raises(TypeError, match="layer must be LSTM or Bidirectional or Stack, got 'LSTM'"):
        inspect("LSTM", params, state, cases.array(X))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"x must have shape \[B, T, 2\], got \[3, 5, 1\]"):
        inspect(layer, params, state, cases.array(X[:, :, :1]))
    with pytest.raises(ValueError, match="reset must be None for Bidirectional"):
        inspect(layer, params, state, cases.array(X), reset=jnp.asarray(MASK))
    with pytest.raises(ValueError, match=r"lengths must be in \[0, 5\], got 5 to 6"):
        inspect(layer, params, state, cases.array(X), lengths=np.array([5, 6, 5]))
