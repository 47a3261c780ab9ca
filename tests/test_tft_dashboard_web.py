"""The dashboard: shape functions on recorded answers, and every panel and state through Streamlit's own test runner."""

from __future__ import annotations

import copy
import json
import math
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from conftest import FLEET as FLEET_NAMES
from conftest import make_fleet, write_fleet
from recorded_daemon import FLEET, HOSTILE_NAME, ORIGIN, RecordedDaemon, iso, prediction, problem, server
from starlette.testclient import TestClient
from streamlit.testing.v1 import AppTest

import dashboard_history as past
import dashboard_news
import dashboard_shape as shape
import dashboard_words as wording
from common_utils import floor_to_step, utc_now
from config import Settings, load_settings
from dashboard_answers import (
    AlertsAnswer,
    CurrentAnswer,
    HistoryAnswer,
    OddAnswerError,
    ServerAnswer,
    Snapshot,
    StatusAnswer,
    Wanted,
    check_answer,
)
from dashboard_chart import FanData, fan_chart
from dashboard_demo import SCENARIOS, demo_snapshot
from dashboard_fetch import Connection, fetch_snapshot, open_client, shown_address
from dashboard_shape import Fleet, Limits, breach_probability, build_fleet
from dashboard_view import PANELS, View
from data_contract import METRIC_COLUMNS, VALID_PROFILES
from tft_inference import create_app

SETTINGS = load_settings(daemon_url="http://reader:secret@daemon.test:8000")
SHOWN_ADDRESS = "http://daemon.test:8000"
ESCAPED_NAME = "&lt;img src=x onerror=alert(1)&gt;"
FLEET_ALONE = Wanted(("status", "current"))
LIMITS = Limits(0.3, 0.7, {"cpu_pct": 90.0, "mem_pct": 95.0, "disk_io_mb_s": 500.0, "latency_ms": 500.0}, {})


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


def fleet_from(daemon: RecordedDaemon) -> Fleet:
    return build_fleet(check_answer(CurrentAnswer, daemon.body("/predictions/current")), LIMITS)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _page(connection: object, settings: object) -> None:  # runs from its source alone: no names of this module
    from tft_dashboard_web import main

    main(connection, settings)


def open_page(client: Any, settings: Settings = SETTINGS, **query: str) -> AppTest:
    way = None if client is None else Connection(client, shown_address(settings.daemon_url))
    page = AppTest.from_function(_page, kwargs={"connection": way, "settings": settings}, default_timeout=30)
    for name, value in query.items():
        page.query_params[name] = value
    return page.run()


def open_recorded(daemon: RecordedDaemon, **query: str) -> AppTest:
    return open_page(TestClient(daemon.app), **query)


def seen(page: AppTest) -> str:
    """Markup and captions of the page, without its style sheet; no traceback may be on it."""
    assert not page.exception
    parts = [element.value for element in page.get("html")] + [caption.value for caption in page.caption]
    return "\n".join(part for part in parts if not part.startswith("<style>"))


def kept(page: AppTest, name: str) -> str:
    """What the address says."""
    value = page.query_params[name]
    return value if isinstance(value, str) else value[-1]


# --------------------------------------------------------------------------------------------------------------- shape
@pytest.mark.parametrize(
    ("risk", "level"),
    [(0.0, "healthy"), (0.29, "healthy"), (0.3, "watch"), (0.7, "watch"), (0.71, "critical"), (None, "unknown")],
)
def test_risk_is_green_below_the_first_bound_and_red_above_the_second(risk: float | None, level: str) -> None:
    assert LIMITS.level(risk) == level


def test_breach_probability_agrees_with_the_quantiles_it_is_read_off() -> None:
    p10, p50, p90 = (np.full(5, value) for value in (40.0, 50.0, 80.0))
    thresholds = np.array([40.0, 45.0, 50.0, 65.0, 80.1])
    assert breach_probability(p10, p50, p90, thresholds) == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.05])


def test_breach_probability_of_an_unreported_metric_is_unknown_and_a_flat_forecast_is_no_error() -> None:
    flat = np.array([math.nan, 50.0, 50.0])
    found = breach_probability(flat, flat, flat, np.array([90.0, 49.0, 50.0]))
    assert math.isnan(found[0]) and found[1:] == pytest.approx([0.95, 0.05])


def test_a_server_at_99_percent_cpu_is_critical_now_and_later(fleet: Fleet) -> None:
    levels = shape.moment_risks(fleet).apply(LIMITS.levels)
    assert set(levels.loc["ppweb002"]) == {"critical"}
    assert set(levels.loc["ppweb001"]) == {"healthy"}
    assert levels.loc[HOSTILE_NAME].tolist() == ["healthy", "healthy", "healthy", "critical", "critical"]


