"""Weights and configuration of LSTMs, from other libraries and back.

`from_x(obj) -> (spec, params)` and `to_x(spec, params) -> obj`.

A module each; none imports its library before a function of it is called.
"""

from jlstm.interop.keras import from_keras, to_keras
from jlstm.interop.torch import from_torch, to_torch, to_torch_cell, to_torch_state_dict

__all__ = [
    "from_keras",
    "from_torch",
    "to_keras",
    "to_torch",
    "to_torch_cell",
    "to_torch_state_dict",
]
