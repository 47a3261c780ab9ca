"""What forecasts mean: the risk of each server, its alerts, and the records in the owner's format.

Risk is the probability that a metric crosses its critical threshold within the horizon; a server's risk is the largest
over its metrics. It is read off the predicted quantiles and the day before by the model's reader of breaches, or else
is the largest P(value > threshold) over the steps; either is mapped to what it turned out to be worth
(`risk_calibration.py`) where the model brings that map. NumPy only; torch and HTTP are not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from alert_hysteresis import AlertPolicy, AlertStates
from breach_reader import RECENT_STEPS, BreachReader, reader_inputs
from common_utils import iso_z
from config import Settings
from data_contract import HORIZONS, METRIC_COLUMNS, METRICS, SERVED_QUANTILES, STEP_MINUTES, VALID_STATES
from fleet_grid import FleetGrid, step_of, time_of
from forecast import Forecast
from risk_calibration import RiskCalibration

_LATELY_STEPS = 3  # a metric that was not measured for longer is not known to be above its threshold
_RECORDS_AT_ONCE = 250  # turned into Python's numbers in one go, which keeps all other threads waiting
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
    values = forecast.values
    probability: npt.NDArray[np.float64] = np.full(values.shape[:-1], (1 - levels[-1]) / 2)
    # Most quantiles are far below: only where the highest one exceeds the threshold there is something to read.
    near = np.nonzero(values[..., -1] > thresholds[:, None])
    quantiles, limit = values[near].astype(np.float64), thresholds[near[0], near[2]]
    below = (quantiles <= limit[:, None]).sum(axis=-1)  # how many of them do not exceed the threshold
    rows, left = np.arange(len(limit)), np.clip(below - 1, 0, None)
    value_left, value_right = quantiles[rows, left], quantiles[rows, below]
    gap = value_right - value_left
    share = np.divide(limit - value_left, gap, out=np.zeros_like(gap), where=gap > 0)
    level = levels[left] + share * (levels[below] - levels[left])
    probability[near] = 1 - np.where(below == 0, levels[0] / 2, level)
    # The quantiles never decrease, and a metric without a forecast has none of them: the outermost ones tell.
    probability[~(np.isfinite(values[..., 0]) & np.isfinite(values[..., -1]))] = np.nan
    return probability


def inputs_of_reader(
    forecast: Forecast, thresholds: npt.NDArray[np.float64], by_step: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """What a reader of breaches is shown of a forecast, (n_servers, n_metrics, n_inputs)."""
    shape = (len(forecast.server_names), RECENT_STEPS, len(METRIC_COLUMNS))
    recent = np.full(shape, np.nan, dtype=np.float32)
    if forecast.recent is not None and forecast.recent.shape[1]:
        known = forecast.recent[:, -RECENT_STEPS:]
        recent[:, -known.shape[1] :] = known
    origin_step = step_of(forecast.origin) + 1
    median, high = forecast.at(0.5), forecast.at(0.9)
    return reader_inputs(recent, thresholds, forecast.profiles, origin_step, by_step, median, high)


@dataclass(frozen=True)
class RawRisk:
    """What is read off a forecast before calibration.

    Attributes
    ----------
    probability : float array, (n_servers, n_metrics)
        How likely a breach is; NaN where there is no forecast.
    course : float32 array, (n_servers, n_metrics, 96)
        By each step, how likely it has come: a share of what it is at the last one.
    """

    probability: npt.NDArray[np.float64]
    course: npt.NDArray[np.float32]


def raw_risk(
    forecast: Forecast,
    thresholds: npt.NDArray[np.float64],
    by_step: npt.NDArray[np.float64],
    reader: BreachReader | None,
) -> RawRisk:
    """What the reader says of each metric; without one, the largest P(value > threshold) over the steps.

    When a breach comes, the reader does not know of metrics that are above their threshold already, nor if it has no
    clocks: there, how likely it has come by a step is taken as the largest P(value > threshold) up to there, which is
    least for any course of the metric.
    """
    # A metric without a forecast is NaN at every step, so the maximum over the steps is NaN too.
    largest: npt.NDArray[np.float64] = by_step.max(axis=1)
    likely = np.moveaxis(np.nan_to_num(by_step), 1, -1).astype(np.float32)
    course: npt.NDArray[np.float32] = np.maximum.accumulate(likely, axis=-1)
    if reader is None:
        return RawRisk(largest, course)
    inputs = inputs_of_reader(forecast, thresholds, by_step)
    said = reader(inputs).astype(np.float64)
    if reader.clocks:
        course = np.where(above_now(forecast, thresholds)[..., None], course, reader.course(inputs))
    return RawRisk(np.where(np.isnan(largest), np.nan, said), course)


def risk_of(forecast: Forecast, thresholds: npt.NDArray[np.float64], by_step: npt.NDArray[np.float64]) -> RawRisk:
    """Probability that each metric is above its threshold at some step of the horizon, and when it comes to be.

    Calibrated where the model brings a calibration, else the raw risk. What a calibration says is how likely a metric
    rises above its threshold; of one that is above it already it knows nothing. There the quantiles themselves tell how
    likely it stays there: a server that is in trouble and is forecast to remain so has a risk near 1.

    Parameters
    ----------
    by_step : float array, (n_servers, 96, n_metrics)
        What `breach_probability` gives.
    """
    calibration = forecast.calibration
    if calibration is None:
        return raw_risk(forecast, thresholds, by_step, None)
    raw = raw_risk(forecast, thresholds, by_step, calibration.reader)
    rising = calibration.probability(raw.probability)
    staying: npt.NDArray[np.float64] = by_step.max(axis=1)
    return replace(raw, probability=np.where(above_now(forecast, thresholds), np.fmax(rising, staying), rising))


def above_now(forecast: Forecast, thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which metrics were above their threshold when they were last measured, if that was lately."""
    above = np.zeros(thresholds.shape, dtype=np.bool_)
    if forecast.recent is None:
        return above
    for step in range(max(0, forecast.recent.shape[1] - _LATELY_STEPS), forecast.recent.shape[1]):
        values = forecast.recent[:, step]  # the newest comes last and decides
        above = np.where(np.isfinite(values), values > thresholds, above)
    return above


