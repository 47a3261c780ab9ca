"""Rows that anyone may have sent: what is accepted obeys the contract, whatever is sent."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon_problems import RequestError
from daemon_rows import RowLimits, judge_rows, rows_of_body
from data_contract import METRIC_COLUMNS, REQUIRED_COLUMNS, SERVER_NAME, TIMESTAMP, VALID_STATES
from data_validator import DataValidator

LIMITS = RowLimits(
    datetime(2026, 6, 1, tzinfo=timezone.utc), datetime(2026, 1, 1, tzinfo=timezone.utc), 50, lambda _: None
)


def row(moment: str, name: str = "ppweb001") -> dict[str, Any]:
    return {"timestamp": moment, "server_name": name, "cpu_pct": 41.5}


plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
nearly_valid = st.fixed_dictionaries(
    {
        "timestamp": st.sampled_from(["2026-01-05T10:00:00Z", "2026-01-05", "2027-01-01T00:00:00Z"]) | plain_json,
        "server_name": st.sampled_from(["ppweb001", "ppdb001"]) | st.text(max_size=300),
    },
    optional={
        **{column: st.none() | st.floats(0, 100) | st.integers() | plain_json for column in METRIC_COLUMNS},
        "state": st.sampled_from(VALID_STATES) | plain_json,
        "profile": st.just("database") | plain_json,
    },
)


@settings(max_examples=150, deadline=None)
@given(st.lists(nearly_valid | plain_json, max_size=8))
def test_whatever_is_sent_what_is_accepted_obeys_the_contract(rows: list[Any]) -> None:
    judged = judge_rows(rows, LIMITS)
    assert len(judged.frame) + judged.rejected == len(rows)
    assert len(judged.rejections) == judged.rejected
    assert json.dumps(judged.rejections).encode() and all(each["what"] for each in judged.rejections)
    assert list(judged.frame.columns) == list(REQUIRED_COLUMNS)
    if len(judged.frame):
        one_each = judged.frame.drop_duplicates([TIMESTAMP, SERVER_NAME]).drop_duplicates(SERVER_NAME)
        valid, errors, _ = DataValidator().validate_schema(one_each)
        assert valid, errors
        assert judged.frame[TIMESTAMP].between(LIMITS.earliest, LIMITS.latest).all()


def test_times_of_every_zone_become_utc() -> None:
    texts = ["2026-03-01T12:00:00Z", "2026-03-01T12:00:00", "2026-03-01T14:00:00+02:00", "2026-03-01T12:00:00.000z"]
    frame = judge_rows([row(text, f"host{k}") for k, text in enumerate(texts)], LIMITS).frame
    assert len(set(frame[TIMESTAMP])) == 1 and str(frame[TIMESTAMP].dt.tz) == "UTC"


def test_a_body_of_too_many_rows_is_refused_before_any_is_judged() -> None:
    with pytest.raises(RequestError, match="3 rows; 2 are taken"):
        rows_of_body(b"[1, 2, 3]", 2)


def test_times_before_1970_are_refused_though_nothing_is_kept_yet() -> None:
    limits = RowLimits(LIMITS.latest, None, 50, lambda _: None)
    judged = judge_rows([row("1969-12-31T23:59:59Z"), row("1970-01-01T00:00:00Z")], limits)
    assert len(judged.frame) == 1 and "before 1970" in judged.rejections[0]["what"]


@pytest.mark.parametrize(
    ("cpu", "mem", "state"),
    [
        (95.0, None, "critical_issue"),
        (None, 98.0, "critical_issue"),
        (94.9, 10.0, "heavy_load"),
        (10.0, 90.0, "heavy_load"),
        (4.9, None, "idle"),
        (5.0, 50.0, "healthy"),
        (None, None, "healthy"),
    ],
)
def test_a_state_that_is_left_out_follows_the_rules_in_their_order(
    cpu: float | None, mem: float | None, state: str
) -> None:
    metrics = {"cpu_pct": cpu, "mem_pct": mem, "disk_io_mb_s": 1.0, "latency_ms": 1.0}
    frame = judge_rows([{**row("2026-01-05T10:00:00Z"), **metrics}], LIMITS).frame
    assert frame["state"].tolist() == [state]
