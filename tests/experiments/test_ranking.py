"""Ranking a sweep: who is best, what the table says, and the picture's parts."""

import dataclasses
import tomllib

import numpy as np
import pytest
from toy import write_config

from experiments import ranking, results, sweep_plots
from experiments.config import ConfigError, Experiment, load
from experiments.members import axes, members
from experiments.ranking import Goal, Result

BELOW, BY_MSE = Goal("mse", "below", True), Goal("mse", "below", False)


def results_of(folder, grids, values, target=0.1, bad=(), **changes):
    """Results of a grid whose members' seeds had these mse at two evaluations, [members][evaluation][seed]."""
    more = f'[target]\nmetric = "mse"\nvalue = {target}\n'
    base = load(write_config(folder, more, steps=10, **changes)).base
    found = []
    for member, scores in zip(members(base, axes(grids, [])), values, strict=True):
        lines = [
            {"step": 5 * n, "loss": 1.0, "losses": [1.0] * 2, "mse": list(score)} for n, score in enumerate(scores, 1)
        ]
        wrong = member.name in bad
        summary = results.summarise(member.config, [] if wrong else lines, {}, 3.0)
        found.append(Result(member, summary, 7 if wrong else None))
    return found


def test_more_successes_come_first_then_the_smaller_median(tmp_path):
    values = [
        [(0.5, 0.5), (0.0, 0.12)],  # 1 of 2 seeds, so its smaller median counts for less
        [(0.5, 0.5), (0.06, 0.08)],
        [(0.5, 0.5), (0.02, 0.04)],
        [(0.5, 0.5), (0.4, 0.2)],
        [(0.5, 0.5), (0.0, 0.0)],
    ]
    found = results_of(tmp_path, ["model.units=1,2,3,4,5"], values, bad=("5",))
    assert [r.member.name for r in ranking.ranked(found, BELOW)] == ["3", "2", "1", "4", "5"]
    assert [r.member.name for r in ranking.ranked(found, BY_MSE)] == ["3", "1", "2", "4", "5"]
    above = [r.member.name for r in ranking.ranked(found, Goal("mse", "above", False))]
    assert above == ["4", "2", "1", "3", "5"], "what diverged is last in either direction"


def test_where_success_ends_a_run_the_sooner_one_is_better(tmp_path):
    values = [[(0.5, 0.5), (0.01, 0.01)], [(0.09, 0.09), (0.09, 0.09)]]
    found = results_of(tmp_path, ["model.units=1,2"], values)
    assert [r.sequences() for r in found] == [40, 20]
    assert ranking.ranked(found, BELOW)[0].member.name == "1"
    stopped = [
        r._replace(
            member=r.member._replace(
                config=dataclasses.replace(
                    r.member.config, train=dataclasses.replace(r.member.config.train, stop_after=1)
                )
            )
        )
        for r in found
    ]
    assert ranking.ranked(stopped, BELOW)[0].member.name == "2"


def test_the_table_says_what_was_swept_and_found(tmp_path):
    values = [[(0.5, 0.05), (0.3, 0.05)], [(0.5, 0.5), (0.06, 0.08)], [(0.5, 0.5), (0.5, 0.5)]]
    grids = ["model.units=3", "optimizer.learning_rate=0.1,0.2,0.4"]
    found = ranking.ranked(results_of(tmp_path, grids, values, bad=("3",)), BELOW)
    assert ranking.rows(found, BELOW) == (
        ["member", "model.units", "optimizer.learning_rate", "mse, median (range)", "target met",
         "sequences until then", "seconds"],
        [
            ["2", "3", "0.2", "0.07 (0.06 to 0.08)", "2 of 2", "40 (40 to 40)", "3.0"],
            ["1", "3", "0.1", "0.175 (0.05 to 0.3)", "1 of 2", "20 (20 to 20)", "3.0"],
            ["3", "3", "0.4", "diverged at step 7", "", "", "3.0"],
        ],
    )  # fmt: skip


