"""The daemon's clock jumps hours ahead and back while it serves: it goes on, says how old its data is, and recovers.

A real daemon in a process of its own, whose clock libfaketime sets; the monotonic clock goes on evenly, as on a machine
whose clock somebody sets. The clients' clocks stay right.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import FLEET, make_fleet
from test_daemon_process import Process, daemon, json_rows, wait_for
from websockets.sync.client import ClientConnection, connect

from common_utils import floor_to_step, iso_z, utc_now

JUMP = timedelta(hours=2)
NOW = floor_to_step(utc_now(), 5)
LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: apt-get install faketime")


@pytest.fixture(autouse=True)
def _the_present(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was the present when the tests were collected is old data when they come late in a long suite."""
    monkeypatch.setattr(sys.modules[__name__], "NOW", floor_to_step(utc_now(), 5))


class Clock:
    """The clock of a process that was started with `environment`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._file = folder / "clock"
        self.set(timedelta())
        self.environment = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",  # the file is read whenever the time is asked for
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set(self, ahead: timedelta) -> None:
        """Have it go ahead of the right time, or after it."""
        aside = self._file.with_suffix(".aside")
        aside.write_text(f"{ahead.total_seconds():+.0f}\n")
        aside.replace(self._file)


@contextmanager
def serving(tmp_path: Path, model_dir: Path, **environment: str) -> Iterator[tuple[Process, Clock]]:
    """A daemon that forecasts a fleet measured up to now, and its clock."""
    clock = Clock(tmp_path / "clock")
    with daemon(tmp_path / "run", model_dir, **clock.environment, **environment) as process:
        process.post(json_rows(make_fleet(hours=30, end=NOW)))
        wait_for(lambda: process.get("/predictions/current")["count"] == len(FLEET))
        yield process, clock


def clock_of(process: Process) -> datetime:
    return parsedate_to_datetime(process.client.get("/livez").headers["date"])


def jump(process: Process, clock: Clock, ahead: timedelta) -> None:
    clock.set(ahead)
    # uvicorn writes its Date header once a second
    wait_for(lambda: abs(clock_of(process) - utc_now() - ahead) < timedelta(seconds=30))


def row_at(moment: datetime, name: str = FLEET[0]) -> dict[str, Any]:
    return {"timestamp": iso_z(moment), "server_name": name, "cpu_pct": 40.0}


def all_answers(process: Process) -> dict[str, Any]:
    """Every kind of answer, none of which may fail."""
    name = FLEET[0]
    paths = ["/livez", "/readyz", "/status", "/predictions/current", "/predictions/current?limit=3", "/alerts/active"]
    paths += [f"/predictions/{name}", f"/history/{name}", f"/explain/{name}", "/fleet/summary", "/alerts/history"]
    paths += [f"/snapshot?servers={name}", "/alerts/silences", "/alerts/delivery", "/models"]
    assert process.client.get("/metrics").status_code == 200
    return {path: process.get(path) for path in paths}


def forecast_anew(process: Process, rows: list[dict[str, Any]]) -> dict[str, Any]:
    before = process.get("/status")["forecasts"]["count"]
    result = process.post(rows)
    assert result["accepted"] == len(rows), result
    wait_for(lambda: process.get("/status")["forecasts"]["count"] > before)
    return result


def told(websocket: ClientConnection, *, stale: bool) -> None:
    """Wait for a message that says whether the data is stale; those of sets before may come first."""
    while json.loads(websocket.recv(30)).get("stale") is not stale:
        pass


def assert_fresh(process: Process) -> None:
    answers = all_answers(process)
    for path in ("/status", "/predictions/current", f"/predictions/{FLEET[0]}", "/fleet/summary"):
        assert answers[path]["stale"] is False and 0 <= answers[path]["data_age_seconds"] < 900, path


def test_the_clock_jumps_ahead_and_is_right_again(tmp_path: Path, tiny_model_dir: Path) -> None:
    with serving(tmp_path, tiny_model_dir) as (process, clock):
        assert_fresh(process)
        uptime = process.get("/status")["uptime_seconds"]
        with connect(process.url.replace("http", "ws") + "/ws/predictions", proxy=None) as websocket:
            told(websocket, stale=False)
            jump(process, clock, JUMP)
            for path, answer in all_answers(process).items():
                if "stale" in answer:  # by its clock the newest row is as old as the jump was long
                    assert answer["stale"] is True and answer["data_age_seconds"] >= JUMP.total_seconds(), path
            assert uptime <= process.get("/status")["uptime_seconds"] < uptime + 600, "nobody has waited for two hours"
            assert process.get("/status")["offline_servers"]["count"] == 0, "the servers are held to each other"

            # Rows of the right time are late by its clock, and taken; so is what lies ahead of the right time
            forecast_anew(process, [row_at(NOW - timedelta(minutes=5), "newcomer")])
            told(websocket, stale=True)
            limit = utc_now() + JUMP + timedelta(minutes=60)
            refused = process.client.post("/ingest", json=[row_at(limit + timedelta(minutes=2))])
            assert refused.status_code == 422 and "future" in refused.text
            assert process.post(json_rows(make_fleet(hours=30, end=NOW).iloc[-1:]))["duplicates"] == 1

            jump(process, clock, timedelta())
            assert_fresh(process)
            forecast_anew(process, [row_at(NOW - timedelta(minutes=10), "newcomer")])
            told(websocket, stale=False)
        assert "Traceback" not in process.log()


def test_the_clock_is_set_back_and_is_right_again(tmp_path: Path, tiny_model_dir: Path) -> None:
    with serving(tmp_path, tiny_model_dir) as (process, clock):
        uptime = process.get("/status")["uptime_seconds"]
        jump(process, clock, -JUMP)
        for path, answer in all_answers(process).items():
            if "stale" in answer:  # its rows are of the future, so how old they are it cannot know
                assert answer["stale"] is True and answer["data_age_seconds"] is None, path
        assert process.client.get("/predictions/current").headers["x-data-age-seconds"] == "unknown"
        assert process.get("/status")["uptime_seconds"] >= uptime

        # By its clock the right time is beyond the limit: told row by row, and nothing else suffers
        forecast_anew(process, [row_at(NOW - timedelta(minutes=65), "newcomer")])
        mixed = process.post([row_at(NOW, "other"), row_at(NOW - timedelta(minutes=70), "newcomer")])
        assert (mixed["accepted"], mixed["rejected"]) == (1, 1) and mixed["errors"][0]["row"] == 0
        assert "future" in mixed["errors"][0]["what"]

        jump(process, clock, timedelta())
        assert process.post([row_at(NOW, "other")])["accepted"] == 1, "what was refused is taken when it is sent again"
        wait_for(lambda: process.client.get("/predictions/other").status_code == 200)
        assert_fresh(process)
        assert "Traceback" not in process.log()


def test_a_clock_that_jumps_to_and_fro_loses_no_row_and_stops_nothing(tmp_path: Path, tiny_model_dir: Path) -> None:
    with serving(tmp_path, tiny_model_dir) as (process, clock):
        rows = process.get("/status")["history"]["rows"]
        for turn in range(4):
            jump(process, clock, JUMP * (1, -1)[turn % 2])
            forecast_anew(process, [row_at(NOW - timedelta(hours=3, minutes=5 * turn), "newcomer")])
        jump(process, clock, timedelta())
        assert_fresh(process)
        assert process.get("/status")["history"]["rows"] == rows + 4
        assert process.get("/status")["forecasts"]["errors"] == 0
        process.signal(15)
        assert process.wait() == 0, process.log()
    with daemon(tmp_path / "run", tiny_model_dir) as process:  # with the right clock from the start
        assert process.get("/status")["history"]["rows"] == rows + 4
        assert_fresh(process)
