"""What a plain network says that knows none of the model's ideas: a multilayer perceptron over the same windows.

256 wide, three residual blocks; it reads one series at a time: the last six hours in full, the day in hourly means,
maxima and minima, the same time 1, 2 and 7 days ago over the whole horizon, and the calendar. It gives the median of
every step and, by cumulated softplus, what lies above and below it, so that quantiles cannot cross. It is trained with
the pinball loss on a number of windows that grows with the data up to a bound, at a rate that falls to zero. A model
that does not beat it is not worth its cost. PyTorch is imported when it is needed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from baseline_features import (
    FINE_STEPS,
    LAG_DAYS,
    Series,
    calendar,
    series_to_forecast,
    training_series,
    typical_spread,
)
from baseline_windows import LOOK_BACK_STEPS, FloatArray, Progress, draw_origins, nothing_forecast, too_little
from data_contract import HORIZON_STEPS
from fleet_grid import DAY_STEPS, N_METRICS, FleetGrid

if TYPE_CHECKING:
    from torch import Tensor, nn

WINDOWS = 250_000  # that it is trained on at most; each is one series per reported metric
PASSES = 15  # windows drawn per horizon that the data holds: more, and a small fleet is learned by heart
MAX_SECONDS = 900.0  # after which it stops, wherever it is
_WIDTH = 256
_BLOCKS = 3
_BATCH_WINDOWS = 64
_RATE = 1e-3
_WEIGHT_DECAY = 5e-2
_DROPOUT = 0.2
_AVERAGE = 0.995  # decay of the average of the weights that forecasts


def inputs(series: Series) -> FloatArray:
    """What the network reads, (n, n_inputs); 0, the day's median, where nothing was measured."""
    *hours, measured = series.hours()
    fine = series.day[:, -FINE_STEPS:]
    parts = [
        fine,
        *hours,
        series.lags.reshape(len(series), len(LAG_DAYS) * HORIZON_STEPS),
        series.newest[:, None],
        measured,
        np.isfinite(fine[:, -6:]),
        np.isfinite(series.lags).mean(axis=-1),
        calendar(series.first),
        series.level(),
    ]
    return np.nan_to_num(np.concatenate(parts, axis=1, dtype=np.float32))


