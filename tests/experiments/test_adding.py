"""The adding problem against its definition, counted out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks import Batch
from experiments.tasks.adding import Adding

TASK = Adding(length=100)
SAMPLE = jax.jit(TASK.sample, static_argnums=2)
MANY = 20_000  # for frequencies: a share of p is then known to sqrt(p (1 - p) / MANY), below 0.004


@pytest.fixture(scope="module")
def drawn():
    _, batch = SAMPLE(jax.random.key(3), (), MANY)
    return np.asarray(batch.x), np.asarray(batch.target), np.asarray(batch.lengths)


def test_shapes_and_dtypes(drawn):
    x, target, lengths = drawn
    assert (x.shape, target.shape, lengths.shape) == ((MANY, 110, 2), (MANY, 1), (MANY,))
    assert (x.dtype, target.dtype, lengths.dtype) == (np.float32, np.float32, np.int32)


def test_lengths_are_uniform_from_t_to_a_tenth_more(drawn):
    _, _, lengths = drawn
    values, counts = np.unique(lengths, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(100, 111))
    np.testing.assert_allclose(counts / MANY, 1 / 11, atol=0.01)


def test_markers_stand_where_the_paper_puts_them(drawn):
    x, _, lengths = drawn
    for row, n in zip(x[:2000], lengths[:2000], strict=True):
        marker = row[:n, 1]
        assert marker[0] == marker[n - 1] == -1.0
        inner = marker[1 : n - 1]
        assert set(inner.tolist()) <= {0.0, 1.0}
        (places,) = np.nonzero(inner == 1.0)
        places += 1
        assert len(places) in (1, 2)  # one of the two may have fallen on the first pair
        assert places.min() < 10 or len(places) == 1
        assert places.max() < 50
        assert not row[n:].any()


def test_each_mark_is_uniform_over_its_places(drawn):
    x, _, _ = drawn
    marked = (x[:, :, 1] == 1.0).mean(axis=0)
    # Among the first ten: the first mark, 1/10, and the second, 1/49 where the first is elsewhere (9 of 10).
    np.testing.assert_allclose(marked[1:10], 1 / 10 + 0.9 / 49, atol=0.01)
    np.testing.assert_allclose(marked[10:50], 1 / 49, atol=0.005)
    assert marked[0] == 0.0
    assert marked[50:].sum() == 0.0


def test_values_are_uniform_from_minus_one_to_one(drawn):
    x, _, _ = drawn
    values = x[:, :100, 0].ravel()
    assert abs(values).max() <= 1.0
    counts, _ = np.histogram(values, bins=8, range=(-1, 1))
    np.testing.assert_allclose(counts / values.size, 1 / 8, atol=0.002)


def test_target_is_recomputed_from_the_markers(drawn):
    x, target, _ = drawn
    total = np.array([row[row[:, 1] == 1.0, 0].sum() for row in x])
    np.testing.assert_allclose(target[:, 0], 0.5 + total / 4, atol=1e-6)


def test_baseline_is_what_one_half_scores(drawn):
    _, target, _ = drawn
    error = np.abs(target[:, 0] - 0.5)
    expected = TASK.baseline()
    # Five standard errors of each mean.
    np.testing.assert_allclose(np.mean(error**2), expected["mse"], atol=5 * np.std(error**2) / np.sqrt(MANY))
    np.testing.assert_allclose(np.mean(error < 0.04), expected["correct"], atol=5 * 0.36 / np.sqrt(MANY))


def test_baseline_nears_one_in_24_where_the_first_pair_is_never_marked():
    # 2/48 is the usual figure; a tenth of a value is missing from it however long the sequence.
    assert Adding(length=10**6).baseline()["mse"] == pytest.approx(1.9 / 48, rel=1e-5)


def test_metrics_of_perfect_wrong_and_borderline_outputs():
    target = jnp.array([[0.5], [0.25], [1.0], [0.0]])
    batch = Batch(jnp.zeros((4, 110, 2)), target, jnp.full((4,), 110))
    perfect = TASK.metrics(target, batch)
    assert (float(perfect["mse"]), float(perfect["correct"])) == (0.0, 1.0)
    wrong = TASK.metrics(target + 0.5, batch)
    assert (float(wrong["mse"]), float(wrong["correct"])) == (0.25, 0.0)
    edge = TASK.metrics(target + jnp.array([[0.0399], [-0.0399], [0.0401], [-0.0401]]), batch)
    assert float(edge["correct"]) == 0.5
    assert float(TASK.loss(target + 0.5, batch)) == 0.25


def test_evaluation_has_2560_sequences_and_none_of_training():
    key = jax.random.key(0)
    evaluation = jax.jit(TASK.evaluation)(key)
    assert evaluation.x.shape == (2560, 110, 2)
    _, training = SAMPLE(key, (), 2560)
    shared = np.intersect1d(np.asarray(evaluation.x[:, 1, 0]), np.asarray(training.x[:, 1, 0]))
    assert len(shared) < 10  # single values meet by chance (2^-23 apart); whole sequences cannot


def test_sample_is_a_function_of_its_key():
    one, same, other = (SAMPLE(jax.random.key(k), (), 4)[1] for k in (5, 5, 6))
    np.testing.assert_array_equal(one.x, same.x)
    np.testing.assert_array_equal(one.target, same.target)
    np.testing.assert_array_equal(one.lengths, same.lengths)
    assert not np.array_equal(one.x, other.x)


def test_too_short_a_length_raises():
    with pytest.raises(ValueError, match="length must be at least 22, got 20"):
        Adding(length=20)
