"""One evaluation sequence: what is drawn is what the model does, and what its cells are compared with."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Toy, write_config

import jlstm
from experiments import examples, heatmaps, scoring
from experiments.config import load
from experiments.model import build
from experiments.rundir import RunError
from experiments.tasks import TASKS, Batch, Picture

T = 5


def config_of(folder, task=None, **model):
    config = load(write_config(folder, "")).base
    return dataclasses.replace(
        config, task=task or config.task, model=dataclasses.replace(config.model, units=3, **model)
    )


def drawn(config):
    return jax.jit(build(config).init)(jax.random.key(1))


class Target(NamedTuple):
    symbol: jax.Array
    legal: jax.Array


@dataclasses.dataclass(frozen=True)
class Ragged(Toy):
    """Rows of 2, 5 and 4 steps, the row after the first left out of the set of legal symbols."""

    output_size = 3
    every_step = True

    def evaluation(self, key):
        x = jax.random.normal(key, (3, T, 1))
        symbol = jnp.arange(3 * T).reshape(3, T) % 3
        return Batch(x, Target(symbol, symbol[..., None] != jnp.arange(3)), jnp.array([2, 5, 4]))

    def picture(self, batch):
        return Picture(memory=np.cumsum(batch.x[..., 0], axis=1), memory_name="the sum")


def test_a_readout_of_each_step_is_what_the_sequence_up_to_it_would_have_given(tmp_path):
    config = config_of(tmp_path)
    model = build(config)
    params = drawn(config)
    example, inside = examples.look(config, params)
    batch = scoring.evaluation_batch(config)
    np.testing.assert_array_equal(example.x, batch.x[0])
    prefixes = np.repeat(batch.x[:1], T, axis=0), np.arange(1, T + 1)
    y = jax.jit(model.apply)(params, model.initial_state(T), *prefixes)[1]
    np.testing.assert_allclose(example.outputs, y, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(example.values, [[np.nan]] * (T - 1) + [[batch.target[0, 0]]])
    trace = jax.jit(jlstm.inspect, static_argnums=0)(model.layer, params.lstm, model.initial_state(1), batch.x[:1])
    np.testing.assert_allclose(inside["the layer"].trace.f, trace.f[0], rtol=1e-5)
    assert (example.classes, example.legal) == (None, None)


def test_ragged_rows_the_middle_one_is_drawn_up_to_its_end_with_classes_and_sets(tmp_path):
    config = config_of(tmp_path, Ragged())
    params = drawn(config)
    example, inside = examples.look(config, params)
    batch = scoring.evaluation_batch(config)
    np.testing.assert_array_equal(example.x, batch.x[2, :4])  # lengths 2, 5, 4: the last one's is the median
    assert example.classes is not None
    assert example.classes.tolist() == [1, 2, 0, 1]  # 10, 11, 12, 13 modulo 3
    assert example.legal is not None
    assert example.legal.tolist() == [[k != c for k in range(3)] for c in (1, 2, 0, 1)]
    logits = np.asarray(build(config).apply(params, build(config).initial_state(3), batch.x)[1])[2, :4]
    np.testing.assert_allclose(
        example.outputs, np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), rtol=1e-4, atol=1e-6
    )
    probe = inside["the layer"].probe
    assert probe is not None
    np.testing.assert_allclose(probe.memory, np.cumsum(batch.x[2, :4, 0]), rtol=1e-6)


def test_layers_and_directions_by_name_and_no_output_before_the_end(tmp_path):
    config = config_of(tmp_path, layers=2, bidirectional=True)
    example, inside = examples.look(config, drawn(config))
    assert list(inside) == ["layer 1, forward", "layer 1, backward", "layer 2, forward", "layer 2, backward"]
    assert np.isnan(example.outputs[:-1]).all()
    assert np.isfinite(example.outputs[-1]).all()
    (bar,) = heatmaps.outside(example).axes[1].patches
    assert bar.get_width() == example.outputs[-1, 0]


def test_steps_and_output_of_a_picture(tmp_path, monkeypatch):
    def picture(self, batch):
        return Picture(steps=(1, 3), row=1, output=lambda a: 0 * a + 7, target=batch.x[..., [0, 0, 0]])

    monkeypatch.setattr(Ragged, "picture", picture)
    config = config_of(tmp_path, Ragged())
    example, inside = examples.look(config, drawn(config))
    batch = scoring.evaluation_batch(config)
    assert example.first == 1
    np.testing.assert_array_equal(example.x, batch.x[1, 1:3])
    np.testing.assert_array_equal(example.values, np.repeat(batch.x[1, 1:3], 3, axis=1))
    assert (example.outputs == 7).all()
    assert inside["the layer"].trace.c.shape == (2, 3)


def test_units_are_sorted_by_what_they_hold():
    rng = np.random.default_rng(0)
    memory = rng.normal(size=(6, 8))
    memory[:, :2] = np.nan  # nothing to remember yet
    c = rng.normal(size=(6, 8, 4))
    c[..., 2] = 3 * memory - 1
    c[..., 1] = -memory
    c[:, :2] = 100.0  # must not matter
    order, words, probe = examples._by_memory(c, memory, "the answer", (1, 8))
    assert (order[0], order[-1]) == (2, 1)
    assert "the answer" in words
    assert probe.unit in (1, 2)
    assert (probe.one_r2, probe.all_r2) == pytest.approx((1, 1))
    np.testing.assert_allclose(probe.one_cell, memory[5, 1:])


def test_a_probe_is_measured_on_sequences_that_it_was_not_fitted_to():
    rng = np.random.default_rng(0)
    memory, c = rng.normal(size=(8, 5)), rng.normal(size=(8, 5, 15))  # 20 values, 15 cells that know nothing
    probe = examples._by_memory(c, memory, "noise", (0, 5))[2]
    assert probe.all_r2 < 0
    c[:4, :, 0] = memory[:4]  # known in the half that fits, and nowhere else
    assert examples._by_memory(c, memory, "noise", (0, 5))[2].one_r2 < 0


def test_without_a_memory_slow_cells_come_first():
    t = np.arange(8.0)
    c = np.stack([(-1.0) ** t, t, np.sin(t)], axis=-1)[None]
    # Σ(Δc)² / Σ(c - mean)²: 28 / 8, 7 / 42, and in between
    order, _ = examples._by_slowness(c, np.ones((1, 8), bool))
    assert order.tolist() == [1, 2, 0]
    c[:, 4:, 1] = 1000.0 * (-1.0) ** t[4:]  # padding does not count
    assert examples._by_slowness(c, t[None] < 4)[0].tolist() == [1, 2, 0]


def test_the_model_shown_is_the_median_one(tmp_path):
    config = config_of(tmp_path)
    summary = {"metrics": {"mse": {"values": [0.3, None, 0.1, 0.2, 0.4]}}}
    assert examples.median_seed(config, summary) == (0, "seed 0 of 5, the median one by mse")


def test_the_pictures_show_these_numbers(tmp_path):
    config = config_of(tmp_path, Ragged())
    example, inside = examples.look(config, drawn(config))
    found = inside["the layer"]
    figure = heatmaps.inside(example, found)
    images = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    panels = dict(zip("cifog", images[:5], strict=True))
    order = found.order
    np.testing.assert_allclose(panels["c"], (found.trace.c / found.scale)[:, order].T)
    f = np.clip(found.trace.f, 0.01, 0.99)[:, order].T
    np.testing.assert_allclose(panels["f"], np.log(f / (1 - f)), rtol=1e-5)
    np.testing.assert_allclose(panels["g"], found.trace.g[:, order].T)
    outside = heatmaps.outside(example)
    (image,) = (axis.images[0] for axis in outside.axes[:2] if axis.images)
    np.testing.assert_allclose(image.get_array(), example.outputs.T)
    circles, dots = outside.axes[1].collections
    assert example.legal is not None
    assert example.classes is not None
    np.testing.assert_array_equal(circles.get_offsets(), np.argwhere(example.legal))
    np.testing.assert_array_equal(dots.get_offsets(), list(enumerate(example.classes)))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_be_drawn(name, tmp_path, monkeypatch):
    """By shapes alone: zeros stand for what would be drawn and computed."""
    zeros = lambda tree: jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), tree)  # noqa: E731
    task = TASKS[name]()
    try:
        batch = zeros(jax.eval_shape(task.evaluation, jax.random.key(0)))
    except RunError as error:
        pytest.skip(str(error))  # the package with its data is not installed
    if batch.lengths is not None:
        batch = batch._replace(lengths=np.full(batch.x.shape[0], batch.x.shape[1], np.int32))
    monkeypatch.setattr(examples, "evaluation_batch", lambda config: batch)
    config = config_of(tmp_path, task)
    params = zeros(jax.eval_shape(build(config).init, jax.random.key(0)))
    run = examples._run
    monkeypatch.setattr(
        examples.jax, "jit", lambda f, **_: lambda model, *a: zeros(jax.eval_shape(lambda *a: run(model, *a), *a))
    )
    example, inside = examples.look(config, params)
    assert example.x.shape == (len(example.outputs), task.input_size)
    assert example.outputs.shape[1] == task.output_size
    assert any(target is not None for target in (example.values, example.classes, example.legal))
    for names, size in ((example.inputs, task.input_size), (example.names, task.output_size)):
        assert names is None or len(names) == size
    heatmaps.outside(example)
    heatmaps.inside(example, inside["the layer"])
