"""Activations, initializers, regularizers and constraints, by Keras's names and with Keras 3's numbers.

Each option of a layer takes a name ("l2"), a value of one of the frozen dataclasses below (L2(1e-4)), or a callable.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import nn

from jlstm import checks, initializers
from jlstm.initializers import INITIALIZERS

Array = jax.Array
Activation = str | Callable[[Array], Array]
Initializer = str | Callable[[Array, Sequence[int], Any], Array]  # (key, shape, dtype), as jax.nn.initializers
Regularizer = str | Callable[[Array], Array]
Constraint = str | Callable[[Array], Array]
Axis = int | tuple[int, ...]

EPSILON = 1e-7  # keras.config.epsilon(), in the constraints' quotients


# --- activations ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HardSigmoid:
    """clip(alpha x + beta, 0, 1). The defaults are those of Keras 2 and of ONNX; Keras 3 has alpha = 1/6."""

    alpha: float = 0.2
    beta: float = 0.5

    __post_init__ = checks.numbers_of

    def __call__(self, x: Array) -> Array:
        return jnp.clip(self.alpha * x + self.beta, 0, 1)


@dataclass(frozen=True)
class LeakyReLU:
    """x where positive, negative_slope · x elsewhere."""

    negative_slope: float = 0.2

    __post_init__ = checks.numbers_of

    def __call__(self, x: Array) -> Array:
        return nn.leaky_relu(x, self.negative_slope)


@dataclass(frozen=True)
class ELU:
    """x where positive, alpha (exp(x) - 1) elsewhere."""

    alpha: float = 1.0

    __post_init__ = checks.numbers_of

    def __call__(self, x: Array) -> Array:
        return nn.elu(x, self.alpha)


@dataclass(frozen=True)
class Affine:
    """alpha x + beta (ONNX's Affine)."""

    alpha: float = 1.0
    beta: float = 0.0

    __post_init__ = checks.numbers_of

    def __call__(self, x: Array) -> Array:
        return self.alpha * x + self.beta


@dataclass(frozen=True)
class ScaledTanh:
    """alpha tanh(beta x) (ONNX's ScaledTanh); LeCun's 1.7159 tanh(2x / 3) is one."""

    alpha: float = 1.0
    beta: float = 1.0

    __post_init__ = checks.numbers_of

    def __call__(self, x: Array) -> Array:
        return self.alpha * jnp.tanh(self.beta * x)


@dataclass(frozen=True)
class ThresholdedReLU:
    """x where it is at least theta, 0 elsewhere (ONNX's ThresholdedRelu)."""

    theta: float = 1.0

    __post_init__ = checks.numbers_of

    def __call__(self, x: Array) -> Array:
        return jnp.where(x >= self.theta, x, 0)


def _linear(x):
    return x


def _gelu(x):
    return nn.gelu(x, approximate=False)


def _soft_shrink(x):
    return jnp.where(x > 0.5, x - 0.5, jnp.where(x < -0.5, x + 0.5, 0))  # slope 0 at ±0.5, as Keras


def _hard_shrink(x):
    return jnp.where(jnp.abs(x) > 0.5, x, 0)


def _tanh_shrink(x):
    return x - jnp.tanh(x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
    "relu": nn.relu,
    "linear": _linear,
    "hard_sigmoid": nn.hard_sigmoid,  # relu6(x + 3) / 6: Keras 3
    "hard_sigmoid_keras2": HardSigmoid(),
    "softsign": nn.soft_sign,
    "elu": ELU(),
    "selu": nn.selu,
    "celu": nn.celu,
    "gelu": _gelu,
    "silu": nn.silu,
    "swish": nn.silu,
    "hard_silu": nn.hard_silu,
    "hard_swish": nn.hard_silu,
    "softplus": nn.softplus,
    "exponential": jnp.exp,
    "hard_tanh": nn.hard_tanh,
    "leaky_relu": LeakyReLU(),
    "relu6": nn.relu6,
    "mish": nn.mish,
    "log_sigmoid": nn.log_sigmoid,
    "sparse_plus": nn.sparse_plus,
    "sparse_sigmoid": nn.sparse_sigmoid,
    "squareplus": nn.squareplus,
    "soft_shrink": _soft_shrink,
    "hard_shrink": _hard_shrink,
    "tanh_shrink": _tanh_shrink,
    "softmax": nn.softmax,
    "log_softmax": nn.log_softmax,
}


# --- regularizers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class L1:
    """l1 · Σ|w|"""

    l1: float = 0.01

    def __post_init__(self):
        checks.numbers_of(self, "l1")

    def __call__(self, w: Array) -> Array:
        return self.l1 * jnp.sum(jnp.abs(w))


@dataclass(frozen=True)
class L2:
    """l2 · Σw²"""

    l2: float = 0.01

    def __post_init__(self):
        checks.numbers_of(self, "l2")

    def __call__(self, w: Array) -> Array:
        return self.l2 * jnp.sum(jnp.square(w))


@dataclass(frozen=True)
class L1L2:
    """l1 · Σ|w| + l2 · Σw²; the name "l1_l2" has both at 0, as Keras."""

    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self):
        checks.numbers_of(self, "l1", "l2")

    def __call__(self, w: Array) -> Array:
        return L1(self.l1)(w) + L2(self.l2)(w)


