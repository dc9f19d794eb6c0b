"""Configs: frozen dataclasses, read from TOML and overridden from the command line.

Defaults live in the dataclasses only; a file is a diff against them, and a key that they lack is an error. A file
with `[[cases]]` is a comparison: each case is a name and a diff of any of the tables, with a target of its own.
"""

import dataclasses
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
import tyro

from experiments import overrides
from experiments.overrides import ConfigError
from experiments.tasks import TASKS

CASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # a case's name is its directory's


@dataclass(frozen=True)
class Model:
    """`[model]`: LSTM layers of one shape and a linear readout."""

    units: int = 32  # N, the width of every layer
    layers: int = 1  # stacked; each but the last returns sequences
    bidirectional: bool = False  # each layer reads both ways, outputs concatenated
    dropout: float = 0.0  # between layers, in training only
    readout: Literal["linear"] = "linear"
    # [model.lstm]: any of Keras's arguments by name, passed on to jlstm.LSTM as they are.
    lstm: Annotated[Mapping[str, Any], tyro.conf.Fixed] = field(default_factory=dict)

    def __post_init__(self):
        _positive(self, "units", "layers")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True)
class Optimizer:
    """`[optimizer]`: an optax optimizer behind clipping by global norm."""

    name: Literal["adam", "adamw", "nadam", "rmsprop", "sgd"] = "adam"
    learning_rate: float = 1e-3  # the peak of the schedule
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: falls to 0 at train.steps
    warmup: int = 0  # steps in which the rate rises from 0 to its peak, before the schedule begins
    clip: float = 1.0  # global norm of the gradient; 0 = off
    weight_decay: float = 0.0  # adamw only

    def __post_init__(self):
        if self.learning_rate <= 0 or self.clip < 0 or self.weight_decay < 0:
            raise ValueError("learning_rate must be above 0, clip and weight_decay at least 0")
        if self.warmup < 0:
            raise ValueError(f"warmup must be at least 0, got {self.warmup}")
        if self.weight_decay and self.name != "adamw":
            raise ValueError(f"weight_decay needs name = 'adamw', got name = {self.name!r}")


@dataclass(frozen=True)
class Train:
    """`[train]`: how long, how many, how often."""

    steps: int = 1000  # optimizer updates
    batch_size: int = 32  # sequences a step, for each seed
    seed: int = 0  # base from which the keys of all models come
    seeds: int = 1  # models, trained together by vmap
    stateful: bool = False  # the state after step k, gradient stopped, starts step k+1
    log_every: int = 10  # steps
    evaluate_every: int = 100  # steps
    checkpoint_every: int = 1000  # steps
    stop_after: int = 0  # evaluations in a row at which the target is met, then training ends; 0 = train all steps
    steps_per_call: int = 50  # steps a dispatch; changes speed, never numbers

    def __post_init__(self):
        _positive(
            self, "steps", "batch_size", "seeds", "log_every", "evaluate_every", "checkpoint_every",
            "steps_per_call",
        )  # fmt: skip
        if self.stop_after < 0:
            raise ValueError(f"stop_after must be at least 0, got {self.stop_after}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), got {self.seed}")


@dataclass(frozen=True)
class Target:
    """`[target]`: what `--check` holds a run to."""

    metric: str  # a name from the task's metrics (for each seed) or from its final figures
    value: float
    direction: Literal["below", "above"] = "below"
    seeds: float = 1.0  # share of the seeds that must meet it; 0: how many do is reported, and nothing is asked
    at_most: float | None = None  # for what should fail: share of the seeds that may meet it, `seeds` being moot
    max_sequences: int | None = None  # batch_size * steps at which each of them must have met it for good

    def __post_init__(self):
        if not 0.0 <= self.seeds <= 1.0:
            raise ValueError(f"seeds must be in [0, 1], got {self.seeds}")
        if self.at_most is not None and not 0.0 <= self.at_most < 1.0:
            raise ValueError(f"at_most must be in [0, 1), got {self.at_most}")
        if self.max_sequences is not None and self.max_sequences < 1:
            raise ValueError(f"max_sequences must be at least 1, got {self.max_sequences}")

    @property
    def asks(self) -> bool:
        """Whether anything is asked, or it is only reported how many seeds meet it."""
        return self.seeds > 0 or self.at_most is not None

    def meets(self, value: float) -> bool:
        """Say whether one value is on the right side."""
        return value < self.value if self.direction == "below" else value > self.value

    def reached(self, seeds: Sequence[bool]) -> bool:
        """Say whether enough of the seeds met it, or few enough where it should fail."""
        if self.at_most is not None:
            return sum(seeds) <= self.at_most * len(seeds) + 1e-9
        return sum(seeds) >= self.seeds * len(seeds) - 1e-9


