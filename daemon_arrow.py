"""How an Arrow stream that anyone may have sent becomes contract rows, by the very rules that JSON rows are judged by.

Whole columns are judged at once; only what is refused is looked at row by row, by the judge of JSON rows, so that both
say the same. A stream is bounded before anything of it is unpacked: its buffers may be compressed, and what they unpack
to is read off the messages first. Knows nothing of HTTP connections or the store.

Source: the Arrow columnar format, "Serialization and Interprocess Communication" (Message.fbs, Schema.fbs).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from daemon_problems import RequestError
from daemon_rows import (
    MAX_LISTED_REJECTIONS,
    METRIC_BOUNDS,
    JudgedRows,
    RowJudge,
    RowLimits,
    contract_frame,
    shown_name,
)
from data_contract import (
    METRIC_COLUMNS,
    PROFILE,
    REQUIRED_COLUMNS,
    SERVER_NAME,
    STATE,
    TIMESTAMP,
    VALID_PROFILES,
    VALID_STATES,
    shorten,
)

ARROW_STREAM = "application/vnd.apache.arrow.stream"

# What a stream may unpack to, for each byte that a body may have. Measurements shrink to a third at best.
_MAX_RATIO = 4
_MAX_MESSAGE_HEAD = 1_000_000  # bytes of a schema or of the list of a batch's buffers
_MAX_MESSAGES = 10_000

_RECORD_BATCH, _DICTIONARY_BATCH = 3, 2  # MessageHeader in Message.fbs
_UNITS_PER_US = {"s": -1_000_000, "ms": -1_000, "us": 1, "ns": 1_000}  # negative: microseconds per unit

_WHY = "Nothing of the request was stored."
_FIX = "Send an Arrow IPC stream of the contract's columns, as `pyarrow.ipc.new_stream` writes it."

Mask = npt.NDArray[np.bool_]
Objects = npt.NDArray[np.object_]


@dataclass(frozen=True)
class StreamLimits:
    """How large a stream may be.

    Attributes
    ----------
    rows : int
    unpacked_bytes : int
        What all its buffers may take when they are unpacked.
    """

    rows: int
    unpacked_bytes: int

    @classmethod
    def of_body(cls, body_bytes: int, rows: int) -> StreamLimits:
        """Limits that suit the largest body and the most rows."""
        return cls(rows, body_bytes * _MAX_RATIO)


def judge_stream(body: bytes, stream_limits: StreamLimits, limits: RowLimits) -> JudgedRows:
    """Sort the rows of an Arrow stream into valid ones and itemised rejections.

    Raises
    ------
    RequestError
        400 if the body is no whole and valid Arrow stream, 413 if it is too large, 422 if its columns are not the
        contract's.
    """
    return _ColumnJudge(table_of_body(body, stream_limits), limits).judge()


# ------------------------------------------------------------------------------------------------------------- reading
def table_of_body(body: bytes, limits: StreamLimits) -> pa.Table:
    """Content of a stream: contract columns of allowed types, every value checked to be what its type says.

    Raises
    ------
    RequestError
        As `judge_stream` does.
    """
    try:
        _check_size(body, limits)
        batches = []
        rows = 0
        with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
            _check_columns(reader.schema)
            for batch in reader:
                rows += batch.num_rows
                if rows > limits.rows:
                    raise _too_many_rows(limits.rows)
                batch.validate(full=True)
                batches.append(batch)
            return pa.Table.from_batches(batches, reader.schema).unify_dictionaries()
    except (pa.ArrowException, OSError, EOFError, struct.error, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else "it is damaged"
        what = f"The body cannot be read as an Arrow stream: {reason.rstrip('.')}."
        raise RequestError(400, "no-arrow", what, why=_WHY, fix=_FIX) from None


def _check_size(body: bytes, limits: StreamLimits) -> None:
    """Refuse what would unpack to too much, before anything is unpacked."""
    unpacked = rows = count = 0
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(body)):
        count += 1
        if count > _MAX_MESSAGES or message.metadata.size > _MAX_MESSAGE_HEAD:
            raise _too_large("more, or larger, messages than rows need")
        if message.type not in {"record batch", "dictionary"}:
            continue
        size, own_rows = _unpacked_size(message.metadata.to_pybytes(), message.body)
        unpacked += size
        rows += own_rows if message.type == "record batch" else 0
        if rows > limits.rows:
            raise _too_many_rows(limits.rows)
        if unpacked > limits.unpacked_bytes:
            raise _too_large(f"buffers that unpack to more than {limits.unpacked_bytes:,} bytes")


def _unpacked_size(metadata: bytes, body: pa.Buffer | None) -> tuple[int, int]:
    """Bytes that the buffers of a batch take when they are unpacked, and its rows.

    A compressed buffer begins with its unpacked length, -1 if it is not compressed after all; the reader allocates that
    much and refuses a buffer that turns out longer.
    """
    message = _FlatTable.root(metadata)
    kind = message.scalar(1, "<B", 0)
    header = message.table(2)
    if header is None or kind not in {_RECORD_BATCH, _DICTIONARY_BATCH}:
        raise ValueError("a batch has no header")
    batch = header.table(1) if kind == _DICTIONARY_BATCH else header
    if batch is None:
        raise ValueError("a dictionary has no values")
    length = batch.scalar(0, "<q", 0)
    if length < 0:
        raise ValueError("a batch has a negative number of rows")
    data = memoryview(body) if body is not None else memoryview(b"")
    compressed = batch.table(3) is not None
    total = 0
    for offset, size in batch.structs(2, "<qq"):
        if offset < 0 or size < 0 or offset + size > len(data):
            raise ValueError("a buffer lies outside of its message")
        unpacked = struct.unpack_from("<q", data, offset)[0] if compressed and size >= 8 else size
        if unpacked < -1:
            raise ValueError("a buffer has a negative length")
        total += size if unpacked == -1 else unpacked
    return total, length


class _FlatTable:
    """A table of a FlatBuffer, read with bounds checks (`struct.error` beyond the end).

    Source: FlatBuffers, "FlatBuffers internals" (tables begin with the signed offset to their vtable).
    """

    def __init__(self, data: bytes, place: int) -> None:
        self._data = data
        self._place = place
        self._vtable = place - self._read("<i", place)
        self._vtable_size = self._read("<H", self._vtable)

    @classmethod
    def root(cls, data: bytes) -> _FlatTable:
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def _read(self, form: str, place: int) -> Any:
        if place < 0:  # struct would count from the end
            raise ValueError("an offset points before the message")
        return struct.unpack_from(form, self._data, place)[0]

    def _field(self, number: int) -> int:
        """Place of a field, 0 if it is left out."""
        entry = 4 + 2 * number
        offset = self._read("<H", self._vtable + entry) if entry + 2 <= self._vtable_size else 0
        return self._place + offset if offset else 0

    def scalar(self, number: int, form: str, default: int) -> int:
        place = self._field(number)
        return int(self._read(form, place)) if place else default

    def table(self, number: int) -> _FlatTable | None:
        place = self._field(number)
        return _FlatTable(self._data, place + self._read("<I", place)) if place else None

    def structs(self, number: int, form: str) -> list[tuple[int, int]]:
        place = self._field(number)
        if not place:
            return []
        start = place + self._read("<I", place)
        count, size = self._read("<I", start), struct.calcsize(form)
        if start + 4 + count * size > len(self._data):
            raise ValueError("a list is longer than its message")
        return list(struct.iter_unpack(form, self._data[start + 4 : start + 4 + count * size]))


def _check_columns(schema: pa.Schema) -> None:
    """Refuse other columns than the contract's, and types that its values do not have; all faults are told."""
    faults = [f"`{name}` is missing" for name in (TIMESTAMP, SERVER_NAME) if name not in schema.names]
    for name in dict.fromkeys(schema.names):
        if name not in REQUIRED_COLUMNS:
            faults.append(f"{shorten(name)} is none of {', '.join(REQUIRED_COLUMNS)}")
        elif schema.names.count(name) > 1:
            faults.append(f"`{name}` is there twice")
        elif wanted := _wrong_type(name, schema.field(name).type):
            faults.append(f"`{name}` has the type {shorten(str(schema.field(name).type))}, not {wanted}")
        if len(faults) >= 20:
            break
    if faults:
        what = f"The columns of the stream are not the contract's: {'; '.join(faults)}."
        fix = "Rename, drop or cast them; metrics, `state` and `profile` may be left out."
        raise RequestError(422, "wrong-columns", what, why=_WHY, fix=fix, document="Docs/DATA_CONTRACT.md")


