"""A dashboard of its own for a benchmark: `streamlit run` on a free port, and a browser that keeps its own times."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")

# Runs in the page before anything of Streamlit's: when the browser asked, what came, when the page changed. Changes
# of attributes alone (Streamlit dims what is being renewed) are no news to a viewer and are not counted.
WATCH = """
(() => {
  const seen = window.__seen = {first: null, asked: [], received: [], changed: []};
  const Socket = window.WebSocket;
  window.WebSocket = class extends Socket {
    constructor(...given) {
      super(...given);
      this.addEventListener("message", event => seen.received.push(
        [performance.now(), event.data.byteLength ?? event.data.size ?? event.data.length]));
    }
    send(data) { seen.asked.push(performance.now()); return super.send(data); }
  };
  new MutationObserver(() => {
    const headline = document.querySelector(".tf-hero .big");
    if (seen.first === null && headline && headline.checkVisibility()) seen.first = performance.now();
    if (headline) seen.changed.push(performance.now());
  }).observe(document, {childList: true, characterData: true, subtree: true});
})()
"""


@dataclass
class RunningDashboard:
    """A dashboard that answers."""

    process: subprocess.Popen[bytes]
    url: str

    @property
    def cpu_seconds(self) -> float:
        """Processor time that its process has used so far."""
        numbers = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running_dashboard(daemon_url: str, refresh_seconds: float) -> Iterator[RunningDashboard]:
    """Run `streamlit run tft_dashboard_web.py` for as long as the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", "tft_dashboard_web.py", "--server.port", str(port)],
            cwd=ROOT,
            env={**os.environ, "TFT_DAEMON_URL": daemon_url, "TFT_REFRESH_SECONDS": f"{refresh_seconds:g}"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            for _ in range(600):
                with contextlib.suppress(httpx2.HTTPError):
                    if httpx2.get(f"{url}/_stcore/health", trust_env=False).status_code == 200:
                        break
                time.sleep(0.1)
            else:
                log.seek(0)
                raise SystemExit(log.read().decode(errors="replace"))
            yield RunningDashboard(process, url)
        finally:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def running_browser() -> Iterator[Any]:
    """Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield chromium
        chromium.close()
