"""Configs: reading, overriding, writing back, and one clear line for everything that is wrong."""

import dataclasses
from pathlib import Path

import pytest
from toy import write_config

from experiments.config import ConfigError, difference, has_quick, load, to_toml

BASE = '[task]\nname = "toy"\n'


@pytest.fixture
def file(tmp_path):
    """Write a config file of the given text."""

    def make(text):
        path = tmp_path / "given.toml"
        path.write_text(text)
        return path

    return make


def test_a_model_that_reads_the_future_is_refused_where_every_step_predicts():
    sunspots = Path(__file__).parents[2] / "configs/sunspots.toml"
    for override in (["--model.bidirectional", "True"], ["--model.lstm.go_backwards", "true"]):
        with pytest.raises(ConfigError, match="would read what the task has to predict"):
            load(sunspots, override)


def test_defaults_live_in_the_dataclasses(file):
    config = load(file(BASE)).base
    assert (config.model.units, config.optimizer.learning_rate, config.train.seeds) == (32, 1e-3, 1)
    assert config.target is None


def test_a_file_is_a_diff_and_its_header_is_kept(tmp_path):
    experiment = load(write_config(tmp_path))
    assert experiment.name == "toy"
    assert experiment.header == "The toy.\n\nCommand: none."
    assert (experiment.base.model.units, experiment.base.train.steps) == (4, 20)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["given.toml", "[task] name", "toy", "got None"]),
        ('[task]\nname = "no"\n', ["[task] name", "toy", "'no'"]),
        ("[task\n", ["given.toml", "not TOML", "line 1"]),
        (BASE + "[trian]\nsteps = 2\n", ["'trian'", "task, model, optimizer, train, target"]),
        (BASE + "[train]\nstep = 2\n", ["given.toml: [train]", "'step'", "steps_per_call"]),
        (BASE + "depth = 2\n", ["[task]", "'depth'", "length"]),
        (BASE + "length = 1\n", ["[task]", "length must be at least 2, got 1"]),
        (BASE + "[train]\nsteps = 'many'\n", ["[train] steps", "must be int", "'many'"]),
        (BASE + "[train]\nsteps = true\n", ["[train] steps", "must be int", "True"]),
        (BASE + "[train]\nsteps = 0\n", ["[train]", "steps must be at least 1, got 0"]),
        (BASE + "[optimizer]\nname = 'adm'\n", ["[optimizer] name", "'adam'", "'sgd'", "'adm'"]),
        (BASE + "[optimizer]\nweight_decay = 0.1\n", ["weight_decay", "adamw"]),
        (BASE + "[target]\nvalue = 1.0\n", ["[target] needs metric"]),
        (BASE + "[model]\ndropout = 0.5\n", ["[model]", "dropout", "one layer"]),
        (BASE + "[model.lstm]\nactivaton = 'relu'\n", ["[model]", "'activaton'", "recurrent_activation"]),
        (BASE + "[model.lstm]\nactivation = 'rellu'\n", ["[model]", "activation", "relu", "'rellu'"]),
        (BASE + "[model.lstm]\nunits = 3\n", ["[model]", "'units'"]),
        (BASE + "[[cases]]\n", ["cases 1", "name"]),
        (BASE + "[[cases]]\nname = 'a/b'\n", ["cases 1", "'a/b'"]),
        (BASE + "[target]\nmetric='mse'\nvalue=1.0\n[[cases]]\nname='a'\n", ["[target]", "[[cases]]"]),
        (BASE + "[[cases]]\nname = 'a'\n[cases.train]\nstep = 2\n", ["case a", "[train]", "'step'"]),
        (BASE + "[optimizer]\nwarmup = -1\n", ["warmup must be at least 0, got -1"]),
        (BASE + "[train]\nstop_after = -1\n", ["stop_after must be at least 0, got -1"]),
        (BASE + "[target]\nmetric='mse'\nvalue=1.0\nat_most=1.0\n", ["at_most must be in [0, 1), got 1.0"]),
        (BASE + "[paper]\nfigure = 'x'\n", ["[paper]", "'figure'", "published"]),
    ],
)
def test_an_error_names_file_key_and_allowed_values_in_one_line(file, text, words):
    with pytest.raises(ConfigError) as caught:
        load(file(text))
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.toml: cannot read the config"):
        load(tmp_path / "no.toml")


