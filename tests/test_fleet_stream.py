"""Does the live stream reach a real HTTP server whole, in order, in time and once?"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from common_utils import iso_z
from data_contract import METRIC_COLUMNS, REQUIRED_COLUMNS, ConfigurationError, DaemonError, DataFileError
from data_validator import load_valid_frame
from fleet_stream import StreamEvent, StreamResult, read_options, stream
from metrics_generator import GeneratorOptions, generate

ROOT = Path(__file__).resolve().parent.parent


class Store:
    """What a daemon keeps: the first row of each (server, timestamp), and every request as it came."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.requests: list[list[dict[str, Any]]] = []
        self.arrivals: list[datetime] = []

    def ingest(self, body: bytes) -> dict[str, Any]:
        rows = json.loads(body)["rows"]
        self.requests.append(rows)
        self.arrivals.append(datetime.now(timezone.utc))
        before = len(self.rows)
        for row in rows:
            self.rows.setdefault((row["server_name"], row["timestamp"]), row)
        new = len(self.rows) - before
        return {"accepted": new, "duplicates": len(rows) - new, "rejected": 0, "errors": []}

    @property
    def moments(self) -> list[datetime]:
        texts = {timestamp for _, timestamp in self.rows}
        return sorted(datetime.fromisoformat(text.replace("Z", "+00:00")) for text in texts)


Answer = tuple[int, Any, dict[str, str]]
Script = Callable[[int, bytes], "Answer | None"]  # what to do with the n-th request; None: store it


