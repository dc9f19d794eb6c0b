"""State dicts in files: .pt without unpickling anything but tensors, .safetensors without torch."""

import os
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

# What torch.load raises for a file that is not what its name says.
_BROKEN = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, ValueError, TypeError, KeyError, IndexError),
    *(AttributeError, EOFError, OSError, OverflowError, ImportError, AssertionError, MemoryError),
)


def read(path: str | os.PathLike[str], prefix: str) -> Mapping[str, Any]:
    """Read the tensors of a file whose names begin with the prefix; the others may be None.

    Raises:
        ValueError: another ending, or a file that is broken or holds more than tensors.
        OSError: the file cannot be opened.
        ImportError: the library that reads it is not installed.
    """
    name = os.fspath(path)
    with open(name, "rb"):  # a file that is not there is not a broken one
        pass
    if name.endswith(".safetensors"):
        return _safetensors(name, prefix)
    if name.endswith((".pt", ".pth", ".bin")):
        return _pickled(name)
    raise ValueError(f"path must end in .pt, .pth, .bin or .safetensors, got {name}")


def torch() -> Any:
    """Import torch."""
    try:
        import torch
    except ImportError as error:
        raise ImportError("torch must be installed for its modules and .pt files: pip install torch") from error
    return torch


def _safetensors(name: str, prefix: str) -> dict[str, Any]:
    try:
        import safetensors
    except ImportError as error:
        raise ImportError("safetensors must be installed to read such files: pip install safetensors") from error
    try:
        with safetensors.safe_open(name, framework="numpy") as file:
            return {key: file.get_tensor(key) if key.startswith(prefix) else None for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, OSError, AttributeError) as error:
        raise ValueError(f"{name} must be a safetensors file, got one where {type(error).__name__}: {error}") from error


def _pickled(name: str) -> Mapping[str, Any]:
    library = torch()
    try:
        if zipfile.is_zipfile(name):
            with zipfile.ZipFile(name) as archive:
                packed = [i.filename for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]
            if packed:  # torch stores its members as they are; a compressed one could grow to any size
                raise ValueError(f"{packed[0]} is compressed")
        loaded = library.load(name, map_location="cpu", weights_only=True)
    except _BROKEN as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{name} must be a state dict that torch.load reads with weights_only=True, got one where "
            f"{type(error).__name__}: {reason}"
        ) from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{name} must hold a state dict, got {type(loaded).__name__}")
    return loaded
