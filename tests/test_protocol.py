"""Every spec obeys one protocol: the same methods, pytrees that fit together, and one trace a call signature."""

import inspect
import json
from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlstm
from jlstm import LSTM, Bidirectional, Directions, LSTMParams, LSTMState, Stack, Variant

B, T, D, N = 2, 3, 2, 3
SEQUENCES = LSTM(N, return_sequences=True)
REGULARIZED = LSTM(
    N,
    kernel_regularizer="l1",
    recurrent_regularizer="l2",
    bias_regularizer="l1_l2",
    activity_regularizer="l2",
    kernel_constraint="max_norm",
    recurrent_constraint="unit_norm",
    bias_constraint="non_neg",
    dropout=0.3,
    recurrent_dropout=0.3,
)
BOTH_WAYS = Bidirectional(SEQUENCES)
SPECS = [
    LSTM(N),
    SEQUENCES,
    REGULARIZED,
    LSTM(N, use_bias=False, return_sequences=True, zero_output_for_mask=True, remat_every=2, unroll=True),
    LSTM(N, go_backwards=True, return_sequences=True),
    LSTM(N, variant=Variant(peephole=True, coupled="input", projection=2, preact_clip=3.0, output_activation="relu")),
    LSTM(N, variant=Variant(forget_gate=False), return_sequences=True),
    BOTH_WAYS,
    Bidirectional(LSTM(N), merge_mode="sum"),
    Bidirectional(SEQUENCES, merge_mode="mul"),
    Bidirectional(LSTM(N), merge_mode="ave"),
    Bidirectional(SEQUENCES, merge_mode=None),
    Stack((SEQUENCES, REGULARIZED), dropout=0.2),
    Stack((BOTH_WAYS, Stack((SEQUENCES, LSTM(2, return_sequences=True))), Bidirectional(LSTM(N), merge_mode=None))),
]
every_spec = pytest.mark.parametrize("layer", SPECS, ids=range(len(SPECS)))


def goes_backwards(layer):
    if isinstance(layer, Stack):
        return any(map(goes_backwards, layer.layers))
    return isinstance(layer, Bidirectional) or layer.go_backwards


def returns_pair(layer):
    return returns_pair(layer.layers[-1]) if isinstance(layer, Stack) else getattr(layer, "merge_mode", 1) is None


def check_tree(tree, layer, leaf):
    """A tuple for a Stack, Directions for a Bidirectional, the leaf for an LSTM."""
    if isinstance(layer, Stack):
        assert type(tree) is tuple
        for part, below in zip(tree, layer.layers, strict=True):
            check_tree(part, below, leaf)
    elif isinstance(layer, Bidirectional):
        assert type(tree) is Directions
        check_tree(tree.forward, layer.forward, leaf)
        check_tree(tree.backward, layer.backward, leaf)
    else:
        assert type(tree) is leaf


def shapes(tree):
    return jax.tree.structure(tree), [(a.shape, a.dtype) for a in jax.tree.leaves(tree)]


@partial(jax.jit, static_argnums=0)
def init(layer, key):
    return layer.init(key, D)


@partial(jax.jit, static_argnums=0)
def apply(layer, params, state, x, options):
    return layer.apply(params, state, x, **options)


@every_spec
def test_shapes_of_everything_fit_together(layer):
    params, state = jax.eval_shape(lambda: layer.init(jax.random.key(0), D)), layer.initial_state(B)
    check_tree(params, layer, LSTMParams)
    check_tree(state, layer, LSTMState)
    x = jnp.ones((B, T, D))
    for options in ({}, {"mask": jnp.ones((B, T), bool)}, {"lengths": jnp.array([T, 1])}, {"key": jax.random.key(1)}):
        new, y = jax.eval_shape(partial(layer.apply, **options), params, state, x)
        assert shapes(new) == shapes(state)
        shape = (B, T, layer.output_size) if layer.return_sequences else (B, layer.output_size)
        for one in y if returns_pair(layer) else (y,):
            assert (one.shape, one.dtype) == (shape, "float32")
    assert shapes(jax.eval_shape(layer.constrain, params)) == shapes(params)
    for value in jax.eval_shape(layer.penalty, params), jax.eval_shape(layer.activity_penalty, y):
        assert (value.shape, value.dtype) == ((), "float32")


