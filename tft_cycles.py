"""Which period a metric repeats in, and what its last period says of the horizon.

Servers live by more clocks than the day: jobs that run every two hours, backups that take a little longer each night,
batches that follow one another. For each window the lag is found at which its last day is most like the steps before
(a peak of the autocorrelation, by FFT), and the horizon is filled with the last such period, again and again: the
seasonal naive forecast of a season that nobody had to name. Tensors alone; knows nothing of servers or files.

Source: autocorrelation by FFT as in Box, Jenkins, Reinsel and Ljung, Time Series Analysis, 5th ed. (2015), chapter 2;
the convolution theorem (Wiener and Khinchin).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from data_contract import DAY_STEPS, HORIZON_STEPS

# Periods from half an hour to a little more than a day, in steps: what runs nightly may begin later every night.
SHORTEST, LONGEST = 6, DAY_STEPS + 7

_WEAKEST = 0.05  # correlation from which on there is a cycle at all
_PEAK = 11  # lags that a peak must top, itself in their middle: what merely moves slowly has no peak
CYCLE_STEPS = DAY_STEPS + LONGEST + _PEAK // 2  # of history that are looked at
_TRANSFORM = 640  # length of the FFT: at least CYCLE_STEPS, of small prime factors
_NOTHING = 1e-6  # energy below which there is nothing to correlate


def last_cycle(scaled: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat each metric's last period over the horizon.

    Parameters
    ----------
    scaled : Tensor, (batch, CYCLE_STEPS, n_metrics)
        What was measured before the origin, in scaled space; NaN where nothing was.

    Returns
    -------
    values : Tensor, (batch, horizon, n_metrics)
        The value one period before, or as many periods as it takes to come to the past; NaN where none was measured.
        Without any cycle, that of the day before.
    strength : Tensor, (batch, n_metrics)
        Correlation of the last day with what lies a period before it, 0 to 1; 0 where there is no cycle.
    """
    rows = scaled.transpose(1, 2).contiguous()  # (batch, n_metrics, steps)
    lag, strength = _period(rows)
    ahead = torch.arange(1, HORIZON_STEPS + 1)
    periods = torch.div(ahead - 1, lag[..., None], rounding_mode="floor") + 1
    place = rows.size(-1) + ahead - 1 - lag[..., None] * periods
    return torch.gather(rows, -1, place).transpose(1, 2), strength


def _period(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Lag of the highest peak of the autocorrelation of (…, steps), in steps, and how high it is."""
    missing = torch.isnan(rows)
    known = DAY_STEPS - missing[..., -DAY_STEPS:].sum(dim=-1, keepdim=True)
    mean = rows[..., -DAY_STEPS:].nansum(dim=-1, keepdim=True) / known.clamp_min(1)
    moved = (rows - mean).masked_fill_(missing, 0.0)
    day = moved[..., -DAY_STEPS:]
    product = torch.fft.rfft(moved, n=_TRANSFORM) * torch.fft.rfft(day, n=_TRANSFORM).conj()
    shifts = moved.size(-1) - DAY_STEPS + 1  # a shift of k compares the last day with what begins at step k
    alike = torch.fft.irfft(product, n=_TRANSFORM)[..., :shifts]
    energy = functional.pad(moved.square().cumsum(dim=-1), (1, 0))
    energy = energy[..., DAY_STEPS:] - energy[..., :shifts]
    correlation = alike / (energy * energy[..., -1:]).clamp_min_(_NOTHING).sqrt_()
    correlation = correlation.flip(-1)  # by lag, from 0
    highest = functional.max_pool1d(correlation.flatten(0, -2)[:, None], _PEAK, stride=1, padding=_PEAK // 2)
    is_peak = correlation >= highest.view_as(correlation)
    is_peak[..., :SHORTEST] = is_peak[..., LONGEST + 1 :] = False
    strength, lag = torch.where(is_peak, correlation, -1.0).max(dim=-1)
    none = strength <= _WEAKEST
    return lag.masked_fill(none, DAY_STEPS), strength.masked_fill(none, 0.0).clamp_max_(1.0)


def _self_check() -> None:
    steps = torch.arange(CYCLE_STEPS + HORIZON_STEPS)
    series = (steps % 23 < 9).float() * 3
    values, strength = last_cycle(series[None, :CYCLE_STEPS, None])
    assert torch.equal(values[0, :, 0], series[CYCLE_STEPS:]) and strength > 0.9
    assert last_cycle(torch.full((1, CYCLE_STEPS, 1), torch.nan))[1] == 0
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
