"""Configs in one program: each has the numbers that it has alone, and what one does is nothing to the others."""

import dataclasses
import json

import numpy as np
import pytest
from toy import write_config

from experiments import rundir, together, train
from experiments.config import load
from experiments.members import axes, groups, members

# Another program adds in another order: float32 rounding, grown over 20 steps. Members differ by far more.
ROUNDING = 1e-4
TARGET = '[target]\nmetric = "mse"\nvalue = {}\n'


def quiet(step, loss, metrics):
    """Report nothing."""


def group_of(config, grids):
    (group,) = groups(members(config, axes(grids, [])), together=64)
    return [member.config for member in group]


def lines_of(config, folder):
    """Train alone; its metrics.jsonl and, where a loss was not finite, that step."""
    folder.mkdir(parents=True)
    bad_step = None
    try:
        train.run(config, folder, quiet)
    except rundir.Stopped as error:
        bad_step = int(str(error).split("not finite at step ")[1].split(";")[0])
    return rundir.read_lines(folder / "metrics.jsonl"), bad_step


def same(found, expected):
    """Whether two files of metrics hold the same steps and names, and the same numbers to rounding."""
    assert [list(line) for line in found] == [list(line) for line in expected]
    for one, other in zip(found, expected, strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=ROUNDING, err_msg=f"step {one['step']} {name}")


@pytest.mark.parametrize(
    ("grids", "more"),
    [
        (["optimizer.learning_rate=0.01,0.05", "train.seed=0,7"], {}),
        (
            ["optimizer.clip=0.02,0.3", "optimizer.weight_decay=0.0,0.5"],
            {"name": "adamw", "schedule": "cosine", "warmup": 4},
        ),
    ],
)
def test_a_member_has_the_numbers_that_it_has_alone(tmp_path, grids, more):
    base = load(write_config(tmp_path)).base
    base = dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, **more))
    configs = group_of(base, grids)
    folder = tmp_path / "group"
    folder.mkdir()
    outcomes, _ = together.run(configs, folder, quiet)
    assert len(outcomes) == 4
    last = [outcome.lines[-1]["mse"][0] for outcome in outcomes]
    assert min(abs(a - b) for n, a in enumerate(last) for b in last[:n]) > 100 * ROUNDING * max(last), "members differ"
    for number, (config, outcome) in enumerate(zip(configs, outcomes, strict=True)):
        expected, bad_step = lines_of(config, tmp_path / str(number))
        same(outcome.lines, expected)
        assert outcome.bad_step is None is bad_step


def test_one_member_is_the_run_alone_to_the_bit(tmp_path):
    config = load(write_config(tmp_path)).base
    folder = tmp_path / "group"
    folder.mkdir()
    (outcome,), _ = together.run([config], folder, quiet)
    expected, _ = lines_of(config, tmp_path / "alone")
    assert [line["losses"] for line in outcome.lines] == [line["losses"] for line in expected]


def test_what_diverges_stops_where_it_stops_alone_and_nobody_else(tmp_path):
    config = load(write_config(tmp_path)).base
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, name="sgd", clip=0.0))
    configs = group_of(config, ["optimizer.learning_rate=0.1,1e20,0.2"])
    folder = tmp_path / "group"
    folder.mkdir()
    outcomes, _ = together.run(configs, folder, quiet)
    bad_steps = []
    for number, (config, outcome) in enumerate(zip(configs, outcomes, strict=True)):
        expected, bad_step = lines_of(config, tmp_path / str(number))
        assert outcome.bad_step == bad_step
        bad_steps.append(bad_step)
        if number != 1:  # rounding does not stay small on the way to infinity
            same(outcome.lines, expected)
    assert bad_steps[0] is None is bad_steps[2]
    assert bad_steps[1] is not None
    assert len(outcomes[1].lines) == bad_steps[1] - 1


def test_success_ends_each_where_it_ends_alone(tmp_path):
    text = TARGET.format(0.33)
    config = load(write_config(tmp_path, text, steps=60)).base
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, stop_after=2))
    configs = group_of(config, ["optimizer.learning_rate=0.05,0.02,1e-5"])
    folder = tmp_path / "group"
    folder.mkdir()
    outcomes, _ = together.run(configs[:2], folder, quiet)
    ends = []
    for number, (config, outcome) in enumerate(zip(configs, outcomes, strict=False)):
        expected, _ = lines_of(config, tmp_path / str(number))
        same(outcome.lines, expected)
        ends.append(expected[-1]["step"])
    assert ends[0] < ends[1] < 60, "the second goes on without the first"
    group = rundir.read_lines(folder / "metrics.jsonl")
    assert group[-1]["step"] == ends[1], "and the group ends with it"
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in group))
    again, _ = together.run(configs[:2], folder, quiet)  # done already
    assert [o.lines for o in again] == [o.lines for o in outcomes]
