"""ONNX: initial states and lengths that nodes make: zeros, one row for the whole batch, and what must be refused."""

import jax.numpy as jnp
import numpy as np
import onnx_peer as op
import pytest
from conftest import peer

from jlstm.interop import from_onnx
from jlstm.interop.onnx import inputs

onnx = peer("onnx")
node = onnx.helper.make_node

B, N = 3, 4
ONE, BATCH = np.array([1]), [node("Shape", ["X"], ["batch"], start=1, end=2)]
SIZES = [*BATCH, node("Concat", ["one", "batch", "units"], ["shape"], axis=0)]


def model_of(nodes, made=None, *, more=(), **constants):
    """A model of nodes that make "initial_h", and an LSTM that reads it."""
    made = made or op.case(0)
    names = [name if name in made.arrays or name in ("initial_h", *more) else "" for name in op.INPUTS]
    made.node.input[:] = names
    constants = {"one": ONE, "units": np.array([N]), **constants}
    given = {"X": 3} | dict.fromkeys(constants.pop("from_outside", ()), 3)
    return op.model_of([*nodes, made.node], given, ["Y", "Y_h", "Y_c"], {**made.weights, **constants}, opset=18)


def row(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def error(model):
    """The worst difference between what onnxruntime and jlstm make of a model."""
    made = op.case(0)
    x = made.arrays["X"]
    expected = op.as_layer_outputs(*op.session(model).run(None, {"X": x}))
    spec, params = from_onnx(model)
    given = inputs(model, batch_size=B)
    state = given.pop("state", None) or spec.initial_state(B)
    return op.error(op.layer_outputs(*op.jitted(spec)(params, state, jnp.asarray(x.swapaxes(0, 1))), made), expected)


@pytest.mark.parametrize("shape", [(1, 1, N), (1, N), (N,), (1, 1, 1)])
def test_one_row_for_the_whole_batch(shape):
    model = model_of([*SIZES, node("Expand", ["row", "shape"], ["initial_h"])], row=row(*shape))
    assert error(model) < 1e-6
    with pytest.raises(ValueError, match="batch_size must be given where model repeats one state for every row"):
        inputs(model)
    with pytest.raises(TypeError, match="batch_size must be a positive integer"):
        inputs(model, batch_size=2.0)
    state = inputs(model, batch_size=2)["state"]
    np.testing.assert_array_equal(state.h, np.broadcast_to(row(*shape), (1, 2, N))[0])
    assert not state.c.any()


def test_batch_size_of_a_constant():
    made = op.case(0, state=True)
    given = inputs(made.node, made.weights)["state"]
    np.testing.assert_array_equal(inputs(made.node, made.weights, batch_size=B)["state"].h, given.h)
    with pytest.raises(ValueError, match=r"initial_h of .* must have shape \[1, 2, 4\], got \[1, 3, 4\]"):
        inputs(made.node, made.weights, batch_size=2)


def test_rows_of_layers_are_picked():
    nodes = [
        *BATCH,
        node("Concat", ["three", "batch", "units"], ["shape"], axis=0),
        node("Expand", ["rows", "shape"], ["all"]),
        node("Slice", ["all", "one", "two", "zero"], ["initial_h"]),
    ]
    numbers = {"zero": np.array([0]), "two": np.array([2]), "three": np.array([3])}
    model = model_of(nodes, rows=row(3, 1, N), **numbers)
    assert error(model) < 1e-6
    np.testing.assert_array_equal(inputs(model, batch_size=1)["state"].h, row(3, 1, N)[1])


ZEROS = np.zeros((1, 1, N), np.float32)


@pytest.mark.parametrize(
    "nodes",
    [
        [*SIZES, node("ConstantOfShape", ["shape"], ["initial_h"])],
        [*SIZES, node("Expand", ["zeros", "shape"], ["initial_h"])],
        [*SIZES, node("Expand", ["zeros", "shape"], ["a"]), node("Slice", ["a", "axis", "one"], ["initial_h"])],
        [*SIZES, node("ConstantOfShape", ["shape"], ["a"]), node("Transpose", ["a"], ["initial_h"], perm=[0, 1, 2])],
    ],
)
def test_zeros_are_what_apply_starts_from(nodes):
    model = model_of(nodes, zeros=ZEROS, axis=np.array([0]))
    assert inputs(model) == {}
    assert error(model) < 1e-6


def test_constant_zeros_are_left_out():
    assert inputs(model_of([], initial_h=np.zeros((1, B, N), np.float32))) == {}


@pytest.mark.parametrize(
    ("nodes", "got"),
    [
        ([*SIZES, node("Expand", ["row", "shape"], ["a"]), node("Tanh", ["a"], ["initial_h"])], "Tanh"),
        ([*SIZES, node("RandomNormal", [], ["initial_h"], shape=[1, B, N])], "RandomNormal"),
        ([node("Slice", ["row", "one", "one", "one"], ["initial_h"])], "Slice"),
        ([node("Cast", ["batch"], ["initial_h"], to=1), *BATCH], "Cast"),
    ],
)
def test_states_computed_of_constants_are_refused(nodes, got):
    model = model_of(nodes, row=row(1, 1, N))
    message = f"initial_h of LSTM node 'Y' must be an input of the graph, a constant or zeros, got {got} node"
    for call in (from_onnx, inputs, lambda model: inputs(model.graph.node[-1], model)):
        with pytest.raises(ValueError, match=message):
            call(model)


@pytest.mark.parametrize(
    ("nodes", "got"),
    [
        ([node("Relu", ["h0"], ["initial_h"])], "Relu"),
        ([node("Add", ["h0", "row"], ["initial_h"])], "Add"),
        ([node("Transpose", ["X"], ["initial_h"], perm=[0, 2, 1])], "Transpose"),
    ],
)
def test_states_computed_of_inputs_are_read_with_the_node_alone(nodes, got):
    model = model_of(nodes, row=row(1, 1, N), from_outside=["h0"])
    for call in (from_onnx, inputs):
        with pytest.raises(ValueError, match=f"initial_h of LSTM node 'Y' must be .*, got {got} node 'initial_h'"):
            call(model)
    made = op.case(0)
    op.same_layer(from_onnx(model.graph.node[-1], model), from_onnx(made.node, made.weights))
    assert inputs(model.graph.node[-1], model) == {}


def test_pieces_of_an_input_are_the_callers():
    nodes = [node("Slice", ["h0", "axis", "one", "axis"], ["initial_h"])]
    model = model_of(nodes, axis=np.array([0]), from_outside=["h0"])
    made = op.case(0)
    op.same_layer(from_onnx(model), from_onnx(made.node, made.weights))
    assert inputs(model) == {}


def test_lengths_that_nodes_make():
    def lengths(*nodes):
        return model_of(nodes, more=("sequence_lens",), from_outside=["n"], initial_h=row(1, B, N), two=np.array([2]))

    cast = lengths(node("Cast", ["n"], ["sequence_lens"], to=6))
    assert from_onnx(cast)[0].zero_output_for_mask
    assert set(inputs(cast)) == {"state"}
    repeated = lengths(*BATCH, node("Cast", ["two"], ["a"], to=6), node("Expand", ["a", "batch"], ["sequence_lens"]))
    for call in (from_onnx, inputs):
        with pytest.raises(ValueError, match=r"sequence_lens of LSTM node 'Y' must be .*, got Expand node"):
            call(repeated)
