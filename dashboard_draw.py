"""How a snapshot is drawn: one `render_…` function per panel and per state, over the shaped tables.

The markup lies in `dashboard_assets/`; its environment escapes all that comes from outside, so that a server's name or
a message is shown as it is written. Knows nothing of HTTP.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
import markupsafe
import pandas as pd
import streamlit as st

import dashboard_shape as shape
from common_utils import iso_z
from config import Settings
from dashboard_answers import Answer, Condition, Detail, Problem, Snapshot
from dashboard_chart import FanData, fan_chart
from dashboard_demo import SCENARIO_NOTES
from dashboard_shape import LEVELS, METRIC_BY_COLUMN, MOMENT_WORDS, MOMENTS, NOW, RISK, Fleet, Level, Limits
from dashboard_view import DRIVER, PANELS, View
from data_contract import METRICS, SERVED_QUANTILES
from html_templates import template_environment

_ASSETS: Final = Path(__file__).resolve().parent / "dashboard_assets"
_DENSE_FROM: Final = 400  # servers in the heatmap from which cells carry no text
_SHOWN_ALERTS: Final = 10
_SHADE_WORDS: Final = ("under 20 %", "20–40 %", "40–60 %", "60–80 %", "80–90 %", "90–100 %")

# Level and words of the connection badge
_BADGES: Final[dict[Condition, tuple[Level, str]]] = {
    "live": ("healthy", "Connected"),
    "stale": ("watch", "Connected, data is stale"),
    "empty": ("unknown", "Connected, no data yet"),
    "no_model": ("watch", "Connected, no model"),
    "unreachable": ("critical", "Daemon unreachable"),
    "odd_answer": ("critical", "Answer not understood"),
    "wrong_version": ("critical", "Versions do not match"),
    "unauthorised": ("critical", "Access refused"),
    "rate_limited": ("watch", "Asked to slow down"),
    "not_found": ("watch", "Not found"),
    "failed": ("critical", "Daemon has a fault"),
}


@cache
def _environment() -> jinja2.Environment:
    environment = template_environment(_ASSETS)
    environment.filters.update(
        age=shape.age_text,
        clock=shape.clock,
        fact=_fact,
        iso=iso_z,
        metric=shape.metric_text,
        probability=shape.probability_text,
        profile=shape.profile_text,
        prose=_prose,
        risk=shape.risk_text,
        servers=shape.servers_text,
        state=shape.state_text,
        thousands=lambda number: f"{number:,}",
        value=shape.value_text,
    )
    environment.globals.update(
        LEVELS=LEVELS,
        LEVEL_SHAPES=shape.LEVEL_SHAPES,
        LEVEL_WORDS=shape.LEVEL_WORDS,
        MOMENTS=MOMENTS,
        MOMENT_WORDS=MOMENT_WORDS,
        NOT_REPORTED=shape.NOT_REPORTED,
    )
    return environment


def _prose(words: str) -> markupsafe.Markup:
    """Escaped text in which what stands between backticks is set as code."""
    return markupsafe.Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(markupsafe.escape(words))))  # noqa: S704


def _draw(template: str, **content: Any) -> None:
    markup = _environment().get_template(f"{template}.html").render(**content)
    st.html(f'<div class="tf">{markup}</div>')


# ---------------------------------------------------------------------------------------------------- head and states
def render_style() -> None:
    """The page's style sheet."""
    st.html(f"<style>{(_ASSETS / 'style.css').read_text(encoding='utf-8')}</style>")


def render_header(snapshot: Snapshot, refresh_seconds: float | None) -> None:
    """The strip that every panel has: connection, model version, last forecast, age of the data, refresh rate."""
    demo = snapshot.scenario is not None
    level, words = _BADGES["unreachable" if demo else snapshot.condition]
    told = snapshot.current or snapshot.status
    model = snapshot.model
    _draw(
        "header",
        badge_level=level,
        badge_words=words,
        demo=demo,
        model_version=model["model_version"] if model is not None else None,
        made=told["prediction_time"] if told is not None else None,
        age=told["data_age_seconds"] if told is not None else None,
        stale=snapshot.condition == "stale",
        refresh=refresh_text(refresh_seconds),
        asked=snapshot.fetched_at,
    )


