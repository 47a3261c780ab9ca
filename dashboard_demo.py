"""What the dashboard shows when there is no daemon and the user asks for a demonstration: invented data, labelled so.

The three scenarios are written down as curves, in the form of the daemon's answers, so that every panel can be seen. No
model is behind them: they are the one exception to "model first", and the panels say DEMO DATA above them.
Knows nothing of HTTP or Streamlit.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common_utils import floor_to_step, iso_z
from config import Settings
from dashboard_answers import PART_KINDS, Answer, Problem, Snapshot, Wanted, check_answer
from data_contract import (
    CONTRACT_VERSION,
    DEFAULT_FLEET,
    HORIZON_STEPS,
    HORIZONS,
    METRIC_COLUMNS,
    METRICS,
    SERVED_QUANTILES,
    STEP_MINUTES,
    format_name,
    shorten,
)
from derived_columns import derived_state_names

SCENARIOS: Final[tuple[str, ...]] = ("healthy", "degrading", "critical")
SCENARIO_NOTES: Final[dict[str, str]] = {
    "healthy": "A quiet fleet, within its limits.",
    "degrading": "Well now, but a part of the fleet is drifting into trouble.",
    "critical": "Several servers are over their limits already, more will follow.",
}

# Usual level of the four metrics (%, %, MB/s, ms) for each profile
_LEVELS: Final[dict[str, tuple[float, float, float, float]]] = {
    "ml_compute": (58.0, 66.0, 90.0, 60.0),
    "database": (42.0, 70.0, 210.0, 25.0),
    "web_api": (38.0, 48.0, 25.0, 90.0),
    "conductor_mgmt": (24.0, 40.0, 12.0, 35.0),
    "data_ingest": (46.0, 52.0, 320.0, 120.0),
    "risk_analytics": (50.0, 60.0, 70.0, 80.0),
    "generic": (30.0, 42.0, 20.0, 40.0),
}
_SILENT_PROFILE: Final = "generic"  # these report no latency, so that the demo shows how a missing metric looks
# Of ten servers: how many are drifting, how many of these are over the limit already
_SHARES: Final[dict[str, tuple[int, int]]] = {"healthy": (0, 0), "degrading": (2, 0), "critical": (4, 2)}
_HISTORY_STEPS: Final = 72 * 60 // STEP_MINUTES
_NORMAL = NormalDist()
_Z90: Final = _NORMAL.inv_cdf(0.9)


@dataclass(frozen=True)
class _Server:
    name: str
    profile: str
    levels: npt.NDArray[np.float64]  # (metrics,)
    phase: float  # of the day, in radians
    trouble: int | None  # index of the metric that drifts
    hours_to_limit: float  # when the drift reaches the limit; negative: it has


def demo_snapshot(scenario: str, live: Snapshot, wanted: Wanted, settings: Settings) -> Snapshot:
    """What was asked for, of the fleet of a scenario, in place of the snapshot `live` that could not be had."""
    now = live.fetched_at
    origin = _origin(now)
    servers = {server.name: server for server in _fleet(scenario, settings)}
    records = [_record(server, origin, settings) for server in servers.values()]
    alerts = list(_alerts(records, origin, settings))
    head = {
        "model": {"name": f"demo ({scenario})", "model_version": "none: demo data"},
        "prediction_time": iso_z(origin),
        "generated_at": iso_z(now),
        "data_age_seconds": (now - origin).total_seconds(),
        "stale": False,
    }
    bodies: dict[str, Any] = {
        "status": _status(head, len(records), now, settings),
        "current": {
            **head,
            "count": len(records),
            "predictions": [{key: value for key, value in record.items() if key != "path"} for record in records],
        },
        "alerts": {**head, "count": len(alerts), "alerts": alerts},
        "past_alerts": {"count": 0, "alerts": []},
        "silences": {"count": 0, "silences": []},
        "models": {"refused": None, "models": []},
        "scenario": {"scenario": scenario},
        "reasons": {},
        "series": {
            "step_minutes": STEP_MINUTES,
            "servers": {
                name: _series(servers[name], metric, wanted.hours, origin, settings)
                for name, metric in _metrics_of(wanted)
                if name in servers
            },
        },
    }
    troubles: dict[str, Problem] = {}
    for part in ("prediction", "history", "forecasts"):
        if part not in wanted.parts:
            continue
        server = servers.get(wanted.server)
        if server is None:
            troubles[part] = Problem(
                "not_found",
                f"The demo fleet has no server named {shorten(wanted.server)}.",
                "Demo servers are invented; yours appear when the daemon is back.",
                "Choose one of the list.",
            )
        elif part == "forecasts":
            troubles[part] = Problem(
                "not_found",
                "The demo has no past forecasts.",
                "What was forecast then can only be told by a daemon that forecast it.",
                "Start the daemon with `python main.py serve`.",
            )
        elif part == "prediction":
            bodies[part] = _record(server, origin, settings)
        else:
            bodies[part] = _history(server, wanted.hours, origin, settings)
    parts = {part: check_answer(PART_KINDS[part], bodies[part]) for part in wanted.parts if part in bodies}
    return Snapshot(
        address=live.address,
        fetched_at=now,
        parts=parts,
        part_problems=troubles,
        answers=(*live.answers, *(_answer(part, bodies[part]) for part in parts)),
        set_id=f"demo-{scenario}-{iso_z(origin)}",
        scenario=scenario,
    )


def _history(server: _Server, hours: int, origin: datetime, settings: Settings) -> dict[str, Any]:
    """One server in the form of `GET /history/{server_name}`."""
    steps = np.arange(-min(_HISTORY_STEPS, hours * 60 // STEP_MINUTES) + 1, 1)
    measured = _measured(server, steps, origin, settings)
    return {
        "server_name": server.name,
        "profile": server.profile,
        "step_minutes": STEP_MINUTES,
        "timestamps": [iso_z(origin + timedelta(minutes=STEP_MINUTES * int(step))) for step in steps],
        "metrics": {
            metric: None if np.isnan(values).all() else [round(float(value), 2) for value in values]
            for metric, values in zip(METRIC_COLUMNS, measured.T, strict=True)
        },
        "states": _states(measured),
    }


def _metrics_of(wanted: Wanted) -> Iterator[tuple[str, str]]:
    """Servers of the part `series` with the metric that is asked for; empty for the riskiest."""
    for place, name in enumerate(wanted.servers):
        metrics = wanted.metrics or ("",)
        yield name, metrics[place if len(metrics) > 1 else 0]


def _series(server: _Server, metric: str, hours: int, origin: datetime, settings: Settings) -> dict[str, Any]:
    """One server of the part `series` of `GET /snapshot`."""
    history, record = _history(server, hours, origin, settings), _record(server, origin, settings)
    metric = metric or record["risk_metric"]
    return {
        "metric": metric,
        "first_measured": history["timestamps"][0],
        "measured": history["metrics"][metric] or [None] * len(history["timestamps"]),
        "first_forecast": record["path"]["timestamps"][0],
        "forecast": record["path"]["metrics"][metric],
    }


def _origin(now: datetime) -> datetime:
    """Start of the last whole step."""
    return floor_to_step(now, STEP_MINUTES) - timedelta(minutes=STEP_MINUTES)


def _answer(part: str, body: Any) -> Answer:
    return Answer(part, None, body, 0.0, 0, source="demo")


def _fleet(scenario: str, settings: Settings) -> Iterator[_Server]:
    """The default fleet, the same for every look at a scenario."""
    drifting, over = _SHARES[scenario]
    for profile, count in DEFAULT_FLEET.items():
        for number in range(1, count + 1):
            name = format_name(profile, number)
            seed = zlib.crc32(name.encode())
            rng = np.random.default_rng(seed)
            levels = np.array(_LEVELS[profile]) * rng.uniform(0.8, 1.2, len(METRICS))
            limits = np.array([settings.threshold(metric, profile) for metric in METRIC_COLUMNS])
            levels = np.minimum(levels, limits * 0.72)
            place = seed // 7 % 10
            silent = profile == _SILENT_PROFILE
            trouble = int(rng.integers(0, len(METRICS) - silent)) if place < drifting else None
            hours_to_limit = float(rng.uniform(-3.0, -0.5) if place < over else rng.uniform(0.7, 11.0))
            yield _Server(name, profile, levels, float(rng.uniform(-0.6, 0.6)), trouble, hours_to_limit)


def _curve(
    server: _Server, steps: npt.NDArray[np.int_], origin: datetime, settings: Settings
) -> npt.NDArray[np.float64]:
    """Expected values at steps counted from the origin. Shape (steps, metrics)."""
    midnight = origin.replace(hour=0, minute=0, second=0, microsecond=0)
    hours = (origin - midnight).total_seconds() / 3600 + steps * (STEP_MINUTES / 60)
    day = 1.0 + 0.16 * np.sin((hours - 9.0) / 24 * 2 * np.pi + server.phase)
    values = np.outer(day, server.levels)
    if server.trouble is not None:
        limit = settings.threshold(METRIC_COLUMNS[server.trouble], server.profile)
        base = values[:, server.trouble]
        climb = 1.0 / (1.0 + np.exp(-(steps * (STEP_MINUTES / 60) - server.hours_to_limit + 1.0) * 1.1))
        top = limit * 1.12 if METRICS[server.trouble].upper is None else min(limit * 1.12, 99.0)
        values[:, server.trouble] = base + (top - base) * climb
    if server.profile == _SILENT_PROFILE:
        values[:, METRIC_COLUMNS.index("latency_ms")] = np.nan
    return values


def _measured(
    server: _Server, steps: npt.NDArray[np.int_], origin: datetime, settings: Settings
) -> npt.NDArray[np.float64]:
    """Expected values with some noise, the same at the same time of every look. Shape (steps, metrics)."""
    absolute = int(origin.timestamp()) // (60 * STEP_MINUTES) + steps
    noise = np.stack(
        [
            np.random.default_rng([zlib.crc32(server.name.encode()), int(step)]).normal(0.0, 0.035, len(METRICS))
            for step in absolute
        ]
    )
    return _bounded(_curve(server, steps, origin, settings) * (1.0 + noise))


def _bounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    upper = [np.inf if metric.upper is None else metric.upper for metric in METRICS]
    return np.clip(values, 0.0, upper)


def _states(measured: npt.NDArray[np.float64]) -> list[str]:
    """States by the contract's rules for measured values of shape (steps, metrics)."""
    states: list[str] = derived_state_names(dict(zip(METRIC_COLUMNS, measured.T, strict=True)), len(measured)).tolist()
    return states


