"""What the tasks on data in memory share, on a set small enough to see through."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import run

from experiments.tasks import Batch, digits, japanese_vowels, mnist1d
from experiments.tasks.datasets import Classification, Labelled, Split
from experiments.tasks.digits import Digits
from experiments.tasks.japanese_vowels import JapaneseVowels
from experiments.tasks.mnist1d import MNIST1D

CONFIGS = Path(__file__).parents[2] / "configs"
PACKAGES = [(Digits, "sklearn"), (JapaneseVowels, "sktime"), (MNIST1D, "mnist1d")]


def labelled(first, count, lengths=True):
    """Rows that name themselves: row r is filled with first + r, its class r % 3."""
    rows = np.arange(count)
    x = np.broadcast_to((first + rows)[:, None, None], (count, 4, 2)).astype(np.float32)
    return Labelled(x, (rows % 3).astype(np.int32), (1 + rows % 4).astype(np.int32) if lengths else None)


@dataclass(frozen=True)
class Small(Classification):
    """Five rows to learn from, two held out."""

    input_size, output_size = 2, 3

    def split(self):
        return Split(labelled(0, 5), labelled(100, 2))

    def augment(self, key, batch):
        return batch._replace(x=batch.x + 1000.0)


def test_batches_are_training_rows_with_their_labels_and_lengths():
    (), batch = jax.jit(Small().sample, static_argnums=(1, 2))(jax.random.key(0), (), 2000)
    row = np.asarray(batch.x)[:, 0, 0] - 1000.0
    np.testing.assert_array_equal(np.asarray(batch.x), np.broadcast_to(row[:, None, None] + 1000.0, (2000, 4, 2)))
    np.testing.assert_array_equal(batch.target, row % 3)
    np.testing.assert_array_equal(batch.lengths, 1 + row % 4)
    # Each of the five with chance 1/5: 400 expected, deviation 18.
    np.testing.assert_allclose(np.bincount(row.astype(int), minlength=5), 400, atol=90)


def test_batches_are_functions_of_the_key():
    draw = lambda seed: np.asarray(Small().sample(jax.random.key(seed), (), 32)[1].x)  # noqa: E731
    np.testing.assert_array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


def test_evaluation_is_what_is_held_out_unchanged():
    batch = Small().evaluation(jax.random.key(3))
    np.testing.assert_array_equal(np.asarray(batch.x)[:, 0, 0], [100.0, 101.0])
    np.testing.assert_array_equal(batch.lengths, [1, 2])


def test_loss_and_accuracy_by_hand():
    outputs = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])) + 3.0
    batch = Batch(jnp.zeros((2, 4, 2)), jnp.array([0, 1], jnp.int32))
    found = Small().metrics(outputs, batch)
    assert float(found["accuracy"]) == 0.5
    assert float(found["nats"]) == pytest.approx((np.log(2.0) + np.log(5.0)) / 2, rel=1e-5)
    assert float(Small().loss(outputs, batch)) == pytest.approx(float(found["nats"]))


@pytest.mark.parametrize(("task", "package"), PACKAGES)
def test_validation_rows_come_out_of_the_training_rows(task, package, peer):
    peer(package)
    whole, part = task().split(), task(held_out="validation").split()
    both = np.concatenate([part.train.label, part.held_out.label])
    np.testing.assert_array_equal(np.bincount(both), np.bincount(whole.train.label))
    if task is JapaneseVowels:
        return  # scaled by what trains, so the same row has other numbers; its own test compares the rows
    rows = lambda labelled: {row.tobytes() for row in labelled.x}  # noqa: E731
    assert rows(part.train) | rows(part.held_out) == rows(whole.train)
    assert not rows(part.train) & rows(part.held_out)
    assert not rows(whole.train) & rows(whole.held_out)


@pytest.mark.parametrize(("task", "package"), PACKAGES)
def test_data_are_finite_padded_with_zeros_and_of_the_task_s_width(task, package, peer):
    peer(package)
    for part in task().split():
        assert part.x.dtype == np.float32
        assert part.x.shape[2] == task().input_size
        assert np.isfinite(part.x).all()
        assert sorted(set(part.label)) == list(range(task().output_size))
        if part.lengths is not None:
            behind = np.arange(part.x.shape[1]) >= part.lengths[:, None]
            assert not part.x[behind].any()


@pytest.mark.parametrize("config", ["digits", "japanese_vowels", "mnist1d"])
def test_a_missing_package_is_one_line_with_the_command(monkeypatch, tmp_path, config):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for module in (digits, japanese_vowels, mnist1d):
        module._split.cache_clear()
    status, out, err = run("train", CONFIGS / f"{config}.toml", "--out", tmp_path / "run")
    package = {"digits": "scikit-learn", "japanese_vowels": "sktime", "mnist1d": "mnist1d"}[config]
    assert (status, out) == (2, "")
    assert err == (
        f"error: this task's data come with the package {package}, which is not installed; "
        f"install it with: pip install {package}\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_package_that_only_the_baseline_needs_is_missed_before_any_training(monkeypatch, tmp_path):
    found = SimpleNamespace(submodule_search_locations=["there"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else found)
    mnist1d._split.cache_clear()
    status, out, err = run("train", CONFIGS / "mnist1d.toml", "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert err == (
        "error: this task's baseline comes with the package scikit-learn, which is not installed; "
        "install it with: pip install scikit-learn\n"
    )
    assert not (tmp_path / "run").exists()
