"""Files: round trips, what is refused and in which words, and that a reader never meets half a file."""

import json
import math
import os
import stat

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import test_spec
from cases import same_bits
from hypothesis import given
from hypothesis import strategies as st

import jlstm
from jlstm import LSTM, Bidirectional, Directions, LSTMParams, LSTMState, Stack, Variant, files
from jlstm.paths import params_like, state_like

SPEC = LSTM(4)
PARAMS = SPEC.init(jax.random.key(0), 3)
STATE = LSTMState(h=jnp.full((2, 4), 0.5), c=jnp.full((2, 4), -2.0))
NESTED = Stack((Bidirectional(LSTM(3, return_sequences=True)), LSTM(2, use_bias=False)))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def random(like, seed=0):
    """Arrays of the shapes and dtypes of a tree, drawn by NumPy as raw bits, NaNs and infinities among them."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        dtype = np.dtype(leaf.dtype)
        raw = rng.integers(0, 256, math.prod(leaf.shape) * dtype.itemsize, "uint8")
        return jnp.asarray(raw.view(dtype).reshape(leaf.shape))

    return jax.tree.map(draw, like)


def bits(tree):
    return jax.tree.map(lambda a: (a.dtype.name, a.shape, np.asarray(a).tobytes()), tree)


# --- round trips -----------------------------------------------------------------------------------------------------


@given(test_spec.specs, st.integers(1, 3), st.booleans())
def test_any_spec_comes_back_with_its_bits(tmp_path_factory, spec, size, with_state):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    like = params_like(spec, size)
    if any(leaf.dtype == "float64" for leaf in jax.tree.leaves(like)):  # 64 bits are off: it could not be loaded
        with pytest.raises(ValueError, match="must be at most 32 bits wide unless jax_enable_x64 is on"):
            jlstm.save(path, spec, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like))
        return
    params = random(like)
    state = random(state_like(spec, 2, "bfloat16")) if with_state else None
    jlstm.save(path, spec, params, state)
    got = jlstm.load(path)
    assert got[0] == spec
    assert bits(got[1:]) == bits((params, state))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got[1:]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("declared", [True, False])
def test_every_dtype_round_trips(path, dtype, declared):
    spec = LSTM(4, param_dtype=dtype if declared else "float32")
    params, state = random(params_like(LSTM(4, param_dtype=dtype), 3)), random(state_like(spec, 2, dtype))
    jlstm.save(path, spec, params, state)
    back, loaded, loaded_state = jlstm.load(path)
    assert back == spec
    assert bits((loaded, loaded_state)) == bits((params, state))


def test_float64_where_it_is_enabled(path):
    with jax.enable_x64(True):
        spec = LSTM(2, param_dtype="float64")
        params = random(params_like(spec, 3))
        jlstm.save(path, spec, params, spec.initial_state(1))
        assert bits(jlstm.load(path)[1]) == bits(params)
    with pytest.raises(ValueError, match=r"the dtype of params/kernel must be at most 32 bits wide .*, got float64"):
        jlstm.load(path)


def test_what_is_in_a_file(path):
    """By the safetensors library alone, as any other program reads it."""
    state = Directions(STATE, LSTMState(h=STATE.h + 1, c=STATE.c + 1))
    spec = Bidirectional(LSTM(4), LSTM(4, go_backwards=True, variant=Variant(peephole=True)))
    params = spec.init(jax.random.key(0), 3)
    jlstm.save(path, spec, params, state)
    tensors = safetensors.numpy.load_file(path)
    assert sorted(tensors) == [
        "params/backward/bias",
        "params/backward/kernel",
        "params/backward/peephole",
        "params/backward/recurrent_kernel",
        "params/forward/bias",
        "params/forward/kernel",
        "params/forward/recurrent_kernel",
        "state/backward/c",
        "state/backward/h",
        "state/forward/c",
        "state/forward/h",
    ]
    np.testing.assert_array_equal(tensors["params/forward/kernel"], params.forward.kernel)
    np.testing.assert_array_equal(tensors["state/backward/c"], np.full((2, 4), -1, "float32"))
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata().keys() == {"jlstm"}
        about = json.loads(file.metadata()["jlstm"])
    assert about == {"version": 1, "spec": spec.to_dict()}


def test_the_same_twice_is_the_same_file(path, tmp_path):
    jlstm.save(path, NESTED, random(params_like(NESTED, 3)))
    again = tmp_path / "again.safetensors"
    jlstm.save(str(again), NESTED, random(params_like(NESTED, 3)))
    assert path.read_bytes() == again.read_bytes()


def test_numpy_arrays_and_other_memory_orders(path):
    params = jax.tree.map(lambda a: np.asfortranarray(np.asarray(a)), PARAMS)
    jlstm.save(path, SPEC, params)
    same_bits(jlstm.load(path)[1], PARAMS)


def test_no_rows_and_no_inputs(path):
    params = LSTMParams(jnp.zeros((0, 8)), jnp.ones((2, 8)), jnp.ones(8))
    jlstm.save(path, LSTM(2), params, LSTM(2).initial_state(0))
    _, loaded, state = jlstm.load(path)
    assert loaded.kernel.shape == (0, 8)
    assert state.h.shape == (0, 2)


@given(test_spec.specs, st.integers(1, 3))
def test_shapes_are_those_of_init(spec, size):
    if any(leaf.dtype == "float64" for leaf in jax.tree.leaves(params_like(spec, size))):
        return  # init refuses it
    try:
        made = jax.eval_shape(lambda key: spec.init(key, size), jax.random.key(0))
    except ValueError as error:  # an initializer that takes another shape
        assert "must initialise" in str(error)  # noqa: PT017
        return
    assert jax.tree.map(lambda a: (a.shape, a.dtype), made) == jax.tree.map(
        lambda a: (a.shape, a.dtype), params_like(spec, size)
    )
    state = jax.eval_shape(lambda: spec.initial_state(5, "float16"))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == jax.tree.map(
        lambda a: (a.shape, a.dtype), state_like(spec, 5, "float16")
    )


# --- what save refuses -----------------------------------------------------------------------------------------------


def test_a_bare_callable_is_named(path):
    with pytest.raises(TypeError, match=r"^LSTM\.activation must be a name or a value of .*, got <function"):
        jlstm.save(path, LSTM(4, activation=lambda x: x), PARAMS)
    nested = Stack((LSTM(3, return_sequences=True), LSTM(4, bias_initializer=jax.nn.initializers.zeros)))
    with pytest.raises(TypeError, match=r"^LSTM\.bias_initializer must be a name"):
        jlstm.save(path, nested, nested.init(jax.random.key(0), 2))
    assert not path.exists()


@pytest.mark.parametrize(
    ("params", "state", "error", "message"),
    [
        (None, None, TypeError, "params must be as the spec makes them, LSTMParams of kernel, recurrent_kernel, bias, "
                                "got NoneType of nothing"),
        ({"kernel": 1}, None, TypeError, "params must be .*, got dict of kernel"),
        (LSTMParams(PARAMS.kernel, PARAMS.recurrent_kernel), None, TypeError,
         "params must be .*, got LSTMParams of kernel, recurrent_kernel"),
        (LSTM(5).init(jax.random.key(0), 3), None, ValueError,
         r"params/kernel must have shape \[3, 16\], got \[3, 20\]"),
        (jax.tree.map(lambda a: a.tolist(), PARAMS), None, TypeError, "params must be "),
        (jax.tree.map(lambda a: a.astype(int), PARAMS), None, TypeError,
         "params/kernel must be one of the dtypes float16, bfloat16, float32, float64, got "),
        (jax.tree.map(lambda a: a.astype(ml_dtypes.float8_e4m3fn), PARAMS), None, TypeError, "params/kernel must be"),
        (LSTMParams(1.5, 2.5, 3.5), None, TypeError, r"params/kernel must be an array of shape \[0, 16\], got 1.5"),
        (params_like(SPEC, 3), None, TypeError, r"params/kernel must be an array of shape \[3, 16\], got Shape"),
        (PARAMS, (STATE.h, STATE.c), TypeError, "state must be as the spec makes them, LSTMState of h, c, got tuple"),
        (PARAMS, LSTMState(STATE.h, STATE.c[:1]), ValueError, r"state/c must have shape \[2, 4\], got \[1, 4\]"),
        (PARAMS, LSTMState(STATE.h[0], STATE.c[0]), ValueError, r"state/h must have shape \[4, 4\], got \[4\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_spec(path, params, state, error, message):
    with pytest.raises(error, match=f"^{message}"):
        jlstm.save(path, SPEC, params, state)
    assert not path.exists()
    with pytest.raises(TypeError, match=r"^spec must be LSTM or Bidirectional or Stack, got "):
        jlstm.save(path, {"name": "LSTM"}, PARAMS)


def test_a_layer_of_a_stack_that_reads_another_width(path):
    params = NESTED.init(jax.random.key(0), 3)
    wrong = (params[0], LSTM(2, use_bias=False).init(jax.random.key(0), 3))
    with pytest.raises(ValueError, match=r"^params/1/kernel must have shape \[6, 8\], got \[3, 8\]"):
        jlstm.save(path, NESTED, wrong)


def test_more_layers_than_a_header_holds(path, monkeypatch):
    monkeypatch.setattr(files, "MAX_HEADER", 500)
    with pytest.raises(ValueError, match="must fit into a header of 500 bytes"):
        jlstm.save(path, SPEC, PARAMS)


# --- whole or not there ----------------------------------------------------------------------------------------------


def test_an_existing_file_survives_a_failed_save(path, monkeypatch):
    jlstm.save(path, SPEC, PARAMS)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*/model\.safetensors'$"):
            jlstm.save(path, LSTM(5), LSTM(5).init(jax.random.key(0), 2))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]  # no leftovers
    jlstm.save(path, LSTM(5), LSTM(5).init(jax.random.key(0), 2))
    assert jlstm.load(path)[0] == LSTM(5)


def test_it_is_on_the_disk_before_it_takes_the_name(path, monkeypatch):
    """The order of calls: fsync of the temporary file in the same folder, then the rename."""
    calls = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(("fsync", os.fstat(fd).st_ino)), fsync(fd))[1])
    monkeypatch.setattr(
        os, "replace", lambda a, b: (calls.append(("replace", os.stat(a).st_ino, os.fspath(a))), rename(a, b))[1]
    )
    jlstm.save(path, SPEC, PARAMS)
    (_, synced), (_, renamed, temporary) = calls
    assert synced == renamed == path.stat().st_ino
    assert os.path.dirname(temporary) == str(path.parent)


def test_a_link_and_a_mode_stay(path, tmp_path):
    jlstm.save(path, SPEC, PARAMS)
    path.chmod(0o600)
    link = tmp_path / "link.safetensors"
    link.symlink_to(path)
    jlstm.save(link, LSTM(5), LSTM(5).init(jax.random.key(0), 2))
    assert link.is_symlink()
    assert jlstm.load(path)[0] == LSTM(5)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_only_a_file_is_replaced(path, tmp_path):
    os.mkfifo(path)
    link = tmp_path / "link.safetensors"
    link.symlink_to(path)
    for target in (path, link, tmp_path):
        with pytest.raises(ValueError, match=rf"^{target} must be a file, got something else"):
            jlstm.save(target, SPEC, PARAMS)
    assert stat.S_ISFIFO(path.stat().st_mode)
    for name in ("", f"{tmp_path}/none/"):
        with pytest.raises(ValueError, match=f"^path must end in the name of a file, got '{name}'"):
            jlstm.save(name, SPEC, PARAMS)
    assert sorted(os.listdir(tmp_path)) == [link.name, path.name]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("none/model.safetensors", FileNotFoundError),
        ("file/model.safetensors", NotADirectoryError),
        ("x" * 300, OSError),
    ],
)
def test_an_error_of_the_disk_names_the_file(tmp_path, name, error):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(error) as caught:
        jlstm.save(tmp_path / name, SPEC, PARAMS)
    assert caught.value.filename == str(tmp_path / name)
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_about_another_file_keeps_its_name(path, tmp_path):
    with pytest.raises(FileNotFoundError) as caught, files.replacing(path):
        open(tmp_path / "other")  # noqa: SIM115  # it is not there
    assert caught.value.filename == str(tmp_path / "other")


def test_a_name_may_be_as_long_as_the_disk_takes(tmp_path):
    path = tmp_path / ("model." + "x" * 249)
    jlstm.save(path, SPEC, PARAMS)
    assert jlstm.load(path)[0] == SPEC


def test_a_new_file_has_the_usual_mode(path, tmp_path):
    jlstm.save(path, SPEC, PARAMS)
    (tmp_path / "other").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
