"""What is wrong with a running daemon and with the dashboard's port, as far as both tell it over HTTP.

Knows neither pandas nor torch nor the daemon's code: it asks as any client does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx2

from child_processes import port_is_free
from common_utils import utc_now
from config import Settings, key_headers
from daemon_trust import certificate_fault, trust_of
from data_contract import ConfigurationError, shorten
from doctor_findings import Finding

PATIENCE_SECONDS: Final = 3.0
CLOCK_SECONDS: Final = 5.0  # the header of an answer has whole seconds, and an answer takes some time
PULL_BEHIND_SECONDS = 900  # three steps
MANY_REJECTED: Final = 0.05  # the share at which deploy/prometheus/rules.yml warns

_REQUESTS = re.compile(r"^tft_http_requests_total\{([^}]*)\} (\S+)$", re.MULTILINE)


def check_daemon(settings: Settings, now: datetime | None = None) -> Iterator[Finding]:
    """Ask the daemon at `daemon_url` how it does.

    Parameters
    ----------
    settings : Settings
    now : datetime, optional
        UTC; what the daemon's clock is held to.
    """
    url = settings.daemon_url.rstrip("/")
    try:
        client = httpx2.Client(
            base_url=url,
            timeout=PATIENCE_SECONDS,
            trust_env=False,
            headers=key_headers(settings.api_key),
            verify=trust_of(settings.daemon_ca_file),
        )
    except ConfigurationError as error:
        yield Finding("daemon-untrusted", error.what)
        return
    except (httpx2.InvalidURL, ValueError) as error:
        yield Finding("daemon-stranger", f"daemon_url is {shorten(url)}, which is no address: {error}.")
        return
    with client:
        try:
            answer = client.get("/status")
            status = _status_of(answer)
            if status is None:
                yield _refused_or_stranger(url, answer.status_code)
                return
            yield from status_findings(status, url, settings)
            yield from clock_findings(answer.headers.get("date", ""), now or utc_now())
            yield from _delivery(client)
            yield from _counters(client)
        except httpx2.TimeoutException:
            yield Finding("daemon-hangs", f"{url} did not answer within {PATIENCE_SECONDS:g} s.")
        except httpx2.ConnectError as error:
            if fault := certificate_fault(error):
                yield Finding("daemon-untrusted", f"The certificate of the daemon at {url} is not trusted: {fault}.")
                return
            yield Finding("daemon-absent", f"Nothing listens at {url}.")
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            yield Finding("daemon-stranger", f"What answers at {url} is no daemon: {reason}.")


def _status_of(answer: httpx2.Response) -> dict[str, Any] | None:
    if answer.status_code != 200:
        return None
    with suppress(ValueError):
        content = answer.json()
        if isinstance(content, dict) and {"model_loaded", "version", "history"} <= content.keys():
            return content
    return None


def _refused_or_stranger(url: str, status: int) -> Finding:
    if status in {401, 403}:
        return Finding("daemon-key", f"The daemon at {url} lets nobody in without a key of scope read ({status}).")
    if status == 429:
        return Finding("daemon-rate-limited", f"The daemon at {url} has just refused this command as one too many.")
    return Finding("daemon-stranger", f"What answers at {url} is no daemon of ours (/status: {status}).")


def status_findings(status: Mapping[str, Any], url: str, settings: Settings) -> Iterator[Finding]:
    """What an answer of /status says that should not be so."""
    from daemon_schemas import PRODUCT_VERSION

    if status["version"] != PRODUCT_VERSION:
        what = f"The daemon at {url} is of version {shorten(status['version'])}; this is {PRODUCT_VERSION}."
        yield Finding("daemon-version", what)
    problem = status["model_error"]
    reason = f" {problem['what']}" if problem else ""
    if not status["model_loaded"]:
        yield Finding("daemon-no-model", f"The daemon at {url} has no model.{reason}")
    elif problem:
        yield Finding("daemon-model-refused", f"The daemon at {url} refused a newer model:{reason}")
    else:
        latest = settings.models_dir / "latest"
        served = status["model"]["name"]
        if latest.is_dir() and latest.resolve().name.startswith("tft_model_") and latest.resolve().name != served:
            what = f"The daemon at {url} serves {served}, and {latest} is {latest.resolve().name}."
            yield Finding("daemon-model-other", what)
    if not status["servers"]:
        yield Finding("daemon-no-rows", f"The daemon at {url} has heard of no server yet.")
    elif status["stale"]:
        age = "" if status["data_age_seconds"] is None else f", {status['data_age_seconds'] / 60:,.0f} minutes old"
        yield Finding(
            "daemon-stale", f"The newest row of the daemon at {url} is of {status['history']['newest']}{age}."
        )
    silent = status["offline_servers"]
    if silent["count"]:
        yield Finding(
            "daemon-servers-silent", f"{silent['count']:,} server(s) are silent: {shorten(silent['names'], 3)}."
        )
    rows = status["ingest"]
    rejected, sent = rows["rejected"], sum(rows.values())
    if rejected > MANY_REJECTED * sent:
        yield Finding("daemon-rows-rejected", f"{rejected:,} of {sent:,} rows since the start were rejected.")
    if status["history"]["set_aside"]:
        what = f"A damaged history was set aside as {status['history']['set_aside']}; "
        yield Finding(
            "daemon-history-damaged", f"{what}{status['history']['rescued_rows']:,} rows were rescued out of it."
        )
    if damaged := status["history"].get("damaged_days"):
        yield Finding("daemon-day-damaged", f"Day file(s) of the history were damaged: {shorten(damaged, 3)}.")
    if status["forecasts"]["errors"]:
        done = status["forecasts"]["count"]
        what = f"{status['forecasts']['errors']:,} forecast(s) of the fleet failed since the start; {done:,} were made."
        yield Finding("daemon-forecasts-fail", what)
    yield from pull_findings(status.get("pull"))
    if (status.get("access") or {}).get("problem"):
        yield Finding("daemon-keys-damaged", str(status["access"]["problem"]["what"]))


def pull_findings(pull: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Whether a Prometheus that is asked answers."""
    if pull is None:
        return
    if pull["error"]:
        since = f" The last answer is of {pull['last_success']}." if pull["last_success"] else ""
        yield Finding("daemon-pull-fails", f"{pull['error']['what']}{since}")
    elif (pull["behind_seconds"] or 0) > PULL_BEHIND_SECONDS:
        yield Finding("daemon-pull-behind", f"{pull['behind_seconds'] / 60:,.0f} minutes are still to be fetched.")
    if pull["absent_metrics"] and pull["last_success"]:
        yield Finding("daemon-pull-absent", f"The Prometheus has nothing for {', '.join(pull['absent_metrics'])}.")


