"""What a fleet could have done, as contract data: a Parquet file with its metadata and server ids, or a live stream.

    python metrics_generator.py --servers 90 --hours 720 --out_dir ./training/

The fleet itself stands in `fleet_simulation.py` and `fleet_roles.py`, the stream in `fleet_stream.py`. Knows nothing of
models.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from common_utils import iso_z, utc_now, write_json, written_together
from contract_parquet import CONTRACT_SCHEMA, open_writer
from data_contract import CONTRACT_VERSION, DATA_FILE, DATA_INFO, SERVER_MAPPING, DataFileError
from data_validator import DataValidator, ValidationReport
from fleet_roles import fleet_names
from fleet_simulation import SIMULATION_VERSION
from fleet_stream import stream
from fleet_tables import GeneratorOptions, fleet_tables
from server_encoder import ServerEncoder

__all__ = ["GenerateResult", "GeneratorOptions", "fleet_names", "generate", "generate_frame", "stream"]

Progress = Callable[[int, int], None]  # rows done, rows in all


@dataclass(frozen=True)
class GenerateResult:
    """What was written."""

    data_file: Path
    metadata_file: Path
    mapping_file: Path
    report: ValidationReport

    def as_dict(self) -> dict[str, Any]:
        """The same for `--json`."""
        described = self.report.as_dict()
        return {
            "data_file": str(self.data_file),
            "metadata_file": str(self.metadata_file),
            "mapping_file": str(self.mapping_file),
            **{key: described[key] for key in ("rows", "servers", "start", "end", "profiles", "states")},
        }


def generate_frame(options: GeneratorOptions) -> pd.DataFrame:
    """Contract rows of a fleet in memory, sorted by time; for notebooks and tests."""
    tables = list(fleet_tables(options, options.begin, options.end))
    return pa.concat_tables(tables).cast(CONTRACT_SCHEMA).to_pandas()


def generate(
    options: GeneratorOptions, out_dir: str | os.PathLike[str], progress: Progress | None = None
) -> GenerateResult:
    """Write a fleet's `server_metrics.parquet`, `metrics_metadata.json` and `server_mapping.json`.

    The three are written aside, validated, and moved to their places together: a full disk or Ctrl-C leaves what was
    there before. Memory does not grow with the hours.

    Parameters
    ----------
    options : GeneratorOptions
    out_dir : path
        Folder to write to; it is made if it is not there.
    progress : callable, optional
        Called with the rows done and the rows in all.

    Raises
    ------
    DataFileError
        If the folder cannot be written or the disk is full.
    """
    folder = Path(out_dir)
    with _told(folder), written_together(folder, (DATA_FILE, SERVER_MAPPING, DATA_INFO)) as aside:
        with open_writer(aside / DATA_FILE) as writer:
            for table in fleet_tables(options, options.begin, options.end):
                writer.write(table)
                if progress is not None:
                    progress(min(writer.rows, options.most_rows - 1), options.most_rows)
        report = DataValidator(strict=True).validate_file(aside / DATA_FILE)
        encoder = ServerEncoder()
        encoder.create_mapping(fleet_names(options.servers))
        encoder.save_mapping(aside / SERVER_MAPPING)
        write_json(aside / DATA_INFO, _metadata(options, report))
    if progress is not None:
        progress(options.most_rows, options.most_rows)
    return GenerateResult(folder / DATA_FILE, folder / DATA_INFO, folder / SERVER_MAPPING, report)


def _metadata(options: GeneratorOptions, report: ValidationReport) -> dict[str, Any]:
    described = report.as_dict()
    return {
        "source": "generated",
        "contract_version": CONTRACT_VERSION,
        "generated_at": iso_z(utc_now().replace(microsecond=0)),
        **{key: described[key] for key in ("rows", "servers", "start", "end", "profiles", "states", "missing")},
        "scenario": options.scenario,
        # All that is needed to go on with this fleet where the file ends
        "options": {**asdict(options), "start": iso_z(options.begin)},
        "simulation_version": SIMULATION_VERSION,
    }


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
