"""The LSTM spec: batches, masks and lengths, return_sequences, direction, streaming, initialisation, penalties."""

import math
from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import jlstm
from jlstm import L1, L1L2, L2, LSTM, Chrono, LSTMParams, LSTMState, MaxNorm, NonNeg, Orthogonal

B, T, D, N = 4, 6, 3, 5
WEIGHTS = cases.weights(1, D, N)
STATE = cases.state(2, B, N)
RESET_STATE = cases.state(3, B, N)
X = cases.inputs(4, B, T, D)
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 0, 0, 1, 1, 0], [0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0]], bool)
LENGTHS = np.array([6, 4, 1, 0], "int32")
RESET = np.array([[0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 1], [1, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0]], bool)


@partial(jax.jit, static_argnums=0)
def apply(layer, params, state, x, options):
    return layer.apply(params, state, x, **options)


def run(layer, x=None, state=None, **options):
    options = {
        k: cases.lstm_state(v) if k == "reset_state" else jnp.asarray(v) for k, v in options.items() if v is not None
    }
    return apply(
        layer,
        cases.params(WEIGHTS),
        cases.lstm_state(STATE if state is None else state),
        cases.array(X if x is None else x),
        options,
    )


def expect(x=None, state=None, **options):
    (h, c), y = reference.lstm(WEIGHTS, STATE if state is None else state, X if x is None else x, **options)
    return LSTMState(h=h, c=c), y


@pytest.mark.parametrize(
    ("padding", "zero_output_for_mask"),
    [("none", False), ("mask", False), ("mask", True), ("lengths", False), ("lengths", True)],
)
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("direction", ["forwards", "backwards", "backwards in order", "with resets"])
def test_apply_matches_the_oracle(padding, return_sequences, zero_output_for_mask, direction):
    fields = {
        "return_sequences": return_sequences,
        "zero_output_for_mask": zero_output_for_mask,
        "go_backwards": direction.startswith("backwards"),
        "keep_order": direction == "backwards in order",
    }
    options = {"mask": {"mask": MASK}, "lengths": {"lengths": LENGTHS}, "none": {}}[padding]
    if direction == "with resets":
        options = {**options, "reset": RESET, "reset_state": RESET_STATE}
    cases.close(run(LSTM(N, **fields), **options), expect(**fields, **options), **cases.F32)


def test_return_sequences_false_gives_the_last_valid_output():
    # row 1 is last valid at step 4, row 2 at 5; row 3 is never valid: its output is the initial h
    state, y = run(LSTM(N), mask=MASK)
    _, ys = run(LSTM(N, return_sequences=True), mask=MASK)
    np.testing.assert_array_equal(y, ys[jnp.arange(3 + 1), jnp.array([5, 4, 5, 0])])
    np.testing.assert_array_equal(y[3], cases.array(STATE[0])[3])
    np.testing.assert_array_equal(y, state.h)
    # with zero_output_for_mask: zeros where the last step is masked
    _, y = run(LSTM(N, zero_output_for_mask=True), mask=MASK)
    assert np.all(y[0] != 0)
    assert np.all(y[2] != 0)
    assert not np.any(y[jnp.array([1, 3])])


def test_lengths_are_right_padding():
    as_mask = np.arange(T) < LENGTHS[:, None]
    layer = LSTM(N, return_sequences=True)
    cases.same_bits(run(layer, lengths=LENGTHS), run(layer, mask=as_mask))
    for dtype in ("int8", "uint8", "int16", "uint32"):
        cases.same_bits(run(layer, lengths=LENGTHS.astype(dtype)), run(layer, mask=as_mask))


def test_a_row_of_length_zero_keeps_its_state_and_gives_its_h():
    state, y = run(LSTM(N, return_sequences=True), lengths=LENGTHS)
    initial = cases.lstm_state(STATE)
    np.testing.assert_array_equal(state.h[3], initial.h[3])
    np.testing.assert_array_equal(state.c[3], initial.c[3])
    np.testing.assert_array_equal(y[3], jnp.broadcast_to(initial.h[3], (T, N)))
    _, y = run(LSTM(N), lengths=LENGTHS)
    np.testing.assert_array_equal(y[3], initial.h[3])
    for return_sequences in (True, False):
        _, y = run(LSTM(N, zero_output_for_mask=True, return_sequences=return_sequences), lengths=LENGTHS)
        assert not np.any(y[3])


