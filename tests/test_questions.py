"""The answers to what people ask of units, return_sequences and stateful, against what the layers compute."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import peer
from test_describe import SPECS, B, D, T

from jlstm import LSTM, Bidirectional, LSTMParams, LSTMState, Stack, Variant, lstm_cell
from jlstm.facts import Asked, Layer, layers_of
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
    assert "only if the recurrent kernel were diagonal in the slice of each gate." in answer(spec, "Is it 4 LSTMs")
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


@pytest.mark.parametrize("variant", [{}, {"coupled": "input"}, {"coupled": "forget"}, {"forget_gate": False}], ids=str)
def test_a_slice_that_is_not_read_need_not_be_diagonal(variant):
    """Of which gates the slice couples the units, by the slopes of h' in h with that slice alone left dense."""
    spec = LSTM(4, variant=Variant(**variant))
    params = spec.init(jax.random.key(0), D)
    slices = jnp.repeat(jnp.arange(4), 4)  # of i, f, g and o

    @jax.jit
    def slope(dense):
        kernel = params.recurrent_kernel * jnp.where(slices == dense, 1, jnp.tile(jnp.eye(4), (1, 4)))
        weights = replace(params, recurrent_kernel=kernel)
        return jax.jacrev(
            lambda h: lstm_cell(weights, LSTMState(h=h, c=jnp.ones(4)), jnp.ones(D), variant=spec.variant)[1]
        )(jnp.full(4, 0.5))

    couples = [bool((slope(gate) - jnp.diag(jnp.diag(slope(gate)))).any()) for gate in range(4)]
    told = answer(spec, "Is it 4 LSTMs")
    assert told.endswith("in the slice of each gate." if all(couples) else "in the slice of each gate that is read.")


# --- the words, each decided by a computation ------------------------------------------------------------------------


def weights_of(spec):
    """Its LSTMs, each with its weights."""
    params = spec.init(jax.random.key(0), D)
    arrays = jax.tree.leaves(params, is_leaf=lambda part: isinstance(part, LSTMParams))
    return list(zip(layers_of(spec, D), arrays, strict=True))


def units_mix(spec):
    """Whether h of a step hangs on other numbers of h before it than its own, in every LSTM."""

    def mix(layer, weights):
        N, P = layer.spec.units, layer.spec.output_size
        step = lambda h: lstm_cell(weights, LSTMState(h=h, c=jnp.ones(N)), jnp.ones(layer.input_size))[1]  # noqa: E731
        slope = jax.jit(jax.jacrev(step))(jnp.full(P, 0.5))
        return bool((slope - jnp.diag(jnp.diag(slope))).any())

    return all(mix(*one) for one in weights_of(spec))


def y_of(spec, x, state=None):
    return spec.apply(spec.init(jax.random.key(0), D), state or spec.initial_state(1), x)


def x_of(steps=T):
    return jax.random.normal(jax.random.key(1), (1, steps, D))


def remembers(layer):
    """Whether what comes out at the last step hangs on the first."""
    return bool(jax.jit(jax.grad(lambda x: layer(x)[:, -1].sum()))(x_of())[:, 0].any())


def a_dense_layer(x):
    return jnp.tanh(x @ jnp.ones((D, 3)))


def carries(spec):
    """Whether a second call goes on where the first ended: other numbers than from zeros, those of one long call."""
    x = x_of()
    state, _ = y_of(spec, x[:, :2])
    after, zeros, whole = (y_of(spec, *a)[0].h for a in ((x[:, 2:], state), (x[:, 2:],), (x,)))
    return np.allclose(after, whole, atol=1e-6) and not np.allclose(zeros, whole, atol=1e-3)


def keras_weights(stateful):
    layer = peer("keras").layers.LSTM(3, stateful=stateful)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        layer.build((1, T, D))
    return [w.shape for w in layer.weights]


PLAIN, SEQUENCES = SPECS["plain"], SPECS["sequences"]


