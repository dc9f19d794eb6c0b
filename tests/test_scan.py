"""The cell over time, one example: masks, resets, direction, chunks, rematerialisation."""

from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jlstm import LSTMParams, LSTMState, lstm_cell, lstm_scan

D, N, T = 3, 4, 7
WEIGHTS = cases.weights(1, D, N)
STATE = cases.state(2, (), N)
RESET_STATE = cases.state(3, (), N)
XS = cases.inputs(4, T, D)
MASKS = {
    "no mask": None,
    "right padding": [1, 1, 1, 1, 1, 0, 0],
    "a hole": [1, 1, 0, 0, 1, 1, 1],
    "leading False": [0, 0, 1, 1, 0, 1, 1],
    "all False": [0] * 7,
}
RESETS = {"no reset": None, "one reset": [0, 0, 0, 1, 0, 0, 0], "resets": [1, 0, 1, 1, 0, 0, 1]}


def bools(values):
    return None if values is None else jnp.array(values, bool)


@partial(jax.jit, static_argnames=("reverse", "unroll", "remat_every", "activation"))
def scan(params, state, xs, **options):
    return lstm_scan(params, state, xs, **options)


def run(xs=None, state=None, params=None, **options):
    return scan(
        cases.params(WEIGHTS) if params is None else params,
        cases.lstm_state(STATE) if state is None else state,
        cases.array(XS) if xs is None else xs,
        **options,
    )


def expect(mask=None, reset=None, reset_state=None, **options):
    """The oracle on a batch of one, without its batch axis."""
    in_batch = {"mask": mask, "reset": reset}
    in_batch = {k: None if v is None else np.array([v], bool) for k, v in in_batch.items()}
    if reset_state is not None:
        reset_state = tuple(part[None] for part in reset_state)
    (h, c), y = reference.lstm(
        WEIGHTS, tuple(part[None] for part in STATE), XS[None], reset_state=reset_state, **in_batch, **options
    )
    return LSTMState(h=h[0], c=c[0]), y[0]


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("reset", RESETS.values(), ids=RESETS)
def test_mask_and_reset_match_the_oracle(mask, reset):
    cases.close(run(mask=bools(mask), reset=bools(reset)), expect(mask, reset), **cases.F32)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_reverse_matches_the_oracle(mask):
    # hs stays in the order of xs, and the state is the one after reading xs[0]
    expected = expect(mask, go_backwards=True, keep_order=True)
    cases.close(run(mask=bools(mask), reverse=True), expected, **cases.F32)


@pytest.mark.parametrize("mask", [None, MASKS["leading False"]])
def test_reset_state_is_what_a_reset_starts_from(mask):
    got = run(mask=bools(mask), reset=bools(RESETS["resets"]), reset_state=cases.lstm_state(RESET_STATE))
    cases.close(got, expect(mask, RESETS["resets"], RESET_STATE), **cases.F32)


def test_masked_steps_keep_state_and_output_to_the_bit():
    mask = bools([0, 1, 0, 0, 1, 0, 0])
    state, hs = run(mask=mask)
    initial = cases.lstm_state(STATE)
    np.testing.assert_array_equal(hs[0], initial.h)
    for t in (2, 3):
        np.testing.assert_array_equal(hs[t], hs[1])
    for t in (5, 6):
        np.testing.assert_array_equal(hs[t], hs[4])
    np.testing.assert_array_equal(state.h, hs[4])
    # what is left when the masked steps are cut out
    cases.close(state, run(xs=cases.array(XS)[jnp.array([1, 4])])[0], **cases.SAME)
    cases.same_bits(run(mask=jnp.zeros(T, bool))[0], initial)


def test_a_reset_on_a_masked_step_resets():
    # reset at step 2 and nothing valid after it: the state is the reset one
    state, hs = run(mask=bools([1, 1, 0, 0, 0, 0, 0]), reset=bools([0, 0, 1, 0, 0, 0, 0]))
    assert not np.any(state.h)
    assert not np.any(state.c)
    assert np.all(hs[1] != 0)
    assert not np.any(hs[2:])


def test_a_reset_at_every_step_forgets_everything():
    _, hs = run(reset=jnp.ones(T, bool))
    zeros = LSTMState(h=jnp.zeros(N), c=jnp.zeros(N))
    lone = [lstm_cell(cases.params(WEIGHTS), zeros, x)[1] for x in cases.array(XS)]
    cases.close(hs, jnp.stack(lone), **cases.SAME)


# --- padding that holds NaN ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_reaches_neither_values_nor_gradients(garbage, reverse):
    mask = np.array(MASKS["leading False"], bool)

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    def loss(params, state, xs):
        state, hs = lstm_scan(params, state, xs, mask=jnp.asarray(mask), reverse=reverse)
        return jnp.sum(hs**2) + jnp.sum(state.c**2), (state, hs)

    arguments = cases.params(WEIGHTS), cases.lstm_state(STATE)
    clean = loss(*arguments, cases.array(np.where(mask[:, None], XS, 0)))
    padded = loss(*arguments, cases.array(np.where(mask[:, None], XS, garbage)))
    cases.same_bits(padded, clean)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(padded))
    of_xs = padded[1][2]
    assert not np.any(of_xs[~mask])
    assert np.all(of_xs[mask] != 0)


