"""What a fleet's series look like in numbers: level, memory, rhythm, bursts, correlation, granularity.

Plain NumPy on arrays of servers × 5-minute steps that begin at midnight; NaN is a gap. Knows nothing of where a fleet
comes from. Every figure is one per server, NaN where the server gives no answer (a constant has no autocorrelation).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.floating[Any]]

DAY: Final = 288  # steps of 5 minutes
HOUR: Final = 12

# A burst stands above its day's median by at least this (points of percent, MB/s), however calm the day is.
BURST_FLOOR: Final = {"cpu_pct": 5.0, "mem_pct": 5.0, "disk_io_mb_s": 0.5}
BURST_MADS: Final = 4.0  # robust standard deviations (1.4826 × median absolute deviation) above the day's median

_CONSTANT: Final = 1e-14  # variance below which a series does not vary
_LEAST: Final = 2 * DAY  # values that a figure about a server needs


def quiet_nan(function: Any, values: Floats, *arguments: Any, **keywords: Any) -> Any:
    """Call a NumPy nan-function; slices that are all NaN give NaN without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN|Mean of empty|Degrees of freedom", RuntimeWarning)
        return function(values, *arguments, **keywords)


def by_day(values: Floats) -> Floats:
    """(servers, steps) → (servers, days, 288), whole days only."""
    days = values.shape[1] // DAY
    return values[:, : days * DAY].reshape(len(values), days, DAY)


def autocorrelation(values: Floats, lag: int) -> Floats:
    """Correlation of each row with itself `lag` steps later, over the pairs that are both there."""
    early, late = values[:, :-lag].astype(np.float64), values[:, lag:].astype(np.float64)
    both = np.isfinite(early) & np.isfinite(late)
    return _pearson(np.where(both, early, np.nan), np.where(both, late, np.nan), both.sum(1))


