"""Whether a frame, a Parquet file or a model folder obeys the contract: all faults at once, each with an example.

Files of any size are judged piece by piece, in memory that grows with the number of servers and not of rows (how rows
are judged stands in `contract_judge.py`). Knows nothing of where the data came from or what is done with it next.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from common_utils import iso_z, sha256_of_file, utc_now
from contract_judge import RowJudge, ValidationReport
from contract_parquet import VERSION_KEY, data_files, iter_frames, open_dataset, read_frame, unreadable
from data_contract import (
    CONTRACT_VERSION,
    METRIC_COLUMNS,
    MODEL_CONFIG,
    MODEL_FILES,
    MODEL_WEIGHTS,
    PROFILE,
    REQUIRED_COLUMNS,
    SERVER_MAPPING,
    SERVER_NAME,
    STATE,
    TIMESTAMP,
    TRAINING_INFO,
    VALID_PROFILES,
    VALID_STATES,
    ContractError,
    DataFileError,
    ModelFolderError,
    shorten,
)
from data_quality import SECOND, QualityWatch
from model_inputs import Layout
from quality_checks import FUTURE_TOLERANCE, OLDEST
from server_encoder import ServerEncoder

__all__ = [
    "DataValidator",
    "Progress",
    "ValidationReport",
    "judge_valid",
    "load_valid_frame",
    "load_valid_tail",
    "model_folder_error",
]

Progress = Callable[[int, int], None]  # rows done, rows in all
_MAX_WEIGHTS_MB = 1000  # the largest network that can be trained, for a million servers, has a third of it
_DAMAGED_LISTED = 10


class DataValidator:
    """Judge data and model folders against the contract.

    Parameters
    ----------
    strict : bool
        Raise an error that holds all findings, instead of only returning them.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict

    def validate_schema(self, df: pd.DataFrame) -> tuple[bool, list[str], list[str]]:
        """Check a frame: columns, types, states, profiles, ranges, missing values, duplicates, order.

        Returns
        -------
        is_valid : bool
        errors, warnings : list of str

        Raises
        ------
        ContractError
            If there are errors and the validator is strict.
        """
        judge = RowJudge()
        judge.add(df)
        judge.search_duplicates(lambda: [df])
        report = judge.report("the data frame")
        if self.strict and not report.is_valid:
            raise ContractError.from_findings(report.source, report.errors)
        return report.is_valid, report.errors, report.warnings

    def validate_file(self, path: str | os.PathLike[str], progress: Progress | None = None) -> ValidationReport:
        """Check a Parquet file, or a folder of them, in constant memory: the contract, and the quality of each server.

        Parameters
        ----------
        path : path
            File or folder.
        progress : callable, optional
            Called with the rows done and the rows in all after every piece.

        Raises
        ------
        DataFileError
            If there is nothing at `path` or it cannot be read.
        ContractError
            If there are errors and the validator is strict.
        """
        watch = QualityWatch(int(utc_now().timestamp()) * SECOND, OLDEST, FUTURE_TOLERANCE)
        report, _ = _judge_pieces(path, RowJudge(watch), progress)
        if self.strict and not report.is_valid:
            raise ContractError.from_findings(report.source, report.errors)
        return report

    def validate_model_compatibility(
        self, model_dir: str | os.PathLike[str], df: pd.DataFrame | None = None
    ) -> tuple[bool, list[str]]:
        """Check a model folder, and optionally that a frame may be forecast with it.

        The four files must be there, readable and whole, and made for this contract. Servers that the model does not
        know are no fault: they are forecast as unknown ones.

        Returns
        -------
        is_compatible : bool
        errors : list of str

        Raises
        ------
        ModelFolderError
            If there are errors and the validator is strict.
        """
        errors, info = _judge_model_folder(Path(model_dir))
        if df is not None:
            _, found, _ = DataValidator().validate_schema(df)
            errors += [f"data: {finding}" for finding in found]
            for column, key in ((STATE, "states"), (PROFILE, "profiles")):
                known = info.get(key)
                if column in df.columns and isinstance(known, list):
                    strange = sorted(set(map(str, df[column].dropna().unique())) - set(map(str, known)))
                    if strange:
                        errors.append(f"data: `{column}` holds values that the model was not made for: {strange}")
        if self.strict and errors:
            raise model_folder_error(Path(model_dir), errors)
        return not errors, errors


