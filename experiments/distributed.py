"""`--distributed`: a command line on several processes, which meet before any work and end together.

JAX's own runtime joins them: process 0 is the coordinator, whose address is detected on a cluster or said by hand.
Where it would end a process by a signal and a stack trace (nobody at the address, a port in use, a process that never
comes), the reason is found before, in one line and in a known time.
"""

import argparse
import contextlib
import ipaddress
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import jax

from experiments import rundir
from experiments.config import ConfigError
from experiments.devices import GAVE_UP, ONE, Devices, Ended, all_devices
from experiments.rundir import RunError, Stopped

MEET_SECONDS = 300.0  # until all processes have come; a cluster may start them minutes apart
LONGEST_SECONDS = 86_400
SILENT_SECONDS = 100  # until a process that is not heard of counts as dead; one that was killed is missed at once
LAST_SECONDS = 1.0  # that process 0 outlives the others by: without the coordinator they would end with a stack trace
UNUSABLE, STOPPED = 2, 3  # exit statuses, as in __main__
# How XLA's errors begin when a collective fails, and with it the run: another process has gone.
LOST = re.compile(r"(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): ")


class LostProcess(Stopped):
    """Another process of the run has ended, or cannot be reached any more."""


@dataclass(frozen=True)
class Options:
    """What the command line says: by hand all of the first three, or none, which leaves them to be detected."""

    wanted: bool
    coordinator: str | None
    processes: int | None
    process: int | None
    timeout: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --distributed and what goes with it."""
    group = parser.add_argument_group("several devices", "docs/distributed.md")
    group.add_argument(
        "--distributed", action="store_true",
        help="use all devices, those of the other processes too: SLURM, Open MPI, Kubernetes and TPU pods are detected",
    )  # fmt: skip
    by_hand = (("coordinator", "HOST:PORT", str), ("processes", "N", int), ("process", "I", int))
    for name, metavar, kind in by_hand:
        group.add_argument(f"--distributed.{name}", dest=f"distributed_{name}", metavar=metavar, type=kind)
    group.add_argument(
        "--distributed.timeout", dest="distributed_timeout", metavar="SECONDS", type=float, default=MEET_SECONDS,
        help=f"until all processes must have come (default {MEET_SECONDS:g})",
    )  # fmt: skip


def parse(given: argparse.Namespace) -> Options:
    """Check the arguments against each other.

    Raises:
        ConfigError: one is missing, or out of its range.
    """
    by_hand = {name: getattr(given, f"distributed_{name}") for name in ("coordinator", "processes", "process")}
    options = Options(
        given.distributed or any(v is not None for v in by_hand.values()), **by_hand, timeout=given.distributed_timeout
    )
    name = "command line: --distributed"
    if not 0 < options.timeout <= LONGEST_SECONDS:
        longest = f"at most {LONGEST_SECONDS:,}"
        raise ConfigError(f"{name}.timeout must be above 0 seconds and {longest}, got {options.timeout:g}")
    missing = [f"--distributed.{key}" for key, value in by_hand.items() if value is None]
    if 0 < len(missing) < 3:
        raise ConfigError(f"command line: by hand, {', '.join(missing)} must be given too")
    if options.coordinator is None or options.processes is None or options.process is None:
        return options
    host, _, port = options.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"{name}.coordinator must be HOST:PORT of process 0, got {options.coordinator!r}")
    if options.processes < 1:
        raise ConfigError(f"{name}.processes must be at least 1, got {options.processes}")
    if not 0 <= options.process < options.processes:
        last = options.processes - 1
        raise ConfigError(f"{name}.process must be in 0 to {last} (of {options.processes}), got {options.process}")
    return options


@contextlib.contextmanager
def session(options: Options, config: str) -> Iterator[Devices]:
    """Meet the other processes, and part from them at the end.

    Args:
        options: the command line's.
        config: the text of the experiment, which has to be the same on all processes.

    Yields:
        The devices.

    Raises:
        ConfigError: the processes cannot meet, or do not run the same.
        LostProcess: another process has gone.
        Ended: this is not process 0, which has stopped, or does so for the same reason.
    """
    global _apart
    devices = _start(options)
    try:
        if devices.processes > 1:
            with _stdout_aside():
                devices.agree(f"{config}{rundir.environment()}", "the config and the versions")
        yield devices
        devices.told(None)  # process 0 has written all that it had to
    except BaseException as error:
        if devices.processes == 1:
            raise
        _apart = True
        if isinstance(error, (jax.errors.JaxRuntimeError, ValueError)) and LOST.match(str(error)):
            text = " ".join(str(error).split())[:200]
            raise LostProcess(
                f"process {jax.process_index()} has lost another process ({text}); "
                "the same command with --resume goes on from the last checkpoint"
            ) from error
        unusable = isinstance(error, (ConfigError, RunError)) and not isinstance(error, Stopped)
        status = UNUSABLE if unusable else STOPPED
        if devices.first:
            if devices.awaited:
                with contextlib.suppress(Exception):
                    devices.told({GAVE_UP: status})
            raise
        if isinstance(error, (ConfigError, RunError)):
            raise Ended(status) from error
        raise
    if devices.processes > 1:
        jax.distributed.shutdown()  # waits for the others


def leave(status: int) -> NoReturn:
    """End the process; one of several that has failed does not wait for the others, as an exit would."""
    if not _apart:
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:
        time.sleep(LAST_SECONDS)
    os._exit(status)


_apart = False  # whether this process has left a session of several by an error


def _start(options: Options) -> Devices:
    if not options.wanted:
        return ONE
    # It would take SIGTERM for a notice, and live on; here a kill at any moment is harmless.
    jax.config.update("jax_enable_preemption_service", False)
    by_hand: dict[str, Any] = {}
    if options.coordinator is not None:
        by_hand = {
            "coordinator_address": options.coordinator, "num_processes": options.processes,
            "process_id": options.process, "cluster_detection_method": "deactivate",
        }  # fmt: skip
        if _is_loopback(options.coordinator):  # JAX's own choice is every interface
            by_hand["coordinator_bind_address"] = options.coordinator
        if options.process == 0:
            _check_port(options.coordinator)
    with _limit(options):
        try:
            jax.distributed.initialize(
                **by_hand, initialization_timeout=int(options.timeout) + 60, heartbeat_timeout_seconds=SILENT_SECONDS
            )
        except ValueError as error:  # it found neither a cluster nor an address
            if by_hand or "coordinator_address" not in str(error):
                raise ConfigError(f"--distributed: {error}") from error
        except RuntimeError as error:
            raise ConfigError(f"--distributed: {' '.join(str(error).split())}") from error
    devices = jax.devices()
    if len(devices) == 1 and not jax.distributed.is_initialized():
        raise ConfigError(
            "--distributed finds one device, and no cluster (SLURM, Open MPI, Kubernetes, TPU pod); by hand: "
            "--distributed.coordinator HOST:PORT --distributed.processes N --distributed.process I"
        )
    return all_devices()


@contextlib.contextmanager
def _stdout_aside() -> Iterator[None]:
    """Let what is printed go to stderr: gloo tells on stdout, in each process, whom it has connected."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


@contextlib.contextmanager
def _limit(options: Options) -> Iterator[None]:
    """End the process with one line if the others do not come in time; JAX would end it with a stack trace."""

    def give_up():
        wanted = "all processes" if options.processes is None else f"all {options.processes} processes"
        text = f"{wanted} must have come within {options.timeout:g} s (--distributed.timeout), but not all have"
        if options.coordinator is not None and options.process != 0:
            try:
                _connect(options.coordinator)
            except OSError as error:
                text = f"process {options.process} must reach process 0 at {options.coordinator} within"
                text += f" {options.timeout:g} s (--distributed.timeout), got: {error.strerror or error}"
        print(f"error: --distributed: {text}", file=sys.stderr, flush=True)
        os._exit(UNUSABLE)

    timer = threading.Timer(options.timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _connect(address: str) -> None:
    socket.create_connection(_host_and_port(address), timeout=5).close()


def _is_loopback(address: str) -> bool:
    host = _host_and_port(address)[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_port(address: str) -> None:
    """Raise where another program listens on the coordinator's port: JAX would crash."""
    host, port = _host_and_port(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host if _is_loopback(address) else "", port))
        except OSError as error:
            raise ConfigError(f"process 0 must be able to listen on {address}, got: {error.strerror}") from error