def policy_of(forecast: Forecast, settings: Settings) -> AlertPolicy:
    """When alerts open and close: as it was set, else as the model's calibration found it best, else by default."""
    return policy_by(forecast.calibration, settings)


def policy_by(calibration: RiskCalibration | None, settings: Settings) -> AlertPolicy:
    """The same, without a forecast."""
    is_set = bool({"alert_open_risk", "alert_close_risk"} & settings.model_fields_set)
    if calibration is not None and not is_set:
        return calibration.policy
    return AlertPolicy(settings.alert_open_risk, settings.alert_close_risk)


@dataclass(frozen=True)
class Breaches:
    """How likely the critical thresholds are crossed.

    Attributes
    ----------
    thresholds : float array, (n_servers, n_metrics)
    by_step : float array, (n_servers, 96, n_metrics)
        P(value > threshold).
    probability : float array, (n_servers, n_metrics)
        Of a breach within the horizon, as `risk_of` gives it.
    course : float32 array, (n_servers, n_metrics, 96)
        How likely it has come by each step, see `RawRisk`.
    """

    thresholds: npt.NDArray[np.float64]
    by_step: npt.NDArray[np.float64]
    probability: npt.NDArray[np.float64]
    course: npt.NDArray[np.float32]

    @classmethod
    def of(cls, forecast: Forecast, settings: Settings) -> Breaches:
        """Work it out: of a large fleet that takes a second."""
        thresholds = thresholds_of(forecast, settings)
        by_step = breach_probability(forecast, thresholds)
        risk = risk_of(forecast, thresholds, by_step)
        return cls(thresholds, by_step, risk.probability, risk.course)


def assess(forecast: Forecast, settings: Settings, breaches: Breaches | None = None) -> list[ServerRisk]:
    """Risk of every server of a forecast, in its order; `breaches`, if they are known already, are those of it."""
    probability = (breaches or Breaches.of(forecast, settings)).probability
    result = []
    for name, profile, row in zip(forecast.server_names, forecast.profiles, probability, strict=True):
        risks = {metric: _number(value) for metric, value in zip(METRIC_COLUMNS, row, strict=True)}
        known = {metric: value for metric, value in risks.items() if value is not None}
        metric = max(known, key=lambda each: known[each]) if known else None
        result.append(ServerRisk(name, profile, None if metric is None else known[metric], metric, risks))
    return result


