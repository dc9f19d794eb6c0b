"""Bidirectional and Stack: merges, directions, padding, nesting, and what goes to which layer."""

import json
from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jlstm import L1, L2, LSTM, Bidirectional, Directions, LSTMState, NonNeg, Stack

B, T, D, N = 3, 5, 2, 3
X = cases.inputs(1, B, T, D)
MASK = np.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [1, 1, 1, 0, 0]], bool)
LENGTHS = np.array([5, 0, 3], "int32")
FORWARD, BACKWARD = cases.weights(2, D, N), cases.weights(3, D, N)
STATES = cases.state(4, B, N), cases.state(5, B, N)
LENGTHS_MASK = np.arange(T) < LENGTHS[:, None]


@partial(jax.jit, static_argnums=0)
def apply(layer, params, state, x, options):
    return layer.apply(params, state, x, **options)


def run(layer, params=None, state=None, x=X, **options):
    params = Directions(cases.params(FORWARD), cases.params(BACKWARD)) if params is None else params
    state = Directions(*map(cases.lstm_state, STATES)) if state is None else state
    return apply(layer, params, state, cases.array(x), {k: jnp.asarray(v) for k, v in options.items()})


def as_state(pair):
    return LSTMState(h=pair[0], c=pair[1])


@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("padding", ["none", "mask", "lengths"])
def test_bidirectional_matches_the_oracle(merge_mode, return_sequences, padding):
    options = {"mask": {"mask": MASK}, "lengths": {"lengths": LENGTHS}, "none": {}}[padding]
    layer = Bidirectional(LSTM(N, return_sequences=return_sequences), merge_mode=merge_mode)
    (forward, backward), y = reference.bidirectional(
        (FORWARD, BACKWARD), STATES, X, merge_mode=merge_mode, return_sequences=return_sequences, **options
    )
    cases.close(run(layer, **options), (Directions(as_state(forward), as_state(backward)), y), **cases.F32)


def test_backward_outputs_are_in_the_order_of_the_input():
    state, (_, y) = run(Bidirectional(LSTM(N, return_sequences=True), merge_mode=None))
    np.testing.assert_array_equal(y[:, 0], state.backward.h)  # the final state is the one after reading x[0]
    turned = LSTM(N, return_sequences=True).apply(
        cases.params(BACKWARD), cases.lstm_state(STATES[1]), cases.array(X[:, ::-1])
    )
    cases.close(y[:, ::-1], turned[1], **cases.SAME)


@pytest.mark.parametrize("layer", [LSTM(N, return_sequences=True), LSTM(N, return_sequences=True, go_backwards=True)])
def test_the_order_options_of_the_backward_layer_do_not_matter(layer):
    # the outputs are turned round once, whatever keep_order says
    backward = LSTM(N, return_sequences=True, go_backwards=True, keep_order=layer.go_backwards)
    got = run(Bidirectional(LSTM(N, return_sequences=True), backward))
    cases.same_bits(got, run(Bidirectional(LSTM(N, return_sequences=True))))


def test_with_lengths_the_backward_direction_starts_at_the_last_valid_step():
    state, y = run(Bidirectional(LSTM(N, return_sequences=True)), lengths=LENGTHS)
    for b, length in enumerate(LENGTHS):
        row = slice(b, b + 1)
        cut = [tuple(part[row] for part in pair) for pair in STATES]
        (forward, backward), expected = reference.bidirectional((FORWARD, BACKWARD), cut, X[row, :length])
        np.testing.assert_allclose(y[b, :length], expected[0], **cases.F32)
        assert not np.any(y[b, length:])
        np.testing.assert_allclose(state.backward.h[b], backward[0][0], **cases.F32)
        np.testing.assert_allclose(state.backward.c[b], backward[1][0], **cases.F32)
        np.testing.assert_allclose(state.forward.c[b], forward[1][0], **cases.F32)


