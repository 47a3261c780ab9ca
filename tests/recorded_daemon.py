"""A stand-in at the other end of the wire: the daemon's answers as its REST description fixes them, over an ASGI app.

`RecordedDaemon` holds a small fleet's answers as plain JSON. Tests change them (`answers[path] = (status, body)`) to
bring about every state that a real daemon can be in.
"""

from __future__ import annotations

import copy
import hashlib
import json
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
        self.set_id: str | None = None  # none: every answer is another set
        self.requests: list[str] = []
        self.headers: dict[str, str] = {}  # of every answer
        self.bodies: list[Any] = []  # of what was posted
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
            for hours in (6, 24, 72, 168, 720):
                self.answers[f"/history/{each.name}?hours={hours}"] = (200, _history(each, hours))
            self.answers[f"/explain/{each.name}"] = (200, REASON)
        self.answers["/alerts/history"] = (200, {"count": 1, "alerts": [PAST_ALERT]})
        self.answers["/alerts/silences"] = (200, {"count": 0, "silences": []})
        self.answers["/models"] = (200, MODELS)
        self.app = Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST", "DELETE"])])

    def body(self, path: str) -> Any:
        """A copy of an answer, to be changed and recorded again."""
        return copy.deepcopy(self.answers[path][1])

    async def _answer(self, request: Request) -> Response:
        path = unquote(request.url.path) + (f"?{request.url.query}" if request.url.query else "")
        self.requests.append(path)
        if request.method != "GET":
            self.requests[-1] = f"{request.method} {path}"
            content = await request.body()
            self.bodies.append(json.loads(content) if content else None)
            status, body = self.answers.get(f"{request.method} {path}", (201, {}))
            return JSONResponse(body, status)
        status, body = self.answers.get(path, (404, problem(404, f"There is no {path}.")))
        if request.url.path == "/snapshot":
            status, body = self.answers.get("/snapshot", (200, self._snapshot(request)))
        if isinstance(body, str):
            return Response(body, status, self.headers, media_type="text/html")
        media_type = "application/json" if status == 200 else "application/problem+json"
        return JSONResponse(body, status, self.headers, media_type=media_type)

    def _snapshot(self, request: Request) -> dict[str, Any]:
        """`GET /snapshot`, put together from the recorded answers of the parts' own routes, as the daemon does."""
        query = request.query_params
        server, hours = query.get("server", ""), query.get("hours", "24")
        of_server = f"/{server}?hours={hours}"
        paths = {
            "status": "/status",
            "current": "/predictions/current",
            "alerts": "/alerts/active",
            "prediction": f"/predictions/{server}",
            "history": f"/history{of_server}",
            "forecasts": f"/forecasts{of_server}&horizon={query.get('horizon', '1hr')}",
            "past_alerts": "/alerts/history",
            "silences": "/alerts/silences",
            "models": "/models",
            "scenario": "/scenario",
        }
        parts: dict[str, Any] = {}
        problems: dict[str, Any] = {}
        for part in query["parts"].split(","):
            if part == "series":
                parts[part] = {"step_minutes": 5, "servers": self._series(query, int(hours))}
                continue
            if part == "reasons":
                found = {name: self.answers.get(f"/explain/{name}") for name in query.getlist("servers")}
                parts[part] = {name: each[1] for name, each in found.items() if each is not None and each[0] == 200}
                continue
            path = paths[part]
            status, body = self.answers.get(path, (404, problem(404, f"There is no {path.partition('?')[0]}.")))
            (parts if status == 200 else problems)[part] = body
        current = parts.get("current")
        head = current if isinstance(current, dict) else {}
        return {
            "parts": parts,
            "problems": problems,
            "set": self.set_id,
            "stale": head.get("stale"),
            "data_age_seconds": head.get("data_age_seconds"),
        }

    def _series(self, query: Any, hours: int) -> dict[str, Any]:
        found = {}
        metrics = query.getlist("metric") or [None]
        for place, name in enumerate(query.getlist("servers")):
            status, record = self.answers.get(f"/predictions/{name}", (404, None))
            if status != 200 or record is None:
                continue
            history = _history(next(each for each in FLEET if each.name == name), hours)
            metric = metrics[place if len(metrics) > 1 else 0] or record["risk_metric"]
            found[name] = {
                "metric": metric,
                "first_measured": history["timestamps"][0],
                "measured": history["metrics"][metric],
                "first_forecast": record["path"]["timestamps"][0],
                "forecast": record["path"]["metrics"][metric],
            }
        return found


REASON = {
    "sentence": "Of the past, the forecast reads mostly CPU of the last hours (41 %).",
    "past": {"CPU of the last hours": 0.41, "time of day": 0.33, "usual level of CPU": 0.26},
    "attention": {
        "past_hours": [{"hours_before": hour, "share": 0.8 / 2**hour, "measured": 1.0} for hour in range(1, 25)],
        "ahead": 0.1,
        "without_data": 0.0,
    },
    "anchors": {},
}
PAST_ALERT = {
    "id": "0c1d",
    "server_name": "ppdb001",
    "metric": "mem_pct",
    "threshold": 97.0,
    "highest_probability": 0.9,
    "opened_at": iso(ORIGIN - timedelta(hours=3)),
    "closed_at": iso(ORIGIN - timedelta(minutes=20)),
    "acknowledged": None,
    "outcome": "false",
}
MODELS = {
    "served": None,
    "refused": None,
    "count": 1,
    "models": [
        {
            "name": "tft_model_20260105_120000",
            "served": True,
            "created_at": "2026-01-05T12:00:00Z",
            "servers": 4,
            "validation": {"cpu_pct": {"mae": 3.0, "mae_last_value": 4.0, "coverage": 0.79}},
            "problem": None,
        }
    ],
}


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
        "id": hashlib.sha256(f"{name} {metric}".encode()).hexdigest()[:16],
        "acknowledged": None,
        "silenced_by": [],
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
