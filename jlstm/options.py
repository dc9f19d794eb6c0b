"""What each option of a spec that is not at its default does, in a line each."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from jlstm import checks, initializers, named, words
from jlstm.compose import Bidirectional, Stack
from jlstm.facts import Asked, Layer
from jlstm.layers import LSTM
from jlstm.variant import Variant


@dataclasses.dataclass(frozen=True)
class Option:
    """An option that is set: where, as Python writes it, and what it does. paths: of all LSTMs it is set in alike."""

    paths: tuple[str, ...]
    text: str
    does: str


def options_of(asked: Asked) -> list[Option]:
    """Go through the options that are not at their defaults: of stacks, of both directions, of every LSTM.

    Initializers are not among them: jlstm.starts tells them all.

    Example:
        >>> import jlstm
        >>> for option in options_of(Asked(jlstm.LSTM(3, recurrent_constraint="non_neg"), 2)):
        ...     print(f"{option.text}: {option.does}")
        recurrent_constraint='non_neg': layer.constrain(params) sets what is negative in recurrent_kernel to 0.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for path, text, does in _containers(asked.spec, ""):
        found.setdefault((text, does), []).append(path)
    for layer in asked.layers:
        for field in dataclasses.fields(LSTM)[1:]:
            value = getattr(layer.spec, field.name)
            if value == field.default or field.name.endswith("_initializer") or field.name == "variant":
                continue
            does = _does(field.name, layer, asked)
            found.setdefault((f"{field.name}={checks.written(value)}", does), []).append(layer.path)
        for field in dataclasses.fields(Variant):
            value = getattr(layer.spec.variant, field.name)
            if value != field.default:
                does = _VARIANT[field.name](layer)
                found.setdefault((f"variant.{field.name}={checks.written(value)}", does), []).append(layer.path)
    return [Option(tuple(paths), text, does) for (text, does), paths in found.items()]


def left_alone(asked: Asked) -> str:
    """Say what the defaults mean where nothing was set."""
    specs = [layer.spec for layer in asked.layers]
    dropped = any(s.dropout or s.recurrent_dropout for s in specs) or any(
        text.startswith("dropout") for _, text, _ in _containers(asked.spec, "")
    )

    def unset(kind: str) -> bool:
        return all(getattr(s, f.name) is None for s in specs for f in dataclasses.fields(LSTM) if kind in f.name)

    parts = [] if dropped else ["no dropout"]
    parts += ["no regularizer"] if unset("_regularizer") else []
    parts += ["no constraint"] if unset("_constraint") else []
    if all(s.dtype is None for s in specs):
        parts.append("the dtype of x for the computation and for y")
    if all(s.param_dtype == "float32" for s in specs):
        parts.append("weights in float32")
    return f"Not set, and so by default: {words.listed(parts)}." if parts else ""


# --- what options do -----------------------------------------------------------------------------------------------


