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
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import checkpoint, results
from experiments.config import Config, ConfigError, Train, to_tables
from experiments.devices import ONE, Devices
from experiments.model import ModelParams, SequenceModel, build
from experiments.optimizer import optimizer
from experiments.profiling import Profiler
from experiments.rundir import Lines, RunError, Stopped, Unwritten, read_lines
from experiments.tasks import Batch

Array = jax.Array
# What a seed's key is folded with: one stream of random numbers for each purpose.
INIT, DATA, DROPOUT, STREAM = range(4)
EVALUATION = 2**31 - 1  # folded into the base key, where the seeds count up from 0


class TrainState(NamedTuple):
    """Everything that a step reads and writes; leading axis S (seeds) on all but the step.

    carry: the LSTM's state between steps, () unless [train] stateful. stream: the task's own. step: [] int32,
    updates done.
    """

    params: ModelParams
    opt_state: Any
    carry: Any
    stream: Any
    key: Array
    step: Array


class Trained(NamedTuple):
    """What training hands back: the parameters [S, ...], the steps and seconds that they took, and the last state."""

    params: ModelParams
    step: int
    seconds: float
    state: Any


class Training(NamedTuple):
    """What `run` drives: the training of one config, `alone`, or of several (together.py); states have params, step.

    init() -> state. call(state, end) -> (state, losses [steps_per_call, S]). evaluate(params) -> {metric: [S]}.
    sound(losses [S]) -> whether training may go on after them. done(state, evaluations) -> whether success ends it.
    """

    init: Callable[[], Any]
    call: Callable[[Any, int], tuple[Any, Array]]
    evaluate: Callable[[ModelParams], Mapping[str, Array | np.ndarray]]
    sound: Callable[[np.ndarray], bool]
    done: Callable[[Any, list[dict[str, Any]]], bool]


def init(config: Config) -> TrainState:
    """Draw the state of step 0 for all seeds; model s depends on (train.seed, s) alone."""
    return init_from(config, seed_keys(config.train))


def seed_keys(train: Train) -> Array:
    """Make the key of each seed, [S]."""
    base = jax.random.key(train.seed)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(base, jnp.arange(train.seeds))


def init_from(config: Config, keys: Array) -> TrainState:
    """Draw the state of step 0, a model for each key."""
    task, model, train = config.task, build(config), config.train

    @jax.jit
    @jax.vmap
    def one(key):
        params = model.init(jax.random.fold_in(key, INIT))
        carry = model.initial_state(train.batch_size) if train.stateful else ()
        stream = task.stream(jax.random.fold_in(key, STREAM), train.batch_size)
        return params, optimizer(config).init(params), carry, stream

    return TrainState(*one(keys), key=keys, step=jnp.zeros((), jnp.int32))


def make_call(config: Config, devices: Devices = ONE) -> Callable[[TrainState, int], tuple[TrainState, Array]]:
    """Build `call(state, end) -> (state, losses [steps_per_call, S])`, jitted, its state donated.

    It runs the steps up to `end`. A step whose losses or new parameters are not finite is not taken and ends the
    call, so the state is always the last good one; its row of losses is NaN.
    """
    one = jax.vmap(make_step(config, devices), in_axes=(0, 0, 0, 0, 0, None))

    # A loop with a bound known at run time, where a scan has a fixed length: calls of every length are one program,
    # so where calls end cannot change a digit.
    def call(state: TrainState, end: Array) -> tuple[TrainState, Array]:
        start = state.step

        def going(loop):
            state, _, good = loop
            return good & (state.step < end)

        def body(loop):
            state, losses, _ = loop
            with jax.named_scope("train_step"):
                *new, loss = one(state.params, state.opt_state, state.carry, state.stream, state.key, state.step)
            good = jnp.isfinite(loss).all()
            for leaf in jax.tree.leaves(new[0]):
                good &= jnp.isfinite(leaf).all()
            new = TrainState(*new, key=state.key, step=state.step + 1)
            kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
            losses = losses.at[state.step - start].set(jnp.where(good, loss, jnp.nan))
            return kept, losses, good

        losses = jnp.full((config.train.steps_per_call, config.train.seeds), jnp.nan, jnp.float32)
        state, losses, _ = jax.lax.while_loop(going, body, (state, losses, jnp.asarray(True)))
        return state, losses

    return devices.jit(call, donate_argnums=0)


def make_predict(config: Config) -> Callable[..., Array]:
    """Build `predict(params, x, lengths=None) -> outputs [S, ...]`, jitted; every row from the zero state."""
    model = build(config)

    def predict(params: ModelParams, x: Array, lengths: Array | None = None) -> Array:
        # One seed after the other: an evaluation set times all seeds is the largest array of a run.
        return jax.lax.map(lambda p: _outputs(model, p, Batch(x, (), lengths)), params)

    return jax.jit(predict)


def make_evaluate(config: Config, devices: Devices = ONE) -> Callable[[ModelParams], dict[str, Array]]:
    """Build `evaluate(params) -> {metric: [S]}` on the config's fixed evaluation set."""
    batch = evaluation_batch(config)
    return functools.partial(make_score(config, devices), batch=devices.cut(batch, batch.x.shape[0]))


