"""A server's page, its history, and what has changed: shape functions, and the page through Streamlit's test runner."""

from __future__ import annotations

import base64
import csv
import io
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import streamlit as st
from recorded_daemon import HOSTILE_NAME, ORIGIN, PAST_ALERT, RecordedDaemon, iso, problem
from test_tft_dashboard_web import ESCAPED_NAME, LIMITS, fleet_from, kept, open_recorded, seen

import dashboard_history as past
from dashboard_answers import PastAlertsAnswer, PastForecastsAnswer, check_answer
from dashboard_chart import FanData, fan_chart
from dashboard_draw import Look
from dashboard_history import hindsight, history_csv, state_runs
from dashboard_news import alerts_by_time, changes_since, levels_of
from dashboard_shape import Fleet
from dashboard_spark import HEIGHT, WIDTH, spark
from dashboard_view import View
from dashboard_words import clock
from data_contract import METRIC_COLUMNS


@pytest.fixture(autouse=True)
def _no_leftovers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # for which AppTest puts its own
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


@pytest.fixture
def daemon() -> RecordedDaemon:
    return RecordedDaemon()


@pytest.fixture
def fleet(daemon: RecordedDaemon) -> Fleet:
    return fleet_from(daemon)


# ---------------------------------------------------------------------------------------------------------------- times
def test_times_are_told_in_the_viewers_zone_and_in_utc_with_a_z(fleet: Fleet) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert clock(ORIGIN, ORIGIN) == "13:05Z" and clock(ORIGIN, ORIGIN, berlin) == "14:05"
    late = ORIGIN + timedelta(hours=10, minutes=30)  # 23:35Z: the same day in UTC, the next in Berlin
    assert clock(late, ORIGIN) == "23:35Z" and clock(late, ORIGIN, berlin) == "2026-01-06 00:35"
    assert replace(fleet, zone=berlin).clock(ORIGIN) == "14:05"


@pytest.mark.parametrize("name", [None, "", "UTC", "Etc/UTC", "Nowhere/At all", "../../etc/passwd"])
def test_a_zone_that_is_not_known_is_utc(name: str | None) -> None:
    look = Look.of(name, dark=False)
    assert look.zone is timezone.utc and look.zone_words(ORIGIN) == "UTC"


def test_a_zone_says_how_far_it_is_from_utc() -> None:
    assert Look.of("Asia/Kolkata", dark=True).zone_words(ORIGIN) == "Asia/Kolkata (UTC+05:30)"


