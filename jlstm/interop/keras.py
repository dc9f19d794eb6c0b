"""Weights and configuration of LSTMs from Keras 3, layers, models and files, and back."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jlstm import checks
from jlstm.compose import Bidirectional, Stack
from jlstm.interop import keras_files, keras_options, keras_spec
from jlstm.interop.layout import Spec, cannot_express, layers_and_params, reorder
from jlstm.interop.plain import require_plain_cell
from jlstm.layers import LSTM
from jlstm.types import GATES, Directions, LSTMParams, wider_dtype

KERAS_GATES = ("i", "f", "g", "o")  # along 4N; Keras calls g the candidate c

# Gives the arrays of the next cell, which must have these shapes.
NextCell = Callable[[Sequence[Sequence[int | str]]], Sequence[Any]]


def from_keras(
    source: Any,
    *,
    spec: Spec | Mapping[str, Any] | None = None,
    layers: str | Sequence[str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> tuple[Any, Any]:
    """Take the spec and the params out of a layer, a model or a file of Keras 3.

    LSTM, RNN of an LSTMCell or of several, Bidirectional with any merge mode and a backward layer of its own, and
    Sequential or functional models of these. Of several layers on top of each other comes a Stack, of one its spec
    alone. Files are read without Keras; nothing in them is run or unpickled.

    Every argument of the layers is in the spec, but for those that a pure function has no place for:
    return_state (the state always comes back), stateful (pass the state that you got; what a live layer holds is
    in its `states`), seed (`key=`), use_cudnn (`backend`), trainable (freeze in the optimizer) and name. A layer
    casts x to the dtype of its policy, so the spec's dtype is set. Under a mixed policy the numbers of Keras want a
    state of 16 bits: spec.initial_state(B, dtype=spec.dtype). unit_forget_bias stays for init; nothing is added to
    the weights. A file does not say `implementation`: it is 2 then, as when Keras opens the file. Nor does it tell an
    activation of Keras's from a function of the user's with the same name, as a live layer does.

    A Dropout between the layers becomes the Stack's. A Masking below them is not part of a spec: a warning says
    which mask to pass. All other layers are errors.

    Args:
        source: a built layer or model, a list of layers, or the path of a .keras or .weights.h5 file.
        spec: for a .weights.h5 file, which holds no configuration: the jlstm spec, or the model's configuration
            as model.get_config() or json.loads(model.to_json()) gives it.
        layers: the names of the layers to take from a model that has others too; they must follow each other. With
            a jlstm spec, the groups of the .weights.h5 file that hold them, such as "lstm_1".
        custom_objects: what jlstm is to take for functions and classes that Keras does not know by itself: a
            function, a name or a value, by the name that they have in Keras. In a file it also stands for an
            activation of Keras's with this name.

    Returns:
        (spec, params), the params as the spec's init makes them.

    Raises:
        ValueError: a layer or an option that a spec cannot hold, named; or a file that is broken, or of others.
        TypeError: a source that is none of these, or layers that are no names.

    Example:
        >>> import os, tempfile
        >>> import h5py, jlstm, numpy as np
        >>> from jlstm.interop import from_keras
        >>> path = os.path.join(tempfile.mkdtemp(), "model.weights.h5")
        >>> with h5py.File(path, "w") as file:  # as save_weights of a model writes its LSTM(2, use_bias=False)
        ...     file["layers/lstm/cell/vars/0"] = np.zeros((3, 8), "float32")
        ...     file["layers/lstm/cell/vars/1"] = np.zeros((2, 8), "float32")
        >>> spec, params = from_keras(path, spec=jlstm.LSTM(2, use_bias=False))
        >>> params.kernel.shape, params.recurrent_kernel.shape
        ((3, 8), (2, 8))
    """
    custom = custom_objects or {}
    names = [layers] if isinstance(layers, str) else layers
    if names is not None and not (isinstance(names, Sequence) and all(isinstance(name, str) for name in names)):
        raise TypeError(f"layers must be a name, a list of names or None, got {checks.show(layers)}")
    if isinstance(source, (str, os.PathLike)):
        return _from_file(source, spec, names, custom)
    if spec is not None:
        raise ValueError(f"spec must be None where the source holds a configuration, got {checks.show(spec)}")
    if isinstance(source, (list, tuple)):
        config: dict[str, Any] = {"class_name": "Sequential", "config": {"layers": [_written(a) for a in source]}}
    else:
        config = _written(source)
    made, groups = keras_spec.read(config, names, custom)
    cells = _cells(source, groups)
    return made, _params(made, lambda shapes: _variables(next(cells), shapes))


def to_keras(spec: Spec, params: Any, *, return_state: bool = False) -> Any:
    """Make a Keras layer, or a Sequential of a Stack, with these weights.

    Of a Stack in a Stack all layers come into one Sequential, which passes a mask through. remat_every, backend, a
    number of steps as `unroll`, and `implementation` without dropout say how jlstm computes and change no number:
    Keras does without. A dtype of None becomes that of the params, since Keras knows no other.

    Args:
        spec: LSTM, Bidirectional or Stack.
        params: of this spec.
        return_state: of the layer that is made; not for a Stack.

    Returns:
        keras.layers.LSTM, keras.layers.Bidirectional or keras.Sequential.

    Raises:
        ValueError: an option that Keras's layers cannot express, named.
        ImportError: Keras is not installed.

    Example:
        >>> from jlstm.interop import to_keras
        >>> def saved(spec, params, path):
        ...     to_keras(spec, params).save(path)  # of a Stack: a Sequential, which can be saved
    """
    keras = _keras()
    checks.instance("spec", spec, LSTM, Bidirectional, Stack)
    checks.boolean("return_state", return_state)
    if not isinstance(spec, Stack):
        return _layer(keras, spec, params, return_state)
    if return_state:
        raise cannot_express("keras.Sequential", "return_state", return_state, "False")
    layers = layers_of_stack(keras, spec, params, lambda *layer: _layer(*layer, return_state=False))
    model = keras.Sequential(layers)
    rnns = [getattr(a, name) for a in layers for name in ("forward_layer", "backward_layer") if hasattr(a, name)]
    if not any(getattr(a, "unroll", False) for a in layers + rnns):  # Keras cannot unroll an unknown number of steps
        model.build((None, None, _input_size(params)))
    return model


# --- from Keras ----------------------------------------------------------------------------------------------------


def _from_file(path: Any, spec: Any, names: Sequence[str] | None, custom: Mapping[str, Any]) -> tuple[Any, Any]:
    if isinstance(spec, Spec):
        groups = _groups(spec, names, "")  # before the file is opened: these errors are about the spec alone
    elif spec is not None:
        spec, groups = keras_spec.read(spec, names, custom)
    else:
        groups = []
    with keras_files.opened(path) as (config, read_cell):
        if config is not None:
            if spec is not None:
                raise ValueError("spec must be None for a .keras file, which holds a configuration, got one")
            spec, groups = keras_spec.read(config, names, custom)
        elif spec is None:
            raise ValueError("spec must be a jlstm spec or the model's configuration, since it holds none, got None")
        cells = iter(groups)
        return spec, _params(spec, lambda shapes: read_cell(next(cells), shapes))


def _groups(spec: Any, names: Sequence[str] | None, group: str) -> list[str]:
    """The groups of a .weights.h5 file that hold the cells of a spec, if it was the whole model or under `names`."""
    layers = spec.layers if isinstance(spec, Stack) else (spec,)
    if names is None:
        kinds = {LSTM: "LSTM", Bidirectional: "Bidirectional", Stack: "Sequential"}
        names = keras_spec.container_names([kinds[type(layer)] for layer in layers])
    if len(names) != len(layers):
        raise ValueError(f"layers must name {len(layers)} groups, one a layer of spec, got {list(names)}")
    made = []
    for layer, name in zip(layers, names, strict=True):
        inner = f"{group}layers/{name}"
        if isinstance(layer, Stack):
            made += _groups(layer, None, f"{inner}/")
        elif isinstance(layer, Bidirectional):
            made += [f"{inner}/forward_layer/cell", f"{inner}/backward_layer/cell"]
        else:
            made.append(f"{inner}/cell")
    return made


def _params(spec: Any, next_cell: NextCell, D: int | str = "D") -> Any:
    """The params of a spec, cell by cell: from below, forward before backward."""
    if isinstance(spec, Stack):
        made = []
        for layer in spec.layers:
            made.append(_params(layer, next_cell, D))
            D = layer.output_size
        return tuple(made)
    if isinstance(spec, Bidirectional):
        forward = _params(spec.forward, next_cell, D)
        return Directions(forward, _params(spec.backward, next_cell, forward.kernel.shape[0]))
    require_plain_cell("Keras", spec)
    checks.enabled_dtype("param_dtype", spec.param_dtype)
    N = spec.units
    arrays = next_cell([(D, 4 * N), (N, 4 * N), (4 * N,)][: 3 if spec.use_bias else 2])
    for array in arrays:
        if jnp.dtype(array.dtype).name != spec.param_dtype:
            raise ValueError(f"weights must have the dtype that is configured, {spec.param_dtype}, got {array.dtype}")
    return LSTMParams(*(jnp.asarray(reorder(array, KERAS_GATES, GATES)) for array in arrays))


def _written(layer: Any) -> dict[str, Any]:
    """The configuration of a live layer, with what get_config leaves out."""
    kind = type(layer).__name__
    if not hasattr(layer, "get_config"):
        raise TypeError(f"source must be a Keras layer or model, a list of layers or a path, got {checks.show(layer)}")
    module = type(layer).__module__
    made: dict[str, Any] = {"class_name": kind, "module": module, "config": {"name": getattr(layer, "name", kind)}}
    if module.split(".")[0] != "keras":  # a class of the user's own is not what its name says, whatever that is
        return made
    if not sys.modules["keras"].__version__.startswith("3."):
        raise ValueError(f"source must be of Keras 3, got one of {sys.modules['keras'].__version__}")
    config = made["config"]
    if kind == "Sequential":
        config["layers"] = [_written(a) for a in layer.layers]
    elif kind == "Functional":
        config |= layer.get_config()
        live = {a.name: a for a in layer.layers}
        config["layers"] = [{**e, **(_written(live[e["name"]]) if e["name"] in live else {})} for e in config["layers"]]
    elif kind in ("LSTM", "LSTMCell", "RNN", "Bidirectional", "StackedRNNCells", "Masking", "Dropout", "InputLayer"):
        config |= layer.get_config()
        if not getattr(layer, "autocast", True) and layer.compute_dtype != layer.variable_dtype:
            raise ValueError(f"{kind}.autocast must be True with the dtype {layer.dtype_policy.name}, got False")
    if kind in ("LSTM", "LSTMCell"):
        cell = getattr(layer, "cell", layer)
        config["implementation"] = cell.implementation
        for name in ("activation", "recurrent_activation"):
            config[name] = _activation(config[name], getattr(cell, name))
    elif kind == "RNN":
        config["cell"] = _written(layer.cell)
    elif kind == "StackedRNNCells":
        config["cells"] = [_written(a) for a in layer.cells]
    elif kind == "Bidirectional":
        config |= {"layer": _written(layer.forward_layer), "backward_layer": _written(layer.backward_layer)}
    return made


def _activation(written: Any, function: Any) -> Any:
    """How an activation is written down; where Keras gives its name alone, with what tells its own from others."""
    if not isinstance(written, str):
        return written
    keras = sys.modules["keras"]
    if getattr(keras.activations, written, None) is function:
        return {"class_name": written, "module": "keras.activations", "config": {}}
    return {
        "class_name": "function",
        "registered_name": keras.saving.get_registered_name(function),
        "config": written,
    }


def _cells(source: Any, groups: Sequence[str]) -> Iterator[Any]:
    """The live cells at these places: the names of a file's groups are those of attributes and of lists' members."""
    for group in groups:
        node = source
        parts = iter(group.split("/"))
        if isinstance(source, (list, tuple)) or not hasattr(source, "layers"):
            next(parts)
            node = _member(source if isinstance(source, (list, tuple)) else [source], next(parts))
        for part in parts:
            node = getattr(node, part)
            if part in ("layers", "cells"):
                node = _member(node, next(parts))
        yield node


def _member(layers: Sequence[Any], name: str) -> Any:
    names = keras_spec.container_names([type(a).__name__ for a in layers])
    return layers[names.index(name)]


def _variables(cell: Any, shapes: Sequence[Any]) -> list[Any]:
    """The weights of a live cell, as NumPy's."""
    variables: list[Any] = [getattr(cell, name, None) for name in ("kernel", "recurrent_kernel", "bias")][: len(shapes)]
    if any(v is None for v in variables):
        raise ValueError(f"source must be built (call it once, or its build), got {cell.name} without weights")
    to_numpy = sys.modules["keras"].ops.convert_to_numpy
    return [np.asarray(to_numpy(v.value)) for v in variables]


