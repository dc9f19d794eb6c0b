"""The drawings of explain, read back: which arrow stands where, and what is written beside it."""

from typing import NamedTuple
from xml.etree import ElementTree

import jax
import numpy as np
import pytest
from cases import array, inputs

import jlstm
from jlstm import LSTM, Bidirectional, Stack, Variant, pictures
from jlstm.facts import Layer

N, D = 3, 2


class Text(NamedTuple):
    words: str
    x: float
    y: float  # of its middle
    size: float
    anchor: str
    color: str
    opacity: float


class Line(NamedTuple):
    points: list[tuple[float, float]]
    color: str
    width: float
    dashed: bool


class Drawing:
    """What a picture holds: texts, lines, boxes (x, y, width, height, attributes), circles, tips of arrows."""

    def __init__(self, svg: str):
        root = ElementTree.fromstring(svg)
        self.title = root.get("aria-label")
        self.texts, self.lines, self.boxes, self.circles, self.tips = [], [], [], [], []
        for node in root.iter():
            got = node.attrib
            if node.tag == "text":
                size, opacity = float(got["font-size"]), float(got.get("fill-opacity", 1))
                place = float(got["x"]), float(got["y"]) - 0.35 * size
                self.texts.append(Text(node.text or "", *place, size, got["text-anchor"], got["fill"], opacity))
            elif node.tag == "polyline":
                points = [(float(a), float(b)) for a, b in (pair.split(",") for pair in got["points"].split())]
                dashed = "stroke-dasharray" in got
                self.lines.append(Line(points, got["stroke"], float(got["stroke-width"]), dashed))
            elif node.tag == "rect":
                self.boxes.append((*(float(got[a]) for a in ("x", "y", "width", "height")), got))
            elif node.tag == "circle" and got["fill"] == "none":
                self.circles.append((float(got["cx"]), float(got["cy"])))
            elif node.tag == "polygon":
                x, y = got["points"].split()[0].split(",")
                self.tips.append((float(x), float(y)))

    def at(self, words: str) -> tuple[float, float]:
        """Where the one text of these words stands."""
        (text,) = [text for text in self.texts if text.words == words]
        return text.x, text.y


# --- one time step ---------------------------------------------------------------------------------------------


def wires(drawing):
    """The solid wires, each from what it leaves to what its arrow enters; a place that has no name is "".

    The names: a gate's letter, "φ", "R", the sign in a circle with its place among those of that sign from the left,
    and "in" and "out" for the left and right edges.
    """
    names = {}
    for x, y, width, height, _ in drawing.boxes:
        told = [t.words for t in drawing.texts if x < t.x < x + width and y < t.y < y + height]
        names[x, x + width, y, y + height] = told[-1][0]  # "f: forget gate" is below the σ
    signs = {text[1:3]: text.words for text in drawing.texts}
    seen = {}
    for x, y in sorted(drawing.circles):
        sign = signs[x, y]
        seen[sign] = seen.get(sign, 0) + 1
        names[x - 10, x + 10, y - 10, y + 10] = f"{sign}{seen[sign]}"

    def at(x, y):
        for (left, right, top, bottom), name in names.items():
            if left <= x <= right and top <= y <= bottom:
                return name
        return "in" if x < 20 else "out" if x > 540 else ""

    return {(at(*line.points[0]), at(*line.points[-1])) for line in drawing.lines if not line.dashed}


def block(variant=None, D=2):
    return Drawing(pictures.block(Layer("", LSTM(N, variant=variant or Variant()), D)))


def test_a_step_is_wired_as_its_equations():
    """c' = f∘c + i∘g and h' = o∘φ(c'): × under f, × of i and g, + of both; × of o and φ."""
    drawing = block()
    inside = {
        ("in", "×1"), ("f", "×1"), ("×1", "+1"), ("i", "×2"), ("g", "×2"), ("×2", "+1"), ("+1", "out"),
        ("φ", "×3"), ("o", "×3"), ("×3", "out"),
    }  # fmt: skip
    assert inside <= wires(drawing)
    assert {b for a, b in wires(drawing) if a == "" != b} == {"f", "i", "g", "o", "φ"}  # from x and h; φ from c'
    assert len(drawing.circles) == 4


def test_the_variants_are_wired_as_their_equations():
    unforgetting = wires(block(Variant(forget_gate=False)))
    assert ("in", "+1") in unforgetting
    assert not any("f" in wire for wire in unforgetting)
    projected = wires(block(Variant(projection=2)))
    assert {("×3", "R"), ("R", "out")} <= projected
    assert ("×3", "out") not in projected
    assert ("f", "i") in wires(block(Variant(coupled="input")))
    assert ("", "i") not in wires(block(Variant(coupled="input")))
    assert ("i", "f") in wires(block(Variant(coupled="forget")))
    assert ("", "f") not in wires(block(Variant(coupled="forget")))


