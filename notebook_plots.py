"""How the notebook's figures look: data, training, backtest, forecasts and their reasons, in plotly, with units.

Each function takes what a module gave (a frame, a forecast, a backtest) and gives a figure. Knows nothing of HTTP, and
of models only what their folder says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from backtest_plots import by_hour
from backtest_words import ALL, MODEL, WANTED_COVERAGE
from common_utils import iso_z, read_json
from config import Settings
from dashboard_chart import ACCENT, BAND, GRID, INK, LIMIT, MUTED
from data_contract import METRICS, PROFILE, SERVER_NAME, TIMESTAMP, TRAINING_INFO, Metric
from forecast import Forecast
from forecast_explanation import Explanation
from tft_risk import ServerRisk

MEASURED_HOURS: Final = 24.0  # of the past beside a forecast
_HEIGHT: Final = 360
_TALL: Final = 560
_MOST_BARS: Final = 12
_NEAR_LIMIT: Final = 2.0
_RISK_COLOURS: Final = ("#2e8b57", "#d99a00", LIMIT[0])  # below, between and above the limits of the settings
_OTHERS: Final = ("#c2571a", "#5b8c2a", "#7b4fa3", "#0f7f8c", "#a3335d", "#8a6d1a", "#3f6fa8", "#6b6b6b")


# ---------------------------------------------------------------------------------------------------------------- data
def fleet_heatmap(history: pd.DataFrame, metric: Metric = METRICS[0]) -> go.Figure:
    """Hourly means of one metric, a row per server, sorted by profile: the rhythm of a fleet at a glance.

    Parameters
    ----------
    history : DataFrame
        Contract rows.
    metric : Metric
        One of `METRICS`; the colours are in its unit. Hours without a value stay empty.
    """
    hours = history[TIMESTAMP].dt.floor("h")
    means = history.pivot_table(index=[PROFILE, SERVER_NAME], columns=hours, values=metric.column, observed=True)
    figure = go.Figure(
        go.Heatmap(
            z=means.to_numpy(),
            x=means.columns,
            y=[f"{name} · {profile}" for profile, name in means.index],
            colorscale="Blues",
            zmin=0,
            zmax=100 if metric.is_percent else None,
            colorbar={"title": metric.unit},
            hovertemplate=f"%{{y}}<br>%{{x}}: %{{z:.1f}} {metric.unit}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", tickfont={"size": 9})
    return _look(figure, f"{metric.label}, hourly mean, {metric.unit}", max(_HEIGHT, 14 * len(means) + 110))


def measured_chart(history: pd.DataFrame, server: str, hours: float = 48.0) -> go.Figure:
    """All four metrics of one server over its newest hours, each in its unit; a gap stays a gap."""
    rows = _newest(history, server, hours)
    figure = _panels()
    for place, metric in enumerate(METRICS):
        figure.add_scatter(
            x=rows[TIMESTAMP],
            y=rows[metric.column],
            line={"color": INK[0], "width": 1.4},
            name=metric.label,
            showlegend=False,
            hovertemplate=f"%{{y:.1f}} {metric.unit}",
            **_at(place),
        )
    return _look(figure, f"{server}: the last {hours:g} hours, measured every 5 minutes", _TALL)


# ------------------------------------------------------------------------------------------------------------ training
def loss_chart(model_dir: str | os.PathLike[str]) -> go.Figure:
    """Training and validation loss of a model folder, per epoch; the epoch whose weights are served is marked."""
    info = read_json(Path(model_dir) / TRAINING_INFO)
    losses = pd.DataFrame(info["losses"])
    figure = go.Figure()
    for column, name, colour in (
        ("train_loss", "training", MUTED[0]),
        ("val_loss", "validation", ACCENT[0]),
    ):
        figure.add_scatter(x=losses["epoch"], y=losses[column], name=name, line={"color": colour, "width": 2.2})
    best = losses[losses["epoch"] == info["best_epoch"]]
    figure.add_scatter(
        x=best["epoch"],
        y=best["val_loss"],
        mode="markers",
        name="served",
        marker={"size": 14, "color": ACCENT[0], "symbol": "circle-open", "line": {"width": 3}},
    )
    figure.update_xaxes(title="epoch", dtick=1)
    figure.update_yaxes(title="quantile loss, scaled (lower is better)", rangemode="tozero")
    return _look(figure, "How the training went", _HEIGHT)


# ------------------------------------------------------------------------------------------------------------ backtest
def error_chart(result: Mapping[str, Any]) -> go.Figure:
    """Error over the horizon, of the model and of each simple method: CRPS, mean of the metrics, by half hours.

    Parameters
    ----------
    result : dict
        `BacktestResult.as_dict()`.
    """
    figure = go.Figure()
    for method, colour in _methods(result):
        points = by_hour(_of(result, "by_step", method["name"]), "crps")
        is_model = method["name"] == MODEL
        figure.add_scatter(
            x=[hour for hour, _ in points],
            y=[value for _, value in points],
            name=method["title"],
            line={"color": colour, "width": 3.2 if is_model else 1.6, "dash": "solid" if is_model else "dot"},
            hovertemplate="%{y:.3f}",
        )
    figure.update_xaxes(title="hours ahead")
    figure.update_yaxes(title="CRPS, scaled (lower is better)", rangemode="tozero")
    return _look(figure, "Error over the horizon, on days that the model has not seen", _HEIGHT)


def calibration_chart(result: Mapping[str, Any]) -> go.Figure:
    """How often what came true lay below each quantile of the model; on the diagonal, a quantile means what it says."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 100],
        y=[0, 100],
        mode="lines",
        line={"color": MUTED[0], "dash": "dot"},
        name="what is wanted",
        hoverinfo="skip",
    )
    rows = pd.DataFrame(_of(result, "calibration", MODEL, every_metric=True))
    for metric, colour in zip(METRICS, (ACCENT[0], *_OTHERS), strict=False):
        of_metric = rows[rows["metric"] == metric.column] if len(rows) else rows
        if of_metric.empty or of_metric["share_below"].isna().all():
            continue
        figure.add_scatter(
            x=100 * of_metric["quantile"],
            y=100 * of_metric["share_below"],
            name=metric.label,
            mode="lines+markers",
            line={"color": colour, "width": 1.8},
            hovertemplate="%{y:.0f} %",
        )
    figure.update_xaxes(title="quantile, %", range=[-2, 102])
    figure.update_yaxes(title="came true below it, %", range=[-2, 102])
    return _look(figure, "Do the quantiles mean what they say?", 420)


