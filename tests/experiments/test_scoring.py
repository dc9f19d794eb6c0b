"""The second evaluation set: of the same kind and from another key, once, and needed for success."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Toy, run, write_config

from experiments import results, scoring, steps
from experiments.config import Target, load
from experiments.rundir import read_lines
from experiments.tasks import TASKS
from experiments.tasks.long_lag import LongLag

ROUNDING = 1e-6  # one batch or several


class Fixed(Toy):
    """Its evaluation set is the same for every key, as that of rows in a file."""

    def evaluation(self, key):
        """Draw 16 sequences, always the same."""
        return super().evaluation(jax.random.key(1))


class InParts(Toy):
    """Its second set is drawn in three parts, and its metric is no mean of those of the parts."""

    second_parts = 3

    def metrics(self, outputs, batch):
        """Give the greatest squared error."""
        return {"mse": jnp.max(jnp.square(outputs - batch.target))}


@pytest.fixture
def config(tmp_path):
    return load(write_config(tmp_path)).base


def test_the_second_set_is_of_the_same_kind_from_another_key(config):
    params = steps.init(config).params
    scores = scoring.make_scores(config)
    first, second = (np.asarray(score(params)["mse"]) for score in scores)
    assert (first != second).all()
    # 16 sequences know a mean squared error to a factor of two.
    np.testing.assert_array_less(first / 3, second)
    np.testing.assert_array_less(second, 3 * first)
    np.testing.assert_array_equal(np.asarray(scores.second(params)["mse"]), second)


def test_a_set_that_no_key_changes_has_no_second(config, monkeypatch):
    monkeypatch.setitem(TASKS, "fixed", Fixed)
    fixed = dataclasses.replace(config, task=Fixed())
    scores = scoring.make_scores(fixed)
    params = steps.init(config).params
    assert scores.second(params) == {}
    assert set(scores.evaluate(params)) == {"mse"}


def test_a_second_set_in_parts_is_scored_as_one(config, monkeypatch):
    monkeypatch.setitem(TASKS, "parts", InParts)
    split = dataclasses.replace(config, task=InParts())
    params = steps.init(config).params
    found = np.asarray(scoring.make_scores(split).second(params)["mse"])
    predict = scoring.make_predict(config)
    key = jax.random.fold_in(jax.random.key(config.train.seed), scoring.SECOND)
    sets = [Toy().evaluation(jax.random.fold_in(key, part)) for part in range(3)]
    x, target = (jnp.concatenate([getattr(batch, name) for batch in sets]) for name in ("x", "target"))
    wanted = np.square(np.asarray(predict(params, x)) - np.asarray(target)).max(axis=(1, 2))
    np.testing.assert_allclose(found, wanted, rtol=ROUNDING)


def test_parts_of_long_lag_make_the_papers_test_set():
    for sequences in (256, 1000, 10_000):
        task = LongLag(evaluation_sequences=sequences)
        assert 10_000 <= task.second_parts * sequences < 10_000 + sequences


def test_success_needs_the_second_set_too(config):
    config = dataclasses.replace(config, target=Target("mse", 0.5, seeds=0.5))
    lines = [
        {"step": 10, "loss": 0.0, "losses": [0.0, 0.0], "mse": [0.9, 0.4]},
        {"step": 20, "loss": 0.0, "losses": [0.0, 0.0], "mse": [0.4, 0.4]},
    ]
    alone = results.summarise(config, lines, {}, 0.0)["target"]
    assert (alone["seeds"], alone["sequences"], alone["values"]) == ([True, True], [80, 40], [0.4, 0.4])
    both = results.summarise(config, lines, {}, 0.0, {"mse": [0.6, 0.3]})
    assert both["target"]["seeds"] == [False, True]
    assert both["target"]["sequences"] == [None, 40]
    assert both["target"]["values"] == [0.6, 0.3]
    assert both["target"]["met"]
    neither = results.summarise(config, lines, {}, 0.0, {"mse": [0.6, None]})
    assert neither["target"]["seeds"] == [False, False]
    assert not neither["target"]["met"]
    assert "second set" in results.scale({"": config}, {"": both})
    assert "second set" not in results.scale({"": config}, {"": results.summarise(config, lines, {}, 0.0)})


def test_what_should_fail_has_failed_on_neither_set(config):
    config = dataclasses.replace(config, target=Target("mse", 0.5, at_most=0.5))
    lines = [{"step": 20, "loss": 0.0, "losses": [0.0, 0.0], "mse": [0.9, 0.4]}]
    one = results.summarise(config, lines, {}, 0.0, {"mse": [0.9, 0.9]})["target"]
    assert (one["seeds"], one["sequences"], one["met"]) == ([False, True], [None, 80], True)
    both = results.summarise(config, lines, {}, 0.0, {"mse": [0.1, 0.9]})["target"]
    assert (both["seeds"], both["sequences"], both["met"]) == ([True, True], [80, 80], False)


def test_an_unfinished_run_keeps_its_second_set_unseen(tmp_path):
    path, out = write_config(tmp_path), tmp_path / "out"
    assert run("train", path, "--out", out)[0] == 0
    shutil.rmtree(out / "checkpoints" / "0000000020")
    assert "second set" not in run("evaluate", out)[1]
    assert run("report", out)[0] == 0
    assert json.loads((out / "summary.json").read_text())["metrics"]["mse"]["second"] is None


def test_train_report_and_evaluate_give_the_same_second_figures(tmp_path):
    path, out = write_config(tmp_path), tmp_path / "out"
    assert run("train", path, "--out", out)[0] == 0
    metric = json.loads((out / "summary.json").read_text())["metrics"]["mse"]
    assert metric["values"] == read_lines(out / "metrics.jsonl")[-1]["mse"] != metric["second"]
    assert run("report", out)[0] == 0
    assert json.loads((out / "summary.json").read_text())["metrics"]["mse"] == metric
    status, text, _ = run("evaluate", out)
    assert (status, "once on a second set" in text) == (0, True)
    assert f"({results.number(min(metric['second']))} to " in text
