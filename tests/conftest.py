"""What all tests share: optional peers, hypothesis profiles, strict JAX."""

import importlib
import os
import warnings

import jax
import pytest
from hypothesis import settings

os.environ.setdefault("KERAS_BACKEND", "jax")  # read once, when keras is imported
jax.config.update("jax_num_cpu_devices", 2)  # before any backend starts; one device would hide a misplaced array

# derandomize: a run in CI gives the same verdict twice. deadline=None: an example may compile.
settings.register_profile("ci", max_examples=40, deadline=None, derandomize=True, database=None)
settings.register_profile("full", max_examples=500, deadline=None, database=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure(config):
    config.addinivalue_line("markers", "lenient: runs without strict dtype and rank promotion, for peers that break")


def peer(name):
    """Import an optional peer library: skip the test (or the module) without it, fail under JLSTM_REQUIRE_PEERS=1.

    At the top of a module: `from conftest import peer`, then `torch = peer("torch")`. In a test: the fixture `peer`.
    """
    if os.environ.get("JLSTM_REQUIRE_PEERS") == "1":
        try:
            with warnings.catch_warnings(action="ignore"):  # as importorskip does
                importlib.import_module(name)
        except ImportError as error:
            pytest.fail(f"JLSTM_REQUIRE_PEERS=1, but the peer library {name} cannot be imported: {error}")
    return pytest.importorskip(name, exc_type=ImportError)


@pytest.fixture(name="peer", scope="session")
def _peer():
    return peer


@pytest.fixture(scope="module")
def worst(request):
    """A list for the errors of all generated examples of a module; the largest is printed in one line at the end."""
    errors = []
    yield errors
    if errors:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{request.module.__name__}: {len(errors)} generated examples, worst error {max(errors):.1e}")


@pytest.fixture(autouse=True)
def strict_jax(request):
    """No silent promotion of dtypes or ranks, except in tests marked `lenient` and in those of the experiments."""
    if request.node.get_closest_marker("lenient") or "experiments" in request.path.parts:
        yield
    else:
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            yield


@pytest.fixture(scope="module")
def quick_to_compile():
    """Let LLVM do little: half the time, the same programs. For modules whose configs no other module trains."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
