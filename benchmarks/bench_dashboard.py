"""How long a person waits for the dashboard, at 90, 1,000 and 5,000 servers: first sight, refresh, bytes, CPU.

    python benchmarks/bench_dashboard.py --model-dir models/latest --json

Real parts: a daemon with a model and a history, `streamlit run tft_dashboard_web.py`, and Chromium; all on this
machine, so that they share its cores. The page is the overview. All times are taken by the page's own clock.

*First paint* is from the begin of the navigation, in a fresh browser context (nothing cached), until the headline that
says how the fleet is stands visible in the document. Cold is the first visit after Streamlit was started, warm the
median of later ones.

*Refresh* is from when the browser asks for it over its WebSocket until the last change of text or elements in the page,
or the last message if that comes later. Before each, one more step of every server is posted and the daemon's
new forecast is waited for: the dearest case, every number is new. `unchanged` is the usual one: no new forecast since.

*Bytes* are the WebSocket messages of one refresh as the browser's script sees them, before or after any compression
on the wire. The last line of `--json` is one object, N being the number of servers:

first_paint_s_N_servers, first_paint_cold_s_N_servers
                      seconds to the headline, see above; median, first
refresh_ms_N_servers, refresh_max_ms_N_servers, refresh_unchanged_ms_N_servers
                      milliseconds of a refresh, medians and the longest
refresh_kb_N_servers, refresh_unchanged_kb_N_servers
                      kilobytes that a refresh brings
cpu_s_per_viewer_refresh_N_servers
                      processor seconds of the dashboard's process per viewer and refresh, with 10 viewers
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from daemon_under_test import STEP, RunningDaemon, made_up_rows, present, running_daemon
from dashboard_under_test import CHROMIUM, WATCH, RunningDashboard, running_browser, running_dashboard
from measured import report, say

from child_processes import ended_by_signals

SERVERS = (90, 1000, 5000)
HISTORY_STEPS = 12 * 12
AHEAD = 100  # steps that come while it is measured
VIEWERS = 10
QUIET_SECONDS = 1.0  # nothing came and nothing changed for so long: the refresh is over


def open_page(browser: Any, url: str) -> Any:
    """Page of a fresh browser context, with the headline visible."""
    page = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
    page.set_default_timeout(120_000)
    page.add_init_script(WATCH)
    page.goto(url, wait_until="commit")
    page.wait_for_function("window.__seen && window.__seen.first !== null")
    return page


def first_paint(browser: Any, url: str) -> float:
    """Seconds from the navigation to the headline."""
    page = open_page(browser, url)
    seconds = float(page.evaluate("window.__seen.first")) / 1e3
    page.context.close()
    return seconds


def settle(page: Any) -> None:
    """Wait until nothing comes and nothing changes, then forget all that was."""
    page.wait_for_function(
        """quiet => { const s = window.__seen;
          return performance.now() - Math.max(...s.asked.slice(-1), ...s.received.slice(-1).map(r => r[0]),
            ...s.changed.slice(-1), 0) > quiet }""",
        arg=QUIET_SECONDS * 1e3,
    )
    page.evaluate("Object.assign(window.__seen, {asked: [], received: [], changed: []})")


def next_refresh(page: Any, before: Callable[[], None] | None = None) -> tuple[float, float]:
    """Milliseconds and kilobytes of the next refresh that the page makes by itself, once `before` is done."""
    settle(page)
    since = page.evaluate("performance.now()")
    if before is not None:
        before()
        since = page.evaluate("performance.now()")  # a refresh meanwhile came too early, and is not the one
    page.wait_for_function(
        """([since, quiet]) => { const s = window.__seen, asked = s.asked.find(when => when >= since);
          if (asked === undefined || !s.received.length || s.received.at(-1)[0] < asked) return false;
          return performance.now() - Math.max(s.received.at(-1)[0], ...s.changed.slice(-1)) > quiet }""",
        arg=[since, QUIET_SECONDS * 1e3],
    )
    seen = page.evaluate("window.__seen")
    asked = next(when for when in seen["asked"] if when >= since)
    came = [(when, size) for when, size in seen["received"] if when >= asked]
    end = max(came[-1][0], max((when for when in seen["changed"] if when >= asked), default=0.0))
    return end - asked, sum(size for _, size in came) / 1e3


def one_more_step(daemon: RunningDaemon, servers: int, ticks: int) -> None:
    """Post a step and wait until it is forecast."""
    count = daemon.client.get("/status").json()["forecasts"]["count"]
    daemon.post(made_up_rows(servers, present(AHEAD) + ticks * STEP, 1, ticks))
    while daemon.client.get("/status").json()["forecasts"]["count"] == count:
        time.sleep(0.1)


def per_viewer(browser: Any, dashboard: RunningDashboard, seconds: float) -> float:
    """Processor seconds of the dashboard's process per viewer and refresh."""
    pages = [open_page(browser, f"{dashboard.url}/?refresh=5") for _ in range(VIEWERS)]
    time.sleep(5)
    for page in pages:
        page.evaluate("window.__seen.asked.length = 0")
    before = dashboard.cpu_seconds
    time.sleep(seconds)
    used = dashboard.cpu_seconds - before
    refreshes = sum(asked_apart(page.evaluate("window.__seen.asked")) for page in pages)
    for page in pages:
        page.context.close()
    return used / max(refreshes, 1)


