"""Activations, initializers, regularizers and constraints by Keras's names: their numbers, worked out in NumPy."""

import math

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlstm
from jlstm import named

X = np.array([-40, -6, -3, -2.5, -1, -0.6, -0.5, -0.1, 0, 0.1, 0.5, 0.6, 1, 2.5, 3, 6, 7])
KEY = jax.random.key(3)
# log(1 + exp(x)) and its kin in float32, relative to values of up to 40
TOL = {"rtol": 2e-6, "atol": 1e-6}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(x, 0)


def erf(x):
    return np.array([math.erf(v) for v in x])


def elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


ACTIVATIONS = {
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hard_sigmoid_keras2": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "elu": elu,
    "celu": elu,
    "selu": lambda x: 1.0507009873554805 * elu(x, 1.6732632423543772),
    "gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "silu": lambda x: x * sigmoid(x),
    "swish": lambda x: x * sigmoid(x),
    "hard_silu": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "softplus": softplus,
    "exponential": np.exp,
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
    "relu6": lambda x: np.clip(x, 0, 6),
    "mish": lambda x: x * np.tanh(softplus(x)),
    "log_sigmoid": lambda x: -softplus(-x),
    "sparse_plus": lambda x: np.where(x <= -1, 0, np.where(x >= 1, x, (x + 1) ** 2 / 4)),
    "sparse_sigmoid": lambda x: np.clip((x + 1) / 2, 0, 1),
    "squareplus": lambda x: (x + np.sqrt(x**2 + 4)) / 2,
    "soft_shrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    "hard_shrink": lambda x: np.where(np.abs(x) > 0.5, x, 0),
    "tanh_shrink": lambda x: x - np.tanh(x),
    "softmax": lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum(),
    "log_softmax": lambda x: x - x.max() - np.log(np.exp(x - x.max()).sum()),
}


