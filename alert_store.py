"""What is remembered of alerts: which were and are open, who has seen them, what is silenced and still to be told.

One SQLite file, so that what belongs together is changed together: an alert that opens and the event that tells of it
are both on disk, or neither. Knows nothing of forecasts, of who is told, or HTTP.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal

from alert_silences import Silence
from sqlite_file import Schema, SqliteFile

STORE_FILE = "alerts.sqlite3"

MAX_CLOSED = 200_000  # alerts remembered at most, however long they are to be kept
MAX_EVENTS = 10_000  # events that wait; the oldest give way

Key = tuple[str, str]  # server and metric
Steps = tuple[int, int, int]  # opened, high since, low since, as in `alert_hysteresis.AlertStates`
Because = Literal["risk-fell", "no-forecast"]
# As in `alert_scores.py`; None while it is not known
Outcome = Literal["true", "false", "late", "undecided"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)

_SCHEMA = Schema(
    application_id=0x54465441,  # "TFTA"
    version=1,
    content="alerts",
    tables=(  # times are microseconds since 1970, UTC
        """CREATE TABLE states (server TEXT NOT NULL, metric TEXT NOT NULL, opened INTEGER NOT NULL,
        high_since INTEGER NOT NULL, low_since INTEGER NOT NULL, PRIMARY KEY (server, metric)) WITHOUT ROWID""",
        """CREATE TABLE alerts (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, server TEXT NOT NULL,
        profile TEXT NOT NULL, metric TEXT NOT NULL, threshold REAL NOT NULL, opened INTEGER NOT NULL,
        noted INTEGER NOT NULL, highest REAL NOT NULL, latest TEXT NOT NULL, closed INTEGER, ended INTEGER,
        because TEXT, ack_author TEXT, ack_comment TEXT, ack_at INTEGER, outcome TEXT, breached INTEGER,
        notified INTEGER NOT NULL DEFAULT 0)""",
        "CREATE INDEX alerts_open ON alerts (ended)",
        "CREATE INDEX alerts_undecided ON alerts (seq) WHERE outcome IS NULL",
        "CREATE INDEX alerts_of_server ON alerts (server, seq)",
        """CREATE TABLE silences (id TEXT PRIMARY KEY, server TEXT, profile TEXT, metric TEXT, author TEXT NOT NULL,
        comment TEXT NOT NULL, starts INTEGER NOT NULL, ends INTEGER NOT NULL, created INTEGER NOT NULL)""",
        """CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, body TEXT NOT NULL,
        tries INTEGER NOT NULL DEFAULT 0)""",
    ),
)
_COLUMNS = (
    "seq, id, server, profile, metric, threshold, opened, noted, highest, latest, closed, ended, because, "
    "ack_author, ack_comment, ack_at, outcome, breached, notified"
)


@dataclass(frozen=True)
class Acknowledgement:
    """Who has seen an alert and takes care of it."""

    author: str
    comment: str
    at: datetime


@dataclass(frozen=True)
class StoredAlert:
    """An alert that is or was open.

    Attributes
    ----------
    number : int
        Counts up in the order of opening.
    id : str
        The same for its whole life.
    opened_at, closed_at : datetime
        Origins of the forecasts that opened and closed it; None while it is open.
    noted_at, ended_at : datetime
        When, by the clock, that was.
    highest_probability : float
    latest : dict
        The alert as it was last served while it was open.
    because : str or None
        Why it closed.
    outcome : str or None
        Whether what it said came true; None while that is open.
    breached_at : datetime or None
        First step of the breach.
    notified : bool
        Whether an event was made that tells of it.
    """

    number: int
    id: str
    server_name: str
    profile: str
    metric: str
    threshold: float
    opened_at: datetime
    noted_at: datetime
    highest_probability: float
    latest: dict[str, Any]
    closed_at: datetime | None = None
    ended_at: datetime | None = None
    because: Because | None = None
    acknowledgement: Acknowledgement | None = None
    outcome: Outcome | None = None
    breached_at: datetime | None = None
    notified: bool = False

    @property
    def key(self) -> Key:
        """Server and metric: of these there is one open alert at most."""
        return self.server_name, self.metric


@dataclass(frozen=True)
class WaitingEvent:
    """An event that was not delivered yet; `body` is its JSON object."""

    number: int
    id: str
    body: str
    tries: int


class Change:
    """What is changed in one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._run = connection.execute

    def state(self, key: Key, steps: Steps | None) -> None:
        """Remember the hysteresis of a server's metric; None forgets it."""
        if steps is None:
            self._run("DELETE FROM states WHERE server = ? AND metric = ?", key)
        else:
            self._run("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?, ?)", (*key, *steps))

    def open(self, alert: StoredAlert) -> None:
        """Add an alert; one that was closed by a forecast of the step that opened it takes up its life again."""
        self._run(
            "INSERT INTO alerts (id, server, profile, metric, threshold, opened, noted, highest, latest) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET closed = NULL, ended = NULL, "
            "because = NULL, outcome = NULL, breached = NULL, notified = 0, latest = excluded.latest",
            (
                alert.id,
                alert.server_name,
                alert.profile,
                alert.metric,
                alert.threshold,
                _microseconds(alert.opened_at),
                _microseconds(alert.noted_at),
                alert.highest_probability,
                _text(alert.latest),
            ),
        )

    def renew(self, id_: str, highest: float, latest: dict[str, Any]) -> None:
        """Take in what the newest forecast says of an open alert."""
        self._run("UPDATE alerts SET highest = ?, latest = ? WHERE id = ?", (highest, _text(latest), id_))

    def close(self, id_: str, closed_at: datetime, ended_at: datetime, because: Because) -> None:
        """Close an alert."""
        self._run(
            "UPDATE alerts SET closed = ?, ended = ?, because = ? WHERE id = ?",
            (_microseconds(closed_at), _microseconds(ended_at), because, id_),
        )

    def notified(self, id_: str) -> None:
        """Remember that an event tells of an alert."""
        self._run("UPDATE alerts SET notified = 1 WHERE id = ?", (id_,))

    def acknowledge(self, id_: str, seen: Acknowledgement | None) -> None:
        """Remember who has seen an alert; None: nobody any more."""
        told = (None, None, None) if seen is None else (seen.author, seen.comment, _microseconds(seen.at))
        self._run("UPDATE alerts SET ack_author = ?, ack_comment = ?, ack_at = ? WHERE id = ?", (*told, id_))

    def decide(self, id_: str, outcome: Outcome, breached_at: datetime | None) -> None:
        """Remember whether what an alert said came true."""
        breached = None if breached_at is None else _microseconds(breached_at)
        self._run("UPDATE alerts SET outcome = ?, breached = ? WHERE id = ?", (outcome, breached, id_))

    def event(self, id_: str, content: dict[str, Any]) -> None:
        """Queue an event."""
        self._run("INSERT INTO events (id, body) VALUES (?, ?)", (id_, _text(content)))

    def silence(self, silence: Silence) -> None:
        """Add a silence."""
        self._run(
            "INSERT INTO silences VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                silence.id,
                silence.server_name,
                silence.profile,
                silence.metric,
                silence.author,
                silence.comment,
                _microseconds(silence.starts_at),
                _microseconds(silence.ends_at),
                _microseconds(silence.created_at),
            ),
        )

    def unsilence(self, ids: Iterable[str]) -> None:
        """Remove silences."""
        for id_ in ids:
            self._run("DELETE FROM silences WHERE id = ?", (id_,))


