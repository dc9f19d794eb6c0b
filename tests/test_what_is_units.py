"""The page docs/what-is-units.md: its code runs in order, its figures are there, its notebook is the page."""

import importlib.util
import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "what-is-units.md"
LARGEST = 150_000  # bytes of a figure

specification = importlib.util.spec_from_file_location("draw", DOCS / "draw.py")
draw = importlib.util.module_from_spec(specification)
specification.loader.exec_module(draw)

TOY = """# Title

```python
>>> a = 1
>>> a + 1
2
>>> b = a + 2

```

Words.

<!-- figure
figure = f"<svg {b}"

figure
-->
![What it shows](figures/toy.svg)

```python
c = 4
```

<!-- figure
d = c + 1
-->
The end.
"""


@pytest.fixture(scope="module")
def after():
    """What the code of the page leaves: all names, and the figures."""
    names, figures = {}, []
    with mpl.rc_context({"backend": "agg"}), pytest.MonkeyPatch.context() as patch:
        patch.chdir(DOCS)  # as a notebook runs
        for cell in json.loads(PAGE.with_suffix(".ipynb").read_text("utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                value = draw.run("".join(cell["source"]), names)
                if hasattr(value, "savefig") or hasattr(value, "_repr_html_"):
                    figures.append(value)
    return names, figures


def test_a_page_becomes_cells():
    assert list(draw.cells(TOY)) == [
        ("markdown", "# Title", ""),
        ("code", "a = 1\na + 1", ""),
        ("code", "b = a + 2", ""),
        ("markdown", "Words.", ""),
        ("code", 'figure = f"<svg {b}"\n\nfigure', "figures/toy.svg"),
        ("code", "c = 4", ""),
        ("code", "d = c + 1", ""),
        ("markdown", "The end.", ""),
    ]


def test_a_cell_gives_the_value_of_its_last_line():
    names = {}
    values = [draw.run(cell.source, names) for cell in draw.cells(TOY) if cell.kind == "code"]
    assert values == [2, None, "<svg 3", None, None]
    assert names["d"] == 5


def test_the_notebook_is_the_page():
    assert PAGE.with_suffix(".ipynb").read_text("utf-8") == draw.notebook(PAGE.read_text("utf-8"))


def test_the_figures_of_the_page_are_there_small_and_of_nothing_else():
    paths = [DOCS / cell.path for cell in draw.cells(PAGE.read_text("utf-8")) if cell.path]
    assert sorted(paths) == sorted((DOCS / "figures").glob("units-*"))
    for path in paths:
        assert path.stat().st_size < LARGEST
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_every_figure_is_drawn_by_its_cell_and_the_one_kept_is_of_the_code_and_results_that_stand(after):
    names, figures = after
    paths = [DOCS / cell.path for cell in draw.cells(PAGE.read_text("utf-8")) if cell.path]
    for path, figure in zip(paths, figures, strict=True):
        if not hasattr(figure, "savefig"):  # a picture of explain
            assert path.read_text() == draw.on_white(figure._repr_html_())
    lag, average = ((DOCS / "figures" / f"units-{name}.svg").read_text("utf-8") for name in ("lag", "stateful"))
    for number in np.ravel(names["share"]):
        assert f"; {number:.1%}" in lag
    for words, number in names["ends"].items():
        assert f"{words} {number:.2e}" in average


def test_the_medians_drawn_are_those_that_the_page_of_results_prints(after):
    names, _ = after
    printed = (DOCS / "results.md").read_text("utf-8")

    def median(case, metric):
        return float(re.search(rf"^\|[^|]*: {case} \|[^|]*\| {metric} (\S+) ", printed, re.MULTILINE)[1])

    for case, words in (("one_step_gradient", "stateful, of 1:"), ("stateful", "stateful, of 16:")):
        assert names["ends"][words] == pytest.approx(median(case, "mse"), rel=1e-3)  # printed with 4 digits
    cases = [f"units{units}_lag{lag}" for units, lag in itertools.product((4, 8, 16, 32), (5, 10, 20))]
    unscaled = ("units4_lag5", "units4_lag20", "units8_lag5", "units8_lag20", "units16_lag20")  # printed as mse
    for case, share in zip(cases, np.ravel(names["share"]), strict=True):
        variance = 1 / 3  # of numbers from -1 to 1
        over = median(case, "mse") / variance if case in unscaled else median(case, "mse_over_variance")
        assert share == pytest.approx(over, rel=1e-3)


@pytest.mark.lenient
def test_what_the_page_says_of_its_training_holds(after):
    names, _ = after
    assert names["error"] < 0.01  # of Var x: x[t-5] from x[t]
    assert min(names["readable"][:6]) > 0.99
    assert max(names["readable"][9:]) < 0.5
    floor = 0.1**2 / 3 / 4
    last = {name: float(np.mean(names[name][-100:])) for name in ("lost_errors", "kept_errors")}
    assert last["lost_errors"] == pytest.approx(floor / 16, rel=0.05)  # 1,600 first steps know it to 2.2 %
    assert last["kept_errors"] < floor / 1000
    lost = names["by_place"](names["lost"], False)
    assert lost[0] == pytest.approx(floor, rel=0.1)
    assert lost[1:].max() < floor / 1000
    flag, trace = np.asarray(names["x"])[0, 0, :, 1] == 1, names["trace"]
    i, f = np.asarray(trace.i)[0, :, 0], np.asarray(trace.f)[0, :, 0]
    assert i[flag].min() > 0.5 > 0.1 > i[~flag].max()
    assert f[flag].max() < 0.5 < 0.9 < f[~flag].min()


def test_a_figure_is_written_on_a_ground_that_reads_on_dark_pages_too(tmp_path):
    class Picture:
        def _repr_html_(self):
            return '<svg viewBox="0 0 9 9"><title>x</title><g/></svg>'

    draw.save(Picture(), tmp_path / "a.svg")
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    assert [child.tag.split("}")[1] for child in root] == ["title", "rect", "g"]
    assert root[1].attrib == {"width": "100%", "height": "100%", "fill": "white"}
