"""Several devices in one process: the batch and the loss curve of one device, and nothing sent but sums."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import quiet
from toy import write_config

from experiments import steps, train
from experiments.config import ConfigError, load
from experiments.devices import ONE, Devices, all_devices
from experiments.tasks.average import MovingAverage
from experiments.tasks.reber import EmbeddedReber

# Gradients are added up over the devices in another order: float32 rounding, grown over 20 steps.
RTOL = 1e-5


pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A carried state, which is split over the devices too, and dropout, which is drawn for the whole batch."""
    arguments = ["--train.stateful", "True", "--model.lstm.dropout", "0.3"]
    return load(write_config(tmp_path_factory.mktemp("config")), arguments).base


@pytest.fixture(scope="module")
def two():
    return all_devices()


def metrics_of(config, folder, devices):
    """Train in a directory, on from what it holds; the bytes of metrics.jsonl."""
    folder.mkdir(exist_ok=True)
    train.run(config, folder, quiet, devices)
    return (folder / "metrics.jsonl").read_bytes()


def assert_same_curve(found, expected):
    """Compare two metrics.jsonl, step by step and name by name, to rounding."""
    found, expected = ([json.loads(line) for line in text.splitlines()] for text in (found, expected))
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for one, other in zip(found, expected, strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=RTOL, err_msg=f"{name} of step {one['step']}")


def test_two_devices_give_the_curve_of_one_and_resume_to_the_bit_or_on_one(config, two, tmp_path):
    assert two.mesh.size == 2
    expected = metrics_of(config, tmp_path / "one", ONE)
    whole = metrics_of(config, tmp_path / "two", two)
    assert_same_curve(whole, expected)
    half = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=10))
    metrics_of(half, tmp_path / "cut", two)
    shutil.copytree(tmp_path / "cut", tmp_path / "moved")
    assert metrics_of(config, tmp_path / "cut", two) == whole
    assert_same_curve(metrics_of(config, tmp_path / "moved", ONE), expected)


@pytest.mark.parametrize("task", [EmbeddedReber(), MovingAverage(chunk=3)], ids=["strings", "stream"])
def test_the_batch_is_that_of_one_device_to_the_bit_and_each_device_holds_its_rows(two, task):
    rows = 6
    keys = jax.random.split(jax.random.key(0), 2)  # two seeds
    streams = jax.vmap(lambda key: task.stream(key, rows))(keys)
    expected = jax.jit(jax.vmap(lambda key, stream: task.sample(key, stream, rows)))(keys, streams)
    found = jax.jit(jax.vmap(lambda key, stream: two.draw(task.sample, key, stream, rows)))(keys, streams)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    x = found[1].x
    assert [shard.index[1] for shard in x.addressable_shards] == [slice(0, 3), slice(3, 6)]


def test_a_step_sends_only_sums_of_floats(two, tmp_path):
    # Reber's generator has a loop that ends on its values; and a carry could be gathered at each step.
    (tmp_path / "reber.toml").write_text(write_config(tmp_path).read_text().replace('"toy"', '"embedded_reber"'))
    reber = load(tmp_path / "reber.toml", ["--train.stateful", "True"]).base
    program = steps.make_call(reber, two).lower(two.given(steps.init(reber)), jnp.int32(4)).compile().as_text()
    sent, function = [], ""
    for line in program.splitlines():
        function = line.split(" ")[0] if line and not line.startswith(" ") else function
        kind = re.search(r" (all-\w+|collective-\w+|reduce-scatter)(-start)?\(", line)
        if kind and function != "ENTRY":  # the carry is gathered at the end of a call, after the loop
            sent.append((kind[1], {*re.findall(r"\b(pred|[a-z]+\d+)\[", line.partition(kind[0])[0])}))
    assert sent
    assert all(found == ("all-reduce", {"f32"}) for found in sent), sent


def test_a_state_comes_to_all_devices_to_the_bit(two):
    state = {"key": jax.random.split(jax.random.key(3), 2), "x": jnp.array([-0.0, jnp.nan, 1e-40]), "n": jnp.int32(7)}
    given = two.given(state)
    assert all(leaf.sharding.is_fully_replicated and leaf.sharding.mesh == two.mesh for leaf in jax.tree.leaves(given))
    local = two.local(jax.random.key_data(given["key"]))
    np.testing.assert_array_equal(local, jax.random.key_data(state["key"]))
    assert local.devices() == {jax.devices()[0]}
    assert np.asarray(given["x"]).tobytes() == np.asarray(state["x"]).tobytes()
    assert ONE.given(state) is state


def test_an_evaluation_set_is_split_where_its_rows_divide(two):
    for rows, split in ((4, True), (3, False)):
        (x,) = two.cut((jnp.arange(2.0 * rows).reshape(rows, 2),), rows)
        assert x.sharding.is_fully_replicated != split
        np.testing.assert_array_equal(x, np.arange(2.0 * rows).reshape(rows, 2))


def test_a_batch_that_the_devices_do_not_divide_is_named(config, two):
    part = dataclasses.replace(config.train, batch_size=5)
    with pytest.raises(ConfigError, match=r"toy.toml: \[train\] batch_size must be a multiple of .* devices, 2, got 5"):
        two.check(dataclasses.replace(config, train=part), "toy.toml")
    two.check(config, "toy.toml")
    Devices().check(dataclasses.replace(config, train=part), "toy.toml")
