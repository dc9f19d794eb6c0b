"""A Keras configuration, as get_config() and config.json hold it, as a spec; needs neither Keras nor weights."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from jlstm.compose import Bidirectional, Stack
from jlstm.interop import keras_options
from jlstm.layers import LSTM

# A spec, and the groups that hold its cells in a .weights.h5 file, in the order of its params.
Found = tuple[LSTM | Bidirectional | Stack, list[str]]

_RECURRENT = ("LSTM", "RNN", "Bidirectional", "Sequential", "Functional")
# What a pure function has no place for: the docstring of from_keras says where each went.
_DROPPED = frozenset({"name", "trainable", "seed", "return_state", "stateful", "use_cudnn"})
# What goes over as it is.
PLAIN = (
    *("return_sequences", "go_backwards", "unroll", "zero_output_for_mask"),
    *("use_bias", "unit_forget_bias", "dropout", "recurrent_dropout", "implementation"),
)


def read(config: Mapping[str, Any], layers: Sequence[str] | None, custom_objects: Mapping[str, Any]) -> Found:
    """Make the spec of a configuration.

    Args:
        config: what model.get_config(), json.loads(model.to_json()) or layer.get_config() gives, or an entry of these.
        layers: the names of the layers to take from a model; None means all.
        custom_objects: jlstm's counterparts of what Keras does not know by itself, by name.

    Raises:
        ValueError: a layer, an option or a value that a spec cannot hold, named.
    """
    if isinstance(config, Mapping) and "class_name" not in config:
        kinds = {"layers": "Functional" if "input_layers" in config else "Sequential", "merge_mode": "Bidirectional"}
        kinds |= {"cell": "RNN", "units": "LSTM"}
        kind = next((kind for key, kind in kinds.items() if key in config), None)
        config = {"class_name": kind, "config": config}
    kind, inner = _opened(config)
    if kind not in ("Sequential", "Functional"):  # only a model has a file: this one's would hold the layer alone
        kind, inner = "Sequential", {"layers": [config]}
    return _model(kind, inner, layers, custom_objects, "")


def container_names(classes: Sequence[str]) -> list[str]:
    """The names by which a Keras file holds the members of a list, from their class names.

    Example:
        >>> container_names(["LSTM", "Dense", "LSTM"])
        ['lstm', 'dense', 'lstm_1']
    """
    counts: dict[str, int] = {}
    made = []
    for name in map(keras_options.snake_case, classes):
        made.append(f"{name}_{counts[name]}" if name in counts else name)
        counts[name] = counts.get(name, 0) + 1
    return made


# --- models --------------------------------------------------------------------------------------------------------


def _model(kind: str, config: Mapping[str, Any], layers: Any, custom: Mapping[str, Any], group: str) -> Found:
    """The recurrent layers of a model, on top of each other."""
    entries = config.get("layers")
    if not isinstance(entries, (list, tuple)):
        raise ValueError(f"{kind}.layers must be a list, got {entries!r:.40}")
    entries = [e for e in entries if not (isinstance(e, Mapping) and str(e.get("module")).startswith("keras.src.ops"))]
    opened = [_opened(e) for e in entries]
    names = [str(c.get("name")) for _, c in opened]
    # Keras names a group after the class alone, be it the user's.
    groups = [f"{group}layers/{name}" for name in container_names([str(e.get("class_name")) for e in entries])]
    kinds = [kind for kind, _ in opened]
    first, last = _range(names, kinds, layers)
    if kind == "Functional":
        _check_chain(entries, names, kinds, first, last)
        if layers is None and names:
            pair = kinds[-1] == "Bidirectional" and opened[-1][1].get("merge_mode", "concat") is None
            _check_outputs(config.get("output_layers"), names[-1], 2 if pair else 1)

    made: list[Found] = []
    rates: list[float] = []  # of the Dropout below each recurrent layer but the first
    masking = dropout = None  # the configuration of the last one that no recurrent layer has followed yet
    for n in range(first, last):
        layer, inner = opened[n]
        if layer == "InputLayer":
            continue
        if layer == "Masking" and group:
            raise ValueError(
                f"Masking must stand in the outermost model, got {names[n]!r} in a model within: build without it, "
                "and pass the mask to apply"
            )
        if layer == "Masking" and not made:
            masking = inner
            _warn_of_mask(inner)
        elif layer == "Dropout" and made and dropout is None and inner.get("noise_shape") is None:
            dropout = inner
        elif layer in _RECURRENT:
            if made:
                rates.append(dropout.get("rate", 0.0) if dropout else 0.0)
            for name, below in (("Masking", masking), ("Dropout", dropout)):
                if below is not None and "layers" not in inner:
                    _check_policy(name, below, inner)  # it would round what it passes on
            masking = dropout = None
            made.append(_layer(entries[n], custom, groups[n]))
        else:
            raise ValueError(
                f"layers must be LSTM, RNN of LSTMCell, Bidirectional, models of these, Masking below them and Dropout "
                f"between them, got {layer} {names[n]!r}: name the recurrent ones in layers="
            )
    if dropout:
        raise ValueError(f"Dropout must stand between two recurrent layers, got {dropout.get('name')!r} above the last")
    if not made:
        raise ValueError(f"layers must have a recurrent one, got {', '.join(names) or 'none'}")
    if any(rate != rates[0] for rate in rates):
        raise ValueError(f"Dropout must have one rate between all layers (Stack.dropout), got {rates}")
    if len(made) == 1:
        return made[0]
    stack = keras_options.made_of(Stack, tuple(spec for spec, _ in made), dropout=rates[0])
    return stack, [g for _, groups in made for g in groups]


def _range(names: list[str], kinds: list[str], layers: Any) -> tuple[int, int]:
    """From the first to behind the last of the layers that were asked for."""
    if layers is None:
        return 0, len(names)
    wanted = [layers] if isinstance(layers, str) else list(layers)
    missing = [name for name in wanted if name not in names]
    if missing or not wanted:
        raise ValueError(f"layers must be names out of {', '.join(map(repr, names))}, got {missing or wanted}")
    indices = [names.index(name) for name in wanted]
    first, last = min(indices), max(indices) + 1
    left_out = [names[n] for n in range(first, last) if kinds[n] in _RECURRENT and names[n] not in wanted]
    if left_out:
        raise ValueError(f"layers must leave out no recurrent layer between those named, got none of {left_out}")
    return first, last


def _check_chain(entries: Sequence[Any], names: list[str], kinds: list[str], first: int, last: int) -> None:
    """Require of the layers of a functional model that each reads what the one before gives, and nothing else.

    The lowest one reads an input of the model. What it reads where layers= begins with it is the caller's to know.
    """
    inputs = {name for name, kind in zip(names, kinds, strict=True) if kind == "InputLayer"}
    below = inputs
    for n in range(first, last):
        if kinds[n] == "InputLayer":
            continue
        if n > first:
            # The mask that a Masking makes comes by itself, and has its warning; so does that of layers left out.
            masked = first > 0 or "Masking" in kinds[first:n]
            got = _off_chain(entries[n].get("inbound_nodes"), below, inputs, masked)
            if got:
                known = "an input of the model" if below is inputs else f"the outputs of {', '.join(below)}"
                raise ValueError(
                    f"{names[n]} must read {known} alone, in one place, got {got}: take such layers one at a time, "
                    "with layers="
                )
        below = {names[n]}


def _off_chain(nodes: Any, below: set[str], inputs: set[str], masked: bool) -> str:
    """What a layer reads that is not the outputs below; nothing where it is these alone."""
    try:
        (node,) = nodes
        (tensor,) = node["args"]
        name, *indices = tensor["config"]["keras_history"]
        others = {k: v for k, v in node.get("kwargs", {}).items() if v not in (None, False)}
        if masked and "mask" in others and others["mask"]["config"]["keras_history"][0] not in inputs:
            del others["mask"]
        if others:
            return f"also {', '.join(others)}"
        return "" if name in below and indices == [0, 0] else f"{nodes!r:.60}"
    except (TypeError, ValueError, KeyError, AttributeError):
        return f"{nodes!r:.60}"


def _check_outputs(tree: Any, last: str, count: int) -> None:
    """Require of a functional model that it returns the outputs of its last layer, perhaps with its states."""
    found = _outputs(tree)
    others = sorted({name for name, _ in found} - {last})
    if others:
        raise ValueError(f"outputs must be those of the last layer, {last}, got also {', '.join(others)}")
    if not {(last, n) for n in range(count)} <= found:
        raise ValueError(
            f"outputs must hold the outputs of {last}, got {sorted(n for _, n in found)} of what it returns: take it "
            "with layers=, and its states from the state that apply returns"
        )


def _outputs(tree: Any) -> set[tuple[str, Any]]:
    """What a functional model returns: the layers, and which of the tensors that these return."""
    if isinstance(tree, Mapping):
        return _outputs(list(tree.values()))
    if not isinstance(tree, (list, tuple)):
        return set()
    if len(tree) == 3 and isinstance(tree[0], str) and isinstance(tree[2], int):
        return {(tree[0], tree[2])}
    return set().union(*map(_outputs, tree))


def _warn_of_mask(config: Mapping[str, Any]) -> None:
    value = config.get("mask_value", 0.0)
    warnings.warn(
        f"Masking(mask_value={value!r}) is no part of a spec: pass mask=jnp.any(x != {value!r}, axis=-1) to apply",
        stacklevel=5,
    )


# --- layers --------------------------------------------------------------------------------------------------------


def _layer(entry: Any, custom: Mapping[str, Any], group: str) -> Found:
    kind, config = _opened(entry)
    if kind in ("Sequential", "Functional"):
        return _model(kind, config, None, custom, f"{group}/")
    if kind == "LSTM":
        return _lstm(config, config, custom), [f"{group}/cell"]
    if kind == "Bidirectional":
        return _bidirectional(config, custom, group)
    if kind != "RNN":
        raise ValueError(f"layer must be LSTM, RNN of LSTMCell or Bidirectional, got {kind}")
    cell_kind, cell = _opened(config.get("cell"))
    if cell_kind == "LSTMCell":
        return _lstm(config, cell, custom), [f"{group}/cell"]
    if cell_kind != "StackedRNNCells":
        raise ValueError(f"RNN.cell must be LSTMCell or StackedRNNCells of these, got {cell_kind}")
    _check_policy("StackedRNNCells", cell, config)
    opened = [_opened(c) for c in cell.get("cells") or ()]
    wrong = [k for k, _ in opened if k != "LSTMCell"]
    if wrong or not opened:
        raise ValueError(f"StackedRNNCells.cells must be LSTMCells, got {', '.join(wrong) or 'none'}")
    groups = [f"{group}/cell/cells/{name}" for name in container_names([k for k, _ in opened])]
    if len(opened) == 1:
        return _lstm(config, opened[0][1], custom), groups
    # A cell reads what the one below has just written: below the last, all outputs, in the order of the input.
    below = {**config, "return_sequences": True, "activity_regularizer": None}
    layers = [dataclasses.replace(_lstm(below, c, custom), keep_order=True) for _, c in opened[:-1]]
    return Stack((*layers, _lstm(config, opened[-1][1], custom))), groups


def _bidirectional(config: Mapping[str, Any], custom: Mapping[str, Any], group: str) -> Found:
    _only(config, "Bidirectional", {"layer", "backward_layer", "merge_mode", "dtype", "activity_regularizer"})
    if config.get("activity_regularizer") is not None:
        raise ValueError("Bidirectional.activity_regularizer must be None (the layers inside have one), got one")
    copied = config.get("backward_layer") is None
    directions, groups = [], []
    for key, attribute in (("layer", "forward_layer"), ("layer" if copied else "backward_layer", "backward_layer")):
        spec, inner_groups = _layer(config.get(key), custom, f"{group}/{attribute}")
        if not isinstance(spec, LSTM):
            raise ValueError(f"Bidirectional.{key} must be an LSTM, got {type(spec).__name__}")
        _check_policy("Bidirectional", config, _opened(config.get(key))[1])
        directions.append(spec)
        groups += inner_groups
    forward, backward = directions
    if copied:
        backward = dataclasses.replace(forward, go_backwards=True)
    return Bidirectional(forward, backward, merge_mode=config.get("merge_mode", "concat")), groups


def _lstm(layer: Mapping[str, Any], cell: Mapping[str, Any], custom: Mapping[str, Any]) -> LSTM:
    """An LSTM from the configuration of an RNN and of its cell, which for the layer LSTM are one."""
    options = keras_options.option_names(LSTM)
    _only(layer, "RNN" if "cell" in layer else "LSTM", {"units", "dtype", "cell", *PLAIN, *options})
    if layer is not cell:
        _check_policy("RNN", layer, cell)
        if cell.get("activity_regularizer") is not None:
            raise ValueError("LSTMCell.activity_regularizer must be None (the RNN has one), got one")
        _only(cell, "LSTMCell", {"units", "dtype", *PLAIN, *options})
    merged = {**cell, **layer}
    if "units" not in merged:
        raise ValueError("units must be given in the configuration of an LSTM, got none")
    compute, variable = keras_options.dtypes(cell.get("dtype"))
    arguments = {name: merged[name] for name in PLAIN if name in merged}
    for option in options:
        if option in merged:
            arguments[option] = keras_options.from_keras(option, merged[option], custom, compute)
    if arguments.get("recurrent_dropout"):
        arguments.pop("implementation", None)  # it is 1 either way, and only a live layer tells
    return keras_options.made_of(LSTM, merged["units"], dtype=compute, param_dtype=variable, **arguments)


def _check_policy(name: str, outer: Mapping[str, Any], inner: Mapping[str, Any]) -> None:
    policies = keras_options.dtypes(outer.get("dtype"))[0], keras_options.dtypes(inner.get("dtype"))[0]
    if policies[0] != policies[1]:
        raise ValueError(
            f"{name}.dtype must be that of the layers that it wraps or feeds, got {policies[0]} and {policies[1]}"
        )


def _only(config: Mapping[str, Any], name: str, known: set[str]) -> None:
    unknown = sorted(set(map(str, config)) - known - _DROPPED)
    if unknown:
        raise ValueError(f"{name} must have no other options than those of Keras 3.15, got {', '.join(unknown)}")


def _opened(entry: Any) -> tuple[str, Mapping[str, Any]]:
    """The class name and the configuration of an entry; a class of the user's own is not what its name says."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("config"), Mapping):
        raise ValueError(f"a configuration must be a mapping with class_name and config, got {entry!r:.40}")
    kind, registered = entry.get("class_name"), entry.get("registered_name")
    module = str(entry.get("module", "keras"))
    own = registered not in (None, kind) or module.split(".")[0] != "keras"
    return f"{module}.{kind}" if own else str(kind), entry["config"]
