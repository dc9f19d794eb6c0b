"""Several devices: each runs the kernel on its own rows, and nothing is gathered. The checks are in four_devices.py."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from both import needs_kernel

pytestmark = needs_kernel

PROGRAM = Path(__file__).with_name("four_devices.py")
NAMES = [
    node.name
    for node in ast.parse(PROGRAM.read_text()).body
    if isinstance(node, ast.FunctionDef) and any(getattr(d, "id", "") == "check" for d in node.decorator_list)
]


@pytest.fixture(scope="module")
def verdicts():
    paths = [str(PROGRAM.parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_on_four_devices(verdicts, name):
    if verdicts[name]:
        pytest.fail(verdicts[name], pytrace=False)


def test_every_check_was_made(verdicts):
    assert sorted(verdicts) == sorted(NAMES)
