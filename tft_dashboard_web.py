"""How a person sees the fleet: five panels over the daemon's REST answers. `streamlit run tft_dashboard_web.py`.

Three bands: fetch (`dashboard_fetch.py`, takes a client), shape (`dashboard_shape.py`, pure pandas) and draw
(`dashboard_draw.py`); this file puts them together. It talks HTTP only: no model, no Parquet, no code of the daemon.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import streamlit as st
from pydantic import SecretStr

from config import Settings, get_settings
from dashboard_answers import Problem, Snapshot
from dashboard_demo import SCENARIO_NOTES, SCENARIOS, demo_detail, demo_snapshot
from dashboard_draw import (
    fleet_of,
    refresh_text,
    render_advanced,
    render_banner,
    render_empty,
    render_header,
    render_heatmap,
    render_historical,
    render_overview,
    render_problem,
    render_requests,
    render_style,
    render_top,
)
from dashboard_fetch import Client, fetch_detail, fetch_snapshot, open_client, shown_address
from dashboard_shape import MOMENT_WORDS, RISK, metric_text
from dashboard_view import DRIVER, HISTORY_HOURS, PANELS, PAUSED, TOP_COUNTS, View, moments_for
from data_contract import METRIC_COLUMNS, ConfigurationError

REFRESH_CHOICES = ("5", "15", "30", "60", "300")
_METRIC_WORDS = {column: metric_text(column) for column in METRIC_COLUMNS}
_WITH_ALERTS = frozenset({"overview", "top", "advanced"})


@st.cache_resource(show_spinner=False)
def _shared_client(base_url: str, timeout_seconds: float, _api_key: SecretStr | None) -> Client:
    """One client for all viewers, so that connections to the daemon are reused."""
    return open_client(base_url, timeout_seconds, _api_key)


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
    st.session_state[name] = chosen
    st.segmented_control(
        label,
        list(options),
        format_func=lambda option: words.get(option, str(option)),
        key=name,
        on_change=_remember,
        args=(name,),
        required=True,
        **look,
    )


# ---------------------------------------------------------------------------------------------------------------- page
def main(client: Client | None = None, settings: Settings | None = None) -> None:
    """Draw the page; a client other than the one that the settings ask for may be handed in."""
    view = _view()
    st.set_page_config(
        page_title=f"{PANELS[view.panel]} · TFT Monitoring", page_icon=":material/monitoring:", layout="wide"
    )
    render_style()
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", key="topbar"):
        st.html('<div class="tf"><h1>TFT Monitoring</h1></div>', width="content")
        _choose("Panel", "panel", PANELS, PANELS, view.panel, label_visibility="collapsed")
    try:
        settings = settings or get_settings()
        client = client or _shared_client(settings.daemon_url, settings.request_timeout_seconds, settings.api_key)
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
    st.fragment(_live_page, run_every=refresh_seconds)(client, settings)


def _live_page(client: Client, settings: Settings) -> None:
    """The part of the page that is drawn anew at every refresh."""
    view = _view()
    address = shown_address(settings.daemon_url)
    refresh_seconds = view.refresh_seconds(settings.refresh_seconds)
    snapshot = fetch_snapshot(client, address, with_alerts=view.panel in _WITH_ALERTS)
    live_problem = snapshot.problem
    if view.demo and snapshot.condition == "unreachable":  # with a daemon there is live data, whatever the address says
        snapshot = demo_snapshot(view.demo, snapshot, settings)
    render_header(snapshot, refresh_seconds)
    render_banner(snapshot, view.panel, live_problem)
    if snapshot.scenario is not None:
        _choose_demo(snapshot.scenario)
    if view.panel == "advanced":
        _advanced(snapshot, settings, refresh_seconds)
    elif snapshot.problem is not None:
        _explain(snapshot.problem)
    elif snapshot.condition == "empty":
        render_empty()
    elif view.panel == "overview":
        render_overview(snapshot, view)
    elif view.panel == "heatmap":
        _heatmap(snapshot, view)
    elif view.panel == "top":
        _top(snapshot, view)
    else:
        _historical(snapshot, view, client, settings)


def _heatmap(snapshot: Snapshot, view: View) -> None:
    with st.container(horizontal=True, key="choices"):
        _choose("Fill", "fill", (RISK, *METRIC_COLUMNS), {RISK: "Risk", **_METRIC_WORDS}, view.fill)
        _choose("When", "at", moments_for(view.fill), MOMENT_WORDS, view.at)
    render_heatmap(snapshot, view)


def _top(snapshot: Snapshot, view: View) -> None:
    with st.container(horizontal=True, key="choices"):
        _choose("Metric", "by", (DRIVER, *METRIC_COLUMNS), {DRIVER: "Riskiest", **_METRIC_WORDS}, view.by)
        _choose("Servers", "count", TOP_COUNTS, {}, view.count)
    render_top(snapshot, view)


def _historical(snapshot: Snapshot, view: View, client: Client, settings: Settings) -> None:
    servers = fleet_of(snapshot).servers.sort_values("risk", ascending=False)
    drivers = dict(zip(servers["server_name"], servers["risk_metric"], strict=True))
    server = view.server or next(iter(drivers))  # the worst server is the one that people come for
    metric = view.metric or drivers.get(server) or METRIC_COLUMNS[0]
    view = replace(view, server=server, metric=metric)
    with st.container(horizontal=True, vertical_alignment="top", key="choices"):
        st.session_state["server"] = server if server in drivers else None
        st.selectbox(
            "Server",
            sorted(drivers),
            placeholder="Choose a server",
            key="server",
            on_change=_remember,
            args=("server",),
            width=260,
        )
        _choose("Metric", "metric", METRIC_COLUMNS, _METRIC_WORDS, metric)
        _choose("History", "hours", HISTORY_HOURS, {hours: f"{hours} h" for hours in HISTORY_HOURS}, view.hours)
    if snapshot.scenario is not None:
        detail = demo_detail(snapshot.scenario, server, view.hours, snapshot.fetched_at, settings)
    else:
        detail = fetch_detail(client, snapshot.address, server, view.hours)
    render_historical(snapshot, detail, view, dark=st.context.theme.type == "dark")


def _advanced(snapshot: Snapshot, settings: Settings, refresh_seconds: float | None) -> None:
    default = f"{settings.refresh_seconds:g}"
    chosen = _view().refresh or default
    seconds = sorted({*REFRESH_CHOICES, default, chosen} - {PAUSED}, key=float)
    words = {choice: refresh_text(float(choice)).removeprefix("every ") for choice in seconds}
    _choose("Refresh", "refresh", (*seconds, PAUSED), {**words, PAUSED: "Paused"}, chosen)
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
    st.query_params.from_dict(replace(_view(), demo=scenario).as_query())


if __name__ == "__main__":
    main()