@contextlib.contextmanager
def daemon(store: Store, script: Script | None = None, port: int = 0) -> Iterator[str]:
    """A real HTTP server with the daemon's `POST /ingest`."""
    count = iter(range(10**9))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # a connection per request: a daemon that ends leaves none open

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = script(next(count), body) if script is not None else None
            if answer is None:
                answer = (200, store.ingest(body) if self.path == "/ingest" else {}, {})
            status, content, headers = answer
            if status == 0:  # the daemon dies before it has answered
                self.close_connection = True
                return
            text = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        block_on_close = False  # kept-alive connections of the stream are not waited for
        daemon_threads = True

    with Server(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> Path:
    """A small fleet whose file ended three hours ago."""
    folder = tmp_path_factory.mktemp("fleet")
    start = datetime.now(timezone.utc) - timedelta(hours=63)
    generate(GeneratorOptions(servers=9, hours=60, start=start), folder)
    return folder


def play(fleet: Path, url: str, **options: Any) -> tuple[StreamResult, list[StreamEvent]]:
    events: list[StreamEvent] = []
    result = stream(fleet, url, **{"speed": 1e9, "hours": 2, "warmup_hours": 4, **options}, on_event=events.append)
    return result, events


def steps_between(first: datetime, last: datetime) -> list[datetime]:
    return [first + timedelta(minutes=5) * step for step in range((last - first) // timedelta(minutes=5) + 1)]


# ---------------------------------------------------------------------------------------------------------------- rows


def test_every_step_arrives_once_and_in_order(fleet):
    store = Store()
    with daemon(store) as url:
        result, events = play(fleet, url)
    moments = store.moments
    assert moments == steps_between(moments[0], moments[-1]) and len(moments) == 6 * 12
    assert (result.rows, result.accepted, result.duplicates, result.rejected) == (9 * 72, 9 * 72, 0, 0)
    assert len(store.rows) == 9 * 72 and result.newest == moments[-1]
    order = [row["timestamp"] for rows in store.requests for row in rows]
    assert order == sorted(order)
    assert [events[0].kind, events[-1].kind] == ["started", "stopped"]
    assert json.loads(json.dumps(result.as_dict()))["accepted"] == 9 * 72


def test_rows_are_those_of_the_file_and_go_on_after_its_end(fleet):
    store = Store()
    with daemon(store) as url:
        play(fleet, url, hours=24)
    file = load_valid_frame(fleet / "server_metrics.parquet")
    end = file["timestamp"].max().to_pydatetime()
    assert store.moments[0] < end < store.moments[-1]
    known = {
        (row.server_name, row.timestamp.strftime("%Y-%m-%dT%H:%M:%SZ")): row for row in file.itertuples(index=False)
    }
    compared = 0
    for key, row in store.rows.items():
        assert set(row) == set(REQUIRED_COLUMNS)
        if key in known:
            compared += 1
            expected = known[key]
            assert (row["state"], row["profile"]) == (expected.state, expected.profile)
            for metric in METRIC_COLUMNS:
                assert row[metric] == pytest.approx(getattr(expected, metric), abs=1e-4)
    assert compared > 9 * 12 * 20


def test_the_warm_up_is_sent_in_few_requests(fleet):
    store = Store()
    with daemon(store) as url:
        play(fleet, url, warmup_hours=30, hours=1)
    assert len(store.moments) == 31 * 12
    assert max(len(rows) for rows in store.requests) > 1000 and len(store.requests) < 10


def test_nothing_is_ahead_of_the_clock(fleet):
    store = Store()
    with daemon(store) as url:
        play(fleet, url, hours=23)
    for rows, arrived in zip(store.requests, store.arrivals, strict=True):
        newest = max(datetime.fromisoformat(row["timestamp"].replace("Z", "+00:00")) for row in rows)
        assert newest <= arrived


def test_a_speed_above_one_paces_the_steps(fleet):
    store = Store()
    with daemon(store) as url:
        play(fleet, url, speed=6000, hours=1, warmup_hours=1)  # a step every 50 ms
    paced = store.arrivals[1:]
    assert len(store.requests) > 6
    assert (paced[-1] - paced[0]).total_seconds() > 0.9 * 11 * 0.05 - 0.05


def test_servers_in_a_live_scenario_exceed_95_percent(fleet):
    store = Store()
    with daemon(store) as url:
        play(fleet, url, scenario="critical", hours=3)
    newest = store.moments[-1].strftime("%Y-%m-%dT%H:%M:%SZ")
    begin = store.moments[4 * 12].strftime("%Y-%m-%dT%H:%M:%SZ")
    above = {
        when: sum(row["cpu_pct"] > 95 for key, row in store.rows.items() if key[1] == when) for when in (begin, newest)
    }
    assert above[newest] >= 3 > above[begin]


def test_a_step_larger_than_a_request_is_split(fleet, monkeypatch):
    monkeypatch.setattr("fleet_stream._ROWS_PER_REQUEST", 4)
    store = Store()
    with daemon(store) as url:
        result, _ = play(fleet, url, hours=1, warmup_hours=0)
    assert [len(rows) for rows in store.requests] == [4, 4, 1] * 12 and result.accepted == 9 * 12


# ------------------------------------------------------------------------------------------------------------- outages


def test_a_daemon_that_is_not_there_yet_is_waited_for(fleet):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = Store()
    appeared = threading.Event()

    def appear() -> None:
        appeared.wait(30)
        with daemon(store, port=port):
            finished.wait(60)

    finished = threading.Event()
    thread = threading.Thread(target=appear)
    thread.start()
    events: list[StreamEvent] = []

    def note(event: StreamEvent) -> None:
        events.append(event)
        if event.kind == "away":
            appeared.set()

    try:
        result = stream(fleet, f"http://127.0.0.1:{port}", 1e9, hours=1, warmup_hours=1, on_event=note)
    finally:
        appeared.set()
        finished.set()
        thread.join()
    kinds = [event.kind for event in events]
    assert kinds.count("away") == 1 and kinds.index("away") < kinds.index("back") < kinds.index("posted")
    assert result.outages == 1 and len(store.moments) == 24 and result.duplicates == 0


def test_a_daemon_that_goes_away_and_comes_back_misses_nothing_and_gets_nothing_twice(fleet):
    """The daemon goes away after its second answer, for as long as two attempts take, on the same port."""
    store = Store()
    stop, gone, back = threading.Event(), threading.Event(), threading.Event()
    ports: list[int] = []

    def live() -> None:
        with daemon(store, lambda number, _: stop.set() if number == 1 else None) as url:
            ports.append(int(url.rsplit(":", 1)[1]))
            gone.set()
            stop.wait(30)
        back.wait(30)
        with daemon(store, port=ports[0]):
            finished.wait(60)

    finished = threading.Event()
    thread = threading.Thread(target=live)
    thread.start()
    assert gone.wait(10)
    events: list[StreamEvent] = []

    def note(event: StreamEvent) -> None:
        events.append(event)
        if event.kind == "away":
            threading.Timer(0.6, back.set).start()

    try:
        url = f"http://127.0.0.1:{ports[0]}"
        result = stream(fleet, url, 3000, hours=3, warmup_hours=1, on_event=note)  # a step every 100 ms
    finally:
        for event in (stop, back, finished):
            event.set()
        thread.join()
    assert result.outages >= 1 and "back" in [event.kind for event in events]
    assert store.moments == steps_between(store.moments[0], store.moments[-1]) and len(store.moments) == 48
    assert len(store.rows) == 9 * 48 == result.accepted
    assert sum(len(rows) for rows in store.requests) == 9 * 48


def test_rows_whose_acknowledgement_was_lost_are_posted_again(fleet):
    """The daemon stores the rows of its first request and dies before it has answered."""
    store = Store()

    def die_once(number: int, body: bytes) -> Answer | None:
        if number == 0:
            store.ingest(body)
            return (0, b"", {})
        return None

    with daemon(store, die_once) as url:
        result, _ = play(fleet, url, hours=1, warmup_hours=1)
    assert result.outages == 1 and len(store.rows) == 9 * 24 == result.accepted + result.duplicates
    assert result.duplicates > 0 and store.requests[0] == store.requests[1]


@pytest.mark.parametrize(("status", "headers"), [(503, {}), (500, {}), (429, {"retry-after": "0.1"}), (429, {})])
def test_answers_that_pass_are_waited_out(fleet, status, headers):
    store = Store()
    with daemon(store, lambda number, _: (status, {"title": "busy"}, headers) if number < 2 else None) as url:
        result, events = play(fleet, url, hours=1, warmup_hours=0)
    assert [event.kind for event in events].count("away") == 1 and str(status) in events[1].message
    assert result.accepted == 9 * 12 and result.duplicates == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, b"not here", {}), "404"),
        ((401, {"what": "an API key is needed"}, {}), "an API key is needed"),
        ((422, {"title": "refused", "detail": "all rows are ahead of the clock"}, {}), "ahead of the clock"),
        ((200, b"<html>hello</html>", {}), "something else"),
        ((200, {"hello": 1}, {}), "something else"),
    ],
)
def test_a_refusal_or_another_service_stops_the_stream_with_the_reason(fleet, answer, words):
    with daemon(Store(), lambda *_: answer) as url, pytest.raises(DaemonError, match=words) as caught:
        play(fleet, url)
    assert caught.value.fix and url in caught.value.what


