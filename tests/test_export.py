"""Artifacts: read and run by a process without jlstm, for every platform, and what a user's own jax.export does."""

import functools
import re
import subprocess
import sys
from dataclasses import replace

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import safetensors.numpy
from jax import export

import jlstm
from jlstm import LSTM, Bidirectional, LSTMState, Stack, Variant
from jlstm.paths import flatten

D, N = 3, 4
SEQUENCES = LSTM(N, return_sequences=True)
WEIGHTS = cases.weights(0, D, N)
PARAMS = cases.params(WEIGHTS)
SPECS = {
    "LSTM": LSTM(N, return_sequences=True, zero_output_for_mask=True),
    "all options that the scan alone can serve": LSTM(
        N, go_backwards=True, unroll=True, remat_every=2, variant=Variant(peephole=True, projection=2, preact_clip=1.0)
    ),
    "Bidirectional": Bidirectional(LSTM(N, return_sequences=True, backend="cpu"), merge_mode=None),
    "Stack": Stack((Bidirectional(LSTM(N, return_sequences=True)), LSTM(2, use_bias=False, unroll=2)), dropout=0.5),
}


def draw(spec):
    """Params, a state, x and lengths of a spec, all different."""
    params = spec.init(jax.random.key(0), D)
    leaves, tree = jax.tree.flatten((params, spec.initial_state(2)))
    leaves = [cases.array(cases.inputs(n, *leaf.shape)) * 0.5 for n, leaf in enumerate(leaves)]
    return *tree.unflatten(leaves), cases.array(cases.inputs(99, 2, 5, D)), jnp.array([5, 3], jnp.int32)


@pytest.fixture(scope="module")
def artifacts():
    return {name: jlstm.export.sequence(spec, draw(spec)[0], padding="lengths") for name, spec in SPECS.items()}


@pytest.fixture(params=SPECS)
def exported(request, artifacts):
    return SPECS[request.param], artifacts[request.param]


# --- numbers, here ---------------------------------------------------------------------------------------------------


def test_sequence_agrees_with_numpy():
    run = jlstm.export.sequence(SEQUENCES, PARAMS, padding="mask", reset=True)
    for B, T in ((2, 5), (1, 1)):  # one artifact, any batch size and number of steps
        x, (h, c) = cases.inputs(1, B, T, D), cases.state(2, B, N)
        mask, reset = cases.bools(3, B, T), cases.bools(4, B, T, p=0.3)
        (h1, c1), y = reference.lstm(WEIGHTS, (h, c), x, mask=mask, reset=reset)
        state, got = run.call(
            flatten(PARAMS),
            {"h": cases.array(h), "c": cases.array(c)},
            cases.array(x),
            mask=jnp.asarray(mask),
            reset=jnp.asarray(reset),
        )
        cases.close((state["h"], state["c"], got), (h1, c1, y), **cases.F32)


def test_step_agrees_with_numpy():
    run = jlstm.export.step(SEQUENCES, PARAMS, reset=True)
    x, (h, c) = cases.inputs(1, 2, 1, D), cases.state(2, 2, N)
    reset = np.array([True, False])
    (h1, c1), y = reference.lstm(WEIGHTS, (h, c), x, reset=reset[:, None])
    state, got = run.call(
        flatten(PARAMS),
        {"h": cases.array(h), "c": cases.array(c)},
        cases.array(x[:, 0]),
        reset=jnp.asarray(reset),
    )
    cases.close((state["h"], state["c"], got), (h1, c1, y[:, 0]), **cases.F32)


def by_scan(spec):
    """The same layer with every LSTM of backend "xla"."""
    if isinstance(spec, Bidirectional):
        return replace(spec, forward=by_scan(spec.forward), backward=by_scan(spec.backward))
    if isinstance(spec, Stack):
        return replace(spec, layers=tuple(map(by_scan, spec.layers)))
    return replace(spec, backend="xla")


@functools.cache
def layer_here(spec):
    """What the layer gives in this process, by lax.scan."""
    params, state, x, lengths = draw(spec)
    return jax.jit(by_scan(spec).apply)(params, state, x, lengths=lengths)


def test_a_step_of_a_stack():
    spec = Stack((SEQUENCES, Stack((LSTM(2, activation="relu"),))))
    params, state, x, _ = draw(spec)
    run = jlstm.export.step(spec, params, reset=True)
    reset = jnp.array([False, True])
    expected, y = spec.step(params, state, x[:, 0], reset=reset)
    got = run.call(flatten(params), flatten(state), x[:, 0], reset=reset)
    assert sorted(got[0]) == ["0/c", "0/h", "1/0/c", "1/0/h"]
    cases.close(got, (flatten(expected), y), **cases.SAME)


