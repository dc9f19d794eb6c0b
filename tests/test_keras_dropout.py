"""Dropout beside Keras's: equal numbers with equal masks, and equal statistics without.

Keras's layer draws its masks as it always does; they are recorded on the way and given to ours.
"""

import jax
import jax.numpy as jnp
import keras_peer as kp
import numpy as np
import pytest
from keras_peer import keras_fixture  # noqa: F401  # the fixture `keras`

from jlstm import LSTM, DropoutMasks, LSTMParams, LSTMState, lstm_scan
from jlstm.dropout import lstm_dropout_masks

B, T, D, N = 4, 5, 6, 3
RATES = [(2, 0.4, 0.0), (1, 0.4, 0.0), (2, 0.0, 0.5), (1, 0.3, 0.6), (2, 0.3, 0.6)]  # implementation, input, recurrent
DRAWS = 2000
# A mean of that many draws strays this many standard errors once in 15,000 times; keys are fixed.
STRAY = 4.0


def keras_layer(keras, **options):
    """Keras's layer on its general path: with use_cudnn="auto" it cannot take the four masks of implementation=1."""
    layer = keras.layers.LSTM(N, return_sequences=True, return_state=True, use_cudnn=False, **options)
    with kp.relaxed():
        layer.build((B, T, D))
    return layer


def record_masks(keras, monkeypatch, layer):
    """Let the layer's cell keep the masks that it draws."""
    drawn = []
    original = type(layer.cell)._create_dropout_mask

    def recording(self, step_input, rate):
        drawn.append(original(self, step_input, rate))
        return drawn[-1]

    monkeypatch.setattr(type(layer.cell), "_create_dropout_mask", recording)
    return drawn


def as_ours(drawn, implementation, dropout, recurrent_dropout):
    """Keras's masks, an array or a list with one a gate, as DropoutMasks of a batch; those of the input come first."""
    drawn = [jnp.stack(m, axis=1) if isinstance(m, list) else m for m in drawn]
    input_mask = drawn.pop(0) if dropout else None
    recurrent_mask = drawn.pop(0) if recurrent_dropout else None
    assert not drawn  # drawn once per call, not once per step
    if dropout:
        per_gate = implementation == 1 or recurrent_dropout > 0
        assert input_mask.shape == ((B, 4, D) if per_gate else (B, D))
    return DropoutMasks(input=input_mask, recurrent=recurrent_mask)


@pytest.mark.parametrize(("implementation", "dropout", "recurrent_dropout"), RATES)
@pytest.mark.parametrize("masked", [False, True])
def test_the_same_masks_give_the_same_numbers(keras, monkeypatch, implementation, dropout, recurrent_dropout, masked):
    options = {"implementation": implementation, "dropout": dropout, "recurrent_dropout": recurrent_dropout}
    spec = LSTM(N, return_sequences=True, **options)
    params, state = kp.arrays(spec, D, B, seed=1)
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(0, 1, (B, T, D)), jnp.float32)
    mask = jnp.asarray(rng.random((B, T)) < 0.6) if masked else None
    weigh = [jnp.asarray(rng.normal(0, 1, shape), jnp.float32) for shape in ((B, T, N), (B, N), (B, N))]

    layer = keras_layer(keras, **options)
    drawn = record_masks(keras, monkeypatch, layer)

    def theirs(weights, states, x):
        mapping = list(zip(layer.trainable_variables, weights, strict=True))
        with kp.relaxed(), keras.StatelessScope(mapping):
            made = layer(x, initial_state=states, mask=mask, training=True)
        return sum(jnp.sum(a * w) for a, w in zip(made, weigh, strict=True)), made

    # Compiled, Keras would draw its masks inside the program; so it runs step by step under the gradient's trace,
    # where masks, which depend on nothing that is differentiated, are plain arrays.
    differentiated = kp.flat(params), kp.flat(state), x
    (_, expected), wanted = jax.value_and_grad(theirs, argnums=(0, 1, 2), has_aux=True)(*differentiated)
    masks = as_ours(drawn, implementation, dropout, recurrent_dropout)
    assert any((a == 0).any() and (a > 1).any() for a in jax.tree.leaves(masks))

    @jax.jit
    def ours(params, state, x):
        def row(state, xs, mask, masks):
            return lstm_scan(params, state, xs, mask=mask, dropout_masks=masks)

        final, hs = jax.vmap(row)(state, x, mask, masks)
        made = hs, final.h, final.c
        return sum((jnp.sum(a * w) for a, w in zip(made, weigh, strict=True)), start=jnp.zeros(())), made

    (_, got), gradients = jax.value_and_grad(ours, argnums=(0, 1, 2), has_aux=True)(params, state, x)
    assert kp.output_error(got, expected) <= kp.OUTPUT
    flat = [*kp.flat(gradients[0]), *kp.flat(gradients[1]), gradients[2]]
    assert kp.gradient_error(flat, [*wanted[0], *wanted[1], wanted[2]]) <= kp.GRADIENT