def test_a_server_over_its_limit_is_critical_even_when_its_forecast_is_calm(daemon: RecordedDaemon) -> None:
    body = daemon.body("/predictions/current")
    body["predictions"][0]["current"]["mem_pct"] = 97.0  # ppweb001, whose risk is 0.01
    fleet = build_fleet(check_answer(CurrentAnswer, body), LIMITS)
    assert dashboard_news.headline(fleet, None).now == (("ppweb002", "CPU 99 %"), ("ppweb001", "Memory 97 %"))
    cell = shape.heat_cells(fleet, "risk", "worst").set_index("server_name").loc["ppweb001"]
    assert (cell["level"], cell["text"]) == ("critical", "now")
    worst = shape.top_servers(fleet, 2)
    assert worst["server_name"].tolist() == ["ppweb002", "ppweb001"]
    assert worst["metric"].tolist() == ["cpu_pct", "mem_pct"]
    assert shape.top_servers(fleet, 1, "mem_pct")["server_name"].tolist() == ["ppweb001"]


def test_no_moment_is_likelier_to_breach_than_the_worst_of_the_horizon(fleet: Fleet) -> None:
    risks = shape.moment_risks(fleet)
    ahead = risks[["30min", "1hr", "8hr"]].max(axis=1)
    assert (ahead <= risks["worst"] + 1e-9).all()


def test_health_counts_every_server_once_at_every_moment(fleet: Fleet) -> None:
    for counts in shape.health_by_moment(fleet).values():
        assert sum(counts.values()) == len(FLEET)
    assert shape.health_by_moment(fleet)["now"] == {"critical": 1, "watch": 0, "healthy": 4, "unknown": 0}


def test_risk_distribution_counts_each_server_in_its_tenth(fleet: Fleet) -> None:
    bins = shape.risk_distribution(fleet)
    # The risks are 0.01, 0.04, 0.5, 0.8 and 0.99.
    assert [bar.count for bar in bins] == [2, 0, 0, 0, 0, 1, 0, 0, 1, 1]
    assert [bar.level for bar in bins] == ["healthy"] * 3 + ["watch"] * 4 + ["critical"] * 3


def test_profiles_with_the_most_critical_servers_come_first(fleet: Fleet) -> None:
    assert list(shape.health_by_profile(fleet)) == ["generic", "web_api", "database", "ml_compute"]


def test_headline_names_the_next_breach_but_not_what_is_over_its_limit_already(
    daemon: RecordedDaemon, fleet: Fleet
) -> None:
    news = dashboard_news.headline(fleet, check_answer(AlertsAnswer, daemon.body("/alerts/active"))["alerts"])
    assert news.level == "critical"
    assert news.text == "2 of 5 servers critical now or likely to exceed a limit within 8 hours"
    assert news.now == (("ppweb002", "CPU 99 %"),) and news.now_count == 1
    assert news.next_server == HOSTILE_NAME
    assert news.next == "CPU above 90 % at 19:40Z (in 6 h 35 min), at the earliest 19:35Z, 80 % likely."


def test_headline_of_a_calm_fleet_says_that_all_is_well(daemon: RecordedDaemon) -> None:
    body = daemon.body("/predictions/current")
    body["predictions"] = [record for record in body["predictions"] if record["risk"] < 0.3]
    calm = build_fleet(check_answer(CurrentAnswer, body), LIMITS)
    news = dashboard_news.headline(calm, None)
    assert (news.level, news.next) == ("healthy", "")
    assert news.text == "2 servers expected to stay within their limits for 8 hours"


def test_headline_of_a_fleet_that_reports_nothing_does_not_say_healthy() -> None:
    nothing = server("ppweb001", "web_api", "offline", risk=0.0, **dict.fromkeys(METRIC_COLUMNS))
    head = {"model": None, "prediction_time": iso(ORIGIN), "data_age_seconds": 1.0, "stale": False}
    body = {**head, "count": 1, "predictions": [prediction(nothing)]}
    fleet = build_fleet(check_answer(CurrentAnswer, body), LIMITS)
    assert dashboard_news.headline(fleet, None).level == "unknown"
    assert shape.health_by_moment(fleet)["now"]["unknown"] == 1


def test_silent_servers_are_counted_as_without_data_and_told_with_their_last_report(daemon: RecordedDaemon) -> None:
    body = daemon.body("/predictions/current")
    body["offline"] = [
        {"server_name": "ppweb009", "profile": "web_api", "last_seen": iso(ORIGIN - timedelta(hours=1))},
    ]
    fleet = build_fleet(check_answer(CurrentAnswer, body), LIMITS)
    assert shape.health_by_moment(fleet)["8hr"]["unknown"] == 1
    assert [name for name, _ in shape.silent_servers(fleet)] == ["ppweb009"]
    cell = shape.heat_cells(fleet, "cpu_pct", "now").set_index("server_name").loc["ppweb009"]
    assert (cell["level"], cell["text"], cell["spoken"]) == ("unknown", "silent", "silent since 12:05Z")
    assert dashboard_news.headline(fleet, None).silent_count == 1


def test_heatmap_cell_of_an_unreported_metric_says_so_and_is_not_zero(fleet: Fleet) -> None:
    cells = shape.heat_cells(fleet, "latency_ms", "8hr").set_index("server_name")
    assert cells.loc["ppml0001", "text"] == "not reported"
    assert cells.loc["ppml0001", "level"] == "unknown"
    assert cells.loc["ppweb001", "text"] == "85 ms"
    assert cells.loc["ppweb001", "share"] == pytest.approx(85 / 500)


