"""Time training the adding problem to its target in jlstm, torch and Keras: same model, optimizer and batches.

    python -m benchmarks.to_target [--repeats 3] [--units 32] [--out DIRECTORY]

configs/adding.toml (its case t100) gives the task (100 to 110 pairs), the model (an LSTM with chrono initialisation and
a linear readout of the last valid output), Adam with clipping and the cosine schedule, and the target: 99.9 % of 2,560
unseen sequences right. Repeat r starts every library from the same weights, and gives it the same batches, drawn in
advance. Rounding parts their ways after some hundred updates, so the number of updates differs a little: the time of
one update is reported too. Whole runs alternate between the libraries; the clock starts with weights and batches in
memory and ends with the first evaluation that meets the target. Compilation is inside it, and reported by itself as
well. Importing a library, drawing batches and a first short run that loads its code are outside.
"""

import argparse
import dataclasses
import datetime
import os
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")  # read once, when keras is imported

import jax
import numpy as np
from rich.console import Console
from rich.markdown import Markdown

from benchmarks import criteria, machine, report, trainers
from experiments.config import Config, load, to_tables
from experiments.model import build
from experiments.tasks.adding import TOLERANCE

ROOT = Path(__file__).parent.parent
REST = 0.5  # s between runs: the threads of the one before come to rest


class Outcome(NamedTuple):
    """One run: wall seconds until the target was met, those of compilation in them, updates, and the last score."""

    seconds: float
    compile_seconds: float
    updates: int
    correct: float


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; exit with 1 if a run missed the target."""
    options = _parser().parse_args(arguments)
    console = Console()
    overrides = ["--model.units", str(options.units), "--train.evaluate-every", str(options.evaluate_every)]
    overrides += ["--train.batch-size", str(options.batch_size)]
    config = load(ROOT / "configs" / "adding.toml", overrides).cases["t100"]
    found: dict[str, list[Outcome]] = {}
    others = machine.Others()
    with console.status("") as status:
        chosen = _available(options.libraries, config, console)
        for repeat in range(options.repeats):
            problem = draw(config, repeat)
            order = list(chosen)[repeat % len(chosen) :] + list(chosen)[: repeat % len(chosen)]
            for name in order:
                status.update(f"repeat {repeat + 1} of {options.repeats}: {name}")
                time.sleep(REST)
                found.setdefault(name, []).append(to_target(chosen[name], config, problem))
    lines = _save(options.out, config, {name: found[name] for name in chosen}, others.cores())
    console.print(Markdown("\n".join(lines)))
    return int(any(o.correct <= config.target.value for outcomes in found.values() for o in outcomes))


def draw(config: Config, repeat: int) -> trainers.Problem:
    """Draw weights, all training batches and the test set of one repeat, as NumPy arrays."""
    key = jax.random.fold_in(jax.random.key(config.train.seed), repeat)
    init_key, data_key, test_key = jax.random.split(key, 3)

    def batch(key):
        return config.task.sample(key, (), config.train.batch_size)[1]

    batches = jax.jit(jax.vmap(batch))(jax.random.split(data_key, config.train.steps))
    test = jax.jit(config.task.evaluation)(test_key)
    params = build(config).init(init_key)
    return jax.tree.map(np.asarray, trainers.Problem(params, batches, test))


def to_target(trainer: type, config: Config, problem: trainers.Problem) -> Outcome:
    """Train until the target is met or the config's steps are done."""
    every = config.train.evaluate_every
    start = time.perf_counter()
    run = trainer(config, problem)
    updates, correct = 0, 0.0
    while updates < config.train.steps and not correct > config.target.value:
        end = min(updates + every, config.train.steps)
        predicted = run.advance(updates, end)
        correct = float(np.mean(np.abs(predicted - problem.test.target) < TOLERANCE))
        updates = end
    return Outcome(time.perf_counter() - start, run.compile_seconds, updates, correct)


def _available(names, config, console):
    """Keep the libraries that work, by a run of a few updates, which also loads their code."""
    short = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=8, evaluate_every=4))
    problem, found = draw(short, 0), {}
    for name in names:
        try:
            to_target(trainers.TRAINERS[name], short, problem)
        except Exception as error:  # whatever a library raises: it is left out, and the run goes on
            console.print(f"{name} is not available: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            continue
        found[name] = trainers.TRAINERS[name]
    return found


def _save(folder, config, found, busy):
    """Write to_target.json and to_target.md, and give the lines."""
    described, N = machine.describe(), config.model.units
    medians = {name: statistics.median(o.seconds for o in outcomes) for name, outcomes in found.items()}
    judged = criteria.judge_adding(medians) if "jlstm" in medians else []
    lines = [
        "# Training the adding problem to its target",
        "",
        f"{machine.line(described)}; {datetime.date.today()}.",
        "",
        f"T = {config.task.length} to {config.task.max_length}, N = {N}, batches of {config.train.batch_size}; medians "
        f"of {max(map(len, found.values()), default=0)} runs. Seconds until {config.target.value:.1%} of the test set "
        "are right, compilation included; an update's time is without compilation, with its share of evaluation.",
        "",
        "| | wall, s | min to max | of it compiling, s | updates | ms an update | times jlstm's time |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, outcomes in found.items():
        wall = [o.seconds for o in outcomes]
        compiling, updates = (statistics.median(v) for v in zip(*((o[1], o[2]) for o in outcomes), strict=True))
        each = statistics.median((o.seconds - o.compile_seconds) / o.updates for o in outcomes) * 1e3
        ratio = f"{medians[name] / medians['jlstm']:.2f}" if "jlstm" in medians else "-"
        missed = sum(o.correct <= config.target.value for o in outcomes)
        lines.append(
            f"| {name}{f' ({missed} missed the target)' if missed else ''} | {medians[name]:.2f} "
            f"| {min(wall):.2f} to {max(wall):.2f} | {compiling:.2f} | {updates:.0f} | {each:.2f} | {ratio} |"
        )
    lines += ["", *report.criteria(judged)]
    data = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": described,
        "cores_used_by_others": busy,
        "config": to_tables(config),
        "runs": {name: [o._asdict() for o in outcomes] for name, outcomes in found.items()},
        "criteria": [criterion._asdict() for criterion in judged],
    }
    report.save(folder, "to_target", data, lines)
    return lines


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.to_target", description="Time training to a target.")
    names = tuple(trainers.TRAINERS)
    parser.add_argument("--libraries", nargs="+", choices=names, default=names)
    parser.add_argument("--repeats", type=int, default=3, help="whole runs of each library")
    parser.add_argument("--units", type=int, default=32, help="N")
    parser.add_argument("--batch-size", type=int, default=8, help="B")
    parser.add_argument("--evaluate-every", type=int, default=125, help="updates between evaluations")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
