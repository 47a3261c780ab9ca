"""What alerts are judged against: when metrics of servers really were above their critical thresholds.

On any data, a crossing is sustained: it begins at a step above the threshold from which on 2 of 3 steps are above it,
while the step before belongs to none, and it ends when half an hour has passed without a step above it. One value that
sticks out is no event. Of a generated fleet the incidents are known (`metrics_incidents.parquet`): when each could
first be seen, when it broke a threshold, when all was well again. One whose first sign is the breach comes suddenly.
Columns are those of a grid; events may begin before it. NumPy and Arrow; knows nothing of forecasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from config import Settings
from data_contract import HORIZON_STEPS, METRIC_COLUMNS, SERVER_NAME, STEP_MINUTES, DataFileError
from fleet_grid import FleetGrid, step_of

SUSTAINED_STEPS, SUSTAINED_OF = 2, 3
ENDED_STEPS = 30 // STEP_MINUTES

CROSSING: Final = "crossing"
CROSSING_DEFINITION: Final = (
    f"a metric above its critical threshold at {SUSTAINED_STEPS} of {SUSTAINED_OF} steps of {STEP_MINUTES} minutes, "
    f"over when it was not for {ENDED_STEPS * STEP_MINUTES} minutes"
)
INCIDENT_DEFINITION: Final = "incidents of the generated fleet, from the breach of a threshold to the recovery"

_COLUMNS = (SERVER_NAME, "cause", "onset", "breach", "end")
_MAX_INCIDENTS = 10_000_000

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Event:
    """One time of trouble of a server.

    Attributes
    ----------
    server : int
        Place in the grid.
    metrics : tuple of int
        Places of the metrics that were above their thresholds.
    onset : int or None
        Column of the first sign, where it is known.
    breach, end : int
        First column above a threshold, and first column after the event.
    kind : str
        Cause of an incident, or `crossing`.
    """

    server: int
    metrics: tuple[int, ...]
    onset: int | None
    breach: int
    end: int
    kind: str

    @property
    def is_sudden(self) -> bool:
        """Whether nothing could be seen of it before the breach."""
        return self.onset is not None and self.onset >= self.breach

    @property
    def troubled(self) -> tuple[int, ...]:
        """Metrics that are in trouble while it lasts: that which crosses, or all of a server that has an incident."""
        return self.metrics if self.kind == CROSSING else tuple(range(len(METRIC_COLUMNS)))


def limits_of(grid: FleetGrid, settings: Settings) -> npt.NDArray[np.float64]:
    """Critical thresholds of each server's metrics, (n_servers, n_metrics)."""
    rows = {profile: [settings.threshold(each, profile) for each in METRIC_COLUMNS] for profile in set(grid.profiles)}
    return np.array([rows[profile] for profile in grid.profiles], dtype=np.float64).reshape(-1, len(METRIC_COLUMNS))


def find_crossings(grid: FleetGrid, limits: npt.NDArray[np.float64], first: int = 0) -> list[Event]:
    """Sustained crossings of every server and metric from a column on, by server, metric and time.

    Missing values are not above anything. The grid may be mapped from files: it is read in blocks of servers.
    """
    events = []
    for block in grid.blocks():
        above = np.asarray(grid.values[block, first:] > limits[block, None].astype(np.float32))
        for row, metric in np.argwhere(above.any(axis=1)):
            for begin, end in sustained(above[row, :, metric]):
                server = block.start + int(row)
                events.append(Event(server, (int(metric),), None, first + begin, first + end, CROSSING))
    return events


def sustained(above: Mask) -> Iterator[tuple[int, int]]:
    """First column of each sustained crossing, and first column after it; `above` is of one metric, step by step."""
    columns = np.flatnonzero(above)
    place = 0
    while place < len(columns):
        begin = int(columns[place])
        if np.count_nonzero(above[begin : begin + SUSTAINED_OF]) < SUSTAINED_STEPS:
            place += 1
            continue
        while place + 1 < len(columns) and columns[place + 1] - columns[place] <= ENDED_STEPS:
            place += 1
        yield begin, int(columns[place]) + 1
        place += 1


def read_incidents(path: Path, grid: FleetGrid, limits: npt.NDArray[np.float64]) -> list[Event]:
    """Incidents of a generated fleet that touch a grid, sorted by breach; those of other servers are left out.

    An incident that is above none of the thresholds (they may be set otherwise than as shipped) is left out, too.

    Raises
    ------
    DataFileError
        If the file cannot be read or holds something else.
    """
    try:
        described = pq.read_metadata(path)
        if described.num_rows > _MAX_INCIDENTS:
            raise ValueError(f"it has {described.num_rows:,} rows")
        table = pq.read_table(path, columns=list(_COLUMNS))
        rows = table.to_pylist()
        missing = [name for name in _COLUMNS[:-1] if table[name].null_count]
        if missing or table.num_columns != len(_COLUMNS):
            raise ValueError(f"it lacks values of {', '.join(missing or _COLUMNS)}")
        place_of = {name: place for place, name in enumerate(grid.names)}
        events = [_incident(row, place_of[row[SERVER_NAME]], grid) for row in rows if row[SERVER_NAME] in place_of]
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataFileError(
            f"The incidents in {path.name} cannot be used: {error}.",
            why="Alerts of a generated fleet are judged against them.",
            fix="Generate the fleet again, or judge against the crossings in the data itself: --truth crossings.",
            document="Docs/ALERTS.md",
        ) from error
    found = []
    for event in sorted(events, key=lambda each: (each.breach, each.server)):
        seen = grid.values[event.server, max(event.breach, 0) : max(event.end, 0)]
        metrics = np.flatnonzero((seen > limits[event.server]).any(axis=0))
        if len(metrics):
            places = tuple(int(metric) for metric in metrics)
            found.append(Event(event.server, places, event.onset, event.breach, event.end, event.kind))
    return found


def _incident(row: dict[str, Any], server: int, grid: FleetGrid) -> Event:
    onset, breach = (step_of(row[name]) - grid.first_step for name in ("onset", "breach"))
    end = grid.n_steps if row["end"] is None else min(step_of(row["end"]) - grid.first_step, grid.n_steps)
    return Event(server, (), onset, breach, end, str(row["cause"])[:100])


def outcomes(
    events: Sequence[Event], columns: npt.NDArray[np.int64], n_servers: int, horizon: int = HORIZON_STEPS
) -> tuple[Mask, Mask]:
    """What came true of forecasts that begin at columns.

    Returns
    -------
    ahead, during : bool arrays, (columns, n_servers, n_metrics)
        Whether a breach of the metric lies within the horizon (the column itself is its first step); and whether the
        metric is in trouble already (`Event.troubled`), from the step after the breach to the event's end.
    """
    shape = (len(columns), n_servers, len(METRIC_COLUMNS))
    ahead, during = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
    for event in events:
        first, breach, end = np.searchsorted(columns, (event.breach - horizon + 1, event.breach + 1, event.end))
        ahead[first:breach, event.server, list(event.metrics)] = True
        during[breach:end, event.server, list(event.troubled)] = True
    return ahead, during


def _self_check() -> None:
    above = np.zeros(40, dtype=np.bool_)
    above[[3, 10, 12, 17, 30, 31]] = True
    assert list(sustained(above)) == [(10, 18), (30, 32)]
    ahead, during = outcomes([Event(0, (1,), None, 20, 25, CROSSING)], np.arange(0, 40, 5), 1, horizon=10)
    assert np.flatnonzero(ahead[:, 0, 1]).tolist() == [3, 4] and not during.any()
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
