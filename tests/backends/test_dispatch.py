"""Which backend runs a call, and why not another: from the spec, the shapes, the dtypes, and what is installed."""

import ctypes
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import cases
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from both import needs_kernel

import jlstm
from jlstm import LSTM, Bidirectional, HardSigmoid, Stack, Variant
from jlstm.backends import dispatch, library

SHAPE = (4, 6, 3)


def choice(layer, shape=SHAPE, **options):
    return jlstm.which_backend(layer, shape, **options)


def jaxpr_of(layer, shape=SHAPE, dtype="float32"):
    params, state = layer.init(jax.random.key(0), shape[2]), layer.initial_state(shape[0])
    return str(jax.make_jaxpr(partial(layer.apply, params))(state, jnp.zeros(shape, dtype)))


# --- the choice -----------------------------------------------------------------------------------------------------


@needs_kernel
@pytest.mark.parametrize(
    "layer",
    [
        LSTM(5),
        LSTM(5, backend="cpu"),
        LSTM(5, activation="softsign", recurrent_activation=HardSigmoid(0.3, 0.4)),
        LSTM(5, variant=Variant(peephole=True, coupled="input", output_activation="relu")),
        LSTM(5, dropout=0.5, recurrent_dropout=0.5, go_backwards=True, unroll=True, zero_output_for_mask=True),
        LSTM(5, dtype="bfloat16"),
    ],
    ids=repr,
)
def test_the_kernel_is_chosen_and_runs(layer):
    assert choice(layer) == dispatch.Choice("cpu")
    assert str(choice(layer)) == "cpu"
    assert "jlstm_layer" in jaxpr_of(layer)


REASONS = {
    "the layer says so": (LSTM(5, backend="xla"), {}, 'the layer has backend="xla"'),
    "activation": (LSTM(5, activation="gelu"), {}, "activation 'gelu' is none of those of the kernel"),
    "a function": (LSTM(5, activation=jnp.tanh), {}, "activation .* is none of those of the kernel"),
    "recurrent activation": (
        LSTM(5, recurrent_activation="softplus"),
        {},
        "recurrent_activation 'softplus' is none of those of the kernel",
    ),
    "output activation": (
        LSTM(5, variant=Variant(output_activation="elu")),
        {},
        "variant.output_activation 'elu' is none of those of the kernel",
    ),
    "projection": (LSTM(5, use_bias=False, variant=Variant(projection=2)), {}, "the kernel has no variant.projection"),
    "clipping": (LSTM(5, variant=Variant(preact_clip=2.0)), {}, "the kernel has no variant.preact_clip"),
    "remat": (LSTM(5, remat_every=2), {}, "the kernel has no remat_every"),
    "float16": (LSTM(5), {"dtype": "float16"}, "the kernel computes in float32, .* not float16"),
    "the layer's dtype": (LSTM(5, dtype="float16"), {}, "the kernel computes in float32, .* not float16"),
    "a state in bfloat16": (LSTM(5), {"state_dtype": "bfloat16"}, "keeps the state in float32, not bfloat16"),
}


@needs_kernel
@pytest.mark.parametrize(("layer", "options", "reason"), REASONS.values(), ids=REASONS)
def test_what_the_kernel_cannot_do_goes_to_xla_with_the_reason(layer, options, reason):
    made = choice(layer, **options)
    assert made.backend == "xla"
    ((backend, why),) = made.passed_over
    assert backend == "cpu"
    assert re.search(reason, why)
    assert str(made) == f"xla; not cpu: {why}"
    if not options:
        assert "jlstm_layer" not in jaxpr_of(layer)


@needs_kernel
@pytest.mark.parametrize(("layer", "options", "reason"), list(REASONS.values())[1:], ids=list(REASONS)[1:])
def test_asked_for_by_name_it_raises_with_the_reason(layer, options, reason):
    layer = replace(layer, backend="cpu")
    with pytest.raises(ValueError, match=f'backend must be "auto" or "xla" for this call, got "cpu": .*{reason}'):
        choice(layer, **options)
    if not options:
        with pytest.raises(ValueError, match=reason):
            jaxpr_of(layer)


