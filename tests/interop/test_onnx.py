"""ONNX LSTM nodes beside onnxruntime, both ways: outputs and final states by feature.

onnxruntime computes no gradients. Those of imported layers are compared with torch, on a model that torch exports, and
with central differences of a float64 oracle.
"""

import io
import warnings
from collections.abc import Callable
from functools import partial

import cases
import jax
import jax.numpy as jnp
import numpy as np
import onnx_peer as op
import pytest
import reference
from conftest import peer

import jlstm
from jlstm import LSTM, Bidirectional, LSTMParams, Stack, Variant
from jlstm.interop import from_onnx, to_onnx

TITLE = "ONNX"
onnx = peer("onnx")

LIMIT = 3e-5
# Central differences of a float64 loss against float32 gradients.
STEP, GRADIENT_LIMIT = 1e-6, 3e-5
TWO_WAYS = "bidirectional"


# --- from ONNX: values -----------------------------------------------------------------------------------------------


def nodes(*options):
    """A feature: the worst error over some nodes, drawn with these options. Values; onnxruntime has no gradients."""
    return lambda: max(op.node_error(op.case(n, **o)) for n, o in enumerate(options))


def activation_nodes():
    """Every activation in each of its three places, with parameters where it takes some."""
    parameters = {
        **{"Tanh": (), "Sigmoid": (), "Relu": (), "Softsign": (), "Softplus": ()},
        **{"HardSigmoid": (0.3, 0.4), "Elu": (0.7,), "LeakyRelu": (0.2,), "ThresholdedRelu": (0.3,)},
        **{"Affine": (0.4, 0.1), "ScaledTanh": (1.2, 0.6)},
    }
    worst = []
    for name, values in parameters.items():
        alphas, betas = list(values[:1]), list(values[1:])
        # in all three places at once, and from the other direction in one place alone
        made = op.case(
            len(worst),
            direction=TWO_WAYS,
            scale=0.3,
            activations=[name, name, name, "Sigmoid", "Tanh", name],
            **({"activation_alpha": alphas * 4} if alphas else {}),
            **({"activation_beta": betas * 4} if betas else {}),
        )
        worst.append(op.node_error(made))
    return max(worst)


def default_parameters():
    """Activations whose parameters are left to their defaults, or in part: lists are consumed in order."""
    first = op.case(0, activations=["HardSigmoid", "LeakyRelu", "Elu"])
    second = op.case(1, activations=["Sigmoid", "LeakyRelu", "HardSigmoid"], activation_alpha=[0.3])
    third = op.case(2, activations=["hardsigmoid", "TANH", "Elu"], activation_beta=[0.4])
    return max(map(op.node_error, (first, second, third)))


# --- from ONNX: gradients --------------------------------------------------------------------------------------------


def oracle_gradients():
    """Gradients of x and all weights of a node with peepholes, clip, input_forget and activations, along one random
    direction, against central differences of tests/reference.py in float64; and its outputs."""
    made = op.case(
        5,
        state=True,
        peephole=True,
        clip=0.9,
        input_forget=1,
        activations=["HardSigmoid", "Softsign", "Tanh"],
        activation_alpha=[0.2],
        activation_beta=[0.5],
    )
    spec, params, got = op.jlstm_outputs(made)
    N = spec.units
    iofc = {name: made.arrays[name][0].astype(np.float64) for name in "WRBP"}

    def ifgo(columns):  # written out a second time, so that one mistake does not hide the other
        i, o, f, c = np.split(columns, 4, axis=-1)
        return np.concatenate([i, f, c, o], axis=-1)

    i, o, f = np.split(iofc["P"], 3)
    weights = {
        "kernel": ifgo(iofc["W"].T),
        "recurrent_kernel": ifgo(iofc["R"].T),
        "bias": ifgo(iofc["B"][: 4 * N] + iofc["B"][4 * N :]),
        "peephole": np.stack([i, f, o]),
    }
    x = made.arrays["X"].swapaxes(0, 1).astype(np.float64)
    state = made.arrays["initial_h"][0], made.arrays["initial_c"][0]
    options = {
        "recurrent_activation": "hard_sigmoid_keras2",
        "activation": "softsign",
        "output_activation": "tanh",
        **{"peephole": True, "preact_clip": 0.9, "coupled": "forget"},
    }
    (h, c), y = reference.lstm(weights, state, x, **options)
    worst = op.error(got, [y, h, c])
    rng = np.random.default_rng(6)
    cotangent = rng.normal(size=y.shape)
    towards = {name: rng.normal(size=a.shape) for name, a in {**weights, "x": x}.items()}

    def loss(step):
        moved = {name: a + step * towards[name] for name, a in weights.items()}
        (h, c), y = reference.lstm(moved, state, x + step * towards["x"], **options)
        return np.sum(y * cotangent) + np.sum(h) + np.sum(c)

    def our_loss(params, x):
        (end, y) = spec.apply(params, cases.lstm_state(state), x)
        return jnp.sum(y * cases.array(cotangent)) + jnp.sum(end.h) + jnp.sum(end.c)

    by_params, by_x = jax.jit(jax.grad(our_loss, (0, 1)), compiler_options=op.QUICKLY_COMPILED)(params, cases.array(x))
    got = np.sum(np.asarray(by_x) * towards["x"])
    size = np.linalg.norm(by_x)
    for name in weights:
        gradient = np.asarray(getattr(by_params, name), np.float64)
        got += np.sum(gradient * towards[name])
        size += np.linalg.norm(gradient)
    expected = (loss(STEP) - loss(-STEP)) / (2 * STEP)
    return max(worst, abs(got - expected) / size)


