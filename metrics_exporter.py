"""How contract data leaves the product: CSV or Parquet with the contract's names, whole or cut by server and time.

Data of any size goes through piece by piece. It is validated first, and the file appears only when all of it is
written. `python main.py import FILE --preset contract` brings it back as it was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from common_utils import atomic_path, iso_z
from contract_parquet import iter_frames, open_writer, to_table
from data_contract import (
    METRIC_COLUMNS,
    REQUIRED_COLUMNS,
    SERVER_NAME,
    TIMESTAMP,
    ContractError,
    DataFileError,
    shorten,
)
from data_validator import DataValidator

__all__ = ["ExportReport", "Format", "export_file"]

Format = Literal["csv", "parquet"]
DOCUMENT: Final = "Docs/IMPORTING.md"
_ROWS_PER_GROUP: Final = 262_144
_CSV_SCHEMA: Final = pa.schema(
    [(name, pa.float32() if name in METRIC_COLUMNS else pa.string()) for name in REQUIRED_COLUMNS]
)

Progress = Callable[[int, int], None]  # rows done, rows in all
Write = Callable[[pa.Table], None]


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes
    ----------
    out : str
        The file.
    format : str
        `csv` or `parquet`.
    rows, servers, bytes : int
        Rows and distinct servers in it, and its size.
    start, end : str
        Its first and last time, ISO 8601.
    """

    out: str
    format: str
    rows: int
    servers: int
    bytes: int
    start: str
    end: str

    def as_dict(self) -> dict[str, Any]:
        """The same for `--json`."""
        return asdict(self)


