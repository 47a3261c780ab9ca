"""How likely a metric crosses its threshold, and when: read off a forecast and the day before it by small networks.

Quantiles of single steps do not say whether a threshold is crossed at some step, nor at which first: that depends on
how the steps hang together, and on how far the metric has already gone on its way. The reader is trained on the model's
own forecasts of the time that it learned from (`breach_training.py`) and sees each metric as shares of its threshold,
so that one reader serves all metrics, profiles and servers. NumPy only: it is served without torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from data_contract import HORIZON_STEPS, METRIC_COLUMNS, VALID_PROFILES

Floats = npt.NDArray[np.float32]

RECENT_STEPS: Final = 288  # the day before
PREFIX: Final = "breach."
CLOCK_ENDS: Final = (1, 2, 3, 4, 6, 8, 12, 18, 24, 36, 48, 72, HORIZON_STEPS)  # steps to a breach: last one of each bin
_CLOCK: Final = "clock."  # after the prefix, of the networks that say when
_MOST_NETWORKS, _MOST_LAYERS, _MOST_WIDTH = 8, 4, 512

_LAGS = (0, 1, 2, 3, 4, 5, 7, 9, 11, 17, 23, 35, 47, 71)
_SLOPES = (6, 12, 24)  # steps of history that a line is laid through
_AHEAD = (6, 12, 24, HORIZON_STEPS)  # steps of the forecast that are looked at
_LATE = 72  # steps of the last hours
_LATEST = 12  # steps that do not count for what is usual
_SMALL = np.float32(0.003)  # share of a threshold: what is below is as good as nothing
_HIGHEST = 1.5  # share of a threshold
_LEAST_LIMIT = 1e-6  # thresholds may be set to 0
_RANKS = (0.5, 0.75, 0.95, 1.0)
_PER_DAY = 288


def reader_inputs(
    recent: Floats,
    limits: npt.NDArray[np.floating[Any]],
    profiles: Sequence[str],
    origin_step: int,
    by_step: npt.NDArray[np.floating[Any]],
    median: Floats,
    high: Floats,
) -> Floats:
    """What the reader is shown of each server and metric.

    Parameters
    ----------
    recent : float array, (n_servers, 288, n_metrics)
        The day before the origin, NaN where nothing was measured.
    limits : float array, (n_servers, n_metrics)
    origin_step : int
        First step of the horizon, since 1970.
    by_step : float array, (n_servers, 96, n_metrics)
        P(value > threshold).
    median, high : float arrays, (n_servers, 96, n_metrics)
        p50 and p90.

    Returns
    -------
    float32 array, (n_servers, n_metrics, n_inputs)
    """
    limits = np.maximum(limits, _LEAST_LIMIT).astype(np.float32)
    missing = ~np.isfinite(recent)
    share = np.clip(np.where(missing, 0, recent) / limits[:, None], 0, _HIGHEST)
    late = np.ascontiguousarray(np.moveaxis(share[:, -_LATE:], 1, 0))  # (steps, n_servers, n_metrics)
    log = np.log(late + _SMALL)
    before = np.sort(np.ascontiguousarray(np.moveaxis(share[:, :-_LATEST], 1, -1)), axis=-1)
    usual = [before[..., round(rank * (before.shape[-1] - 1))] for rank in _RANKS]
    usual_log = [np.log(value + _SMALL) for value in usual]
    now, now_log = late[-1], log[-1]
    own = [late[-1 - lag] for lag in _LAGS]
    own += [now_log - log[-1 - lag] for lag in (3, 6, 12, 24, 71)]
    own += [usual[0], usual[2], usual[3], now - usual[2], now - usual[3], before.std(axis=-1), now_log]
    own += [now_log - usual_log[place] for place in (0, 2, 3)]
    for steps in _SLOPES:
        own += _line(late[-steps:], 1 - now, 1e-3) + _line(log[-steps:], -now_log, 2e-3)[:3]
    own.append(share[:, : max(_SLOPES)].max(axis=1))  # yesterday, the next hours
    ahead = [step - 1 for step in _AHEAD]
    likely = [np.clip(np.nan_to_num(by_step[:, :steps].max(axis=1)), 0.005, 0.995) for steps in _AHEAD]
    own += [np.log(each / (1 - each)) for each in likely]
    for curve in (median, high):
        told = np.nan_to_num(np.clip(curve[:, ahead] / limits[:, None], 0, _HIGHEST))
        own += list(np.moveaxis(told, 1, 0))
        own.append(np.log(np.maximum(told[:, 1], 0) + _SMALL) - now_log)
    single = np.stack([np.asarray(each, dtype=np.float32) for each in own], axis=-1)
    return np.concatenate([single, _surroundings(now, now_log, usual_log[0], log, missing, profiles, origin_step)], -1)


def _line(values: Floats, way: Floats, least: float) -> list[Floats]:
    """A line through values over their first axis: rise per hour, stray, time until it has come all the way.

    Then how steadily they rise, the least and the largest.
    """
    steps = len(values)
    x = (np.arange(steps) - (steps - 1) / 2).astype(np.float32)[:, None, None]
    rise = (values * x).sum(axis=0) / (x**2).sum()
    stray = values - values.mean(axis=0) - rise * x
    arrival = np.log(np.clip(way / np.maximum(rise, least), 0.1, 1e3))
    steady = (np.diff(values, axis=0) > 0).mean(axis=0)
    spread = np.sqrt((stray**2).mean(axis=0))
    return [rise * 12, spread, arrival, steady, values.min(axis=0), values.max(axis=0)]


def _surroundings(
    now: Floats,
    now_log: Floats,
    usual_log: Floats,
    log: Floats,
    missing: npt.NDArray[np.bool_],
    profiles: Sequence[str],
    origin_step: int,
) -> Floats:
    """What all metrics of a server share: the other metrics, its role, the time of day; and which metric it is."""
    n_servers, n_metrics = now.shape
    role = np.eye(len(VALID_PROFILES), dtype=np.float32)[[VALID_PROFILES.index(profile) for profile in profiles]]
    hour = 2 * np.pi * (origin_step % _PER_DAY) / _PER_DAY
    clock = np.broadcast_to(np.array([np.sin(hour), np.cos(hour)], dtype=np.float32), (n_servers, 2))
    gaps = missing[:, -_LATEST:].mean(axis=1)
    shared: npt.NDArray[Any] = np.concatenate([now, now_log - usual_log, now_log - log[-7], role, clock, gaps], axis=-1)
    which: npt.NDArray[Any] = np.broadcast_to(np.eye(n_metrics), (n_servers, n_metrics, n_metrics))
    told: npt.NDArray[Any] = np.concatenate([np.repeat(shared[:, None], n_metrics, axis=1), which], axis=-1)
    return told.astype(np.float32)


def count_inputs() -> int:
    """Number of inputs per server and metric."""
    n_metrics = len(METRIC_COLUMNS)
    nothing = np.zeros((1, HORIZON_STEPS, n_metrics), dtype=np.float32)
    recent = np.zeros((1, RECENT_STEPS, n_metrics), dtype=np.float32)
    limits = np.ones((1, n_metrics), dtype=np.float32)
    inputs = reader_inputs(recent, limits, (VALID_PROFILES[0],), 0, nothing, nothing, nothing)
    return int(inputs.shape[-1])


Network = tuple[tuple[Floats, Floats], ...]  # layers: weights (out, in) and biases, SiLU between them


@dataclass(frozen=True)
class BreachReader:
    """Small networks whose mean is what is said of breaches.

    Attributes
    ----------
    mean, spread : float32 arrays, (n_inputs,)
        By which inputs are scaled.
    networks : tuple of Network
        Each gives a logit: whether a breach comes.
    clocks : tuple of Network
        Each gives a logit for each bin of `CLOCK_ENDS`: when it comes, if it does. Empty where too few breaches were
        learned from, and in models made before there were clocks.
    """

    mean: Floats
    spread: Floats
    networks: tuple[Network, ...]
    clocks: tuple[Network, ...] = ()

    def __call__(self, inputs: Floats) -> Floats:
        """Probabilities of a breach, (…) of inputs (…, n_inputs)."""
        scaled = scaled_inputs(inputs, self.mean, self.spread)
        total: npt.NDArray[Any] = np.zeros(inputs.shape[:-1], dtype=np.float32)
        for layers in self.networks:
            total += 1 / (1 + np.exp(-np.clip(_through(layers, scaled)[..., 0], -60, 60)))
        return (total / len(self.networks)).astype(np.float32)

    def course(self, inputs: Floats) -> Floats:
        """How likely the breach, if it comes, has come by each step, (…, 96) of inputs (…, n_inputs); it ends at 1.

        Raises
        ------
        ValueError
            If the reader has no clocks.
        """
        if not self.clocks:
            raise ValueError("this reader of breaches has no clocks")
        scaled = scaled_inputs(inputs, self.mean, self.spread)
        total: npt.NDArray[Any] = np.zeros((*inputs.shape[:-1], len(CLOCK_ENDS)), dtype=np.float32)
        for layers in self.clocks:
            logits = _through(layers, scaled)
            odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
            total += odds / odds.sum(axis=-1, keepdims=True)
        lengths = np.diff((0, *CLOCK_ENDS))
        course = np.repeat(total / lengths, lengths, axis=-1).cumsum(axis=-1)
        return np.asarray(course / course[..., -1:], dtype=np.float32)

    def arrays(self) -> dict[str, Floats]:
        """Its numbers by name, as they are kept beside a model's weights."""
        named = {f"{PREFIX}mean": self.mean, f"{PREFIX}spread": self.spread}
        for group, networks in (("", self.networks), (_CLOCK, self.clocks)):
            for n, layers in enumerate(networks):
                for k, (weight, bias) in enumerate(layers):
                    named |= {f"{PREFIX}{group}{n}.{k}.weight": weight, f"{PREFIX}{group}{n}.{k}.bias": bias}
        return named

    @classmethod
    def from_arrays(cls, named: Mapping[str, npt.NDArray[Any]]) -> BreachReader:
        """Inverse of `arrays`; ValueError on anything else."""
        width = count_inputs()
        expected: dict[str, tuple[int, ...]] = {f"{PREFIX}mean": (width,), f"{PREFIX}spread": (width,)}
        networks = _networks(named, PREFIX, width, 1, expected)
        if not networks:
            raise ValueError(f"a reader of breaches has 1 to {_MOST_NETWORKS} networks of 1 to {_MOST_LAYERS} layers")
        clocks = _networks(named, PREFIX + _CLOCK, width, len(CLOCK_ENDS), expected)
        for name in sorted(expected.keys() | named.keys()):
            array = named.get(name)
            if array is None or array.shape != expected.get(name) or array.dtype != np.float32:
                raise ValueError(f"{name} is not what a reader of breaches has")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds values that are not finite")
        if not (named[f"{PREFIX}spread"] > 0).all():
            raise ValueError(f"{PREFIX}spread holds values that are not above 0")
        return cls(named[f"{PREFIX}mean"], named[f"{PREFIX}spread"], networks, clocks)


