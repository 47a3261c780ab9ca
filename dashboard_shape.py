"""How the daemon's answers become the tables of the panels: the fleet, its levels, its cells and its worst servers.

Pure pandas: no HTTP, no Streamlit, no clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, tzinfo

import numpy as np
import numpy.typing as npt
import pandas as pd

from dashboard_answers import CurrentAnswer, MetricReadings, Prediction, RiskSettings
from dashboard_words import (
    LEVEL_WORDS,
    LEVELS,
    MOMENTS,
    NOT_REPORTED,
    NOW,
    OFF_STATES,
    RISK,
    UTC,
    WORST,
    Level,
    clock,
    range_text,
    risk_text,
    value_text,
)
from data_contract import HORIZONS, METRIC_COLUMNS, SERVED_QUANTILES


# -------------------------------------------------------------------------------------------------------------- limits
@dataclass(frozen=True)
class Limits:
    """Where yellow and red begin, and above which value a metric is critical for a profile."""

    yellow: float
    red: float
    critical: dict[str, float]
    by_profile: dict[str, dict[str, float]]

    @classmethod
    def from_settings(cls, settings: RiskSettings) -> Limits:
        """Limits that the daemon works with, as its `/status` tells them."""
        return cls(
            settings["risk_yellow"],
            settings["risk_red"],
            settings["critical_thresholds"],
            settings["profile_thresholds"],
        )

    def threshold(self, metric: str, profile: str) -> float:
        """Critical value of a metric for servers of a profile; NaN when the daemon names none."""
        return self.by_profile.get(profile, {}).get(metric, self.critical.get(metric, math.nan))

    def level(self, risk: float | None) -> Level:
        """Colour class of a risk: green below yellow, red above red, both bounds themselves yellow."""
        if risk is None or math.isnan(risk):
            return "unknown"
        if risk > self.red:
            return "critical"
        return "watch" if risk >= self.yellow else "healthy"

    def levels(self, risks: pd.Series) -> pd.Series:
        """The same for a whole column."""
        values = risks.to_numpy(dtype=float)
        return pd.Series(
            np.select(
                [np.isnan(values), values > self.red, values >= self.yellow],
                ["unknown", "critical", "watch"],
                "healthy",
            ),
            index=risks.index,
            dtype=object,
        )


# --------------------------------------------------------------------------------------------------------------- fleet
@dataclass(frozen=True)
class Fleet:
    """The fleet's forecasts as two tables.

    Attributes
    ----------
    servers : DataFrame
        One row per server: server_name, profile, state, known, risk (NaN: none), risk_metric, last_seen (only of
        servers that are silent for too long to be forecast), over_metric (measured above its threshold, else None),
        critical_now (that, or the state `critical_issue`), level (critical now, or by risk).
    readings : DataFrame
        One row per server, moment (`now` and the three horizons) and metric: server_name, profile, moment, metric, p10,
        p50, p90 (all three the measured value at `now`), threshold, probability of being above it. NaN: not reported.
    prediction_time : datetime or None
        Start of the last step that the forecasts have seen.
    zone : tzinfo
        In which times are put in words.
    """

    servers: pd.DataFrame
    readings: pd.DataFrame
    prediction_time: datetime | None
    limits: Limits
    zone: tzinfo = UTC

    def clock(self, moment: datetime | None) -> str:
        """A time in words, with its date where it is not that of the forecasts."""
        return clock(moment, self.prediction_time, self.zone)


def build_fleet(answer: CurrentAnswer, limits: Limits) -> Fleet:
    """Tables of `GET /predictions/current`."""
    predictions = answer["predictions"]
    rows: list[tuple[object, ...]] = [
        (p["server_name"], p["profile"], p["state"], p["known"], p["risk"], p["risk_metric"], None) for p in predictions
    ]
    rows += [
        (s["server_name"], s["profile"], "offline", True, None, None, s["last_seen"]) for s in answer.get("offline", ())
    ]
    servers = pd.DataFrame(
        rows, columns=["server_name", "profile", "state", "known", "risk", "risk_metric", "last_seen"], dtype=object
    )
    servers["risk"] = servers["risk"].astype(float)
    readings = _readings(predictions, limits)
    measured = readings[(readings["moment"] == NOW) & (readings["probability"] == 1.0)]
    over = measured.assign(excess=measured["p50"] / measured["threshold"]).sort_values("excess")
    servers["over_metric"] = servers["server_name"].map(dict(zip(over["server_name"], over["metric"], strict=True)))
    servers["critical_now"] = servers["over_metric"].notna() | (servers["state"] == "critical_issue")
    servers["level"] = limits.levels(servers["risk"]).mask(servers["critical_now"], "critical")
    return Fleet(servers, readings, answer["prediction_time"], limits)


def _readings(predictions: list[Prediction], limits: Limits) -> pd.DataFrame:
    moments, metrics = len(MOMENTS), len(METRIC_COLUMNS)
    values = np.full((len(predictions), moments, metrics, 3), np.nan)  # (servers, moments, metrics, p10/p50/p90)
    caps = np.full((len(predictions), 1, metrics), np.nan)
    thresholds = np.full((len(predictions), 1, metrics), np.nan)
    for row, prediction in enumerate(predictions):
        values[row, 0, :, :] = np.array(_in_order(prediction["current"]))[:, None]
        for column, quantile in enumerate(SERVED_QUANTILES):
            horizons = prediction["quantiles"][quantile]  # type: ignore[literal-required]
            values[row, 1:, :, column] = [_in_order(horizons[horizon]) for horizon in HORIZONS]
        caps[row, 0] = _in_order(prediction["risks"])
        thresholds[row, 0] = [limits.threshold(metric, prediction["profile"]) for metric in METRIC_COLUMNS]
    thresholds = np.broadcast_to(thresholds, values.shape[:3])
    probability = breach_probability(values[..., 0], values[..., 1], values[..., 2], thresholds)
    # Measured values are above the threshold or not; and no single moment can be likelier than the worst of them all,
    # which the daemon reads off all of the model's quantiles, not three.
    probability[:, 1:] = np.fmin(probability[:, 1:], caps)
    measured = values[:, 0, :, 1]
    probability[:, 0] = np.where(
        np.isnan(measured) | np.isnan(thresholds[:, 0]), np.nan, (measured > thresholds[:, 0]).astype(float)
    )
    count = moments * metrics
    return pd.DataFrame(
        {
            "server_name": np.repeat(np.array([p["server_name"] for p in predictions], dtype=object), count),
            "profile": np.repeat(np.array([p["profile"] for p in predictions], dtype=object), count),
            "moment": np.tile(np.repeat(np.array(MOMENTS, dtype=object), metrics), len(predictions)),
            "metric": np.tile(np.array(METRIC_COLUMNS, dtype=object), len(predictions) * moments),
            "p10": values[..., 0].ravel(),
            "p50": values[..., 1].ravel(),
            "p90": values[..., 2].ravel(),
            "threshold": thresholds.ravel(),
            "probability": probability.ravel(),
        }
    )


def _in_order(readings: MetricReadings) -> list[float]:
    """Values in the contract's order, NaN where not reported."""
    ordered = (readings["cpu_pct"], readings["mem_pct"], readings["disk_io_mb_s"], readings["latency_ms"])
    return [math.nan if value is None else value for value in ordered]