def torch_model(*, batch_first, bidirectional):
    """A torch.nn.LSTM of two layers, and the ONNX model that torch's exporter makes of it."""
    torch = peer("torch")
    torch.manual_seed(3)
    lstm = torch.nn.LSTM(3, 4, num_layers=2, bidirectional=bidirectional, batch_first=batch_first)
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        example = (torch.zeros(2, 5, 3),)
        torch.onnx.export(lstm, example, file, dynamo=False, opset_version=17, input_names=["x"])
    return lstm, onnx.load_model_from_string(file.getvalue())


def torch_export(*, batch_first, bidirectional):
    """Outputs, states and gradients of x and the weights against torch, whose own exporter wrote the ONNX model."""
    torch = peer("torch")
    lstm, model = torch_model(batch_first=batch_first, bidirectional=bidirectional)
    spec, params = from_onnx(model)
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, 5, 3)).astype(np.float32)
    their_x = torch.tensor(x if batch_first else x.swapaxes(0, 1).copy(), requires_grad=True)
    y, (h, c) = lstm(their_x)
    expected = [(y if batch_first else y.transpose(0, 1)).detach(), *h.detach(), *c.detach()]
    cotangent = rng.normal(size=expected[0].shape).astype(np.float32)
    (torch.sum((y if batch_first else y.transpose(0, 1)) * torch.tensor(cotangent)) + torch.sum(c)).backward()

    def loss(params, x):
        state, y = spec.apply(params, spec.initial_state(2), x)
        ends = [s for layer in state for s in op.directions_of(layer)]
        total = jnp.sum(y * cotangent) + sum((jnp.sum(s.c) for s in ends), jnp.zeros(()))
        return total, [y, *(s.h for s in ends), *(s.c for s in ends)]

    both = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), compiler_options=op.QUICKLY_COMPILED)
    (_, got), (by_params, by_x) = both(params, jnp.asarray(x))
    their_gradient = their_x.grad if batch_first else their_x.grad.transpose(0, 1)
    gradients = [(by_x, their_gradient)]
    ours = jax.tree.leaves(by_params, is_leaf=lambda p: isinstance(p, LSTMParams))
    suffixes = [f"_l{n}{way}" for n in range(2) for way in (("", "_reverse") if bidirectional else ("",))]
    for p, suffix in zip(ours, suffixes, strict=True):
        gradients.append((p.kernel.T, getattr(lstm, "weight_ih" + suffix).grad))
        gradients.append((p.recurrent_kernel.T, getattr(lstm, "weight_hh" + suffix).grad))
        gradients.append((p.bias, getattr(lstm, "bias_ih" + suffix).grad))
    relative = (float(np.max(np.abs(a - b.numpy())) / np.max(np.abs(b.numpy()))) for a, b in gradients)
    return max(op.error(got, expected), *relative)


# --- to ONNX: values -------------------------------------------------------------------------------------------------


