"""Training: seeds, calls and stops change no digit; what is not finite stops the run at its step."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import write_config

from experiments import checkpoint, scoring, steps, train
from experiments.config import ConfigError, Target, load
from experiments.model import build
from experiments.optimizer import optimizer
from experiments.rundir import Lines, Stopped, read_lines
from experiments.tasks import Batch


def quiet(step, loss, metrics):
    """Report nothing."""


def config_of(folder, *arguments):
    return load(write_config(folder), arguments).base


def metrics_of(config, folder):
    """Train in a fresh directory; the bytes of metrics.jsonl."""
    folder.mkdir(exist_ok=True)
    train.run(config, folder, quiet)
    return (folder / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run never stopped: (config, metrics.jsonl)."""
    folder = tmp_path_factory.mktemp("whole")
    config = config_of(folder)
    return config, metrics_of(config, folder / "run")


def test_each_logged_step_has_one_line_with_its_mean_loss(whole):
    lines = [json.loads(line) for line in whole[1].splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    for line in lines:
        assert line["loss"] == pytest.approx(np.mean(line["losses"]), rel=1e-6)
        assert len(line["losses"]) == 2
        assert ("mse" in line) == (line["step"] % 5 == 0)
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.parametrize("steps_per_call", [1, 20])
def test_steps_per_call_changes_no_digit(whole, tmp_path, steps_per_call):
    config, expected = whole
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps_per_call=steps_per_call))
    assert metrics_of(config, tmp_path / "run") == expected


def test_a_torn_line_and_lines_behind_the_checkpoint_are_cut(whole, tmp_path):
    config, expected = whole
    run = tmp_path / "run"
    shorter = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=10))
    metrics_of(shorter, run)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 11, "loss": 1.0, "losses": [1.0, 1.0]}\n{"step": 12, "lo')
    train.run(config, run, quiet)
    assert (run / "metrics.jsonl").read_bytes() == expected


def test_a_damaged_newest_checkpoint_costs_steps_and_no_digit(whole, tmp_path):
    config, expected = whole
    run = tmp_path / "run"
    metrics_of(config, run)
    (run / "checkpoints" / "0000000020" / "about" / "metadata").unlink()
    train.run(config, run, quiet)
    assert (run / "metrics.jsonl").read_bytes() == expected
    assert checkpoint.latest(run / "checkpoints", steps.init(config))[0] == 20


def test_without_a_complete_checkpoint_it_starts_at_step_0(whole, tmp_path):
    config, expected = whole
    run = tmp_path / "run"
    metrics_of(dataclasses.replace(config, train=dataclasses.replace(config.train, steps=5)), run)
    for part in (run / "checkpoints").iterdir():
        part.rename(part.with_name(part.name + ".orbax-checkpoint-tmp"))
    train.run(config, run, quiet)
    assert (run / "metrics.jsonl").read_bytes() == expected


def test_a_seed_trains_as_it_does_alone(whole, tmp_path):
    config, expected = whole
    alone = dataclasses.replace(config, train=dataclasses.replace(config.train, seeds=1))
    found = [json.loads(line)["losses"][0] for line in metrics_of(alone, tmp_path / "run").splitlines()]
    both = [json.loads(line)["losses"] for line in expected.splitlines()]
    # A batched matrix product may add in another order: float32 rounding, grown over 20 steps.
    np.testing.assert_allclose(found, [pair[0] for pair in both], rtol=1e-4)
    assert all(pair[0] != pair[1] for pair in both), "seeds differ in data and in initial weights"


def test_another_base_seed_is_another_run(whole, tmp_path):
    config, expected = whole
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=1))
    assert metrics_of(other, tmp_path / "run") != expected


