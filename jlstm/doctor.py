"""What this installation has, what it lacks, and how to install that."""

import importlib.metadata
import platform

import jax

from jlstm.backends import library

REQUIRED = ("jlstm", "jax", "jaxlib", "numpy")
OPTIONAL = {  # what each is for, and the command that installs it
    "safetensors": ("jlstm.save and load", "pip install 'jlstm[interop]'"),
    "h5py": ("Keras files", "pip install 'jlstm[interop]'"),
    "onnx": ("ONNX models", "pip install 'jlstm[interop]'"),
    "flatbuffers": ("jlstm.export", "pip install 'jlstm[export]'"),
    "matplotlib": ("jlstm.plot_gates", "pip install 'jlstm[train]'"),
    "flax": ("jlstm.nnx", "pip install 'jlstm[flax]'"),
    "optax": ("jlstm.optax", "pip install 'jlstm[train]'"),
    "orbax-checkpoint": ("the experiments", "pip install 'jlstm[train]'"),
    "keras": ("live layers, writing .keras", "pip install keras"),
    "torch": ("nn.LSTM, .pt files", "pip install torch"),
}


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
        **{name: _version(name) or f"not installed ({use}): {command}" for name, (use, command) in OPTIONAL.items()},
        **_devices(),
        "64 bits": "on" if jax.dtypes.canonicalize_dtype("float64") == "float64" else "off (jax_enable_x64)",
        "backend cpu": f"yes, {library.instructions()}" if reason is None else f"no: {reason}",
        "backend xla": "yes",
    }
    return [f"{name:17} {text}" for name, text in lines.items()]


def _devices() -> dict[str, str]:
    try:
        devices = jax.devices()
    except RuntimeError as error:  # a platform was asked for that is not there
        return {"devices": f"none: {' '.join(str(error).split())}"}
    lines = {"devices": ", ".join(f"{device.platform}:{device.id}" for device in devices)}
    if all(device.platform == "cpu" for device in devices):
        extras = "'jlstm[cuda13]', 'jlstm[cuda12]' or 'jlstm[tpu]'"
        lines["accelerators"] = f"none that jax sees; where there is one: pip install {extras}"
    return lines


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
