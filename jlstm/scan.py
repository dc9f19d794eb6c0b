"""The cell over time, on one example: masks, resets, direction, rematerialisation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jlstm import checks, named
from jlstm.cell import advance, apart, joined
from jlstm.types import DropoutMasks, LSTMParams, LSTMState
from jlstm.variant import Variant


def lstm_scan(
    params: LSTMParams,
    state: LSTMState,
    xs: jax.Array,
    *,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    reset_state: LSTMState | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    remat_every: int | None = None,
    activation: named.Activation = "tanh",
    recurrent_activation: named.Activation = "sigmoid",
    variant: Variant = Variant(),
    dropout_masks: DropoutMasks = DropoutMasks(),
) -> tuple[LSTMState, jax.Array]:
    """Run `lstm_cell` over the time steps of one example. A batch is `jax.vmap(lstm_scan, in_axes=(None, 0, 0))`,
    with `functools.partial` for options such as reverse=True, which vmap would take for arrays.

    Before step t the state is replaced where reset[t]; the step then advances it where mask[t], and keeps it
    elsewhere. hs[t] is h after step t. What xs holds at masked steps, NaN included, reaches neither values nor
    gradients; at the other steps xs must be finite for the gradients to be.

    Args:
        params: LSTMParams; cast to the dtype of xs.
        state: LSTMState of h      [N] (or [P] with a projection)
                           and c   [N].
        xs:                     [T, D], real floating; the products are computed in its dtype.
        mask:                      [T], bool; False keeps the state. None: all True.
        reset:                     [T], bool; True starts the step from reset_state.
        reset_state: LSTMState like `state`; None means zeros. Gradients reach it, and stop there.
        reverse: go from the last step to the first; hs stays in the order of xs.
        unroll: steps of the loop that are compiled as one (as in lax.scan); True for all.
        remat_every: save the state only every so many steps and recompute the steps between in the backward
            pass; None saves what each step needs.
        activation, recurrent_activation, variant, dropout_masks: as in lstm_cell.

    Returns:
        The last state, of the dtypes of the state given, and hs [T, N] (or [T, P]) in the dtype of xs.

    Raises:
        TypeError, ValueError: a wrong type, dtype, shape, name or combination.

    Example:
        >>> import jax, jax.numpy as jnp, jlstm
        >>> params = jlstm.LSTM(5).init(jax.random.key(0), input_size=3)
        >>> zeros = jlstm.LSTMState(h=jnp.zeros((2, 5)), c=jnp.zeros((2, 5)))
        >>> state, hs = jax.vmap(jlstm.lstm_scan, in_axes=(None, 0, 0))(params, zeros, jnp.ones((2, 7, 3)))
        >>> hs.shape
        (2, 7, 5)
    """
    checks.instance("variant", variant, Variant)
    D, N, P = checks.sizes(params, variant)
    state = checks.state(state, (), N, P)
    xs = checks.array("xs", xs, "floating", ("T", D))
    T = xs.shape[0]
    checks.boolean("reverse", reverse)
    unroll = checks.unroll(unroll) or 1
    if remat_every is not None:
        remat_every = checks.positive_int("remat_every", remat_every)
    checks.dropout_masks(dropout_masks, D, P)
    if mask is not None:
        mask = checks.array("mask", mask, "bool", (T,))
    if reset is not None:
        reset = checks.array("reset", reset, "bool", (T,))
        if reverse:
            raise ValueError("reset must be None with reverse=True (an episode has no meaning backwards), got an array")
        if reset_state is not None:
            reset_state = checks.state(reset_state, (), N, P, name="reset_state")
    elif reset_state is not None:
        raise ValueError("reset_state must be None without reset, got a state")
    return scan(
        params,
        state,
        xs,
        mask,
        reset,
        reset_state,
        dropout_masks,
        product=joined,
        reverse=reverse,
        unroll=unroll,
        remat_every=remat_every,
        activation=activation,
        recurrent_activation=recurrent_activation,
        variant=variant,
    )


def scan(
    params: LSTMParams,
    state: LSTMState,
    xs: jax.Array,
    mask: jax.Array | None,
    reset: jax.Array | None,
    reset_state: LSTMState | None,
    dropout_masks: DropoutMasks,
    *,
    product: Callable[..., jax.Array],
    reverse: bool,
    unroll: int | bool,
    remat_every: int | None,
    **cell_options: Any,
) -> tuple[LSTMState, jax.Array]:
    """What lstm_scan computes, of arguments that have been checked; `product` as in jlstm.cell.advance."""
    T = xs.shape[0]
    checks.known_steps("unroll", unroll, T)
    checks.known_steps("remat_every", remat_every, T)
    if mask is not None:
        xs = jnp.where(mask[:, None], xs, 0)  # before the arithmetic: a `where` after it back-propagates NaN
    fresh = None
    if reset is not None:
        fresh = jax.tree.map(jnp.zeros_like, state) if reset_state is None else reset_state
    one_step = isinstance(T, int) and T == 1
    advance_by = partial(
        advance, params, dropout_masks=dropout_masks, product=apart if one_step else product, **cell_options
    )

    def step(state, inputs):
        x, keep, restart = inputs
        if fresh is not None:
            state = _where(restart, fresh, state)
        new, _ = advance_by(state, x)
        if keep is not None:
            new = _where(keep, new, state)
        return new, new.h.astype(x.dtype)

    # The input product hoisted out of the loop takes 1.05 and 1.6 times as long at (B, T, D, N) = (1, 100, 32, 64) and
    # (32, 100, 32, 128) (two Zen 3 cores): its [T, B, 4N] buffer costs more in memory traffic than one large product
    # saves. Weights' gradients deferred to one product after the loop (a custom_jvp that takes x @ dkernel + h @
    # drecurrent_kernel before it) take 1.1 and 1.3 times as long.
    # The cell casts params inside the loop too, so that in bfloat16 their gradients are summed over time in float32.
    with jax.named_scope("lstm_scan"):
        if one_step:
            state, h = step(state, jax.tree.map(lambda a: a[0], (xs, mask, reset)))
            return state, h[None]
        if remat_every is None:
            return lax.scan(step, state, (xs, mask, reset), reverse=reverse, unroll=unroll)
        return _scan_in_chunks(step, state, (xs, mask, reset), T, remat_every, reverse, unroll)


def _where(condition: jax.Array, new: LSTMState, old: LSTMState) -> LSTMState:
    """Choose a state by one bool, in the dtypes of `old`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a.astype(b.dtype), b), new, old)


def _scan_in_chunks(step: Callable, state: Any, inputs: Any, T: int, k: int, reverse: bool, unroll: int | bool):
    """lax.scan over chunks of k steps, of which only the state between chunks is saved for the backward pass."""

    def chunk(state, inputs):
        return lax.scan(step, state, inputs, reverse=reverse, unroll=unroll)

    # prevent_cse is for remat outside of a loop; inside one it only blocks fusion
    chunk = jax.checkpoint(chunk, prevent_cse=False)

    def run(state, first, last, k):
        cut = jax.tree.map(lambda a: a[first:last].reshape((last - first) // k, k, *a.shape[1:]), inputs)
        state, hs = lax.scan(chunk, state, cut, reverse=reverse)
        return state, hs.reshape(last - first, *hs.shape[2:])

    whole = T // k * k
    if whole in (0, T):
        return run(state, 0, T, max(min(k, T), 1))
    if reverse:
        state, rest = run(state, whole, T, T - whole)
        state, hs = run(state, 0, whole, k)
    else:
        state, hs = run(state, 0, whole, k)
        state, rest = run(state, whole, T, T - whole)
    return state, jnp.concatenate([hs, rest])