def load_valid_frame(path: str | os.PathLike[str], since: pd.Timestamp | None = None) -> pd.DataFrame:
    """Read a contract file (or only its rows from `since` on) and make sure that it obeys the contract.

    Timestamps come back in UTC, naive ones being UTC; the order of the rows stays. Warnings are logged.

    Raises
    ------
    DataFileError
        If the file cannot be read.
    ContractError
        If it breaks the contract, with all findings.
    """
    footers = _judge_footers(path)
    try:
        frame = read_frame(path, since=since)
    except DataFileError:
        if footers.errors:  # files that do not fit together cannot be read as one
            raise ContractError.from_findings(str(path), footers.errors) from None
        raise
    judge = RowJudge()
    judge.add(frame)
    judge.search_duplicates(lambda: [frame])
    source = str(path) if since is None else f"{path} (from {iso_z(since.to_pydatetime())} on)"
    report = judge.report(source, footers.errors, footers.warnings)
    _insist(report)
    times = frame[TIMESTAMP]
    frame[TIMESTAMP] = times.dt.tz_localize("UTC") if times.dt.tz is None else times.dt.tz_convert("UTC")
    return frame


def judge_valid(
    path: str | os.PathLike[str], progress: Progress | None = None
) -> tuple[ValidationReport, dict[str, str]]:
    """Make sure that a contract file or folder of any size obeys the contract, as `load_valid_frame` does.

    Returns
    -------
    ValidationReport, and the profile of every server by its name.

    Raises
    ------
    DataFileError
        If the file cannot be read.
    ContractError
        If it breaks the contract, with all findings.
    """
    report, profiles = _judge_pieces(path, RowJudge(), progress)
    _insist(report)
    return report, profiles


def _insist(report: ValidationReport) -> None:
    """Log the warnings of a report, and raise an error that holds its errors if there are any."""
    for warning in report.warnings:
        logging.getLogger(__name__).warning("%s: %s", report.source, warning)
    if not report.is_valid:
        raise ContractError.from_findings(report.source, report.errors)


def _judge_pieces(
    path: str | os.PathLike[str], judge: RowJudge, progress: Progress | None
) -> tuple[ValidationReport, dict[str, str]]:
    """Let a judge see the footers and all rows of a file or folder, piece by piece."""
    footers = _judge_footers(path)
    present = [name for name in REQUIRED_COLUMNS if name in footers.columns]
    judge.judge_columns(footers.columns)
    if present:
        for piece in iter_frames(path, present):
            judge.add(piece, columns_judged=True)
            if progress is not None:
                progress(judge.rows, footers.rows)
    else:
        judge.rows = footers.rows  # there are rows, only none of the contract's columns
    judge.search_duplicates(lambda: iter_frames(path, [TIMESTAMP, SERVER_NAME]))
    return judge.report(str(path), footers.errors, footers.warnings), judge.profiles


def load_valid_tail(path: str | os.PathLike[str], hours: float, latest: datetime | None = None) -> pd.DataFrame:
    """Read the newest hours of a contract file, as `load_valid_frame` does, in memory for them alone.

    Parameters
    ----------
    path : path
        File or folder.
    hours : float
        Counted back from the newest row.
    latest : datetime, optional
        Counted back from here instead if the newest row is later still; rows after it come back too.

    Raises
    ------
    DataFileError
        If the file cannot be read.
    ContractError
        If these rows break the contract, or if there are none, with all findings.
    """
    newest = _newest_time(path)
    if newest is None:
        return load_valid_frame(path)  # which tells what is wrong with the times
    if latest is not None:
        newest = min(newest, pd.Timestamp(latest))
    return load_valid_frame(path, newest - pd.Timedelta(hours=hours))


def _newest_time(path: str | os.PathLike[str]) -> pd.Timestamp | None:
    """Newest time of a file, UTC, found in constant memory; None where times are missing or of another type."""
    if TIMESTAMP not in open_dataset(path).schema.names:
        return None
    newest: pd.Timestamp | None = None
    for piece in iter_frames(path, [TIMESTAMP]):
        if TIMESTAMP not in piece or not pd.api.types.is_datetime64_any_dtype(piece[TIMESTAMP].dtype):
            return None
        moment = piece[TIMESTAMP].max()
        if pd.isna(moment):
            continue
        moment = moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")
        newest = moment if newest is None else max(newest, moment)
    return newest


