"""The dashboard for those who cannot see it well or use no mouse: axe on every panel, and the keyboard alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from live_dashboard import CHROMIUM, running_browser, running_dashboard, served
from recorded_daemon import RecordedDaemon

from dashboard_view import PANELS

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}: apt-get install chromium"),
]

# Should a fault of Streamlit's own markup have to be left out one day: its selector here, its reason in
# Docs/DASHBOARD_GUIDE.md.
NOT_OURS: tuple[str, ...] = ()
GRAVE = {"serious", "critical"}
SIZES = {"desktop": (1280, 860), "phone": (390, 844)}
PAGES = {
    **{panel: f"?panel={panel}&refresh=off" for panel in PANELS},
    "server": "?panel=server&server=ppweb002&refresh=off",
}


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with (
        served(RecordedDaemon().app) as daemon,
        running_dashboard(daemon, tmp_path_factory.mktemp("streamlit"), 300) as url,
    ):
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running_browser() as chromium:
        yield chromium


def settled(page: Any, name: str) -> None:
    page.locator(".tf-strip").wait_for()
    if name in {"historical", "server"}:
        page.locator(".js-plotly-plot .main-svg").first.wait_for()
    page.locator("[data-testid=stStatusWidget]").wait_for(state="detached")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_no_grave_fault_on_any_page(browser: Any, dashboard: str, scheme: str, size: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    faults: list[str] = []
    for name, query in PAGES.items():
        page.goto(f"{dashboard}/{query}")
        settled(page, name)
        given = {"include": [["body"]], "exclude": [[selector] for selector in NOT_OURS]}
        found = Axe().run(page, context=given, options={"resultTypes": ["violations"]})
        for violation in found.response["violations"]:
            for node in violation["nodes"]:
                line = f"{name}: {violation['impact']} {violation['id']} {node['target']} {node['failureSummary']}"
                if violation["impact"] in GRAVE:
                    faults.append(line)
                else:
                    print(line)  # told, with -s; no reason to fail
    context.close()
    assert not faults, "\n".join(faults)


def test_the_page_is_as_dark_or_as_light_as_the_viewers_system(browser: Any, dashboard: str) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(f"{dashboard}/?refresh=off")
        page.locator(".tf-strip").wait_for(timeout=60_000)
        colour = page.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
        shades[scheme] = sum(int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(","))
        context.close()
    assert shades["light"] > 600 and shades["dark"] < 165


FOCUSED = """() => {
  const focused = document.activeElement;
  const drawn = style => style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
  const ringed = element => drawn(getComputedStyle(element)) || getComputedStyle(element).boxShadow !== 'none';
  const around = [...document.querySelectorAll(':focus-within')].slice(-3);  // Streamlit rings a label around its input
  return {text: focused.innerText ?? '', href: focused.getAttribute('href') ?? '', ring: around.some(ringed)};
}"""


def tab_until(page: Any, wanted: str, at_most: int = 80) -> dict[str, Any]:
    """Press Tab until what has the focus links to or reads as wanted."""
    passed = []
    for _ in range(at_most):
        page.keyboard.press("Tab")
        focused: dict[str, Any] = page.evaluate(FOCUSED)
        passed.append(focused["href"] or focused["text"])
        if wanted in (focused["text"].strip(), focused["href"]) or wanted in focused["href"]:
            return focused
    raise AssertionError(f"Tab does not reach {wanted}; it passes {passed}")


def test_the_keyboard_reaches_the_panels_and_a_cell_and_enter_opens_its_server(browser: Any, dashboard: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{dashboard}/?refresh=off")
    settled(page, "overview")
    assert tab_until(page, "Overview")["ring"]
    page.keyboard.press("ArrowRight")
    if "panel=heatmap" not in page.url:
        page.keyboard.press("Space")
    page.wait_for_url("**panel=heatmap**")
    settled(page, "heatmap")
    page.locator(".tf-cells a", has_text="ppdb001").wait_for()
    assert tab_until(page, "server=ppdb001")["ring"]
    page.keyboard.press("Enter")
    page.wait_for_url("**server=ppdb001**")
    settled(page, "server")
    context.close()