@needs_kernel
@pytest.mark.parametrize(
    ("units", "x_shape", "backend"),
    [
        (128, (8, 1, 32), "cpu"),
        (128, (9, 1, 32), "xla"),
        (512, (1, 1, 256), "xla"),
        (512, (4, 3, 256), "xla"),
        (512, (4, 4, 256), "cpu"),
    ],
)
def test_a_few_steps_are_left_to_xla_where_packing_the_weights_would_not_pay(units, x_shape, backend):
    made = choice(LSTM(units), x_shape)
    assert made.backend == backend
    if backend == "xla":
        assert "packing" in made.passed_over[0][1]
    assert choice(LSTM(units, backend="cpu"), x_shape).backend == "cpu"


@needs_kernel
@pytest.mark.parametrize("backend", ["auto", "cpu", "xla"])
def test_a_step_goes_by_the_backend_of_the_layer(backend):
    layer = LSTM(5, backend=backend)
    params, state = layer.init(jax.random.key(0), 3), layer.initial_state(2)
    jaxpr = str(jax.make_jaxpr(layer.step)(params, state, jnp.ones((2, 3))))
    assert ("jlstm_layer" in jaxpr) == (backend != "xla")


@needs_kernel
def test_a_symbolic_size_is_left_to_xla():
    b, t = jax.export.symbolic_shape("b, t")
    for shape in ((b, 6, 3), (4, t, 3)):
        made = dispatch.choose(LSTM(5), shape, jnp.dtype("float32"), jnp.dtype("float32"))
        assert made == dispatch.Choice("xla", (("cpu", "a size is symbolic"),))


@needs_kernel
def test_float64_is_left_to_xla():
    with jax.enable_x64(True):
        assert "not float64" in str(choice(LSTM(5), dtype="float64"))
        assert "keeps the state in float32, not float64" in str(choice(LSTM(5), state_dtype="float64"))
        assert "jlstm_layer" not in jaxpr_of(LSTM(5), dtype="float64")


