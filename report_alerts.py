"""How the alerts of a backtest look in its report: the model beside rules, and whether probabilities are true.

Reads the JSON of `alert_scores.AlertBacktest`; knows nothing of how it was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import backtest_plots as plots
from backtest_words import ALL, METRIC_LABELS, MODEL, number, percent
from report_parts import Cell, Figure, Legend, Row, Table, count_text, figure_of, moment_of, part_of, rows_of, text_of

_MOST_EXAMPLES = 16
_MOST_ROWS = 200


def alert_section(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part of the alerts (`alert_scores.AlertBacktest`); None where they were not judged."""
    alerts = part_of(result, "alerts")
    if not alerts:
        return None
    what = part_of(alerts, "what")
    titles = {str(row.get("method")): text_of(row, "title") for row in rows_of(alerts, "methods")}
    return {
        "definition": text_of(what, "definition", ""),
        "facts": _alert_facts(what),
        "table": _alert_table(alerts),
        "kinds": _kind_table(alerts, titles),
        "figures": list(_alert_figures(alerts, titles)),
        "legend": Legend(tuple(zip(list(titles.values())[: plots.MOST_LINES], plots.STYLES, strict=False))),
        "times": _breach_times(part_of(alerts, "breach_times")),
        "examples": [_alert_example(row) for row in rows_of(alerts, "examples")[:_MOST_EXAMPLES]],
    }


def _alert_facts(what: Row) -> str:
    weeks = number(what.get("server_weeks"))
    parts = [f"{count_text(what.get('events'))} events that can be foreseen"]
    if number(what.get("sudden_events")):
        parts.append(f"{count_text(what.get('sudden_events'))} sudden ones that nobody can")
    if weeks is not None:
        parts.append(f"{weeks:,.1f} server-weeks watched")
    return ", ".join(parts)


def _alert_table(alerts: Row) -> Table:
    """Methods × precision, recall, lead time and false alarms; the best of each marked."""
    rows = rows_of(alerts, "methods")
    smaller = {"false_per_server_week": True, "sudden_claimed": True}
    keys = ("precision", "recall", "lead_minutes_median", "false_per_server_week", "sudden_claimed")

    def beats(key: str, one: float | None, other: float | None) -> bool:
        if one is None or other is None:
            return False
        return one < other if smaller.get(key) else one > other

    own = next((row for row in rows if row.get("method") == MODEL), {})
    told = []
    for row in rows:
        cells = [Cell(count_text(row.get("alerts")))]
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
        told.append((text_of(row, "title"), tuple(cells)))
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
    rows = rows_of(alerts, "by_kind")[:_MOST_ROWS]
    kinds = list(dict.fromkeys(text_of(row, "kind") for row in rows))
    found = {(str(row.get("method")), text_of(row, "kind")): row for row in rows}
    if not kinds:
        return None

    def cell(method: str, kind: str) -> Cell:
        row = found.get((method, kind), {})
        lead = number(row.get("lead_minutes_median"))
        ahead = "" if lead is None else f", {lead:.0f} min"
        return Cell(f"{count_text(row.get('found'))} of {count_text(row.get('events'))}{ahead}")

    told = tuple((kind.replace("_", " "), tuple(cell(method, kind) for method in titles)) for kind in kinds)
    return Table("Found, by kind of event", tuple(titles.values()), told, "with the median lead time")


def _alert_figures(alerts: Row, titles: Mapping[str, str]) -> Iterator[Figure]:
    whole = [row for row in rows_of(alerts, "reliability") if row.get("metric", ALL) == ALL]
    stages = ("calibrated", "raw")
    curves, counts = _reliability([(stage, [row for row in whole if row.get("stage") == stage]) for stage in stages])
    if curves:
        title = "Reliability of the probabilities of a breach"
        note = "solid: as served; dashed: before calibration. On the diagonal, probabilities are true."
        yield figure_of("Are the probabilities true?", plots.reliability(curves, counts, title=title), note)
    curves, counts = _reliability([("alerts", rows_of(alerts, "alert_reliability"))])
    if curves:
        title = "Reliability of the model's alerts"
        note = "of the alerts that were opened with a probability of 70 %, about 70 % should come true."
        yield figure_of("Are the alerts true?", plots.reliability(curves, counts, title=title), note)
    by_method: dict[str, list[tuple[float, float | None]]] = {name: [] for name in titles}
    for row in rows_of(alerts, "operating_curve"):
        false = number(row.get("false_per_server_week"))
        if false is not None and row.get("method") in by_method:
            by_method[str(row["method"])].append((false, number(row.get("recall"))))
    if any(by_method.values()):
        places: list[plots.Curve] = []
        for row in rows_of(alerts, "methods"):
            false = number(row.get("false_per_server_week"))
            places.append((text_of(row, "title"), [] if false is None else [(false, number(row.get("recall")))]))
        svg = plots.scatter_curves(
            [(titles[name], points) for name, points in by_method.items()],
            places,
            title="Share of events found against false alarms",
            x="false alarms per server-week",
            y="events found",
        )
        note = "the higher and the further left, the better; the point is where each one runs."
        yield figure_of("What does finding more cost?", svg, note)


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
    metric = text_of(row, "metric")
    return {
        "server": text_of(row, "server"),
        "metric": METRIC_LABELS.get(metric, metric),
        "outcome": text_of(row, "outcome"),
        "kind": text_of(row, "kind").replace("_", " "),
        "probability": percent(number(row.get("probability")), 0),
        **{key: moment_of(row, key) for key in ("opened_at", "breach_at", "closed_at")},
    }


def _self_check() -> None:
    rule = {"method": "linear", "title": "predict_linear", "precision": 0.9, "recall": 0.4}
    model = {"method": MODEL, "title": "TFT", "precision": 0.8, "recall": 0.9, "precision_interval": [0.7, 0.9]}
    section = alert_section({"alerts": {"methods": [model, rule]}})
    assert section is not None and alert_section({"alerts": None}) is None
    (_, own), (_, other) = section["table"].rows
    assert own[1].text == "80.0 % (70 % to 90 %)" and own[1].is_lost and other[1].beats_model and own[2].is_best
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
