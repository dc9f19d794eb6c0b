"""10,000 mutated files: each loads to something valid or is a ValueError, in bounded time and memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jlstm

FILES = 10_000


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="limits memory as Linux does")
def test_mutated_files():
    script = Path(__file__).with_name("fuzz_files.py")
    command = [sys.executable, "-W", "error", str(script), str(FILES), "0"]
    here = os.environ | {"PYTHONPATH": str(Path(jlstm.__file__).parents[1])}  # the jlstm of this process
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=here)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    outcomes = told["outcomes"]
    assert sum(outcomes.values()) == FILES
    # The mutations reach every stage of the reader, or they would prove little of it.
    stages = "safetensors file", "of format version", "JSON", "spec that jlstm can make", "tensors of its spec"
    for stage in ("loaded", "a tensor", *stages):
        assert outcomes.get(stage, 0) >= FILES // 200, outcomes
    assert told["slowest s"] < 5  # a thousand layers take a tenth of a second; a hang takes longer
    assert told["grown MiB"] < 256
