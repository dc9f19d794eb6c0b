"""Training a group of configs in one XLA program: they differ in numbers that it takes as inputs, such as the rate.

Their models stand beside the seeds on the one axis that is there already: M configs of S seeds are M * S models, each
with its own learning rate, spread over the devices (model_axis.py). A model whose loss is not finite stops there, and
its config's figures with it, as alone; the others go on.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import results, scoring, steps, train
from experiments.config import Config
from experiments.model import ModelParams
from experiments.model_axis import ModelAxis, spread
from experiments.progress import Report
from experiments.rundir import read_lines
from experiments.steps import TrainState

Array = jax.Array
INPUTS = ("learning_rate", "clip", "weight_decay")  # of [optimizer]


class Together(NamedTuple):
    """What training carries, leading axis M * S. bad: int32, the step that was not taken, 0 for none."""

    models: TrainState
    bad: Array

    @property
    def params(self) -> ModelParams:
        """Those of all models."""
        return self.models.params

    @property
    def step(self) -> Array:
        """Updates done."""
        return self.models.step


class Outcome(NamedTuple):
    """What the training of one config left, as `train.run` would alone.

    lines: its part of metrics.jsonl, up to its own end. params: [S, ...]. bad_step: the step whose loss or new
    parameters were not finite, None where all were.
    """

    lines: list[dict[str, Any]]
    params: ModelParams
    bad_step: int | None


def run(configs: Sequence[Config], path: Path, report: Report) -> tuple[list[Outcome], float]:
    """Train configs in one program, from the newest checkpoint or from step 0, as `train.run` does with one.

    Args:
        configs: they may differ in what `traced` takes and in [train] seed.
        path: their directory, locked and prepared; its metrics.jsonl has the values of config 0's seeds first.
        report: as for `train.run`.

    Returns:
        An outcome for each config, and the seconds that they took.
    """
    axis = spread(len(configs) * configs[0].train.seeds)
    done = train.run(configs[0], path, report, training=training(configs, axis))
    lines, seeds = read_lines(path / "metrics.jsonl", done.step), configs[0].train.seeds
    params, bad = jax.device_get(done.params), np.asarray(done.state.bad)
    found = []
    for number, config in enumerate(configs):
        rows = slice(number * seeds, (number + 1) * seeds)
        own, bad_step = _own_lines(config, lines, rows, _first_bad(bad[rows]))
        found.append(Outcome(own, jax.tree.map(lambda leaf, rows=rows: leaf[rows], params), bad_step))
    return found, done.seconds


def training(configs: Sequence[Config], axis: ModelAxis) -> train.Training:
    """Build what `train.run` drives, for several configs."""
    return train.Training(
        init=functools.partial(init, configs),
        call=make_call(configs, axis),
        evaluate=make_evaluate(configs, axis),
        second=lambda params: {},  # members are compared, and chosen, by the first set
        sound=lambda losses: True,  # the call itself stops a model that is not
        done=_make_done(configs),
    )


def traced(configs: Sequence[Config]) -> dict[str, Array]:
    """Give the numbers of [optimizer] in which configs differ, [M * S] each."""
    found = {}
    for name in INPUTS:
        values = [getattr(config.optimizer, name) for config in configs]
        if len(set(values)) > 1:
            found[name] = jnp.repeat(jnp.asarray(values, jnp.float32), configs[0].train.seeds)
    return found


def init(configs: Sequence[Config]) -> Together:
    """Draw the state of step 0; each config's part is what `steps.init` draws for it."""
    keys = jnp.concatenate([steps.seed_keys(config.train) for config in configs])
    return Together(steps.init_from(configs[0], keys), jnp.zeros(keys.shape, jnp.int32))


