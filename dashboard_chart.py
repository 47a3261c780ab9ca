"""How measured values and forecasts are charted: one look for all charts. Knows nothing of Streamlit or HTTP."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone, tzinfo
from typing import Any, Final

import pandas as pd
import plotly.graph_objects as go

from dashboard_history import in_zone

# (light, dark), the same as in dashboard_assets/style.css
INK: Final = ("#182230", "#e8edf4")
MUTED: Final = ("#566274", "#9aa7b8")
GRID: Final = ("#e4e8ee", "#243041")
CARD: Final = ("#ffffff", "#161e2a")
ACCENT: Final = ("#2457c5", "#7aa5ff")
BAND: Final = ("rgba(36,87,197,0.16)", "rgba(122,165,255,0.22)")
LIMIT: Final = ("#b91c1c", "#ff8a80")
_NEAR: Final = 2.5  # times the highest value: a limit up to there is drawn to scale
PAST: Final = ("#7a5a00", "#f4c152")
PAST_BAND: Final = ("rgba(190,140,20,0.16)", "rgba(244,193,82,0.16)")
# Further servers: colours that colour-blind people tell apart (Okabe and Ito, 2008), and a dash of its own for each
OTHERS: Final = (
    (("#0072b2", "#56b4e9"), "dash"),
    (("#d55e00", "#e69f00"), "dashdot"),
    (("#007a5a", "#2fd3a5"), "longdash"),
    (("#a0457a", "#e08fc0"), "dot"),
)


@dataclass(frozen=True)
class FanData:
    """What the chart of one server and metric shows.

    `measured` has the columns time and value, `path` time, p10, p50 and p90; `threshold` may be NaN. `past` is what had
    been forecast, with the columns of `path`, and `past_words` when. `others` are further servers: measured and path.
    """

    measured: pd.DataFrame
    path: pd.DataFrame
    now: datetime | None
    threshold: float
    unit: str
    zone: tzinfo = timezone.utc
    past: pd.DataFrame | None = None
    past_words: str = ""
    name: str = "Measured"
    others: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]] = field(default_factory=dict)


def fan_chart(data: FanData, *, dark: bool, height: int = 420, small: bool = False) -> go.Figure:
    """Measured line, forecast median with its p10–p90 fan, the present and the critical limit.

    Parameters
    ----------
    height : int
        In pixels.
    small : bool
        One of several charts beside each other: no legend.
    """
    shade = int(dark)
    suffix = f" {data.unit}"
    path, measured = in_zone(data.path, data.zone), in_zone(data.measured, data.zone)
    figure = go.Figure()
    edge: dict[str, Any]
    if data.past is not None and not data.past.empty:
        past = in_zone(data.past, data.zone)
        edge = {"x": past["time"], "mode": "lines", "line": {"width": 0}, "connectgaps": False}
        figure.add_scatter(**edge, y=past["p90"], name="p90 then", showlegend=False, hoverinfo="skip")
        figure.add_scatter(
            **edge,
            y=past["p10"],
            name="p10 then",
            showlegend=False,
            fill="tonexty",
            fillcolor=PAST_BAND[shade],
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=past["time"],
            y=past["p50"],
            mode="lines",
            name=f"Forecast {data.past_words} before",
            line={"color": PAST[shade], "width": 1.5, "dash": "dot"},
            connectgaps=False,
            hovertemplate=f"%{{y:.1f}}{suffix}",
        )
    if not path.empty:
        edge = {"x": path["time"], "mode": "lines", "line": {"width": 0}}
        figure.add_scatter(**edge, y=path["p90"], name="p90", showlegend=False, hovertemplate=f"%{{y:.1f}}{suffix}")
        figure.add_scatter(
            **edge,
            y=path["p10"],
            name="p10",
            showlegend=False,
            fill="tonexty",
            fillcolor=BAND[shade],
            hovertemplate=f"%{{y:.1f}}{suffix}",
        )
        figure.add_scatter(
            x=path["time"],
            y=path["p50"],
            mode="lines",
            name="Forecast (median, p10 to p90)",
            line={"color": ACCENT[shade], "width": 2.5},
            hovertemplate=f"%{{y:.1f}}{suffix}",
        )
    figure.add_scatter(
        x=measured["time"],
        y=measured["value"],
        mode="lines",
        name=html.escape(data.name),  # Plotly reads some markup in names
        line={"color": INK[shade], "width": 1.8},
        connectgaps=False,  # a gap is a gap
        hovertemplate=f"%{{y:.1f}}{suffix}",
    )
    for (name, frames), (colour, dash) in zip(data.others.items(), OTHERS, strict=False):
        seen, ahead = (in_zone(frame, data.zone) for frame in frames)
        line = {"color": colour[shade], "width": 1.6, "dash": dash}
        look = {"mode": "lines", "line": line, "connectgaps": False, "hovertemplate": f"%{{y:.1f}}{suffix}"}
        figure.add_scatter(x=seen["time"], y=seen["value"], name=html.escape(name), legendgroup=name, **look)
        if not ahead.empty:
            words = html.escape(f"{name}, forecast")
            figure.add_scatter(
                x=ahead["time"], y=ahead["p50"], name=words, legendgroup=name, showlegend=False, opacity=0.75, **look
            )
    _apply_look(figure, shade, height, data, small=small)
    if data.now is not None:
        _mark_now(figure, pd.Timestamp(data.now).tz_convert(data.zone).tz_localize(None), shade, small=small)
    _mark_limit(figure, data, shade)
    return figure


def _mark_limit(figure: go.Figure, data: FanData, shade: int) -> None:
    """The critical limit as a line; where it is far above everything, in words, for a line would flatten the rest."""
    if math.isnan(data.threshold):
        return
    frames = [(data.measured, "value"), (data.path, "p90"), *((seen, "value") for seen, _ in data.others.values())]
    highest = max((float(frame[column].max()) for frame, column in frames if frame[column].notna().any()), default=0.0)
    text, near = f"critical limit {data.threshold:g} {data.unit}", data.threshold <= _NEAR * highest
    if near:
        figure.add_hline(y=data.threshold, line={"color": LIMIT[shade], "width": 1.5, "dash": "dash"})
    figure.add_annotation(
        text=text if near else f"{text}, above this chart",
        x=0,
        xref="paper",
        y=data.threshold if near else 1,
        yref="y" if near else "paper",
        showarrow=False,
        xanchor="left",
        yanchor="top",
        bgcolor=CARD[shade],
        opacity=0.85,
        font={"color": LIMIT[shade], "size": 12},
    )


def _mark_now(figure: go.Figure, now: pd.Timestamp, shade: int, *, small: bool) -> None:
    """A line and its word; a small chart has no legend, so there the word stands above, where no curve crosses it."""
    line = {"color": MUTED[shade], "width": 1.5, "dash": "dot"}
    figure.add_shape(type="line", x0=now, x1=now, y0=0, y1=1, yref="paper", line=line)
    figure.add_annotation(
        text="now",
        x=now,
        y=1,
        yref="paper",
        showarrow=False,
        xanchor="center" if small else "left",
        yanchor="bottom" if small else "top",
        xshift=0 if small else 5,
        font={"color": INK[shade]},
    )


def _apply_look(figure: go.Figure, shade: int, height: int, data: FanData, *, small: bool) -> None:
    """Quiet grid, unit on the axis, one tooltip for all lines, times of the zone."""
    mark = "Z" if data.zone is timezone.utc else ""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 12, "t": 22 if small else 38, "b": 8},
        showlegend=not small,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": MUTED[shade], "size": 13},
        hovermode="x unified",
        hoverlabel={"bgcolor": CARD[shade], "font": {"color": INK[shade]}},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "font": {"color": INK[shade]}},
        uirevision="keep",  # a zoom outlives the refresh
    )
    figure.update_xaxes(
        showgrid=False,
        zeroline=False,
        automargin=True,
        tickformat=f"%H:%M{mark}\n%d %b %Y",
        hoverformat=f"%Y-%m-%d %H:%M{mark}",
    )
    figure.update_yaxes(
        gridcolor=GRID[shade], zeroline=False, automargin=True, ticksuffix=f" {data.unit}", rangemode="tozero"
    )
