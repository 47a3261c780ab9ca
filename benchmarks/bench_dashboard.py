"""How quickly the dashboard is there and refreshes: a real daemon, a real Streamlit, a real browser.

    python benchmarks/bench_dashboard.py [--json] [--servers 90 1000 5000] [--model-dir models/latest]

For each size of fleet, on this machine, daemon, dashboard and browser beside each other:

- **first paint**: from asking for the address to the headline of the overview being on the screen, in a browser with
  an empty cache; median of `ROUNDS`. `first_visit` is the very first one after the dashboard's start.
- **refresh**: from the browser's message that asks for it to the last change on the page before the next one, as seen
  from inside the page; median of the refreshes of `WATCHED_SECONDS`, while rows of one new step come in. `worst` is the
  longest of them: the one with new forecasts. `kb` is what the server sends for one.
- **panel**: the same of the heatmap, of the worst servers and of a server's page.
- **viewers**: seconds of processor time that Streamlit takes for one refresh of one of 10 viewers of the overview.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from daemon_under_test import ROOT, STEP, RunningDaemon, made_up_rows, present, running_daemon
from measured import report, say

ROUNDS = 5
WATCHED_SECONDS = 24.0
REFRESH_SECONDS = 3
VIEWERS = 10
HISTORY_STEPS = 72
CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run")
PANELS = {"heatmap": "?panel=heatmap", "top": "?panel=top", "server": "?panel=server"}
# Remembers, inside the page, when messages go out and come in, how large they are, and when the page changed
WATCH = """
window.watched = {sent: [], got: [], changed: []};
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (data) { watched.sent.push(performance.now()); return send.call(this, data); };
const Plain = WebSocket;
window.WebSocket = class extends Plain {
  constructor(...all) {
    super(...all);
    this.addEventListener('message', (event) =>
      watched.got.push([performance.now(), event.data.size ?? event.data.byteLength ?? event.data.length]));
  }
};
document.addEventListener('DOMContentLoaded', () => new MutationObserver(
  () => watched.changed.push(performance.now())
).observe(document.body, {subtree: true, childList: true, characterData: true, attributes: false}));
"""


@dataclass
class RunningDashboard:
    """A dashboard that listens."""

    process: subprocess.Popen[bytes]
    url: str

    @property
    def cpu_seconds(self) -> float:
        """Processor time that it has taken so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def rss_mb(self) -> float:
        """Memory that is in RAM."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return round(int(found[1]) / 1024, 1) if found else float("nan")


@contextlib.contextmanager
def running_dashboard(daemon: RunningDaemon) -> Iterator[RunningDashboard]:
    """Run Streamlit on a free port for as long as the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with (daemon.folder / "dashboard.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", "tft_dashboard_web.py", "--server.port", str(port)],
            cwd=ROOT,
            env={**os.environ, "TFT_DAEMON_URL": daemon.url, "TFT_REFRESH_SECONDS": str(REFRESH_SECONDS)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(httpx2.HTTPError):
                if httpx2.get(f"{url}/_stcore/health", trust_env=False).status_code == 200:
                    break
            time.sleep(0.1)
        yield RunningDashboard(process, url)
    finally:
        process.terminate()
        process.wait(30)


def first_paint(browser: Any, url: str) -> float:
    """Seconds until the headline is on the screen of a browser with an empty cache."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.locator(".tf-hero .big").wait_for(timeout=120_000)
    seconds = time.perf_counter() - started
    context.close()
    return seconds


def refreshes(browser: Any, url: str, seconds: float, meanwhile: Any = None) -> list[tuple[float, float]]:
    """Milliseconds and kilobytes of each refresh of a page that is watched for a while."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(url, wait_until="commit")
    page.locator(".tf-strip").wait_for(timeout=120_000)
    page.wait_for_timeout(REFRESH_SECONDS * 1000)
    page.evaluate("watched.sent = [], watched.got = [], watched.changed = []")
    if meanwhile is not None:
        meanwhile()
    page.wait_for_timeout(seconds * 1000)
    seen = page.evaluate("watched")
    context.close()
    found = []
    for begin, end in zip(seen["sent"], seen["sent"][1:], strict=False):
        changed = [moment for moment in seen["changed"] if begin < moment < end]
        size = sum(length for moment, length in seen["got"] if begin < moment < end)
        if changed and size:
            found.append((max(changed) - begin, size / 1000))
    if not found:
        raise SystemExit(f"No refresh was seen at {url}.")
    return found


def per_viewer(browser: Any, dashboard: RunningDashboard) -> float:
    """Processor seconds of the dashboard for one refresh of one of several viewers."""
    context = browser.new_context(viewport={"width": 800, "height": 600})
    for _ in range(VIEWERS):
        page = context.new_page()
        page.goto(dashboard.url, wait_until="commit")
        page.locator(".tf-strip").wait_for(timeout=120_000)
    time.sleep(2 * REFRESH_SECONDS)
    before, started = dashboard.cpu_seconds, time.perf_counter()
    page.wait_for_timeout(WATCHED_SECONDS * 1000)
    rounds = (time.perf_counter() - started) / REFRESH_SECONDS
    used = dashboard.cpu_seconds - before
    context.close()
    return used / rounds / VIEWERS


def measure(model_dir: Path, servers: int, browser: Any) -> dict[str, float]:
    """All figures of one size of fleet."""
    found: dict[str, float] = {}
    with running_daemon(model_dir) as daemon:
        start = present(HISTORY_STEPS)
        daemon.post(made_up_rows(servers, start, HISTORY_STEPS))
        while daemon.client.get("/predictions/current").json().get("count") != servers:
            time.sleep(0.1)
        with running_dashboard(daemon) as dashboard:
            found["first_visit_s"] = first_paint(browser, dashboard.url)
            found["first_paint_s"] = statistics.median(first_paint(browser, dashboard.url) for _ in range(ROUNDS))
            newer = made_up_rows(servers, start + HISTORY_STEPS * STEP, 1, seed=1)
            seen = refreshes(browser, dashboard.url, WATCHED_SECONDS, lambda: daemon.post(newer))
            found["refresh_ms"] = statistics.median(each for each, _ in seen)
            found["refresh_worst_ms"] = max(each for each, _ in seen)
            found["refresh_kb"] = statistics.median(size for _, size in seen)
            for panel, query in PANELS.items():
                seen = refreshes(browser, f"{dashboard.url}/{query}", WATCHED_SECONDS / 2)
                found[f"refresh_{panel}_ms"] = statistics.median(each for each, _ in seen)
                found[f"refresh_{panel}_kb"] = statistics.median(size for _, size in seen)
            found["cpu_s_per_viewer_refresh"] = per_viewer(browser, dashboard)
            found["rss_mb"] = dashboard.rss_mb
    return {f"{key}_{servers}_servers": round(value, 3) for key, value in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=Path("models/latest"))
    parser.add_argument("--servers", type=int, nargs="+", default=[90, 1000, 5000], help="sizes of fleet")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    if not options.model_dir.exists():
        raise SystemExit(f"There is no model folder at {options.model_dir}: train one, or name one with --model-dir.")
    if not Path(CHROMIUM).exists():
        raise SystemExit(f"There is no browser at {CHROMIUM}: apt-get install chromium.")
    from playwright.sync_api import sync_playwright

    figures: dict[str, float] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        for servers in options.servers:
            say(f"{servers:,} servers")
            figures |= measure(options.model_dir, servers, browser)
        browser.close()
    report(figures, as_json=options.json)


if __name__ == "__main__":
    main()
