"""flax's LSTM cells, linen's and nnx's, alone or in its RNN, Bidirectional and Sequential, to specs and back.

Both kinds come in two: LSTMCell has a matrix for each gate, OptimizedLSTMCell computes the same from joined ones. Their
carry is (c, h): a state is LSTMState(h=h, c=c) of it, and of a Bidirectional a pair of carries.

Initializers are not taken over, the weights are. Where to start is the caller's: no carry_init is taken over either.
At padded steps flax's outputs are what its cell makes of the padding, and its final state for a length of 0 is not
the initial one; with these exceptions seq_lengths are `lengths`. With dtype=None flax computes in the wider of the
dtypes of x and the weights, jlstm in that of x; flax's outputs have the dtype of the carry, jlstm's the one that it
computes in. Where all are float32 that is the same.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jlstm import checks, named
from jlstm.compose import Bidirectional, Stack
from jlstm.interop.layout import Spec, cannot_express, reorder
from jlstm.interop.plain import require_plain
from jlstm.layers import LSTM
from jlstm.paths import check_params
from jlstm.types import GATES, Directions, LSTMParams

FLAX_GATES = ("i", "f", "g", "o")  # of the fused kernels; elsewhere these are names

Params = LSTMParams | Directions | tuple[Any, ...]


def from_linen(module: Any, variables: Mapping[str, Any]) -> tuple[Spec, Params]:
    """Read a flax linen LSTM.

    Args:
        module: LSTMCell or OptimizedLSTMCell; RNN of one; Bidirectional of two such RNN; Sequential of RNN and
            Bidirectional.
        variables: what its init returned, {"params": ...}.

    Returns:
        LSTM, Bidirectional or Stack, with return_sequences=True and outputs in the order in which flax has them, and
        its params.

    Raises:
        ImportError: flax is missing.
        TypeError, ValueError: another kind of module, an option that jlstm does not have, or weights of float64 while
            jax_enable_x64 is off.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> module = nn.Bidirectional(nn.RNN(nn.LSTMCell(5)), nn.RNN(nn.LSTMCell(5)))
        >>> spec, params = from_linen(module, module.init(jax.random.key(0), jnp.ones((2, 7, 3))))
        >>> spec.merge_mode, params.backward.kernel.shape
        ('concat', (3, 20))
    """
    linen = _library("linen")
    from flax.core import meta

    if not isinstance(variables, Mapping) or "params" not in variables:
        raise TypeError(f"variables must be a mapping with an entry 'params', got {checks.show(variables)}")
    return _read(module, meta.unbox(variables)["params"], linen)


def from_nnx(module: Any) -> tuple[Spec, Params]:
    """Read a flax nnx LSTM; as from_linen, of a module that holds its weights.

    Example:
        >>> from flax import nnx
        >>> spec, params = from_nnx(nnx.RNN(nnx.OptimizedLSTMCell(3, 5, rngs=nnx.Rngs(0)), reverse=True))
        >>> spec
        LSTM(5, return_sequences=True, go_backwards=True)
    """
    return _read(module, None, _library("nnx"))


def to_linen(spec: Spec, params: Params, *, cell: type | None = None) -> tuple[Any, dict[str, Any]]:
    """Make a flax linen module of a spec.

    Args:
        spec: LSTM, Bidirectional or Stack, which returns sequences.
        params: its weights.
        cell: flax.linen.LSTMCell or OptimizedLSTMCell; None means the latter.

    Returns:
        An RNN, or a Bidirectional or Sequential of such; and its variables. The cell alone is module.cell, with
        {"params": variables["params"]["cell"]}.

    Raises:
        ImportError: flax is missing.
        TypeError, ValueError: params of another spec, or an option that flax does not have, by name.

    Example:
        >>> import jax, jax.numpy as jnp, jlstm
        >>> spec = jlstm.LSTM(5, return_sequences=True)
        >>> params = spec.init(jax.random.key(0), input_size=3)
        >>> module, variables = to_linen(spec, params)
        >>> module.apply(variables, jnp.ones((2, 7, 3))).shape
        (2, 7, 5)
    """
    linen = _library("linen")
    make = _one_of(cell, linen)
    _check(spec, params)

    def made(spec: LSTM, params: LSTMParams) -> Any:
        return make(features=spec.units, **cell_options(spec))

    return assembled(spec, params, linen, made), {"params": _tree(params)}


def to_nnx(spec: Spec, params: Params, *, cell: type | None = None) -> Any:
    """Make a flax nnx module of a spec; as to_linen, of cells of flax.nnx, and the module alone.

    Example:
        >>> import jax, jax.numpy as jnp, jlstm
        >>> spec = jlstm.LSTM(5, return_sequences=True)
        >>> module = to_nnx(spec, spec.init(jax.random.key(0), input_size=3))
        >>> module(jnp.ones((2, 7, 3))).shape
        (2, 7, 5)
    """
    nnx = _library("nnx")
    make = _one_of(cell, nnx)
    _check(spec, params)

    def made(spec: LSTM, params: LSTMParams) -> Any:
        def empty():
            return make(params.kernel.shape[0], spec.units, rngs=nnx.Rngs(0), **cell_options(spec))

        module = nnx.eval_shape(empty)  # nothing is drawn: all its variables are written now
        for gate, variable, weight in _nnx_weights(module, nnx):
            columns = _columns(params, weight)
            variable.set_value(columns[gate] if gate else jnp.concatenate(list(columns.values()), axis=-1))
        return module

    return assembled(spec, params, nnx, made)


# --- from flax -----------------------------------------------------------------------------------------------------


def _read(module: Any, weights: Any, flax: Any) -> tuple[Any, Any]:
    """A module and linen's tree of its weights (nnx: None) as (spec, params)."""
    if isinstance(module, flax.Sequential):
        parts = [_read(layer, _under(weights, f"layers_{n}"), flax) for n, layer in enumerate(module.layers)]
        return Stack(tuple(spec for spec, _ in parts)), tuple(params for _, params in parts)
    if isinstance(module, flax.Bidirectional):
        _require_batch_major(module)
        forward = _read_rnn(module.forward_rnn, _under(weights, "forward_rnn"), flax, keep_order=True)
        backward = _read_rnn(
            module.backward_rnn, _under(weights, "backward_rnn"), flax, keep_order=True, go_backwards=True
        )
        spec = Bidirectional(forward[0], backward[0], merge_mode=_merge_mode(module.merge_fn, flax))
        return spec, Directions(forward[1], backward[1])
    if isinstance(module, flax.RNN):
        _require_batch_major(module)
        order = {"go_backwards": module.reverse, "keep_order": module.keep_order or not module.reverse}
        return _read_rnn(module, weights, flax, **order)
    return _read_cell(module, weights, flax, keep_order=True)


