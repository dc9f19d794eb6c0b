"""Pictures: learning curves over seeds, of one run and of several, and forecasts beside the truth."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

INK, BLUE, ORANGE, GREY = "#1a1a1a", "#2463a8", "#c8631b", "#8a8a8a"
MANY = 4  # seeds from which on curves are a median and bands, not lines
QUARTILES = (0.25, 0.75)
PERIOD_SHADES = ("#ffffff", "#eef3f9", "#fbf1e6")
DPI = 144
STYLE: Any = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "text.color": INK,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "legend.frameon": False, "figure.dpi": DPI,
    "axes.titlesize": 10, "axes.titlelocation": "left",
}  # fmt: skip


def curves(
    losses: tuple[Sequence[int], np.ndarray],
    metrics: Mapping[str, tuple[Sequence[int], np.ndarray]],
    marks: Mapping[str, Mapping[str, float]],
    batch_size: int,
) -> Figure:
    """Draw the loss and each metric over steps: the median over seeds in bands of the quartiles and the whole range.

    Args:
        losses: (steps [E], values [E, S]).
        metrics: the same by name.
        marks: horizontal lines for a metric, by name: {"mse": {"baseline": 0.1667, "target": 1e-3}}.
        batch_size: sequences a step.
    """
    panels = {"training loss": losses, **metrics}
    with plt.rc_context(STYLE):
        height = 1.75 * len(panels) + 0.5
        figure, axes = plt.subplots(
            len(panels), 1, figsize=(7.2, height), sharex=True, layout="constrained", squeeze=False
        )
        for axis, (name, (steps, values)) in zip(axes[:, 0], panels.items(), strict=True):
            _over_seeds(axis, np.asarray(steps), np.asarray(values, float), named=axis is axes[0, 0])
            for (label, level), style in zip(marks.get(name, {}).items(), ("--", ":"), strict=False):
                axis.axhline(level, color=ORANGE, linestyle=style, linewidth=1.2, label=f"{label} {level:.4g}")
            axis.set_title(name)
            if axis.get_legend_handles_labels()[1]:
                axis.legend(loc="best", fontsize=8)
        axes[-1, 0].set_xlabel(f"optimizer updates, of {batch_size:,} sequences each")
    plt.close(figure)
    return figure


def comparison(
    name: str, cases: Mapping[str, tuple[np.ndarray, np.ndarray]], marks: Mapping[str, float] | None = None
) -> Figure:
    """Draw one metric of several runs: medians over seeds, and the band of the quartiles.

    Args:
        name: of the metric.
        cases: (sequences seen [E], values [E, S]) by case.
        marks: horizontal lines by name.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(7.2, 3.2 + 0.18 * max(len(cases) - 4, 0)), layout="constrained")
        colors = plt.get_cmap("viridis" if len(cases) > 8 else "Dark2")
        for number, (case, (seen, values)) in enumerate(cases.items()):
            color = colors(number / (len(cases) - 1) * 0.92 if len(cases) > 8 else number)
            low, middle, high = _quantiles(values, (QUARTILES[0], 0.5, QUARTILES[1]))
            axis.fill_between(seen, low, high, color=color, alpha=0.15, linewidth=0)
            axis.plot(seen, middle, color=color, linewidth=1.6, label=case)
        for (label, level), style in zip((marks or {}).items(), ("--", ":"), strict=False):
            axis.axhline(level, color=INK, linestyle=style, linewidth=1.0, label=f"{label} {level:.4g}")
        _log_where_wide(axis, np.concatenate([values.ravel() for _, values in cases.values()]))
        axis.set_title(f"{name}: median over the seeds, and quartiles")
        axis.set_xlabel("training sequences seen")
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    plt.close(figure)
    return figure


def forecast(
    years: np.ndarray,
    truth: np.ndarray,
    forecasts: Mapping[str, np.ndarray],
    label: str,
    periods: Mapping[str, int],
    first: int | None = None,
) -> Figure:
    """Draw forecasts against the truth, the periods shaded.

    Args:
        years: [T].
        truth: [T].
        forecasts: by name, [T] each; NaN where there is none.
        label: of the vertical axis, with its unit.
        periods: last year of each period, in order.
        first: first year drawn.
    """
    first = int(years[0]) if first is None else first
    shown = years >= first
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(9.6, 3.6), layout="constrained")
        start = first
        for (name, end), shade in zip(periods.items(), PERIOD_SHADES, strict=False):
            if end > start:
                axis.axvspan(start, end, color=shade, zorder=0, linewidth=0)
                axis.text(
                    (start + end) / 2,
                    1.01,
                    name,
                    transform=axis.get_xaxis_transform(),
                    ha="center",
                    color=INK,
                )
                start = end
        axis.plot(years[shown], truth[shown], color=INK, linewidth=1.1, label="truth")
        for (name, values), color in zip(forecasts.items(), (ORANGE, BLUE), strict=False):
            axis.plot(years[shown], values[shown], color=color, linewidth=1.3, alpha=0.9, label=name)
        axis.set(xlabel="year", ylabel=label, xlim=(first, years[-1]), ylim=(0, None))
        axis.legend(loc="upper left", ncols=3, fontsize=9)
    plt.close(figure)
    return figure


def _over_seeds(axis: Any, steps: np.ndarray, values: np.ndarray, named: bool) -> None:
    """Draw lines or bands, with names for the legend if asked."""
    seeds = values.shape[1]
    all_, half, middle_name = ("all seeds", "the middle half", f"median of {seeds} seeds") if named else (None,) * 3
    if seeds < MANY:
        axis.plot(steps, values, color=BLUE, linewidth=0.9, alpha=0.5 if seeds > 1 else 1.0)
    else:
        least, low, high, most = _quantiles(values, (0.0, *QUARTILES, 1.0))
        axis.fill_between(steps, least, most, color=BLUE, alpha=0.12, linewidth=0, label=all_)
        axis.fill_between(steps, low, high, color=BLUE, alpha=0.3, linewidth=0, label=half)
    if seeds > 1:
        middle = _quantiles(values, (0.5,))[0]
        axis.plot(steps, middle, color=BLUE, linewidth=1.8, label=middle_name)
    _log_where_wide(axis, values)


def _quantiles(values: np.ndarray, which: Sequence[float]) -> np.ndarray:
    """Quantiles over the seeds of [E, S], one row each; what is not finite is left out, NaN where all is."""
    found = np.full((len(which), len(values)), np.nan)
    for number, row in enumerate(values):
        if (finite := row[np.isfinite(row)]).size:
            found[:, number] = np.quantile(finite, which)
    return found


def _log_where_wide(axis: Any, values: np.ndarray) -> None:
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0 and finite.max() > 20 * finite.min():
        axis.set_yscale("log")