@pytest.mark.parametrize(
    ("variant", "read"),
    [
        (Variant(), ""), (Variant(peephole=True), "fio"), (Variant(peephole=True, coupled="input"), "fo"),
        (Variant(peephole=True, coupled="forget"), "io"), (Variant(peephole=True, forget_gate=False), "io"),
    ],
)  # fmt: skip
def test_peepholes_are_dashed_wires_from_the_cell_to_the_gates_that_read_it(variant, read):
    """o reads the cell after the sum, the others before."""
    drawing = block(variant)
    (plus,) = [t.x for t in drawing.texts if t.words == "+"]
    cell = drawing.at("+")[1]
    gates = {t.words[0]: t.x for t in drawing.texts if t.words.endswith(" gate") and t.words[1:2] == ":"}
    found = ""
    for line in drawing.lines:
        if line.dashed:
            (x, y), (tip, _) = line.points[0], line.points[-1]
            assert y == cell
            (gate,) = [gate for gate, middle in gates.items() if abs(middle - tip) < 42]
            assert (x > plus) == (gate == "o")
            found += gate
    assert sorted(found) == sorted(read)


@pytest.mark.parametrize("projection", [None, 4])
def test_every_wire_has_its_width_beside_it(projection):
    """D + P into each gate, N out of it and on; numbers that are not to be mixed up: N = 3, D = 10, P = 3 or 4."""
    drawing = block(Variant(projection=projection), D=10)
    P = projection or N
    numbers = [text for text in drawing.texts if text.words.isdigit()]
    for line in drawing.lines:
        (x0, y0), (x, y) = line.points[:2]
        if x0 == x and x > 100:  # upright ones; x comes in further to the left
            low, high = sorted((y0, y))
            (text,) = [t for t in numbers if low < t.y < high and abs(t.x - x) <= 5]
            assert text.words == str(10 + P if low > 200 else N)
    assert len(numbers) == 4 + 4 + 4  # below and above the gates; of f∘c, of i∘g, before and after φ
    assert {f"c: {N}", f"h: {P}", "x: 10", f"c': {N}", f"h': {P}"} <= {text.words for text in drawing.texts}
    assert (f"{N} → {P}" in {text.words for text in drawing.texts}) == bool(projection)
    below, above = drawing.at(f"h': {P}"), drawing.at("the output")
    assert below[0] == above[0]
    assert 0 < below[1] - above[1] <= 16


# --- colours ---------------------------------------------------------------------------------------------------


def luminance(color):
    """As WCAG 2.2 defines it, of "#rrggbb" or numbers from 0 to 255."""
    if isinstance(color, str):
        color = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
    c = np.asarray(color) / 255
    return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_definition():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the textbook's grey that just fails


@pytest.mark.parametrize(("ink", "paper"), [("#1a1a1a", "#ffffff"), ("#e6e6e6", "#15171a")])
def test_letters_and_lines_stand_out_in_light_and_in_dark(ink, paper, tmp_path):
    """WCAG 2.2: 4.5:1 for letters of this size, 3:1 for what is drawn."""
    jlstm.explain(LSTM(N), D).save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert f"--ink: {ink}; --paper: {paper.replace('#ffffff', '#fff')};" in page
    back = LSTM(N, go_backwards=True, return_sequences=True)
    variant = Variant(peephole=True, projection=2)
    drawn = [
        *panels().values(), block(variant), weights(variant=Variant(forget_gate=False)), weights(variant=variant),
        Drawing(pictures.over_time(Stack((Bidirectional(LSTM(N, return_sequences=True)), back, LSTM(N))), None)),
    ]  # fmt: skip
    sides = [np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)]) for color in (ink, paper)]
    for drawing in drawn:
        for text in drawing.texts:
            assert text.color == "currentColor"
            shade = text.opacity * sides[0] + (1 - text.opacity) * sides[1]
            assert contrast(shade, paper) >= 4.5, text
        for color in {line.color for line in drawing.lines} | {box[4]["stroke"] for box in drawing.boxes}:
            assert color == "currentColor" or contrast(color, paper) >= 3, color


# --- the units in the weights --------------------------------------------------------------------------------------


def weights(**options):
    return Drawing(pictures.units(Layer("", LSTM(N, **options), D)))


def filled(drawing, color):
    """The boxes painted in a colour, (x, y, width, height), from the upper left."""
    return sorted(tuple(box[:4]) for box in drawing.boxes if box[4]["fill"] == color)


