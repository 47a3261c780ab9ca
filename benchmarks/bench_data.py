"""How long generating and validating take, and in how much memory: the real commands, process start included.

python benchmarks/bench_data.py          # all of it, about 3 minutes
python benchmarks/bench_data.py --quick  # the default fleet only: 90 servers, 720 hours, 777,600 rows
python benchmarks/bench_data.py --json   # one JSON object as the last line

Budgets on 2 cores: below 3 s and 1 GB to generate 777,600 rows, below 2 s to validate them; cost against size is linear
(1 ×, 4 ×, 16 ×); 90 servers × 720 hours every 5 seconds (46.7 million rows) stream into a partitioned data set in less
than 1.5 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from measured import measure

HOURS = 720
STREAMED_ROWS = 90 * HOURS * 720  # every 5 seconds


def bench(hours: int, repeats: int) -> dict[str, float]:
    """Generate and validate a file; the best of several runs: other work on the machine only ever adds to it."""
    rows = 90 * hours * 12
    made, judged = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            made.append(measure("generate", "--servers", "90", "--hours", str(hours), "--out_dir", folder))
            judged.append(measure("validate", str(Path(folder) / "server_metrics.parquet")))
        size_mb = (Path(folder) / "server_metrics.parquet").stat().st_size / 1e6
    return {
        f"seconds_{rows}_rows": round(min(seconds for seconds, _ in made), 3),
        f"seconds_{rows}_rows_worst": round(max(seconds for seconds, _ in made), 3),
        f"peak_mb_{rows}_rows": round(max(peak for _, peak in made), 1),
        f"validate_seconds_{rows}_rows": round(min(seconds for seconds, _ in judged), 3),
        f"validate_peak_mb_{rows}_rows": round(max(peak for _, peak in judged), 1),
        f"file_mb_{rows}_rows": round(size_mb, 1),
    }


def bench_growth(repeats: int) -> dict[str, float]:
    """1 ×, 4 × and 16 × the hours, and what a further row costs compared with the step before: 1 is linear."""
    figures = bench(HOURS, repeats)
    for times in (4, 16):
        figures |= bench(times * HOURS, 1)
    one, four, sixteen = (times * 90 * HOURS * 12 for times in (1, 4, 16))
    for prefix in ("", "validate_"):
        seconds = [figures[f"{prefix}seconds_{rows}_rows"] for rows in (one, four, sixteen)]
        first, second = (seconds[1] - seconds[0]) / (four - one), (seconds[2] - seconds[1]) / (sixteen - four)
        figures[f"{prefix}cost_per_row_16x_to_4x"] = round(second / first, 2)
    return figures


def bench_streaming() -> dict[str, float]:
    """46.7 million rows into a partitioned data set, validation included."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("--hours", str(HOURS), "--interval", "5s", "--format", "partitioned", "--out_dir", folder)
        seconds, peak_mb = measure("generate", *arguments)
        judged, judged_mb = measure("validate", str(Path(folder) / "server_metrics.parquet"))
    return {
        "rows_per_s_streaming": round(STREAMED_ROWS / seconds),
        "peak_mb_streaming": round(peak_mb, 1),
        "seconds_streaming": round(seconds, 1),
        "rows_streaming": STREAMED_ROWS,
        "validate_seconds_streaming": round(judged, 1),
        "validate_peak_mb_streaming": round(judged_mb, 1),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="777,600 rows only")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the best counts (3)")
    options = parser.parse_args()
    begin = time.perf_counter()
    repeats = max(1, options.repeats)
    figures = bench(HOURS, repeats) if options.quick else bench_growth(repeats) | bench_streaming()
    figures["load_average_1min"] = round(os.getloadavg()[0], 2)
    figures["benchmark_seconds"] = round(time.perf_counter() - begin, 1)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<40} {value:>12,}")


if __name__ == "__main__":
    main()
