"""Params and states as flat dicts, by path: what arrays are called in files and in the arguments of artifacts."""

from typing import Any

import jax
import numpy as np

from jlstm import checks
from jlstm.compose import Bidirectional, Stack
from jlstm.types import Directions, LSTMParams, LSTMState


def flatten(tree: Any) -> dict[str, Any]:
    """Name every array of params or of a state by the path that leads to it.

    Example:
        >>> import jlstm
        >>> list(flatten(params_like(jlstm.Stack((jlstm.LSTM(2, return_sequences=True), jlstm.LSTM(2))), 3)))[:4]
        ['0/kernel', '0/recurrent_kernel', '0/bias', '1/kernel']
        >>> list(flatten(jlstm.Bidirectional(jlstm.LSTM(2)).initial_state(1)))
        ['forward/h', 'forward/c', 'backward/h', 'backward/c']
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten(like: Any, flat: dict[str, Any]) -> Any:
    """Put what flatten named into a tree like this one again."""
    return jax.tree.structure(like).unflatten([flat[name] for name in flatten(like)])


def params_like(spec: Any, input_size: int) -> Any:
    """The shapes and dtypes of spec.init(key, input_size), worked out without tracing it.

    Example:
        >>> import jlstm
        >>> params_like(jlstm.LSTM(2, use_bias=False), 3).recurrent_kernel
        ShapeDtypeStruct(shape=(2, 8), dtype=float32)
    """
    if isinstance(spec, Bidirectional):
        return Directions(params_like(spec.forward, input_size), params_like(spec.backward, input_size))
    if isinstance(spec, Stack):
        sizes = [input_size, *(layer.output_size for layer in spec.layers[:-1])]
        return tuple(params_like(layer, size) for layer, size in zip(spec.layers, sizes, strict=True))
    N, P = spec.units, spec.output_size
    shapes = {"kernel": (input_size, 4 * N), "recurrent_kernel": (P, 4 * N)}
    if spec.use_bias:
        shapes["bias"] = (4 * N,)
    if spec.variant.peephole:
        shapes["peephole"] = (3, N)
    if spec.variant.projection:
        shapes["projection"] = (N, P)
    return LSTMParams(**{name: jax.ShapeDtypeStruct(shape, spec.param_dtype) for name, shape in shapes.items()})


def state_like(spec: Any, batch_size: Any, dtype: Any = "float32") -> Any:
    """The shapes of spec.initial_state(batch_size), all in one dtype."""
    if isinstance(spec, Bidirectional):
        return Directions(*(state_like(way, batch_size, dtype) for way in (spec.forward, spec.backward)))
    if isinstance(spec, Stack):
        return tuple(state_like(layer, batch_size, dtype) for layer in spec.layers)
    return LSTMState(
        h=jax.ShapeDtypeStruct((batch_size, spec.output_size), dtype),
        c=jax.ShapeDtypeStruct((batch_size, spec.units), dtype),
    )


def fitting(kind: str, tree: Any, like: Any, *, abstract: bool = False) -> dict[str, Any]:
    """Flatten params or a state, and require that they are what the spec makes.

    Args:
        kind: what a message calls the tree.
        tree: of arrays.
        like: what params_like or state_like made of the spec.
        abstract: whether jax.ShapeDtypeStruct will do in place of arrays.

    Returns:
        The leaves by path, of any of the four floating dtypes.

    Raises:
        TypeError, ValueError: another structure, another shape, or a dtype that an LSTM does not compute in.
    """
    if jax.tree.structure(tree) != jax.tree.structure(like):
        expected, got = (f"{type(t).__name__} of {', '.join(flatten(t)) or 'nothing'}" for t in (like, tree))
        raise TypeError(f"{kind} must be as the spec makes them, {expected}, got {got}")
    flat = flatten(tree)
    arrays = (jax.Array, np.ndarray, jax.ShapeDtypeStruct) if abstract else (jax.Array, np.ndarray)
    for path, expected in flatten(like).items():
        name, leaf = f"{kind}/{path}", flat[path]
        if not isinstance(leaf, arrays):
            raise TypeError(f"{name} must be an array of shape {list(expected.shape)}, got {checks.show(leaf)}")
        if leaf.shape != expected.shape:
            raise ValueError(f"{name} must have shape {list(expected.shape)}, got {list(leaf.shape)}")
        checks.enabled_dtype(name, checks.float_dtype(name, leaf.dtype))
    return flat


def check_params(spec: Any, params: Any) -> None:
    """Require params that the spec makes for some input width, in dtypes that JAX keeps; errors as of fitting."""
    fitting("params", params, params_like(spec, first_size(params)))


def first_size(tree: Any) -> Any:
    """The first size of the first array, which is the input width of params and the batch of a state; 0 without one."""
    return next((leaf.shape[0] for leaf in jax.tree.leaves(tree) if getattr(leaf, "shape", ())), 0)
