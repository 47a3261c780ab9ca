"""What in each server's data is suspicious, from the figures that `data_quality.py` collected.

Applies the checks of `quality_checks.py`, where limits and reasons stand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import numpy.typing as npt

from common_utils import iso_z
from data_contract import METRIC_COLUMNS, METRICS, STEP_MINUTES
from data_quality import BIN_EDGES, DAY, FROZEN, HOUR, MAX_SERVERS, MISSING_BIN, SECOND, QualityWatch, goes_back
from quality_checks import (
    BYTES_MEDIAN,
    BYTES_MOST,
    CHECKS,
    CHECKS_BY_KEY,
    CLOCK_SHARE,
    FEW_ROWS,
    FLAT_FOR,
    GAP_STEPS,
    KILOBYTES_MEDIAN,
    KILOBYTES_MOST,
    LEAST_COVERAGE,
    LEAST_FLEET,
    LEAST_REPORTED,
    LEAST_SHARING,
    LEAST_SPREAD,
    LEAST_STEPS,
    LEAST_VALUES,
    LONG_GAP,
    MANY_NAMES,
    MICROSECONDS_MEDIAN,
    MOST_JITTER,
    MOST_LATE,
    NICE_SECONDS,
    OFFENDERS_NAMED,
    OTHER_INTERVAL,
    RATIO_FLEET,
    SECONDS_MEDIAN,
    SECONDS_MOST,
    Finding,
    Offender,
    Quality,
    Records,
)

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

STEP = STEP_MINUTES * 60 * SECOND  # the model's, µs


class _Figures:
    """What follows from the collected counts, one entry per server."""

    def __init__(self, watch: QualityWatch, duplicates: Integers) -> None:
        table = self.table = watch.finish()
        self.watched = table.rows > 0
        self.duplicates = duplicates[: watch.servers]
        count = watch.servers
        self.interval = np.full(count, np.nan)
        self.base = np.full(count, np.nan)  # what gaps are told by: the slower interval, if there are two
        self.gaps = np.zeros(count, np.int64)
        self.lost = np.zeros(count)  # steps in gaps
        self.other_share = np.zeros(count)  # of the time that goes by in the slower interval
        self.medians = np.full((count, len(METRIC_COLUMNS)), np.nan)  # of values above 0, to a factor of two
        self.present = np.zeros((count, len(METRIC_COLUMNS)), np.int64)
        for begin in range(0, count, 4_096):  # in blocks, for the sake of memory
            block = slice(begin, begin + 4_096)
            self._rhythm(block)
            self._values(block)
        self.seen = np.maximum(table.rows - np.maximum(table.repeats, self.duplicates), 0)
        self.disorder = table.late > MOST_LATE * table.rows
        self.start = int(table.first[self.watched].min()) if self.watched.any() else 0
        self.end = int(table.last[self.watched].max()) if self.watched.any() else 0
        outside = (table.first - self.start) // SECOND + (self.end - table.last) // SECOND
        with np.errstate(invalid="ignore", divide="ignore"):
            self.coverage = np.where(self.watched, self.seen / (self.seen + self.lost), np.nan)
            missed = self.lost + np.where(self.base > 0, np.floor(outside * SECOND / self.base), 0)
            self.coverage_of_span = np.where(self.watched, self.seen / (self.seen + missed), np.nan)
            self.jitter = table.jitter / np.maximum(table.steps.sum(axis=1, dtype=np.int64), 1) / 2
        for figures in (self.coverage, self.coverage_of_span):
            figures[self.disorder] = np.nan

    def _rhythm(self, block: slice) -> None:
        counts = self.table.steps[block].astype(np.int64)
        sums = self.table.step_sums[block]
        rows = np.arange(len(counts))
        total = counts.sum(axis=1)
        usual = np.argmax(counts, axis=1)
        interval = _mean_around(counts, sums, usual)
        # A slower interval that the server keeps to for a good part of the time
        slower = np.where((np.arange(len(BIN_EDGES)) > usual[:, None] + 1) & (counts >= LEAST_STEPS), sums, 0.0)
        other = np.argmax(slower, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(total > 0, slower[rows, other] / np.maximum(sums.sum(axis=1), 1), 0.0)
        second = _mean_around(counts, sums, other)
        two = (share >= OTHER_INTERVAL) & (second >= GAP_STEPS * interval)
        base = np.where(two, second, interval)
        in_gap = GAP_STEPS * base[:, None] <= BIN_EDGES
        self.interval[block] = interval
        self.base[block] = base
        self.other_share[block] = np.where(two, share, 0.0)
        self.gaps[block] = np.where(in_gap, counts, 0).sum(axis=1)
        lost = np.where(in_gap, sums, 0.0).sum(axis=1) / base - self.gaps[block]
        self.lost[block] = np.where(total > 0, np.round(np.maximum(lost, 0)), 0)

    def _values(self, block: slice) -> None:
        counts = self.table.values[block].astype(np.int64)
        self.present[block] = counts[:, :, :MISSING_BIN].sum(axis=2)
        above = counts[:, :, 1:MISSING_BIN]
        so_far = np.cumsum(above, axis=2)
        half = np.argmax(2 * so_far >= so_far[:, :, -1:], axis=2)
        # The middle of the bin from 2^n to 2^(n+1)
        self.medians[block] = np.where(so_far[:, :, -1] > 0, 1.5 * 2.0 ** (half + 1 - 24), np.nan)


def _mean_around(counts: Integers, sums: Floats, places: Integers) -> Floats:
    """Mean of the steps about as long as those in a bin, for each server; NaN without any step."""
    middle = BIN_EDGES[places][:, None]
    near = (0.6 * middle <= BIN_EDGES) & (1.5 * middle > BIN_EDGES)  # as much below as above, so jitter cancels out
    count, total = np.where(near, counts, 0).sum(axis=1), np.where(near, sums, 0.0).sum(axis=1)
    means: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means


class _Judge:
    """Applies the checks to the figures and collects what they find."""

    def __init__(self, watch: QualityWatch, names: Sequence[str], duplicates: Integers) -> None:
        self.watch, self.names = watch, names
        self.figures = _Figures(watch, duplicates)
        self.table = self.figures.table
        self.found: dict[str, Finding] = {}
        self.warned = np.zeros(watch.servers, np.int64)  # warnings of each server
        self.keys: list[tuple[str, Mask]] = []

    def note(
        self,
        key: str,
        where: Mask,
        badness: npt.NDArray[Any],
        detail: Callable[[int], str],
        remark: Callable[[Integers], str] | None = None,
    ) -> None:
        """Record a finding of the servers that a mask marks, the worst of them named."""
        places = np.flatnonzero(where)
        if not len(places):
            return
        worst = places[np.argsort(-badness[places].astype(np.float64), kind="stable")[:OFFENDERS_NAMED]]
        check = CHECKS_BY_KEY[key]
        self.found[key] = Finding(
            check,
            len(places),
            len(self.names),
            tuple(Offender(self.names[place], detail(int(place))) for place in worst),
            remark(places) if remark is not None else "",
        )
        self.keys.append((key, where))
        self.warned[places] += check.level == "warning"

    def judge(self) -> None:
        """Apply all checks."""
        if not self.watch.servers:
            return
        self._names()
        self._strange_times()
        self._clock()
        self._rhythm()
        self._gaps()
        self._flat_lines()
        self._units()

    def _names(self) -> None:
        rows = self.table.rows
        median = float(np.median(rows))
        if len(self.names) > MANY_NAMES and (median <= FEW_ROWS or self.watch.unwatched):
            beyond = f"; figures of the first {MAX_SERVERS:,} only" if self.watch.unwatched else ""
            self.found["names"] = Finding(
                CHECKS_BY_KEY["names"], len(self.names), len(self.names), (), f"half have up to {median:g} rows{beyond}"
            )

    def _strange_times(self) -> None:
        table = self.table
        self.note("ancient", table.ancient > 0, table.ancient, lambda place: _rows(table.ancient[place]))
        self.note(
            "future",
            table.future > 0,
            table.furthest,
            lambda place: f"{_rows(table.future[place])}, up to {_iso(table.furthest[place])}",
        )

    def _clock(self) -> None:
        table, figures = self.table, self.figures
        count = int(figures.watched.sum())
        # An hour and one usual step: the hour that is left out
        beside = np.abs(table.spring_step - HOUR - figures.interval)
        forward = (table.spring > 0) & (beside < np.minimum(figures.interval, HOUR) / 2)
        if forward.sum() >= CLOCK_SHARE * count:
            self.note(
                "clock_forward",
                forward,
                forward,
                lambda place: (
                    f"no row from {_iso(table.spring[place] - table.spring_step[place])} to {_iso(table.spring[place])}"
                ),
            )
        # Rows of the hour before come again: behind one another, or side by side after sorting
        behind = (table.late > 0) & (table.late_by <= HOUR) & goes_back(table.late_at)
        behind &= np.abs(table.late_by - (HOUR - figures.interval)) < figures.interval / 2
        repeated = np.maximum(table.repeats, figures.duplicates)
        aside = (table.repeats > 0) & goes_back(table.repeat_at)
        aside &= np.abs(repeated * figures.interval - HOUR) <= figures.interval
        back = behind | aside
        if back.sum() >= CLOCK_SHARE * count:
            self.note(
                "clock_back",
                back,
                back,
                lambda place: f"from {_iso(table.late_at[place] if behind[place] else table.repeat_at[place])} on",
            )
        self._compare_with_fleet()

    def _compare_with_fleet(self) -> None:
        table, figures = self.table, self.figures
        fit = figures.watched & (figures.interval > 0) & ~figures.disorder
        if fit.sum() < LEAST_FLEET:
            return
        step = float(np.median(figures.interval[fit]))
        first, last = _most_shared(table.first[fit], step), _most_shared(table.last[fit], step)
        ahead_first, ahead_last = table.first - first, table.last - last
        together = (np.abs(ahead_first) <= step) & (np.abs(ahead_last) <= step)
        if (together & fit).sum() >= LEAST_SHARING * fit.sum():
            half_hours = np.round(ahead_first / (HOUR / 2))
            off = fit & (half_hours != 0) & (np.abs(half_hours) <= 28)  # zones reach from -12 to +14 hours
            for ahead in (ahead_first, ahead_last):
                off &= np.abs(ahead - half_hours * (HOUR // 2)) < min(step, HOUR / 4)
            self.note(
                "clock_shift",
                off,
                np.abs(half_hours),
                lambda place: (
                    f"{half_hours[place] / 2:+g} hours, {_iso(table.first[place])} to {_iso(table.last[place])}"
                ),
            )
        regular = fit & (np.abs(figures.interval - step) < 1) & (figures.jitter < SECOND)
        if regular.sum() < LEAST_FLEET:
            return
        phase = table.first % step
        usual = _most_shared(phase[regular].astype(np.int64), SECOND)
        skew = (phase - usual + step / 2) % step - step / 2
        off = regular & (np.abs(skew) > SECOND)
        if off.sum() <= (1 - LEAST_SHARING) * regular.sum():
            self.note("clock_skew", off, np.abs(skew), lambda place: f"{skew[place] / SECOND:+,.6g} s")

    def _rhythm(self) -> None:
        table, figures = self.table, self.figures
        interval, steps = figures.interval, table.steps.sum(axis=1, dtype=np.int64)
        judged = figures.watched & (steps >= LEAST_STEPS) & ~figures.disorder
        matters = judged & (interval > STEP / 2)
        with np.errstate(invalid="ignore"):
            coarse = judged & (interval > 1.05 * STEP)
            nice = np.array(NICE_SECONDS) * SECOND
            # NaN comes first in argmin, but `matters` leaves it out
            near = nice[np.argmin(np.abs(np.log(nice / interval[:, None])), axis=1)]
            off = interval / near - 1
            drifts = matters & (np.abs(off) < 0.05) & (np.abs(off) * DAY >= near)
            jitters = matters & (figures.jitter >= MOST_JITTER * interval)
        self.note(
            "drift",
            drifts & ~jitters,
            np.abs(off),
            lambda place: f"a sample every {_duration(interval[place])} instead of {_duration(near[place])}",
        )
        self.note(
            "jitter",
            jitters,
            figures.jitter / interval,
            lambda place: f"by {_duration(figures.jitter[place])} around every {_duration(interval[place])}",
        )
        self.note(
            "interval_change",
            judged & (figures.other_share > 0) & (figures.base > STEP / 2),
            figures.other_share,
            lambda place: (
                f"every {_duration(interval[place])}, but every {_duration(figures.base[place])} in "
                f"{_percent(figures.other_share[place])} of the time"
            ),
        )
        self.note("coarse", coarse, interval, lambda place: f"every {_duration(interval[place])}")

    def _gaps(self) -> None:
        table, figures = self.table, self.figures
        fit = figures.watched & ~figures.disorder
        gap = fit & (table.longest >= LONG_GAP) & (table.longest >= GAP_STEPS * figures.base)
        self.note(
            "gap",
            gap,
            table.longest,
            lambda place: _hole(table.longest_from[place], table.longest[place]),
            _shared(table.longest_from),
        )
        sparse = fit & (figures.seen + figures.lost >= LEAST_STEPS) & (figures.coverage < LEAST_COVERAGE)
        self.note(
            "coverage",
            sparse,
            -figures.coverage,
            lambda place: (
                f"{_percent(figures.coverage[place])} there, {figures.gaps[place]:,} gap(s), "
                f"the longest {_hole(table.longest_from[place], table.longest[place])}"
            ),
        )
        rows = np.maximum(table.rows, 1)
        share = figures.present / rows[:, None]
        patchy: Mask = (share > 0) & (share < LEAST_REPORTED) & (table.rows >= LEAST_STEPS)[:, None]
        worst = np.argmin(np.where(patchy, share, 1.0), axis=1)
        self.note(
            "patchy",
            np.logical_or.reduce(patchy, axis=1),
            -share[np.arange(len(share)), worst],
            lambda place: f"`{METRIC_COLUMNS[worst[place]]}` in {_percent(share[place, worst[place]])} of its rows",
        )
        for key, away, moments in (
            ("starts_late", table.first - figures.start, table.first),
            ("ends_early", figures.end - table.last, table.last),
        ):

            def detail(place: int, away: Integers = away, moments: Integers = moments) -> str:
                return f"{_iso(moments[place])}, {_duration(away[place])}"

            self.note(key, fit & (away > DAY), away, detail)

    def _flat_lines(self) -> None:
        table = self.table
        runs: list[tuple[str, int]] = [("frozen", FROZEN)]
        runs += [(f"flat_{column}", METRIC_COLUMNS.index(column)) for column in ("cpu_pct", "latency_ms")]
        told = np.zeros(self.watch.servers, np.bool_)
        for key, place in runs:
            lasted, since = table.flat[:, place], table.flat_from[:, place]
            where = (lasted >= FLAT_FOR) & ~told
            told |= where & (place == FROZEN)  # what stands still together is told once

            def detail(server: int, place: int = place, lasted: Integers = lasted, since: Integers = since) -> str:
                column = METRIC_COLUMNS[0 if place == FROZEN else place]
                value = f"`{column}` {table.flat_value[server, place]:.4g} "
                return f"{value}{_hole(since[server], lasted[server])}"

            self.note(key, where, lasted, detail, _shared(since))

    def _units(self) -> None:
        table, figures = self.table, self.figures
        enough = figures.present >= LEAST_VALUES
        varied = table.most > table.least

        def evidence(column: str) -> Callable[[int], str]:
            place = METRIC_COLUMNS.index(column)
            metric = METRICS[place]

            def detail(server: int) -> str:
                return (
                    f"{figures.present[server, place]:,} values from {table.least[server, place]:.4g} to "
                    f"{table.most[server, place]:.4g} {metric.unit}, half of those above 0 around "
                    f"{figures.medians[server, place]:.2g} or less"
                )

            return detail

        percents = [place for place, metric in enumerate(METRICS) if metric.is_percent]
        low = enough & varied & (table.most <= 1) & (table.least >= 0)
        judged = enough & varied
        both = low[:, percents].all(axis=1) & (table.most[:, percents].max(axis=1) >= LEAST_SPREAD)
        for place in percents:
            column = METRIC_COLUMNS[place]
            whole = low[:, place].sum() >= RATIO_FLEET * judged[:, place].sum() and (
                np.where(low[:, place], table.most[:, place], 0).max() >= LEAST_SPREAD
            )
            where = low[:, place] if whole else both
            self.note(f"ratio_{column}", where, table.most[:, place], evidence(column))
        disk = METRIC_COLUMNS.index("disk_io_mb_s")
        median, most = figures.medians[:, disk], table.most[:, disk]
        with np.errstate(invalid="ignore"):
            in_bytes = enough[:, disk] & ((median >= BYTES_MEDIAN) | (most >= BYTES_MOST))
            kilobytes = enough[:, disk] & ((median >= KILOBYTES_MEDIAN) | (most >= KILOBYTES_MOST)) & ~in_bytes
            self.note("bytes_disk", in_bytes, median, evidence("disk_io_mb_s"))
            self.note("kilobytes_disk", kilobytes, median, evidence("disk_io_mb_s"))
            latency = METRIC_COLUMNS.index("latency_ms")
            median, most = figures.medians[:, latency], table.most[:, latency]
            seconds = enough[:, latency] & varied[:, latency] & (median < SECONDS_MEDIAN) & (most <= SECONDS_MOST)
            self.note("seconds_latency", seconds, -median, evidence("latency_ms"))
            micro = enough[:, latency] & (median >= MICROSECONDS_MEDIAN)
            self.note("microseconds_latency", micro, median, evidence("latency_ms"))

    # ------------------------------------------------------------------------------------------------------- records
    def record(self, place: int) -> dict[str, Any]:
        """Everything known of one server."""
        table, figures = self.table, self.figures
        gap = bool(figures.gaps[place])
        flat = {
            METRIC_COLUMNS[run] if run != FROZEN else "all": {
                "value": _round(table.flat_value[place, run]),
                **_span(int(table.flat_from[place, run]), int(table.flat[place, run])),
            }
            for run in range(FROZEN + 1)
            if table.flat[place, run] >= HOUR
        }
        reported = [column for column in METRIC_COLUMNS if column in self.watch.reported]
        known = bool(figures.watched[place])
        return {
            "server_name": self.names[place],
            "findings": [key for key, where in self.keys if where[place]],
            "rows": int(table.rows[place]),
            "first": _iso(table.first[place]) if known else None,
            "last": _iso(table.last[place]) if known else None,
            "interval_seconds": _round(figures.interval[place] / SECOND),
            "coverage": _round(figures.coverage[place]),
            "coverage_of_span": _round(figures.coverage_of_span[place]),
            "gaps": int(figures.gaps[place]),
            "longest_gap": _span(int(table.longest_from[place]), int(table.longest[place])) if gap else None,
            "duplicates": int(self.figures.duplicates[place]),
            "late_rows": int(table.late[place]),
            "late_by_seconds": int(table.late_by[place]) / SECOND,
            "jitter_seconds": _round(figures.jitter[place] / SECOND),
            "rows_before_2000": int(table.ancient[place]),
            "rows_in_the_future": int(table.future[place]),
            "missing": {
                column: _round(1 - figures.present[place, METRIC_COLUMNS.index(column)] / max(table.rows[place], 1))
                for column in reported
            },
            "most": {column: _round(table.most[place, METRIC_COLUMNS.index(column)]) for column in reported},
            "flat": flat,
        }


def judge_quality(watch: QualityWatch, names: Sequence[str], duplicates: Integers) -> Quality:
    """Judge what was seen of each server.

    Parameters
    ----------
    watch : QualityWatch
        Takes in nothing more afterwards.
    names : sequence of str
        Names of the servers, as the watch numbers them.
    duplicates : array of int
        Rows of each that repeat a time, as far as known.
    """
    judge = _Judge(watch, names, duplicates)
    judge.judge()
    table, figures = judge.table, judge.figures
    coverage = np.nan_to_num(figures.coverage_of_span, nan=1.0)
    worst_first = np.lexsort((coverage, -judge.warned))
    # µs are rounded off: jittered servers have nearly the same interval, each another one
    usual = np.round(figures.interval[np.isfinite(figures.interval)] / SECOND, 3)
    usual = np.where(usual >= 10, np.round(usual), usual)
    found = [judge.found[check.key] for check in CHECKS if check.key in judge.found]
    return Quality(
        servers=watch.servers,
        intervals=dict(Counter(usual.tolist()).most_common(20)),
        coverage=_spread(figures.coverage),
        coverage_of_span=_spread(figures.coverage_of_span),
        gaps=int(figures.gaps.sum()),
        longest_gap_seconds=float(table.longest[figures.gaps > 0].max(initial=0)) / SECOND,
        late_rows=int(table.late.sum()),
        duplicates=int(figures.duplicates.sum()),
        findings=tuple(sorted(found, key=lambda finding: finding.check.level != "warning")),
        records=Records(watch.servers, lambda place: judge.record(int(worst_first[place]))),
    )


def _shared(begins: Integers) -> Callable[[Integers], str]:
    """Tells how many of the servers found have the most frequent begin."""

    def remark(places: Integers) -> str:
        moments, counts = np.unique(begins[places], return_counts=True)
        most = int(np.argmax(counts))
        return f"{counts[most]:,} of them from {_iso(moments[most])} on" if counts[most] > 1 else ""

    return remark


def _most_shared(values: Integers, width: float) -> int:
    """The value in whose neighbourhood most of the others lie."""
    bins = np.floor_divide(values, width)
    found, counts = np.unique(bins, return_counts=True)
    inside = values[bins == found[np.argmax(counts)]]
    return int(np.median(inside))


def _spread(figures: Floats) -> dict[str, float]:
    known = figures[np.isfinite(figures)]
    if not len(known):
        return {}
    levels = {"least": 0.0, "p05": 0.05, "median": 0.5, "most": 1.0}
    return {name: round(float(np.quantile(known, level)), 6) for name, level in levels.items()}


def _round(value: Any) -> float | None:
    """Six digits; None where nothing is known, for JSON has no NaN."""
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _iso(microseconds: Any) -> str:
    return iso_z(datetime.fromtimestamp(int(microseconds) // SECOND, tz=timezone.utc))


def _span(begin: int, lasted: int) -> dict[str, Any]:
    return {"from": _iso(begin), "to": _iso(begin + lasted), "seconds": lasted / SECOND}


def _hole(begin: Any, lasted: Any) -> str:
    return f"{_iso(begin)} to {_iso(int(begin) + int(lasted))} ({_duration(lasted)})"


def _duration(microseconds: Any) -> str:
    """A duration in the unit that suits it: `5 min`, `31.5 h`, `2.5 days`."""
    seconds = float(microseconds) / SECOND
    for unit, size, least in (("days", 86_400.0, 172_800.0), ("h", 3600.0, 7200.0), ("min", 60.0, 120.0)):
        if seconds >= least:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds:.4g} s"


def _percent(share: Any) -> str:
    return f"{100 * float(share):.3g} %"


def _rows(count: Any) -> str:
    return f"{int(count):,} row" + "s" * (int(count) != 1)


def _self_check() -> None:
    assert _duration(300 * SECOND) == "5 min" and _duration(31.5 * HOUR) == "31.5 h" and _duration(5 * SECOND) == "5 s"
    quality = judge_quality(QualityWatch(DAY, 0, 0), [], np.zeros(0, np.int64))
    assert quality.servers == 0 and quality.warnings == [] and quality.as_dict()["per_server"] == []
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