@pytest.mark.parametrize("variant", [Variant(), Variant(forget_gate=False), Variant(projection=2)])
def test_unit_0_is_the_first_column_of_each_slice_and_the_first_row_of_the_recurrent_kernel(variant):
    drawing = weights(variant=variant)
    read = [gate for gate in "ifgo" if gate != "f" or variant.forget_gate]
    P = variant.projection or N
    rows = []
    for gate, color in pictures.GATE_COLORS.items():
        slices = sorted(
            tuple(box[:4]) for box in drawing.boxes if box[4]["stroke"] == color and box[4]["fill"] == "none"
        )
        assert len(slices) == 3  # kernel, recurrent kernel and bias
        columns = [(x, y, pytest.approx(width / N, abs=0.01), height) for x, y, width, height in slices]
        assert filled(drawing, color) == (columns if gate in read else [])
        x, y, width, height = slices[1]
        rows += [(x, y, width, pytest.approx(height / P, abs=0.01))] if gate in read else []
    assert filled(drawing, pictures.STATE) == rows
    told = [text.words for text in drawing.texts]
    assert "A shaded column: what unit 0 reads in each slice." in told
    row = "number 0 of h" if variant.projection else "the output of unit 0"
    assert f"The red row: {row}, read by the gates of every unit at the next step." in told


# --- the layer over time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [None, None, "y"]),
        ({"go_backwards": True}, ["y", None, None]),
        ({"return_sequences": True}, ["y[:, 0]", "y[:, 1]", "y[:, 2]"]),
        ({"return_sequences": True, "go_backwards": True}, ["y[:, 2]", "y[:, 1]", "y[:, 0]"]),
        ({"return_sequences": True, "go_backwards": True, "keep_order": True}, ["y[:, 0]", "y[:, 1]", "y[:, 2]"]),
    ],
)
def test_the_outputs_over_time_have_an_arrow_each_and_the_state_runs_as_the_layer_reads(options, expected):
    drawing = Drawing(pictures.over_time(LSTM(N, **options), 3))
    assert outputs(drawing) == expected
    back = options.get("go_backwards", False)
    assert len(state(drawing)) == 4
    assert all((start > end) == back for start, end, _ in state(drawing))
    for line in drawing.lines:
        assert line.points[-1] in drawing.tips
    boxes = steps(drawing)
    fed = {line.points[-1] for line in drawing.lines if line.points[0][1] > line.points[-1][1] == boxes[0][3]}
    assert fed == {((left + right) / 2, bottom) for left, right, _, bottom, _ in boxes}


# --- the options of a call -----------------------------------------------------------------------------------------


def panels(**options):
    """The drawings by their titles."""
    div = ElementTree.fromstring(f"<all>{pictures.calls(N, **options)}</all>")
    drawings = [Drawing(ElementTree.tostring(svg, encoding="unicode")) for svg in div.iter("svg")]
    return {drawing.texts[0].words: drawing for drawing in drawings}


def steps(drawing):
    """The boxes of the three steps from the left, (left, right, top, bottom), and whether each is dashed."""
    found = [(x, x + w, y, y + h, "stroke-dasharray" in got) for x, y, w, h, got in drawing.boxes]
    assert len(found) == 3
    return sorted(found)


def outputs(drawing):
    """Of each step what stands over its output arrow, None where that is dashed: it does not come back."""
    told = []
    for left, right, top, _, _ in steps(drawing):
        (up,) = [
            line for line in drawing.lines
            if line.points[0] == ((left + right) / 2, top) and line.points[-1] in drawing.tips
        ]  # fmt: skip
        end = up.points[-1]
        assert end[1] < top
        (*over,) = [text.words for text in drawing.texts if text.x == end[0] and 0 < end[1] - text.y < 15]
        assert len(over) == (0 if up.dashed else 1)
        told.append(None if up.dashed else over[0])
    return told


def state(drawing):
    """The lines of the state, (x of the start, x of the tip, width)."""
    lines = [line for line in drawing.lines if line.color == pictures.STATE]
    return sorted((line.points[0][0], line.points[-1][0], line.width) for line in lines)


def inputs_of(drawing):
    middles = {(left + right) / 2 for left, right, *_ in steps(drawing)}
    return [text.words for text in sorted(drawing.texts, key=lambda t: t.x) if text.x in middles and text.y > 150]


@pytest.mark.parametrize("keep_order", [False, True])
def test_going_backwards_names_each_output_as_apply_orders_them(keep_order):
    """The output drawn over x[:, t] is the one that a change of x[:, t] alone first reaches."""
    layer = LSTM(N, go_backwards=True, keep_order=keep_order, return_sequences=True)
    params, state_0, x = layer.init(jax.random.key(0), D), layer.initial_state(1), array(inputs(0, 1, 3, D))
    jacobian = jax.jit(jax.jacobian(lambda x: layer.apply(params, state_0, x)[1][0].sum(-1)))(x)
    reached = np.abs(jacobian).sum((1, 3)) > 0  # [output, input]
    expected = [f"y[:, {min(np.flatnonzero(reached[:, t]), key=lambda k, t=t: reached[k].sum())}]" for t in range(3)]
    drawing = panels(keep_order=keep_order)[f"go_backwards=True, keep_order={keep_order}"]
    assert outputs(drawing) == expected
    assert inputs_of(drawing) == ["x[:, 0]", "x[:, 1]", "x[:, 2]"]
    assert all(start > end for start, end, _ in state(drawing))
    assert len(state(drawing)) == 4
    order = "y stays in the order of x" if keep_order else "y is in the order of reading"
    assert drawing.texts[1].words == f"reading from the end; {order}"


