"""flax's linen and nnx cells beside the specs made of them, and the modules made of specs."""

import sys
from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import QUICKLY_COMPILED
from flax import nnx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jax_peer import ch, drawn, error, normal, worst_error

import jlstm
from jlstm import LSTM, Bidirectional, Directions, LSTMState, Stack, Variant
from jlstm.interop import from_linen, from_nnx, to_linen, to_nnx

TITLE = "flax"
LIMIT = 3e-5
B, T, D, N = 2, 4, 3, 5
SHAPE = jnp.zeros((B, T, D))
LENGTHS = jnp.array([4, 2])
SEQUENCES = LSTM(N, return_sequences=True)


# --- running flax --------------------------------------------------------------------------------------------------


def linen(make):
    """A linen module as from_linen takes it, all its weights drawn, and how it runs."""
    module = make(nn, lambda cell, _, *sizes, **options: getattr(nn, cell)(*sizes, **options))
    variables = normal(jax.eval_shape(module.init, jax.random.key(0), *example(module, nn)), 0)
    return (module, variables), (module.apply, variables), lambda gradient: from_linen(module, gradient)[1]


def nnx_(make):
    """The same of nnx."""
    module = make(nnx, lambda cell, *sizes, **options: getattr(nnx, cell)(*sizes, rngs=nnx.Rngs(0), **options))
    return of_nnx(module)


def of_nnx(module, redraw=True):
    """An nnx module and how it runs as a function of its weights."""
    graph, weights, rest = nnx.split(module, nnx.Param, ...)
    if redraw:
        weights = normal(weights, 0)
        module = nnx.merge(graph, weights, fresh(rest))

    def run(weights, *arguments, **options):
        return nnx.merge(graph, weights, fresh(rest))(*arguments, **options)

    return (module,), (run, weights), lambda gradient: from_nnx(nnx.merge(graph, gradient, fresh(rest)))[1]


def fresh(state):
    """The same state in Variables of their own, which a trace may write to."""
    return jax.tree.map(lambda a: a, state)


def example(module, flax):
    """What a linen module's init takes."""
    if isinstance(module, (flax.RNN, flax.Bidirectional, flax.Sequential)):
        return (SHAPE,)
    return (jnp.zeros((B, N)),) * 2, SHAPE[:, 0]


def compare(spec, params, theirs, convert, *, lengths=None, cell=False, states=True):
    """The worst error between a spec and a flax module; states: whether the module gives its final carry."""
    run, weights = theirs
    state, x = drawn(spec, D, B, T)
    valid = jnp.ones((B, T), bool) if lengths is None else jnp.arange(T) < lengths[:, None]

    def ours(params, state, x):
        if cell:
            final, y = spec.step(params, state, x[:, 0])
            return y, ch(final)
        final, y = spec.apply(params, state, x, lengths=lengths)
        return jax.tree.map(partial(jnp.where, valid[..., None]), y, jax.tree.map(jnp.zeros_like, y)), states and ch(
            final
        )

    def flaxs(weights, state, x):
        if cell:
            final, y = run(weights, ch(state), x[:, 0])
            return y, final
        if not states:
            return run(weights, x), False
        final, y = run(weights, x, initial_carry=ch(state), seq_lengths=lengths, return_carry=True)
        return jax.tree.map(partial(jnp.where, valid[..., None]), y, jax.tree.map(jnp.zeros_like, y)), final

    if not states:  # Sequential starts from zeros
        state = jax.tree.map(jnp.zeros_like, state)
        loose = ours
        ours = lambda params, _, x: loose(params, state, x)  # noqa: E731
    return worst_error((ours, params), (flaxs, weights), convert, state, x)


# --- the features --------------------------------------------------------------------------------------------------


def lstm_cell(flax, cell):
    return cell("LSTMCell", D, N)


def optimized_cell(flax, cell):
    return cell("OptimizedLSTMCell", D, N)


