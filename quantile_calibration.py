"""How far a model's quantiles must lie from its median to be right as often as they say, learned on held-out time.

A network is sure of what it has learned by heart. On the validation period, which it has not learned from, it is
counted how far from the median measurements really lie, in units of the distance that the network gives each quantile;
that distance is then stretched or shrunk, for each metric, part of the horizon and quantile. The median stays.

Source: split conformal prediction with normalised residuals, Lei et al., Distribution-Free Predictive Inference for
Regression, arXiv:1604.04173, section 5.2, taken per quantile. Knows nothing of networks or files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from data_contract import HORIZON_STEPS, METRIC_COLUMNS

# Last step of each part of the horizon that has factors of its own: half an hour, 1, 2, 4 and 8 hours.
BANDS = (6, 12, 24, 48, HORIZON_STEPS)
LEAST, MOST = 0.25, 4.0  # that a distance is multiplied by: what needs more is not learned, and no factor mends it
_HALF_BELIEVED = 1.0  # day
_FEWEST_LABELS = 500  # below, a metric's band keeps the network's own distances
_MOST_LABELS = 4_000_000  # that are kept of each metric, some 200 MB with ten quantiles


@dataclass(frozen=True)
class QuantileCalibration:
    """Factors of the quantiles' distances from the median; `factors[metric][band][quantile]`, 1 for the median."""

    factors: tuple[tuple[tuple[float, ...], ...], ...]

    @classmethod
    def none(cls, n_quantiles: int) -> QuantileCalibration:
        """The network's own quantiles."""
        return cls((((1.0,) * n_quantiles,) * len(BANDS),) * len(METRIC_COLUMNS))

    def applied(self, forecast: Tensor) -> Tensor:
        """Calibrated quantiles, never decreasing.

        Parameters
        ----------
        forecast : Tensor, (batch, 96, n_metrics, n_quantiles)
            In scaled space, not decreasing along the last axis, the median in the middle.
        """
        # Quantile by quantile and metric by metric, as the network makes them: any other order would be a copy.
        rows = forecast.permute(3, 2, 0, 1).unbind()  # each (n_metrics, batch, 96)
        factors = self._by_step().to(forecast).permute(2, 1, 0)[:, :, None].unbind()
        middle = len(rows) // 2
        median = rows[middle]
        calibrated = [median]
        # Neighbours may change places where their factors differ; the outer one then moves out.
        for row, factor in zip(rows[middle + 1 :], factors[middle + 1 :], strict=True):
            calibrated.append(torch.maximum(torch.addcmul(median, row - median, factor), calibrated[-1]))
        for row, factor in zip(rows[:middle][::-1], factors[:middle][::-1], strict=True):
            calibrated.insert(0, torch.minimum(torch.addcmul(median, row - median, factor), calibrated[0]))
        return torch.stack(calibrated).permute(2, 3, 1, 0)

    def _by_step(self) -> Tensor:
        """Factors of every step, (96, n_metrics, n_quantiles)."""
        by_band = torch.tensor(self.factors).movedim(0, 1)  # (bands, n_metrics, n_quantiles)
        lengths = torch.tensor(BANDS).diff(prepend=torch.tensor([0]))
        return by_band.repeat_interleave(lengths, dim=0)

    def as_dict(self) -> dict[str, Any]:
        """JSON form: metric → factors of each band."""
        return {
            "band_ends": list(BANDS),
            "factors": {
                column: [[round(factor, 4) for factor in band] for band in bands]
                for column, bands in zip(METRIC_COLUMNS, self.factors, strict=True)
            },
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any], n_quantiles: int) -> QuantileCalibration:
        """Inverse of `as_dict`; KeyError, TypeError or ValueError on anything else."""
        if tuple(content["band_ends"]) != BANDS:
            raise ValueError(f"band_ends are not {list(BANDS)}")
        factors = tuple(
            tuple(tuple(float(factor) for factor in band) for band in content["factors"][column])
            for column in METRIC_COLUMNS
        )
        for bands in factors:
            if len(bands) != len(BANDS) or any(len(band) != n_quantiles for band in bands):
                raise ValueError(f"factors are not {len(BANDS)} bands of {n_quantiles} quantiles for each metric")
            if not all(LEAST <= factor <= MOST for band in bands for factor in band):  # nor is NaN
                raise ValueError(f"factors are not within {LEAST} and {MOST}")
        return cls(factors)


