"""Pictures of the dashboard that come out the same each time, and how two of them are compared.

    make screenshots        # renews tests/screenshots/

No daemon answers, so the dashboard shows its demo fleet; its clock stands still (`still_dashboard.py`), the browser's
zone and language are fixed, and the page's fonts come with Streamlit. What is left to differ between machines is how
letters and the few shapes that the fonts lack are drawn: that is what the tolerance is for.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt
from live_dashboard import running_browser, running_dashboard
from PIL import Image, ImageFilter

STORED = Path(__file__).parent / "screenshots"
VARIES = 'td[data-label="Time"]'  # how long a request took: painted over
NOBODY = "http://127.0.0.1:9"  # the discard port: no daemon answers, and the address that the page tells is the same
SIZES = {"desktop": (1280, 1400), "phone": (390, 1800)}
SCHEMES = ("light", "dark")
SHOTS: dict[str, dict[str, str]] = {  # name of a picture → its query; all are taken in every size and scheme
    "overview": {"panel": "overview", "demo": "critical"},
    "heatmap": {"panel": "heatmap", "demo": "critical"},
    "top": {"panel": "top", "demo": "critical"},
    "historical": {"panel": "historical", "demo": "critical"},
    "advanced": {"panel": "advanced", "demo": "critical"},
    "server": {"panel": "server", "demo": "critical"},
    "unreachable": {"panel": "overview"},
}
PLOTTED = frozenset({"historical", "server"})
MOST_TRIES = 40

# ------------------------------------------------------------------------------------------------------ the comparison
BLUR_PIXELS = 1  # radius; evens out how the edges of letters are smoothed
MOST_SHADE = 24  # of 255, in any of red, green and blue; a pixel that is further off differs
MOST_SHARE = 0.005  # of the pixels of a whole picture
BLOCK = 24  # pixels, about the height of a heatmap's cell or of a line of text
MOST_BLOCK_SHARE = 0.4  # of the pixels of any block: a tile of another colour is small in the whole picture

Picture = Image.Image


@dataclass(frozen=True)
class Difference:
    """How far two pictures differ.

    Attributes
    ----------
    share : float
        Of the pixels, how many differ.
    block_share : float
        The same of the block in which most do.
    at : tuple of int
        Left upper corner of that block.
    marks : ndarray or None
        Which pixels differ; None where the sizes do.
    """

    share: float
    block_share: float
    at: tuple[int, int]
    marks: npt.NDArray[np.bool_] | None

    @property
    def same(self) -> bool:
        return self.share <= MOST_SHARE and self.block_share <= MOST_BLOCK_SHARE


def compare(expected: Picture, actual: Picture) -> Difference:
    """How far a picture is from the one that is expected."""
    if expected.size != actual.size:
        return Difference(1.0, 1.0, (0, 0), None)
    blurred = [
        np.asarray(each.convert("RGB").filter(ImageFilter.BoxBlur(BLUR_PIXELS)), dtype=np.int16)
        for each in (expected, actual)
    ]
    marks = np.abs(blurred[0] - blurred[1]).max(axis=2) > MOST_SHADE  # (height, width)
    height, width = marks.shape
    padded = np.zeros((-(-height // BLOCK) * BLOCK, -(-width // BLOCK) * BLOCK), dtype=bool)
    padded[:height, :width] = marks
    blocks = padded.reshape(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK).mean(axis=(1, 3))
    row, column = np.unravel_index(int(blocks.argmax()), blocks.shape)
    return Difference(float(marks.mean()), float(blocks.max()), (int(column) * BLOCK, int(row) * BLOCK), marks)


def show_difference(folder: Path, name: str, expected: Picture | None, actual: Picture, found: Difference) -> None:
    """Write what came, what was expected, and the first with all that differs in magenta on a faded ground."""
    folder.mkdir(parents=True, exist_ok=True)
    actual.save(folder / f"{name}-actual.png")
    if expected is None:
        return
    expected.save(folder / f"{name}-expected.png")
    if found.marks is not None:
        faded = np.asarray(Image.blend(actual.convert("L").convert("RGB"), Image.new("RGB", actual.size, "white"), 0.7))
        shown = np.where(found.marks[..., None], np.array([214, 0, 147], dtype=np.uint8), faded)
        Image.fromarray(shown.astype(np.uint8)).save(folder / f"{name}-difference.png")


# -------------------------------------------------------------------------------------------------------- the pictures
@contextmanager
def still_dashboard(folder: Path) -> Iterator[str]:
    """Address of one without a daemon, for which it is always `NOW`; no setting of the caller changes what it shows."""
    unset = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("TFT_")}
    try:
        with running_dashboard(NOBODY, folder, script="tests/still_dashboard.py") as url:
            yield url
    finally:
        os.environ.update(unset)


def open_look(browser: Any, scheme: str) -> Any:
    """A page of a browser in a fixed zone and language."""
    context = browser.new_context(
        color_scheme=scheme, timezone_id="Europe/Berlin", locale="en-GB", reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    return page


def visit(page: Any, url: str, name: str) -> None:
    """Go to what a picture shows and wait until it is drawn."""
    page.set_viewport_size(dict(zip(("width", "height"), SIZES["desktop"], strict=True)))
    page.goto(f"{url}/?{urlencode({**SHOTS[name], 'refresh': 'off'})}")
    page.locator(".tf-strip").wait_for()
    if name in PLOTTED:
        page.locator(".js-plotly-plot .main-svg").first.wait_for()
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for()
    page.evaluate("document.fonts.ready")


def shoot(page: Any, size: str) -> Picture:
    """The page as it stands when nothing in it moves any more: two looks in a row that are equal."""
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    before = b""
    for _ in range(MOST_TRIES):
        now = page.screenshot(animations="disabled", caret="hide", mask=[page.locator(VARIES)], mask_color="#808080")
        if now == before:
            return Image.open(io.BytesIO(now)).convert("RGB")
        before = now
        page.wait_for_timeout(150)
    raise AssertionError(f"{page.url} does not come to rest")


def file_of(name: str, size: str, scheme: str) -> Path:
    """Where a picture is stored."""
    return STORED / f"{name}_{size}_{scheme}.png"


def store(picture: Picture, path: Path) -> None:
    """Keep a picture: 64 colours are near enough for the comparison, at a fourth of the size."""
    path.parent.mkdir(exist_ok=True)
    picture.quantize(64, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


def take_all(folder: Path) -> Iterator[tuple[Path, Picture]]:
    """Every picture with the place where it is stored."""
    with still_dashboard(folder) as url, running_browser() as browser:
        for scheme in SCHEMES:
            page = open_look(browser, scheme)
            for name in SHOTS:
                visit(page, url, name)
                for size in SIZES:
                    yield file_of(name, size, scheme), shoot(page, size)
            page.context.close()


def main() -> None:
    """Renew the stored pictures that are not the same any more, and say which."""
    kept = set()
    with tempfile.TemporaryDirectory() as folder:
        for path, picture in take_all(Path(folder)):
            kept.add(path)
            if path.exists() and compare(Image.open(path), picture).same:
                continue
            store(picture, path)
            print(f"renewed {path.name}, {path.stat().st_size / 1000:.0f} kB", file=sys.stderr)
    for path in sorted(set(STORED.glob("*.png")) - kept):
        path.unlink()
        print(f"removed {path.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