def test_heatmap_cells_stand_in_the_order_of_profile_and_name(fleet: Fleet) -> None:
    cells = shape.heat_cells(fleet, "risk", "worst")
    assert cells["server_name"].tolist() == ["ppdb001", HOSTILE_NAME, "ppml0001", "ppweb001", "ppweb002"]


def test_top_servers_are_the_worst_first_with_the_metric_that_drives_their_risk(fleet: Fleet) -> None:
    table = shape.top_servers(fleet, 3)
    assert table["server_name"].tolist() == ["ppweb002", HOSTILE_NAME, "ppdb001"]
    assert table["metric"].tolist() == ["cpu_pct", "cpu_pct", "mem_pct"]
    worst = table.iloc[0]
    assert (worst["now_p50"], worst["8hr_p50"], worst["8hr_p90"], worst["threshold"]) == (99.0, 98.0, 100.0, 90.0)


def test_top_servers_by_a_metric_put_those_that_do_not_report_it_last(fleet: Fleet) -> None:
    table = shape.top_servers(fleet, 10, "latency_ms")
    assert table["server_name"].iloc[-1] == "ppml0001"
    assert math.isnan(table["8hr_p50"].iloc[-1]) and table["level"].iloc[-1] == "unknown"


def test_profile_threshold_goes_before_the_general_one() -> None:
    limits = Limits(0.3, 0.7, LIMITS.critical, {"database": {"mem_pct": 97.0}})
    assert limits.threshold("mem_pct", "database") == 97.0
    assert limits.threshold("mem_pct", "web_api") == 95.0
    assert math.isnan(Limits(0.3, 0.7, {}, {}).threshold("cpu_pct", "web_api"))


def test_history_keeps_gaps_as_gaps_and_a_path_without_the_metric_has_no_rows(daemon: RecordedDaemon) -> None:
    history = check_answer(HistoryAnswer, daemon.body("/history/ppml0001?hours=6"))
    server = check_answer(ServerAnswer, daemon.body("/predictions/ppml0001"))
    assert past.history_frame(history, "cpu_pct")["value"].isna().sum() == 3
    assert past.history_frame(history, "latency_ms")["value"].isna().all()
    assert past.path_frame(server, "latency_ms").empty
    path = past.path_frame(server, "cpu_pct")
    assert len(path) == 96 and (path["p10"] < path["p50"]).all() and (path["p50"] < path["p90"]).all()
    assert path["time"].iloc[0] == ORIGIN + timedelta(minutes=5)


def test_fan_chart_shows_the_band_the_present_and_the_limit(daemon: RecordedDaemon) -> None:
    history = check_answer(HistoryAnswer, daemon.body("/history/ppweb002?hours=6"))
    server = check_answer(ServerAnswer, daemon.body("/predictions/ppweb002"))
    data = FanData(past.history_frame(history, "cpu_pct"), past.path_frame(server, "cpu_pct"), ORIGIN, 90.0, "%")
    figure = json.loads(fan_chart(data, dark=False).to_json())
    named = {trace["name"]: trace for trace in figure["data"]}
    assert named["p10"]["fill"] == "tonexty"
    assert not named["Measured"].get("connectgaps")
    assert {note["text"] for note in figure["layout"]["annotations"]} == {"now", "critical limit 90 %"}


@pytest.mark.parametrize(
    ("spoken", "expected"),
    [
        (wording.value_text(None, "cpu_pct"), "not reported"),
        (wording.value_text(0.0, "cpu_pct"), "0.0 %"),
        (wording.value_text(41.2, "cpu_pct"), "41 %"),
        (wording.value_text(1234.5, "disk_io_mb_s"), "1,234 MB/s"),
        (wording.range_text(88.0, 97.4, "cpu_pct"), "88–97 %"),
        (wording.probability_text(0.9999), "99 %"),
        (wording.probability_text(0.0001), "1 %"),
        (wording.duration_text(0.2), "under 1 min"),
        (wording.duration_text(130), "2 h 10 min"),
        (wording.duration_text(60 * 24 * 3), "3 days"),
        (wording.clock(ORIGIN, ORIGIN), "13:05Z"),
        (wording.clock(ORIGIN + timedelta(days=1), ORIGIN), "2026-01-06 13:05Z"),
    ],
)
def test_values_and_times_are_put_in_words(spoken: str, expected: str) -> None:
    assert spoken == expected


# ---------------------------------------------------------------------------------------------------------------- view
def test_a_view_survives_its_way_through_an_address() -> None:
    view = View(panel="historical", server="a&b=<c>", metric="mem_pct", hours=72, demo="critical", refresh="30")
    assert View.from_query(view.as_query()) == view
    assert View().as_query() == {}


@pytest.mark.parametrize(
    "query", [{"panel": "nonsense", "hours": "7", "fill": "id"}, {"refresh": "0"}, {"refresh": "nan"}, {"at": "now"}]
)
def test_what_an_address_says_wrongly_is_taken_as_not_said(query: dict[str, str]) -> None:
    assert View.from_query(query) == View()


