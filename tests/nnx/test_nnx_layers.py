"""The nnx modules: Keras's arguments, the state that is kept, dropout by stream and mode."""

import inspect
from dataclasses import fields

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

import jlstm
import jlstm.nnx
from jlstm import Bidirectional, LSTMState, Stack

B, T, D, N = 2, 4, 3, 5
WEIGHTS = cases.weights(0, D, N)
X = cases.inputs(1, B, T, D)
ZEROS = np.zeros((B, N)), np.zeros((B, N))
SEQUENCES = jlstm.LSTM(N, return_sequences=True)
x = jnp.asarray(X, jnp.float32)


def lstm(**options):
    """A module with the weights that the oracle has."""
    layer = jlstm.nnx.LSTM(D, N, rngs=nnx.Rngs(0), **options)
    for name, value in WEIGHTS.items():
        getattr(layer.weights, name).set_value(jnp.asarray(value, jnp.float32))
    return layer


def drawn(spec, size):
    return spec.init(jax.random.key(0), size)


def close(got, expected):
    np.testing.assert_allclose(got, expected, **cases.F32)


# --- arguments -----------------------------------------------------------------------------------------------------


def test_the_signature_shows_every_field_of_the_spec_with_its_default():
    shown = inspect.signature(jlstm.nnx.LSTM).parameters
    spec = {f.name: f.default for f in fields(jlstm.LSTM) if f.kw_only}
    assert list(shown) == [
        "in_features", "units", *spec, "stateful", "return_state", "batch_size", "rngs",
    ]  # fmt: skip
    assert {name: shown[name].default for name in spec} == spec
    assert {name: shown[name].default for name in ("stateful", "return_state", "batch_size")} == {
        "stateful": False,
        "return_state": False,
        "batch_size": None,
    }


def test_every_argument_of_keras_is_there(peer):
    peer("keras")
    from keras.layers import LSTM

    theirs = set(inspect.signature(LSTM).parameters) - {"kwargs"}
    answered = {"seed", "use_cudnn"}  # rngs, backend
    assert theirs - answered <= set(inspect.signature(jlstm.nnx.LSTM).parameters)


def test_arguments_reach_the_spec():
    layer = jlstm.nnx.LSTM(
        D, N, activation="relu", return_sequences=True, dropout=0.5, variant=jlstm.Variant(peephole=True),
        param_dtype="bfloat16", rngs=nnx.Rngs(0),
    )  # fmt: skip
    assert layer.spec == jlstm.LSTM(
        N, activation="relu", return_sequences=True, dropout=0.5, variant=jlstm.Variant(peephole=True),
        param_dtype="bfloat16",
    )  # fmt: skip
    assert layer.weights.peephole.shape == (3, N)
    assert layer.weights.kernel.dtype == jnp.bfloat16


def test_weights_are_drawn_from_the_stream_of_params():
    drawn = [jlstm.nnx.LSTM(D, N, rngs=rngs).params.kernel for rngs in (nnx.Rngs(0), nnx.Rngs(params=0), nnx.Rngs(1))]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert jnp.any(drawn[0] != drawn[2])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda r: jlstm.nnx.LSTM(0, N, rngs=r), ValueError, "in_features must be a positive integer, got 0"),
        (lambda r: jlstm.nnx.LSTM(D, N, activation="no", rngs=r), ValueError, "activation must be one of"),
        (lambda r: jlstm.nnx.LSTM(D, N, rngs=0), TypeError, "rngs must be Rngs, got 0"),
        (lambda r: jlstm.nnx.LSTM(D, N, stateful=1, rngs=r), TypeError, "stateful must be True or False, got 1"),
        (lambda r: jlstm.nnx.LSTM(D, N, return_state=1, rngs=r), TypeError, "return_state must be True or False"),
        (lambda r: jlstm.nnx.LSTM(D, N, stateful=True, rngs=r), ValueError, "batch_size must be given exactly with"),
        (lambda r: jlstm.nnx.LSTM(D, N, batch_size=2, rngs=r), ValueError, "batch_size must be given exactly with"),
        (lambda r: jlstm.nnx.LSTMCell(0, N, rngs=r), ValueError, "in_features must be a positive integer, got 0"),
        (lambda r: jlstm.nnx.LSTMCell(D, N, rngs=None), TypeError, "rngs must be Rngs, got None"),
        (lambda r: jlstm.nnx.Layer(3, ()), TypeError, "spec must be LSTM or Bidirectional or Stack, got 3"),
        (lambda r: jlstm.nnx.Layer(SEQUENCES, ()), TypeError, "params must be as the spec makes them, .* got tuple of"),
        (lambda r: jlstm.nnx.Layer(SEQUENCES, drawn(jlstm.LSTM(4), D)), ValueError,
         r"params/kernel must have shape \[3, 20\], got \[3, 16\]"),
        (lambda r: jlstm.nnx.Layer(Stack((SEQUENCES, SEQUENCES)), (drawn(SEQUENCES, D),) * 2), ValueError,
         r"params/1/kernel must have shape \[5, 20\], got \[3, 20\]"),
        (lambda r: jlstm.nnx.Layer(SEQUENCES, jax.tree.map(np.float64, drawn(SEQUENCES, D))), ValueError,
         "params/kernel must be at most 32 bits wide .*, got float64"),
        (lambda r: jlstm.nnx.LSTM(D, N, rngs=nnx.Rngs(dropout=0)), ValueError,
         "rngs must have a stream 'params' or a default one, got dropout"),
        (lambda r: jlstm.nnx.LSTMCell(D, N, rngs=nnx.Rngs()), ValueError, "rngs must have a stream 'params' .* no str"),
    ],
)  # fmt: skip
def test_wrong_arguments_raise(make, error, message):
    with pytest.raises(error, match=message):
        make(nnx.Rngs(0))


