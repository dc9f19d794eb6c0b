"""What runs on JAX, behind one interface: pack weights, apply over sequences, one cell step; jlstm and a plain scan.

What is timed is always `jax.jit` of a pure function with weights, state and x as arguments. A peer maps weights from
jlstm's layout to its own and back, so that all of them compute, and are checked to compute, the same numbers.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jlstm
from benchmarks.cases import Shape, Weights


class Run(NamedTuple):
    """Something to time: call() runs it once and waits for its result; read(result) names its arrays as NumPy's."""

    call: Callable[[], Any]
    read: Callable[[Any], dict[str, np.ndarray]]


class JaxPeer:
    """The base: what a JAX library needs to be timed. Subclasses give pack, unpack, apply and cell.

    kind is "jlstm", "jax" or "other": which of the criteria's comparisons a peer takes part in.
    """

    kind = "jax"

    def __init__(self, shape: Shape):
        self.shape = shape

    def pack(self, weights: Weights) -> Any:
        """Give the library's own parameters."""
        return jax.tree.map(jnp.asarray, weights)

    def unpack(self, params: Any) -> Weights:
        """Give parameters, or their gradient, in jlstm's layout."""
        return Weights(*map(np.asarray, params))

    def apply(self, params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Run over x [B, T, D] from a zero state: y [B, T, N], h [B, N], c [B, N]."""
        raise NotImplementedError

    def cell(self, params: Any, state: tuple, x: jax.Array) -> tuple[tuple, jax.Array]:
        """Advance the state (h, c) by x [B, D]: the new state and y [B, N]."""
        raise NotImplementedError

    def gradient(self, params: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        """Differentiate sum(y²) with respect to parameters and input."""
        return jax.grad(lambda params, x: jnp.sum(self.apply(params, x)[0] ** 2), argnums=(0, 1))(params, x)

    def zeros(self, batch: int) -> tuple[jax.Array, jax.Array]:
        """Give a zero (h, c)."""
        return jnp.zeros((batch, self.shape.N)), jnp.zeros((batch, self.shape.N))

    def forward(self, weights: Weights, x: np.ndarray) -> Run:
        """Prepare the outputs and the last state."""
        run, arguments = jax.jit(self.apply), (self.pack(weights), jnp.asarray(x))
        return Run(
            lambda: jax.block_until_ready(run(*arguments)),
            lambda result: dict(zip(("y", "h", "c"), map(np.asarray, result), strict=True)),
        )

    def step(self, weights: Weights, x: np.ndarray) -> Run:
        """Prepare the gradient of sum(y²)."""
        run, arguments = jax.jit(self.gradient), (self.pack(weights), jnp.asarray(x))
        return Run(lambda: jax.block_until_ready(run(*arguments)), self._read)

    def many(self, weights: Sequence[Weights], xs: np.ndarray) -> Run:
        """Prepare the gradients of several models at once: vmap over parameters and each model's own x [S, B, T, D]."""
        run, x = jax.jit(jax.vmap(self.gradient)), jnp.asarray(xs)
        params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(self.pack, weights))
        last = len(weights) - 1
        return Run(
            lambda: jax.block_until_ready(run(params, x)),
            lambda result: self._read(jax.tree.map(lambda leaf: leaf[last], result)),
        )

    def streaming(self, weights: Weights, x: np.ndarray) -> Run:
        """Prepare one step of batch 1, the state carried from call to call; x is an array of JAX's already."""
        run, params, x_t = jax.jit(self.cell), self.pack(weights), jnp.asarray(x[:, 0])
        state = self.zeros(1)

        def call():
            nonlocal state
            state, y = run(params, state, x_t)
            return jax.block_until_ready(y)

        return Run(call, lambda y: {"y": np.asarray(y)})

    def streaming_numpy(self, weights: Weights, x: np.ndarray) -> Run:
        """Prepare the same with x given, and y wanted, as NumPy arrays."""
        run, params, x_t = jax.jit(self.cell), self.pack(weights), x[:, 0]
        state = self.zeros(1)

        def call():
            nonlocal state
            state, y = run(params, state, x_t)
            return np.asarray(y)

        return Run(call, lambda y: {"y": y})

    def _read(self, gradients):
        params, dx = gradients
        return self.unpack(params)._asdict() | {"dx": np.asarray(dx)}


class Jlstm(JaxPeer):
    """jlstm.LSTM, by backend."""

    kind = "jlstm"
    backend = "auto"

    def __init__(self, shape):
        super().__init__(shape)
        self.layer = jlstm.LSTM(shape.N, return_sequences=True, backend=self.backend)

    def pack(self, weights):
        return jlstm.LSTMParams(*map(jnp.asarray, weights))

    def unpack(self, params):
        return Weights(*map(np.asarray, (params.kernel, params.recurrent_kernel, params.bias)))

    def apply(self, params, x):
        state, y = self.layer.apply(params, self.layer.initial_state(x.shape[0]), x)
        return y, state.h, state.c

    def cell(self, params, state, x):
        state, y = self.layer.step(params, jlstm.LSTMState(*state), x)
        return (state.h, state.c), y


class JlstmCpu(Jlstm):
    backend = "cpu"


class JlstmXla(Jlstm):
    backend = "xla"


class Scan(JaxPeer):
    """The textbook: the cell's equations under jax.lax.scan, nothing else."""

    def cell(self, params, state, x):
        kernel, recurrent_kernel, bias = params
        h, c = state
        i, f, g, o = jnp.split(x @ kernel + h @ recurrent_kernel + bias, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    def apply(self, params, x):
        step = functools.partial(self.cell, params)
        (h, c), y = jax.lax.scan(step, self.zeros(x.shape[0]), jnp.swapaxes(x, 0, 1))
        return jnp.swapaxes(y, 0, 1), h, c
