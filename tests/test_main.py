"""The command line."""

import importlib.metadata
import subprocess
import sys

import pytest

from jlstm import __main__
from jlstm.backends import library


def test_doctor_tells_versions_devices_and_backends():
    done = subprocess.run([sys.executable, "-m", "jlstm", "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith("backend"))
    assert told["jax"] == importlib.metadata.version("jax")
    assert "cpu:0" in told["devices"]
    assert any(line.startswith("backend cpu") for line in done.stdout.splitlines())


def test_doctor_says_why_the_kernel_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(library, "unavailable", lambda: "the processor lacks AVX2 and FMA")
    assert __main__.main(["doctor"]) == 0
    assert "backend cpu       no: the processor lacks AVX2 and FMA" in capsys.readouterr().out


def test_usage_without_a_command():
    with pytest.raises(SystemExit) as exit:
        __main__.main([])
    assert exit.value.code == 2
