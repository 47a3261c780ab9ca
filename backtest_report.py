"""How a backtest becomes one page that a person reads in two minutes: the verdict first, then tables and curves.

    write_report(result, Path("report.html"))     # `result` is what `main.py backtest --json` prints

One HTML file that needs nothing else: no network, no scripts, light and dark, and it prints. Whatever is missing in the
result is left out or said to be missing. Every text is escaped: names of servers and files are anybody's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from html_templates import template_environment
from report_alerts import alert_section
from report_parts import (
    Cell,
    Figure,
    Legend,
    Row,
    Table,
    count_text,
    figure_of,
    moment_of,
    part_of,
    rows_of,
    seconds_text,
    text_of,
)

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
_MOST_STARTS = 3  # naive forecasts that are named for one horizon
_MOST_ROWS = 200
_PAST_SHOWN = 12 * 60 // STEP_MINUTES  # twelve hours before a forecast


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
            horizon=_horizon(result, scores, drawn),
            coverage=_coverage(result, scores, drawn),
            calibration=_calibration(result, scores, drawn),
            unknown=_unknown(scores, titles),
            groups=_groups(scores, titles),
            examples=_examples(result),
            alerts=alert_section(result),
            explanations=_explanations(result),
        )
    )


@cache
def _environment() -> jinja2.Environment:
    environment = template_environment(_ASSETS)
    environment.globals["style"] = Markup((_ASSETS / "backtest.css").read_text(encoding="utf-8"))  # noqa: S704  # ours
    environment.filters["percent"] = percent
    return environment


# -------------------------------------------------------------------------------------------------------------- shaping
def _facts(result: Mapping[str, Any]) -> dict[str, str]:
    """What was judged, on what: label → value."""
    what = part_of(result, "what")
    model = part_of(what, "model")
    steps, minutes = number(what.get("horizon_steps")), number(what.get("step_minutes"))
    unseen = count_text(what.get("held_out_servers"))
    ahead = f"{steps * minutes / 60:g} hours in steps of {minutes:g} minutes" if steps and minutes else "–"
    return {
        "Data": text_of(what, "data"),
        "Servers": f"{count_text(what.get('servers'))}, {unseen} of them never learned from",
        "Test": f"{moment_of(what, 'test_from')} to {moment_of(what, 'test_until')}",
        "Forecasts": f"from {count_text(what.get('origins'))} origins, {ahead} ahead",
        "Model": f"{text_of(model, 'name')}, learned until {moment_of(model, 'trained_until')} "
        f"from {count_text(model.get('known_servers'))} servers",
        "Took": seconds_text(what.get("seconds")),
        "Fingerprint": text_of(what, "fingerprint")[:16],
    }


def _method(row: Row) -> dict[str, str | None]:
    skipped = row.get("skipped")
    return {
        "title": text_of(row, "title"),
        "skipped": None if skipped is None else str(skipped),
        "fit": seconds_text(row.get("fit_seconds")),
        "forecast": seconds_text(row.get("forecast_seconds")),
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
    """A score without its unit, which stands in the table's head."""
    score = scores.of(name, metric, measure, group, value)
    own = scores.of(MODEL, metric, measure, group, value)
    others = [scores.of(other, metric, measure, group, value) for other in names]
    return Cell(
        in_words(measure, score).removesuffix(" %"),
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
    columns = [METRIC_LABELS.get(metric, "All") for metric in metrics]
    if measure == "mae":
        columns = [f"{label}, {UNITS[metric]}" for label, metric in zip(columns, metrics, strict=True)]
    note = "in %, 80 is wanted" if measure == "coverage_p10_p90" else "lower is better"
    return Table(_MEASURES[measure], tuple(columns), rows, note)


def _steps(result: Mapping[str, Any]) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows_of(result, "by_step"):
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
                figures.append(figure_of(label, svg))
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
            figures.append(figure_of(label, svg))
    return figures


def _calibration(result: Mapping[str, Any], scores: Scores, drawn: Mapping[str, str]) -> list[Figure]:
    points: dict[tuple[str, str], list[tuple[float, float | None]]] = {}
    for row in rows_of(result, "calibration"):
        level = number(row.get("quantile"))
        if level is not None:
            key = (str(row.get("method")), str(row.get("metric")))
            points.setdefault(key, []).append((level, number(row.get("share_below"))))
    figures = []
    for metric in metrics_of(scores):
        curves = [(title, sorted(points[name, metric])) for name, title in drawn.items() if (name, metric) in points]
        if any(y is not None for _, of_method in curves for _, y in of_method):
            label = METRIC_LABELS[metric]
            figures.append(figure_of(label, plots.calibration(curves, title=f"{label}: calibration of the quantiles")))
    return figures


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
        cells.append(Cell(count_text(labels)))
        rows.append((value, tuple(cells)))
    columns = ("CRPS, TFT", "CRPS, best other", "MASE, TFT", "MASE, best other", "p10–p90, TFT", "labels")
    return Table(METRIC_LABELS.get(metric, "All metrics"), columns, tuple(rows)) if rows else None


def _examples(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for row in rows_of(result, "examples")[:_MOST_EXAMPLES]:
        metric = text_of(row, "metric")
        levels = part_of(row, "quantiles").items()
        quantiles = {str(level): values for level, values in levels if isinstance(values, list)}
        past, actual = (row[key] if isinstance(row.get(key), list) else [] for key in ("past", "actual"))
        if not quantiles.get("0.5"):
            continue
        title = f"Forecast of {METRIC_LABELS.get(metric, metric)} with what came true"
        svg = plots.fan(past[-_PAST_SHOWN:], actual, quantiles, title=title, unit=UNITS.get(metric, ""))
        found.append(
            {
                "server": text_of(row, "server"),
                "metric": METRIC_LABELS.get(metric, metric),
                "origin": moment_of(row, "origin"),
                "why": text_of(row, "why", ""),
                "svg": figure_of("", svg).svg,
            }
        )
    return found


# --------------------------------------------------------------------------------------------------------- explanations
def _explanations(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Records of `forecast_explanation.Explanation.as_dict()`."""
    found = []
    for row in rows_of(result, "explanations")[:_MOST_EXPLANATIONS]:
        attention = part_of(row, "attention")
        shares = [
            (int(hour), share)
            for each in rows_of(attention, "past_hours")
            if (hour := number(each.get("hours_before"))) is not None
            and (share := number(each.get("share"))) is not None
        ]
        svg = plots.hours(shares, title="Attention by hour before the forecast") if shares else ""
        found.append(
            {
                "server": text_of(row, "server_name"),
                "moment": moment_of(row, "prediction_time"),
                "sentence": text_of(row, "sentence", ""),
                "bars": [
                    (heading, bars)
                    for key, heading in (("past", "Of the past, it read"), ("future", "Of the hours ahead"))
                    if (bars := _bars(part_of(row, key)))
                ],
                "attention": figure_of("", svg).svg,
                "ahead": percent(number(attention.get("ahead")), 0),
                "starts": _starts(part_of(part_of(row, "anchors"), ALL)),
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
            there = [(str(name), share) for name, each in shares.items() if (share := number(each)) is not None]
            parts = [f"{name} {percent(share, 0)}" for name, share in there[:_MOST_STARTS]]
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
