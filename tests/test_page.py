"""The text and the page of explain, and the words of its pictures."""

import json
import re
import resource
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import pytest
from test_describe import SPECS, B, D, T

import jlstm
from jlstm import LSTM, Bidirectional, Stack, Variant, pictures
from jlstm.facts import Layer, layers_of


@pytest.fixture(params=SPECS)
def spec(request):
    return SPECS[request.param]


def test_the_equations_are_those_of_the_variant():
    text = str(jlstm.explain(SPECS["all parts"], D))
    for line in (
        "i = σ(clip(x W_i + h U_i + b_i + p_i ∘ c, ±3))",
        "o = σ(clip(x W_o + h U_o + b_o + p_o ∘ c', ±3))",
        "h' = (o ∘ φ_h(c')) R",
        "with σ = sigmoid, φ = tanh, φ_h = relu; the same weights at every time step.",
    ):
        assert line in text
    assert "f = " not in str(jlstm.explain(SPECS["1997"], D))
    assert "i = 1 - f" in str(jlstm.explain(SPECS["coupled"], D))


def test_the_page_needs_nothing_else(spec, tmp_path):
    explanation = jlstm.explain(spec, D, T, B)
    explanation.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert not re.search(r"https?://|<script|<link|@import", page)
    assert page.count("<table ") == page.count("</table>") == 4
    assert explanation._repr_html_() in page
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert words(picture)
    assert page.count("<svg") >= 4
    assert str(explanation) == repr(explanation)


def words(picture):
    """The words of a picture; that it can be read as XML is a test too."""
    return [node.text for node in ElementTree.fromstring(picture).iter() if node.tag.endswith("text")]


def test_the_block_has_the_gates_of_the_variant_and_the_widths():
    def block(variant):
        return words(pictures.block(Layer("", LSTM(6, variant=variant), D)))

    plain = block(Variant())
    assert plain.count("9") == 4
    assert {"c: 6", "h: 6", "x: 3", "c': 6", "h': 6", "f: forget gate"} <= set(plain)
    assert block(Variant(forget_gate=False)).count("9") == 3
    assert "f: forget gate" not in block(Variant(forget_gate=False))
    coupled = block(Variant(coupled="input"))
    assert coupled.count("9") == 3
    assert "1 - f" in coupled
    assert {"h: 2", "h': 2", "6 → 2", "5"} <= set(block(Variant(projection=2)))
    assert "peepholes" in block(Variant(peephole=True))


@pytest.mark.parametrize(
    ("spec", "steps", "outputs"),
    [
        (LSTM(6), 3, ["y"]),
        (LSTM(6, return_sequences=True), None, ["y[:, 0]", "y[:, 1]", "y[:, T-1]"]),
        (LSTM(6, return_sequences=True, go_backwards=True), 3, ["y[:, 2]", "y[:, 1]", "y[:, 0]"]),
        (LSTM(6, return_sequences=True, go_backwards=True, keep_order=True), 2, ["y[:, 0]", "y[:, 1]"]),
        (SPECS["both"], 2, ["y[:, 0]", "y[:, 1]"]),
        (SPECS["both, last"], 2, ["y: forward after the last step, backward after the first"]),
        (SPECS["stack"], 100, ["y"]),
        (SPECS["turned"], 3, ["y[:, 2]", "y[:, 1]", "y[:, 0]"]),
    ],
)
def test_the_layer_over_time_names_the_outputs_that_come_back(spec, steps, outputs):
    found = words(pictures.over_time(spec, steps))
    assert [word for word in found if word.startswith("y")] == outputs
    shown = 4 if steps in (None, 100) else steps
    boxes = len(list(layers_of(spec, D))) * (shown - (shown == 4))
    assert sum(word.startswith("LSTM(") for word in found) == boxes
    assert found.count("state") == found.count("new state") == len(list(layers_of(spec, D)))