def test_each_panel_is_one_change_of_a_layer_that_reads_forwards_and_returns_all():
    said = ElementTree.fromstring(f"<all>{pictures.calls(N)}</all>")[0].text
    assert said == "Each changes one thing of LSTM(3, return_sequences=True), which reads x from its first step on."
    every = ["y[:, 0]", "y[:, 1]", "y[:, 2]"]
    found = panels()
    assert list(found) == [
        "return_sequences=False", "go_backwards=True, keep_order=False", "the state passed on (stateful)",
        "mask[:, 1] = False", "reset[:, 1] = True", "the same weights at every step",
    ]  # fmt: skip
    for title, drawing in found.items():
        assert drawing.title == f"{title}: {drawing.texts[1].words}"
        if not title.startswith("go_backwards"):
            assert all(start < end for start, end, _ in state(drawing)), title
        if "stateful" not in title:
            assert inputs_of(drawing) == ["x[:, 0]", "x[:, 1]", "x[:, 2]"]
    assert outputs(found["return_sequences=False"]) == [None, None, "y"]
    assert outputs(found["reset[:, 1] = True"]) == outputs(found["the same weights at every step"]) == every
    assert found["return_sequences=False"].texts[1].words == "the last h alone comes back; dashed: not returned"
    assert found["the same weights at every step"].texts[1].words == "so T may differ from call to call"


def test_the_thick_arrow_of_stateful_goes_from_the_first_call_to_the_second():
    drawing = panels()["the state passed on (stateful)"]
    (first, second, third) = steps(drawing)
    thick = [(start, end) for start, end, width in state(drawing) if width > 2]
    assert thick == [(first[1], second[0])]
    assert len(state(drawing)) == 4
    assert outputs(drawing) == ["y[:, 0]", "y[:, 0]", "y[:, 1]"]  # each call counts its own steps
    assert inputs_of(drawing) == ["x[:, 0]", "x[:, 0]", "x[:, 1]"]
    (cut,) = [line for line in drawing.lines if line.dashed]
    assert first[1] < cut.points[0][0] == cut.points[1][0] < second[0]
    assert drawing.at("call 1")[0] < cut.points[0][0] < drawing.at("call 2")[0] < third[0]
    assert drawing.texts[1].words == "the second call goes on where the first one ended"


@pytest.mark.parametrize("zeroed", [False, True])
def test_the_state_goes_past_a_masked_step(zeroed):
    drawing = panels(zeroed=zeroed)["mask[:, 1] = False"]
    boxes = steps(drawing)
    assert [dashed for *_, dashed in boxes] == [False, True, False]
    (past,) = [line for line in drawing.lines if len(line.points) > 2]
    assert past.color == pictures.STATE
    assert (past.points[0][0], past.points[-1][0]) == (boxes[0][1], boxes[2][0])
    assert min(y for _, y in past.points) < boxes[1][2]  # over the box
    assert len(state(drawing)) == 3  # and no line into it or out of it
    assert outputs(drawing) == ["y[:, 0]", f"y[:, 1] = {0 if zeroed else 'y[:, 0]'}", "y[:, 2]"]
    assert drawing.texts[1].words == f"the state passes by, the output is {'zeros' if zeroed else 'repeated'}"


def test_a_reset_cuts_the_state_before_the_step_it_names():
    drawing = panels()["reset[:, 1] = True"]
    boxes = steps(drawing)
    between = [(a, b) for a, b, _ in state(drawing) if boxes[0][1] <= a and b <= boxes[1][0]]
    assert len(between) == 2
    (leaves, stops), (starts, arrives) = between
    assert (leaves, arrives) == (boxes[0][1], boxes[1][0])
    assert stops < starts
    x, y = drawing.at("0")
    assert stops < x < arrives
    assert y < sum(boxes[0][2:4]) / 2
    assert (boxes[1][1], boxes[2][0], 1.4) in state(drawing)  # the others are whole
    assert drawing.texts[1].words == "the state is replaced by zeros before the step"


def test_without_resets_the_panel_is_words_alone():
    drawing = panels(resets=False)["reset[:, 1] = True"]
    assert [text.words for text in drawing.texts] == [
        "reset[:, 1] = True", "raises: read from its end, an episode has no start"
    ]  # fmt: skip
    assert not drawing.lines
    assert not drawing.boxes
