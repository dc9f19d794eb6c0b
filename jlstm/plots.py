"""plot_gates: a picture of what `inspect` records, a column for each LSTM, a row for each gate, cell and output."""

from collections.abc import Iterator
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from jlstm import checks
from jlstm.facts import GATE_NAMES
from jlstm.inspection import LSTMTrace
from jlstm.types import GATES, Directions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = {gate: f"{gate}: {GATE_NAMES[gate]}" for gate in GATES} | {"c": "c: cell", "h": "h: output"}
SIGNED = ("g", "c", "h")  # drawn in red above 0 and blue below; the gates proper are open or closed
NAMED_UNITS = 8  # units at most that are numbered along the side
INK, MASKED = "#1a1a1a", "#c9ccd1"
STYLE: Any = {
    "font.size": 9, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.titlesize": 9, "axes.titlelocation": "left", "hatch.linewidth": 0.6, "figure.dpi": 120,
}  # fmt: skip


def plot_gates(trace: Any, row: int = 0) -> "Figure":
    """Draw gates, candidate, cell and output of one row of a batch over time, as heat maps, a line a unit.

    A gate is white where it is closed (0) and black where it is open (1); candidate, cell and output are red above 0
    and blue below. Where a step was masked the gates are hatched, since none was computed, and c and h are those that
    were kept; values that are not finite, as diverged weights give, are hatched too. Time is in the order of the
    layer's input, for a backward layer too.

    Args:
        trace: what jlstm.inspect returned, for an LSTM, a Bidirectional or a Stack.
        row: which row of the batch.

    Returns:
        A figure of matplotlib with a column for each LSTM, titled by the path that leads to it from the spec. No
        window holds it: a notebook shows it as the value of a cell, `savefig` writes it.

    Raises:
        TypeError: trace is something else, or row is no integer.
        ValueError: the batch has no such row, or the trace no time step.
        ImportError: matplotlib is not installed.

    Example:
        >>> import jax, jax.numpy as jnp, jlstm
        >>> layer = jlstm.Bidirectional(jlstm.LSTM(4, return_sequences=True))
        >>> params, x = layer.init(jax.random.key(0), input_size=3), jnp.ones((2, 7, 3))
        >>> figure = jlstm.plot_gates(jlstm.inspect(layer, params, layer.initial_state(2), x), row=1)
        >>> [axis.get_title("left") for axis in figure.axes][:2]
        ['forward  i: input gate', 'backward  i: input gate']
    """
    traces = list(_by_path(trace))
    for path, one in traces:
        for name in ROWS:
            shape, where = np.shape(getattr(one, name)), f"{path}.{name}" if path else name
            if len(shape) != 3:
                raise ValueError(f"trace must have arrays of shape [B, T, N], got {where} of {list(shape)}")
            if shape[1] == 0:
                raise ValueError(f"trace must have one time step or more, got {where} of {list(shape)}")
    B = np.shape(traces[0][1].c)[0]
    if isinstance(row, (bool, np.bool_)) or not isinstance(row, Integral):
        raise TypeError(f"row must be an integer, got {checks.show(row)}")
    if not 0 <= row < B:
        raise ValueError(f"row must be in [0, {B - 1}], got {row}")
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ImportError("plot_gates needs matplotlib, which is not installed: pip install 'jlstm[train]'") from error

    tall = float(np.clip(0.04 * max(np.shape(one.c)[2] for _, one in traces), 0.55, 1.6))  # inches
    with plt.rc_context(STYLE):
        size = (0.8 + 4.4 * len(traces), (tall + 0.3) * len(ROWS) + 0.4)
        figure, axes = plt.subplots(
            len(ROWS), len(traces), figsize=size, sharex="col", squeeze=False, layout="constrained"
        )
        for column, (path, one) in zip(axes.T, traces, strict=True):
            for axis, (name, words) in zip(column, ROWS.items(), strict=True):
                _panel(figure, axis, name, np.asarray(getattr(one, name)[row], float))
                axis.set_title(f"{path}  {words}" if path else words)
            hatched = any(axis.patches for axis in column)
            column[-1].set_xlabel("time step" + (" (hatched: masked, or not finite)" if hatched else ""))
    plt.close(figure)
    return figure


def _panel(figure: Any, axis: Any, name: str, values: np.ndarray) -> None:
    """Draw values [T, N], hatched where they are not finite."""
    from matplotlib.patches import Rectangle

    T, N = values.shape
    missing = ~np.isfinite(values)
    values = np.where(missing, np.nan, values)
    if name in SIGNED:
        limit = float(np.nanmax(np.abs(values), initial=1e-9))
        ticks, colors = (-limit, 0.0, limit), "RdBu_r"
    else:  # other activations than a sigmoid may leave [0, 1]
        ticks, colors = (float(np.nanmin(values, initial=0.0)), float(np.nanmax(values, initial=1.0))), "Greys"
    image = axis.imshow(
        values.T, aspect="auto", interpolation="nearest", extent=(-0.5, T - 0.5, N - 0.5, -0.5),
        cmap=colors, vmin=ticks[0], vmax=ticks[-1],
    )  # fmt: skip
    for t, n, steps, units in _rectangles(missing):
        corner = t - 0.5, n - 0.5
        axis.add_patch(Rectangle(corner, steps, units, facecolor=MASKED, edgecolor=INK, hatch="////", linewidth=0))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_yticks(range(N) if N <= NAMED_UNITS else [])
    axis.set_ylabel("unit" if N <= NAMED_UNITS else f"{N} units")
    bar = figure.colorbar(image, ax=axis, fraction=0.03, pad=0.01, aspect=10)
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])


def _rectangles(flags: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """Cover what is True of [T, N] with rectangles (t, n, steps, units), a run of equal steps at a time."""
    changes = np.flatnonzero((flags[1:] != flags[:-1]).any(axis=1)) + 1
    for first, end in pairwise([0, *changes.tolist(), len(flags)]):
        edges = np.flatnonzero(np.diff(flags[first], prepend=False, append=False)).tolist()
        for n, after in zip(edges[::2], edges[1::2], strict=True):
            yield first, n, end - first, after - n


def _by_path(trace: Any, path: str = "") -> Iterator[tuple[str, LSTMTrace]]:
    """Go through the LSTMs of a trace, each with the path that leads to it from the spec, "" for the spec itself."""
    dot = f"{path}." if path else ""
    if isinstance(trace, LSTMTrace):
        yield path, trace
    elif isinstance(trace, Directions):
        yield from _by_path(trace.forward, f"{dot}forward")
        yield from _by_path(trace.backward, f"{dot}backward")
    elif isinstance(trace, tuple) and trace:
        for number, one in enumerate(trace):
            yield from _by_path(one, f"{dot}layers[{number}]")
    else:
        got = checks.show(trace)
        raise TypeError(f"trace{f' at {path}' if path else ''} must be what jlstm.inspect returns, got {got}")
