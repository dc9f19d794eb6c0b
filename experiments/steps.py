"""One training step of all seeds, and the call that makes many: drawn, differentiated and updated on the device."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from experiments.config import Config, Train
from experiments.devices import ONE, Devices
from experiments.model import ModelParams, build
from experiments.optimizer import optimizer

Array = jax.Array
# What a seed's key is folded with: one stream of random numbers for each purpose.
INIT, DATA, DROPOUT, STREAM = range(4)


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
