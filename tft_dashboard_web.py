"""How a person sees the fleet: five panels and a page for each server, over the daemon's REST answers.

    streamlit run tft_dashboard_web.py

Three bands: fetch (`dashboard_fetch.py`, takes a client), shape (`dashboard_shape.py`, `dashboard_news.py`,
`dashboard_history.py`; pure) and draw (`dashboard_draw.py`, `dashboard_detail.py`, `dashboard_advanced.py`); this file
puts them together. It talks HTTP only: no model, no Parquet, no code of the daemon.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import streamlit as st
from pydantic import SecretStr

from common_utils import iso_z
from config import Settings, get_settings
from dashboard_actions import render_actions, render_scenarios
from dashboard_advanced import render_advanced, render_requests
from dashboard_answers import CurrentAnswer, Problem, Snapshot, Wanted
from dashboard_demo import SCENARIO_NOTES, SCENARIOS, demo_snapshot
from dashboard_detail import (
    PAST_WORDS,
    alerts_of,
    render_historical,
    render_server_charts,
    render_server_head,
    render_server_rest,
)
from dashboard_draw import (
    Look,
    refresh_text,
    render_banner,
    render_changes,
    render_empty,
    render_header,
    render_heatmap,
    render_overview,
    render_problem,
    render_style,
    render_top,
)
from dashboard_fetch import Connection, fetch_snapshot, open_client, shown_address
from dashboard_news import changes_since, default_since, levels_of
from dashboard_shape import Fleet, Limits, build_fleet, top_servers
from dashboard_view import (
    DRIVER,
    HISTORY_HOURS,
    MOST_COMPARED,
    NO_PAST,
    PANELS,
    PAUSED,
    SERVER_HOURS,
    SERVER_PANEL,
    TOP_COUNTS,
    View,
    moments_for,
)
from dashboard_words import MOMENT_WORDS, RISK, metric_text
from data_contract import HORIZONS, METRIC_COLUMNS, ConfigurationError

REFRESH_CHOICES: Final = ("5", "15", "30", "60", "300")
SHARE_SECONDS: Final = 1.0  # viewers that ask within it get the same answer
SPARK_HOURS: Final = 3
_METRIC_WORDS: Final = {column: metric_text(column) for column in METRIC_COLUMNS}
_HOURS_WORDS: Final = {6: "6 h", 24: "24 h", 72: "3 days", 168: "7 days", 720: "30 days"}
_FLEET: Final = ("status", "current")
_NEEDS_SERVER: Final = frozenset({SERVER_PANEL, "historical"})


@st.cache_resource(show_spinner=False)
def _shared_connection(
    base_url: str, timeout_seconds: float, _api_key: SecretStr | None, _ca_file: Path | None
) -> Connection:
    """One connection for all viewers, so that they share what the daemon has answered."""
    client = open_client(base_url, timeout_seconds, _api_key, _ca_file)
    return Connection(client, shown_address(base_url), SHARE_SECONDS)


@st.cache_resource(show_spinner=False, max_entries=4)
def _shared_fleet(set_id: str, limits: str, _current: CurrentAnswer, _limits: Limits) -> Fleet:  # noqa: ARG001 - keys
    """The tables of a set of forecasts, made once for all viewers."""
    return build_fleet(_current, _limits)


def _fleet_of(snapshot: Snapshot, look: Look) -> Fleet:
    """Shaped tables of a snapshot that has forecasts."""
    assert snapshot.current is not None and snapshot.status is not None
    limits = Limits.from_settings(snapshot.status["settings"])
    if snapshot.set_id is None:
        fleet = build_fleet(snapshot.current, limits)
    else:
        fleet = _shared_fleet(snapshot.set_id, repr(limits), snapshot.current, limits)
    return replace(fleet, zone=look.zone)


def _view() -> View:
    return View.from_query(st.query_params)


def _remember(name: str) -> None:
    """Write a widget's choice into the address; a widget that was emptied changes nothing."""
    chosen = st.session_state.get(name)
    if chosen is None:
        return
    query = replace(_view(), **{name: chosen}).as_query()
    st.query_params.from_dict(View.from_query(query).as_query())


def _choose(label: str, name: str, options: Iterable[Any], words: Mapping[Any, str], chosen: Any, **look: Any) -> None:
    """A row of buttons for one choice of the view; the address decides what is pressed."""
    offered = list(options)
    st.session_state[name] = chosen if chosen in offered else None
    st.segmented_control(
        label,
        offered,
        format_func=lambda option: words.get(option, str(option)),
        key=name,
        on_change=_remember,
        args=(name,),
        required=chosen in offered,
        **look,
    )