@pytest.mark.parametrize("layer", [SPECS[n] for n in (2, 5, 11, 12)], ids=[2, 5, 11, 12])
def test_apply_gives_finite_numbers_that_depend_on_all_it_is_given(layer):
    params, x = init(layer, jax.random.key(0)), cases.array(cases.inputs(1, B, T, D))
    state = jax.tree.map(lambda a: a + 0.1, layer.initial_state(B))

    @jax.jit
    @partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def outputs(params, state, x):
        new, y = layer.apply(params, state, x)
        loss = sum(jnp.sum(leaf * jnp.cos(leaf)) for leaf in jax.tree.leaves((new, y)))
        return loss + layer.penalty(params), (new, y)

    grads, (new, y) = outputs(params, state, x)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((new, y)))
    for leaf in jax.tree.leaves(grads):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf != 0)


@every_spec
def test_step_and_reset_follow_apply_or_raise(layer):
    state = layer.initial_state(B)
    x, reset = cases.array(cases.inputs(1, B, T, D)), jnp.array([[False, True, False], [False, False, True]])
    if goes_backwards(layer):
        drawn = jax.eval_shape(lambda: layer.init(jax.random.key(0), D))
        params = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), drawn)
        with pytest.raises(ValueError, match=r"^(go_backwards must be False for step|step must be of a layer)"):
            layer.step(params, state, x[:, 0])
        with pytest.raises(ValueError, match=r"^reset must be None"):
            layer.apply(params, state, x, reset=reset)
        return
    params = init(layer, jax.random.key(0))
    expected_state, expected = apply(layer, params, state, x, {"reset": reset})
    step = jax.jit(layer.step)
    ys = []
    for t in range(T):
        state, y = step(params, state, x[:, t], reset=reset[:, t])
        ys.append(y)
    cases.close(state, expected_state, **cases.SAME)
    cases.close(jnp.stack(ys, 1) if layer.return_sequences else y, expected, **cases.SAME)


@every_spec
def test_written_down_and_printed(layer):
    assert jlstm.from_dict(json.loads(json.dumps(layer.to_dict()))) == layer
    assert type(layer).from_dict(layer.to_dict()) == layer
    assert eval(repr(layer), vars(jlstm)) == layer
    assert hash(layer) == hash(eval(repr(layer), vars(jlstm)))


def test_signatures_are_the_same():
    for method in (
        "init",
        "initial_state",
        "apply",
        "penalty",
        "activity_penalty",
        "constrain",
        "to_dict",
        "from_dict",
    ):
        names = {tuple(inspect.signature(getattr(cls, method)).parameters) for cls in (LSTM, Bidirectional, Stack)}
        assert len(names) == 1, method
    assert list(inspect.signature(LSTM.step).parameters) == list(inspect.signature(Stack.step).parameters)
    for cls in (LSTM, Bidirectional, Stack):
        assert isinstance(inspect.getattr_static(cls, "output_size"), property)


@pytest.mark.parametrize("layer", [LSTM(N, activation=None), BOTH_WAYS, Stack((BOTH_WAYS, LSTM(N)))], ids=str)
def test_repeated_calls_trace_once(layer):
    traces = []

    @jax.jit
    def f(params, state, x, mask):
        traces.append(1)
        return layer.apply(params, state, x, mask=mask)

    params, state = init(layer, jax.random.key(0)), layer.initial_state(B)
    for seed in range(3):  # a state that came out goes in again without another trace
        state, _ = f(params, state, cases.array(cases.inputs(seed, B, T, D)), jnp.asarray(cases.bools(seed, B, T)))
    assert len(traces) == 1


def test_the_cell_of_a_layer_is_traced_once_whatever_the_number_of_steps():
    calls = []

    def activation(x):
        calls.append(x.shape)
        return jnp.tanh(x)

    layer = LSTM(N, activation=activation, return_sequences=True)
    params, state = init(layer, jax.random.key(0)), layer.initial_state(B)
    counts = []
    for steps in (1, 10, 1000):
        calls.clear()
        jax.make_jaxpr(layer.apply)(params, state, jnp.ones((B, steps, D)))
        counts.append(len(calls))
    assert counts == [2, 2, 2]  # the candidate and the output


def test_pytrees_are_reached_by_name():
    params = init(BOTH_WAYS, jax.random.key(0))
    paths = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert paths == {
        f".{way}.{part}" for way in ("forward", "backward") for part in ("kernel", "recurrent_kernel", "bias")
    }
    state = LSTM(N).initial_state(B)
    assert [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)] == [".h", ".c"]
