"""Tests of risk_calibration.py: known probabilities come out, maps rise, and what is no calibration is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from alert_hysteresis import AlertPolicy
from config import load_settings
from data_contract import METRIC_COLUMNS, TRAINING_INFO, ModelFolderError
from risk_calibration import RiskCalibration, RiskMap, fit_map, fit_maps, pool_adjacent_violators
from tft_forecaster import Forecaster
from tft_risk import assess, policy_of

GRID = np.linspace(0.05, 0.95, 19)


def fitted(truth: Any, n: int = 60_000, weight: Any = None, alike: float = 1.0) -> np.ndarray:
    """Map fitted on raw risks whose true probability is a function of them, at the places of `GRID`."""
    rng = np.random.default_rng(1)
    raw = rng.uniform(0, 1, n)
    came_true = rng.random(n) < truth(raw)
    weights = np.ones(n) if weight is None else weight(came_true)
    return fit_map(raw, came_true, weights, alike)(GRID)


@pytest.mark.parametrize("truth", [lambda raw: raw, np.square, np.sqrt, lambda raw: 0.2 + 0.5 * raw])
def test_known_probabilities_come_out(truth: Any) -> None:
    np.testing.assert_allclose(fitted(truth), truth(GRID), atol=0.035)


def test_a_risk_that_says_nothing_becomes_the_base_rate() -> None:
    np.testing.assert_allclose(fitted(lambda raw: 0.1 + 0 * raw), 0.1, atol=0.02)


def test_weights_make_up_for_forecasts_that_were_left_out() -> None:
    rng = np.random.default_rng(2)
    raw = rng.uniform(0, 1, 60_000)
    came_true = rng.random(len(raw)) < raw**2
    kept = came_true | (rng.random(len(raw)) < 0.25)
    weight = np.where(came_true, 1.0, 4.0)[kept]
    np.testing.assert_allclose(fit_map(raw[kept], came_true[kept], weight)(GRID), GRID**2, atol=0.04)


def test_a_map_never_falls_and_is_never_certain() -> None:
    rng = np.random.default_rng(3)
    for n in (3, 30, 300):
        raw = rng.uniform(0, 1, n)
        probability = fit_map(raw, raw > 0.5, np.ones(n), alike=8.0)(np.linspace(0, 1, 101))
        assert (np.diff(probability) >= 0).all()
        assert probability.min() > 0 and probability.max() < 1


def test_a_risk_beyond_all_that_was_seen_is_not_talked_down() -> None:
    """In a quiet time no risk is high and hardly any comes true; that says nothing of a server on fire."""
    raw = np.random.default_rng(5).uniform(0, 0.1, 2000)
    quiet = fit_map(raw, np.arange(2000) % 200 == 0, np.ones(2000))
    below, at, high, highest = quiet(np.array([0.02, raw.max(), 0.6, 0.99]))
    assert below < at < 0.05 and 0.5 < high < 0.6 and highest > 0.97


def test_the_same_event_told_many_times_counts_once() -> None:
    once, many = fitted(lambda raw: raw > 0.5, 200), fitted(lambda raw: raw > 0.5, 200, alike=20)
    assert once[-1] > 0.98 and 0.7 < many[-1] < 0.97


def test_what_is_a_probability_already_is_believed_where_there_is_little_evidence() -> None:
    raw = np.array([0.01, 0.02, 0.5, 0.9, 0.9, 0.95])
    came_true = raw > 0.4
    drawn_to_the_mean = fit_map(raw, came_true, np.ones(6), alike=20)(np.array([0.95]))
    believed = fit_map(raw, came_true, np.ones(6), alike=20, is_probability=True)(np.array([0.01, 0.95]))
    assert drawn_to_the_mean < 0.75 < believed[1] and believed[0] < 0.05


def test_pooling_is_the_least_squares_monotone_fit() -> None:
    weight, gain = np.array([1.0, 2, 1, 1]), np.array([0.1, 1.6, 0.2, 0.9])  # means .1, .8, .2, .9
    weights, gains, places = pool_adjacent_violators(weight, gain, weight * np.arange(4))
    assert (gains / weights).tolist() == pytest.approx([0.1, 0.6, 0.9])
    assert (places / weights).tolist() == pytest.approx([0, 4 / 3, 3])


def test_metrics_with_few_events_share_a_map_and_without_any_there_is_none() -> None:
    rng = np.random.default_rng(4)
    raw = rng.uniform(0, 1, (200, 5, 4))
    came_true = rng.random(raw.shape) < raw * np.array([1.0, 0.5, 0.5, 0.5])
    usable = np.ones(raw.shape, dtype=np.bool_)
    raw[:20, :, 3] = np.nan  # no forecast
    found = fit_maps(raw, came_true, usable, np.ones(5), [50, 3, 3, 0], 1.0)
    assert found is not None
    maps, kinds = found
    assert kinds == ["own", "pooled", "pooled", "pooled"]
    assert maps[1] == maps[2] == maps[3] != maps[0]
    assert fit_maps(raw, came_true, usable, np.ones(5), [1, 1, 1, 1], 1.0) is None


def test_a_calibration_survives_json_and_keeps_what_is_missing_missing() -> None:
    maps = tuple(RiskMap((0.1, 0.5), (0.05 * k, 0.2 * k)) for k in range(1, 5))
    calibration = RiskCalibration(maps, AlertPolicy(0.6, 0.3, 5, 30), {"events": 12})
    again = RiskCalibration.from_dict(json.loads(json.dumps(calibration.as_dict(), allow_nan=False)))
    assert again == calibration
    probability = again.probability(np.array([[0.0, 0.1, 0.3, np.nan], [1.0, 1.0, 1.0, 1.0]]))
    assert probability[0, :3].tolist() == pytest.approx([0.05, 0.1, 0.375]) and np.isnan(probability[0, 3])
    assert calibration.probability(np.full(4, 0.5)).tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert probability[1].tolist() == pytest.approx([0.99] * 4)  # beyond all that was seen


@pytest.mark.parametrize(
    "change",
    [
        {"maps": {}},
        {"policy": {}},
        {"policy": {"open_at": 0.3, "close_at": 0.6, "confirm_minutes": 0, "release_minutes": 0}},
        {"policy": {"open_at": 1.5, "close_at": 0.6, "confirm_minutes": 0, "release_minutes": 0}},
        {"described": 3},
        {"raw": [0.5, 0.1]},
        {"raw": [0.1, 2.0]},
        {"raw": [0.1]},
        {"raw": []},
        {"raw": "ab"},
        {"probability": [0.5, 0.1]},
        {"probability": [0.5, float("nan")]},
        {"probability": [None, 0.5]},
    ],
)
def test_what_is_no_calibration_is_refused(change: dict[str, Any]) -> None:
    knots = {"raw": [0.1, 0.5], "probability": [0.1, 0.5]}
    content: dict[str, Any] = {
        "maps": {metric: dict(knots) for metric in METRIC_COLUMNS},
        "policy": AlertPolicy(0.7, 0.5).as_dict(),
        "described": {},
    }
    assert RiskCalibration.from_dict(content).maps[0].raw == (0.1, 0.5)
    for key, value in change.items():
        (content if key in content else content["maps"]["cpu_pct"])[key] = value
    with pytest.raises((KeyError, TypeError, ValueError)):
        RiskCalibration.from_dict(content)


def test_a_model_folder_keeps_its_calibration_which_risk_and_alerts_are_read_by(
    tiny_model_dir: Path, fleet_frame: pd.DataFrame, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / tiny_model_dir.name))
    info = json.loads((folder / TRAINING_INFO).read_text())

    def loaded(calibration: Any) -> Forecaster:
        (folder / TRAINING_INFO).write_text(json.dumps({**info, "risk_calibration": calibration}))
        return Forecaster.load(folder)

    settings = load_settings()
    plain = loaded(None)
    assert plain.calibration is None  # as folders are that were made before there was one
    forecast = plain.predict(fleet_frame)
    assert policy_of(forecast, settings) == AlertPolicy(0.7, 0.5)
    maps = (RiskMap((0.0, 1.0), (0.25, 0.75)),) * len(METRIC_COLUMNS)
    calibrated = loaded(RiskCalibration(maps, AlertPolicy(0.4, 0.2, 15, 30), {}).as_dict()).predict(fleet_frame)
    for before, after in zip(assess(forecast, settings), assess(calibrated, settings), strict=True):
        assert after.risk == pytest.approx(0.25 + 0.5 * (before.risk or 0), abs=2e-3)
    assert policy_of(calibrated, settings) == AlertPolicy(0.4, 0.2, 15, 30)
    assert policy_of(calibrated, load_settings(alert_open_risk=0.9)) == AlertPolicy(0.9, 0.5)
    broken: Any
    for broken in ({}, [], "none", {"maps": {}, "policy": {}, "described": {}}):
        with pytest.raises(ModelFolderError, match="risk_calibration"):
            loaded(broken)
