"""How requests of Prometheus' remote write become rows: unpacked within bounds, judged sample by sample.

Source: "Prometheus Remote-Write 1.0 specification", https://prometheus.io/docs/specs/prw/remote_write_spec/. Which
series is which metric is said by the importer's mapping files. A mapping asks PromQL of a Prometheus; here the
Prometheus sends what it has, so a query that is a plain selector picks the series itself, and any other one stands for
the series that a recording rule makes of it: `tft:cpu_pct` and so on (`recording_rules` writes these rules). Knows
nothing of HTTP connections or the store.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any, Final

import cramjam
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from common_utils import iso_z
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
    SERVER_NAME,
    TIMESTAMP,
    ImportMappingError,
    shorten,
)
from import_cells import IDLE_ROUNDING
from prometheus_mapping import PrometheusMapping
from prometheus_values import MappedValues

PROTOBUF: Final = "application/x-protobuf"
RECORDED: Final = "tft:"  # before a metric's name; the colon marks what recording rules make
_STALE: Final = struct.pack("<Q", 0x7FF0000000000002)  # a NaN of this kind says that a series has ended
_NAME: Final = "__name__"
_MAX_UNPACKED: Final = 8_000_000  # bytes; senders make blocks of at most this. Empty messages take 30 times as much.
_MAX_LABELS: Final = 200  # of a series
_MAX_MS: Final = 253_402_300_799_000  # the end of the year 9999

_WHY: Final = "Nothing of the request was stored."
_FIX: Final = "Send what Prometheus 2 and 3 send by default: protobuf `prometheus.WriteRequest`, snappy block format."

_SELECTOR: Final = re.compile(r"\s*([a-zA-Z_:][\w:]*)?\s*(?:\{(.*)\})?\s*", re.DOTALL)
_MATCHER: Final = re.compile(
    r"\s*([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*(?:\"((?:\\.|[^\"\\])*)\"|'((?:\\.|[^'\\])*)'|`([^`]*)`)\s*(?:,|$)", re.DOTALL
)


# Escapes of PromQL's strings: those of Go
_ESCAPE: Final = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|[0-3][0-7]{2}|.)", re.DOTALL)
_ESCAPED: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}

_BOUNDS: Final = {column: (lower, upper) for column, lower, upper, _ in METRIC_BOUNDS}
_PLACES: Final = {column: place for place, column in enumerate(METRIC_COLUMNS)}


# ------------------------------------------------------------------------------------------------------------- decoding
@cache
def _write_request() -> type[Message]:
    """The message `prometheus.WriteRequest`, as far as it is read: other fields are skipped."""
    file = descriptor_pb2.FileDescriptorProto(name="tft/remote_write.proto", package="prometheus", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    for name, fields in {
        "Label": [("name", field.TYPE_STRING, one, ""), ("value", field.TYPE_STRING, one, "")],
        "Sample": [("value", field.TYPE_DOUBLE, one, ""), ("timestamp", field.TYPE_INT64, one, "")],
        "TimeSeries": [("labels", field.TYPE_MESSAGE, many, "Label"), ("samples", field.TYPE_MESSAGE, many, "Sample")],
        "WriteRequest": [("timeseries", field.TYPE_MESSAGE, many, "TimeSeries")],
    }.items():
        message = file.message_type.add(name=name)
        for number, (own, kind, label, of) in enumerate(fields, start=1):
            message.field.add(
                name=own, number=number, type=kind, label=label, type_name=f".prometheus.{of}" if of else None
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message_class: type[Message] = message_factory.GetMessageClass(
        pool.FindMessageTypeByName("prometheus.WriteRequest")
    )
    return message_class


def encode(series: list[tuple[dict[str, str], list[tuple[int, float]]]]) -> bytes:
    """A request body as a Prometheus sends it, of series: labels, and (milliseconds since 1970, value).

    For checks and benchmarks; the daemon only reads.
    """
    request: Any = _write_request()()
    for labels, samples in series:
        one = request.timeseries.add()
        for name in sorted(labels):
            one.labels.add(name=name, value=labels[name])
        for moment, value in samples:
            one.samples.add(timestamp=moment, value=value)
    return bytes(cramjam.snappy.compress_raw(request.SerializeToString()))


def _unpacked(body: bytes, most: int) -> bytes:
    """The body without its compression, if it takes at most so many bytes."""
    length = shift = 0
    for byte in body[:5]:  # the block format begins with the length, a varint of 32 bits
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
    else:
        raise _not_read("it has no length")
    if length > most:
        raise RequestError(
            413,
            "too-large",
            f"The body unpacks to {length:,} bytes; {most:,} are taken at a time.",
            why=f"What is unpacked is held in memory while it is judged. {_WHY}",
            fix="Lower `max_samples_per_send` in the Prometheus' queue_config, or raise TFT_MAX_BODY_MB.",
        )
    try:
        return bytes(cramjam.snappy.decompress_raw(body))
    except cramjam.DecompressionError:
        raise _not_read("it is no block of snappy") from None


def _not_read(reason: str) -> RequestError:
    what = f"The body cannot be read as a remote write request: {reason}."
    return RequestError(400, "no-remote-write", what, why=_WHY, fix=_FIX)


# -------------------------------------------------------------------------------------------------------------- mapping
@dataclass(frozen=True)
class _Selector:
    """Which series a metric is read off: a vector selector of PromQL."""

    name: str | None
    matchers: tuple[tuple[str, str, str | re.Pattern[str]], ...]

    def fits(self, labels: Mapping[str, str]) -> bool:
        if self.name is not None and labels[_NAME] != self.name:
            return False
        for label, operator, wanted in self.matchers:
            value = labels.get(label, "")  # PromQL: a label that is not there is empty
            found = value == wanted if isinstance(wanted, str) else wanted.fullmatch(value) is not None
            if found == operator.startswith("!"):
                return False
        return True


def _selector_of(query: str) -> _Selector | None:
    """The query as a selector; None if it is more than one.

    Raises
    ------
    ImportMappingError
        If it is a selector that no Prometheus would take either.
    """
    found = _SELECTOR.fullmatch(query)
    if found is None:
        return None
    matchers: list[tuple[str, str, str | re.Pattern[str]]] = []
    text, place = (found[2] or "").strip(), 0
    while place < len(text):
        part = _MATCHER.match(text, place)
        if part is None:
            return None
        place = part.end()
        quoted = part[3] if part[3] is not None else part[4]
        value = part[5] if quoted is None else _ESCAPE.sub(_unescaped, quoted)
        try:
            matchers.append((part[1], part[2], re.compile(value) if "~" in part[2] else value))
        except re.error as error:
            raise _wrong_selector(query, f"{value!r} is no regular expression ({error})") from None
    if found[1] is None and not matchers:
        raise _wrong_selector(query, "it would take every series")
    return _Selector(found[1], tuple(matchers))


def _unescaped(escape: re.Match[str]) -> str:
    """Character that an escape of a PromQL string stands for; they are those of Go."""
    code = escape[1]
    if code[0] in "xuU" and len(code) > 1:
        return chr(int(code[1:], 16))
    if len(code) == 3:
        return chr(int(code, 8))
    return _ESCAPED.get(code, code)


def _wrong_selector(query: str, reason: str) -> ImportMappingError:
    return ImportMappingError(
        f"The query {shorten(' '.join(query.split()))} picks no series: {reason}.",
        why="What a Prometheus sends is told apart by the selectors of the mapping.",
        fix="Correct it, or write any other PromQL there: then the series of its recording rule is taken.",
        document="Docs/DAEMON.md",
    )


def recorded_name(metric: str) -> str:
    """Name of the series that a recording rule makes of a metric's query."""
    return f"{RECORDED}{metric}"


