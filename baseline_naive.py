"""Baselines of one line each: the last value, the same time yesterday, the mean of the last 24 hours.

Each gives one value per step, its median. What lies around it is measured: over windows of the training part, how far
the truth was from that value, per step of the horizon and metric, in spreads of the window's newest day. The quantiles
of these residuals, times a window's own spread, make them real probabilistic forecasts. NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from baseline_windows import (
    LOOK_BACK_STEPS,
    DayScale,
    FloatArray,
    Progress,
    batches,
    cut,
    draw_origins,
    held_in_range,
    known_before,
    last_seen,
    mean_of,
    nothing_forecast,
    pasts,
    residual_quantiles,
    same_time,
    too_little,
)
from data_contract import HORIZON_STEPS
from fleet_grid import DAY_STEPS, N_METRICS, FleetGrid

WINDOWS = 16_384  # that the residuals are measured on; their quantiles are then exact to about 0.3 %


def last_value(past: FloatArray) -> FloatArray:
    """The newest value that was measured, however long ago (eight days at most), for every step."""
    return _over_horizon(last_seen(past))


def seasonal_naive(past: FloatArray) -> FloatArray:
    """The value at the same time a day before; where that was not measured, of the newest day of seven that has it.

    The last value where none of them has.
    """
    return _or(same_time(past, range(1, 8)), last_value(past))


def mean_24(past: FloatArray) -> FloatArray:
    """The mean over the last 24 hours, 288 steps, for every step; the last value where they are empty."""
    return _over_horizon(_or(mean_of(past[:, -DAY_STEPS:]), last_seen(past)))


def _over_horizon(level: FloatArray) -> FloatArray:
    return np.repeat(level[:, None], HORIZON_STEPS, axis=1)


def _or(values: FloatArray, otherwise: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, otherwise)


class NaiveBaseline:
    """A point forecast that needs no learning, with quantiles that were measured; see the module.

    Parameters
    ----------
    name, title : str
        For programs and for people.
    point : callable
        Makes (n, 96, n_metrics) of the past, (n, LOOK_BACK_STEPS, n_metrics).
    quantiles : sequence of float
        Levels to forecast, ascending.
    windows : int
        How many windows of the training part are measured.
    """

    def __init__(
        self,
        name: str,
        title: str,
        point: Callable[[FloatArray], FloatArray],
        quantiles: Sequence[float],
        seed: int = 0,
        windows: int = WINDOWS,
    ) -> None:
        self.name, self.title = name, title
        self._point = point
        self._quantiles = tuple(quantiles)
        self._seed = seed
        self._windows = windows
        self._typical: FloatArray = np.zeros(N_METRICS, dtype=np.float32)
        self._table: FloatArray | None = None  # (96, n_metrics, n_levels), in spreads

    def fit(self, grid: FleetGrid, until: int, progress: Progress | None = None) -> None:
        """Measure the residuals on windows whose horizon ends before column `until`."""
        known = known_before(grid, until)
        servers, columns = draw_origins(grid, until, self._windows, np.random.default_rng(self._seed))
        residuals = np.empty((len(servers), HORIZON_STEPS, N_METRICS), dtype=np.float32)
        scales = []
        done = 0
        for of_batch, at in batches(servers, columns):
            past = cut(known, of_batch, at - LOOK_BACK_STEPS, LOOK_BACK_STEPS)
            truth = cut(known, of_batch, at, HORIZON_STEPS)
            residuals[done : done + len(at)] = truth - self._point(past)
            scales.append(DayScale.of(past))
            done += len(at)
            if progress is not None:
                progress(done, len(servers))
        scale = DayScale(
            *(np.concatenate([getattr(each, name) for each in scales]) for name in ("center", "deviation", "observed"))
        )
        self._typical = scale.typical()
        residuals /= scale.spread(self._typical)[:, None]
        table = residual_quantiles(residuals, self._quantiles)
        if not np.isfinite(table).any():
            raise too_little(grid, until)
        self._table = _around_the_point(table, self._quantiles)

    def forecast(self, grid: FleetGrid, column: int) -> FloatArray:
        """Quantiles of each server from column `column` on, (n_servers, 96, n_metrics, n_levels)."""
        if self._table is None:
            raise RuntimeError(f"{self.name} must be fitted first")
        values = nothing_forecast(grid, len(self._quantiles))
        for block, past in pasts(grid, column):
            spread = DayScale.of(past).spread(self._typical)[:, None, :, None]
            values[block] = held_in_range(self._point(past)[..., None] + spread * self._table)
        return values


def _around_the_point(table: FloatArray, levels: Sequence[float]) -> FloatArray:
    """The median is the point itself, as everybody knows these methods; lower levels lie below it, higher ones above.

    Without this, a shift that was measured would turn "the last value" into something else.
    """
    level = np.asarray(levels)
    table = np.where(level < 0.5, np.minimum(table, 0), np.where(level > 0.5, np.maximum(table, 0), table))
    return np.where((level == 0.5) & np.isfinite(table), 0, table).astype(np.float32)


def _self_check() -> None:
    rng = np.random.default_rng(0)
    values = (50 + 5 * rng.standard_normal((4, 4 * DAY_STEPS, N_METRICS))).astype(np.float32)
    grid = FleetGrid(tuple("abcd"), ("generic",) * 4, 0, values, np.zeros(values.shape[:2], dtype=np.int8))
    method = NaiveBaseline("mean_24", "Mean", mean_24, (0.1, 0.5, 0.9), windows=400)
    method.fit(grid, 3 * DAY_STEPS)
    forecast = method.forecast(grid, 3 * DAY_STEPS)
    truth = values[:, 3 * DAY_STEPS :][:, :HORIZON_STEPS]
    assert abs(((truth >= forecast[..., 0]) & (truth <= forecast[..., 2])).mean() - 0.8) < 0.05
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
