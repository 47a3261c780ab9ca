"""`kill -9` at random moments of ingest: every acknowledged row is there after the restart with its value, none twice.

TFT_DRILL_KILLS says how often it is killed (3), TFT_DRILL_SEED makes the moments and rows those of another run.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pandas as pd
import pyarrow as pa
from test_daemon_process import NOW, Process, daemon, wait_for

from data_contract import METRIC_COLUMNS, SERVER_NAME, TIMESTAMP
from history_store import HistoryStore

KILLS = int(os.environ.get("TFT_DRILL_KILLS", "3"))
SEED = int(os.environ.get("TFT_DRILL_SEED", str(random.SystemRandom().randrange(2**32))))
DAYS_BACK = 3  # rows are of any of these days, so that pages are split everywhere


@dataclass
class Client:
    """One that sends batches for as long as there is a daemon, and sends again what was not acknowledged."""

    name: str
    encode: Callable[[list[dict[str, Any]]], dict[str, Any]]
    random_of: random.Random
    acknowledged: dict[datetime, float] = field(default_factory=dict)
    waiting: list[dict[str, Any]] = field(default_factory=list)
    sent: dict[datetime, float] = field(default_factory=dict)

    def send_until_it_dies(self, process: Process) -> None:
        with httpx2.Client(base_url=process.url, timeout=60.0, trust_env=False) as http:
            while True:
                again = bool(self.waiting)
                self.waiting = self.waiting or self.batch()
                try:
                    answer = http.post("/ingest", **self.encode(self.waiting))
                except httpx2.TransportError:
                    return
                assert answer.status_code == 200, answer.text
                result = answer.json()
                assert result["rejected"] == 0 and result["accepted"] + result["duplicates"] == len(self.waiting)
                assert again or result["duplicates"] == 0, "rows that were never sent before are there"
                self.acknowledged |= {row[TIMESTAMP]: row["cpu_pct"] for row in self.waiting}
                self.waiting = []

    def batch(self) -> list[dict[str, Any]]:
        rows = []
        for _ in range(self.random_of.choice([1, 20, 20, 400])):
            moment = NOW - timedelta(microseconds=self.random_of.randrange(DAYS_BACK * 86_400_000_000))
            if moment not in self.sent:
                self.sent[moment] = round(self.random_of.uniform(0, 100), 6)
                row = {TIMESTAMP: moment, SERVER_NAME: self.name, **dict.fromkeys(METRIC_COLUMNS, self.sent[moment])}
                rows.append(row)
        return rows or self.batch()


def as_json(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"json": {"rows": [{**row, TIMESTAMP: row[TIMESTAMP].isoformat()} for row in rows]}}


def as_arrow(rows: list[dict[str, Any]]) -> dict[str, Any]:
    table = pa.Table.from_pylist(rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    headers = {"Content-Type": "application/vnd.apache.arrow.stream"}
    return {"content": sink.getvalue().to_pybytes(), "headers": headers}


def test_killed_at_random_moments_it_has_every_row_that_it_acknowledged_once(tmp_path: Path) -> None:
    print(f"TFT_DRILL_SEED={SEED} TFT_DRILL_KILLS={KILLS}")
    random_of = random.Random(SEED)
    ways = itertools.cycle([as_json, as_arrow])
    clients = [Client(f"host{number}", next(ways), random.Random(random_of.randrange(2**32))) for number in range(6)]
    for kill in range(KILLS):
        with daemon(tmp_path, tmp_path / "no_model") as process, ThreadPoolExecutor(len(clients)) as pool:
            before = sum(len(client.acknowledged) for client in clients)
            history = process.get("/status")["history"]
            assert history["rows"] >= before and history["set_aside"] is None
            sending = [pool.submit(client.send_until_it_dies, process) for client in clients]
            wait_for(lambda before=before: sum(len(client.acknowledged) for client in clients) > before)
            time.sleep(random_of.uniform(0, 0.8))  # where in its work it is hit does not matter
            process.signal(signal.SIGKILL)
            for each in sending:
                each.result()
        now = sum(len(client.acknowledged) for client in clients)
        print(f"kill {kill + 1}: {now - before} rows acknowledged")
    with HistoryStore(tmp_path / "history") as store:
        assert store.set_aside is None
        frame = store.window()
        assert store.rows == len(frame)
    assert not frame.duplicated([SERVER_NAME, TIMESTAMP]).any()
    for client in clients:
        own = frame[frame[SERVER_NAME] == client.name]
        found = dict(zip((moment.to_pydatetime() for moment in own[TIMESTAMP]), own["cpu_pct"], strict=True))
        assert client.acknowledged.items() <= found.items() <= client.sent.items()
        assert pd.Series(own["cpu_pct"]).equals(own["latency_ms"].rename("cpu_pct")), "a row is torn"
    assert all(client.acknowledged for client in clients)
