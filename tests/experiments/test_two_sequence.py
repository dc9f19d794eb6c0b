"""The two-sequence tasks 3a, 3b and 3c against their definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks import Batch
from experiments.tasks.two_sequence import TwoSequence

TASKS = {name: TwoSequence(variant=name, length=30) for name in ("3a", "3b", "3c")}
MANY = 20_000
STOP = 256  # sequences of the evaluation that decide when to stop, before the 2,560 of the test


@functools.cache
def evaluation_of(name):
    return jax.jit(TASKS[name].evaluation)(jax.random.key(0))


@functools.cache
def drawn(name):
    batch = jax.jit(TASKS[name].sample, static_argnums=2)(jax.random.key(5), (), MANY)[1]
    return tuple(map(np.asarray, batch[:3]))


@pytest.mark.parametrize("name", TASKS)
def test_lengths_are_uniform_from_t_to_a_tenth_more_and_padded_with_zeros(name):
    x, target, lengths = drawn(name)
    assert (x.shape, target.shape, x.dtype, target.dtype) == ((MANY, 33, 1), (MANY, 1), np.float32, np.float32)
    np.testing.assert_allclose(np.bincount(lengths)[30:] / MANY, 1 / 4, atol=0.016)  # 5 standard errors
    assert not x[np.arange(33) >= lengths[:, None]].any()


@pytest.mark.parametrize(("name", "first_variance"), [("3a", 0.0), ("3b", 0.2), ("3c", 0.0)])
def test_first_values_tell_the_class_and_the_others_are_noise(name, first_variance):
    x, target, lengths = drawn(name)
    value = np.sign(x[:, :3, 0].sum(axis=1))  # what 3b's noise hides once in 19,000
    np.testing.assert_allclose(np.mean(value == 1.0), 0.5, atol=0.018)
    off = x[:, :3, 0] - value[:, None]
    np.testing.assert_allclose(off.var(axis=0), first_variance, atol=0.01)
    if name != "3c":
        assert np.mean(target[:, 0] == (value == 1.0)) > 0.999
    noise = x[(np.arange(33) >= 3) & (np.arange(33) < lengths[:, None])]
    np.testing.assert_allclose([noise.mean(), noise.var()], [0.0, 0.2], atol=0.004)
    assert np.abs(noise).max() > 4 * np.sqrt(0.2)  # Gaussian: 1 in 16,000 is beyond 4 deviations
    # And says nothing about the class.
    for one in (-1.0, 1.0):
        np.testing.assert_allclose(x[value == one, 3:30].mean(), 0.0, atol=0.005)


def test_targets_of_3c_are_noisy_in_training_and_exact_in_the_evaluation():
    x, target, _ = drawn("3c")
    for value, mean in ((1.0, 0.2), (-1.0, 0.8)):
        noisy = target[x[:, 0, 0] == value]
        np.testing.assert_allclose([noisy.mean(), noisy.var()], [mean, 0.1], atol=0.016)
    evaluation = evaluation_of("3c")
    expected = np.where(np.asarray(evaluation.x[:, 0]) == 1.0, 0.2, 0.8)
    np.testing.assert_allclose(evaluation.target, expected, rtol=1e-6)


def test_number_of_informative_values_is_the_field_s():
    task = TwoSequence(informative=1, length=30)
    x = np.asarray(jax.jit(task.sample, static_argnums=2)(jax.random.key(0), (), 100)[1].x)
    assert (np.abs(x[:, 0]) == 1.0).all()
    assert not (np.abs(x[:, 1]) == 1.0).any()


def test_evaluation_has_256_and_2560_sequences_none_of_training():
    evaluation = evaluation_of("3a")
    assert evaluation.x.shape == (STOP + 2560, 33, 1)
    training = jax.jit(TASKS["3a"].sample, static_argnums=2)(jax.random.key(0), (), STOP + 2560)[1]
    shared = np.intersect1d(np.asarray(evaluation.x[:, 3]), np.asarray(training.x[:, 3]))
    assert len(shared) < 10  # single values meet by chance; whole sequences cannot


def scored(name, stop_errors, test_errors):
    """Score outputs that are off by the given amounts, [256] and [2560]."""
    evaluation = evaluation_of(name)
    errors = np.concatenate([stop_errors, test_errors]).astype(np.float32)[:, None]
    scores = TASKS[name].metrics(evaluation.target + errors, evaluation)
    return {key: float(value) for key, value in scores.items()}


def some(size, count, error):
    """Errors of 0 but for `count` of them."""
    return np.where(np.arange(size) < count, error, 0.0)


@pytest.mark.parametrize(
    ("name", "tolerance", "allowed", "mean"), [("3a", 0.2, 0, 0.01), ("3b", 0.2, 5, 0.04), ("3c", 0.1, 0, 0.015)]
)
def test_solved_by_the_paper_s_rule(name, tolerance, allowed, mean):
    none, test = np.zeros(256), np.zeros(2560)
    assert scored(name, none, test) == {"solved": 1.0, "misclassified": 0.0, "mean_error": 0.0}
    # So many of the 256 may be wrong, and no more.
    assert scored(name, some(256, allowed, 1.01 * tolerance), test)["solved"] == 1.0
    assert scored(name, some(256, allowed + 1, 1.01 * tolerance), test)["solved"] == 0.0
    assert scored(name, some(256, 3, 0.99 * tolerance), test)["solved"] == 1.0
    # The mean error of the 256.
    assert scored(name, np.full(256, 0.99 * mean), test)["solved"] == 1.0
    assert scored(name, np.full(256, -1.01 * mean), test)["solved"] == 0.0
    # The share of the 2,560: 25 are below 1 %.
    scores = scored(name, none, some(2560, 25, -1.01 * tolerance))
    assert (scores["solved"], scores["misclassified"]) == (1.0, pytest.approx(25 / 2560))
    assert scores["mean_error"] == pytest.approx(25 * 1.01 * tolerance / 2560, rel=1e-4)
    assert scored(name, none, some(2560, 26, -1.01 * tolerance))["solved"] == 0.0


@pytest.mark.parametrize("name", TASKS)
def test_baseline_is_what_the_same_answer_for_all_scores(name):
    task = TASKS[name]
    evaluation = evaluation_of(name)
    (answer,) = {"3a": [1.0], "3b": [1.0], "3c": [0.2]}[name]
    scores = task.metrics(jnp.full_like(evaluation.target, answer), evaluation)
    for metric, expected in task.baseline().items():
        assert float(scores[metric]) == pytest.approx(expected, abs=0.05)  # 5 standard errors of 2,560 coins


def test_loss_is_the_squared_error():
    batch = Batch(jnp.zeros((2, 33, 1)), jnp.array([[1.0], [0.0]]))
    assert float(TASKS["3a"].loss(jnp.array([[0.5], [1.0]]), batch)) == pytest.approx((0.25 + 1.0) / 2)


@pytest.mark.parametrize("informative", [0, 30])
def test_fields_out_of_range_raise(informative):
    with pytest.raises(ValueError, match=f"informative must be at least 1 and below length = 30, got {informative}"):
        TwoSequence(length=30, informative=informative)
