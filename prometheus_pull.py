"""Pull: the daemon asks a Prometheus for each step that is over, and catches up after a gap, its own or another's.

By the importer's mappings and queries (`prometheus_steps.py`), so a pulled row is the row that an import would make.
A thread of its own asks and judges; the event loop takes no part. Knows nothing of HTTP routes, nor of how rows are
stored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog

from common_utils import floor_to_step, iso_z, read_json, utc_now, write_json
from config import Settings
from daemon_rows import MAX_LISTED_REJECTIONS, METRIC_BOUNDS, JudgedRows, RowJudge, RowLimits, contract_frame
from data_contract import (
    METRIC_COLUMNS,
    SERVER_NAME,
    STEP_MINUTES,
    TIMESTAMP,
    ConfigurationError,
    ProductError,
    shorten,
)
from prometheus_chunks import Plan
from prometheus_mapping import (
    PROFILE_COLUMN,
    SERVER_COLUMN,
    TIME_COLUMN,
    PrometheusMapping,
    mapping_named,
)
from prometheus_query import Credentials, Limits, Prometheus, TooMuchError
from prometheus_steps import StepReader
from prometheus_values import MappedValues

log = structlog.stdlib.get_logger(__name__)

STEP_SECONDS: Final = STEP_MINUTES * 60
PROGRESS_FILE: Final = "prometheus_pull.json"  # in the history folder: until when all was fetched
_AGAIN_STEPS: Final = 2  # before the newest one: what a Prometheus was told late joins the rows
_SHORTEST_WAIT, _LONGEST_WAIT = 5.0, 300.0  # seconds from one try that failed to the next
_STOP_SECONDS: Final = 2.0
_LIMITS: Final = Limits(query_seconds=30.0, patience_seconds=0.0)  # it is asked again by this loop, not by the client

Store = Callable[[JudgedRows], dict[str, int]]


@dataclass
class PullState:
    """How the pulling goes, for people and for a Prometheus.

    Attributes
    ----------
    until : datetime or None
        End of the last step that was fetched.
    last_success : datetime or None
        When a query was last answered in full.
    rows : dict
        Rows since the start, by what became of them.
    errors : int
        Tries that failed since the start.
    error : ProductError or None
        Why the last try failed; None if it did not.
    absent : list of str
        Metrics that the mapping wants and for which the Prometheus has nothing.
    notes : list of str
        What else is worth knowing of its answers.
    """

    until: datetime | None = None
    last_success: datetime | None = None
    rows: dict[str, int] = field(default_factory=lambda: {"accepted": 0, "duplicates": 0, "rejected": 0})
    errors: int = 0
    error: ProductError | None = None
    absent: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self, lag_seconds: float) -> dict[str, Any]:
        """For /status. What is behind is counted from the end of the newest step that could be there."""
        due = floor_to_step(utc_now() - timedelta(seconds=lag_seconds), STEP_MINUTES)
        behind = None if self.until is None else max(0, int((due - self.until).total_seconds()))
        return {
            "until": self.until and iso_z(self.until),
            "behind_seconds": behind,
            "last_success": self.last_success and iso_z(self.last_success),
            "rows": dict(self.rows),
            "errors": self.errors,
            "error": self.error and self.error.as_dict(),
            "absent_metrics": list(self.absent),
            "notes": list(self.notes),
        }


class PrometheusPull:
    """Asks a Prometheus for what is missing, step after step.

    Parameters
    ----------
    settings : Settings
        `pull_prometheus_url`, `pull_mapping`, `pull_lag_seconds`, `history_hours`, `history_dir`.
    store : callable
        Takes judged rows, and returns when they are on disk: counts of what became of them.
    limits : callable
        What a row's time and server may be now.

    Raises
    ------
    ConfigurationError
        If the address or the credentials cannot be.
    ImportMappingError
        If the mapping cannot be used.
    """

    def __init__(self, settings: Settings, store: Store, limits: Callable[[], RowLimits]) -> None:
        self._settings = settings
        self._store = store
        self._limits = limits
        self._mapping = mapping_named(settings.pull_mapping)
        self._values = MappedValues(self._mapping)
        self._prometheus = Prometheus(settings.pull_prometheus_url, Credentials.from_environment(), _LIMITS)
        self._lag = timedelta(seconds=settings.pull_lag_seconds)
        self._file = settings.history_dir / PROGRESS_FILE
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prometheus-pull", daemon=True)
        self._plan: Plan | None = None  # what is known of the Prometheus' series; None until it has answered once
        self.state = PullState()

    def start(self) -> None:
        """Begin."""
        self.state.until = _kept(self._file, self._prometheus.url)
        self._thread.start()

    def stop(self) -> None:
        """End; a query that is under way is not waited for long, and its answer is thrown away."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)

    def status(self) -> dict[str, Any]:
        """For /status."""
        return self.state.as_dict(self._settings.pull_lag_seconds)

    # -------------------------------------------------------------------------------------------------------- the loop
    def _run(self) -> None:
        failed = 0
        with ExitStack() as stack:
            stack.enter_context(self._prometheus)
            while not self._stopped.is_set():
                try:
                    self._catch_up()
                except Exception as error:  # noqa: BLE001 - whatever it is, the next step is asked for again
                    self._note_failure(error, is_new=failed == 0)
                    failed += 1
                    wait = min(_SHORTEST_WAIT * 2 ** min(failed - 1, 10), _LONGEST_WAIT)
                else:
                    if failed:
                        log.info("the Prometheus is asked again as it should be", tries_that_failed=failed)
                    failed, self.state.error = 0, None
                    wait = self._seconds_to_next_step()
                self._stopped.wait(wait)

    def _note_failure(self, fault: Exception, *, is_new: bool) -> None:
        error = fault if isinstance(fault, ProductError) else _unexpected(fault)
        before, self.state.error = self.state.error, error
        self.state.errors += 1
        if is_new or before is None or before.what != error.what:  # once, and not with every try
            log.warning("a Prometheus could not be asked", reason=error.what, fix=error.fix)

    def _due(self) -> datetime:
        """End of the newest step that should be there by now."""
        return floor_to_step(utc_now() - self._lag, STEP_MINUTES)

    def _seconds_to_next_step(self) -> float:
        following = self._due() + timedelta(minutes=STEP_MINUTES) + self._lag
        return min(max((following - utc_now()).total_seconds(), 0.1), _LONGEST_WAIT)

    def _catch_up(self) -> None:
        """Fetch all steps that are over and not there yet, the oldest first."""
        due = self._due()
        earliest = floor_to_step(due - timedelta(hours=self._settings.history_hours), STEP_MINUTES)
        begin = earliest
        if self.state.until is not None:
            if self.state.until >= due:  # nothing is new, or the clock was set back
                return
            begin = max(earliest, self.state.until - _AGAIN_STEPS * timedelta(minutes=STEP_MINUTES))
        plan = self._surveyed(int(begin.timestamp()), int(due.timestamp()))
        reader = StepReader(self._prometheus, self._mapping, plan)
        steps_at_most = _LIMITS.steps_per_request
        while plan.since < plan.until and not self._stopped.is_set():
            per_request = _LIMITS.points_per_request // max(plan.most_series, 1)
            steps = max(1, min(steps_at_most, per_request, (plan.until - plan.since) // STEP_SECONDS))
            try:
                table = reader.read(plan.since, steps)
            except TooMuchError:
                if steps == 1:
                    raise
                steps_at_most = steps // 2
                continue
            self._take(table)
            plan.since += steps * STEP_SECONDS
            if not self._stopped.is_set():
                self._note_success(plan, reader)

    def _surveyed(self, since: int, until: int) -> Plan:
        """The plan for so many steps; the first time, how many series there are and how often they are scraped."""
        if self._plan is None:
            plan = Plan(self._prometheus.url, since, until, STEP_SECONDS)
            self._prometheus.check()
            StepReader(self._prometheus, self._mapping, plan).survey()
            if not plan.most_series:  # nothing is known of it yet: it is looked at again the next time
                return plan
            self._plan = plan
        plan = self._plan
        plan.since, plan.until, plan.found = since, until, []
        return plan

    def _note_success(self, plan: Plan, reader: StepReader) -> None:
        state = self.state
        state.until = datetime.fromtimestamp(plan.since, tz=timezone.utc)
        state.last_success, state.notes = utc_now(), list(plan.notes)
        state.absent = reader.absent(set(plan.found))
        write_json(self._file, {"url": self._prometheus.url, "until": iso_z(state.until)})

    def _take(self, table: pa.Table) -> None:
        """Store the rows of an answer, in parts that others need not wait long for."""
        most = self._settings.max_rows_per_request
        for begin in range(0, table.num_rows, most):
            if self._stopped.is_set():
                return
            judged = judge_table(table.slice(begin, most), self._mapping, self._values, self._limits())
            for result, count in self._store(judged).items():
                self.state.rows[result] += count


def judge_table(table: pa.Table, mapping: PrometheusMapping, values: MappedValues, limits: RowLimits) -> JudgedRows:
    """Contract rows of a table of steps; a wrong value is left out and harms no other, not even of its own row.

    Parameters
    ----------
    table : Table
        As `StepReader.read` gives it.
    """
    judge = RowJudge(limits)
    times = table[TIME_COLUMN].cast(pa.int64()).to_numpy()
    names = np.array(table[SERVER_COLUMN].cast(pa.string()).to_pylist(), dtype=object)
    stated = table[PROFILE_COLUMN].cast(pa.string()).to_pylist() if PROFILE_COLUMN in table.column_names else None
    metrics: dict[str, npt.NDArray[np.float64]] = {}
    wrong = np.zeros(len(times), dtype=np.bool_)
    for column, lower, upper, _ in METRIC_BOUNDS:
        metrics[column] = np.full(len(times), np.nan)
        if column in table.column_names:
            got = values.of(column, table[column].to_numpy(zero_copy_only=False))
            outside = ~np.isnan(got) & ~((got >= lower) & (got <= upper))
            wrong |= outside
            metrics[column] = np.where(outside, np.nan, got)
    profiles: dict[str, str | None] = {}
    for place, name in enumerate(names.tolist()):
        if name not in profiles:
            labels = dict.fromkeys(mapping.profile_labels[:1], stated[place] or "") if stated else {}
            usable = judge.profile_of(name) is not None
            profiles[name] = (
                values.stated_profile(name, labels) or limits.profile(name) or values.usual_profile(name)
                if usable
                else None
            )
    profile = np.array([profiles[name] for name in names.tolist()], dtype=object)
    there = np.logical_or.reduce([~np.isnan(each) for each in metrics.values()])
    in_time = (times >= judge.earliest_us) & (times <= judge.latest_us)
    kept = there & in_time & (profile != None)  # noqa: E711 - each of them
    rejected = wrong | ~(kept | ~there)
    faults = []
    for place in np.flatnonzero(rejected)[:MAX_LISTED_REJECTIONS].tolist():
        what = judge.fault_of(_row_at(table, values, place))
        faults.append({"row": place, "server_name": shorten(names[place]), "what": what})
    chosen = {column: each[kept] for column, each in metrics.items()}
    states = np.full(int(kept.sum()), None, dtype=object)
    frame = contract_frame(times[kept], names[kept], chosen, states, profile[kept])
    return JudgedRows(frame, int(rejected.sum()), faults)


def _row_at(table: pa.Table, values: MappedValues, place: int) -> dict[str, Any]:
    """A row of the table as somebody would send it, for its fault to be told in the same words."""
    moment = datetime.fromtimestamp(table[TIME_COLUMN][place].value / 1e6, tz=timezone.utc)
    row: dict[str, Any] = {TIMESTAMP: iso_z(moment), SERVER_NAME: table[SERVER_COLUMN][place].as_py()}
    for column in METRIC_COLUMNS:
        if column in table.column_names and (value := table[column][place].as_py()) is not None:
            row[column] = float(values.of(column, np.array([value]))[0])
    return row


def _unexpected(fault: Exception) -> ProductError:
    """What has no words of its own: a full disk under the note of how far it is, or a fault of ours."""
    if not isinstance(fault, OSError):
        log.exception("pulling failed", exc_info=fault)
    return ProductError(
        f"Pulling failed: {type(fault).__name__}.",
        why="The steps since then are missing until it goes on.",
        fix="Look at the daemon's log; it is tried again by itself.",
        document="Docs/DAEMON.md",
    )


def _kept(path: Path, url: str) -> datetime | None:
    """Until when all was fetched from this Prometheus; None if that is not known."""
    try:
        content = read_json(path)
        until = datetime.fromisoformat(str(content["until"]).replace("Z", "+00:00"))
    except (OSError, ValueError, KeyError, ProductError):
        return None  # all of the history is asked for again: what is there already is not stored twice
    return until if content.get("url") == url and until.tzinfo is not None else None


def pull_of(settings: Settings, store: Store, limits: Callable[[], RowLimits]) -> PrometheusPull | None:
    """The loop of the settings; None if they name no Prometheus.

    Raises
    ------
    ConfigurationError, ImportMappingError
        If the settings cannot be used.
    """
    if not settings.pull_prometheus_url:
        return None
    try:
        return PrometheusPull(settings, store, limits)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"pull_prometheus_url: {error.what}", why=error.why, fix=error.fix, document="Docs/DAEMON.md"
        ) from error


def _self_check() -> None:
    state = PullState(until=utc_now() - timedelta(hours=1))
    behind = state.as_dict(0)["behind_seconds"]
    assert behind is not None and 3000 <= behind <= 3600
    assert _kept(Path("nowhere.json"), "http://127.0.0.1:9090") is None
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
