"""MNIST-1D: ten shapes drawn as one line of 40 points, moved, scaled, sheared and noisy."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.tasks import Batch
from experiments.tasks.datasets import Classification, Labelled, Split, logistic_regression, require

POINTS, CLASSES = 40, 10
VALIDATION = 800  # the last of the 4,000 training rows


@dataclass(frozen=True)
class MNIST1D(Classification):
    """Name the digit that 40 numbers draw, read one a time step.

    Each row is a template of 12 points, padded, stretched, moved to a random place, scaled, sheared and covered with
    noise. 4,000 rows train and 1,000 test: the package's own recipe with its own seed, drawn here, not downloaded.

    It shows a classification in which the place of what counts is unknown and the set is small.

    Source: Greydanus 2020 (MNIST-1D), and the package's README, which has logistic regression at 0.32, a
    convolutional network at 0.94 and a GRU at 0.91.
    """

    roll: int = 0  # steps: training rows are turned round by up to so many, as the recipe's translation does
    noise: float = 0.0  # standard deviation of noise added to training rows; the rows' own is 1
    scale: float = 0.0  # training rows are stretched by a factor up to so much from 1
    slope: float = 0.0  # a line through the middle, rising by up to so much from end to end, is added to training rows

    input_size = 1
    output_size = CLASSES

    def __post_init__(self) -> None:
        if not 0 <= self.roll < POINTS:
            raise ValueError(f"roll must be from 0 to {POINTS - 1}, got {self.roll}")
        if min(self.noise, self.scale, self.slope) < 0.0:
            raise ValueError(f"noise, scale and slope must be at least 0, got {self.noise}, {self.scale}, {self.slope}")

    def split(self) -> Split:
        """Give 4,000 training and 1,000 test rows, or 3,200 and 800."""
        return _split(self.held_out)

    def augment(self, key: Array, batch: Batch) -> Batch:
        """Turn, stretch and tilt each row, and add noise."""
        keys = jax.random.split(key, 4)
        x = batch.x
        if self.roll:
            turns = jax.random.randint(keys[0], (x.shape[0],), -self.roll, self.roll + 1)
            x = jax.vmap(lambda row, turn: jnp.roll(row, turn, axis=0))(x, turns)
        each = (x.shape[0], 1, 1)
        if self.scale:
            x = x * jax.random.uniform(keys[1], each, minval=1.0 - self.scale, maxval=1.0 + self.scale)
        if self.slope:
            line = jnp.linspace(-0.5, 0.5, POINTS)[None, :, None]
            x = x + line * jax.random.uniform(keys[2], each, minval=-self.slope, maxval=self.slope)
        return batch._replace(x=x + self.noise * jax.random.normal(keys[3], x.shape))

    def baseline(self) -> dict[str, float]:
        """Logistic regression on the 40 numbers (scikit-learn's, C = 1), fitted on the rows that the LSTM trains on."""
        return {"accuracy": _baseline(self.held_out)}


@functools.cache
def _split(held_out: str) -> Split:
    require("mnist1d", "mnist1d")
    require("sklearn", "scikit-learn", "baseline comes")
    state = random.getstate(), np.random.get_state()  # noqa: NPY002  the recipe seeds both for the whole process
    try:
        from mnist1d.data import make_dataset

        made = make_dataset()
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])  # noqa: NPY002
    train, test = (
        Labelled(made["x" + part][..., None].astype(np.float32), made["y" + part].astype(np.int32))
        for part in ("", "_test")
    )
    if held_out == "validation":
        train, test = train.rows(slice(-VALIDATION)), train.rows(slice(-VALIDATION, None))
    return Split(train, test)


@functools.cache
def _baseline(held_out: str) -> float:
    return logistic_regression(_split(held_out))
