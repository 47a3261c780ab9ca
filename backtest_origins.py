"""Which part of a fleet's data judges forecasts, from which origins they are made, and what came true after them.

    window = choose_window(grid, test_days=None, every_steps=96, most=None, learns=True)
    judge = Judge.begin(folder, window.columns, kinds)
    judge.labels(slice(0, 128), 0)                # of the first origin

The fleet is mapped from files and may be larger than the memory. Knows nothing of methods or scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backtest_scores import HELD_OUT, HELD_OUT_GENERIC, KNOWN, Labels
from data_contract import GENERIC_PROFILE, HORIZON_STEPS, STEP_MINUTES, VALID_PROFILES, BacktestError
from fleet_grid import DAY_STEPS, N_METRICS, FleetGrid, time_of
from training_data import open_fleet
from training_options import duration_text

TEST_SHARE = 0.2  # last share of the time, which judges unless a number of days is given
MOST_TEST_DAYS = 9
# Before the first origin: an hour, from which a forecast can be made; and what a training needs to make a model of.
HISTORY_STEPS = 12
LESSON_STEPS = 228

_SCALES_FILE = "scales.npy"


@dataclass(frozen=True)
class TestWindow:
    """When forecasts begin.

    Attributes
    ----------
    begin : int
        First column of the part that judges.
    columns : tuple of int
        First column of each horizon; all horizons end within the grid.
    """

    __test__ = False  # no test of pytest's

    begin: int
    columns: tuple[int, ...]


def choose_window(
    grid: FleetGrid, *, test_days: float | None, every_steps: int, most: int | None, learns: bool
) -> TestWindow:
    """Choose the last part of the time, in whole horizons, and the origins in it.

    Parameters
    ----------
    test_days : float, optional
        How long it is; the last fifth of the time, nine days at most, without.
    every_steps : int
        From origin to origin; 96, for horizons that neither overlap nor leave a gap.
    most : int, optional
        At most so many origins, spread evenly over the others.
    learns : bool
        Whether a model is to be trained on what lies before.

    Raises
    ------
    BacktestError
        If there is too little data.
    """
    needed = LESSON_STEPS if learns else HISTORY_STEPS
    there = f"{duration_text(grid.n_steps * STEP_MINUTES * 60)} of data are there"
    if grid.n_steps < needed + HORIZON_STEPS:
        raise BacktestError(
            f"There is too little data for a backtest: {there}, "
            f"{duration_text((needed + HORIZON_STEPS) * STEP_MINUTES * 60)} are needed.",
            why="The last 8 hours at least must judge, and what lies before them is what "
            + ("the model learns from." if learns else "the forecasts start from."),
            fix="Bring more history; 30 days are recommended.",
        )
    if test_days is None:
        blocks = int(min(grid.n_steps * TEST_SHARE, MOST_TEST_DAYS * DAY_STEPS)) // HORIZON_STEPS
    else:
        blocks = int(test_days * DAY_STEPS + 1e-6) // HORIZON_STEPS
    blocks = max(1, blocks)
    largest = (grid.n_steps - needed) // HORIZON_STEPS
    if test_days is not None and blocks > largest:
        raise BacktestError(
            f"--test-days {test_days:g} leaves too little before the test: {there}.",
            why="A model must learn from, and forecasts must start from, what lies before the test.",
            fix=f"Give at most --test-days {_days(largest)}, or bring more history.",
        )
    begin = grid.n_steps - min(blocks, largest) * HORIZON_STEPS
    columns = np.arange(begin, grid.n_steps - HORIZON_STEPS + 1, every_steps)
    if most is not None and most < len(columns):
        columns = columns[np.round(np.linspace(0, len(columns) - 1, most)).astype(np.int64)]
    return TestWindow(begin, tuple(int(column) for column in columns))


def _days(blocks: int) -> str:
    """Days of so many horizons, rounded down."""
    return f"{np.floor(blocks * HORIZON_STEPS / DAY_STEPS * 100) / 100:g}"


def insist_on_unseen(name: str, trained_until: int, window: TestWindow, grid: FleetGrid) -> None:
    """Refuse to judge a model on what it has learned from.

    Parameters
    ----------
    trained_until : int
        Step since 1970 that follows upon the last one it has seen.

    Raises
    ------
    BacktestError
        If the test begins before that.
    """
    if trained_until <= grid.first_step + window.begin:
        return
    from_then = f"{time_of(trained_until):%Y-%m-%d %H:%M} UTC"
    left = (grid.origin_step - trained_until) // HORIZON_STEPS
    raise BacktestError(
        f"The model {name} has learned from data up to {from_then}, and the test would begin at "
        f"{time_of(grid.first_step + window.begin):%Y-%m-%d %H:%M} UTC.",
        why="A model that is judged on what it has learned from looks better than it is (leakage).",
        fix=f"It may be judged from {from_then} on: "
        + (
            f"give --test-days {_days(left)} or less."
            if left > 0
            else "bring 8 hours of data after that, or leave --model out, and a model is trained for the test."
        ),
    )


def kinds_of(grid: FleetGrid, held_out: frozenset[str]) -> npt.NDArray[np.int64]:
    """`KNOWN`, `HELD_OUT_GENERIC` or `HELD_OUT` of each server."""
    return np.array(
        [
            KNOWN if name not in held_out else HELD_OUT_GENERIC if profile == GENERIC_PROFILE else HELD_OUT
            for name, profile in zip(grid.names, grid.profiles, strict=True)
        ],
        dtype=np.int64,
    )


class Judge:
    """What came true, for any servers and origin of a fleet that lies in a folder; cheap to open in every process.

    Attributes
    ----------
    grid : FleetGrid
    columns : tuple of int
        Origins: first column of each horizon.
    kinds : int64 array, (n_servers,)
    """

    def __init__(self, folder: Path, columns: tuple[int, ...], kinds: npt.NDArray[np.int64]) -> None:
        self.folder, self.columns, self.kinds = folder, columns, kinds
        self.grid = open_fleet(folder).grid
        self._scales = np.load(folder / _SCALES_FILE, mmap_mode="r", allow_pickle=False)
        self._profiles = np.array([VALID_PROFILES.index(profile) for profile in self.grid.profiles], dtype=np.int64)

    @classmethod
    def begin(cls, folder: Path, columns: tuple[int, ...], kinds: npt.NDArray[np.int64]) -> Judge:
        """Compute what MASE divides by, for every server and origin, and leave it in the fleet's folder."""
        grid = open_fleet(folder).grid
        with (folder / _SCALES_FILE).open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (grid.n_servers, len(columns), N_METRICS)}
            np.lib.format.write_array_header_1_0(file, header)
            for block in grid.blocks():
                file.write(np.ascontiguousarray(seasonal_scales(grid.values[block], columns), dtype="<f4").data)
        return cls(folder, columns, kinds)

    def pieces(self, servers_at_once: int) -> Iterator[tuple[int, slice]]:
        """Every origin's number with slices of so many servers."""
        for number in range(len(self.columns)):
            for start in range(0, self.grid.n_servers, servers_at_once):
                yield number, slice(start, min(start + servers_at_once, self.grid.n_servers))

    def known_at(self, number: int, servers: slice) -> FleetGrid:
        """Some servers as they were known when an origin's horizon began: nothing that came later is in it."""
        column = self.columns[number]
        grid = self.grid
        return FleetGrid(
            grid.names[servers],
            grid.profiles[servers],
            grid.first_step,
            grid.values[servers, :column],
            grid.states[servers, :column],
        )

    def labels(self, servers: slice, number: int) -> Labels:
        """What came true after an origin.

        No forecast is asked for of a metric that a server has not reported in the day before: its labels are NaN.
        """
        column = self.columns[number]
        horizon = slice(column, column + HORIZON_STEPS)
        truth = np.array(self.grid.values[servers, horizon])
        day = self.grid.values[servers, max(0, column - DAY_STEPS) : column]
        reported: npt.NDArray[np.bool_] = np.asarray(np.isfinite(day).any(axis=1, keepdims=True))
        not_asked = int((np.isfinite(truth) & ~reported).sum())
        return Labels(
            np.where(reported, truth, np.float32(np.nan)),
            np.array(self.grid.states[servers, horizon]),
            self._profiles[servers],
            self.kinds[servers],
            np.array(self._scales[servers, number]),
            not_asked,
        )