# --------------------------------------------------------------------------------------------------------------- fetch
def test_a_renamed_field_is_refused_instead_of_shown_as_not_reported(daemon: RecordedDaemon) -> None:
    body = daemon.body("/predictions/current")
    values = body["predictions"][0]["quantiles"]["p90"]["8hr"]
    values["cpu_percent"] = values.pop("cpu_pct")
    with pytest.raises(OddAnswerError, match=r"predictions\.0\.quantiles\.p90\.8hr\.cpu_pct"):
        check_answer(CurrentAnswer, body)


@pytest.mark.parametrize("value", [math.nan, math.inf, "high", {}])
def test_a_value_that_is_no_number_is_refused(daemon: RecordedDaemon, value: object) -> None:
    body = daemon.body("/predictions/current")
    body["predictions"][0]["current"]["cpu_pct"] = value
    with pytest.raises(OddAnswerError, match="cpu_pct"):
        check_answer(CurrentAnswer, body)


def test_series_of_another_length_than_their_times_are_refused(daemon: RecordedDaemon) -> None:
    history = daemon.body("/history/ppweb001?hours=6")
    history["metrics"]["cpu_pct"].pop()
    with pytest.raises(OddAnswerError, match="71 values for 72 times"):
        check_answer(HistoryAnswer, history)
    server = daemon.body("/predictions/ppweb001")
    server["path"]["timestamps"].pop()
    with pytest.raises(OddAnswerError, match="96 values for 95 times"):
        check_answer(ServerAnswer, server)


def test_a_server_that_is_listed_twice_is_refused(daemon: RecordedDaemon) -> None:
    body = daemon.body("/predictions/current")
    body["predictions"].append(copy.deepcopy(body["predictions"][0]))
    with pytest.raises(OddAnswerError, match="twice"):
        check_answer(CurrentAnswer, body)


def test_names_travel_in_the_path_as_they_are(daemon: RecordedDaemon) -> None:
    wanted = Wanted(("prediction", "history", "series"), HOSTILE_NAME, 24, servers=("ppweb001", HOSTILE_NAME))
    found = fetch_snapshot(connection(daemon), wanted)
    assert found.prediction is not None and found.prediction["server_name"] == HOSTILE_NAME
    assert list(found.series) == ["ppweb001", HOSTILE_NAME]
    assert len(daemon.requests) == 1


def connection(daemon: RecordedDaemon, share_seconds: float = 0.0) -> Connection:
    return Connection(TestClient(daemon.app), SHOWN_ADDRESS, share_seconds)


def test_forecasts_that_have_been_seen_are_not_asked_for_again(daemon: RecordedDaemon) -> None:
    daemon.set_id = "boot-1"
    way = connection(daemon)
    first = fetch_snapshot(way, FLEET_ALONE)
    daemon.answers["/predictions/current"] = (200, None)  # as the daemon answers to who knows the set
    again = fetch_snapshot(way, FLEET_ALONE)
    assert daemon.requests[-1].endswith("&known=boot-1")
    assert first.current is not None and again.current is not None
    assert again.current["predictions"] is first.current["predictions"]


def test_forecasts_of_a_set_that_is_forgotten_are_asked_for_once_more(daemon: RecordedDaemon) -> None:
    daemon.set_id = "boot-1"
    way = connection(daemon)
    fetch_snapshot(way, FLEET_ALONE)
    daemon.set_id = "boot-2"
    body = daemon.answers["/predictions/current"]
    daemon.answers["/predictions/current"] = (200, None)
    lost = fetch_snapshot(way, FLEET_ALONE)
    assert lost.current is None and "known" not in daemon.requests[-1]
    daemon.answers["/predictions/current"] = body
    assert fetch_snapshot(way, FLEET_ALONE).current is not None


def test_viewers_that_ask_the_same_at_the_same_time_share_one_answer(daemon: RecordedDaemon) -> None:
    way = connection(daemon, share_seconds=60.0)
    with ThreadPoolExecutor(8) as viewers:
        found = list(viewers.map(lambda _: fetch_snapshot(way, FLEET_ALONE), range(8)))
    assert len(daemon.requests) == 1 and all(each.problem is None for each in found)
    assert way.change("POST", "/alerts/silences", {}) is None
    fetch_snapshot(way, FLEET_ALONE)  # who has changed something sees the change
    assert len(daemon.requests) == 3


def test_a_daemon_that_asks_for_silence_is_not_asked_until_it_is_over(daemon: RecordedDaemon) -> None:
    way = connection(daemon)
    daemon.answers["/snapshot"] = (429, problem(429, "Too many requests.", "too-many-requests"))
    daemon.headers["Retry-After"] = "30"
    assert fetch_snapshot(way, FLEET_ALONE).condition == "rate_limited"
    del daemon.answers["/snapshot"]
    assert fetch_snapshot(way, FLEET_ALONE).condition == "rate_limited"
    assert len(daemon.requests) == 1
    daemon.answers["/snapshot"] = (429, problem(429, "Too many requests.", "too-many-requests"))
    daemon.headers["Retry-After"] = "0.01"
    brief = connection(daemon)
    assert fetch_snapshot(brief, FLEET_ALONE).condition == "rate_limited"
    del daemon.answers["/snapshot"]
    time.sleep(0.02)
    assert fetch_snapshot(brief, FLEET_ALONE).condition == "live"


