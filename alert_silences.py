"""Which alerts somebody has silenced: a server, a profile or a metric, or all of them together, for a while.

A silence names at least one of the three; an alert is silenced while all that it names are the alert's. Pure: knows
nothing of files or HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

from common_utils import iso_z

State = Literal["pending", "active", "expired"]

LONGEST_DAYS = 366
MATCHED = ("server_name", "profile", "metric")


@dataclass(frozen=True)
class Silence:
    """A silence.

    Attributes
    ----------
    id : str
    server_name, profile, metric : str or None
        What it is about; None is any.
    author, comment : str
        Who wants it, and why.
    starts_at, ends_at, created_at : datetime
        Aware; it holds from the first on, up to the second.
    """

    id: str
    server_name: str | None
    profile: str | None
    metric: str | None
    author: str
    comment: str
    starts_at: datetime
    ends_at: datetime
    created_at: datetime

    def state(self, now: datetime) -> State:
        """Whether it holds."""
        if now < self.starts_at:
            return "pending"
        return "active" if now < self.ends_at else "expired"

    def matches(self, alert: Mapping[str, Any]) -> bool:
        """Whether it is about an alert, whenever that is."""
        return all(getattr(self, name) in {None, alert[name]} for name in MATCHED)

    def as_dict(self, now: datetime) -> dict[str, Any]:
        """JSON form."""
        return {
            "id": self.id,
            **{name: getattr(self, name) for name in MATCHED},
            "author": self.author,
            "comment": self.comment,
            "starts_at": iso_z(self.starts_at),
            "ends_at": iso_z(self.ends_at),
            "created_at": iso_z(self.created_at),
            "state": self.state(now),
        }


def silencing(silences: Iterable[Silence], alert: Mapping[str, Any], now: datetime) -> list[str]:
    """Ids of the silences that hold for an alert now."""
    return [each.id for each in silences if each.state(now) == "active" and each.matches(alert)]


def next_change(silences: Iterable[Silence], now: datetime) -> datetime | None:
    """When the next silence begins or ends; None if none will."""
    return min((moment for each in silences for moment in (each.starts_at, each.ends_at) if moment > now), default=None)


def _self_check() -> None:
    begin = datetime(2026, 1, 5, tzinfo=timezone.utc)
    silence = Silence(
        "a", "ppdb001", None, None, "me", "disk is being replaced", begin, begin + timedelta(hours=1), begin
    )
    alert = {"server_name": "ppdb001", "profile": "database", "metric": "cpu_pct"}
    assert silencing([silence], alert, begin) == ["a"] and next_change([silence], begin) == silence.ends_at
    assert silencing([silence], alert, silence.ends_at) == [] and next_change([silence], silence.ends_at) is None
    assert silencing([silence], {**alert, "server_name": "ppdb002"}, begin) == []
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
