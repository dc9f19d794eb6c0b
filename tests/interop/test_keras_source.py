"""What from_keras takes and refuses, option by option and file by file; what to_keras refuses."""

import io
import json
import random
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace

import h5py
import jax
import jax.numpy as jnp
import keras_peer as kp
import numpy as np
import pytest
from conftest import peer
from test_from_keras import MASK, B, D, L, T, built, same, save, stack, two_layers

import jlstm
from jlstm import LSTM, Bidirectional, Stack, Variant
from jlstm.interop import from_keras, to_keras

keras = peer("keras")


@pytest.fixture(autouse=True)
def relaxed():
    """Keras runs between our calls all over this module."""
    with kp.relaxed():
        yield


def spec_of(*arguments, **options):
    """The spec that comes from a keras.layers.LSTM with these arguments."""
    return from_keras(built(L.LSTM(*arguments, **options)))[0]


# --- options -------------------------------------------------------------------------------------------------------


def test_a_plain_layer_is_a_plain_spec():
    assert spec_of(3) == LSTM(3, dtype="float32")


def test_loaded_weights_get_no_forget_bias():
    layer = L.LSTM(2)
    layer.build((None, T, D))
    spec, params = from_keras(layer)
    assert spec.unit_forget_bias
    np.testing.assert_array_equal(params.bias, [0, 0, 1, 1, 0, 0, 0, 0])
    layer.cell.bias.assign(np.zeros(8))
    np.testing.assert_array_equal(from_keras(layer)[1].bias, np.zeros(8))


@pytest.mark.parametrize(
    ("option", "theirs", "ours"),
    [
        ("kernel_initializer", lambda: keras.initializers.HeNormal(seed=3), "he_normal"),
        ("kernel_initializer", lambda: keras.initializers.RandomNormal(0.1, 0.2), jlstm.RandomNormal(0.1, 0.2)),
        ("kernel_initializer", lambda: keras.initializers.RandomUniform(-1, 1), jlstm.RandomUniform(-1, 1)),
        ("kernel_initializer", lambda: keras.initializers.TruncatedNormal(0, 1), jlstm.TruncatedNormal(0, 1)),
        (
            "kernel_initializer",
            lambda: keras.initializers.VarianceScaling(2.0, "fan_out", "uniform"),
            jlstm.VarianceScaling(2.0, "fan_out", "uniform"),
        ),
        ("recurrent_initializer", lambda: keras.initializers.Orthogonal(2.0), jlstm.Orthogonal(2.0)),
        ("recurrent_initializer", lambda: "identity", "identity"),
        ("bias_initializer", lambda: keras.initializers.Constant(0.5), jlstm.Constant(0.5)),
        ("kernel_regularizer", lambda: keras.regularizers.L1L2(0.25, 0.5), jlstm.L1L2(0.25, 0.5)),
        ("recurrent_regularizer", lambda: keras.regularizers.L1(0.25), jlstm.L1(0.25)),
        ("bias_regularizer", lambda: keras.regularizers.L2(0.25), jlstm.L2(0.25)),
        ("activity_regularizer", lambda: "l2", "l2"),
        (
            "recurrent_regularizer",
            lambda: keras.regularizers.OrthogonalRegularizer(0.5, "columns"),
            jlstm.OrthogonalRegularizer(0.5, "columns"),
        ),
        ("kernel_constraint", lambda: keras.constraints.MaxNorm(3, axis=[0, 1]), jlstm.MaxNorm(3.0, (0, 1))),
        ("recurrent_constraint", lambda: keras.constraints.UnitNorm(1), jlstm.UnitNorm(1)),
        ("kernel_constraint", lambda: keras.constraints.MinMaxNorm(0.5, 2, 0.5, 1), jlstm.MinMaxNorm(0.5, 2.0, 0.5, 1)),
        ("bias_constraint", lambda: "non_neg", "non_neg"),
        ("activation", lambda: L.LeakyReLU(0.125), jlstm.LeakyReLU(0.125)),
        ("recurrent_activation", lambda: L.ELU(0.5), jlstm.ELU(0.5)),
        ("activation", lambda: None, "linear"),
        ("dropout", lambda: 0.25, 0.25),
        ("recurrent_dropout", lambda: 0.25, 0.25),
        ("implementation", lambda: 1, 1),
        ("unroll", lambda: True, True),
        ("unit_forget_bias", lambda: False, False),
        ("zero_output_for_mask", lambda: True, True),
    ],
)
def test_options_come_over_and_go_back(option, theirs, ours):
    layer = built(L.LSTM(3, **{option: theirs()}))
    expected = LSTM(3, **{option: ours}, dtype="float32")
    spec, params = from_keras(layer)
    assert spec == expected
    again = from_keras(to_keras(spec, params))
    assert again[0] == expected
    same(again[1], params)