def evaluation_key(seed: int) -> Array:
    """Make the key from which a base seed's evaluation set is drawn."""
    return jax.random.fold_in(jax.random.key(seed), EVALUATION)


def make_score(config: Config, devices: Devices = ONE) -> Callable[..., dict[str, Array]]:
    """Build `score(params, batch) -> {metric: [S]}`, jitted."""
    task, model = config.task, build(config)

    def score(params, batch):
        return jax.lax.map(lambda p: task.metrics(_outputs(model, p, batch), batch), params)

    return devices.jit(score)


def evaluation_batch(config: Config) -> Batch:
    """Draw the config's fixed evaluation set."""
    return _evaluation(config.task, config.train.seed)


@functools.lru_cache(maxsize=1)  # the report of a run draws one of the sequences that its training was scored on
def _evaluation(task: Any, seed: int) -> Batch:
    return jax.jit(task.evaluation)(evaluation_key(seed))


def check(config: Config, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Raise, before anything is trained or written, where the model cannot run or the target's metric cannot come.

    Args:
        config: the run.
        where: the config file's name, for the message.

    Returns:
        The names of the metrics that each evaluation gives, and of the task's final figures.
    """
    task, target, model = config.task, config.target, build(config)

    def score(key):
        batch = task.evaluation(key)
        state = model.initial_state(batch.x.shape[0])
        _, outputs, _ = model.penalised(model.init(key), state, batch.x, batch.lengths, key, reset=batch.reset)
        return task.metrics(outputs, batch)

    try:
        metrics = tuple(jax.eval_shape(score, jax.random.key(0)))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: [model]: {' '.join(str(error).split())}") from error
    finals = ()
    if hasattr(task, "final"):
        shape = (task.output_size,)
        finals = tuple(task.final(lambda x: np.zeros((1, *x.shape[: 2 if task.every_step else 1], *shape), np.float32)))
    if target is not None and target.metric not in metrics + finals:
        allowed = ", ".join(metrics + finals)
        raise ConfigError(f"{where}: [target] metric must be one of {allowed}, got {target.metric!r}")
    if config.train.stop_after and (target is None or target.metric not in metrics or target.at_most is not None):
        raise ConfigError(
            f"{where}: [train] stop_after needs a [target] that each evaluation gives ({', '.join(metrics)}) "
            "and that is to be reached, without at_most"
        )
    return metrics, finals


def call_ends(train: Train, start: int) -> Iterator[int]:
    """Yield the steps at which the calls after step `start` end."""
    step = start
    while step < train.steps:
        every = (train.steps_per_call, train.evaluate_every, train.checkpoint_every)
        step = min([train.steps, *((step // n + 1) * n for n in every)])
        yield step


def alone(config: Config, devices: Devices = ONE) -> Training:
    """Build the training of one config."""
    return Training(
        init=functools.partial(init, config),
        call=make_call(config, devices),
        evaluate=make_evaluate(config, devices),
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
        found = {name: [plain(v) for v in np.asarray(value)] for name, value in scores.items()}
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
    finally:
        if profiler is not None:
            profiler.close(first)
        metrics.close()
        timing.close()
    devices.awaited = True
    return Trained(devices.local(state.params), int(state.step), seconds(), state)


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


def make_step(config: Config, devices: Devices = ONE) -> Callable[..., tuple]:
    """Build one step of one seed: draw, differentiate, update, constrain."""
    task, model, train = config.task, build(config), config.train

    def step(params, opt_state, carry, stream, key, number, inputs=None):
        data_key = jax.random.fold_in(jax.random.fold_in(key, DATA), number)
        dropout_key = jax.random.fold_in(jax.random.fold_in(key, DROPOUT), number)
        stream, batch = devices.draw(task.sample, data_key, stream, train.batch_size)
        before = jax.lax.stop_gradient(carry) if train.stateful else model.initial_state(train.batch_size)
        before = devices.split(before)

        def loss(params):
            after, outputs, penalty = model.penalised(
                params, before, batch.x, batch.lengths, dropout_key, reset=batch.reset
            )
            return task.loss(outputs, batch) + penalty, after

        (value, after), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer(config, inputs).update(gradient, opt_state, params)
        params = model.constrain(cast(ModelParams, optax.apply_updates(params, updates)))
        return params, opt_state, devices.split(after) if train.stateful else (), stream, value

    return step


def finite_mean(losses: np.ndarray) -> float:
    """The mean of what is finite; NaN where nothing is."""
    finite = losses[np.isfinite(losses)].astype(np.float64)
    return float(finite.mean()) if finite.size else np.nan


def plain(value: Any) -> float | None:
    """Write a float32 as the shortest decimal that gives it back; JSON has no NaN, so that becomes null."""
    return float(f"{value:.9g}") if np.isfinite(value) else None


def _outputs(model: SequenceModel, params: ModelParams, batch: Batch) -> Array:
    state = model.initial_state(batch.x.shape[0])
    return model.apply(params, state, batch.x, batch.lengths, reset=batch.reset)[1]
