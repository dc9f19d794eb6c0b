"""The papers' tables: what is missing is run, what is there is not, the words stand beside the figures."""

import functools
import importlib.util
import json
import re
import shutil
import subprocess

import pytest
from toy import run, write_config

from experiments import checkpoint, reproduce, rundir, tables, train
from experiments.config import load
from experiments.reproduce import CONFIGS
from experiments.tasks import digits

PAPER = """
[paper]
task = "a toy | of T numbers"
source = "nobody 1997"
published = "never"
[quick]
train.steps = 5
[target]
metric = "mse"
value = 9.0
max_sequences = 20
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A place with two rows, toy and other; only the first has a quick version and a target."""
    for name in ("CONFIGS", "RESULTS", "RUNS"):
        monkeypatch.setattr(reproduce, name, tmp_path / name.lower())
    monkeypatch.setattr(reproduce, "ROWS", ("toy", "other"))
    reproduce.CONFIGS.mkdir()
    write_config(reproduce.CONFIGS, PAPER)
    cases = "[[cases]]\nname = 'a'\n[[cases]]\nname = 'b'\n[cases.target]\nmetric = 'mse'\nvalue = 0.0\n"
    write_config(reproduce.CONFIGS, cases).rename(reproduce.CONFIGS / "other.toml")
    write_config(reproduce.CONFIGS, PAPER)
    return tmp_path


def row(name="toy"):
    return json.loads((reproduce.RESULTS / f"{name}.json").read_text())


def table():
    return reproduce.RESULTS.with_suffix(".md").read_text()


def test_a_row_is_run_once_and_told_with_all_that_stands_behind_it(place, monkeypatch):
    status, out, _ = run("reproduce", "--rows", "toy")
    assert status == 0
    assert "met" in out
    found = row()
    assert found["command"] == "python -m experiments reproduce --rows toy"
    assert found["config"][""] == {**reproduce.describe(load(reproduce.CONFIGS / "toy.toml"))[""]}
    assert "paper" not in found["config"][""]
    assert found["cases"][""]["target"]["sequences"] == [20, 20]  # 5 steps of 4
    assert found["cases"][""]["loss_on"] == "the last step"
    assert {"jax", "cores", "processor"} <= set(found["versions"])
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=reproduce.ROOT, capture_output=True, text=True)
    if head.returncode == 0:
        assert found["commit"].removesuffix("-dirty") == head.stdout.strip()
    monkeypatch.setattr(train, "run", None)  # nothing is trained from here on
    assert run("reproduce", "--rows", "toy")[0] == 0
    line = next(line for line in table().splitlines() if "a toy" in line)
    cells = [cell.strip() for cell in line.replace("\\|", "!").strip("|").split("|")]
    assert cells[0] == "a toy ! of T numbers"
    assert cells[1] == "never (nobody 1997)"
    assert cells[3:5] == ["2 of 2", "20 (20 to 20)"]
    assert cells[5] == "20 updates of 4, scored every 5 and once on a second set; loss on the last step"
    assert cells[6] == "mse below 9 within 20 sequences: met"
    assert "other: a" in table()
    assert "not run" in table()
    assert "1 of 2 rows meet their targets" in table()
    page = reproduce.RESULTS.with_suffix(".html").read_text()
    assert "never (nobody 1997)" in page
    assert "http" not in page.replace("https://", "http://").split("</style>")[1]
    assert json.loads(reproduce.RESULTS.with_suffix(".json").read_text())["toy"]["met"] is True


def test_a_missed_target_is_told_and_gives_status_1(place):
    status, out, _ = run("reproduce", "--rows", "other")
    assert status == 1
    assert "MISSED" in out
    assert row("other")["cases"]["a"]["target"] is None
    assert "| other: b |" in table()
    assert "mse below 0: MISSED" in table()


def test_another_config_is_another_result(place):
    run("reproduce", "--rows", "toy")
    before = row()
    path = reproduce.CONFIGS / "toy.toml"
    path.write_text(path.read_text().replace("never", "once"))  # words change no figure
    run("reproduce", "--rows", "toy")
    assert row() == before
    assert "once (nobody 1997)" in table()
    path.write_text(path.read_text().replace("seeds = 2", "seeds = 1"))
    run("reproduce", "--rows", "toy")
    assert row()["config"] != before["config"]
    assert len(row()["cases"][""]["target"]["seeds"]) == 1


def test_a_row_that_was_stopped_goes_on(place):
    run("reproduce", "--rows", "toy")
    whole = row()["cases"]
    folder = reproduce.RUNS / "reproduce" / "toy"
    (reproduce.RESULTS / "toy.json").unlink()
    expected = (folder / "metrics.jsonl").read_bytes()
    (folder / "checkpoints" / "0000000020").rename(folder / "checkpoints" / "0000000020.tmp")  # killed in the last save
    assert run("reproduce", "--rows", "toy")[0] == 0
    assert (folder / "metrics.jsonl").read_bytes() == expected
    assert [case["metrics"] for case in row()["cases"].values()] == [case["metrics"] for case in whole.values()]
    timing = rundir.read_lines(folder / "timing.jsonl")
    assert [line["step"] for line in timing] == [5, 10, 15, 20, 20]  # and with the second set