# --- resets and gradients -------------------------------------------------------------------------------------------


def test_gradients_do_not_cross_a_reset_except_into_reset_state():
    reset = bools(RESETS["one reset"])  # before step 3

    def loss(state, xs, reset_state):
        state, hs = run(xs, state, reset=reset, reset_state=reset_state)
        return jnp.sum(hs[3:] ** 2) + jnp.sum(state.c**2)

    of_state, of_xs, of_reset_state = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(
        cases.lstm_state(STATE), cases.array(XS), cases.lstm_state(RESET_STATE)
    )
    assert not np.any(of_state.h)
    assert not np.any(of_state.c)
    assert not np.any(of_xs[:3])
    assert np.all(of_xs[3:] != 0)
    # reset_state is to the steps after the reset what an initial state is
    from_there = jax.grad(
        lambda s: sum(jnp.sum(a**2) for a in (run(cases.array(XS)[3:], s)[1], run(cases.array(XS)[3:], s)[0].c))
    )
    cases.close(of_reset_state, from_there(cases.lstm_state(RESET_STATE)), **cases.F32_GRAD)


def test_gradients_flow_through_a_state_passed_in():
    of_state = jax.grad(lambda s: jnp.sum(run(state=s)[1]))(cases.lstm_state(STATE))
    eps = 1e-6
    for name, leaf in (("h", 0), ("c", 1)):
        for n in range(N):
            sums = []
            for sign in (1, -1):
                moved = [part.copy()[None] for part in STATE]
                moved[leaf][0, n] += sign * eps
                sums.append(reference.lstm(WEIGHTS, moved, XS[None])[1].sum())
            # the central difference of the oracle is exact to about 1e-9
            np.testing.assert_allclose(getattr(of_state, name)[n], (sums[0] - sums[1]) / (2 * eps), **cases.F32_GRAD)


def test_a_stop_gradient_by_the_caller_truncates():
    def loss(state, cut):
        state, _ = run(cases.array(XS)[:4], state)
        if cut:
            state = jax.lax.stop_gradient(state)
        return jnp.sum(run(cases.array(XS)[4:], state)[1])

    assert not np.any(jax.grad(loss)(cases.lstm_state(STATE), True).c)
    assert np.all(jax.grad(loss)(cases.lstm_state(STATE), False).c != 0)


# --- the same numbers on other ways ---------------------------------------------------------------------------------


def test_any_split_into_chunks_equals_the_whole():
    steps = 4
    mask, reset = bools([0, 1, 0, 1]), bools([0, 0, 1, 1])
    reset_state = cases.lstm_state(RESET_STATE)

    def outputs(params, state, xs, cuts):
        hs = []
        for part in [slice(a, b) for a, b in zip((0, *cuts), (*cuts, steps), strict=True)]:
            state, h = lstm_scan(params, state, xs[part], mask=mask[part], reset=reset[part], reset_state=reset_state)
            hs.append(h)
        hs = jnp.concatenate(hs)
        return jnp.sum(hs**2) + jnp.sum(state.c * state.h), (state, hs)

    arguments = cases.params(WEIGHTS), cases.lstm_state(STATE), cases.array(XS)[:steps]
    run_cut = jax.jit(jax.value_and_grad(outputs, argnums=(0, 1, 2), has_aux=True), static_argnums=3)
    (_, whole), whole_grads = run_cut(*arguments, ())
    for cuts in [*((t,) for t in range(steps + 1)), (1, 2, 3)]:
        (_, parts), grads = run_cut(*arguments, cuts)
        cases.close(parts, whole, **cases.SAME)
        cases.close(grads, whole_grads, **cases.F32_GRAD)


def test_calls_of_the_cell_equal_the_scan():
    state, hs = cases.lstm_state(STATE), []
    for x in cases.array(XS):
        state, h = lstm_cell(cases.params(WEIGHTS), state, x)
        hs.append(h)
    cases.close((state, jnp.stack(hs)), run(), **cases.SAME)


def test_a_batch_is_a_vmap():
    B = 3
    xs, state = cases.inputs(5, B, T, D), cases.state(6, B, N)
    got, hs = jax.vmap(lstm_scan, in_axes=(None, 0, 0))(cases.params(WEIGHTS), cases.lstm_state(state), cases.array(xs))
    (h, c), y = reference.lstm(WEIGHTS, state, xs)
    cases.close((got.h, got.c, hs), (h, c, y), **cases.F32)


@pytest.mark.parametrize("unroll", [2, T, 50, True, False])
def test_unroll_changes_nothing(unroll):
    options = {"mask": bools(MASKS["leading False"]), "reset": bools(RESETS["one reset"])}
    cases.close(run(unroll=unroll, **options), run(**options), **cases.SAME)


