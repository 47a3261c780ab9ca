"""Tests of alert_replay.py: nothing later than its origin is seen, probabilities come out true, policies are chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from alert_events import Event, find_crossings, limits_of, outcomes
from alert_replay import CALL_COST, choose_policy, fit_risk_calibration, replay, replay_columns
from alert_scores import judge, raise_alerts, reliability
from config import load_settings
from data_contract import HORIZON_STEPS, METRIC_COLUMNS
from fleet_grid import N_METRICS, FleetGrid, time_of
from forecast import Forecast
from tft_features import QUANTILES

SETTINGS = load_settings()
STEPS = 2400
FIRST = 1000


def make_grid(n_servers: int = 12, seed: int = 1) -> FleetGrid:
    """Servers that are calm, but for CPU above its threshold now and then; half an hour before, it is at 60."""
    rng = np.random.default_rng(seed)
    values = np.full((n_servers, STEPS, N_METRICS), 10.0, dtype=np.float32)
    values += rng.normal(0, 1, values.shape).astype(np.float32)
    for server in range(n_servers):
        for warning in np.arange(60, STEPS - 200, 200) + rng.integers(0, 60):
            values[server, warning : warning + 6, 0] = 60
            if rng.random() < 0.6:
                values[server, warning + 6 : warning + 12, 0] = 99
    names = tuple(f"ppweb{k:03d}" for k in range(n_servers))
    states = np.zeros(values.shape[:2], dtype=np.int8)
    return FleetGrid(names, ("web_api",) * n_servers, 5_000_000, values, states)


def predict(grid: FleetGrid) -> Forecast:
    """A forecaster that says 0.3 at best where the truth is 0.6: CPU may be anything from 70 on if it is at 60 now."""
    levels = np.array(QUANTILES)
    values = np.full((grid.n_servers, HORIZON_STEPS, N_METRICS, len(levels)), 10.0, dtype=np.float32)
    warned = grid.values[:, -1, 0] > 50
    values[warned, 3:12, 0] = 60 + 43 * levels
    known = np.ones(grid.n_servers, dtype=np.bool_)
    origin = time_of(grid.origin_step - 1)
    return Forecast(grid.names, grid.profiles, known, origin, values, QUANTILES)


def test_every_forecast_of_a_replay_sees_what_came_before_it_alone() -> None:
    grid = make_grid(3)
    limits = limits_of(grid, SETTINGS)
    seen: list[tuple[int, int]] = []

    def spy(part: FleetGrid) -> Forecast:
        seen.append((part.first_step, part.n_steps))
        return predict(part)

    columns = replay_columns(FIRST, FIRST + 200, 7)
    history = replay(spy, grid, columns, limits)
    assert seen == [(grid.first_step, column) for column in columns]
    assert columns[-1] + HORIZON_STEPS <= FIRST + 200
    assert history.raw.shape == (len(columns), 3, N_METRICS) and history.steps.shape == (len(columns), 3, N_METRICS, 3)


def test_progress_is_told_and_metrics_without_a_forecast_stay_without() -> None:
    grid = make_grid(2)
    told: list[tuple[int, int]] = []

    def silent(part: FleetGrid) -> Forecast:
        forecast = predict(part)
        forecast.values[1, :, 3] = np.nan
        return forecast

    columns = replay_columns(FIRST, FIRST + 110, 5)
    history = replay(silent, grid, columns, limits_of(grid, SETTINGS), progress=lambda *each: told.append(each))
    assert told == [(k + 1, len(columns)) for k in range(len(columns))]
    assert np.isnan(history.raw[:, 1, 3]).all() and np.isfinite(history.raw[:, 0]).all()


def test_forecasts_that_say_too_little_come_out_calibrated_on_time_to_come() -> None:
    grid = make_grid(24)
    calibration = fit_risk_calibration(predict, grid, FIRST - 500, SETTINGS, end=1700)
    assert calibration is not None
    later = replay_columns(1700, STEPS, 1)
    limits = limits_of(grid, SETTINGS)
    history = replay(predict, grid, later, limits)
    ahead, during = outcomes(find_crossings(grid, limits), later, grid.n_servers)
    probability = calibration.probability(history.raw)
    warned = (history.raw[..., 0] > 0.2) & ~during[..., 0]
    truth = ahead[..., 0][warned].mean()
    assert 0.45 < truth < 0.75
    assert history.raw[..., 0][warned].mean() < 0.35  # what the quantiles say
    assert probability[..., 0][warned].mean() == pytest.approx(truth, abs=0.12)
    rows = reliability(probability[~during], ahead[~during])
    assert all(abs(row["share_true"] - row["mean_probability"]) < 0.15 for row in rows if row["count"] > 500)


def test_a_calibration_tells_from_what_it_was_made_and_how_its_alerts_did() -> None:
    calibration = fit_risk_calibration(predict, make_grid(24), FIRST, SETTINGS)
    assert calibration is not None
    told = calibration.described
    assert told["servers"] == 24 and told["events"]["cpu_pct"] > 20 and told["events"]["mem_pct"] == 0
    assert told["maps"] == {"cpu_pct": "own", **dict.fromkeys(METRIC_COLUMNS[1:], "pooled")}
    assert 0.4 < told["precision"] < 0.8 and told["recall"] > 0.9  # every warning looks alike: 0.6 of them come true


def test_too_little_time_or_too_few_events_give_no_calibration() -> None:
    grid = make_grid(4)
    assert fit_risk_calibration(predict, grid, STEPS - 110, SETTINGS) is None
    calm = FleetGrid(grid.names, grid.profiles, grid.first_step, np.full_like(grid.values, 10), grid.states)
    assert fit_risk_calibration(predict, calm, FIRST, SETTINGS) is None


def test_a_large_fleet_is_calibrated_on_a_choice_that_stands_for_all() -> None:
    small = make_grid(10)
    calm = np.full((190, STEPS, N_METRICS), 10.0, dtype=np.float32)
    calm[:, ::100, 0] = 60  # warnings that never come true
    names = tuple(f"ppweb{k:03d}" for k in range(200))
    values = np.concatenate([small.values, calm])
    grid = FleetGrid(names, ("web_api",) * 200, small.first_step, values, np.zeros(values.shape[:2], dtype=np.int8))
    first = 1700
    whole = fit_risk_calibration(predict, grid, first, SETTINGS)
    most: list[int] = []

    def spy(part: FleetGrid) -> Forecast:
        most.append(part.n_servers)
        return predict(part)

    columns = len(replay_columns(first, STEPS, 3))
    part = fit_risk_calibration(spy, grid, first, SETTINGS, most=(60 + CALL_COST) * columns)
    assert whole is not None and part is not None and set(most) == {60}
    assert part.described["events"] == whole.described["events"]  # all servers with events are among them
    raw = np.full((1, N_METRICS), 0.3)
    assert part.probability(raw)[0, 0] == pytest.approx(whole.probability(raw)[0, 0], abs=0.06)


def constructed(**changes: Any) -> tuple[np.ndarray, np.ndarray, list[Event]]:
    """Probabilities of ten servers: 0.8 within the hour before each of 12 breaches, 0.5 in as many false alarms."""
    columns = np.arange(0, 1500, 3)
    events = [Event(k % 6, (0,), None, 100 + 100 * k, 120 + 100 * k, "crossing") for k in range(12)]
    probability = np.zeros((len(columns), 10, N_METRICS))
    for event in events:
        hour = (columns > event.breach - 12) & (columns < event.end)
        probability[hour, event.server, 0] = 0.8
        probability[hour, 9, 1] = changes.get("false", 0.5)
    return probability, columns, events


def test_the_policy_opens_where_alerts_are_precise_enough_and_finds_all_it_can() -> None:
    probability, columns, events = constructed()
    policy, expected = choose_policy(probability, columns, events, np.ones(10), 0.8)
    assert policy is not None and 0.5 < policy.open_at <= 0.8
    assert expected == {"precision": 1.0, "recall": 1.0}
    verdict = judge(raise_alerts(probability, columns, policy), events, columns, 10)
    assert verdict.lead_minutes is not None and verdict.lead_minutes >= 50  # no longer confirmation than is needed


def test_false_alarms_count_for_all_servers_that_theirs_stands_for() -> None:
    probability, columns, events = constructed()
    lax, _ = choose_policy(probability, columns, events, np.ones(10), 0.45)
    strict, _ = choose_policy(probability, columns, events, np.r_[np.ones(9), 100.0], 0.45)
    assert lax is not None and strict is not None and strict.open_at > 0.5


def test_where_no_policy_is_precise_enough_the_most_precise_one_is_chosen_and_without_alerts_none() -> None:
    probability, columns, events = constructed(false=0.8)
    policy, expected = choose_policy(probability, columns, events, np.ones(10), 0.95)
    assert policy is not None and expected["precision"] == pytest.approx(0.5, abs=0.05)
    assert choose_policy(np.zeros_like(probability), columns, events, np.ones(10), 0.8) == (None, {})


def test_alerts_that_are_improbable_wake_nobody_though_a_few_came_true() -> None:
    probability, columns, events = constructed()
    improbable = np.where(probability == 0.8, 0.2, 0.0)  # all twelve come true, and say of themselves that few would
    assert choose_policy(improbable, columns, events, np.ones(10), 0.8) == (None, {})
    policy, _ = choose_policy(improbable, columns, events, np.ones(10), 0.25)
    assert policy is not None and policy.open_at <= 0.2  # who asks for less precision is told more
