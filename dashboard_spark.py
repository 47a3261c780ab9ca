"""Sparklines: a server's last hours and its forecast fan, small enough for a row of a table. Pure; SVG out of numbers.

The source of the form is Tufte, Beautiful Evidence (2006). Only numbers go into the markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import markupsafe

WIDTH: Final = 168  # pixels, like all below
HEIGHT: Final = 40
_EDGE: Final = 2.0

Value = float | None


def spark(
    measured: Sequence[Value], p10: Sequence[Value], p50: Sequence[Value], p90: Sequence[Value], threshold: Value
) -> markupsafe.Markup:
    """SVG of a measured line, the forecast's median and fan, the present and the threshold.

    Parameters
    ----------
    measured, p10, p50, p90 : sequence of float or None
        One value per step, the forecast beginning where the measurements end; gaps stay gaps.
    threshold : float or None
        Drawn where it is not far above everything else, because a flat line at the bottom would tell nothing.
    """
    known = [value for series in (measured, p10, p50, p90) for value in series if value is not None]
    if not known:
        return markupsafe.Markup("")
    top, bottom = max(known), min(0.0, *known)
    shows_limit = threshold is not None and threshold <= 2.0 * max(top, 1e-9)
    if shows_limit and threshold is not None:
        top = max(top, threshold)
    count = len(measured) + len(p50)
    scale_x = (WIDTH - 2 * _EDGE) / max(count - 1, 1)
    scale_y = (HEIGHT - 2 * _EDGE) / ((top - bottom) or 1.0)

    def x(step: int) -> float:
        return round(_EDGE + step * scale_x, 1)

    def y(value: float) -> float:
        return round(HEIGHT - _EDGE - (value - bottom) * scale_y, 1)

    begin = len(measured)
    ahead = range(len(p50))
    parts = [
        f'<svg class="tf-spark" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" aria-hidden="true">'
    ]
    fan = [
        (x(begin + i), y(high), y(low)) for i in ahead if (high := p90[i]) is not None and (low := p10[i]) is not None
    ]
    if fan:
        there = " ".join(f"{at},{high}" for at, high, _ in fan)
        back = " ".join(f"{at},{low}" for at, _, low in reversed(fan))
        parts.append(f'<polygon class="fan" points="{there} {back}"/>')
    if shows_limit and threshold is not None:
        parts.append(f'<line class="limit" x1="0" x2="{WIDTH}" y1="{y(threshold)}" y2="{y(threshold)}"/>')
    parts.append(f'<line class="now" x1="{x(begin)}" x2="{x(begin)}" y1="0" y2="{HEIGHT}"/>')
    for kind, first, values in (("seen", 0, measured), ("median", begin, p50)):
        for points in _unbroken((x(first + i), None if value is None else y(value)) for i, value in enumerate(values)):
            parts.append(f'<polyline class="{kind}" points="{points}"/>')
    parts.append("</svg>")
    return markupsafe.Markup("".join(parts))  # noqa: S704 - numbers alone


def _unbroken(points: Iterable[tuple[float, Value]]) -> list[str]:
    """Points of each stretch without a gap, as SVG wants them; a lone point is drawn as a short line."""
    stretches: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if value is None:
            stretches.append([])
        else:
            stretches[-1].append((at, value))
    written = []
    for stretch in stretches:
        if len(stretch) == 1:
            (at, value) = stretch[0]
            stretch.append((round(at + 0.8, 1), value))
        if stretch:
            written.append(" ".join(f"{at},{value}" for at, value in stretch))
    return written
