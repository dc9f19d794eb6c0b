"""jlstm.linen.Layer: its params, its state, its dropout."""

import cases
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import jlstm
import jlstm.linen

B, T, D, N = 2, 4, 3, 5
WEIGHTS = cases.weights(0, D, N)
X = cases.inputs(1, B, T, D)
ZEROS = np.zeros((B, N)), np.zeros((B, N))
VARIABLES = {"params": {name: jnp.asarray(value, jnp.float32) for name, value in WEIGHTS.items()}}
x = jnp.asarray(X, jnp.float32)


def close(got, expected):
    np.testing.assert_allclose(got, expected, **cases.F32)


def test_it_gives_the_numbers_of_the_oracle():
    layer = jlstm.linen.Layer(jlstm.LSTM(N, return_sequences=True), return_state=True)
    state, y = layer.apply(VARIABLES, x, lengths=np.array([3, 1]))
    expected_state, expected = reference.lstm(WEIGHTS, ZEROS, X, lengths=[3, 1])
    close(y, expected)
    close(state.c, expected_state[1])


def test_params_of_a_stack_are_named_by_their_place():
    both = jlstm.Bidirectional(jlstm.LSTM(N, return_sequences=True, use_bias=False))
    layer = jlstm.linen.Layer(jlstm.Stack((both, jlstm.LSTM(2))))
    params = layer.init(jax.random.key(0), x)["params"]
    assert {name: a.shape for name, a in params.items()} == {
        "0.forward.kernel": (D, 4 * N),
        "0.forward.recurrent_kernel": (N, 4 * N),
        "0.backward.kernel": (D, 4 * N),
        "0.backward.recurrent_kernel": (N, 4 * N),
        "1.kernel": (2 * N, 8),
        "1.recurrent_kernel": (2, 8),
        "1.bias": (8,),
    }
    np.testing.assert_array_equal(params["1.bias"], np.repeat([0, 1, 0, 0], 2))
    assert jnp.any(params["0.forward.kernel"] != params["0.backward.kernel"])


def test_a_stateful_layer_goes_on_where_it_stopped():
    layer = jlstm.linen.Layer(jlstm.LSTM(N), stateful=True)
    variables = layer.init(jax.random.key(0), x) | VARIABLES
    assert not jnp.any(variables["carry"]["state"].h)  # init has run the layer, and kept nothing
    for t in range(T):
        y, changed = layer.apply(variables, x[:, t : t + 1], mutable="carry")
        variables |= changed
    close(y, reference.lstm(WEIGHTS, ZEROS, X, return_sequences=False)[1])


def test_the_kept_state_keeps_its_dtype():
    layer = jlstm.linen.Layer(jlstm.LSTM(N), stateful=True)
    variables = layer.init(jax.random.key(0), x)
    initial = jlstm.LSTM(N).initial_state(B, "bfloat16")
    _, changed = layer.apply(variables, x, initial_state=initial, mutable="carry")
    assert {a.dtype for a in jax.tree.leaves(changed)} == {jnp.dtype("float32")}


def test_apply_draws_params_that_are_missing_where_it_may():
    layer = jlstm.linen.Layer(jlstm.LSTM(N))
    y, made = layer.apply({}, x, mutable=["params"], rngs={"params": jax.random.key(0)})
    expected = layer.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, made, expected)
    close(y, layer.apply(expected, x))
    with pytest.raises(flax.errors.ScopeCollectionNotFound):
        layer.apply({}, x)


def test_dropout_is_drawn_from_its_stream():
    layer = jlstm.linen.Layer(jlstm.LSTM(N, dropout=0.5))

    def run(seed):
        return layer.apply(VARIABLES, x, deterministic=False, rngs={"dropout": jax.random.key(seed)})

    np.testing.assert_array_equal(run(0), run(0))
    assert jnp.any(run(0) != run(1))
    close(layer.apply(VARIABLES, x), reference.lstm(WEIGHTS, ZEROS, X, return_sequences=False)[1])


def test_a_wrong_spec_raises():
    with pytest.raises(TypeError, match="spec must be LSTM or Bidirectional or Stack, got 3"):
        jlstm.linen.Layer(3).init(jax.random.key(0), x)
