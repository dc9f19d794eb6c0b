"""One step of an LSTM on one example: the gate equations, nothing else."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jlstm import checks, named
from jlstm.types import DropoutMasks, LSTMParams, LSTMState, wider_dtype
from jlstm.variant import Variant


def lstm_cell(
    params: LSTMParams,
    state: LSTMState,
    x: jax.Array,
    *,
    activation: named.Activation = "tanh",
    recurrent_activation: named.Activation = "sigmoid",
    variant: Variant = Variant(),
    dropout_masks: DropoutMasks = DropoutMasks(),
) -> tuple[LSTMState, jax.Array]:
    """Advance one example by one time step.

    ::

        i, f, g, o = split(x @ kernel + h @ recurrent_kernel + bias)
        c' = σ(f) ∘ c + σ(i) ∘ φ(g)          σ = recurrent_activation, φ = activation
        h' = σ(o) ∘ φ(c')

    Args:
        params: LSTMParams; cast to x's dtype.
        state: LSTMState of h      [N] (or [P] with a projection)
                           and c   [N].
        x:                         [D], real floating; the products are computed in its dtype.
        activation: φ, a name of Keras or a function.
        recurrent_activation: σ, likewise.
        variant: what changes the cell; see Variant.
        dropout_masks: masks for what the gates read of x and of h; none by default.

    Returns:
        The next state, of the dtypes of the state given, and h' in x's dtype.

    Raises:
        TypeError, ValueError: a wrong type, dtype, shape or name.

    Example:
        >>> import jax, jax.numpy as jnp, jlstm
        >>> params = jlstm.LSTM(5).init(jax.random.key(0), input_size=3)
        >>> zeros = jlstm.LSTMState(h=jnp.zeros(5), c=jnp.zeros(5))
        >>> state, h = jlstm.lstm_cell(params, zeros, jnp.ones(3))
        >>> h.shape
        (5,)

    Source: Gers, Schmidhuber & Cummins 2000; argument names and numbers of keras.layers.LSTM.
    """
    checks.instance("variant", variant, Variant)
    D, N, P = checks.sizes(params, variant)
    state = checks.state(state, (), N, P)
    x = checks.array("x", x, "floating", (D,))
    checks.dropout_masks(dropout_masks, D, P)
    return advance(
        params,
        state,
        x,
        activation=activation,
        recurrent_activation=recurrent_activation,
        variant=variant,
        dropout_masks=dropout_masks,
        product=apart,
    )


def advance(params: LSTMParams, state: LSTMState, x: jax.Array, **options: Any) -> tuple[LSTMState, jax.Array]:
    """What lstm_cell computes, of arguments that have been checked; options as in `gated`."""
    return gated(params, state, x, **options)[:2]


def gated(
    params: LSTMParams,
    state: LSTMState,
    x: jax.Array,
    *,
    activation: named.Activation,
    recurrent_activation: named.Activation,
    variant: Variant,
    dropout_masks: DropoutMasks,
    product: Callable[..., jax.Array],
) -> tuple[LSTMState, jax.Array, tuple[jax.Array, jax.Array, jax.Array, jax.Array]]:
    """As `advance`, with i, f, g, o [N] as the cell uses them in third place.

    product: what takes x @ kernel + h @ recurrent_kernel where there is no dropout: `apart`, `joined` or
        `joined_in_training`.
    """
    φ = named.activation("activation", activation)
    σ = named.activation("recurrent_activation", recurrent_activation)
    wide = wider_dtype(x.dtype, state.c.dtype)  # a float32 state keeps its bits under bfloat16 products
    with jax.named_scope("lstm_cell"):
        h = state.h.astype(x.dtype)
        if dropout_masks.input is None and dropout_masks.recurrent is None:
            z = product(x, h, params.kernel.astype(x.dtype), params.recurrent_kernel.astype(x.dtype), wide)
        else:
            z = _masked_product(x, params.kernel, dropout_masks.input, wide)
            z = z + _masked_product(h, params.recurrent_kernel, dropout_masks.recurrent, wide)
        if params.bias is not None:
            z = z + params.bias.astype(wide)
        c = state.c.astype(wide)
        if variant == Variant():
            i, f, g, o = jnp.split(z, 4)
            i, f, g, o = σ(i), σ(f), φ(g), σ(o)
            c = f * c + i * g
            h = o * φ(c)
        else:
            c, h, (i, f, g, o) = _variant_gates(params, z, c, σ, φ, variant)
        if params.projection is not None:
            h = _product(h.astype(x.dtype), params.projection.astype(x.dtype), wide)
    h = h.astype(state.h.dtype)  # the output is the h that the state keeps: a masked step has no other
    return LSTMState(h=h, c=c.astype(state.c.dtype)), h.astype(x.dtype), (i, f, g, o)


def apart(x: jax.Array, h: jax.Array, kernel: jax.Array, recurrent_kernel: jax.Array, dtype: Any) -> jax.Array:
    """x @ kernel + h @ recurrent_kernel, as two products."""
    return _product(x, kernel, dtype) + _product(h, recurrent_kernel, dtype)


def joined(x: jax.Array, h: jax.Array, kernel: jax.Array, recurrent_kernel: jax.Array, dtype: Any) -> jax.Array:
    """The same as one product, [x, h] @ [kernel; recurrent_kernel]. It pays inside a loop, out of which XLA moves the
    joining of the weights, and costs a copy of them elsewhere."""
    return _product(jnp.concatenate([x, h]), jnp.concatenate([kernel, recurrent_kernel]), dtype)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def joined_in_training(
    x: jax.Array, h: jax.Array, kernel: jax.Array, recurrent_kernel: jax.Array, dtype: Any
) -> jax.Array:
    """The same as two products, but as one where it is differentiated."""
    return apart(x, h, kernel, recurrent_kernel, dtype)


@joined_in_training.defjvp
def _joined_in_training_jvp(dtype, primals, tangents):
    def product(x, h, kernel, recurrent_kernel):
        return joined(x, h, kernel, recurrent_kernel, dtype)

    return jax.jvp(product, primals, tangents)


def _variant_gates(params, z, c, σ, φ, variant):
    """The gate equations with every option of Variant but the projection: z [4N], c [N] -> c', h before it, gates."""

    def clip(z):
        return z if variant.preact_clip is None else jnp.clip(z, -variant.preact_clip, variant.preact_clip)

    φ_h = φ if variant.output_activation is None else named.activation("output_activation", variant.output_activation)
    i, f, g, o = jnp.split(z, 4)
    p = params.peephole.astype(z.dtype) if variant.peephole else None
    if p is not None:
        i, f = i + p[0] * c, f + p[1] * c
    i, f, g = σ(clip(i)), σ(clip(f)), φ(clip(g))
    if variant.coupled == "input":
        i = 1 - f
    elif variant.coupled == "forget":
        f = 1 - i
    c = (f * c if variant.forget_gate else c) + i * g
    if p is not None:
        o = o + p[2] * c
    o = σ(clip(o))
    return c, o * φ_h(c), (i, f if variant.forget_gate else jnp.ones_like(f), g, o)


def _product(x, kernel, dtype):
    return jnp.matmul(x, kernel, preferred_element_type=dtype)


def _masked_product(x, kernel, mask, dtype):
    """x @ kernel, in x's dtype with sums and result in `dtype`; a mask [4, D] gives each gate its own x."""
    kernel = kernel.astype(x.dtype)
    if mask is None:
        return _product(x, kernel, dtype)
    mask = mask.astype(x.dtype)
    if mask.ndim == 1:
        return _product(x * mask, kernel, dtype)
    per_gate = kernel.reshape(x.shape[0], 4, -1)
    return jnp.einsum("gd,dgn->gn", x[None] * mask, per_gate, preferred_element_type=dtype).reshape(-1)
