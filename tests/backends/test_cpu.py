"""The fused kernel gives what lax.scan gives: outputs, states and all gradients."""

from dataclasses import replace

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from both import (
    agree,
    compare,
    compiled,
    compiled_reference,
    drawn,
    key_of,
    needs_kernel,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from jlstm import LSTM, HardSigmoid, Variant
from jlstm.backends.calls import ACTIVATIONS

pytestmark = needs_kernel

# A central difference of the oracle, of step 1e-6 in float64, is good to 1e-9; float32 gradients are what is compared.
DIFFERENCE = {"rtol": 2e-5, "atol": 2e-5}
# One rounding to bfloat16, which has 8 bits.
ONE_ROUNDING = 2**-8

B, T, D = 5, 7, 3
HARD = HardSigmoid(alpha=0.3, beta=0.45)
MASK = np.array([[1] * 7, [1, 0, 0, 1, 1, 0, 1], [0, 0, 1, 0, 1, 1, 0], [0] * 7, [1, 1, 1, 0, 0, 0, 0]], bool)
RESET = cases.bools(3, B, T, p=0.3)


# --- generated: any size, any combination of options ----------------------------------------------------------------


@st.composite
def calls(draw):
    """(layer, arguments): sizes across multiples of 6, 8 and 16, options in any combination."""
    many_rows = draw(st.integers(0, 7)) == 0
    rows = draw(st.sampled_from([97, 100, 193]) if many_rows else st.integers(1, 40))
    steps = draw(st.integers(1, 4 if many_rows else 40))
    D, N = draw(st.integers(1, 40)), draw(st.integers(1, 70))
    boolean, seed = st.booleans(), draw(st.integers(0, 1000))
    backwards = draw(boolean)
    layer = LSTM(
        N,
        use_bias=draw(boolean),
        return_sequences=draw(boolean),
        go_backwards=backwards,
        keep_order=draw(boolean),
        zero_output_for_mask=draw(boolean),
        dropout=draw(st.sampled_from([0.0, 0.3])),
        recurrent_dropout=draw(st.sampled_from([0.0, 0.0, 0.3])),
        implementation=draw(st.sampled_from([1, 2])),
        variant=Variant(
            peephole=draw(boolean),
            coupled=draw(st.sampled_from([None, "input", "forget"])),
            output_activation=draw(st.sampled_from([None, None, "linear", "softsign"])),
        ),
    )
    options = {}
    padding = draw(st.sampled_from(["mask", "lengths", None]))
    if padding == "mask":
        options["mask"] = jnp.asarray(cases.bools(seed, rows, steps))
    if padding == "lengths":
        options["lengths"] = jnp.asarray(np.random.default_rng(seed).integers(0, steps + 1, rows), "int32")
    if not backwards and draw(boolean):
        options["reset"] = jnp.asarray(cases.bools(seed + 1, rows, steps, p=0.2))
        if draw(boolean):
            options["reset_state"] = cases.lstm_state(cases.state(seed + 2, rows, N))
    key = key_of(seed) if draw(boolean) else None
    return layer, (*drawn(layer, rows, steps, D, seed=seed), options, key)


@settings(max_examples=settings().max_examples // 2)  # each compiles two programs
@given(calls())
def test_the_kernel_agrees_with_the_scan_on_generated_calls(call):
    layer, arguments = call
    compare(layer, *arguments)


# --- option by option -----------------------------------------------------------------------------------------------


EVERY_ACTIVATION = (*ACTIVATIONS, HARD)


@pytest.mark.parametrize("n", range(len(EVERY_ACTIVATION)), ids=map(str, EVERY_ACTIVATION))
def test_every_activation_in_every_place(n):
    first, second, third = (EVERY_ACTIVATION[(n + k) % len(EVERY_ACTIVATION)] for k in range(3))
    layer = LSTM(9, activation=first, recurrent_activation=second, variant=Variant(output_activation=third))
    layer = replace(layer, return_sequences=True)
    compare(layer, *drawn(layer, B, T, D))


VARIANTS = {
    "peephole": Variant(peephole=True),
    "input = 1 - forget": Variant(coupled="input"),
    "forget = 1 - input": Variant(coupled="forget", peephole=True),
    "no forget gate": Variant(forget_gate=False),
    "no forget gate, peephole": Variant(forget_gate=False, peephole=True),
    "output activation": Variant(output_activation="softsign"),
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_variants(variant):
    layer = LSTM(17, variant=variant, return_sequences=True)
    arguments = drawn(layer, B, T, D)
    options = {"mask": jnp.asarray(MASK), "reset": jnp.asarray(RESET)}
    compare(layer, *arguments, options | {"reset_state": cases.lstm_state(cases.state(8, B, 17))})


@pytest.mark.parametrize(
    ("implementation", "recurrent_dropout", "rows"),
    [(2, 0.0, 7), (1, 0.0, 7), (2, 0.4, 7), (1, 0.0, 2), (2, 0.4, 2)],  # few rows go another way in the kernel
)
def test_dropout(implementation, recurrent_dropout, rows):
    layer = LSTM(
        10, dropout=0.4, recurrent_dropout=recurrent_dropout, implementation=implementation, return_sequences=True
    )
    arguments = drawn(layer, rows, T, D)
    dropped, _ = compare(layer, *arguments, {}, key_of(1))
    kept, _ = compiled(replace(layer, backend="cpu"), *arguments)
    assert not np.allclose(dropped[1], kept[1], atol=1e-3)


# --- against the oracle ---------------------------------------------------------------------------------------------

ORACLE = {
    "plain": (LSTM(N := 9, return_sequences=True), {}),
    "mask, reset state": (
        LSTM(N, return_sequences=True, zero_output_for_mask=True),
        {"mask": MASK, "reset": RESET, "reset_state": cases.state(8, B, N)},
    ),
    "backwards, last output": (LSTM(N, go_backwards=True), {"lengths": np.array([7, 0, 3, 1, 6])}),
    "peephole, coupled": (LSTM(N, variant=Variant(peephole=True, coupled="input"), return_sequences=True), {}),
    "hard": (LSTM(N, activation="softsign", recurrent_activation="hard_sigmoid", return_sequences=True), {}),
}


@pytest.mark.parametrize(("layer", "options"), ORACLE.values(), ids=ORACLE)
def test_values_and_gradients_match_the_oracle(layer, options):
    weights = cases.weights(1, D, N, peephole=layer.variant.peephole)
    state, x = cases.state(2, B, N), cases.inputs(3, B, T, D)
    as_jax = {k: cases.lstm_state(v) if k == "reset_state" else jnp.asarray(v) for k, v in options.items()}
    arguments = cases.params(weights), cases.lstm_state(state), cases.array(x), as_jax
    (got, y), grads = compiled(replace(layer, backend="cpu"), *arguments)

    variant = {"peephole": layer.variant.peephole, "coupled": layer.variant.coupled}
    names = ("activation", "recurrent_activation", "go_backwards", "return_sequences", "zero_output_for_mask")
    fields = {name: getattr(layer, name) for name in names} | variant

    def oracle(weights, state, x):
        return reference.lstm(weights, state, x, **options, **fields)

    (h, c), expected = oracle(weights, state, x)
    cases.close((got.h, got.c, y), (h, c, expected), **cases.F32)

    def loss(weights, state, x):  # as in both.py
        (h, c), y = oracle(weights, state, x)
        return sum(np.sum(a * np.cos(np.arange(a.size) + n).reshape(a.shape)) for n, a in enumerate((h, c, y)))

    eps, rng = 1e-6, np.random.default_rng(9)
    moves = {name: rng.normal(0, 1, w.shape) / np.sqrt(w.size) for name, w in weights.items()}
    of_state, of_x = [rng.normal(0, 0.1, a.shape) for a in state], rng.normal(0, 0.1, x.shape)
    slopes = {
        **{name: np.sum(np.asarray(getattr(grads["params"], name)) * moves[name]) for name in weights},
        "state": np.sum(grads["state"].h * of_state[0]) + np.sum(grads["state"].c * of_state[1]),
        "x": np.sum(grads["x"] * of_x),
    }
    for name, slope in slopes.items():
        ends = []
        for sign in (eps, -eps):
            moved = {**weights, name: weights[name] + sign * moves[name]} if name in weights else weights
            at = [a + sign * m for a, m in zip(state, of_state, strict=True)] if name == "state" else state
            ends.append(loss(moved, at, x + sign * of_x if name == "x" else x))
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * eps), **DIFFERENCE, err_msg=name)


# --- numbers that are none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e38])
@pytest.mark.parametrize("backwards", [False, True])
def test_padding_reaches_neither_values_nor_gradients(garbage, backwards):
    layer = LSTM(5, return_sequences=True, go_backwards=backwards, backend="cpu")
    params, state, x = drawn(layer, B, T, D)
    mask = jnp.asarray(MASK)
    clean, padded = (
        compiled(layer, params, state, jnp.where(mask[:, :, None], x, fill), {"mask": mask}) for fill in (0.0, garbage)
    )
    cases.same_bits(padded, clean)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(padded))
    assert not np.any(padded[1]["x"][~MASK])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("units", [5, 16])  # with and without units that are there for the sake of the vectors
