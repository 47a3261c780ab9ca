"""What the fleet's forecasts and alerts say to a person: the headline, the next breaches, and what has changed.

Pure: no HTTP, no Streamlit, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final, Literal

from dashboard_answers import Alert, PastAlert
from dashboard_shape import Fleet, count_levels
from dashboard_words import (
    LEVEL_WORDS,
    METRIC_BY_COLUMN,
    NOW,
    Level,
    duration_text,
    metric_text,
    probability_text,
    servers_text,
    state_text,
    value_text,
)
from data_contract import HORIZON_STEPS, STEP_MINUTES

HORIZON_MINUTES: Final = HORIZON_STEPS * STEP_MINUTES
_ORDER: Final[dict[str, int]] = {"unknown": 0, "healthy": 0, "watch": 1, "critical": 2}


@dataclass(frozen=True)
class Headline:
    """The fleet in one sentence, who is critical now, and the next trouble.

    Attributes
    ----------
    now : tuple of (server name, words)
        The worst few of those that are critical now, with what they measure.
    now_count : int
        All of them.
    """

    level: Level
    text: str
    now: tuple[tuple[str, str], ...]
    now_count: int
    silent_count: int
    next: str = ""
    next_server: str | None = None


def headline(fleet: Fleet, alerts: list[Alert] | None, most: int = 3) -> Headline:
    """What a person must know in five seconds: is the fleet well, who is in trouble, when, and how sure."""
    servers = fleet.servers
    counts = count_levels(servers["level"])
    total = len(servers)
    troubled = servers[servers["critical_now"]].sort_values("risk", ascending=False)
    level: Level
    if counts["critical"]:
        when = "likely to exceed a limit within 8 hours"
        if len(troubled):
            when = "critical now" + (f" or {when}" if len(troubled) < counts["critical"] else "")
        level, text = "critical", f"{counts['critical']} of {servers_text(total)} {when}"
    elif counts["watch"]:
        level, text = "watch", f"{counts['watch']} of {servers_text(total)} to watch in the next 8 hours"
    elif counts["healthy"]:
        everyone = (
            servers_text(total) if counts["healthy"] == total else f"{counts['healthy']} of {servers_text(total)}"
        )
        level, text = "healthy", f"{everyone} expected to stay within their limits for 8 hours"
    else:
        level, text = "unknown", f"None of {servers_text(total)} reports enough to be forecast"
    first = next_alert(fleet, alerts or [])
    return Headline(
        level,
        text,
        tuple((str(row.server_name), now_text(fleet, row)) for row in troubled.head(most).itertuples()),
        len(troubled),
        int(servers["last_seen"].notna().sum()),
        "" if first is None else alert_sentence(fleet, first),
        None if first is None else first["server_name"],
    )


def now_text(fleet: Fleet, server: Any) -> str:
    """What makes a row of `Fleet.servers` critical now: the metric and its value, or the reported state."""
    metric = server.over_metric
    if not isinstance(metric, str):
        return f"state {state_text(server.state)}"
    readings = fleet.readings
    here = (
        (readings["server_name"] == server.server_name) & (readings["metric"] == metric) & (readings["moment"] == NOW)
    )
    return f"{metric_text(metric)} {value_text(float(readings.loc[here, 'p50'].iloc[0]), metric)}"


def next_alert(fleet: Fleet, alerts: list[Alert]) -> Alert | None:
    """The alert whose breach is expected first, among those that are not over the limit already."""
    over = over_limit_now(fleet)
    ahead = [alert for alert in alerts if _due(alert) and (alert["server_name"], alert["metric"]) not in over]
    return min(ahead, key=_due_order, default=None)


def over_limit_now(fleet: Fleet) -> set[tuple[str, str]]:
    """Servers and metrics whose last measured value is above the threshold."""
    measured = fleet.readings[(fleet.readings["moment"] == NOW) & (fleet.readings["probability"] == 1.0)]
    return set(zip(measured["server_name"], measured["metric"], strict=True))


@dataclass(frozen=True)
class AlertRow:
    """One alert as it is listed, and as it lies on the next 8 hours.

    Attributes
    ----------
    due : str
        When the breach is expected, in words.
    already : bool
        The metric is over its threshold now.
    start, end : float
        The earliest and the latest that the breach is expected, as the alert says, in percent of the 8 hours;
        `end` is 100 where it may not come at all.
    median : float or None
        The same of its median; None where that does not reach the threshold.
    """

    alert: Alert
    due: str
    already: bool
    start: float
    median: float | None
    end: float


def alerts_by_time(fleet: Fleet, alerts: Iterable[Alert]) -> list[AlertRow]:
    """The alerts in the order in which they hurt: what is over its limit already, then by the expected breach."""
    over, origin = over_limit_now(fleet), fleet.prediction_time

    def percent(moment: datetime | None) -> float | None:
        if moment is None or origin is None:
            return None
        share = (moment - origin).total_seconds() / 60 / HORIZON_MINUTES
        return round(min(max(share, 0.0), 1.0) * 100, 1)

    rows = []
    for alert in sorted(alerts, key=_due_order):
        already = (alert["server_name"], alert["metric"]) in over
        times = alert["breach_time"]
        start, median, end = (percent(times[when]) for when in ("earliest", "median", "latest"))
        first = next((place for place in (start, median, end) if place is not None), 0.0)
        words = "over the limit now" if already else due_text(fleet, alert)
        rows.append(AlertRow(alert, words, already, first, median, 100.0 if end is None else end))
    return sorted(rows, key=lambda row: not row.already)


def _due(alert: Alert) -> datetime | None:
    times = alert["breach_time"]
    return times["median"] or times["earliest"] or times["latest"]


def _due_order(alert: Alert) -> tuple[datetime, float]:
    due = _due(alert)
    return (due or datetime.max.replace(tzinfo=timezone.utc), -alert["probability"])


def alert_sentence(fleet: Fleet, alert: Alert) -> str:
    """One alert in words, without the server's name."""
    metric = METRIC_BY_COLUMN.get(alert["metric"])
    label = metric.label if metric else alert["metric"]
    limit = value_text(alert["threshold"], alert["metric"])
    return f"{label} above {limit} {due_text(fleet, alert)}, {probability_text(alert['probability'])} likely."


