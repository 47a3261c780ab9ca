"""What a Prometheus writes: read within bounds, judged sample by sample, on disk before it is acknowledged."""

from __future__ import annotations

import itertools
import json
import math
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import cramjam
import numpy as np
import pytest
from conftest import make_fleet
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from local_prometheus import MISSING, WHY_NOT, Prometheus, free_port
from test_daemon_process import daemon
from test_tft_inference import NOW, assert_problem, json_rows, post_and_wait, running, wait_for
from typer.testing import CliRunner

import main as cli
from config import Settings
from daemon_problems import RequestError
from daemon_rows import RowLimits
from data_contract import METRIC_COLUMNS, PROFILE, SERVER_NAME, STATE, TIMESTAMP, ImportMappingError
from history_store import HistoryStore
from prometheus_mapping import load_prometheus_preset, parse_prometheus_mapping
from remote_write import RemoteWrite, encode, recording_rules

HEADERS = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
    "User-Agent": "Prometheus/2.42.0",
}
NOW_MS = int(NOW.timestamp() * 1000)
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
LIMITS = RowLimits(NOW + timedelta(minutes=10), NOW - timedelta(days=30), 100, lambda _: None)

MAPPING: dict[str, Any] = {
    "prometheus": {
        "metrics": {
            "cpu_pct": {"query": 'host_cpu{job=~"node|vm", mode!="idle"}', "unit": "ratio"},
            "mem_pct": {"query": "avg_over_time(host_mem[$step])"},
            "latency_ms": {"query": '{__name__="probe_seconds"}', "unit": "s", "join": True},
        }
    },
    "profile": {
        "any_of": ["role"],
        "values": {"db": "database"},
        "rules": [{"pattern": "^gpu", "profile": "ml_compute"}],
    },
}
Samples = list[tuple[int, float]]


def series(
    name: str, instance: str = "ppweb001:9100", value: float = 0.25, **labels: str
) -> tuple[dict[str, str], Samples]:
    return {"__name__": name, "instance": instance, "job": "node", **labels}, [(NOW_MS, value)]


def read(*sent: tuple[dict[str, str], Samples], mapping: dict[str, Any] = MAPPING, limits: RowLimits = LIMITS) -> Any:
    return RemoteWrite(parse_prometheus_mapping(mapping)).read(encode(list(sent)), 1_000_000, limits, 1000)


# ------------------------------------------------------------------------------------------------------------- reading
def test_samples_of_one_server_and_time_become_one_row_in_the_contracts_units() -> None:
    written = read(
        series("host_cpu", value=0.97), series("tft:mem_pct", value=41.5), series("probe_seconds", value=0.2)
    )
    frame = written.rows.frame
    assert len(frame) == 1 and written.ignored == written.rows.rejected == 0
    row = frame.iloc[0]
    assert (row["cpu_pct"], row["mem_pct"], row["latency_ms"]) == (97.0, 41.5, 200.0)
    assert math.isnan(row["disk_io_mb_s"])
    assert (row[SERVER_NAME], row[STATE], row[PROFILE]) == ("ppweb001", "critical_issue", "web_api")
    assert row[TIMESTAMP] == NOW


@pytest.mark.parametrize(
    "sent",
    [
        series("host_cpu", job="other"),
        series("host_cpu", mode="idle"),
        series("host_load"),
        series("avg_over_time"),
        series("host_mem", value=50.0),  # the recording rule's series counts, not what it is made of
        ({"__name__": "host_cpu", "instance": "a", "job": "node"}, [(NOW_MS, STALE), (NOW_MS + 1, math.nan)]),
    ],
)
def test_other_series_and_marks_of_an_end_are_no_data(sent: tuple[dict[str, str], Samples]) -> None:
    written = read(sent)
    assert written.rows.frame.empty and not written.rows.rejected and written.ignored == len(sent[1])


def test_latency_alone_makes_no_server_but_belongs_to_a_known_one() -> None:
    alone = series("probe_seconds", "https://shop.example/login", value=0.1)
    assert read(alone).rows.frame.empty
    known = RowLimits(LIMITS.latest, None, 0, lambda name: "web_api" if name == "shop.example" else None)
    assert read(alone, limits=known).rows.frame["latency_ms"].tolist() == [100.0]


