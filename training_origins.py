"""Which windows teach a model and which judge it: usable and eventful origins of a fleet, one bit each.

Training windows end before the validation period begins. Rare states and incidents are in a small part of all windows,
so a fixed share of those drawn for training is taken from the eventful ones, and every window carries the weight that
makes up for it. Knows nothing of tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from config import default_threshold
from data_contract import DEFAULT_STATE, HORIZON_STEPS, METRIC_COLUMNS, VALID_STATES, TrainingError
from fleet_grid import FleetGrid, time_of

# A training window needs an hour of history; what lies before it is masked.
MIN_HISTORY_STEPS = 12
_MIN_ORIGINS = 12  # origins that training and validation need at least, each

RARE_STATE_SHARE = 0.02  # a state that holds less of the training steps is rare
_QUIET_STATES = (DEFAULT_STATE, "idle")  # however rare, nothing happens in them
EVENTFUL_SHARE = 0.25  # of the windows drawn for training, unless there are more of them by nature
MOST_TIMES = 8.0  # that an eventful window is drawn as often as by nature: a handful shall not be learned by heart

_BLOCK = 512  # origins that are counted together

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class OriginSet:
    """A set of origins, (server, column) pairs of a grid, in one bit per cell; any of them is found by its number.

    Parameters
    ----------
    shape : (int, int)
        Servers and steps of the grid.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._per_server = -(-shape[1] // _BLOCK)  # blocks of a server; a block does not reach into the next server
        self._bits = np.zeros((shape[0] * self._per_server, _BLOCK // 8), dtype=np.uint8)
        self._counts = np.zeros(len(self._bits), dtype=np.int64)

    @classmethod
    def from_mask(cls, mask: Mask) -> OriginSet:
        """Set of the origins at which a mask of the whole grid is true."""
        origins = cls((mask.shape[0], mask.shape[1]))
        origins.put(slice(0, len(mask)), mask)
        return origins

    def put(self, servers: slice, mask: Mask) -> None:
        """Say which origins of consecutive servers are in the set; to be done before it is used."""
        padded = np.zeros((len(mask), self._per_server * _BLOCK), dtype=np.bool_)
        padded[:, : self.shape[1]] = mask
        blocks = padded.reshape(-1, _BLOCK)
        rows = slice(servers.start * self._per_server, servers.stop * self._per_server)
        self._bits[rows] = np.packbits(blocks, axis=1)
        self._counts[rows] = np.count_nonzero(blocks, axis=1)

    @cached_property
    def _ends(self) -> Integers:
        """Number of the first origin after each block."""
        return np.cumsum(self._counts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def nth(self, numbers: Integers) -> tuple[Integers, Integers]:
        """Servers and columns of the origins with these numbers, counted from 0 by server, then by time."""
        block = np.searchsorted(self._ends, numbers, side="right")
        in_block = np.unpackbits(self._bits[block], axis=1)
        before = self._ends[block] - np.count_nonzero(in_block, axis=1)
        counted = np.cumsum(in_block, axis=1, dtype=np.int16)
        place = np.argmax(counted > (numbers - before)[:, None], axis=1)
        return block // self._per_server, block % self._per_server * _BLOCK + place

    def has(self, servers: Integers, columns: Integers) -> Mask:
        """Whether these origins are in the set."""
        block = servers * self._per_server + columns // _BLOCK
        bit = columns % _BLOCK
        found: Mask = (self._bits[block, bit // 8] >> (7 - bit % 8).astype(np.uint8) & 1).astype(np.bool_)
        return found

    def mask(self) -> Mask:
        """The whole set, (n_servers, n_steps); a byte per cell, so for small fleets."""
        bits = np.unpackbits(self._bits, axis=1).astype(np.bool_)
        return bits.reshape(self.shape[0], -1)[:, : self.shape[1]]


@dataclass(frozen=True)
class Origins:
    """Where windows may begin their horizon, and which of these are eventful (None: no difference is made)."""

    usable: OriginSet
    eventful: OriginSet | None = None

    @property
    def eventful_share(self) -> float:
        """Share of the eventful origins by nature."""
        return len(self.eventful) / len(self.usable) if self.eventful is not None and len(self.usable) else 0.0

    @property
    def drawn_share(self) -> float:
        """Share of eventful windows among those drawn: a fixed one, but never less than by nature, nor far more."""
        natural = self.eventful_share
        return max(natural, min(EVENTFUL_SHARE, MOST_TIMES * natural))

    def draw(self, windows: int, rng: np.random.Generator) -> tuple[Integers, Integers, npt.NDArray[np.float32]]:
        """Draw windows with replacement: servers, columns, and what each counts (1 on average).

        Some windows are drawn from the eventful ones alone, the others from all, alike. The weight is the probability
        of a window in a draw from all alike over that in this draw (importance sampling with the mixture's density),
        so weighted means are what they would be without the preference, only with more of the rare cases in them.

        Source: Owen and Zhou, Safe and Effective Importance Sampling, JASA 95 (2000).
        """
        natural = self.eventful_share
        if self.eventful is None or natural in {0.0, 1.0}:
            servers, columns = self.usable.nth(rng.integers(len(self.usable), size=windows))
            return servers, columns, np.ones(windows, dtype=np.float32)
        preferred = (self.drawn_share - natural) / (1 - natural)  # share of the draws from the eventful ones alone
        alone = rng.random(windows) < preferred
        numbers = rng.integers(np.where(alone, len(self.eventful), len(self.usable)))
        servers, columns = np.empty(windows, dtype=np.int64), np.empty(windows, dtype=np.int64)
        for source, rows in ((self.eventful, alone), (self.usable, ~alone)):
            servers[rows], columns[rows] = source.nth(numbers[rows])
        density = (1 - preferred) + preferred / natural * self.eventful.has(servers, columns)
        return servers, columns, (1 / density).astype(np.float32)

    def spread(self, first: int, last: int, of: int, rng: np.random.Generator) -> tuple[Integers, Integers]:
        """Draw the windows number `first` to `last` (excluded) of `of` that lie evenly over servers and time.

        The origins are cut into `of` stretches of equal length, and one is drawn from each: none comes twice.
        """
        ends = np.arange(first, last + 1) * len(self.usable) // of
        return self.usable.nth(rng.integers(ends[:-1], ends[1:]))


@dataclass(frozen=True)
class Split:
    """Which origins may be used for what.

    Attributes
    ----------
    train, validation : Origins
        Where windows may begin their horizon.
    train_end : int
        First column of the validation period. Labels of training windows end before it.
    rare_states : dict
        States that make a window eventful, with their share of the training steps.
    """

    train: Origins
    validation: Origins
    train_end: int
    rare_states: dict[str, float] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """How training windows are drawn, for `training_info.json`."""
        return {
            "training_origins": len(self.train.usable),
            "validation_origins": len(self.validation.usable),
            "eventful_share_of_origins": round(self.train.eventful_share, 6),
            "eventful_share_of_windows_drawn": round(self.train.drawn_share, 6),
            "rare_states": {state: round(share, 6) for state, share in self.rare_states.items()},
        }


def split_origins(grid: FleetGrid, validation_share: float) -> Split:
    """Choose training and validation origins: the last share of the time validates, on every origin that fits.

    An origin is usable where its horizon lies within its own period and holds a measurement, and where the hour before
    it holds one too. A training origin is eventful where its horizon holds a step in a rare state, or one at which a
    metric begins to be above its critical threshold (as the product is shipped).

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
    shape = (grid.n_servers, grid.n_steps)
    column = np.arange(grid.n_steps)
    rare = _rare_states(grid, train_end)
    train, eventful, validation = OriginSet(shape), OriginSet(shape), OriginSet(shape)
    for block in grid.blocks():
        values = grid.values[block]
        seen: Mask = np.asarray(np.isfinite(values).any(axis=-1))
        usable = _usable(seen)
        teaching = usable & (column <= train_end - HORIZON_STEPS)
        events = _begins_to_be_critical(values, grid.profiles[block]) | np.isin(grid.states[block], list(rare))
        train.put(block, teaching)
        eventful.put(block, teaching & _ahead(events))
        validation.put(block, usable & (column >= train_end))
    if not len(train) or not len(validation):
        raise _too_little(grid, "no server has an hour of history followed by measurements in both periods")
    return Split(
        Origins(train, eventful),
        Origins(validation),
        train_end,
        {VALID_STATES[code]: share for code, share in rare.items()},
    )


def _usable(seen: Mask) -> Mask:
    """Where the horizon fits in and holds a measurement, and the hour before it holds one; (servers, steps)."""
    usable = np.zeros(seen.shape, dtype=np.bool_)
    usable[:, MIN_HISTORY_STEPS:] = _any_of_next(seen, MIN_HISTORY_STEPS)[:, :-MIN_HISTORY_STEPS]
    usable &= _ahead(seen)
    usable[:, seen.shape[1] - HORIZON_STEPS + 1 :] = False
    return usable


def _ahead(what: Mask) -> Mask:
    """Whether something is in the horizon that begins at each step."""
    return _any_of_next(what, HORIZON_STEPS)


def _any_of_next(what: Mask, steps: int) -> Mask:
    """Whether any of the next steps, counted from each one itself, is true; fewer at the end."""
    total = np.zeros((len(what), what.shape[1] + 1), dtype=np.int32)
    np.cumsum(what, axis=1, out=total[:, 1:])
    end = np.minimum(np.arange(what.shape[1]) + steps, what.shape[1])
    found: Mask = total[:, end] > total[:, :-1]
    return found


def _begins_to_be_critical(values: npt.NDArray[np.float32], profiles: tuple[str, ...]) -> Mask:
    """Steps at which a metric is above its critical threshold and, the step before, was not or was not measured."""
    limits = {profile: [default_threshold(metric, profile) for metric in METRIC_COLUMNS] for profile in set(profiles)}
    above = values > np.array([limits[profile] for profile in profiles], dtype=np.float32)[:, None]
    begins = np.zeros(values.shape[:2], dtype=np.bool_)
    begins[:, 1:] = (above[:, 1:] & ~above[:, :-1]).any(axis=-1)
    return begins


def _rare_states(grid: FleetGrid, train_end: int) -> dict[int, float]:
    """States, by their place in `VALID_STATES`, that hold few of the training steps, with their share."""
    counts = np.zeros(len(VALID_STATES), dtype=np.int64)
    for block in grid.blocks():
        states = grid.states[block, :train_end]
        counts += np.bincount(states[states >= 0], minlength=len(VALID_STATES))
    shares = counts / max(1, counts.sum())
    return {
        code: float(share)
        for code, share in enumerate(shares)
        if 0 < share < RARE_STATE_SHARE and VALID_STATES[code] not in _QUIET_STATES
    }


def _too_little(grid: FleetGrid, reason: str) -> TrainingError:
    return TrainingError(
        f"There is too little history to learn from: {reason} ({grid.n_servers} server(s), "
        f"{time_of(grid.first_step):%Y-%m-%d %H:%M} to {time_of(grid.origin_step):%Y-%m-%d %H:%M} UTC).",
        why="The model must see whole 8-hour horizons, in one period to learn and in a later one to be judged.",
        fix="Bring at least 24 hours of measurements (30 days are recommended), then train again.",
        document="QUICK_START.md",
    )


def _self_check() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((5, 700)) < 0.3
    origins = OriginSet.from_mask(mask)
    assert len(origins) == mask.sum() and (origins.mask() == mask).all()
    assert np.array_equal(origins.nth(np.arange(len(origins))), np.nonzero(mask))
    eventful = OriginSet.from_mask(mask & (rng.random(mask.shape) < 0.05))
    servers, columns, weight = Origins(origins, eventful).draw(100_000, rng)
    assert abs(eventful.has(servers, columns).mean() - EVENTFUL_SHARE) < 0.01
    assert abs(weight.mean() - 1) < 0.01
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
