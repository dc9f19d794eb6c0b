"""Long time lags, 2a and 2b: the last symbol repeats the first, with p - 1 others between, fixed or random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.tasks import Batch, Picture

TOLERANCE = 0.25  # absolute error of an output unit below which it counts as right
EVALUATION_SEQUENCES = 10_000  # the paper's test
EVALUATION_KEY = 0x4C41474D  # folded into the evaluation key, so that it meets no training key


@dataclass(frozen=True)
class TimeLag:
    """Predict the next symbol of (x, a ... a, x) or (y, a ... a, y), p + 1 symbols long, each class half of the time.

    The alphabet is a_1 ... a_{p-1}, x, y, one-hot. Between the first symbol and the last stand p - 1 others: a_1,
    a_2, ... a_{p-1} in this order (`regular`, task 2a, which has two sequences in all), or each of them drawn from
    a_1 ... a_{p-1} (task 2b). The last symbol is that of p steps before. The softmax of the outputs is held to the
    one-hot code of the next symbol; every unit must be off by less than 0.25 in all sequences.

    The network sees the first p symbols. In the paper it predicts each next symbol ("every"); in 2b only the
    last can be known, and there only the last is judged. With "last" it learns that one alone, so that a hundred
    other errors do not drown the one that needs the memory.

    It shows that the cell carries one bit over p steps that do not help (2b) or mislead a predictor that reads only
    the last symbols (2a).

    Source: Hochreiter & Schmidhuber 1997, experiment 2, tasks 2a and 2b.
    """

    p: int = 100  # steps from the first symbol to its repetition
    regular: bool = False  # True: 2a, the symbols between are always the same; False: 2b
    predict: Literal["last", "every"] = "last"  # the step or steps that carry loss

    def __post_init__(self) -> None:
        if self.p < 2:
            raise ValueError(f"p must be at least 2, got {self.p}")
        if self.predict == "every" and not self.regular:
            raise ValueError("predict must be 'last' where the symbols between are random (regular = false)")

    @property
    def input_size(self) -> int:
        """The alphabet: p - 1 symbols between, x and y."""
        return self.p + 1

    @property
    def output_size(self) -> int:
        """The alphabet."""
        return self.p + 1

    @property
    def every_step(self) -> bool:
        """Whether each next symbol is predicted, or the last alone."""
        return self.predict == "every"

    @property
    def loss_on(self) -> str:
        """The steps that carry loss."""
        return "every step" if self.every_step else "the last step"

    def stream(self, key: Array, batch_size: int) -> tuple[()]:
        """Sequences are independent: nothing is carried."""
        return ()

    def sample(self, key: Array, stream: tuple[()], batch_size: int) -> tuple[tuple[()], Batch]:
        """Draw a batch: x [B, p, p + 1], target [B] int32, the last symbol, or [B, p], every next one."""
        class_key, between_key = jax.random.split(key)
        first = jax.random.randint(class_key, (batch_size,), self.p - 1, self.p + 1)
        shape = (batch_size, self.p - 1)
        if self.regular:
            between = jnp.broadcast_to(jnp.arange(self.p - 1)[None, :], shape)
        else:
            between = jax.random.randint(between_key, shape, 0, self.p - 1)
        return stream, self._batch(first, between)

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean cross entropy of the symbol that comes next, in nats."""
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, batch.target))

    def evaluation(self, key: Array) -> Batch:
        """10,000 fresh sequences; of 2a the two that there are, which training sees too."""
        if self.regular:
            between = jnp.broadcast_to(jnp.arange(self.p - 1)[None, :], (2, self.p - 1))
            return self._batch(jnp.arange(self.p - 1, self.p + 1), between)
        return self.sample(jax.random.fold_in(key, EVALUATION_KEY), (), EVALUATION_SEQUENCES)[1]

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """`max_error`: the greatest of all units in all sequences, at the steps that carry loss.

        Beside it `correct`, the share of sequences whose units are all off by less than 0.25.
        """
        wanted = jax.nn.one_hot(batch.target, self.output_size, dtype=jnp.float32)
        error = jnp.abs(jax.nn.softmax(outputs) - wanted)
        worst = jnp.max(error.reshape(error.shape[0], -1), axis=1)
        return {"max_error": jnp.max(worst), "correct": jnp.mean(worst < TOLERANCE, dtype=jnp.float32)}

    def baseline(self) -> dict[str, float]:
        """One half each for x and y at the end, without fault before it (exact): off by 0.5 in every sequence."""
        return {"max_error": 0.5, "correct": 0.0}

    def picture(self, batch: Batch) -> Picture:
        """The cells have to hold the first symbol."""
        first = batch.x[:, :1, -1] - batch.x[:, :1, -2]
        return Picture(
            memory=np.repeat(first, self.p, axis=1), memory_name="the first symbol (x: -1, y: 1)", steps=(0, self.p)
        )

    def _batch(self, first: Array, between: Array) -> Batch:
        symbols = jnp.concatenate([first[:, None], between, first[:, None]], axis=1).astype(jnp.int32)
        x = jax.nn.one_hot(symbols[:, :-1], self.input_size, dtype=jnp.float32)
        return Batch(x, symbols[:, 1:] if self.every_step else symbols[:, -1])