@dataclass(frozen=True)
class Paper:
    """`[paper]`: what stands beside the measured figures in the table of results. It changes no number."""

    task: str = ""  # the row's title, a few words
    source: str = ""  # paper and experiment
    published: str = ""  # its figures, as cited
    note: str = ""  # what differs from the paper, or what was tried where the target is missed


@dataclass(frozen=True)
class Config:
    """One run, complete."""

    task: Any  # an instance of one of TASKS
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)
    target: Target | None = None
    paper: Paper | None = None

    def sequences(self, step: int) -> int:
        """Training sequences that one model has seen after `step` steps."""
        return step * self.train.batch_size


@dataclass(frozen=True)
class Experiment:
    """A config file: its name, and one config, or one for each case.

    header: the comment that the file opens with, for the report.
    """

    name: str
    base: Config
    cases: Mapping[str, Config] = field(default_factory=dict)
    header: str = ""


def load(path: str | Path, overrides: Sequence[str] = (), quick: bool = False) -> Experiment:
    """Read a config file and apply overrides such as `["--train.steps", "200"]` to it and to each of its cases.

    Args:
        path: the file.
        overrides: as on the command line.
        quick: take the version that `[quick]` describes: `cases` names the cases kept, the rest is a diff of any of
            the tables, applied to each of them.

    Raises:
        ConfigError: the file is missing or no TOML, a key or a value is not allowed, an override is wrong.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    cases = tables.pop("cases", [])
    smaller = tables.pop("quick", None)
    if quick and not isinstance(smaller, dict):
        raise ConfigError(f"{path}: no [quick] table, so there is no quick version of it")
    if cases and "target" in tables:
        raise ConfigError(f"{path}: [target] must stand in each of the [[cases]] (as [cases.target]), not beside them")
    if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        raise ConfigError(f"{path}: cases must be an array of tables, [[cases]]")
    base = override(from_tables(tables, str(path)), overrides, str(path))
    named: dict[str, Config] = {}
    for number, case in enumerate(cases, 1):
        name = case.pop("name", None)
        if not isinstance(name, str) or not CASE_NAME.fullmatch(name) or name in named:
            raise ConfigError(f"{path}: cases {number} must have a name of its own, of A-Z a-z 0-9 _ . -, got {name!r}")
        where = f"{path} (case {name})"
        named[name] = override(from_tables(_merged(tables, case), where), overrides, where)
    experiment = Experiment(_run_name(path), base, named, _header(text))
    return _smaller(experiment, dict(smaller or {}), path) if quick else experiment


def has_quick(path: Path) -> bool:
    """Say whether a config file has a quick version."""
    try:
        return "quick" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True  # load says what is wrong with it


def from_tables(tables: Mapping[str, Any], where: str) -> Config:
    """Build a config from the tables of a TOML file.

    Args:
        tables: what `tomllib` gives, without `cases`.
        where: the file's name, for messages.
    """
    parts = {"model": Model, "optimizer": Optimizer, "train": Train, "target": Target, "paper": Paper}
    for key, value in tables.items():
        if key != "task" and key not in parts:
            raise ConfigError(f"{where}: unknown table {key!r}; allowed: task, {', '.join(parts)}, cases, quick")
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {key} must be a table, got {value!r}")
    task = dict(tables.get("task", {}))
    name = task.pop("name", None)
    if not isinstance(name, str) or name not in TASKS:
        raise ConfigError(f"{where}: [task] name must be one of {', '.join(TASKS)}, got {name!r}")
    built = {key: _build(cls, tables[key], f"{where}: [{key}]") for key, cls in parts.items() if key in tables}
    config = Config(_build(TASKS[name], task, f"{where}: [task]", extra="name"), **built)
    check(config, where)
    return config


def override(config: Config, arguments: Sequence[str], where: str = "command line") -> Config:
    """Apply command-line overrides to a config; `--model.lstm.KEY VALUE` takes any TOML value.

    Example:
        >>> override(load("configs/adding.toml").base, ["--train.steps", "200"]).train.steps  # doctest: +SKIP
        200
    """
    if arguments:
        config = overrides.applied(config, arguments)
        check(config, where)
    return config


def check(config: Config, where: str) -> None:
    """Raise what can be known to be wrong before any array is made."""
    from experiments.model import layer  # here, since model.py needs the dataclasses above

    if config.task.every_step and (config.model.bidirectional or config.model.lstm.get("go_backwards")):
        raise ConfigError(f"{where}: [model]: bidirectional and go_backwards would read what the task has to predict")
    try:
        layer(config.model, every_step=config.task.every_step)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: [model]: {_line(error)}") from error


def to_tables(config: Config) -> dict[str, dict[str, Any]]:
    """Write a config as the tables of a TOML file, every default spelled out; None is left out."""
    names = {cls: name for name, cls in TASKS.items()}
    tables = {"task": {"name": names[type(config.task)], **_fields(config.task)}}
    for key in ("model", "optimizer", "train", "target", "paper"):
        if (part := getattr(config, key)) is not None:
            tables[key] = _fields(part)
    return tables


def to_toml(experiment: Experiment) -> str:
    """Write an experiment as TOML that `load` reads back to the same configs."""
    base = to_tables(experiment.base)
    cases = []
    for name, config in experiment.cases.items():
        tables = to_tables(config)
        changed = {t: {k: v for k, v in tables[t].items() if base.get(t, {}).get(k, ...) != v} for t in tables}
        cases.append({"name": name, **{t: table for t, table in changed.items() if table}})
    return tomli_w.dumps({**base, **({"cases": cases} if cases else {})})


def difference(old: Config, new: Config) -> list[str]:
    """Name the keys, as `table.key`, whose values differ; what is said of the paper is none of them."""
    old_tables, new_tables = to_tables(replace(old, paper=None)), to_tables(replace(new, paper=None))
    keys = [(t, k) for t in {**old_tables, **new_tables} for k in {**old_tables.get(t, {}), **new_tables.get(t, {})}]
    return [f"{t}.{k}" for t, k in keys if old_tables.get(t, {}).get(k) != new_tables.get(t, {}).get(k)]


def _smaller(experiment: Experiment, quick: dict[str, Any], path: Path) -> Experiment:
    """Keep the cases that `[quick]` names, and merge its diff into each of them."""
    names = quick.pop("cases", list(experiment.cases))
    for name in names:
        if name not in experiment.cases:
            raise ConfigError(f"{path}: [quick] cases must be among {', '.join(experiment.cases)}, got {name!r}")

    def smaller(config: Config, where: str) -> Config:
        return from_tables(_merged(to_tables(config), quick), where)

    cases = {name: smaller(experiment.cases[name], f"{path} ([quick], case {name})") for name in names}
    base = experiment.base if cases else smaller(experiment.base, f"{path} ([quick])")
    return replace(experiment, base=base, cases=cases)


def _positive(part: Any, *names: str) -> None:
    for name in names:
        if getattr(part, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(part, name)}")


def _run_name(path: Path) -> str:
    # A resolved config in a run directory is called config.toml: the run's name is the directory's.
    return path.resolve().parent.name if path.name == "config.toml" else path.stem


def _header(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].removeprefix(" "))
    return "\n".join(lines)


def _merged(tables: Mapping[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tables)
    for key, value in case.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("name", old.get("name")) != old.get("name"):
            old = None  # a table with another name is another thing: none of the old keys belong to it
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _fields(part: Any) -> dict[str, Any]:
    values = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}


def _build(cls: type, table: Mapping[str, Any], where: str, extra: str = "") -> Any:
    hints = typing.get_type_hints(cls)
    allowed = [f.name for f in dataclasses.fields(cls)]
    for key in table:
        if key not in allowed:
            names = ", ".join(sorted([*allowed, extra] if extra else allowed))
            raise ConfigError(f"{where} has no key {key!r}; allowed: {names}")
    missing = [f.name for f in dataclasses.fields(cls) if f.name not in table and _required(f)]
    if missing:
        raise ConfigError(f"{where} needs {', '.join(missing)}")
    values = {key: _convert(value, hints[key], f"{where} {key}") for key, value in table.items()}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} {_line(error)}") from error


def _required(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Check a TOML value against a field's type; an int may stand for a float, an array for a tuple."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{where} must be one of {', '.join(map(repr, arguments))}, got {value!r}")
    if origin in (types.UnionType, typing.Union):
        hints = [h for h in arguments if h is not type(None)]
        return _convert(value, hints[0], where) if len(hints) == 1 else value
    if origin is tuple and isinstance(value, list):
        inner = arguments[0]
        return tuple(_convert(v, inner, where) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, bool, str) and (type(value) is not hint):
        raise ConfigError(f"{where} must be {hint.__name__}, got {value!r}")
    if origin in (dict, Mapping) and not isinstance(value, dict):
        raise ConfigError(f"{where} must be a table, got {value!r}")
    return value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
