"""Digits: 8x8 images of handwritten digits, read row by row."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.tasks import Batch
from experiments.tasks.datasets import Classification, Labelled, Split, logistic_regression, require

SIZE = 8  # pixels, of a row and of a column
GREYS = 16.0  # pixels are counts from 0 to 16


@dataclass(frozen=True)
class Digits(Classification):
    """Name the digit of an 8x8 image whose rows come one a time step, from the top.

    1,797 images, pixels scaled to [0, 1]. The test set is what scikit-learn's `train_test_split(test_size=0.2,
    random_state=0, stratify=label)` holds out, 360 images; the same call on the other 1,437 gives the validation set,
    288. Both have digits of writers who also wrote training images.

    It shows a real data set through the whole runner, and an image read as a sequence.

    Source: Alpaydin & Kaynak 1998, optical recognition of handwritten digits (UCI), as shipped by scikit-learn.
    """

    shift: int = 0  # pixels: training images are moved by up to so many, in each direction
    noise: float = 0.0  # standard deviation of noise added to training pixels

    input_size = SIZE
    output_size = 10

    def __post_init__(self) -> None:
        if not 0 <= self.shift < SIZE:
            raise ValueError(f"shift must be from 0 to {SIZE - 1}, got {self.shift}")
        if self.noise < 0.0:
            raise ValueError(f"noise must be at least 0, got {self.noise}")

    def split(self) -> Split:
        """Give 1,437 training and 360 test images, or 1,149 and 288."""
        return _split(self.held_out)

    def augment(self, key: Array, batch: Batch) -> Batch:
        """Move each image by whole pixels, blank ones coming in, and add noise."""
        shift_key, noise_key = jax.random.split(key)
        x = batch.x
        if self.shift:
            offsets = jax.random.randint(shift_key, (x.shape[0], 2), 0, 2 * self.shift + 1)
            padded = jnp.pad(x, ((0, 0), (self.shift, self.shift), (self.shift, self.shift)))
            x = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, at, (SIZE, SIZE)))(padded, offsets)
        return batch._replace(x=x + self.noise * jax.random.normal(noise_key, x.shape))

    def baseline(self) -> dict[str, float]:
        """Logistic regression on the 64 pixels (scikit-learn's, C = 1), fitted on the rows that the LSTM trains on."""
        return {"accuracy": _baseline(self.held_out)}


@functools.cache
def _split(held_out: str) -> Split:
    require("sklearn", "scikit-learn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, label = map(np.asarray, load_digits(return_X_y=True))
    every = Labelled((images / GREYS).reshape(-1, SIZE, SIZE).astype(np.float32), label.astype(np.int32))

    def cut(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept, out = train_test_split(index, test_size=0.2, random_state=0, stratify=label[index])
        return np.asarray(kept), np.asarray(out)

    train, test = cut(np.arange(len(label)))
    if held_out == "validation":
        train, test = cut(train)
    return Split(every.rows(train), every.rows(test))


@functools.cache
def _baseline(held_out: str) -> float:
    return logistic_regression(_split(held_out))
