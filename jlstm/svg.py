"""A few shapes in SVG, in the colours of the text around them, so that they read in light and in dark."""

import html
import math
from collections.abc import Sequence

# Middle tones for shapes: 3:1 and more on white and on near black. No tone has 4.5:1 on both, which letters want, so
# words are in the colour of the text around them, faint ones through opacity: 0.7 leaves 5:1 and more.
BLUE, ORANGE, GREEN, GREY = "#3b82c4", "#c9741f", "#3a9d5d", "#8a8f98"
INK = "currentColor"
FAINT = 0.7
Point = tuple[float, float]


class Canvas:
    """A picture that grows; `str` gives the element <svg>.

    Args:
        width, height: in units of which a letter is about 7 wide.
        title: read out in place of the picture.
    """

    def __init__(self, width: float, height: float, title: str):
        self._width, self._height, self._title = width, height, title
        self._parts: list[str] = []

    def text(
        self, x: float, y: float, words: str, *, size: float = 12, anchor: str = "middle", faint: bool = False,
        bold: bool = False, within: float | None = None,
    ) -> None:  # fmt: skip
        """Write words whose middle line is at y, smaller where they would be wider than `within`."""
        if within is not None:
            size = min(size, within / (0.62 * len(words)))
        weight = ' font-weight="600"' if bold else ""
        weight += f' fill-opacity="{FAINT}"' if faint else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y + size * 0.35:g}" font-size="{size:g}" text-anchor="{anchor}" fill="{INK}"'
            f"{weight}>{html.escape(words)}</text>"
        )

    def box(
        self, x: float, y: float, width: float, height: float, *, color: str = INK, fill: str = "none",
        dashed: bool = False, opacity: float = 1.0, round_: float = 6,
    ) -> None:  # fmt: skip
        """Draw a rectangle from its upper left corner."""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{round_:g}" stroke="{color}"'
            f' stroke-width="1.4" fill="{fill}" fill-opacity="{opacity:g}"{dash}/>'
        )

    def circle(self, x: float, y: float, words: str, color: str = INK) -> None:
        """Draw a small circle with a sign in it."""
        self._parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="10" stroke="{color}" stroke-width="1.4" fill="none"/>')
        self.text(x, y, words, size=13)

    def dot(self, x: float, y: float, color: str = INK) -> None:
        """Draw a point where a line branches."""
        self._parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="2.6" fill="{color}"/>')

    def line(
        self, *points: Point, color: str = INK, dashed: bool = False, arrow: bool = True, width: float = 1.4
    ) -> None:
        """Draw a line through points, an arrowhead at its end."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self._parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width:g}"{dash}/>')
        if arrow:
            self._head(points[-2:], color)

    def _head(self, points: Sequence[Point], color: str) -> None:
        (x0, y0), (x, y) = points
        angle = math.atan2(y - y0, x - x0)
        corners = [(x, y)] + [(x - 8 * math.cos(angle + turn), y - 8 * math.sin(angle + turn)) for turn in (0.4, -0.4)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
        self._parts.append(f'<polygon points="{path}" fill="{color}"/>')

    def __str__(self) -> str:
        title = html.escape(self._title)
        return (
            f'<svg viewBox="0 0 {self._width:g} {self._height:g}" width="{self._width:g}" role="img"'
            f' aria-label="{title}" style="max-width: 100%; min-width: {min(self._width, 440):g}px; height: auto;'
            f' display: block"'
            f' font-family="system-ui, sans-serif"><title>{title}</title>{"".join(self._parts)}</svg>'
        )