def asked_apart(times: list[float]) -> int:
    """How many refreshes: messages that were sent within one second of another belong to one."""
    return len(times) and 1 + sum(later - earlier > 1e3 for earlier, later in pairwise(times))


def measure(model_dir: Path, servers: int, rounds: int, viewer_seconds: float) -> dict[str, Any]:
    """One size."""
    interval = 5 if servers <= 1000 else 10
    with running_daemon(model_dir, TFT_DAEMON_SETTLE_SECONDS="0.2", TFT_HISTORY_KEEP_DAYS="30") as daemon:
        daemon.post(made_up_rows(servers, present(AHEAD + HISTORY_STEPS), HISTORY_STEPS))
        while daemon.client.get("/predictions/current").json()["count"] < servers:
            time.sleep(0.5)
        one_more_step(daemon, servers, 0)
        with running_dashboard(daemon.url, interval) as dashboard, running_browser() as browser:
            say(f"{servers:,} servers: first paint")
            cold = first_paint(browser, dashboard.url)
            warm = [first_paint(browser, dashboard.url) for _ in range(rounds)]
            say(f"{servers:,} servers: {rounds} refreshes with a new forecast, {rounds} without")
            page = open_page(browser, dashboard.url)
            next_refresh(page)
            unchanged = [next_refresh(page) for _ in range(rounds)]
            renewed = []
            for tick in range(1, rounds + 1):
                renewed.append(next_refresh(page, partial(one_more_step, daemon, servers, tick)))
            page.context.close()
            say(f"{servers:,} servers: {VIEWERS} viewers for {viewer_seconds:g} s")
            cpu = per_viewer(browser, dashboard, viewer_seconds)
    at = f"{servers}_servers"
    return {
        f"first_paint_s_{at}": round(statistics.median(warm), 3),
        f"first_paint_cold_s_{at}": round(cold, 3),
        f"refresh_ms_{at}": round(statistics.median(ms for ms, _ in renewed)),
        f"refresh_max_ms_{at}": round(max(ms for ms, _ in renewed)),
        f"refresh_unchanged_ms_{at}": round(statistics.median(ms for ms, _ in unchanged)),
        f"refresh_kb_{at}": round(statistics.median(kb for _, kb in renewed), 1),
        f"refresh_unchanged_kb_{at}": round(statistics.median(kb for _, kb in unchanged), 1),
        f"cpu_s_per_viewer_refresh_{at}": round(cpu, 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=Path("models/latest"))
    parser.add_argument("--servers", type=int, nargs="*", default=SERVERS, help="sizes")
    parser.add_argument("--rounds", type=int, default=7, help="first paints and refreshes of each kind (7)")
    parser.add_argument("--viewer-seconds", type=float, default=30.0, help="how long ten viewers look (30)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    if not options.model_dir.exists():
        raise SystemExit(f"There is no model folder at {options.model_dir}: train one, or name one with --model-dir.")
    if not CHROMIUM.exists():
        raise SystemExit(f"There is no Chromium at {CHROMIUM} (Debian: apt-get install chromium).")
    figures: dict[str, Any] = {}
    with ended_by_signals():  # SIGTERM too: the daemon, the dashboard and the browser end with it
        for servers in options.servers:
            figures |= measure(options.model_dir, servers, options.rounds, options.viewer_seconds)
    report(figures, as_json=options.json)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt as stopped:
        raise SystemExit(f"Stopped ({stopped or 'Ctrl-C'}); nothing is left running.") from None
