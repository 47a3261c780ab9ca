"""What each server's data is like, seen piece by piece: rhythm, gaps, clock, flat lines and the size of values.

What a `QualityWatch` keeps grows with the number of servers and not of rows, and does not depend on where the pieces
begin. It only measures; which figures are suspicious stands in `quality_findings.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_contract import METRIC_COLUMNS, METRICS

Integers = npt.NDArray[np.int64]
Singles = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

NO_TIME: Final = int(np.iinfo(np.int64).min)  # how NumPy stores NaT
SECOND: Final = 1_000_000  # times are µs
HOUR: Final = 3_600 * SECOND
DAY: Final = 24 * HOUR

# More names than this are no fleet but a column that holds something else, such as request ids. About 6 KB each.
MAX_SERVERS: Final = 50_000

# Steps from row to row are counted in bins an eighth of a power of two wide (7 to 12 %): wide enough that jitter stays
# in a bin and its neighbours, narrow enough that one lost sample (twice the usual step) is far away. Each bin keeps its
# sum too, so that the usual interval is exact. From 2^14 µs (16 ms) to 2^51 µs (71 years).
_BIN_BITS: Final = 3
_FIRST_BIN: Final = (127 + 14) << _BIN_BITS
STEP_BINS: Final = (51 - 14) << _BIN_BITS
BIN_EDGES: Final = np.array(  # lower edge of each, µs
    [(1 + (place & 7) / 8) * 2.0 ** (14 + (place >> _BIN_BITS)) for place in range(STEP_BINS)]
)

# Values are counted by their power of two, from 2^-24 up: a median known to a factor of two tells units apart.
VALUE_BINS: Final = 64
MISSING_BIN: Final = VALUE_BINS - 1
_FIRST_EXPONENT: Final = 127 - 24
_NOT_FINITE: Final = 255  # the exponent bits of NaN and infinity

# A run of equal values does not go on across a hole: what happened there is not known.
_RUN_ENDS_AFTER: Final = 2 * HOUR
# Where a run is worth a look. Idle machines have a CPU that rests at a few coarse values (0.2 %, 0.4 %), and disks,
# memory or latencies of nothing stay at 0; at 100 % a metric is at its stop. Neither says that a reading is stuck.
FLAT_ABOVE: Final[dict[str, float]] = {"cpu_pct": 5.0, "mem_pct": 0.0, "disk_io_mb_s": 0.0, "latency_ms": 0.0}
FROZEN: Final = len(METRIC_COLUMNS)  # the run of all metrics at once stands behind those of each
FROZEN_METRICS: Final = 2  # so many must be in use: an idle machine shows memory alone, and that may rest


class OrderedRows(NamedTuple):
    """Rows of a piece whose server and time are known, sorted by server, as they came otherwise."""

    order: Integers | slice  # where they stand in the piece
    servers: Integers
    times: Integers  # µs, UTC
    begins: Mask  # the first row of each server


class _Table:
    """Arrays with one row per server, which grow together."""

    def __init__(self) -> None:
        metrics, runs = len(METRIC_COLUMNS), len(METRIC_COLUMNS) + 1
        self.rows = np.zeros(0, np.int64)
        self.first = np.zeros(0, np.int64)
        self.last = np.zeros(0, np.int64)  # the newest, which need not be the last one that came
        self.late = np.zeros(0, np.int64)  # rows that came after a newer one
        self.late_by = np.zeros(0, np.int64)  # the most of it, µs
        self.late_at = np.zeros(0, np.int64)
        self.repeats = np.zeros(0, np.int64)  # rows at the newest time once more
        self.repeat_at = np.zeros(0, np.int64)  # the first of them
        self.last_step = np.zeros(0, np.int64)
        self.jitter = np.zeros(0, np.float64)  # sum of the changes from step to step, µs
        self.longest = np.zeros(0, np.int64)  # step
        self.longest_from = np.zeros(0, np.int64)
        self.spring = np.zeros(0, np.int64)  # end of an hour-long hole in a night when clocks go forward
        self.spring_step = np.zeros(0, np.int64)
        self.ancient = np.zeros(0, np.int64)
        self.future = np.zeros(0, np.int64)
        self.furthest = np.zeros(0, np.int64)  # newest time that lies ahead
        self.steps = np.zeros((0, STEP_BINS), np.uint32)
        self.step_sums = np.zeros((0, STEP_BINS), np.float64)
        self.values = np.zeros((0, metrics, VALUE_BINS), np.uint32)
        self.least = np.zeros((0, metrics), np.float32)
        self.most = np.zeros((0, metrics), np.float32)
        self.value_bits = np.zeros((0, metrics), np.int32)  # the last value, as bits: NaN is like NaN
        self.run_from = np.zeros((0, runs), np.int64)  # of the run that the last row is in
        self.flat = np.zeros((0, runs), np.int64)  # duration of the longest run
        self.flat_from = np.zeros((0, runs), np.int64)
        self.flat_value = np.zeros((0, runs), np.float32)

    _EMPTY: Final[dict[str, Any]] = {"last": NO_TIME, "first": np.iinfo(np.int64).max, "least": np.nan, "most": np.nan}

    def grow(self, servers: int) -> None:
        """Make room for so many servers; doubles, so that growing one by one stays cheap."""
        for name, array in vars(self).items():
            if len(array) < servers:
                shape = (max(servers, 2 * len(array)) - len(array), *array.shape[1:])
                new = np.full(shape, self._EMPTY.get(name, 0), array.dtype)
                setattr(self, name, np.concatenate([array, new]))

    def cut(self, servers: int) -> None:
        """Take away room that is not used."""
        for name, array in vars(self).items():
            setattr(self, name, array[:servers])


class QualityWatch:
    """What was seen of each server so far.

    Parameters
    ----------
    now : int
        Present moment, µs since 1970: later times lie ahead.
    oldest : int
        Earlier times cannot be meant, µs since 1970.
    tolerance : int
        How far ahead a time may lie, µs.
    """

    def __init__(self, now: int, oldest: int, tolerance: int) -> None:
        self.oldest = oldest
        self.latest = now + tolerance
        self.servers = 0
        self.unwatched: int = 0  # servers beyond MAX_SERVERS
        self.table = _Table()
        self.reported: set[str] = set()  # metrics that were looked at

    def add(self, rows: OrderedRows, metrics: Mapping[str, npt.NDArray[np.floating[Any]]], servers: int) -> None:
        """Take in the next rows.

        Parameters
        ----------
        rows : OrderedRows
        metrics : mapping
            Column → values of the whole piece, NaN for missing.
        servers : int
            Number of servers seen so far, those of this piece included.
        """
        self.servers, self.unwatched = min(servers, MAX_SERVERS), max(servers - MAX_SERVERS, 0)
        self.table.grow(self.servers)
        order, who, times = rows.order, rows.servers, rows.times
        begins = rows.begins
        self._count_strange_times(who, times)
        strange = (times < self.oldest) | (times > self.latest + DAY)  # they would only blur the rhythm
        if self.unwatched:
            strange |= who >= MAX_SERVERS
        if strange.any():
            keep = np.flatnonzero(~strange)
            order = np.arange(len(who))[keep] if isinstance(order, slice) else order[keep]
            who, times = who[keep], times[keep]
            begins = np.concatenate([[True], who[1:] != who[:-1]])[: len(who)]
        if not len(who):
            return
        piece = _Piece(who, times, begins, self.table.last)
        self._add_times(piece)
        self._add_metrics(piece, order, metrics)

    def finish(self) -> _Table:
        """Give what was collected."""
        self.table.cut(self.servers)
        return self.table

    # --------------------------------------------------------------------------------------------------------- times
    def _count_strange_times(self, who: Integers, times: Integers) -> None:
        table = self.table
        for strange, counts in ((times < self.oldest, table.ancient), (times > self.latest, table.future)):
            if strange.any():
                found = who[strange]
                inside = found < MAX_SERVERS
                np.add.at(counts, found[inside], 1)
                if counts is table.future:
                    np.maximum.at(table.furthest, found[inside], times[strange][inside])

    def _add_times(self, piece: _Piece) -> None:
        table, servers, starts, ends = self.table, piece.servers, piece.starts, piece.ends
        who, times, steps = piece.who, piece.times, piece.steps
        table.rows[servers] += ends - starts + 1
        table.first[servers] = np.minimum(table.first[servers], np.minimum.reduceat(times, starts))
        table.last[servers] = np.maximum(table.last[servers], piece.newest[ends])

        forward = steps > 0
        if not forward.all():
            late = np.flatnonzero(steps < 0)
            late = late[steps[late] != NO_TIME]  # which marks the first row of a server
            if len(late):
                np.add.at(table.late, who[late], 1)
                worst = late[np.lexsort((steps[late], who[late]))]
                worst = worst[np.concatenate([[True], who[worst[1:]] != who[worst[:-1]]])]
                worst = worst[-steps[worst] > table.late_by[who[worst]]]
                table.late_by[who[worst]], table.late_at[who[worst]] = -steps[worst], times[worst]
            again = np.flatnonzero(steps == 0)
            if len(again):
                fresh = again[table.repeats[who[again]] == 0]
                table.repeat_at[who[fresh[::-1]]] = times[fresh[::-1]]  # the last assignment wins, so the first row's
                np.add.at(table.repeats, who[again], 1)
            kept = np.flatnonzero(forward)
            who, times, steps = who[kept], times[kept], steps[kept]
        if not len(who):
            return
        bins = (steps.astype(np.float32).view(np.int32) >> (23 - _BIN_BITS)).astype(np.int64) - _FIRST_BIN
        places = who * STEP_BINS + np.clip(bins, 0, STEP_BINS - 1)
        np.add.at(table.steps.reshape(-1), places, np.uint32(1))
        np.add.at(table.step_sums.reshape(-1), places, steps.astype(np.float64))  # of one type: four times as quick

        starts = np.flatnonzero(np.concatenate([[True], who[1:] != who[:-1]]))
        ends = np.append(starts[1:], len(who)) - 1
        servers = who[starts]
        before = np.concatenate([steps[:1], steps[:-1]])
        before[starts] = table.last_step[servers]
        changed = np.flatnonzero((steps != before) & (before > 0))
        if len(changed):
            change = np.abs(steps[changed] - before[changed])
            near = 5 * change < 4 * np.minimum(steps[changed], before[changed])  # lost samples are no jitter
            np.add.at(table.jitter, who[changed[near]], change[near])
        table.last_step[servers] = steps[ends]

        longest = np.maximum.reduceat(steps, starts)
        grown = longest > table.longest[servers]
        if grown.any():
            wanted = np.where(grown, longest, -1)
            hits = np.flatnonzero(steps == np.repeat(wanted, ends - starts + 1))
            hits = hits[np.concatenate([[True], who[hits[1:]] != who[hits[:-1]]])]  # the first of each server
            table.longest[who[hits]] = steps[hits]
            table.longest_from[who[hits]] = times[hits] - steps[hits]
        holes = np.flatnonzero((steps > HOUR) & (steps <= 2 * HOUR))
        if len(holes):
            holes = holes[goes_forward(times[holes])]
            table.spring[who[holes]], table.spring_step[who[holes]] = times[holes], steps[holes]

    # -------------------------------------------------------------------------------------------------------- values
    def _add_metrics(
        self, piece: _Piece, order: Integers | slice, metrics: Mapping[str, npt.NDArray[np.floating[Any]]]
    ) -> None:
        table, servers, starts, ends = self.table, piece.servers, piece.starts, piece.ends
        unbroken = (piece.steps <= _RUN_ENDS_AFTER) & (piece.steps != NO_TIME)
        all_same = unbroken.copy()
        in_use = np.zeros(len(piece.who), np.int8)
        shown = np.full(len(piece.who), np.nan, np.float32)  # a value to name in a report of a frozen server
        for place, metric in enumerate(METRICS):
            if metric.column not in metrics:
                table.values[servers, place, MISSING_BIN] += (ends - starts + 1).astype(np.uint32)
                continue
            self.reported.add(metric.column)
            with np.errstate(over="ignore"):
                values = np.ascontiguousarray(metrics[metric.column][order], np.float32)
            bits = values.view(np.int32)
            exponents = (bits >> 23) & _NOT_FINITE
            codes = np.clip(exponents - _FIRST_EXPONENT, 0, MISSING_BIN - 1).astype(np.int64)
            codes[exponents == _NOT_FINITE] = MISSING_BIN
            places = piece.who * (len(METRICS) * VALUE_BINS) + place * VALUE_BINS + codes
            np.add.at(table.values.reshape(-1), places, np.uint32(1))
            table.least[servers, place] = np.fmin(table.least[servers, place], np.fmin.reduceat(values, starts))
            table.most[servers, place] = np.fmax(table.most[servers, place], np.fmax.reduceat(values, starts))

            same = np.zeros(len(bits), np.bool_)
            same[1:] = bits[1:] == bits[:-1]
            same[starts] = bits[starts] == table.value_bits[servers, place]
            table.value_bits[servers, place] = bits[ends]
            same &= unbroken
            all_same &= same
            upper = np.inf if metric.upper is None else metric.upper
            used = (values > FLAT_ABOVE[metric.column]) & (values < upper)
            self._add_runs(piece, place, same & used, values)
            in_use += (values > 0) & (values < upper)
            shown = np.where(np.isnan(shown), values, shown)
        self._add_runs(piece, FROZEN, all_same & (in_use >= FROZEN_METRICS), shown)

    def _add_runs(self, piece: _Piece, place: int, same: Mask, values: Singles) -> None:
        """Follow runs of equal values: `same` marks rows that go on with the run of the row before."""
        table, times, ends = self.table, piece.times, piece.ends
        if same.any():
            joined = np.zeros(len(same), np.bool_)  # rows that go on with a run inside this piece
            joined[1:] = same[1:] & same[:-1] & ~piece.begins[1:]
            first = np.flatnonzero(same & ~joined)
            last = np.flatnonzero(same & ~np.append(joined[1:], False))
            who = piece.who[first]
            since = np.where(piece.begins[first], table.run_from[who, place], times[first - 1])
            lasted = times[last] - since
            starts = np.flatnonzero(np.concatenate([[True], who[1:] != who[:-1]]))
            longest = np.maximum.reduceat(lasted, starts)
            wanted = np.where(longest > table.flat[who[starts], place], longest, NO_TIME)
            hits = np.flatnonzero(lasted == np.repeat(wanted, np.diff(np.append(starts, len(who)))))
            if len(hits):
                hits = hits[np.concatenate([[True], who[hits[1:]] != who[hits[:-1]]])]
                table.flat[who[hits], place] = lasted[hits]
                table.flat_from[who[hits], place] = since[hits]
                table.flat_value[who[hits], place] = values[last[hits]]
            open_runs = np.flatnonzero(same[ends])
            still = np.searchsorted(first, ends[open_runs], side="right") - 1
            carried = times[ends]
            carried[open_runs] = since[still]
        else:
            carried = times[ends]
        table.run_from[piece.servers, place] = carried


class _Piece:
    """Rows of a piece, sorted by server, with the step of each from the newest row of its server before it."""

    def __init__(self, who: Integers, times: Integers, begins: Mask, last: Integers) -> None:
        self.who, self.times, self.begins = who, times, begins
        self.starts = np.flatnonzero(begins)
        self.ends = np.append(self.starts[1:], len(who)) - 1
        self.servers = who[self.starts]
        before = np.concatenate([times[:1], times[:-1]])
        before[self.starts] = last[self.servers]
        known = before != NO_TIME
        self.newest = times
        if (known & (times < before)).any():  # in disorder: steps count from the newest so far
            with_last = times.copy()
            with_last[self.starts] = np.maximum(times[self.starts], last[self.servers])
            self.newest = pd.Series(with_last).groupby(who).cummax().to_numpy()
            before[1:] = self.newest[:-1]
            before[self.starts] = last[self.servers]
        self.steps = np.where(known, times - np.where(known, before, 0), NO_TIME)


# Sundays on which clocks are changed where most servers stand (IANA time zone database: Europe, North America,
# Australia, New Zealand, Chile): month and which Sunday, 0 for the last.
_FORWARD: Final = ((3, 0), (3, 2), (9, 0), (9, 1), (10, 1))
_BACK: Final = ((10, 0), (11, 1), (4, 1))


def goes_forward(moments: Integers) -> Mask:
    """Whether each local time may be the end of the hour that is left out when clocks go forward."""
    return _in_a_night_of(moments, _FORWARD, earliest=1, latest=3)


def goes_back(moments: Integers) -> Mask:
    """Whether each local time may be the begin of the hour that comes twice when clocks go back."""
    return _in_a_night_of(moments, _BACK, earliest=1, latest=2)


def _in_a_night_of(moments: Integers, sundays: tuple[tuple[int, int], ...], earliest: int, latest: int) -> Mask:
    days = (moments // DAY).astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    month = months.astype(np.int64) % 12 + 1
    day = (days - months.astype("datetime64[D]")).astype(np.int64)  # from 0
    is_last = (days + 7).astype("datetime64[M]") > months
    listed = np.zeros(len(moments), np.bool_)
    for wanted, which in sundays:
        listed |= (month == wanted) & (is_last if which == 0 else day // 7 + 1 == which)
    sunday = (moments // DAY + 4) % 7 == 0  # 1970-01-01 was a Thursday
    hour = moments % DAY // HOUR
    found: Mask = listed & sunday & (hour >= earliest) & (hour <= latest)
    return found


def _self_check() -> None:
    minute = 60 * SECOND
    begin = 20_000 * DAY
    times = begin + np.array([0, 5, 10, 20, 25, 5, 10]) * minute
    watch = QualityWatch(begin + DAY, 0, 0)
    cpu = np.array([50.0, 50.0, 50.0, 20.0, np.nan, 1.0, 2.0], np.float32)
    for part in (slice(0, 2), slice(2, 7)):  # two pieces of two servers
        who = np.array([0, 0, 0, 0, 0, 1, 1])[part]
        begins = np.concatenate([[True], who[1:] != who[:-1]])
        watch.add(OrderedRows(slice(None), who, times[part], begins), {"cpu_pct": cpu[part]}, int(who.max()) + 1)
    table = watch.finish()
    assert table.rows.tolist() == [5, 2] and table.longest[0] == 10 * minute
    assert table.longest_from[0] == begin + 10 * minute and table.flat[0, 0] == 10 * minute
    assert table.values[0, 0, MISSING_BIN] == 1 and table.most[1, 0] == 2.0
    assert table.steps[0].max() == 3 and table.step_sums[0].sum() == 25 * minute
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
