"""Pictures of a layer, drawn from its configuration: the block, the units in the weights, the layer over time."""

from typing import Any

from jlstm import words
from jlstm.compose import Bidirectional, Stack
from jlstm.facts import GATE_NAMES, Layer, levels_of
from jlstm.layers import LSTM
from jlstm.svg import BLUE, GREEN, GREY, INK, ORANGE, Canvas
from jlstm.types import GATES

GATE_COLORS: dict[str, str] = dict(zip(GATES, (GREEN, ORANGE, BLUE, "#9a5fc0"), strict=True))
STATE = "#c0446c"  # h and c on their way through time


def block(layer: Layer) -> str:
    """Draw one time step: the gates, and the width of every wire."""
    spec, v = layer.spec, layer.spec.variant
    N, P, D = spec.units, spec.output_size, layer.input_size
    draw = Canvas(560, 400, f"One time step of {spec!r}: gates, cell and output, with the width of every wire")
    x_of: dict[str, int] = {"f": 130} if v.forget_gate else {}
    x_of |= {"i": 225, "g": 320, "o": 430}
    cell, bus = 60, 305

    def wide(x: float, y: float, width: Any, anchor: str = "start") -> None:
        draw.text(x, y, f"{width}", size=10, anchor=anchor, faint=True, within=84)

    # c goes through along the top, x and h come in along the bottom.
    draw.text(14, cell - 16, f"c: {N}", bold=True, anchor="start")
    draw.text(14, bus - 16, f"h: {P}", bold=True, anchor="start")
    draw.line((14, bus), (max(x_of.values()), bus), arrow=False)
    draw.line((60, 385), (60, bus), arrow=False)
    draw.dot(60, bus)
    draw.text(68, 378, f"x: {D}", anchor="start", bold=True)
    draw.text(68, bus + 15, f"x and h side by side: {D} + {P} = {D + P}", anchor="start", size=11, faint=True)

    follows: tuple[str, str] = {"input": ("i", "f"), "forget": ("f", "i")}.get(v.coupled or "", ("", ""))
    for gate, x in x_of.items():
        color = GATE_COLORS[gate]
        dashed = gate == follows[0]
        draw.box(x - 42, 200, 84, 46, color=color, dashed=dashed)
        draw.text(x, 215, f"1 - {follows[1]}" if dashed else f"{'φ' if gate == 'g' else 'σ'}", size=14, bold=True)
        draw.text(x, 233, f"{gate}: {GATE_NAMES[gate]}", size=10)
        if not dashed:
            draw.line((x, bus), (x, 246))
            draw.dot(x, bus)
            wide(x + 5, 270, D + P)
        wide(x + 5, 188, N)
    if follows[0]:
        ends = (x_of["f"] + 42, 208), (x_of["i"] - 42, 208)
        draw.line(*(ends if follows[0] == "i" else ends[::-1]))
        wide((x_of["f"] + x_of["i"]) / 2, 194, N, anchor="middle")

    # c' = f * c + i * g
    if v.forget_gate:
        draw.line((14, cell), (x_of["f"] - 10, cell), color=STATE)
        draw.circle(x_of["f"], cell, "×")
        draw.line((x_of["f"], 200), (x_of["f"], cell + 10), color=GATE_COLORS["f"])
        draw.line((x_of["f"] + 10, cell), (x_of["i"] - 10, cell), color=STATE)
        wide((x_of["f"] + x_of["i"]) / 2, cell - 10, N, anchor="middle")
    else:
        draw.line((14, cell), (x_of["i"] - 10, cell), color=STATE)
        draw.text(80, cell + 14, "no forget gate", size=11, faint=True, anchor="start")
    draw.circle(x_of["i"], cell, "+")
    draw.circle(x_of["i"], 130, "×")
    draw.line((x_of["i"], 120), (x_of["i"], cell + 10))
    wide(x_of["i"] + 5, 100, N)
    draw.line((x_of["i"], 200), (x_of["i"], 140), color=GATE_COLORS["i"])
    draw.line((x_of["g"], 200), (x_of["g"], 130), (x_of["i"] + 10, 130), color=GATE_COLORS["g"])
    draw.line((x_of["i"] + 10, cell), (548, cell), color=STATE)
    draw.text(548, cell - 16, f"c': {N}", bold=True, anchor="end")

    # h' = o * φ(c')
    draw.dot(480, cell, STATE)
    draw.line((480, cell), (480, 90))
    wide(475, 76, N, anchor="end")
    draw.box(462, 90, 36, 24)
    draw.text(480, 102, "φ" if v.output_activation is None else "φ_h", size=13, bold=True)
    draw.line((480, 114), (480, 140))
    wide(475, 127, N, anchor="end")
    draw.circle(480, 150, "×")
    draw.line((x_of["o"], 200), (x_of["o"], 150), (470, 150), color=GATE_COLORS["o"])
    if v.projection:
        draw.line((490, 150), (500, 150))
        draw.box(500, 136, 24, 28)
        draw.text(512, 150, "R", bold=True)
        wide(512, 174, f"{N} → {P}", anchor="middle")
        draw.line((524, 150), (548, 150), color=STATE)
    else:
        draw.line((490, 150), (548, 150), color=STATE)
    draw.text(556, 111, "the output", size=10, anchor="end", faint=True)
    draw.text(556, 126, f"h': {P}", bold=True, anchor="end", within=50)

    if v.peephole:
        for gate in ("f", "i"):
            if gate in x_of and gate != follows[0]:
                x = x_of[gate] - 34
                draw.line((70, cell), (70, 180), (x, 180), (x, 200), color=STATE, dashed=True)
        draw.dot(70, cell, STATE)
        draw.text(64, 172, "peepholes", size=11, anchor="end", faint=True)
        wide(75, 120, N)
        draw.dot(380, cell, STATE)
        wide(385, 120, N)
        draw.line((380, cell), (380, 180), (x_of["o"] - 34, 180), (x_of["o"] - 34, 200), color=STATE, dashed=True)
    return str(draw)


