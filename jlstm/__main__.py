"""The command line: python -m jlstm doctor."""

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Sequence

import jax

from jlstm.backends import library

REQUIRED = ("jlstm", "jax", "jaxlib", "numpy")
OPTIONAL = ("optax", "orbax-checkpoint", "safetensors", "flax")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m jlstm", description="The LSTM layer as pure functions in JAX.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("doctor", help="show versions, devices and backends, and why a backend is missing")
    parser.parse_args(arguments)
    print("\n".join(doctor()))
    return 0


def doctor() -> list[str]:
    """Describe this installation, a line each.

    Example:
        >>> [line for line in doctor() if line.startswith("backend xla")]
        ['backend xla       yes']
    """
    reason = library.unavailable()
    lines = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{name: _version(name) or "missing" for name in REQUIRED},
        **{name: _version(name) or "not installed (optional)" for name in OPTIONAL},
        "devices": ", ".join(f"{device.platform}:{device.id}" for device in jax.devices()),
        "backend cpu": f"yes, {library.instructions()}" if reason is None else f"no: {reason}",
        "backend xla": "yes",
    }
    return [f"{name:17} {text}" for name, text in lines.items()]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