@dataclass
class _Footers:
    """What the footers of all files of a data set say."""

    columns: list[str] = field(default_factory=list)  # of all files, as often as the first one that has them
    rows: int = 0
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def _judge_footers(path: str | os.PathLike[str]) -> _Footers:
    """Version, columns and types of every file of a data set, from its footer.

    Raises
    ------
    DataFileError
        If there is nothing at `path`, or with the names of all files that cannot be read.
    """
    found = _Footers()
    wrong: dict[str, list[str]] = {}
    silent: list[str] = []
    kinds: dict[str, dict[str, list[str]]] = {column: {} for column in REQUIRED_COLUMNS}  # column → kind → files
    damaged: list[DataFileError] = []
    files: list[str] = []
    for fragment in _fragments(path, damaged):
        try:
            schema, rows = fragment.physical_schema, fragment.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            damaged.append(unreadable(fragment.path, error))
            continue
        name = Path(fragment.path).name
        files.append(name)
        version = (schema.metadata or {}).get(VERSION_KEY)
        if version is None:
            silent.append(name)
        elif version != CONTRACT_VERSION.encode():
            wrong.setdefault(version.decode("utf-8", "replace"), []).append(name)
        known = set(found.columns)
        keys = ds.get_partition_keys(fragment.partition_expression)
        # What folders are called after is no column of the data, unless it is one of the contract's.
        contract_keys = [key for key in keys if key in REQUIRED_COLUMNS]
        found.columns += [column for column in (*schema.names, *contract_keys) if column not in known]
        there = dict(zip(schema.names, schema.types, strict=True))
        for column, of_column in kinds.items():
            kind = _kind_of(there[column]) if column in there else "text" if column in keys else ""
            if kind is not None:
                of_column.setdefault(kind, []).append(name)
        found.rows += rows
    if damaged:
        raise _damaged(path, damaged, len(files))
    found.errors += [
        f"contract version {shorten(version)} instead of {CONTRACT_VERSION}: {shorten(names)}"
        for version, names in wrong.items()
    ]
    for column, of_column in kinds.items():
        lacking = of_column.pop("", [])
        if lacking and of_column:
            found.errors.append(f"column `{column}` is missing in some files: {shorten(lacking)}")
        if len(of_column) > 1:
            told = "; ".join(f"{kind} in {shorten(names)}" for kind, names in of_column.items())
            found.errors.append(f"column `{column}` is of different types: {told}")
    if silent:
        found.warnings.append(f"the file does not say which contract version it follows: {shorten(silent)}")
    return found


def _fragments(path: str | os.PathLike[str], damaged: list[DataFileError]) -> Iterator[Any]:
    """Files of a data set; where the first one is damaged, Arrow does not open the whole, so each is tried."""
    try:
        yield from open_dataset(path).get_fragments()
    except DataFileError as error:
        folder = Path(path)
        if not folder.is_dir() or error.__cause__ is None:  # there is nothing at all
            raise
        for file in data_files(folder):
            try:
                yield from open_dataset(file).get_fragments()
            except DataFileError as fault:
                damaged.append(fault)


def _damaged(path: str | os.PathLike[str], faults: list[DataFileError], sound: int) -> DataFileError:
    if len(faults) == 1:
        return faults[0]
    listed = "\n".join(f"    - {fault.what}" for fault in faults[:_DAMAGED_LISTED])
    more = f"\n    … and {len(faults) - _DAMAGED_LISTED:,} more" if len(faults) > _DAMAGED_LISTED else ""
    return DataFileError(
        f"{len(faults):,} of {len(faults) + sound:,} files in {path} cannot be read:\n{listed}{more}",
        why=faults[0].why,
        fix=faults[0].fix,
    )


def _kind_of(kind: pa.DataType) -> str | None:
    """What a column of a file holds, as far as it matters whether two files agree; None if nothing but nulls."""
    if pa.types.is_null(kind):
        return None
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_timestamp(kind):
        return "times"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "numbers"
    return str(kind)


# ------------------------------------------------------------------------------------------------------- model folder


