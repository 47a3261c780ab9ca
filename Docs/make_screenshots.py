"""Take the pictures of the documents: five panels and the page of the worst server, desktop and phone.

    python Docs/make_screenshots.py URL OUT_DIR [light|dark]        of the dashboard at URL, whose query is kept
    python Docs/make_screenshots.py DATA_DIR MODEL_DIR OUT_DIR      of a fleet in trouble, all of it started here

The second form takes a generated fleet (`python main.py generate`) and a model trained on it, runs a daemon and a
dashboard of its own in a temporary folder, lets the fleet go on as `degrading` (a day in three minutes) and waits until
some servers are critical. Needs playwright and Chromium.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx2
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from child_processes import ChildProcesses, ended_by_signals, next_free_port  # noqa: E402 - after the path

PANELS = {  # panel → name of its picture
    "overview": "overview",
    "heatmap": "heatmap",
    "top": "top_servers",
    "historical": "historical",
    "advanced": "advanced",
    "server": "server",
}
SIZES = {"": (1280, 860), "_phone": (390, 844)}
SPEED = 600.0
LEAST_ALERTS = 4
MOST_SECONDS = 900
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


def _wait(children: ChildProcesses, ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + MOST_SECONDS
    while not ready():
        children.check()
        if time.monotonic() > deadline:
            raise SystemExit(f"Waited {MOST_SECONDS} s for {what} in vain.")
        time.sleep(1)


def _answer(url: str) -> Any:
    """JSON of an answer; None where nothing or no success came."""
    try:
        answer = httpx2.get(url, timeout=10, trust_env=False)
    except httpx2.HTTPError:
        return None
    return answer.json() if answer.is_success and "json" in answer.headers.get("content-type", "") else None


def _is_in_trouble(daemon_url: str) -> bool:
    """Whether the fleet's data is of now and enough of its alerts are open."""
    status, alerts = _answer(f"{daemon_url}/status"), _answer(f"{daemon_url}/alerts/active")
    if status is None or alerts is None:
        return False
    age = status["data_age_seconds"]
    return age is not None and age < 600 and len(alerts["alerts"]) >= LEAST_ALERTS


@contextmanager
def fleet_in_trouble(data_dir: Path, model_dir: Path) -> Iterator[str]:
    """Address of a dashboard over a real daemon and model, whose fleet is degrading."""
    python = (sys.executable, "-u")
    main_py = str(ROOT / "main.py")
    with tempfile.TemporaryDirectory() as aside, ended_by_signals(), ChildProcesses(Path(aside) / "logs") as children:
        port = next_free_port("127.0.0.1", 18_000)
        page_port = next_free_port("127.0.0.1", 18_500)
        url = f"http://127.0.0.1:{port}"
        children.start(
            "daemon",
            [*python, main_py, "serve", "--port", str(port), "--model-dir", str(model_dir), "--history-dir", aside],
            {"TFT_DEMO_SCENARIOS": "true"},
        )
        _wait(children, lambda: _answer(f"{url}/status") is not None, "the daemon")
        children.start(
            "feed",
            [
                *(*python, main_py, "generate", "--stream", "--out_dir", str(data_dir), "--url", url),
                *("--speed", str(SPEED), "--scenario", "degrading"),
            ],
        )
        children.start(
            "dashboard",
            [
                *(*python, "-m", "streamlit", "run", str(ROOT / "tft_dashboard_web.py")),
                *("--server.address", "127.0.0.1", "--server.port", str(page_port), "--server.headless", "true"),
            ],
            {"TFT_DAEMON_URL": url},
        )
        _wait(children, lambda: _is_in_trouble(url), f"{LEAST_ALERTS} alerts and data of now")
        yield f"http://127.0.0.1:{page_port}"


def shoot(url: str, out_dir: Path, scheme: Literal["light", "dark"] = "light") -> None:
    """Take all pictures and say where they are."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        for path in take(browser, url, out_dir, scheme):
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB")
        browser.close()


def main() -> None:
    """Read the arguments and take the pictures."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    if "://" in sys.argv[1]:
        shoot(sys.argv[1], Path(sys.argv[2]), "dark" if sys.argv[3:4] == ["dark"] else "light")
        return
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    with fleet_in_trouble(Path(sys.argv[1]), Path(sys.argv[2])) as url:
        shoot(url, Path(sys.argv[3]))


if __name__ == "__main__":
    main()
