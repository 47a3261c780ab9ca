"""How rows of an import are put in order and duplicates settled. Knows nothing of files and mappings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from common_utils import iso_z
from import_cells import Codes, Integers, Mask, Singles
from import_report import Tally

NO_STATE: Final = -1  # the source does not say
_GAPS_KEPT: Final = 1 << 17
States = npt.NDArray[np.int8]


@dataclass
class Rows:
    """Rows that have a time, a server and a metric, as columns; servers are numbers."""

    server: Codes
    time: Integers  # microseconds since 1970 UTC
    metrics: dict[str, Singles]
    state: States | None
    repaired: Mask

    def __len__(self) -> int:
        return len(self.time)

    def take(self, places: npt.NDArray[Any] | slice) -> Rows:
        """Rows in the given order, or those that a mask marks."""
        return Rows(
            server=self.server[places],
            time=self.time[places],
            metrics={metric: values[places] for metric, values in self.metrics.items()},
            state=None if self.state is None else self.state[places],
            repaired=self.repaired[places],
        )

    def in_order(self) -> Rows:
        """Sorted by server, then time; rows of one server and time keep the order in which they came."""
        same = self.server[1:] == self.server[:-1]
        if bool(np.all(np.where(same, self.time[1:] >= self.time[:-1], self.server[1:] > self.server[:-1]))):
            return self
        return self.take(np.lexsort((self.time, self.server)))


def concatenated(pieces: Sequence[Rows]) -> Rows:
    """Rows of several pieces, one after the other; what a piece lacks is missing."""
    if len(pieces) == 1:
        return pieces[0]
    reported = dict.fromkeys(metric for piece in pieces for metric in piece.metrics)
    state = None
    if any(piece.state is not None for piece in pieces):
        state = np.concatenate([_unstated(len(piece)) if piece.state is None else piece.state for piece in pieces])
    return Rows(
        server=np.concatenate([piece.server for piece in pieces]),
        time=np.concatenate([piece.time for piece in pieces]),
        metrics={
            metric: np.concatenate([piece.metrics.get(metric, _nothing(len(piece))) for piece in pieces])
            for metric in reported
        },
        state=state,
        repaired=np.concatenate([piece.repaired for piece in pieces]),
    )


def _nothing(rows: int) -> Singles:
    return np.full(rows, np.nan, np.float32)


def _unstated(rows: int) -> States:
    return np.full(rows, NO_STATE, np.int8)


# ---------------------------------------------------------------------------------------------------------- duplicates
def settled(parts: Iterable[Rows], names: Sequence[str], tally: Tally) -> Iterator[Rows]:
    """One row per server and time, of sorted parts that follow one another.

    Of several rows the first one stays, with metrics that it lacks filled in from the next that have them.

    Parameters
    ----------
    parts : iterable of Rows
        In order; rows of one server and time may begin in one part and go on in the next.
    names : sequence of str
        Names of the servers, for an example.
    tally : Tally
        Counts the rows that are dropped.
    """
    held: Rows | None = None  # the last row so far: the next part may hold more of its server and time
    for part in parts:
        rows = _settle(part if held is None else concatenated([held, part]), names, tally)
        held = rows.take(slice(len(rows) - 1, None))
        if len(rows) > 1:
            yield rows.take(slice(len(rows) - 1))
    if held is not None:
        yield held


def _settle(rows: Rows, names: Sequence[str], tally: Tally) -> Rows:
    again = np.zeros(len(rows), np.bool_)  # rows that have the server and time of the row before
    again[1:] = (rows.server[1:] == rows.server[:-1]) & (rows.time[1:] == rows.time[:-1])
    if not again.any():
        return rows
    rows = replace(rows, metrics=dict(rows.metrics), repaired=rows.repaired.copy())
    involved = again.copy()
    involved[:-1] |= again[1:]
    places = np.flatnonzero(involved)
    group = np.cumsum(~again[places])
    first = np.flatnonzero(~again[places])  # in `places`, of each group
    contradicts = np.zeros(len(places), np.bool_)
    gives = np.zeros(len(places), np.bool_)
    for metric, values in rows.metrics.items():
        own = pd.Series(values[places])
        merged = own.groupby(group).transform("first").to_numpy()  # the first that is not missing
        present = own.notna()
        contradicts |= (present & (own != merged)).to_numpy()
        giver = present & (present.groupby(group).cumsum() == 1)
        gives |= giver.to_numpy() & again[places]
        rows.metrics[metric] = values.copy()
        rows.metrics[metric][places[first]] = merged[first]
    if rows.state is not None:
        stated = pd.Series(rows.state[places].astype(np.float64)).replace(NO_STATE, np.nan)
        stated = stated.groupby(group).transform("first").fillna(NO_STATE)
        rows.state = rows.state.copy()
        rows.state[places[first]] = stated.to_numpy()[first].astype(np.int8)
    repeats = again[places]
    conflicts = places[repeats & contradicts]
    tally.count_rows("conflict", len(conflicts), _place_of(rows, names, conflicts))
    tally.count_rows("merged", int((repeats & gives & ~contradicts).sum()))
    tally.count_rows("duplicate", int((repeats & ~gives & ~contradicts).sum()))
    enriched = np.unique(group[gives])
    rows.repaired[places[first][enriched - 1]] = True  # groups count from 1
    return rows.take(~again)


def _place_of(rows: Rows, names: Sequence[str], places: Integers) -> str | None:
    return f"{names[rows.server[places[0]]]} at {_iso(rows.time[places[0]])}" if len(places) else None


def _iso(microseconds: int) -> str:
    return iso_z(pd.Timestamp(int(microseconds), unit="us").to_pydatetime())


def regrouped(parts: Iterable[Rows], size: int) -> Iterator[Rows]:
    """The same rows in pieces of `size`; the last one may be smaller."""
    waiting: list[Rows] = []
    count = 0
    for part in parts:
        waiting.append(part)
        count += len(part)
        if count < size:
            continue
        rows = concatenated(waiting)
        whole = count - count % size
        for begin in range(0, whole, size):
            yield rows.take(slice(begin, begin + size))
        waiting, count = [rows.take(slice(whole, None))], count - whole
    if count:
        yield concatenated(waiting)


# ----------------------------------------------------------------------------------------------------------- intervals
class Gaps:
    """Times between rows of one server, and their median.

    Distinct gaps are counted. Where there are more than `_GAPS_KEPT` of them, they are counted to a tenth of the
    precision, as often as is needed: clocks that jitter by microseconds must not fill the memory.
    """

    def __init__(self) -> None:
        self._gaps: Integers = np.zeros(0, np.int64)
        self._counts: Integers = np.zeros(0, np.int64)
        self._step = 1  # microseconds
        self._last: tuple[int, int] | None = None

    def add(self, servers: Codes, times: Integers) -> None:
        """Look at the next rows, which are in order."""
        if self._last is not None:
            servers = np.concatenate([np.array(self._last[:1], servers.dtype), servers])
            times = np.concatenate([np.array(self._last[1:], times.dtype), times])
        self._last = (int(servers[-1]), int(times[-1]))
        gaps = np.diff(times)[servers[1:] == servers[:-1]]
        found, counts = np.unique(gaps // self._step * self._step, return_counts=True)
        self._merge(np.concatenate([self._gaps, found]), np.concatenate([self._counts, counts]))
        while len(self._gaps) > _GAPS_KEPT:
            self._step *= 10
            self._merge(self._gaps // self._step * self._step, self._counts)

    def _merge(self, gaps: Integers, counts: Integers) -> None:
        self._gaps, places = np.unique(gaps, return_inverse=True)
        self._counts = np.bincount(places, counts, len(self._gaps)).astype(np.int64)

    def median(self) -> float | None:
        """Median in microseconds; None if no server has two rows."""
        total = int(self._counts.sum())
        if not total:
            return None
        middle = np.searchsorted(np.cumsum(self._counts), [(total - 1) // 2, total // 2], "right")
        return float(self._gaps[middle].mean())


def _self_check() -> None:
    def piece(server: list[int], time: list[int], cpu: list[float]) -> Rows:
        codes, times, values = np.array(server, np.int32), np.array(time), np.array(cpu, np.float32)
        return Rows(codes, times, {"cpu_pct": values}, None, np.zeros(len(times), np.bool_))

    tally = Tally()
    whole = concatenated([piece([1, 0, 1, 1], [2, 1, 1, 2], [20, 11, 10, 20]), piece([1, 1], [2, 3], [99, 30])])
    ordered = whole.in_order()
    parts = [ordered.take(slice(0, 3)), ordered.take(slice(3, None))]  # rows of one server and time are in both
    done = concatenated(list(settled(parts, ["db", "web"], tally)))
    assert done.server.tolist() == [0, 1, 1, 1]
    assert done.metrics["cpu_pct"].tolist() == [11, 10, 20, 30]
    assert tally.rows == {"conflict": 1, "duplicate": 1}
    assert [len(rows) for rows in regrouped([done, done], 3)] == [3, 3, 2]
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
