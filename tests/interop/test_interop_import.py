"""What importing the adapters brings in."""

import json
import subprocess
import sys

import pytest

LIBRARIES = {"equinox", "flax", "h5py", "haiku", "keras", "onnx", "onnxruntime", "safetensors", "tensorflow", "torch"}

PROGRAM = """
import json, sys
import {module}
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


@pytest.mark.parametrize(
    ("module", "brought_in"),
    [("jlstm.interop", set()), ("jlstm.nnx", {"flax"}), ("jlstm.linen", {"flax"})],
)
def test_converters_import_no_library_and_modules_import_flax(module, brought_in):
    program = PROGRAM.format(module=module)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert LIBRARIES & set(json.loads(done.stdout)) == brought_in
