"""haiku's LSTM beside the spec made of its params."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import peer
from jax_peer import drawn, normal, worst_error

from jlstm import LSTM, LSTMState
from jlstm.interop import from_haiku

hk = peer("haiku")

TITLE = "haiku"
LIMIT = 3e-5
B, T, D, N = 2, 4, 3, 5


def transformed():
    """hk.LSTM over a batch-major sequence, as a pair of init and apply."""

    def run(state, x):
        y, final = hk.dynamic_unroll(hk.LSTM(N), x, hk.LSTMState(state.h, state.c), time_major=False)
        return LSTMState(h=final.hidden, c=final.cell), y

    return hk.without_apply_rng(hk.transform(run))


def lstm():
    functions = transformed()
    params = normal(jax.eval_shape(functions.init, jax.random.key(0), *drawn(LSTM(N), D, B, T)), 0)
    spec, ours = from_haiku(params)

    def convert(gradient):  # the 1 in the forward pass is no part of a gradient
        made = from_haiku(gradient)[1]
        zeros = from_haiku(jax.tree.map(jnp.zeros_like, gradient))[1]
        return jax.tree.map(jnp.subtract, made, zeros)

    return worst_error((spec.apply, ours), (functions.apply, params), convert, *drawn(spec, D, B, T))


FEATURES = {("from", "LSTM"): lstm}


@pytest.mark.lenient
@pytest.mark.parametrize(("direction", "feature"), FEATURES)
def test_agrees(direction, feature):
    assert FEATURES[direction, feature]() < LIMIT


def test_a_fresh_lstm_has_forget_biases_of_one():
    params = {"w": jnp.ones((D + N, 4 * N)), "b": jnp.zeros(4 * N)}
    spec, ours = from_haiku({"lstm/linear": params})
    assert spec == LSTM(N, return_sequences=True, keep_order=True)
    np.testing.assert_array_equal(ours.bias, np.repeat([0, 1, 0, 0], N))
    jax.tree.map(np.testing.assert_array_equal, from_haiku(params)[1], ours)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (3, TypeError, "params must be a mapping with w and b of an hk.LSTM, got 3"),
        ({"a": {}, "b": {}}, ValueError, "params must have w and b of one hk.LSTM, got a, b"),
        ({"lstm/linear": {"w": 0}}, ValueError, "params must have w and b of one hk.LSTM, got w"),
        ({"w": 0, "b": 0}, TypeError, "w must be a real floating array"),
        ({"w": jnp.zeros((3, 8)), "b": jnp.zeros(4)}, ValueError, r"b must have shape \[8\], got \[4\]"),
        ({"w": jnp.zeros((3, 6)), "b": jnp.zeros(6)}, ValueError, r"w must have shape \[D \+ N, 4N\], got \[3, 6\]"),
        ({"w": jnp.zeros((2, 8)), "b": jnp.zeros(8)}, ValueError, r"w must have shape \[D \+ N, 4N\], got \[2, 8\]"),
    ],
)
def test_wrong_params_raise(params, error, message):
    with pytest.raises(error, match=message):
        from_haiku(params)


def test_float64_is_refused_where_it_would_be_narrowed():
    params = {"w": np.zeros((D + N, 4 * N)), "b": np.zeros(4 * N)}
    for name in params:
        others = {other: a.astype("float32") for other, a in params.items() if other != name}
        with pytest.raises(ValueError, match=f"^the dtype of {name} must be at most 32 bits wide .*, got float64"):
            from_haiku({name: params[name]} | others)
    with jax.enable_x64(True):
        spec, ours = from_haiku(params)
        assert spec.param_dtype == ours.kernel.dtype == ours.bias.dtype == "float64"
