"""jlstm.nnx.LSTMCell in flax's own nnx.RNN and nnx.Bidirectional."""

import inspect
from dataclasses import fields

import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

import jlstm
import jlstm.nnx

B, T, D, N = 2, 4, 3, 5
WEIGHTS = cases.weights(0, D, N)
X = cases.inputs(1, B, T, D)
ZEROS = np.zeros((B, N)), np.zeros((B, N))
x = jnp.asarray(X, jnp.float32)


def cell(weights=WEIGHTS, **options):
    """A cell with the weights that the oracle has."""
    made = jlstm.nnx.LSTMCell(D, N, rngs=nnx.Rngs(0), **options)
    for name, value in weights.items():
        getattr(made.weights, name).set_value(jnp.asarray(value, jnp.float32))
    return made


def close(got, expected):
    np.testing.assert_allclose(got, expected, **cases.F32)


def test_the_signature_shows_fields_of_the_spec_with_their_defaults():
    shown = dict(inspect.signature(jlstm.nnx.LSTMCell).parameters)
    assert list(shown)[:2] == ["in_features", "units"]
    assert list(shown)[-1] == "rngs"
    spec = {f.name: f.default for f in fields(jlstm.LSTM) if f.kw_only}
    of_a_sequence = {
        "activity_regularizer", "return_sequences", "go_backwards", "unroll", "zero_output_for_mask", "keep_order",
        "remat_every", "backend",
    }  # fmt: skip
    assert list(shown)[2:-1] == [name for name in spec if name not in of_a_sequence]
    assert all(shown[name].default == spec[name] for name in list(shown)[2:-1])


def test_every_argument_of_the_keras_cell_is_there(peer):
    peer("keras")
    from keras.layers import LSTMCell

    theirs = set(inspect.signature(LSTMCell).parameters) - {"kwargs", "seed"}
    assert theirs <= set(inspect.signature(jlstm.nnx.LSTMCell).parameters)


def test_a_step_gives_the_numbers_of_the_oracle_with_flaxs_carry():
    h, c = cases.state(2, B, N)
    (new_c, new_h), y = cell()((jnp.asarray(c, jnp.float32), jnp.asarray(h, jnp.float32)), x[:, 0])
    expected_h, expected_c = zip(*(reference.cell(WEIGHTS, h[b], c[b], X[b, 0]) for b in range(B)), strict=True)
    close(new_c, expected_c)
    close(new_h, expected_h)
    close(y, expected_h)


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_any_number_of_batch_axes(batch):
    made = cell()
    carry = made.initialize_carry((*batch, D))
    assert [a.shape for a in carry] == [(*batch, N)] * 2
    inputs = cases.inputs(3, *batch, D)
    _, y = made(carry, jnp.asarray(inputs, jnp.float32))
    zeros = np.zeros(N)
    expected = [reference.cell(WEIGHTS, zeros, zeros, row)[0] for row in inputs.reshape(-1, D)]
    close(y, np.reshape(expected, (*batch, N)))


@pytest.mark.lenient
def test_rnn_runs_it_over_time():
    (c, h), y = nnx.RNN(cell(), return_carry=True)(x)
    state, expected = reference.lstm(WEIGHTS, ZEROS, X)
    close(y, expected)
    close(h, state[0])
    close(c, state[1])


@pytest.mark.lenient
def test_rnn_takes_lengths():
    (c, h), _ = nnx.RNN(cell(), return_carry=True)(x, seq_lengths=jnp.array([3, 1]))
    state, _ = reference.lstm(WEIGHTS, ZEROS, X, lengths=[3, 1])
    close(h, state[0])
    close(c, state[1])


@pytest.mark.lenient
def test_bidirectional_takes_two():
    made = WEIGHTS, cases.weights(5, D, N)
    layer = nnx.Bidirectional(*(nnx.RNN(cell(weights)) for weights in made))
    close(layer(x), reference.bidirectional(made, (ZEROS, ZEROS), X)[1])


