"""Which windows a model learns from and which ones judge it, and how batches of them are drawn.

Training windows end before the validation period begins. Knows nothing of the network or of Lightning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset

from data_contract import HORIZON_STEPS, TrainingError
from fleet_grid import FleetGrid, time_of
from tft_features import Augmentation, FeatureSpec, FleetTensors, Windows, gather_windows

# A training window needs an hour of history; what lies before it is masked.
MIN_HISTORY_STEPS = 12
_MIN_ORIGINS = 12  # origins that training and validation need at least, each


@dataclass(frozen=True)
class Split:
    """Which origins may be used for what; all are columns of the grid.

    Attributes
    ----------
    train_end : int
        First column of the validation period. Labels of training windows end before it.
    """

    train: npt.NDArray[np.bool_]  # (n_servers, n_steps): may a training window begin its horizon here
    validation: npt.NDArray[np.bool_]
    train_end: int


def split_origins(grid: FleetGrid, validation_share: float) -> Split:
    """Choose training and validation origins: the last share of the time validates, on every origin that fits.

    An origin is usable where its horizon lies within its own period and holds a measurement, and where the hour before
    it holds one too.

    Raises
    ------
    TrainingError
        If there is too little history for both.
    """
    needed = MIN_HISTORY_STEPS + 2 * (HORIZON_STEPS + _MIN_ORIGINS)
    if grid.n_steps < needed:
        raise _too_little(grid, f"{grid.n_steps} steps of 5 minutes are there, at least {needed} are needed")
    validation_steps = max(math.ceil(grid.n_steps * validation_share), HORIZON_STEPS + _MIN_ORIGINS)
    train_end = grid.n_steps - validation_steps
    if train_end < MIN_HISTORY_STEPS + HORIZON_STEPS + _MIN_ORIGINS:
        train_end = grid.n_steps - HORIZON_STEPS - _MIN_ORIGINS
    seen = np.isfinite(grid.values).any(axis=-1)
    total = np.zeros((grid.n_servers, grid.n_steps + 1), dtype=np.int32)
    np.cumsum(seen, axis=1, out=total[:, 1:])
    usable = np.zeros(seen.shape, dtype=np.bool_)
    origins = np.arange(MIN_HISTORY_STEPS, grid.n_steps - HORIZON_STEPS + 1)
    usable[:, origins] = (total[:, origins + HORIZON_STEPS] > total[:, origins]) & (
        total[:, origins] > total[:, origins - MIN_HISTORY_STEPS]
    )
    column = np.arange(grid.n_steps)
    train, validation = usable & (column <= train_end - HORIZON_STEPS), usable & (column >= train_end)
    if not train.any() or not validation.any():
        raise _too_little(grid, "no server has an hour of history followed by measurements in both periods")
    return Split(train, validation, train_end)


def _too_little(grid: FleetGrid, reason: str) -> TrainingError:
    return TrainingError(
        f"There is too little history to learn from: {reason} ({grid.n_servers} server(s), "
        f"{time_of(grid.first_step):%Y-%m-%d %H:%M} to {time_of(grid.origin_step):%Y-%m-%d %H:%M} UTC).",
        why="The model must see whole 8-hour horizons, in one period to learn and in a later one to be judged.",
        fix="Bring at least 24 hours of measurements (30 days are recommended), then train again.",
        document="QUICK_START.md",
    )


class WindowBatches(IterableDataset[Windows]):
    """Batches of windows, cut out of the fleet by index in one step each.

    Training draws anew every epoch, from seed and epoch number alone, so that a resumed run sees what an uninterrupted
    one would have seen. Validation takes the same windows each time.
    """

    def __init__(
        self,
        fleet: FleetTensors,
        spec: FeatureSpec,
        origins: npt.NDArray[np.bool_],
        *,
        windows: int,
        batch_size: int,
        seed: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        self._fleet, self.spec = fleet, spec
        self._candidates = np.flatnonzero(origins)
        self._n_steps = origins.shape[1]
        self.windows = windows if augmentation is not None else min(windows, len(self._candidates))
        self._batch_size, self._seed, self._augmentation = batch_size, seed, augmentation
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(self.windows / self._batch_size)

    def __iter__(self) -> Iterator[Windows]:
        training = self._augmentation is not None
        rng = np.random.default_rng([self._seed, self.epoch if training else 0])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        if training:
            chosen = self._candidates[rng.integers(len(self._candidates), size=self.windows)]
        else:
            chosen = np.sort(rng.choice(self._candidates, size=self.windows, replace=False))
        for start in range(0, self.windows, self._batch_size):
            flat = torch.from_numpy(chosen[start : start + self._batch_size])
            servers, origins = torch.div(flat, self._n_steps, rounding_mode="floor"), flat % self._n_steps
            yield gather_windows(self._fleet, servers, origins, self.spec, self._augmentation, generator)
