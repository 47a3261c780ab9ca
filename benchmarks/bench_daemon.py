"""How the daemon does under load, at 90, 1,000 and 10,000 servers: answers, ingest, memory, and its event loop.

    python benchmarks/bench_daemon.py --model-dir models/latest --json

For each size a daemon is started with an empty history and fed. Then `wrk` asks for `/predictions/current` as fast as
it is answered, while a further step of every server comes every few seconds and the fleet is forecast each time. At
the largest size a process of its own asks for `/livez` at fixed moments, whatever the answers do, while forecasts are
made one after the other: how late these answers come is how long the event loop was held up. Beside other work the
figures say little. Needs wrk (Debian: apt-get install wrk). The last line of `--json` is one object:

p99_ms_90_servers, p99_ms_1000_servers, p99_ms_10000_servers (and p50_…)
                      time to answer /predictions/current, milliseconds
requests_per_s_…      answered meanwhile
forecast_ms_…         average time of a forecast of the fleet, serialised and ready
rss_mb_…, peak_mb_…   memory of the daemon at the end, and the most that it had
non_2xx               answers that were no success, and sockets that broke, of all sizes
arrow_rows_per_s      rows accepted, on disk, per second: Arrow, one client, 50,000 rows per request
json_rows_per_s       the same as JSON, 10,000 rows per request
loop_lag_ms_p99, loop_lag_ms_max
                      how late /livez is answered while the largest fleet is forecast
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pandas as pd
from daemon_under_test import STEP, RunningDaemon, made_up_rows, present, running_daemon
from measured import report, say

from data_contract import METRIC_COLUMNS, SERVER_NAME, TIMESTAMP

HISTORY_HOURS = {90: 72, 1000: 72, 10_000: 12}
CONNECTIONS = 8
PROBE_SECONDS = 0.01


def json_bodies(frame: pd.DataFrame, rows: int = 10_000) -> list[str]:
    """Rows as JSON bodies."""
    columns = [TIMESTAMP, SERVER_NAME, *METRIC_COLUMNS]
    records = frame[columns].round(3).astype({TIMESTAMP: str}).to_dict("records")
    return [json.dumps({"rows": records[k : k + rows]}) for k in range(0, len(records), rows)]


def ingest_json(daemon: RunningDaemon, frame: pd.DataFrame) -> float:
    """Rows per second that were accepted."""
    bodies = json_bodies(frame)
    accepted, started = 0, time.perf_counter()
    for body in bodies:
        answer = daemon.client.post("/ingest", content=body, headers={"Content-Type": "application/json"})
        accepted += int(answer.raise_for_status().json()["accepted"])
    seconds = time.perf_counter() - started
    if accepted != len(frame):
        raise SystemExit(f"Of {len(frame):,} rows, {accepted:,} were accepted: the figure would be wrong.")
    return round(accepted / seconds)


class Feeder(threading.Thread):
    """Posts one more step of every server every few seconds."""

    def __init__(self, daemon: RunningDaemon, servers: int, seconds: float, steps: int) -> None:
        super().__init__()
        self._daemon, self._servers, self._seconds = daemon, servers, seconds
        self._first = present(steps)
        self.stopping = threading.Event()
        self.ticks = 0

    def run(self) -> None:
        """Post until stopped."""
        while not self.stopping.wait(self._seconds):
            start = self._first + self.ticks * STEP
            self.ticks += 1
            self._daemon.post(made_up_rows(self._servers, min(start, present()), 1, self.ticks))


def ask(url: str, seconds: int) -> dict[str, float]:
    """Ask with wrk as fast as is answered."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def milliseconds(percentile: str) -> float:
        number, unit = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
        return round(float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit], 3)

    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    return {
        "p50_ms": milliseconds("50"),
        "p99_ms": milliseconds("99"),
        "requests_per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),  # type: ignore[index]
        "failed": (int(failed[1]) if failed else 0) + (sum(map(int, broken.groups())) if broken else 0),
    }


