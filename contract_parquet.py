"""How contract rows are written to Parquet and read back, whole or in pieces.

One schema for the generator, the importer, the trainer and the daemon. Files carry the contract's version in their
key-value metadata. Judging the rows is `data_validator.py`'s work; this module only moves them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from common_utils import atomic_path
from data_contract import (
    CONTRACT_VERSION,
    INCIDENTS_FILE,
    METRIC_COLUMNS,
    PROFILE,
    REQUIRED_COLUMNS,
    SERVER_NAME,
    STATE,
    TIMESTAMP,
    DataFileError,
)

# Small files and row groups are put together: what pandas does once a piece takes as long as 60,000 rows
_ROWS_WORTH_A_PIECE = 65_536

_MOST_TICKS = 2**63 - 1

VERSION_KEY = b"contract_version"

# float32 holds a percentage to 6 digits at half the memory; strings are dictionary-encoded because they repeat.
CONTRACT_SCHEMA = pa.schema(
    [
        pa.field(TIMESTAMP, pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field(SERVER_NAME, pa.dictionary(pa.int32(), pa.string()), nullable=False),
        *(pa.field(column, pa.float32()) for column in METRIC_COLUMNS),
        pa.field(STATE, pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field(PROFILE, pa.dictionary(pa.int32(), pa.string()), nullable=False),
    ],
    metadata={VERSION_KEY: CONTRACT_VERSION.encode()},
)


class ContractWriter:
    """Streams frames or tables into one contract Parquet file, row group by row group.

    Use it through `open_writer`, which makes the file appear only when all of it is written.
    """

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self.rows = 0

    def write(self, rows: pd.DataFrame | pa.Table) -> None:
        """Append rows that hold the contract's columns (others are dropped)."""
        table = to_table(rows) if isinstance(rows, pd.DataFrame) else rows.select(CONTRACT_SCHEMA.names)
        self._writer.write_table(table.cast(CONTRACT_SCHEMA))
        self.rows += table.num_rows


@contextlib.contextmanager
def open_writer(path: str | os.PathLike[str]) -> Iterator[ContractWriter]:
    """Open a contract Parquet file for writing; it appears at `path` only if the block ends without an error.

    Raises
    ------
    DataFileError
        If the folder cannot be written or the disk is full.
    """
    try:
        with (
            atomic_path(path) as partial,
            pq.ParquetWriter(
                partial, CONTRACT_SCHEMA, compression="zstd", compression_level=1, write_page_checksum=True
            ) as writer,
        ):
            yield ContractWriter(writer)
    except DataFileError:
        raise
    except OSError as error:
        raise DataFileError(
            f"{path} cannot be written: {error.strerror or error}.",
            why="The next stage reads this file; nothing half-written was left behind.",
            fix="Free some space or choose another folder with --out_dir, then run the command again.",
        ) from error


def to_table(frame: pd.DataFrame) -> pa.Table:
    """Arrow table in the contract's schema; naive timestamps are UTC."""
    columns: dict[str, Any] = {}
    for field in CONTRACT_SCHEMA:
        series = frame[field.name]
        if field.name == TIMESTAMP:
            series = series.dt.tz_localize("UTC") if series.dt.tz is None else series.dt.tz_convert("UTC")
        columns[field.name] = pa.Array.from_pandas(series).cast(field.type)
    return pa.table(columns, schema=CONTRACT_SCHEMA)


def open_dataset(path: str | os.PathLike[str]) -> ds.Dataset:
    """Lazy data set over a Parquet file or a folder of them.

    Of a folder all `*.parquet` count, also in folders below, but nothing that is hidden (so are files half-written),
    and not the ground truth that lies beside generated data.

    Raises
    ------
    DataFileError
        If there is nothing at `path` or it is no Parquet.
    """
    path = Path(path)
    files = data_files(path) if path.is_dir() else [path] if path.exists() else []
    if not files:
        raise DataFileError(
            f"There is no Parquet data at {path}.",
            why="Without rows there is nothing to validate, learn from or forecast.",
            fix="Check the path, or make data with `python main.py generate` or `python main.py import FILE`.",
        )
    try:
        checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        kind = ds.ParquetFileFormat(default_fragment_scan_options=checked)
        return ds.dataset([str(file) for file in files], format=kind, partitioning="hive")
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error


def data_files(folder: Path) -> list[Path]:
    """Parquet files in a folder and those below, but nothing that is hidden."""
    return sorted(
        path
        for path in folder.rglob("*.parquet")
        if path.is_file()
        and path.name != INCIDENTS_FILE
        and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    )


