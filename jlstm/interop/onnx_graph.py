"""Reading ONNX graphs: files, and constants wherever a graph keeps them. Nothing outside the model's folder is read."""

import math
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from jlstm import checks

_UNREADABLE = (ValueError, TypeError, KeyError, IndexError, OverflowError, NotImplementedError)


def require_onnx() -> Any:
    """Import onnx, or say how to get it."""
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError("jlstm's ONNX functions need the library onnx: pip install onnx") from error
    return onnx


def op_type(node: Any) -> str:
    """The operator of a node, with its domain where that is not ONNX's own."""
    op = _text(node.op_type)
    return op if node.domain in ("", "ai.onnx") else f"{_text(node.domain)}.{op}"


def label(node: Any) -> str:
    """What an error calls a node: its operator, and its name or that of its first output."""
    return f"{op_type(node)} node {node.name or next((o for o in node.output if o), '')!r}"


def attributes(node: Any) -> dict[str, Any]:
    """The attributes of a node as Python values."""
    onnx = require_onnx()
    try:
        return {a.name: _text(onnx.helper.get_attribute_value(a)) for a in node.attribute}
    except _UNREADABLE as error:
        raise ValueError(f"attributes of {label(node)} must have values, got {error}") from error


def has_subgraph(node: Any) -> bool:
    """Whether a node, such as If or Loop, holds graphs of its own."""
    return any(a.HasField("g") or a.graphs for a in node.attribute)


class Graph:
    """The main graph of a model, its tensors and nodes to be found by name.

    Args:
        source: a path, a ModelProto, a GraphProto, or a mapping from names to arrays (which has no nodes).

    Attributes:
        nodes: in the graph's order.
        inputs: each input's sizes, None for those that are left open.
        outputs: their names.
        producers: the node that writes a tensor.
        consumers: the nodes that read a tensor, and as which of their inputs.
    """

    def __init__(self, source: Any):
        self._arrays: Mapping[str, Any] = {}
        self._folder: Path | None = None  # where external data lies
        onnx = require_onnx()
        graph = onnx.GraphProto()
        if isinstance(source, Mapping):
            self._arrays = source
        elif isinstance(source, (str, os.PathLike)):
            self._folder = Path(source).parent
            graph = _parse(Path(source)).graph
        elif isinstance(source, onnx.ModelProto):
            graph = source.graph
        elif isinstance(source, onnx.GraphProto):
            graph = source
        else:
            raise TypeError(
                f"model must be a path, ModelProto, GraphProto, or NodeProto with weights, got {checks.show(source)}"
            )
        self.nodes: list[Any] = list(graph.node)
        self.inputs: dict[str, list[int | None]] = {i.name: _sizes(i) for i in graph.input}
        self.outputs: list[str] = [o.name for o in graph.output]
        self._tensors = {t.name: t for t in graph.initializer}
        self.producers: dict[str, Any] = {}
        self.consumers: dict[str, list[tuple[Any, int]]] = {}
        for node in self.nodes:
            for name in filter(None, node.output):
                if name in self.producers or name in self._tensors:
                    raise ValueError(f"tensor {name!r} must be written once, got another in {label(node)}")
                self.producers[name] = node
            for index, name in enumerate(node.input):
                self.consumers.setdefault(name, []).append((node, index))

    def constant(self, name: str) -> np.ndarray | None:
        """The array of a tensor that is an initializer or a Constant node, also through Identity; None for others.

        Raises:
            ValueError: it is one, and cannot be read.
        """
        seen = set()
        while name not in self._tensors and name not in self._arrays:
            node = self.producers.get(name)
            if node is None or name in seen or op_type(node) not in ("Identity", "Constant"):
                return None
            if op_type(node) == "Constant":
                return self.value(node)
            seen.add(name)
            name = next(iter(node.input), "")
        return np.asarray(self._arrays[name]) if name in self._arrays else self._array(self._tensors[name])

    def integers(self, name: str) -> list[int] | None:
        """The numbers of a constant tensor of integers of one axis or none; None where it is not such a one."""
        array = self.constant(name) if name else None
        if array is None or array.ndim > 1 or not np.issubdtype(array.dtype, np.integer):
            return None
        return [int(value) for value in array.reshape(-1)]

    def holds(self, name: str) -> bool:
        """Whether a tensor is an initializer."""
        return name in self._tensors or name in self._arrays

    def value(self, node: Any) -> np.ndarray | None:
        """The array of a Constant or ConstantOfShape node; None where it has none, or text, or a sparse tensor."""
        for name, value in attributes(node).items():
            if name == "value" and not hasattr(value, "dims"):
                raise ValueError(f"value of {label(node)} must be a tensor, got {checks.show(value)}")
            if name == "value":
                return self._array(value)
            if name in ("value_float", "value_floats"):
                return np.asarray(value, np.float32)
            if name in ("value_int", "value_ints"):
                return np.asarray(value, np.int64)
        return None

    def _array(self, tensor: Any) -> np.ndarray:
        onnx = require_onnx()
        try:
            if min(tensor.dims, default=0) < 0:  # NumPy would take -1 for a size to infer
                raise ValueError(f"the sizes {list(tensor.dims)}")
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                tensor = _with_external_data(tensor, self._folder)
            return onnx.numpy_helper.to_array(tensor)
        except _UNREADABLE as error:
            raise ValueError(f"tensor {tensor.name!r} must hold the numbers of its shape, got {error}") from error


def _sizes(value: Any) -> list[int | None]:
    return [d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim]


def _parse(path: Path) -> Any:
    onnx = require_onnx()
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"model must be an ONNX file, got {str(path)!r}: {error}") from error


def _with_external_data(tensor: Any, folder: Path | None) -> Any:
    """A tensor whose data lies in another file, with the data: a regular file below the model's own folder."""
    onnx = require_onnx()
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ValueError(f"external data in {location!r}: give the model by its path, or load it with onnx.load")
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    # resolve() follows links, so that a link which leads out of the folder is refused too
    path = (folder / location).resolve()
    if (
        not location
        or (posix.is_absolute() or windows.anchor or ".." in windows.parts)
        or not path.is_relative_to(folder.resolve())
    ):
        raise ValueError(f"external data outside of the model's folder, in {location!r}")
    if not path.is_file():
        raise ValueError(f"external data in {location!r}, which is no file")
    item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    count, offset = math.prod(tensor.dims) * item, int(entries.get("offset", 0))
    length = int(entries.get("length", count))
    if length != count or offset < 0 or offset + count > path.stat().st_size:
        raise ValueError(f"{path.stat().st_size} bytes in {location!r} for {length} from {offset} on; needed: {count}")
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(count)
    return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=data)


def _text(value: Any) -> Any:
    """Attributes of text are bytes in ONNX; protobuf gives other fields as bytes where a broken file has no UTF-8."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list):
        return [_text(v) for v in value]
    return value
