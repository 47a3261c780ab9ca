"""What gradient-boosted trees say: scikit-learn's histogram trees with the quantile loss, one ensemble per quantile.

The step of the horizon is an input like any other, so that one ensemble serves all 96; it is fitted on some steps of
each window. Inputs are summaries of the past in the scaled space of `baseline_features.py`; gaps stay missing, as trees
can split on that. scikit-learn comes with the product's packages and is imported when it is needed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from baseline_features import Series, calendar, series_to_forecast, training_series, typical_spread
from baseline_windows import FloatArray, Integers, Progress, batches, draw_origins, nothing_forecast, too_little
from data_contract import HORIZON_STEPS
from fleet_grid import DAY_STEPS, N_METRICS, FleetGrid

WINDOWS = 4_096  # each with STEPS_PER_WINDOW rows per reported metric
STEPS_PER_WINDOW = 6
TREES = 100
_AROUND = 6  # steps on either side that are averaged around the same time of a day before
_METRIC_INPUT = 0  # position of the metric's number, a category


def unavailable() -> str | None:
    """Why this baseline cannot run here, None if it can."""
    if importlib.util.find_spec("sklearn") is None:
        return "scikit-learn is not installed; `pip install scikit-learn` brings it"
    return None


def inputs(series: Series, rows: Integers, steps: Integers) -> FloatArray:
    """What the trees read, (n, n_inputs), for pairs of a row of `series` and a step of its horizon, 0 to 95."""
    mean, largest, smallest, measured = series.hours()
    recent = [_mean(series.day[:, -width:]) for width in (3, 12, 36, 72)]
    of_day = [_mean(mean), np.nan_to_num(series.day).std(axis=1), _largest(largest), -_largest(-smallest)]
    of_hour = [largest[:, -1], smallest[:, -1], measured.mean(axis=1), series.level()[:, 0], series.level()[:, 1]]
    per_series = np.column_stack([series.metric, series.newest, *recent, *of_day, *of_hour]).astype(np.float32)
    lags = series.lags[rows, :, steps]
    near = _smoothed(series.lags)[rows, :, steps]
    return np.concatenate(
        [per_series[rows], lags, near, calendar(series.first[rows] + steps), steps[:, None] + 1],
        axis=1,
        dtype=np.float32,
    )


def _mean(values: FloatArray) -> FloatArray:
    """Mean over the last axis of what is there, NaN without any."""
    there = np.isfinite(values)
    count = there.sum(axis=-1)
    mean = np.where(there, values, 0).sum(axis=-1) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan).astype(np.float32)


def _largest(values: FloatArray) -> FloatArray:
    largest = np.where(np.isfinite(values), values, -np.inf).max(axis=-1)
    return np.where(np.isfinite(largest), largest, np.nan).astype(np.float32)


def _smoothed(lags: FloatArray) -> FloatArray:
    """Means over the steps around each of (n, days, 96), of what is there."""
    there = np.isfinite(lags)
    padding = ((0, 0), (0, 0), (_AROUND + 1, _AROUND))
    total, count = (
        np.pad(part, padding).cumsum(axis=-1) for part in (np.where(there, lags, 0).astype(np.float64), there)
    )
    width = 2 * _AROUND + 1
    total, count = (part[..., width:] - part[..., :-width] for part in (total, count))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


class BoostingBaseline:
    """Gradient-boosted trees with the quantile loss; see the module.

    Parameters
    ----------
    quantiles : sequence of float
        Levels to forecast, ascending.
    windows, trees : int
        Windows of the training part that are fitted, and trees per quantile.
    """

    name = "gradient_boosting"
    title = "Gradient-boosted trees"

    def __init__(self, quantiles: Sequence[float], seed: int = 0, windows: int = WINDOWS, trees: int = TREES) -> None:
        self._quantiles = tuple(quantiles)
        self._seed = seed
        self._windows = windows
        self._trees = trees
        self._typical: FloatArray = np.zeros(N_METRICS, dtype=np.float32)
        self._ensembles: list[Any] = []
        self._inputs: Integers = np.zeros(0, dtype=np.int64)  # those that training has seen; the metric is the first
        self._learned: npt.NDArray[np.bool_] = np.zeros(N_METRICS, dtype=np.bool_)

    def fit(self, grid: FleetGrid, until: int, progress: Progress | None = None) -> None:
        """Fit one ensemble per quantile on windows whose horizon ends before column `until`."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        rng = np.random.default_rng(self._seed)
        servers, columns = draw_origins(grid, until, self._windows, rng)
        self._typical = typical_spread(grid, until, servers, columns)
        parts: list[tuple[npt.NDArray[Any], ...]] = []
        for of_batch, at in batches(servers, columns):
            series, labels = training_series(grid, until, of_batch, at, self._typical)
            rows = np.repeat(np.arange(len(series)), STEPS_PER_WINDOW)
            steps = rng.integers(HORIZON_STEPS, size=len(rows))
            there = np.isfinite(labels[rows, steps])
            rows, steps = rows[there], steps[there]
            relative = series.spread / np.maximum(self._typical[series.metric], 1e-3)
            weight = np.minimum(np.sqrt(relative), 10.0)[rows]
            parts.append((inputs(series, rows, steps), labels[rows, steps], weight))
        x, y, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
        if not len(x):
            raise too_little(grid, until)
        self._learned = np.isin(np.arange(N_METRICS), x[:, _METRIC_INPUT])
        # An input that was never there, such as last week's value in a history of three days, cannot be binned.
        self._inputs = np.flatnonzero(np.isfinite(x).any(axis=0))
        x = x[:, self._inputs]
        self._ensembles = []
        for number, level in enumerate(self._quantiles):
            ensemble = HistGradientBoostingRegressor(
                loss="quantile",
                quantile=level,
                max_iter=self._trees,
                min_samples_leaf=40,
                categorical_features=[_METRIC_INPUT],
                early_stopping=False,
                random_state=self._seed,
            )
            self._ensembles.append(ensemble.fit(x, y, sample_weight=weight))
            if progress is not None:
                progress(number + 1, len(self._quantiles))

    def forecast(self, grid: FleetGrid, column: int) -> FloatArray:
        """Quantiles of each server from column `column` on, (n_servers, 96, n_metrics, n_levels)."""
        if not self._ensembles:
            raise RuntimeError(f"{self.name} must be fitted first")
        values = nothing_forecast(grid, len(self._quantiles))
        for block, series in series_to_forecast(grid, column, self._typical):
            if not len(series):
                continue
            rows = np.repeat(np.arange(len(series)), HORIZON_STEPS)
            x = inputs(series, rows, np.tile(np.arange(HORIZON_STEPS), len(series)))[:, self._inputs]
            scaled = np.stack([ensemble.predict(x) for ensemble in self._ensembles], axis=-1)
            # Each quantile is fitted on its own, so they may cross; sorted, they are at least as good.
            # Source: Chernozhukov, Fernandez-Val and Galichon, Quantile and Probability Curves Without Crossing (2010).
            scaled = np.sort(scaled, axis=-1).reshape(len(series), HORIZON_STEPS, -1)
            scaled[~self._learned[series.metric]] = np.nan
            values[block][series.window, :, series.metric] = series.units(scaled)
        return values


def _self_check() -> None:
    rng = np.random.default_rng(0)
    values = (50 + 5 * rng.standard_normal((4, 3 * DAY_STEPS, N_METRICS))).astype(np.float32)
    grid = FleetGrid(tuple("abcd"), ("generic",) * 4, 0, values, np.zeros(values.shape[:2], dtype=np.int8))
    method = BoostingBaseline((0.1, 0.5, 0.9), windows=200, trees=10)
    method.fit(grid, 2 * DAY_STEPS)
    forecast = method.forecast(grid, 2 * DAY_STEPS)
    assert np.isfinite(forecast).all() and (np.diff(forecast, axis=-1) >= 0).all()
    assert abs(float(forecast[..., 1].mean()) - 50) < 5
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
