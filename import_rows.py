"""How the pieces of an import become one sorted table without duplicates. Knows nothing of files and mappings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from common_utils import iso_z
from data_contract import METRIC_COLUMNS
from import_cells import Codes, Integers, Mask, Singles
from import_report import Tally

NO_STATE: Final = -1  # the source does not say


@dataclass
class Piece:
    """Rows of one batch that have a time, a server and a metric."""

    server: Codes
    time: Integers
    metrics: dict[str, Singles]
    state: npt.NDArray[np.int8] | None
    repaired: Mask


@dataclass
class Rows:
    """All rows, sorted by server and time, without duplicates; servers are numbered by name."""

    names: list[str]
    profiles: list[str]
    server: Codes
    time: Integers
    metrics: dict[str, Singles]
    state: npt.NDArray[np.int8] | None
    repaired: Mask

    def take(self, places: npt.NDArray[Any]) -> None:
        """Keep rows in the given order, or those that a mask marks; column by column, to spare memory."""
        self.server = self.server[places]
        self.time = self.time[places]
        self.repaired = self.repaired[places]
        self.state = None if self.state is None else self.state[places]
        for metric in self.metrics:
            self.metrics[metric] = self.metrics[metric][places]


def assemble(pieces: list[Piece], names: Sequence[str], profile_of: Callable[[int, str], str], tally: Tally) -> Rows:
    """Put pieces together: servers numbered by name, rows sorted, duplicates settled.

    Parameters
    ----------
    pieces : list of Piece
        Emptied on the way, to spare memory.
    names : sequence of str
        Names of the servers as the pieces number them.
    profile_of : callable
        Profile of a server, by its number and name.
    tally : Tally
        Counts disorder and duplicates.
    """
    reported = [name for name in METRIC_COLUMNS if any(name in piece.metrics for piece in pieces)]
    server = np.concatenate([piece.server for piece in pieces])
    time = np.concatenate([piece.time for piece in pieces])
    metrics = {
        name: np.concatenate([piece.metrics.pop(name, _nothing(len(piece.time))) for piece in pieces])
        for name in reported
    }
    state = None
    if any(piece.state is not None for piece in pieces):
        state = np.concatenate(
            [np.full(len(p.time), NO_STATE, np.int8) if p.state is None else p.state for p in pieces]
        )
    repaired = np.concatenate([piece.repaired for piece in pieces])
    pieces.clear()

    seen = sorted((names[code], int(code)) for code in np.unique(server))
    rank = np.full(len(names), -1, np.int32)
    rank[[code for _, code in seen]] = np.arange(len(seen))
    rows = Rows(
        names=[name for name, _ in seen],
        profiles=[profile_of(code, name) for name, code in seen],
        server=rank[server],
        time=time,
        metrics=metrics,
        state=state,
        repaired=repaired,
    )
    _sort(rows, tally)
    _settle_duplicates(rows, tally)
    return rows


def _nothing(rows: int) -> Singles:
    return np.full(rows, np.nan, np.float32)


def _sort(rows: Rows, tally: Tally) -> None:
    same = rows.server[1:] == rows.server[:-1]
    if bool(np.all(np.where(same, rows.time[1:] >= rows.time[:-1], rows.server[1:] > rows.server[:-1]))):
        return
    newest = pd.Series(rows.time).groupby(rows.server).cummax().to_numpy()
    tally.count_rows("out_of_order", int((rows.time < newest).sum()))
    del newest
    rows.take(np.lexsort((rows.time, rows.server)))


def _settle_duplicates(rows: Rows, tally: Tally) -> None:
    """One row per server and time: the first one, with metrics that it lacks filled in from the next that have them."""
    again = np.zeros(len(rows.time), np.bool_)  # rows that have the server and time of the row before
    again[1:] = (rows.server[1:] == rows.server[:-1]) & (rows.time[1:] == rows.time[:-1])
    if not again.any():
        return
    involved = again.copy()
    involved[:-1] |= again[1:]
    places = np.flatnonzero(involved)
    group = np.cumsum(~again[places])
    first = np.flatnonzero(~again[places])  # in `places`, of each group
    contradicts = np.zeros(len(places), np.bool_)
    gives = np.zeros(len(places), np.bool_)
    for values in rows.metrics.values():
        own = pd.Series(values[places])
        merged = own.groupby(group).transform("first").to_numpy()  # the first that is not missing
        present = own.notna()
        contradicts |= (present & (own != merged)).to_numpy()
        giver = present & (present.groupby(group).cumsum() == 1)
        gives |= giver.to_numpy() & again[places]
        values[places[first]] = merged[first]
    if rows.state is not None:
        own = pd.Series(rows.state[places].astype(np.float64)).replace(NO_STATE, np.nan)
        stated = own.groupby(group).transform("first").fillna(NO_STATE).to_numpy()
        rows.state[places[first]] = stated[first].astype(np.int8)
    repeats = again[places]
    tally.count_rows("conflict", int((repeats & contradicts).sum()), _place_of(rows, places[repeats & contradicts]))
    tally.count_rows("merged", int((repeats & gives & ~contradicts).sum()))
    tally.count_rows("duplicate", int((repeats & ~gives & ~contradicts).sum()))
    enriched = np.unique(group[gives])
    rows.repaired[places[first][enriched - 1]] = True  # groups count from 1
    rows.take(~again)


def _place_of(rows: Rows, places: Integers) -> str | None:
    return f"{rows.names[rows.server[places[0]]]} at {_iso(rows.time[places[0]])}" if len(places) else None


def _iso(microseconds: int) -> str:
    return iso_z(pd.Timestamp(int(microseconds), unit="us").to_pydatetime())


def _self_check() -> None:
    def piece(server: list[int], time: list[int], cpu: list[float]) -> Piece:
        codes, times, values = np.array(server, np.int32), np.array(time), np.array(cpu, np.float32)
        return Piece(codes, times, {"cpu_pct": values}, None, np.zeros(len(times), np.bool_))

    tally = Tally()
    pieces = [piece([0, 1, 0, 0], [2, 1, 1, 2], [20, 11, 10, 20]), piece([0, 0], [2, 3], [99, 30])]
    rows = assemble(pieces, ["web", "db"], lambda code, name: "generic", tally)  # noqa: ARG005
    assert rows.names == ["db", "web"] and rows.server.tolist() == [0, 1, 1, 1]
    assert rows.metrics["cpu_pct"].tolist() == [11, 10, 20, 30]
    assert tally.rows == {"out_of_order": 1, "conflict": 1, "duplicate": 1}
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
