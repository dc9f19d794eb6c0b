"""ONNX's own tests of the operator LSTM, through its backend interface."""

import numpy as np
import onnx_peer as op
import pytest
from conftest import peer

onnx = peer("onnx")
# Importing this module builds its test cases in memory. The loader for all operators, onnx.backend.test.loader, gives
# the same six for LSTM and spends six seconds on the others.
peer("onnx.backend.test.case.node.lstm")
collected = peer("onnx.backend.test.case.node")._NodeTestCases
Runner = peer("onnx.backend.test.runner").Runner
JlstmBackend = peer("jlstm.interop.onnx_backend").JlstmBackend

CASES = {case.name: case for case in collected if [n.op_type for n in case.model.graph.node] == ["LSTM"]}


def test_the_cases_are_there():
    known = {"defaults", "with_initial_bias", "with_peepholes", "batchwise"}
    assert {f"test_lstm_{name}" for name in known} <= set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_of_onnx_passes(name):
    case = CASES[name]
    assert JlstmBackend.is_compatible(case.model)
    prepared = JlstmBackend.prepare(case.model)
    for given, expected in case.data_sets:
        Runner.assert_similar_outputs(expected, prepared.run(given), rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize("layout", [0, 1])
def test_run_node_and_run_model(layout):
    made = op.case(0, direction="bidirectional", state=True, lengths=[4, 1, 2], layout=layout)
    expected = op.onnxruntime_outputs(made)
    if layout:
        expected = [expected[0].transpose(2, 0, 1, 3), *(a.swapaxes(0, 1) for a in expected[1:])]
    arrays = [made.arrays[name] for name in op.INPUTS if name in made.arrays]
    assert op.error(JlstmBackend.run_node(made.node, arrays), expected) < 1e-6
    # weights as initializers, inputs by name
    constants = {name: a for name, a in made.arrays.items() if name != "X"}
    model = op.model_of([made.node], {"X": 3}, ["Y_c", "Y"], constants)
    y_c, y = JlstmBackend.run_model(model, {"X": made.arrays["X"]})
    assert op.error([y, y_c], [expected[0], expected[2]]) < 1e-6


def test_outputs_that_the_node_does_not_have():
    made = op.case(1, outputs=("", "", "Y_c"))
    (y_c,) = JlstmBackend.run_node(made.node, list(made.arrays.values()))
    assert op.error([y_c], op.onnxruntime_outputs(made)[2:]) < 1e-6


def test_what_it_does_not_run():
    made = op.case(0)
    twice = op.model_of([made.node, onnx.helper.make_node("Relu", ["Y"], ["Z"])], {"X": 3}, ["Z"], made.arrays)
    assert not JlstmBackend.is_compatible(twice)
    with pytest.raises(ValueError, match="model must be one LSTM node"):
        JlstmBackend.prepare(op.model_of([onnx.helper.make_node("Relu", ["X"], ["Y_h"])], {"X": 3}, ["Y_h"], {}))
    assert not JlstmBackend.supports_device("CUDA")
    prepared = JlstmBackend.prepare(op.model_of([made.node], {"X": 3, "W": 3, "R": 3, "B": 2}, ["Y"], {}))
    with pytest.raises(ValueError, match="inputs must be 4 arrays: X, W, R, B"):
        prepared.run([made.arrays["X"]])
    with pytest.raises(ValueError, match="inputs must have 'W', got X"):
        prepared.run({"X": np.zeros((4, 3, 3), np.float32)})
