"""A run under backend="cpu": the kernel gives the same bits in another process, so a kill changes no digit."""

import signal

import pytest
from test_cli import process
from toy import run, write_config

from jlstm.backends import library


@pytest.mark.skipif(library.unavailable() is not None, reason=str(library.unavailable()))
def test_a_kill_under_the_cpu_kernel_changes_no_digit(tmp_path):
    config = write_config(
        tmp_path,
        '[model.lstm]\nbackend = "cpu"\n',
        steps=60, batch_size=16, units=24, checkpoint_every=20, evaluate_every=10,
    )  # fmt: skip
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run("train", config, "--out", whole)[0] == 0
    with process("train", config, "--out", out, KILL_IN_SAVE="2") as child:
        _, printed = child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL, printed
    killed = (out / "metrics.jsonl").read_bytes()
    assert run("train", config, "--out", out, "--resume")[0] == 0
    expected = (whole / "metrics.jsonl").read_bytes()
    assert expected.count(b"\n") == 60
    assert killed != expected
    assert (out / "metrics.jsonl").read_bytes() == expected