@pytest.mark.parametrize("where", ["x", "h", "c"])
def test_what_is_not_finite_goes_as_far_as_in_the_scan(value, units, where):
    layer = LSTM(units, return_sequences=True)
    params, state, x = drawn(layer, B, T, D)
    if where == "x":
        x = x.at[1, 2, 1].set(value)
    else:
        state = replace(state, **{where: getattr(state, where).at[1, 3].set(value)})
    compare(layer, params, state, x)


@pytest.mark.parametrize("activation", ["relu", "hard_sigmoid", "softsign"])
@pytest.mark.parametrize("recurrent_activation", ["hard_tanh", "hard_sigmoid"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_through_other_activations(activation, recurrent_activation, value):
    layer = LSTM(5, activation=activation, recurrent_activation=recurrent_activation, return_sequences=True)
    params, state, x = drawn(layer, B, T, D)
    compare(layer, params, state, x.at[1, 2, 1].set(value))


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, 0xFFFFFFFF, 0x7FC001FF, 0x7F800001])
def test_a_nan_of_any_bits_stays_one_in_each_gate(bits):
    layer = LSTM(5, return_sequences=True, backend="cpu")
    params, state, x = drawn(layer, B, T, D)
    bias = np.array(params.bias)
    bias.view(np.uint32)[[0, 5 + 1, 10 + 2, 15 + 3]] = bits  # unit n in gate n
    _, y = jax.jit(layer.apply)(replace(params, bias=bias), state, x)
    assert np.all(np.isnan(y[:, :, :4]))


