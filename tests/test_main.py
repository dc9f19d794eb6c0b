"""The command line: what it prints, where, its exit status, and that no failure leaves a traceback or half a file."""

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import cases
import jax
import numpy as np
import pytest
import safetensors.numpy
from jax import export

import jlstm
from jlstm import LSTM, __main__, doctor
from jlstm.backends import library
from jlstm.paths import flatten

SPEC = LSTM(4, return_sequences=True)
PARAMS = SPEC.init(jax.random.key(0), 3)
STATE = SPEC.initial_state(2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jlstm.save("model.safetensors", SPEC, PARAMS, STATE)
    (tmp_path / "spec.json").write_text(json.dumps(SPEC.to_dict()))
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command in this process: its exit status, and the lines of stdout and of stderr."""

    def run(line):
        try:
            status = __main__.main(line.split())
        except SystemExit as exit:
            status = exit.code
        told = capsys.readouterr()
        return status, told.out.splitlines(), told.err.splitlines()

    return run


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_tells_versions_devices_and_backends():
    done = subprocess.run([sys.executable, "-m", "jlstm", "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith("backend"))
    assert told["jax"] == importlib.metadata.version("jax")
    assert "cpu:0" in told["devices"]
    assert any(line.startswith("backend cpu") for line in done.stdout.splitlines())


def test_doctor_says_why_the_kernel_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(library, "unavailable", lambda: "the processor lacks AVX2 and FMA")
    assert __main__.main(["doctor"]) == 0
    assert "backend cpu       no: the processor lacks AVX2 and FMA" in capsys.readouterr().out


def test_doctor_says_what_is_missing_and_how_to_get_it(monkeypatch, run):
    found = importlib.metadata.version

    def version(name):
        if name in ("flax", "jaxlib"):
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(jax, "devices", lambda: (_ for _ in ()).throw(RuntimeError("no\nTPU")))
    status, lines, _ = run("doctor")
    assert status == 0
    assert "flax              not installed (jlstm.nnx): pip install 'jlstm[flax]'" in lines
    assert "jaxlib            missing" in lines
    assert "devices           none: no TPU" in lines


def test_what_doctor_advises_is_what_the_package_declares():
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    extras = tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"]
    for name, (_, command) in doctor.OPTIONAL.items():
        if "jlstm[" in command:
            extra = command.partition("[")[2].partition("]")[0]
            assert any(requirement.startswith(f"{name}>") for requirement in extras[extra]), (name, extra)


# --- explain ---------------------------------------------------------------------------------------------------------


def test_explain_prints_what_explain_tells(run):
    spec = jlstm.Stack((jlstm.Bidirectional(LSTM(3, return_sequences=True)), jlstm.Bidirectional(LSTM(3))))
    status, out, err = run("explain --units 3 --input-size 2 --timesteps 4 --bidirectional --layers 2")
    assert (status, err) == (0, [])
    assert out == str(jlstm.explain(spec, 2, 4)).splitlines()
    status, out, _ = run("explain --units 3 --input-size 2 --batch-size 5 --return-sequences --go-backwards --json")
    expected = jlstm.explain(LSTM(3, return_sequences=True, go_backwards=True), 2, None, 5).data
    assert json.loads("\n".join(out)) == expected


def test_explain_writes_a_page_and_replaces_none(run, folder):
    line = "explain --spec spec.json --input-size 3 --html page.html"
    assert run(line) == (0, [f"page.html: {SPEC!r}"], [])
    page = (folder / "page.html").read_text()
    assert "4·(N·(D + N) + N) = 4·(4·(3 + 4) + 4) = 128" in page
    (folder / "page.html").write_text("mine")
    status, out, err = run(line)
    assert (status, out) == (1, [])
    assert "page.html must not exist without --force" in err[0]
    assert (folder / "page.html").read_text() == "mine"
    assert run(line + " --force")[0] == 0
    assert (folder / "page.html").read_text() == page


def test_explain_writes_a_page_and_prints_json_beside_it(run, folder):
    status, out, err = run("explain --units 3 --input-size 2 --html page.html --json")
    assert (status, err) == (0, [])
    assert json.loads("\n".join(out)) == jlstm.explain(LSTM(3), 2).data
    assert "<h1>LSTM(3)</h1>" in (folder / "page.html").read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("explain --input-size 2", "one of the arguments --units --spec is required"),
        ("explain --units 3", "the following arguments are required: --input-size"),
        ("explain --units 0 --input-size 2", "argument --units: must be a positive integer, got 0"),
        ("explain --spec spec.json --input-size 2 --layers 2", "--layers go with --units, not --spec"),
    ],
)
def test_explain_called_wrongly(run, folder, line, message):
    status, out, err = run(line)
    assert (status, out) == (2, [])
    assert message in err[-1]


# --- convert ---------------------------------------------------------------------------------------------------------


def test_convert_keeps_all_that_the_target_holds(folder, run):
    status, out, err = run("convert model.safetensors copy.safetensors")
    assert (status, out, err) == (0, ["copy.safetensors: LSTM(4, return_sequences=True)"], [])
    spec, params, state = jlstm.load("copy.safetensors")
    assert spec == SPEC
    cases.same_bits((params, state), (PARAMS, STATE))


def test_convert_replaces_a_file_only_by_force(folder, run):
    (folder / "other.safetensors").write_bytes(b"precious")
    status, out, err = run("convert model.safetensors other.safetensors")
    assert (status, out) == (1, [])
    assert err == ["python -m jlstm convert: error: other.safetensors must not exist without --force, got a file"]
    assert (folder / "other.safetensors").read_bytes() == b"precious"
    assert run("convert model.safetensors other.safetensors --force")[0] == 0
    assert jlstm.load("other.safetensors")[0] == SPEC


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("convert none.safetensors copy.safetensors", "No such file or directory: 'none.safetensors'"),
        ("convert damaged.safetensors copy.safetensors", "damaged.safetensors must be a whole safetensors file"),
        ("convert model.safetensors none/copy.safetensors", "No such file or directory: 'none/copy.safetensors'"),
        ("convert model.safetensors folder.safetensors", "folder.safetensors must be a file, got something else"),
        ("export model.safetensors folder.safetensors --force", "folder.safetensors must be a file, got something el"),
        ("convert model.safetensors copy.safetensors --prefix rnn.", "prefix must be left out for model.safetensors"),
        ("export model.safetensors model.safetensors", "model.safetensors must not exist without --force"),
        ("export model.safetensors out.bin --platforms cpu,gpu", "platforms must be one of 'cpu', 'cuda', 'tpu'"),
        ("export damaged.json out.bin --input-size 3", "damaged.json must be JSON, got "),
        ("export other.json out.bin --input-size 3", "other.json must hold a spec, got an error: name must be one of"),
    ],
)
def test_a_failure_is_one_line_and_leaves_no_file(folder, run, line, message):
    (folder / "damaged.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-4])
    (folder / "folder.safetensors").mkdir()
    (folder / "damaged.json").write_text("{")
    (folder / "other.json").write_text('{"name": "GRU"}')
    before = sorted(os.listdir())
    status, out, err = run(line)
    assert (status, out) == (1, [])
    assert len(err) == 1
    assert err[0].startswith(f"python -m jlstm {line.split()[0]}: error: ")
    assert message in err[0]
    assert sorted(os.listdir()) == before


def test_a_failure_that_nobody_foresaw_is_one_line_too(folder, run, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(__main__, "convert", broken)
    status, _, err = run("convert model.safetensors copy.safetensors")
    assert (status, err) == (1, ["python -m jlstm convert: error: ZeroDivisionError: by zero"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("melt", "invalid choice: 'melt'"),
        ("convert model.safetensors", "the following arguments are required: TARGET"),
        ("convert model.txt copy.safetensors", "model.txt must have one of the extensions .safetensors, .onnx, .keras"),
        ("convert model.safetensors copy.weights.h5", "to write it"),
        ("convert model.safetensors copy.safetensors --layers lstm", "--layers is not for a file of jlstm"),
        ("export spec.json out.bin", "--input-size is needed with a spec"),
        ("export spec.json out.bin --input-size 3 --frozen", "--frozen needs a model: a spec holds no weights"),
        ("export spec.json out.bin --input-size 0", "must be a positive integer, got 0"),
        ("export model.safetensors out.bin --input-size 3", "--input-size is needed with a spec, and not with a model"),
        ("export model.safetensors out.bin --step --padding mask", "--padding is for whole sequences"),
        ("export model.safetensors out.bin --padding zeros", "invalid choice: 'zeros'"),
    ],
)
def test_wrong_usage(folder, run, line, message):
    status, out, err = run(line)
    assert (status, out) == (2, [])
    assert err[0].startswith("usage: python -m jlstm")
    assert message in err[-1]


def test_help_names_every_command(run):
    status, out, err = run("--help")
    assert (status, err) == (0, [])
    for command in ("doctor", "convert", "export"):
        assert any(line.split()[:1] == [command] for line in out)
    for platform in (*jlstm.export.PLATFORMS, "rocm"):
        assert platform in " ".join(run("export --help")[1])


def test_as_a_process_there_is_no_traceback(tmp_path):
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04\x95\x10\0\0\0\0\0\0\0cos\nsystem\n")
    files = [str(tmp_path / name) for name in ("pickle.safetensors", "copy.safetensors")]
    command = [sys.executable, "-W", "error", "-m", "jlstm", "convert", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"python -m jlstm convert: error: {files[0]} must be a safetensors file")
    assert done.stderr.count("\n") == 1


# --- a result that cannot be printed ---------------------------------------------------------------------------------


def printing_to(file, line, monkeypatch):
    """The exit status of a command whose stdout is this file, which closes without an error afterwards."""
    with file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        return __main__.main(line.split())


def test_a_name_that_stdout_cannot_write_is_escaped(folder, monkeypatch):
    file = open("told.txt", "w", encoding="ascii")  # noqa: SIM115  # printing_to closes it
    assert printing_to(file, "convert model.safetensors é.safetensors", monkeypatch) == 0
    assert (folder / "told.txt").read_text() == f"\\xe9.safetensors: {SPEC!r}\n"
    assert jlstm.load("é.safetensors")[0] == SPEC


@pytest.mark.parametrize("line", ["doctor", "convert model.safetensors copy.safetensors"])
def test_a_reader_that_has_gone_is_no_error(folder, capsys, monkeypatch, line):
    reading, writing = os.pipe()
    os.close(reading)
    assert printing_to(os.fdopen(writing, "w"), line, monkeypatch) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
@pytest.mark.parametrize(("line", "status"), [("doctor", 1), ("convert model.safetensors copy.safetensors", 0)])
def test_a_file_that_was_written_is_a_success_though_stdout_is_full(folder, capsys, monkeypatch, line, status):
    file = open("/dev/full", "w")  # noqa: SIM115  # printing_to closes it
    assert printing_to(file, line, monkeypatch) == status
    told = f"python -m jlstm {line.split()[0]}: error: the result could not be printed: No space left on device\n"
    assert capsys.readouterr().err == told
    assert os.path.exists("copy.safetensors") == (line != "doctor")


# --- export ----------------------------------------------------------------------------------------------------------


def artifact(name):
    with open(name, "rb") as file:
        return export.deserialize(file.read())


def test_export_of_sequences(folder, run):
    status, out, err = run("export model.safetensors out.bin --padding lengths --reset")
    assert (status, err) == (0, [])
    assert out == [f"out.bin: call(params, state, x, lengths=, reset=) of {SPEC!r}, for cpu, cuda, tpu"]
    x, lengths = cases.array(cases.inputs(1, 2, 5, 3)), np.array([5, 2], "int32")
    reset = cases.bools(2, 2, 5)
    tensors = safetensors.numpy.load_file("model.safetensors")  # what a reader without jlstm does
    params, state = (
        {name.removeprefix(kind): a for name, a in tensors.items() if name.startswith(kind)}
        for kind in ("params/", "state/")
    )
    got = artifact("out.bin").call(params, state, x, lengths=lengths, reset=reset)
    expected, y = SPEC.apply(PARAMS, STATE, x, lengths=lengths, reset=reset)
    cases.close(got, (flatten(expected), y), **cases.SAME)


def test_export_of_a_frozen_step(folder, run):
    assert run("export model.safetensors out.bin --step --frozen --platforms cpu")[0] == 0
    x = cases.array(cases.inputs(1, 2, 3))
    made = artifact("out.bin")
    assert made.platforms == ("cpu",)
    expected, y = SPEC.step(PARAMS, STATE, x)
    cases.close(made.call(flatten(STATE), x), (flatten(expected), y), **cases.SAME)


def test_export_of_a_spec_takes_any_weights(folder, run):
    (folder / "spec.toml").write_text('name = "LSTM"\nunits = 4\nreturn_sequences = true\n')
    for name in ("spec.json", "spec.toml"):
        assert run(f"export {name} out.bin --input-size 3 --platforms cpu --force")[0] == 0
        assert artifact("out.bin").in_avals[1].shape == (3, 16)  # bias, kernel
