"""ONNX's backend interface over jlstm, for models that are one LSTM node. Needs onnx; jlstm.interop does not import it.

It lets ONNX's own tests of the operator run on jlstm, and shows a node's inputs and outputs in jlstm's terms. To run a
model that you have, from_onnx is the way.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from jlstm.interop.onnx import from_onnx, inputs
from jlstm.interop.onnx_chain import layout
from jlstm.interop.onnx_graph import Graph, op_type
from jlstm.interop.onnx_states import node_input
from jlstm.types import Directions


class JlstmBackendRep(BackendRep):
    """A model of one LSTM node, ready to run."""

    def __init__(self, model: onnx.ModelProto):
        self._graph = Graph(model)
        (self._node,) = self._graph.nodes
        self._initializers = {t.name for t in model.graph.initializer}
        self._names = [value.name for value in model.graph.input if value.name not in self._initializers]

    def run(self, inputs: Any, **kwargs: Any) -> tuple[np.ndarray, ...]:
        """Run the node.

        Args:
            inputs: arrays in the order of the graph's inputs, or a mapping from their names; weights among them or not.

        Returns:
            The graph's outputs, in its order.
        """
        if not isinstance(inputs, Mapping):
            if not isinstance(inputs, Sequence) or len(inputs) != len(self._names):
                raise ValueError(f"inputs must be {len(self._names)} arrays: {', '.join(self._names)}")
            inputs = dict(zip(self._names, inputs, strict=True))
        given = {name: np.asarray(array) for name, array in inputs.items()}
        for name in self._node.input:
            if name and name not in given:
                array = self._graph.constant(name)
                if array is None:
                    raise ValueError(f"inputs must have {name!r}, got {', '.join(given)}")
                given[name] = array
        outputs = run_lstm(self._node, given)
        return tuple(outputs[name] for name in self._graph.outputs)


class JlstmBackend(Backend):
    """Runs models whose graph is one LSTM node.

    Example:
        >>> import numpy as np, onnx
        >>> from jlstm.interop.onnx_backend import JlstmBackend
        >>> node = onnx.helper.make_node("LSTM", ["X", "W", "R"], ["", "Y_h"], hidden_size=5)
        >>> shapes = (7, 2, 3), (1, 20, 3), (1, 20, 5)
        >>> (y_h,) = JlstmBackend.run_node(node, [np.ones(shape, np.float32) for shape in shapes])
        >>> y_h.shape
        (1, 2, 5)
    """

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the graph is one LSTM node."""
        return [op_type(node) for node in model.graph.node] == ["LSTM"] and cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> JlstmBackendRep:
        """Check a model, and make it ready to run."""
        super().prepare(model, device, **kwargs)
        if not cls.is_compatible(model, device):
            raise ValueError("model must be one LSTM node on the CPU; from_onnx reads chains of them")
        return JlstmBackendRep(model)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[np.ndarray, ...]:
        """Run one LSTM node on the arrays of its inputs that are not empty, in their order."""
        super().run_node(node, inputs, device, outputs_info, **kwargs)
        names = [name for name in node.input if name]
        outputs = run_lstm(node, dict(zip(names, map(np.asarray, inputs), strict=True)))
        return tuple(outputs[name] for name in node.output if name)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether this is the CPU: where arrays are, JAX decides."""
        return device == "CPU"


def run_lstm(node: onnx.NodeProto, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run an LSTM node through jlstm.

    Args:
        node: the node.
        arrays: an array for each of its inputs, by name.

    Returns:
        Those of Y, Y_h and Y_c that the node has, by its names for them and in its layout.
    """
    spec, params = from_onnx(node, arrays)
    batch_major = layout(node) == 1
    x = arrays[node_input(node, "X")]
    x = jnp.asarray(x if batch_major else np.swapaxes(x, 0, 1))
    B, T, _ = x.shape
    options = inputs(node, arrays)
    state = options.pop("state") if "state" in options else spec.initial_state(B, x.dtype)
    apply: Any = spec.apply
    state, y = apply(params, state, x, **options)
    ways = (state.forward, state.backward) if isinstance(state, Directions) else (state,)
    axis = 1 if batch_major else 0
    made = [np.stack([np.asarray(getattr(way, part)) for way in ways], axis) for part in "hc"]
    if spec.return_sequences:
        y = np.asarray(y).reshape(B, T, len(ways), -1)
        made.insert(0, y if batch_major else y.transpose(1, 2, 0, 3))
    else:
        made.insert(0, made[0][:0])  # a place for Y, which has no name
    return {name: array for name, array in zip(node.output, made, strict=False) if name}