def test_the_artifact_is_the_layer(exported):
    spec, run = exported
    params, state, x, lengths = draw(spec)
    expected, y = layer_here(spec)
    got, got_y = run.call(flatten(params), flatten(state), x, lengths=lengths)
    cases.close(got, flatten(expected), **cases.SAME)
    cases.close(got_y, y, **cases.SAME)


def test_weights_as_arguments_serve_any_weights_and_shapes_suffice():
    shapes = jax.eval_shape(lambda key: SEQUENCES.init(key, D), jax.random.key(0))
    run = jlstm.export.sequence(SEQUENCES, shapes)
    state, x = flatten(SEQUENCES.initial_state(2)), cases.array(cases.inputs(1, 2, 3, D))
    for seed in (0, 1):
        weights = cases.weights(seed, D, N)
        _, y = reference.lstm(weights, [np.zeros((2, N))] * 2, np.asarray(x, "float64"))
        np.testing.assert_allclose(run.call(flatten(cases.params(weights)), state, x)[1], y, **cases.F32)


@pytest.mark.parametrize("method", ["sequence", "step"])
def test_frozen_weights_are_in_it(method):
    run = getattr(jlstm.export, method)(SEQUENCES, PARAMS, frozen=True)
    x = cases.inputs(1, 2, 1, D)
    _, y = reference.lstm(WEIGHTS, [np.zeros((2, N))] * 2, x)
    got = run.call(flatten(SEQUENCES.initial_state(2)), cases.array(x if method == "sequence" else x[:, 0]))[1]
    np.testing.assert_allclose(got.reshape(2, N), y[:, 0], **cases.F32)
    assert len(run.in_avals) == 3  # h, c, x


def test_other_dtypes():
    spec = LSTM(N, param_dtype="bfloat16", dtype="bfloat16")
    params = spec.init(jax.random.key(0), D)
    run = jlstm.export.sequence(spec, params, dtype="float16")
    by_name = {str(a.dtype) for a in run.in_avals}
    assert by_name == {"bfloat16", "float32", "float16"}  # weights, state, x
    assert [str(a.dtype) for a in run.out_avals] == ["float32", "float32", "bfloat16"]


# --- what is in it ---------------------------------------------------------------------------------------------------


def test_names_are_those_of_a_file(tmp_path):
    spec = SPECS["Stack"]
    params, state, x, _ = draw(spec)
    path = tmp_path / "model.safetensors"
    jlstm.save(path, spec, params, state)
    tensors = safetensors.numpy.load_file(path)

    def of(kind):
        return {name.removeprefix(kind): a for name, a in tensors.items() if name.startswith(kind)}

    run = jlstm.export.sequence(spec, params, platforms=["cpu"])
    new, _ = run.call(of("params/"), of("state/"), x)
    assert new.keys() == of("state/").keys()


def test_it_holds_the_scan_for_every_platform_and_no_call_of_ours(exported):
    _, run = exported
    assert run.platforms == ("cpu", "cuda", "tpu")
    assert "stablehlo.while" in run.mlir_module()
    assert "custom_call" not in re.sub(r"custom_call @(shape_assertion|Sharding)", "", run.mlir_module())
    back = export.deserialize(jlstm.export.serialize(run))
    assert (back.in_tree, back.out_tree, back.platforms) == (run.in_tree, run.out_tree, run.platforms)
    assert str(back.in_avals) == str(run.in_avals)  # symbols of another scope are not equal


READER = """
import sys
import numpy as np

sys.modules["jlstm"] = None  # an import of it fails
import jax

for folder in sys.argv[1:]:
    with open(folder + "/artifact.bin", "rb") as file:
        run = jax.export.deserialize(file.read())
    given = np.load(folder + "/given.npz")

    def of(kind):
        return {name[len(kind):]: given[name] for name in given if name.startswith(kind)}

    state, y = run.call(of("params/"), of("state/"), given["x"], **of("options/"))
    y = y if isinstance(y, tuple) else (y,)
    np.savez(folder + "/got.npz", *y, **{"state/" + name: a for name, a in state.items()})
assert not any(name.startswith("jlstm.") for name in sys.modules)
"""


