"""The files of Keras 3, read with zipfile and h5py and without Keras: .keras archives and .weights.h5.

Nothing in a file is trusted: what is not where, and not as large as, the configuration says is a ValueError, and no
array is made before the file was seen to hold its bytes.
"""

import contextlib
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

Shape = Sequence[int | str]
# Reads the arrays of one cell, given the name of its group and the shapes that they must have.
ReadCell = Callable[[str, Sequence[Shape]], list[np.ndarray]]

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
# What zipfile, json and h5py raise for a file that is not what its name says; h5py has no error of its own.
_BROKEN = (
    *(zipfile.BadZipFile, OSError, RuntimeError, KeyError, IndexError, TypeError, ValueError, AttributeError),
    *(NotImplementedError, OverflowError, EOFError, MemoryError, RecursionError),
)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, ReadCell]]:
    """Open a file of Keras.

    Returns:
        A context of the configuration (None for .weights.h5, which holds none) and the function that reads a cell.

    Raises:
        ValueError: the file is broken, or none of Keras 3; also for what goes wrong inside of the context.
        OSError: the file cannot be opened.
    """
    name = os.fspath(path)
    if not name.endswith((".keras", "weights.h5")):
        raise ValueError(f"path must end in .keras or .weights.h5, got {name}")
    h5py = _h5py()
    with open(path, "rb") as file:
        try:
            config, weights = _archive(file) if name.endswith(".keras") else (None, file)
            size = weights.seek(0, os.SEEK_END)
            with h5py.File(weights, "r") as h5:
                yield config, lambda group, shapes: _read_cell(h5py, h5, size, group, shapes)
        except _BROKEN as error:
            if type(error) is ValueError:  # a subclass comes from json or zipfile
                raise ValueError(f"{name}: {error}") from error
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{name} must be a file that Keras 3 wrote, got one where {reason}") from error


def _archive(file: IO[bytes]) -> tuple[Any, IO[bytes]]:
    """The configuration and the weights of a .keras file."""
    with zipfile.ZipFile(file) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        members = {}
        for name in (_METADATA, _CONFIG, _WEIGHTS):
            if name not in infos:
                raise ValueError(f"the archive must hold {name}, got {', '.join(sorted(infos)[:10]) or 'nothing'}")
            # Keras stores its members as they are. A compressed one could grow to a thousand times its size.
            if infos[name].compress_type != zipfile.ZIP_STORED or infos[name].file_size != infos[name].compress_size:
                raise ValueError(f"{name} must be stored uncompressed, as Keras does it, got a compressed one")
            members[name] = archive.read(name)
    metadata = json.loads(members[_METADATA])
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    if not str(version).startswith("3."):  # hard_sigmoid was another function, and the layout another one
        raise ValueError(f"keras_version must be 3, got {version!r}: open it with Keras 3 and save it again")
    return json.loads(members[_CONFIG]), io.BytesIO(members[_WEIGHTS])


def _read_cell(h5py: Any, h5: Any, size: int, group: str, shapes: Sequence[Shape]) -> list[np.ndarray]:
    """Read the arrays of one cell, each after its checks; a letter in a shape stands for any size."""
    node = h5
    for part in (*group.split("/"), "vars"):
        node = _member(h5py, node, part, group, h5py.Group)
    names = sorted(node)
    if names != [str(n) for n in range(len(shapes))]:
        raise ValueError(f"{group} must hold {len(shapes)} arrays, got {', '.join(names[:10]) or 'none'}")
    return [
        _read(_member(h5py, node, str(n), group, h5py.Dataset), f"{group}/vars/{n}", size, shape)
        for n, shape in enumerate(shapes)
    ]


def _member(h5py: Any, node: Any, name: str, group: str, kind: type) -> Any:
    link = node.get(name, getlink=True) if name in node else None
    if link is None:
        found = ", ".join(sorted(node)[:10]) or "nothing"
        raise ValueError(f"{node.name} must hold {name} (on the way to {group}), got {found}")
    if not isinstance(link, h5py.HardLink):  # others lead out of the file, or in a circle
        raise ValueError(f"{node.name}/{name} must be in the file itself, got a {type(link).__name__}")
    member = node[name]
    if not isinstance(member, kind):
        raise ValueError(f"{member.name} must be a {kind.__name__.lower()}, got a {type(member).__name__.lower()}")
    return member


def _read(dataset: Any, name: str, size: int, shape: Shape) -> np.ndarray:
    got = dataset.shape
    if (
        got is None
        or len(got) != len(shape)
        or any(not isinstance(want, str) and want != have for want, have in zip(shape, got, strict=True))
    ):
        raise ValueError(f"{name} must have shape [{', '.join(map(str, shape))}], got {list(got or ())}")
    bfloat16 = dataset.attrs.get("dtype") == "bfloat16" and dataset.dtype == np.dtype("V2")
    if not bfloat16 and dataset.dtype.kind != "f":
        raise ValueError(f"{name} must hold floating numbers, got {dataset.dtype}")
    stored = dataset.id.get_storage_size()
    nbytes = math.prod(got) * dataset.dtype.itemsize
    # As Keras writes it: in one piece, not compressed, in this file. All else could claim any number of bytes.
    if dataset.chunks is not None or dataset.external or dataset.is_virtual or not nbytes <= stored <= size:
        raise ValueError(f"{name} must hold {nbytes} bytes in one piece, got {stored} of a file of {size}")
    array = np.asarray(dataset)
    return array.view(jnp.bfloat16) if bfloat16 else array


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("h5py must be installed to read files of Keras: pip install h5py") from error
    return h5py
