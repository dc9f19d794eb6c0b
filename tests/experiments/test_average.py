"""The moving average of an endless stream against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks import Batch
from experiments.tasks.average import MovingAverage

ROUNDING = 1e-7  # float32 around 0.1


def chunks(task, count, batch_size=3, seed=0):
    """The stream's start, and `count` batches of it."""
    key = jax.random.key(seed)
    stream = start = task.stream(jax.random.fold_in(key, 1000), batch_size)
    batches = []
    for step in range(count):
        stream, batch = task.sample(jax.random.fold_in(key, step), stream, batch_size)
        batches.append(batch)
    return start, batches


@pytest.mark.parametrize("chunk", [1, 5])
def test_chunks_are_pieces_of_one_stream(chunk):
    start, batches = chunks(MovingAverage(chunk=chunk), 6)
    x = np.concatenate([np.asarray(start)[:, None], *(np.asarray(b.x) for b in batches)], axis=1)[:, :, 0]
    target = np.concatenate([np.asarray(b.target) for b in batches], axis=1)[:, :, 0]
    assert x.shape == (3, 6 * chunk + 1)
    assert target.shape == (3, 6 * chunk)
    for row in range(3):
        np.testing.assert_allclose(target[row], np.convolve(x[row], [0.5, 0.5], mode="valid"), atol=ROUNDING)
    assert len(np.unique(x)) == x.size  # no chunk is drawn twice


def test_values_are_uniform_within_a_tenth():
    _, (batch,) = chunks(MovingAverage(chunk=100), 1, batch_size=1000)
    x = np.asarray(batch.x).ravel()
    assert abs(x).max() <= 0.1
    np.testing.assert_allclose(np.histogram(x, bins=4, range=(-0.1, 0.1))[0] / x.size, 1 / 4, atol=0.01)


@pytest.mark.parametrize("row", [1, 1000])
def test_evaluation_is_one_stream_of_a_million_steps_cut_into_rows(row):
    batch = jax.jit(MovingAverage(evaluation_chunk=row).evaluation)(jax.random.key(0))
    assert batch.x.shape == batch.target.shape == (1_000_000 // row, row, 1)
    x, target = np.asarray(batch.x).ravel(), np.asarray(batch.target).ravel()
    np.testing.assert_allclose(target[1:], (x[:-1] + x[1:]) / 2, atol=ROUNDING)


def test_baseline_is_what_half_of_x_scores():
    task = MovingAverage(evaluation_chunk=1)
    batch = task.evaluation(jax.random.key(1))
    scores = task.metrics(batch.x / 2, batch)
    assert task.baseline()["mse"] == pytest.approx(8.333e-4, rel=1e-3)
    assert float(scores["mse"]) == pytest.approx(task.baseline()["mse"], rel=0.01)
    assert float(scores["mse_over_floor"]) == pytest.approx(1.0, rel=0.01)


def test_nothing_linear_in_x_alone_does_better_than_the_floor():
    task = MovingAverage(evaluation_chunk=1)
    batch = task.evaluation(jax.random.key(2))
    scores = [task.metrics(a * batch.x, batch)["mse_over_floor"] for a in (0.0, 0.45, 0.49, 0.51, 0.55, 1.0)]
    assert min(map(float, scores)) > 0.98


def test_metrics_of_perfect_wrong_and_borderline_outputs():
    task = MovingAverage(chunk=4)
    batch = Batch(jnp.zeros((2, 4, 1)), jnp.full((2, 4, 1), 0.05))
    assert float(task.metrics(batch.target, batch)["mse"]) == 0.0
    assert float(task.loss(batch.target + 1.0, batch)) == pytest.approx(1.0)
    off = task.metrics(batch.target + 0.1 / np.sqrt(12.0), batch)  # the deviation of x[t-1] / 2
    assert float(off["mse_over_floor"]) == pytest.approx(1.0, rel=1e-4)


def test_stream_and_sample_are_functions_of_their_keys():
    task = MovingAverage(chunk=4)
    for one, two in zip(chunks(task, 2)[1], chunks(task, 2)[1], strict=True):
        np.testing.assert_array_equal(one.x, two.x)
        np.testing.assert_array_equal(one.target, two.target)
    assert not np.array_equal(chunks(task, 1)[1][0].x, chunks(task, 1, seed=1)[1][0].x)


def test_fields_out_of_range_raise():
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        MovingAverage(chunk=0)
    with pytest.raises(ValueError, match="evaluation_chunk must be a divisor of 1000000, got 3"):
        MovingAverage(evaluation_chunk=3)
