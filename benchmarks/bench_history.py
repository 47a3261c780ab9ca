"""How days of the history move to files: rows per second, bytes per row before and after, and how long others wait.

    python benchmarks/bench_history.py --json
    python benchmarks/bench_history.py --servers 100          # quickly

A day of many servers moves while another thread appends a step of the whole fleet again and again, as a daemon does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data_contract import DAY_STEPS, METRIC_COLUMNS, PROFILE, SERVER_NAME, STATE, STEP_MINUTES, TIMESTAMP
from fleet_grid import step_of
from history_store import HistoryStore

BEGIN = datetime(2026, 3, 2, tzinfo=timezone.utc)
_STEPS_AT_ONCE = 24


def rows_of(servers: int, first: int, steps: int, rng: np.random.Generator) -> pd.DataFrame:
    """Contract rows of all servers and some steps."""
    times = pd.date_range(BEGIN + timedelta(minutes=first * STEP_MINUTES), periods=steps, freq=f"{STEP_MINUTES}min")
    names = np.array([f"ppweb{number:05d}" for number in range(servers)], dtype=object)
    count = servers * steps
    metrics = {column: rng.uniform(0, 90, count).round(2) for column in METRIC_COLUMNS}
    frame = pd.DataFrame({TIMESTAMP: np.repeat(times, servers), SERVER_NAME: np.tile(names, steps), **metrics})
    return frame.assign(**{STATE: "healthy", PROFILE: "web_api"})


def main() -> None:
    """Measure, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", type=int, default=1000, help="servers (1000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder, HistoryStore(Path(folder)) as store:
        for first in range(0, DAY_STEPS, _STEPS_AT_ONCE):
            store.append(rows_of(options.servers, first, _STEPS_AT_ONCE, rng))
        rows = store.rows
        store._file._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        in_sqlite = store.path.stat().st_size / rows
        waits: list[float] = []
        over = threading.Event()

        def append() -> None:
            step = DAY_STEPS
            while not over.is_set():
                frame = rows_of(options.servers, step, 1, rng)
                began = time.perf_counter()
                store.append(frame)
                waits.append(time.perf_counter() - began)
                step += 1
                time.sleep(0.02)

        alone = threading.Thread(target=append)
        alone.start()
        time.sleep(3)
        over.set()
        alone.join()
        usual = list(waits)
        over.clear()
        waits.clear()
        process = psutil.Process()
        before = process.memory_info().rss
        peak = [before]
        writer = threading.Thread(target=append)
        watcher = threading.Thread(target=lambda: _watch(process, peak, over))
        writer.start()
        watcher.start()
        began = time.perf_counter()
        moved = store.compact(BEGIN + timedelta(days=1))
        seconds = time.perf_counter() - began
        over.set()
        writer.join()
        watcher.join()
        day = next(iter(store.days.days.values()))
        name, last = "ppweb00042", step_of(BEGIN) + DAY_STEPS - 1
        began = time.perf_counter()
        for _ in range(5):
            store.server_steps(name, last - DAY_STEPS + 1, last)
        read = (time.perf_counter() - began) / 5
        figures = {
            "rows": moved,
            "move_rows_per_s": round(moved / seconds),
            "bytes_per_row_sqlite": round(in_sqlite, 1),
            "bytes_per_row_file": round(day.path.stat().st_size / day.rows, 1),
            "append_ms_median_alone": round(1e3 * float(np.median(usual)), 1),
            "append_ms_median_meanwhile": round(1e3 * float(np.median(waits)), 1),
            "append_ms_longest_meanwhile": round(1e3 * max(waits), 1),
            "memory_mb_above_before": round((max(peak) - before) / 1e6),
            "ms_day_of_one_server": round(1e3 * read, 1),
        }
    for what, figure in figures.items():
        print(f"{what:32} {figure:,}")
    if options.json:
        print(json.dumps(figures))


def _watch(process: psutil.Process, peak: list[int], over: threading.Event) -> None:
    while not over.wait(0.02):
        peak.append(process.memory_info().rss)


if __name__ == "__main__":
    main()