def _record(server: _Server, origin: datetime, settings: Settings) -> dict[str, Any]:
    """One server in the form of `GET /predictions/{server_name}`."""
    steps = np.arange(1, HORIZON_STEPS + 1)
    middle = _curve(server, steps, origin, settings)  # (steps, metrics)
    spread = middle * (0.035 + 0.12 * np.sqrt(steps / HORIZON_STEPS)[:, None])
    paths = {
        name: _bounded(middle + _NORMAL.inv_cdf(share) * spread / _Z90) for name, share in SERVED_QUANTILES.items()
    }
    risks: dict[str, float | None] = {}
    for column, metric in enumerate(METRIC_COLUMNS):
        distance = (middle[:, column] - settings.threshold(metric, server.profile)) / spread[:, column] * _Z90
        worst = float(np.max(distance))
        risks[metric] = None if np.isnan(worst) else round(_NORMAL.cdf(worst), 4)
    risk_metric = max((metric for metric in METRIC_COLUMNS if risks[metric] is not None), key=lambda m: risks[m] or 0.0)
    current = _measured(server, np.array([0]), origin, settings)[0]
    quantiles = {
        name: {horizon: _readings(values[step - 1]) for horizon, step in HORIZONS.items()}
        for name, values in paths.items()
    }
    return {
        "server_name": server.name,
        "profile": server.profile,
        "prediction_time": iso_z(origin),
        "predictions": quantiles["p50"],
        "quantiles": quantiles,
        "risk": risks[risk_metric],
        "risk_metric": risk_metric,
        "risks": risks,
        "state": _states(current[None])[0],
        "current": _readings(current),
        "known": True,
        "path": {
            "step_minutes": STEP_MINUTES,
            "timestamps": [iso_z(origin + timedelta(minutes=STEP_MINUTES * int(step))) for step in steps],
            "metrics": {
                metric: None
                if np.isnan(middle[:, column]).all()
                else {name: [round(float(v), 2) for v in values[:, column]] for name, values in paths.items()}
                for column, metric in enumerate(METRIC_COLUMNS)
            },
        },
    }


