"""How the curves of a backtest are drawn: inline SVG, for light and dark, without scripts.

Each function makes a Vega-Lite specification of numbers alone (no name of a server or a file ever gets into it) and
`vl-convert` draws it, without a browser or a network. Colours are CSS variables of the page; lines differ in their
dashes, too. Knows nothing of the page around them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backtest_words import COVERAGE_TOLERANCE, WANTED_COVERAGE, number
from data_contract import HORIZON_STEPS, STEP_MINUTES

Spec = dict[str, Any]
Row = Mapping[str, Any]

_WIDTH, _HEIGHT = 230, 160
_HOURS = STEP_MINUTES / 60
_STEPS_PER_POINT = 30 // STEP_MINUTES


@dataclass(frozen=True)
class Style:
    """How a line looks: its colour is a CSS variable, its dashes tell it from others without colour."""

    colour: str
    dash: tuple[int, ...]
    width: float


STYLES: Final = (
    Style("var(--line-1)", (1, 0), 2.6),
    Style("var(--line-2)", (7, 3), 1.7),
    Style("var(--line-3)", (2, 2), 1.7),
    Style("var(--line-4)", (9, 3, 2, 3), 1.7),
    Style("var(--line-5)", (4, 2), 1.7),
)
MOST_LINES: Final = len(STYLES)

_CONFIG: Final[Spec] = {
    "background": "transparent",
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "gridColor": "var(--grid)",
        "domainColor": "var(--axis)",
        "tickColor": "var(--axis)",
        "tickCount": 5,
        "labelOverlap": True,
    },
}

# A curve: the name of its line, and its points (x, y); None where there is no value.
Curve = tuple[str, Sequence[tuple[float, float | None]]]


def lines(
    curves: Sequence[Curve],
    *,
    title: str,
    x: str,
    y: str,
    percent: bool = False,
    from_zero: bool = False,
    rule: float | None = None,
) -> str:
    """Several curves over the horizon; the first one, the model's, is the widest and on top.

    Parameters
    ----------
    curves : sequence of (name, points)
        At most `MOST_LINES`.
    title, x, y : str
        Of the picture, for those who do not see it, and of the axes.
    percent : bool
        Whether y is a share.
    rule : float, optional
        Where a line of what is wanted goes across, with a band of the tolerance of coverage.
    """
    styled = list(zip(curves, STYLES, strict=False))[::-1]
    layers: list[Spec] = []
    if rule is not None:
        layers += [
            {
                "data": {"values": [{"low": rule - COVERAGE_TOLERANCE, "high": rule + COVERAGE_TOLERANCE}]},
                "mark": {"type": "rect", "color": "var(--wanted)", "opacity": 0.18},
                "encoding": {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}},
            },
            _across(rule),
        ]
    for (_, points), style in styled:
        layer = _line(_values(points), style, from_zero=from_zero)
        layer["encoding"]["x"]["scale"] = {"domain": [0, HORIZON_STEPS * _HOURS]}
        layers.append(layer)
    return _draw(layers, title, x, y, y_format=".0%" if percent else None, described=_spoken(curves, percent=percent))


def calibration(curves: Sequence[Curve], *, title: str) -> str:
    """Share of what came true below each quantile; the diagonal is what is wanted."""
    layers = [_diagonal()]
    for (_, points), style in list(zip(curves, STYLES, strict=False))[::-1]:
        layers.append(_line(_values(points), style, limits=(0, 1)))
    return _draw_shares(layers, curves, title, "quantile", "share below it")


def reliability(curves: Sequence[Curve], counts: Sequence[Sequence[int]], *, title: str) -> str:
    """How often what was given a probability came true; larger points stand for more cases."""
    layers = [_diagonal()]
    for ((_, points), style), of_curve in list(zip(zip(curves, STYLES, strict=False), counts, strict=False))[::-1]:
        values = [{**value, "n": count} for value, count in zip(_values(points), of_curve, strict=True)]
        there = [value for value in values if value["y"] is not None]
        layers.append(_line(there, style, limits=(0, 1)))
        layers.append(
            {
                "data": {"values": there},
                "mark": {"type": "point", "filled": True, "color": style.colour, "opacity": 1},
                "encoding": {
                    **_places((0, 1)),
                    "size": {
                        "field": "n",
                        "type": "quantitative",
                        "legend": None,
                        "scale": {"type": "sqrt", "range": [14, 170]},
                    },
                },
            }
        )
    return _draw_shares(layers, curves, title, "probability given", "share that came true")


def _draw_shares(layers: list[dict[str, Any]], curves: Sequence[Curve], title: str, x: str, y: str) -> str:
    """Draw layers whose axes both hold shares."""
    return _draw(layers, title, x, y, x_format=".0%", y_format=".0%", described=_spoken(curves, percent=True))


def scatter_curves(curves: Sequence[Curve], points: Sequence[Curve], *, title: str, x: str, y: str) -> str:
    """Operating curves, and on each the point at which the method runs."""
    layers = []
    for (_, of_curve), style in list(zip(curves, STYLES, strict=False))[::-1]:
        layers.append(_line(sorted(_values(of_curve), key=lambda value: value["x"]), style))
    for (_, at), style in list(zip(points, STYLES, strict=False))[::-1]:
        mark = {"type": "point", "filled": True, "color": style.colour, "size": 80, "opacity": 1}
        layers.append({"data": {"values": _values(at)}, "mark": mark, "encoding": _places()})
    return _draw(layers, title, x, y, y_format=".0%", described=_spoken(points, percent=True))


def fan(
    past: Sequence[object],
    actual: Sequence[object],
    quantiles: Mapping[str, Sequence[object]],
    *,
    title: str,
    unit: str,
) -> str:
    """One forecast: what was measured before, p10 to p90, the median, and what came true."""
    low, middle, high = (quantiles.get(level) or [] for level in ("0.1", "0.5", "0.9"))
    band = [
        {"x": (step + 1) * _HOURS, "low": number(bottom), "high": number(top)}
        for step, (bottom, top) in enumerate(zip(low, high, strict=False))
    ]
    before = [{"x": (step - len(past) + 1) * _HOURS, "y": number(value)} for step, value in enumerate(past)]
    after = [{"x": (step + 1) * _HOURS, "y": number(value)} for step, value in enumerate(actual)]
    median = [{"x": (step + 1) * _HOURS, "y": number(value)} for step, value in enumerate(middle)]
    measured = Style("var(--ink)", (1, 0), 1.2)
    layers: list[Spec] = [
        {
            "data": {"values": [each for each in band if each["low"] is not None and each["high"] is not None]},
            "mark": {"type": "area", "color": "var(--line-1)", "opacity": 0.25},
            "encoding": {**_places(y="low"), "y2": {"field": "high"}},
        },
        {
            "data": {"values": [{"x": 0}]},
            "mark": {"type": "rule", "color": "var(--axis)", "strokeDash": [3, 3]},
            "encoding": {"x": {"field": "x", "type": "quantitative"}},
        },
        _line(before, measured),
        _line(after, measured),
        _line(median, STYLES[0]),
    ]
    wrong = [
        abs(one["y"] - other["y"])
        for one, other in zip(median, after, strict=False)
        if one["y"] is not None and other["y"] is not None
    ]
    told = f"Mean distance of the median from what came true: {sum(wrong) / len(wrong):.3g} {unit}." if wrong else ""
    return _draw(layers, title, "hours from the forecast", unit, described=told)


def hours(shares: Sequence[tuple[int, float]], *, title: str) -> str:
    """Share of attention by hour before now, the newest on the right."""
    values = [{"x": -hour, "y": share} for hour, share in shares]
    width = max(2.0, min(26.0, 0.8 * _WIDTH / max(1, *(hour for hour, _ in shares))))
    layer: Spec = {
        "data": {"values": values},
        "mark": {"type": "bar", "color": "var(--line-1)", "width": width},
        "encoding": _places(from_zero=True),
    }
    layer["encoding"]["x"]["scale"]["padding"] = width / 2 + 1
    layer["encoding"]["x"]["axis"] = {"labelExpr": "abs(datum.value)"}
    curve: Curve = ("attention", [(value["x"], value["y"]) for value in values])
    return _draw(
        [layer],
        title,
        "hours before the forecast",
        "share of attention",
        y_format=".0%",
        described=_spoken([curve], percent=True),
        height=120,
    )


def by_hour(rows: Iterable[Row], measure: str) -> list[tuple[float, float | None]]:
    """Points of a curve over the horizon, in hours: means over half hours of rows that have a `step`.

    Single steps jump by chance where there are few labels, and hide each other where there are many lines.
    """
    halves: dict[int, list[float]] = {}
    for row in rows:
        step, value = number(row.get("step")), number(row.get(measure))
        if step is not None and value is not None:
            halves.setdefault(int(step - 1) // _STEPS_PER_POINT, []).append(value)
    return [((half + 0.5) * _STEPS_PER_POINT * _HOURS, sum(of) / len(of)) for half, of in sorted(halves.items())]


# ------------------------------------------------------------------------------------------------------------- drawing
def _values(points: Sequence[tuple[float, float | None]]) -> list[dict[str, Any]]:
    return [{"x": round(x, 4), "y": None if y is None else float(f"{y:.5g}")} for x, y in points]


def _places(limits: tuple[float, float] | None = None, y: str = "y", *, from_zero: bool = False) -> Spec:
    scale: Spec = {"domain": list(limits)} if limits else {"zero": from_zero}
    return {
        "x": {"field": "x", "type": "quantitative", "scale": {"domain": list(limits)} if limits else {"nice": False}},
        "y": {"field": y, "type": "quantitative", "scale": scale},
    }


def _line(
    values: list[dict[str, Any]],
    style: Style,
    *,
    limits: tuple[float, float] | None = None,
    from_zero: bool = False,
) -> Spec:
    mark: Spec = {"type": "line", "color": style.colour, "strokeWidth": style.width, "clip": False}
    if style.dash[1]:
        mark["strokeDash"] = list(style.dash)
    return {"data": {"values": values}, "mark": mark, "encoding": _places(limits, from_zero=from_zero)}


def _across(height: float) -> Spec:
    return {
        "data": {"values": [{"y": height}]},
        "mark": {"type": "rule", "color": "var(--wanted)", "strokeDash": [5, 3]},
        "encoding": {"y": {"field": "y", "type": "quantitative"}},
    }


def _diagonal() -> Spec:
    mark = {"type": "line", "color": "var(--wanted)", "strokeDash": [5, 3], "strokeWidth": 1.2}
    values = [{"x": 0, "y": 0}, {"x": 1, "y": 1}]
    return {"data": {"values": values}, "mark": mark, "encoding": _places((0, 1))}


def _draw(
    layers: list[Spec],
    title: str,
    x: str,
    y: str,
    *,
    x_format: str | None = None,
    y_format: str | None = None,
    described: str = "",
    height: int = _HEIGHT,
) -> str:
    """SVG of some layers that share their axes, with a title and a description for those who do not see it."""
    import vl_convert  # starts an engine of its own: only who draws pays for it

    axes: dict[str, Spec] = {
        "x": {"axis": {"title": x, "grid": False, **({"format": x_format} if x_format else {})}},
        "y": {"axis": {"title": y, **({"format": y_format} if y_format else {})}},
    }
    layers = [{**layer, "encoding": _with_axes(layer["encoding"], axes)} for layer in layers]
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": _WIDTH,
        "height": height,
        "layer": layers,
        "config": _CONFIG,
    }
    svg: str = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    head, body = svg.split(">", 1)
    size = re.search(r'viewBox="[^"]*"', head)
    spoken = f"<title>{html.escape(title)}</title>" + (f"<desc>{html.escape(described)}</desc>" if described else "")
    return f'<svg role="img" {size[0] if size else ""} preserveAspectRatio="xMinYMin">{spoken}{body}'


def _with_axes(encoding: Spec, axes: Mapping[str, Spec]) -> Spec:
    return {
        channel: {**what, "axis": {**axes[channel]["axis"], **what.get("axis", {})}} if channel in axes else what
        for channel, what in encoding.items()
    }


def _spoken(curves: Iterable[Curve], *, percent: bool) -> str:
    """Ends of each curve in words."""
    told = []
    for name, points in curves:
        there = [y for _, y in points if y is not None]
        if there:
            first, last = (f"{100 * y:.0f} %" if percent else f"{y:.3g}" for y in (there[0], there[-1]))
            told.append(f"{name}: {first}" + (f" to {last}" if len(there) > 1 else ""))
    return "; ".join(told) + ("." if told else "")


def _self_check() -> None:
    svg = lines(
        [("TFT", [(0.5, 0.79), (8.0, 0.81)]), ("<b>", [(0.5, None), (8.0, 0.4)])],
        title="Coverage & more",
        x="hours",
        y="p10–p90",
        percent=True,
        rule=WANTED_COVERAGE,
    )
    assert svg.startswith("<svg") and "Coverage &amp; more" in svg and "<b>" not in svg and "var(--line-2)" in svg
    assert "TFT: 79 % to 81 %" in svg and "xlink" not in svg.split(">", 1)[0]
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