def refresh_text(seconds: float | None) -> str:
    """How often the page refreshes."""
    if seconds is None:
        return "paused"
    return f"every {seconds:g} s" if seconds < 120 else f"every {shape.duration_text(seconds / 60)}"


def render_banner(snapshot: Snapshot, panel: str, live_problem: Problem | None) -> None:
    """What must be known before anything below is believed: demo data, or data that is out of date."""
    if snapshot.scenario is not None or snapshot.condition == "stale":
        _draw(
            "banner",
            scenario=snapshot.scenario,
            note=SCENARIO_NOTES.get(snapshot.scenario or "", ""),
            panel=PANELS[panel],
            reason=live_problem.what if live_problem is not None else "",
            age=snapshot.current["data_age_seconds"] if snapshot.current is not None else None,
        )


def render_problem(problem: Problem) -> None:
    """A page that says why nothing can be shown, and what to do about it."""
    _draw("problem", problem=problem, severity=_BADGES[problem.condition][0])


def render_empty() -> None:
    """A daemon with a model that has not been told anything yet."""
    render_problem(
        Problem(
            "empty",
            "The daemon is ready, but no server has reported yet.",
            "Forecasts begin as soon as there are measurements; none are invented in the meantime.",
            "Post rows to the daemon's /ingest, or start it with `python main.py serve --data FILE`.",
        )
    )


# ------------------------------------------------------------------------------------------------------------ overview
def fleet_of(snapshot: Snapshot) -> Fleet:
    """Shaped tables of a snapshot that has forecasts."""
    assert snapshot.current is not None and snapshot.status is not None
    return shape.build_fleet(snapshot.current, Limits.from_settings(snapshot.status["settings"]))


def render_overview(snapshot: Snapshot, view: View) -> None:
    """Is the fleet well, who is next, when, and how sure: now and at the three horizons, by risk and by profile."""
    fleet = fleet_of(snapshot)
    alerts = None if snapshot.alerts is None else snapshot.alerts["alerts"]
    _draw(
        "overview",
        view=view,
        limits=fleet.limits,
        news=shape.headline(fleet, snapshot.alerts),
        now=fleet.prediction_time,
        times=shape.moment_times(fleet.prediction_time),
        health=shape.health_by_moment(fleet),
        silent=shape.silent_servers(fleet),
        bins=shape.risk_distribution(fleet),
        without_risk=int(fleet.servers["risk"].isna().sum()),
        profiles=shape.health_by_profile(fleet),
        alerts=None if alerts is None else shape.alerts_by_time(fleet, alerts),
        shown_alerts=_SHOWN_ALERTS,
        alerts_problem=snapshot.alerts_problem,
    )


# ------------------------------------------------------------------------------------------------------------- heatmap
def render_heatmap(snapshot: Snapshot, view: View) -> None:
    """Every server a cell, grouped by profile; red cells catch the eye, the rest stays quiet."""
    fleet = fleet_of(snapshot)
    is_risk = view.fill == RISK
    cells = shape.heat_cells(fleet, view.fill, view.at)
    cells["classes"] = [
        _cell_class(level, share, is_risk=is_risk) for level, share in zip(cells["level"], cells["share"], strict=True)
    ]
    words = "Risk" if is_risk else shape.metric_text(view.fill)
    _draw(
        "heatmap",
        view=view,
        metric=view.metric if is_risk else view.fill,
        title=f"{words}, {MOMENT_WORDS[view.at].lower()}",
        total=len(cells),
        is_risk=is_risk,
        steps=_SHADE_WORDS,
        counts=shape.count_levels(cells["level"]),
        dense=len(cells) > _DENSE_FROM,
        groups=[(profile, group.to_dict("records")) for profile, group in cells.groupby("profile", sort=False)],
    )


