"""Copy memory: hold ten digits over a long blank and give them back when told to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax import Array

from experiments.tasks import Batch, Picture

DIGITS = 10  # symbols to hold
ALPHABET = 8  # that each of them is drawn from; 8 is the blank, 9 the delimiter
BLANK, DELIMITER = ALPHABET, ALPHABET + 1
EVALUATION_SEQUENCES = 256
EVALUATION_KEY = 0x434F5059  # folded into the evaluation key, so that it meets no training key


@dataclass(frozen=True)
class CopyMemory:
    """Read ten digits, `blanks` - 1 blanks, a delimiter and ten blanks; give blanks, and the digits at the end.

    The sequence has `blanks` + 20 steps, one-hot over ten symbols. The output is the blank for the first
    `blanks` + 10 of them, the delimiter's included, then the ten digits in order, each `blanks` + 10 steps after
    it was read. The delimiter stands once, as Arjovsky has it; Bai repeats it on all of the last eleven steps.

    Whoever remembers nothing pays ln 8 for each digit: 10 ln 8 / (blanks + 20) nats a step, the line that the
    papers plot. It is nearly reached within a few updates, and then says how much of the ten digits is held.

    It shows how much a layer keeps apart (30 bits) over how long a time without input.

    Source: Hochreiter & Schmidhuber 1997 for the kind; Arjovsky, Shah & Bengio 2016 for this form; Bai, Kolter &
    Koltun 2018.
    """

    blanks: int = 20  # time steps from the last digit read to the delimiter: the papers' T

    input_size = ALPHABET + 2
    output_size = ALPHABET + 2
    every_step = True
    loss_on = "every step"

    def __post_init__(self) -> None:
        if self.blanks < 1:
            raise ValueError(f"blanks must be at least 1, got {self.blanks}")

    def stream(self, key: Array, batch_size: int) -> tuple[()]:
        """Sequences are independent: nothing is carried."""
        return ()

    def sample(self, key: Array, stream: tuple[()], batch_size: int) -> tuple[tuple[()], Batch]:
        """Draw a batch: x [B, blanks + 20, 10], target [B, blanks + 20] int32."""
        digits = jax.random.randint(key, (batch_size, DIGITS), 0, ALPHABET)
        blank = jnp.full((batch_size, self.blanks + DIGITS), BLANK)
        symbols = jnp.concatenate([digits, blank.at[:, self.blanks - 1].set(DELIMITER)], axis=1)
        x = jax.nn.one_hot(symbols, self.input_size, dtype=jnp.float32)
        return stream, Batch(x, jnp.concatenate([blank, digits], axis=1))

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean cross entropy over all steps, in nats a step."""
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, batch.target))

    def evaluation(self, key: Array) -> Batch:
        """256 sequences of the same kind: of 8^10 no two runs share one."""
        return self.sample(jax.random.fold_in(key, EVALUATION_KEY), (), EVALUATION_SEQUENCES)[1]

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """Score the copies.

        Returns `nats` a step, `nats_over_baseline`, `digits` (share of the ten digits right), and `copies` (share
        of sequences with every step right).
        """
        nats = self.loss(outputs, batch)
        right = jnp.argmax(outputs, axis=-1) == batch.target
        return {
            "nats": nats,
            "nats_over_baseline": nats / self.baseline()["nats"],
            "digits": jnp.mean(right[:, -DIGITS:], dtype=jnp.float32),
            "copies": jnp.mean(jnp.all(right, axis=1), dtype=jnp.float32),
        }

    def baseline(self) -> dict[str, float]:
        """Blanks without fault, and a guess at each digit: 10 ln 8 / (blanks + 20) nats a step (exact)."""
        nats = DIGITS * math.log(ALPHABET) / (self.blanks + 2 * DIGITS)
        return {"nats": nats, "nats_over_baseline": 1.0, "digits": 1 / ALPHABET, "copies": ALPHABET**-DIGITS}

    def picture(self, batch: Batch) -> Picture:
        """The end of a sequence: the delimiter, and the digits given back."""
        steps = batch.x.shape[1]
        names = [*map(str, range(ALPHABET)), "·", ":"]
        return Picture(inputs=names, outputs=names, steps=(max(0, steps - 60), steps))
