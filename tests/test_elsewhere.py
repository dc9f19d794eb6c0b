"""The layer in the words of other libraries: what explain says there makes what the converters make."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import peer
from test_describe import SPECS, D

import jlstm
from jlstm import LSTM, Bidirectional, Stack, Variant, named


@pytest.mark.parametrize("name", ["plain", "backwards", "both", "both, last", "summed", "stack", "nested"])
@pytest.mark.lenient
def test_the_text_for_keras_makes_what_to_keras_makes(name):
    keras = peer("keras")
    spec = SPECS[name]
    made = eval(jlstm.explain(spec, D).data["elsewhere"]["Keras"], {"keras": keras})
    made.build((None, None, D))
    expected = jlstm.interop.to_keras(spec, spec.init(jax.random.key(0), D))
    assert made.count_params() == jlstm.explain(spec, D).data["parameters"]

    def plain(config):
        if isinstance(config, dict):
            return {k: plain(v) for k, v in config.items() if k not in ("name", "build_config", "build_input_shape")}
        return [plain(v) for v in config] if isinstance(config, list) else config

    def layers(model):
        return [plain(layer.get_config()) for layer in getattr(model, "layers", [model])]

    assert layers(made) == layers(expected)


@pytest.mark.parametrize("name", ["plain", "sequences", "both", "projected", "two layers"])
def test_the_text_for_torch_has_the_weights(name):
    torch = peer("torch")
    more = {
        "projected": LSTM(6, variant=Variant(projection=2)),
        "two layers": Stack((Bidirectional(LSTM(6, return_sequences=True)),) * 2, dropout=0.25),
    }
    spec = more.get(name) or SPECS[name]
    data = jlstm.explain(spec, D).data
    made = eval(data["elsewhere"]["torch"].partition(", and of")[0], {"torch": torch})
    biases = sum(np.prod(layer["weights"]["bias"]["shape"]) for layer in data["layers"])  # torch has each of them twice
    assert sum(p.numel() for p in made.parameters()) == data["parameters"] + biases
    assert made.dropout == getattr(spec, "dropout", 0.0) * isinstance(spec, Stack)


@pytest.mark.parametrize("spec", [LSTM(6), SPECS["backwards"], SPECS["both"], LSTM(6, activation="relu")])
def test_the_text_for_flax_has_the_weights(spec):
    nnx = peer("flax.nnx")
    data = jlstm.explain(spec, D).data
    made = eval(data["elsewhere"]["flax"].partition(", and of")[0], {"nnx": nnx, "rngs": nnx.Rngs(0), "jax": jax})
    assert sum(a.size for a in jax.tree.leaves(nnx.state(made, nnx.Param))) == data["parameters"]


@pytest.mark.parametrize(
    "activation", ["gelu", "hard_sigmoid", "hard_sigmoid_keras2", "exponential", jlstm.HardSigmoid(alpha=0.3)]
)
def test_the_text_for_flax_names_the_function_that_to_nnx_takes(activation):
    nnx = peer("flax.nnx")
    text = jlstm.explain(LSTM(6, recurrent_activation=activation, dtype="bfloat16"), D).data["elsewhere"]["flax"]
    names = {"nnx": nnx, "rngs": nnx.Rngs(0), "jax": jax, "jnp": jnp, "jlstm": jlstm}
    made = eval(text.partition(", and of")[0], names)
    z = jnp.linspace(-3, 3, 50)
    expected = named.activation("activation", activation)(z)
    np.testing.assert_array_equal(made.cell.gate_fn(z), expected)
    assert made.cell.dtype == jnp.bfloat16


@pytest.mark.parametrize(("merge_mode", "expected"), [("ave", 2.5), ("mul", 6.0), ("sum", 5.0), (None, (2.0, 3.0))])
def test_the_text_for_flax_merges(merge_mode, expected):
    nnx = peer("flax.nnx")
    spec = Bidirectional(LSTM(6, return_sequences=True), merge_mode=merge_mode)
    text = jlstm.explain(spec, D).data["elsewhere"]["flax"]
    made = eval(text, {"nnx": nnx, "rngs": nnx.Rngs(0), "jnp": jnp})
    assert jax.tree.map(float, made.merge_fn(jnp.float32(2), jnp.float32(3))) == expected


def test_the_last_output_of_flax_is_where_the_order_puts_it():
    texts = [
        jlstm.explain(LSTM(6, go_backwards=True, keep_order=keep), D).data["elsewhere"]["flax"]
        for keep in (False, True)
    ]
    assert [text.rpartition(" ")[2] for text in texts] == ["-1]", "0]"]
    unrolled = jlstm.explain(LSTM(6, unroll=True), D).data["elsewhere"]["flax"]
    assert "unroll=True" in unrolled


def test_dtypes_elsewhere_are_those_of_the_converters():
    def told(**dtypes):
        return jlstm.explain(LSTM(6, return_sequences=True, **dtypes), D).data["elsewhere"]

    double = told(param_dtype="float64")
    assert double["torch"] == "torch.nn.LSTM(3, 6, 1, batch_first=True).to(torch.float64)"
    assert double["ONNX"].startswith("LSTM(")
    half = told(param_dtype="bfloat16")
    assert half["torch"].endswith(".to(torch.bfloat16)")
    assert half["ONNX"].startswith("not there: the dtype of kernel")
    mixed = told(dtype="bfloat16")
    assert all(mixed[library].startswith("not there: dtype must be") for library in ("torch", "ONNX"))


BACKWARDS = LSTM(6, return_sequences=True, go_backwards=True)
KEPT = replace(BACKWARDS, keep_order=True)


@pytest.mark.parametrize(
    ("spec", "turned"),
    [
        (SPECS["both"], [False]),
        (SPECS["sequences"], [False]),
        (BACKWARDS, [True]),
        (KEPT, [False]),
        (replace(BACKWARDS, return_sequences=False), [False]),
        (Stack((BACKWARDS, KEPT, SPECS["sequences"], BACKWARDS)), [True, False, False, True]),
        (Stack((SPECS["both"], replace(BACKWARDS, return_sequences=False))), [False, False]),
    ],
)
def test_the_text_for_onnx_is_in_the_model(spec, turned):
    """Each node with its attributes, and after it whether a Slice turns its Y round."""
    peer("onnx")
    texts = jlstm.explain(spec, D).data["elsewhere"]["ONNX"].split(", then ")
    graph = jlstm.interop.to_onnx(spec, spec.init(jax.random.key(0), D)).graph
    sliced = {node.input[0] for node in graph.node if node.op_type == "Slice"}
    nodes = [node for node in graph.node if node.op_type == "LSTM"]
    for text, node, turns in zip(texts, nodes, turned, strict=True):
        call, _, after = text.partition(")")
        told = dict(re.findall(r"(\w+)='?(\w+)'?", call))
        assert told == {a.name: str(a.i or a.s.decode()) for a in node.attribute}
        assert after == (", its outputs turned round in time" if turns else "")
        assert (node.output[0] in sliced) == turns


def test_what_a_library_lacks_is_named():
    told = jlstm.explain(LSTM(6, variant=Variant(forget_gate=False)), D).data["elsewhere"]
    assert told["Keras"] == "not there: variant.forget_gate must be True for keras.layers.LSTM, got False"
    assert all(text.startswith("not there: ") for text in told.values())


def test_a_lambda_is_written_as_a_name_that_can_be_filled_in():
    def leaky(x):
        return jnp.where(x > 0, x, 0.1 * x)

    named, unnamed = (
        jlstm.explain(LSTM(6, activation=activation), D).data["elsewhere"] for activation in (leaky, lambda x: leaky(x))
    )
    assert "activation_fn=leaky, " in named["flax"]
    assert "activation_fn=your_function, " in unnamed["flax"]
    assert unnamed["torch"] == "not there: activation must be 'tanh' for torch.nn.LSTM, got <lambda>"
