"""Names, activations, regularizers and constraints beside Keras's."""

import importlib
import math

import jax
import jax.numpy as jnp
import keras_peer as kp
import numpy as np
import pytest
from keras_peer import keras_fixture  # noqa: F401  # the fixture `keras`

import jlstm
from jlstm import LSTM, named

# Activations in float32: a few roundings of values up to 100.
ACTIVATION = 2e-6

# What Keras knows by name and we do not, each for its reason.
NOT_OURS = {
    "activations": {
        "glu",  # halves the width
        "threshold",  # has no defaults
        "sparsemax",  # sorts; give the function itself
    },
    "regularizers": set(),
    "constraints": set(),
    "initializers": {"stft"},  # for convolutions
}
OURS = {"hard_sigmoid_keras2"}


@pytest.fixture(autouse=True)
def relaxed():
    """Keras runs between our calls all over this module."""
    with kp.relaxed():
        yield


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["activations", "initializers", "regularizers", "constraints"])
def test_every_name_of_keras_is_ours_or_left_out_for_a_reason(keras, kind):
    theirs = importlib.import_module(f"keras.src.{kind}").ALL_OBJECTS_DICT
    table = getattr(named, kind.upper())
    # One object has several names (GlorotUniform, glorot_uniform): one of them must be ours.
    missing = {}
    for name, value in theirs.items():
        missing.setdefault(value, set()).add(name)
    base = {"Initializer", "Regularizer", "Constraint"}
    missing = {
        v: names for v, names in missing.items() if not names & (set(table) | NOT_OURS[kind]) and not names & base
    }
    assert list(missing.values()) == []
    assert {name for name in table if kp.RENAMED.get(name, name) not in theirs} == OURS & set(table)


# --- activations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(named.ACTIVATIONS) - OURS))
def test_activations_have_the_values_and_slopes_of_keras(keras, name):
    # from far outside to the kinks at 0, ±0.5, ±1, ±3 and 6, exactly
    x = jnp.asarray(np.concatenate([np.linspace(-20, 20, 801), [-100, 80, -1e-8, 1e-8]]), jnp.float32)
    ours, theirs = named.ACTIVATIONS[name], keras.activations.get(name)
    value, pull = jax.vjp(ours, x)
    expected, their_pull = jax.vjp(theirs, x)
    np.testing.assert_allclose(value, expected, rtol=ACTIVATION, atol=ACTIVATION)
    cotangent = jnp.asarray(np.random.default_rng(0).normal(0, 1, x.shape), jnp.float32)
    slopes, their_slopes = pull(cotangent)[0], their_pull(cotangent)[0]
    np.testing.assert_allclose(slopes, their_slopes, rtol=ACTIVATION, atol=ACTIVATION)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_activations_over_units_see_one_row_at_a_time(keras, name):
    """A batch is a vmap in ours: the softmax must run over the units, as Keras's does over the last axis."""
    x = np.random.default_rng(0).normal(0, 1, (5, 4)).astype("float32")
    np.testing.assert_allclose(
        jax.vmap(named.ACTIVATIONS[name])(x), keras.activations.get(name)(x), rtol=ACTIVATION, atol=ACTIVATION
    )


def test_none_is_linear(keras):
    assert keras.activations.get(None) is keras.activations.linear
    assert LSTM(2, activation=None, recurrent_activation=None) == LSTM(
        2, activation="linear", recurrent_activation="linear"
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (jlstm.LeakyReLU(0.05), lambda k, x: k.activations.leaky_relu(x, negative_slope=0.05)),
        (jlstm.ELU(1.7), lambda k, x: k.activations.elu(x, alpha=1.7)),
    ],
)
def test_activations_by_value(keras, ours, theirs):
    x = np.linspace(-5, 5, 101, dtype="float32")
    np.testing.assert_allclose(ours(x), theirs(keras, x), rtol=ACTIVATION, atol=ACTIVATION)


def test_the_hard_sigmoid_of_keras_2_by_hand():
    """clip(0.2 x + 0.5, 0, 1): a straight line between -2.5 and 2.5, where that of Keras 3 reaches to ±3."""
    x = jnp.asarray([-4.0, -2.5, -1.0, 0.0, 1.0, 2.5, 4.0])
    expected = np.asarray([0, 0, 0.3, 0.5, 0.7, 1, 1], np.float32)
    np.testing.assert_allclose(named.ACTIVATIONS["hard_sigmoid_keras2"](x), expected, atol=1e-7)
    np.testing.assert_allclose(named.ACTIVATIONS["hard_sigmoid"](x)[2], 1 / 3, atol=1e-7)