async def probe(url: str, seconds: float) -> list[float]:
    """Milliseconds from when each question was due to its answer; due every 10 ms, whatever the answers do."""
    late: list[float] = []

    async with httpx2.AsyncClient(timeout=30, trust_env=False) as client:
        begin = time.perf_counter() + 0.5
        asked = []

        async def one(due: float) -> None:
            await client.get(f"{url}/livez")
            late.append((time.perf_counter() - due) * 1e3)

        for number in range(int(seconds / PROBE_SECONDS)):
            due = begin + number * PROBE_SECONDS
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asked.append(asyncio.create_task(one(due)))
        await asyncio.gather(*asked)
    return late


def probe_apart(url: str, seconds: float) -> dict[str, float]:
    """The same in a process of its own, so that nothing else of this one delays it; its own delay is subtracted."""
    command = [sys.executable, __file__, "--probe", url, "--seconds", str(int(seconds))]
    late = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {
        "loop_lag_ms_p50": round(float(np.percentile(late, 50)), 1),
        "loop_lag_ms_p99": round(float(np.percentile(late, 99)), 1),
        "loop_lag_ms_max": round(max(late), 1),
    }


def measure(model_dir: Path, servers: int, seconds: int) -> dict[str, Any]:
    """One size."""
    ahead = 200  # steps that come while it is measured
    found: dict[str, Any] = {}
    with running_daemon(model_dir, TFT_DAEMON_SETTLE_SECONDS="0.2", TFT_HISTORY_KEEP_DAYS="30") as daemon:
        hours = HISTORY_HOURS.get(servers, 24)
        history = made_up_rows(servers, present(ahead + hours * 12), hours * 12)
        say(f"{servers:,} servers: {len(history):,} rows of history")
        if servers == 90:
            found["json_rows_per_s"] = ingest_json(daemon, history)
        else:
            started = time.perf_counter()
            accepted = daemon.post(history)
            found["arrow_rows_per_s"] = round(accepted / (time.perf_counter() - started))
        while daemon.client.get("/status").json()["servers"] < servers:
            time.sleep(0.2)
        while daemon.client.get("/predictions/current").json()["count"] < servers:
            time.sleep(0.5)
        feeder = Feeder(daemon, servers, 1.0 if servers < 1000 else 4.0, ahead)
        feeder.start()
        try:
            time.sleep(3)  # the first forecasts are slower
            say(f"{servers:,} servers: asking for {seconds} s")
            asked = ask(f"{daemon.url}/predictions/current", seconds)
            if servers == max(HISTORY_HOURS):
                say(f"{servers:,} servers: how late the event loop is, {seconds} s")
                found |= probe_apart(daemon.url, seconds)
        finally:
            feeder.stopping.set()
            feeder.join()
        forecasts = daemon.client.get("/status").json()["forecasts"]
        found |= {
            f"p50_ms_{servers}_servers": asked["p50_ms"],
            f"p99_ms_{servers}_servers": asked["p99_ms"],
            f"requests_per_s_{servers}_servers": asked["requests_per_s"],
            f"forecasts_{servers}_servers": forecasts["count"],
            f"forecast_ms_{servers}_servers": forecasts["average_duration_ms"],
            f"rss_mb_{servers}_servers": daemon.rss_mb,
            f"peak_mb_{servers}_servers": daemon.peak_mb,
            "failed": asked["failed"],
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=Path("models/latest"))
    parser.add_argument("--seconds", type=int, default=60, help="of asking, for each size (60)")
    parser.add_argument("--servers", type=int, nargs="*", default=sorted(HISTORY_HOURS), help="sizes")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--probe", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        print(json.dumps(asyncio.run(probe(options.probe, options.seconds))))
        return
    if not options.model_dir.exists():
        raise SystemExit(f"There is no model folder at {options.model_dir}: train one, or name one with --model-dir.")
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed (Debian: apt-get install wrk).")
    figures: dict[str, Any] = {"non_2xx": 0}
    for servers in options.servers:
        found = measure(options.model_dir, servers, options.seconds)
        figures["non_2xx"] += found.pop("failed")
        figures |= found
    report(figures, as_json=options.json)


if __name__ == "__main__":
    main()
