"""Steps a second of the experiments' runner beside the same model, optimizer and batches in torch.

    python -m benchmarks.experiment_speed [--samples 9] [--out DIRECTORY]

A step is one update of every seed. The runner (experiments/steps.py) draws its batches inside the step, trains all
seeds in one program and makes `steps_per_call` steps a dispatch. Torch gets the same batches, drawn in advance, and
trains one model after the other: nn.LSTM, autograd, clip_grad_norm_, Adam (foreach), LambdaLR, eager, as its users
write it. Both start from the same weights, and before a time is taken the losses of their first steps are compared.
Compilation is outside of the times, and reported by itself.
"""

import argparse
import datetime
import sys
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.markdown import Markdown

from benchmarks import machine, measure, report, trainers
from experiments import steps
from experiments.config import Config, load
from experiments.tasks import Batch

ROOT = Path(__file__).parent.parent
CONFIGS = {  # config, and the case of it
    "adding, T = 100 to 110": ("adding", "t100"),
    "embedded Reber grammar, T to 39": ("embedded_reber", ""),
}
SEEDS = (1, 8)
STEPS = 25  # a sample, and a dispatch
COMPARED = 5  # steps of which the losses have to agree
TOLERANCE = 1e-3  # relative; a few updates by Adam make rounding's differences larger


class TorchReber(trainers.Torch):
    """Cross entropy of the next symbol at every valid step; targets are -100 behind a string's end."""

    def _loss(self, outputs, target):
        return self.torch.nn.functional.cross_entropy(outputs.flatten(0, 1), target.flatten())

    def _predict(self, x, last):
        return self.readout(self.lstm(x)[0])


TORCH = {"adding": trainers.Torch, "embedded_reber": TorchReber}


class Runner:
    """The experiments' own training, STEPS steps a call."""

    def __init__(self, config: Config):
        self.state = steps.init(config)
        began = time.perf_counter()
        self.call = steps.make_call(config).lower(self.state, self.state.step).compile()
        self.compile_seconds = time.perf_counter() - began

    def __call__(self) -> np.ndarray:
        """Make the next steps: losses [STEPS, S]."""
        self.state, losses = self.call(self.state, self.state.step + STEPS)
        return np.asarray(losses)


class OneByOne:
    """A torch model for each seed, each trained STEPS steps in its turn, from the runner's weights on its batches."""

    def __init__(self, name: str, config: Config):
        state = steps.init(config)
        drawn = jax.device_get(state.params), draw(config, state.key)
        self.models = []
        for seed in range(config.train.seeds):
            params, batches = jax.tree.map(lambda a, s=seed: a[s], drawn)
            test = jax.tree.map(lambda a: a[0], batches)  # nobody looks at it
            self.models.append(TORCH[name](config, trainers.Problem(params, batches, test)))

    def __call__(self) -> np.ndarray:
        """Make steps on the first STEPS batches: losses [STEPS, S]."""
        return np.array([[float(loss) for loss in model.update(0, STEPS)] for model in self.models]).T


def draw(config: Config, keys: jax.Array) -> Batch:
    """Draw the batches that the runner draws in its first STEPS steps, as NumPy's arrays [S, STEPS, ...]."""

    def one(key, number):
        data_key = jax.random.fold_in(jax.random.fold_in(key, steps.DATA), number)
        return config.task.sample(data_key, (), config.train.batch_size)[1]

    of_steps = jax.vmap(one, in_axes=(None, 0))
    batch = jax.device_get(jax.jit(jax.vmap(of_steps, in_axes=(0, None)))(keys, np.arange(STEPS)))
    if hasattr(batch.target, "symbol"):
        valid = np.arange(batch.x.shape[3]) < batch.lengths[..., None]
        batch = batch._replace(target=np.where(valid, batch.target.symbol, -100).astype(np.int64))
    return batch


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and save; exit with 1 where losses disagree."""
    options = _parser().parse_args(arguments)
    console, others, rows = Console(), machine.Others(), []
    for title, (name, case) in CONFIGS.items():
        for seeds in SEEDS:
            changes = ["--train.seeds", str(seeds), "--train.steps-per-call", str(STEPS)]
            experiment = load(ROOT / "configs" / f"{name}.toml", changes)
            config = experiment.cases[case] if case else experiment.base
            ours, torch = Runner(config), OneByOne(name, config)
            apart = np.abs(ours()[:COMPARED] / torch()[:COMPARED] - 1).max()
            if not apart < TOLERANCE:
                console.print(f"{title}, {seeds} seeds: losses of the first steps differ by {apart:.1e}, relative")
                return 1
            with console.status(f"{title}, {seeds} seeds") as status:
                said = lambda who, status=status: status.update(f"{title}, {seeds} seeds: {who}")  # noqa: B023, E731
                found = measure.measure({"runner": ours, "torch": torch}, options.samples, progress=said)
            rows.append(
                {
                    "task": title, "seeds": seeds, "batch_size": config.train.batch_size, "units": config.model.units,
                    "compile_seconds": ours.compile_seconds, "losses_apart": float(apart),
                    **{who: {"median": t.median, "samples": t.samples, "cores": t.cores} for who, t in found.items()},
                }
            )  # fmt: skip
    lines = _save(options.out, rows, others.cores())
    console.print(Markdown("\n".join(lines)))
    return 0


def _save(folder, rows, busy):
    described = machine.describe()
    lines = [
        "# Steps a second of the experiments' runner and of torch",
        "",
        f"{machine.line(described)}; {datetime.date.today()}.",
        "",
        f"A step updates the model of every seed. Medians of {len(rows[0]['torch']['samples'])} samples of {STEPS} "
        "steps, the two in turn. The runner draws its batches inside the step and trains all seeds in one program; "
        "torch has them in memory and trains one model after the other.",
        "",
        "| task | seeds | batch | units | runner, steps/s | torch, steps/s | torch's time over ours | compiled in, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, torch = (STEPS / row[who]["median"] for who in ("runner", "torch"))
        lines.append(
            f"| {row['task']} | {row['seeds']} | {row['batch_size']} | {row['units']} | {ours:,.0f} | {torch:,.0f} "
            f"| {ours / torch:.1f} | {row['compile_seconds']:.1f} |"
        )
    if busy is not None:
        lines += ["", f"Other programs used {busy:.2f} cores of the machine meanwhile."]
    data = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": described,
        "cores_used_by_others": busy,
        "steps_a_sample": STEPS,
        "rows": rows,
    }
    report.save(folder, "experiment_speed", data, [*lines, ""])
    return lines


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiment_speed", description="Time training steps.")
    parser.add_argument("--samples", type=int, default=9, help="of each, each of 25 steps")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
