"""How the page's head and the panels of the whole fleet are drawn: one `render_…` function per panel and per state.

The markup lies in `dashboard_assets/`; its environment escapes all that comes from outside, so that a server's name or
a message is shown as it is written. Knows nothing of HTTP.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from functools import cache
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import jinja2
import markupsafe
import streamlit as st

import dashboard_news as news
import dashboard_shape as shape
import dashboard_words as words
from common_utils import iso_z
from dashboard_answers import Condition, Problem, Snapshot
from dashboard_demo import SCENARIO_NOTES
from dashboard_history import main_reasons, moment_times
from dashboard_shape import Fleet
from dashboard_spark import spark
from dashboard_view import DRIVER, View
from dashboard_words import MOMENT_WORDS, MOMENTS, NOW, RISK, UTC, Level
from data_contract import SERVED_QUANTILES
from html_templates import template_environment

_ASSETS: Final = Path(__file__).resolve().parent / "dashboard_assets"
_DENSE_FROM: Final = 400  # servers in the heatmap from which cells carry no text
_SHOWN_ALERTS: Final = 10
_SHOWN_CHANGES: Final = 8
_SHOWN_REASONS: Final = 2
_SHADE_WORDS: Final = ("under 20 %", "20–40 %", "40–60 %", "60–80 %", "80–90 %", "90–100 %")
_CHANGE_SHAPES: Final[dict[str, tuple[Level, str]]] = {
    "opened": ("critical", "■"),
    "worse": ("watch", "▲"),
    "gone": ("unknown", "○"),
    "closed": ("healthy", "●"),
    "better": ("healthy", "▼"),
    "new": ("unknown", "+"),
}


@dataclass(frozen=True)
class Look:
    """How one viewer sees the page: in whose time, and on a dark ground or not."""

    zone: tzinfo = UTC
    dark: bool = False

    @classmethod
    def of(cls, zone_name: str | None, *, dark: bool) -> Look:
        """Look of a viewer whose browser names its zone; UTC where it names none that is known."""
        try:
            zone: tzinfo = ZoneInfo(zone_name) if zone_name else UTC
        except (ZoneInfoNotFoundError, ValueError, OSError):
            zone = UTC
        return cls(UTC if zone_name in {"UTC", "Etc/UTC"} else zone, dark)

    def zone_words(self, at: datetime) -> str:
        """The zone's name and its distance from UTC."""
        if self.zone is UTC:
            return "UTC"
        offset = at.astimezone(self.zone).strftime("%z")
        return f"{self.zone} (UTC{offset[:3]}:{offset[3:]})"


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
        age=words.age_text,
        clock=_clock,
        fact=fact,
        iso=iso_z,
        metric=words.metric_text,
        probability=words.probability_text,
        profile=words.profile_text,
        prose=_prose,
        risk=words.risk_text,
        servers=words.servers_text,
        state=words.state_text,
        thousands=lambda number: f"{number:,}",
        value=words.value_text,
    )
    environment.globals.update(
        CHANGE_SHAPES=_CHANGE_SHAPES,
        LEVELS=words.LEVELS,
        LEVEL_SHAPES=words.LEVEL_SHAPES,
        LEVEL_WORDS=words.LEVEL_WORDS,
        MOMENTS=MOMENTS,
        MOMENT_WORDS=MOMENT_WORDS,
        NOT_REPORTED=words.NOT_REPORTED,
    )
    return environment


@jinja2.pass_context
def _clock(context: jinja2.runtime.Context, moment: datetime | None, reference: datetime | None) -> markupsafe.Markup:
    """A time in the viewer's zone, with its UTC value for whoever points at it."""
    if moment is None:
        return markupsafe.Markup("")
    shown = words.clock(moment, reference, context["zone"])
    return markupsafe.Markup('<time datetime="{}" title="{}">{}</time>').format(
        iso_z(moment), words.clock(moment, None), shown
    )


def _prose(words: str) -> markupsafe.Markup:
    """Escaped text in which what stands between backticks is set as code."""
    return markupsafe.Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(markupsafe.escape(words))))  # noqa: S704


def draw(template: str, look: Look = Look(), **content: Any) -> None:
    """Fill a template in and put it on the page."""
    markup = _environment().get_template(f"{template}.html").render(zone=look.zone, **content)
    st.html(f'<div class="tf">{markup}</div>')


# ---------------------------------------------------------------------------------------------------- head and states
def render_style() -> None:
    """The page's style sheet."""
    st.html(f"<style>{(_ASSETS / 'style.css').read_text(encoding='utf-8')}</style>")


def render_header(snapshot: Snapshot, refresh_seconds: float | None, look: Look) -> None:
    """The strip that every panel has: connection, model version, last forecast, age of the data, refresh rate."""
    demo = snapshot.scenario is not None
    level, badge = badge_of(snapshot)
    told = snapshot.current or snapshot.status
    model = snapshot.model
    draw(
        "header",
        look,
        badge_level=level,
        badge_words=badge,
        demo=demo,
        model_version=model["model_version"] if model is not None else None,
        made=told["prediction_time"] if told is not None else None,
        age=told["data_age_seconds"] if told is not None else None,
        stale=snapshot.condition == "stale",
        refresh=refresh_text(refresh_seconds),
        asked=snapshot.fetched_at,
        updated=snapshot.fetched_at.astimezone(look.zone).strftime("%H:%M:%S") + ("Z" if look.zone is UTC else ""),
        zone_words=look.zone_words(snapshot.fetched_at),
    )


