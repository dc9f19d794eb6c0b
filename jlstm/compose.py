"""Bidirectional and Stack: layers made of layers, with the same methods, so that they nest."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import reduce
from operator import add
from typing import Any, Self

import jax
import jax.numpy as jnp

from jlstm import checks, spec
from jlstm.dropout import dropout_mask
from jlstm.layers import LSTM
from jlstm.types import Directions


@dataclass(frozen=True, repr=False)
class Bidirectional:
    """Two LSTMs over the same sequence, one from each end, their outputs merged step by step.

    Outputs are in the order of the input. Where a mask or lengths are given and sequences are returned, outputs at
    masked steps are zeros, as Keras forces it.

    Args:
        forward: an LSTM that goes forwards.
        backward: an LSTM that goes backwards; None means `forward` with go_backwards=True, and the field holds that.
        merge_mode: "concat", "sum", "mul", "ave", or None for the pair of both outputs.

    Raises:
        TypeError, ValueError: a wrong type or value, or two directions that do not fit together.

    Example:
        >>> import jax, jax.numpy as jnp, jlstm
        >>> layer = jlstm.Bidirectional(jlstm.LSTM(5, return_sequences=True))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> state, y = layer.apply(params, layer.initial_state(2), jnp.ones((2, 7, 3)))
        >>> y.shape, state.backward.h.shape
        ((2, 7, 10), (2, 5))

    Source: keras.layers.Bidirectional of Keras 3.15.
    """

    forward: LSTM
    backward: LSTM = None  # pyright: ignore[reportAssignmentType]  # filled in below
    _: KW_ONLY
    merge_mode: str | None = "concat"

    def __post_init__(self):
        checks.instance("forward", self.forward, LSTM)
        if self.backward is None:
            object.__setattr__(self, "backward", replace(self.forward, go_backwards=True))
        checks.instance("backward", self.backward, LSTM)
        if self.merge_mode == "none":  # as to_dict writes None
            object.__setattr__(self, "merge_mode", None)
        checks.one_of("merge_mode", self.merge_mode, ("concat", "sum", "mul", "ave", None))
        if self.forward.go_backwards or not self.backward.go_backwards:
            got = f"{self.forward.go_backwards} and {self.backward.go_backwards}"
            raise ValueError(f"go_backwards must be False for forward and True for backward, got {got}")
        if self.forward.return_sequences != self.backward.return_sequences:
            got = f"{self.forward.return_sequences} and {self.backward.return_sequences}"
            raise ValueError(f"return_sequences must be the same for forward and backward, got {got}")
        sizes = self.forward.output_size, self.backward.output_size
        if self.merge_mode in ("sum", "mul", "ave") and sizes[0] != sizes[1]:
            raise ValueError(f"merge_mode {self.merge_mode!r} must have two outputs of one width, got {sizes}")

    @property
    def return_sequences(self) -> bool:
        """Whether apply returns all outputs or the last one."""
        return self.forward.return_sequences

    @property
    def output_size(self) -> int:
        """Width of the outputs; of each of the two where merge_mode is None."""
        return self.forward.output_size + (self.backward.output_size if self.merge_mode == "concat" else 0)

    def init(self, key: jax.Array, input_size: int) -> Directions:
        """Draw the weights of both directions; as LSTM.init."""
        checks.key(key, optional=False)
        forward_key, backward_key = jax.random.split(key)
        return Directions(self.forward.init(forward_key, input_size), self.backward.init(backward_key, input_size))

    def initial_state(self, batch_size: int, dtype: Any = None) -> Directions:
        """Make the zero states of both directions; as LSTM.initial_state."""
        return Directions(self.forward.initial_state(batch_size, dtype), self.backward.initial_state(batch_size, dtype))

    def apply(
        self,
        params: Directions,
        state: Directions,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        lengths: jax.Array | None = None,
        reset: None = None,
        reset_state: None = None,
        key: jax.Array | None = None,
    ) -> tuple[Directions, Any]:
        """Run both directions over whole sequences; arguments as LSTM.apply, but reset raises.

        With lengths, the backward direction starts at each row's last valid step.

        Returns:
            The states of both directions, that of the backward one after reading x[:, 0], and the merged outputs
            [B, T, 2N] ("concat"), [B, T, N] ("sum", "mul", "ave") or a pair of [B, T, N] (None); without
            return_sequences the same without T.
        """
        checks.instance("params", params, Directions)
        checks.instance("state", state, Directions)
        for name, value in (("reset", reset), ("reset_state", reset_state)):
            if value is not None:
                got = checks.show(value)
                raise ValueError(
                    f"{name} must be None for Bidirectional (an episode has no meaning backwards), got {got}"
                )
        keys = (None, None) if key is None else _split(key, 2)
        zeroed = {"zero_output_for_mask": self.return_sequences}
        forward = replace(self.forward, **zeroed)
        backward = replace(self.backward, keep_order=True, **zeroed)
        options: dict[str, Any] = {"mask": mask, "lengths": lengths}
        forward_state, y = forward.apply(params.forward, state.forward, x, key=keys[0], **options)
        backward_state, y_back = backward.apply(params.backward, state.backward, x, key=keys[1], **options)
        return Directions(forward_state, backward_state), self._merge(y, y_back)

    def step(self, params: Directions, state: Directions, x_t: jax.Array, *, reset: Any = None, key: Any = None) -> Any:
        """Raise: the backward direction reads the last time step first."""
        raise ValueError("step must be of a layer that goes forwards only, got Bidirectional")

    def penalty(self, params: Directions) -> jax.Array:
        """Sum the weight regularizers of both directions."""
        checks.instance("params", params, Directions)
        return self.forward.penalty(params.forward) + self.backward.penalty(params.backward)

    def activity_penalty(self, y: Any) -> jax.Array:
        """Sum the activity regularizers of both directions, each over its own outputs.

        Raises:
            ValueError: the outputs were merged by sum, mul or ave, from which they cannot be told apart.
        """
        if self.merge_mode == "concat":
            y = checks.array("y", y, "floating", self._output_shape(y))
            N = self.forward.output_size
            y = y[..., :N], y[..., N:]
        elif self.merge_mode is None:
            if not isinstance(y, tuple) or len(y) != 2:
                raise TypeError(f"y must be the pair of outputs that merge_mode=None gives, got {checks.show(y)}")
        else:
            for name, layer in (("forward", self.forward), ("backward", self.backward)):
                if layer.activity_regularizer is not None:
                    raise ValueError(
                        f"{name}.activity_regularizer must be None with merge_mode={self.merge_mode!r}, whose outputs "
                        f"no longer tell the directions apart, got {layer.activity_regularizer!r}"
                    )
            return jnp.zeros((), checks.array("y", y, "floating", self._output_shape(y)).dtype)
        return self.forward.activity_penalty(y[0]) + self.backward.activity_penalty(y[1])

    def constrain(self, params: Directions) -> Directions:
        """Project the weights of both directions onto their constraints."""
        checks.instance("params", params, Directions)
        return Directions(self.forward.constrain(params.forward), self.backward.constrain(params.backward))

    def to_dict(self) -> dict[str, Any]:
        """Write the spec as plain types; merge_mode None becomes "none"."""
        return {**spec.to_dict(self), "merge_mode": self.merge_mode or "none"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what to_dict wrote; the entry "name" may be left out here."""
        return spec.from_dict(data, (cls,), (LSTM,))

    __repr__ = spec.call_repr

    def _output_shape(self, y: Any) -> tuple[str | int, ...]:
        return (*("B", "T")[: 2 if len(getattr(y, "shape", ())) == 3 else 1], self.output_size)

    def _merge(self, y: jax.Array, y_back: jax.Array) -> Any:
        merges: dict[str | None, Callable[[jax.Array, jax.Array], Any]] = {
            "concat": lambda a, b: jnp.concatenate([a, b], axis=-1),
            "sum": lambda a, b: a + b,
            "mul": lambda a, b: a * b,
            "ave": lambda a, b: (a + b) / 2,
            None: lambda a, b: (a, b),
        }
        return merges[self.merge_mode](y, y_back)


