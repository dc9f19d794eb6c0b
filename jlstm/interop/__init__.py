"""Weights and configuration of LSTMs, from other libraries and back.

`from_x(obj)` returns (spec, params) and `to_x(spec, params)` the other library's object. There is a module for each
library; none imports it before a function of it is called.
"""

from jlstm.interop.keras import from_keras, to_keras
from jlstm.interop.onnx import from_onnx
from jlstm.interop.onnx_export import to_onnx
from jlstm.interop.torch import from_torch, to_torch, to_torch_cell, to_torch_state_dict

__all__ = [
    "from_keras",
    "from_onnx",
    "from_torch",
    "to_keras",
    "to_onnx",
    "to_torch",
    "to_torch_cell",
    "to_torch_state_dict",
]
