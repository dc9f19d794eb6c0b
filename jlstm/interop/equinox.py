"""equinox's LSTMCell to a spec and back. Its state is the pair (h, c)."""

from typing import Any

import jax.numpy as jnp

from jlstm import checks
from jlstm.interop.layout import reorder
from jlstm.interop.plain import require_plain
from jlstm.layers import LSTM
from jlstm.paths import check_params
from jlstm.types import GATES, LSTMParams

EQUINOX_GATES = ("i", "f", "g", "o")  # down the rows of weight_ih and weight_hh


def from_equinox(cell: Any) -> tuple[LSTM, LSTMParams]:
    """Read an equinox.nn.LSTMCell.

    Returns:
        LSTM with return_sequences=True, and its params. A state (h, c) of one example is a row of LSTMState(h=h, c=c).

    Raises:
        TypeError: another kind of object.
        ValueError: weights of other shapes, or of float64 while jax_enable_x64 is off.

    Example:
        >>> from types import SimpleNamespace
        >>> import numpy as np
        >>> weight_ih, weight_hh = np.zeros((20, 3), "float32"), np.zeros((20, 5), "float32")
        >>> cell = SimpleNamespace(weight_ih=weight_ih, weight_hh=weight_hh, bias=None)
        >>> spec, params = from_equinox(cell)
        >>> spec.units, spec.use_bias, params.kernel.shape
        (5, False, (3, 20))
    """
    if not all(hasattr(cell, name) for name in ("weight_ih", "weight_hh", "bias")):
        raise TypeError(f"cell must be an equinox.nn.LSTMCell, got {checks.show(cell)}")
    N = checks.array("cell.weight_hh", cell.weight_hh, "floating", ("4N", "N")).shape[1]
    shapes = {"weight_ih": (4 * N, "D"), "weight_hh": (4 * N, N)} | ({} if cell.bias is None else {"bias": (4 * N,)})
    arrays = []
    for name, shape in shapes.items():
        arrays.append(checks.array(f"cell.{name}", getattr(cell, name), "floating", shape))
        checks.enabled_dtype(f"the dtype of cell.{name}", getattr(cell, name).dtype.name)
    params = LSTMParams(*(jnp.asarray(reorder(a, EQUINOX_GATES, GATES, axis=0).T) for a in arrays))
    options = {"use_bias": cell.bias is not None, "param_dtype": params.kernel.dtype}
    return LSTM(N, return_sequences=True, keep_order=True, **options), params


def to_equinox(spec: LSTM, params: LSTMParams) -> Any:
    """Make an equinox.nn.LSTMCell. It is one step: return_sequences and the like belong to the loop around it.

    Raises:
        ImportError: equinox is missing.
        TypeError, ValueError: params of another spec, or an option that the cell does not have, by name.
    """
    try:
        import equinox
    except ImportError as error:
        raise ImportError("equinox must be installed to make its cell: pip install equinox") from error
    import jax

    checks.instance("spec", spec, LSTM)
    expected = {"activation": "tanh", "recurrent_activation": "sigmoid", "go_backwards": False, "dtype": None}
    require_plain("equinox.nn.LSTMCell", spec, **expected)
    check_params(spec, params)

    def theirs(a):
        return jnp.asarray(reorder(a, GATES, EQUINOX_GATES).T)

    D = params.kernel.shape[0]
    cell = equinox.nn.LSTMCell(D, spec.units, spec.use_bias, params.kernel.dtype, key=jax.random.key(0))
    weights = [theirs(params.kernel), theirs(params.recurrent_kernel)]
    cell = equinox.tree_at(lambda c: [c.weight_ih, c.weight_hh], cell, weights)
    return cell if params.bias is None else equinox.tree_at(lambda c: c.bias, cell, theirs(params.bias))