def recording_rules(mapping: PrometheusMapping, interval_seconds: int, window_seconds: int) -> str:
    """A rule file for a Prometheus (YAML) that makes of a mapping's queries series that can be sent.

    Parameters
    ----------
    interval_seconds : int
        How often the rules are evaluated; `$step` in the queries.
    window_seconds : int
        `$window` in the queries: four times the scrape interval suits.
    """
    lines = [
        f"# Made of the mapping {mapping.name} by `python main.py rules`. Load it with `rule_files`.",
        "groups:",
        "  - name: tft",
        f"    interval: {interval_seconds}s",
        "    rules:",
    ]
    for metric, query in mapping.queries(interval_seconds, window_seconds).items():
        if _selector_of(query) is None:
            lines += [f"      - record: {recorded_name(metric)}", "        expr: |"]
            lines += [f"          {line}".rstrip() for line in query.strip().splitlines()]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class WrittenRows:
    """What a request holds.

    Attributes
    ----------
    rows : JudgedRows
        Its samples, joined to rows by server and time. `rejected` counts samples, and `row` of a rejection is the
        position of its series in the request.
    ignored : int
        Samples of series that the mapping does not name, markers of their end, values that are not a number, and those
        that `join` leaves out.
    """

    rows: JudgedRows
    ignored: int


