"""The multiplication problem against its definition, counted out in NumPy; its pairs are test_adding.py's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks import Batch
from experiments.tasks.multiplication import Multiplication

TASK = Multiplication(length=100)
SAMPLE = jax.jit(TASK.sample, static_argnums=2)
KEY = jax.random.key(0)
MANY = 20_000


@pytest.fixture(scope="module")
def drawn():
    _, batch = SAMPLE(KEY, (), MANY)
    return np.asarray(batch.x), np.asarray(batch.target), np.asarray(batch.lengths)


def test_shapes_and_dtypes(drawn):
    x, target, lengths = drawn
    assert (x.shape, target.shape, lengths.shape) == ((MANY, 110, 2), (MANY, 1), (MANY,))
    assert (x.dtype, target.dtype, lengths.dtype) == (np.float32, np.float32, np.int32)


def test_values_are_uniform_from_zero_to_one(drawn):
    values = drawn[0][:, :100, 0].ravel()
    assert values.min() >= 0.0
    assert values.max() <= 1.0
    np.testing.assert_allclose(np.histogram(values, bins=8, range=(0, 1))[0] / values.size, 1 / 8, atol=0.002)


def test_marks_stand_in_the_first_half_and_the_ends_have_minus_one(drawn):
    x, _, lengths = drawn
    for row, n in zip(x[:2000], lengths[:2000], strict=True):
        marker = row[:n, 1]
        assert marker[0] == marker[n - 1] == -1.0
        (places,) = np.nonzero(marker == 1.0)
        assert len(places) in (1, 2)  # one of the two may have fallen on the first pair
        assert places.max() < 50
        assert not row[n:].any()


def test_target_is_the_product_of_what_is_marked(drawn):
    x, target, _ = drawn
    product = np.array([row[row[:, 1] == 1.0, 0].prod() for row in x])
    np.testing.assert_allclose(target[:, 0], product, rtol=1e-6)
    # A mark on the first pair leaves the other value as it is: 1/10, and 1/49 of the other 9/10.
    single = (x[:, :, 1] == 1.0).sum(axis=1) == 1
    assert single.mean() == pytest.approx(0.1 + 0.9 / 49, abs=0.012)


def test_baseline_is_the_variance_of_the_target(drawn):
    error = np.square(drawn[1][:, 0] - np.mean(drawn[1]))
    assert np.mean(error) == pytest.approx(TASK.baseline()["mse"], abs=5 * np.std(error) / np.sqrt(MANY))


def test_baseline_without_a_mark_on_the_first_pair_would_be_7_in_144():
    # Var of the mixture, one tenth of it a single value: 0.9/9 + 0.1/3 - (0.9/4 + 0.1/2)².
    assert Multiplication(length=10**6).baseline()["mse"] == pytest.approx(0.4 / 3 - 0.275**2, rel=1e-5)
    two = 1 / 9 - 1 / 16
    assert two == pytest.approx(7 / 144)
    assert TASK.baseline()["mse"] > two  # the unknown number of values adds to it


def test_metric_is_the_mean_squared_error():
    target = jnp.array([[0.5], [0.25]])
    batch = Batch(jnp.zeros((2, 110, 2)), target, jnp.full((2,), 110))
    assert float(TASK.metrics(target, batch)["mse"]) == 0.0
    assert float(TASK.metrics(target + jnp.array([[0.1], [-0.3]]), batch)["mse"]) == pytest.approx(0.05)


def test_evaluation_has_2560_sequences_and_none_of_training(drawn):
    evaluation = np.asarray(jax.jit(TASK.evaluation)(KEY).x)
    assert evaluation.shape == (2560, 110, 2)
    rows = {x.tobytes() for x in evaluation}
    assert len(rows) == 2560
    assert not rows & {x.tobytes() for x in drawn[0]}


def test_sample_is_a_function_of_its_key():
    one, same, other = (SAMPLE(jax.random.key(k), (), 4)[1] for k in (5, 5, 6))
    np.testing.assert_array_equal(one.x, same.x)
    np.testing.assert_array_equal(one.target, same.target)
    assert not np.array_equal(one.x, other.x)


def test_too_short_a_length_raises():
    with pytest.raises(ValueError, match="length must be at least 22, got 20"):
        Multiplication(length=20)
