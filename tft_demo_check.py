"""What `make demo CHECK=1` verifies on a running daemon and dashboard, from outside: HTTP, the page, a browser.

Each check is a function that returns quietly or raises `CheckError` with what it saw. Knows nothing of how the parts
were started.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2

from data_contract import (
    HORIZON_STEPS,
    HORIZONS,
    METRIC_COLUMNS,
    METRICS,
    SERVED_QUANTILES,
    VALID_PROFILES,
    VALID_STATES,
    shorten,
)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PANELS = ("overview", "heatmap", "top", "historical", "advanced")
DEMO_LABEL = "DEMO DATA"  # what the dashboard writes over invented data
_PAGE_SECONDS = 90


class CheckError(Exception):
    """A check that did not hold; the message says what was seen."""


def run_checks(
    daemon_url: str,
    dashboard_url: str,
    fleet: Mapping[str, str],
    say: Callable[[str, str | None], None],
    headers: Mapping[str, str] | None = None,
    verify: ssl.SSLContext | bool = True,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """Run all checks, also after one has failed.

    Parameters
    ----------
    daemon_url, dashboard_url : str
        Where both answer.
    fleet : mapping
        Name → profile of all servers that must have a forecast.
    say : callable
        Receives the name of each check and None, or what was wrong.
    headers : mapping, optional
        Sent to the daemon with every request: the key that it asks for.
    verify : ssl.SSLContext or bool
        What the daemon's certificate is checked by.
    environment : mapping, optional
        Settings with which the dashboard's script reaches the daemon.

    Returns
    -------
    list of str
        What was wrong, empty when all is well.
    """
    failures = []
    with httpx2.Client(
        base_url=daemon_url, timeout=20, trust_env=False, headers=dict(headers or {}), verify=verify
    ) as daemon:
        checks: list[tuple[str, Callable[[], None]]] = [
            (f"forecasts of all {len(fleet)} servers in the owner's format", lambda: check_predictions(daemon, fleet)),
            ("one server's path over 8 hours", lambda: check_path(daemon, min(fleet))),
            ("alerts", lambda: check_alerts(daemon)),
            ("health and status", lambda: check_status(daemon, len(fleet))),
            ("the dashboard's five panels show live data", lambda: check_panels(daemon_url, min(fleet), environment)),
            ("the dashboard answers over HTTP", lambda: check_dashboard_http(dashboard_url)),
        ]
        if browser := find_browser():
            checks.append(
                ("the page in a real browser", lambda: check_in_browser(browser, dashboard_url, sorted(fleet)))
            )
        for name, check in checks:
            try:
                check()
                say(name, None)
            except (
                CheckError,
                LookupError,
                TypeError,
                AttributeError,
            ) as error:  # the others: an answer of another shape
                wrong = str(error) if isinstance(error, CheckError) else f"the answer has another shape ({error!r})"
                say(name, wrong)
                failures.append(f"{name}: {wrong}")
    return failures


# --------------------------------------------------------------------------------------------------------------- daemon
def get(client: httpx2.Client, path: str) -> Any:
    """JSON of a GET; anything but 200 is a failed check."""
    try:
        response = client.get(path)
        if response.status_code != 200:
            raise CheckError(f"GET {path} answers {response.status_code}: {response.text[:300]}")
        return response.json()
    except (httpx2.HTTPError, ValueError) as error:
        raise CheckError(f"GET {path}: {type(error).__name__}: {error}") from error


def check_predictions(client: httpx2.Client, fleet: Mapping[str, str]) -> None:
    """Every server has a complete record with finite quantiles in order; names only, no ids."""
    answer = get(client, "/predictions/current")
    records = {record["server_name"]: record for record in answer["predictions"]}
    absent = sorted(set(fleet) - set(records))
    if absent:
        raise CheckError(f"{len(absent)} of {len(fleet)} servers have no forecast: {shorten(absent)}")
    if answer["count"] != len(answer["predictions"]):
        raise CheckError(f"`count` is {answer['count']}, there are {len(answer['predictions'])} records")
    for name, profile in fleet.items():
        record = records[name]
        if record["profile"] != profile or profile not in VALID_PROFILES:
            raise CheckError(f"{name} has the profile {record['profile']!r}, not {profile!r}")
        if record["state"] not in VALID_STATES:
            raise CheckError(f"{name} has the state {record['state']!r}")
        _moment(record["prediction_time"], f"prediction_time of {name}")
        if not 0 <= record["risk"] <= 1:
            raise CheckError(f"{name} has the risk {record['risk']}")
        for horizon in HORIZONS:
            for metric in METRICS:
                where = f"{name} {horizon} {metric.column}"
                low, median, high = (record["quantiles"][q][horizon][metric.column] for q in SERVED_QUANTILES)
                _ordered(low, median, high, where)
                if record["predictions"][horizon][metric.column] != median:
                    raise CheckError(f"{where}: the prediction is not the median")
                if low < metric.lower or (metric.upper is not None and high > metric.upper):
                    raise CheckError(f"{where}: {low} to {high} leaves the metric's range")
    if re.search(r'"(server_)?id"', json.dumps(answer)):
        raise CheckError("an id is among the answer's keys; only names may leave the system")


def check_path(client: httpx2.Client, name: str) -> None:
    """One server's record has the whole path, step by step."""
    record = get(client, f"/predictions/{name}")
    path = record["path"]
    if record["server_name"] != name or len(path["timestamps"]) != HORIZON_STEPS:
        raise CheckError(f"the path of {name} has {len(path['timestamps'])} steps, not {HORIZON_STEPS}")
    for column in METRIC_COLUMNS:
        rows = zip(*(path["metrics"][column][q] for q in SERVED_QUANTILES), strict=True)
        for step, (low, median, high) in enumerate(rows):
            _ordered(low, median, high, f"{name} {column} step {step + 1}")


