"""The command line: directories, locks, exit statuses, and kills that change no digit."""

import errno
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy import run, write_config

from experiments import __main__ as cli

ROOT = Path(__file__).parents[2]
TARGET = '[target]\nmetric = "mse"\nvalue = {}\n'


def process(*arguments, **environment):
    """Start the toy's command line as a process of its own."""
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("toy.py"), *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_run_directory_holds_everything(tmp_path):
    out = tmp_path / "out"
    status, printed, err = run("train", write_config(tmp_path), "--out", out)
    assert (status, err) == (0, "")
    names = {"config.toml", "metrics.jsonl", "timing.jsonl", "checkpoints", "summary.json", "curve.png",
             "model.safetensors", "report.html", "lock"}  # fmt: skip
    assert {p.name for p in out.iterdir()} == names
    assert "step 20/20" in printed
    assert "mse" in printed
    assert "report.html" in printed
    text = (out / "config.toml").read_text()
    assert text.startswith("# The toy.\n")
    assert "# jax: " in text
    assert "steps_per_call = 4" in text
    summary = json.loads((out / "summary.json").read_text())
    assert summary["metrics"]["mse"]["baseline"] == pytest.approx(1 / 3)

    before = {name: (out / name).read_bytes() for name in ("metrics.jsonl", "model.safetensors", "curve.png")}
    status, printed, err = run("evaluate", out)
    assert (status, err) == (0, "")
    assert f"{min(summary['metrics']['mse']['second']):.4g} to" in printed
    (out / "curve.png").unlink()
    assert run("report", out)[0] == 0
    assert {name: (out / name).read_bytes() for name in before} == before

    status, _, err = run("train", write_config(tmp_path), "--out", out, "--resume")  # done already: nothing changes
    assert (status, err) == (0, "")
    assert (out / "metrics.jsonl").read_bytes() == before["metrics.jsonl"]


def test_a_run_is_never_overwritten_unasked(tmp_path):
    config, out = write_config(tmp_path, steps=2), tmp_path / "out"
    assert run("train", config, "--out", out)[0] == 0
    (out / "notes.txt").write_text("mine")
    metrics = (out / "metrics.jsonl").read_bytes()
    status, _, err = run("train", config, "--out", out)
    assert status == 2
    assert err.count("\n") == 1
    assert "--overwrite" in err
    assert (out / "metrics.jsonl").read_bytes() == metrics
    status, _, err = run("train", config, "--out", out, "--overwrite", "--train.seed", "5")
    assert (status, err) == (0, "")
    assert (out / "metrics.jsonl").read_bytes() != metrics
    assert (out / "notes.txt").read_text() == "mine"


def test_a_directory_that_is_no_run_is_refused_even_with_overwrite(tmp_path):
    out = tmp_path / "photos"
    out.mkdir()
    (out / "config.toml").write_text("# of another program\n")
    for more in ((), ("--overwrite",), ("--resume",)):
        status, _, err = run("train", write_config(tmp_path), "--out", out, *more)
        assert (status, err.count("\n")) == (2, 1)
        assert "holds no run of ours" in err
    assert (out / "config.toml").read_text() == "# of another program\n"


def test_without_out_runs_are_numbered_and_resume_takes_the_newest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, steps=2)
    for _ in range(2):
        assert run("train", config)[0] == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["toy", "toy-2"]
    whole = (tmp_path / "runs/toy/metrics.jsonl").read_bytes()
    for name in ("toy", "toy-2"):
        (tmp_path / "runs" / name / "metrics.jsonl").unlink()
        shutil.rmtree(tmp_path / "runs" / name / "checkpoints")
    assert run("train", config, "--resume")[0] == 0
    assert (tmp_path / "runs/toy-2/metrics.jsonl").read_bytes() == whole
    assert not (tmp_path / "runs/toy/metrics.jsonl").exists()


