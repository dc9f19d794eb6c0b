"""A run's directory: choosing it, locking it, and writing to it so that a kill or a full disk leaves it whole.

    config.toml         the resolved config, versions and device in comments
    metrics.jsonl       one object a line: step, loss (mean over seeds), losses, and the evaluation's metrics
    timing.jsonl        seconds so far at each checkpoint and at the end; apart, so that metrics compare bit for bit
    checkpoints/        see checkpoint.py
    summary.json  curve.png  model.safetensors  report.html     written at the end

A comparison's directory holds one such directory for each case, beside config.toml, summary.json and report.html.
"""

import contextlib
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from experiments.config import CASE_NAME, ConfigError, Experiment, difference, load, to_toml

MARKER = "# written by `python -m experiments`"
FILES = (
    # checkpoints first: without metrics they would be resumed with a hole in front
    "checkpoints", "metrics.jsonl", "timing.jsonl", "summary.json", "curve.png", "model.safetensors", "report.html",
    "profile", "sweep.json", "sweep.md", "sweep.png", "best.toml",
)  # fmt: skip
PACKAGES = (
    "jlstm", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint", "scikit-learn", "sktime", "mnist1d",
)  # fmt: skip
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, no quota, above the file size limit


class RunError(RuntimeError):
    """A directory that cannot be used; the message is one line for the user."""


class Stopped(RunError):
    """A run that had to stop before its end; what was last good is saved."""


def is_run(path: Path) -> bool:
    """Say whether a directory was written by us: its config.toml carries our mark."""
    try:
        return MARKER in (path / "config.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def choose(name: str, out: str | None, resume: bool, overwrite: bool, root: Path = Path("runs")) -> Path:
    """Choose the directory: `out`, or runs/<name>, numbered where that is taken (resume: the newest of these)."""
    if out is not None:
        return Path(out)
    numbered = [root / name]
    while numbered[-1].exists():
        numbered.append(root / f"{name}-{len(numbered) + 1}")
    if overwrite:
        return numbered[0]
    return numbered[-2 if resume and len(numbered) > 1 else -1]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the directory for this process; the lock dies with the process, so none is ever stale.

    Raises:
        RunError: another process holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    with (path / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{path} is in use by another process") from None
        yield


def prepare(path: Path, experiment: Experiment, resume: bool, overwrite: bool) -> None:
    """Make a locked directory ready for a fresh start, or check that the saved run is the one to resume.

    Raises:
        RunError: it holds a run and neither resume nor overwrite was asked, or files that are not a run's.
        ConfigError: the config to resume with differs from the saved one.
    """
    exists = is_run(path)
    if not exists and any(p.name != "lock" and not _temporary(p) for p in path.iterdir()):
        raise RunError(f"{path} is not empty and holds no run of ours; choose another --out")
    if exists and resume:
        _check_same(path, experiment)
        changed = [name for name, value in environment().items() if saved_environment(path).get(name) != value]
        if changed:
            names = ", ".join(changed)
            print(f"warning: {path} was trained with another {names}; the digits may not go on alike", file=sys.stderr)
    elif exists and overwrite:
        _delete(path)
    elif exists:
        raise RunError(f"{path} holds a run; use --resume to go on with it, --overwrite to start afresh, or --out DIR")
    header = "".join(f"# {line}".rstrip() + "\n" for line in experiment.header.splitlines())
    versions = "".join(f"# {name}: {value}\n" for name, value in environment().items())
    text = f"{header}\n{MARKER}\n{versions}\n{to_toml(experiment)}"
    if not exists or not resume:
        write(path / "config.toml", text)


def write(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole: a reader, or a kill, meets the old content or the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_lines(path: Path, last_step: int | None = None) -> list[dict[str, Any]]:
    """Read a .jsonl file up to a step; a torn last line, and all behind it, is not there."""
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    for raw in path.read_bytes().splitlines(keepends=True):
        try:
            line = json.loads(raw) if raw.endswith(b"\n") else None
        except ValueError:
            line = None
        if line is None or (last_step is not None and line["step"] > last_step):
            break
        lines.append(line)
    return lines


class Lines:
    """A .jsonl file that grows: cut back to a step, then appended to, each line one write.

    Args:
        path: the file.
        step: keep the lines up to this step.
    """

    def __init__(self, path: Path, step: int):
        kept = read_lines(path, step)
        write(path, "".join(_line(line) for line in kept))
        self.last = kept[-1] if kept else None
        self._file = path.open("ab", buffering=0)

    def append(self, line: dict[str, Any]) -> None:
        """Write one line."""
        data = memoryview(_line(line).encode())
        while data:  # a raw write may be short; the next one then raises
            data = data[self._file.write(data) :]
        self.last = line

    def sync(self) -> None:
        """Bring all lines to the disk, before a checkpoint relies on them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Unwritten:
    """Lines that go nowhere, for a process that is not to write."""

    last = None

    def __init__(self, path: Path, step: int):
        pass

    def append(self, line: dict[str, Any]) -> None:
        """Do nothing."""

    def sync(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@contextlib.contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or an unwritable directory into one line that says what is left."""
    try:
        yield
    except OSError as error:
        name = error.filename or path
        if error.errno in FULL:
            raise Stopped(f"disk full: {error.strerror}: {name}; {path} keeps what was saved before") from error
        raise RunError(f"cannot use {name}: {error.strerror or error}") from error


def environment() -> dict[str, str]:
    """Name the versions, the commit and the device."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    found["commit"] = commit()
    devices = jax.devices()
    found["device"] = f"{len(devices)} x {devices[0].device_kind} ({platform.machine()})"
    return found


def commit() -> str:
    """Name the commit of the checkout, with "-dirty" where files differ from it; "unknown" outside of git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ":/configs", ":/experiments", ":/jlstm")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _check_same(path: Path, experiment: Experiment) -> None:
    saved = load(path / "config.toml")
    different = [] if set(saved.cases) == set(experiment.cases) else ["cases"]
    pairs = [(saved.base, experiment.base)]
    pairs += [(old, experiment.cases[name]) for name, old in saved.cases.items() if name in experiment.cases]
    for old, new in pairs:
        different += [key for key in difference(old, new) if key not in different]
    if different:
        raise ConfigError(
            f"{path}: the saved run's config differs in {', '.join(different)}; "
            "resume with the same values or start afresh with --overwrite or --out"
        )


def _delete(path: Path) -> None:
    """Delete a run's own files and those of its cases, and nothing else.

    config.toml stays until it is replaced, so that a kill leaves the directory known as ours.
    """
    for name in _case_names(path):
        case = path / name
        if case.is_symlink() or not is_run(case):
            continue
        with locked(case):
            _delete(case)
        if {p.name for p in case.iterdir()} <= {"config.toml", "lock"}:  # none but ours
            shutil.rmtree(case)
    for name in FILES:
        target = path / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def _case_names(path: Path) -> list[str]:
    """Read the cases of a saved config, which may have keys that are no more."""
    try:
        cases = tomllib.loads((path / "config.toml").read_text(encoding="utf-8")).get("cases", [])
    except tomllib.TOMLDecodeError:
        return []
    return [case["name"] for case in cases if CASE_NAME.fullmatch(str(case.get("name")))]


def saved_environment(path: Path) -> dict[str, str]:
    """Read the versions and the device that a run was trained with from its config.toml."""
    comments = (path / "config.toml").read_text(encoding="utf-8").partition(MARKER)[2].strip().partition("\n\n")[0]
    pairs = (line.removeprefix("# ").partition(": ") for line in comments.splitlines() if line.startswith("# "))
    return {name: value for name, _, value in pairs}


def _temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _line(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
