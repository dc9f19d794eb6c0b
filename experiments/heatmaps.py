"""Pictures of one sequence: what goes in, what comes out, and what the gates and cells do meanwhile."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.examples import Example, Inside
from experiments.plots import BLUE, GREY, INK, ORANGE, STYLE

WIDTH = 7.2  # inches
LINES = 3  # columns at most that are drawn as lines; more are a heat map
LETTERS = 60  # steps at most over which each symbol is written
COLORS = (BLUE, ORANGE, "#3d8b57", "#8e5ea8")
GATES = (("i", "input gate i"), ("f", "forget gate f"), ("o", "output gate o"))
LOGITS = (0.01, 0.1, 0.5, 0.9, 0.99)  # marks of the gates' scale: what tells 0.99 from 0.9 is how long a cell holds


def outside(example: Example) -> Figure:
    """Draw the input, and below it the outputs beside their target."""
    K = example.outputs.shape[1]
    lines = K <= LINES and example.classes is None and example.legal is None
    heights = [_input_height(example), 1.7 if lines else min(0.5 + 0.16 * K, 2.6)]
    with plt.rc_context(STYLE):
        figure, axes = _panels(heights)
        _draw_input(axes[0], example)
        if np.isfinite(example.outputs[:-1]).any() or len(example.outputs) == 1:
            (_draw_lines if lines else _draw_chances)(axes[1], example, figure)
            _time_axis(axes, example)
        else:
            axes[0].set_xlabel("time step")
            _draw_bars(axes[1], example)
    plt.close(figure)
    return figure


def inside(example: Example, found: Inside) -> Figure:
    """Draw the input, what has to be remembered, the cells, the gates and the candidates, a row a unit."""
    trace, probe = found.trace, found.probe
    N = trace.c.shape[1]
    tall = float(np.clip(0.03 * N, 0.75, 1.3))
    heights = [_input_height(example), *([1.3] if probe else []), *[tall] * 5]
    with plt.rc_context(STYLE):
        figure, axes = _panels(heights)
        _draw_input(axes[0], example)
        rest = list(axes[1:])
        if probe is not None:
            axis, t = rest.pop(0), _steps(example)
            axis.plot(t, probe.memory, color=INK, linewidth=3, alpha=0.35, label=f"to remember: {probe.name}")
            label = f"from the cell of unit {probe.unit} alone, R² {probe.one_r2:.2f}"
            axis.plot(t, probe.one_cell, color=ORANGE, linewidth=1.1, label=label)
            label = f"from all {N} cells, R² {probe.all_r2:.2f}"
            axis.plot(t, probe.all_cells, color=BLUE, linewidth=1.1, label=label)
            axis.set_title("what the cells hold, read linearly")
            axis.legend(fontsize=7.5, loc="upper left", bbox_to_anchor=(0, -0.02), ncols=1)
        for axis in rest:
            axis.set_ylabel(f"{N} units")
            axis.set_yticks([])
        title = f"cell c, as a share of each unit's largest ({found.scale.min():.2g} to {found.scale.max():.2g})"
        cells = trace.c / np.maximum(found.scale, 1e-9)
        _heat(figure, rest.pop(0), example, cells[:, found.order], "RdBu_r", (-1.0, 1.0), title)
        for name, title in GATES:
            gate = np.clip(getattr(trace, name)[:, found.order], LOGITS[0], LOGITS[-1])
            ends = _logit(LOGITS[0]), _logit(LOGITS[-1])
            bar = _heat(
                figure, rest.pop(0), example, _logit(gate), "Greys", ends, f"{title} (white closed, black open)"
            )
            bar.set_ticks([_logit(p) for p in LOGITS], labels=map(str, LOGITS))
        limit = float(np.nanmax(np.abs(trace.g), initial=1e-9))
        _heat(figure, rest.pop(0), example, trace.g[:, found.order], "RdBu_r", (-limit, limit), "candidate g")
        _time_axis(axes, example)
    plt.close(figure)
    return figure


def _panels(heights: Sequence[float]) -> tuple[Figure, Any]:
    figure, axes = plt.subplots(
        len(heights), 1, sharex=True, figsize=(WIDTH, sum(heights) + 0.36 * len(heights) + 0.3),
        height_ratios=heights, layout="constrained",
    )  # fmt: skip
    return figure, axes


def _steps(example: Example) -> np.ndarray:
    return np.arange(example.first, example.first + len(example.x))


def _time_axis(axes: Any, example: Example) -> None:
    t = _steps(example)
    axes[-1].set_xlim(t[0] - 0.5, t[-1] + 0.5)
    symbols = _symbols(example)
    if symbols is None or example.inputs is None or len(t) > LETTERS:
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes[-1].set_xlabel("time step")
    else:
        axes[-1].set_xticks(t, [example.inputs[s] for s in symbols], fontsize=8)
        axes[-1].set_xlabel(f"input symbol of time steps {t[0]} to {t[-1]}")


def _symbols(example: Example) -> np.ndarray | None:
    """The columns that are 1, where x is one-hot at every step."""
    x = example.x
    if x.shape[1] > 1 and ((x == 0) | (x == 1)).all() and (x.sum(axis=1) == 1).all():
        return x.argmax(axis=1)
    return None


def _input_height(example: Example) -> float:
    D = example.x.shape[1]
    return 1.0 if D <= LINES and _symbols(example) is None else min(0.3 + 0.12 * D, 2.2)


def _draw_input(axis: Any, example: Example) -> None:
    x, t, D = example.x, _steps(example), example.x.shape[1]
    names = example.inputs or [f"x{d}" for d in range(D)] if D > 1 else example.inputs or ["x"]
    axis.set_title("input")
    if D <= LINES and _symbols(example) is None:
        for d, color in zip(range(D), COLORS, strict=False):
            few = len(np.unique(x[:, d])) <= 3
            style: Any = {"drawstyle": "steps-mid"} if few else {}
            if len(t) == 1:
                style = {"marker": "o"}
            axis.plot(t, x[:, d], color=color, linewidth=1.1, label=names[d], zorder=3 - d, **style)
        if D > 1:
            axis.legend(fontsize=8, ncols=D, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
        return
    limit = float(np.abs(x).max()) or 1.0
    signed = x.min() < 0
    axis.imshow(
        x.T, aspect="auto", interpolation="nearest", cmap="RdBu_r" if signed else "Greys",
        vmin=-limit if signed else 0, vmax=limit, extent=(t[0] - 0.5, t[-1] + 0.5, D - 0.5, -0.5),
    )  # fmt: skip
    _rows(axis, example.inputs, D)


def _rows(axis: Any, names: Sequence[str] | None, K: int) -> None:
    """Name the rows of a heat map; many are not named."""
    if K <= 16:
        axis.set_yticks(range(K), names or map(str, range(K)), fontsize=7)
    else:
        axis.set_yticks([])
        axis.set_ylabel(f"{K} columns")


def _draw_lines(axis: Any, example: Example, figure: Figure) -> None:
    t, K = _steps(example), example.outputs.shape[1]
    for k, color in zip(range(K), COLORS, strict=False):
        name = (example.names[k] if example.names else f"{k}") + " " if K > 1 else ""
        if example.values is not None:
            target = example.values[:, k]
            there = np.isfinite(np.concatenate([[np.nan], target, [np.nan]]))
            alone = there[1:-1] & ~there[:-2] & ~there[2:]  # no line would show these
            label = f"{name}target"
            if alone.any():
                circle: Any = {"markersize": 7, "markerfacecolor": "none", "clip_on": False, "label": label}
                axis.plot(t[alone], target[alone], "o", color=INK, **circle)
                label = None
            if alone.sum() == 1:
                axis.axhline(target[alone][0], color=INK, linewidth=0.8, linestyle=":")
            axis.plot(t, target, color=INK, linewidth=3, alpha=0.35, label=label)
        label = f"{name}output" if example.every_step else f"{name}readout of each step's h"
        axis.plot(t, example.outputs[:, k], color=color, linewidth=1.3, label=label)
        if not example.every_step or len(t) == 1:
            label = f"{name}output" if not example.every_step else None
            axis.plot(t[-1], example.outputs[-1, k], "o", color=color, markersize=4, clip_on=False, label=label)
    axis.set_title("output and target")
    axis.legend(fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)


def _draw_chances(axis: Any, example: Example, figure: Figure) -> None:
    """Draw outputs as a heat map, a row an output, and mark what would be right."""
    t, K, shown = _steps(example), example.outputs.shape[1], example.outputs
    small = 40.0 if len(t) <= LETTERS or not example.every_step else 8.0
    extent = (t[0] - 0.5, t[-1] + 0.5, K - 0.5, -0.5)
    signed = np.nanmin(shown) < -0.05
    limit = max(1.0, float(np.nanmax(np.abs(shown))))
    image = axis.imshow(
        shown.T, aspect="auto", interpolation="nearest", extent=extent, cmap="RdBu_r" if signed else "Blues",
        vmin=-limit if signed else 0, vmax=limit,
    )  # fmt: skip
    figure.colorbar(image, ax=axis, fraction=0.03, pad=0.01, aspect=10)
    words = []
    right = example.values > 0.5 if example.values is not None and example.legal is None else example.legal
    if right is not None:
        step, row = np.nonzero(right)
        axis.scatter(t[step], row, s=small, facecolors="none", edgecolors=ORANGE, linewidths=1.0)
        words.append("circle: what may come" if example.legal is not None else "circle: target above 0.5")
    if example.classes is not None:
        step = np.flatnonzero(example.classes >= 0)
        axis.scatter(t[step], example.classes[step], s=small / 6 if len(step) > 1 else small, color=ORANGE)
        words.append("dot: what came" if example.legal is not None else "dot: right")
    _rows(axis, example.names, K)
    axis.set_title("output" + (f" ({', '.join(words)})" if words else ""))


def _draw_bars(axis: Any, example: Example) -> None:
    """Draw the outputs after the last step, where there are none before."""
    outputs, K = example.outputs[-1], example.outputs.shape[1]
    right = np.zeros(K, bool)
    if example.classes is not None:
        right[example.classes[-1]] = True
    axis.sharex(axis)
    axis.barh(range(K), outputs, color=[ORANGE if r else BLUE for r in right], height=0.7)
    if example.values is not None:
        axis.plot(example.values[-1], range(K), "o", color=INK, markersize=6, markerfacecolor="none")
    axis.invert_yaxis()
    _rows(axis, example.names, K)
    said = "orange: the right class" if right.any() else "circle: target"
    axis.set_title(f"output after the last step ({said})")


def _logit(p: Any) -> Any:
    return np.log(p) - np.log1p(-np.asarray(p))


def _heat(figure: Figure, axis: Any, example: Example, values: np.ndarray, cmap: str, limits: Any, title: str) -> Any:
    t = _steps(example)
    image = axis.imshow(
        values.T, aspect="auto", interpolation="nearest", cmap=cmap, vmin=limits[0], vmax=limits[1],
        extent=(t[0] - 0.5, t[-1] + 0.5, values.shape[1] - 0.5, -0.5),
    )  # fmt: skip
    axis.set_facecolor(GREY)
    axis.set_title(title)
    bar = figure.colorbar(image, ax=axis, fraction=0.03, pad=0.01, aspect=12)
    bar.ax.tick_params(labelsize=7.5)
    return bar
