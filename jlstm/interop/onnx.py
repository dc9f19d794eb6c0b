"""From ONNX: LSTM nodes, alone or as a chain in a model, become a spec and params."""

import math
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jlstm import checks
from jlstm.compose import Bidirectional, Stack
from jlstm.interop import onnx_activations
from jlstm.interop.layout import reorder
from jlstm.interop.onnx_chain import Link, chain, direction, layout
from jlstm.interop.onnx_graph import Graph, attributes, label, op_type, require_onnx
from jlstm.interop.onnx_states import (
    STATE,
    Part,
    check_sources,
    checked,
    constant_lengths,
    node_input,
    part_of_state,
)
from jlstm.layers import LSTM
from jlstm.types import GATES, PEEPHOLES, Directions, LSTMParams, LSTMState
from jlstm.variant import Variant

ONNX_GATES = "iofg"  # the order along the axis 4N of W and R and in both halves of B; ONNX calls g the cell gate c
ONNX_PEEPHOLES = "iof"  # and of P

_BACKWARDS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
_ATTRIBUTES = (
    *("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget"),
    *("layout", "output_sequence"),  # output_sequence, of opset 1, says what the list of outputs says as well
)


def from_onnx(model: Any, weights: Any = None) -> tuple[LSTM | Bidirectional | Stack, Any]:
    """Read the LSTM of an ONNX model: a spec and its params.

    One LSTM node gives an LSTM, or a Bidirectional with the directions side by side; a chain of them a Stack. Between
    and behind the nodes there may be changes of layout alone (Transpose, Squeeze, Reshape, Identity), and sums,
    products or means over the two directions, or each of them gathered. Whatever the layout of the model, x of the spec
    is [B, T, D]. Where the node has no output Y, or nothing reads it, the spec returns the last output alone;
    otherwise it has keep_order=True, as ONNX's outputs are in the order of the input.

    sequence_lens, initial_h and initial_c are not part of a layer: pass lengths= and the state to apply. `inputs` gives
    those that are constants of the model, a learned initial state among them; in a model, not beside a node alone, what
    is neither a constant nor an input of the graph is an error. Gradients are those of any other spec.

    Args:
        model: a path, an onnx.ModelProto or an onnx.GraphProto; or one LSTM node, an onnx.NodeProto.
        weights: with a node, the model or graph that it is part of, or a mapping from names of its inputs to arrays.

    Returns:
        The spec, and params in the dtype of the model's weights; the two biases of ONNX are added.

    Raises:
        ValueError: no ONNX model; weights that are missing, of a wrong shape, no constants, or outside of the model's
            folder; an attribute that no spec expresses; or a node, named, that is part of no LSTM or holds a graph.
        ImportError: the library onnx is missing.

    Example:
        >>> import jax, jlstm, onnx
        >>> from jlstm.interop import from_onnx, to_onnx
        >>> layer = jlstm.LSTM(4, return_sequences=True, keep_order=True)
        >>> model = to_onnx(layer, layer.init(jax.random.key(0), input_size=3))
        >>> spec, params = from_onnx(model)
        >>> spec, params.kernel.shape
        (LSTM(4, return_sequences=True, keep_order=True), (3, 16))
        >>> node = next(node for node in model.graph.node if node.op_type == "LSTM")
        >>> from_onnx(node, model)[0] == spec
        True

    Source: the operator LSTM of ONNX, versions 1 to 22; where its text leaves something open, onnxruntime 1.32.
    """
    graph, links = _read(model, weights)
    layers = [_layer(graph, link) for link in links]
    lengths = dict.fromkeys(node_input(link.node, "sequence_lens") for link in links)
    if len(lengths) > 1:
        raise ValueError(
            f"sequence_lens must be the same for all LSTM nodes of model, got {', '.join(map(repr, lengths))}"
        )
    if len(layers) == 1:
        return layers[0]
    specs, params = zip(*layers, strict=True)
    return Stack(specs), params


