"""How the dashboard asks the daemon: plain GETs, every answer checked, every failure told as what, why and fix.

Knows HTTP and the shape of the answers; nothing of pandas, Streamlit or the daemon's code. The client is handed in: the
real one from `open_client`, or a test client of the daemon's app.
"""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import httpx2
from pydantic import SecretStr

from common_utils import utc_now
from config import key_headers
from dashboard_answers import (
    DASHBOARD_DOCUMENT,
    AlertsAnswer,
    Answer,
    CurrentAnswer,
    Detail,
    HistoryAnswer,
    OddAnswerError,
    Problem,
    ServerAnswer,
    Snapshot,
    StatusAnswer,
    check_answer,
    version_problem,
)

NOT_OUR_DAEMON_FIX = (
    "Check that TFT_DAEMON_URL names the daemon and that the daemon and this dashboard are of the same release."
)


class Response(Protocol):
    """What is read off a response."""

    @property
    def status_code(self) -> int:
        """HTTP status."""

    @property
    def content(self) -> bytes:
        """Body."""

    def json(self) -> Any:
        """Body read as JSON."""


class Client(Protocol):
    """What the dashboard needs of an HTTP client."""

    def get(self, url: str, /) -> Response:
        """Ask for a path."""


def open_client(base_url: str, timeout_seconds: float, api_key: SecretStr | None = None) -> httpx2.Client:
    """Client with kept-alive connections to the daemon; safe to share between threads.

    Parameters
    ----------
    api_key : SecretStr, optional
        Key that every request brings.

    Raises
    ------
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
        trust_env=not _is_loopback(parts.hostname),  # a proxy of the environment cannot reach this machine's loopback
    )


def shown_address(base_url: str) -> str:
    """The daemon's address as it may be shown: without user, password or query."""
    try:
        parts = urlsplit(base_url)
    except ValueError:
        return "(unreadable address)"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/") if parts.netloc else base_url


def fetch_snapshot(client: Client, address: str, *, with_alerts: bool) -> Snapshot:
    """Ask for the daemon's status, the fleet's forecasts and, where they are shown, the alerts."""
    status_answer, status = _get(client, address, "/status", StatusAnswer)
    answers = [status_answer]
    problem = status_answer.problem or (version_problem(status) if status is not None else None)
    current: CurrentAnswer | None = None
    alerts: AlertsAnswer | None = None
    alerts_problem: Problem | None = None
    if problem is None:
        current_answer, current = _get(client, address, "/predictions/current", CurrentAnswer)
        answers.append(current_answer)
        problem = current_answer.problem
    if problem is None and with_alerts:
        alerts_answer, alerts = _get(client, address, "/alerts/active", AlertsAnswer)
        answers.append(alerts_answer)
        alerts_problem = alerts_answer.problem
    return Snapshot(
        address=address,
        fetched_at=utc_now(),
        status=status,
        current=current,
        alerts=alerts,
        problem=problem,
        alerts_problem=alerts_problem,
        answers=tuple(answers),
    )


def fetch_detail(client: Client, address: str, server_name: str, hours: int) -> Detail:
    """Ask for one server's forecast and its measured history."""
    name = quote(server_name, safe="")
    prediction_answer, prediction = _get(client, address, f"/predictions/{name}", ServerAnswer)
    history_answer, history = _get(client, address, f"/history/{name}?hours={hours}", HistoryAnswer)
    return Detail(
        server_name=server_name,
        prediction=prediction,
        history=history,
        problem=prediction_answer.problem,
        history_problem=history_answer.problem,
        answers=(prediction_answer, history_answer),
    )


def _get(client: Client, address: str, path: str, kind: Any) -> tuple[Answer, Any]:
    """Request one route; the second part is the checked answer, None when there is a problem."""
    started = time.perf_counter()

    def answered(
        response: Response | None, body: Any = None, problem: Problem | None = None, checked: Any = None
    ) -> tuple[Answer, Any]:
        milliseconds = (time.perf_counter() - started) * 1e3
        code, size = (None, 0) if response is None else (response.status_code, len(response.content))
        return Answer(path, code, body, milliseconds, size, problem), checked

    try:
        response = client.get(path)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return answered(None, problem=_unreachable(address, error))
    try:
        body = response.json()
    except (ValueError, UnicodeDecodeError):
        body = None
    if response.status_code != 200:
        return answered(response, body, _refusal(address, path, response.status_code, body))
    try:
        return answered(response, body, checked=check_answer(kind, body))
    except OddAnswerError as error:
        reason = "it is no JSON" if body is None else str(error)
        return answered(response, body, _odd(address, path, reason))


def _unreachable(address: str, error: Exception) -> Problem:
    if isinstance(error, httpx2.TimeoutException):
        what = f"The daemon at {address} did not answer in time."
        fix = "See whether the daemon is busy or stuck; TFT_REQUEST_TIMEOUT_SECONDS is how long the dashboard waits."
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
