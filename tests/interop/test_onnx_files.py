"""ONNX files that are broken or mean harm: a clear ValueError, and nothing outside of the model's folder is read."""

import random
import re

import jax
import numpy as np
import onnx_peer as op
import pytest
from conftest import peer

from jlstm import LSTM, Bidirectional, Stack
from jlstm.interop import from_onnx, to_onnx
from jlstm.interop.onnx import inputs

onnx = peer("onnx")

MUTATIONS = 400
ALL = {"return_sequences": True}


def whole_model():
    """A model of one node with all its inputs constant."""
    made = op.case(0, peephole=True, state=True, lengths=[4, 2, 1], direction="bidirectional", clip=0.9)
    return op.model_of([made.node], {"X": 3}, ["Y"], made.weights)


def computing_model():
    """A model that computes with sizes: of the state that it repeats, and of a Reshape."""
    node, made = onnx.helper.make_node, op.case(0)
    made.node.input[:] = ["X", "W", "R", "B", "", "state", "state"]
    nodes = [
        node("Constant", [], ["row"], value=onnx.numpy_helper.from_array(np.ones((1, 1, 4), np.float32))),
        node("Shape", ["X"], ["shape_of_x"]),
        node("Slice", ["shape_of_x", "one", "two"], ["batch"]),
        node("Concat", ["one", "batch", "four"], ["shape_of_state"], axis=0),
        node("Expand", ["row", "shape_of_state"], ["state"]),
        made.node,
        node("Transpose", ["Y"], ["turned"], perm=[0, 2, 1, 3]),
        node("Shape", ["turned"], ["shape"], end=2),
        node("Concat", ["shape", "four"], ["sizes"], axis=0),
        node("Reshape", ["turned", "sizes"], ["Z"]),
    ]
    numbers = {"one": np.array([1]), "two": np.array([2]), "four": np.array([4])}
    return op.model_of(nodes, {"X": 3}, ["Z"], made.weights | numbers)


def external(tmp_path, **entries):
    """Write a model whose W lies in another file, and change the entries that say where."""
    made = op.case(0)
    model = op.model_of([made.node], {"X": 3}, ["Y"], made.weights)
    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    bytes_of_w = made.arrays["W"].tobytes()
    (folder / "data" / "W").write_bytes(b"...." + bytes_of_w)
    (tmp_path / "secret").write_bytes(b"...." + bytes_of_w)
    (tensor,) = (t for t in model.graph.initializer if t.name == "W")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "data/W", "offset": "4", "length": str(len(bytes_of_w)), **entries}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return made, path


def test_external_data_beside_the_model(tmp_path):
    made, path = external(tmp_path)
    _, params = from_onnx(path)
    _, expected = from_onnx(made.node, made.weights)
    np.testing.assert_array_equal(params.kernel, expected.kernel)
    with pytest.raises(ValueError, match="external data in 'data/W': give the model by its path"):
        from_onnx(onnx.load(path, load_external_data=False))
    np.testing.assert_array_equal(from_onnx(onnx.load(path))[1].kernel, expected.kernel)


def test_external_data_as_onnx_writes_it(tmp_path):
    model = whole_model()
    from_memory, expected = from_onnx(model)
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    spec, params = from_onnx(tmp_path / "m.onnx")
    assert spec == from_memory
    np.testing.assert_array_equal(params.backward.bias, expected.backward.bias)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../secret"}, "external data outside of the model's folder, in '../secret'"),
        ({"location": "data/../../secret"}, "external data outside of the model's folder"),
        ({"location": "/etc/hostname"}, "external data outside of the model's folder, in '/etc/hostname'"),
        ({"location": "C:\\data\\W"}, "external data outside of the model's folder"),
        ({"location": "..\\secret"}, "external data outside of the model's folder"),
        ({"location": ""}, "external data outside of the model's folder, in ''"),
        ({"location": None}, "external data outside of the model's folder, in ''"),
        ({"location": "data/other"}, "external data in 'data/other', which is no file"),
        ({"location": "data"}, "external data in 'data', which is no file"),
        ({"location": "da\0ta"}, "tensor 'W' must hold the numbers of its shape"),
        ({"offset": "8"}, "196 bytes in 'data/W' for 192 from 8 on; needed: 192"),
        ({"offset": "-4"}, "196 bytes in 'data/W' for 192 from -4 on"),
        ({"offset": "many"}, "tensor 'W' must hold the numbers of its shape, got invalid literal"),
        ({"length": "188"}, "196 bytes in 'data/W' for 188 from 4 on; needed: 192"),
    ],
)
def test_external_data_that_is_refused(tmp_path, entries, message):
    _, path = external(tmp_path, **entries)
    with pytest.raises(ValueError, match=re.escape(message)):
        from_onnx(path)


