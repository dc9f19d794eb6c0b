"""The adding problem as later papers pose it: values from 0 to 1, one mark in each half, a fixed length."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.tasks import Batch, Picture

EVALUATION_SEQUENCES = 1000  # the test set of Bai et al. 2018
EVALUATION_KEY = 0x41444431  # folded into the evaluation key, so that it meets no training key


@dataclass(frozen=True)
class AddingUnit:
    """Read `length` pairs (value, marker), values U[0, 1], and give the sum of the two marked values at the end.

    The marker is 1 at one place of the first half and at one of the second, each uniform, and 0 elsewhere. (Other
    papers draw two different places from the whole sequence.) Unlike in the problem of 1997, all sequences are of one
    length, nothing marks the ends, and the second mark may come at the very end.

    Source: Le, Jaitly & Hinton 2015; the places of the marks: Arjovsky, Shah & Bengio 2016.
    """

    length: int = 200  # pairs (time steps)

    input_size = 2
    output_size = 1
    every_step = False
    loss_on = "the last step"

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"length must be at least 2, got {self.length}")

    def stream(self, key: Array, batch_size: int) -> tuple[()]:
        """Sequences are independent: nothing is carried."""
        return ()

    def sample(self, key: Array, stream: tuple[()], batch_size: int) -> tuple[tuple[()], Batch]:
        """Draw a batch: x [B, length, 2], target [B, 1]."""
        value_key, first_key, second_key = jax.random.split(key, 3)
        value = jax.random.uniform(value_key, (batch_size, self.length))
        half = self.length // 2
        first = jax.random.randint(first_key, (batch_size,), 0, half)
        second = jax.random.randint(second_key, (batch_size,), half, self.length)
        step = jnp.arange(self.length)[None, :]
        marker = ((step == first[:, None]) | (step == second[:, None])).astype(value.dtype)
        x = jnp.stack([value, marker], axis=-1)
        return stream, Batch(x, jnp.sum(value * marker, axis=1, keepdims=True))

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean squared error at the end of the sequence."""
        return jnp.mean(jnp.square(outputs - batch.target))

    def evaluation(self, key: Array) -> Batch:
        """1,000 sequences of the same kind."""
        return self.sample(jax.random.fold_in(key, EVALUATION_KEY), (), EVALUATION_SEQUENCES)[1]

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """`mse`, the papers' measure."""
        return {"mse": self.loss(outputs, batch)}

    def baseline(self) -> dict[str, float]:
        """Always 1, the mean of the target: the variance of two values, 2/12 = 1/6 (exact)."""
        return {"mse": 1.0 / 6.0}

    def picture(self, batch: Batch) -> Picture:
        """The cells have to hold the sum so far."""
        so_far = np.cumsum(batch.x[..., 0] * batch.x[..., 1], axis=1)
        return Picture(inputs=("value", "marker"), memory=so_far, memory_name="the sum of the marked values so far")