def due_text(fleet: Fleet, alert: Alert) -> str:
    """When the breach is expected, with the lead time and how early or late it may be."""
    times = alert["breach_time"]
    due = _due(alert)
    if due is None:
        return "within 8 h"
    lead = alert["lead_time_minutes"]
    spoken = f"at {fleet.clock(due)}"
    if lead is not None:
        spoken += f" (in {duration_text(lead)})" if lead >= 1 else " (now)"
    if times["earliest"] and times["earliest"] != due:
        spoken += f", at the earliest {fleet.clock(times['earliest'])}"
    return spoken


# ------------------------------------------------------------------------------------------------------------- changes
ChangeKind = Literal["worse", "better", "opened", "closed", "new", "gone"]


@dataclass(frozen=True)
class Change:
    """Something that was otherwise when the viewer last looked."""

    kind: ChangeKind
    server_name: str
    text: str
    at: datetime | None = None


def levels_of(fleet: Fleet) -> dict[str, str]:
    """Level of every server, to compare a later look with."""
    return dict(zip(fleet.servers["server_name"], fleet.servers["level"], strict=True))


def changes_since(
    fleet: Fleet, since: datetime, past_alerts: Iterable[PastAlert], before: Mapping[str, str] | None
) -> list[Change]:
    """What has changed since a moment, the worst first.

    Parameters
    ----------
    past_alerts : iterable
        Alerts that were open since then, open ones among them.
    before : mapping, optional
        Levels at that moment; without them the alerts alone tell.
    """
    found: list[Change] = []
    told: set[str] = set()
    for alert in past_alerts:
        name = alert["server_name"]
        limit = f"{metric_text(alert['metric'])} above {value_text(alert['threshold'], alert['metric'])}"
        if alert["opened_at"] > since and alert["closed_at"] is None:
            words = f"alert: {limit}, {probability_text(alert['highest_probability'])} likely"
            found.append(Change("opened", name, words, alert["opened_at"]))
            told.add(name)
        elif alert["closed_at"] is not None and alert["closed_at"] > since:
            came = {"true": ", it came", "late": ", it came late", "false": ", it did not come"}
            words = f"alert closed: {limit}{came.get(alert['outcome'] or '', '')}"
            found.append(Change("closed", name, words, alert["closed_at"]))
            told.add(name)
    now = levels_of(fleet)
    for name, level in now.items() if before is not None else ():
        was = before.get(name) if before is not None else None
        if was is None:
            found.append(Change("new", name, "reports for the first time"))
        elif was != level and name not in told:
            worse = _ORDER[level] > _ORDER[was] or level == "unknown"
            words = f"{LEVEL_WORDS[_level(was)].lower()} → {LEVEL_WORDS[_level(level)].lower()}"
            found.append(Change("worse" if worse else "better", name, words))
    for name in before or ():
        if name not in now:
            found.append(Change("gone", name, "is not there any more"))
    order: dict[ChangeKind, int] = {"opened": 0, "worse": 1, "gone": 2, "closed": 3, "better": 4, "new": 5}
    latest = fleet.prediction_time or datetime.max.replace(tzinfo=timezone.utc)
    return sorted(found, key=lambda change: (order[change.kind], latest - (change.at or latest), change.server_name))


def default_since(fleet: Fleet, view_since: datetime | None) -> datetime | None:
    """Since when changes are told: when the viewer last looked, or an hour before the newest forecast."""
    if view_since is not None:
        return view_since
    return None if fleet.prediction_time is None else fleet.prediction_time - timedelta(hours=1)


def _level(name: str) -> Level:
    return name if name in LEVEL_WORDS else "unknown"
