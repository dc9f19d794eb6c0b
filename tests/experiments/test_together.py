"""A group of configs: each has the numbers that it has alone, and what one does is nothing to the others."""

import dataclasses

import jax
import numpy as np
import pytest
from toy import write_config

from experiments import rundir, together, train
from experiments.config import load
from experiments.members import Member, groups

# Another program adds in another order: float32 rounding, grown over 20 steps. Members differ by far more.
ROUNDING = 1e-4
TARGET = '[target]\nmetric = "mse"\nvalue = 0.3\n'


def quiet(step, loss, metrics):
    """Report nothing."""


def lines_of(config, folder):
    """Train alone; its metrics.jsonl."""
    folder.mkdir()
    train.run(config, folder, quiet)
    return rundir.read_lines(folder / "metrics.jsonl")


def same(found, expected):
    """Hold two files of metrics to the same steps and names, and to the same numbers up to rounding."""
    assert [list(line) for line in found] == [list(line) for line in expected]
    for one, other in zip(found, expected, strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=ROUNDING, err_msg=f"step {one['step']} {name}")


@dataclasses.dataclass
class Trained:
    """A group, its configs beside each other, and the lines of metrics of those that end well alone."""

    configs: list
    folder: object
    outcomes: list
    alone: list


pytestmark = pytest.mark.usefixtures("quick_to_compile")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three members that differ in every input and in the seed: stopped by success, trained to the end, diverged.

    Nine models on two devices, so one of them stands in twice.
    """
    folder = tmp_path_factory.mktemp("together")
    base = load(write_config(folder, TARGET, seeds=3, steps=40, evaluate_every=2, log_every=3)).base
    base = dataclasses.replace(base, train=dataclasses.replace(base.train, stop_after=3))
    configs = []
    for rate, clip, decay, seed in ((0.05, 0.3, 0.0, 7), (0.02, 0.02, 0.5, 0), (1e30, 1.0, 0.1, 0)):
        part = dataclasses.replace(base.optimizer, name="adamw", schedule="cosine", warmup=4)
        part = dataclasses.replace(part, learning_rate=rate, clip=clip, weight_decay=decay)
        configs.append(dataclasses.replace(base, optimizer=part, train=dataclasses.replace(base.train, seed=seed)))
    (folder / "group").mkdir()
    outcomes, _ = together.run(configs, folder / "group", quiet)
    alone = [lines_of(config, folder / str(number)) for number, config in enumerate(configs[:2])]
    return Trained(configs, folder, outcomes, alone)


def test_these_configs_are_one_group(trained):
    named = [Member(str(n), {}, config) for n, config in enumerate(trained.configs)]
    assert groups(named, together=64) == [named]


def test_a_member_has_the_numbers_that_it_has_alone(trained):
    for outcome, expected in zip(trained.outcomes[:2], trained.alone, strict=True):
        same(outcome.lines, expected)
    one, other = (outcome.lines[1]["losses"] for outcome in trained.outcomes[:2])
    assert abs(one[0] - other[0]) > 100 * ROUNDING, "and members differ"


def test_what_diverges_stops_there_and_nobody_else(trained):
    # Warm-up makes the rate of step 1 zero; step 2 leaves parameters near 1e29, whose loss at step 3 no float32 holds.
    assert [outcome.bad_step for outcome in trained.outcomes] == [None, None, 3]
    assert [line["step"] for line in trained.outcomes[2].lines] == [2]
    before = jax.tree.leaves(trained.outcomes[2].params)
    assert all(np.isfinite(leaf).all() for leaf in before)


def test_success_ends_each_where_it_ends_alone(trained):
    ends = [outcome.lines[-1]["step"] for outcome in trained.outcomes]
    assert ends[:2] == [lines[-1]["step"] for lines in trained.alone]
    assert ends[0] < ends[1], "the second goes on without the first"
    group = rundir.read_lines(trained.folder / "group" / "metrics.jsonl")
    assert group[-1]["step"] == ends[1], "and the group ends with the last of them"


def test_what_is_done_stays_as_it_is(trained):
    again, _ = together.run(trained.configs, trained.folder / "group", quiet)
    for outcome, before in zip(again, trained.outcomes, strict=True):
        assert (outcome.lines, outcome.bad_step) == (before.lines, before.bad_step)
        jax.tree.map(np.testing.assert_array_equal, outcome.params, before.params)


def test_what_members_share_is_no_input(trained):
    one, other, third = trained.configs
    assert together.traced([one]) == {}
    found = together.traced([one, dataclasses.replace(other, optimizer=third.optimizer)])
    assert {name: value.tolist() for name, value in found.items()} == {
        "learning_rate": pytest.approx([0.05] * 3 + [1e30] * 3), "clip": pytest.approx([0.3] * 3 + [1.0] * 3),
        "weight_decay": pytest.approx([0.0] * 3 + [0.1] * 3),
    }  # fmt: skip
    same_rates = dataclasses.replace(one, optimizer=dataclasses.replace(one.optimizer, clip=0.5))
    assert list(together.traced([one, same_rates])) == ["clip"]


def test_a_config_ends_with_the_first_of_its_seeds_that_is_not_finite():
    assert together._first_bad(np.array([0, 7, 5])) == 5
    assert together._first_bad(np.array([0, 0])) == 0
