"""Initial values beside Keras's: the distributions of random initializers, the rest exactly."""

import math

import jax
import jax.numpy as jnp
import keras_peer as kp
import numpy as np
import pytest
from keras_peer import keras_fixture  # noqa: F401  # the fixture `keras`
from scipy import stats

import jlstm
from jlstm import LSTM, named

D, N = 150, 100  # D != 4N: fan in, fan out and their mean all differ
# Two samples of one distribution fall below this p-value once in a thousand pairs of seeds; the seeds are fixed.
SAME_DISTRIBUTION = 1e-3

NOT_RANDOM = ("zeros", "zero", "ones", "one", "constant", "identity", "orthogonal")
RANDOM = {name for name in named.INITIALIZERS if name not in NOT_RANDOM}
BY_VALUE = (
    ("RandomNormal", {"mean": 0.3, "stddev": 0.2}),
    ("RandomUniform", {"minval": -0.3, "maxval": 0.1}),
    ("TruncatedNormal", {"mean": -0.2, "stddev": 0.7}),
    *(
        ("VarianceScaling", {"scale": 1.7, "mode": mode, "distribution": distribution})
        for mode in ("fan_in", "fan_out", "fan_avg")
        for distribution in ("truncated_normal", "untruncated_normal", "uniform")
    ),
)


@pytest.fixture(autouse=True)
def relaxed():
    """Keras runs between our calls all over this module."""
    with kp.relaxed():
        yield


def both_init(keras, *, D=D, N=N, seed=0, theirs=None, **options):
    """Our initial params, and Keras's list of initial weights; `theirs` replaces options on Keras's side."""
    keras.utils.set_random_seed(seed)
    layer = keras.layers.LSTM(N, **{**options, **(theirs or {})})
    layer.build((1, 1, D))
    params = LSTM(N, **options).init(jax.random.key(seed), D)
    return params, [np.asarray(v.value) for v in layer.trainable_variables]


def assert_same_distribution(ours, theirs):
    ours, theirs = np.asarray(ours).ravel(), np.asarray(theirs).ravel()
    assert ours.shape == theirs.shape
    assert stats.ks_2samp(ours, theirs).pvalue > SAME_DISTRIBUTION
    spread, n = theirs.std(), theirs.size
    assert abs(ours.mean() - theirs.mean()) < 4 * spread * math.sqrt(2 / n)
    assert abs(ours.std() / spread - 1) < 4 * math.sqrt(2 / n)
    kurtosis = stats.kurtosis(theirs)
    assert abs(stats.kurtosis(ours) - kurtosis) < 4 * math.sqrt(2 * 24 / n) + 0.02


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_random_initializers_have_the_distribution_of_keras(keras, name):
    params, (kernel, recurrent, _) = both_init(keras, kernel_initializer=name, recurrent_initializer=name)
    for ours, theirs in ((params.kernel, kernel), (params.recurrent_kernel, recurrent)):
        assert_same_distribution(ours, theirs)
        # No entry beyond the bounds of the distribution, and both come near to them.
        if name not in ("random_normal", "normal"):  # the two that have no bounds
            assert abs(np.abs(ours).max() / np.abs(theirs).max() - 1) < 0.02
    # and every gate, every row and every column is drawn alike
    for gate in jnp.split(params.kernel, 4, axis=1):
        assert abs(float(gate.std()) / kernel.std() - 1) < 0.03


@pytest.mark.parametrize(("cls", "arguments"), BY_VALUE)
def test_initializers_by_value_have_the_distribution_of_keras(keras, cls, arguments):
    ours, theirs = getattr(jlstm, cls)(**arguments), getattr(keras.initializers, cls)(**arguments)
    params, weights = both_init(
        keras, kernel_initializer=ours, theirs={"kernel_initializer": theirs}, recurrent_initializer="zeros"
    )
    assert_same_distribution(params.kernel, weights[0])


def test_glorot_uniform_sees_the_whole_kernel(keras):
    limit = math.sqrt(6 / (D + 4 * N))
    params, (kernel, _, _) = both_init(keras)
    for w in (params.kernel, kernel):
        assert np.abs(w).max() <= limit
        assert np.abs(w).max() > 0.999 * limit
        assert abs(float(np.std(w)) / (limit / math.sqrt(3)) - 1) < 0.01


