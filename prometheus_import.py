"""How a Prometheus' data becomes contract Parquet: fetched by `prometheus_fetch.py`, then imported like any files.

Repairs, report and validation are `metrics_importer.py`'s. Knows times and steps as people write them, and what to do
when something ends early.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from common_utils import iso_z, read_json, uninterrupted, utc_now, write_json
from data_contract import (
    DATA_INFO,
    METRIC_COLUMNS,
    STEP_MINUTES,
    ConfigurationError,
    ProductError,
    PrometheusError,
    shorten,
)
from import_report import ImportReport
from metrics_importer import Progress, import_files
from prometheus_chunks import Plan, Work, iso_moment, open_work, sweep, writing
from prometheus_fetch import Fetch
from prometheus_mapping import PrometheusMapping
from prometheus_query import Credentials, Limits, Prometheus, checked_url

DOCUMENT: Final = "Docs/IMPORTING.md"
_STEP_SECONDS: Final = STEP_MINUTES * 60

_STEPS: Final = 10_000  # of the progress bar
_FETCH_STEPS: Final = 8_000  # of them for fetching

_WORTH_TELLING_SECONDS: Final = 3600

_SPAN: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AMOUNT: Final = r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])"
_RELATIVE: Final = re.compile(rf"now|(?:now)?\s*-\s*{_AMOUNT}(?:[\s-]*{_AMOUNT})*", re.IGNORECASE)

Tell = Callable[[str], None]


def import_prometheus(
    url: str,
    mapping: PrometheusMapping,
    out_dir: str | os.PathLike[str],
    since: str | datetime,
    until: str | datetime = "now",
    step: str | int = _STEP_SECONDS,
    progress: Progress | None = None,
    tell: Tell | None = None,
    limits: Limits | None = None,
    credentials: Credentials | None = None,
) -> ImportReport:
    """Bring what a Prometheus measured under the contract.

    Fetched chunks are kept in `out_dir` until all are there, so that the same call goes on where one was stopped.

    Parameters
    ----------
    url : str
        Address of the Prometheus.
    mapping : PrometheusMapping
        From `load_prometheus_preset`, `load_prometheus_mapping` or `parse_prometheus_mapping`.
    out_dir : path
        Folder to write to, as for `import_files`.
    since, until : str or datetime
        ISO 8601 (UTC unless they say otherwise), or relative to now: `-30d`, `-12h`, `now`.
    step : str or int
        Time between rows of a server, e.g. `5m`, or seconds. It divides the 5 minutes of the model's grid.
    progress : callable, optional
        Called with the steps done and the steps in all.
    tell : callable, optional
        Called with sentences about what is kept and what is gone on with.
    limits : Limits, optional
        How much is asked for at once.
    credentials : Credentials, optional
        What to send; by default what the environment says.

    Returns
    -------
    ImportReport
        As of `import_files`.

    Raises
    ------
    ConfigurationError
        If an address, time or step is wrong.
    ImportMappingError
        If a query cannot be evaluated, or finds nothing.
    PrometheusError
        If the Prometheus does not answer, refuses, or has nothing in this time.
    DataFileError
        If the folder cannot be written.
    """
    tell = tell or (lambda _: None)
    advance = progress or (lambda *_: None)
    limits = limits or Limits()
    out_dir = Path(out_dir)
    url = checked_url(url)
    wanted = TimeRange.of(since, until, step, utc_now())
    credentials = credentials or Credentials.from_environment()
    with open_work(out_dir, {"url": url, "asked": mapping.what_is_asked(), "time": wanted.key}) as work:
        for note in sweep(out_dir, work.folder):
            tell(note)
        if work.resumed and work.plan is not None:
            span = f"{iso_moment(work.plan.since)} to {iso_moment(work.plan.until)}"
            tell(f"Going on with an unfinished import of {span}: {work.standing}.")
        try:
            with Prometheus(url, credentials, limits) as prometheus:
                fetch = Fetch(prometheus, mapping, work, limits)
                fetch.begin(wanted.since, wanted.until, wanted.step_seconds)
                fetch.run(lambda share: advance(int(_FETCH_STEPS * share), _STEPS))
            return _import(work, mapping, out_dir, advance)
        except PrometheusError as error:
            raise type(error)(f"{error.what}{_with_space(work.kept)}", why=error.why, fix=error.fix) from error
        except (ProductError, KeyboardInterrupt):
            if work.kept:
                tell(work.kept)
            raise


def _with_space(sentence: str) -> str:
    return f" {sentence}" if sentence else ""


# ---------------------------------------------------------------------------------------------------------------- time
@dataclass(frozen=True)
class TimeRange:
    """Whole steps between two times.

    Attributes
    ----------
    since, until : int
        Beginning of the first step and end of the last one, seconds since 1970.
    step_seconds : int
        Length of a step.
    key : tuple of str
        The times as they were asked for: `-30d` stays the same when time goes by.
    """

    since: int
    until: int
    step_seconds: int
    key: tuple[str, ...]

    @classmethod
    def of(cls, since: str | datetime, until: str | datetime, step: str | int, now: datetime) -> TimeRange:
        """Read times and step.

        Raises
        ------
        ConfigurationError
            If one cannot be read, if they are in the wrong order or in the future, or if no whole step is between them.
        """
        step_seconds = parse_step(step)
        begin, end = parse_time(since, now, "--from"), parse_time(until, now, "--to")
        if begin >= end:
            raise _bad_time(f"--from ({iso_z(begin)}) is not before --to ({iso_z(end)})")
        if begin.year < 1970:
            raise _bad_time(f"--from ({iso_z(begin.replace(microsecond=0))}) lies before 1970")
        for name, moment in (("--from", begin), ("--to", end)):
            if moment > now + timedelta(seconds=60):
                raise _bad_time(f"{name} ({iso_z(moment)}) is in the future; it is {iso_z(now.replace(microsecond=0))}")
        first = -(-math.ceil(begin.timestamp()) // step_seconds) * step_seconds
        last = int(end.timestamp()) // step_seconds * step_seconds
        if first >= last or first <= 0:
            raise _bad_time(f"no whole step of {step_seconds} s lies between {iso_z(begin)} and {iso_z(end)}")
        texts = (
            re.sub(r"\s", "", text.lower()) if isinstance(text, str) and _RELATIVE.fullmatch(text.strip()) else edge
            for text, edge in ((since, str(first)), (until, str(last)))
        )
        return cls(first, last, step_seconds, (*texts, str(step_seconds)))


def parse_time(text: str | datetime, now: datetime, name: str = "time") -> datetime:
    """Moment that a text means: ISO 8601, naive is UTC; or `now`, `-30d`, `-1d12h`, `now-90m`.

    Raises
    ------
    ConfigurationError
        If it is neither.
    """
    try:
        moment = text
        if isinstance(moment, str):
            if _RELATIVE.fullmatch(moment.strip()):
                parts = re.findall(_AMOUNT, moment.lower())
                return now - timedelta(seconds=sum(float(count) * _SPAN[unit] for count, unit in parts))
            moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", moment.strip()))
        moment = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
        return moment.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise _bad_time(
            f"{name} {shorten(str(text))} is no time such as 2026-11-01, 2026-11-01T08:00:00Z, -30d, -12h or now"
        ) from None


def parse_step(step: str | int) -> int:
    """Seconds of a step such as `5m`, `30s` or a number of seconds.

    Raises
    ------
    ConfigurationError
        If it is none, or does not divide the 5 minutes of the model's grid.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*([sm]?)\s*", str(step))
    seconds = int(match[1]) * _SPAN[match[2] or "s"] if match else 0
    if not seconds or _STEP_SECONDS % seconds:
        usual = "1s, 5s, 10s, 15s, 30s, 1m, 5m"
        raise _bad_time(
            f"--step {shorten(str(step))} does not divide {STEP_MINUTES} minutes without a rest, as {usual} do"
        )
    return seconds


