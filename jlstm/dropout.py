"""Dropout masks, drawn once for a whole sequence, outside of the loop over time."""

from typing import Any

import jax
import jax.numpy as jnp

from jlstm.types import DropoutMasks


def dropout_mask(key: jax.Array, rate: float, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Draw zeros with probability `rate`, and 1 / (1 - rate) elsewhere.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> sorted(set(dropout_mask(jax.random.key(0), 0.5, (100,), jnp.float32).tolist()))
        [0.0, 2.0]
    """
    keep = jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(keep, 1 / (1 - rate), 0).astype(dtype)


def lstm_dropout_masks(key: jax.Array, layer: Any, batch: int, D: int, dtype: Any) -> DropoutMasks:
    """Draw the masks of one call of an LSTM layer, as Keras counts them.

    implementation=2 draws one input mask [B, D] for all gates, implementation=1 four [B, 4, D]. recurrent_dropout
    draws four [B, 4, N] and, as in Keras, four input masks with them.
    """
    input_key, recurrent_key = jax.random.split(key)
    input_mask = recurrent_mask = None
    if layer.dropout:
        per_gate = layer.implementation == 1 or layer.recurrent_dropout > 0
        input_mask = dropout_mask(input_key, layer.dropout, (batch, 4, D) if per_gate else (batch, D), dtype)
    if layer.recurrent_dropout:
        recurrent_mask = dropout_mask(recurrent_key, layer.recurrent_dropout, (batch, 4, layer.output_size), dtype)
    return DropoutMasks(input_mask, recurrent_mask)