@pytest.mark.parametrize(
    ("spec", "question", "words", "so"),
    [
        (PLAIN, "What does units", "A width: ", lambda: y_of(PLAIN, x_of())[0].h.shape[-1] == 6),
        (PLAIN, "What does units", "vectors of 6 numbers", lambda: y_of(PLAIN, x_of())[0].c.shape == (1, 6)),
        (PLAIN, "Is it 6 LSTMs", "No. ", lambda: units_mix(PLAIN)),
        (SPECS["stack"], "Are the units", "No. ", lambda: units_mix(SPECS["stack"])),
        (LSTM(1), "Is it one LSTM", "Yes. ", lambda: not units_mix(LSTM(1))),
        (PLAIN, "Is units the", "No. ", lambda: [y_of(SEQUENCES, x_of(n))[1].shape[1] for n in (2, 5)] == [2, 5]),
        (PLAIN, "Must x hold", "No. A step reads 3 numbers", lambda: remembers(lambda x: y_of(SEQUENCES, x)[1])),
        (
            PLAIN,
            "Must x hold",
            "The width of x has nothing to do with units.",
            lambda: [weights_of(LSTM(n))[0][1].kernel.shape[0] for n in (2, 6)] == [D, D],
        ),
        (
            SEQUENCES,
            "What does the next",
            "one output for each time step, not one for each unit",
            lambda: [y_of(LSTM(n, return_sequences=True), x_of())[1].shape[1] for n in (2, 6)] == [T, T],
        ),
        (
            PLAIN,
            "What does the next",
            "h after the last step read and no other",
            lambda: (y_of(PLAIN, x_of())[1] == y_of(SEQUENCES, x_of())[1][:, -1]).all(),
        ),
        (PLAIN, "What does stateful", "No weights. ", lambda: keras_weights(True) == keras_weights(False)),
        (PLAIN, "What does stateful", "the state that the call before returned", lambda: carries(PLAIN)),
        (PLAIN, "What does stateful", ", not from zeros", lambda: carries(PLAIN)),
        (PLAIN, "And Dense", "read before, which Dense never sees.", lambda: not remembers(a_dense_layer)),
        (
            PLAIN,
            "And Dense",
            "From the second step on h and c bring in what was read before",
            lambda: (
                remembers(lambda x: y_of(SEQUENCES, x)[1]) and not remembers(lambda x: y_of(SEQUENCES, x[:, -1:])[1])
            ),
        ),
    ],
)
def test_the_words_of_an_answer_are_those_that_a_computation_decides(spec, question, words, so):
    assert so()
    assert words in answer(spec, question, timesteps=T)


@pytest.mark.parametrize(("weight", "letter"), [("kernel", "x"), ("recurrent_kernel", "h"), ("peephole", "c")])
def test_a_weight_multiplies_what_its_role_says(weight, letter):
    """With x, h or c at 0 the weights that read it change nothing; the peephole of o reads c after the step."""
    spec = LSTM(6, variant=Variant(peephole=True, projection=2))
    params = spec.init(jax.random.key(0), D)
    values = {"x": jnp.ones(D), "h": jnp.ones(2), "c": jnp.ones(6)}

    @jax.jit
    def slope(values):
        def step(array):
            state = LSTMState(h=values["h"], c=values["c"])
            return lstm_cell(replace(params, **{weight: array}), state, values["x"], variant=spec.variant)[0].c.sum()

        return jax.grad(step)(getattr(params, weight))

    reads = [name for name in values if not slope(values | {name: jnp.zeros_like(values[name])}).any()]
    assert reads == [letter]
    (role,) = (one.role for one in Layer("", spec, D).weights if one.name == weight)
    assert re.match(rf"what the gates read of {letter}\b", role)


def test_layers_that_read_both_ways_are_said_to_see_no_later_chunk():
    for spec, so in ((LSTM(3), False), (Bidirectional(LSTM(3)), True), (Stack((LSTM(3),)), False)):
        assert ("do not give the numbers of the whole" in answer(spec, "What does stateful")) == so