def units(layer: Layer) -> str:
    """Draw the weight matrices, with all that belongs to unit 0, and what its output feeds."""
    spec = layer.spec
    N, P, D = spec.units, spec.output_size, layer.input_size
    draw = Canvas(570, 330, f"The {words.count(N, 'unit')} of {spec!r} in its weights")
    left, width, gap = 112, 106, 8
    heights = {"kernel": (D, 60), "recurrent_kernel": (P, 110)}
    tops = {"kernel": 50, "recurrent_kernel": 140}
    shown = N if N <= 12 else 12  # columns drawn of a slice
    for number, gate in enumerate(GATES):
        x = left + number * (width + gap)
        faded = layer.unread == gate
        draw.text(x + width / 2, 32, f"{gate}{' (not read)' if faded else ''}", bold=True)
        for name, (rows, height) in heights.items():
            y, column = tops[name], width / shown
            draw.box(x, y, width, height, color=GATE_COLORS[gate], dashed=faded, round_=2)
            if not faded:
                draw.box(x, y, column, height, color=GATE_COLORS[gate], fill=GATE_COLORS[gate], opacity=0.35, round_=0)
            for k in range(1, shown):
                draw.line((x + k * column, y), (x + k * column, y + height), color=GREY, arrow=False, width=0.4)
            drawn = rows if rows <= 12 else 12
            for k in range(1, drawn):
                at = y + k * height / drawn
                draw.line((x, at), (x + width, at), color=GREY, arrow=False, width=0.4)
            if name == "recurrent_kernel" and not faded:
                draw.box(x, y, width, height / drawn, color=STATE, fill=STATE, opacity=0.3, round_=0)
        if spec.use_bias:
            draw.box(x, 268, width, 14, color=GATE_COLORS[gate], dashed=faded, round_=2)
            if not faded:
                draw.box(
                    x, 268, width / shown, 14, color=GATE_COLORS[gate], fill=GATE_COLORS[gate], opacity=0.35, round_=0
                )
    for name, (rows, height) in heights.items():
        letter = "D" if name == "kernel" else "P" if spec.variant.projection else "N"
        middle = tops[name] + height / 2
        draw.text(left - 10, middle - 8, name.replace("_", " "), anchor="end", size=11)
        draw.text(left - 10, middle + 8, f"{letter} = {rows} rows", anchor="end", size=11, faint=True)
    if spec.use_bias:
        draw.text(left - 10, 275, "bias", anchor="end", size=11)
    more = "" if N <= 12 and max(D, P) <= 12 else " (12 of them drawn)"
    draw.text(left, 12, f"4 slices of N = {N} columns{more}", anchor="start", size=11, faint=True)
    draw.text(8, 300, "A shaded column: what unit 0 reads in each slice.", anchor="start")
    last = "number 0 of h" if spec.variant.projection else "the output of unit 0"
    draw.text(8, 318, f"The red row: {last}, read by the gates of every unit at the next step.", anchor="start")
    return str(draw)


