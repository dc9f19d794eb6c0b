"""The model of every experiment: jlstm layers and a linear readout, as pure functions over a pytree."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jlstm
from experiments.config import Config, Model

Array = jax.Array
# Set by the runner from [model] and from the task, so they have no place in [model.lstm].
OWN_ARGUMENTS = ("units", "return_sequences")


class Readout(NamedTuple):
    """The linear readout. kernel: [N, K]. bias: [K]."""

    kernel: Array
    bias: Array


class ModelParams(NamedTuple):
    """All that is trained. lstm: the layer's own parameters."""

    lstm: Any
    readout: Readout


@dataclass(frozen=True)
class SequenceModel:
    """Layers and a readout for one task.

    layer: a jlstm spec whose outputs are [B, T, N] or, after the last valid step, [B, N].
    """

    layer: Any
    input_size: int
    output_size: int

    def init(self, key: Array) -> ModelParams:
        """Draw the parameters; the readout starts glorot-uniform, its bias at zero."""
        lstm_key, readout_key = jax.random.split(key)
        shape = (self.layer.output_size, self.output_size)
        kernel = jax.nn.initializers.glorot_uniform()(readout_key, shape, jnp.float32)
        bias = jnp.zeros((self.output_size,), jnp.float32)
        return ModelParams(self.layer.init(lstm_key, self.input_size), Readout(kernel, bias))

    def initial_state(self, batch_size: int) -> Any:
        """Give the zero state."""
        return self.layer.initial_state(batch_size)

    def apply(
        self,
        params: ModelParams,
        state: Any,
        x: Array,
        lengths: Array | None = None,
        key: Array | None = None,
        *,
        reset: Array | None = None,
    ) -> tuple[Any, Array]:
        """Run the layers over x and read out; a key means training (dropout drawn).

        Args:
            x: [B, T, D].
            lengths: [B], right padding.
            reset: [B, T] bool, where the state starts afresh.

        Returns:
            (state, outputs): the layers' final state; outputs [B, T, K] or [B, K].
        """
        state, hidden = self.layer.apply(params.lstm, state, x, lengths=lengths, reset=reset, key=key)
        return state, read(params.readout, hidden)

    def penalised(
        self,
        params: ModelParams,
        state: Any,
        x: Array,
        lengths: Array | None,
        key: Array | None,
        *,
        reset: Array | None = None,
    ) -> tuple[Any, Array, Array]:
        """As `apply`, with the layers' weight and activity penalties as a third result, a scalar."""
        state, hidden = self.layer.apply(params.lstm, state, x, lengths=lengths, reset=reset, key=key)
        penalty = self.layer.penalty(params.lstm) + self.layer.activity_penalty(hidden)
        return state, read(params.readout, hidden), penalty

    def constrain(self, params: ModelParams) -> ModelParams:
        """Project the layers' parameters back onto their constraints."""
        return params._replace(lstm=self.layer.constrain(params.lstm))


def read(readout: Readout, hidden: Array) -> Array:
    """Read out linearly: hidden [..., N] -> [..., K]."""
    return jnp.einsum("...n,nk->...k", hidden, readout.kernel) + readout.bias.reshape((1,) * (hidden.ndim - 1) + (-1,))


def build(config: Config) -> SequenceModel:
    """Build the model that a config describes."""
    task = config.task
    return SequenceModel(layer(config.model, task.every_step), task.input_size, task.output_size)


def layer(model: Model, every_step: bool) -> Any:
    """Build the layers' spec from `[model]`.

    Raises:
        ValueError: a key or value of `[model.lstm]` that jlstm.LSTM does not take.
    """
    allowed = sorted({f.name for f in dataclasses.fields(jlstm.LSTM)} - set(OWN_ARGUMENTS))
    for key in model.lstm:
        if key not in allowed:
            raise ValueError(f"lstm has no key {key!r}; allowed: {', '.join(allowed)}")
    if model.dropout and model.layers == 1:
        raise ValueError(f"dropout acts between layers, so it must be 0 with one layer, got {model.dropout}")
    specs = []
    for number in range(model.layers):
        sequences = every_step or number < model.layers - 1
        spec = jlstm.LSTM.from_dict({"units": model.units, **model.lstm, "return_sequences": sequences})
        specs.append(jlstm.Bidirectional(spec) if model.bidirectional else spec)
    return specs[0] if len(specs) == 1 else jlstm.Stack(tuple(specs), dropout=model.dropout)
