"""What a finished run showed: metrics over the seeds, final figures, and whether the target was met."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from experiments.config import Config, ConfigError

# A summary is plain JSON: see `summarise`. Rows of the table, in the order of its columns.
COLUMNS = ("case", "metric", "median (range)", "baseline", "target", "seeds met", "sequences until then")


def summarise(
    config: Config,
    lines: Sequence[dict[str, Any]],
    final: Mapping[str, float],
    seconds: float,
    second: Mapping[str, Any] | None = None,
) -> dict:
    """Summarise a run as plain types.

    Args:
        config: the run's.
        lines: its metrics.jsonl.
        final: the task's final figures.
        seconds: wall time, compilation included.
        second: the metrics on the second evaluation set, {name: [S]}; empty where the task has none.

    Returns:
        {"steps", "finished", "seconds", "metrics": {name: {"values": [S], "second": [S] or None, "baseline"}}, "final":
        {name: value}, "target": {"metric", "met", "values", "seeds": [S] bools, "sequences": [S] or None} or None};
        finished means at the last step, or stopped by success; met is None where the target is only reported. A seed
        meets a target that met it at the last evaluations and on the second set too (what should fail, with at_most: on
        one of them); the target's values are those of the second set where there is one.
    """
    scored = evaluations(lines)
    last = scored[-1] if scored else {}
    steps = lines[-1]["step"] if lines else 0
    ended = finished(config, lines)
    baseline = config.task.baseline()
    names = [name for name in last if name not in ("step", "loss", "losses")]
    second = second or {}
    metrics = {
        name: {"values": last[name], "second": second.get(name), "baseline": baseline.get(name)} for name in names
    }
    return {
        "steps": steps,
        "finished": ended,
        "seconds": round(seconds, 1),
        "metrics": metrics,
        "final": {name: float(value) for name, value in final.items()},
        "target": _verdict(config, scored, second, final, ended),
    }


def finished(config: Config, lines: Sequence[dict[str, Any]]) -> bool:
    """Say whether training was at its end: at the last step, or stopped by success."""
    return bool(lines) and (lines[-1]["step"] >= config.train.steps or succeeded(config, evaluations(lines)))


def evaluations(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choose the lines that carry an evaluation."""
    return [line for line in lines if set(line) - {"step", "loss", "losses"}]


def succeeded(config: Config, scored: Sequence[dict[str, Any]]) -> bool:
    """Say whether `stop_after` ends the training here: the target was met at so many last evaluations in a row."""
    target, number_ = config.target, config.train.stop_after
    if target is None or not number_ or len(scored) < number_:
        return False
    met_by = ([v is not None and target.meets(v) for v in line[target.metric]] for line in scored[-number_:])
    asked = dataclasses.replace(target, seeds=target.seeds or 1.0)  # where it is only reported: all of them
    return all(asked.reached(seeds) for seeds in met_by)


def first_success(config: Config, evaluations: Sequence[dict[str, Any]], seed: int) -> int | None:
    """Find the step of the first evaluation that meets the target with every later one, None without."""
    target = config.target
    assert target is not None
    found = None
    for line in evaluations:
        value = line[target.metric][seed]
        good = value is not None and target.meets(value)
        found = (line["step"] if found is None else found) if good else None
    return found


def met(summaries: Mapping[str, dict]) -> bool:
    """Say whether every target was met; a run without one has nothing to miss, one stopped early has missed it."""
    return all(s["target"] is None or s["target"]["met"] is not False for s in summaries.values())


def measured(metric: Mapping[str, Any]) -> Sequence[float | None]:
    """Give the values [S] of a summary's metric that nothing was chosen by: of the second set, where there is one."""
    return metric["values"] if metric.get("second") is None else metric["second"]


def rows(configs: Mapping[str, Config], summaries: Mapping[str, dict]) -> list[tuple[str, ...]]:
    """Lay out summaries as rows of text under COLUMNS."""
    found = []
    for case, summary in summaries.items():
        target = summary["target"]
        plain = {name: value for name, value in summary["final"].items() if "/" not in name}
        for name, metric in summary["metrics"].items():
            found.append(
                (
                    case,
                    name,
                    spread(measured(metric)),
                    number(metric["baseline"]),
                    *_goal(configs[case], target, name),
                )
            )
        for name, value in plain.items():
            found.append((case, name, number(value), "", *_goal(configs[case], target, name)))
    return found


def table(configs: Mapping[str, Config], summaries: Mapping[str, dict], title: str) -> Table:
    """Build the table that a run ends with; columns that nobody fills are left out."""
    body = rows(configs, summaries)
    used = [i for i in range(len(COLUMNS)) if any(row[i] for row in body)]
    built = Table(title=title, title_justify="left")
    for i in used:
        built.add_column(COLUMNS[i], justify="left" if i < 2 else "right", no_wrap=i < 2)
    for row in body:
        built.add_row(*(row[i] for i in used))
    return built


