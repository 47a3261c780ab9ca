"""How the dashboard asks the daemon: one GET per refresh, every answer checked, every failure told with its remedy.

All viewers share one `Connection`: it knows the forecasts that it has seen and does not ask for them again, gives
answers of the last moment to whoever asks for the same, and is silent for as long as the daemon asks it to be. Knows
HTTP and the shape of the answers; nothing of pandas, Streamlit or the daemon's code.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode, urlsplit

import httpx2
from pydantic import SecretStr

from common_utils import iso_z, utc_now
from config import key_headers
from daemon_trust import UNTRUSTED_FIX, UNTRUSTED_WHY, certificate_fault, trust_of
from dashboard_answers import (
    DASHBOARD_DOCUMENT,
    PART_KINDS,
    Answer,
    CurrentAnswer,
    OddAnswerError,
    Problem,
    Snapshot,
    SnapshotAnswer,
    Wanted,
    check_answer,
    version_problem,
)

NOT_OUR_DAEMON_FIX = (
    "Check that TFT_DAEMON_URL names the daemon and that the daemon and this dashboard are of the same release."
)
_KEPT_SETS: Final = 2  # sets of forecasts remembered: the newest, and the one before for whoever is still drawing it
_KEPT_LOCKS: Final = 1_000
_MAX_QUIET_SECONDS: Final = 60.0  # a daemon that asks for more is asked again all the same
_ROUTES: Final = {
    "status": "/status",
    "current": "/predictions/current",
    "alerts": "/alerts/active",
    "prediction": "/predictions/{server}",
    "history": "/history/{server}",
    "forecasts": "/forecasts/{server}",
    "past_alerts": "/alerts/history",
    "silences": "/alerts/silences",
    "series": "/snapshot?parts=series",
    "reasons": "/explain",
    "models": "/models",
    "scenario": "/scenario",
}


class Response(Protocol):
    """What is read off a response."""

    @property
    def status_code(self) -> int:
        """HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Header fields, in any case."""

    @property
    def content(self) -> bytes:
        """Body."""

    def json(self) -> Any:
        """Body read as JSON."""


class Client(Protocol):
    """What the dashboard needs of an HTTP client."""

    def get(self, url: str, /) -> Response:
        """Ask for a path."""

    def post(self, url: str, /, *, json: Any) -> Response:
        """Send JSON to a path."""

    def delete(self, url: str, /) -> Response:
        """Have what a path stands for removed."""


def open_client(
    base_url: str, timeout_seconds: float, api_key: SecretStr | None = None, ca_file: Path | None = None
) -> httpx2.Client:
    """Client with kept-alive connections to the daemon; safe to share between threads.

    Parameters
    ----------
    api_key : SecretStr, optional
        Key that every request brings.
    ca_file : Path, optional
        Certificate by which a daemon is known whose own is self-signed.

    Raises
    ------
    ConfigurationError
        If `ca_file` holds no certificate.
    ValueError
        If `base_url` is not an http(s) address.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{shown_address(base_url)!r} is not an http:// or https:// address")
    return httpx2.Client(
        base_url=base_url,
        timeout=timeout_seconds,
        headers={"Accept": "application/json", "User-Agent": "tft-dashboard", **key_headers(api_key)},
        verify=trust_of(ca_file),
        trust_env=not _is_loopback(parts.hostname),  # a proxy of the environment cannot reach this machine's loopback
    )


def shown_address(base_url: str) -> str:
    """The daemon's address as it may be shown: without user, password or query."""
    try:
        parts = urlsplit(base_url)
    except ValueError:
        return "(unreadable address)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/") if parts.netloc else base_url


@dataclass(frozen=True)
class _Reply:
    """What came back, or the error that came instead."""

    status_code: int | None
    body: Any
    size_bytes: int
    milliseconds: float
    error: Exception | None = None
    retry_after_seconds: float | None = None