# ------------------------------------------------------------------------------------------------------------- records
def prediction_records(forecast: Forecast, risks: list[ServerRisk], grid: FleetGrid) -> Iterator[dict[str, Any]]:
    """Predictions in the owner's format, one record per server: names decoded, no ids, null where nothing is known.

    Beside the owner's fields stand the risk, what was measured last (`current`, `state`) and whether the model was
    trained on the server (`known`). They come one by one: those of a large fleet, held at once, are a million objects.
    """
    steps = np.array(list(HORIZONS.values())) - 1
    served = {label: forecast.at(quantile)[:, steps].astype(np.float64) for label, quantile in SERVED_QUANTILES.items()}
    position = {name: k for k, name in enumerate(grid.names)}
    measured = _LastMeasured(grid)
    moment = iso_z(forecast.origin)
    for start in range(0, len(risks), _RECORDS_AT_ONCE):
        some = risks[start : start + _RECORDS_AT_ONCE]
        numbers = {label: _numbers(values[start : start + len(some)]) for label, values in served.items()}
        lasts = measured.of([position[risk.server_name] for risk in some])
        for i, (risk, (state, current)) in enumerate(zip(some, lasts, strict=True)):
            quantiles = {label: _by_horizon(values[i]) for label, values in numbers.items()}
            yield {
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
                "known": bool(forecast.known[start + i]),
            }


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


def _by_horizon(values: list[list[float | None]]) -> dict[str, dict[str, float | None]]:
    """JSON of (n_horizons, n_metrics)."""
    return {label: dict(zip(METRIC_COLUMNS, row, strict=True)) for label, row in zip(HORIZONS, values, strict=True)}