def _cell_class(level: str, share: float, *, is_risk: bool) -> str:
    if level == "unknown":
        return "none"
    if is_risk or level == "critical":
        return f"h-{level}"
    return f"q{5 if share >= 0.9 else min(int(share * 5), 4)}"  # as _SHADE_WORDS says


# --------------------------------------------------------------------------------------------------------- top servers
def render_top(snapshot: Snapshot, view: View) -> None:
    """The worst servers first: which metric, how it goes on at the three horizons, and how sure that is."""
    fleet = fleet_of(snapshot)
    table = shape.top_servers(fleet, view.count, None if view.by == DRIVER else view.by)
    alerts = shape.alerts_by_time(fleet, snapshot.alerts["alerts"] if snapshot.alerts is not None else [])
    due = {(row.alert["server_name"], row.alert["metric"]): row.due for row in alerts}
    rows = [
        {
            **row,
            "limit": "" if math.isnan(row["threshold"]) else shape.value_text(row["threshold"], str(row["metric"])),
            "due": due.get((str(row["server_name"]), str(row["metric"])), ""),
            "cells": [_range_cell(row, moment) for moment in MOMENTS],
        }
        for row in table.to_dict("records")
    ]
    _draw(
        "top",
        view=view,
        by="each server's riskiest metric" if view.by == DRIVER else shape.metric_text(view.by),
        rows=rows,
        total=len(fleet.servers),
        now=fleet.prediction_time,
        times=shape.moment_times(fleet.prediction_time),
    )


def _range_cell(row: Mapping[Any, Any], moment: str) -> dict[str, Any]:
    """One moment of one server: words, and a bar on a scale that all of the server's moments share."""
    low, middle, high = (float(row[f"{moment}_{quantile}"]) for quantile in SERVED_QUANTILES)
    threshold, metric = float(row["threshold"]), row["metric"]
    if metric is None or math.isnan(middle):
        return {"moment": moment, "bar": None}
    reaches = [float(row[f"{each}_p90"]) for each in MOMENTS] + [threshold]
    scale = 1.06 * max((reach for reach in reaches if not math.isnan(reach)), default=0.0) or 1.0

    def percent(value: float) -> float:
        return round(min(max(value / scale, 0.0), 1.0) * 100, 1)

    return {
        "moment": moment,
        "text": shape.value_text(middle, metric),
        "over": middle > threshold,
        "range": "measured" if moment == NOW else shape.range_text(low, high, metric),
        "bar": {
            "left": percent(low),
            "width": 0 if moment == NOW else percent(high - low),
            "median": percent(middle),
            "limit": None if math.isnan(threshold) else percent(threshold),
        },
    }


# ---------------------------------------------------------------------------------------------------------- historical
def render_historical(snapshot: Snapshot, detail: Detail, view: View, *, dark: bool) -> None:
    """One server: what was measured, where it goes, and how sure that is."""
    prediction, history = detail.prediction, detail.history
    if prediction is None and detail.problem is not None:
        render_problem(detail.problem)
    if detail.history_problem is not None and detail.problem is None:
        render_problem(detail.history_problem)
    known = prediction or history
    if known is None:
        return
    fleet = fleet_of(snapshot)
    metric = METRIC_BY_COLUMN[view.metric]
    threshold = fleet.limits.threshold(metric.column, known["profile"])
    path = shape.path_frame(prediction, metric.column)
    measured = shape.history_frame(history, metric.column)
    reported = not path.empty or bool(measured["value"].notna().any())
    now = prediction["prediction_time"] if prediction is not None else fleet.prediction_time
    risk = prediction["risks"][metric.column] if prediction is not None else None  # type: ignore[literal-required]
    readings = shape.server_readings(prediction, metric.column) if prediction is not None else {}
    _draw(
        "historical",
        name=detail.server_name,
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
                "text": shape.value_text(middle, metric.column),
                "over": middle is not None and middle > threshold,
                "range": "measured" if moment == NOW else shape.range_text(low, high, metric.column),
            }
            for moment, (low, middle, high) in readings.items()
        ],
        now=now,
        times=shape.moment_times(now),
    )
    if not reported:
        return
    figure = fan_chart(FanData(measured, path, now, threshold, metric.unit), dark=dark)
    with st.container(key="chart"):
        st.plotly_chart(figure, key="fan", config={"displaylogo": False, "displayModeBar": False})
        st.caption(_chart_note(measured))


