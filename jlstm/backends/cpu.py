"""The fused CPU kernel as JAX primitives: the layer, its forward pass that saves, and its backward pass.

`layer_p` is what a call of a layer binds. Differentiated once it becomes `forward_p`, which saves the gates, and
`pullback_p`, which is linear, exists for its transpose `backward_p` alone and says so where forward mode asks for it.
`forward_p` and `backward_p` are differentiated through the reference, lax.scan: so are second and higher orders.
Lowered for another platform than "cpu", or to be exported, each of them is the reference too.

Under `vmap` further examples of shared parameters join the batch, further parameter sets join the members.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec

from jlstm.backends import calls, sharding
from jlstm.backends.calls import DIFFERENTIABLE, OPERANDS, PARAMS, WHERE, Config, X
from jlstm.types import DropoutMasks, LSTMParams, LSTMState

_DX = DIFFERENTIABLE.index("x")


def lstm(
    config: Config,
    params: LSTMParams,
    state: LSTMState,
    x: jax.Array,
    mask: jax.Array | None,
    reset: jax.Array | None,
    reset_state: LSTMState | None,
    dropout_masks: DropoutMasks,
    *,
    sequences: bool,
) -> tuple[LSTMState, jax.Array | None]:
    """Run a batch through the kernel, in float32.

    Args:
        config: the options.
        params: LSTMParams of float32.
        state: LSTMState of h [B, N] and c [B, N], float32.
        x:                  [B, T, D], float32.
        mask, reset:           [B, T], bool, or None.
        reset_state: LSTMState like `state`, or None.
        dropout_masks: input [B, D] or [B, 4, D], recurrent [B, 4, N], or None each.
        sequences: whether the outputs of all steps are wanted.

    Returns:
        The last state, and hs [B, T, N], or None.
    """
    input_mask = dropout_masks.input
    if input_mask is not None and input_mask.ndim == 2:  # one for all gates: the kernel need not know
        x, input_mask = x * input_mask[:, None], None
    restart = (None, None) if reset_state is None else (reset_state.h, reset_state.c)
    given = (params.kernel, params.recurrent_kernel, params.bias, params.peephole, state.h, state.c, x, mask, reset)
    given = (*given, *restart, input_mask, dropout_masks.recurrent)
    empty = {"mask": jnp.bool_, "reset": jnp.bool_}
    operands = [
        jnp.zeros(0, empty.get(name, jnp.float32)) if a is None else a[None]
        for name, a in zip(OPERANDS, given, strict=True)
    ]
    operands[-2:] = map(jax.lax.stop_gradient, operands[-2:])  # drawn, not learned
    with jax.named_scope("lstm_kernel"):
        h, c, *ys = layer_p.bind(*_varying_alike(operands), config=config, sequences=sequences)
    return LSTMState(h=h[0], c=c[0]), ys[0][0] if sequences else None


def _varying_alike(operands: list[jax.Array]) -> list[jax.Array]:
    """Let all operands vary over the mesh axes over which any does, so that the gradients of those that did not are
    summed over the devices. Outside of shard_map none does."""
    over = [getattr(jax.typeof(a), "manual_axis_type", None) for a in operands]
    over = [frozenset() if axes is None else axes.varying for axes in over]
    union = frozenset().union(*over)
    return [
        jax.lax.pcast(a, tuple(sorted(union - own)), to="varying") if union - own else a
        for a, own in zip(operands, over, strict=True)
    ]


# --- the primitives ----------------------------------------------------------------------------------------------


def _primitive(name: str, abstract: Any, kernel: Any, reference: Any) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_abstract_eval(abstract)

    def lower_reference(ctx, *operands, config, **params):
        if config.strict:
            raise ValueError(
                'backend must be "auto" or "xla" to export or to lower for another platform, got "cpu": under "auto" '
                "it is lax.scan there, and jlstm.export makes an artifact of a layer with any backend"
            )
        return mlir.lower_fun(reference, multiple_results=True)(ctx, *operands, config=config, **params)

    def lower_kernel(ctx, *operands, **params):
        if ctx.module_context.lowering_parameters.for_export:  # an artifact must not depend on what is installed here
            return lower_reference(ctx, *operands, **params)
        split = sharding.can_split(ctx.module_context.axis_context)
        return mlir.lower_fun(partial(kernel, split=split), multiple_results=True)(ctx, *operands, **params)

    sharding.needs_devices(primitive)
    mlir.register_lowering(primitive, lower_reference)
    mlir.register_lowering(primitive, lower_kernel, platform="cpu")

    @cache
    def compiled(**params):
        return jax.jit(lambda *operands: primitive.bind(*operands, **params))

    def run(*operands, **params):
        with jax.disable_jit(False):  # which would bind the primitive again
            return compiled(**params)(*operands)

    primitive.def_impl(run)
    return primitive


def _shaped(results: Any, axes: tuple[str, ...], *operands: Any) -> list[Any]:
    """Results as abstract values, split over the devices along m and b as x is: over a mesh with explicit axes the type
    of an array tells that, and in shard_map over which axes of the mesh it varies."""
    x = operands[X]
    split = dict(zip("mb", x.sharding.spec, strict=False))
    return [
        x.update(
            shape=r.shape,
            dtype=r.dtype,
            sharding=x.sharding.update(spec=PartitionSpec(*(split.get(a) for a in names.split()[: len(r.shape)]))),
        )
        for r, names in zip(results, axes, strict=False)
    ]


def _layer_abstract(*operands, config, sequences):
    results = calls.forward_results(operands, sequences=sequences, save=False)
    return _shaped(results[: 3 if sequences else 2], calls.AXES_OF_FORWARD, *operands)


def _layer_kernel(*operands, config, sequences, split):
    results = calls.forward_kernel(*operands, config=config, sequences=sequences, save=False, split=split)
    return results[: 3 if sequences else 2]


def _layer_reference(*operands, config, sequences):
    return calls.reference(*operands, config=config)[: 3 if sequences else 2]


layer_p = _primitive("jlstm_layer", _layer_abstract, _layer_kernel, _layer_reference)


def _saving_abstract(*operands, config):
    return _shaped(calls.forward_results(operands, sequences=True, save=True), calls.AXES_OF_FORWARD, *operands)


def _saving_kernel(*operands, config, split):
    return calls.forward_kernel(*operands, config=config, sequences=True, save=True, split=split)


def _saving_reference(*operands, config):
    saved = calls.forward_results(operands, sequences=True, save=True)[-1]
    return *calls.reference(*operands, config=config), jnp.zeros(saved.shape, saved.dtype)


forward_p = _primitive("jlstm_forward", _saving_abstract, _saving_kernel, _saving_reference)


def _backward_abstract(*arguments, config, with_dx):
    return _shaped(calls.backward_results(arguments, with_dx=with_dx), calls.AXES_OF_BACKWARD, *arguments)


backward_p = _primitive("jlstm_backward", _backward_abstract, calls.backward_kernel, calls.reference_gradients)


def _pullback_abstract(*arguments, config, sequences, linear):
    return _layer_abstract(*arguments[: len(OPERANDS)], config=config, sequences=sequences)


def _no_forward_mode(*_, **__):
    raise NotImplementedError(
        'backend must be "xla" for forward-mode differentiation (jvp, jacfwd), got the "cpu" kernel, which has a '
        'backward pass alone: LSTM(..., backend="xla") supports every transformation'
    )


pullback_p = Primitive("jlstm_pullback")
pullback_p.multiple_results = True
pullback_p.def_abstract_eval(_pullback_abstract)
pullback_p.def_impl(_no_forward_mode)
mlir.register_lowering(pullback_p, _no_forward_mode)
batching.primitive_batchers[pullback_p] = _no_forward_mode


# --- derivatives -----------------------------------------------------------------------------------------------------


def _layer_jvp(primals, tangents, *, config, sequences):
    h, c, y, saved = forward_p.bind(*primals, config=config)
    linear = tuple(n for n, i in enumerate(WHERE) if not isinstance(tangents[i], ad.Zero))
    outputs = pullback_p.bind(
        *primals, y, saved, *(tangents[WHERE[n]] for n in linear), config=config, sequences=sequences, linear=linear
    )
    return [h, c, y][: len(outputs)], outputs


def _pullback_transpose(cotangents, *arguments, config, sequences, linear):
    known = arguments[: len(OPERANDS) + 2]
    dh, dc = (ad.instantiate_zeros(ct) for ct in cotangents[:2])
    no_dy = not sequences or isinstance(cotangents[2], ad.Zero)
    dy = jnp.zeros(0, jnp.float32) if no_dy else cotangents[2]
    grads = backward_p.bind(*known, dh, dc, dy, config=config, with_dx=_DX in linear)
    members = known[0].shape[0]
    grads = [  # those of shared parameters are summed over the members
        g.sum(0, keepdims=True) if WHERE[n] < PARAMS and g.ndim > 1 and members != g.shape[0] else g
        for n, g in enumerate(grads)
    ]
    return [None] * len(known) + [grads[n] for n in linear]


def _saving_jvp(primals, tangents, *, config):
    outputs = forward_p.bind(*primals, config=config)
    f, values = calls.reference_of_differentiable(primals, config)
    _, dots = jax.jvp(f, values, [ad.instantiate_zeros(tangents[n]) for n in WHERE])
    saved_dot = ad.Zero(jax.typeof(outputs[-1]).to_tangent_aval())
    return outputs, [*dots, saved_dot]  # nothing reads it: backward_p differentiates through the operands


def _backward_jvp(primals, tangents, *, config, with_dx):
    """The derivative of the gradients: y and what was saved count as functions of the operands, which they are."""
    outputs = backward_p.bind(*primals, config=config, with_dx=with_dx)
    where = [*WHERE, *(n for n in range(len(OPERANDS) + 2, len(primals)))]

    def gradients(*values):
        full = list(primals)
        for n, value in zip(where, values, strict=True):
            full[n] = value
        return calls.reference_gradients(*full, config=config, with_dx=with_dx)

    _, dots = jax.jvp(gradients, [primals[n] for n in where], [ad.instantiate_zeros(tangents[n]) for n in where])
    return outputs, dots


ad.primitive_jvps[layer_p] = _layer_jvp
ad.primitive_jvps[forward_p] = _saving_jvp
ad.primitive_jvps[backward_p] = _backward_jvp
ad.primitive_transposes[pullback_p] = _pullback_transpose


# --- vmap ------------------------------------------------------------------------------------------------------------


def _options_off(arguments, dims):
    """An option that is off stays an empty array with a single axis where a transformation has given it another."""
    pairs = [
        (jnp.zeros(0, a.dtype), None) if d is not None and a.ndim == 2 and a.shape[1 - d] == 0 else (a, d)
        for a, d in zip(arguments, dims, strict=True)
    ]
    return [a for a, _ in pairs], [d for _, d in pairs]


def _to_members(arguments, dims):
    """Fold a batch axis of size V into the members: [V M, ...]; parameters that all share stay one."""
    V = next(a.shape[d] for a, d in zip(arguments, dims, strict=True) if d is not None)
    x, dim = arguments[X], dims[X]
    M = x.shape[0] if dim is None else jnp.moveaxis(x, dim, 0).shape[1]
    shared = all(d is None and a.shape[0] == 1 for a, d in zip(arguments[:PARAMS], dims, strict=False) if a.size)

    def fold(n, a, d):
        if d is None and (a.ndim == 1 or (n < PARAMS and shared)):
            return a
        a = jnp.broadcast_to(a, (V, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
        if n < PARAMS and a.shape[1] != M:
            a = jnp.broadcast_to(a, (V, M, *a.shape[2:]))
        return a.reshape(V * M, *a.shape[2:])

    return [fold(n, a, d) for n, (a, d) in enumerate(zip(arguments, dims, strict=True))], (V, M)


def _unfold_members(results, V, M):
    return [r.reshape(V, M, *r.shape[1:]) if r.ndim > 1 else jnp.broadcast_to(r, (V, 0)) for r in results]


def _forward_batcher(primitive, operands, dims, **params):
    """Further parameter sets are members; further examples of the same parameters are rows of the batch."""
    operands, dims = _options_off(operands, dims)
    if any(d is not None for d in dims[:PARAMS]):
        folded, sizes = _to_members(operands, dims)
        results = _unfold_members(primitive.bind(*folded, **params), *sizes)
        return results, [0] * len(results)
    V = next(a.shape[d] for a, d in zip(operands, dims, strict=True) if d is not None)
    B = [size for axis, size in enumerate(operands[X].shape) if axis != dims[X]][1]

    def fold(n, a, d):
        if n < PARAMS or (a.ndim == 1 and d is None):
            return a
        a = jnp.broadcast_to(a[:, None], (a.shape[0], V, *a.shape[1:])) if d is None else jnp.moveaxis(a, d, 1)
        return a.reshape(a.shape[0], V * B, *a.shape[3:])

    results = primitive.bind(*(fold(n, a, d) for n, (a, d) in enumerate(zip(operands, dims, strict=True))), **params)
    rows = [1, 1, 1, 2][: len(results)]  # the axis of the batch: what is saved has time before it
    results = [r.reshape(*r.shape[:axis], V, B, *r.shape[axis + 1 :]) for r, axis in zip(results, rows, strict=True)]
    return results, rows


def _backward_batcher(arguments, dims, **params):
    """All are members: each has gradients of its own with respect to the parameters, be they shared or not."""
    folded, sizes = _to_members(*_options_off(arguments, dims))
    results = _unfold_members(backward_p.bind(*folded, **params), *sizes)
    return results, [0] * len(results)


batching.primitive_batchers[layer_p] = partial(_forward_batcher, layer_p)
batching.primitive_batchers[forward_p] = partial(_forward_batcher, forward_p)
batching.primitive_batchers[backward_p] = _backward_batcher
