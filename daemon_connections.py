"""What a connection must do to be kept: send the head of a request in time, read its answers, be one of not too many.

uvicorn alone would wait for ever for a head that comes byte by byte, for the end of a body that nobody reads, and for a
client that never reads what it asked for; each such connection holds a file descriptor and memory. Bodies that are
read have a time limit of their own in `daemon_core.py`, WebSockets in `daemon_stream.py`. Knows nothing of the routes.

Source: RFC 9110, section 15.5.9 (408); RFC 9112, section 9.5 (failures and timeouts).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from daemon_problems import RequestError, problem_response

log = structlog.stdlib.get_logger(__name__)

_LEAST_READ = 64 * 1024  # bytes that a client must read of a large answer in the time that it has


@dataclass(frozen=True)
class ConnectionLimits:
    """How long a client may take, and how many there may be.

    Attributes
    ----------
    client_seconds : float
        Longest wait for the head of a request, for the rest of a request that was answered, and for 64 kB of an answer
        to be read.
    most : int
        Connections at a time. When there are more, the one that has sent nothing for the longest time is let go.
    """

    client_seconds: float
    most: int


def guarded(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """Protocol class for uvicorn's `http` option."""
    return type("GuardedConnection", (_Guarded,), {"limits": limits})


class _Guarded(H11Protocol):
    """uvicorn's HTTP connection that is looked at now and then."""

    limits: ClassVar[ConnectionLimits]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._since = self._window = self.loop.time()  # waits for the client; looks at how much it reads
        self._unread = 0
        self._is_told = False
        self._look = self.loop.call_later(self._pause, self._check)
        if len(self.connections) > self.limits.most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._look.cancel()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """The connection becomes a WebSocket, which is another's to look after."""
        self._look.cancel()
        super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        """An answer was handed over whole: from now on the next request is waited for."""
        self._since = self._window = self.loop.time()
        self._unread = self.transport.get_write_buffer_size()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the shape of all problems."""
        self._refuse(
            RequestError(
                400,
                "no-http",
                f"{msg.removesuffix('.')}.",
                why="What was meant cannot be told, nor where the next request begins.",
                fix="Send HTTP/1.1 with a head of at most 16 kB.",
            )
        )

    @property
    def waits(self) -> bool:
        """Whether nothing is being answered: the client is to send."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _pause(self) -> float:
        return min(1.0, self.limits.client_seconds / 4)

    def _check(self) -> None:
        fault = self._fault()
        if fault is None:
            self._look = self.loop.call_later(self._pause, self._check)
        elif self._is_told or fault != "head":
            log.info("connection let go", reason=fault, client=self.client and self.client[0])
            self.transport.abort()
        else:
            self._is_told = True
            self._look = self.loop.call_later(self._pause, self._check)
            self._refuse(
                RequestError(
                    408,
                    "too-slow",
                    f"No whole request came within {self.limits.client_seconds:g} s.",
                    why="A connection that waits for ever takes the place of another.",
                    fix="Send the head of a request at once, or connect when there is one to send.",
                )
            )

    def _fault(self) -> str | None:
        """What the client has failed to do in time."""
        now, limit = self.loop.time(), self.limits.client_seconds
        unread = self.transport.get_write_buffer_size()
        if unread:
            self._since = now  # it can hardly ask again before it has read
            if self._unread == 0 or unread <= self._unread - _LEAST_READ:
                self._window, self._unread = now, unread
            return "answer not read" if now - self._window > limit else None
        self._unread = 0
        if not self.waits or now - self._since <= limit:
            return None
        return "head" if self.conn.our_state is h11.IDLE else "body not sent"

    def _refuse(self, error: RequestError) -> None:
        """Answer without the app, then close."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:  # an answer is out already
            self.transport.abort()
            return
        answer = problem_response(error)
        headers = [*answer.raw_headers, (b"connection", b"close")]
        events: tuple[Any, ...] = (
            h11.Response(status_code=error.status, headers=headers, reason=error.kind.encode()),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        )
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _make_room(self) -> None:
        """Let go who has waited longest without sending a request; the newcomer itself if all others are busy."""
        here = [each for each in self.connections if isinstance(each, _Guarded)]
        waiting = [each for each in here if each.waits and not each.transport.is_closing()]
        chosen = min(waiting, key=lambda each: each._since)  # the newcomer waits, too, so there is one
        log.warning("too many connections", most=self.limits.most, client=self.client and self.client[0])
        chosen.transport.abort()
