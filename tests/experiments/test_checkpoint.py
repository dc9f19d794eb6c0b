"""Checkpoints: the whole state back to the bit; what is half or damaged is never read."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import checkpoint
from experiments.rundir import Stopped


def state(number):
    """A state with every kind of leaf: arrays, scalars, integers, typed keys, an empty part."""
    return {
        "params": (jnp.full((2, 3), number, jnp.float32), jnp.asarray(number, jnp.bfloat16)),
        "empty": (),
        "step": jnp.asarray(number, jnp.int32),
        "key": jax.random.split(jax.random.key(number), 2),
    }


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_a_state_comes_back_to_the_bit(tmp_path):
    checkpoint.save(tmp_path, 7, state(7), {"train": {"steps": 9}})
    step, found = checkpoint.latest(tmp_path, state(0))
    assert step == 7
    assert_equal(found, state(7))


def test_nothing_is_found_where_there_is_nothing(tmp_path):
    assert checkpoint.latest(tmp_path / "none", state(0)) is None


def test_the_newest_two_are_kept(tmp_path):
    for step in (1, 2, 10):
        checkpoint.save(tmp_path, step, state(step), {})
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [2, 10]
    assert checkpoint.latest(tmp_path, state(0))[0] == 10


def test_half_a_checkpoint_is_passed_over(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, state(step), {})
    newest = tmp_path / "0000000002"
    shutil.copytree(newest, tmp_path / "0000000003.orbax-checkpoint-tmp-1")  # as a kill leaves it
    assert checkpoint.latest(tmp_path, state(0))[0] == 2

    data = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    step, found = checkpoint.latest(tmp_path, state(0))
    assert step == 1
    assert_equal(found, state(1))

    shutil.rmtree(newest / "about")
    assert checkpoint.latest(tmp_path, state(0))[0] == 1
    (tmp_path / "0000000009").mkdir()
    assert checkpoint.latest(tmp_path, state(0))[0] == 1


def test_changed_numbers_fail_the_digest(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, state(1), {})
    monkeypatch.setattr(checkpoint, "_digest", lambda arrays: "of something else")
    checkpoint.save(tmp_path, 2, state(2), {})
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path, state(0))[0] == 1


def test_another_structure_is_not_read(tmp_path):
    checkpoint.save(tmp_path, 1, state(1), {})
    assert checkpoint.latest(tmp_path, {**state(0), "more": jnp.zeros(2)}) is None


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("x: No space left on device")])
def test_a_full_disk_is_one_line_and_leaves_the_one_before(tmp_path, monkeypatch, error):
    checkpoint.save(tmp_path, 1, state(1), {})

    def full(*args, **kwargs):
        (tmp_path / "0000000002.orbax-checkpoint-tmp").mkdir()
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.Checkpointer.save", full)
        with pytest.raises(Stopped, match=r"disk full: no checkpoint at step 2"):
            checkpoint.save(tmp_path, 2, state(2), {})
    assert checkpoint.latest(tmp_path, state(0))[0] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["0000000001"]
