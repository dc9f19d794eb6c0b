"""One step of one example: hand-worked numbers, the oracle, dtypes, and what `units` couples."""

import math
from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jlstm import LSTM, DropoutMasks, LSTMParams, LSTMState, lstm_cell, lstm_scan


def one_unit(kernel, recurrent, bias):
    """Weights of one unit with one input, the four gates in the order i, f, g, o."""
    return LSTMParams(
        kernel=jnp.array([kernel], "float32"),
        recurrent_kernel=jnp.array([recurrent], "float32"),
        bias=jnp.array(bias, "float32"),
    )


def one_state(h, c):
    return LSTMState(h=jnp.array([h], "float32"), c=jnp.array([c], "float32"))


def test_linear_cell_by_hand():
    # x = 2, h = 1, c = 3, all activations linear:
    #   i =  1·2 + 1·1 + 0 =  3
    #   f =  2·2 - 1·1 + 1 =  4
    #   g = -1·2 + 2·1 + 1 =  1
    #   o = ½·2 + 3·1 - 2 =  2
    #   c' = f c + i g = 12 + 3 = 15,  h' = o c' = 30
    params = one_unit([1, 2, -1, 0.5], [1, -1, 2, 3], [0, 1, 1, -2])
    state, h = lstm_cell(params, one_state(1, 3), jnp.array([2.0]), activation="linear", recurrent_activation="linear")
    assert state.c.tolist() == [15]
    assert state.h.tolist() == [30]
    assert h.tolist() == [30]


def test_default_cell_by_hand():
    # σ(log 3) = 3/4, σ(0) = 1/2, σ(-log 3) = 1/4, tanh(½ log 3) = 1/2: with zero kernels the bias alone decides
    #   c' = ¾ · 1 + ½ · ½ = 1,  h' = ¼ tanh(1) = 0.190398538988941
    log3 = math.log(3)
    params = one_unit([0] * 4, [0] * 4, [0, log3, log3 / 2, -log3])
    state, h = lstm_cell(params, one_state(0.3, 1), jnp.array([7.0]))
    np.testing.assert_allclose(state.c, [1.0], rtol=1e-6)
    np.testing.assert_allclose(h, [0.190398538988941], rtol=1e-6)


def test_two_units_read_each_other_by_hand():
    # g of unit 0 reads h of unit 1 and the other way round; i = 1, f = 0, o = 1, linear: c' = h' = h swapped
    recurrent = jnp.zeros((2, 8)).at[1, 4].set(1.0).at[0, 5].set(1.0)
    bias = jnp.array([1.0, 1, 0, 0, 0, 0, 1, 1])
    params = LSTMParams(kernel=jnp.zeros((1, 8)), recurrent_kernel=recurrent, bias=bias)
    state = LSTMState(h=jnp.array([5.0, -3.0]), c=jnp.zeros(2))
    _, h = lstm_cell(params, state, jnp.zeros(1), activation="linear", recurrent_activation="linear")
    assert h.tolist() == [-3, 5]


