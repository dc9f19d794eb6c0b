"""Several devices: a batch that is split over them gives the numbers of one device."""

from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jlstm import LSTM

B, T, D, N = 4, 5, 3, 4

pytestmark = pytest.mark.skipif(jax.device_count() < 2, reason="JAX was started with one device")


@pytest.fixture
def mesh():
    return jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])


def test_a_split_batch_matches_the_oracle(mesh):
    rows, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    weights, state, x = cases.weights(1, D, N), cases.state(2, B, N), cases.inputs(3, B, T, D)
    mask, reset = cases.bools(4, B, T), cases.bools(5, B, T, p=0.2)
    params = jax.device_put(cases.params(weights), everywhere)
    state_in, x_in, mask_in, reset_in = jax.device_put(
        (cases.lstm_state(state), cases.array(x), jnp.asarray(mask), jnp.asarray(reset)), rows
    )
    layer = LSTM(N, return_sequences=True)

    @jax.jit
    def run(params, state, x, mask, reset):
        return layer.apply(params, state, x, mask=mask, reset=reset)

    got, y = run(params, state_in, x_in, mask_in, reset_in)
    assert y.sharding.is_equivalent_to(rows, y.ndim)  # nothing was gathered on the way
    assert got.c.sharding.is_equivalent_to(rows, got.c.ndim)
    (h, c), expected = reference.lstm(weights, state, x, mask=mask, reset=reset)
    cases.close((got.h, got.c, y), (h, c, expected), **cases.F32)


def test_gradients_and_dropout_of_a_split_batch_are_those_of_one_device(mesh):
    rows, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    layer = LSTM(N, return_sequences=True, dropout=0.3, recurrent_dropout=0.3)
    params, x, lengths = (
        layer.init(jax.random.key(0), D),
        cases.array(cases.inputs(3, B, T, D)),
        jnp.array([5, 0, 3, 1]),
    )

    @jax.jit
    @partial(jax.value_and_grad)
    def loss(params, x, lengths, key):
        state, y = layer.apply(params, layer.initial_state(B), x, lengths=lengths, key=key)
        return jnp.sum(y**2) + jnp.sum(state.c**2)

    key = jax.random.key(1)
    expected = loss(params, x, lengths, key)
    split = [jax.device_put(a, rows) for a in (x, lengths)]
    got = loss(jax.device_put(params, everywhere), *split, key)
    cases.close(got, expected, **cases.F32_GRAD)  # the sum over the batch is taken in another order


def test_arrays_on_the_second_device_stay_there():
    second = jax.devices()[1]
    layer = LSTM(N)
    params = cases.params(cases.weights(1, D, N))
    arguments = jax.device_put((params, cases.lstm_state(cases.state(2, B, N)), jnp.ones((B, T, D))), second)
    state, y = layer.apply(*arguments)
    assert y.devices() == {second}
    assert state.c.devices() == {second}
    assert np.all(np.isfinite(y))
