"""To ONNX: a spec and its params become a model of standard LSTM nodes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jlstm import checks
from jlstm.compose import Bidirectional, Stack
from jlstm.interop.layout import cannot_express
from jlstm.interop.onnx_graph import require_onnx
from jlstm.interop.onnx_writer import Level, Part, Writer
from jlstm.layers import LSTM
from jlstm.types import Directions

_TARGET = "an ONNX LSTM"


def to_onnx(spec: LSTM | Bidirectional | Stack, params: Any, *, lengths: bool = False, state: bool = False) -> Any:
    """Write a spec and its params as an ONNX model of standard LSTM nodes, for inference.

    Batch and time are symbolic. The model's tensors, by name:

    - x: [batch, time, D]
    - lengths: [batch], int32; with lengths=True
    - initial_h, initial_c: [directions, batch, N]; with state=True. Without it the model starts from zeros.
    - y: [batch, time, N], or [batch, N] without return_sequences; 2N with merge_mode="concat". For merge_mode None two
      tensors, y_forward and y_backward.
    - final_h, final_c: [directions, batch, N]; feed them back as the initial ones to go on.

    In a Stack the names of states end in the number of the layer, from the bottom: initial_h_0, final_c_1; nested
    Stacks are counted through. Dropout, regularizers, constraints and initializers concern training and are left out.

    Args:
        spec: LSTM, Bidirectional or Stack.
        params: its params, all float32 or all float64 (onnxruntime runs float32).
        lengths: add the input lengths. ONNX's outputs are zeros beyond the length, so an LSTM that returns sequences
            must have zero_output_for_mask=True, and one that does not must have False; below another layer it is free.
        state: add the inputs of the initial state.

    Returns:
        An onnx.ModelProto of opset 17, checked by onnx.checker.

    Raises:
        ValueError: an option, named, that ONNX's LSTM does not have: projection, forget_gate=False, coupled="input",
            an activation; or two directions that differ in more than weights and activations.
        ImportError: the library onnx is missing.

    Example:
        >>> import jax, jlstm
        >>> from jlstm.interop import to_onnx
        >>> layer = jlstm.Bidirectional(jlstm.LSTM(4, return_sequences=True))
        >>> model = to_onnx(layer, layer.init(jax.random.key(0), input_size=3), state=True)
        >>> [value.name for value in model.graph.input], [value.name for value in model.graph.output]
        (['x', 'initial_h', 'initial_c'], ['y', 'final_h', 'final_c'])
        >>> bytes_of_a_file = model.SerializeToString()     # or onnx.save(model, path)
    """
    onnx = require_onnx()
    checks.instance("spec", spec, LSTM, Bidirectional, Stack)
    checks.boolean("lengths", lengths)
    checks.boolean("state", state)
    levels = list(levels_of(spec, params, ""))
    writer = Writer(onnx, dtype_of(levels), lengths, state)
    D = levels[0].parts[0].params.kernel.shape[0]
    x = writer.start(D)
    for n, level in enumerate(levels):
        last = n == len(levels) - 1
        check_level(level, D, lengths, last=last)
        x = writer.level(level, x, "" if len(levels) == 1 else f"_{n}", last=last)
        D = level.spec.output_size
    model = writer.model()
    onnx.checker.check_model(model, full_check=True)
    return model


def levels_of(spec: Any, params: Any, name: str) -> Iterator[Level]:
    """The layers of a spec from the bottom, nested stacks opened."""
    at = f" of {name.removesuffix('.')}" if name else ""
    if isinstance(spec, LSTM):
        checks.params(
            params, "D", spec.units, spec.output_size, use_bias=spec.use_bias, variant=spec.variant, name=f"params{at}"
        )
        yield Level(spec, (Part(name, spec, params),))
    elif isinstance(spec, Bidirectional):
        checks.instance(f"params{at}", params, Directions)
        ways = [(way, getattr(spec, way), getattr(params, way)) for way in ("forward", "backward")]
        yield Level(spec, tuple(level.parts[0] for w, s, p in ways for level in levels_of(s, p, f"{name}{w}.")))
    else:
        if not isinstance(params, tuple) or len(params) != len(spec.layers):
            raise TypeError(f"params{at} must be a tuple of {len(spec.layers)}, got {checks.show(params)}")
        for n, (layer, below) in enumerate(zip(spec.layers, params, strict=True)):
            yield from levels_of(layer, below, f"{name}layers[{n}].")


def dtype_of(levels: list[Level]) -> np.dtype:
    """The one dtype of all params, which is that of the computation too."""
    arrays = [
        (f"{part.name}{weight}", getattr(part.params, weight))
        for level in levels
        for part in level.parts
        for weight in ("kernel", "recurrent_kernel", "bias", "peephole")
        if getattr(part.params, weight) is not None
    ]
    dtype = np.dtype(arrays[0][1].dtype)
    for name, array in arrays:
        if dtype.name not in ("float32", "float64") or array.dtype != dtype:
            raise cannot_express(
                "an ONNX model", f"the dtype of {name}", str(array.dtype), "float32 or float64 throughout"
            )
    for part in (part for level in levels for part in level.parts):
        if part.spec.dtype not in (None, dtype.name):
            raise cannot_express(
                "an ONNX model", f"{part.name}dtype", part.spec.dtype, f"None or {dtype.name}, as params"
            )
    return dtype


def check_level(level: Level, input_size: int, lengths: bool, *, last: bool) -> None:
    """Raise for every option that one LSTM node does not have."""
    first = level.parts[0]
    for part in level.parts:
        name, spec, variant = part.name, part.spec, part.spec.variant
        checks.array_like(
            f"kernel of {name.removesuffix('.') or 'params'}",
            part.params.kernel,
            "floating",
            (input_size, 4 * spec.units),
        )
        if variant.projection is not None:
            raise cannot_express(_TARGET, f"{name}variant.projection", variant.projection, "None")
        if not variant.forget_gate:
            raise cannot_express(_TARGET, f"{name}variant.forget_gate", False, "True")
        if variant.coupled == "input":
            raise cannot_express(_TARGET, f"{name}variant.coupled", "input", "None or 'forget'")
        for option, got, wanted in (
            ("units", spec.units, first.spec.units),
            ("variant.coupled", variant.coupled, first.spec.variant.coupled),
            ("variant.preact_clip", variant.preact_clip, first.spec.variant.preact_clip),
        ):
            if got != wanted:
                raise cannot_express("a bidirectional ONNX LSTM", name + option, got, f"{wanted!r}, as forward")
    spec = first.spec
    if not lengths or isinstance(level.spec, Bidirectional):
        return
    if last and spec.zero_output_for_mask != spec.return_sequences:
        option = f"{first.name}zero_output_for_mask"
        target = f"{_TARGET} with lengths and return_sequences={spec.return_sequences}"
        raise cannot_express(target, option, spec.zero_output_for_mask, str(spec.return_sequences))
    if not last and spec.go_backwards and not spec.keep_order:  # as Stack.apply
        raise cannot_express(f"{_TARGET} with lengths below another", f"{first.name}keep_order", False, "True")