def test_profiles_come_from_a_label_the_mappings_rules_or_the_name() -> None:
    frame = read(
        series("host_cpu", "a", role="db"),
        series("host_cpu", "gpu7"),
        series("host_cpu", "ppml0001"),
        series("host_cpu", "x"),
    ).rows.frame
    assert dict(zip(frame[SERVER_NAME], frame[PROFILE], strict=True)) == {
        "a": "database",
        "gpu7": "ml_compute",
        "ppml0001": "ml_compute",
        "x": "generic",
    }


def test_a_percentage_a_little_too_high_is_clipped_and_of_two_the_first_counts() -> None:
    assert read(series("host_cpu", value=1.3)).rows.frame["cpu_pct"].tolist() == [100.0]
    assert read(series("host_cpu", value=0.5), series("host_cpu", value=0.9, job="vm")).rows.frame[
        "cpu_pct"
    ].tolist() == [50.0]


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (series("host_cpu", value=1e308), "outside"),
        (series("host_cpu", value=math.inf), "outside"),
        (series("host_cpu", value=-0.5), "outside"),
        (({"__name__": "host_cpu", "job": "node"}, [(NOW_MS, 0.5)]), "do not name a server"),
        (({"job": "node"}, [(NOW_MS, 0.5)]), "has no name"),
        (({"": "x", "__name__": "host_cpu"}, [(NOW_MS, 0.5)]), "has no name"),
        (({"__name__": "host_cpu", "instance": "a", "job": "node"}, [(NOW_MS + 3_600_000, 0.5)]), "future"),
        (({"__name__": "host_cpu", "instance": "a", "job": "node"}, [(-5, 0.5)]), "ISO 8601"),
        (({"__name__": "host_cpu", "instance": "a", "job": "node"}, [(2**62, 0.5)]), "ISO 8601"),
        (({"__name__": "host_cpu", "instance": "a", "job": "node"}, [(NOW_MS - 40 * 86_400_000, 0.5)]), "older than"),
        (series("host_cpu", "a" * 400), "server_name"),
        (series("host_cpu", "a\x07b"), "server_name"),
        (series("host_cpu", **{f"l{k:03}": "x" for k in range(300)}), "too many labels"),
    ],
)
def test_a_wrong_sample_is_itemised_and_harms_no_other(sent: tuple[dict[str, str], Samples], words: str) -> None:
    written = read(sent, series("host_cpu", "ppdb001"))
    assert written.rows.frame[SERVER_NAME].tolist() == ["ppdb001"]
    assert written.rows.rejected == 1 and words in written.rows.rejections[0]["what"]


def test_a_wrong_value_takes_no_other_metric_of_its_row_with_it() -> None:
    wrong = ({"__name__": "host_cpu", "instance": "a", "job": "node"}, [(NOW_MS, 2.5), (NOW_MS + 1, -1.0)])
    written = read(series("tft:mem_pct", "a", value=40.0), wrong)
    assert written.rows.frame["mem_pct"].tolist() == [40.0] and written.rows.frame["cpu_pct"].isna().all()
    assert written.rows.rejected == 2, "samples are counted"
    assert [(each["row"], each["server_name"]) for each in written.rows.rejections] == [(1, "a"), (1, "a")]


def test_a_new_server_takes_a_place_with_a_right_sample_only() -> None:
    one_place = RowLimits(LIMITS.latest, None, 1, lambda _: None)
    sent = (series("host_cpu", "wrong", value=9.0), series("host_cpu", "a"), series("host_cpu", "b"))
    written = read(*sent, limits=one_place)
    assert written.rows.frame[SERVER_NAME].tolist() == ["a"] and written.rows.rejected == 2
    assert "no room" in written.rows.rejections[1]["what"]


def test_idle_time_that_is_rounded_above_the_whole_is_no_fault() -> None:
    idle = {"prometheus": {"metrics": {"cpu_pct": {"query": "idle", "unit": "ratio_idle"}}}}
    written = read(series("idle", "a", 1.004), series("idle", "b", 1.02), series("idle", "c", 0.75), mapping=idle)
    assert written.rows.frame["cpu_pct"].tolist() == [0.0, 25.0]
    assert [each["server_name"] for each in written.rows.rejections] == ["b"]