@pytest.mark.lenient
def test_a_projection_narrows_h_alone():
    weights = cases.weights(0, D, N, 2, projection=True)
    made = cell(weights, variant=jlstm.Variant(projection=2))
    (c, h), y = nnx.RNN(made, return_carry=True)(x)
    state, expected = reference.lstm(weights, (np.zeros((B, 2)), ZEROS[1]), X, projection=2)
    close(y, expected)
    close(h, state[0])
    close(c, state[1])


def over_time():
    """nnx.RNN of a cell as a function of x that JAX may trace."""
    graph, state = nnx.split(nnx.RNN(cell()))
    return lambda x: nnx.merge(graph, state, copy=True)(x)  # Variables that the trace may write to


@pytest.mark.lenient
def test_rnn_has_a_forward_mode_derivative():
    direction, step = cases.inputs(7, B, T, D), 1e-6
    y, tangent = jax.jvp(over_time(), (x,), (jnp.asarray(direction, jnp.float32),))
    ends = [reference.lstm(WEIGHTS, ZEROS, X + sign * step * direction)[1] for sign in (1, -1)]
    close(y, reference.lstm(WEIGHTS, ZEROS, X)[1])
    np.testing.assert_allclose(tangent, (ends[0] - ends[1]) / (2 * step), **cases.F32_GRAD)


@pytest.mark.lenient
def test_no_step_calls_a_kernel():
    assert cell().spec.backend == "xla"
    assert "jlstm_layer" not in str(jax.make_jaxpr(over_time())(x))


def test_the_carry_may_be_drawn():
    made = cell()
    c, h = made.initialize_carry((B, D), nnx.Rngs(carry=0), jax.nn.initializers.normal(1.0))
    assert c.shape == h.shape == (B, N)
    assert jnp.all(c != h)
    with pytest.raises(ValueError, match="rngs must be given for carry_init"):
        made.initialize_carry((B, D), None, jax.nn.initializers.normal(1.0))
    with pytest.raises(ValueError, match="rngs must have a stream 'carry' or a default one, got params"):
        made.initialize_carry((B, D), nnx.Rngs(params=0), jax.nn.initializers.normal(1.0))


def forgetful(**options):
    """A cell whose output is a function of this step's input alone: each gate but g is open or shut by its bias."""
    bias = np.repeat([50.0, -50.0, 0.0, 50.0], N)
    weights = {"kernel": WEIGHTS["kernel"], "recurrent_kernel": np.zeros((N, 4 * N)), "bias": bias}
    return cell(weights, dropout=0.5, **options)


@pytest.mark.lenient
def test_dropout_under_rnn_is_drawn_for_each_step_or_once():
    steady = jnp.tile(x[:, :1], (1, 8, 1))
    y = nnx.RNN(forgetful())(steady)
    assert jnp.any(jnp.abs(y - y[:, :1]) > 1e-3)
    once = nnx.RNN(forgetful(), broadcast_rngs=nnx.RngState)
    y, again = once(steady), once(steady)
    close(y, np.tile(y[:, :1], (1, 8, 1)))
    assert jnp.any(jnp.abs(y - again) > 1e-3)
    once.eval()
    close(once(steady)[:, 0], np.tanh(np.tanh(X[:, 0] @ WEIGHTS["kernel"][:, 2 * N : 3 * N])))


def test_wrong_calls_raise():
    made = cell()
    carry = made.initialize_carry((B, D))
    with pytest.raises(TypeError, match=r"carry must be a pair \(c, h\), got LSTMState"):
        made(jlstm.LSTM(N).initial_state(B), x[:, 0])
    with pytest.raises(ValueError, match=r"inputs must have shape \[..., 3\], got \[2, 4\]"):
        made(carry, jnp.zeros((B, 4)))
    with pytest.raises(ValueError, match=r"carry.h must have shape \[3, 5\], got \[2, 5\]"):
        made(carry, jnp.zeros((3, D)))
