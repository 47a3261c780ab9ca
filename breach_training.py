"""How the reader of breaches is trained: on a model's own forecasts of the time that it learned from.

Forecasts before a breach are few, so most are made shortly before one, of all servers that have one ahead and of some
others, each with the weight that makes up for it. Several small networks are averaged, because a few dozen events are
little. Knows nothing of files.
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
from alert_replay import CALL_COST, MOST_FORECASTS, fit_risk_calibration
from breach_reader import CLOCK_ENDS, BreachReader, Floats, Network, scaled_inputs
from config import Settings
from data_contract import HORIZON_STEPS, METRIC_COLUMNS
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
_PASSES, _LEAST_STEPS, _MOST_STEPS = 15, 300, 800  # more of them, and it knows the events by heart
_LEAST_HISTORY: Final = 72  # steps before a forecast
_SERVERS_A_CALL: Final = 20  # that are forecast at once, on average
_EVENTFUL_SHARE: Final = 0.5  # of these, at most
_SOON_STEPS: Final = 24  # before a breach
_SOON_SHARE: Final = 2 / 3  # of the moments that are forecast from
_FADING_STEPS: Final = 12  # before a breach, until a forecast counts for a third
_READERS_SHARE: Final = 0.4  # of the work


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
        How much is forecast at most, as `fit_risk_calibration` counts it; two fifths of it for the reader.
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
    of_reader = round(_READERS_SHARE * most)
    lessons = gather_lessons(predict, learned, limits, events, first, of_reader, history_steps, settings.seed, progress)
    reader = None if lessons is None else train_reader(lessons, settings.seed)
    return fit_risk_calibration(
        predict, grid, first, settings, end=end, reader=reader, most=most - of_reader, progress=progress
    )


@dataclass(frozen=True)
class Lessons:
    """What a reader learns from, one row per metric of a forecast that is not in trouble.

    Attributes
    ----------
    inputs : float32 array, (n, n_inputs)
    steps : int64 array, (n,)
        In how many steps the breach came; 0 where none did.
    stands_for : float32 array, (n,)
        How many forecasts each row stands for.
    """

    inputs: Floats
    steps: npt.NDArray[np.int64]
    stands_for: Floats

    @property
    def came_true(self) -> npt.NDArray[np.bool_]:
        """Whether a breach came, (n,)."""
        return self.steps > 0

    @property
    def weight(self) -> Floats:
        """How much each row counts for whether one comes, (n,): before a breach the less, the longer before.

        Most breaches cannot be seen hours before. Forecasts from then have the same label as those that show the way to
        it, and are more; a network that must tell them apart from calm ones learns by heart on which servers they were.
        """
        near = np.where(self.came_true, np.exp(-(self.steps - 1) / _FADING_STEPS), 1.0)
        return (near * self.stands_for).astype(np.float32)


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
        How much is forecast at most, as `fit_risk_calibration` counts it.
    history_steps : int
        Steps before an origin that a forecast is made of.

    Returns
    -------
    Lessons or None
        None if there are too few events, or none of them was ahead of a forecast.
    """
    rng = np.random.default_rng([seed, 6])
    told = [event for event in events if _LEAST_HISTORY <= event.breach < end]
    if len(told) < LEAST_EVENTS:
        return None
    columns, drawn = _drawn_columns(told, end, max(1, most // (CALL_COST + _SERVERS_A_CALL)), rng)
    ahead, during = outcomes(told, columns, grid.n_servers)
    eventful = (ahead & ~during).any(axis=-1)
    room, n_eventful = len(columns) * _SERVERS_A_CALL, int(eventful.sum())
    if not n_eventful:
        return None
    taken = min(1.0, _EVENTFUL_SHARE * room / n_eventful)
    others = min(1.0, (room - taken * n_eventful) / max(1, eventful.size - n_eventful))
    share = np.where(eventful, taken, others)
    chosen = rng.random(share.shape) < share
    until = _steps_until(told, columns, grid.n_servers)
    inputs, steps, weight = [], [], []
    for number, column in enumerate(columns.tolist()):
        servers = np.flatnonzero(chosen[number])
        if len(servers):
            seen = grid.until(grid.first_step + column).since(grid.first_step + column - history_steps)
            forecast = predict(seen.select(servers.tolist()))
            by_step = breach_probability(forecast, limits[servers])
            usable = ~during[number][servers] & np.isfinite(by_step[:, 0])
            inputs.append(inputs_of_reader(forecast, limits[servers], by_step)[usable])
            steps.append(until[number][servers][usable])
            stands_for = 1 / (drawn[number] * share[number][servers])
            weight.append(np.broadcast_to(stands_for[:, None], usable.shape)[usable].astype(np.float32))
        if progress is not None:
            progress(number + 1, len(columns))
    if not inputs:
        return None
    return Lessons(np.concatenate(inputs), np.concatenate(steps), np.concatenate(weight))


def _drawn_columns(
    events: Sequence[Event], end: int, most: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Columns to forecast from, two thirds of them shortly before a breach, and the chance that each had."""
    columns = np.arange(_LEAST_HISTORY, end - HORIZON_STEPS + 1, dtype=np.int64)
    soon = np.zeros(end + 1, dtype=np.bool_)
    for event in events:
        soon[max(0, event.breach - _SOON_STEPS + 1) : event.breach + 1] = True
    is_soon = soon[columns]
    chance = np.zeros(len(columns), dtype=np.float32)
    n_soon, n_late = int(is_soon.sum()), int((~is_soon).sum())
    of_soon = min(1.0, most * _SOON_SHARE / max(1, n_soon))
    chance[is_soon] = of_soon
    chance[~is_soon] = min(1.0, (most - of_soon * n_soon) / max(1, n_late))
    chosen = rng.random(len(columns)) < chance
    return columns[chosen], chance[chosen]


def _steps_until(events: Sequence[Event], columns: npt.NDArray[np.int64], n_servers: int) -> npt.NDArray[np.int64]:
    """In how many steps the next breach comes after each forecast, (columns, n_servers, n_metrics).

    1 is the first step of the horizon, 0 stands for no breach within it.
    """
    until = np.zeros((len(columns), n_servers, len(METRIC_COLUMNS)), dtype=np.int64)
    for event in sorted(events, key=lambda each: -each.breach):  # the next breach has the last word
        first, last = np.searchsorted(columns, (event.breach - HORIZON_STEPS + 1, event.breach + 1))
        until[first:last, event.server, list(event.metrics)] = (event.breach - columns[first:last] + 1)[:, None]
    return until


def train_reader(lessons: Lessons, seed: int) -> BreachReader | None:
    """Train a reader; the state of torch's random numbers stays as it was. None if nothing came true in the lessons."""
    if not lessons.came_true.any():
        return None
    mean, spread = lessons.inputs.mean(axis=0), lessons.inputs.std(axis=0) + np.float32(1e-3)
    inputs = torch.from_numpy(scaled_inputs(lessons.inputs, mean, spread))
    came = torch.from_numpy(lessons.came_true)
    weight = torch.from_numpy(lessons.weight / lessons.weight.mean())
    # When a breach comes is learned from all forecasts before one alike, whether it was near or far.
    bins = torch.from_numpy(np.searchsorted(CLOCK_ENDS, lessons.steps[lessons.came_true]))
    counts = torch.from_numpy(lessons.stands_for[lessons.came_true])
    with torch.random.fork_rng(devices=[]):
        networks, clocks = [], []
        for number in range(_NETWORKS):
            torch.manual_seed(seed % (2**31) + number)
            networks.append(_train(_Whether(came.float()), inputs, weight))
            clocks.append(_train(_When(bins), inputs[came], counts / counts.mean()))
    return BreachReader(mean.astype(np.float32), spread.astype(np.float32), tuple(networks), tuple(clocks))


class _Whether:
    """Loss of what says whether a breach comes."""

    outputs = 1

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels

    def usual(self, weight: Tensor) -> Tensor:
        """Logits of who knows nothing: the base rate."""
        rate = float((self._labels * weight).sum() / weight.sum())
        return torch.tensor([math.log(max(rate, 1e-6) / max(1 - rate, 1e-6))])

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        labels = self._labels[rows]
        return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels, reduction="none")


class _When:
    """Loss of what says in which bin of `CLOCK_ENDS` it comes."""

    outputs = len(CLOCK_ENDS)

    def __init__(self, bins: Tensor) -> None:
        self._bins = bins

    def usual(self, weight: Tensor) -> Tensor:
        """Logits of who knows nothing: how often it came in each bin, and once more."""
        share = torch.bincount(self._bins, weight, minlength=self.outputs) + 1
        return torch.log(share / share.sum()).float()

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, self._bins[rows], reduction="none")


def _train(loss_of: _Whether | _When, inputs: Tensor, weight: Tensor) -> Network:
    """Layers of one network."""
    parts: list[nn.Module] = []
    size = inputs.shape[1]
    for width in _WIDTHS:
        parts += [nn.Linear(size, width), nn.SiLU(), nn.Dropout(_DROPOUT)]
        size = width
    last = nn.Linear(size, loss_of.outputs)
    last.bias.data.copy_(loss_of.usual(weight))
    network = nn.Sequential(*parts, last)
    steps = min(max(_PASSES * math.ceil(len(inputs) / _BATCH), _LEAST_STEPS), _MOST_STEPS)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    order = torch.empty(0, dtype=torch.int64)
    network.train()
    for _ in range(steps):
        if len(order) < min(_BATCH, len(inputs)):
            order = torch.randperm(len(inputs))
        rows, order = order[:_BATCH], order[_BATCH:]
        loss: Any = (loss_of(network(inputs[rows]), rows) * weight[rows]).mean()
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
    steps = (rng.random(len(inputs)) < truth).astype(np.int64)
    reader = train_reader(Lessons(inputs, steps, np.ones(len(inputs), dtype=np.float32)), 1)
    assert reader is not None and np.abs(reader(inputs) - truth).mean() < 0.03
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
