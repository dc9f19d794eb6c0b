"""Parity: say at the end of a bit string whether the number of its ones is odd (a running XOR)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.tasks import Batch, Picture

LONGEST = 50  # the evaluation scores every length up to it
EACH_LENGTH = 20  # evaluation strings of each length from 1 to LONGEST
UNSEEN_LENGTH = 200  # four times what training reaches
UNSEEN_STRINGS = 1000
UNSEEN_SHARE = 0.995  # of the strings of UNSEEN_LENGTH, for `solved`
EVALUATION_KEY = 0x50415221  # folded into the evaluation key, so that it meets no training key


@dataclass(frozen=True)
class Parity:
    """Read fair bits, one a step, and give the parity of them all after the last.

    The length is uniform in [min_length, length]. One bit changed anywhere turns the answer over, and no part of
    a string tells anything of it: nothing less than the running XOR is better than a guess, so that strings of 50
    bits alone give no direction, and short ones among them do. With `every_step` the parity so far is asked for
    at each step, which lays the way out.

    The evaluation has 20 strings of every length from 1 to 50, whatever the training lengths are, and 1,000 of
    200 bits, which no training string reaches. The short ones (there are only 2^n of n bits) occur in training
    too; of the 2^50 longest no two runs share one.

    It shows that the state can toggle without drift, and that what was learnt on lengths to 50 is a rule.

    Source: OpenAI, Requests for Research 2.0 (2018), the warm-up: XOR of strings of 50 bits, and of 1 to 50.
    """

    length: int = 50  # greatest number of bits in training
    min_length: int = 1  # least number of bits in training
    every_step: bool = False  # True: the parity so far at every step, False: once, after the last bit

    input_size = 1
    output_size = 1

    def __post_init__(self) -> None:
        if not 1 <= self.min_length <= self.length <= LONGEST:
            got = f"{self.min_length} and {self.length}"
            raise ValueError(f"min_length and length must be in order and in [1, {LONGEST}], got {got}")

    @property
    def loss_on(self) -> str:
        """Which steps carry loss."""
        return "every step" if self.every_step else "the last step"

    def stream(self, key: Array, batch_size: int) -> tuple[()]:
        """Strings are independent: nothing is carried."""
        return ()

    def sample(self, key: Array, stream: tuple[()], batch_size: int) -> tuple[tuple[()], Batch]:
        """Draw a batch: x [B, T, 1] of -1 and 1, target [B, T, 1] or [B, 1] of 0 and 1, lengths [B]."""
        bit_key, length_key = jax.random.split(key)
        lengths = jax.random.randint(length_key, (batch_size,), self.min_length, self.length + 1)
        return stream, self._batch(bit_key, lengths, self.length)

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean cross entropy in nats: an answer's, or a valid step's."""
        nats = optax.sigmoid_binary_cross_entropy(outputs, batch.target)
        if not self.every_step:
            return jnp.mean(nats)
        valid = _valid(batch)[..., None]
        return jnp.sum(jnp.where(valid, nats, 0.0)) / jnp.sum(valid, dtype=jnp.float32)

    def evaluation(self, key: Array) -> Batch:
        """20 strings of every length from 1 to 50, and 1,000 of 200 bits."""
        each = jnp.repeat(jnp.arange(1, LONGEST + 1), EACH_LENGTH)
        lengths = jnp.concatenate([each, jnp.full((UNSEEN_STRINGS,), UNSEEN_LENGTH)])
        return self._batch(jax.random.fold_in(key, EVALUATION_KEY), lengths, UNSEEN_LENGTH)

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """Shares of strings whose parity at the end is right.

        Returns `to_50` (lengths 1 to 50), `at_200`, and `solved`: 1 where to_50 is 1 and at_200 at least 0.995.
        """
        assert batch.lengths is not None
        right = (outputs > 0.0) == (batch.target > 0.5)
        if self.every_step:
            right = jnp.take_along_axis(right, batch.lengths[:, None, None] - 1, axis=1)[:, 0]
        short, unseen = jnp.split(right[:, 0], [LONGEST * EACH_LENGTH])
        to_50, at_200 = (jnp.mean(part, dtype=jnp.float32) for part in (short, unseen))
        solved = jnp.all(short) & (jnp.sum(unseen) >= round(UNSEEN_SHARE * UNSEEN_STRINGS))
        return {"to_50": to_50, "at_200": at_200, "solved": solved.astype(jnp.float32)}

    def baseline(self) -> dict[str, float]:
        """A guess (exact); without the last bit, or any other, nothing is better."""
        return {"to_50": 0.5, "at_200": 0.5, "solved": 0.0}

    def picture(self, batch: Batch) -> Picture:
        """A string of 40 bits; the cells have to hold the parity so far."""
        so_far = np.cumsum(batch.x[..., 0] > 0.0, axis=1) % 2
        return Picture(
            inputs=("bit",), output=jax.nn.sigmoid, memory=so_far.astype(float), memory_name="the parity so far",
            row=EACH_LENGTH * 40 - 1, row_name="the last one of 40 bits",
        )  # fmt: skip

    def _batch(self, key: Array, lengths: Array, steps: int) -> Batch:
        """Draw bits for the lengths; padding is 0 in x and in the target."""
        valid = jnp.arange(steps)[None, :] < lengths[:, None]
        bits = jax.random.bernoulli(key, 0.5, valid.shape) & valid
        x = jnp.where(valid, jnp.where(bits, 1.0, -1.0), 0.0)[..., None]
        ones = jnp.cumsum(bits, axis=1, dtype=jnp.int32)
        if self.every_step:
            return Batch(x, jnp.where(valid, ones % 2, 0).astype(jnp.float32)[..., None], lengths)
        return Batch(x, (ones[:, -1:] % 2).astype(jnp.float32), lengths)


def _valid(batch: Batch) -> Array:
    """The steps that carry loss, [B, T] bool."""
    assert batch.lengths is not None
    return jnp.arange(batch.x.shape[1])[None, :] < batch.lengths[:, None]
