"""What a sweep showed: its members ranked by the target, as a table, Markdown, JSON, and the best one as a config."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from experiments import results
from experiments.config import Config, ConfigError, Experiment, to_toml
from experiments.members import Member, text
from experiments.results import number, spread
from experiments.rundir import write


class Goal(NamedTuple):
    """What members are ranked by. target: whether it is the config's, so that its successes come first."""

    metric: str
    direction: str
    target: bool


class Result(NamedTuple):
    """One trained member.

    summary: see `results.summarise`; its seconds are a share of what the group took. bad_step: the step at which a loss
    or a parameter was not finite, None where none was.
    """

    member: Member
    summary: dict[str, Any]
    bad_step: int | None

    def knows(self, metric: str) -> bool:
        """Say whether the summary holds a metric; what diverged needs none."""
        return self.bad_step is not None or metric in {**self.summary["metrics"], **self.summary["final"]}

    def values(self, metric: str) -> list[float | None]:
        """The metric of each seed (of all seeds together where it is a final figure); empty where it diverged."""
        if self.bad_step is not None:
            return []
        if metric in self.summary["metrics"]:
            return self.summary["metrics"][metric]["values"]
        return [self.summary["final"][metric]]

    def median(self, metric: str) -> float:
        """The median of these; NaN where it diverged."""
        finite = [v for v in self.values(metric) if v is not None]
        return statistics.median(finite) if finite else math.nan

    def met(self) -> float:
        """Share of the seeds that met the config's target."""
        verdict = self.summary["target"]
        seeds = verdict["seeds"] or [verdict["met"]] if verdict else [False]
        return sum(seeds) / len(seeds)

    def sequences(self) -> float:
        """Median over the seeds of the sequences seen until the target was met, infinite for those that never did."""
        verdict = self.summary["target"]
        counts = (verdict and verdict["sequences"]) or [None]
        return statistics.median(math.inf if count is None else count for count in counts)


def goal(config: Config, by: str | None, known: Sequence[str], file: str) -> Goal:
    """Choose what members are ranked by: the config's [target], or `--by METRIC:below|above`.

    Args:
        config: one of the members'.
        by: the argument of --by.
        known: the metrics that members may be chosen by, those of the test data not among them.
        file: the config file's name, for messages.
    """
    if by is None:
        if config.target is None:
            raise ConfigError(
                f"{file}: sweep ranks its members by [target], and there is none; "
                f"give --by METRIC:below or :above, with METRIC one of {', '.join(known)}"
            )
        if config.target.metric not in known:
            raise ConfigError(
                f"{file}: [target] {config.target.metric} is of the test data, by which no sweep may choose; "
                f"give --by METRIC:below or :above, with METRIC one of {', '.join(known)}"
            )
        return Goal(config.target.metric, config.target.direction, True)
    metric, _, direction = by.rpartition(":")
    if direction not in ("below", "above") or metric not in known:
        raise ConfigError(
            "command line: --by must be METRIC:below or METRIC:above, "
            f"with METRIC one of {', '.join(known)}; got {by!r}"
        )
    return Goal(metric, direction, False)


def ranked(found: Sequence[Result], by: Goal) -> list[Result]:
    """Sort results, best first.

    By the config's target: the share of the seeds that met it; then the median of its metric over the seeds, or the
    sequences until it was met where [train] stop_after ends each run soon after that; then the other of the two. By
    another metric: its median. What diverged comes last.
    """

    def key(result: Result) -> tuple[float, ...]:
        middle = result.median(by.metric)
        size = math.inf if math.isnan(middle) else middle if by.direction == "below" else -middle
        if not by.target:
            return result.bad_step is not None, size
        rest = (size, result.sequences())
        return result.bad_step is not None, -result.met(), *(rest[::-1] if _stops(result) else rest)

    return sorted(found, key=key)


def rows(found: Sequence[Result], by: Goal) -> tuple[list[str], list[list[str]]]:
    """Lay out ranked results as text: (head, rows)."""
    keys = list(found[0].member.values)
    with_target = any(result.summary["target"] for result in found)
    head = ["member", *keys, f"{by.metric}, median (range)" if _of_each_seed(found, by) else by.metric]
    body = []
    for result in found:
        member, summary = result.member, result.summary
        if result.bad_step is not None:
            cells, goals = f"diverged at step {result.bad_step:,}", ["", ""]
        else:
            cells, goals = spread(result.values(by.metric)), _goals(result)
        texts = [text(value) for value in member.values.values()]
        body.append([member.name, *texts, cells, *(goals if with_target else []), f"{summary['seconds']:.1f}"])
    return [*head, *(["target met", "sequences until then"] if with_target else []), "seconds"], body


