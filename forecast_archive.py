"""What was forecast and when: kept for some days, so that a forecast can be held against what came of it.

One SQLite file beside the history: of every step's last forecast, each server's p10, p50 and p90 at the three horizons.
Losing some of it costs a comparison, not a measurement. Knows nothing of torch, of measurements or HTTP.
"""

from __future__ import annotations

import contextlib
import threading
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_contract import HORIZONS, METRIC_COLUMNS, SERVED_QUANTILES
from fleet_grid import step_of
from forecast import Forecast
from sqlite_file import Schema, SqliteFile

STORE_FILE = "forecasts.sqlite3"
_SHAPE = (len(HORIZONS), len(METRIC_COLUMNS), len(SERVED_QUANTILES))
_TYPE = np.dtype("<f4")

_SCHEMA = Schema(
    application_id=0x54465446,  # "TFTF"
    version=1,
    content="past forecasts",
    tables=(
        "CREATE TABLE servers (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
        # origin: index of the 5-minute step since 1970, UTC; data: 3 horizons × 4 metrics × 3 quantiles, float32
        """CREATE TABLE forecasts (origin INTEGER NOT NULL, server INTEGER NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (origin, server)) WITHOUT ROWID""",
    ),
)
_INSERT = "INSERT INTO forecasts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET data = excluded.data"
_READ = (
    "WITH RECURSIVE steps(step) AS (SELECT ? UNION ALL SELECT step + 1 FROM steps WHERE step < ?) "
    "SELECT origin, data FROM steps CROSS JOIN forecasts ON forecasts.origin = steps.step AND forecasts.server = ?"
)


class ForecastArchive:
    """Forecasts of the last days, written by one thread and read by several.

    Parameters
    ----------
    folder : Path
        Where `forecasts.sqlite3` lies. It is opened when it is first needed, so that it never holds up a start.
    keep : timedelta
        How long a forecast is kept, counted from the newest one.
    """

    def __init__(self, folder: Path, keep: timedelta) -> None:
        self._path = folder / STORE_FILE
        self._keep_steps = int(keep / timedelta(minutes=5))
        self._lock = threading.RLock()
        self._opened: SqliteFile | None = None
        self._ids: dict[str, int] = {}
        self._latest: Forecast | None = None  # not written yet: late rows may still change it
        self._closed = False

    def note(self, forecast: Forecast) -> None:
        """Remember a forecast; of several from the same step the last one stays.

        Raises
        ------
        DaemonError, DataFileError
            If the file cannot be opened or written; what it held stays.
        """
        with self._lock:
            before, self._latest = self._latest, forecast
            if before is not None and before.origin != forecast.origin:
                self._write(before)

    def close(self) -> None:
        """Write what is not yet written and release the file. May be called again."""
        with self._lock:
            latest, self._latest = self._latest, None
            try:
                if latest is not None and not self._closed:
                    self._write(latest)
            finally:
                self._closed = True
                if self._opened is not None:
                    self._opened.close()

    def of_server(self, name: str, horizon: str, first_step: int, last_step: int) -> pd.DataFrame:
        """What had been forecast for each step, a given time ahead.

        Parameters
        ----------
        horizon : str
            One of the contract's horizons: how long before each step its forecast was made.
        first_step, last_step : int
            Steps that were forecast, as indices since 1970.

        Returns
        -------
        DataFrame
            One row per step from `first_step` to `last_step`, which is its index; columns are pairs of metric and
            quantile's name. NaN where nothing was forecast.

        Raises
        ------
        DaemonError, DataFileError
            If the file cannot be opened or read.
        """
        ahead = HORIZONS[horizon]
        place = tuple(HORIZONS).index(horizon)
        values = np.full((last_step - first_step + 1, *_SHAPE[1:]), np.nan)
        with self._lock:
            if not self._closed and (self._opened is not None or self._path.exists()):
                with self._file().reading() as connection:
                    span = (first_step - ahead, last_step - ahead, self._ids.get(name, -1))
                    for origin, data in connection.execute(_READ, span):
                        values[origin + ahead - first_step] = np.frombuffer(data, _TYPE).reshape(_SHAPE)[place]
            latest = self._latest
        if latest is not None and name in latest.server_names:
            step = step_of(latest.origin) + ahead
            if first_step <= step <= last_step:
                values[step - first_step] = _served(latest, [latest.index(name)])[0, place]
        columns = pd.MultiIndex.from_product([METRIC_COLUMNS, SERVED_QUANTILES], names=["metric", "quantile"])
        index = pd.RangeIndex(first_step, last_step + 1, name="step")
        return pd.DataFrame(values.reshape(len(values), -1), index=index, columns=columns)

    # -------------------------------------------------------------------------------------------------------- internal
    def _file(self) -> SqliteFile:
        if self._opened is None:
            self._opened = SqliteFile(self._path, _SCHEMA)
            with self._opened.reading() as connection:
                self._ids = {name: number for number, name in connection.execute("SELECT id, name FROM servers")}
        return self._opened

    def _write(self, forecast: Forecast) -> None:
        file = self._file()
        origin = step_of(forecast.origin)
        data = _served(forecast, slice(None)).astype(_TYPE)
        with file.transaction() as connection:
            ids = dict(self._ids)  # known only when the transaction has ended well
            for name in forecast.server_names:
                if name not in ids:
                    cursor = connection.execute("INSERT INTO servers (name) VALUES (?)", (name,))
                    ids[name] = int(cursor.lastrowid or 0)
            rows = zip((ids[name] for name in forecast.server_names), data, strict=True)
            connection.executemany(_INSERT, ((origin, number, row.tobytes()) for number, row in rows))
            connection.execute("DELETE FROM forecasts WHERE origin < ?", (origin - self._keep_steps,))
        self._ids = ids


def _served(forecast: Forecast, servers: slice | list[int]) -> npt.NDArray[np.float32]:
    """Values at the horizons, (n_servers, horizons, metrics, quantiles)."""
    at_horizons = [step - 1 for step in HORIZONS.values()]
    return np.stack([forecast.at(share)[servers][:, at_horizons] for share in SERVED_QUANTILES.values()], axis=-1)


def _self_check() -> None:
    import tempfile
    from datetime import timezone

    origin = datetime(2026, 1, 5, tzinfo=timezone.utc)
    values = np.arange(96 * 4 * 3, dtype=np.float32).reshape(1, 96, 4, 3)
    forecast = Forecast(("ppweb001",), ("web_api",), np.array([True]), origin, values, (0.1, 0.5, 0.9))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            with contextlib.closing(ForecastArchive(Path(folder), timedelta(days=1))) as archive:
                archive.note(forecast)
                step = step_of(origin) + HORIZONS["30min"]
                found = archive.of_server("ppweb001", "30min", step - 1, step)
                assert found.loc[step, ("cpu_pct", "p50")] == values[0, 5, 0, 1]
                assert found.loc[step - 1].isna().all()
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
