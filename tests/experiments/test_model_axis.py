"""Models over devices: each has its share of them, copies that fill the last share are dropped, nothing is sent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import model_axis
from experiments.model_axis import ModelAxis, spread


def shares(tree):
    """(device, first model, models) of every part of the first array."""
    parts = jax.tree.leaves(tree)[0].addressable_shards
    return [(part.device.id, part.index[0].start or 0, part.data.shape[0]) for part in parts]


@pytest.mark.parametrize(
    ("devices", "count", "used"),
    [(1, 5, 1), (2, 1, 1), (2, 2, 2), (2, 3, 2), (4, 5, 3), (4, 8, 4), (8, 12, 6), (8, 64, 8)],
)
def test_no_more_devices_are_used_than_make_the_largest_share_smaller(monkeypatch, devices, count, used):
    monkeypatch.setattr(jax, "local_devices", lambda: [object()] * devices)
    monkeypatch.setattr(jax, "make_mesh", lambda shape, *_, devices, **__: shape if len(devices) == shape[0] else None)
    assert spread(count).mesh == (None if used == 1 else (used,))


@pytest.mark.parametrize(("count", "share"), [(4, 2), (3, 2)])
def test_each_device_runs_its_share_and_copies_are_dropped(count, share):
    axis = spread(count)
    assert str(axis) == "2 devices"

    def told(shared, models):
        here = jnp.full(models.shape, jax.lax.axis_index(model_axis.AXIS))
        return models + shared, here, jnp.full(models.shape, len(models))

    values, device, size = axis.jit(told)(axis.whole(jnp.float32(10.0)), axis.place(jnp.arange(float(count))))
    np.testing.assert_array_equal(values, 10.0 + np.arange(count))
    np.testing.assert_array_equal(device, np.arange(count) // share)
    np.testing.assert_array_equal(size, [share] * count)


def test_models_stay_on_their_devices_between_calls():
    axis = spread(4)
    models = axis.place({"w": jnp.zeros((4, 3)), "key": jax.random.split(jax.random.key(0), 4)})
    step = axis.jit(lambda shared, models: jax.tree.map(lambda leaf: leaf, models), donate_argnums=1)
    assert shares(models) == [(0, 0, 2), (1, 2, 2)]
    assert shares(step(1, models)) == [(0, 0, 2), (1, 2, 2)]
    odd = step(1, axis.place({"w": jnp.zeros((3, 3))}))
    assert shares(odd) == [(0, 0, 3), (1, 0, 3)], "what does not divide is whole on each between calls"


def test_a_loop_that_ends_on_its_values_sends_nothing():
    def until_large(shared, models):
        return jax.lax.while_loop(lambda x: (x < shared).any(), lambda x: 2.0 * x, models)

    axis = spread(4)
    jitted = axis.jit(until_large)
    found = jitted(jnp.float32(5.0), axis.place(jnp.array([1.0, 4.0, 5.0, 8.0])))
    np.testing.assert_array_equal(found, [8.0, 32.0, 5.0, 8.0])  # a device goes on for its own models alone
    text = jitted.lower(jnp.float32(5.0), axis.place(jnp.ones(4))).compile().as_text()
    assert "while" in text
    assert not any(word in text for word in ("all-reduce", "all-gather", "collective", "all-to-all"))


def test_one_device_has_no_mesh():
    axis = spread(1)
    assert axis == ModelAxis()
    assert str(axis) == "1 device"
    assert axis.jit(lambda shared, models: models * shared)(2.0, axis.place(jnp.ones(1))).sharding.num_devices == 1