def clock_findings(date: str, now: datetime) -> Iterator[Finding]:
    """Whether the clock that an answer's Date header was set by goes as this machine's does."""
    try:
        away = (parsedate_to_datetime(date) - now).total_seconds()
    except (TypeError, ValueError):  # none, or none that can be read
        return
    if abs(away) > CLOCK_SECONDS:
        ahead = "ahead of" if away > 0 else "behind"
        yield Finding("daemon-clock", f"The daemon's clock is {abs(away):,.0f} s {ahead} the one here.")


def _delivery(client: httpx2.Client) -> Iterator[Finding]:
    """Whether alerts reach those who are to be told."""
    answer = client.get("/alerts/delivery")
    if answer.status_code != 200:
        return
    for name, way in answer.json().items():
        if way["configured"] and way["failing_since"]:
            what = f"The {name} takes no alerts since {way['failing_since']}: {way['last_error']}."
            yield Finding("daemon-alerts-undelivered", what)
        if way.get("dead_letters"):
            yield Finding("daemon-dead-letters", f"{way['dead_letters']:,} event(s) for the {name} were given up.")


def _counters(client: httpx2.Client) -> Iterator[Finding]:
    """What was refused since the start, counted by the daemon itself."""
    answer = client.get("/metrics")
    if answer.status_code != 200:
        return
    refused = {"429": 0, "507": 0}
    for labels, value in _REQUESTS.findall(answer.text):
        for status in refused:
            refused[status] += int(float(value)) if f'status="{status}"' in labels else 0
    if refused["507"]:
        what = f"{refused['507']:,} request(s) since the start could not be written to disk (507)."
        yield Finding("daemon-disk-full", what)
    if refused["429"]:
        yield Finding("daemon-rate-limited", f"{refused['429']:,} request(s) since the start were one too many (429).")


def check_dashboard(settings: Settings) -> Iterator[Finding]:
    """Whether the dashboard runs, or could."""
    port = settings.dashboard_port
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx2.Client(timeout=PATIENCE_SECONDS, trust_env=False) as client:
            if client.get(f"{url}/_stcore/health").text.strip() == "ok":
                return
    except httpx2.ConnectError:
        if port_is_free("127.0.0.1", port):
            yield Finding("dashboard-absent", f"Nothing listens at {url}.")
            return
    except httpx2.HTTPError:  # somebody who does not speak HTTP, or not in time
        pass
    yield Finding("dashboard-port", f"Another program has port {port}.")
