"""What a model would have said of breaches, forecast after forecast over past time, and what that was worth.

    history = replay(forecaster.predict_grid, grid, columns, limits)
    calibration = fit_risk_calibration(forecaster.predict_grid, grid, first, settings)

Every forecast sees only what came before it. `fit_risk_calibration` is what a training ends with: on the validation
time it fits how risk is to be read, and chooses when alerts open and close. Knows nothing of files or networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from alert_events import Event, find_crossings, limits_of, outcomes
from alert_hysteresis import AlertPolicy
from alert_scores import Columns, Floats, judge, raise_alerts
from breach_reader import BreachReader
from common_utils import iso_z
from config import Settings
from data_contract import HORIZON_STEPS, METRIC_COLUMNS, STEP_MINUTES
from fleet_grid import N_METRICS, FleetGrid, time_of
from forecast import Forecast
from risk_calibration import RiskCalibration, fit_maps
from tft_risk import breach_probability, breach_steps, raw_risk

Predict = Callable[[FleetGrid], Forecast]
Progress = Callable[[int, int], None]

MOST_FORECASTS: Final = 160_000  # of single servers, for all that a training ends with: about a minute on one core
CALL_COST: Final = 40  # forecasting a fleet of any size costs as much as so many servers more
_LEAST_STEPS: Final = 72  # from the first forecast to the last
_BELIEVED: Final = 5  # alerts that are counted as their probabilities say
_LEAST_OPEN: Final = 0.6  # of the precision asked for: the probability at which alerts open at least
_LEAST_TRUE: Final = 3  # alerts that must have come true before a policy is taken for a good one

# Policies that are tried: where alerts open, where they close as a share of that, and half an hour below that.
_OPEN_AT: Final = tuple(round(1 / (1 + math.exp(-k / 2.5)), 3) for k in range(-6, 12))  # 0.083 to 0.988
_CLOSE_SHARES: Final = (0.5, 0.8)
_CONFIRM_MINUTES: Final = (0, 5, 10)
_RELEASE_MINUTES: Final = 30
_EVERY_STEPS: Final = (1, 2, 3, 6, 12)  # from forecast to forecast: the daemon's, if there is time enough
_USUAL_EVERY: Final = 3  # from here on, a choice of so many servers will do instead of the fleet
_ENOUGH_SERVERS: Final = 60


@dataclass(frozen=True)
class RiskHistory:
    """Risks of a fleet, forecast after forecast.

    Attributes
    ----------
    columns : int64 array
        Column of the grid with which each forecast begins; it sees those before.
    raw : float32 array, (columns, n_servers, n_metrics)
        How likely a breach is, before calibration; NaN where there is no forecast.
    steps : uint8 array, (columns, n_servers, n_metrics, 3)
        Earliest, median and latest step of the breach, counted from 1.
    """

    columns: Columns
    raw: npt.NDArray[np.float32]
    steps: npt.NDArray[np.uint8]


def replay(
    predict: Predict,
    grid: FleetGrid,
    columns: Columns,
    limits: Floats,
    reader: BreachReader | None = None,
    progress: Progress | None = None,
) -> RiskHistory:
    """Forecast a fleet at many moments of its past and read the raw risk of each.

    Parameters
    ----------
    predict : callable
        Forecasts a grid from its end on, such as `Forecaster.predict_grid`.
    columns : int array
        Ascending.
    limits : float array, (n_servers, n_metrics)
        Critical thresholds.
    reader : BreachReader, optional
        What gives the raw risk; see `tft_risk.raw_risk`.
    progress : callable, optional
        Called with the forecasts done and the forecasts in all.
    """
    shape = (len(columns), grid.n_servers, N_METRICS)
    thresholds = limits.astype(np.float64)
    raw = np.full(shape, np.nan, dtype=np.float32)
    steps = np.ones((*shape, 3), dtype=np.uint8)
    for number, column in enumerate(columns.tolist()):
        forecast = predict(grid.until(grid.first_step + column))
        by_step = breach_probability(forecast, thresholds)
        risk = raw_risk(forecast, thresholds, by_step, reader)
        raw[number], steps[number] = risk.probability, breach_steps(risk.course)
        if progress is not None:
            progress(number + 1, len(columns))
    return RiskHistory(columns, raw, steps)


def replay_columns(first: int, end: int, every: int) -> Columns:
    """Columns of forecasts from `first` on whose horizons lie before `end`."""
    return np.arange(first, end - HORIZON_STEPS + 1, every, dtype=np.int64)


def fit_risk_calibration(
    predict: Predict,
    grid: FleetGrid,
    first: int,
    settings: Settings,
    *,
    end: int | None = None,
    reader: BreachReader | None = None,
    most: int = MOST_FORECASTS,
    progress: Progress | None = None,
) -> RiskCalibration | None:
    """Fit how a model's risk is to be read, and when its alerts open, on time that it has not learned from.

    Events are the sustained crossings of the thresholds (`alert_events.py`). Forecasts of metrics that are in trouble
    already are left out: what they say is no news. Of a fleet too large to be replayed whole, all servers with events
    are taken (at most half of what there is room for), and a random choice of the others that stands for all of them.
    The fleet is forecast as often as there is time for, every 5 minutes at best.

    Parameters
    ----------
    predict : callable
        See `replay`.
    first, end : int
        First column of that time, and first column after it; by default the grid's end.
    settings : Settings
        Thresholds, the seed and the precision that alerts shall have (`alert_target_precision`).
    reader : BreachReader, optional
        What gives the raw risk, trained on earlier time.
    most : int
        How much is forecast at most, in servers; each call counts for `CALL_COST` more.

    Returns
    -------
    RiskCalibration or None
        None if there is too little time or there are too few events to tell.
    """
    end = grid.n_steps if end is None else end
    if end - HORIZON_STEPS - first < _LEAST_STEPS:
        return None
    every, columns, room = _pace(first, end, grid.n_servers, most)
    limits = limits_of(grid, settings)
    seen = replace(grid, values=grid.values[:, :end], states=grid.states[:, :end])
    events = find_crossings(seen, limits)
    late = [event for event in events if event.breach >= first]
    servers, weight = _chosen_servers(grid.n_servers, late, room, settings.seed)
    if len(servers) < grid.n_servers:
        seen, limits = seen.select(servers), limits[servers]
        events = find_crossings(seen, limits)
    history = replay(predict, seen, columns, limits, reader, progress)
    ahead, during = outcomes(events, columns, len(servers))
    told = [event for event in events if columns[0] <= event.breach <= columns[-1] + HORIZON_STEPS - 1]
    counts = [sum(metric in event.metrics for event in told) for metric in range(N_METRICS)]
    alike = max(1.0, HORIZON_STEPS / every / 4)  # successive forecasts of one rising metric
    fitted = fit_maps(history.raw, ahead, ~during, weight, counts, alike, is_probability=reader is not None)
    if fitted is None:
        return None
    maps, kinds = fitted
    described = {
        "from": iso_z(time_of(grid.first_step + first)),
        "until": iso_z(time_of(grid.first_step + end)),
        "servers": len(servers),
        "forecasts": len(columns) * len(servers),
        "every_minutes": every * STEP_MINUTES,
        "events": dict(zip(METRIC_COLUMNS, counts, strict=True)),
        "maps": dict(zip(METRIC_COLUMNS, kinds, strict=True)),
        "target_precision": settings.alert_target_precision,
    }
    unfinished = RiskCalibration(
        maps, AlertPolicy(settings.alert_open_risk, settings.alert_close_risk), described, reader
    )
    probability = unfinished.probability(history.raw)
    policy, expected = choose_policy(probability, columns, events, weight, settings.alert_target_precision)
    if policy is None:
        return unfinished
    return replace(unfinished, policy=policy, described={**described, **expected})


def _pace(first: int, end: int, n_servers: int, most: int) -> tuple[int, Columns, int]:
    """Steps from forecast to forecast, the columns of these, and for how many servers each there is room."""
    for every in _EVERY_STEPS:
        columns = replay_columns(first, end, every)
        room = most // len(columns) - CALL_COST
        if room >= n_servers or (every >= _USUAL_EVERY and room >= _ENOUGH_SERVERS):
            break
    return every, columns, room


def _chosen_servers(
    n_servers: int, events: Sequence[Event], room: int, seed: int
) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Servers to replay, and for how many each of them stands."""
    room = max(room, 2)
    if n_servers <= room:
        return list(range(n_servers)), np.ones(n_servers)
    rng = np.random.default_rng([seed, 5])
    eventful = np.unique([event.server for event in events]).astype(np.int64)
    others = np.setdiff1d(np.arange(n_servers), eventful)
    some = rng.choice(eventful, min(len(eventful), room // 2), replace=False)
    rest = rng.choice(others, min(len(others), room - len(some)), replace=False)
    weight = np.ones(n_servers)
    for chosen, of in ((some, eventful), (rest, others)):
        if len(chosen):
            weight[chosen] = len(of) / len(chosen)
    servers = np.sort(np.concatenate([some, rest]))
    return servers.tolist(), weight[servers]


def choose_policy(
    probability: Floats,
    columns: Columns,
    events: Sequence[Event],
    weight: npt.NDArray[np.float64],
    target: float,
) -> tuple[AlertPolicy | None, dict[str, float]]:
    """Choose the policy that finds most events among those whose alerts are precise enough.

    Some more alerts than there were are counted, which come true as often as their probabilities say, so that a handful
    of true or false ones is not taken for certainty. If no policy is precise enough, the most precise ones (to a tenth)
    will do. None opens below six tenths of the target. Equals are told apart by the lead time.

    Parameters
    ----------
    probability : float array, (columns, n_servers, n_metrics)
    weight : float array, (n_servers,)
        For how many servers each stands.
    target : float
        Precision that alerts shall have at least.

    Returns
    -------
    (policy, expected)
        None without a policy of which at least three alerts came true; and what it did on this time.
    """
    best: tuple[tuple[float, ...], AlertPolicy, dict[str, float]] | None = None
    policies = (
        AlertPolicy(open_at, round(open_at * share, 4), confirm, _RELEASE_MINUTES)
        for open_at in _OPEN_AT
        if open_at >= _LEAST_OPEN * target  # what is improbable wakes nobody, though a few such came true by chance
        for share in _CLOSE_SHARES
        for confirm in _CONFIRM_MINUTES
    )
    for policy in policies:
        verdict = judge(raise_alerts(probability, columns, policy), events, columns, probability.shape[1])
        true = sum(weight[alert.server] for alert, outcome, _ in verdict.alerts if outcome == "true")
        false = sum(weight[alert.server] for alert, outcome, _ in verdict.alerts if outcome == "false")
        if verdict.count("true") < _LEAST_TRUE:
            continue
        said = float(np.mean([alert.score for alert, outcome, _ in verdict.alerts if outcome in ("true", "false")]))
        precision = float((true + _BELIEVED * said) / (true + false + _BELIEVED))
        found, lead = verdict.found, verdict.lead_minutes or 0.0
        is_good = precision >= target
        rank = (1.0, float(found), lead, -false) if is_good else (0.0, round(precision, 1), float(found), lead)
        if best is None or rank > best[0]:
            share = true / (true + false)
            expected = {"precision": round(float(share), 4), "recall": round(verdict.recall or 0.0, 4)}
            best = rank, policy, expected
    return (None, {}) if best is None else (best[1], best[2])


def _self_check() -> None:
    rng = np.random.default_rng(0)
    columns = np.arange(0, 2000, 3)
    events = [Event(k, (0,), None, 60 + 150 * j, 70 + 150 * j, "crossing") for k in range(5) for j in range(12)]
    probability = rng.uniform(0, 0.4, (len(columns), 10, N_METRICS))
    for event in events:
        probability[(columns > event.breach - 12) & (columns <= event.breach + 9), event.server, 0] += 0.5
    policy, expected = choose_policy(probability, columns, events, np.ones(10), 0.8)
    assert policy is not None and 0.4 <= policy.open_at <= 0.6 and expected["recall"] == 1.0, (policy, expected)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
