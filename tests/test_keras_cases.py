"""Single comparisons with Keras: whole models, stateful layers, bfloat16, and the deviations that are decided."""

import jax
import jax.numpy as jnp
import keras_peer as kp
import numpy as np
import pytest
from keras_peer import keras_fixture  # noqa: F401  # the fixture `keras`

from jlstm import LSTM, Bidirectional, LSTMParams, OrthogonalRegularizer, Stack

B, T, D, N = 3, 5, 4, 3
# bfloat16 keeps 8 bits, and Keras keeps its state in it as well, where ours stays float32.
BFLOAT16 = 3e-2


@pytest.fixture(autouse=True)
def relaxed():
    """Keras runs between our calls all over this module."""
    with kp.relaxed():
        yield


def pair(keras, description, seed=0, **options):
    """Our spec with params and a state, Keras's layer with the same weights, and inputs."""
    spec = kp.ours(description)
    params, state = kp.arrays(spec, D, B, seed)
    (level,) = kp.theirs(keras, description, (B, T, D), **options)
    for variable, value in zip(level.layer.trainable_variables, kp.flat(params), strict=True):
        variable.assign(value)
    x = jnp.asarray(np.random.default_rng(seed + 1).normal(0, 1, (B, T, D)), jnp.float32)
    return spec, params, state, level.layer, x


def test_a_whole_model_with_a_masking_layer(keras):
    """Masking, LSTM, Bidirectional LSTM, LSTM: Keras hands its mask on from layer to layer, Stack does the same."""
    model = keras.Sequential(
        [
            keras.layers.Input((T, D)),
            keras.layers.Masking(0.0),
            keras.layers.LSTM(N, return_sequences=True, activation="relu"),
            keras.layers.Bidirectional(keras.layers.LSTM(N, return_sequences=True), merge_mode="sum"),
            keras.layers.LSTM(2, recurrent_activation="hard_sigmoid"),
        ]
    )
    spec = Stack(
        (
            LSTM(N, return_sequences=True, activation="relu"),
            Bidirectional(LSTM(N, return_sequences=True), merge_mode="sum"),
            LSTM(2, recurrent_activation="hard_sigmoid"),
        )
    )
    params, _ = kp.arrays(spec, D, B, seed=0)
    model.set_weights(kp.flat(params))
    x = np.random.default_rng(1).normal(0, 1, (B, T, D)).astype("float32")
    mask = np.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [1, 1, 0, 0, 0]], bool)
    holes = np.where(mask[:, :, None], x, 0)
    _, y = spec.apply(params, spec.initial_state(B), holes, mask=mask)
    kp.assert_close(y, model(holes), kp.OUTPUT)
    lengths = np.array([5, 2, 0])
    padded = np.where((np.arange(T) < lengths[:, None])[:, :, None], x, 0)
    _, y = spec.apply(params, spec.initial_state(B), padded, lengths=lengths)
    kp.assert_close(y, model(padded), kp.OUTPUT)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_stateful_is_the_state_passed_on(keras, bidirectional):
    description = {"units": N}
    if bidirectional:
        description = {"bidirectional": description, "backward": None, "merge_mode": "concat"}
    spec, params, _, layer, x = pair(keras, description, stateful=True, return_state=False)
    state = spec.initial_state(B)
    for chunk in (x, x + 1, -x):
        state, y = spec.apply(params, state, chunk)
        kp.assert_close(y, layer(chunk), kp.OUTPUT)
    layer.reset_state()
    _, y = spec.apply(params, spec.initial_state(B), x)
    kp.assert_close(y, layer(x), kp.OUTPUT)


def test_a_callable_activation(keras):
    def cubic(x):
        return x - x**3 / 6

    description = {"units": N, "activation": cubic, "recurrent_activation": jax.nn.relu6}
    spec, params, state, layer, x = pair(keras, description, return_state=False)
    _, y = spec.apply(params, state, x)
    kp.assert_close(y, layer(x, initial_state=kp.flat(state)), kp.OUTPUT)


def test_bfloat16_is_near_keras_mixed_precision(keras):
    _, params, _, layer, x = pair(keras, {"units": N, "return_sequences": True}, return_state=False)
    peer = keras.layers.LSTM(N, return_sequences=True, dtype="mixed_bfloat16")
    peer.build((B, T, D))
    peer.set_weights(kp.flat(params))
    half = LSTM(N, return_sequences=True, dtype="bfloat16")
    _, y = half.apply(params, half.initial_state(B), x)
    theirs = peer(x)
    assert y.dtype == theirs.dtype == jnp.bfloat16
    exact = np.asarray(layer(x))
    kp.assert_close(y.astype(jnp.float32), exact, BFLOAT16)
    kp.assert_close(theirs.astype(jnp.float32), exact, BFLOAT16)


