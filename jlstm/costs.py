"""What a call costs: operations, bytes, and the backend that would run it."""

from functools import reduce
from typing import Any

from jlstm import words
from jlstm.backends.dispatch import Choice, which_backend
from jlstm.facts import Asked, bytes_of, kept_bytes, outputs_of, remats
from jlstm.types import Directions, wider_dtype


def costs_of(asked: Asked) -> dict[str, int]:
    """Count operations and bytes: of a step of one row, and where T is known of a whole call.

    The call is of the rows that "rows" says: one where B was not said.
    """
    layers = asked.layers
    steps = [layer.operations.products + layer.operations.elementwise for layer in layers]
    costs = {
        "flops_step": sum(steps),
        "activations_step": sum(layer.operations.activations for layer in layers),
        "bytes_weights": bytes_of(asked.spec, asked.input_size),
    }
    T, rows = asked.timesteps, asked.batch_size or 1
    if T is not None:
        back = 2 * sum(layer.operations.products for layer in layers)
        again = sum(step for step, layer in zip(steps, layers, strict=True) if remats(layer, T))
        numbers = [(layer.spec.units + layer.spec.output_size, layer.state_dtype) for layer in layers]
        y = sum(width * dtype.itemsize for width, dtype in outputs_of(asked.spec))
        costs |= {
            "rows": rows,
            "flops_forward": rows * T * sum(steps),
            "flops_training": rows * T * (sum(steps) + back + again),
            "bytes_x": rows * T * asked.input_size * 4,
            "bytes_y": rows * y * (T if asked.spec.return_sequences else 1),
            "bytes_state": rows * sum(size * dtype.itemsize for size, dtype in numbers),
            "bytes_kept": rows * kept_bytes(layers, T),
        }
    return costs


def told(asked: Asked) -> list[str]:
    """Say it in sentences."""
    found, layers, T = costs_of(asked), asked.layers, asked.timesteps
    lines = [
        f"One time step of one row: {found['flops_step']:,} multiplications and additions, "
        f"{found['activations_step']:,} values of activations.",
        f"Weights: {words.in_bytes(found['bytes_weights'])}.",
    ]
    if T is None:
        return [*lines, "With timesteps: operations and memory of a whole call, and the backend that runs it."]
    remat = any(remats(layer, T) for layer in layers)
    steps = "the steps of one chunk of remat_every, and the state before each chunk" if remat else "every step"
    copies = ", copies of x and y apart" if remat else ""
    again = ", and remat_every one more forward pass" if remat else ""
    dtypes = " and ".join(dict.fromkeys(layer.state_dtype.name for layer in layers))
    x, y, state = (words.in_bytes(found[name]) for name in ("bytes_x", "bytes_y", "bytes_state"))
    row = "" if asked.batch_size else " of one row"
    lines += [
        f"Forward{row}: {words.flops(found['flops_forward'])}. Training step{row}: about "
        f"{words.flops(found['flops_training'])}, since the backward pass makes two products for each one{again}.",
        f"A call{row} reads {x} of x, where that is float32, and {state} of state; it returns {y} of y and a state "
        "of that size.",
        f"Training{row} keeps {words.in_bytes(found['bytes_kept'])} until the backward pass (gates, cell and output of "
        f"{steps}, in {dtypes}); the scan of xla about twice as much{copies}. Adam "
        "keeps twice the weights.",
    ]
    if row:
        lines.append("With batch_size: the same of the whole batch, that many times as much, and its backend.")
    return [*lines, *(f"Backend{row}: {text}." for text in backend_of(asked))]


def backend_of(asked: Asked) -> list[str]:
    """Say which backend would run each LSTM, of one row where B was not said, and why; nothing without T."""
    if asked.timesteps is None:
        return []
    layers = asked.layers
    state_dtype = reduce(wider_dtype, [layer.state_dtype for layer in layers])
    try:
        choice = which_backend(
            asked.spec, (asked.batch_size or 1, asked.timesteps, asked.input_size), state_dtype=state_dtype
        )
    except ValueError as error:  # a backend asked for by name that cannot serve the call
        return [f"none: {error}"]
    choices = _flat(choice)
    return [
        f"{f'{layer.path}: ' if layer.path else ''}{_why(layer.spec.backend, made)}"
        for layer, made in zip(layers, choices, strict=True)
    ]


def _why(wanted: str, made: Choice) -> str:
    """The backend and what decided for it."""
    if made.backend != "cpu":
        return str(made)
    if wanted == "cpu":
        return 'cpu, the fused kernel: the layer has backend="cpu", and the kernel has all that it asks for'
    return (
        "cpu, the fused kernel: it has all that the layer asks for, the default device is a CPU, and these are no "
        "sizes at which xla is known to be faster"
    )


def _flat(choice: Any) -> list[Any]:
    if isinstance(choice, Directions):
        return [choice.forward, choice.backward]
    return [c for part in choice for c in _flat(part)] if isinstance(choice, tuple) else [choice]
