"""Sparklines: a server's last hours and its forecast fan, small enough for a row of a table. Pure.

The form is Tufte's (Beautiful Evidence, 2006). It is an SVG inside a data URL, because the page that it is put into
lets no SVG elements through.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Final

from dashboard_chart import ACCENT, BAND, INK, LIMIT, MUTED

WIDTH: Final = 168  # pixels, like all below
HEIGHT: Final = 40
_EDGE: Final = 2.0
_EVERY: Final = 2  # steps of the forecast from point to point: finer than a pixel would only be longer
_NEAR: Final = 2.0  # times the highest value: a threshold up to there is drawn

Value = float | None


def spark(
    measured: Sequence[Value],
    p10: Sequence[Value],
    p50: Sequence[Value],
    p90: Sequence[Value],
    threshold: Value,
    *,
    dark: bool,
) -> str:
    """Picture of a measured line, the forecast's median and fan, the present and the threshold, as a data URL.

    Parameters
    ----------
    measured, p10, p50, p90 : sequence of float or None
        One value per step, the forecast beginning where the measurements end; gaps stay gaps.
    threshold : float or None
        Drawn where it is not far above everything else, because a flat line at the bottom would tell nothing.

    Returns
    -------
    str
        Empty where there is nothing to draw.
    """
    known = [value for series in (measured, p10, p50, p90) for value in series if value is not None]
    if not known:
        return ""
    shade = int(dark)
    top, bottom = max(known), min(0.0, *known)
    limit = threshold if threshold is not None and threshold <= _NEAR * max(top, 1e-9) else None
    if limit is not None:
        top = max(top, limit)
    begin = len(measured)
    scale_x = (WIDTH - 2 * _EDGE) / max(begin + len(p50) - 1, 1)
    scale_y = (HEIGHT - 2 * _EDGE) / ((top - bottom) or 1.0)

    def x(step: int) -> float:
        return round(_EDGE + step * scale_x, 1)

    def y(value: float) -> float:
        return round(HEIGHT - _EDGE - (value - bottom) * scale_y, 1)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" fill="none">']
    ahead = [*range(0, len(p50), _EVERY)]
    ends = ((i, p10[i], p90[i]) for i in ahead)
    fan = [(x(begin + i), y(high), y(low)) for i, low, high in ends if low is not None and high is not None]
    if fan:
        there = " ".join(f"{at},{high}" for at, high, _ in fan)
        back = " ".join(f"{at},{low}" for at, _, low in reversed(fan))
        parts.append(f'<polygon fill="{BAND[shade]}" points="{there} {back}"/>')
    if limit is not None:
        parts.append(
            f'<path stroke="{LIMIT[shade]}" stroke-dasharray="3 3" d="M0 {y(limit)}H{WIDTH}"/>',
        )
    parts.append(f'<path stroke="{MUTED[shade]}" stroke-dasharray="1 2" d="M{x(begin)} 0V{HEIGHT}"/>')
    lines = (
        (INK[shade], ((x(i), value) for i, value in enumerate(measured))),
        (ACCENT[shade], ((x(begin + i), p50[i]) for i in ahead)),
    )
    for colour, values in lines:
        for points in _unbroken((at, None if value is None else y(value)) for at, value in values):
            parts.append(f'<polyline stroke="{colour}" stroke-width="1.5" points="{points}"/>')
    parts.append("</svg>")
    return "data:image/svg+xml;base64," + base64.b64encode("".join(parts).encode()).decode()


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
