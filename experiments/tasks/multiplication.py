"""The multiplication problem: multiply the two marked values of a long sequence of pairs."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.tasks import Batch, Picture
from experiments.tasks.pairs import check_length, counted, marked_pairs, uncounted

EVALUATION_SEQUENCES = 2560  # the paper's test set
EVALUATION_KEY = 0x4D554C54  # folded into the evaluation key, so that it meets no training key


@dataclass(frozen=True)
class Multiplication:
    """Read pairs (value, marker) as in the adding problem, values U[0, 1], and give the product X1 X2 at the end.

    Marks and lengths are those of `Adding`. Where a mark falls on the first pair, its value counts as 1: the paper
    says so of X1, and it is the same for X2 here.

    It shows that what cells hold need not be used as a sum.

    Source: Hochreiter & Schmidhuber 1997, experiment 5.
    """

    length: int = 100  # least number of pairs (time steps); the paper's T

    input_size = 2
    output_size = 1
    every_step = False
    loss_on = "the last step"

    def __post_init__(self) -> None:
        check_length(self.length)

    def stream(self, key: Array, batch_size: int) -> tuple[()]:
        """Sequences are independent: nothing is carried."""
        return ()

    def sample(self, key: Array, stream: tuple[()], batch_size: int) -> tuple[tuple[()], Batch]:
        """Draw a batch: x [B, T, 2], target [B, 1], lengths [B]."""
        x, lengths = marked_pairs(key, batch_size, self.length, 0.0, 1.0)
        product = jnp.prod(jnp.where(counted(x), x[:, :, 0], 1.0), axis=1)
        return stream, Batch(x, product[:, None], lengths)

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean squared error at the end of the sequence."""
        return jnp.mean(jnp.square(outputs - batch.target))

    def evaluation(self, key: Array) -> Batch:
        """2,560 sequences of the same kind."""
        return self.sample(jax.random.fold_in(key, EVALUATION_KEY), (), EVALUATION_SEQUENCES)[1]

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """`mse`, the paper's measure."""
        return {"mse": self.loss(outputs, batch)}

    def baseline(self) -> dict[str, float]:
        """Always the mean of the target (exact).

        With two values counted the mean is 1/4 and the mean square 1/9, so the variance is 7/144 = 0.0486, as the
        problem is usually quoted. With one (a mark on the first pair, about one sequence in eight) they are 1/2
        and 1/3; the trivial predictor does not know which it has.
        """
        missing = uncounted(self.length)
        mean = (1.0 - missing) / 4.0 + missing / 2.0
        square = (1.0 - missing) / 9.0 + missing / 3.0
        return {"mse": square - mean**2}

    def picture(self, batch: Batch) -> Picture:
        """The cells have to hold the product so far."""
        so_far = np.cumprod(np.where(batch.x[..., 1] == 1.0, batch.x[..., 0], 1.0), axis=1)
        name = "the product of the marked values so far (1 before)"
        return Picture(inputs=("value", "marker"), memory=so_far, memory_name=name)
