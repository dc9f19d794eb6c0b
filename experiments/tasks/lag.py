"""The lag task: give back the value read k steps ago."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.tasks import Batch, Picture

VARIANCE = 1.0 / 3.0  # of U[-1, 1]
EVALUATION_SEQUENCES = 256
EVALUATION_KEY = 0x4C414721  # folded into the evaluation key, so that it meets no training key


@dataclass(frozen=True)
class Lag:
    """Read white noise x[t] ~ U[-1, 1], one value a step, and give x[t - lag].

    The input holds no lagged copies: the layer has to carry the last `lag` values in its state by itself. So
    the number of units is not a number of time lags; what is needed is enough of them to keep `lag` real
    numbers apart, and a layer of one input column can answer for any lag that its state can hold.

    Loss and metrics begin at step `lag`, the first with a value to give back.

    Source: the recurring question of "lagging variables" and units in forecasting with LSTM layers; the shift
    register as a memory test is Jaeger 2001 (short-term memory capacity).
    """

    lag: int = 5  # time steps from a value to its echo
    length: int = 50  # time steps in a sequence; the first `lag` carry no loss

    input_size = 1
    output_size = 1
    every_step = True
    loss_on = "the steps from `lag` on"

    def __post_init__(self) -> None:
        if self.lag < 1:
            raise ValueError(f"lag must be at least 1, got {self.lag}")
        if self.length <= self.lag:
            raise ValueError(f"length must be greater than lag = {self.lag}, got {self.length}")

    def stream(self, key: Array, batch_size: int) -> tuple[()]:
        """Sequences are independent: nothing is carried."""
        return ()

    def sample(self, key: Array, stream: tuple[()], batch_size: int) -> tuple[tuple[()], Batch]:
        """Draw a batch: x [B, T, 1], target [B, T, 1] (zeros before step `lag`)."""
        x = jax.random.uniform(key, (batch_size, self.length, 1), minval=-1.0, maxval=1.0)
        target = jnp.pad(x[:, : -self.lag], ((0, 0), (self.lag, 0), (0, 0)))
        return stream, Batch(x, target)

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean squared error over the steps from `lag` on."""
        return jnp.mean(jnp.square(outputs - batch.target)[:, self.lag :])

    def evaluation(self, key: Array) -> Batch:
        """256 sequences of the same kind."""
        return self.sample(jax.random.fold_in(key, EVALUATION_KEY), (), EVALUATION_SEQUENCES)[1]

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """`mse`, and `mse_over_variance`: the share of Var x left unexplained."""
        mse = self.loss(outputs, batch)
        return {"mse": mse, "mse_over_variance": mse / VARIANCE}

    def baseline(self) -> dict[str, float]:
        """Always 0, the mean of x: the error is Var x = 1/3 (exact)."""
        return {"mse": VARIANCE, "mse_over_variance": 1.0}

    def picture(self, batch: Batch) -> Picture:
        """The cells have to hold the last values, the oldest of which is the next answer."""
        echo = np.pad(batch.x[..., 0], ((0, 0), (self.lag, 0)), constant_values=np.nan)
        name = f"x[t-{self.lag - 1}], the next answer" if self.lag > 1 else "x[t], the next answer"
        return Picture(target=echo[:, : self.length, None], memory=echo[:, 1 : self.length + 1], memory_name=name)
