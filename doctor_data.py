"""What is wrong with a data set and with a model folder, and whether the two belong together.

Knows neither services nor settings. The validator and torch are imported only where there is something to judge.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from common_utils import iso_z, move_link, read_json, remove_tree, utc_now
from data_contract import (
    CONTRACT_VERSION,
    DATA_FILE,
    SERVER_MAPPING,
    SERVER_NAME,
    TRAINING_INFO,
    DataFileError,
    ModelFolderError,
    shorten,
)
from doctor_findings import Finding

LEAST_DATA_HOURS: Final = 24.0  # as training asks for
OLD_DATA: Final = timedelta(days=7)
OLD_MODEL: Final = timedelta(days=30)
FEWEST_KNOWN: Final = 0.8  # share of the data's servers that a model should know

_ABANDONED: Final = timedelta(hours=1)  # what is being written now is younger
_LATEST: Final = "latest"
_FOLDERS: Final = "tft_model_*"


# ---------------------------------------------------------------------------------------------------------------- data
def check_data(folder: Path, now: datetime | None = None) -> Iterator[Finding]:
    """Judge the contract data of a folder as training would.

    Parameters
    ----------
    folder : Path
        Setting `data_dir`.
    now : datetime, optional
        UTC; what ages count from.
    """
    path = folder / DATA_FILE
    if not os.path.exists(path):  # noqa: PTH110 — a name too long is absent, too
        yield Finding("data-missing", f"There is no {path}.")
        return
    from data_validator import DataValidator

    try:
        report = DataValidator().validate_file(path)
    except DataFileError as error:
        yield Finding("data-invalid", error.what, fix=error.fix)
        return
    if not report.is_valid:
        yield Finding("data-invalid", f"{path} breaks the contract: {'; '.join(report.errors[:3])}.")
    findings = [] if report.quality is None else list(report.quality.findings)
    gaps = {finding.sentence() for finding in findings if finding.check.key == "gap"}
    if report.quality is not None and report.quality.gaps:
        longest = report.quality.longest_gap_seconds / 3600
        yield Finding("data-gaps", f"{path} has {report.quality.gaps:,} gap(s), the longest of {longest:.1f} hours.")
    others = [warning for warning in report.warnings if warning not in gaps]
    if others:
        yield Finding("data-suspicious", f"{path}: {'; '.join(others[:3])}{' …' if len(others) > 3 else '.'}")
    if report.start is None or report.end is None:
        return
    hours = (report.end - report.start).total_seconds() / 3600
    if hours < LEAST_DATA_HOURS:
        yield Finding("data-short", f"{path} covers {hours:.0f} hours; {LEAST_DATA_HOURS:.0f} are the least.")
    age = (now or utc_now()) - report.end
    if age > OLD_DATA:
        yield Finding("data-old", f"The newest row of {path} is of {iso_z(report.end)}, {age.days} days ago.")


# --------------------------------------------------------------------------------------------------------------- model
def check_model(models_dir: Path, data_dir: Path, now: datetime | None = None) -> Iterator[Finding]:
    """Judge the model that is served as the daemon would, and hold it to the data beside it."""
    now = now or utc_now()
    yield from _leftovers(models_dir, now)
    latest = models_dir / _LATEST
    is_there = os.path.isdir(latest)  # noqa: PTH112 — likewise
    if os.path.islink(latest) and not is_there:  # noqa: PTH114
        yield _broken_link(latest)
        return
    if not is_there:
        yield Finding("model-missing", f"There is no {latest}.")
        return
    info = read_json(latest / TRAINING_INFO)
    made_for = info.get("contract_version")
    if made_for is not None and made_for != CONTRACT_VERSION:
        what = f"{latest.resolve().name} was made for contract {shorten(made_for)}; this is {CONTRACT_VERSION}."
        yield Finding("model-contract", what)
        return
    from model_folder import load_model

    try:
        model = load_model(latest)
    except ModelFolderError as error:
        yield Finding("model-damaged", error.what)
        return
    yield from _quality(model.name, model.info)
    made = _time(model.info.get("created_at"))
    if made is not None and now - made > OLD_MODEL:
        yield Finding("model-old", f"{model.name} was trained on {iso_z(made)}, {(now - made).days} days ago.")
    if (data_dir / DATA_FILE).exists():
        yield from _strangers(model.name, set(model.encoder.name_to_id), data_dir)


def _quality(name: str, info: dict[str, Any]) -> Iterator[Finding]:
    quality = info.get("quality")
    failures = quality.get("failures") if isinstance(quality, dict) else None
    if isinstance(failures, list) and failures:
        yield Finding("model-quality", f"{name} did not pass its own validation: {shorten(failures)}.")


def _strangers(name: str, known: set[str], data_dir: Path) -> Iterator[Finding]:
    """How many servers of the data the model has not learned."""
    names = set(read_json(data_dir / SERVER_MAPPING).get("name_to_id") or ()) or _names(data_dir / DATA_FILE)
    strangers = sorted(names - known)
    if names and 1 - len(strangers) / len(names) < FEWEST_KNOWN:
        what = f"{name} has not learned {len(strangers):,} of the {len(names):,} servers of the data: "
        yield Finding("model-strangers", what + shorten(strangers, 3) + ".")


def _names(path: Path) -> set[str]:
    from contract_parquet import open_dataset

    try:
        names: set[str] = set()
        for batch in open_dataset(path).to_batches(columns=[SERVER_NAME]):
            names |= set(batch.column(0).unique().to_pylist()) - {None}
    except (DataFileError, ValueError, OSError):  # told by the section on data
        return set()
    return names


def _broken_link(latest: Path) -> Finding:
    # The folders' names hold the time at which they were made
    folders = sorted((each for each in latest.parent.glob(_FOLDERS) if each.is_dir()), reverse=True)
    what = f"{latest} points to {shorten(str(latest.readlink()))}, which is not there"
    if not folders:
        return Finding("model-link-broken", f"{what}, and there is no other model.", fix="python main.py train")

    def point() -> str:
        from model_folder import load_model

        for folder in folders:
            try:
                load_model(folder)
            except ModelFolderError:
                continue
            move_link(latest, folder)
            return f"pointed {latest} to {folder.name}, the newest model that can be used"
        raise OSError("none of the models beside it can be used")

    return Finding("model-link-broken", f"{what}; {len(folders)} other model(s) are.", point)


def _leftovers(models_dir: Path, now: datetime) -> Iterator[Finding]:
    """Folders that a save which was killed has left behind."""
    old = [
        each
        for each in models_dir.glob(".tft_model_*.partial")
        if each.is_dir() and now.timestamp() - each.stat().st_mtime > _ABANDONED.total_seconds()
    ]
    if old:

        def remove() -> str:
            for each in old:
                remove_tree(each)
            return f"removed {len(old)} unfinished model folder(s)"

        names = shorten([each.name for each in old])
        yield Finding(
            "model-leftovers", f"{models_dir} has unfinished model folders that nobody writes: {names}.", remove
        )


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
