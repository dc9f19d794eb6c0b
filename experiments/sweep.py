"""`sweep CONFIG`: members trained group after group, each group in a run directory of its own, then ranked.

A group is what one XLA program trains, on all devices of this process.

config.toml         every member as one of [[cases]]: `train DIR/config.toml --cases 03` trains it alone
sweep.json          the plan while it runs, then the results; sweep.md, sweep.png: the same to read
best.toml           the best member as a config file
01/ 04/ ...         a group's run directory, named by its first member; see together.py
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import config as configs
from experiments import progress, ranking, report, results, rundir, scoring, sweep_plots, together
from experiments.config import Config, ConfigError, Experiment
from experiments.members import SAMPLES, Member, axes, groups, members
from experiments.model_axis import spread
from experiments.ranking import Goal, Result

TOGETHER = 64  # models in a group; more take memory, and no longer less time a model
PLAIN_WIDTH = 120  # columns of the table where the output is no terminal
USAGE = (
    "%(prog)s CONFIG [--grid KEY=V,V,...]... [--random KEY=LOW:HIGH[:log][:int]]... [--samples N] [--seeds S] "
    "[--by METRIC:below|above] [--case NAME] [--together N] [--out DIR] [--resume | --overwrite] "
    "[--TABLE.KEY VALUE ...]"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("config", metavar="CONFIG", help="a file of configs/")
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=V,V,...", help="each of these values")
    parser.add_argument(
        "--random", action="append", default=[], metavar="KEY=LOW:HIGH[:log][:int]",
        help="draws from a range, with :log uniform in the logarithm, with :int whole numbers",
    )  # fmt: skip
    parser.add_argument("--samples", type=int, metavar="N", help=f"draws of --random (default {SAMPLES})")
    parser.add_argument("--seeds", metavar="S", help="seeds of each member, as --train.seeds")
    parser.add_argument("--by", metavar="METRIC:below|above", help="what ranks the members (default: the [target])")
    parser.add_argument("--case", metavar="NAME", help="which of the config's [[cases]] is swept")
    parser.add_argument(
        "--together", type=int, default=TOGETHER, metavar="N",
        help=f"models, members times seeds, in a group at most, on all devices (default {TOGETHER})",
    )  # fmt: skip


def command(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Train a sweep, or go on with it, and print what it showed."""
    file = options.config
    seeds = [] if options.seeds is None else ["--train.seeds", options.seeds]
    experiment = configs.load(file, [*overrides, *seeds])
    base = _one_of(experiment, options.case, file)
    if options.together < 1:
        raise ConfigError(f"command line: --together must be at least 1, got {options.together}")
    found = members(base, axes(options.grid, options.random), options.samples)
    split = groups(found, options.together)
    by = _goal(split, options.by, file)
    path = rundir.choose(f"{experiment.name}-sweep", options.out, options.resume, options.overwrite)
    console = Console(markup=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    with rundir.clear_errors(path), rundir.locked(path):
        rundir.prepare(path, _cases(experiment, base, found), options.resume, options.overwrite)
        if not (path / "sweep.json").exists():
            rundir.write(path / "sweep.json", json.dumps(_plan(split), indent=1, default=str) + "\n")
        console.print(_announced(experiment.name, split), highlight=False, soft_wrap=True)
        trained: list[Result] = []
        for number, group in enumerate(split, 1):
            folder = path / group[0].name
            with rundir.locked(folder):
                rundir.prepare(folder, _cases(experiment, base, group), options.resume, options.overwrite)
                trained += _train(group, folder, f"group {number} of {len(split)}", by, console)
        ranked = ranking.ranked(trained, by)
        ranking.save(path, experiment, ranked, by)
        rundir.write(path / "sweep.png", sweep_plots.png(sweep_plots.draw(ranked, by)))
    title = f"{experiment.name}, {sum(r.summary['seconds'] for r in ranked):,.0f} s"
    console.print(ranking.table(ranked, by, title))
    console.print(ranking.describe(ranked, by), highlight=False, soft_wrap=True)
    console.print(f"best: {path / 'best.toml'}  picture: {path / 'sweep.png'}", highlight=False, soft_wrap=True)


def _train(group: Sequence[Member], folder: Path, name: str, by: Goal, console: Console) -> list[Result]:
    """Train a group, or read what it left when it was done."""
    saved = folder / "summary.json"
    left = json.loads(saved.read_text(encoding="utf-8")) if saved.exists() else {}
    found = [Result(member, **left[member.name]) for member in group] if left else []
    if found and all(result.knows(by.metric) for result in found):
        return found
    part = group[0].config
    with progress.shown(console, name, part.train.steps, part.target) as show:
        outcomes, seconds = together.run([member.config for member in group], folder, show)
    found = []
    for member, outcome in zip(group, outcomes, strict=True):
        config = _judged(member.config)
        final = _final(config, outcome, by)
        summary = results.summarise(config, outcome.lines, final, seconds / len(group))
        found.append(Result(member, summary, outcome.bad_step))
    left = {r.member.name: {"summary": r.summary, "bad_step": r.bad_step} for r in found}
    rundir.write(saved, json.dumps(left, indent=1) + "\n")
    return found


def _final(config: Config, outcome: together.Outcome, by: Goal) -> dict[str, float]:
    """Compute the final figures where members are ranked by one, or the target is one: they may take long."""
    asked = {by.metric, *([config.target.metric] if config.target else [])}
    known = set().union(*outcome.lines) if outcome.lines else asked
    if asked <= known or outcome.bad_step is not None:
        return {}
    found = config.task.final(report.predictor(config, outcome.params))
    return {name: value for name, value in found.items() if not _of_test(config, name)}


def _goal(split: Sequence[Sequence[Member]], by: str | None, file: str) -> Goal:
    """Check every group before any work, and choose what ranks the members."""
    known: list[str] = []
    for group in split:
        config = group[0].config
        metrics, finals = scoring.check(config, file)
        # What success ends early has its final figures at its own end alone, where others go on.
        found = [*metrics, *(() if config.train.stop_after else finals)]
        known = [name for name in found if not _of_test(config, name)]
        if not known:
            raise ConfigError(
                f"{file}: [task] held_out must be 'validation' for a sweep, which would choose on the test rows; "
                "add --task.held_out validation"
            )
    return ranking.goal(split[0][0].config, by, known, file)


def _of_test(config: Config, metric: str) -> bool:
    return hasattr(config.task, "of_test") and config.task.of_test(metric)


def _judged(config: Config) -> Config:
    """Leave out a target that is of the test data: whether members meet it is not for a sweep to know."""
    target = config.target
    return replace(config, target=None) if target is not None and _of_test(config, target.metric) else config


def _announced(name: str, split: Sequence[Sequence[Member]]) -> str:
    """Say what will be trained, and where."""
    seeds = split[0][0].config.train.seeds
    axis = spread(seeds * max(map(len, split)))
    count = sum(map(len, split))
    return f"{name}: {count} members of {seeds} seeds in {len(split)} group{'s'[: len(split) - 1]}, on {axis}"


def _one_of(experiment: Experiment, case: str | None, file: str) -> Config:
    names = ", ".join(experiment.cases)
    if case is None and experiment.cases:
        raise ConfigError(f"{file}: it has [[cases]], and a sweep is over one config; give --case, one of {names}")
    if case is not None and case not in experiment.cases:
        raise ConfigError(f"{file}: --case must be one of {names or 'none (it has no [[cases]])'}; got {case!r}")
    return experiment.base if case is None else experiment.cases[case]


def _cases(experiment: Experiment, base: Config, group: Sequence[Member]) -> Experiment:
    """Write members as a comparison, which a run directory holds and checks when it is resumed."""
    base = Config(base.task, base.model, base.optimizer, base.train)  # beside [[cases]] there is no [target]
    cases = {member.name: member.config for member in group}
    return Experiment(experiment.name, base, cases, experiment.header)


def _plan(split: Sequence[Sequence[Member]]) -> dict[str, Any]:
    return {
        "members": [
            {"name": member.name, "values": member.values, "group": group[0].name}
            for group in split
            for member in group
        ]
    }