# ----------------------------------------------------------------------------------------------------------- hindsight
def frames(measured: list[float | None], middle: float, spread: float = 5.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    times = pd.date_range(ORIGIN, periods=len(measured), freq="5min")
    band = {"p10": middle - spread, "p50": middle, "p90": middle + spread}
    return pd.DataFrame({"time": times, "value": pd.Series(measured, dtype=float)}), pd.DataFrame(
        {"time": times, **band}
    )


def test_hindsight_counts_what_lay_inside_the_band_and_how_far_the_median_was_off() -> None:
    found = hindsight(*frames([50.0] * 12 + [60.0] * 4 + [None] * 3, 50.0))
    assert found is not None
    assert (found.steps, found.inside, found.error, found.expected) == (16, 0.75, 2.5, 0.8)


def test_less_than_an_hour_of_both_is_no_ground_to_judge_by() -> None:
    assert hindsight(*frames([50.0] * 11 + [None] * 20, 50.0)) is None


# --------------------------------------------------------------------------------------------------------------- states
def test_state_runs_join_what_is_the_same_and_keep_silence_apart(daemon: RecordedDaemon) -> None:
    history = daemon.body("/history/ppweb001?hours=6")
    history["states"] = ["healthy"] * 30 + [None] * 6 + ["critical_issue"] * 36
    history["timestamps"] = [ORIGIN + timedelta(minutes=5 * step) for step in range(72)]
    runs = state_runs(history)
    assert [(run.state, run.steps) for run in runs] == [("healthy", 30), (None, 6), ("critical_issue", 36)]
    assert runs[0].end == runs[1].start and runs[-1].end - runs[0].start == timedelta(hours=6)
    assert state_runs(None) == []


# -------------------------------------------------------------------------------------------------------------- alerts
def test_alerts_lie_on_the_next_8_hours_where_their_breach_is_expected(daemon: RecordedDaemon, fleet: Fleet) -> None:
    alerts = daemon.body("/alerts/active")["alerts"]
    for alert in alerts:
        alert["breach_time"] = {
            key: each and pd.Timestamp(each).to_pydatetime() for key, each in alert["breach_time"].items()
        }
    over, ahead = alerts_by_time(fleet, alerts)
    assert over.already and over.due == "over the limit now"
    # 390 and 395 of 480 minutes; p10 does not cross the limit at all
    assert not ahead.already and (ahead.start, ahead.median, ahead.end) == (81.2, 82.3, 100.0)


# -------------------------------------------------------------------------------------------------------------- changes
def past_alerts(*alerts: dict[str, Any]) -> list[Any]:
    checked = check_answer(PastAlertsAnswer, {"count": len(alerts), "alerts": list(alerts)})
    found: list[Any] = checked["alerts"]
    return found


def test_changes_are_what_opened_closed_and_moved_since_the_last_look(fleet: Fleet) -> None:
    since = ORIGIN - timedelta(hours=1)
    opened = {**PAST_ALERT, "id": "1a", "server_name": "ppweb002", "closed_at": None, "opened_at": iso(ORIGIN)}
    before_that = {**PAST_ALERT, "id": "2b", "closed_at": iso(since - timedelta(hours=1))}
    before = {**levels_of(fleet), HOSTILE_NAME: "healthy", "ppml0001": "critical", "gone01": "healthy"}
    del before["ppweb001"]
    told = changes_since(fleet, since, past_alerts(opened, PAST_ALERT, before_that), before)
    assert [(change.kind, change.server_name) for change in told] == [
        ("opened", "ppweb002"),
        ("worse", HOSTILE_NAME),
        ("gone", "gone01"),
        ("closed", "ppdb001"),
        ("better", "ppml0001"),
        ("new", "ppweb001"),
    ]
    assert told[1].text == "healthy → critical"
    assert told[3].text == "alert closed: Memory above 97 %, it did not come"
    assert changes_since(fleet, since, [], levels_of(fleet)) == []


def test_what_has_been_seen_is_kept_in_the_address(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon)
    assert "What has changed" in seen(page) and "alert closed: Memory above 97 %" in seen(page)
    page.button(key="seen").click().run()
    assert kept(page, "since") == "2026-01-05T13:05:00Z"
    assert "since you last looked" in seen(page) and "alert closed" not in seen(page)


# --------------------------------------------------------------------------------------------------------------- charts
def test_a_sparkline_is_a_picture_of_numbers_with_gaps_as_gaps() -> None:
    url = spark([10.0, None, 12.0, 13.0], [9.0] * 5, [12.0] * 5, [15.0] * 5, 14.0, dark=False)
    kind, _, content = url.partition(",")
    drawing = base64.b64decode(content).decode()
    assert kind == "data:image/svg+xml;base64" and f'viewBox="0 0 {WIDTH} {HEIGHT}"' in drawing
    assert drawing.count("<polyline") == 3  # two stretches of what was measured, and the median
    assert drawing.count("<polygon") == 1 and 'stroke-dasharray="3 3"' in drawing
    assert spark([10.0], [9.0], [10.0], [11.0], 400.0, dark=True).count("3 3") == 0  # a limit far above is not drawn
    assert spark([None], [], [], [], None, dark=False) == ""


def test_the_chart_shows_past_forecasts_and_other_servers_and_escapes_their_names() -> None:
    measured, band = frames([50.0] * 20, 50.0)
    others = {"<b>x</b>": (measured, band)}
    data = FanData(measured, band, ORIGIN, 400.0, "%", ZoneInfo("Asia/Tokyo"), band, "1 h", "ppweb001", others)
    figure = fan_chart(data, dark=True).to_dict()
    names = [trace.get("name") for trace in figure["data"]]
    assert "Forecast 1 h before" in names and "&lt;b&gt;x&lt;/b&gt;" in names and "<b>x</b>" not in names
    assert pd.Timestamp(figure["data"][0]["x"][0]) == pd.Timestamp("2026-01-05 22:05")
    assert "critical limit 400 %, above this chart" in {note["text"] for note in figure["layout"]["annotations"]}


# ------------------------------------------------------------------------------------------------------------------ CSV
def test_the_csv_holds_what_was_measured_forecast_and_had_been_forecast(daemon: RecordedDaemon) -> None:
    from dashboard_answers import HistoryAnswer, ServerAnswer

    name = "=HYPERLINK(1)"
    history = check_answer(HistoryAnswer, daemon.body("/history/ppweb002?hours=6"))
    prediction = check_answer(ServerAnswer, daemon.body("/predictions/ppweb002"))
    earlier = check_answer(PastForecastsAnswer, forecasts(history["timestamps"]))
    rows = list(csv.DictReader(io.StringIO(history_csv(name, history, prediction, earlier))))
    kinds = [row["kind"] for row in rows]
    assert (kinds.count("measured"), kinds.count("forecast"), kinds.count("forecast 1hr before")) == (72, 96, 72)
    assert {row["server_name"] for row in rows} == {"'=HYPERLINK(1)"}  # no formula for a spreadsheet
    last = rows[71]
    assert last["timestamp"] == "2026-01-05T13:05:00Z" and float(last["cpu_pct"]) == 99.0
    assert rows[52]["cpu_pct"] == ""  # a gap
    assert float(rows[-1]["cpu_pct_p90"]) == pytest.approx(100.0)
    assert history_csv(name, None, None, None) == ""


def forecasts(times: list[Any]) -> dict[str, Any]:
    line = {"p10": [80.0] * len(times), "p50": [95.0] * len(times), "p90": [99.5] * len(times)}
    return {"horizon": "1hr", "timestamps": times, "metrics": dict.fromkeys(METRIC_COLUMNS, line)}


# ---------------------------------------------------------------------------------------------------------- server page
def test_a_servers_page_shows_alerts_all_metrics_states_reasons_and_past_alerts(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon, panel="server", server="ppweb002")
    text = seen(page)
    for told in (
        "ppweb002",
        "■</i>Critical",
        "over the limit now",
        "nobody yet",
        "risk 0.99 Critical",
        "States",
        "41 %",
    ):
        assert told in text
    assert "Of the past, the forecast reads mostly CPU" in text and "○ no" in text
    assert len(page.get("plotly_chart")) == 4
    assert "server=ppweb002&hours=24&servers=ppweb002" in daemon.requests[-1]
    page.button_group(key="hours").set_value(72).run()
    assert "hours=72" in daemon.requests[-1] and kept(page, "hours") == "72"


def test_a_servers_page_of_a_metric_that_it_does_not_report_says_so(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon, panel="server", server="ppml0001")
    assert "not reported" in seen(page) and len(page.get("plotly_chart")) == 3
    assert "No active alert for this server." in seen(page)


def test_a_hostile_name_is_text_on_its_own_page(daemon: RecordedDaemon) -> None:
    text = seen(open_recorded(daemon, panel="server", server=HOSTILE_NAME))
    assert "<img src=x" not in text and ESCAPED_NAME in text


def test_a_server_that_is_not_there_has_a_page_that_says_so(daemon: RecordedDaemon) -> None:
    assert "There is no /predictions/ppweb999." in seen(open_recorded(daemon, panel="server", server="ppweb999"))


def test_an_alert_is_taken_care_of_from_the_page(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon, panel="server", server="ppweb002")
    alert = daemon.body("/alerts/active")["alerts"][0]
    page.text_input(key=f"author-{alert['id']}").set_value("kim")
    page.text_input(key=f"comment-{alert['id']}").set_value("on it")
    next(button for button in page.button if button.label == "Take care of it").click().run()
    assert f"POST /alerts/{alert['id']}/acknowledge" in daemon.requests
    assert daemon.bodies == [{"author": "kim", "comment": "on it"}]
    assert "You take care of the CPU alert." in seen(page)
    body = daemon.body("/alerts/active")
    body["alerts"][0]["acknowledged"] = {"author": "kim", "comment": "on it", "at": iso(ORIGIN)}
    daemon.answers["/alerts/active"] = (200, body)
    page.run()
    assert "✓ kim: on it" in seen(page)
    page.button(key=f"give-up-{alert['id']}").click().run()
    assert daemon.requests.count(f"DELETE /alerts/{alert['id']}/acknowledge") == 1


def test_a_server_is_silenced_and_what_the_daemon_refuses_is_told(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon, panel="server", server="ppweb001")
    daemon.answers["POST /alerts/silences"] = (403, problem(403, "This key may only read.", "forbidden"))
    page.selectbox(key="silence-metric").set_value("cpu_pct")
    page.selectbox(key="silence-for").set_value(240)
    page.text_input(key="author-silence").set_value("kim")
    page.text_input(key="comment-silence").set_value("disk swap")
    silence = next(button for button in page.button if button.label == "Silence it")
    silence.click().run()
    assert daemon.bodies == [
        {
            "server_name": "ppweb001",
            "author": "kim",
            "comment": "disk swap",
            "duration_minutes": 240,
            "metric": "cpu_pct",
        }
    ]
    assert "This key may only read." in seen(page)
    held = {
        "id": "5a",
        "server_name": "ppweb001",
        "profile": None,
        "metric": None,
        "author": "kim",
        "comment": "disk swap",
    }
    listed = [{**held, "ends_at": iso(ORIGIN + timedelta(hours=1)), "state": "active"}]
    daemon.answers["/alerts/silences"] = (200, {"count": 1, "silences": listed})
    page.run()
    assert "Silenced until" in seen(page) and "disk swap" in seen(page)
    page.button(key="end-5a").click().run()
    assert "DELETE /alerts/silences/5a" in daemon.requests


# ---------------------------------------------------------------------------------------------------------- historical
def test_what_was_forecast_then_is_asked_for_drawn_and_judged(daemon: RecordedDaemon) -> None:
    times = daemon.body("/history/ppweb002?hours=24")["timestamps"]
    daemon.answers["/forecasts/ppweb002?hours=24&horizon=1hr"] = (200, forecasts(times))
    page = open_recorded(daemon, panel="historical", server="ppweb002", past="1hr")
    text = seen(page)
    assert "horizon=1hr" in daemon.requests[-1]
    assert "Was it right?" in text and "100 %</b> were measured inside" in text and "(80 % are expected)" in text
    daemon.answers["/forecasts/ppweb002?hours=24&horizon=1hr"] = (500, problem(500, "The archive is torn."))
    page.run()
    assert "What was forecast then cannot be shown." in seen(page) and "The archive is torn." in seen(page)
    assert len(page.get("plotly_chart")) == 1


def test_servers_are_compared_and_kept_in_the_address(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon, panel="historical", server="ppweb002")
    page.multiselect(key="compare-with").set_value(["ppdb001", HOSTILE_NAME]).run()
    assert View.from_query({"compare": kept(page, "compare")}).compared == ("ppdb001", HOSTILE_NAME)
    assert "servers=ppdb001" in daemon.requests[-1] and "metric=cpu_pct" in daemon.requests[-1]
    assert "cannot be shown" not in seen(page)


def test_history_until_a_day_in_the_past_shows_no_forecast(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon, panel="historical", server="ppweb002", until="2026-01-05T00:00:00Z")
    assert "until=2026-01-05T00%3A00%3A00Z" in daemon.requests[-1]
    assert page.date_input(key="until-day").value.isoformat() == "2026-01-04"
    assert "In 30 min" not in seen(page) and len(page.get("plotly_chart")) == 1
    page.date_input(key="until-day").set_value(None).run()
    assert "until" not in daemon.requests[-1] and "In 30 min" in seen(page)


def test_a_path_that_ends_in_nothing_is_no_chart() -> None:
    empty = past.past_frame(None, "cpu_pct")
    assert empty.empty and math.isnan(np.nan if empty["p50"].empty else 0.0)
    assert LIMITS.level(None) == "unknown"


def test_the_scenario_of_a_demos_daemon_is_switched_in_advanced_and_of_no_other(daemon: RecordedDaemon) -> None:
    daemon.answers["/scenario"] = (403, problem(403, "This daemon was not started as a demo.", "not-a-demo"))
    page = open_recorded(daemon, panel="advanced")
    assert "not started as a demo" not in seen(page) and "scenario" not in {group.key for group in page.button_group}
    daemon.answers["/scenario"] = (200, {"scenario": None})
    page.run()
    page.button_group(key="scenario").set_value("degrading").run()
    assert "POST /scenario/degrading" in daemon.requests
    assert "The fleet plays degrading from its next step on." in seen(page)
