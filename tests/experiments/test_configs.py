"""Every config in configs/ trains two steps of each of its cases."""

from pathlib import Path

import pytest
from toy import run

PACKAGES = {"digits": "sklearn", "japanese_vowels": "sktime", "mnist1d": "mnist1d"}  # that ship a config's data
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_two_steps(path, tmp_path, peer):
    if path.stem in PACKAGES:
        peer(PACKAGES[path.stem])
    small = ("--train.steps", 2, "--train.seeds", 1, "--train.batch_size", 4)
    status, _, err = run("train", path, "--out", tmp_path / "out", *small)
    assert (status, err) == (0, "")
    assert (tmp_path / "out" / "report.html").exists()


def test_each_config_opens_with_source_expectation_time_and_command():
    assert {"smoke", "sunspots"} <= {path.stem for path in CONFIGS}
    for path in CONFIGS:
        header = path.read_text().split("\n[", 1)[0].lower()
        for words in ("# source:", "# expected", "run time", "# command: python -m experiments train"):
            assert words in header, f"{path.name} must say {words!r}"