# ---------------------------------------------------------------------------------------------------------------- page
def main(connection: Connection | None = None, settings: Settings | None = None) -> None:
    """Draw the page; a connection other than the one that the settings ask for may be handed in."""
    view = _view()
    title = f"{view.server} · TFT Monitoring" if view.panel == SERVER_PANEL else f"{view.title} · TFT Monitoring"
    st.set_page_config(page_title=title, page_icon=":material/monitoring:", layout="wide")
    render_style()
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", key="topbar"):
        st.html('<div class="tf"><h1>TFT Monitoring</h1></div>', width="content")
        _choose("Panel", "panel", PANELS, PANELS, view.panel, label_visibility="collapsed")
    try:
        settings = settings or get_settings()
        if connection is None:
            connection = _shared_connection(
                settings.daemon_url, settings.request_timeout_seconds, settings.api_key, settings.daemon_ca_file
            )
    except ConfigurationError as error:
        render_problem(Problem("failed", error.what, error.why, error.fix, error.document))
        return
    except ValueError as error:
        render_problem(
            Problem(
                "failed",
                f"The daemon's address cannot be used: {error}.",
                "Without an address the dashboard has no one to ask for forecasts.",
                "Set TFT_DAEMON_URL to an address such as http://127.0.0.1:8000.",
            )
        )
        return
    refresh_seconds = view.refresh_seconds(settings.refresh_seconds)
    st.fragment(_live_page, run_every=refresh_seconds)(connection, settings)


def _look(view: View) -> Look:
    zone = "UTC" if view.zone else st.context.timezone
    return Look.of(zone, dark=st.context.theme.type == "dark")


def _live_page(connection: Connection, settings: Settings) -> None:
    """The part of the page that is drawn anew at every refresh."""
    view = _view()
    look = _look(view)
    refresh_seconds = view.refresh_seconds(settings.refresh_seconds)
    snapshot = _ask(connection, view, look)
    live_problem = snapshot.problem
    if view.demo and snapshot.condition == "unreachable":  # with a daemon there is live data, whatever the address says
        snapshot = _ask_demo(view, snapshot, settings, look)
    render_header(snapshot, refresh_seconds, look)
    render_banner(snapshot, view.title, live_problem)
    if snapshot.scenario is not None:
        _choose_demo(snapshot.scenario)
    if view.panel == "advanced":
        _advanced(snapshot, settings, refresh_seconds, connection)
    elif snapshot.problem is not None:
        _explain(snapshot.problem)
    elif snapshot.condition == "empty":
        render_empty()
    else:
        fleet = _fleet_of(snapshot, look)
        if view.panel == "overview":
            _overview(snapshot, fleet, view, look)
        elif view.panel == "heatmap":
            _heatmap(fleet, view)
        elif view.panel == "top":
            _top(snapshot, fleet, view, look)
        elif view.panel == SERVER_PANEL:
            _server(snapshot, fleet, view, look, connection)
        else:
            _historical(snapshot, fleet, view, look)


# ------------------------------------------------------------------------------------------------------- what is asked
def _ask(connection: Connection, view: View, look: Look) -> Snapshot:
    """One request for all that the panel shows; a second where the first must tell of which servers that is."""
    known = connection.forecasts_of(connection.known_set)
    fleet = st.session_state.get("_fleet") if known is not None else None
    wanted = _wanted(view, fleet)
    snapshot = fetch_snapshot(connection, wanted)
    if snapshot.problem is None and snapshot.condition != "empty":
        fleet = _fleet_of(snapshot, look)
        st.session_state["_fleet"] = fleet
        again = _wanted(view, fleet)
        if (again.server, again.servers, again.metrics) != (wanted.server, wanted.servers, wanted.metrics):
            return fetch_snapshot(connection, again)
    return snapshot


def _ask_demo(view: View, live: Snapshot, settings: Settings, look: Look) -> Snapshot:
    fleet = _fleet_of(demo_snapshot(view.demo, live, Wanted(_FLEET), settings), look)
    return demo_snapshot(view.demo, live, _wanted(view, fleet), settings)


