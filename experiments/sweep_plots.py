"""The picture of a sweep: a metric over one key, over two keys of a grid as a heat map, over more in a panel each."""

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib.colors
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.members import text
from experiments.plots import BLUE, GREY, INK, ORANGE, STYLE, plt
from experiments.ranking import Goal, Result
from experiments.results import number

WIDE = 10.0  # values that span so large a factor are drawn on a logarithmic axis
COLORS = "YlGnBu"


def draw(found: Sequence[Result], by: Goal) -> Figure:
    """Draw ranked results.

    Args:
        found: best first.
        by: what they are ranked by.
    """
    keys = list(found[0].member.values)
    with plt.rc_context(STYLE):
        figure = _heat_map(found, by, *keys) if len(keys) == 2 and _complete(found) else _panels(found, by, keys)
    plt.close(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Save a figure as PNG, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _panels(found: Sequence[Result], by: Goal, keys: Sequence[str]) -> Figure:
    columns = min(len(keys), 3)
    lines = math.ceil(len(keys) / columns)
    size = (7.2 if columns == 1 else 4.2 * columns, 3.4 * lines + 0.4)
    figure, axes = plt.subplots(lines, columns, figsize=size, sharey=True, layout="constrained", squeeze=False)
    for axis, key in zip(axes.flat, keys, strict=False):
        _panel(axis, found, by, key, line=len(keys) == 1)
    for axis in axes.flat[len(keys) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"{by.metric}")
    labelled = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=6, fontsize=8)
    return figure


def _panel(axis: Any, found: Sequence[Result], by: Goal, key: str, line: bool) -> None:
    """One key: every seed of every member, and the members' medians; the line joins those of one-key sweeps."""
    places, labels, wide = _places([r.member.values[key] for r in found])
    seeds = [[v for v in r.values(by.metric) if v is not None] for r in found]
    every = np.array([v for values in seeds for v in values], float)
    if every.size and every.min() > 0 and every.max() > WIDE * every.min():
        axis.set_yscale("log")
    if wide:
        axis.set_xscale("log")
    alone = max(map(len, seeds), default=0) <= 1
    if not alone:
        x = np.array([p for p, values in zip(places, seeds, strict=True) for _ in values])
        axis.plot(x, every, "o", color=BLUE, markersize=3, alpha=0.35, markeredgewidth=0, label="one seed")
    medians = np.array([r.median(by.metric) for r in found])
    order = np.argsort(places, kind="stable")
    name = None if alone else "median of the seeds"
    axis.plot(places[order], medians[order], "o-" if line else "o", color=BLUE, markersize=5, label=name)
    counted = [places == p for p in dict.fromkeys(places.tolist())] if labels is not None else []
    shared = [here for here in counted if here.sum() > 1 and np.isfinite(medians[here]).any()]
    if shared:
        middles = [np.nanmedian(medians[here]) for here in shared]
        axis.plot(
            [places[here][0] for here in shared],
            middles,
            "_",
            color=INK,
            markersize=24,
            markeredgewidth=1.5,
            label="median of the members",
        )
    axis.plot(places[:1], medians[:1], "o", color=ORANGE, markersize=9, fillstyle="none", label="best")
    if lost := [p for p, r in zip(places, found, strict=True) if r.bad_step is not None]:
        axis.plot(lost, [0.98] * len(lost), "x", color=GREY, transform=axis.get_xaxis_transform(), label="diverged")
    baseline = found[0].member.config.task.baseline().get(by.metric)
    if baseline is not None:
        axis.axhline(baseline, color=GREY, linestyle="--", linewidth=1.2, label=f"trivial predictor {number(baseline)}")
    target = found[0].member.config.target
    if target is not None and target.metric == by.metric:
        axis.axhline(target.value, color=ORANGE, linestyle=":", linewidth=1.2, label=f"target {target.value:.4g}")
    if labels is not None:
        axis.set_xticks(sorted(set(places)), [label.replace(", ", ",\n") for label in labels])
        axis.minorticks_off()
    if not wide:
        axis.margins(x=0.5 / len(set(places)))
    axis.set_xlabel(key)
    if line:
        _say_above(axis, found, by, places.tolist() if labels is not None else [])


