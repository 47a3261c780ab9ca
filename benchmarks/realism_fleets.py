"""The fleets that are compared: two recorded months, a generated one, or any contract data, on one 5-minute grid."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from realism_features import METRICS
from realism_measures import DAY

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from contract_parquet import read_frame
from data_contract import DATA_FILE, PROFILE, SERVER_NAME, TIMESTAMP
from data_validator import load_valid_frame
from metrics_generator import GeneratorOptions, generate_frame

REAL_FOLDER = "TFT_REAL_DATA"
REAL_MONTHS = {"july": "bitbrains_rnd_5min_2013-07.parquet", "august": "bitbrains_rnd_5min_2013-08.parquet"}
REAL_UTC_OFFSET = timedelta(hours=2)  # the hoster is Dutch and it was summer; both files begin at local midnight

MONDAY = datetime(2013, 7, 1, tzinfo=timezone.utc)  # the recorded July begins on the same day, by local time
DAYS = 30  # as long as each recorded month


@dataclass(frozen=True)
class Fleet:
    """A fleet's metrics on the grid, from a midnight on.

    Attributes
    ----------
    names, profiles : array of str, (n_servers,)
    values : float32 array, (n_servers, 3 metrics, n_steps)
        Means over 5 minutes; NaN where nothing was measured. Whole days.
    first_weekday : int
        0 is Monday.
    """

    names: npt.NDArray[np.str_]
    profiles: npt.NDArray[np.str_]
    values: npt.NDArray[np.float32]
    first_weekday: int

    @property
    def days(self) -> int:
        """How many days it was watched."""
        return int(self.values.shape[2] // DAY)

    def metric(self, place: int) -> npt.NDArray[np.float32]:
        """One metric, (n_servers, n_steps)."""
        return self.values[:, place]

    def some(self, most: int, rng: np.random.Generator) -> Fleet:
        """At most that many of its servers, drawn at random."""
        if len(self.names) <= most:
            return self
        return self.select(np.sort(rng.choice(len(self.names), most, replace=False)))

    def select(self, servers: npt.NDArray[Any]) -> Fleet:
        """Some of its servers, by position."""
        return Fleet(self.names[servers], self.profiles[servers], self.values[servers], self.first_weekday)


def to_fleet(frame: pd.DataFrame, utc_offset: timedelta = timedelta(0)) -> Fleet:
    """Contract rows → the days, by local time, that they touch; finer rows are averaged."""
    local = frame[TIMESTAMP].dt.tz_convert("UTC").dt.tz_localize(None) + utc_offset
    steps = local.to_numpy().astype("datetime64[s]").astype(np.int64) // 300
    first = steps.min() // DAY * DAY
    width = int(-(-(steps.max() + 1 - first) // DAY) * DAY)
    codes, names = pd.factorize(frame[SERVER_NAME], sort=True)
    cell = codes.astype(np.int64) * width + (steps - first)
    size = len(names) * width
    values = np.empty((len(names), len(METRICS), width), np.float32)
    for place, metric in enumerate(METRICS):
        column = frame[metric].to_numpy(dtype=np.float64, na_value=np.nan)
        seen = np.isfinite(column)
        count = np.bincount(cell[seen], minlength=size)
        total = np.bincount(cell[seen], weights=column[seen], minlength=size)
        with np.errstate(invalid="ignore"):
            values[:, place] = (total / count).reshape(len(names), width)
    profile_of = frame.groupby(SERVER_NAME, observed=True)[PROFILE].first()
    weekday = datetime.fromtimestamp(first * 300, tz=timezone.utc).weekday()
    names = np.asarray(names, dtype=str)
    return Fleet(names, profile_of.loc[names].to_numpy(dtype=str), values, weekday)


def generated_fleet(servers: int, seed: int) -> Fleet:
    """The default fleet, as long as a recorded month and from the same day of the week on."""
    options = GeneratorOptions(servers=servers, hours=DAYS * 24, start=MONDAY, seed=seed)
    return to_fleet(generate_frame(options))


def stored_fleet(path: Path) -> Fleet:
    """Any contract data: a file, or a folder with one.

    Raises
    ------
    ProductError
        If it cannot be read or breaks the contract.
    """
    return to_fleet(load_valid_frame(path))


def real_fleets(cache: Path | None) -> dict[str, Fleet] | None:
    """The recorded months, each as a fleet, or None where there are none.

    They come in through the product's own importer, with its repairs: CPU above 100 % is clipped, memory without a
    capacity is missing. With `cache`, what was imported is kept there.
    """
    folder = os.environ.get(REAL_FOLDER, "")
    sources = {month: Path(folder) / name for month, name in REAL_MONTHS.items()}
    if not folder or not all(source.is_file() for source in sources.values()):
        return None
    with _kept(cache) as keep:
        return {month: to_fleet(_imported(source, keep), REAL_UTC_OFFSET) for month, source in sources.items()}


@contextmanager
def _kept(cache: Path | None) -> Iterator[Path]:
    if cache is not None:
        yield cache
        return
    with TemporaryDirectory() as folder:
        yield Path(folder)


def _imported(source: Path, keep: Path) -> pd.DataFrame:
    about = source.stat()
    folder = keep / f"{source.stem}-{about.st_size}-{about.st_mtime_ns}"
    if not (folder / DATA_FILE).is_file():
        from metrics_importer import import_files, load_preset  # not needed for what is kept already

        import_files(source, load_preset("bitbrains"), folder)
    return read_frame(folder / DATA_FILE, [TIMESTAMP, SERVER_NAME, *METRICS, PROFILE])
