"""How new forecasts are pushed to WebSocket clients, however slowly they read.

A client's queue holds one thing: that there is a newer set than it has been sent. So a client that reads slowly skips
sets and never holds memory; one that does not read at all is let go. Knows nothing of what a set contains.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import WebSocket, WebSocketDisconnect

from common_utils import iso_z, utc_now
from daemon_answers import to_json
from daemon_problems import RequestError, busy, problem_response

PING_SECONDS = 20.0
SEND_SECONDS = 10.0  # a client that takes longer to read one message is let go

_TRY_AGAIN_LATER = 1013  # RFC 6455, registry of close codes


class PredictionStream:
    """The WebSocket clients of one daemon.

    Parameters
    ----------
    max_clients : int
        Further ones are refused.
    """

    def __init__(self, max_clients: int) -> None:
        self._max_clients = max_clients
        self._clients: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self) -> None:
        """Remember the running event loop: from now on `publish` reaches its clients."""
        self._loop = asyncio.get_running_loop()

    def detach(self) -> None:
        """Forget the event loop, which is about to end."""
        self._loop = None

    def publish(self) -> None:
        """Tell all clients, from any thread, that there is a new set."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                loop.call_soon_threadsafe(self._wake)

    async def serve(self, websocket: WebSocket, message: Callable[[], bytes | None]) -> None:
        """Serve one client until it leaves.

        Parameters
        ----------
        message : callable
            Makes the newest set's message, None while there is none.
        """
        refusal = self._refusal(websocket)
        if refusal is not None:
            await websocket.send_denial_response(problem_response(refusal))
            return
        fresh = asyncio.Event()
        fresh.set()  # what there is, is sent at once
        self._clients.add(fresh)
        reader: asyncio.Task[None] | None = None
        try:
            await websocket.accept()
            reader = asyncio.create_task(self._read(websocket, fresh))
            while not reader.done():
                try:
                    await asyncio.wait_for(fresh.wait(), PING_SECONDS)
                except asyncio.TimeoutError:
                    text: bytes | None = to_json({"type": "ping", "time": iso_z(utc_now())})
                else:
                    fresh.clear()
                    text = message()
                if text is not None and not reader.done():
                    await asyncio.wait_for(websocket.send_text(text.decode()), SEND_SECONDS)
        except WebSocketDisconnect:
            pass
        except asyncio.TimeoutError:
            with contextlib.suppress(Exception):  # it may not take the goodbye, either
                await asyncio.wait_for(websocket.close(_TRY_AGAIN_LATER, "too slow"), SEND_SECONDS)
        finally:
            self._clients.discard(fresh)
            if reader is not None:
                reader.cancel()

    def _wake(self) -> None:
        for client in self._clients:
            client.set()

    @staticmethod
    async def _read(websocket: WebSocket, fresh: asyncio.Event) -> None:
        """Read what the client sends, which means nothing, until it leaves."""
        try:
            while (await websocket.receive())["type"] != "websocket.disconnect":
                pass
        finally:
            fresh.set()

    def _refusal(self, websocket: WebSocket) -> RequestError | None:
        if len(self._clients) >= self._max_clients:
            return busy(
                f"{self._max_clients} WebSocket clients are connected, which is the limit.",
                status=503,
                kind="too-many-clients",
                retry_after_seconds=30,
            )
        # Browsers let any page open a WebSocket to any address, and say which page it was.
        origin = websocket.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != websocket.headers.get("host"):
            return RequestError(
                403,
                "foreign-origin",
                "A page of another site asked for the forecasts.",
                why="Any page in a browser could read them otherwise.",
                fix="Connect from a program, or from a page that is served under the daemon's own address.",
            )
        return None
