"""ONNX LSTM nodes for the tests: made from plain options, run by onnxruntime and by jlstm, compared."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import QUICKLY_COMPILED
from conftest import peer

from jlstm import Directions
from jlstm.interop.onnx import from_onnx, inputs

onnx = peer("onnx")

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")


@dataclass
class Case:
    """A node of layout 0 or 1 and the arrays of its inputs, in its layout."""

    attributes: dict[str, Any]
    arrays: dict[str, np.ndarray]
    outputs: tuple[str, ...] = OUTPUTS
    node: Any = field(init=False)

    def __post_init__(self):
        names = [name if name in self.arrays else "" for name in INPUTS]
        self.node = onnx.helper.make_node("LSTM", names, list(self.outputs), **self.attributes)

    @property
    def weights(self):
        """All arrays but X."""
        return {name: a for name, a in self.arrays.items() if name != "X"}

    @property
    def batch_major(self):
        return self.attributes.get("layout") == 1


def case(seed, *, T=4, B=3, D=3, N=4, direction="forward", scale=0.7, outputs=OUTPUTS, **options):
    """Draw a node.

    options: bias=True, peephole, state (True, "h" or "c"), lengths (a list), layout; and attributes of the node.
    """
    rng = np.random.default_rng(seed)
    directions = 2 if direction == "bidirectional" else 1
    bias, peephole = options.pop("bias", True), options.pop("peephole", False)
    state, lengths = options.pop("state", ""), options.pop("lengths", None)
    arrays = {
        "X": rng.normal(0, 1, (T, B, D)),
        "W": rng.normal(0, scale, (directions, 4 * N, D)),
        "R": rng.normal(0, scale, (directions, 4 * N, N)),
    }
    if bias:
        arrays["B"] = rng.normal(0, 0.5, (directions, 8 * N))
    if peephole:
        arrays["P"] = rng.normal(0, 0.6, (directions, 3 * N))
    for name, std in (("initial_h", 0.5), ("initial_c", 1.0)):
        if state is True or (state and name[-1] == state):
            arrays[name] = rng.normal(0, std, (directions, B, N))
    arrays = {name: a.astype(np.float32) for name, a in arrays.items()}
    if lengths is not None:
        arrays["sequence_lens"] = np.asarray(lengths, np.int32)
    if options.get("layout"):
        for name in {"X", "initial_h", "initial_c"} & set(arrays):
            arrays[name] = arrays[name].swapaxes(0, 1)
    if direction != "forward" or rng.random() < 0.5:
        options["direction"] = direction
    return Case({"hidden_size": N, **options}, arrays, outputs)


def model_of(nodes, graph_inputs, graph_outputs, constants, opset=17):
    """A model of float tensors with ranks left open; constants as initializers."""
    helper, types = onnx.helper, onnx.TensorProto
    ranks = {"Y": 4, "Y_h": 3, "Y_c": 3}
    shapes = {name: [None] * ranks[name] if name in ranks else None for name in graph_outputs}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, types.FLOAT, [None] * rank) for name, rank in graph_inputs.items()],
        [helper.make_tensor_value_info(name, types.FLOAT, shape) for name, shape in shapes.items()],
        [onnx.numpy_helper.from_array(np.asarray(a, order="C"), name) for name, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def session(model):
    """A session of onnxruntime, silent and on one thread."""
    ort = peer("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def onnxruntime_outputs(made):
    """Y, Y_h, Y_c of layout 0, None where the node does not have it. onnxruntime has no layout 1: we turn the axes."""
    arrays = dict(made.arrays)
    if made.batch_major:
        for name in {"X", "initial_h", "initial_c"} & set(arrays):
            arrays[name] = arrays[name].swapaxes(0, 1)
    x = arrays.pop("X")
    node = onnx.NodeProto()
    node.CopyFrom(made.node)
    del node.attribute[:]
    node.attribute.extend(a for a in made.node.attribute if a.name != "layout")
    names = [name for name in made.outputs if name]
    values = session(model_of([node], {"X": 3}, names, arrays)).run(names, {"X": x})
    by_name = dict(zip(names, values, strict=True))
    return [by_name.get(name) for name in OUTPUTS]


def directions_of(state):
    """The states of the directions."""
    return [state.forward, state.backward] if isinstance(state, Directions) else [state]


def as_layer_outputs(Y, Y_h, Y_c):
    """What a node gives in layout 0, as a layer does: y [B, T, directions · N], h and c of each direction."""
    made = [] if Y is None else [Y.transpose(2, 0, 1, 3).reshape(Y.shape[2], Y.shape[0], -1)]
    return [*made, *(part[d] for part in (Y_h, Y_c) if part is not None for d in range(len(part)))]


def layer_outputs(state, y, made):
    """The same of jlstm's result."""
    kept = [y] if made.outputs[0] else []
    for part in ("h", "c"):
        if f"Y_{part}" in made.outputs:
            kept += [getattr(s, part) for s in directions_of(state)]
    return kept


def jlstm_outputs(made):
    """What jlstm computes of a node."""
    spec, params = from_onnx(made.node, made.weights)
    x = jnp.asarray(made.arrays["X"] if made.batch_major else made.arrays["X"].swapaxes(0, 1))
    given = inputs(made.node, made.weights)
    state = given.pop("state", None) or spec.initial_state(x.shape[0])
    return spec, params, layer_outputs(*jitted(spec)(params, state, x, **given), made)


def jitted(spec):
    """apply, compiled."""
    return jax.jit(spec.apply, compiler_options=QUICKLY_COMPILED)


def draw(spec, D, batch, seed):
    """Params and a state for a spec, nothing of the initial values left."""
    rng = np.random.default_rng(seed)

    def normal(a):
        return jnp.asarray(rng.normal(0, 0.5, a.shape), a.dtype)

    params = jax.tree.map(normal, jax.eval_shape(lambda key: spec.init(key, D), jax.random.key(0)))
    return params, jax.tree.map(normal, jax.eval_shape(lambda: spec.initial_state(batch)))


def same_layer(got, expected):
    """Assert the same spec and the same bits of params."""
    assert got[0] == expected[0]
    assert jax.tree.structure(got[1]) == jax.tree.structure(expected[1])
    assert all(bool(jnp.all(a == b)) for a, b in zip(*map(jax.tree.leaves, (got[1], expected[1])), strict=True))


def error(got, expected):
    """The worst difference of two lists of arrays, relative to the largest entry of each, or to 1."""
    assert len(got) == len(expected)
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        if a.size:
            difference = np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1.0)
            worst = max(worst, np.inf if np.isnan(difference) else float(difference))
    return worst


def node_error(made):
    """The worst difference between jlstm and onnxruntime on a node. onnxruntime gives no gradients."""
    _, _, got = jlstm_outputs(made)
    return error(got, as_layer_outputs(*onnxruntime_outputs(made)))
