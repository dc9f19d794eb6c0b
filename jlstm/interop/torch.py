"""Weights and configuration of LSTMs from PyTorch, modules and state dicts, and back."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jlstm import checks
from jlstm.compose import Bidirectional, Stack
from jlstm.interop import torch_files
from jlstm.interop.layout import Spec, cannot_express, layers_and_params, reorder
from jlstm.interop.plain import require_plain
from jlstm.layers import LSTM
from jlstm.types import GATES, Directions, LSTMParams, wider_dtype
from jlstm.variant import Variant

TORCH_GATES = ("i", "f", "g", "o")  # along the first axis, 4N

_KEY = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l(\d{1,4})(_reverse)?)?")
_OF_CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # in the state dict of an LSTMCell
_SUFFIXES = ("", "_reverse")  # of the names of the two directions
_OPTIONS = {"activation": "tanh", "recurrent_activation": "sigmoid", "return_sequences": True, "go_backwards": False}


def from_torch(source: Any, *, prefix: str = "") -> tuple[Any, Any]:
    """Take the spec and the params out of a torch.nn.LSTM or LSTMCell, or of a state dict.

    num_layers above 1 gives a Stack, bidirectional a Bidirectional that concatenates, proj_size a
    Variant(projection=P); the two biases are added, in float32 at least. Outputs are whole sequences in input order,
    zeros beyond a row's length, as pad_packed_sequence gives them. batch_first is a layout of the call, not of the
    weights: here x is [B, T, D] always. The initializers of the spec stay jlstm's own.

    A state dict does not tell the dropout between layers: the Stack has none then. A .pt file is read with
    torch.load(weights_only=True) alone, a .safetensors file without torch.

    Args:
        source: an nn.LSTM or nn.LSTMCell, a state dict (torch's tensors, or NumPy's or JAX's arrays), or the path of
            one: .pt, .pth, .bin or .safetensors.
        prefix: what stands before the names of this LSTM in the state dict of a larger module: "encoder.lstm.".

    Returns:
        (spec, params), the params as the spec's init makes them. An LSTMCell gives an LSTM; see its step.

    Raises:
        ValueError: names missing or too many, a shape that does not fit, or a file that is broken.
        TypeError: none of these sources, or a prefix that is no string.

    Example:
        >>> import numpy as np
        >>> from jlstm.interop import from_torch
        >>> kernel, recurrent_kernel = np.zeros((8, 3), "float32"), np.zeros((8, 2), "float32")
        >>> state_dict = {"rnn.weight_ih_l0": kernel, "rnn.weight_hh_l0": recurrent_kernel}
        >>> spec, params = from_torch(state_dict, prefix="rnn.")
        >>> spec.units, spec.use_bias, params.kernel.shape
        (2, False, (3, 8))
    """
    checks.instance("prefix", prefix, str)
    if isinstance(source, (str, os.PathLike)):
        return _from_file(source, prefix)
    if isinstance(source, Mapping):
        return _from_state_dict(source, prefix)
    torch = torch_files.torch()
    if type(source) not in (torch.nn.LSTM, torch.nn.LSTMCell):  # a subclass may compute anything
        raise TypeError(
            f"source must be a torch.nn.LSTM or LSTMCell, a state dict or a path, got {checks.show(source)}: "
            "of other modules pass state_dict() and the prefix"
        )
    if prefix:
        raise ValueError(f"prefix must be empty for a module, got {prefix!r}")
    spec, params = _from_state_dict(source.state_dict(), "")
    if isinstance(spec, Stack):
        spec = replace(spec, dropout=source.dropout)
    return spec, params


def to_torch(spec: Spec, params: Any) -> Any:
    """Make a torch.nn.LSTM with these weights, batch_first=True and in eval mode.

    The whole bias goes into bias_ih and zeros into bias_hh. In eval mode, as without a key here, nothing is dropped;
    train() brings the Stack's dropout back. What concerns only how jlstm draws, keeps or computes (initializers,
    unroll, implementation, remat_every, backend) is left behind, and so is zero_output_for_mask, since a
    PackedSequence has no padding.

    Args:
        spec: LSTM, Bidirectional or Stack; with return_sequences=True, as torch returns all outputs.
        params: of this spec.

    Raises:
        ValueError: an option that torch.nn.LSTM cannot express, named.
        ImportError: torch is not installed.

    Example:
        >>> from jlstm.interop import to_torch
        >>> def outputs_of_torch(spec, params, x):  # x, a tensor [B, T, D]
        ...     y, (h, c) = to_torch(spec, params)(x)
        ...     return y
    """
    torch = torch_files.torch()
    weights = to_torch_state_dict(spec, params)
    return _filled(torch, empty_module(torch, spec, params), weights)


def empty_module(torch: Any, spec: Spec, params: Any) -> Any:
    """Make the torch.nn.LSTM of a spec, its weights not set; arguments and errors as to_torch."""
    levels, dropout = _levels(spec, params)
    layer, below = levels[0]
    first = layer.forward if isinstance(layer, Bidirectional) else layer
    return torch.nn.LSTM(
        jax.tree.leaves(below)[0].shape[0],
        first.units,
        len(levels),
        bias=first.use_bias,
        batch_first=True,
        dropout=dropout,
        bidirectional=isinstance(layer, Bidirectional),
        proj_size=first.variant.projection or 0,
    )


def to_torch_cell(spec: LSTM, params: LSTMParams) -> Any:
    """Make a torch.nn.LSTMCell with these weights, in eval mode; as to_torch, for what LSTM.step computes."""
    torch = torch_files.torch()
    checks.instance("spec", spec, LSTM)
    if spec.variant.projection is not None:
        raise cannot_express("torch.nn.LSTMCell", "variant.projection", spec.variant.projection, "None")
    weights = to_torch_state_dict(replace(spec, return_sequences=True), params)
    module = torch.nn.LSTMCell(params.kernel.shape[0], spec.units, bias=spec.use_bias)
    return _filled(torch, module, {name.removesuffix("_l0"): a for name, a in weights.items()})


def to_torch_state_dict(spec: Spec, params: Any) -> dict[str, np.ndarray]:
    """Write the weights as the state dict of a torch.nn.LSTM, of NumPy arrays, which safetensors can hold.

    Args, errors: as to_torch; torch is not needed.

    Example:
        >>> import jax, jlstm
        >>> from jlstm.interop import to_torch_state_dict
        >>> layer = jlstm.LSTM(2, return_sequences=True)
        >>> state_dict = to_torch_state_dict(layer, layer.init(jax.random.key(0), input_size=3))
        >>> {name: a.shape for name, a in state_dict.items()}
        {'weight_ih_l0': (8, 3), 'weight_hh_l0': (8, 2), 'bias_ih_l0': (8,), 'bias_hh_l0': (8,)}
    """
    levels, _ = _levels(spec, params)
    dtype = dtype_of(spec, params)
    made = {}
    for n, (layer, p) in enumerate(levels):
        pairs = (
            ((layer.forward, p.forward), (layer.backward, p.backward)) if isinstance(p, Directions) else ((layer, p),)
        )
        for suffix, (_, weights) in zip(_SUFFIXES, pairs, strict=False):
            arrays = {
                "weight_ih": reorder(weights.kernel, GATES, TORCH_GATES).T,
                "weight_hh": reorder(weights.recurrent_kernel, GATES, TORCH_GATES).T,
            }
            if weights.bias is not None:
                arrays["bias_ih"] = reorder(weights.bias, GATES, TORCH_GATES)
                arrays["bias_hh"] = np.zeros_like(arrays["bias_ih"])
            if weights.projection is not None:
                arrays["weight_hr"] = np.asarray(weights.projection).T
            made |= {f"{k}_l{n}{suffix}": np.ascontiguousarray(a.astype(dtype)) for k, a in arrays.items()}
    return made


def dtype_of(spec: Spec, params: Any) -> np.dtype:
    """The one dtype of a torch.nn.LSTM, of all params and of the computation; errors as to_torch."""
    dtype = reduce(wider_dtype, [a.dtype for a in jax.tree.leaves(params)])
    for layer, _ in _levels(spec, params)[0]:
        for lstm in (layer.forward, layer.backward) if isinstance(layer, Bidirectional) else (layer,):
            if lstm.dtype not in (None, dtype.name):
                raise cannot_express("torch.nn.LSTM", "dtype", lstm.dtype, f"None or {dtype}, the dtype of the params")
    return dtype


# --- from torch ----------------------------------------------------------------------------------------------------


def _from_file(path: str | os.PathLike[str], prefix: str) -> tuple[Any, Any]:
    weights = torch_files.read(path, prefix)
    try:
        return _from_state_dict(weights, prefix)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def _from_state_dict(source: Mapping[str, Any], prefix: str) -> tuple[Any, Any]:
    weights = {str(k).removeprefix(prefix): v for k, v in source.items() if str(k).startswith(prefix)}
    unknown = [k for k in weights if not _KEY.fullmatch(k)]
    if unknown or not weights:
        for name, value in source.items():
            if isinstance(value, Mapping) and any(_KEY.fullmatch(str(k).rpartition(".")[2]) for k in value):
                raise ValueError(
                    f"source must be a state dict, got one that holds it as {name!r}: pass that entry; of a file, "
                    f"torch.load(path, weights_only=True)[{name!r}]"
                )
        raise ValueError(_wrong_names(list(map(str, source)), prefix, unknown))
    for name, value in weights.items():
        if not hasattr(value, "shape"):
            raise ValueError(f"{name} must be a tensor, got {checks.show(value)}")
    if set(weights) in (set(_OF_CELL[:2]), set(_OF_CELL)):
        weights = {f"{k}_l0": v for k, v in weights.items()}
    found = [match for k in weights if (match := _KEY.fullmatch(k))]
    # Of every name one layer and one direction, so that a number too large is missing others, and none is made.
    layers = len({m[2] for m in found})
    directions = 2 if any(m[3] for m in found) else 1
    parts = ["weight_ih", "weight_hh"]
    parts += ["bias_ih", "bias_hh"] if any(m[1].startswith("bias") for m in found) else []
    parts += ["weight_hr"] if any(m[1] == "weight_hr" for m in found) else []
    wanted = [f"{p}_l{n}{s}" for n in range(layers) for s in _SUFFIXES[:directions] for p in parts]
    if set(wanted) != set(weights):
        missing, extra = sorted(set(wanted) - set(weights)), sorted(set(weights) - set(wanted))
        raise ValueError(f"state dict must have the names of one LSTM, got none of {missing[:8]}, but {extra[:8]}")

    N, P = _sizes(weights, projected="weight_hr" in parts)
    dtypes = {str(getattr(a, "dtype", type(a).__name__)).removeprefix("torch.") for a in weights.values()}
    if len(dtypes) != 1 or not dtypes <= {"float16", "bfloat16", "float32", "float64"}:
        raise ValueError(f"state dict must have one floating dtype, got {', '.join(sorted(dtypes))}")
    (dtype,) = dtypes
    checks.enabled_dtype("param_dtype", dtype)
    lstm = LSTM(
        N,
        use_bias="bias_ih" in parts,
        return_sequences=True,
        zero_output_for_mask=True,
        param_dtype=dtype,
        keep_order=True,
        variant=Variant(projection=P if "weight_hr" in parts else None),
    )
    specs, params = [], []
    D: int | str = "D"
    for n in range(layers):
        made = [_params(weights, parts, f"_l{n}{s}", D, N, P) for s in _SUFFIXES[:directions]]
        if directions == 2 and made[0].kernel.shape != made[1].kernel.shape:
            raise ValueError(_wrong_shape(f"weight_ih_l{n}_reverse", weights, (4 * N, made[0].kernel.shape[0])))
        specs.append(Bidirectional(lstm) if directions == 2 else lstm)
        params.append(Directions(*made) if directions == 2 else made[0])
        D = P * directions
    return (specs[0], params[0]) if layers == 1 else (Stack(tuple(specs)), tuple(params))


def _sizes(weights: Mapping[str, Any], projected: bool) -> tuple[int, int]:
    """N and P, from the recurrent weights of the first layer."""
    shape = tuple(weights["weight_hh_l0"].shape)
    if len(shape) != 2 or shape[0] % 4 or not all(shape) or (not projected and shape[0] != 4 * shape[1]):
        raise ValueError(f"weight_hh_l0 must have shape {'[4N, P]' if projected else '[4N, N]'}, got {list(shape)}")
    return shape[0] // 4, shape[1]


def _params(weights: Mapping[str, Any], parts: list[str], suffix: str, D: int | str, N: int, P: int) -> LSTMParams:
    shapes = {"weight_ih": (4 * N, D), "weight_hh": (4 * N, P), "weight_hr": (P, N)}
    shapes |= {"bias_ih": (4 * N,), "bias_hh": (4 * N,)}
    arrays = {}
    for part in parts:
        name = part + suffix
        got = tuple(weights[name].shape)
        if len(got) != len(shapes[part]) or any(a not in ("D", b) for a, b in zip(shapes[part], got, strict=True)):
            raise ValueError(_wrong_shape(name, weights, shapes[part]))
        arrays[part] = _numpy(name, weights[name])
    bias = None
    if "bias_ih" in arrays:
        wide = [a.astype(wider_dtype(a.dtype, "float32")) for a in (arrays["bias_ih"], arrays["bias_hh"])]
        bias = jnp.asarray(reorder((wide[0] + wide[1]).astype(arrays["bias_ih"].dtype), TORCH_GATES, GATES))
    return LSTMParams(
        kernel=jnp.asarray(reorder(arrays["weight_ih"].T, TORCH_GATES, GATES)),
        recurrent_kernel=jnp.asarray(reorder(arrays["weight_hh"].T, TORCH_GATES, GATES)),
        bias=bias,
        projection=jnp.asarray(arrays["weight_hr"].T) if "weight_hr" in arrays else None,
    )


def _numpy(name: str, tensor: Any) -> np.ndarray:
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    try:
        tensor = tensor.detach().cpu()
        # A tensor may show one stored number at many places, and so be of any size.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} must hold all of its numbers, got a view of a few")
        if str(tensor.dtype) == "torch.bfloat16":  # NumPy has it from JAX alone
            return tensor.float().numpy().astype(jnp.bfloat16)
        return tensor.numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(f"{name} must be a dense tensor with its numbers, got {error}") from error


def _wrong_shape(name: str, weights: Mapping[str, Any], shape: tuple[int | str, ...]) -> str:
    return f"{name} must have shape [{', '.join(map(str, shape))}], got {list(weights[name].shape)}"


def _wrong_names(keys: list[str], prefix: str, unknown: list[str]) -> str:
    """What to say where the names are not those of one LSTM: which prefixes there are."""
    ends = re.compile(r"(.*?)weight_ih(_l0)?")
    prefixes = sorted({m[1] for key in keys if (m := ends.fullmatch(key)) and m[1] != prefix})
    if prefixes:
        return f"prefix must be one of {', '.join(map(repr, prefixes[:8]))}, got {prefix!r}"
    got = unknown or keys
    return f"state dict must have the names of an LSTM (weight_ih_l0, ...) alone, got {', '.join(got[:8]) or 'none'}"


# --- to torch ------------------------------------------------------------------------------------------------------


def _levels(spec: Any, params: Any) -> tuple[list[tuple[Any, Any]], float]:
    """The layers of a spec from below, each with its params, all checked, and the dropout between them."""
    checks.instance("spec", spec, LSTM, Bidirectional, Stack)
    rates: set[float] = set()
    levels = _flat(spec, params, rates)
    if len(rates) > 1:
        raise cannot_express("torch.nn.LSTM", "dropout", sorted(rates), "one rate between all layers")
    kinds = {type(layer).__name__ for layer, _ in levels}
    if len(kinds) > 1:
        raise cannot_express("torch.nn.LSTM", "layers", " and ".join(sorted(kinds)), "of one kind")
    lstms = []
    for layer, p in levels:
        if isinstance(layer, Bidirectional):
            if layer.merge_mode != "concat":
                raise cannot_express("torch.nn.LSTM", "merge_mode", layer.merge_mode, "'concat'")
            checks.instance("params", p, Directions)
            lstms += [(layer.forward, p.forward), (replace(layer.backward, go_backwards=False), p.backward)]
        else:
            lstms.append((layer, p))
    for lstm, p in lstms:
        require_plain("torch.nn.LSTM", lstm, variant=("projection",), **_OPTIONS)
        if (lstm.variant.projection or 0) >= lstm.units:
            expected = f"less than {lstm.units}, the units,"
            raise cannot_express("torch.nn.LSTM", "variant.projection", lstm.variant.projection, expected)
        checks.params(p, "D", lstm.units, lstm.output_size, use_bias=lstm.use_bias, variant=lstm.variant)
    first = lstms[0][0]
    for name, values in (
        ("units", [a.units for a, _ in lstms]),
        ("use_bias", [a.use_bias for a, _ in lstms]),
        ("variant.projection", [a.variant.projection for a, _ in lstms]),
    ):
        if len(set(values)) > 1:
            raise cannot_express("torch.nn.LSTM", name, values, "the same in all layers and directions")
    for n, (_, p) in enumerate(lstms):
        per_level = len(lstms) // len(levels)
        D = first.output_size * per_level if n >= per_level else lstms[0][1].kernel.shape[0]
        if p.kernel.shape[0] != D:
            raise ValueError(f"params must be of an input of width {D} in layer {n // per_level}, got {p.kernel.shape}")
    return levels, rates.pop() if rates else 0.0


def _flat(spec: Any, params: Any, rates: set[float]) -> list[tuple[Any, Any]]:
    if not isinstance(spec, Stack):
        return [(spec, params)]
    pairs = layers_and_params(spec, params)
    if len(pairs) > 1:
        rates.add(spec.dropout)
    return [level for layer, p in pairs for level in _flat(layer, p, rates)]


def _filled(torch: Any, module: Any, weights: Mapping[str, np.ndarray]) -> Any:
    """Put the weights into a module, in their dtype."""
    dtype = getattr(torch, next(iter(weights.values())).dtype.name)
    # bfloat16 goes through float32, which holds it exactly: torch does not take it from NumPy.
    tensors = {k: torch.from_numpy(a.astype("float32") if a.dtype == jnp.bfloat16 else a) for k, a in weights.items()}
    module = module.to(dtype)
    module.load_state_dict(tensors)
    return module.eval()