def test_a_process_without_jlstm_runs_it(artifacts, tmp_path):
    for n, (name, spec) in enumerate(SPECS.items()):
        folder = tmp_path / str(n)
        folder.mkdir()
        params, state, x, lengths = draw(spec)
        jlstm.export.save(folder / "artifact.bin", artifacts[name])
        given = {"x": x, "options/lengths": lengths}
        for kind, tree in (("params", params), ("state", state)):
            given |= {f"{kind}/{name}": a for name, a in flatten(tree).items()}
        np.savez(folder / "given.npz", **given)
    folders = [str(tmp_path / str(n)) for n in range(len(SPECS))]
    done = subprocess.run(
        [sys.executable, "-P", "-c", READER, *folders], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for folder, spec in zip(folders, SPECS.values(), strict=True):
        got = dict(np.load(f"{folder}/got.npz"))
        state, y = layer_here(spec)
        y = {f"arr_{n}": part for n, part in enumerate(jax.tree.leaves(y))}
        cases.close(got, y | {f"state/{name}": a for name, a in flatten(state).items()}, **cases.SAME)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jlstm.export.step(LSTM(N, go_backwards=True), PARAMS), ValueError, "go_backwards must be False"),
        (lambda: jlstm.export.step(SPECS["Bidirectional"], draw(SPECS["Bidirectional"])[0]), ValueError,
         "step must be of a layer that goes forwards only"),
        (lambda: jlstm.export.sequence(LSTM(N, go_backwards=True), PARAMS, reset=True), ValueError, "reset must be No"),
        (lambda: jlstm.export.sequence(LSTM(5), PARAMS), ValueError, r"params/kernel must have shape \[3, 20\], got"),
        (lambda: jlstm.export.sequence(SEQUENCES, flatten(PARAMS)), TypeError, "params must be as the spec makes them"),
        (lambda: jlstm.export.sequence({}, PARAMS), TypeError, "spec must be LSTM or Bidirectional or Stack"),
        (lambda: jlstm.export.sequence(SEQUENCES, PARAMS, padding="length"), ValueError, "padding must be one of None"),
        (lambda: jlstm.export.sequence(SEQUENCES, PARAMS, platforms="cpu"), TypeError, "platforms must be a sequence"),
        (lambda: jlstm.export.sequence(SEQUENCES, PARAMS, platforms=["gpu"]), ValueError, "platforms must be one of"),
        (lambda: jlstm.export.sequence(SEQUENCES, PARAMS, platforms=["cpu", "cpu"]), ValueError,
         "platforms must have each name once, got cpu, cpu"),
        (lambda: jlstm.export.sequence(SEQUENCES, PARAMS, reset=1), TypeError, "reset must be True or False, got 1"),
        (lambda: jlstm.export.step(SEQUENCES, PARAMS, reset="no"), TypeError, "reset must be True or False, got 'no'"),
        (lambda: jlstm.export.sequence(SEQUENCES, PARAMS, dtype="int32"), TypeError, "dtype must be one of"),
        (lambda: jlstm.export.sequence(SEQUENCES, jax.eval_shape(lambda: PARAMS), frozen=True), TypeError,
         r"params/kernel must be an array of shape \[3, 16\], got ShapeDtypeStruct"),
    ],
)  # fmt: skip
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()


def test_without_flatbuffers(monkeypatch):
    run = jlstm.export.step(SEQUENCES, PARAMS, platforms=["cpu"])
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match=r"flatbuffers, which is not installed: pip install 'jlstm\[export\]'"):
        jlstm.export.serialize(run)


# --- a user's own jax.export -----------------------------------------------------------------------------------------

X = jax.ShapeDtypeStruct((2, 5, D), "float32")


def own(layer):
    return jax.jit(lambda x: layer.apply(PARAMS, LSTMState(jnp.zeros((2, N)), jnp.zeros((2, N))), x)[1])


def test_of_a_layer_under_auto_is_the_scan():
    run = export.export(own(SEQUENCES), platforms=["cpu", "cuda", "tpu"])(X)
    assert "stablehlo.while" in run.mlir_module()
    assert "custom_call" not in run.mlir_module()


def test_of_the_kernel_by_name_is_refused_and_says_what_to_do():
    layer = LSTM(N, return_sequences=True, backend="cpu")
    (t,) = export.symbolic_shape("t")
    for x in (X, jax.ShapeDtypeStruct((2, t, D), "float32")):
        with pytest.raises(ValueError, match=r'^backend must be "auto" or "xla" .*, got "cpu"'):
            export.export(own(layer))(x)
