"""Parity against its definition, counted out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.parity import Parity

TASK = Parity()
EVERY = Parity(every_step=True)
MANY = 10_000  # for frequencies: a share of p is then known to sqrt(p (1 - p) / MANY), at most 0.005
SAMPLE = jax.jit(TASK.sample, static_argnums=2)
SAMPLE_EVERY = jax.jit(EVERY.sample, static_argnums=2)


@pytest.fixture(scope="module")
def drawn():
    batch = SAMPLE(jax.random.key(3), (), MANY)[1]
    return np.asarray(batch.x), np.asarray(batch.target), np.asarray(batch.lengths)


@pytest.fixture(scope="module")
def evaluation():
    return jax.jit(TASK.evaluation)(jax.random.key(0))


def parities(x, lengths):
    """The parity after each string's last bit, by counting."""
    return np.array([sum(1 for bit in row[:n, 0] if bit == 1.0) % 2 for row, n in zip(x, lengths, strict=True)])


def test_target_is_the_parity_of_the_ones(drawn):
    x, target, lengths = drawn
    assert (x.shape, target.shape, lengths.shape) == ((MANY, 50, 1), (MANY, 1), (MANY,))
    assert (x.dtype, target.dtype, lengths.dtype) == (np.float32, np.float32, np.int32)
    np.testing.assert_array_equal(target[:, 0], parities(x, lengths))


def test_bits_are_fair_within_the_length_and_padded_behind_it(drawn):
    x, _, lengths = drawn
    valid = np.arange(50) < lengths[:, None]
    np.testing.assert_array_equal(abs(x[..., 0]), valid)
    ones = (x[..., 0] == 1.0).sum(axis=0) / valid.sum(axis=0)
    assert (abs(ones - 1 / 2) < 5 * 0.5 / np.sqrt(valid.sum(axis=0))).all()


def test_lengths_are_uniform(drawn):
    np.testing.assert_allclose(np.bincount(drawn[2], minlength=51)[1:] / MANY, 1 / 50, atol=0.007)
    fixed = jax.jit(Parity(min_length=50).sample, static_argnums=2)(jax.random.key(0), (), 100)[1]
    assert (np.asarray(fixed.lengths) == 50).all()


def test_every_step_asks_for_the_parity_so_far():
    batch = SAMPLE_EVERY(jax.random.key(4), (), 50)[1]
    x, target, lengths = (np.asarray(a) for a in (batch.x, batch.target, batch.lengths))
    assert target.shape == (50, 50, 1)
    for t in range(50):
        there = t < lengths
        np.testing.assert_array_equal(target[there, t, 0], parities(x[there], np.full(there.sum(), t + 1)))
        assert not target[~there, t].any()


def test_evaluation_has_every_length_to_50_and_1000_of_200(evaluation):
    lengths = np.asarray(evaluation.lengths)
    assert evaluation.x.shape == (2000, 200, 1)
    np.testing.assert_array_equal(np.bincount(lengths, minlength=201), [0] + [20] * 50 + [0] * 149 + [1000])
    np.testing.assert_array_equal(evaluation.target[:, 0], parities(np.asarray(evaluation.x), lengths))


def test_evaluation_shares_no_long_string_with_training(evaluation):
    training = SAMPLE(jax.random.key(0), (), MANY)[1]  # the key that the evaluation was drawn with

    def long(batch):
        rows = zip(np.asarray(batch.x), np.asarray(batch.lengths), strict=True)
        return {row[:n].tobytes() for row, n in rows if 30 <= n <= 50}

    assert len(long(evaluation)) == 21 * 20
    assert len(long(training)) > MANY / 3
    assert not long(evaluation) & long(training)


def test_baseline_is_what_one_answer_scores(evaluation):
    scores = TASK.metrics(jnp.ones((2000, 1)), evaluation)
    for name in ("to_50", "at_200"):
        assert float(scores[name]) == pytest.approx(TASK.baseline()[name], abs=5 * 0.5 / np.sqrt(1000))
    assert float(scores["solved"]) == TASK.baseline()["solved"] == 0.0


@pytest.mark.parametrize(
    ("wrong", "to_50", "at_200", "solved"),
    [([], 1.0, 1.0, 1.0), ([0], 0.999, 1.0, 0.0), (range(1000, 1005), 1.0, 0.995, 1.0),
     (range(1000, 1006), 1.0, 0.994, 0.0)],
)  # fmt: skip
def test_metrics_count_strings_with_a_wrong_end(evaluation, wrong, to_50, at_200, solved):
    outputs = evaluation.target - 0.5
    outputs = outputs.at[jnp.array([*wrong], int)].multiply(-1.0)
    expected = {"to_50": to_50, "at_200": at_200, "solved": solved}
    assert {n: float(v) for n, v in TASK.metrics(outputs, evaluation).items()} == pytest.approx(expected, abs=1e-6)
    # With an answer at every step only the last valid one counts.
    steps = jnp.full((2000, 200, 1), 0.5).at[jnp.arange(2000), evaluation.lengths - 1].set(outputs)
    targets = jnp.zeros((2000, 200, 1)).at[jnp.arange(2000), evaluation.lengths - 1].set(evaluation.target)
    found = EVERY.metrics(steps, evaluation._replace(target=targets))
    assert {n: float(v) for n, v in found.items()} == pytest.approx(expected, abs=1e-6)


def test_loss_is_the_cross_entropy_of_what_carries_it():
    # Logit ln 3 says 3/4: a 1 costs ln 4/3, a 0 costs ln 4.
    batch = SAMPLE(jax.random.key(5), (), 2)[1]._replace(target=jnp.array([[1.0], [0.0]]))
    outputs = jnp.full((2, 1), np.log(3.0), jnp.float32)
    assert float(jax.jit(TASK.loss)(outputs, batch)) == pytest.approx((np.log(4 / 3) + np.log(4)) / 2, rel=1e-6)
    batch = SAMPLE_EVERY(jax.random.key(5), (), 2)[1]
    batch = batch._replace(target=jnp.zeros((2, 50, 1)).at[0, 0].set(1.0), lengths=jnp.array([1, 2]))
    outputs = jnp.full((2, 50, 1), np.log(3.0), jnp.float32)
    assert float(jax.jit(EVERY.loss)(outputs, batch)) == pytest.approx((np.log(4 / 3) + 2 * np.log(4)) / 3, rel=1e-6)


def test_sample_is_a_function_of_its_key():
    one, same, other = (SAMPLE(jax.random.key(k), (), 4)[1] for k in (5, 5, 6))
    np.testing.assert_array_equal(one.x, same.x)
    assert not np.array_equal(one.x, other.x)


@pytest.mark.parametrize(("least", "most"), [(0, 50), (8, 7), (1, 51)])
def test_lengths_out_of_range_raise(least, most):
    with pytest.raises(ValueError, match=rf"in order and in \[1, 50\], got {least} and {most}"):
        Parity(min_length=least, length=most)
