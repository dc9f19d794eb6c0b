"""Training: all seeds at once by vmap, many steps a dispatch, resumable to the bit.

One jitted call runs up to `steps_per_call` steps of every seed on the device, data included, and the host fetches
the losses of call k after it has dispatched call k + 1. Calls end where a step is a multiple of steps_per_call,
evaluate_every or checkpoint_every: a function of the step alone, so a resumed run makes the calls of one that was
never stopped.
"""

import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import checkpoint, results
from experiments.config import Config, Train, to_tables
from experiments.devices import ONE, Devices
from experiments.model import ModelParams
from experiments.profiling import Profiler
from experiments.rundir import Lines, RunError, Stopped, Unwritten, read_lines
from experiments.scoring import make_scores
from experiments.steps import init, make_call

Array = jax.Array


class Trained(NamedTuple):
    """What training hands back: the parameters [S, ...], the steps and seconds that they took, and the last state.

    second: {metric: [S]} on the second evaluation set, see scoring.py.
    """

    params: ModelParams
    step: int
    seconds: float
    state: Any
    second: Mapping[str, list[float | None]]


class Training(NamedTuple):
    """What `run` drives: the training of one config, `alone`, or of several (together.py); states have params, step.

    init() -> state. call(state, end) -> (state, losses [steps_per_call, S]). evaluate(params) -> {metric: [S]}.
    second(params) -> the same, called once at the end. sound(losses [S]) -> whether training may go on after them.
    done(state, evaluations) -> whether success ends it.
    """

    init: Callable[[], Any]
    call: Callable[[Any, int], tuple[Any, Array]]
    evaluate: Callable[[ModelParams], Mapping[str, Array | np.ndarray]]
    second: Callable[[ModelParams], Mapping[str, Array | np.ndarray]]
    sound: Callable[[np.ndarray], bool]
    done: Callable[[Any, list[dict[str, Any]]], bool]


