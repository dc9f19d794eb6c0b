"""The counting languages a^n b^n and a^n b^n c^n: learnt on n to 10, tested on n to 1,000."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.tasks import Batch, Picture

FINAL_N = 1000  # how far the finished models are tested; a model right to the end counts as 1,000
FINAL_STRINGS = 250  # strings of a piece of that test: short strings are not padded to the length of the longest
LETTERS = {"anbn": 2, "anbncn": 3}


@dataclass(frozen=True)
class Counting:
    """Say after each symbol of S a^n b^n T, or of S a^n b^n c^n T, which symbols may follow.

    Inputs are one-hot over S, a, b (, c), outputs over T, a, b (, c), one number a symbol: above 0 says that it
    may come next. After S only a may; after each a both a and b; then nothing is free: n b's, n c's and T.
    A string is right where the whole set is right at every step. So n has to be counted, and the last b and
    the end be known to the step. Strings are read one at a time, each from the zero state.

    Trained on n from 1 to `largest`, each as often. Every n has one string, so those up to `largest` are in
    training and in the evaluation, and all longer ones are unseen.

    It shows what the cell's state is for: a counter that goes on beyond the numbers it was trained on. How far
    depends on how exactly an a adds what a b takes away; peepholes let the gates see the counter itself.

    Source: Gers & Schmidhuber 2001, "LSTM recurrent networks learn simple context-free and context-sensitive
    languages"; as cited: trained on n to 10, right to n = 118 and to n = 52 on average.
    """

    language: Literal["anbn", "anbncn"] = "anbn"
    largest: int = 10  # n of the longest training string
    evaluate_to: int = 200  # n of the longest string of the evaluation while training; the end has 1,000

    every_step = True
    loss_on = "every step"

    def __post_init__(self) -> None:
        if self.language not in LETTERS:
            raise ValueError(f"language must be one of {', '.join(LETTERS)}, got {self.language!r}")
        if self.largest < 1:
            raise ValueError(f"largest must be at least 1, got {self.largest}")
        if self.evaluate_to <= self.largest:
            raise ValueError(f"evaluate_to must be above largest, {self.largest}, got {self.evaluate_to}")

    @property
    def letters(self) -> int:
        """How many letters follow each other, n times each: 2 or 3."""
        return LETTERS[self.language]

    @property
    def input_size(self) -> int:
        """S and the letters."""
        return 1 + self.letters

    @property
    def output_size(self) -> int:
        """T and the letters."""
        return 1 + self.letters

    def stream(self, key: Array, batch_size: int) -> tuple[()]:
        """Strings are independent: nothing is carried."""
        return ()

    def sample(self, key: Array, stream: tuple[()], batch_size: int) -> tuple[tuple[()], Batch]:
        """Draw training strings: x [B, letters * largest + 1, D], lengths [B] (symbols without T)."""
        n = jax.random.randint(key, (batch_size,), 1, self.largest + 1)
        return stream, self.strings(n, self.largest)

    def strings(self, n: Array, longest: int) -> Batch:
        """Write out the strings of each n [B], right padded to that of `longest`; target [B, T, K] bool."""
        place = jnp.arange(self.letters * longest + 1)[None, :]  # 0 is S's
        n = n[:, None].astype(jnp.int32)
        length = self.letters * n + 1
        letter = jnp.where(place == 0, 0, (place - 1) // n + 1)
        x = jax.nn.one_hot(letter, self.input_size, dtype=jnp.float32)  # beyond the last letter: zeros
        last_of_its_kind = place % n == 0
        following = jnp.where(last_of_its_kind, letter + 1, letter) % (self.letters + 1)
        legal = jax.nn.one_hot(following, self.output_size, dtype=jnp.bool_)
        after_a = jnp.arange(self.output_size)[None, None, :] <= 2
        after_a &= jnp.arange(self.output_size)[None, None, :] >= 1
        legal = jnp.where((letter == 1)[..., None], after_a, legal)
        return Batch(x, legal & (place < length)[..., None], length[:, 0])

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean cross entropy of each symbol's "may follow", in nats a step, over the valid steps.

        The target is the whole legal set, as in the paper, not the symbol that came.
        """
        nats = jnp.sum(jax.nn.softplus(jnp.where(batch.target, -outputs, outputs)), axis=-1)
        valid = _valid(batch)
        return jnp.sum(jnp.where(valid, nats, 0.0)) / jnp.sum(valid, dtype=jnp.float32)

    def evaluation(self, key: Array) -> Batch:
        """The strings of n = 1 to `evaluate_to`, in this order; nothing about them is random."""
        return self.strings(jnp.arange(1, self.evaluate_to + 1), self.evaluate_to)

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """Judge strings in the order of the evaluation, each by the legal sets of all of its steps.

        Returns `largest_n` (up to which every string is right), `strings` (share of the right ones), `trained`
        (the same among those of the training's n), and `nats`, the loss.
        """
        right = right_strings(outputs, batch)
        return {
            "largest_n": leading(right).astype(jnp.float32),
            "strings": jnp.mean(right, dtype=jnp.float32),
            "trained": jnp.mean(right[: self.largest], dtype=jnp.float32),
            "nats": self.loss(outputs, batch),
        }

    def baseline(self) -> dict[str, float]:
        """The last symbol alone decides (exact): b where b came, never right at the end of a string, so n = 0."""
        return {"largest_n": 0.0, "strings": 0.0, "trained": 0.0}

    def picture(self, batch: Batch) -> Picture:
        """A string twice as long as those of the training; the cells have to count."""
        a_less_b = np.cumsum(batch.x[..., 1] - batch.x[..., 2], axis=1)
        letters = "abc"[: self.letters]
        return Picture(
            inputs=f"S{letters}", outputs=f"T{letters}", output=jax.nn.sigmoid, memory=a_less_b,
            memory_name="the a's less the b's so far", row=min(2 * self.largest, self.evaluate_to) - 1,
            row_name=f"that of n = {min(2 * self.largest, self.evaluate_to)}, trained to n = {self.largest}",
        )  # fmt: skip

    def final(self, predict: Callable[[Array], Array]) -> dict[str, float]:
        """Test every model on all n to 1,000; give its largest n over the seeds."""
        write, pieces = jax.jit(self.strings, static_argnums=1), []
        for first in range(1, FINAL_N + 1, FINAL_STRINGS):
            longest = first + FINAL_STRINGS - 1
            batch = write(jnp.arange(first, longest + 1), longest)
            # In NumPy, where nothing is compiled for each of the lengths.
            pieces.append(right_strings(np.asarray(predict(batch.x)), jax.tree.map(np.asarray, batch)))
        found = np.asarray(jax.vmap(leading)(jnp.asarray(np.concatenate(pieces, axis=1))))
        return {
            "largest_n_mean": float(np.mean(found)),
            "largest_n_median": float(np.median(found)),
            "largest_n_worst": float(np.min(found)),
            "largest_n_best": float(np.max(found)),
        }


def right_strings(outputs: Any, batch: Batch) -> Any:
    """Say of each string whether the legal set is right at every step: [..., B, T, K] -> [..., B] bool."""
    return (((outputs > 0.0) == batch.target).all(axis=-1) | ~_valid(batch)).all(axis=-1)


def leading(right: Array) -> Array:
    """Count the True before the first False."""
    return jnp.sum(jnp.cumprod(right.astype(jnp.int32)))


def _valid(batch: Batch) -> Any:
    """The steps that carry loss, [B, T] bool."""
    assert batch.lengths is not None
    return np.arange(batch.x.shape[1])[None, :] < batch.lengths[:, None]