@pytest.mark.parametrize("panel", [*PANELS, "server"])
def test_a_refresh_of_a_panel_is_one_request(daemon: RecordedDaemon, panel: str) -> None:
    daemon.set_id = "boot-1"
    page = open_recorded(daemon, panel=panel)
    daemon.requests.clear()
    page.run()
    assert len(daemon.requests) == 1 and daemon.requests[0].startswith("/snapshot?parts=status,current")


def test_user_and_password_of_the_address_are_never_shown() -> None:
    assert shown_address("http://reader:secret@daemon.test:8000/?key=1") == SHOWN_ADDRESS


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://daemon.test", "http://", "http://[bad"])
def test_an_address_that_is_none_is_explained_without_a_traceback(address: str) -> None:
    with pytest.raises(ValueError, match=r"address|URL|netloc"):
        open_client(address, 1.0)
    page = open_page(None, load_settings(daemon_url=address))
    assert "The daemon&#39;s address cannot be used" in seen(page)


# --------------------------------------------------------------------------------------------------------------- panels
@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_shows_connection_model_forecast_time_data_age_and_refresh(
    daemon: RecordedDaemon, panel: str
) -> None:
    text = seen(open_recorded(daemon, panel=panel))
    assert "Connected" in text
    assert "Model <b>3.0.0</b>" in text
    assert '<time datetime="2026-01-05T13:05:00Z" title="2026-01-05 13:05Z">' in text
    assert "Data <b>2 min old</b>" in text
    assert "Refresh <b>every 15 s</b>" in text
    assert "DEMO DATA" not in text


def test_overview_shows_health_at_four_moments_distribution_profiles_and_alerts(daemon: RecordedDaemon) -> None:
    text = seen(open_recorded(daemon))
    for told in (
        "2 of 5 servers critical now or likely",
        "Now",
        "In 30 min",
        "In 1 h",
        "In 8 h",
        "Risk distribution",
        "By profile",
    ):
        assert told in text
    assert "Active alerts" in text and "over the limit now" in text and "in 6 h 35 min" in text
    assert "4 <small>of 5 healthy" in text and "2 <small>of 5 healthy" in text  # now, and in 8 hours


def test_a_fleet_without_alerts_says_so(daemon: RecordedDaemon) -> None:
    body = daemon.body("/alerts/active")
    daemon.answers["/alerts/active"] = (200, {**body, "count": 0, "alerts": []})
    assert "No active alerts." in seen(open_recorded(daemon))


def test_alerts_that_cannot_be_had_do_not_take_the_overview_down(daemon: RecordedDaemon) -> None:
    daemon.answers["/alerts/active"] = (500, problem(500, "The alert book is torn."))
    text = seen(open_recorded(daemon))
    assert "The alerts cannot be shown." in text and "The alert book is torn." in text
    assert "Risk distribution" in text


def test_heatmap_has_a_cell_for_every_server_that_leads_to_its_history(daemon: RecordedDaemon) -> None:
    text = seen(open_recorded(daemon, panel="heatmap"))
    assert text.count('<bdi class="s">') == len(FLEET)
    assert 'href="?panel=server&amp;server=ppweb002"' in text
    assert "■ 0.99" in text and "▲ 0.50" in text


def test_heatmap_of_a_metric_is_filled_by_its_share_of_the_limit(daemon: RecordedDaemon) -> None:
    text = seen(open_recorded(daemon, panel="heatmap", fill="latency_ms", at="8hr"))
    assert "Latency, in 8 h" in text
    assert "not reported" in text and "85 ms" in text


def test_choosing_a_fill_redraws_the_heatmap_and_is_kept_in_the_address(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon, panel="heatmap")
    page.button_group(key="fill").set_value("mem_pct").run()
    assert "Memory, now" in seen(page)
    assert kept(page, "fill") == "mem_pct"


def test_a_heatmap_of_2000_servers_keeps_names_as_tooltips_only(daemon: RecordedDaemon) -> None:
    body = daemon.body("/predictions/current")
    model = body["predictions"][0]
    body["predictions"] = [{**model, "server_name": f"ppweb{number:04d}"} for number in range(2_000)]
    daemon.answers["/predictions/current"] = (200, {**body, "count": 2_000})
    text = seen(open_recorded(daemon, panel="heatmap"))
    assert text.count('title="ppweb') == 2_000 and '<bdi class="s">' not in text


def test_top_servers_show_all_horizons_with_their_uncertainty(daemon: RecordedDaemon) -> None:
    text = seen(open_recorded(daemon, panel="top"))
    assert text.index("ppweb002") < text.index(ESCAPED_NAME) < text.index("ppdb001")
    assert "0.99 Critical" in text and "limit 90 %" in text
    assert "89–100 %" in text  # p10 to p90 in 30 minutes
    assert "new to the model" in text


def test_top_servers_of_an_unreported_metric_say_not_reported(daemon: RecordedDaemon) -> None:
    text = seen(open_recorded(daemon, panel="top", by="latency_ms"))
    row = text[text.index('title="ppml0001"') :].split("</tr>")[0]
    assert row.count("not reported") == 4