def test_a_run_of_other_code_or_of_an_unknown_config_is_not_gone_on_with(place, monkeypatch):
    run("reproduce", "--rows", "toy")
    config = reproduce.RUNS / "reproduce" / "toy" / "config.toml"
    for text in (
        config.read_text().replace("# commit: ", "# commit: f00"),
        config.read_text() + "[task.more]\nx = 1\n",
    ):
        (reproduce.RESULTS / "toy.json").unlink()
        config.write_text(text)
        calls = []
        real = train.run
        monkeypatch.setattr(train, "run", lambda *a, real=real, calls=calls, **k: calls.append(1) or real(*a, **k))
        assert run("reproduce", "--rows", "toy")[0] == 0
        assert not row()["commit"].startswith("f00")
        lines = (config.parent / "timing.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [5, 10, 15, 20, 20]  # and with the second set
        assert calls == [1]
    assert run("train", reproduce.CONFIGS / "toy.toml", "--out", config.parent, "--overwrite")[0] == 0


def test_what_has_no_quick_version_is_named(place):
    status, _, err = run("reproduce", "--quick", "--rows", "other")
    assert (status, err) == (2, "error: command line: none of these --rows has a [quick] version\n")


def test_quick_takes_the_small_versions_alone_and_leaves_the_results(place):
    status, _, _ = run("reproduce", "--quick")
    assert status == 0
    assert not reproduce.RESULTS.exists()
    found = json.loads((reproduce.RUNS / "quick" / "results.json").read_text())
    assert list(found) == ["toy"]
    assert found["toy"]["cases"][""]["steps"] == 5
    assert found["toy"]["command"].endswith("--rows toy --quick")


def test_what_cannot_be_trained_is_told_and_the_rest_is(place):
    path = reproduce.CONFIGS / "toy.toml"
    path.write_text(path.read_text().replace('name = "toy"', 'name = "toy"\nbad_at = 7', 1))
    status, out, _ = run("reproduce")
    assert status == 3
    assert "toy: not run" in " ".join(out.split())
    assert "not finite at step 8" in " ".join(out.split())
    assert not (reproduce.RESULTS / "toy.json").exists()
    assert (reproduce.RESULTS / "other.json").exists()


def test_a_row_whose_package_is_missing_is_told_and_the_rest_is_trained(place, monkeypatch):
    shutil.copy(CONFIGS / "digits.toml", reproduce.CONFIGS / "other.toml")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    digits._split.cache_clear()
    status, out, _ = run("reproduce")
    assert status == 3
    out = " ".join(out.split())
    assert "other: not run: this task's data come with the package scikit-learn, which is not installed" in out
    assert out.index("toy (1 of 2)") < out.index("other: not run"), "said at the end, where it is seen"
    assert row()["cases"][""]["steps"] == 20
    assert not (reproduce.RESULTS / "other.json").exists()
    assert not (reproduce.RUNS / "reproduce" / "other").exists()


def test_a_fresh_row_that_was_killed_is_missing_and_goes_on(place, monkeypatch):
    run("reproduce", "--rows", "toy")
    whole, save, saves = row()["cases"][""]["metrics"], checkpoint.save, []

    def saving(folder, step, *more, kill=None):
        if step == kill:
            raise KeyboardInterrupt
        saves.append(step)
        save(folder, step, *more)

    monkeypatch.setattr(checkpoint, "save", functools.partial(saving, kill=15))
    status, _, err = run("reproduce", "--rows", "toy", "--fresh")
    assert (status, saves) == (130, [5, 10]), "trained again from step 0"
    assert err == "error: interrupted; the same command, without --fresh, goes on from the last checkpoint\n"
    assert not (reproduce.RESULTS / "toy.json").exists()
    monkeypatch.setattr(checkpoint, "save", saving)
    assert run("reproduce", "--rows", "toy")[0] == 0
    assert saves == [5, 10, 15, 20]
    assert row()["cases"][""]["metrics"] == whole


def test_an_unknown_row_and_a_foreign_result_are_named(place):
    status, _, err = run("reproduce", "--rows", "toys")
    assert (status, err) == (2, "error: command line: --rows must name rows, toy, other; got 'toys'\n")
    reproduce.RESULTS.mkdir()
    (reproduce.RESULTS / "toy.json").write_text("{}")
    status, _, err = run("reproduce")
    assert status == 2
    assert "toy.json is no result of ours" in err


def test_final_figures_stand_with_the_row(place):
    assert run("reproduce", "--rows", "toy")[0] == 0
    found = row()
    found["cases"][""]["final"] = {"test MSE/AR(9)": 379.9159, "test MSE/persistence": 1116.566}
    tables.save({"toy": tables.Row(load(reproduce.CONFIGS / "toy.toml"), found)}, reproduce.RESULTS, quick=False)
    for text in (table(), reproduce.RESULTS.with_suffix(".html").read_text()):
        assert "test MSE/AR(9): 379.9; test MSE/persistence: 1117" in text


def test_the_readme_quotes_the_table_of_results():
    lines = (reproduce.ROOT / "docs" / "results.md").read_text().splitlines()
    readme = (reproduce.ROOT / "README.md").read_text().split("## Results")[1]
    quoted = re.findall(r"^\| .* \| (\d+ of \d+) \| ([\d,]+ \([\d,]+ to [\d,]+\)) \| (\d+ s) \|$", readme, re.MULTILINE)
    assert len(quoted) >= 10
    for cells in quoted:
        assert any(all(f" {cell} |" in line for cell in cells) for line in lines), cells
    met, every = re.match(r"(\d+) of (\d+) rows meet", lines[2]).groups()
    assert f"{met} of the {every} rows meet their targets" in readme


def test_rows_on_a_second_base_seed_are_named(place):
    assert run("reproduce", "--rows", "toy")[0] == 0
    assert "second time" not in table()
    path = reproduce.CONFIGS / "toy.toml"
    path.write_text(path.read_text().replace("seeds = 2", f"seeds = 2\nseed = {tables.SECOND_BASE}"))
    assert run("reproduce", "--rows", "toy")[0] == 0
    assert "1 of them (toy) were run a second time" in table()