def test_links_out_of_the_folder_are_refused(tmp_path):
    _, path = external(tmp_path, location="link")
    (path.parent / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="external data outside of the model's folder, in 'link'"):
        from_onnx(path)


def test_a_shape_that_the_data_does_not_have():
    model = whole_model()
    (tensor,) = (t for t in model.graph.initializer if t.name == "W")
    for dims in ([2, 16, 10**15], [2, 16], [-1, 16, 3]):
        tensor.dims[:] = dims
        with pytest.raises(ValueError, match=r"tensor 'W' must hold the numbers of its shape|W of LSTM node"):
            from_onnx(model)


def test_files_that_are_no_models(tmp_path):
    path = tmp_path / "model.onnx"
    for content, message in (
        (b"", "model must have an LSTM node in its main graph, got no node"),
        (b"not a protocol buffer at all", "model must be an ONNX file, got '.*model.onnx'"),
        (b"\x80\x04\x95", "model must be an ONNX file, got '.*model.onnx'"),  # how a pickle begins
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            from_onnx(path)
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "absent.onnx")


def read(model):
    """Read all that a file has for us; a ValueError is an answer too."""
    try:
        spec, _ = from_onnx(model)
        inputs(model, batch_size=3)
    except ValueError:
        return None
    return spec


def test_truncated_files(tmp_path):
    data, path = whole_model().SerializeToString(), tmp_path / "model.onnx"
    whole = from_onnx(whole_model())[0]
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        # only the opset comes after the graph: of a file that ends there nothing is missing
        assert read(path) in ((None,) if size < len(data) - 16 else (None, whole))


def change(rng, model):
    """Make one field of a model wrong, or at least another."""
    graph = model.graph
    node, tensor = rng.choice(graph.node), rng.choice(graph.initializer)
    names = [*(name for n in graph.node for name in (*n.input, *n.output)), "", "nowhere"]
    values = (0, -1, 7, 2**62, 0.5, float("nan"), "reverse", "", [0], [1, 0, 2], [-1, 5], [0.5], ["Relu"] * 3, tensor)
    match rng.randrange(7):
        case 0:
            entries = rng.choice((node.input, node.output))
            if entries:
                entries[rng.randrange(len(entries))] = rng.choice(names)
        case 1:
            del rng.choice((node.input, node.output, node.attribute, graph.node, graph.initializer))[-1:]
        case 2:
            name = rng.choice([a.name for a in node.attribute] or ["axes"])
            del node.attribute[:1]
            node.attribute.append(onnx.helper.make_attribute(name, rng.choice(values)))
        case 3:
            node.op_type = rng.choice([n.op_type for n in graph.node] + ["Identity", "Concat", "Reshape", "Constant"])
        case 4 if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((-1, 0, 1, 3, 2**60))
        case 5:
            tensor.data_type = rng.choice((0, 1, 6, 7, 8, 10, 11, 16, 99))
        case _:
            tensor.ClearField("raw_data")
            tensor.float_data.extend([0.5] * rng.randint(0, 3))


def test_a_constant_without_a_tensor():
    model = computing_model()
    for value in ("text", [1.0], 3):
        del model.graph.node[0].attribute[:]
        model.graph.node[0].attribute.append(onnx.helper.make_attribute("value", value))
        with pytest.raises(ValueError, match=r"value of Constant node 'row' must be a tensor, got"):
            from_onnx(model)


def test_models_with_wrong_fields():
    assert set(inputs(computing_model(), batch_size=2)) == {"state"}
    spec = Stack((Bidirectional(LSTM(2, **ALL)), LSTM(2, go_backwards=True, **ALL)))
    stack = to_onnx(spec, spec.init(jax.random.key(0), 1), lengths=False, state=True)
    rng = random.Random(6)
    answers = 0
    for _ in range(MUTATIONS):
        model = onnx.ModelProto()
        model.CopyFrom(rng.choice((stack, whole_model(), computing_model())))
        for _ in range(rng.randint(1, 3)):
            if model.graph.node and model.graph.initializer:
                change(rng, model)
        answers += read(model) is not None
    assert 0 < answers < MUTATIONS


def test_mutated_files(tmp_path):
    data, path, rng = whole_model().SerializeToString(), tmp_path / "model.onnx", random.Random(5)
    answers = 0
    for _ in range(MUTATIONS):
        mutated = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(mutated))
            match rng.randrange(3):
                case 0:
                    mutated[at] = rng.randrange(256)
                case 1:
                    del mutated[at : at + rng.randint(1, 8)]
                case 2:
                    mutated[at:at] = rng.randbytes(rng.randint(1, 8))
        path.write_bytes(mutated)
        spec = read(path)
        answers += spec is not None
    assert 0 < answers < MUTATIONS
