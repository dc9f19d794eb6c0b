"""The stateful moving average: a target that needs one value from before the chunk."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from experiments.tasks import Batch, Picture

AMPLITUDE = 0.1  # x ~ U[-0.1, 0.1], as in the Keras example
VARIANCE = AMPLITUDE**2 / 3.0
FLOOR = VARIANCE / 4.0  # what x[t-1] adds to the target, unseen by a layer that forgets between steps
EVALUATION_STEPS = 1_000_000
EVALUATION_KEY = 0x41564721  # folded into the evaluation key, so that it meets no training key


@dataclass(frozen=True)
class MovingAverage:
    """Give the mean of the last two values of an endless stream x[t] ~ U[-0.1, 0.1], read a chunk at a time.

    y[t] = (x[t-1] + x[t]) / 2, where x[t-1] of a chunk's first step is the last value of the chunk before.
    With chunks of one step, a layer that starts each chunk from zeros can do no better than x[t] / 2, error
    Var(x) / 4; one whose state is carried over can be exact. How far the gradient reaches back is another
    matter: it stops at the chunk's first step, so with chunks of one step the layer learns to read its state,
    but nothing teaches it what to store there.

    Source: Keras's example `lstm_stateful` (window 2): "only the stateful LSTM converges".
    """

    chunk: int = 16  # time steps in a training step, and so the reach of the gradient
    evaluation_chunk: int = 1000  # steps that the state lives in the evaluation; 1 for a stateless layer

    input_size = 1
    output_size = 1
    every_step = True
    loss_on = "every step"

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")
        if self.evaluation_chunk < 1 or EVALUATION_STEPS % self.evaluation_chunk:
            steps, got = EVALUATION_STEPS, self.evaluation_chunk
            raise ValueError(f"evaluation_chunk must be a divisor of {steps}, got {got}")

    def stream(self, key: Array, batch_size: int) -> Array:
        """Draw the value before the first, [B, 1]."""
        return _uniform(key, (batch_size, 1))

    def sample(self, key: Array, stream: Array, batch_size: int) -> tuple[Array, Batch]:
        """Draw the next chunk of each row's stream: x [B, chunk, 1], target [B, chunk, 1]."""
        x = _uniform(key, (batch_size, self.chunk, 1))
        before = jnp.concatenate([stream[:, None, :], x[:, :-1]], axis=1)
        return x[:, -1], Batch(x, (before + x) / 2.0)

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean squared error over all steps."""
        return jnp.mean(jnp.square(outputs - batch.target))

    def evaluation(self, key: Array) -> Batch:
        """One stream of 1,000,000 steps, cut into rows of `evaluation_chunk`.

        The first step of a row, read with the state at zero, cannot know the value before it: with rows of
        1,000 steps that leaves even a perfect layer FLOOR / 1000 = 8.3e-7.
        """
        x = _uniform(jax.random.fold_in(key, EVALUATION_KEY), (EVALUATION_STEPS + 1,))
        shape = (EVALUATION_STEPS // self.evaluation_chunk, self.evaluation_chunk, 1)
        return Batch(x[1:].reshape(shape), ((x[:-1] + x[1:]) / 2.0).reshape(shape))

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """`mse`, `mse_over_floor` (1 for the best predictor that sees x[t] alone), and `off_floor`, how far from 1."""
        mse = self.loss(outputs, batch)
        return {"mse": mse, "mse_over_floor": mse / FLOOR, "off_floor": jnp.abs(mse / FLOOR - 1.0)}

    def baseline(self) -> dict[str, float]:
        """x[t] / 2, the best that can be said from x[t] alone: the error is Var(x) / 4 = 8.33e-4 (exact)."""
        return {"mse": FLOOR, "mse_over_floor": 1.0, "off_floor": 0.0}

    def picture(self, batch: Batch) -> Picture:
        """The cells have to hold the last value."""
        return Picture(memory=batch.x[..., 0], memory_name="x[t], of which the next answer is made")


def _uniform(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, shape, minval=-AMPLITUDE, maxval=AMPLITUDE)
