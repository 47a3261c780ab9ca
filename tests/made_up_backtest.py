"""A made-up result of a backtest with every part, for tests of what is made of it; the figures mean nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_contract import HORIZON_STEPS, METRIC_COLUMNS, VALID_PROFILES, VALID_STATES

HOSTILE_NAME = "<img src=x onerror=alert(1)>{{ 7*7 }}"
TITLES = {
    "tft": "TFT (this product)",
    "last_value": "Last value",
    "seasonal_naive": "Same time yesterday",
    "ridge": "Ridge on lags",
    "boosting": "Gradient boosting",
    "mlp": "Plain MLP",
}
ERROR = {"tft": 0.30, "last_value": 0.52, "seasonal_naive": 0.61, "ridge": 0.38, "boosting": 0.34, "mlp": 0.32}
QUANTILES = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)


def _score(method: str, metric: str, factor: float = 1.0) -> dict[str, Any]:
    place = METRIC_COLUMNS.index(metric) if metric in METRIC_COLUMNS else None
    error = ERROR[method] * (1 + 0.2 * (place or 0)) * factor
    mase = 4 * error
    if (method, metric) == ("mlp", "mem_pct"):  # where the model loses
        error, mase = error * 0.8, mase * 0.8
    with_unit = place is not None
    return {
        "crps": error,
        "mase": mase,
        "mae": error * 20 if with_unit else None,
        "coverage_p10_p90": 0.80 if method == "tft" else 0.72,
        "sharpness": 12.0 if with_unit else None,
        "bias": 0.1 if with_unit else None,
        "labels": 10_000,
    }


def make_result() -> dict[str, Any]:
    """The JSON of a backtest: the model, five baselines and one that was left out."""
    methods = [
        {"name": name, "title": title, "fit_seconds": 3.2, "forecast_seconds": 0.4, "skipped": None, "unanswered": 0}
        for name, title in TITLES.items()
    ]
    left_out = {"name": "auto_ets", "title": "AutoETS", "skipped": "statsforecast is not installed"}
    methods.append({**left_out, "fit_seconds": None, "forecast_seconds": None, "unanswered": None})
    groups = [
        ("all", "all", 1.0),
        *(("profile", profile, 1 + 0.05 * k) for k, profile in enumerate(VALID_PROFILES)),
        *(("state", state, 1 + 0.1 * k) for k, state in enumerate(VALID_STATES)),
        *(("horizon", band, 0.6 + 0.2 * k) for k, band in enumerate(("30min", "1hr", "8hr"))),
        ("server", "known", 1.0),
        ("server", "held_out", 1.05),
    ]
    scores = [
        {"method": name, "metric": metric, "group": group, "value": value, **_score(name, metric, factor)}
        for name in TITLES
        for group, value, factor in groups
        for metric in ("all", *METRIC_COLUMNS)
    ]
    scores += [
        {"method": "tft", "metric": metric, "group": "profile_known", "value": value, **_score("tft", metric, factor)}
        for value, factor in (("known", 1.03), ("generic", 1.1))
        for metric in ("all", *METRIC_COLUMNS)
    ]
    return {
        "what": {
            "data": "training/server_metrics.parquet",
            "fingerprint": "0123456789abcdef" * 4,
            "servers": 90,
            "held_out_servers": 18,
            "test_from": "2026-03-01T00:00:00Z",
            "test_until": "2026-03-07T00:00:00Z",
            "origins": 18,
            "horizon_steps": HORIZON_STEPS,
            "step_minutes": 5,
            "quantiles": list(QUANTILES),
            "model": {
                "name": "tft_model_20260228_120000",
                "trained_until": "2026-02-28T23:55:00Z",
                "known_servers": 72,
            },
            "labels_not_asked": 12,
            "notes": ["The model was trained for this backtest."],
            "seconds": 754.2,
        },
        "methods": methods,
        "scores": scores,
        "calibration": [
            {
                "method": name,
                "metric": metric,
                "quantile": level,
                "share_below": level + 0.1 * (ERROR[name] - 0.3) * (1 - 2 * level),
            }
            for name in TITLES
            for metric in METRIC_COLUMNS
            for level in QUANTILES
        ],
        "by_step": [
            {
                "method": name,
                "metric": metric,
                "step": step,
                "crps": ERROR[name] * (0.4 + 0.6 * (step / HORIZON_STEPS) ** 0.5),
                "mae": 20 * ERROR[name] * (0.4 + 0.6 * (step / HORIZON_STEPS) ** 0.5),
                "coverage_p10_p90": 0.8 - 0.1 * (ERROR[name] - 0.3) - 0.02 * np.sin(step / 9),
                "sharpness": 9.0,
            }
            for name in TITLES
            for metric in METRIC_COLUMNS
            for step in range(1, HORIZON_STEPS + 1)
        ],
        "crossings": dict.fromkeys(TITLES, 0),
        "examples": [
            _example(metric, why, k)
            for k, (metric, why) in enumerate(
                (metric, why) for metric in METRIC_COLUMNS for why in ("typical", "largest error")
            )
        ],
        "alerts": _alerts(),
        "explanations": [_explanation()],
        "stopped": False,
    }


def _example(metric: str, why: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    level = 40 + 10 * np.sin(np.arange(288 + HORIZON_STEPS) / 45) + rng.normal(0, 2, 288 + HORIZON_STEPS)
    values: list[float | None] = [round(float(each), 3) for each in level]
    values[20:40] = [None] * 20
    width = 2 + 0.06 * np.arange(HORIZON_STEPS)
    middle = 40 + 10 * np.sin(np.arange(288, 288 + HORIZON_STEPS) / 45)
    return {
        "server": HOSTILE_NAME if seed == 0 else f"ppweb{seed:03d}",
        "profile": "web_api",
        "held_out": False,
        "metric": metric,
        "origin": "2026-03-02T08:00:00Z",
        "past": values[:288],
        "actual": values[288:],
        "quantiles": {
            "0.1": (middle - 1.3 * width).round(3).tolist(),
            "0.5": middle.round(3).tolist(),
            "0.9": (middle + 1.3 * width).round(3).tolist(),
        },
        "mae": 2.5,
        "why": why,
    }


def _alerts() -> dict[str, Any]:
    rules = {
        "tft": ("TFT (this product)", 0.86, 0.9, 75.0, 0.3),
        "linear": ("predict_linear", 0.5, 0.62, 40.0, 0.9),
        "holt_winters": ("Holt-Winters", 0.55, 0.66, 95.0, 0.8),
    }
    bins = [k / 10 for k in range(10)]
    diagram = [
        {
            "from": low,
            "until": low + 0.1,
            "count": int(2_000 * (1 - low) ** 3) + 20,
            "mean_probability": low + 0.05,
            "share_true": min(1.0, (low + 0.05) * 0.97),
        }
        for low in bins
    ]
    return {
        "what": {
            "truth": "incidents",
            "definition": "An event is an incident of the generator that breaks a critical threshold.",
            "test_from": "2026-03-01T00:00:00Z",
            "test_until": "2026-03-07T00:00:00Z",
            "servers": 90,
            "server_weeks": 77.1,
            "events": 64,
            "sudden_events": 21,
            "calibrated": True,
        },
        "methods": [
            {
                "method": name,
                "title": title,
                "parameters": {"open_at": 0.7},
                "alerts": 70,
                "precision": precision,
                "precision_interval": [precision - 0.08, precision + 0.06],
                "recall": recall,
                "recall_interval": [recall - 0.09, recall + 0.05],
                "lead_minutes_median": lead,
                "false_per_server_week": false,
                "sudden_claimed": 0,
            }
            for name, (title, precision, recall, lead, false) in rules.items()
        ],
        "by_kind": [
            {"method": name, "kind": kind, "events": 20, "found": 18, "lead_minutes_median": 60.0}
            for name in rules
            for kind in ("memory_leak", "batch_overrun")
        ],
        "operating_curve": [
            {"method": name, "open_at": 0.1 * k, "recall": rule[2] ** (k / 4), "false_per_server_week": rule[4] * 4 / k}
            for name, rule in rules.items()
            for k in range(1, 10)
        ],
        "reliability": [
            {**row, "metric": "all", "stage": stage, "share_true": row["share_true"] * factor}
            for stage, factor in (("raw", 0.8), ("calibrated", 1.0))
            for row in diagram
        ],
        "alert_reliability": diagram[6:],
        "breach_times": {"alerts": 55, "within_earliest_latest": 0.78, "median_error_minutes": 25.0},
        "examples": [
            {
                "server": HOSTILE_NAME,
                "metric": "mem_pct",
                "outcome": "true",
                "kind": "memory_leak",
                "opened_at": "2026-03-02T08:00:00Z",
                "closed_at": "2026-03-02T12:00:00Z",
                "breach_at": "2026-03-02T10:15:00Z",
                "probability": 0.83,
            }
        ],
    }


def _explanation() -> dict[str, Any]:
    starts = {horizon: {"same as now": 0.7, "same as yesterday": 0.3} for horizon in ("30min", "1hr", "8hr")}
    attention = {
        "past_hours": [{"hours_before": k, "share": 0.4 / k**1.5, "measured": 1.0} for k in range(1, 7)],
        "ahead": 0.25,
        "without_data": 0.0,
    }
    return {
        "server_name": HOSTILE_NAME,
        "profile": "web_api",
        "known": True,
        "prediction_time": "2026-03-02T08:00:00Z",
        "sentence": "Of the past, the forecast reads mostly CPU of the last hours (34 %).",
        "static": {"role of the server": 1.0},
        "past": {"CPU of the last hours": 0.5, "time of day": 0.3, "same time yesterday": 0.2},
        "future": {"time of day": 0.6, "same time yesterday": 0.4},
        "attention": attention,
        "attention_at": {"30min": attention, "1hr": attention, "8hr": attention},
        "anchors": {"all": starts, **dict.fromkeys(METRIC_COLUMNS, starts)},
    }