class Connection:
    """The way to one daemon, for all viewers; may be used from several threads.

    Parameters
    ----------
    client : Client
    address : str
        As it may be shown.
    share_seconds : float
        For how long an answer is given to others that ask for the same.
    """

    def __init__(self, client: Client, address: str, share_seconds: float = 0.0) -> None:
        self.address = address
        self._client = client
        self._share_seconds = share_seconds
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._replies: dict[str, tuple[float, _Reply]] = {}
        self._sets: OrderedDict[str, CurrentAnswer] = OrderedDict()
        self._quiet_until = -math.inf
        self._told_quiet: _Reply | None = None

    # ------------------------------------------------------------------------------------------------------- forecasts
    @property
    def known_set(self) -> str | None:
        """Newest set of forecasts that has been seen."""
        with self._lock:
            return next(reversed(self._sets), None)

    def forecasts_of(self, set_id: str | None) -> CurrentAnswer | None:
        """Forecasts of a set that has been seen and not been forgotten."""
        with self._lock:
            return None if set_id is None else self._sets.get(set_id)

    def keep(self, set_id: str | None, current: CurrentAnswer) -> None:
        """Remember the forecasts of a set."""
        if set_id is None:
            return
        with self._lock:
            self._sets[set_id] = current
            self._sets.move_to_end(set_id)
            while len(self._sets) > _KEPT_SETS:
                self._sets.popitem(last=False)

    # -------------------------------------------------------------------------------------------------------- requests
    def get(self, path: str) -> _Reply:
        """Ask for a path, or give what the daemon answered to the same question a moment ago."""
        with self._lock:
            asking = self._asking.setdefault(path, threading.Lock())
        with asking:  # who asks for the same at the same time waits for the one answer
            with self._lock:
                kept = self._replies.get(path)
                now = time.monotonic()
                if kept is not None and now - kept[0] < self._share_seconds:
                    return kept[1]
                if now < self._quiet_until and self._told_quiet is not None:
                    return self._told_quiet
            reply = self._send(lambda: self._client.get(path))
            with self._lock:
                now = time.monotonic()
                self._replies[path] = (now, reply)
                for old in [key for key, (then, _) in self._replies.items() if now - then >= self._share_seconds]:
                    del self._replies[old]
                if len(self._asking) > _KEPT_LOCKS:
                    self._asking = {path: asking}
                if reply.status_code == 429:
                    wait = reply.retry_after_seconds or 1.0
                    self._quiet_until = time.monotonic() + min(wait, _MAX_QUIET_SECONDS)
                    self._told_quiet = reply
        return reply

    def change(self, method: str, path: str, body: Any = None) -> Problem | None:
        """Have the daemon change something; returns why it did not."""
        reply = self._send(
            lambda: self._client.delete(path) if method == "DELETE" else self._client.post(path, json=body)
        )
        with self._lock:
            self._replies.clear()  # what was true before is not shown again
        if reply.error is not None:
            return _unreachable(self.address, reply.error)
        if reply.status_code is None or reply.status_code >= 300:
            return _refusal(self.address, path, reply.status_code or 0, reply.body)
        return None

    @staticmethod
    def _send(request: Callable[[], Response]) -> _Reply:
        started = time.perf_counter()
        try:
            response = request()
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return _Reply(None, None, 0, (time.perf_counter() - started) * 1e3, error)
        try:
            body = response.json() if response.content else None
        except (ValueError, UnicodeDecodeError):
            body = None
        try:
            retry_after = float(response.headers.get("Retry-After", ""))
        except ValueError:
            retry_after = None
        milliseconds = (time.perf_counter() - started) * 1e3
        return _Reply(response.status_code, body, len(response.content), milliseconds, None, retry_after)


def fetch_snapshot(connection: Connection, wanted: Wanted) -> Snapshot:
    """Ask for all that a panel shows, in one request."""
    known = connection.known_set if "current" in wanted.parts else None
    snapshot = _fetch(connection, wanted, known)
    if snapshot.problem is None and "current" in wanted.parts and snapshot.current is None and known is not None:
        return _fetch(connection, wanted, None)  # the set was forgotten meanwhile
    return snapshot


def _fetch(connection: Connection, wanted: Wanted, known: str | None) -> Snapshot:
    address = connection.address
    path = _path_of(wanted, known)
    reply = connection.get(path)
    parts: dict[str, Any] = {}
    troubles: dict[str, Problem] = {}
    answer: SnapshotAnswer | None = None
    problem = _fault_of(address, path.partition("?")[0], reply)
    if problem is None:
        try:
            answer = check_answer(SnapshotAnswer, reply.body)
        except OddAnswerError as error:
            problem = _odd(address, "/snapshot", "it is no JSON" if reply.body is None else str(error))
    if answer is not None:
        for part in wanted.parts:
            route = _ROUTES[part].format(server=wanted.server)
            if part in answer["problems"]:
                told = answer["problems"][part]
                status = told.get("status") if isinstance(told, dict) else None
                troubles[part] = _refusal(address, route, status if isinstance(status, int) else 500, told)
                continue
            body = answer["parts"].get(part)
            if part == "current" and body is None:
                remembered = connection.forecasts_of(answer["set"])
                if remembered is not None:
                    parts[part] = {
                        **remembered,
                        "stale": bool(answer.get("stale")),
                        "data_age_seconds": answer.get("data_age_seconds"),
                    }
                continue
            try:
                parts[part] = check_answer(PART_KINDS[part], body)
            except OddAnswerError as error:
                troubles[part] = _odd(address, route, str(error))
            else:
                if part == "current":
                    connection.keep(answer["set"], parts[part])
        status = parts.get("status")
        problem = (
            troubles.get("status")
            or (version_problem(status) if status is not None else None)
            or troubles.get("current")
        )
    return Snapshot(
        address=address,
        fetched_at=utc_now(),
        parts=parts,
        part_problems=troubles,
        problem=problem,
        answers=(Answer(path, reply.status_code, reply.body, reply.milliseconds, reply.size_bytes, problem),),
        set_id=None if answer is None else answer["set"],
    )