def call_ends(train: Train, start: int) -> Iterator[int]:
    """Yield the steps at which the calls after step `start` end."""
    step = start
    while step < train.steps:
        every = (train.steps_per_call, train.evaluate_every, train.checkpoint_every)
        step = min([train.steps, *((step // n + 1) * n for n in every)])
        yield step


def alone(config: Config, devices: Devices = ONE) -> Training:
    """Build the training of one config."""
    scores = make_scores(config, devices)
    return Training(
        init=functools.partial(init, config),
        call=make_call(config, devices),
        evaluate=scores.evaluate,
        second=scores.second,
        sound=lambda losses: bool(np.isfinite(losses).all()),
        done=lambda state, evaluations: results.succeeded(config, evaluations),
    )


def run(
    config: Config,
    path: Any,
    report: Callable[[int, float, dict[str, list[float | None]]], None],
    devices: Devices = ONE,
    training: Training | None = None,
    profiler: Profiler | None = None,
) -> Trained:
    """Train from the newest checkpoint, or from step 0, to train.steps or success; write metrics and checkpoints.

    Args:
        config: the run.
        path: its directory, locked and prepared; only process 0 reads it and writes to it.
        report: called with (step, mean loss, metrics so far) as losses come in.
        devices: where to compute. Every process of several makes this call.
        training: what trains, where it is not this config alone.
        profiler: told of every call.

    Raises:
        Stopped: a loss or a parameter is not finite; what was last good is saved.
    """
    train = config.train
    began = time.monotonic()
    training = alone(config, devices) if training is None else training
    state = training.init() if devices.first else jax.eval_shape(training.init)
    saved = checkpoint.latest(path / "checkpoints", state) if devices.first else None
    if saved is not None and not _logged(train, read_lines(path / "metrics.jsonl", saved[0]), saved[0]):
        print(f"warning: {path}/metrics.jsonl lacks lines before step {saved[0]}; starting at step 0", file=sys.stderr)
        saved = None
    start, state = saved if saved is not None else (0, state)
    lines = Lines if devices.first else Unwritten
    metrics, timing = lines(path / "metrics.jsonl", start), lines(path / "timing.jsonl", start)
    before = timing.last["seconds"] if timing.last else 0.0
    evaluations = results.evaluations(read_lines(path / "metrics.jsonl")) if devices.first else []
    start, evaluations = devices.told([start, evaluations])
    state = devices.given(state)
    tables = to_tables(config)

    def seconds() -> float:
        return before + time.monotonic() - began

    def save(step: int) -> None:
        if not devices.first:
            return
        metrics.sync()
        timing.append({"step": step, "seconds": round(seconds(), 3)})
        checkpoint.save(path / "checkpoints", step, state, tables)

    def log(first: int, end: int, losses: Array, scores: Mapping[str, Any]) -> None:
        """Write the lines of one call; an evaluation belongs to its last step."""
        with jax.profiler.TraceAnnotation(f"wait for steps {first + 1} to {end}"):
            values = np.asarray(losses)
        found = plain_scores(scores)
        for step in range(first + 1, end + 1):
            row = values[step - first - 1]
            if not training.sound(row):
                if devices.first and step - 1 not in checkpoint.steps(path / "checkpoints"):
                    save(step - 1)
                raise Stopped(
                    f"{path}: loss or parameters not finite at step {step}; the state of step {step - 1} is saved"
                )
            if step % train.log_every == 0 or step == train.steps or (step == end and found):
                line = {
                    "step": step,
                    "loss": plain(finite_mean(row)),
                    "losses": [*map(plain, row)],
                }
                metrics.append(line | (found if step == end else {}))
        if found:
            evaluations.append({"step": end, **found})
        report(end, finite_mean(values[end - first - 1]), found)

    pending, first, done, warm = None, start, training.done(state, evaluations), False
    try:
        for end in call_ends(train, start):
            if done:
                break
            if profiler is not None:
                profiler.before_call(first, warm, state)
            with jax.profiler.TraceAnnotation(f"dispatch steps {first + 1} to {end}"):
                state, losses = training.call(state, end)
            last = end == train.steps
            scores = training.evaluate(state.params) if last or end % train.evaluate_every == 0 else {}
            warm = warm or bool(scores)
            if pending is not None:
                log(*pending)
            pending, first = (first, end, losses, scores), end
            if scores and train.stop_after:  # whether it goes on hangs on these scores, so they are waited for
                log(*pending)
                pending, done = None, training.done(state, evaluations)
            if last or done or end % train.checkpoint_every == 0:
                if pending is not None:
                    log(*pending)  # the lines before the checkpoint that stands for them
                pending = None
                save(end)
        second = plain_scores(training.second(state.params))
        if devices.first:
            timing.append({"step": int(state.step), "seconds": round(seconds(), 3)})
    finally:
        if profiler is not None:
            profiler.close(first)
        metrics.close()
        timing.close()
    devices.awaited = True
    return Trained(devices.local(state.params), int(state.step), seconds(), state, second)


def _logged(train: Train, lines: list[dict[str, Any]], step: int) -> bool:
    """Whether the lines up to a step are all there; a line may be lost with a file, never with a kill."""
    return {s for s in range(1, step + 1) if s % train.log_every == 0} <= {line["step"] for line in lines}


def restore(config: Config, path: Any) -> tuple[int, ModelParams]:
    """Read the parameters of a run's newest checkpoint.

    Raises:
        RunError: it has none.
    """
    saved = checkpoint.latest(path / "checkpoints", init(config))
    if saved is None:
        raise RunError(f"{path} holds no complete checkpoint; go on training it: `train CONFIG --out DIR --resume`")
    return saved[0], saved[1].params


def finite_mean(losses: np.ndarray) -> float:
    """The mean of what is finite; NaN where nothing is."""
    finite = losses[np.isfinite(losses)].astype(np.float64)
    return float(finite.mean()) if finite.size else np.nan


def plain_scores(scores: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Write {metric: [S]} as plain numbers."""
    return {name: [plain(v) for v in np.asarray(value)] for name, value in scores.items()}


def plain(value: Any) -> float | None:
    """Write a float32 as the shortest decimal that gives it back; JSON has no NaN, so that becomes null."""
    return float(f"{value:.9g}") if np.isfinite(value) else None
