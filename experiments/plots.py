"""Pictures: learning curves, and forecasts beside the truth."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

INK, BLUE, ORANGE, GREY = "#1a1a1a", "#2463a8", "#c8631b", "#8a8a8a"
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
) -> Figure:
    """Draw the loss and each metric over steps: seeds thin, their median thick.

    Args:
        losses: (steps [E], values [E, S]).
        metrics: the same by name.
        marks: horizontal lines for a metric, by name: {"mse": {"baseline": 0.1667, "target": 1e-3}}.
    """
    panels = {"training loss": losses, **metrics}
    with plt.rc_context(STYLE):
        height = 2.3 * len(panels) + 0.5
        figure, axes = plt.subplots(
            len(panels), 1, figsize=(7.2, height), sharex=True, layout="constrained", squeeze=False
        )
        for axis, (name, (steps, values)) in zip(axes[:, 0], panels.items(), strict=True):
            _spaghetti(axis, np.asarray(steps), np.asarray(values, float))
            for (label, level), style in zip(marks.get(name, {}).items(), ("--", ":"), strict=False):
                axis.axhline(level, color=ORANGE, linestyle=style, linewidth=1.2, label=f"{label} {level:.4g}")
            axis.set_title(name)
            if axis.get_legend_handles_labels()[1]:
                axis.legend(loc="best", fontsize=8)
        axes[-1, 0].set_xlabel("step (optimizer updates)")
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


def _spaghetti(axis, steps: np.ndarray, values: np.ndarray) -> None:
    median = np.median(values, axis=1)
    if values.shape[1] > 1:
        axis.plot(steps, values, color=BLUE, linewidth=0.7, alpha=0.3)
    name = f"median of {values.shape[1]} seeds" if values.shape[1] > 1 else None
    axis.plot(steps, median, color=BLUE, linewidth=1.8, label=name)
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0 and finite.max() > 20 * finite.min():
        axis.set_yscale("log")
