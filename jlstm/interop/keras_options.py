"""Options of Keras's layers that have names or values, both ways: activations, initializers, regularizers, dtypes."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from jlstm import initializers, named
from jlstm.interop.layout import cannot_express

# By the last word of an option's name: Keras's names that jlstm knows, and the classes that both have.
KINDS: dict[str, tuple[Mapping[str, Any], tuple[type, ...]]] = {
    "activation": (named.ACTIVATIONS, (named.LeakyReLU, named.ELU)),
    "initializer": (initializers.INITIALIZERS, initializers.CLASSES),
    "regularizer": (named.REGULARIZERS, (named.L1, named.L2, named.L1L2, named.OrthogonalRegularizer)),
    "constraint": (named.CONSTRAINTS, (named.MaxNorm, named.NonNeg, named.UnitNorm, named.MinMaxNorm)),
}
_MODULES = {"activation": "layers", "initializer": "initializers", "regularizer": "regularizers"}
_MODULES["constraint"] = "constraints"
_MIXED = {"mixed_float16": ("float16", "float32"), "mixed_bfloat16": ("bfloat16", "float32")}
_FLOATS = ("float16", "bfloat16", "float32", "float64")


def option_names(spec: type) -> list[str]:
    """The fields of a spec that hold such an option."""
    return [f.name for f in dataclasses.fields(spec) if f.name.rpartition("_")[2] in KINDS]


def from_keras(option: str, value: Any, custom_objects: Mapping[str, Any], compute_dtype: str) -> Any:
    """Read an option as Keras writes it down.

    Args:
        option: the name of the field, such as "bias_initializer".
        value: a name, or a mapping with class_name and config.
        custom_objects: jlstm's counterparts of what Keras does not know by itself, by name.
        compute_dtype: of the layer.

    Returns:
        The name, where the value is that of a name, or a value of jlstm's class.

    Example:
        >>> from_keras("bias_initializer", {"class_name": "Constant", "config": {"value": 0.5}}, {}, "float32")
        Constant(value=0.5)
    """
    if value is None:
        return None
    table, classes = KINDS[option.rpartition("_")[2]]
    if isinstance(value, str):
        if value in custom_objects:
            return custom_objects[value]
        name = _our_name(value)
        return name if name in table else value  # what it does not know, LSTM refuses with the names that it knows
    value = value if isinstance(value, Mapping) else {}
    kind, config = value.get("class_name"), value.get("config")
    if isinstance(kind, str) and isinstance(config, Mapping) and _of_keras(value):
        made = _counterpart(kind, dict(config), table, classes, compute_dtype)
        if made is not None:
            return made
    # A function is registered as "function", and its config is its name; the rest is registered under its own.
    written = [key for key in (value.get("registered_name"), kind, config) if isinstance(key, str)]
    names = [name for key in written for name in (key, key.rpartition(">")[2])]
    for name in names:
        if name in custom_objects:
            return custom_objects[name]
    name = names[-1] if names else "a function without a name"
    custom = "the custom function " if kind == "function" else ""
    raise ValueError(
        f"{option} must be one that jlstm has, got {custom}{name}: give its counterpart in custom_objects, under this "
        "name"
    )


def to_keras(keras: Any, target: str, option: str, value: Any) -> Any:
    """Write an option as Keras's layers take it.

    Args:
        keras: the module.
        target: what the error calls that which is made.
        option: the name of the field.
        value: what the field holds.
    """
    kind = option.rpartition("_")[2]
    table, classes = KINDS[kind]
    if value is None:
        return None
    if value == "constant":  # the one that Keras has no default for, and so no name
        value = table[value]
    if isinstance(value, str) and value != "hard_sigmoid_keras2":
        return "l1l2" if value == "l1_l2" else value
    if isinstance(value, initializers.TorchUniform):
        limit = 1 / value.units**0.5
        return keras.initializers.RandomUniform(-limit, limit)
    for known in classes:
        if isinstance(value, known) and known is not initializers.Chrono:
            arguments = {f.name: getattr(value, f.name) for f in dataclasses.fields(known)}
            return getattr(getattr(keras, _MODULES[kind]), known.__name__)(**arguments)
    raise cannot_express(target, option, value, "a name or a value that Keras has")


def dtypes(policy: Any) -> tuple[str, str]:
    """The dtypes of the computation and of the weights, from a dtype policy as Keras writes it down."""
    name = policy
    if isinstance(policy, Mapping):
        plain = policy.get("class_name") in ("DTypePolicy", "FloatDTypePolicy")
        name = (policy.get("config") or {}).get("name") if plain else policy.get("class_name")
    if name is None:
        name = "float32"  # Keras's own default
    compute, variable = _MIXED.get(name, (name, name)) if isinstance(name, str) else ("", "")
    if compute not in _FLOATS:
        raise ValueError(f"dtype must be a floating dtype, mixed_float16 or mixed_bfloat16, got {name!r:.60}")
    return compute, variable


def policy(target: str, compute: str | None, variable: str) -> str:
    """Name the dtype policy that computes in one dtype and keeps the weights in another."""
    if compute in (None, variable):
        return variable
    for name, pair in _MIXED.items():
        if pair == (compute, variable):
            return name
    raise cannot_express(target, "dtype", compute, f"None or {variable}, or 16 bits wide with float32 weights")


def made_of(make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call with what a configuration holds; a wrong type in there is a wrong value: a ValueError."""
    try:
        return make(*arguments, **options)
    except TypeError as error:
        raise ValueError(str(error)) from error


def snake_case(name: str) -> str:
    """A class name in snake case, as Keras has it.

    Example:
        >>> [snake_case(name) for name in ("LSTMCell", "GlorotUniform", "L1L2")]
        ['lstm_cell', 'glorot_uniform', 'l1l2']
    """
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def _counterpart(kind: str, config: dict[str, Any], table: Any, classes: tuple[type, ...], dtype: str) -> Any:
    """jlstm's value or name for a class of Keras, or None."""
    if issubclass(classes[0], named.LeakyReLU):  # an activation that is a layer
        if dtypes(config.pop("dtype", dtype))[0] != dtype:
            return None
        for key in ("name", "trainable"):
            config.pop(key, None)
    config.pop("seed", None)  # the key of init
    for key in ("input_axes", "output_axes"):
        if config.get(key) is None:
            config.pop(key, None)
    name = _our_name(kind)
    for known in classes:
        if known.__name__ == kind and set(config) <= {f.name for f in dataclasses.fields(known)}:
            made = made_of(known, **config)
            return name if made == table.get(name) else made
    return name if name in table and not config else None


def _our_name(name: str) -> str:
    name = snake_case(name)
    return "leaky_relu" if name == "leaky_re_lu" else name


def _of_keras(value: Mapping[str, Any]) -> bool:
    kind, registered = value.get("class_name"), value.get("registered_name")
    return registered in (None, kind) and str(value.get("module", "keras")).split(".")[0] == "keras"
