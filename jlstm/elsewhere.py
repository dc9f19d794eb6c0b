"""The same layer in the words of Keras, torch, flax and ONNX: the text of the call that makes it there.

The converters themselves write it, to_keras and the others: they are handed a library that notes what is made of it.
So none of the libraries has to be installed, and what one of them cannot express is the converter's own error.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jlstm import named
from jlstm.compose import Bidirectional, Stack
from jlstm.interop import flax, keras, onnx_export, onnx_writer, torch
from jlstm.layers import LSTM
from jlstm.paths import params_like

# What these libraries take where nothing is said, by the end of the called name; of Keras as of our own fields.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "LSTM": {
        **{name: p.default for name, p in inspect.signature(LSTM).parameters.items()},
        "unroll": False, "return_state": False, "dtype": "float32", "use_cudnn": "auto", "bias": True,
        "batch_first": False, "dropout": 0.0, "bidirectional": False, "proj_size": 0,
    },
    "Bidirectional": {"merge_mode": "concat", "dtype": "float32"},
    "RNN": {"unroll": 1, "reverse": False, "keep_order": False},
}  # fmt: skip
_MERGES = {"ave": "lambda a, b: (a + b) / 2", None: "lambda a, b: (a, b)"}  # no function of jax
_FLAX_CELL = flax.cell_options(LSTM(1))


class Noted:
    """A name in a library, or what a call of it gives; its repr is the Python that says so."""

    def __init__(self, text: str, name: str = ""):
        self._text = text
        self.__name__ = name  # of a library, for the converters' errors

    def __getattr__(self, name: str) -> "Noted":
        if name.startswith("_"):
            raise AttributeError(name)
        return Noted(f"{self._text}.{name}")

    def __call__(self, *arguments: Any, **options: Any) -> "Noted":
        defaults = _DEFAULTS.get(self._text.rpartition(".")[2], {})
        told = [_told(a) for a in arguments]
        told += [f"{k}={_told(v)}" for k, v in options.items() if k not in defaults or not _same(defaults[k], v)]
        return Noted(f"{self._text}({', '.join(told)})")

    def __repr__(self) -> str:
        return self._text


def _same(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)  # unroll=True is not unroll=1


def _told(value: Any) -> str:
    """Write an argument as Python, with the library that a function comes from."""
    if isinstance(value, np.dtype):
        return f"jnp.{value.name}"
    if isinstance(value, Noted) or not callable(value):
        return repr(value)
    for merge_mode, text in _MERGES.items():
        if value is flax.merges()[merge_mode][0]:
            return text
    name = getattr(value, "__name__", "")
    for library, module in (("jax.nn", jax.nn), ("jnp", jnp)):
        if getattr(module, name, None) is value:
            return f"{library}.{name}"
    for named_so, function in named.ACTIVATIONS.items():  # one that jax does not have
        if function is value:
            return f"jlstm.named.ACTIVATIONS[{named_so!r}]"
    if isinstance(value, tuple(named.CLASSES.values())):
        return f"jlstm.{value!r}"
    return name if name.isidentifier() else "your_function"  # a lambda, or an object that can be called


def elsewhere(spec: Any, input_size: int) -> dict[str, str]:
    """Say how each library makes this layer, or which option it does not have.

    Args:
        spec: LSTM, Bidirectional or Stack.
        input_size: D.

    Example:
        >>> import jlstm
        >>> for library, text in elsewhere(jlstm.LSTM(5, return_sequences=True), 3).items():
        ...     print(f"{library}: {text}")
        Keras: keras.layers.LSTM(5, return_sequences=True)
        torch: torch.nn.LSTM(3, 5, 1, batch_first=True)
        flax: nnx.RNN(nnx.OptimizedLSTMCell(3, 5, rngs=rngs))
        ONNX: LSTM(hidden_size=5, direction='forward')
    """
    # One zero for each weight, whatever its shape: nothing as large as the weights is made.
    params = jax.tree.map(lambda a: np.broadcast_to(np.zeros((), a.dtype), a.shape), params_like(spec, input_size))
    writers: dict[str, Callable[[Any, Any], str]] = {"Keras": _keras, "torch": _torch, "flax": _flax, "ONNX": _onnx}
    found = {}
    for library, write in writers.items():
        try:
            found[library] = write(spec, params)
        except ValueError as error:
            found[library] = f"not there: {error}"
    return found


def _keras(spec: Any, params: Any) -> str:
    library = Noted("keras")
    if not isinstance(spec, Stack):
        return repr(keras.empty_layer(library, spec, params))
    return repr(library.Sequential(keras.layers_of_stack(library, spec, params, keras.empty_layer)))


def _torch(spec: Any, params: Any) -> str:
    library, spec_with = Noted("torch"), _with_sequences(spec)
    module = torch.empty_module(library, spec_with, params)
    dtype = torch.dtype_of(spec_with, params).name
    text = repr(module if dtype == "float32" else module.to(getattr(library, dtype)))
    if spec.return_sequences:
        return text
    both = isinstance(_top(spec), Bidirectional)
    return f"{text}, and of its (y, (h_n, c_n)) {'h_n[-2] and h_n[-1], joined' if both else 'h_n[-1]'}"


def _flax(spec: Any, params: Any) -> str:
    library = Noted("nnx", "flax.nnx")

    def cell(spec: LSTM, params: Any) -> Noted:
        options = {k: v for k, v in flax.cell_options(spec).items() if v != _FLAX_CELL[k]}
        return library.OptimizedLSTMCell(params.kernel.shape[0], spec.units, **options, rngs=Noted("rngs"))

    text = repr(flax.assembled(_with_sequences(spec), params, library, cell))
    if spec.return_sequences:
        return text
    both = isinstance(top := _top(spec), Bidirectional)
    if both and top.merge_mode not in ("concat", None):
        raise ValueError(f"return_sequences must be True with merge_mode={top.merge_mode!r}: nnx merges all steps")
    if both:
        last = "y[:, -1] forwards, y[:, 0] backwards"
    else:
        last = "y[:, 0]" if top.go_backwards and top.keep_order else "y[:, -1]"
    return f"{text}, and of its outputs y {last}"


def _onnx(spec: Any, params: Any) -> str:
    nodes = []
    levels = list(onnx_export.levels_of(spec, params, ""))
    onnx_export.dtype_of(levels)  # for its errors
    for level in levels:
        onnx_export.check_level(level, level.parts[0].params.kernel.shape[0], lengths=False, last=True)
        attributes = onnx_writer.attributes_of(level)
        merge = level.merge_mode
        with_p = any(part.params.peephole is not None for part in level.parts)
        after = f", its two outputs merged by {merge!r}" if merge in ("sum", "mul", "ave") else ""
        one = level.spec
        if isinstance(one, LSTM) and one.return_sequences and one.go_backwards and not one.keep_order:
            after = ", its outputs turned round in time"  # ONNX's Y is in the order of the input
        nodes.append(f"{Noted('LSTM')(**attributes)!r}{' with the input P' if with_p else ''}{after}")
    return ", then ".join(nodes)


def _top(spec: Any) -> Any:
    return _top(spec.layers[-1]) if isinstance(spec, Stack) else spec


def _with_sequences(spec: Any) -> Any:
    """The spec with all outputs: torch and flax always return them."""
    if isinstance(spec, Stack):
        return replace(spec, layers=(*spec.layers[:-1], _with_sequences(spec.layers[-1])))
    if isinstance(spec, Bidirectional):
        return replace(spec, forward=_with_sequences(spec.forward), backward=_with_sequences(spec.backward))
    return replace(spec, return_sequences=True)
