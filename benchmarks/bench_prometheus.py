"""How long an import from a real Prometheus takes, and in how much memory: the real command, process start included.

python benchmarks/bench_prometheus.py                       # 50 servers, 7 days at 5 minutes: 100,800 rows
python benchmarks/bench_prometheus.py --servers 1000 --days 2 --scrape_seconds 300
python benchmarks/bench_prometheus.py --json                # one JSON object as the last line

Needs Debian's `prometheus`. The history is made up and written by promtool, which takes longer than the import.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from local_prometheus import Prometheus, backfill  # noqa: E402
from measured import measure  # noqa: E402

BEGIN = int(datetime(2024, 1, 1, tzinfo=timezone.utc).timestamp())
CORES = 4


def history(servers: int, days: float, scrape_seconds: int) -> Iterator[str]:
    """node_exporter's samples of a fleet, in the OpenMetrics format."""
    moments = range(BEGIN, BEGIN + int(days * 86_400) + 1, scrape_seconds)
    counters = {
        "node_cpu_seconds": [f',cpu="{core}",mode="idle"' for core in range(CORES)],
        "node_disk_read_bytes": [',device="sda"'],
        "node_disk_written_bytes": [',device="sda"'],
    }
    for name, labels in counters.items():
        yield f"# TYPE {name} counter"
        for server in range(servers):
            for more in labels:
                series = f'{name}_total{{instance="srv{server:05d}:9100",job="node"{more}}}'
                value = 0.0
                for number, moment in enumerate(moments):
                    yield f"{series} {value:.2f} {moment}"
                    value += scrape_seconds * (0.3 + (number * 7 + server) % 60 / 100)
    for name, share in (("node_memory_MemAvailable_bytes", 0.4), ("node_memory_MemTotal_bytes", 1.0)):
        yield f"# TYPE {name} gauge"
        for server in range(servers):
            series = f'{name}{{instance="srv{server:05d}:9100",job="node"}}'
            for moment in moments:
                yield f"{series} {share * 2**34:.0f} {moment}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--servers", type=int, default=50, help="servers (50)")
    parser.add_argument("--days", type=float, default=7.0, help="days of history (7)")
    parser.add_argument("--scrape_seconds", type=int, default=60, help="seconds between two samples (60)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the best counts (3)")
    options = parser.parse_args()
    begin = time.perf_counter()
    rows = int(options.servers * options.days * 288)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "prometheus"
        backfill(data, history(options.servers, options.days, options.scrape_seconds))
        backfill_seconds = time.perf_counter() - begin
        with Prometheus(data) as prometheus:
            until = datetime.fromtimestamp(BEGIN + int(options.days * 86_400), timezone.utc).isoformat()
            for number in range(max(1, options.repeats)):
                command = ["import", "--prometheus", prometheus.url]
                command += ["--preset", "node_exporter", "--from", "2024-01-01", "--to", until]
                command += ["--out_dir", str(Path(folder) / f"out{number}"), "--json"]
                runs.append(measure(*command))
        info = json.loads((Path(folder) / "out0" / "metrics_metadata.json").read_text(encoding="utf-8"))
    seconds = min(each for each, _ in runs)
    figures = {
        "prometheus_rows": info["rows"],
        "prometheus_rows_expected": rows,
        "prometheus_chunks": info["report"]["files"]["Prometheus"],
        "prometheus_import_seconds": round(seconds, 3),
        "prometheus_import_seconds_worst": round(max(each for each, _ in runs), 3),
        "prometheus_import_rows_per_s": round(info["rows"] / seconds),
        "prometheus_import_peak_mb": round(max(peak for _, peak in runs), 1),
        "promtool_backfill_seconds": round(backfill_seconds, 1),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "benchmark_seconds": round(time.perf_counter() - begin, 1),
    }
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<34}{value:>14,}")


if __name__ == "__main__":
    main()