def make_call(configs: Sequence[Config], axis: ModelAxis) -> Callable[[Together, int], tuple[Together, Array]]:
    """Build `call(state, end) -> (state, losses [steps_per_call, M * S])`, as `steps.make_call`."""
    config = configs[0]
    one = jax.vmap(steps.make_step(config), in_axes=(0, 0, 0, 0, 0, None, 0))

    def take(span: tuple[Array, Array], models: tuple, inputs: dict[str, Array]) -> tuple[tuple, Array]:
        """Take the steps from span[0] to span[1] with the models of one device, whose keys and `bad` come last."""
        start, end = span
        *parts, key, bad = models

        def going(loop):
            step, (*_, bad), _ = loop
            return (bad == 0).any() & (step < end)

        def body(loop):
            step, (*parts, bad), losses = loop
            with jax.named_scope("train_step"):
                *new, loss = one(*parts, key, step, inputs)
            good = jnp.isfinite(loss)
            for leaf in jax.tree.leaves(new[0]):
                good &= jnp.isfinite(leaf).reshape(len(loss), -1).all(1)
            good &= bad == 0
            kept = jax.tree.map(functools.partial(_where, good), new, parts)
            losses = losses.at[:, step - start].set(jnp.where(good, loss, jnp.nan))
            return step + 1, (*kept, jnp.where((bad == 0) & ~good, step + 1, bad)), losses

        losses = jnp.full((len(bad), config.train.steps_per_call), jnp.nan, jnp.float32)
        _, (*parts, bad), losses = jax.lax.while_loop(going, body, (start, (*parts, bad), losses))
        return (*parts, key, bad), losses

    jitted, inputs = axis.jit(take, donate_argnums=1), axis.place(traced(configs))

    def call(state: Together, end: int) -> tuple[Together, Array]:
        (*parts, step), bad = state.models, state.bad
        (*parts, bad), losses = jitted((step, jnp.int32(end)), axis.place((*parts, bad)), inputs)
        return Together(TrainState(*parts, step=jnp.int32(end)), bad), losses.T

    return call


def make_evaluate(configs: Sequence[Config], axis: ModelAxis) -> Callable[[ModelParams], dict[str, np.ndarray]]:
    """Build `evaluate(params) -> {metric: [M * S]}`, every config on the evaluation set of its own [train] seed."""
    one, seeds = scoring.make_score(configs[0]), configs[0].train.seeds
    score = axis.jit(lambda batch, params: one(params, batch=batch))
    bases = [config.train.seed for config in configs]
    draw = jax.jit(configs[0].task.evaluation)
    batches = {base: axis.whole(draw(scoring.evaluation_key(base))) for base in dict.fromkeys(bases)}
    rows = {base: np.flatnonzero(np.repeat(np.equal(bases, base), seeds)) for base in batches}

    def evaluate(params: ModelParams) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for base, batch in batches.items():
            part = params if len(batches) == 1 else jax.tree.map(lambda leaf, at=rows[base]: leaf[at], params)
            for name, values in score(batch, axis.place(part)).items():
                found.setdefault(name, np.empty(len(bases) * seeds, np.float32))[rows[base]] = values
        return found

    return evaluate


def _make_done(configs: Sequence[Config]) -> Callable[[Together, list[dict[str, Any]]], bool]:
    """Build `done(state, evaluations)`: whether each config is where it would end alone."""
    last, seeds = configs[0].train.stop_after, configs[0].train.seeds
    ended: set[int] = set()
    seen = 0

    def done(state: Together, evaluations: list[dict[str, Any]]) -> bool:
        nonlocal seen
        if not last:
            return False
        for end in range(seen + 1, len(evaluations) + 1):
            latest = evaluations[max(end - last, 0) : end]
            for number, config in enumerate(configs):
                rows = slice(number * seeds, (number + 1) * seeds)
                if results.succeeded(config, [_own_line(line, rows) for line in latest]):
                    ended.add(number)
        seen = len(evaluations)
        # Only at evaluations does training end: not where a resumed run happens to look.
        scored = evaluations[-1]["step"] if evaluations else 0
        firsts = map(_first_bad, np.asarray(state.bad).reshape(-1, seeds))
        ended.update(number for number, bad in enumerate(firsts) if 0 < bad <= scored)
        return len(ended) == len(configs)

    return done


def _first_bad(bad: np.ndarray) -> int:
    """Find where a config stops alone, from `bad` of its seeds; 0 where it does not."""
    return int(bad[bad > 0].min(initial=np.iinfo(np.int32).max)) if bad.any() else 0


def _own_lines(
    config: Config, lines: Sequence[dict[str, Any]], rows: slice, bad: int
) -> tuple[list[dict[str, Any]], int | None]:
    """Cut one config's lines out of those of all, to where it would have ended alone."""
    own, scored = [], []
    for line in lines:
        if bad and line["step"] >= bad:
            return own, bad
        own.append(_own_line(line, rows))
        if results.evaluations(own[-1:]):
            scored.append(own[-1])
            if results.succeeded(config, scored):
                return own, None
    return own, bad or None


def _own_line(line: dict[str, Any], rows: slice) -> dict[str, Any]:
    own = {name: value[rows] if isinstance(value, list) else value for name, value in line.items()}
    if "losses" in own:  # else it is an evaluation alone
        own["loss"] = train.plain(train.finite_mean(np.array(own["losses"], np.float32)))
    return own


def _where(rows: Array, new: Array, old: Array) -> Array:
    return jnp.where(rows.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
