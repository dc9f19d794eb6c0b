"""Characters: predict the next character of Python's own documentation, as an endless stream read in chunks."""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.tasks import Batch, Picture

VALIDATION_START, TEST_START = 0.85, 0.9  # shares of the text, in characters
ROWS = 16  # that the held-out text is read in, side by side
WARMUP = 256  # characters before each of those rows, which carry no loss
ORDER = 5  # of the n-gram model: four characters of context
LONG_ORDER = 8  # of the one reported beside it: on the validation text an order more gains 0.005 bits
DISCOUNT = 0.9  # of the n-gram model; 0.5 to 0.9 were tried on the validation text


class Text(NamedTuple):
    """The documentation as numbers.

    whole: the text. alphabet: its characters, sorted. codes: [n] int32, their places in it. sha256: of whole in UTF-8.
    """

    whole: str
    alphabet: str
    codes: np.ndarray
    sha256: str


@dataclass(frozen=True)
class Characters:
    """Predict each character of the text of `pydoc_data.topics` from those before it.

    The topics are read in the order of their names, and paragraphs that came before (many topics are parts of
    others) are left out; without that the test text would stand in the training text. Of what remains, the first
    85 % of the characters train, the next 5 % validate and the last 10 % test. The alphabet is that of the whole.

    Training rows are streams that start evenly spaced in the training text and go round in it, each step a chunk
    further: meant for `[train] stateful`, where the state is carried and the gradient ends at a chunk's start.

    It shows language modelling by stateful truncated back-propagation on a text that every Python has.

    Source: CPython's documentation as shipped in `pydoc_data.topics`. Versions differ, so Python's version and the
    text's hash belong to every figure.
    """

    chunk: int = 64  # time steps in a training step, and so the reach of the gradient
    held_out: Literal["test", "validation"] = "test"  # the text that scores; choices are made with the second

    every_step = True
    loss_on = "every step"

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {self.chunk}")

    @property
    def input_size(self) -> int:
        """The size of the alphabet."""
        return len(text().alphabet)

    @property
    def output_size(self) -> int:
        """The size of the alphabet."""
        return len(text().alphabet)

    def stream(self, key: Array, batch_size: int) -> Array:
        """Draw where each row of a batch starts in the training text, [B]."""
        size = len(training())
        return (jax.random.randint(key, (), 0, size) + size * jnp.arange(batch_size) // batch_size) % size

    def sample(self, key: Array, stream: Array, batch_size: int) -> tuple[Array, Batch]:
        """Read on: x [B, chunk, alphabet] one-hot, target [B, chunk] int32."""
        codes = jnp.asarray(training())
        at = (stream[:, None] + jnp.arange(self.chunk + 1)[None, :]) % codes.shape[0]
        return at[:, -1], self._batch(codes[at])

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean cross entropy over all steps, in nats."""
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, batch.target))

    def evaluation(self, key: Array) -> Batch:
        """The held-out text in 16 rows, 256 characters of what stands before in front of each."""
        start, end = span(self.held_out)
        each = (end - start) // ROWS
        at = start + each * np.arange(ROWS)[:, None] + np.arange(-WARMUP - 1, each)
        return self._batch(jnp.asarray(text().codes[at]))

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """`bits` per character, their ratio to the 5-gram's, and the share of characters `guessed`; no warm-up in them.

        The ratio is what a target can stand on: the text, and so the bits, change with Python's version.
        """
        outputs, target = outputs[:, WARMUP:], batch.target[:, WARMUP:]
        bits = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, target)) / math.log(2.0)
        guessed = jnp.argmax(outputs, axis=-1) == target
        return {
            "bits": bits,
            "bits_over_ngram": bits / _held_out_bits(self.held_out, ORDER),
            "guessed": jnp.mean(guessed, dtype=jnp.float32),
        }

    def baseline(self) -> dict[str, float]:
        """The 5-gram model of `ngram_bits`, counted in the training text, on the characters that `bits` is of."""
        return {"bits": _held_out_bits(self.held_out, ORDER), "bits_over_ngram": 1.0}

    def final(self, predict: Callable[[Array], Array]) -> dict[str, float]:
        """The bits of an 8-gram model of the same kind, to set the LSTM's beside."""
        return {"bits_of_8_gram": _held_out_bits(self.held_out, LONG_ORDER)}

    def of_test(self, name: str) -> bool:
        """All metrics are of the text that is held out."""
        return self.held_out == "test"

    def picture(self, batch: Batch) -> Picture:
        """The first characters that count, in the first row."""
        names = [repr(c)[1:-1] if c in "\n\t" else c for c in text().alphabet]
        return Picture(names, names, row=0, row_name="the first", steps=(WARMUP, WARMUP + 60))

    def _batch(self, codes: Array) -> Batch:
        return Batch(jax.nn.one_hot(codes[:, :-1], self.input_size, dtype=jnp.float32), codes[:, 1:])


@functools.cache
def text() -> Text:
    """Read the topics, leave out what came before, and number the characters."""
    from pydoc_data.topics import topics

    whole = distinct_paragraphs(topics[name] for name in sorted(topics))
    alphabet = "".join(sorted(set(whole)))
    place = {character: number for number, character in enumerate(alphabet)}
    codes = np.array([place[character] for character in whole], np.int32)
    return Text(whole, alphabet, codes, hashlib.sha256(whole.encode()).hexdigest())


def distinct_paragraphs(topics: Iterable[str]) -> str:
    """Join the paragraphs of texts, each once: those that differ in white space alone are the same."""
    seen: dict[str, str] = {}
    for topic in topics:
        for paragraph in topic.split("\n\n"):
            seen.setdefault(" ".join(paragraph.split()), paragraph)
    seen.pop("", None)
    return "\n\n".join(seen.values())


def ngram_bits(train: str, before: str, scored: str, symbols: int, order: int = ORDER) -> float:
    """Bits per character of an interpolated Kneser-Ney model.

        p_k(c | h) = (max(count_k(h c) - δ, 0) + δ · kinds_k(h) · p_{k-1}(c | h')) / count_k(h)

    where h is the last k characters, h' the last k - 1, count_k(h) = Σ count_k(h c) and kinds_k(h) the number of
    different c after h. At k = order - 1 count_k counts places in the training text; below, in how many different
    contexts of one character more "h c" was seen. p_{-1} is uniform; where h was never seen p_k is p_{k-1}.

    Args:
        train: what is counted.
        before: what stands before the scored text; its end is the first context.
        scored: the text that the bits are of.
        symbols: size of the alphabet.
        order: characters of the longest n-gram.
    """
    counts = [defaultdict(Counter) for _ in range(order)]
    for i in range(order - 1, len(train)):
        counts[-1][train[i - order + 1 : i]][train[i]] += 1
    for k in range(order - 1, 0, -1):
        for context, followers in counts[k].items():
            for character in followers:
                counts[k - 1][context[1:]][character] += 1
    totals = [{context: followers.total() for context, followers in level.items()} for level in counts]
    whole = before[-order:] + scored
    bits = 0.0
    for i in range(len(whole) - len(scored), len(whole)):
        p = 1.0 / symbols
        for k in range(min(order, i + 1)):
            context = whole[i - k : i]
            if context not in totals[k]:
                break
            followers = counts[k][context]
            kept = max(followers.get(whole[i], 0) - DISCOUNT, 0.0)
            p = (kept + DISCOUNT * len(followers) * p) / totals[k][context]
        bits -= math.log2(p)
    return bits / len(scored)


def training() -> np.ndarray:
    """The codes to learn from."""
    return text().codes[: span("validation")[0]]


def span(held_out: str) -> tuple[int, int]:
    """First and last + 1 place of a held-out text."""
    size = len(text().codes)
    validation, test = int(VALIDATION_START * size), int(TEST_START * size)
    return (validation, test) if held_out == "validation" else (test, size)


@functools.cache
def _held_out_bits(held_out: str, order: int) -> float:
    whole, (start, end) = text().whole, span(held_out)
    scored = whole[start : start + (end - start) // ROWS * ROWS]  # as the rows score
    return ngram_bits(whole[: len(training())], whole[:start], scored, len(text().alphabet), order)
