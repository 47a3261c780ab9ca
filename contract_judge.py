"""What is wrong with contract rows, seen piece by piece: all faults at once, each counted and with an example.

What a `RowJudge` keeps grows with the number of servers and not of rows, so that files of any size can be judged. Knows
nothing of files and model folders, which are `data_validator.py`'s.

The checks are plain NumPy on purpose. pandera was measured on 777,600 rows: it validates them in 0.3 s, but keeps one
record per faulty value (a column that is wrong throughout fills the memory), sees neither duplicates nor a changing
profile across pieces, cannot name the server, and adds 0.3 s to every start. What it would leave to do is the whole of
this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from common_utils import iso_z
from data_contract import (
    METRIC_COLUMNS,
    METRICS,
    PROFILE,
    REQUIRED_COLUMNS,
    SERVER_NAME,
    STATE,
    TIMESTAMP,
    VALID_PROFILES,
    VALID_STATES,
    Metric,
    name_fault,
    shorten,
)
from data_quality import NO_TIME, Integers, Mask, OrderedRows, QualityWatch
from quality_checks import Quality
from quality_findings import judge_quality

_IMPORT_HINT = "bring it in with `python main.py import FILE`"
_ROWS_PER_DUPLICATE_SEARCH = 4_000_000  # about 150 MB while sorting
_COLUMNS_COMPARED = 1_000  # with the name of a missing one
_FOREIGN_VALUES_KEPT = 100  # of a state or profile column that holds something else altogether

Floats = npt.NDArray[np.floating[Any]]
Place = Callable[[int], str]  # names the row of a piece for a message


@dataclass(frozen=True)
class ValidationReport:
    """What was seen of one source, and everything that is wrong with it.

    Attributes
    ----------
    source : str
        The file, folder or frame that was judged.
    rows : int
        Number of rows.
    servers : int
        Number of distinct server names.
    start, end : datetime or None
        First and last timestamp, UTC; None without any valid timestamp.
    profiles : dict
        Number of servers of each profile that occurs.
    states : dict
        Number of rows in each state that occurs.
    missing : dict
        Number of rows in which a metric is not reported, for each metric.
    errors, warnings : list of str
        One sentence each; the source is valid when there are no errors. Findings on the quality are among the warnings.
    quality : Quality or None
        What the data of each server is like; None where that was not asked for.
    """

    source: str
    rows: int
    servers: int
    start: datetime | None
    end: datetime | None
    profiles: dict[str, int] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    quality: Quality | None = None

    @property
    def is_valid(self) -> bool:
        """Whether there are no errors (warnings do not count)."""
        return not self.errors

    def as_dict(self, *, all_servers: bool = False) -> dict[str, Any]:
        """The same for `--json`, times in ISO 8601; of large fleets the worst servers, or all of them."""
        return {
            "source": self.source,
            "is_valid": self.is_valid,
            "rows": self.rows,
            "servers": self.servers,
            "start": None if self.start is None else iso_z(self.start),
            "end": None if self.end is None else iso_z(self.end),
            "profiles": self.profiles,
            "states": self.states,
            "missing": self.missing,
            "errors": self.errors,
            "warnings": self.warnings,
            **({} if self.quality is None else {"quality": self.quality.as_dict(all_servers=all_servers)}),
        }


@dataclass
class _Fault:
    """One kind of fault: how often, the first (or worst) place where it was seen, and which foreign values."""

    text: str
    rows: int = 0
    example: str = ""
    worst: float | None = None
    values: dict[str, None] = field(default_factory=dict)

    def sentence(self) -> str:
        """The fault for a report."""
        rows = f"{self.rows:,} row" + ("s" if self.rows != 1 else "")
        values = f": {shorten(list(self.values))}" if self.values else ""
        return f"{self.text} in {rows}, e.g. {self.example}{values}"


class _Text(NamedTuple):
    """A text column as codes into its distinct values; -1 is missing."""

    codes: Integers
    values: list[Any]
    counts: Integers  # rows of each value


class RowJudge:
    """All that was seen of one source so far, piece by piece; what it keeps grows with the servers, not the rows.

    Parameters
    ----------
    watch : QualityWatch, optional
        Takes in the same rows, for what each server's data is like.
    """

    def __init__(self, watch: QualityWatch | None = None) -> None:
        self._watch = watch
        self.rows = 0
        self._errors: list[str] = []
        self._warnings: list[str] = []
        self._faults: dict[str, _Fault] = {}
        self._start, self._end = np.iinfo(np.int64).max, NO_TIME
        self._states: dict[str, int] = {}
        self._missing = dict.fromkeys(METRIC_COLUMNS, 0)
        self._judged_metrics: set[str] = set()
        # One entry per server
        self._servers: dict[str, int] = {}
        self._server_rows = np.zeros(0, np.int64)
        self._last = np.zeros(0, np.int64)  # newest timestamp, µs
        self._server_profile = np.zeros(0, np.int64)  # place in VALID_PROFILES, -1: none yet
        self._restless = np.zeros(0, np.bool_)  # some row has another profile than the server's first
        self._unsorted = np.zeros(0, np.bool_)
        self._suspect = np.zeros(0, np.bool_)  # a row was not later than the one before: there may be duplicates
        self._duplicates = np.zeros(0, np.int64)

    @property
    def profiles(self) -> dict[str, str]:
        """Profile of each server seen so far by its name, as its first row that has a valid one says."""
        places = zip(self._servers, self._server_profile, strict=True)
        return {name: VALID_PROFILES[place] for name, place in places if place >= 0}

    def judge_columns(self, names: Iterable[object]) -> None:
        """Look for missing, unknown and repeated columns."""
        present = list(names)
        unknown = [str(name) for name in dict.fromkeys(present) if name not in REQUIRED_COLUMNS]
        for column in REQUIRED_COLUMNS:
            if present.count(column) > 1:
                self._errors.append(f"column `{column}` is there {present.count(column)} times")
            elif column not in present:
                near = difflib.get_close_matches(column, unknown[:_COLUMNS_COMPARED], 1)
                hint = f" (there is `{near[0]}`: rename it, or {_IMPORT_HINT})" if near else ""
                self._errors.append(f"column `{column}` is missing{hint}")
        if unknown:
            self._warnings.append(f"columns outside the contract are ignored: {shorten(unknown)}")

    def add(self, frame: pd.DataFrame, *, columns_judged: bool = False) -> None:
        """Judge the next rows."""
        if not columns_judged:
            self.judge_columns(frame.columns)
        if not len(frame):  # an empty frame's columns have no type to judge
            return
        self.rows += len(frame)
        usable = {column for column in REQUIRED_COLUMNS if list(frame.columns).count(column) == 1}
        times = self._judge_times(frame[TIMESTAMP]) if TIMESTAMP in usable else None
        servers = self._judge_servers(frame[SERVER_NAME]) if SERVER_NAME in usable else None

        def place(row: int) -> str:
            moment = f" at {_iso(times[row])}" if times is not None and times[row] != NO_TIME else ""
            number = f"row {self.rows - len(frame) + row:,}"
            if servers is None or servers[row] < 0:
                return number + moment
            name = next(islice(self._servers, int(servers[row]), None))
            return name + (moment or f", {number}")

        if times is not None:
            self._count("`timestamp` is missing", times == NO_TIME, place)
        values: dict[str, Floats] = {}
        for metric in METRICS:
            numbers = self._judge_metric(frame[metric.column], metric, place) if metric.column in usable else None
            if numbers is not None:
                values[metric.column] = numbers
        if STATE in usable:
            states = self._judge_choice(frame[STATE], STATE, VALID_STATES, place)
            for value, count in zip(states.values, states.counts, strict=True) if states else ():
                if count and value in VALID_STATES:
                    self._states[value] = self._states.get(value, 0) + int(count)
        profiles = self._judge_choice(frame[PROFILE], PROFILE, VALID_PROFILES, place) if PROFILE in usable else None
        if servers is not None and profiles is not None:
            self._judge_constancy(servers, profiles)
        if servers is not None and times is not None:
            ordered = _by_server(servers, times)
            self._judge_order(ordered)
            if self._watch is not None:
                self._watch.add(ordered, values, len(self._servers))

    def search_duplicates(self, pieces: Callable[[], Iterable[pd.DataFrame]]) -> None:
        """Read the suspect servers' rows again and look for equal (server, timestamp) pairs.

        Only servers with disorder can have any, so sound data is never read twice. They are taken in groups, each
        of which fits into memory.
        """
        suspects = np.flatnonzero(self._suspect)
        groups = np.cumsum(self._server_rows[suspects]) // _ROWS_PER_DUPLICATE_SEARCH
        names = np.array(list(self._servers), dtype=object)
        fault = _Fault("the same (server_name, timestamp) occurs again")
        self._duplicates = np.zeros(len(names), np.int64)
        for group in np.unique(groups):
            wanted = np.zeros(len(names), np.bool_)
            wanted[suspects[groups == group]] = True
            kept_servers, kept_times = [], []
            for piece in pieces():
                if not {SERVER_NAME, TIMESTAMP} <= set(piece.columns):  # of a file that lacks one, which is told
                    continue
                text = self._as_text(piece[SERVER_NAME], SERVER_NAME)
                if text is None or not pd.api.types.is_datetime64_any_dtype(piece[TIMESTAMP].dtype):
                    continue
                times = _microseconds(piece[TIMESTAMP])
                lookup = np.array([*(self._servers.get(value, -1) for value in text.values), -1], np.int64)
                codes = lookup[text.codes]
                keep = (codes >= 0) & wanted[codes] & (times != NO_TIME)
                kept_servers.append(codes[keep])
                kept_times.append(times[keep])
            server, time = np.concatenate(kept_servers), np.concatenate(kept_times)
            order = np.lexsort((time, server))
            server, time = server[order], time[order]
            again = np.flatnonzero((server[1:] == server[:-1]) & (time[1:] == time[:-1]))
            if len(again):
                fault.example = fault.example or f"{names[server[again[0]]]} at {_iso(time[again[0]])}"
                fault.rows += len(again)
                self._duplicates += np.bincount(server[again], minlength=len(names))
        if fault.rows:
            self._faults["duplicates"] = fault

    def report(self, source: str, errors: Iterable[str] = (), warnings: Iterable[str] = ()) -> ValidationReport:
        """Everything found, after the given errors and warnings; nothing may be added afterwards."""
        names = list(self._servers)
        found = [*errors, *self._errors, *(fault.sentence() for fault in self._faults.values())]
        noted = [*warnings, *self._warnings]
        if not self.rows:
            found.append("there are no rows")
        if self._restless.any():
            restless = [names[code] for code in np.flatnonzero(self._restless)]
            found.append(f"`profile` changes within {len(restless):,} server(s): {shorten(restless)}")
        for column in METRIC_COLUMNS:
            if self.rows and column in self._judged_metrics and self._missing[column] == self.rows:
                noted.append(f"`{column}` is missing in every row: it will be forecast as null")
        if self._unsorted.any():
            unsorted = [names[code] for code in np.flatnonzero(self._unsorted)]
            noted.append(f"rows are not in the order of time in {len(unsorted):,} server(s): {shorten(unsorted)}")
        quality = None
        if self._watch is not None:
            unknown = np.zeros(len(names) - len(self._duplicates), np.int64)
            quality = judge_quality(self._watch, names, np.concatenate([self._duplicates, unknown]))
            noted += quality.warnings
        per_profile = np.bincount(self._server_profile[self._server_profile >= 0], minlength=len(VALID_PROFILES))
        return ValidationReport(
            source=source,
            rows=self.rows,
            servers=len(names),
            start=_moment(self._start) if self._start <= self._end else None,
            end=_moment(self._end) if self._start <= self._end else None,
            profiles={name: int(count) for name, count in zip(VALID_PROFILES, per_profile, strict=True) if count},
            states=dict(sorted(self._states.items())),
            missing=self._missing,
            errors=found,
            warnings=noted,
            quality=quality,
        )

    # ------------------------------------------------------------------------------------------------ single columns

    def _once(self, findings: list[str], text: str) -> None:
        if text not in findings:
            findings.append(text)

    def _count(self, text: str, where: Mask, place: Place) -> None:
        """Count rows of a fault and remember the first of them."""
        if where.any():
            self._note(text, int(np.count_nonzero(where)), place(int(np.argmax(where))))

    def _note(self, text: str, rows: int, example: str) -> None:
        fault = self._faults.setdefault(text, _Fault(text))
        fault.example = fault.example or example
        fault.rows += rows

    def _judge_times(self, series: pd.Series[Any]) -> Integers | None:
        if not pd.api.types.is_datetime64_any_dtype(series.dtype):
            self._once(self._errors, _wrong_time_type(series))
            return None
        if series.dt.tz is None:
            self._once(self._warnings, "`timestamp` has no time zone: it is taken as UTC")
        times = _microseconds(series)
        known = times[times != NO_TIME]
        if len(known):
            self._start, self._end = min(self._start, int(known.min())), max(self._end, int(known.max()))
        return times

    def _judge_servers(self, series: pd.Series[Any]) -> Integers | None:
        text = self._as_text(series, SERVER_NAME)
        if text is None:
            return None
        first_row = self.rows - len(series)
        self._count("`server_name` is missing", text.codes < 0, lambda row: f"row {first_row + row:,}")
        codes = np.full(len(text.values) + 1, -1, np.int64)  # the last one is for code -1
        for value, name in enumerate(text.values):
            if not text.counts[value]:
                continue
            fault = name_fault(name)
            if fault:
                where = text.codes == value
                example = f"{shorten(name)} in row {first_row + int(np.argmax(where)):,}"
                self._note(f"`server_name` {fault}", int(text.counts[value]), example)
            else:
                codes[value] = self._servers.setdefault(name, len(self._servers))
        grown = len(self._servers) - len(self._last)
        self._server_rows = np.concatenate([self._server_rows, np.zeros(grown, np.int64)])
        self._last = np.concatenate([self._last, np.full(grown, NO_TIME)])
        self._server_profile = np.concatenate([self._server_profile, np.full(grown, -1)])
        for flags in ("_restless", "_unsorted", "_suspect"):
            setattr(self, flags, np.concatenate([getattr(self, flags), np.zeros(grown, np.bool_)]))
        servers: Integers = codes[text.codes]
        self._server_rows += np.bincount(servers[servers >= 0], minlength=len(self._last))
        return servers

    def _judge_metric(self, series: pd.Series[Any], metric: Metric, place: Place) -> Floats | None:
        values = _numbers(series)
        if values is None:
            self._once(self._errors, f"`{metric.column}` holds {_kind(series)}, not numbers: {_IMPORT_HINT}")
            return None
        self._judged_metrics.add(metric.column)
        self._missing[metric.column] += int(np.count_nonzero(np.isnan(values)))
        least, most = float(np.fmin.reduce(values)), float(np.fmax.reduce(values))  # both pass over NaN
        upper = np.inf if metric.upper is None else metric.upper
        if np.isinf(least) or np.isinf(most):
            infinite = np.isinf(values)
            self._count(f"`{metric.column}` is infinite", infinite, place)
            values = np.where(infinite, np.nan, values)
        for text, wrong, extreme in (
            (f"`{metric.column}` is below {metric.lower:g} {metric.unit}", values < metric.lower, np.fmin),
            (f"`{metric.column}` is above {upper:g} {metric.unit}", values > upper, np.fmax),
        ):
            if not wrong.any():
                continue
            fault = self._faults.setdefault(text, _Fault(text))
            worst = extreme.reduce(values)  # a NumPy scalar prints as few digits as its type has
            if fault.worst is None or extreme(worst, fault.worst) != fault.worst:
                fault.worst, fault.example = float(worst), f"{worst!s} ({place(int(np.argmax(values == worst)))})"
            fault.rows += int(np.count_nonzero(wrong))
        return values

    def _judge_choice(self, series: pd.Series[Any], column: str, valid: tuple[str, ...], place: Place) -> _Text | None:
        text = self._as_text(series, column)
        if text is None:
            return None
        self._count(f"`{column}` is missing", text.codes < 0, place)
        foreign = [code for code, value in enumerate(text.values) if text.counts[code] and value not in valid]
        if foreign:
            sentence = f"`{column}` is none of the contract's {len(valid)} ({', '.join(valid)})"
            self._count(sentence, np.isin(text.codes, foreign), place)
            known = self._faults[sentence].values
            known.update((text.values[code], None) for code in foreign[: _FOREIGN_VALUES_KEPT - len(known)])
        return text

    def _as_text(self, series: pd.Series[Any], column: str) -> _Text | None:
        text = None if _is_plain_number_or_time(series) else _text(series)
        if text is None or not all(isinstance(value, str) for value in text.values):
            self._once(self._errors, f"`{column}` holds {_kind(series)}, not text")
            return None
        return text

    # ------------------------------------------------------------------------------------------------ across columns

    def _judge_constancy(self, servers: Integers, profiles: _Text) -> None:
        """Every server has one profile, in all pieces."""
        places = {profile: index for index, profile in enumerate(VALID_PROFILES)}
        lookup = np.array([*(places.get(value, -1) for value in profiles.values), -1], np.int64)
        profile = lookup[profiles.codes]
        known = (servers >= 0) & (profile >= 0)
        servers, profile = servers[known], profile[known]
        first = np.full(len(self._last), -1, np.int64)
        first[servers[::-1]] = profile[::-1]  # the last assignment wins, so the first row's
        self._server_profile = np.where(self._server_profile >= 0, self._server_profile, first)
        self._restless[servers[profile != self._server_profile[servers]]] = True

    def _judge_order(self, rows: OrderedRows) -> None:
        """Within a server, and on from the piece before, each row is later than the last."""
        servers, times, begins = rows.servers, rows.times, rows.begins
        if not len(servers):
            return
        before = np.concatenate([times[:1], times[:-1]])
        before[begins] = self._last[servers[begins]]
        early = times <= before
        if early.any():
            self._unsorted[servers[early & (times < before)]] = True
            self._suspect[servers[early]] = True
        ends = np.concatenate([begins[1:], [True]])
        self._last[servers[ends]] = np.maximum(self._last[servers[ends]], times[ends])


def _by_server(servers: Integers, times: Integers) -> OrderedRows:
    """Rows whose server and time are known, sorted by server, otherwise as they came."""
    order: Integers | slice = slice(None)
    known = (servers >= 0) & (times != NO_TIME)
    if not known.all():
        order = np.flatnonzero(known)
        servers, times = servers[order], times[order]
    if (servers[1:] < servers[:-1]).any():
        # Radix sort, where there are few enough servers: three times as quick
        keys = servers.astype(np.uint16) if servers.max() < 1 << 16 else servers
        places = np.argsort(keys, kind="stable")
        order = places if isinstance(order, slice) else order[places]
        servers, times = servers[places], times[places]
    begins = np.ones(len(servers), np.bool_)
    begins[1:] = servers[1:] != servers[:-1]
    return OrderedRows(order, servers, times, begins)


def _text(series: pd.Series[Any]) -> _Text:
    """Codes and distinct values of a column; distinct values may turn out not to be text."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes, values = series.cat.codes.to_numpy().astype(np.int64), list(series.cat.categories)
    else:
        try:
            found, uniques = pd.factorize(series)
        except TypeError:  # lists or dicts in the cells cannot be hashed
            return _Text(np.full(len(series), -1, np.int64), [None], np.zeros(1, np.int64))
        codes, values = found.astype(np.int64), list(uniques)
    return _Text(codes, values, np.bincount(codes[codes >= 0], minlength=len(values)))


