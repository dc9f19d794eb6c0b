"""The arrays of an LSTM as pytrees, and the conventions, written down once.

Axes: B batch, T time, D input width, N units, P projected width (P = N without a projection).
Gate order along the 4N axis, everywhere in this library: i, f, g, o (input, forget, candidate, output). This is
Keras's order; Keras calls the candidate c.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

GATES = ("i", "f", "g", "o")  #: the order of the four slices along 4N
PEEPHOLES = ("i", "f", "o")  # the order of the rows of LSTMParams.peephole


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LSTMParams:
    """The weights of one LSTM layer. Reach them by name: other libraries order them differently.

    Example:
        >>> import jax, jlstm
        >>> params = jlstm.LSTM(5).init(jax.random.key(0), input_size=3)
        >>> jax.tree.map(lambda a: a.shape, params)
        LSTMParams(kernel=(3, 20), recurrent_kernel=(5, 20), bias=(20,), peephole=None, projection=None)
    """

    kernel: Any  #:                 [D, 4N]
    recurrent_kernel: Any  #:       [N, 4N], or [P, 4N] with a projection
    bias: Any = None  #:               [4N], or None
    peephole: Any = None  #:        [3, N], rows i, f, o; with Variant(peephole=True) only
    projection: Any = None  #:      [N, P]; with Variant(projection=P) only


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LSTMState:
    """The state that an LSTM carries from one time step to the next.

    Example:
        >>> import jax, jlstm
        >>> state = jlstm.LSTM(5).initial_state(batch_size=2)
        >>> jax.tree.map(lambda a: a.shape, state)
        LSTMState(h=(2, 5), c=(2, 5))
    """

    h: Any  #: [..., N], or [..., P] with a projection; the output of the last step
    c: Any  #: [..., N], the cell


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Directions:
    """What belongs to the two directions of a Bidirectional layer: its params, or its state."""

    forward: Any
    backward: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DropoutMasks:
    """Dropout masks of one example, drawn once and shared by all time steps; zeros and 1 / (1 - rate).

    A mask of one row per gate (order i, f, g, o) multiplies what that gate reads.
    """

    input: Any = None  #:     [D] for all gates or [4, D], one row a gate; None means no dropout
    recurrent: Any = None  #: [4, N] (or [4, P]), one row a gate; None means no dropout


def wider_dtype(a: Any, b: Any) -> jnp.dtype:
    """The real floating dtype that holds both: jnp.promote_types, which refuses to answer under strict promotion.

    Example:
        >>> wider_dtype("bfloat16", "float16")
        dtype('float32')
    """
    a, b = jnp.dtype(a), jnp.dtype(b)
    return a if a == b else max(a, b, jnp.dtype("float32"), key=lambda dtype: dtype.itemsize)
