"""Which view of the dashboard a web address means: panel, server and choices, read from the query and written to it.

The address is the only place where the view is kept, so that a link or a reload shows the same again. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from typing import Any, Final
from urllib.parse import urlencode

from dashboard_demo import SCENARIOS
from dashboard_words import MOMENTS, NOW, RISK, WORST
from data_contract import HORIZONS, METRIC_COLUMNS

PANELS: Final[dict[str, str]] = {
    "overview": "Overview",
    "heatmap": "Heatmap",
    "top": "Top Servers",
    "historical": "Historical",
    "advanced": "Advanced",
}
SERVER_PANEL: Final = "server"  # a page of its own for each server, reached by its name
SERVER_HOURS: Final[tuple[int, ...]] = (6, 24, 72)
HISTORY_HOURS: Final[tuple[int, ...]] = (6, 24, 72, 168, 720)
NO_PAST: Final = "none"  # show no past forecasts
MOST_COMPARED: Final = 4
TOP_COUNTS: Final[tuple[int, ...]] = (10, 25, 50)
DRIVER: Final = "driver"  # show the metric that drives a server's risk
PAUSED: Final = "off"
MIN_REFRESH_SECONDS: Final = 1.0
MAX_REFRESH_SECONDS: Final = 3600.0


@dataclass(frozen=True)
class View:
    """What is looked at; every field is a parameter of the address's query, left out where it is the default."""

    panel: str = "overview"
    server: str = ""
    metric: str = ""  # empty: the one that drives the server's risk
    hours: int = 24
    fill: str = RISK
    at: str = WORST
    by: str = DRIVER
    count: int = TOP_COUNTS[0]
    past: str = NO_PAST  # how long before each measurement its forecast was made
    compare: str = ""  # further servers, a line each
    until: str = ""  # end of the history, ISO 8601; empty: now
    since: str = ""  # when changes were last looked at, ISO 8601
    zone: str = ""  # `utc`; empty: the viewer's own
    demo: str = ""
    refresh: str = ""  # seconds or `off`; empty: as the settings say

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> View:
        """View of an address; what cannot be understood is taken as not given."""
        view = cls()
        for name, allowed in _ALLOWED.items():
            given = query.get(name, "")
            if given in allowed:
                view = replace(view, **{name: allowed[given]})
        if view.at not in moments_for(view.fill):
            view = replace(view, at=moments_for(view.fill)[0])
        refresh = query.get("refresh", "")
        if refresh == PAUSED or _seconds(refresh) is not None:
            view = replace(view, refresh=refresh)
        until, since = (
            text if _moment(text) is not None else "" for text in map(query.get, ("until", "since"), ("", ""))
        )
        return replace(view, server=query.get("server", ""), compare=query.get("compare", ""), until=until, since=since)

    @property
    def title(self) -> str:
        """Name of the panel."""
        return PANELS.get(self.panel, "Server")

    @property
    def compared(self) -> tuple[str, ...]:
        """Servers to compare with, at most `MOST_COMPARED`."""
        return tuple(dict.fromkeys(name for name in self.compare.split("\n") if name))[:MOST_COMPARED]

    @property
    def until_time(self) -> datetime | None:
        """End of the history; None for now."""
        return _moment(self.until)

    @property
    def since_time(self) -> datetime | None:
        """When changes were last looked at."""
        return _moment(self.since)

    def as_query(self) -> dict[str, str]:
        """Parameters that differ from the default."""
        return {
            field.name: str(getattr(self, field.name))
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }

    def href(self, **changes: Any) -> str:
        """Relative address of this view with some choices changed."""
        return "?" + urlencode(replace(self, **changes).as_query())

    def refresh_seconds(self, default: float) -> float | None:
        """Seconds between refreshes; None when they are paused."""
        return None if self.refresh == PAUSED else (_seconds(self.refresh) or default)


def moments_for(fill: str) -> tuple[str, ...]:
    """Moments at which a heatmap can be filled, the default first: risk lies ahead, metrics are also measured now."""
    return (WORST, *HORIZONS) if fill == RISK else (NOW, *HORIZONS)


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment.astimezone(timezone.utc) if moment.tzinfo is not None else None


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and MIN_REFRESH_SECONDS <= seconds <= MAX_REFRESH_SECONDS else None


_ALLOWED: Final[dict[str, dict[str, Any]]] = {
    "panel": {name: name for name in (*PANELS, SERVER_PANEL)},
    "metric": {name: name for name in METRIC_COLUMNS},
    "hours": {str(hours): hours for hours in HISTORY_HOURS},
    "fill": {name: name for name in (RISK, *METRIC_COLUMNS)},
    "at": {name: name for name in (WORST, *MOMENTS)},
    "by": {name: name for name in (DRIVER, *METRIC_COLUMNS)},
    "count": {str(count): count for count in TOP_COUNTS},
    "past": {name: name for name in (NO_PAST, *HORIZONS)},
    "zone": {"utc": "utc"},
    "demo": {name: name for name in SCENARIOS},
}
