"""Tests of tft_risk.py: probabilities read off quantiles, records in the owner's format, alerts that do not flap."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from conftest import make_fleet

from config import Settings, load_settings
from data_contract import HORIZON_STEPS, HORIZONS, METRIC_COLUMNS, SERVED_QUANTILES
from fleet_grid import FleetGrid
from forecast import Forecast
from tft_features import QUANTILES
from tft_risk import AlertBook, assess, breach_probability, path_record, prediction_records, thresholds_of

ORIGIN = datetime(2026, 3, 3, 23, 55, tzinfo=timezone.utc)
SETTINGS: Settings = load_settings(
    critical_thresholds={"cpu_pct": 90.0, "mem_pct": 95.0, "disk_io_mb_s": 500.0, "latency_ms": 500.0},
    profile_thresholds={"ml_compute": {"cpu_pct": 98.0}},
)


def make_forecast(cpu: np.ndarray | float, *, name: str = "ppweb001", profile: str = "web_api") -> Forecast:
    """Forecast of one server: CPU uniform from `cpu` - 50 to `cpu` + 50 (median `cpu`), everything else calm at 10."""
    values = np.full((1, HORIZON_STEPS, len(METRIC_COLUMNS), len(QUANTILES)), 10.0, dtype=np.float32)
    values[0, :, 0] = np.broadcast_to(np.asarray(cpu), HORIZON_STEPS)[:, None] + 100 * (np.array(QUANTILES) - 0.5)
    return Forecast((name,), (profile,), np.array([True]), ORIGIN, values, QUANTILES)


def test_breach_probability_is_the_share_of_the_distribution_above_the_threshold() -> None:
    forecast = make_forecast(np.linspace(45, 130, HORIZON_STEPS))
    probability = breach_probability(forecast, thresholds_of(forecast, SETTINGS))[0, :, 0]
    median = np.linspace(45, 130, HORIZON_STEPS)
    inside = np.abs(90 - median) < 47
    np.testing.assert_allclose(probability[inside], (0.5 + (median - 90) / 100)[inside], atol=1e-5)
    assert (np.diff(probability) >= 0).all()


def test_breach_probability_beyond_the_outermost_quantiles_is_small_but_not_certain() -> None:
    low, high = make_forecast(-500.0), make_forecast(500.0)
    assert breach_probability(low, thresholds_of(low, SETTINGS))[0, :, 0] == pytest.approx(0.01)
    assert breach_probability(high, thresholds_of(high, SETTINGS))[0, :, 0] == pytest.approx(0.99)


def test_breach_probability_of_a_point_forecast_jumps_at_the_threshold() -> None:
    forecast = make_forecast(50.0)
    forecast.values[0, :, 1] = 95.0  # all quantiles exactly on the threshold: not above it
    forecast.values[0, :, 2] = 500.1
    probability = breach_probability(forecast, thresholds_of(forecast, SETTINGS))
    assert probability[0, 0, 1] == pytest.approx(0.01) and probability[0, 0, 2] == pytest.approx(0.99)


def test_risk_is_the_largest_over_metrics_and_horizon_and_names_the_metric() -> None:
    cpu = np.full(HORIZON_STEPS, 10.0)
    cpu[40] = 110.0
    (risk,) = assess(make_forecast(cpu), SETTINGS)
    assert risk.risk_metric == "cpu_pct" and risk.risk == pytest.approx(0.7, abs=1e-3)
    assert risk.risks["mem_pct"] == pytest.approx(0.01)


def test_thresholds_differ_by_profile() -> None:
    web, compute = make_forecast(90.0), make_forecast(90.0, name="ppml0001", profile="ml_compute")
    assert assess(web, SETTINGS)[0].risk == pytest.approx(0.5, abs=1e-3)
    assert assess(compute, SETTINGS)[0].risk == pytest.approx(0.42, abs=1e-3)


def test_metrics_without_a_forecast_have_no_risk_and_a_server_without_any_has_none() -> None:
    forecast = make_forecast(90.0)
    forecast.values[0, :, 3] = np.nan
    assert assess(forecast, SETTINGS)[0].risks["latency_ms"] is None
    forecast.values[:] = np.nan
    (risk,) = assess(forecast, SETTINGS)
    assert risk.risk is None and risk.risk_metric is None and set(risk.risks.values()) == {None}


def test_records_have_the_owners_format_and_are_valid_json() -> None:
    frame = make_fleet(("ppweb001",), hours=3).assign(latency_ms=np.nan)
    forecast = make_forecast(50.0)
    forecast.values[0, :, 3] = np.nan
    (record,) = prediction_records(forecast, assess(forecast, SETTINGS), FleetGrid.from_frame(frame))
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["server_name"] == "ppweb001" and record["profile"] == "web_api"
    assert record["prediction_time"] == "2026-03-03T23:55:00Z"
    assert list(record["predictions"]) == list(HORIZONS) and list(record["quantiles"]) == list(SERVED_QUANTILES)
    for horizon in HORIZONS:
        assert list(record["predictions"][horizon]) == list(METRIC_COLUMNS)
        assert record["predictions"][horizon]["latency_ms"] is None
        assert record["quantiles"]["p50"][horizon] == record["predictions"][horizon]
        assert record["quantiles"]["p10"][horizon]["cpu_pct"] == pytest.approx(10)
        assert record["quantiles"]["p90"][horizon]["cpu_pct"] == pytest.approx(90)
    assert record["state"] == "healthy" and record["current"]["latency_ms"] is None
    assert record["current"]["cpu_pct"] == pytest.approx(frame["cpu_pct"].iloc[-1], abs=1e-3)


def test_horizons_are_read_at_steps_6_12_and_96() -> None:
    forecast = make_forecast(np.arange(1.0, HORIZON_STEPS + 1))
    frame = make_fleet(("ppweb001",), hours=1)
    (record,) = prediction_records(forecast, assess(forecast, SETTINGS), FleetGrid.from_frame(frame))
    assert [record["predictions"][each]["cpu_pct"] for each in ("30min", "1hr", "8hr")] == [6, 12, 96]


def test_the_path_covers_eight_hours_step_by_step() -> None:
    forecast = make_forecast(50.0)
    forecast.values[0, :, 3] = np.nan
    path = path_record(forecast, "ppweb001")
    assert path["timestamps"][0] == "2026-03-04T00:00:00Z" and path["timestamps"][-1] == "2026-03-04T07:55:00Z"
    assert path["metrics"]["latency_ms"] is None
    assert path["metrics"]["cpu_pct"]["p90"] == pytest.approx([90.0] * HORIZON_STEPS)
    with pytest.raises(ValueError, match="not in tuple"):
        path_record(forecast, "ppweb002")


def test_an_alert_opens_and_closes_with_hysteresis_and_keeps_its_opening_time() -> None:
    book = AlertBook(SETTINGS)
    later = timedelta(minutes=5)

    def feed(cpu: float, step: int) -> list[dict[str, object]]:
        forecast = make_forecast(cpu)
        book.update(Forecast(**{**vars(forecast), "origin": ORIGIN + step * later}))
        return book.active()

    assert feed(105.0, 0) == []  # probability 0.65: not enough to open
    (opened,) = feed(112.0, 1)  # 0.72
    assert opened["opened_at"] == "2026-03-04T00:00:00Z"
    (renewed,) = feed(95.0, 2)  # 0.55: not low enough to close
    assert renewed["opened_at"] == opened["opened_at"] and renewed["probability"] == pytest.approx(0.55, abs=1e-3)
    assert feed(85.0, 3) == []  # 0.45
    assert feed(105.0, 4) == []


def test_an_alert_says_what_how_likely_and_when() -> None:
    book = AlertBook(SETTINGS)
    book.update(make_forecast(np.linspace(20, 115, HORIZON_STEPS)))  # one more per step
    (alert,) = book.active()
    assert (alert["metric"], alert["unit"], alert["threshold"]) == ("cpu_pct", "%", 90.0)
    assert alert["probability"] == pytest.approx(0.75, abs=1e-3) and alert["median_forecast"] == pytest.approx(115)
    times = alert["breach_time"]
    assert times["earliest"] < times["median"] < times["latest"]
    # Of the 0.75 at the end, half is reached where the median forecast is 90 - 12.5, after 58.5 of the steps.
    assert alert["lead_time_minutes"] == pytest.approx(5 * 59, abs=5)
    assert "CPU of ppweb001" in alert["message"] and times["median"] in alert["message"]


def test_an_alert_for_what_is_above_the_threshold_already_does_not_pretend_a_lead_time() -> None:
    book = AlertBook(SETTINGS)
    book.update(make_forecast(125.0))
    (alert,) = book.active()
    assert alert["lead_time_minutes"] == 5 and "will exceed 90 % within 5 minutes with" in alert["message"]


def test_alerts_of_servers_without_a_forecast_close() -> None:
    book = AlertBook(SETTINGS)
    book.update(make_forecast(120.0))
    assert len(book.active()) == 1
    gone = make_forecast(120.0)
    gone.values[:] = np.nan
    book.update(gone)
    assert book.active() == []
