"""Keras's layers, models and files beside the specs and params that come from them, and the way back."""

import json
import tempfile
import warnings
from dataclasses import replace
from functools import partial

import cases
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import keras_peer as kp
import numpy as np
import pytest
from conftest import peer
from hypothesis import HealthCheck, Phase, given, reject, settings
from test_keras import TOO_LARGE, UNBOUNDED, bidirectional, leaves, plain, stacked

import jlstm
from jlstm import LSTM, Bidirectional, Stack
from jlstm.interop import from_keras, keras_options, to_keras

with warnings.catch_warnings(action="ignore"):
    keras = peer("keras")
L = keras.layers

TITLE = "Keras"
TOLERANCE = 3e-5
B, T, D = 2, 4, 3


# --- running both sides --------------------------------------------------------------------------------------------


def recurrent(source):
    """The recurrent layers of a layer, a model or a list, flat."""
    if isinstance(source, list):
        return [a for s in source for a in recurrent(s)]
    if isinstance(source, keras.Model):
        return recurrent(source.layers)
    return [source] if isinstance(source, L.RNN | L.Bidirectional) else []


def built(source, seed=0, scale=0.7):
    """The source with new weights of all kinds of sizes, the initial ones and the forget bias of 1 gone."""
    rng = np.random.default_rng(seed)
    shape = (None, T, D)
    with kp.relaxed():
        for layer in recurrent(source):
            if not layer.built:
                layer.build(shape)
            shape = (None, T, np.shape(jax.tree.leaves(layer.compute_output_shape(shape))[-1:])[-1])
            for variable in layer.trainable_variables:
                variable.assign(rng.normal(0, scale, variable.shape))
    return source


def stack(*layers):
    """A Sequential with an input of the sizes of this module, and new weights."""
    with kp.relaxed():
        return built(keras.Sequential([keras.Input((T, D)), *layers]))


def with_states(layers):
    """Let live layers return their states."""
    for layer in layers:
        layer.return_state = True
        if isinstance(layer, L.Bidirectional):
            with_states([layer.forward_layer, layer.backward_layer])
    return layers


def run_keras(layers, weights, states, x, mask):
    """Outputs and final states of layers on top of each other, with these weights."""
    weights, states, final, y = list(weights), list(states), [], x
    for layer in layers:
        variables = layer.trainable_variables
        mapping = list(zip(variables, weights[: len(variables)], strict=True))
        weights = weights[len(variables) :]
        cells = getattr(getattr(layer, "cell", None), "cells", None)
        count = 2 * len(cells) if cells else 4 if isinstance(layer, L.Bidirectional) else 2
        mine, states = states[:count], states[count:]
        initial = [mine[n : n + 2] for n in range(0, count, 2)] if cells else mine
        with kp.relaxed(), keras.StatelessScope(mapping):
            made = layer(y, initial_state=initial, mask=mask, training=False)
        outputs = 2 if getattr(layer, "merge_mode", "") is None else 1
        y = made[0]
        final += jax.tree.leaves(made[outputs:])
    return list(made[:outputs]), final


def error(source, spec, params, mask=None):
    """The worst difference of outputs, final states and gradients (of weights, states and x)."""
    layers = with_states(recurrent(source))
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(0, 1, (B, T, D)), jnp.float32)
    state = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.5, a.shape), a.dtype), spec.initial_state(B))
    weights = [jnp.asarray(v.value) for layer in layers for v in layer.trainable_variables]

    def ours(params, state, x):
        outputs, final, _ = kp.run_ours(spec, params, state, x, mask=mask)
        return outputs, final, jnp.zeros(())

    def theirs(weights, states, x):
        return *run_keras(layers, weights, states, x, mask), jnp.zeros(())

    shapes = jax.eval_shape(lambda *a: ours(*a)[:2], params, state, x)
    cotangents = [jnp.asarray(rng.normal(0, 1, a.shape), jnp.float32) for part in shapes for a in part]
    values, gradients = kp.value_and_gradients(ours, cotangents)((params, state, x))
    expected, wanted = kp.value_and_gradients(theirs, cotangents)((weights, kp.flat(state), x))
    got = [*kp.flat(gradients[0]), *kp.flat(gradients[1]), gradients[2]]
    return max(
        kp.output_error([*values[0], *values[1]], [*expected[0], *expected[1]]),
        kp.gradient_error(got, [*wanted[0], *wanted[1], wanted[2]]),
    )


def from_error(make, mask=None, **options):
    """A feature of from_keras: the error of what comes from the layers that `make` makes."""

    def run():
        source = built(make())
        return error(source, *from_keras(source, **options), mask=mask)

    return run