class RemoteWrite:
    """Reads requests by a mapping.

    Parameters
    ----------
    mapping : PrometheusMapping
        The importer's. `join` means here: only of servers that are known, or of which another metric comes with it.

    Raises
    ------
    ImportMappingError
        If a query is a selector that cannot be.
    """

    def __init__(self, mapping: PrometheusMapping) -> None:
        self._mapping = mapping
        metrics = mapping.prometheus.metrics
        selectors = {
            name: _selector_of(metric.query) or _Selector(recorded_name(name), ()) for name, metric in metrics.items()
        }
        # Those that are joined come last, when it is known which servers there are
        self._passes = [
            {name: selectors[name] for name in metrics if metrics[name].join == join} for join in (False, True)
        ]
        self._values = MappedValues(mapping)

    def read(self, body: bytes, most_bytes: int, limits: RowLimits, most_samples: int) -> WrittenRows:
        """Sort a request's samples into rows and rejections; a wrong one harms no other, not even of its own row.

        Parameters
        ----------
        body : bytes
            As it came.
        most_bytes : int
            What it may take when it is unpacked.

        Raises
        ------
        RequestError
            400 if it is no remote write request, 413 if it is too large.
        """
        try:
            request: Any = _write_request().FromString(_unpacked(body, min(most_bytes, _MAX_UNPACKED)))
        except DecodeError:
            raise _not_read("it is no message `prometheus.WriteRequest`") from None
        count = len(request.timeseries)
        if count <= most_samples:
            count = sum(len(series.samples) for series in request.timeseries)
        if count > most_samples:
            raise RequestError(
                413,
                "too-many-rows",
                f"The request has {count:,} samples or series; {most_samples:,} are taken at a time.",
                why=_WHY,
                fix="Lower `max_samples_per_send` in the Prometheus' queue_config, or raise TFT_MAX_ROWS_PER_REQUEST.",
            )
        found = _Samples(limits)
        joined: list[tuple[int, str, dict[str, str], Any]] = []
        for place, series in enumerate(request.timeseries):
            many = len(series.labels) > _MAX_LABELS
            labels = {} if many else {label.name: label.value for label in series.labels}
            fault = "a series has too many labels" if many else _label_fault(series.labels, labels)
            if fault:
                found.refuse_series(place, fault, series.samples)
                continue
            named, late = ([name for name, one in each.items() if one.fits(labels)] for each in self._passes)
            if not named and not late:
                found.ignored += len(series.samples)
            for metric in named:
                self._take(found, place, metric, labels, series.samples)
            joined += [(place, metric, labels, series.samples) for metric in late]
        for place, metric, labels, samples in joined:
            server = self._mapping.server_of(metric, labels)
            if server is not None and server not in found.servers and limits.profile(server) is None:
                found.ignored += len(samples)  # a host that is probed alone makes no server
                continue
            self._take(found, place, metric, labels, samples)
        return found.rows(self._values.usual_profile)

    def _take(self, found: _Samples, place: int, metric: str, labels: dict[str, str], samples: Any) -> None:
        """Put the samples of a series, as values of a metric in the contract's unit, into their rows."""
        server = self._mapping.server_of(metric, labels)
        if server is None:
            found.refuse_series(place, f"the labels of {shorten(labels[_NAME])} do not name a server", samples)
            return
        factor, offset = self._values.units[metric]
        clip = self._values.clip[metric]
        stated = self._values.stated_profile(server, labels)
        for sample in samples:
            value = sample.value
            if math.isnan(value):  # the end of a series, or a quotient of nothing
                found.ignored += 1
                continue
            value = factor * value + offset
            if 100.0 < value <= clip:
                value = 100.0
            elif factor < 0 and -IDLE_ROUNDING <= value < 0:
                value = 0.0  # the importer's rule, too: idle and waiting time may add up to a bit more than 100 %
            found.add(place, server, sample.timestamp, metric, value, stated)


