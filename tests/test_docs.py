"""The pages of docs/: every public name has its entry in the API reference (Sphinx itself finds broken links)."""

import pkgutil
import re
from pathlib import Path

import pytest

API = Path(__file__).parents[1] / "docs" / "api"
DIRECTIVE = re.compile(r"\.\. (currentmodule|auto(?:class|function|data|module)):: (\S+)")


def documented():
    """What the pages of docs/api have an entry for, as objects: a name that does not exist raises here."""
    found = []
    for page in API.glob("*.md"):
        module = ""
        for directive, name in DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            if directive == "currentmodule":
                module = name
            else:
                found.append(pkgutil.resolve_name(name if name.startswith("jlstm.") else f"{module}.{name}"))
    return found


@pytest.mark.parametrize("module", ["jlstm", "jlstm.nnx", "jlstm.interop"])
def test_every_public_name_is_in_the_api_reference(module):
    module = pkgutil.resolve_name(module)
    found = documented()
    missing = [name for name in module.__all__ if not any(getattr(module, name) is entry for entry in found)]
    assert not missing