def test_orthogonal_is_one_matrix_of_orthonormal_rows(keras):
    params, (_, recurrent, _) = both_init(keras)
    for w in (params.recurrent_kernel, recurrent):
        assert w.shape == (N, 4 * N)
        np.testing.assert_allclose(w @ w.T, np.eye(N), atol=1e-5)
    assert_same_distribution(params.recurrent_kernel, recurrent)


@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_orthogonal_of_more_rows_than_columns_has_orthonormal_columns(keras, gain):
    options = {"kernel_initializer": jlstm.Orthogonal(gain)}
    theirs = {"kernel_initializer": keras.initializers.Orthogonal(gain)}
    params, (kernel, _, _) = both_init(keras, D=50, N=3, theirs=theirs, **options)
    for w in (params.kernel, kernel):
        np.testing.assert_allclose(w.T @ w, gain**2 * np.eye(12), atol=1e-5 * gain**2)


def test_orthogonal_has_no_preferred_sign(keras):
    """QR alone makes the diagonal of R negative; both sides undo it, so that every entry is symmetric around 0."""
    draw = jlstm.Orthogonal()
    ours = jax.vmap(lambda key: draw(key, (2, 8), "float32"))(jax.random.split(jax.random.key(0), 2000))
    for entry in (ours[:, 0, 0], ours[:, 1, 1]):
        assert abs(float(entry.mean())) < 4 * float(entry.std()) / math.sqrt(2000)
    initializer = keras.initializers.Orthogonal(seed=keras.random.SeedGenerator(0))
    theirs = np.stack([initializer((2, 8)) for _ in range(300)])
    for i, j in ((0, 0), (1, 1), (1, 5)):
        assert stats.ks_2samp(ours[:, i, j], theirs[:, i, j]).pvalue > SAME_DISTRIBUTION


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("zeros", "zeros"),
        ("ones", "ones"),
        ("identity", "identity"),
        (jlstm.Constant(0.3), ("Constant", 0.3)),
        (jlstm.Identity(2.0), ("Identity", 2.0)),
    ],
)
def test_what_is_not_random_is_equal(keras, ours, theirs):
    theirs = theirs if isinstance(theirs, str) else getattr(keras.initializers, theirs[0])(theirs[1])
    replaced = {"kernel_initializer": theirs, "recurrent_initializer": theirs}
    params, weights = both_init(keras, D=4, N=3, kernel_initializer=ours, recurrent_initializer=ours, theirs=replaced)
    for a, b in zip(kp.flat(params), weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("unit_forget_bias", [True, False])
@pytest.mark.parametrize("value", ["zeros", "ones", 0.25])
def test_the_initial_bias_is_laid_out_as_in_keras(keras, unit_forget_bias, value):
    ours = value if isinstance(value, str) else jlstm.Constant(value)
    theirs = value if isinstance(value, str) else keras.initializers.Constant(value)
    params, weights = both_init(
        keras, D=2, N=3, bias_initializer=ours, theirs={"bias_initializer": theirs}, unit_forget_bias=unit_forget_bias
    )
    np.testing.assert_array_equal(params.bias, weights[2])
    other = {"zeros": 0.0, "ones": 1.0}.get(value, value)
    forget = 1.0 if unit_forget_bias else other
    np.testing.assert_array_equal(params.bias, [other] * 3 + [forget] * 3 + [other] * 6)


@pytest.mark.parametrize("name", ["he_uniform", "random_normal", "glorot_normal"])
@pytest.mark.parametrize("unit_forget_bias", [True, False])
def test_a_random_bias_has_the_distribution_of_keras(keras, name, unit_forget_bias):
    """An initializer that looks at the shape sees the pieces that Keras draws: [N] and [2N], or [4N]."""
    n = 3000
    params, weights = both_init(
        keras, D=1, N=n, bias_initializer=name, unit_forget_bias=unit_forget_bias, recurrent_initializer="zeros"
    )
    if unit_forget_bias:
        np.testing.assert_array_equal(params.bias[n : 2 * n], 1)
    for piece in (slice(0, n), slice(2 * n, None)):
        assert_same_distribution(params.bias[piece], weights[2][piece])