@pytest.mark.parametrize(
    ("k", "way"),
    [(1, "forwards"), (3, "forwards"), (T, "forwards"), (10, "forwards"), (3, "backwards"), (10, "backwards")],
)
def test_remat_every_changes_neither_values_nor_gradients(k, way):
    options = {"mask": bools(MASKS["leading False"])}
    if way == "forwards":
        options |= {"reset": bools(RESETS["resets"]), "reset_state": cases.lstm_state(RESET_STATE)}
    else:
        options |= {"reverse": True}

    def outputs(params, state, xs, remat_every):
        state, hs = lstm_scan(params, state, xs, remat_every=remat_every, **options)
        return jnp.sum(hs**2) + jnp.sum(state.c**2), (state, hs)

    run_remat = jax.jit(jax.value_and_grad(outputs, argnums=(0, 1, 2), has_aux=True), static_argnums=3)
    arguments = cases.params(WEIGHTS), cases.lstm_state(STATE), cases.array(XS)
    (_, got), grads = run_remat(*arguments, k)
    (_, expected), expected_grads = run_remat(*arguments, None)
    cases.close(got, expected, **cases.SAME)
    cases.close(grads, expected_grads, **cases.F32_GRAD)


def test_remat_every_saves_memory():
    n, steps = 32, 1024
    weights = cases.params(cases.weights(1, 1, n))
    zeros = LSTMState(h=jnp.zeros(n), c=jnp.zeros(n))

    def temporaries(k):
        def loss(params, xs):
            return jnp.sum(lstm_scan(params, zeros, xs, remat_every=k)[0].c)

        compiled = jax.jit(jax.grad(loss)).lower(weights, jnp.zeros((steps, 1))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # √1024 = 32 steps a chunk: 32 states and one chunk's insides, instead of 1024 of each
    assert temporaries(32) < temporaries(None) / 4


@pytest.mark.parametrize("remat_every", [None, 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_no_steps_return_the_state_given(reverse, remat_every):
    empty = {"mask": jnp.zeros(0, bool)} | ({} if reverse else {"reset": jnp.zeros(0, bool)})
    state, hs = run(jnp.zeros((0, D)), reverse=reverse, remat_every=remat_every, **empty)
    cases.same_bits(state, cases.lstm_state(STATE))
    assert hs.shape == (0, N)


@pytest.mark.parametrize("remat_every", [None, 2])
def test_dtypes_in_the_loop(remat_every):
    state, hs = run(
        cases.array(XS, "bfloat16"),
        mask=bools(MASKS["a hole"]),
        reset=bools(RESETS["one reset"]),
        reset_state=cases.lstm_state(RESET_STATE, "bfloat16"),
        remat_every=remat_every,
    )
    assert (state.h.dtype, state.c.dtype, hs.dtype) == ("float32", "float32", "bfloat16")
    cases.close((state, hs), expect(MASKS["a hole"], RESETS["one reset"], RESET_STATE), **cases.BF16)


def test_float64_matches_the_oracle_to_rounding():
    with jax.enable_x64(True):
        params, state = cases.params(WEIGHTS, "float64"), cases.lstm_state(STATE, "float64")
        got = lstm_scan(
            params, state, jnp.asarray(XS), mask=bools(MASKS["leading False"]), reset=bools(RESETS["resets"])
        )
        cases.close(got, expect(MASKS["leading False"], RESETS["resets"]), **cases.F64)


# --- what XLA is given ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remat_every", [None, 4])
def test_the_cell_is_traced_once_whatever_the_number_of_steps(remat_every):
    def count(steps):
        calls = []

        def activation(x):
            calls.append(x)
            return jnp.tanh(x)

        state = cases.lstm_state(STATE)
        options = {"activation": activation, "remat_every": remat_every}
        jax.make_jaxpr(partial(lstm_scan, **options))(cases.params(WEIGHTS), state, jnp.zeros((steps, D)))
        return len(calls)

    # twice a cell: for the candidate and for the output; a remainder of steps is a second loop
    assert count(8) == count(400)
    assert count(8) <= (2 if remat_every is None else 4)


def test_an_absent_option_adds_nothing_to_the_loop():
    def primitives(**options):
        text = str(jax.make_jaxpr(lambda xs: run(xs, **options))(cases.array(XS)))
        return text.count("select_n")

    assert primitives() == 0
    assert primitives(mask=jnp.ones(T, bool)) > 0


def test_weights_without_bias():
    weights = {k: v for k, v in WEIGHTS.items() if k != "bias"}
    got = lstm_scan(
        LSTMParams(**{k: cases.array(v) for k, v in weights.items()}), cases.lstm_state(STATE), cases.array(XS)
    )
    (h, c), y = reference.lstm(weights, tuple(part[None] for part in STATE), XS[None])
    cases.close(got, (LSTMState(h=h[0], c=c[0]), y[0]), **cases.F32)