@pytest.mark.parametrize("unroll", [False, True, 3])
def test_before_any_valid_step_the_output_is_the_initial_h(unroll):
    _, y = run(LSTM(N, return_sequences=True, unroll=unroll), mask=MASK)
    h = cases.array(STATE[0])
    np.testing.assert_array_equal(y[2, :2], jnp.broadcast_to(h[2], (2, N)))
    cases.close(y, expect(mask=MASK)[1], **cases.F32)


@pytest.mark.parametrize("padding", ["mask", "lengths"])
def test_nan_in_padding_reaches_nothing(padding):
    given = {"mask": jnp.asarray(MASK)} if padding == "mask" else {"lengths": jnp.asarray(LENGTHS)}
    valid = MASK if padding == "mask" else np.arange(T) < LENGTHS[:, None]
    layer = LSTM(N, return_sequences=True, zero_output_for_mask=True)

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1, 2))
    def loss(params, state, x):
        state, y = layer.apply(params, state, x, **given)
        return jnp.sum(y**2) + jnp.sum(state.c**2)

    arguments = cases.params(WEIGHTS), cases.lstm_state(STATE)
    clean = loss(*arguments, cases.array(np.where(valid[..., None], X, 0)))
    for garbage in (np.nan, np.inf):
        cases.same_bits(loss(*arguments, cases.array(np.where(valid[..., None], X, garbage))), clean)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(clean))


def test_go_backwards_returns_outputs_in_processing_order():
    state, y = run(LSTM(N, return_sequences=True, go_backwards=True))
    turned_state, turned = run(LSTM(N, return_sequences=True), x=X[:, ::-1])
    cases.close((state, y), (turned_state, turned), **cases.SAME)
    _, kept = run(LSTM(N, return_sequences=True, go_backwards=True, keep_order=True))
    np.testing.assert_array_equal(kept, y[:, ::-1])
    np.testing.assert_array_equal(kept[:, 0], state.h)  # the final state is the one after reading x[0]
    _, last = run(LSTM(N, go_backwards=True))
    np.testing.assert_array_equal(last, state.h)


def test_keep_order_does_nothing_forwards():
    cases.same_bits(run(LSTM(N, return_sequences=True, keep_order=True)), run(LSTM(N, return_sequences=True)))


def test_calls_of_step_equal_apply():
    layer = LSTM(N, return_sequences=True)
    params, x, reset = cases.params(WEIGHTS), cases.array(X), jnp.asarray(RESET)

    def stepped(params, state, x):
        ys = []
        for t in range(T):
            state, y = layer.step(params, state, x[:, t], reset=reset[:, t])
            ys.append(y)
        return state, jnp.stack(ys, axis=1)

    def whole(params, state, x):
        return layer.apply(params, state, x, reset=reset)

    def with_grads(function):
        def loss(*arguments):
            state, y = function(*arguments)
            return jnp.sum(y**2) + jnp.sum(state.c * state.h), (state, y)

        run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
        (_, outputs), grads = run(params, cases.lstm_state(STATE), x)
        return outputs, grads

    outputs, grads = with_grads(stepped)
    expected, expected_grads = with_grads(whole)
    cases.close(outputs, expected, **cases.SAME)
    cases.close(grads, expected_grads, **cases.F32_GRAD)


def test_a_reset_of_step_starts_the_row_from_zeros():
    layer, params, x_t = LSTM(N), cases.params(WEIGHTS), cases.array(X[:, 0])
    reset = jnp.array([True, False, True, False])
    got = layer.step(params, cases.lstm_state(STATE), x_t, reset=reset)
    kept = layer.step(params, cases.lstm_state(STATE), x_t)
    fresh = layer.step(params, layer.initial_state(B), x_t)
    cases.close(got, jax.tree.map(lambda a, b: jnp.where(reset[:, None], a, b), fresh, kept), **cases.SAME)


