"""How the dashboard puts levels, values and times in words: one wording for all panels. Pure."""

from __future__ import annotations

import math
from datetime import datetime, timezone, tzinfo
from typing import Final, Literal

from data_contract import HORIZONS, METRICS, Metric

UTC: Final = timezone.utc

Level = Literal["healthy", "watch", "critical", "unknown"]
LEVELS: Final[tuple[Level, ...]] = ("critical", "watch", "healthy", "unknown")  # worst first
LEVEL_WORDS: Final[dict[Level, str]] = {
    "critical": "Critical",
    "watch": "Watch",
    "healthy": "Healthy",
    "unknown": "No data",
}
LEVEL_SHAPES: Final[dict[Level, str]] = {"critical": "■", "watch": "▲", "healthy": "●", "unknown": "○"}

NOW: Final = "now"
WORST: Final = "worst"
MOMENTS: Final[tuple[str, ...]] = (NOW, *HORIZONS)
MOMENT_WORDS: Final[dict[str, str]] = {
    NOW: "Now",
    "30min": "In 30 min",
    "1hr": "In 1 h",
    "8hr": "In 8 h",
    WORST: "Worst within 8 h",
}
METRIC_BY_COLUMN: Final[dict[str, Metric]] = {metric.column: metric for metric in METRICS}
RISK: Final = "risk"
NOT_REPORTED: Final = "not reported"
OFF_STATES: Final = frozenset({"offline", "maintenance"})

PROFILE_WORDS: Final[dict[str, str]] = {
    "ml_compute": "ML compute",
    "database": "Database",
    "web_api": "Web API",
    "conductor_mgmt": "Conductor",
    "data_ingest": "Data ingest",
    "risk_analytics": "Risk analytics",
    "generic": "Generic",
}


def servers_text(count: int) -> str:
    """`1 server`, `90 servers`."""
    return f"{count:,} server" if count == 1 else f"{count:,} servers"


def number_text(value: float) -> str:
    """A number as people read it: whole from 10 on, one digit after the point below."""
    return f"{value:,.0f}" if abs(value) >= 9.95 else f"{value:.1f}"


def value_text(value: float | None, metric: str) -> str:
    """A reading with its unit; `not reported` where there is none, never 0."""
    if value is None or math.isnan(value):
        return NOT_REPORTED
    unit = METRIC_BY_COLUMN[metric].unit if metric in METRIC_BY_COLUMN else ""
    return f"{number_text(value)} {unit}".rstrip()


def range_text(low: float | None, high: float | None, metric: str) -> str:
    """The p10–p90 range with its unit."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f"{number_text(low)}–{value_text(high, metric)}"


def risk_text(risk: float | None) -> str:
    """A risk with two digits."""
    return "–" if risk is None or math.isnan(risk) else f"{risk:.2f}"


def probability_text(probability: float) -> str:
    """A probability in whole percent; never a certainty that a model cannot have."""
    return f"{min(99, max(1, round(probability * 100)))} %"


def profile_text(profile: str) -> str:
    """A profile's name for people."""
    return PROFILE_WORDS.get(profile, profile)


def state_text(state: str | None) -> str:
    """A state's name for people."""
    return state.replace("_", " ") if state else NOT_REPORTED


def metric_text(metric: str | None) -> str:
    """A metric's name for people."""
    return METRIC_BY_COLUMN[metric].label if metric in METRIC_BY_COLUMN else (metric or "–")


def duration_text(minutes: float) -> str:
    """`35 min`, `2 h 10 min`, `3 days`."""
    whole = round(minutes)
    if whole < 1:
        return "under 1 min"
    if whole < 60:
        return f"{whole} min"
    if whole < 48 * 60:
        hours, rest = divmod(whole, 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{whole // (24 * 60):,} days"


def clock(moment: datetime | None, reference: datetime | None, zone: tzinfo = UTC) -> str:
    """Time of day in a zone, `15:20`, or `14:20Z` in UTC; with its date where that is not the reference's."""
    if moment is None:
        return ""
    here = moment.astimezone(zone)
    mark = "Z" if zone is UTC else ""
    if reference is not None and reference.astimezone(zone).date() == here.date():
        return f"{here:%H:%M}{mark}"
    return f"{here:%Y-%m-%d %H:%M}{mark}"


def age_text(seconds: float | None) -> str:
    """How old the newest data is."""
    return "unknown" if seconds is None else duration_text(seconds / 60)