def check_alerts(client: httpx2.Client) -> None:
    """The alerts are there, or are none, and each says what, how likely and when."""
    answer = get(client, "/alerts/active")
    if answer["count"] != len(answer["alerts"]):
        raise CheckError(f"`count` is {answer['count']}, there are {len(answer['alerts'])} alerts")
    for alert in answer["alerts"]:
        if alert["metric"] not in METRIC_COLUMNS or not 0 < alert["probability"] <= 1:
            raise CheckError(f"an alert reads {json.dumps(alert)[:200]}")


def check_status(client: httpx2.Client, servers: int) -> None:
    """A model is loaded, the fleet is there, live rows have come in, and the data is fresh."""
    if get(client, "/health") != {"status": "ok", "model_loaded": True}:
        raise CheckError(f"/health says {client.get('/health').text}")
    status = get(client, "/status")
    if status["servers"] < servers:
        raise CheckError(f"/status counts {status['servers']} servers, the fleet has {servers}")
    if status["ingest"]["accepted"] + status["ingest"]["duplicates"] == 0:
        raise CheckError("no rows were ingested: the live replay does not arrive")
    if status["stale"]:
        raise CheckError(f"the data is stale: {status['data_age_seconds']} s old")
    if status["forecasts"]["errors"]:
        raise CheckError(f"{status['forecasts']['errors']} forecasts failed; see logs/daemon.log")


def _moment(text: str, where: str) -> None:
    try:
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z")
    except (TypeError, ValueError) as error:
        raise CheckError(f"{where} is {text!r}, not ISO 8601") from error
    if not text.endswith("Z"):
        raise CheckError(f"{where} is {text!r}, without Z")


def _ordered(low: Any, median: Any, high: Any, where: str) -> None:
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in (low, median, high)):
        raise CheckError(f"{where}: {low}, {median}, {high} are not all finite numbers")
    if not low <= median <= high:
        raise CheckError(f"{where}: the quantiles {low}, {median}, {high} are out of order")


# ------------------------------------------------------------------------------------------------------------ dashboard
def check_panels(daemon_url: str, server: str, environment: Mapping[str, str] | None = None) -> None:
    """Run the dashboard's script for each panel against the live daemon and read what it draws."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, str(Path(__file__).resolve()), "--read-panels", server],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **(environment or {}), "TFT_DAEMON_URL": daemon_url},
    )
    if done.returncode != 0:
        raise CheckError(f"the dashboard's script failed: {done.stderr.strip().splitlines()[-1:]}")
    for panel, seen in json.loads(done.stdout.splitlines()[-1]).items():
        if seen["exceptions"]:
            raise CheckError(f"the panel {panel} raised {seen['exceptions'][0]}")
        if DEMO_LABEL in seen["text"]:
            raise CheckError(f"the panel {panel} shows demo data")
        if not re.search(r'<time datetime=\\?"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ', seen["text"]):
            raise CheckError(f"the panel {panel} does not show when its forecast was made: {seen['text'][:300]}")


def read_panels(server: str) -> dict[str, dict[str, Any]]:
    """What each panel draws: exceptions, and all of its text."""
    from streamlit.testing.v1 import AppTest

    seen = {}
    for panel in PANELS:
        page = AppTest.from_file(str(Path(__file__).with_name("tft_dashboard_web.py")), default_timeout=60)
        page.query_params["panel"] = panel
        page.query_params["server"] = server
        page.run()
        seen[panel] = {
            "exceptions": [f"{each.message}" for each in page.exception],
            "text": "\n".join(str(element.proto) for element in page.main if hasattr(element, "proto")),
        }
    return seen


def check_dashboard_http(dashboard_url: str) -> None:
    """Streamlit is healthy and serves its page."""
    with httpx2.Client(base_url=dashboard_url, timeout=20, trust_env=False) as client:
        try:
            health, page = client.get("/_stcore/health"), client.get("/")
        except httpx2.HTTPError as error:
            raise CheckError(f"{dashboard_url}: {type(error).__name__}: {error}") from error
    if health.text.strip() != "ok":
        raise CheckError(f"/_stcore/health answers {health.status_code}: {health.text[:100]}")
    if page.status_code != 200 or "<script" not in page.text:
        raise CheckError(f"the page answers {page.status_code}")


def find_browser() -> str | None:
    """Path of a Chromium, if there is one."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def check_in_browser(browser: str, dashboard_url: str, names: list[str]) -> None:
    """Load the list of servers as a person would, and find one of the fleet's names on the screen."""
    from playwright.sync_api import Error, sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync"]
    any_name = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names))
    try:
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser, args=quiet)
            try:
                page = chromium.new_page()
                page.goto(f"{dashboard_url}/?panel=top", timeout=_PAGE_SECONDS * 1000)
                page.get_by_text(any_name).first.wait_for(timeout=_PAGE_SECONDS * 1000)
                shown = page.inner_text("body")
            finally:
                chromium.close()
    except Error as error:
        raise CheckError(f"{browser}: {error.message.splitlines()[0]}") from error
    if DEMO_LABEL in shown:
        raise CheckError("the page shows demo data")


def _self_check() -> None:
    _ordered(1.0, 2.0, 3.0, "demo")
    for low, median, high in ((2.0, 1.0, 3.0), (1.0, float("nan"), 3.0), (1.0, None, 3.0)):
        try:
            _ordered(low, median, high, "demo")
        except CheckError:
            continue
        raise AssertionError
    _moment("2026-01-05T08:00:00Z", "demo")
    print("✅ All tests passed")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read-panels"]:
        print(json.dumps(read_panels(sys.argv[2])))
    else:
        _self_check()
