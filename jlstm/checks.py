"""Errors at the public edge: what, what was expected, what came. Every check runs at trace time.

One format throughout: `<name> must <be or have> <expected>, got <what came>`. A wrong type raises TypeError, a wrong
value or shape ValueError.
"""

import dataclasses
import math
import numbers
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jlstm.types import DropoutMasks, LSTMParams, LSTMState

_KINDS = {
    "floating": ("a real floating array", jnp.floating),
    "bool": ("a bool array", jnp.bool_),
    "integer": ("an integer array", jnp.integer),
}


def boolean(name: str, value: Any) -> None:
    """Require a Python bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {show(value)}")


def positive_int(name: str, value: Any) -> int:
    """Require an integer of at least 1 (a bool is no integer here), and return it as a Python int."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a positive integer, got {show(value)}")
    if value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value}")
    return int(value)


def number(name: str, value: Any, expected: str, ok: Callable[[float], bool]) -> float:
    """Require a real number for which `ok` holds, as `expected` says in words, and return it as a Python float."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {expected}, got {show(value)}")
    if not ok(float(value)):
        raise ValueError(f"{name} must be {expected}, got {value}")
    return float(value)


def numbers_of(value: Any, *at_least_0: str) -> None:
    """Require finite numbers in the float fields of a dataclass, those named at least 0, and make them Python's."""
    for field in dataclasses.fields(value):
        if field.type in (float, "float"):
            name, got = f"{type(value).__name__}.{field.name}", getattr(value, field.name)
            if field.name in at_least_0:
                got = number(name, got, "a finite number of at least 0", lambda v: 0 <= v < math.inf)
            else:
                got = number(name, got, "a finite number", math.isfinite)
            object.__setattr__(value, field.name, got)


def axes_of(value: Any) -> None:
    """Require an integer or a tuple of them in the field `axis` of a dataclass; a list becomes a tuple."""
    axis = tuple(value.axis) if isinstance(value.axis, list) else value.axis
    if not all(isinstance(a, int) and not isinstance(a, bool) for a in (axis if isinstance(axis, tuple) else (axis,))):
        raise TypeError(f"{type(value).__name__}.axis must be an integer or a tuple of integers, got {show(axis)}")
    object.__setattr__(value, "axis", axis)