def _wrong_type(name: str, kind: pa.DataType) -> str | None:
    """What type a column should have; None if its type will do."""
    if pa.types.is_null(kind):  # nothing is known of any row
        return None
    if name in METRIC_COLUMNS:
        return None if pa.types.is_floating(kind) or pa.types.is_integer(kind) else "a number"
    if name == TIMESTAMP and pa.types.is_timestamp(kind):
        return None
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_string(values) or pa.types.is_large_string(values):
        return None
    return "a timestamp or text" if name == TIMESTAMP else "text, plain or dictionary-encoded"


# ------------------------------------------------------------------------------------------------------------- judging
class _ColumnJudge:
    """Judges a table by columns; what it refuses, the judge of rows refuses again and says why."""

    def __init__(self, table: pa.Table, limits: RowLimits) -> None:
        self._table = table
        self._limits = limits
        self._rows = table.num_rows
        self._judge = RowJudge(limits)

    def judge(self) -> JudgedRows:
        times, good = self._times()
        metrics = {}
        for name, lower, upper, _ in METRIC_BOUNDS:
            metrics[name], inside = self._metric(name, lower, upper)
            good &= inside
        states, is_state = self._words(STATE, VALID_STATES)
        profiles, is_profile = self._words(PROFILE, VALID_PROFILES)
        good &= is_state & is_profile
        names, usual, named = self._names(good)
        good &= named
        frame = contract_frame(
            times[good],
            names[good],
            {name: values[good] for name, values in metrics.items()},
            states[good],
            np.where(pd.isna(profiles[good]), usual[good], profiles[good]),
        )
        wrong = np.flatnonzero(~good)
        rejections = [self._rejection(int(row)) for row in wrong[:MAX_LISTED_REJECTIONS]]
        return JudgedRows(frame, len(wrong), rejections)

    def _column(self, name: str) -> pa.Array | None:
        """A column in one piece; None where it is left out or nothing is known of it."""
        if name not in self._table.column_names:
            return None
        column = self._table[name]
        if pa.types.is_null(column.type):
            return None
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)

    def _times(self) -> tuple[npt.NDArray[np.int64], Mask]:
        """Microseconds since 1970, and which of them may be."""
        column = self._column(TIMESTAMP)
        if column is None:
            return np.zeros(self._rows, np.int64), np.zeros(self._rows, np.bool_)
        present = np.asarray(column.is_valid())
        if not pa.types.is_timestamp(column.type):
            words, places = _coded(column)
            judged = [self._judge.time_of(word) for word in words]
            known = np.array([time if isinstance(time, int) else -1 for time in judged] or [0], np.int64)
            right = np.array([isinstance(time, int) for time in judged] or [False], np.bool_)
            return known[places], present & right[places]
        counts = np.asarray(column.view(pa.int64()).fill_null(0))
        scale = _UNITS_PER_US[column.type.unit]
        earliest, latest = self._judge.earliest_us, self._judge.latest_us
        if scale > 0:
            times = counts // scale
            return times, present & (times >= earliest) & (times <= latest)
        scale = -scale  # compared before it is multiplied: a hostile time would overflow
        inside = present & (counts >= -(-earliest // scale)) & (counts <= latest // scale)
        return np.where(inside, counts, 0) * scale, inside

    def _metric(self, name: str, lower: float, upper: float) -> tuple[npt.NDArray[np.float64], Mask]:
        """Values, NaN for null, and which of them may be; a NaN of the sender may not."""
        column = self._column(name)
        if column is None:
            return np.full(self._rows, np.nan), np.ones(self._rows, np.bool_)
        present = np.asarray(column.is_valid())
        numbers = column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
        return numbers, ~present | ((numbers >= lower) & (numbers <= upper))

    def _words(self, name: str, valid: tuple[str, ...]) -> tuple[Objects, Mask]:
        """Texts, None for null, and which of them are among the valid ones."""
        column = self._column(name)
        if column is None:
            return np.full(self._rows, None, dtype=object), np.ones(self._rows, np.bool_)
        words, places = _coded(column)
        known = np.array([*(word if word in valid else None for word in words), None], dtype=object)
        right = np.array([*(word in valid for word in words), True], dtype=np.bool_)
        return known[places], right[places]

    def _names(self, good: Mask) -> tuple[Objects, Objects, Mask]:
        """Names, usual profiles, and which names may be: asked for in the order of the rows that are right otherwise.

        So a refused row takes no new server's place, as with JSON.
        """
        column = self._column(SERVER_NAME)
        nothing = np.full(self._rows, None, dtype=object)
        if column is None:
            return nothing, nothing, np.zeros(self._rows, np.bool_)
        words, places = _coded(column)
        usual = np.full(len(words) + 1, None, dtype=object)
        asked = pd.unique(places[good & (places >= 0)])
        for place in asked:
            usual[place] = self._judge.profile_of(words[place])
        profiles = usual[places]
        return np.array([*words, None], dtype=object)[places], profiles, ~pd.isna(profiles)

    def _rejection(self, row: int) -> dict[str, Any]:
        """What is wrong with a row: it is judged once more, as JSON."""
        content = {name: self._value(name, row) for name in self._table.column_names}
        return {"row": row, "server_name": shown_name(content), "what": self._judge.fault_of(content)}

    def _value(self, name: str, row: int) -> Any:
        scalar = self._table[name][row]
        if not scalar.is_valid:
            return None
        if pa.types.is_timestamp(scalar.type):
            return _text_of_time(scalar.value, scalar.type.unit)
        return scalar.as_py()


def _coded(column: pa.Array) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Distinct texts, and each row's place among them; -1 for null. There may be texts that no row has.

    A dictionary is never spread over its rows: one long text may have many.
    """
    if not pa.types.is_dictionary(column.type):
        coded = column.dictionary_encode()
        return coded.dictionary.to_pylist(), _places(coded.indices)
    words, own = _coded(column.dictionary)  # a text may be there twice
    return words, np.append(own, -1)[_places(column.indices)]


def _places(indices: pa.Array) -> npt.NDArray[np.int64]:
    return np.asarray(indices.cast(pa.int64()).fill_null(-1))


def _text_of_time(count: int, unit: str) -> str:
    scale = _UNITS_PER_US[unit]
    microseconds = count // scale if scale > 0 else count * -scale
    try:
        moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=microseconds)
    except OverflowError:
        return f"{count} {unit} since 1970"
    return moment.replace(tzinfo=None).isoformat() + "Z"


def _too_large(what: str) -> RequestError:
    return RequestError(
        413,
        "too-large",
        f"The stream has {what}.",
        why=f"What is unpacked is held in memory while it is judged. {_WHY}",
        fix="Send fewer rows at a time, or raise TFT_MAX_BODY_MB.",
    )


def _too_many_rows(most: int) -> RequestError:
    return RequestError(
        413,
        "too-many-rows",
        f"The stream has more than {most:,} rows, which are taken at a time.",
        why=_WHY,
        fix=f"Send at most {most:,} rows per request, or raise TFT_MAX_ROWS_PER_REQUEST.",
    )


def _self_check() -> None:
    moment = datetime(2026, 1, 1, tzinfo=timezone.utc)
    table = pa.table(
        {
            TIMESTAMP: pa.array([moment, moment, None], pa.timestamp("ms", tz="UTC")),
            SERVER_NAME: pa.array(["ppweb001", "ppdb001", "ppweb001"]).dictionary_encode(),
            "cpu_pct": [97.0, 140.0, 1.0],
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    limits = RowLimits(moment, None, 10, lambda _: None)
    judged = judge_stream(sink.getvalue().to_pybytes(), StreamLimits(10, 10_000), limits)
    assert judged.frame[STATE].tolist() == ["critical_issue"] and judged.frame[PROFILE].tolist() == ["web_api"]
    assert [rejection["row"] for rejection in judged.rejections] == [1, 2]
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