class MlpBaseline:
    """A plain multilayer perceptron; see the module.

    Parameters
    ----------
    quantiles : sequence of float
        Levels to forecast, ascending, with the median.
    windows : int
        Windows that it is trained on at most.
    max_seconds : float
        Training stops after so long, wherever it is; only then the result depends on the machine.
    """

    name = "mlp"
    title = "Plain neural network (MLP)"

    def __init__(
        self, quantiles: Sequence[float], seed: int = 0, windows: int = WINDOWS, max_seconds: float = MAX_SECONDS
    ) -> None:
        self._quantiles = tuple(quantiles)
        self._seed = seed
        self._windows = windows
        self._max_seconds = max_seconds
        self._typical: FloatArray = np.zeros(N_METRICS, dtype=np.float32)
        self._network: nn.Module | None = None

    def fit(self, grid: FleetGrid, until: int, progress: Progress | None = None) -> None:
        """Train on random windows whose horizon ends before column `until`."""
        import torch
        from torch.optim.swa_utils import AveragedModel

        rng = np.random.default_rng(self._seed)
        self._typical = typical_spread(grid, until, *draw_origins(grid, until, 4096, rng))
        windows = min(self._windows, PASSES * (grid.n_servers * until // HORIZON_STEPS + 1))
        steps = -(-windows // _BATCH_WINDOWS)
        # The global source of randomness is the caller's: it is left as it was.
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(self._seed)
            network = self._build()
            average = AveragedModel(network, avg_fn=_moving_average)
            optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_WEIGHT_DECAY)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.1)
            end = time.monotonic() + self._max_seconds
            for step in range(steps):
                servers, columns = draw_origins(grid, until, _BATCH_WINDOWS, rng)
                series, labels = training_series(grid, until, servers, columns, self._typical)
                if len(series):
                    optimizer.zero_grad(set_to_none=True)
                    torch.autograd.backward(self._loss(network, series, labels))
                    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                    optimizer.step()
                    average.update_parameters(network)
                    schedule.step()
                if progress is not None:
                    progress(step + 1, steps)
                if time.monotonic() > end:
                    break
        if not int(average.n_averaged):
            raise too_little(grid, until)
        if progress is not None:
            progress(steps, steps)
        self._network = average.module.eval()

    def forecast(self, grid: FleetGrid, column: int) -> FloatArray:
        """Quantiles of each server from column `column` on, (n_servers, 96, n_metrics, n_levels)."""
        import torch

        if self._network is None:
            raise RuntimeError(f"{self.name} must be fitted first")
        values = nothing_forecast(grid, len(self._quantiles))
        for block, series in series_to_forecast(grid, column, self._typical):
            if len(series):
                with torch.inference_mode():
                    scaled = self._scaled(self._network, series).numpy()
                values[block][series.window, :, series.metric] = series.units(scaled)
        return values

    def _build(self) -> nn.Module:
        """The layers; PyTorch's own classes alone, so that a fitted baseline can be handed to another process."""
        from torch import nn

        n_inputs = inputs(_empty_series()).shape[1]
        blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(_WIDTH),
                nn.Linear(_WIDTH, _WIDTH),
                nn.GELU(),
                nn.Dropout(_DROPOUT),
                nn.Linear(_WIDTH, _WIDTH),
            )
            for _ in range(_BLOCKS)
        )
        head = nn.Sequential(nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, HORIZON_STEPS * len(self._quantiles)))
        return nn.ModuleDict({"entry": nn.Linear(n_inputs, _WIDTH), "blocks": blocks, "head": head})

    def _scaled(self, network: nn.Module, series: Series) -> Tensor:
        """Scaled quantiles, (n, 96, n_levels), ascending."""
        import torch
        from torch.nn.functional import softplus

        hidden = network.get_submodule("entry")(torch.from_numpy(inputs(series)))
        for block in network.get_submodule("blocks").children():
            hidden = hidden + block(hidden)
        n_levels, middle = len(self._quantiles), self._quantiles.index(0.5)
        raw = network.get_submodule("head")(hidden).view(len(series), HORIZON_STEPS, n_levels)
        below, median, above = raw.split([middle, 1, n_levels - middle - 1], dim=-1)
        gaps_below, gaps_above = softplus(below - 1), softplus(above - 1)
        lower = median - gaps_below.flip(-1).cumsum(dim=-1).flip(-1)
        return torch.cat([lower, median, median + gaps_above.cumsum(dim=-1)], dim=-1)

    def _loss(self, network: nn.Module, series: Series, labels: FloatArray) -> Tensor:
        """Pinball loss in scaled space, each series weighted by the root of its spread."""
        import torch

        levels = torch.tensor(self._quantiles, dtype=torch.float32)
        truth = torch.from_numpy(labels)
        there = torch.isfinite(truth)
        relative = series.spread / np.maximum(self._typical[series.metric], 1e-3)
        weight = torch.from_numpy(np.minimum(np.sqrt(relative), 10.0))[:, None] * there
        error = torch.nan_to_num(truth)[..., None] - self._scaled(network, series)
        loss = torch.maximum(levels * error, (levels - 1) * error).mean(dim=-1)
        total: Tensor = (loss * weight).sum() / weight.sum().clamp_min(1.0)
        return total


def _moving_average(average: Tensor, weights: Tensor, batches: Tensor | int) -> Tensor:
    """Exponential average of the weights, of fewer batches at first."""
    share = min(_AVERAGE, (1 + float(batches)) / (10 + float(batches)))
    return average + (1 - share) * (weights - average)


def _empty_series() -> Series:
    nothing = np.full((0, LOOK_BACK_STEPS, N_METRICS), np.nan, dtype=np.float32)
    return Series.of(nothing, np.zeros(0, dtype=np.int64), np.ones(N_METRICS, dtype=np.float32))


def _self_check() -> None:
    rng = np.random.default_rng(0)
    values = (50 + 5 * rng.standard_normal((4, 3 * DAY_STEPS, N_METRICS))).astype(np.float32)
    grid = FleetGrid(tuple("abcd"), ("generic",) * 4, 0, values, np.zeros(values.shape[:2], dtype=np.int8))
    method = MlpBaseline((0.1, 0.5, 0.9), windows=1_000)
    method.fit(grid, 2 * DAY_STEPS)
    forecast = method.forecast(grid, 2 * DAY_STEPS)
    assert np.isfinite(forecast).all() and (np.diff(forecast, axis=-1) >= 0).all()
    assert abs(float(forecast[..., 1].mean()) - 50) < 5
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