def test_a_reset_of_step_drops_a_state_of_nan_and_its_gradient():
    layer, params, x_t = LSTM(N), cases.params(WEIGHTS), cases.array(X[:, 0])

    def loss(state):
        return jnp.sum(layer.step(params, state, x_t, reset=jnp.ones(B, bool))[1])

    broken = jax.tree.map(lambda a: a * jnp.nan, cases.lstm_state(STATE))
    value, grad = jax.value_and_grad(loss)(broken)
    assert np.isfinite(value)
    assert not np.any(grad.h)
    assert not np.any(grad.c)


def test_stateful_means_passing_the_state_on():
    layer = LSTM(N, return_sequences=True)
    state, first = run(layer, x=X[:, :2])
    state, second = apply(layer, cases.params(WEIGHTS), state, cases.array(X[:, 2:]), {})
    cases.close((state, jnp.concatenate([first, second], axis=1)), run(layer), **cases.SAME)


@pytest.mark.parametrize(
    ("return_sequences", "zero_output_for_mask", "go_backwards"),
    [(True, True, False), (True, False, True), (False, True, False), (False, True, True), (False, False, False)],
)
def test_no_steps_return_the_state_given(return_sequences, zero_output_for_mask, go_backwards):
    layer = LSTM(
        N,
        return_sequences=return_sequences,
        zero_output_for_mask=zero_output_for_mask,
        go_backwards=go_backwards,
    )
    state, y = run(layer, x=X[:, :0], mask=MASK[:, :0])
    cases.same_bits(state, cases.lstm_state(STATE))
    if return_sequences:
        assert y.shape == (B, 0, N)
    else:  # with zero_output_for_mask a row without a valid step gives zeros, as one of length 0 does
        np.testing.assert_array_equal(y, np.zeros_like(state.h) if zero_output_for_mask else state.h)


def test_no_examples_give_no_examples():
    layer = LSTM(N, return_sequences=True)
    empty = tuple(part[:0] for part in STATE)
    state, y = run(layer, x=X[:0], state=empty, lengths=LENGTHS[:0])
    assert y.shape == (0, T, N)
    assert state.h.shape == (0, N)
    state, y = run(LSTM(N), x=X[:0], state=empty, reset=RESET[:0])
    assert y.shape == (0, N)


def test_rows_do_not_touch_each_other():
    layer = LSTM(N, return_sequences=True)
    state, y = run(layer, mask=MASK, reset=RESET)
    for b in range(B):
        row = slice(b, b + 1)
        alone = run(layer, x=X[row], state=[part[row] for part in STATE], mask=MASK[row], reset=RESET[row])
        cases.close(alone, (jax.tree.map(lambda a, row=row: a[row], state), y[row]), **cases.SAME)


def test_numpy_arrays_are_taken():
    layer = LSTM(N)
    as_float32 = LSTMParams(**{name: value.astype("float32") for name, value in WEIGHTS.items()})
    state = LSTMState(*(part.astype("float32") for part in STATE))
    got = layer.apply(as_float32, state, X.astype("float32"), mask=MASK, reset=RESET)
    cases.close(got, expect(mask=MASK, reset=RESET, return_sequences=False), **cases.F32)


# --- dtypes ---------------------------------------------------------------------------------------------------------


def test_dtype_of_computation_is_that_of_x_unless_given():
    params, state = cases.params(WEIGHTS), cases.lstm_state(STATE)
    for layer, x_dtype, y_dtype in (
        (LSTM(N), "float32", "float32"),
        (LSTM(N), "bfloat16", "bfloat16"),
        (LSTM(N, dtype="bfloat16"), "float32", "bfloat16"),
        (LSTM(N, dtype="float32"), "bfloat16", "float32"),
        (LSTM(N, return_sequences=True, zero_output_for_mask=True), "bfloat16", "bfloat16"),
    ):
        new, y = apply(layer, params, state, cases.array(X, x_dtype), {"mask": jnp.asarray(MASK)})
        assert (y.dtype, new.h.dtype, new.c.dtype) == (y_dtype, "float32", "float32")
        fields = {"return_sequences": layer.return_sequences, "zero_output_for_mask": layer.zero_output_for_mask}
        cases.close((new, y), expect(mask=MASK, **fields), **cases.BF16)
        new, y = layer.step(params, state, cases.array(X[:, 0], x_dtype))
        assert (y.dtype, new.h.dtype, new.c.dtype) == (y_dtype, "float32", "float32")


