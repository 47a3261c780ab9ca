"""Why a forecast is as it is: which variables and which past hours the network weighed, in words and as JSON.

    explanation = explain(forecaster, grid, "ppweb001")
    explanation.sentence                          # one line for a person
    explanation.as_dict()                         # for programs, ready for JSON

A TFT weighs its inputs by variable selection, the past by attention, and the naive forecasts that it starts from by
shares of its own. `Forecaster.explain_grid` reads these weights off the network; here they are added up under names
that a person knows. What they do not say stands in `Docs/EXPLANATIONS.md`. NumPy only, torch and HTTP are not known.

Source: Lim et al., Temporal Fusion Transformers, arXiv:1912.09363, section 7.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from common_utils import iso_z
from data_contract import (
    HORIZON_STEPS,
    HORIZONS,
    METRIC_COLUMNS,
    METRICS,
    PROFILE,
    STATE,
    STEP_MINUTES,
    ContractError,
    shorten,
)
from fleet_grid import FleetGrid, time_of

FloatArray = npt.NDArray[np.float32]

GAPS = "gaps in the data"
ALL_METRICS = "all"  # key of the mean over the metrics, as in a backtest's scores

_STEPS_PER_HOUR = 60 // STEP_MINUTES
_DIGITS = 4
_HORIZON_WORDS = {"30min": "30 minutes", "1hr": "1 hour", "8hr": "8 hours"}
_ANCHOR_TITLES = {
    "recent": "level of the last half hour",
    "last": "same as now",
    "day_ago": "same as yesterday",
    "median": "usual level",
    "cycle": "same as one cycle ago",
}
_TITLES = {
    PROFILE: "role of the server",
    "server_id": "which server it is",
    STATE: "state of the server",
    "relative_step": "distance from now",
    "piece_length": "distance from now",
    "is_weekend": "day of the week",
}
# What a metric's name is followed by; {} is what people call the metric.
_OF_METRIC = {
    "": "{} of the last hours",
    "above": "{} of the last hours",
    "below": "{} of the last hours",
    "level": "usual level of {}",
    "spread": "usual movement of {}",
    "observed": "how much was measured",
    "cycle_strength": "how regular {} is",
    "missing": GAPS,
}


@dataclass(frozen=True)
class ForecastWeights:
    """What the network weighed in the forecast of one server, as it came; every row of weights adds up to 1.

    Attributes
    ----------
    known : bool
        Whether the model was trained on the server.
    static : dict
        Weight of each static variable, by its name in `model_inputs.py`.
    past_names, past : names, and array (n_past, n_names)
        Weight of each variable at each piece of the past that the network read.
    future_names, future : names, and array (n_patches, n_names)
        The same over the patches of the horizon.
    attention : array, (96, n_past + n_patches)
        How much each forecast step looked at each piece of the past and at each patch of the horizon; mean over the
        heads.
    steps_before : int array, (n_past,)
        How many steps of 5 minutes before the forecast's first step the middle of each piece lies; the newest is 1.
    measured : bool array, (n_past, n_metrics)
        Whether there was a value.
    anchor_names, anchors : names, and array (96, n_metrics, n_names)
        Share of each naive forecast in what the quantiles start from.
    observed : bool array, (n_metrics,)
        Which metrics are forecast at all.
    """

    known: bool
    static: dict[str, float]
    past_names: tuple[str, ...]
    past: FloatArray
    future_names: tuple[str, ...]
    future: FloatArray
    attention: FloatArray
    steps_before: npt.NDArray[np.int64]
    measured: npt.NDArray[np.bool_]
    anchor_names: tuple[str, ...]
    anchors: FloatArray
    observed: npt.NDArray[np.bool_]


class Explains(Protocol):
    """What `explain` asks of a forecaster."""

    def explain_grid(self, grid: FleetGrid, server: int) -> ForecastWeights:
        """Weights behind the forecast of one server, by its place in the grid."""


@dataclass(frozen=True)
class HourShare:
    """How much of the attention one past hour has.

    Attributes
    ----------
    hours_before : int
        1 is the last hour before the forecast.
    share : float
        Part of the attention that falls on its measured steps; 0 where nothing was measured.
    measured : float
        Part of its steps in which anything was measured.
    """

    hours_before: int
    share: float
    measured: float

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "hours_before": self.hours_before,
            "share": round(self.share, _DIGITS),
            "measured": round(self.measured, _DIGITS),
        }


@dataclass(frozen=True)
class Attention:
    """Where a forecast looked; hours, `ahead` and `without_data` add up to 1.

    Attributes
    ----------
    past_hours : tuple of HourShare
        The newest first.
    ahead : float
        On the steps of the horizon before the one that is forecast: their calendar and what is known of them.
    without_data : float
        On past steps in which nothing was measured, of which the network knows the calendar alone.
    """

    past_hours: tuple[HourShare, ...]
    ahead: float
    without_data: float

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "past_hours": [hour.as_dict() for hour in self.past_hours],
            "ahead": round(self.ahead, _DIGITS),
            "without_data": round(self.without_data, _DIGITS),
        }


@dataclass(frozen=True)
class Explanation:
    """What drove the forecast of one server.

    Attributes
    ----------
    static, past, future : dict
        Share of each group of variables, the largest first: what the server is, what was seen of the last hours, and
        what is known of the hours ahead. Each adds up to 1.
    attention : Attention
        Over the whole horizon.
    attention_at : dict
        The same of the forecast 30 minutes, 1 hour and 8 hours ahead.
    anchors : dict
        For `all` and each metric, for each horizon, how much of the forecast starts from which naive forecast; None
        for a metric that is not forecast.
    sentence : str
        The main points in one line.
    """

    server_name: str
    profile: str
    known: bool
    prediction_time: str
    static: dict[str, float]
    past: dict[str, float]
    future: dict[str, float]
    attention: Attention
    attention_at: dict[str, Attention]
    anchors: dict[str, dict[str, dict[str, float]] | None]
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "server_name": self.server_name,
            "profile": self.profile,
            "known": self.known,
            "prediction_time": self.prediction_time,
            "sentence": self.sentence,
            "static": _rounded(self.static),
            "past": _rounded(self.past),
            "future": _rounded(self.future),
            "attention": self.attention.as_dict(),
            "attention_at": {horizon: attention.as_dict() for horizon, attention in self.attention_at.items()},
            "anchors": {
                metric: None if shares is None else {horizon: _rounded(each) for horizon, each in shares.items()}
                for metric, shares in self.anchors.items()
            },
        }


def explain(forecaster: Explains, grid: FleetGrid, server_name: str) -> Explanation:
    """Say what drove the forecast of one server from the grid's end on.

    Parameters
    ----------
    forecaster : Forecaster
        A loaded model.
    grid : FleetGrid
        The fleet's history, the one that is forecast from.
    server_name : str
        One of the grid's servers; the model need not know it.

    Raises
    ------
    ContractError
        If the grid has no such server.
    """
    if server_name not in grid.names:
        raise ContractError(
            f"There are no rows of the server {shorten(server_name)}; the history holds {grid.n_servers:,} others.",
            why="A forecast starts from the server's own recent history, and so does its explanation.",
            fix="Check the name; `python main.py predict --json` lists all servers that have a forecast.",
            document="Docs/EXPLANATIONS.md",
        )
    place = grid.names.index(server_name)
    weights = forecaster.explain_grid(grid, place)
    past = _past_groups(weights)
    overall = _attention(weights, np.arange(HORIZON_STEPS))
    anchors = _anchor_shares(weights)
    return Explanation(
        server_name=server_name,
        profile=grid.profiles[place],
        known=weights.known,
        prediction_time=iso_z(time_of(grid.origin_step - 1)),
        static=_grouped(weights.static.items()),
        past=past,
        future=_grouped(zip(weights.future_names, weights.future.mean(axis=0, dtype=np.float64), strict=True)),
        attention=overall,
        attention_at={horizon: _attention(weights, np.array([step - 1])) for horizon, step in HORIZONS.items()},
        anchors=anchors,
        sentence=_sentence(server_name, past, overall, anchors[ALL_METRICS]),
    )


def title_of(variable: str) -> str:
    """What a person calls an input of the network; a name that is new here is told in its own words.

    Examples
    --------
    >>> title_of("cpu_pct"), title_of("mem_pct_1d_ago_peak"), title_of("time_of_day_sin")
    ('CPU of the last hours', 'same time yesterday', 'time of day')
    """
    if variable in _TITLES:
        return _TITLES[variable]
    label, rest = next(
        (
            (metric.label, variable[len(metric.column) + 1 :])
            for metric in METRICS
            if variable == metric.column or variable.startswith(f"{metric.column}_")
        ),
        ("", variable),
    )
    if label and rest in _OF_METRIC:
        return _OF_METRIC[rest].format(label)
    if re.fullmatch(r"cycle(_peak)?", rest):
        return "one cycle ago"
    ago = re.fullmatch(r"(\w+)_ago(_missing|_peak)?", rest)
    if ago:
        return f"same time {_time_ago(ago[1])}"
    calendar = re.fullmatch(r"(time_of_day|day_of_week)_\w+", rest)
    if calendar:
        return {"time_of_day": "time of day", "day_of_week": "day of the week"}[calendar[1]]
    words = rest.replace("_", " ")
    return f"{label}: {words}" if label else words


def _anchor_title(anchor: str) -> str:
    """What a person calls a naive forecast."""
    if anchor.endswith("_ago") and anchor not in _ANCHOR_TITLES:
        return f"same as {_time_ago(anchor.removesuffix('_ago'))}"
    return _ANCHOR_TITLES.get(anchor, anchor.replace("_", " "))


def _time_ago(span: str) -> str:
    days = re.fullmatch(r"(\d+)d", span)
    span = f"{days[1]} days" if days else span.replace("_", " ")
    return {"day": "yesterday", "1 days": "yesterday", "7 days": "last week"}.get(span, f"{span} ago")


def _grouped(shares: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Shares of variables added up under the names that people know, the largest first."""
    groups: dict[str, float] = {}
    for name, share in shares:
        title = title_of(name)
        groups[title] = groups.get(title, 0.0) + float(share)
    return _ranked(groups)


