"""ONNX: constants and chains as graphs hold them, round trips, and what must be refused: options, graphs, files."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx_peer as op
import pytest
from conftest import peer

from jlstm import LSTM, Stack
from jlstm.interop import from_onnx, to_onnx
from jlstm.interop.onnx import inputs

onnx = peer("onnx")
node = onnx.helper.make_node

ALL = {"return_sequences": True, "keep_order": True}


def model_of(made, *more, outputs=("Y",), **constants):
    """A model of a node and what comes behind it."""
    return op.model_of([made.node, *more], {"X": 3}, outputs, {**made.weights, **constants})


# --- constants -------------------------------------------------------------------------------------------------------


def test_weights_in_constant_nodes_and_behind_identity():
    made = op.case(0, peephole=True)
    expected = from_onnx(made.node, made.weights)
    nodes = [node("Constant", [], [n], value=onnx.numpy_helper.from_array(made.arrays[n])) for n in "WBP"]
    nodes += [node("Identity", ["held"], ["between"]), node("Identity", ["between"], ["R"])]
    op.same_layer(from_onnx(op.model_of([*nodes, made.node], {"X": 3}, ["Y"], {"held": made.arrays["R"]})), expected)


def test_node_with_its_model_graph_or_path(tmp_path):
    made = op.case(0)
    model = model_of(made)
    onnx.save(model, tmp_path / "model.onnx")
    for whole in (model, model.graph, tmp_path / "model.onnx", str(tmp_path / "model.onnx")):
        op.same_layer(from_onnx(made.node, whole), from_onnx(made.node, made.weights))
        op.same_layer(from_onnx(whole), from_onnx(made.node, made.weights))


def test_hidden_size_may_be_left_out_and_opset_1_read():
    made = op.case(0)
    expected = from_onnx(made.node, made.weights)
    del made.node.attribute[:]
    made.node.attribute.append(onnx.helper.make_attribute("output_sequence", 1))
    op.same_layer(from_onnx(made.node, made.weights), expected)


def test_float16_weights_keep_their_dtype_and_biases_are_added_in_float32():
    made = op.case(0, peephole=True)
    half = {name: a.astype(np.float16) for name, a in made.weights.items()}
    spec, params = from_onnx(made.node, half)
    assert spec.param_dtype == "float16"
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("float16")}
    first, second = np.split(half["B"][0].astype(np.float32), 2)
    np.testing.assert_array_equal(
        params.bias[:4], (first + second)[:4].astype(np.float16)
    )  # i is first in either order


def test_float16_weights_run_in_float16():
    made = op.case(0)
    half = {name: a.astype(np.float16) for name, a in made.arrays.items()}
    spec, params = from_onnx(made.node, {name: a for name, a in half.items() if name != "X"})
    x = jnp.asarray(half["X"].swapaxes(0, 1))
    _, y = op.jitted(spec)(params, spec.initial_state(3, x.dtype), x)
    assert y.dtype == x.dtype
    # onnxruntime has no LSTM of 16 bits: the same numbers in float32, of which float16 keeps three digits
    same = op.Case(made.attributes, {name: a.astype(np.float32) for name, a in half.items()})
    assert op.error([y], op.as_layer_outputs(*op.onnxruntime_outputs(same))[:1]) < 4e-3


def test_inputs_gives_constants_alone():
    made = op.case(0, state=True, lengths=[4, 2, 1], direction="bidirectional")
    given = inputs(model_of(made))
    assert set(given) == {"lengths", "state"}
    np.testing.assert_array_equal(given["lengths"], [4, 2, 1])
    np.testing.assert_array_equal(given["state"].backward.c, made.arrays["initial_c"][1])
    np.testing.assert_array_equal(given["state"].forward.h, made.arrays["initial_h"][0])
    from_outside = op.model_of(
        [made.node],
        dict.fromkeys(("X", "initial_h", "initial_c"), 3),
        ["Y"],
        {name: made.arrays[name] for name in ("W", "R", "B", "sequence_lens")},
    )
    assert set(inputs(from_outside)) == {"lengths"}
    assert inputs(model_of(op.case(0))) == {}


def test_inputs_fills_a_missing_part_with_zeros():
    given = inputs(model_of(op.case(0, state="c", layout=1)))
    assert given["state"].h.shape == given["state"].c.shape == (3, 4)
    assert not given["state"].h.any()


def test_inputs_of_a_stack():
    first, second = op.case(0), op.case(1, state="h", D=4)
    renamed = {name: f"{name}_2" for name in (*op.INPUTS, *op.OUTPUTS)} | {"X": "squeezed"}
    for names in (second.node.input, second.node.output):
        names[:] = [renamed.get(name, name) for name in names]
    constants = first.weights | {renamed[name]: a for name, a in second.weights.items()} | {"one": np.array([1])}
    nodes = [first.node, node("Squeeze", ["Y", "one"], ["squeezed"]), second.node]
    model = op.model_of(nodes, {"X": 3}, ["Y_2"], constants)
    spec, _ = from_onnx(model)
    zeros, drawn = inputs(model)["state"]
    assert spec == Stack((LSTM(4, **ALL), LSTM(4, **ALL)))
    np.testing.assert_array_equal(drawn.h, second.arrays["initial_h"][0])
    assert zeros.h.shape == (3, 4)
    assert not zeros.h.any()


def test_half_constant_state_is_refused():
    made = op.case(0, state=True)
    constants = {name: a for name, a in made.weights.items() if name != "initial_c"}
    model = op.model_of([made.node], {"X": 3, "initial_c": 3}, ["Y"], constants)
    with pytest.raises(ValueError, match="initial_c of LSTM node 'Y' must be a constant, as another part"):
        inputs(model)


def test_a_row_of_length_0_keeps_its_state():
    made = op.case(0, lengths=[4, 0, 2], state=True)
    _, _, (y, h, c) = op.jlstm_outputs(made)
    np.testing.assert_array_equal(h[1], made.arrays["initial_h"][0, 1])
    np.testing.assert_array_equal(c[1], made.arrays["initial_c"][0, 1])
    assert not y[1].any()
    Y, Y_h, Y_c = op.onnxruntime_outputs(made)  # the one difference to onnxruntime: there such a row's state is zeros
    assert not any(a.any() for a in (Y[:, 0, 1], Y_h[0, 1], Y_c[0, 1]))
    others = np.array([0, 2])
    assert (
        op.error([y[others], h[others], c[others]], [Y[:, 0, others].swapaxes(0, 1), Y_h[0, others], Y_c[0, others]])
        < 1e-6
    )


# --- nodes that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "sideways"}, "direction of LSTM node 'Y' must be one of 'forward', 'reverse', 'bidirectional'"),
        ({"activations": ["Sigmoid", "Tanh"]}, "activations of .* must be 3, three a direction, got 2"),
        ({"activations": ["Sigmoid", "Tanh", "Gelu"]}, "activations of .* must be among Tanh, .*, got 'Gelu'"),
        ({"activations": ["Sigmoid", "Affine", "Tanh"]}, "activation_alpha of .* must have a value for Affine"),
        (
            {"activations": ["Sigmoid", "Affine", "Tanh"], "activation_alpha": [0.5]},
            "activation_beta of .* must have a value for Affine",
        ),
        (
            {"activations": ["Sigmoid", "Tanh", "Elu"], "activation_alpha": [0.0, 0.0, 0.5]},
            "activation_alpha of .* must have at most one value for each .*, 1 for Sigmoid, Tanh, Elu, got 3",
        ),
        ({"clip": 0.0}, "clip of .* must be a finite number above 0, got 0.0"),
        ({"clip": float("nan")}, "clip of .* must be a finite number above 0, got nan"),
        ({"clip": 1}, "clip of .* must be a finite number above 0, got 1"),
        ({"input_forget": 2}, "input_forget of .* must be one of 0, 1, got 2"),
        ({"layout": 2}, "layout of .* must be one of 0, 1, got 2"),
        ({"hidden_size": 5}, r"W of .* must have shape \[1, 20, D\], got \[1, 16, 3\]"),
        ({"hidden_size": -1}, "hidden_size of .* must be a positive integer, got -1"),
        ({"linear_before_reset": 1}, "attributes of .* must be among .*, got 'linear_before_reset'"),
    ],
)
def test_attributes_that_are_refused(options, message):
    made = op.case(0)
    made.attributes.update(options)
    made.__post_init__()
    with pytest.raises(ValueError, match=message):
        from_onnx(made.node, made.weights)


def test_alphas_that_nothing_takes_are_left_alone():
    made = op.case(0, activation_alpha=[1.0, 1.0, 1.0], activation_beta=[0.0, 0.0, 0.0])
    assert op.node_error(made) < 1e-6


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("W", None, "W of LSTM node 'Y' must be a constant of the model, got 'W'"),
        ("R", np.zeros((1, 16, 3)), r"R of .* must have shape \[1, 16, 4\], got \[1, 16, 3\]"),
        ("R", np.zeros((2, 16, 4)), r"R of .* must have shape \[1, 16, 4\], got \[2, 16, 4\]"),
        ("B", np.zeros((1, 16)), r"B of .* must have shape \[1, 32\], got \[1, 16\]"),
        ("P", np.zeros(12), r"P of .* must have shape \[1, 12\], got \[12\]"),
        ("W", np.zeros((1, 16, 3), np.int32), "W of .* must be a real floating array, got int32"),
        ("B", np.zeros((1, 32), np.float16), "B of .* must be float32, as W, got float16"),
        ("sequence_lens", np.zeros(3, np.float32), "sequence_lens of .* must be an integer array, got float32"),
        ("initial_h", np.zeros((1, 3, 5)), r"initial_h of .* must have shape \[1, B, 4\], got \[1, 3, 5\]"),
        ("initial_c", np.zeros((3, 4)), r"initial_c of .* must have shape \[1, B, 4\], got \[3, 4\]"),
    ],
)
def test_arrays_that_are_refused(name, array, message):
    made = op.case(0, peephole=True, state=True, lengths=[1, 2, 3])
    arrays = made.weights
    if array is None:
        del arrays[name]
    else:
        arrays[name] = array.astype(np.float32) if array.dtype == np.float64 else array
    with pytest.raises(ValueError, match=message):
        (inputs if name[0] in "is" else from_onnx)(made.node, arrays)


def test_wrong_types():
    made = op.case(0)
    with pytest.raises(
        TypeError, match="model must be a path, ModelProto, GraphProto, or NodeProto with weights, got 3"
    ):
        from_onnx(3)
    with pytest.raises(TypeError, match="weights must be the node's model or a mapping of arrays, got None"):
        from_onnx(made.node)
    with pytest.raises(TypeError, match="weights must be None unless model is a NodeProto"):
        from_onnx(model_of(made), made.weights)
    with pytest.raises(ValueError, match="model must be an LSTM node, got GRU node 'Y'"):
        from_onnx(node("GRU", ["X", "W", "R"], ["Y"]), {})
    with pytest.raises(ValueError, match=r"model must be an LSTM node, got com\.microsoft.LSTM node 'Y'"):
        from_onnx(node("LSTM", ["X", "W", "R"], ["Y"], domain="com.microsoft"), {})


def test_without_onnx(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: from_onnx("model.onnx"), lambda: to_onnx(LSTM(2), None)):
        with pytest.raises(ImportError, match="pip install onnx"):
            call()


# --- graphs that are refused -----------------------------------------------------------------------------------------


def second(**renamed):
    """The node of a second LSTM that reads the tensor "between", or what is renamed."""
    names = {"X": "between", "R": "R", "W": "W2", **renamed}
    return node("LSTM", [names.get(n, "") for n in op.INPUTS], ["Y2", "Y2_h"], hidden_size=4)


W2 = {"W2": np.zeros((1, 16, 4), np.float32), "one": np.array([1])}
SQUEEZE = node("Squeeze", ["Y", "one"], ["between"])


BRANCH = onnx.helper.make_graph(
    [node("Mul", ["Y", "two"], ["doubled"])],
    "branch",
    [],
    [onnx.helper.make_tensor_value_info("doubled", onnx.TensorProto.FLOAT, None)],
)
SIZED_IF = [  # what is done with Y hangs on its length
    node("Shape", ["Y"], ["shape"]),
    node("Gather", ["shape", "zero"], ["time"]),
    node("Greater", ["time", "one"], ["long"]),
    node("If", ["long"], ["Z"], then_branch=BRANCH, else_branch=BRANCH),
]


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        (
            [node("Relu", ["Y"], ["Z"], name="head")],
            ["Z"],
            "what lies behind LSTM node 'Y' must be .*, got Relu node 'head'",
        ),
        (
            [node("Squeeze", ["Y", "one"], ["s"]), node("Relu", ["s"], ["between"]), second()],
            ["Y2"],
            "got Relu node 'between'",
        ),
        (
            [node("Squeeze", ["Y", "one"], ["s"]), node("Transpose", ["s"], ["between"], perm=[1, 0, 2]), second()],
            ["Y2"],
            r"X of LSTM node 'Y2' must be what lies before it, got .* axes \('B', 'T', 'F'\)",
        ),
        (
            [SQUEEZE, second(initial_h="Y_h")],
            ["Y2"],
            "X of LSTM node 'Y2' must be .*, got Y_h of LSTM node 'Y' as input 5",
        ),
        ([SQUEEZE, second(X="other")], ["between", "Y2"], "LSTM nodes of model must form one chain"),
        ([node("Reshape", ["Y", "wrong"], ["Z"])], ["Z"], "got Reshape node 'Z'"),
        ([node("Reshape", ["Y", "X"], ["Z"])], ["Z"], "got Reshape node 'Z'"),
        ([node("ReduceSum", ["Y", "one"], ["Z"], keepdims=0)], ["Z"], "got ReduceSum node 'Z'"),
        ([node("Squeeze", ["Y"], ["Z"])], ["Z"], "got Squeeze node 'Z'"),
        ([node("Slice", ["Y", "one", "one"], ["Z"])], ["Z"], "got Slice node 'Z'"),
        ([node("Add", ["Y_h", "Y_h"], ["Z"])], ["Y", "Z"], "got Add node 'Z'"),
        ([SQUEEZE, second()], ["Y", "Y2"], "outputs of model must not hold Y of LSTM node 'Y', below another"),
        ([node("Relu", ["X"], ["s"]), node("Concat", ["Y_h", "s"], ["Z"], axis=0)], ["Y", "Z"], "got one from Relu"),
        ([node("Concat", ["Y_h", "R"], ["Z"], axis=0)], ["Y", "Z"], "got one from 'R'"),
        ([node("Relu", ["X"], ["Z"])], ["Y", "Z"], "outputs of model must come from its LSTM nodes, got one from Relu"),
        ([], ["Y", "W"], "outputs of model must come from its LSTM nodes, got one from 'W'"),
        ([node("Shape", ["Y"], ["Z"])], ["Y", "Z"], "outputs of model must come from .*, got one from Shape node 'Z'"),
        ([node("Shape", ["Y"], ["s"]), node("Reshape", ["s", "one"], ["Z"])], ["Y", "Z"], "got one from Reshape"),
        ([*SIZED_IF], ["Z"], "nodes of model must have no graphs of their own, got If node 'Z'"),
        ([node("Gather", ["Y", "one"], ["Z"], axis=1)], ["Z"], "got Gather node 'Z'"),
        ([node("Gather", ["Y", "zero"], ["Z"], axis=0)], ["Z"], "got Gather node 'Z'"),
        ([node("Gather", ["Y", "last"], ["Z"], axis=1)], ["Z"], "got Gather node 'Z'"),
        ([SQUEEZE, second(sequence_lens="lens")], ["Y2"], "sequence_lens must be the same for all LSTM nodes"),
        ([node("Relu", ["X"], ["Y"])], ["Y"], "tensor 'Y' must be written once, got another in Relu node 'Y'"),
    ],
)
def test_graphs_that_are_refused(nodes, outputs, message):
    made = op.case(0)
    constants = {"wrong": np.array([4, 3, 4]), "lens": np.array([1, 2, 3], np.int32), "two": np.array([2], np.float32)}
    constants |= {"zero": np.array(0), "last": np.array(2)}
    model = model_of(made, *nodes, outputs=outputs, **constants, **W2)
    with pytest.raises(ValueError, match=message):
        from_onnx(model)


def test_what_lies_before_is_refused_and_no_lstm_too():
    made = op.case(0)
    made.node.input[0] = "embedded"
    nodes = [node("Relu", ["X"], ["embedded"], name="embedding"), made.node]
    with pytest.raises(ValueError, match=r"what lies before LSTM node 'Y' must be .*, got Relu node 'embedding'"):
        from_onnx(op.model_of(nodes, {"X": 3}, ["Y"], made.weights))
    with pytest.raises(ValueError, match="model must have an LSTM node in its main graph, got Relu"):
        from_onnx(op.model_of(nodes[:1], {"X": 3}, ["embedded"], {}))


def test_cycles_end():
    made = op.case(0)
    loop = [node("Identity", ["a"], ["b"]), node("Identity", ["b"], ["a"])]
    made.node.input[1] = "a"
    with pytest.raises(ValueError, match=r"W of .* must be a constant of the model, got 'a'"):
        from_onnx(op.model_of([*loop, made.node], {"X": 3}, ["Y"], made.weights))
    made = op.case(0, N=3)
    made.node.input[0] = "between"
    with pytest.raises(ValueError, match="LSTM nodes of model must form one chain"):
        from_onnx(op.model_of([made.node, SQUEEZE], {"X": 3}, ["Y"], {**made.weights, "one": np.array([1])}))
