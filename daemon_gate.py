"""What every request passes on its way in: a request id, the rate limit of its client, and a line in the log.

A plain ASGI layer around the whole app, WebSocket included, and the last net under it: a bug in a route becomes a
problem answer with the request's id, and its traceback goes to the log alone. Knows nothing of the routes.
"""

from __future__ import annotations

import math
import re
import secrets
import time
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from throttled import RateLimiterType, Throttled, rate_limiter
from throttled.store import MemoryStore

from daemon_problems import RequestError, busy, internal_error, problem_response

log = structlog.stdlib.get_logger(__name__)

# Asked often by machines: neither limited, so that a busy daemon is not taken for a dead one, nor logged.
PROBES = frozenset({"/health", "/livez", "/readyz"})

_MAX_CLIENTS = 10_000  # clients whose rate is remembered
_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Gate:
    """ASGI middleware around the daemon's app.

    Parameters
    ----------
    app : ASGI application
    requests_per_second : int
        Rate from which a client is answered 429; as many may come at once.
    """

    def __init__(self, app: ASGIApp, requests_per_second: int) -> None:
        self._app = app
        self._limit = requests_per_second
        self._throttle = Throttled(
            using=RateLimiterType.GCRA.value,
            quota=rate_limiter.per_sec(requests_per_second, burst=requests_per_second),
            store=MemoryStore(options={"MAX_SIZE": _MAX_CLIENTS}),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        sent_id = Headers(scope=scope).get("x-request-id", "")
        request_id = sent_id if _CLIENT_REQUEST_ID.fullmatch(sent_id) else secrets.token_hex(8)
        noted: dict[str, Any] = scope.setdefault("state", {}).setdefault("log", {})
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                refusal = self._refusal(scope)
                if refusal is None:
                    await self._app(scope, receive, send_marked)
                else:
                    await self._refuse(refusal, scope, receive, send_marked)
            except ClientDisconnect:
                noted["disconnected"] = True
            except Exception:
                log.exception("request failed", path=_shown_path(scope))
                if status or scope["type"] == "websocket":
                    raise  # too late for an answer
                await problem_response(internal_error(request_id))(scope, receive, send_marked)
            finally:
                if scope["path"] not in PROBES:
                    log.info(
                        "request" if scope["type"] == "http" else "websocket",
                        method=scope.get("method"),
                        path=_shown_path(scope),
                        status=status or None,
                        milliseconds=round((time.perf_counter() - started) * 1e3, 2),
                        client=_client(scope),
                        **noted,
                    )

    def _refusal(self, scope: Scope) -> RequestError | None:
        if scope["path"] in PROBES:
            return None
        result = self._throttle.limit(_client(scope))
        if not result.limited:
            return None
        wait = result.state.retry_after
        return busy(
            f"This client sends more than {self._limit} requests per second.",
            status=429,
            kind="too-many-requests",
            retry_after_seconds=wait if math.isfinite(wait) else 1.0,
        )

    @staticmethod
    async def _refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1013, "reason": error.kind})
            return
        await problem_response(error)(scope, receive, send)


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _shown_path(scope: Scope) -> str:
    """Path as it was sent, percent-encoded and cut, so that it cannot forge a line of the log."""
    raw = scope.get("raw_path") or scope["path"].encode("utf-8", "backslashreplace")
    return str(raw[:200].decode("ascii", "backslashreplace").encode("unicode_escape"), "ascii")