def test_denormal_numbers_are_treated_as_in_the_scan():
    # enough rows that threads share the work: each must treat them alike
    layer, rows = LSTM(24, activation="linear", use_bias=False, return_sequences=True), 64
    params, _, _ = drawn(layer, 1, 1, 24)
    params = jax.tree.map(jnp.zeros_like, params)  # c' = c / 2, h = c' / 2
    tiny = np.float32(1e-38) * np.linspace(0.01, 4, rows * 24, dtype=np.float32).reshape(rows, 24)
    state = cases.lstm_state((tiny, tiny))
    x = jnp.zeros((rows, 40, 24))
    (got, y), _ = compiled(replace(layer, backend="cpu"), params, state, x)
    (expected, expected_y), _ = compiled_reference(replace(layer, backend="xla"), params, state, x)
    cases.same_bits((got, y), (expected, expected_y))


# --- corners of the hard activations --------------------------------------------------------------------------------

# Where the output is the same on both sides, the kernel, which keeps outputs alone, takes the slope of the flat side.
FLAT = pytest.mark.xfail(reason="the scan has slope 1 (hard_tanh) or half of alpha (clip) at a corner, the kernel 0")
CORNERS = {
    "relu at 0": (LSTM(3, activation="relu"), 1.0, 0.0),
    "hard_sigmoid at 3": (LSTM(3, recurrent_activation="hard_sigmoid"), 3.0, 0.5),
    "HardSigmoid at 1": (LSTM(3, recurrent_activation=HardSigmoid(alpha=0.5, beta=1.0)), 0.0, 0.5),
    "hard_tanh of the gates at 1": (LSTM(3, recurrent_activation="hard_tanh"), 1.0, 0.5),
    # the cell starts at 0 and the gates are 1: c = 1 at once
    "hard_tanh of the cell at 1": (LSTM(3, activation="hard_tanh", recurrent_activation="hard_sigmoid"), 5.0, 5.0),
}
CORNERS = [
    pytest.param(*case, id=name, marks=[FLAT] if name.startswith(("Hard", "hard_tanh")) else [])
    for name, case in CORNERS.items()
]