# --- a call --------------------------------------------------------------------------------------------------------


def test_a_call_gives_the_numbers_of_the_oracle():
    state, expected = reference.lstm(WEIGHTS, ZEROS, X)
    close(lstm(return_sequences=True)(x), expected)
    final, y = lstm(return_state=True)(x)
    close(y, expected[:, -1])
    close(final.h, state[0])
    close(final.c, state[1])


def test_options_of_a_call_reach_the_spec():
    made = cases.state(2, B, N)
    initial = LSTMState(*(jnp.asarray(a, jnp.float32) for a in made))
    layer = lstm(return_sequences=True)
    mask, reset = cases.bools(3, B, T), cases.bools(4, B, T, p=0.3)
    close(layer(x, mask=jnp.asarray(mask)), reference.lstm(WEIGHTS, ZEROS, X, mask=mask)[1])
    close(layer(x, lengths=np.array([3, 1])), reference.lstm(WEIGHTS, ZEROS, X, lengths=[3, 1])[1])
    close(layer(x, initial_state=initial), reference.lstm(WEIGHTS, made, X)[1])
    expected = reference.lstm(WEIGHTS, ZEROS, X, reset=reset, reset_state=made)[1]
    close(layer(x, reset=jnp.asarray(reset), reset_state=initial), expected)


def test_bidirectional_gives_the_numbers_of_the_oracle():
    spec = jlstm.LSTM(N, return_sequences=True)
    layer = jlstm.nnx.Bidirectional(D, spec, merge_mode="sum", return_state=True, rngs=nnx.Rngs(0))
    made = cases.weights(0, D, N), cases.weights(5, D, N)
    for weights, values in zip((layer.weights.forward, layer.weights.backward), made, strict=True):
        for name, value in values.items():
            getattr(weights, name).set_value(jnp.asarray(value, jnp.float32))
    state, y = layer(x)
    expected_state, expected = reference.bidirectional(made, (ZEROS, ZEROS), X, merge_mode="sum")
    close(y, expected)
    close(state.backward.c, expected_state[1][1])


def test_stack_gives_the_numbers_of_the_oracle():
    layer = jlstm.nnx.Stack(D, (jlstm.LSTM(N, return_sequences=True), jlstm.LSTM(2)), rngs=nnx.Rngs(0))
    made = cases.weights(0, D, N), cases.weights(5, N, 2)
    for weights, values in zip(layer.weights, made, strict=True):
        for name, value in values.items():
            getattr(weights, name).set_value(jnp.asarray(value, jnp.float32))
    below = reference.lstm(made[0], ZEROS, X)[1]
    zeros = np.zeros((B, 2)), np.zeros((B, 2))
    close(layer(x), reference.lstm(made[1], zeros, below, return_sequences=False)[1])


