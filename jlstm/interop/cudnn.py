"""The flat vector of weights that jax.experimental.rnn takes for cuDNN, to a spec and back.

It holds, for each layer and in it for each direction, W_ih [4N, D] and W_hh [4N, N]; then, in the same order, b_ih [4N]
and b_hh [4N]. The h_0 and c_0 beside it are [layers · directions, B, N], in that order too.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jlstm import checks
from jlstm.compose import Bidirectional, Stack
from jlstm.interop.layout import cannot_express, reorder
from jlstm.interop.plain import require_plain
from jlstm.layers import LSTM
from jlstm.paths import check_params
from jlstm.types import GATES, Directions, LSTMParams

CUDNN_GATES = ("i", "f", "g", "o")  # down the rows of each matrix
_TARGET = "jax.experimental.rnn"


def from_cudnn(
    weights: jax.Array, input_size: int, hidden_size: int, num_layers: int, bidirectional: bool
) -> tuple[LSTM | Bidirectional | Stack, Any]:
    """Read the flat vector of weights of jax.experimental.rnn.lstm, whose arguments the others are.

    Returns:
        A Stack of LSTM or Bidirectional, or the one layer itself; and its params, the two biases added. Outputs at
        padded steps are zeros, as cuDNN's.

    Raises:
        TypeError, ValueError: a wrong type, or a vector of another length, or of float64 while jax_enable_x64 is off.

    Example:
        >>> import numpy as np
        >>> weights = np.zeros(1080, "float32")
        >>> spec, params = from_cudnn(weights, input_size=3, hidden_size=5, num_layers=2, bidirectional=True)
        >>> [layer.output_size for layer in spec.layers], params[1].forward.kernel.shape
        ([10, 10], (10, 20))
    """
    for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
        checks.positive_int(name, value)
    checks.boolean("bidirectional", bidirectional)
    N, directions = hidden_size, 1 + bidirectional
    widths = [input_size] * directions + [N * directions] * directions * (num_layers - 1)
    shapes = [shape for D in widths for shape in ((4 * N, D), (4 * N, N))] + [(4 * N,)] * 2 * len(widths)
    length = sum(map(math.prod, shapes))
    flat = np.asarray(checks.array("weights", weights, "floating", (length,)))
    checks.enabled_dtype("the dtype of weights", weights.dtype.name)
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    arrays = [
        reorder(piece.reshape(shape).T, CUDNN_GATES, GATES)
        for piece, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)
    ]
    matrices, biases = arrays[: 2 * len(widths)], arrays[2 * len(widths) :]
    params = [
        LSTMParams(jnp.asarray(W_ih), jnp.asarray(W_hh), jnp.asarray(b_ih + b_hh))
        for W_ih, W_hh, b_ih, b_hh in zip(matrices[::2], matrices[1::2], biases[::2], biases[1::2], strict=True)
    ]
    layer: Any = LSTM(N, param_dtype=flat.dtype, return_sequences=True, keep_order=True, zero_output_for_mask=True)
    if bidirectional:
        layer = Bidirectional(layer)
        params = [Directions(*pair) for pair in zip(params[::2], params[1::2], strict=True)]
    return (layer, params[0]) if num_layers == 1 else (Stack((layer,) * num_layers), tuple(params))


def to_cudnn(spec: LSTM | Bidirectional | Stack, params: Any) -> jax.Array:
    """Write the flat vector of weights that jax.experimental.rnn.lstm takes; the second bias is zeros.

    At padded steps cuDNN's outputs are zeros, whatever zero_output_for_mask.

    Args:
        spec: LSTM, Bidirectional or a Stack of one of them, all layers of one width.
        params: its weights.

    Raises:
        TypeError, ValueError: params of another spec, or an option that cuDNN does not have, by name.

    Example:
        >>> import jax, jlstm
        >>> spec = jlstm.LSTM(5, return_sequences=True)
        >>> to_cudnn(spec, spec.init(jax.random.key(0), input_size=3)).shape
        (200,)
    """
    checks.instance("spec", spec, LSTM, Bidirectional, Stack)
    check_params(spec, params)
    layers = list(_layers(spec, params, ""))
    for name, layer, _ in layers:
        for option, value in (("units", layer[0].units), ("bidirectional", len(layer) == 2)):
            first = layers[0][1]
            wanted = first[0].units if option == "units" else len(first) == 2
            if value != wanted:
                raise cannot_express(_TARGET, f"{name}{option}", value, f"{wanted} as of the first layer")
    matrices, biases = [], []
    for _, _, weights in layers:
        for p in weights:
            matrices += [_theirs(p.kernel), _theirs(p.recurrent_kernel)]
            biases += [_theirs(p.bias), np.zeros(p.bias.shape, p.bias.dtype)]
    return jnp.asarray(np.concatenate([a.ravel() for a in matrices + biases]))


def _theirs(a: jax.Array) -> np.ndarray:
    return reorder(a, GATES, CUDNN_GATES).T


def _layers(spec: Any, params: Any, where: str) -> Iterator[tuple[str, list[LSTM], list[LSTMParams]]]:
    """Each layer, nested stacks taken apart: what errors call it, its directions, and the params of each."""
    if isinstance(spec, Stack):
        if spec.dropout:  # an argument of jax.experimental.rnn.lstm, not of its weights
            raise cannot_express(_TARGET, f"{where}dropout", spec.dropout, "0.0")
        for n, (layer, p) in enumerate(zip(spec.layers, params, strict=True)):
            yield from _layers(layer, p, f"{where}layers[{n}].")
        return
    expected = {
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "return_sequences": True,
        "dtype": None,
    }
    if isinstance(spec, LSTM):
        require_plain(_TARGET, spec, where, **expected, go_backwards=False)
        yield where, [spec], [params]
        return
    require_plain(_TARGET, spec.forward, f"{where}forward.", **expected)
    require_plain(_TARGET, spec.backward, f"{where}backward.", **expected, units=spec.forward.units)
    if spec.merge_mode != "concat":
        raise cannot_express(_TARGET, f"{where}merge_mode", spec.merge_mode, "'concat'")
    yield where, [spec.forward, spec.backward], [params.forward, params.backward]
