"""Weights and configuration of LSTMs, from other libraries and back: `from_x(obj) -> (spec, params)`, `to_x(spec, params)`.

A module each; none imports its library before a function of it is called.
"""

from jlstm.interop.cudnn import from_cudnn, to_cudnn
from jlstm.interop.equinox import from_equinox, to_equinox
from jlstm.interop.flax import from_linen, from_nnx, to_linen, to_nnx
from jlstm.interop.haiku import from_haiku

__all__ = [
    "from_cudnn",
    "from_equinox",
    "from_haiku",
    "from_linen",
    "from_nnx",
    "to_cudnn",
    "to_equinox",
    "to_linen",
    "to_nnx",
]