def test_gradients_of_float32_weights_are_float32_under_bfloat16():
    def loss(params, dtype):
        return jnp.sum(LSTM(N, dtype=dtype).apply(params, cases.lstm_state(STATE), cases.array(X))[0].h)

    grads, expected = (jax.grad(loss)(cases.params(WEIGHTS), dtype) for dtype in ("bfloat16", "float32"))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(grads)} == {"float32"}
    scale = max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(expected))
    cases.close(grads, expected, rtol=0.05, atol=0.02 * scale)


def test_initial_state_is_zeros_of_the_wide_dtype():
    for layer, dtype in (
        (LSTM(N), "float32"),
        (LSTM(N, dtype="bfloat16"), "float32"),
        (LSTM(N, dtype="bfloat16", param_dtype="bfloat16"), "float32"),
        (LSTM(N, param_dtype="float16"), "float32"),
    ):
        state = layer.initial_state(B)
        assert (state.h.dtype, state.c.dtype) == (dtype, dtype)
        assert (state.h.shape, state.c.shape) == ((B, N), (B, N))
        assert not np.any(state.h)
        assert not np.any(state.c)
    assert LSTM(N).initial_state(B, dtype="bfloat16").c.dtype == "bfloat16"
    with jax.enable_x64(True):
        assert LSTM(N, param_dtype="float64").initial_state(B).c.dtype == "float64"
        assert LSTM(N, dtype="float64").initial_state(B).h.dtype == "float64"


def test_float64_matches_the_oracle_to_rounding():
    with jax.enable_x64(True):
        layer = LSTM(N, return_sequences=True, param_dtype="float64")
        params, state = cases.params(WEIGHTS, "float64"), cases.lstm_state(STATE, "float64")
        got = layer.apply(params, state, jnp.asarray(X), mask=jnp.asarray(MASK), reset=jnp.asarray(RESET))
        assert got[1].dtype == "float64"
        cases.close(got, expect(mask=MASK, reset=RESET), **cases.F64)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(layer.init(jax.random.key(0), D))} == {"float64"}


# --- initialisation -------------------------------------------------------------------------------------------------


def test_init_draws_the_distributions_of_keras():
    params = LSTM(64).init(jax.random.key(0), 32)
    assert (params.kernel.shape, params.recurrent_kernel.shape, params.bias.shape) == ((32, 256), (64, 256), (256,))
    # glorot_uniform sees [D, 4N]: U(±sqrt(6/(32 + 256))), variance limit²/3
    limit = math.sqrt(6 / (32 + 256))
    assert np.max(np.abs(params.kernel)) <= limit
    assert np.max(np.abs(params.kernel)) > 0.999 * limit  # of 8192 draws the largest misses it by about 1/8192
    np.testing.assert_allclose(np.var(params.kernel), limit**2 / 3, rtol=0.05)  # 8192 draws: 1 % standard error
    # one orthogonal matrix [N, 4N], not four [N, N]: orthonormal rows
    gram = np.asarray(params.recurrent_kernel @ params.recurrent_kernel.T)
    np.testing.assert_allclose(gram, np.eye(64), atol=1e-5)  # QR in float32
    block = np.asarray(params.recurrent_kernel[:, :64])
    assert np.max(np.abs(block @ block.T - np.eye(64))) > 0.1
    np.testing.assert_array_equal(params.bias, np.repeat([0.0, 1, 0, 0], 64))
    assert params.peephole is None
    assert params.projection is None


