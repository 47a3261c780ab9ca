"""How the Advanced panel is drawn: connection, models with their scores, daemon, settings and requests.

For those who run the system. Knows nothing of HTTP.
"""

from __future__ import annotations

from typing import Any

import dashboard_words as words
from common_utils import iso_z
from config import Settings
from dashboard_answers import Answer, ListedModel, Snapshot
from dashboard_draw import badge_of, draw, refresh_text
from dashboard_shape import Limits
from data_contract import METRICS


def render_advanced(snapshot: Snapshot, settings: Settings, refresh_seconds: float | None) -> None:
    """Connection, model, daemon and settings in figures, for those who run the system."""
    demo = snapshot.scenario is not None
    cards: dict[str, dict[str, Any]] = {
        "Connection": {
            "Daemon": snapshot.address,
            "State": badge_of(snapshot)[1] + (", demo data" if demo else ""),
            "Asked at": iso_z(snapshot.fetched_at.replace(microsecond=0)),
            "Refresh": refresh_text(refresh_seconds),
            "Waits for an answer": f"{settings.request_timeout_seconds:g} s at most",
        }
    }
    status = snapshot.status
    if status is not None:
        model, error = status["model"], status["model_error"] or {}
        cards["Model"] = (
            {key: error[key] for key in ("what", "why", "fix") if key in error}
            if model is None
            else {
                "Name": model["name"],
                "Model version": model["model_version"],
                "Contract version": model["contract_version"],
                "Trained": iso_z(model["trained_at"]) if model["trained_at"] else None,
                "Servers it knows": model["known_servers"],
                "Profiles": [words.profile_text(profile) for profile in model["profiles"]],
            }
        )
    if status is not None and not demo:
        names = [str(name) for name in status["unknown_servers"].get("names", [])]
        cards["Daemon"] = {
            "Version": status["version"],
            "Started": iso_z(status["started_at"].replace(microsecond=0)),
            "Up for": words.duration_text(status["uptime_seconds"] / 60),
            "Servers": status["servers"],
            "New to the model": status["unknown_servers"].get("count"),
            **({"Their names": names[:5] + (["…"] if len(names) > 5 else [])} if names else {}),
            **{f"History {key}": value for key, value in status["history"].items()},
        }
        cards["Forecasts"] = status["forecasts"]
        cards["Ingest"] = status["ingest"]
    if status is not None:
        cards["Risk settings"] = _risk_facts(Limits.from_settings(status["settings"]))
        cards["Risk settings"]["Stale after"] = f"{status['settings']['stale_after_minutes']:g} min"
    models = snapshot.models
    draw(
        "advanced",
        cards=cards,
        models=None if models is None else [_model_row(model) for model in models["models"]],
        refused=None if models is None else models["refused"],
        metrics=[metric.label for metric in METRICS],
    )


def render_requests(answers: tuple[Answer, ...]) -> None:
    """The requests of this refresh, for debugging."""
    draw("requests", answers=answers)


def _model_row(model: ListedModel) -> dict[str, Any]:
    """A model of the list, with its scores on time that it had not learned from, as far as they can be read."""
    validation = model["validation"] or {}
    scores = []
    for metric in METRICS:
        found = validation.get(metric.column)
        found = found if isinstance(found, dict) else {}
        error, naive, coverage = (_number(found.get(key)) for key in ("mae", "mae_last_value", "coverage"))
        scores.append(
            {
                "error": None if error is None else words.value_text(error, metric.column),
                "against": None if error is None or not naive else round((error / naive - 1) * 100),
                "coverage": None if coverage is None else round(coverage * 100),
            }
        )
    return {**model, "scores": scores}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _risk_facts(limits: Limits) -> dict[str, Any]:
    facts: dict[str, Any] = {"Green below": limits.yellow, "Red above": limits.red}
    for metric in METRICS:
        column = metric.column
        others = [
            f"{words.profile_text(profile)} {words.value_text(values[column], column)}"
            for profile, values in limits.by_profile.items()
            if column in values
        ]
        usual = words.value_text(limits.critical.get(column), column)
        facts[f"{metric.label} limit"] = usual + (f" ({', '.join(others)})" if others else "")
    return facts
