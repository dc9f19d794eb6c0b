"""The parts of an explanation, in words: layer, weights, parameters, shapes, times, state, cost, other libraries."""

from dataclasses import dataclass, replace
from typing import Any

from jlstm import costs, pictures, words
from jlstm.compose import Bidirectional
from jlstm.facts import GATE_NAMES, Asked, Layer, levels_of, state_size
from jlstm.layers import LSTM
from jlstm.options import left_alone, options_of
from jlstm.questions import answers_of, shapes_of
from jlstm.starts import starts_of
from jlstm.types import GATES, PEEPHOLES


@dataclass(frozen=True)
class Section:
    """A part of the explanation.

    title: its heading. lines: sentences. pairs: what is asked or named, and what there is to say of it. table: its
    first row is the head; empty where there is none. pictures: SVG, each under a caption; text does without.
    """

    title: str
    lines: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()


def all_of(asked: Asked) -> tuple[Section, ...]:
    """Make every part, in order."""
    layers = asked.layers
    first = (in_short(asked), the_layer(layers), weights(layers), starts(layers), parameters(layers), shapes(asked))
    return (*first, times(asked), state(asked), options(asked), cost(asked), libraries(asked))


def in_short(asked: Asked) -> Section:
    return Section("In short", pairs=tuple(answers_of(asked).items()))


def the_layer(layers: list[Layer]) -> Section:
    lines = []
    for layer in layers if len(layers) > 1 else ():
        N, P = layer.spec.units, layer.spec.output_size
        width = f"h and c are {words.count(N, 'number')} each" if P == N else f"c is {N:,} numbers, h {P:,}"
        read = words.count(layer.input_size, "number")
        lines.append(f"{layer.path}: {words.count(N, 'unit')}, so {width} for each row; a step reads {read}.")
    equations: dict[tuple[str, ...], list[str]] = {}
    for layer in layers:
        equations.setdefault(tuple(_equations(layer.spec)), []).append(layer.path)
    for told, paths in equations.items():
        lines += [*([f"{', '.join(paths)}:"] if len(equations) > 1 else []), *told]
    blocks = [
        (f"One time step{where}: the width of every wire.", pictures.block(layer)) for layer, where in _drawn(layers)
    ]
    return Section("The layer", tuple(lines), pictures=tuple(blocks))


def _drawn(layers: list[Layer]) -> list[tuple[Layer, str]]:
    """The layers whose pictures differ, each with the words for all that share it."""
    alike: dict[Any, list[Layer]] = {}
    for layer in layers:
        spec = layer.spec
        alike.setdefault((spec.units, spec.variant, spec.use_bias, layer.input_size), []).append(layer)
    several = len(layers) > 1
    return [(same[0], f" of {words.listed([a.path for a in same])}" if several else "") for same in alike.values()]


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
    told = ", ".join(f"{letter} = {words.function(value)}" for letter, value in names.items())
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
    shown = [(f"The units in the weights{where}.", pictures.units(layer)) for layer, where in _drawn(layers)]
    return Section("Weights", tuple(lines), table=tuple(rows), pictures=tuple(shown))


def starts(layers: list[Layer]) -> Section:
    many = len(layers) > 1
    rows = [(*(["layer"] if many else []), "weight", "initializer", "values")]
    for layer in layers:
        for weight, (initializer, values) in starts_of(layer).items():
            rows.append((*([layer.path] if many else []), weight, initializer, values))
    lines = ("By layer.init(key, input_size). A kernel is drawn as one matrix, its four slices together.",)
    return Section("What the weights start from", lines, table=tuple(rows))


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


def shapes(asked: Asked) -> Section:
    rows = [("array", "shape"), *shapes_of(asked).items()]
    lines = ("state, y = layer.apply(params, state, x); B rows of the batch, T time steps.",)
    return Section("Shapes", lines, table=tuple(rows))


def times_of(asked: Asked) -> list[dict[str, Any]]:
    """Say which time step each output belongs to: one entry, or one for each direction.

    output: where it is in y, with t or k for any index; the direction, where the two are added and the like. at: the
    time step of x it belongs to, the last one read; with layers below that read both ways the one at whose place it
    is. reads: the first and the last time step that it hangs on, in the order of reading where there is one. told: the
    same in a sentence.

    Example:
        >>> import jlstm
        >>> (entry,) = times_of(Asked(jlstm.LSTM(3, return_sequences=True), 2, timesteps=4))
        >>> entry["output"], entry["at"], entry["reads"]
        ('y[:, t]', 'x[:, t]', ['x[:, 0]', 'x[:, t]'])
    """
    top = levels_of(asked.spec)[-1]
    if not isinstance(top.spec, Bidirectional):
        return [_time(asked, top.spec, "y")]
    N = top.spec.forward.output_size
    halves = {"concat": (f"y[..., :{N}]", f"y[..., {N}:]"), None: ("y[0]", "y[1]")}
    first, second = halves.get(top.spec.merge_mode, ("forward", "backward"))
    return [_time(asked, top.spec.forward, first), _time(asked, replace(top.spec.backward, keep_order=True), second)]


