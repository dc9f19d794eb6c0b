"""Each framework's gate order is written down once, and that place decides how its weights are read and made."""

import ast
import importlib
import os
import pkgutil
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import peer

import jlstm
from jlstm import GATES, LSTM, interop

PACKAGE = Path(jlstm.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "interop.md"
N, D = 2, 3
SPEC = LSTM(N, return_sequences=True)

# From the libraries' own sources and texts, which the comments name; not from jlstm.
ORDERS = {
    "keras": "ifgo",  # LSTMCell._compute_carry_and_output_fused: z0 to z3
    "torch": "ifgo",  # the documentation of nn.LSTM, under weight_ih_l
    "onnx": "iofg",  # the text of the operator LSTM, under W; g is c there
    "flax": "ifgo",  # OptimizedLSTMCell: the split of dense_i and dense_h
    "equinox": "ifgo",  # LSTMCell.__call__: the split
    "haiku": "igfo",  # LSTM.__call__: the split
    "cudnn": "ifgo",  # jax.experimental.rnn: lstm_ref
}
PEEPHOLES = {"onnx": "iof"}  # the same text, under P


def constant(framework, kind="GATES"):
    return importlib.import_module(f"jlstm.interop.{framework}"), f"{framework.upper()}_{kind}"


# --- written once --------------------------------------------------------------------------------------------------


def orders(source):
    """The names or first lines of assignments of all places in a source that name gates in an order.

    Such a place is a string like "ifgo", or a tuple, list, set or dict of strings or names, alike but for their parts
    "i", "f", "g" or "c", "o" or words that begin so, as ("ii", "if", "ig", "io"); three of them without the candidate.
    """
    tree = ast.parse(source)
    assigned = {id(a.value): ast.unparse(a.targets[0]) for a in ast.walk(tree) if isinstance(a, ast.Assign)}
    found = []
    for node in ast.walk(tree):
        parts = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = list(node.value)
        elif isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict):
            entries = node.keys if isinstance(node, ast.Dict) else node.elts
            parts = [e.id if isinstance(e, ast.Name) else getattr(e, "value", None) for e in entries]
        if not parts or not all(isinstance(part, str) and part for part in parts):
            continue
        start = len(os.path.commonprefix(parts))  # noqa: RUF071 - of characters, as it does it
        letters = sorted(part[start : start + 1] for part in parts)
        if letters in (list("fgio"), list("cfio"), list("fio")):
            found.append(assigned.get(id(node), f"line {node.lineno}"))
    return found


def test_each_order_appears_in_exactly_one_place():
    found = {str(path.relative_to(PACKAGE)): orders(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    found = {path: places for path, places in found.items() if places}
    wanted = {f"interop{os.sep}{name}.py": [f"{name.upper()}_GATES"] for name in ORDERS}
    wanted[f"interop{os.sep}onnx.py"] += ["ONNX_PEEPHOLES"]
    wanted["types.py"] = ["GATES", "PEEPHOLES"]  # jlstm's own
    # The equations: the four (three) slices of jlstm's own order, by their names.
    assert all(place.startswith("line ") for place in found.pop("cell.py"))
    assert {path: sorted(places) for path, places in found.items()} == wanted


@pytest.mark.parametrize(
    "source",
    [
        "reorder(a, 'iofc')",
        "X = ['ii', 'if', 'ig', 'io']",
        "i, o, f, c = split(a)",
        "{'W_i': a, 'W_f': b, 'W_c': c, 'W_o': d}",
        "('input', 'output', 'forget', 'cell')",
        "P = 'iof'",
    ],
)
def test_the_search_finds_what_it_is_for(source):
    assert len(orders(source)) == 1


# --- what is written there is right, and decides --------------------------------------------------------------------


def test_the_constants_are_the_orders_of_the_libraries_and_of_the_docs():
    rows = [line.split("|")[1:3] for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    documented = {name.strip(): re.findall(r"\b(?:[ifgo] ){3}[ifgo]\b", text) for name, text in rows}
    titles = {"keras": "jlstm, Keras", "torch": "PyTorch", "onnx": "ONNX", "cudnn": "cuDNN's vector"}
    for framework, order in ORDERS.items():
        module, name = constant(framework)
        assert "".join(getattr(module, name)) == order
        assert documented[titles.get(framework, framework)] == [" ".join(order)]
    for framework, order in PEEPHOLES.items():
        assert "".join(getattr(*constant(framework, "PEEPHOLES"))) == order


def keras():
    with warnings.catch_warnings(action="ignore"):
        peer("keras")
    return lambda params: interop.to_keras(SPEC, params), interop.from_keras


def torch():
    return lambda params: interop.to_torch_state_dict(SPEC, params), interop.from_torch


def onnx():
    peer("onnx")
    return lambda params: interop.to_onnx(SPEC, params), interop.from_onnx


def flax():
    peer("flax")
    return lambda params: interop.to_nnx(SPEC, params), interop.from_nnx  # the fused cell; the other goes by names


def equinox():
    peer("equinox")
    return lambda params: interop.to_equinox(SPEC, params), interop.from_equinox


def cudnn():
    sizes = {"input_size": D, "hidden_size": N, "num_layers": 1, "bidirectional": False}
    return lambda params: interop.to_cudnn(SPEC, params), lambda flat: interop.from_cudnn(flat, **sizes)


def haiku():
    """There is no to_haiku; the forget bias of 1 that reading adds is taken off again."""

    def read(params):
        forget = np.repeat([gate == "f" for gate in GATES], N)
        made = interop.from_haiku(params)[1]
        return None, jlstm.LSTMParams(made.kernel, made.recurrent_kernel, made.bias - forget)

    source = {"w": jnp.arange(4.0 * N * (D + N)).reshape(D + N, 4 * N), "b": jnp.arange(4.0 * N)}
    return lambda params: source, read


def relabelled(params, names):
    """The params whose slice of each gate is that of names[gate] in these."""

    def one(a):
        slices = dict(zip(GATES, np.split(np.asarray(a), 4, axis=-1), strict=True))
        return np.concatenate([slices[names[gate]] for gate in GATES], axis=-1)

    return jax.tree.map(one, params)


@pytest.mark.lenient
@pytest.mark.parametrize("libraries", [keras, torch, onnx, flax, equinox, haiku, cudnn])
def test_the_constant_alone_decides_how_weights_are_read_and_written(libraries, monkeypatch):
    """With another order in its place all weights come in that order: nothing beside it knows the right one."""
    write, read = libraries()
    framework = libraries.__name__
    module, name = constant(framework)
    right = getattr(module, name)
    wrong = right[1:] + right[:1]
    numbers = jax.tree.map(
        lambda a: jnp.arange(a.size, dtype=a.dtype).reshape(a.shape), SPEC.init(jax.random.key(0), D)
    )
    made = write(numbers)
    params = read(made)[1]

    for info in pkgutil.iter_modules(interop.__path__):
        user = importlib.import_module(f"jlstm.interop.{info.name}")
        if hasattr(user, name):
            monkeypatch.setattr(user, name, wrong)
    jax.tree.map(np.testing.assert_array_equal, read(made)[1], relabelled(params, dict(zip(wrong, right, strict=True))))
    if framework != "haiku":
        made = write(numbers)
        monkeypatch.undo()
        got = read(made)[1]
        jax.tree.map(np.testing.assert_array_equal, got, relabelled(params, dict(zip(right, wrong, strict=True))))
