"""What people ask of `units=N`, `return_sequences` and `stateful`, answered for the layer at hand."""

from typing import Any

from jlstm import words
from jlstm.compose import Bidirectional, Stack
from jlstm.facts import Asked, Layer, levels_of
from jlstm.paths import flatten, state_like
from jlstm.types import GATES


def sizes_of(asked: Asked) -> dict[str, list[Any]]:
    """The shapes of x, of the state and of y in a call, with letters for what was not said; of a pair two."""
    B, T = asked.batch_size or "B", asked.timesteps or "T"
    sizes = {"x": [B, T, asked.input_size]}
    for name, array in flatten(state_like(asked.spec, 1)).items():
        path = "state" + "".join(f"[{k}]" if k.isdigit() else f".{k}" for k in name.split("/"))
        sizes[path] = [B, *array.shape[1:]]
    sizes["y"] = _sizes_of_y(asked, asked.spec.return_sequences)
    return sizes


def shapes_of(asked: Asked) -> dict[str, str]:
    """The same, written out."""
    return {name: _written(sizes) for name, sizes in sizes_of(asked).items()}


def answers_of(asked: Asked) -> dict[str, str]:
    """Answer each question in two or three sentences.

    Example:
        >>> import jlstm
        >>> answers_of(Asked(jlstm.LSTM(3), 2, timesteps=4))["Is units the number of time steps?"][:67]
        'No. The block runs once for each time step of x, here 4 times, with'
    """
    layers = asked.layers
    units = words.listed([f"{layer.spec.units:,}" for layer in layers])
    name = f"units={layers[0].spec.units}" if len(layers) == 1 else f"units (here {units})"
    one = layers[0].spec.units == 1
    many = f"Is it {layers[0].spec.units:,} LSTMs side by side?"
    if len(layers) > 1 or one:
        many = "Is it one LSTM?" if len(layers) == 1 else "Are the units of each LSTM independent of each other?"
    return {
        f"What does {name} set?": _width(layers),
        many: _coupling(layers),
        "Is units the number of time steps?": _steps(asked),
        "Must x hold lagged copies of itself, one a unit?": _reads(asked),
        "What does the next layer get?": _returns(asked),
        "What does stateful=True add?": _carry(asked),
        f"And Dense({layers[0].spec.units if len(layers) == 1 else 'N'})?": _dense(layers),
    }


def _width(layers: list[Layer]) -> str:
    if len(layers) > 1:
        projected = any(layer.spec.variant.projection for layer in layers)
        return (
            f"The width of each of the {len(layers)} LSTMs: in one of N units h, c, each gate and the candidate are N "
            f"numbers for each row of the batch{'; a projection narrows h' if projected else ''}."
        )
    spec = layers[0].spec
    P, N = spec.output_size, spec.units
    what = "c, each gate and the candidate" if spec.variant.projection else "h, c, each gate and the candidate"
    numbers = "one number each" if N == 1 else f"vectors of {N:,} numbers"
    after = f", and h, projected, is {words.count(P, 'number')}" if spec.variant.projection else ""
    return (
        f"A width: {what} are {numbers}, for each row of the batch{after}. The matrices of the block have "
        f"{words.count(N, 'column')} for each of {words.listed(list(GATES))}."
    )


def _coupling(layers: list[Layer]) -> str:
    if len(layers) > 1:
        return (
            "No. Each LSTM is one block: in every step the gates of each unit read all of h, that of their own LSTM, "
            "through the recurrent kernel."
        )
    N, P = layers[0].spec.units, layers[0].spec.output_size
    if N == 1:
        return "Yes. Each gate is a single number, and c is one cell."
    shape = words.shape(P, 4 * N)
    whole = words.count(P, "number")
    told = f"No. In every step the gates of each unit read all of h, {whole}, through the recurrent kernel {shape}."
    if layers[0].spec.variant.projection:
        return f"{told} Each number of h is made of all {N:,} units."
    read = " that is read" if layers[0].unread else ""  # an unread slice may hold anything
    return (
        f"{told} They would be {N:,} independent LSTMs of one unit only if the recurrent kernel were diagonal in the "
        f"slice of each gate{read}."
    )


