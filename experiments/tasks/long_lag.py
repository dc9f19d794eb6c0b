"""Long time lag with distractors, 2c: the last symbol repeats the second, after q distractors and more by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.tasks import Batch, Picture

TOLERANCE = 0.2  # absolute error of an output unit below which it counts as right
GO_ON = 0.9  # probability of one more distractor
TEST_SEQUENCES = 10_000  # the paper's
EVALUATION_KEY = 0x4C4F4E47  # folded into the evaluation key, so that it meets no training key


@dataclass(frozen=True)
class LongLag:
    """Read b, x or y, q + k distractors, e, and give the symbol that follows, which is x or y as before.

    The alphabet is a_1 ... a_p (the distractors), e, b, x, y, one-hot; the two classes are equally frequent. Each
    distractor is drawn from a_1 ... a_p (the paper's formula has a_1 ... a_q, its text and table p of them). After q
    of them comes one more with probability 0.9, again and again, or else e: k is geometric with mean 9, and the lag
    of q + 2 steps or more has to be bridged without knowing when it ends. There are two outputs, x and y, and loss
    at the end alone. Both must be off by less than 0.2 in all sequences. More than `max_extra` distractors too many
    are drawn again.

    It shows that the cell carries one bit over hundreds of steps of noise, and ever more so the rarer each
    distractor is.

    Source: Hochreiter & Schmidhuber 1997, experiment 2, task 2c.
    """

    q: int = 100  # distractors in every sequence; the least time lag is one more
    p: int = 100  # different distractors
    max_extra: int = 100  # greatest k; one sequence in 42,000 of the unbounded task has more
    evaluation_sequences: int = TEST_SEQUENCES  # fewer where [sequences, T, p + 4] would not fit in memory

    output_size = 2
    every_step = False
    loss_on = "the last step"

    def __post_init__(self) -> None:
        for name in ("q", "p", "evaluation_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_extra < 0:
            raise ValueError(f"max_extra must be at least 0, got {self.max_extra}")

    @property
    def input_size(self) -> int:
        """The alphabet: p distractors, e, b, x and y."""
        return self.p + 4

    @property
    def max_length(self) -> int:
        """The greatest number of inputs, b, x or y, distractors and e: the padded T."""
        return self.q + self.max_extra + 3

    @property
    def second_parts(self) -> int:
        """How many evaluation sets make the second one: the paper's 10,000 sequences, or a little more."""
        return -(-TEST_SEQUENCES // self.evaluation_sequences)

    def stream(self, key: Array, batch_size: int) -> tuple[()]:
        """Sequences are independent: nothing is carried."""
        return ()

    def sample(self, key: Array, stream: tuple[()], batch_size: int) -> tuple[tuple[()], Batch]:
        """Draw a batch: x [B, T, p + 4], target [B] int32 (0: x, 1: y), lengths [B]."""
        class_key, extra_key, distractor_key = jax.random.split(key, 3)
        target = jax.random.randint(class_key, (batch_size,), 0, 2)
        # P(k > j) = 0.9^(j + 1), cut off behind max_extra: turned around for a uniform number.
        reach = 1.0 - GO_ON ** (self.max_extra + 1)
        uniform = jax.random.uniform(extra_key, (batch_size,))
        extra = jnp.floor(jnp.log1p(-reach * uniform) / math.log(GO_ON)).astype(jnp.int32)
        extra = jnp.minimum(extra, self.max_extra)  # rounding
        lengths = self.q + 3 + extra

        end, begin, first = self.p, self.p + 1, self.p + 2
        shape = (batch_size, self.max_length - 2)
        symbols = jax.random.randint(distractor_key, shape, 0, self.p)
        head = jnp.stack([jnp.full_like(target, begin), first + target], axis=1)
        symbols = jnp.concatenate([head, symbols], axis=1)
        step = jnp.arange(self.max_length)[None, :]
        symbols = jnp.where(step == lengths[:, None] - 1, end, symbols)
        symbols = jnp.where(step < lengths[:, None], symbols, -1)  # -1 has no column: zeros
        x = jax.nn.one_hot(symbols, self.input_size, dtype=jnp.float32)
        return stream, Batch(x, target, lengths)

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean cross entropy of the last symbol, in nats."""
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, batch.target))

    def evaluation(self, key: Array) -> Batch:
        """Fresh sequences of the same kind, `evaluation_sequences` of them."""
        return self.sample(jax.random.fold_in(key, EVALUATION_KEY), (), self.evaluation_sequences)[1]

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """`max_error`, the greatest of both units in all sequences; `correct`, the share of sequences below 0.2."""
        # The softmax of two makes both errors equal.
        wanted = jax.nn.one_hot(batch.target, 2, dtype=jnp.float32)
        worst = jnp.max(jnp.abs(jax.nn.softmax(outputs) - wanted), axis=1)
        return {"max_error": jnp.max(worst), "correct": jnp.mean(worst < TOLERANCE, dtype=jnp.float32)}

    def baseline(self) -> dict[str, float]:
        """One half for both (exact): off by 0.5 in every sequence."""
        return {"max_error": 0.5, "correct": 0.0}

    def picture(self, batch: Batch) -> Picture:
        """The cells have to hold the second symbol."""
        second = batch.x[:, 1, -1] - batch.x[:, 1, -2]
        known = np.arange(batch.x.shape[1]) >= 1
        memory = np.where(known, second[:, None], np.nan)
        return Picture(outputs=("x", "y"), memory=memory, memory_name="the second symbol (x: -1, y: 1)")
