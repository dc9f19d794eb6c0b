"""LSTMCell: one step as a flax nnx cell, which nnx.RNN and nnx.Bidirectional run over time."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jlstm import checks, named
from jlstm.layers import LSTM
from jlstm.nnx_base import SpecModule, stream
from jlstm.types import LSTMState
from jlstm.variant import Variant


class LSTMCell(SpecModule, nnx.RNNCellBase):
    """The LSTM cell with Keras's arguments as an nnx.RNNCellBase; its carry is (c, h), flax's order.

    Under nnx.RNN each step is a call: dropout is drawn anew for each, where the layer draws once for a sequence.
    nnx.RNN(cell, broadcast_rngs=nnx.RngState) gives every step the same masks, as Keras has it.

    Args:
        in_features: D, the width of the inputs.
        units: N, the width of h and c.
        rngs: nnx.Rngs; "params" draws the weights, "dropout" the masks.
        activation, ..., variant: as jlstm.LSTM.

    Raises:
        TypeError, ValueError: an argument has a wrong type, name or value.

    Example:
        >>> import jax.numpy as jnp, jlstm.nnx
        >>> from flax import nnx
        >>> layer = nnx.RNN(jlstm.nnx.LSTMCell(3, 5, rngs=nnx.Rngs(0)), return_carry=True)
        >>> (c, h), y = layer(jnp.ones((2, 7, 3)))
        >>> y.shape, bool((h == y[:, -1]).all())
        ((2, 7, 5), True)
    """

    # A name for each argument, so that help() and editors show them; each default is that of jlstm.LSTM.
    def __init__(
        self,
        in_features: int,
        units: int,
        *,
        activation: named.Activation = LSTM.activation,
        recurrent_activation: named.Activation = LSTM.recurrent_activation,
        use_bias: bool = LSTM.use_bias,
        kernel_initializer: named.Initializer = LSTM.kernel_initializer,
        recurrent_initializer: named.Initializer = LSTM.recurrent_initializer,
        bias_initializer: named.Initializer = LSTM.bias_initializer,
        unit_forget_bias: bool = LSTM.unit_forget_bias,
        kernel_regularizer: named.Regularizer | None = LSTM.kernel_regularizer,
        recurrent_regularizer: named.Regularizer | None = LSTM.recurrent_regularizer,
        bias_regularizer: named.Regularizer | None = LSTM.bias_regularizer,
        kernel_constraint: named.Constraint | None = LSTM.kernel_constraint,
        recurrent_constraint: named.Constraint | None = LSTM.recurrent_constraint,
        bias_constraint: named.Constraint | None = LSTM.bias_constraint,
        dropout: float = LSTM.dropout,
        recurrent_dropout: float = LSTM.recurrent_dropout,
        implementation: int = LSTM.implementation,
        dtype: Any = LSTM.dtype,
        param_dtype: Any = LSTM.param_dtype,
        variant: Variant = LSTM.variant,
        rngs: nnx.Rngs,
    ):
        given = locals()
        options = {f.name: given[f.name] for f in dataclasses.fields(LSTM) if f.name in given}
        # A kernel for whole sequences costs more than it saves on one step, and has no forward-mode derivative.
        spec = LSTM(**options, backend="xla")
        checks.instance("rngs", rngs, nnx.Rngs)
        checks.positive_int("in_features", in_features)
        super().__init__(spec, spec.init(stream(rngs, "params")(), in_features), rngs)

    def __call__(
        self,
        carry: tuple[jax.Array, jax.Array],
        inputs: jax.Array,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """Run one time step.

        Args:
            carry: (c, h), c [..., N] and h [..., N] (or [..., P]).
            inputs: [..., D], real floating.
            deterministic: whether dropout is off; None means as train() or eval() set it.
            rngs: nnx.Rngs, a stream or a key to draw dropout from; None means those of the module.

        Returns:
            The next carry (c, h), and y [..., N] (or [..., P]).

        Raises:
            TypeError, ValueError: a wrong type, dtype or shape.
        """
        if not isinstance(carry, (tuple, list)) or len(carry) != 2:
            raise TypeError(f"carry must be a pair (c, h), got {checks.show(carry)}")
        c, h = carry
        inputs = checks.array(
            "inputs", inputs, "floating", ("...",) * (jnp.ndim(inputs) - 1) + self.weights.kernel.shape[:1]
        )
        batch = inputs.shape[:-1]
        state = checks.state(LSTMState(h=h, c=c), batch, self.spec.units, self.spec.output_size, name="carry")
        state, x_t = jax.tree.map(lambda a: a.reshape(math.prod(batch), a.shape[-1]), (state, inputs))
        state, y = self.spec.step(self.params, state, x_t, key=self._dropout_key(deterministic, rngs))
        c, h, y = (a.reshape(*batch, a.shape[-1]) for a in (state.c, state.h, y))
        return (c, h), y

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Callable[..., jax.Array] | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Make the carry (c, h) to start from: zeros, or what an initializer draws.

        Args:
            input_shape: (..., D), the shape of the inputs of one step.
            rngs: nnx.Rngs (its stream "carry") or a stream, for carry_init alone.
            carry_init: a function (key, shape, dtype) -> array.
        """
        *batch, _ = input_shape
        state = self.spec.initial_state(math.prod(batch))
        state = jax.tree.map(lambda a: a.reshape(*batch, a.shape[-1]), state)
        if carry_init is None:
            return state.c, state.h
        if rngs is None:
            raise ValueError("rngs must be given for carry_init to draw from, got None")
        draw = stream(rngs, "carry") if isinstance(rngs, nnx.Rngs) else rngs
        return carry_init(draw(), state.c.shape, state.c.dtype), carry_init(draw(), state.h.shape, state.h.dtype)

    @property
    def num_feature_axes(self) -> int:
        """Axes of the inputs that are not batch axes: one."""
        return 1
