"""equinox.nn.LSTMCell beside the spec made of it, and the cell made of a spec."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import peer
from jax_peer import drawn, normal, worst_error

from jlstm import LSTM, Bidirectional, LSTMState, Variant
from jlstm.interop import from_equinox, to_equinox

eqx = peer("equinox")

TITLE = "equinox"
LIMIT = 3e-5
B, T, D, N = 2, 4, 3, 5
SEQUENCES = LSTM(N, return_sequences=True, keep_order=True)


def compare(spec, params, cell):
    """The worst error between a spec and a scan over an equinox cell, a row at a time."""

    def theirs(cell, state, x):
        def one(state, xs):
            def step(carry, x):
                carry = cell(x, carry)
                return carry, carry[0]

            (h, c), y = jax.lax.scan(step, (state.h, state.c), xs)
            return LSTMState(h=h, c=c), y

        return jax.vmap(one)(state, x)

    def convert(gradient):
        return from_equinox(gradient)[1]

    return worst_error((spec.apply, params), (theirs, cell), convert, *drawn(spec, D, B, T))


def read(use_bias):
    cell = normal(eqx.nn.LSTMCell(D, N, use_bias=use_bias, key=jax.random.key(0)), 0)
    return compare(*from_equinox(cell), cell)


def written(use_bias):
    spec = LSTM(N, use_bias=use_bias, return_sequences=True)
    params = normal(spec.init(jax.random.key(0), D), 0)
    return compare(spec, params, to_equinox(spec, params))


FEATURES = {
    ("from", "LSTMCell"): lambda: read(True),
    ("from", "no bias"): lambda: read(False),
    ("to", "LSTMCell"): lambda: written(True),
    ("to", "no bias"): lambda: written(False),
}


@pytest.mark.lenient
@pytest.mark.parametrize(("direction", "feature"), FEATURES)
def test_agrees(direction, feature):
    assert FEATURES[direction, feature]() < LIMIT


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_round_trip_keeps_every_bit(use_bias):
    spec = replace(SEQUENCES, use_bias=use_bias, param_dtype="bfloat16")
    params = normal(spec.init(jax.random.key(0), D), 0)
    params = jax.tree.map(lambda a: a.astype("bfloat16"), params)
    again, got = from_equinox(to_equinox(spec, params))
    assert again == spec
    jax.tree.map(np.testing.assert_array_equal, got, params)
    cell = to_equinox(spec, params)
    assert (cell.input_size, cell.hidden_size, cell.use_bias) == (D, N, use_bias)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("activation", "relu", "activation must be 'tanh' for equinox.nn.LSTMCell, got 'relu'"),
        ("recurrent_activation", "relu", "recurrent_activation must be 'sigmoid' for equinox.nn.LSTMCell, got 'relu'"),
        ("go_backwards", True, "go_backwards must be False for equinox.nn.LSTMCell, got True"),
        ("dtype", "float32", "dtype must be None for equinox.nn.LSTMCell, got 'float32'"),
        ("dropout", 0.5, "dropout must be 0.0 for equinox.nn.LSTMCell, got 0.5"),
        ("variant", Variant(forget_gate=False), "variant.forget_gate must be True for equinox.nn.LSTMCell, got False"),
    ],
)
def test_what_equinox_cannot_express_raises_by_name(option, value, message):
    spec = replace(SEQUENCES, **{option: value})
    with pytest.raises(ValueError, match=message):
        to_equinox(spec, spec.init(jax.random.key(0), D))


def test_wrong_arguments_raise():
    with pytest.raises(TypeError, match=r"cell must be an equinox.nn.LSTMCell, got 3"):
        from_equinox(3)
    with pytest.raises(TypeError, match="spec must be LSTM, got"):
        to_equinox(Bidirectional(SEQUENCES), ())
    with pytest.raises(ValueError, match=r"params/kernel must have shape \[3, 20\], got \[3, 24\]"):
        to_equinox(SEQUENCES, LSTM(N + 1).init(jax.random.key(0), D))
    gru = SimpleNamespace(weight_ih=jnp.zeros((15, 3)), weight_hh=jnp.zeros((15, 5)), bias=None)
    with pytest.raises(ValueError, match=r"cell.weight_ih must have shape \[20, D\], got \[15, 3\]"):
        from_equinox(gru)


def test_float64_is_refused_where_it_would_be_narrowed():
    cell = SimpleNamespace(weight_ih=np.zeros((20, 3), "float32"), weight_hh=np.zeros((20, 5), "float32"), bias=None)
    for name, shape in (("weight_ih", (20, 3)), ("weight_hh", (20, 5)), ("bias", 20)):
        wide = SimpleNamespace(**vars(cell) | {name: np.zeros(shape)})
        with pytest.raises(ValueError, match=f"^the dtype of cell.{name} must be at most 32 bits wide .*, got float64"):
            from_equinox(wide)
    params = jax.tree.map(np.float64, SEQUENCES.init(jax.random.key(0), D))
    with pytest.raises(ValueError, match=r"^params/kernel must be at most 32 bits wide .*, got float64"):
        to_equinox(SEQUENCES, params)


def test_without_equinox_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(ImportError, match="equinox must be installed to make its cell: pip install equinox"):
        to_equinox(SEQUENCES, SEQUENCES.init(jax.random.key(0), D))