def _ranked(groups: dict[str, float]) -> dict[str, float]:
    return dict(sorted(groups.items(), key=lambda item: -item[1]))


def _past_groups(weights: ForecastWeights) -> dict[str, float]:
    """Shares of the past variables. A metric's weight where it was not measured says that it is missing, no more."""
    shares = weights.past.astype(np.float64) / len(weights.past)
    total: list[tuple[str, float]] = []
    gaps = 0.0
    for name, column in zip(weights.past_names, shares.T, strict=True):
        metric = name.removesuffix("_above").removesuffix("_below")
        if metric in METRIC_COLUMNS:
            there = weights.measured[:, METRIC_COLUMNS.index(metric)]
            gaps += float(column[~there].sum())
            column = column[there]  # noqa: PLW2901  # the same share, less what holds no value
        total.append((name, float(column.sum())))
    groups = _grouped(total)
    if gaps:
        groups[GAPS] = groups.get(GAPS, 0.0) + gaps
    return _ranked(groups)


def _attention(weights: ForecastWeights, steps: npt.NDArray[np.int64]) -> Attention:
    """Attention of some of the horizon's steps, by hour before now."""
    row = weights.attention[steps].mean(axis=0, dtype=np.float64)
    row /= row.sum()
    past, ahead = row[: len(weights.steps_before)], row[len(weights.steps_before) :]
    measured: npt.NDArray[np.bool_] = np.asarray(weights.measured.any(axis=1))
    hour_of = (weights.steps_before - 1) // _STEPS_PER_HOUR
    hours = tuple(
        HourShare(
            int(hour) + 1, float(past[(hour_of == hour) & measured].sum()), float(measured[hour_of == hour].mean())
        )
        for hour in np.unique(hour_of)
    )
    return Attention(hours, float(ahead.sum()), float(past[~measured].sum()))