class AlertStore:
    """Alerts, silences and waiting events on disk, used by several threads of one process.

    Parameters
    ----------
    folder : Path
        Where `alerts.sqlite3` lies.

    Attributes
    ----------
    set_aside : Path or None
        Where a damaged file was moved.

    Raises
    ------
    DaemonError, DataFileError
        If the file cannot be used. All methods raise DataFileError if the disk is full or fails.
    """

    def __init__(self, folder: Path) -> None:
        self._file = SqliteFile(folder / STORE_FILE, _SCHEMA)
        self.set_aside = self._file.set_aside

    def close(self) -> None:
        """Release the file. May be called again."""
        self._file.close()

    @contextlib.contextmanager
    def change(self) -> Iterator[Change]:
        """Change several things, all or nothing; they are on disk when the block has ended."""
        with self._file.transaction() as connection:
            yield Change(connection)

    # ------------------------------------------------------------------------------------------------------------ read
    def states(self) -> dict[Key, Steps]:
        """Hysteresis of all servers and metrics where it is not at rest."""
        with self._file.reading() as connection:
            rows = connection.execute("SELECT * FROM states").fetchall()
        return {(server, metric): (opened, high, low) for server, metric, opened, high, low in rows}

    def open_alerts(self) -> list[StoredAlert]:
        """Alerts that are open."""
        return self._alerts("ended IS NULL")

    def ended_since(self, moment: datetime) -> list[StoredAlert]:
        """Alerts that were closed after a moment by the clock."""
        return self._alerts("ended > ?", _microseconds(moment))

    def find(self, id_: str) -> StoredAlert | None:
        """An alert by its id."""
        return next(iter(self._alerts("id = ?", id_)), None)

    def history(
        self, since: datetime, server: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[StoredAlert]:
        """Alerts that were open at or after a moment of the data, the last opened first.

        Parameters
        ----------
        server : str, optional
            Of this server alone.
        before : int, optional
            Those with a smaller `number` alone.
        """
        where, values = ["(closed IS NULL OR closed >= ?)"], [_microseconds(since)]
        if before is not None:
            where.append("seq < ?")
            values.append(before)
        names: list[str] = []
        if server is not None:
            where.append("server = ?")
            names.append(server)
        return self._alerts(" AND ".join(where) + " ORDER BY seq DESC LIMIT ?", *values, *names, limit)

    def undecided(self, after: int, limit: int) -> list[StoredAlert]:
        """Alerts of which nobody knows yet whether they came true, with a `number` above the given one."""
        return self._alerts("outcome IS NULL AND seq > ? ORDER BY seq LIMIT ?", after, limit)

    def silences(self) -> list[Silence]:
        """All silences, those that begin first at the front."""
        with self._file.reading() as connection:
            rows = connection.execute("SELECT * FROM silences ORDER BY starts, id").fetchall()
        return [Silence(*row[:6], *(_moment(value) for value in row[6:])) for row in rows]

    def waiting(self, limit: int) -> list[WaitingEvent]:
        """Events that were not delivered yet, the oldest first."""
        with self._file.reading() as connection:
            rows = connection.execute("SELECT seq, id, body, tries FROM events ORDER BY seq LIMIT ?", (limit,))
            return [WaitingEvent(*row) for row in rows]

    def count_waiting(self) -> int:
        """Number of events that were not delivered yet."""
        with self._file.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])

    # ----------------------------------------------------------------------------------------------------------- write
    def settle(self, numbers: Sequence[int]) -> None:
        """Forget events that were delivered or given up."""
        with self._file.transaction() as connection:
            connection.executemany("DELETE FROM events WHERE seq = ?", [(number,) for number in numbers])

    def count_try(self, numbers: Sequence[int]) -> None:
        """Count a try that failed."""
        with self._file.transaction() as connection:
            connection.executemany("UPDATE events SET tries = tries + 1 WHERE seq = ?", [(n,) for n in numbers])

    def prune(self, before: datetime) -> None:
        """Forget alerts and silences that ended before a moment by the clock, and the oldest of too many."""
        moment = _microseconds(before)
        with self._file.transaction() as connection:
            connection.execute("DELETE FROM alerts WHERE ended < ?", (moment,))
            connection.execute(
                "DELETE FROM alerts WHERE ended IS NOT NULL AND seq <= (SELECT max(seq) FROM alerts) - ?", (MAX_CLOSED,)
            )
            connection.execute("DELETE FROM silences WHERE ends < ?", (moment,))

    def _alerts(self, where: str, *values: object) -> list[StoredAlert]:
        with self._file.reading() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM alerts WHERE {where}", values).fetchall()  # noqa: S608
        return [_alert_of(row) for row in rows]