def score_table(result: Mapping[str, Any]) -> pd.DataFrame:
    """Scores of every method over all metrics, the best first: CRPS, MASE and the share between p10 and p90 in %."""
    titles = {method["name"]: method["title"] for method in result["methods"]}
    rows = [row for row in result["scores"] if row["metric"] == ALL and row["group"] == ALL]
    share = f"between p10 and p90, % (wanted: {100 * WANTED_COVERAGE:.0f})"
    table = pd.DataFrame(
        {
            "CRPS, scaled": [row["crps"] for row in rows],
            "MASE": [row["mase"] for row in rows],
            share: [None if row["coverage_p10_p90"] is None else 100 * row["coverage_p10_p90"] for row in rows],
        },
        index=pd.Index([titles.get(row["method"], row["method"]) for row in rows], name="method"),
    )
    return table.sort_values("CRPS, scaled").round({column: 3 if column != share else 1 for column in table})


def example_chart(result: Mapping[str, Any], why: str = "typical") -> go.Figure:
    """Forecasts of the backtest beside what came true, one per metric.

    Parameters
    ----------
    why : str
        `typical`, `largest error` or `typical, server not learned from`; a metric without such an example stays empty.
    """
    figure = _panels()
    chosen = {example["metric"]: example for example in reversed(result["examples"]) if example["why"] == why}
    for place, metric in enumerate(METRICS):
        example = chosen.get(metric.column)
        if example is None:
            continue
        past, actual = example["past"][-12 * int(MEASURED_HOURS) :], example["actual"]
        before = [(step - len(past) + 1) / 12 for step in range(len(past))]
        after = [(step + 1) / 12 for step in range(len(actual))]
        low, middle, high = (example["quantiles"][level] for level in ("0.1", "0.5", "0.9"))
        _add_fan(figure, after, low, middle, high, metric, place)
        line = {"color": INK[0], "width": 1.4}
        _add_line(figure, [*before, *after], [*past, *actual], "measured", line, metric, place)
        figure.layout.annotations[place].text = f"{metric.label} of {example['server']}"
    figure.update_xaxes(title="hours from the forecast", row=2)
    return _look(figure, f"Forecast and truth: {why}", _TALL)