def test_historical_starts_with_the_worst_server_and_its_riskiest_metric(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon, panel="historical")
    text = seen(page)
    assert page.selectbox(key="server").value == "ppweb002"
    assert page.button_group(key="metric").value == "cpu_pct"
    assert "CPU risk 0.99 Critical" in text and "Times are UTC" in text
    assert len(page.get("plotly_chart")) == 1
    assert "server=ppweb002&hours=24" in daemon.requests[-1]


def test_choosing_a_server_shows_it_and_is_kept_in_the_address(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon, panel="historical")
    page.selectbox(key="server").set_value("ppdb001").run()
    assert "Memory risk 0.50 Watch" in seen(page)
    assert kept(page, "server") == "ppdb001"
    page.button_group(key="hours").set_value(72).run()
    assert "server=ppdb001&hours=72" in daemon.requests[-1]


def test_historical_of_an_unreported_metric_draws_nothing_and_says_why(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon, panel="historical", server="ppml0001", metric="latency_ms")
    text = seen(page)
    assert "Latency is <b>not reported</b> by this server" in text
    assert not page.get("plotly_chart")


def test_a_server_that_does_not_exist_is_explained_and_another_can_be_chosen(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon, panel="historical", server="ppweb999")
    assert "There is no /predictions/ppweb999." in seen(page)
    page.selectbox(key="server").set_value("ppweb001").run()
    assert "ppweb999" not in seen(page)


def test_a_silent_server_still_shows_what_was_measured(daemon: RecordedDaemon) -> None:
    body = daemon.body("/predictions/current")
    gone = body["predictions"].pop(0)
    body["offline"] = [{"server_name": "ppweb001", "profile": gone["profile"], "last_seen": iso(ORIGIN)}]
    daemon.answers["/predictions/current"] = (200, body)
    daemon.answers["/predictions/ppweb001"] = (404, problem(404, "ppweb001 has been silent."))
    page = open_recorded(daemon, panel="historical", server="ppweb001")
    assert "ppweb001 has been silent." in seen(page)
    assert len(page.get("plotly_chart")) == 1
    assert "1 server silent, without a forecast" in seen(open_recorded(daemon))


def test_advanced_shows_model_daemon_settings_requests_and_raw_answers(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon, panel="advanced")
    text = seen(page)
    for told in ("tft_model_20260105_120000", "2026-01-05T12:00:00Z", "Predictions per second", "Duplicates", "97 %"):
        assert told in text
    assert SHOWN_ADDRESS in text and "secret" not in text
    path = "/snapshot?parts=status,current,alerts,models,scenario"
    assert f"GET {path}" in text
    assert "3.0 %" in text and "-25 %, 79 % inside" in text  # the served model's scores
    assert not page.json
    page.selectbox(key="raw").set_value(f"GET {path}").run()
    assert json.loads(page.json[0].value)["parts"]["alerts"]["count"] == 2


def test_the_refresh_rate_is_chosen_in_advanced_and_kept_in_the_address(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon, panel="advanced")
    page.button_group(key="refresh").set_value("60").run()
    assert "Refresh <b>every 60 s</b>" in seen(page)
    assert kept(page, "refresh") == "60"
    page.button_group(key="refresh").set_value("off").run()
    assert "Refresh <b>paused</b>" in seen(page)


def test_switching_panels_keeps_the_server(daemon: RecordedDaemon) -> None:
    page = open_recorded(daemon, panel="historical", server="ppdb001")
    page.button_group(key="panel").set_value("top").run()
    assert "Worst servers first" in seen(page)
    page.button_group(key="panel").set_value("historical").run()
    assert page.selectbox(key="server").value == "ppdb001"
    assert "Memory risk" in seen(page)


@pytest.mark.parametrize("panel", PANELS)
def test_a_hostile_server_name_is_text_on_every_panel(daemon: RecordedDaemon, panel: str) -> None:
    text = seen(open_recorded(daemon, panel=panel, server=HOSTILE_NAME))
    assert "<img src=x" not in text
    assert ESCAPED_NAME in text


# --------------------------------------------------------------------------------------------------------------- states
@pytest.mark.parametrize("panel", PANELS)
def test_an_unreachable_daemon_is_explained_and_a_demo_is_offered(panel: str) -> None:
    settings = load_settings(daemon_url=f"http://127.0.0.1:{closed_port()}")
    page = open_page(None, settings, panel=panel)
    text = seen(page)
    assert "Daemon unreachable" in text and f"No daemon answers at {settings.daemon_url}." in text
    assert "<code>python main.py serve</code>" in text and "Docs/DASHBOARD_GUIDE.md" in text
    assert "DEMO DATA" not in text
    assert {f"demo-{scenario}" for scenario in SCENARIOS} <= {button.key for button in page.button}


@pytest.mark.parametrize(("panel", "scenario"), list(zip(PANELS, (*SCENARIOS, *SCENARIOS), strict=False)))
def test_demo_data_is_labelled_on_every_panel(panel: str, scenario: str) -> None:
    settings = load_settings(daemon_url=f"http://127.0.0.1:{closed_port()}")
    text = seen(open_page(None, settings, panel=panel, demo=scenario))
    assert text.count("DEMO DATA") >= 2
    assert f"<b>{PANELS[panel]}</b> shows the invented scenario <b>{scenario.title()}</b>" in text
    assert "Daemon unreachable" in text and "Connected" not in text


