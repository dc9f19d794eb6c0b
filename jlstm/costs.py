"""What a call costs: operations, bytes, and the backend that would run it."""

from functools import reduce
from typing import Any

from jlstm import words
from jlstm.backends.dispatch import which_backend
from jlstm.facts import Asked, bytes_of, kept_bytes
from jlstm.types import Directions, wider_dtype


def costs_of(asked: Asked) -> dict[str, int]:
    """Count operations and bytes: of a step of one row, and where T and B are known of a whole call."""
    layers = asked.layers
    products = sum(layer.operations.products for layer in layers)
    step = products + sum(layer.operations.elementwise for layer in layers)
    costs = {
        "flops_step": step,
        "activations_step": sum(layer.operations.activations for layer in layers),
        "bytes_weights": bytes_of(asked.spec, asked.input_size),
    }
    if asked.timesteps is not None and asked.batch_size is not None:
        steps = asked.timesteps * asked.batch_size
        costs["flops_forward"] = step * steps
        costs["flops_training"] = (step + 2 * products) * steps
        costs["bytes_kept"] = asked.batch_size * kept_bytes(layers, asked.timesteps)
    return costs


def told(asked: Asked) -> list[str]:
    """Say it in sentences."""
    found, layers = costs_of(asked), asked.layers
    remat = any((layer.spec.remat_every or asked.timesteps or 1) < (asked.timesteps or 1) for layer in layers)
    steps = "the steps of one chunk of remat_every, and the state before each chunk" if remat else "every step"
    copies = ", copies of x and y apart" if remat else ""
    dtypes = " and ".join(dict.fromkeys(layer.state_dtype.name for layer in layers))
    lines = [
        f"One time step of one row: {found['flops_step']:,} multiplications and additions, "
        f"{found['activations_step']:,} values of activations.",
        f"Weights: {words.in_bytes(found['bytes_weights'])}.",
    ]
    if "flops_forward" in found:
        lines += [
            f"Forward: {words.flops(found['flops_forward'])}. Training step: about "
            f"{words.flops(found['flops_training'])}, since the backward pass makes two products for each one.",
            f"Training keeps {words.in_bytes(found['bytes_kept'])} until the backward pass (gates, cell and output of "
            f"{steps}, in {dtypes}); the scan of xla about twice as much{copies}. Adam "
            "keeps twice the weights.",
        ]
    else:
        lines.append(
            "With timesteps and batch_size: operations and memory of a whole call, and the backend that runs it."
        )
    return [*lines, *(f"Backend: {text}" for text in backend_of(asked))]


def backend_of(asked: Asked) -> list[str]:
    """Say which backend would run each LSTM; nothing where T or B was not said."""
    if asked.timesteps is None or asked.batch_size is None:
        return []
    layers = asked.layers
    state_dtype = reduce(wider_dtype, [layer.state_dtype for layer in layers])
    try:
        choice = which_backend(
            asked.spec, (asked.batch_size, asked.timesteps, asked.input_size), state_dtype=state_dtype
        )
    except ValueError as error:  # a backend asked for by name that cannot serve the call
        return [f"none: {error}"]
    choices = _flat(choice)
    return [f"{f'{layer.path}: ' if layer.path else ''}{made}" for layer, made in zip(layers, choices, strict=True)]


def _flat(choice: Any) -> list[Any]:
    if isinstance(choice, Directions):
        return [choice.forward, choice.backward]
    return [c for part in choice for c in _flat(part)] if isinstance(choice, tuple) else [choice]