@pytest.mark.parametrize("bad_at", [0, 7])
def test_a_loss_not_finite_stops_at_its_step_and_saves_what_was_good(whole, tmp_path, bad_at):
    config, expected = whole
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, bad_at=bad_at))
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(Stopped, match=f"not finite at step {bad_at + 1};"):
        train.run(config, run, quiet)
    step, state = checkpoint.latest(run / "checkpoints", steps.init(config))
    assert (step, int(state.step)) == (bad_at, bad_at)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    lines = (run / "metrics.jsonl").read_bytes()
    assert lines == b"".join(expected.splitlines(keepends=True)[:bad_at])
    with pytest.raises(Stopped, match=f"not finite at step {bad_at + 1};"):  # the same again when resumed
        train.run(config, run, quiet)
    assert (run / "metrics.jsonl").read_bytes() == lines


def test_a_state_carried_over_makes_a_difference_and_resumes_to_the_bit(whole, tmp_path):
    config, expected = whole
    part = dataclasses.replace(config.train, stateful=True)
    stateful = dataclasses.replace(config, train=part)
    complete = metrics_of(stateful, tmp_path / "whole")
    first = [json.loads(text.splitlines()[0])["losses"] for text in (complete, expected)]
    assert first[0] == first[1], "step 1 starts from zeros either way"
    assert complete != expected
    run = tmp_path / "cut"
    metrics_of(dataclasses.replace(stateful, train=dataclasses.replace(part, steps=10)), run)
    train.run(stateful, run, quiet)
    assert (run / "metrics.jsonl").read_bytes() == complete


def test_constraints_hold_after_each_update(tmp_path):
    arguments = [
        "--model.lstm.kernel_constraint",
        "{name = 'MaxNorm', max_value = 0.1}",
        "--train.steps",
        "2",
    ]
    config = config_of(tmp_path, *arguments)
    state, _ = steps.make_call(config)(steps.init(config), 2)
    norms = np.linalg.norm(np.asarray(state.params.lstm.kernel), axis=1)
    assert norms.max() <= 0.1 + 1e-6


def test_penalties_are_part_of_the_loss(tmp_path):
    plain = config_of(tmp_path)
    penalised = config_of(tmp_path, "--model.lstm.kernel_regularizer", "{name = 'L2', l2 = 10.0}")
    first = [steps.make_call(c)(steps.init(c), 1)[1][0] for c in (plain, penalised)]
    kernel = np.asarray(steps.init(plain).params.lstm.kernel)
    np.testing.assert_allclose(first[1] - first[0], 10.0 * (kernel**2).sum((1, 2)), rtol=1e-4)


def test_dropout_is_drawn_in_training_only(tmp_path):
    plain, dropped = config_of(tmp_path), config_of(tmp_path, "--model.lstm.dropout", "0.5")
    states = [steps.init(c) for c in (plain, dropped)]
    scores = [
        np.asarray(scoring.make_scores(c).evaluate(s.params)["mse"])
        for c, s in zip((plain, dropped), states, strict=True)
    ]
    np.testing.assert_array_equal(*scores)
    first = [np.asarray(steps.make_call(c)(s, 1)[1][0]) for c, s in zip((plain, dropped), states, strict=True)]
    assert (first[0] != first[1]).all()


def test_calls_end_at_the_same_steps_wherever_they_start(tmp_path):
    part = config_of(tmp_path).train  # 20 steps; calls of 4, evaluations and checkpoints each 5
    ends = list(train.call_ends(part, 0))
    assert ends == [4, 5, 8, 10, 12, 15, 16, 20]
    assert all(list(train.call_ends(part, end)) == [e for e in ends if e > end] for end in ends)


def test_a_call_compiles_once_for_every_length(tmp_path):
    config = config_of(tmp_path)
    call, state = steps.make_call(config), steps.init(config)
    for end in train.call_ends(config.train, 0):
        state, _ = call(state, end)
    assert call._cache_size() == 1


def target(metric="mse", value=9.0, **changes):
    return Target(metric, value, **changes)


