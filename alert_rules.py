"""Which alerting rules people would use instead of the model, and what each says of a fleet at any moment.

A rule predicts a value and alerts when that exceeds a share of the critical threshold: 1 is the threshold itself, and
more or less trades false alarms against events that are missed. `RULES[name].score` gives predicted value / threshold
for many moments at once, each from what came before it alone. Their parameters are chosen by who uses them. NumPy only.

Sources: `predict_linear` and `double_exponential_smoothing` (formerly `holt_winters`) as the Prometheus documentation
defines them (querying/functions); Winters, Management Science 6 (1960), additive; Hyndman and Athanasopoulos,
Forecasting: Principles and Practice, for the seasonal naive forecast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alert_scores import Columns
from data_contract import HORIZON_STEPS, STEP_MINUTES
from fleet_grid import DAY_STEPS, FleetGrid

Floats = npt.NDArray[np.float64]
Score = Callable[..., npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes
    ----------
    name, title : str
        For programs and for people.
    score : callable
        `score(grid, columns, limits, **parameters)` gives float32 (columns, n_servers, n_metrics), NaN without data.
    choices : dict
        Values that are tried for each parameter; minutes where they say so.
    """

    name: str
    title: str
    score: Score
    choices: dict[str, tuple[float, ...]]

    def parameters(self) -> Iterator[dict[str, float]]:
        """All combinations."""
        for values in product(*self.choices.values()):
            yield dict(zip(self.choices, values, strict=True))


def _by_block(
    grid: FleetGrid, columns: Columns, limits: Floats, predict: Callable[[Floats], Floats]
) -> npt.NDArray[np.float32]:
    """Predict each block of servers, (servers, steps, metrics) → (servers, columns, metrics), as shares of limits."""
    result = np.empty((len(columns), grid.n_servers, limits.shape[1]), dtype=np.float32)
    for block in grid.blocks():
        values = grid.values[block, : int(columns[-1])].astype(np.float64)
        result[:, block] = np.moveaxis(predict(values) / limits[block, None], 0, 1)
    return result


def static_threshold(grid: FleetGrid, columns: Columns, limits: Floats) -> npt.NDArray[np.float32]:
    """The newest value: what `metric > threshold` sees."""
    return _by_block(grid, columns, limits, lambda values: values[:, columns - 1])


def linear_prediction(values: Floats, columns: Columns, range_steps: int, ahead_steps: float) -> Floats:
    """Prometheus' `predict_linear(metric[range], ahead)` at the time of the newest step before each column.

    Least squares over the samples of the range, those that are missing left out; NaN with less than two of them.

    Parameters
    ----------
    values : float array, (servers, steps, metrics)

    Returns
    -------
    float array, (servers, columns, metrics)
    """
    present = np.isfinite(values)
    x = np.arange(values.shape[1], dtype=np.float64)[None, :, None]
    y = np.where(present, values, 0.0)
    begin = np.maximum(columns - range_steps, 0)

    def total(terms: Floats) -> Floats:
        sums = np.concatenate([np.zeros_like(terms[:, :1]), np.cumsum(terms, axis=1)], axis=1)
        difference: Floats = sums[:, columns] - sums[:, begin]
        return difference

    n = total(present.astype(np.float64))
    # Sums of x around each newest step: less is lost to rounding than around the first one.
    now = (columns - 1).astype(np.float64)[None, :, None]
    sum_x, sum_y = total(present * x), total(y)
    sum_xx = total(present * x**2) - 2 * now * sum_x + now**2 * n
    sum_xy = total(y * x) - now * sum_y
    sum_x = sum_x - now * n
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (n * sum_xy - sum_x * sum_y) / (n * sum_xx - sum_x**2)
        predicted: Floats = (sum_y - slope * sum_x) / n + slope * ahead_steps
    predicted[n < 2] = np.nan
    return predicted