def test_what_the_caller_holds_is_left_behind():
    assert spec_of(3, stateful=False, return_state=True, seed=3, use_cudnn=False, name="x", trainable=False) == spec_of(
        3
    )
    stateful = L.LSTM(3, stateful=True)
    stateful.build((B, T, D))
    assert from_keras(stateful)[0] == spec_of(3)


@pytest.mark.parametrize(
    ("policy", "compute", "weights"),
    [
        ("bfloat16", "bfloat16", "bfloat16"),
        ("mixed_bfloat16", "bfloat16", "float32"),
        ("mixed_float16", "float16", "float32"),
    ],
)
def test_dtype_policies(tmp_path, policy, compute, weights):
    layer = L.LSTM(3, dtype=policy, recurrent_initializer="glorot_uniform")  # Keras has no orthogonal one in bfloat16
    model = stack(layer)
    spec, params = from_keras(layer)
    assert (spec.dtype, spec.param_dtype, params.bias.dtype) == (compute, weights, weights)
    same(params.kernel, jnp.asarray(layer.cell.kernel.value))
    of_file = from_keras(save(model, tmp_path / "a.keras"))
    assert of_file[0] == spec
    same(of_file[1], params)
    assert to_keras(spec, params).dtype_policy.name == policy
    assert to_keras(replace(spec, dtype=None), params).dtype_policy.name == weights


def test_dtypes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"^Bidirectional\.dtype must be that of the layers"):
        from_keras(built(L.Bidirectional(L.LSTM(2, dtype="mixed_bfloat16"))))
    with pytest.raises(ValueError, match=r"^RNN\.dtype must be"):
        from_keras(built(L.RNN(L.LSTMCell(2, dtype="mixed_bfloat16"))))
    with pytest.raises(ValueError, match=r"^LSTM\.autocast must be True"):
        from_keras(built(L.LSTM(2, dtype="mixed_bfloat16", autocast=False)))
    with pytest.raises(ValueError, match=r"^dtype must be a floating dtype"):
        from_keras("a.weights.h5", spec={"units": 3, "dtype": "int8_from_float32"})


@keras.saving.register_keras_serializable("ours")
def squashed(x):
    return keras.ops.tanh(x) / 2


def test_custom_objects():
    layer = built(L.LSTM(3, activation=squashed))
    with pytest.raises(
        ValueError, match=r"^activation must be one that jlstm has, got squashed: give .*custom_objects"
    ):
        from_keras(layer)

    def ours(x):
        return jnp.tanh(x) / 2

    for name in ("squashed", "ours>squashed"):
        assert from_keras(layer, custom_objects={name: ours})[0].activation is ours


def test_names_that_jlstm_refuses():
    with pytest.raises(ValueError, match=r"^activation must be one of 'tanh', .* got 'sparsemax'"):
        from_keras(built(L.LSTM(3, activation="sparsemax")))
    assert from_keras(built(L.LSTM(3, activation="sparsemax")), custom_objects={"sparsemax": "tanh"})[0] == spec_of(3)
    with pytest.raises(ValueError, match=r"^kernel_initializer must be one that jlstm has, got STFT"):
        from_keras("a.weights.h5", spec={"units": 3, "kernel_initializer": {"class_name": "STFT", "config": {}}})
    with pytest.raises(ValueError, match=r"^LSTM must have no other options .*, got time_major"):
        from_keras("a.weights.h5", spec={"units": 3, "time_major": False})
    with pytest.raises(ValueError, match=r"^dropout must be a number in \[0, 1\), got 1"):
        from_keras(built(L.LSTM(3, dropout=1.0)))  # where Keras silently drops nothing


