"""An example of every answer, for the page that describes the routes: one server, one alert, one model.

Tests hold each of them against the answer's schema. Knows nothing of the routes but their names.
"""

from __future__ import annotations

import re
from typing import Any, Final

from data_contract import HORIZONS, METRIC_COLUMNS, VALID_PROFILES

_MODEL: Final = {"name": "tft_model_20261122_134716", "model_version": "3.0.0"}
_SOURCE: Final = {
    "model": _MODEL,
    "prediction_time": "2026-11-22T14:05:00Z",
    "generated_at": "2026-11-22T14:12:36.004972Z",
    "data_age_seconds": 458,
    "stale": False,
}
_SERVER: Final = {"server_name": "ppdb001", "profile": "database"}
_NO_METRICS: Final = {"mem_pct": None, "disk_io_mb_s": None, "latency_ms": None}


def _cpu(value: Any) -> dict[str, Any]:
    """A server that reports its CPU alone."""
    return {"cpu_pct": value, **_NO_METRICS}


def _horizons(*values: float) -> dict[str, Any]:
    return dict(zip(("30min", "1hr", "8hr"), map(_cpu, values), strict=True))


_RECORD: Final = {
    **_SERVER,
    "prediction_time": "2026-11-22T14:05:00Z",
    "predictions": _horizons(61.2, 66.8, 88.1),
    "quantiles": {
        "p10": _horizons(52.0, 55.1, 60.3),
        "p50": _horizons(61.2, 66.8, 88.1),
        "p90": _horizons(70.4, 79.9, 97.6),
    },
    "risk": 0.81,
    "risk_metric": "cpu_pct",
    "risks": _cpu(0.81),
    "state": "heavy_load",
    "current": _cpu(58.4),
    "known": True,
}
_OFFLINE: Final = {
    "server_name": "ppweb007",
    "profile": "web_api",
    "state": "offline",
    "stale": True,
    "last_seen": "2026-11-22T12:30:00Z",
}
_PATH: Final = {
    "step_minutes": 5,
    "timestamps": ["2026-11-22T14:10:00Z", "2026-11-22T14:15:00Z"],
    "metrics": _cpu({"p10": [51.2, 51.4], "p50": [58.9, 59.3], "p90": [66.0, 67.1]}),
}
_OF_ALERT: Final = {"metric": "cpu_pct", "unit": "%", "threshold": 90.0}
_ACKNOWLEDGED: Final = {"author": "kim", "comment": "moving the batch job", "at": "2026-11-22T14:14:02Z"}
_MESSAGE: Final = (
    "CPU of ppdb001 will exceed 90 % in about 95 minutes (2026-11-22T15:40:00Z) with probability 0.81; "
    "median forecast 92.4 %."
)
_ALERT: Final = {
    **_SERVER,
    **_OF_ALERT,
    "probability": 0.81,
    "median_forecast": 92.4,
    "breach_time": {
        "earliest": "2026-11-22T14:50:00Z",
        "median": "2026-11-22T15:40:00Z",
        "latest": "2026-11-22T18:05:00Z",
    },
    "lead_time_minutes": 95,
    "opened_at": "2026-11-22T14:00:00Z",
    "message": _MESSAGE,
    "id": "3f0c7c1be0a94d52",
    "acknowledged": None,
    "silenced_by": [],
}
_PAST_ALERT: Final = {
    "id": "3f0c7c1be0a94d52",
    **_SERVER,
    **_OF_ALERT,
    "highest_probability": 0.93,
    "opened_at": "2026-11-22T14:00:00Z",
    "closed_at": None,
    "closed_because": None,
    "acknowledged": _ACKNOWLEDGED,
    "outcome": None,
    "breached_at": None,
    "message": _MESSAGE,
}
_SILENCE: Final = {
    "id": "9a1d3c5b7e9f0a2b",
    "server_name": None,
    "profile": "database",
    "metric": "disk_io_mb_s",
    "author": "kim",
    "comment": "backup",
    "starts_at": "2026-11-22T14:00:00Z",
    "ends_at": "2026-11-22T16:00:00Z",
    "created_at": "2026-11-22T14:00:00Z",
    "state": "active",
}
_WAY: Final = {"delivered_at": "2026-11-22T14:13:00Z", "failing_since": None, "last_error": None}
_ABOVE: Final = {metric: {"p10": 0, "p50": 1, "p90": 3} for metric in METRIC_COLUMNS}
_LEVELS: Final = {"critical": 1, "watch": 1, "healthy": 88, "unknown": 0}
_LOOK: Final = {
    "past_hours": [{"hours_before": 1, "share": 0.42, "measured": 1.0}],
    "ahead": 0.58,
    "without_data": 0.0,
}
_ANCHORS: Final = {"30min": {"same as now": 1.0}, "1hr": {"same as now": 1.0}, "8hr": {"same as yesterday": 1.0}}
_REASON: Final = {
    **_SERVER,
    "known": True,
    "prediction_time": "2026-11-22T14:05:00Z",
    "sentence": "Of the past, the forecast of ppdb001 reads mostly CPU of the last hours (61 %).",
    "static": {"role of the server": 0.7, "usual level of CPU": 0.3},
    "past": {"CPU of the last hours": 0.61, "time of day": 0.39},
    "future": {"time of day": 1.0},
    "attention": _LOOK,
    "attention_at": {"30min": _LOOK, "1hr": _LOOK, "8hr": _LOOK},
    "anchors": {"all": _ANCHORS, **_cpu(_ANCHORS)},
    "model": _MODEL,
}
_SERVED: Final = {
    **_MODEL,
    "contract_version": "1.0.0",
    "trained_at": "2026-11-22T13:47:16Z",
    "known_servers": 90,
    "profiles": list(VALID_PROFILES),
}
_MODELS: Final = {
    "served": _SERVED,
    "refused": None,
    "count": 1,
    "models": [
        {
            **_MODEL,
            "served": True,
            "contract_version": "1.0.0",
            "created_at": "2026-11-22T13:47:16Z",
            "servers": 90,
            "validation": {"cpu_pct": {"mae": 3.24, "mae_last_value": 4.39, "coverage": 0.78}},
            "problem": None,
        }
    ],
}
_TWO_STEPS: Final = {
    "step_minutes": 5,
    "timestamps": ["2026-11-22T14:00:00Z", "2026-11-22T14:05:00Z"],
}
_NOTHING: Final = {"p10": [None, None], "p50": [None, None], "p90": [None, None]}
_PAST_FORECASTS: Final = {
    **_SERVER,
    "horizon": "1hr",
    **_TWO_STEPS,
    "metrics": {
        **dict.fromkeys(METRIC_COLUMNS, _NOTHING),
        "cpu_pct": {"p10": [51.2, 51.4], "p50": [58.9, 59.3], "p90": [66.0, 67.1]},
    },
}
_SERIES: Final = {
    "step_minutes": 5,
    "servers": {
        "ppdb001": {
            "metric": "cpu_pct",
            "first_measured": "2026-11-22T14:00:00Z",
            "measured": [57.9, 58.4],
            "first_forecast": "2026-11-22T14:10:00Z",
            "forecast": {"p10": [51.2, 51.4], "p50": [58.9, 59.3], "p90": [66.0, 67.1]},
        }
    },
}
_NONE: Final = {"count": 0, "names": []}