@dataclass
class CalibrationFit:
    """Collects forecasts and what became of them, and makes factors of them.

    Parameters
    ----------
    quantiles : tuple of float
        Levels, rising, the median in the middle.
    days : float
        Length of the time that is counted on. However many servers there are, one day is much like itself: what a few
        days tell is believed by half after `_HALF_BELIEVED` of them.
    """

    quantiles: tuple[float, ...]
    days: float = math.inf
    _ratios: list[list[list[Tensor]]] = field(init=False, repr=False)  # by metric and band: (labels, n_quantiles)
    _counts: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._ratios = [[[] for _ in BANDS] for _ in METRIC_COLUMNS]
        self._counts = [0] * len(METRIC_COLUMNS)

    def add(self, forecast: Tensor, labels: Tensor) -> None:
        """Take in forecasts (batch, 96, n_metrics, n_quantiles) and labels (batch, 96, n_metrics), both scaled."""
        middle = len(self.quantiles) // 2
        median = forecast[..., middle : middle + 1]
        distance = (forecast - median).abs()
        error = labels[..., None] - median
        error = torch.cat([-error.expand_as(distance[..., :middle]), error.expand_as(distance[..., middle:])], dim=-1)
        ratio = error / distance.clamp_min(1e-6)
        start = 0
        for band, end in enumerate(BANDS):
            for metric in range(len(METRIC_COLUMNS)):
                known = torch.isfinite(labels[:, start:end, metric])
                if self._counts[metric] < _MOST_LABELS:
                    self._ratios[metric][band].append(ratio[:, start:end, metric][known])
                    self._counts[metric] += int(known.sum())
            start = end

    def result(self) -> QuantileCalibration:
        """Factors with which each quantile would have been right as often as it says, as far as that is believed."""
        belief = 1.0 if math.isinf(self.days) else self.days / (self.days + _HALF_BELIEVED)
        middle = len(self.quantiles) // 2
        factors = []
        for bands in self._ratios:
            of_metric = []
            for parts in bands:
                ratios = torch.cat(parts) if parts else torch.empty(0, len(self.quantiles))
                row = [1.0] * len(self.quantiles)
                if len(ratios) >= _FEWEST_LABELS:
                    ordered = ratios.sort(dim=0).values
                    for place, level in enumerate(self.quantiles):
                        share = level if place > middle else 1 - level
                        rank = min(math.ceil((len(ratios) + 1) * share), len(ratios)) - 1
                        if place != middle:
                            row[place] = min(max(float(ordered[rank, place]), LEAST), MOST) ** belief
                of_metric.append(tuple(row))
            factors.append(tuple(of_metric))
        return QuantileCalibration(tuple(factors))


def _self_check() -> None:
    generator = torch.Generator().manual_seed(0)
    levels = (0.1, 0.5, 0.9)
    labels = torch.randn(400, HORIZON_STEPS, len(METRIC_COLUMNS), generator=generator)
    forecast = torch.tensor([-1.0, 0.0, 2.0]).expand(*labels.shape, 3)  # p10 is -1.28, p90 is 1.28
    fit = CalibrationFit(levels)
    fit.add(forecast, labels)
    calibrated = fit.result().applied(forecast)
    inside = ((labels >= calibrated[..., 0]) & (labels <= calibrated[..., 2])).float().mean()
    assert abs(float(inside) - 0.8) < 0.01
    assert torch.equal(QuantileCalibration.none(3).applied(forecast), forecast)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
