"""The adding problem with values from 0 to 1 against its definition, counted out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks import Batch
from experiments.tasks.adding_unit import AddingUnit

TASK = AddingUnit(length=41)  # odd: halves of 20 and 21 pairs
SAMPLE = jax.jit(TASK.sample, static_argnums=2)
KEY = jax.random.key(0)
MANY = 20_000  # for frequencies: a share of p is then known to sqrt(p (1 - p) / MANY), below 0.004


@pytest.fixture(scope="module")
def drawn():
    _, batch = SAMPLE(KEY, (), MANY)
    assert batch.lengths is None
    return np.asarray(batch.x), np.asarray(batch.target)


def test_shapes_and_dtypes(drawn):
    x, target = drawn
    assert (x.shape, target.shape) == ((MANY, 41, 2), (MANY, 1))
    assert (x.dtype, target.dtype) == (np.float32, np.float32)


def test_each_half_has_one_mark_uniform_over_its_places(drawn):
    marker = drawn[0][:, :, 1]
    assert set(np.unique(marker).tolist()) == {0.0, 1.0}
    np.testing.assert_array_equal(marker[:, :20].sum(axis=1), 1.0)
    np.testing.assert_array_equal(marker[:, 20:].sum(axis=1), 1.0)
    np.testing.assert_allclose(marker[:, :20].mean(axis=0), 1 / 20, atol=0.008)
    np.testing.assert_allclose(marker[:, 20:].mean(axis=0), 1 / 21, atol=0.008)


def test_values_are_uniform_from_zero_to_one(drawn):
    values = drawn[0][:, :, 0].ravel()
    assert values.min() >= 0.0
    assert values.max() <= 1.0
    np.testing.assert_allclose(np.histogram(values, bins=8, range=(0, 1))[0] / values.size, 1 / 8, atol=0.002)


def test_target_is_recomputed_from_the_marks(drawn):
    x, target = drawn
    total = np.array([row[row[:, 1] == 1.0, 0].sum() for row in x])
    np.testing.assert_allclose(target[:, 0], total, atol=1e-6)


def test_baseline_is_what_one_scores(drawn):
    error = np.square(drawn[1][:, 0] - 1.0)
    assert np.mean(error) == pytest.approx(TASK.baseline()["mse"], abs=5 * np.std(error) / np.sqrt(MANY))


def test_metric_is_the_mean_squared_error():
    target = jnp.array([[0.5], [1.5]])
    batch = Batch(jnp.zeros((2, 41, 2)), target)
    assert float(TASK.metrics(target, batch)["mse"]) == 0.0
    assert float(TASK.metrics(target + jnp.array([[0.1], [-0.3]]), batch)["mse"]) == pytest.approx(0.05)


def test_evaluation_has_1000_sequences_and_none_of_training(drawn):
    evaluation = np.asarray(jax.jit(TASK.evaluation)(KEY).x)
    assert evaluation.shape == (1000, 41, 2)
    rows = {x.tobytes() for x in evaluation}
    assert len(rows) == 1000
    assert not rows & {x.tobytes() for x in drawn[0]}


def test_sample_is_a_function_of_its_key():
    one, same, other = (SAMPLE(jax.random.key(k), (), 4)[1] for k in (5, 5, 6))
    np.testing.assert_array_equal(one.x, same.x)
    np.testing.assert_array_equal(one.target, same.target)
    assert not np.array_equal(one.x, other.x)


def test_too_short_a_length_raises():
    with pytest.raises(ValueError, match="length must be at least 2, got 1"):
        AddingUnit(length=1)
