"""Which rows of a damaged history can still be trusted, and how they come into the new one.

A damaged file that was set aside is read page by page. What it says of servers and states, and every row that obeys the
contract, goes into the file that has taken its place; then `….rescued.json` beside the damaged file says what became of
it. A rescue that was cut short has no such report and is made again: rows that are there already stay as they are.
SQLite keeps no checksums: a number that changed into another valid one cannot be told.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import structlog

from common_utils import iso_z, utc_now, write_json
from data_contract import METRIC_COLUMNS, METRICS, VALID_PROFILES, VALID_STATES, name_fault, profile_for_name
from derived_columns import derive_states
from history_tables import INSERT, STEP_US
from sqlite_file import SqliteFile
from sqlite_pages import INDEX_LEAF, TABLE_LEAF, IndexCells, PageFile, index_cells, text_records

log = structlog.stdlib.get_logger(__name__)

REPORT_SUFFIX = ".rescued.json"
_COLUMNS = 3 + len(METRIC_COLUMNS) + 1  # step, server, time, metrics, state
_STATES_TABLE, _STATES_INDEX = 4, 5  # pages of the second table, which is made in a new file and never grows beyond one
_PAGES_AT_ONCE = 1_024  # 4 MB, some 60,000 rows
_MOST_SERVERS = 2**24  # a larger number is none that the store has given
_LATEST_US = 2**53  # the year 2255: times above are no times
_SAY_EVERY_SECONDS = 10.0

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass
class Rescued:
    """What came out of a damaged file.

    Attributes
    ----------
    rows : int
        Rows that were not in the new file yet.
    unreadable : int
        Records that are no rows, or none that can be trusted. Of pages that are gone nobody can count them.
    without_server : int
        Rows of servers whose names are lost.
    """

    rows: int = 0
    unreadable: int = 0
    without_server: int = 0


def rescue_into(file: SqliteFile) -> int | None:
    """Take over what can be read of the damaged files beside a new one.

    A failure costs nothing but time: it is logged, and the next start tries again.

    Returns
    -------
    int or None
        Number of rows that came into the new file; None if nothing was to be done, and nothing was changed.
    """
    waiting = _waiting(file.path)
    return sum(_rescue(damaged, file) for damaged in waiting) if waiting else None


def _waiting(path: Path) -> list[Path]:
    """Damaged files of which no report says that they were rescued, the newest first."""
    found = path.parent.glob(f"{path.name}.damaged-*Z")
    return sorted((one for one in found if not _report_of(one).exists()), reverse=True)


def _report_of(damaged: Path) -> Path:
    return damaged.with_name(damaged.name + REPORT_SUFFIX)


def _rescue(damaged: Path, file: SqliteFile) -> int:
    started = said = time.monotonic()
    result = Rescued()
    log.warning("rescuing rows of a damaged history", file=damaged.name)
    try:
        salvage = Salvage(damaged)
        numbers = _take_names(salvage, file)
        for share, rows in salvage.rows(result):
            result.rows += _take_rows(rows, numbers, file)
            if time.monotonic() - said > _SAY_EVERY_SECONDS:
                said = time.monotonic()
                log.info("rescuing", read=f"{share:.0%}", rows=result.rows)
        write_json(
            _report_of(damaged),
            {
                "damaged": damaged.name,
                "rescued_at": iso_z(utc_now()),
                "rows": result.rows,
                "servers": len(salvage.servers),
                "unreadable_records": result.unreadable,
                "rows_without_server": result.without_server,
            },
        )
    except OSError as error:  # a DataFileError is one, too
        log.warning("the rescue was cut short; the next start makes it again", file=damaged.name, reason=str(error))
        return result.rows
    log.warning("rescued", file=damaged.name, **vars(result), seconds=round(time.monotonic() - started, 1))
    return result.rows


@dataclass(frozen=True)
class _Numbers:
    """Numbers in the new file: of servers by that in the damaged one, of states by their place in `VALID_STATES`."""

    servers: Integers
    states: Integers


def _take_names(salvage: Salvage, file: SqliteFile) -> _Numbers:
    with file.transaction() as connection:
        for name, profile in salvage.servers.values():
            insert = "INSERT INTO servers (name, profile) VALUES (?, ?) ON CONFLICT DO NOTHING"
            connection.execute(insert, (name, profile))
        for state in VALID_STATES:  # the contract's rules give one to rows whose state is lost
            connection.execute("INSERT INTO states (name) VALUES (?) ON CONFLICT DO NOTHING", (state,))
        servers = dict(connection.execute("SELECT name, id FROM servers"))
        states = dict(connection.execute("SELECT name, id FROM states"))
    return _Numbers(
        _lookup({old: servers[name] for old, (name, _) in salvage.servers.items()}),
        np.array([states[state] for state in VALID_STATES], np.int64),
    )


def _take_rows(rows: _Rows, numbers: _Numbers, file: SqliteFile) -> int:
    columns = (
        rows.times // STEP_US,
        numbers.servers[rows.servers],
        rows.times,
        *rows.metrics.T,
        numbers.states[rows.states],
    )
    order = np.lexsort((columns[2], columns[1], columns[0]))  # as they shall lie
    with file.transaction() as connection:
        before = connection.total_changes
        connection.executemany(INSERT, zip(*(column[order].tolist() for column in columns), strict=True))
        return connection.total_changes - before


def _lookup(numbers: dict[int, int]) -> Integers:
    table = np.zeros(max(numbers, default=0) + 1, np.int64)
    table[list(numbers)] = list(numbers.values())
    return table


# -------------------------------------------------------------------------------------------------------- what is read
@dataclass(frozen=True)
class _Rows:
    """Rows that obey the contract.

    Attributes
    ----------
    servers : int64 array, (n_rows,)
        As the damaged file numbers them.
    times : int64 array, (n_rows,)
        Microseconds since 1970, UTC.
    metrics : float64 array, (n_rows, n_metrics)
    states : int64 array, (n_rows,)
        Places in `VALID_STATES`.
    """

    servers: Integers
    times: Integers
    metrics: Floats
    states: Integers


class Salvage:
    """What a damaged file still says.

    Attributes
    ----------
    servers : dict
        Number → name and profile. Where the profile is lost, it is the one that the name tells.
    states : dict
        Number → state.

    Raises
    ------
    OSError
        If the file cannot be read.
    """

    def __init__(self, damaged: Path) -> None:
        self._file = PageFile(damaged)
        self._free = np.array(sorted(self._file.free_pages()), np.int64)
        self.servers: dict[int, tuple[str, str]] = {}
        self.states: dict[int, str] = {}
        self._read_names()

    def rows(self, result: Rescued) -> Iterator[tuple[float, _Rows]]:
        """Rows that can be trusted, part by part, with the share of the file that was read; counts what cannot."""
        servers = _lookup(dict.fromkeys(self.servers, 1))
        states = np.full(max(self.states, default=0) + 1, -1, np.int64)
        for known, name in self.states.items():
            states[known] = VALID_STATES.index(name)
        for first, pages in self._file.blocks(_PAGES_AT_ONCE):
            pages[np.isin(np.arange(first, first + len(pages)), self._free)] = 0
            cells = index_cells(pages, _COLUMNS)
            of_rows = _pages_of_rows(cells, len(pages))[cells.pages]
            metrics = _metrics(cells)
            good = cells.is_whole & _obeys(cells, metrics)
            good &= ~_out_of_order(cells, good)
            good &= ~_ends_beside(cells, ~good)
            result.unreadable += int((of_rows & ~good).sum())
            number, state = cells.values[:, 1], cells.values[:, -1]
            named = servers[np.where(good & (number > 0) & (number < len(servers)), number, 0)] == 1
            result.without_server += int((good & ~named).sum())
            good &= named
            metrics, place = metrics[good], states[np.where(state < len(states), state, 0)[good]]
            derived = derive_states(dict(zip(METRIC_COLUMNS, metrics.T, strict=True)), len(metrics))
            place = np.where(place < 0, derived, place)
            yield (
                min(1.0, (first + len(pages) - 1) / self._file.count),
                _Rows(number[good], cells.values[good, 2], metrics, place),
            )

    def _read_names(self) -> None:
        told_by_index: dict[int, str] = {}
        for first, pages in self._file.blocks(_PAGES_AT_ONCE):
            kinds = pages[:, 0]
            wanted = (kinds == TABLE_LEAF) | (kinds == INDEX_LEAF) & ~_begins_with_a_row(pages)
            for place in np.flatnonzero(wanted).tolist():
                number = first + place
                if number == 1 or number in self._free:
                    continue
                page = pages[place].tobytes()
                if number in {_STATES_TABLE, _STATES_INDEX}:
                    records = [*text_records(page, TABLE_LEAF, "nt"), *text_records(page, INDEX_LEAF, "ti")]
                    self.states |= {
                        key: texts[0] for key, texts in records if texts[0] in VALID_STATES and 0 < key < 256
                    }
                    continue
                for key, (name, profile) in text_records(page, TABLE_LEAF, "ntt"):
                    if 0 < key < _MOST_SERVERS and name_fault(name) is None and profile in VALID_PROFILES:
                        self.servers[key] = (name, profile)
                for key, (name,) in text_records(page, INDEX_LEAF, "ti"):
                    if 0 < key < _MOST_SERVERS and name_fault(name) is None:
                        told_by_index[key] = name
        known = {name for name, _ in self.servers.values()}
        for key, name in told_by_index.items():
            if key not in self.servers and name not in known:
                self.servers[key] = (name, profile_for_name(name))


def _begins_with_a_row(pages: npt.NDArray[np.uint8]) -> Mask:
    """Pages whose first record is as long as a row and has its columns: those of names need not be sought there."""
    at = np.minimum((pages[:, 8].astype(np.int64) << 8) | pages[:, 9], pages.shape[1] - 2)
    each = np.arange(len(pages))
    return np.asarray((pages[each, at] < 0x80) & (pages[each, at + 1] == 1 + _COLUMNS))


def _metrics(cells: IndexCells) -> Floats:
    numbers, types = cells.values[:, 3:-1], cells.types[:, 3:-1]
    found = np.where(types == 7, np.ascontiguousarray(numbers).view(np.float64), numbers.astype(np.float64))
    return np.where(types == 0, np.nan, found)


def _obeys(cells: IndexCells, metrics: Floats) -> Mask:
    """Whether records are rows of the contract that lie in the step of their time."""
    step, server, time_us, state = (cells.values[:, column] for column in (0, 1, 2, -1))
    obeys = (time_us >= 0) & (time_us < _LATEST_US) & (step == time_us // STEP_US) & (server > 0) & (state > 0)
    obeys &= np.isin(cells.types[:, [0, 1, 2, -1]], (0, 7), invert=True).all(1)
    for metric, values in zip(METRICS, metrics.T, strict=True):
        above = np.inf if metric.upper is None else np.nextafter(metric.upper, np.inf)
        obeys &= np.isnan(values) | ((values >= metric.lower) & (values < above))
    obeys &= ~((cells.types[:, 3:-1] == 7) & np.isnan(metrics)).any(1)  # NaN is stored as NULL
    return np.asarray(obeys)


def _pages_of_rows(cells: IndexCells, pages: int) -> Mask:
    """Which pages hold rows, told by their first whole record; the index of names has others."""
    found = np.zeros(pages, np.bool_)
    found[cells.pages[cells.is_whole]] = True
    return found


def _out_of_order(cells: IndexCells, good: Mask) -> Mask:
    """Records whose key is not above that of the record before on the same page, and those before."""
    places = np.flatnonzero(good)
    keys = cells.values[places, :3]
    earlier, later = keys[:-1], keys[1:]
    above = later[:, 2] > earlier[:, 2]
    for column in (1, 0):
        above = np.where(later[:, column] == earlier[:, column], above, later[:, column] > earlier[:, column])
    wrong = np.flatnonzero(~above & (cells.pages[places][1:] == cells.pages[places][:-1]))
    found = np.zeros(len(good), np.bool_)
    found[places[wrong]] = found[places[wrong + 1]] = True
    return found


def _ends_beside(cells: IndexCells, bad: Mask) -> Mask:
    """Records that end where a bad one begins: what damaged its head may have begun in their last bytes."""
    order = np.lexsort((cells.offsets, cells.pages))
    pages = cells.pages[order]
    before = np.zeros(len(bad), np.bool_)
    before[order[:-1]] = bad[order][1:] & (pages[1:] == pages[:-1])
    return before


def _self_check() -> None:
    import tempfile

    from history_tables import SCHEMA, STORE_FILE

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / STORE_FILE
        file = SqliteFile(path, SCHEMA)
        with file.transaction() as connection:
            connection.execute("INSERT INTO servers VALUES (1, 'ppweb001', 'web_api')")
            connection.execute("INSERT INTO states VALUES (1, 'healthy')")
            for step in range(500):
                connection.execute(INSERT, (step, 1, step * STEP_US, 1.5, None, 2.0, 3.25, 1))
        file.close()
        content = path.read_bytes()
        path.write_bytes(b"\xff" * 100 + content[100:])
        file = SqliteFile(path, SCHEMA)
        assert file.set_aside is not None and rescue_into(file) == 500 and rescue_into(file) is None
        file.close()
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
