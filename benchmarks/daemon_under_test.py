"""A daemon of its own for a benchmark: started on a free port with a history of its own, fed, measured and stopped."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import httpx2
import numpy as np
import pandas as pd
import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common_utils import floor_to_step, utc_now  # noqa: E402
from daemon_arrow import ARROW_STREAM  # noqa: E402
from data_contract import METRIC_COLUMNS, SERVER_NAME, STEP_MINUTES, TIMESTAMP  # noqa: E402
from derived_columns import derived_state_names  # noqa: E402

ROWS_PER_REQUEST = 50_000
STEP = timedelta(minutes=STEP_MINUTES)


@dataclass
class RunningDaemon:
    """A daemon that listens."""

    process: subprocess.Popen[str]
    url: str
    client: httpx2.Client
    folder: Path

    @property
    def rss_mb(self) -> float:
        """Memory of the process that is in RAM."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return round(int(found[1]) / 1024, 1) if found else float("nan")

    @property
    def peak_mb(self) -> float:
        """The most that it ever was."""
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return round(int(found[1]) / 1024, 1) if found else float("nan")

    @property
    def descriptors(self) -> int:
        """Open file descriptors."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def post(self, frame: pd.DataFrame) -> int:
        """Post rows as Arrow streams; returns how many were accepted."""
        accepted = 0
        for start in range(0, len(frame), ROWS_PER_REQUEST):
            body = arrow_body(frame.iloc[start : start + ROWS_PER_REQUEST])
            answer = self.client.post("/ingest", content=body, headers={"Content-Type": ARROW_STREAM})
            accepted += int(answer.raise_for_status().json()["accepted"])
        return accepted


@contextlib.contextmanager
def running_daemon(model_dir: Path, folder: Path | None = None, **environment: str) -> Iterator[RunningDaemon]:
    """Run a daemon for as long as the block; its history is kept if a folder is given."""
    with contextlib.ExitStack() as undo:
        if folder is None:
            folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        log = undo.enter_context((folder / "daemon.log").open("a"))
        process = subprocess.Popen(
            [sys.executable, ROOT / "tft_inference.py", "--daemon", "--port", "0", "--model-dir", model_dir.resolve()],
            env={
                **os.environ,
                "TFT_HISTORY_DIR": str(folder / "history"),
                "TFT_RATE_LIMIT_PER_SECOND": "1000000",
                "TFT_LOG_LEVEL": "WARNING",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C is for the benchmark, which then stops the daemon
        )
        try:
            assert process.stdout is not None
            found = re.match(r"Listening on (http://\S+)", process.stdout.readline())
            if not found:
                raise SystemExit((folder / "daemon.log").read_text())
            client = undo.enter_context(httpx2.Client(base_url=found[1], timeout=120, trust_env=False))
            yield RunningDaemon(process, found[1], client, folder)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def arrow_body(frame: pd.DataFrame) -> bytes:
    """Rows as an Arrow stream, as a collector sends them: metrics alone, the daemon derives the rest."""
    table = pa.Table.from_pandas(frame[[TIMESTAMP, SERVER_NAME, *METRIC_COLUMNS]], preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def present(steps_back: int = 0) -> datetime:
    """Begin of the present step, or of one that long ago."""
    return floor_to_step(utc_now(), STEP_MINUTES) - steps_back * STEP


def made_up_rows(servers: int, start: datetime, steps: int, seed: int = 0) -> pd.DataFrame:
    """Rows of many servers, quickly made: what counts is how many there are."""
    rng = np.random.default_rng(seed)
    times = pd.date_range(start, periods=steps, freq="5min")
    shape = (steps, servers)
    columns = {
        "cpu_pct": rng.uniform(5, 80, shape),
        "mem_pct": rng.uniform(20, 80, shape),
        "disk_io_mb_s": rng.uniform(0, 200, shape),
        "latency_ms": rng.uniform(5, 200, shape),
    }
    values = {name: column.ravel() for name, column in columns.items()}
    names = np.array([f"srv{k:05}" for k in range(servers)], dtype=object)
    frame = pd.DataFrame({TIMESTAMP: np.repeat(times, servers), SERVER_NAME: np.tile(names, steps), **values})
    frame["state"] = derived_state_names(values, len(frame))
    frame["profile"] = "generic"
    return frame
