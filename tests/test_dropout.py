"""Dropout: which masks are drawn, where they enter, and how often they drop."""

import math
from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jlstm import LSTM, Bidirectional, LSTMParams, LSTMState, Stack
from jlstm.dropout import lstm_dropout_masks

B, T, N = 4, 5, 6
KEY = jax.random.key(7)
LINEAR = {"activation": "linear", "recurrent_activation": "linear", "return_sequences": True}
ONE_GATE = {"i": 0, "f": 1, "g": 2, "o": 3}


@partial(jax.jit, static_argnums=0)
def apply(layer, params, state, x, key=None, mask=None):
    return layer.apply(params, state, x, key=key, mask=mask)


def through(gate, recurrent):
    """Weights under which, with linear activations, the named gate is its kernel's identity and h or c shows it.

    c' = f c + i g and h' = o c'. The gates that do not look at x or h are 1 by their bias, f is 0 but where it is
    looked at (then i g is 0 and c = 1 to begin with).
    """
    values = {"i": 1.0, "f": 0.0, "g": 1.0, "o": 1.0} if gate != "f" else {"i": 0.0, "f": 1.0, "g": 0.0, "o": 1.0}
    values[gate] = 0.0
    kernels = jnp.zeros((2, N, 4, N)).at[int(recurrent), :, ONE_GATE[gate]].set(jnp.eye(N))
    return LSTMParams(
        kernel=kernels[0].reshape(N, 4 * N),
        recurrent_kernel=kernels[1].reshape(N, 4 * N),
        bias=jnp.repeat(jnp.array([values[g] for g in "ifgo"]), N),
    )


def seen(layer, gate, *, recurrent=False, key=KEY, batch=B):
    """What a gate saw of an x (or an h) of ones at the first step, that is its mask [B, N]; and c and h after it."""
    state = LSTMState(h=jnp.ones((batch, N)), c=jnp.ones((batch, N)))
    x = jnp.zeros((batch, 1, N)) if recurrent else jnp.ones((batch, 1, N))
    _, y = apply(layer, through(gate, recurrent), state, x, key)
    return np.asarray(y[:, 0])


@pytest.mark.parametrize(
    ("fields", "one_for_all"),
    [
        ({"dropout": 0.5}, True),
        ({"dropout": 0.5, "implementation": 1}, False),
        ({"dropout": 0.5, "recurrent_dropout": 0.25}, False),
    ],
)
def test_input_masks_of_the_gates(fields, one_for_all):
    layer = LSTM(N, **fields, **LINEAR)
    masks = [seen(layer, gate, batch=32) for gate in "ifgo"]
    for mask in masks:
        assert set(np.unique(mask)) == {0, 2}  # inverted scaling: 1 / (1 - 0.5)
        assert len({row.tobytes() for row in mask}) > 16  # 64 masks a row: rows draw their own
    equal = [np.array_equal(masks[0], mask) for mask in masks[1:]]
    assert equal == [one_for_all] * 3


@pytest.mark.parametrize("implementation", [1, 2])
def test_recurrent_masks_are_four(implementation):
    layer = LSTM(N, recurrent_dropout=0.5, implementation=implementation, **LINEAR)
    masks = [seen(layer, gate, recurrent=True, batch=32) for gate in "ifgo"]
    assert len({mask.tobytes() for mask in masks}) == 4
    for mask in masks:
        assert set(np.unique(mask)) == {0, 2}


def test_input_masks_are_shared_by_all_steps():
    layer = LSTM(N, dropout=0.5, **LINEAR)
    zeros = LSTMState(h=jnp.zeros((B, N)), c=jnp.zeros((B, N)))
    _, y = apply(layer, through("g", False), zeros, jnp.ones((B, T, N)), KEY)
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], (B, T, N)))
    assert set(np.unique(y)) == {0, 2}


def test_the_recurrent_mask_multiplies_h_only_where_it_enters_the_gates():
    # g sees h ∘ m, so h after t steps is mᵗ: 2ᵗ or 0, the same mask each time
    layer = LSTM(N, recurrent_dropout=0.5, **LINEAR)
    ones = LSTMState(h=jnp.ones((B, N)), c=jnp.ones((B, N)))
    _, y = apply(layer, through("g", True), ones, jnp.zeros((B, T, N)), KEY)
    kept = np.asarray(y[:, 0]) == 2
    assert 0 < kept.sum() < kept.size
    for t in range(T):
        np.testing.assert_array_equal(y[:, t], np.where(kept, 2.0 ** (t + 1), 0))
    # a masked step hands the state on as it is
    state, _ = apply(layer, through("g", True), ones, jnp.zeros((B, T, N)), KEY, jnp.zeros((B, T), bool))
    cases.same_bits(state, ones)