def test_single_refused_rows_are_told_and_counted(fleet):
    store = Store()

    def refuse_one(_: int, body: bytes) -> Answer:
        answer = store.ingest(body)
        error = {"row": 0, "server_name": "ppweb001", "what": "cpu_pct is 140"}
        return (200, {**answer, "accepted": answer["accepted"] - 1, "rejected": 1, "errors": [error]}, {})

    with daemon(store, refuse_one) as url:
        result, events = play(fleet, url, hours=1, warmup_hours=0)
    told = [event for event in events if event.kind == "rejected"]
    assert len(told) == result.rejected > 0 and "cpu_pct is 140" in told[0].message


@contextlib.contextmanager
def real_daemon(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """The product's own daemon, without a model, with its history in `folder`."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tft_inference.py"), "--daemon", "--port", str(port), "--model-dir", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TFT_HISTORY_DIR": str(folder / "history")},
    )
    try:
        assert process.stdout is not None
        assert "Listening" in process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_product_s_daemon_killed_in_mid_stream_has_every_row_in_the_end(fleet, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    posted, away, finished = threading.Event(), threading.Event(), threading.Event()

    def live_twice() -> None:
        with real_daemon(tmp_path, port) as process:
            posted.wait(60)
            process.send_signal(signal.SIGKILL)
        away.wait(30)
        with real_daemon(tmp_path, port):
            finished.wait(120)

    thread = threading.Thread(target=live_twice)
    thread.start()

    def note(event: StreamEvent) -> None:
        if event.kind == "posted":
            posted.set()
        if event.kind == "away" and posted.is_set():
            away.set()

    try:
        result = stream(fleet, url, 6000, hours=4, warmup_hours=8, on_event=note)  # a step every 50 ms
        with httpx2.Client(base_url=url, trust_env=False) as client:
            history = client.get("/status").json()["history"]
    finally:
        for event in (posted, away, finished):
            event.set()
        thread.join()
    assert away.is_set() and result.outages >= 1 and result.rejected == 0
    assert history["rows"] == 9 * 12 * 12 == result.accepted + result.duplicates
    assert history["newest"] == iso_z(result.newest)


# ---------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    "wrong",
    [{"speed": 0.5}, {"speed": float("nan")}, {"hours": 0}, {"hours": -1}, {"warmup_hours": -1}, {"scenario": "fire"}],
)
def test_wrong_options_are_named(fleet, wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        play(fleet, "http://127.0.0.1:1", **wrong)


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1:1", "127.0.0.1:8000", "http://[", "http://127.0.0.1:99999", "http://127.0.0.1:0", "http://", ""],
)
def test_an_address_that_is_none_is_named(fleet, url):
    with pytest.raises(ConfigurationError, match="url"):
        play(fleet, url)


def test_an_address_with_odd_characters_stops_the_stream(fleet):
    with pytest.raises(DaemonError):
        play(fleet, "http://127.0.0.1:1/\x00")


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"[]",
        b'{"source": "imported"}',
        b'{"source": "generated"}',
        b'{"source": "generated", "simulation_version": 0}',
    ],
)
def test_a_folder_without_a_generated_fleet_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics_metadata.json").write_bytes(content)
    with pytest.raises(DataFileError, match=r"metrics_metadata\.json"):
        play(tmp_path, "http://127.0.0.1:1")


def test_a_fleet_of_the_future_is_refused(tmp_path):
    generate(GeneratorOptions(servers=1, hours=24, start=datetime.now(timezone.utc) + timedelta(days=2)), tmp_path)
    with pytest.raises(DataFileError, match="future"):
        play(tmp_path, "http://127.0.0.1:1")


def test_options_come_back_from_the_metadata_as_they_were(tmp_path):
    options = GeneratorOptions(
        servers=3, hours=25, interval_seconds=60, seed=9, offline_mode="sparse", scenario="degrading"
    )
    generate(options, tmp_path)
    assert read_options(tmp_path) == options


# ------------------------------------------------------------------------------------------------------------ real time


@contextlib.contextmanager
def stream_process(fleet: Path, url: str, *before: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [
            *before,
            sys.executable,
            str(ROOT / "main.py"),
            *("generate", "--stream", "--out_dir", str(fleet), "--url", url, "--warmup_hours", "2"),
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # faketime has a child of its own
        process.communicate()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_stops_a_live_stream_that_has_reached_the_present(fleet):
    store = Store()
    with daemon(store) as url, stream_process(fleet, url) as process:
        wait_until(lambda: bool(store.rows), process)
        time.sleep(0.5)  # it now waits for the next step
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    age = datetime.now(timezone.utc) - store.moments[-1]
    assert timedelta(0) <= age < timedelta(minutes=6)
    assert "Traceback" not in stderr and "are stored" in stderr
    assert len(store.rows) == 9 * len(store.moments) and store.moments == steps_between(
        store.moments[0], store.moments[-1]
    )


@pytest.mark.skipif(shutil.which("faketime") is None, reason="needs Debian's faketime: a minute passes in a second")
def test_in_real_time_each_step_is_posted_when_its_time_has_come(fleet):
    """The stream's clock runs 300 times as fast: a step of 5 minutes each second."""
    store = Store()
    with daemon(store) as url, stream_process(fleet, url, "faketime", "-f", "+0 x300") as process:
        wait_until(lambda: len(store.requests) >= 5, process)
    live = store.requests[1:5]
    assert all(len({row["timestamp"] for row in rows}) == 1 and len(rows) == 9 for rows in live)
    assert store.moments == steps_between(store.moments[0], store.moments[-1])
    gaps = [
        (after - before).total_seconds() for before, after in zip(store.arrivals[1:4], store.arrivals[2:5], strict=True)
    ]
    assert min(gaps) > 0.3  # they do not come all at once
