"""The machine, the versions of every library, and how busy other programs kept the machine during a run."""

import importlib.metadata
import os
import platform
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("jlstm", "jax", "jaxlib", "numpy", "flax", "equinox", "dm-haiku", "keras", "torch", "onnxruntime")


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Describe the machine and the versions."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def line(found: Mapping[str, Any]) -> str:
    """Say the machine and the versions in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    count = "1 core" if found["cores"] == 1 else f"{found['cores']} cores"
    return f"{count} of {found['cpu']}, Python {found['python']}, {versions}"


class Others:
    """How many cores other programs (the hypervisor's other guests among them) used since this was made."""

    def __init__(self) -> None:
        self.start = self._now()

    def cores(self) -> float | None:
        """Give the mean number of cores; None where the system does not say."""
        start, now = self.start, self._now()
        if start is None or now is None:
            return None
        busy, own, wall = (b - a for a, b in zip(start, now, strict=True))
        return round(max(busy - own, 0.0) / wall, 2)

    def _now(self) -> tuple[float, float, float] | None:
        """Seconds of all cores busy or stolen, those of this process and its children, and the clock."""
        try:
            fields = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0].split()[1:9]
        except OSError:
            return None
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields)
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return busy, sum(u.ru_utime + u.ru_stime for u in used), time.monotonic()


def _cpu_model() -> str:
    try:
        for text in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