def inputs(model: Any, weights: Any = None, *, batch_size: int | None = None) -> dict[str, Any]:
    """Read the constants of an ONNX model that are not weights, as arguments of apply.

    Args:
        model, weights: as from_onnx.
        batch_size: rows of the state, where the model repeats one row for all (a learned initial state).

    Returns:
        A dict with "lengths" [B] where sequence_lens is a constant, and "state", in the form that the spec takes, where
        an initial_h or initial_c is one other than zeros: what no node gives is zeros. Without constants it is empty.

    Raises:
        ValueError: a constant has a wrong shape, or nodes compute with it; one part of the state is a constant and
            another is not; or batch_size is needed and missing, or is not that of a constant.

    Example:
        >>> import numpy as np, onnx
        >>> from jlstm.interop.onnx import from_onnx, inputs
        >>> node = onnx.helper.make_node("LSTM", ["X", "W", "R", "", "lens"], ["Y"], hidden_size=2)
        >>> rng = np.random.default_rng(0)
        >>> arrays = {"W": rng.normal(size=(1, 8, 3)), "R": rng.normal(size=(1, 8, 2)), "lens": np.array([4, 2])}
        >>> arrays = {name: a.astype("float32" if a.ndim == 3 else "int32") for name, a in arrays.items()}
        >>> spec, params = from_onnx(node, arrays)
        >>> inputs(node, arrays)
        {'lengths': Array([4, 2], dtype=int32)}
        >>> state, y = spec.apply(params, spec.initial_state(2), np.ones((2, 4, 3), "float32"), **inputs(node, arrays))
        >>> y.shape
        (2, 4, 2)
    """
    if batch_size is not None:
        checks.positive_int("batch_size", batch_size)
    graph, links = _read(model, weights)
    made: dict[str, Any] = {}
    lengths = constant_lengths(graph, links[0].node)
    if lengths is not None:
        made["lengths"] = jnp.asarray(lengths)
    parts = [[part_of_state(graph, link.node, name) for name in STATE] for link in links]
    given = [part for pair in parts for part in pair if isinstance(part, Part)]
    if given:
        sizes = [part.array.shape[1] for part in given if not part.repeated]
        B = sizes[0] if sizes and batch_size is None else batch_size
        if B is None:
            raise ValueError("batch_size must be given where model repeats one state for every row, got None")
        dtype = given[0].array.dtype
        states = tuple(_state(graph, link.node, pair, B, dtype) for link, pair in zip(links, parts, strict=True))
        made["state"] = states[0] if len(states) == 1 else states
    return made


def _read(model: Any, weights: Any) -> tuple[Graph, list[Link]]:
    onnx = require_onnx()
    if not isinstance(model, onnx.NodeProto):
        if weights is not None:
            raise TypeError(f"weights must be None unless model is a NodeProto, got {checks.show(weights)}")
        graph = Graph(model)
        links = chain(graph)
        check_sources(graph, [link.node for link in links])
        return graph, links
    if not isinstance(weights, (str, os.PathLike, Mapping, onnx.ModelProto, onnx.GraphProto)):
        raise TypeError(f"weights must be the node's model or a mapping of arrays, got {checks.show(weights)}")
    if op_type(model) != "LSTM":
        raise ValueError(f"model must be an LSTM node, got {label(model)}")
    return Graph(weights), [Link(model, sequences=bool(model.output) and bool(model.output[0]))]


def _layer(graph: Graph, link: Link) -> tuple[LSTM | Bidirectional, Any]:
    """The spec and params of one node."""
    node, where = link.node, label(link.node)
    options, backwards = _options(node)
    N, arrays = _weights(graph, node, len(backwards), options.get("hidden_size"))
    activations = _activations(where, options, len(backwards))
    specs, params = [], []
    for d, go_backwards in enumerate(backwards):
        recurrent_activation, activation, output_activation = activations[3 * d : 3 * d + 3]
        variant = Variant(
            peephole="P" in arrays,
            coupled="forget" if options.get("input_forget") else None,
            preact_clip=onnx_activations.shortest(options["clip"]) if "clip" in options else None,
            output_activation=None if output_activation == activation else output_activation,
        )
        alone = len(backwards) == 1
        specs.append(
            LSTM(
                N,
                activation=activation,
                recurrent_activation=recurrent_activation,
                use_bias="B" in arrays,
                return_sequences=link.sequences,
                go_backwards=go_backwards,
                keep_order=link.sequences and link.keep_order,  # forwards too, as from_torch and from_nnx
                # Y is zero beyond the length (onnxruntime); Bidirectional has that by itself
                zero_output_for_mask=alone and link.sequences and bool(node_input(node, "sequence_lens")),
                param_dtype=arrays["W"].dtype.name,
                variant=variant,
            )
        )
        params.append(_params({name: a[d] for name, a in arrays.items()}))
    if len(specs) == 1:
        return specs[0], params[0]
    return Bidirectional(*specs, merge_mode=link.merge_mode), Directions(*params)


def _options(node: Any) -> tuple[dict[str, Any], tuple[bool, ...]]:
    """The attributes of a node, checked but for those of activations, and whether each direction goes backwards."""
    options, where = attributes(node), label(node)
    for name in options:
        if name not in _ATTRIBUTES:
            raise ValueError(f"attributes of {where} must be among {', '.join(_ATTRIBUTES)}, got {name!r}")
    checks.one_of(f"direction of {where}", direction(node), tuple(_BACKWARDS))
    checks.one_of(f"input_forget of {where}", options.get("input_forget", 0), (0, 1))
    checks.one_of(f"layout of {where}", layout(node), (0, 1))
    if not isinstance(options.get("clip", 1.0), float) or not 0 < options.get("clip", 1.0) < math.inf:
        raise ValueError(f"clip of {where} must be a finite number above 0, got {checks.show(options['clip'])}")
    return options, _BACKWARDS[direction(node)]


