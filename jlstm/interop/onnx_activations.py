"""Activations by ONNX's names, with the alphas and betas that go with them, and by jlstm's: both ways."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jlstm import named
from jlstm.interop.layout import cannot_express

DEFAULT = ("Sigmoid", "Tanh", "Tanh")  # f of the gates i, f, o; g of the candidate; h of the cell

_PLAIN = {"Tanh": "tanh", "Sigmoid": "sigmoid", "Relu": "relu", "Softsign": "softsign", "Softplus": "softplus"}

# Those with parameters (alpha, or alpha and beta), and the default of each. None: without a value from the model,
# runtimes disagree. onnxruntime takes 0 for these, which makes Affine and ScaledTanh constant; the operators after
# which ONNX names its defaults take 1, or are no longer in the standard.
_WITH_PARAMETERS: dict[str, tuple[Any, tuple[float | None, ...]]] = {
    "HardSigmoid": (named.HardSigmoid, (0.2, 0.5)),
    "Elu": (named.ELU, (1.0,)),
    "LeakyRelu": (named.LeakyReLU, (0.01,)),
    "ThresholdedRelu": (named.ThresholdedReLU, (None,)),
    "Affine": (named.Affine, (None, None)),
    "ScaledTanh": (named.ScaledTanh, (None, None)),
}

# Names of jlstm that mean one of these with certain parameters.
_SHORT = {
    "linear": named.Affine(1.0, 0.0),
    "hard_sigmoid": named.HardSigmoid(1 / 6, 0.5),
    "hard_sigmoid_keras2": named.HardSigmoid(0.2, 0.5),
    "elu": named.ELU(1.0),
    "leaky_relu": named.LeakyReLU(0.2),
}


def read(label: str, names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> list[named.Activation]:
    """Turn the attributes activations, activation_alpha and activation_beta into jlstm's activations.

    Alphas and betas are consumed in the order of the functions, by those that have such a parameter and by no
    others; where they run out, defaults apply. That is what onnxruntime does; ONNX says "in the order of activation
    functions". A list that is too long for it was written with one value for each function, and raises.

    Args:
        label: what an error calls the node.
        names: ONNX's names, case ignored as onnxruntime does.
    """
    known = {name.lower(): name for name in (*_PLAIN, *_WITH_PARAMETERS)}
    for name in names:
        if name.lower() not in known:
            raise ValueError(f"activations of {label} must be among {', '.join(known.values())}, got {name!r}")
    names = [known[name.lower()] for name in names]
    left = {"activation_alpha": list(alphas), "activation_beta": list(betas)}
    for position, (attribute, values) in enumerate(left.items()):
        takers = sum(len(_WITH_PARAMETERS.get(name, (None, ()))[1]) > position for name in names)
        if takers and len(values) > takers:
            raise ValueError(
                f"{attribute} of {label} must have at most one value for each activation that takes one, "
                f"{takers} for {', '.join(names)}, got {len(values)}"
            )
    return [_read_one(label, name, left) for name in names]


def write(option: str, activation: named.Activation) -> tuple[str, tuple[float, ...]]:
    """Turn one activation of jlstm into ONNX's name and its parameters.

    Raises:
        ValueError: ONNX's LSTM does not have it; `option` is what the error calls the field.
    """
    for onnx_name, name in _PLAIN.items():
        if activation == name:
            return onnx_name, ()
    value: Any = _SHORT.get(activation, activation) if isinstance(activation, str) else activation
    for onnx_name, (cls, _) in _WITH_PARAMETERS.items():
        if isinstance(value, cls):
            return onnx_name, dataclasses.astuple(value)
    allowed = ", ".join((*_PLAIN.values(), *_SHORT, *(cls.__name__ for cls, _ in _WITH_PARAMETERS.values())))
    raise cannot_express("an ONNX LSTM", option, activation, f"one of {allowed}")


def shortest(value: Any) -> float:
    """The shortest decimal number that is this float32: attributes are float32, and 0.2 should come back as 0.2."""
    return float(str(np.float32(value)))


def _read_one(label: str, name: str, left: dict[str, list[float]]) -> named.Activation:
    if name in _PLAIN:
        return _PLAIN[name]
    cls, defaults = _WITH_PARAMETERS[name]
    parameters = []
    for (attribute, values), default in zip(left.items(), defaults, strict=False):
        if values:
            parameters.append(shortest(values.pop(0)))
        elif default is None:
            raise ValueError(f"{attribute} of {label} must have a value for {name} (defaults differ), got none")
        else:
            parameters.append(default)
    value = cls(*parameters)
    for short, meaning in _SHORT.items():
        if type(meaning) is cls and tuple(map(shortest, dataclasses.astuple(meaning))) == tuple(parameters):
            return short
    return value