def test_files_of_a_sweep_read_back(tmp_path):
    values = [[(0.5, 0.5), (0.3, 0.3)], [(0.5, 0.5), (0.06, 0.08)]]
    bias = "model.lstm.bias_initializer={name='Ones'},{name='Chrono', max_steps=9}"
    found = ranking.ranked(results_of(tmp_path, [bias], values), BELOW)
    ranking.save(tmp_path, Experiment("toy", found[0].member.config, header="The toy."), found, BELOW)
    best = load(tmp_path / "best.toml")
    assert best.base == found[0].member.config
    assert best.base.model.lstm == {"bias_initializer": {"name": "Chrono", "max_steps": 9}}
    assert "# The toy.\n" in (tmp_path / "best.toml").read_text()
    assert "mse 0.07, median of 2 seeds" in best.header
    lines = (tmp_path / "sweep.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith("| 2 "))
    assert row == "| 2 | {name = Chrono, max_steps = 9} | 0.07 (0.06 to 0.08) | 2 of 2 | 40 (40 to 40) | 3.0 |"
    assert tomllib.loads((tmp_path / "best.toml").read_text())["train"]["seeds"] == 2


def test_without_a_target_the_metric_must_be_said(tmp_path):
    config = load(write_config(tmp_path)).base
    with pytest.raises(ConfigError, match=r"toy.toml: sweep ranks its members by \[target\].*one of mse"):
        ranking.goal(config, None, ["mse"], "toy.toml")
    for wrong in ("mse", "mse:down", "msee:below", ":below"):
        with pytest.raises(ConfigError, match=rf"METRIC:above, with METRIC one of mse; got '{wrong}'"):
            ranking.goal(config, wrong, ["mse"], "toy.toml")
    assert ranking.goal(config, "mse:above", ["mse"], "toy.toml") == Goal("mse", "above", False)


def test_a_target_that_no_member_may_be_chosen_by_is_refused(tmp_path):
    config = load(write_config(tmp_path, '[target]\nmetric = "test_mse"\nvalue = 0.1\n')).base
    with pytest.raises(
        ConfigError, match=r"toy.toml: \[target\] test_mse is of the test data.*METRIC one of mse, nats"
    ):
        ranking.goal(config, None, ["mse", "nats"], "toy.toml")


def test_a_final_figure_is_one_of_all_seeds(tmp_path):
    by = Goal("all_mse", "below", False)
    found = [
        r._replace(summary={**r.summary, "final": {"all_mse": 0.25}})
        for r in results_of(tmp_path, ["model.units=3,4"], [[(0.5, 0.5)] * 2] * 2)
    ]
    head, rows = ranking.rows(found, by)
    assert head[:3] == ["member", "model.units", "all_mse"]
    assert rows[0][:3] == ["1", "3", "0.25"]
    assert ranking.describe(found, by).startswith("Sorted by all_mse, smallest first; 2 seeds a member.")


def test_one_key_shows_each_seed_the_medians_and_what_diverged(tmp_path):
    values = [[(0.5, 0.5), (0.3, 0.1)], [(0.5, 0.5), (0.06, 0.08)], [(0, 0), (0, 0)]]
    found = results_of(tmp_path, ["optimizer.learning_rate=0.001,0.1,0.01"], values, bad=("3",))
    figure = sweep_plots.draw(ranking.ranked(found, BELOW), BELOW)
    (axis,) = figure.axes
    drawn = {line.get_label(): line.get_xydata() for line in axis.lines}
    assert sorted(map(tuple, drawn["one seed"])) == [(0.001, 0.1), (0.001, 0.3), (0.1, 0.06), (0.1, 0.08)]
    np.testing.assert_allclose(drawn["median of the seeds"], [(0.001, 0.2), (0.01, np.nan), (0.1, 0.07)])
    np.testing.assert_allclose(drawn["best"], [(0.1, 0.07)])
    assert drawn["diverged"][:, 0].tolist() == [0.01]
    assert axis.get_xscale() == "log"
    assert axis.get_xlabel() == "optimizer.learning_rate"
    assert axis.get_title(loc="left") == "mse, median of 2 seeds"
    assert {text.get_text(): text.xy[0] for text in axis.texts} == {"0 of 2 met": 0.001, "2 of 2 met": 0.1}
    assert drawn["trivial predictor 0.3333"][:, 1].tolist() == [1 / 3] * 2


def test_two_keys_of_a_grid_are_a_heat_map(tmp_path):
    values = [[(0.5, 0.5), (v, v)] for v in (0.4, 0.3, 0.06, 0.0, 0.01, 0.2)]
    found = results_of(tmp_path, ["model.units=2,1", "task.length=5,9,7"], values, bad=("4",))
    figure = sweep_plots.draw(ranking.ranked(found, BELOW), BELOW)
    axis = figure.axes[0]
    # Rows are units 1, 2 upwards, columns lengths 5, 7, 9; members came as (2, 5), (2, 9), (2, 7), (1, 5) ...
    np.testing.assert_allclose(
        np.ma.filled(axis.collections[0].get_array(), np.nan), [[np.nan, 0.2, 0.01], [0.4, 0.06, 0.3]]
    )
    texts = {t.get_position(): t.get_text() for t in axis.texts}
    assert texts[0.5, 0.5] == "diverged at\nstep 7"
    assert texts[2.5, 0.5] == "0.01\n2 of 2 met"
    assert [t.get_text() for t in axis.get_xticklabels()] == ["5", "7", "9"]


def test_more_keys_are_a_panel_each(tmp_path):
    values = [[(0.5, 0.5), (v, v)] for v in (0.4, 0.3, 0.06, 0.1)]
    grids = ["model.units=2,1", "task.length=5,9", "model.lstm.activation=tanh"]
    figure = sweep_plots.draw(ranking.ranked(results_of(tmp_path, grids, values), BELOW), BELOW)
    assert [a.get_xlabel() for a in figure.axes] == ["model.units", "task.length", "model.lstm.activation"]
    assert [t.get_text() for t in figure.axes[2].get_xticklabels()] == ["tanh"]
