"""How a backtest becomes one page that a person reads in two minutes: the verdict first, then tables and curves.

    write_report(result, Path("report.html"))     # `result` is what `main.py backtest --json` prints

One HTML file that needs nothing else: no network, no scripts, light and dark, and it prints. Whatever is missing in the
result is left out or said to be missing. Every text is escaped: names of servers and files are anybody's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup

import backtest_plots as plots
from backtest_words import (
    ALL,
    COMPARED,
    METRIC_LABELS,
    MODEL,
    UNITS,
    Scores,
    duels,
    findings,
    headline,
    in_words,
    is_better,
    methods_of,
    metrics_of,
    number,
    percent,
    scored_methods,
)
from common_utils import atomic_path
from data_contract import STEP_MINUTES, BacktestError

_ASSETS = Path(__file__).resolve().parent / "report_assets"
_MEASURES: Final = {
    "crps": "CRPS",
    "mase": "MASE",
    "mae": "Mean absolute error",
    "coverage_p10_p90": "Coverage of p10–p90",
}
_GROUPS: Final = {"profile": "Per profile", "state": "Per state", "horizon": "Per horizon"}
_MOST_EXAMPLES = 16
_MOST_EXPLANATIONS = 8
_MOST_ROWS = 200
_PAST_SHOWN = 12 * 60 // STEP_MINUTES  # twelve hours before a forecast

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One number of a table, and whether it is the best of its column or beats the model."""

    text: str
    is_best: bool = False
    beats_model: bool = False
    is_lost: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a heading over each column; the first cell of a row is its name."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A plot under its caption."""

    title: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class Legend:
    """Names of the lines that several plots share."""

    entries: tuple[tuple[str, plots.Style], ...] = field(default=())


def write_report(result: Mapping[str, Any], path: Path) -> None:
    """Write the report of a backtest.

    Parameters
    ----------
    result : mapping
        `BacktestResult.as_dict()`, or the same from its JSON.
    path : Path
        The HTML file; it appears whole or not at all.

    Raises
    ------
    BacktestError
        If it cannot be written; what was there before stays.
    """
    page = render_report(result)
    try:
        with atomic_path(path) as partial:
            partial.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BacktestError(
            f"The report cannot be written to {path}: {error.strerror or error}.",
            why="Nothing half-written was left behind; what was there before stays.",
            fix="Free some space, mend the permissions or choose another place.",
        ) from error


def render_report(result: Mapping[str, Any]) -> str:
    """The report as one HTML page."""
    scores, titles = Scores(result), scored_methods(result)
    drawn = _drawn_methods(scores, titles)
    return (
        _environment()
        .get_template("backtest.html")
        .render(
            what=_facts(result),
            headline=headline(result),
            findings=list(findings(result)),
            duels=duels(result),
            methods=[_method(row) for row in methods_of(result)],
            tables=[_method_table(scores, titles, measure) for measure in _MEASURES],
            legend=Legend(tuple(zip(drawn.values(), plots.STYLES, strict=False))),
            left_out=[title for name, title in titles.items() if name not in drawn],
            metric_legend=Legend(tuple(zip(METRIC_LABELS.values(), plots.STYLES, strict=False))),
            horizon=_horizon(result, scores, drawn),
            coverage=_coverage(result, scores, drawn),
            calibration=_calibration(result, scores, drawn),
            unknown=_unknown(scores, titles),
            groups=_groups(scores, titles),
            examples=_examples(result),
            alerts=_alerts(result),
            explanations=_explanations(result),
        )
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["style"] = Markup((_ASSETS / "backtest.css").read_text(encoding="utf-8"))  # noqa: S704  # ours
    environment.filters["percent"] = percent
    return environment


# -------------------------------------------------------------------------------------------------------------- shaping
def _rows(part: object, key: str) -> list[Row]:
    found = part.get(key) if isinstance(part, Mapping) else None
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list | tuple) else []