def _anchor_shares(weights: ForecastWeights) -> dict[str, dict[str, dict[str, float]] | None]:
    """Shares of the naive forecasts at the horizons, for all metrics together and for each."""

    def at_horizons(shares: FloatArray) -> dict[str, dict[str, float]]:
        titles = [_anchor_title(name) for name in weights.anchor_names]
        return {
            horizon: _ranked(dict(zip(titles, map(float, shares[step - 1]), strict=True)))
            for horizon, step in HORIZONS.items()
        }

    anchors, observed = weights.anchors, weights.observed
    return {
        ALL_METRICS: at_horizons(anchors[:, observed].mean(axis=1)) if observed.any() else None,
        **{column: at_horizons(anchors[:, k]) if observed[k] else None for k, column in enumerate(METRIC_COLUMNS)},
    }


def _sentence(
    server_name: str, past: dict[str, float], attention: Attention, anchors: dict[str, dict[str, float]] | None
) -> str:
    """The main points in one line."""
    if anchors is None:
        return f"{server_name} reported nothing in the day before, so there is no forecast to explain."
    read = _listed([f"{title} ({_percent(share)})" for title, share in list(past.items())[:3]])
    parts = [f"Of the past, the forecast of {server_name} reads mostly {read}"]
    hour = max(attention.past_hours, key=lambda each: each.share)
    if hour.share > 0:
        seen = sum(each.share for each in attention.past_hours)
        when = "the last hour" if hour.hours_before == 1 else f"the hour that began {hour.hours_before} hours before"
        parts.append(f"{_percent(seen)} of its attention goes to past hours, first of all to {when}")
    starts = [(horizon, next(iter(shares.items()))) for horizon, shares in anchors.items() if shares]
    if starts:
        (soon, (first, of_first)), (late, (last, of_last)) = starts[0], starts[-1]
        soon, late = (f"{_HORIZON_WORDS.get(horizon, horizon)} ahead" for horizon in (soon, late))
        there = "" if first == last else f" from “{last}”"
        parts.append(
            f"it starts from “{first}” by {_percent(of_first)} {soon} and{there} by {_percent(of_last)} {late}"
        )
    return "; ".join(parts) + "."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {name: round(share, _DIGITS) for name, share in shares.items()}