# ----------------------------------------------------------------------------------------------------------- forecasts
def forecast_chart(forecast: Forecast, history: pd.DataFrame, server: str, settings: Settings) -> go.Figure:
    """All four metrics of one server: the last day as measured, the next 8 hours as p10, median and p90, the limits.

    Raises
    ------
    ValueError
        If the server has no forecast.
    """
    row = forecast.index(server)
    rows = _newest(history, server, MEASURED_HOURS)
    figure = _panels()
    for place, metric in enumerate(METRICS):
        low, middle, high = (forecast.at(quantile)[row, :, place] for quantile in (0.1, 0.5, 0.9))
        _add_fan(figure, forecast.times, low, middle, high, metric, place)
        line = {"color": INK[0], "width": 1.4}
        _add_line(figure, rows[TIMESTAMP], rows[metric.column], "measured", line, metric, place)
        limit = settings.threshold(metric.column, forecast.profiles[row])
        seen = np.concatenate([rows[metric.column].to_numpy(dtype=float), high])
        title = f"{metric.label} (critical limit {limit:g} {metric.unit})"
        if np.isnan(seen).all():
            title = f"{metric.label}: not reported, so not forecast"
        elif np.nanmax(seen) > limit / _NEAR_LIMIT:  # a limit that is far away would flatten what is to be seen
            line = {"color": LIMIT[0], "width": 1.4, "dash": "dash"}
            ends = [rows[TIMESTAMP].min(), forecast.times[-1]]
            _add_line(figure, ends, [limit, limit], "critical limit", line, metric, place)
        figure.layout.annotations[place].text = title
    known = "" if forecast.known[row] else ", unknown to the model"
    title = f"{server} ({forecast.profiles[row]}{known}), forecast of {iso_z(forecast.origin)}"
    return _look(figure, title, _TALL)


def risk_chart(risks: Sequence[ServerRisk], settings: Settings) -> go.Figure:
    """The servers with the highest risk: how likely a metric crosses its critical limit within 8 hours, in %."""
    told = sorted((each for each in risks if each.risk is not None), key=lambda each: each.risk or 0.0)[-_MOST_BARS:]
    labels = {metric.column: metric.label for metric in METRICS}
    shares = [each.risk or 0.0 for each in told]
    limits = (settings.risk_yellow, settings.risk_red)
    figure = go.Figure(
        go.Bar(
            x=[100 * share for share in shares],
            y=[each.server_name for each in told],
            orientation="h",
            text=[
                f"{100 * each.risk:.0f} %  {labels.get(each.risk_metric or '', '')}"
                for each in told
                if each.risk is not None
            ],
            textposition="auto",
            marker={"color": [_RISK_COLOURS[int(np.searchsorted(limits, share, "right"))] for share in shares]},
            hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
        )
    )
    figure.update_xaxes(title="risk within 8 hours, %", range=[0, 100])
    return _look(figure, "Who will be in trouble first?", max(_HEIGHT, 26 * len(told) + 120))


def explanation_chart(explanation: Explanation) -> go.Figure:
    """What a forecast was read from, and which past hours the network looked at; shares in %."""
    read = list(explanation.past.items())[:_MOST_BARS][::-1]
    hours = explanation.attention.past_hours
    figure = make_subplots(1, 2, subplot_titles=("What was read of the past", "Where the network looked"))
    figure.add_bar(
        x=[100 * share for _, share in read],
        y=[title for title, _ in read],
        orientation="h",
        marker={"color": ACCENT[0]},
        hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
        row=1,
        col=1,
    )
    figure.add_bar(
        x=[-hour.hours_before for hour in hours],
        y=[100 * hour.share for hour in hours],
        marker={"color": ACCENT[0]},
        hovertemplate="%{x} h: %{y:.1f} %<extra></extra>",
        row=1,
        col=2,
    )
    figure.update_xaxes(title="share of the weight, %", row=1, col=1)
    figure.update_xaxes(title="hours before the forecast", row=1, col=2)
    figure.update_yaxes(title="share of the attention, %", row=1, col=2)
    figure.update_layout(showlegend=False)
    return _look(figure, f"Why {explanation.server_name} is forecast so", 430)


