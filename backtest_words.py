"""What a backtest says, in words: against whom the model wins and loses, by how much, and what else must be known.

Reads the JSON of a backtest alone, and takes whatever is missing in it as not known. Knows nothing of HTML or plots.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from data_contract import METRICS

MODEL: Final = "tft"
ALL: Final = "all"
METRIC_LABELS: Final[dict[str, str]] = {metric.column: metric.label for metric in METRICS}
UNITS: Final[dict[str, str]] = {metric.column: metric.unit for metric in METRICS}
COMPARED: Final[dict[str, str]] = {"crps": "CRPS", "mase": "MASE"}  # what decides who wins

WANTED_COVERAGE: Final = 0.8
COVERAGE_TOLERANCE: Final = 0.03
MOST_ABOVE_KNOWN: Final = 1.1  # error of servers never seen in training, in those of known ones
_EQUAL = 1e-3  # relative difference below which two scores are the same

Level = Literal["good", "bad", "note"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Sentence:
    """One thing that a reader must know, and whether it is good."""

    level: Level
    text: str


@dataclass(frozen=True)
class Duel:
    """The model against one other method, over all metrics and both scores that decide.

    Attributes
    ----------
    title : str
        What people call the other method.
    won, equal : tuple of str
        Such as "CPU CRPS".
    lost : tuple of str
        The same with both scores.
    crps_change : float or None
        The model's CRPS over all metrics relative to the other's: −0.2 is 20 % lower.
    """

    title: str
    won: tuple[str, ...]
    equal: tuple[str, ...]
    lost: tuple[str, ...]
    crps_change: float | None


class Scores:
    """The scores of a result, found by what they are of."""

    def __init__(self, result: Row) -> None:
        self._rows: dict[tuple[str, str, str, str], Row] = {}
        self._values: dict[str, list[str]] = {}
        for row in _rows(result, "scores"):
            method, metric, group, value = (str(row.get(key)) for key in ("method", "metric", "group", "value"))
            self._rows[method, metric, group, "" if group == ALL else value] = row
            if value not in self._values.setdefault(group, []):
                self._values[group].append(value)

    def of(self, method: str, metric: str, measure: str, group: str = ALL, value: str = "") -> float | None:
        """One score; None where there is none."""
        return number(self._rows.get((method, metric, group, value), {}).get(measure))

    def values(self, group: str) -> list[str]:
        """What a group is divided into, such as the profiles, in the result's order."""
        return self._values.get(group, [])

    def labels(self, metric: str, group: str = ALL, value: str = "") -> float | None:
        """How many labels the model was scored on."""
        return self.of(MODEL, metric, "labels", group, value)


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _rows(result: Row, key: str) -> list[Row]:
    found = result.get(key)
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []


def methods_of(result: Row) -> list[Row]:
    """All methods, the model first and those without scores last."""
    return sorted(_rows(result, "methods"), key=lambda row: (row.get("name") != MODEL, row.get("skipped") is not None))


def scored_methods(result: Row) -> dict[str, str]:
    """Name → title of the methods that were scored, the model first."""
    return {str(row.get("name")): str(row.get("title")) for row in methods_of(result) if row.get("skipped") is None}


def distance(measure: str, score: float) -> float:
    """What is to be small: the score itself, and for coverage how far it is from what is wanted."""
    return abs(score - WANTED_COVERAGE) if measure == "coverage_p10_p90" else score


def is_better(measure: str, score: float | None, than: float | None) -> bool:
    """Whether one score is better than another, by more than nothing."""
    if score is None or than is None:
        return False
    own, other = distance(measure, score), distance(measure, than)
    return own < other and not math.isclose(own, other, rel_tol=_EQUAL, abs_tol=1e-12)


def best_methods(scores: Scores, names: Sequence[str], metric: str, measure: str) -> set[str]:
    """Methods that no other is better than."""
    found = {name: scores.of(name, metric, measure) for name in names}
    return {
        name
        for name, score in found.items()
        if score is not None and not any(is_better(measure, other, score) for other in found.values())
    }


def metrics_of(scores: Scores) -> list[str]:
    """Metrics that the model has scores of; disk or latency may never be reported."""
    return [metric for metric in METRIC_LABELS if scores.labels(metric)]


def duels(result: Row) -> list[Duel]:
    """The model against each other method, in the result's order."""
    scores = Scores(result)
    return [_duel(scores, name, title) for name, title in scored_methods(result).items() if name != MODEL]


