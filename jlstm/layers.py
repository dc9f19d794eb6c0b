"""LSTM: the arguments of the Keras layer as a frozen spec that holds no array; what it computes are pure functions."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Self

import jax
import jax.numpy as jnp

from jlstm import checks, named, spec
from jlstm.backends import dispatch
from jlstm.dropout import lstm_dropout_masks
from jlstm.initializers import Chrono
from jlstm.types import DropoutMasks, LSTMParams, LSTMState, wider_dtype
from jlstm.variant import Variant

_INITIALIZERS = ("kernel_initializer", "recurrent_initializer", "bias_initializer")
_REGULARIZERS = ("kernel_regularizer", "recurrent_regularizer", "bias_regularizer", "activity_regularizer")
_CONSTRAINTS = ("kernel_constraint", "recurrent_constraint", "bias_constraint")
_BOOLEANS = ("use_bias", "unit_forget_bias", "return_sequences", "go_backwards", "zero_output_for_mask", "keep_order")


@dataclass(frozen=True, repr=False)
class LSTM:
    """An LSTM layer: every argument of keras.layers.LSTM that concerns a pure function, with its name and default.

    The spec is hashable, compares by value and can be a static argument of jit.

    Args:
        units: N, the width of every gate, of h and of c; free of the input width and of the number of steps.
        activation: φ, of the candidate and of the cell: a name, a value such as HardSigmoid(), or a function.
        recurrent_activation: σ, of the three gates.
        use_bias: whether there is a bias [4N].
        kernel_initializer, recurrent_initializer, bias_initializer: a name, a value such as Chrono(100), or a
            function (key, shape, dtype) -> array as in jax.nn.initializers.
        unit_forget_bias: start the forget slice of the bias at exactly 1.
        kernel_regularizer, recurrent_regularizer, bias_regularizer: summed by penalty(params).
        activity_regularizer: of the outputs; see activity_penalty(y).
        kernel_constraint, recurrent_constraint, bias_constraint: applied by constrain(params).
        dropout: rate in [0, 1) for what the gates read of x.
        recurrent_dropout: rate in [0, 1) for what the gates read of h.
        implementation: 2 draws one input mask for all gates, 1 draws four; recurrent_dropout implies 1.
        return_sequences: all outputs [B, T, N], or the last one [B, N].
        go_backwards: read the sequence from its end, and return the outputs in the order of processing.
        unroll: steps of the time loop that are compiled as one; True for all.
        zero_output_for_mask: outputs at masked steps are zeros, not the output before.
        dtype: of the computation and the outputs; None means that of x.
        param_dtype: of the weights that init makes.
        keep_order: with go_backwards, return the outputs in the order of the input.
        remat_every: save the state every so many steps and recompute the rest in the backward pass.
        backend: "auto", or by name: "cpu", the fused kernel, or "xla", lax.scan. See which_backend.
        variant: what changes the cell; see Variant.

    Raises:
        TypeError, ValueError: an argument has a wrong type, name or value.

    Example:
        >>> import jax, jax.numpy as jnp, jlstm
        >>> layer = jlstm.LSTM(128, return_sequences=True)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> state = layer.initial_state(batch_size=32)
        >>> state, y = layer.apply(params, state, jnp.ones((32, 10, 3)))
        >>> y.shape, state.c.shape
        ((32, 10, 128), (32, 128))

    Source: keras.layers.LSTM of Keras 3.15; the cell is that of Gers, Schmidhuber & Cummins 2000.
    """

    units: int
    _: KW_ONLY
    activation: named.Activation = "tanh"
    recurrent_activation: named.Activation = "sigmoid"
    use_bias: bool = True
    kernel_initializer: named.Initializer = "glorot_uniform"
    recurrent_initializer: named.Initializer = "orthogonal"
    bias_initializer: named.Initializer = "zeros"
    unit_forget_bias: bool = True
    kernel_regularizer: named.Regularizer | None = None
    recurrent_regularizer: named.Regularizer | None = None
    bias_regularizer: named.Regularizer | None = None
    activity_regularizer: named.Regularizer | None = None
    kernel_constraint: named.Constraint | None = None
    recurrent_constraint: named.Constraint | None = None
    bias_constraint: named.Constraint | None = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    implementation: int = 2
    return_sequences: bool = False
    go_backwards: bool = False
    unroll: bool | int = False
    zero_output_for_mask: bool = False
    dtype: Any = None
    param_dtype: Any = "float32"
    keep_order: bool = False
    remat_every: int | None = None
    backend: str = "auto"
    variant: Variant = Variant()

    def __post_init__(self):
        # The checks return Python's numbers: NumPy's would not be plain data.
        object.__setattr__(self, "units", checks.positive_int("units", self.units))
        for name in ("activation", "recurrent_activation"):
            if getattr(self, name) is None:  # Keras's way to say linear
                object.__setattr__(self, name, "linear")
            named.activation(name, getattr(self, name))
        for name in _INITIALIZERS:
            named.initializer(name, getattr(self, name))
        for name in _REGULARIZERS:
            if getattr(self, name) is not None:
                named.regularizer(name, getattr(self, name))
        for name in _CONSTRAINTS:
            if getattr(self, name) is not None:
                named.constraint(name, getattr(self, name))
        for name in _BOOLEANS:
            checks.boolean(name, getattr(self, name))
        object.__setattr__(self, "dropout", checks.rate("dropout", self.dropout))
        object.__setattr__(self, "recurrent_dropout", checks.rate("recurrent_dropout", self.recurrent_dropout))
        checks.one_of("implementation", self.implementation, (1, 2))
        object.__setattr__(self, "unroll", checks.unroll(self.unroll))
        if self.dtype is not None:
            object.__setattr__(self, "dtype", checks.float_dtype("dtype", self.dtype))
        object.__setattr__(self, "param_dtype", checks.float_dtype("param_dtype", self.param_dtype))
        if self.remat_every is not None:
            object.__setattr__(self, "remat_every", checks.positive_int("remat_every", self.remat_every))
        checks.one_of("backend", self.backend, dispatch.BACKENDS)
        checks.instance("variant", self.variant, Variant)

    @property
    def output_size(self) -> int:
        """Width of the outputs and of h, which is units or the width of the projection."""
        return self.variant.projection or self.units

    def init(self, key: jax.Array, input_size: int) -> LSTMParams:
        """Draw the weights.

        Args:
            key: a jax.random key.
            input_size: D, the width of x.

        Returns:
            LSTMParams in param_dtype, with kernel [D, 4N], recurrent_kernel [N, 4N] and bias [4N]. A projection [N, P]
            comes from the kernel_initializer; peephole weights [3, N] start at zero, which is the plain cell.

        Example:
            >>> import jax, jlstm
            >>> jlstm.LSTM(2).init(jax.random.key(0), input_size=3).bias
            Array([0., 0., 1., 1., 0., 0., 0., 0.], dtype=float32)
        """
        checks.key(key, optional=False)
        checks.positive_int("input_size", input_size)
        checks.enabled_dtype("param_dtype", self.param_dtype)
        N, P, dtype = self.units, self.output_size, self.param_dtype
        kernel_key, recurrent_key, bias_key, projection_key = jax.random.split(key, 4)
        kernel_initializer = named.initializer("kernel_initializer", self.kernel_initializer)
        recurrent_initializer = named.initializer("recurrent_initializer", self.recurrent_initializer)
        params = LSTMParams(
            kernel=kernel_initializer(kernel_key, (input_size, 4 * N), dtype),
            recurrent_kernel=recurrent_initializer(recurrent_key, (P, 4 * N), dtype),
            bias=self._init_bias(bias_key) if self.use_bias else None,
            peephole=jnp.zeros((3, N), dtype) if self.variant.peephole else None,
            projection=kernel_initializer(projection_key, (N, P), dtype) if self.variant.projection else None,
        )
        checks.params(params, input_size, N, P, use_bias=self.use_bias, variant=self.variant, name="initialised params")
        return params

    def _init_bias(self, key: jax.Array) -> jax.Array:
        initializer = named.initializer("bias_initializer", self.bias_initializer)
        N, dtype = self.units, self.param_dtype
        if not self.unit_forget_bias or isinstance(initializer, Chrono):
            return initializer(key, (4 * N,), dtype)
        # In pieces as Keras does it: an initializer that looks at the shape sees [N] and [2N], not [4N].
        input_key, rest_key = jax.random.split(key)
        pieces = initializer(input_key, (N,), dtype), jnp.ones(N, dtype), initializer(rest_key, (2 * N,), dtype)
        return jnp.concatenate(pieces)

    def initial_state(self, batch_size: int, dtype: Any = None) -> LSTMState:
        """Make a state of zeros.

        Args:
            batch_size: B, the number of rows.
            dtype: of h and c; None means param_dtype or dtype, whichever is wider, and at least float32.

        Returns:
            LSTMState of h [B, N] (or [B, P] with a projection) and c [B, N].
        """
        checks.size("batch_size", batch_size)
        if dtype is None:
            dtype = wider_dtype(wider_dtype(self.param_dtype, self.dtype or self.param_dtype), "float32")
        dtype = checks.float_dtype("dtype", dtype)
        checks.enabled_dtype("dtype", dtype)
        return LSTMState(
            h=jnp.zeros((batch_size, self.output_size), dtype), c=jnp.zeros((batch_size, self.units), dtype)
        )

    def apply(
        self,
        params: LSTMParams,
        state: LSTMState,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        lengths: jax.Array | None = None,
        reset: jax.Array | None = None,
        reset_state: LSTMState | None = None,
        key: jax.Array | None = None,
    ) -> tuple[LSTMState, jax.Array]:
        """Run the layer over whole sequences.

        Args:
            params: LSTMParams of this layer.
            state: LSTMState of h [B, N] (or [B, P]) and c [B, N]: initial_state(B), or the state that a call before
                returned, which is all that "stateful" means.
            x:           [B, T, D], real floating.
            mask:        [B, T], bool; a step where it is False keeps the state.
            lengths:        [B], integers: the steps from there on are padding. Not together with mask.
            reset:       [B, T], bool; before a step where it is True the state becomes zeros, or reset_state.
            reset_state: LSTMState like `state`.
            key: a jax.random key means training: dropout is drawn from it. None means inference.

        Returns:
            The state after the last step, and the outputs, [B, T, N] with return_sequences, otherwise the last valid
            one [B, N], in the dtype of the computation.

        Raises:
            TypeError, ValueError: a wrong type, dtype, shape or combination; always while tracing.
        """
        D = self._check_params(params)
        x, mask = checks.sequence_inputs(x, D, mask, lengths, self.dtype)
        B, T, _ = x.shape
        N, P = self.units, self.output_size
        state = checks.state(state, (B,), N, P)
        if reset is not None:
            if self.go_backwards:
                raise ValueError("reset must be None with go_backwards=True (an episode ends nowhere), got an array")
            reset = checks.array("reset", reset, "bool", (B, T))
        if reset_state is not None:
            reset_state = checks.state(reset_state, (B,), N, P, name="reset_state")

        masks = self._dropout_masks(key, B, D, x.dtype)
        state, hs = dispatch.run(
            self, params, state, x, mask, reset, reset_state, masks, sequences=self.return_sequences
        )
        return state, self._outputs(state, hs, mask, x)

    def step(
        self,
        params: LSTMParams,
        state: LSTMState,
        x_t: jax.Array,
        *,
        reset: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> tuple[LSTMState, jax.Array]:
        """Run one time step, for streaming and rollouts: T calls of step equal one call of apply.

        Args:
            params: LSTMParams of this layer.
            state: LSTMState of h [B, N] (or [B, P]) and c [B, N].
            x_t:            [B, D], real floating.
            reset:             [B], bool; where True the row starts from zeros.
            key: a jax.random key draws dropout masks for this step alone. None means inference.

        Returns:
            The next state, and y [B, N] (or [B, P]).

        Raises:
            TypeError, ValueError: a wrong type, dtype or shape, or a layer that goes backwards.

        Example:
            >>> import jax, jax.numpy as jnp, jlstm
            >>> layer = jlstm.LSTM(4)
            >>> params = layer.init(jax.random.key(0), input_size=3)
            >>> state, y = layer.step(params, layer.initial_state(batch_size=2), jnp.ones((2, 3)))
            >>> y.shape
            (2, 4)
        """
        if self.go_backwards:
            raise ValueError("go_backwards must be False for step (the last time step would come first), got True")
        D = self._check_params(params)
        x_t = checks.computed_in(checks.array("x_t", x_t, "floating", ("B", D)), self.dtype)
        B = x_t.shape[0]
        state = checks.state(state, (B,), self.units, self.output_size)
        if reset is not None:
            reset = checks.array("reset", reset, "bool", (B,))[:, None]
        masks = self._dropout_masks(key, B, D, x_t.dtype)
        state, _ = dispatch.run(self, params, state, x_t[:, None], None, reset, None, masks, sequences=False)
        return state, state.h.astype(x_t.dtype)

    def penalty(self, params: LSTMParams) -> jax.Array:
        """Sum the three weight regularizers: a scalar to add to the loss.

        Example:
            >>> import jax, jlstm
            >>> layer = jlstm.LSTM(2, bias_regularizer="l2")
            >>> layer.penalty(layer.init(jax.random.key(0), input_size=3))  # two forget biases of 1, times 0.01
            Array(0.02, dtype=float32)
        """
        self._check_params(params)
        total = jnp.zeros((), wider_dtype(self.param_dtype, "float32"))
        for option, weight in self._options_of_weights(params, "regularizer"):
            total = total + named.regularizer(option, getattr(self, option))(getattr(params, weight)).astype(
                total.dtype
            )
        return total

    def activity_penalty(self, y: jax.Array) -> jax.Array:
        """Apply the activity_regularizer to outputs, divided by the batch size as in Keras 3.

        Args:
            y: what apply returned, [B, T, N] or [B, N].
        """
        axes = ("B", "T") if len(getattr(y, "shape", ())) == 3 else ("B",)
        y = checks.array("y", y, "floating", (*axes, self.output_size))
        if self.activity_regularizer is None:
            return jnp.zeros((), y.dtype)
        return named.regularizer("activity_regularizer", self.activity_regularizer)(y) / y.shape[0]

    def constrain(self, params: LSTMParams) -> LSTMParams:
        """Project the weights onto the three constraints; to be called after the optimizer's update."""
        self._check_params(params)
        constrained = {
            weight: named.constraint(option, getattr(self, option))(getattr(params, weight))
            for option, weight in self._options_of_weights(params, "constraint")
        }
        return replace(params, **constrained)

    def to_dict(self) -> dict[str, Any]:
        """Write the spec as plain types, for TOML and JSON; from_dict reads it back.

        Raises:
            TypeError: a field holds a bare callable, named in the message.
        """
        return spec.to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what to_dict wrote; the entry "name" may be left out here.

        Example:
            >>> import jlstm
            >>> jlstm.LSTM.from_dict({"units": 8, "bias_initializer": {"name": "Chrono", "max_steps": 100}})
            LSTM(8, bias_initializer=Chrono(max_steps=100))
        """
        return spec.from_dict(data, (cls,))

    __repr__ = spec.call_repr

    @property
    def cell_options(self) -> dict[str, Any]:
        """The options of lstm_cell."""
        return {name: getattr(self, name) for name in ("activation", "recurrent_activation", "variant")}

    def _check_params(self, params: LSTMParams) -> int:
        """Require the params of this layer, and return their input width D."""
        checks.params(params, "D", self.units, self.output_size, use_bias=self.use_bias, variant=self.variant)
        return params.kernel.shape[0]

    def _options_of_weights(self, params: LSTMParams, kind: str) -> list[tuple[str, str]]:
        """The options of a kind ("regularizer", "constraint") that are set, each with the weight that it concerns."""
        pairs = [(f"{w.removesuffix('_kernel')}_{kind}", w) for w in ("kernel", "recurrent_kernel", "bias")]
        return [pair for pair in pairs if getattr(self, pair[0]) is not None and getattr(params, pair[1]) is not None]

    def _dropout_masks(self, key: jax.Array | None, B: int, D: int, dtype: Any) -> DropoutMasks:
        if key is None:
            return DropoutMasks()
        checks.key(key)
        return lstm_dropout_masks(key, self, B, D, dtype)

    def _outputs(self, state: LSTMState, hs: Any, mask: jax.Array | None, x: jax.Array) -> jax.Array:
        """What apply returns: hs [B, T, N] is in the order of x, and holds the output before at masked steps."""
        zeroed = mask if self.zero_output_for_mask else None
        if not self.return_sequences:
            y = state.h.astype(x.dtype)  # the state is kept at masked steps, so this is the last valid output
            if zeroed is None:
                return y
            if x.shape[1] == 0:  # no step is a valid one
                return jnp.zeros_like(y)
            last = zeroed[:, 0] if self.go_backwards else zeroed[:, -1]
            return jnp.where(last[:, None], y, 0)
        hs = hs.astype(x.dtype)
        if zeroed is not None:
            hs = jnp.where(zeroed[:, :, None], hs, 0)
        return jnp.flip(hs, axis=1) if self.go_backwards and not self.keep_order else hs
