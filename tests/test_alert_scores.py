"""Tests of alert_scores.py: precision, recall, lead time and reliability of alerts whose truth is known by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from alert_events import Event
from alert_hysteresis import AlertPolicy
from alert_scores import (
    AlertBacktest,
    MethodAlerts,
    RaisedAlert,
    Verdict,
    judge,
    raise_alerts,
    reliability,
    share_interval,
)
from data_contract import HORIZON_STEPS

COLUMNS = np.arange(100, 1108)  # half a week
LEAK = Event(0, (1, 3), 400, 430, 460, "memory_leak")
SURGE = Event(1, (0,), 600, 606, 640, "traffic_surge")
SUDDEN = Event(2, (3,), 700, 700, 720, "sudden_failure")
EVENTS = (LEAK, SURGE, SUDDEN)


def alert(server: int, metric: int, opened: int, closed: int) -> RaisedAlert:
    return RaisedAlert(server, metric, opened, closed, 0.8)


def verdict(*alerts: RaisedAlert) -> Verdict:
    return judge(alerts, EVENTS, COLUMNS, n_servers=4)


def test_alerts_that_come_before_a_breach_of_their_metric_are_true_and_find_it() -> None:
    found = verdict(alert(0, 1, 420, 450), alert(1, 0, 604, 620))
    assert found.precision == 1 and found.recall == 1 and found.lead_minutes == 30  # 50 and 10 minutes
    assert found.lead_steps == (10, 2, None)


def test_the_first_alert_that_is_still_open_gives_the_lead_time() -> None:
    found = verdict(alert(0, 1, 380, 400), alert(0, 3, 410, 450), alert(0, 1, 425, 450))
    assert found.lead_steps[0] == 20 and found.count("true") == 3


def test_an_alert_that_closed_before_the_breach_is_true_but_has_not_found_it() -> None:
    early = verdict(alert(0, 1, 380, 400))
    assert early.count("true") == 1 and early.recall == 0


def test_alerts_of_the_wrong_metric_or_server_or_too_early_are_false() -> None:
    wrong = verdict(alert(0, 0, 420, 450), alert(3, 1, 420, 450), alert(0, 1, 430 - HORIZON_STEPS, 450))
    assert wrong.count("false") == 3 and wrong.precision == 0 and wrong.recall == 0
    assert wrong.false_per_server_week == pytest.approx(3 / 2)  # 4 servers, half a week


def test_alerts_within_trouble_are_late_neither_true_nor_false() -> None:
    late = verdict(alert(0, 1, 431, 450))
    assert (late.count("late"), late.precision, late.recall) == (1, None, 0)
    assert verdict(alert(0, 0, 440, 450)).count("late") == 1  # an incident is the trouble of the whole server
    crossing = Event(0, (1,), None, 430, 460, "crossing")  # a crossing is that of its metric alone
    assert judge([alert(0, 0, 440, 450)], [crossing], COLUMNS, 4).count("false") == 1
    assert verdict(alert(0, 1, 430, 450)).lead_steps[0] == 0  # the breach's own column was not known yet


def test_sudden_events_are_no_task_and_claiming_one_is_a_false_alarm() -> None:
    claim = verdict(alert(2, 3, 690, 710))
    assert claim.count("false") == 1 and claim.sudden_claimed == 1
    assert claim.foreseeable == 2 and claim.lead_steps[2] is None
    assert verdict(alert(2, 3, 690, 699)).sudden_claimed == 0  # closed in time


def test_where_little_was_measured_nothing_is_decided() -> None:
    values = np.ones((4, 1400, 4), dtype=np.float32)
    values[3, 520:, 2] = np.nan
    alerts = [alert(3, 2, 500, 510), alert(3, 2, 400, 410)]
    judged = judge(alerts, EVENTS, COLUMNS, 4, values)
    assert [outcome for _, outcome, _ in judged.alerts] == ["undecided", "false"]


def test_events_whose_breach_nobody_could_have_forecast_are_not_judged() -> None:
    outside = [Event(0, (0,), None, column, column + 5, "crossing") for column in (50, 99, 1108)]
    assert judge([], [*outside, LEAK], COLUMNS, 4).events == (LEAK,)


def test_alerts_are_raised_by_the_state_machine_for_every_server_and_metric_by_itself() -> None:
    scores = np.zeros((len(COLUMNS), 3, 4), dtype=np.float32)
    scores[10:20, 0, 1] = 0.9
    scores[12:, 2, 3] = 0.8
    scores[:, 1] = np.nan
    raised = raise_alerts(scores, COLUMNS, AlertPolicy(0.7, 0.5))
    assert [(each.server, each.metric, each.opened) for each in raised] == [(0, 1, 110), (2, 3, 112)]
    assert raised[0].closed == 120 and raised[1].closed > 10**6
    assert [each.score for each in raised] == pytest.approx([0.9, 0.8])


def test_reliability_compares_what_was_said_with_what_came_true() -> None:
    rng = np.random.default_rng(0)
    said = rng.uniform(0, 1, 200_000)
    rows = reliability(said, rng.random(len(said)) < said)
    assert sum(row["count"] for row in rows) == len(said)
    for row in rows:
        assert row["from"] <= row["mean_probability"] <= row["until"]
        assert row["share_true"] == pytest.approx(row["mean_probability"], abs=0.02)
    one = reliability(np.array([0.25, 0.25]), np.array([True, False]), np.array([3.0, 1.0]))
    assert one[2] == {"from": 0.2, "until": 0.3, "count": 2, "mean_probability": 0.25, "share_true": 0.75}
    assert one[0]["share_true"] is None


def test_the_interval_of_a_share_is_wilsons() -> None:
    assert share_interval(0, 0) is None
    assert share_interval(5, 10) == pytest.approx([0.2366, 0.7634], abs=1e-4)
    assert share_interval(10, 10) == pytest.approx([0.7225, 1.0], abs=1e-4)


def test_the_result_is_plain_json_with_the_documented_parts() -> None:
    judged = verdict(alert(0, 1, 420, 450), alert(3, 1, 420, 450))
    curve = [{"open_at": 0.5, "precision": 0.5, "recall": 0.5}]
    method = MethodAlerts("tft", "This model", {"open_at": 0.7}, judged, curve)
    result = AlertBacktest({"truth": "incidents"}, [method], [], [], {}, []).as_dict()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    (row,) = result["methods"]
    assert (row["method"], row["alerts"], row["true"], row["false"], row["precision"]) == ("tft", 2, 1, 1, 0.5)
    assert (row["events"], row["found"], row["recall"], row["sudden_events"]) == (2, 1, 0.5, 1)
    assert result["operating_curve"] == [{"method": "tft", **curve[0]}]
    assert {each["kind"]: each["found"] for each in result["by_kind"]} == {
        "memory_leak": 1,
        "sudden_failure": 0,
        "traffic_surge": 0,
    }
