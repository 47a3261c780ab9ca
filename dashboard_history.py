"""What was measured on servers, what is forecast for them and what had been: tables for charts, and how right it was.

Pure pandas: no HTTP, no Streamlit, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

import pandas as pd

from dashboard_answers import (
    HistoryAnswer,
    PastForecastsAnswer,
    Prediction,
    QuantileSeries,
    Reason,
    ServerAnswer,
    ServerSeries,
)
from dashboard_words import NOW
from data_contract import HORIZONS, METRIC_COLUMNS, SERVED_QUANTILES, STEP_MINUTES

_EXPECTED_SHARE = 0.8  # of what comes lies between p10 and p90 when they mean what they say
_FEWEST_JUDGED = 12  # steps, an hour: below that a share says nothing


def server_readings(prediction: Prediction, metric: str) -> dict[str, tuple[float | None, float | None, float | None]]:
    """p10, p50 and p90 of one metric at every moment; all three are the measured value now."""
    measured = prediction["current"][metric]  # type: ignore[literal-required]
    readings = {NOW: (measured, measured, measured)}
    for horizon in HORIZONS:
        low, middle, high = (
            prediction["quantiles"][quantile][horizon][metric]  # type: ignore[literal-required]
            for quantile in SERVED_QUANTILES
        )
        readings[horizon] = (low, middle, high)
    return readings


def history_frame(history: HistoryAnswer | None, metric: str) -> pd.DataFrame:
    """Measured values of one metric: columns time and value, NaN where there is a gap or nothing is reported."""
    times = [] if history is None else history["timestamps"]
    values = None if history is None else history["metrics"].get(metric)
    return pd.DataFrame(
        {"time": pd.to_datetime(times, utc=True), "value": pd.Series(values or [None] * len(times), dtype=float)}
    )


def path_frame(prediction: ServerAnswer | None, metric: str) -> pd.DataFrame:
    """Forecast of one metric, step by step: columns time, p10, p50, p90; no rows when it is not reported."""
    path = prediction["path"] if prediction is not None else None
    quantiles = path["metrics"].get(metric) if path is not None else None
    times = path["timestamps"] if path is not None and quantiles is not None else []
    columns = {name: () if quantiles is None else quantiles[name] for name in SERVED_QUANTILES}  # type: ignore[literal-required]
    return pd.DataFrame({"time": pd.to_datetime(times, utc=True), **columns}).astype(dict.fromkeys(columns, float))


def moment_times(prediction_time: datetime | None) -> dict[str, datetime | None]:
    """UTC times that the moments stand for."""
    return {
        moment: None if prediction_time is None else prediction_time + timedelta(minutes=STEP_MINUTES * steps)
        for moment, steps in ((NOW, 0), *HORIZONS.items())
    }


def past_frame(forecasts: PastForecastsAnswer | None, metric: str) -> pd.DataFrame:
    """What had been forecast of one metric: columns time, p10, p50, p90; NaN where nothing was."""
    if forecasts is None:
        return pd.DataFrame({"time": pd.to_datetime([], utc=True), **dict.fromkeys(SERVED_QUANTILES, ())}).astype(
            dict.fromkeys(SERVED_QUANTILES, float)
        )
    quantiles: QuantileSeries = forecasts["metrics"][metric]
    columns = {name: pd.Series(quantiles[name], dtype=float) for name in SERVED_QUANTILES}  # type: ignore[literal-required]
    return pd.DataFrame({"time": pd.to_datetime(forecasts["timestamps"], utc=True), **columns})


@dataclass(frozen=True)
class Hindsight:
    """How right past forecasts of one metric were.

    Attributes
    ----------
    steps : int
        Steps that were both forecast and measured.
    inside : float
        Share of them that was measured between p10 and p90; 0.8 is expected.
    error : float
        Mean distance of the measured value from the median, in the metric's unit.
    """

    steps: int
    inside: float
    error: float

    @property
    def expected(self) -> float:
        """Share that should lie inside."""
        return _EXPECTED_SHARE


def hindsight(measured: pd.DataFrame, past: pd.DataFrame) -> Hindsight | None:
    """Hold past forecasts against what came; None where there is less than an hour of both."""
    both = measured.merge(past, on="time").dropna()
    if len(both) < _FEWEST_JUDGED:
        return None
    inside = (both["value"] >= both["p10"]) & (both["value"] <= both["p90"])
    return Hindsight(len(both), float(inside.mean()), float((both["value"] - both["p50"]).abs().mean()))


def series_frame(series: ServerSeries) -> pd.DataFrame:
    """Measured values of a server's series: columns time and value."""
    values = pd.Series(series["measured"], dtype=float)
    start = pd.Timestamp(series["first_measured"]).tz_convert("UTC")
    return pd.DataFrame({"time": pd.date_range(start, periods=len(values), freq=f"{STEP_MINUTES}min"), "value": values})


