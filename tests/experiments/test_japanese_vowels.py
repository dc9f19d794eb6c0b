"""Japanese vowels: the file as shipped, ragged lengths, and dynamic time warping against its definition."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks import Batch, japanese_vowels
from experiments.tasks.datasets import Labelled, require
from experiments.tasks.japanese_vowels import JapaneseVowels, read, warped_distances

FILE = """# a comment with @ signs and : colons
@problemName small
@dimensions 2
@data
1.5,2.5,-1.0:10,20,30:3
0.25:0.5:1
"""


def test_a_file_read_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(japanese_vowels, "CHANNELS", 2)
    (tmp_path / "small.ts").write_text(FILE)
    rows = read(tmp_path / "small.ts")
    np.testing.assert_array_equal(rows.label, [2, 0])
    np.testing.assert_array_equal(rows.lengths, [3, 1])
    np.testing.assert_array_equal(rows.x[0, :3], [[1.5, 10], [2.5, 20], [-1, 30]])
    np.testing.assert_array_equal(rows.x[1, :1], [[0.25, 0.5]])
    assert not rows.x[0, 3:].any()
    assert not rows.x[1, 1:].any()


def test_the_set_is_the_published_one(peer):
    peer("sktime")
    train, test = JapaneseVowels().split()
    np.testing.assert_array_equal(np.bincount(train.label), [30] * 9)
    np.testing.assert_array_equal(np.bincount(test.label), [31, 35, 88, 44, 29, 24, 40, 50, 29])  # as published
    assert (min(train.lengths), max(train.lengths), min(test.lengths), max(test.lengths)) == (7, 26, 7, 29)


def test_scaling_is_fitted_on_the_steps_of_what_trains(peer):
    peer("sktime")
    folder = f"{require('sktime', 'sktime')}/datasets/data/JapaneseVowels"
    raw = [read(japanese_vowels.Path(folder, f"JapaneseVowels_{part}.ts")) for part in ("TRAIN", "TEST")]
    for held_out, kept in (("test", np.ones(270, bool)), ("validation", np.arange(270) % 30 >= 6)):
        steps = np.concatenate([raw[0].x[r, : raw[0].lengths[r]] for r in np.flatnonzero(kept)]).astype(np.float64)
        mean, deviation = steps.mean(axis=0), steps.std(axis=0)
        split = JapaneseVowels(held_out=held_out).split()
        others = raw[1] if held_out == "test" else raw[0].rows(~kept)
        for part, before in ((split.train, raw[0].rows(kept)), (split.held_out, others)):
            np.testing.assert_array_equal(part.lengths, before.lengths)
            last = part.lengths[3] - 1
            np.testing.assert_allclose(part.x[3, last], (before.x[3, last] - mean) / deviation, atol=1e-5)


def warped_by_paths(a, b):
    """The least sum of squared distances over every monotone path: all of them tried."""
    best = np.inf
    n, m = len(a), len(b)
    for moves in itertools.chain.from_iterable(
        itertools.product([(1, 0), (0, 1), (1, 1)], repeat=k) for k in range(max(n, m) - 1, n + m - 1)
    ):
        path = np.cumsum([(0, 0), *moves], axis=0)
        if tuple(path[-1]) == (n - 1, m - 1):
            best = min(best, sum(np.sum((a[i] - b[j]) ** 2) for i, j in path))
    return best


def test_warped_distances_are_those_of_the_best_path(monkeypatch):
    monkeypatch.setattr(japanese_vowels, "LONGEST", 4)
    draws = np.random.default_rng(0)

    def some(lengths):
        x = draws.normal(size=(len(lengths), 4, 3)).astype(np.float32)  # what lies behind a row's end is not zero here
        return Labelled(x, np.zeros(len(lengths), np.int32), np.array(lengths, np.int32))

    one, other = some([4, 2, 1]), some([3, 4, 1, 2])
    found = warped_distances(one, other)
    for (i, a), (j, b) in itertools.product(enumerate(one.x), enumerate(other.x)):
        expected = warped_by_paths(a[: one.lengths[i]], b[: other.lengths[j]])
        assert found[i, j] == pytest.approx(expected, rel=1e-6), (i, j)


def test_baseline_takes_the_label_of_the_nearest(monkeypatch):
    x = np.zeros((4, 29, 12), np.float32)
    x[:, :8] = np.array([0.0, 1.0, 5.0, 6.0])[:, None, None]
    train = Labelled(x, np.array([0, 0, 1, 1], np.int32), np.full(4, 8, np.int32))
    test = Labelled(x + 0.4, np.array([0, 1, 1, 0], np.int32), np.full(4, 7, np.int32))
    monkeypatch.setattr(japanese_vowels, "_split", lambda held_out: (train, test))
    japanese_vowels._nearest_neighbour.cache_clear()
    try:
        assert JapaneseVowels().baseline() == {"accuracy": 0.5}
    finally:
        japanese_vowels._nearest_neighbour.cache_clear()


def augmented(task):
    x = jnp.broadcast_to(jnp.arange(29.0)[None, :, None], (400, 29, 12))
    return jax.jit(task.augment)(jax.random.key(0), Batch(x, None, jnp.full(400, 9, jnp.int32)))


def test_noise_is_drawn_for_each_step_and_an_offset_once():
    for task, same in ((JapaneseVowels(noise=0.3), False), (JapaneseVowels(offset=0.3), True)):
        added = np.asarray(augmented(task).x) - np.arange(29.0)[:, None]
        assert added.std() == pytest.approx(0.3, abs=0.01)
        assert np.allclose(added, added[:, :1], atol=1e-5) == same
        assert np.abs(np.corrcoef(added[:, 0].T) - np.eye(12)).max() < 0.25  # the coefficients each their own


def test_a_crop_cuts_up_to_so_many_steps_at_each_end():
    batch = augmented(JapaneseVowels(crop=2))
    first, last = np.asarray(batch.x)[:, 0, 0], np.asarray(batch.lengths)
    for row, start, length in zip(batch.x, first, last, strict=True):
        np.testing.assert_array_equal(row[:length, 3], np.arange(start, start + length))
    assert {(int(a), int(a + n)) for a, n in zip(first, last, strict=True)} == set(
        itertools.product(range(3), (7, 8, 9))
    )


def test_nothing_is_changed_without_fields():
    np.testing.assert_array_equal(augmented(JapaneseVowels()).x[0, :, 0], np.arange(29.0))


def test_fields_out_of_range_raise():
    with pytest.raises(ValueError, match=r"noise and offset must be at least 0, got -1\.0, 0\.0"):
        JapaneseVowels(noise=-1.0)
    with pytest.raises(ValueError, match="crop must be from 0 to 3, which leaves one step of the shortest, got 4"):
        JapaneseVowels(crop=4)
