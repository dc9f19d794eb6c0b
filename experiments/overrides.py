"""Overrides on the command line: any key of a config, `--TABLE.KEY VALUE`, typed as its dataclass says."""

import contextlib
import dataclasses
import io
import re
import tomllib
from collections.abc import Sequence
from typing import Any

import tyro


class ConfigError(ValueError):
    """A config file or an override that cannot be used; the message is one line for the user."""


def applied(config: Any, arguments: Sequence[str]) -> Any:
    """Apply `["--train.steps", "200"]` and the like to a config.

    Raises:
        ConfigError: an argument that is none of its keys, or a value of another type.
    """
    rest, lstm = _lstm_overrides(arguments)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, lstm={**config.model.lstm, **lstm}))
    return _tyro(config, rest) if rest else config


def _lstm_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take `--model.lstm.KEY VALUE` out of the arguments: its keys are jlstm's, unknown to tyro."""
    prefix, rest, found = "--model.lstm.", [], {}
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if not argument.startswith(prefix):
            rest.append(argument)
            continue
        key, equals, text = argument.removeprefix(prefix).partition("=")
        if not equals:
            if not queue:
                raise ConfigError(f"command line: {argument} needs a value")
            text = queue.pop(0)
        try:
            found[key.replace("-", "_")] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[key.replace("-", "_")] = text  # a bare word is a name: --model.lstm.activation relu
    return rest, found


def _tyro(config: Any, arguments: Sequence[str]) -> Any:
    # The file has chosen the task, so tyro sees that task's fields, typed, and not a union of all.
    typed = dataclasses.make_dataclass(
        "Overrides",
        [
            ("task", type(config.task)),
            *((f.name, f.type) for f in dataclasses.fields(config) if f.name != "task"),
        ],
        frozen=True,
    )
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    result = _parsed(typed, arguments, default=typed(**values))
    return dataclasses.replace(config, **{name: getattr(result, name) for name in values})


def _parsed(cls: type, arguments: Sequence[str], default: Any) -> Any:
    """Parse by tyro; its boxed error becomes the one line of a ConfigError."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                cls,
                args=list(arguments),
                default=default,
                prog="python -m experiments train CONFIG",
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
                use_underscores=True,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        words = re.sub(r"[│╭╮╰╯─┌┐└┘|]+", " ", errors.getvalue()).split()
        raise ConfigError(f"command line: {' '.join(words)}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"command line: {' '.join(str(error).split())}") from error
