"""Digits: images read by rows, the split that is named, and what augmentation may do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import peer

from experiments.tasks import Batch
from experiments.tasks.digits import Digits

peer("sklearn")


def batch(x):
    return Batch(x, jnp.zeros(len(x), jnp.int32))


def images():
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def test_the_split_is_scikit_learn_s():
    from sklearn.model_selection import train_test_split

    pixels, label = images()
    x, x_test, y, y_test = train_test_split(pixels, label, test_size=0.2, random_state=0, stratify=label)
    split = Digits().split()
    assert (len(y), len(y_test)) == (1437, 360)
    np.testing.assert_array_equal(split.train.label, y)
    np.testing.assert_array_equal(split.held_out.label, y_test)
    np.testing.assert_array_equal(split.train.x.reshape(-1, 64) * 16, x)
    np.testing.assert_array_equal(split.held_out.x.reshape(-1, 64) * 16, x_test)
    _, x_validation, _, y_validation = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    np.testing.assert_array_equal(Digits(held_out="validation").split().held_out.x.reshape(-1, 64) * 16, x_validation)
    np.testing.assert_array_equal(Digits(held_out="validation").split().held_out.label, y_validation)


def test_a_time_step_is_a_row_of_the_image():
    from sklearn.datasets import load_digits

    x = np.concatenate([part.x for part in Digits().split()])
    first = load_digits().images[0] / 16
    assert np.all(x == first, axis=(1, 2)).sum() == 1


def test_shifted_images_are_whole_pixel_moves_with_blanks_coming_in():
    image = np.arange(1.0, 65.0, dtype=np.float32).reshape(8, 8)
    moved = Digits(shift=1).augment(jax.random.key(0), batch(jnp.broadcast_to(image, (300, 8, 8)))).x
    padded = np.zeros((10, 10), np.float32)
    padded[1:9, 1:9] = image
    windows = {padded[i : i + 8, j : j + 8].tobytes() for i in range(3) for j in range(3)}
    assert {np.asarray(row).tobytes() for row in moved} == windows


def test_noise_has_the_deviation_asked_for_and_none_is_none():
    x = jnp.zeros((500, 8, 8))
    noisy = np.asarray(Digits(noise=0.2).augment(jax.random.key(0), batch(x)).x)
    # 32,000 numbers: the deviation of a deviation of 0.2 is 0.0008
    assert noisy.std() == pytest.approx(0.2, abs=0.004)
    np.testing.assert_array_equal(Digits().augment(jax.random.key(0), batch(x)).x, x)


def test_baseline_is_logistic_regression_on_pixels():
    from sklearn.linear_model import LogisticRegression

    train, test = Digits().split()
    model = LogisticRegression(max_iter=1000).fit(train.x.reshape(-1, 64), train.label)
    wrong = sum(
        model.predict(image.reshape(1, 64))[0] != label for image, label in zip(test.x, test.label, strict=True)
    )
    assert Digits().baseline()["accuracy"] == pytest.approx(1 - wrong / 360)


def test_fields_out_of_range_raise():
    with pytest.raises(ValueError, match="shift must be from 0 to 7, got 8"):
        Digits(shift=8)
    with pytest.raises(ValueError, match=r"noise must be at least 0, got -0\.1"):
        Digits(noise=-0.1)