@needs_kernel
def test_another_default_device_is_left_to_xla(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choice(LSTM(5)).passed_over == (("cpu", "the default device is a gpu"),)


@needs_kernel
def test_nested_layers_answer_by_layer():
    gelu = LSTM(5, activation="gelu", return_sequences=True)
    both = choice(Bidirectional(LSTM(5, return_sequences=True), replace(gelu, go_backwards=True)))
    assert (both.forward.backend, both.backward.backend) == ("cpu", "xla")
    stack = choice(Stack((Bidirectional(LSTM(5, return_sequences=True)), gelu, LSTM(2))))
    assert [stack[0].forward.backend, stack[0].backward.backend, stack[1].backend, stack[2].backend] == [
        "cpu", "cpu", "xla", "cpu"
    ]  # fmt: skip


def test_the_answer_is_what_apply_does():
    for layer in (LSTM(5), LSTM(5, activation="gelu")):
        for shape in (SHAPE, (4, 1, 3)):
            assert ("jlstm_layer" in jaxpr_of(layer, shape)) == (choice(layer, shape).backend == "cpu")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((LSTM(5), (4, 6)), {}, r"x_shape must have three entries \(B, T, D\), got"),
        ((LSTM(5), 4), {}, "x_shape must have three entries"),
        ((LSTM(5), (4, 6, -1)), {}, "x_shape's D must be"),
        ((LSTM(5), (4, 6.0, 3)), {}, "x_shape's T must be"),
        ((LSTM, (4, 6, 3)), {}, "layer must be"),
        ((LSTM(5), SHAPE), {"dtype": "int32"}, "dtype must be"),
        ((LSTM(5), SHAPE), {"state_dtype": "no dtype"}, "state_dtype must be"),
    ],
)
def test_wrong_arguments(arguments, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        jlstm.which_backend(*arguments, **options)


def test_an_unknown_backend_is_an_error():
    with pytest.raises(ValueError, match="backend must be one of"):
        LSTM(5, backend="gpu")


# --- a kernel that is not there, or not ours ------------------------------------------------------------------------


class FakeLibrary:
    """A library that loads, with an interface number and an instruction set."""

    def __init__(self, interface=library.INTERFACE, instructions=b"AVX2+FMA"):
        self.jlstm_interface = lambda: interface
        self._name = ctypes.create_string_buffer(instructions) if instructions else None
        self.jlstm_instructions = lambda: ctypes.addressof(self._name) if self._name else None
        self.jlstm_forward = self.jlstm_backward = SimpleNamespace()


@pytest.fixture
def fresh(monkeypatch):
    """A process that has not looked for the kernel yet; afterwards what it was."""
    monkeypatch.setattr(library, "_load", library._load.__wrapped__)
    monkeypatch.setattr(library, "_library", library._library.__wrapped__)
    return monkeypatch


def passed_over_because(reason):
    ((backend, why),) = choice(LSTM(5)).passed_over
    assert (choice(LSTM(5)).backend, backend) == ("xla", "cpu")
    assert reason in why
    assert "jlstm_layer" not in jaxpr_of(LSTM(5))
    for ask in (choice, jaxpr_of):
        with pytest.raises(ValueError, match='backend must be "auto" or "xla"') as raised:
            ask(LSTM(5, backend="cpu"))
        assert reason in str(raised.value)


def test_without_a_library(fresh, tmp_path):
    fresh.setattr(library, "__file__", str(tmp_path / "library.py"))
    passed_over_because("the kernel was not built when jlstm was installed")


def test_a_file_that_is_no_library(fresh, tmp_path):
    (tmp_path / "_cpu-jaxlib0.0.0-linux-x86_64.so").write_bytes(b"no library")
    fresh.setattr(library, "__file__", str(tmp_path / "library.py"))
    passed_over_because("the kernel could not be loaded: ")


def test_a_library_of_another_interface(fresh):
    fresh.setattr(library, "_library", lambda: FakeLibrary(interface=library.INTERFACE + 1))
    passed_over_because("the kernel was built from other sources than these; install jlstm again")


def test_a_processor_without_the_instructions(fresh):
    fresh.setattr(library, "_library", lambda: FakeLibrary(instructions=None))
    passed_over_because("the processor lacks AVX2 and FMA")


def test_a_registration_that_xla_refuses(fresh):
    def refuse(*arguments, **options):
        raise RuntimeError("Wrong XLA FFI version")

    fresh.setattr(library, "_library", FakeLibrary)
    fresh.setattr(jax.ffi, "pycapsule", lambda symbol: symbol)
    fresh.setattr(jax.ffi, "register_ffi_target", refuse)
    passed_over_because("refused the kernel, which was built against another version: Wrong XLA FFI version")


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (["0.0.1", jaxlib.__version__, "9.9.9"], jaxlib.__version__),
        (["0.0.1", "9.9.9"], "9.9.9"),  # XLA may accept it, or refuse
        ([jaxlib.__version__ + "0", "0.0.1"], jaxlib.__version__ + "0"),
    ],
)
def test_the_library_of_this_jaxlib_is_preferred(fresh, tmp_path, built, expected):
    for version in built:
        (tmp_path / f"_cpu-jaxlib{version}-linux-x86_64.so").touch()
    fresh.setattr(library, "__file__", str(tmp_path / "library.py"))
    fresh.setattr(library.ctypes, "CDLL", lambda path: SimpleNamespace(jlstm_instructions=SimpleNamespace(), path=path))
    assert library._library().path == str(tmp_path / f"_cpu-jaxlib{expected}-linux-x86_64.so")


@needs_kernel
def test_the_instructions_have_a_name():
    assert library.instructions() in ("AVX2+FMA", "AVX-512")


# --- import ---------------------------------------------------------------------------------------------------------

PROGRAM = """
import jax, jax.numpy as jnp, jlstm

def loaded():
    with open("/proc/self/maps") as maps:
        return any("_cpu-jaxlib" in line for line in maps)

layer = jlstm.LSTM(3)
params, state = layer.init(jax.random.key(0), 2), layer.initial_state(1)
assert not loaded(), "import loads the kernel"
layer.apply(params, state, jnp.ones((1, 5, 2)))
print(loaded())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/maps is Linux's")
@needs_kernel
def test_import_does_not_load_the_kernel():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"


@needs_kernel
def test_backend_cpu_checks_its_arguments_as_xla_does():
    layer = LSTM(5, backend="cpu")
    params, state = layer.init(jax.random.key(0), 3), layer.initial_state(4)
    x, reset = jnp.zeros(SHAPE), np.zeros((4, 6), bool)
    with pytest.raises(ValueError, match="reset_state must be None without reset"):
        layer.apply(params, state, x, reset_state=state)
    with pytest.raises(ValueError, match="reset must be None with go_backwards"):
        LSTM(5, go_backwards=True, backend="cpu").apply(params, state, x, reset=reset)
    with pytest.raises(ValueError, match="x must have shape"):
        layer.apply(params, state, jnp.zeros((4, 6, 2)))
    with pytest.raises(TypeError, match="mask must be"):
        layer.apply(params, state, x, mask=cases.array(reset))