def activations(flax, cell):
    return cell("LSTMCell", D, N, gate_fn=jax.nn.hard_sigmoid, activation_fn=jnp.sin)


def rnn(flax, cell):
    return flax.RNN(cell("LSTMCell", D, N))


def reverse(flax, cell):
    return flax.RNN(cell("OptimizedLSTMCell", D, N), reverse=True, unroll=2)


def reverse_keep_order(flax, cell):
    return flax.RNN(cell("OptimizedLSTMCell", D, N), reverse=True, keep_order=True)


def bidirectional(flax, cell, **options):
    return flax.Bidirectional(flax.RNN(cell("LSTMCell", D, N)), flax.RNN(cell("OptimizedLSTMCell", D, N)), **options)


def summed(flax, cell):
    return bidirectional(flax, cell, merge_fn=jnp.add)


def stack(flax, cell):
    layers = [bidirectional(flax, cell), flax.RNN(cell("LSTMCell", 2 * N, 2), reverse=True, keep_order=True)]
    return flax.Sequential(*layers) if flax is nnx else flax.Sequential(layers)


def read(kind, make, **options):
    """From flax: make a module, read it, compare."""
    source, theirs, convert = kind(make)
    spec, params = (from_linen if kind is linen else from_nnx)(*source)
    return compare(spec, params, theirs, convert, **options)


def written(kind, spec, cell="OptimizedLSTMCell", **options):
    """To flax: write a spec, compare."""
    params = normal(jax.eval_shape(lambda key: spec.init(key, D), jax.random.key(0)), 0)
    if kind is linen:
        module, variables = to_linen(spec, params, cell=getattr(nn, cell))
        theirs, convert = (module.apply, variables), lambda gradient: from_linen(module, gradient)[1]
    else:
        _, theirs, convert = of_nnx(to_nnx(spec, params, cell=getattr(nnx, cell)), redraw=False)
    return compare(spec, params, theirs, convert, **options)


READ = {
    "LSTMCell": (lstm_cell, {"cell": True}),
    "OptimizedLSTMCell": (optimized_cell, {"cell": True}),
    "activations": (activations, {"cell": True}),
    "lengths": (rnn, {"lengths": LENGTHS}),
    "reverse, processing order": (reverse, {}),
    "reverse, lengths": (reverse_keep_order, {"lengths": LENGTHS}),
    "bidirectional, lengths": (bidirectional, {"lengths": LENGTHS}),
    "bidirectional, merge_fn": (summed, {}),
    "layers": (stack, {"states": False}),
}
BACKWARDS = LSTM(N, go_backwards=True, return_sequences=True)
OF_TWO_KINDS = Bidirectional(SEQUENCES, replace(BACKWARDS, units=4, activation="softsign"))
WRITTEN = {
    "LSTMCell": (SEQUENCES, {"cell": "LSTMCell"}),
    "OptimizedLSTMCell": (replace(SEQUENCES, unroll=True), {}),
    "lengths": (SEQUENCES, {"lengths": LENGTHS}),
    "activations": (
        replace(SEQUENCES, activation="elu", recurrent_activation=jlstm.HardSigmoid(0.3), unroll=True), {}
    ),
    "reverse, processing order": (BACKWARDS, {}),
    "reverse, lengths": (replace(BACKWARDS, keep_order=True), {"lengths": LENGTHS}),
    "bidirectional, lengths": (OF_TWO_KINDS, {"lengths": LENGTHS}),
    "bidirectional, merge_fn": (Bidirectional(SEQUENCES, merge_mode="ave"), {"cell": "LSTMCell"}),
    "layers": (Stack((OF_TWO_KINDS, replace(BACKWARDS, units=2))), {"states": False}),
}  # fmt: skip


def features():
    """Each feature of both kinds in both directions."""
    made = {}
    for kind, name in ((linen, "linen"), (nnx_, "nnx")):
        for feature, (make, options) in READ.items():
            made["from", f"{name}: {feature}"] = partial(read, kind, make, **options)
        for feature, (spec, options) in WRITTEN.items():
            made["to", f"{name}: {feature}"] = partial(written, kind, spec, **options)
    return made


