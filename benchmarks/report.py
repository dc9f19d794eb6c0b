"""What a run leaves: lines on the console, Markdown tables for the README, JSON with every sample."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import Shape
from benchmarks.criteria import Criterion

UNITS = {"streaming": ("µs", 1e6), "streaming_numpy": ("µs", 1e6)}
MS = ("ms", 1e3)
TITLES = {
    "forward": "Forward",
    "step": "Training step",
    "many": "Eight models at once, training step",
    "streaming": "Streaming: one step of batch 1",
    "streaming_numpy": "Streaming, x from NumPy and y to NumPy",
    "compile forward": "Compile time, forward",
    "compile step": "Compile time, training step",
}


def gflops(peak: Sequence[float], peak_gflop: float) -> float | None:
    """Give the median rate of the matrix products, GFLOP/s."""
    return peak_gflop / statistics.median(peak) if peak else None


def table(found: Mapping[str, Any], peak: float | None) -> list[str]:
    """Write one table as Markdown; the ratio is a row's time over that of jlstm (backend="auto")."""
    unit, scale = UNITS.get(found["section"], MS)
    rows, gflop = found["rows"], found["gflop"]
    title = TITLES[found["section"]]
    size = f", {gflop:.3g} GFLOP" if gflop else ""
    ours = rows.get("jlstm", {}).get("median")
    lines = [f"### {title}, (B,T,D,N) = {Shape(*found['shape'])}{size}", ""]
    lines += [
        f"| | median, {unit} | min to max | GFLOP/s | of the peak | cores | times jlstm's time |",
        "|---" * 7 + "|",
    ]
    best = min((row["median"] for row in rows.values()), default=None)
    for name, row in rows.items():
        median, low, high = (f"{row[key] * scale:.3g}" for key in ("median", "min", "max"))
        rate = gflop / row["median"] if gflop else None
        cells = [
            name,
            f"**{median}**" if row["median"] == best else median,
            f"{low} to {high}",
            f"{rate:.3g}" if rate else "-",
            f"{rate / peak:.0%}" if rate and peak and gflop > 1e-3 else "-",
            f"{row['cores']:.1f}" if row["cores"] > 0.5 else "-",  # less: a process of its own
            f"{row['median'] / ours:.2f}" if ours else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, *(f"\n{name} is left out: {reason}" for name, reason in found["left_out"].items()), ""]


def overview(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write one Markdown table of forward / step over all shapes, in ms, a row for each peer."""
    cells: dict[str, dict[Shape, dict[str, float]]] = {}
    shapes: list[Shape] = []
    for found in tables:
        if found["section"] in ("forward", "step") and "sweep" not in found:
            shape = Shape(*found["shape"])
            shapes += [shape] if shape not in shapes else []
            for name, row in found["rows"].items():
                cells.setdefault(name, {}).setdefault(shape, {})[found["section"]] = row["median"]
    if not cells:
        return []
    lines = ["### Forward / training step, ms", ""]
    lines += ["| (B,T,D,N) | " + " | ".join(map(str, shapes)) + " |", "|---" * (len(shapes) + 1) + "|"]
    for name, by_shape in cells.items():
        pairs = [by_shape.get(shape, {}) for shape in shapes]
        texts = [" / ".join(f"{p[s] * 1e3:.3g}" if s in p else "-" for s in ("forward", "step")) for p in pairs]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return [*lines, ""]


def criteria(found: Sequence[Criterion]) -> list[str]:
    """Write the targets as Markdown: wanted, measured, met or not."""
    lines = [
        "### Criteria",
        "",
        "| | against | speed wanted | measured | of the peak | met |",
        "|---|---|---|---|---|---|",
    ]
    for c in found:
        share = f"{c.share:.0%}" if c.share is not None else "-"
        met = "yes" if c.met else "**no**"
        lines.append(f"| {c.what} | {c.against} | {c.wanted:.2f} | {c.measured:.2f} | {share} | {met} |")
    return [*lines, "", f"{sum(c.met for c in found)} of {len(found)} are met.", ""]


def memory(rows: Sequence[Mapping[str, Any]], shape: Sequence[int]) -> list[str]:
    """Write the temporary memory of a training step on a long sequence as Markdown."""
    lines = [f"### Memory of a training step, (B,T,D,N) = {Shape(*shape)}", ""]
    lines += ["| | remat_every | temporary memory, MiB |", "|---|---|---|"]
    lines += [f"| {row['peer']} | {row['remat_every']} | {row['mib']:.0f} |" for row in rows]
    return [*lines, ""]


def save(folder: Path, name: str, data: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Write NAME.json and NAME.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")
