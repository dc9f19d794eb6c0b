"""The sequences of pairs (value, marker) that the adding and the multiplication problem of 1997 read.

One of the first ten pairs gets marker 1, then one of the first `length` / 2 - 1 pairs still unmarked; all others have
0, but the first and the last pair -1. Where a mark falls on the first pair, -1 stays there, and the value does not
count. The number of pairs is uniform in [length, 1.1 length].

Source: Hochreiter & Schmidhuber 1997, experiments 4 and 5.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

FIRST_MARK = 10  # the first mark falls among the first ten pairs


def marked_pairs(key: Array, batch_size: int, length: int, low: float, high: float) -> tuple[Array, Array]:
    """Draw sequences with values U[low, high]: x [B, 1.1 length, 2], lengths [B]."""
    value_key, first_key, second_key, length_key = jax.random.split(key, 4)
    value = jax.random.uniform(value_key, (batch_size, longest(length)), minval=low, maxval=high)
    first = jax.random.randint(first_key, (batch_size,), 0, FIRST_MARK)
    # The r-th of the pairs still unmarked lies one further on where the first mark comes before it.
    second = jax.random.randint(second_key, (batch_size,), 0, length // 2 - 1)
    second = second + (second >= first).astype(second.dtype)
    lengths = jax.random.randint(length_key, (batch_size,), length, longest(length) + 1)

    step = jnp.arange(longest(length))[None, :]
    marked = (step == first[:, None]) | (step == second[:, None])
    ends = (step == 0) | (step == lengths[:, None] - 1)
    marker = jnp.where(ends, -1.0, jnp.where(marked, 1.0, 0.0))
    x = jnp.stack([value, marker], axis=-1)
    return jnp.where((step < lengths[:, None])[:, :, None], x, 0.0), lengths


def counted(x: Array) -> Array:
    """Say which pairs the target is made of, [B, T] bool."""
    return x[:, :, 1] == 1.0


def uncounted(length: int) -> float:
    """The probability that a mark falls on the first pair, so that one value counts and not two (exact)."""
    return 1.0 / FIRST_MARK + (1.0 - 1.0 / FIRST_MARK) / (length // 2 - 1)


def longest(length: int) -> int:
    """The greatest number of pairs, 1.1 `length`."""
    return length + length // 10


def check_length(length: int) -> None:
    """Raise where the first mark could lie behind the places of the second."""
    if length < 2 * FIRST_MARK + 2:
        raise ValueError(f"length must be at least {2 * FIRST_MARK + 2}, got {length}")
