"""How good a model's alerts are on time that it has not seen, beside the rules that people would use instead.

    found = judge_alerts(forecaster, grid, begin, settings, incidents=Path("training/metrics_incidents.parquet"))
    found.as_dict()                               # the "alerts" of a backtest's JSON

The fleet is forecast at every step, risk is read and alerts open and close as in the daemon, and they are
judged against incidents where those are known, else against crossings of thresholds. A rule's parameters are chosen on
the time before the test, for as many false alarms per server-week as the model has. Knows nothing of HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from alert_events import CROSSING_DEFINITION, INCIDENT_DEFINITION, Event, find_crossings, limits_of, outcomes
from alert_events import read_incidents as incidents_of
from alert_hysteresis import AlertPolicy
from alert_replay import RiskHistory, replay, replay_columns
from alert_rules import RULES, Floats, Rule
from alert_scores import AlertBacktest, Columns, MethodAlerts, Verdict, judge, raise_alerts, reliability
from breach_training import train_risk_calibration
from common_utils import iso_z
from config import Settings
from data_contract import HORIZON_STEPS, INCIDENTS_FILE, METRIC_COLUMNS, STEP_MINUTES, BacktestError
from fleet_grid import DAY_STEPS, N_METRICS, FleetGrid, time_of
from risk_calibration import RiskCalibration
from tft_forecaster import Forecaster
from tft_risk import policy_by

Tell = Callable[[str, int, int], None]
Truth = Literal["auto", "incidents", "crossings"]

EVERY_STEPS: Final = 1  # as the daemon forecasts
_TUNING_STEPS: Final = 9 * DAY_STEPS  # at most so long before the test, for choosing parameters of rules
_SHARES: Final = tuple(round(0.3 + 0.1 * k, 2) for k in range(12))  # of the threshold, at which rules alert
_FINER: Final = 0.05  # both sides of the best of them are tried, too
_TUNING_EVERY: Final = 3  # steps from moment to moment, when parameters of rules are chosen
_RULE_CLOSES: Final = 0.95  # of where it opens
_CONFIRM_MINUTES, _RELEASE_MINUTES = (0, 10), 30
_CURVE: Final = (*(k / 20 for k in range(1, 20)), 0.97, 0.98, 0.99)
_EXAMPLES: Final = 4  # of each outcome


@dataclass(frozen=True)
class _Time:
    """Moments that are judged, and what happens then."""

    grid: FleetGrid
    limits: Floats
    events: Sequence[Event]
    columns: Columns

    def judged(self, scores: np.ndarray[Any, Any], policy: AlertPolicy) -> Verdict:
        """Raise alerts by scores and judge them."""
        alerts = raise_alerts(scores, self.columns, policy)
        return judge(alerts, self.events, self.columns, self.grid.n_servers, self.grid.values)


def judge_alerts(
    forecaster: Forecaster,
    grid: FleetGrid,
    begin: int,
    settings: Settings,
    *,
    incidents: Path | None = None,
    every_steps: int = EVERY_STEPS,
    tell: Tell | None = None,
) -> AlertBacktest:
    """Replay a model's alerts over the last part of a fleet's time, and those of rules.

    Parameters
    ----------
    forecaster : Forecaster
        A model that has seen nothing from `begin` on.
    begin : int
        First column of the test.
    incidents : Path, optional
        Ground truth of a generated fleet; without it, crossings of thresholds are the truth.
    every_steps : int
        From forecast to forecast.
    tell : callable, optional
        Told of the progress.

    Raises
    ------
    BacktestError
        If the test is shorter than a horizon.
    DataFileError
        If the incidents cannot be read.
    """
    started = time.perf_counter()
    tell = tell or (lambda _what, _done, _total: None)
    columns = replay_columns(begin, grid.n_steps, every_steps)
    if not len(columns):
        raise BacktestError(
            "There is too little data to judge alerts by: the test is shorter than 8 hours.",
            why="Whether an alert comes true is known 8 hours later.",
            fix="Bring more history, or a larger --test-days.",
            document="Docs/ALERTS.md",
        )
    limits = limits_of(grid, settings)
    events = find_crossings(grid, limits) if incidents is None else incidents_of(incidents, grid, limits)
    test = _Time(grid, limits, events, columns)
    calibration = forecaster.calibration or _late_calibration(forecaster, grid, begin, settings, tell)
    history = replay(
        forecaster.predict_grid,
        grid,
        columns,
        limits,
        None if calibration is None else calibration.reader,
        lambda done, total: tell("replaying forecasts", done, total),
    )
    probability = history.raw.astype(np.float64)
    if calibration is not None:
        probability = calibration.probability(probability)
    policy = policy_by(calibration, settings)
    model = MethodAlerts(
        "tft",
        "TFT (this product)",
        {**policy.as_dict(), "calibrated": calibration is not None},
        test.judged(probability, policy),
        list(_curve(test, probability, policy, _CURVE)),
    )
    tuned_from = max(begin - _TUNING_STEPS, min(DAY_STEPS + HORIZON_STEPS, begin))
    before = _Time(grid, limits, events, replay_columns(tuned_from, begin, max(every_steps, _TUNING_EVERY)))
    methods = [model]
    for number, rule in enumerate(RULES.values()):
        methods.append(_judge_rule(rule, before, test, model.verdict.false_per_server_week))
        tell("alerting rules", number + 1, len(RULES))
    verdict = model.verdict
    what = {
        "truth": "crossings" if incidents is None else "incidents",
        "definition": CROSSING_DEFINITION if incidents is None else INCIDENT_DEFINITION,
        "tuned_from": iso_z(time_of(grid.first_step + tuned_from)),
        "test_from": iso_z(time_of(grid.first_step + int(columns[0]))),
        "test_until": iso_z(time_of(grid.first_step + int(columns[-1]) + HORIZON_STEPS)),
        "servers": grid.n_servers,
        "server_weeks": round(verdict.server_weeks, 3),
        "origins": len(columns),
        "every_steps": every_steps,
        "horizon_steps": HORIZON_STEPS,
        "events": verdict.foreseeable,
        "sudden_events": len(verdict.events) - verdict.foreseeable,
        "target_precision": settings.alert_target_precision,
        "calibrated": calibration is not None,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return AlertBacktest(
        what,
        methods,
        list(_reliability_rows(test, history, probability)),
        _alert_reliability(verdict),
        _breach_times(verdict, history),
        list(_examples(verdict, grid)),
    )


def incidents_beside(data: Path, truth: Truth) -> Path | None:
    """Ground truth that lies beside contract data; None where crossings are the truth.

    Raises
    ------
    BacktestError
        If incidents are asked for and are not there.
    """
    folder = data if (data / INCIDENTS_FILE).is_file() else data.parent
    path = folder / INCIDENTS_FILE
    if truth == "incidents" and not path.is_file():
        raise BacktestError(
            f"There is no {INCIDENTS_FILE} beside {data}.",
            why="Only of a generated fleet it is known which incidents befell it.",
            fix="Give --data of a generated fleet, or --truth crossings.",
            document="Docs/ALERTS.md",
        )
    return path if truth != "crossings" and path.is_file() else None


def _late_calibration(
    forecaster: Forecaster, grid: FleetGrid, begin: int, settings: Settings, tell: Tell
) -> RiskCalibration | None:
    """Calibration of a model that brings none, on the time before the test."""
    first = max(begin - _TUNING_STEPS, min(DAY_STEPS, begin))  # what lies before trains the reader of breaches

    def progress(done: int, total: int) -> None:
        tell("calibrating risk", done, total)

    return train_risk_calibration(
        forecaster.predict_grid,
        grid,
        first,
        settings,
        history_steps=forecaster.history_steps,
        end=begin,
        progress=progress,
    )


@dataclass(frozen=True)
class _Setting:
    """A rule's parameters, and what they did before the test; the largest rank is the best."""

    rank: tuple[float, ...]
    parameters: dict[str, float]
    policy: AlertPolicy


