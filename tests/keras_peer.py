"""The live Keras layer beside ours: both made from one plain description, run over the same arrays, compared.

A description of a layer is a dict of Keras's arguments (names and plain values only), and of a composed one
    {"bidirectional": {...}, "backward": {...} or None, "merge_mode": ...}
and a list of descriptions is a stack.
"""

import contextlib
import math
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import QUICKLY_COMPILED
from conftest import peer

from jlstm import LSTM, Bidirectional, Directions, LSTMParams, LSTMState, Stack

# Outputs and states, relative to the largest entry of the array (or to 1, whichever is larger): about 100 float32
# roundings, for a few steps of sums that the two sides order differently.
OUTPUT = 2e-5
# Gradients, relative to the largest entry of the array: they add such errors over steps and rows.
GRADIENT = 2e-4
# A gradient that is smaller than this everywhere (saturated or dead activations) is compared against this size: its
# error is that of the terms that cancelled.
SMALLEST_GRADIENT = 1e-3
# One function of one array, no recurrence.
POINTWISE = 2e-6

OWN = ("keep_order", "unroll")  # not handed to Keras: it has no keep_order, and theirs() decides about unroll

RENAMED = {"l1_l2": "l1l2"}  # the function keras.regularizers.l1_l2 has this string as its name


@pytest.fixture(name="keras", scope="session")
def keras_fixture():
    """Keras on its JAX backend."""
    with warnings.catch_warnings(action="ignore"):
        module = peer("keras")
    assert module.backend.backend() == "jax", "the environment variable KERAS_BACKEND must be jax"
    return module


@contextlib.contextmanager
def relaxed():
    """Let Keras promote dtypes and ranks as it is used to."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


# --- the two layers ------------------------------------------------------------------------------------------------


def ours(description):
    """Make our spec."""
    if isinstance(description, list):
        return Stack(tuple(ours(d) for d in description))
    if "bidirectional" in description:
        backward = description["backward"]
        if backward is not None:
            backward = LSTM(**backward, go_backwards=True)
        return Bidirectional(LSTM(**description["bidirectional"]), backward, merge_mode=description["merge_mode"])
    return LSTM(**description)


@dataclass(frozen=True)
class Level:
    """One of Keras's layers."""

    layer: Any
    flip: bool  # turn its outputs round in time: our keep_order, which Keras does not have


@relaxed()
def theirs(keras, description, input_shape, *, unroll=False, **options):
    """Make Keras's layers, a list of Level, built; `options` go to every layer."""
    if isinstance(description, list):
        levels, shape = [], input_shape
        for d in description:
            levels += theirs(keras, d, shape, unroll=unroll, **options)
            shape = (*input_shape[:2], ours(d).output_size)
        return levels

    def lstm(arguments, **more):
        arguments = {k: RENAMED.get(v, v) for k, v in arguments.items() if k not in OWN}
        return keras.layers.LSTM(**{"return_state": True, **arguments, **more, **options}, unroll=unroll)

    if "bidirectional" in description:
        backward = description["backward"]
        layer = keras.layers.Bidirectional(
            lstm(description["bidirectional"]),
            merge_mode=description["merge_mode"],
            backward_layer=None if backward is None else lstm(backward, go_backwards=True),
        )
    else:
        layer = lstm(description)
    layer.build(input_shape)
    return [Level(layer, bool(description.get("keep_order") and layer.go_backwards and layer.return_sequences))]


def arrays(spec, input_size, batch, seed, scale=0.5, bias=0.0):
    """Draw weights and a state for our spec: nothing of the initial values is left, the forget bias included."""
    rng = np.random.default_rng(seed)

    def normal(a, mean=0.0):
        return jnp.asarray(rng.normal(mean, scale, a.shape), jnp.float32)

    def weights(p):
        return LSTMParams(
            normal(p.kernel), normal(p.recurrent_kernel), None if p.bias is None else normal(p.bias, bias)
        )

    shapes = jax.eval_shape(lambda key: spec.init(key, input_size), jax.random.key(0))
    params = jax.tree.map(weights, shapes, is_leaf=lambda p: isinstance(p, LSTMParams))
    state = jax.tree.map(normal, jax.eval_shape(lambda: spec.initial_state(batch)))
    return params, state