def test_one_step_with_the_numbers_of_2017_by_hand():
    """Keras of 2017: LSTM(1, recurrent_activation='hard_sigmoid'), with x = 1, h = 2, c = 0.5.

    Pre-activations, kernel + 2 · recurrent_kernel + bias:
        i: 0.5 + 2 · 0.25 + 0    = 1     -> 0.2 · 1 + 0.5    = 0.7
        f: 1.0 + 2 · 1.00 + 1    = 4     -> min(1.3, 1)      = 1
        g: 0.0 + 2 · 0.25 + 0    = 0.5   -> tanh 0.5         = 0.46211716
        o: -2.0 + 2 · 0.25 + 0   = -1.5  -> 0.2 · -1.5 + 0.5 = 0.2
    c' = 1 · 0.5 + 0.7 · 0.46211716 = 0.82348201, h' = 0.2 · tanh 0.82348201 = 0.2 · 0.67695588
    """
    params = jlstm.LSTMParams(
        kernel=jnp.asarray([[0.5, 1.0, 0.0, -2.0]]),
        recurrent_kernel=jnp.asarray([[0.25, 1.0, 0.25, 0.25]]),
        bias=jnp.asarray([0.0, 1.0, 0.0, 0.0]),
    )
    layer = LSTM(1, recurrent_activation="hard_sigmoid_keras2", implementation=1)
    state = jlstm.LSTMState(h=jnp.asarray([[2.0]]), c=jnp.asarray([[0.5]]))
    state, y = layer.apply(params, state, jnp.ones((1, 1, 1)))
    c = 0.5 + 0.7 * math.tanh(0.5)
    np.testing.assert_allclose(state.c, [[c]], rtol=1e-6)
    np.testing.assert_allclose(y, [[0.2 * math.tanh(c)]], rtol=1e-6)
    np.testing.assert_allclose(c, 0.82348201, rtol=1e-7)


# --- regularizers --------------------------------------------------------------------------------------------------

REGULARIZERS = (
    ("l1", "l1"),
    ("l2", "l2"),
    ("l1_l2", "l1l2"),
    ("orthogonal_regularizer", "orthogonal_regularizer"),
    (jlstm.L1(0.3), lambda k: k.regularizers.L1(0.3)),
    (jlstm.L2(0.3), lambda k: k.regularizers.L2(0.3)),
    (jlstm.L1L2(0.2, 0.3), lambda k: k.regularizers.L1L2(0.2, 0.3)),
    (jlstm.OrthogonalRegularizer(0.4), lambda k: k.regularizers.OrthogonalRegularizer(0.4)),
    (jlstm.OrthogonalRegularizer(0.4, "columns"), lambda k: k.regularizers.OrthogonalRegularizer(0.4, "columns")),
)
CONSTRAINTS = (
    *(("max_norm",) * 2, ("non_neg",) * 2, ("unit_norm",) * 2, ("min_max_norm",) * 2),
    (jlstm.MaxNorm(0.7, axis=1), lambda k: k.constraints.MaxNorm(0.7, axis=1)),
    (jlstm.MaxNorm(0.7, axis=(0, 1)), lambda k: k.constraints.MaxNorm(0.7, axis=(0, 1))),
    (jlstm.UnitNorm(axis=1), lambda k: k.constraints.UnitNorm(axis=1)),
    (jlstm.MinMaxNorm(0.9, 1.1), lambda k: k.constraints.MinMaxNorm(0.9, 1.1)),
    (jlstm.MinMaxNorm(0.9, 1.1, 0.3, axis=1), lambda k: k.constraints.MinMaxNorm(0.9, 1.1, rate=0.3, axis=1)),
)


def matrix(seed, *shape, zeros=True):
    """Norms on either side of the bounds above; a column and a row of zeros where there is room."""
    w = np.random.default_rng(seed).normal(0, 0.6, shape).astype("float32")
    if zeros and min(shape) > 2:
        w[:, 1] = w[1] = 0
    return jnp.asarray(w)


def option(keras, theirs):
    return theirs if isinstance(theirs, str) else theirs(keras)


@pytest.mark.parametrize(("ours", "theirs"), REGULARIZERS, ids=lambda v: str(v) if not callable(v) else "")
@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (2, 2)])
def test_regularizers_have_the_values_and_gradients_of_keras(keras, ours, theirs, shape):
    w = matrix(0, *shape, zeros="rthogonal" not in str(ours))  # there Keras's gradient is NaN
    ours, theirs = named.regularizer("x", ours), keras.regularizers.get(option(keras, theirs))
    np.testing.assert_allclose(ours(w), theirs(w), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(ours)(w), jax.grad(theirs)(w), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("ours", "theirs"), CONSTRAINTS, ids=lambda v: str(v) if not callable(v) else "")
def test_constraints_have_the_values_of_keras(keras, ours, theirs):
    for w in (matrix(0, 5, 12), 3 * matrix(1, 12, 5)):
        expected = keras.constraints.get(option(keras, theirs))(w)
        np.testing.assert_allclose(named.constraint("x", ours)(w), expected, rtol=1e-5, atol=1e-7)


def weighted_pair(keras, description, T=3, D=4, **options):
    """Our spec with params and a state, and Keras's layer with the same weights assigned."""
    spec = kp.ours(description)
    params, state = kp.arrays(spec, D, 2, seed=5)
    (level,) = kp.theirs(keras, description, (2, T, D), **options)
    for variable, value in zip(level.layer.trainable_variables, kp.flat(params), strict=True):
        variable.assign(value)
    x = jnp.asarray(np.random.default_rng(6).normal(0, 1, (2, T, D)), jnp.float32)
    return spec, params, state, x, level.layer


