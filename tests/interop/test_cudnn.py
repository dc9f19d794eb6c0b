"""jax.experimental.rnn's reference LSTM on flat vectors of weights, beside the specs made of them and back."""

from dataclasses import replace
from functools import partial

import jax
import jax.experimental.rnn as rnn
import jax.numpy as jnp
import numpy as np
import pytest
from jax_peer import drawn, normal, worst_error

from jlstm import LSTM, Bidirectional, Directions, LSTMParams, LSTMState, Stack, Variant
from jlstm.interop import from_cudnn, to_cudnn

TITLE = "cuDNN's flat weights (jax.experimental.rnn)"
LIMIT = 3e-5
B, T, D, N = 2, 4, 3, 5
SEQUENCES = LSTM(N, return_sequences=True)


def sizes(layers, bidirectional):
    return {"input_size": D, "hidden_size": N, "num_layers": layers, "bidirectional": bidirectional}


def parts(tree):
    """The LSTMParams or LSTMStates of a tree in cuDNN's order: layer by layer, forward before backward."""
    return jax.tree.leaves(tree, is_leaf=lambda a: isinstance(a, (LSTMParams, LSTMState)))


def compare(spec, params, weights, layers, bidirectional, lengths=None):
    """The worst error between a spec and lstm_ref, gradients with respect to the weights included."""
    state, x = drawn(spec, D, B, T)
    steps = jnp.full(B, T, jnp.int32) if lengths is None else lengths

    def ours(params, state, x):
        final, y = spec.apply(params, state, x, lengths=lengths)
        return parts(final), y

    def theirs(weights, state, x):
        h, c = (jnp.stack([getattr(part, name) for part in parts(state)]) for name in "hc")
        unpacked = rnn.unpack_lstm_weights(weights, **sizes(layers, bidirectional))
        y, h, c = rnn.lstm_ref(x, h, c, *unpacked, steps, D, N, layers, 0.0, bidirectional)
        return [LSTMState(h=a, c=b) for a, b in zip(h, c, strict=True)], y

    def convert(gradient):
        """By the library's own unpacking; both biases have the gradient of their sum."""
        unpacked = rnn.unpack_lstm_weights(gradient, **sizes(layers, bidirectional))
        W_ih, W_hh, b_ih, b_hh = (list(part.values()) for part in unpacked)
        np.testing.assert_array_equal(b_ih, b_hh)
        made = [LSTMParams(*(a.T for a in arrays)) for arrays in zip(W_ih, W_hh, b_ih, strict=True)]
        structure = jax.tree.structure(params, is_leaf=lambda a: isinstance(a, LSTMParams))
        return jax.tree.unflatten(structure, made)

    return worst_error((ours, params), (theirs, weights), convert, state, x)


def read(layers=1, bidirectional=False, **options):
    weights = 2 * rnn.init_lstm_weight(jax.random.key(0), **sizes(layers, bidirectional))
    return compare(*from_cudnn(weights, **sizes(layers, bidirectional)), weights, layers, bidirectional, **options)


def written(spec, layers=1, bidirectional=False):
    params = normal(jax.eval_shape(lambda key: spec.init(key, D), jax.random.key(0)), 0)
    return compare(spec, params, to_cudnn(spec, params), layers, bidirectional)


FEATURES = {
    ("from", "LSTM"): read,
    ("from", "layers"): partial(read, 2),
    ("from", "layers, bidirectional"): partial(read, 2, True),
    ("from", "layers, lengths"): partial(read, 2, lengths=jnp.array([4, 2], jnp.int32)),
    ("from", "bidirectional, lengths"): partial(read, 1, True, lengths=jnp.array([3, 4], jnp.int32)),
    ("to", "LSTM"): partial(written, SEQUENCES),
    ("to", "layers, nested"): partial(written, Stack((SEQUENCES, Stack((SEQUENCES, SEQUENCES)))), 3),
    ("to", "layers, bidirectional"): partial(written, Stack((Bidirectional(SEQUENCES),) * 2), 2, True),
}


@pytest.mark.lenient
@pytest.mark.parametrize(("direction", "feature"), FEATURES)
def test_agrees(direction, feature):
    assert FEATURES[direction, feature]() < LIMIT


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_round_trip_keeps_the_weights(layers, bidirectional):
    """Every bit of the matrices; of the two biases their sum, in the first."""
    options = sizes(layers, bidirectional)
    weights = rnn.init_lstm_weight(jax.random.key(0), **options)
    again = to_cudnn(*from_cudnn(weights, **options))
    assert again.shape == weights.shape
    assert again.dtype == weights.dtype
    before, after = (rnn.unpack_lstm_weights(a, **options) for a in (weights, again))
    for n in range(layers * (1 + bidirectional)):
        np.testing.assert_array_equal(after[0][n], before[0][n])
        np.testing.assert_array_equal(after[1][n], before[1][n])
        np.testing.assert_array_equal(after[2][n], before[2][n] + before[3][n])
        np.testing.assert_array_equal(after[3][n], 0)


