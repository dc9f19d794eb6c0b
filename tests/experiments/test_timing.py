"""Spikes and periodic functions, laid out step by step in plain Python."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.timing import Timing

EVALUATION = jax.jit(Timing("gts", interval=3).evaluation)
KIND_TASKS = [Timing("msd", interval=6), Timing("gts", interval=6), Timing("pfg", interval=6)]


def draw(task, rows=64, key=0):
    return _sampler(task)(jax.random.key(key), (), rows)[1]


@functools.cache
def _sampler(task):
    return jax.jit(task.sample, static_argnums=2)


def gaps(end, length):
    """The number of steps of each interval, from the steps at which they end."""
    places = np.flatnonzero(end[:length])
    assert places[-1] == length - 1
    return np.diff(places, prepend=-1)


def test_msd_asks_at_each_spike_how_long_it_took():
    batch = draw(Timing("msd", interval=6, intervals=5))
    assert batch.x.shape == batch.target.value.shape == (64, 35, 1)
    seen = []
    for x, value, judged, n in zip(*map(np.asarray, (batch.x, *batch.target[:2], batch.lengths)), strict=True):
        steps_since_last = 0
        for t in range(35):
            steps_since_last += 1
            spike = x[t, 0] == 1.0
            assert judged[t] == spike
            assert x[t, 0] in (0.0, 1.0)
            if spike:
                seen.append(steps_since_last)
                assert value[t, 0] == {6: 0.0, 7: 1.0}[steps_since_last]
                steps_since_last = 0
        assert x[n - 1, 0] == 1.0
        assert not x[n:].any()
        assert x.sum() == 5
    assert 0.4 < np.mean(np.array(seen) == 7) < 0.6  # 320 draws: 3.6 standard errors


def test_gts_is_told_the_delay_and_asked_for_the_spike():
    batch = draw(Timing("gts", interval=6, intervals=5))
    for x, value, judged, n in zip(*map(np.asarray, (batch.x, *batch.target[:2], batch.lengths)), strict=True):
        start = 0
        for steps in gaps(value[:, 0] == 1.0, n):
            np.testing.assert_array_equal(x[start : start + steps, 0], steps - 6)
            start += steps
        assert value.sum() == 5
        np.testing.assert_array_equal(judged, np.arange(35) < n)
        assert not x[n:].any()


@pytest.mark.parametrize(
    ("shape", "period"),
    [
        ("cosine", [0.25, 0.75, 1.0, 0.75, 0.25, 0.0]),
        ("triangle", [1 / 3, 2 / 3, 1.0, 2 / 3, 1 / 3, 0.0]),
        ("rectangle", [0.0, 0.0, 0.0, 1.0, 1.0, 0.0]),
    ],
)
def test_pfg_follows_its_function_without_input(shape, period):
    batch = draw(Timing("pfg", interval=6, intervals=3, shape=shape), rows=2)
    assert batch.lengths is None
    np.testing.assert_allclose(batch.target.value[..., 0], [period * 3] * 2, atol=1e-6)
    assert not np.asarray(batch.x).any()
    assert np.asarray(batch.target.judged).all()


def test_evaluation_has_a_thousand_intervals():
    batch = EVALUATION(jax.random.key(0))
    assert batch.x.shape == (4, 4000, 1)
    for value, n in zip(np.asarray(batch.target.value), np.asarray(batch.lengths), strict=True):
        steps = gaps(value[:, 0] == 1.0, n)
        assert len(steps) == 1000
        assert set(steps.tolist()) == {3, 4}
    assert Timing("pfg", interval=25).evaluation(jax.random.key(0)).x.shape == (1, 25_000, 1)


def perfect(task, batch):
    """Outputs that say what is asked for: logits where spikes are, else values."""
    value = batch.target.value
    return value if task.kind == "pfg" else 20.0 * (2.0 * value - 1.0)


@pytest.mark.parametrize("task", KIND_TASKS, ids=lambda task: task.kind)
def test_metrics_of_perfect_outputs(task):
    batch = draw(task)
    scores = task.metrics(perfect(task, batch), batch)
    assert [float(scores[name]) for name in ("streams", "intervals", "steps")] == [1.0, 4.0, 1.0]
    assert float(scores["worst"]) < 1e-6


@pytest.mark.parametrize("task", KIND_TASKS, ids=lambda task: task.kind)
def test_one_error_ends_its_stream(task):
    batch = draw(task)
    outputs = np.array(perfect(task, batch))
    second = np.flatnonzero(np.asarray(batch.target.end[5]))[1]  # the end of the second interval of row 5
    outputs[5, second] = 0.31 if task.kind == "pfg" else -outputs[5, second]
    scores = task.metrics(jnp.asarray(outputs), batch)
    assert float(scores["streams"]) == pytest.approx(63 / 64)
    assert float(scores["intervals"]) == pytest.approx((63 * 4 + 1) / 64)
    judged = np.asarray(batch.target.judged).sum()
    assert float(scores["steps"]) == pytest.approx(1 - 1 / judged, abs=1e-6)
    assert float(scores["worst"]) == pytest.approx(0.31 if task.kind == "pfg" else 1.0)


@pytest.mark.parametrize(("off", "streams"), [(0.48, 1.0), (0.50, 0.0)])
def test_spikes_may_be_off_by_less_than_049(off, streams):
    task = KIND_TASKS[1]
    batch = draw(task)
    said = jnp.abs(batch.target.value - off)
    assert float(task.metrics(jnp.log(said / (1.0 - said)), batch)["streams"]) == streams


@pytest.mark.parametrize(("off", "streams"), [(0.29, 1.0), (0.31, 0.0)])
def test_functions_may_be_off_by_less_than_03(off, streams):
    task = KIND_TASKS[2]
    batch = draw(task)
    assert float(task.metrics(batch.target.value + off, batch)["streams"]) == streams


def test_what_is_not_judged_counts_nowhere():
    for task in KIND_TASKS[:2]:
        batch = draw(task)
        spoiled = jnp.where(batch.target.judged[..., None], perfect(task, batch), 7.0)
        assert float(task.metrics(spoiled, batch)["streams"]) == 1.0
        assert float(task.loss(spoiled, batch)) == pytest.approx(float(task.loss(perfect(task, batch), batch)))


def test_no_constant_passes():
    for task in KIND_TASKS:
        batch = draw(task)
        for said in (-9.0, 0.0, 0.5):
            scores = task.metrics(jnp.full_like(batch.target.value, said), batch)
            assert float(scores["streams"]) <= 1 / 4  # four guesses of `msd` are right once in sixteen
    assert KIND_TASKS[0].baseline()["streams"] == 0.0


def test_loss_is_cross_entropy_for_spikes_and_squared_error_for_functions():
    rng = np.random.default_rng(0)
    for task in KIND_TASKS:
        batch = draw(task)
        value, judged = (np.asarray(a) for a in batch.target[:2])
        outputs = rng.normal(size=value.shape).astype(np.float32)
        each, weights = [], []
        for row, t in np.argwhere(judged):
            y, o = float(value[row, t, 0]), float(outputs[row, t, 0])
            p = 1 / (1 + math.exp(-o))
            each.append((o - y) ** 2 if task.kind == "pfg" else -math.log(p if y else 1 - p))
            weights.append(6.0 if task.kind == "gts" and y else 1.0)  # a spike as much as an interval of 6
        expected = np.average(each, weights=weights)
        assert float(task.loss(jnp.asarray(outputs), batch)) == pytest.approx(expected, rel=1e-5)


def test_sample_is_a_function_of_its_key():
    one, same, other = (draw(KIND_TASKS[0], key=key).x for key in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_evaluation_is_apart_from_training():
    # 100 intervals are alike by chance once in 2^100.
    key, task = jax.random.key(0), Timing("gts", interval=3, intervals=100)
    _, training = task.sample(key, (), 4)
    assert not np.array_equal(EVALUATION(key).target.value[:, :300], training.target.value[:, :300])


def test_fields_out_of_range_raise():
    with pytest.raises(ValueError, match="kind must be one of msd, gts, pfg, got 'xyz'"):
        Timing(kind="xyz")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="shape must be one of cosine, triangle, rectangle, got 'sine'"):
        Timing(shape="sine")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="interval must be at least 2, got 1"):
        Timing(interval=1)
    with pytest.raises(ValueError, match="intervals must be at least 1, got 0"):
        Timing(intervals=0)
