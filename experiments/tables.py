"""The table of results: what the papers report beside what we measured, as text, Markdown, HTML and JSON."""

import html
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from experiments import report, results
from experiments.config import Config, Experiment, Paper
from experiments.rundir import write

INTRO = (
    "The papers' figures are as cited, not checked against the papers line by line. Success is the share of models "
    "(seeds) that meet the criterion in the target column: the paper's where it has one, ours elsewhere. Sequences "
    "are batch x updates up to the first evaluation that meets it with every later one; training ends soon after all "
    "seeds have met it, where a row says so. Where evaluation sets are drawn, a second one is drawn from another key "
    "when training has ended: a seed has to meet the criterion there too, and the measured values are of that set. "
    "Recipes were chosen on other base seeds (0 to 30000) than the table's, 100000 (where a first recipe missed, "
    "200000: its note says so). They are today's (Adam, clipping, batches): what is compared is what a user gets now."
)
BASE, SECOND_BASE = 100_000, 200_000  # [train] seed of the rows
HEAD = (
    "task", "paper reports (as cited)", "measured", "success", "sequences to success: median (range)", "training",
    "target", "wall time",
)  # fmt: skip


class Row(NamedTuple):
    """One row: its config, and the content of its docs/results/ROW.json, None where it has not been run."""

    experiment: Experiment
    result: dict[str, Any] | None


def met(row: Row) -> bool:
    """Say whether a row that was run met each of its targets."""
    cases = row.result["cases"].values() if row.result else ()
    return bool(cases) and all(case["target"] is None or case["target"]["met"] is not False for case in cases)


def lines(row: Row) -> list[tuple[str, ...]]:
    """Lay out a row, a line for each case, under HEAD."""
    found = []
    for case, config in (row.experiment.cases or {"": row.experiment.base}).items():
        paper = config.paper or Paper()
        title = f"{paper.task or row.experiment.name}{f': {case}' if case else ''}"
        published = f"{paper.published} ({paper.source})" if paper.published else paper.source
        if row.result is None:
            found.append((title, published, "not run", "", "", "", _goal(config, None), ""))
            continue
        summary = row.result["cases"][case]
        found.append((title, published, *_measured(config, summary), f"{summary['seconds']:,.0f} s"))
    return found


def table(rows: Mapping[str, Row]) -> Table:
    """Build the table for a terminal: the columns that fit one."""
    built = Table(show_lines=True)
    for name in ("task", "paper reports (as cited)", "success", "sequences", "target", "time"):
        built.add_column(name)
    for row in rows.values():
        for task, paper, measured, success, until, _, target, seconds in lines(row):
            built.add_row(task, paper, success or measured, until, target.rpartition(": ")[2], seconds)
    return built


def save(rows: Mapping[str, Row], stem: Path, quick: bool) -> None:
    """Write the table as `stem`.md, .html and .json."""
    title = "Results of the quick versions" if quick else "Results: the papers' tables, reproduced"
    counts = f"{sum(map(met, rows.values()))} of {len(rows)} rows meet their targets.{'' if quick else _again(rows)}"
    write(stem.with_suffix(".json"), json.dumps({name: _plain(row) for name, row in rows.items()}, indent=1) + "\n")
    write(stem.with_suffix(".md"), _markdown(rows, title, counts))
    body = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(counts)}</p>", f"<p>{html.escape(INTRO)}</p>"]
    body.append(report.table_of([line for row in rows.values() for line in lines(row)], HEAD))
    body.append("<h2>Rows</h2>")
    for name, row in rows.items():
        body += [f"<h3>{html.escape(name)}</h3>", *(f"<p>{html.escape(text)}</p>" for text in _about(row))]
    page = report.PAGE.format(title=html.escape(title), style=report.STYLE, body="\n".join(body))
    write(stem.with_suffix(".html"), page)