@pytest.mark.parametrize("use_bias", [True, False])
def test_penalty_is_the_sum_of_keras_losses(keras, use_bias):
    regularized = {"kernel_regularizer": "l1", "recurrent_regularizer": "orthogonal_regularizer"}
    description = {"units": 3, "use_bias": use_bias, "bias_regularizer": "l2", **regularized}
    spec, params, _, _, layer = weighted_pair(keras, description)
    assert len(layer.losses) == 2 + use_bias
    np.testing.assert_allclose(spec.penalty(params), sum(layer.losses), rtol=1e-5)
    # by value as well, each on its own weight
    spec = LSTM(3, use_bias=use_bias, recurrent_regularizer=jlstm.L1L2(0.2, 0.3))
    expected = keras.regularizers.L1L2(0.2, 0.3)(params.recurrent_kernel)
    np.testing.assert_allclose(spec.penalty(params), expected, rtol=1e-5)


def test_penalty_of_both_directions_is_the_sum_of_keras_losses(keras):
    forward = {"units": 3, "kernel_regularizer": "l1"}
    backward = {"units": 2, "bias_regularizer": "l2"}
    description = {"bidirectional": forward, "backward": backward, "merge_mode": "concat"}
    spec, params, _, _, layer = weighted_pair(keras, description)
    np.testing.assert_allclose(spec.penalty(params), sum(layer.losses), rtol=1e-5)
    description = {"bidirectional": forward, "backward": None, "merge_mode": "sum"}
    spec, params, _, _, layer = weighted_pair(keras, description)
    assert len(layer.losses) == 2
    np.testing.assert_allclose(spec.penalty(params), sum(layer.losses), rtol=1e-5)


@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize("name", ["l1", "l2"])
def test_activity_penalty_is_that_of_keras(keras, sequences, name):
    description = {"units": 3, "return_sequences": sequences, "activity_regularizer": name}
    spec, params, state, x, layer = weighted_pair(keras, description, return_state=False)
    layer(x, initial_state=kp.flat(state))
    _, y = spec.apply(params, state, x)
    np.testing.assert_allclose(spec.activity_penalty(y), sum(layer.losses), rtol=1e-5)


def test_activity_penalty_takes_each_output_that_keras_returns(keras):
    """With return_state=True Keras regularizes the states too; each of them is one call of activity_penalty."""
    description = {"units": 3, "activity_regularizer": "l2"}
    spec, params, state, x, layer = weighted_pair(keras, description)
    layer(x, initial_state=kp.flat(state))
    final, y = spec.apply(params, state, x)
    expected = [spec.activity_penalty(a) for a in (y, final.h, final.c)]
    np.testing.assert_allclose(layer.losses, expected, rtol=1e-5)


@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize("merge_mode", ["concat", None])
def test_activity_penalty_of_both_directions_is_that_of_keras(keras, merge_mode, sequences):
    forward = {"units": 3, "return_sequences": sequences, "activity_regularizer": "l1"}
    for backward in (None, {"units": 2, "return_sequences": sequences, "activity_regularizer": "l2"}):
        description = {"bidirectional": forward, "backward": backward, "merge_mode": merge_mode}
        spec, params, state, x, layer = weighted_pair(keras, description, return_state=False)
        layer(x, initial_state=kp.flat(state))
        _, y = spec.apply(params, state, x)
        np.testing.assert_allclose(spec.activity_penalty(y), sum(layer.losses), rtol=1e-5)


def test_constrain_gives_what_keras_assigns_after_an_update(keras):
    """Through Keras's own optimizer: one step of size 0 leaves nothing but the constraints."""
    constraints = {"kernel_constraint": "min_max_norm", "recurrent_constraint": "max_norm"}
    description = {"units": 3, **constraints, "bias_constraint": "non_neg"}
    spec, params, _, _, layer = weighted_pair(keras, description)
    variables = layer.trainable_variables
    optimizer = keras.optimizers.SGD(0.0)
    optimizer.apply([jnp.ones_like(v.value) for v in variables], variables)
    for a, b in zip(kp.flat(spec.constrain(params)), variables, strict=True):
        np.testing.assert_allclose(a, b.value, rtol=1e-5, atol=1e-7)
    assert float(params.bias.min()) < 0 <= float(spec.constrain(params).bias.min())


def test_constrain_of_both_directions(keras):
    description = {"bidirectional": {"units": 3, "recurrent_constraint": "unit_norm"}, "backward": None}
    description["merge_mode"] = "ave"
    spec, params, _, _, layer = weighted_pair(keras, description)
    expected = [v.constraint(v.value) if v.constraint else v.value for v in layer.trainable_variables]
    for a, b in zip(kp.flat(spec.constrain(params)), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
