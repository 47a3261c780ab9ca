"""What every baseline sees of a fleet: windows cut out of the past, their scale, and how residuals become quantiles.

Baselines are the methods that people would use instead of the model; they share nothing with its features, so that a
mistake there cannot flatter it. Nothing here can look ahead: windows are cut out of a view that ends at the origin.
NumPy only; which baselines there are is `baselines.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_contract import HORIZON_STEPS, METRICS, TrainingError
from fleet_grid import DAY_STEPS, N_METRICS, FleetGrid, time_of

FloatArray = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]  # work done, work in all

# How far back a baseline reads. A week, so that the same time seven days before the whole horizon is in it, and a day.
LOOK_BACK_STEPS = 8 * DAY_STEPS
MIN_HISTORY_STEPS = 12  # before the first origin that is learned from: an hour; what lies before that reads as missing

_PRIOR_STEPS = 12  # weight of the fleet's typical spread against a window's own, in observed steps: an hour
_SMALLEST_SPREAD = 1e-3  # in the metric's unit, for metrics that never move
_BATCH_WINDOWS = 512  # 19 MB of history

LOWER = np.array([metric.lower for metric in METRICS], dtype=np.float32)
UPPER = np.array([np.inf if metric.upper is None else metric.upper for metric in METRICS], dtype=np.float32)


def known_before(grid: FleetGrid, column: int) -> FloatArray:
    """What of a grid was known when `column` began: a view of (n_servers, column, n_metrics), nothing is copied."""
    return grid.values[:, : max(0, column)]


def cut(known: FloatArray, servers: Integers, first: Integers, steps: int) -> FloatArray:
    """Windows of (server, first column), (n_windows, steps, n_metrics); NaN before and after what is known."""
    columns = first[:, None] + np.arange(steps)
    inside = (columns >= 0) & (columns < known.shape[1])
    if not inside.any():
        return np.full((*columns.shape, known.shape[2]), np.nan, dtype=np.float32)
    window = np.asarray(known[servers[:, None], np.clip(columns, 0, known.shape[1] - 1)], dtype=np.float32)
    window[~inside] = np.nan
    return window


def pasts(grid: FleetGrid, column: int, steps: int = LOOK_BACK_STEPS) -> Iterator[tuple[slice, FloatArray]]:
    """The newest steps before an origin for blocks of servers: their places, and (servers, steps, n_metrics)."""
    known = known_before(grid, column)
    for start in range(0, grid.n_servers, _BATCH_WINDOWS):
        servers = np.arange(start, min(start + _BATCH_WINDOWS, grid.n_servers))
        yield slice(start, start + len(servers)), cut(known, servers, np.full(len(servers), column - steps), steps)


def draw_origins(
    grid: FleetGrid, until: int, windows: int, rng: np.random.Generator, first: int = MIN_HISTORY_STEPS
) -> tuple[Integers, Integers]:
    """Servers and columns of windows to learn from, spread evenly over servers, at random over time, in file order.

    The horizon of each begins at column `first` or later and ends before `until`.

    Raises
    ------
    TrainingError
        If no horizon fits in.
    """
    first, last = max(first, MIN_HISTORY_STEPS), until - HORIZON_STEPS
    if grid.n_servers == 0 or last < first:
        raise too_little(grid, until)
    servers = np.sort(np.resize(rng.permutation(grid.n_servers), windows))
    columns = rng.integers(first, last + 1, size=windows)
    order = np.lexsort((columns, servers))
    return servers[order], columns[order]


def batches(servers: Integers, columns: Integers, size: int = _BATCH_WINDOWS) -> Iterator[tuple[Integers, Integers]]:
    """The same origins, so many at a time."""
    for start in range(0, len(servers), size):
        yield servers[start : start + size], columns[start : start + size]


def too_little(grid: FleetGrid, until: int) -> TrainingError:
    """What a baseline says that has nothing to learn from."""
    return TrainingError(
        f"There is too little history for a baseline: {max(0, until)} steps of 5 minutes, {grid.n_servers} server(s), "
        f"from {time_of(grid.first_step):%Y-%m-%d %H:%M} UTC on.",
        why="The spread of its errors is measured on whole 8-hour horizons, so at least one, and the hour before it, "
        "must lie before the test begins.",
        fix="Begin the test later, or bring more history (30 days are recommended).",
    )


# ------------------------------------------------------------------------------------------------------ points in time
def last_seen(past: FloatArray) -> FloatArray:
    """Newest value that is there, (n, n_metrics); NaN where there is none. `past` is (n, steps, n_metrics)."""
    there = np.isfinite(past)
    position = past.shape[1] - 1 - np.argmax(there[:, ::-1], axis=1)  # (n, n_metrics)
    newest: FloatArray = np.take_along_axis(past, position[:, None], axis=1)[:, 0]
    return newest  # with nothing there, argmax is 0 and the last column is NaN


def mean_of(past: FloatArray) -> FloatArray:
    """Mean over the steps of what is there, (n, n_metrics); NaN where nothing is."""
    there = np.isfinite(past)
    count = there.sum(axis=1)
    total = np.where(there, past, 0.0).sum(axis=1, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def same_time(past: FloatArray, days: Sequence[int]) -> FloatArray:
    """Values at the same times of the horizon on the first of the days before that has one, (n, 96, n_metrics)."""
    found = np.full((len(past), HORIZON_STEPS, past.shape[2]), np.nan, dtype=np.float32)
    for day in days:
        start = past.shape[1] - day * DAY_STEPS
        if start < 0:
            break
        that_day = past[:, start : start + HORIZON_STEPS]
        np.copyto(found, that_day, where=np.isnan(found))
    return found


# --------------------------------------------------------------------------------------------------------------- scale
@dataclass(frozen=True)
class DayScale:
    """Median and spread of each window's newest day; see `spread`.

    Attributes
    ----------
    center : float32 array, (n, n_metrics)
        Median of the day, of an older value where the day has none; NaN where nothing was ever seen.
    deviation : float32 array, (n, n_metrics)
        Sum of the absolute deviations from it.
    observed : int64 array, (n, n_metrics)
        How many steps of the day were measured.
    """

    center: FloatArray
    deviation: FloatArray
    observed: Integers

    @classmethod
    def of(cls, past: FloatArray) -> DayScale:
        """Measure the newest day of (n, steps, n_metrics)."""
        day = past[:, -DAY_STEPS:]
        ordered = np.sort(day, axis=1)  # NaN comes last
        observed = np.isfinite(day).sum(axis=1)
        sides = [
            np.take_along_axis(ordered, np.maximum(side, 0)[:, None], axis=1)[:, 0]
            for side in ((observed - 1) // 2, observed // 2)
        ]
        center = ((sides[0] + sides[1]) / 2).astype(np.float32)
        deviation = np.nansum(np.abs(day - center[:, None]), axis=1)
        return cls(np.where(observed > 0, center, last_seen(past)), deviation, observed)

    def typical(self) -> FloatArray:
        """Typical spread of each metric over windows of which at least an hour was seen, (n_metrics,)."""
        own = self.deviation / np.maximum(self.observed, 1)
        enough = self.observed >= _PRIOR_STEPS
        return np.array(
            [np.median(own[enough[:, k], k]) if enough[:, k].any() else 0.0 for k in range(own.shape[1])],
            dtype=np.float32,
        )

    def spread(self, typical: FloatArray) -> FloatArray:
        """Mean absolute deviation, drawn towards the typical one where little was seen; above zero, (n, n_metrics)."""
        spread = (self.deviation + _PRIOR_STEPS * typical) / (self.observed + _PRIOR_STEPS)
        return np.maximum(spread, _SMALLEST_SPREAD).astype(np.float32)


# ----------------------------------------------------------------------------------------------------------- quantiles
def residual_quantiles(residuals: FloatArray, levels: Sequence[float]) -> FloatArray:
    """Empirical quantiles of (n, steps, n_metrics), NaN ignored: (steps, n_metrics, n_levels), ascending.

    NaN where a metric has no residual at a step.
    """
    table = np.full((*residuals.shape[1:], len(levels)), np.nan, dtype=np.float32)
    for step in range(residuals.shape[1]):
        for k in range(residuals.shape[2]):
            of_step = residuals[:, step, k]
            of_step = of_step[np.isfinite(of_step)]
            if len(of_step):
                table[step, k] = np.quantile(of_step, levels)
    return table


def held_in_range(values: npt.NDArray[np.floating]) -> FloatArray:
    """Quantile forecasts, (…, n_metrics, n_levels), as the contract allows them, ascending; NaN stays."""
    bounded = np.clip(values.astype(np.float32), LOWER[:, None], UPPER[:, None])
    ascending: FloatArray = np.maximum.accumulate(bounded, axis=-1)
    return ascending


def nothing_forecast(grid: FleetGrid, n_levels: int) -> FloatArray:
    """A forecast of NaN for each server, to be filled in: (n_servers, 96, n_metrics, n_levels)."""
    return np.full((grid.n_servers, HORIZON_STEPS, N_METRICS, n_levels), np.nan, dtype=np.float32)


def _self_check() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 99, (2, 3 * DAY_STEPS, N_METRICS)).astype(np.float32)
    values[0, -5:] = np.nan
    grid = FleetGrid(("a", "b"), ("generic",) * 2, 0, values, np.zeros(values.shape[:2], dtype=np.int8))
    ((_, past),) = pasts(grid, grid.n_steps)
    assert past.shape == (2, LOOK_BACK_STEPS, N_METRICS)
    assert (last_seen(past)[0] == values[0, -6]).all() and (last_seen(past)[1] == values[1, -1]).all()
    assert (same_time(past, [1])[1] == values[1, -DAY_STEPS:][:HORIZON_STEPS]).all()
    scale = DayScale.of(past)
    assert np.allclose(scale.center[1], np.median(values[1, -DAY_STEPS:], axis=0))
    servers, columns = draw_origins(grid, 600, 50, rng)
    assert (columns <= 600 - HORIZON_STEPS).all() and set(servers) == {0, 1}
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