def _map(part: object, key: str) -> Mapping[str, Any]:
    found = part.get(key) if isinstance(part, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _text(part: Mapping[str, Any], key: str, unknown: str = "–") -> str:
    value = part.get(key)
    return unknown if value is None else str(value)


def _moment(part: Mapping[str, Any], key: str) -> str:
    """A time as people write it: 2026-01-05 08:00 UTC."""
    text = _text(part, key)
    return f"{text[:10]} {text[11:16]} UTC" if len(text) >= 16 and text[10:11] == "T" else text


def _count(value: object) -> str:
    found = number(value)
    return "–" if found is None else f"{found:,.0f}"


def _seconds(value: object) -> str:
    found = number(value)
    if found is None:
        return "–"
    if found < 1:
        return f"{1000 * found:.0f} ms"
    if found < 120:
        return f"{found:.1f} s"
    return f"{found / 60:.0f} min" if found < 7200 else f"{found / 3600:.1f} h"


def _facts(result: Mapping[str, Any]) -> dict[str, str]:
    """What was judged, on what: label → value."""
    what = _map(result, "what")
    model = _map(what, "model")
    steps, minutes = number(what.get("horizon_steps")), number(what.get("step_minutes"))
    ahead = f"{steps * minutes / 60:g} hours in steps of {minutes:g} minutes" if steps and minutes else "–"
    return {
        "Data": _text(what, "data"),
        "Servers": f"{_count(what.get('servers'))}, {_count(what.get('held_out_servers'))} of them never learned from",
        "Test": f"{_moment(what, 'test_from')} to {_moment(what, 'test_until')}",
        "Forecasts": f"from {_count(what.get('origins'))} origins, {ahead} ahead",
        "Model": f"{_text(model, 'name')}, learned until {_moment(model, 'trained_until')} "
        f"from {_count(model.get('known_servers'))} servers",
        "Took": _seconds(what.get("seconds")),
        "Fingerprint": _text(what, "fingerprint")[:16],
    }


def _method(row: Row) -> dict[str, str | None]:
    skipped = row.get("skipped")
    return {
        "title": _text(row, "title"),
        "skipped": None if skipped is None else str(skipped),
        "fit": _seconds(row.get("fit_seconds")),
        "forecast": _seconds(row.get("forecast_seconds")),
    }


def _drawn_methods(scores: Scores, titles: Mapping[str, str]) -> dict[str, str]:
    """The model and the best others, as many as there are lines to tell apart."""

    def place(name: str) -> tuple[bool, float]:
        score = scores.of(name, ALL, "crps")
        return name != MODEL, float("inf") if score is None else score

    return {name: titles[name] for name in sorted(titles, key=place)[: plots.MOST_LINES]}


def _cell(
    scores: Scores, name: str, names: Sequence[str], metric: str, measure: str, group: str = ALL, value: str = ""
) -> Cell:
    score = scores.of(name, metric, measure, group, value)
    own = scores.of(MODEL, metric, measure, group, value)
    others = [scores.of(other, metric, measure, group, value) for other in names]
    return Cell(
        in_words(measure, score, metric),
        score is not None and len(names) > 1 and not any(is_better(measure, other, score) for other in others),
        name != MODEL and is_better(measure, score, own),
        name == MODEL and any(is_better(measure, other, own) for other in others),
    )


def _method_table(scores: Scores, titles: Mapping[str, str], measure: str) -> Table:
    """All methods × metrics, of one measure; without "all" where the metrics' units differ."""
    metrics = ([ALL] if measure != "mae" else []) + metrics_of(scores)
    rows = tuple(
        (title, tuple(_cell(scores, name, list(titles), metric, measure) for metric in metrics))
        for name, title in titles.items()
    )
    note = "80 % is wanted" if measure == "coverage_p10_p90" else "lower is better"
    return Table(_MEASURES[measure], tuple(METRIC_LABELS.get(metric, "All") for metric in metrics), rows, note)


def _steps(result: Mapping[str, Any]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in _rows(result, "by_step"):
        found.setdefault((str(row.get("method")), str(row.get("metric"))), []).append(row)
    return found


def _horizon(result: Mapping[str, Any], scores: Scores, drawn: Mapping[str, str]) -> dict[str, list[Figure]]:
    """Error of each metric by horizon, as CRPS and in the metric's unit."""
    steps = _steps(result)
    found: dict[str, list[Figure]] = {}
    for measure in ("crps", "mae"):
        figures = []
        for metric in metrics_of(scores):
            label, unit = METRIC_LABELS[metric], UNITS[metric]
            curves = [
                (title, plots.by_hour(steps[name, metric], measure))
                for name, title in drawn.items()
                if (name, metric) in steps
            ]
            if any(y is not None for _, points in curves for _, y in points):
                axis = "CRPS" if measure == "crps" else f"mean absolute error, {unit}"
                title = f"{label}: {_MEASURES[measure]} by hours ahead"
                svg = plots.lines(curves, title=title, x="hours ahead", y=axis, from_zero=True)
                figures.append(_figure(label, svg))
        found[measure] = figures
    return found


def _coverage(result: Mapping[str, Any], scores: Scores, drawn: Mapping[str, str]) -> list[Figure]:
    """How much p10 to p90 hold, by horizon, one picture per metric."""
    steps = _steps(result)
    figures = []
    for metric in metrics_of(scores):
        curves = [
            (title, plots.by_hour(steps[name, metric], "coverage_p10_p90"))
            for name, title in drawn.items()
            if (name, metric) in steps
        ]
        if any(y is not None for _, points in curves for _, y in points):
            label = METRIC_LABELS[metric]
            svg = plots.lines(
                curves,
                title=f"{label}: coverage of p10 to p90 by hours ahead",
                x="hours ahead",
                y="held by p10–p90",
                percent=True,
                rule=0.8,
            )
            figures.append(_figure(label, svg))
    return figures


def _calibration(result: Mapping[str, Any], scores: Scores, drawn: Mapping[str, str]) -> list[Figure]:
    points: dict[tuple[str, str], list[tuple[float, float | None]]] = {}
    for row in _rows(result, "calibration"):
        level = number(row.get("quantile"))
        if level is not None:
            key = (str(row.get("method")), str(row.get("metric")))
            points.setdefault(key, []).append((level, number(row.get("share_below"))))
    figures = []
    for metric in metrics_of(scores):
        curves = [(title, sorted(points[name, metric])) for name, title in drawn.items() if (name, metric) in points]
        if any(y is not None for _, of_method in curves for _, y in of_method):
            label = METRIC_LABELS[metric]
            figures.append(_figure(label, plots.calibration(curves, title=f"{label}: calibration of the quantiles")))
    return figures


def _figure(title: str, svg: str, note: str = "") -> Figure:
    return Figure(title, Markup(svg), note)  # noqa: S704  # drawn of numbers; its texts are escaped in `backtest_plots`


def _unknown(scores: Scores, titles: Mapping[str, str]) -> list[Table]:
    """Servers never seen in training beside known ones, and what their profile is worth."""
    tables = []
    for measure, label in COMPARED.items():
        rows = []
        for name, title in titles.items():
            known, unseen = (scores.of(name, ALL, measure, "server", value) for value in ("known", "held_out"))
            if known is None or unseen is None:
                continue
            ratio = Cell(f"{unseen / known:.2f} ×" if known else "–")
            values = [
                _cell(scores, name, list(titles), ALL, measure, "server", value) for value in ("known", "held_out")
            ]
            rows.append((title, (*values, ratio)))
        if rows:
            tables.append(Table(f"{label}, known and unknown servers", ("known", "never seen", "ratio"), tuple(rows)))
    for measure, label in COMPARED.items():
        rows = []
        for metric in [ALL, *metrics_of(scores)]:
            told, hidden = (scores.of(MODEL, metric, measure, "profile_known", value) for value in ("known", "generic"))
            if told is not None and hidden is not None:
                cells = (
                    Cell(in_words(measure, told), is_best=is_better(measure, told, hidden)),
                    Cell(
                        in_words(measure, hidden),
                        is_best=is_better(measure, hidden, told),
                        beats_model=is_better(measure, hidden, told),
                    ),
                )
                rows.append((METRIC_LABELS.get(metric, "All"), cells))
        if rows:
            note = "servers never seen, forecast twice by the TFT"
            tables.append(Table(f"{label}, with profile or as generic", ("profile", "generic"), tuple(rows), note))
    return tables


def _groups(scores: Scores, titles: Mapping[str, str]) -> list[tuple[str, list[Table]]]:
    """Per profile, state and horizon: the model beside the best other method; for all metrics, then for each."""
    found = []
    for group, heading in _GROUPS.items():
        tables = [
            table
            for metric in [ALL, *metrics_of(scores)]
            if (table := _group_table(scores, titles, group, metric)) is not None
        ]
        if tables:
            found.append((heading, tables))
    return found


def _group_table(scores: Scores, titles: Mapping[str, str], group: str, metric: str) -> Table | None:
    others = [name for name in titles if name != MODEL]
    rows = []
    for value in scores.values(group)[:_MOST_ROWS]:
        labels = scores.labels(metric, group, value)
        if not labels:
            continue
        cells: list[Cell] = []
        for measure in COMPARED:
            own = scores.of(MODEL, metric, measure, group, value)
            ranked = sorted(
                (score, name)
                for name in others
                if (score := scores.of(name, metric, measure, group, value)) is not None
            )
            best, name = ranked[0] if ranked else (None, "")
            lost = is_better(measure, best, own)
            cells.append(Cell(in_words(measure, own), is_best=is_better(measure, own, best), is_lost=lost))
            cells.append(
                Cell(f"{in_words(measure, best)} {titles[name]}" if name else "–", is_best=lost, beats_model=lost)
            )
        cells.append(Cell(percent(scores.of(MODEL, metric, "coverage_p10_p90", group, value))))
        cells.append(Cell(_count(labels)))
        rows.append((value, tuple(cells)))
    columns = ("CRPS, TFT", "CRPS, best other", "MASE, TFT", "MASE, best other", "p10–p90, TFT", "labels")
    return Table(METRIC_LABELS.get(metric, "All metrics"), columns, tuple(rows)) if rows else None


def _examples(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for row in _rows(result, "examples")[:_MOST_EXAMPLES]:
        metric = _text(row, "metric")
        quantiles = {str(level): values for level, values in _map(row, "quantiles").items() if isinstance(values, list)}
        past, actual = (row[key] if isinstance(row.get(key), list) else [] for key in ("past", "actual"))
        if not quantiles.get("0.5"):
            continue
        title = f"Forecast of {METRIC_LABELS.get(metric, metric)} with what came true"
        svg = plots.fan(past[-_PAST_SHOWN:], actual, quantiles, title=title, unit=UNITS.get(metric, ""))
        found.append(
            {
                "server": _text(row, "server"),
                "metric": METRIC_LABELS.get(metric, metric),
                "origin": _moment(row, "origin"),
                "why": _text(row, "why", ""),
                "svg": _figure("", svg).svg,
            }
        )
    return found


# --------------------------------------------------------------------------------------------------------------- alerts
def _alerts(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part of the alerts (`alert_scores.AlertBacktest`); None where they were not judged."""
    alerts = _map(result, "alerts")
    if not alerts:
        return None
    what = _map(alerts, "what")
    titles = {str(row.get("method")): _text(row, "title") for row in _rows(alerts, "methods")}
    return {
        "definition": _text(what, "definition", ""),
        "facts": _alert_facts(what),
        "table": _alert_table(alerts),
        "kinds": _kind_table(alerts, titles),
        "figures": list(_alert_figures(alerts, titles)),
        "legend": Legend(tuple(zip(list(titles.values())[: plots.MOST_LINES], plots.STYLES, strict=False))),
        "times": _breach_times(_map(alerts, "breach_times")),
        "examples": [_alert_example(row) for row in _rows(alerts, "examples")[:_MOST_EXAMPLES]],
    }


def _alert_facts(what: Row) -> str:
    weeks = number(what.get("server_weeks"))
    parts = [f"{_count(what.get('events'))} events that can be foreseen"]
    if number(what.get("sudden_events")):
        parts.append(f"{_count(what.get('sudden_events'))} sudden ones that nobody can")
    if weeks is not None:
        parts.append(f"{weeks:,.1f} server-weeks watched")
    return ", ".join(parts)


def _alert_table(alerts: Row) -> Table:
    """Methods × precision, recall, lead time and false alarms; the best of each marked."""
    rows = _rows(alerts, "methods")
    smaller = {"false_per_server_week": True, "sudden_claimed": True}
    keys = ("precision", "recall", "lead_minutes_median", "false_per_server_week", "sudden_claimed")

    def beats(key: str, one: float | None, other: float | None) -> bool:
        if one is None or other is None:
            return False
        return one < other if smaller.get(key) else one > other

    own = next((row for row in rows if row.get("method") == MODEL), {})
    told = []
    for row in rows:
        cells = [Cell(_count(row.get("alerts")))]
        for key in keys:
            value = number(row.get(key))
            is_best = value is not None and len(rows) > 1
            is_best = is_best and not any(beats(key, number(other.get(key)), value) for other in rows)
            is_model = row.get("method") == MODEL
            cells.append(
                Cell(
                    _alert_number(key, value, row),
                    is_best,
                    not is_model and beats(key, value, number(own.get(key))),
                    is_model and any(beats(key, number(other.get(key)), value) for other in rows),
                )
            )
        told.append((_text(row, "title"), tuple(cells)))
    columns = (
        "alerts",
        "precision",
        "recall",
        "median lead",
        "false alarms per server-week",
        "sudden events claimed",
    )
    return Table("The model beside rules", columns, tuple(told))


def _alert_number(key: str, value: float | None, row: Row) -> str:
    if value is None:
        return "–"
    if key in ("precision", "recall"):
        bounds = row.get(f"{key}_interval")
        known = isinstance(bounds, list | tuple) and len(bounds) == 2 and None not in map(number, bounds)
        interval = f" ({percent(bounds[0], 0)} to {percent(bounds[1], 0)})" if known and bounds else ""
        return f"{percent(value)}{interval}"
    if key == "lead_minutes_median":
        return f"{value:.0f} min"
    return f"{value:.2f}" if key == "false_per_server_week" else f"{value:,.0f}"


def _kind_table(alerts: Row, titles: Mapping[str, str]) -> Table | None:
    """Events of each kind that each method has found."""
    rows = _rows(alerts, "by_kind")[:_MOST_ROWS]
    kinds = list(dict.fromkeys(_text(row, "kind") for row in rows))
    found = {(str(row.get("method")), _text(row, "kind")): row for row in rows}
    if not kinds:
        return None

    def cell(method: str, kind: str) -> Cell:
        row = found.get((method, kind), {})
        lead = number(row.get("lead_minutes_median"))
        return Cell(
            f"{_count(row.get('found'))} of {_count(row.get('events'))}" + ("" if lead is None else f", {lead:.0f} min")
        )

    told = tuple((kind.replace("_", " "), tuple(cell(method, kind) for method in titles)) for kind in kinds)
    return Table("Found, by kind of event", tuple(titles.values()), told, "with the median lead time")


def _alert_figures(alerts: Row, titles: Mapping[str, str]) -> Iterator[Figure]:
    whole = [row for row in _rows(alerts, "reliability") if row.get("metric", ALL) == ALL]
    stages = ("calibrated", "raw")
    curves, counts = _reliability([(stage, [row for row in whole if row.get("stage") == stage]) for stage in stages])
    if curves:
        title = "Reliability of the probabilities of a breach"
        note = "solid: as served; dashed: as read off the quantiles. On the diagonal, probabilities are true."
        yield _figure("Are the probabilities true?", plots.reliability(curves, counts, title=title), note)
    curves, counts = _reliability([("alerts", _rows(alerts, "alert_reliability"))])
    if curves:
        title = "Reliability of the model's alerts"
        note = "of the alerts that were opened with a probability of 70 %, about 70 % should come true."
        yield _figure("Are the alerts true?", plots.reliability(curves, counts, title=title), note)
    by_method: dict[str, list[tuple[float, float | None]]] = {name: [] for name in titles}
    for row in _rows(alerts, "operating_curve"):
        false = number(row.get("false_per_server_week"))
        if false is not None and row.get("method") in by_method:
            by_method[str(row["method"])].append((false, number(row.get("recall"))))
    if any(by_method.values()):
        places: list[plots.Curve] = []
        for row in _rows(alerts, "methods"):
            false = number(row.get("false_per_server_week"))
            places.append((_text(row, "title"), [] if false is None else [(false, number(row.get("recall")))]))
        svg = plots.scatter_curves(
            [(titles[name], points) for name, points in by_method.items()],
            places,
            title="Share of events found against false alarms",
            x="false alarms per server-week",
            y="events found",
        )
        note = "the higher and the further left, the better; the point is where each one runs."
        yield _figure("What does finding more cost?", svg, note)


def _reliability(stages: Sequence[tuple[str, list[Row]]]) -> tuple[list[plots.Curve], list[list[int]]]:
    curves: list[plots.Curve] = []
    counts: list[list[int]] = []
    for name, rows in stages:
        points = [
            (given, number(row.get("share_true")), int(number(row.get("count")) or 0))
            for row in rows
            if (given := number(row.get("mean_probability"))) is not None
        ]
        if points:
            curves.append((name, [(given, share) for given, share, _ in points]))
            counts.append([count for _, _, count in points])
    return curves, counts


def _breach_times(times: Row) -> str:
    within, wrong = number(times.get("within_earliest_latest")), number(times.get("median_error_minutes"))
    parts = []
    if within is not None:
        parts.append(
            f"{percent(within, 0)} of the breaches came between the earliest and the latest time that was told"
        )
    if wrong is not None:
        parts.append(f"the median time was wrong by {wrong:.0f} minutes (median)")
    return "; ".join(parts)


def _alert_example(row: Row) -> dict[str, str]:
    metric = _text(row, "metric")
    return {
        "server": _text(row, "server"),
        "metric": METRIC_LABELS.get(metric, metric),
        "outcome": _text(row, "outcome"),
        "kind": _text(row, "kind").replace("_", " "),
        "probability": percent(number(row.get("probability")), 0),
        **{key: _moment(row, key) for key in ("opened_at", "breach_at", "closed_at")},
    }


# --------------------------------------------------------------------------------------------------------- explanations
def _explanations(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Records of `forecast_explanation.Explanation.as_dict()`."""
    found = []
    for row in _rows(result, "explanations")[:_MOST_EXPLANATIONS]:
        attention = _map(row, "attention")
        shares = [
            (int(hour), share)
            for each in _rows(attention, "past_hours")
            if (hour := number(each.get("hours_before"))) is not None
            and (share := number(each.get("share"))) is not None
        ]
        svg = plots.hours(shares, title="Attention by hour before the forecast") if shares else ""
        found.append(
            {
                "server": _text(row, "server_name"),
                "moment": _moment(row, "prediction_time"),
                "sentence": _text(row, "sentence", ""),
                "bars": [
                    (heading, bars)
                    for key, heading in (("past", "Of the past, it read"), ("future", "Of the hours ahead"))
                    if (bars := _bars(_map(row, key)))
                ],
                "attention": _figure("", svg).svg,
                "ahead": percent(number(attention.get("ahead")), 0),
                "starts": _starts(_map(_map(row, "anchors"), ALL)),
            }
        )
    return found


def _bars(shares: Row, most: int = 6) -> list[tuple[str, str, float]]:
    """Name, share as text, and length of the bar in percent."""
    there = [(str(name), share) for name, each in shares.items() if (share := number(each)) is not None]
    largest = max((share for _, share in there), default=0.0)
    if largest <= 0:
        return []
    return [
        (name, percent(share, 0), round(100 * share / largest, 1)) for name, share in there[:most] if share >= 0.005
    ]


def _starts(horizons: Row) -> list[tuple[str, str]]:
    told = []
    for horizon, shares in horizons.items():
        if isinstance(shares, Mapping):
            parts = [
                f"{name} {percent(share, 0)}" for name, each in shares.items() if (share := number(each)) is not None
            ]
            told.append((str(horizon), ", ".join(parts)))
    return told


def _self_check() -> None:
    page = render_report({})
    assert page.startswith("<!doctype html>") and "The model was not scored." in page
    hostile = {
        "what": {"data": "<script>alert(1)</script>"},
        "methods": [{"name": MODEL, "title": "<b>", "skipped": None}],
    }
    assert "<script>" not in render_report(hostile) and "&lt;b&gt;" in render_report(hostile)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
