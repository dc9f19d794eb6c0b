"""What an LSTM node of an ONNX graph reads beside X and weights: its initial state, and the lengths.

Exporters write a state of zeros, or one that was learned, as a constant that is repeated for each row of the batch;
such constants are found here. What comes from an input of the graph is the caller's, and anything else is refused.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jlstm import checks
from jlstm.interop.onnx_chain import HINT, direction, layout
from jlstm.interop.onnx_graph import Graph, attributes, has_subgraph, label, op_type

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
STATE = ("initial_h", "initial_c")

_PIECES = ("Identity", "Cast", "Slice", "Split", "Gather", "Transpose", "Reshape", "Squeeze", "Unsqueeze")
_DEEPEST = 64  # nodes behind one another; no exporter writes more


@dataclass(frozen=True)
class Part:
    """initial_h or initial_c of a node, where it is a constant other than zeros.

    Attributes:
        array: [directions, B, N]; where it is repeated, 1 in place of B, and of the others if they are repeated too.
        repeated: whether the graph repeats the array for each row of the batch.
    """

    array: np.ndarray
    repeated: bool


def node_input(node: Any, name: str) -> str:
    """The name of the tensor that an LSTM node reads as this input; empty where it has none."""
    index = INPUTS.index(name)
    return node.input[index] if index < len(node.input) else ""


def part_of_state(graph: Graph, node: Any, name: str) -> Part | str | None:
    """Read initial_h or initial_c.

    Returns:
        None where it is absent or zeros; its tensor's name where it depends on more than constants.

    Raises:
        ValueError: it is made of constants in a way that is not followed, or has a wrong shape.
    """
    tensor = node_input(node, name)
    if not tensor:
        return None
    array = graph.constant(tensor)
    repeated = array is None
    if array is None:
        array = _repeated(graph, tensor)
        if array is None:
            return _of_data(graph, node, name)
        array = array.reshape((1,) * (3 - array.ndim) + array.shape)
    directions = 2 if direction(node) == "bidirectional" else 1
    N = attributes(node).get("hidden_size")
    shape: list[int | str] = (
        ["directions", "B", "N"] if repeated else [directions, "B", N if isinstance(N, int) else "N"]
    )
    if layout(node) == 1:
        shape[:2] = shape[1::-1]
    checked(f"{name} of {label(node)}", array, "floating", tuple(shape))
    if not array.any():
        return None
    array = np.swapaxes(array, 0, 1) if layout(node) == 1 else array
    return Part(array, repeated and array.shape[1] == 1)


def constant_lengths(graph: Graph, node: Any) -> np.ndarray | None:
    """Read sequence_lens; None where it is absent or depends on more than constants.

    Raises:
        ValueError: it is made of constants by nodes, or has a wrong shape.
    """
    tensor = node_input(node, "sequence_lens")
    lengths = graph.constant(tensor)
    if lengths is not None:
        return checked(f"sequence_lens of {label(node)}", lengths, "integer", ("B",))
    if tensor:
        _of_data(graph, node, "sequence_lens")
    return None


def check_sources(graph: Graph, nodes: list[Any]) -> None:
    """Require that states and lengths of a chain are constants or inputs of the graph, not X, or pieces of such."""
    x = _origin(graph, node_input(nodes[0], "X"))
    for node in nodes:
        given = [name for name in STATE if isinstance(part_of_state(graph, node, name), str)]
        if node_input(node, "sequence_lens") and constant_lengths(graph, node) is None:
            given.append("sequence_lens")
        for name in given:
            if _origin(graph, node_input(node, name)) in (None, x):
                raise _refused(graph, node, name)


def checked(name: str, array: np.ndarray, kind: str, shape: tuple[int | str, ...]) -> np.ndarray:
    """An array of a model, of the kind and shape; whatever is wrong is a ValueError: the fault is in a file."""
    try:
        checks.array(name, array, kind, shape)
    except TypeError as error:
        raise ValueError(str(error)) from error
    return array


def _repeated(graph: Graph, name: str, depth: int = 0) -> np.ndarray | None:
    """A constant that nodes repeat along axes where it has the size 1 or none, or pick layers of; None for others."""
    array, node = graph.constant(name), graph.producers.get(name)
    if array is not None or node is None or depth > _DEEPEST:
        return array
    op = op_type(node)
    if op == "ConstantOfShape":
        value = graph.value(node)
        return np.zeros((), np.float32) if value is None else value.reshape(-1)[0] if value.size == 1 else None
    if op not in (*_PIECES, "Expand") or not node.input:
        return None
    whole = _repeated(graph, node.input[0], depth + 1)
    if whole is None or whole.ndim > 3:
        return None
    if op in ("Expand", "Identity"):
        return whole
    if not whole.any():  # zeros, whichever of them and in whatever order
        return np.zeros((), whole.dtype)
    if op == "Slice":
        starts, ends, axes, steps = (graph.integers(n) for n in (*node.input[1:], "", "", "", "")[:4])
        if not starts or not ends or len(starts) != 1 or len(ends) != 1 or axes != [0] or steps not in (None, [1]):
            return None
        return whole[starts[0] : ends[0]] if whole.ndim == 3 and len(whole) > 1 else whole
    return None


def _of_data(graph: Graph, node: Any, name: str) -> str:
    """The tensor of an input that depends on more than constants and sizes; raise where it does not."""
    pending, seen = [node_input(node, name)], set()
    while pending:
        tensor = pending.pop()
        if not tensor or tensor in seen:
            continue
        seen.add(tensor)
        before = graph.producers.get(tensor)
        if (before is None and not graph.holds(tensor)) or (before is not None and has_subgraph(before)):
            return node_input(node, name)
        if before is not None and op_type(before) not in ("Shape", "Size"):
            pending += before.input
    raise _refused(graph, node, name)


def _origin(graph: Graph, name: str) -> str | None:
    """The input of the graph that a tensor is, or is a piece of; None where it is something else."""
    for _ in range(_DEEPEST):
        before = graph.producers.get(name)
        if before is None:
            return name
        if op_type(before) not in _PIECES or not before.input:
            return None
        name = before.input[0]
    return None


def _refused(graph: Graph, node: Any, name: str) -> ValueError:
    tensor = node_input(node, name)
    got = label(graph.producers[tensor]) if tensor in graph.producers else repr(tensor)
    return ValueError(f"{name} of {label(node)} must be an input of the graph, a constant or zeros, got {got}; {HINT}")
