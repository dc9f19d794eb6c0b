"""Specs as text and as plain data: the call that makes them, and the dict that TOML and JSON hold."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jlstm import checks, named


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
            text = checks.written(value)
            arguments.append(f"{field.name}={text}" if field.kw_only else text)
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


def from_dict(data: Any, allowed: Sequence[type], inner: Sequence[type] = ()) -> Any:
    """Read what to_dict wrote.

    Args:
        data: the dict; its entry "name" says what it makes, and may be left out where one class alone is allowed.
        allowed: the classes that may come out.
        inner: the classes of specs that its fields may hold.

    Raises:
        TypeError: not a mapping, or a field holds a wrong type.
        ValueError: an unknown class or field, named with what is allowed; a field missing; a wrong value.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"a spec must be a mapping with an entry 'name', got {data!r}")
    by_name = {c.__name__: c for c in allowed}
    name = data.get("name", next(iter(by_name)) if len(by_name) == 1 else None)
    if not isinstance(name, str) or name not in by_name:
        raise ValueError(f"name must be one of {', '.join(map(repr, by_name))}, got {name!r}")
    fields = {f.name: f for f in dataclasses.fields(by_name[name])}
    for key in data:
        if key != "name" and key not in fields:
            raise ValueError(f"a field of {name} must be one of {', '.join(fields)}, got {key!r}")
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in data:
            raise ValueError(f"{key} must be given for {name}, got nothing")
    return by_name[name](**{key: _rich(data[key], field, inner) for key, field in fields.items() if key in data})


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


def _rich(value: Any, field: dataclasses.Field, inner: Sequence[type]) -> Any:
    if isinstance(value, Mapping):
        if dataclasses.is_dataclass(field.default):  # it can be but one thing
            return from_dict(value, (type(field.default),))
        return from_dict(value, (*inner, *named.CLASSES.values()), inner)
    if isinstance(value, (list, tuple)):
        return tuple(_rich(v, field, inner) for v in value)
    return value
