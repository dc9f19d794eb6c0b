"""Continual embedded Reber: strings without a mark between them, so that the cell has to forget by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.tasks import Batch, Picture
from experiments.tasks.reber import EDGE_NODE, EDGE_SYMBOL, END, LEGAL, SYMBOLS, Next

EVALUATION_STREAMS = 10  # the paper's count
OUTER = np.array([symbol in "TP" for symbol in SYMBOLS])
DRAWN = 60  # symbols of a stream in the report's pictures
EVALUATION_KEY = 0x43455247  # folded into the evaluation key, so that it meets no training key


class Place(NamedTuple):
    """Where a stream stands. symbol: [B] int32, the next input. node: [B] int32, the grammar's node behind it."""

    symbol: Array
    node: Array


@dataclass(frozen=True)
class ContinualReber:
    """Predict the next symbol of an endless stream of embedded Reber strings, one right after the other.

    Nothing but the grammar says where a string ends: the E of a string is followed by the B of the next, and the
    state is carried on. The outer T or P has to be kept from the second symbol to the last but one, and to be
    forgotten afterwards; a cell that only adds (1997, without a forget gate) grows until it breaks down.

    A training step reads the next `chunk` symbols of each row's stream, the state carried over and the gradient cut
    at the chunk's first step. At the start of a chunk a row begins afresh with probability `reset`: the state at
    zero and a new string. That is what the test does, once: 10 streams of `evaluation_symbols`, each from the zero
    state and from the start of a string, with no warming up. Strings have no longest length here, and those of the
    test may have come up in training, as in the paper.

    Source: Gers, Schmidhuber & Cummins 2000, "Learning to forget"; as cited: no run perfect without forget gates,
    62 % of the runs perfect with them and a decaying learning rate. A run is perfect where all 10 streams are free
    of error. What counts as an error is the criterion of `embedded_reber`: every legal symbol above every other one.
    """

    chunk: int = 50  # symbols of a training step, and so the reach of the gradient
    reset: float = 0.02  # probability that a row begins afresh at a chunk's start
    evaluation_symbols: int = 100_000  # of each of the 10 test streams

    input_size = len(SYMBOLS)
    output_size = len(SYMBOLS)
    every_step = True
    loss_on = "every step"

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")
        if not 0.0 <= self.reset <= 1.0:
            raise ValueError(f"reset must be in [0, 1], got {self.reset}")
        if self.evaluation_symbols < 1:
            raise ValueError(f"evaluation_symbols must be at least 1, got {self.evaluation_symbols}")

    def stream(self, key: Array, batch_size: int) -> Place:
        """Put every row before the first symbol of a string."""
        return _start(batch_size)

    def sample(self, key: Array, stream: Place, batch_size: int) -> tuple[Place, Batch]:
        """Draw the next chunk of each row's stream: x [B, chunk, 7], reset [B, chunk], True at first steps only."""
        reset_key, key = jax.random.split(key)
        afresh = jax.random.bernoulli(reset_key, self.reset, (batch_size,))
        place = jax.tree.map(lambda new, old: jnp.where(afresh, new, old), _start(batch_size), stream)
        place, batch = _walk(key, place, self.chunk)
        first = jnp.arange(self.chunk)[None, :] == 0
        return place, batch._replace(reset=first & afresh[:, None])

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean cross entropy of the symbol that came next, in nats a symbol."""
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, batch.target.symbol))

    def evaluation(self, key: Array) -> Batch:
        """10 streams of `evaluation_symbols`, each from the start of a string."""
        key = jax.random.fold_in(key, EVALUATION_KEY)
        return _walk(key, _start(EVALUATION_STREAMS), self.evaluation_symbols)[1]

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """Count what was predicted right: a step is, where every legal symbol is above every other one.

        Returns `streams` (share of those free of error), `symbols` (right ones before the first error, the mean
        over the streams), `steps` (share of right ones), `outer` (of the steps whose next symbol is the closing T
        or P), and `nats`, the loss.
        """
        legal = batch.target.legal
        least_legal = jnp.min(jnp.where(legal, outputs, jnp.inf), axis=-1)
        most_illegal = jnp.max(jnp.where(legal, -jnp.inf, outputs), axis=-1)
        right = least_legal > most_illegal
        length = right.shape[1]
        first_error = jnp.where(jnp.all(right, axis=1), length, jnp.argmin(right, axis=1))
        # The closing T or P comes alone; inside a string they have another symbol beside them.
        closing = (jnp.sum(legal, axis=-1) == 1) & jnp.any(legal & jnp.asarray(OUTER), axis=-1)
        return {
            "streams": jnp.mean(first_error == length, dtype=jnp.float32),
            "symbols": jnp.mean(first_error, dtype=jnp.float32),
            "steps": jnp.mean(right, dtype=jnp.float32),
            "outer": jnp.sum(right & closing, dtype=jnp.float32) / jnp.sum(closing, dtype=jnp.float32),
            "nats": self.loss(outputs, batch),
        }

    def baseline(self) -> dict[str, float]:
        """All but the outer symbol without fault, and that guessed (exact): half of the closing symbols."""
        return {"streams": 0.0, "outer": 0.5}

    def picture(self, batch: Batch) -> Picture:
        """Two or three strings of a stream; the cells have to hold the outer symbol of each, and then to forget it."""
        symbols = np.argmax(batch.x[:, :DRAWN], axis=-1)
        outer = np.full(symbols.shape, np.nan)
        E = SYMBOLS.index("E")
        for row, held in zip(symbols, outer, strict=True):
            start = 0
            for t, symbol in enumerate(row):
                if symbol == E and t >= 2 and row[t - 2] == E:  # the inner E, the outer symbol, the last E
                    start = t + 1
                elif t > start and E not in row[start:t]:
                    held[t] = 1.0 if row[start + 1] == SYMBOLS.index("T") else -1.0
        return Picture(
            inputs=SYMBOLS, outputs=SYMBOLS, memory=outer, memory_name="the outer symbol (T: 1, P: -1)", row=0,
            row_name="the first stream", steps=(0, min(DRAWN, batch.x.shape[1])),
        )  # fmt: skip


def _start(batch_size: int) -> Place:
    """Stand before a string's first symbol, B, which the grammar's node 0 gives."""
    symbol, node = int(EDGE_SYMBOL[0, 0]), int(EDGE_NODE[0, 0])
    return Place(jnp.full((batch_size,), symbol, jnp.int32), jnp.full((batch_size,), node, jnp.int32))


def _walk(key: Array, place: Place, steps: int) -> tuple[Place, Batch]:
    """Go on from a place by some symbols; from the end of a string to the start of the next."""

    def step(place: Place, turn: Array) -> tuple[Place, tuple[Array, Array, Array]]:
        symbol = jnp.asarray(EDGE_SYMBOL)[place.node, turn]
        node = jnp.asarray(EDGE_NODE)[place.node, turn]
        following = Place(symbol, jnp.where(node == END, 0, node))
        return following, (place.symbol, symbol, place.node)

    turns = jax.random.bernoulli(key, 0.5, (steps, *place.symbol.shape)).astype(jnp.int32)
    place, found = jax.lax.scan(step, place, turns)
    symbol, following, node = (jnp.swapaxes(a, 0, 1) for a in found)
    x = jax.nn.one_hot(symbol, len(SYMBOLS), dtype=jnp.float32)
    return place, Batch(x, Next(following, jnp.asarray(LEGAL)[node]))