# --------------------------------------------------------------------------------------------------------------- parts
def _panels() -> go.Figure:
    """One panel per metric, two by two, the unit on its axis."""
    figure = make_subplots(2, 2, subplot_titles=[metric.label for metric in METRICS], vertical_spacing=0.17)
    for place, metric in enumerate(METRICS):
        figure.update_yaxes(title=metric.unit, rangemode="tozero", **_at(place))
    return figure


def _at(place: int) -> dict[str, int]:
    return {"row": place // 2 + 1, "col": place % 2 + 1}


def _add_fan(figure: go.Figure, times: Any, low: Any, middle: Any, high: Any, metric: Metric, place: int) -> None:
    """Median in a band from p10 to p90; one entry in the legend for all panels."""
    told = {"hovertemplate": f"%{{y:.1f}} {metric.unit}", **_at(place)}
    edge = {"mode": "lines", "line": {"width": 0}, "legendgroup": "band"}
    figure.add_scatter(x=times, y=high, name="p90", showlegend=False, **edge, **told)
    band = {"fill": "tonexty", "fillcolor": BAND[0], "showlegend": place == 0}
    figure.add_scatter(x=times, y=low, name="p10 to p90", **edge, **band, **told)
    line = {"color": ACCENT[0], "width": 2.4}
    _add_line(figure, times, middle, "median", line, metric, place)


def _add_line(
    figure: go.Figure, x: Any, y: Any, name: str, line: Mapping[str, Any], metric: Metric, place: int
) -> None:
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        name=name,
        line=dict(line),
        legendgroup=name,
        showlegend=place == 0,
        connectgaps=False,  # a gap is a gap
        hovertemplate=f"%{{y:.1f}} {metric.unit}",
        **_at(place),
    )


def _look(figure: go.Figure, title: str, height: int) -> go.Figure:
    """One look for all: white paper, quiet grid, the title on the left and the legend below."""
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0.01, "font": {"size": 16, "color": INK[0]}},
        font={"color": MUTED[0], "size": 12},
        height=height,
        margin={"l": 10, "r": 14, "t": 64, "b": 54},
        hovermode="x unified" if figure.data and figure.data[0].type == "scatter" else "closest",
        legend={"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0.0, "x": 0},
    )
    figure.update_xaxes(automargin=True, gridcolor=GRID[0], zeroline=False)
    figure.update_yaxes(automargin=True, gridcolor=GRID[0], zeroline=False)
    return figure


def _newest(history: pd.DataFrame, server: str, hours: float) -> pd.DataFrame:
    rows = history[history[SERVER_NAME] == server].sort_values(TIMESTAMP)
    return rows[rows[TIMESTAMP] > rows[TIMESTAMP].max() - pd.Timedelta(hours=hours)]


def _methods(result: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    """Methods that have scores and their colours, the model last so that its line lies on top."""
    scored = [method for method in result["methods"] if method["skipped"] is None]
    others = [method for method in scored if method["name"] != MODEL]
    coloured = [(method, _OTHERS[place % len(_OTHERS)]) for place, method in enumerate(others)]
    return [*coloured, *((method, ACCENT[0]) for method in scored if method["name"] == MODEL)]


def _of(result: Mapping[str, Any], key: str, method: str, *, every_metric: bool = False) -> list[Mapping[str, Any]]:
    return [row for row in result[key] if row["method"] == method and (every_metric or row["metric"] != ALL)]


def _self_check() -> None:
    times = pd.date_range("2026-01-05", periods=24, freq="5min", tz="UTC")
    frame = pd.DataFrame(
        {
            TIMESTAMP: times,
            SERVER_NAME: "ppweb001",
            PROFILE: "web_api",
            **{metric.column: np.linspace(1, 9, 24) for metric in METRICS},
        }
    )
    assert len(measured_chart(frame, "ppweb001").data) == len(METRICS)
    assert len(measured_chart(frame, "ppweb001", hours=1).data[0].x) == 12
    assert fleet_heatmap(frame).data[0].z.shape == (1, 2)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
