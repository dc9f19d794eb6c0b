"""Scoring: models on the evaluation set that is looked at in training, and once on a second one that is not."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config, ConfigError
from experiments.devices import ONE, Devices
from experiments.model import ModelParams, SequenceModel, build
from experiments.tasks import Batch

Array = jax.Array
# Folded into the base key, where the seeds count up from 0: the set that training is scored on, and the second.
EVALUATION, SECOND = 2**31 - 1, 2**31 - 2


class Scores(NamedTuple):
    """Functions that score models: params -> {metric: [S]}.

    evaluate: on the fixed evaluation set, at which training is looked at and may be ended. second: on a set of the
    same kind from another key, which nothing was chosen by; {} where the task's set is the same for every key.
    """

    evaluate: Callable[[ModelParams], dict[str, Array]]
    second: Callable[[ModelParams], dict[str, Array]]


def make_predict(config: Config) -> Callable[..., Array]:
    """Build `predict(params, x, lengths=None) -> outputs [S, ...]`, jitted; every row from the zero state."""
    model = build(config)

    def predict(params: ModelParams, x: Array, lengths: Array | None = None) -> Array:
        # One seed after the other: an evaluation set times all seeds is the largest array of a run.
        return jax.lax.map(lambda p: _outputs(model, p, Batch(x, (), lengths)), params)

    return jax.jit(predict)


def make_scores(config: Config, devices: Devices = ONE) -> Scores:
    """Build what scores models on the evaluation set and, by the same program unless in parts, on the second one."""
    task, score = config.task, make_score(config, devices)
    batch = evaluation_batch(config)
    rows = batch.x.shape[0]
    evaluate = functools.partial(score, batch=devices.cut(batch, rows))
    parts = getattr(task, "second_parts", 1)

    def second(params: ModelParams) -> dict[str, Array]:
        if parts > 1:
            return _in_parts(config, devices, params, parts)
        other = jax.jit(task.evaluation)(_second_key(config.train.seed))
        return {} if _alike(other, evaluation_batch(config)) else score(params, batch=devices.cut(other, rows))

    return Scores(evaluate, second)


def make_score(config: Config, devices: Devices = ONE) -> Callable[..., dict[str, Array]]:
    """Build `score(params, batch) -> {metric: [S]}`, jitted."""
    task, model = config.task, build(config)

    def score(params, batch):
        return jax.lax.map(lambda p: task.metrics(_outputs(model, p, batch), batch), params)

    return devices.jit(score)


def evaluation_batch(config: Config) -> Batch:
    """Draw the config's fixed evaluation set."""
    return _evaluation(config.task, config.train.seed)


def evaluation_key(seed: int) -> Array:
    """Make the key from which a base seed's evaluation set is drawn."""
    return jax.random.fold_in(jax.random.key(seed), EVALUATION)


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


def _outputs(model: SequenceModel, params: ModelParams, batch: Batch) -> Array:
    state = model.initial_state(batch.x.shape[0])
    return model.apply(params, state, batch.x, batch.lengths, reset=batch.reset)[1]


def _in_parts(config: Config, devices: Devices, params: ModelParams, parts: int) -> dict[str, Array]:
    """Score on a second set that is too large to be held: x of one part after the other, and the outputs of all."""
    task, model = config.task, build(config)
    predict = devices.jit(lambda params, batch: jax.lax.map(lambda p: _outputs(model, p, batch), params))
    draw = jax.jit(task.evaluation)
    outputs, batches, batch = [], [], None
    for part in range(parts):
        del batch  # or two of them are held at once
        batch = draw(_second_key(config.train.seed, part))
        outputs.append(np.asarray(predict(params, devices.cut(batch, batch.x.shape[0]))))
        batches.append(jax.tree.map(np.asarray, batch._replace(x=None)))
    batch = jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
    return jax.jit(jax.vmap(task.metrics, in_axes=(0, None)))(np.concatenate(outputs, axis=1), batch)


@functools.lru_cache(maxsize=1)  # the report of a run draws one of the sequences that its training was scored on
def _evaluation(task: Any, seed: int) -> Batch:
    return jax.jit(task.evaluation)(evaluation_key(seed))


def _second_key(seed: int, part: int = 0) -> Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), SECOND), part)


def _alike(one: Batch, other: Batch) -> bool:
    """Whether two sets are the same: the key chooses nothing."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(bool(jnp.array_equal(a, b)) for a, b in pairs)
