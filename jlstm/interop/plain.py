"""Targets that have the plain cell alone: every option of a spec that they lack is an error that names it."""

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from jlstm.interop.layout import cannot_express
from jlstm.layers import LSTM

# Options that change what is trained, and that no cell of torch, flax, equinox or cuDNN has.
_TRAINING = (
    "dropout",
    "recurrent_dropout",
    "kernel_regularizer",
    "recurrent_regularizer",
    "bias_regularizer",
    "activity_regularizer",
    "kernel_constraint",
    "recurrent_constraint",
    "bias_constraint",
)


def require_plain(target: str, spec: LSTM, where: str = "", variant: Collection[str] = (), **expected: Any) -> None:
    """Require a spec without a variant, dropout, regularizers and constraints.

    Args:
        target: what is to be made, such as "equinox.nn.LSTMCell".
        spec: the layer.
        where: what comes before its options in a message, such as "layers[0].".
        variant: the options of a variant that the target has.
        expected: further options by name, each with what it must be.

    Raises:
        ValueError: an option of another value, named.

    Example:
        >>> import jlstm
        >>> require_plain("equinox.nn.LSTMCell", jlstm.LSTM(4, dropout=0.5))
        Traceback (most recent call last):
            ...
        ValueError: dropout must be 0.0 for equinox.nn.LSTMCell, got 0.5
    """
    for option, value in (expected | {name: getattr(LSTM, name) for name in _TRAINING}).items():
        if getattr(spec, option) != value:
            raise cannot_express(target, f"{where}{option}", getattr(spec, option), repr(value))
    require_plain_cell(target, spec, where, variant)


def require_plain_cell(target: str, spec: LSTM, where: str = "", variant: Collection[str] = ()) -> None:
    """Require a spec without a variant, but for the options of one that the target has."""
    for field in fields(spec.variant):
        value = getattr(spec.variant, field.name)
        if field.name in variant or value == field.default:
            continue
        if field.name != "output_activation" or value != spec.activation:  # the same function is no variant
            raise cannot_express(target, f"{where}variant.{field.name}", value, repr(field.default))
