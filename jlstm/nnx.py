"""LSTM, Bidirectional and Stack as flax nnx modules; needs flax, and `import jlstm` does not import this module."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jlstm import checks, compose, layers, named
from jlstm.layers import LSTM as Spec
from jlstm.nnx_base import SpecModule, assign, stream, values
from jlstm.nnx_cell import LSTMCell
from jlstm.types import Directions, LSTMParams, LSTMState
from jlstm.variant import Variant

__all__ = ["LSTM", "Bidirectional", "LSTMCarry", "LSTMCell", "Layer", "Stack"]


class LSTMCarry(nnx.Variable):
    """The Variable type of what a stateful layer carries from one call to the next.

    Example:
        >>> import jlstm.nnx
        >>> from flax import nnx
        >>> layer = jlstm.nnx.LSTM(3, 5, stateful=True, batch_size=2, rngs=nnx.Rngs(0))
        >>> graph, weights, carry, rest = nnx.split(layer, nnx.Param, jlstm.nnx.LSTMCarry, ...)
        >>> nnx.to_pure_dict(carry)["carry"]["h"].shape
        (2, 5)
    """


class Layer(SpecModule):
    """Any spec as an nnx module: the same computation, its weights and state held in Variables.

    `weights` has the structure of the spec's params and an nnx.Param for each array, `carry` that of its state and an
    LSTMCarry for each (None without stateful). `params` and `state` are the plain arrays.

    Args:
        spec: jlstm.LSTM, jlstm.Bidirectional or jlstm.Stack.
        params: its weights, from spec.init or from a conversion.
        stateful: keep the state from each call to the next, instead of starting from zeros.
        return_state: a call returns (state, y) instead of y.
        batch_size: B, of the state that is kept; exactly with stateful=True.
        rngs: nnx.Rngs, whose stream "dropout" draws the masks; without it each call with dropout needs its own.

    Raises:
        TypeError, ValueError: an argument has a wrong type or value, or params that do not fit the spec.

    Example:
        >>> import jax, jax.numpy as jnp, jlstm, jlstm.nnx
        >>> spec = jlstm.Stack((jlstm.LSTM(5, return_sequences=True), jlstm.LSTM(4)))
        >>> layer = jlstm.nnx.Layer(spec, spec.init(jax.random.key(0), input_size=3))
        >>> layer(jnp.ones((2, 7, 3))).shape, layer.weights[1].bias.shape
        ((2, 4), (16,))
    """

    def __init__(
        self,
        spec: layers.LSTM | compose.Bidirectional | compose.Stack,
        params: LSTMParams | Directions | tuple[Any, ...],
        *,
        stateful: bool = False,
        return_state: bool = False,
        batch_size: int | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        super().__init__(spec, params, rngs)
        checks.boolean("stateful", stateful)
        checks.boolean("return_state", return_state)
        if stateful != (batch_size is not None):
            raise ValueError(f"batch_size must be given exactly with stateful=True, got {stateful=} and {batch_size=}")
        self.return_state = return_state
        self.carry = nnx.data(None if batch_size is None else _carried(spec, batch_size))

    def __call__(
        self,
        x: jax.Array,
        *,
        initial_state: LSTMState | Directions | tuple[Any, ...] | None = None,
        mask: jax.Array | None = None,
        lengths: jax.Array | None = None,
        reset: jax.Array | None = None,
        reset_state: LSTMState | tuple[Any, ...] | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
    ) -> Any:
        """Run the layer over whole sequences.

        Args:
            x:       [B, T, D], real floating.
            initial_state: where to start, like the spec's initial_state(B). None means the state kept from the call
                before with stateful, zeros otherwise.
            mask:    [B, T], bool; a step where it is False keeps the state.
            lengths:    [B], integers: the steps from there on are padding. Not together with mask.
            reset:   [B, T], bool; before a step where it is True the state becomes zeros, or reset_state.
            reset_state: like initial_state.
            deterministic: whether dropout is off; None means as train() or eval() set it.
            rngs: nnx.Rngs, a stream or a key to draw dropout from; None means those of the module.

        Returns:
            y: [B, T, N] with return_sequences, otherwise the last valid output [B, N]; with return_state the pair
            (state, y), in jlstm's order and flax's.

        Raises:
            TypeError, ValueError: a wrong type, dtype, shape or combination; always while tracing.
        """
        B = checks.array("x", x, "floating", ("B", "T", "D")).shape[0]
        if self.carry is not None and self._batch_size() != B:
            raise ValueError(
                f"x must have the batch size that the layer keeps the state of, {self._batch_size()} "
                f"(reset_state(batch_size=...) changes it), got {B}"
            )
        if initial_state is None:
            initial_state = self.spec.initial_state(B) if self.carry is None else self.state
        state, y = self.spec.apply(
            self.params,
            initial_state,
            x,
            mask=mask,
            lengths=lengths,
            reset=reset,
            reset_state=reset_state,
            key=self._dropout_key(deterministic, rngs),
        )
        if self.carry is not None:
            assign(self.carry, state)
        return (state, y) if self.return_state else y

    @property
    def stateful(self) -> bool:
        """Whether the state is kept from one call to the next."""
        return self.carry is not None

    @property
    def state(self) -> Any:
        """The state kept for the next call, as plain arrays."""
        if self.carry is None:
            raise ValueError("stateful must be True for a layer to keep its state, got False")
        return values(self.carry)

    def reset_state(self, mask: jax.Array | None = None, *, batch_size: int | None = None) -> None:
        """Let the next call start from zeros.

        Args:
            mask: [B], bool: the rows that start anew; None means all. Of an ensemble that nnx.vmap made, [E, B].
            batch_size: another B from now on, for all rows; of an ensemble inside nnx.vmap alone.

        Raises:
            TypeError, ValueError: a wrong type or shape, both arguments, or a layer that is not stateful.

        Example:
            >>> import jax.numpy as jnp, jlstm.nnx
            >>> from flax import nnx
            >>> layer = jlstm.nnx.LSTM(3, 5, stateful=True, batch_size=2, rngs=nnx.Rngs(0))
            >>> _ = layer(jnp.ones((2, 7, 3)))
            >>> layer.reset_state(jnp.array([True, False]))
            >>> jnp.any(layer.state.h != 0, axis=-1)
            Array([False,  True], dtype=bool)
        """
        state = self.state
        if batch_size is not None:
            if mask is not None:
                raise ValueError("mask must be None together with batch_size, got both")
            if len(shape := self._state_shape()) != 2:
                got = f"a state of shape {list(shape)}"
                raise ValueError(f"batch_size must be given inside of the nnx.vmap that made the layer, got {got}")
            assign(self.carry, self.spec.initial_state(batch_size))
        elif mask is None:
            assign(self.carry, jax.tree.map(jnp.zeros_like, state))
        else:
            rows = checks.array("mask", mask, "bool", self._state_shape()[:-1])
            assign(self.carry, jax.tree.map(lambda a: jnp.where(rows[..., None], 0, a), state))

    def activity_penalty(self, y: Any) -> jax.Array:
        """Apply the activity regularizers to the outputs of a call: a scalar to add to the loss."""
        return self.spec.activity_penalty(y)

    def _batch_size(self) -> int:
        return self._state_shape()[0]

    def _state_shape(self) -> tuple[int, ...]:
        """[B, N]; with more axes in front where nnx.vmap made the layer, and it is used outside."""
        return jax.tree.leaves(self.state)[0].shape


class LSTM(Layer):
    """The LSTM layer with every argument of keras.layers.LSTM, as an nnx module.

    keras's return_state gives [y, h, c]; here it gives (LSTMState, y). Its seed is `rngs`, its use_cudnn `backend`.

    Args:
        in_features: D, the width of x.
        units: N, the width of h and c.
        activation, ..., variant: as jlstm.LSTM.
        stateful: keep the state from each call to the next, instead of starting from zeros.
        return_state: a call returns (state, y) instead of y.
        batch_size: B, of the state that is kept; exactly with stateful=True.
        rngs: nnx.Rngs; "params" draws the weights, "dropout" the masks.

    Raises:
        TypeError, ValueError: an argument has a wrong type, name or value.

    Example:
        >>> import jax.numpy as jnp, jlstm.nnx
        >>> from flax import nnx
        >>> layer = jlstm.nnx.LSTM(3, 5, return_sequences=True, return_state=True, dropout=0.1, rngs=nnx.Rngs(0))
        >>> layer.eval()
        >>> state, y = layer(jnp.ones((2, 7, 3)))
        >>> y.shape, state.c.shape, layer.weights.kernel.shape
        ((2, 7, 5), (2, 5), (3, 20))
    """

    # A name for each argument, so that help() and editors show them; each default is that of jlstm.LSTM.
    def __init__(
        self,
        in_features: int,
        units: int,
        *,
        activation: named.Activation = Spec.activation,
        recurrent_activation: named.Activation = Spec.recurrent_activation,
        use_bias: bool = Spec.use_bias,
        kernel_initializer: named.Initializer = Spec.kernel_initializer,
        recurrent_initializer: named.Initializer = Spec.recurrent_initializer,
        bias_initializer: named.Initializer = Spec.bias_initializer,
        unit_forget_bias: bool = Spec.unit_forget_bias,
        kernel_regularizer: named.Regularizer | None = Spec.kernel_regularizer,
        recurrent_regularizer: named.Regularizer | None = Spec.recurrent_regularizer,
        bias_regularizer: named.Regularizer | None = Spec.bias_regularizer,
        activity_regularizer: named.Regularizer | None = Spec.activity_regularizer,
        kernel_constraint: named.Constraint | None = Spec.kernel_constraint,
        recurrent_constraint: named.Constraint | None = Spec.recurrent_constraint,
        bias_constraint: named.Constraint | None = Spec.bias_constraint,
        dropout: float = Spec.dropout,
        recurrent_dropout: float = Spec.recurrent_dropout,
        implementation: int = Spec.implementation,
        return_sequences: bool = Spec.return_sequences,
        go_backwards: bool = Spec.go_backwards,
        unroll: bool | int = Spec.unroll,
        zero_output_for_mask: bool = Spec.zero_output_for_mask,
        dtype: Any = Spec.dtype,
        param_dtype: Any = Spec.param_dtype,
        keep_order: bool = Spec.keep_order,
        remat_every: int | None = Spec.remat_every,
        backend: str = Spec.backend,
        variant: Variant = Spec.variant,
        stateful: bool = False,
        return_state: bool = False,
        batch_size: int | None = None,
        rngs: nnx.Rngs,
    ):
        given = locals()
        spec = Spec(**{f.name: given[f.name] for f in dataclasses.fields(Spec)})
        super().__init__(
            spec,
            _drawn(spec, in_features, rngs),
            stateful=stateful,
            return_state=return_state,
            batch_size=batch_size,
            rngs=rngs,
        )


class Bidirectional(Layer):
    """Two LSTMs over the same sequence, one from each end, as an nnx module.

    Args:
        in_features: D, the width of x.
        forward, backward, merge_mode: as jlstm.Bidirectional.
        stateful, return_state, batch_size, rngs: as LSTM.

    Example:
        >>> import jax.numpy as jnp, jlstm, jlstm.nnx
        >>> from flax import nnx
        >>> layer = jlstm.nnx.Bidirectional(3, jlstm.LSTM(5), merge_mode="sum", rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 7, 3))).shape, layer.weights.backward.kernel.shape
        ((2, 5), (3, 20))
    """

    def __init__(
        self,
        in_features: int,
        forward: layers.LSTM,
        backward: layers.LSTM | None = None,
        *,
        merge_mode: str | None = compose.Bidirectional.merge_mode,
        stateful: bool = False,
        return_state: bool = False,
        batch_size: int | None = None,
        rngs: nnx.Rngs,
    ):
        spec = compose.Bidirectional(forward, backward, merge_mode=merge_mode)  # pyright: ignore[reportArgumentType]
        params = _drawn(spec, in_features, rngs)
        kept = {"stateful": stateful, "return_state": return_state, "batch_size": batch_size}
        super().__init__(spec, params, **kept, rngs=rngs)


class Stack(Layer):
    """Layers on top of each other, as an nnx module.

    Args:
        in_features: D, the width of x.
        layers: the specs, jlstm.LSTM, jlstm.Bidirectional or jlstm.Stack; each but the last must return sequences.
        dropout: as jlstm.Stack.
        stateful, return_state, batch_size, rngs: as LSTM.

    Example:
        >>> import jax.numpy as jnp, jlstm, jlstm.nnx
        >>> from flax import nnx
        >>> specs = jlstm.Bidirectional(jlstm.LSTM(5, return_sequences=True)), jlstm.LSTM(4)
        >>> layer = jlstm.nnx.Stack(3, specs, dropout=0.2, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((2, 7, 3))).shape, layer.weights[0].backward.kernel.shape
        ((2, 4), (3, 20))
    """

    def __init__(
        self,
        in_features: int,
        layers: tuple[Any, ...],
        *,
        dropout: float = compose.Stack.dropout,
        stateful: bool = False,
        return_state: bool = False,
        batch_size: int | None = None,
        rngs: nnx.Rngs,
    ):
        spec = compose.Stack(layers, dropout=dropout)
        params = _drawn(spec, in_features, rngs)
        kept = {"stateful": stateful, "return_state": return_state, "batch_size": batch_size}
        super().__init__(spec, params, **kept, rngs=rngs)


def _drawn(spec: Any, in_features: int, rngs: nnx.Rngs) -> Any:
    checks.positive_int("in_features", in_features)
    checks.instance("rngs", rngs, nnx.Rngs)
    return spec.init(stream(rngs, "params")(), in_features)


def _carried(spec: Any, batch_size: int) -> Any:
    return jax.tree.map(LSTMCarry, spec.initial_state(batch_size))