def _wanted(view: View, fleet: Fleet | None) -> Wanted:
    """What a panel shows; servers that only the forecasts can tell are left out while there are none."""
    server = view.server or ("" if fleet is None or view.panel not in _NEEDS_SERVER else _worst(fleet))
    if view.panel == "overview":
        return Wanted((*_FLEET, "alerts", "past_alerts"))
    if view.panel == "top":
        metric = "" if view.by == DRIVER else view.by
        rows = None if fleet is None else top_servers(fleet, view.count, metric or None)
        shown = [] if rows is None else [(row.server_name, row.metric) for row in rows.itertuples() if row.metric]
        return Wanted(
            (*_FLEET, "alerts", *(("series", "reasons") if shown else ())),
            hours=SPARK_HOURS,
            servers=tuple(name for name, _ in shown),
            metrics=tuple(metric for _, metric in shown),
        )
    if view.panel == SERVER_PANEL and server:
        hours = view.hours if view.hours in SERVER_HOURS else SERVER_HOURS[1]
        of_server = ("alerts", "prediction", "history", "past_alerts", "silences", "reasons")
        return Wanted((*_FLEET, *of_server), server, hours, servers=(server,))
    if view.panel == "historical" and server:
        parts = (*_FLEET, "prediction", "history")
        past = view.past != NO_PAST
        return Wanted(
            (*parts, *(("forecasts",) if past else ()), *(("series",) if view.compared else ())),
            server,
            view.hours,
            view.until_time,
            view.past if past else "",
            view.compared,
            (_metric_of(view, fleet, server),) if view.compared else (),
        )
    if view.panel == "advanced":
        return Wanted((*_FLEET, "alerts", "models", "scenario"))
    return Wanted(_FLEET)


def _worst(fleet: Fleet) -> str:
    """The server that people come for: the one with the highest risk."""
    return str(fleet.servers.sort_values("risk", ascending=False)["server_name"].iloc[0])


def _metric_of(view: View, fleet: Fleet | None, server: str) -> str:
    """The metric that is looked at: the chosen one, or that which the server's risk comes from."""
    if view.metric or fleet is None:
        return view.metric or METRIC_COLUMNS[0]
    own = fleet.servers.loc[fleet.servers["server_name"] == server, "risk_metric"]
    return str(own.iloc[0]) if len(own) and isinstance(own.iloc[0], str) else METRIC_COLUMNS[0]


# --------------------------------------------------------------------------------------------------------------- panels
def _overview(snapshot: Snapshot, fleet: Fleet, view: View, look: Look) -> None:
    render_overview(snapshot, fleet, view, look)
    since = default_since(fleet, view.since_time)
    if since is None:
        return
    before = st.session_state.get("_levels")
    if before is None or before[0] != view.since:
        before = st.session_state["_levels"] = (view.since, levels_of(fleet))
    with st.container(key="changes"):
        render_changes(fleet, view, look, changes_since(fleet, since, snapshot.past_alerts, before[1]), since)
        st.button("I have seen this", key="seen", type="tertiary", on_click=_mark_seen, args=(fleet.prediction_time,))


def _mark_seen(prediction_time: datetime | None) -> None:
    """From now on only later changes are told; kept in the address, so that a reload does not forget it."""
    if prediction_time is not None:
        _set(since=iso_z(prediction_time))


def _heatmap(fleet: Fleet, view: View) -> None:
    with st.container(horizontal=True, key="choices"):
        _choose("Fill", "fill", (RISK, *METRIC_COLUMNS), {RISK: "Risk", **_METRIC_WORDS}, view.fill)
        _choose("When", "at", moments_for(view.fill), MOMENT_WORDS, view.at)
    render_heatmap(fleet, view)


def _top(snapshot: Snapshot, fleet: Fleet, view: View, look: Look) -> None:
    with st.container(horizontal=True, key="choices"):
        _choose("Metric", "by", (DRIVER, *METRIC_COLUMNS), {DRIVER: "Riskiest", **_METRIC_WORDS}, view.by)
        _choose("Servers", "count", TOP_COUNTS, {}, view.count)
    render_top(snapshot, fleet, view, look)


def _server(snapshot: Snapshot, fleet: Fleet, view: View, look: Look, connection: Connection) -> None:
    view = replace(view, server=view.server or _worst(fleet))
    if not render_server_head(snapshot, fleet, view, look):
        return
    if snapshot.scenario is None:
        render_actions(connection, view.server, alerts_of(snapshot, fleet, view.server), snapshot.silences)
    hours = view.hours if view.hours in SERVER_HOURS else SERVER_HOURS[1]
    with st.container(horizontal=True, key="choices"):
        _choose("History", "hours", SERVER_HOURS, _HOURS_WORDS, hours)
    render_server_charts(snapshot, fleet, look)
    render_server_rest(snapshot, fleet, view, look)


