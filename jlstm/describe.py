"""What a spec configures, told as text, as a page and as data: the answer to "what is units?" for the layer at hand."""

import html
import os
import textwrap
from dataclasses import dataclass
from typing import Any

from jlstm import checks, costs, files, sections
from jlstm.compose import Bidirectional, Stack
from jlstm.facts import Asked
from jlstm.layers import LSTM
from jlstm.options import options_of
from jlstm.questions import answers_of, shapes_of, sizes_of
from jlstm.sections import Section

WIDTH = 110  # of the text; tables are as wide as they are


@dataclass(frozen=True, repr=False)
class Explanation:
    """What a spec configures. It prints as text, shows itself as HTML in a notebook, and saves as a page.

    asked: the spec, D, and T and B where they were said.
    """

    asked: Asked

    @property
    def data(self) -> dict[str, Any]:
        """The content as plain types."""
        asked = self.asked
        layers = [sections.plain(layer) for layer in asked.layers]
        return {
            "spec": repr(asked.spec),
            "input_size": asked.input_size,
            "timesteps": asked.timesteps,
            "batch_size": asked.batch_size,
            "answers": answers_of(asked),
            "layers": layers,
            "parameters": sum(layer["parameters"] for layer in layers),
            "shapes": shapes_of(asked),
            "sizes": sizes_of(asked),
            "times": sections.times_of(asked),
            "options": [vars(option) | {"paths": list(option.paths)} for option in options_of(asked)],
            "costs": costs.costs_of(asked),
            "backend": costs.backend_of(asked),
            "elsewhere": sections.elsewhere_of(asked),
        }

    @property
    def sections(self) -> tuple[Section, ...]:
        """The parts that text and page are made of."""
        return sections.all_of(self.asked)

    def __str__(self) -> str:
        return "\n\n".join([textwrap.fill(repr(self.asked.spec), WIDTH), *map(_text, self.sections)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        title = html.escape(repr(self.asked.spec))
        size = ' style="font-size: 1rem"' if len(title) > 90 else ""  # a call of many lines is no headline
        return "\n".join([f"<h1{size}>{title}</h1>", *map(_html, self.sections)])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one HTML page that loads nothing from elsewhere; an existing file is replaced at once.

        Raises:
            OSError: it cannot be written.
        """
        title = html.escape(repr(self.asked.spec))
        page = PAGE.format(title=title, style=_STYLE, body=self._repr_html_())
        files.write(path, page.encode())


def explain(
    spec: LSTM | Bidirectional | Stack, input_size: int, timesteps: int | None = None, batch_size: int | None = None
) -> Explanation:
    """Explain what a spec configures.

    Args:
        spec: LSTM, Bidirectional or Stack.
        input_size: D, the width of x.
        timesteps: T, where it is known; no weight depends on it.
        batch_size: B, likewise.

    Returns:
        An Explanation to print, to show in a notebook, to `save` as a page, or to take the `data` of.

    Raises:
        TypeError, ValueError: a wrong type or size.

    Example:
        >>> import jlstm
        >>> explanation = jlstm.explain(jlstm.LSTM(3), input_size=2, timesteps=4)
        >>> explanation.data["layers"][0]["formula"]
        '4·(N·(D + N) + N) = 4·(3·(2 + 3) + 3) = 72'
        >>> explanation.data["shapes"]["y"]
        '[B, 3]'
    """
    checks.instance("spec", spec, LSTM, Bidirectional, Stack)
    sizes = {"input_size": input_size, "timesteps": timesteps, "batch_size": batch_size}
    for name, value in sizes.items():
        if value is not None or name == "input_size":
            sizes[name] = checks.positive_int(name, value)  # Python's int: NumPy's would not be plain data
    return Explanation(Asked(spec, **sizes))


def _text(section: Section) -> str:
    lines = [section.title, "-" * len(section.title)]
    for line in section.lines:
        lines += textwrap.wrap(line, WIDTH, subsequent_indent="  ")
    for name, told in section.pairs:
        lines += [*textwrap.wrap(name, WIDTH), *textwrap.wrap(told, WIDTH, initial_indent="  ", subsequent_indent="  ")]
    if section.table:
        widths = [max(len(cell) for cell in column) for column in zip(*section.table, strict=True)]
        head, *rows = section.table
        for row in (head, tuple("-" * width for width in widths), *rows):
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return "\n".join(lines)


def _html(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{html.escape(line)}</p>" for line in section.lines]
    if section.pairs:
        told = "".join(f"<dt><b>{html.escape(a)}</b></dt><dd>{html.escape(b)}</dd>" for a, b in section.pairs)
        parts.append(f"<dl>{told}</dl>")
    if section.table:
        head, *rows = section.table
        body = f"<thead>{_row('th', head)}</thead><tbody>{''.join(_row('td', row) for row in rows)}</tbody>"
        table = f'<table style="color: inherit">{body}</table>'
        parts.append(f'<div style="overflow-x: auto">{table}</div>')
    for caption, picture in section.pictures:
        told = f"<figcaption>{html.escape(caption)}</figcaption>{picture}"
        parts.append(f'<figure style="overflow-x: auto">{told}</figure>')
    return "\n".join(parts)


def _row(kind: str, cells: tuple[str, ...]) -> str:
    """A row of th or td, with what notebooks would otherwise decide."""
    told = (f'<{kind} style="text-align: left">{html.escape(cell)}</{kind}>' for cell in cells)
    return f"<tr>{''.join(told)}</tr>"


_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #d5d8dd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #15171a; --line: #3a4048; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin: 1.8rem 0 .4rem; } p { margin: .3rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
dl { margin: .4rem 0; } dt { margin-top: .6rem; } dd { margin: 0; }
figure { margin: 1rem 0; } figcaption { font-weight: 600; margin-bottom: .4rem; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
td:last-child { min-width: 14rem; white-space: normal; }
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