@pytest.mark.parametrize("merge_mode", ["concat", "mul"])
def test_outputs_at_masked_steps_are_zeros_when_sequences_are_returned(merge_mode):
    _, y = run(Bidirectional(LSTM(N, return_sequences=True), merge_mode=merge_mode), mask=MASK)
    assert not np.any(y[~MASK])
    assert np.all(y[MASK] != 0)


def test_nan_in_padding_reaches_neither_values_nor_gradients():
    layer = Bidirectional(LSTM(N, return_sequences=True))
    state = Directions(*map(cases.lstm_state, STATES))

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1))
    def loss(params, x):
        state_out, y = layer.apply(params, state, x, mask=jnp.asarray(MASK))
        return jnp.sum(y**2) + jnp.sum(state_out.backward.c**2)

    params = Directions(cases.params(FORWARD), cases.params(BACKWARD))
    clean = loss(params, cases.array(np.where(MASK[..., None], X, 0)))
    cases.same_bits(loss(params, cases.array(np.where(MASK[..., None], X, np.nan))), clean)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(clean))


def test_two_directions_may_differ():
    wide = cases.weights(3, D, 4)
    layer = Bidirectional(LSTM(N), LSTM(4, go_backwards=True, activation="softsign"))
    assert layer.output_size == N + 4
    states = STATES[0], cases.state(5, B, 4)
    _, y = run(
        layer,
        Directions(cases.params(FORWARD), cases.params(wide)),
        Directions(*map(cases.lstm_state, states)),
    )
    _, expected = reference.bidirectional(
        (FORWARD, wide), states, X, return_sequences=False, backward_options={"activation": "softsign"}
    )
    np.testing.assert_allclose(y, expected, **cases.F32)


def test_init_draws_the_two_directions_from_different_keys():
    params = Bidirectional(LSTM(N)).init(jax.random.key(0), D)
    assert np.all(params.forward.kernel != params.backward.kernel)
    assert np.all(params.forward.recurrent_kernel != params.backward.recurrent_kernel)


def test_bidirectional_without_steps():
    layer = Bidirectional(LSTM(N, return_sequences=True))
    state, y = run(layer, x=X[:, :0])
    cases.same_bits(state, Directions(*map(cases.lstm_state, STATES)))
    assert y.shape == (B, 0, 2 * N)


def test_penalties_and_constraints_of_both_directions():
    layer = Bidirectional(
        LSTM(N, kernel_regularizer=L1(0.5), activity_regularizer=L1(1.0), kernel_constraint=NonNeg()),
        LSTM(N, kernel_regularizer=L2(0.5), activity_regularizer=L2(2.0), go_backwards=True),
    )
    params = Directions(cases.params(FORWARD), cases.params(BACKWARD))
    expected = 0.5 * np.abs(FORWARD["kernel"]).sum() + 0.5 * (BACKWARD["kernel"] ** 2).sum()
    np.testing.assert_allclose(layer.penalty(params), expected, rtol=1e-6)
    y = cases.inputs(9, B, 2 * N)
    expected = (np.abs(y[:, :N]).sum() + 2 * (y[:, N:] ** 2).sum()) / B
    np.testing.assert_allclose(layer.activity_penalty(cases.array(y)), expected, rtol=1e-6)
    constrained = layer.constrain(params)
    np.testing.assert_array_equal(constrained.forward.kernel, np.maximum(params.forward.kernel, 0))
    cases.same_bits(constrained.backward, params.backward)


def test_activity_penalty_of_a_pair_and_of_a_merge():
    regularized = LSTM(N, activity_regularizer=L1(1.0))
    y = cases.array(cases.inputs(8, B, N)), cases.array(cases.inputs(9, B, N))
    pair = Bidirectional(regularized, merge_mode=None)
    np.testing.assert_allclose(pair.activity_penalty(y), (np.abs(y[0]).sum() + np.abs(y[1]).sum()) / B, rtol=1e-6)
    with pytest.raises(ValueError, match=r"^forward\.activity_regularizer must be None with merge_mode='sum'"):
        Bidirectional(regularized, merge_mode="sum").activity_penalty(y[0])
    assert Bidirectional(LSTM(N), merge_mode="sum").activity_penalty(y[0]).tolist() == 0


