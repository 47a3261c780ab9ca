"""How contract rows become a fleet on the 5-minute grid: whole for training, rolling for the daemon.

Servers × steps × metrics in contiguous arrays. Finer data is averaged onto the grid; a gap stays a gap (NaN), never an
invented value. NumPy and pandas only; the model's tensors are made from these grids in `tft_features.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_contract import (
    METRIC_COLUMNS,
    METRICS,
    PROFILE,
    SERVER_NAME,
    STATE,
    STEP_MINUTES,
    TIMESTAMP,
    VALID_STATES,
    ContractError,
)

STEP_SECONDS = STEP_MINUTES * 60
DAY_STEPS = 24 * 60 // STEP_MINUTES
N_METRICS = len(METRICS)

MAX_GRID_CELLS = 500_000_000  # servers × steps; 500 M cells are 10 GB
_BLOCK_CELLS = 1_000_000  # worked on at a time, some 50 MB


def step_of(moment: datetime) -> int:
    """Index of the 5-minute step (since 1970, UTC) that a moment falls in."""
    moment = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
    return int(moment.timestamp() // STEP_SECONDS)


def time_of(step: int) -> datetime:
    """Start of a step, aware, UTC."""
    return datetime.fromtimestamp(step * STEP_SECONDS, tz=timezone.utc)


def _microseconds(timestamps: pd.Series) -> npt.NDArray[np.int64]:
    """Microseconds since 1970 of each timestamp, whatever its resolution; naive times are UTC."""
    if timestamps.dt.tz is not None:
        timestamps = timestamps.dt.tz_convert("UTC").dt.tz_localize(None)
    result: npt.NDArray[np.int64] = timestamps.to_numpy().astype("datetime64[us]").astype(np.int64)
    return result


def _state_codes(states: pd.Series) -> npt.NDArray[np.int8]:
    return np.asarray(pd.Categorical(states.astype(object), categories=list(VALID_STATES)).codes, dtype=np.int8)


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
        instants = _microseconds(frame[TIMESTAMP])
        steps = instants // (STEP_SECONDS * 1_000_000)
        codes, names = pd.factorize(frame[SERVER_NAME].astype(str), sort=True)
        first, last = int(steps.min()), int(steps.max())
        shape = (len(names), last - first + 1)
        if shape[0] * shape[1] > MAX_GRID_CELLS:
            raise ContractError(
                f"{shape[0]:,} servers from {time_of(first):%Y-%m-%d} to {time_of(last):%Y-%m-%d} exceed memory.",
                why="Every server has one cell per 5 minutes of the whole time range; a clock that was once wrong "
                "stretches it over years.",
                fix="Remove the rows with wrong times, or use a shorter time range.",
            )
        cell = codes.astype(np.int64) * shape[1] + (steps - first)
        in_order = np.argsort(instants, kind="stable") if np.any(np.diff(instants) < 0) else slice(None)
        states = np.full(shape[0] * shape[1], -1, dtype=np.int8)
        states[cell[in_order]] = _state_codes(frame[STATE])[in_order]
        values = np.empty((*shape, N_METRICS), dtype=np.float32)
        for k, column in enumerate(METRIC_COLUMNS):
            values[..., k] = _cell_means(cell, frame[column].to_numpy(dtype=np.float64, na_value=np.nan), shape)
        profile_of = dict(zip(frame[SERVER_NAME].astype(str), frame[PROFILE].astype(str), strict=True))
        return cls(
            names=tuple(str(name) for name in names),
            profiles=tuple(profile_of[str(name)] for name in names),
            first_step=first,
            values=values,
            states=states.reshape(shape),
        )

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


def _cell_means(
    cell: npt.NDArray[np.int64], values: npt.NDArray[np.float64], shape: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Mean of the values of each cell, NaN where there is none."""
    seen = np.isfinite(values)
    size = shape[0] * shape[1]
    count = np.bincount(cell[seen], minlength=size)
    total = np.bincount(cell[seen], weights=values[seen], minlength=size)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count).reshape(shape)


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
        self._sum = np.zeros((0, self._n_steps, N_METRICS), dtype=np.float64)
        self._count = np.zeros((0, self._n_steps, N_METRICS), dtype=np.int32)
        self._states = np.full((0, self._n_steps), -1, dtype=np.int8)
        self._state_time = np.zeros((0, self._n_steps), dtype=np.int64)
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
        instants = _microseconds(frame[TIMESTAMP])
        steps = instants // (STEP_SECONDS * 1_000_000)
        names = frame[SERVER_NAME].astype(str)
        self._grow(dict(zip(names, frame[PROFILE].astype(str), strict=True)))
        self._advance(int(steps.max()) + 1)
        rows = names.map(self._index).to_numpy(dtype=np.int64)
        np.maximum.at(self._last_seen, rows, steps)
        columns = steps - (self._end - self._n_steps)
        kept = columns >= 0
        rows, columns = rows[kept], columns[kept]
        values = frame[list(METRIC_COLUMNS)].to_numpy(dtype=np.float64, na_value=np.nan)[kept]
        seen = np.isfinite(values)
        np.add.at(self._sum, (rows, columns), np.where(seen, values, 0.0))
        np.add.at(self._count, (rows, columns), seen)
        instant = instants[kept]
        states = _state_codes(frame[STATE])[kept]
        order = np.argsort(instant, kind="stable")  # with repeated indices the last assignment stands
        order = order[instant[order] >= self._state_time[rows[order], columns[order]]]
        self._state_time[rows[order], columns[order]] = instant[order]
        self._states[rows[order], columns[order]] = states[order]

    def snapshot(self) -> FleetGrid:
        """Present content as an independent grid that ends with the newest step."""
        with np.errstate(invalid="ignore"):
            values = np.where(self._count > 0, self._sum / self._count, np.nan).astype(np.float32)
        return FleetGrid(
            names=tuple(self._index),
            profiles=tuple(self._profiles),
            first_step=self._end - self._n_steps,
            values=values,
            states=self._states.copy(),
        )

    def forget(self, names: Sequence[str]) -> None:
        """Drop servers that are gone for good."""
        keep = [position for name, position in self._index.items() if name not in set(names)]
        kept_names = [name for name in self._index if name not in set(names)]
        self._profiles = [self._profiles[position] for position in keep]
        self._sum, self._count = self._sum[keep], self._count[keep]
        self._states, self._state_time = self._states[keep], self._state_time[keep]
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
        missing = len(self._index) - len(self._sum)
        if missing > 0:
            self._sum = np.concatenate([self._sum, np.zeros((missing, *self._sum.shape[1:]))])
            self._count = np.concatenate([self._count, np.zeros((missing, *self._count.shape[1:]), dtype=np.int32)])
            self._states = np.concatenate([self._states, np.full((missing, self._n_steps), -1, dtype=np.int8)])
            self._state_time = np.concatenate([self._state_time, np.zeros((missing, self._n_steps), dtype=np.int64)])
            self._last_seen = np.concatenate([self._last_seen, np.zeros(missing, dtype=np.int64)])

    def _advance(self, end: int) -> None:
        shift = end - self._end
        if shift <= 0:
            return
        for array, empty in ((self._sum, 0), (self._count, 0), (self._states, -1), (self._state_time, 0)):
            if shift < self._n_steps:
                array[:, :-shift] = array[:, shift:]
                array[:, -shift:] = empty
            else:
                array[:] = empty
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