@pytest.mark.parametrize(
    ("dropout", "recurrent_dropout", "implementation"), [(0.3, 0.0, 2), (0.3, 0.0, 1), (0.2, 0.4, 2)]
)
def test_apply_with_the_masks_drawn_matches_the_oracle(dropout, recurrent_dropout, implementation):
    D = 3
    layer = LSTM(
        N,
        dropout=dropout,
        recurrent_dropout=recurrent_dropout,
        implementation=implementation,
        return_sequences=True,
    )
    masks = lstm_dropout_masks(KEY, layer, B, D, "float32")
    drawn = [None if mask is None else np.asarray(mask, np.float64) for mask in (masks.input, masks.recurrent)]
    weights, state, x = cases.weights(1, D, N), cases.state(2, B, N), cases.inputs(3, B, T, D)
    (h, c), y = reference.lstm(weights, state, x, input_mask=drawn[0], recurrent_mask=drawn[1])
    got = apply(layer, cases.params(weights), cases.lstm_state(state), cases.array(x), KEY)
    cases.close(got, (LSTMState(h=h, c=c), y), **cases.F32)


@pytest.mark.parametrize("rate", [0.1, 0.7])
def test_masks_drop_at_the_rate_and_keep_the_mean(rate):
    layer = LSTM(50, dropout=rate, recurrent_dropout=rate)
    masks = lstm_dropout_masks(KEY, layer, 40, 50, "float32")
    assert (masks.input.shape, masks.recurrent.shape) == ((40, 4, 50), (40, 4, 50))
    for mask in masks.input, masks.recurrent:
        n = mask.size
        dropped = np.mean(np.asarray(mask) == 0)
        assert abs(dropped - rate) < 5 * math.sqrt(rate * (1 - rate) / n)  # five standard errors
        np.testing.assert_allclose(np.max(mask), 1 / (1 - rate), rtol=1e-6)
        assert abs(np.mean(mask) - 1) < 5 * math.sqrt(rate / (1 - rate) / n)
    assert np.any(masks.input != masks.recurrent)


def test_no_key_means_no_dropout_and_no_rate_means_no_draw():
    D = 3
    params, state = cases.params(cases.weights(1, D, N)), cases.lstm_state(cases.state(2, B, N))
    x = cases.array(cases.inputs(3, B, T, D))
    plain = LSTM(N, return_sequences=True)
    dropping = LSTM(N, return_sequences=True, dropout=0.5, recurrent_dropout=0.5)
    expected = apply(plain, params, state, x)
    cases.same_bits(apply(dropping, params, state, x), expected)
    cases.same_bits(apply(plain, params, state, x, KEY), expected)
    assert np.any(apply(dropping, params, state, x, KEY)[1] != expected[1])


