"""What every request passes on its way in: a request id, its key, the rate limit of its client, a line in the log.

A plain ASGI layer around the whole app, WebSocket included, and the last net under it: a bug in a route becomes a
problem answer with the request's id, and its traceback goes to the log alone. Which route takes which key is
`daemon_policy.py`'s; what has no row there does not get through. Knows nothing of what the routes do.
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from throttled import RateLimiterType, Throttled, rate_limiter
from throttled.store import MemoryStore

from api_keys import KEY_PATTERN, KeyRing, StoredKey
from daemon_policy import GIVES_UP_ON_4XX, STREAM_PROTOCOL, Place, forbidden, place_of, presented_key, unauthorised
from daemon_problems import RequestError, busy, internal_error, no_route, problem_response

log = structlog.stdlib.get_logger(__name__)

# Route, method (`WS` for a WebSocket), status and seconds of every request that was answered
Observe = Callable[[str, str, int, float], None]

_MAX_CLIENTS = 10_000  # clients whose rate is remembered
_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_POLICY_VIOLATION = 1008  # RFC 6455, registry of close codes


@dataclass(frozen=True)
class Limits:
    """How much one client may ask.

    Attributes
    ----------
    requests_per_second : int
        Rate from which a key, or an address without one, is answered 429; as many may come at once.
    failures_per_minute : int
        Wrong keys per minute from which an address is answered 429 instead of 401; as many may come at once.
    """

    requests_per_second: int
    failures_per_minute: int


class Gate:
    """ASGI middleware around the daemon's app.

    Parameters
    ----------
    app : ASGI application
    limits : Limits
    keys : KeyRing
        Who may ask.
    observe : callable
        Told of every request that was answered.
    """

    def __init__(self, app: ASGIApp, limits: Limits, keys: KeyRing, observe: Observe) -> None:
        self._app = app
        self._limits = limits
        self._keys = keys
        self._observe = observe
        rate, failures = limits.requests_per_second, limits.failures_per_minute
        self._requests = _throttle(rate_limiter.per_sec(rate, burst=rate))
        self._failures = _throttle(rate_limiter.per_min(failures, burst=failures))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        sent_id = Headers(scope=scope).get("x-request-id", "")
        fit = _CLIENT_REQUEST_ID.fullmatch(sent_id) and not KEY_PATTERN.search(sent_id)
        request_id = sent_id if fit else secrets.token_hex(8)
        noted: dict[str, Any] = scope.setdefault("state", {}).setdefault("log", {})
        method = scope["method"] if scope["type"] == "http" else "WS"
        place = place_of(method, scope["path"])
        if place.prefix:
            scope["root_path"] = scope.get("root_path", "") + place.prefix  # as if the app were mounted there, too
        status = 0
        opened: StoredKey | None = None

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-cache")
            elif message["type"] == "websocket.accept":
                status = 101
                if message.get("subprotocol") is None and STREAM_PROTOCOL in scope.get("subprotocols", ()):
                    message["subprotocol"] = STREAM_PROTOCOL  # browsers hang up when none of theirs is chosen
            elif message["type"] == "websocket.send" and not self._still_open(opened, place):
                await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": "invalid-key"})
                raise OSError("the key is no longer in force")  # to the app, the client has left
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                try:
                    opened = self._admit(scope, method, place, noted)
                except RequestError as refusal:
                    await self._refuse(refusal, scope, receive, send_marked)
                else:
                    await self._app(scope, receive, send_marked)
            except ClientDisconnect:
                noted["disconnected"] = True
            except Exception:
                log.exception("request failed", path=_shown_path(scope))
                if status or scope["type"] == "websocket":
                    raise  # too late for an answer
                await problem_response(internal_error(request_id))(scope, receive, send_marked)
            finally:
                seconds = time.perf_counter() - started
                if status:
                    self._observe(place.route, method, status, seconds)
                if place.access != "probe":
                    log.info(
                        "request" if scope["type"] == "http" else "websocket",
                        method=scope.get("method"),
                        path=_shown_path(scope),
                        status=status or None,
                        milliseconds=round(seconds * 1e3, 2),
                        client=_client(scope),
                        **noted,
                    )

    def _admit(self, scope: Scope, method: str, place: Place, noted: dict[str, Any]) -> StoredKey | None:
        """Let a request in with the key that it brings, if it needs one.

        Who has no key is not told which addresses there are: the answer is 401, whatever is asked for.

        Raises
        ------
        RequestError
            401, 403, 404, 405 or 429, and 503 instead of 429 for routes whose clients do not try again after that.
        """
        if place.access == "probe":
            return None
        address = _client(scope)
        key: StoredKey | None = None
        too_many = 503 if place.route in GIVES_UP_ON_4XX else 429
        if place.access == "public" or not self._keys.protects:
            self._limit(address, too_many)
        else:
            presented = presented_key(scope)
            if presented is None:
                self._limit(address)
                raise unauthorised(None)
            key, reason = self._keys.verify(presented)
            if key is None:
                self._note_failure(address)
                raise unauthorised(reason)
            noted["key"] = key.id
            self._limit(f"key {key.id}", too_many)
        if place.access is None:
            raise no_route(method, scope["path"], ", ".join(place.methods) or None)
        if key is not None and place.needs is not None and not key.allows(place.needs):
            raise forbidden(key.scope, place.needs)
        return key

    def _still_open(self, key: StoredKey | None, place: Place) -> bool:
        """Whether a WebSocket would be opened again: its key may have been revoked, or keys asked for since."""
        if place.needs is None or not self._keys.protects:
            return True
        return key is not None and self._keys.in_force(key.id, place.needs)

    def _limit(self, client: str, status: int = 429) -> None:
        wait = _wait_of(self._requests, client)
        if wait is not None:
            what = f"This client sends more than {self._limits.requests_per_second} requests per second."
            raise busy(what, status=status, kind="too-many-requests", retry_after_seconds=wait)

    def _note_failure(self, address: str) -> None:
        """Count a wrong key. Right ones are let in all the while: behind a proxy, all clients have one address."""
        wait = _wait_of(self._failures, address)
        if wait is not None:
            what = f"More than {self._limits.failures_per_minute} wrong keys per minute came from this address."
            raise busy(what, status=429, kind="too-many-wrong-keys", retry_after_seconds=wait)

    @staticmethod
    async def _refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1013, "reason": error.kind})
            return
        await problem_response(error)(scope, receive, send)


def _throttle(quota: Any) -> Throttled:
    store = MemoryStore(options={"MAX_SIZE": _MAX_CLIENTS})
    return Throttled(using=RateLimiterType.GCRA.value, quota=quota, store=store)


def _wait_of(throttle: Throttled, client: str) -> float | None:
    """Seconds to wait for a client that asks too often, None for one that does not."""
    result = throttle.limit(client)
    if not result.limited:
        return None
    wait = result.state.retry_after
    return wait if math.isfinite(wait) else 1.0


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _shown_path(scope: Scope) -> str:
    """Path as it was sent, percent-encoded and cut, so that it cannot forge a line of the log; without keys."""
    raw = scope.get("raw_path") or scope["path"].encode("utf-8", "backslashreplace")
    text = str(raw[:1000].decode("ascii", "backslashreplace").encode("unicode_escape"), "ascii")
    return KEY_PATTERN.sub(r"tft_\1_...", text)[:200]
