"""What the dashboard looks like: each page in two sizes and two colour schemes against its stored picture.

`make screenshots` renews the stored ones after a change that is meant: look at each before it is committed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboard_pictures import (
    SCHEMES,
    SHOTS,
    SIZES,
    STORED,
    Picture,
    compare,
    file_of,
    open_look,
    shoot,
    show_difference,
    still_dashboard,
    visit,
)
from live_dashboard import CHROMIUM, running_browser
from PIL import Image, ImageDraw

LARGEST_BYTES = 2_000_000  # all stored pictures together

needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with still_dashboard(tmp_path_factory.mktemp("streamlit")) as url:
        yield url


@pytest.fixture(scope="module")
def looks() -> Iterator[dict[str, Any]]:
    """A page for each colour scheme, in one browser."""
    with running_browser() as browser:
        yield {scheme: open_look(browser, scheme) for scheme in SCHEMES}


def stored(name: str, size: str, scheme: str) -> Picture:
    with Image.open(file_of(name, size, scheme)) as picture:
        return picture.convert("RGB")


def check(name: str, size: str, scheme: str, actual: Picture, folder: Path) -> str:
    """Empty, or what is wrong and where it can be seen."""
    label = f"{name}_{size}_{scheme}"
    if not file_of(name, size, scheme).exists():
        return f"{label}: no picture is stored; `make screenshots` takes it"
    expected = stored(name, size, scheme)
    found = compare(expected, actual)
    if found.same:
        return ""
    show_difference(folder, label, expected, actual, found)
    return (
        f"{label}: {found.share:.2%} of the pixels differ, {found.block_share:.0%} of the block at {found.at}; see "
        f"{folder / label}-actual.png, -expected.png and -difference.png; if it is meant: `make screenshots`"
    )


class TestPages:
    pytestmark = needs_browser

    @pytest.mark.parametrize("name", SHOTS)
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_looks_as_stored(
        self, dashboard: str, looks: dict[str, Any], scheme: str, name: str, tmp_path: Path
    ) -> None:
        page = looks[scheme]
        visit(page, dashboard, name)
        wrong = []
        for size, (width, _) in SIZES.items():
            wrong.append(check(name, size, scheme, shoot(page, size), tmp_path))
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{name} scrolls sideways at {width} pixels: its content is {wide} wide"
            if SHOTS[name].get("demo"):
                assert page.get_by_text("DEMO DATA").filter(visible=True).count() >= 1
        assert not any(wrong), "\n".join(filter(None, wrong))

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            # one cell of ninety has another colour
            ("heatmap", '.tf-cells a[href*="ppetl009"] { background: #5fb88a !important }'),
            ("historical", ".js-plotly-plot .main-svg { visibility: hidden }"),
            ("overview", ".tf-demo { visibility: hidden }"),
            ("overview", ".tf .big { font-size: 16px !important }"),
        ],
    )
    def test_a_real_change_fails(
        self, dashboard: str, looks: dict[str, Any], name: str, change: str, tmp_path: Path
    ) -> None:
        page = looks["light"]
        visit(page, dashboard, name)
        page.add_style_tag(content=change)
        problem = check(name, "desktop", "light", shoot(page, "desktop"), tmp_path)
        assert f"{name}_desktop_light: " in problem, f"not noticed: {change}"
        assert {path.name for path in tmp_path.iterdir()} == {
            f"{name}_desktop_light-{kind}.png" for kind in ("actual", "expected", "difference")
        }


class TestComparison:
    """What it lets pass and what it does not, on a stored picture."""

    def test_the_same_is_the_same(self) -> None:
        picture = stored("overview", "desktop", "light")
        found = compare(picture, picture)
        assert (found.share, found.block_share, found.same) == (0.0, 0.0, True)

    def test_slightly_other_shades_pass(self) -> None:
        picture = stored("overview", "desktop", "light")
        assert compare(picture, picture.point([max(0, value - 6) for value in range(256)] * 3)).same

    def test_one_tile_of_another_colour_fails(self) -> None:
        picture = stored("heatmap", "desktop", "light")
        changed = picture.copy()
        ImageDraw.Draw(changed).rectangle((600, 700, 640, 724), fill="#c62828")
        found = compare(picture, changed)
        assert found.share < 0.001, "small in the whole picture"
        assert not found.same

    def test_what_moved_down_by_a_line_fails(self) -> None:
        picture = stored("top", "phone", "dark")
        moved = picture.copy()
        moved.paste(picture.crop((0, 400, picture.width, picture.height - 20)), (0, 420))
        assert not compare(picture, moved).same

    def test_the_other_scheme_fails(self) -> None:
        assert not compare(stored("server", "phone", "light"), stored("server", "phone", "dark")).same

    def test_another_size_fails(self) -> None:
        picture = stored("overview", "phone", "light")
        found = compare(picture, picture.crop((0, 0, picture.width, picture.height - 1)))
        assert not found.same
        assert found.marks is None


def test_what_is_stored_is_what_is_compared_and_small() -> None:
    names = {file_of(name, size, scheme) for name in SHOTS for size in SIZES for scheme in SCHEMES}
    files = set(STORED.glob("*.png"))
    assert files == names
    assert sum(path.stat().st_size for path in files) < LARGEST_BYTES