def series_path(series: ServerSeries) -> pd.DataFrame:
    """Forecast of a server's series: columns time, p10, p50, p90; no rows when the metric is not reported."""
    path = series["forecast"]
    columns = {name: () if path is None else path[name] for name in SERVED_QUANTILES}  # type: ignore[literal-required]
    count = 0 if path is None else len(path["p50"])
    start = pd.Timestamp(series["first_forecast"]).tz_convert("UTC")
    times = pd.date_range(start, periods=count, freq=f"{STEP_MINUTES}min")
    return pd.DataFrame({"time": times, **columns}).astype(dict.fromkeys(SERVED_QUANTILES, float))


# -------------------------------------------------------------------------------------------------------------- states
@dataclass(frozen=True)
class StateRun:
    """A time during which a server kept its state; None where it did not report."""

    state: str | None
    start: datetime
    end: datetime
    steps: int


def state_runs(history: HistoryAnswer | None) -> list[StateRun]:
    """States of the history, one after the other."""
    runs: list[StateRun] = []
    step = timedelta(minutes=STEP_MINUTES)
    for moment, state in zip(history["timestamps"], history["states"], strict=False) if history is not None else ():
        if runs and runs[-1].state == state:
            last = runs[-1]
            runs[-1] = StateRun(state, last.start, moment + step, last.steps + 1)
        else:
            runs.append(StateRun(state, moment, moment + step, 1))
    return runs


# ------------------------------------------------------------------------------------------------------------- reasons
def main_reasons(reason: Reason, most: int) -> list[tuple[str, float]]:
    """What the model read most of the past of a server, with its share."""
    return sorted(reason["past"].items(), key=lambda item: -item[1])[:most]


def attended_hours(reason: Reason) -> list[tuple[int, float]]:
    """Share of the attention that each past hour has, the newest first, in hours before the forecast."""
    return [(int(hour["hours_before"]), hour["share"]) for hour in reason["attention"]["past_hours"]]


# -------------------------------------------------------------------------------------------------------------- export
def history_csv(
    server_name: str,
    history: HistoryAnswer | None,
    prediction: ServerAnswer | None,
    forecasts: PastForecastsAnswer | None,
) -> str:
    """All that the panel shows of a server as CSV: UTC times, measured values, and quantiles with their origin.

    Columns are timestamp, server_name, kind (`measured`, `forecast`, or `forecast 1hr before`), state, and per
    metric its value or its quantiles `…_p10`, `…_p50`, `…_p90`.
    """
    frames: list[pd.DataFrame] = []
    if history is not None:
        measured = {
            metric: history["metrics"].get(metric) or [None] * len(history["timestamps"]) for metric in METRIC_COLUMNS
        }
        frames.append(
            pd.DataFrame(
                {"timestamp": history["timestamps"], "kind": "measured", "state": history["states"], **measured}
            )
        )
    if forecasts is not None:
        frames.append(
            _quantile_columns(forecasts["timestamps"], f"forecast {forecasts['horizon']} before", forecasts["metrics"])
        )
    if prediction is not None:
        path = prediction["path"]
        frames.append(_quantile_columns(path["timestamps"], "forecast", path["metrics"]))
    if not frames:
        return ""
    table = pd.concat(frames, ignore_index=True)
    table.insert(1, "server_name", _plain_cell(server_name))
    table["timestamp"] = pd.to_datetime(table["timestamp"], utc=True).dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    text: str = table.to_csv(index=False, lineterminator="\n")
    return text


def _quantile_columns(
    times: Sequence[datetime], kind: str, metrics: Mapping[str, QuantileSeries | None]
) -> pd.DataFrame:
    columns = {
        f"{metric}_{name}": quantiles[name]  # type: ignore[literal-required]
        for metric, quantiles in metrics.items()
        if quantiles is not None
        for name in SERVED_QUANTILES
    }
    return pd.DataFrame({"timestamp": times, "kind": kind, **columns})


def _plain_cell(text: str) -> str:
    """Text that a spreadsheet does not take for a formula (OWASP, CSV injection)."""
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


# ------------------------------------------------------------------------------------------------------------ in a zone
def in_zone(frame: pd.DataFrame, zone: tzinfo) -> pd.DataFrame:
    """The same table with the times of a zone, without it, as charts take them."""
    return frame.assign(time=frame["time"].dt.tz_convert(zone).dt.tz_localize(None))
