"""Which backend runs a call, decided while tracing from the spec, the shapes and the dtypes; and the call itself."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jlstm import checks
from jlstm.backends import library
from jlstm.cell import joined, joined_in_training
from jlstm.scan import scan
from jlstm.types import Directions, DropoutMasks, LSTMParams, LSTMState, wider_dtype

BACKENDS = ("auto", "cpu", "xla")


@dataclass(frozen=True)
class Choice:
    """The backend of a layer, and why the faster ones were passed over."""

    backend: str
    passed_over: tuple[tuple[str, str], ...] = ()  # (backend, reason)

    def __str__(self) -> str:
        return self.backend + "".join(f"; not {backend}: {reason}" for backend, reason in self.passed_over)


def which_backend(
    layer: Any, x_shape: tuple[int, int, int], *, dtype: Any = "float32", state_dtype: Any = "float32"
) -> Any:
    """Tell which backend runs `layer.apply`, and for each faster backend passed over the reason.

    Args:
        layer: an LSTM, Bidirectional or Stack.
        x_shape: (B, T, D).
        dtype: of x.
        state_dtype: of the state.

    Returns:
        For an LSTM a Choice with the fields backend and passed_over; for a Bidirectional layer the Directions, for a
        Stack the tuple of those of its layers.

    Raises:
        TypeError, ValueError: a wrong shape or dtype; or the layer asks for a backend that cannot serve the call.

    Example:
        >>> import jlstm
        >>> print(jlstm.which_backend(jlstm.LSTM(8, activation="gelu"), (32, 100, 3)))
        xla; not cpu: activation 'gelu' is none of those of the kernel
        >>> jlstm.which_backend(jlstm.LSTM(8, backend="xla"), (32, 100, 3))
        Choice(backend='xla', passed_over=(('cpu', 'the layer has backend="xla"'),))
    """
    from jlstm.compose import Bidirectional, Stack
    from jlstm.layers import LSTM

    checks.instance("layer", layer, LSTM, Bidirectional, Stack)
    if not isinstance(x_shape, (tuple, list)) or len(x_shape) != 3:
        raise ValueError(f"x_shape must have three entries (B, T, D), got {checks.show(x_shape)}")
    for name, value in zip("BTD", x_shape, strict=True):
        checks.size(f"x_shape's {name}", value)
    dtypes = {
        "dtype": checks.float_dtype("dtype", dtype),
        "state_dtype": checks.float_dtype("state_dtype", state_dtype),
    }
    if isinstance(layer, LSTM):
        return choose(layer, tuple(x_shape), layer.dtype or dtypes["dtype"], dtypes["state_dtype"])
    if isinstance(layer, Bidirectional):
        return Directions(*(which_backend(way, x_shape, **dtypes) for way in (layer.forward, layer.backward)))
    B, T, D = x_shape
    choices = []
    for below in layer.layers:
        choices.append(which_backend(below, (B, T, D), **dtypes))
        D, dtypes["dtype"] = below.output_size, _output_dtype(below, dtypes["dtype"])
    return tuple(choices)


def _output_dtype(layer: Any, dtype: str) -> str:
    """The dtype of the outputs for x of this dtype."""
    if hasattr(layer, "layers"):
        for below in layer.layers:
            dtype = _output_dtype(below, dtype)
        return dtype
    if hasattr(layer, "forward"):
        return wider_dtype(_output_dtype(layer.forward, dtype), _output_dtype(layer.backward, dtype)).name
    return layer.dtype or dtype


def choose(layer: Any, x_shape: tuple[Any, ...], dtype: Any, state_dtype: Any) -> Choice:
    """Choose the backend of one LSTM for x of this shape, in this dtype of the computation.

    Raises:
        ValueError: the layer names a backend that cannot serve the call.
    """
    if layer.backend == "xla":
        return Choice("xla", (("cpu", 'the layer has backend="xla"'),))
    reason = _cpu_cannot(layer, x_shape, dtype, state_dtype)
    if layer.backend == "cpu":
        if reason is not None:
            raise ValueError(f'backend must be "auto" or "xla" for this call, got "cpu": {reason}')
        return Choice("cpu")
    reason = reason or _cpu_slower(layer, x_shape)
    return Choice("cpu") if reason is None else Choice("xla", (("cpu", reason),))


def run(
    layer: Any,
    params: LSTMParams,
    state: LSTMState,
    x: jax.Array,
    mask: jax.Array | None,
    reset: jax.Array | None,
    reset_state: LSTMState | None,
    dropout_masks: DropoutMasks,
    *,
    sequences: bool,
) -> tuple[LSTMState, Any]:
    """Run an LSTM over a batch by the backend of choice.

    Returns:
        The last state, and hs [B, T, N] in the order of x, which may be None where `sequences` does not ask for them.
    """
    if reset_state is not None and reset is None:
        raise ValueError("reset_state must be None without reset, got a state")
    dtypes = state.h.dtype, state.c.dtype
    choice = choose(layer, x.shape, x.dtype, next((d for d in dtypes if d != jnp.float32), jnp.float32))
    if choice.backend == "cpu":
        from jlstm.backends import cpu

        config = cpu.Config(reverse=layer.go_backwards, strict=layer.backend == "cpu", **layer.cell_options)
        params, x, reset_state, dropout_masks = jax.tree.map(
            lambda a: a.astype(jnp.float32), (params, x, reset_state, dropout_masks)
        )
        rest = mask, reset, reset_state, dropout_masks
        return cpu.lstm(config, params, state, x, *rest, sequences=sequences)

    one_row = partial(
        scan,
        params,
        # With few rows one product of [x, h] is the faster, by 1.2 to 1.3 times at one row. With more of them it is so
        # in training alone, by 1.14 to 1.25 times at 32 rows, and forwards two are, by up to 1.15 times at 64.
        product=joined if isinstance(x.shape[0], int) and x.shape[0] < 8 else joined_in_training,
        reverse=layer.go_backwards,
        unroll=layer.unroll or 1,
        remat_every=layer.remat_every,
        **layer.cell_options,
    )
    return jax.vmap(one_row)(state, x, mask, reset, reset_state, dropout_masks)


def _cpu_cannot(layer: Any, x_shape: tuple[Any, ...], dtype: Any, state_dtype: Any) -> str | None:
    """Why the kernel cannot serve a call, or None."""
    from jlstm.backends import calls

    variant = layer.variant
    for name, value in (
        ("activation", layer.activation),
        ("recurrent_activation", layer.recurrent_activation),
        ("variant.output_activation", variant.output_activation or "linear"),
    ):
        if calls.kind(value) is None:
            return f"{name} {checks.show(value)} is none of those of the kernel"
    for name, value in (
        ("variant.projection", variant.projection),
        ("variant.preact_clip", variant.preact_clip),
        ("remat_every", layer.remat_every),
    ):
        if value is not None:
            return f"the kernel has no {name}"
    if not all(isinstance(size, int) for size in x_shape):
        return "a size is symbolic"
    if jnp.dtype(dtype).name not in ("float32", "bfloat16"):
        return f"the kernel computes in float32, for x of float32 or bfloat16, not {jnp.dtype(dtype).name}"
    if jnp.dtype(state_dtype) != jnp.float32:
        return f"the kernel keeps the state in float32, not {jnp.dtype(state_dtype).name}"
    if jax.default_backend() != "cpu":
        return f"the default device is a {jax.default_backend()}"
    return library.unavailable()


def _cpu_slower(layer: Any, x_shape: tuple[Any, ...]) -> str | None:
    """Why the kernel would not pay, by measurements at D = N / 2, or None."""
    B, T, D = x_shape
    weights = 4 * layer.units * (D + layer.units)
    if weights > 2**20 and (T < 2 or B * T < 16):  # at N = 512: 0.3 of the speed of XLA for one step of one row
        return f"packing {weights} weights takes longer than {T} time step{'s' if T > 1 else ''} of {B} rows"
    # A call by itself is 1.4 to 2 times as fast as XLA's up to 128 rows, but in a loop of such calls, where XLA packs
    # nothing, it has 0.7 to 0.8 of the speed from 8 rows on.
    if T < 2 and B > 8:
        return f"for one time step of {B} rows packing the weights costs about as much as the step"
    return None