def test_a_demo_is_entered_changed_and_left_by_buttons() -> None:
    page = open_page(None, load_settings(daemon_url=f"http://127.0.0.1:{closed_port()}"))
    page.button(key="demo-critical").click().run()
    assert "<b>Critical</b>" in seen(page)
    page.button_group(key="demo").set_value("healthy").run()
    assert "expected to stay within their limits" in seen(page)
    page.button(key="demo-leave").click().run()
    assert "DEMO DATA" not in seen(page) and "No daemon answers" in seen(page)


def test_live_data_is_shown_whatever_demo_the_address_asks_for(daemon: RecordedDaemon) -> None:
    text = seen(open_recorded(daemon, demo="critical"))
    assert "DEMO DATA" not in text and "ppweb002" in text


def test_a_daemon_without_a_model_says_why_and_shows_no_forecast(daemon: RecordedDaemon) -> None:
    status = daemon.body("/status")
    daemon.answers["/status"] = (200, {**status, "model_loaded": False, "model": None, "prediction_time": None})
    refusal = problem(503, "There is no model: model.safetensors is missing.", "no-model")
    daemon.answers["/predictions/current"] = (503, refusal)
    page = open_recorded(daemon)
    text = seen(page)
    assert "Connected, no model" in text and "model.safetensors is missing" in text and "The way to fix it." in text
    assert "Model <b>none</b>" in text and "healthy" not in text
    assert not page.button  # a daemon that answers is never replaced by a demo


def test_a_daemon_that_has_no_data_yet_says_how_to_bring_some(daemon: RecordedDaemon) -> None:
    empty = {"prediction_time": None, "data_age_seconds": None, "stale": False}
    daemon.answers["/status"] = (200, {**daemon.body("/status"), **empty})
    daemon.answers["/predictions/current"] = (
        200,
        {**daemon.body("/predictions/current"), **empty, "count": 0, "predictions": []},
    )
    text = seen(open_recorded(daemon))
    assert "no server has reported yet" in text and "/ingest" in text and "Connected, no data yet" in text


@pytest.mark.parametrize("panel", [panel for panel in PANELS if panel != "advanced"])
def test_stale_data_is_said_to_be_stale_on_every_panel(daemon: RecordedDaemon, panel: str) -> None:
    for path in ("/status", "/predictions/current"):
        daemon.answers[path] = (200, {**daemon.body(path), "stale": True, "data_age_seconds": 2580.0})
    text = seen(open_recorded(daemon, panel=panel))
    assert "Stale data." in text and "43 min old" in text and "Connected, data is stale" in text


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, "<html>It works!</html>", "it is no JSON"),
        (200, {"parts": {}}, "<code>problems</code>: Field required"),
        (
            200,
            {"parts": {"status": {"status": "ok"}}, "problems": {}, "set": None},
            "<code>version</code>: Field required",
        ),
        (200, [1, 2, 3], "cannot read"),
        (404, {"detail": "Not Found"}, "it knows no such address"),
        (401, {"detail": "Not authenticated"}, "Access refused"),
        (403, "", "refused access to /snapshot (HTTP 403)"),
        (429, problem(429, "Too many requests.", "too-many-requests"), "Asked to slow down"),
        (500, "Internal Server Error", "failed to answer /snapshot (HTTP 500)"),
        (503, problem(503, "The daemon is shutting down.", "shutting-down"), "The daemon is shutting down."),
    ],
)
def test_an_answer_of_another_kind_becomes_a_message(
    daemon: RecordedDaemon, status: int, body: Any, words: str
) -> None:
    daemon.answers["/snapshot"] = (status, body)
    page = open_recorded(daemon)
    assert words in seen(page)
    assert "Why it matters" in seen(page) and "To fix it" in seen(page)
    assert not page.button


@pytest.mark.parametrize("path", ["/predictions/current", "/predictions/ppweb002", "/history/ppweb002?hours=24"])
def test_a_half_broken_daemon_never_gives_a_traceback(daemon: RecordedDaemon, path: str) -> None:
    daemon.answers[path] = (200, {"unexpected": True})
    assert "cannot read" in seen(open_recorded(daemon, panel="historical"))


def test_another_generation_of_the_contract_is_refused(daemon: RecordedDaemon) -> None:
    status = daemon.body("/status")
    status["model"]["contract_version"] = "2.0.0"
    daemon.answers["/status"] = (200, status)
    text = seen(open_recorded(daemon))
    assert "Versions do not match" in text and "contract 2.0.0" in text and "Docs/MIGRATIONS.md" in text


def test_wrong_settings_are_explained_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    from config import get_settings

    get_settings.cache_clear()
    monkeypatch.setenv("TFT_REFRESH_SECONDS", "often")
    try:
        page = AppTest.from_file(str(Path(__file__).parents[1] / "tft_dashboard_web.py"), default_timeout=30).run()
        assert "refresh_seconds" in seen(page)
    finally:
        get_settings.cache_clear()


