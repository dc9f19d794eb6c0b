"""Training several configs in one program: those of a sweep that differ in numbers which a program takes as inputs.

Their models stand beside the seeds on the one axis that is there already: M configs of S seeds are M * S models, each
with its own learning rate. A config whose loss is not finite stops where it would stop alone, and the others go on.
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
from experiments.progress import Report
from experiments.rundir import read_lines
from experiments.steps import TrainState

Array = jax.Array
INPUTS = ("learning_rate", "clip", "weight_decay")  # of [optimizer]


class Together(NamedTuple):
    """What training carries. models: leading axis M * S. bad: [M] int32, the step that was not taken, 0 for none."""

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
    done = train.run(configs[0], path, report, training=training(configs))
    lines, seeds = read_lines(path / "metrics.jsonl", done.step), configs[0].train.seeds
    found = []
    for number, (config, bad) in enumerate(zip(configs, np.asarray(done.state.bad), strict=True)):
        rows = slice(number * seeds, (number + 1) * seeds)
        own, bad_step = _own_lines(config, lines, rows, int(bad))
        found.append(Outcome(own, jax.tree.map(lambda leaf, rows=rows: leaf[rows], done.params), bad_step))
    return found, done.seconds


def training(configs: Sequence[Config]) -> train.Training:
    """Build what `train.run` drives, for several configs."""
    return train.Training(
        init=functools.partial(init, configs),
        call=make_call(configs),
        evaluate=make_evaluate(configs),
        second=lambda params: {},  # members are compared, and chosen, by the first set
        sound=lambda losses: True,  # the call itself stops a config that is not
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
    return Together(steps.init_from(configs[0], keys), jnp.zeros((len(configs),), jnp.int32))


def make_call(configs: Sequence[Config]) -> Callable[[Together, int], tuple[Together, Array]]:
    """Build `call(state, end) -> (state, losses [steps_per_call, M * S])`, as `steps.make_call`."""
    config, members = configs[0], len(configs)
    seeds = config.train.seeds
    one = jax.vmap(steps.make_step(config), in_axes=(0, 0, 0, 0, 0, None, 0))

    def call(state: Together, end: Array, inputs: dict[str, Array]) -> tuple[Together, Array]:
        start = state.models.step

        def going(loop):
            (models, bad), _ = loop
            return (bad == 0).any() & (models.step < end)

        def body(loop):
            (models, bad), losses = loop
            with jax.named_scope("train_step"):
                *new, loss = one(
                    models.params, models.opt_state, models.carry, models.stream, models.key, models.step, inputs
                )
            good = jnp.isfinite(loss)
            for leaf in jax.tree.leaves(new[0]):
                good &= jnp.isfinite(leaf).reshape(len(loss), -1).all(1)
            fine = (bad == 0) & good.reshape(members, seeds).all(1)
            bad = jnp.where((bad == 0) & ~fine, models.step + 1, bad)
            rows = jnp.repeat(fine, seeds)
            new = TrainState(*new, key=models.key, step=models.step)
            keep = functools.partial(_where, rows)
            kept = TrainState(*jax.tree.map(keep, new[:4], models[:4]), key=models.key, step=models.step + 1)
            losses = losses.at[models.step - start].set(jnp.where(rows, loss, jnp.nan))
            return Together(kept, bad), losses

        losses = jnp.full((config.train.steps_per_call, members * seeds), jnp.nan, jnp.float32)
        (models, bad), losses = jax.lax.while_loop(going, body, (state, losses))
        return Together(models._replace(step=jnp.asarray(end, jnp.int32)), bad), losses

    return functools.partial(jax.jit(call, donate_argnums=0), inputs=traced(configs))


def make_evaluate(configs: Sequence[Config]) -> Callable[[ModelParams], dict[str, np.ndarray]]:
    """Build `evaluate(params) -> {metric: [M * S]}`, every config on the evaluation set of its own [train] seed."""
    score, seeds = scoring.make_score(configs[0]), configs[0].train.seeds
    bases = [config.train.seed for config in configs]
    draw = jax.jit(configs[0].task.evaluation)
    batches = {
        base: draw(scoring.evaluation_key(config.train.seed)) for base, config in zip(bases, configs, strict=True)
    }
    rows = {base: np.flatnonzero(np.repeat(np.equal(bases, base), seeds)) for base in batches}

    def evaluate(params: ModelParams) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for base, batch in batches.items():
            part = params if len(batches) == 1 else jax.tree.map(lambda leaf, at=rows[base]: leaf[at], params)
            for name, values in score(part, batch=batch).items():
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
        ended.update(n for n, bad in enumerate(np.asarray(state.bad).tolist()) if 0 < bad <= scored)
        return len(ended) == len(configs)

    return done


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