def test_every_activation_name_is_tested():
    assert set(ACTIVATIONS) == set(named.ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activation_by_name(name, dtype):
    got = named.activation("activation", name)(jnp.asarray(X, dtype))
    assert got.dtype == dtype
    rounded = np.asarray(jnp.asarray(X, dtype), np.float64)
    # squareplus cancels at x = -40 in float32: (x + sqrt(x² + 4)) / 2 loses all but a few of its 24 bits
    tolerance = {"rtol": 3e-2, "atol": 3e-2} if dtype == "bfloat16" else TOL if name != "squareplus" else {"atol": 4e-6}
    np.testing.assert_allclose(np.asarray(got, np.float64), ACTIVATIONS[name](rounded), **tolerance)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_has_finite_gradients(name):
    function = named.activation("activation", name)
    grad = jax.vmap(jax.grad(lambda x: function(x[None] if "softmax" not in name else jnp.stack([x, x]))[0]))
    assert np.all(np.isfinite(grad(jnp.asarray(X, "float32"))))


def test_activation_by_value_and_callable():
    x = jnp.array([-10.0, -1, 0, 1, 10])
    by_hand = {
        jlstm.HardSigmoid(): [0, 0.3, 0.5, 0.7, 1],
        jlstm.HardSigmoid(alpha=0.5, beta=0.25): [0, 0, 0.25, 0.75, 1],
        jlstm.LeakyReLU(0.1): [-1, -0.1, 0, 1, 10],
        jlstm.Affine(2.0, -1.0): [-21, -3, -1, 1, 19],
        jlstm.ScaledTanh(2.0, 0.5): [2 * math.tanh(0.5 * v) for v in (-10, -1, 0, 1, 10)],
        jlstm.ThresholdedReLU(1.0): [0, 0, 0, 1, 10],
        jlstm.ThresholdedReLU(1.5): [0, 0, 0, 0, 10],
        jlstm.ELU(2.0): [2 * math.expm1(-10), 2 * math.expm1(-1), 0, 1, 10],
        jnp.abs: [10, 1, 0, 1, 10],
    }
    for value, expected in by_hand.items():
        np.testing.assert_allclose(named.activation("activation", value)(x), expected, **TOL)


def test_none_is_linear():
    assert jlstm.LSTM(2, activation=None) == jlstm.LSTM(2, activation="linear")
    assert jlstm.LSTM(2, recurrent_activation=None).recurrent_activation == "linear"


# --- regularizers and constraints -----------------------------------------------------------------------------------

W = np.array([[3.0, 0.0, -0.6], [4.0, 0.0, 0.8]])


@pytest.mark.parametrize(
    ("regularizer", "expected"),
    [
        ("l1", 0.01 * 8.4),
        ("l2", 0.01 * 26),
        ("l1_l2", 0.0),
        (jlstm.L1(0.5), 4.2),
        (jlstm.L2(0.5), 13),
        (jlstm.L1L2(l1=0.5, l2=0.25), 4.2 + 6.5),
        (jlstm.L1L2(l2=0.25), 6.5),
        # rows (3, 0, -.6) and (4, 0, .8): one pair, |cosine| = (12 - .48) / (√9.36 √16.64)
        ("orthogonal_regularizer", 0.01 * 11.52 / math.sqrt(9.36 * 16.64)),
        # columns (3, 4), (0, 0), (-.6, .8): of three pairs one has a cosine, (-1.8 + 3.2) / 5
        (jlstm.OrthogonalRegularizer(1.0, "columns"), 0.28 / 3),
        (lambda w: jnp.max(w), 4),
    ],
)
def test_regularizer_by_hand(regularizer, expected):
    np.testing.assert_allclose(named.regularizer("r", regularizer)(cases.array(W)), expected, **TOL)


@pytest.mark.parametrize("name", named.REGULARIZERS)
def test_regularizer_has_a_finite_gradient_where_a_row_is_zero(name):
    grad = jax.grad(named.regularizer("r", name))(jnp.zeros((2, 3)))
    assert np.all(np.isfinite(grad))


def norm(w, axis=0):
    return np.linalg.norm(w, axis=axis, keepdims=True)


# columns of W: norms 5, 0, 1
@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        ("max_norm", np.stack([[1.2, 1.6], [0, 0], [-0.6, 0.8]], 1)),
        ("non_neg", np.stack([[3, 4], [0, 0], [0, 0.8]], 1)),
        ("unit_norm", np.stack([[0.6, 0.8], [0, 0], [-0.6, 0.8]], 1)),
        ("min_max_norm", np.stack([[0.6, 0.8], [0, 0], [-0.6, 0.8]], 1)),
        (jlstm.MaxNorm(0.5), np.stack([[0.3, 0.4], [0, 0], [-0.3, 0.4]], 1)),
        (jlstm.MaxNorm(3.0, axis=1), W * np.minimum(norm(W, 1), 3) / norm(W, 1)),
        (jlstm.MaxNorm(1.0, axis=(0, 1)), W / math.sqrt(26)),
        (jlstm.UnitNorm(axis=1), W / norm(W, 1)),
        (jlstm.MinMaxNorm(min_value=2.0, max_value=3.0), np.stack([[1.8, 2.4], [0, 0], [-1.2, 1.6]], 1)),
        # half of the way: 5 -> (3 + 5) / 2 = 4 and 1 -> (2 + 1) / 2 = 1.5
        (jlstm.MinMaxNorm(2.0, 3.0, rate=0.5), np.stack([[2.4, 3.2], [0, 0], [-0.9, 1.2]], 1)),
        (jlstm.NonNeg(), np.maximum(W, 0)),
        (jnp.abs, np.abs(W)),
    ],
)
def test_constraint_by_hand(constraint, expected):
    np.testing.assert_allclose(named.constraint("c", constraint)(cases.array(W)), expected, **TOL)


# --- initializers ---------------------------------------------------------------------------------------------------

SHAPE = (60, 100)
COUNT = 6000


def uniform(limit):
    return {"mean": 0, "stddev": limit / math.sqrt(3), "low": -limit, "high": limit}


def truncated(stddev, mean=0.0):
    """Truncated at two of its own standard deviations, which leaves 0.8796 of them."""
    return {
        "mean": mean,
        "stddev": stddev * 0.87962566103423978,
        "low": mean - 2 * stddev,
        "high": mean + 2 * stddev,
    }


