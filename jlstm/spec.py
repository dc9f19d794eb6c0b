"""Specs as text and as plain data: the call that makes them, and the dict that TOML and JSON hold."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from jlstm import named


def call_repr(self: Any) -> str:
    """Write the call that makes a frozen dataclass: only what differs from its defaults.

    Example:
        >>> import jlstm
        >>> jlstm.LSTM(units=3, go_backwards=True, kernel_regularizer=jlstm.L2(0.5))
        LSTM(3, kernel_regularizer=L2(l2=0.5), go_backwards=True)
    """
    arguments = []
    for field in dataclasses.fields(self):
        value = getattr(self, field.name)
        if not _is_default(field, value):
            arguments.append(f"{field.name}={value!r}" if field.kw_only else repr(value))
    return f"{type(self).__name__}({', '.join(arguments)})"


def to_dict(spec: Any) -> dict[str, Any]:
    """Write a spec as plain types; a field that is None is left out, since TOML has no None.

    Raises:
        TypeError: a field holds a callable that is none of jlstm's own, which no file can hold.
    """
    fields = {
        f.name: _plain(f"{type(spec).__name__}.{f.name}", getattr(spec, f.name)) for f in dataclasses.fields(spec)
    }
    return {"name": type(spec).__name__} | {name: value for name, value in fields.items() if value is not None}


def from_dict(data: Mapping[str, Any], classes: Mapping[str, type]) -> Any:
    """Read what to_dict wrote.

    Args:
        data: the dict; its entry "name" says what it makes.
        classes: the classes that may come out, by name.

    Raises:
        ValueError: an unknown class or field, named with what is allowed.
    """
    check_name(data, classes.values())
    name = data["name"]
    cls = classes[name]
    fields = [f.name for f in dataclasses.fields(cls)]
    arguments = {key: value for key, value in data.items() if key != "name"}
    for key in arguments:
        if key not in fields:
            raise ValueError(f"a field of {name} must be one of {', '.join(fields)}, got {key!r}")
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING and field.name not in arguments:
            raise ValueError(f"{field.name} must be given for {name}, got nothing")
    return cls(**{key: _rich(value, classes) for key, value in arguments.items()})


def check_name(data: Any, classes: Iterable[type]) -> None:
    """Require a mapping whose entry "name" is that of one of the classes."""
    name = data.get("name") if isinstance(data, Mapping) else data
    names = [c.__name__ for c in classes]
    if not isinstance(data, Mapping) or name not in names:
        raise ValueError(f"name must be one of {', '.join(map(repr, names))}, got {name!r}")


def _is_default(field: dataclasses.Field, value: Any) -> bool:
    return type(value) is type(field.default) and value == field.default


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, tuple):
        return [_plain(name, v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    raise TypeError(f"{name} must be a name or a value of one of jlstm's classes to be written down, got {value!r}")


def _rich(value: Any, classes: Mapping[str, type]) -> Any:
    if isinstance(value, Mapping):
        return from_dict(value, {**classes, **named.CLASSES})
    if isinstance(value, (list, tuple)):
        return tuple(_rich(v, classes) for v in value)
    return value