def to_error(spec, seed=0):
    """A feature of to_keras: the error of what it makes out of this spec and drawn params."""

    def run():
        params, _ = kp.arrays(spec, D, B, seed)
        with kp.relaxed():
            made = to_keras(spec, params)
        return error(made, spec, params)

    return run


def two_layers():
    below = L.Bidirectional(L.LSTM(2, return_sequences=True))
    return stack(below, L.Dropout(0.3), L.LSTM(3, return_sequences=True, name="above"))


def save(model, path):
    """Save a model, or its weights alone, by the ending of the path."""
    with warnings.catch_warnings(action="ignore"), kp.relaxed():  # Keras's own, about NumPy
        model.save(path) if str(path).endswith(".keras") else model.save_weights(path)
    return path


def error_of_file(name):
    def run():
        model = two_layers()
        config = json.loads(model.to_json()) if "weights" in name else None
        with tempfile.TemporaryDirectory() as folder:
            found = from_keras(save(model, f"{folder}/{name}"), spec=config)
        return error(model, *found)

    return run


def functional():
    with kp.relaxed():
        inputs = keras.Input((T, D))
        y = L.LSTM(3, return_sequences=True)(inputs)
        return keras.Model(inputs, L.LSTM(2, go_backwards=True)(L.Dropout(0.2)(y)))


MASK = jnp.asarray([[True, False, True, False], [False, True, True, True]])
BOTH = Bidirectional(LSTM(3, return_sequences=True))
MERGED = {"concat": "", "sum": ", sum", "mul": ", mul", "ave": ", ave", None: ", a pair"}
OWN = Bidirectional(
    LSTM(3, activation="softsign"), LSTM(2, use_bias=False, recurrent_activation="hard_sigmoid", go_backwards=True)
)

FEATURES = {
    ("from", "LSTM"): from_error(lambda: L.LSTM(3, return_sequences=True)),
    ("from", "last output alone"): from_error(lambda: L.LSTM(3)),
    ("from", "reverse, processing order"): from_error(lambda: L.LSTM(3, go_backwards=True, return_sequences=True)),
    ("from", "no bias"): from_error(lambda: L.LSTM(3, use_bias=False)),
    ("from", "activations"): from_error(lambda: L.LSTM(3, activation=L.ELU(0.5), recurrent_activation="hard_sigmoid")),
    ("from", "mask"): from_error(lambda: L.LSTM(3, return_sequences=True), MASK),
    ("from", "mask, zero_output_for_mask"): from_error(
        lambda: L.LSTM(3, return_sequences=True, zero_output_for_mask=True), MASK
    ),
    ("from", "LSTMCell in RNN"): from_error(lambda: L.RNN(L.LSTMCell(3), return_sequences=True)),
    ("from", "LSTMCells in RNN"): from_error(
        lambda: L.RNN([L.LSTMCell(3), L.LSTMCell(2)], return_sequences=True), MASK
    ),
    ("from", "LSTMCells in RNN, reverse"): from_error(
        lambda: L.RNN([L.LSTMCell(3), L.LSTMCell(2)], return_sequences=True, go_backwards=True)
    ),
    **{
        ("from", f"bidirectional{ending}"): from_error(
            lambda mode=mode: L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode=mode)
        )
        for mode, ending in MERGED.items()
    },
    ("from", "bidirectional, unlike directions"): from_error(
        lambda: L.Bidirectional(L.LSTM(3), backward_layer=L.LSTM(2, activation="relu", go_backwards=True))
    ),
    ("from", "bidirectional, LSTMCell in RNN"): from_error(lambda: L.Bidirectional(L.RNN(L.LSTMCell(2)))),
    ("from", "layers, dropout between"): from_error(two_layers),
    ("from", "layers, nested"): from_error(
        lambda: stack(keras.Sequential([L.LSTM(2, return_sequences=True), L.LSTM(3, return_sequences=True)]), L.LSTM(2))
    ),
    ("from", "functional model"): from_error(functional),
    ("from", ".keras file"): error_of_file("model.keras"),
    ("from", ".weights.h5 file"): error_of_file("model.weights.h5"),
    ("to", "LSTM"): to_error(LSTM(3, return_sequences=True)),
    ("to", "last output alone"): to_error(LSTM(3)),
    ("to", "reverse, processing order"): to_error(LSTM(3, go_backwards=True, return_sequences=True)),
    ("to", "no bias"): to_error(LSTM(3, use_bias=False)),
    ("to", "activations"): to_error(LSTM(3, activation=jlstm.ELU(0.5), recurrent_activation="hard_sigmoid")),
    **{("to", f"bidirectional{ending}"): to_error(replace(BOTH, merge_mode=mode)) for mode, ending in MERGED.items()},
    ("to", "bidirectional, unlike directions"): to_error(OWN),
    ("to", "layers, dropout between"): to_error(Stack((BOTH, LSTM(2)), dropout=0.3)),
    ("to", "layers, nested"): to_error(Stack((Stack((LSTM(2, return_sequences=True), BOTH)), LSTM(2)), dropout=0.3)),
}


