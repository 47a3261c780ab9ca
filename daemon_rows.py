"""How JSON rows that anyone may have sent become contract rows, and why some of them do not.

Every row is judged on its own: a wrong one is itemised and harms no other. What comes out is a contract frame that the
store, the grid and the trainer take without a further look. Knows nothing of HTTP connections or the store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pydantic_core

from common_utils import iso_z
from daemon_problems import RequestError
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
    name_fault,
    profile_for_name,
    shorten,
)
from derived_columns import derived_state_names

MAX_LISTED_REJECTIONS = 100
# The contract sets no upper bound for MB/s and ms. Beyond this, the value is no measurement but a sentinel such as
# 1e308, which float32 cannot hold; a latency of 1e12 ms is 31 years.
LARGEST_VALUE = 1e12

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
Objects = npt.NDArray[np.object_]

_COLUMNS = frozenset(REQUIRED_COLUMNS)
_STATES = frozenset(VALID_STATES)
_PROFILES = frozenset(VALID_PROFILES)
METRIC_BOUNDS = tuple((metric.column, metric.lower, metric.upper or LARGEST_VALUE, metric.unit) for metric in METRICS)

_BODY_FIX = (
    'Send JSON like {"rows": [{"timestamp": "2026-01-05T10:00:00Z", "server_name": "ppweb001", "cpu_pct": 41.2}]}.'
)


@dataclass(frozen=True)
class RowLimits:
    """What a row's time and server may be.

    Attributes
    ----------
    latest : datetime
        Rows after this are from the future.
    earliest : datetime or None
        Rows before this are older than what is kept; None while nothing is.
    new_servers : int
        How many servers may be added.
    profile : callable
        Known profile of a server, None for a new one.
    """

    latest: datetime
    earliest: datetime | None
    new_servers: int
    profile: Callable[[str], str | None]


@dataclass(frozen=True)
class JudgedRows:
    """Valid rows as a contract frame, and what was wrong with the others.

    Attributes
    ----------
    frame : DataFrame
        Contract columns; the same server and timestamp may occur again.
    rejected : int
        Number of rows that are not in the frame.
    rejections : list of dict
        `row` (its position), `server_name` (None if there was none) and `what`, of the first 100.
    """

    frame: pd.DataFrame
    rejected: int
    rejections: list[dict[str, Any]]


class _RowError(ValueError):
    """What is wrong with one row."""


def rows_of_body(body: bytes, max_rows: int) -> list[Any]:
    """Rows of a request body: `{"rows": [...]}` or the bare list.

    Raises
    ------
    RequestError
        400 if the body is no JSON, 422 if it has no list of rows, 413 if it has too many.
    """
    why = "Nothing of the request was stored."
    try:
        content = pydantic_core.from_json(body)
    except ValueError as strict_error:
        # Python's own reader lets lone surrogates pass, which are then a fault of their row and not of all rows.
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            what = f"The body cannot be read as JSON: {strict_error}."
            raise RequestError(400, "no-json", what, why=why, fix=_BODY_FIX) from None
    rows = content.get("rows") if isinstance(content, dict) and content.keys() == {"rows"} else content
    if not isinstance(rows, list):
        what = 'The body is neither a list of rows nor an object with the one member "rows" that is a list.'
        raise RequestError(422, "no-rows", what, why=why, fix=_BODY_FIX)
    if len(rows) > max_rows:
        what = f"The body has {len(rows):,} rows; {max_rows:,} are taken at a time."
        fix = f"Send at most {max_rows:,} rows per request, or raise TFT_MAX_ROWS_PER_REQUEST."
        raise RequestError(413, "too-many-rows", what, why=why, fix=fix)
    return rows


def judge_rows(rows: Sequence[Any], limits: RowLimits) -> JudgedRows:
    """Sort rows into valid ones and itemised rejections; never raises, whatever the rows are."""
    judge = RowJudge(limits)
    accepted: list[tuple[Any, ...]] = []
    rejections: list[dict[str, Any]] = []
    for index, row in enumerate(rows):
        try:
            accepted.append(judge.judge(row))
        except _RowError as error:
            if len(rejections) < MAX_LISTED_REJECTIONS:
                rejections.append({"row": index, "server_name": shown_name(row), "what": str(error)})
    return JudgedRows(_frame_of(accepted), len(rows) - len(accepted), rejections)


class RowJudge:
    """Judges the rows of one request; remembers times and names, which repeat.

    Attributes
    ----------
    earliest_us, latest_us : int
        Bounds of a row's time in microseconds since 1970.
    """

    def __init__(self, limits: RowLimits) -> None:
        self._limits = limits
        self.latest_us = _microseconds(limits.latest)
        self.earliest_us = 0 if limits.earliest is None else _microseconds(limits.earliest)
        self._times: dict[str, int | str] = {}  # microseconds, or what is wrong
        self._names: dict[str, str] = {}  # valid name → its profile
        self._wrong_names: dict[str, str] = {}
        self._places = limits.new_servers

    def judge(self, row: Any) -> tuple[Any, ...]:
        """Time, name, metrics, state (None: to be derived) and profile of a valid row."""
        if type(row) is not dict:
            raise _RowError(f"the row is {_kind(row)}, not an object")
        if not row.keys() <= _COLUMNS:
            unknown = [_plain(name) for name in row if name not in _COLUMNS]
            raise _RowError(f"unknown member(s) {shorten(unknown)}: the contract's are {', '.join(REQUIRED_COLUMNS)}")
        time = self._time(row.get(TIMESTAMP))
        metrics = [_metric(row.get(column), column, lower, upper, unit) for column, lower, upper, unit in METRIC_BOUNDS]
        state = row.get(STATE)
        if state is not None and not (type(state) is str and state in _STATES):
            raise _RowError(f"`state` is {_shown(state)}, none of {', '.join(VALID_STATES)}")
        profile = row.get(PROFILE)
        if profile is not None and not (type(profile) is str and profile in _PROFILES):
            raise _RowError(f"`profile` is {_shown(profile)}, none of {', '.join(VALID_PROFILES)}")
        name = row.get(SERVER_NAME)  # last, so that a row refused for another reason takes no new server's place
        usual_profile = self._profile(name)
        return (time, name, *metrics, state, profile or usual_profile)

    def _time(self, text: Any) -> int:
        if type(text) is not str:
            raise _RowError("`timestamp` is missing" if text is None else f"`timestamp` is {_kind(text)}, not ISO 8601")
        time = self.time_of(text)
        if type(time) is str:
            raise _RowError(time)
        return time  # type: ignore[return-value]

    def time_of(self, text: str) -> int | str:
        """Microseconds since 1970 of a text, or what is wrong with it."""
        time = self._times.get(text)
        if time is None:
            time = self._times[text] = self._parse_time(text)
        return time

    def _parse_time(self, text: str) -> int | str:
        try:
            # Python 3.10 does not know the Z of ISO 8601
            moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)
            time = _microseconds(moment)
        except (ValueError, OverflowError):
            return f"`timestamp` is {_shown(text)}, not ISO 8601 such as 2026-01-05T10:00:00Z"
        if time > self.latest_us:
            return f"`timestamp` {_shown(text)} lies in the future, after {_iso(self._limits.latest)}"
        if time < self.earliest_us:
            if self._limits.earliest is None:
                return f"`timestamp` {_shown(text)} lies before 1970"
            return f"`timestamp` {_shown(text)} is older than what is kept, before {_iso(self._limits.earliest)}"
        return time

    def profile_of(self, name: str) -> str | None:
        """Profile of a server that does not say which it has; None if the server is refused."""
        try:
            return self._profile(name)
        except _RowError:
            return None

    def fault_of(self, row: Any) -> str:
        """What is wrong with a row that is to be refused."""
        try:
            self.judge(row)
        except _RowError as error:
            return str(error)
        raise AssertionError("the row is valid")

    def _profile(self, name: Any) -> str:
        """Profile of a server that does not say which it has."""
        if type(name) is not str:
            raise _RowError("`server_name` is missing" if name is None else f"`server_name` is {_kind(name)}, not text")
        profile = self._names.get(name)
        if profile is not None:
            return profile
        fault = self._wrong_names.get(name)
        if fault is None and (wrong := name_fault(name)):
            fault = f"`server_name` {wrong}"
        if fault is None:
            known = self._limits.profile(name)
            if known is None and self._places <= 0:
                fault = "there is no room for another server: TFT_MAX_SERVERS are known"
            else:
                self._places -= known is None
                self._names[name] = known or profile_for_name(name)
                return self._names[name]
        self._wrong_names[name] = fault
        raise _RowError(fault)


def _metric(value: Any, column: str, lower: float, upper: float, unit: str) -> float:
    if value is None:
        return np.nan
    if type(value) is float or type(value) is int:  # not bool, which is an int
        if lower <= value <= upper:
            return float(value)
        if value != value:  # noqa: PLR0124 - only NaN differs from itself
            raise _RowError(f"`{column}` is NaN; leave it out or send null where nothing was measured")
        raise _RowError(f"`{column}` is {_shown(value)}, outside {lower:g} to {upper:g} {unit}")
    raise _RowError(f"`{column}` is {_kind(value)}, not a number")


def _frame_of(accepted: list[tuple[Any, ...]]) -> pd.DataFrame:
    columns = list(zip(*accepted, strict=True)) or [()] * len(REQUIRED_COLUMNS)
    times, names, *metrics, states, profiles = columns
    return contract_frame(
        np.array(times, np.int64),
        np.array(names, dtype=object),
        {name: np.array(column, np.float64) for name, column in zip(METRIC_COLUMNS, metrics, strict=True)},
        np.array(states, dtype=object),
        np.array(profiles, dtype=object),
    )


def contract_frame(
    times: npt.NDArray[np.int64],
    names: Objects,
    metrics: dict[str, npt.NDArray[np.float64]],
    states: Objects,
    profiles: Objects,
) -> pd.DataFrame:
    """Contract frame of judged columns: microseconds since 1970, and None for states that are to be derived."""
    frame = pd.DataFrame(
        {TIMESTAMP: pd.to_datetime(times.view("datetime64[us]"), utc=True), SERVER_NAME: names, **metrics}
    )
    frame[STATE] = np.where(states == None, derived_state_names(metrics, len(states)), states)  # noqa: E711 - each of them
    frame[PROFILE] = profiles
    return frame


def _microseconds(moment: datetime) -> int:
    moment = moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
    return (moment - _EPOCH) // _MICROSECOND


def _iso(moment: datetime) -> str:
    return iso_z(moment.replace(microsecond=0))


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    words = {bool: "true or false", str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else words[type(value)]


def _shown(value: Any) -> str:
    if type(value) is int and abs(value) > 10**18:  # thousands of digits, perhaps
        return "a huge number"
    return _plain(shorten(value)) if isinstance(value, (str, int, float)) else _kind(value)


def shown_name(row: Any) -> str | None:
    """Name of a refused row's server as it may be shown; None if there is none."""
    name = row.get(SERVER_NAME) if type(row) is dict else None
    return _plain(name if len(name) <= 80 else f"{name[:80]}…") if type(name) is str else None


def _plain(text: str) -> str:
    """The text without what JSON cannot carry (lone surrogates)."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _self_check() -> None:
    limits = RowLimits(datetime(2026, 1, 2, tzinfo=timezone.utc), None, 10, lambda _: None)
    good = {"timestamp": "2026-01-01T00:00:00Z", "server_name": "ppweb001", "cpu_pct": 97.0}
    rows = [good, {**good, "cpu_pct": 140}, {**good, "timestamp": "2027-01-01T00:00:00Z"}, {**good, "cpu": 1}, "x"]
    judged = judge_rows(rows, limits)
    assert judged.frame[STATE].tolist() == ["critical_issue"] and judged.frame[PROFILE].tolist() == ["web_api"]
    assert [rejection["row"] for rejection in judged.rejections] == [1, 2, 3, 4]
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
