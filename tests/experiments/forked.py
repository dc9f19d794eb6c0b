"""Processes of the toy's command line, forked from one that has imported everything: half of their time was imports.

It forks with a single thread, and before it has a device. What it forks is a process as any, down to its exit.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax

LIMIT = 100  # seconds until a process that should have ended counts as hanging; it takes about five on a free machine


class Ended(NamedTuple):
    """How a process ended, by -n where it was signal n, and what it printed."""

    status: int
    out: str
    err: str


class Started(NamedTuple):
    """A process, and where its stdout and stderr go."""

    pid: int
    out: Path
    err: Path


class Forks:
    """The process that forks. environment: as of its start, where JAX reads it."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment | {"OPENBLAS_NUM_THREADS": "1"}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, *arguments: object, **environment: str) -> Started:
        """Start the command line as a process of its own, with an environment of its own."""
        self._count += 1
        out, err = (self._folder / f"{self._count}.{name}" for name in ("out", "err"))
        files = {"out": str(out), "err": str(err)}
        return Started(self._ask({"arguments": [*map(str, arguments)], "environment": environment} | files), out, err)

    def ended(self, *started: Started) -> list[Ended]:
        """Wait for processes; those that hang are killed, and a failure."""
        statuses = [self._ask({"wait": process.pid}) for process in started]
        assert None not in statuses, f"a process of {started} hangs"
        return [
            Ended(status, p.out.read_text(), p.err.read_text()) for status, p in zip(statuses, started, strict=True)
        ]

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=LIMIT)

    def _ask(self, what: dict) -> int:
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def serve() -> list[str]:
    """Fork and wait as is asked on stdin; in what is forked, give the arguments."""
    for line in sys.stdin:
        asked = json.loads(line)
        found = wait(asked["wait"]) if "wait" in asked else os.fork()
        if found == 0 and "wait" not in asked:
            os.environ.update(asked["environment"])
            if "JAX_NUM_CPU_DEVICES" in asked["environment"]:  # read before the fork
                jax.config.update("jax_num_cpu_devices", int(os.environ["JAX_NUM_CPU_DEVICES"]))
            for number, name in enumerate((os.devnull, asked["out"], asked["err"])):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
            return asked["arguments"]
        print(json.dumps(found), flush=True)
    raise SystemExit


def wait(process: int) -> int | None:
    """Wait for a process: its status, None where it had to be killed."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(process, 9)
    os.waitpid(process, 0)
    return None


if __name__ == "__main__":
    import toy

    toy.main(serve())
