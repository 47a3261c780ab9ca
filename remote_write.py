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
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any, Final

import cramjam
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from common_utils import iso_z
from daemon_problems import RequestError
from daemon_rows import MAX_LISTED_REJECTIONS, JudgedRows, RowLimits, judge_rows
from data_contract import METRIC_COLUMNS, PROFILE, SERVER_NAME, TIMESTAMP, VALID_PROFILES, profile_for_name, shorten
from import_mapping import CLIP_UP_TO, DEFAULT_UNITS, UNITS
from prometheus_mapping import PrometheusMapping

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
    """The query as a selector; None if it is more than one."""
    found = _SELECTOR.fullmatch(query)
    if found is None or (found[1] is None and found[2] is None):
        return None
    matchers: list[tuple[str, str, str | re.Pattern[str]]] = []
    text, place = (found[2] or "").strip(), 0
    while place < len(text):
        part = _MATCHER.match(text, place)
        if part is None:
            return None
        place = part.end()
        quoted = next((part[group] for group in (3, 4) if part[group] is not None), None)
        value = part[5] if quoted is None else re.sub(r"\\(.)", r"\1", quoted) if "\\" in quoted else quoted
        try:
            matchers.append((part[1], part[2], re.compile(value) if "~" in part[2] else value))
        except re.error:
            return None
    return _Selector(found[1], tuple(matchers))


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
        Its samples, joined to rows by server and time; rejections tell of rows and of whole series.
    ignored : int
        Samples of series that the mapping does not name, markers of their end, and values that are not a number.
    """

    rows: JudgedRows
    ignored: int


class RemoteWrite:
    """Reads requests by a mapping.

    Parameters
    ----------
    mapping : PrometheusMapping
        The importer's. `join` means here: only of servers that are known, or of which another metric comes with it.
    """

    def __init__(self, mapping: PrometheusMapping) -> None:
        self._mapping = mapping
        metrics = mapping.prometheus.metrics
        self._selectors = {
            name: _selector_of(metric.query) or _Selector(recorded_name(name), ()) for name, metric in metrics.items()
        }
        self._units = {name: UNITS[name][metric.unit or DEFAULT_UNITS[name]] for name, metric in metrics.items()}
        self._rules = [(re.compile(rule.pattern), rule.profile) for rule in mapping.profile.rules]

    def read(self, body: bytes, most_bytes: int, limits: RowLimits, most_samples: int) -> WrittenRows:
        """Sort a request's samples into rows and rejections; a wrong one harms no other.

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
        faults: list[dict[str, Any]] = []
        wrong = ignored = 0
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for place, series in enumerate(request.timeseries):
            many = len(series.labels) > _MAX_LABELS
            labels = {} if many else {label.name: label.value for label in series.labels}
            fault = "a series has too many labels" if many else _label_fault(series.labels, labels)
            metrics = [] if fault else [name for name, selector in self._selectors.items() if selector.fits(labels)]
            ignored += 0 if fault or metrics else len(series.samples)
            for metric in metrics:
                server = self._mapping.server_of(metric, labels)
                if server is None:
                    fault = f"the labels of {shorten(labels[_NAME])} do not name a server"
                    break
                for sample in series.samples:
                    ignored += not self._take(rows, metric, server, labels, sample)
            if fault:
                wrong += max(1, len(series.samples))
                faults.append({"row": place, "server_name": None, "what": fault})
        kept = [row for row in rows.values() if self._counts(row, limits)]
        judged = judge_rows(kept, limits)
        listed = (faults + judged.rejections)[:MAX_LISTED_REJECTIONS]
        return WrittenRows(JudgedRows(judged.frame, wrong + judged.rejected, listed), ignored)

    def _take(
        self, rows: dict[tuple[str, int], dict[str, Any]], metric: str, server: str, labels: dict[str, str], sample: Any
    ) -> bool:
        """Put a sample into its row; False if it holds no value."""
        value = sample.value
        if math.isnan(value):  # the end of a series, or a quotient of nothing
            return False
        row = rows.get((server, sample.timestamp))
        if row is None:
            row = {TIMESTAMP: _time_text(sample.timestamp), SERVER_NAME: server, PROFILE: self._profile(server, labels)}
            rows[server, sample.timestamp] = row
        factor, offset = self._units[metric]
        value = factor * value + offset
        most = self._mapping.prometheus.metrics[metric].clip_up_to or CLIP_UP_TO.get(metric)
        if most is not None and 100.0 < value <= most:
            value = 100.0
        # Two series of one metric and server, such as two jobs that scrape it: the first counts, as in the store.
        row.setdefault(metric, value)
        return True

    def _counts(self, row: dict[str, Any], limits: RowLimits) -> bool:
        """Whether a row stands by itself: with `join` alone it does not make a server."""
        metrics = self._mapping.prometheus.metrics
        alone = any(name in row and not metrics[name].join for name in metrics)
        return alone or limits.profile(row[SERVER_NAME]) is not None

    def _profile(self, server: str, labels: Mapping[str, str]) -> str | None:
        """Profile by a label, by the mapping's rules, by the contract's name patterns, or the mapping's default."""
        section = self._mapping.profile
        for label in self._mapping.profile_labels:
            if value := labels.get(label):
                named = section.values.get(value, value)
                if named in VALID_PROFILES:
                    return named
                break
        for pattern, profile in self._rules:
            if pattern.search(server):
                return profile
        usual = profile_for_name(server)
        return section.default if usual == "generic" else usual


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