def _settings_tried(
    rule: Rule, before: _Time, parameters: dict[str, float], shares: Sequence[float], most_false: float
) -> Iterator[_Setting]:
    """What a rule does before the test when it alerts at shares of the threshold."""
    scores = rule.score(before.grid, before.columns, before.limits, **parameters)
    for share in shares:
        for confirm in _CONFIRM_MINUTES:
            policy = AlertPolicy(share, share * _RULE_CLOSES, confirm, _RELEASE_MINUTES)
            verdict = before.judged(scores, policy)
            false = verdict.false_per_server_week
            is_good = false <= most_false
            lead = verdict.lead_minutes or 0.0
            rank = (1.0, float(verdict.found), lead, -false) if is_good else (0.0, -false, 0.0, 0.0)
            yield _Setting(rank, parameters, policy)


def _judge_rule(rule: Rule, before: _Time, test: _Time, most_false: float) -> MethodAlerts:
    """Choose a rule's parameters before the test, and judge it there."""
    # Without any time before the test to choose by: as it is written in most runbooks
    best = _Setting((), next(rule.parameters()), AlertPolicy(1.0, _RULE_CLOSES, 0, _RELEASE_MINUTES))
    if len(before.columns):
        for parameters in rule.parameters():
            tried = _settings_tried(rule, before, parameters, _SHARES, most_false)
            best = max(best, *tried, key=lambda setting: setting.rank)
        near = [best.policy.open_at - _FINER, best.policy.open_at + _FINER]
        tried = _settings_tried(rule, before, best.parameters, near, most_false)
        best = max(best, *tried, key=lambda setting: setting.rank)
    parameters, policy = best.parameters, best.policy
    scores = rule.score(test.grid, test.columns, test.limits, **parameters)
    curve = list(_curve(test, scores, policy, _SHARES))
    return MethodAlerts(
        rule.name,
        rule.title,
        {**parameters, **policy.as_dict()},
        test.judged(scores, policy),
        curve,
        _at_rate(curve, most_false),
    )