@pytest.mark.parametrize(("stop_after", "value", "last"), [(1, 9.0, 5), (3, 9.0, 15), (3, 0.0, 20), (0, 9.0, 20)])
def test_training_ends_after_so_many_evaluations_that_meet_the_target(whole, tmp_path, stop_after, value, last):
    config, expected = whole  # an evaluation each 5 of 20 steps; every mse is below 9 and none below 0
    part = dataclasses.replace(config.train, stop_after=stop_after)
    config = dataclasses.replace(config, train=part, target=target(value=value))
    run = tmp_path / "run"
    assert metrics_of(config, run) == b"".join(expected.splitlines(keepends=True)[:last])
    assert checkpoint.steps(run / "checkpoints")[0] == last
    done = train.run(config, run, quiet)  # resumed, it has nothing left to do
    assert done.step == last
    assert (run / "metrics.jsonl").read_bytes() == b"".join(expected.splitlines(keepends=True)[:last])


def test_a_run_stopped_by_success_resumes_to_the_same_digits(whole, tmp_path):
    config, expected = whole
    part = dataclasses.replace(config.train, stop_after=3)
    config = dataclasses.replace(config, train=part, target=target())
    run = tmp_path / "run"
    metrics_of(dataclasses.replace(config, train=dataclasses.replace(part, steps=10)), run)  # killed after two of three
    train.run(config, run, quiet)
    assert (run / "metrics.jsonl").read_bytes() == b"".join(expected.splitlines(keepends=True)[:15])


@pytest.mark.parametrize("changes", [None, {"at_most": 0.5}])
def test_stop_after_wants_a_target_to_reach(whole, changes):
    config = dataclasses.replace(whole[0], train=dataclasses.replace(whole[0].train, stop_after=2))
    config = dataclasses.replace(config, target=None if changes is None else target(**changes))
    with pytest.raises(ConfigError, match=r"stop_after needs a \[target\] that each evaluation gives \(mse\)"):
        scoring.check(config, "toy.toml")


def test_the_rate_rises_then_falls_by_a_cosine(tmp_path):
    arguments = ["--optimizer.warmup", "4", "--optimizer.schedule", "cosine", "--train.steps", "12"]
    arguments += ["--optimizer.name", "sgd", "--optimizer.clip", "0", "--optimizer.learning_rate", "0.8"]
    update = optimizer(config_of(tmp_path, *arguments))
    state, rates = update.init({"w": np.float32(0)}), []
    for _ in range(12):
        step, state = update.update({"w": np.float32(-1)}, state)
        rates.append(float(step["w"]))
    np.testing.assert_allclose(rates[:5], [0.0, 0.2, 0.4, 0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(rates[8], 0.4, rtol=1e-6)  # half way down: cos(pi / 2) = 0
    np.testing.assert_allclose(rates[10], 0.8 * (1 + np.cos(6 * np.pi / 8)) / 2, rtol=1e-5)


def test_a_batch_may_start_rows_afresh(tmp_path):
    model = build(config_of(tmp_path))
    params = model.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (2, 5, 1))
    reset = jnp.zeros((2, 5), bool).at[0, 3].set(True)
    outputs = scoring._outputs(model, params, Batch(x, (), None, reset))
    whole = scoring._outputs(model, params, Batch(x, ()))
    tail = scoring._outputs(model, params, Batch(x[:, 3:], ()))
    np.testing.assert_allclose(outputs[0], tail[0], rtol=1e-5)
    np.testing.assert_allclose(outputs[1], whole[1], rtol=1e-5)
    assert abs(whole[0] - tail[0]).max() > 1e-4


def test_a_target_without_its_metric_is_found_before_training(tmp_path):
    config = load(write_config(tmp_path, '[target]\nmetric = "msee"\nvalue = 1.0\n')).base
    with pytest.raises(ConfigError, match=r"toy.toml: \[target\] metric must be one of mse, got 'msee'"):
        scoring.check(config, "toy.toml")


def test_lines_survive_a_torn_end(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3')
    assert read_lines(path) == [{"step": 1}, {"step": 2}]
    assert read_lines(path, 1) == [{"step": 1}]
    lines = Lines(path, 2)
    lines.append({"step": 3})
    lines.close()
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n{"step": 3}\n'
