"""What all converters share: gates put into another order, and the error for what a target cannot express."""

from collections.abc import Sequence
from typing import Any

import numpy as np


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
    return ValueError(f"{option} must be {expected} for {target}, got {value!r}")