def test_a_known_server_keeps_its_profile_unless_a_label_states_one() -> None:
    known = RowLimits(LIMITS.latest, None, 10, {"a": "web_api", "b": "web_api"}.get)
    sent = (
        series("host_cpu", "a"),
        series("host_cpu", "b"),
        series("tft:mem_pct", "b", role="db"),
        series("host_cpu", "c"),
    )
    own = {**MAPPING, "profile": {**MAPPING["profile"], "default": "data_ingest"}}
    frame = read(*sent, mapping=own, limits=known).rows.frame
    assert frame[PROFILE].tolist() == ["web_api", "database", "data_ingest"]


def test_latency_joins_whichever_series_comes_first_and_is_counted_when_left_out() -> None:
    cpu, latency = series("host_cpu", "a"), series("probe_seconds", "a", value=0.1)
    for sent in ((cpu, latency), (latency, cpu)):
        frame = read(*sent).rows.frame
        assert frame[["cpu_pct", "latency_ms"]].to_numpy().tolist() == [[25.0, 100.0]]
    assert read(latency).ignored == 1


@pytest.mark.parametrize(
    ("query", "labels", "fits"),
    [
        (r'up{path="C:\\x"}', {"path": "C:\\x"}, True),
        (r'up{path=~"a\\.b"}', {"path": "a.b"}, True),
        (r'up{path=~"a\\.b"}', {"path": "aXb"}, False),
        (r"up{path=~`a\.b`}", {"path": "a.b"}, True),
        (r'up{path="\x41\u00e4\n\101\""}', {"path": 'Aä\nA"'}, True),
        ("up{path=~'b'}", {"path": "abc"}, False),  # anchored at both ends
        ('up{path=""}', {}, True),
        ('up{path!=""}', {}, False),
        ('up{a="1", b!~"2|3",}', {"a": "1", "b": "4"}, True),
        ('{__name__=~"u.", a="}"}', {"a": "}"}, True),
    ],
)
def test_selectors_pick_what_a_prometheus_would(query: str, labels: dict[str, str], fits: bool) -> None:
    mapping = {"prometheus": {"metrics": {"cpu_pct": {"query": query}}}}
    written = read(({"__name__": "up", "instance": "a", **labels}, [(NOW_MS, 1.0)]), mapping=mapping)
    assert len(written.rows.frame) == fits and written.ignored == (not fits)


@pytest.mark.parametrize("query", ["{}", " { } ", 'up{a=~"("}', 'up{a!~"*"}'])
def test_a_selector_that_cannot_be_is_told(query: str) -> None:
    mapping = parse_prometheus_mapping({"prometheus": {"metrics": {"cpu_pct": {"query": query}}}})
    with pytest.raises(ImportMappingError, match="picks no series"):
        RemoteWrite(mapping)


ALL = [
    ({"__name__": name, "instance": instance, "job": "node"}, moment, value)
    for instance in ("a", "b")
    for moment in (NOW_MS - 1000, NOW_MS)
    for name, value in (("host_cpu", 0.97), ("tft:mem_pct", 41.5), ("tft:disk_io_mb_s", 7.0))
]
THREE = {"prometheus": {"metrics": {**MAPPING["prometheus"]["metrics"], "disk_io_mb_s": {"query": "rate(x[$window])"}}}}


@settings_of_hypothesis(max_examples=30, deadline=None)
@given(st.permutations([*ALL, *ALL[:4]]), st.lists(st.integers(0, 16), max_size=6))
def test_however_samples_are_spread_over_requests_the_rows_are_the_same(sent: list[Any], cuts: list[int]) -> None:
    """As several shards send them, in any order, and some again."""
    reader = RemoteWrite(parse_prometheus_mapping(THREE))
    edges = [0, *sorted(cuts), len(sent)]
    with TemporaryDirectory() as folder, HistoryStore(Path(folder)) as store:
        for begin, end in itertools.pairwise(edges):
            body = encode([(labels, [(moment, value)]) for labels, moment, value in sent[begin:end]])
            store.append(reader.read(body, 1_000_000, LIMITS, 1000).rows.frame)
        rows = store.window().sort_values([SERVER_NAME, TIMESTAMP])
    assert rows[SERVER_NAME].tolist() == ["a", "a", "b", "b"] and rows["latency_ms"].isna().all()
    assert rows[["cpu_pct", "mem_pct", "disk_io_mb_s"]].to_numpy().tolist() == [[97.0, 41.5, 7.0]] * 4
    assert set(rows[STATE]) == {"critical_issue"}


