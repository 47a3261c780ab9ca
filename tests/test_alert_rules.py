"""Tests of alert_rules.py: each rule predicts what its formula says, from what came before alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alert_rules import RULES, Rule, holt, linear_prediction, seasonal_holt_winters
from fleet_grid import DAY_STEPS, FleetGrid

LIMITS = np.array([[90.0, 95.0, 500.0, 500.0]])


def make_grid(values: np.ndarray) -> FleetGrid:
    """One server, the same values for every metric."""
    cells = np.repeat(np.asarray(values, dtype=np.float32)[None, :, None], 4, axis=2)
    return FleetGrid(("ppweb001",), ("web_api",), 5_000_000, cells, np.zeros(cells.shape[:2], dtype=np.int8))


def scored(name: str, values: np.ndarray, columns: list[int], **parameters: float) -> np.ndarray:
    """Predicted CPU of one server at columns."""
    score = RULES[name].score(make_grid(values), np.array(columns), LIMITS, **parameters)
    assert score.shape == (len(columns), 1, 4) and score.dtype == np.float32
    return np.asarray(score[:, 0, 0] * 90.0)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_no_rule_reads_what_comes_at_or_after_its_moment(rule: Rule) -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 100, 3 * DAY_STEPS)
    columns = np.array([DAY_STEPS + 5, 2 * DAY_STEPS, 2 * DAY_STEPS + 100])
    garbage = values.copy()
    garbage[columns[1] :] = 1e6
    for parameters in rule.parameters():
        plain, spoilt = (rule.score(make_grid(each), columns, LIMITS, **parameters) for each in (values, garbage))
        assert np.array_equal(plain[:2], spoilt[:2]) and np.isfinite(plain).all()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_metric_that_is_never_reported_has_no_score(rule: Rule) -> None:
    grid = make_grid(np.full(2 * DAY_STEPS, np.nan))
    for parameters in rule.parameters():
        assert np.isnan(rule.score(grid, np.array([DAY_STEPS + 9]), LIMITS, **parameters)).all()


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_predict_linear_is_the_least_squares_line_at_the_time_ahead(missing: float) -> None:
    rng = np.random.default_rng(1)
    values = 20 + rng.normal(size=400).cumsum()
    values[rng.random(400) < missing] = np.nan
    columns = [12, 100, 399]
    predicted = scored("predict_linear", values, columns, range_minutes=60, ahead_minutes=120)
    for column, value in zip(columns, predicted, strict=True):
        x, y = np.arange(-11, 1), values[column - 12 : column]
        seen = np.isfinite(y)
        slope, now = np.polyfit(x[seen], y[seen], 1)
        assert value == pytest.approx(now + 24 * slope, rel=1e-4)


def test_predict_linear_needs_two_samples_as_prometheus_does() -> None:
    values = np.full(50, np.nan)
    values[[10, 40, 45]] = (1, 2, 3)
    predicted = linear_prediction(values[None, :, None], np.array([15, 48]), 12, 6)
    assert np.isnan(predicted[0, 0, 0]) and predicted[0, 1, 0] == pytest.approx(3 + 8 * 0.2)


def test_linear_prediction_keeps_its_precision_far_from_the_beginning() -> None:
    steps = 100_000
    values = (40 + 0.5 * np.sin(np.arange(steps)))[None, :, None]
    predicted = linear_prediction(values, np.array([steps]), 12, 48)
    slope, now = np.polyfit(np.arange(-11, 1), values[0, -12:, 0], 1)
    assert predicted[0, 0, 0] == pytest.approx(now + 48 * slope, abs=1e-4)


def test_double_exponential_smoothing_follows_prometheus_recursion() -> None:
    values = np.array([10.0, 12, 11, 15, np.nan, 16])
    level, slope = 10.0, 0.0
    for x in (12, 11, 15, 16):
        before = level
        level = 0.3 * x + 0.7 * (level + slope)
        slope = 0.1 * (level - before) + 0.9 * slope
    predicted = holt(values[None, :, None], np.array([6]), 0.3, 0.1, 12)
    assert predicted[0, 0, 0] == pytest.approx(level + 12 * slope)


def test_holt_winters_knows_the_day() -> None:
    steps = np.arange(6 * DAY_STEPS)
    values = 50 + 30 * np.sin(2 * np.pi * steps / DAY_STEPS)
    column = 5 * DAY_STEPS + DAY_STEPS // 8  # rising; the top is in another eighth of a day, 3 hours
    found = seasonal_holt_winters(values[None, :, None], np.array([column]), 0.3, 0.02, 48)
    assert found[0, 0, 0] == pytest.approx(80, abs=1)
    short = seasonal_holt_winters(values[None, :, None], np.array([column]), 0.3, 0.02, 6)
    assert short[0, 0, 0] == pytest.approx(values[column + 5], abs=1)


def test_seasonal_naive_is_yesterdays_highest_value_of_the_same_time() -> None:
    values = np.zeros(2 * DAY_STEPS)
    values[100] = 70
    columns = [DAY_STEPS + 80, DAY_STEPS + 95, DAY_STEPS + 101]
    plain: dict[str, Any] = {"ahead_minutes": 60, "shifted": 0}
    assert scored("seasonal_naive", values, columns, **plain).tolist() == pytest.approx([0, 70, 0])
    values[DAY_STEPS + 94] = 10  # ten more than yesterday
    assert scored("seasonal_naive", values, columns, ahead_minutes=60, shifted=1)[1] == pytest.approx(80)
    assert np.isnan(scored("seasonal_naive", values, [DAY_STEPS], **plain)).all()


def test_the_static_threshold_sees_the_newest_value() -> None:
    assert scored("static_threshold", np.arange(100.0), [1, 50]).tolist() == pytest.approx([0, 49])
