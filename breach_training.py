"""How the reader of breaches is trained: on a model's own forecasts of the time that it learned from.

Forecasts before a breach are few, so all servers that have one ahead are drawn at each origin, and of the others some,
each with the weight that makes up for it. Several small networks are averaged, because a few dozen events are little.
Knows nothing of files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from alert_events import Event, find_crossings, limits_of, outcomes
from alert_replay import MOST_FORECASTS, fit_risk_calibration
from breach_reader import BreachReader, Floats, scaled_inputs
from config import Settings
from fleet_grid import FleetGrid
from forecast import Forecast
from risk_calibration import RiskCalibration
from tft_risk import breach_probability, inputs_of_reader

Predict = Callable[[FleetGrid], Forecast]
Progress = Callable[[int, int], None]

LEAST_EVENTS: Final = 12  # that a reader is trained on
_NETWORKS: Final = 3
_WIDTHS: Final = (64, 32)
_DROPOUT: Final = 0.15
_WEIGHT_DECAY: Final = 1e-3
_RATE: Final = 5e-3
_BATCH: Final = 1024
_PASSES, _LEAST_STEPS, _MOST_STEPS = 10, 300, 1500
_EVERY_STEPS: Final = 4
_LEAST_HISTORY: Final = 72
_EVENTFUL_SHARE: Final = 0.5  # of the forecasts, at most


def train_risk_calibration(
    predict: Predict,
    grid: FleetGrid,
    first: int,
    settings: Settings,
    *,
    history_steps: int,
    end: int | None = None,
    most: int = MOST_FORECASTS,
    progress: Progress | None = None,
) -> RiskCalibration | None:
    """Train a reader of breaches on the time that a model has learned from, and calibrate it on the time after that.

    Parameters
    ----------
    predict : callable
        Forecasts a grid from its end on.
    first, end : int
        First column that the model has not learned from, and first column that must not be looked at.
    history_steps : int
        Steps before an origin that a forecast is made of.
    most : int
        At most about so many forecasts of single servers, a quarter of them for the reader.
    progress : callable, optional
        Called with the forecasts done and the forecasts in all, of the one and then of the other.

    Returns
    -------
    RiskCalibration or None
        Without a reader where too few events were learned from; None where too few came after that.
    """
    limits = limits_of(grid, settings)
    learned = grid.until(grid.first_step + first)
    events = find_crossings(learned, limits)
    lessons = gather_lessons(predict, learned, limits, events, first, most // 4, history_steps, settings.seed, progress)
    reader = None if lessons is None else train_reader(lessons, settings.seed)
    return fit_risk_calibration(
        predict, grid, first, settings, end=end, reader=reader, most=most - most // 4, progress=progress
    )


@dataclass(frozen=True)
class Lessons:
    """What a reader learns from, one row per metric of a forecast that is not in trouble."""

    inputs: Floats
    came_true: npt.NDArray[np.bool_]
    weight: Floats


def gather_lessons(
    predict: Predict,
    grid: FleetGrid,
    limits: npt.NDArray[np.float64],
    events: Sequence[Event],
    end: int,
    most: int,
    history_steps: int,
    seed: int,
    progress: Progress | None = None,
) -> Lessons | None:
    """Forecast before the events of a time, and now and then besides, and look at what came.

    Parameters
    ----------
    predict : callable
        Forecasts a grid from its end on.
    end : int
        First column that must not be looked at.
    most : int
        At most about so many forecasts of single servers.
    history_steps : int
        Steps before an origin that a forecast is made of.

    Returns
    -------
    Lessons or None
        None if there are too few events.
    """
    rng = np.random.default_rng([seed, 6])
    first = _LEAST_HISTORY
    columns = np.arange(first, end - 95, _EVERY_STEPS, dtype=np.int64)
    told = [event for event in events if first <= event.breach < end]
    if len(told) < LEAST_EVENTS or not len(columns):
        return None
    ahead, during = outcomes(told, columns, grid.n_servers)
    eventful = (ahead & ~during).any(axis=-1)
    n_eventful = int(eventful.sum())
    if not n_eventful:
        return None
    drawn = min(1.0, _EVENTFUL_SHARE * most / n_eventful)
    others = min(1.0, (most - drawn * n_eventful) / max(1, eventful.size - n_eventful))
    share = np.where(eventful, drawn, others)
    chosen = rng.random(share.shape) < share
    inputs, came_true, weight = [], [], []
    for number, column in enumerate(columns.tolist()):
        servers = np.flatnonzero(chosen[number])
        if len(servers):
            seen = grid.until(grid.first_step + column).since(grid.first_step + column - history_steps)
            forecast = predict(seen.select(servers.tolist()))
            by_step = breach_probability(forecast, limits[servers])
            usable = ~during[number][servers] & np.isfinite(by_step[:, 0])
            inputs.append(inputs_of_reader(forecast, limits[servers], by_step)[usable])
            came_true.append(ahead[number][servers][usable])
            counts = np.broadcast_to(1 / share[number][servers][:, None], usable.shape)
            weight.append(counts[usable].astype(np.float32))
        if progress is not None:
            progress(number + 1, len(columns))
    return Lessons(np.concatenate(inputs), np.concatenate(came_true), np.concatenate(weight))


def train_reader(lessons: Lessons, seed: int) -> BreachReader | None:
    """Train a reader; the state of torch's random numbers stays as it was. None if nothing came true in the lessons."""
    if not lessons.came_true.any():
        return None
    mean, spread = lessons.inputs.mean(axis=0), lessons.inputs.std(axis=0) + np.float32(1e-3)
    inputs = torch.from_numpy(scaled_inputs(lessons.inputs, mean, spread))
    labels = torch.from_numpy(lessons.came_true.astype(np.float32))
    weight = torch.from_numpy(lessons.weight / lessons.weight.mean())
    with torch.random.fork_rng(devices=[]):
        networks = []
        for number in range(_NETWORKS):
            torch.manual_seed(seed % (2**31) + number)
            networks.append(_train(inputs, labels, weight))
    return BreachReader(mean.astype(np.float32), spread.astype(np.float32), tuple(networks))