# --- layers and models ---------------------------------------------------------------------------------------------


def test_the_recurrent_part_of_a_model_by_name(tmp_path):
    model = stack(
        L.LSTM(2, return_sequences=True, name="a"), L.Dropout(0.2), L.LSTM(3, name="b"), L.Dense(2, name="top")
    )
    with pytest.raises(
        ValueError, match=r"^layers must be LSTM, .* got Dense 'top': name the recurrent ones in layers="
    ):
        from_keras(model)
    path, weights = save(model, tmp_path / "a.keras"), save(model, tmp_path / "a.weights.h5")
    expected = from_keras([model.layers[0], L.Dropout(0.2), model.layers[2]])
    assert expected[0] == Stack((LSTM(2, return_sequences=True, dtype="float32"), spec_of(3)), dropout=0.2)
    for source, options in ((model, {}), (path, {}), (weights, {"spec": model.get_config()})):
        spec, params = from_keras(source, layers=["a", "b"], **options)
        assert spec == expected[0]
        same(params, expected[1])
        spec, params = from_keras(source, layers="b", **options)
        assert spec == expected[0].layers[1]
        same(params, expected[1][1])
    # With a spec of jlstm's, by the groups of the file.
    same(from_keras(weights, spec=expected[0])[1], expected[1])
    same(from_keras(weights, spec=expected[0].layers[1], layers="lstm_1")[1], expected[1][1])
    with pytest.raises(ValueError, match=r"got \['c'\]"):
        from_keras(path, layers=["a", "c"])
    with pytest.raises(ValueError, match=r"^layers must name 2 groups"):
        from_keras(weights, spec=expected[0], layers="lstm")
    three = stack(*(L.LSTM(3, return_sequences=True, name=name) for name in "abc"))
    with pytest.raises(ValueError, match=r"leave out no recurrent layer .* \['b'\]"):
        from_keras(three, layers=["a", "c"])


def test_masking_warns_with_the_mask_to_pass():
    model = stack(L.Masking(-1.0), L.LSTM(3, return_sequences=True, zero_output_for_mask=True))
    with pytest.warns(UserWarning, match=r"pass mask=jnp.any\(x != -1.0, axis=-1\) to apply") as caught:
        spec, params = from_keras(model)
    assert caught[0].filename == __file__
    x = np.where(np.asarray(MASK)[:, :, None], np.random.default_rng(0).normal(0, 1, (B, T, D)), -1).astype("float32")
    _, y = spec.apply(params, spec.initial_state(B), x, mask=jnp.any(x != -1.0, axis=-1))
    np.testing.assert_allclose(y, model(x), atol=3e-5)


def test_functional_models_that_are_no_chain():
    inputs = keras.Input((T, D))
    y, *states = L.LSTM(3, return_sequences=True, return_state=True, name="encoder")(inputs)
    model = built(keras.Model(inputs, L.LSTM(3, name="decoder")(y, initial_state=states)))
    with pytest.raises(ValueError, match=r"^decoder must read the outputs of encoder alone, .* got also initial_state"):
        from_keras(model)
    assert from_keras(model, layers="decoder")[0] == spec_of(3)
    y = L.LSTM(3, return_sequences=True, name="one")(inputs)
    z = L.LSTM(3, return_sequences=True, name="two")(inputs)
    with pytest.raises(ValueError, match=r"^two must read the outputs of one alone"):
        from_keras(built(keras.Model(inputs, [y, z])))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: [L.LSTM(3)], "^source must be built"),
        (lambda: built(L.GRU(3)), "got GRU"),
        (lambda: built(L.RNN(L.GRUCell(3))), "^RNN.cell must be LSTMCell or StackedRNNCells of these, got GRUCell"),
        (lambda: built(L.RNN([L.LSTMCell(3), L.GRUCell(3)])), "^StackedRNNCells.cells must be LSTMCells, got GRUCell"),
        (lambda: built(type("Mine", (L.LSTM,), {})(3)), "got test_keras_source.Mine|got Mine"),
        (lambda: built(type("LSTM", (L.LSTM,), {})(3)), r"got test_keras_source.LSTM"),
        (lambda: [built(L.LSTM(3)), L.Dropout(0.5)], "^Dropout must stand between two recurrent layers"),
        (lambda: [L.Dropout(0.5), built(L.LSTM(3))], "got Dropout"),
        (lambda: [], "^layers must have a recurrent one, got none"),
        (
            lambda: stack(
                *(a for r in (0.1, 0.2) for a in (L.LSTM(3, return_sequences=True), L.Dropout(r))), L.LSTM(3)
            ),
            r"^Dropout must have one rate between all layers \(Stack.dropout\), got \[0.1, 0.2\]",
        ),
        (
            lambda: built(L.Bidirectional(L.LSTM(2), activity_regularizer="l2")),
            r"^Bidirectional.activity_regularizer must be None",
        ),
        (
            lambda: built(L.Bidirectional(L.LSTM(2, go_backwards=True), backward_layer=L.LSTM(2))),
            "^go_backwards must be False for forward",
        ),
    ],
)
def test_sources_that_a_spec_cannot_hold(source, message):
    with pytest.raises(ValueError, match=message):
        from_keras(source())


