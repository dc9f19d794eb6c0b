"""Sunspots: the series, the split, the baselines, and forecasts that never see what they forecast."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks import sunspots
from experiments.tasks.sunspots import TEST, TRAINING, VALIDATION, Sunspots, score, series

TASK = Sunspots()


def test_the_series_is_whole():
    years, numbers = series()
    np.testing.assert_array_equal(years, np.arange(1700, 2009))
    known = {1700: 5.0, 1778: 154.4, 1810: 0.0, 1957: 190.2, 2008: 2.9}  # as published
    assert {year: numbers[year - 1700] for year in known} == known


@pytest.mark.parametrize("transform", ["sqrt", "none"])
def test_scaling_comes_back_and_is_fitted_on_training_years(transform):
    task, (years, numbers) = Sunspots(transform=transform), series()
    scaled = task.scale(numbers)
    np.testing.assert_allclose(task.unscale(scaled), numbers, atol=1e-3)
    inside = scaled[years <= 1920]
    np.testing.assert_allclose([inside.mean(), inside.std()], [0.0, 1.0], atol=1e-12)


def test_training_windows_are_the_training_years_alone():
    _, batch = jax.jit(TASK.sample, static_argnums=2)(jax.random.key(0), (), 512)
    assert batch.x.shape == batch.target.shape == (512, 96, 1)
    np.testing.assert_array_equal(batch.x[:, 1:], batch.target[:, :-1])
    seen = np.asarray(TASK.unscale(batch.target), np.float64)
    years, numbers = series()
    distance = np.abs(seen[..., None] - np.unique(numbers[years <= 1920]))
    assert distance.min(axis=-1).max() < 1e-2
    last = TASK.scale(numbers[years == 1920])[0]
    assert np.isclose(np.asarray(batch.target)[:, -1, 0], last, atol=1e-5).any(), "the last training year is reached"


def test_evaluation_ends_with_validation():
    batch = TASK.evaluation(jax.random.key(0))
    assert batch.x.shape == (1, 255, 1)  # 1700 to 1954, forecasting 1701 to 1955
    np.testing.assert_allclose(batch.target[0, -1], series()[1][255])


def test_a_model_that_changes_nothing_is_persistence():
    batch = TASK.evaluation(jax.random.key(0))
    found = TASK.metrics(jnp.zeros_like(batch.x), batch)["validation_mse"]
    np.testing.assert_allclose(found, TASK.baseline()["validation_mse"], rtol=1e-4)
    years, numbers = series()
    by_hand = np.mean(np.diff(numbers)[(years[1:] > 1920) & (years[1:] <= 1955)] ** 2)
    np.testing.assert_allclose(TASK.baseline()["validation_mse"], by_hand)


def test_autoregression_is_least_squares_on_the_training_years():
    years, numbers = series()
    rows = [[1.0, *numbers[t - 9 : t]] for t in range(9, 309)]
    inside = years[9:] <= 1920
    # Normal equations, solved on their own: another way to the same minimum.
    a, b = np.array(rows)[inside], numbers[9:][inside]
    weights = np.linalg.solve(a.T @ a, a.T @ b)
    np.testing.assert_allclose(sunspots.autoregression(False)[9:], np.maximum(np.array(rows) @ weights, 0), atol=1e-6)
    assert score(sunspots.autoregression(False), VALIDATION) == pytest.approx(189.2, abs=0.1)


def test_free_runs_never_see_the_test_years(monkeypatch):
    predict = lambda x: jnp.stack([0.1 * jnp.cumsum(x, axis=1), -0.2 * x])  # noqa: E731  two causal "seeds"
    before = TASK.free_run(predict), sunspots.free_autoregression(False), sunspots.free_autoregression(True)
    years, numbers = series()
    changed = np.where(years > 1955, 500.0, numbers)
    monkeypatch.setattr(sunspots, "series", lambda: (years, changed))
    after = TASK.free_run(predict), sunspots.free_autoregression(False), sunspots.free_autoregression(True)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isnan(a[years <= 1955]).all()
        assert np.isfinite(a[years > 1955]).all()


def test_one_step_forecasts_use_earlier_years_only(monkeypatch):
    predict = lambda x: 0.1 * jnp.cumsum(x, axis=1)[None]  # noqa: E731
    years, numbers = series()
    before = TASK.one_step(predict)
    monkeypatch.setattr(sunspots, "series", lambda: (years, np.where(years >= 1990, 0.0, numbers)))
    np.testing.assert_array_equal(TASK.one_step(predict)[: 1991 - 1700], before[: 1991 - 1700])


def test_the_ensemble_is_the_mean_of_forecasts_in_sunspots():
    parts = [lambda x: 0.3 * x, lambda x: -0.2 * x]
    both = TASK.one_step(lambda x: jnp.stack([p(x) for p in parts]))
    single = [TASK.one_step(lambda x, p=p: p(x)[None]) for p in parts]
    np.testing.assert_allclose(both, np.mean(single, axis=0), rtol=1e-5)


def test_final_figures_name_each_forecaster():
    found = TASK.final(lambda x: jnp.zeros((8, *x.shape)))
    assert found["test_mse_over_persistence"] == pytest.approx(1.0, rel=1e-4)
    assert found["test MSE/LSTM, mean of seeds"] == pytest.approx(found["test MSE/persistence"], rel=1e-4)
    periods = {"validation MSE": VALIDATION, "test MSE": TEST}
    for name, period in periods.items():
        assert found[f"{name}/AR(9)"] == score(sunspots.autoregression(False), period)
    assert np.isnan(score(sunspots.persistence(), TRAINING)), "the first year has no forecast"


def test_figures_shade_the_periods():
    figures = TASK.figures(lambda x: jnp.zeros((8, *x.shape)))
    assert len(figures) == 2
    for figure in figures.values():
        words = {t.get_text() for t in figure.axes[0].texts}
        assert {"validation", "test"} <= words
        assert figure.axes[0].get_ylabel() == "yearly mean sunspot number"


def test_a_window_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="window must lie between warmup and 220 years, got 300"):
        Sunspots(window=300)
