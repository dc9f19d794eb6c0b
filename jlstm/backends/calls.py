"""What the kernel computes: its operands and results, the call through XLA's foreign function interface, and the
same function by lax.scan.

Operands are arrays with an axis M of members in front (see OPERANDS); an option that is off is an empty array.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jlstm import named
from jlstm.backends import sharding
from jlstm.scan import lstm_scan
from jlstm.types import DropoutMasks, LSTMParams, LSTMState
from jlstm.variant import Variant

# What the kernel reads, in the order of csrc/ffi.cc. The first four may have one member that all share.
OPERANDS = (
    "kernel",  #           [M, D, 4N]
    "recurrent_kernel",  # [M, N, 4N]
    "bias",  #             [M, 4N] or empty
    "peephole",  #         [M, 3, N] or empty
    "h",  #                [M, B, N]
    "c",  #                [M, B, N]
    "x",  #                [M, B, T, D]
    "mask",  #             [M, B, T] or empty
    "reset",  #            [M, B, T] or empty
    "reset_h",  #          [M, B, N] or empty
    "reset_c",  #          [M, B, N] or empty
    "input_mask",  #       [M, B, 4, D] or empty
    "recurrent_mask",  #   [M, B, 4, N] or empty
)
PARAMS = 4  # of them are parameters
# What has a gradient, in the order in which the kernel gives them.
DIFFERENTIABLE = ("kernel", "recurrent_kernel", "bias", "peephole", "h", "c", "x", "reset_h", "reset_c")

WHERE = tuple(OPERANDS.index(name) for name in DIFFERENTIABLE)
X = OPERANDS.index("x")


@dataclass(frozen=True)
class Config:
    """What does not change from call to call: the cell's options as lstm_scan takes them, and the direction."""

    activation: Any
    recurrent_activation: Any
    variant: Variant
    reverse: bool
    strict: bool = False  # the kernel was asked for by name: never the reference in its place


# The kinds of csrc/lstm.h, by the name of the activation; the numbers of a hard sigmoid are alpha and beta.
_KINDS = {"tanh": 0, "sigmoid": 1, "linear": 2, "relu": 3, "hard_tanh": 4, "softsign": 5}
_HARD_SIGMOID = 6
ACTIVATIONS = (*_KINDS, "hard_sigmoid", "hard_sigmoid_keras2")


def kind(activation: Any) -> tuple[int, float, float] | None:
    """The kernel's number of an activation, and its two parameters; None for one that the kernel does not have."""
    if isinstance(activation, str) and activation in _KINDS:
        return _KINDS[activation], 0.0, 0.0
    if activation == "hard_sigmoid":
        return _HARD_SIGMOID, 1 / 6, 0.5
    if activation == "hard_sigmoid_keras2":
        activation = named.HardSigmoid()
    if isinstance(activation, named.HardSigmoid):
        return _HARD_SIGMOID, activation.alpha, activation.beta
    return None


# --- the reference: the same function by lax.scan --------------------------------------------------------------------


def reference(*operands: jax.Array, config: Config) -> tuple[jax.Array, jax.Array, jax.Array]:
    """h, c and y of lstm_scan, from the operands of the kernel."""
    members = operands[X].shape[0]
    given = [
        None if a.ndim == 1 else jnp.broadcast_to(a, (members, *a.shape[1:])) if n < PARAMS else a
        for n, a in enumerate(operands)
    ]

    def of_member(kernel, recurrent_kernel, bias, peephole, *per_row):
        params = LSTMParams(kernel, recurrent_kernel, bias, peephole)

        def of_row(h, c, x, mask, reset, reset_h, reset_c, input_mask, recurrent_mask):
            state, hs = lstm_scan(
                params,
                LSTMState(h=h, c=c),
                x,
                mask=mask,
                reset=reset,
                reset_state=None if reset_h is None else LSTMState(h=reset_h, c=reset_c),
                reverse=config.reverse,
                activation=config.activation,
                recurrent_activation=config.recurrent_activation,
                variant=config.variant,
                dropout_masks=DropoutMasks(input_mask, recurrent_mask),
            )
            return state.h, state.c, hs

        return jax.vmap(of_row)(*per_row)

    return jax.vmap(of_member)(*given)


def reference_of_differentiable(operands, config):
    """The reference as a function of the operands that have gradients, and their values."""

    def f(*values):
        full = list(operands)
        for n, value in zip(WHERE, values, strict=True):
            full[n] = value
        return reference(*full, config=config)

    return f, [operands[n] for n in WHERE]