def test_overrides_reach_every_table(tmp_path):
    arguments = ["--train.steps", "7", "--model.units=5", "--task.length", "3", "--optimizer.name", "sgd"]
    arguments += ["--model.bidirectional", "True", "--model.lstm.activation", "relu"]
    arguments += ["--model.lstm.bias_initializer={name = 'Chrono', max_steps = 9}"]
    config = load(write_config(tmp_path), arguments).base
    assert (config.train.steps, config.model.units, config.task.length, config.optimizer.name) == (
        7,
        5,
        3,
        "sgd",
    )
    assert config.model.bidirectional
    assert config.model.lstm == {"activation": "relu", "bias_initializer": {"name": "Chrono", "max_steps": 9}}
    assert config.train.batch_size == 4, "what is not overridden stays as in the file"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train.step", "7"], ["command line", "--train.step"]),
        (["--train.steps", "x"], ["command line", "--train.steps", "x"]),
        (["--train.steps"], ["command line", "--train.steps"]),
        (["--train.steps", "0"], ["command line", "at least 1"]),
        (["--model.lstm.activation"], ["--model.lstm.activation", "value"]),
        (["--model.lstm.units", "3"], ["[model]", "units"]),
    ],
)
def test_a_wrong_override_is_one_line(tmp_path, arguments, words):
    with pytest.raises(ConfigError) as caught:
        load(write_config(tmp_path), arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_case_is_a_diff_and_overrides_win_over_it(tmp_path):
    more = "[[cases]]\nname = 'wide'\n[cases.model]\nunits = 9\n[cases.target]\nmetric = 'mse'\nvalue = 0.1\n"
    more += "[[cases]]\nname = 'plain'\n"
    path = write_config(tmp_path, more)
    cases = load(path).cases
    assert list(cases) == ["wide", "plain"]
    assert (cases["wide"].model.units, cases["plain"].model.units) == (9, 4)
    assert cases["wide"].target is not None
    assert cases["plain"].target is None
    assert all(case.model.units == 6 for case in load(path, ["--model.units", "6"]).cases.values())


def test_what_is_written_reads_back_equal(tmp_path):
    more = '[model.lstm]\nactivation = "relu"\nbias_initializer = {name = "Chrono", max_steps = 9}\n'
    more += "[[cases]]\nname = 'a'\n[cases.model]\nlayers = 2\n[cases.model.lstm]\ndropout = 0.1\n"
    more += "[cases.target]\nmetric = 'm\"\\\\'\nvalue = 1e-05\nmax_sequences = 3\n[[cases]]\nname = 'b'\n"
    first = load(write_config(tmp_path, more.replace("'m\"\\\\'", "'m\"\\\\x'")))
    again = tmp_path / "again.toml"
    again.write_text(to_toml(first))
    second = load(again)
    assert second.base == first.base
    assert dict(second.cases) == dict(first.cases)


def test_difference_names_the_keys(tmp_path):
    path = write_config(tmp_path)
    old, new = load(path).base, load(path, ["--train.steps", "30", "--model.units", "5"]).base
    assert difference(old, new) == ["model.units", "train.steps"]
    assert difference(old, dataclasses.replace(old)) == []


QUICK = """
[quick]
cases = ["wide"]
train.steps = 3
[[cases]]
name = "wide"
[cases.model]
units = 9
[cases.train]
batch_size = 2
[[cases]]
name = "plain"
"""


def test_a_quick_version_keeps_its_cases_and_changes_them(tmp_path):
    path = write_config(tmp_path, QUICK)
    whole, quick = load(path), load(path, quick=True)
    assert has_quick(path)
    assert list(whole.cases) == ["wide", "plain"]
    assert {case.train.steps for case in whole.cases.values()} == {20}
    assert list(quick.cases) == ["wide"]
    wide = quick.cases["wide"]
    assert (wide.model.units, wide.train.steps, wide.train.batch_size) == (9, 3, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["toy.toml", "no [quick] table"]),
        ("[quick]\ntrain.step = 1\n", ["[quick]", "[train]", "'step'"]),
        ("[quick]\ncases = ['a']\n[[cases]]\nname = 'b'\n", ["[quick] cases must be among b, got 'a'"]),
    ],
)
def test_a_wrong_quick_version_is_one_line(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        load(write_config(tmp_path, text), quick=True)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_what_the_paper_says_is_no_difference(tmp_path):
    path = write_config(tmp_path, '[paper]\ntask = "toys"\npublished = "nothing"\n')
    config = load(path).base
    assert (config.paper.task, config.paper.published) == ("toys", "nothing")
    assert difference(config, dataclasses.replace(config, paper=None)) == []