def rate(name: str, value: Any) -> float:
    """Require a dropout rate; exactly 1 would drop everything, and Keras silently drops nothing then."""
    return number(name, value, "a number in [0, 1)", lambda v: 0 <= v < 1)


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Require one of a few values."""
    if not any(value is a or (type(value) is type(a) and value == a) for a in allowed):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {show(value)}")


def instance(name: str, value: Any, *types: type) -> None:
    """Require an instance of one of the types."""
    if not isinstance(value, types):
        raise TypeError(f"{name} must be {' or '.join(t.__name__ for t in types)}, got {show(value)}")


def array(name: str, value: Any, kind: str, shape: Sequence[int | str]) -> jax.Array:
    """Require an array of the kind and shape, and return it as a jax array.

    Args:
        name: what the message calls it.
        value: a jax or NumPy array (a tracer is one).
        kind: "floating", "bool" or "integer".
        shape: one entry an axis: its size, or a letter for any size.

    Raises:
        TypeError: not an array, or another dtype.
        ValueError: another shape.

    Example:
        >>> import numpy as np
        >>> array("x", np.zeros((32, 10, 4), "float32"), "floating", ("B", "T", 3))
        Traceback (most recent call last):
            ...
        ValueError: x must have shape [B, T, 3], got [32, 10, 4]
    """
    array_like(name, value, kind, shape)
    return jnp.asarray(value)


def array_like(name: str, value: Any, kind: str, shape: Sequence[int | str]) -> None:
    """Require what `array` does, and make nothing of it: NumPy's arrays may be larger than the device's memory."""
    words, dtype = _KINDS[kind]
    if not isinstance(value, (jax.Array, np.ndarray)):
        raise TypeError(f"{name} must be {words} of shape {_dims(shape)}, got {show(value)}")
    if not jnp.issubdtype(value.dtype, dtype):
        raise TypeError(f"{name} must be {words}, got {value.dtype}")
    if len(value.shape) != len(shape) or any(
        not isinstance(expected, str) and expected != got for expected, got in zip(shape, value.shape, strict=True)
    ):
        raise ValueError(f"{name} must have shape {_dims(shape)}, got {_dims(value.shape)}")


def params(value: Any, D: int | str, N: int, P: int, *, use_bias: bool, variant: Any, name: str = "params") -> None:
    """Require LSTMParams of the sizes that the configuration asks for, each part present exactly where it does."""
    instance(name, value, LSTMParams)
    array_like(f"{name}.kernel", value.kernel, "floating", (D, 4 * N))
    array_like(f"{name}.recurrent_kernel", value.recurrent_kernel, "floating", (P, 4 * N))
    parts = (
        ("bias", (4 * N,), use_bias, "use_bias=True"),
        ("peephole", (3, N), variant.peephole, "Variant(peephole=True)"),
        ("projection", (N, P), variant.projection is not None, "Variant(projection=P)"),
    )
    for part, shape, wanted, option in parts:
        if wanted:
            array_like(f"{name}.{part}", getattr(value, part), "floating", shape)
        elif getattr(value, part) is not None:
            raise ValueError(f"{name}.{part} must be None without {option}, got {show(getattr(value, part))}")


def sizes(value: Any, variant: Any) -> tuple[int, int, int]:
    """Require LSTMParams that fit together and the variant, and return their D, N, P."""
    instance("params", value, LSTMParams)
    D, columns = array("params.kernel", value.kernel, "floating", ("D", "4N")).shape
    if columns % 4:
        raise ValueError(f"params.kernel must have shape [D, 4N], got {_dims(value.kernel.shape)}")
    N = columns // 4
    P = variant.projection or N
    params(value, D, N, P, use_bias=value.bias is not None, variant=variant)
    return D, N, P


def dropout_masks(value: Any, D: int, P: int) -> None:
    """Require DropoutMasks for one example: input [D] or [4, D], recurrent [4, P], either None."""
    instance("dropout_masks", value, DropoutMasks)
    if value.input is not None:
        one_for_all = len(getattr(value.input, "shape", ())) == 1
        array("dropout_masks.input", value.input, "floating", (D,) if one_for_all else (4, D))
    if value.recurrent is not None:
        array("dropout_masks.recurrent", value.recurrent, "floating", (4, P))


def state(value: Any, batch: Sequence[int | str], N: int, P: int, *, name: str = "state") -> LSTMState:
    """Require an LSTMState whose h is [*batch, P] and whose c is [*batch, N], and return it as jax arrays."""
    instance(name, value, LSTMState)
    h = array(f"{name}.h", value.h, "floating", (*batch, P))
    return LSTMState(h=h, c=array(f"{name}.c", value.c, "floating", (*batch, N)))


def sequence_inputs(x: Any, D: int, mask: Any, lengths: Any, dtype: str | None) -> tuple[jax.Array, jax.Array | None]:
    """Require x [B, T, D] and at most one of mask [B, T] and lengths [B]; return x in its dtype, and the mask.

    Lengths outside of [0, T] raise where they are NumPy's; on a device nobody looks, and they act as 0 or T.
    """
    x = computed_in(array("x", x, "floating", ("B", "T", D)), dtype)
    B, T, _ = x.shape
    if lengths is not None:
        if mask is not None:
            raise ValueError("mask must be None together with lengths, got both")
        on_host = isinstance(lengths, np.ndarray) and isinstance(T, int) and lengths.size
        given, lengths = lengths, array("lengths", lengths, "integer", (B,))
        if on_host and not (given.min() >= 0 and given.max() <= T):
            raise ValueError(f"lengths must be in [0, {T}], got {given.min()} to {given.max()}")
        mask = jnp.arange(T)[None, :] < lengths[:, None].astype(jnp.int32)
    elif mask is not None:
        mask = array("mask", mask, "bool", (B, T))
    return x, mask


def computed_in(x: jax.Array, dtype: str | None) -> jax.Array:
    """Cast x to the dtype of the computation; None keeps its own."""
    if dtype is None:
        return x
    enabled_dtype("dtype", dtype)
    return x.astype(dtype)


def size(name: str, value: Any) -> None:
    """Require a size of an axis: an integer of at least 0, or a symbolic dimension."""
    if isinstance(value, (bool, np.bool_)) or not (
        isinstance(value, numbers.Integral) or jax.export.is_symbolic_dim(value)
    ):
        raise TypeError(f"{name} must be an integer of at least 0, got {show(value)}")
    if isinstance(value, numbers.Integral) and value < 0:
        raise ValueError(f"{name} must be an integer of at least 0, got {value}")


def key(value: Any, *, optional: bool = True) -> None:
    """Require one jax.random key, of the new style or the old."""
    ok = isinstance(value, (jax.Array, np.ndarray)) and (
        (jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ())
        or (value.dtype == jnp.uint32 and len(value.shape) == 1)
    )
    if not ok:
        raise TypeError(f"key must be one jax.random.key{' or None' if optional else ''}, got {show(value)}")


def unroll(value: Any) -> bool | int:
    """Require a number of steps, or a bool; 1 is False, so that specs that mean the same are equal."""
    if isinstance(value, bool):
        return value
    return False if positive_int("unroll", value) == 1 else int(value)


def known_steps(name: str, value: Any, T: Any) -> None:
    """Require a concrete number of time steps for an option that cuts them into pieces."""
    if value not in (None, False, 1) and not isinstance(T, int):
        raise ValueError(f"{name} must be left out where the number of time steps is symbolic, got {value}")


def float_dtype(name: str, value: Any) -> str:
    """Require one of the four floating dtypes that an LSTM computes in, and return its name."""
    allowed = ("float16", "bfloat16", "float32", "float64")
    try:
        dtype = None if value is None else jnp.dtype(value).name  # NumPy takes None for float64
    except TypeError:
        dtype = None
    if dtype not in allowed:
        raise TypeError(f"{name} must be one of the dtypes {', '.join(allowed)}, got {show(value)}")
    return dtype


def enabled_dtype(name: str, dtype: str) -> None:
    """Require that arrays of this dtype can exist: float64 needs JAX's 64-bit mode."""
    if jax.dtypes.canonicalize_dtype(dtype).name != dtype:
        raise ValueError(f"{name} must be at most 32 bits wide unless jax_enable_x64 is on, got {dtype}")


def show(value: Any) -> str:
    """What came, in few words: arrays by dtype and shape, functions by name, the rest by repr, or type if long."""
    if isinstance(value, (jax.Array, np.ndarray)):
        return f"{value.dtype}{_dims(value.shape)}"
    text = written(value)
    return text if len(text) <= 40 else type(value).__name__


def written(value: Any) -> str:
    """Write a value as repr does, but a function by its name, and nothing by its address, which no two runs share."""
    name = getattr(value, "__name__", None)
    if callable(value) and isinstance(name, str) and not isinstance(value, type):
        return name
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _dims(shape: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, shape))}]"