def badge_of(snapshot: Snapshot) -> tuple[Level, str]:
    """Level and words of the connection."""
    return _BADGES["unreachable" if snapshot.scenario is not None else snapshot.condition]


def refresh_text(seconds: float | None) -> str:
    """How often the page refreshes."""
    if seconds is None:
        return "paused"
    return f"every {seconds:g} s" if seconds < 120 else f"every {words.duration_text(seconds / 60)}"


def render_banner(snapshot: Snapshot, panel_title: str, live_problem: Problem | None) -> None:
    """What must be known before anything below is believed: demo data, or data that is out of date."""
    if snapshot.scenario is not None or snapshot.condition == "stale":
        draw(
            "banner",
            scenario=snapshot.scenario,
            note=SCENARIO_NOTES.get(snapshot.scenario or "", ""),
            panel=panel_title,
            reason=live_problem.what if live_problem is not None else "",
            age=snapshot.current["data_age_seconds"] if snapshot.current is not None else None,
        )


def render_problem(problem: Problem) -> None:
    """A page that says why nothing can be shown, and what to do about it."""
    draw("problem", problem=problem, severity=_BADGES[problem.condition][0])


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
def render_overview(snapshot: Snapshot, fleet: Fleet, view: View, look: Look) -> None:
    """Is the fleet well, who is next, when, and how sure: now and at the three horizons, by risk and by profile."""
    alerts = snapshot.alerts
    draw(
        "overview",
        look,
        view=view,
        limits=fleet.limits,
        news=news.headline(fleet, alerts),
        now=fleet.prediction_time,
        times=moment_times(fleet.prediction_time),
        health=shape.health_by_moment(fleet),
        silent=shape.silent_servers(fleet),
        bins=shape.risk_distribution(fleet),
        without_risk=int(fleet.servers["risk"].isna().sum()),
        profiles=shape.health_by_profile(fleet),
        alerts=None if alerts is None else news.alerts_by_time(fleet, alerts),
        shown_alerts=_SHOWN_ALERTS,
        alerts_problem=snapshot.part_problems.get("alerts"),
    )


def render_changes(fleet: Fleet, view: View, look: Look, changes: Sequence[news.Change], since: datetime) -> None:
    """What is otherwise than when the viewer last looked."""
    draw(
        "changes",
        look,
        view=view,
        changes=changes,
        shown_changes=_SHOWN_CHANGES,
        since=since,
        looked=view.since_time is not None,
        now=fleet.prediction_time,
    )


# ------------------------------------------------------------------------------------------------------------- heatmap
def render_heatmap(fleet: Fleet, view: View) -> None:
    """Every server a cell, grouped by profile; red cells catch the eye, the rest stays quiet."""
    is_risk = view.fill == RISK
    cells = shape.heat_cells(fleet, view.fill, view.at)
    cells["classes"] = [
        _cell_class(level, share, is_risk=is_risk) for level, share in zip(cells["level"], cells["share"], strict=True)
    ]
    filled = "Risk" if is_risk else words.metric_text(view.fill)
    draw(
        "heatmap",
        view=view,
        title=f"{filled}, {MOMENT_WORDS[view.at].lower()}",
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
def render_top(snapshot: Snapshot, fleet: Fleet, view: View, look: Look) -> None:
    """The worst servers first: which metric, how it goes on at the three horizons, how sure that is, and why."""
    table = shape.top_servers(fleet, view.count, None if view.by == DRIVER else view.by)
    alerts = news.alerts_by_time(fleet, snapshot.alerts or [])
    due = {(row.alert["server_name"], row.alert["metric"]): row.due for row in alerts}
    rows = [
        {
            **row,
            "limit": "" if math.isnan(row["threshold"]) else words.value_text(row["threshold"], str(row["metric"])),
            "due": due.get((str(row["server_name"]), str(row["metric"])), ""),
            "cells": [_range_cell(row, moment) for moment in MOMENTS],
            "spark": _spark_of(snapshot, str(row["server_name"]), row["metric"], float(row["threshold"]), look),
            "reasons": _reasons_of(snapshot, str(row["server_name"])),
        }
        for row in table.to_dict("records")
    ]
    draw(
        "top",
        look,
        view=view,
        by="each server's riskiest metric" if view.by == DRIVER else words.metric_text(view.by),
        rows=rows,
        total=len(fleet.servers),
        now=fleet.prediction_time,
        times=moment_times(fleet.prediction_time),
    )


def _spark_of(snapshot: Snapshot, name: str, metric: object, threshold: float, look: Look) -> str:
    series = snapshot.series.get(name)
    if series is None or series["metric"] != metric or series["forecast"] is None:
        return ""
    path = series["forecast"]
    limit = None if math.isnan(threshold) else threshold
    return spark(series["measured"], path["p10"], path["p50"], path["p90"], limit, dark=look.dark)


def _reasons_of(snapshot: Snapshot, name: str) -> str:
    reason = snapshot.reasons.get(name)
    if reason is None:
        return ""
    return ", ".join(f"{title} {share:.0%}".replace("%", " %") for title, share in main_reasons(reason, _SHOWN_REASONS))


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
        "text": words.value_text(middle, metric),
        "over": middle > threshold,
        "range": "measured" if moment == NOW else words.range_text(low, high, metric),
        "bar": {
            "left": percent(low),
            "width": 0 if moment == NOW else percent(high - low),
            "median": percent(middle),
            "limit": None if math.isnan(threshold) else percent(threshold),
        },
    }


def fact(value: Any) -> str:
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
        return ", ".join(f"{key}: {fact(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(fact(item) for item in value) or "none"
    return str(value)
