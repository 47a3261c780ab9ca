"""What a model's risk is worth: the map from what its quantiles say to how often that came true.

The largest P(value > threshold) over the steps of a horizon is not the probability that the threshold is crossed at
some step of it: it is too small where the time of a breach is uncertain, and too large where quantiles are too wide. On
time that the model has not learned from, the map between the two is fitted by isotonic regression (pool adjacent
violators; Barlow et al., Statistical Inference under Order Restrictions, 1972), one per metric where enough events were
seen, else one for all metrics. With it comes at which probability alerts open and close. Both are kept with the model.
NumPy only; knows nothing of forecasts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alert_hysteresis import AlertPolicy
from breach_reader import BreachReader
from data_contract import METRIC_COLUMNS

Floats = npt.NDArray[np.floating[Any]]

ENOUGH_EVENTS: Final = 20  # of a metric, for a map of its own
LEAST_EVENTS: Final = 5  # of all metrics, for any map
_MOST_KNOTS: Final = 64
_BINS: Final = 200
_ALMOST_CERTAIN: Final = 0.99  # the most that quantiles up to p98 can say


@dataclass(frozen=True)
class RiskMap:
    """A monotone map from raw risk to probability: linear between knots, constant below them.

    Above them it rises to near certainty. Risks that high were never seen while the map was fitted, often because
    nothing went wrong in that time; what was seen of lower ones must not tell people that a server on fire is well.
    """

    raw: tuple[float, ...]
    probability: tuple[float, ...]

    def __post_init__(self) -> None:
        both = (self.raw, self.probability)
        if len(self.raw) != len(self.probability) or not 1 <= len(self.raw) <= _MOST_KNOTS:
            raise ValueError(f"a map of {len(self.raw)} to {len(self.probability)} knots")
        if not all(math.isfinite(each) and 0 <= each <= 1 for knots in both for each in knots):
            raise ValueError("knots of a map must lie within 0 to 1")
        if any(a >= b for a, b in zip(self.raw, self.raw[1:], strict=False)) or any(
            a > b for a, b in zip(self.probability, self.probability[1:], strict=False)
        ):
            raise ValueError("knots of a map must rise")

    def __call__(self, raw: Floats) -> npt.NDArray[np.float64]:
        """Probabilities; NaN stays NaN."""
        raws, probabilities = self.raw, self.probability
        if raws[-1] < 1:
            raws, probabilities = (*raws, 1.0), (*probabilities, max(_ALMOST_CERTAIN, probabilities[-1]))
        mapped: npt.NDArray[np.float64] = np.interp(raw, raws, probabilities)
        return mapped


@dataclass(frozen=True)
class RiskCalibration:
    """How a model's risk is read.

    Attributes
    ----------
    maps : tuple of RiskMap
        One per metric, in the contract's order.
    policy : AlertPolicy
        At which probability alerts open and close.
    described : dict
        From what it was fitted: for people and reports.
    reader : BreachReader or None
        What gives the raw risk; without it, that is the largest P(value > threshold) over the horizon. It is kept
        beside the model's weights, and not in the JSON form.
    """

    maps: tuple[RiskMap, ...]
    policy: AlertPolicy
    described: dict[str, Any]
    reader: BreachReader | None = None

    def probability(self, raw: Floats) -> npt.NDArray[np.float64]:
        """Calibrated probabilities of raw risks, (…, n_metrics)."""
        return np.stack([self.maps[k](raw[..., k]) for k in range(len(METRIC_COLUMNS))], axis=-1)

    def as_dict(self) -> dict[str, Any]:
        """JSON form, kept in `training_info.json`."""
        maps = {
            metric: {"raw": list(each.raw), "probability": list(each.probability)}
            for metric, each in zip(METRIC_COLUMNS, self.maps, strict=True)
        }
        parts = {"maps": maps, "policy": self.policy.as_dict(), "described": self.described}
        return {**parts, "reader": self.reader is not None}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], reader: BreachReader | None = None) -> RiskCalibration:
        """Inverse of `as_dict`, with the reader it was fitted for; KeyError, TypeError or ValueError on else."""
        if not isinstance(content, Mapping):
            raise TypeError("it is no JSON object")
        if content.get("reader", False) is not (reader is not None):
            raise ValueError("it was fitted for another reader of breaches than there is")
        maps = []
        for metric in METRIC_COLUMNS:
            knots = content["maps"][metric]
            raw, probability = (tuple(float(each) for each in knots[key]) for key in ("raw", "probability"))
            maps.append(RiskMap(raw, probability))
        policy = AlertPolicy.from_dict(content["policy"])
        if not (policy.close_at > 0 and policy.open_at < 1):
            raise ValueError("alerts must open and close at probabilities between 0 and 1")
        return cls(tuple(maps), policy, dict(content["described"]), reader)


def fit_map(
    raw: Floats, came_true: npt.NDArray[np.bool_], weight: Floats, alike: float = 1.0, *, is_probability: bool = False
) -> RiskMap:
    """Fit the monotone map from raw risks to the frequency of what they announce.

    Parameters
    ----------
    raw, came_true, weight : arrays, (n,)
        Raw risk of a forecast, whether the breach came, and how many forecasts it stands for.
    alike : float
        How many successive forecasts tell of one and the same event. The evidence counts for so much less: every
        pool is drawn towards what is believed without it as if it held one more forecast of `alike`, so that no pool
        is certain.
    is_probability : bool
        Whether the raw risk itself is believed without evidence, as that of a trained reader is; else the base rate.
    """
    order = np.argsort(raw, kind="stable")
    raw, gain, weight = (np.asarray(each, dtype=np.float64)[order] for each in (raw, came_true, weight))
    total = weight.sum()
    mean = float((gain * weight).sum() / total)
    # Bins hold about the same weight, and equal risks are in one bin.
    edges = np.searchsorted(np.cumsum(weight), np.linspace(0, total, _BINS + 1)[1:-1])
    fine = np.searchsorted(np.cumsum(gain), np.linspace(0, gain.sum(), _BINS // 2 + 1)[1:-1])
    cuts = np.unique(np.searchsorted(raw, raw[np.minimum(np.concatenate([edges, fine]), len(raw) - 1)], side="left"))
    begins = np.concatenate([[0], cuts[cuts > 0]])
    sums = [np.add.reduceat(each, begins) for each in (weight, gain * weight, raw * weight)]
    blocks = pool_adjacent_violators(*sums)
    evidence = blocks[0] / alike
    knots = blocks[2] / blocks[0]
    share = (blocks[1] / alike + (knots if is_probability else mean)) / (evidence + 1)
    # Drawing towards the mean may have broken the order: pool once more.
    weights, gains, places = pool_adjacent_violators(evidence, share * evidence, knots * evidence)
    # The last pool reaches as far as what was seen; only beyond that nothing is known.
    places, share = np.append(places / weights, raw[-1]), np.append(gains / weights, gains[-1] / weights[-1])
    return _thinned(places, share)


def pool_adjacent_violators(weight: Floats, gain: Floats, place: Floats) -> tuple[Floats, Floats, Floats]:
    """Pool neighbours until gain / weight rises: the least-squares monotone fit. Sums of each pool are returned."""
    pools: list[list[float]] = []
    for row in zip(weight.tolist(), gain.tolist(), place.tolist(), strict=True):
        pools.append(list(row))
        while len(pools) > 1 and pools[-2][1] * pools[-1][0] >= pools[-1][1] * pools[-2][0]:
            last = pools.pop()
            pools[-1] = [mine + theirs for mine, theirs in zip(pools[-1], last, strict=True)]
    table = np.array(pools, dtype=np.float64)
    return table[:, 0], table[:, 1], table[:, 2]


def _thinned(raw: Floats, probability: Floats) -> RiskMap:
    """Map of at most so many knots, at distinct places."""
    raw, probability = np.round(np.clip(raw, 0, 1), 6), np.round(np.clip(probability, 0, 1), 6)
    keep = np.concatenate([[True], np.diff(raw) > 0])
    raw, probability = raw[keep], np.maximum.accumulate(probability[keep])
    if len(raw) > _MOST_KNOTS:
        places = np.unique(np.linspace(0, len(raw) - 1, _MOST_KNOTS).round().astype(int))
        raw, probability = raw[places], probability[places]
    return RiskMap(tuple(raw.tolist()), tuple(probability.tolist()))


def fit_maps(
    raw: Floats,
    came_true: npt.NDArray[np.bool_],
    usable: npt.NDArray[np.bool_],
    weight: Floats,
    events: Sequence[int],
    alike: float,
    *,
    is_probability: bool = False,
) -> tuple[tuple[RiskMap, ...], list[str]] | None:
    """One map per metric: its own where it has enough events, else that of all metrics together.

    Parameters
    ----------
    raw, came_true, usable : arrays, (n_forecasts, n_servers, n_metrics)
    weight : float array, (n_servers,)
    events : sequence of int
        Number of events of each metric.
    alike, is_probability
        See `fit_map`.

    Returns
    -------
    (maps, kinds) or None
        `kinds` says "own" or "pooled" for each metric; None if all metrics together have too few events.
    """
    if sum(events) < LEAST_EVENTS:
        return None
    weights = np.broadcast_to(weight[None, :, None], raw.shape)
    usable = usable & np.isfinite(raw)
    pooled = fit_map(raw[usable], came_true[usable], weights[usable], alike, is_probability=is_probability)
    maps, kinds = [], []
    for metric, seen in enumerate(events):
        chosen = usable[..., metric]
        is_own = seen >= ENOUGH_EVENTS
        kinds.append("own" if is_own else "pooled")
        if not is_own:
            maps.append(pooled)
            continue
        of_metric, came, counts = raw[..., metric][chosen], came_true[..., metric][chosen], weights[..., metric][chosen]
        maps.append(fit_map(of_metric, came, counts, alike, is_probability=is_probability))
    return tuple(maps), kinds


def _self_check() -> None:
    rng = np.random.default_rng(0)
    raw = rng.uniform(0, 1, 50_000)
    fitted = fit_map(raw, rng.random(len(raw)) < raw**2, np.ones(len(raw)))
    assert np.abs(fitted(np.linspace(0.1, 0.9, 9)) - np.linspace(0.1, 0.9, 9) ** 2).max() < 0.05
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
