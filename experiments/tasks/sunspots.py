"""Sunspots: forecast the yearly series one step ahead, and on its own from 1955; AR(9) beside it."""

import csv
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.tasks import Batch, Picture

Array = jax.Array
FILE = Path(__file__).parent.parent / "data" / "sunspots.csv"
TRAIN_END, VALIDATION_END, TEST_END = 1920, 1955, 2008  # last year of each period
ORDER = 9  # of the autoregression, as usual for this series


@dataclass(frozen=True)
class Sunspots:
    """Forecast next year's mean sunspot number from all the years before it.

    Years to 1920 train (the scaling and the autoregressions are fitted on them too), 1921-1955 choose everything
    that is chosen, 1956-2008 test, once. The forecast is the mean over the seeds. Errors are in sunspots squared.

    Shows: real data through the whole runner, a streaming forecast, and honest baselines (persistence, and AR(9) by
    least squares, on the numbers and on their square roots).
    Source: yearly means 1700-2008, SIDC by way of NOAA NGDC, public domain. AR models of this series since Yule 1927;
    order 9 as in Tong's comparisons.
    """

    window: int = 96  # years in a training sequence, drawn at a random start
    warmup: int = 12  # first years of a window that carry no loss: about one solar cycle
    transform: Literal["sqrt", "none"] = "sqrt"  # square roots even out the variance between calm and active years
    noise: float = 0.0  # standard deviation of noise added to training inputs, in units of the scaled series

    input_size = 1
    output_size = 1
    every_step = True
    loss_on = "the steps after the warm-up"

    def __post_init__(self):
        if not 0 <= self.warmup < self.window < TRAIN_END - 1700:
            raise ValueError(f"window must lie between warmup and 220 years, got {self.window} and {self.warmup}")

    def stream(self, key: Array, batch_size: int) -> tuple[()]:
        """Give no carry: windows are independent."""
        return ()

    def sample(self, key: Array, stream: tuple[()], batch_size: int) -> tuple[tuple[()], Batch]:
        """Draw windows of the training years; target is the next year's scaled value, [B, T, 1]."""
        start_key, noise_key = jax.random.split(key)
        series = self._scaled_training()
        starts = jax.random.randint(start_key, (batch_size,), 0, series.shape[0] - self.window)
        windows = jax.vmap(lambda s: jax.lax.dynamic_slice(series, (s,), (self.window + 1,)))(starts)[..., None]
        x = windows[:, :-1]
        return stream, Batch(x + self.noise * jax.random.normal(noise_key, x.shape, x.dtype), windows[:, 1:])

    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Mean squared error of the scaled series after the warm-up; the output is the change from x."""
        error = batch.x + outputs - batch.target
        return jnp.mean(jnp.square(error[:, self.warmup :]))

    def evaluation(self, key: Array) -> Batch:
        """Give the years to 1955 as one sequence; target holds the true numbers, [1, T]."""
        years, numbers = series()
        numbers = numbers[years <= VALIDATION_END]
        x = self.scale(numbers)[None, :-1, None]
        return Batch(jnp.asarray(x, jnp.float32), jnp.asarray(numbers[None, 1:], jnp.float32))

    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """Score one model's one-step-ahead forecasts of 1921-1955."""
        span = slice(-(VALIDATION_END - TRAIN_END), None)
        forecast = self.unscale(batch.x + outputs)[..., 0]
        return {"validation_mse": jnp.mean(jnp.square(forecast[:, span] - batch.target[:, span]))}

    def baseline(self) -> dict[str, float]:
        """Persistence: next year is as this year."""
        return {"validation_mse": score(persistence(), VALIDATION)}

    def picture(self, batch: Batch) -> Picture:
        """Outputs as sunspot numbers; the input stays as the model reads it."""
        return Picture(
            inputs=["this year's number, scaled"],
            target=batch.target[..., None],
            steps=(batch.x.shape[1] - 100, batch.x.shape[1]),  # the last 35 of which did not train
            output=lambda change: self.unscale(batch.x[:, : change.shape[1]] + change),
        )

    def final(self, predict: Callable[[Array], Array]) -> dict[str, float]:
        """Score the mean of the seeds' forecasts, and what stands beside it, on both periods."""
        ahead = {
            "LSTM, mean of seeds": self.one_step(predict),
            "AR(9)": autoregression(False),
            "AR(9) of roots": autoregression(True),
            "persistence": persistence(),
        }
        free = {
            "LSTM, mean of seeds": self.free_run(predict),
            "AR(9)": free_autoregression(False),
            "AR(9) of roots": free_autoregression(True),
            "training mean": training_mean(),
        }
        found = {f"validation MSE/{name}": score(f, VALIDATION) for name, f in ahead.items()}
        found |= {f"test MSE/{name}": score(f, TEST) for name, f in ahead.items()}
        found |= {f"free-running test MSE/{name}": score(f, TEST) for name, f in free.items()}
        ratio = score(ahead["LSTM, mean of seeds"], TEST) / score(persistence(), TEST)
        return found | {"test_mse_over_persistence": ratio}

    def of_test(self, name: str) -> bool:
        """Those of 1956-2008 say so in their names."""
        return "test" in name

    def figures(self, predict: Callable[[Array], Array]) -> dict:
        """Draw both forecasts against the truth."""
        from experiments import plots  # matplotlib is slow to import, and only a report needs it

        years, numbers = series()
        periods = {"train": TRAIN_END, "validation": VALIDATION_END, "test": TEST_END}
        ahead = {"LSTM, mean of the seeds": self.one_step(predict)}
        free = {"LSTM": self.free_run(predict), "AR(9)": free_autoregression(False)}
        label = "yearly mean sunspot number"
        return {
            "One step ahead: each year forecast from the years before it": plots.forecast(
                years, numbers, ahead, label, periods
            ),
            f"Free-running: forecasts fed back from {VALIDATION_END} on, no year after it seen": plots.forecast(
                years, numbers, free, label, periods, first=VALIDATION_END - 35
            ),
        }

    def one_step(self, predict: Callable[[Array], Array]) -> np.ndarray:
        """Forecast every year from the true years before it: [309], the first NaN."""
        return np.concatenate([[np.nan], self._ensemble(predict, self.scale(series()[1]))[:-1]])

    def free_run(self, predict: Callable[[Array], Array]) -> np.ndarray:
        """Forecast 1956 on from the years to 1955 and from the forecasts themselves: [309], NaN to 1955."""
        years, numbers = series()
        known = np.where(years <= VALIDATION_END, numbers, 0.0)
        # The model is causal: what stands behind a year cannot change its output, so one length serves all years.
        for t in np.flatnonzero(years > VALIDATION_END):
            known[t] = self._ensemble(predict, self.scale(known))[t - 1]
        return np.where(years > VALIDATION_END, known, np.nan)

    def scale(self, numbers: np.ndarray) -> np.ndarray:
        """Bring sunspot numbers to mean 0 and deviation 1 over the training years, by square roots if asked."""
        mean, deviation = _moments(self.transform)
        return (_forward(numbers, self.transform) - mean) / deviation

    def unscale(self, scaled: Array) -> Array:
        """Bring scaled values back to sunspot numbers, never below 0."""
        mean, deviation = _moments(self.transform)
        plain = jnp.maximum(scaled * deviation + mean, 0.0)
        return jnp.square(plain) if self.transform == "sqrt" else plain

    def _scaled_training(self) -> Array:
        years, numbers = series()
        return jnp.asarray(self.scale(numbers[years <= TRAIN_END]), jnp.float32)

    def _ensemble(self, predict: Callable[[Array], Array], scaled: np.ndarray) -> np.ndarray:
        x = jnp.asarray(scaled[None, :, None], jnp.float32)
        return np.asarray(self.unscale(x + predict(x))[..., 0], np.float64).mean(axis=(0, 1))


