"""The runner beside torch: both make the same updates before they are timed. No time is asserted."""

import json

import numpy as np
import pytest

from benchmarks import experiment_speed as program
from benchmarks import trainers

pytestmark = pytest.mark.lenient  # torch's users rely on promotion


@pytest.fixture
def small(monkeypatch, tmp_path, peer):
    """Run the program on the adding problem of 22 steps, 2 seeds."""
    peer("torch")
    load = program.load
    tiny = ["--task.length", "22", "--model.units", "4", "--train.batch-size", "2"]
    monkeypatch.setattr(program, "load", lambda path, changes: load(path, [*changes, *tiny]))
    monkeypatch.setattr(program, "CONFIGS", {"adding": ("adding", "t100")})
    monkeypatch.setattr(program, "SEEDS", (2,))
    monkeypatch.setattr(program, "STEPS", 6)
    monkeypatch.setattr(trainers, "THREADS", 1)
    return lambda: program.main(["--samples", "1", "--out", str(tmp_path)])


def test_both_make_the_same_updates_and_the_table_gives_their_rates(small, tmp_path):
    assert small() == 0
    data = json.loads((tmp_path / "experiment_speed.json").read_text())
    (row,) = data["rows"]
    assert row["losses_apart"] < 1e-4
    ours, torch = (6 / row[who]["median"] for who in ("runner", "torch"))
    assert f"| adding | 2 | 2 | 4 | {ours:,.0f} | {torch:,.0f} |" in (tmp_path / "experiment_speed.md").read_text()


def test_losses_that_differ_are_not_timed(small, tmp_path, monkeypatch, capsys):
    class Otherwise:
        compile_seconds = 0.0

        def __init__(self, config):
            pass

        def __call__(self):
            return np.ones((6, 2))

    monkeypatch.setattr(program, "Runner", Otherwise)
    assert small() == 1
    assert "losses of the first steps differ by" in capsys.readouterr().out
    assert not (tmp_path / "experiment_speed.md").exists()
