"""A daemon whose history lies on a real small filesystem that fills up: reads go on, writes are refused with 507, and
when there is room again it goes on without a restart; nothing that it acknowledged is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import FLEET, make_fleet
from test_daemon_process import NOW, Process, daemon, json_rows, wait_for

from data_contract import METRIC_COLUMNS, SERVER_NAME, TIMESTAMP
from history_store import HistoryStore

SIZE = "12m"  # the databases of a new daemon, and room for some ten thousand rows
BATCH_ROWS = 2_000
MOST_BATCHES = 200  # 400,000 rows are several times the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted filesystem of its own."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a small filesystem")
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no filesystem can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Sender:
    """Sends rows that were never sent before and remembers which of them were acknowledged."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._sent = 0
        self.acknowledged: dict[datetime, float] = {}

    def send(self, count: int) -> httpx2.Response:
        rows: list[dict[str, Any]] = []
        for number in range(self._sent, self._sent + count):
            moment = NOW - timedelta(hours=1, seconds=number % 100_000, microseconds=number)
            rows.append({TIMESTAMP: moment, SERVER_NAME: "filler", **dict.fromkeys(METRIC_COLUMNS, number % 97 + 0.5)})
        self._sent += count
        body = {"rows": [{**row, TIMESTAMP: row[TIMESTAMP].isoformat()} for row in rows]}
        answer = self._process.client.post("/ingest", json=body)
        if answer.status_code == 200:
            assert answer.json()["accepted"] == count, answer.text
            self.acknowledged |= {row[TIMESTAMP]: row["cpu_pct"] for row in rows}
        return answer


def fill(folder: Path) -> Path:
    """Take what is left of the disk, to the last page."""
    path = folder / "somebody_elses_file"
    with path.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            return path


def assert_refused(answer: httpx2.Response) -> None:
    assert answer.status_code == 507, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"].endswith("storage-failed") and "full" in problem["what"]
    assert problem["fix"] and problem["document"] and "Traceback" not in answer.text


def assert_kept(folder: Path, sender: Sender, fleet_rows: int) -> None:
    """What was acknowledged is on disk, once, with its values; of what was refused, nothing."""
    with HistoryStore(folder) as store:
        assert store.set_aside is None
        frame = store.window()
    assert not frame.duplicated([SERVER_NAME, TIMESTAMP]).any()
    own = frame[frame[SERVER_NAME] == "filler"]
    found = dict(zip((moment.to_pydatetime() for moment in own[TIMESTAMP]), own["cpu_pct"], strict=True))
    assert found == sender.acknowledged
    assert len(frame) == len(found) + fleet_rows


@pytest.mark.parametrize("filled_by", ["its own rows", "somebody else"])
def test_a_full_disk_refuses_rows_until_there_is_room_again(
    small_disk: Path, tmp_path: Path, tiny_model_dir: Path, filled_by: str
) -> None:
    history = small_disk / "history"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(4_000_000))  # what an operator would delete
    fleet = make_fleet(hours=30, end=NOW)
    with daemon(tmp_path / "run", tiny_model_dir, TFT_HISTORY_DIR=str(history)) as process:
        assert process.post(json_rows(fleet))["accepted"] == len(fleet)
        sender = Sender(process)
        assert sender.send(10).status_code == 200
        if filled_by == "somebody else":
            taken = fill(small_disk)
        answer = next(
            (answer for answer in (sender.send(BATCH_ROWS) for _ in range(MOST_BATCHES)) if answer.status_code != 200),
            None,
        )
        assert answer is not None, "the disk never became full"
        assert_refused(answer)
        assert_refused(sender.send(BATCH_ROWS))  # not the first time alone

        # a forecast that was not made yet is made on the full disk
        served = wait_for(lambda: process.get("/predictions/current")["predictions"], 20.0)
        assert set(FLEET) <= {each[SERVER_NAME] for each in served}
        assert process.get("/history/ppweb001")
        assert process.get("/status")["history"]["rows"] == len(fleet) + len(sender.acknowledged)
        assert process.client.get("/livez").status_code == 200
        assert process.client.get("/metrics").status_code == 200

        ballast.unlink()
        if filled_by == "somebody else":
            taken.unlink()
        again = sender.send(BATCH_ROWS)
        assert again.status_code == 200, again.text
        assert process.get("/status")["history"]["rows"] == len(fleet) + len(sender.acknowledged)
        process.signal(signal.SIGKILL)  # acknowledged means on disk
        process.wait()
        assert "Traceback" not in process.log()
    assert_kept(history, sender, len(fleet))
