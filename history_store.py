"""What the daemon has accepted and must never lose: rows in one SQLite file, on disk before they are acknowledged.

WAL with `synchronous=FULL`: when `append` returns, its rows survive a crash of the process or the machine. A row is
known by server and timestamp, and the first value of each metric stays, so that a client may send again whatever it is
unsure of; a metric that the row did not have yet is added to it, for senders whose metrics come one after the other.
Rows lie in the order of the 5-minute grid: new ones go to the end of the file, and the history of one server is a few
hundred short look-ups. Knows nothing of torch or HTTP.

Days that are old enough move to a Parquet file each (`compact`, `history_days.py`). Such a file is on disk before its
rows are deleted here; between the two they are in both, and after a crash there they stay in both until they are moved
again. Where a row is in both, the one in SQLite counts: when a late row comes for a day that has a file, all that the
file has of its server is taken back to SQLite first, and a lacking metric is added there as ever.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_contract import (
    DAY_STEPS,
    METRIC_COLUMNS,
    METRICS,
    PROFILE,
    REQUIRED_COLUMNS,
    SERVER_NAME,
    STATE,
    STEP_MINUTES,
    TIMESTAMP,
)
from derived_columns import derived_state
from history_days import DAILY_FOLDER, HistoryDays
from history_rescue import rescue_into
from history_tables import (
    DAY_US,
    INSERT,
    METRIC_LIST,
    SCHEMA,
    STEP_US,
    STORE_FILE,
    Catalogue,
    microseconds_of,
    moment_of,
)
from sqlite_file import DamagedError, SqliteFile

_PAGE_ROWS = 50_000  # rows read at a time: bounds memory, and for how long a reader keeps writers waiting
_DELETED_STEPS = 24  # deleted per transaction, for the same reason
_FOR_EVER = 2**62  # above every step, server and time
_FIND = f"SELECT {METRIC_LIST}, state FROM samples WHERE step = ? AND server = ? AND time = ?"  # noqa: S608
_FILL = (
    f"UPDATE samples SET {', '.join(f'{column} = ?' for column in METRIC_COLUMNS)}, state = ? "  # noqa: S608
    "WHERE step = ? AND server = ? AND time = ?"
)
_READ_PAGE = (
    f"SELECT step, server, time, {METRIC_LIST}, state FROM samples WHERE (step, server, time) > (?, ?, ?) "  # noqa: S608
    "AND step < ? ORDER BY step, server, time LIMIT ?"
)
# SQLite keeps no checksums; rows that no valid row could have become tell of some of the damage
_IMPOSSIBLE = " OR ".join(
    (
        f"step <> time / {STEP_US}",
        "NOT state BETWEEN 1 AND (SELECT max(id) FROM states)",
        *(f"{metric.column} < {metric.lower}" for metric in METRICS),
        *(f"{metric.column} > {metric.upper}" for metric in METRICS if metric.upper is not None),
    )
)
_READ_SERVERS = f"SELECT server, count(*), min(time), max(time), max({_IMPOSSIBLE}) FROM samples GROUP BY server"  # noqa: S608
# With max(), SQLite takes the bare column `state` from the row that has the maximum: the last one of the step.
_READ_STEPS = (
    "WITH RECURSIVE steps(step) AS (SELECT ? UNION ALL SELECT step + 1 FROM steps WHERE step < ?) "  # noqa: S608
    f"SELECT samples.step, {', '.join(f'avg({column})' for column in METRIC_COLUMNS)}, state, max(time) "
    "FROM steps CROSS JOIN samples ON samples.step = steps.step AND samples.server = ? "
    "GROUP BY samples.step ORDER BY samples.step"
)
_READ_SERVER = (
    "WITH RECURSIVE steps(step) AS (SELECT ? UNION ALL SELECT step + 1 FROM steps WHERE step < ?) "  # noqa: S608
    f"SELECT samples.step, server, time, {METRIC_LIST}, state FROM steps CROSS JOIN samples "
    "ON samples.step = steps.step AND samples.server = ?"
)


@dataclass(frozen=True)
class Stored:
    """What became of a frame.

    Attributes
    ----------
    changed : bool array, (n_rows,)
        True for rows that are new or have added a metric to one that was there; False for those that have changed
        nothing.
    added : DataFrame
        What was not there before, in contract columns: the new rows, and of the others the metrics that they added,
        with the state that the whole row now has.
    """

    changed: npt.NDArray[np.bool_]
    added: pd.DataFrame


class HistoryStore:
    """Accepted measurements on disk, used by several threads of one process.

    Parameters
    ----------
    folder : Path
        Where `history.sqlite3` lies; made if it is not there.

    Attributes
    ----------
    path : Path
        The SQLite file.
    set_aside : Path or None
        Where a damaged file was moved when this store was opened.
    rescued_rows : int
        Rows that were saved out of damaged files when this store was opened.
    days : HistoryDays
        The days that have a file of their own.

    Raises
    ------
    DaemonError
        If another process uses the file, or if it belongs to a newer product or to another program.
    DataFileError
        If the folder or the file cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._known = Catalogue()
        # What is known and what is on disk change together: held for longer than the file's own lock
        self._lock = threading.RLock()
        self._upkeep = threading.Lock()  # held by whoever moves or deletes what is old
        self._stopping = threading.Event()
        self._moving: int | None = None  # day that is being moved, and whether a row of it was written meanwhile
        self._touched = False
        self._doubled: dict[int, int] = {}  # rows of SQLite that the file of their day has, too
        self._file = SqliteFile(Path(folder) / STORE_FILE, SCHEMA, self._read_catalogue)
        self.path, self.set_aside = self._file.path, self._file.set_aside
        rescued = rescue_into(self._file)
        self.rescued_rows = rescued or 0
        if rescued is not None:
            with self._file.reading() as connection:
                self._read_catalogue(connection)
        try:
            self.days = HistoryDays(Path(folder) / DAILY_FOLDER)
            self._join_days()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> HistoryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write everything into the one file and release it. May be called again."""
        self._stopping.set()
        with self._upkeep:
            self._file.close()

    # --------------------------------------------------------------------------------------------- what is known of it

    @property
    def rows(self) -> int:
        """Number of rows, in SQLite and in the files of days."""
        with self._lock:
            return self._known.rows + self.days.rows - sum(self._doubled.values())

    @property
    def servers(self) -> int:
        """Number of servers."""
        return len(self._known.servers)

    @property
    def oldest(self) -> datetime | None:
        """Time of the oldest row."""
        times = [self._known.oldest, *(day.oldest for day in self.days.days.values())]
        return moment_of(min((time for time in times if time is not None), default=None))

    @property
    def newest(self) -> datetime | None:
        """Time of the newest row."""
        times = [self._known.newest, *(day.newest for day in self.days.days.values())]
        return moment_of(max((time for time in times if time is not None), default=None))

    def profile(self, name: str) -> str | None:
        """Profile of a server as it was given last, None for a server without rows."""
        return self._known.profiles.get(name)

    def last_seen(self, name: str) -> datetime | None:
        """Time of a server's newest row, None for a server without rows."""
        return moment_of(self._known.last_seen.get(name))

    # ----------------------------------------------------------------------------------------------------------- write

    def append(self, frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Store valid contract rows; when this returns they are on disk.

        Parameters
        ----------
        frame : DataFrame
            Contract columns. A profile that differs from the server's present one replaces it.

        Returns
        -------
        bool array, (n_rows,)
            True for rows that are new, or that added a metric to the row of their server and timestamp; False where
            all of it was there already, or came earlier in the frame.

        Raises
        ------
        DataFileError
            If the disk is full or fails. None of the rows is stored then.
        """
        return self.append_all([frame])[0].changed

    def append_all(self, frames: Sequence[pd.DataFrame]) -> list[Stored]:
        """Store several frames in one transaction, so that waiting writers share one flush to disk (group commit).

        Raises as `append` does, and then none of the frames is stored.
        """
        with self._lock:
            added, taken_back = Catalogue(), dict(self._doubled)
            with self._file.transaction() as connection:
                for day, rows in self._filed_rows(frames):
                    back = self._insert(connection, rows, added)
                    taken_back[day] = taken_back.get(day, 0) + int(back.changed.sum())
                stored = [self._insert(connection, frame, added) for frame in frames]
            self._known.merge(added)
            self._doubled = taken_back
            return stored

    def compact(self, before: datetime) -> int:
        """Move the days that end before a moment to a file each; returns the number of rows that left SQLite.

        It may take long and has to be called in a thread of its own: others read and write meanwhile, and wait for no
        longer than a page or some steps take. `close` ends it soon; what is not finished stays where it was.

        Raises
        ------
        DataFileError
            If the disk is full or fails. Everything can still be read then, and the next call goes on.
        """
        moved, day, end = 0, -1, _step_of(before) // DAY_STEPS * DAY_STEPS
        with self._upkeep:
            while not self._stopping.is_set() and (step := self._next_step((day + 1) * DAY_STEPS, end)) is not None:
                day = step // DAY_STEPS
                moved += self._move(day)
        return moved

    def prune(self, before: datetime) -> list[str]:
        """Delete the steps that end before a moment; returns the servers of which no row is left.

        A day that has a file is deleted when all of it is that old; until then nothing of that day is.

        Raises
        ------
        DataFileError
            If the disk is full or fails. What could not be deleted is still there.
        """
        before_step = _step_of(before)
        with self._upkeep:
            filed = self.days.days
            if before_step // DAY_STEPS in filed:
                before_step -= before_step % DAY_STEPS
            while self._known.oldest is not None and (first := self._known.oldest // STEP_US) < before_step:
                with self._lock:
                    self._delete(-1, min(first + _DELETED_STEPS, before_step))
            with self._lock:
                for day in filed:
                    if (day + 1) * DAY_STEPS <= before_step:
                        self.days.remove(day)
                        self._doubled.pop(day, None)
                gone = [name for name, moment in self._known.last_seen.items() if moment // STEP_US < before_step]
                with self._file.transaction() as connection:
                    connection.executemany("DELETE FROM servers WHERE name = ?", [(name,) for name in gone])
                for name in gone:
                    self._known.servers.pop(name, None)
                    del self._known.profiles[name], self._known.last_seen[name]
                return gone

    # ------------------------------------------------------------------------------------------------------------ read

    def pages(self, since: datetime | None = None) -> Iterator[pd.DataFrame]:
        """Rows from the step of `since` on, in the order of the grid, as contract frames of bounded size.

        Rows that are added meanwhile may or may not be among them.

        Raises
        ------
        DataFileError
            If the file cannot be read.
        """
        last = (-1 if since is None else _step_of(since) - 1, _FOR_EVER, _FOR_EVER)
        while True:
            first_day = (last[0] + 1) // DAY_STEPS
            there = [day for day in self.days.days if day >= first_day]
            if (hot := self._next_step(last[0] + 1, _FOR_EVER)) is not None:
                there.append(hot // DAY_STEPS)
            if not there:
                return
            day = min(there)
            if day not in self.days.days:
                for reached, page in self._sqlite_pages(last, (day + 1) * DAY_STEPS):
                    last = reached
                    yield page
            if day in self.days.days:  # also one that has moved while it was read: what is left of it is in its file
                yield from self._filed_pages(day, last)
            last = ((day + 1) * DAY_STEPS - 1, _FOR_EVER, _FOR_EVER)

    def window(self, since: datetime | None = None) -> pd.DataFrame:
        """All rows from the step of `since` on, in contract columns; empty when there are none."""
        pages = [page.astype({SERVER_NAME: object, STATE: object, PROFILE: object}) for page in self.pages(since)]
        return pd.concat(pages, ignore_index=True) if pages else pd.DataFrame(columns=list(REQUIRED_COLUMNS))

    def server_steps(self, name: str, first_step: int, last_step: int) -> pd.DataFrame:
        """History of one server on the 5-minute grid: the mean of each metric and the last state of every step.

        Returns
        -------
        DataFrame
            One row per step from `first_step` to `last_step` (indices since 1970), which is its index; metric columns
            and `state`. NaN and None where nothing was measured.

        Raises
        ------
        DataFileError
            If the file cannot be read.
        """
        number = self._known.servers.get(name, -1)
        with self._lock, self._file.reading() as connection:
            rows = connection.execute(_READ_STEPS, (first_step, last_step, number)).fetchall()
            states = {number: state for state, number in self._known.states.items()}
        steps = pd.RangeIndex(first_step, last_step + 1, name="step")
        metrics = np.full((len(steps), len(METRIC_COLUMNS)), np.nan)
        state_of = np.full(len(steps), None, dtype=object)
        for step, *means, state, _ in rows:
            metrics[step - first_step] = means
            state_of[step - first_step] = states[state]
        # Listed after SQLite was read, so that a day which moves meanwhile is in the one or in the other
        for day in self.days.days:
            first, last = max(day * DAY_STEPS, first_step), min((day + 1) * DAY_STEPS - 1, last_step)
            if first <= last:
                own = self._day_of_server(day, name, number)
                own.index = pd.Index(microseconds_of(own[TIMESTAMP]) // STEP_US)
                own = own[(own.index >= first) & (own.index <= last)]
                means = own[list(METRIC_COLUMNS)].groupby(level=0).mean()
                metrics[means.index.to_numpy() - first_step] = means.to_numpy(dtype=np.float64)
                state_of[own.index.to_numpy() - first_step] = own[STATE].to_numpy()  # of a step's rows the last stays
        frame = pd.DataFrame(metrics, index=steps, columns=list(METRIC_COLUMNS))
        frame[STATE] = pd.Series(state_of, index=steps, dtype=object)
        return frame

    # -------------------------------------------------------------------------------------------------- days in files

    def _join_days(self) -> None:
        """Learn what the files of days hold, beside SQLite: it may have been damaged, or a move interrupted."""
        known = self._known
        filed = self.days.days
        for about in filed.values():
            known.note_seen({name: last for name, (last, _) in about.servers.items()})
        unknown = {name: profile for about in filed.values() for name, (_, profile) in about.servers.items()}
        lost = [(name, profile) for name, profile in unknown.items() if name not in known.servers]
        if lost:
            added = Catalogue()
            with self._file.transaction() as connection:
                for name, profile in lost:
                    self._server_id(connection, name, profile, added)
            known.merge(added)
        for day in filed:
            self._doubled[day] = self._count_doubled(day)

    def _count_doubled(self, day: int) -> int:
        """How many rows both SQLite and the day's file have."""
        hot = self._hot_rows(day)
        if not len(hot):
            return 0
        filed = set(_keys(self.days.read(day, sorted(set(hot[SERVER_NAME])))))
        return sum(key in filed for key in _keys(hot))

    def _filed_rows(self, frames: Sequence[pd.DataFrame]) -> Iterator[tuple[int, pd.DataFrame]]:
        """What files hold of the servers and days of some rows that are about to be written, with the lock held."""
        days = self.days.days
        for frame in frames:
            if not len(frame) or not (days or self._moving is not None):
                continue
            day_of = microseconds_of(frame[TIMESTAMP]) // DAY_US
            self._touched = self._touched or bool((day_of == self._moving).any())
            names = frame[SERVER_NAME].astype(object).to_numpy()
            for day in sorted(days.keys() & set(day_of.tolist())):
                rows = self.days.read(day, sorted(set(names[day_of == day]) & days[day].servers.keys()))
                if len(rows):
                    rows[PROFILE] = [self._known.profiles[name] for name in rows[SERVER_NAME]]
                    yield day, rows

    def _next_step(self, first: int, end: int) -> int | None:
        """The first step from one on of which SQLite has rows; None if there is none before the end."""
        with self._lock, self._file.reading() as connection:
            statement = "SELECT min(step) FROM samples WHERE step >= ? AND step < ?"
            step = connection.execute(statement, (first, end)).fetchone()[0]
        return None if step is None else int(step)

    def _move(self, day: int) -> int:
        """Move the rows of a day to its file; returns how many left SQLite."""
        first, end = day * DAY_STEPS, (day + 1) * DAY_STEPS
        with self._lock:
            self._moving, self._touched = day, False
        try:
            hot = self._hot_rows(day)
            if self._stopping.is_set():
                return 0
            self.days.write(day, self._with_file(day, hot))
            with self._lock:
                self._doubled[day] = self._count_doubled(day) if self._touched else len(hot)
                if self._touched:  # the next time
                    return 0
            moved = 0
            for step in range(first, end, _DELETED_STEPS):
                with self._lock:
                    if self._touched or self._stopping.is_set():
                        return moved
                    deleted = self._delete(step - 1, min(step + _DELETED_STEPS, end))
                    self._doubled[day] -= deleted
                moved += deleted
            with self._lock:
                self._doubled.pop(day, None)
            return moved
        finally:
            self._moving = None

    def _delete(self, after: int, until: int) -> int:
        """Delete the steps between two from SQLite, with the lock held; returns the number of rows."""
        with self._file.transaction() as connection:
            deleted = connection.execute("DELETE FROM samples WHERE step > ? AND step < ?", (after, until)).rowcount
            ends = [
                connection.execute(f"SELECT {end}(time) FROM samples WHERE step = (SELECT {end}(step) FROM samples)")  # noqa: S608
                for end in ("min", "max")
            ]
            oldest, newest = (found.fetchone()[0] for found in ends)
        self._known.rows -= deleted
        self._known.oldest, self._known.newest = oldest, newest
        return int(deleted)

    def _hot_rows(self, day: int) -> pd.DataFrame:
        """What SQLite has of a day."""
        pages = [
            page.astype({SERVER_NAME: object, STATE: object, PROFILE: object})
            for _, page in self._sqlite_pages((day * DAY_STEPS - 1, _FOR_EVER, _FOR_EVER), (day + 1) * DAY_STEPS)
        ]
        return pd.concat(pages, ignore_index=True) if pages else pd.DataFrame(columns=list(REQUIRED_COLUMNS))

    def _with_file(self, day: int, hot: pd.DataFrame, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows of SQLite, which were read before, and those that only the file has; profiles are the present ones."""
        filed = self.days.read(day, names)
        if len(hot) and len(filed):
            known = set(_keys(hot))
            filed = filed[[key not in known for key in _keys(filed)]]
        if not len(filed):
            return hot
        filed = filed.assign(**{PROFILE: [self._known.profiles.get(name, "") for name in filed[SERVER_NAME]]})
        return pd.concat([hot, filed[list(REQUIRED_COLUMNS)]], ignore_index=True) if len(hot) else filed

    def _day_of_server(self, day: int, name: str, number: int) -> pd.DataFrame:
        """Rows of one server on a day that has a file, by time."""
        first = day * DAY_STEPS
        with self._lock, self._file.reading() as connection:
            rows = connection.execute(_READ_SERVER, (first, first + DAY_STEPS - 1, number)).fetchall()
            hot = self._frame(rows).astype({SERVER_NAME: object, STATE: object, PROFILE: object}) if rows else None
        both = self._with_file(day, pd.DataFrame(columns=list(REQUIRED_COLUMNS)) if hot is None else hot, [name])
        return both.sort_values(TIMESTAMP) if len(both) else self.days.read(-1)

    def _filed_pages(self, day: int, after: tuple[int, int, int]) -> Iterator[pd.DataFrame]:
        """Rows of a day that has a file, after one (step, server, time), in the order of the grid."""
        rows = self._with_file(day, self._hot_rows(day))
        if not len(rows):
            return
        times = microseconds_of(rows[TIMESTAMP])
        keys = np.stack([times // STEP_US, rows[SERVER_NAME].map(self._known.servers).to_numpy(np.int64), times])
        is_later = np.zeros(len(rows), dtype=np.bool_)
        for own, bound in zip(keys[::-1], after[::-1], strict=True):  # lexicographic, from the last part on
            is_later = (own > bound) | ((own == bound) & is_later)
        order = np.lexsort(keys[::-1])
        order = order[is_later[order]]
        for begin in range(0, len(order), _PAGE_ROWS):
            page = rows.iloc[order[begin : begin + _PAGE_ROWS]].reset_index(drop=True)
            yield page.astype({SERVER_NAME: "category", STATE: "category", PROFILE: "category"})

    def _sqlite_pages(
        self, after: tuple[int, int, int], end_step: int
    ) -> Iterator[tuple[tuple[int, int, int], pd.DataFrame]]:
        """Rows of SQLite after one (step, server, time) and before a step, in the order of the grid.

        With each page comes its last row.
        """
        last = after
        while True:
            with self._lock, self._file.reading() as connection:
                rows = connection.execute(_READ_PAGE, (*last, end_step, _PAGE_ROWS)).fetchall()
                if not rows:
                    return
                frame = self._frame(rows)
            last = rows[-1][:3]
            yield last, frame

    def _frame(self, rows: list[tuple[Any, ...]]) -> pd.DataFrame:
        """Contract frame of rows as `_READ_PAGE` gives them, at least one, with the lock held."""
        numbers = {number: name for name, number in self._known.servers.items()}
        states = {number: name for name, number in self._known.states.items()}
        profiles = self._known.profiles
        table = np.array(rows, dtype=np.float64)  # None becomes NaN; microseconds are exact until the year 2255
        codes, server_ids = pd.factorize(table[:, 1])
        server_names = [numbers[int(number)] for number in server_ids]
        state_codes, state_ids = pd.factorize(table[:, -1])
        own_profiles = pd.Index(sorted({profiles[name] for name in server_names}))
        profile_codes = own_profiles.get_indexer([profiles[name] for name in server_names])
        return pd.DataFrame(
            {
                TIMESTAMP: pd.to_datetime(table[:, 2].astype("int64").view("datetime64[us]"), utc=True),
                SERVER_NAME: pd.Categorical.from_codes(codes, categories=server_names),
                **{column: table[:, 3 + k] for k, column in enumerate(METRIC_COLUMNS)},
                STATE: pd.Categorical.from_codes(state_codes, categories=[states[int(number)] for number in state_ids]),
                PROFILE: pd.Categorical.from_codes(profile_codes[codes], categories=own_profiles),
            }
        )

    # -------------------------------------------------------------------------------------------------------- internal

    def _read_catalogue(self, connection: sqlite3.Connection) -> None:
        """Learn what the file holds; an error says that there are rows which were never put there like that."""
        known = Catalogue()
        for number, name, profile in connection.execute("SELECT id, name, profile FROM servers"):
            known.servers[name], known.profiles[name] = number, profile
        known.states = {name: number for number, name in connection.execute("SELECT id, name FROM states")}
        names = {number: name for name, number in known.servers.items()}
        for number, rows, oldest, newest, impossible in connection.execute(_READ_SERVERS):
            if impossible:
                raise DamagedError
            known.rows += rows
            known.last_seen[names[number]] = newest
            known.note_time(oldest)
            known.note_time(newest)
        self._known = known

    def _insert(self, connection: sqlite3.Connection, frame: pd.DataFrame, added: Catalogue) -> Stored:
        times = microseconds_of(frame[TIMESTAMP])
        names = frame[SERVER_NAME].astype(object).tolist()
        profiles = frame[PROFILE].astype(object).tolist()
        servers = [self._server_id(connection, name, own, added) for name, own in zip(names, profiles, strict=True)]
        rows = zip(
            (times // STEP_US).tolist(),
            servers,
            times.tolist(),
            *(frame[column].to_numpy(dtype=np.float64, na_value=np.nan).tolist() for column in METRIC_COLUMNS),
            [self._state_id(connection, state, added) for state in frame[STATE].astype(object).tolist()],
            strict=True,
        )
        insert = connection.execute  # one by one, to learn which rows are new; NaN is stored as NULL
        fresh = np.fromiter((insert(INSERT, row).rowcount == 1 for row in rows), np.bool_, len(frame))
        if fresh.any():
            new = np.flatnonzero(fresh).tolist()
            added.rows += len(new)
            added.note_time(int(times[fresh].min()))
            added.note_time(int(times[fresh].max()))
            for position in new:
                name, moment = names[position], int(times[position])
                added.last_seen[name] = max(moment, added.last_seen.get(name, moment))
        whole = fresh.all()
        stored = Stored(fresh, frame) if whole else self._fill(connection, frame, fresh, servers, times, added)
        changed = np.flatnonzero(stored.changed).tolist()
        for name, profile in {names[position]: profiles[position] for position in changed}.items():
            if (added.profiles.get(name) or self._known.profiles[name]) != profile:
                connection.execute("UPDATE servers SET profile = ? WHERE name = ?", (profile, name))
                added.profiles[name] = profile
        return stored

    def _fill(
        self,
        connection: sqlite3.Connection,
        frame: pd.DataFrame,
        fresh: npt.NDArray[np.bool_],
        servers: list[int],
        times: npt.NDArray[np.int64],
        added: Catalogue,
    ) -> Stored:
        """Add to rows that were there the metrics that they did not have.

        A state that is what the contract's rules make of the row's metrics is derived anew from all of them; one that
        somebody stated stays.
        """
        states = {number: name for name, number in {**self._known.states, **added.states}.items()}
        values = frame[list(METRIC_COLUMNS)].to_numpy(dtype=np.float64, na_value=np.nan)
        changed, filled = fresh.copy(), {}
        for position in np.flatnonzero(~fresh & np.isfinite(values).any(axis=1)).tolist():
            key = (int(times[position]) // STEP_US, servers[position], int(times[position]))
            *there, number = connection.execute(_FIND, key).fetchone()
            given = values[position].tolist()
            new = [one if old is None else math.nan for old, one in zip(there, given, strict=True)]
            if all(map(math.isnan, new)):
                continue
            after = [one if old is None else old for old, one in zip(there, given, strict=True)]
            state = states[number]
            if state == _derived(there):
                state = _derived(after)
            number = self._state_id(connection, state, added)
            states[number] = state
            connection.execute(_FILL, (*after, number, *key))  # NaN is stored as NULL
            changed[position] = True
            filled[position] = (new, state)
        rows = frame[changed].reset_index(drop=True)
        if filled:
            places = np.searchsorted(np.flatnonzero(changed), list(filled))
            metrics = values[changed]
            metrics[places] = [only_new for only_new, _ in filled.values()]
            rows[list(METRIC_COLUMNS)] = metrics
            stated = rows[STATE].astype(object)
            stated.iloc[places] = [state for _, state in filled.values()]
            rows[STATE] = stated
        return Stored(changed, rows)

    def _server_id(self, connection: sqlite3.Connection, name: str, profile: str, added: Catalogue) -> int:
        number = self._known.servers.get(name) or added.servers.get(name)
        if number is None:
            statement = "INSERT INTO servers (name, profile) VALUES (?, ?)"
            number = connection.execute(statement, (name, profile)).lastrowid
            assert number is not None
            added.servers[name], added.profiles[name] = number, profile
        return number

    def _state_id(self, connection: sqlite3.Connection, state: str, added: Catalogue) -> int:
        number = self._known.states.get(state) or added.states.get(state)
        if number is None:
            number = connection.execute("INSERT INTO states (name) VALUES (?)", (state,)).lastrowid
            assert number is not None
            added.states[state] = number
        return number


def _step_of(moment: datetime) -> int:
    return int(moment.timestamp() // (STEP_MINUTES * 60))


def _keys(frame: pd.DataFrame) -> Iterator[tuple[str, int]]:
    """Server and time of each row."""
    return zip(frame[SERVER_NAME].astype(object).tolist(), microseconds_of(frame[TIMESTAMP]).tolist(), strict=True)


def _derived(metrics: Sequence[float | None]) -> str:
    known = zip(METRIC_COLUMNS, metrics, strict=True)
    return derived_state({column: value for column, value in known if value is not None})


def _self_check() -> None:
    import tempfile

    frame = pd.DataFrame(
        {
            TIMESTAMP: pd.to_datetime(["2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"]),
            SERVER_NAME: "ppweb001",
            **{column: [1.0, 2.0] for column in METRIC_COLUMNS},
            STATE: "healthy",
            PROFILE: "web_api",
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        with HistoryStore(Path(folder)) as store:
            assert store.append(frame).all() and not store.append(frame).any()
        with HistoryStore(Path(folder)) as store:
            assert store.rows == 2 and store.profile("ppweb001") == "web_api"
            step = int(frame[TIMESTAMP][0].timestamp()) // (STEP_MINUTES * 60)
            assert store.server_steps("ppweb001", step, step)["cpu_pct"].tolist() == [1.5]
            pd.testing.assert_series_equal(store.window()["cpu_pct"], frame["cpu_pct"])
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
