"""Time jlstm beside other LSTMs on this machine's CPU; print and save tables, JSON and a plot.

    python -m benchmarks [--quick] [--sweep [T B N]] [--sections forward step] [--shapes 32,100,32,128] [--out FOLDER]

The protocol is in measure.py. A library that is not installed is a printed line. A full run takes about 25 minutes.
"""

import argparse
import datetime
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")  # read once, when keras is imported

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import criteria, keras_tf, long_sequences, machine, plots, report, sections
from benchmarks.cases import MANY, MIDDLE, SHAPES, STREAM, Shape
from benchmarks.measure import PEAK_GFLOP, REST

SECTIONS = ("forward", "step", "streaming", "many", "memory", "compile")
QUICK_SHAPES, QUICK_SAMPLES = SHAPES[:3], 3
BUSY = 0.1  # cores that other programs may use, on average, before a run warns
OUT = Path(__file__).parent.parent / "docs" / "benchmarks"
MEMORY_SHAPE = Shape(long_sequences.B, long_sequences.T, long_sequences.D, long_sequences.N)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; the exit status says nothing of the criteria."""
    options = _parser().parse_args(arguments)
    keras_tf.KerasTensorFlow.python = options.tensorflow
    if options.peers is None:
        options.peers = tuple(name for name in sections.PEERS if name != "keras-tf" or options.tensorflow)
    console = Console()
    with console.status("") as status:
        common = sections.Options(
            peers=options.peers,
            samples=options.samples or (QUICK_SAMPLES if options.quick else 12),
            rest=options.rest,
            say=console.print,
            progress=status.update,
        )
        lines = run(options, common)
    console.print(Markdown("\n".join(lines)))
    console.print(f"saved under {options.out}")
    return 0


def run(options: argparse.Namespace, common: sections.Options) -> list[str]:
    """Run the sections, save what there is after each table, and give the report's lines."""
    others = machine.Others()
    tables, swept, peak, memory, lines = [], [], [], [], []
    for kind, found in _measured(options, common, peak):
        {"table": tables, "sweep": swept, "memory": memory}[kind] += found
        lines = _save(options.out, common, tables, swept, peak, memory, others.cores())
    busy = others.cores()
    if busy and busy > BUSY:
        common.say(f"warning: other programs used {busy} cores meanwhile; trust nothing but a run on a quiet machine")
    return lines


def _measured(options, common, peak):
    """Yield (kind, list of findings) as they come: "table", "sweep" or "memory"."""
    for section in options.sections:
        if section in ("forward", "step"):
            for shape in options.shapes or (QUICK_SHAPES if options.quick else SHAPES):
                yield "table", [sections.timed(section, shape, common, peak)]
        elif section == "many":
            yield "table", [sections.timed(section, MANY, common, peak)]
        elif section == "streaming":
            for name in ("streaming", "streaming_numpy"):
                yield "table", [sections.timed(name, STREAM, common)]
        elif section == "compile":
            yield "table", sections.compile_times(MIDDLE, common, 1 if options.quick else 3)
        else:
            common.progress("memory")
            yield "memory", long_sequences.memory(("auto", "cpu", "xla"), common.say)
    axes = () if options.sweep is None else options.sweep or sections.SWEEPS  # --sweep without a name: all
    for axis in axes:
        yield "sweep", sections.sweep(axis, common)


def _save(folder, common, tables, swept, peak, memory, busy):
    """Write results.json, results.md and the pictures, and give the lines of results.md."""
    described, rate = machine.describe(), report.gflops(peak, PEAK_GFLOP)
    judged = criteria.judge(tables, rate)
    lines = [
        "# Benchmarks",
        "",
        f"{machine.line(described)}; {datetime.date.today()}; medians of {common.samples} samples or more.",
        "",
        f"A 2048-wide float32 matrix product ran at {rate:.0f} GFLOP/s (median)." if rate else "No peak was measured.",
        "",
        *report.overview(tables),
        *(line for table in tables for line in report.table(table, rate)),
        *(report.memory(memory, MEMORY_SHAPE) if memory else []),
        *report.criteria(judged),
    ]
    data = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": described,
        "cores_used_by_others": busy,
        "samples": common.samples,
        "rest_s": common.rest,
        "peak": {"gflops": rate, "samples": peak},
        "tables": tables,
        "sweeps": swept,
        "memory": memory,
        "criteria": [criterion._asdict() for criterion in judged],
    }
    report.save(folder, "results", data, lines)
    if any(table["section"] in ("forward", "step") and table["rows"] for table in tables):
        plots.rates(tables, rate).savefig(folder / "results.png")
    if swept:
        plots.growth(swept).savefig(folder / "sweeps.png")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--peers", nargs="+", choices=tuple(sections.PEERS), help="default: all")
    parser.add_argument("--tensorflow", metavar="PYTHON", help="interpreter with keras and tensorflow, for keras-tf")
    parser.add_argument("--shapes", nargs="+", type=_shape, metavar="B,T,D,N", help="of forward and step")
    parser.add_argument("--samples", type=int, help="of each peer at each shape (default: 12; with --quick 3)")
    parser.add_argument("--rest", type=float, default=REST, help="seconds before each block")
    parser.add_argument("--quick", action="store_true", help="three shapes, few samples")
    parser.add_argument(
        "--sweep",
        nargs="*",
        choices=tuple(sections.SWEEPS),
        help="also along T, B and N, or those named, around the middle shape",
    )
    parser.add_argument("--out", type=Path, default=OUT, help="directory (default: docs/benchmarks)")
    return parser


def _shape(text: str) -> Shape:
    try:
        shape = Shape(*map(int, text.strip("()").split(",")))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"must be B,T,D,N, got {text!r}") from None
    if min(shape) < 1:
        raise argparse.ArgumentTypeError(f"must be positive sizes, got {text!r}")
    return shape


if __name__ == "__main__":
    sys.exit(main())
