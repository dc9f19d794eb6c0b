"""ONNX: a Reshape behind an LSTM node whose sizes are computed by the graph, or are those of the model's input."""

import numpy as np
import onnx_peer as op
import pytest
from conftest import peer

from jlstm.interop import from_onnx

onnx = peer("onnx")
node = onnx.helper.make_node

T, B, N = 4, 3, 4
TURNED = node("Transpose", ["Y"], ["turned"], perm=[0, 2, 1, 3])  # [T, B, dir, N]
SHAPE = node("Shape", ["turned"], ["shape"])
NUMBERS = {f"n{n}": np.array([n]) for n in range(9)} | {"minus": np.array([-1]), "scalar": np.array(1)}


def piece(n):
    """Entry n of the shape, with one axis."""
    return node("Slice", ["shape", f"n{n}", f"n{n + 1}"], [f"size{n}"])


def joined(*names):
    return node("Concat", names, ["sizes"], axis=0)


FEATURES = node("Mul", ["size2", "size3"], ["features"])
PIECES = [SHAPE, *map(piece, range(4)), FEATURES]


def model_of(*nodes, fixed=None, allowzero=0, **constants):
    """A bidirectional node, and a Reshape of its outputs to the tensor "sizes", which the nodes or constants give."""
    made = op.case(0, direction="bidirectional")
    reshape = node("Reshape", ["turned", "sizes"], ["Z"], allowzero=allowzero)
    model = op.model_of([made.node, TURNED, *nodes, reshape], {"X": 3}, ["Z"], made.weights | NUMBERS | constants, 18)
    del model.graph.input[:]
    model.graph.input.append(onnx.helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, fixed or [None, None, 3]))
    return made, model


@pytest.mark.parametrize(
    "nodes",
    [
        [*PIECES, joined("size0", "size1", "features")],
        [*PIECES, joined("size0", "minus", "n8")],
        [*PIECES, node("Mul", ["size1", "n1"], ["rows"]), joined("n0", "rows", "minus")],
        [SHAPE, node("Gather", ["shape", "scalar"], ["b"]), node("Unsqueeze", ["b", "n0"], ["rows"]),
         joined("minus", "rows", "n8")],
        [node("Shape", ["X"], ["a"], end=2), node("Cast", ["a"], ["b"], to=7), joined("b", "n8")],
        [node("Shape", ["turned"], ["a"], start=-4, end=-2), node("Identity", ["a"], ["b"]), joined("b", "minus")],
    ],
)  # fmt: skip
def test_sizes_that_the_graph_computes(nodes):
    made, model = model_of(*nodes)
    op.same_layer(from_onnx(model), from_onnx(made.node, made.weights))
    (got,) = op.session(model).run(None, {"X": made.arrays["X"]})
    (y, *_) = op.as_layer_outputs(*op.onnxruntime_outputs(made))
    np.testing.assert_array_equal(got.swapaxes(0, 1), y)  # the graph does what it was taken for


@pytest.mark.parametrize(
    "nodes",
    [
        [*PIECES, joined("size1", "size0", "features")],
        [*PIECES, joined("size0", "size1", "size2")],
        [*PIECES, joined("minus", "minus", "features")],
        [*PIECES, node("Mul", ["size0", "size1"], ["all"]), joined("all", "n1", "features")],
        [*PIECES, node("Mul", ["size0", "n2"], ["more"]), joined("more", "minus", "features")],
        [*PIECES, node("Add", ["size0", "n0"], ["sum"]), joined("sum", "size1", "features")],
        [SHAPE, node("Gather", ["shape", "n8"], ["outside"]), joined("outside", "minus", "n8")],
        [node("Cast", ["X"], ["a"], to=7), joined("a", "minus", "n8")],
        [node("Identity", ["a"], ["sizes"]), node("Identity", ["sizes"], ["a"])],
        [node("Shape", ["turned"], ["sizes"], end=3)],
    ],
)
def test_sizes_that_are_refused(nodes):
    _, model = model_of(*nodes)
    with pytest.raises(ValueError, match=r"what lies behind LSTM node 'Y' must be .*, got Reshape node 'Z'"):
        from_onnx(model)


@pytest.mark.parametrize(
    ("sizes", "fixed", "allowzero", "ok"),
    [
        ([T, B, 8], [T, B, 3], 0, True),
        ([T, -1, 8], [T, None, 3], 1, True),
        ([0, B, 8], ["time", B, 3], 0, True),
        ([0, B, 8], ["time", B, 3], 1, False),
        ([B, T, 8], [T, B, 3], 0, False),
        ([T, B, 8], None, 0, False),
        ([T, B, 8], [T, "batch", 3], 0, False),
        ([T, B, 4], [T, B, 3], 0, False),
        ([2 * T, B, 4], [T, B, 3], 0, False),
    ],
)
def test_sizes_of_the_models_input(sizes, fixed, allowzero, ok):
    made, model = model_of(sizes=np.array(sizes), fixed=fixed, allowzero=allowzero)
    if ok:
        op.same_layer(from_onnx(model), from_onnx(made.node, made.weights))
    else:
        with pytest.raises(ValueError, match="got Reshape node 'Z'"):
            from_onnx(model)


def test_sizes_of_an_input_that_is_turned():
    made, model = model_of(sizes=np.array([T, B, 8]), fixed=[B, T, 3])
    made.node.input[0] = "time_major"
    with pytest.raises(ValueError, match="got Reshape node 'Z'"):
        from_onnx(model)  # X of the node is [B, T, D] still
    model.graph.node[0].input[0] = "time_major"
    model.graph.node.insert(0, node("Transpose", ["X"], ["time_major"], perm=[1, 0, 2]))
    op.same_layer(from_onnx(model), from_onnx(made.node, made.weights))


def test_an_endless_shape_ends():
    doubled = [node("Concat", [f"s{n}"] * 2, [f"s{n + 1}"], axis=0) for n in range(200)]
    _, model = model_of(*doubled, node("Identity", ["s200"], ["sizes"]), s0=np.array([1]))
    with pytest.raises(ValueError, match="got Reshape node 'Z'"):
        from_onnx(model)
