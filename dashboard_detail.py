"""How one server is drawn: its own page, with all metrics, and its history with what had been forecast then.

Knows nothing of HTTP; what people enter is handed back to the page that called.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Final

import pandas as pd
import streamlit as st

import dashboard_history as past
import dashboard_words as words
from dashboard_answers import HistoryAnswer, ServerAnswer, Snapshot
from dashboard_chart import FanData, fan_chart
from dashboard_draw import Look, draw, render_problem
from dashboard_news import AlertRow, alerts_by_time
from dashboard_shape import Fleet
from dashboard_view import NO_PAST, View
from dashboard_words import METRIC_BY_COLUMN, NOW
from data_contract import METRIC_COLUMNS

_SHOWN_REASONS: Final = 6
_SHOWN_HOURS: Final = 24
_SHOWN_PAST_ALERTS: Final = 8
_PLOTLY: Final = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "png", "scale": 2},
}
_STATE_LEVELS: Final[dict[str | None, str]] = {
    "critical_issue": "critical",
    "heavy_load": "watch",
    "morning_spike": "watch",
    "recovery": "watch",
    "healthy": "healthy",
    "idle": "healthy",
    "maintenance": "unknown",
    "offline": "unknown",
    None: "none",
}
PAST_WORDS: Final = {"30min": "30 min", "1hr": "1 h", "8hr": "8 h"}


# --------------------------------------------------------------------------------------------------------- server page
def alerts_of(snapshot: Snapshot, fleet: Fleet, server: str) -> list[AlertRow]:
    """Open alerts of a server, the one that hurts first before the others."""
    return alerts_by_time(fleet, [alert for alert in snapshot.alerts or [] if alert["server_name"] == server])


def render_server_head(snapshot: Snapshot, fleet: Fleet, view: View, look: Look) -> bool:
    """Who the server is and what threatens it; returns whether anything is known of it."""
    prediction, history = snapshot.prediction, snapshot.history
    trouble = snapshot.part_problems.get("prediction")
    if prediction is None and trouble is not None:
        render_problem(trouble)
    known = prediction or history
    if known is None:
        return False
    own = fleet.servers[fleet.servers["server_name"] == view.server]
    draw(
        "server",
        look,
        view=view,
        name=view.server,
        profile=known["profile"],
        prediction=prediction,
        level_of=str(own["level"].iloc[0]) if len(own) else "unknown",
        rows=alerts_of(snapshot, fleet, view.server),
        alerts_problem=snapshot.part_problems.get("alerts"),
        limits=fleet.limits,
        now=fleet.prediction_time,
        silences=[silence for silence in snapshot.silences if _holds_for(silence, view.server, known["profile"])],
    )
    return True


def _holds_for(silence: Any, server: str, profile: str) -> bool:
    return (
        silence["state"] != "expired"
        and silence["server_name"] in {None, server}
        and silence["profile"] in {None, profile}
    )


def render_server_charts(snapshot: Snapshot, fleet: Fleet, look: Look) -> None:
    """All four metrics: what was measured, where it goes, and how sure that is."""
    known: ServerAnswer | HistoryAnswer | None = snapshot.prediction or snapshot.history
    assert known is not None
    places = [*st.columns(2), *st.columns(2)]
    for place, column in zip(places, METRIC_COLUMNS, strict=True):
        metric = METRIC_BY_COLUMN[column]
        threshold = fleet.limits.threshold(column, known["profile"])
        measured, path = past.history_frame(snapshot.history, column), past.path_frame(snapshot.prediction, column)
        reported = not path.empty or bool(measured["value"].notna().any())
        readings = past.server_readings(snapshot.prediction, column) if snapshot.prediction is not None else {}
        risk = snapshot.prediction["risks"][column] if snapshot.prediction is not None else None  # type: ignore[literal-required]
        with place, st.container(key=f"chart-{column}"):
            draw(
                "metric",
                look,
                metric=column,
                reported=reported,
                risk=risk,
                level_of=fleet.limits.level(risk),
                cells=[
                    {
                        "moment": moment,
                        "text": words.value_text(middle, column),
                        "over": middle is not None and middle > threshold,
                        "range": "" if moment == NOW else words.range_text(low, high, column),
                    }
                    for moment, (low, middle, high) in readings.items()
                ],
            )
            if reported:
                data = FanData(measured, path, _now_of(snapshot, fleet), threshold, metric.unit, look.zone)
                figure = fan_chart(data, dark=look.dark, height=230, small=True)
                st.plotly_chart(figure, key=f"fan-{column}", config={**_PLOTLY, "displayModeBar": False})


def render_server_rest(snapshot: Snapshot, fleet: Fleet, view: View, look: Look) -> None:
    """States of the hours shown, why the forecast is as it is, and alerts that were."""
    runs = past.state_runs(snapshot.history)
    reason = snapshot.reasons.get(view.server)
    hours = past.attended_hours(reason)[:_SHOWN_HOURS] if reason is not None else []
    draw(
        "server_rest",
        look,
        view=view,
        now=fleet.prediction_time,
        runs=[(run, _STATE_LEVELS.get(run.state, "unknown")) for run in runs],
        steps=sum(run.steps for run in runs),
        demo=snapshot.scenario is not None,
        reason=reason,
        reasons=past.main_reasons(reason, _SHOWN_REASONS) if reason is not None else [],
        hours=hours,
        highest=max((share for _, share in hours), default=0.0),
        reason_problem=snapshot.part_problems.get("reasons"),
        past_alerts=snapshot.past_alerts[:_SHOWN_PAST_ALERTS],
        more_alerts=len(snapshot.past_alerts) - _SHOWN_PAST_ALERTS,
    )


def _now_of(snapshot: Snapshot, fleet: Fleet) -> datetime | None:
    return snapshot.prediction["prediction_time"] if snapshot.prediction is not None else fleet.prediction_time


# ---------------------------------------------------------------------------------------------------------- historical
def render_historical(snapshot: Snapshot, fleet: Fleet, view: View, look: Look) -> None:
    """One server and metric: what was measured and where it goes; what had been forecast, and whether it was right."""
    prediction, history = snapshot.prediction, snapshot.history
    trouble, history_trouble = (snapshot.part_problems.get(part) for part in ("prediction", "history"))
    if prediction is None and trouble is not None:
        render_problem(trouble)
    if history_trouble is not None and trouble is None:
        render_problem(history_trouble)
    known = prediction or history
    if known is None:
        return
    metric = METRIC_BY_COLUMN[view.metric]
    threshold = fleet.limits.threshold(metric.column, known["profile"])
    is_past = view.until_time is not None
    path = past.path_frame(None if is_past else prediction, metric.column)
    measured = past.history_frame(history, metric.column)
    reported = not path.empty or bool(measured["value"].notna().any())
    now = _now_of(snapshot, fleet)
    risk = prediction["risks"][metric.column] if prediction is not None else None  # type: ignore[literal-required]
    readings = past.server_readings(prediction, metric.column) if prediction is not None and not is_past else {}
    earlier = past.past_frame(snapshot.forecasts, metric.column) if view.past != NO_PAST else None
    draw(
        "historical",
        look,
        view=view,
        name=view.server,
        profile=known["profile"],
        prediction=prediction,
        metric=metric.column,
        risk=risk,
        risk_level=fleet.limits.level(risk),
        reported=reported,
        threshold=threshold,
        cells=[
            {
                "moment": moment,
                "text": words.value_text(middle, metric.column),
                "over": middle is not None and middle > threshold,
                "range": "measured" if moment == NOW else words.range_text(low, high, metric.column),
            }
            for moment, (low, middle, high) in readings.items()
        ],
        now=now,
        times=past.moment_times(now),
    )
    if not reported:
        return
    data = FanData(
        measured,
        path,
        None if is_past else now,
        threshold,
        metric.unit,
        look.zone,
        earlier,
        PAST_WORDS.get(view.past, ""),
        view.server if view.compared else "Measured",
        {
            name: (past.series_frame(series), past.series_path(series))
            for name in view.compared
            if (series := snapshot.series.get(name)) is not None
        },
    )
    with st.container(key="chart"):
        st.plotly_chart(fan_chart(data, dark=look.dark), key="fan", config=_PLOTLY)
        st.caption(_chart_note(measured, snapshot, view, look))
        if earlier is not None:
            _render_hindsight(snapshot, view, measured, earlier)
    name = f"{_file_name(view.server)}_{view.hours}h.csv"
    content = past.history_csv(view.server, history, None if is_past else prediction, snapshot.forecasts)
    st.download_button("Download as CSV", content, name, "text/csv", key="csv", icon=":material/download:")


def _render_hindsight(snapshot: Snapshot, view: View, measured: pd.DataFrame, earlier: pd.DataFrame) -> None:
    draw(
        "hindsight",
        found=past.hindsight(measured, earlier),
        metric=view.metric,
        ahead=PAST_WORDS[view.past],
        problem=snapshot.part_problems.get("forecasts"),
    )


def _chart_note(measured: pd.DataFrame, snapshot: Snapshot, view: View, look: Look) -> str:
    zone = "Times are UTC." if look.zone is timezone.utc else f"Times are those of {look.zone}."
    note = f"{zone} The band reaches from p10 to p90: eight of ten outcomes should fall into it."
    gaps = int(measured["value"].isna().sum())
    if gaps:
        note += f" {gaps:,} of {len(measured):,} steps were not measured and stay empty."
    missing = [name for name in view.compared if name not in snapshot.series]
    if missing:
        note += f" {words.servers_text(len(missing))} to compare with cannot be shown: no forecast of that name."
    return note


def _file_name(server: str) -> str:
    """A server's name as part of a file name."""
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in server)[:80]
