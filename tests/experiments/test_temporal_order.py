"""The temporal order problem against its definition, counted out in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks import Batch
from experiments.tasks.temporal_order import TemporalOrder

MANY = 8192  # for frequencies: a share of p is then known to sqrt(p (1 - p) / MANY), below 0.006
SAMPLE = jax.jit(lambda task, key, n: task.sample(key, (), n)[1], static_argnums=(0, 2))
KEY = jax.random.key(0)
PLACES = {2: [(10, 20), (50, 60)], 3: [(10, 20), (33, 43), (66, 76)]}  # as the paper gives them, ends included


def texts(batch):
    """The sequences as strings; x must be one-hot to the length and zero after it."""
    found = []
    for x, n in zip(np.asarray(batch.x), np.asarray(batch.lengths), strict=True):
        assert set(np.unique(x).tolist()) <= {0.0, 1.0}
        np.testing.assert_array_equal(x.sum(axis=1), np.arange(len(x)) < n)
        found.append("".join("EBabcdXY"[i] for i in x[:n].argmax(axis=1)))
    return found


@pytest.fixture(scope="module", params=[2, 3])
def drawn(request):
    return request.param, SAMPLE(TemporalOrder(request.param), KEY, MANY)


def test_shapes_and_dtypes(drawn):
    marks, batch = drawn
    assert (batch.x.shape, batch.target.shape, batch.lengths.shape) == ((MANY, 110, 8), (MANY,), (MANY,))
    assert (batch.x.dtype, batch.target.dtype, batch.lengths.dtype) == (np.float32, np.int32, np.int32)
    assert TemporalOrder(marks).output_size == {2: 4, 3: 8}[marks]


def test_sequences_are_of_the_definition(drawn):
    marks, batch = drawn
    classes = ["".join(order) for order in itertools.product("XY", repeat=marks)]
    for text, target in zip(texts(batch), np.asarray(batch.target), strict=True):
        assert 100 <= len(text) <= 110
        assert text[0] == "E"
        assert text[-1] == "B"
        places = [t for t, symbol in enumerate(text) if symbol in "XY"]
        assert len(places) == marks
        assert all(low <= t <= high for t, (low, high) in zip(places, PLACES[marks], strict=True))
        assert {s for t, s in enumerate(text[1:-1], 1) if t not in places} <= set("abcd")
        assert "".join(text[t] for t in places) == classes[target]


def test_places_lengths_classes_and_distractors_are_uniform(drawn):
    marks, batch = drawn
    words = texts(batch)
    places = np.array([[t for t, symbol in enumerate(text) if symbol in "XY"] for text in words])
    for column, (low, high) in zip(places.T, PLACES[marks], strict=True):
        np.testing.assert_allclose(np.bincount(column, minlength=high + 1)[low:] / MANY, 1 / 11, atol=0.016)
    lengths = np.asarray(batch.lengths)
    np.testing.assert_allclose(np.bincount(lengths, minlength=111)[100:] / MANY, 1 / 11, atol=0.016)
    np.testing.assert_allclose(np.bincount(np.asarray(batch.target)) / MANY, 2.0**-marks, atol=0.025)
    symbols, counts = np.unique(list("".join(words)), return_counts=True)
    of = dict(zip(symbols.tolist(), counts.tolist(), strict=True))
    total = sum(of[s] for s in "abcd")
    np.testing.assert_allclose([of[s] / total for s in "abcd"], 1 / 4, atol=0.003)


def test_metrics_of_perfect_wrong_and_borderline_outputs():
    task, target = TemporalOrder(2), jnp.array([0, 1, 2, 3])
    batch = Batch(jnp.zeros((4, 110, 8)), target, jnp.full((4,), 110))

    def score(outputs):
        return {name: float(value) for name, value in task.metrics(jnp.log(jnp.asarray(outputs)), batch).items()}

    perfect = np.full((4, 4), 1e-6) + np.eye(4)
    assert score(perfect) == pytest.approx({"correct": 1.0, "accuracy": 1.0, "nats": 0.0}, abs=1e-4)
    wrong = score(np.roll(perfect, 1, axis=1))
    assert (wrong["correct"], wrong["accuracy"]) == (0.0, 0.0)
    assert wrong["nats"] == pytest.approx(-np.log(1e-6), rel=1e-4)
    # An output of 0.7 is the edge; one of 0.69 is still the greatest.
    edge = [[0.71, 0.29, 0.0, 0.0], [0.31, 0.69, 0.0, 0.0], [0.0, 0.2, 0.71, 0.09], [0.1, 0.1, 0.11, 0.69]]
    found = score(np.asarray(edge) + 1e-9)
    assert (found["correct"], found["accuracy"]) == (0.5, 1.0)
    assert found["nats"] == pytest.approx(-np.log([0.71, 0.69, 0.71, 0.69]).mean(), rel=1e-4)


def test_baseline_is_what_equal_outputs_score(drawn):
    marks, batch = drawn
    task = TemporalOrder(marks)
    found = jax.jit(task.metrics)(jnp.zeros((MANY, task.output_size)), batch)
    expected = task.baseline()
    assert float(found["correct"]) == expected["correct"] == 0.0
    assert float(found["nats"]) == pytest.approx(expected["nats"])
    assert float(found["accuracy"]) == pytest.approx(expected["accuracy"], abs=5 * np.sqrt(0.25 * 0.75 / MANY))


def test_evaluation_has_2560_sequences_and_none_of_training(drawn):
    marks, batch = drawn
    evaluation = jax.jit(TemporalOrder(marks).evaluation)(KEY)
    assert evaluation.x.shape == (2560, 110, 8)
    assert not set(texts(evaluation)) & set(texts(batch))


def test_sample_is_a_function_of_its_key():
    one, same, other = (SAMPLE(TemporalOrder(2), jax.random.key(k), 4) for k in (5, 5, 6))
    assert texts(one) == texts(same) != texts(other)
    np.testing.assert_array_equal(one.target, same.target)


def test_another_number_of_marks_raises():
    with pytest.raises(ValueError, match="marks must be 2 or 3, got 4"):
        TemporalOrder(4)
