"""`/docs` without a network: the page, its scripts and its policy, also in a real browser."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi.testclient import TestClient
from test_tft_inference import assert_problem, running

from api_keys import KeyRing
from config import Settings
from tft_inference import create_app

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture
def quiet(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"history_dir": tmp_path / "history"})


@pytest.fixture
def client(quiet: Settings, tmp_path: Path) -> Iterator[TestClient]:
    with running(quiet, tmp_path / "no_model") as client:
        yield client


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_the_page_and_all_that_it_names_come_from_the_daemon(client: TestClient, prefix: str) -> None:
    page = client.get(f"{prefix}/docs")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "http" not in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    named = [address for address in re.findall(r'(?:src|href)="([^"]+)"', page.text) if address != "data:,"]
    assert len(named) == 4 and not any("//" in address for address in named)
    for address in named:
        answer = client.get(f"{prefix}/{address}")
        assert answer.status_code == 200 and len(answer.content) > 100, address
    assert not re.search(r"<script>|\son\w+=", page.text), "nothing inline that the policy would refuse"


@pytest.mark.parametrize("asset", ["redoc.standalone.js", "..%2Fcore.py", "%2Fetc%2Fpasswd", "index.html"])
def test_nothing_else_of_the_package_or_disk_is_served(client: TestClient, asset: str) -> None:
    assert_problem(client.get(f"/docs/{asset}"), 404, "no-such-route")


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect"])
def test_the_pages_that_load_from_other_peoples_servers_are_gone(client: TestClient, path: str) -> None:
    assert_problem(client.get(path), 404, "no-such-route")


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}: apt-get install chromium")
def test_a_browser_shows_every_route_asks_nobody_else_and_reports_no_violation(quiet: Settings, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    app = create_app(quiet, tmp_path / "no_model", None, KeyRing(tmp_path / "absent"))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            asked: list[str] = []
            said: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(f"{address}/docs")
            page.wait_for_selector(".opblock")
            shown = page.locator(".opblock-summary-path").all_inner_texts()
            page.locator(".opblock-summary").first.click()
            page.wait_for_selector(".opblock-body")
            browser.close()
        paths = app.openapi()["paths"]
        assert {text.replace("\u200b", "") for text in shown} == set(paths)
        assert said == [] and {url.split("/docs")[0].removesuffix("/openapi.json") for url in asked} == {address}
    finally:
        server.should_exit = True
        thread.join()
