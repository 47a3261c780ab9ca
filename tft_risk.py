"""What forecasts mean: the risk of each server, its alerts, and the records in the owner's format.

Risk is a probability that the model itself gives: for each metric the largest P(value > critical threshold) over the
horizon, read off the predicted quantiles; a server's risk is the largest over its metrics. NumPy only; torch and HTTP
are not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from common_utils import iso_z
from config import Settings
from data_contract import HORIZONS, METRIC_COLUMNS, METRICS, SERVED_QUANTILES, STEP_MINUTES, VALID_STATES
from fleet_grid import FleetGrid
from forecast import Forecast

_DIGITS = 3  # decimals of served values: finer than any monitoring measures


@dataclass(frozen=True)
class ServerRisk:
    """How likely a server crosses a critical threshold within the horizon.

    Attributes
    ----------
    risk : float or None
        Largest probability over the metrics, 0–1; None if no metric could be forecast.
    risk_metric : str or None
        The metric that it belongs to.
    risks : dict
        Probability per metric, None for metrics that are not forecast.
    """

    server_name: str
    profile: str
    risk: float | None
    risk_metric: str | None
    risks: dict[str, float | None]


def thresholds_of(forecast: Forecast, settings: Settings) -> npt.NDArray[np.float64]:
    """Critical thresholds of each server's metrics, (n_servers, n_metrics)."""
    return np.array(
        [[settings.threshold(metric, profile) for metric in METRIC_COLUMNS] for profile in forecast.profiles]
    ).reshape(len(forecast.profiles), len(METRIC_COLUMNS))