def _networks(
    named: Mapping[str, npt.NDArray[Any]], prefix: str, width: int, outputs: int, expected: dict[str, tuple[int, ...]]
) -> tuple[Network, ...]:
    """The networks of a group, whose arrays' shapes are added to those expected."""
    depth: dict[int, int] = {}
    for found in filter(None, (re.fullmatch(rf"{re.escape(prefix)}(\d)\.(\d)\.weight", name) for name in named)):
        depth[int(found[1])] = max(depth.get(int(found[1]), 0), int(found[2]) + 1)
    if len(depth) > _MOST_NETWORKS or max(depth.values(), default=0) > _MOST_LAYERS:
        raise ValueError(f"a reader of breaches has 1 to {_MOST_NETWORKS} networks of 1 to {_MOST_LAYERS} layers")
    networks = []
    for n in sorted(depth):
        layers = []
        size = width
        for k in range(depth[n]):
            weight, bias = (named.get(f"{prefix}{n}.{k}.{part}") for part in ("weight", "bias"))
            if weight is None or bias is None:
                raise ValueError(f"layer {k} of network {n} of the reader of breaches is not there")
            out = outputs if k == depth[n] - 1 else min(len(bias), _MOST_WIDTH)
            expected |= {f"{prefix}{n}.{k}.weight": (out, size), f"{prefix}{n}.{k}.bias": (out,)}
            layers.append((weight, bias))
            size = out
        networks.append(tuple(layers))
    return tuple(networks)