def _steps(asked: Asked) -> str:
    layers, T = asked.layers, asked.timesteps
    total = sum(layer.formula.total for layer in layers)
    runs = "The block runs" if len(layers) == 1 else "Each block runs"
    here = f"here {'once' if T == 1 else f'{T:,} times'}" if T else "T times"
    return (
        f"No. {runs} once for each time step of x, {here}, with the same {total:,} parameters every time. T is in the "
        "shape of x alone, and may change from call to call."
    )


def _reads(asked: Asked) -> str:
    told = (
        f"No. A step reads {words.count(asked.input_size, 'number')}, x at that time step; what it has to know of the "
        "steps read before is in h and c. The width of x has nothing to do with units."
    )
    if isinstance(asked.spec, Stack) and len(asked.spec.layers) > 1:
        return f"{told} The layers above read what comes out of the one below."
    return told


def _returns(asked: Asked) -> str:
    spec, T = asked.spec, asked.timesteps or "T"
    top = _top(spec)
    h = "h" if top is spec else "h of the last layer"
    if isinstance(top, Bidirectional):
        h = f"{h} of each direction" if top is spec else f"{h}, of each direction"
    steps = "the one time step" if T == 1 else f"all {T} time steps"
    if spec.return_sequences:
        return (
            f"y {_y(asked, True)}, {h} at {steps}: one output for each time step, not one for each unit. "
            f"return_sequences=False would give the last step read alone, {_y(asked, False)}."
        )
    return (
        f"y {_y(asked, False)}, {h} after the last step read and no other. return_sequences=True would give it at "
        f"{steps}, {_y(asked, True)}: one output for each time step, not one for each unit."
    )


def _carry(asked: Asked) -> str:
    state = [f"{path} {shape}" for path, shape in shapes_of(asked).items() if path.startswith("state")]
    told = f": {words.listed(state)}" if len(state) == 2 else ""
    passed = (
        f"No weights. A call starts from the state that the call before returned{told}, not from zeros. "
        "Here you pass it yourself; Keras keeps it in the layer, row b of a batch going on in row b of "
        "the next."
    )
    if levels_of(asked.spec)[-1].above[1] == "all":
        return f"{passed} With layers that read both ways chunks do not give the numbers of the whole sequence."
    return passed


def _dense(layers: list[Layer]) -> str:
    first = layers[0]
    spec, N, D = first.spec, first.spec.units, first.input_size
    later = "From the second step on h and c bring in what was read before, which Dense never sees."
    if len(layers) > 1:
        return (
            "Dense(N) is x W + b through one activation. In an LSTM of N units each gate and the candidate are such a "
            f"layer, which reads h beside x, and they are multiplied with each other. {later}"
        )
    gates = [gate for gate in GATES if gate != first.unread]
    unread = f", those of {first.unread} among them, which are not read" if first.unread else ""
    size = f"{D:,}·{N:,} + {N:,} = {D * N + N:,}" if spec.use_bias else f"{D:,}·{N:,} = {D * N:,}"
    φ_h = "φ" if spec.variant.output_activation is None else "φ_h"
    h = f"(o ∘ {φ_h}(i ∘ g)) R" if spec.variant.projection else f"o ∘ {φ_h}(i ∘ g)"
    peep = " (and o reads c' too)" if spec.variant.peephole else ""
    return (
        f"A Dense layer of {words.count(N, 'unit')} is x W{' + b' if spec.use_bias else ''} through one activation, "
        f"{size} parameters. Here {words.listed(gates)} are such layers that read h too: {first.formula.total:,} "
        f"parameters{unread}. In one step from a state of zeros h' = {h}{peep}: Dense layers of x, multiplied with "
        f"each other. {later}"
    )


def _y(asked: Asked, sequences: bool) -> str:
    """The shape of the outputs, with all time steps or without."""
    return _written(_sizes_of_y(asked, sequences))


def _sizes_of_y(asked: Asked, sequences: bool) -> list[Any]:
    B, steps = asked.batch_size or "B", (asked.timesteps or "T",) if sequences else ()
    top = _top(asked.spec)
    if isinstance(top, Bidirectional) and top.merge_mode is None:
        return [[B, *steps, way.output_size] for way in (top.forward, top.backward)]
    return [B, *steps, asked.spec.output_size]


def _written(sizes: list[Any]) -> str:
    if isinstance(sizes[0], list):
        return f"({', '.join(words.shape(*part) for part in sizes)})"
    return words.shape(*sizes)


def _top(spec: Any) -> Any:
    return _top(spec.layers[-1]) if isinstance(spec, Stack) else spec
