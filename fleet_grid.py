"""How contract rows become a fleet on the 5-minute grid: whole for training, rolling for the daemon.

Servers × steps × metrics in contiguous arrays. Finer data is averaged onto the grid; a gap stays a gap (NaN), never an
invented value. NumPy and pandas only; the model's tensors are made from these grids in `tft_features.py`, and grids of
files larger than memory in `training_data.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_contract import (
    DAY_STEPS,
    METRIC_COLUMNS,
    PROFILE,
    SERVER_NAME,
    STATE,
    STEP_MINUTES,
    TIMESTAMP,
    VALID_STATES,
    ContractError,
)
from grid_averages import N_METRICS, STEP_MICROSECONDS, GridAverages

__all__ = ["DAY_STEPS", "N_METRICS", "FleetGrid", "GridRows", "RollingGrid", "microseconds_of", "step_of", "time_of"]

STEP_SECONDS = STEP_MINUTES * 60

MAX_GRID_CELLS = 500_000_000  # servers × steps; 500 M cells are 10 GB
_ROWS_AT_ONCE = 1_000_000
_STATE_PLACES = {state: place for place, state in enumerate(VALID_STATES)}
_BLOCK_CELLS = 1_000_000  # worked on at a time, some 50 MB


def step_of(moment: datetime) -> int:
    """Index of the 5-minute step (since 1970, UTC) that a moment falls in."""
    moment = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
    return int(moment.timestamp() // STEP_SECONDS)


def time_of(step: int) -> datetime:
    """Start of a step, aware, UTC."""
    return datetime.fromtimestamp(step * STEP_SECONDS, tz=timezone.utc)


@dataclass(frozen=True)
class GridRows:
    """Contract rows as numbers: what `GridAverages` takes in.

    Attributes
    ----------
    servers : int64 array
        Places in the given names, -1 for other servers.
    steps, instants : int64 arrays
        5-minute steps and microseconds since 1970, UTC.
    values : float64 array, (rows, n_metrics)
    states : int8 array
        Places in `VALID_STATES`, -1 for anything else.
    """

    servers: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    instants: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    states: npt.NDArray[np.int8]

    @classmethod
    def of(cls, frame: pd.DataFrame, place_of: Mapping[str, int]) -> GridRows:
        """Read contract rows; `place_of` gives each server's number."""
        instants = microseconds_of(frame[TIMESTAMP])
        values = [frame[column].to_numpy(dtype=np.float64, na_value=np.nan) for column in METRIC_COLUMNS]
        return cls(
            servers=_places(frame[SERVER_NAME], place_of),
            steps=instants // STEP_MICROSECONDS,
            instants=instants,
            values=np.stack(values, axis=-1),
            states=_places(frame[STATE], _STATE_PLACES).astype(np.int8),
        )

    def __getitem__(self, kept: npt.NDArray[np.bool_]) -> GridRows:
        return GridRows(self.servers[kept], self.steps[kept], self.instants[kept], self.values[kept], self.states[kept])


def microseconds_of(timestamps: pd.Series) -> npt.NDArray[np.int64]:
    """Microseconds since 1970 of each timestamp, whatever its resolution; naive times are UTC."""
    if timestamps.dt.tz is not None:
        timestamps = timestamps.dt.tz_convert("UTC").dt.tz_localize(None)
    result: npt.NDArray[np.int64] = timestamps.to_numpy().astype("datetime64[us]").astype(np.int64)
    return result


