"""What `import jlstm` does: next to nothing."""

import json
import subprocess
import sys

import pytest

import jlstm

PROGRAM = """
import json, os, sys, threading
import jax
import jax.numpy, jax.export, jax.nn

environment = dict(os.environ)
config = dict(jax.config.values)
modules = set(sys.modules)
threads = threading.active_count()
tasks = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else None

import jlstm
from jax._src import xla_bridge

layer = jlstm.Stack((jlstm.Bidirectional(jlstm.LSTM(3, return_sequences=True)), jlstm.LSTM(2)))
repr(layer), hash(layer), layer.to_dict()

print(json.dumps({
    "new modules": sorted({name.partition(".")[0] for name in set(sys.modules) - modules}),
    "of jlstm": sorted(name for name in sys.modules if name.partition(".")[0] == "jlstm"),
    "backends": xla_bridge.backends_are_initialized(),
    "threads": threading.active_count() - threads,
    "tasks": tasks is not None and len(os.listdir("/proc/self/task")) - tasks,
    "config": {n: str(v) for n, v in jax.config.values.items() if n not in config or v != config[n]},
    "environment": dict(os.environ) != environment,
}))
"""


@pytest.fixture(scope="module")
def after_import():
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_import_brings_in_no_other_library(after_import):
    assert [m for m in after_import["new modules"] if m not in sys.stdlib_module_names] == ["jlstm"]


def test_import_leaves_the_adapters_alone(after_import):
    assert not {"jlstm.optax", "jlstm.nnx", "jlstm.interop"} & set(after_import["of jlstm"])


def test_import_initialises_no_backend(after_import):
    assert after_import["backends"] is False


def test_import_starts_no_thread(after_import):
    assert after_import["threads"] == 0
    assert after_import["tasks"] == 0


def test_import_changes_no_configuration(after_import):
    assert after_import["config"] == {}
    assert after_import["environment"] is False


def test_public_names_exist_and_have_docstrings():
    assert sorted(jlstm.__all__) == sorted(set(jlstm.__all__))
    for name in jlstm.__all__:
        value = getattr(jlstm, name)
        assert isinstance(value, tuple) or value.__doc__
    assert jlstm.GATES == ("i", "f", "g", "o")
