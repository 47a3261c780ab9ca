"""A stand-in at the other end of the wire: the daemon's answers as its REST description fixes them, over an ASGI app.

`RecordedDaemon` holds a small fleet's answers as plain JSON. Tests change them (`answers[path] = (status, body)`) to
bring about every state that a real daemon can be in.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

METRICS = ("cpu_pct", "mem_pct", "disk_io_mb_s", "latency_ms")
HORIZON_STEPS = {"30min": 6, "1hr": 12, "8hr": 96}
HOSTILE_NAME = "<img src=x onerror=alert(1)>"
ORIGIN = datetime(2026, 1, 5, 13, 5, tzinfo=timezone.utc)

Readings = dict[str, tuple[float, float] | None]  # (now, in 8 hours) of each metric; None: never reported
CALM: Readings = {
    "cpu_pct": (30.0, 35.0),
    "mem_pct": (40.0, 42.0),
    "disk_io_mb_s": (20.0, 25.0),
    "latency_ms": (80.0, 85.0),
}


@dataclass(frozen=True)
class Server:
    name: str
    profile: str
    state: str
    readings: Readings
    risks: dict[str, float | None]
    known: bool = True


def server(
    name: str, profile: str, state: str = "healthy", *, known: bool = True, risk: float, **differs: Any
) -> Server:
    """A calm server but for what differs: metric → (now, in 8 hours, risk), or None where it is never reported."""
    readings, risks = dict(CALM), dict.fromkeys(METRICS, risk)
    for metric, values in differs.items():
        readings[metric] = None if values is None else values[:2]
        risks[metric] = None if values is None else values[2]
    return Server(name, profile, state, readings, risks, known)


FLEET = [
    server("ppweb001", "web_api", risk=0.01),
    server("ppweb002", "web_api", "critical_issue", risk=0.02, cpu_pct=(99.0, 98.0, 0.99)),
    server("ppdb001", "database", risk=0.03, mem_pct=(80.0, 96.5, 0.5)),
    server("ppml0001", "ml_compute", risk=0.04, latency_ms=None),
    server(HOSTILE_NAME, "generic", "heavy_load", known=False, risk=0.05, cpu_pct=(60.0, 95.0, 0.8)),
]


def iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _spread(metric: str, middle: float, quantile: str) -> float:
    shift = {"p10": -0.1, "p50": 0.0, "p90": 0.1}[quantile] * middle
    value = middle + shift
    return round(min(value, 100.0) if metric.endswith("_pct") else value, 3)


def _at(readings: Readings, metric: str, step: int, quantile: str) -> float | None:
    pair = readings[metric]
    if pair is None:
        return None
    return _spread(metric, pair[0] + (pair[1] - pair[0]) * step / 96, quantile)


def prediction(server: Server) -> dict[str, Any]:
    readings, risks = server.readings, server.risks
    quantiles = {
        quantile: {
            horizon: {metric: _at(readings, metric, step, quantile) for metric in METRICS}
            for horizon, step in HORIZON_STEPS.items()
        }
        for quantile in ("p10", "p50", "p90")
    }
    reported = {metric: risk for metric, risk in risks.items() if risk is not None}
    return {
        "server_name": server.name,
        "profile": server.profile,
        "prediction_time": iso(ORIGIN),
        "predictions": quantiles["p50"],
        "quantiles": quantiles,
        "risk": max(reported.values()) if reported else None,
        "risk_metric": max(reported, key=lambda metric: reported[metric]) if reported else None,
        "risks": risks,
        "state": server.state,
        "current": {metric: None if (pair := readings[metric]) is None else pair[0] for metric in METRICS},
        "known": server.known,
    }


def _path(readings: Readings) -> dict[str, Any]:
    return {
        "step_minutes": 5,
        "timestamps": [iso(ORIGIN + timedelta(minutes=5 * step)) for step in range(1, 97)],
        "metrics": {
            metric: None
            if readings[metric] is None
            else {q: [_at(readings, metric, step, q) for step in range(1, 97)] for q in ("p10", "p50", "p90")}
            for metric in METRICS
        },
    }


def _history(server: Server, hours: int) -> dict[str, Any]:
    steps = range(-hours * 12 + 1, 1)
    return {
        "server_name": server.name,
        "profile": server.profile,
        "step_minutes": 5,
        "timestamps": [iso(ORIGIN + timedelta(minutes=5 * step)) for step in steps],
        "metrics": {
            metric: [None if pair is None or -20 < step < -16 else pair[0] - step % 12 / 4 for step in steps]
            for metric, pair in server.readings.items()
        },
        "states": ["healthy" for _ in steps],
    }


def problem(status: int, what: str, kind: str = "not-found") -> dict[str, Any]:
    return {
        "type": f"urn:tft:problem:{kind}",
        "title": "Problem",
        "status": status,
        "detail": what,
        "what": what,
        "why": "The reason why it matters.",
        "fix": "The way to fix it.",
        "document": "Docs/MODEL_FOLDER.md",
    }


class RecordedDaemon:
    """Answers by path; anything that is not recorded is a 404 problem."""

    def __init__(self) -> None:
        predictions = [prediction(each) for each in FLEET]
        head = {
            "model": {"name": "tft_model_20260105_120000", "model_version": "3.0.0"},
            "prediction_time": iso(ORIGIN),
            "generated_at": iso(ORIGIN + timedelta(minutes=6)),
            "data_age_seconds": 130.0,
            "stale": False,
        }
        self.requests: list[str] = []
        self.answers: dict[str, tuple[int, Any]] = {
            "/status": (200, status_body(head, len(FLEET))),
            "/predictions/current": (200, {**head, "count": len(FLEET), "predictions": predictions}),
            "/alerts/active": (200, {**head, "count": 2, "alerts": [
                alert("ppweb002", "web_api", "cpu_pct", 90.0, 0.99, minutes=5),
                alert(HOSTILE_NAME, "generic", "cpu_pct", 90.0, 0.8, minutes=395),
            ]}),
        }  # fmt: skip
        for each in FLEET:
            record = {**prediction(each), "path": _path(each.readings)}
            self.answers[f"/predictions/{each.name}"] = (200, record)
            for hours in (6, 24, 72):
                self.answers[f"/history/{each.name}?hours={hours}"] = (200, _history(each, hours))
        self.app = Starlette(routes=[Route("/{path:path}", self._answer)])

    def body(self, path: str) -> Any:
        """A copy of an answer, to be changed and recorded again."""
        return copy.deepcopy(self.answers[path][1])

    async def _answer(self, request: Request) -> Response:
        path = unquote(request.url.path) + (f"?{request.url.query}" if request.url.query else "")
        self.requests.append(path)
        status, body = self.answers.get(path, (404, problem(404, f"There is no {path}.")))
        if isinstance(body, str):
            return Response(body, status, media_type="text/html")
        media_type = "application/json" if status == 200 else "application/problem+json"
        return JSONResponse(body, status, media_type=media_type)


def alert(
    name: str, profile: str, metric: str, threshold: float, probability: float, *, minutes: int
) -> dict[str, Any]:
    due = ORIGIN + timedelta(minutes=minutes)
    return {
        "server_name": name,
        "profile": profile,
        "metric": metric,
        "unit": "%",
        "threshold": threshold,
        "probability": probability,
        "median_forecast": 97.0,
        "breach_time": {"earliest": iso(due - timedelta(minutes=5)), "median": iso(due), "latest": None},
        "lead_time_minutes": minutes,
        "opened_at": iso(ORIGIN),
        "message": f"{name}: {metric} is expected above {threshold}.",
    }


def status_body(head: dict[str, Any], servers: int) -> dict[str, Any]:
    return {
        **head,
        "status": "ok",
        "version": "0.1.0",
        "model_loaded": True,
        "model": {
            **head["model"],
            "contract_version": "1.0.0",
            "trained_at": "2026-01-05T12:00:00Z",
            "known_servers": 4,
            "profiles": ["ml_compute", "database", "web_api", "generic"],
        },
        "model_error": None,
        "started_at": "2026-01-05T12:30:00Z",
        "uptime_seconds": 2100.5,
        "servers": servers,
        "unknown_servers": {"count": 1, "names": [HOSTILE_NAME]},
        "history": {"rows": 4320, "oldest": "2026-01-02T13:05:00Z", "newest": iso(ORIGIN)},
        "forecasts": {
            "count": 7,
            "errors": 0,
            "last_duration_ms": 41.2,
            "average_duration_ms": 44.0,
            "predictions_per_second": 2100.0,
            "error_rate": 0.0,
        },
        "ingest": {"accepted": 4320, "duplicates": 12, "rejected": 0},
        "settings": {
            "risk_yellow": 0.3,
            "risk_red": 0.7,
            "critical_thresholds": {"cpu_pct": 90.0, "mem_pct": 95.0, "disk_io_mb_s": 500.0, "latency_ms": 500.0},
            "profile_thresholds": {"database": {"mem_pct": 97.0}},
            "stale_after_minutes": 15.0,
        },
    }
