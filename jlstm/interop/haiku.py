"""The params of haiku's LSTM to a spec. Its state is LSTMState(hidden, cell): our h and c."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jlstm import checks
from jlstm.interop.layout import reorder
from jlstm.layers import LSTM
from jlstm.types import GATES, LSTMParams

HAIKU_GATES = ("i", "g", "f", "o")  # along the columns of w and b


def from_haiku(params: Mapping[str, Any]) -> tuple[LSTM, LSTMParams]:
    """Read the params of an hk.LSTM.

    Its forward pass adds 1 to the forget gate; here that is part of the bias.

    Args:
        params: {"w": [D + N, 4N], "b": [4N]}, or {name: that} as the init of a transformed function returns it.

    Returns:
        LSTM with return_sequences=True, and its params.

    Raises:
        TypeError, ValueError: a mapping that does not hold the params of one LSTM, or holds them in float64 while
            jax_enable_x64 is off.

    Example:
        >>> import numpy as np
        >>> spec, params = from_haiku({"lstm/linear": {"w": np.zeros((5, 8), "float32"), "b": np.zeros(8, "float32")}})
        >>> spec.units, params.kernel.shape, params.bias
        (2, (3, 8), Array([0., 0., 1., 1., 0., 0., 0., 0.], dtype=float32))
    """
    if not isinstance(params, Mapping):
        raise TypeError(f"params must be a mapping with w and b of an hk.LSTM, got {checks.show(params)}")
    if "w" not in params and len(params) == 1 and isinstance(inner := next(iter(params.values())), Mapping):
        params = inner
    if set(params) != {"w", "b"}:
        raise ValueError(f"params must have w and b of one hk.LSTM, got {', '.join(params)}")
    w = np.asarray(checks.array("w", params["w"], "floating", ("D + N", "4N")))
    b = np.asarray(checks.array("b", params["b"], "floating", w.shape[1:]))
    for name in ("w", "b"):
        checks.enabled_dtype(f"the dtype of {name}", params[name].dtype.name)
    N = w.shape[1] // 4
    if w.shape[1] % 4 or w.shape[0] <= N:
        raise ValueError(f"w must have shape [D + N, 4N], got {list(w.shape)}")
    b = reorder(b, HAIKU_GATES, GATES)
    forget = np.repeat([gate == "f" for gate in GATES], N)
    w = reorder(w, HAIKU_GATES, GATES)
    spec = LSTM(N, param_dtype=w.dtype, return_sequences=True, keep_order=True)
    made = LSTMParams(jnp.asarray(w[:-N]), jnp.asarray(w[-N:]), jnp.asarray(b + forget.astype(b.dtype)))
    return spec, made
