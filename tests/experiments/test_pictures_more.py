"""What the tasks on symbols and in time say their cells have to remember, on sequences worked by hand."""

import numpy as np
import pytest
from test_pictures import NAN, one_hot, pairs

from experiments.tasks import TASKS, Batch
from experiments.tasks.timing import Timed

REBER = "BTBPVVETEBPBTXSEPEBT"
END = np.array([[0, 0, 1, 0, 0, 0, 1]], bool)  # of intervals of 3 and 4 steps
CASES = {
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


def test_where_nothing_is_asked_for_no_target_is_drawn():
    options, batch, _ = CASES["timing"]
    target = TASKS["timing"](**options).picture(batch).target[0, :, 0]
    np.testing.assert_array_equal(target, np.where(END[0], 1.0, NAN))
    question, answer = one_hot("0123456789+ ", "1+1  "), np.array([[2, 11, 11]])
    x = np.pad(question, ((0, 0), (0, 3), (0, 0)))
    assert TASKS["number_addition"]().picture(Batch(x, answer)).target.tolist() == [[-1] * 5 + [2, 11, 11]]
