"""The table of docs/interop.md: a tick and the worst error for every feature that the tests of the converters measure.

JLSTM_WRITE_TABLE=1 python -m pytest tests/interop/test_table.py measures all features and writes the table anew.
Without the variable nothing is measured here: the table must have the features of today, each with a small error.
"""

import importlib
import os
import re
from pathlib import Path

import pytest

# Where a library is missing, its module skips itself, and this one with it.
MODULES = [
    importlib.import_module(f"test_{name}")
    for name in ("from_keras", "from_torch", "onnx", "flax", "equinox", "haiku", "cudnn")
]
PAGE = Path(__file__).parents[2] / "docs" / "interop.md"
BEGIN, END = "<!-- written by tests/interop/test_table.py: begin -->\n", "<!-- end -->\n"
LIMIT = 3e-5
ABSENT = "—"
CELL = re.compile(r"✓ (0|[1-9]e-\d+)")


def table(title, features, errors):
    """A section of the page: a row for each feature, in both directions."""
    lines = [f"### {title}", "", "| feature | from | to |", "|---|---|---|"]
    for feature in dict.fromkeys(feature for _, feature in features):
        cells = [
            cell(errors[direction, feature]) if (direction, feature) in features else ABSENT
            for direction in ("from", "to")
        ]
        lines.append(f"| {feature} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(error):
    """One digit is what another machine agrees on, more or less."""
    assert error < LIMIT
    return f"✓ {error:.0e}".replace("e-0", "e-") if error else "✓ 0"


def read(section):
    """The cells of the tables with something in them: (title, direction, feature) and what is written there."""
    found, title = [], None
    for line in section.splitlines():
        if line.startswith("### "):
            title = line[4:]
        elif line.startswith("| ") and not line.startswith("| feature "):
            feature, *cells = (part.strip() for part in line.strip("| ").split(" | "))
            written = zip(("from", "to"), cells, strict=True)
            found += [((title, direction, feature), text) for direction, text in written if text != ABSENT]
    return found


@pytest.mark.lenient
def test_every_feature_has_its_tick_in_the_docs():
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    section, after = rest.split(END)
    if os.environ.get("JLSTM_WRITE_TABLE") == "1":
        parts = []
        for module in MODULES:
            errors = {key: measure() for key, measure in module.FEATURES.items()}
            parts.append(table(module.TITLE, module.FEATURES, errors))
        section = "\n" + "\n".join(parts) + "\n"
        PAGE.write_text(f"{before}{BEGIN}{section}{END}{after}", encoding="utf-8")
    found = read(section)
    wanted = [(module.TITLE, *key) for module in MODULES for key in module.FEATURES]
    assert sorted(key for key, _ in found) == sorted(wanted)
    for key, text in found:
        assert CELL.fullmatch(text), (key, text)
        assert float(text[2:]) <= LIMIT, (key, text)
