"""How fast an import is, and in how much memory: the real command, process start included, on input made here.

python benchmarks/bench_import.py                # 4.3 million rows of 500 servers: Parquet by server, by time, and CSV
python benchmarks/bench_import.py --large        # also 40 million rows, of 500 servers and of a single one
python benchmarks/bench_import.py --source FILE --preset bitbrains    # a file of your own instead
python benchmarks/bench_import.py --json         # one JSON object as the last line

Budget on 2 cores: below 600 MB whatever the number of rows.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from measured import measure

STEP_US = 300_000_000  # 5 minutes
ONE_SERVER_STEP_US = 1_000_000  # 40 million times 5 minutes would be 380 years
START_US = 1_767_225_600_000_000
PIECE_ROWS = 1 << 20
Order = Literal["by_server", "by_time", "shuffled_times"]


def pieces(rows: int, servers: int, order: Order) -> Iterator[pa.Table]:
    """Contract columns of a fleet with gaps and repeats: what costs time is their order, not what they mean."""
    rng = np.random.default_rng(7)
    names = pa.array([f"host-{number:04d}.example.org" for number in range(servers)])
    per_server = -(-rows // servers)
    for begin in range(0, rows, PIECE_ROWS):
        place = np.arange(begin, min(begin + PIECE_ROWS, rows))
        server, step = (
            (place // per_server, place % per_server) if order == "by_server" else divmod(place, servers)[::-1]
        )
        if order == "shuffled_times":
            step = step * 7_919 % per_server  # a prime: neighbours lie far apart, and none is there twice by chance
        values = {name: rng.random(len(place), np.float32) * 100 for name in ("cpu_pct", "mem_pct", "disk_io_mb_s")}
        moments = pa.array(START_US + step * (STEP_US if servers > 1 else ONE_SERVER_STEP_US), pa.timestamp("us"))
        hosts = pa.DictionaryArray.from_arrays(pa.array(server.astype(np.int32)), names)
        yield pa.table({"timestamp": moments, "server_name": hosts, **values})


def write_source(path: Path, rows: int, servers: int, order: Order) -> None:
    """Parquet, or CSV by the ending."""
    schema = next(pieces(1, servers, order)).schema
    if path.suffix == ".csv":
        schema = pa.schema([field if field.name != "server_name" else (field.name, pa.string()) for field in schema])
        with pa_csv.CSVWriter(path, schema) as text:
            for piece in pieces(rows, servers, order):
                text.write_table(piece.cast(schema))
    else:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for piece in pieces(rows, servers, order):
                writer.write_table(piece)


def bench(source: Path, preset: str, folder: Path, name: str) -> dict[str, float]:
    """Seconds, rows per second and peak MB of one import."""
    out = folder / "out"
    seconds, peak_mb = measure("import", str(source), "--preset", preset, "--out_dir", str(out), "--json")
    rows = json.loads((out / "metrics_metadata.json").read_text(encoding="utf-8"))["rows"]
    return {
        f"{name}_rows": rows,
        f"{name}_seconds": round(seconds, 2),
        f"{name}_rows_per_s": round(rows / seconds),
        f"{name}_peak_mb": round(peak_mb, 1),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--large", action="store_true", help="also 40 million rows: takes 4 GB of disk for a while")
    parser.add_argument("--source", type=Path, help="import this file instead of made ones")
    parser.add_argument("--preset", default="contract", help="preset for --source (contract)")
    options = parser.parse_args()
    begin = time.perf_counter()
    figures: dict[str, float] = {}
    runs: list[tuple[str, int, int, Order, str]] = [
        ("parquet_4m_by_server", 4_320_000, 500, "by_server", "parquet"),
        ("parquet_4m_by_time", 4_320_000, 500, "by_time", "parquet"),
        ("csv_4m_by_time", 4_320_000, 500, "by_time", "csv"),
    ]
    if options.large:
        runs += [
            ("parquet_40m_by_time", 40_000_000, 500, "by_time", "parquet"),
            ("parquet_40m_one_server_shuffled", 40_000_000, 1, "shuffled_times", "parquet"),
            ("csv_40m_by_time", 40_000_000, 500, "by_time", "csv"),
        ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.source is not None:
            figures |= bench(options.source, options.preset, folder, "source")
        for name, rows, servers, order, ending in runs if options.source is None else ():
            source = folder / f"source.{ending}"
            write_source(source, rows, servers, order)
            figures |= bench(source, "contract", folder, name)
            source.unlink()
    figures["load_average_1min"] = round(os.getloadavg()[0], 2)
    figures["benchmark_seconds"] = round(time.perf_counter() - begin, 1)
    for name, figure in figures.items():
        print(f"{name:45} {figure:,}")
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
