"""Functional models of Keras: chains, taken over whole; what they read or return beside that is refused."""

import json

import jax.numpy as jnp
import keras_peer as kp
import numpy as np
import pytest
from conftest import peer
from test_from_keras import MASK, TOLERANCE, B, D, L, T, built, error, save

from jlstm import LSTM, Bidirectional, Stack
from jlstm.interop import from_keras

keras = peer("keras")


@pytest.fixture(autouse=True)
def relaxed():
    """Keras runs between our calls all over this module."""
    with kp.relaxed():
        yield


def model_of(outputs, *, below=()):
    """A functional model of what `outputs` makes of its input, and of further inputs of these shapes."""
    inputs = [keras.Input((T, D), name="x"), *below]
    return built(keras.Model(inputs if below else inputs[0], outputs(*inputs)))


def test_functional_models_that_are_no_chain():
    inputs = keras.Input((T, D))
    y, *states = L.LSTM(3, return_sequences=True, return_state=True, name="encoder")(inputs)
    model = built(keras.Model(inputs, L.LSTM(3, name="decoder")(y, initial_state=states)))
    with pytest.raises(ValueError, match=r"^decoder must read the outputs of encoder alone, .* got also initial_state"):
        from_keras(model)
    assert from_keras(model, layers="decoder")[0] == LSTM(3, dtype="float32")
    y = L.LSTM(3, return_sequences=True, name="one")(inputs)
    z = L.LSTM(3, return_sequences=True, name="two")(inputs)
    with pytest.raises(ValueError, match=r"^two must read the outputs of one alone"):
        from_keras(built(keras.Model(inputs, [y, z])))
    with pytest.raises(ValueError, match=r"^outputs must be those of the last layer, top, got also one"):
        from_keras(built(keras.Model(inputs, [y, L.LSTM(3, name="top")(y)])))


def test_a_functional_model_with_a_mask(tmp_path):
    """The operations that make it stand among the layers of the configuration."""
    inputs = keras.Input((T, D))
    y = L.LSTM(3, return_sequences=True)(L.Masking()(inputs))
    model = built(keras.Model(inputs, L.LSTM(2)(y)))
    x = np.where(np.asarray(MASK)[:, :, None], 1.0, 0.0) * np.ones(D, "float32")
    for source in (model, save(model, tmp_path / "a.keras")):
        with pytest.warns(UserWarning, match=r"Masking\(mask_value=0.0\) is no part"):
            spec, params = from_keras(source)
        assert len(spec.layers) == 2
        _, got = spec.apply(params, spec.initial_state(B), jnp.asarray(x, jnp.float32), mask=MASK)
        np.testing.assert_allclose(got, model(x.astype("float32")), atol=3e-5)


@pytest.mark.parametrize(
    ("layer", "outputs", "message"),
    [
        (lambda: L.LSTM(3, return_sequences=True, return_state=True, name="top"), [1], r"got \[1\] of what it returns"),
        (lambda: L.LSTM(3, return_state=True, name="top"), [1, 2], r"got \[1, 2\]"),
        (lambda: L.LSTM(3, return_sequences=True, return_state=True, name="top"), [0, 1, 2], None),
        (lambda: L.Bidirectional(L.LSTM(3), merge_mode=None, name="top"), [0], r"got \[0\]"),
        (lambda: L.Bidirectional(L.LSTM(3), merge_mode=None, name="top"), [0, 1], None),
    ],
)
def test_which_tensors_a_functional_model_returns(tmp_path, layer, outputs, message):
    """A model may give the states of its last layer away: a spec returns its outputs, with the states beside them."""
    made = layer()

    def chosen(x):
        tensors = [tensor for n, tensor in enumerate(made(x)) if n in outputs]
        return tensors if len(tensors) > 1 else tensors[0]

    model = model_of(chosen)
    sources = ((model, {}), (save(model, tmp_path / "a.keras"), {}))
    sources += ((save(model, tmp_path / "a.weights.h5"), {"spec": json.loads(model.to_json())}),)
    for source, options in sources:
        if message:
            with pytest.raises(ValueError, match=rf"outputs must hold the outputs of top, {message}"):
                from_keras(source, **options)
        spec, params = from_keras(source, layers="top", **options)
        assert spec == from_keras(made)[0]
        if not message:
            assert from_keras(source, **options)[0] == spec
            x = np.random.default_rng(0).normal(0, 1, (B, T, D)).astype("float32")
            state, y = spec.apply(params, spec.initial_state(B), x)
            got = y if isinstance(y, tuple) else (y, state.h, state.c)
            for a, b in zip(got, model(x), strict=True):
                np.testing.assert_allclose(a, b, atol=TOLERANCE)


def test_other_inputs_of_a_functional_model():
    def states():
        return [keras.Input((3,), name=name) for name in "hc"]

    def masked(x, mask):
        return L.LSTM(3, name="top")(x, mask=mask)

    mask = keras.Input((T,), dtype="bool", name="mask")
    cases = [
        (model_of(lambda x, h, c: L.LSTM(3, name="top")(x, initial_state=[h, c]), below=states()), "initial_state"),
        (model_of(masked, below=[mask]), "mask"),
        (model_of(lambda x, mask: masked(L.Masking()(x), mask), below=[mask]), "mask"),
        (model_of(lambda x: masked(x, keras.ops.any(x != 0, axis=-1))), "mask"),
    ]
    for model, name in cases:
        with pytest.raises(ValueError, match=rf"^top must read .* alone, in one place, got also {name}: take"):
            from_keras(model)
        assert from_keras(model, layers="top")[0] == LSTM(3, dtype="float32")


def test_a_functional_model_in_another(tmp_path):
    def two(x):
        inner = keras.Input((T, 2))
        y = L.LSTM(3, return_sequences=True)(inner)
        return keras.Model(inner, L.LSTM(2, return_sequences=True)(y))(L.LSTM(2, return_sequences=True)(x))

    for top in (lambda x: L.Bidirectional(L.LSTM(2))(two(x)), two):  # between layers, and as the last one
        model = model_of(top)
        spec, params = from_keras(save(model, tmp_path / "a.keras"))
        assert isinstance(spec, Stack)
        assert isinstance(spec.layers[-1], Bidirectional | Stack)
        assert error(model, spec, params) <= TOLERANCE