# --- Stack ----------------------------------------------------------------------------------------------------------

SECOND = cases.weights(6, N, 4)
STACK = Stack((LSTM(N, return_sequences=True), LSTM(4, return_sequences=True)))
STACK_PARAMS = cases.params(FORWARD), cases.params(SECOND)
STACK_STATES = STATES[0], cases.state(7, B, 4)
RESET = np.array([[0, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]], bool)


def stacked(**options):
    """The oracle, layer by layer; reset_state as a pair of pairs."""
    reset_states = options.pop("reset_state", (None, None))
    first, y = reference.lstm(FORWARD, STACK_STATES[0], X, reset_state=reset_states[0], **options)
    second, y = reference.lstm(SECOND, STACK_STATES[1], y, reset_state=reset_states[1], **options)
    return (as_state(first), as_state(second)), y


@pytest.mark.parametrize("padding", ["none", "mask", "lengths"])
@pytest.mark.parametrize("reset", ["none", "reset", "reset_state"])
def test_stack_hands_everything_to_every_layer(padding, reset):
    options = {"mask": {"mask": MASK}, "lengths": {"lengths": LENGTHS}, "none": {}}[padding]
    given = {k: jnp.asarray(v) for k, v in options.items()}
    if reset != "none":
        options, given = options | {"reset": RESET}, given | {"reset": jnp.asarray(RESET)}
    if reset == "reset_state":
        pairs = cases.state(8, B, N), cases.state(9, B, 4)
        options, given = options | {"reset_state": pairs}, given | {"reset_state": tuple(map(cases.lstm_state, pairs))}
    states = tuple(map(cases.lstm_state, STACK_STATES))
    cases.close(apply(STACK, STACK_PARAMS, states, cases.array(X), given), stacked(**options), **cases.F32)


def test_calls_of_step_equal_apply():
    state, ys = tuple(map(cases.lstm_state, STACK_STATES)), []
    step = jax.jit(STACK.step)
    for t in range(T):
        state, y = step(STACK_PARAMS, state, cases.array(X[:, t]), reset=jnp.asarray(RESET[:, t]))
        ys.append(y)
    cases.close((state, jnp.stack(ys, axis=1)), stacked(reset=RESET), **cases.F32)


def test_the_last_layer_decides_what_is_returned():
    last = Stack((LSTM(N, return_sequences=True), LSTM(4)))
    states = tuple(map(cases.lstm_state, STACK_STATES))
    _, y = apply(last, STACK_PARAMS, states, cases.array(X), {"mask": jnp.asarray(MASK)})
    (_, second), _ = stacked(mask=MASK)
    np.testing.assert_allclose(y, second.h, **cases.F32)
    assert not last.return_sequences
    assert last.output_size == 4


def test_stack_of_bidirectional_with_a_mask_matches_the_oracle():
    sizes = (N, 2 * N)
    weights = [(cases.weights(n, size, N), cases.weights(n + 9, size, N)) for n, size in enumerate((D, sizes[1]))]
    states = [(cases.state(n + 20, B, N), cases.state(n + 30, B, N)) for n in range(2)]
    layer = Stack((Bidirectional(LSTM(N, return_sequences=True)), Bidirectional(LSTM(N))))
    got = apply(
        layer,
        tuple(Directions(*map(cases.params, pair)) for pair in weights),
        tuple(Directions(*map(cases.lstm_state, pair)) for pair in states),
        cases.array(X),
        {"mask": jnp.asarray(MASK)},
    )
    first, y = reference.bidirectional(weights[0], states[0], X, mask=MASK)
    second, y = reference.bidirectional(weights[1], states[1], y, mask=MASK, return_sequences=False)
    expected = tuple(Directions(*map(as_state, pair)) for pair in (first, second))
    cases.close(got, (expected, y), **cases.F32)


