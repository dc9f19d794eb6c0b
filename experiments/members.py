"""What a sweep varies: the keys of a grid and of random draws, the members they make, and who trains with whom."""

import dataclasses
import itertools
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from experiments.config import Config, ConfigError, from_tables, to_tables

TABLES = ("task", "model", "optimizer", "train")  # [target] is what members are compared by, so no sweep varies it
SAMPLES = 10  # draws of --random unless --samples says another number
DIGITS = 4  # significant digits of a drawn float: what was drawn is what a config file says
COMMAS = re.compile(r",(?![^{\[]*[}\]])")  # those that stand in no inline table and no array


@dataclass(frozen=True)
class Grid:
    """`--grid KEY=VALUE,VALUE,...`: each of the values."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Random:
    """`--random KEY=LOW:HIGH[:log][:int]`: draws between the ends, both included."""

    key: str
    low: float
    high: float
    log: bool = False  # uniform in the logarithm
    whole: bool = False

    def draw(self, number: int, seed: int) -> list[Any]:
        """Draw values; those of a key depend on the seed and the key alone, whatever else is swept."""
        uniform = np.random.default_rng([seed, *self.key.encode()]).random(number)
        low, high = (self.low, self.high + 1.0) if self.whole else (self.low, self.high)
        if self.log:
            low, high = math.log(low), math.log(high)
        found = low + uniform * (high - low)
        found = np.exp(found) if self.log else found
        if self.whole:
            return [min(int(value), int(self.high)) for value in found]
        return [min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high) for value in found]


class Member(NamedTuple):
    """One config of a sweep. values: what it has of the swept keys."""

    name: str
    values: dict[str, Any]
    config: Config


def axes(grids: Sequence[str], randoms: Sequence[str]) -> list[Grid | Random]:
    """Read the arguments of `--grid` and `--random`.

    Raises:
        ConfigError: one cannot be read, is empty or upside down, or a key comes twice.

    Example:
        >>> axes(["model.units=8,16"], ["optimizer.learning_rate=1e-3:1e-1:log"])[0].values
        (8, 16)
    """
    found: list[Grid | Random] = [*map(_grid, grids), *map(_random, randoms)]
    if not found:
        raise ConfigError("command line: sweep needs a --grid KEY=VALUE,VALUE,... or a --random KEY=LOW:HIGH")
    keys = [axis.key for axis in found]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"command line: {key} is swept twice; give all of its values to one --grid or --random")
        if key.partition(".")[0] not in TABLES or not all(key.split(".")) or "." not in key:
            raise ConfigError(f"command line: a swept key must be TABLE.KEY of {', '.join(TABLES)}, got {key!r}")
    return found


def members(base: Config, swept: Sequence[Grid | Random], samples: int | None = None) -> list[Member]:
    """Make the configs of a sweep: every point of the grid with each of the draws, the same draws at every point.

    Args:
        base: the config that they differ from in the swept keys alone.
        swept: the keys.
        samples: how many draws, SAMPLES where None.

    Raises:
        ConfigError: a key does not exist, or a value is not allowed.
    """
    grids = [axis for axis in swept if isinstance(axis, Grid)]
    randoms = [axis for axis in swept if isinstance(axis, Random)]
    if samples is not None and not randoms:
        raise ConfigError("command line: --samples is the number of draws of --random, and there is none")
    number = (SAMPLES if samples is None else samples) if randoms else 1
    if number < 1:
        raise ConfigError(f"command line: --samples must be at least 1, got {number}")
    points = itertools.product(*(axis.values for axis in grids))
    draws = list(zip(*(axis.draw(number, base.train.seed) for axis in randoms), strict=True)) if randoms else [()]
    keys = [axis.key for axis in (*grids, *randoms)]
    every = [dict(zip(keys, (*point, *draw), strict=True)) for point in points for draw in draws]
    distinct = [values for n, values in enumerate(every) if values not in every[:n]]  # whole numbers come twice
    configs = [_changed(base, values) for values in distinct]
    width = len(str(len(configs)))
    pairs = enumerate(zip(distinct, configs, strict=True), 1)
    return [Member(f"{n:0{width}d}", values, config) for n, (values, config) in pairs]


def groups(found: Sequence[Member], together: int) -> list[list[Member]]:
    """Group members that one XLA program can train: their configs differ in numbers that it takes as inputs.

    Args:
        found: the members.
        together: at most so many models in a group, seeds counted; one member is never split.
    """
    alike: dict[str, list[Member]] = {}
    for member in found:
        alike.setdefault(json.dumps(to_tables(_without_inputs(member.config)), sort_keys=True), []).append(member)
    split = []
    for group in alike.values():
        size = max(together // group[0].config.train.seeds, 1)
        split += [group[start : start + size] for start in range(0, len(group), size)]
    return split


def text(value: Any) -> str:
    """Write a swept value for a reader."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {text(v)}" for k, v in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _without_inputs(config: Config) -> Config:
    """Put fixed values for what `together` takes as inputs, and for the seed: the rest is compiled in."""
    part = config.optimizer
    part = dataclasses.replace(part, learning_rate=1.0, clip=float(part.clip > 0), weight_decay=0.0)
    return dataclasses.replace(config, optimizer=part, train=dataclasses.replace(config.train, seed=0))


def _changed(base: Config, values: Mapping[str, Any]) -> Config:
    tables = json.loads(json.dumps(to_tables(base)))  # a copy at every depth
    for key, value in values.items():
        *path, last = key.split(".")
        table: Any = tables
        for name in path:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ConfigError(f"command line: cannot sweep {key}: {name} is no table, but {table!r}")
        table[last] = value
    shown = ", ".join(f"{key}={value}" for key, value in values.items())
    return from_tables(tables, f"command line: sweep {shown}")


def _grid(text: str) -> Grid:
    key, sign, listed = text.partition("=")
    if not sign or not listed.strip():
        raise ConfigError(f"command line: --grid must be KEY=VALUE,VALUE,..., got {text!r}")
    values = tuple(_value(part.strip()) for part in COMMAS.split(listed))
    if "" in values:
        raise ConfigError(f"command line: --grid {key} has an empty value, got {listed!r}")
    for n, value in enumerate(values):
        if value in values[:n]:
            raise ConfigError(f"command line: --grid {key} has {value!r} twice")
    return Grid(key.strip().replace("-", "_"), values)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a name, as in overrides


def _random(text: str) -> Random:
    key, sign, described = text.partition("=")
    low, *rest = described.split(":")
    flags = rest[1:]
    if not sign or not rest or not set(flags) <= {"log", "int"} or len(set(flags)) < len(flags):
        raise ConfigError(f"command line: --random must be KEY=LOW:HIGH[:log][:int], got {text!r}")
    try:
        ends = float(low), float(rest[0])
    except ValueError:
        raise ConfigError(f"command line: --random {key} must have numbers as ends, got {described!r}") from None
    log, whole = "log" in flags, "int" in flags
    if not all(map(math.isfinite, ends)) or ends[0] >= ends[1]:
        raise ConfigError(f"command line: --random {key} must go from LOW up to HIGH, got {low}:{rest[0]}")
    if log and ends[0] <= 0:
        raise ConfigError(f"command line: --random {key} must start above 0 for :log, got {low}")
    if whole and ends != (int(ends[0]), int(ends[1])):
        raise ConfigError(f"command line: --random {key} must have whole numbers as ends for :int, got {described!r}")
    return Random(key.strip().replace("-", "_"), *ends, log, whole)
