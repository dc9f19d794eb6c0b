"""What load refuses, and in which words: files that are damaged, hostile, of another program or another version."""

import json
import os
import sys

import numpy as np
import pytest
import safetensors.numpy
from cases import same_bits
from test_files import PARAMS, SPEC, STATE, path

import jlstm
from jlstm import files
from jlstm.paths import flatten

__all__ = ["path"]  # the fixture


def foreign(tensors, about=None, **metadata):
    """A safetensors file of these tensors, and of this document where one is given."""
    if about is not None:
        metadata["jlstm"] = about if isinstance(about, str) else json.dumps(about)
    return safetensors.numpy.save(tensors, metadata)


TENSORS = {f"params/{name}": np.asarray(a) for name, a in flatten(PARAMS).items()}
STATES = {f"state/{name}": np.asarray(a) for name, a in flatten(STATE).items()}
ABOUT = {"version": 1, "spec": SPEC.to_dict()}


def without(name):
    return {key: value for key, value in TENSORS.items() if key != name}


def test_a_file_by_hand_is_taken(path):
    path.write_bytes(foreign(TENSORS | STATES, {"version": 1, "spec": {"name": "LSTM", "units": 4}}))
    spec, params, state = jlstm.load(path)
    assert spec == SPEC
    same_bits((params, state), (PARAMS, STATE))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a whole safetensors file, got a damaged one"),
        (b"\x08\0\0", "a whole safetensors file"),
        (b"PK\x03\x04 a zip archive", "a safetensors file with a header of at most 4194304 bytes, got "),
        (foreign(TENSORS, ABOUT)[:-1], "a whole safetensors file"),
        (foreign(TENSORS, ABOUT)[:200], "a whole safetensors file"),
        (foreign(TENSORS, ABOUT) + b"\0", "a whole safetensors file"),
        (foreign({"weight_ih_l0": np.ones((4, 3), "float32")}), "a file of jlstm.save, got one of another program, "
                                                               "with 'weight_ih_l0': jlstm.interop reads"),
        (foreign(TENSORS, format="pt"), "a file of jlstm.save"),
        (foreign({}, format="pt"), "a file of jlstm.save, got one of another program, with no tensors"),
        (foreign(TENSORS, "{"), "JSON in its metadata"),
        (foreign(TENSORS, "[" * 100_000), "JSON in its metadata, got maximum recursion depth"),
        (foreign(TENSORS, '{"version": NaN}'), "JSON in its metadata, got the number NaN"),
        (foreign(TENSORS, '{"version": ' + "9" * 5000 + "}"), "JSON in its metadata, got an integer of 5000 digits"),
        (foreign(TENSORS, "7"), "of format version 1, got None"),
        (foreign(TENSORS, ABOUT | {"version": 2}), "of format version 1, got 2: it needs a newer jlstm"),
        (foreign(TENSORS, ABOUT | {"version": 0}), "of format version 1, got 0$"),
        (foreign(TENSORS, ABOUT | {"version": True}), "of format version 1, got True$"),
        (foreign(TENSORS, ABOUT | {"version": "1"}), "of format version 1, got '1'"),
        (foreign(TENSORS, {"version": 1}), "a spec that jlstm can make, got an error: a spec must be a mapping"),
        (foreign(TENSORS, ABOUT | {"spec": {"name": "GRU"}}), "a spec .*: name must be one of 'LSTM', .* got 'GRU'"),
        (foreign(TENSORS, ABOUT | {"spec": {"name": "LSTM"}}), "a spec .*: units must be given"),
        (foreign(TENSORS, ABOUT | {"spec": {"name": "LSTM", "units": 4.5}}), "a spec .*: units must be a positive"),
        (foreign(TENSORS, ABOUT | {"spec": {"name": "LSTM", "units": 4, "dropout": 1}}), "a spec .*: dropout must be"),
        (foreign(TENSORS, ABOUT | {"spec": {"name": "LSTM", "units": 4, "x": 1}}), "a spec .*: a field of LSTM must"),
        (foreign(TENSORS, ABOUT | {"dtypes": ["float32"]}), "a table of dtypes"),
        (foreign(TENSORS, ABOUT | {"dtypes": {"params/other": "float32"}}), "dtypes of its tensors, got one of "),
        (foreign(TENSORS, ABOUT | {"extra": 1}), "version, spec and dtypes in its metadata, got 'extra'"),
        (foreign(without("params/bias"), ABOUT), "the tensors of its spec, 'params/kernel', .*, got 'params/bias' mis"),
        (foreign(without("params/kernel"), ABOUT), "the tensors of its spec, .*, got 'params/kernel' missing"),
        (foreign(TENSORS | {"params/other": np.ones(2)}, ABOUT), "the tensors .*, got 'params/other' beyond them"),
        (foreign(TENSORS | {"state/h": STATES["state/h"]}, ABOUT), "the tensors .*, got 'state/c' missing"),
        (foreign(TENSORS | {"params/kernel": np.ones((3, 20), "float32")}, ABOUT),
         r"params/kernel of shape \[3, 16\], got \[3, 20\]"),
        (foreign(TENSORS | {"params/kernel": np.ones(3, "float32")}, ABOUT),
         r"params/kernel of shape \[3, 16\], got \[3\]"),
        (foreign(TENSORS | {"params/kernel": np.asarray(np.float32(1))}, ABOUT),
         r"params/kernel of shape \[0, 16\], got \[\]"),
        (foreign(TENSORS | STATES | {"state/c": np.ones((3, 4), "float32")}, ABOUT),
         r"state/c of shape \[2, 4\], got \[3, 4\]"),
        (foreign(TENSORS | {"params/bias": np.ones(16, "float16")}, ABOUT), "params/bias in float32, got float16"),
        (foreign(TENSORS | {"params/bias": np.ones(16, "int32")}, ABOUT), "params/bias in float32, got I32"),
        (foreign(TENSORS | {"params/bias": np.ones(16, "int32")}, ABOUT | {"dtypes": {"params/bias": "I32"}}),
         "params/bias in I32, got I32"),
        (foreign(TENSORS | STATES | {"state/c": np.ones((2, 4), "float16")}, ABOUT), "state/c in float32, got float16"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_ours(path, content, message):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^.*model\.safetensors must (be|have|hold) {message}") as caught:
        jlstm.load(path)
    assert len(str(caught.value)) < 1000  # whatever the file holds


def test_a_deep_nest_of_stacks(path):
    spec = '{"name": "Stack", "layers": [' * 2000 + '{"name": "LSTM", "units": 4}' + "]}" * 2000
    path.write_bytes(foreign(TENSORS, f'{{"version": 1, "spec": {spec}}}'))
    with pytest.raises(ValueError, match=r"model\.safetensors must .* recursion"):
        jlstm.load(path)


def test_what_cannot_be_opened(path, tmp_path):
    with pytest.raises(FileNotFoundError):
        jlstm.load(path)
    with pytest.raises(ValueError, match="must be a file, got something else"):
        jlstm.load(tmp_path)
    os.mkfifo(path)  # whoever opens one waits for a writer
    with pytest.raises(ValueError, match="must be a file, got something else"):
        jlstm.load(path)


def test_is_own(path):
    jlstm.save(path, SPEC, PARAMS)
    assert files.is_own(path)
    path.write_bytes(foreign(TENSORS, ABOUT | {"version": 99}))
    assert files.is_own(path)
    path.write_bytes(foreign(TENSORS, format="pt"))
    assert not files.is_own(path)
    path.write_bytes(foreign(TENSORS)[:9])
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        files.is_own(path)


def test_without_safetensors(path, monkeypatch):
    jlstm.save(path, SPEC, PARAMS)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (lambda: jlstm.load(path), lambda: jlstm.save(path, SPEC, PARAMS)):
        with pytest.raises(ImportError, match=r"not installed: pip install 'jlstm\[interop\]'"):
            call()
