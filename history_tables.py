"""How rows lie in the history's SQLite file: its tables, in which unit times are kept, and what is known of the whole.

Knows nothing of files: `history_store.py` reads and writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_contract import METRIC_COLUMNS, STEP_MINUTES
from sqlite_file import Schema

STORE_FILE: Final = "history.sqlite3"
STEP_US: Final = STEP_MINUTES * 60 * 1_000_000
DAY_US: Final = 24 * 3600 * 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)

METRIC_LIST: Final = ", ".join(METRIC_COLUMNS)
SCHEMA: Final = Schema(
    application_id=0x54465448,  # "TFTH"
    version=1,
    content="history",
    tables=(
        "CREATE TABLE servers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, profile TEXT NOT NULL)",
        "CREATE TABLE states (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
        # step: index of the 5-minute step since 1970, UTC; time: microseconds since 1970, UTC
        f"""CREATE TABLE samples (step INTEGER NOT NULL, server INTEGER NOT NULL, time INTEGER NOT NULL,
        {", ".join(f"{column} REAL" for column in METRIC_COLUMNS)}, state INTEGER NOT NULL,
        PRIMARY KEY (step, server, time)) WITHOUT ROWID""",
    ),
)
INSERT: Final = (
    f"INSERT INTO samples VALUES (?, ?, ?, {', '.join('?' * len(METRIC_COLUMNS))}, ?) ON CONFLICT DO NOTHING"  # noqa: S608
)


def microseconds_of(timestamps: pd.Series) -> npt.NDArray[np.int64]:
    """Microseconds since 1970, UTC, of each timestamp; naive ones are UTC."""
    if timestamps.dt.tz is not None:
        timestamps = timestamps.dt.tz_convert("UTC").dt.tz_localize(None)
    return np.asarray(timestamps.to_numpy().astype("datetime64[us]").astype(np.int64))


def moment_of(us: int | None) -> datetime | None:
    """Aware UTC time of microseconds since 1970."""
    return None if us is None else _EPOCH + us * _MICROSECOND


@dataclass
class Catalogue:
    """What the file holds, known without reading it. Only committed content, so that a failure leaves no trace here."""

    servers: dict[str, int] = field(default_factory=dict)
    profiles: dict[str, str] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    last_seen: dict[str, int] = field(default_factory=dict)  # microseconds
    rows: int = 0
    oldest: int | None = None  # microseconds
    newest: int | None = None

    def merge(self, added: Catalogue) -> None:
        """Take in what a transaction has added."""
        self.servers.update(added.servers)
        self.profiles.update(added.profiles)
        self.states.update(added.states)
        self.note_seen(added.last_seen)
        self.rows += added.rows
        for moment in (added.oldest, added.newest):
            self.note_time(moment)

    def note_seen(self, last_seen: dict[str, int]) -> None:
        """Remember the newest row of servers."""
        for name, moment in last_seen.items():
            self.last_seen[name] = max(moment, self.last_seen.get(name, moment))

    def note_time(self, moment: int | None) -> None:
        """Stretch oldest and newest to a moment."""
        if moment is not None:
            self.oldest = moment if self.oldest is None else min(self.oldest, moment)
            self.newest = moment if self.newest is None else max(self.newest, moment)


def _self_check() -> None:
    moment = datetime(2026, 1, 5, 0, 0, 0, 1, tzinfo=timezone.utc)
    (us,) = microseconds_of(pd.Series(pd.DatetimeIndex([moment]).as_unit("us"))).tolist()
    assert moment_of(us) == moment and us % DAY_US == 1
    known = Catalogue()
    known.merge(Catalogue(last_seen={"ppweb001": 7}, rows=1, oldest=7, newest=7))
    assert (known.rows, known.last_seen, known.oldest) == (1, {"ppweb001": 7}, 7)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
