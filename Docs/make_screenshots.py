"""Take the pictures of the documents: `python Docs/make_screenshots.py URL OUT_DIR [light|dark]`.

Five panels and the page of the worst server, desktop and phone. Needs playwright and Chromium; the dashboard must be
running at URL, whose query (such as `?demo=critical`) is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

PANELS = {  # panel → name of its picture
    "overview": "overview",
    "heatmap": "heatmap",
    "top": "top_servers",
    "historical": "historical",
    "advanced": "advanced",
    "server": "server",
}
SIZES = {"": (1280, 860), "_phone": (390, 844)}
CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")


def take(browser: Browser, url: str, out_dir: Path, scheme: Literal["light", "dark"] = "light") -> list[Path]:
    """Save one picture per panel and size; the desktop ones show the whole page, at most 1,600 pixels of it."""
    parts = urlsplit(url)
    saved = []
    for suffix, (width, height) in SIZES.items():
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        for panel, name in PANELS.items():
            query = urlencode({**dict(parse_qsl(parts.query)), "panel": panel})
            page.goto(urlunsplit(parts._replace(query=query)))
            page.wait_for_selector(".tf-strip")
            if panel in {"historical", "server"}:
                page.wait_for_selector(".js-plotly-plot .main-svg")
            page.wait_for_timeout(1_500)
            tall = page.evaluate("document.querySelector('.stMainBlockContainer').scrollHeight")
            page.set_viewport_size({"width": width, "height": min(max(tall, height), 1_600)})
            page.wait_for_timeout(400)
            target = out_dir / f"{name}{suffix}.png"
            page.screenshot(path=target)
            with Image.open(target) as picture:  # 256 colours are enough, at a third of the size
                picture.convert("RGB").quantize(256).save(target, optimize=True)
            saved.append(target)
            page.set_viewport_size({"width": width, "height": height})
        page.close()
    return saved


def main() -> None:
    """Read the two arguments and take the pictures."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    out_dir = Path(sys.argv[2])
    out_dir.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        for path in take(browser, sys.argv[1], out_dir, "dark" if sys.argv[3:4] == ["dark"] else "light"):
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
