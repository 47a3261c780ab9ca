"""Where a Prometheus finds the daemon's `/metrics`: its HTTP service discovery format.

The address is the one of the setting `public_url`, else the one on this machine at which the request arrived. The Host
header is not asked: whoever sends a request writes it, and a Prometheus would take its metrics from there.

Source: https://prometheus.io/docs/prometheus/latest/http_sd/
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from pydantic import Field
from starlette.types import Scope

from daemon_answers import to_json
from daemon_schemas import Answer

_METRICS = "/metrics"


class DiscoveredTarget(Answer):
    """A target in the form of Prometheus' HTTP service discovery."""

    targets: list[str] = Field(examples=[["127.0.0.1:8000"]])
    labels: dict[str, str] = Field(examples=[{"__scheme__": "http", "__metrics_path__": "/metrics"}])


def discovery_routes(public_url: str) -> APIRouter:
    """Make the route."""
    router = APIRouter(tags=["operation"])

    @router.get("/discovery/prometheus", response_model=list[DiscoveredTarget])
    async def discovery(request: Request) -> Response:
        """Where a Prometheus finds the daemon's metrics: its HTTP service discovery."""
        return Response(to_json(targets(request.scope, public_url)), media_type="application/json")

    return router


def targets(scope: Scope, public_url: str) -> list[dict[str, Any]]:
    """The one target, in Prometheus' form: where it is asked, over what, and at which address.

    Parameters
    ----------
    scope : Scope
        Of the request that asks.
    public_url : str
        Address of the daemon behind a proxy or in a container; empty if there is none.
    """
    if public_url:
        parts = urlsplit(public_url)
        return [_target(_joined(parts.hostname or "", parts.port), parts.scheme, parts.path.rstrip("/"))]
    host, port = scope.get("server") or ("127.0.0.1", None)
    return [_target(_joined(host, port), scope.get("scheme", "http"), "")]


def _target(address: str, scheme: str, prefix: str) -> dict[str, Any]:
    return {"targets": [address], "labels": {"__scheme__": scheme, "__metrics_path__": prefix + _METRICS}}


def _joined(host: str, port: int | None) -> str:
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def _self_check() -> None:
    here = targets({"type": "http", "scheme": "http", "server": ("::1", 8000)}, "")
    assert here == [{"targets": ["[::1]:8000"], "labels": {"__scheme__": "http", "__metrics_path__": "/metrics"}}]
    there = targets({"type": "http"}, "https://ops.example.org/tft/")
    assert there[0]["targets"] == ["ops.example.org"] and there[0]["labels"]["__metrics_path__"] == "/tft/metrics"
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