EXAMPLES: Final[dict[str, Any]] = {
    "GET /health": {"status": "ok", "model_loaded": True},
    "GET /livez": {"status": "ok"},
    "GET /readyz": {"status": "ready"},
    "GET /status": {
        "status": "ok",
        "version": "0.1.0",
        "model_loaded": True,
        "model": _SERVED,
        "model_error": None,
        "started_at": "2026-11-22T14:12:28.005652Z",
        "uptime_seconds": 10.6,
        "servers": 90,
        "unknown_servers": _NONE,
        "offline_servers": {"count": 1, "names": ["ppweb007"]},
        "history": {
            "rows": 777_600,
            "oldest": "2026-10-23T14:05:00Z",
            "newest": "2026-11-22T14:05:00Z",
            "set_aside": None,
            "rescued_rows": 0,
            "days": 21,
            "damaged_days": [],
        },
        **{name: value for name, value in _SOURCE.items() if name != "model"},
        "forecasts": {
            "count": 1,
            "errors": 0,
            "last_duration_ms": 100.6,
            "average_duration_ms": 100.6,
            "predictions_per_second": 894.6,
            "error_rate": 0.0,
        },
        "ingest": {"accepted": 90, "duplicates": 0, "rejected": 0},
        "pull": None,
        "access": {"keys_required": False, "active_keys": 0, "problem": None},
        "settings": {
            "risk_yellow": 0.3,
            "risk_red": 0.7,
            "critical_thresholds": {"cpu_pct": 90.0, "mem_pct": 95.0, "disk_io_mb_s": 500.0, "latency_ms": 500.0},
            "profile_thresholds": {"ml_compute": {"cpu_pct": 98.0}},
            "stale_after_minutes": 15.0,
            "offline_after_minutes": 60.0,
        },
    },
    "GET /predictions/current": {
        **_SOURCE,
        "count": 1,
        "predictions": [_RECORD],
        "offline": [_OFFLINE],
        "total": 2,
        "next_cursor": "1f0c9a3e-12.MC44MQpwcGRiMDAx",
    },
    "GET /predictions/{server_name}": {**_RECORD, "path": _PATH, **_SOURCE},
    "GET /explain/{server_name}": _REASON,
    "GET /fleet/summary": {
        **_SOURCE,
        "servers": {"forecast": 90, "offline": 1, "unknown_to_model": 0},
        "levels": _LEVELS,
        "horizons": dict.fromkeys(HORIZONS, _ABOVE),
        "profiles": {"database": {**_LEVELS, "offline": 0}},
        "risk_histogram": [{"from": 0.0, "to": 0.1, "servers": 88}],
        "worst": [{**_SERVER, "risk": 0.81, "risk_metric": "cpu_pct", "level": "critical"}],
        "open_alerts": 1,
    },
    "GET /models": _MODELS,
    "POST /models/reload": {"served": _SERVED, "changed": True},
    "GET /forecasts/{server_name}": _PAST_FORECASTS,
    "GET /snapshot": {
        "parts": {"alerts": {**_SOURCE, "count": 1, "alerts": [_ALERT]}, "series": _SERIES},
        "problems": {},
        "set": "5f2ac1d0-17",
        **_SOURCE,
    },
    "GET /discovery/prometheus": [
        {"targets": ["127.0.0.1:8000"], "labels": {"__scheme__": "http", "__metrics_path__": "/metrics"}}
    ],
    "GET /scenario": {"scenario": None, "asked_at": None},
    "POST /scenario/{name}": {"scenario": "degrading", "asked_at": "2026-11-22T14:14:02Z"},
    "GET /history/{server_name}": {
        **_SERVER,
        "step_minutes": 5,
        "timestamps": ["2026-11-22T14:00:00Z", "2026-11-22T14:05:00Z"],
        "metrics": {
            "cpu_pct": [57.9, 58.4],
            "mem_pct": [None, None],
            "disk_io_mb_s": [None, None],
            "latency_ms": [None, None],
        },
        "states": ["heavy_load", "heavy_load"],
    },
    "POST /ingest": {
        "accepted": 2,
        "duplicates": 0,
        "rejected": 1,
        "errors": [{"row": 2, "server_name": "ppdb001", "what": "`cpu_pct` is 140, outside 0 to 100 %"}],
    },
    "GET /alerts/active": {**_SOURCE, "count": 1, "alerts": [_ALERT]},
    "GET /alerts/history": {"count": 1, "cursor": None, "alerts": [_PAST_ALERT]},
    "GET /alerts/silences": {"count": 1, "silences": [_SILENCE]},
    "POST /alerts/silences": _SILENCE,
    "POST /alerts/{alert_id}/acknowledge": _PAST_ALERT,
    "DELETE /alerts/{alert_id}/acknowledge": {**_PAST_ALERT, "acknowledged": None},
    "GET /alerts/delivery": {
        "alertmanager": {"configured": True, "receiver": "http://127.0.0.1:9093", "resend_seconds": 60.0, **_WAY},
        "webhook": {
            "configured": False,
            "receiver": None,
            "waiting": 0,
            "dead_letters": 0,
            **_WAY,
            "delivered_at": None,
        },
    },
    "POST /alerts/test": {
        "alertmanager": {"configured": True, "delivered": True, "error": None},
        "webhook": {"configured": False, "delivered": False, "error": None},
    },
}