# --- to Keras ------------------------------------------------------------------------------------------------------


def _layer(keras: Any, spec: Any, params: Any, return_state: bool) -> Any:
    """A built layer with its weights."""
    layer = empty_layer(keras, spec, params, return_state)
    layer.build((None, None, _input_size(params)))
    if isinstance(spec, LSTM):
        _assign(layer.cell, params)
    else:
        _assign(layer.forward_layer.cell, params.forward)
        _assign(layer.backward_layer.cell, params.backward)
    return layer


def empty_layer(keras: Any, spec: Any, params: Any, return_state: bool = False) -> Any:
    """Make the Keras layer of an LSTM or a Bidirectional, not built; arguments and errors as to_keras."""
    if isinstance(spec, LSTM):
        if spec.keep_order and spec.go_backwards and spec.return_sequences:
            raise cannot_express("keras.layers.LSTM", "keep_order", True, "False with go_backwards")
        return _lstm(keras, "keras.layers.LSTM", spec, params, return_state)
    checks.instance("params", params, Directions)
    target = "keras.layers.Bidirectional"
    if spec.forward.implementation == 1 and spec.forward.dropout and not spec.forward.recurrent_dropout:
        # Keras makes its forward layer out of a configuration, which does not hold it.
        raise cannot_express(target, "forward.implementation", 1, "2")
    forward = _lstm(keras, target, spec.forward, params.forward, return_state)
    backward = _lstm(keras, target, spec.backward, params.backward, return_state)
    policies = [
        _policy(target, way, p) for way, p in ((spec.forward, params.forward), (spec.backward, params.backward))
    ]
    if policies[0] != policies[1]:
        raise cannot_express(target, "backward.dtype", policies[1], policies[0])
    return keras.layers.Bidirectional(forward, merge_mode=spec.merge_mode, backward_layer=backward, dtype=policies[0])


