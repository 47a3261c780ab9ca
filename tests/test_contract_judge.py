"""Is any frame either valid or is every fault of it named? Faults of all kinds, put in at once and counted naively."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import timedelta, timezone

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_contract import METRIC_COLUMNS, METRICS, REQUIRED_COLUMNS, VALID_PROFILES, VALID_STATES
from data_validator import DataValidator

ROWS = 36
TEXTS = ("server_name", "state", "profile")

# Valid names of any script, quotes, spaces and brackets included
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12).filter(str.strip)

rows_of_a_fault = st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=6, unique=True)


@dataclass
class Case:
    """A frame, and which columns were given another type altogether."""

    frame: pd.DataFrame
    retyped: dict[str, str]


@st.composite
def sound_frames(draw: st.DrawFn) -> pd.DataFrame:
    """Frames that obey the contract, in many shapes: types, zones, names, missing values, order of columns."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    profiles = [draw(st.sampled_from(VALID_PROFILES)) for _ in names]
    zone = draw(st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York"]))
    precision = draw(st.sampled_from(["s", "ms", "us", "ns"]))
    number = draw(st.sampled_from(["float32", "float64", "Float64", "float64[pyarrow]"]))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    server = np.sort(np.arange(ROWS) % len(names)) if draw(st.booleans()) else np.arange(ROWS) % len(names)
    step = pd.Series(np.zeros(ROWS, np.int64)).groupby(server).cumcount().to_numpy()
    times = pd.Timestamp("2026-03-28T20:00", tz="UTC") + pd.to_timedelta(step * 5, unit="min")
    columns = {
        "timestamp": pd.Series(times).dt.as_unit(precision).dt.tz_convert(zone),
        "server_name": pd.Series([names[place] for place in server], dtype=object),
        **{column: pd.Series(random.uniform(0, 100, ROWS)).astype(number) for column in METRIC_COLUMNS},
        "state": pd.Series(random.choice(VALID_STATES, ROWS), dtype=object),
        "profile": pd.Series([profiles[place] for place in server], dtype=object),
    }
    for column in METRIC_COLUMNS:  # missing is missing, and no fault; one value stays
        gone = random.random(ROWS) < draw(st.sampled_from([0, 0.3]))
        columns[column][gone & (np.arange(ROWS) > 0)] = np.nan if number.startswith("float") else pd.NA
    frame = pd.DataFrame(columns)[draw(st.permutations(list(REQUIRED_COLUMNS)))]
    if draw(st.booleans()):
        frame.index = pd.Index(random.integers(0, 5, ROWS))  # an index that says nothing
    return frame


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Sound frames with at most one fault in each column, and with faults across rows."""
    frame = draw(sound_frames()).reset_index(drop=True)
    retyped: dict[str, str] = {}
    dropped, repeated = [], []
    for column in draw(st.lists(st.sampled_from(REQUIRED_COLUMNS), max_size=5, unique=True)):
        kinds = ["drop", "twice", "retype", "cells"]
        kind = draw(st.sampled_from(kinds))
        where = draw(rows_of_a_fault)
        if kind == "drop":
            dropped.append(column)
        elif kind == "twice":
            repeated.append(column)
        elif kind == "retype":
            retyped[column] = draw(_retype(frame, column))
        elif column in METRIC_COLUMNS:
            value = draw(st.sampled_from([np.inf, -np.inf, -0.5, -1e-7, 100.5, 3e5]))
            values = frame[column].to_numpy("float64", na_value=np.nan).copy()
            values[where] = value
            frame[column] = values
        elif column == "timestamp":
            frame.loc[where, column] = pd.NaT
        else:
            odd = {"server_name": [None, "", " \t", "a\nb", "x" * 254], "state": [None, "exploded", "Healthy"]}
            frame.loc[where, column] = draw(st.sampled_from(odd.get(column, [None, "db", *VALID_PROFILES[:2]])))
    if draw(st.booleans()):
        frame = pd.concat([frame, frame.iloc[draw(rows_of_a_fault)]], ignore_index=True)
    if draw(st.booleans()):
        frame = frame.iloc[draw(st.permutations(range(len(frame))))].reset_index(drop=True)
    frame = pd.concat([frame, frame[repeated]], axis=1).drop(columns=dropped)
    return Case(frame, retyped)


def _retype(frame: pd.DataFrame, column: str) -> st.SearchStrategy[str]:
    """Give a column of a frame another type, and say what it is."""
    changes = {
        "text": lambda series: series.astype(str),
        "numbers": lambda series: pd.Series(np.arange(len(series))),
        "true and false": lambda series: pd.Series(np.arange(len(series)) % 2 == 0),
        "list": lambda series: pd.Series([[1]] * len(series)),
        "mixes time zones": lambda series: pd.Series(
            [
                moment.to_pydatetime().astimezone(timezone(timedelta(hours=row % 3)))
                for row, moment in enumerate(pd.date_range("2026-01-01", periods=len(series), tz="UTC"))
            ],
            dtype=object,
        ),
    }
    usual = "numbers" if column in METRIC_COLUMNS else "text" if column in TEXTS else "times"
    fit = [kind for kind in changes if kind != usual and (kind != "mixes time zones" or column == "timestamp")]

    def change(kind: str) -> str:
        frame[column] = changes[kind](frame[column])
        return kind

    return st.sampled_from(fit).map(change)


def usable_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and bool(name.strip())
        and len(name) <= 253
        and not any(unicodedata.category(character) in {"Cc", "Cs"} for character in name)
    )


def expected_faults(case: Case) -> list[tuple[str, int | None, list[str]]]:
    """What must be found, counted the slow way: begin of the sentence, rows, and names of which one must be in it."""
    frame, names = case.frame, list(case.frame.columns)
    found: list[tuple[str, int | None, list[str]]] = []
    usable = {}
    for column in REQUIRED_COLUMNS:
        if names.count(column) != 1:
            told = "is missing" if column not in names else f"is there {names.count(column)} times"
            found.append((f"column `{column}` {told}", None, []))
        elif column in case.retyped:
            kind = case.retyped[column]
            begin = "`timestamp` mixes time zones" if kind == "mixes time zones" else f"`{column}` holds"
            found.append((begin, None, [] if kind == "mixes time zones" else [kind]))
        else:
            usable[column] = frame[column]
    rows = len(frame)
    server = usable.get("server_name", pd.Series([None] * rows))
    known = server.map(usable_name).to_numpy(bool)
    time = usable.get("timestamp", pd.Series([pd.NaT] * rows))

    def note(begin: str, where: pd.Series | np.ndarray) -> None:
        places = np.flatnonzero(np.asarray(where, dtype=bool))
        if len(places):
            examples = [str(server[place]) for place in places if known[place]]
            found.append((begin, len(places), examples if known[places].all() else []))

    for metric in METRICS:
        if metric.column in usable:
            values = usable[metric.column].astype("float64")
            note(f"`{metric.column}` is infinite", np.isinf(values))
            finite = values.where(np.isfinite(values))
            note(f"`{metric.column}` is below", finite < 0)
            if metric.upper is not None:
                note(f"`{metric.column}` is above", finite > metric.upper)
    if "timestamp" in usable:
        note("`timestamp` is missing", time.isna())
    if "server_name" in usable:
        found += [("`server_name` is missing", count, []) for count in [int(server.isna().sum())] if count]
        odd = int((~known & server.notna()).sum())
        found += [("`server_name` ", odd, [])] if odd else []
    for column, valid in (("state", VALID_STATES), ("profile", VALID_PROFILES)):
        if column in usable:
            note(f"`{column}` is missing", usable[column].isna())
            note(f"`{column}` is none of", usable[column].notna() & ~usable[column].isin(valid))
    if "profile" in usable and "server_name" in usable:
        fine = known & usable["profile"].isin(VALID_PROFILES).to_numpy()
        per_server = usable["profile"][fine].groupby(server[fine]).nunique()
        if (per_server > 1).any():
            found.append((f"`profile` changes within {(per_server > 1).sum()} server(s)", None, []))
    if "timestamp" in usable and "server_name" in usable:
        keys = pd.DataFrame({"server": server, "time": time})[known & time.notna().to_numpy()]
        again = int(keys.duplicated().sum())
        if again:
            twice = keys[keys.duplicated()]["server"].tolist()
            found.append(("the same (server_name, timestamp) occurs again", again, twice))
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(case=cases())
def test_any_frame_is_valid_or_every_fault_is_named_counted_and_placed(case):
    is_valid, errors, _ = DataValidator().validate_schema(case.frame)
    expected = expected_faults(case)
    assert is_valid == (not expected) and is_valid == (not errors)
    left = list(errors)
    for begin, rows, words in expected:
        told = [sentence for sentence in left if sentence.startswith(begin)]
        assert len(told) == 1, (begin, errors)
        left.remove(told[0])
        if rows is not None:
            assert f" in {rows} row{'s' * (rows != 1)}, e.g. " in told[0], (rows, told)
        assert not words or any(word in told[0] for word in words), (words, told)
    assert left == []  # nothing is invented either


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(frame=sound_frames())
def test_a_frame_without_faults_is_valid_whatever_its_types_zones_names_and_order(frame):
    assert DataValidator().validate_schema(frame) == (True, [], [])
