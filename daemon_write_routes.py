"""The route that a Prometheus writes to: remote write 1.0. A 204 means that what it sent is on disk.

A Prometheus takes every 4xx for final and drops what it has sent; only what will never be right is answered with one.
"""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from daemon_core import Daemon
from daemon_problems import RequestError, busy
from daemon_schemas import problems
from data_contract import shorten
from remote_write import PROTOBUF

_MESSAGE: Final = "prometheus.WriteRequest"
_FIX: Final = (
    "Set `protobuf_message: prometheus.WriteRequest` in the Prometheus' remote_write section, or leave it out."
)


def write_routes(daemon: Daemon) -> APIRouter:
    """Make the route."""
    router = APIRouter(tags=["data"])
    body = {"required": True, "content": {PROTOBUF: {"schema": {"type": "string", "format": "binary"}}}}

    @router.post(
        "/write",
        status_code=204,
        openapi_extra={"requestBody": body},
        responses=problems(
            s400="no remote write request, or samples that cannot be: the others are stored",
            s404="no mapping is set",
            s413="too many bytes or samples",
            s415="another version than 1.0",
            s503="too much at once, or a body that came too slowly",
            s507="the disk is full",
        ),
    )
    async def write(request: Request) -> Response:
        """Take in what a Prometheus sends (remote write 1.0); its address is /api/v1/write."""
        daemon.require_remote_write()
        _require_version_1(request)
        try:
            async with daemon.receive_body(request) as content:
                result = await daemon.write(content)
        except RequestError as error:
            if error.status == 408:
                raise busy(error.what, status=503, kind="too-slow", retry_after_seconds=1) from None
            raise
        request.scope["state"]["log"].update(result.counts)
        if result.rejected:
            first = result.errors[0]["what"]
            raise RequestError(
                400,
                "invalid-samples",
                f"{result.rejected:,} samples were refused; the first: {first}.",
                why="They would make forecasts silently wrong. The others are stored; do not send them again.",
                fix="Correct what `errors` says, in the mapping or at the source.",
                document="Docs/DAEMON.md",
                extra={**result.counts, "errors": result.errors},
            )
        return Response(None, 204)

    return router


def _require_version_1(request: Request) -> None:
    """Refuse other protocols.

    Raises
    ------
    RequestError
        415.
    """
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    message = parameters.strip().removeprefix("proto=") or _MESSAGE
    coding = request.headers.get("content-encoding", "").strip().lower()
    version = request.headers.get("x-prometheus-remote-write-version", "0.1.0")
    if kind.strip().lower() != PROTOBUF or message != _MESSAGE or version.startswith("2"):
        raise RequestError(
            415,
            "not-remote-write",
            f"The body is {shorten(kind or 'of no stated type')}, {shorten(message)}, version {shorten(version)}.",
            why="Remote write 1.0 is understood here, which every Prometheus can send.",
            fix=_FIX,
        )
    if coding != "snappy":
        raise RequestError(
            415,
            "not-remote-write",
            f"The body's content encoding is {shorten(coding or 'none')}, not snappy.",
            why="Remote write 1.0 is compressed with snappy, always.",
            fix=_FIX,
        )
