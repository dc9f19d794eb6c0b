"""a^n b^n and a^n b^n c^n against strings and legal sets written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks import Batch
from experiments.tasks.counting import Counting

AB, ABC = Counting(), Counting(language="anbncn")
LONG = 40  # n of the longest string that is written out here


def legal_next(text, letters):
    """The legal symbols after a piece of a string, found by trying all n: it may go on as one of them does."""
    whole = ["S" + "".join(letter * n for letter in letters) + "T" for n in range(1, LONG + 2)]
    return {string[len(text)] for string in whole if string.startswith(text) and len(string) > len(text)}


def texts(batch, letters):
    """The inputs of a batch as text."""
    found = []
    for x, n in zip(np.asarray(batch.x), np.asarray(batch.lengths), strict=True):
        np.testing.assert_array_equal(x.sum(axis=1), np.arange(len(x)) < n)  # one-hot, then nothing
        found.append("".join(("S" + letters)[i] for i in x[:n].argmax(axis=1)))
    return found


@pytest.mark.parametrize(("task", "letters"), [(AB, "ab"), (ABC, "abc")])
def test_strings_and_legal_sets_are_the_language_s(task, letters):
    batch = jax.jit(task.strings, static_argnums=1)(jnp.arange(1, LONG + 1), LONG)
    assert batch.x.shape == batch.target.shape == (LONG, len(letters) * LONG + 1, len(letters) + 1)
    assert (batch.x.dtype, batch.target.dtype, batch.lengths.dtype) == (np.float32, np.bool_, np.int32)
    for row, text in enumerate(texts(batch, letters)):
        assert text == "S" + "".join(letter * (row + 1) for letter in letters)
        target = np.asarray(batch.target[row])
        for t in range(len(text)):
            said = {("T" + letters)[i] for i in np.flatnonzero(target[t])}
            assert said == legal_next(text[: t + 1], letters)
        assert not target[len(text) :].any()


@pytest.mark.parametrize(("task", "letters"), [(AB, "ab"), (ABC, "abc")])
def test_training_draws_each_n_up_to_ten_as_often(task, letters):
    _, batch = jax.jit(task.sample, static_argnums=2)(jax.random.key(0), (), 5000)
    assert batch.x.shape == (5000, len(letters) * 10 + 1, len(letters) + 1)
    n, counts = np.unique([text.count("a") for text in texts(batch, letters)], return_counts=True)
    np.testing.assert_array_equal(n, np.arange(1, 11))
    np.testing.assert_allclose(counts / 5000, 0.1, atol=0.02)  # 5 standard errors


def test_sample_is_a_function_of_its_key():
    one, same, other = (AB.sample(jax.random.key(k), (), 20)[1].x for k in (5, 5, 6))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_evaluation_has_every_n_once_in_order():
    batch = Counting(evaluate_to=30).evaluation(jax.random.key(0))
    np.testing.assert_array_equal(batch.lengths, 2 * np.arange(1, 31) + 1)


def outputs_of(batch):
    """Outputs that say the legal sets: 1 for in, -1 for not in."""
    return jnp.where(batch.target, 1.0, -1.0)


def test_metrics_of_perfect_outputs():
    batch = AB.evaluation(jax.random.key(0))
    scores = AB.metrics(outputs_of(batch), batch)
    assert [float(scores[name]) for name in ("largest_n", "strings", "trained")] == [200.0, 1.0, 1.0]


def test_metrics_stop_at_the_first_string_with_a_fault():
    batch = AB.evaluation(jax.random.key(0))
    outputs = np.array(outputs_of(batch))
    outputs[7, 16, 0] = -1.0  # n = 8, the last step: T is not announced
    outputs[49, 3, 1] = -1.0  # n = 50, in the middle
    outputs[99, 201:] *= -1.0  # n = 100, behind its end
    scores = AB.metrics(jnp.asarray(outputs), batch)
    assert float(scores["largest_n"]) == 7.0
    assert float(scores["strings"]) == pytest.approx(198 / 200)
    assert float(scores["trained"]) == pytest.approx(9 / 10)


def test_a_symbol_too_much_is_as_wrong_as_one_too_few():
    batch = AB.evaluation(jax.random.key(0))
    outputs = np.array(outputs_of(batch))
    outputs[:, 0, 2] = 1.0  # b after S
    assert float(AB.metrics(jnp.asarray(outputs), batch)["strings"]) == 0.0


def test_the_last_symbol_alone_is_never_right_at_the_end():
    batch = AB.evaluation(jax.random.key(0))
    by_symbol = jnp.array([[-1.0, 1.0, -1.0], [-1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]])  # S: a; a: a or b; b: b
    scores = AB.metrics(batch.x @ by_symbol, batch)
    for name, value in AB.baseline().items():
        assert float(scores[name]) == value


def test_loss_is_the_cross_entropy_of_each_symbol_over_valid_steps():
    batch = Counting(evaluate_to=12).evaluation(jax.random.key(0))
    outputs = np.random.default_rng(0).normal(size=batch.target.shape).astype(np.float32)
    p = 1.0 / (1.0 + np.exp(-outputs))
    nats = -np.log(np.where(batch.target, p, 1.0 - p)).sum(axis=-1)
    lengths = np.asarray(batch.lengths)
    expected = np.mean(np.concatenate([row[:n] for row, n in zip(nats, lengths, strict=True)]))
    assert float(AB.loss(jnp.asarray(outputs), batch)) == pytest.approx(expected, rel=1e-5)


def counts_to(limit):
    """A predictor that is right on strings of n up to a limit alone, by the definition of the language."""

    def predict(x):
        a, b = jnp.cumsum(x[..., 1], axis=1), jnp.cumsum(x[..., 2], axis=1)
        in_b = b > 0
        end = in_b & (b == jnp.minimum(a, limit))
        said = jnp.stack([end, ~in_b, (a > 0) & ~end], axis=-1)
        return jnp.where(said, 1.0, -1.0)[None]

    return predict


def test_final_figures_are_over_the_seeds_and_to_a_thousand():
    def predict(x):
        return jnp.concatenate([counts_to(limit)(x) for limit in (3, 260, 2000, 10)])

    found = AB.final(jax.jit(predict))
    assert found == {
        "largest_n_mean": (3 + 260 + 1000 + 10) / 4,
        "largest_n_median": (10 + 260) / 2,
        "largest_n_worst": 3.0,
        "largest_n_best": 1000.0,
    }


def test_fields_out_of_range_raise():
    with pytest.raises(ValueError, match="language must be one of anbn, anbncn, got 'ab'"):
        Counting(language="ab")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="largest must be at least 1, got 0"):
        Counting(largest=0)
    with pytest.raises(ValueError, match="evaluate_to must be above largest, 10, got 10"):
        Counting(evaluate_to=10)


def test_padding_carries_no_loss():
    batch = Counting(evaluate_to=12).evaluation(jax.random.key(0))
    inside = np.arange(batch.x.shape[1])[None, :] < np.asarray(batch.lengths)[:, None]
    one, two = np.zeros(batch.target.shape, np.float32), np.where(inside[..., None], 0.0, 9.0)
    assert float(AB.loss(jnp.asarray(one), batch)) == float(AB.loss(jnp.asarray(two), Batch(*batch)))