TRAINING, VALIDATION, TEST = (0, TRAIN_END), (TRAIN_END, VALIDATION_END), (VALIDATION_END, TEST_END)


@functools.cache
def series() -> tuple[np.ndarray, np.ndarray]:
    """Read (years, numbers), both [309]."""
    with FILE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return np.array([int(r["year"]) for r in rows]), np.array([float(r["sunspots"]) for r in rows])


def score(forecast: np.ndarray, period: tuple[int, int]) -> float:
    """Mean squared error over the years in (first, last]."""
    years, numbers = series()
    inside = (years > period[0]) & (years <= period[1])
    return float(np.mean((forecast - numbers)[inside] ** 2))


def persistence() -> np.ndarray:
    """Forecast each year as the year before: [309], the first NaN."""
    return np.concatenate([[np.nan], series()[1][:-1]])


def training_mean() -> np.ndarray:
    """Forecast each year as the mean of the training years: [309]."""
    years, numbers = series()
    return np.full(len(years), numbers[years <= TRAIN_END].mean())


def autoregression(sqrt: bool) -> np.ndarray:
    """Forecast one step ahead by AR(9) with intercept, least squares on the training years: [309], first 9 NaN."""
    values = _forward(series()[1], "sqrt" if sqrt else "none")
    coefficients = _fit(sqrt)
    forecast = np.full(len(values), np.nan)
    forecast[ORDER:] = [coefficients @ _row(values[t - ORDER : t]) for t in range(ORDER, len(values))]
    return _backward(forecast, sqrt)


def free_autoregression(sqrt: bool) -> np.ndarray:
    """Let the same AR(9) run on its own forecasts from 1956 on: [309], NaN to 1955."""
    years, numbers = series()
    values = _forward(np.where(years <= VALIDATION_END, numbers, 0.0), "sqrt" if sqrt else "none")
    coefficients = _fit(sqrt)
    for t in np.flatnonzero(years > VALIDATION_END):
        values[t] = coefficients @ _row(values[t - ORDER : t])
    return np.where(years > VALIDATION_END, _backward(values, sqrt), np.nan)


def _fit(sqrt: bool) -> np.ndarray:
    years, numbers = series()
    values = _forward(numbers[years <= TRAIN_END], "sqrt" if sqrt else "none")
    rows = np.stack([_row(values[t - ORDER : t]) for t in range(ORDER, len(values))])
    return np.linalg.lstsq(rows, values[ORDER:], rcond=None)[0]


def _row(last: np.ndarray) -> np.ndarray:
    return np.concatenate([[1.0], last])


def _forward(numbers: np.ndarray, transform: str) -> np.ndarray:
    return np.sqrt(numbers) if transform == "sqrt" else numbers


def _backward(values: np.ndarray, sqrt: bool) -> np.ndarray:
    plain = np.maximum(values, 0.0)
    return plain**2 if sqrt else plain


@functools.cache
def _moments(transform: str) -> tuple[float, float]:
    years, numbers = series()
    values = _forward(numbers[years <= TRAIN_END], transform)
    return float(values.mean()), float(values.std())