def breach_probability(
    p10: npt.NDArray[np.float64],
    p50: npt.NDArray[np.float64],
    p90: npt.NDArray[np.float64],
    threshold: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """P(value > threshold), read off three quantiles: straight lines between them, 0.05 and 0.95 outside.

    Beyond p10 and p90 three quantiles say no more than "less than one in ten", so the middle of that range is given.

    Examples
    --------
    >>> one = np.array([50.0])
    >>> round(float(breach_probability(one - 10, one, one + 10, one + 5)[0]), 6)
    0.3
    """
    threshold = np.broadcast_to(threshold, p50.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        lower = 0.1 + 0.4 * (threshold - p10) / (p50 - p10)
        upper = 0.5 + 0.4 * (threshold - p50) / (p90 - p50)
    below = np.select([threshold >= p90, threshold < p10, threshold >= p50], [0.95, 0.05, upper], lower)
    return np.where(np.isnan(p10) | np.isnan(p50) | np.isnan(p90) | np.isnan(threshold), np.nan, 1.0 - below)


def moment_risks(fleet: Fleet) -> pd.DataFrame:
    """Risk of every server at every moment: one row per server, one column per moment and one for the worst.

    A moment's risk is the largest probability over the metrics; a server that is critical now has 1, and one that is
    off has none. The worst is the daemon's own risk.
    """
    table = fleet.readings.pivot_table(index="server_name", columns="moment", values="probability", aggfunc="max")
    table = table.reindex(index=fleet.servers["server_name"], columns=list(MOMENTS))
    states = fleet.servers["state"].to_numpy(dtype=object)
    table.loc[fleet.servers["critical_now"].to_numpy(dtype=bool), NOW] = 1.0
    table.loc[np.isin(states, list(OFF_STATES)), NOW] = np.nan
    table[WORST] = fleet.servers["risk"].to_numpy()
    return table


def count_levels(levels: Iterable[str]) -> dict[Level, int]:
    """How many servers are in each level, worst first."""
    found = list(levels)
    return {level: found.count(level) for level in LEVELS}


def health_by_moment(fleet: Fleet) -> dict[str, dict[Level, int]]:
    """Servers per level now and at the three horizons."""
    risks = moment_risks(fleet)
    return {moment: count_levels(fleet.limits.levels(risks[moment])) for moment in MOMENTS}


def health_by_profile(fleet: Fleet) -> dict[str, dict[Level, int]]:
    """Servers per level (worst within the horizon) for each profile that has servers, worst profile first."""
    counts = {str(profile): count_levels(group["level"]) for profile, group in fleet.servers.groupby("profile")}
    order = sorted(counts, key=lambda name: (-counts[name]["critical"], -counts[name]["watch"], name))
    return {profile: counts[profile] for profile in order}


def silent_servers(fleet: Fleet) -> list[tuple[str, datetime]]:
    """Servers that have not reported for too long, with the time of their last report, the latest first."""
    silent = fleet.servers[fleet.servers["last_seen"].notna()]
    return sorted(zip(silent["server_name"], silent["last_seen"], strict=True), key=lambda item: item[1], reverse=True)


@dataclass(frozen=True)
class RiskBin:
    """One bar of the risk distribution."""

    lower: float
    upper: float
    count: int
    level: Level


def risk_distribution(fleet: Fleet) -> list[RiskBin]:
    """Servers per tenth of risk; 1.0 counts into the last."""
    risks = fleet.servers["risk"].dropna().to_numpy(dtype=float)
    counts, edges = np.histogram(risks, bins=np.linspace(0.0, 1.0, 11).round(1))
    return [
        RiskBin(float(lower), float(upper), int(count), fleet.limits.level((lower + upper) / 2))
        for lower, upper, count in zip(edges, edges[1:], counts, strict=False)
    ]


# ------------------------------------------------------------------------------------------------------------- heatmap
def heat_cells(fleet: Fleet, fill: str, moment: str) -> pd.DataFrame:
    """One row per server, in profile and name order: what its cell says and how it is coloured.

    Parameters
    ----------
    fill : str
        `risk` or a metric's column.
    moment : str
        A moment; `worst` for the risk over the whole horizon.

    Returns
    -------
    DataFrame
        profile, server_name, value, text, level (for risk) or share of the critical threshold (for a metric), spoken.
    """
    base = fleet.servers[["profile", "server_name", "last_seen"]]
    if fill == RISK:
        risks = moment_risks(fleet)[moment]
        cells = base.assign(value=risks.to_numpy(dtype=float))
        levels = fleet.limits.levels(cells["value"])
        now = fleet.servers["critical_now"] & (moment == WORST)
        cells["level"] = levels.mask(now, "critical")
        cells["share"] = np.nan
        cells["text"] = ["no data" if math.isnan(value) else risk_text(value) for value in cells["value"]]
        # A server that is over its limit while the forecast says it will recover: the number alone would look wrong.
        cells.loc[now & (levels != "critical"), "text"] = "now"
        cells["spoken"] = [
            f"{LEVEL_WORDS[level]}, risk {text}" if level != "unknown" else "no data"
            for level, text in zip(cells["level"], cells["text"], strict=True)
        ]
    else:
        rows = fleet.readings[(fleet.readings["metric"] == fill) & (fleet.readings["moment"] == moment)]
        cells = base.merge(rows[["server_name", "p10", "p50", "p90", "threshold"]], on="server_name", how="left")
        cells["value"] = cells["p50"]
        cells["share"] = cells["p50"] / cells["threshold"]
        cells["level"] = np.where(cells["value"].isna(), "unknown", np.where(cells["share"] > 1, "critical", "healthy"))
        cells["text"] = [value_text(value, fill) for value in cells["value"]]
        cells["spoken"] = [
            _spoken_cell(text, low, high, fill, moment)
            for text, low, high in zip(cells["text"], cells["p10"], cells["p90"], strict=True)
        ]
    for row in cells.index[cells["last_seen"].notna()]:
        cells.loc[row, "text"] = "silent"
        cells.loc[row, "spoken"] = f"silent since {fleet.clock(cells.loc[row, 'last_seen'])}"
    return cells.sort_values(["profile", "server_name"], ignore_index=True)


def _spoken_cell(text: str, low: float, high: float, metric: str, moment: str) -> str:
    if math.isnan(low):
        return NOT_REPORTED
    return text if moment == NOW else f"{text} ({range_text(low, high, metric)})"


# --------------------------------------------------------------------------------------------------------- top servers
def top_servers(fleet: Fleet, count: int, metric: str | None = None) -> pd.DataFrame:
    """The worst servers first (critical now, then by risk), with the readings of one metric at every moment.

    Parameters
    ----------
    metric : str, optional
        Rank and show by this metric; by default each server is shown with the metric that is over its limit
        now, or else that its risk comes from.

    Returns
    -------
    DataFrame
        rank, server_name, profile, state, known, critical_now, risk, level, metric (None: nothing reported), threshold,
        and for each moment `{moment}_p10`, `_p50` and `_p90`.
    """
    servers = fleet.servers
    wide = fleet.readings.set_index(["server_name", "metric", "moment"])[
        ["p10", "p50", "p90", "threshold", "probability"]
    ]
    if metric is None:
        chosen = servers.assign(metric=servers["over_metric"].fillna(servers["risk_metric"]))
    else:
        ahead = fleet.readings[(fleet.readings["metric"] == metric) & (fleet.readings["moment"] != NOW)]
        risks = ahead.groupby("server_name")["probability"].max()
        chosen = servers.assign(metric=metric, risk=servers["server_name"].map(risks))
        chosen["level"] = fleet.limits.levels(chosen["risk"])
        chosen["critical_now"] = chosen["over_metric"] == metric
        chosen["level"] = chosen["level"].mask(chosen["critical_now"], "critical")
    chosen = chosen.assign(order=chosen["risk"].fillna(-1.0))
    chosen = chosen.sort_values(["critical_now", "order", "server_name"], ascending=[False, False, True]).head(count)
    rows = []
    for rank, server in enumerate(chosen.itertuples(index=False), start=1):
        row: dict[str, object] = {
            "rank": rank,
            "server_name": server.server_name,
            "profile": server.profile,
            "state": server.state,
            "known": server.known,
            "critical_now": server.critical_now,
            "risk": server.risk,
            "level": server.level,
            "metric": server.metric if isinstance(server.metric, str) else None,
            "threshold": math.nan,
        }
        for moment in MOMENTS:
            key = (server.server_name, server.metric, moment)
            found = wide.loc[key] if key in wide.index else None
            for column in ("p10", "p50", "p90"):
                row[f"{moment}_{column}"] = math.nan if found is None else found[column]
            if found is not None:
                row["threshold"] = found["threshold"]
        rows.append(row)
    return pd.DataFrame(rows)