def _time(asked: Asked, one: LSTM, name: str) -> dict[str, Any]:
    """The entry of one LSTM of the top level, whose outputs have this name."""
    levels = levels_of(asked.spec)
    top = levels[-1]
    h = "h" if len(levels) == 1 else "h of the last layer"
    end = "T-1" if asked.timesteps is None else str(asked.timesteps - 1)
    start, last = "x[:, 0]", f"x[:, {end}]"
    if not one.return_sequences:
        reads = [last, start] if top.backwards(one) else [start, last]
        told = f"{name} is {h} after the last step read, {reads[1]}."
        return {"output": name, "at": reads[1], "reads": reads, "told": told}
    turned, seen = replace(top, spec=one).above
    output, at = (f"{name}[:, k]", f"x[:, {end}-k]") if turned else (f"{name}[:, t]", "x[:, t]")
    if seen == "all":
        reads, order = [start, last], ", in the order of processing" if turned else ""
        told = f"{output} is {h} at {at}{order}; through the layers below it has all of x in it."
    elif seen == "before":
        reads, told = [start, at], f"{output} is {h} after reading {start} up to {at}."
    else:
        order = ": in the order of processing" if turned else ""
        reads, told = [last, at], f"{output} is {h} after reading {last} down to {at}{order}."
    return {"output": output, "at": at, "reads": reads, "told": told}


def times(asked: Asked) -> Section:
    T, spec = asked.timesteps, levels_of(asked.spec)[-1].spec
    lines = [entry["told"] for entry in times_of(asked)]
    if isinstance(spec, Bidirectional) and spec.merge_mode in ("sum", "mul", "ave"):
        lines.append(f"y is the two by merge_mode {spec.merge_mode!r}.")
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
    of_all = " of every layer" if len(asked.layers) > 1 else ""
    shown = pictures.calls(
        asked.layers[0].spec.units,
        zeroed=top.spec.return_sequences if isinstance(top.spec, Bidirectional) else top.spec.zero_output_for_mask,
        resets=not any(layer.spec.go_backwards for layer in asked.layers),
        keep_order=isinstance(top.spec, Bidirectional) or top.spec.keep_order,
    )
    return Section(
        "State",
        (
            f"{words.count(one, 'number')} a row: h and c{of_all}. It goes in and comes out of every call.",
            f"stateful=True is nothing but passing on the state that came out; {chunks}",
        ),
        pictures=((f"What each option changes, of one LSTM({asked.layers[0].spec.units}) over three steps.", shown),),
    )


def options(asked: Asked) -> Section:
    pairs, every = [], {layer.path for layer in asked.layers}
    for option in options_of(asked):
        where = "every LSTM" if every == set(option.paths) and len(every) > 1 else words.listed(list(option.paths))
        pairs.append((f"{where}: {option.text}" if where else option.text, option.does))
    defaults = left_alone(asked)
    return Section("Options", (defaults,) if defaults else (), tuple(pairs))


def cost(asked: Asked) -> Section:
    return Section("Cost", tuple(costs.told(asked)))


def elsewhere_of(asked: Asked) -> dict[str, str]:
    """Say how other libraries make this layer."""
    from jlstm.elsewhere import elsewhere  # it brings all of interop, which `import jlstm` does without

    return elsewhere(asked.spec, asked.input_size)


def libraries(asked: Asked) -> Section:
    return Section(
        "The same layer elsewhere",
        ("By the converters of jlstm.interop, which carry the weights too.",),
        table=(("library", "layer"), *elsewhere_of(asked).items()),
    )


# --- words ---------------------------------------------------------------------------------------------------------


def plain(layer: Layer) -> dict[str, Any]:
    """Write what is known of one LSTM as plain types."""
    formula, operations, starts = layer.formula, layer.operations, starts_of(layer)
    return {
        "path": layer.path,
        "spec": repr(layer.spec),
        "input_size": layer.input_size,
        "weights": {
            weight.name: {
                "shape": list(weight.shape),
                "gates": {g: list(s) for g, s in weight.slices.items()},
                "starts": starts[weight.name][1],
            }
            for weight in layer.weights
        },
        "formula": f"{formula.letters} = {formula.numbers} = {formula.total:,}",
        "parameters": formula.total,
        "operations": vars(operations),
    }
