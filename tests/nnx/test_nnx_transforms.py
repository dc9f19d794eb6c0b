"""The nnx modules under flax's transformations, with Optax and orbax, and at no cost over the functions of the spec."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from cases import F32, F32_GRAD, SAME
from flax import nnx

import jlstm
import jlstm.nnx
from jlstm.nnx import LSTMCarry

B, T, D, N = 2, 4, 3, 5
x = jax.random.normal(jax.random.key(1), (B, T, D))


def stack(**options):
    """A layer of every kind of part: two directions, a stack, dropout."""
    specs = jlstm.Bidirectional(jlstm.LSTM(N, return_sequences=True)), jlstm.LSTM(N, dropout=0.5)
    return jlstm.nnx.Stack(D, specs, rngs=nnx.Rngs(0), **options)


def twins(**options):
    """flax's own LSTM and ours, with the same weights: its fused kernels have our order of gates."""
    cell = nnx.OptimizedLSTMCell(D, N, rngs=nnx.Rngs(0))
    layer = jlstm.nnx.LSTM(D, N, return_sequences=True, rngs=nnx.Rngs(0), **options)
    for ours, theirs in pairs(layer, cell):
        ours.set_value(theirs.get_value())
    return layer, nnx.RNN(cell)


def pairs(layer, cell):
    weights = layer.weights.kernel, layer.weights.recurrent_kernel, layer.weights.bias
    return zip(weights, (cell.dense_i.kernel, cell.dense_h.kernel, cell.dense_h.bias), strict=True)


def close(got, expected, tolerance=SAME):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, expected)


def test_jit_keeps_the_state_and_traces_once():
    traces = []

    @nnx.jit
    def run(layer, x):
        traces.append(x.shape)
        return layer(x)

    layer, plain = stack(stateful=True, batch_size=B), stack(stateful=True, batch_size=B)
    for _ in range(3):
        close(run(layer, x), plain(x))
        close(layer.state, plain.state)
    assert len(traces) == 1
    layer.reset_state()
    layer.eval()
    run(layer, x)
    assert len(traces) == 2  # the mode is static


def test_reset_state_under_jit():
    layer = stack(stateful=True, batch_size=B)
    layer(x)
    nnx.jit(lambda layer, mask: layer.reset_state(mask))(layer, jnp.array([True, False]))
    for a in jax.tree.leaves(layer.state):
        np.testing.assert_array_equal(jnp.any(a != 0, axis=-1), [False, True])


@pytest.mark.lenient
def test_value_and_grad_give_those_of_flaxs_own_cell():
    layer, rnn = twins(stateful=True, batch_size=B)

    def loss(module, x):
        return jnp.sum(module(x) ** 2)

    value, gradients = nnx.value_and_grad(loss)(layer, x)
    expected, wanted = nnx.value_and_grad(loss)(rnn, x)
    close(value, expected, F32)
    assert set(nnx.to_flat_state(gradients).paths) == {("weights", n) for n in ("kernel", "recurrent_kernel", "bias")}
    for ours, theirs in pairs(gradients, wanted["cell"]):
        close(ours.get_value(), theirs.get_value(), F32_GRAD)
    assert jnp.all(layer.state.h != 0)  # what the call kept has come out of the transformation


def test_grad_of_a_stack_reaches_every_weight():
    gradients = nnx.grad(lambda layer: jnp.sum(layer(x) ** 2))(stack())
    leaves = jax.tree.leaves(gradients)
    assert len(leaves) == 9
    assert all(jnp.any(a != 0) for a in leaves)