def test_sources_of_others():
    with pytest.raises(TypeError, match=r"^source must be a Keras layer or model, a list of layers or a path, got 3"):
        from_keras(3)
    with pytest.raises(ValueError, match=r"^spec must be None where the source holds a configuration"):
        from_keras(built(L.LSTM(3)), spec=LSTM(3))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (LSTM(3, variant=Variant(peephole=True)), "^variant.peephole must be False for keras.layers.LSTM, got True"),
        (LSTM(3, variant=Variant(projection=2)), "^variant.projection must be None"),
        (LSTM(3, variant=Variant(coupled="input")), "^variant.coupled must be None"),
        (LSTM(3, variant=Variant(preact_clip=1.0)), "^variant.preact_clip must be None"),
        (LSTM(3, variant=Variant(output_activation="relu")), "^variant.output_activation must be None"),
        (LSTM(3, variant=Variant(forget_gate=False)), "^variant.forget_gate must be True"),
        (LSTM(3, go_backwards=True, keep_order=True, return_sequences=True), "^keep_order must be False with go_back"),
        (LSTM(3, activation="hard_sigmoid_keras2"), "^activation must be a name or a value that Keras has"),
        (LSTM(3, activation=jnp.sin), "^activation must be a name or a value that Keras has"),
        (LSTM(3, bias_initializer=jlstm.Chrono(9)), "^bias_initializer must be a name or a value that Keras has"),
        (LSTM(3, dtype="float64"), "^dtype must be None or float32, or 16 bits wide"),
        (Bidirectional(LSTM(3, implementation=1, dropout=0.5)), "^forward.implementation must be 2 for"),
        (Stack((Bidirectional(LSTM(3), merge_mode=None),)), r"^layers\[-1\].merge_mode must be a name for"),
    ],
)
def test_what_keras_cannot_express(spec, message):
    params = spec.init(jax.random.key(0), D)
    with pytest.raises(ValueError, match=message):
        to_keras(spec, params)


def test_to_keras_with_states_and_with_steps_to_unroll():
    spec = LSTM(3, unroll=True)
    params = spec.init(jax.random.key(0), D)
    y, h, c = to_keras(spec, params, return_state=True)(np.ones((B, T, D), "float32"))
    state, _ = spec.apply(params, spec.initial_state(B), jnp.ones((B, T, D)))
    np.testing.assert_allclose(np.stack([y, h, c]), np.stack([state.h, state.h, state.c]), atol=3e-5)
    stacked = Stack((replace(spec, return_sequences=True), spec))
    params = stacked.init(jax.random.key(0), D)
    y = to_keras(stacked, params)(np.ones((B, T, D), "float32"))  # built at its first call: T is known then alone
    np.testing.assert_allclose(y, stacked.apply(params, stacked.initial_state(B), jnp.ones((B, T, D)))[1], atol=3e-5)
    with pytest.raises(ValueError, match=r"^return_state must be False for keras.Sequential"):
        to_keras(stacked, params, return_state=True)
    torch_like = jlstm.TorchUniform(4)
    made = to_keras(LSTM(3, kernel_initializer=torch_like), LSTM(3).init(jax.random.key(0), D))
    assert from_keras(made)[0].kernel_initializer == jlstm.RandomUniform(-0.5, 0.5)


