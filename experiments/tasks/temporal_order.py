"""Temporal order: say in which order X and Y came, tens of steps apart, among distractors."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.tasks import Batch, Picture

SYMBOLS = "EBabcdXY"
DISTRACTORS = 4  # a to d, after the start symbol E and the trigger B
LENGTHS = (100, 110)  # symbols of a sequence, both ends included, as in all ranges here
# For each number of marks, the range of each mark's place; E stands at place 0.
PLACES = {2: ((10, 20), (50, 60)), 3: ((10, 20), (33, 43), (66, 76))}
TOLERANCE = 0.3  # a sequence counts as right where every output is within this of its target
EVALUATION_SEQUENCES = 2560  # the paper's test set
EVALUATION_KEY = 0x4F524445  # folded into the evaluation key, so that it meets no training key


@dataclass(frozen=True)
class TemporalOrder:
    """Read E, then distractors from a, b, c, d with an X or a Y at two (or three) places, then B; name the order.

    Symbols are one-hot. Two marks: t1 in [10, 20] and t2 in [50, 60], four classes XX, XY, YX, YY. Three marks: t1 in
    [10, 20], t2 in [33, 43], t3 in [66, 76], eight classes XXX to YYY, in alphabetical order. Each mark is X or Y
    with probability 1/2; places and length (100 to 110, E and B counted) are uniform. The class is asked for after
    B, the last symbol; the outputs are the softmax of the readout.

    It shows that cells hold the order of events, not only that they came: XY and YX have the same symbols.

    Source: Hochreiter & Schmidhuber 1997, experiments 6a (two marks) and 6b (three).
    """

    marks: int = 2  # X or Y symbols in a sequence: 2 is experiment 6a, 3 is 6b

    input_size = len(SYMBOLS)
    every_step = False
    loss_on = "the last step"

    def __post_init__(self) -> None:
        if self.marks not in PLACES:
            raise ValueError(f"marks must be 2 or 3, got {self.marks}")

    @property
    def output_size(self) -> int:
        """K, a class for each order: 2 to the power of `marks`."""
        return 2**self.marks

    def stream(self, key: Array, batch_size: int) -> tuple[()]:
        """Sequences are independent: nothing is carried."""
        return ()

    def sample(self, key: Array, stream: tuple[()], batch_size: int) -> tuple[tuple[()], Batch]:
        """Draw a batch: x [B, 110, 8], target [B] int32 (the class), lengths [B]."""
        symbol_key, place_key, mark_key, length_key = jax.random.split(key, 4)
        first, last = LENGTHS
        lengths = jax.random.randint(length_key, (batch_size,), first, last + 1)
        low, high = np.array(PLACES[self.marks], np.int32).T
        place = jax.random.randint(place_key, (batch_size, self.marks), low, high + 1)
        is_y = jax.random.bernoulli(mark_key, 0.5, (batch_size, self.marks)).astype(jnp.int32)

        symbol = jax.random.randint(symbol_key, (batch_size, last), 2, 2 + DISTRACTORS)
        rows = jnp.arange(batch_size)
        symbol = symbol.at[:, 0].set(SYMBOLS.index("E"))
        symbol = symbol.at[rows[:, None], place].set(SYMBOLS.index("X") + is_y)
        symbol = symbol.at[rows, lengths - 1].set(SYMBOLS.index("B"))
        x = jax.nn.one_hot(symbol, len(SYMBOLS), dtype=jnp.float32)
        x = jnp.where((jnp.arange(last)[None, :] < lengths[:, None])[:, :, None], x, 0.0)
        # The marks as a binary number, the first its highest digit.
        digit = 2 ** np.arange(self.marks - 1, -1, -1, dtype=np.int32)
        return stream, Batch(x, jnp.sum(is_y * digit, axis=1, dtype=jnp.int32), lengths)

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean cross entropy of the class, in nats."""
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, batch.target))

    def evaluation(self, key: Array) -> Batch:
        """2,560 sequences of the same kind."""
        return self.sample(jax.random.fold_in(key, EVALUATION_KEY), (), EVALUATION_SEQUENCES)[1]

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """Count sequences: `correct`, where all outputs are within 0.3 of the target's; `accuracy`, by the greatest."""
        error = jnp.abs(jax.nn.softmax(outputs) - jax.nn.one_hot(batch.target, self.output_size, dtype=jnp.float32))
        return {
            "correct": jnp.mean(jnp.all(error < TOLERANCE, axis=-1), dtype=jnp.float32),
            "accuracy": jnp.mean(jnp.argmax(outputs, axis=-1) == batch.target, dtype=jnp.float32),
            "nats": self.loss(outputs, batch),
        }

    def baseline(self) -> dict[str, float]:
        """All classes alike (exact): 1/4 or 1/8 of the guesses right, and never an output of 0.7 or more."""
        return {"correct": 0.0, "accuracy": 1.0 / self.output_size, "nats": float(np.log(self.output_size))}

    def picture(self, batch: Batch) -> Picture:
        """The cells have to hold the first mark from its step on (the others too, which is not drawn)."""
        mark = batch.x[..., SYMBOLS.index("Y")] - batch.x[..., SYMBOLS.index("X")]
        first = np.argmax(mark != 0.0, axis=1)
        rows = np.arange(len(first))
        known = np.arange(mark.shape[1]) >= first[:, None]
        return Picture(
            inputs=SYMBOLS,
            outputs=["".join(order) for order in itertools.product("XY", repeat=self.marks)],
            memory=np.where(known, mark[rows, first][:, None], np.nan),
            memory_name="the first mark (X: -1, Y: 1)",
        )
