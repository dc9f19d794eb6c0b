"""Files of Keras: read without Keras, and broken, hostile or foreign ones refused."""

import io
import json
import random
import subprocess
import sys
import warnings
import zipfile

import cases
import h5py
import keras_peer as kp
import numpy as np
import pytest
from test_from_keras import L, save, stack, two_layers

from jlstm import LSTM, Variant
from jlstm.interop import from_keras


@pytest.fixture(autouse=True)
def relaxed():
    """Keras runs between our calls all over this module."""
    with kp.relaxed():
        yield


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
    with pytest.raises(ValueError, match=r"keras_version must be 3, got None"):
        from_keras(written(path, {**archive, "metadata.json": "[3]"}))
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
    norm = {"class_name": "MaxNorm", "config": {"max_value": "2"}}
    cases = [(-1, "units", "3", "units"), (-1, "unroll", 7.5, "unroll"), (-1, "dropout", [], "dropout")]
    cases += [(-1, "activation", {}, "activation"), (-1, "kernel_constraint", 3, "kernel_constraint")]
    cases += [(-1, "kernel_constraint", norm, "MaxNorm.max_value"), (-2, "rate", "0.3", "dropout")]
    for layer, key, value, name in cases:
        config = json.loads(archive["config.json"])
        config["config"]["layers"][layer]["config"][key] = value
        with pytest.raises(ValueError, match=f"a.keras: {name} must be"):
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
        cases.same_bits(from_keras(path, spec=spec)[1], expected[1])
    with pytest.raises(ValueError, match=r"must have shape"):
        from_keras(path, spec=LSTM(4))
    with pytest.raises(ValueError, match=r"^.*variant.peephole must be False for Keras"):
        from_keras(path, spec=LSTM(3, variant=Variant(peephole=True)))
    with pytest.raises(ValueError, match=r"^a configuration must be a mapping"):
        from_keras(path, spec=3)