def _pearson(first: Floats, second: Floats, pairs: Any) -> Floats:
    first = np.nan_to_num(first - quiet_nan(np.nanmean, first, axis=1, keepdims=True))
    second = np.nan_to_num(second - quiet_nan(np.nanmean, second, axis=1, keepdims=True))
    one, two = (first**2).sum(1), (second**2).sum(1)
    moving = (one > _CONSTANT * np.maximum(pairs, 1)) & (two > _CONSTANT * np.maximum(pairs, 1)) & (pairs > 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(moving, (first * second).sum(1) / np.sqrt(one * two), np.nan)


def daily_share(values: Floats) -> Floats:
    """Share of each row's variance that repeats every day.

    Each day is freed of its own mean; what two different days have in common at the same time of day is rhythm, and
    noise has nothing in common. So the mean product over all pairs of days estimates the variance of the daily profile
    without the share that noise alone would get by being averaged; it can come out a little below 0.
    """
    days = by_day(values).astype(np.float64)
    total = quiet_nan(np.nanvar, days, axis=(1, 2))
    days = days - quiet_nan(np.nanmean, days, axis=2, keepdims=True)
    there = np.isfinite(days)
    days = np.where(there, days, 0.0)
    count = there.sum(1)
    pairs = (count * (count - 1)).sum(1)
    products = (days.sum(1) ** 2 - (days**2).sum(1)).sum(1)
    return _share(products, pairs, total)


def weekly_share(values: Floats) -> Floats:
    """Share of each row's variance that repeats every week, beyond what repeats every day.

    Products of the same time of day 7, 14 and 21 days apart, less those of the three days before and after each. The
    daily rhythm is in both; so is a slow drift, as long as it is linear in the distance. A weekly rhythm has mean 0
    over the 7 distances, so the difference is 7/6 of its variance.
    """
    days = by_day(values).astype(np.float64)
    total = quiet_nan(np.nanvar, days, axis=(1, 2))
    days = days - quiet_nan(np.nanmean, days, axis=(1, 2), keepdims=True)
    there = np.isfinite(days)
    days = np.where(there, days, 0.0)

    def product(distances: list[int]) -> tuple[Floats, Floats]:
        sums, pairs = np.zeros(len(days)), np.zeros(len(days))
        for distance in distances:
            if distance < days.shape[1]:
                sums += (days[:, distance:] * days[:, :-distance]).sum((1, 2))
                pairs += (there[:, distance:] & there[:, :-distance]).sum((1, 2))
        return sums, pairs

    weeks = [week for week in (7, 14, 21) if week + 3 < days.shape[1]]
    if not weeks:
        return np.full(len(days), np.nan)
    found = np.zeros(len(days))
    weights = np.zeros(len(days))
    for week in weeks:
        same, same_pairs = product([week])
        other, other_pairs = product([week + off for off in (-3, -2, -1, 1, 2, 3)])
        with np.errstate(invalid="ignore", divide="ignore"):
            difference = same / same_pairs - other / other_pairs
        usable = np.isfinite(difference)
        found += np.where(usable, difference * same_pairs, 0.0)
        weights += np.where(usable, same_pairs, 0.0)
    return _share(found * 6 / 7, weights, total)


def _share(products: Floats, pairs: Any, total: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((total > _CONSTANT) & (pairs >= _LEAST), products / pairs / total, np.nan)


@dataclass(frozen=True)
class Bursts:
    """Runs of steps above the day's usual level; one entry per burst but for `server_days`."""

    server: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    height: Floats  # of its highest value above the day's median
    server_days: Floats  # per server: days with at least half of their values

    def rate(self) -> Floats:
        """Bursts per day of each server."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.bincount(self.server, minlength=len(self.server_days)) / self.server_days


def find_bursts(values: Floats, floor: float) -> Bursts:
    """Runs of values above their day's median by 4 robust standard deviations, or `floor` where that is more."""
    days = by_day(values).astype(np.float64)
    median = quiet_nan(np.nanmedian, days, axis=2, keepdims=True)
    spread = 1.4826 * quiet_nan(np.nanmedian, np.abs(days - median), axis=2, keepdims=True)
    above = days - median
    with np.errstate(invalid="ignore"):
        high = above > np.maximum(BURST_MADS * spread, floor)
    full = np.isfinite(days).sum(2) >= DAY // 2
    high &= full[..., None]
    # Days are joined again, so that a burst over midnight is one; a column of False parts the servers.
    flat = np.concatenate([high.reshape(len(high), -1), np.zeros((len(high), 1), bool)], axis=1).ravel()
    width = high.shape[1] * DAY + 1
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    begins, ends = edges[::2], edges[1::2]
    lifted = np.concatenate([np.nan_to_num(above).reshape(len(high), -1), np.zeros((len(high), 1))], axis=1).ravel()
    heights = np.maximum.reduceat(lifted, edges)[::2] if len(edges) else np.zeros(0)
    server_days = np.where(full.sum(1) > 0, full.sum(1), np.nan)
    return Bursts(begins // width, ends - begins, heights, server_days)


def spearman(first: Floats, second: Floats) -> Floats:
    """Rank correlation of each row of one array with the same row of the other."""
    found = np.full(len(first), np.nan)
    for row, (one, two) in enumerate(zip(first, second, strict=True)):
        both = np.isfinite(one) & np.isfinite(two)
        if both.sum() > 2 and np.ptp(one[both]) > 0 and np.ptp(two[both]) > 0:
            found[row] = np.corrcoef(rankdata(one[both]), rankdata(two[both]))[0, 1]
    return found


def correlation_between(values: Floats) -> Floats:
    """Correlation of each server with each other at the same time: the upper triangle, without constants."""
    values = values.astype(np.float64)
    centred = values - quiet_nan(np.nanmean, values, axis=1, keepdims=True)
    spread = quiet_nan(np.nanstd, values, axis=1)
    moving = (spread > _CONSTANT**0.5) & (np.isfinite(values).sum(1) >= _LEAST)
    scaled = centred[moving] / spread[moving, None]
    there = np.isfinite(scaled).astype(np.float64)
    scaled = np.nan_to_num(scaled)
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = scaled @ scaled.T / (there @ there.T)
    pairs: Floats = matrix[np.triu_indices(len(matrix), 1)]
    return pairs


def without_daily_profile(values: Floats) -> Floats:
    """Values less their mean at the same time of day; a rhythm that all share is no longer in them."""
    days = by_day(values).astype(np.float64)
    rest: Floats = days - quiet_nan(np.nanmean, days, axis=1, keepdims=True)
    return rest.reshape(len(values), -1)


def repeat_share(values: Floats) -> Floats:
    """Share of values that equal the one before, of those that have one before."""
    early, late = values[:, :-1], values[:, 1:]
    both = np.isfinite(early) & np.isfinite(late)
    with np.errstate(invalid="ignore"):
        return np.where(both.sum(1) > 0, (both & (early == late)).sum(1) / np.maximum(both.sum(1), 1), np.nan)


def zero_share(values: Floats) -> Floats:
    """Share of values that are exactly 0."""
    count = np.isfinite(values).sum(1)
    return np.where(count > 0, (values == 0).sum(1) / np.maximum(count, 1), np.nan)


def distinct_share(values: Floats) -> Floats:
    """Number of different values by the number of values."""
    found = np.full(len(values), np.nan)
    for row, series in enumerate(values):
        seen = series[np.isfinite(series)]
        if len(seen):
            found[row] = len(np.unique(seen)) / len(seen)
    return found


def decimals(values: Floats, most: int = 5) -> Floats:
    """Decimals that 95 % of each row's values get along with; `most` stands for "no end of them"."""
    found = np.full(len(values), np.nan)
    for row, series in enumerate(values):
        seen = series[np.isfinite(series)].astype(np.float64)
        if len(seen):
            tolerance = np.maximum(2e-7 * np.abs(seen), 1e-9)  # float32 holds 7 digits
            for places in range(most + 1):
                if places == most or np.mean(np.abs(np.round(seen, places) - seen) <= tolerance) >= 0.95:
                    found[row] = places
                    break
    return found