@pytest.mark.parametrize(("direction", "feature"), FEATURES)
def test_agrees(direction, feature):
    assert FEATURES[direction, feature]() <= TOLERANCE


# --- generated modules ---------------------------------------------------------------------------------------------


@st.composite
def modules(draw):
    """A description of layers, as tests/keras_peer.py has it, a mask, and a seed for the numbers."""
    rng = draw(st.randoms(use_true_random=True))
    description = rng.choice((plain, bidirectional, stacked))(rng, D, mask=False)
    flat = description if isinstance(description, list) else [description]
    for d in flat:
        d.pop("keep_order", None)  # Keras has none
    # Below another layer, outputs in the order of processing have no use for a mask in that of the input.
    turned = any(d.get("go_backwards") for d in flat[:-1])
    mask = np.random.default_rng(rng.randrange(2**16)).random((B, T)) < 0.6
    return description, None if turned or rng.random() < 0.5 else mask, rng.randrange(2**16)


compiled = partial(jax.jit, compiler_options=kp.QUICKLY_COMPILED)


@settings(
    max_examples=12 if settings().max_examples < 200 else 200,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    phases=[Phase.explicit, Phase.generate],  # shrinking would compile for many minutes
)
@given(module=modules())
def test_any_layers_give_their_numbers_and_their_configuration(worst, module):
    description, mask, seed = module
    names = {a.get(k, "tanh") for a in leaves(description) for k in ("activation", "recurrent_activation")}
    layers = [level.layer for level in kp.theirs(keras, description, (B, T, D))]
    built(layers, seed, 0.25 if names & UNBOUNDED else 0.7)
    spec, params = from_keras(layers)
    assert spec == configured(description)

    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(0, 1, (B, T, D)), jnp.float32)
    state = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.5, a.shape), a.dtype), spec.initial_state(B))
    weights = [jnp.asarray(v.value) for layer in layers for v in layer.trainable_variables]
    expected = compiled(lambda w, s, x: run_keras(layers, w, s, x, mask))(weights, kp.flat(state), x)
    if not all(np.max(np.abs(a)) < TOO_LARGE for a in expected[0]):
        reject()
    got = compiled(lambda p, s, x: kp.run_ours(spec, p, s, x, mask)[:2])(params, state, x)
    found = kp.output_error([*got[0], *got[1]], [*expected[0], *expected[1]])
    worst.append(found)
    assert found <= TOLERANCE

    if not (
        isinstance(spec, Stack) and getattr(spec.layers[-1], "merge_mode", "") is None
    ):  # no Sequential gives a pair
        with kp.relaxed():
            again = from_keras(to_keras(spec, params))
        assert again[0] == spec
        cases.same_bits(again[1], params)
    if len(worst) % 25 == 0:
        keras.utils.clear_session()


def configured(description):
    """The spec that live layers of this description hold."""
    if isinstance(description, list):
        return Stack(tuple(map(configured, description)))

    def lstm(arguments, **more):
        spec = LSTM(**{**arguments, **more, "dtype": "float32", "unroll": False})
        options = {name: canonical(getattr(spec, name)) for name in keras_options.option_names(LSTM)}
        # Four masks are implied there, and not told apart.
        return replace(spec, **options, implementation=2 if spec.recurrent_dropout else spec.implementation)

    if "bidirectional" not in description:
        return lstm(description)
    forward, backward = description["bidirectional"], description["backward"]
    forced = {"zero_output_for_mask": forward["return_sequences"]}
    # What Keras copies it makes from a configuration, which does not hold the implementation.
    made = lstm(forward, **forced, implementation=2)
    other = replace(made, go_backwards=True) if backward is None else lstm(backward, **forced, go_backwards=True)
    return Bidirectional(made, other, merge_mode=description["merge_mode"])


def canonical(value):
    """One of several names of the same, and the number that Keras makes of two defaults: it rounds to float32."""
    rounded = float(np.float32(0.01))
    known = {"l1": jlstm.L1(rounded), "orthogonal_regularizer": jlstm.OrthogonalRegularizer(rounded)}
    known |= {"l1_l2": "l1l2", "swish": "silu", "hard_swish": "hard_silu"}
    return known.get(value, value)
