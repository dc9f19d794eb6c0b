"""The parts of an explanation, in words: layer, weights, parameters, shapes, times, state, cost, other libraries."""

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from jlstm import checks, pictures
from jlstm.backends.dispatch import which_backend
from jlstm.compose import Bidirectional, Stack
from jlstm.facts import GATE_NAMES, Layer, bytes_of, kept_bytes, layers_of, levels_of, state_size
from jlstm.layers import LSTM
from jlstm.paths import flatten, state_like
from jlstm.types import GATES, PEEPHOLES, Directions, wider_dtype


@dataclass(frozen=True)
class Asked:
    """What is to be explained; timesteps and batch_size are None where they were not said."""

    spec: LSTM | Bidirectional | Stack
    input_size: int
    timesteps: int | None = None
    batch_size: int | None = None


@dataclass(frozen=True)
class Section:
    """A part of the explanation.

    title: its heading. lines: sentences. table: its first row is the head; empty where there is none. pictures: SVG,
    each under a caption; text does without.
    """

    title: str
    lines: tuple[str, ...]
    table: tuple[tuple[str, ...], ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()


def all_of(asked: Asked) -> tuple[Section, ...]:
    """Make every part, in order."""
    layers = list(layers_of(asked.spec, asked.input_size))
    first = (the_layer(asked, layers), weights(layers), parameters(layers), shapes(asked), times(asked))
    return (*first, state(asked), costs(asked), libraries(asked))


def the_layer(asked: Asked, layers: list[Layer]) -> Section:
    lines = [repr(asked.spec)]
    for layer in layers:
        N, where = layer.spec.units, f"{layer.path}: " if layer.path else ""
        P = layer.spec.output_size
        width = f"h and c are {_count(N, 'number')} each" if P == N else f"c is {N:,} numbers, h {P:,}"
        lines.append(
            f"{where}{_count(N, 'unit')}, so for each row of the batch {width}, and at each time step every gate and "
            f"the candidate have {_count(N, 'value')}; a step reads {_count(layer.input_size, 'number')} of x."
        )
    equations: dict[tuple[str, ...], list[str]] = {}
    for layer in layers:
        equations.setdefault(tuple(_equations(layer.spec)), []).append(layer.path)
    for told, paths in equations.items():
        lines += [*([f"{', '.join(paths)}:"] if len(equations) > 1 else []), *told]
    drawn = {(layer.spec.units, layer.spec.variant, layer.input_size): layer for layer in reversed(layers)}
    blocks = [
        (f"One time step{_of(layer)}: the width of every wire.", pictures.block(layer)) for layer in drawn.values()
    ]
    return Section("The layer", tuple(lines), pictures=tuple(reversed(blocks)))


def _equations(spec: LSTM) -> list[str]:
    """The step in equations, as jlstm.cell computes it."""
    v, names = spec.variant, {"σ": spec.recurrent_activation, "φ": spec.activation}
    φ_h = "φ" if v.output_activation is None else "φ_h"
    if v.output_activation is not None:
        names["φ_h"] = v.output_activation
    bias = {gate: f" + b_{gate}" if spec.use_bias else "" for gate in GATES}
    read = {"o": "c'"}  # the other peepholes read the cell before the step
    peep = {gate: f" + p_{gate} ∘ {read.get(gate, 'c')}" for gate in PEEPHOLES if v.peephole}
    lines = []
    for gate in GATES:
        inner = f"x W_{gate} + h U_{gate}{bias[gate]}{peep.get(gate, '')}"
        if v.preact_clip is not None:
            inner = f"clip({inner}, ±{v.preact_clip:g})"
        text = f"{'φ' if gate == 'g' else 'σ'}({inner})"
        if v.coupled == "input" and gate == "i":
            text = "1 - f"
        elif v.coupled == "forget" and gate == "f":
            text = "1 - i"
        elif not v.forget_gate and gate == "f":
            continue
        lines.append(f"{gate} = {text}")
    lines.append(f"c' = {'f ∘ c' if v.forget_gate else 'c'} + i ∘ g")
    output = f"o ∘ {φ_h}(c')"
    lines.append(f"h' = ({output}) R" if v.projection else f"h' = {output}")
    told = ", ".join(
        f"{letter} = {checks.show(value) if not isinstance(value, str) else value}" for letter, value in names.items()
    )
    return [*lines, f"with {told}; the same weights at every time step."]


def weights(layers: list[Layer]) -> Section:
    many = len(layers) > 1
    head = (*(["layer"] if many else []), "weight", "axes", "shape", "slices of the gates", "parameters", "what it is")
    rows: list[tuple[str, ...]] = [head]
    for layer in layers:
        for weight in layer.weights:
            slices = ", ".join(f"{gate} {a}:{b}" for gate, (a, b) in weight.slices.items())
            shape = f"[{', '.join(map(str, weight.shape))}]"
            axes = f"[{', '.join(weight.axes)}]"
            cells = (weight.name, axes, shape, slices, f"{weight.count:,}", weight.role)
            rows.append((*([layer.path] if many else []), *cells))
    gates = ", ".join(f"{gate} {GATE_NAMES[gate]}" for gate in GATES)
    lines = [f"Gates: {gates}."]
    for gate in sorted({layer.unread for layer in layers if layer.unread}):
        where = ", ".join(layer.path for layer in layers if layer.unread == gate and many)
        lines.append(
            f"The slices of {gate}{f' in {where}' if where else ''} keep their place and are not read: the variant "
            f"computes no {GATE_NAMES[gate]} from them."
        )
    drawn = {(layer.spec.units, layer.spec.variant, layer.input_size): layer for layer in reversed(layers)}
    shown = [(f"The units in the weights{_of(layer)}.", pictures.units(layer)) for layer in drawn.values()]
    return Section("Weights", tuple(lines), tuple(rows), tuple(reversed(shown)))


def parameters(layers: list[Layer]) -> Section:
    lines = []
    for layer in layers:
        formula = layer.formula
        where = f"{layer.path}: " if layer.path else ""
        lines.append(f"{where}{formula.letters} = {formula.numbers} = {formula.total:,}")
    if len(layers) > 1:
        lines.append(f"together {sum(layer.formula.total for layer in layers):,}")
    lines.append("Neither the number of time steps nor the batch size is in it.")
    return Section("Parameters", tuple(lines))


def shapes_of(asked: Asked) -> dict[str, str]:
    B, T = asked.batch_size or "B", asked.timesteps or "T"
    shapes = {"x": _shape(B, T, asked.input_size)}
    for name, array in flatten(state_like(asked.spec, 1)).items():
        shapes["state" + "".join(f"[{k}]" if k.isdigit() else f".{k}" for k in name.split("/"))] = _shape(
            B, *array.shape[1:]
        )
    steps = (T,) if asked.spec.return_sequences else ()
    top = _top(asked.spec)
    if isinstance(top, Bidirectional) and top.merge_mode is None:
        shapes["y"] = f"({_shape(B, *steps, top.forward.output_size)}, {_shape(B, *steps, top.backward.output_size)})"
    else:
        shapes["y"] = _shape(B, *steps, asked.spec.output_size)
    return shapes


def shapes(asked: Asked) -> Section:
    rows = [("array", "shape"), *shapes_of(asked).items()]
    lines = ("state, y = layer.apply(params, state, x); B rows of the batch, T time steps.",)
    return Section("Shapes", lines, tuple(rows))


def times(asked: Asked) -> Section:
    T = asked.timesteps
    last = "T-1" if T is None else str(T - 1)
    levels = levels_of(asked.spec)
    top = levels[-1]
    h = "h" if len(levels) == 1 else "h of the last layer"

    def say(one: LSTM, name: str) -> str:
        if not one.return_sequences:
            return f"{name} is {h} after the last step read, x[:, {'0' if top.backwards(one) else last}]."
        turned, seen = replace(top, spec=one).above
        if seen == "all":
            place, where = ("k", f"x[:, {last}-k], in the order of processing") if turned else ("t", "x[:, t]")
            return f"{name}[:, {place}] is {h} at {where}; through the layers below it has all of x in it."
        if seen == "before":
            return f"{name}[:, t] is {h} after reading x[:, 0] up to x[:, t]."
        down = f"after reading x[:, {last}] down to"
        if turned:
            return f"{name}[:, k] is {h} {down} x[:, {last}-k]: in the order of processing."
        return f"{name}[:, t] is {h} {down} x[:, t]."

    lines = []
    spec = top.spec
    if isinstance(spec, Bidirectional):
        N = spec.forward.output_size
        halves = {"concat": (f"y[..., :{N}]", f"y[..., {N}:]"), None: ("y[0]", "y[1]")}
        first, second = halves.get(spec.merge_mode, ("forward", "backward"))
        lines.append(say(spec.forward, first))
        lines.append(say(replace(spec.backward, keep_order=True), second))
        if spec.merge_mode in ("sum", "mul", "ave"):
            lines.append(f"y is the two by merge_mode {spec.merge_mode!r}.")
    else:
        lines.append(say(spec, "y"))
    if asked.spec.return_sequences:
        width = f"of width {asked.spec.output_size}"
        if isinstance(spec, Bidirectional) and spec.merge_mode is None:
            width = f"a pair of widths {spec.forward.output_size} and {spec.backward.output_size}"
        lines.append(f"So there are {T or 'T'} outputs, one a time step, each {width}.")
    else:
        lines.append("return_sequences=True would give the outputs of all time steps.")
    shown = ("The layer over time.", pictures.over_time(asked.spec, T))
    return Section("Which time step an output belongs to", tuple(lines), pictures=(shown,))


def state(asked: Asked) -> Section:
    one = state_size(asked.spec)
    top = levels_of(asked.spec)[-1]
    chunks = {
        "before": "chunks of a sequence then give the numbers of the whole.",
        "after": "chunks of a sequence, the last one first, then give the numbers of the whole.",
        "all": "chunks of a sequence do not give the numbers of the whole here, since what is read from the end of a "
        "chunk has not seen the chunks after it.",
    }[top.above[1]]
    spec = top.spec
    zeroed = spec.return_sequences if isinstance(spec, Bidirectional) else spec.zero_output_for_mask
    return Section(
        "State",
        (
            f"{_count(one, 'number')} a row: h and c of every layer. It goes in and comes out of every call.",
            f"stateful=True is nothing but passing on the state that came out; {chunks}",
        ),
        pictures=(("What each option changes.", pictures.calls(_first_units(asked), zeroed)),),
    )


def costs_of(asked: Asked) -> dict[str, int]:
    """Count operations and bytes: of a step of one row, and where T and B are known of a whole call."""
    layers = list(layers_of(asked.spec, asked.input_size))
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


def costs(asked: Asked) -> Section:
    found = costs_of(asked)
    layers = list(layers_of(asked.spec, asked.input_size))
    remat = any(layer.spec.remat_every for layer in layers)
    steps = "the steps of one chunk of remat_every, and the state before each chunk" if remat else "every step"
    dtypes = " and ".join(dict.fromkeys(layer.state_dtype.name for layer in layers))
    lines = [
        f"One time step of one row: {found['flops_step']:,} multiplications and additions, "
        f"{found['activations_step']:,} values of activations.",
        f"Weights: {_bytes(found['bytes_weights'])}.",
    ]
    if "flops_forward" in found:
        lines += [
            f"Forward: {_flops(found['flops_forward'])}. Training step: about {_flops(found['flops_training'])}, since"
            " the backward pass makes two products for each one.",
            f"Training keeps {_bytes(found['bytes_kept'])} until the backward pass (gates, cell and output of "
            f"{steps}, in {dtypes}); the scan of xla about twice as much. Adam keeps twice the weights.",
        ]
    else:
        lines.append(
            "With timesteps and batch_size: operations and memory of a whole call, and the backend that runs it."
        )
    lines += [f"Backend: {text}" for text in backend_of(asked)]
    return Section("Cost", tuple(lines))


def backend_of(asked: Asked) -> list[str]:
    if asked.timesteps is None or asked.batch_size is None:
        return []
    layers = list(layers_of(asked.spec, asked.input_size))
    state_dtype = reduce(wider_dtype, [layer.state_dtype for layer in layers])
    try:
        choice = which_backend(
            asked.spec, (asked.batch_size, asked.timesteps, asked.input_size), state_dtype=state_dtype
        )
    except ValueError as error:  # a backend asked for by name that cannot serve the call
        return [f"none: {error}"]
    choices = _flat(choice)
    return [f"{f'{layer.path}: ' if layer.path else ''}{made}" for layer, made in zip(layers, choices, strict=True)]


def elsewhere_of(asked: Asked) -> dict[str, str]:
    """Say how other libraries make this layer."""
    from jlstm.elsewhere import elsewhere  # it brings all of interop, which `import jlstm` does without

    return elsewhere(asked.spec, asked.input_size)


def libraries(asked: Asked) -> Section:
    return Section(
        "The same layer elsewhere",
        ("By the converters of jlstm.interop, which carry the weights too.",),
        (("library", "layer"), *elsewhere_of(asked).items()),
    )


# --- words ---------------------------------------------------------------------------------------------------------


def plain(layer: Layer) -> dict[str, Any]:
    """Write what is known of one LSTM as plain types."""
    formula, operations = layer.formula, layer.operations
    return {
        "path": layer.path,
        "spec": repr(layer.spec),
        "input_size": layer.input_size,
        "weights": {
            weight.name: {"shape": list(weight.shape), "gates": {g: list(s) for g, s in weight.slices.items()}}
            for weight in layer.weights
        },
        "formula": f"{formula.letters} = {formula.numbers} = {formula.total:,}",
        "parameters": formula.total,
        "operations": vars(operations),
    }


def _of(layer: Layer) -> str:
    return f" of {layer.path}" if layer.path else ""


def _first_units(asked: Asked) -> int:
    return next(iter(layers_of(asked.spec, asked.input_size))).spec.units


def _top(spec: Any) -> Any:
    return _top(spec.layers[-1]) if isinstance(spec, Stack) else spec


def _flat(choice: Any) -> list[Any]:
    if isinstance(choice, Directions):
        return [choice.forward, choice.backward]
    return [c for part in choice for c in _flat(part)] if isinstance(choice, tuple) else [choice]


def _shape(*sizes: Any) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _flops(number: int) -> str:
    for size, unit in ((10**9, "GFLOP"), (10**6, "MFLOP")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,} FLOP"


def _bytes(number: int) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,} bytes"