def _train(inputs: Tensor, labels: Tensor, weight: Tensor) -> tuple[tuple[Floats, Floats], ...]:
    """Layers of one network."""
    parts: list[nn.Module] = []
    size = inputs.shape[1]
    for width in _WIDTHS:
        parts += [nn.Linear(size, width), nn.SiLU(), nn.Dropout(_DROPOUT)]
        size = width
    network = nn.Sequential(*parts, nn.Linear(size, 1))
    # Without knowing anything, the base rate.
    rate = float((labels * weight).sum() / weight.sum())
    network[-1].bias.data.fill_(math.log(max(rate, 1e-6) / max(1 - rate, 1e-6)))  # type: ignore[operator]
    steps = min(max(_PASSES * math.ceil(len(inputs) / _BATCH), _LEAST_STEPS), _MOST_STEPS)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    order = torch.empty(0, dtype=torch.int64)
    network.train()
    for _ in range(steps):
        if len(order) < min(_BATCH, len(inputs)):
            order = torch.randperm(len(inputs))
        rows, order = order[:_BATCH], order[_BATCH:]
        logits = network(inputs[rows])[:, 0]
        losses: Any = nn.functional.binary_cross_entropy_with_logits(logits, labels[rows], reduction="none")
        loss = (losses * weight[rows]).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    linear = [part for part in network if isinstance(part, nn.Linear)]
    return tuple((part.weight.detach().numpy().copy(), part.bias.detach().numpy().copy()) for part in linear)


def _self_check() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(20_000, 6)).astype(np.float32)
    truth = 1 / (1 + np.exp(3 - 2 * inputs[:, 0]))
    reader = train_reader(Lessons(inputs, rng.random(len(inputs)) < truth, np.ones(len(inputs), dtype=np.float32)), 1)
    assert reader is not None and np.abs(reader(inputs) - truth).mean() < 0.03
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
