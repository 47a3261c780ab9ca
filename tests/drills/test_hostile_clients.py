"""Clients that are slow, endless, deaf, many or mad: while they try, others are answered, and what they hold is let go.

A real daemon in a process of its own. What decides is what happens, never how long it takes.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import numpy as np
import psutil
import pyarrow as pa
import pytest
from conftest import FLEET, make_fleet
from test_daemon_process import (
    NOW,
    Process,
    daemon,
    json_rows,
    never_reading_websocket,
    read_all,
    row,
    slow_request,
    wait_for,
)
from test_tft_inference import assert_problem

HEAD = b"POST /ingest HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def process(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A daemon that forecasts a fleet and is impatient."""
    limits = {
        "TFT_CLIENT_TIMEOUT_SECONDS": "1",
        "TFT_BODY_TIMEOUT_SECONDS": "2",
        "TFT_MAX_BODY_MB": "1",
        "TFT_MAX_WEBSOCKETS": "8",
    }
    with daemon(tmp_path_factory.mktemp("hostile"), tiny_model_dir, **limits) as process:
        fleet = make_fleet(hours=24, end=NOW)
        for first in range(0, len(fleet), 1000):
            process.post(json_rows(fleet.iloc[first : first + 1000]))
        wait_for(lambda: process.get("/predictions/current")["count"] == len(FLEET))
        yield process


@pytest.fixture(autouse=True)
def _others_are_answered_all_the_while(process: Process) -> Iterator[None]:
    """Another client asks from the first to the last moment of each test."""
    stop, answered, faults = threading.Event(), threading.Event(), []

    def ask() -> None:
        try:
            with httpx2.Client(base_url=process.url, timeout=30.0, trust_env=False) as client:
                is_last = False
                while not is_last:
                    is_last = stop.wait(0.02)
                    response = client.get("/predictions/current")
                    if response.status_code != 200 or response.json()["count"] < len(FLEET):
                        faults.append(response.text[:300])
                    answered.set()
        except Exception as error:  # noqa: BLE001 - told by the test's own thread
            faults.append(repr(error))

    asking = threading.Thread(target=ask)
    asking.start()
    assert answered.wait(60)
    yield
    stop.set()
    asking.join(60)
    assert not asking.is_alive() and faults == []
    assert "Traceback" not in process.log()


def connected(process: Process) -> socket.socket:
    address = urlsplit(process.url)
    return socket.create_connection((address.hostname, address.port), timeout=60)


def dripped(connection: socket.socket, pieces: Iterator[bytes]) -> str:
    """Send pieces until the other side has closed; what it said."""
    heard = b""
    connection.settimeout(0.05)
    with connection:
        while True:
            with contextlib.suppress(TimeoutError):
                try:
                    more = connection.recv(65536)
                except ConnectionError:
                    return heard.decode()
                if not more:
                    return heard.decode()
                heard += more
            with contextlib.suppress(ConnectionError, TimeoutError):
                connection.sendall(next(pieces))


def problem_in(answer: str) -> dict[str, Any]:
    """Content of the first answer on a connection."""
    head, _, body = answer.partition("\r\n\r\n")
    assert "application/problem+json" in head, answer
    length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None, head
    problem: dict[str, Any] = json.loads(body.encode()[: int(length[1])])
    return problem


# --------------------------------------------------------------------------------------------------------- slow clients
def test_a_head_that_comes_byte_by_byte_is_answered_408(process: Process) -> None:
    head = b"GET /predictions/current HTTP/1.1\r\nHost: x\r\n" + b"X-Filler: a\r\n" * 10_000
    answer = dripped(connected(process), (bytes([byte]) for byte in head))
    assert answer.startswith("HTTP/1.1 408") and problem_in(answer)["type"] == "urn:tft:problem:too-slow"


def test_a_connection_that_says_nothing_is_closed(process: Process) -> None:
    assert read_all(connected(process)).startswith("HTTP/1.1 408")


def test_a_second_head_on_a_connection_has_no_more_time_than_the_first(process: Process) -> None:
    connection = connected(process)
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nX-")
    answer = dripped(connection, itertools.repeat(b"a"))
    assert answer.startswith("HTTP/1.1 200") and "HTTP/1.1 408" in answer


def test_a_body_that_comes_byte_by_byte_is_answered_408(process: Process) -> None:
    connection = slow_request(process, b" " * 100_000, sent=10)
    answer = dripped(connection, itertools.repeat(b" "))
    assert answer.startswith("HTTP/1.1 408") and problem_in(answer)["type"] == "urn:tft:problem:too-slow"


