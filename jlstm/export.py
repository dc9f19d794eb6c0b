"""Artifacts of a layer that run where jlstm is not installed: jax.export of the streaming step and of whole sequences.

The calling convention, all of it in plain dicts and arrays:

    run = jax.export.deserialize(open("lstm.bin", "rb").read())       # needs jax and flatbuffers alone
    state, y = run.call(params, state, x)                             # sequence(...): x [B, T, D]
    state, y_t = run.call(params, state, x_t)                         # step(...): x_t [B, D]

- params and state are dicts by path, the names of the tensors in a file of jlstm.save without their first part:
  {"kernel": ..., "recurrent_kernel": ..., "bias": ...} and {"h": ..., "c": ...} of an LSTM, "forward/kernel" and "0/h"
  and so on of the others. Zeros of a state begin a sequence; `run.in_tree` and `run.in_avals` tell names and shapes.
- With frozen=True the weights are constants, and the call is run.call(state, x).
- What was asked for by name is passed by name: lengths= [B] int32 or mask= [B, T] bool, reset= [B, T] (step: [B]) bool.
- B and T are free in every call, at least 1. y is as of layer.apply and layer.step (a pair with merge_mode=None).

An artifact holds the arithmetic of backend "xla", whatever the layer's, for every platform that was named. Dropout is
not in it, nor are remat_every and unroll, which change no number and need a known number of steps.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from jlstm import checks, files
from jlstm.compose import Bidirectional, Stack
from jlstm.layers import LSTM
from jlstm.paths import first_size, fitting, flatten, params_like, state_like, unflatten

PLATFORMS = ("cpu", "cuda", "tpu")


def sequence(
    spec: files.Spec,
    params: Any,
    *,
    padding: str | None = None,
    reset: bool = False,
    frozen: bool = False,
    dtype: Any = "float32",
    platforms: Sequence[str] = PLATFORMS,
) -> export.Exported:
    """Export layer.apply over whole sequences, for any batch size and number of steps.

    Args:
        spec: LSTM, Bidirectional or Stack.
        params: its params; only shapes and dtypes are read unless they are frozen, so jax.eval_shape's will do.
        padding: "lengths" or "mask" for an artifact that takes one of them; None for one that takes neither.
        reset: whether it takes reset.
        frozen: whether the weights are constants of the artifact; otherwise they are arguments.
        dtype: of x.
        platforms: "cpu", "cuda", "tpu", "rocm".

    Returns:
        A jax.export.Exported; `serialize` makes bytes of it, `save` a file.

    Raises:
        TypeError, ValueError: a wrong type or value, or params that do not fit the spec.

    Example:
        >>> import jax, jax.numpy as jnp, jlstm
        >>> layer = jlstm.LSTM(5)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> run = jlstm.export.sequence(layer, params, padding="lengths", frozen=True)
        >>> zeros = {"h": jnp.zeros((2, 5)), "c": jnp.zeros((2, 5))}
        >>> state, y = run.call(zeros, jnp.ones((2, 7, 3)), lengths=jnp.array([7, 4], jnp.int32))
        >>> y.shape, sorted(state)
        ((2, 5), ['c', 'h'])
    """
    checks.one_of("padding", padding, (None, "lengths", "mask"))
    checks.boolean("reset", reset)
    b, t = export.symbolic_shape("b, t")
    shapes = {"lengths": ((b,), "int32"), "mask": ((b, t), "bool"), "reset": ((b, t), "bool")}
    taken = ([padding] if padding else []) + (["reset"] if reset else [])
    options = {name: jax.ShapeDtypeStruct(*shapes[name]) for name in taken}
    return _export("apply", spec, params, (b, t), options, frozen, dtype, platforms)


def step(
    spec: files.Spec,
    params: Any,
    *,
    reset: bool = False,
    frozen: bool = False,
    dtype: Any = "float32",
    platforms: Sequence[str] = PLATFORMS,
) -> export.Exported:
    """Export layer.step, one time step for streaming, for any batch size; arguments as of `sequence`.

    Raises:
        TypeError, ValueError: a wrong type or value, params that do not fit the spec, or a layer that goes backwards.

    Example:
        >>> import jax, jax.numpy as jnp, jlstm
        >>> layer = jlstm.LSTM(5)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> run = jlstm.export.step(layer, params)
        >>> weights = {"kernel": params.kernel, "recurrent_kernel": params.recurrent_kernel, "bias": params.bias}
        >>> state = {"h": jnp.zeros((2, 5)), "c": jnp.zeros((2, 5))}
        >>> state, y_t = run.call(weights, state, jnp.ones((2, 3)))
        >>> y_t.shape
        (2, 5)
    """
    checks.boolean("reset", reset)
    (b,) = export.symbolic_shape("b")
    options = {"reset": jax.ShapeDtypeStruct((b,), "bool")} if reset else {}
    return _export("step", spec, params, (b,), options, frozen, dtype, platforms)


def serialize(exported: export.Exported) -> bytes:
    """Write an artifact as bytes, which jax.export.deserialize reads.

    Raises:
        ImportError: flatbuffers is not installed.

    Example:
        >>> import jax, jlstm
        >>> layer = jlstm.LSTM(5)
        >>> run = jlstm.export.step(layer, layer.init(jax.random.key(0), input_size=3), platforms=["cpu"])
        >>> jax.export.deserialize(jlstm.export.serialize(run)).platforms
        ('cpu',)
    """
    try:
        import flatbuffers as _  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "jax.export writes with flatbuffers, which is not installed: pip install 'jlstm[export]'"
        ) from error
    return bytes(exported.serialize())


def save(path: files.PathLike, exported: export.Exported) -> None:
    """Write an artifact into a file, which is replaced at once where there is one.

    Raises:
        ImportError: flatbuffers is not installed.
    """
    files.write(path, serialize(exported))


def _export(
    method: str,
    spec: files.Spec,
    params: Any,
    sizes: tuple[Any, ...],
    options: dict[str, jax.ShapeDtypeStruct],
    frozen: bool,
    dtype: Any,
    platforms: Sequence[str],
) -> export.Exported:
    checks.instance("spec", spec, LSTM, Bidirectional, Stack)
    checks.boolean("frozen", frozen)
    dtype = checks.float_dtype("dtype", dtype)
    checks.enabled_dtype("dtype", dtype)
    if isinstance(platforms, str) or not platforms:
        raise TypeError(f"platforms must be a sequence of names, such as {PLATFORMS}, got {platforms!r}")
    for platform in platforms:
        checks.one_of("platforms", platform, (*PLATFORMS, "rocm"))
    if len(set(platforms)) < len(platforms):
        raise ValueError(f"platforms must have each name once, got {', '.join(platforms)}")
    layer = _portable(spec)
    input_size = first_size(params)
    like = params_like(layer, input_size)
    weights = fitting("params", params, like, abstract=not frozen)

    def run(weights, state, x, **options):
        state = unflatten(state_like(layer, 1), state)
        state, y = getattr(layer, method)(unflatten(like, weights), state, x, **options)
        return flatten(state), y

    def frozen_run(state, x, **options):
        return run(constants, state, x, **options)

    batch = sizes[0]
    state = flatten(jax.eval_shape(lambda: layer.initial_state(batch)))
    x = jax.ShapeDtypeStruct((*sizes, input_size), dtype)
    if frozen:
        constants = {name: jnp.asarray(a) for name, a in weights.items()}
        return export.export(jax.jit(frozen_run), platforms=platforms)(state, x, **options)
    shapes = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in weights.items()}
    return export.export(jax.jit(run), platforms=platforms)(shapes, state, x, **options)


def _portable(spec: Any) -> Any:
    """The same layer through lax.scan, without what a free number of steps does not allow."""
    if isinstance(spec, Bidirectional):
        return replace(spec, forward=_portable(spec.forward), backward=_portable(spec.backward))
    if isinstance(spec, Stack):
        return replace(spec, layers=tuple(map(_portable, spec.layers)))
    return replace(spec, backend="xla", remat_every=None, unroll=False)