def iter_frames(
    path: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    batch_rows: int = 262_144,
    period: tuple[int, int] | None = None,
) -> Iterator[pd.DataFrame]:
    """Read a file or folder piece by piece, in constant memory, file after file.

    With a period (microseconds since 1970, the end excluded), what lies outside it by the files' own statistics is not
    read; rows outside it may come all the same.

    Columns that a file lacks are left out of its pieces; small files of the same columns share a piece. Arrow's data
    sets are not used here: measured on 23 million rows, their scanner reads on while the caller works, up to 1.7 GB; a
    `ParquetFile` without pre-buffering stays at 0.2 GB whatever the size.

    Raises
    ------
    DataFileError
        If the data cannot be read, from the start or half-way.
    """
    dataset = open_dataset(path)
    at: str | os.PathLike[str] = path
    enough = min(batch_rows, _ROWS_WORTH_A_PIECE)
    waiting: list[pa.Table] = []
    try:
        for fragment in dataset.get_fragments():
            at = fragment.path  # which of many files it is that cannot be read
            keys = ds.get_partition_keys(fragment.partition_expression)
            told = {key: value for key, value in keys.items() if columns is None or key in columns}
            options: dict[str, Any] = {"pre_buffer": False, "buffer_size": 1 << 20}
            groups = None if period is None else _groups_within(fragment, period)
            if groups == []:
                continue
            with pq.ParquetFile(fragment.path, page_checksum_verification=True, **options) as file:
                there = file.schema_arrow.names
                wanted = there if columns is None else [name for name in columns if name in there]
                for batch in file.iter_batches(batch_rows, row_groups=groups, columns=wanted):
                    table = pa.Table.from_batches([batch]).select(wanted)
                    for key, value in told.items():
                        table = _with_constant(table, key, value)
                    if waiting and (
                        table.schema != waiting[0].schema or _rows_of(waiting) + table.num_rows > batch_rows
                    ):
                        yield _to_frame(waiting)
                        waiting = []
                    waiting.append(table)
                    if _rows_of(waiting) >= enough:
                        yield _to_frame(waiting)
                        waiting = []
    except (pa.ArrowException, OSError) as error:
        raise unreadable(at, error) from error
    if waiting:
        yield _to_frame(waiting)


def _groups_within(fragment: Any, period: tuple[int, int]) -> list[int] | None:
    """Row groups of a file that may hold rows of a period; None, for all of them, where times are of another type."""
    schema = fragment.physical_schema
    kind = schema.field(TIMESTAMP).type if TIMESTAMP in schema.names else None
    if kind is None or not pa.types.is_timestamp(kind):
        return None
    nanoseconds = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}[kind.unit]  # that one of the file is
    begin, end = period[0] * 1_000 // nanoseconds, -(-period[1] * 1_000 // nanoseconds)
    begin, end = (pa.scalar(min(max(moment, -_MOST_TICKS), _MOST_TICKS), kind) for moment in (begin, end))
    within = (pc.field(TIMESTAMP) >= begin) & (pc.field(TIMESTAMP) < end)
    return [group.id for group in fragment.subset(within).row_groups]


def _rows_of(tables: list[pa.Table]) -> int:
    return sum(table.num_rows for table in tables)


def _with_constant(table: pa.Table, name: str, value: Any) -> pa.Table:
    """A table with a column that holds one value throughout, told by the name of its folder."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(table.num_rows, np.int32)), pa.array([value]))
    return table.drop_columns([name] * (name in table.column_names)).append_column(name, column)


def _to_frame(tables: list[pa.Table]) -> pd.DataFrame:
    table = tables[0] if len(tables) == 1 else pa.concat_tables(tables).unify_dictionaries()
    return table.to_pandas()


def read_frame(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, since: pd.Timestamp | None = None
) -> pd.DataFrame:
    """Read a file or folder whole, optionally only rows from `since` on.

    Columns that the data lacks are left out, for the validator to name them.

    Raises
    ------
    DataFileError
        If the data cannot be read.
    """
    dataset = open_dataset(path)
    present = [name for name in (columns or REQUIRED_COLUMNS) if name in dataset.schema.names]
    condition = None
    if since is not None and TIMESTAMP in dataset.schema.names:
        condition = pc.field(TIMESTAMP) >= pa.scalar(since, dataset.schema.field(TIMESTAMP).type)
    try:
        return dataset.to_table(columns=present, filter=condition).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error


def unreadable(path: str | os.PathLike[str], error: Exception) -> DataFileError:
    """Error for a file that is there but cannot be read as Parquet."""
    if isinstance(error, PermissionError):
        return DataFileError(
            f"{path} cannot be read: you have no permission to read it.",
            why="Without its rows there is nothing to validate, learn from or forecast.",
            fix="Let its owner give you the right to (`chmod a+r FILE`), or name another file.",
        )
    told = str(error).splitlines()[0]
    if "Exceeded size limit" in told:  # Arrow refuses footers above 100 MB, which is some 800,000 columns
        told = "it has too many columns or row groups, their list alone is larger than 100 MB."
    return DataFileError(
        f"{path} cannot be read as Parquet: {told}",
        why="The file is damaged, cut short or of another kind, so its rows cannot be trusted.",
        fix="Write the file again, or wait if a program is writing it just now; CSV and foreign Parquet come in with "
        "`python main.py import FILE`.",
    )


def _self_check() -> None:
    import tempfile

    frame = pd.DataFrame(
        {
            TIMESTAMP: pd.to_datetime(["2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"]),
            SERVER_NAME: ["ppweb001", "ppweb001"],
            **{column: [1.5, None] for column in METRIC_COLUMNS},
            STATE: ["healthy", "idle"],
            PROFILE: ["web_api", "web_api"],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "server_metrics.parquet"
        with open_writer(path) as writer:
            writer.write(frame)
        back = read_frame(path)
        assert list(back.columns) == list(REQUIRED_COLUMNS) and len(back) == 2
        assert back[METRIC_COLUMNS[0]].isna().tolist() == [False, True]
        assert pq.read_schema(path).metadata[VERSION_KEY] == CONTRACT_VERSION.encode()
        try:
            read_frame(Path(folder) / "absent.parquet")
        except DataFileError as error:
            assert "absent.parquet" in str(error)
        else:
            raise AssertionError
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