@pytest.mark.parametrize(("implementation", "dropout", "recurrent_dropout"), RATES)
def test_the_layer_draws_the_masks_that_keras_draws(keras, monkeypatch, implementation, dropout, recurrent_dropout):
    """The same number of masks, of the same shapes, and the same two values in them."""
    options = {"implementation": implementation, "dropout": dropout, "recurrent_dropout": recurrent_dropout}
    layer = keras_layer(keras, **options)
    drawn = record_masks(keras, monkeypatch, layer)
    with kp.relaxed():
        layer(jnp.zeros((B, T, D)), training=True)
    theirs = as_ours(drawn, implementation, dropout, recurrent_dropout)
    ours = lstm_dropout_masks(jax.random.key(0), LSTM(N, **options), B, D, jnp.float32)
    for a, b in ((ours.input, theirs.input), (ours.recurrent, theirs.recurrent)):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            np.testing.assert_allclose(np.unique(a), np.unique(b), rtol=1e-6)


@pytest.mark.parametrize(("implementation", "dropout", "recurrent_dropout"), RATES)
def test_masks_keep_the_share_that_the_rate_says(implementation, dropout, recurrent_dropout):
    options = {"implementation": implementation, "dropout": dropout, "recurrent_dropout": recurrent_dropout}
    layer = LSTM(N, **options)
    keys = jax.random.split(jax.random.key(3), DRAWS)
    masks = jax.vmap(lambda key: lstm_dropout_masks(key, layer, B, D, jnp.float32))(keys)
    for mask, rate in ((masks.input, dropout), (masks.recurrent, recurrent_dropout)):
        if mask is None:
            assert rate == 0
            continue
        np.testing.assert_allclose(np.unique(mask), [0, 1 / (1 - rate)], rtol=1e-6)
        # every entry (row, gate, column) by itself has the rate, and no two of them are tied together
        dropped = np.asarray(mask == 0, np.float64).reshape(DRAWS, -1)
        spread = np.sqrt(rate * (1 - rate) / DRAWS)
        assert np.abs(dropped.mean(axis=0) - rate).max() < (STRAY + 1) * spread
        correlation = np.corrcoef(dropped.T) - np.eye(dropped.shape[1])
        assert np.abs(correlation).max() < (STRAY + 2) / np.sqrt(DRAWS)
    if masks.input is not None and masks.recurrent is not None:
        both = np.corrcoef(masks.input[:, 0, 0, 0], masks.recurrent[:, 0, 0, 0])[0, 1]
        assert abs(both) < STRAY / np.sqrt(DRAWS)


def ones_like(z):
    """A gate that is always open."""
    return jnp.ones_like(z)


# With open gates and a linear activation the cell is a sum: c' = c + x @ kernel_g + h @ recurrent_kernel_g + bias_g,
# and h' = c'. So the effect of a mask can be computed by hand.
OPEN = {"activation": "linear", "recurrent_activation": ones_like}


def open_params(seed, *, kernel=True, recurrent=True):
    """Weights of the sum, without bias; either kernel may be zeros."""
    rng = np.random.default_rng(seed)
    made = [jnp.asarray(rng.normal(0, 0.4, (rows, 4 * N)), jnp.float32) for rows in (D, N)]
    return LSTMParams(made[0] if kernel else 0 * made[0], made[1] if recurrent else 0 * made[1])


def zero_state(rows):
    return LSTMState(h=jnp.zeros((rows, N)), c=jnp.zeros((rows, N)))


@pytest.mark.parametrize("implementation", [1, 2])
def test_mean_and_variance_of_dropped_outputs_are_those_of_keras(keras, implementation):
    """One step of the sum: mean x @ W, variance r / (1 - r) · x² @ W²; ours and Keras's both."""
    rate = 0.4
    params = open_params(0, recurrent=False)
    w = np.asarray(params.kernel[:, 2 * N : 3 * N], np.float64)
    x = np.random.default_rng(1).normal(0, 1, D)
    many = jnp.asarray(np.broadcast_to(x, (DRAWS, 1, D)), jnp.float32)
    mean, variance = x @ w, rate / (1 - rate) * x**2 @ w**2

    layer = LSTM(N, use_bias=False, dropout=rate, implementation=implementation, **OPEN)
    _, ours = layer.apply(params, zero_state(DRAWS), many, key=jax.random.key(1))
    peer = keras.layers.LSTM(
        N, use_bias=False, dropout=rate, implementation=implementation, use_cudnn=False, seed=1, **OPEN
    )
    with kp.relaxed():
        peer.build(many.shape)
        peer.set_weights(kp.flat(params))
        theirs = peer(many, training=True)
    for y in (np.asarray(ours, np.float64), np.asarray(theirs, np.float64)):
        assert (np.abs(y.mean(axis=0) - mean) < STRAY * np.sqrt(variance / DRAWS)).all()
        np.testing.assert_allclose(y.var(axis=0), variance, rtol=STRAY * np.sqrt(2 / DRAWS))


