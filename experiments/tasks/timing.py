"""Timing: measure the time between spikes, generate spikes in time, generate periodic functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.tasks import Batch, Picture

TEST_STREAMS = 4  # of the two tasks with spikes; a periodic function is one stream
TEST_INTERVALS = 1000  # spikes, or periods, in a row without error
SPIKE_ERROR, FUNCTION_ERROR = 0.49, 0.3  # an output further than this from its target is an error, at any step
EVALUATION_KEY = 0x54494D45  # folded into the evaluation key, so that it meets no training key


class Timed(NamedTuple):
    """What to say, and when. value: [B, T, 1] float32."""

    value: Array
    judged: Array  # [B, T] bool: the steps that carry loss and are scored
    end: Array  # [B, T] bool: the last step of each interval; it is judged in all three tasks


@dataclass(frozen=True)
class Timing:
    """Measure or generate intervals of `interval` steps, or one step more, to the exact step; F is `interval`.

    - `msd`, measuring spike delays: the n-th spike, a 1 among zeros in the input, comes F + I(n) steps after the one
      before, I(n) 0 or 1 with equal chance. Say I(n) at that spike; no other step is judged.
    - `gts`, generating timed spikes, the inverse: the input is I(n) all through the n-th interval. Be 1 at the
      interval's last step and 0 at every other one. (Where the input changes, it tells that a spike was due.)
    - `pfg`, periodic function generation: no input (it is 0). Follow a function of period F from 0 to 1 and back:
      `shape` cosine, (1 - cos(2 pi t / F)) / 2; triangle; or rectangle, 1 in the second half of a period.

    The state is zero before the first step, and nothing sets it later: for `pfg` nor does any input, so the state
    has to return to itself. A model trained on sequences of `intervals` intervals is tested on streams of 1,000;
    a stream is right where no judged output is off by 0.49 or more, for `pfg` 0.3.

    It shows what peepholes were made for: a gate that has to open at a count, without a spike to tell it.

    Source: Gers, Schraudolph & Schmidhuber 2002, "Learning precise timing with LSTM recurrent networks". As cited:
    the three tasks and their names, intervals F + I(n) with F from 10 to 50, the three functions with F = 10 and 25,
    the bounds 0.49 and 0.3, the test of 1,000 spikes, one cell, and that peepholes are needed for `gts` and `pfg`.
    Ours, where we do not know the paper's: the input of `gts` as said above, no judgement between the spikes of
    `msd`, 1,000 periods for `pfg`, and training sequences of a fixed number of intervals, where the paper trains
    on streams that end at the first error.
    """

    kind: Literal["msd", "gts", "pfg"] = "msd"
    interval: int = 50  # F, steps
    intervals: int = 4  # of a training sequence
    shape: Literal["cosine", "triangle", "rectangle"] = "cosine"  # pfg alone

    input_size = 1
    output_size = 1
    every_step = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.shape not in SHAPES:
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {self.shape!r}")
        if self.interval < 2:
            raise ValueError(f"interval must be at least 2, got {self.interval}")
        if self.intervals < 1:
            raise ValueError(f"intervals must be at least 1, got {self.intervals}")

    @property
    def loss_on(self) -> str:
        """Spikes are all that `msd` asks about."""
        return "the spikes" if self.kind == "msd" else "every step"

    def stream(self, key: Array, batch_size: int) -> tuple[()]:
        """Sequences are independent: nothing is carried."""
        return ()

    def sample(self, key: Array, stream: tuple[()], batch_size: int) -> tuple[tuple[()], Batch]:
        """Draw training sequences: x [B, T, 1], lengths [B], up to the last interval's end."""
        return stream, self._draw(key, batch_size, self.intervals)

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean over the judged steps: cross entropy of the sigmoid of the outputs, for `pfg` their squared error.

        A spike of `gts` counts as much as the other steps of an interval together.
        """
        value, judged, end = batch.target
        logistic = self.kind != "pfg"
        each = jax.nn.softplus(outputs) - value * outputs if logistic else jnp.square(outputs - value)
        weight = jnp.where(end, self.interval, 1.0) if self.kind == "gts" else 1.0
        weight = jnp.where(judged, weight, 0.0)
        return jnp.sum(weight[..., None] * each) / jnp.sum(weight)

    def evaluation(self, key: Array) -> Batch:
        """4 streams of 1,000 intervals; for `pfg` one, since nothing in it is random."""
        key = jax.random.fold_in(key, EVALUATION_KEY)
        return self._draw(key, 1 if self.kind == "pfg" else TEST_STREAMS, TEST_INTERVALS)

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """Judge each stream from its start.

        Returns `streams` (share of those without error), `intervals` (those before the first error, the mean over the
        streams), `steps` (share of the judged steps without error), and `worst`, the largest error.
        """
        value, judged, end = batch.target
        said = outputs if self.kind == "pfg" else jax.nn.sigmoid(outputs)
        error = jnp.where(judged, jnp.abs(said - value)[..., 0], 0.0)
        wrong = error >= (FUNCTION_ERROR if self.kind == "pfg" else SPIKE_ERROR)
        before = jnp.cumsum(wrong, axis=1) == 0
        passed = jnp.sum(before & end, axis=1)
        return {
            "streams": jnp.mean(~jnp.any(wrong, axis=1), dtype=jnp.float32),
            "intervals": jnp.mean(passed, dtype=jnp.float32),
            "steps": 1.0 - jnp.sum(wrong, dtype=jnp.float32) / jnp.sum(judged, dtype=jnp.float32),
            "worst": jnp.max(error),
        }

    def baseline(self) -> dict[str, float]:
        """A constant: wrong at one of two spikes of `msd`, once an interval of `gts`, in each period of `pfg`."""
        return {"streams": 0.0}

    def picture(self, batch: Batch) -> Picture:
        """The cells have to count the steps since the last interval's end."""
        value, judged, end = batch.target
        drawn = min(4 * (self.interval + 1), end.shape[1])
        t = np.arange(drawn)[None, :]
        since = t - np.maximum.accumulate(np.where(end[:, :drawn], t, -1), axis=1)
        return Picture(
            target=np.where(judged[..., None], value, np.nan), output=None if self.kind == "pfg" else jax.nn.sigmoid,
            memory=since, memory_name="the steps since the last interval's end", steps=(0, drawn), row=0,
            row_name="the first stream's first four intervals",
        )  # fmt: skip

    def _draw(self, key: Array, batch_size: int, intervals: int) -> Batch:
        """Lay out sequences of some intervals, the first of which begins at the first step."""
        if self.kind == "pfg":
            t = jnp.arange(1, intervals * self.interval + 1)
            value = SHAPES[self.shape](t % self.interval / self.interval)
            rows = jax.tree.map(lambda a: jnp.broadcast_to(a, (batch_size, *a.shape)), (value, t % self.interval == 0))
            judged = jnp.ones_like(rows[1])
            return Batch(jnp.zeros_like(rows[0])[..., None], Timed(rows[0][..., None], judged, rows[1]))
        longer = jax.random.bernoulli(key, 0.5, (batch_size, intervals)).astype(jnp.int32)
        last = jnp.cumsum(self.interval + longer, axis=1) - 1  # the last step of each interval
        steps = jnp.arange(intervals * (self.interval + 1))
        end = jnp.zeros((batch_size, len(steps)), bool).at[jnp.arange(batch_size)[:, None], last].set(True)
        lengths = last[:, -1] + 1
        valid = steps[None, :] < lengths[:, None]
        number = jnp.minimum(jnp.cumsum(end, axis=1) - end, intervals - 1)  # of the interval that a step belongs to
        delay = jnp.where(valid, jnp.take_along_axis(longer, number, axis=1), 0)
        x, value, judged = (end, end * delay, end) if self.kind == "msd" else (delay, end, valid)
        x, value = (a.astype(jnp.float32)[..., None] for a in (x, value))
        return Batch(x, Timed(value, judged, end), lengths)


def _triangle(phase: Array) -> Array:
    return 1.0 - jnp.abs(2.0 * phase - 1.0)


def _rectangle(phase: Array) -> Array:
    return (phase > 0.5).astype(jnp.float32)


def _cosine(phase: Array) -> Array:
    return 0.5 * (1.0 - jnp.cos(2.0 * jnp.pi * phase))


KINDS = ("msd", "gts", "pfg")
# Each over the phase, t / F modulo 1.
SHAPES = {"cosine": _cosine, "triangle": _triangle, "rectangle": _rectangle}