def normal(stddev, mean=0.0):
    return {"mean": mean, "stddev": stddev, "low": -math.inf, "high": math.inf}


def scaled(variance):
    return truncated(math.sqrt(variance) / 0.87962566103423978)


@pytest.mark.parametrize(
    ("initializer", "law"),
    [
        ("random_normal", normal(0.05)),
        ("random_uniform", uniform(0.05)),
        ("truncated_normal", truncated(0.05)),
        ("glorot_uniform", uniform(math.sqrt(6 / 160))),
        ("glorot_normal", scaled(2 / 160)),
        ("he_uniform", uniform(math.sqrt(6 / 60))),
        ("he_normal", scaled(2 / 60)),
        ("lecun_uniform", uniform(math.sqrt(3 / 60))),
        ("lecun_normal", scaled(1 / 60)),
        ("variance_scaling", scaled(1 / 60)),
        (jlstm.VarianceScaling(2.0, "fan_out", "untruncated_normal"), normal(math.sqrt(2 / 100))),
        (jlstm.RandomNormal(1.0, 0.5), normal(0.5, 1.0)),
        (jlstm.TruncatedNormal(1.0, 0.5), truncated(0.5, 1.0)),
        (jlstm.RandomUniform(-1.0, 1.0), uniform(1.0)),
        (jlstm.TorchUniform(25), uniform(0.2)),
    ],
)
def test_initializer_draws_its_distribution(initializer, law):
    w = np.asarray(named.initializer("i", initializer)(KEY, SHAPE, "float32"), np.float64)
    assert w.shape == SHAPE
    assert w.min() >= law["low"] - 1e-6
    assert w.max() <= law["high"] + 1e-6
    if math.isfinite(law["high"]):
        assert w.max() > law["mean"] + 0.9 * (law["high"] - law["mean"])  # 6000 draws come close to the edge
    else:
        assert w.max() > law["mean"] + 3 * law["stddev"]  # and a normal that is not truncated leaves it behind
    # five standard errors: stddev/√n of the mean, at most stddev/√(2n) of the standard deviation
    np.testing.assert_allclose(w.mean(), law["mean"], atol=5 * law["stddev"] / math.sqrt(COUNT))
    np.testing.assert_allclose(w.std(), law["stddev"], rtol=5 / math.sqrt(2 * COUNT))


def test_initializer_of_constants():
    def draw(initializer, shape=(2, 3)):
        return np.asarray(named.initializer("i", initializer)(KEY, shape, "float32"))

    np.testing.assert_array_equal(draw("zeros"), np.zeros((2, 3)))
    np.testing.assert_array_equal(draw("ones"), np.ones((2, 3)))
    np.testing.assert_array_equal(draw("constant"), np.zeros((2, 3)))
    np.testing.assert_array_equal(draw(jlstm.Constant(0.5)), np.full((2, 3), 0.5))
    np.testing.assert_array_equal(draw("identity"), np.eye(2, 3))
    np.testing.assert_array_equal(draw(jlstm.Identity(3.0)), 3 * np.eye(2, 3))


@pytest.mark.parametrize("shape", [(4, 16), (6, 3), (5, 5)])
def test_orthogonal(shape):
    w = np.asarray(jlstm.Orthogonal()(KEY, shape, "float32"), np.float64)
    gram = w @ w.T if shape[0] <= shape[1] else w.T @ w
    np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-5)  # QR in float32


def test_a_vector_is_its_own_fan():
    w = np.asarray(named.initializer("i", "glorot_uniform")(KEY, (6000,), "float32"))
    assert 0.99 * math.sqrt(6 / 12000) < np.max(np.abs(w)) <= math.sqrt(6 / 12000)


@pytest.mark.parametrize("name", named.INITIALIZERS)
def test_initializer_dtype(name):
    for dtype in ("bfloat16", "float32"):
        assert named.initializer("i", name)(KEY, (4, 8), dtype).dtype == dtype