def _again(rows: Mapping[str, Row]) -> str:
    """Say which rows are on another base seed than the table's: those whose first recipe missed."""
    names = [name for name, row in rows.items() if row.experiment.base.train.seed == SECOND_BASE]
    if not names:
        return ""
    return (
        f" {len(names)} of them ({', '.join(names)}) were run a second time, with another recipe on base seed "
        f"{SECOND_BASE}, after a first recipe had missed on {BASE}: their notes tell of it."
    )


def _measured(config: Config, summary: dict[str, Any]) -> tuple[str, ...]:
    """Say what was measured, the success, the sequences until then, the training behind it, and the verdict."""
    verdict, target = summary["target"], config.target
    name = target.metric if target is not None else next(iter(summary["metrics"]))
    values = verdict["values"] if verdict else results.measured(summary["metrics"][name])
    baseline = summary["metrics"].get(name, {}).get("baseline")
    beside = f"; baseline {results.number(baseline)}" if baseline is not None else ""
    success, until = "", ""
    if verdict and verdict["seeds"]:
        success = f"{sum(verdict['seeds'])} of {len(verdict['seeds'])}"
        known = [s for s in verdict["sequences"] if s is not None]
        until = f"{statistics.median(known):,.0f} ({min(known):,} to {max(known):,})" if known else "never"
    ended = f" (of {config.train.steps:,}: ended by success)" if summary["steps"] < config.train.steps else ""
    training = (
        f"{summary['steps']:,} updates{ended} of {config.train.batch_size}, "
        f"scored every {config.train.evaluate_every:,}"
        f"{' and once on a second set' if results.second_set(summary) else ''}; "
        f"loss on {summary['loss_on']}"
    )
    return f"{name} {results.spread(values)}{beside}", success, until, training, _goal(config, verdict)


def _goal(config: Config, verdict: dict[str, Any] | None) -> str:
    target = config.target
    if target is None:
        return "reported"
    goal = f"{target.metric} {target.direction} {target.value:g}"
    if target.at_most is not None:
        goal += f" for at most {target.at_most:.0%} of the seeds"
    elif 0 < target.seeds < 1:
        goal += f" for {target.seeds:.0%} of the seeds"
    goal += f" within {target.max_sequences:,} sequences" if target.max_sequences else ""
    if not target.asks:
        return f"{goal}: reported"
    return goal if verdict is None else f"{goal}: {'met' if verdict['met'] else 'MISSED'}"


def _about(row: Row) -> list[str]:
    """Say in sentences what stands behind a row: notes, command, commit, versions."""
    configs = row.experiment.cases or {"": row.experiment.base}
    notes = dict.fromkeys(config.paper.note for config in configs.values() if config.paper and config.paper.note)
    if row.result is None:
        return [*notes, f"Not run: python -m experiments reproduce --rows {row.experiment.name}"]
    versions = ", ".join(f"{name} {value}" for name, value in row.result["versions"].items())
    finals = [f"{case}: {text}" if case else text for case, s in row.result["cases"].items() if (text := _finals(s))]
    return [
        *notes,
        *finals,
        f"{row.result['command']}, {row.result['seconds']:,.0f} s; commit {row.result['commit'][:12]}; {versions}.",
    ]


def _finals(summary: dict[str, Any]) -> str:
    """Say what final figures a case has, such as those of the models that it is compared with."""
    return "; ".join(f"{name}: {results.number(value)}" for name, value in summary["final"].items())


def _markdown(rows: Mapping[str, Row], title: str, counts: str) -> str:
    text = [f"# {title}", counts, INTRO]
    body = [line for row in rows.values() for line in lines(row)]
    cells = [HEAD, ("---",) * len(HEAD), *body]
    text.append("\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in cells))
    for name, row in rows.items():
        text += [f"## {name}", *_about(row)]
    return "\n\n".join(text) + "\n"


def _plain(row: Row) -> dict[str, Any]:
    configs = row.experiment.cases or {"": row.experiment.base}
    papers = {case: vars(config.paper) if config.paper else None for case, config in configs.items()}
    return {"met": met(row) if row.result else None, "papers": papers, **(row.result or {})}