def test_resume_refuses_another_config_and_names_the_keys(tmp_path):
    config, out = write_config(tmp_path, steps=2), tmp_path / "out"
    assert run("train", config, "--out", out)[0] == 0
    arguments = ("--resume", "--model.units", "5", "--train.steps", "4")
    status, _, err = run("train", config, "--out", out, *arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert "differs in model.units, train.steps;" in err


def test_overwrite_deletes_the_runs_own_files_and_no_others(tmp_path):
    config, out = write_config(tmp_path, steps=2), tmp_path / "out"
    assert run("train", config, "--out", out)[0] == 0
    assert run("train", config, "--out", out / "mine")[0] == 0  # another run, that is no case of this one
    (out / "notes.txt").write_text("mine too")
    mine = (out / "mine" / "metrics.jsonl").read_bytes()
    assert run("train", config, "--out", out, "--overwrite")[0] == 0
    assert (out / "mine" / "metrics.jsonl").read_bytes() == mine
    assert (out / "notes.txt").read_text() == "mine too"


def test_a_hole_in_the_metrics_is_not_resumed_over(tmp_path):
    config, out = write_config(tmp_path, steps=6), tmp_path / "out"
    assert run("train", config, "--out", out)[0] == 0
    whole = (out / "metrics.jsonl").read_bytes()
    (out / "metrics.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[1:]))
    status, _, err = run("train", config, "--out", out, "--resume")
    assert status == 0
    assert "lacks lines" in err
    assert (out / "metrics.jsonl").read_bytes() == whole


def test_a_directory_in_use_is_a_clear_error(tmp_path):
    config, out = write_config(tmp_path, steps=2), tmp_path / "out"
    assert run("train", config, "--out", out)[0] == 0
    with (out / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for command in (("train", config, "--out", out, "--resume"), ("evaluate", out), ("report", out)):
            status, _, err = run(*command)
            assert (status, err) == (2, f"error: {out} is in use by another process\n")
    assert run("report", out)[0] == 0


def test_the_lock_dies_with_its_process(tmp_path):
    config, out = write_config(tmp_path, steps=1_000_000), tmp_path / "out"
    with process("train", config, "--out", out) as child:
        wait_for_steps(child, out, 1)
        assert "in use" in run("report", out)[2]
        child.kill()
    assert "in use" not in run("report", out)[2]


@pytest.mark.parametrize("status", [0, 1])
def test_check_gives_the_exit_status(tmp_path, status):
    config = write_config(tmp_path, TARGET.format((0.0, 9.0)[status == 0]), steps=2)
    found, printed, _ = run("train", config, "--out", tmp_path / "out", "--check")
    assert found == status
    assert ("MISSED" in printed) == bool(status)
    assert run("train", config, "--out", tmp_path / "other")[0] == 0, "without --check a miss is no failure"


def test_cases_run_beside_each_other_and_check_holds_all(tmp_path):
    more = "[[cases]]\nname = 'good'\n[cases.target]\nmetric = 'mse'\nvalue = 9.0\n"
    more += "[[cases]]\nname = 'bad'\n[cases.model]\nunits = 2\n[cases.target]\nmetric = 'mse'\nvalue = 0.0\n"
    more += "[[cases]]\nname = 'told'\n[cases.model]\nunits = 3\n"
    config, out = write_config(tmp_path, more, steps=2), tmp_path / "out"
    status, printed, err = run("train", config, "--out", out, "--check")
    assert (status, err) == (1, "")
    assert "good: target mse below 9" in printed
    assert "bad: target mse below 0 for 100% of the seeds: MISSED (0 of 2 seeds)" in printed
    for case in ("good", "bad", "told"):
        assert (out / case / "metrics.jsonl").exists()
        assert (out / case / "report.html").exists()
    assert (out / "report.html").exists()
    assert run("train", config, "--out", out, "--resume", "--check")[0] == 1
    assert "good" in run("evaluate", out)[1]
    assert run("report", out)[0] == 0
    assert run("report", out / "bad")[0] == 0
    assert run("train", config, "--out", tmp_path / "one", "--check", "--cases", "good")[0] == 0
    status, _, err = run("train", config, "--cases", "goood")
    assert status == 2
    assert "good, bad, told" in err
    assert run("train", config, "--out", out, "--overwrite", "--cases", "told")[0] == 0
    assert not (out / "bad").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("trian",), ("train",), ("train", "no.toml"), ("train", "{config}", "--train.stepz", "3"),
        ("train", "{config}", "--resume", "--overwrite"), ("train", "{config}", "--out"), ("report",),
        ("report", "{folder}"), ("evaluate", "{folder}/none"), ("report", "{folder}", "--more"),
        ("train", "{config}", "--out", "{config}"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_line_and_status_2(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path)
    status, _, err = run(*(a.format(config=config, folder=tmp_path) for a in arguments))
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith("error: ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("train", "; the same command with --resume goes on from the last checkpoint"),
        ("sweep", "; the same command with --resume goes on from the last checkpoint"),
        ("evaluate", ""), ("report", ""), ("reproduce --quick", ""),
    ],
)  # fmt: skip
def test_an_interrupted_command_says_how_it_goes_on_where_it_can(monkeypatch, command, more):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert run(*command.split(), "it") == (130, "", f"error: interrupted{more}\n")


def test_a_run_without_a_checkpoint_is_no_run_to_evaluate(tmp_path):
    config, out = write_config(tmp_path, steps=2), tmp_path / "out"
    assert run("train", config, "--out", out)[0] == 0
    (out / "checkpoints" / "0000000002").rename(out / "checkpoints" / "0000000002.tmp")
    status, _, err = run("evaluate", out)
    assert (status, err) == (
        2,
        f"error: {out} holds no complete checkpoint; go on training it: `train CONFIG --out DIR --resume`\n",
    )


@pytest.mark.parametrize("name", ["metrics.jsonl", "curve.png", "config.toml"])
def test_a_full_disk_is_one_line_and_leaves_what_was_good(tmp_path, monkeypatch, name):
    config, out = write_config(tmp_path, steps=5), tmp_path / "out"
    if name != "config.toml":
        assert run("train", config, "--out", out)[0] == 0
        before = (out / name).read_bytes()
    write = Path.open

    def full(self, mode="r", *args, **kwargs):
        if self.name in (name, f".{name}.tmp") and mode != "r" and mode != "rb":
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return write(self, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        status, _, err = run("train", config, "--out", out, "--resume")
        assert (status, err.count("\n")) == (3, 1), err
        assert "disk full" in err
    if name != "config.toml":
        assert (out / name).read_bytes() == before
    assert run("train", config, "--out", out, "--resume")[0] == 0


def test_a_file_size_limit_stops_with_one_line(tmp_path):
    # The metrics file outgrows the limit while it trains: a real write that fails in the middle.
    config, out = write_config(tmp_path, steps=100_000, checkpoint_every=100_000), tmp_path / "out"
    code = f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, {resource.RLIM_INFINITY}));"
    code += f"sys.argv = ['toy', 'train', {str(config)!r}, '--out', {str(out)!r}];"
    code += f"runpy.run_path({str(Path(__file__).with_name('toy.py'))!r}, run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: disk full: File too large: ")
    assert "Traceback" not in done.stderr
    assert (out / "metrics.jsonl").stat().st_size <= 20000


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run that is never stopped: (config file, metrics.jsonl)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = write_config(folder, steps=3000, checkpoint_every=200, evaluate_every=50, steps_per_call=20)
    assert run("train", config, "--out", folder / "out")[0] == 0
    return config, (folder / "out" / "metrics.jsonl").read_bytes()


def wait_for_steps(child, out, steps):
    """Wait until a run has written so many lines."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.poll() is None:
        path = out / "metrics.jsonl"
        if path.exists() and path.read_bytes().count(b"\n") >= steps:
            return
        time.sleep(0.01)
    assert child.poll() is None, child.stderr.read()
    raise AssertionError("the run wrote nothing in 120 s")


def test_kills_at_any_moment_change_no_digit(undisturbed, tmp_path):
    config, expected = undisturbed
    out, moments = tmp_path / "out", random.Random(0)
    for kill in range(2):
        with process("train", config, "--out", out, *(("--resume",) if kill else ())) as child:
            wait_for_steps(child, out, 1 + kill * 1000)
            time.sleep(moments.uniform(0.0, 0.3))
            child.kill()
    assert run("train", config, "--out", out, "--resume")[0] == 0
    assert (out / "metrics.jsonl").read_bytes() == expected


def test_a_kill_inside_a_save_changes_no_digit(undisturbed, tmp_path):
    config, expected = undisturbed
    out = tmp_path / "out"
    with process("train", config, "--out", out, KILL_IN_SAVE="3") as child:
        _, printed = child.communicate()
    assert child.returncode == -signal.SIGKILL, printed
    found = {p.name for p in (out / "checkpoints").iterdir()}
    assert {"0000000200", "0000000400"} < found, "the third is there under another name"
    assert "0000000600" not in found
    assert run("train", config, "--out", out, "--resume")[0] == 0
    assert (out / "metrics.jsonl").read_bytes() == expected
