"""Data sets in memory: batches drawn on the device, the classification that three tasks share, missing packages."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.tasks import Batch


class MissingPackage(ImportError):
    """The package that ships a task's data is not installed; the message is one line for the user."""


class Labelled(NamedTuple):
    """A set of labelled sequences; as NumPy arrays they become constants of the program that reads them.

    x: [n, T, D] float32, zero behind each row's length. label: [n] int32. lengths: [n] int32, or None where all rows
    are T steps long.
    """

    x: np.ndarray
    label: np.ndarray
    lengths: np.ndarray | None = None

    def rows(self, index: np.ndarray | slice) -> Labelled:
        """Take rows by index, mask or slice."""
        return Labelled(self.x[index], self.label[index], None if self.lengths is None else self.lengths[index])


class Split(NamedTuple):
    """Rows to learn from, and rows to be judged by."""

    train: Labelled
    held_out: Labelled


@dataclass(frozen=True)
class Classification:
    """What the tasks have in common whose data are labelled sequences: one class a sequence, read out at its end.

    A task adds its width, `split`, `baseline` and, where training draws more than the rows themselves, `augment`.
    """

    # test: all training rows train, the test rows score. validation: nothing reads a test row; part of the training
    # rows scores instead of training. Choices are made with the second, the published figure comes from the first.
    held_out: Literal["test", "validation"] = "test"

    every_step = False
    loss_on = "the last step"

    def split(self) -> Split:
        """Give the rows that `held_out` asks for."""
        raise NotImplementedError

    def augment(self, key: Array, batch: Batch) -> Batch:
        """Change training sequences in a way that keeps their class; here, not at all."""
        return batch

    def stream(self, key: Array, batch_size: int) -> tuple[()]:
        """Sequences are independent: nothing is carried."""
        return ()

    def sample(self, key: Array, stream: tuple[()], batch_size: int) -> tuple[tuple[()], Batch]:
        """Draw rows of the training set, each with the same chance at every step."""
        row_key, augment_key = jax.random.split(key)
        every = _batch(self.split().train)
        index = jax.random.randint(row_key, (batch_size,), 0, every.x.shape[0])
        return stream, self.augment(augment_key, jax.tree.map(lambda part: part[index], every))

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean cross entropy in nats."""
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, batch.target))

    def evaluation(self, key: Array) -> Batch:
        """All rows held out; the key chooses nothing."""
        return _batch(self.split().held_out)

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """`accuracy`, and `nats`, the cross entropy."""
        right = jnp.argmax(outputs, axis=-1) == batch.target
        return {"accuracy": jnp.mean(right, dtype=jnp.float32), "nats": self.loss(outputs, batch)}

    def of_test(self, name: str) -> bool:
        """All metrics are of the rows that are held out."""
        return self.held_out == "test"


def require(module: str, package: str, part: str = "data come") -> str:
    """Give the folder of an installed package, without importing it.

    Args:
        module: what is imported.
        package: what is installed.
        part: of the task, that comes with it.

    Raises:
        MissingPackage: it is not installed; the message has the command that installs it.
    """
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise MissingPackage(
            f"this task's {part} with the package {package}, which is not installed; "
            f"install it with: pip install {package}"
        )
    return found.submodule_search_locations[0]


def logistic_regression(split: Split) -> float:
    """Fit scikit-learn's (C = 1) on all numbers of each training row side by side; give its accuracy held out.

    Its package is to be required with the data, so that it is not missed only when all is trained.
    """
    from sklearn.linear_model import LogisticRegression

    train, test = (part.x.reshape(len(part.label), -1) for part in split)
    return float(LogisticRegression(max_iter=1000).fit(train, split.train.label).score(test, split.held_out.label))


def _batch(rows: Labelled) -> Batch:
    """All rows as one batch."""
    lengths = None if rows.lengths is None else jnp.asarray(rows.lengths)
    return Batch(jnp.asarray(rows.x), jnp.asarray(rows.label), lengths)