def _microseconds(series: pd.Series[Any]) -> Integers:
    """UTC times in µs, the contract's precision."""
    if series.dt.tz is not None:
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    times: Integers = series.to_numpy(dtype="datetime64[us]").astype(np.int64)
    return times


def _numbers(series: pd.Series[Any]) -> npt.NDArray[np.floating[Any]] | None:
    """Values of a numeric column as floats with NaN for missing; None if it is no numeric column."""
    dtype = series.dtype
    if pd.api.types.is_numeric_dtype(dtype) and not (
        pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_complex_dtype(dtype)
    ):
        wanted = np.float32 if dtype == np.float32 else np.float64
        numbers: npt.NDArray[np.floating[Any]] = series.to_numpy(dtype=wanted, na_value=np.nan)
        return numbers
    return np.full(len(series), np.nan) if series.isna().all() else None  # a column of nulls has no type


def _is_plain_number_or_time(series: pd.Series[Any]) -> bool:
    dtype = series.dtype
    return bool(pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_datetime64_any_dtype(dtype))


def _kind(series: pd.Series[Any]) -> str:
    """What a column holds, in words."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.cat.categories.to_series()
    dtype = series.dtype
    if pd.api.types.is_bool_dtype(dtype):
        return "true and false"
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return "times"
    if pd.api.types.is_numeric_dtype(dtype):
        return f"numbers ({dtype})"
    types = sorted({type(value).__name__ for value in series.dropna().head(1000)})
    if types == ["str"]:
        return f"text (e.g. {shorten(str(series.dropna().iloc[0]))})"
    return f"values of type {', '.join(types)}" if types else f"no values ({dtype})"


def _wrong_time_type(series: pd.Series[Any]) -> str:
    """Why a column that is no datetime column is refused."""
    values = series.dropna()
    if len(values) and all(isinstance(value, datetime) for value in values):
        zones = {"none" if value.tzinfo is None else str(value.tzinfo) for value in values}
        if len(zones) > 1:
            return (
                f"`timestamp` mixes time zones ({', '.join(sorted(zones)[:6])}): convert it to UTC, or {_IMPORT_HINT}"
            )
    return f"`timestamp` holds {_kind(series)}, not a datetime column: convert it to UTC, or {_IMPORT_HINT}"


def _moment(microseconds: int) -> datetime:
    moment: datetime = pd.Timestamp(microseconds, unit="us", tz="UTC").to_pydatetime()
    return moment


def _iso(microseconds: int) -> str:
    return iso_z(_moment(int(microseconds)))


def _self_check() -> None:
    judge = RowJudge()
    frame = pd.DataFrame(
        {
            TIMESTAMP: pd.date_range("2026-01-01", periods=3, freq="5min", tz="UTC"),
            SERVER_NAME: "ppweb001",
            **dict.fromkeys(METRIC_COLUMNS, 1.0),
            STATE: "healthy",
            PROFILE: "web_api",
        }
    )
    pieces = [frame.iloc[:2], frame.iloc[1:]]  # one row is in both
    for piece in pieces:
        judge.add(piece)
    judge.search_duplicates(lambda: pieces)
    report = judge.report("two pieces")
    assert report.rows == 4 and report.servers == 1 and report.profiles == {"web_api": 1}
    assert len(report.errors) == 1 and "ppweb001 at 2026-01-01T00:05:00Z" in report.errors[0]
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
