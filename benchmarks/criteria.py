"""The targets of docs/backends.md: each ratio wanted, the one measured, and whether it is met.

A row of forward or step is met when its ratio holds or when jlstm reaches SHARES of the matrix-product peak; a tie is
TIE. The plain scan counts among the JAX libraries, which can only make a criterion harder.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from benchmarks.cases import Shape

TIE = 0.97
SHARES = {"forward": 0.92, "step": 0.88}
FORWARD_OVER_JAX = {(1, 100, 32, 64): 1.5, (32, 100, 32, 128): 1.5, (64, 256, 128, 256): 1.3}
STEP = {(1, 100, 32, 64): 1.5, (64, 256, 128, 256): 1.5, (32, 100, 32, 128): 1.3, (128, 100, 256, 512): 1.15}
MANY_OVER_SCAN = 5.0
STREAMING_OVER_ONNXRUNTIME = 1.2  # our latency may be so many times theirs
XLA = 0.95
ADDING = 0.5  # our time to the target may be so much of theirs


class Criterion(NamedTuple):
    """One target against one run. wanted and measured are ratios of speed: theirs is our speed over theirs.

    share: of the measured peak, where it may stand in for the ratio; None elsewhere.
    """

    what: str
    against: str
    wanted: float
    measured: float
    share: float | None
    met: bool


def judge(tables: Iterable[Mapping[str, Any]], peak: float | None) -> list[Criterion]:
    """Hold a run's tables against the targets.

    Args:
        tables: as sections.py makes them: section, shape, gflop and rows {peer: {kind, median, ...}}.
        peak: GFLOP/s of the matrix product in the same run; None where it was not measured.
    """
    found = []
    for table in tables:
        rows = {name: row["median"] for name, row in table["rows"].items()}
        if table["section"] in SHARES:
            found += _row(table, rows, peak) + _xla(table, rows)
        elif table["section"] == "many" and {"jlstm", "scan"} <= rows.keys():
            found.append(_criterion("eight models", "scan", MANY_OVER_SCAN, rows["scan"] / rows["jlstm"]))
        elif table["section"] == "streaming" and {"jlstm", "onnxruntime"} <= rows.keys():
            ratio = rows["onnxruntime"] / rows["jlstm"]
            found.append(_criterion("streaming step", "onnxruntime", 1 / STREAMING_OVER_ONNXRUNTIME, ratio))
    return found


def judge_adding(seconds: Mapping[str, float]) -> list[Criterion]:
    """Hold the wall times to the target, by library, against the targets."""
    return [
        _criterion("adding to its target", name, 1 / ADDING, seconds[name] / seconds["jlstm"])
        for name in seconds
        if not name.startswith("jlstm")
    ]


def _row(table, rows, peak):
    if "jlstm" not in rows:
        return []
    section, shape = table["section"], Shape(*table["shape"])
    share = table["gflop"] / rows["jlstm"] / peak if peak else None
    wanted = []
    if section == "forward":
        wanted = [("any", TIE), ("jax", FORWARD_OVER_JAX.get(shape))]
    elif shape.T > 1:
        wanted = [("any", STEP.get(shape, 1.15))]
    found = []
    for kind, ratio in wanted:
        best = _best(table, rows, kind)
        if ratio is not None and best is not None:
            what = f"{section} {shape}, best {'JAX library' if kind == 'jax' else 'of any kind'}"
            found.append(_criterion(what, best, ratio, rows[best] / rows["jlstm"], share, SHARES[section]))
    return found


def _xla(table, rows):
    best = _best(table, rows, "jax")
    if "jlstm-xla" not in rows or best is None:
        return []
    what = f"xla, {table['section']} {Shape(*table['shape'])}, best JAX library"
    return [_criterion(what, best, XLA, rows[best] / rows["jlstm-xla"])]


def _best(table, rows, kind):
    kinds = ("jax",) if kind == "jax" else ("jax", "other")
    names = [name for name in rows if table["rows"][name]["kind"] in kinds]
    return min(names, key=rows.__getitem__, default=None)


def _criterion(what, against, wanted, measured, share=None, enough=1.0):
    return Criterion(what, against, wanted, measured, share, measured >= wanted or (share or 0.0) >= enough)