def _chart_note(measured: pd.DataFrame) -> str:
    note = "Times are UTC. The band reaches from p10 to p90: eight of ten outcomes should fall into it."
    gaps = int(measured["value"].isna().sum())
    return f"{note} {gaps:,} of {len(measured):,} steps were not measured and stay empty." if gaps else note


# ------------------------------------------------------------------------------------------------------------ advanced
def render_advanced(snapshot: Snapshot, settings: Settings, refresh_seconds: float | None) -> None:
    """Connection, model, daemon and settings in figures, for those who run the system."""
    demo = snapshot.scenario is not None
    cards: dict[str, dict[str, Any]] = {
        "Connection": {
            "Daemon": snapshot.address,
            "State": _BADGES["unreachable" if demo else snapshot.condition][1] + (", demo data" if demo else ""),
            "Asked at": iso_z(snapshot.fetched_at.replace(microsecond=0)),
            "Refresh": refresh_text(refresh_seconds),
            "Waits for an answer": f"{settings.request_timeout_seconds:g} s at most",
        }
    }
    status = snapshot.status
    if status is not None:
        model, error = status["model"], status["model_error"] or {}
        cards["Model"] = (
            {key: error[key] for key in ("what", "why", "fix") if key in error}
            if model is None
            else {
                "Name": model["name"],
                "Model version": model["model_version"],
                "Contract version": model["contract_version"],
                "Trained": iso_z(model["trained_at"]) if model["trained_at"] else None,
                "Servers it knows": model["known_servers"],
                "Profiles": [shape.profile_text(profile) for profile in model["profiles"]],
            }
        )
    if status is not None and not demo:
        names = [str(name) for name in status["unknown_servers"].get("names", [])]
        cards["Daemon"] = {
            "Version": status["version"],
            "Started": iso_z(status["started_at"].replace(microsecond=0)),
            "Up for": shape.duration_text(status["uptime_seconds"] / 60),
            "Servers": status["servers"],
            "New to the model": status["unknown_servers"].get("count"),
            **({"Their names": names[:5] + (["…"] if len(names) > 5 else [])} if names else {}),
            **{f"History {key}": value for key, value in status["history"].items()},
        }
        cards["Forecasts"] = status["forecasts"]
        cards["Ingest"] = status["ingest"]
    if status is not None:
        cards["Risk settings"] = _risk_facts(Limits.from_settings(status["settings"]))
        cards["Risk settings"]["Stale after"] = f"{status['settings']['stale_after_minutes']:g} min"
    _draw("advanced", cards=cards)


def render_requests(answers: tuple[Answer, ...]) -> None:
    """The requests of this refresh, for debugging."""
    _draw("requests", answers=answers)


def _risk_facts(limits: Limits) -> dict[str, Any]:
    facts: dict[str, Any] = {"Green below": limits.yellow, "Red above": limits.red}
    for metric in METRICS:
        column = metric.column
        others = [
            f"{shape.profile_text(profile)} {shape.value_text(values[column], column)}"
            for profile, values in limits.by_profile.items()
            if column in values
        ]
        usual = shape.value_text(limits.critical.get(column), column)
        facts[f"{metric.label} limit"] = usual + (f" ({', '.join(others)})" if others else "")
    return facts


def _fact(value: Any) -> str:
    """Any JSON value in words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_fact(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_fact(item) for item in value) or "none"
    return str(value)
