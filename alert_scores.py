"""How good alerts are: precision, recall, lead time, false alarms per server-week, and whether probabilities are true.

    alerts = raise_alerts(scores, columns, policy)       # the state machine of the daemon, over many forecasts
    verdict = judge(alerts, events, columns, n_servers)  # every alert true, false, late or undecided

What counts as what is told at `Outcome` and `Verdict`. `AlertBacktest.as_dict()` is the "alerts" part of a backtest's
JSON. NumPy only; knows nothing of models, rules and files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from alert_events import Event, Mask
from alert_hysteresis import AlertPolicy, AlertStates
from data_contract import HORIZON_STEPS, METRIC_COLUMNS, STEP_MINUTES

Floats = npt.NDArray[np.floating[Any]]
Columns = npt.NDArray[np.int64]

# true: a breach of the metric, one that can be foreseen, lies within the horizon of the forecast that opened the alert.
# late: the metric, or the server by an incident, was in trouble already: nobody needed to be told.
# undecided: less than half of the horizon was measured, and no breach seen.
# false: everything else, among it a breach that came suddenly, which nobody can have foreseen.
Outcome = Literal["true", "false", "late", "undecided"]

_WEEK_STEPS: Final = 7 * 24 * 60 // STEP_MINUTES
_STILL_OPEN: Final = 1 << 40
_DIGITS: Final = 4
_CONFIDENCE: Final = 1.96  # normal quantile of 95 %


@dataclass(frozen=True)
class RaisedAlert:
    """One alert of a replay; columns as in the grid, `closed` is far away for alerts that are open at the end."""

    server: int
    metric: int
    opened: int
    closed: int
    score: float  # at the opening


@dataclass(frozen=True)
class Verdict:
    """What became of alerts, and which events they found.

    An event is found by a true alert that is still open when the breach comes. Sudden events are told apart: an alert
    that happens to be open then, opened within the horizon before, claims what it cannot know (`sudden_claimed`), and
    is not true for that.

    Attributes
    ----------
    alerts : tuple of (RaisedAlert, Outcome, int or None)
        With the place of the event that made it true.
    events : tuple of Event
        Those that can be judged: the breach lies where forecasts were made.
    lead_steps : tuple of int or None
        For each of them, steps from the column in which the first alert that found it opened to the breach. Data of
        that column was not known yet, so this is the time that people have.
    sudden_claimed : int
        Sudden events that an alert was open for.
    server_weeks : float
        Time that was watched.
    """

    alerts: tuple[tuple[RaisedAlert, Outcome, int | None], ...]
    events: tuple[Event, ...]
    lead_steps: tuple[int | None, ...]
    sudden_claimed: int
    server_weeks: float

    def count(self, outcome: Outcome) -> int:
        """Number of alerts with an outcome."""
        return sum(each == outcome for _, each, _ in self.alerts)

    @property
    def precision(self) -> float | None:
        """Share of the true ones among true and false alerts."""
        true, false = self.count("true"), self.count("false")
        return true / (true + false) if true + false else None

    @property
    def found(self) -> int:
        """Events with precursors that were found in time."""
        return sum(lead is not None for event, lead in self._foreseeable())

    @property
    def foreseeable(self) -> int:
        """Events with precursors; on data without known causes, all."""
        return sum(1 for _ in self._foreseeable())

    @property
    def recall(self) -> float | None:
        """Share of the events with precursors that were found."""
        return self.found / self.foreseeable if self.foreseeable else None

    @property
    def false_per_server_week(self) -> float:
        """False alarms per server and week."""
        return self.count("false") / self.server_weeks if self.server_weeks else 0.0

    @property
    def lead_minutes(self) -> float | None:
        """Median lead time of the events that were found."""
        leads = [lead for _, lead in self._foreseeable() if lead is not None]
        return float(np.median(leads)) * STEP_MINUTES if leads else None

    def _foreseeable(self) -> Iterable[tuple[Event, int | None]]:
        return ((event, lead) for event, lead in zip(self.events, self.lead_steps, strict=True) if not event.is_sudden)

    def as_dict(self) -> dict[str, Any]:
        """Figures for JSON; None where there is nothing to divide by."""
        true, false = self.count("true"), self.count("false")
        leads = [lead * STEP_MINUTES for _, lead in self._foreseeable() if lead is not None]
        return {
            "alerts": len(self.alerts),
            **{outcome: self.count(outcome) for outcome in ("true", "false", "late", "undecided")},
            "precision": _rounded(self.precision),
            "precision_interval": share_interval(true, true + false),
            "events": self.foreseeable,
            "found": self.found,
            "recall": _rounded(self.recall),
            "recall_interval": share_interval(self.found, self.foreseeable),
            "sudden_events": sum(event.is_sudden for event in self.events),
            "sudden_claimed": self.sudden_claimed,
            "lead_minutes_median": _rounded(self.lead_minutes),
            "lead_minutes_p10": _rounded(float(np.quantile(leads, 0.1))) if leads else None,
            "lead_minutes_p90": _rounded(float(np.quantile(leads, 0.9))) if leads else None,
            "false_per_server_week": _rounded(self.false_per_server_week),
        }

    def by_kind(self) -> list[dict[str, Any]]:
        """How many events of each kind were found."""
        rows = []
        for kind in sorted({event.kind for event in self.events}):
            leads = [lead for event, lead in zip(self.events, self.lead_steps, strict=True) if event.kind == kind]
            found = [lead * STEP_MINUTES for lead in leads if lead is not None]
            rows.append(
                {
                    "kind": kind,
                    "events": len(leads),
                    "found": len(found),
                    "lead_minutes_median": _rounded(float(np.median(found))) if found else None,
                }
            )
        return rows


def raise_alerts(scores: Floats, columns: Columns, policy: AlertPolicy) -> list[RaisedAlert]:
    """Run successive scores through the state machine of alerts.

    Parameters
    ----------
    scores : float array, (columns, n_servers, n_metrics)
        NaN where there is none.
    columns : int array
        Column with which each forecast begins, ascending.
    """
    with np.errstate(invalid="ignore"):
        servers, metrics = np.nonzero((scores >= policy.open_at).any(axis=0))  # nothing can open elsewhere
    watched = scores[:, servers, metrics]
    quiet = np.logical_not((watched >= policy.close_at).any(axis=1))
    nothing = states = AlertStates.none_open((len(servers),))
    alerts: list[RaisedAlert] = []
    opened_with: dict[int, float] = {}
    for column, row, is_quiet in zip(columns.tolist(), watched, quiet.tolist(), strict=True):
        if is_quiet and not opened_with:
            states = nothing
            continue
        after = states.advance(row, column, policy)
        for place in np.flatnonzero(after.opened != states.opened).tolist():
            if states.opened[place] >= 0:
                begun = int(states.opened[place])
                score = opened_with.pop(place)
                alerts.append(RaisedAlert(int(servers[place]), int(metrics[place]), begun, column, score))
            if after.opened[place] >= 0:
                opened_with[place] = float(row[place])
        states = after
    for place, score in opened_with.items():
        begun = int(states.opened[place])
        alerts.append(RaisedAlert(int(servers[place]), int(metrics[place]), begun, _STILL_OPEN, score))
    return sorted(alerts, key=lambda alert: (alert.opened, alert.server, alert.metric))


def judge(
    alerts: Sequence[RaisedAlert],
    events: Sequence[Event],
    columns: Columns,
    n_servers: int,
    values: Floats | None = None,
) -> Verdict:
    """Match alerts with events; see `Outcome` and `Verdict`.

    Parameters
    ----------
    columns : int array
        With which the forecasts began; all horizons lie within the data.
    values : float array, (n_servers, n_steps, n_metrics), optional
        What was measured, NaN for nothing; without it, everything was. It may be mapped from a file.
    """
    watched = (int(columns[0]), int(columns[-1])) if len(columns) else (0, -1)
    judged = [event for event in events if watched[0] <= event.breach <= watched[1]]
    place_of = {id(event): place for place, event in enumerate(judged)}
    of_metric: dict[tuple[int, int], list[Event]] = {}
    trouble: dict[tuple[int, int], list[Event]] = {}
    for event in events:
        for metric in event.metrics:
            of_metric.setdefault((event.server, metric), []).append(event)
        for metric in event.troubled:
            trouble.setdefault((event.server, metric), []).append(event)
    lead: list[int | None] = [None] * len(judged)
    claimed: set[int] = set()
    told: list[tuple[RaisedAlert, Outcome, int | None]] = []
    for alert in alerts:
        key = (alert.server, alert.metric)
        outcome, cause = _outcome(alert, of_metric.get(key, ()), trouble.get(key, ()), values)
        place = None if cause is None else place_of.get(id(cause))
        told.append((alert, outcome, place))
        for event in of_metric.get(key, ()):
            is_open = alert.opened <= event.breach < alert.closed and event.breach < alert.opened + HORIZON_STEPS
            number = place_of.get(id(event))
            if number is None or not is_open:
                continue
            if event.is_sudden:
                claimed.add(number)
            else:
                lead[number] = max(lead[number] or 0, event.breach - alert.opened)
    steps = watched[1] - watched[0] + 1
    return Verdict(tuple(told), tuple(judged), tuple(lead), len(claimed), n_servers * steps / _WEEK_STEPS)


def _outcome(
    alert: RaisedAlert, events: Sequence[Event], trouble: Sequence[Event], values: Floats | None
) -> tuple[Outcome, Event | None]:
    end = alert.opened + HORIZON_STEPS
    ahead = [event for event in events if alert.opened <= event.breach < end]
    if any(event.breach < alert.opened < event.end for event in trouble):
        return "late", None
    foreseeable = [event for event in ahead if not event.is_sudden]
    if foreseeable:
        return "true", min(foreseeable, key=lambda event: event.breach)
    if values is not None:
        measured = np.isfinite(values[alert.server, alert.opened : end, alert.metric])
        if np.count_nonzero(measured) * 2 < HORIZON_STEPS:
            return "undecided", None
    return "false", None


def reliability(
    probability: Floats, came_true: Mask, weight: Floats | None = None, bins: int = 10
) -> list[dict[str, Any]]:
    """Reliability diagram: for each bin of probability, its mean, the share that came true, and how many there are."""
    probability = np.asarray(probability, dtype=np.float64).ravel()
    happened = np.asarray(came_true).ravel()
    counts = np.ones(len(probability)) if weight is None else np.asarray(weight, dtype=np.float64).ravel()
    number = np.clip((probability * bins).astype(int), 0, bins - 1)
    rows = []
    for k in range(bins):
        inside = number == k
        total = counts[inside].sum()
        rows.append(
            {
                "from": _rounded(k / bins),
                "until": _rounded((k + 1) / bins),
                "count": int(inside.sum()),
                "mean_probability": _rounded(float((probability * counts)[inside].sum() / total)) if total else None,
                "share_true": _rounded(float((happened * counts)[inside].sum() / total)) if total else None,
            }
        )
    return rows


def share_interval(count: int, total: int) -> list[float] | None:
    """95 % confidence interval of a share (Wilson, JASA 22, 1927); None of nothing."""
    if not total:
        return None
    share, z2 = count / total, _CONFIDENCE**2 / total
    middle = (share + z2 / 2) / (1 + z2)
    half = _CONFIDENCE * np.sqrt(share * (1 - share) / total + z2 / (4 * total)) / (1 + z2)
    return [round(float(max(0, middle - half)), _DIGITS), round(float(min(1, middle + half)), _DIGITS)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), _DIGITS)


@dataclass(frozen=True)
class MethodAlerts:
    """How one method fares: the model, or a rule.

    Attributes
    ----------
    method, title : str
        For programs, and for people.
    parameters : dict
        With which it ran: those of the policy and, for a rule, its own; all chosen on the time before the test.
    verdict : Verdict
    curve : list of dict
        The operating curve: `open_at`, `precision`, `recall`, `lead_minutes_median`, `false_per_server_week`, `alerts`
        for other opening scores, on the test time.
    at_same_false_rate : dict or None
        Of a rule: the point of its curve that finds most with no more false alarms than the model. It is chosen with
        hindsight, in the rule's favour.
    """

    method: str
    title: str
    parameters: dict[str, Any]
    verdict: Verdict
    curve: list[dict[str, Any]] = field(default_factory=list)
    at_same_false_rate: dict[str, Any] | None = None


@dataclass(frozen=True)
class AlertBacktest:
    """How good alerts are on a test time, beside what people would use instead: the "alerts" of a backtest's JSON.

    Attributes
    ----------
    what : dict
        On what was judged: `truth` ("incidents" or "crossings"), `definition` in words, `tuned_from`, `test_from`,
        `test_until` (ISO 8601), `servers`, `server_weeks`, `origins`, `every_steps`, `horizon_steps`, `events`,
        `sudden_events`, `target_precision`, `calibrated` (whether the model brought a calibration), `seconds`.
    methods : list of MethodAlerts
        The model first, named "tft".
    reliability : list of dict
        Of all forecasts of metrics that are not in trouble: rows of `reliability` with `metric` (a metric or "all") and
        `stage`: "raw" before calibration, "calibrated" as served.
    alert_reliability : list of dict
        The same of the model's alerts, by their probability at the opening.
    breach_times : dict
        Of true alerts: `alerts`, `within_earliest_latest` (share whose breach came between the two that were told),
        `median_error_minutes` (median of |told median − breach|).
    examples : list of dict
        Some alerts and missed events, for a timeline: `server`, `metric`, `outcome` ("true", "false", "late",
        "undecided", "missed"), `kind`, `opened_at`, `closed_at`, `breach_at`, `probability` (null where not defined).
    """

    what: dict[str, Any]
    methods: list[MethodAlerts]
    reliability: list[dict[str, Any]]
    alert_reliability: list[dict[str, Any]]
    breach_times: dict[str, Any]
    examples: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """JSON: as above, with `methods` and `operating_curve` as flat rows that name their method."""
        return {
            "what": self.what,
            "methods": [
                {
                    "method": each.method,
                    "title": each.title,
                    "parameters": each.parameters,
                    **each.verdict.as_dict(),
                    "at_same_false_rate": each.at_same_false_rate,
                }
                for each in self.methods
            ],
            "by_kind": [{"method": each.method, **row} for each in self.methods for row in each.verdict.by_kind()],
            "operating_curve": [{"method": each.method, **row} for each in self.methods for row in each.curve],
            "reliability": self.reliability,
            "alert_reliability": self.alert_reliability,
            "breach_times": self.breach_times,
            "examples": self.examples,
        }


def _self_check() -> None:
    event = Event(0, (0,), 30, 40, 50, "memory_leak")
    columns = np.arange(0, 60, 5)
    scores = np.zeros((len(columns), 1, len(METRIC_COLUMNS)))
    scores[7:, 0, 0] = 0.9
    scores[1:3, 0, 1] = 0.9
    verdict = judge(raise_alerts(scores, columns, AlertPolicy(0.7, 0.5)), [event], columns, 1)
    assert (verdict.precision, verdict.recall, verdict.lead_minutes) == (0.5, 1.0, 25.0), verdict

    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