def flat(tree):
    """The arrays of our params or state in Keras's order: layer by layer, forward before backward."""
    if isinstance(tree, tuple):
        return [a for part in tree for a in flat(part)]
    if isinstance(tree, Directions):
        return flat(tree.forward) + flat(tree.backward)
    if isinstance(tree, LSTMState):
        return [tree.h, tree.c]
    return [a for a in (tree.kernel, tree.recurrent_kernel, tree.bias) if a is not None]


# --- running them --------------------------------------------------------------------------------------------------


def run_ours(spec, params, state, x, mask=None, lengths=None):
    """Outputs (a list), final states (a flat list), and the penalties of weights and outputs."""
    final, y = spec.apply(params, state, x, mask=mask, lengths=lengths)
    penalty = spec.penalty(params) + spec.activity_penalty(y)
    return list(y) if isinstance(y, tuple) else [y], flat(final), penalty


def run_theirs(keras, levels, weights, states, x, mask=None, training=False):
    """The same of Keras's layers: `weights` and `states` flat; states None leaves the zeros to Keras."""
    weights, y, final, penalty = list(weights), x, [], 0.0
    states = None if states is None else list(states)
    for level in levels:
        layer = level.layer
        count = len(layer.trainable_variables)
        mine, weights = weights[:count], weights[count:]
        two = hasattr(layer, "forward_layer")
        initial = None
        if states is not None:
            initial, states = states[: 4 if two else 2], states[4 if two else 2 :]
        # As layer.stateless_call does it, but through __call__, which alone records the activity regularizer.
        mapping = list(zip(layer.trainable_variables, mine, strict=True))
        with relaxed(), keras.StatelessScope(mapping, collect_losses=True):
            made = layer(y, initial_state=initial, mask=mask, training=training)
            losses = layer.losses
        pair = two and layer.merge_mode is None
        outputs, new_states = (made[:2], made[2:]) if pair else (made[:1], made[1:])
        final += new_states
        penalty = penalty + sum(losses)
        outputs = [jnp.flip(a, axis=1) if level.flip else a for a in outputs]
        y = outputs[0]
    return outputs, final, penalty


def value_and_gradients(run, cotangents):
    """Wrap `run` into one compiled function of (weights, states, x) and constants: all it returns, and the gradients.

    The scalar that is differentiated weighs every output and final state by its own random factor and adds the
    penalty; a state of None has no gradient.
    """

    def loss(differentiated, *constants):
        outputs, final, penalty = run(*differentiated, *constants)
        terms = [jnp.sum(a * w) for a, w in zip([*outputs, *final], cotangents, strict=True)]
        return sum(terms[1:], start=terms[0]) + penalty, (outputs, final, penalty)

    @partial(jax.jit, compiler_options=QUICKLY_COMPILED)
    def both(differentiated, *constants):
        (_, values), gradients = jax.value_and_grad(loss, has_aux=True)(differentiated, *constants)
        return values, gradients

    return both


# --- comparing -----------------------------------------------------------------------------------------------------


def error(got, expected, smallest):
    """The largest difference, relative to the largest entry expected, or to `smallest` where that is larger."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    if not got.size:
        return 0.0
    worst = np.max(np.abs(got - expected)) / max(np.max(np.abs(expected)), smallest)
    return math.inf if np.isnan(worst) else float(worst)


def output_error(got, expected):
    """The worst of a list of arrays."""
    assert len(got) == len(expected)
    return max((error(a, b, 1.0) for a, b in zip(got, expected, strict=True)), default=0.0)


def gradient_error(got, expected):
    """The worst of a list of gradients."""
    assert len(got) == len(expected)
    return max((error(a, b, SMALLEST_GRADIENT) for a, b in zip(got, expected, strict=True)), default=0.0)


def assert_close(got, expected, tolerance=POINTWISE):
    """Assert that two arrays agree, relative to the largest entry or to 1."""
    assert error(got, expected, 1.0) <= tolerance


def shared_names(table, keras_module):
    """The names of one of our tables that Keras knows as well, in order."""
    return [name for name in table if name in keras_module.ALL_OBJECTS_DICT]
