"""What importing the adapters brings in."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import {module}
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}} & {{"flax", "equinox", "haiku", "optax"}})))
"""


@pytest.mark.parametrize(
    ("module", "brought_in"),
    [("jlstm.interop", set()), ("jlstm.nnx", {"flax"}), ("jlstm.linen", {"flax"})],
)
def test_converters_import_no_library_and_modules_import_flax(module, brought_in):
    program = PROGRAM.format(module=module)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) - {"optax"} == brought_in  # flax itself may import optax