def _self_check() -> None:
    steps, rng = 24, np.random.default_rng(0)

    def rows(*shape: int) -> FloatArray:
        raw: FloatArray = rng.random(shape, dtype=np.float32)
        raw /= raw.sum(axis=-1, keepdims=True)
        return raw

    class Demo:
        def explain_grid(self, grid: FleetGrid, server: int) -> ForecastWeights:
            names = (*METRIC_COLUMNS, "time_of_day_sin")
            measured = np.isfinite(grid.values[server, -steps:])
            before = np.arange(steps, 0, -1)
            return ForecastWeights(
                *(True, {"profile": 1.0}, names, rows(steps, 5), names[4:], rows(HORIZON_STEPS, 1)),
                *(rows(HORIZON_STEPS, steps + HORIZON_STEPS), before, measured),
                *(("recent", "day_ago"), rows(HORIZON_STEPS, 4, 2), np.ones(4, dtype=np.bool_)),
            )

    values = np.full((1, steps, 4), 50.0, dtype=np.float32)
    values[0, :12] = np.nan
    grid = FleetGrid(("ppweb001",), ("web_api",), 0, values, np.zeros((1, steps), dtype=np.int8))
    found = explain(Demo(), grid, "ppweb001")
    assert abs(sum(found.past.values()) - 1) < 1e-6 and GAPS in found.past
    assert [hour.measured for hour in found.attention.past_hours] == [1.0, 0.0]
    assert found.attention.past_hours[1].share == 0.0 and found.attention.without_data > 0
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
