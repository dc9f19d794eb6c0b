"""ONNX models of torch's two exporters, the one of today and the one before: outputs as torch's, params as from_torch.

Gradients of such a spec are compared in test_onnx.py.
"""

import io
import warnings
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import onnx_peer as op
import pytest
from conftest import peer

from jlstm import LSTM, Bidirectional, Stack
from jlstm.interop import from_onnx, from_torch
from jlstm.interop.onnx import inputs

onnx = peer("onnx")
torch = peer("torch")
peer("onnxscript")  # of which torch's exporter makes its models

LIMIT = 3e-5
B, T, D, N = 2, 5, 3, 4


class Layer(torch.nn.Module):
    """An LSTM, with a learned initial state if wanted, and what is taken of its outputs."""

    def __init__(self, *, learned=False, last=False, **options):
        super().__init__()
        self.lstm = torch.nn.LSTM(D, N, **options)
        shape = self.lstm.num_layers * (1 + self.lstm.bidirectional), 1, N
        self.h, self.c = (torch.nn.Parameter(torch.randn(shape)) if learned else None for _ in range(2))
        self.last = last

    def forward(self, x):
        state = None
        if self.h is not None:
            rows = x.shape[0 if self.lstm.batch_first else 1]
            state = self.h.expand(-1, rows, -1).contiguous(), self.c.expand(-1, rows, -1).contiguous()
        y, (h, c) = self.lstm(x, state)
        return h[-1] if self.last else (y, h, c)


def exported(module, *, dynamo, open_batch):
    """The model of a module; its batch is fixed or not."""
    axis = 0 if module.lstm.batch_first else 1
    file, example = io.BytesIO(), (torch.zeros((B, T, D) if axis == 0 else (T, B, D)),)
    with warnings.catch_warnings(action="ignore"):
        if dynamo:
            shapes = ({axis: torch.export.Dim("batch")},) if open_batch else None
            return torch.onnx.export(module, example, dynamo=True, dynamic_shapes=shapes, verbose=False).model_proto
        axes = {"x": {axis: "batch"}} if open_batch else None
        torch.onnx.export(module, example, file, dynamo=False, opset_version=17, input_names=["x"], dynamic_axes=axes)
    return onnx.load_model_from_string(file.getvalue())


def not_zeroed(spec):
    """A spec of from_torch without zero_output_for_mask: that there may be lengths is not in an ONNX model."""
    if isinstance(spec, Stack):
        return Stack(tuple(map(not_zeroed, spec.layers)))
    if isinstance(spec, Bidirectional):
        return Bidirectional(not_zeroed(spec.forward), not_zeroed(spec.backward))
    return replace(spec, zero_output_for_mask=False)


def outputs_of(module, model):
    """The outputs and final states of jlstm and of torch on the same x."""
    spec, params = from_onnx(model)
    x = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    with torch.no_grad():
        y, *states = module(torch.tensor(x if module.lstm.batch_first else x.swapaxes(0, 1).copy()))
    y = y if module.lstm.batch_first else y.swapaxes(0, 1)
    given = inputs(model, batch_size=B)
    end, got = op.jitted(spec)(params, given.pop("state", spec.initial_state(B)), jnp.asarray(x), **given)
    layers = end if isinstance(spec, Stack) else [end]
    ends = [s for layer in layers for s in op.directions_of(layer)]
    return [got, *(s.h for s in ends), *(s.c for s in ends)], [y, *(row for state in states for row in state)]


@pytest.mark.parametrize("open_batch", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {"bias": False},
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        {"num_layers": 2, "bidirectional": True},
    ],
    ids=str,
)
def test_models_of_the_exporter_of_today(options, open_batch):
    torch.manual_seed(1)
    module = Layer(**options).eval()
    model = exported(module, dynamo=True, open_batch=open_batch)
    assert "Reshape" in {node.op_type for node in model.graph.node}
    spec, params = from_torch(module.lstm)
    op.same_layer(from_onnx(model), (not_zeroed(spec), params))
    assert inputs(model) == {}  # its zeros are what apply starts from
    assert op.error(*outputs_of(module, model)) < LIMIT


@pytest.mark.parametrize("dynamo", [True, False])
def test_last_output_alone(dynamo):
    torch.manual_seed(2)
    module = Layer(batch_first=True, last=True).eval()
    model = exported(module, dynamo=dynamo, open_batch=True)
    spec, params = from_onnx(model)
    assert spec == LSTM(N)
    x = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    _, got = op.jitted(spec)(params, spec.initial_state(B), jnp.asarray(x))
    assert op.error([got], [module(torch.tensor(x)).detach()]) < LIMIT


@pytest.mark.parametrize("open_batch", [False, True])
@pytest.mark.parametrize("dynamo", [True, False])
def test_a_learned_state_is_read(dynamo, open_batch):
    torch.manual_seed(3)
    module = Layer(batch_first=True, num_layers=2, learned=True).eval()
    model = exported(module, dynamo=dynamo, open_batch=open_batch)
    assert op.error(*outputs_of(module, model)) < LIMIT
    first, second = inputs(model, batch_size=B)["state"]
    for n, state in enumerate((first, second)):
        np.testing.assert_array_equal(state.h, np.repeat(module.h[n].detach().numpy(), B, 0))
        np.testing.assert_array_equal(state.c, np.repeat(module.c[n].detach().numpy(), B, 0))
