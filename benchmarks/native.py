"""The libraries that do not run on JAX: torch, and onnxruntime (forward only). At most two intra-op threads each."""

from collections.abc import Sequence

import numpy as np

from benchmarks import machine
from benchmarks.cases import Shape, Weights, reorder
from benchmarks.peers import Run

THREADS = min(2, machine.cores())


class Torch:
    """torch.nn.LSTM, eager; forward under inference_mode, the gradient by autograd. Torch has a second bias: zeros."""

    kind = "other"

    def __init__(self, shape: Shape):
        import torch

        self.torch, self.shape = torch, shape
        torch.set_num_threads(THREADS)

    def forward(self, weights: Weights, x: np.ndarray) -> Run:
        """Prepare the outputs and the last state."""
        layer, x = self._layer(weights), self.torch.from_numpy(x)

        def call():
            with self.torch.inference_mode():
                return layer(x)

        return Run(call, _read_outputs)

    def step(self, weights: Weights, x: np.ndarray) -> Run:
        """Prepare the gradient of sum(y²) with respect to the parameters and x."""
        layer, x = self._layer(weights), self.torch.from_numpy(x).requires_grad_()

        def call():
            y, _ = layer(x)
            return self.torch.autograd.grad((y * y).sum(), [*layer.parameters(), x])

        return Run(call, _read_gradients)

    def many(self, weights: Sequence[Weights], xs: np.ndarray) -> Run:
        """Prepare the gradients of several models, one after the other."""
        calls = [self.step(w, x).call for w, x in zip(weights, xs, strict=True)]
        return Run(lambda: [call() for call in calls], lambda results: _read_gradients(results[-1]))

    def streaming(self, weights: Weights, x: np.ndarray) -> Run:
        """Prepare one step of torch.nn.LSTMCell, the state carried from call to call."""
        cell, x_t = self._cell(weights), self.torch.from_numpy(x[:, 0])
        state = None

        def call():
            nonlocal state
            with self.torch.inference_mode():
                state = cell(x_t, state)
            return state[0]

        return Run(call, lambda y: {"y": y.numpy()})

    def streaming_numpy(self, weights: Weights, x: np.ndarray) -> Run:
        """Prepare the same with x given, and y wanted, as NumPy arrays."""
        cell, x_t = self._cell(weights), x[:, 0].copy()
        state = None

        def call():
            nonlocal state
            with self.torch.inference_mode():
                state = cell(self.torch.from_numpy(x_t), state)
            return state[0].numpy()

        return Run(call, lambda y: {"y": y})

    def _layer(self, weights):
        return self._load(self.torch.nn.LSTM(self.shape.D, self.shape.N, batch_first=True), weights)

    def _cell(self, weights):
        return self._load(self.torch.nn.LSTMCell(self.shape.D, self.shape.N), weights)

    def _load(self, module, weights):
        w_ih, w_hh, b_ih = weights.kernel.T, weights.recurrent_kernel.T, weights.bias
        with self.torch.no_grad():
            for parameter, value in zip(module.parameters(), (w_ih, w_hh, b_ih, 0 * b_ih), strict=True):
                parameter.copy_(self.torch.from_numpy(np.ascontiguousarray(value)))
        return module


class OnnxRuntime:
    """onnxruntime on a model of one ONNX LSTM node, its weights constants as in any deployed model."""

    kind = "other"
    step = many = None  # it does not train

    def __init__(self, shape: Shape):
        import onnx
        import onnxruntime

        self.onnx, self.runtime, self.shape = onnx, onnxruntime, shape

    def forward(self, weights: Weights, x: np.ndarray) -> Run:
        """Prepare the outputs and the last state; batch-first outside, as for every peer, so it transposes inside."""
        make, (B, T, _, N) = self.onnx.helper.make_node, self.shape
        nodes = [
            make("Transpose", ["x"], ["xs"], perm=[1, 0, 2]),
            make("LSTM", ["xs", "W", "R", "b"], ["ys", "h1", "c1"], hidden_size=N),  # ys [T, 1, B, N]
            make("Transpose", ["ys"], ["y1"], perm=[2, 0, 1, 3]),
            *(make("Reshape", [f"{name}1", f"{name}_shape"], [name]) for name in "yhc"),
        ]
        shapes = {"y_shape": (B, T, N), "h_shape": (B, N), "c_shape": (B, N)}
        constants = {name: np.array(shape, np.int64) for name, shape in shapes.items()}
        run = self._session(nodes, weights, constants, {"x": x.shape}, {"y": (B, T, N), "h": (B, N), "c": (B, N)}).run
        feed = {"x": x}
        return Run(lambda: run(None, feed), lambda result: dict(zip("yhc", result, strict=True)))

    def streaming(self, weights: Weights, x: np.ndarray) -> Run:
        """Prepare one step of batch 1, the state carried from call to call."""
        N, D = self.shape.N, self.shape.D
        node = self.onnx.helper.make_node(
            "LSTM", ["x", "W", "R", "b", "", "h0", "c0"], ["", "h", "c"], hidden_size=N
        )  # the only y of one step is h
        inputs = {"x": (1, 1, D), "h0": (1, 1, N), "c0": (1, 1, N)}
        run = self._session([node], weights, {}, inputs, {"h": (1, 1, N), "c": (1, 1, N)}).run
        feed = {"x": x.copy(), "h0": np.zeros((1, 1, N), np.float32), "c0": np.zeros((1, 1, N), np.float32)}

        def call():
            feed["h0"], feed["c0"] = run(None, feed)
            return feed["h0"]

        return Run(call, lambda y: {"y": y[0]})

    streaming_numpy = streaming  # NumPy's arrays are its own

    def _session(self, nodes, weights, constants, inputs, outputs):
        helper, float_ = self.onnx.helper, self.onnx.TensorProto.FLOAT
        bias = reorder(weights.bias, "ifgo", "iofg")
        arrays = constants | {
            "W": np.ascontiguousarray(reorder(weights.kernel, "ifgo", "iofg").T[None]),  # ONNX's order: i, o, f, c
            "R": np.ascontiguousarray(reorder(weights.recurrent_kernel, "ifgo", "iofg").T[None]),
            "b": np.concatenate([bias, 0 * bias])[None],
        }
        graph = helper.make_graph(
            nodes,
            "lstm",
            [helper.make_tensor_value_info(name, float_, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, float_, shape) for name, shape in outputs.items()],
            [self.onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = THREADS
        return self.runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _read_outputs(result):
    y, (h, c) = result
    return {"y": y.numpy(), "h": h[0].numpy(), "c": c[0].numpy()}


def _read_gradients(gradients):
    w_ih, w_hh, b_ih, _, dx = (gradient.numpy() for gradient in gradients)
    return {"kernel": w_ih.T, "recurrent_kernel": w_hh.T, "bias": b_ih, "dx": dx}
