"""Sizes that an ONNX graph computes, of which exporters make shapes: each a number or the name of an axis."""

from typing import Any

from jlstm.interop.onnx_graph import Graph, attributes, op_type

Axes = tuple[str, ...]  # "T" time, "B" batch, "dir" directions, "N" units, "F" features
Size = int | str | None  # a number, "T" or "B", or unknown

_LONGEST, _DEEPEST = 8, 64  # entries of a shape, nodes behind one another that compute it: no exporter writes more
_SAME_VALUES = ("Identity", "Squeeze", "Unsqueeze", "Reshape")  # read flat, as all is here
_INTEGERS = (6, 7)  # TensorProto.INT32 and INT64


class Sizes:
    """What is known of the sizes of a graph's tensors.

    Args:
        graph: the graph.

    Attributes:
        axes: the axes of the tensors that were followed so far, None where they are joined.
        given: the sizes that the graph's own input fixes, by axis.
    """

    def __init__(self, graph: Graph):
        self._graph = graph
        self._shapes: dict[str, list[Size]] = {}
        self.axes: dict[str, Axes | None] = {}
        self.given: dict[str, int] = {}

    def add(self, name: str, axes: Axes | None, **numbers: int) -> None:
        """Note the axes of a tensor, and how long the axes are that are neither time nor batch."""
        self.axes[name] = axes
        if axes is not None:
            self._shapes[name] = [axis if axis in ("T", "B") else numbers.get(axis) for axis in axes]

    def add_input(self, name: str, axes: Axes) -> None:
        """Note the axes of the graph's input and the sizes that it must have."""
        self._shapes[name] = [axis if axis in ("T", "B") else None for axis in axes]
        sizes = self._graph.inputs.get(name, [])
        if len(sizes) == len(axes):
            self.given = {axis: size for axis, size in zip(axes, sizes, strict=True) if size is not None}

    def read(self, name: str) -> list[Size] | None:
        """The entries of a tensor of integers; None where it is computed in a way that is not followed."""
        return self._read(name, {}, 0)

    def _read(self, name: str, known: dict[str, list[Size] | None], depth: int) -> list[Size] | None:
        if name in known or depth > _DEEPEST:
            return known.get(name)
        known[name] = None  # a cycle ends here
        numbers = self._graph.integers(name)
        node = self._graph.producers.get(name)
        made: list[Size] | None = list(numbers) if numbers is not None else None
        if made is None and node is not None:
            before = [self._read(n, known, depth + 1) if n and op_type(node) != "Shape" else None for n in node.input]
            made = self._computed(node, before)
        known[name] = made if made is None or len(made) <= _LONGEST else None
        return known[name]

    def _computed(self, node: Any, before: list[list[Size] | None]) -> list[Size] | None:
        """The entries that a node makes of those of its inputs."""
        op, options = op_type(node), attributes(node)
        if op == "Shape" and node.input:
            shape, start, end = self._shapes.get(node.input[0]), options.get("start", 0), options.get("end")
            return shape[start:end] if shape and isinstance(start, int) and isinstance(end, int | None) else None
        first = before[0] if before else None
        if first is None:
            return None
        if op in _SAME_VALUES or (op == "Cast" and options.get("to") in _INTEGERS):
            return first
        if op == "Concat":
            return [size for part in before for size in part or ()] if None not in before else None
        if op == "Mul" and len(before) == 2 and before[1] is not None:
            return _product(first, before[1])
        numbers = [_numbers(part) for part in before[1:]]
        if op == "Gather" and len(numbers) == 1 and numbers[0] is not None:
            return [first[n] for n in numbers[0]] if all(-len(first) <= n < len(first) for n in numbers[0]) else None
        if op == "Slice" and len(numbers) in (2, 3, 4) and numbers[2:] in ([], [[0]], [[0], [1]]):
            starts, ends = numbers[:2]
            return first[starts[0] : ends[0]] if starts and ends and len(starts) == len(ends) == 1 else None
        return None


def _numbers(part: list[Size] | None) -> list[int] | None:
    if part is None:
        return None
    numbers = [size for size in part if isinstance(size, int)]
    return numbers if len(numbers) == len(part) else None


def _product(a: list[Size], b: list[Size]) -> list[Size] | None:
    """Entry by entry; of an axis's name and a number only 1 gives something that has a name."""
    if len(a) != len(b):
        a, b = (a * len(b), b) if len(a) == 1 else (a, b * len(a))
    if len(a) != len(b):
        return None
    made: list[Size] = []
    for x, y in zip(a, b, strict=True):
        if isinstance(x, int) and isinstance(y, int):
            made.append(x * y)
        else:
            made.append(y if x == 1 else x if y == 1 else None)
    return made