def _read_rnn(module: Any, weights: Any, flax: Any, **options: Any) -> tuple[LSTM, LSTMParams]:
    if not isinstance(module, flax.RNN):
        raise TypeError(f"each direction of a Bidirectional must be an RNN, got {type(module).__name__}")
    return _read_cell(module.cell, _under(weights, "cell"), flax, unroll=module.unroll, **options)


def _read_cell(cell: Any, weights: Any, flax: Any, **options: Any) -> tuple[LSTM, LSTMParams]:
    if type(cell) not in (flax.LSTMCell, flax.OptimizedLSTMCell):  # a subclass may compute something else
        raise TypeError(f"a cell must be LSTMCell or OptimizedLSTMCell of {flax.__name__}, got {type(cell).__name__}")
    if weights is None:
        params = _of_nnx(cell, flax)
    else:
        inputs, hidden = ([_under(weights, f"{side}{gate}") for gate in FLAX_GATES] for side in "ih")
        params = _params(
            [_under(gate, "kernel") for gate in inputs],
            [_under(gate, "kernel") for gate in hidden],
            [_under(gate, "bias") for gate in hidden],
        )
    units = params.recurrent_kernel.shape[0]
    spec = LSTM(
        units,
        activation=_named(cell.activation_fn),
        recurrent_activation=_named(cell.gate_fn),
        dtype=cell.dtype,
        param_dtype=cell.param_dtype,
        return_sequences=True,
        **options,
    )
    checks.params(params, "D", units, units, use_bias=True, variant=spec.variant, name="cell")
    return spec, params


