"""The long-lag task 2c against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks import Batch
from experiments.tasks.long_lag import LongLag

Q, P = 4, 5
TASK = LongLag(q=Q, p=P, evaluation_sequences=300)
END, BEGIN, X, Y = P, P + 1, P + 2, P + 3
MANY = 20_000


@pytest.fixture(scope="module")
def drawn():
    batch = jax.jit(TASK.sample, static_argnums=2)(jax.random.key(1), (), MANY)[1]
    return np.asarray(batch.x), np.asarray(batch.target), np.asarray(batch.lengths)


def test_every_sequence_is_one_of_the_grammar(drawn):
    x, target, lengths = drawn
    assert (x.shape, x.dtype, target.dtype, lengths.dtype) == ((MANY, Q + 103, P + 4), np.float32, np.int32, np.int32)
    np.testing.assert_array_equal(x.sum(axis=-1), np.arange(x.shape[1]) < lengths[:, None])  # one-hot, then nothing
    symbols = x.argmax(axis=-1)
    np.testing.assert_array_equal(symbols[:, 0], BEGIN)
    np.testing.assert_array_equal(symbols[:, 1], np.where(target == 0, X, Y))
    np.testing.assert_array_equal(symbols[np.arange(MANY), lengths - 1], END)
    step = np.arange(x.shape[1])
    between = symbols[(step >= 2) & (step < lengths[:, None] - 1)]
    assert set(between.tolist()) == set(range(P))
    np.testing.assert_allclose(np.bincount(between) / between.size, 1 / P, atol=0.004)  # 5 standard errors
    assert lengths.min() == Q + 3
    np.testing.assert_allclose(target.mean(), 0.5, atol=0.018)


def test_another_distractor_comes_with_probability_nine_tenths(drawn):
    extra = drawn[2] - (Q + 3)
    for k in (0, 1, 5, 20):
        np.testing.assert_allclose(np.mean(extra >= k + 1), 0.9 ** (k + 1), atol=0.018)
    # The mean of k is 9: a sequence has q + 13 symbols, the last one too, where the paper says q + 14.
    np.testing.assert_allclose(extra.mean(), 9.0, atol=5 * 9.5 / np.sqrt(MANY))


def test_the_cap_is_kept_and_keeps_the_proportions():
    task = LongLag(q=Q, p=P, max_extra=2)
    lengths = jax.jit(task.sample, static_argnums=2)(jax.random.key(2), (), MANY)[1].lengths
    counts = np.bincount(np.asarray(lengths) - (Q + 3)) / MANY
    np.testing.assert_allclose(counts, np.array([1.0, 0.9, 0.81]) / 2.71, atol=0.018)


def test_evaluation_has_its_size_and_none_of_training():
    task = LongLag(q=30, p=30, evaluation_sequences=300)
    key = jax.random.key(0)
    unseen = jax.jit(task.evaluation)(key)
    training = jax.jit(task.sample, static_argnums=2)(key, (), 300)[1]
    assert unseen.x.shape == (300, 133, 34)

    def strings(batch):
        return {row.tobytes() for row in np.asarray(batch.x.argmax(axis=-1))}

    assert len(strings(unseen)) == 300
    assert not strings(unseen) & strings(training)
    assert LongLag().evaluation_sequences == 10_000  # the paper's


def test_metrics_of_outputs_just_inside_and_outside():
    batch = Batch(jnp.zeros((3, 1, P + 4)), jnp.array([0, 1, 1]))
    outputs = jnp.log(jnp.array([[0.81, 0.19], [0.21, 0.79], [0.01, 0.99]]))
    scores = TASK.metrics(outputs, batch)
    assert float(scores["max_error"]) == pytest.approx(0.21, rel=1e-5)
    assert float(scores["correct"]) == pytest.approx(2 / 3)
    assert float(TASK.loss(outputs, batch)) == pytest.approx(-np.log([0.81, 0.79, 0.99]).mean(), rel=1e-5)


def test_baseline_is_what_one_half_scores(drawn):
    batch = Batch(*map(jnp.asarray, drawn))
    scores = TASK.metrics(jnp.zeros((MANY, 2)), batch)
    assert {name: float(value) for name, value in scores.items()} == TASK.baseline()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"q": 0}, "q must be at least 1, got 0"),
        ({"p": 0}, "p must be at least 1, got 0"),
        ({"evaluation_sequences": 0}, "evaluation_sequences must be at least 1, got 0"),
        ({"max_extra": -1}, "max_extra must be at least 0, got -1"),
    ],
)
def test_fields_out_of_range_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        LongLag(**fields)
