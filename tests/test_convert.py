"""Models from any kind of file to any other: each file is run by the library that it is meant for."""

import warnings

import numpy as np
import pytest
from conftest import peer

import jlstm
from jlstm.convert import FORMATS, convert, read

for name in ("keras", "onnx", "torch"):
    pytest.importorskip(f"jlstm.interop.{name}")
torch = peer("torch")
onnxruntime = peer("onnxruntime")
with warnings.catch_warnings(action="ignore"):
    keras = peer("keras")
peer("h5py")

pytestmark = [
    pytest.mark.lenient,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras, when it saves
]

B, T, D, N = 2, 5, 3, 4
X = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")
# Two layers of two directions over five steps: float32 roundings, summed in another order by each library.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return torch.nn.LSTM(D, N, num_layers=2, bidirectional=True, batch_first=True)


@pytest.fixture(scope="module")
def expected(module):
    with torch.no_grad():
        return module(torch.from_numpy(X))[0].numpy()


@pytest.fixture(scope="module")
def sources(module, tmp_path_factory):
    """The same weights in a file of every kind, those of torch written by torch itself."""
    import safetensors.numpy

    folder = tmp_path_factory.mktemp("sources")
    paths = {"pt": folder / "model.pt", "torch's safetensors": folder / "torch.safetensors"}
    torch.save(module.state_dict(), paths["pt"])
    weights = {f"encoder.{key}": value.numpy() for key, value in module.state_dict().items()}
    safetensors.numpy.save_file(weights, paths["torch's safetensors"])
    for extension in ("safetensors", "onnx", "keras"):
        paths[extension] = folder / f"model.{extension}"
        convert(paths["pt"], paths[extension])
    return paths


def run_jlstm(path):
    spec, params, state = jlstm.load(path)
    assert state is None
    return spec.apply(params, spec.initial_state(B), X)[1]


def run_onnx(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": X})[0]


def run_keras(path):
    return np.asarray(keras.models.load_model(path)(X))


def run_torch(path):
    module = torch.nn.LSTM(D, N, num_layers=2, bidirectional=True, batch_first=True)
    module.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        return module(torch.from_numpy(X))[0].numpy()


RUNS = {"safetensors": run_jlstm, "onnx": run_onnx, "keras": run_keras, "pt": run_torch, "pth": run_torch}


@pytest.mark.parametrize("target", RUNS)
@pytest.mark.parametrize("source", ["pt", "torch's safetensors", "safetensors", "onnx", "keras"])
def test_from_any_to_any(sources, expected, tmp_path, source, target):
    path = tmp_path / f"model.{target}"
    options = {"prefix": "encoder."} if source == "torch's safetensors" else {}
    convert(sources[source], path, **options)
    np.testing.assert_allclose(RUNS[target](path), expected, **TOLERANCE)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_runs_are_of_all_that_can_be_written():
    assert {f".{extension}" for extension in RUNS} == {e for e, form in FORMATS.items() if form.write is not None}


@pytest.mark.parametrize("layer", [jlstm.LSTM(N, return_sequences=True), jlstm.Bidirectional(jlstm.LSTM(N))])
def test_a_single_layer_becomes_a_keras_model(tmp_path, layer):
    import jax

    params = layer.init(jax.random.key(0), D)
    jlstm.save(tmp_path / "model.safetensors", layer, params)
    convert(tmp_path / "model.safetensors", tmp_path / "model.keras")
    y = layer.apply(params, layer.initial_state(B), X)[1]
    np.testing.assert_allclose(run_keras(tmp_path / "model.keras"), y, **TOLERANCE)


def test_weights_of_keras_with_a_spec_or_a_configuration(tmp_path):
    model = keras.Sequential([keras.Input((None, D)), keras.layers.LSTM(N, name="lstm", go_backwards=True)])
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    (tmp_path / "keras.json").write_text(model.to_json())
    (tmp_path / "jlstm.toml").write_text('name = "LSTM"\nunits = 4\ngo_backwards = true\n')
    for name in ("keras.json", "jlstm.toml"):
        made = read(path, spec=tmp_path / name)
        y = made.spec.apply(made.params, made.spec.initial_state(B), X)[1]
        np.testing.assert_allclose(y, np.asarray(model(X)), **TOLERANCE)


@pytest.mark.parametrize("target", ["onnx", "keras", "pt"])
def test_a_state_that_the_target_cannot_hold_is_told(tmp_path, target):
    import jax

    layer = jlstm.LSTM(N, return_sequences=True)
    params = layer.init(jax.random.key(0), D)
    jlstm.save(tmp_path / "model.safetensors", layer, params, layer.initial_state(B))
    with pytest.warns(
        UserWarning, match=rf"^the state is left out of .*model\.{target}, which gets the weights alone$"
    ):
        convert(tmp_path / "model.safetensors", tmp_path / f"model.{target}")


def test_what_a_target_cannot_express_is_an_error_and_no_file(tmp_path):
    import jax

    layer = jlstm.LSTM(N, return_sequences=True, variant=jlstm.Variant(coupled="input"))
    jlstm.save(tmp_path / "model.safetensors", layer, layer.init(jax.random.key(0), D))
    for target in ("onnx", "keras", "pt"):
        with pytest.raises(ValueError, match="coupled"):
            convert(tmp_path / "model.safetensors", tmp_path / f"model.{target}")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_constants_of_an_onnx_model(tmp_path):
    """An initial state becomes the state of the file; lengths have no place in it, and a warning says so."""
    onnx = peer("onnx")
    rng = np.random.default_rng(1)
    arrays = {"W": rng.normal(size=(1, 4 * N, D)), "R": rng.normal(size=(1, 4 * N, N))}
    arrays |= {"h": rng.normal(size=(1, B, N)), "c": rng.normal(size=(1, B, N))}
    arrays = {name: a.astype("float32") for name, a in arrays.items()} | {"lens": np.array([5, 2], "int32")}
    node = onnx.helper.make_node("LSTM", ["X", "W", "R", "", "lens", "h", "c"], ["Y"], hidden_size=N)
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "graph",
        [tensor("X", onnx.TensorProto.FLOAT, [T, B, D])],
        [tensor("Y", onnx.TensorProto.FLOAT, [T, 1, B, N])],
        [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "model.onnx")
    with pytest.warns(UserWarning, match="the lengths that are constants of .* are left out"):
        convert(tmp_path / "model.onnx", tmp_path / "model.safetensors")
    state = jlstm.load(tmp_path / "model.safetensors")[2]
    np.testing.assert_array_equal(state.h, arrays["h"][0])
    np.testing.assert_array_equal(state.c, arrays["c"][0])