class _LastMeasured:
    """State and values of the newest step in which each server was heard of."""

    def __init__(self, grid: FleetGrid) -> None:
        self._grid = grid
        self._last = np.full(grid.n_servers, -1, dtype=np.int64)
        # Nearly all were heard of in the last hour; who was not is looked for further back.
        for recent in (slice(-60 // STEP_MINUTES, None), slice(None)):
            (unheard,) = np.nonzero(self._last < 0)
            if not grid.n_steps or not len(unheard):
                break
            seen = (grid.states[unheard, recent] >= 0) | np.isfinite(grid.values[unheard, recent]).any(axis=-1)
            newest = grid.n_steps - 1 - seen[:, ::-1].argmax(axis=1)
            self._last[unheard] = np.where(seen.any(axis=1), newest, -1)

    def of(self, servers: list[int]) -> list[tuple[str | None, dict[str, float | None]]]:
        """Of some servers, by their places in the grid."""
        if not self._grid.n_steps:
            return [(None, dict.fromkeys(METRIC_COLUMNS)) for _ in servers]
        last = self._last[servers]
        states = np.where(last >= 0, self._grid.states[servers, last], -1).tolist()
        values = _numbers(np.where(last[:, None] >= 0, self._grid.values[servers, last], np.nan))
        return [
            (VALID_STATES[state] if state >= 0 else None, dict(zip(METRIC_COLUMNS, row, strict=True)))
            for state, row in zip(states, values, strict=True)
        ]


def _numbers(values: npt.NDArray[np.floating[Any]]) -> list[Any]:
    """JSON numbers of an array, nested as it is; null for NaN."""
    rounded = np.round(values.astype(np.float64), _DIGITS)
    numbers = rounded.astype(object)
    numbers[np.isnan(rounded)] = None
    listed: list[Any] = numbers.tolist()
    return listed


def _number(value: float) -> float | None:
    """JSON number, null for NaN."""
    return None if np.isnan(value) else round(float(value), _DIGITS)


# -------------------------------------------------------------------------------------------------------------- alerts
class AlertBook:
    """Open alerts, one per server and metric; hysteresis keeps them from flapping (`alert_hysteresis.py`).

    An alert opens when its breach probability reaches the level of `policy_of` and closes only when it has fallen below
    the other one for a while, or when the server has no forecast any more.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._names: tuple[str, ...] = ()
        self._states = AlertStates.none_open((0, len(METRIC_COLUMNS)))
        self._scored: npt.NDArray[np.bool_] = np.zeros((0, len(METRIC_COLUMNS)), dtype=np.bool_)
        self._open: list[dict[str, Any]] = []

    def states(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        """Hysteresis by server and metric where it is not at rest: opened, high since, low since (`AlertStates`)."""
        moving = self._states.is_open | (self._states.high_since >= 0)
        steps = np.stack(list(vars(self._states).values()), axis=-1)
        result = {}
        for i, k in np.argwhere(moving).tolist():
            opened, high_since, low_since = steps[i, k].tolist()
            result[self._names[i], METRIC_COLUMNS[k]] = (opened, high_since, low_since)
        return result

    def restore(self, states: dict[tuple[str, str], tuple[int, int, int]]) -> None:
        """Take up where another book left off, given its `states`."""
        known = {key: steps for key, steps in states.items() if key[1] in METRIC_COLUMNS}
        self._names = tuple(sorted({name for name, _ in known}))
        self._states = AlertStates.none_open((len(self._names), len(METRIC_COLUMNS)))
        place_of = {name: place for place, name in enumerate(self._names)}
        for (name, metric), steps in known.items():
            place = place_of[name], METRIC_COLUMNS.index(metric)
            for array, step in zip(vars(self._states).values(), steps, strict=True):
                array[place] = step

    def has_score(self, server_name: str, metric: str) -> bool:
        """Whether the newest forecast says how likely a breach of a server's metric is."""
        if server_name not in self._names[: len(self._scored)]:
            return False
        return bool(self._scored[self._names.index(server_name), METRIC_COLUMNS.index(metric)])

    def update(self, forecast: Forecast, breaches: Breaches | None = None) -> None:
        """Open, renew and close alerts by a new forecast, whose `breaches` may be known already."""
        breaches = breaches or Breaches.of(forecast, self._settings)
        thresholds, by_step, probability = breaches.thresholds, breaches.by_step, breaches.probability
        place_of = {name: place for place, name in enumerate(self._names)}
        places = np.array([place_of.get(name, -1) for name in forecast.server_names], dtype=np.int64)
        before = self._states.select(places)
        policy = policy_of(forecast, self._settings)
        self._states = before.advance(probability, step_of(forecast.origin) + 1, policy)
        self._names, self._scored = forecast.server_names, ~np.isnan(probability)
        self._open = [
            _alert(
                forecast,
                int(i),
                int(k),
                float(thresholds[i, k]),
                float(probability[i, k]),
                by_step[i, :, k],
                breach_steps(breaches.course[i, k]),
                iso_z(time_of(int(self._states.opened[i, k]) - 1)),
            )
            for i, k in np.argwhere(self._states.is_open)
        ]

    def active(self) -> list[dict[str, Any]]:
        """Open alerts, the most likely first."""
        return sorted(self._open, key=lambda alert: (-alert["probability"], alert["lead_time_minutes"] or 0))


BREACH_SHARES = {"earliest": 0.1, "median": 0.5, "latest": 0.9}


def breach_steps(course: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """At which steps, counted from 1, a breach is expected if it comes: earliest, median and latest.

    They are the first steps by which 10, 50 and 90 % of all breaches that come have come.

    Parameters
    ----------
    course : float array, (…, 96)
        How likely it has come by each step, or a multiple of that; rising, none of them NaN.

    Returns
    -------
    int array, (…, 3)
    """
    shares = np.array(list(BREACH_SHARES.values()), dtype=course.dtype)
    reached = course[..., None, :] >= shares[:, None] * course[..., -1:, None]
    steps: npt.NDArray[np.int64] = reached.argmax(axis=-1) + 1
    return steps


def _alert(
    forecast: Forecast,
    server: int,
    metric: int,
    threshold: float,
    probability: float,
    by_step: npt.NDArray[np.float64],
    when_steps: npt.NDArray[np.int64],
    opened_at: str,
) -> dict[str, Any]:
    """Say what will happen, how likely, and when."""
    peak = int(np.argmax(by_step))
    steps = dict(zip(BREACH_SHARES, when_steps.tolist(), strict=True))
    times = {label: forecast.origin + timedelta(minutes=STEP_MINUTES * step) for label, step in steps.items()}
    lead_minutes = STEP_MINUTES * steps["median"]
    what = METRICS[metric]
    name, median = forecast.server_names[server], float(forecast.at(0.5)[server, peak, metric])
    if lead_minutes <= STEP_MINUTES:  # it may be above already: an alert knows the forecast alone
        when = f"within {STEP_MINUTES} minutes"
    else:
        when = f"in about {lead_minutes} minutes ({iso_z(times['median'])})"
    return {
        "server_name": name,
        "profile": forecast.profiles[server],
        "metric": what.column,
        "unit": what.unit,
        "threshold": threshold,
        "probability": round(probability, _DIGITS),
        "median_forecast": round(median, _DIGITS),
        "breach_time": {label: iso_z(moment) for label, moment in times.items()},
        "lead_time_minutes": lead_minutes,
        "opened_at": opened_at,
        "message": f"{what.label} of {name} will exceed {threshold:g} {what.unit} {when} "
        f"with probability {probability:.2f}; median forecast {median:.1f} {what.unit}.",
    }
