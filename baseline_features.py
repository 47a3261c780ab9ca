"""How a past becomes the inputs of the baselines that learn: one series at a time, scaled by its own newest day.

A series is one metric of one server. Which server it is, is never an input, so that unknown ones are forecast like any
other. Values are `asinh((value - median) / spread)` of the newest day: linear near the centre, logarithmic for bursts.
NumPy only. What the model is shown is `tft_features.py`'s; the two share nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from baseline_windows import (
    LOOK_BACK_STEPS,
    LOWER,
    UPPER,
    DayScale,
    FloatArray,
    Integers,
    cut,
    known_before,
    last_seen,
    pasts,
)
from data_contract import HORIZON_STEPS
from fleet_grid import DAY_STEPS, N_METRICS, FleetGrid

HOUR_STEPS = 12
FINE_STEPS = 72  # six hours in full
LAG_DAYS = (1, 2, 7)
_LARGEST = 12.0  # |asinh| of an outlier of 80,000 spreads


@dataclass(frozen=True)
class Series:
    """A batch of series as numbers; one row per (window, metric) of which anything was ever seen.

    Attributes
    ----------
    window, metric : int64 arrays, (n,)
        Which window and metric a row is.
    center, spread : float32 arrays, (n,)
        Bring scaled values back to units.
    day : float32 array, (n, 288)
        The newest day, scaled; NaN where nothing was measured.
    lags : float32 array, (n, 3, 96)
        The horizon's times 1, 2 and 7 days before, scaled; NaN where nothing was measured.
    newest : float32 array, (n,)
        The last value seen, scaled.
    first : int64 array, (n,)
        Step since 1970 at which the horizon begins.
    """

    window: Integers
    metric: Integers
    center: FloatArray
    spread: FloatArray
    day: FloatArray
    lags: FloatArray
    newest: FloatArray
    first: Integers

    @classmethod
    def of(cls, past: FloatArray, first: Integers, typical: FloatArray) -> Series:
        """Series of windows: `past` is (n, LOOK_BACK_STEPS, n_metrics), `first` the step at which each ends."""
        scale = DayScale.of(past)
        window, metric = np.nonzero(np.isfinite(scale.center))
        center, spread = scale.center[window, metric], scale.spread(typical)[window, metric]
        lags = [past[:, -day * DAY_STEPS :][:, :HORIZON_STEPS] for day in LAG_DAYS]
        day, *of_lags, newest = (
            _scaled(part.swapaxes(1, 2)[window, metric], center, spread)
            for part in (past[:, -DAY_STEPS:], *lags, last_seen(past)[:, None])
        )
        return cls(window, metric, center, spread, day, np.stack(of_lags, axis=1), newest[:, 0], first[window])

    def __len__(self) -> int:
        return len(self.window)

    def labels(self, truth: FloatArray) -> FloatArray:
        """Scaled truth, (n, 96), of (windows, 96, n_metrics); NaN where nothing was measured."""
        return _scaled(truth.swapaxes(1, 2)[self.window, self.metric], self.center, self.spread)

    def units(self, scaled: npt.NDArray[np.floating]) -> FloatArray:
        """Quantiles in units and valid ranges, ascending, of scaled ones, (n, 96, n_levels)."""
        standard = np.sinh(np.clip(scaled, -_LARGEST, _LARGEST))
        values = self.center[:, None, None] + self.spread[:, None, None] * standard
        bounded = np.clip(values, LOWER[self.metric, None, None], UPPER[self.metric, None, None])
        ascending: FloatArray = np.maximum.accumulate(bounded.astype(np.float32), axis=-1)
        return ascending

    def hours(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Mean, largest and smallest value of each hour of the newest day, and the share that was measured, (n, 24).

        The first three are NaN in an hour without any.
        """
        hours = self.day.reshape(len(self), DAY_STEPS // HOUR_STEPS, HOUR_STEPS)
        there = np.isfinite(hours)
        count = there.sum(axis=-1)
        some = count > 0
        mean = np.where(there, hours, 0).sum(axis=-1) / np.maximum(count, 1)
        largest, smallest = np.where(there, hours, -np.inf).max(axis=-1), np.where(there, hours, np.inf).min(axis=-1)
        mean, largest, smallest = (
            np.where(some, each, np.nan).astype(np.float32) for each in (mean, largest, smallest)
        )
        return mean, largest, smallest, (count / HOUR_STEPS).astype(np.float32)

    def level(self) -> FloatArray:
        """Centre and spread as inputs of ordinary size, and which metric it is, (n, 2 + n_metrics)."""
        percent = np.isfinite(UPPER[self.metric])
        center = np.where(percent, self.center / 50 - 1, np.log1p(np.maximum(self.center, 0)) / 4)
        which = np.eye(N_METRICS, dtype=np.float32)[self.metric]
        return np.column_stack([center, np.log(self.spread) / 3, which]).astype(np.float32)


def _scaled(values: FloatArray, center: FloatArray, spread: FloatArray) -> FloatArray:
    standard = (values - center[:, None]) / spread[:, None]
    scaled: FloatArray = np.clip(np.arcsinh(standard), -_LARGEST, _LARGEST)
    return scaled


def calendar(steps: Integers) -> FloatArray:
    """Time of day and week, UTC, of steps since 1970: sines, cosines, and whether it is a weekend, (…, 5)."""
    day = steps % DAY_STEPS / DAY_STEPS * (2 * np.pi)
    weekday = (steps // DAY_STEPS + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    week = (weekday + steps % DAY_STEPS / DAY_STEPS) / 7 * (2 * np.pi)
    parts = [np.sin(day), np.cos(day), np.sin(week), np.cos(week), weekday >= 5]
    return np.stack(parts, axis=-1).astype(np.float32)


def training_series(
    grid: FleetGrid, until: int, servers: Integers, columns: Integers, typical: FloatArray
) -> tuple[Series, FloatArray]:
    """Series of windows to learn from, and their scaled labels, (n, 96); those without any label are left out."""
    known = known_before(grid, until)
    past = cut(known, servers, columns - LOOK_BACK_STEPS, LOOK_BACK_STEPS)
    truth = cut(known, servers, columns, HORIZON_STEPS)
    # What has no label teaches nothing: not being seen before either, it makes no row.
    taught = np.isfinite(truth).any(axis=1, keepdims=True)
    past = np.where(taught, past, np.float32(np.nan))
    series = Series.of(past, grid.first_step + columns, typical)
    return series, series.labels(truth)


def typical_spread(grid: FleetGrid, until: int, servers: Integers, columns: Integers) -> FloatArray:
    """Typical spread of each metric over the newest days of some windows, in its unit."""
    day = cut(known_before(grid, until), servers, columns - DAY_STEPS, DAY_STEPS)
    return DayScale.of(day).typical()


def series_to_forecast(grid: FleetGrid, column: int, typical: FloatArray) -> Iterator[tuple[slice, Series]]:
    """Series of all servers at one origin, a block of servers at a time."""
    for block, past in pasts(grid, column):
        first = np.full(len(past), grid.first_step + column, dtype=np.int64)
        yield block, Series.of(past, first, typical)


def _self_check() -> None:
    rng = np.random.default_rng(0)
    past = rng.uniform(1, 99, (3, LOOK_BACK_STEPS, N_METRICS)).astype(np.float32)
    past[1, :, 2] = np.nan
    series = Series.of(past, np.zeros(3, dtype=np.int64), np.ones(N_METRICS, dtype=np.float32))
    assert len(series) == 11 and series.lags.shape == (11, 3, HORIZON_STEPS)
    back = series.units(series.lags[:, 0, :, None])[0, :, 0]
    assert np.allclose(back, past[0, -DAY_STEPS:, 0][:HORIZON_STEPS], rtol=1e-3)
    assert all(part.shape == (11, 24) for part in series.hours()) and series.level().shape == (11, 2 + N_METRICS)
    assert calendar(np.array([0])).tolist() == calendar(np.array([7 * DAY_STEPS])).tolist()
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
