"""The adding problem's training loop in jlstm, torch and Keras, each as its users write it, for to_target.py.

A trainer is built from a config and a Problem; `advance(start, end)` makes the updates from start to end and gives the
predictions [E, 1] on the test set. Right padding is dealt with by reading the last valid output in torch and Keras,
which is cheaper there than a mask or a packed sequence.
"""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.native import THREADS
from experiments.config import Config
from experiments.model import ModelParams, build
from experiments.optimizer import optimizer
from experiments.tasks import Batch

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam, as optax and torch have them by default


class Problem(NamedTuple):
    """Where every trainer starts, as NumPy arrays. batches: leading axis of updates. test: the evaluation set."""

    params: ModelParams
    batches: Batch
    test: Batch


class Jlstm:
    """A jitted scan over the updates between two evaluations."""

    backend = "auto"

    def __init__(self, config: Config, problem: Problem):
        self.model = build(config)
        layer = self.model.layer
        self.model = type(self.model)(
            type(layer).from_dict(layer.to_dict() | {"backend": self.backend}),
            self.model.input_size,
            self.model.output_size,
        )
        self.task, self.optimizer, self.problem = config.task, optimizer(config), problem
        self.state = jax.tree.map(jnp.asarray, problem.params), self.optimizer.init(problem.params)
        self.test = jax.tree.map(jnp.asarray, problem.test)
        self.compile_seconds = 0.0
        self.compiled = {}

    def advance(self, start: int, end: int) -> np.ndarray:
        """Make the updates, one dispatch, and predict."""
        batches = jax.tree.map(lambda a: a[start:end], self.problem.batches)
        self.state = self._run("updates", self._updates, self.state, batches)
        return np.asarray(self._run("predict", self._predict, self.state[0], self.test))

    def _predict(self, params, batch):
        return self.model.apply(params, self.model.initial_state(batch.x.shape[0]), batch.x, batch.lengths)[1]

    def _updates(self, state, batches):
        def update(state, batch):
            params, opt_state = state
            gradient = jax.grad(lambda params: self.task.loss(self._predict(params, batch), batch))(params)
            updates, opt_state = self.optimizer.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(update, state, batches)[0]

    def _run(self, name, function, *arguments):
        """Compile a function at its first call, on the clock of compile_seconds too."""
        key = name, jax.tree.leaves(arguments)[-1].shape  # the last call may have fewer updates
        if key not in self.compiled:
            began = time.perf_counter()
            self.compiled[key] = jax.jit(function).lower(*arguments).compile()
            self.compile_seconds += time.perf_counter() - began
        return self.compiled[key](*arguments)


class JlstmXla(Jlstm):
    backend = "xla"


class Torch:
    """The eager loop: nn.LSTM, autograd, clip_grad_norm_, Adam (foreach), LambdaLR."""

    compile_seconds = 0.0

    def __init__(self, config: Config, problem: Problem):
        import torch

        self.torch = torch
        torch.set_num_threads(THREADS)
        lstm, readout = problem.params
        D, N = lstm.kernel.shape[0], lstm.recurrent_kernel.shape[0]
        self.lstm, self.readout = torch.nn.LSTM(D, N, batch_first=True), torch.nn.Linear(N, readout.kernel.shape[1])
        self.lstm.bias_hh_l0.requires_grad_(False)  # one bias, as the others have
        values = (lstm.kernel.T, lstm.recurrent_kernel.T, lstm.bias, 0 * lstm.bias, readout.kernel.T, readout.bias)
        parameters = [*self.lstm.parameters(), *self.readout.parameters()]
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(torch.from_numpy(np.array(value, order="C")))
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        part = config.optimizer
        self.clip = part.clip
        self.optimizer = torch.optim.Adam(self.parameters, part.learning_rate, BETAS, EPSILON, foreach=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: _cosine(config, step))
        self.batches = [torch.from_numpy(np.array(a)) for a in (*problem.batches[:2], _last(problem.batches))]
        self.test = [torch.from_numpy(np.array(a)) for a in (problem.test.x, _last(problem.test))]

    def advance(self, start: int, end: int) -> np.ndarray:
        """Make the updates, one after the other, and predict."""
        self.update(start, end)
        with self.torch.inference_mode():
            return self._predict(*self.test).numpy()

    def update(self, start: int, end: int) -> list:
        """Make the updates, and give the losses as tensors."""
        losses = []
        for x, target, last in zip(*(a[start:end] for a in self.batches), strict=True):
            self.optimizer.zero_grad()
            loss = self._loss(self._predict(x, last), target)
            loss.backward()
            self.torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.detach())
        return losses

    def _loss(self, outputs, target):
        return self.torch.nn.functional.mse_loss(outputs, target)

    def _predict(self, x, last):
        hidden, _ = self.lstm(x)
        return self.readout(hidden[self.torch.arange(x.shape[0]), last])


class Keras:
    """Model.fit on JAX, jitted, without callbacks, over the updates between two evaluations."""

    def __init__(self, config: Config, problem: Problem):
        import keras

        if keras.backend.backend() != "jax":
            raise ImportError(f"keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax")
        lstm, readout = problem.params
        D, N = lstm.kernel.shape[0], lstm.recurrent_kernel.shape[0]
        x, last = keras.Input((config.task.max_length, D)), keras.Input((), dtype="int32")
        hidden = keras.layers.LSTM(N, return_sequences=True)(x)
        index = keras.ops.repeat(last[:, None, None], N, axis=2)
        hidden = keras.ops.squeeze(keras.ops.take_along_axis(hidden, index, axis=1), axis=1)
        self.model = keras.Model([x, last], keras.layers.Dense(1)(hidden))
        arrays = (lstm.kernel, lstm.recurrent_kernel, lstm.bias, readout.kernel, readout.bias)
        self.model.set_weights([np.asarray(a) for a in arrays])
        part = config.optimizer
        rate: Any = part.learning_rate
        if part.schedule == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(rate, config.train.steps)
        adam = keras.optimizers.Adam(rate, *BETAS, EPSILON, global_clipnorm=part.clip)
        self.model.compile(adam, "mse", jit_compile=True)
        self.batches = [np.asarray(a) for a in (problem.batches.x, _last(problem.batches), problem.batches.target)]
        self.test = [problem.test.x, _last(problem.test)]
        self.compile_seconds = 0.0
        self.first = None

    def advance(self, start: int, end: int) -> np.ndarray:
        """Make the updates by fit over the batches in their order, and predict in one batch."""
        began = time.perf_counter()
        batch_size = self.batches[0].shape[1]
        x, last, target = (a[start:end].reshape(-1, *a.shape[2:]) for a in self.batches)
        self.model.fit([x, last], target, batch_size, shuffle=False, verbose=0)
        predicted = self.model.predict(self.test, batch_size=len(self.test[0]), verbose=0)
        taken = time.perf_counter() - began
        if self.first is None:
            self.first = self.compile_seconds = taken  # until a second call shows how much of it was compiling
        elif self.first == self.compile_seconds:
            self.compile_seconds = max(self.first - taken, 0.0)
        return predicted


TRAINERS = {"jlstm": Jlstm, "jlstm-xla": JlstmXla, "torch": Torch, "keras": Keras}


def _cosine(config: Config, step: int) -> float:
    if config.optimizer.schedule != "cosine":
        return 1.0
    return 0.5 * (1.0 + float(np.cos(np.pi * min(step / config.train.steps, 1.0))))


def _last(batch: Batch) -> np.ndarray:
    return (np.asarray(batch.lengths) - 1).astype(np.int64)