def test_unit_forget_bias_writes_one_into_the_forget_slice_alone():
    def bias(units, **fields):
        layer = LSTM(units, kernel_initializer="zeros", recurrent_initializer="zeros", **fields)
        return layer.init(jax.random.key(0), 3).bias

    assert bias(2, bias_initializer=jlstm.Constant(0.25)).tolist() == [0.25, 0.25, 1, 1, 0.25, 0.25, 0.25, 0.25]
    assert bias(2, bias_initializer="ones", unit_forget_bias=False).tolist() == [1] * 8
    assert bias(2, use_bias=False) is None
    random = bias(50, bias_initializer="random_normal")
    assert np.all(random[50:100] == 1)
    others = np.concatenate([random[:50], random[100:]])
    assert len(np.unique(others)) == 150  # the pieces are drawn from keys of their own


def test_weights_are_not_touched_on_their_way_in():
    # a forget bias of 0 stays 0: unit_forget_bias is for init alone
    weights = {k: np.zeros_like(v) for k, v in WEIGHTS.items()}
    state, _ = LSTM(N).apply(
        cases.params(weights), LSTMState(h=jnp.zeros((B, N)), c=jnp.ones((B, N))), cases.array(X[:, :1])
    )
    np.testing.assert_array_equal(state.c, np.full((B, N), 0.5))  # σ(0) · 1


def test_init_depends_on_the_key_alone_and_on_all_of_it():
    layer = LSTM(N, bias_initializer="random_normal")
    first, again, other = (layer.init(jax.random.key(seed), D) for seed in (0, 0, 1))
    cases.same_bits(first, again)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
        assert np.any(a != b)
    square = LSTM(N, recurrent_initializer="glorot_uniform").init(jax.random.key(0), N)
    assert np.all(square.kernel != square.recurrent_kernel)


def test_init_takes_both_styles_of_key():
    cases.same_bits(LSTM(N).init(jax.random.PRNGKey(3), D), LSTM(N).init(jax.random.key(3), D))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_param_dtype(dtype):
    params = LSTM(N, param_dtype=dtype).init(jax.random.key(0), D)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {dtype}
    assert params.bias.tolist() == [0] * N + [1] * N + [0] * 2 * N


def test_chrono_sets_the_forget_slice_itself():
    T_max, n = 100, 2000
    for unit_forget_bias in (True, False):
        layer = LSTM(
            n,
            bias_initializer=Chrono(T_max),
            unit_forget_bias=unit_forget_bias,
            kernel_initializer="zeros",
            recurrent_initializer="zeros",
        )
        bias = layer.init(jax.random.key(0), 1).bias
        i, f, g, o = np.split(np.asarray(bias), 4)
        np.testing.assert_array_equal(i, -f)
        assert not np.any(g)
        assert not np.any(o)
        assert np.all((f >= 0) & (f <= math.log(T_max - 1)))
        # exp(f) is uniform on [1, 99]: mean 50, standard error 98/sqrt(12)/sqrt(2000) = 0.63
        np.testing.assert_allclose(np.mean(np.exp(f)), 50, atol=2.5)
        np.testing.assert_allclose(np.quantile(np.exp(f), [0.25, 0.75]), [25.5, 74.5], atol=4)


def test_torch_uniform_draws_every_tensor_from_one_limit():
    draw = jlstm.TorchUniform(64)
    layer = LSTM(64, kernel_initializer=draw, recurrent_initializer=draw, bias_initializer=draw, unit_forget_bias=False)
    for leaf in jax.tree.leaves(layer.init(jax.random.key(0), 9)):
        assert np.max(np.abs(leaf)) <= 1 / 8
        np.testing.assert_allclose(np.var(leaf), (1 / 8) ** 2 / 3, rtol=0.2)  # 256 draws at the least: 6 %


def test_a_callable_initializer_is_called_as_in_jax():
    layer = LSTM(N, kernel_initializer=jax.nn.initializers.constant(0.5))
    np.testing.assert_array_equal(layer.init(jax.random.key(0), D).kernel, np.full((D, 4 * N), 0.5))


# --- penalties and constraints --------------------------------------------------------------------------------------