def test_scan_over_chunks_is_one_call_over_the_whole():
    def make():
        return jlstm.nnx.LSTM(D, N, return_sequences=True, stateful=True, batch_size=B, rngs=nnx.Rngs(0))

    layer, whole = make(), make()
    chunks = x.reshape(B, 2, T // 2, D)
    y = nnx.scan(lambda layer, chunk: (layer, layer(chunk)), in_axes=(nnx.Carry, 1), out_axes=(nnx.Carry, 1))(
        layer, chunks
    )[1]
    close(y.reshape(B, T, N), whole(x))
    close(layer.state, whole.state)


def test_scan_carries_the_state_alone():
    layer = stack(stateful=True, batch_size=B)
    plain = stack(stateful=True, batch_size=B)
    axes = nnx.StateAxes({LSTMCarry: nnx.Carry, nnx.RngState: nnx.Carry, ...: None})
    y = nnx.scan(lambda layer, chunk: layer(chunk), in_axes=(axes, 1), out_axes=0)(layer, x.reshape(B, 2, T // 2, D))
    close(y, jnp.stack([plain(x[:, : T // 2]), plain(x[:, T // 2 :])]))
    close(layer.state, plain.state)


def test_vmap_makes_and_runs_an_ensemble():
    @nnx.jit  # of one piece: by itself each operation would be compiled for three
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def make(rngs):
        return jlstm.nnx.LSTM(D, N, stateful=True, batch_size=B, dropout=0.5, rngs=rngs)

    layers = make(nnx.Rngs(0))
    assert layers.weights.kernel.shape == (3, D, 4 * N)
    assert layers.state.h.shape == (3, B, N)
    layers.eval()
    y = nnx.jit(nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None)))(layers, x)
    graph, state = nnx.split(layers)
    for n in range(3):
        one = nnx.merge(graph, jax.tree.map(lambda a, n=n: a[n], state))
        close(one.state.h, y[n])
        one.reset_state()
        close(one(x), y[n])


def test_the_state_of_an_ensemble_is_reset_by_its_own_shape():
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def make(rngs):
        return jlstm.nnx.LSTM(D, N, stateful=True, batch_size=B, rngs=rngs)

    layers = make(nnx.Rngs(0))
    layers.carry.h.set_value(jnp.ones((3, B, N)))
    mask = jnp.array([[True, False], [False, False], [True, True]])
    with pytest.raises(ValueError, match=r"mask must have shape \[3, 2\], got \[3\]"):
        layers.reset_state(mask[:, 0])
    with pytest.raises(ValueError, match=r"batch_size must be given inside of the nnx.vmap .* shape \[3, 2, 5\]"):
        layers.reset_state(batch_size=3)
    layers.reset_state(mask)
    np.testing.assert_array_equal(jnp.any(layers.state.h != 0, axis=-1), ~mask)
    nnx.vmap(lambda layer: layer.reset_state(batch_size=4))(layers)
    assert layers.state.c.shape == (3, 4, N)


def test_split_and_merge_by_the_types_of_variables():
    layer, twin = stack(stateful=True, batch_size=B), stack(stateful=True, batch_size=B)
    graph, weights, carry, rest = nnx.split(layer, nnx.Param, LSTMCarry, ...)
    assert len(jax.tree.leaves(weights)) == 9
    assert len(jax.tree.leaves(carry)) == 6
    assert {type(v) for v in nnx.to_flat_state(rest).leaves} == {nnx.RngKey, nnx.RngCount}
    again = nnx.merge(graph, weights, carry, rest)
    assert again.spec == layer.spec
    close(again(x), twin(x))
    close(again.state, twin.state)
    hash(graph)  # a static argument of jit


@pytest.mark.lenient
def test_an_optax_step_is_that_of_the_functions():
    layer = stack(stateful=True, batch_size=B)
    layer.eval()
    optimizer = nnx.Optimizer(layer, optax.adam(1e-2), wrt=nnx.Param)
    spec, params = layer.spec, layer.params
    moments = optax.adam(1e-2).init(params)

    @nnx.jit
    def train(layer, optimizer):
        value, gradients = nnx.value_and_grad(lambda layer: jnp.mean(layer(x) ** 2))(layer)
        optimizer.update(layer, gradients)
        layer.reset_state()
        return value

    @jax.jit
    def train_functions(params, moments):
        def loss(params):
            return jnp.mean(spec.apply(params, spec.initial_state(B), x)[1] ** 2)

        value, gradients = jax.value_and_grad(loss)(params)
        updates, moments = optax.adam(1e-2).update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, value

    values = []
    for _ in range(3):
        values.append(train(layer, optimizer))
        params, moments, value = train_functions(params, moments)
        close(values[-1], value)
    close(layer.params, params, F32)
    assert values[2] < values[0]


def test_orbax_saves_and_restores(tmp_path):
    layer = stack(stateful=True, batch_size=B)
    layer(x)
    graph, state = nnx.split(layer)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "layer", state)
        checkpointer.wait_until_finished()
        empty = nnx.eval_shape(lambda: stack(stateful=True, batch_size=B))
        restored = checkpointer.restore(tmp_path / "layer", nnx.state(empty))
    again = nnx.merge(graph, restored)
    jax.tree.map(np.testing.assert_array_equal, again.params, layer.params)
    jax.tree.map(np.testing.assert_array_equal, again.state, layer.state)
    np.testing.assert_array_equal(again(x), layer(x))  # the streams of random numbers as well


def operations(jaxpr):
    """The primitives of a jaxpr in order, with the shapes that they give, those inside of loops and calls as well."""
    made = []
    for equation in jaxpr.eqns:
        made.append((equation.primitive.name, [v.aval.str_short() for v in equation.outvars]))
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            made += operations(inner)
    return made


@pytest.mark.parametrize("backend", ["auto", "xla"])
def test_a_module_computes_what_the_functions_compute_and_no_more(backend):
    spec = jlstm.LSTM(N, return_sequences=True, backend=backend)
    layer = jlstm.nnx.Layer(spec, spec.init(jax.random.key(0), D), stateful=True, batch_size=B, return_state=True)
    graph, weights, carry = nnx.split(layer, nnx.Param, LSTMCarry)

    def module(weights, carry, x):
        layer = nnx.merge(graph, weights, carry)
        (_, y), gradients = nnx.value_and_grad(lambda layer: squares(layer(x)), has_aux=True)(layer)
        return gradients, nnx.state(layer, LSTMCarry), y

    def functions(params, state, x):
        (_, (state, y)), gradients = jax.value_and_grad(
            lambda params: squares(spec.apply(params, state, x)), has_aux=True
        )(params)
        return gradients, state, y

    def squares(result):
        return jnp.sum(result[1] ** 2), result

    ours = operations(jax.make_jaxpr(module)(weights, carry, x).jaxpr)
    expected = operations(jax.make_jaxpr(functions)(layer.params, layer.state, x).jaxpr)
    assert len(expected) > 3
    assert ours == expected