# What goes in: parameters by name, bodies by route.
PARAMETERS: Final[dict[str, Any]] = {
    "name": "degrading",
    "server_name": "ppdb001",
    "alert_id": "3f0c7c1be0a94d52",
    "silence_id": "9a1d3c5b7e9f0a2b",
    "hours": 24,
    "server": "ppdb001",
    "limit": 50,
    "cursor": "1041",
    "parts": "status,prediction,history",
    "until": "2026-11-22T12:00:00Z",
    "servers": ["ppdb001"],
    "metric": ["cpu_pct"],
    "horizon": "1hr",
    "known": "5f2ac1d0-17",
    "profile": "database",
    "min_risk": 0.3,
}
BODIES: Final[dict[str, Any]] = {
    "POST /ingest": {"rows": [{"timestamp": "2026-11-22T14:05:00Z", "server_name": "ppdb001", "cpu_pct": 58.4}]},
    "POST /alerts/silences": {
        "metric": "disk_io_mb_s",
        "profile": "database",
        "duration_minutes": 120,
        "author": "kim",
        "comment": "backup",
    },
    "POST /alerts/{alert_id}/acknowledge": {"author": "kim", "comment": "moving the batch job"},
}


def add_examples(openapi: dict[str, Any]) -> None:
    """Write the examples into an OpenAPI description, where it has none yet."""
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            row = f"{method.upper()} {path}"
            for status, response in operation["responses"].items():
                plain = response.get("content", {}).get("application/json")
                if re.fullmatch(r"2\d\d", status) and plain is not None and row in EXAMPLES:
                    plain.setdefault("example", EXAMPLES[row])
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in PARAMETERS and "examples" not in parameter.get("schema", {}):
                    parameter.setdefault("example", PARAMETERS[parameter["name"]])
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is not None and row in BODIES:
                body.setdefault("example", BODIES[row])
