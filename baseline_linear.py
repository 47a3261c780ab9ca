"""What a straight line through the past says: ridge regression on lags, directly for every step of the horizon.

One regression per metric and step: the last hour in full, the last six hours in half-hours, the day in hours, the same
time 1, 2 and 7 days ago, and the calendar, in the scaled space of `baseline_features.py`. The newest part of the
training time is left out of the fit: it chooses the strength of the penalty, and its residuals are the quantiles.
NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from baseline_features import (
    HOUR_STEPS,
    LAG_DAYS,
    Series,
    calendar,
    series_to_forecast,
    training_series,
    typical_spread,
)
from baseline_windows import (
    FloatArray,
    Progress,
    batches,
    draw_origins,
    nothing_forecast,
    residual_quantiles,
    too_little,
)
from data_contract import HORIZON_STEPS
from fleet_grid import DAY_STEPS, N_METRICS, FleetGrid

WINDOWS = 16_384
PENALTIES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
_HELD_BACK = 0.2  # share of the windows, the newest, that the fit does not see

Matrix = npt.NDArray[np.float64]


def inputs(series: Series) -> Matrix:
    """What the regression reads, (n, n_inputs), the last one 1; 0, the day's median, where nothing was measured."""
    n = len(series)
    mean, largest, smallest, measured = series.hours()
    halves = _means(series.day[:, -6 * HOUR_STEPS :].reshape(n, 12, HOUR_STEPS // 2))
    of_lags = _means(series.lags.reshape(n, len(LAG_DAYS) * HORIZON_STEPS // HOUR_STEPS, HOUR_STEPS))
    parts: list[npt.NDArray[Any]] = [
        series.day[:, -HOUR_STEPS:],
        series.newest[:, None],
        halves,
        mean,
        largest[:, -6:],
        smallest[:, -6:],
        of_lags,
        measured[:, -6:],
        calendar(series.first),
        series.level()[:, :2],
        np.ones((n, 1)),
    ]
    return np.nan_to_num(np.concatenate(parts, axis=1, dtype=np.float64))


def _means(values: FloatArray) -> FloatArray:
    """Means over the last axis of what is there, NaN without any."""
    there = np.isfinite(values)
    count = there.sum(axis=-1)
    total = np.where(there, values, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


class RidgeBaseline:
    """Ridge regression on lags with empirical quantiles; see the module.

    Parameters
    ----------
    quantiles : sequence of float
        Levels to forecast, ascending.
    windows : int
        How many windows of the training part are fitted and measured.
    """

    name = "ridge"
    title = "Ridge regression on lags"

    def __init__(self, quantiles: Sequence[float], seed: int = 0, windows: int = WINDOWS) -> None:
        self._quantiles = tuple(quantiles)
        self._seed = seed
        self._windows = windows
        self._typical: FloatArray = np.zeros(N_METRICS, dtype=np.float32)
        self._weights: Matrix | None = None  # (n_metrics, n_inputs, 96), NaN where a metric was never reported
        self._table: FloatArray | None = None  # (n_metrics, 96, n_levels), in scaled space

    def fit(self, grid: FleetGrid, until: int, progress: Progress | None = None) -> None:
        """Fit and measure on windows whose horizon ends before column `until`."""
        servers, columns = draw_origins(grid, until, self._windows, np.random.default_rng(self._seed))
        self._typical = typical_spread(grid, until, servers[::4], columns[::4])
        # Horizons of the older part end where those of the newer one begin.
        newer_from = int(np.quantile(columns, 1 - _HELD_BACK))
        read: list[tuple[npt.NDArray[Any], ...]] = []
        done = 0
        for of_batch, at in batches(servers, columns):
            series, labels = training_series(grid, until, of_batch, at, self._typical)
            read.append((inputs(series), labels, series.metric, at[series.window]))
            done += len(at)
            if progress is not None:
                progress(done, len(servers))
        x, y, metric, column = (np.concatenate(part) for part in zip(*read, strict=True))
        older, newer = column <= newer_from - HORIZON_STEPS, column >= newer_from
        weights = np.full((N_METRICS, x.shape[1], HORIZON_STEPS), np.nan)
        table = np.full((N_METRICS, HORIZON_STEPS, len(self._quantiles)), np.nan, dtype=np.float32)
        for k in range(N_METRICS):
            fitted, held = older & (metric == k), newer & (metric == k)
            if not fitted.any() or not held.any():
                continue
            weights[k] = _best(x[fitted], y[fitted], x[held], y[held])
            residuals = (y[held] - x[held] @ weights[k]).astype(np.float32)
            table[k] = residual_quantiles(residuals[..., None], self._quantiles)[:, 0]
        if not np.isfinite(table).any():
            raise too_little(grid, until)
        self._weights, self._table = weights, table

    def forecast(self, grid: FleetGrid, column: int) -> FloatArray:
        """Quantiles of each server from column `column` on, (n_servers, 96, n_metrics, n_levels)."""
        if self._weights is None or self._table is None:
            raise RuntimeError(f"{self.name} must be fitted first")
        values = nothing_forecast(grid, len(self._quantiles))
        for block, series in series_to_forecast(grid, column, self._typical):
            x = inputs(series)
            point = np.empty((len(series), HORIZON_STEPS))
            for k in range(N_METRICS):
                of_metric = series.metric == k
                point[of_metric] = x[of_metric] @ self._weights[k]
            scaled = point[..., None] + self._table[series.metric]
            values[block][series.window, :, series.metric] = series.units(scaled)
        return values


def _best(x: Matrix, y: FloatArray, held_x: Matrix, held_y: FloatArray) -> Matrix:
    """Weights, (n_inputs, 96), with the penalty whose mean absolute error is least on what was held back."""
    gram, moment = x.T @ x, x.T @ np.nan_to_num(y).astype(np.float64)
    unseen = np.isnan(y)
    identity = np.eye(x.shape[1])
    identity[-1, -1] = 1e-6  # the constant is hardly penalised
    best: Matrix = np.zeros_like(moment)
    least = np.inf
    for penalty in PENALTIES:
        weights = np.linalg.solve(gram + penalty * identity, moment)
        for step in np.flatnonzero(unseen.any(axis=0)):  # steps without a label are no rows of their regression
            missing = x[unseen[:, step]]
            own = gram - missing.T @ missing
            weights[:, step] = np.linalg.solve(own + penalty * identity, moment[:, step])
        error = float(np.nanmean(np.abs(held_y - held_x @ weights)))
        if error < least:
            best, least = weights, error
    return best


def _self_check() -> None:
    rng = np.random.default_rng(0)
    values = (50 + 5 * rng.standard_normal((4, 6 * DAY_STEPS, N_METRICS))).astype(np.float32)
    grid = FleetGrid(tuple("abcd"), ("generic",) * 4, 0, values, np.zeros(values.shape[:2], dtype=np.int8))
    method = RidgeBaseline((0.1, 0.5, 0.9), windows=1000)
    method.fit(grid, 5 * DAY_STEPS)
    forecast = method.forecast(grid, 5 * DAY_STEPS)
    truth = values[:, 5 * DAY_STEPS :][:, :HORIZON_STEPS]
    assert abs(((truth >= forecast[..., 0]) & (truth <= forecast[..., 2])).mean() - 0.8) < 0.06
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
