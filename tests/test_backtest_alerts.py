"""Tests of backtest_alerts.py: alerts of a real model and of a knowing one, beside rules tuned before the test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alert_hysteresis import AlertPolicy
from alert_rules import RULES
from backtest_alerts import incidents_beside, judge_alerts
from config import load_settings
from data_contract import HORIZON_STEPS, METRIC_COLUMNS, BacktestError
from fleet_grid import DAY_STEPS, FleetGrid, time_of
from forecast import Forecast
from risk_calibration import RiskCalibration, RiskMap
from tft_features import QUANTILES
from tft_forecaster import Forecaster

SETTINGS = load_settings()
STEPS, BEGIN = 5 * DAY_STEPS, 3 * DAY_STEPS
SERVERS = 6
FORESEEABLE = 12  # climbs in the test


def make_grid() -> FleetGrid:
    """CPU climbs from 10 to above the threshold within an hour, once a day on each server; else it is calm."""
    rng = np.random.default_rng(1)
    values = (10 + rng.normal(0, 0.5, (SERVERS, STEPS, 4))).astype(np.float32)
    for server in range(SERVERS):
        for day in range(5):
            first = day * DAY_STEPS + 20 + (37 * server + 101 * day) % 160  # at another time every day
            values[server, first : first + 12, 0] = np.linspace(16, 88, 12)
            values[server, first + 12 : first + 24, 0] = 97
    names = tuple(f"ppweb{k:03d}" for k in range(SERVERS))
    states = np.zeros(values.shape[:2], dtype=np.int8)
    return FleetGrid(names, ("web_api",) * SERVERS, 5_000_000, values, states)


class Knowing:
    """Forecasts like a model that knows what a climb means: from 25 on, CPU will be between 60 and 110 in 6 steps."""

    history_steps = DAY_STEPS

    def __init__(self, calibration: RiskCalibration | None) -> None:
        self.calibration = calibration

    def predict_grid(self, grid: FleetGrid) -> Forecast:
        levels = np.array(QUANTILES)
        values = np.full((grid.n_servers, HORIZON_STEPS, 4, len(levels)), 10.0, dtype=np.float32)
        values[grid.values[:, -1, 0] > 25, 6:18, 0] = 60 + 50 * levels
        known, origin = np.ones(grid.n_servers, dtype=np.bool_), time_of(grid.origin_step - 1)
        return Forecast(grid.names, grid.profiles, known, origin, values, QUANTILES, self.calibration)


def judged(calibration: RiskCalibration | None, **options: Any) -> dict[str, Any]:
    forecaster: Any = Knowing(calibration)
    return judge_alerts(forecaster, make_grid(), BEGIN, SETTINGS, every_steps=3, **options).as_dict()


@pytest.fixture(scope="module")
def calibrated() -> dict[str, Any]:
    """Result of a model whose risk of 0.4 means 0.9."""
    risk_map = RiskMap((0.02, 0.38), (0.01, 0.9))
    return judged(RiskCalibration((risk_map,) * 4, AlertPolicy(0.8, 0.4, 0, 30), {}))


def test_a_model_that_knows_finds_every_climb_in_time(calibrated: dict[str, Any]) -> None:
    what, row = calibrated["what"], calibrated["methods"][0]
    assert (what["truth"], what["servers"], what["calibrated"]) == ("crossings", SERVERS, True)
    assert what["events"] == FORESEEABLE and what["sudden_events"] == 0
    assert (row["method"], row["precision"], row["recall"], row["false"]) == ("tft", 1.0, 1.0, 0)
    assert 30 <= row["lead_minutes_median"] <= 55
    assert row["parameters"]["open_at"] == 0.8
    assert what["server_weeks"] == pytest.approx(SERVERS * (2 * DAY_STEPS - HORIZON_STEPS) / (7 * DAY_STEPS), rel=0.01)


def test_every_rule_stands_beside_the_model_with_parameters_from_before_the_test(calibrated: dict[str, Any]) -> None:
    rows = {row["method"]: row for row in calibrated["methods"]}
    assert list(rows) == ["tft", *RULES]
    for name, row in rows.items():
        if name == "tft":
            continue
        assert set(RULES[name].choices) <= set(row["parameters"])
        assert row["false_per_server_week"] == 0  # as the model, before the test and, here, in it
        assert row["at_same_false_rate"]["recall"] >= 0
    # A climb is what the one was made for, and at this time of day the other has not seen it.
    assert rows["predict_linear"]["recall"] == 1 and rows["seasonal_naive"]["recall"] < 0.9
    assert calibrated["what"]["tuned_from"] < calibrated["what"]["test_from"]


def test_probabilities_are_shown_raw_and_calibrated(calibrated: dict[str, Any]) -> None:
    rows = calibrated["reliability"]
    assert {row["stage"] for row in rows} == {"raw", "calibrated"}
    assert {row["metric"] for row in rows} == {"all", *METRIC_COLUMNS}
    assert len(rows) == 2 * 5 * 10
    likely = [row for row in rows if row["metric"] == "cpu_pct" and row["count"] and row["mean_probability"] > 0.3]
    assert {row["stage"]: row["from"] for row in likely} == {"raw": 0.4, "calibrated": 0.9}
    assert all(row["share_true"] > 0.8 for row in likely)
    (bin_of_alerts,) = [row for row in calibrated["alert_reliability"] if row["count"]]
    assert bin_of_alerts["share_true"] == 1 and bin_of_alerts["count"] == FORESEEABLE


def test_times_of_the_breach_curves_and_examples_are_told(calibrated: dict[str, Any]) -> None:
    times = calibrated["breach_times"]
    assert times["alerts"] == FORESEEABLE and times["median_error_minutes"] <= 30
    assert 0 <= times["within_earliest_latest"] <= 1
    curve = [row for row in calibrated["operating_curve"] if row["method"] == "tft"]
    assert [row["open_at"] for row in curve] == sorted(row["open_at"] for row in curve)
    assert any(row["recall"] == 1 for row in curve)
    kinds = {row["outcome"] for row in calibrated["examples"]}
    assert kinds == {"true"}
    assert all(row["opened_at"] < row["breach_at"] < row["closed_at"] for row in calibrated["examples"])


def test_the_result_is_plain_json(calibrated: dict[str, Any]) -> None:
    assert json.loads(json.dumps(calibrated, allow_nan=False)) == calibrated


def test_a_model_without_a_calibration_gets_one_from_the_time_before_the_test() -> None:
    told: list[str] = []
    result = judged(None, tell=lambda what, _done, _total: told.append(what))
    assert result["what"]["calibrated"] and result["methods"][0]["precision"] == 1.0
    assert list(dict.fromkeys(told)) == ["calibrating risk", "replaying forecasts", "alerting rules"]


def test_a_test_shorter_than_a_horizon_is_refused() -> None:
    forecaster: Any = Knowing(None)
    with pytest.raises(BacktestError, match="too little data"):
        judge_alerts(forecaster, make_grid(), STEPS - HORIZON_STEPS + 1, SETTINGS)


def test_a_real_model_is_replayed_as_it_is(tiny_model_dir: Path, fleet_frame: Any) -> None:
    grid = FleetGrid.from_frame(fleet_frame)
    forecaster = Forecaster.load(tiny_model_dir)
    result = judge_alerts(forecaster, grid, grid.n_steps - 120, SETTINGS, every_steps=12).as_dict()
    assert result["what"]["origins"] == 3 and not result["what"]["calibrated"]
    assert result["methods"][0]["parameters"]["open_at"] == SETTINGS.alert_open_risk
    assert sum(row["count"] for row in result["reliability"] if row["metric"] == "all") > 0


def test_incidents_are_the_truth_where_they_lie_beside_the_data(tmp_path: Path) -> None:
    data = tmp_path / "server_metrics.parquet"
    assert incidents_beside(data, "auto") is None
    with pytest.raises(BacktestError, match=r"no metrics_incidents\.parquet"):
        incidents_beside(data, "incidents")
    incidents = tmp_path / "metrics_incidents.parquet"
    incidents.touch()
    assert incidents_beside(data, "auto") == incidents_beside(tmp_path, "incidents") == incidents
    assert incidents_beside(data, "crossings") is None
