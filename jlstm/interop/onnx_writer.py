"""The nodes of an ONNX model, layer by layer, while to_onnx writes it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jlstm.compose import Bidirectional
from jlstm.interop import onnx_activations
from jlstm.interop.layout import reorder
from jlstm.interop.onnx import ONNX_GATES, ONNX_PEEPHOLES
from jlstm.interop.onnx_chain import MERGES
from jlstm.layers import LSTM
from jlstm.types import GATES, PEEPHOLES, LSTMParams

# Opset 17 with IR version 8 is read by onnxruntime 1.12 of 2022 and all that came after; the operator LSTM in it is
# that of opset 14.
OPSET, IR_VERSION = 17, 8

_BEFORE_FIRST = np.iinfo(np.int64).min  # the end of a Slice that goes back to the first step


@dataclass(frozen=True)
class Part:
    """One direction of a layer, and what errors put before the names of its fields."""

    name: str
    spec: LSTM
    params: LSTMParams


@dataclass(frozen=True)
class Level:
    """A layer that becomes one LSTM node, and its directions."""

    spec: LSTM | Bidirectional
    parts: tuple[Part, ...]

    @property
    def merge_mode(self) -> str | None:
        """How the directions are merged; "concat" where there is one."""
        return self.spec.merge_mode if isinstance(self.spec, Bidirectional) else "concat"


class Writer:
    """A graph that grows.

    Args:
        onnx: the library.
        dtype: of all floating tensors.
        lengths, state: as to_onnx.
    """

    def __init__(self, onnx: Any, dtype: np.dtype, lengths: bool, state: bool):
        self._onnx, self._lengths, self._state = onnx, lengths, state
        self._dtype, self._type = dtype, onnx.helper.np_dtype_to_tensor_dtype(dtype)
        self._nodes, self._inputs, self._y, self._states = [], [], [], []
        self._constants: dict[str, Any] = {}

    def start(self, input_size: int) -> str:
        """Declare x and lengths; return the name of x, time-major."""
        self._declare(self._inputs, "x", "batch", "time", input_size)
        if self._lengths:
            value = self._onnx.helper.make_tensor_value_info("lengths", self._onnx.TensorProto.INT32, ["batch"])
            self._inputs.append(value)
        # onnxruntime has no LSTM of layout 1, batch-major
        return self._node("Transpose", "x_time_major", "x", perm=[1, 0, 2])

    def level(self, level: Level, x: str, suffix: str, *, last: bool) -> str:
        """Add the LSTM node of a layer that reads x [time, batch, D], and what makes its outputs those of the layer.

        Returns:
            The name of the outputs, time-major, for the layer above.
        """
        sequences = level.spec.return_sequences
        y = self._lstm(level, x, suffix)
        axis = 1 if sequences else 0  # of the directions: Y is [time, directions, batch, N], states lack the time
        if not last:
            return self._merge(level, y, axis, f"features{suffix}")
        if level.merge_mode is None:
            for d, way in enumerate(("forward", "backward")):
                index = self._constant(f"direction_{d}", np.int64(d))
                self._finish(level, self._node("Gather", f"features_{way}", y, index, axis=axis), f"y_{way}")
        else:
            self._finish(level, self._merge(level, y, axis, f"features{suffix}"), "y")
        return ""

    def model(self) -> Any:
        """The finished model."""
        import jlstm

        helper = self._onnx.helper
        outputs = self._y + self._states
        graph = helper.make_graph(self._nodes, "lstm", self._inputs, outputs, [*self._constants.values()])
        return helper.make_model(
            graph,
            producer_name="jlstm",
            producer_version=jlstm.__version__,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )

    def _lstm(self, level: Level, x: str, suffix: str) -> str:
        """Add the LSTM node; return the name of Y, in the layer's order, or of the final h without sequences."""
        directions, N = len(level.parts), level.parts[0].spec.units
        final_h, final_c = f"final_h{suffix}", f"final_c{suffix}"
        initial_h = initial_c = ""
        if self._state:
            initial_h, initial_c = f"initial_h{suffix}", f"initial_c{suffix}"
            self._declare(self._inputs, initial_h, directions, "batch", N)
            self._declare(self._inputs, initial_c, directions, "batch", N)
        self._declare(self._states, final_h, directions, "batch", N)
        self._declare(self._states, final_c, directions, "batch", N)
        arrays = _weights(level, self._dtype)
        weights = {name: self._constant(f"{name}{suffix}", array) for name, array in arrays.items()}
        # A row of length 0 keeps its state. onnxruntime makes that zeros, and ONNX's text is silent.
        both = self._lengths and self._state
        last_h, last_c = (f"last_h{suffix}", f"last_c{suffix}") if both else (final_h, final_c)
        y = f"Y{suffix}" if level.spec.return_sequences else ""
        self._nodes.append(
            self._onnx.helper.make_node(
                "LSTM",
                inputs=[
                    *(x, weights["W"], weights["R"], weights.get("B", "")),
                    *("lengths" if self._lengths else "", initial_h, initial_c, weights.get("P", "")),
                ],
                outputs=[y, last_h, last_c],
                name=f"LSTM{suffix}",
                **attributes_of(level),
            )
        )
        if both:
            self._node("Where", final_h, self._empty_rows(), initial_h, last_h)
            self._node("Where", final_c, self._empty_rows(), initial_c, last_c)
        spec = level.spec
        if y and isinstance(spec, LSTM) and spec.go_backwards and not spec.keep_order:
            ends = (
                self._constant(name, np.array([end])) for name, end in (("minus_one", -1), ("first", _BEFORE_FIRST))
            )
            minus_one, first = ends
            axis = self._constant("axis_0", np.array([0]))
            return self._node("Slice", f"Y_processed{suffix}", y, minus_one, first, axis, minus_one)
        return y or final_h

    def _merge(self, level: Level, y: str, axis: int, output: str) -> str:
        """Take the axis of directions away: one direction, both side by side, or their sum, product or mean."""
        if len(level.parts) == 1:
            return self._node("Squeeze", output, y, self._constant(f"axis_{axis}", np.array([axis])))
        if level.merge_mode == "concat":
            y = self._node("Transpose", f"{output}_apart", y, perm=[*range(axis), axis + 1, axis, axis + 2])
            N = level.parts[0].spec.units
            shape = self._constant(f"{output}_shape", np.array([0] * (axis + 1) + [2 * N]))  # 0 keeps the size
            return self._node("Reshape", output, y, shape)
        op = next(op for op, merge_mode in MERGES.items() if merge_mode == level.merge_mode)
        if op == "ReduceSum":  # whose axes are an input since opset 13, those of the others since 18
            return self._node(op, output, y, self._constant(f"axis_{axis}", np.array([axis])), keepdims=0)
        return self._node(op, output, y, axes=[axis], keepdims=0)

    def _finish(self, level: Level, y: str, name: str) -> None:
        """Declare outputs of the last layer, batch-major."""
        width = level.parts[0].spec.units if level.merge_mode is None else level.spec.output_size
        if level.spec.return_sequences:
            self._declare(self._y, self._node("Transpose", name, y, perm=[1, 0, 2]), "batch", "time", width)
        else:
            self._declare(self._y, self._node("Identity", name, y), "batch", width)

    def _empty_rows(self) -> str:
        """The name of a condition [1, batch, 1]: rows of length 0."""
        name = "empty_rows"
        if not any(name in node.output for node in self._nodes):
            zero = self._constant("length_0", np.array([0], np.int32))
            empty = self._node("Equal", "empty", "lengths", zero)
            self._node("Unsqueeze", name, empty, self._constant("axes_0_2", np.array([0, 2])))
        return name

    def _declare(self, values: list[Any], name: str, *shape: int | str) -> None:
        values.append(self._onnx.helper.make_tensor_value_info(name, self._type, shape))

    def _constant(self, name: str, array: Any) -> str:
        self._constants[name] = self._onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def _node(self, op: str, output: str, *inputs: str, **options: Any) -> str:
        self._nodes.append(self._onnx.helper.make_node(op, inputs, [output], name=f"{op}_{output}", **options))
        return output


