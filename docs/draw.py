"""Run the code of a page in order, draw its figures, and write it as a notebook: `python docs/draw.py`.

The page is the one source. Three things in it are code, and share one namespace:

    ```python        with >>>: an example, which pytest runs as a doctest too
    ```python        without: code that takes longer; it runs here and in the notebook
    <!-- figure      code that a reader of the page does not see; its last line is the figure, which is saved as the
    ...              file that the image below names, and which the notebook draws in its place. Without an image below
    -->              it sets up what others use.
"""

import ast
import doctest
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PAGES = (Path(__file__).parent / "what-is-units.md",)
CODE = re.compile(
    r"^```python\n(?P<fence>.*?)^```\n|^<!-- figure\n(?P<figure>.*?)^-->\n(?:!\[[^\]]*\]\((?P<path>[^)]*)\)\n)?",
    re.DOTALL | re.MULTILINE,
)


class Cell(NamedTuple):
    """A part of a page. kind: "markdown" or "code". path: where the figure is saved that the code gives, "" if none."""

    kind: str
    source: str
    path: str = ""


def cells(page: str) -> Iterator[Cell]:
    """Cut a page into cells; one of code ends where an example prints something."""
    end = 0
    for match in CODE.finditer(page):
        yield from _text(page[end : match.start()])
        end = match.end()
        if match["fence"] is None:
            yield Cell("code", match["figure"].strip("\n"), match["path"] or "")
        elif ">>>" not in match["fence"]:
            yield Cell("code", match["fence"].strip("\n"))
        else:
            examples = doctest.DocTestParser().get_examples(match["fence"])
            group: list[str] = []
            for example, after in itertools.zip_longest(examples, examples[1:]):
                group.append(example.source)
                if example.want or after is None:
                    yield Cell("code", "".join(group).strip("\n"))
                    group = []
    yield from _text(page[end:])


def notebook(page: str) -> str:
    """Write a page as a notebook without outputs."""
    made = []
    for number, cell in enumerate(cells(page)):
        entry: dict[str, Any] = {"cell_type": cell.kind, "id": f"cell-{number}", "metadata": {}}
        if cell.kind == "code":
            entry |= {"execution_count": None, "outputs": []}
        made.append(entry | {"source": cell.source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def run(source: str, names: dict[str, Any]) -> Any:
    """Run code and give the value of its last line, None where that is no expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)


def save(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib, or what shows itself as inline SVG, as SVG on white: it reads on dark pages too."""
    if not hasattr(figure, "savefig"):
        path.write_text(on_white(figure._repr_html_()))
        return
    import matplotlib as mpl
    from matplotlib.text import Text

    words = [text.get_text() for text in figure.findobj(Text) if text.get_text()]
    with mpl.rc_context({"svg.hashsalt": path.name}):  # so that it is written the same way each time
        figure.savefig(path, facecolor="white", metadata={"Date": None, "Description": "; ".join(words)})


def on_white(svg: str) -> str:
    """Make a file of inline SVG."""
    svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return svg.replace("</title>", '</title><rect width="100%" height="100%" fill="white"/>', 1) + "\n"


def draw(page: Path) -> None:
    """Run a page's code, save its figures beside it, and write its notebook."""
    names: dict[str, Any] = {}
    for cell in cells(page.read_text("utf-8")):
        if cell.kind == "code":
            value = run(cell.source, names)
            if cell.path:
                save(value, page.parent / cell.path)
                print(f"{cell.path}: {(page.parent / cell.path).stat().st_size / 1000:.0f} kB")
    page.with_suffix(".ipynb").write_text(notebook(page.read_text("utf-8")), "utf-8")


def _text(text: str) -> Iterator[Cell]:
    if text.strip():
        yield Cell("markdown", text.strip("\n"))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as a checkout without an installation has it
    for each in PAGES:
        draw(each)
