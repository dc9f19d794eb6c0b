"""Initializers by Keras's names and with Keras 3's distributions, and those of torch and of chrono initialisation."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import nn

from jlstm import checks
from jlstm.types import wider_dtype

Array = jax.Array


@dataclass(frozen=True)
class Zeros:
    """All zeros."""

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any) -> Array:
        return jnp.zeros(shape, dtype)


@dataclass(frozen=True)
class Ones:
    """All ones."""

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any) -> Array:
        return jnp.ones(shape, dtype)


@dataclass(frozen=True)
class Constant:
    """One value everywhere."""

    value: float = 0.0

    __post_init__ = checks.numbers_of

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any) -> Array:
        return jnp.full(shape, self.value, dtype)


@dataclass(frozen=True)
class RandomNormal:
    """Normal, not truncated."""

    mean: float = 0.0
    stddev: float = 0.05

    def __post_init__(self):
        checks.numbers_of(self, "stddev")

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any) -> Array:
        return self.mean + self.stddev * jax.random.normal(key, shape, dtype)


@dataclass(frozen=True)
class TruncatedNormal:
    """Normal, truncated at two standard deviations (of the distribution before truncation)."""

    mean: float = 0.0
    stddev: float = 0.05

    def __post_init__(self):
        checks.numbers_of(self, "stddev")

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any) -> Array:
        return self.mean + self.stddev * jax.random.truncated_normal(key, -2, 2, shape, dtype)


@dataclass(frozen=True)
class RandomUniform:
    """Uniform between minval and maxval."""

    minval: float = -0.05
    maxval: float = 0.05

    __post_init__ = checks.numbers_of

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, self.minval, self.maxval)


@dataclass(frozen=True)
class TorchUniform:
    """U(-1/√units, 1/√units), which torch.nn.LSTM draws every tensor from.

    For torch's numbers give it to kernel, recurrent and bias initializer, with unit_forget_bias=False. torch has two
    biases that are added together; this draws one.
    """

    units: int

    def __post_init__(self):
        object.__setattr__(self, "units", checks.positive_int("TorchUniform.units", self.units))

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any) -> Array:
        limit = 1 / math.sqrt(self.units)
        return jax.random.uniform(key, shape, dtype, -limit, limit)


@dataclass(frozen=True)
class VarianceScaling:
    """Variance scale / n, where n is the fan in, the fan out or their mean; a vector is its own fan in and out."""

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"

    def __post_init__(self):
        checks.numbers_of(self)
        checks.number("VarianceScaling.scale", self.scale, "a number above 0", lambda v: v > 0)
        checks.one_of("VarianceScaling.mode", self.mode, ("fan_in", "fan_out", "fan_avg"))
        distributions = ("truncated_normal", "untruncated_normal", "uniform")
        checks.one_of("VarianceScaling.distribution", self.distribution, distributions)

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any) -> Array:
        fan_in, fan_out = shape[0], shape[-1]
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1, n)
        if self.distribution == "uniform":
            limit = math.sqrt(3 * variance)
            return jax.random.uniform(key, shape, dtype, -limit, limit)
        if self.distribution == "untruncated_normal":
            return math.sqrt(variance) * jax.random.normal(key, shape, dtype)
        # 0.8796...: standard deviation of the unit normal truncated at ±2, so that the variance comes out right
        stddev = math.sqrt(variance) / 0.87962566103423978
        return stddev * jax.random.truncated_normal(key, -2, 2, shape, dtype)


@dataclass(frozen=True)
class Orthogonal:
    """A matrix whose rows (or columns, where there are more rows than columns) are orthonormal, times gain."""

    gain: float = 1.0

    __post_init__ = checks.numbers_of

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any) -> Array:
        if len(shape) != 2:
            raise ValueError(f"Orthogonal must initialise a matrix, got shape [{', '.join(map(str, shape))}]")
        wide = wider_dtype(dtype, "float32")  # QR exists from float32 on
        return nn.initializers.orthogonal(self.gain)(key, shape, wide).astype(dtype)


@dataclass(frozen=True)
class Identity:
    """gain times the identity matrix, padded with zeros."""

    gain: float = 1.0

    __post_init__ = checks.numbers_of

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any) -> Array:
        if len(shape) != 2:
            raise ValueError(f"Identity must initialise a matrix, got shape [{', '.join(map(str, shape))}]")
        return self.gain * jnp.eye(*shape, dtype=dtype)


@dataclass(frozen=True)
class Chrono:
    """Bias initializer for dependencies of up to max_steps steps: forget bias log U[1, max_steps - 1], input bias its
    negative, the rest zeros.

    It sets the forget slice itself, so unit_forget_bias does not apply.

    Source: Tallec & Ollivier 2018, "Can recurrent neural networks warp time?", section 3.
    """

    max_steps: int

    def __post_init__(self):
        object.__setattr__(self, "max_steps", checks.positive_int("Chrono.max_steps", self.max_steps))
        if self.max_steps < 3:
            raise ValueError(f"Chrono.max_steps must be at least 3, got {self.max_steps}")

    def __call__(self, key: Array, shape: Sequence[int], dtype: Any) -> Array:
        if len(shape) != 1 or shape[0] % 4:
            raise ValueError(f"Chrono must initialise a bias [4N], got shape [{', '.join(map(str, shape))}]")
        units = shape[0] // 4
        wide = wider_dtype(dtype, "float32")  # 16 bits hold neither many steps nor many values
        forget = jnp.log(jax.random.uniform(key, (units,), wide, 1, self.max_steps - 1)).astype(dtype)
        return jnp.concatenate([-forget, forget, jnp.zeros(2 * units, dtype)])


INITIALIZERS: dict[str, Callable[[Array, Sequence[int], Any], Array]] = {
    "zeros": Zeros(),
    "ones": Ones(),
    "constant": Constant(),
    "random_normal": RandomNormal(),
    "random_uniform": RandomUniform(),
    "truncated_normal": TruncatedNormal(),
    "glorot_uniform": VarianceScaling(1.0, "fan_avg", "uniform"),
    "glorot_normal": VarianceScaling(1.0, "fan_avg", "truncated_normal"),
    "he_uniform": VarianceScaling(2.0, "fan_in", "uniform"),
    "he_normal": VarianceScaling(2.0, "fan_in", "truncated_normal"),
    "lecun_uniform": VarianceScaling(1.0, "fan_in", "uniform"),
    "lecun_normal": VarianceScaling(1.0, "fan_in", "truncated_normal"),
    "variance_scaling": VarianceScaling(),
    "orthogonal": Orthogonal(),
    "identity": Identity(),
    # Keras's other names for the same
    "zero": Zeros(),
    "one": Ones(),
    "normal": RandomNormal(),
    "uniform": RandomUniform(),
}

CLASSES = (
    *(Zeros, Ones, Constant, RandomNormal, TruncatedNormal, RandomUniform),
    *(TorchUniform, VarianceScaling, Orthogonal, Identity, Chrono),
)