def leaves_of(state):
    """The LSTMStates in a state, from the bottom, those of one layer together."""
    if isinstance(state, tuple):
        return [states for layer in state for states in leaves_of(layer)]
    return [op.directions_of(state)]


def exported(spec, *, lengths=None, state=False, D=3, B=3, T=4, seed=0):
    """A feature: a spec as jlstm runs it and as onnxruntime runs what to_onnx makes of it, and params read back.
    Values; onnxruntime has no gradients."""

    def measure():
        params, initial = op.draw(spec, D, B, seed)
        model = to_onnx(spec, params, lengths=lengths is not None, state=state)
        x = np.random.default_rng(seed + 1).normal(size=(B, T, D)).astype(np.float32)
        feeds = {"x": x}
        layers = leaves_of(initial)
        suffixes = [""] if len(layers) == 1 else [f"_{n}" for n in range(len(layers))]
        if lengths is not None:
            feeds["lengths"] = np.asarray(lengths, np.int32)
        if state:
            for states, suffix in zip(layers, suffixes, strict=True):
                for part in "hc":
                    feeds[f"initial_{part}{suffix}"] = np.stack([getattr(s, part) for s in states])
        else:
            initial = jax.tree.map(jnp.zeros_like, initial)
        ys = ["y"]
        if isinstance(spec, Bidirectional) and spec.merge_mode is None:
            ys = ["y_forward", "y_backward"]
        names = [*ys, *(f"final_{part}{suffix}" for suffix in suffixes for part in "hc")]
        assert [o.name for o in model.graph.output] == names
        got = op.session(model).run(names, feeds)
        options = {} if lengths is None else {"lengths": jnp.asarray(lengths)}
        end, y = op.jitted(spec)(params, initial, jnp.asarray(x), **options)
        ends = [np.stack([getattr(s, part) for s in states]) for states in leaves_of(end) for part in "hc"]
        return op.error(got, [*(y if isinstance(y, tuple) else [y]), *ends])

    return measure


def worst(*features):
    """The worst of some features."""
    return lambda: max(feature() for feature in features)


ALL = {"return_sequences": True}
VALID = {**ALL, "zero_output_for_mask": True}


def both(**options):
    """Bidirectional of two LSTMs that return sequences."""
    return Bidirectional(LSTM(4, **{**ALL, **options}))