def test_a_layer_over_one_that_turns_its_outputs_goes_the_other_way():
    """Above x[:, 0] stands what reads the last output of the layer below: its new state is at that end."""
    picture = ElementTree.fromstring(pictures.over_time(SPECS["turned"], 3))
    places = [(node.text, float(node.get("x", 0))) for node in picture.iter() if node.tag.endswith("text")]
    starts, ends = ([x for word, x in places if word == wanted] for wanted in ("state", "new state"))
    assert starts[0] == starts[1] > ends[0] == ends[1]


def test_masked_outputs_in_the_picture_are_those_of_the_spec():
    for spec, told in (
        (SPECS["plain"], "repeated"),
        (LSTM(6, zero_output_for_mask=True), "zeros"),
        (SPECS["both"], "zeros"),
        (SPECS["both, last"], "repeated"),
    ):
        assert f"the state passes by, the output is {told}" in jlstm.explain(spec, D)._repr_html_()


def takes_resets(spec):
    def run():
        x, reset = jnp.ones((B, T, D)), jnp.zeros((B, T), bool)
        return spec.apply(spec.init(jax.random.key(0), D), spec.initial_state(B), x, reset=reset)

    try:
        jax.eval_shape(run)
    except ValueError as error:
        assert "reset must be None" in str(error)  # noqa: PT017 - one that takes them raises nothing
        return False
    return True


def test_a_reset_that_raises_is_said_to_raise(spec):
    page = jlstm.explain(spec, D)._repr_html_()
    assert ("the state is replaced by zeros before the step" in page) == takes_resets(spec)
    assert ("raises: read from its end, an episode has no start" in page) == (not takes_resets(spec))


def test_large_numbers_stay_in_their_boxes():
    """The digits of DejaVu Sans, a wide one, are 0.64 as wide as the letters are high."""
    picture = ElementTree.fromstring(pictures.over_time(LSTM(1_000_000), 3))
    (size,) = {float(n.get("font-size", 0)) for n in picture.iter() if (n.text or "").startswith("LSTM(1")} - {0.0}
    assert size * 0.64 * len("LSTM(1000000)") <= 76


def test_a_wide_layer_is_explained_without_its_weights():
    """Weights of 298 GiB: whoever makes them fails, and whoever makes a hundredth of them is found out."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spec = Stack((Bidirectional(LSTM(100_000, return_sequences=True)), LSTM(100_000)))
    explanation = jlstm.explain(spec, 100_000, 4, 2)
    assert "keras.layers.LSTM(100000)" in str(explanation)
    assert explanation.data["costs"]["bytes_weights"] > 2**38
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 2**10  # KiB


def test_a_function_of_ones_own_is_named_and_its_address_is_not():
    def leaky(x):
        return jnp.where(x > 0, x, 0.1 * x)

    for activation, name, words in ((leaky, "leaky", "leaky"), (lambda x: leaky(x), "<lambda>", "your own function")):
        explanation = jlstm.explain(LSTM(6, activation=activation), D, T, B)
        assert explanation.data["spec"] == f"LSTM(6, activation={name})"
        assert f"with σ = sigmoid, φ = {words}; the same" in str(explanation)
        told = str(explanation) + explanation._repr_html_() + json.dumps(explanation.data)
        assert not re.search(r"0x[0-9a-f]{6}|<function", told)


def test_equations_that_differ_name_their_layers():
    text = str(jlstm.explain(Stack((LSTM(6, return_sequences=True), LSTM(6, activation="relu"))), D))
    assert "\nlayers[0]:\n" in text
    assert "\nlayers[1]:\n" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("LSTM(3)", 2), "spec must be"),
        ((LSTM(3), 0), "input_size must be"),
        ((LSTM(3), 2, 0), "timesteps must be"),
        ((LSTM(3), 2, 4, 1.5), "batch_size must be"),
    ],
)
def test_wrong_calls_are_named(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        jlstm.explain(*arguments)