def _judge_model_folder(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Errors of a model folder, and its training_info as far as it can be read."""
    if not folder.is_dir():
        return [f"there is no model folder at {folder}"], {}
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    errors = [f"`{name}` is missing" for name in missing]
    documents: dict[str, dict[str, Any]] = {}
    for name in (MODEL_CONFIG, TRAINING_INFO):
        if name in missing:
            continue
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            errors.append(f"`{name}` cannot be read as JSON ({error})")
            continue
        if isinstance(content, dict):
            documents[name] = content
        else:
            errors.append(f"`{name}` holds {type(content).__name__} where a JSON object belongs")
    if MODEL_CONFIG in documents:
        features = documents[MODEL_CONFIG].get("features")
        errors += [f"`{MODEL_CONFIG}`: {fault}" for fault in _input_faults(features)]
    info = documents.get(TRAINING_INFO, {})
    if TRAINING_INFO in documents:
        errors += _judge_training_info(info)
        if MODEL_WEIGHTS not in missing:
            errors += _judge_weights(folder / MODEL_WEIGHTS, info.get("weights_sha256"))
    if SERVER_MAPPING not in missing:
        try:
            ServerEncoder(folder / SERVER_MAPPING)
        except ContractError as error:
            errors.append(f"`{SERVER_MAPPING}` cannot be used: {error.what}")
    return errors, info


def _input_faults(features: Any) -> list[str]:
    """What keeps a model's inputs from being those that this program makes for its layout."""
    other = ["the model was made by another version of this program, for other inputs"]
    try:
        names = Layout.from_dict(features).names()
    except (KeyError, TypeError, OverflowError):
        return other
    except ValueError as error:
        return [f"the layout of its inputs makes no network: {error}"]
    return [] if {part: features.get(part) for part in names} == names else other


def _judge_training_info(info: dict[str, Any]) -> Iterator[str]:
    """Compare what the model was made for with the contract of this program."""
    if info.get("contract_version") != CONTRACT_VERSION:
        yield (
            f"`{TRAINING_INFO}`: contract_version is {shorten(info.get('contract_version'))}, "
            f"this program follows {CONTRACT_VERSION}"
        )
    for key, expected in (("states", VALID_STATES), ("profiles", VALID_PROFILES), ("metrics", METRIC_COLUMNS)):
        found = info.get(key)
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            yield f"`{TRAINING_INFO}`: {key} is {shorten(found)} where a list of names belongs"
            continue
        lacking, foreign = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        parts = [f"lacks {shorten(lacking)}"] * bool(lacking) + [f"has the foreign {shorten(foreign)}"] * bool(foreign)
        if parts:
            yield f"`{TRAINING_INFO}`: {key} differs from the contract's: it {' and '.join(parts)}"


def _judge_weights(path: Path, expected: object) -> Iterator[str]:
    """Compare the weights' checksum with the one that was noted when they were saved."""
    if not isinstance(expected, str):
        yield f"`{TRAINING_INFO}`: weights_sha256 is missing, so the weights cannot be checked"
        return
    try:
        size = path.stat().st_size
        if size > _MAX_WEIGHTS_MB * 1e6:  # hashing a huge file would take minutes, or for ever
            yield f"`{path.name}` is larger than {_MAX_WEIGHTS_MB} MB, so it holds no weights of this program"
            return
        found = sha256_of_file(path)
    except OSError as error:
        yield f"`{path.name}` cannot be read ({error.strerror or error})"
        return
    if found != expected.lower():
        yield f"`{path.name}` is damaged or was exchanged: SHA-256 {found[:12]}… instead of {expected[:12]}…"


def model_folder_error(folder: Path, findings: list[str]) -> ModelFolderError:
    """Join all that was found wrong in a model folder into one error."""
    listed = "\n".join(f"    - {finding}" for finding in findings)
    return ModelFolderError(
        f"{folder} is no usable model folder:\n{listed}",
        why="A model that is incomplete, damaged or made for another contract would forecast nonsense.",
        fix="Restore the folder from where it was trained, or train anew with `python main.py train`.",
    )


def _self_check() -> None:
    times = pd.date_range("2026-01-01", periods=3, freq="5min", tz="UTC")
    frame = pd.DataFrame(
        {
            TIMESTAMP: times,
            SERVER_NAME: "ppweb001",
            **{column: [1.0, np.nan, 2.0] for column in METRIC_COLUMNS},
            STATE: "healthy",
            PROFILE: "web_api",
        }
    )
    validator = DataValidator()
    assert validator.validate_schema(frame) == (True, [], [])
    frame.loc[1, "cpu_pct"] = 140.0
    frame.loc[2, STATE] = "exploded"
    is_valid, errors, _ = validator.validate_schema(frame)
    assert not is_valid and len(errors) == 2, errors
    assert "140" in errors[0] and "ppweb001" in errors[0] and "exploded" in errors[1]
    compatible, errors = validator.validate_model_compatibility("no such folder")
    assert not compatible and "no such folder" in errors[0]
    print("✅ All tests passed")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        from main import run_command

        run_command("validate")
    else:
        _self_check()