class _Samples:
    """Samples of one request, judged one by one and joined to rows."""

    def __init__(self, limits: RowLimits) -> None:
        self._limits = limits
        self._judge = RowJudge(limits)
        self._rows: dict[tuple[str, int], list[float]] = {}  # server, microseconds → a value per metric
        self._stated: dict[str, str] = {}  # server → profile
        self._faults: list[dict[str, Any]] = []
        self._wrong = 0
        self.ignored = 0
        self.servers: set[str] = set()

    def add(self, place: int, server: str, milliseconds: int, metric: str, value: float, profile: str | None) -> None:
        """Put a value into its row, if time, value and server may be."""
        lower, upper = _BOUNDS[metric]
        time = milliseconds * 1000
        right = lower <= value <= upper and self._judge.earliest_us <= time <= self._judge.latest_us
        if not right or self._judge.profile_of(server) is None:
            self._wrong += 1
            if len(self._faults) < MAX_LISTED_REJECTIONS:
                row = {TIMESTAMP: _time_text(milliseconds), SERVER_NAME: server, metric: value}
                self._refuse(place, shown_name(row), self._judge.fault_of(row))
            return
        self.servers.add(server)
        if profile is not None:
            self._stated.setdefault(server, profile)
        row_values = self._rows.get((server, time))
        if row_values is None:
            row_values = self._rows[server, time] = [math.nan] * len(METRIC_COLUMNS)
        # Two series of one metric and server, such as two jobs that scrape it: the first counts, as in the store.
        if math.isnan(row_values[_PLACES[metric]]):
            row_values[_PLACES[metric]] = value

    def refuse_series(self, place: int, what: str, samples: Any) -> None:
        """Refuse all samples of a series; one without samples is refused, too."""
        self._wrong += max(1, len(samples))
        self._refuse(place, None, what)

    def _refuse(self, place: int, server: str | None, what: str) -> None:
        if len(self._faults) < MAX_LISTED_REJECTIONS:
            self._faults.append({"row": place, "server_name": server, "what": what})

    def rows(self, usual_profile: Callable[[str], str]) -> WrittenRows:
        """The rows, in contract columns; a known server keeps its profile unless one is stated."""
        profiles = {
            server: self._stated.get(server) or self._limits.profile(server) or usual_profile(server)
            for server in self.servers
        }
        names = np.array([server for server, _ in self._rows], dtype=object)
        values = np.array(list(self._rows.values()), np.float64).reshape(-1, len(METRIC_COLUMNS))
        frame = contract_frame(
            np.array([time for _, time in self._rows], np.int64),
            names,
            {metric: values[:, place] for metric, place in _PLACES.items()},
            np.full(len(names), None, dtype=object),
            np.array([profiles[server] for server in names], dtype=object),
        )
        return WrittenRows(JudgedRows(frame, self._wrong, self._faults), self.ignored)


def _label_fault(pairs: Any, labels: dict[str, str]) -> str | None:
    """What is wrong with a series' labels by the specification; None if nothing is."""
    names = [label.name for label in pairs]
    if not labels.get(_NAME):
        return f"series {shorten(', '.join(names) or 'without labels')} has no name"
    if any(not name for name in names):
        return f"a label of {shorten(labels[_NAME])} has no name"
    if len(labels) != len(names):
        return f"a label of {shorten(labels[_NAME])} is there twice"
    return None if names == sorted(names) else f"the labels of {shorten(labels[_NAME])} are not in order"


def _time_text(milliseconds: int) -> str:
    if not 0 <= milliseconds <= _MAX_MS:
        return f"{milliseconds} ms since 1970"  # which the judge of rows refuses
    return iso_z(datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=milliseconds))


def _self_check() -> None:
    from prometheus_mapping import parse_prometheus_mapping

    query = {"cpu_pct": {"query": 'up_cpu{job=~"node|vm"}', "unit": "ratio"}, "mem_pct": {"query": "rate(a[5m])"}}
    mapping = parse_prometheus_mapping({"prometheus": {"metrics": query}})
    stale = struct.unpack("<d", _STALE)[0]
    now = 1_767_600_000_000
    body = encode(
        [
            ({_NAME: "up_cpu", "job": "node", "instance": "ppweb001:9100"}, [(now, 0.25), (now + 1000, stale)]),
            ({_NAME: "up_cpu", "job": "other", "instance": "ppweb001:9100"}, [(now, 0.99)]),
            ({_NAME: "tft:mem_pct", "instance": "ppweb001"}, [(now, 40.0)]),
        ]
    )
    limits = RowLimits(datetime(2030, 1, 1, tzinfo=timezone.utc), None, 10, lambda _: None)
    written = RemoteWrite(mapping).read(body, 10_000, limits, 100)
    assert written.rows.frame[list(METRIC_COLUMNS[:2])].to_numpy().tolist() == [[25.0, 40.0]] and written.ignored == 2
    assert "record: tft:mem_pct" in recording_rules(mapping, 60, 240)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