@dataclass(frozen=True, repr=False)
class Stack:
    """Layers on top of each other: each reads the outputs of the one below.

    Params, state and reset_state are tuples with one entry a layer. mask, lengths and reset go to every layer.

    Args:
        layers: LSTM, Bidirectional or Stack; each but the last must return sequences.
        dropout: rate in [0, 1) for the outputs of each layer but the last, drawn anew for every time step
            (torch.nn.LSTM's dropout).

    Raises:
        TypeError, ValueError: a wrong type or value, or layers that do not fit on each other.

    Example:
        >>> import jax, jax.numpy as jnp, jlstm
        >>> layer = jlstm.Stack((jlstm.LSTM(5, return_sequences=True), jlstm.LSTM(4)))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> state, y = layer.apply(params, layer.initial_state(2), jnp.ones((2, 7, 3)))
        >>> y.shape, [s.h.shape for s in state]
        ((2, 4), [(2, 5), (2, 4)])
    """

    layers: tuple[Any, ...]
    _: KW_ONLY
    dropout: float = 0.0

    def __post_init__(self):
        if not isinstance(self.layers, (tuple, list)) or not self.layers:
            raise TypeError(f"layers must be a tuple of at least one layer, got {checks.show(self.layers)}")
        object.__setattr__(self, "layers", tuple(self.layers))
        for n, layer in enumerate(self.layers):
            checks.instance(f"layers[{n}]", layer, LSTM, Bidirectional, Stack)
        for n, layer in enumerate(self.layers[:-1]):
            if not layer.return_sequences:
                raise ValueError(f"layers[{n}].return_sequences must be True below another layer, got False")
            if isinstance(last := _last(layer), Bidirectional) and last.merge_mode is None:
                raise ValueError(f"layers[{n}].merge_mode must not be None below another layer, got None")
        object.__setattr__(self, "dropout", checks.rate("dropout", self.dropout))

    @property
    def return_sequences(self) -> bool:
        """Whether apply returns all outputs or the last one."""
        return self.layers[-1].return_sequences

    @property
    def output_size(self) -> int:
        """Width of the outputs, which is that of the last layer."""
        return self.layers[-1].output_size

    def init(self, key: jax.Array, input_size: int) -> tuple[Any, ...]:
        """Draw the weights of every layer; as LSTM.init."""
        checks.key(key, optional=False)
        sizes = [input_size, *(layer.output_size for layer in self.layers[:-1])]
        keys = jax.random.split(key, len(self.layers))
        return tuple(layer.init(k, size) for layer, k, size in zip(self.layers, keys, sizes, strict=True))

    def initial_state(self, batch_size: int, dtype: Any = None) -> tuple[Any, ...]:
        """Make the zero state of every layer; as LSTM.initial_state."""
        return tuple(layer.initial_state(batch_size, dtype) for layer in self.layers)

    def apply(
        self,
        params: tuple[Any, ...],
        state: tuple[Any, ...],
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        lengths: jax.Array | None = None,
        reset: jax.Array | None = None,
        reset_state: tuple[Any, ...] | None = None,
        key: jax.Array | None = None,
    ) -> tuple[tuple[Any, ...], Any]:
        """Run all layers over whole sequences; arguments and errors as LSTM.apply, params and states as tuples."""
        reset_states = (None,) * len(self.layers) if reset_state is None else reset_state
        for name, value in (("params", params), ("state", state), ("reset_state", reset_states)):
            self._check_tuple(name, value)
        if mask is not None or lengths is not None:
            self._check_order()
        options = {"mask": mask, "lengths": lengths, "reset": reset}
        y, states = x, []
        for n, (layer, layer_key, dropout_key) in enumerate(self._with_keys(key)):
            if n:
                y = self._drop(dropout_key, y)
            s, y = layer.apply(params[n], state[n], y, reset_state=reset_states[n], key=layer_key, **options)
            states.append(s)
        return tuple(states), y

    def step(
        self,
        params: tuple[Any, ...],
        state: tuple[Any, ...],
        x_t: jax.Array,
        *,
        reset: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[tuple[Any, ...], jax.Array]:
        """Run one time step through all layers; as LSTM.step."""
        self._check_tuple("params", params)
        self._check_tuple("state", state)
        y, states = x_t, []
        for n, (layer, layer_key, dropout_key) in enumerate(self._with_keys(key)):
            if n:
                y = self._drop(dropout_key, y)
            s, y = layer.step(params[n], state[n], y, reset=reset, key=layer_key)
            states.append(s)
        return tuple(states), y

    def penalty(self, params: tuple[Any, ...]) -> jax.Array:
        """Sum the weight regularizers of all layers."""
        self._check_tuple("params", params)
        return reduce(add, (layer.penalty(p) for layer, p in zip(self.layers, params, strict=True)))

    def activity_penalty(self, y: Any) -> jax.Array:
        """Apply the activity regularizer of the last layer to its outputs.

        Raises:
            ValueError: a layer below has one, whose outputs are not in y.
        """
        for n, layer in enumerate(self.layers[:-1]):
            if _regularizes_activity(layer):
                raise ValueError(
                    f"layers[{n}].activity_regularizer must be None below another layer, whose outputs are not in y, "
                    f"got {layer!r}"
                )
        return self.layers[-1].activity_penalty(y)

    def constrain(self, params: tuple[Any, ...]) -> tuple[Any, ...]:
        """Project the weights of all layers onto their constraints."""
        self._check_tuple("params", params)
        return tuple(layer.constrain(p) for layer, p in zip(self.layers, params, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Write the spec as plain types."""
        return {**spec.to_dict(self), "layers": [layer.to_dict() for layer in self.layers]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what to_dict wrote; the entry "name" may be left out here."""
        return spec.from_dict(data, (cls,), (LSTM, Bidirectional, Stack))

    __repr__ = spec.call_repr

    def _check_tuple(self, name: str, value: Any) -> None:
        if not isinstance(value, tuple) or len(value) != len(self.layers):
            got = f"a tuple of {len(value)}" if isinstance(value, tuple) else checks.show(value)
            raise TypeError(f"{name} must be a tuple of {len(self.layers)}, one entry a layer, got {got}")

    def _check_order(self) -> None:
        for n, layer in enumerate(self.layers[:-1]):
            last = _last(layer)
            if isinstance(last, LSTM) and last.go_backwards and not last.keep_order:
                raise ValueError(
                    f"layers[{n}].keep_order must be True below another layer with mask or lengths, which are in the "
                    "order of the input while its outputs are in the order of processing, got False"
                )

    def _with_keys(self, key: jax.Array | None):
        """Each layer with its own key and the one for the dropout below it; None without a key."""
        n = len(self.layers)
        keys = [None] * 2 * n if key is None else list(_split(key, 2 * n))
        return zip(self.layers, keys[:n], keys[n:], strict=True)

    def _drop(self, key: jax.Array | None, y: jax.Array) -> jax.Array:
        return y if key is None or not self.dropout else y * dropout_mask(key, self.dropout, y.shape, y.dtype)


def from_dict(data: Mapping[str, Any]) -> LSTM | Bidirectional | Stack:
    """Read any spec from what its to_dict wrote.

    Raises:
        TypeError, ValueError: an unknown name, an unknown field, or a value that the field does not take.

    Example:
        >>> import json, jlstm
        >>> layer = jlstm.Stack((jlstm.Bidirectional(jlstm.LSTM(5, return_sequences=True)), jlstm.LSTM(4)))
        >>> jlstm.from_dict(json.loads(json.dumps(layer.to_dict()))) == layer
        True
    """
    layers = (LSTM, Bidirectional, Stack)
    return spec.from_dict(data, layers, layers)


def _split(key: jax.Array, n: int) -> jax.Array:
    checks.key(key)
    return jax.random.split(key, n)


def _last(layer: Any) -> Any:
    """The LSTM or Bidirectional whose outputs a layer returns."""
    return _last(layer.layers[-1]) if isinstance(layer, Stack) else layer


def _regularizes_activity(layer: Any) -> bool:
    if isinstance(layer, LSTM):
        return layer.activity_regularizer is not None
    return any(
        map(_regularizes_activity, layer.layers if isinstance(layer, Stack) else (layer.forward, layer.backward))
    )
