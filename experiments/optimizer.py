"""The optimizer that `[optimizer]` describes, from optax."""

import functools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import jax
import optax

from experiments.config import Config


def optimizer(config: Config, inputs: Mapping[str, jax.Array] | None = None) -> optax.GradientTransformation:
    """Build the optimizer that `[optimizer]` describes; inputs stand for its numbers of the same names."""
    part: Any = SimpleNamespace(**{**vars(config.optimizer), **(inputs or {})})
    rate = part.learning_rate
    if part.schedule == "cosine":
        rate = optax.cosine_decay_schedule(rate, max(config.train.steps - part.warmup, 1))
    if part.warmup:
        after: Any = rate if callable(rate) else optax.constant_schedule(rate)
        rising = optax.linear_schedule(0.0, part.learning_rate, part.warmup)
        rate = optax.join_schedules([rising, after], [part.warmup])
    make: dict[str, Callable[..., optax.GradientTransformation]] = {
        "adam": optax.adam,
        "adamw": functools.partial(optax.adamw, weight_decay=part.weight_decay),
        "nadam": optax.nadam,
        "rmsprop": optax.rmsprop,
        "sgd": optax.sgd,
    }
    inner = make[part.name](rate)
    return optax.chain(optax.clip_by_global_norm(part.clip), inner) if config.optimizer.clip else inner
