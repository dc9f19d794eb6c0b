"""What each task says its cells have to remember, on sequences worked by hand."""

import numpy as np
import pytest

from experiments.tasks import TASKS, Batch
from experiments.tasks.timing import Timed

NAN = np.nan
REBER = "BTBPVVETEBPBTXSEPEBT"
END = np.array([[0, 0, 1, 0, 0, 0, 1]], bool)  # of intervals of 3 and 4 steps


def pairs(*steps):
    return np.array(steps, np.float32)[None]


def one_hot(alphabet, *texts):
    return np.array([[[letter == c for letter in alphabet] for c in text] for text in texts], np.float32)


CASES = {
    "adding": ({"length": 22}, Batch(pairs((0.5, -1), (0.25, 1), (0.9, 0), (-1, 1), (0.7, -1)), ()),
               [[0, 0.25, 0.25, -0.75, -0.75]]),
    "adding_unit": ({"length": 4}, Batch(pairs((0.5, 0), (0.25, 1), (0.9, 0), (0.5, 1)), ()), [[0, 0.25, 0.25, 0.75]]),
    "multiplication": ({"length": 22}, Batch(pairs((0.5, -1), (0.25, 1), (0.9, 0), (0.5, 1)), ()),
                       [[1, 0.25, 0.25, 0.125]]),
    "temporal_order": ({}, Batch(one_hot("EBabcdXY", "EaYbXB", "EXabYB"), ()),
                       [[NAN, NAN, 1, 1, 1, 1], [NAN, -1, -1, -1, -1, -1]]),
    "embedded_reber": ({}, Batch(one_hot("BTPSXVE", "BTBTXSET..", "BPBPVVEP.."), (), np.array([8, 8])),
                       [[NAN, 1, 1, 1, 1, 1, 1, NAN, NAN, NAN], [NAN, -1, -1, -1, -1, -1, -1, NAN, NAN, NAN]]),
    "lag": ({"lag": 2, "length": 4}, Batch(pairs((1,), (2,), (3,), (4,)), ()), [[NAN, 1, 2, 3]]),
    "stateful_average": ({}, Batch(pairs((1,), (2,)), ()), [[1, 2]]),
    "counting": ({}, Batch(one_hot("Sab", "Saabb"), ()), [[0, 1, 2, 1, 0]]),
    "continual_reber": ({}, Batch(one_hot("BTPSXVE", REBER), ()),
                        [[NAN, 1, 1, 1, 1, 1, 1, NAN, NAN, NAN, -1, -1, -1, -1, -1, -1, NAN, NAN, NAN, 1]]),
    "timing": ({"interval": 3}, Batch(np.zeros((1, 7, 1)), Timed(np.ones((1, 7, 1)), END, END)),
               [[1, 2, 0, 1, 2, 3, 0]]),
    "time_lag": ({"p": 4}, Batch(one_hot("abcxy", "xabc", "ybca"), ()), [[-1] * 4, [1] * 4]),
    "long_lag": ({}, Batch(one_hot("aebxy", "bxaae", "byae."), ()), [[NAN, -1, -1, -1, -1], [NAN, 1, 1, 1, 1]]),
    "two_sequence": ({"informative": 2}, Batch(pairs((1,), (0.5,), (9,), (9,)), ()), [[NAN, 0.75, 0.75, 0.75]]),
    "parity": ({}, Batch(pairs((1,), (-1,), (1,), (1,)), ()), [[1, 1, 0, 1]]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_memory(name):
    options, batch, expected = CASES[name]
    picture = TASKS[name](**options).picture(batch)
    np.testing.assert_allclose(picture.memory, expected)
    assert picture.memory_name


def test_the_lag_task_is_drawn_with_a_target_from_step_lag_on():
    options, batch, _ = CASES["lag"]
    np.testing.assert_array_equal(TASKS["lag"](**options).picture(batch).target[..., 0], [[NAN, NAN, 1, 2]])


def test_adding_is_drawn_on_the_largest_sum():
    x = np.concatenate([pairs((0.5, 1), (0.1, 1)), pairs((-0.9, 1), (-0.1, 1)), pairs((0.9, 0), (0.9, 0))])
    assert TASKS["adding"](length=22).picture(Batch(x, ())).row == 1


def test_sunspots_are_drawn_in_sunspots():
    task = TASKS["sunspots"]()
    numbers = np.array([[4.0, 25.0, 9.0]])
    x = np.asarray(task.scale(numbers))[..., None]
    picture = task.picture(Batch(x[:, :-1], numbers[:, 1:]))
    np.testing.assert_allclose(picture.output(x[:, 1:] - x[:, :-1]), numbers[:, 1:, None], rtol=1e-5)
    np.testing.assert_array_equal(picture.target, numbers[:, 1:, None])


def test_where_nothing_is_asked_for_no_target_is_drawn():
    options, batch, _ = CASES["timing"]
    target = TASKS["timing"](**options).picture(batch).target[0, :, 0]
    np.testing.assert_array_equal(target, np.where(END[0], 1.0, NAN))
    question, answer = one_hot("0123456789+ ", "1+1  "), np.array([[2, 11, 11]])
    x = np.pad(question, ((0, 0), (0, 3), (0, 0)))
    assert TASKS["number_addition"]().picture(Batch(x, answer)).target.tolist() == [[-1] * 5 + [2, 11, 11]]