SMALL = LSTMParams(
    kernel=jnp.array([[1.0, -2, 0, 0]]), recurrent_kernel=jnp.array([[3.0, 0, 0, -1]]), bias=jnp.array([0.0, 1, 0, -4])
)


def test_penalty_by_hand():
    layer = LSTM(1, kernel_regularizer=L1(0.1), recurrent_regularizer=L2(0.01), bias_regularizer=L1L2(0.1, 0.01))
    # 0.1 · 3 + 0.01 · (9 + 1) + 0.1 · 5 + 0.01 · (1 + 16) = 0.3 + 0.1 + 0.5 + 0.17
    np.testing.assert_allclose(layer.penalty(SMALL), 1.07, rtol=1e-6)
    np.testing.assert_allclose(LSTM(1, kernel_regularizer="l2").penalty(SMALL), 0.05, rtol=1e-6)
    np.testing.assert_allclose(LSTM(1, recurrent_regularizer="l1").penalty(SMALL), 0.04, rtol=1e-6)
    np.testing.assert_allclose(LSTM(1, bias_regularizer=lambda w: jnp.max(w)).penalty(SMALL), 1, rtol=1e-6)
    assert LSTM(1).penalty(SMALL).tolist() == 0


def test_penalty_without_bias_leaves_it_out():
    layer = LSTM(1, use_bias=False, bias_regularizer="l2", kernel_regularizer="l1")
    without = LSTMParams(kernel=SMALL.kernel, recurrent_kernel=SMALL.recurrent_kernel)
    np.testing.assert_allclose(layer.penalty(without), 0.03, rtol=1e-6)


def test_penalty_has_a_gradient():
    layer = LSTM(1, kernel_regularizer=L2(0.5))
    grad = jax.grad(layer.penalty)(SMALL)
    np.testing.assert_allclose(grad.kernel, SMALL.kernel, rtol=1e-6)
    assert not np.any(grad.bias)


def test_activity_penalty_is_divided_by_the_batch_size():
    y = jnp.array([[[1.0, -2], [3, 0]], [[0, 0], [0, 2]]])  # B = 2, T = 2
    np.testing.assert_allclose(LSTM(2, activity_regularizer=L1(0.5)).activity_penalty(y), 0.5 * 8 / 2, rtol=1e-6)
    np.testing.assert_allclose(LSTM(2, activity_regularizer=L2(0.5)).activity_penalty(y), 0.5 * 18 / 2, rtol=1e-6)
    np.testing.assert_allclose(LSTM(2, activity_regularizer="l1").activity_penalty(y[:, 0]), 0.01 * 3 / 2, rtol=1e-6)
    assert LSTM(2).activity_penalty(y).tolist() == 0


def test_constrain_by_hand():
    layer = LSTM(1, kernel_constraint=MaxNorm(1.0, axis=1), recurrent_constraint=NonNeg(), bias_constraint="non_neg")
    got = layer.constrain(SMALL)
    norm = math.sqrt(5)
    np.testing.assert_allclose(got.kernel, [[1 / norm, -2 / norm, 0, 0]], rtol=1e-5)
    np.testing.assert_array_equal(got.recurrent_kernel, [[3, 0, 0, 0]])
    np.testing.assert_array_equal(got.bias, [0, 1, 0, 0])
    cases.same_bits(LSTM(1).constrain(SMALL), SMALL)


def test_constrain_keeps_structure_and_dtype():
    layer = LSTM(
        2,
        use_bias=False,
        kernel_constraint="unit_norm",
        recurrent_constraint="min_max_norm",
        bias_constraint="max_norm",
        param_dtype="bfloat16",
    )
    params = layer.init(jax.random.key(0), 3)
    got = layer.constrain(params)
    assert jax.tree.structure(got) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(params), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_allclose(np.linalg.norm(got.kernel.astype("float32"), axis=0), 1, rtol=2e-2)


def test_orthogonal_is_a_matrix_of_orthonormal_rows_times_gain():
    w = np.asarray(Orthogonal(2.0)(jax.random.key(0), (4, 12), "float32"))
    np.testing.assert_allclose(w @ w.T, 4 * np.eye(4), atol=1e-5)