def _of_nnx(cell: Any, nnx: Any) -> LSTMParams:
    pieces = {"kernel": {}, "recurrent_kernel": {}, "bias": {}}
    for gate, variable, weight in _nnx_weights(cell, nnx):
        value = np.asarray(variable.get_value())
        pieces[weight] |= {gate: value} if gate else dict(zip(FLAX_GATES, np.split(value, 4, axis=-1), strict=True))
    return _params(*([piece[gate] for gate in FLAX_GATES] for piece in pieces.values()))


def _params(*gates: Sequence[Any]) -> LSTMParams:
    """Kernels, recurrent kernels and biases of the gates, in flax's order, side by side in ours."""
    joined = {name: _joined(pieces) for name, pieces in zip(("kernel", "recurrent_kernel", "bias"), gates, strict=True)}
    for name, array in joined.items():
        checks.enabled_dtype(f"the dtype of {name}", array.dtype.name)
    return LSTMParams(**{name: jnp.asarray(reorder(array, FLAX_GATES, GATES)) for name, array in joined.items()})


def _under(weights: Any, name: str) -> Any:
    """The part of linen's tree with a name; None, for nnx, stays None."""
    if weights is None:
        return None
    if not isinstance(weights, Mapping) or name not in weights:
        got = ", ".join(weights) if isinstance(weights, Mapping) else checks.show(weights)
        raise ValueError(f"variables must have an entry {name!r} for this module, got {got}")
    return weights[name]


def _named(function: Callable[..., Any]) -> str | Callable[..., Any]:
    """Our name of an activation, or the function itself: a spec takes both."""
    return next((name for name, known in named.ACTIVATIONS.items() if known is function), function)


def _merge_mode(merge: Callable[..., Any], flax: Any) -> str | None:
    for mode, functions in {"concat": (flax.Bidirectional.merge_fn,), **merges()}.items():
        if any(merge is function for function in functions):
            return mode
    raise cannot_express("jlstm", "merge_fn", merge, "flax's own, jax.numpy.add or jax.numpy.multiply")


def _require_batch_major(module: Any) -> None:
    if module.time_major:
        raise cannot_express("jlstm", "time_major", True, "False")


# --- to flax -------------------------------------------------------------------------------------------------------


def assembled(spec: Any, params: Any, flax: Any, cell: Callable[[LSTM, LSTMParams], Any], where: str = "") -> Any:
    """The module of a spec, of cells that `cell` makes; `where` is what an error calls the spec."""
    if isinstance(spec, Stack):
        if spec.dropout:
            raise cannot_express(f"{flax.__name__}.Sequential", f"{where}dropout", spec.dropout, "0.0")
        pairs = zip(spec.layers, params, strict=True)
        layers = [assembled(layer, p, flax, cell, f"{where}layers[{n}].") for n, (layer, p) in enumerate(pairs)]
        return flax.Sequential(*layers) if flax.__name__ == "flax.nnx" else flax.Sequential(layers)
    if isinstance(spec, Bidirectional):
        return flax.Bidirectional(
            assembled(spec.forward, params.forward, flax, cell, f"{where}forward."),
            assembled(spec.backward, params.backward, flax, cell, f"{where}backward."),
            **({} if spec.merge_mode == "concat" else {"merge_fn": merges()[spec.merge_mode][0]}),
        )
    expected: dict[str, Any] = {"use_bias": True, "return_sequences": True, "zero_output_for_mask": False}
    require_plain(f"{flax.__name__}.RNN", spec, where, **expected)
    order = {"reverse": spec.go_backwards, "keep_order": spec.go_backwards and spec.keep_order}
    return flax.RNN(cell(spec, params), unroll=spec.unroll or 1, **order)