def _weights(level: Level, dtype: np.dtype) -> dict[str, np.ndarray]:
    """W, R and, where a direction has them, B and P; the other direction's are zeros then."""
    N = level.parts[0].spec.units
    rows: dict[str, list[np.ndarray]] = {"W": [], "R": [], "B": [], "P": []}
    for part in level.parts:
        params = part.params
        rows["W"].append(reorder(params.kernel, GATES, ONNX_GATES).T)
        rows["R"].append(reorder(params.recurrent_kernel, GATES, ONNX_GATES).T)
        bias = np.zeros(4 * N, dtype) if params.bias is None else reorder(params.bias, GATES, ONNX_GATES)
        rows["B"].append(np.concatenate([bias, np.zeros(4 * N, dtype)]))  # the whole bias is the first of two
        peephole = np.zeros((3, N), dtype) if params.peephole is None else np.asarray(params.peephole)
        rows["P"].append(reorder(peephole, PEEPHOLES, ONNX_PEEPHOLES, axis=0).reshape(-1))
    absent = {
        "B": all(part.params.bias is None for part in level.parts),
        "P": all(part.params.peephole is None for part in level.parts),
    }
    return {name: np.stack(arrays) for name, arrays in rows.items() if not absent.get(name)}


def attributes_of(level: Level) -> dict[str, Any]:
    """The attributes of the LSTM node; those at ONNX's default are left out."""
    first = level.parts[0].spec
    direction = "bidirectional" if len(level.parts) == 2 else "reverse" if first.go_backwards else "forward"
    made: dict[str, Any] = {"hidden_size": first.units, "direction": direction}
    if first.variant.coupled == "forget":
        made["input_forget"] = 1
    if first.variant.preact_clip is not None:
        made["clip"] = first.variant.preact_clip
    names, parameters = [], []
    for part in level.parts:
        for option, value in (
            ("recurrent_activation", part.spec.recurrent_activation),
            ("activation", part.spec.activation),
            ("variant.output_activation", part.spec.variant.output_activation or part.spec.activation),
        ):
            name, values = onnx_activations.write(part.name + option, value)
            names.append(name)
            parameters.append(values)
    if tuple(names) != onnx_activations.DEFAULT * len(level.parts):
        made["activations"] = names
    # Each list holds one value for each activation that has such a parameter, in their order.
    for position, attribute in enumerate(("activation_alpha", "activation_beta")):
        values = [v[position] for v in parameters if len(v) > position]
        if values:
            made[attribute] = values
    return made