def over_time(spec: Any, timesteps: int | None) -> str:
    """Draw the layer unrolled: the same weights at every step, the state running through, which outputs come back."""
    lanes, levels = _lanes(spec), levels_of(spec)
    last = "T-1" if timesteps is None else str(timesteps - 1)
    if timesteps is not None and timesteps <= 5:
        steps: list[str | None] = [str(t) for t in range(timesteps)]
    else:
        steps = ["0", "1", None, last]
    column, lane = 110, 92
    left = 84
    width = left + column * len(steps) + 84
    height = 120 + lane * len(lanes)
    draw = Canvas(max(width, 430), height, f"{spec!r} over time, the state carried from step to step")
    bottom = height - 46
    y_of = [bottom - 52 - lane * k for k in range(len(lanes))]
    x_of = [left + column * (k + 0.5) for k in range(len(steps))]
    for x, step in zip(x_of, steps, strict=True):
        draw.text(x, bottom + 14, f"x[:, {step}]" if step is not None else "…", bold=step is not None)
    for number, (name, one, level) in enumerate(lanes):
        y = y_of[number]
        back = levels[level].backwards(one)
        order = list(reversed(x_of)) if back else x_of
        start = order[0] + (38 + 48) * (1 if back else -1)
        edge = 38
        previous = start
        for x, step in zip(order, reversed(steps) if back else steps, strict=True):
            sign = -1 if back else 1
            draw.line((previous, y), (x - sign * edge, y), color=STATE)
            previous = x + sign * edge
            if step is None:
                draw.text(x, y, "…", size=16)
                continue
            draw.box(x - edge, y - 20, 2 * edge, 40, color=BLUE)
            draw.text(x, y - 6 if name else y, f"LSTM({one.units})", size=11, within=70)
            if name:
                draw.text(x, y + 8, name, size=10, faint=True)
        end = order[-1] + (38 + 48) * (-1 if back else 1)
        draw.line((previous, y), (end, y), color=STATE)
        draw.text(start, y - 12, "state", size=11, anchor="middle")
        draw.text(end, y - 12, "new state", size=11, anchor="middle")
        _feeds(draw, lanes, number, x_of, steps, y_of, bottom)
    _outputs(draw, lanes, x_of, steps, y_of, spec)
    return str(draw)


