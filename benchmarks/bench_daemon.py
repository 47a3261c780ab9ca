"""How quick the daemon is: rows per second through POST /ingest, and GET /predictions/current under load.

    python benchmarks/bench_daemon.py --model-dir models/latest --json

A daemon of its own is started on a free port with an empty history; a generated fleet of 90 servers is posted to it as
JSON. Then clients ask for the fleet's forecasts as fast as they can (with `wrk` if it is installed), while new rows
come and the fleet is forecast again every second. The last line of `--json` is one object:

json_rows_per_s       rows accepted, on disk, per second, one client, 10,000 rows per request
p50_ms_90_servers, p99_ms_90_servers
                      time to answer /predictions/current, milliseconds
requests_per_s        answered meanwhile
non_2xx               answers that were no success
forecast_ms           average time of a forecast of the fleet, serialised and ready
rss_mb                memory of the daemon at the end
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common_utils import iso_z  # noqa: E402
from data_contract import METRIC_COLUMNS, SERVER_NAME, TIMESTAMP  # noqa: E402
from metrics_generator import GeneratorOptions, generate_frame  # noqa: E402

SERVERS = 90
HISTORY_HOURS = 72
ROWS_PER_REQUEST = 10_000


def start_daemon(model_dir: Path, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start a daemon on a free port; returns it with its address."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "tft_inference.py", "--daemon", "--port", "0", "--model-dir", model_dir.resolve()],
        env={
            **os.environ,
            "TFT_HISTORY_DIR": str(folder),
            "TFT_RATE_LIMIT_PER_SECOND": "1000000",
            "TFT_DAEMON_SETTLE_SECONDS": "0.1",
        },
        stdout=subprocess.PIPE,
        stderr=(folder / "daemon.log").open("w"),
        text=True,
    )
    assert process.stdout is not None
    found = re.match(r"Listening on (http://\S+)", process.stdout.readline())
    if not found:
        raise SystemExit((folder / "daemon.log").read_text())
    return process, found[1]


def ingest(client: httpx2.Client) -> dict[str, float]:
    """Post a fleet's history."""
    frame = generate_frame(GeneratorOptions(servers=SERVERS, hours=HISTORY_HOURS))
    frame = frame.astype({TIMESTAMP: str, SERVER_NAME: str, "state": str, "profile": str}).round(3)
    rows = frame.to_dict("records")
    for row in rows:  # the generated fleet may lack values; JSON has no NaN
        row.update({column: None for column in METRIC_COLUMNS if np.isnan(row[column])})
    bodies = [json.dumps({"rows": rows[k : k + ROWS_PER_REQUEST]}) for k in range(0, len(rows), ROWS_PER_REQUEST)]
    accepted = 0
    started = time.perf_counter()
    for body in bodies:
        answer = client.post("/ingest", content=body, headers={"Content-Type": "application/json"})
        accepted += answer.raise_for_status().json()["accepted"]
    seconds = time.perf_counter() - started
    return {"rows": accepted, "json_rows_per_s": round(accepted / seconds)}


def feed(client: httpx2.Client, names: list[str], stop: threading.Event) -> None:
    """Post a row of every server each second: each time the whole fleet is forecast again."""
    newest = np.datetime64(client.get("/status").json()["history"]["newest"].rstrip("Z"), "ms")
    second = 0
    while not stop.wait(1.0):
        second += 1
        moment = iso_z((newest + np.timedelta64(second, "s")).astype("datetime64[ms]").item())
        rows = [{"timestamp": moment, "server_name": name, "cpu_pct": 40.0 + second % 20} for name in names]
        client.post("/ingest", json={"rows": rows}).raise_for_status()


def ask_with_wrk(url: str, connections: int, seconds: int) -> dict[str, float]:
    """Ask as fast as possible with wrk."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def milliseconds(percentile: str) -> float:
        number, unit = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
        return round(float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit], 3)

    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    return {
        "p50_ms_90_servers": milliseconds("50"),
        "p99_ms_90_servers": milliseconds("99"),
        "requests_per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),  # type: ignore[index]
        "non_2xx": int(failed[1]) if failed else 0,
        "socket_errors": sum(int(count) for count in broken.groups()) if broken else 0,
    }


async def ask_with_python(url: str, connections: int, seconds: int) -> dict[str, float]:
    """The same with asyncio, which measures its own slowness, too."""
    times: list[float] = []
    failed = 0

    async def ask(client: httpx2.AsyncClient, until: float) -> None:
        nonlocal failed
        while time.perf_counter() < until:
            started = time.perf_counter()
            response = await client.get(url)
            times.append(time.perf_counter() - started)
            failed += response.status_code != 200

    async with httpx2.AsyncClient(headers={"Accept-Encoding": "identity"}) as client:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(ask(client, until) for _ in range(connections)))
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    return {
        "p50_ms_90_servers": round(float(p50), 3),
        "p99_ms_90_servers": round(float(p99), 3),
        "requests_per_s": round(len(times) / seconds, 1),
        "non_2xx": failed,
        "socket_errors": 0,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=Path("models/latest"))
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    if not options.model_dir.exists():
        raise SystemExit(f"There is no model folder at {options.model_dir}: train one, or name one with --model-dir.")

    with tempfile.TemporaryDirectory() as folder:
        process, url = start_daemon(options.model_dir, Path(folder))
        try:
            with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
                results: dict[str, Any] = ingest(client)
                while (current := client.get("/predictions/current").json())["count"] < SERVERS:
                    time.sleep(0.2)
                names = [record["server_name"] for record in current["predictions"]]
                stop = threading.Event()
                feeder = threading.Thread(target=feed, args=(client, names, stop))
                feeder.start()
                time.sleep(3)  # the first forecasts are slower
                target = f"{url}/predictions/current"
                try:
                    if shutil.which("wrk"):
                        results |= {"client": "wrk", **ask_with_wrk(target, options.connections, options.seconds)}
                    else:
                        asked = asyncio.run(ask_with_python(target, options.connections, options.seconds))
                        results |= {"client": "httpx2", **asked}
                finally:
                    stop.set()
                    feeder.join()
                forecasts = client.get("/status").json()["forecasts"]
            results |= {"forecasts": forecasts["count"], "forecast_ms": forecasts["average_duration_ms"]}
            memory = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            results["rss_mb"] = round(int(memory[1]) / 1024) if memory else None
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    for name, value in results.items():
        print(f"{name:<20} {value}")
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
