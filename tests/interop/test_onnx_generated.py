"""200 generated ONNX LSTM nodes (12 in CI) as jlstm and as onnxruntime run them: outputs and final states."""

import random

import numpy as np
import onnx_peer as op
import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st

LIMIT = 3e-5
TWO_WAYS = "bidirectional"
SHAPES = ((4, 3, 3, 4), (4, 3, 3, 4), (5, 2, 1, 3), (1, 4, 2, 3))  # T, B, D, N: few, as each costs a compilation
ACTIVATIONS = {
    **{"Tanh": 0, "Sigmoid": 0, "Relu": 0, "Softsign": 0, "Softplus": 0, "HardSigmoid": 2},
    **{"Elu": 1, "LeakyRelu": 1, "ThresholdedRelu": 1, "Affine": 2, "ScaledTanh": 2},
}
TOO_LARGE = 1e3  # states that unbounded activations have let run away; onnxruntime's Softplus overflows at 89
NEED_VALUES = {"ThresholdedRelu", "Affine", "ScaledTanh"}


@st.composite
def generated(draw):
    """A node with all its inputs."""
    rng = random.Random(draw(st.integers(0, 2**32 - 1)))
    T, B, D, N = rng.choice(SHAPES)
    direction = rng.choice(("forward", "reverse", TWO_WAYS))
    options = {
        "bias": rng.random() < 0.7,
        "peephole": rng.random() < 0.4,
        "state": rng.choice(("", True, True, "h", "c")),
        "outputs": rng.choice((op.OUTPUTS,) * 4 + (("", "Y_h", "Y_c"), ("Y",), ("Y", "", "Y_c"))),
        "layout": rng.choice((0, 0, 1)),
    }
    if rng.random() < 0.4:
        # rows of length 0 with a state are compared in test_onnx_edges.py: onnxruntime zeroes their state
        options["lengths"] = [rng.randint(1 if options["state"] else 0, T) for _ in range(B)]
    if rng.random() < 0.4:
        options["clip"] = round(rng.uniform(0.1, 3), 3)
    if rng.random() < 0.4:
        options["input_forget"] = rng.choice((0, 1, 1))
    if rng.random() < 0.6:
        names = [rng.choice(list(ACTIVATIONS)) for _ in range(6 if direction == TWO_WAYS else 3)]
        alphas = [round(rng.uniform(0.1, 0.9), 3) for name in names if ACTIVATIONS[name] > 0]
        betas = [round(rng.uniform(0.1, 0.9), 3) for name in names if ACTIVATIONS[name] > 1]
        if not NEED_VALUES & set(names):
            alphas, betas = (values[: rng.randint(0, len(values))] for values in (alphas, betas))
        options["activations"] = names
        options |= {f"activation_{n}": v for n, v in (("alpha", alphas), ("beta", betas)) if v}
    # Unbounded activations feed on themselves; smaller weights keep float32 meaningful.
    scale = 0.25 if "activations" in options else 0.7
    sizes = {"T": T, "B": B, "D": D, "N": N}
    return {"seed": rng.randrange(2**16), "direction": direction, "scale": scale} | options | sizes


@pytest.fixture(scope="module")
def record(request):
    """Collect errors, and print the worst in one line, captured output or not."""
    made = []
    yield made
    if made:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\nONNX: {len(made)} generated nodes, worst error {max(made):.1e} (limit {LIMIT:.0e})")


def finite(arrays):
    """Whether every number is."""
    return all(np.isfinite(np.asarray(a, np.float64)).all() for a in arrays)


@given(generated())
@settings(
    max_examples=12 if settings().max_examples < 200 else 200,
    phases=[Phase.explicit, Phase.generate],  # shrinking would compile for many minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_generated_nodes(record, options):
    made = op.case(**options)
    _, _, got = op.jlstm_outputs(made)
    expected = op.as_layer_outputs(*op.onnxruntime_outputs(made))
    largest, theirs = (max(float(np.max(np.abs(a))) for a in arrays) if finite(arrays) else np.inf
                       for arrays in (got, expected))  # fmt: skip
    if largest > TOO_LARGE and (finite(got) or theirs > TOO_LARGE):  # what is not finite here alone is an error
        reject()
    worst_error = op.error(got, expected)
    record.append(worst_error)
    assert worst_error < LIMIT