def _check(spec: Any, params: Any) -> None:
    checks.instance("spec", spec, LSTM, Bidirectional, Stack)
    check_params(spec, params)


def cell_options(spec: LSTM) -> dict[str, Any]:
    def function(activation):
        return named.ACTIVATIONS[activation] if isinstance(activation, str) else activation

    return {
        "gate_fn": function(spec.recurrent_activation),
        "activation_fn": function(spec.activation),
        "dtype": None if spec.dtype is None else jnp.dtype(spec.dtype),
        "param_dtype": jnp.dtype(spec.param_dtype),
    }


def _tree(params: Any) -> dict[str, Any]:
    """linen's tree of weights."""
    if isinstance(params, tuple):
        return {f"layers_{n}": _tree(p) for n, p in enumerate(params)}
    if isinstance(params, Directions):
        return {"forward_rnn": _tree(params.forward), "backward_rnn": _tree(params.backward)}
    kernels, recurrent, bias = (_columns(params, name) for name in ("kernel", "recurrent_kernel", "bias"))
    inputs = {f"i{gate}": {"kernel": kernels[gate]} for gate in FLAX_GATES}
    hidden = {f"h{gate}": {"kernel": recurrent[gate], "bias": bias[gate]} for gate in FLAX_GATES}
    return {"cell": inputs | hidden}


def _columns(params: LSTMParams, weight: str) -> dict[str, jax.Array]:
    """The columns of each gate of a weight."""
    pieces = np.split(reorder(getattr(params, weight), GATES, FLAX_GATES), 4, axis=-1)
    return {gate: jnp.asarray(piece) for gate, piece in zip(FLAX_GATES, pieces, strict=True)}


# --- both ways -----------------------------------------------------------------------------------------------------


def _library(name: str) -> Any:
    try:
        import flax.linen
        import flax.nnx
    except ImportError as error:
        raise ImportError("flax must be installed for this conversion: pip install 'jlstm[flax]'") from error
    return getattr(flax, name)


def _one_of(cell: type | None, flax: Any) -> Any:
    if cell not in (None, flax.LSTMCell, flax.OptimizedLSTMCell):
        raise TypeError(f"cell must be LSTMCell or OptimizedLSTMCell of {flax.__name__}, got {checks.show(cell)}")
    return cell or flax.OptimizedLSTMCell


def _nnx_weights(cell: Any, nnx: Any) -> list[tuple[str | None, Any, str]]:
    """Each variable of an nnx cell: its gate (None: all side by side), itself, and the field of LSTMParams."""
    if isinstance(cell, nnx.OptimizedLSTMCell):
        return [
            (None, cell.dense_i.kernel, "kernel"),
            (None, cell.dense_h.kernel, "recurrent_kernel"),
            (None, cell.dense_h.bias, "bias"),
        ]
    made = []
    for gate in FLAX_GATES:
        inputs = cell.if_ if gate == "f" else getattr(cell, f"i{gate}")  # "if" is a word of Python
        hidden = getattr(cell, f"h{gate}")
        made += [
            (gate, inputs.kernel, "kernel"),
            (gate, hidden.kernel, "recurrent_kernel"),
            (gate, hidden.bias, "bias"),
        ]
    return made


def merges() -> dict[str | None, tuple[Callable[..., Any], ...]]:
    """The functions that are a merge_mode other than "concat", flax's default; the first is what is written."""
    return {
        "sum": (jnp.add, operator.add, jax.lax.add),
        "mul": (jnp.multiply, operator.mul, jax.lax.mul),
        "ave": (_average,),
        None: (_pair,),
    }


def _joined(pieces: Sequence[Any]) -> np.ndarray:
    return np.concatenate([np.asarray(piece) for piece in pieces], axis=-1)


def _average(a: jax.Array, b: jax.Array) -> jax.Array:
    return (a + b) / 2


def _pair(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    return a, b