@pytest.mark.parametrize("path", ["/predictions/current", "/no/such/route", "/models/reload", "/status"])
def test_a_body_that_nobody_asked_for_is_not_listened_to_for_ever(process: Process, path: str) -> None:
    method = b"POST" if path == "/models/reload" else b"GET"
    connection = connected(process)
    connection.sendall(method + b" " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    answer = dripped(connection, itertools.repeat(b"a"))
    assert answer.startswith("HTTP/1.1 404" if "no" in path.split("/") else "HTTP/1.1 200")


# ------------------------------------------------------------------------------------------------------- endless bodies
def test_an_endless_body_is_cut_off(process: Process) -> None:
    connection = connected(process)
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with contextlib.suppress(ConnectionError, TimeoutError):
        for _ in range(10_000):
            connection.sendall(chunk)
        pytest.fail("600 MB were taken of a body of at most 1 MB")
    connection.close()


def test_a_body_that_is_announced_too_large_is_not_read(process: Process) -> None:
    connection = connected(process)
    connection.sendall(HEAD + b"Content-Length: 99999999999999999999\r\n\r\n")
    assert read_all(connection).startswith("HTTP/1.1 413")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd", "br", "gzip, gzip"])
def test_a_compressed_bomb_is_not_unpacked(process: Process, coding: str) -> None:
    bomb = gzip.compress(b" " * 100_000_000)
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    assert_problem(process.client.post("/ingest", content=bomb, headers=headers), 415, "not-json")


def test_an_arrow_bomb_is_not_unpacked(process: Process) -> None:
    before = psutil.Process(process._process.pid).memory_info().rss
    count = 3_000_000
    rows = pa.table(
        {
            "timestamp": pa.array(np.zeros(count, dtype="datetime64[ms]")),
            "server_name": pa.DictionaryArray.from_arrays(np.zeros(count, dtype=np.int32), ["a"]),
            "cpu_pct": np.zeros(count),
        }
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(rows)
    headers = {"Content-Type": "application/vnd.apache.arrow.stream"}
    answer = process.client.post("/ingest", content=sink.getvalue(), headers=headers)
    assert len(sink.getvalue()) < 1_000_000 and answer.status_code == 413, answer.text
    assert psutil.Process(process._process.pid).memory_info().rss - before < 50_000_000


# ----------------------------------------------------------------------------------------- many, and those who are deaf
def test_500_idle_sockets_take_nobodys_place(process: Process) -> None:
    idle = [connected(process) for _ in range(500)]
    assert process.get("/predictions/current")["count"] >= len(FLEET)
    for connection in idle:
        assert read_all(connection).startswith("HTTP/1.1 408")
    daemon_of = psutil.Process(process._process.pid)
    wait_for(lambda: daemon_of.num_fds() < 100)


def test_more_connections_than_there_may_be_make_room_for_each_other(tmp_path: Path, tiny_model_dir: Path) -> None:
    limits = {"TFT_MAX_CONNECTIONS": "20", "TFT_CLIENT_TIMEOUT_SECONDS": "600"}
    with daemon(tmp_path, tiny_model_dir, **limits) as small:
        idle = [connected(small) for _ in range(100)]
        for _ in range(3):
            with httpx2.Client(base_url=small.url, timeout=30.0, trust_env=False) as client:
                assert client.get("/predictions/current").status_code == 200
        closed = []
        for connection in idle[:70]:
            with contextlib.suppress(ConnectionResetError):
                connection.settimeout(30)
                closed.append(connection.recv(1))
        assert set(closed) <= {b""}, "those who had waited longest made room"
        for connection in idle:
            connection.close()


def test_who_asks_much_and_reads_nothing_is_let_go(process: Process) -> None:
    connection = connected(process)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    before = psutil.Process(process._process.pid).memory_info().rss
    connection.settimeout(5)
    request = b"GET /predictions/current HTTP/1.1\r\nHost: x\r\n\r\n"
    with contextlib.suppress(ConnectionError, TimeoutError):  # it stops reading when it cannot write
        for _ in range(20_000):
            connection.sendall(request)
    wait_for(lambda: "answer not read" in process.log())
    assert psutil.Process(process._process.pid).memory_info().rss - before < 50_000_000
    connection.close()


def test_a_websocket_that_never_reads_holds_nobody_up(process: Process) -> None:
    deaf = [never_reading_websocket(process) for _ in range(8)]
    refused = process.client.get(
        "/ws/predictions",
        headers={"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        | {"Sec-WebSocket-Key": "A" * 22 + "=="},
    )
    assert_problem(refused, 503, "too-many-clients")
    before = process.get("/status")["forecasts"]["count"]
    process.post([row("ppweb001", 0.5)])
    wait_for(lambda: process.get("/status")["forecasts"]["count"] > before)
    for connection in deaf:
        connection.close()


def test_a_websocket_that_floods_is_closed(process: Process) -> None:
    connection = never_reading_websocket(process)
    frame = b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0"  # announces a terabyte
    with contextlib.suppress(ConnectionError, TimeoutError):
        connection.sendall(frame)
        for _ in range(1_000):
            connection.sendall(b"\0" * 65536)
        pytest.fail("64 MB were taken of a message of at most 64 kB")
    connection.close()


# ------------------------------------------------------------------------------------------------------------ mad input
@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,  # TLS
        b"\0" * 1000 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"GET / HTTP/1.1\r\n\r\n",  # without a host
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Filler: " + b"a" * 200_000 + b"\r\n\r\n",
    ],
    ids=range(10),
)
def test_what_is_no_http_is_a_problem_like_any_other(process: Process, sent: bytes) -> None:
    connection = connected(process)
    with contextlib.suppress(ConnectionError):
        connection.sendall(sent)
    try:
        answer = read_all(connection)
    except ConnectionResetError:
        return  # it had stopped reading; the answer was lost on the way
    assert answer.startswith(("HTTP/1.1 400", "HTTP/1.1 404", "HTTP/1.1 408")), answer[:100]
    assert problem_in(answer)["fix"]


def test_garbage_after_an_answered_request_ends_the_connection(process: Process) -> None:
    connection = connected(process)
    connection.sendall(b"POST /models/reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert connection.recv(12) == b"HTTP/1.1 200"
    with contextlib.suppress(ConnectionError):
        connection.sendall(b"no chunk at all\r\n" * 10)
        read_all(connection)


HOSTILE_NAMES = {
    "markup": "<script>alert('x')</script><img src=x onerror=alert(1)>",
    "quotes": "\"';--{{7*7}}${jndi:ldap://x}",
    "right to left": "\u202eevil\u202c \u05e9\u05e8\u05ea \u0633\u0631\u0641\u0631",
    "combining": "a" + "\u0301" * 200,
    "astral": "\U0001f525" * 60,
    "path": "../../../../etc/passwd",
    "format": "%s%n%x{0}",
}


@pytest.mark.parametrize("kind", HOSTILE_NAMES)
def test_hostile_names_are_names(process: Process, kind: str) -> None:
    name = HOSTILE_NAMES[kind]
    answer = process.client.post("/ingest", json=[row(name, 5)])
    if answer.status_code == 422:
        assert_problem(answer, 422, "no-valid-rows")
        assert_problem(process.client.get(f"/predictions/{quote(name, safe='')}"), 404, "no-such-server")
        return
    assert answer.status_code == 200, answer.text
    for path in ("predictions", "history", "explain"):
        found = wait_for(lambda path=path: asked(process, f"/{path}/{quote(name, safe='')}"))
        assert found["server_name"] == name
    page = process.get("/predictions/current?limit=1000")
    assert name in {each["server_name"] for each in page["predictions"]}


def asked(process: Process, path: str) -> Any:
    response = process.client.get(path)
    assert response.status_code in {200, 404, 503}, response.text
    return response.json() if response.status_code == 200 else None


@pytest.mark.parametrize(
    "name", ["", " ", "a\nb", "a\0b", "\x1b[31m", "x" * 10_000, "\u0085", "\ud800"], ids=lambda name: ascii(name)[:12]
)
def test_names_that_are_none_are_refused_row_by_row(process: Process, name: str) -> None:
    body = json.dumps([row(name, 5), row("ppweb001", 5)]).encode()
    answer = process.client.post("/ingest", content=body, headers={"Content-Type": "application/json"})
    if answer.status_code == 400:  # half of a surrogate pair is no JSON text
        assert_problem(answer, 400, "no-json")
        return
    assert answer.status_code == 200 and answer.json()["rejected"] == 1, answer.text
    assert len(answer.text) < 2_000
    log = process.log()
    assert "\x1b[31m" not in log and "x" * 1_000 not in log


@pytest.mark.parametrize(
    "value",
    ["NaN", "Infinity", "-Infinity", "1e308", "1e999", "-1e308", "-0.0", "1e-320", '"1"', "[[]]", "true", "9" * 400],
)
def test_numbers_that_are_none_reach_no_forecast(process: Process, value: str) -> None:
    text = json.dumps([row("ppweb002", 5)]).replace("41.5", value)
    answer = process.client.post("/ingest", content=text.encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code in {200, 400, 422}, answer.text
    if value not in {"-0.0", "1e-320"}:
        assert answer.status_code != 200, answer.text
    current = process.client.get("/predictions/current")
    json.loads(current.text, parse_constant=pytest.fail)


@pytest.mark.parametrize("part", [b"[", b'{"a":', b'{"rows":[{},'], ids=ascii)
def test_deep_json_is_refused(process: Process, part: bytes) -> None:
    answer = process.client.post("/ingest", content=part * 50_000, headers={"Content-Type": "application/json"})
    assert_problem(answer, 400, "no-json")
