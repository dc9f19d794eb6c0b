"""Every config in configs/ trains two steps, which are not enough for any target."""

import json
from pathlib import Path

import pytest
from toy import run

from experiments import __main__ as cli
from experiments import cases, reproduce
from experiments.config import has_quick, load

PACKAGES = {"digits": "sklearn", "japanese_vowels": "sktime", "mnist1d": "mnist1d"}  # that ship a config's data
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


def first_case(path):
    return [option for case in list(load(path).cases)[:1] for option in ("--cases", case)]


def need_data(path, peer):
    if path.stem in PACKAGES:
        peer(PACKAGES[path.stem])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_two_steps_run_and_meet_no_target(path, tmp_path, peer):
    need_data(path, peer)
    cases.check(load(path), str(path))  # all of its cases, as far as shapes tell
    small = ("--train.steps", 2, "--train.seeds", 1, "--train.batch_size", 4)
    status, _, err = run("train", path, *first_case(path), "--out", tmp_path / "out", "--check", *small)
    assert err == ""
    assert (tmp_path / "out" / "report.html").exists()
    experiment = load(path)
    target = next(iter(experiment.cases.values()), experiment.base).target
    if path.stem == "sunspots":  # it forecasts the change, so it begins near persistence, on either side of it
        assert 0.5 < json.loads((tmp_path / "out" / "summary.json").read_text())["target"]["values"][0] < 2.0
    else:
        assert status == (cli.MISSED if target is not None and target.asks and target.at_most is None else cli.OK)


@pytest.mark.parametrize("path", [path for path in CONFIGS if has_quick(path)], ids=lambda p: p.stem)
def test_the_quick_version_is_a_part_of_the_whole(path, peer):
    need_data(path, peer)
    whole, quick = load(path), load(path, quick=True)
    cases.check(quick, str(path))
    assert set(quick.cases) <= set(whole.cases)
    for name, config in quick.cases.items() or [("", quick.base)]:
        full = whole.cases[name] if name else whole.base
        assert config.target is not None, "what is quick has to be met"
        assert config.target == full.target or config.target.max_sequences is None
        assert config.train.steps * config.train.seeds < full.train.steps * full.train.seeds


@pytest.mark.parametrize("name", reproduce.ROWS)
def test_each_row_has_a_config_that_says_what_the_paper_reports(name):
    experiment = load(CONFIGS[0].parent / f"{name}.toml")
    papers = [config.paper for config in experiment.cases.values() or [experiment.base]]
    assert all(paper and paper.task and paper.source for paper in papers)
    assert any(paper.published for paper in papers)


def test_each_config_opens_with_source_expectation_time_and_command():
    assert {"smoke", "sunspots"} <= {path.stem for path in CONFIGS}
    for path in CONFIGS:
        header = path.read_text().split("\n[", 1)[0].lower()
        for words in ("# source:", "# expected", "run time", "# command: python -m experiments train"):
            assert words in header, f"{path.name} must say {words!r}"


@pytest.mark.parametrize("name", reproduce.ROWS)
def test_the_result_that_is_kept_is_of_the_config_that_stands(name):
    assert reproduce.saved(name, load(CONFIGS[0].parent / f"{name}.toml")) is not None