def test_the_key_decides():
    layer = LSTM(N, dropout=0.5, **LINEAR)
    first, again, other = (seen(layer, "g", key=jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_dropout_is_differentiated_through_its_masks():
    layer = LSTM(N, dropout=0.5, **LINEAR)
    zeros = LSTMState(h=jnp.zeros((B, N)), c=jnp.zeros((B, N)))

    def loss(x):
        return jnp.sum(layer.apply(through("g", False), zeros, x, key=KEY)[1])

    np.testing.assert_array_equal(jax.grad(loss)(jnp.ones((B, 1, N)))[:, 0], seen(layer, "g"))


def primitives(jaxpr, inside=False):
    """The names of all primitives inside of scans, at any depth."""
    for equation in jaxpr.eqns:
        loop = inside or equation.primitive.name in ("scan", "while")
        if inside:
            yield equation.primitive.name
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from primitives(inner, loop)


SCANNED = LSTM(N, return_sequences=True, dropout=0.5, backend="xla")


@pytest.mark.parametrize(
    "layer",
    [
        LSTM(N, dropout=0.5, recurrent_dropout=0.5, backend="xla"),
        Stack((SCANNED, LSTM(N, recurrent_dropout=0.5, backend="xla")), dropout=0.5),
        Bidirectional(LSTM(N, dropout=0.5, backend="xla")),
    ],
)
def test_nothing_random_is_drawn_inside_the_scan(layer):
    params, state = layer.init(KEY, 3), layer.initial_state(B)
    traced = jax.make_jaxpr(lambda key, x: layer.apply(params, state, x, key=key))(KEY, jnp.ones((B, T, 3)))
    inside = set(primitives(traced.jaxpr))
    assert "dot_general" in inside  # the search sees the loop's body
    assert not {name for name in inside if "random" in name or "threefry" in name}
    assert "random_bits" in str(traced)


# --- of layers made of layers ---------------------------------------------------------------------------------------


def test_stack_dropout_is_drawn_for_every_step_and_not_after_the_last_layer():
    copy = LSTM(N, **LINEAR)
    layer = Stack((copy, copy), dropout=0.5)
    params = through("g", False)
    state = layer.initial_state(B)
    x = jnp.ones((B, T, N))
    _, y = apply(layer, (params, params), state, x, KEY)
    y = np.asarray(y)
    assert set(np.unique(y)) == {0, 2}
    assert any(np.any(y[:, t] != y[:, 0]) for t in range(1, T))
    dropped = np.mean(y == 0)
    assert abs(dropped - 0.5) < 5 * 0.5 / math.sqrt(y.size)
    np.testing.assert_array_equal(apply(layer, (params, params), state, x)[1], x)
    lone = Stack((copy,), dropout=0.5)
    np.testing.assert_array_equal(apply(lone, (params,), lone.initial_state(B), x, KEY)[1], x)
    three = Stack((copy, copy, copy), dropout=0.5)
    _, y = apply(three, (params,) * 3, three.initial_state(B), x, KEY)
    assert set(np.unique(y)) == {0, 4}  # two masks, one below each layer but the first, drawn apart
    assert abs(np.mean(np.asarray(y) == 0) - 0.75) < 5 * math.sqrt(0.75 * 0.25 / y.size)


def test_stack_step_drops_between_layers():
    copy = LSTM(N, **LINEAR)
    layer = Stack((copy, copy), dropout=0.5)
    params = through("g", False)
    _, y = layer.step((params, params), layer.initial_state(B), jnp.ones((B, N)), key=KEY)
    assert set(np.unique(y)) == {0, 2}


def test_layers_and_directions_draw_their_own_masks():
    copy = LSTM(N, dropout=0.5, **LINEAR)
    params = through("g", False)
    x = jnp.ones((B, 1, N))
    pair = Bidirectional(copy, merge_mode=None)
    both = type(pair.initial_state(B))(forward=params, backward=params)
    _, (forward, backward) = apply(pair, both, pair.initial_state(B), x, KEY)
    assert np.any(forward != backward)
    stack = Stack((copy, copy))
    _, y = apply(stack, (params, params), stack.initial_state(B), x, KEY)
    assert set(np.unique(y)) == {0, 4}
    assert abs(np.mean(np.asarray(y) == 0) - 0.75) < 5 * math.sqrt(0.75 * 0.25 / y.size)


def test_step_drops_by_its_key():
    layer = LSTM(N, dropout=0.5, **LINEAR)
    state = LSTMState(h=jnp.zeros((B, N)), c=jnp.zeros((B, N)))
    _, y = layer.step(through("g", False), state, jnp.ones((B, N)), key=KEY)
    assert set(np.unique(y)) == {0, 2}


def test_dropout_with_a_mask_full_of_nan_padding():
    layer = LSTM(N, dropout=0.5, recurrent_dropout=0.5)
    params, state = cases.params(cases.weights(1, 3, N)), cases.lstm_state(cases.state(2, B, N))
    mask = jnp.asarray(np.arange(T) < np.array([5, 3, 1, 0])[:, None])
    x = jnp.where(mask[..., None], cases.array(cases.inputs(3, B, T, 3)), jnp.nan)

    @partial(jax.value_and_grad, argnums=(0, 1))
    def loss(params, x):
        return jnp.sum(apply(layer, params, state, x, KEY, mask)[1] ** 2)

    value, grads = loss(params, x)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((value, grads)))