def calls(units: int, *, zeroed: bool = False, resets: bool = True, keep_order: bool = False) -> str:
    """Draw what each option of a call changes for a layer of so many units: the carry, the outputs, the order.

    Six pictures, side by side where there is room, under a line that says what they have in common.

    Args:
        zeroed: whether outputs at masked steps are zeros.
        resets: whether the layer takes resets; one that reads from the end raises.
        keep_order: whether outputs come in the order of the input with go_backwards=True.
    """
    order = "y stays in the order of x" if keep_order else "y is in the order of reading"
    told = {
        "return_sequences=False": "the last h alone comes back; dashed: not returned",
        f"go_backwards=True, keep_order={keep_order}": f"reading from the end; {order}",
        "the state passed on (stateful)": "the second call goes on where the first one ended",
        "mask[:, 1] = False": f"the state passes by, the output is {'zeros' if zeroed else 'repeated'}",
        "reset[:, 1] = True": "the state is replaced by zeros before the step",
        "the same weights at every step": "so T may differ from call to call",
    }
    if not resets:
        told["reset[:, 1] = True"] = "raises: read from its end, an episode has no start"
    names = {
        _BACKWARDS: ("y[:, 0]", "y[:, 1]", "y[:, 2]") if keep_order else ("y[:, 2]", "y[:, 1]", "y[:, 0]"),
        _LAST: ("", "", "y"),
        _STATEFUL: ("y[:, 0]", "y[:, 0]", "y[:, 1]"),
        _MASK: ("y[:, 0]", f"y[:, 1] = {0 if zeroed else 'y[:, 0]'}", "y[:, 2]"),
    }
    panels = [
        _call(title, text, units, None if panel == _RESET and not resets else panel, names.get(panel, _NAMES))
        for panel, (title, text) in enumerate(told.items())
    ]
    style = "display: flex; flex-wrap: wrap; align-items: flex-start; gap: 12px 24px"
    common = f"Each changes one thing of LSTM({units}, return_sequences=True), which reads x from its first step on."
    return f'<p>{common}</p><div style="{style}">{"".join(panels)}</div>'


_LAST, _BACKWARDS, _STATEFUL, _MASK, _RESET, _PLAIN = range(6)
_NAMES = ("y[:, 0]", "y[:, 1]", "y[:, 2]")


def _call(title: str, told: str, units: int, panel: int | None, names: tuple[str, ...]) -> str:
    """Draw one option of a call, its outputs under their names; panel None: its words alone."""
    draw = Canvas(340, 50 if panel is None else 178, f"{title}: {told}")
    draw.text(0, 16, title, anchor="start", bold=True)
    draw.text(0, 34, told, anchor="start", size=11, faint=True)
    if panel is None:
        return str(draw)
    x_of, y = [75 + 95 * k for k in range(3)], 118
    for k, x in enumerate(x_of):
        passed = panel == _MASK and k == 1  # the step is not taken
        draw.box(x - 30, y - 16, 60, 32, color=GREY if passed else BLUE, dashed=passed)
        draw.text(x, y, f"LSTM({units})", size=10, within=54, faint=passed)
        draw.text(x, y + 48, f"x[:, {k - 1 if panel == _STATEFUL and k else k}]", size=10)  # a call counts from 0
        draw.line((x, y + 40), (x, y + 16), dashed=passed, color=GREY if passed else INK)
        returned = bool(names[k])
        draw.line((x, y - 16), (x, y - 44), dashed=not returned, color=INK if returned else GREY)
        if returned:
            draw.text(x, y - 53, names[k], size=10, bold=True)
    ends = [x_of[0] - 55, *x_of, x_of[2] + 55]
    for k in range(4):
        a, b = ends[k] + (30 if k else 0), ends[k + 1] - (30 if k < 3 else 0)
        if panel == _BACKWARDS:
            draw.line((b, y), (a, y), color=STATE)
        elif panel == _MASK and k in (1, 2):  # past the masked step
            continue
        elif panel == _RESET and k == 1:
            draw.line((a, y), (a + 12, y), color=STATE, arrow=False)
            draw.text(a + 20, y - 12, "0", bold=True)
            draw.line((a + 20, y), (b, y), color=STATE)
        else:
            draw.line((a, y), (b, y), color=STATE, width=3 if panel == _STATEFUL and k == 1 else 1.4)
    if panel == _MASK:
        over = y - 26
        draw.line((x_of[0] + 30, y), (x_of[0] + 40, y), (x_of[0] + 40, over), (x_of[1] + 55, over), (x_of[1] + 55, y),
                  (x_of[2] - 30, y), color=STATE)  # fmt: skip
    if panel == _STATEFUL:
        middle = (x_of[0] + x_of[1]) / 2
        draw.line((middle, y - 62), (middle, y + 54), dashed=True, color=GREY, arrow=False)
        draw.text(middle - 5, y - 30, "call 1", size=10, faint=True, anchor="end")
        draw.text(middle + 5, y - 30, "call 2", size=10, faint=True, anchor="start")
    return str(draw)