def test_labels_out_of_order_or_twice_are_refused() -> None:
    def text(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    def label(name: bytes, value: bytes) -> bytes:
        return text(1, text(1, name) + text(2, value))

    sample = text(2, b"\x09" + struct.pack("<d", 0.5) + b"\x10\x05")
    reader = RemoteWrite(parse_prometheus_mapping(MAPPING))
    for labels, words in (
        (label(b"job", b"node") + label(b"__name__", b"host_cpu"), "not in order"),
        (label(b"__name__", b"host_cpu") + label(b"job", b"a") + label(b"job", b"b"), "twice"),
    ):
        body = bytes(cramjam.snappy.compress_raw(text(1, labels + sample)))
        assert words in reader.read(body, 1000, LIMITS, 10).rows.rejections[0]["what"]


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_read_but_never_a_fault(garbage: bytes) -> None:
    reader = RemoteWrite(parse_prometheus_mapping(MAPPING))
    for body in (garbage, bytes(cramjam.snappy.compress_raw(garbage))):
        try:
            reader.read(body, 10_000, LIMITS, 10)
        except RequestError as error:
            assert error.status in {400, 413}


def test_bombs_are_refused_before_they_are_unpacked() -> None:
    reader = RemoteWrite(parse_prometheus_mapping(MAPPING))
    bomb = bytes(cramjam.snappy.compress_raw(bytes(7_000_000)))
    for body, most, samples in (
        (b"\xff\xff\xff\xff\x0f" + bytes(50), 10**9, 10),
        (bomb, 6_000_000, 10),
        (bytes(cramjam.snappy.compress_raw(b"\x0a\x00" * 50)), 10**6, 49),
        (encode([({"__name__": "x"}, [(k, 1.0) for k in range(50)])]), 10**6, 49),
    ):
        with pytest.raises(RequestError) as refused:
            reader.read(body, most, LIMITS, samples)
        assert refused.value.status == 413


@pytest.mark.skipif(bool(MISSING), reason=WHY_NOT)
def test_the_rules_of_a_mapping_are_what_a_prometheus_takes(tmp_path: Path) -> None:
    import subprocess

    printed = CliRunner().invoke(cli.app, ["rules", "--interval", "30", "--window", "90"])
    assert printed.exit_code == 0
    assert printed.stdout == recording_rules(load_prometheus_preset("node_exporter"), 30, 90)
    (tmp_path / "rules.yml").write_text(printed.stdout)
    done = subprocess.run(
        ["promtool", "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "4 rules found" in done.stdout
    assert recording_rules(parse_prometheus_mapping(MAPPING), 30, 90).count("record:") == 1  # selectors need none
    assert CliRunner().invoke(cli.app, ["rules", "--mapping", "nowhere.toml"]).exit_code == 1


# ----------------------------------------------------------------------------------------------------------- the route
@pytest.fixture(scope="module")
def mapping_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mapping") / "own.toml"
    path.write_text(
        """
        [prometheus.metrics.cpu_pct]
        query = 'host_cpu{job=~"node|vm"}'
        unit = "ratio"
        [prometheus.metrics.mem_pct]
        query = "avg_over_time(host_mem[$step])"
        """
    )
    return path


@pytest.fixture
def client(settings: Settings, tiny_model_dir: Path, mapping_file: Path, tmp_path: Path) -> Iterator[TestClient]:
    quick = settings.model_copy(
        update={
            "history_dir": tmp_path / "history",
            "daemon_settle_seconds": 0.05,
            "rate_limit_per_second": 100_000,
            "remote_write_mapping": str(mapping_file),
        }
    )
    with running(quick, tiny_model_dir) as client:
        yield client


def write(client: TestClient, *sent: tuple[dict[str, str], Samples], **headers: str) -> Any:
    return client.post("/api/v1/write", content=encode(list(sent)), headers={**HEADERS, **headers})


def test_what_is_written_is_history_and_is_forecast(client: TestClient) -> None:
    post_and_wait(client, json_rows(make_fleet(hours=36, end=NOW)))
    before = client.get("/status").json()
    # as two shards send them: the metrics of one server and time in two requests, and one of them twice
    for sent in (series("host_cpu", value=0.75), series("tft:mem_pct", value=33.0), series("host_cpu", value=0.75)):
        answer = write(client, sent)
        assert (answer.status_code, answer.content) == (204, b"")
    status = client.get("/status").json()
    assert status["ingest"]["accepted"] - before["ingest"]["accepted"] == 2
    assert status["ingest"]["duplicates"] == 1 and status["history"]["rows"] == before["history"]["rows"] + 1
    wait_for(lambda: client.get("/predictions/ppweb001").json()["current"]["mem_pct"] == 33.0)
    record = client.get("/predictions/ppweb001").json()
    assert record["current"]["cpu_pct"] == 75.0 and record["prediction_time"] == NOW.isoformat().replace("+00:00", "Z")
    assert client.get("/history/ppweb001?hours=1").json()["metrics"]["cpu_pct"][-1] == 75.0


def test_wrong_samples_are_told_and_the_others_stored(client: TestClient) -> None:
    late = ({"__name__": "host_cpu", "instance": "ppdb001", "job": "node"}, [(NOW_MS + 10**8, 0.5)])
    problem = assert_problem(write(client, late, series("host_cpu")), 400, "invalid-samples")
    assert (problem["accepted"], problem["rejected"]) == (1, 1) and "future" in problem["errors"][0]["what"]
    assert client.get("/status").json()["history"]["rows"] == 1


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request"}, 415, "not-remote-write"),
        ({"X-Prometheus-Remote-Write-Version": "2.0.0"}, 415, "not-remote-write"),
        ({"Content-Encoding": "gzip"}, 415, "not-remote-write"),
        ({"Content-Type": "application/json"}, 415, "not-remote-write"),
    ],
)
def test_other_protocols_are_refused(client: TestClient, headers: dict[str, str], status: int, kind: str) -> None:
    assert_problem(write(client, series("host_cpu"), **headers), status, kind)
    explicit = {"Content-Type": "application/x-protobuf; proto=prometheus.WriteRequest"}
    assert write(client, series("host_cpu"), **explicit).status_code == 204


def test_what_is_no_request_is_refused(client: TestClient) -> None:
    for body in (b"", b"nonsense", bytes(cramjam.snappy.compress_raw(b"\xff" * 30))):
        assert_problem(client.post("/write", content=body, headers=HEADERS), 400, "no-remote-write")
    assert_problem(client.post("/write", content=b"\xff\xff\xff\xff\x0f", headers=HEADERS), 413, "too-large")


def test_while_the_disk_is_full_it_is_told_to_send_again(client: TestClient) -> None:
    connection = client.app.state.daemon._store._file._connection  # type: ignore[attr-defined]
    connection.execute("PRAGMA query_only = ON")  # every write fails, as on a full disk
    assert_problem(write(client, series("host_cpu")), 507, "storage-failed")
    connection.execute("PRAGMA query_only = OFF")
    assert write(client, series("host_cpu")).status_code == 204
    status = client.get("/status").json()
    assert (status["ingest"]["accepted"], status["history"]["rows"]) == (1, 1)
    assert 'tft_ingest_rows_total{result="accepted"} 1.0' in client.get("/metrics").text


def test_a_body_that_never_ends_is_told_to_come_again(mapping_file: Path, tmp_path: Path) -> None:
    body = encode([series("host_cpu")])
    environment = {"TFT_REMOTE_WRITE_MAPPING": str(mapping_file), "TFT_BODY_TIMEOUT_SECONDS": "0.3"}
    with daemon(tmp_path, tmp_path / "no_model", **environment) as process:
        address = urlsplit(process.url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            headers = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
            head = f"POST /api/v1/write HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body[:10])
            assert connection.recv(100).startswith(b"HTTP/1.1 503")
        assert process.client.post("/api/v1/write", content=body, headers=HEADERS).status_code == 204


def test_without_a_mapping_nothing_is_taken_and_a_wrong_one_is_told_at_the_start(
    settings: Settings, tiny_model_dir: Path, tmp_path: Path
) -> None:
    own = settings.model_copy(update={"history_dir": tmp_path / "history"})
    with running(own, tiny_model_dir) as client:
        assert_problem(write(client, series("host_cpu")), 404, "no-mapping")
    with (
        pytest.raises(ImportMappingError),
        running(own.model_copy(update={"remote_write_mapping": str(tmp_path / "none.toml")}), tiny_model_dir),
    ):
        pass


# -------------------------------------------------------------------------------------------------- a real Prometheus
class Exporter(BaseHTTPRequestHandler):
    """Twenty gauges that change with every scrape."""

    count = 0

    def do_GET(self) -> None:
        type(self).count += 1
        lines = [f'host_cpu{{instance="web{k:02}"}} {(self.count * 7 + k) % 100 / 100}' for k in range(10)]
        lines += [f'host_mem{{instance="web{k:02}"}} {(self.count * 3 + k) % 100}' for k in range(10)]
        body = ("\n".join(lines) + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.mark.skipif(bool(MISSING), reason=WHY_NOT)
def test_a_real_prometheus_writes_through_a_killed_daemon_without_a_gap(
    tiny_model_dir: Path, mapping_file: Path, tmp_path: Path
) -> None:
    exporter = ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
    threading.Thread(target=exporter.serve_forever, daemon=True).start()
    port, folder = free_port(), tmp_path / "daemon"
    (tmp_path / "rules.yml").write_text(
        json.dumps(
            {"groups": [{"name": "tft", "interval": "1s", "rules": [{"record": "tft:mem_pct", "expr": "host_mem"}]}]}
        )
    )
    prometheus = Prometheus(
        tmp_path / "prometheus",
        {"node": {"honor_labels": True, "static_configs": [{"targets": [f"127.0.0.1:{exporter.server_port}"]}]}},
    )
    settings = json.loads((tmp_path / "prometheus" / "settings.yml").read_text())
    settings["rule_files"] = [str(tmp_path / "rules.yml")]
    settings["global"]["evaluation_interval"] = "1s"
    settings["remote_write"] = [
        {
            "url": f"http://127.0.0.1:{port}/api/v1/write",
            "queue_config": {"min_backoff": "100ms", "max_backoff": "300ms", "batch_send_deadline": "500ms"},
            "write_relabel_configs": [
                {"source_labels": ["__name__"], "regex": "host_cpu|tft:.*", "action": "keep"},
            ],
        }
    ]
    (tmp_path / "prometheus" / "settings.yml").write_text(json.dumps(settings))

    def rows_in(process: Any) -> int:
        return int(process.get("/status")["history"]["rows"])

    def samples(series: list[dict[str, Any]]) -> int:
        return sum(len(each["values"]) for each in series)

    options = ("--port", str(port))
    with prometheus:
        with daemon(folder, tiny_model_dir, *options, TFT_REMOTE_WRITE_MAPPING=str(mapping_file)) as process:
            wait_for(lambda: rows_in(process) > 40)
            process.signal(signal.SIGKILL)
            process.wait()
        time.sleep(2)  # scrapes that find no daemon
        with daemon(folder, tiny_model_dir, *options, TFT_REMOTE_WRITE_MAPPING=str(mapping_file)) as process:
            before = rows_in(process)
            wait_for(lambda: rows_in(process) > before + 60)
            wait_for(
                lambda: all(samples(prometheus.values(f"{name}[5m]")) > 80 for name in ("host_cpu", "tft:mem_pct"))
            )
            metrics, memory = prometheus.values("host_cpu[5m]"), prometheus.values("tft:mem_pct[5m]")
            last = max(float(moment) for each in metrics for moment, _ in each["values"])
            wait_for(
                lambda: process.get("/status")["history"]["newest"] >= time.strftime("%FT%TZ", time.gmtime(last + 2))
            )
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
            assert "Traceback" not in process.log()
    exporter.shutdown()
    exporter.server_close()
    with HistoryStore(folder / "history") as store:
        window = store.window()
    assert not window.duplicated([SERVER_NAME, TIMESTAMP]).any()
    for column, sent, factor in (("cpu_pct", metrics, 100.0), ("mem_pct", memory, 1.0)):
        found = {
            (row[SERVER_NAME], round(row[TIMESTAMP].timestamp() * 1000)): row[column]
            for _, row in window.dropna(subset=[column]).iterrows()
        }
        expected = {
            (each["metric"]["instance"], round(float(moment) * 1000)): factor * float(value)
            for each in sent
            for moment, value in each["values"]
        }
        assert len(expected) > 80 and {name for name, _ in expected} == {f"web{k:02}" for k in range(10)}
        missing = [key for key in expected if key not in found]
        assert not missing, f"{len(missing)} of {len(expected)} samples are missing, such as {missing[:3]}"
        assert np.allclose([found[key] for key in expected], list(expected.values()))
    assert set(window.columns) >= set(METRIC_COLUMNS)