def test_specs_come_out_as_the_sizes_say():
    def spec(layers, bidirectional):
        options = sizes(layers, bidirectional)
        return from_cudnn(jnp.zeros(rnn.get_num_params_in_lstm(**options)), **options)[0]

    one = LSTM(N, return_sequences=True, keep_order=True, zero_output_for_mask=True)
    assert spec(1, False) == one
    assert spec(1, True) == Bidirectional(one)
    assert spec(2, False) == Stack((one, one))
    assert spec(3, True) == Stack((Bidirectional(one),) * 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(SEQUENCES, activation="relu"), "^activation must be 'tanh' for jax.experimental.rnn, got 'relu'"),
        (replace(SEQUENCES, recurrent_activation="relu"), "^recurrent_activation must be 'sigmoid'"),
        (replace(SEQUENCES, use_bias=False), "^use_bias must be True"),
        (replace(SEQUENCES, go_backwards=True), "^go_backwards must be False"),
        (replace(SEQUENCES, dtype="float32"), "^dtype must be None"),
        (LSTM(N), "^return_sequences must be True"),
        (replace(SEQUENCES, variant=Variant(projection=2)), "^variant.projection must be None"),
        (Bidirectional(SEQUENCES, merge_mode="sum"), "^merge_mode must be 'concat' for .*, got 'sum'"),
        (
            Bidirectional(SEQUENCES, replace(SEQUENCES, units=4, go_backwards=True)),
            "^backward.units must be 5 .* got 4",
        ),
        (Stack((SEQUENCES, SEQUENCES), dropout=0.5), "^dropout must be 0.0 for .*, got 0.5"),
        (Stack((SEQUENCES, replace(SEQUENCES, units=4))), r"^layers\[1\].units must be 5 as of the first layer"),
        (Stack((SEQUENCES, Bidirectional(SEQUENCES))), r"^layers\[1\].bidirectional must be False as of the first"),
        (Stack((Stack((replace(SEQUENCES, dropout=0.1),)),)), r"^layers\[0\].layers\[0\].dropout must be 0.0"),
    ],
)
def test_what_cudnn_cannot_express_raises_by_name(spec, message):
    with pytest.raises(ValueError, match=message):
        to_cudnn(spec, spec.init(jax.random.key(0), D))


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (
            lambda: from_cudnn(jnp.zeros(9), **sizes(1, False)),
            ValueError,
            r"weights must have shape \[200\], got \[9\]",
        ),
        (lambda: from_cudnn(jnp.zeros(9), 0, 5, 1, False), ValueError, "input_size must be a positive integer, got 0"),
        (lambda: from_cudnn(jnp.zeros(9), 3, 5, 1, 1), TypeError, "bidirectional must be True or False, got 1"),
        (lambda: to_cudnn(3, ()), TypeError, "spec must be LSTM or Bidirectional or Stack, got 3"),
        (
            lambda: to_cudnn(SEQUENCES, Directions(1, 2)),
            TypeError,
            "params must be as the spec makes them, LSTMParams of .*, got Directions",
        ),
    ],
)
def test_wrong_arguments_raise(act, error, message):
    with pytest.raises(error, match=message):
        act()


def test_float64_is_refused_where_it_would_be_narrowed():
    with pytest.raises(ValueError, match=r"^the dtype of weights must be at most 32 bits wide .*, got float64"):
        from_cudnn(np.zeros(200), **sizes(1, False))
    params = jax.tree.map(np.float64, SEQUENCES.init(jax.random.key(0), D))
    with pytest.raises(ValueError, match=r"^params/kernel must be at most 32 bits wide .*, got float64"):
        to_cudnn(SEQUENCES, params)


def test_layers_that_do_not_fit_on_each_other_raise():
    spec = Stack((Bidirectional(SEQUENCES),) * 2)
    params = spec.layers[0].init(jax.random.key(0), D)
    with pytest.raises(ValueError, match=r"params/1/forward/kernel must have shape \[10, 20\], got \[3, 20\]"):
        to_cudnn(spec, (params, params))
