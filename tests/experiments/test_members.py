"""What a sweep varies: what is refused, the members that axes make, and which of them share a group."""

import dataclasses
import math

import pytest
from toy import write_config

from experiments.config import ConfigError, load
from experiments.members import Grid, Random, axes, groups, members


def base_of(folder, *arguments):
    return load(write_config(folder), arguments).base


@pytest.mark.parametrize(
    ("grids", "randoms", "message"),
    [
        ([], [], r"needs a --grid KEY=VALUE,VALUE,\.\.\. or a --random KEY=LOW:HIGH"),
        (["model.units"], [], r"--grid must be KEY=VALUE,VALUE,\.\.\., got 'model.units'"),
        (["model.units="], [], r"--grid must be KEY=VALUE,VALUE,\.\.\., got 'model.units='"),
        (["model.units=4,,8"], [], "--grid model.units has an empty value, got '4,,8'"),
        (["model.units=4,8,4"], [], "--grid model.units has 4 twice"),
        (["model.units=4", "model.units=8"], [], "model.units is swept twice"),
        (["model.units=4"], ["model.units=4:8:int"], "model.units is swept twice"),
        (["units=4"], [], "must be TABLE.KEY of task, model, optimizer, train, got 'units'"),
        (["target.value=4"], [], "must be TABLE.KEY of task, model, optimizer, train, got 'target.value'"),
        (["model.=4"], [], "must be TABLE.KEY"),
        ([], ["optimizer.clip=1"], r"--random must be KEY=LOW:HIGH\[:log\]\[:int\], got 'optimizer.clip=1'"),
        ([], ["optimizer.clip=1:2:lag"], r"--random must be KEY=LOW:HIGH\[:log\]\[:int\]"),
        ([], ["optimizer.clip=1:2:3"], r"--random must be KEY=LOW:HIGH\[:log\]\[:int\]"),
        ([], ["optimizer.clip=one:2"], "--random optimizer.clip must have numbers as ends, got 'one:2'"),
        ([], ["optimizer.clip=2:1"], "--random optimizer.clip must go from LOW up to HIGH, got 2:1"),
        ([], ["optimizer.clip=1:1"], "must go from LOW up to HIGH"),
        ([], ["optimizer.clip=1:inf"], "must go from LOW up to HIGH"),
        ([], ["optimizer.clip=0:1:log"], "--random optimizer.clip must start above 0 for :log, got 0"),
        ([], ["model.units=1.5:8:int"], "--random model.units must have whole numbers as ends for :int"),
    ],
)
def test_axes_that_cannot_be_swept_are_refused(grids, randoms, message):
    with pytest.raises(ConfigError, match=message):
        axes(grids, randoms)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("model.unitz=4,8", r"sweep model.unitz=4: \[model\] has no key 'unitz'; allowed: .*units"),
        ("task.width=4", r"\[task\] has no key 'width'; allowed: bad_at, length, name"),
        ("model.units=0,4", r"sweep model.units=0: \[model\] units must be at least 1, got 0"),
        ("model.units=4,many", r"sweep model.units=many: \[model\] units must be int, got 'many'"),
        ("model.lstm.activatoin=tanh", "lstm has no key 'activatoin'; allowed: activation"),
        ("model.lstm.activation=tanh,tan", r"sweep model.lstm.activation=tan: \[model\]"),
        ("model.units.more=4", "cannot sweep model.units.more: units is no table, but 4"),
        ("optimizer.learning_rate=0.1,-0.1", "learning_rate=-0.1.*must be above 0"),
    ],
)
def test_keys_and_values_that_the_config_refuses_are_named(tmp_path, grid, message):
    with pytest.raises(ConfigError, match=message):
        members(base_of(tmp_path), axes([grid], []))


def test_values_are_toml_or_bare_words():
    bias = "model.lstm.bias_initializer={name = 'Chrono', max_steps = 9},{name = 'Zeros'},ones"
    assert axes([bias], []) == [
        Grid("model.lstm.bias_initializer", ({"name": "Chrono", "max_steps": 9}, {"name": "Zeros"}, "ones"))
    ]
    assert axes(["task.length=[1,2],[3]", "train.stateful=true, false"], [])[:2] == [
        Grid("task.length", ([1, 2], [3])),
        Grid("train.stateful", (True, False)),
    ]