def test_composed_modules_take_the_arguments_of_their_specs():
    sequences = jlstm.LSTM(N, return_sequences=True)
    both = jlstm.nnx.Bidirectional(D, sequences, merge_mode=None, rngs=nnx.Rngs(0))
    assert both.spec == Bidirectional(sequences, merge_mode=None)
    stack = jlstm.nnx.Stack(D, (sequences, Bidirectional(sequences)), dropout=0.1, rngs=nnx.Rngs(0))
    assert stack.spec == Stack((sequences, Bidirectional(sequences)), dropout=0.1)
    shown = inspect.signature(jlstm.nnx.Bidirectional).parameters, inspect.signature(jlstm.nnx.Stack).parameters
    assert (shown[0]["merge_mode"].default, shown[1]["dropout"].default) == ("concat", 0.0)


# --- the state that is kept ----------------------------------------------------------------------------------------


def test_a_stateful_layer_goes_on_where_it_stopped():
    layer = lstm(stateful=True, batch_size=B, return_sequences=True)
    assert layer.stateful
    state, expected = reference.lstm(WEIGHTS, ZEROS, X)
    close(jnp.concatenate([layer(x[:, :1]), layer(x[:, 1:])], axis=1), expected)
    close(layer.state.c, state[1])
    assert isinstance(layer.carry.h, jlstm.nnx.LSTMCarry)


def test_a_stateless_layer_starts_anew():
    layer = lstm()
    np.testing.assert_array_equal(layer(x), layer(x))
    assert not layer.stateful
    for act in (layer.reset_state, lambda: layer.state):
        with pytest.raises(ValueError, match="stateful must be True"):
            act()


def test_reset_state_of_all_rows_and_of_some():
    layer = lstm(stateful=True, batch_size=B)
    first = layer(x)
    layer.reset_state()
    close(layer(x), first)
    layer.reset_state(jnp.array([False, True]))
    y = layer(x)
    twice = reference.lstm(WEIGHTS, ZEROS, np.concatenate([X, X], axis=1), return_sequences=False)[1]
    close(y[0], twice[0])
    close(y[1], first[1])


def test_an_initial_state_comes_before_the_state_that_was_kept():
    layer = lstm(stateful=True, batch_size=B)
    made = cases.state(2, B, N)
    layer(x)
    y = layer(x, initial_state=LSTMState(*(jnp.asarray(a, jnp.float32) for a in made)))
    state, expected = reference.lstm(WEIGHTS, made, X, return_sequences=False)
    close(y, expected)
    close(layer.state.c, state[1])


def test_the_kept_state_keeps_its_dtype():
    layer = lstm(stateful=True, batch_size=B)
    layer(x, initial_state=jlstm.LSTM(N).initial_state(B, "bfloat16"))
    assert layer.state.h.dtype == jnp.float32


def test_another_batch_size_must_be_asked_for():
    layer = lstm(stateful=True, batch_size=B)
    with pytest.raises(
        ValueError, match=r"x must have the batch size .* of, 2 \(reset_state\(batch_size=...\).*, got 1"
    ):
        layer(x[:1])
    layer.reset_state(batch_size=1)
    close(layer(x[:1]), reference.lstm(WEIGHTS, ZEROS, X, return_sequences=False)[1][:1])


def test_wrong_resets_raise():
    layer = lstm(stateful=True, batch_size=B)
    with pytest.raises(ValueError, match=r"mask must have shape \[2\], got \[3\]"):
        layer.reset_state(jnp.zeros(3, bool))
    with pytest.raises(TypeError, match="mask must be a bool array, got int32"):
        layer.reset_state(jnp.zeros(2, "int32"))
    with pytest.raises(ValueError, match="mask must be None together with batch_size, got both"):
        layer.reset_state(jnp.zeros(2, bool), batch_size=3)


def test_composed_layers_keep_their_states():
    sequences = jlstm.LSTM(N, return_sequences=True)
    stack = jlstm.nnx.Stack(D, (sequences, Bidirectional(sequences)), stateful=True, batch_size=B, rngs=nnx.Rngs(0))
    stack(x)
    assert all(jnp.all(a != 0) for a in jax.tree.leaves(stack.state))
    stack.reset_state(jnp.array([True, False]))
    for a in jax.tree.leaves(stack.state):
        np.testing.assert_array_equal(jnp.any(a != 0, axis=-1), [False, True])


# --- dropout -------------------------------------------------------------------------------------------------------