def _duel(scores: Scores, name: str, title: str) -> Duel:
    won, equal, lost = [], [], []
    for metric in metrics_of(scores):
        for measure, label in COMPARED.items():
            own, other = scores.of(MODEL, metric, measure), scores.of(name, metric, measure)
            if own is None or other is None:
                continue
            what = f"{METRIC_LABELS[metric]} {label}"
            if is_better(measure, own, other):
                won.append(what)
            elif is_better(measure, other, own):
                lost.append(f"{what} ({in_words(measure, own)} against {in_words(measure, other)})")
            else:
                equal.append(what)
    own, other = scores.of(MODEL, ALL, "crps"), scores.of(name, ALL, "crps")
    change = own / other - 1 if own is not None and other else None
    return Duel(title, tuple(won), tuple(equal), tuple(lost), change)


def headline(result: Row) -> Sentence:
    """The verdict in one sentence: how often the model is the best of all, and where it is not."""
    scores, titles = Scores(result), scored_methods(result)
    if MODEL not in titles:
        return Sentence("bad", "The model was not scored.")
    others = len(titles) - 1
    if not others:
        return Sentence("note", "There is nothing to compare with: no other method was scored.")
    told = []
    level: Level = "good"
    for measure, label in COMPARED.items():
        metrics = [metric for metric in metrics_of(scores) if scores.of(MODEL, metric, measure) is not None]
        first = [metric for metric in metrics if MODEL in best_methods(scores, list(titles), metric, measure)]
        if not metrics:
            continue
        if len(first) == len(metrics):
            told.append(f"the lowest {label} on {_all_of(len(metrics))}")
        else:
            level = "bad"
            behind = [METRIC_LABELS[metric] for metric in metrics if metric not in first]
            count = f"{len(first)} of {len(metrics)} metrics" if first else "no metric"
            told.append(f"the lowest {label} on {count} (not on {listed(behind)})")
    return Sentence(level, f"Of {others + 1} methods, the TFT has {listed(told)}.") if told else _nothing_scored()


def _nothing_scored() -> Sentence:
    return Sentence("note", "Nothing could be scored: the test holds no labels.")


def _all_of(count: int) -> str:
    return "the only metric" if count == 1 else f"all {count} metrics"


def findings(result: Row) -> Iterator[Sentence]:
    """What must be known beside the verdict: losses, coverage, unknown servers, profiles, what was left out."""
    fought = duels(result)
    beaten = [duel.title for duel in fought if duel.won and not duel.lost]
    if beaten:
        yield Sentence("good", f"It loses nowhere against {listed(beaten)}.")
    for duel in fought:
        if duel.lost:
            yield Sentence("bad", f"It loses against {duel.title} in {listed(duel.lost)}.")
    scores = Scores(result)
    yield from _coverage(scores)
    yield from _unknown_servers(scores, [name for name in scored_methods(result) if name != MODEL])
    yield from _alerts(result)
    crossings = result.get("crossings")
    crossed = number(crossings.get(MODEL)) if isinstance(crossings, Mapping) else None
    if crossed is not None:
        yield (
            Sentence("bad", f"Its quantiles cross at {crossed:,.0f} steps.")
            if crossed
            else Sentence("good", "Its quantiles never cross.")
        )
    for row in methods_of(result):
        if row.get("skipped") is not None:
            yield Sentence("note", f"{row.get('title')} was left out: {str(row['skipped']).rstrip('.')}.")
        elif number(row.get("unanswered")):
            yield Sentence(
                "note", f"{row.get('title')} had no answer to {row['unanswered']:,} labels: not scored there."
            )
    if result.get("stopped"):
        yield Sentence("note", "The backtest was stopped before it was finished.")
    what = result.get("what")
    notes = what.get("notes") if isinstance(what, Mapping) else None
    for note in notes if isinstance(notes, list) else []:
        yield Sentence("note", str(note))


def _coverage(scores: Scores) -> Iterator[Sentence]:
    shares = {metric: scores.of(MODEL, metric, "coverage_p10_p90") for metric in metrics_of(scores)}
    told = {metric: share for metric, share in shares.items() if share is not None}
    missed = [metric for metric, share in told.items() if abs(share - WANTED_COVERAGE) > COVERAGE_TOLERANCE]
    listing = listed([f"{METRIC_LABELS[metric]} {percent(share)}" for metric, share in told.items()])
    if told and not missed:
        yield Sentence("good", f"p10 to p90 hold what they promise, 80 ± 3 % of what came true: {listing}.")
    elif missed:
        names = listed([METRIC_LABELS[metric] for metric in missed])
        yield Sentence("bad", f"p10 to p90 do not hold 80 ± 3 % of what came true for {names}: {listing}.")


