"""The papers' tables, ours beside them: every row is a config, trained once, its figures kept in docs/results.

docs/results/ROW.json holds what a row's training showed, with its config, command, commit and versions. A row whose
file is there, for the very config that stands in configs/, is not trained again. A row that was stopped goes on
from its last checkpoint, in runs/reproduce/ROW.
"""

import contextlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import cases, rundir, tables
from experiments.config import ConfigError, Experiment, has_quick, load, to_tables
from experiments.rundir import RunError
from experiments.tables import Row
from experiments.tasks.datasets import MissingPackage

ROOT = Path(__file__).parent.parent
CONFIGS, RESULTS, RUNS = ROOT / "configs", ROOT / "docs" / "results", ROOT / "runs"
ROWS = (
    "embedded_reber", "time_lag_2a", "time_lag_2b", "long_lag", "two_sequence", "adding", "adding_unit",
    "multiplication", "temporal_order", "continual_reber", "counting", "timing", "copy", "stateful_average", "parity",
    "lag", "number_addition", "sunspots", "digits", "japanese_vowels", "characters", "mnist1d",
)  # fmt: skip


def reproduce(rows: Sequence[str], console: Console, *, quick: bool = False, fresh: bool = False) -> tuple[int, int]:
    """Train the rows that have no result, then print and save the table of all.

    Args:
        rows: names among ROWS.
        console: where progress and the table go.
        quick: train the smaller version of each row that has one, anew, and make the table of these alone, in
            runs/quick.
        fresh: train rows again that have a result.

    Returns:
        (failed, missed): how many of these rows could not be trained, and how many missed a target.

    Raises:
        ConfigError: a config is wrong; nothing has been trained.
    """
    if quick:
        rows = [name for name in rows if has_quick(CONFIGS / f"{name}.toml")]
        if not rows:
            raise ConfigError("command line: none of these --rows has a [quick] version")
    names = rows if quick else ROWS
    experiments = {name: load(CONFIGS / f"{name}.toml", quick=quick) for name in names}
    table = {name: Row(e, None if quick else saved(name, e)) for name, e in experiments.items()}
    todo = [name for name in rows if fresh or table[name].result is None]
    failed = {}
    for name in todo:  # all of them before the first is trained
        try:
            cases.check(table[name].experiment, str(CONFIGS / f"{name}.toml"))
        except MissingPackage as error:
            failed[name] = str(error)
    for number, name in enumerate(todo, 1):
        if name in failed:
            continue
        console.rule(f"{name} ({number} of {len(todo)})")
        if fresh:  # so that a row which is killed now is missing, and goes on
            (RESULTS / f"{name}.json").unlink(missing_ok=True)
        try:
            result = _train(name, table[name].experiment, console, quick, fresh)
        except (RunError, MissingPackage) as error:
            failed[name] = str(error)
            continue
        table[name] = table[name]._replace(result=result)
        if not quick:
            RESULTS.mkdir(exist_ok=True)
            rundir.write(RESULTS / f"{name}.json", json.dumps(result, indent=1) + "\n")
    stem = RUNS / "quick" / "results" if quick else RESULTS
    stem.parent.mkdir(parents=True, exist_ok=True)
    tables.save(table, stem, quick)
    console.print(tables.table(table))
    for name, reason in failed.items():
        console.print(f"{name}: not run: {reason}", style="bold red", highlight=False, soft_wrap=True)
    console.print(f"saved: {stem}.html, .md, .json", highlight=False, soft_wrap=True)
    missed = [name for name in rows if name not in failed and not tables.met(table[name])]
    return len(failed), len(missed)


def describe(experiment: Experiment) -> dict[str, Any]:
    """Write what decides an experiment's figures, as plain tables by case: its configs, without the papers' words."""
    configs = experiment.cases or {"": experiment.base}
    return {case: to_tables(replace(config, paper=None)) for case, config in configs.items()}


def _train(name: str, experiment: Experiment, console: Console, quick: bool, fresh: bool) -> dict[str, Any]:
    path = RUNS / ("quick" if quick else "reproduce") / name
    there = rundir.is_run(path)
    goes_on = there and not quick and not fresh and _same(path, experiment)
    sections, _ = cases.train_all(experiment, path, console, resume=goes_on, overwrite=there and not goes_on)
    configs = experiment.cases or {"": experiment.base}
    summaries = {case: section.summary for case, section in sections.items()}
    cases.show(console, configs, summaries, name)
    versions = rundir.saved_environment(path)  # those that it was trained with
    return {
        "row": name,
        "command": f"python -m experiments reproduce --rows {name}{' --quick' if quick else ''}",
        "commit": versions.pop("commit", "unknown"),
        "versions": versions | _machine(),
        "seconds": round(sum(summary["seconds"] for summary in summaries.values()), 1),
        "config": describe(experiment),
        "cases": {case: summaries[case] | {"loss_on": config.task.loss_on} for case, config in configs.items()},
    }


def _same(path: Path, experiment: Experiment) -> bool:
    """Say whether a run is of this config and of this code."""
    try:
        same = describe(load(path / "config.toml")) == describe(experiment)
    except ConfigError:  # of another version
        return False
    return same and rundir.saved_environment(path).get("commit") == rundir.commit()


def saved(name: str, experiment: Experiment) -> dict[str, Any] | None:
    """Read a row's result, None where there is none for this config."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return result if result["config"] == describe(experiment) else None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is no result of ours ({error!r}); delete it to run the row again") from error


def _machine() -> dict[str, str]:
    """Name the processor and the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        found = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = found[0].split(":", 1)[1].strip() if found else model
    return {"processor": model, "cores": str(cores)}
