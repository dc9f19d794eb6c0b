"""Weights and configuration of LSTMs, from other libraries and back.

`from_x(obj)` returns (spec, params) and `to_x(spec, params)` the other library's object. There is a module for each
library; none imports it before a function of it is called.
"""

from jlstm.interop.cudnn import from_cudnn, to_cudnn
from jlstm.interop.equinox import from_equinox, to_equinox
from jlstm.interop.flax import from_linen, from_nnx, to_linen, to_nnx
from jlstm.interop.haiku import from_haiku
from jlstm.interop.keras import from_keras, to_keras
from jlstm.interop.onnx import from_onnx
from jlstm.interop.onnx_export import to_onnx
from jlstm.interop.torch import from_torch, to_torch, to_torch_cell, to_torch_state_dict

__all__ = [
    "from_cudnn",
    "from_equinox",
    "from_haiku",
    "from_keras",
    "from_linen",
    "from_nnx",
    "from_onnx",
    "from_torch",
    "to_cudnn",
    "to_equinox",
    "to_keras",
    "to_linen",
    "to_nnx",
    "to_onnx",
    "to_torch",
    "to_torch_cell",
    "to_torch_state_dict",
]