def _containers(spec: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """The options of stacks and of both directions: path, option, what it does."""
    dot = f"{path}." if path else ""
    if isinstance(spec, Stack):
        if spec.dropout:
            yield (
                path,
                f"dropout={spec.dropout}",
                f"between the layers: {_dropped('each number that a layer hands to the one above it', spec.dropout)}, "
                "drawn anew for every time step.",
            )
        for n, layer in enumerate(spec.layers):
            yield from _containers(layer, f"{dot}layers[{n}]")
    elif isinstance(spec, Bidirectional) and spec.merge_mode != "concat":
        merged = {
            "sum": "are added",
            "mul": "are multiplied, number by number",
            "ave": "are averaged",
            None: "come back as a pair",
        }[spec.merge_mode]
        yield path, f"merge_mode={spec.merge_mode!r}", f"the outputs of the two directions {merged}."


def _dropped(what: str, rate: float) -> str:
    return f"with key= given, {what} is 0 with probability {rate:g} and multiplied by {1 / (1 - rate):.4g} otherwise"


def _does(option: str, layer: Layer, asked: Asked) -> str:
    """What an option of an LSTM that is not at its default does, in one line."""
    if option.endswith(("_regularizer", "_constraint")):
        return _of_weights(option, layer)
    return _LSTM[option](layer, asked)


def _of_weights(option: str, layer: Layer) -> str:
    part, _, kind = option.rpartition("_")
    weight = {"recurrent": "recurrent_kernel"}.get(part, part)
    value = getattr(layer.spec, option)
    if part == "bias" and not layer.spec.use_bias:
        return "nothing: there is no bias."
    if kind == "constraint":
        told = _constrained(named.CONSTRAINTS[value] if isinstance(value, str) else value, weight)
        return f"layer.constrain(params) {told}."
    told = _penalty(named.REGULARIZERS[value] if isinstance(value, str) else value)
    if part == "activity":
        return f"layer.activity_penalty(y) is {told}, w the outputs y, divided by the batch size; add it to the loss."
    return f"layer.penalty(params) has {told} in it, w the {weight}; add it to the loss."


def _penalty(value: Any) -> str:
    if isinstance(value, named.L1):
        return f"{value.l1:g}·Σ|w|"
    if isinstance(value, named.L2):
        return f"{value.l2:g}·Σw²"
    if isinstance(value, named.L1L2):
        return f"{value.l1:g}·Σ|w| + {value.l2:g}·Σw²"
    if isinstance(value, named.OrthogonalRegularizer):
        return f"{value.factor:g} times the mean |cosine| between two {value.mode} of w"
    return f"{words.function(value)} of w"


def _constrained(value: Any, weight: str) -> str:
    if isinstance(value, named.NonNeg):
        return f"sets what is negative in {weight} to 0"
    if isinstance(value, (named.MaxNorm, named.UnitNorm, named.MinMaxNorm)):
        axes = {axis % 2 for axis in (value.axis if isinstance(value.axis, tuple) else (value.axis,))}
        whole = weight == "bias" or len(axes) == 2
        part = f"{weight} as a whole" if whole else f"each {'row' if 1 in axes else 'column'} of {weight}"
        if isinstance(value, named.MaxNorm):
            return f"scales {part} down to norm {value.max_value:g} where it is above"
        if isinstance(value, named.UnitNorm):
            return f"scales {part} to norm 1"
        way = "" if value.rate == 1 else f", {value.rate:g} of the way"
        return f"scales {part} to a norm between {value.min_value:g} and {value.max_value:g}{way}"
    return f"puts {words.function(value)} of {weight} in its place"


def _both(layer: Layer) -> bool:
    """Whether it is one direction of a Bidirectional."""
    return layer.path.endswith(("forward", "backward"))


def _activation(layer: Layer, asked: Asked) -> str:
    where = "of the candidate" + ("" if layer.spec.variant.output_activation else " and of the cell")
    return f"φ {where}, in place of tanh{_formula(layer.spec.activation)}."


def _recurrent_activation(layer: Layer, asked: Asked) -> str:
    return f"σ of the gates, in place of the sigmoid{_formula(layer.spec.recurrent_activation)}."


def _formula(value: Any) -> str:
    """The two that a name alone does not tell apart."""
    if value == "hard_sigmoid":
        return ": clip(x/6 + 0.5, 0, 1)"
    if value == "hard_sigmoid_keras2":
        return ": clip(0.2 x + 0.5, 0, 1), the default of Keras in 2017"
    return ""


def _unit_forget_bias(layer: Layer, asked: Asked) -> str:
    if not layer.spec.use_bias:
        return "nothing: there is no bias."
    if isinstance(layer.spec.bias_initializer, initializers.Chrono):
        return "nothing: Chrono sets the slice of the forget gate itself."
    return "the bias of the forget gate starts as those of the others do, not from 1."


def _dropout(layer: Layer, asked: Asked) -> str:
    four = layer.spec.implementation == 1 or layer.spec.recurrent_dropout
    told = _dropped(f"each of the {words.count(layer.input_size, 'number')} that a step reads of its input",
                    layer.spec.dropout)  # fmt: skip
    return f"{told}: one draw for all time steps, {'and one for each gate' if four else 'the same for all gates'}."


def _recurrent_dropout(layer: Layer, asked: Asked) -> str:
    told = _dropped(f"each of the {words.count(layer.spec.output_size, 'number')} of h, where the gates read it,",
                    layer.spec.recurrent_dropout)  # fmt: skip
    return f"{told}: one draw for all time steps, and one for each gate. The state itself loses nothing."


def _implementation(layer: Layer, asked: Asked) -> str:
    if not layer.spec.dropout:
        return "nothing without dropout: it says how the mask for x is drawn."
    if layer.spec.recurrent_dropout:
        return "nothing more: with recurrent_dropout each gate has its own mask for x in any case."
    return "each gate has its own dropout mask for x."


def _return_sequences(layer: Layer, asked: Asked) -> str:
    return "h of every time step goes out, not that of the last one read alone."


def _go_backwards(layer: Layer, asked: Asked) -> str:
    if not layer.spec.return_sequences:
        return "the input is read from its end."
    if _both(layer):
        return "the input is read from its end; its outputs are turned round before they are merged."
    order = "in the order of the input" if layer.spec.keep_order else "in that order, the last time step first"
    return f"the input is read from its end, and the outputs come {order}."


def _keep_order(layer: Layer, asked: Asked) -> str:
    if not layer.spec.go_backwards:
        return "nothing without go_backwards."
    if not layer.spec.return_sequences:
        return "nothing: one output alone has no order."
    if _both(layer):
        return "nothing more: a Bidirectional keeps the order in any case."
    return "the outputs come in the order of the input, though it is read from its end."


def _unroll(layer: Layer, asked: Asked) -> str:
    unroll = layer.spec.unroll
    steps = "all time steps are" if unroll is True else f"{unroll} time steps at a time are"
    return f"where xla runs the loop, {steps} compiled as one; the same numbers to rounding. cpu has no such loop."


def _zero_output_for_mask(layer: Layer, asked: Asked) -> str:
    if _both(layer):
        does = "they are zeros" if layer.spec.return_sequences else "the output is the last valid one"
        return f"nothing: a Bidirectional decides about masked steps by return_sequences, and here {does}."
    if layer.spec.return_sequences:
        return "the outputs at masked steps are zeros, not the output before; the state is kept all the same."
    return "the output is zeros where the last time step is masked; the state is kept all the same."


def _dtype(layer: Layer, asked: Asked) -> str:
    dtype, kernel = layer.spec.dtype, " (by cpu in float32)" if layer.spec.dtype == "bfloat16" else ""
    told = f"x is cast to {dtype}, the products are computed in it{kernel} and y comes in it"
    return f"{told}; initial_state makes h and c in {layer.state_dtype.name}.{_x64(dtype)}"


def _param_dtype(layer: Layer, asked: Asked) -> str:
    dtype = layer.spec.param_dtype
    return f"init makes the weights in {dtype}; a call casts them to the dtype that it computes in.{_x64(dtype)}"


def _x64(dtype: str | None) -> str:
    return " It needs jax_enable_x64." if dtype == "float64" else ""


def _remat_every(layer: Layer, asked: Asked) -> str:
    k, T = layer.spec.remat_every or 1, asked.timesteps
    if T is not None and k >= T:
        return f"nothing is saved: {words.count(T, 'time step')} {'is' if T == 1 else 'are'} no more than one chunk."
    every = "each step" if k == 1 else f"each {k} steps"
    return (
        f"training saves the state before {every} alone and computes the steps again in the backward pass: less "
        "memory, one more forward pass. xla runs it."
    )


def _backend(layer: Layer, asked: Asked) -> str:
    if layer.spec.backend == "xla":
        return "lax.scan runs it, though another backend may be faster."
    return f"{layer.spec.backend} runs it, and a call that it cannot serve raises."


_LSTM: dict[str, Callable[[Layer, Asked], str]] = {
    "activation": _activation,
    "recurrent_activation": _recurrent_activation,
    "use_bias": lambda layer, _: f"no bias: {words.count(4 * layer.spec.units, 'parameter')} fewer.",
    "unit_forget_bias": _unit_forget_bias,
    "dropout": _dropout,
    "recurrent_dropout": _recurrent_dropout,
    "implementation": _implementation,
    "return_sequences": _return_sequences,
    "go_backwards": _go_backwards,
    "unroll": _unroll,
    "zero_output_for_mask": _zero_output_for_mask,
    "dtype": _dtype,
    "param_dtype": _param_dtype,
    "keep_order": _keep_order,
    "remat_every": _remat_every,
    "backend": _backend,
}
_VARIANT: dict[str, Callable[[Layer], str]] = {
    "peephole": lambda layer: f"the gates read the cell too: {words.count(3 * layer.spec.units, 'parameter')} more.",
    "coupled": lambda layer: "one gate is 1 minus the other, so that a unit takes in as much as it forgets.",
    "projection": lambda layer: (
        f"h is {words.count(layer.spec.output_size, 'number')}: what comes out of the units, times a matrix "
        f"{words.shape(layer.spec.units, layer.spec.output_size)}."
    ),
    "preact_clip": lambda layer: "what goes into σ and φ of gates and candidate is clipped; c is not.",
    "output_activation": lambda layer: "φ_h of the cell, on its way into h, apart from that of the candidate.",
    "forget_gate": lambda layer: "no forget gate, the cell of 1997: c is never scaled down.",
}