def _path_of(wanted: Wanted, known: str | None) -> str:
    asked: list[tuple[str, str]] = [("parts", ",".join(wanted.parts))]
    of_server = {"prediction", "history", "forecasts"} & set(wanted.parts)
    if wanted.server:
        asked.append(("server", wanted.server))
    if of_server or {"series", "past_alerts"} & set(wanted.parts):
        asked.append(("hours", str(wanted.hours)))
    if wanted.until is not None:
        asked.append(("until", iso_z(wanted.until)))
    if wanted.horizon:
        asked.append(("horizon", wanted.horizon))
    asked += [("servers", name) for name in wanted.servers]
    asked += [("metric", metric) for metric in wanted.metrics]
    if known is not None:
        asked.append(("known", known))
    return "/snapshot?" + urlencode(asked, quote_via=quote, safe=",")


def _fault_of(address: str, path: str, reply: _Reply) -> Problem | None:
    if reply.error is not None:
        return _unreachable(address, reply.error)
    if reply.status_code != 200:
        return _refusal(address, path, reply.status_code or 0, reply.body)
    return None


def _unreachable(address: str, error: Exception) -> Problem:
    if isinstance(error, httpx2.TimeoutException):
        what = f"The daemon at {address} did not answer in time."
        fix = "See whether the daemon is busy or stuck; TFT_REQUEST_TIMEOUT_SECONDS is how long the dashboard waits."
    elif fault := certificate_fault(error):
        what = f"The certificate of the daemon at {address} is not trusted: {fault}."
        return Problem("unreachable", what, UNTRUSTED_WHY, f"{UNTRUSTED_FIX} Then start the dashboard again.")
    elif isinstance(error, httpx2.ConnectError):
        what = f"No daemon answers at {address}."
        fix = "Start it with `python main.py serve`, or set TFT_DAEMON_URL to where it runs. This page keeps trying."
    else:
        what = f"The connection to the daemon at {address} broke ({type(error).__name__})."
        fix = "See the daemon's log; this page keeps trying and shows live data as soon as it is back."
    return Problem(
        "unreachable", what, "Without the daemon there are no forecasts, and nothing is shown in their place.", fix
    )


def _odd(address: str, path: str, reason: str) -> Problem:
    return Problem(
        "odd_answer",
        f"{address} answered {path} with something that this dashboard cannot read: {reason}.",
        "Showing an answer that is only half understood could paint a troubled server green.",
        NOT_OUR_DAEMON_FIX,
    )


def _refusal(address: str, path: str, status_code: int, body: Any) -> Problem:
    """Turn an error status into a problem, in the daemon's own words where it gave all of them."""
    told = {key: text for key, text in body.items() if isinstance(text, str)} if isinstance(body, dict) else {}
    what, why, fix = told.get("what") or told.get("detail"), told.get("why"), told.get("fix")
    document = told.get("document") or DASHBOARD_DOCUMENT
    if status_code in {401, 403}:
        return Problem(
            "unauthorised",
            what or f"The daemon at {address} refused access to {path} (HTTP {status_code}).",
            why or "Only those whom the daemon's operator lets in may read forecasts.",
            fix or "Set TFT_API_KEY to a key of the daemon's, which its operator makes, and start the dashboard again.",
            document,
        )
    if status_code == 429:
        return Problem(
            "rate_limited",
            what or f"The daemon at {address} asks for fewer requests (HTTP 429).",
            why or "It limits requests so that many viewers cannot slow down its forecasts.",
            fix or "Choose a longer refresh interval in Advanced, or raise TFT_RATE_LIMIT_PER_SECOND at the daemon.",
            document,
        )
    if status_code == 503 and told.get("type", "").endswith("no-model"):
        return Problem(
            "no_model",
            what or "The daemon has no usable model.",
            why or "Every forecast comes from the model; without one there is nothing to show.",
            fix or "Train a model with `python main.py train`; the daemon takes it up by itself.",
            document,
        )
    if status_code == 404 and "what" not in told:
        return _odd(address, path, "it knows no such address (HTTP 404)")
    return Problem(
        "not_found" if status_code == 404 else "failed",
        what or f"The daemon at {address} failed to answer {path} (HTTP {status_code}).",
        why or "Without this answer the panel cannot be drawn.",
        fix or "See the daemon's log; this page keeps trying.",
        document,
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
