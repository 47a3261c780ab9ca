"""What recorded and generated fleets look like beside each other: one page with charts, to be opened in a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from realism_features import METRICS
from realism_fleets import Fleet
from realism_measures import DAY, autocorrelation, by_day, quiet_nan

Floats = npt.NDArray[np.floating[Any]]

PAGE: Final = "realism.html"
COLOURS: Final = {"real": "#1f77b4", "generated": "#d62728"}

_LABELS: Final = {"cpu_pct": "CPU, %", "mem_pct": "memory, %", "disk_io_mb_s": "disk I/O, MB/s"}
_LAGS: Final = (1, 2, 3, 6, 12, 24, 36, 72, 144, 216, 288, 432, 576, 864, 1440, 2016)
_SERVERS: Final = 250  # of each side, for the autocorrelation
_WEEK: Final = 7 * DAY


def write_page(folder: Path, real: Sequence[Fleet], made: Fleet, seed: int) -> Path:
    """Write `realism.html` to a folder that is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 4])
    sides = {"real": list(real), "generated": [made]}
    figures = [_marginals(sides), _autocorrelations(sides, rng), _days(sides), *_weeks(list(real), made, seed)]
    parts = [figure.to_html(full_html=False, include_plotlyjs=number == 0) for number, figure in enumerate(figures)]
    page = folder / PAGE
    heading = "<h1>Recorded (blue) and generated (red) fleets</h1>"
    page.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Realism</title></head>'
        f'<body style="font-family: sans-serif">{heading}{"".join(parts)}</body></html>',
        encoding="utf-8",
    )
    return page


def _panels(title: str) -> go.Figure:
    figure = make_subplots(rows=1, cols=len(METRICS), subplot_titles=[_LABELS[metric] for metric in METRICS])
    return figure.update_layout(title=title, height=380, template="plotly_white")


def _line(x: Any, y: Any, side: str, *, legend: bool = False, **style: Any) -> go.Scatter:
    return go.Scatter(
        x=x, y=y, mode="lines", name=side, legendgroup=side, showlegend=legend,
        line={"color": COLOURS[side], "width": 1.5, **style},
    )  # fmt: skip


def _marginals(sides: dict[str, list[Fleet]]) -> go.Figure:
    figure = _panels("Share of all values up to …")
    shares = np.concatenate([np.linspace(0, 0.98, 99), np.linspace(0.981, 1, 40)])
    for column, metric in enumerate(METRICS, 1):
        for side, fleets in sides.items():
            values = np.concatenate([fleet.metric(column - 1)[:, ::3].ravel() for fleet in fleets])
            quantiles = np.nanquantile(values, shares)
            figure.add_trace(_line(np.maximum(quantiles, 1e-4), shares, side, legend=column == 1), row=1, col=column)
        figure.update_xaxes(type="log", title=_LABELS[metric], row=1, col=column)
    return figure


def _autocorrelations(sides: dict[str, list[Fleet]], rng: np.random.Generator) -> go.Figure:
    figure = _panels("Autocorrelation: median server, dotted the quarters")
    hours = np.array(_LAGS) / 12
    for side, fleets in sides.items():
        some = [fleet.some(_SERVERS // len(fleets), rng) for fleet in fleets]
        for column in range(1, len(METRICS) + 1):
            of_servers = np.stack(
                [
                    np.concatenate([autocorrelation(fleet.metric(column - 1), lag) for fleet in some])
                    if min(fleet.days for fleet in some) * DAY > 2 * lag
                    else np.full(sum(len(fleet.names) for fleet in some), np.nan)
                    for lag in _LAGS
                ]
            )
            low, middle, high = quiet_nan(np.nanquantile, of_servers, [0.25, 0.5, 0.75], axis=1)
            figure.add_trace(_line(hours, middle, side, legend=column == 1), row=1, col=column)
            for edge in (low, high):
                figure.add_trace(_line(hours, edge, side, dash="dot"), row=1, col=column)
    return figure.update_xaxes(type="log", title="hours apart")


def _days(sides: dict[str, list[Fleet]]) -> go.Figure:
    figure = _panels("Mean of the fleet by time of day, as a share of its mean")
    hours = np.arange(DAY) / 12
    for side, fleets in sides.items():
        for column in range(1, len(METRICS) + 1):
            days = [by_day(fleet.metric(column - 1)).astype(np.float64) for fleet in fleets]
            profile = np.mean([quiet_nan(np.nanmean, each, axis=(0, 1)) for each in days], axis=0)
            figure.add_trace(_line(hours, profile / profile.mean(), side, legend=column == 1), row=1, col=column)
    return figure.update_xaxes(title="hour of the day")


def _weeks(real: list[Fleet], made: Fleet, seed: int) -> list[go.Figure]:
    """A week of one generated server per profile, and of as many real ones, from calm to busy; one chart per metric."""
    rng = np.random.default_rng([seed, 5])
    profiles = sorted(set(made.profiles.tolist()))
    month = real[-1]
    busy = quiet_nan(np.nanquantile, month.metric(0), 0.95, axis=1)
    ranked = np.argsort(busy)[: np.isfinite(busy).sum()]
    recorded = [int(rng.choice(part)) for part in np.array_split(ranked, len(profiles)) if len(part)]
    generated = [int(rng.choice(np.flatnonzero(made.profiles == profile))) for profile in profiles]
    titles = ["" for _ in range(2 * len(profiles))]
    titles[0 : 2 * len(recorded) : 2] = [str(month.names[server]) for server in recorded]
    titles[1::2] = profiles
    figures = []
    for place, metric in enumerate(METRICS):
        figure = make_subplots(rows=len(profiles), cols=2, subplot_titles=titles, vertical_spacing=0.04)
        for column, (side, fleet, servers) in enumerate((("real", month, recorded), ("generated", made, generated)), 1):
            monday = (-fleet.first_weekday % 7) * DAY
            for row, server in enumerate(servers, 1):
                week = fleet.metric(place)[server, monday : monday + _WEEK]
                figure.add_trace(_line(np.arange(len(week)) / DAY, week, side, width=1), row=row, col=column)
        figures.append(
            figure.update_layout(
                title=f"A week from Monday: {_LABELS[metric]}", height=170 * len(profiles), template="plotly_white"
            )
        )
    return figures
