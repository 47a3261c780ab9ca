"""Measurements of whole days in one Parquet file each: what the daemon keeps, but does not need every minute.

`daily/YYYY-MM-DD.parquet` holds the rows of one UTC day in the contract's columns (metrics as float64, to the bit), by
server and time, so that the history of one server is a small part of each file. A file is replaced as a whole or not at
all, and its pages have checksums: one that cannot be read is set aside, what can be read of it takes its place, and the
other days serve. Its footer says which servers it holds, so that a start reads nothing else. Knows nothing of SQLite.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from common_utils import atomic_path, utc_now
from contract_parquet import CONTRACT_SCHEMA
from data_contract import METRIC_COLUMNS, PROFILE, SERVER_NAME, STATE, TIMESTAMP, DataFileError
from history_tables import DAY_US, microseconds_of

log = structlog.stdlib.get_logger(__name__)

DAILY_FOLDER: Final = "daily"
_ABOUT: Final = b"tft_history_day"  # key of the footer's metadata
_FIRST_DAY: Final = date(1970, 1, 1)
_GROUP_ROWS: Final = 50_000  # what a reader of one server unpacks at least
SCHEMA: Final = pa.schema(
    [pa.field(field.name, pa.float64()) if field.name in METRIC_COLUMNS else field for field in CONTRACT_SCHEMA]
)


@dataclass(frozen=True)
class Day:
    """What a file says of itself.

    Attributes
    ----------
    path : Path
    rows : int
    oldest, newest : int
        Microseconds since 1970, UTC.
    servers : dict
        Name → time of its last row of that day in microseconds, and its profile.
    """

    path: Path
    rows: int
    oldest: int
    newest: int
    servers: dict[str, tuple[int, str]]


class _DamagedError(Exception):
    """The file is no day of ours, or cannot be read any more."""


class HistoryDays:
    """The files of all days, used by several threads of the process that owns the history.

    Days are numbered from 1970-01-01, UTC.

    Parameters
    ----------
    folder : Path
        Made when the first day is written.

    Attributes
    ----------
    damaged : list of str
        Names of files that were found damaged since this was opened, as they are called now.

    Raises
    ------
    DataFileError
        If the folder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[str] = []
        self._lock = threading.RLock()
        self._days: dict[int, Day] = {}
        try:
            paths = {_day_of(path): path for path in folder.glob("*.parquet")}
            for day in sorted(day for day in paths if day is not None):
                try:
                    self._days[day] = _read_footer(paths[day], day)
                except _DamagedError:
                    self._rescue(day, paths[day])
        except OSError as error:
            raise _failing(folder, error) from error

    @property
    def days(self) -> dict[int, Day]:
        """Number of each day that has a file, in order, and what its file says."""
        with self._lock:
            return dict(sorted(self._days.items()))

    @property
    def rows(self) -> int:
        """Rows in all files."""
        with self._lock:
            return sum(day.rows for day in self._days.values())

    def read(self, day: int, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows of a day in contract columns, by server and time; empty if it has no file.

        Parameters
        ----------
        day : int
        names : sequence of str, optional
            Servers that are asked for.

        Raises
        ------
        DataFileError
            If the disk fails. A damaged file is no failure: it is set aside.
        """
        with self._lock:
            for _ in range(2):  # the second time what could be read of a damaged file
                known = self._days.get(day)
                if known is None:
                    break
                try:
                    return _read(known.path, names)
                except _DamagedError:
                    self._rescue(day, known.path)
                except OSError as error:
                    raise _failing(known.path, error) from error
        return _to_frame(SCHEMA.empty_table())

    def write(self, day: int, rows: pd.DataFrame) -> None:
        """Write a day anew; when this returns, the file is on disk and in the old one's place.

        Parameters
        ----------
        rows : DataFrame
            Contract columns, one or more rows, all of that day.

        Raises
        ------
        DataFileError
            If the disk is full or fails. The old file, if any, is untouched.
        """
        rows = rows.sort_values([SERVER_NAME, TIMESTAMP], kind="stable")
        times = microseconds_of(rows[TIMESTAMP])
        last = rows.assign(time=times).drop_duplicates(SERVER_NAME, keep="last")
        servers = {
            str(name): (int(time), str(profile))
            for name, time, profile in zip(last[SERVER_NAME], last["time"], last[PROFILE], strict=True)
        }
        about = {"oldest": int(times.min()), "newest": int(times.max()), "servers": servers}
        table = pa.Table.from_pandas(rows[SCHEMA.names], SCHEMA, preserve_index=False)
        table = table.replace_schema_metadata({_ABOUT: json.dumps(about)})
        path = self.folder / f"{_FIRST_DAY + timedelta(days=day)}.parquet"
        try:
            with atomic_path(path) as partial:
                pq.write_table(table, partial, compression="zstd", row_group_size=_GROUP_ROWS, write_page_checksum=True)
            _flush_folder(self.folder)
            _flush_folder(self.folder.parent)
        except (OSError, pa.ArrowException) as error:
            raise _failing(path, error) from error
        with self._lock:
            self._days[day] = Day(path, len(rows), about["oldest"], about["newest"], servers)  # type: ignore[arg-type]

    def remove(self, day: int) -> None:
        """Delete a day.

        Raises
        ------
        DataFileError
            If its file cannot be deleted; it still counts then.
        """
        with self._lock:
            known = self._days[day]
            try:
                known.path.unlink(missing_ok=True)
            except OSError as error:
                raise _failing(known.path, error) from error
            del self._days[day]

    def _rescue(self, day: int, path: Path) -> None:
        """Set a damaged file aside; the parts of it that can be read take its place."""
        before = self._days.pop(day, None)
        aside = path.with_name(f"{path.name}.damaged-{utc_now():%Y%m%dT%H%M%S%fZ}")
        parts = list(_readable_parts(path, day))
        try:
            path.replace(aside)
            self.damaged.append(aside.name)
            if parts:
                self.write(day, pd.concat(parts, ignore_index=True))
        except OSError as error:  # a DataFileError is one, too
            log.warning("a damaged day could not be mended; its file is kept", reason=str(error))
        kept = sum(map(len, parts))
        lost = None if before is None else before.rows - kept
        log.error("damaged day of the history set aside", file=aside.name, rows_kept=kept, rows_lost=lost)


# ------------------------------------------------------------------------------------------------------------ one file
def _day_of(path: Path) -> int | None:
    """Number of the day that a file is named after."""
    try:
        return (date.fromisoformat(path.stem) - _FIRST_DAY).days
    except ValueError:
        return None


def _read_footer(path: Path, day: int) -> Day:
    try:
        with _guarded():
            metadata = pq.read_metadata(path)
        about = json.loads((metadata.metadata or {})[_ABOUT])
        servers = {str(name): (int(last), str(profile)) for name, (last, profile) in about["servers"].items()}
        known = Day(path, metadata.num_rows, int(about["oldest"]), int(about["newest"]), servers)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _DamagedError from error
    if not (day * DAY_US <= known.oldest <= known.newest < (day + 1) * DAY_US and known.servers):
        raise _DamagedError
    return known


def _read(path: Path, names: Sequence[str] | None) -> pd.DataFrame:
    with _guarded(), pq.ParquetFile(path, page_checksum_verification=True) as file:
        groups = [
            group
            for group in range(file.num_row_groups)
            if names is None or _may_hold(file.metadata.row_group(group), names)
        ]
        table = file.read_row_groups(groups, columns=SCHEMA.names)
        if names is not None:
            servers = table[SERVER_NAME].cast(pa.string())
            table = table.filter(pc.is_in(servers, value_set=pa.array(list(names), pa.string())))
        return _to_frame(table)


def _may_hold(group: Any, names: Sequence[str]) -> bool:
    statistics = group.column(SCHEMA.names.index(SERVER_NAME)).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    return any(statistics.min <= name <= statistics.max for name in names)


def _readable_parts(path: Path, day: int) -> Iterator[pd.DataFrame]:
    """What each row group of a damaged file still gives."""
    with (
        contextlib.suppress(_DamagedError, OSError),
        _guarded(),
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        for group in range(file.num_row_groups):
            with contextlib.suppress(_DamagedError), _guarded():
                part = _to_frame(file.read_row_group(group, columns=SCHEMA.names))
                times = microseconds_of(part[TIMESTAMP])
                if len(part) and (times // DAY_US == day).all():
                    yield part


def _to_frame(table: pa.Table) -> pd.DataFrame:
    frame = table.cast(SCHEMA).to_pandas()
    return frame.astype({SERVER_NAME: object, STATE: object, PROFILE: object})


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """Tell a damaged file from a disk that fails: what Arrow finds wrong in a file has no number of the system."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, ValueError, KeyError) as error:
        raise _DamagedError from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise _DamagedError from error


def _flush_folder(folder: Path) -> None:
    """Have a renaming survive a crash of the machine."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failing(path: Path, error: Exception) -> DataFileError:
    return DataFileError(
        f"{path.name} cannot be read or written: {error}.",
        why="It holds a day of the history. Nothing was changed; what was there stays.",
        fix="Check free space and permissions of the folder TFT_HISTORY_DIR.",
        document="Docs/DAEMON.md",
    )


def _self_check() -> None:
    import tempfile

    day = 20_000
    frame = pd.DataFrame(
        {
            TIMESTAMP: pd.to_datetime([day * 86_400, day * 86_400 + 300], unit="s", utc=True).as_unit("us"),
            SERVER_NAME: "ppweb001",
            **{column: [0.1, None] for column in METRIC_COLUMNS},
            STATE: "healthy",
            PROFILE: "web_api",
        }
    )
    frame = frame.astype({SERVER_NAME: object, STATE: object, PROFILE: object})
    with tempfile.TemporaryDirectory() as folder:
        days = HistoryDays(Path(folder) / DAILY_FOLDER)
        days.write(day, frame)
        days = HistoryDays(days.folder)
        pd.testing.assert_frame_equal(days.read(day, ["ppweb001"])[frame.columns.tolist()], frame)
        assert days.rows == 2 and days.read(day, ["nobody"]).empty
        path = days.days[day].path
        path.write_bytes(path.read_bytes()[:-9])
        assert HistoryDays(days.folder).damaged
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