# --- files ---------------------------------------------------------------------------------------------------------


def test_files_are_read_without_keras(tmp_path):
    model = two_layers()
    path, weights = save(model, tmp_path / "a.keras"), save(model, tmp_path / "a.weights.h5")
    spec, _ = from_keras(model)
    program = f"""
import sys
from jlstm import *
from jlstm.interop import from_keras
spec, params = from_keras({str(path)!r})
assert spec == {spec!r}
spec, params = from_keras({str(weights)!r}, spec=spec)
assert not {{"keras", "tensorflow", "torch", "flax"}} & set(sys.modules)
print(float(params[1].bias.sum()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(float(done.stdout), float(from_keras(model)[1][1].bias.sum()), rtol=1e-6)


@pytest.fixture(scope="module", name="archive")
def archive_fixture(tmp_path_factory):
    """The members of a .keras file."""
    path = save(two_layers(), tmp_path_factory.mktemp("keras") / "a.keras")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def changed(archive, change):
    """The members with another weights file, after `change` of the open h5 file."""
    held = io.BytesIO(archive["model.weights.h5"])
    with h5py.File(held, "r+") as file:
        change(file, file["layers/lstm/cell/vars"])
    return {**archive, "model.weights.h5": held.getvalue()}


def test_archives_that_are_none(tmp_path, archive):
    path = tmp_path / "a.keras"
    with pytest.raises(FileNotFoundError):
        from_keras(path)
    with pytest.raises(ValueError, match=r"^path must end in .keras or .weights.h5, got model.h5"):
        from_keras("model.h5")
    path.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"must be a file that Keras 3 wrote, got one where BadZipFile"):
        from_keras(path)
    whole = written(path, archive).read_bytes()
    for part in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:part])
        with pytest.raises(ValueError, match=r"a.keras"):
            from_keras(path)
    for missing in archive:
        with pytest.raises(ValueError, match=f"must hold {missing}"):
            from_keras(written(path, {k: v for k, v in archive.items() if k != missing}))
    with pytest.raises(ValueError, match=r"keras_version must be 3, got '2.15.0'"):
        from_keras(written(path, {**archive, "metadata.json": '{"keras_version": "2.15.0"}'}))
    for config in ("{", "[" * 100_000, "[]", '{"class_name": "LSTM"}', "null", '{"class_name": 3, "config": {}}'):
        with pytest.raises(ValueError, match=r"a.keras"):
            from_keras(written(path, {**archive, "config.json": config}))
    with pytest.raises(ValueError, match=r"must be stored uncompressed"):  # a bomb would have to be
        from_keras(written(path, {**archive, "model.weights.h5": bytes(10**7)}, zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match=r"spec must be None for a .keras file"):
        from_keras(written(path, archive), spec=LSTM(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, v: v.pop("1"), "lstm/cell must hold 3 arrays, got 0, 2"),
        (lambda f, v: f["layers"].pop("lstm"), "layers must hold lstm .* got bidirectional, dropout"),
        (lambda f, v: v.move("1", "7"), "lstm/cell must hold 3 arrays, got 0, 2, 7"),
        (
            lambda f, v: _put(v, "1", data=np.zeros((5, 12), "float32")),
            r"vars/1 must have shape \[3, 12\], got \[5, 12\]",
        ),
        (lambda f, v: _put(v, "0", data=np.zeros((9, 12), "float32")), r"vars/0 must have shape \[4, 12\]"),
        (lambda f, v: _put(v, "1", data=np.zeros((3, 12), "int32")), "must hold floating numbers, got int32"),
        (lambda f, v: _put(v, "1", data=np.zeros((3, 12))), "weights must have the dtype that is configured, float32"),
        (lambda f, v: _put(v, "1", data=h5py.Empty("f4")), r"must have shape \[3, 12\], got \[\]"),
        (lambda f, v: _put(v, "1", (3, 12), "f4", compression="gzip"), "must hold 144 bytes in one piece"),
        (lambda f, v: _put(v, "1", (3, 12), "f4"), "must hold 144 bytes in one piece, got 0"),  # nothing was written
        (lambda f, v: _put(v, "1", (3, 12), "f4", external=[("/etc/passwd", 0, 144)]), "in one piece"),
        (lambda f, v: _link(v, h5py.ExternalLink("other.h5", "/x")), "in the file itself, got a ExternalLink"),
        (lambda f, v: _link(v, h5py.SoftLink("/layers/lstm/cell/vars/0")), "in the file itself, got a SoftLink"),
        (lambda f, v: _group(v), "must be a dataset, got a group"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration(tmp_path, archive, change, message):
    with pytest.raises(ValueError, match=message):
        from_keras(written(tmp_path / "a.keras", changed(archive, change)))


def _put(group, name, *arguments, **options):
    del group[name]
    group.create_dataset(name, *arguments, **options)


def _link(group, link):
    del group["1"]
    group["1"] = link


def _group(group):
    del group["1"]
    group.create_group("1")


def test_a_configuration_of_any_size_makes_no_array(tmp_path, archive):
    """An LSTM of 10**9 units, and a file that claims to hold its weights."""
    config = json.loads(archive["config.json"])
    config["config"]["layers"][-1]["config"]["units"] = 10**9
    members = {**archive, "config.json": json.dumps(config)}
    with pytest.raises(ValueError, match=r"must have shape \[4, 4000000000\]"):
        from_keras(written(tmp_path / "a.keras", members))
    members = changed(members, lambda f, v: _put(v, "0", (4, 4 * 10**9), "f4"))
    with pytest.raises(ValueError, match=r"must hold 64000000000 bytes in one piece, got 0"):
        from_keras(written(tmp_path / "a.keras", members))


def test_configurations_with_wrong_values_are_value_errors(tmp_path, archive):
    for key, value in {"units": "3", "unroll": 7.5, "dropout": [], "activation": {}, "kernel_constraint": 3}.items():
        config = json.loads(archive["config.json"])
        config["config"]["layers"][-1]["config"][key] = value
        with pytest.raises(ValueError, match=f"a.keras.*{key} must be"):
            from_keras(written(tmp_path / "a.keras", {**archive, "config.json": json.dumps(config)}))


def test_changed_files_are_read_or_refused(tmp_path, archive):
    """No other error, whatever bytes are wrong: in the archive, in the JSON and in the weights."""
    rng = random.Random(0)
    path = tmp_path / "a.keras"
    whole = bytearray(written(path, archive).read_bytes())
    refused = read = 0
    for n in range(400):
        broken = bytearray(whole)
        for _ in range(rng.choice((1, 3, 30))):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        if n % 4 == 0:  # past the checksum of the archive
            member = rng.choice(("config.json", "model.weights.h5"))
            content = bytearray(archive[member])
            for _ in range(rng.choice((1, 3, 30))):
                content[rng.randrange(min(len(content), 20_000))] = rng.randrange(256)
            broken = written(path, {**archive, member: bytes(content)}).read_bytes()
        path.write_bytes(broken)
        try:
            with warnings.catch_warnings(action="ignore"):
                from_keras(path)
        except ValueError as error:
            refused += "a.keras" in str(error)
        else:
            read += 1
    assert refused + read == 400
    assert refused > 100


def test_weights_want_a_spec(tmp_path):
    model = stack(L.LSTM(3))
    path = save(model, tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match=r"spec must be a jlstm spec or the model's configuration.* got None"):
        from_keras(path)
    expected = from_keras(model)
    for spec in (LSTM(3), model.get_config(), model.layers[0].get_config(), json.loads(model.to_json())):
        same(from_keras(path, spec=spec)[1], expected[1])
    with pytest.raises(ValueError, match=r"must have shape"):
        from_keras(path, spec=LSTM(4))
    with pytest.raises(ValueError, match=r"^.*variant.peephole must be False for Keras"):
        from_keras(path, spec=LSTM(3, variant=Variant(peephole=True)))
    with pytest.raises(ValueError, match=r"^a configuration must be a mapping"):
        from_keras(path, spec=3)