FEATURES = features()


@pytest.mark.lenient
@pytest.mark.parametrize(("direction", "feature"), FEATURES)
def test_agrees(direction, feature):
    assert FEATURES[direction, feature]() < LIMIT


@settings(
    max_examples=12 if settings().max_examples < 200 else 200,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],
)
@given(rng=st.randoms(use_true_random=True))
@pytest.mark.lenient
def test_any_cell_agrees(rng):
    """Three steps of a cell, each beside flax's."""
    units, functions = rng.choice((1, 4)), [jnp.tanh, jax.nn.sigmoid, jax.nn.hard_tanh, jax.nn.soft_sign, jnp.arctan]
    options = {"gate_fn": rng.choice(functions), "activation_fn": rng.choice(functions)}
    kind, cell = rng.choice((linen, nnx_)), rng.choice(("LSTMCell", "OptimizedLSTMCell"))
    state = normal(LSTMState(h=jnp.zeros((B, units)), c=jnp.zeros((B, units))), rng.randrange(2**16))
    xs = normal(jnp.zeros((3, B, D)), rng.randrange(2**16), 1.0)
    if kind is linen:
        module = getattr(nn, cell)(units, **options)
        shapes = jax.eval_shape(module.init, jax.random.key(0), (state.c, state.h), xs[0])
        weights = normal(shapes, rng.randrange(2**16))
        run, source, convert = module.apply, (module, weights), lambda gradient: from_linen(module, gradient)[1]
    else:
        source, (run, weights), convert = of_nnx(getattr(nnx, cell)(D, units, rngs=nnx.Rngs(0), **options))
    spec, params = (from_linen if kind is linen else from_nnx)(*source)

    def ours(params, state, xs):
        for x in xs:
            state, _ = spec.step(params, state, x)
        return jnp.sum(state.h**2) + jnp.sum(state.c), state

    def theirs(weights, state, xs):
        carry = ch(state)
        for x in xs:
            carry, _ = run(weights, carry, x)
        return jnp.sum(carry[1] ** 2) + jnp.sum(carry[0]), LSTMState(h=carry[1], c=carry[0])

    def differentiated(function):
        return jax.jit(jax.grad(function, argnums=(0, 1, 2), has_aux=True), compiler_options=QUICKLY_COMPILED)

    gradients, final = differentiated(ours)(params, state, xs)
    wanted, expected = differentiated(theirs)(weights, state, xs)
    worst = jax.tree.leaves(jax.tree.map(partial(error, smallest=1.0), final, expected))
    worst += jax.tree.leaves(jax.tree.map(error, gradients, (convert(wanted[0]), *wanted[1:])))
    assert max(worst) < LIMIT


# --- configuration -------------------------------------------------------------------------------------------------


def linen_weights(module):
    return module.init(jax.random.key(0), *example(module, nn))


def test_configuration_is_read():
    cell = nn.LSTMCell(N, gate_fn=jax.nn.hard_sigmoid, activation_fn=jnp.sin, dtype=jnp.bfloat16)
    spec, _ = from_linen(nn.RNN(cell, reverse=True, unroll=3), linen_weights(RNN))
    assert spec == LSTM(
        N, recurrent_activation="hard_sigmoid", activation=jnp.sin, dtype="bfloat16", return_sequences=True,
        go_backwards=True, unroll=3,
    )  # fmt: skip
    zeros = nnx.initializers.zeros  # the default one, orthogonal, knows no float16
    cell = nnx.OptimizedLSTMCell(D, N, param_dtype=jnp.float16, recurrent_kernel_init=zeros, rngs=nnx.Rngs(0))
    spec, params = from_nnx(nnx.RNN(cell, reverse=True, keep_order=True))
    assert spec == LSTM(N, param_dtype="float16", return_sequences=True, go_backwards=True, keep_order=True)
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("float16")}
    assert from_nnx(cell)[0] == LSTM(N, param_dtype="float16", return_sequences=True, keep_order=True)