def final_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Lay out final figures named "row/column" as a table, its head first; empty where there are none."""
    figures = {tuple(name.split("/", 1)): value for name, value in summary["final"].items() if "/" in name}
    columns = list(dict.fromkeys(column for _, column in figures))
    names = list(dict.fromkeys(row for row, _ in figures))
    body = [(row, *(number(figures.get((row, column))) for column in columns)) for row in names]
    return [("", *columns), *body] if body else []


def final_table(summary: Mapping[str, Any]) -> Table | None:
    """Build the second table, of final figures; None where the task has none of that form."""
    found = final_rows(summary)
    if not found:
        return None
    built = Table()
    for number_, name in enumerate(found[0]):
        built.add_column(name, no_wrap=number_ == 0)
    for row in found[1:]:
        built.add_row(*row)
    return built


def scale(configs: Mapping[str, Config], summaries: Mapping[str, dict]) -> str:
    """Say how much was trained and how often it was scored, once for all cases that agree."""
    found = dict.fromkeys(
        f"{configs[case].train.seeds} seeds, {summary['steps']:,} updates, "
        f"{configs[case].sequences(summary['steps']):,} sequences each, "
        f"scored every {configs[case].train.evaluate_every:,} updates"
        f"{second_set(summary)}"
        for case, summary in summaries.items()
    )
    return f"{'; '.join(found)}."


def second_set(summary: Mapping[str, Any]) -> str:
    """Say that figures are of a second set, where there is one."""
    has = any(metric.get("second") is not None for metric in summary["metrics"].values())
    return " and at the end once on a second set, whose figures these are" if has else ""


def verdicts(configs: Mapping[str, Config], summaries: Mapping[str, dict]) -> list[str]:
    """Say in a line for each target whether it was met."""
    found = []
    for case, summary in summaries.items():
        target, verdict = configs[case].target, summary["target"]
        if target is None or verdict is None:
            continue
        share = f"{target.seeds:.0%}" if target.at_most is None else f"at most {target.at_most:.0%}"
        share = f" for {share} of the seeds" if target.metric in summary["metrics"] and target.asks else ""
        limit = f" within {target.max_sequences:,} sequences" if target.max_sequences else ""
        said = "reported" if not target.asks else "met" if verdict["met"] else "MISSED"
        rate = f" ({sum(verdict['seeds'])} of {len(verdict['seeds'])} seeds)" if verdict["seeds"] else ""
        prefix = f"{case}: " if case else ""
        if not summary["finished"]:
            said = f"not finished, at step {summary['steps']} of {configs[case].train.steps}"
        found.append(f"{prefix}target {target.metric} {target.direction} {target.value:g}{share}{limit}: {said}{rate}")
    return found


def number(value: float | None) -> str:
    """Write a number for a reader: four digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def spread(values: Sequence[float | None]) -> str:
    """Write values over seeds as their median and range."""
    finite = [v for v in values if v is not None]
    if not finite:
        return "not finite"
    middle = number(statistics.median(finite))
    if len(values) == 1:
        return middle
    lost = "" if len(finite) == len(values) else f", {len(values) - len(finite)} not finite"
    return f"{middle} ({number(min(finite))} to {number(max(finite))}{lost})"


def _verdict(
    config: Config,
    evaluations: Sequence[dict[str, Any]],
    second: Mapping[str, Sequence[float | None]],
    final: Mapping[str, float],
    finished: bool,
) -> dict | None:
    target = config.target
    if target is None:
        return None
    if not finished:
        return {"metric": target.metric, "met": False, "values": [], "seeds": [], "sequences": None}
    if target.metric in final:
        value = float(final[target.metric])
        return {
            "metric": target.metric,
            "met": target.meets(value) if target.asks else None,
            "values": [value],
            "seeds": [],
            "sequences": None,
        }
    if not evaluations or target.metric not in evaluations[-1]:
        allowed = ", ".join([*(evaluations[-1] if evaluations else ()), *final])
        raise ConfigError(f"[target] metric must be one of {allowed}, got {target.metric!r}")
    values = second.get(target.metric, evaluations[-1][target.metric])
    again = [value is not None and target.meets(value) for value in values]
    steps = [first_success(config, evaluations, seed) for seed in range(config.train.seeds)]
    if target.at_most is None:
        steps = [step if good else None for step, good in zip(steps, again, strict=True)]
    else:
        last = evaluations[-1]["step"]
        steps = [last if step is None and good else step for step, good in zip(steps, again, strict=True)]
    sequences = [None if step is None else config.sequences(step) for step in steps]
    limit = target.max_sequences or float("inf")
    seeds = [s is not None and s <= limit for s in sequences]
    return {
        "metric": target.metric,
        "met": target.reached(seeds) if target.asks else None,
        "values": values,
        "seeds": seeds,
        "sequences": sequences,
    }


def _goal(config: Config, verdict: dict | None, name: str) -> tuple[str, str, str]:
    if verdict is None or verdict["metric"] != name or config.target is None:
        return "", "", ""
    goal = f"{config.target.direction} {config.target.value:g}"
    if not verdict["seeds"]:
        return goal, "" if not config.target.asks else "met" if verdict["met"] else "MISSED", ""
    known = [s for s in verdict["sequences"] if s is not None]
    until = f"{statistics.median(known):,.0f} ({min(known):,} to {max(known):,})" if known else "never"
    return goal, f"{sum(verdict['seeds'])} of {len(verdict['seeds'])}", until
