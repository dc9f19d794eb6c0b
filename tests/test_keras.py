"""Parity with the live Keras layer over generated configurations: outputs, final states, penalties, gradients."""

import time
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import keras_peer as kp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, event, given, reject, settings
from hypothesis import strategies as st
from keras_peer import keras_fixture  # noqa: F401  # the fixture `keras`

from jlstm import named

# Few shapes (B, T, D, N), so that an example costs the compilation of two small programs.
SHAPES = ((3, 4, 4, 3), (3, 4, 4, 3), (2, 5, 1, 4), (2, 5, 1, 4), (4, 1, 3, 2))
MASKS = (
    ("none",) * 3
    + ("lengths",) * 3
    + ("right-padded", "holes", "holes", "starting False", "all-False row", "all False")
)
SHARED_ACTIVATIONS = tuple(name for name in named.ACTIVATIONS if name != "hard_sigmoid_keras2")
# Activations without a bound feed on themselves over time; smaller weights keep them in a range where float32 says
# something, and a negative bias keeps the exponential small.
UNBOUNDED = {"relu", "linear", "exponential", "elu", "selu", "celu", "gelu", "silu", "swish", "hard_silu", "hard_swish"}
UNBOUNDED |= {"softplus", "leaky_relu", "mish", "log_sigmoid", "sparse_plus", "squareplus", "soft_shrink"}
UNBOUNDED |= {"hard_shrink", "tanh_shrink", "log_softmax", "relu6"}
TOO_LARGE = 1e4  # an output beyond it has run away: no comparison
# All initializers are compared in test_keras_options.py; these cost no compilation for every shape.
INITIALIZERS = ("zeros", "ones", "random_normal")


@dataclass
class Record:
    """The worst over all examples."""

    count: int = 0
    runaway: int = 0
    output: float = 0.0
    penalty: float = 0.0
    gradient: float = 0.0
    kinds: dict = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)

    def line(self):
        """Say it in one line."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        return (
            f"Keras parity: {self.count} configurations ({kinds}; {self.runaway} more left out as too large), worst "
            f"output or state {self.output:.1e} (limit {kp.OUTPUT:.0e}), worst penalty or constraint "
            f"{self.penalty:.1e}, worst relative gradient {self.gradient:.1e} (limit {kp.GRADIENT:.0e}), "
            f"{time.monotonic() - self.start:.0f} s"
        )


@pytest.fixture(scope="module")
def record(request):
    """Collect the worst errors, and print them in one line at the end, captured output or not."""
    made = Record()
    yield made
    if made.count:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{made.line()}")


# --- drawing a configuration ---------------------------------------------------------------------------------------
# Hypothesis draws the seed of a generator that makes all choices. Left to make them itself it repeats choices and
# leans to simple ones: of 40 examples none was a plain layer that goes backwards and returns sequences.


def arguments(rng, units, *, sequences, top=True):
    """Keras's arguments of one LSTM, but for its direction; about half of them are left to their defaults."""
    choices = {
        "activation": SHARED_ACTIVATIONS,
        "recurrent_activation": SHARED_ACTIVATIONS,
        "use_bias": (True, False),
        "kernel_initializer": INITIALIZERS,
        "recurrent_initializer": INITIALIZERS,
        "bias_initializer": INITIALIZERS,
        "unit_forget_bias": (True, False),
        "kernel_regularizer": (None, *named.REGULARIZERS),
        "recurrent_regularizer": (None, *named.REGULARIZERS),
        "bias_regularizer": (None, "l1", "l2", "l1_l2"),
        "kernel_constraint": (None, *named.CONSTRAINTS),
        "recurrent_constraint": (None, *named.CONSTRAINTS),
        "bias_constraint": (None, *named.CONSTRAINTS),
        "dropout": (0.0, 0.3),
        "recurrent_dropout": (0.0, 0.4),
        "implementation": (1, 2),
        "zero_output_for_mask": (True, False),
        "dtype": (None, "float32"),
    }
    if top:
        choices["activity_regularizer"] = (None, "l1", "l2")
    drawn = {name: rng.choice(values) for name, values in choices.items() if rng.random() < 0.5}
    return {"units": units, "return_sequences": sequences, **drawn}


def plain(rng, units, *, mask, sequences=None, top=True):
    """One LSTM, as tests/keras_peer.py describes it."""
    sequences = rng.random() < 0.6 if sequences is None else sequences
    made = arguments(rng, units, sequences=sequences, top=top)
    made["unroll"] = rng.choice((False, False, True, 2))
    made["go_backwards"] = rng.random() < 0.5
    # Below another layer a mask wants the outputs in the order of the input.
    made["keep_order"] = (mask and not top) or rng.random() < 0.25
    return made


