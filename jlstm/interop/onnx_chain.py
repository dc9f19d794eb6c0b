"""The LSTM nodes of an ONNX graph as one chain: which follows which, and that nothing but layout lies between.

The axes of every tensor behind an LSTM node are followed by name: "T" time, "B" batch, "dir" directions, "N" units, and
"F", the features that they are merged into. A Transpose, Squeeze, Reshape or Gather is accepted by what it does to
these.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jlstm.interop.onnx_graph import Graph, attributes, has_subgraph, label, op_type
from jlstm.interop.onnx_sizes import Axes, Sizes

MERGES = {"ReduceSum": "sum", "ReduceProd": "mul", "ReduceMean": "ave"}  # over the two directions; else "concat"
_WAYS = ("forward", "backward")  # the directions; each gathered for itself they are merge_mode None
_OUTPUTS = ("Y", "Y_h", "Y_c")
HINT = "from_onnx(node, model) reads one LSTM node alone"


@dataclass
class Link:
    """One LSTM node, and what the graph makes of its outputs."""

    node: Any
    sequences: bool = True  # whether anything reads Y
    merge_mode: str | None = "concat"
    keep_order: bool = True  # False: Y of a reverse node is turned round in time
    shown: bool = False  # whether Y reaches an output of the graph without another LSTM node
    following: list[Any] = field(default_factory=list)  # the LSTM nodes that read Y as their X


def chain(graph: Graph) -> list[Link]:
    """The LSTM nodes in order.

    Raises:
        ValueError: there is none, they do not form a chain, or the graph does more than the chain.
    """
    sizes = Sizes(graph)
    for node in graph.nodes:
        if has_subgraph(node):
            raise ValueError(f"nodes of model must have no graphs of their own, got {label(node)}; {HINT}")
        if op_type(node) == "LSTM":
            _source(graph, node, sizes)
    links = [_follow(graph, node, sizes) for node in graph.nodes if op_type(node) == "LSTM"]
    if not links:
        got = ", ".join(sorted({op_type(node) for node in graph.nodes})) or "no node"
        raise ValueError(f"model must have an LSTM node in its main graph, got {got}")
    followed = [node for link in links for node in link.following]
    first = [link for link in links if not any(link.node is node for node in followed)]
    ordered = first[:1]
    while ordered and len(ordered[-1].following) == 1:
        ordered.append(next(link for link in links if link.node is ordered[-1].following[0]))
    if len(first) != 1 or len(ordered) != len(links):
        nodes = ", ".join(label(link.node) for link in links)
        raise ValueError(f"LSTM nodes of model must form one chain, got {nodes}; {HINT}")
    before = _source(graph, ordered[0].node, sizes)
    if before is not None:
        raise ValueError(
            f"what lies before {label(ordered[0].node)} must be an input of the graph and changes of layout, "
            f"got {label(before)}; {HINT}"
        )
    _check_outputs(graph, sizes)
    for link in ordered[:-1]:
        if link.shown:
            raise ValueError(f"outputs of model must not hold Y of {label(link.node)}, below another; {HINT}")
    return ordered


def layout(node: Any) -> Any:
    """The attribute layout: 0 for time-major tensors, 1 for batch-major ones."""
    return attributes(node).get("layout", 0)


def direction(node: Any) -> Any:
    """The attribute direction: forward, reverse or bidirectional."""
    return attributes(node).get("direction", "forward")


def _output(node: Any, index: int) -> str:
    return node.output[index] if index < len(node.output) else ""


def _input(node: Any, index: int) -> str:
    return node.input[index] if index < len(node.input) else ""


def _axes_of_x(node: Any) -> Axes:
    return ("B", "T", "F") if layout(node) == 1 else ("T", "B", "F")


def _follow(graph: Graph, node: Any, sizes: Sizes) -> Link:
    """Go from the outputs of an LSTM node to the outputs of the graph and to the X of other LSTM nodes."""
    link = Link(node)
    batch_major = layout(node) == 1
    state = ("B", "dir", "N") if batch_major else ("dir", "B", "N")
    axes_of = [("B", "T", "dir", "N") if batch_major else ("T", "dir", "B", "N"), state, state]
    y = _output(node, 0)
    reads_y = any(op_type(reader) != "Shape" for reader, _ in graph.consumers.get(y, ()))
    link.sequences = bool(y) and (y in graph.outputs or reads_y)
    merges: set[str] = set()
    for index, axes in enumerate(axes_of):
        merging = index == (0 if link.sequences else 1)  # where the outputs of the layer come from
        for found in _walk(graph, link, sizes, _output(node, index), axes, index):
            if found != "concat" and not merging:
                raise ValueError(f"{found} of the states of {label(node)} has no counterpart in a layer; {HINT}")
            merges |= {found} if merging else set()
    apart = merges == set(_WAYS) and not link.following
    if not apart and (len(merges) > 1 or merges & set(_WAYS)):
        raise ValueError(f"outputs of {label(node)} must be merged in one way, got {', '.join(sorted(merges))}; {HINT}")
    link.merge_mode = None if apart else merges.pop() if merges else "concat"
    return link


def _walk(graph: Graph, link: Link, sizes: Sizes, tensor: str, axes: Axes | None, index: int) -> Iterator[str]:
    """Yield the ways in which the directions of a tensor are merged; axes None: those of several layers, joined."""
    pending, seen = [(tensor, axes)], set()
    numbers = {"dir": _directions(link)} | ({} if (N := _units(link)) is None else {"N": N})
    while pending:
        tensor, axes = pending.pop()
        if not tensor or tensor in seen:
            continue
        seen.add(tensor)
        sizes.add(tensor, axes, **numbers)
        link.shown |= index == 0 and tensor in graph.outputs
        for node, position in graph.consumers.get(tensor, ()):
            op = op_type(node)
            if op == "LSTM":
                if position or index or axes != _axes_of_x(node):
                    got = f"{_OUTPUTS[index]} of {label(link.node)} as input {position} with axes {axes}"
                    raise ValueError(f"X of {label(node)} must be what lies before it, got {got}; {HINT}")
                link.following.append(node)
                continue
            if op == "Shape":  # sizes, of which exporters make shapes and zero states; no output may come from them
                continue
            after = _layout_op(graph, link, sizes, node, position, axes, index)
            if op in MERGES:
                yield MERGES[op]
            elif op == "Gather" and _directions(link) == 2:
                yield _WAYS[(graph.integers(_input(node, 1)) or [0])[0]]
            elif axes is not None and after is not None and "F" in after and "dir" in axes and _directions(link) == 2:
                yield "concat"
            pending.append((_output(node, 0), after))


def _layout_op(
    graph: Graph, link: Link, sizes: Sizes, node: Any, position: int, axes: Axes | None, index: int
) -> Axes | None:
    """The axes after a node that only rearranges a tensor; raise for any other node."""
    op, after = op_type(node), None
    if op == "Identity":
        return axes
    if index and op == "Concat":  # states of the layers, side by side
        return None
    if index and op == "Where" and position == 2 and _keeps_empty_rows(graph, link.node, node, index):
        return axes
    if axes is None and op in ("Transpose", "Squeeze", "Reshape"):
        return None
    if axes is not None and position == 0:
        if op == "Transpose":
            after = _transposed(node, axes)
        elif op == "Squeeze":
            after = _without_directions(graph, node, axes) if _directions(link) == 1 else None
        elif op == "Reshape":
            after = _reshaped(link, sizes, node, axes)
        elif op == "Gather":
            after = _one_direction(graph, link, node, axes)
        elif op in MERGES and _directions(link) == 2 and attributes(node).get("keepdims", 1) == 0:
            after = _without_directions(graph, node, axes)
        elif op == "Slice" and direction(link.node) == "reverse" and _turns_time(graph, node, axes):
            after = axes if link.keep_order else None  # turned twice: no exporter does that
            link.keep_order = False
    if after is None:
        raise ValueError(
            f"what lies behind {label(link.node)} must be LSTM nodes and changes of layout, got {label(node)}; {HINT}"
        )
    return after


def _directions(link: Link) -> int:
    return 2 if direction(link.node) == "bidirectional" else 1


def _transposed(node: Any, axes: Axes) -> Axes | None:
    order = _integers(node, "perm") or list(range(len(axes)))[::-1]
    return tuple(axes[n] for n in order) if sorted(order) == list(range(len(axes))) else None


def _integers(node: Any, name: str) -> list[int] | None:
    """An attribute that is a list of integers; None where it is absent or something else."""
    value = attributes(node).get(name)
    return value if isinstance(value, list) and all(isinstance(v, int) for v in value) else None


def _axis_numbers(graph: Graph, node: Any, rank: int) -> list[int] | None:
    """The axes that a node acts on: an attribute, or an input in newer operators."""
    numbers = _integers(node, "axes") or graph.integers(_input(node, 1))
    return None if numbers is None else [n + rank if n < 0 else n for n in numbers]


def _without_directions(graph: Graph, node: Any, axes: Axes) -> Axes | None:
    numbers = _axis_numbers(graph, node, len(axes))
    if numbers is None or "dir" not in axes or numbers != [axes.index("dir")]:
        return None
    return tuple("F" if a == "N" else a for a in axes if a != "dir")


def _one_direction(graph: Graph, link: Link, node: Any, axes: Axes) -> Axes | None:
    """One of the directions gathered by a number, which takes their axis away."""
    chosen, axis = graph.constant(_input(node, 1)), attributes(node).get("axis", 0)
    if chosen is None or chosen.shape != () or not np.issubdtype(chosen.dtype, np.integer) or "dir" not in axes:
        return None
    count = _directions(link)
    if axis not in (axes.index("dir"), axes.index("dir") - len(axes)) or not -count <= chosen < count:
        return None
    return tuple("F" if a == "N" else a for a in axes if a != "dir")


def _reshaped(link: Link, sizes: Sizes, node: Any, axes: Axes) -> Axes | None:
    """Directions and units merged into features; a size of time or batch must stay what it is."""
    shape = sizes.read(_input(node, 1))
    if shape is None or "dir" not in axes:
        return None
    if _directions(link) == 2 and axes[-2:] != ("dir", "N"):
        return None
    after = tuple("F" if a == "N" else a for a in axes if a != "dir")
    if len(shape) != len(after) or shape.count(-1) > 1:
        return None
    copies, units = not attributes(node).get("allowzero", 0), _units(link)
    for n, (size, axis) in enumerate(zip(shape, after, strict=True)):
        copied = size == 0 and copies and axes[n] == axis
        if axis == "F":
            known = units is not None and size == _directions(link) * units
        else:  # computed from a Shape, or the one size that the model is made for
            known = size == axis or (size is not None and size == sizes.given.get(axis))
        if not (copied or known or size == -1):
            return None
    return after


def _units(link: Link) -> int | None:
    units = attributes(link.node).get("hidden_size")
    return units if isinstance(units, int) else None


def _turns_time(graph: Graph, node: Any, axes: Axes) -> bool:
    """Whether a Slice takes the whole time axis in steps of -1."""
    starts, ends, over, steps = (graph.integers(_input(node, n)) for n in (1, 2, 3, 4))
    return (
        "T" in axes
        and (starts, over, steps) == ([-1], [axes.index("T")], [-1])
        and bool(ends)
        and ends[0] < -np.iinfo(np.int32).max
    )


def _keeps_empty_rows(graph: Graph, lstm: Any, node: Any, index: int) -> bool:
    """Whether a Where gives rows of length 0 their initial state, as to_onnx writes it; jlstm does that by itself."""
    if _input(node, 1) != _input(lstm, 4 + index) or not _input(node, 1):
        return False
    condition = graph.producers.get(_input(node, 0))
    if condition is not None and op_type(condition) == "Unsqueeze":
        condition = graph.producers.get(_input(condition, 0))
    if condition is None or op_type(condition) != "Equal":
        return False
    return _input(condition, 0) == _input(lstm, 4) and graph.integers(_input(condition, 1)) == [0]


def _source(graph: Graph, node: Any, sizes: Sizes) -> Any:
    """Follow X of an LSTM node back to an input of the graph and note its axes; return the node that bars the way."""
    name, axes, seen = _input(node, 0), _axes_of_x(node), set()
    while name not in seen:
        seen.add(name)
        sizes.add_input(name, axes)
        before = graph.producers.get(name)
        if before is None:
            return None
        if op_type(before) == "Transpose":
            order = _transposed(before, tuple(map(str, range(len(axes)))))
            if order is None:
                return before
            axes = tuple(axes[order.index(str(n))] for n in range(len(axes)))
        elif op_type(before) != "Identity":
            return before
        name = _input(before, 0)
    return graph.producers[name]  # a cycle


def _check_outputs(graph: Graph, sizes: Sizes) -> None:
    """Require that every output of the graph, and all that is joined in one, was followed from an LSTM node."""
    concats = (n for n in graph.nodes if op_type(n) == "Concat" and _output(n, 0) in sizes.axes)
    joined = [name for node in concats for name in node.input]
    for name in (*graph.outputs, *joined):
        if name not in sizes.axes:
            got = label(graph.producers[name]) if name in graph.producers else repr(name)
            raise ValueError(f"outputs of model must come from its LSTM nodes, got one from {got}; {HINT}")