@pytest.mark.parametrize("implementation", [1, 2])
def test_the_input_mask_is_the_same_at_every_step(implementation):
    """With x constant over time the sum grows by the same masked x @ W at each step."""
    params = open_params(0, recurrent=False)
    layer = LSTM(N, use_bias=False, dropout=0.5, implementation=implementation, return_sequences=True, **OPEN)
    x = jnp.ones((B, T, D))
    _, ys = layer.apply(params, zero_state(B), x, key=jax.random.key(0))
    steps = jnp.diff(ys, axis=1, prepend=jnp.zeros((B, 1, N)))
    np.testing.assert_allclose(steps, jnp.broadcast_to(steps[:, :1], steps.shape), atol=1e-5)
    rows = np.unique(np.asarray(steps[:, 0]).round(4), axis=0)
    assert len(rows) > 1  # and differs from row to row


def test_masks_are_fresh_for_each_key_and_repeat_with_it():
    layer = LSTM(N, dropout=0.5, recurrent_dropout=0.5, return_sequences=True)
    params, state = kp.arrays(layer, D, B, seed=1)
    x = jnp.ones((B, T, D))
    apply = jax.jit(lambda key: layer.apply(params, state, x, key=key)[1])
    first, again, other = apply(jax.random.key(0)), apply(jax.random.key(0)), apply(jax.random.key(1))
    np.testing.assert_array_equal(first, again)
    assert (np.abs(first - other).max(axis=(1, 2)) > 1e-3).all()  # in every row
    plain = layer.apply(params, state, x)[1]
    undropped = LSTM(N, return_sequences=True).apply(params, state, x, key=jax.random.key(0))[1]
    np.testing.assert_array_equal(plain, undropped)  # key=None is inference


def test_the_recurrent_mask_never_touches_the_carried_state():
    """Where h enters no gate (a recurrent kernel of zeros) recurrent dropout changes nothing at all."""
    params = open_params(0, recurrent=False)
    x = jnp.asarray(np.random.default_rng(1).normal(0, 1, (B, T, D)), jnp.float32)
    state = LSTMState(h=jnp.ones((B, N)), c=jnp.ones((B, N)))
    results = [
        LSTM(N, use_bias=False, recurrent_dropout=rate, return_sequences=True, **OPEN).apply(
            params, state, x, key=jax.random.key(0)
        )
        for rate in (0.0, 0.9)
    ]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_recurrent_mask_multiplies_h_where_it_enters_the_gates():
    """c' = c + (h ∘ mask_g) @ R_g: one step from a state by hand, with a mask that differs from gate to gate."""
    params = open_params(0, kernel=False)
    rng = np.random.default_rng(2)
    h, c = rng.normal(0, 1, (2, N))
    mask = rng.integers(0, 2, (4, N)) * 2.0
    mask[2] = [2, 0, 2]
    state, hs = lstm_scan(
        params,
        LSTMState(h=jnp.asarray(h, jnp.float32), c=jnp.asarray(c, jnp.float32)),
        jnp.zeros((1, D)),
        dropout_masks=DropoutMasks(recurrent=jnp.asarray(mask, jnp.float32)),
        **OPEN,
    )
    expected = c + (h * [2, 0, 2]) @ np.asarray(params.recurrent_kernel[:, 2 * N : 3 * N], np.float64)
    np.testing.assert_allclose(state.c, expected, rtol=1e-5)
    np.testing.assert_allclose(hs[0], expected, rtol=1e-5)


def test_a_rate_of_one_raises_where_keras_drops_nothing(keras):
    """The deviation that is decided: Keras 3 takes a rate of 1 and applies none."""
    with kp.relaxed():
        layer = keras.layers.LSTM(N, dropout=1.0, use_cudnn=False)
        x = jnp.ones((B, T, D))
        np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    for rate in ("dropout", "recurrent_dropout"):
        with pytest.raises(ValueError, match=rate):
            LSTM(N, **{rate: 1.0})
