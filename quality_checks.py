"""Which things in a server's data are suspicious, from which limit on, why, and what to do; and how that is reported.

The checks stand here once, for the report, the document and the tests; `quality_findings.py` applies them. Nothing here
breaks the contract: a finding is a warning, or a note where it does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final, Literal

from data_contract import STEP_MINUTES
from data_quality import DAY, HOUR, MAX_SERVERS, SECOND

# ------------------------------------------------------------------------------------------------------------- limits
OLDEST: Final = int(datetime(2000, 1, 1, tzinfo=timezone.utc).timestamp()) * SECOND
FUTURE_TOLERANCE: Final = STEP_MINUTES * 60 * SECOND  # a clock off by less than a step changes no forecast

GAP_STEPS: Final = 1.5  # a step from row to row this many usual steps long has lost a sample
LEAST_COVERAGE: Final = 0.9
LONG_GAP: Final = DAY
LEAST_STEPS: Final = 20  # fewer say nothing about a rhythm
OTHER_INTERVAL: Final = 1 / 3  # share of the time; by lost samples alone, steps of two never take more than 30 %
MOST_JITTER: Final = 0.1  # of the usual step
MOST_LATE: Final = 0.1  # of the rows: then the order of the rows says nothing about the rhythm
NICE_SECONDS: Final = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 21_600, 86_400)
LEAST_SHARING: Final = 0.8  # of the servers must do the same before another one is out of line
LEAST_FLEET: Final = 5  # servers, before they are compared with one another
CLOCK_SHARE: Final = 0.5  # of the servers: a hole of an hour that so many share is the clock

FLAT_FOR: Final = 6 * HOUR
LEAST_REPORTED: Final = 0.5  # of its rows

LEAST_VALUES: Final = 100  # fewer say nothing about a unit
LEAST_SPREAD: Final = 0.2  # the highest value of a ratio; what stays below is an idle machine in percent, too
RATIO_FLEET: Final = 0.9  # of the servers stay below 1
BYTES_MEDIAN: Final = 1e5  # MB/s: 100 GB/s, half of the time
BYTES_MOST: Final = 1e7  # MB/s: 10 TB/s, once
KILOBYTES_MEDIAN: Final = 5e3  # MB/s: 5 GB/s, half of the time
KILOBYTES_MOST: Final = 2e5  # MB/s: 200 GB/s, once
SECONDS_MEDIAN: Final = 0.05  # ms: 50 µs
SECONDS_MOST: Final = 60.0
MICROSECONDS_MEDIAN: Final = 1e4  # ms: 10 s
FEW_ROWS: Final = 2
MANY_NAMES: Final = 100

SERVERS_LISTED: Final = 1_000  # in JSON, unless all are asked for
OFFENDERS_NAMED: Final = 5


@dataclass(frozen=True)
class Check:
    """One thing that is looked for.

    Attributes
    ----------
    key : str
        Name in the report.
    level : str
        `warning`, or `note` for what is worth knowing but does no harm.
    text : str
        What was found, to be followed by "in … of … servers".
    limit : str
        From where on.
    why : str
        Why this limit, or what it does to forecasts.
    fix : str
        What to do.
    """

    key: str
    level: Literal["warning", "note"]
    text: str
    limit: str
    why: str
    fix: str


_FROM_SOURCE: Final = "look at the source's own clock and scheduler"
_UNIT: Final = "set `unit = {}` in the import mapping and import again"

CHECKS: Final[tuple[Check, ...]] = (
    Check(
        "names",
        "warning",
        "`server_name` may not hold machines",
        f"more than {MANY_NAMES} names, half of them with at most {FEW_ROWS} rows; or more than {MAX_SERVERS:,} names",
        "request or container ids live too short to be learned; figures of servers are kept for so many names only",
        "name the column of the machine in the import mapping (`[server]`)",
    ),
    Check(
        "ancient",
        "warning",
        "times lie before the year 2000",
        "before 2000-01-01",
        "seconds read as milliseconds, or a machine without a clock; such rows are left out of the figures",
        "set `time.unit` in the import mapping, or drop the rows",
    ),
    Check(
        "future",
        "warning",
        "times lie in the future",
        f"more than {STEP_MINUTES} minutes ahead of now",
        "a clock that is ahead, or local times taken as UTC; forecasts would begin after them",
        "set `time.timezone` in the import mapping, or set the machine's clock",
    ),
    Check(
        "clock_forward",
        "warning",
        "an hour is missing just when clocks go forward",
        "a hole of one hour up to 1, 2 or 3 o'clock on a Sunday of clock change, in half of the servers",
        "local times without their zone were taken as UTC, so that half of the year is off by an hour",
        "set `time.timezone` in the import mapping and import again",
    ),
    Check(
        "clock_back",
        "warning",
        "an hour comes twice just when clocks go back",
        "rows at 1 or 2 o'clock on a Sunday of clock change that repeat times of the hour before",
        "local times without their zone were taken as UTC, so that half of the year is off by an hour",
        "set `time.timezone` in the import mapping and import again",
    ),
    Check(
        "clock_shift",
        "warning",
        "all times are off by hours against the rest of the fleet",
        f"first and last time off by the same multiple of 30 minutes, where {100 * LEAST_SHARING:g} % of "
        f"{LEAST_FLEET} or more servers begin and end together",
        "another time zone: the server's daily rhythm is learned at the wrong hours",
        "give its files `time.timezone` of their own in the import mapping",
    ),
    Check(
        "clock_skew",
        "note",
        "samples are taken at another second than in the rest of the fleet",
        f"off by more than a second, where {100 * LEAST_SHARING:g} % of {LEAST_FLEET} or more servers share it",
        "no harm on a grid of 5 minutes, but a clock may be wrong",
        _FROM_SOURCE,
    ),
    Check(
        "drift",
        "warning",
        "the rhythm drifts",
        f"the usual step is off a round one by a sample a day or more, and longer than {STEP_MINUTES / 2:g} minutes",
        "steps of the grid stay empty now and then; usual cause: `sleep` in a loop",
        "sample by the clock (cron, a timer), not by waiting",
    ),
    Check(
        "jitter",
        "warning",
        "samples come off their rhythm",
        f"by {100 * MOST_JITTER:g} % of the usual step or more on average, where that is longer than "
        f"{STEP_MINUTES / 2:g} minutes",
        "some steps of the grid stay empty and others get two samples",
        _FROM_SOURCE,
    ),
    Check(
        "interval_change",
        "warning",
        "the time between samples changes",
        "a third of the time or more goes by in longer steps than the usual one, each of the same length",
        "the longer steps leave steps of the grid empty",
        "sample at one interval, at most every 5 minutes",
    ),
    Check(
        "coarse",
        "warning",
        "samples are further apart than the model's step",
        f"the usual step is longer than {STEP_MINUTES} minutes",
        "the steps between stay missing, in training and in forecasts",
        "sample at least every 5 minutes",
    ),
    Check(
        "gap",
        "warning",
        "nothing was reported for a day or more",
        "24 hours",
        "a whole day of its rhythm is missing there; windows over it teach nothing",
        "import the missing time if the source still has it; otherwise nothing: a gap stays a gap",
    ),
    Check(
        "coverage",
        "warning",
        "more than a tenth of the samples is missing",
        f"less than {100 * LEAST_COVERAGE:g} % of the steps between its own first and last",
        "the rest is masked, so there is less to learn from and forecasts start from older values",
        "look at the collector's log at the times of the gaps",
    ),
    Check(
        "patchy",
        "warning",
        "a metric is missing in most rows of a server that reports it",
        f"a value in less than {100 * LEAST_REPORTED:g} % of its rows, but in some",
        "metrics sampled at different times stand in rows of their own; averages rest on few values",
        "sample all metrics at once, or at the same interval",
    ),
    Check(
        "frozen",
        "warning",
        "all metrics stood still at once",
        f"the same values for {FLAT_FOR // HOUR} hours or more, two metrics or more in use (above 0 and not at 100 %)",
        "no machine does that: the exporter or the collector is stuck and repeats its last reading",
        "restart the exporter; drop these rows if you can, so that nobody learns from them",
    ),
    Check(
        "flat_cpu_pct",
        "warning",
        "`cpu_pct` stood still",
        f"exactly the same value between 5 and 100 % for {FLAT_FOR // HOUR} hours or more",
        "a busy CPU never does; idle ones rest at coarse values, and at 100 % it is at its stop: these are left alone",
        "look whether the exporter repeats its last reading",
    ),
    Check(
        "flat_latency_ms",
        "warning",
        "`latency_ms` stood still",
        f"exactly the same value above 0 for {FLAT_FOR // HOUR} hours or more",
        "a measured time never does: a timeout, a default or the last reading repeated",
        "look whether the probe still runs",
    ),
    *(
        Check(
            f"ratio_{column}",
            "warning",
            f"`{column}` looks like a ratio of 0–1",
            f"never above 1 in {LEAST_VALUES} values or more, up to {LEAST_SPREAD:g} or more, in "
            f"{100 * RATIO_FLEET:g} % of the servers; or in a single server that reports both percentages, "
            "neither of them above 1",
            "a fleet at its limit would look idle; single idle machines do stay below 1 %, whole fleets do not",
            _UNIT.format('"ratio"'),
        )
        for column in ("cpu_pct", "mem_pct")
    ),
    Check(
        "bytes_disk",
        "warning",
        "`disk_io_mb_s` looks like bytes per second",
        f"half of the values above 0 reach {BYTES_MEDIAN:,.0f} MB/s, or one {BYTES_MOST:,.0f}",
        "no machine moves 100 GB a second half of the time, or 10 TB once",
        _UNIT.format('"B/s"'),
    ),
    Check(
        "kilobytes_disk",
        "warning",
        "`disk_io_mb_s` looks like kilobytes per second",
        f"half of the values above 0 reach {KILOBYTES_MEDIAN:,.0f} MB/s, or one {KILOBYTES_MOST:,.0f}",
        "hardly any machine moves 5 GB a second half of the time; quiet ones in KB/s cannot be told from busy ones in "
        "MB/s",
        _UNIT.format('"KB/s"'),
    ),
    Check(
        "seconds_latency",
        "warning",
        "`latency_ms` looks like seconds",
        f"half of the values above 0 are below {SECONDS_MEDIAN:g} ms, none above {SECONDS_MOST:g}",
        "no service answers within 50 µs; as seconds it is 50 ms",
        _UNIT.format('"s"'),
    ),
    Check(
        "microseconds_latency",
        "warning",
        "`latency_ms` looks like microseconds",
        f"half of the values above 0 reach {MICROSECONDS_MEDIAN:,.0f} ms",
        "nobody waits 10 seconds half of the time; as microseconds it is 10 ms",
        _UNIT.format('"us"'),
    ),
    Check(
        "starts_late",
        "note",
        "the first row comes more than a day after the fleet's",
        "24 hours after the first row of all",
        "a new machine, usually; it is learned from what there is",
        "nothing, unless it should be there",
    ),
    Check(
        "ends_early",
        "note",
        "the last row comes more than a day before the fleet's",
        "24 hours before the last row of all",
        "switched off, or no longer reporting; there is no forecast for it",
        "nothing, if it was switched off",
    ),
)
CHECKS_BY_KEY: Final = {check.key: check for check in CHECKS}


# ------------------------------------------------------------------------------------------------------------ results
@dataclass(frozen=True)
class Offender:
    """A server that a check found, and the evidence."""

    server: str
    detail: str


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    check : Check
    servers, of : int
        Number of servers, and of all.
    worst : tuple of Offender
        The worst of them, worst first.
    note : str
        What holds for all of them, if anything.
    """

    check: Check
    servers: int
    of: int
    worst: tuple[Offender, ...]
    note: str = ""

    def sentence(self) -> str:
        """The finding in one sentence, with an example and the remedy."""
        where = f" in {self.servers:,} of {self.of:,} server(s)" if self.servers else ""
        example = f", e.g. {self.worst[0].server}: {self.worst[0].detail}" if self.worst else ""
        note = f" ({self.note})" if self.note else ""
        return f"{self.check.text}{where}{note}{example}; {self.check.fix}"

    def as_dict(self) -> dict[str, Any]:
        """The same for `--json`."""
        return {
            "key": self.check.key,
            "level": self.check.level,
            "text": self.check.text,
            "sentence": self.sentence(),
            "servers": self.servers,
            "of": self.of,
            "note": self.note,
            "worst": [vars(offender) for offender in self.worst],
            "why": self.check.why,
            "fix": self.check.fix,
        }


