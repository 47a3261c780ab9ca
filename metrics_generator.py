"""What a fleet could have done, as contract data: Parquet with metadata, server ids and incidents, or a live stream.

    python metrics_generator.py --servers 90 --hours 720 --out_dir ./training/

What the fleet does stands in `fleet_simulation.py` and below it, which rows that makes in `fleet_tables.py`, the stream
in `fleet_stream.py`. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from common_utils import iso_z, utc_now, write_json, written_together
from contract_parquet import CONTRACT_SCHEMA, open_writer
from data_contract import (
    CONTRACT_VERSION,
    DATA_FILE,
    DATA_INFO,
    INCIDENTS_FILE,
    SERVER_MAPPING,
    TIMESTAMP,
    ConfigurationError,
    DataFileError,
)
from data_validator import DataValidator, ValidationReport
from fleet_incidents import Incident
from fleet_roles import fleet_names
from fleet_simulation import SIMULATION_VERSION, SimulatedDay
from fleet_stream import stream
from fleet_tables import FleetRows, GeneratorOptions, fleet_tables, wrong_option
from server_encoder import ServerEncoder

__all__ = ["GenerateResult", "GeneratorOptions", "fleet_names", "generate", "generate_frame", "stream"]

Progress = Callable[[int, int], None]  # rows done, rows in all
Format = Literal["parquet", "partitioned", "csv"]
Made = TypeVar("Made")

CSV_FILE: Final = "server_metrics.csv"
_MOST_CSV_ROWS: Final = 10_000  # by the specification: CSV is for small sets


@dataclass(frozen=True)
class GenerateResult:
    """What was written."""

    data_file: Path  # a folder of one Parquet file per day if it is partitioned
    metadata_file: Path
    mapping_file: Path
    incidents_file: Path
    incidents: int
    report: ValidationReport

    def as_dict(self) -> dict[str, Any]:
        """The same for `--json`."""
        described = self.report.as_dict()
        return {
            "data_file": str(self.data_file),
            "metadata_file": str(self.metadata_file),
            "mapping_file": str(self.mapping_file),
            "incidents_file": str(self.incidents_file),
            "incidents": self.incidents,
            **{key: described[key] for key in ("rows", "servers", "start", "end", "profiles", "states")},
        }


def generate_frame(options: GeneratorOptions) -> pd.DataFrame:
    """Contract rows of a fleet in memory, sorted by time; for notebooks and tests."""
    tables = list(fleet_tables(options, options.begin, options.end))
    return pa.concat_tables(tables).cast(CONTRACT_SCHEMA).to_pandas()


def generate(
    options: GeneratorOptions,
    out_dir: str | os.PathLike[str],
    progress: Progress | None = None,
    *,
    file_format: Format = "parquet",
    workers: int | None = None,
) -> GenerateResult:
    """Write a fleet's data, `metrics_metadata.json`, `server_mapping.json` and `metrics_incidents.parquet`.

    All are written aside, validated, and moved to their places together: a full disk or Ctrl-C leaves what was there
    before. Memory does not grow with the hours; the rows do not depend on the number of workers.

    Parameters
    ----------
    options : GeneratorOptions
    out_dir : path
        Folder to write to; it is made if it is not there.
    progress : callable, optional
        Called with the rows done and the rows in all.
    file_format : {"parquet", "partitioned", "csv"}
        One file `server_metrics.parquet`; a folder of that name with one file per day,
        `date=YYYY-MM-DD/part-0.parquet`; or `server_metrics.csv` for less than 10,000 rows.
    workers : int, optional
        Threads that make rows; by default as many as there are cores, up to 8.

    Raises
    ------
    ConfigurationError
        If the format or the number of workers is none, or the rows are too many for CSV.
    DataFileError
        If the folder cannot be written or the disk is full.
    """
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    _check(options, file_format, workers)
    folder = Path(out_dir)
    data_name = CSV_FILE if file_format == "csv" else DATA_FILE
    names = (data_name, SERVER_MAPPING, INCIDENTS_FILE, DATA_INFO)
    stale = (DATA_FILE,) if file_format == "csv" else (CSV_FILE,)
    rows = FleetRows(options)
    befallen: list[Incident] = []
    written = _Progress(progress, options.most_rows)
    with _told(folder), written_together(folder, names, stale) as aside:
        write = {"parquet": _write_file, "partitioned": _write_partitions, "csv": _write_csv}[file_format]
        write(rows, _noting(rows.days(options.begin, options.end), befallen), aside, workers, written)
        report = DataValidator(strict=True).validate_file(aside / DATA_FILE)
        if file_format == "csv":
            (aside / DATA_FILE).unlink()
        encoder = ServerEncoder()
        encoder.create_mapping(fleet_names(options.servers))
        encoder.save_mapping(aside / SERVER_MAPPING)
        incidents = rows.incidents(befallen, options.begin, options.end)
        pq.write_table(incidents, aside / INCIDENTS_FILE)
        write_json(aside / DATA_INFO, _metadata(options, report, incidents))
    if progress is not None:
        progress(options.most_rows, options.most_rows)
    return GenerateResult(
        folder / data_name,
        folder / DATA_INFO,
        folder / SERVER_MAPPING,
        folder / INCIDENTS_FILE,
        incidents.num_rows,
        report,
    )


# ------------------------------------------------------------------------------------------------------------- writing
class _Progress:
    """Adds up rows that several threads have written."""

    def __init__(self, progress: Progress | None, most_rows: int) -> None:
        self._progress = progress
        self._most_rows = most_rows
        self._rows = 0

    def add(self, rows: int) -> None:
        self._rows += rows
        if self._progress is not None:
            self._progress(min(self._rows, self._most_rows - 1), self._most_rows)


def _noting(days: Iterator[SimulatedDay], incidents: list[Incident]) -> Iterator[SimulatedDay]:
    """Hand days on and keep their incidents."""
    for day in days:
        incidents += day.incidents
        yield day


def _write_file(rows: FleetRows, days: Iterator[SimulatedDay], aside: Path, workers: int, written: _Progress) -> None:
    """One file; the workers make tables, which are written in order."""
    options = rows.options
    tasks = (task for day in days for task in rows.tasks(day, options.begin, options.end))
    with open_writer(aside / DATA_FILE) as writer:
        for table in _in_order(tasks, workers):
            writer.write(table)
            written.add(table.num_rows)


def _write_partitions(
    rows: FleetRows, days: Iterator[SimulatedDay], aside: Path, workers: int, written: _Progress
) -> None:
    """One file per day; every worker writes days of its own."""
    options = rows.options

    def write(day: SimulatedDay) -> int:
        with open_writer(aside / DATA_FILE / f"date={day.begin:%Y-%m-%d}" / "part-0.parquet") as writer:
            for table in rows.pieces(day, options.begin, options.end):
                writer.write(table)
        return writer.rows

    for count in _in_order((partial(write, day) for day in days), workers):
        written.add(count)


def _write_csv(rows: FleetRows, days: Iterator[SimulatedDay], aside: Path, workers: int, written: _Progress) -> None:
    """CSV, from the Parquet that is validated."""
    _write_file(rows, days, aside, workers, written)
    table = pq.read_table(aside / DATA_FILE)
    moments = table[TIMESTAMP].to_pandas().dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    texts = {TIMESTAMP: pa.array(moments), **{name: table[name] for name in table.column_names if name != TIMESTAMP}}
    plain = pa.table(texts).cast(
        pa.schema(
            [
                (name, column.type.value_type if pa.types.is_dictionary(column.type) else column.type)
                for name, column in texts.items()
            ]
        )
    )
    pa_csv.write_csv(plain, aside / CSV_FILE)


def _in_order(tasks: Iterator[Callable[[], Made]], workers: int) -> Iterator[Made]:
    """Results of tasks in their order; a few are worked on ahead, never all, so that memory stays bounded."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(task))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _metadata(options: GeneratorOptions, report: ValidationReport, incidents: pa.Table) -> dict[str, Any]:
    described = report.as_dict()
    causes = incidents["cause"].to_pylist()
    return {
        "source": "generated",
        "contract_version": CONTRACT_VERSION,
        "generated_at": iso_z(utc_now().replace(microsecond=0)),
        **{key: described[key] for key in ("rows", "servers", "start", "end", "profiles", "states", "missing")},
        "scenario": options.scenario,
        "incidents": {cause: causes.count(cause) for cause in sorted(set(causes))},
        # All that is needed to go on with this fleet where the file ends
        "options": {**asdict(options), "start": iso_z(options.begin)},
        "simulation_version": SIMULATION_VERSION,
    }