FEATURES: dict[tuple[str, str], Callable[[], float]] = {
    ("from", "LSTM"): nodes({}, {"T": 1, "B": 1, "D": 1, "N": 1}),
    ("from", "no bias"): nodes({"bias": False}, {"bias": False, "direction": TWO_WAYS}),
    ("from", "reverse"): nodes({"direction": "reverse"}, {"direction": "reverse", "state": True}),
    ("from", "bidirectional"): nodes({"direction": TWO_WAYS}),
    ("from", "initial state"): nodes({"state": True}, {"state": "h"}, {"state": "c", "direction": TWO_WAYS}),
    ("from", "lengths"): nodes(
        {"lengths": [4, 2, 1]},
        {"lengths": [3, 1, 2], "direction": "reverse", "state": True},
        {"lengths": [4, 3, 1], "direction": TWO_WAYS, "state": True},
        {"lengths": [2, 3, 1], "outputs": ("", "Y_h", "Y_c"), "direction": TWO_WAYS},
    ),
    ("from", "peephole"): nodes({"peephole": True}, {"peephole": True, "direction": TWO_WAYS, "state": True}),
    ("from", "clip"): nodes({"clip": 0.3}, {"clip": 0.3, "peephole": True, "state": True, "bias": False}),
    ("from", "input_forget"): nodes(
        {"input_forget": 1}, {"input_forget": 1, "peephole": True, "clip": 0.4, "state": True, "direction": TWO_WAYS}
    ),
    ("from", "activations"): activation_nodes,
    ("from", "activations, default parameters"): default_parameters,
    ("from", "layout 1"): nodes(
        {"layout": 1}, {"layout": 1, "state": True, "direction": TWO_WAYS, "lengths": [4, 1, 2]}
    ),
    ("from", "last output alone"): nodes(
        {"outputs": ("", "Y_h", "Y_c")}, {"outputs": ("", "", "Y_c"), "direction": "reverse"}
    ),
    ("from", "peephole, clip, input_forget, gradients too"): oracle_gradients,
    ("from", "layers, of torch.onnx, gradients too"): partial(torch_export, batch_first=True, bidirectional=False),
    ("from", "layers, bidirectional, of torch.onnx, gradients too"): partial(
        torch_export, batch_first=False, bidirectional=True
    ),
    ("to", "LSTM"): exported(LSTM(4, **ALL)),
    ("to", "no bias"): exported(LSTM(1, use_bias=False, **ALL), D=1, B=1, T=1),
    ("to", "last output alone"): worst(
        exported(LSTM(4)), exported(Bidirectional(LSTM(4))), exported(Bidirectional(LSTM(4), merge_mode="mul"))
    ),
    ("to", "initial state"): worst(exported(LSTM(4, **ALL), state=True), exported(Bidirectional(LSTM(4)), state=True)),
    ("to", "lengths"): worst(
        exported(LSTM(4, **VALID), lengths=[4, 2, 1]),
        exported(LSTM(4), lengths=[3, 2, 0]),
        exported(both(), lengths=[3, 2, 0]),
        exported(LSTM(4, go_backwards=True, **VALID), lengths=[3, 1, 2]),
        exported(Stack((LSTM(3, **ALL), both())), lengths=[4, 2, 1]),
    ),
    ("to", "lengths, initial state"): worst(
        exported(LSTM(4, **VALID), lengths=[4, 0, 1], state=True),
        exported(Stack((both(), Bidirectional(LSTM(3)))), lengths=[0, 3, 1], state=True),
    ),
    ("to", "reverse"): worst(
        exported(LSTM(4, go_backwards=True, keep_order=True, **ALL)), exported(LSTM(4, go_backwards=True), state=True)
    ),
    ("to", "reverse, processing order"): worst(
        exported(LSTM(4, go_backwards=True, **ALL)),
        exported(Stack((LSTM(4, go_backwards=True, **ALL), LSTM(3, go_backwards=True, **ALL)))),
    ),
    ("to", "bidirectional"): exported(both()),
    ("to", "bidirectional, sum, mul, ave"): worst(
        *(exported(Bidirectional(LSTM(4, **ALL), merge_mode=m)) for m in ("sum", "mul", "ave"))
    ),
    ("to", "bidirectional, a pair"): worst(
        exported(Bidirectional(LSTM(4, **ALL), merge_mode=None)), exported(Bidirectional(LSTM(4), merge_mode=None))
    ),
    ("to", "bidirectional, unlike directions"): exported(
        Bidirectional(
            LSTM(4, activation="elu", recurrent_activation="hard_sigmoid", variant=Variant(peephole=True), **ALL),
            LSTM(4, go_backwards=True, use_bias=False, activation=jlstm.LeakyReLU(0.1), **ALL),
        )
    ),
    ("to", "layers, nested"): worst(
        exported(Stack((LSTM(4, **ALL), LSTM(3)), dropout=0.5)),
        exported(Stack((Stack((LSTM(4, **ALL), both())), Stack((both(), LSTM(2, **ALL))))), state=True),
    ),
    ("to", "peephole"): exported(LSTM(4, variant=Variant(peephole=True), **ALL), state=True),
    ("to", "input_forget"): exported(LSTM(4, variant=Variant(coupled="forget", peephole=True), **ALL)),
    ("to", "clip"): exported(both(variant=Variant(preact_clip=0.3))),
    ("to", "activations"): worst(
        *(
            exported(LSTM(4, activation=a, recurrent_activation=r, variant=Variant(output_activation=o), **ALL))
            for a, r, o in (
                ("relu", "hard_sigmoid", "linear"),
                ("softsign", "hard_sigmoid_keras2", None),
                ("softplus", jlstm.HardSigmoid(0.3, 0.4), "elu"),
                (jlstm.ELU(0.5), "sigmoid", jlstm.LeakyReLU(0.1)),
                (jlstm.ScaledTanh(1.7159, 2 / 3), "tanh", jlstm.ThresholdedReLU(0.2)),
                (jlstm.Affine(0.5, 0.1), "softsign", "leaky_relu"),
            )
        )
    ),
    ("to", "dropout (at inference)"): exported(LSTM(4, dropout=0.5, recurrent_dropout=0.2, **ALL)),
}


@pytest.mark.parametrize(("direction", "feature"), FEATURES)
def test_agrees(direction, feature):
    assert FEATURES[direction, feature]() < LIMIT
