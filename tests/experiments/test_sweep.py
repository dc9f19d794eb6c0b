"""The sweep on the command line: what it leaves, kills that change no digit, what it refuses."""

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from toy import Toy, run, write_config

from experiments import checkpoint, rundir, together
from experiments.config import load

ROOT = Path(__file__).parents[2]
ROUNDING = 1e-4  # as in test_together.py
QUICK = '[model.lstm]\nrecurrent_initializer = "glorot_uniform"\n'  # orthogonal takes long to compile
TARGET = '[target]\nmetric = "mse"\nvalue = 0.3\n'
RATES = "optimizer.learning_rate=0.01,0.05"


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Let sweeps of the same configs share their compilation, and LLVM do little for it."""
    jax.config.update("jax_disable_most_optimizations", True)
    known = {}

    def shared(function):
        def make(configs, *more):
            key = function.__name__, repr(configs)
            if key not in known:
                known[key] = function(configs, *more)
            made = known[key]
            return jax.tree.map(lambda leaf: leaf.copy(), made) if function is plain["init"] else made

        return make

    plain = {name: getattr(together, name) for name in ("init", "make_call", "make_evaluate")}
    with pytest.MonkeyPatch.context() as patch:
        for name, function in plain.items():
            patch.setattr(together, name, shared(function))
        yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep never stopped, two groups of two members: (arguments, its directory, what it printed)."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = ("sweep", write_config(folder, QUICK + TARGET), "--grid", "model.units=3,4", "--grid", RATES)
    status, printed, err = run(*arguments, "--out", folder / "out")
    assert (status, err) == (0, "")
    assert printed.startswith("toy: 4 members of 2 seeds in 2 groups, on 2 devices\n")
    return arguments, folder / "out", printed


def digits(out):
    """All that a sweep leaves, but for the seconds that it took."""
    about = json.loads((out / "sweep.json").read_text())
    for member in about["members"]:
        del member["summary"]["seconds"]
    names = ("1/metrics.jsonl", "3/metrics.jsonl", "sweep.png", "best.toml")
    return {"sweep.json": about, **{name: (out / name).read_bytes() for name in names}}


def values_of(member):
    return member["summary"]["metrics"]["mse"]["values"]


def test_a_sweep_leaves_its_results_and_the_best_config(whole):
    _, out, printed = whole
    about = json.loads((out / "sweep.json").read_text())
    assert about["keys"] == ["model.units", "optimizer.learning_rate"]
    assert {(m["name"], *m["values"].values()) for m in about["members"]} == {
        ("1", 3, 0.01), ("2", 3, 0.05), ("3", 4, 0.01), ("4", 4, 0.05),
    }  # fmt: skip
    # Best first: more seeds that met the target, then the smaller median, here a mean of two.
    ranks = [(-sum(m["summary"]["target"]["seeds"]), sum(values_of(m))) for m in about["members"]]
    assert ranks == sorted(ranks)
    # A group's file holds its members' seeds one after the other.
    lines = [json.loads(line) for line in (out / "3" / "metrics.jsonl").read_text().splitlines()]
    values = {m["name"]: values_of(m) for m in about["members"]}
    assert lines[-1]["mse"] == [*values["3"], *values["4"]]
    members = load(out / "config.toml").cases
    assert load(out / "best.toml").base == members[about["best"]]
    assert members["2"].model.units == 3
    assert members["2"].optimizer.learning_rate == 0.05
    assert f"best: {out / 'best.toml'}  picture: {out / 'sweep.png'}" in printed
    assert all(f"│ {m['name']} " in printed for m in about["members"])
    assert "Sorted by the share of seeds that met the target, then by the median of mse" in printed
    assert "| member | model.units | optimizer.learning_rate |" in (out / "sweep.md").read_text()


def test_kills_change_no_digit(whole, tmp_path, monkeypatch):
    arguments, expected, _ = whole
    out, save, saves = tmp_path / "out", checkpoint.save, []

    def dying(*given):
        saves.append(1)
        if len(saves) == 6:  # the second save of the second group: its lines are written, and not yet relied on
            raise KeyboardInterrupt
        save(*given)
        if len(saves) == 2:  # in the first group, behind a checkpoint
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", dying)
    assert run(*arguments, "--out", out)[0] == 130
    assert not (out / "3").exists()
    assert run(*arguments, "--out", out, "--resume")[0] == 130
    assert (out / "3" / "metrics.jsonl").exists()
    assert run(*arguments, "--out", out, "--resume")[0] == 0
    assert digits(out) == digits(expected)
    before = copy.copy(saves)
    assert run(*arguments, "--out", out, "--resume")[0] == 0
    assert (saves, digits(out)) == (before, digits(expected)), "a sweep that is done trains nothing"


def test_four_devices_hold_a_share_each_and_two_go_on_to_the_same_numbers(whole, tmp_path):
    (_, config, *more), expected, _ = whole
    out = tmp_path / "out"
    program, command = Path(__file__).with_name("swept_on_four.py"), ("sweep", config, *more, "--out", out)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(ROOT)}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(
        [sys.executable, program, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "2 groups, on 4 devices\n" in done.stdout
    lie = {line for line in done.stdout.splitlines() if line.startswith("lie")}
    assert lie == {"lie [(0, 0, 1), (1, 1, 1), (2, 2, 1), (3, 3, 1)]"}
    assert checkpoint.steps(out / "1" / "checkpoints") == [5]
    status, printed, err = run(*command, "--resume")
    assert (status, err.count("another device")) == (0, 2), err
    assert "on 2 devices" in printed
    for name in ("1", "3"):
        found, wanted = (rundir.read_lines(folder / name / "metrics.jsonl") for folder in (out, expected))
        assert [line["step"] for line in found] == [line["step"] for line in wanted]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one["losses"], other["losses"], rtol=ROUNDING, err_msg=str(one["step"]))


def test_a_sweep_is_resumed_with_its_own_members_alone(whole):
    arguments, out, _ = whole
    status, _, err = run(*arguments[:-1], "optimizer.learning_rate=0.01,0.06", "--out", out, "--resume")
    assert (status, err.count("\n")) == (2, 1)
    assert "differs in optimizer.learning_rate;" in err
    status, _, err = run(*arguments, "--out", out)
    assert (status, err.count("\n")) == (2, 1)
    assert "--overwrite" in err


def test_overwrite_deletes_the_groups_of_the_sweep_before(whole, tmp_path):
    (_, config, *_), _, _ = whole
    out = tmp_path / "out"
    arguments = ("sweep", config, "--grid", RATES, "--out", out)
    assert run(*arguments, "--grid", "model.units=3,4")[0] == 0
    (out / "2" / "notes.txt").write_text("mine")
    assert run(*arguments, "--overwrite", "--model.units", "3", "--by", "mse:above")[0] == 0
    assert [p.name for p in (out / "2").glob("*.jsonl")] == []
    assert (out / "2" / "notes.txt").read_text() == "mine"
    about = json.loads((out / "sweep.json").read_text())
    assert (about["direction"], len(about["members"])) == ("above", 2)


def test_a_sweep_is_no_run(whole):
    _, out, _ = whole
    for folder in (out, out / "1"):
        status, _, err = run("report", folder)
        assert (status, err.count("\n")) == (2, 1)
        assert f"{out} is a sweep: read sweep.md" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs a --grid"),
        (("--grid", "model.unitz=3"), "[model] has no key 'unitz'; allowed: bidirectional, dropout"),
        (("--grid", "model.units=3", "--model.unitz", "4"), "unitz"),
        (("--grid", "model.units=3", "--seeds", "two"), "--train.seeds"),
        (("--grid", "model.units=3", "--samples", "two"), "--samples"),
        (("--grid", "model.units=3", "--together", "0"), "--together must be at least 1, got 0"),
        (("--grid", "model.units=3", "--case", "a"), "--case must be one of none (it has no [[cases]]); got 'a'"),
        (("--grid", "model.units=3", "--by", "loss:below"), "METRIC one of mse; got 'loss:below'"),
        (("--grid", "task.bad_at=3", "--resume", "--overwrite"), "not allowed with"),
    ],
)
def test_wrong_arguments_are_one_line_and_write_nothing(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = run("sweep", write_config(tmp_path, TARGET), *arguments)
    assert (status, err.count("\n")) == (2, 1), err
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_of_a_comparison_one_case_is_swept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, "[[cases]]\nname = 'a'\n[[cases]]\nname = 'b'\n[cases.target]\n" + TARGET[9:])
    status, _, err = run("sweep", config, "--grid", "model.units=3")
    assert status == 2
    assert "give --case, one of a, b" in err
    status, _, err = run("sweep", config, "--grid", "model.units=3", "--case", "a")
    assert status == 2
    assert "sweep ranks its members by [target], and there is none" in err


def test_members_are_not_chosen_on_the_test_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = ROOT / "configs" / "characters.toml"
    more = ("--task.held_out", "validation", "--grid", "task.held_out=test,validation")
    for arguments in (("--grid", "model.units=8,16"), more):
        status, _, err = run("sweep", config, *arguments)
        assert (status, err.count("\n")) == (2, 1)
        assert "held_out must be 'validation' for a sweep" in err
    assert not (tmp_path / "runs").exists()


def test_members_are_not_chosen_by_a_figure_of_the_test_years(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = ROOT / "configs" / "sunspots.toml"
    status, _, err = run("sweep", config, "--grid", "model.units=8,16")
    assert (status, err.count("\n")) == (2, 1)
    assert "[target] test_mse_over_persistence is of the test data, by which no sweep may choose; give --by" in err
    assert "METRIC one of validation_mse, validation MSE/LSTM" in err
    status, _, err = run("sweep", config, "--grid", "model.units=8,16", "--by", "test_mse_over_persistence:below")
    assert (status, err.count("\n")) == (2, 1)
    assert "METRIC one of validation_mse, validation MSE/LSTM" in err
    assert "test MSE" not in err
    assert not (tmp_path / "runs").exists()


def test_a_sweep_by_another_metric_tells_nothing_of_the_test_data(tmp_path, monkeypatch):
    final = lambda task, predict: {"test_mse": 1.0, "valid": float(predict(np.ones((1, 5, 1))).mean())}  # noqa: E731
    monkeypatch.setattr(Toy, "final", final, raising=False)
    monkeypatch.setattr(Toy, "of_test", lambda task, name: name == "test_mse", raising=False)
    config = write_config(tmp_path, QUICK + '[target]\nmetric = "test_mse"\nvalue = 9.0\n', steps=5)
    out = tmp_path / "out"
    assert run("sweep", config, "--grid", RATES, "--by", "valid:above", "--out", out)[0] == 0
    assert "test_mse" in (out / "best.toml").read_text(), "the target is still that of the config"
    for name in ("sweep.json", "sweep.md", "1/summary.json"):
        assert "valid" in (out / name).read_text()
        assert "test_mse" not in (out / name).read_text()
