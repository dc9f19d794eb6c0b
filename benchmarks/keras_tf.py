"""Keras on TensorFlow, the layer that most people mean: in a process of its own, since a process has one Keras backend.

The process may belong to another interpreter (`--tensorflow PYTHON`). A call is a byte there and a byte back, about
50 µs where TensorFlow takes 800 at least; between its blocks the process waits on the pipe.
"""

import pickle
import subprocess
import weakref
from pathlib import Path

import numpy as np

from benchmarks.cases import Shape, Weights
from benchmarks.peers import Run

WORKER = Path(__file__).with_name("keras_tf_worker.py")
NAMES = {"forward": ("y", "h", "c"), "step": ("kernel", "recurrent_kernel", "bias", "dx"), "streaming": ("y",)}


class KerasTensorFlow:
    """keras.layers.LSTM under tf.function. python: the interpreter, set by the command line."""

    kind = "other"
    many = None
    python: str | None = None

    def __init__(self, shape: Shape):
        if self.python is None:
            raise ImportError("give an interpreter that has keras and tensorflow by --tensorflow PYTHON")
        self.shape = shape

    def forward(self, weights: Weights, x: np.ndarray) -> Run:
        """Prepare the outputs and the last state."""
        return self._start("forward", weights, x)

    def step(self, weights: Weights, x: np.ndarray) -> Run:
        """Prepare the gradient of sum(y²) with respect to weights and x."""
        return self._start("step", weights, x)

    def streaming(self, weights: Weights, x: np.ndarray) -> Run:
        """Prepare one step of batch 1, the state carried from call to call."""
        return self._start("streaming", weights, x)

    streaming_numpy = None

    def _start(self, section, weights, x):
        worker = _Worker(self.python, (section, self.shape.N, tuple(weights), x))
        return Run(worker.call, lambda _: dict(zip(NAMES[section], worker.arrays, strict=True)))


class _Worker:
    """The process; it ends with this object. arrays: the results of its first call."""

    def __init__(self, python, work):
        command = [python, str(WORKER)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        weakref.finalize(self, _end, self.process)
        pickle.dump(work, self.process.stdin)
        self.process.stdin.flush()
        try:
            self.arrays = pickle.load(self.process.stdout)
        except EOFError:
            raise ImportError(f"{' '.join(command)} failed") from None

    def call(self):
        self.process.stdin.write(b".")
        self.process.stdin.flush()
        if not self.process.stdout.read(1):
            raise RuntimeError("the TensorFlow process ended")


def _end(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