def _lstm(keras: Any, target: str, spec: LSTM, params: LSTMParams, return_state: bool) -> Any:
    """A keras.layers.LSTM that is not built yet."""
    require_plain_cell(target, spec)
    checks.params(params, "D", spec.units, spec.units, use_bias=spec.use_bias, variant=spec.variant)
    names = keras_options.option_names(LSTM)
    options = {name: keras_options.to_keras(keras, target, name, getattr(spec, name)) for name in names}
    return keras.layers.LSTM(
        spec.units,
        **options,
        **{name: getattr(spec, name) for name in keras_spec.PLAIN if name != "unroll"},
        unroll=spec.unroll is True,
        return_state=return_state,
        dtype=_policy(target, spec, params),
        # With four input masks in training Keras's other path fails.
        use_cudnn=False if spec.implementation == 1 and spec.dropout else "auto",
    )


def _policy(target: str, spec: LSTM, params: LSTMParams) -> str:
    variable = reduce(wider_dtype, [a.dtype for a in jax.tree.leaves(params)])
    return keras_options.policy(target, spec.dtype, jnp.dtype(variable).name)


def layers_of_stack(keras: Any, spec: Stack, params: Any, make: Callable[[Any, Any, Any], Any]) -> list[Any]:
    """The layers of a keras.Sequential for a Stack; make: as empty_layer. Errors as to_keras."""
    layers = _sequential(keras, spec, params, make)
    if getattr(_last(spec), "merge_mode", "") is None:
        raise cannot_express("keras.Sequential", "layers[-1].merge_mode", None, "a name")
    return layers