def export_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    file_format: Format,
    *,
    servers: Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write contract data to one file.

    Parameters
    ----------
    path : path
        Contract Parquet: a file, or a folder of them.
    out : path
        The file to write; one that is there is replaced.
    file_format : str
        `csv` or `parquet`.
    servers : sequence of str, optional
        Only these servers.
    since, until : datetime, optional
        Only rows from `since` on, and before `until`; naive times are UTC.
    progress : callable, optional
        Called with the rows done and the rows in all; every row is read twice.

    Raises
    ------
    DataFileError
        If the data cannot be read, or the file cannot be written; what was there before stays.
    ContractError
        If the data breaks the contract, a server is not in it, or no rows are left.
    """
    path, out = Path(path), Path(out)
    _refuse_overlap(path, out)
    advance = progress or _silent
    judged = DataValidator(strict=True).validate_file(path, lambda done, total: advance(done, 2 * total))
    bounds = [_microseconds(moment) for moment in (since, until)]
    kept = _Kept()
    with _replacing(out, file_format) as write:
        done = 0
        for piece in iter_frames(path, list(REQUIRED_COLUMNS), _ROWS_PER_GROUP):
            done += len(piece)
            rows = _cut(to_table(piece), servers, bounds[0], bounds[1])
            if rows.num_rows:
                kept.add(rows)
                write(rows)
            advance(judged.rows + done, 2 * judged.rows)
        absent = sorted(set(servers or ()) - kept.servers)
        if absent or not kept.rows:
            period = "" if since is None and until is None else " in the time asked for"
            raise ContractError(
                f"{path} holds no rows{f' of {shorten(absent)}' if absent else ''}{period}.",
                why="A file that lacks what was asked for would be taken for a fleet without it; none was written.",
                fix="Check --server, --since and --until; the data "
                f"{_period(judged.start, judged.end)}, and server_mapping.json beside it names its servers.",
                document=DOCUMENT,
            )
    return ExportReport(
        out=str(out),
        format=file_format,
        rows=kept.rows,
        servers=len(kept.servers),
        bytes=out.stat().st_size,
        start=iso_z(_moment(kept.start)),
        end=iso_z(_moment(kept.end)),
    )


def _silent(done: int, total: int) -> None:
    """Progress that nobody watches."""
    del done, total


class _Kept:
    """What was written so far."""

    def __init__(self) -> None:
        self.rows = 0
        self.servers: set[str] = set()
        self.start, self.end = (1 << 63) - 1, -(1 << 63)

    def add(self, rows: pa.Table) -> None:
        self.rows += rows.num_rows
        self.servers.update(pc.unique(rows[SERVER_NAME].cast(pa.string())).to_pylist())
        ends = pc.min_max(rows[TIMESTAMP].cast(pa.int64())).as_py()
        self.start, self.end = min(self.start, ends["min"]), max(self.end, ends["max"])


def _cut(rows: pa.Table, servers: Sequence[str] | None, since: int | None, until: int | None) -> pa.Table:
    """Rows of some servers and of a period."""
    if servers:
        rows = rows.filter(pc.is_in(rows[SERVER_NAME].cast(pa.string()), pa.array(list(servers), pa.string())))
    if since is not None:
        rows = rows.filter(pc.greater_equal(rows[TIMESTAMP].cast(pa.int64()), since))
    if until is not None:
        rows = rows.filter(pc.less(rows[TIMESTAMP].cast(pa.int64()), until))
    return rows


@contextlib.contextmanager
def _replacing(out: Path, file_format: Format) -> Iterator[Write]:
    """A file of the format that appears only if the block ends without an error."""
    try:
        if file_format == "parquet":
            with open_writer(out) as writer:
                yield writer.write
        else:
            with atomic_path(out) as partial, partial.open("wb") as stream:
                with pa_csv.CSVWriter(stream, _CSV_SCHEMA) as csv_writer:
                    yield lambda rows: csv_writer.write_table(_as_text(rows))
                stream.flush()
    except (OSError, pa.ArrowException) as error:
        cause = error.__cause__ if isinstance(error, DataFileError) else error
        if not isinstance(cause, OSError) or isinstance(cause, DataFileError):
            raise
        raise DataFileError(
            f"{out} cannot be written: {cause.strerror or cause}.",
            why="The export is incomplete without it; nothing half-written was left behind.",
            fix="Free some space, or choose another file with --out, then export again.",
            document=DOCUMENT,
        ) from error


def _as_text(rows: pa.Table) -> pa.Table:
    """Rows with names and times as text: ISO 8601 with a `Z`, sub-second digits only where there are some."""
    times = pc.replace_substring(rows[TIMESTAMP].cast(pa.string()), " ", "T")
    columns = {name: rows[name] for name in REQUIRED_COLUMNS}
    columns[TIMESTAMP] = pc.replace_substring_regex(times, r"\.000000Z$", "Z")
    return pa.table(columns).cast(_CSV_SCHEMA)


def _refuse_overlap(path: Path, out: Path) -> None:
    """Data must not be read from where it is written to."""
    inside = path.is_dir() and path.resolve() in out.resolve().parents and out.suffix == ".parquet"
    if out.is_dir() or inside or (out.exists() and path.exists() and out.samefile(path)):
        what = "is a folder" if out.is_dir() else "is part of the data that would be exported"
        raise DataFileError(
            f"{out} cannot be written: it {what}.",
            why="The export would replace or become its own source.",
            fix="Name another file with --out.",
            document=DOCUMENT,
        )


def _microseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    aware = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
    since_epoch = aware - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (since_epoch.days * 86_400 + since_epoch.seconds) * 1_000_000 + since_epoch.microseconds


def _moment(microseconds: int) -> datetime:
    moment: datetime = pa.scalar(microseconds, pa.timestamp("us", tz="UTC")).as_py()
    return moment


def _period(start: datetime | None, end: datetime | None) -> str:
    return "holds no times" if start is None or end is None else f"lies between {iso_z(start)} and {iso_z(end)}"


def _self_check() -> None:
    import tempfile

    import pandas as pd

    from data_contract import PROFILE, STATE

    frame = pd.DataFrame(
        {
            TIMESTAMP: pd.to_datetime(["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5Z"], format="ISO8601"),
            SERVER_NAME: ['a, "b"', "é c"],
            **{column: [0.1, None] for column in METRIC_COLUMNS},
            STATE: "healthy",
            PROFILE: "generic",
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        with open_writer(Path(folder) / "data.parquet") as writer:
            writer.write(frame)
        report = export_file(Path(folder) / "data.parquet", Path(folder) / "data.csv", "csv", servers=["é c"])
        assert (report.rows, report.start) == (1, "2026-01-01T00:00:00.500000Z")
        text = (Path(folder) / "data.csv").read_text(encoding="utf-8").splitlines()
        assert text[1] == '"2026-01-01T00:00:00.500000Z","é c",,,,,"healthy","generic"', text
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