def test_a_direction_of_bidirectional_ignores_what_flax_ignores():
    layer = nnx.Bidirectional(
        nnx.RNN(nnx.LSTMCell(D, N, rngs=nnx.Rngs(0)), reverse=True), nnx.RNN(nnx.LSTMCell(D, N, rngs=nnx.Rngs(1)))
    )
    assert from_nnx(layer)[0] == Bidirectional(replace(SEQUENCES, keep_order=True))


@pytest.mark.parametrize("cell", ["LSTMCell", "OptimizedLSTMCell"])
def test_a_round_trip_keeps_every_bit(cell):
    rest = LSTM(3, return_sequences=True, go_backwards=True, keep_order=True, activation="relu", dtype="float32")
    both = Bidirectional(replace(SEQUENCES, keep_order=True), merge_mode="mul")
    spec = Stack((both, Stack((rest,)), Bidirectional(replace(SEQUENCES, keep_order=True), merge_mode=None)))
    params = spec.init(jax.random.key(0), D)
    for again in (
        from_linen(*to_linen(spec, params, cell=getattr(nn, cell))),
        from_nnx(to_nnx(spec, params, cell=getattr(nnx, cell))),
    ):
        assert again[0] == spec
        jax.tree.map(np.testing.assert_array_equal, again[1], params)


def test_the_two_kinds_of_cell_have_the_same_weights_in_linen():
    params = SEQUENCES.init(jax.random.key(0), D)
    (_, a), (_, b) = (to_linen(SEQUENCES, params, cell=cell) for cell in (nn.LSTMCell, nn.OptimizedLSTMCell))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert a["params"]["cell"]["hf"]["bias"].tolist() == [1] * N


def test_partitioned_weights_are_read():
    module = nn.RNN(nn.LSTMCell(N, kernel_init=nn.with_partitioning(nn.initializers.ones, (None, "model"))))
    _, params = from_linen(module, linen_weights(module))
    np.testing.assert_array_equal(params.kernel, np.ones((D, 4 * N)))


# --- errors --------------------------------------------------------------------------------------------------------

RNN = nn.RNN(nn.LSTMCell(N))
PARTS = Directions(RNN, nn.RNN(nn.LSTMCell(N)))
BOTH = nn.Bidirectional(PARTS.forward, PARTS.backward)
LARGEST = BOTH.clone(merge_fn=jnp.maximum)
WIDER = LSTM(N + 1, return_sequences=True)


def of_cell(module, *arguments):
    """Read a module with the weights of RNN or of BOTH."""
    source = BOTH if isinstance(module, nn.Bidirectional) else RNN
    return from_linen(module, *(arguments or (linen_weights(source),)))


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: of_cell(nn.GRUCell(N)), TypeError, "a cell must be LSTMCell or .* of flax.linen, got GRUCell"),
        (lambda: of_cell(RNN.clone(time_major=True)), ValueError, "time_major must be False for jlstm, got True"),
        (lambda: of_cell(BOTH.clone(time_major=True)), ValueError, "time_major must be False for jlstm, got True"),
        (lambda: of_cell(RNN, {}), TypeError, "variables must be a mapping with an entry 'params', got {}"),
        (lambda: of_cell(RNN, {"params": {"x": 0}}), ValueError, "must have an entry 'cell' for this module, got x"),
        (lambda: of_cell(RNN, {"params": {"cell": 0}}), ValueError, "must have an entry 'ii' for this module, got 0"),
        (lambda: of_cell(BOTH.clone(forward_rnn=nn.LSTMCell(N))), TypeError, "each direction .* got LSTMCell"),
        (lambda: of_cell(LARGEST), ValueError, "merge_fn must be flax's own, .* for jlstm, got"),
        (lambda: from_nnx(RNN), TypeError, "a cell must be LSTMCell or OptimizedLSTMCell of flax.nnx, got RNN"),
        (lambda: to_nnx(SEQUENCES, (), cell=nn.LSTMCell), TypeError, "cell must be LSTMCell or .* of flax.nnx, got"),
        (lambda: to_linen(3, ()), TypeError, "spec must be LSTM or Bidirectional or Stack, got 3"),
        (
            lambda: to_linen(SEQUENCES, ()),
            TypeError,
            r"params must be as the spec makes them, .*, got tuple of nothing",
        ),
        (lambda: to_nnx(SEQUENCES, WIDER.init(jax.random.key(0), D)), ValueError, r"params/kernel must have shape"),
    ],
)
def test_what_cannot_be_converted_raises(act, error, message):
    with pytest.raises(error, match=message):
        act()