def _bad_time(reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"The time to import cannot be used: {reason}.",
        why="Other data than you meant would be imported, or none.",
        fix="Give e.g. --from -30d --to now, or --from 2026-11-01 --to 2026-11-15T12:00:00Z (UTC); --step 5m is usual.",
        document=DOCUMENT,
    )


# ----------------------------------------------------------------------------------------------------------- importing
def _import(work: Work, mapping: PrometheusMapping, out_dir: Path, advance: Progress) -> ImportReport:
    """Import the chunks as files, and say in the report and the metadata where they come from."""
    plan = work.plan
    assert plan is not None

    def going_on(done: int, total: int) -> None:
        advance(_FETCH_STEPS + (_STEPS - _FETCH_STEPS) * done // max(total, 1), _STEPS)

    report = import_files(work.files(), mapping.for_files(), out_dir, progress=going_on)
    missing = [metric for metric in METRIC_COLUMNS if metric in mapping.prometheus.metrics and metric not in plan.found]
    notes = [f"the Prometheus has nothing for the query of {metric}: it stays missing" for metric in missing]
    if parse_time(report.start, utc_now()).timestamp() - plan.since > _WORTH_TELLING_SECONDS:
        notes.append(f"the Prometheus has nothing of this fleet before {report.start}")
    report = replace(report, notes=(*plan.notes, *notes, *report.notes))
    with writing(out_dir), uninterrupted():
        write_json(out_dir / DATA_INFO, {**read_json(out_dir / DATA_INFO), **_metadata(plan, mapping, report)})
        work.remove()
    return report


def _metadata(plan: Plan, mapping: PrometheusMapping, report: ImportReport) -> dict[str, Any]:
    return {
        "report": report.as_dict(),
        "prometheus": {
            "url": plan.url,
            "from": iso_moment(plan.since),
            "to": iso_moment(plan.until),
            "step_seconds": plan.step_seconds,
            "window_seconds": plan.window_seconds,
            "queries": mapping.queries(plan.step_seconds, plan.window_seconds),
        },
    }


def _self_check() -> None:
    now = datetime(2026, 11, 22, 12, 34, 56, tzinfo=timezone.utc)
    assert iso_z(parse_time("-1d12h", now)) == "2026-11-21T00:34:56Z" and parse_time("now", now) == now
    assert iso_z(parse_time("2026-11-01T02:00+02:00", now)) == "2026-11-01T00:00:00Z"
    hour = TimeRange.of("-1h", "now", "5m", now)
    assert [iso_moment(edge)[11:16] for edge in (hour.since, hour.until)] == ["11:35", "12:30"]
    for wrong in (("now", "-1h", "5m"), ("-1h", "2027-01-01", "5m"), ("-1h", "now", "7m"), ("-1m", "now", "5m")):
        try:
            TimeRange.of(*wrong, now)
        except ConfigurationError as error:
            assert error.document == DOCUMENT
        else:
            raise AssertionError(wrong)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
