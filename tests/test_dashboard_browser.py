"""The dashboard in a real browser: Streamlit's own process, Chromium, and the daemon's answers over a real socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from browser_pages import MARKS, RealServer, browser, dashboard, page, server, settled
from recorded_daemon import HOSTILE_NAME

from dashboard_view import PANELS

pytestmark = MARKS
__all__ = ["browser", "dashboard", "page", "server"]  # fixtures


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_no_panel_overflows_sideways_or_shows_an_exception(
    browser: Any, dashboard: str, width: int, scheme: str, tmp_path: Path
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(60_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    for panel in (*PANELS, "server"):
        page.goto(f"{dashboard}/?panel={panel}")
        settled(page, panel)
        page.screenshot(path=tmp_path / f"{panel}.png", full_page=True)
        assert page.locator("[data-testid=stException], [data-testid=stAlert]").count() == 0
        content, shown = page.evaluate(
            "[document.querySelector('[data-testid=stMain]').scrollWidth, document.documentElement.clientWidth]"
        )
        assert content <= shown, f"{panel} is {content} px wide on a screen of {shown} px"
        # Every panel can be reached without scrolling sideways.
        last = page.get_by_role("radio", name="Advanced").bounding_box()
        assert last["x"] + last["width"] <= width
    assert not faults
    context.close()


def test_a_hostile_server_name_is_text_and_runs_nothing(page: Any, dashboard: str) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    for panel in (*PANELS, "server"):
        page.goto(f"{dashboard}/?panel={panel}" + (f"&server={quote(HOSTILE_NAME)}" if panel == "server" else ""))
        settled(page, panel)
        if panel not in {"historical", "advanced"}:
            page.get_by_text(HOSTILE_NAME).first.wait_for()
        assert page.locator("img[src=x]").count() == 0
    assert not dialogs


def test_a_cell_of_the_heatmap_leads_to_its_servers_page_and_on_to_its_history(page: Any, dashboard: str) -> None:
    page.goto(f"{dashboard}/?panel=heatmap")
    page.locator(".tf-cells a", has_text="ppdb001").click()
    settled(page, "server")
    assert "panel=server&server=ppdb001" in page.url
    page.get_by_text("risk 0.50 Watch").wait_for()
    assert page.locator(".js-plotly-plot").count() == 4
    page.get_by_text("History and comparison").click()
    page.get_by_text("Memory risk 0.50 Watch").wait_for()
    assert "panel=historical&server=ppdb001" in page.url


def test_times_are_those_of_the_viewers_zone_with_utc_beside(browser: Any, dashboard: str) -> None:
    context = browser.new_context(timezone_id="Asia/Tokyo")
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(dashboard)
    page.get_by_text("Asia/Tokyo (UTC+09:00)").wait_for()
    time_shown = page.locator(".tf-strip time").first
    assert time_shown.inner_text().endswith("22:05")  # 13:05Z
    assert time_shown.get_attribute("title") == "2026-01-05 13:05Z"
    context.close()


def test_an_alert_is_taken_care_of_and_a_server_silenced_from_its_page(
    page: Any, dashboard: str, server: RealServer
) -> None:
    page.goto(f"{dashboard}/?panel=server&server=ppweb002")
    page.get_by_role("button", name="Take care of CPU").click()
    page.get_by_label("Your name").fill("kim")
    page.get_by_label("What is being done").fill("moving the batch job")
    page.wait_for_timeout(2_500)  # two refreshes go by: what is being written stays
    assert page.get_by_label("What is being done").input_value() == "moving the batch job"
    page.get_by_role("button", name="Take care of it").click()
    page.get_by_text("You take care of the CPU alert.").wait_for()
    assert server.daemon.bodies[-1] == {"author": "kim", "comment": "moving the batch job"}
    page.get_by_role("button", name="Silence this server").click()
    page.get_by_label("Why").fill("maintenance")
    page.get_by_role("button", name="Silence it").click()
    page.get_by_text("ppweb002 is silenced for 1 h.").wait_for()
    assert server.daemon.bodies[-1]["server_name"] == "ppweb002" and server.daemon.bodies[-1]["author"] == "kim"


def test_choices_are_kept_in_the_address_and_a_link_shows_them_again(browser: Any, page: Any, dashboard: str) -> None:
    page.goto(dashboard)
    page.get_by_role("radio", name="Heatmap").click()
    page.get_by_role("radio", name="Memory").click()
    page.get_by_text("Memory, now").wait_for()
    page.wait_for_url("**/?panel=heatmap&fill=mem_pct&at=now")
    other = browser.new_context().new_page()
    other.goto(page.url)
    other.get_by_text("Memory, now").wait_for(timeout=60_000)
    other.context.close()


def test_a_refresh_brings_new_forecasts_without_a_reload_and_keeps_the_choice(
    page: Any, dashboard: str, server: RealServer
) -> None:
    page.goto(f"{dashboard}/?panel=top&by=mem_pct")
    page.get_by_text("by Memory").wait_for()
    page.evaluate("window.notReloaded = true")
    before = server.daemon.answers["/predictions/current"]
    body = server.daemon.body("/predictions/current")
    body["predictions"][0]["current"]["mem_pct"] = 77.0
    server.daemon.answers["/predictions/current"] = (200, body)
    try:
        page.get_by_text("77 %").wait_for()
    finally:
        server.daemon.answers["/predictions/current"] = before
    assert page.evaluate("window.notReloaded")
    assert page.get_by_text("by Memory").is_visible()


def test_a_daemon_that_goes_and_comes_back_is_said_to_have_gone_and_is_shown_again(
    page: Any, dashboard: str, server: RealServer
) -> None:
    page.goto(dashboard)
    page.locator(".tf-badge", has_text="Connected").wait_for()
    server.stop()
    try:
        page.get_by_text(f"No daemon answers at {server.url}.").wait_for()
        page.get_by_role("button", name="Critical").click()
        page.get_by_text("These are not your servers.").wait_for()
        page.get_by_text("DEMO DATA").nth(1).wait_for()  # on the page's head and on the panel
    finally:
        server.start()
    page.locator(".tf-badge", has_text="Connected").wait_for()
    page.get_by_text("DEMO DATA").first.wait_for(state="detached")
    page.get_by_text("ppweb002").first.wait_for()