def _last(spec: Any) -> Any:
    return _last(spec.layers[-1]) if isinstance(spec, Stack) else spec


def _sequential(keras: Any, spec: Stack, params: Any, make: Callable[[Any, Any, Any], Any]) -> list[Any]:
    """The layers of a Stack and of those in it, with their Dropouts."""
    made = []
    for n, (layer, p) in enumerate(layers_and_params(spec, params)):
        if n and _input_size(p) != spec.layers[n - 1].output_size:
            below = spec.layers[n - 1].output_size
            raise ValueError(f"params[{n}] must be of an input of width {below}, got one of {_input_size(p)}")
        if n and spec.dropout:
            made.append(keras.layers.Dropout(spec.dropout))
        made += _sequential(keras, layer, p, make) if isinstance(layer, Stack) else [make(keras, layer, p)]
    return made


def _input_size(params: Any) -> int:
    return jax.tree.leaves(params)[0].shape[0]  # the first kernel


def _assign(cell: Any, params: LSTMParams) -> None:
    for name in ("kernel", "recurrent_kernel", "bias"):
        if getattr(params, name) is not None:
            getattr(cell, name).assign(reorder(getattr(params, name), GATES, KERAS_GATES))


def _keras() -> Any:
    try:
        import keras
    except ImportError as error:
        raise ImportError("keras must be installed to make its layers: pip install keras") from error
    if not keras.__version__.startswith("3."):
        raise ImportError(f"keras must be Keras 3 to make its layers, got {keras.__version__}")
    return keras
