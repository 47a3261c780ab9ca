"""How much the metrics of a fleet usually move: what the spread of a window is compared with.

The spread of a metric is its mean absolute deviation from the median within a day. A grid may be mapped from files that
are larger than the memory: it is read in blocks of servers. NumPy alone; knows nothing of the network.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_contract import DAY_STEPS
from fleet_grid import N_METRICS, FleetGrid

SMALLEST_SPREAD = 1e-3  # in the metric's unit; for metrics that no server of the training data reports


def typical_spread(grid: FleetGrid) -> tuple[float, ...]:
    """Median over servers of each metric's mean absolute deviation within days, in its unit; 0 if never reported."""
    return tuple(float(np.median(of_metric)) if len(of_metric) else 0.0 for of_metric in _day_spreads(grid))


def mean_root_spread(grid: FleetGrid) -> tuple[float, ...]:
    """Mean over servers and days of the root of each metric's mean absolute deviation; see `Scale.importance`."""
    smallest = SMALLEST_SPREAD**0.5
    return tuple(
        max(float(np.sqrt(of_metric).mean()), smallest) if len(of_metric) else smallest
        for of_metric in _day_spreads(grid)
    )


def _day_spreads(grid: FleetGrid) -> list[npt.NDArray[np.float32]]:
    """Mean absolute deviation of every server's days, for each metric."""
    days = grid.n_steps // DAY_STEPS
    spreads: list[list[npt.NDArray[np.float32]]] = [[] for _ in range(N_METRICS)]
    for block in grid.blocks():
        values = grid.values[block]
        if days:
            values = values[:, -days * DAY_STEPS :].reshape(-1, DAY_STEPS, N_METRICS)
        for k, of_metric in enumerate(spreads):
            of_metric.append(_spread_of_days(values[..., k]))
    return [np.concatenate(of_metric) for of_metric in spreads]


def _spread_of_days(days: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mean absolute deviation from the median of each of (days, steps) that holds a value."""
    ordered = np.sort(days, axis=1)  # NaN comes last
    count = np.isfinite(days).sum(axis=1)
    days, ordered, count = days[count > 0], ordered[count > 0], count[count > 0, None]
    lower, upper = (np.take_along_axis(ordered, middle, axis=1) for middle in ((count - 1) // 2, count // 2))
    spread: npt.NDArray[np.float32] = np.nanmean(np.abs(days - (lower + upper) / 2), axis=1)
    return spread


def _self_check() -> None:
    values = np.zeros((3, 2 * DAY_STEPS, N_METRICS), np.float32)
    values[1, ::2, 0] = 4.0
    values[:, :, 3] = np.nan
    grid = FleetGrid(("a", "b", "c"), ("generic",) * 3, 0, values, np.zeros(values.shape[:2], np.int8))
    assert typical_spread(grid) == (0.0, 0.0, 0.0, 0.0)
    assert mean_root_spread(grid)[0] > mean_root_spread(grid)[3] == SMALLEST_SPREAD**0.5
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
