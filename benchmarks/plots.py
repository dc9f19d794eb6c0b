"""The pictures of a run: rates by shape against the peak, and how cost grows along T, B and N."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks.cases import Shape

DPI = 144
STYLE: Any = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "figure.dpi": DPI,
    "axes.titlesize": 10, "axes.titlelocation": "left", "axes.grid": True, "grid.color": "#e4e4e4",
}  # fmt: skip
LOOKS = {  # name: color, marker; jlstm alone is filled and dark
    "jlstm": ("#12345e", "o"), "jlstm-cpu": ("#4a7ab5", "o"), "jlstm-xla": ("#8fb4dc", "o"), "scan": ("#8a8a8a", "x"),
    "linen": ("#2f8f4e", "^"), "nnx": ("#77bb6a", "v"), "equinox": ("#8e5ea8", "s"), "haiku": ("#b79bc9", "D"),
    "keras": ("#c02f2f", "P"), "torch": ("#e2711d", "*"), "onnxruntime": ("#c9a227", "h"), "keras-tf": ("#7d1a1a", "p"),
}  # fmt: skip
SECTIONS = {"forward": "forward", "step": "training step"}


def rates(tables: Sequence[Mapping[str, Any]], peak: float | None) -> Figure:
    """Draw GFLOP/s of every peer at every shape, forward and step, with the matrix product's rate as a line."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.2), sharey=True, layout="constrained")
        for axis, (section, title) in zip(axes, SECTIONS.items(), strict=True):
            chosen = [t for t in tables if t["section"] == section and "sweep" not in t]
            for place, found in enumerate(chosen):
                names = list(found["rows"])
                for number, name in enumerate(names):
                    color, marker = LOOKS.get(name, ("black", "."))
                    offset = 0.7 * (number / max(len(names) - 1, 1) - 0.5)
                    rate = found["gflop"] / found["rows"][name]["median"]
                    axis.plot(place + offset, rate, marker, color=color, label=name)
            axis.set_xticks(range(len(chosen)), ["({},{},\n{},{})".format(*t["shape"]) for t in chosen], fontsize=8)
            axis.set(yscale="log", title=title, xlabel="(B,T,D,N)")
            axis.grid(False, axis="x")
            if peak:
                axis.axhline(peak, color="#1a1a1a", linewidth=0.9, linestyle="--", label="matrix product, 2048 wide")
        axes[0].set_ylabel("GFLOP/s, higher is better")
        figure.legend(*_legend(axes.flat), loc="outside right center")
    plt.close(figure)
    return figure


def growth(tables: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the time over T, B and N, forward above and step below."""
    names_of_axes = list(dict.fromkeys(t["sweep"] for t in tables))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            2, len(names_of_axes), figsize=(3.6 * len(names_of_axes), 6), squeeze=False, layout="constrained"
        )
        for row, section in enumerate(SECTIONS):
            for column, swept in enumerate(names_of_axes):
                axis = axes[row, column]
                chosen = [t for t in tables if t["sweep"] == swept and t["section"] == section]
                for name in dict.fromkeys(name for t in chosen for name in t["rows"]):
                    points = [(_size(t, swept), t["rows"][name]["median"] * 1e3) for t in chosen if name in t["rows"]]
                    color, marker = LOOKS.get(name, ("black", "."))
                    axis.plot(*zip(*points, strict=True), marker=marker, color=color, label=name, markersize=4)
                axis.set(xscale="log", yscale="log", xlabel=swept, ylabel="ms" if column == 0 else "")
                axis.set_xticks(sizes := [_size(t, swept) for t in chosen], map(str, sizes))
                axis.minorticks_off()
                fixed = {k: v for k, v in Shape(*chosen[0]["shape"])._asdict().items() if k != swept}
                axis.set_title(f"{SECTIONS[section]}; " + ", ".join(f"{k}={v}" for k, v in fixed.items()), fontsize=8)
        figure.legend(*_legend(axes.flat), loc="outside lower center", ncols=3 * len(names_of_axes))
    plt.close(figure)
    return figure


def _legend(axes) -> tuple[list, list]:
    """Give the handles and labels of all axes, each label once."""
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)


def _size(table: Mapping[str, Any], axis: str) -> int:
    return Shape(*table["shape"])._asdict()[axis]