def bidirectional(rng, units, *, mask, sequences=None, top=True):
    """One Bidirectional; the backward layer a copy, or one of its own."""
    sequences = rng.random() < 0.6 if sequences is None else sequences
    merge_mode = rng.choice(("concat", "sum", "mul", "ave") + ((None,) if top else ()))
    regularized = top and merge_mode in ("concat", None)  # of a merged output ours raises: it cannot be taken apart
    forward = arguments(rng, units, sequences=sequences, top=regularized)
    backward = None
    if rng.random() < 0.5:
        other = units + rng.choice((0, 1)) if merge_mode in ("concat", None) else units
        backward = arguments(rng, other, sequences=sequences, top=regularized)
    return {"bidirectional": forward, "backward": backward, "merge_mode": merge_mode}


def stacked(rng, units, *, mask):
    """Two layers, either of them an LSTM or a Bidirectional."""
    below = rng.choice((plain, bidirectional))(rng, units, mask=mask, sequences=True, top=False)
    return [below, rng.choice((plain, bidirectional))(rng, units + 1, mask=mask)]


@st.composite
def configurations(draw, kind):
    """Everything about one comparison: layer, shapes, mask, state, the seed of all numbers."""
    rng = draw(st.randoms(use_true_random=True))
    B, T, D, N = rng.choice(SHAPES)
    mask = rng.choice(MASKS)
    layer = kind(rng, N, mask=mask != "none")
    if D == 1:  # Keras's orthogonal regularizer of a matrix of one row is 0 / 0; ours is 0
        for a in leaves(layer):
            if a.get("kernel_regularizer") == "orthogonal_regularizer":
                a["kernel_regularizer"] = "l2"
    return {
        "layer": layer,
        "shape": (B, T, D),
        "mask": mask,
        "state": rng.random() < 0.7,
        "keras unrolled": rng.random() < 0.3,
        "seed": rng.randrange(2**16),
    }


def drawn_mask(kind, B, T, rng):
    """A mask [B, T] of the kind, and lengths [B] where ours is given those in its place."""
    if kind == "none":
        return None, None
    if kind in ("lengths", "right-padded"):
        lengths = rng.integers(0, T + 1, B)
        return np.arange(T) < lengths[:, None], jnp.asarray(lengths, jnp.int32) if kind == "lengths" else None
    mask = rng.random((B, T)) < 0.6
    if kind == "starting False":
        mask[:, 0] = False
    elif kind == "all-False row":
        mask[0] = False
    elif kind == "all False":
        mask[:] = False
    return mask, None


def leaves(description):
    """The arguments of every LSTM in a description."""
    if isinstance(description, list):
        return [a for d in description for a in leaves(d)]
    if "bidirectional" in description:
        return [description["bidirectional"], *leaves(description["backward"] or {})]
    return [description] if description else []


def unrolled_differs(description, mask):
    """Whether Keras's unrolled path departs from its own scan: it then begins masked rows with zeros in place of h,
    and ignores zero_output_for_mask. We follow the scan."""
    if mask is None:
        return False
    first_masked = not mask[:, [0, -1]].all()
    return first_masked or any(
        "merge" in str(description) or a.get("zero_output_for_mask") for a in leaves(description)
    )


# --- the comparison ------------------------------------------------------------------------------------------------


def examples(share):
    """Settings for this share of the profile's examples (40 in CI, 500 under the profile "full")."""
    return settings(
        max_examples=round(settings().max_examples * share),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        phases=[Phase.explicit, Phase.generate],  # an example compiles for seconds: shrinking would take many minutes
        report_multiple_bugs=False,
    )


@examples(0.4)
@given(configuration=configurations(plain))
def test_any_lstm_gives_the_numbers_of_keras(keras, record, configuration):
    compare(keras, record, configuration)


@examples(0.3)
@given(configuration=configurations(bidirectional))
def test_any_bidirectional_gives_the_numbers_of_keras(keras, record, configuration):
    compare(keras, record, configuration)


@examples(0.3)
@given(configuration=configurations(stacked))
def test_any_stack_gives_the_numbers_of_keras(keras, record, configuration):
    compare(keras, record, configuration)


