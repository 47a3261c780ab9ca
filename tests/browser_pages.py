"""The dashboard in a real browser: Streamlit's own process, Chromium, and recorded answers over a real socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from recorded_daemon import RecordedDaemon

from dashboard_view import PANELS

CHROMIUM = Path("/usr/bin/chromium")
ROOT = Path(__file__).parents[1]
FLAGS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-gpu",
    "--no-first-run",
)

MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}: apt-get install chromium"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RealServer:
    """The recorded answers over a real socket; it can be stopped and started again on the same port."""

    def __init__(self, daemon: RecordedDaemon) -> None:
        self.daemon = daemon
        self.port = free_port()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.daemon.app, host="127.0.0.1", port=self.port, log_level="error", ws="none", lifespan="off"
            )
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for_http(f"{self.url}/status")

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._server.force_exit = True
            self._thread.join(timeout=20)
            self._server = None


def wait_for_http(url: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx2.get(url, trust_env=False).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    real = RealServer(RecordedDaemon())
    real.start()
    yield real
    real.stop()


@pytest.fixture(scope="module")
def dashboard(server: RealServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running `streamlit run tft_dashboard_web.py`."""
    port = free_port()
    log = tmp_path_factory.mktemp("streamlit") / "log.txt"
    environment = {**os.environ, "TFT_DAEMON_URL": server.url, "TFT_REFRESH_SECONDS": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", "tft_dashboard_web.py", "--server.port", str(port)],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for_http(f"http://127.0.0.1:{port}/_stcore/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    yield opened
    context.close()


def settled(page: Any, panel: str) -> None:
    """Wait until the panel is drawn and its chart, if it has one, too."""
    page.locator(".tf-strip").wait_for()
    if panel in PANELS:
        page.get_by_role("radio", name=PANELS[panel], checked=True).wait_for()
    if panel in {"historical", "server"}:
        page.locator(".js-plotly-plot .main-svg").first.wait_for()
    page.wait_for_timeout(500)