@pytest.mark.parametrize(("layer", "of_gates", "of_candidate"), CORNERS)
def test_slopes_at_the_corners(layer, of_gates, of_candidate):
    layer = replace(layer, return_sequences=True)
    params, _, _ = drawn(layer, 2, 3, 2)
    bias = jnp.repeat(jnp.array([of_gates, of_gates, of_candidate, of_gates]), 3)
    params = replace(jax.tree.map(jnp.zeros_like, params), bias=bias)
    zero = cases.lstm_state((np.zeros((2, 3)), np.zeros((2, 3))))
    compare(layer, params, zero, jnp.ones((2, 3, 2)))


# --- dtypes and empty batches ---------------------------------------------------------------------------------------


def test_bfloat16_is_computed_in_float32():
    layer = LSTM(12, return_sequences=True)
    params, state, x = drawn(layer, B, T, D, dtype="bfloat16")
    options = {"mask": jnp.asarray(MASK), "reset": jnp.asarray(RESET), "reset_state": state}
    (got, y), grads = compiled(replace(layer, backend="cpu"), params, state, x, options)
    wide = compiled_reference(replace(layer, backend="xla"), params, state, x.astype("float32"), options)
    assert (y.dtype, got.h.dtype, got.c.dtype) == ("bfloat16", "float32", "float32")
    assert (grads["params"].kernel.dtype, grads["x"].dtype) == ("float32", "bfloat16")
    agree(got, wide[0][0])
    agree(y.astype("float32"), wide[0][1], ONE_ROUNDING)
    # the gradient of y comes rounded to bfloat16, and those of the weights add such errors
    for name in ("params", "state", "reset_state", "x"):
        agree(jax.tree.map(lambda a: a.astype("float32"), grads[name]), wide[1][name], 2 * ONE_ROUNDING)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dtype_of_the_layer(dtype):
    layer = LSTM(12, dtype=dtype, return_sequences=True, backend="cpu")
    params, state, x = drawn(layer, B, T, D)
    (got, y), grads = compiled(layer, params, state, x)
    assert (y.dtype, got.h.dtype, grads["x"].dtype) == (dtype, "float32", "float32")


@pytest.mark.parametrize(("rows", "steps"), [(0, 3), (2, 0), (0, 0)])
def test_no_rows_or_no_steps(rows, steps):
    layer = LSTM(5, return_sequences=True)
    options = {"mask": jnp.ones((rows, steps), bool), "reset": jnp.zeros((rows, steps), bool)}
    reset_state = cases.lstm_state(cases.state(4, rows, 5))
    compare(layer, *drawn(layer, rows, steps, 3), options | {"reset_state": reset_state})