def table(found: Sequence[Result], by: Goal, title: str) -> Table:
    """Build the table for a terminal."""
    head, body = rows(found, by)
    built = Table(title=title, title_justify="left")
    for number_, name in enumerate(head):
        key = number_ <= len(found[0].member.values)
        side = "left" if number_ == 0 else "right"
        built.add_column(name.replace(".", ".\n"), justify=side, no_wrap=key, overflow="fold")
    for row in body:
        built.add_row(*row)
    return built


def describe(found: Sequence[Result], by: Goal) -> str:
    """Say what the table's columns mean."""
    config = found[0].member.config
    each = _of_each_seed(found, by)
    value = f"the median of {by.metric} over the seeds" if each else by.metric
    order = f"{value}, {'smallest' if by.direction == 'below' else 'largest'} first"
    if by.target:
        first = "the share of seeds that met the target" if each else "whether the target was met"
        order = f"{first}, then by {'the sequences until then' if _stops(found[0]) else order}"
    parts = [f"Sorted by {order}; {config.train.seeds} seeds a member."]
    target = config.target
    if target is not None and found[0].summary["target"] is not None:
        parts.append(f"Target: {target.metric} {target.direction} {target.value:g}.")
    baseline = config.task.baseline().get(by.metric)
    if baseline is not None:
        parts.append(f"Trivial predictor: {number(baseline)}.")
    parts.append("Seconds: wall time of the group that the member trained in, shared among its members.")
    return " ".join(parts)


def save(path: Path, experiment: Experiment, found: Sequence[Result], by: Goal) -> None:
    """Write sweep.json, sweep.md and best.toml.

    Args:
        path: the sweep's directory.
        experiment: name and header of the config file.
        found: ranked results.
        by: what they are ranked by.
    """
    head, body = rows(found, by)
    title = f"{experiment.name}: {by.metric} over {', '.join(found[0].member.values)}"
    lines = [f"# {title}", "", describe(found, by), "", *_markdown(head, body), "", "![](sweep.png)", ""]
    write(path / "sweep.md", "\n".join(lines))
    write(path / "best.toml", best_toml(experiment, found[0], by))
    about = {
        "name": experiment.name, "metric": by.metric, "direction": by.direction, "seeds": _seeds(found),
        "keys": list(found[0].member.values), "best": found[0].member.name,
        "members": [
            {"name": r.member.name, "values": r.member.values, "bad_step": r.bad_step, "summary": r.summary}
            for r in found
        ],
    }  # fmt: skip
    write(path / "sweep.json", json.dumps(about, indent=1, default=str) + "\n")


def best_toml(experiment: Experiment, best: Result, by: Goal) -> str:
    """Write the best member as a config file that `train` takes."""
    shown = ", ".join(f"{key} = {text(value)}" for key, value in best.member.values.items())
    header = [
        *experiment.header.splitlines(), "",
        f"The best member of a sweep of {experiment.name}: {shown}.",
        f"{by.metric} {number(best.median(by.metric))}, median of {_seeds([best])} seeds.",
    ]  # fmt: skip
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header)
    return f"{comment}\n{to_toml(Experiment(experiment.name, best.member.config))}"


def _goals(result: Result) -> Sequence[str]:
    """How many seeds met the target, and the sequences until then."""
    member = result.member
    if member.config.target is None:
        return "", ""
    laid = results.rows({member.name: member.config}, {member.name: result.summary})
    return next((row[5:] for row in laid if row[1] == member.config.target.metric), ("", ""))


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(head), line(["---", *["---:"] * (len(head) - 1)]), *map(line, body)]


def _of_each_seed(found: Sequence[Result], by: Goal) -> bool:
    """Say whether the metric is one of each seed, and not a final figure of all of them."""
    return not any(by.metric in result.summary["final"] for result in found)


def _stops(result: Result) -> bool:
    return result.member.config.train.stop_after > 0


def _seeds(found: Sequence[Result]) -> int:
    return found[0].member.config.train.seeds
