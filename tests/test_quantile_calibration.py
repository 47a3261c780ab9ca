"""Tests of quantile_calibration.py: intervals that were too narrow or too wide come out right, on other data, too."""

from __future__ import annotations

import json

import pytest
import torch

from data_contract import HORIZON_STEPS, METRIC_COLUMNS
from quantile_calibration import BANDS, LEAST, MOST, CalibrationFit, QuantileCalibration

LEVELS = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
N = len(METRIC_COLUMNS)


def fleet(windows: int, seed: int, width: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Forecasts whose spread is `width` times the true one, which differs from window to window and grows with time."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.exp(torch.randn(windows, 1, N, generator=generator)) * torch.linspace(0.5, 2, HORIZON_STEPS)[:, None]
    level = torch.randn(windows, 1, N, generator=generator)
    labels = level + spread * torch.randn(windows, HORIZON_STEPS, N, generator=generator)
    normal = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(LEVELS))
    return level[..., None] + width * spread[..., None] * normal, labels


@pytest.mark.parametrize("width", [0.4, 1.0, 2.5])
def test_every_quantile_is_right_as_often_as_it_says_on_windows_that_were_not_counted(width: float) -> None:
    fit = CalibrationFit(LEVELS)
    for seed in range(4):
        fit.add(*fleet(150, seed, width))
    forecast, labels = fleet(600, 9, width)
    calibrated = fit.result().applied(forecast)
    below = (labels[..., None] <= calibrated).float().mean(dim=(0, 1))
    torch.testing.assert_close(below, torch.tensor(LEVELS).expand_as(below), atol=0.015, rtol=0)
    assert torch.equal(calibrated[..., 5], forecast[..., 5])
    assert (calibrated.diff(dim=-1) >= 0).all()


def test_each_metric_and_part_of_the_horizon_has_its_own_factors() -> None:
    forecast, labels = fleet(300, 0, 1.0)
    labels[:, BANDS[1] : BANDS[2], 1] = forecast[:, BANDS[1] : BANDS[2], 1, 5] + 2 * (
        labels[:, BANDS[1] : BANDS[2], 1] - forecast[:, BANDS[1] : BANDS[2], 1, 5]
    )
    fit = CalibrationFit(LEVELS)
    fit.add(forecast, labels)
    factors = fit.result().factors
    assert factors[1][2][1] == pytest.approx(2, rel=0.15) and factors[1][2][9] == pytest.approx(2, rel=0.15)
    assert factors[1][3][9] == pytest.approx(1, rel=0.15) and factors[0][2][9] == pytest.approx(1, rel=0.15)
    assert all(band[5] == 1 for bands in factors for band in bands)


def test_a_metric_without_labels_keeps_the_networks_own_quantiles() -> None:
    forecast, labels = fleet(50, 0, 0.5)
    labels[..., 3] = float("nan")
    fit = CalibrationFit(LEVELS)
    fit.add(forecast, labels)
    result = fit.result()
    assert set(sum(result.factors[3], ())) == {1.0}
    assert torch.equal(result.applied(forecast)[..., 3, :], forecast[..., 3, :])
    assert CalibrationFit(LEVELS).result() == QuantileCalibration.none(len(LEVELS))


def test_what_a_few_days_tell_is_believed_in_part() -> None:
    factors = []
    for days in (0.5, 1.0, 30.0):
        fit = CalibrationFit(LEVELS, days)
        fit.add(*fleet(300, 0, 0.5))  # twice as narrow as it should be
        factors.append(fit.result().factors[0][2][9])
    assert 1.1 < factors[0] < factors[1] < factors[2] < 2.2
    assert factors[1] == pytest.approx(2**0.5, rel=0.1) and factors[2] == pytest.approx(2, rel=0.1)


def test_quantiles_do_not_cross_whatever_the_factors_are() -> None:
    generator = torch.Generator().manual_seed(1)
    wild = LEAST + (MOST - LEAST) * torch.rand(N, len(BANDS), len(LEVELS), generator=generator)
    calibration = QuantileCalibration(tuple(tuple(map(tuple, metric)) for metric in wild.tolist()))
    forecast = torch.randn(20, HORIZON_STEPS, N, len(LEVELS), generator=generator).sort(dim=-1).values
    calibrated = calibration.applied(forecast)
    assert (calibrated.diff(dim=-1) >= 0).all() and torch.equal(calibrated[..., 5], forecast[..., 5])


def test_the_json_form_leads_back_and_anything_else_is_refused() -> None:
    fit = CalibrationFit(LEVELS)
    fit.add(*fleet(100, 0, 0.7))
    content = json.loads(json.dumps(fit.result().as_dict()))
    again = QuantileCalibration.from_dict(content, len(LEVELS))
    torch.testing.assert_close(torch.tensor(again.factors), torch.tensor(fit.result().factors), atol=1e-4, rtol=0)
    for change in (
        {"band_ends": [96]},
        {"factors": {**content["factors"], "cpu_pct": content["factors"]["cpu_pct"][:2]}},
        {"factors": {**content["factors"], "cpu_pct": [[9.0] * len(LEVELS)] * len(BANDS)}},
        {"factors": {**content["factors"], "cpu_pct": [[float("nan")] * len(LEVELS)] * len(BANDS)}},
    ):
        with pytest.raises(ValueError, match=r"band_ends|factors"):
            QuantileCalibration.from_dict({**content, **change}, len(LEVELS))
    with pytest.raises(KeyError):
        QuantileCalibration.from_dict({"band_ends": list(BANDS), "factors": {}}, len(LEVELS))