def _curve(
    test: _Time, scores: np.ndarray[Any, Any], policy: AlertPolicy, levels: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """What other opening scores would have done."""
    ratio = policy.close_at / policy.open_at
    for level in levels:
        other = AlertPolicy(level, level * ratio, policy.confirm_minutes, policy.release_minutes)
        found = test.judged(scores, other).as_dict()
        kept = ("precision", "recall", "lead_minutes_median", "false_per_server_week", "alerts")
        yield {"open_at": level, **{name: found[name] for name in kept}}


def _at_rate(curve: Sequence[dict[str, Any]], most_false: float) -> dict[str, Any] | None:
    """Point of a curve that finds most with at most so many false alarms, seen with hindsight."""
    points = [point for point in curve if point["false_per_server_week"] <= most_false and point["recall"] is not None]
    return max(points, key=lambda point: (point["recall"], -point["false_per_server_week"]), default=None)


def _reliability_rows(test: _Time, history: RiskHistory, probability: Floats) -> Iterator[dict[str, Any]]:
    """Reliability of all forecasts of metrics that are not in trouble already, raw and calibrated."""
    ahead, during = outcomes(test.events, test.columns, test.grid.n_servers)
    usable = np.isfinite(history.raw) & ~during
    for stage, said in (("raw", history.raw), ("calibrated", probability)):
        for metric in ("all", *METRIC_COLUMNS):
            chosen = usable.copy()
            if metric != "all":
                chosen[..., [k for k in range(N_METRICS) if METRIC_COLUMNS[k] != metric]] = False
            for row in reliability(said[chosen], ahead[chosen]):
                yield {"metric": metric, "stage": stage, **row}


def _alert_reliability(verdict: Verdict) -> list[dict[str, Any]]:
    """Reliability of alerts by their probability at the opening."""
    told = [(alert.score, outcome == "true") for alert, outcome, _ in verdict.alerts if outcome in ("true", "false")]
    said, came_true = zip(*told, strict=True) if told else ((), ())
    return reliability(np.array(said, dtype=np.float64), np.array(came_true, dtype=np.bool_))


def _breach_times(verdict: Verdict, history: RiskHistory) -> dict[str, Any]:
    """How true the times of the breach are that true alerts told at their opening."""
    inside, errors = [], []
    for alert, outcome, place in verdict.alerts:
        if outcome != "true" or place is None:
            continue
        row = int(np.searchsorted(history.columns, alert.opened))
        earliest, median, latest = history.steps[row, alert.server, alert.metric].tolist()
        came = verdict.events[place].breach - alert.opened + 1
        inside.append(earliest <= came <= latest)
        errors.append(abs(median - came) * STEP_MINUTES)
    return {
        "alerts": len(inside),
        "within_earliest_latest": round(float(np.mean(inside)), 4) if inside else None,
        "median_error_minutes": float(np.median(errors)) if errors else None,
    }


def _examples(verdict: Verdict, grid: FleetGrid) -> Iterator[dict[str, Any]]:
    """Some alerts of each outcome, the likeliest first, and some events that were missed."""

    def moment(column: int | None) -> str | None:
        return None if column is None or column > grid.n_steps else iso_z(time_of(grid.first_step + column))

    for outcome in ("true", "false", "late", "undecided"):
        alike = [(alert, place) for alert, each, place in verdict.alerts if each == outcome]
        for alert, place in sorted(alike, key=lambda pair: -pair[0].score)[:_EXAMPLES]:
            event = None if place is None else verdict.events[place]
            yield {
                "server": grid.names[alert.server],
                "metric": METRIC_COLUMNS[alert.metric],
                "outcome": outcome,
                "kind": None if event is None else event.kind,
                "opened_at": moment(alert.opened),
                "closed_at": moment(alert.closed),
                "breach_at": None if event is None else moment(event.breach),
                "probability": round(alert.score, 4),
            }
    pairs = zip(verdict.events, verdict.lead_steps, strict=True)
    missed = [event for event, lead in pairs if lead is None and not event.is_sudden]
    for event in missed[:_EXAMPLES]:
        yield {
            "server": grid.names[event.server],
            "metric": METRIC_COLUMNS[event.metrics[0]],
            "outcome": "missed",
            "kind": event.kind,
            "opened_at": None,
            "closed_at": None,
            "breach_at": moment(event.breach),
            "probability": None,
        }
