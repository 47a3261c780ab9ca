"""How the rows of an import are sorted in little memory, however many there are: by sorted runs on disk, then merged.

Rows are taken in until there are `run_rows` of them; these are sorted by the server's name and time and written to one
file, as a run. When all have come, runs are cut at the same places and merged part by part. Names keep their order when
more servers come to be known, so that a run needs no sorting again. What was taken in last stays in memory: an import
with fewer rows than a run never touches the disk. What stays in memory besides grows with the number of servers, and by
12 bytes for every 2,048 rows.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from import_cells import NO_TIME, Codes, Integers
from import_rows import Rows, concatenated

RUN_ROWS: Final = 1 << 21  # at most 30 bytes each
PART_ROWS: Final = 1 << 19
STRIDE: Final = 2048  # rows from one sample of a run's keys to the next

Places = npt.NDArray[np.int64]


class Runs:
    """Takes rows in as they come and gives them back in order.

    Parameters
    ----------
    folder : path
        Where runs are written. The file has no name, so that nothing is left of it however the process ends.
    names : list of str
        Names of the servers by number; it may grow while rows come in.
    run_rows, part_rows : int
        Rows that are sorted at a time, and given back at a time.
    stride : int
        Of so many rows of a run, the key of the first stays in memory.

    Attributes
    ----------
    rows : int
        Rows taken in.
    late : int
        Rows among them that came after a later one of the same server.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        run_rows: int = RUN_ROWS,
        part_rows: int = PART_ROWS,
        stride: int = STRIDE,
    ) -> None:
        self.rows = 0
        self.late = 0
        self._folder = folder
        self._names = names
        self._run_rows = run_rows
        self._part_rows = part_rows
        self._stride = stride
        self._waiting: list[Rows] = []
        self._runs: list[_Run] = []
        self._file: BinaryIO | None = None
        self._newest: Integers = np.zeros(0, np.int64)  # time of each server, NO_TIME: no row yet
        self._ranks: Codes = np.zeros(0, np.int32)

    def add(self, rows: Rows) -> None:
        """Take rows in.

        Raises
        ------
        OSError
            If the disk is full.
        """
        self._watch_order(rows.server, rows.time)
        self._waiting.append(rows)
        self.rows += len(rows)
        if sum(map(len, self._waiting)) >= self._run_rows:
            self._write_run(self._sorted_waiting())

    def close(self) -> None:
        """Give the disk space back."""
        if self._file is not None:
            self._file.close()

    def servers(self) -> Codes:
        """Numbers of the servers that have rows, in the order of their names."""
        order = np.empty(len(self._names), np.int32)
        order[self._by_name()] = np.arange(len(order), dtype=np.int32)
        there = np.zeros(len(order), np.bool_)
        there[: len(self._newest)] = self._newest != NO_TIME
        return order[there[order]]

    def in_order(self) -> Iterator[Rows]:
        """All rows by the name of their server, then time, then as they came; servers are numbered by name.

        Rows of one server and time are in one part, unless they are more than a part holds.
        """
        runs = list(self._runs)
        if self._waiting:
            runs.append(_Run.of(self._sorted_waiting(), self._stride))
        ranks = np.full(len(self._names), -1, np.int32)
        seen = self.servers()
        ranks[seen] = np.arange(len(seen), dtype=np.int32)
        servers, times = _cuts(runs, ranks, max(self._part_rows // self._stride, 1))
        places = [run.places_of(servers, times, ranks) for run in runs]
        for part in range(len(servers) + 1):
            slices = [(run, int(cut[part]), int(cut[part + 1])) for run, cut in zip(runs, places, strict=True)]
            pieces = [(run, begin, end) for run, begin, end in slices if end > begin]
            if _one_key(servers, times, part) and sum(end - begin for _, begin, end in pieces) > self._part_rows:
                for run, begin, end in pieces:  # one server and time: in order as they are
                    for first in range(begin, end, self._part_rows):
                        yield _ranked([run.read(first, min(first + self._part_rows, end))], ranks)
            elif pieces:
                yield _ranked([run.read(begin, end) for run, begin, end in pieces], ranks).in_order()

    # -------------------------------------------------------------------------------------------------------- taking in

    def _watch_order(self, servers: Codes, times: Integers) -> None:
        """Count rows that come after a later one of the same server."""
        grown = len(self._names) - len(self._newest)
        self._newest = np.concatenate([self._newest, np.full(grown, NO_TIME)])
        if not bool(np.all(servers[1:] >= servers[:-1])):
            order = np.argsort(servers, kind="stable")
            servers, times = servers[order], times[order]
        begins = np.concatenate([[True], servers[1:] != servers[:-1]])
        ends = np.concatenate([begins[1:], [True]])
        before = np.concatenate([times[:1], times[:-1]])
        before[begins] = self._newest[servers[begins]]
        if bool((times < before).any()):
            newest = pd.Series(times).groupby(servers).cummax().to_numpy()
            newest = np.maximum(newest, self._newest[servers])
            self.late += int((times < newest).sum())
            times = newest
        self._newest[servers[ends]] = times[ends]

    def _by_name(self) -> Codes:
        """Place of each server in the order of names."""
        if len(self._ranks) != len(self._names):
            order = sorted(range(len(self._names)), key=self._names.__getitem__)
            self._ranks = np.empty(len(order), np.int32)
            self._ranks[order] = np.arange(len(order), dtype=np.int32)
        return self._ranks

    def _sorted_waiting(self) -> Rows:
        rows = concatenated(self._waiting)
        self._waiting = []
        codes = np.empty(len(self._names), np.int32)
        ranks = self._by_name()
        codes[ranks] = np.arange(len(codes), dtype=np.int32)
        rows.server = ranks[rows.server]
        rows = rows.in_order()
        rows.server = codes[rows.server]  # places change when more servers come to be known; numbers do not
        return rows

    def _write_run(self, rows: Rows) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - `close` does
        self._runs.append(_Run.of(rows, self._stride, self._file))


def _one_key(servers: Codes, times: Integers, part: int) -> bool:
    """Whether a part holds the rows of one server and time only."""
    if not 0 < part < len(servers):
        return False
    return bool(servers[part] == servers[part - 1] and times[part] == times[part - 1] + 1)


def _ranked(pieces: list[Rows], ranks: Codes) -> Rows:
    rows = concatenated(pieces)
    rows.server = ranks[rows.server]
    return rows


def _cuts(runs: Sequence[_Run], ranks: Codes, step: int) -> tuple[Codes, Integers]:
    """Keys (place of the server, time) at which parts begin, so that each holds about `step` samples.

    A key that many rows have is a part of its own.
    """
    servers = ranks[np.concatenate([run.sample_servers for run in runs])]
    times = np.concatenate([run.sample_times for run in runs])
    order = np.lexsort((times, servers))
    chosen = order[step::step]
    servers, times = servers[chosen], times[chosen]
    again = (servers[1:] == servers[:-1]) & (times[1:] == times[:-1])
    crowded = np.flatnonzero(np.concatenate([again[:1], again[1:] & ~again[:-1]]))  # the first of each such key
    servers = np.concatenate([servers, servers[crowded]])
    times = np.concatenate([times, times[crowded] + 1])
    order = np.lexsort((times, servers))
    servers, times = servers[order], times[order]
    fresh = np.ones(len(servers), np.bool_)
    fresh[1:] = (servers[1:] != servers[:-1]) | (times[1:] != times[:-1])
    return servers[fresh], times[fresh]


@dataclass
class _Run:
    """Sorted rows, in memory or on disk, with the key of the first of every `stride` of them."""

    rows: int
    stride: int
    sample_servers: Codes
    sample_times: Integers
    kept: Rows | None
    stored: _Stored | None

    @classmethod
    def of(cls, rows: Rows, stride: int, file: BinaryIO | None = None) -> _Run:
        """Make a run of sorted rows; written to the file's end if there is one."""
        return cls(
            rows=len(rows),
            stride=stride,
            sample_servers=rows.server[::stride].copy(),
            sample_times=rows.time[::stride].copy(),
            kept=rows if file is None else None,
            stored=None if file is None else _Stored.write(rows, file),
        )

    def read(self, begin: int, end: int) -> Rows:
        """Some of the rows."""
        if self.kept is not None:
            return self.kept.take(slice(begin, end))
        assert self.stored is not None
        return self.stored.read(begin, end)

    def places_of(self, servers: Codes, times: Integers, ranks: Codes) -> Places:
        """Places of the first row at or after each key, between 0 and the number of rows."""
        found = np.empty(len(servers) + 2, np.int64)
        found[0], found[-1] = 0, self.rows
        samples = ranks[self.sample_servers]
        for number, (server, time) in enumerate(zip(servers, times, strict=True), 1):
            low, high = np.searchsorted(samples, server, "left"), np.searchsorted(samples, server, "right")
            before = int(low + np.searchsorted(self.sample_times[low:high], time, "left"))  # samples before the key
            if not before:
                found[number] = 0
                continue
            begin, end = (before - 1) * self.stride, min(before * self.stride, self.rows)
            near_servers, near_times = self._keys(begin, end)
            near_servers = ranks[near_servers]
            earlier = (near_servers < server) | ((near_servers == server) & (near_times < time))
            found[number] = begin + int(earlier.sum())
        return found

    def _keys(self, begin: int, end: int) -> tuple[Codes, Integers]:
        if self.kept is not None:
            return self.kept.server[begin:end], self.kept.time[begin:end]
        assert self.stored is not None
        return self.stored.column("server", begin, end), self.stored.column("time", begin, end)


@dataclass(frozen=True)
class _Stored:
    """Rows on disk, column after column."""

    descriptor: int
    columns: dict[str, tuple[int, np.dtype[Any]]]  # name → where it begins in the file, type

    @classmethod
    def write(cls, rows: Rows, file: BinaryIO) -> _Stored:
        """Append rows to a file."""
        columns: dict[str, tuple[int, np.dtype[Any]]] = {}
        named: dict[str, npt.NDArray[Any]] = {
            "server": rows.server,
            "time": rows.time,
            "repaired": rows.repaired,
            **rows.metrics,
        }
        if rows.state is not None:
            named["state"] = rows.state
        for name, values in named.items():
            columns[name] = (file.tell(), values.dtype)
            file.write(np.ascontiguousarray(values).data.cast("B"))
        file.flush()
        return cls(file.fileno(), columns)

    def read(self, begin: int, end: int) -> Rows:
        """Some of the rows."""
        return Rows(
            server=self.column("server", begin, end),
            time=self.column("time", begin, end),
            metrics={
                name: self.column(name, begin, end)
                for name in self.columns
                if name not in {"server", "time", "repaired", "state"}
            },
            state=self.column("state", begin, end) if "state" in self.columns else None,
            repaired=self.column("repaired", begin, end),
        )

    def column(self, name: str, begin: int, end: int) -> npt.NDArray[Any]:
        """Some of the values of a column."""
        offset, kind = self.columns[name]
        values = np.empty(end - begin, kind)
        view, place = values.data.cast("B"), offset + begin * kind.itemsize
        while view:
            count = os.preadv(self.descriptor, [view], place)
            if not count:
                raise OSError("the work file was cut short")
            view, place = view[count:], place + count
        return values


def _self_check() -> None:
    rng = np.random.default_rng(1)
    names = ["web", "db", "app"]
    server, time = rng.integers(0, 3, 50_000, np.int32), rng.integers(0, 9_000, 50_000)
    order = np.lexsort((time, np.array([2, 1, 0])[server]))
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), names, run_rows=9_000, part_rows=4_096)
        for begin in range(0, 50_000, 3_000):
            part = slice(begin, begin + 3_000)
            value = {"cpu_pct": np.arange(50_000, dtype=np.float32)[part]}
            runs.add(Rows(server[part], time[part], value, None, np.zeros(len(time[part]), np.bool_)))
        parts = list(runs.in_order())
        runs.close()
        assert len(parts) > 5 and max(map(len, parts)) < 3 * 4_096
        assert np.array_equal(concatenated(parts).metrics["cpu_pct"], order)
        assert not list(Path(folder).iterdir())
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
