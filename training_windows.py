"""How batches of windows are drawn, for one process or for several that train together.

Which windows there are is `training_origins.py`'s. Knows nothing of the network or of Lightning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import IterableDataset

from data_contract import TrainingError
from tft_features import Augmentation, FeatureSpec, FleetTensors, Windows, gather_windows
from training_origins import Origins

_VALIDATION, _TRAINING = 0, 1  # streams of random numbers


class WindowBatches(IterableDataset[Windows]):
    """Batches of windows, cut out of the fleet by index in one step each.

    Training draws anew every epoch. A batch depends on the seed, the epoch and its number alone, so that a resumed run
    sees what an uninterrupted one would have seen, and several processes share the batches that one would have seen.
    Validation takes the same windows each time, evenly over servers and time. Batches differ by one window at most.

    Parameters
    ----------
    fleet, spec : FleetTensors, FeatureSpec
        Where windows are cut from, and what for.
    origins : Origins
        Where they may begin; `Split.train` or `Split.validation`.
    windows : int
        How many an epoch has; in validation no more than there are.
    batch_size : int
        Most windows of a batch, all processes together.
    augmentation : Augmentation, optional
        What to hide in training; without it, the windows are for validation.
    rank, ranks : int
        Which of how many processes this is: it gets every `ranks`-th window of each batch, from number `rank` on.

    Attributes
    ----------
    epoch : int
        Which windows are drawn; to be set before each training epoch.
    first_batch : int
        Number of the batch that the next iteration begins with; only that one iteration, then it is 0 again.

    Raises
    ------
    TrainingError
        If a batch has fewer windows than there are processes.
    """

    def __init__(
        self,
        fleet: FleetTensors,
        spec: FeatureSpec,
        origins: Origins,
        *,
        windows: int,
        batch_size: int,
        seed: int,
        augmentation: Augmentation | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._fleet, self.spec, self._origins = fleet, spec, origins
        self.windows = windows if augmentation is not None else min(windows, len(origins.usable))
        self._batches = math.ceil(self.windows / batch_size)
        self._seed, self._augmentation = seed, augmentation
        self._part = slice(rank, None, ranks)
        self.epoch = 0
        self.first_batch = 0
        if self.windows // self._batches < ranks:
            raise TrainingError(
                f"{self.windows:,} windows in {self._batches:,} batch(es) are too few for {ranks} processes.",
                why="Every process must have a part in every batch, or the others would wait for it for ever.",
                fix="Train with fewer processes, or with a larger TFT_BATCH_SIZE or more data.",
            )

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Windows]:
        first, self.first_batch = self.first_batch, 0
        for number in range(first, self._batches):
            yield self._batch(number)

    def _batch(self, number: int) -> Windows:
        first, last = (k * self.windows // self._batches for k in (number, number + 1))
        generator, weight = None, None
        if self._augmentation is None:
            rng = np.random.default_rng([self._seed, _VALIDATION, number])
            servers, origins = self._origins.spread(first, last, self.windows, rng)
        else:
            rng = np.random.default_rng([self._seed, _TRAINING, self.epoch, number])
            servers, origins, counts = self._origins.draw(last - first, rng)
            weight = torch.from_numpy(counts)
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return gather_windows(
            self._fleet,
            torch.from_numpy(servers),
            torch.from_numpy(origins),
            self.spec,
            self._augmentation,
            generator,
            weight=weight,
            part=self._part,
        )