def test_modes_switch_dropout():
    layer = lstm(dropout=0.5)
    first, second = layer(x), layer(x)
    assert jnp.any(first != second)
    layer.eval()
    expected = reference.lstm(WEIGHTS, ZEROS, X, return_sequences=False)[1]
    close(layer(x), expected)
    layer.train()
    assert not np.allclose(layer(x), expected, **cases.F32)
    close(layer(x, deterministic=True), expected)
    close(nnx.view(layer, deterministic=True)(x), expected)
    assert layer.deterministic is False


def test_the_masks_are_those_of_the_key_drawn():
    """With every input dropped or scaled, the layer sees x times one mask of its row."""
    layer = lstm(dropout=0.5, return_sequences=True)
    y = layer(x, rngs=jax.random.key(3))
    possible = [
        reference.lstm(WEIGHTS, ZEROS, X, input_mask=np.tile(2 * np.array(m, float), (B, 1)))[1]
        for m in np.ndindex(2, 2, 2)
    ]
    for b in range(B):
        assert sum(np.allclose(y[b], p[b], **cases.F32) for p in possible) == 1


def test_streams_of_one_seed_draw_the_same():
    a, b = (jlstm.nnx.LSTM(D, N, dropout=0.5, rngs=nnx.Rngs(0, dropout=7)) for _ in range(2))
    np.testing.assert_array_equal(a(x), b(x))
    c = jlstm.nnx.LSTM(D, N, dropout=0.5, rngs=nnx.Rngs(0, dropout=8))
    assert jnp.any(a(x) != c(x))


def test_a_call_takes_rngs_of_three_kinds():
    layer = lstm(recurrent_dropout=0.5)
    of_rngs, of_stream = layer(x, rngs=nnx.Rngs(dropout=5)), layer(x, rngs=nnx.Rngs(dropout=5).dropout)
    np.testing.assert_array_equal(of_rngs, of_stream)
    np.testing.assert_array_equal(of_rngs, layer(x, rngs=nnx.Rngs(dropout=5).dropout()))


def test_nothing_is_drawn_without_dropout():
    rngs = nnx.Rngs(params=0, dropout=1)
    layer = jlstm.nnx.LSTM(D, N, rngs=rngs)
    assert layer.rngs is None
    layer(x, rngs=rngs)
    assert rngs.dropout.count.get_value() == 0


def test_dropout_of_any_layer_counts():
    plain, dropping = jlstm.LSTM(N, return_sequences=True), jlstm.LSTM(N, recurrent_dropout=0.5, return_sequences=True)
    for spec in (Bidirectional(plain, jlstm.LSTM(N, dropout=0.5, go_backwards=True, return_sequences=True)),
                 Stack((plain, Stack((dropping,)))), Stack((plain, plain), dropout=0.5)):  # fmt: skip
        layer = jlstm.nnx.Layer(spec, spec.init(jax.random.key(0), D))
        with pytest.raises(ValueError, match="rngs must be given, to the module or to the call"):
            layer(x)
        assert jnp.any(layer(x, rngs=jax.random.key(0)) != layer(x, rngs=jax.random.key(1)))


def test_rngs_may_come_with_each_call_alone():
    layer = jlstm.nnx.LSTM(D, N, dropout=0.5, rngs=nnx.Rngs(params=0))
    assert jnp.any(layer(x, rngs=nnx.Rngs(dropout=0)) != layer(x, rngs=nnx.Rngs(dropout=1)))
    with pytest.raises(
        ValueError, match=r"rngs must be given, .* with a stream 'dropout' or a default one .* got none"
    ):
        layer(x)
    with pytest.raises(ValueError, match="rngs must have a stream 'dropout' or a default one, got params"):
        layer(x, rngs=nnx.Rngs(params=0))
    layer(x, deterministic=True)


def test_a_wrong_mode_raises():
    with pytest.raises(TypeError, match="deterministic must be True or False, got 1"):
        lstm(dropout=0.5)(x, deterministic=1)


# --- penalties and constraints -------------------------------------------------------------------------------------


def test_penalties_and_constraints():
    layer = lstm(kernel_regularizer="l2", activity_regularizer="l1", bias_constraint=jlstm.MaxNorm(0.5))
    close(layer.penalty(), 0.01 * np.sum(WEIGHTS["kernel"] ** 2))
    y = layer(x)
    close(layer.activity_penalty(y), 0.01 * np.sum(np.abs(y)) / B)
    bias = WEIGHTS["bias"]
    layer.constrain()
    close(layer.weights.bias.get_value(), bias * 0.5 / np.linalg.norm(bias))
    close(layer.weights.kernel.get_value(), WEIGHTS["kernel"])
