"""The answers to what people ask of units, return_sequences and stateful, against what the layers compute."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_describe import SPECS, B, D, T

from jlstm import LSTM, Bidirectional, LSTMState, Stack, Variant, lstm_cell
from jlstm.facts import Asked
from jlstm.questions import answers_of

ASKED = ["What does units", "", "Is units the number", "Must x hold", "What does the next layer", "What does stateful"]


def answer(spec, start, **sizes):
    (found,) = (told for question, told in answers_of(Asked(spec, D, **sizes)).items() if question.startswith(start))
    return found


@pytest.mark.parametrize("name", SPECS)
def test_every_layer_has_all_answers(name):
    answers = answers_of(Asked(SPECS[name], D))
    assert len(answers) == 7
    for start, (question, told) in zip([*ASKED, "And Dense("], answers.items(), strict=True):
        assert question.startswith(start)
        assert question.endswith("?")
        assert told.endswith(".")


@pytest.mark.parametrize("name", SPECS)
def test_shapes_and_counts_are_those_of_the_layer(name):
    spec = SPECS[name]
    params = jax.eval_shape(lambda: spec.init(jax.random.key(0), D))
    state, y = jax.eval_shape(
        lambda p: spec.apply(p, spec.initial_state(B), jnp.ones((B, T, D))),
        params,
    )
    count = sum(a.size for a in jax.tree.leaves(params))
    assert f"here {T} times, with the same {count:,} parameters" in answer(spec, "Is units", timesteps=T, batch_size=B)
    told = answer(spec, "What does the next", timesteps=T, batch_size=B)
    assert told.startswith(f"y {jax.tree.map(lambda a: list(a.shape), y)}, h ")
    if isinstance(spec, LSTM):
        carried = answer(spec, "What does stateful", timesteps=T, batch_size=B)
        assert f"state.h {list(state.h.shape)} and state.c {list(state.c.shape)}" in carried


def test_the_other_return_sequences_is_told_too():
    told = answer(LSTM(3), "What does the next", timesteps=4)
    assert "return_sequences=True would give it at all 4 time steps, [B, 4, 3]: one output for each time step" in told
    told = answer(LSTM(3, return_sequences=True), "What does the next", timesteps=4)
    assert "return_sequences=False would give the last step read alone, [B, 3]." in told


def test_letters_stand_for_what_was_not_said():
    assert "y [B, 3], h" in answer(LSTM(3), "What does the next")
    assert "here" not in answer(LSTM(3), "Is units")
    assert "here once," in answer(LSTM(3), "Is units", timesteps=1)


def test_one_unit_is_not_called_several():
    answers = answers_of(Asked(LSTM(1), 1))
    assert answers["Is it one LSTM?"].startswith("Yes.")
    assert "one number each" in answers["What does units=1 set?"]
    assert "1 column for" in answers["What does units=1 set?"]


@pytest.mark.parametrize(
    "variant",
    [{}, {"coupled": "input"}, {"projection": 2}, {"output_activation": "relu"}, {"forget_gate": False}],
    ids=str,
)
def test_one_step_from_zeros_is_the_product_of_dense_layers_that_is_told(variant):
    spec, x = LSTM(3, variant=Variant(**variant)), jnp.array([0.5, -2.0, 1.0])
    params = spec.init(jax.random.key(0), D)
    state = LSTMState(h=jnp.zeros(spec.output_size), c=jnp.zeros(3))
    _, h = lstm_cell(params, state, x, variant=spec.variant)

    def dense(gate):  # x W + b, by the slice that explain tells
        n = "ifgo".index(gate)
        part = slice(3 * n, 3 * n + 3)
        return np.asarray(x) @ np.asarray(params.kernel)[:, part] + np.asarray(params.bias)[part]

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    told = answer(spec, "And Dense")
    formula = re.search(r"h' = (.*?): ", told)[1]
    i, f, g, o = sigmoid(dense("i")), sigmoid(dense("f")), np.tanh(dense("g")), sigmoid(dense("o"))
    if variant.get("coupled") == "input":
        i = 1 - f
    names = {"i": i, "g": g, "o": o, "φ": np.tanh, "φ_h": lambda z: np.maximum(z, 0), "R": params.projection}
    expected = eval(formula.replace("∘", "*").replace(" R", " @ R"), names)
    np.testing.assert_allclose(h, expected, rtol=1e-5)
    assert ("not read" in told) == (variant in ({"coupled": "input"}, {"forget_gate": False}))


@pytest.mark.parametrize(("bias", "size"), [(True, "3·3 + 3 = 12"), (False, "3·3 = 9")])
def test_the_size_of_a_dense_layer(bias, size):
    assert f"{size} parameters" in answer(LSTM(3, use_bias=bias), "And Dense")


def test_units_are_coupled_unless_the_recurrent_kernel_is_diagonal():
    spec = LSTM(4)
    assert "only if the recurrent kernel were diagonal in the slice of each gate" in answer(spec, "Is it 4 LSTMs")
    params = spec.init(jax.random.key(0), D)
    diagonal = jnp.tile(jnp.eye(4), (1, 4))  # in each of the four slices

    def slope(recurrent_kernel):
        weights = type(params)(params.kernel, recurrent_kernel, params.bias)
        step = lambda h: lstm_cell(weights, LSTMState(h=h, c=jnp.ones(4)), jnp.ones(D))[1]  # noqa: E731
        return np.asarray(jax.jit(jax.jacrev(step))(jnp.full(4, 0.5)))

    assert (slope(params.recurrent_kernel) != 0).all()
    coupled = slope(params.recurrent_kernel * diagonal)
    assert (np.diag(coupled) != 0).all()
    assert not (coupled - np.diag(np.diag(coupled))).any()


def test_layers_that_read_both_ways_are_said_to_see_no_later_chunk():
    for spec, so in ((LSTM(3), False), (Bidirectional(LSTM(3)), True), (Stack((LSTM(3),)), False)):
        assert ("do not give the numbers of the whole" in answer(spec, "What does stateful")) == so