class Records(Sequence[dict[str, Any]]):
    """Records made when they are asked for: a list of 50,000 would take longer than to judge them."""

    def __init__(self, length: int, make: Callable[[int], dict[str, Any]]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self._make(index) for index in range(*place.indices(self._length))]
        if not -self._length <= place < self._length:
            raise IndexError(place)
        return self._make(place % self._length)


@dataclass(frozen=True)
class Quality:
    """What the data of a whole fleet is like.

    Attributes
    ----------
    servers : int
        Number of servers judged.
    intervals : dict
        Usual seconds between rows → servers, the most frequent first.
    coverage : dict
        `least`, `p05`, `median`, `most` of the servers' coverage: steps seen of those between their own first and last.
    coverage_of_span : dict
        The same against the span of the whole set.
    gaps, longest_gap_seconds, late_rows, duplicates : int or float
        Of all servers together; the longest of all.
    findings : tuple of Finding
        Warnings first, each in the order of `CHECKS`.
    records : sequence of dict
        One for each server, worst first.
    """

    servers: int
    intervals: dict[float, int]
    coverage: dict[str, float]
    coverage_of_span: dict[str, float]
    gaps: int
    longest_gap_seconds: float
    late_rows: int
    duplicates: int
    findings: tuple[Finding, ...]
    records: Records

    @property
    def warnings(self) -> list[str]:
        """One sentence for each finding that is a warning."""
        return [finding.sentence() for finding in self.findings if finding.check.level == "warning"]

    def as_dict(self, *, all_servers: bool = False) -> dict[str, Any]:
        """The same for `--json`; of more than `SERVERS_LISTED` servers only the worst unless all are asked for."""
        listed = self.servers if all_servers else min(self.servers, SERVERS_LISTED)
        return {
            "servers": self.servers,
            "intervals": [{"seconds": seconds, "servers": count} for seconds, count in self.intervals.items()],
            "coverage": self.coverage,
            "coverage_of_span": self.coverage_of_span,
            "gaps": self.gaps,
            "longest_gap_seconds": self.longest_gap_seconds,
            "late_rows": self.late_rows,
            "duplicates": self.duplicates,
            "findings": [finding.as_dict() for finding in self.findings],
            "servers_listed": listed,
            "per_server": [self.records[place] for place in range(listed)],
        }


def _self_check() -> None:
    assert len(CHECKS_BY_KEY) == len(CHECKS)
    finding = Finding(CHECKS_BY_KEY["gap"], 1, 2, (Offender("ppweb001", "31 h"),))
    assert "1 of 2 server(s)" in finding.sentence() and "ppweb001: 31 h" in finding.sentence()
    records = Records(3, lambda place: {"place": place})
    assert records[-1] == {"place": 2} and len(records[1:]) == 2 and len(list(records)) == 3
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