def seasonal_scales(values: npt.NDArray[np.float32], columns: Sequence[int]) -> npt.NDArray[np.float64]:
    """Mean |y_t − y_(t − 1 day)| over all that came before each column, (servers, columns, n_metrics); NaN without any.

    Parameters
    ----------
    values : float array, (servers, steps, n_metrics)
    """
    difference = np.zeros((len(values), values.shape[1] + 1, N_METRICS))
    count = np.zeros(difference.shape, dtype=np.int32)
    if values.shape[1] > DAY_STEPS:
        step = np.abs(np.asarray(values[:, DAY_STEPS:], dtype=np.float64) - values[:, :-DAY_STEPS])
        there = np.isfinite(step)
        np.cumsum(np.where(there, step, 0.0), axis=1, out=difference[:, DAY_STEPS + 1 :])
        np.cumsum(there, axis=1, out=count[:, DAY_STEPS + 1 :])
    at = np.asarray(columns, dtype=np.int64)
    counted = count[:, at]
    with np.errstate(invalid="ignore"):
        scales: npt.NDArray[np.float64] = np.where(counted > 0, difference[:, at] / counted, np.nan)
    return scales


def _self_check() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 100, (3, 5 * DAY_STEPS, N_METRICS)).astype(np.float32)
    values[0, :400, 1] = np.nan
    scales = seasonal_scales(values, (DAY_STEPS, 700))
    direct = np.abs(values[:, DAY_STEPS:700] - values[:, : 700 - DAY_STEPS])
    assert np.isnan(scales[:, 0]).all() and np.allclose(scales[:, 1], np.nanmean(direct, axis=1), rtol=1e-5)
    grid = FleetGrid(("a", "b", "c"), ("generic",) * 3, 0, values, np.zeros(values.shape[:2], dtype=np.int8))
    window = choose_window(grid, test_days=None, every_steps=HORIZON_STEPS, most=None, learns=True)
    assert window.columns == (1152, 1248, 1344) and window.begin == 1152
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