# ---------------------------------------------------------------------------------------------------------------- demo
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_demo_answers_have_the_form_of_the_daemons_answers(scenario: str) -> None:
    live = Snapshot("http://daemon.test", ORIGIN)
    snapshot = demo_snapshot(scenario, live, Wanted(("status", "current", "alerts")), SETTINGS)
    bodies = {answer.path: answer.body for answer in snapshot.answers}
    check_answer(StatusAnswer, bodies["status"])
    check_answer(CurrentAnswer, bodies["current"])
    check_answer(AlertsAnswer, bodies["alerts"])
    assert snapshot.current is not None and snapshot.current["count"] == 90
    assert {record["profile"] for record in snapshot.current["predictions"]} == set(VALID_PROFILES)
    for record in snapshot.current["predictions"][::15]:
        detail = demo_snapshot(scenario, live, Wanted(("prediction", "history"), record["server_name"], 6), SETTINGS)
        assert detail.prediction is not None and detail.history is not None
        assert detail.prediction["quantiles"] == record["quantiles"]
        assert detail.history["metrics"]["cpu_pct"][-1] == record["current"]["cpu_pct"]  # type: ignore[index]


def test_demo_scenarios_are_as_bad_as_their_names() -> None:
    health = {}
    for scenario in SCENARIOS:
        snapshot = demo_snapshot(scenario, Snapshot("http://daemon.test", ORIGIN), FLEET_ALONE, SETTINGS)
        assert snapshot.current is not None
        health[scenario] = shape.health_by_moment(build_fleet(snapshot.current, LIMITS))
    assert all(counts["healthy"] == 90 for counts in health["healthy"].values())
    assert health["degrading"]["now"]["critical"] == 0 < health["degrading"]["8hr"]["critical"]
    assert 0 < health["critical"]["now"]["critical"] < health["critical"]["8hr"]["critical"]


def test_a_demo_server_that_does_not_exist_is_explained() -> None:
    live = Snapshot("http://daemon.test", ORIGIN)
    found = demo_snapshot("healthy", live, Wanted(("prediction",), "ppweb999", 6), SETTINGS)
    assert found.prediction is None and "ppweb999" in found.part_problems["prediction"].what


# ----------------------------------------------------------------------------------------------------- the real daemon
@pytest.fixture(scope="module")
def real_daemon(tiny_model_dir: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The daemon's app with a real model and a fleet up to the present, in which ppweb002 is at 99 % CPU."""
    names = (*FLEET_NAMES, HOSTILE_NAME)
    frame = make_fleet(names, hours=12, end=floor_to_step(utc_now(), 5))
    recent = frame["timestamp"] > frame["timestamp"].max() - timedelta(hours=2)
    frame.loc[recent & (frame["server_name"] == "ppweb002"), "cpu_pct"] = 99.0
    frame.loc[frame["server_name"] == "ppml0001", "latency_ms"] = math.nan
    data = write_fleet(tmp_path_factory.mktemp("live") / "server_metrics.parquet", frame)
    own = settings.model_copy(update={"history_dir": tmp_path_factory.mktemp("history"), "daemon_settle_seconds": 0.05})
    with TestClient(create_app(own, tiny_model_dir, data)) as client:
        deadline = time.monotonic() + 60
        while client.get("/predictions/current").json().get("count", 0) < len(names):
            assert time.monotonic() < deadline, "no forecasts in time"
            time.sleep(0.05)
        yield client


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_shows_the_real_daemons_forecasts(real_daemon: Any, panel: str) -> None:
    text = seen(open_page(real_daemon, panel=panel, server=HOSTILE_NAME))
    assert "Connected" in text and "Model <b>3.0.0</b>" in text and "DEMO DATA" not in text
    assert "<img src=x" not in text and ("ppweb002" in text or panel in {"historical", "advanced"})
    assert "cannot" not in text


def test_a_real_server_at_99_percent_cpu_is_red_now_and_the_metric_is_named(real_daemon: Any) -> None:
    snapshot = fetch_snapshot(Connection(real_daemon, SHOWN_ADDRESS), FLEET_ALONE)
    assert snapshot.current is not None
    fleet = build_fleet(snapshot.current, LIMITS)
    assert LIMITS.level(shape.moment_risks(fleet).loc["ppweb002", "now"]) == "critical"
    text = seen(open_page(real_daemon, panel="heatmap", fill="cpu_pct", at="now"))
    cell = text[text.index('title="ppweb002') - 200 : text.index('title="ppweb002') + 150]
    assert "h-critical" in cell and "■ 99 %" in cell


def test_a_real_server_that_never_reports_a_metric_shows_it_as_not_reported(real_daemon: Any) -> None:
    page = open_page(real_daemon, panel="historical", server="ppml0001", metric="latency_ms")
    assert "Latency is <b>not reported</b>" in seen(page)
    page.button_group(key="metric").set_value("cpu_pct").run()
    assert "Latency" not in seen(page) and len(page.get("plotly_chart")) == 1


def test_a_server_that_the_real_daemon_does_not_know_is_explained(real_daemon: Any) -> None:
    assert "ppweb999" in seen(open_page(real_daemon, panel="historical", server="ppweb999"))
