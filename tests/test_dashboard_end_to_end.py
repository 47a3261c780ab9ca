"""From measurements to what a person reads: a real daemon with a real model, the real dashboard, a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from live_dashboard import CHROMIUM, free_port, running_browser, running_dashboard
from test_daemon_process import Process

from common_utils import floor_to_step, iso_z, utc_now

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}: apt-get install chromium"),
]

HOSTILE_NAME = "<img src=x onerror=alert(1)>"
NAMES = ("ppweb001", "ppdb001", "ppml001", HOSTILE_NAME)
STEPS = 60
SERVER_TIMEOUT_MS = 60_000


def rows(names: tuple[str, ...], steps: range, cpu_pct: float) -> list[dict[str, Any]]:
    """Measurements of servers that are calm but for their CPU; step 0 is the last one that is complete."""
    last = floor_to_step(utc_now(), 5) - timedelta(minutes=5)
    return [
        {
            "timestamp": iso_z(last - timedelta(minutes=5 * step)),
            "server_name": name,
            "cpu_pct": cpu_pct,
            "mem_pct": 30.0,
            "disk_io_mb_s": 10.0,
            "latency_ms": 20.0,
        }
        for name in names
        for step in steps
    ]


class Daemon:
    """A daemon that can be killed and started again at the same address, with the same history."""

    def __init__(self, folder: Path, model_dir: Path) -> None:
        self.folder, self.model_dir, self.port = folder, model_dir, free_port()
        self.start()

    def start(self) -> None:
        self.process = Process(
            self.folder, self.model_dir, "--port", str(self.port), TFT_HISTORY_DIR=str(self.folder / "history")
        )
        self.process.wait_until_listening()


@pytest.fixture(scope="module")
def daemon(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    running = Daemon(tmp_path_factory.mktemp("daemon"), tiny_model_dir)
    yield running
    running.process.end()


@pytest.fixture(scope="module")
def dashboard(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_dashboard(daemon.process.url, tmp_path_factory.mktemp("streamlit")) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as chromium:
        yield chromium


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    opened = context.new_page()
    opened.set_default_timeout(SERVER_TIMEOUT_MS)
    yield opened
    context.close()


def test_a_calm_fleet_is_green_and_one_driven_to_99_percent_is_red_and_says_why(
    daemon: Daemon, dashboard: str, browser: Any, page: Any
) -> None:
    # The tests of this module run in order: this one fills the daemon.
    daemon.process.post(rows(NAMES, range(1, STEPS), cpu_pct=20.0))
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(dashboard)
    hero = page.locator(".tf-hero .mark")
    hero.wait_for()
    assert "tf-healthy" in hero.get_attribute("class")
    page.get_by_text("None is critical now.").wait_for()
    assert daemon.process.get("/alerts/active")["alerts"] == []
    # Driven to 99 %: the page turns red by itself, without a reload.
    page.evaluate("window.notReloaded = true")
    daemon.process.post(rows(NAMES, range(1), cpu_pct=99.0))
    page.locator(".tf-hero .mark.tf-critical").wait_for()
    page.get_by_text(re.compile(r"4 critical now")).wait_for()
    assert "CPU" in page.locator(".tf-hero").inner_text()
    assert page.evaluate("window.notReloaded")
    # Every panel, then a server, then the same link in another browser.
    page.get_by_role("radio", name="Top Servers").click()
    page.get_by_text(HOSTILE_NAME).first.wait_for()
    page.get_by_role("radio", name="Heatmap").click()
    page.locator(".tf-cells a", has_text="ppdb001").click()
    page.wait_for_url("**server=ppdb001**")
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    other = browser.new_context()
    shared = other.new_page()
    shared.goto(page.url)
    shared.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=SERVER_TIMEOUT_MS)
    assert shared.get_by_text("ppdb001").first.is_visible()
    other.close()
    for panel in ("Historical", "Advanced", "Overview"):
        page.get_by_role("radio", name=panel).click()
        page.get_by_role("radio", name=panel, checked=True).wait_for()
        page.locator(".tf-strip").wait_for()
        assert page.locator("[data-testid=stException]").count() == 0
    assert page.locator("img[src=x]").count() == 0 and not dialogs


def test_a_daemon_that_is_killed_is_said_to_be_gone_and_is_shown_again_with_its_history(
    daemon: Daemon, dashboard: str, page: Any
) -> None:
    page.goto(dashboard)
    page.locator(".tf-badge", has_text="Connected").wait_for()
    daemon.process.end()  # SIGKILL
    page.get_by_text(f"No daemon answers at {daemon.process.url}.").wait_for()
    assert page.locator(".tf-hero").count() == 0  # nothing is shown in place of forecasts
    daemon.start()
    page.locator(".tf-badge", has_text="Connected").wait_for()
    page.get_by_text(re.compile(r"4 critical now")).wait_for()