def _readings(values: npt.NDArray[np.float64]) -> dict[str, float | None]:
    return {
        metric: None if np.isnan(value) else round(float(value), 2)
        for metric, value in zip(METRIC_COLUMNS, values, strict=True)
    }


def _alerts(records: list[dict[str, Any]], origin: datetime, settings: Settings) -> Iterator[dict[str, Any]]:
    """Open alerts of the scenario, the likeliest first."""
    for record in sorted(records, key=lambda record: -record["risk"]):
        metric = record["risk_metric"]
        if record["risk"] < settings.alert_open_risk:
            continue
        limit = settings.threshold(metric, record["profile"])
        path = record["path"]["metrics"][metric]
        crossing = {
            when: next((i for i, value in enumerate(path[quantile]) if value > limit), None)
            for when, quantile in (("earliest", "p90"), ("median", "p50"), ("latest", "p10"))
        }
        first = crossing["median"] if crossing["median"] is not None else crossing["earliest"]
        yield {
            "server_name": record["server_name"],
            "profile": record["profile"],
            "metric": metric,
            "unit": next(m.unit for m in METRICS if m.column == metric),
            "threshold": limit,
            "probability": record["risk"],
            "median_forecast": max(path["p50"]),
            "breach_time": {
                when: None if step is None else record["path"]["timestamps"][step] for when, step in crossing.items()
            },
            "lead_time_minutes": None if first is None else STEP_MINUTES * (first + 1),
            "opened_at": iso_z(origin),
            "message": f"Demo: {metric} of {record['server_name']} is drifting above {limit:g}.",
        }


def _status(head: dict[str, Any], servers: int, now: datetime, settings: Settings) -> dict[str, Any]:
    """`GET /status` of the demo; counters that only a daemon can have are zero."""
    return {
        **head,
        "status": "demo",
        "version": "demo",
        "model_loaded": False,
        "model": {
            **head["model"],
            "contract_version": CONTRACT_VERSION,
            "trained_at": None,
            "known_servers": servers,
            "profiles": list(DEFAULT_FLEET),
        },
        "model_error": None,
        "started_at": iso_z(now),
        "uptime_seconds": 0.0,
        "servers": servers,
        "unknown_servers": {"count": 0, "names": []},
        "history": {"rows": 0, "oldest": None, "newest": head["prediction_time"]},
        "forecasts": {},
        "ingest": {},
        "settings": {
            "risk_yellow": settings.risk_yellow,
            "risk_red": settings.risk_red,
            "critical_thresholds": settings.critical_thresholds,
            "profile_thresholds": settings.profile_thresholds,
            "stale_after_minutes": settings.stale_after_minutes,
        },
    }
