"""inspect: what the gates and the cells of a layer do at every step."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jlstm import cell, checks
from jlstm.compose import Bidirectional, Stack
from jlstm.layers import LSTM
from jlstm.types import GATES, Directions, DropoutMasks, LSTMParams, LSTMState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LSTMTrace:
    """What happened in one LSTM at every time step.

        c[t] = f[t] ∘ c[t-1] + i[t] ∘ g[t]
        h[t] = o[t] ∘ φ(c[t])                φ = variant.output_activation where there is one, or else activation
        h[t] = (o[t] ∘ φ(c[t])) @ projection where there is one

    c[-1] is the c of the state given. Where a row was reset before step t, c[t-1] is that of reset_state, or zeros.

    Gates are as the cell uses them: i or f is 1 minus the other where they are coupled, and f is 1 without a forget
    gate. At masked steps the gates are NaN, since none was computed, and c and h are those that were kept. Time is in
    the order of the layer's input, whatever the direction: with go_backwards, c[t-1] above reads c[t+1].
    """

    i: Any  #: [B, T, N], input gate
    f: Any  #: [B, T, N], forget gate
    g: Any  #: [B, T, N], candidate
    o: Any  #: [B, T, N], output gate
    c: Any  #: [B, T, N], cell, after the step
    h: Any  #: [B, T, N], or [B, T, P] with a projection; output, after the step


def inspect(
    layer: LSTM | Bidirectional | Stack,
    params: Any,
    state: Any,
    x: jax.Array,
    *,
    mask: jax.Array | None = None,
    lengths: jax.Array | None = None,
    reset: jax.Array | None = None,
    reset_state: Any = None,
) -> Any:
    """Record gates, candidate, cell and output of every step, unit and layer, without dropout.

    The steps are those of `layer.apply` with these arguments, run by lax.scan whatever the layer's backend: so jvp and
    jacfwd work too.

    Args:
        layer: an LSTM, a Bidirectional or a Stack.
        params, state, mask, lengths, reset, reset_state: as in layer.apply.
        x: [B, T, D], real floating.

    Returns:
        An LSTMTrace for an LSTM; for a Bidirectional, Directions of two, both in the order of x; for a Stack, a tuple
        with an entry a layer. A layer above one with go_backwards and without keep_order has for input what that one
        returns, the outputs in the order of processing.

    Raises:
        TypeError, ValueError: as layer.apply.

    Example:
        >>> import jax, jax.numpy as jnp, jlstm
        >>> layer = jlstm.LSTM(4)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> trace = jlstm.inspect(layer, params, layer.initial_state(2), jnp.ones((2, 7, 3)))
        >>> trace.f.shape, bool((trace.h == trace.o * jnp.tanh(trace.c)).all())
        ((2, 7, 4), True)
    """
    checks.instance("layer", layer, LSTM, Bidirectional, Stack)
    options = {"mask": mask, "lengths": lengths, "reset": reset, "reset_state": reset_state}
    jax.eval_shape(lambda: layer.apply(params, state, x, **options))  # its checks, without its arithmetic
    return _inspect(_on_xla(layer), params, state, jnp.asarray(x), **options)


def _inspect(layer: Any, params: Any, state: Any, x: jax.Array, *, reset_state: Any, **options: Any) -> Any:
    if isinstance(layer, LSTM):
        return _steps(layer, params, state, x, reset_state=reset_state, **options)
    if isinstance(layer, Bidirectional):
        return Directions(
            _steps(layer.forward, params.forward, state.forward, x, **options),
            _steps(layer.backward, params.backward, state.backward, x, **options),
        )
    reset_states = (None,) * len(layer.layers) if reset_state is None else reset_state
    traces = []
    for one, p, s, r in zip(layer.layers, params, state, reset_states, strict=True):
        if traces:
            below = len(traces) - 1
            x = layer.layers[below].apply(params[below], state[below], x, reset_state=reset_states[below], **options)[1]
        traces.append(_inspect(one, p, s, x, reset_state=r, **options))
    return tuple(traces)


def _on_xla(layer: Any) -> Any:
    """The same layer through lax.scan, with what the layers of a Stack hand to those above them."""
    if isinstance(layer, LSTM):
        return replace(layer, backend="xla")
    if isinstance(layer, Bidirectional):
        return replace(layer, forward=_on_xla(layer.forward), backward=_on_xla(layer.backward))
    return replace(layer, layers=tuple(map(_on_xla, layer.layers)))


def _steps(
    layer: LSTM,
    params: LSTMParams,
    state: LSTMState,
    x: jax.Array,
    *,
    mask: jax.Array | None,
    lengths: jax.Array | None,
    reset: jax.Array | None,
    reset_state: LSTMState | None = None,
) -> LSTMTrace:
    """Run the cell over the steps of a batch and keep all that it computes."""
    x, mask = checks.sequence_inputs(x, params.kernel.shape[0], mask, lengths, layer.dtype)
    if mask is not None:
        x = jnp.where(mask[:, :, None], x, 0)
    advance = partial(cell.gated, params, dropout_masks=DropoutMasks(), product=cell.joined, **layer.cell_options)

    def step(state, inputs):
        x, keep, restart = inputs
        if restart is not None:
            fresh = jax.tree.map(jnp.zeros_like, state) if reset_state is None else reset_state
            state = _where(restart, fresh, state)
        new, _, gates = jax.vmap(advance)(state, x)
        if keep is not None:
            new = _where(keep, new, state)
            gates = [jnp.where(keep[:, None], gate, jnp.nan) for gate in gates]
        return new, LSTMTrace(c=new.c, h=new.h, **dict(zip(GATES, gates, strict=True)))

    inputs = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), (x, mask, reset))
    with jax.named_scope("lstm_inspect"):
        trace = jax.lax.scan(step, state, inputs, reverse=layer.go_backwards)[1]
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), trace)


def _where(condition: jax.Array, new: LSTMState, old: LSTMState) -> LSTMState:
    """Choose the states of rows [B], in the dtypes of `old`."""
    return jax.tree.map(lambda a, b: jnp.where(condition[:, None], a.astype(b.dtype), b), new, old)
