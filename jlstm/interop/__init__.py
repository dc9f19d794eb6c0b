"""Weights and configuration of LSTMs, from other libraries and back: `from_x(obj) -> (spec, params)`, `to_x(spec, params)`.

A module each; none imports its library before a function of it is called.
"""

from jlstm.interop.onnx import from_onnx
from jlstm.interop.onnx_export import to_onnx

__all__ = ["from_onnx", "to_onnx"]
