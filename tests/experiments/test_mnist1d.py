"""MNIST-1D: the package's recipe, drawn without a trace, and what augmentation may do."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import peer

from experiments.tasks import Batch, mnist1d
from experiments.tasks.mnist1d import MNIST1D

peer("mnist1d")
LINE = jnp.linspace(1.0, 2.0, 40)[None, :, None]


def test_the_set_is_the_package_s_and_drawing_it_leaves_the_process_s_random_numbers_alone():
    from mnist1d.data import get_dataset_args, make_dataset

    mnist1d._split.cache_clear()
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = random.random(), np.random.rand()  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    train, test = MNIST1D().split()
    assert (random.random(), np.random.rand()) == expected  # noqa: NPY002

    made = make_dataset(get_dataset_args())
    assert train.x.shape == (4000, 40, 1)
    assert test.x.shape == (1000, 40, 1)
    np.testing.assert_allclose(train.x[..., 0], made["x"], atol=1e-6)
    np.testing.assert_allclose(test.x[..., 0], made["x_test"], atol=1e-6)
    np.testing.assert_array_equal(train.label, made["y"])
    np.testing.assert_array_equal(test.label, made["y_test"])


def many(task):
    return np.asarray(task.augment(jax.random.key(0), Batch(jnp.broadcast_to(LINE, (400, 40, 1)), None)).x)[..., 0]


def test_without_fields_nothing_is_changed():
    np.testing.assert_array_equal(many(MNIST1D()), np.broadcast_to(LINE[..., 0], (400, 40)))


def test_rolled_rows_are_turned_by_every_number_of_steps_up_to_the_limit():
    line = np.asarray(LINE)[0, :, 0]
    assert {row.tobytes() for row in many(MNIST1D(roll=2))} == {np.roll(line, k).tobytes() for k in range(-2, 3)}


def test_scaled_rows_are_multiples():
    factors = many(MNIST1D(scale=0.2)) / np.asarray(LINE)[..., 0]
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1], factors.shape), rtol=1e-5)
    assert 0.8 <= factors.min() < 0.82
    assert 1.18 < factors.max() <= 1.2


def test_sloped_rows_have_a_line_through_the_middle_added():
    added = many(MNIST1D(slope=0.5)) - np.asarray(LINE)[..., 0]
    np.testing.assert_allclose(np.diff(added, n=2, axis=1), 0.0, atol=1e-6)
    np.testing.assert_allclose(added.mean(axis=1), 0.0, atol=1e-6)
    rise = added[:, -1] - added[:, 0]
    assert -0.5 <= rise.min() < -0.45
    assert 0.45 < rise.max() <= 0.5


def test_noise_has_the_deviation_asked_for():
    assert (many(MNIST1D(noise=0.1)) - np.asarray(LINE)[..., 0]).std() == pytest.approx(0.1, abs=0.003)


def test_fields_out_of_range_raise():
    with pytest.raises(ValueError, match="roll must be from 0 to 39, got 40"):
        MNIST1D(roll=40)
    with pytest.raises(ValueError, match=r"noise, scale and slope must be at least 0, got 0\.0, -1\.0, 0\.0"):
        MNIST1D(scale=-1.0)