def predict_linear(
    grid: FleetGrid, columns: Columns, limits: Floats, *, range_minutes: float, ahead_minutes: float
) -> npt.NDArray[np.float32]:
    """Prometheus' `predict_linear(metric[range], ahead)`."""
    steps, ahead = int(range_minutes // STEP_MINUTES), ahead_minutes / STEP_MINUTES
    return _by_block(grid, columns, limits, lambda values: linear_prediction(values, columns, steps, ahead))


def double_exponential(
    grid: FleetGrid, columns: Columns, limits: Floats, *, smoothing: float, trend: float, ahead_minutes: float
) -> npt.NDArray[np.float32]:
    """Level and trend smoothed exponentially (Prometheus' recursion), the trend followed for a while."""

    def predict(values: Floats) -> Floats:
        return holt(values, columns, smoothing, trend, ahead_minutes / STEP_MINUTES)

    return _by_block(grid, columns, limits, predict)


def holt(values: Floats, columns: Columns, smoothing: float, trend: float, ahead: float) -> Floats:
    """Holt's linear method: s' = a x + (1 - a)(s + b), b' = t (s' - s) + (1 - t) b; missing values change nothing."""
    level, slope = values[:, 0].copy(), np.zeros_like(values[:, 0])
    result = np.full((len(values), len(columns), values.shape[2]), np.nan)
    place = {int(column) - 1: number for number, column in enumerate(columns)}
    for step in range(values.shape[1]):
        x = values[:, step]
        is_new, seen = np.isnan(level), np.isfinite(x)
        after = smoothing * x + (1 - smoothing) * (level + slope)
        slope = np.where(seen & ~is_new, trend * (after - level) + (1 - trend) * slope, slope)
        level = np.where(seen, np.where(is_new, x, after), level)
        if step in place:
            result[:, place[step]] = level + ahead * slope
    return result


def holt_winters(
    grid: FleetGrid, columns: Columns, limits: Floats, *, smoothing: float, trend: float, ahead_minutes: float
) -> npt.NDArray[np.float32]:
    """Additive Holt-Winters with a daily season: the largest value that it forecasts within a while."""

    def predict(values: Floats) -> Floats:
        return seasonal_holt_winters(values, columns, smoothing, trend, int(ahead_minutes // STEP_MINUTES))

    return _by_block(grid, columns, limits, predict)


def seasonal_holt_winters(values: Floats, columns: Columns, smoothing: float, trend: float, ahead: int) -> Floats:
    """Largest forecast of the next `ahead` steps at each column; the season is smoothed by 0.1 once a day.

    It begins with the first day: its mean, no trend, and its deviations as the season. Missing values change nothing.
    """
    first = values[:, :DAY_STEPS]
    measured = np.isfinite(first)
    level = np.where(measured, first, 0).sum(axis=1) / np.maximum(measured.sum(axis=1), 1)
    level[~measured.any(axis=1)] = np.nan
    season = np.zeros((len(values), DAY_STEPS, values.shape[2]))
    season[:, : first.shape[1]] = np.where(measured, first - level[:, None], 0.0)
    slope = np.zeros_like(level)
    result = np.full((len(values), len(columns), values.shape[2]), np.nan)
    place = {int(column) - 1: number for number, column in enumerate(columns)}
    future = np.arange(1, ahead + 1)
    for step in range(values.shape[1]):
        if step >= DAY_STEPS:
            x, phase = values[:, step], step % DAY_STEPS
            is_new, seen = np.isnan(level), np.isfinite(x)
            after = smoothing * (x - season[:, phase]) + (1 - smoothing) * (level + slope)
            slope = np.where(seen & ~is_new, trend * (after - level) + (1 - trend) * slope, slope)
            level = np.where(seen, np.where(is_new, x, after), level)
            season[:, phase] = np.where(seen, 0.1 * (x - level) + 0.9 * season[:, phase], season[:, phase])
        if step in place:
            ahead_values = level[:, None] + future[:, None] * slope[:, None] + season[:, (step + future) % DAY_STEPS]
            result[:, place[step]] = ahead_values.max(axis=1)
    return result


def seasonal_naive(
    grid: FleetGrid, columns: Columns, limits: Floats, *, ahead_minutes: float, shifted: float
) -> npt.NDArray[np.float32]:
    """Yesterday's largest value within the same time ahead; `shifted` by how today differs from yesterday now."""
    ahead = min(int(ahead_minutes // STEP_MINUTES), HORIZON_STEPS)

    def predict(values: Floats) -> Floats:
        result = np.full((len(values), len(columns), values.shape[2]), np.nan)
        for number, column in enumerate(columns.tolist()):
            if column <= DAY_STEPS:
                continue
            yesterday = np.nan_to_num(values[:, column - DAY_STEPS : column - DAY_STEPS + ahead], nan=-np.inf)
            largest = yesterday.max(axis=1)
            difference = values[:, column - 1] - values[:, column - 1 - DAY_STEPS]
            largest = largest + shifted * np.nan_to_num(difference)
            result[:, number] = np.where(np.isfinite(largest), largest, np.nan)
        return result

    return _by_block(grid, columns, limits, predict)


_AHEAD: Final = (30.0, 60.0, 120.0, 240.0)

RULES: Final[dict[str, Rule]] = {
    rule.name: rule
    for rule in (
        Rule("static_threshold", "A lower threshold on the present value", static_threshold, {}),
        Rule(
            "predict_linear",
            "Prometheus: predict_linear",
            predict_linear,
            {"range_minutes": (30.0, 60.0, 180.0), "ahead_minutes": _AHEAD},
        ),
        Rule(
            "double_exponential",
            "Prometheus: double exponential smoothing, followed ahead",
            double_exponential,
            {"smoothing": (0.3, 0.6), "trend": (0.1, 0.3), "ahead_minutes": (30.0, 60.0, 120.0)},
        ),
        Rule(
            "holt_winters",
            "Holt-Winters with a daily season",
            holt_winters,
            {"smoothing": (0.3, 0.6), "trend": (0.02, 0.1), "ahead_minutes": (30.0, 60.0, 120.0)},
        ),
        Rule(
            "seasonal_naive",
            "Same time yesterday",
            seasonal_naive,
            {"ahead_minutes": (60.0, 480.0), "shifted": (0.0, 1.0)},
        ),
    )
}


def describe(rule: Rule, parameters: dict[str, float], share: float) -> str:
    """One line in words, for a person."""
    told: list[Any] = [f"{name.replace('_', ' ')} {value:g}" for name, value in parameters.items()]
    return f"{rule.title} above {share:.0%} of the threshold" + (f" ({', '.join(told)})" if told else "")


def _self_check() -> None:
    values = np.linspace(10, 69, 60)[None, :, None]
    columns = np.array([30, 60])
    assert np.allclose(linear_prediction(values, columns, 12, 6)[0, :, 0], values[0, columns - 1, 0] + 6)
    assert np.allclose(holt(values, columns, 0.5, 0.5, 6)[0, 1, 0], 75, atol=0.5)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
