"""jlstm: the LSTM layer as pure functions in JAX, with the arguments and the numbers of keras.layers.LSTM."""

from jlstm import export
from jlstm.backends.dispatch import which_backend
from jlstm.cell import lstm_cell
from jlstm.compose import Bidirectional, Stack, from_dict
from jlstm.describe import explain
from jlstm.files import load, save
from jlstm.initializers import (
    Chrono,
    Constant,
    Identity,
    Ones,
    Orthogonal,
    RandomNormal,
    RandomUniform,
    TorchUniform,
    TruncatedNormal,
    VarianceScaling,
    Zeros,
)
from jlstm.inspection import LSTMTrace, inspect
from jlstm.layers import LSTM
from jlstm.named import (
    ELU,
    L1,
    L1L2,
    L2,
    Affine,
    HardSigmoid,
    LeakyReLU,
    MaxNorm,
    MinMaxNorm,
    NonNeg,
    OrthogonalRegularizer,
    ScaledTanh,
    ThresholdedReLU,
    UnitNorm,
)
from jlstm.plots import plot_gates
from jlstm.scan import lstm_scan
from jlstm.types import GATES, Directions, DropoutMasks, LSTMParams, LSTMState
from jlstm.variant import Variant

__version__ = "0.1.0"

__all__ = [
    "ELU",
    "GATES",
    "L1",
    "L1L2",
    "L2",
    "LSTM",
    "Affine",
    "Bidirectional",
    "Chrono",
    "Constant",
    "Directions",
    "DropoutMasks",
    "HardSigmoid",
    "Identity",
    "LSTMParams",
    "LSTMState",
    "LSTMTrace",
    "LeakyReLU",
    "MaxNorm",
    "MinMaxNorm",
    "NonNeg",
    "Ones",
    "Orthogonal",
    "OrthogonalRegularizer",
    "RandomNormal",
    "RandomUniform",
    "ScaledTanh",
    "Stack",
    "ThresholdedReLU",
    "TorchUniform",
    "TruncatedNormal",
    "UnitNorm",
    "VarianceScaling",
    "Variant",
    "Zeros",
    "explain",
    "export",
    "from_dict",
    "inspect",
    "load",
    "lstm_cell",
    "lstm_scan",
    "plot_gates",
    "save",
    "which_backend",
]