def new_id() -> str:
    """Random id of an event or silence."""
    return secrets.token_hex(8)


def _alert_of(row: tuple[Any, ...]) -> StoredAlert:
    number, id_, server, profile, metric, threshold, opened, noted, highest, latest, closed, ended, because = row[:13]
    author, comment, at, outcome, breached, told = row[13:]
    return StoredAlert(
        number,
        id_,
        server,
        profile,
        metric,
        threshold,
        _moment(opened),
        _moment(noted),
        highest,
        json.loads(latest),
        None if closed is None else _moment(closed),
        None if ended is None else _moment(ended),
        because,
        None if at is None else Acknowledgement(author, comment, _moment(at)),
        outcome,
        None if breached is None else _moment(breached),
        bool(told),
    )


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(microseconds: int) -> datetime:
    return _EPOCH + microseconds * _MICROSECOND


def _self_check() -> None:
    import tempfile

    now = datetime(2026, 1, 5, tzinfo=timezone.utc)
    alert = StoredAlert(0, "a", "ppweb001", "web_api", "cpu_pct", 90.0, now, now, 0.8, {"message": "é"})
    with tempfile.TemporaryDirectory() as folder:
        store = AlertStore(Path(folder))
        with store.change() as change:
            change.open(alert)
            change.event("e", {"kind": "opened"})
        store.close()
        store = AlertStore(Path(folder))
        assert [(each.id, each.latest) for each in store.open_alerts()] == [("a", {"message": "é"})]
        assert [each.id for each in store.waiting(10)] == ["e"]
        store.close()
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
