"""How measured values and forecasts are charted: one look for all charts. Knows nothing of Streamlit or HTTP."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import pandas as pd
import plotly.graph_objects as go

# (light, dark), the same as in dashboard_assets/style.css
INK: Final = ("#182230", "#e8edf4")
MUTED: Final = ("#566274", "#9aa7b8")
GRID: Final = ("#e4e8ee", "#243041")
CARD: Final = ("#ffffff", "#161e2a")
ACCENT: Final = ("#2457c5", "#7aa5ff")
BAND: Final = ("rgba(36,87,197,0.16)", "rgba(122,165,255,0.22)")
LIMIT: Final = ("#b91c1c", "#ff8a80")


@dataclass(frozen=True)
class FanData:
    """What the chart of one server and metric shows.

    `measured` has the columns time and value, `path` time, p10, p50 and p90; `threshold` may be NaN.
    """

    measured: pd.DataFrame
    path: pd.DataFrame
    now: datetime | None
    threshold: float
    unit: str


def fan_chart(data: FanData, *, dark: bool, height: int = 420) -> go.Figure:
    """Measured line, forecast median with its p10–p90 fan, the present and the critical limit."""
    shade = int(dark)
    path, suffix = data.path, f" {data.unit}"
    figure = go.Figure()
    if not path.empty:
        edge: dict[str, Any] = {"x": path["time"], "mode": "lines", "line": {"width": 0}}
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
        x=data.measured["time"],
        y=data.measured["value"],
        mode="lines",
        name="Measured",
        line={"color": INK[shade], "width": 1.8},
        connectgaps=False,  # a gap is a gap
        hovertemplate=f"%{{y:.1f}}{suffix}",
    )
    _apply_look(figure, shade, height, data.unit)
    if data.now is not None:
        _mark_now(figure, pd.Timestamp(data.now), shade)
    if not math.isnan(data.threshold):
        figure.add_hline(y=data.threshold, line={"color": LIMIT[shade], "width": 1.5, "dash": "dash"})
        figure.add_annotation(
            text=f"critical limit {data.threshold:g}{suffix}",
            x=0,
            xref="paper",
            y=data.threshold,
            showarrow=False,
            xanchor="left",
            yanchor="bottom",
            font={"color": LIMIT[shade]},
        )
    return figure


def _mark_now(figure: go.Figure, now: pd.Timestamp, shade: int) -> None:
    line = {"color": MUTED[shade], "width": 1.5, "dash": "dot"}
    figure.add_shape(type="line", x0=now, x1=now, y0=0, y1=1, yref="paper", line=line)
    figure.add_annotation(
        text="now",
        x=now,
        y=1,
        yref="paper",
        showarrow=False,
        xanchor="left",
        yanchor="top",
        xshift=5,
        font={"color": INK[shade]},
    )


def _apply_look(figure: go.Figure, shade: int, height: int, unit: str) -> None:
    """Quiet grid, unit on the axis, one tooltip for all lines, UTC times."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 12, "t": 38, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": MUTED[shade], "size": 13},
        hovermode="x unified",
        hoverlabel={"bgcolor": CARD[shade], "font": {"color": INK[shade]}},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "font": {"color": INK[shade]}},
        uirevision="keep",  # a zoom outlives the refresh
    )
    figure.update_xaxes(
        showgrid=False, zeroline=False, automargin=True, tickformat="%H:%MZ\n%d %b %Y", hoverformat="%Y-%m-%d %H:%MZ"
    )
    figure.update_yaxes(
        gridcolor=GRID[shade], zeroline=False, automargin=True, ticksuffix=f" {unit}", rangemode="tozero"
    )