def _check(options: GeneratorOptions, file_format: str, workers: int) -> None:
    if file_format not in get_args(Format):
        raise wrong_option(f"format must be one of {', '.join(get_args(Format))}, not {file_format!r}")
    if not 1 <= workers <= 256:
        raise wrong_option(f"workers must be 1 to 256, not {workers}")
    if file_format == "csv" and options.most_rows >= _MOST_CSV_ROWS:
        raise ConfigurationError(
            f"This fleet cannot be written: CSV is for less than {_MOST_CSV_ROWS:,} rows, and this fleet has "
            f"{options.most_rows:,}.",
            why="CSV keeps no types, so large sets in it are slow to read and easily misread.",
            fix="Take --format parquet or partitioned, or fewer --servers; `python main.py export` makes CSV of parts.",
            document="QUICK_START.md",
        )


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn what the system says of the files written aside into an error about the folder that the user knows."""
    try:
        yield
    except OSError as error:
        cause = error.__cause__ if isinstance(error, DataFileError) else error
        if not isinstance(cause, OSError):
            raise
        raise DataFileError(
            f"{folder} cannot be written: {cause.strerror or cause}.",
            why="The next stage reads these files; nothing half-written was left behind.",
            fix="Free some space or choose another folder with --out_dir, then run the command again.",
        ) from error


if __name__ == "__main__":
    from main import run_command

    run_command("generate")
