"""The dashboard in a real browser: Streamlit's own process, Chromium, and recorded answers over a real socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from live_dashboard import CHROMIUM, free_port, running_browser, running_dashboard, wait_for_http
from recorded_daemon import RecordedDaemon

from dashboard_view import PANELS

MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}: apt-get install chromium"),
]


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


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    real = RealServer(RecordedDaemon())
    real.start()
    yield real
    real.stop()


@pytest.fixture(scope="module")
def dashboard(server: RealServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running `streamlit run tft_dashboard_web.py`."""
    with running_dashboard(server.url, tmp_path_factory.mktemp("streamlit")) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as chromium:
        yield chromium


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