def _through(layers: Network, hidden: Floats) -> npt.NDArray[Any]:
    """What a network gives of scaled inputs."""
    for weight, bias in layers[:-1]:
        hidden = hidden @ weight.T + bias
        hidden = hidden / (1 + np.exp(-np.clip(hidden, -60, 60)))
    weight, bias = layers[-1]
    return np.asarray(hidden @ weight.T + bias)


def scaled_inputs(inputs: Floats, mean: Floats, spread: Floats) -> Floats:
    """Inputs on one scale, and bounded: what is far out says no more than what is out."""
    scaled: Floats = np.clip((inputs - mean) / spread, -6, 6).astype(np.float32)
    return scaled


def _self_check() -> None:
    rng = np.random.default_rng(0)
    width = count_inputs()
    told, when = (
        tuple(
            (rng.normal(size=(out, size)).astype(np.float32), np.zeros(out, dtype=np.float32))
            for out, size in ((8, width), (outputs, 8))
        )
        for outputs in (1, len(CLOCK_ENDS))
    )
    reader = BreachReader(np.zeros(width, dtype=np.float32), np.ones(width, dtype=np.float32), (told,), (when,))
    again = BreachReader.from_arrays(reader.arrays())
    inputs = rng.normal(size=(5, 4, width)).astype(np.float32)
    assert np.array_equal(reader(inputs), again(inputs)) and reader(inputs).shape == (5, 4)
    course = again.course(inputs)
    assert course.shape == (5, 4, HORIZON_STEPS) and (np.diff(course) >= 0).all() and (course[..., -1] == 1).all()
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
