"""What a set of forecasts says of the fleet as a whole, and of any part of it page by page.

Knows nothing of HTTP: bytes that are ready in, bytes that are ready out.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from config import Settings
from data_contract import HORIZONS, MAX_NAME_LENGTH, METRIC_COLUMNS, SERVED_QUANTILES
from forecast import Forecast
from tft_risk import ServerRisk, thresholds_of

Level = Literal["critical", "watch", "healthy", "unknown"]
LEVELS: Final[tuple[Level, ...]] = ("critical", "watch", "healthy", "unknown")
WORST_COUNT: Final = 10
RISK_BINS: Final = 10
# Characters: a risk, a line feed and the longest name, of four bytes a character, in base64
MAX_CURSOR: Final = (24 + 1 + 4 * MAX_NAME_LENGTH + 2) // 3 * 4


class CursorError(ValueError):
    """A cursor that no page has given."""


@dataclass(frozen=True)
class Page:
    """Some of the forecasts, the most likely to become critical first.

    Attributes
    ----------
    names : tuple of str
    matching : int
        Servers that match in all, on this page or another.
    cursor : str or None
        Asks for those that come after; None at the end.
    """

    names: tuple[str, ...]
    matching: int
    cursor: str | None


class RankedFleet:
    """Servers of one set of forecasts by risk, the highest first, then by name; those without a risk come last.

    Parameters
    ----------
    risks : sequence of ServerRisk
    """

    def __init__(self, risks: Sequence[ServerRisk]) -> None:
        self._ranked = sorted(
            ((-1.0 if risk.risk is None else risk.risk, risk.server_name, risk.profile) for risk in risks),
            key=lambda each: (-each[0], each[1]),
        )

    def page(
        self, *, profile: str | None = None, min_risk: float = 0.0, limit: int | None = None, cursor: str | None = None
    ) -> Page:
        """The servers of a profile from a risk on, at most `limit` of them, after those that a cursor has seen.

        A cursor is a place in the order, not a number; `daemon_pages` sees to it that it is asked of the same set.

        Raises
        ------
        CursorError
            If the cursor is none of ours.
        """
        matching = [
            (risk, name)
            for risk, name, own in self._ranked
            if (profile is None or own == profile) and (risk >= min_risk or (min_risk <= 0 and risk < 0))
        ]
        left = matching
        if cursor is not None:
            after = _place_of(cursor)
            left = [each for each in matching if (-each[0], each[1]) > (-after[0], after[1])]
        taken = left if limit is None else left[:limit]
        more = len(taken) < len(left)
        return Page(tuple(name for _, name in taken), len(matching), _cursor_of(*taken[-1]) if more and taken else None)


def _cursor_of(risk: float, name: str) -> str:
    return base64.urlsafe_b64encode(f"{risk!r}\n{name}".encode()).decode().rstrip("=")


def _place_of(cursor: str) -> tuple[float, str]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        risk, separator, name = text.partition("\n")
        place = float(risk)
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise CursorError from None
    if not separator or not -1 <= place <= 1:
        raise CursorError
    return place, name


def level_of(risk: float | None, settings: Settings) -> Level:
    """Colour of a risk: green below the first bound, red above the second, both bounds themselves yellow."""
    if risk is None:
        return "unknown"
    if risk > settings.risk_red:
        return "critical"
    return "watch" if risk >= settings.risk_yellow else "healthy"


def summary_of(
    forecast: Forecast | None,
    risks: Sequence[ServerRisk],
    offline: Sequence[Mapping[str, Any]],
    unknown: int,
    settings: Settings,
) -> dict[str, Any]:
    """The fleet in figures, as `GET /fleet/summary` tells it but for provenance and alerts."""
    counted = [(risk, level_of(risk.risk, settings)) for risk in risks]
    profiles: dict[str, dict[str, int]] = {}
    for risk, level in counted:
        profiles.setdefault(risk.profile, dict.fromkeys((*LEVELS, "offline"), 0))[level] += 1
    for server in offline:
        profiles.setdefault(str(server["profile"]), dict.fromkeys((*LEVELS, "offline"), 0))["offline"] += 1
    values = [risk.risk for risk in risks if risk.risk is not None]
    counts, edges = np.histogram(values, bins=RISK_BINS, range=(0.0, 1.0))
    ranked = sorted(
        (risk for risk in risks if risk.risk is not None), key=lambda each: (-(each.risk or 0.0), each.server_name)
    )
    return {
        "servers": {"forecast": len(risks), "offline": len(offline), "unknown_to_model": unknown},
        "levels": {level: sum(own == level for _, own in counted) for level in LEVELS},
        "horizons": {} if forecast is None else _by_horizon(forecast, settings),
        "profiles": dict(sorted(profiles.items())),
        "risk_histogram": [
            {"from": round(float(low), 2), "to": round(float(high), 2), "servers": int(count)}
            for low, high, count in zip(edges, edges[1:], counts, strict=False)
        ],
        "worst": [
            {
                "server_name": risk.server_name,
                "profile": risk.profile,
                "risk": risk.risk,
                "risk_metric": risk.risk_metric,
                "level": level_of(risk.risk, settings),
            }
            for risk in ranked[:WORST_COUNT]
        ],
    }


def _by_horizon(forecast: Forecast, settings: Settings) -> dict[str, dict[str, dict[str, int]]]:
    """Servers of which each metric's p10, p50 and p90 is above its critical threshold, at each horizon."""
    thresholds = thresholds_of(forecast, settings)
    with np.errstate(invalid="ignore"):
        above = {
            quantile: forecast.at(share)[:, [step - 1 for step in HORIZONS.values()]] > thresholds[:, None]
            for quantile, share in SERVED_QUANTILES.items()
        }
    return {
        horizon: {
            metric: {quantile: int(over[:, place, column].sum()) for quantile, over in above.items()}
            for column, metric in enumerate(METRIC_COLUMNS)
        }
        for place, horizon in enumerate(HORIZONS)
    }


def _self_check() -> None:
    risks = [ServerRisk(name, "generic", risk, "cpu_pct", {}) for name, risk in (("a", 0.1), ("b", 0.9), ("c", None))]
    fleet = RankedFleet(risks)
    first = fleet.page(limit=1)
    assert (first.names, first.matching) == (("b",), 3)
    assert fleet.page(limit=5, cursor=first.cursor).names == ("a", "c")
    assert fleet.page(min_risk=0.5).names == ("b",)
    try:
        fleet.page(cursor="nonsense")
    except CursorError:
        print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
