"""What converters share: the kinds of specs, gates in another order, and the error for what a target lacks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jlstm import checks
from jlstm.compose import Bidirectional, Stack
from jlstm.layers import LSTM

Spec = LSTM | Bidirectional | Stack


def reorder(a: Any, source: Sequence[str], target: Sequence[str], axis: int = -1) -> np.ndarray:
    """Put the equal slices of an axis, one a gate, into another order.

    Args:
        a: an array whose axis holds the gates of `source` side by side.
        source: the gates in a's order, such as "ifgo" or jlstm.GATES.
        target: the same gates in the order that is wanted.

    Example:
        >>> reorder([[1, 2, 3, 4]], "ifgo", "iofg")
        array([[1, 4, 2, 3]])
    """
    slices = dict(zip(source, np.split(np.asarray(a), len(source), axis), strict=True))
    return np.concatenate([slices[gate] for gate in target], axis)


def cannot_express(target: str, option: str, value: Any, expected: str) -> ValueError:
    """Make the error for a spec with an option that the target library does not have.

    Args:
        target: what was to be made, such as "torch.nn.LSTM".
        option: the field of the spec.
        value: what it holds.
        expected: what it must be for this target.
    """
    return ValueError(f"{option} must be {expected} for {target}, got {checks.written(value)}")


def layers_and_params(spec: Stack, params: Any) -> list[tuple[Any, Any]]:
    """Pair the layers of a Stack with their params.

    Raises:
        TypeError: params are no tuple of as many entries.
    """
    if not isinstance(params, tuple) or len(params) != len(spec.layers):
        raise TypeError(f"params must be a tuple of {len(spec.layers)}, one entry a layer, got {checks.show(params)}")
    return list(zip(spec.layers, params, strict=True))