def _say_above(axis: Any, found: Sequence[Result], by: Goal, places: Sequence[float]) -> None:
    """Head a single panel; above the places of the members, how many of their seeds met the target."""
    counted = [(place, text) for place, r in zip(places, found, strict=False) if (text := _met(r))]
    for place, text in counted:
        axis.annotate(
            text, (place, 1.0), (0, 3), xycoords=axis.get_xaxis_transform(), textcoords="offset points",
            ha="center", fontsize=8,
        )  # fmt: skip
    axis.set_title(_title(found, by), pad=16 if counted else None)


def _heat_map(found: Sequence[Result], by: Goal, down: str, across: str) -> Figure:
    """Two keys: the median in each cell, as a number and as a colour, darker is better."""
    rows, columns = (_sorted([r.member.values[key] for r in found]) for key in (down, across))
    cells = np.full((len(rows), len(columns)), np.nan)
    texts: dict[tuple[int, int], str] = {}
    for result in found:
        place = rows.index(result.member.values[down]), columns.index(result.member.values[across])
        cells[place] = result.median(by.metric)
        texts[place] = _cell(result, by)
    finite = cells[np.isfinite(cells)]
    log = finite.size and finite.min() > 0 and finite.max() > WIDE * finite.min()
    norm = (matplotlib.colors.LogNorm if log else matplotlib.colors.Normalize)(
        *((finite.min(), finite.max()) if finite.size else (0.0, 1.0))
    )
    size = 1.6 * len(columns) + 2.6, 0.8 * len(rows) + 1.4
    figure, axis = plt.subplots(figsize=(max(size[0], 5.0), max(size[1], 2.6)), layout="constrained")
    colors = matplotlib.colormaps[f"{COLORS}_r" if by.direction == "below" else COLORS].with_extremes(bad="#e4e4e4")
    shown = axis.pcolormesh(cells, norm=norm, cmap=colors, edgecolors="white", linewidth=1.5)
    for (row, column), label in texts.items():
        red, green, blue, _ = shown.cmap(norm(cells[row, column])) if np.isfinite(cells[row, column]) else (1,) * 4
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        axis.text(column + 0.5, row + 0.5, label, ha="center", va="center", fontsize=8, color="w" if dark else INK)
    best = found[0].member.values
    corner = columns.index(best[across]), rows.index(best[down])
    axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=ORANGE, linewidth=2.5, clip_on=False, zorder=3))
    axis.set_xticks(np.arange(len(columns)) + 0.5, [text(v) for v in columns])
    axis.set_yticks(np.arange(len(rows)) + 0.5, [text(v) for v in rows])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set(xlabel=across, ylabel=down)
    axis.set_title(f"{_title(found, by)}; framed: best")
    figure.colorbar(shown, ax=axis)
    return figure


def _cell(result: Result, by: Goal) -> str:
    if result.bad_step is not None:
        return f"diverged at\nstep {result.bad_step:,}"
    return f"{number(result.median(by.metric))}\n{_met(result)}".rstrip()


def _met(result: Result) -> str:
    """How many of the seeds met the target; nothing where that is no question of seeds."""
    seeds = (result.summary["target"] or {"seeds": []})["seeds"]
    return f"{sum(seeds)} of {len(seeds)} met" if seeds else ""


def _title(found: Sequence[Result], by: Goal) -> str:
    seeds = found[0].member.config.train.seeds
    each = any(len(r.values(by.metric)) > 1 for r in found)  # and not a figure of all seeds together
    return f"{by.metric}, median of {seeds} seeds" if each else by.metric


def _complete(found: Sequence[Result]) -> bool:
    """Whether two keys make a grid: every value of the one comes with every value of the other."""
    pairs = [[text(value) for value in r.member.values.values()] for r in found]
    sides = [len({pair[n] for pair in pairs}) for n in (0, 1)]
    return min(sides) > 1 and sides[0] * sides[1] == len(found)


def _places(values: Sequence[Any]) -> tuple[np.ndarray, list[str] | None, bool]:
    """Where values stand on an axis, the labels of these places (None: the axis' own), and whether it should be log."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    few = len({text(v) for v in values}) <= 8
    ordered = _sorted(values)
    if len(numbers) < len(values):
        return np.array([ordered.index(v) for v in values], float), [text(v) for v in ordered], False
    wide = min(numbers) > 0 and max(numbers) >= WIDE * min(numbers)
    return np.array(values, float), [text(v) for v in ordered] if few else None, wide


def _sorted(values: Sequence[Any]) -> list[Any]:
    distinct = [v for n, v in enumerate(values) if v not in values[:n]]
    numeric = all(isinstance(v, int | float) for v in distinct)
    return sorted(distinct) if numeric else sorted(distinct, key=text)