def reference_gradients(*arguments: jax.Array, config: Config, with_dx: bool) -> list[jax.Array]:
    """What backward_p gives, by lax.scan, which computes again what the kernel saved."""
    operands, (_, _, dh, dc, dy) = list(arguments[: len(OPERANDS)]), arguments[len(OPERANDS) :]
    for n, a in enumerate(operands[:PARAMS]):
        if a.ndim > 1:  # shared parameters have a gradient for each member
            operands[n] = jnp.broadcast_to(a, (operands[X].shape[0], *a.shape[1:]))
    f, values = reference_of_differentiable(operands, config)
    (_, _, y), pullback = jax.vjp(f, *values)
    grads = pullback((dh, dc, dy if dy.ndim > 1 else jnp.zeros_like(y)))
    expected = backward_results(operands, with_dx=with_dx)
    return [g if g.shape == e.shape else jnp.zeros(e.shape, e.dtype) for g, e in zip(grads, expected, strict=True)]


# --- the kernel ------------------------------------------------------------------------------------------------------


# The axes of the results, by name: m and b may be split over devices.
AXES_OF_FORWARD = ("m b n", "m b n", "m b t n", "m t b s")
AXES_OF_BACKWARD = ("m d g", "m n g", "m g", "m p n", "m b n", "m b n", "m b t d", "m b n", "m b n")


def _attributes(config: Config) -> dict[str, np.ndarray]:
    variant = config.variant
    output = config.activation if variant.output_activation is None else variant.output_activation
    kinds = [k for a in (config.activation, config.recurrent_activation, output) if (k := kind(a)) is not None]
    coupled = (None, "input", "forget").index(variant.coupled)
    options = [*(k[0] for k in kinds), config.reverse, coupled, variant.forget_gate]
    return {
        "options": np.array(options, np.int64),
        "numbers": np.array([number for k in kinds for number in k[1:]], np.float32),
    }


def _sizes(operands):
    M, B, T, D = operands[X].shape
    return M, B, T, D, operands[0].shape[-1] // 4


def _float32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def forward_results(operands, *, sequences: bool, save: bool):
    """h, c, y and what is saved (i, f, g, o and c of each step, in blocks of 16 units); empty where not wanted."""
    M, B, T, _, N = _sizes(operands)
    y = _float32(M, B, T, N) if sequences else _float32(0)
    saved = _float32(M, T, B, 5 * -(-N // 16) * 16) if save else _float32(0)
    return _float32(M, B, N), _float32(M, B, N), y, saved


def backward_results(operands, *, with_dx: bool):
    """The gradients of DIFFERENTIABLE; those of parameters one a member, empty where there is no such operand."""
    M, B, T, D, N = _sizes(operands)
    *_, peephole = operands[:PARAMS]
    reset_h = operands[OPERANDS.index("reset_h")]
    state = _float32(M, B, N)
    reset = state if reset_h.ndim > 1 else _float32(0)
    return (
        _float32(M, D, 4 * N),
        _float32(M, N, 4 * N),
        _float32(M, 4 * N),  # of the bias, whether there is one or not
        _float32(M, 3, N) if peephole.ndim > 1 else _float32(0),
        state,
        state,
        _float32(M, B, T, D) if with_dx else _float32(0),
        reset,
        reset,
    )


def forward_kernel(*operands: jax.Array, config: Config, sequences: bool, save: bool, split: bool) -> Any:
    def results(*operands):
        return forward_results(operands, sequences=sequences, save=save)

    def call(*operands):
        return jax.ffi.ffi_call("jlstm_forward", results(*operands))(*operands, **_attributes(config))

    if not split:
        return call(*operands)
    axes = (*_axes_of_operands(operands), *AXES_OF_FORWARD)
    return sharding.split_by_rows(call, operands, results, axes)


def backward_kernel(*arguments: jax.Array, config: Config, with_dx: bool, split: bool) -> Any:
    def results(*arguments):
        return backward_results(arguments, with_dx=with_dx)

    def call(*arguments):
        return jax.ffi.ffi_call("jlstm_backward", results(*arguments))(*arguments, **_attributes(config))

    if not split:
        return call(*arguments)
    saved_and_cotangents = ("m b t n", "m t b s", "m b n", "m b n", "m b t n")
    axes = (*_axes_of_operands(arguments), *saved_and_cotangents, *AXES_OF_BACKWARD)
    return sharding.split_by_rows(call, arguments, results, axes)


def _axes_of_operands(operands: Any) -> tuple[str, ...]:
    """The axes of each operand, likewise; q stands for the four gates."""
    m = "one" if operands[0].shape[0] == 1 else "m"
    params = (f"{m} d g", f"{m} n g", f"{m} g", f"{m} p n")
    return (*params, "m b n", "m b n", "m b t d", "m b t", "m b t", "m b n", "m b n", "m b q d", "m b q n")