# --- the deviations ------------------------------------------------------------------------------------------------


def starting_masked():
    """A mask whose rows begin with False, are all False, or have a hole."""
    return jnp.asarray([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 0, 0, 1, 1]], bool)


@pytest.mark.parametrize("unroll", [False, True, 2])
def test_before_any_valid_step_the_output_is_the_initial_h(keras, unroll):
    """As in Keras's scan; its unrolled path gives zeros there."""
    description = {"units": N, "return_sequences": True, "unroll": unroll}
    spec, params, state, layer, x = pair(keras, description, return_state=False)
    mask, h = starting_masked(), state.h
    _, y = spec.apply(params, state, x, mask=mask)
    kp.assert_close(y, layer(x, initial_state=kp.flat(state), mask=mask), kp.OUTPUT)
    np.testing.assert_array_equal(y[0, 0], h[0])
    np.testing.assert_array_equal(y[1], jnp.broadcast_to(h[1], (T, N)))
    unrolled = pair(keras, description, unroll=True, return_state=False)[3]
    slip = unrolled(x, initial_state=kp.flat(state), mask=mask)
    np.testing.assert_array_equal(slip[0, 0], np.zeros(N))
    kp.assert_close(y[2], slip[2], kp.OUTPUT)


@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
def test_zero_output_for_mask_holds_with_unroll_too(keras, sequences, unroll, go_backwards):
    """As in Keras's scan; its unrolled path ignores the option."""
    description = {"units": N, "return_sequences": sequences, "zero_output_for_mask": True, "unroll": unroll}
    description["go_backwards"] = go_backwards
    spec, params, state, layer, x = pair(keras, description, return_state=False)
    mask = starting_masked().at[2, -1].set(False)
    _, y = spec.apply(params, state, x, mask=mask)
    kp.assert_close(y, layer(x, initial_state=kp.flat(state), mask=mask), kp.OUTPUT)
    np.testing.assert_array_equal(y[1], jnp.zeros_like(y[1]))
    unrolled = pair(keras, description, unroll=True, return_state=False)[3]
    assert np.abs(unrolled(x, mask=mask)[0]).max() > 0
    if not sequences:
        last_read = 0 if go_backwards else -1
        np.testing.assert_array_equal(jnp.abs(y).max(axis=1) > 0, mask[:, last_read])


def test_masks_of_other_dtypes_raise_where_keras_casts(keras):
    spec, params, state, layer, x = pair(keras, {"units": N}, return_state=False)
    mask = starting_masked()
    cast = layer(x, initial_state=kp.flat(state), mask=mask.astype(jnp.float32))
    kp.assert_close(cast, layer(x, initial_state=kp.flat(state), mask=mask))
    for dtype in (jnp.float32, jnp.int32):
        with pytest.raises(TypeError, match="mask must be a bool array"):
            spec.apply(params, state, x, mask=mask.astype(dtype))


def test_orthogonal_regularizer_has_a_gradient_where_that_of_keras_is_nan(keras):
    w = jnp.asarray([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    assert np.isnan(jax.grad(keras.regularizers.OrthogonalRegularizer())(w)).any()
    assert np.isfinite(jax.grad(OrthogonalRegularizer())(w)).all()
    row = w[:1]  # no pairs: nothing to penalise, where Keras divides 0 by 0
    assert np.isnan(keras.regularizers.OrthogonalRegularizer()(row))
    assert OrthogonalRegularizer()(row) == 0


def test_backward_params_are_read_as_keras_lists_them(keras):
    """Forward before backward, kernel, recurrent kernel, bias: the order of get_weights, on which kp.flat relies."""
    layer = keras.layers.Bidirectional(keras.layers.LSTM(N))
    layer.build((B, T, D))
    names = [v.path.split("/", 1)[1] for v in layer.trainable_variables]
    assert [name.startswith("forward") for name in names] == [True] * 3 + [False] * 3
    assert [name.rsplit("/", 1)[1] for name in names] == ["kernel", "recurrent_kernel", "bias"] * 2
    params = Bidirectional(LSTM(N)).init(jax.random.key(0), D)
    assert isinstance(params.forward, LSTMParams)
    assert [a.shape for a in kp.flat(params)] == [v.shape for v in layer.trainable_variables]
