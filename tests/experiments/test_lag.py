"""The lag task against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.lag import Lag

TASK = Lag(lag=3, length=8)


def sample(key, batch_size=4, task=TASK):
    return task.sample(jax.random.key(key), (), batch_size)[1]


def test_target_is_x_k_steps_ago():
    batch = sample(0)
    x, target = np.asarray(batch.x), np.asarray(batch.target)
    assert x.shape == target.shape == (4, 8, 1)
    assert x.dtype == target.dtype == np.float32
    for t in range(3, 8):
        np.testing.assert_array_equal(target[:, t], x[:, t - 3])
    assert not target[:, :3].any()


def test_values_are_uniform_with_variance_one_third():
    x = np.asarray(sample(1, 20_000).x).ravel()
    assert abs(x).max() <= 1.0
    np.testing.assert_allclose(np.histogram(x, bins=4, range=(-1, 1))[0] / x.size, 1 / 4, atol=0.01)
    np.testing.assert_allclose(x.var(), 1 / 3, atol=0.004)


def test_baseline_is_what_zeros_score():
    batch = sample(2, 50_000)
    scores = TASK.metrics(jnp.zeros_like(batch.target), batch)
    assert float(scores["mse"]) == pytest.approx(TASK.baseline()["mse"], abs=0.004)
    assert float(scores["mse_over_variance"]) == pytest.approx(1.0, abs=0.012)
    assert TASK.baseline()["mse_over_variance"] == 1.0


def test_metrics_of_perfect_wrong_and_borderline_outputs():
    batch = sample(3)
    assert float(TASK.metrics(batch.target, batch)["mse"]) == 0.0
    assert float(TASK.metrics(batch.target + 1.0, batch)["mse_over_variance"]) == pytest.approx(3.0)
    # An error of 0.1 standard deviations is the target of 0.01 Var x.
    off = TASK.metrics(batch.target + 0.1 / np.sqrt(3.0), batch)
    assert float(off["mse_over_variance"]) == pytest.approx(0.01, rel=1e-5)


def test_steps_before_the_lag_carry_no_loss():
    batch = sample(4)
    spoiled = batch.target.at[:, :3].set(100.0)
    assert float(TASK.loss(spoiled, batch)) == 0.0
    assert float(TASK.metrics(spoiled, batch)["mse"]) == 0.0
    assert float(TASK.loss(batch.target.at[:, 3].add(1.0), batch)) == pytest.approx(1 / 5)


def test_evaluation_is_fixed_and_apart_from_training():
    key = jax.random.key(0)
    first, again = TASK.evaluation(key), jax.jit(TASK.evaluation)(key)
    np.testing.assert_array_equal(first.x, again.x)
    assert first.x.shape == (256, 8, 1)
    training = TASK.sample(key, (), 256)[1]
    assert not (np.asarray(first.x)[:, None] == np.asarray(training.x)[None]).all(axis=(2, 3)).any()


def test_sample_is_a_function_of_its_key():
    np.testing.assert_array_equal(sample(5).x, sample(5).x)
    assert not np.array_equal(sample(5).x, sample(6).x)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lag": 0}, "lag must be at least 1, got 0"),
        ({"lag": 8, "length": 8}, "length must be greater than lag = 8, got 8"),
    ],
)
def test_fields_out_of_range_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        Lag(**fields)