def test_a_backward_layer_below_another_hands_on_what_it_returns():
    lower = LSTM(N, return_sequences=True, go_backwards=True)
    states = tuple(map(cases.lstm_state, STACK_STATES))
    for keep_order in (False, True):
        layer = Stack((LSTM.from_dict(lower.to_dict() | {"keep_order": keep_order}), LSTM(4)))
        _, y = apply(layer, STACK_PARAMS, states, cases.array(X), {})
        _, below = reference.lstm(FORWARD, STACK_STATES[0], X, go_backwards=True, keep_order=keep_order)
        _, expected = reference.lstm(SECOND, STACK_STATES[1], below, return_sequences=False)
        np.testing.assert_allclose(y, expected, **cases.F32)


def test_nested_stacks_compute_what_the_flat_one_computes():
    flat = Stack((LSTM(N, return_sequences=True), LSTM(N, return_sequences=True), LSTM(4)))
    nested = Stack((Stack(flat.layers[:2]), flat.layers[2]))
    params = flat.init(jax.random.key(0), D)
    state, y = apply(flat, params, flat.initial_state(B), cases.array(X), {"mask": jnp.asarray(MASK)})
    nested_params = (params[:2], params[2])
    nested_state, nested_y = apply(
        nested, nested_params, nested.initial_state(B), cases.array(X), {"mask": jnp.asarray(MASK)}
    )
    cases.close(((*nested_state[0], nested_state[1]), nested_y), (state, y), **cases.SAME)
    assert jax.tree.structure(nested.init(jax.random.key(0), D)) == jax.tree.structure(nested_params)


def test_init_draws_every_layer_from_its_own_key_and_for_its_own_input():
    layer = Stack((Bidirectional(LSTM(N, return_sequences=True)), LSTM(N, return_sequences=True), LSTM(N)))
    params = layer.init(jax.random.key(0), D)
    assert params[0].forward.kernel.shape == (D, 4 * N)
    assert params[1].kernel.shape == (2 * N, 4 * N)
    assert params[2].kernel.shape == (N, 4 * N)
    assert np.all(params[1].recurrent_kernel != params[2].recurrent_kernel)


def test_penalties_and_constraints_of_all_layers():
    layer = Stack(
        (
            LSTM(N, return_sequences=True, kernel_regularizer=L1(0.5), bias_constraint="non_neg"),
            LSTM(4, recurrent_regularizer=L2(0.5), activity_regularizer=L1(1.0)),
        )
    )
    expected = 0.5 * np.abs(FORWARD["kernel"]).sum() + 0.5 * (SECOND["recurrent_kernel"] ** 2).sum()
    np.testing.assert_allclose(layer.penalty(STACK_PARAMS), expected, rtol=1e-6)
    y = cases.inputs(9, B, 4)
    np.testing.assert_allclose(layer.activity_penalty(cases.array(y)), np.abs(y).sum() / B, rtol=1e-6)
    constrained = layer.constrain(STACK_PARAMS)
    np.testing.assert_array_equal(constrained[0].bias, np.maximum(STACK_PARAMS[0].bias, 0))
    cases.same_bits(constrained[1], STACK_PARAMS[1])


def test_activity_penalty_of_a_layer_below_another_raises():
    layer = Stack((LSTM(N, return_sequences=True, activity_regularizer="l1"), LSTM(4)))
    with pytest.raises(ValueError, match=r"^layers\[0\]\.activity_regularizer must be None below another layer"):
        layer.activity_penalty(jnp.zeros((B, 4)))


def test_a_rate_of_numpys_is_kept_as_pythons():
    stack = Stack((LSTM(2),), dropout=np.float32(0.5))  # pyright: ignore[reportArgumentType]
    assert type(stack.dropout) is float
    assert json.loads(json.dumps(stack.to_dict()))["dropout"] == 0.5
