"""What the daemon has accepted and must never lose: rows in one SQLite file, on disk before they are acknowledged.

WAL with `synchronous=FULL`: when `append` returns, its rows survive a crash of the process or the machine. A row is
known by server and timestamp, and the first value of each metric stays, so that a client may send again whatever it is
unsure of; a metric that the row did not have yet is added to it, for senders whose metrics come one after the other.
Rows lie in the order of the 5-minute grid: new ones go to the end of the file, and the history of one server is a few
hundred short look-ups. Knows nothing of torch or HTTP.
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

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_contract import (
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
from history_rescue import rescue_into
from history_tables import INSERT, METRIC_LIST, SCHEMA, STEP_US, STORE_FILE, Catalogue, microseconds_of, moment_of
from sqlite_file import DamagedError, SqliteFile

_PAGE_ROWS = 50_000  # rows read at a time: bounds memory, and for how long a reader keeps writers waiting
_PRUNE_STEPS = 24  # steps deleted per transaction, for the same reason
_FIND = f"SELECT {METRIC_LIST}, state FROM samples WHERE step = ? AND server = ? AND time = ?"  # noqa: S608
_FILL = (
    f"UPDATE samples SET {', '.join(f'{column} = ?' for column in METRIC_COLUMNS)}, state = ? "  # noqa: S608
    "WHERE step = ? AND server = ? AND time = ?"
)
_READ_PAGE = (
    f"SELECT step, server, time, {METRIC_LIST}, state FROM samples WHERE (step, server, time) > (?, ?, ?) "  # noqa: S608
    "ORDER BY step, server, time LIMIT ?"
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

    Raises
    ------
    DaemonError
        If another process uses the file, or if it belongs to a newer product or to another program.
    DataFileError
        If the folder or the file cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._known = Catalogue()
        self._file = SqliteFile(Path(folder) / STORE_FILE, SCHEMA, self._read_catalogue)
        self.path, self.set_aside = self._file.path, self._file.set_aside
        rescued = rescue_into(self._file)
        self.rescued_rows = rescued or 0
        if rescued is not None:
            with self._file.reading() as connection:
                self._read_catalogue(connection)
        # What is known and what is on disk change together: held for longer than the file's own lock
        self._lock = threading.RLock()

    def __enter__(self) -> HistoryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write everything into the one file and release it. May be called again."""
        self._file.close()

    # --------------------------------------------------------------------------------------------- what is known of it

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._known.rows

    @property
    def servers(self) -> int:
        """Number of servers."""
        return len(self._known.servers)

    @property
    def oldest(self) -> datetime | None:
        """Time of the oldest row."""
        return moment_of(self._known.oldest)

    @property
    def newest(self) -> datetime | None:
        """Time of the newest row."""
        return moment_of(self._known.newest)

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
            added = Catalogue()
            with self._file.transaction() as connection:
                stored = [self._insert(connection, frame, added) for frame in frames]
            self._known.merge(added)
            return stored

    def prune(self, before: datetime) -> list[str]:
        """Delete the steps that end before a moment; returns the servers of which no row is left.

        Raises
        ------
        DataFileError
            If the disk is full or fails. What could not be deleted is still there.
        """
        before_step = int(before.timestamp() // (STEP_MINUTES * 60))
        while self._known.oldest is not None and (first := self._known.oldest // STEP_US) < before_step:
            with self._lock:
                with self._file.transaction() as connection:
                    until = min(first + _PRUNE_STEPS, before_step)
                    deleted = connection.execute("DELETE FROM samples WHERE step < ?", (until,)).rowcount
                    oldest = connection.execute(
                        "SELECT min(time) FROM samples WHERE step = (SELECT min(step) FROM samples)"
                    ).fetchone()[0]
                self._known.rows -= deleted
                self._known.oldest = oldest
                if oldest is None:
                    self._known.newest = None
        with self._lock:
            gone = [name for name, moment in self._known.last_seen.items() if moment // STEP_US < before_step]
            with self._file.transaction() as connection:
                connection.executemany("DELETE FROM servers WHERE name = ?", [(name,) for name in gone])
            for name in gone:
                del self._known.servers[name], self._known.profiles[name], self._known.last_seen[name]
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
        last = (-1 if since is None else int(since.timestamp() // (STEP_MINUTES * 60)) - 1, 2**62, 2**62)
        while True:
            with self._lock, self._file.reading() as connection:
                rows = connection.execute(_READ_PAGE, (*last, _PAGE_ROWS)).fetchall()
                names = {number: name for name, number in self._known.servers.items()}
                states = {number: name for name, number in self._known.states.items()}
                profiles = dict(self._known.profiles)
            if not rows:
                return
            last = rows[-1][:3]
            table = np.array(rows, dtype=np.float64)  # None becomes NaN; microseconds are exact until the year 2255
            codes, server_ids = pd.factorize(table[:, 1])
            server_names = [names[int(number)] for number in server_ids]
            state_codes, state_ids = pd.factorize(table[:, -1])
            own_profiles = pd.Index(sorted({profiles[name] for name in server_names}))
            profile_codes = own_profiles.get_indexer([profiles[name] for name in server_names])
            yield pd.DataFrame(
                {
                    TIMESTAMP: pd.to_datetime(table[:, 2].astype("int64").view("datetime64[us]"), utc=True),
                    SERVER_NAME: pd.Categorical.from_codes(codes, categories=server_names),
                    **{column: table[:, 3 + k] for k, column in enumerate(METRIC_COLUMNS)},
                    STATE: pd.Categorical.from_codes(
                        state_codes, categories=[states[int(number)] for number in state_ids]
                    ),
                    PROFILE: pd.Categorical.from_codes(profile_codes[codes], categories=own_profiles),
                }
            )

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
        with self._lock, self._file.reading() as connection:
            rows = connection.execute(
                _READ_STEPS, (first_step, last_step, self._known.servers.get(name, -1))
            ).fetchall()
            states = {number: state for state, number in self._known.states.items()}
        steps = pd.RangeIndex(first_step, last_step + 1, name="step")
        metrics = np.full((len(steps), len(METRIC_COLUMNS)), np.nan)
        state_of = np.full(len(steps), None, dtype=object)
        for step, *means, state, _ in rows:
            metrics[step - first_step] = means
            state_of[step - first_step] = states[state]
        frame = pd.DataFrame(metrics, index=steps, columns=list(METRIC_COLUMNS))
        frame[STATE] = pd.Series(state_of, index=steps, dtype=object)
        return frame

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