@dataclass(frozen=True)
class OrthogonalRegularizer:
    """factor · mean absolute cosine over the pairs of rows (or columns) of a matrix."""

    factor: float = 0.01
    mode: str = "rows"

    def __post_init__(self):
        checks.numbers_of(self)
        checks.one_of("OrthogonalRegularizer.mode", self.mode, ("rows", "columns"))

    def __call__(self, w: Array) -> Array:
        if w.ndim != 2:
            raise ValueError(f"OrthogonalRegularizer must be given a matrix, got shape {list(w.shape)}")
        rows = w if self.mode == "rows" else w.T
        # Keras's normalize: x · rsqrt(max(Σx², 1e-12)), which has a gradient at a row of zeros
        rows = rows * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(rows), axis=1, keepdims=True), 1e-12))
        n = rows.shape[0]
        cosines = (rows @ rows.T) * (1 - jnp.eye(n, dtype=w.dtype))
        return self.factor * 0.5 * jnp.sum(jnp.abs(cosines)) / max(n * (n - 1) / 2, 1)


REGULARIZERS: dict[str, Callable[[Array], Array]] = {
    "l1": L1(),
    "l2": L2(),
    "l1_l2": L1L2(),
    "l1l2": L1L2(),
    "orthogonal_regularizer": OrthogonalRegularizer(),
}


# --- constraints ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaxNorm:
    """Scale down what has a norm above max_value. axis=0: each column, the weights into one gate of one unit."""

    max_value: float = 2.0
    axis: Axis = 0

    def __post_init__(self):
        checks.numbers_of(self, "max_value")
        checks.axes_of(self)

    def __call__(self, w: Array) -> Array:
        norms = _norms(w, self.axis)
        return w * (jnp.clip(norms, 0, self.max_value) / (EPSILON + norms))


@dataclass(frozen=True)
class NonNeg:
    """Set what is negative to 0."""

    def __call__(self, w: Array) -> Array:
        return jnp.maximum(w, 0)


@dataclass(frozen=True)
class UnitNorm:
    """Scale to norm 1."""

    axis: Axis = 0

    def __post_init__(self):
        checks.axes_of(self)

    def __call__(self, w: Array) -> Array:
        return w / (EPSILON + _norms(w, self.axis))


@dataclass(frozen=True)
class MinMaxNorm:
    """Scale the norm into [min_value, max_value], the fraction `rate` of the way."""

    min_value: float = 0.0
    max_value: float = 1.0
    rate: float = 1.0
    axis: Axis = 0

    def __post_init__(self):
        checks.numbers_of(self, "min_value", "max_value")
        checks.axes_of(self)

    def __call__(self, w: Array) -> Array:
        norms = _norms(w, self.axis)
        desired = self.rate * jnp.clip(norms, self.min_value, self.max_value) + (1 - self.rate) * norms
        return w * (desired / (EPSILON + norms))


def _norms(w: Array, axis: Axis) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(w), axis=axis, keepdims=True))


CONSTRAINTS: dict[str, Callable[[Array], Array]] = {
    "max_norm": MaxNorm(),
    "non_neg": NonNeg(),
    "unit_norm": UnitNorm(),
    "min_max_norm": MinMaxNorm(),
}


# --- by name, by value, or callable --------------------------------------------------------------------------------

_ACTIVATION_CLASSES = (HardSigmoid, LeakyReLU, ELU, Affine, ScaledTanh, ThresholdedReLU)
_REGULARIZER_CLASSES = (L1, L2, L1L2, OrthogonalRegularizer)
_CONSTRAINT_CLASSES = (MaxNorm, NonNeg, UnitNorm, MinMaxNorm)

# What to_dict writes by class name and from_dict reads.
CLASSES: dict[str, type] = {
    c.__name__: c for c in _ACTIVATION_CLASSES + initializers.CLASSES + _REGULARIZER_CLASSES + _CONSTRAINT_CLASSES
}


def activation(name: str, value: Activation) -> Callable[[Array], Array]:
    """The function behind an activation option; `name` is what an error calls it."""
    return _shaped(name, _resolve(name, value, ACTIVATIONS, _ACTIVATION_CLASSES), lambda z: z.shape)


def initializer(name: str, value: Initializer) -> Callable[[Array, Sequence[int], Any], Array]:
    """The function behind an initializer option."""
    return _resolve(name, value, INITIALIZERS, initializers.CLASSES)


def regularizer(name: str, value: Regularizer) -> Callable[[Array], Array]:
    """The function behind a regularizer option."""
    return _shaped(name, _resolve(name, value, REGULARIZERS, _REGULARIZER_CLASSES), lambda w: ())


def constraint(name: str, value: Constraint) -> Callable[[Array], Array]:
    """The function behind a constraint option."""
    return _shaped(name, _resolve(name, value, CONSTRAINTS, _CONSTRAINT_CLASSES), lambda w: w.shape)


def _resolve(name: str, value: Any, table: dict[str, Any], classes: tuple[type, ...]) -> Any:
    if isinstance(value, str):
        if value not in table:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, table))} or a callable, got {value!r}")
        return table[value]
    if isinstance(value, type):  # calling a class would make an instance and take it for a result
        raise TypeError(
            f"{name} must be a name or a callable, got the class {value.__name__}: write {value.__name__}(...)"
        )
    if not callable(value):
        raise TypeError(f"{name} must be a name or a callable, got {checks.show(value)}")
    if isinstance(value, tuple(CLASSES.values())) and not isinstance(value, classes):
        allowed = ", ".join(c.__name__ for c in classes)
        raise TypeError(f"{name} must be a name, one of {allowed}, or a callable, got {checks.show(value)}")
    return value


def _shaped(name: str, function: Callable[[Array], Array], shape_of: Callable[[Array], tuple[int, ...]]):
    """The function, with a check that its result has the shape that it must have."""

    def checked(array):
        result = function(array)
        if jnp.shape(result) != shape_of(array):
            expected, got = list(shape_of(array)), list(jnp.shape(result))
            raise ValueError(f"{name} must return an array of shape {expected}, got {got}")
        return result

    return checked