def test_a_grid_is_every_combination_and_the_base_elsewhere(tmp_path):
    base = base_of(tmp_path, "--model.lstm.activation", "relu")
    found = members(base, axes(["model.units=3,5", "model.lstm.unit_forget_bias=false"], []))
    assert [m.name for m in found] == ["1", "2"]
    assert [m.config for m in found] == [
        dataclasses.replace(
            base, model=dataclasses.replace(base.model, units=n, lstm={"activation": "relu", "unit_forget_bias": False})
        )
        for n in (3, 5)
    ]
    assert base.model.lstm == {"activation": "relu"}, "the base is left as it was"


def test_draws_lie_in_their_range_and_are_spread_as_said(tmp_path):
    plain = Random("optimizer.clip", 1.0, 3.0).draw(4000, 0)
    assert 1.0 <= min(plain) < 1.01
    assert 2.99 < max(plain) <= 3.0
    assert sum(v < 2.0 for v in plain) == pytest.approx(2000, abs=150)  # 5 deviations are 158
    log = Random("optimizer.learning_rate", 1e-4, 1e-2, log=True).draw(4000, 0)
    assert sum(v < 1e-3 for v in log) == pytest.approx(2000, abs=150)
    assert all(v == float(f"{v:.4g}") for v in log)
    whole = Random("model.units", 4, 6, whole=True).draw(3000, 0)
    assert all(whole.count(n) == pytest.approx(1000, abs=130) for n in (4, 5, 6))  # 5 deviations
    both = Random("model.units", 1, 8, log=True, whole=True).draw(4000, 0)
    assert set(both) == set(range(1, 9))
    assert both.count(1) == pytest.approx(4000 * math.log(2) / math.log(9), abs=150)


def test_draws_are_the_same_again_and_of_each_key_its_own(tmp_path):
    base = base_of(tmp_path)
    randoms = ["optimizer.learning_rate=1e-3:1e-1:log", "optimizer.clip=1:2"]
    found = members(base, axes(["model.units=3,5"], randoms), 6)
    assert [m.values for m in found] == [m.values for m in members(base, axes(["model.units=3,5"], randoms), 6)]
    assert len(found) == 12
    drawn = [{k: v for k, v in m.values.items() if k != "model.units"} for m in found]
    assert drawn[:6] == drawn[6:], "the same draws at each point of the grid"
    alone = members(base, axes([], randoms[1:]), 6)
    assert [m.values["optimizer.clip"] for m in alone] == [d["optimizer.clip"] for d in drawn[:6]]
    other = members(dataclasses.replace(base, train=dataclasses.replace(base.train, seed=1)), axes([], randoms[1:]), 6)
    assert [m.values for m in other] != [m.values for m in alone]


def test_whole_numbers_that_are_drawn_twice_train_once(tmp_path):
    found = members(base_of(tmp_path), axes([], ["model.units=2:4:int"]), 50)
    assert sorted(m.config.model.units for m in found) == [2, 3, 4]


@pytest.mark.parametrize("samples", [0, 3])
def test_samples_without_sense_are_refused(tmp_path, samples):
    randoms = [] if samples else ["optimizer.clip=1:2"]
    with pytest.raises(ConfigError, match="--samples"):
        members(base_of(tmp_path), axes(["model.units=4"], randoms), samples)


def test_those_share_a_group_that_differ_in_what_its_program_takes_as_inputs(tmp_path):
    grids = ["optimizer.learning_rate=0.1,0.2", "optimizer.clip=0.0,1.0,2.0", "train.seed=0,1", "model.units=3,5"]
    found = groups(members(base_of(tmp_path), axes(grids, [])), together=1000)
    # Units and whether there is clipping at all are another program: 2 * 2 of them; 24 members in all.
    assert sorted(len(group) for group in found) == [4, 4, 8, 8]
    for group in found:
        assert len({(m.config.model.units, m.config.optimizer.clip > 0) for m in group}) == 1


def test_a_group_holds_no_more_models_than_asked(tmp_path):
    found = members(base_of(tmp_path, "--train.seeds", "3"), axes(["optimizer.clip=1,2,3,4,5"], []))
    assert [len(group) for group in groups(found, together=7)] == [2, 2, 1]
    assert [len(group) for group in groups(found, together=1)] == [1] * 5, "the seeds of a member stay together"
