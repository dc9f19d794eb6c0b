"""Copy memory against its definition, written out step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.copy_memory import CopyMemory

TASK = CopyMemory(blanks=7)
MANY = 4096
SAMPLE = jax.jit(TASK.sample, static_argnums=2)
METRICS = jax.jit(TASK.metrics)


@pytest.fixture(scope="module")
def drawn():
    return SAMPLE(jax.random.key(3), (), MANY)[1]


def test_sequences_are_digits_blanks_delimiter_blanks(drawn):
    x, target = np.asarray(drawn.x), np.asarray(drawn.target)
    assert (x.shape, target.shape) == ((MANY, 27, 10), (MANY, 27))
    assert (x.dtype, target.dtype) == (np.float32, np.int32)
    assert (np.sort(x, axis=-1) == [0.0] * 9 + [1.0]).all()  # one-hot
    for row, symbols in zip(target[:200], x[:200].argmax(axis=-1), strict=True):
        digits = symbols[:10].tolist()
        assert max(digits) < 8
        assert symbols[10:].tolist() == [8] * 6 + [9] + [8] * 10  # the delimiter 7 steps after the last digit
        assert row.tolist() == [8] * 17 + digits


def test_digits_are_uniform_and_independent(drawn):
    digits = np.asarray(drawn.target)[:, -10:]
    for place in range(10):
        share = np.bincount(digits[:, place], minlength=8) / MANY
        np.testing.assert_allclose(share, 1 / 8, atol=5 * np.sqrt(7 / 64 / MANY))
    same = [(digits[:, i] == digits[:, j]).mean() for i in range(10) for j in range(i)]
    np.testing.assert_allclose(same, 1 / 8, atol=5 * np.sqrt(7 / 64 / MANY))


def test_baseline_is_what_blanks_and_even_digits_score(drawn):
    # Logit 0 for eight digits and -inf for the rest, where digits are due.
    outputs = jnp.full((MANY, 27, 10), -1e3).at[:, :17, 8].set(0.0).at[:, 17:, :8].set(0.0)
    scores, baseline = METRICS(outputs, drawn), TASK.baseline()
    assert float(scores["nats"]) == pytest.approx(baseline["nats"], rel=1e-6)
    assert float(scores["nats_over_baseline"]) == pytest.approx(baseline["nats_over_baseline"], rel=1e-6)
    assert float(scores["digits"]) == pytest.approx(baseline["digits"], abs=5 * np.sqrt(7 / 64 / (10 * MANY)))
    assert float(scores["copies"]) == pytest.approx(baseline["copies"], abs=1e-3)


def test_baseline_at_1000_is_the_line_that_the_papers_plot():
    assert CopyMemory(blanks=1000).baseline()["nats"] == pytest.approx(0.0204, abs=5e-5)


def test_metrics_of_copies_with_one_fault():
    batch = SAMPLE(jax.random.key(5), (), 4)[1]
    sure = 100.0 * jax.nn.one_hot(batch.target, 10)
    perfect = METRICS(sure, batch)
    assert (float(perfect["digits"]), float(perfect["copies"])) == (1.0, 1.0)
    assert float(perfect["nats"]) == pytest.approx(0.0, abs=1e-6)
    digit = METRICS(sure.at[0, 20].set(100.0 * jax.nn.one_hot((batch.target[0, 20] + 1) % 8, 10)), batch)
    assert (float(digit["digits"]), float(digit["copies"])) == pytest.approx((39 / 40, 3 / 4))
    assert float(digit["nats"]) == pytest.approx(100 / (4 * 27), rel=1e-5)  # sure of what is wrong, on one step
    blank = METRICS(sure.at[1, 3].set(100.0 * jax.nn.one_hot(0, 10)), batch)
    assert (float(blank["digits"]), float(blank["copies"])) == (1.0, 3 / 4)


def test_evaluation_has_256_sequences_and_none_of_training():
    key = jax.random.key(0)
    evaluation = jax.jit(TASK.evaluation)(key)
    assert evaluation.x.shape == (256, 27, 10)
    training = SAMPLE(key, (), MANY)[1]
    rows = {row.tobytes() for row in np.asarray(training.target)}
    assert not rows & {row.tobytes() for row in np.asarray(evaluation.target)}


def test_sample_is_a_function_of_its_key():
    one, same, other = (SAMPLE(jax.random.key(k), (), 4)[1] for k in (5, 5, 6))
    np.testing.assert_array_equal(one.x, same.x)
    np.testing.assert_array_equal(one.target, same.target)
    assert not np.array_equal(one.x, other.x)


def test_no_blank_raises():
    with pytest.raises(ValueError, match="blanks must be at least 1, got 0"):
        CopyMemory(blanks=0)