def breach_probability(forecast: Forecast, thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """P(value > threshold) for every server, step and metric, read off the quantiles.

    Between two quantiles the distribution is taken as uniform. Outside the outermost ones nothing is known but their
    own level: above the highest (p98) the probability is half of what is left, below the lowest (p02) all but that.

    Parameters
    ----------
    thresholds : float array, (n_servers, n_metrics)

    Returns
    -------
    float array, (n_servers, 96, n_metrics)
        NaN where there is no forecast.
    """
    levels = np.asarray(forecast.quantiles)
    values = forecast.values.astype(np.float64)
    limit = thresholds[:, None, :, None]
    below = (values <= limit).sum(axis=-1)  # how many quantiles do not exceed the threshold
    left, right = np.clip(below - 1, 0, None), np.clip(below, None, len(levels) - 1)
    value_left = np.take_along_axis(values, left[..., None], axis=-1)[..., 0]
    value_right = np.take_along_axis(values, right[..., None], axis=-1)[..., 0]
    gap = value_right - value_left
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(gap > 0, (limit[..., 0] - value_left) / gap, 0.0)
    level = levels[left] + share * (levels[right] - levels[left])
    level = np.where(below == 0, levels[0] / 2, level)
    level = np.where(below == len(levels), (1 + levels[-1]) / 2, level)
    probability: npt.NDArray[np.float64] = 1 - level
    probability[~np.isfinite(values).all(axis=-1)] = np.nan
    return probability


def assess(forecast: Forecast, settings: Settings) -> list[ServerRisk]:
    """Risk of every server of a forecast, in its order."""
    probability = breach_probability(forecast, thresholds_of(forecast, settings))
    # A metric without a forecast is NaN at every step, so the maximum over the steps is NaN too.
    largest = probability.max(axis=1)  # (n_servers, n_metrics)
    result = []
    for name, profile, row in zip(forecast.server_names, forecast.profiles, largest, strict=True):
        risks = {metric: _number(value) for metric, value in zip(METRIC_COLUMNS, row, strict=True)}
        known = {metric: value for metric, value in risks.items() if value is not None}
        metric = max(known, key=lambda each: known[each]) if known else None
        result.append(ServerRisk(name, profile, None if metric is None else known[metric], metric, risks))
    return result


# ------------------------------------------------------------------------------------------------------------- records
def prediction_records(forecast: Forecast, risks: list[ServerRisk], grid: FleetGrid) -> list[dict[str, Any]]:
    """Predictions in the owner's format, one record per server: names decoded, no ids, null where nothing is known.

    Beside the owner's fields stand the risk, what was measured last (`current`, `state`) and whether the model was
    trained on the server (`known`).
    """
    steps = np.array(list(HORIZONS.values())) - 1
    served = {
        label: np.round(forecast.at(quantile)[:, steps].astype(np.float64), _DIGITS)
        for label, quantile in SERVED_QUANTILES.items()
    }
    position = {name: k for k, name in enumerate(grid.names)}
    moment = iso_z(forecast.origin)
    records = []
    for i, risk in enumerate(risks):
        quantiles = {label: _by_horizon(values[i]) for label, values in served.items()}
        state, current = _last_measured(grid, position[risk.server_name])
        records.append(
            {
                "server_name": risk.server_name,
                "profile": risk.profile,
                "prediction_time": moment,
                "predictions": quantiles["p50"],
                "quantiles": quantiles,
                "risk": risk.risk,
                "risk_metric": risk.risk_metric,
                "risks": risk.risks,
                "state": state,
                "current": current,
                "known": bool(forecast.known[i]),
            }
        )
    return records


def path_record(forecast: Forecast, server_name: str) -> dict[str, Any]:
    """The whole 8 hours of one server: served quantiles of every metric at every step.

    Raises
    ------
    ValueError
        If the server has no forecast.
    """
    i = forecast.index(server_name)
    metrics: dict[str, Any] = {}
    for k, column in enumerate(METRIC_COLUMNS):
        if np.isnan(forecast.values[i, :, k]).any():
            metrics[column] = None
            continue
        metrics[column] = {
            label: np.round(forecast.at(quantile)[i, :, k].astype(np.float64), _DIGITS).tolist()
            for label, quantile in SERVED_QUANTILES.items()
        }
    return {
        "step_minutes": STEP_MINUTES,
        "timestamps": [iso_z(moment) for moment in forecast.times],
        "metrics": metrics,
    }


def _by_horizon(values: npt.NDArray[np.float64]) -> dict[str, dict[str, float | None]]:
    """JSON of (n_horizons, n_metrics)."""
    return {
        label: {column: _number(value) for column, value in zip(METRIC_COLUMNS, row, strict=True)}
        for label, row in zip(HORIZONS, values, strict=True)
    }


def _last_measured(grid: FleetGrid, server: int) -> tuple[str | None, dict[str, float | None]]:
    """State and values of the newest step in which the server was heard of."""
    heard = np.flatnonzero((grid.states[server] >= 0) | np.isfinite(grid.values[server]).any(axis=-1))
    if len(heard) == 0:
        return None, dict.fromkeys(METRIC_COLUMNS)
    step = heard[-1]
    state = grid.states[server, step]
    values = grid.values[server, step]
    current = {column: _number(value) for column, value in zip(METRIC_COLUMNS, values, strict=True)}
    return VALID_STATES[state] if state >= 0 else None, current


def _number(value: float) -> float | None:
    """JSON number, null for NaN."""
    return None if np.isnan(value) else round(float(value), _DIGITS)


# -------------------------------------------------------------------------------------------------------------- alerts
class AlertBook:
    """Open alerts, one per server and metric; hysteresis keeps them from flapping.

    An alert opens when its breach probability reaches `alert_open_risk` and closes only when it falls below
    `alert_close_risk`, or when the server has no forecast any more.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[tuple[str, str], dict[str, Any]] = {}

    def update(self, forecast: Forecast) -> None:
        """Open, renew and close alerts by a new forecast."""
        thresholds = thresholds_of(forecast, self._settings)
        probability = breach_probability(forecast, thresholds)
        with np.errstate(invalid="ignore"):
            largest = np.nan_to_num(probability.max(axis=1))
        still_open: dict[tuple[str, str], dict[str, Any]] = {}
        for i, k in np.argwhere(largest >= self._settings.alert_close_risk):
            key = (forecast.server_names[i], METRIC_COLUMNS[k])
            before = self._open.get(key)
            if before is None and largest[i, k] < self._settings.alert_open_risk:
                continue
            opened = iso_z(forecast.origin) if before is None else before["opened_at"]
            still_open[key] = _alert(forecast, int(i), int(k), thresholds[i, k], probability[i, :, k], opened)
        self._open = still_open

    def active(self) -> list[dict[str, Any]]:
        """Open alerts, the most likely first."""
        return sorted(self._open.values(), key=lambda alert: (-alert["probability"], alert["lead_time_minutes"] or 0))


def _alert(
    forecast: Forecast,
    server: int,
    metric: int,
    threshold: float,
    probability: npt.NDArray[np.float64],
    opened_at: str,
) -> dict[str, Any]:
    """Say what will happen, how likely, and when: earliest (p90 crosses), median (p50), latest (p10)."""
    peak = int(np.argmax(probability))
    crossing = {
        label: _first_crossing(forecast, server, metric, quantile, threshold)
        for label, quantile in (("earliest", 0.9), ("median", 0.5), ("latest", 0.1))
    }
    lead = crossing["median"] or crossing["earliest"]
    lead_minutes = None if lead is None else round((lead - forecast.origin).total_seconds() / 60)
    what = METRICS[metric]
    name, median = forecast.server_names[server], float(forecast.at(0.5)[server, peak, metric])
    if lead is None or lead_minutes is None:
        when = "within 8 hours"
    elif lead_minutes <= STEP_MINUTES:  # it may be above already: an alert knows the forecast alone
        when = f"within {STEP_MINUTES} minutes"
    else:
        when = f"in about {lead_minutes} minutes ({iso_z(lead)})"
    return {
        "server_name": name,
        "profile": forecast.profiles[server],
        "metric": what.column,
        "unit": what.unit,
        "threshold": float(threshold),
        "probability": round(float(probability[peak]), _DIGITS),
        "median_forecast": round(median, _DIGITS),
        "breach_time": {label: None if moment is None else iso_z(moment) for label, moment in crossing.items()},
        "lead_time_minutes": lead_minutes,
        "opened_at": opened_at,
        "message": f"{what.label} of {name} will exceed {threshold:g} {what.unit} {when} "
        f"with probability {probability[peak]:.2f}; median forecast {median:.1f} {what.unit}.",
    }


def _first_crossing(forecast: Forecast, server: int, metric: int, quantile: float, threshold: float) -> datetime | None:
    """First moment at which a quantile exceeds the threshold, None if it does not within the horizon."""
    above = np.flatnonzero(forecast.at(quantile)[server, :, metric] > threshold)
    return forecast.origin + timedelta(minutes=STEP_MINUTES * (int(above[0]) + 1)) if len(above) else None
