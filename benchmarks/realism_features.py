"""What a classifier is shown of one server's day: some 90 numbers per window of 24 hours.

Each feature is of one kind: `level` (in units: how high, how spread), `shape` (free of units: how it moves) or `grain`
(how values are rounded and repeat). Plain NumPy; a gap is NaN, and a feature without an answer is NaN.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from realism_measures import (
    BURST_FLOOR,
    BURST_MADS,
    DAY,
    HOUR,
    autocorrelation,
    find_bursts,
    quiet_nan,
    repeat_share,
    zero_share,
)

Floats = npt.NDArray[np.floating[Any]]

METRICS: Final = ("cpu_pct", "mem_pct", "disk_io_mb_s")  # the real fleet reports no latency
KINDS: Final = ("level", "shape", "grain")
LEAST_VALUES: Final = DAY // 2  # a window with fewer is not judged

_MOST: Final = 1e4  # ratios are cut off here: beyond it, more says nothing
_LEAST: Final = 1e-7  # spread below which a series counts as constant; the disk of an idle machine moves by 1e-5 MB/s


def window_features(windows: Floats) -> tuple[dict[str, Floats], dict[str, str]]:
    """Features of windows, and which kind each of them is.

    Parameters
    ----------
    windows : array, (n_windows, 3 metrics, 288 steps)
        Days from midnight on.

    Returns
    -------
    values : dict of arrays, (n_windows,)
        By name, e.g. `cpu_pct_acf_1_step`.
    kinds : dict
        The same names → "level", "shape" or "grain".
    """
    values: dict[str, Floats] = {}
    kinds: dict[str, str] = {}
    for place, metric in enumerate(METRICS):
        of_metric = _of_metric(windows[:, place].astype(np.float64), BURST_FLOOR[metric])
        for kind, features in of_metric.items():
            for name, column in features.items():
                values[f"{metric}_{name}"] = column
                kinds[f"{metric}_{name}"] = kind
    steps = np.diff(windows, axis=2)
    for one, two in ((0, 1), (0, 2), (1, 2)):
        pair = f"{METRICS[one].split('_')[0]}_{METRICS[two].split('_')[0]}"
        values[f"correlation_{pair}"] = _correlation(windows[:, one], windows[:, two])
        values[f"correlation_of_changes_{pair}"] = _correlation(steps[:, one], steps[:, two])
        kinds[f"correlation_{pair}"] = kinds[f"correlation_of_changes_{pair}"] = "shape"
    return values, kinds


def quantiles(values: Floats, wanted: tuple[float, ...]) -> Floats:
    """Quantiles of each row without its NaN, (n_rows, n_wanted); as `nanquantile`, but for all rows at once."""
    ordered = np.sort(values, axis=1)  # NaN come last
    count = np.isfinite(values).sum(1)
    place = np.asarray(wanted) * np.maximum(count - 1, 0)[:, None]
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0)[:, None])
    lower, upper = np.take_along_axis(ordered, low, 1), np.take_along_axis(ordered, high, 1)
    found: Floats = lower + (upper - lower) * (place - low)
    return found


def _of_metric(x: Floats, floor: float) -> dict[str, dict[str, Floats]]:
    p05, p25, p50, p75, p95, p100 = quantiles(x, (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)).T
    mean, std = quiet_nan(np.nanmean, x, axis=1), quiet_nan(np.nanstd, x, axis=1)
    changes = np.diff(x, axis=1)
    sizes = np.abs(changes)
    change_p50, change_p95, change_p99 = quantiles(sizes, (0.5, 0.95, 0.99)).T
    scaled = (x - mean[:, None]) / np.where(std > _LEAST, std, np.nan)[:, None]
    hourly = quiet_nan(np.nanmean, x.reshape(len(x), -1, HOUR), axis=2)
    halves = quiet_nan(np.nanmean, x.reshape(len(x), 2, -1), axis=2)
    mad = 1.4826 * quantiles(np.abs(x - p50[:, None]), (0.5,))[:, 0]
    there = np.isfinite(x)
    level = {
        "mean": mean, "p05": p05, "p50": p50, "p95": p95, "max": p100, "std": std, "iqr": p75 - p25,
        "change_p50": change_p50, "change_p95": change_p95, "bursts": _burst_counts(x, floor),
    }  # fmt: skip
    shape = {
        "acf_1_step": autocorrelation(x, 1),
        "acf_3_steps": autocorrelation(x, 3),
        "acf_1_h": autocorrelation(x, HOUR),
        "acf_6_h": autocorrelation(x, 6 * HOUR),
        "acf_1_step_of_changes": autocorrelation(changes, 1),
        "variation": _ratio(std, mean),
        "skewness": quiet_nan(np.nanmean, scaled**3, axis=1),
        "kurtosis": quiet_nan(np.nanmean, scaled**4, axis=1),
        "iqr_by_std": _ratio(p75 - p25, std),
        "tail_by_std": _ratio(p100 - p95, std),
        "upper_by_lower": _ratio(p95 - p50, p50 - p05),
        "change_tail": _ratio(change_p99, change_p50),
        "turns": _turns(changes),
        "slow_share": _ratio(quiet_nan(np.nanvar, hourly, axis=1), std**2),
        "halves_apart": _ratio(halves[:, 1] - halves[:, 0], std),
        "trend": _correlation(x, np.broadcast_to(np.arange(x.shape[1], dtype=np.float64), x.shape)),
        "hour_of_max": np.where(std > _LEAST, np.argmax(np.where(there, x, -np.inf), axis=1) / HOUR, np.nan),
        "mad_bursts": np.where(mad > 0, _burst_counts(_ratio(x - p50[:, None], mad[:, None]), BURST_MADS), np.nan),
    }
    grain = {
        "repeats": repeat_share(x),
        "zeros": zero_share(x),
        "distinct": _distinct(x, there),
        "two_decimals": (there & (np.abs(np.round(x, 2) - x) < 1e-5)).sum(1) / np.maximum(there.sum(1), 1),
    }
    return {"level": level, "shape": shape, "grain": grain}


def _burst_counts(x: Floats, floor: float) -> Floats:
    bursts = find_bursts(x, floor)
    return np.bincount(bursts.server, minlength=len(x)).astype(np.float64)


def _ratio(above: Floats, below: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.clip(np.where(np.abs(below) > _LEAST**2, above / below, np.nan), -_MOST, _MOST)


def _turns(changes: Floats) -> Floats:
    """Share of steps at which a rise is followed by a fall or the other way round."""
    signs = np.sign(changes)
    product = signs[:, 1:] * signs[:, :-1]
    both = np.isfinite(product)
    return _ratio((product < 0).sum(1).astype(np.float64), both.sum(1).astype(np.float64))


def _distinct(x: Floats, there: npt.NDArray[np.bool_]) -> Floats:
    ordered = np.sort(x, axis=1)
    with np.errstate(invalid="ignore"):
        different = (np.diff(ordered, axis=1) > 0).sum(1) + 1
    return _ratio(different.astype(np.float64), there.sum(1).astype(np.float64))


def _correlation(one: Floats, two: Floats) -> Floats:
    both = np.isfinite(one) & np.isfinite(two)
    count = np.maximum(both.sum(1), 1)

    def centred(x: Floats) -> Floats:
        x = np.where(both, x, 0.0).astype(np.float64)
        return np.where(both, x - (x.sum(1) / count)[:, None], 0.0)

    first, second = centred(one), centred(two)
    spread = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(
            (spread > _LEAST**2) & (both.sum(1) >= LEAST_VALUES // 2), (first * second).sum(1) / spread, np.nan
        )
