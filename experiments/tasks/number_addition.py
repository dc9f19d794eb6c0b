"""Number addition: read a sum as text, such as 12+345, and write its result as text."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.tasks import Batch, Picture

CHARACTERS = "0123456789+ "
PROBLEMS = {2: 5_000, 3: 50_000}  # distinct problems by digits, as in the example
TEST_SHARE = 10  # one problem in so many is kept for the evaluation, as in the example
DRAWS = 400_000  # numbers drawn to find them: 5,000 of the 5,050 pairs there are need about 150,000


@dataclass(frozen=True)
class NumberAddition:
    """Read "a+b" character by character, padded with spaces, and write a + b, also padded, in the steps after it.

    Both numbers have at most `digits` digits: the question takes 2 `digits` + 1 steps and the answer `digits` + 1.
    Characters are one-hot over "0123456789+ ". Where the example has an encoder LSTM whose last output is
    repeated as input of a decoder LSTM, here one layer does both: while it writes, its input is zero. It is never
    shown what it wrote. Questions are read backwards where `reverse` is true, padding first; answers are written
    forwards, so that the first digit needs every carry.

    Problems are the example's: a number's count of digits is uniform in [1, `digits`], its digits are uniform
    (leading zeros fall away), and a pair is taken once, whichever way round; 5,000 pairs of two digits, 50,000 of
    three. The same set serves all seeds. A tenth is for the evaluation, and training draws from the others
    with replacement, so an epoch of the example is 4,500 (45,000) sequences of training.

    It shows a rule (columns, carries) picked up from text alone, and applied to pairs never seen.

    Source: Keras, example addition_rnn ("Implementation of sequence to sequence learning for performing addition
    of two numbers"), after Zaremba & Sutskever 2014.
    """

    digits: int = 2  # of each number, at most: 2 or 3
    reverse: bool = True  # read the question backwards

    input_size = len(CHARACTERS)
    output_size = len(CHARACTERS)
    every_step = True
    loss_on = "the answer's steps"

    def __post_init__(self) -> None:
        if self.digits not in PROBLEMS:
            raise ValueError(f"digits must be one of {', '.join(map(str, PROBLEMS))}, got {self.digits}")

    @property
    def question(self) -> int:
        """Characters of a question."""
        return 2 * self.digits + 1

    @property
    def answer(self) -> int:
        """Characters of an answer."""
        return self.digits + 1

    def stream(self, key: Array, batch_size: int) -> tuple[()]:
        """Problems are independent: nothing is carried."""
        return ()

    def sample(self, key: Array, stream: tuple[()], batch_size: int) -> tuple[tuple[()], Batch]:
        """Draw training problems: x [B, question + answer, 12], target [B, answer] int32."""
        training, _ = problems(self.digits)
        row = jax.random.randint(key, (batch_size,), 0, len(training))
        return stream, self._batch(*(jnp.asarray(text)[row] for text in self._texts(training)))

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean cross entropy in nats a character, over the answer's steps."""
        written = outputs[:, self.question :]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(written, batch.target))

    def evaluation(self, key: Array) -> Batch:
        """All problems kept apart, 500 (of two digits) or 5,000: the same ones whatever the key."""
        _, test = problems(self.digits)
        return self._batch(*map(jnp.asarray, self._texts(test)))

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """`exact`: the share of answers right in every character; `characters`, and `nats`, the loss."""
        right = jnp.argmax(outputs[:, self.question :], axis=-1) == batch.target
        return {
            "exact": jnp.mean(jnp.all(right, axis=1), dtype=jnp.float32),
            "characters": jnp.mean(right, dtype=jnp.float32),
            "nats": self.loss(outputs, batch),
        }

    def baseline(self) -> dict[str, float]:
        """Write the commonest answer of the training problems, and at each place their commonest character."""
        answers, scored = (self._texts(part)[1] for part in problems(self.digits))
        rows, count = np.unique(answers, axis=0, return_counts=True)
        commonest = [np.bincount(place).argmax() for place in answers.T]
        return {
            "exact": float(np.mean(np.all(scored == rows[count.argmax()], axis=1))),
            "characters": float(np.mean(scored == commonest)),
        }

    def picture(self, batch: Batch) -> Picture:
        """The whole of a problem; nothing is asked for while it is read."""
        target = np.pad(batch.target, ((0, 0), (self.question, 0)), constant_values=-1)
        names = CHARACTERS.replace(" ", "·")
        return Picture(inputs=names, outputs=names, target=target)

    def _texts(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Write problems out: questions [.., question] in the order of reading, answers [.., answer], int8."""
        questions = [f"{a}+{b}".ljust(self.question) for a, b in pairs]
        answers = [f"{a + b}".ljust(self.answer) for a, b in pairs]
        return _indices(q[::-1] if self.reverse else q for q in questions), _indices(answers)

    def _batch(self, question: Array, answer: Array) -> Batch:
        """One-hot questions, then zeros for as long as the answer is."""
        read = jax.nn.one_hot(question, len(CHARACTERS), dtype=jnp.float32)
        return Batch(jnp.pad(read, ((0, 0), (0, self.answer), (0, 0))), answer.astype(jnp.int32))


@functools.cache
def problems(digits: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the set of problems, (training [.., 2], evaluation [.., 2]) int32, always the same."""
    random = np.random.default_rng(0)
    count = random.integers(1, digits + 1, (DRAWS, 2, 1))
    figures = random.integers(0, 10, (DRAWS, 2, digits)) * (np.arange(digits) < count)
    pairs = figures @ 10 ** np.arange(digits)
    _, first = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
    # The first that are drawn are short ones mostly: the order is shuffled before it is cut, as in the example.
    chosen = random.permutation(pairs[np.sort(first)[: PROBLEMS[digits]]].astype(np.int32))
    test = len(chosen) // TEST_SHARE
    return chosen[test:], chosen[:test]


def _indices(texts: Iterable[str]) -> np.ndarray:
    return np.array([[CHARACTERS.index(c) for c in text] for text in texts], np.int8)
