"""Number addition against its definition: every text is read back and added up."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.number_addition import NumberAddition, problems

DIGITS = (2, 3)
REVERSED, FORWARD = NumberAddition(), NumberAddition(reverse=False)


def draw(task, key=0, batch_size=2000):
    return jax.jit(task.sample, static_argnums=2)(jax.random.key(key), (), batch_size)[1]


def texts(batch, question, reverse):
    """(question, answer) of each row, read back from the arrays."""
    alphabet = "0123456789+ "
    x, target = np.asarray(batch.x), np.asarray(batch.target)
    assert ((x[:, :question] == 0) | (x[:, :question] == 1)).all()
    assert (x[:, :question].sum(axis=-1) == 1).all()  # one-hot
    assert not x[:, question:].any()
    for row, answer in zip(x[:, :question].argmax(axis=-1), target, strict=True):
        asked = "".join(alphabet[i] for i in row)
        yield asked[::-1] if reverse else asked, "".join(alphabet[i] for i in answer)


@pytest.mark.parametrize(
    ("task", "question", "answer"), [(REVERSED, 5, 3), (FORWARD, 5, 3), (NumberAddition(digits=3), 7, 4)]
)
def test_answers_are_the_sums_of_what_is_asked(task, question, answer):
    batch = draw(task)
    assert batch.x.shape == (2000, question + answer, 12)
    assert (batch.x.dtype, batch.target.dtype) == (np.float32, np.int32)
    for asked, given in texts(batch, question, task.reverse):
        a, b = asked.rstrip().split("+")
        assert (str(int(a)), str(int(b))) == (a, b)  # no leading zeros
        assert given == str(int(a) + int(b)).ljust(answer)


@pytest.mark.parametrize("digits", DIGITS)
def test_problems_are_distinct_whichever_way_round_and_a_tenth_is_kept_apart(digits):
    training, test = problems(digits)
    total = {2: 5000, 3: 50_000}[digits]
    assert (len(training), len(test)) == (total * 9 // 10, total // 10)
    pairs = {tuple(sorted(pair)) for part in (training, test) for pair in part.tolist()}
    assert len(pairs) == total
    assert min(min(pair) for pair in pairs) == 0
    assert max(max(pair) for pair in pairs) == 10**digits - 1


@pytest.mark.parametrize("digits", DIGITS)
def test_both_parts_hold_short_and_long_problems_alike(digits):
    # Short pairs are drawn first, so a cut in the order of drawing would keep them all for the evaluation.
    short = [(part < 10 ** (digits - 1)).any(axis=1) for part in problems(digits)]
    expected = np.concatenate(short).mean()
    assert abs(short[1].mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / len(short[1]))


def test_numbers_are_drawn_as_in_the_example():
    # Three digits, 50,000 of 500,500 pairs. A number has one digit with chance 1/3, or is of two with a leading
    # zero (1/3 · 1/10), or of three with two (1/3 · 1/100): 0.37 below 10. A pair of such is soon used up, so
    # only among pairs of three-digit numbers, of which few are drawn twice, are figures still even.
    training, _ = problems(3)
    large = training[(training >= 100).all(axis=1)]
    assert len(large) > 8000
    assert abs(np.bincount(large.ravel() % 10, minlength=10) / large.size - 1 / 10).max() < 0.01
    assert abs(np.bincount(large.ravel() // 100, minlength=10)[1:] / large.size - 1 / 9).max() < 0.01
    short = (training < 10).all(axis=1).sum() + (problems(3)[1] < 10).all(axis=1).sum()
    assert short == 55  # every pair of one-digit numbers: 10 · 11 / 2


def test_training_draws_evenly_from_its_own_problems():
    batch = draw(FORWARD, key=1, batch_size=45_000)
    count = collections.Counter(asked for asked, _ in texts(batch, 5, False))
    training, test = ({f"{a}+{b}".ljust(5) for a, b in part} for part in problems(2))
    assert set(count) <= training
    assert not set(count) & test
    # 10 times each on average: a Poisson count, so e^-10 of them never, and the variance is the mean.
    assert len(count) > 4480
    assert np.var([*count.values()]) == pytest.approx(10, rel=0.1)


def test_evaluation_is_the_problems_kept_apart():
    batch = jax.jit(REVERSED.evaluation)(jax.random.key(0))
    asked = [question.strip() for question, _ in texts(batch, 5, True)]
    assert asked == [f"{a}+{b}" for a, b in problems(2)[1]]


def test_baseline_is_what_the_commonest_answer_and_characters_score():
    evaluation = REVERSED.evaluation(jax.random.key(0))
    answers = [str(a + b).ljust(3) for a, b in problems(2)[0]]
    asked = [str(a + b).ljust(3) for a, b in problems(2)[1]]
    commonest = collections.Counter(answers).most_common(1)[0][1]
    best = [answer for answer, n in collections.Counter(answers).items() if n == commonest]
    baseline = REVERSED.baseline()
    assert baseline["exact"] in [pytest.approx(asked.count(answer) / 500) for answer in best]
    guess = "".join(collections.Counter(place).most_common(1)[0][0] for place in zip(*answers, strict=True))
    outputs = (
        jnp.zeros((500, 8, 12)).at[:, 5:].set(jax.nn.one_hot(jnp.array(["0123456789+ ".index(c) for c in guess]), 12))
    )
    scores = jax.jit(REVERSED.metrics)(outputs, evaluation)
    assert float(scores["characters"]) == pytest.approx(baseline["characters"], abs=1e-6)


def test_metrics_and_loss_read_the_answer_s_steps_alone():
    batch = draw(REVERSED, batch_size=4)
    outputs = jnp.zeros((4, 8, 12)).at[:, 5:].set(100.0 * jax.nn.one_hot(batch.target, 12))
    perfect = jax.jit(REVERSED.metrics)(outputs.at[:, :5].set(7.0), batch)
    assert (float(perfect["exact"]), float(perfect["characters"])) == (1.0, 1.0)
    assert float(perfect["nats"]) == pytest.approx(0.0, abs=1e-6)
    wrong = jax.nn.one_hot((batch.target[0, 2] + 1) % 12, 12)
    scores = jax.jit(REVERSED.metrics)(outputs.at[0, 7].set(100.0 * wrong), batch)
    assert (float(scores["exact"]), float(scores["characters"])) == (3 / 4, pytest.approx(11 / 12))
    assert float(scores["nats"]) == pytest.approx(100 / 12, rel=1e-5)


def test_sample_is_a_function_of_its_key():
    one, same, other = (draw(REVERSED, key=k, batch_size=4) for k in (5, 5, 6))
    np.testing.assert_array_equal(one.x, same.x)
    assert not np.array_equal(one.x, other.x)


def test_other_counts_of_digits_raise():
    with pytest.raises(ValueError, match="digits must be one of 2, 3, got 4"):
        NumberAddition(digits=4)