def _historical(snapshot: Snapshot, fleet: Fleet, view: View, look: Look) -> None:
    server = view.server or _worst(fleet)
    metric = _metric_of(view, fleet, server)
    view = replace(view, server=server, metric=metric)
    names = sorted(fleet.servers["server_name"])
    with st.container(horizontal=True, vertical_alignment="top", key="choices"):
        st.session_state["server"] = server if server in names else None
        st.selectbox(
            "Server",
            names,
            placeholder="Choose a server",
            key="server",
            on_change=_remember,
            args=("server",),
            width=240,
        )
        _choose("Metric", "metric", METRIC_COLUMNS, _METRIC_WORDS, metric)
        _choose("History", "hours", HISTORY_HOURS, _HOURS_WORDS, view.hours)
        past_words = {NO_PAST: "Hide", **{horizon: f"{PAST_WORDS[horizon]} before" for horizon in HORIZONS}}
        _choose("What was forecast then", "past", (NO_PAST, *HORIZONS), past_words, view.past)
        _compare(names, view)
        _until(fleet, view, look)
    render_historical(snapshot, fleet, view, look)


def _compare(names: list[str], view: View) -> None:
    st.session_state["compare-with"] = [name for name in view.compared if name in names]
    st.multiselect(
        "Compare with",
        [name for name in names if name != view.server],
        key="compare-with",
        max_selections=MOST_COMPARED,
        placeholder="other servers",
        on_change=lambda: _set(compare="\n".join(st.session_state["compare-with"])),
        width=260,
    )


def _until(fleet: Fleet, view: View, look: Look) -> None:
    """The day with which the history ends, in the viewer's zone; empty for now."""
    until = view.until_time
    st.session_state["until-day"] = (
        None if until is None else (until - timedelta(seconds=1)).astimezone(look.zone).date()
    )
    newest = (fleet.prediction_time or datetime.now(timezone.utc)).astimezone(look.zone).date()

    def take_over() -> None:
        day = st.session_state["until-day"]
        if day is None or day >= newest:
            _set(until="")
        else:
            _set(until=iso_z(datetime.combine(day + timedelta(days=1), time(), look.zone).astimezone(timezone.utc)))

    st.date_input(
        "Until the end of", key="until-day", max_value=newest, on_change=take_over, format="YYYY-MM-DD", width=150
    )


def _set(**changes: Any) -> None:
    st.query_params.from_dict(replace(_view(), **changes).as_query())


def _advanced(snapshot: Snapshot, settings: Settings, refresh_seconds: float | None, connection: Connection) -> None:
    default = f"{settings.refresh_seconds:g}"
    chosen = _view().refresh or default
    seconds = sorted({*REFRESH_CHOICES, default, chosen} - {PAUSED}, key=float)
    words = {choice: refresh_text(float(choice)).removeprefix("every ") for choice in seconds}
    _choose("Refresh", "refresh", (*seconds, PAUSED), {**words, PAUSED: "Paused"}, chosen)
    if snapshot.played is not None and snapshot.scenario is None:
        render_scenarios(connection, snapshot.played["scenario"])
    zones = {"": "Yours", "utc": "UTC"}
    _choose("Time zone", "zone", zones, zones, _view().zone)
    if st.session_state.setdefault("_refreshing", refresh_seconds) != refresh_seconds:
        st.session_state["_refreshing"] = refresh_seconds
        st.rerun()  # the whole page, because the interval of the fragment is set there
    if snapshot.problem is not None:
        _explain(snapshot.problem)
    render_advanced(snapshot, settings, refresh_seconds)
    render_requests(snapshot.answers)
    bodies = {f"{answer.source} {answer.path}": answer.body for answer in snapshot.answers if answer.body is not None}
    raw = st.selectbox("Raw answer", bodies, index=None, placeholder="Choose an answer to see it whole", key="raw")
    if raw is not None:
        st.json(bodies[raw], expanded=2)


def _explain(problem: Problem) -> None:
    """Say what is wrong; where no daemon answers, offer the demonstration."""
    render_problem(problem)
    if problem.condition != "unreachable":
        return
    with st.container(horizontal=True, horizontal_alignment="center", vertical_alignment="center", key="demo-offer"):
        st.html('<div class="tf tf-muted">Look around with invented data:</div>', width="content")
        for scenario in SCENARIOS:
            st.button(
                scenario.title(),
                key=f"demo-{scenario}",
                help=SCENARIO_NOTES[scenario],
                on_click=_set_demo,
                args=(scenario,),
            )


def _choose_demo(scenario: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key="demo-choices"):
        words = {name: name.title() for name in SCENARIOS}
        _choose("Demo scenario", "demo", SCENARIOS, words, scenario, label_visibility="collapsed")
        st.button("Leave the demo", key="demo-leave", type="tertiary", on_click=_set_demo, args=("",))


def _set_demo(scenario: str) -> None:
    _set(demo=scenario)


if __name__ == "__main__":
    main()
