"""Arrow streams that anyone may have sent: judged as the same rows in JSON, bounded, and never a crash."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon_arrow import StreamLimits, judge_stream, table_of_body
from daemon_problems import RequestError
from daemon_rows import JudgedRows, RowLimits, judge_rows
from data_contract import METRIC_COLUMNS, SERVER_NAME, TIMESTAMP, VALID_PROFILES, VALID_STATES

LATEST = datetime(2026, 6, 1, tzinfo=timezone.utc)
EARLIEST = datetime(2026, 1, 1, tzinfo=timezone.utc)
BOUNDS = StreamLimits(rows=1_000, unpacked_bytes=1_000_000)
MOMENT = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def limits(new_servers: int = 3) -> RowLimits:
    return RowLimits(LATEST, EARLIEST, new_servers, {"old": "database"}.get)


def stream(table: pa.Table, compression: str | None = None, batch_rows: int | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return bytes(sink.getvalue().to_pybytes())


def plain_table(rows: int = 100, **more: Any) -> pa.Table:
    times = [MOMENT + timedelta(seconds=k) for k in range(rows)]
    content = {TIMESTAMP: pa.array(times, pa.timestamp("us", tz="UTC")), SERVER_NAME: ["ppweb001"] * rows, **more}
    return pa.table(content)


def refusal(body: bytes, bounds: StreamLimits = BOUNDS) -> RequestError:
    with pytest.raises(RequestError) as caught:
        judge_stream(body, bounds, limits())
    return caught.value


# ------------------------------------------------------------------------------------------------- the same as in JSON
texts = st.sampled_from(["ppweb001", "ppdb001", "old", "a", "b", "c"]) | st.sampled_from(["", " ", "x\ny", "n" * 300])
NAIVE = [moment.replace(tzinfo=None) for moment in (EARLIEST, LATEST, MOMENT)]
moments = st.datetimes(NAIVE[0] - timedelta(days=1), NAIVE[1] + timedelta(days=1)) | st.sampled_from(
    [*NAIVE, NAIVE[0].replace(year=1969)]
)
numbers = st.none() | st.floats(-1, 101) | st.sampled_from([np.nan, np.inf, -np.inf, 1e308, -0.0, 100.0, 1e12])
rows_of_anything = st.lists(
    st.fixed_dictionaries(
        {
            TIMESTAMP: st.none() | moments,
            SERVER_NAME: st.none() | texts,
            **dict.fromkeys(METRIC_COLUMNS, numbers),
            "state": st.none() | st.sampled_from([*VALID_STATES, "odd"]),
            "profile": st.none() | st.sampled_from([*VALID_PROFILES, "odd"]),
        }
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(
    rows_of_anything,
    st.booleans(),
    st.sampled_from([None, "lz4", "zstd"]),
    st.integers(1, 12),
    st.sampled_from(["text", "us", "ns", "us in Tokyo"]),
)
def test_the_same_rows_are_judged_the_same_as_json_and_as_arrow(
    rows: list[dict[str, Any]], coded: bool, compression: str | None, batch_rows: int, times: str
) -> None:
    def text(moment: datetime | None) -> str | None:
        return None if moment is None else moment.isoformat() + "Z"

    as_json = judge_rows([{**row, TIMESTAMP: text(row[TIMESTAMP])} for row in rows], limits())
    words = pa.dictionary(pa.int8(), pa.string()) if coded else pa.large_string()
    if times == "text":
        when = pa.array([text(row[TIMESTAMP]) for row in rows], pa.string())
    else:
        utc = [row[TIMESTAMP] and row[TIMESTAMP].replace(tzinfo=timezone.utc) for row in rows]
        zone = "Asia/Tokyo" if "Tokyo" in times else None
        when = pa.array([each and (each if zone else each.replace(tzinfo=None)) for each in utc])
        when = when.cast(pa.timestamp(times[:2], tz=zone)) if len(rows) else pa.array([], pa.timestamp("us"))
    content = {TIMESTAMP: when}
    for name in (SERVER_NAME, "state", "profile"):
        content[name] = pa.array([row[name] for row in rows], pa.string()).cast(words)
    for name in METRIC_COLUMNS:
        content[name] = pa.array([row[name] for row in rows], pa.float64())
    judged = judge_stream(stream(pa.table(content), compression, batch_rows), BOUNDS, limits())
    pd.testing.assert_frame_equal(judged.frame, as_json.frame)
    assert (judged.rejected, judged.rejections) == (as_json.rejected, as_json.rejections)
    assert json.dumps(judged.rejections)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_every_unit_are_the_same_moments_and_absurd_ones_are_refused(unit: str) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    counts = [int(MOMENT.timestamp()) * per_second, 2**63 - 1, -(2**63), 0]
    judged = judge_stream(
        stream(plain_table(4).set_column(0, TIMESTAMP, pa.array(counts, pa.timestamp(unit)))), BOUNDS, limits()
    )
    assert judged.frame[TIMESTAMP].tolist() == [MOMENT] and judged.rejected == 3
    assert all("timestamp" in each["what"] for each in judged.rejections)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.int8(), pa.uint64(), pa.null()])
def test_metrics_may_be_any_numbers_and_columns_may_be_left_out(kind: pa.DataType) -> None:
    values = pa.array([None, None] if pa.types.is_null(kind) else [7, None], kind)
    judged = judge_stream(stream(plain_table(2, mem_pct=values)), BOUNDS, limits())
    expected = [np.nan, np.nan] if pa.types.is_null(kind) else [7.0, np.nan]
    np.testing.assert_array_equal(judged.frame["mem_pct"], expected)
    assert judged.frame["cpu_pct"].isna().all() and judged.frame["state"].tolist() == ["healthy"] * 2


# ------------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("table", "told"),
    [
        (pa.table({TIMESTAMP: ["2026-01-05"]}), "`server_name` is missing"),
        (plain_table(1, cpu=[1.0]), "'cpu' is none of"),
        (plain_table(1, cpu_pct=["1"]), "not a number"),
        (plain_table(1, cpu_pct=[True]), "'bool', not a number"),
        (plain_table(1, state=[1]), "text, plain or dictionary-encoded"),
        (plain_table(1, profile=[["database"]]), "'list<"),
        (pa.table({TIMESTAMP: [1.0], SERVER_NAME: ["a"]}), "a timestamp or text"),
        (plain_table(1).append_column(SERVER_NAME, pa.array(["a"])), "twice"),
        (plain_table(1, **{"\u202e<b>": [1]}), "is none of"),
    ],
)
def test_columns_that_are_not_the_contracts_are_refused_by_name(table: pa.Table, told: str) -> None:
    error = refusal(stream(table))
    assert (error.status, error.kind) == (422, "wrong-columns") and told in error.what.replace('"', "'")


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_what_would_unpack_to_too_much_is_refused_before_it_is_unpacked(compression: str) -> None:
    rows = 100_000
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int64)), ["x"])
    table = pa.table({TIMESTAMP: pa.array(np.zeros(rows, "datetime64[us]")), SERVER_NAME: names})
    bomb = stream(table, compression)
    assert len(bomb) < 40_000
    before = pa.total_allocated_bytes()
    error = refusal(bomb, StreamLimits(rows=10**9, unpacked_bytes=1_000_000))
    assert (error.status, error.kind) == (413, "too-large") and pa.total_allocated_bytes() - before < 1_000_000
    assert len(judge_stream(bomb, StreamLimits(rows=rows, unpacked_bytes=10**7), limits()).frame) == 0


def test_a_dictionary_with_one_long_text_is_not_spread_over_its_rows() -> None:
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50_000, np.int32)), ["n" * 900_000])
    times = pa.array(np.full(50_000, np.datetime64("2026-03-01", "us")))
    body = stream(pa.table({TIMESTAMP: times, SERVER_NAME: names}))
    judged = judge_stream(body, StreamLimits(50_000, 10_000_000), limits())
    assert judged.rejected == 50_000 and "longer than" in judged.rejections[0]["what"]
    assert len(json.dumps(judged.rejections)) < 100_000


def test_too_many_rows_are_refused_also_where_they_take_no_space() -> None:
    columns = {TIMESTAMP: pa.nulls(2_000), SERVER_NAME: pa.nulls(2_000)}
    assert refusal(stream(pa.table(columns))).kind == "too-many-rows"


def test_a_stream_of_very_many_empty_batches_is_refused() -> None:
    assert refusal(stream(plain_table(10_001), batch_rows=1), StreamLimits(10**6, 10**9)).kind == "too-large"


WHOLE = {
    name: stream(
        plain_table(20, cpu_pct=[float(k) for k in range(20)], state=pa.array(["idle"] * 20).dictionary_encode()), name
    )
    for name in (None, "lz4", "zstd")
}


def judged_or_refused(body: bytes) -> JudgedRows | None:
    """Any other error than a refusal fails the test; what is let in has passed the rules."""
    try:
        judged = judge_stream(body, BOUNDS, limits())
    except RequestError as error:
        assert error.status in {400, 413, 422} and error.why and error.fix
        return None
    assert judged.frame["cpu_pct"].dropna().between(0, 100).all()
    return judged


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_is_refused(body: bytes) -> None:
    judged_or_refused(body)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([None, "lz4", "zstd"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_damaged_stream_is_refused_or_judged_but_never_an_accident(
    name: str | None, changes: list[tuple[float, int]]
) -> None:
    body = bytearray(WHOLE[name])
    for place, value in changes:
        body[int(place * len(body))] = value
    judged_or_refused(bytes(body))


@pytest.mark.parametrize("name", [None, "lz4", "zstd"])
def test_a_stream_that_ends_within_a_message_is_refused(name: str | None) -> None:
    body = WHOLE[name]
    judged = judged_or_refused(body)
    assert judged is not None and len(judged.frame) == 20
    for length in range(0, len(body) - 8, 7):
        cut = judged_or_refused(body[:length])
        assert cut is None or len(cut.frame) in {0, 20}, length  # cut where a message ends


def test_text_that_is_no_utf8_and_codes_beyond_the_dictionary_are_refused() -> None:
    wrong_text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    table = plain_table(1).set_column(1, SERVER_NAME, wrong_text)
    assert refusal(stream(table)).kind == "no-arrow"
    codes = pa.DictionaryArray.from_arrays(pa.array([9], pa.int8()), pa.array(["a"]), safe=False)
    assert refusal(stream(plain_table(1).set_column(1, SERVER_NAME, codes))).kind == "no-arrow"


def test_a_new_server_takes_a_place_only_by_a_row_that_is_right_otherwise() -> None:
    table = plain_table(4, cpu_pct=[101.0, 1.0, 1.0, 1.0]).set_column(1, SERVER_NAME, pa.array(["a", "b", "c", "old"]))
    judged = judge_stream(stream(table), BOUNDS, limits(new_servers=1))
    assert judged.frame[SERVER_NAME].tolist() == ["b", "old"] and judged.frame["profile"].tolist() == [
        "generic",
        "database",
    ]
    assert "no room" in judged.rejections[1]["what"]


def test_the_table_of_a_body_shares_its_memory() -> None:
    body = WHOLE[None]
    before = pa.total_allocated_bytes()
    table = table_of_body(body, BOUNDS)
    assert table.num_rows == 20 and pa.total_allocated_bytes() - before < 10_000
