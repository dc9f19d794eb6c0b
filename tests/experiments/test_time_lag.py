"""The time-lag tasks 2a and 2b against their definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks import Batch
from experiments.tasks.time_lag import TimeLag

P = 6
FIXED, RANDOM = TimeLag(p=P, regular=True), TimeLag(p=P)
EVERY = TimeLag(p=P, regular=True, predict="every")
X, Y = P - 1, P  # behind a_1 ... a_{p-1}, which are 0 ... p - 2
MANY = 20_000


@functools.cache
def draw(task, key, batch_size=MANY):
    return jax.jit(task.sample, static_argnums=2)(jax.random.key(key), (), batch_size)[1]


def symbols(batch):
    x = np.asarray(batch.x)
    np.testing.assert_array_equal(np.sort(x, axis=-1)[..., -2:], np.broadcast_to([0.0, 1.0], (*x.shape[:-1], 2)))
    return x.argmax(axis=-1)


def test_regular_sequences_are_the_paper_s_two():
    batch = draw(FIXED, 0, 64)
    seen = {(*row, last) for row, last in zip(symbols(batch).tolist(), batch.target.tolist(), strict=True)}
    assert seen == {(X, 0, 1, 2, 3, 4, X), (Y, 0, 1, 2, 3, 4, Y)}
    assert (batch.x.shape, batch.x.dtype, batch.target.dtype) == ((64, P, P + 1), np.float32, np.int32)
    assert batch.lengths is None


def test_with_every_step_the_target_is_the_next_symbol():
    batch = draw(EVERY, 0, 64)
    sequence = symbols(batch)
    np.testing.assert_array_equal(batch.target[:, :-1], sequence[:, 1:])
    np.testing.assert_array_equal(batch.target[:, -1], sequence[:, 0])


def test_random_sequences_repeat_the_first_symbol_behind_any_others():
    batch = draw(RANDOM, 1)
    sequence = symbols(batch)
    np.testing.assert_array_equal(batch.target, sequence[:, 0])
    # Shares are known to 0.0035 (first) and 0.0013 (between), one standard error.
    np.testing.assert_allclose(np.mean(sequence[:, 0] == X), 0.5, atol=0.015)
    assert set(sequence[:, 0].tolist()) == {X, Y}
    assert sequence[:, 1:].max() == P - 2
    np.testing.assert_allclose(np.bincount(sequence[:, 1:].ravel()) / sequence[:, 1:].size, 1 / (P - 1), atol=0.006)
    # Every place is drawn by itself: neighbours agree as often as any two.
    np.testing.assert_allclose(np.mean(sequence[:, 1] == sequence[:, 2]), 1 / (P - 1), atol=0.015)


def test_evaluation_is_all_there_is_or_10000_fresh_sequences():
    key = jax.random.key(0)
    both = EVERY.evaluation(key)
    np.testing.assert_array_equal(symbols(both), [[X, 0, 1, 2, 3, 4], [Y, 0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(both.target, [[0, 1, 2, 3, 4, X], [0, 1, 2, 3, 4, Y]])
    assert FIXED.evaluation(key).target.tolist() == [X, Y]
    task = TimeLag(p=40)
    unseen, training = jax.jit(task.evaluation)(key), draw(task, 0, 10_000)
    assert unseen.x.shape == (10_000, 40, 41)
    assert not {*map(bytes, symbols(unseen).astype(np.int8))} & {*map(bytes, symbols(training).astype(np.int8))}


def logits(p):
    return jnp.log(jnp.asarray(p, jnp.float32))


def test_metrics_of_outputs_just_inside_and_outside():
    batch = Batch(jnp.zeros((2, P, P + 1)), jnp.array([X, Y]))
    # Off by 0.24 on the wanted unit, by 0.26 on it, and by 0.26 on it with the rest spread over all others.
    inside = [0, 0, 0, 0, 0, 0.76, 0.24]
    outside = [0, 0, 0, 0, 0, 0.26, 0.74]
    scores = FIXED.metrics(logits([inside, outside]), batch)
    assert float(scores["max_error"]) == pytest.approx(0.26)
    assert float(scores["correct"]) == 0.5
    spread = [0.26 / 6] * 5 + [0.74, 0.26 / 6]
    assert float(FIXED.metrics(logits([spread, [*inside[:5], 0.24, 0.76]]), batch)["correct"]) == 0.5


def test_one_wrong_step_fails_its_sequence():
    batch = EVERY.evaluation(jax.random.key(0))
    right = 100.0 * jax.nn.one_hot(batch.target, P + 1)
    assert [float(v) for v in EVERY.metrics(right, batch).values()] == [0.0, 1.0]
    scores = EVERY.metrics(right.at[1, 2].set(0.0), batch)
    assert float(scores["correct"]) == 0.5
    assert float(scores["max_error"]) == pytest.approx(P / (P + 1))


def test_baseline_is_what_a_guess_between_x_and_y_scores():
    batch = draw(RANDOM, 1)
    guess = jnp.tile(logits([0, 0, 0, 0, 0, 0.5, 0.5]), (MANY, 1))
    assert {name: float(value) for name, value in RANDOM.metrics(guess, batch).items()} == RANDOM.baseline()
    assert float(RANDOM.loss(guess, batch)) == pytest.approx(np.log(2))


def test_loss_is_the_mean_cross_entropy():
    batch = draw(EVERY, 3, 5)
    outputs = np.random.default_rng(0).normal(size=(5, P, P + 1)).astype(np.float32)
    p = np.exp(outputs) / np.exp(outputs).sum(axis=-1, keepdims=True)
    expected = np.mean([-np.log(p[b, t, batch.target[b, t]]) for b in range(5) for t in range(P)])
    assert float(EVERY.loss(jnp.asarray(outputs), batch)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"p": 1}, "p must be at least 2, got 1"),
        ({"predict": "every"}, "predict must be 'last' where the symbols between are random"),
    ],
)
def test_fields_out_of_range_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        TimeLag(**fields)