def test_float64_is_refused_where_it_would_be_narrowed():
    with pytest.raises(ValueError, match=r"^the dtype of kernel must be at most 32 bits wide .*, got float64"):
        from_linen(RNN, jax.tree.map(np.float64, linen_weights(RNN)))
    one = linen_weights(RNN)
    one["params"]["cell"]["hg"]["bias"] = np.zeros(N)
    with pytest.raises(ValueError, match=r"^the dtype of bias must be at most 32 bits wide .*, got float64"):
        from_linen(RNN, one)
    cell = nnx.LSTMCell(D, N, rngs=nnx.Rngs(0))
    cell.hf.kernel.set_value(np.zeros((N, N)))
    with pytest.raises(
        ValueError, match=r"^the dtype of recurrent_kernel must be at most 32 bits wide .*, got float64"
    ):
        from_nnx(cell)
    params = jax.tree.map(np.float64, SEQUENCES.init(jax.random.key(0), D))
    for write in (to_linen, to_nnx):
        with pytest.raises(ValueError, match=r"^params/kernel must be at most 32 bits wide .*, got float64"):
            write(SEQUENCES, params)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("return_sequences", False, "True"),
        ("use_bias", False, "True"),
        ("dropout", 0.5, "0.0"),
        ("recurrent_dropout", 0.5, "0.0"),
        ("zero_output_for_mask", True, "False"),
        ("bias_regularizer", "l2", "None"),
        ("activity_regularizer", "l2", "None"),
        ("kernel_constraint", "unit_norm", "None"),
        ("variant", Variant(peephole=True), r"variant.peephole must be False for flax.linen.RNN, got True"),
        ("variant", Variant(coupled="input"), r"variant.coupled must be None for flax.linen.RNN, got 'input'"),
        ("variant", Variant(projection=2), r"variant.projection must be None for flax.linen.RNN, got 2"),
    ],
)
def test_what_flax_cannot_express_raises_by_name(option, value, expected):
    spec = replace(SEQUENCES, **{option: value})
    message = expected if option == "variant" else f"{option} must be {expected} for flax.linen.RNN, got {value!r}"
    with pytest.raises(ValueError, match=message):
        to_linen(spec, spec.init(jax.random.key(0), D))


def test_the_layer_at_fault_is_named():
    faulty = LSTM(N, return_sequences=True, dropout=0.5)
    stack = Stack((SEQUENCES, Bidirectional(SEQUENCES, replace(faulty, go_backwards=True))))
    with pytest.raises(ValueError, match=r"^layers\[1\].backward.dropout must be 0.0 for flax.nnx.RNN, got 0.5"):
        to_nnx(stack, stack.init(jax.random.key(0), D))
    stack = Stack((SEQUENCES,), dropout=0.5)
    with pytest.raises(ValueError, match=r"^dropout must be 0.0 for flax.nnx.Sequential, got 0.5"):
        to_nnx(stack, stack.init(jax.random.key(0), D))


def test_without_flax_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "flax.linen", None)
    with pytest.raises(ImportError, match=r"flax must be installed for this conversion: pip install 'jlstm\[flax\]'"):
        to_nnx(SEQUENCES, SEQUENCES.init(jax.random.key(0), D))