def _unknown_servers(scores: Scores, others: Sequence[str]) -> Iterator[Sentence]:
    for measure, label in COMPARED.items():
        ratio = _unseen_to_known(scores, MODEL, measure)
        if ratio is not None:
            # Some servers are harder than others for everybody: what the other methods do tells how much of it is that.
            usual = [each for name in others if (each := _unseen_to_known(scores, name, measure)) is not None]
            beside = f"; other methods {statistics.median(usual):.2f} ×" if usual else ""
            yield Sentence(
                "good" if ratio <= MOST_ABOVE_KNOWN else "bad",
                f"Servers never seen in training: {label} is {ratio:.2f} × that of known ones "
                f"(at most {MOST_ABOVE_KNOWN} × is wanted{beside}).",
            )
    for measure, label in COMPARED.items():
        told, hidden = (scores.of(MODEL, ALL, measure, "profile_known", value) for value in ("known", "generic"))
        if told is not None and hidden is not None:
            helps, harms = is_better(measure, told, hidden), is_better(measure, hidden, told)
            effect = "helps" if helps else "harms" if harms else "makes no difference"
            yield Sentence(
                "good" if helps else "bad",
                f"Knowing the profile of such a server {effect}: {label} {in_words(measure, told)} with it, "
                f"{in_words(measure, hidden)} as generic.",
            )


def _unseen_to_known(scores: Scores, method: str, measure: str) -> float | None:
    """A method's error on servers that were held out, in that on the others."""
    known, unseen = (scores.of(method, ALL, measure, "server", value) for value in ("known", "held_out"))
    return unseen / known if known and unseen is not None else None


def _alerts(result: Row) -> Iterator[Sentence]:
    """What the model's alerts are worth, and against which rule they lose."""
    alerts = result.get("alerts")
    rows = _rows(alerts, "methods") if isinstance(alerts, Mapping) else []
    own = next((row for row in rows if row.get("method") == MODEL), None)
    if own is None:
        return
    precision, recall, false = (number(own.get(key)) for key in ("precision", "recall", "false_per_server_week"))
    if precision is None or recall is None or false is None:
        yield Sentence("note", "Of its alerts nothing can be said: there were none, or nothing to be found.")
        return
    lead = number(own.get("lead_minutes_median"))
    early = "" if lead is None else f", {lead:.0f} minutes before (median)"
    lost = []
    for row in rows:
        better = [
            f"{name} ({percent(other, 0)} against {percent(score, 0)})"
            for name, score in (("precision", precision), ("recall", recall))
            if (other := number(row.get(name))) is not None and other > score
        ]
        if better and row is not own:
            lost.append(f"{row.get('title')} in {listed(better)}")
    yield Sentence(
        "note" if lost else "good",
        f"Of its alerts {percent(precision, 0)} come true; they find {percent(recall, 0)} of what can be "
        f"foreseen{early}, with {false:.2f} false alarms per server and week.",
    )
    for each in lost:
        yield Sentence("bad", f"Its alerts lose against {each}.")


def in_words(measure: str, score: float | None, metric: str = ALL) -> str:
    """A score as it is shown, with its unit where it has one."""
    if score is None:
        return "–"
    if measure == "coverage_p10_p90":
        return percent(score)
    if measure in COMPARED:
        return f"{score:.3f}" if abs(score) < 100 else f"{score:.3g}"
    unit = UNITS.get(metric)
    text = f"{score:.3g}" if abs(score) < 1000 else f"{score:,.0f}"
    return f"{text} {unit}" if unit else text


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else "".join(items)


def _self_check() -> None:
    def row(method: str, crps: float, mase: float) -> dict[str, Any]:
        score = {"crps": crps, "mase": mase, "coverage_p10_p90": 0.79, "labels": 9}
        return {"method": method, "metric": "cpu_pct", "group": ALL, "value": ALL, **score}

    methods = [{"name": name, "title": name.upper(), "skipped": None} for name in (MODEL, "ridge")]
    result = {"methods": methods, "scores": [row(MODEL, 0.2, 1.2), row("ridge", 0.3, 1.1)]}
    assert headline(result).level == "bad" and "no metric (not on CPU)" in headline(result).text
    told = [sentence.text for sentence in findings(result)]
    assert told[0] == "It loses against RIDGE in CPU MASE (1.200 against 1.100)."
    assert duels(result)[0].won == ("CPU CRPS",) and headline({}).level == "bad"
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
