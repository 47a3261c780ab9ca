"""The daemon as it runs in production: a process of its own, spoken to over TCP, stopped and killed by signals."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import pandas as pd
import pytest
from conftest import FLEET, make_fleet, write_fleet
from made_certificate import make_certificate
from pydantic import SecretStr
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import daemon_schemas as schemas
from api_keys import create_key, revoke_key
from common_utils import floor_to_step, utc_now
from dashboard_answers import Wanted
from dashboard_fetch import Connection, fetch_snapshot, open_client
from data_contract import MODEL_FILES, TIMESTAMP
from history_store import HistoryStore

ROOT = Path(schemas.__file__).parent
NOW = floor_to_step(utc_now(), 5)
START_SECONDS = 120.0  # torch is imported; other work may go on on the machine


class Process:
    """One run of `python tft_inference.py --daemon` in a folder of its own."""

    def __init__(self, folder: Path, model_dir: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._stderr = (folder / "daemon.log").open("ab")
        script = str(ROOT / "tft_inference.py")
        self._process = subprocess.Popen(
            [sys.executable, script, "--daemon", "--port", "0", "--model-dir", str(model_dir), *arguments],
            cwd=folder,
            env={
                **os.environ,
                "TFT_DAEMON_SETTLE_SECONDS": "0.1",
                "TFT_MODEL_CHECK_SECONDS": "0.2",
                "TFT_RATE_LIMIT_PER_SECOND": "100000",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        self.url = ""
        self.verify: Any = True  # or what knows the certificate that it was given

    def wait_until_listening(self) -> None:
        assert self._process.stdout is not None
        watchdog = threading.Timer(START_SECONDS, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        found = re.match(r"Listening on (https?://\S+)", line)
        assert found, f"{line!r}\n{self.log()}"
        self.url = found[1]
        self.client = httpx2.Client(base_url=self.url, timeout=30.0, trust_env=False, verify=self.verify)

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = 60.0) -> int:
        return self._process.wait(seconds)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stderr.close()
        if self.url:
            self.client.close()

    def get(self, path: str) -> Any:
        response = self.client.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, rows: list[dict[str, Any]]) -> Any:
        response = self.client.post("/ingest", json={"rows": rows})
        assert response.status_code == 200, response.text
        return response.json()


@contextmanager
def daemon(folder: Path, model_dir: Path, *arguments: str, **environment: str) -> Iterator[Process]:
    process = Process(folder, model_dir, *arguments, **environment)
    try:
        process.wait_until_listening()
        yield process
    finally:
        process.end()


def run_to_the_end(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tft_inference.py"), "--daemon", *arguments]
    settings = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=folder, env=settings, capture_output=True, text=True, timeout=START_SECONDS, check=False
    )


def wait_for(answer: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = answer()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("nothing happened in time")


def json_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.astype({TIMESTAMP: str}).to_dict("records")


def row(name: str, minutes_ago: float, cpu_pct: float = 41.5) -> dict[str, Any]:
    return {
        "timestamp": (NOW - timedelta(minutes=minutes_ago)).isoformat(),
        "server_name": name,
        "cpu_pct": cpu_pct,
    }


def slow_request(process: Process, body: bytes, sent: int) -> socket.socket:
    """A POST /ingest of which only the first bytes of the body are sent."""
    address = urlsplit(process.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=30)
    head = f"POST /ingest HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body[:sent])
    return connection


def never_reading_websocket(process: Process) -> socket.socket:
    address = urlsplit(process.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=30)
    head = "GET /ws/predictions HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    connection.sendall(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n\r\n".encode())
    assert connection.recv(12) == b"HTTP/1.1 101"
    return connection


def read_all(connection: socket.socket) -> str:
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_answers_are_sent_at_once() -> None:
    """Without TCP_NODELAY, which asyncio sets where the protocol is named, a second request waits 40 ms."""
    from tft_inference import _bound_socket

    with _bound_socket("127.0.0.1", 0, may_be_open=False) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_life_of_a_daemon(tmp_path: Path, tiny_model_dir: Path) -> None:
    """History in, every route out, an unknown server, a stop, and the same again after a restart."""
    folder = tmp_path / "life"
    fleet = make_fleet(hours=40, end=NOW)
    with daemon(folder, tiny_model_dir) as process:
        assert process.get("/health") == {"status": "ok", "model_loaded": True}
        schemas.CurrentPredictions.model_validate(process.get("/predictions/current"))
        with connect(process.url.replace("http", "ws") + "/ws/predictions", open_timeout=30) as stream:
            assert json.loads(stream.recv(timeout=30))["count"] == 0
            assert process.post(json_rows(fleet))["accepted"] == len(fleet)
            pushed = json.loads(stream.recv(timeout=60))
        assert (pushed["type"], pushed["count"]) == ("predictions", len(FLEET))

        odd = "rack 7/ä%2Fb?#"
        assert process.post([row(odd, 5), row("mail.example.org", 5)])["accepted"] == 2
        wait_for(lambda: process.get("/status")["unknown_servers"]["count"] == 2)
        current = process.get("/predictions/current")
        schemas.CurrentPredictions.model_validate(current)
        assert {each["server_name"] for each in current["predictions"]} == {*FLEET, odd, "mail.example.org"}
        for name in (*FLEET, odd):
            prediction = process.get(f"/predictions/{quote(name, safe='')}")
            schemas.ServerPrediction.model_validate(prediction)
            assert prediction["server_name"] == name
            schemas.History.model_validate(process.get(f"/history/{quote(name, safe='')}?hours=3"))
        schemas.ActiveAlerts.model_validate(process.get("/alerts/active"))
        schemas.Status.model_validate(process.get("/status"))
        assert process.get("/readyz") == {"status": "ready"} and process.get("/livez") == {"status": "ok"}

        answer = process.client.get("/predictions/current", headers={"X-Request-ID": "night-shift-1"})
        line = wait_for(lambda: next((line for line in process.log().splitlines() if "night-shift-1" in line), None))
        assert answer.json()["model"]["name"] in line and "/predictions/current" in line
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.log()
        assert "Traceback" not in process.log()

    with daemon(folder, tiny_model_dir) as process:
        status = process.get("/status")
        assert status["history"]["rows"] == len(fleet) + 2 and status["history"]["set_aside"] is None
        assert process.get("/predictions/current")["predictions"] == current["predictions"]
        process.signal(signal.SIGINT)
        assert process.wait() == 0, process.log()


def test_killed_at_any_moment_it_has_every_row_that_it_acknowledged(tmp_path: Path) -> None:
    acknowledged: set[tuple[str, float]] = set()
    numbers = itertools.count()

    def post_until_it_dies(process: Process, name: str) -> None:
        with httpx2.Client(base_url=process.url, timeout=30.0, trust_env=False) as client:
            while True:
                first = next(numbers) * 20
                rows = [row(name, minutes_ago=0.01 * number) for number in range(first, first + 20)]
                try:
                    answer = client.post("/ingest", json=rows)
                except httpx2.TransportError:
                    return
                assert answer.json()["accepted"] == 20
                acknowledged.update((name, 0.01 * number) for number in range(first, first + 20))

    for seconds in (0.2, 0.7, 1.1):
        with daemon(tmp_path, tmp_path / "no_model") as process, ThreadPoolExecutor(4) as pool:
            posting = [pool.submit(post_until_it_dies, process, f"host{number}") for number in range(4)]
            enough = len(acknowledged) + 20
            wait_for(lambda enough=enough: len(acknowledged) >= enough)
            time.sleep(seconds)  # where in its work it is hit does not matter
            process.signal(signal.SIGKILL)
            for each in posting:
                each.result()
    with HistoryStore(tmp_path / "history") as store:
        assert store.set_aside is None
        frame = store.window()
    found = set(zip(frame["server_name"], ((NOW - frame[TIMESTAMP]) / pd.Timedelta(minutes=1)).round(2), strict=True))
    assert {(name, round(minutes, 2)) for name, minutes in acknowledged} <= found
    assert len(found) == len(frame), "no row is there twice"


def test_rows_that_several_clients_post_at_once_are_accepted_once(tmp_path: Path) -> None:
    rows = [row(f"host{number % 7}", 5 * (number // 7)) for number in range(700)]
    with daemon(tmp_path, tmp_path / "no_model") as process:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: process.post(rows), range(24)))
        assert sum(answer["accepted"] for answer in answers) == 700
        assert sum(answer["duplicates"] for answer in answers) == 23 * 700
        assert process.get("/status")["history"]["rows"] == 700


def test_what_is_under_way_is_finished_before_it_stops(tmp_path: Path) -> None:
    body = json.dumps([row("host1", 5)]).encode()
    with daemon(tmp_path, tmp_path / "no_model") as process:
        connection = slow_request(process, body, sent=10)
        wait_for(lambda: process.get("/health"))
        process.signal(signal.SIGTERM)
        time.sleep(0.3)  # it knows, and has one request left
        connection.sendall(body[10:])
        answer = read_all(connection)
        assert answer.startswith("HTTP/1.1 200") and '"accepted":1' in answer
        assert process.wait() == 0, process.log()
    with HistoryStore(tmp_path / "history") as store:
        assert store.rows == 1


def test_slow_silent_and_deaf_clients_neither_hold_others_up_nor_keep_it_from_stopping(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    body = json.dumps([row("host1", 5)]).encode()
    with daemon(tmp_path, tiny_model_dir, TFT_BODY_TIMEOUT_SECONDS="0.5") as process:
        address = urlsplit(process.url)
        silent = [socket.create_connection((address.hostname, address.port)) for _ in range(100)]
        deaf = [never_reading_websocket(process) for _ in range(10)]
        slow = slow_request(process, body, sent=10)
        assert process.post(json_rows(make_fleet(hours=24, end=NOW)))["accepted"]
        wait_for(lambda: process.get("/predictions/current")["count"] == len(FLEET))
        assert read_all(slow).startswith("HTTP/1.1 408")
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.log()
        for connection in (*silent, *deaf):
            connection.close()


def test_a_signal_while_it_starts_ends_it_with_0(tmp_path: Path, tiny_model_dir: Path) -> None:
    data = write_fleet(tmp_path / "data.parquet", make_fleet(hours=40, end=NOW))
    process = Process(tmp_path, tiny_model_dir, "--data", str(data))
    try:
        wait_for(lambda: "file taken in" in process.log(), START_SECONDS)  # and now it loads the model
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.log()
        assert "Traceback" not in process.log()
    finally:
        process.end()


def test_a_data_file_is_served_without_a_live_feed(tmp_path: Path, tiny_model_dir: Path) -> None:
    data = write_fleet(tmp_path / "data.parquet", make_fleet(hours=40, end=NOW - timedelta(days=400)))
    with daemon(tmp_path, tiny_model_dir, "--data", str(data)) as process:
        current = process.get("/predictions/current")
        assert current["count"] == len(FLEET) and current["stale"] is True
        assert current["data_age_seconds"] > 399 * 86_400


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--host", "0.0.0.0"], 1, "keys create"),
        (["--host", "::"], 1, "TFT_ALLOW_OPEN_BIND"),
        (["--data", "absent.parquet"], 1, "absent.parquet"),
        (["--port", "70000"], 2, "65535"),
        (["--no-such-option"], 2, "--no-such-option"),
    ],
)
def test_what_keeps_it_from_starting_is_told(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    ended = run_to_the_end(tmp_path, *arguments)
    assert ended.returncode == code and says in ended.stderr and "Traceback" not in ended.stderr
    if code == 1:
        assert all(part in ended.stderr for part in ("Why it matters", "To fix it", "More information"))


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_model_folder_without_one_of_its_files_keeps_it_from_starting(tmp_path: Path, name: str) -> None:
    model_dir = tmp_path / "model"
    model_dir.mkdir()
    for each in set(MODEL_FILES) - {name}:
        (model_dir / each).write_text("{}")
    ended = run_to_the_end(tmp_path, "--port", "0", "--model-dir", str(model_dir))
    assert ended.returncode == 1 and f"`{name}` is missing" in ended.stderr and "Traceback" not in ended.stderr
    assert all(part in ended.stderr for part in ("Why it matters", "To fix it", "More information"))
    assert "Listening" not in ended.stdout


def test_an_address_that_is_not_this_machines_is_told(tmp_path: Path) -> None:
    ended = run_to_the_end(tmp_path, "--host", "192.0.2.1", TFT_ALLOW_OPEN_BIND="true")
    assert ended.returncode == 1 and "cannot listen on 192.0.2.1" in ended.stderr and "To fix it" in ended.stderr


def test_with_leave_it_listens_to_the_network(tmp_path: Path) -> None:
    arguments = ("--host", "0.0.0.0")
    with daemon(tmp_path, tmp_path / "no_model", *arguments, TFT_ALLOW_OPEN_BIND="true") as process:
        process.client.base_url = process.url.replace("0.0.0.0", "127.0.0.1")
        assert process.get("/livez") == {"status": "ok"}


def test_a_second_daemon_on_the_same_port_or_history_is_refused(tmp_path: Path) -> None:
    with daemon(tmp_path, tmp_path / "no_model") as process:
        same_port = run_to_the_end(tmp_path, "--port", str(urlsplit(process.url).port))
        assert same_port.returncode == 1 and "cannot listen" in same_port.stderr
        same_history = run_to_the_end(tmp_path, "--port", "0")
        assert same_history.returncode == 1 and "in use by another process" in same_history.stderr
        assert process.post([row("host1", 5)])["accepted"] == 1


# ----------------------------------------------------------------------------------------------------------------- keys
def test_keys_are_asked_for_rotated_and_never_written_down(tmp_path: Path) -> None:
    """Every way a key may come in, right and wrong, with all that is logged at DEBUG."""
    keys_file = tmp_path / "api_keys.json"
    (reader, stored), (writer, _) = (create_key(keys_file, scope, scope) for scope in ("read", "write"))
    wrong = reader[:-4] + "AAAA"
    with daemon(tmp_path, tmp_path / "no_model", TFT_LOG_LEVEL="DEBUG") as process:

        def status(**headers: str) -> int:
            response = process.client.get("/status", headers=headers)
            assert not any(key in response.text or key in str(response.headers) for key in (reader, writer, wrong))
            return response.status_code

        assert process.get("/health")["status"] == "ok"
        bearer = {"Authorization": f"Bearer {reader}"}
        assert status(**bearer) == 200 and status(**{"X-API-Key": reader}) == 200
        assert status() == 401 and status(**{"X-API-Key": wrong}) == 401
        assert status(**{"X-API-Key": writer, "X-Request-ID": writer}) == 200
        for path in (f"/predictions/{reader}", f"/status?api_key={reader}", f"/api/v1/{writer}"):
            assert process.client.get(path, headers=bearer).status_code in {200, 404, 503}
        body = {"rows": [row("host1", 5)]}
        assert process.client.post("/ingest", json=body, headers=bearer).status_code == 403
        assert process.client.post("/ingest", json=body, headers={"X-API-Key": writer}).status_code == 200
        address = process.url.replace("http", "ws") + "/ws/predictions"
        with connect(address, subprotocols=["tft.v1", f"tft.key.{reader}"]) as stream:  # type: ignore[list-item]
            assert stream.subprotocol == "tft.v1"
        with pytest.raises(InvalidStatus, match="401"), connect(address):
            pass

        status_command = run_main(tmp_path, "status", "--json", TFT_DAEMON_URL=process.url, TFT_API_KEY=reader)
        assert json.loads(status_command.stdout)["daemon"]["ok"] is True
        keyless = run_main(tmp_path, "status", "--json", TFT_DAEMON_URL=process.url)
        assert "TFT_API_KEY" in json.loads(keyless.stdout)["daemon"]["problem"]

        for key, kind in ((reader, "no_model"), (wrong, "unauthorised")):
            with open_client(process.url, 30.0, SecretStr(key)) as dashboard:
                problem = fetch_snapshot(Connection(dashboard, process.url), Wanted(("status", "current"))).problem
            assert problem is not None and problem.condition == kind
        fleet = ("--servers", "2", "--out_dir", "fleet")
        assert run_main(tmp_path, "generate", *fleet, "--hours", "24").returncode == 0
        stream_flags = (
            "generate",
            "--stream",
            *fleet,
            "--hours",
            "24",
            "--speed",
            "1000000",
            "--url",
            process.url,
            "--json",
        )
        streamed = run_main(tmp_path, *stream_flags, TFT_API_KEY=writer)
        assert streamed.returncode == 0 and json.loads(streamed.stdout)["accepted"] > 0, streamed.stderr
        refused = run_main(tmp_path, *stream_flags, TFT_API_KEY=reader)
        assert refused.returncode == 1 and "scope write" in refused.stderr and reader not in refused.stderr

        revoke_key(keys_file, stored.id)
        wait_for(lambda: status(**bearer) == 401)
        newer, _ = create_key(keys_file, "read again", "read")
        wait_for(lambda: status(**{"X-API-Key": newer}) == 200)
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.log()
        log = process.log()
    assert stored.id in log and "/predictions/tft_" in log, "who asked is told, and the path without its secret"
    for key in (reader, writer, wrong, newer):
        assert key not in log and key.split("_", 2)[2] not in log
    for sha256 in re.findall(r'"sha256": "(\w+)"', keys_file.read_text()):
        assert sha256 not in log


def test_with_keys_it_listens_to_the_network(tmp_path: Path) -> None:
    create_key(tmp_path / "api_keys.json", "admin", "admin")
    with daemon(tmp_path, tmp_path / "no_model", "--host", "0.0.0.0") as process:
        process.client.base_url = process.url.replace("0.0.0.0", "127.0.0.1")
        assert process.get("/livez") == {"status": "ok"}
        assert process.client.get("/status").status_code == 401


def test_a_damaged_file_of_keys_keeps_it_from_starting(tmp_path: Path) -> None:
    (tmp_path / "api_keys.json").write_text("{")
    ended = run_to_the_end(tmp_path, "--port", "0")
    assert ended.returncode == 1 and "api_keys.json cannot be used" in ended.stderr and "To fix it" in ended.stderr
    named = run_to_the_end(tmp_path, "--port", "0", TFT_API_KEYS_FILE="absent.json")
    assert named.returncode == 1 and "absent.json" in named.stderr


def run_main(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    settings = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=60, check=False)


# ------------------------------------------------------------------------------------------------------------------ TLS
@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_it_speaks_https_with_a_certificate(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    flags = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    process = Process(tmp_path, tmp_path / "no_model", *flags)
    try:
        process.verify = ssl.create_default_context(cafile=str(certificate[0]))
        process.wait_until_listening()
        assert process.url.startswith("https://") and process.get("/livez") == {"status": "ok"}
        with pytest.raises(httpx2.TransportError):
            httpx2.get(process.url.replace("https", "http") + "/livez", trust_env=False)
        process.client.close()  # TLS says goodbye on both sides, and this one would not
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.log()
    finally:
        process.end()


def test_a_certificate_that_cannot_be_used_is_told(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = map(str, certificate)
    locked = tmp_path / "locked.pem"
    lock = ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked]
    subprocess.run(lock, check=True, capture_output=True)
    for flags, code, says in (
        (("--tls-cert", cert, "--tls-key", "absent.pem"), 1, "No such file"),
        (("--tls-cert", key, "--tls-key", key), 1, "HTTPS"),
        (("--tls-cert", cert, "--tls-key", str(locked)), 1, "HTTPS"),
        (("--tls-cert", cert), 1, "belong together"),
    ):
        ended = run_to_the_end(tmp_path, "--port", "0", *flags)
        assert ended.returncode == code and says in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
        assert "To fix it" in ended.stderr