def compare(keras, record, configuration):
    """Run one configuration on both sides; add to the record, then assert the limits."""
    description, (B, T, D) = configuration["layer"], configuration["shape"]
    rng = np.random.default_rng(configuration["seed"])
    mask, lengths = drawn_mask(configuration["mask"], B, T, rng)
    names = {a.get(k, "tanh") for a in leaves(description) for k in ("activation", "recurrent_activation")}
    scale = 0.25 if names & UNBOUNDED else 0.7
    spec = kp.ours(description)
    params, state = kp.arrays(spec, D, B, configuration["seed"], scale, -2.0 if "exponential" in names else 0.0)
    if not configuration["state"]:
        state = spec.initial_state(B)
    x = jnp.asarray(rng.normal(0, 1, (B, T, D)), jnp.float32)

    unroll = configuration["keras unrolled"] and T > 1 and not unrolled_differs(description, mask)
    levels = kp.theirs(keras, description, (B, T, D), unroll=unroll)
    weights = kp.flat(params)

    def run_theirs(weights, states, x, mask):
        return kp.run_theirs(keras, levels, weights, states, x, mask)

    def run_ours(params, state, x, mask, lengths):
        outputs, final, penalty = kp.run_ours(spec, params, state, x, mask, lengths)
        # Keras regularizes the final states as well where it returns them: each is an output of the layer.
        return outputs, final, penalty + state_penalty(spec, final)

    mask = None if mask is None else jnp.asarray(mask)
    given_mask = (None, lengths) if lengths is not None else (mask, None)
    shapes = jax.eval_shape(lambda *a: run_ours(*a)[:2], params, state, x, *given_mask)
    cotangents = [jnp.asarray(rng.normal(0, 1, a.shape), jnp.float32) for part in shapes for a in part]
    values, gradients = kp.value_and_gradients(run_ours, cotangents)((params, state, x), *given_mask)
    states = kp.flat(state) if configuration["state"] else None
    expected, wanted = kp.value_and_gradients(run_theirs, cotangents)((weights, states, x), mask)
    if not all(np.max(np.abs(a), initial=0) < TOO_LARGE for a in expected[0]):
        record.runaway += 1
        reject()

    output = max(kp.output_error(values[0], expected[0]), kp.output_error(values[1], expected[1]))
    got = [kp.flat(gradients[0]), kp.flat(gradients[1]) if states is not None else [], [gradients[2]]]
    want = [wanted[0], wanted[1] or [], [wanted[2]]]
    gradient = max(kp.gradient_error(g, w) for g, w in zip(got, want, strict=True))
    penalty = max(kp.error(values[2], expected[2], 1.0), constraint_error(spec, params, levels, weights))

    kind = "stacked" if isinstance(description, list) else "bidirectional" if "backward" in description else "plain"
    event(f"mask: {configuration['mask']}")
    record.count += 1
    record.kinds[kind] = record.kinds.get(kind, 0) + 1
    record.output, record.gradient = max(record.output, output), max(record.gradient, gradient)
    record.penalty = max(record.penalty, penalty)
    assert output <= kp.OUTPUT
    assert gradient <= kp.GRADIENT
    assert penalty <= kp.OUTPUT
    assert_same_layout_of_the_initial_bias(spec, D, levels)
    if record.count % 25 == 0:
        keras.utils.clear_session()


def state_penalty(spec, final):
    """The activity regularizers of the last layer, over its final states."""
    if hasattr(spec, "layers"):
        spec = spec.layers[-1]
    directions = (spec.forward, spec.backward) if hasattr(spec, "forward") else (spec,)
    final = final[-2 * len(directions) :]
    return sum(d.activity_penalty(a) for d, pair in zip(directions, (final[:2], final[2:])) for a in pair)  # noqa: B905


def constraint_error(spec, params, levels, weights):
    """The worst difference between constrain(params) and what Keras would assign to its variables."""
    with kp.relaxed():
        variables = [v for level in levels for v in level.layer.trainable_variables]
        expected = [v.constraint(w) if v.constraint else w for v, w in zip(variables, weights, strict=True)]
    return kp.output_error(kp.flat(spec.constrain(params)), expected)


def assert_same_layout_of_the_initial_bias(spec, D, levels):
    """Where the initial bias is not random it is the same; otherwise its forget slice is."""
    biases = [a for a in kp.flat(spec.init(jax.random.key(0), D)) if a.ndim == 1]
    variables = [v for level in levels for v in level.layer.trainable_variables if len(v.shape) == 1]
    for ours, theirs in zip(biases, variables, strict=True):
        assert ours.shape == theirs.shape
        N = ours.shape[0] // 4
        theirs = np.asarray(theirs.value)
        for part in (slice(0, N), slice(N, 2 * N), slice(2 * N, None)):
            if (theirs[part] == theirs[part][0]).all():
                np.testing.assert_array_equal(ours[part], theirs[part])
