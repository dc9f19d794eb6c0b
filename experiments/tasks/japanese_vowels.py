"""Japanese vowels: who of nine speakers said /ae/, from 7 to 29 steps of 12 coefficients."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.tasks import Batch
from experiments.tasks.datasets import Classification, Labelled, Split, require

CHANNELS, SPEAKERS, LONGEST = 12, 9, 29
UTTERANCES, VALIDATION = 30, 6  # of each speaker in the training set, and of these the first ones that validate


@dataclass(frozen=True)
class JapaneseVowels(Classification):
    """Name the speaker of one utterance, a sequence of 12 LPC cepstrum coefficients of 7 to 29 steps.

    270 utterances train, 30 of each of nine speakers, and 370 test (24 to 88 of a speaker), the published split.
    Validation takes the first 6 of each speaker's 30: the baseline knows 89 % of these, but 96 % or more of any other
    six in a row, so they tell settings apart. Every coefficient is scaled to mean 0 and deviation 1 over all steps of
    what trains.

    It shows real ragged lengths: the rows are padded to 29 steps, and the layer is told where each one ends.

    Source: Kudo, Toyama & Shimbo 1999, the UCI set "Japanese Vowels", from the files that sktime ships.
    """

    noise: float = 0.0  # standard deviation of noise added to training inputs, in units of the scaled coefficients
    offset: float = 0.0  # the same of what is added to all steps of a training utterance, one number a coefficient
    crop: int = 0  # steps: up to so many are cut off at each end of a training utterance

    input_size = CHANNELS
    output_size = SPEAKERS

    def __post_init__(self) -> None:
        if min(self.noise, self.offset) < 0.0:
            raise ValueError(f"noise and offset must be at least 0, got {self.noise}, {self.offset}")
        if not 0 <= self.crop <= 3:
            raise ValueError(f"crop must be from 0 to 3, which leaves one step of the shortest, got {self.crop}")

    def split(self) -> Split:
        """Give 270 training and 370 test utterances, or 216 and 54."""
        return _split(self.held_out)

    def augment(self, key: Array, batch: Batch) -> Batch:
        """Cut both ends, and add noise and an offset; what they put behind a row's end is never read."""
        noise_key, offset_key, cut_key = jax.random.split(key, 3)
        x, lengths = batch.x, batch.lengths
        size = x.shape[0]
        if self.crop and lengths is not None:
            cut = jax.random.randint(cut_key, (2, size), 0, self.crop + 1)
            x = jax.vmap(lambda row, first: jnp.roll(row, -first, axis=0))(x, cut[0])
            lengths = lengths - cut[0] - cut[1]
        x = x + self.noise * jax.random.normal(noise_key, x.shape)
        x = x + self.offset * jax.random.normal(offset_key, (size, 1, CHANNELS))
        return batch._replace(x=x, lengths=lengths)

    def baseline(self) -> dict[str, float]:
        """The nearest training utterance by dynamic time warping, as `warped_distances` says."""
        return {"accuracy": _nearest_neighbour(self.held_out)}


def read(path: Path) -> Labelled:
    """Read a .ts file: a line a sequence, channels and at last the label parted by colons, steps by commas."""
    _, _, body = path.read_text(encoding="utf-8").partition("@data\n")
    rows = [line.split(":") for line in body.split()]
    label = np.array([int(row[-1]) - 1 for row in rows], np.int32)
    sequences = [np.array([channel.split(",") for channel in row[:-1]], np.float32).T for row in rows]
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    x = np.zeros((len(rows), LONGEST, CHANNELS), np.float32)
    for row, sequence in zip(x, sequences, strict=True):
        row[: len(sequence)] = sequence
    return Labelled(x, label, lengths)


def warped_distances(one: Labelled, other: Labelled) -> np.ndarray:
    """Give the DTW distance of every row of one to every row of other, [n, m].

    d[i, j] = |a[i] - b[j]|² + min(d[i-1, j], d[i, j-1], d[i-1, j-1]), all channels warped together, no window; the
    distance of two rows is d at their last steps.
    """
    assert one.lengths is not None
    assert other.lengths is not None
    n, m = len(one.label), len(other.label)
    before = np.full((LONGEST + 1, n, m), np.inf)  # d[i-1, j-1] at [j], with a border of infinities
    before[0] = 0.0
    found = np.full((n, m), np.inf)
    b_squares = np.sum(np.square(other.x, dtype=np.float64), axis=2)
    for i in range(LONGEST):
        a = one.x[:, i].astype(np.float64)
        row = np.full_like(before, np.inf)
        for j in range(LONGEST):
            cost = np.sum(a * a, axis=1)[:, None] + b_squares[:, j] - 2.0 * (a @ other.x[:, j].T)
            row[j + 1] = cost + np.minimum(np.minimum(before[j + 1], row[j]), before[j])
            ends = (one.lengths == i + 1)[:, None] & (other.lengths == j + 1)
            found[ends] = row[j + 1][ends]
        before = row
    return found


@functools.cache
def _split(held_out: str) -> Split:
    folder = Path(require("sktime", "sktime"), "datasets", "data", "JapaneseVowels")
    train, test = (read(folder / f"JapaneseVowels_{part}.ts") for part in ("TRAIN", "TEST"))
    if held_out == "validation":
        kept = np.arange(len(train.label)) % UTTERANCES < VALIDATION
        train, test = train.rows(~kept), train.rows(kept)
    valid = _valid(train)
    mean, deviation = train.x[valid].mean(axis=0), train.x[valid].std(axis=0)
    return Split(*(p._replace(x=np.where(_valid(p)[..., None], (p.x - mean) / deviation, 0.0)) for p in (train, test)))


def _valid(rows: Labelled) -> np.ndarray:
    """The steps before each row's end, [n, T] bool."""
    assert rows.lengths is not None
    return np.arange(LONGEST) < rows.lengths[:, None]


@functools.cache
def _nearest_neighbour(held_out: str) -> float:
    train, test = _split(held_out)
    nearest = np.argmin(warped_distances(test, train), axis=1)
    return float(np.mean(train.label[nearest] == test.label))