def _lanes(spec: Any, level: int = 0) -> list[tuple[str, LSTM, int]]:
    """The LSTMs from the bottom: (a few words, spec, level); the two of a Bidirectional are of one level."""
    if isinstance(spec, Stack):
        found: list[tuple[str, LSTM, int]] = []
        for number, layer in enumerate(spec.layers):
            base = found[-1][2] + 1 if found else level
            found += [
                (f"{number} {name}" if name else f"layer {number}", one, at) for name, one, at in _lanes(layer, base)
            ]
        return found
    if isinstance(spec, Bidirectional):
        return [("forward", spec.forward, level), ("backward", spec.backward, level)]
    return [("", spec, level)]


def _feeds(draw: Canvas, lanes: Any, number: int, x_of: Any, steps: Any, y_of: Any, bottom: float) -> None:
    """Lines from what a lane reads up to its boxes, past a lane of the same level below it."""
    level = lanes[number][2]
    first = next(k for k, lane in enumerate(lanes) if lane[2] == level)
    under = [k for k in range(first) if lanes[k][2] == level - 1]
    source = bottom if not under else y_of[under[-1]] - 20 - (16 if len(under) == 2 else 0)
    for x, step in zip(x_of, steps, strict=True):
        if step is None:
            continue
        if number == first:
            draw.line((x, source), (x, y_of[number] + 20))
        else:  # past the box of the forward lane
            foot = source - (0 if len(under) == 2 else 4)
            draw.line((x, foot), (x + 48, foot), (x + 48, y_of[number] + 34), (x + 10, y_of[number] + 34),
                      (x + 10, y_of[number] + 20))  # fmt: skip
        below_pair = len(under) == 2 and number == first
        if below_pair:
            _join(draw, x, y_of[under[0]], y_of[under[1]])


def _join(draw: Canvas, x: float, lower: float, upper: float) -> None:
    """Bring the outputs of the two lanes of a level together above them."""
    draw.line((x - 20, lower - 20), (x - 20, lower - 34), (x - 48, lower - 34), (x - 48, upper - 36), (x, upper - 36),
              arrow=False)  # fmt: skip
    draw.line((x, upper - 20), (x, upper - 36), arrow=False)


def _outputs(draw: Canvas, lanes: Any, x_of: Any, steps: Any, y_of: Any, spec: Any) -> None:
    """Arrows to the outputs that come back; dotted where one is computed and not returned."""
    level = lanes[-1][2]
    found = levels_of(spec)[-1]
    back, turned = found.backwards(lanes[-1][1]), found.above[0]
    top = [k for k, lane in enumerate(lanes) if lane[2] == level]
    upper, both = y_of[top[-1]], len(top) == 2
    for place, (x, step) in enumerate(zip(x_of, steps, strict=True)):
        if step is None:
            continue
        last = place == len(steps) - 1
        if both:
            _join(draw, x, y_of[top[0]], upper)
        returned = spec.return_sequences or both or (place == 0 if back else last)
        if both and not spec.return_sequences:
            returned = False
        draw.line(
            (x, upper - (36 if both else 20)), (x, upper - 52), dashed=not returned, color=INK if returned else GREY
        )
        if returned and (spec.return_sequences or not both):
            draw.text(x, upper - 62, _output_name(step, steps, spec, turned), bold=True)
    if both and not spec.return_sequences:
        ends = ("first", "last") if turned else ("last", "first")
        text = "y: forward after the {} step, backward after the {}".format(*ends)
        draw.text(max((x_of[0] + x_of[-1]) / 2, 200), upper - 62, text, bold=True)  # not past the left edge


def _output_name(step: str, steps: Any, spec: Any, turned: bool) -> str:
    if not spec.return_sequences:
        return "y"
    if turned:
        known = [s for s in steps if s is not None]
        if all(s.isdigit() for s in known):
            return f"y[:, {int(known[-1]) - int(step)}]"
        return {"0": "y[:, T-1]", "1": "y[:, T-2]"}.get(step, "y[:, 0]")
    return f"y[:, {step}]"
