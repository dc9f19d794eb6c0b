"""Specs, params and states in files: safetensors, with the spec in the metadata. Nothing is ever unpickled.

The tensors are named by path, `params/kernel`, `params/0/forward/kernel`, `state/h`. The metadata has one entry,
"jlstm", which holds JSON: {"version": 1, "spec": what to_dict writes, "dtypes": {tensor: dtype}}. "dtypes" names the
tensors that are not in the dtype of their kind (the param_dtype of their LSTM; float32 for a state), and is left out
where there is none.
"""

import contextlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jlstm import checks
from jlstm.compose import Bidirectional, Stack, from_dict
from jlstm.layers import LSTM
from jlstm.paths import first_size, fitting, flatten, params_like, state_like, unflatten

ENTRY = "jlstm"  # of the metadata
VERSION = 1
MAX_HEADER = 4 * 2**20  # bytes: some thousands of layers; what a hostile header may cost in time and memory hangs on it

_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}

PathLike = str | os.PathLike[str]
Spec = LSTM | Bidirectional | Stack


def save(path: PathLike, spec: Spec, params: Any, state: Any = None) -> None:
    """Write a layer, its weights and perhaps its state into one file.

    An existing file is replaced at once, when the new one is complete on the disk.

    Args:
        path: of the file, whose name by custom ends in .safetensors.
        spec: LSTM, Bidirectional or Stack.
        params: the params of this spec, in float16, bfloat16, float32 or float64.
        state: a state of it [B, ...], or None.

    Raises:
        TypeError: a field of the spec holds a bare callable, which no file can hold; or a wrong type.
        ValueError: params or state that do not fit the spec, or a path to something else than a file.
        OSError: it cannot be written.
        ImportError: safetensors is not installed.

    Example:
        >>> import jax, jlstm, os, tempfile
        >>> layer = jlstm.Bidirectional(jlstm.LSTM(5))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.safetensors")
        ...     jlstm.save(path, layer, params)
        ...     spec, loaded, state = jlstm.load(path)
        >>> spec == layer, state, bool((loaded.forward.kernel == params.forward.kernel).all())
        (True, None, True)
    """
    library = _safetensors()
    checks.instance("spec", spec, LSTM, Bidirectional, Stack)
    about: dict[str, Any] = {"version": VERSION, "spec": spec.to_dict()}
    trees = [("params", params, params_like(spec, first_size(params)))]
    if state is not None:
        trees.append(("state", state, state_like(spec, first_size(state))))
    tensors, dtypes = {}, {}
    for kind, tree, like in trees:
        expected = flatten(like)
        for name, array in fitting(kind, tree, like).items():
            tensors[f"{kind}/{name}"] = np.ascontiguousarray(array)
            if array.dtype != expected[name].dtype:
                dtypes[f"{kind}/{name}"] = array.dtype.name
    # One entry: safetensors writes several in an order of its own, and the file would differ from save to save.
    metadata = {ENTRY: json.dumps(about | ({"dtypes": dtypes} if dtypes else {}), allow_nan=False)}
    content = library.save(tensors, metadata)
    if int.from_bytes(content[:8], "little") > MAX_HEADER:
        raise ValueError(f"spec must fit into a header of {MAX_HEADER} bytes, got one of {len(tensors)} tensors")
    write(path, content)


def load(path: PathLike) -> tuple[Spec, Any, Any]:
    """Read what save wrote: all is checked against the spec before a tensor is read.

    Args:
        path: of the file.

    Returns:
        (spec, params, state), the arrays in the dtypes that they were saved in; state is None where none was saved.

    Raises:
        ValueError: the file is damaged, not of jlstm.save, of another version, or its tensors do not fit its spec;
            the message names the file.
        OSError: it cannot be read.
        ImportError: safetensors is not installed.

    Example:
        >>> import jax, jlstm, os, tempfile
        >>> layer = jlstm.LSTM(5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "model.safetensors")
        ...     jlstm.save(path, layer, layer.init(jax.random.key(0), input_size=3), layer.initial_state(2))
        ...     spec, params, state = jlstm.load(path)
        >>> spec, params.kernel.shape, state.h.shape
        (LSTM(5), (3, 20), (2, 5))
    """
    with _opened(path) as file:
        spec, dtypes = _read_document(path, (file.metadata() or {}).get(ENTRY), file.keys())
        header = {}
        for name in file.keys():  # noqa: SIM118  # not a mapping
            tensor = file.get_slice(name)
            header[name] = _DTYPES.get(tensor.get_dtype(), tensor.get_dtype()), tuple(tensor.get_shape())

        likes = {"params": _like("params", partial(params_like, spec), header)}
        if any(name.startswith("state/") for name in header):
            likes["state"] = _like("state", partial(state_like, spec), header)
        expected = {f"{kind}/{name}": leaf for kind, like in likes.items() for name, leaf in flatten(like).items()}
        _check_header(path, header, expected, dtypes)
        tensors = {name: jnp.asarray(file.get_tensor(name)) for name in expected}
    trees = {
        kind: unflatten(like, {name: tensors[f"{kind}/{name}"] for name in flatten(like)})
        for kind, like in likes.items()
    }
    return spec, trees["params"], trees.get("state")


def is_own(path: PathLike) -> bool:
    """Whether a safetensors file is one of jlstm.save, of whatever version.

    Raises:
        ValueError: it is no safetensors file, or a damaged one.
    """
    with _opened(path) as file:
        return ENTRY in (file.metadata() or {})