def _places(text: pd.Series, place_of: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Number of each text, -1 for those that have none."""
    text = text if isinstance(text.dtype, pd.CategoricalDtype) else text.astype("category")
    places = np.array([*(place_of.get(str(value), -1) for value in text.cat.categories), -1], dtype=np.int64)
    found: npt.NDArray[np.int64] = places[text.cat.codes.to_numpy()]  # code -1, for missing, takes the last one
    return found


def _profiles_by_server(frame: pd.DataFrame) -> dict[str, str]:
    """Profile of each server in a frame, that of its last row; servers in the order of their first rows."""
    newest = frame[[SERVER_NAME, PROFILE]].drop_duplicates(SERVER_NAME, keep="last")
    profile_of = dict(zip(newest[SERVER_NAME].astype(str), newest[PROFILE].astype(str), strict=True))
    return {name: profile_of[name] for name in map(str, frame[SERVER_NAME].unique())}


@dataclass(frozen=True)
class FleetGrid:
    """A fleet on the 5-minute grid.

    Attributes
    ----------
    names, profiles : tuple of str
        One per server.
    first_step : int
        Index of the first step since 1970.
    values : float32 array, (n_servers, n_steps, n_metrics)
        Averages over each step in the metrics' units; NaN where nothing was measured.
    states : int8 array, (n_servers, n_steps)
        Index into `VALID_STATES`; -1 where there is none.
    """

    names: tuple[str, ...]
    profiles: tuple[str, ...]
    first_step: int
    values: npt.NDArray[np.float32]
    states: npt.NDArray[np.int8]

    @property
    def n_servers(self) -> int:
        """Number of servers."""
        return len(self.names)

    @property
    def n_steps(self) -> int:
        """Number of steps."""
        return int(self.values.shape[1])

    @property
    def origin_step(self) -> int:
        """First step after the grid, where a forecast begins."""
        return self.first_step + self.n_steps

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> FleetGrid:
        """Put contract rows on the grid; finer data is averaged, the last state of a step counts.

        Parameters
        ----------
        frame : DataFrame
            Valid contract rows in any order.

        Raises
        ------
        ContractError
            If there are no rows, or if their time range is absurd for the number of servers.
        """
        if frame.empty:
            raise ContractError(
                "There are no rows.",
                why="Without measurements there is nothing to learn from and nothing to forecast.",
                fix="Check the time range and the import report.",
            )
        profile_of = _profiles_by_server(frame)
        names = tuple(sorted(profile_of))
        place_of = {name: place for place, name in enumerate(names)}
        steps = microseconds_of(frame[TIMESTAMP]) // STEP_MICROSECONDS
        first, last = int(steps.min()), int(steps.max())
        n_steps = last - first + 1
        if len(names) * n_steps > MAX_GRID_CELLS:
            raise ContractError(
                f"{len(names):,} servers from {time_of(first):%Y-%m-%d} to {time_of(last):%Y-%m-%d} exceed memory.",
                why="Every server has one cell per 5 minutes of the whole time range; a clock that was once wrong "
                "stretches it over years.",
                fix="Remove the rows with wrong times, or use a shorter time range.",
            )
        averages = GridAverages(len(names), n_steps)
        for start in range(0, len(frame), _ROWS_AT_ONCE):
            rows = GridRows.of(frame.iloc[start : start + _ROWS_AT_ONCE], place_of)
            averages.add(rows.servers, rows.steps - first, rows.instants, rows.values, rows.states)
        return cls(names, tuple(profile_of[name] for name in names), first, averages.means(), averages.states)

    def blocks(self, cells: int = _BLOCK_CELLS) -> Iterator[slice]:
        """Slices of servers with at most so many cells each: to go through a grid that is larger than the memory."""
        servers = max(1, cells // max(1, self.n_steps))
        for start in range(0, self.n_servers, servers):
            yield slice(start, min(start + servers, self.n_servers))

    def until(self, step: int) -> FleetGrid:
        """The same fleet as it was known when `step` began."""
        keep = max(0, step - self.first_step)
        return FleetGrid(self.names, self.profiles, self.first_step, self.values[:, :keep], self.states[:, :keep])

    def since(self, step: int) -> FleetGrid:
        """The same fleet without what lies before `step`."""
        drop = min(max(0, step - self.first_step), self.n_steps)
        return FleetGrid(
            self.names, self.profiles, self.first_step + drop, self.values[:, drop:], self.states[:, drop:]
        )

    def select(self, servers: Sequence[int]) -> FleetGrid:
        """Some of the servers, by position."""
        index = np.asarray(servers, dtype=np.int64)
        return FleetGrid(
            tuple(self.names[i] for i in index),
            tuple(self.profiles[i] for i in index),
            self.first_step,
            self.values[index],
            self.states[index],
        )


class RollingGrid:
    """The newest hours of a fleet, kept on the grid while rows arrive. Not thread-safe: the caller holds a lock.

    Parameters
    ----------
    hours : int
        How far back it remembers. Rows older than that are ignored.
    """

    def __init__(self, hours: int) -> None:
        self._n_steps = hours * 3600 // STEP_SECONDS
        self._end = 0  # first step after the ring
        self._index: dict[str, int] = {}
        self._profiles: list[str] = []
        self._averages = GridAverages(0, self._n_steps)
        self._last_seen = np.zeros(0, dtype=np.int64)

    @property
    def server_names(self) -> tuple[str, ...]:
        """Servers heard of so far."""
        return tuple(self._index)

    @property
    def newest(self) -> datetime | None:
        """Start of the newest step that holds a row, None before the first row."""
        return time_of(self._end - 1) if self._end else None

    def last_seen(self, name: str) -> datetime | None:
        """Start of the newest step in which a server was heard of."""
        position = self._index.get(name)
        return None if position is None else time_of(int(self._last_seen[position]))

    def add(self, frame: pd.DataFrame) -> None:
        """Take in valid contract rows that were not added before."""
        if frame.empty:
            return
        self._grow(_profiles_by_server(frame))
        rows = GridRows.of(frame, self._index)
        self._advance(int(rows.steps.max()) + 1)
        np.maximum.at(self._last_seen, rows.servers, rows.steps)
        begin = self._end - self._n_steps
        rows = rows[rows.steps >= begin]
        self._averages.add(rows.servers, rows.steps - begin, rows.instants, rows.values, rows.states)

    def snapshot(self) -> FleetGrid:
        """Present content as an independent grid that ends with the newest step."""
        return FleetGrid(
            names=tuple(self._index),
            profiles=tuple(self._profiles),
            first_step=self._end - self._n_steps,
            values=self._averages.means(),
            states=self._averages.states.copy(),
        )

    def of_server(self, name: str) -> FleetGrid:
        """Present content of one server as an independent grid; KeyError if nothing was heard of it."""
        position = self._index[name]
        return FleetGrid(
            names=(name,),
            profiles=(self._profiles[position],),
            first_step=self._end - self._n_steps,
            values=self._averages.means(position),
            states=self._averages.states[position : position + 1].copy(),
        )

    def forget(self, names: Sequence[str]) -> None:
        """Drop servers that are gone for good."""
        keep = [position for name, position in self._index.items() if name not in set(names)]
        kept_names = [name for name in self._index if name not in set(names)]
        self._profiles = [self._profiles[position] for position in keep]
        self._averages.keep(keep)
        self._last_seen = self._last_seen[keep]
        self._index = {name: position for position, name in enumerate(kept_names)}

    def _grow(self, profile_of: dict[str, str]) -> None:
        for name, profile in profile_of.items():
            position = self._index.get(name)
            if position is None:
                self._index[name] = len(self._index)
                self._profiles.append(profile)
            else:
                self._profiles[position] = profile
        missing = len(self._index) - len(self._last_seen)
        if missing > 0:
            self._averages.grow(missing)
            self._last_seen = np.concatenate([self._last_seen, np.zeros(missing, dtype=np.int64)])

    def _advance(self, end: int) -> None:
        if end > self._end:
            self._averages.shift(end - self._end)
            self._end = end


def _self_check() -> None:
    rng = np.random.default_rng(0)
    times = pd.date_range("2026-01-01", periods=3 * DAY_STEPS, freq="5min", tz="UTC")
    frame = pd.DataFrame({TIMESTAMP: times, SERVER_NAME: "ppweb001", STATE: "healthy", PROFILE: "web_api"})
    frame[list(METRIC_COLUMNS)] = rng.uniform(1, 99, (len(times), N_METRICS))
    grid = FleetGrid.from_frame(frame.sample(frac=1, random_state=0))
    assert np.allclose(grid.values[0], frame[list(METRIC_COLUMNS)], rtol=1e-6)
    rolling = RollingGrid(hours=48)
    for _, piece in frame.groupby(np.arange(len(frame)) // 100):
        rolling.add(piece)
    assert np.allclose(rolling.snapshot().values[0], grid.values[0, -2 * DAY_STEPS :])
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
