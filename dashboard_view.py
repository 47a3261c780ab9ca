"""Which view of the dashboard a web address means: panel, server and choices, read from the query and written to it.

The address is the only place where the view is kept, so that a link or a reload shows the same again. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final
from urllib.parse import urlencode

from dashboard_demo import SCENARIOS
from dashboard_shape import MOMENTS, NOW, RISK, WORST
from data_contract import HORIZONS, METRIC_COLUMNS

PANELS: Final[dict[str, str]] = {
    "overview": "Overview",
    "heatmap": "Heatmap",
    "top": "Top Servers",
    "historical": "Historical",
    "advanced": "Advanced",
}
HISTORY_HOURS: Final[tuple[int, ...]] = (6, 24, 72)
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
        return replace(view, server=query.get("server", ""))

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


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and MIN_REFRESH_SECONDS <= seconds <= MAX_REFRESH_SECONDS else None


_ALLOWED: Final[dict[str, dict[str, Any]]] = {
    "panel": {name: name for name in PANELS},
    "metric": {name: name for name in METRIC_COLUMNS},
    "hours": {str(hours): hours for hours in HISTORY_HOURS},
    "fill": {name: name for name in (RISK, *METRIC_COLUMNS)},
    "at": {name: name for name in (WORST, *MOMENTS)},
    "by": {name: name for name in (DRIVER, *METRIC_COLUMNS)},
    "count": {str(count): count for count in TOP_COUNTS},
    "demo": {name: name for name in SCENARIOS},
}
