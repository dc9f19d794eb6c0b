"""--profile: which steps are profiled, where it is written, and that nothing is lost where a run is short."""

import gzip
import json
import re

from toy import run, write_config


def test_a_profile_of_the_calls_after_the_first_evaluation(tmp_path):
    path = write_config(tmp_path)  # calls end at 4, 5 (evaluated), 8, 10, 12, ...
    status, out, err = run("train", path, "--out", tmp_path / "out", "--profile")
    assert (status, err) == (0, "")
    (said,) = re.findall(r"profile of steps (\d+) to (\d+): (\S+); open it at https://ui.perfetto.dev", out)
    assert said[:2] == ("6", "12")  # three calls
    assert said[2].startswith(f"{tmp_path}/out/profile/")
    with gzip.open(said[2], "rt") as file:
        names = {event.get("name", "") for event in json.load(file)["traceEvents"]}
    assert {name for name in names if name.startswith("dispatch")} == {
        "dispatch steps 6 to 8", "dispatch steps 9 to 10", "dispatch steps 11 to 12"
    }  # fmt: skip
    assert any("fusion" in name for name in names)  # what the device ran
    assert run("train", path, "--out", tmp_path / "out", "--overwrite")[0] == 0
    assert not (tmp_path / "out" / "profile").exists()


def test_a_run_that_ends_meanwhile_is_profiled_to_its_end_and_a_shorter_one_says_so(tmp_path):
    path = write_config(tmp_path, steps=8)
    assert "profile of steps 6 to 8:" in run("train", path, "--out", tmp_path / "out", "--profile")[1]
    path = write_config(tmp_path, steps=5)
    out = run("train", path, "--out", tmp_path / "short", "--profile")[1]
    assert "profile: none, the run ended before its first evaluation was over" in out
    assert not (tmp_path / "short" / "profile").exists()