def _params(arrays: Mapping[str, np.ndarray]) -> LSTMParams:
    """W [4N, D], R [4N, N], B [8N] and P [3N] of one direction as params."""
    bias = peephole = None
    if "B" in arrays:
        halves = np.split(arrays["B"].astype(np.promote_types(arrays["B"].dtype, np.float32)), 2)
        whole = (halves[0] + halves[1]).astype(arrays["B"].dtype)
        bias = jnp.asarray(reorder(whole, ONNX_GATES, GATES))
    if "P" in arrays:
        peephole = jnp.asarray(reorder(arrays["P"], ONNX_PEEPHOLES, PEEPHOLES).reshape(3, -1))
    return LSTMParams(
        kernel=jnp.asarray(reorder(arrays["W"].T, ONNX_GATES, GATES)),
        recurrent_kernel=jnp.asarray(reorder(arrays["R"].T, ONNX_GATES, GATES)),
        bias=bias,
        peephole=peephole,
    )


def _weights(graph: Graph, node: Any, directions: int, hidden_size: Any) -> tuple[int, dict[str, np.ndarray]]:
    """N, and the arrays W, R and, where the node has them, B and P; shapes and dtypes checked."""
    arrays = {}
    for name in ("W", "R", "B", "P"):
        tensor = node_input(node, name)
        if not tensor and name in "BP":
            continue
        array = graph.constant(tensor) if tensor else None
        if array is None:
            got = repr(tensor) if tensor else "none"
            raise ValueError(f"{name} of {label(node)} must be a constant of the model, got {got}")
        arrays[name] = array
    R = arrays["R"]
    N = R.shape[-1] if R.ndim == 3 and hidden_size is None else hidden_size
    if isinstance(N, bool) or not isinstance(N, int) or N < 1:
        raise ValueError(f"hidden_size of {label(node)} must be a positive integer, got {checks.show(N)}")
    shapes = {"W": (4 * N, "D"), "R": (4 * N, N), "B": (8 * N,), "P": (3 * N,)}
    for name, array in arrays.items():
        checked(f"{name} of {label(node)}", array, "floating", (directions, *shapes[name]))
        if array.dtype != arrays["W"].dtype:
            raise ValueError(f"{name} of {label(node)} must be {arrays['W'].dtype}, as W, got {array.dtype}")
    checks.enabled_dtype(f"the dtype of W of {label(node)}", arrays["W"].dtype.name)
    return N, arrays


def _activations(where: str, options: Mapping[str, Any], directions: int) -> list[Any]:
    """Three activations a direction: f, g, h."""
    names = options.get("activations", list(onnx_activations.DEFAULT) * directions)
    alphas, betas = options.get("activation_alpha", []), options.get("activation_beta", [])
    for name, value, kind in (
        ("activations", names, str),
        ("activation_alpha", alphas, float),
        ("activation_beta", betas, float),
    ):
        if not isinstance(value, list) or not all(isinstance(v, kind) for v in value):
            raise ValueError(f"{name} of {where} must be a list of {kind.__name__}, got {checks.show(value)}")
    if len(names) != 3 * directions:
        raise ValueError(f"activations of {where} must be {3 * directions}, three a direction, got {len(names)}")
    return onnx_activations.read(where, names, alphas, betas)


def _state(
    graph: Graph, node: Any, parts: list[Part | str | None], batch_size: int, dtype: np.dtype
) -> LSTMState | Directions:
    """The state of one node's layer, zeros where no part gives it."""
    options, backwards = _options(node)
    directions = len(backwards)
    N, _ = _weights(graph, node, directions, options.get("hidden_size"))
    shape, arrays = (directions, batch_size, N), []
    for name, part in zip(STATE, parts, strict=True):
        where = f"{name} of {label(node)}"
        if isinstance(part, str):
            raise ValueError(f"{where} must be a constant, as another part of the state, got {part!r}")
        array = np.zeros(shape, dtype) if part is None else part.array
        if part is not None and part.repeated:
            repeats = [new if old == 1 else 1 for new, old in zip(shape, array.shape, strict=True)]
            array = np.tile(array, repeats)
        arrays.append(jnp.asarray(checked(where, array, "floating", shape)))
    states = [LSTMState(h=arrays[0][d], c=arrays[1][d]) for d in range(directions)]
    return states[0] if directions == 1 else Directions(*states)
