"""Whether a daemon's memory or open files grow while it works for long.

    python benchmarks/bench_soak.py --model-dir models/latest --minutes 20 --json

A generated fleet is streamed to a daemon at ten times real time (`python main.py generate --stream --speed 10`), a row
per server and minute: a post every 6 seconds, each followed by a forecast. Meanwhile readers ask for every route, with
connections that are kept and with new ones, and a WebSocket takes every set. Memory and file descriptors of the daemon
are read every 5 seconds from /proc. The first third is warm-up and does not count; of the rest the slope is the median
of the slopes between all pairs of samples (Theil-Sen), which single jumps do not bend. Ctrl-C ends it early, with what
was measured so far. Linux only. The last line of `--json` is one object:

rss_slope_mb_per_h, fd_slope_per_h
                      slope after the warm-up; …_low and …_high are the ends of its 95 % interval
rss_mb_first, rss_mb_last, rss_mb_max, fd_last
                      after the warm-up, at the end, at most
forecasts, requests, messages
                      forecasts made, requests answered, WebSocket messages received
non_2xx               answers that were no success, and requests that failed
accepted_rows, minutes_measured, interrupted (1 if it was ended early)

--plot FILE.html draws both over time. Source of the slope: Sen, JASA 63 (1968), as scipy.stats.theilslopes has it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np
from daemon_under_test import ROOT, RunningDaemon, running_daemon
from measured import report, say
from scipy.stats import theilslopes
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

SAMPLE_SECONDS = 5.0
SAY_SECONDS = 60.0
HISTORY_HOURS = 48


@dataclass
class Samples:
    """What was read of the daemon, and when."""

    seconds: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def take(self, daemon: RunningDaemon, seconds: float) -> None:
        """Read the process now."""
        self.seconds.append(seconds)
        self.rss_mb.append(daemon.rss_mb)
        self.descriptors.append(daemon.descriptors)

    def figures(self) -> dict[str, float]:
        """Slopes per hour behind the first third."""
        first = len(self.seconds) // 3
        hours = np.array(self.seconds[first:]) / 3600
        if len(hours) < 3:
            raise SystemExit("too short: not three samples behind the warm-up")
        found: dict[str, float] = {}
        for name, values in (("rss_slope_mb_per_h", self.rss_mb), ("fd_slope_per_h", self.descriptors)):
            slope, _, low, high = theilslopes(np.array(values[first:], dtype=float), hours)
            found |= {name: round(slope, 2), f"{name}_low": round(low, 2), f"{name}_high": round(high, 2)}
        found |= {
            "rss_mb_first": self.rss_mb[first],
            "rss_mb_last": self.rss_mb[-1],
            "rss_mb_max": max(self.rss_mb),
            "fd_last": self.descriptors[-1],
            "minutes_measured": round(self.seconds[-1] / 60, 2),
        }
        return found

    def draw(self, path: Path) -> None:
        """Both over time, as a page that needs no network."""
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots

        figure = make_subplots(2, 1, shared_xaxes=True, subplot_titles=("memory, MB", "open files"))
        minutes = [second / 60 for second in self.seconds]
        for row, values in enumerate((self.rss_mb, self.descriptors), 1):
            figure.add_trace(go.Scatter(x=minutes, y=values, showlegend=False), row=row, col=1)
        figure.add_vrect(0, minutes[len(minutes) // 3], fillcolor="grey", opacity=0.15, line_width=0)
        figure.update_xaxes(title_text="minutes; grey: warm-up", row=2, col=1)
        figure.write_html(path, include_plotlyjs=True)


class Readers:
    """Threads that ask a daemon for everything until they are stopped."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self._daemon = daemon
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.requests = self.failed = self.messages = 0
        self._threads = [threading.Thread(target=target) for target in (self._ask, self._ask_anew, self._listen)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _paths(self) -> Iterator[str]:
        while True:
            names = [server["server_name"] for server in self._current()]
            yield from ("/status", "/metrics", "/alerts/active", "/fleet/summary", "/predictions/current?limit=20")
            yield from ("/readyz", "/alerts/history", "/models", "/openapi.json")
            for name in names[::10]:
                yield from (f"/predictions/{name}", f"/history/{name}?hours=24", f"/explain/{name}")

    def _current(self) -> list[dict[str, str]]:
        answer = self._daemon.client.get("/predictions/current")
        self._count(answer.status_code)
        servers: list[dict[str, str]] = answer.json()["predictions"]
        return servers

    def _count(self, status: int) -> None:
        with self._lock:
            self.requests += 1
            self.failed += not 200 <= status < 400

    def _ask(self) -> None:
        """With a connection that is kept."""
        paths = self._paths()
        while not self._stopping.wait(0.1):
            try:
                self._count(self._daemon.client.get(next(paths)).status_code)
            except httpx2.HTTPError:
                self._count(0)

    def _ask_anew(self) -> None:
        """With a new connection each time, half of which go away without having read."""
        number = 0
        while not self._stopping.wait(0.5):
            number += 1
            try:
                with httpx2.Client(base_url=self._daemon.url, timeout=30, trust_env=False) as client:
                    if number % 2:
                        self._count(client.get("/predictions/current").status_code)
                    else:
                        with client.stream("GET", "/predictions/current") as answer:
                            self._count(answer.status_code)
            except httpx2.HTTPError:
                self._count(0)

    def _listen(self) -> None:
        """To the WebSocket, which is opened anew every hundred messages."""
        address = self._daemon.url.replace("http", "ws", 1) + "/ws/predictions"
        while not self._stopping.is_set():
            try:
                with connect(address, max_size=None, proxy=None) as stream:
                    for _ in range(100):
                        while not self._stopping.is_set():
                            with contextlib.suppress(TimeoutError):
                                stream.recv(timeout=1.0)
                                break
                        if self._stopping.is_set():
                            return
                        self.messages += 1
            except (OSError, WebSocketException):
                self._count(0)
                self._stopping.wait(1.0)


@contextlib.contextmanager
def streamed(daemon: RunningDaemon, fleet: Path, speed: float) -> Iterator[dict[str, int]]:
    """Stream a fleet for as long as the block; the answer is filled when it has ended."""
    command = [sys.executable, str(ROOT / "main.py"), "generate", "--stream", "--json", "--out_dir", str(fleet)]
    told: dict[str, int] = {}
    with subprocess.Popen(
        [*command, "--url", daemon.url, "--speed", str(speed), "--warmup_hours", str(HISTORY_HOURS)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TFT_LOG_LEVEL": "ERROR"},
        start_new_session=True,
    ) as process:
        try:
            yield told
        finally:
            process.send_signal(signal.SIGINT)
            try:
                text, _ = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            told.update(json.loads(text))


def soak(daemon: RunningDaemon, fleet: Path, minutes: float, speed: float) -> tuple[Samples, dict[str, float]]:
    """Measure; Ctrl-C ends it early."""
    samples = Samples()
    interrupted = 0
    with streamed(daemon, fleet, speed) as told:
        try:
            while not daemon.client.get("/predictions/current").json().get("count"):
                time.sleep(1.0)
            with Readers(daemon) as readers:
                began = told_at = time.monotonic()
                end = began + minutes * 60
                try:
                    while (now := time.monotonic()) < end:
                        samples.take(daemon, now - began)
                        if now - told_at >= SAY_SECONDS or len(samples.seconds) == 1:
                            told_at = now
                            rss, files = samples.rss_mb[-1], samples.descriptors[-1]
                            say(f"{rss:.0f} MB, {files} open files; about {(end - now) / 60:.0f} min remaining")
                        time.sleep(min(SAMPLE_SECONDS, max(0.0, end - now)))
                except KeyboardInterrupt:
                    say("ended early; what was measured so far:")
                    interrupted = 1
            forecasts = daemon.client.get("/status").json()["forecasts"]
        except FileNotFoundError:
            raise SystemExit(f"the daemon has ended:\n{(daemon.folder / 'daemon.log').read_text()[-2000:]}") from None
    return samples, {
        "forecasts": forecasts["count"],
        "forecast_errors": forecasts["errors"],
        "requests": readers.requests,
        "messages": readers.messages,
        "non_2xx": readers.failed,
        "accepted_rows": told["accepted"],
        "interrupted": interrupted,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=Path("models/latest"))
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--servers", type=int, default=90)
    parser.add_argument("--speed", type=float, default=10.0, help="times real time (10)")
    parser.add_argument("--plot", type=Path, metavar="FILE.html", help="draw memory and open files over time")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    if not options.model_dir.exists():
        raise SystemExit(f"There is no model folder at {options.model_dir}: train one, or name one with --model-dir.")
    if not Path("/proc/self/status").exists():
        raise SystemExit("There is no /proc here, from which memory and open files are read: this needs Linux.")
    with tempfile.TemporaryDirectory() as name:
        fleet = Path(name) / "fleet"
        command = [sys.executable, str(ROOT / "main.py"), "generate", "--json", "--out_dir", str(fleet)]
        size = ["--servers", str(options.servers), "--hours", str(2 * HISTORY_HOURS), "--interval", "1m"]
        subprocess.run([*command, *size], check=True, stdout=subprocess.DEVNULL)
        with running_daemon(options.model_dir, TFT_DAEMON_SETTLE_SECONDS="0.2") as daemon:
            samples, figures = soak(daemon, fleet, options.minutes, options.speed)
    if options.plot:
        samples.draw(options.plot)
    report({**samples.figures(), **figures}, as_json=options.json)


if __name__ == "__main__":
    main()
