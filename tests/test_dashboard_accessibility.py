"""Whether people can use the dashboard who see, point or tell colours apart otherwise: axe-core and the keyboard.

axe-core (https://github.com/dequelabs/axe-core) finds what a program can find of WCAG 2.2 A and AA. Nothing serious or
critical may be left, in the light and the dark theme, on a desktop and on a phone.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser_pages import MARKS, browser, dashboard, page, server, settled

from dashboard_view import PANELS

pytestmark = MARKS
__all__ = ["browser", "dashboard", "page", "server"]  # fixtures

PAGES = (*PANELS, "server")


def faults_of(page: Any) -> list[str]:
    """Serious and critical violations of a page, each with the element."""
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:200]} {json.dumps(node['any'][:1])[:300]}"
        for rule in found
        if rule["impact"] in {"serious", "critical"}
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "dark")])
def test_no_page_has_a_serious_fault(browser: Any, dashboard: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(60_000)
    faults = {}
    for name in PAGES:
        page.goto(f"{dashboard}/?panel={name}&server=ppweb002&refresh=off")
        settled(page, name)
        ground = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
        is_dark = sum(int(part) for part in ground.strip("rgba()").split(",")[:3]) < 384
        assert is_dark == (scheme == "dark"), f"{name} does not follow the viewer's theme: {ground}"
        found = faults_of(page)
        if found:
            faults[name] = found
    context.close()
    assert faults == {}, json.dumps(faults, indent=1)


def test_axe_does_find_faults(page: Any, dashboard: str) -> None:
    """The drill would notice: a text in a colour that is hard to read, and a picture without words."""
    page.goto(f"{dashboard}/?refresh=off")
    settled(page, "overview")
    page.evaluate(
        "document.querySelector('.tf-hero .big').style.color = '#fff3f3';"
        "document.querySelector('.tf-hero').insertAdjacentHTML('beforeend', '<img src=\"data:,\">')"
    )
    faults = faults_of(page)
    assert any(fault.startswith("color-contrast") for fault in faults)
    assert any(fault.startswith("image-alt") for fault in faults)


def test_the_keyboard_reaches_panels_links_and_cells_and_shows_where_it_is(page: Any, dashboard: str) -> None:
    page.goto(f"{dashboard}/?panel=heatmap&refresh=off")
    settled(page, "heatmap")
    reached: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        text, outlined = page.evaluate(
            "(() => { const e = document.activeElement, s = getComputedStyle(e);"
            "return [e.title || e.innerText || e.ariaLabel || '',"
            " s.outlineStyle !== 'none' || s.boxShadow !== 'none' || e.matches(':focus-visible')]; })()"
        )
        assert outlined, f"nothing shows that {text!r} has the focus"
        reached.append(text.strip().split("\n")[0])
        if text.startswith("ppweb002"):
            break
    assert reached[-1].startswith("ppweb002"), reached
    page.keyboard.press("Enter")
    settled(page, "server")
    assert "panel=server&server=ppweb002" in page.url


def test_panels_are_switched_with_the_keyboard(page: Any, dashboard: str) -> None:
    page.goto(f"{dashboard}/?refresh=off")
    settled(page, "overview")
    page.get_by_role("radio", name="Overview").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    settled(page, "heatmap")
