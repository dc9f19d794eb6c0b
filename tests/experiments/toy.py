"""The toy task of these tests and the command line with it: in process as `run`, or as a program.

python toy.py train CONFIG ...
"""

import contextlib
import dataclasses
import io
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import jax
import jax.numpy as jnp

from experiments import __main__ as cli
from experiments import distributed, report, scoring, steps, train
from experiments.tasks import TASKS, Batch

CONFIG = """# The toy.
#
# Command: none.

[task]
name = "toy"

[model]
units = 4

[optimizer]
learning_rate = 0.01

[train]
steps = 20
batch_size = 4
seeds = 2
log_every = 1
evaluate_every = 5
checkpoint_every = 5
steps_per_call = 4
"""


@dataclass(frozen=True)
class Toy:
    """Sum T numbers. Source: none; the runner's tests need a task."""

    length: int = 5  # steps
    bad_at: int = -1  # the step of the stream at which targets become infinite; -1: never

    input_size = 1
    output_size = 1
    every_step = False
    loss_on = "the last step"

    def __post_init__(self):
        if self.length < 2:
            raise ValueError(f"length must be at least 2, got {self.length}")

    def stream(self, key, batch_size):
        """Carry a count of the batches drawn, and a key, which checkpoints must bring back."""
        return {"count": jnp.zeros((), jnp.int32), "key": key}

    def sample(self, key, stream, batch_size):
        """Draw numbers by the key, moved by what the stream carries."""
        offset = jax.random.uniform(jax.random.fold_in(stream["key"], stream["count"]))
        batch = self._draw(key, batch_size, 0.1 * offset)
        target = jnp.where(stream["count"] == self.bad_at, jnp.inf, batch.target)
        return {**stream, "count": stream["count"] + 1}, batch._replace(target=target)

    def loss(self, outputs, batch):
        """Mean squared error."""
        return jnp.mean(jnp.square(outputs - batch.target))

    def evaluation(self, key):
        """Draw 16 sequences."""
        return self._draw(key, 16, 0.0)

    def metrics(self, outputs, batch):
        """Mean squared error."""
        return {"mse": jnp.mean(jnp.square(outputs - batch.target))}

    def baseline(self):
        """Always 0: the variance of the sum of `length` numbers U[-1, 1] over its length."""
        return {"mse": 1 / 3}

    def _draw(self, key, batch_size, offset):
        x = jax.random.uniform(key, (batch_size, self.length, 1), minval=-1.0) + offset
        return Batch(x, x.sum(axis=1) / self.length**0.5)


TASKS["toy"] = Toy


def compiled_once(function, copy=lambda value: value):
    """Let runs of one program in one process share its compilation; what only the host reads is left out of the key."""
    known = {}

    def shared(config, *more):
        part = dataclasses.replace(config.train, log_every=1, evaluate_every=1, checkpoint_every=1)
        if config.optimizer.schedule == "constant":
            part = dataclasses.replace(part, steps=1)
        key = repr((dataclasses.replace(config, train=part, target=None), more))
        if key not in known:
            known[key] = function(config, *more)
        return copy(known[key])

    return shared


train.make_call = steps.make_call = compiled_once(steps.make_call)
train.make_scores = scoring.make_scores = compiled_once(scoring.make_scores)
train.init = steps.init = compiled_once(steps.init, lambda state: jax.tree.map(lambda leaf: leaf.copy(), state))
report.make_predict = compiled_once(report.make_predict)

# Its program and its pictures take 2 s a run; the tests of reports bring it back.
example_figures = report.example_figures
report.example_figures = lambda *_: {}


def write_config(folder: Path, more: str = "", **changes: object) -> Path:
    """Write the toy's config, single keys changed by name, tables added behind."""
    lines = CONFIG.splitlines()
    for key, value in changes.items():
        lines = [f"{key} = {value}" if line.startswith(f"{key} =") else line for line in lines]
    path = folder / "toy.toml"
    path.write_text("\n".join(lines) + "\n" + more)
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    """Run the command line in process: (exit status, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main([str(a) for a in arguments])
    return status, out.getvalue(), err.getvalue()


def die_in_save(number: int) -> None:
    """Let the process die by SIGKILL inside its n-th save: orbax has written, and not yet renamed."""
    import orbax.checkpoint as ocp

    saves, write = [], ocp.CompositeCheckpointHandler.save

    def dying(self, *args, **kwargs):
        write(self, *args, **kwargs)
        saves.append(1)
        if len(saves) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    ocp.CompositeCheckpointHandler.save = dying


def die_in_call(number: int) -> None:
    """Let the process end by SIGTERM before its n-th call, which other processes wait in."""
    make = train.make_call

    def dying(config, *more):
        call, calls = make(config, *more), []

        def counted(state, end):
            calls.append(end)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return call(state, end)

        return counted

    train.make_call = dying


def main(arguments: list[str]) -> NoReturn:
    """Run the command line as a program does, which dies where the environment says."""
    if "KILL_IN_CALL" in os.environ:
        die_in_call(int(os.environ["KILL_IN_CALL"]))
    if "KILL_IN_SAVE" in os.environ:
        die_in_save(int(os.environ["KILL_IN_SAVE"]))
    distributed.leave(cli.main(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