@pytest.mark.parametrize(
    ("activation", "recurrent_activation"),
    [
        ("tanh", "sigmoid"),
        ("tanh", "hard_sigmoid"),
        ("tanh", "hard_sigmoid_keras2"),
        ("relu", "sigmoid"),
        ("softsign", "elu"),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_matches_the_oracle(activation, recurrent_activation, bias):
    D, N = 3, 4
    weights, (h, c), x = cases.weights(1, D, N, bias=bias), cases.state(2, (), N), cases.inputs(3, D)
    options = {"activation": activation, "recurrent_activation": recurrent_activation}
    state, y = lstm_cell(cases.params(weights), cases.lstm_state((h, c)), cases.array(x), **options)
    expected_h, expected_c = reference.cell(weights, h, c, x, **options)
    np.testing.assert_allclose(state.h, expected_h, **cases.F32)
    np.testing.assert_allclose(state.c, expected_c, **cases.F32)
    np.testing.assert_allclose(y, expected_h, **cases.F32)


def test_partial_of_params_is_a_scan_body():
    weights, pair, xs = cases.weights(1, 3, 4), cases.state(2, (), 4), cases.inputs(3, 6, 3)
    params, state, xs = cases.params(weights), cases.lstm_state(pair), cases.array(xs)
    cases.close(jax.lax.scan(partial(lstm_cell, params), state, xs), lstm_scan(params, state, xs), **cases.SAME)


@pytest.mark.parametrize("four", [False, True])
def test_dropout_masks_multiply_what_the_gates_read(four):
    D, N = 3, 4
    weights, (h, c), x = cases.weights(1, D, N), cases.state(2, (), N), cases.inputs(3, D)
    input_mask = 2.0 * cases.bools(4, *((4, D) if four else (D,)))
    recurrent_mask = 2.0 * cases.bools(5, 4, N)
    masks = DropoutMasks(input=cases.array(input_mask), recurrent=cases.array(recurrent_mask))
    state, _ = lstm_cell(cases.params(weights), cases.lstm_state((h, c)), cases.array(x), dropout_masks=masks)
    expected = reference.cell(weights, h, c, x, input_mask=input_mask, recurrent_mask=recurrent_mask)
    cases.close((state.h, state.c), expected, **cases.F32)


# --- what units are -------------------------------------------------------------------------------------------------


def jacobian(params, state, x):
    """dh'/dh, [N, N]."""
    return jax.jacrev(lambda h: lstm_cell(params, LSTMState(h=h, c=state.c), x)[1])(state.h)


def diagonal(recurrent):
    """Keep the diagonal of each gate's [N, N]."""
    N = recurrent.shape[0]
    return (recurrent.reshape(N, 4, N) * np.eye(N)[:, None, :]).reshape(N, 4 * N)


def test_units_are_coupled_by_a_dense_recurrent_kernel_and_not_by_a_diagonal_one():
    D, N = 2, 3
    weights = cases.weights(1, D, N)
    state, x = cases.lstm_state(cases.state(2, (), N)), cases.array(cases.inputs(3, D))
    dense = np.asarray(jacobian(cases.params(weights), state, x))
    assert np.all(np.abs(dense) > 1e-4)
    weights["recurrent_kernel"] = diagonal(weights["recurrent_kernel"])
    lone = np.asarray(jacobian(cases.params(weights), state, x))
    assert np.all(lone[~np.eye(N, dtype=bool)] == 0)
    assert np.all(np.abs(np.diag(lone)) > 1e-4)


def test_a_diagonal_recurrent_kernel_is_n_independent_one_unit_lstms():
    D, N, T = 2, 3, 5
    weights = cases.weights(1, D, N)
    weights["recurrent_kernel"] = diagonal(weights["recurrent_kernel"])
    h, c = cases.state(2, (), N)
    xs = cases.array(cases.inputs(3, T, D))
    together = lstm_scan(cases.params(weights), cases.lstm_state((h, c)), xs)
    for n in range(N):
        of_n = np.arange(4) * N + n
        lone = {
            "kernel": weights["kernel"][:, of_n],
            "recurrent_kernel": weights["recurrent_kernel"][[n]][:, of_n],
            "bias": weights["bias"][of_n],
        }
        state, hs = lstm_scan(cases.params(lone), cases.lstm_state((h[[n]], c[[n]])), xs)
        cases.close(
            (state.h[0], state.c[0], hs[:, 0]), (together[0].h[n], together[0].c[n], together[1][:, n]), **cases.SAME
        )


@pytest.mark.parametrize(("D", "N", "T"), [(1, 5, 3), (7, 2, 3), (3, 4, 1)])
def test_units_are_free_of_input_width_and_of_steps(D, N, T):
    params = LSTM(N).init(jax.random.key(0), D)
    state, hs = lstm_scan(params, LSTMState(h=jnp.zeros(N), c=jnp.zeros(N)), jnp.ones((T, D)))
    assert hs.shape == (T, N)
    assert state.c.shape == (N,)
    assert params.kernel.shape == (D, 4 * N)  # whatever T: one block


# --- dtypes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("h_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("c_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("x_dtype", ["float32", "bfloat16", "float16"])
def test_state_dtype_in_is_state_dtype_out(h_dtype, c_dtype, x_dtype):
    weights, (h, c), x = cases.weights(1, 3, 4), cases.state(2, (), 4), cases.inputs(3, 3)
    state = LSTMState(h=jnp.asarray(h, h_dtype), c=jnp.asarray(c, c_dtype))
    new, y = lstm_cell(cases.params(weights), state, jnp.asarray(x, x_dtype))
    assert (new.h.dtype, new.c.dtype, y.dtype) == (h_dtype, c_dtype, x_dtype)
    cases.close((new.h, new.c), reference.cell(weights, h, c, x), **cases.BF16)
    cases.close(y, reference.cell(weights, h, c, x)[0], **cases.BF16)


def test_bfloat16_products_leave_a_float32_state_its_bits():
    # i = f = o = 1, g = 2⁻¹⁰, linear: c grows by 2⁻¹⁰ a step, which a bfloat16 c of 1 would never see (its step is 2⁻⁷)
    params = one_unit([0] * 4, [0] * 4, [1, 1, 2**-10, 1])
    options = {"activation": "linear", "recurrent_activation": "linear"}
    state, hs = lstm_scan(params, one_state(0, 1), jnp.zeros((64, 1), "bfloat16"), **options)
    assert state.c.tolist() == [1 + 64 * 2**-10]
    assert state.h.tolist() == [1 + 64 * 2**-10]
    assert hs.dtype == "bfloat16"
    assert hs[-1].tolist() == [1.0625]


def test_float64_matches_the_oracle_to_rounding():
    with jax.enable_x64(True):
        weights, (h, c), x = cases.weights(1, 3, 4), cases.state(2, (), 4), cases.inputs(3, 3)
        params, state = cases.params(weights, "float64"), cases.lstm_state((h, c), "float64")
        new, y = lstm_cell(params, state, jnp.asarray(x))
        assert y.dtype == "float64"
        cases.close((new.h, new.c), reference.cell(weights, h, c, x), **cases.F64)


def test_numpy_arrays_are_taken():
    weights, (h, c), x = cases.weights(1, 3, 4), cases.state(2, (), 4), cases.inputs(3, 3)
    as_float32 = {name: value.astype("float32") for name, value in weights.items()}
    state, y = lstm_cell(
        LSTMParams(**as_float32), LSTMState(h=h.astype("float32"), c=c.astype("float32")), x.astype("float32")
    )
    expected_h, expected_c = reference.cell(weights, h, c, x)
    cases.close((state.h, state.c, y), (expected_h, expected_c, expected_h), **cases.F32)