def write(path: PathLike, content: bytes) -> None:
    """Write a file so that a reader, or a kill, meets the old content or the new, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def check_replaceable(path: PathLike) -> None:
    """Require a path where a file can be: nothing, or a regular file, or a link to either.

    Raises:
        ValueError: a folder, a device or a pipe is there, or it has no name.
    """
    if not os.path.basename(path):
        raise ValueError(f"path must end in the name of a file, got {os.fspath(path)!r}")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{os.fspath(path)} must be a file, got something else")


@contextlib.contextmanager
def replacing(path: PathLike, suffix: str = "") -> Iterator[Path]:
    """Give a path beside this one to be written to, and put that file in its place where the block ends well.

    Args:
        path: of the file.
        suffix: of the path given, for a writer that looks at it.

    Raises:
        ValueError: something else than a file is there.
        OSError: about the path, not the one beside it.
    """
    check_replaceable(path)
    target = Path(os.path.realpath(path))  # a link stays one: what it points to is replaced
    temporary = target.with_name(f".{secrets.token_hex(6)}{suffix}")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except OSError as error:
        if error.errno is None or error.filename not in (None, os.fspath(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("files need safetensors, which is not installed: pip install 'jlstm[interop]'") from error
    return safetensors.numpy


@contextlib.contextmanager
def _opened(path: PathLike) -> Iterator[Any]:
    """Open a safetensors file: its header is read and checked, the tensors are not."""
    _safetensors()
    import safetensors

    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for a writer
        raise ValueError(f"{os.fspath(path)} must be a file, got something else")
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        expected = f"a safetensors file with a header of at most {MAX_HEADER} bytes"
        raise ValueError(f"{os.fspath(path)} must be {expected}, got {length}: it is of another kind, or damaged")
    try:
        with safetensors.safe_open(path, framework="np") as opened:
            yield opened
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{os.fspath(path)} must be a whole safetensors file, got a damaged one: {_cut(error)}"
        ) from None


def _read_document(path: PathLike, text: str | None, names: list[str]) -> tuple[Spec, dict[str, str]]:
    """The spec and the exceptional dtypes in the metadata."""
    path = os.fspath(path)
    if text is None:
        raise ValueError(
            f"{path} must be a file of jlstm.save, got one of another program, with {_few(names) or 'no tensors'}: "
            "jlstm.interop reads those of other libraries"
        )
    try:
        about = json.loads(text, parse_int=_integer, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must have JSON in its metadata, got {_cut(error)}") from None
    version = about.get("version") if isinstance(about, dict) else None
    if type(version) is not int or version != VERSION:
        advice = ": it needs a newer jlstm" if type(version) is int and version > VERSION else ""
        raise ValueError(f"{path} must be of format version {VERSION}, got {_cut(repr(version))}{advice}")
    assert isinstance(about, dict)  # it has a version
    if other := about.keys() - {"version", "spec", "dtypes"}:
        raise ValueError(f"{path} must have version, spec and dtypes in its metadata, got {_few(sorted(other))}")
    dtypes = about.get("dtypes", {})
    if not isinstance(dtypes, dict) or not all(isinstance(dtype, str) for dtype in dtypes.values()):
        raise ValueError(f"{path} must have a table of dtypes in its metadata, got {_cut(repr(dtypes))}")
    data: Any = about.get("spec")
    try:
        return from_dict(data), dtypes
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} must hold a spec that jlstm can make, got an error: {_cut(error)}") from None


def _like(kind: str, make: Callable[[int], Any], header: dict[str, tuple[str, tuple[int, ...]]]) -> Any:
    """What the spec makes of a kind for the first size of its first tensor: the input width, or the batch."""
    first = f"{kind}/{next(iter(flatten(make(0))))}"
    _, shape = header.get(first, ("", ()))
    return make(shape[0] if shape else 0)


def _check_header(
    path: PathLike,
    header: dict[str, tuple[str, tuple[int, ...]]],
    expected: dict[str, jax.ShapeDtypeStruct],
    dtypes: dict[str, str],
) -> None:
    """Require the tensors that the spec makes, and no other, in their shapes and dtypes."""
    path = os.fspath(path)
    if header.keys() != expected.keys():
        missing, other = expected.keys() - header.keys(), header.keys() - expected.keys()
        what = f"{_few(sorted(missing))} missing" if missing else f"{_few(sorted(other))} beyond them"
        raise ValueError(f"{path} must have the tensors of its spec, {_few(list(expected))}, got {what}")
    if other := dtypes.keys() - expected.keys():
        raise ValueError(f"{path} must have dtypes of its tensors, got one of {_few(sorted(other))}")
    for name, leaf in expected.items():
        dtype, shape = header[name]
        if shape != leaf.shape:
            raise ValueError(f"{path} must have {name} of shape {list(leaf.shape)}, got {_cut(list(shape))}")
        wanted = dtypes.get(name, leaf.dtype.name)
        if dtype != wanted or dtype not in _DTYPES.values():
            raise ValueError(f"{path} must have {name} in {_cut(wanted)}, got {dtype}")
        checks.enabled_dtype(f"{path}: the dtype of {name}", dtype)


def _integer(digits: str) -> int:
    if len(digits) > 18:  # no size has as many; Python neither prints nor converts the largest
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _refuse(constant: str) -> None:
    raise ValueError(f"the number {constant}")


def _few(names: list[str]) -> str:
    return _cut(", ".join(map(repr, names[:4]))) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _cut(text: Any) -> str:
    """As much of what a file holds as a message can show."""
    text = str(text)
    return text if len(text) <= 200 else f"{text[:200]}..."
