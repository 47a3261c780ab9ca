"""How measurements of any fineness become one value per cell of 5 minutes, piece by piece and in any order.

The only place where rows are averaged: grids of files, of data larger than memory and of the daemon are all made here.
NumPy alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from data_contract import METRICS, STEP_MINUTES

N_METRICS: Final = len(METRICS)
STEP_MICROSECONDS: Final = STEP_MINUTES * 60 * 1_000_000
BYTES_PER_CELL: Final = N_METRICS * (8 + 4) + 4 + 1

# Sums are kept in double precision, means as float32, which ends at 3.4e38; whatever is measured in MB/s or ms does not
# come near this bound, and what is computed with it later stays finite.
LARGEST_MEAN: Final = 1e30

_BLOCK_NUMBERS = 100_000  # worked on at a time

_WORTH_A_BOX = 4  # cells per row up to which a piece is summed over the whole rectangle that it lies in

Integers = npt.NDArray[np.int64]
Where = tuple[Any, ...]


class GridAverages:
    """Sums and counts of a table of servers × steps, and the last state of each cell.

    Parameters
    ----------
    n_servers, n_steps : int
        Size of the table.
    """

    def __init__(self, n_servers: int, n_steps: int) -> None:
        shape = (n_servers, n_steps)
        self._sum = np.zeros((*shape, N_METRICS), dtype=np.float64)
        self._count = np.zeros((*shape, N_METRICS), dtype=np.uint32)
        self._newest = np.zeros(shape, dtype=np.uint32)  # µs since the step's start of the newest row, + 1; 0: no row
        self.states = np.full(shape, -1, dtype=np.int8)

    def add(
        self,
        servers: Integers,
        steps: Integers,
        instants: Integers,
        values: npt.NDArray[np.float64],
        states: npt.NDArray[np.int8],
    ) -> None:
        """Take in measurements that were not added before.

        Parameters
        ----------
        servers, steps : int64 arrays, (rows,)
            Which cell each row belongs to.
        instants : int64 array, (rows,)
            Microseconds since 1970.
        values : float64 array, (rows, n_metrics)
            NaN where nothing was measured.
        states : int8 array, (rows,)
            The state of the latest row of a step counts; of rows of the same instant the one that came last.
        """
        if not len(servers):
            return
        where, shape, index = self._cells(servers, steps)
        size = int(np.prod(shape))
        rows = np.bincount(index, minlength=size)
        with np.errstate(over="ignore"):
            for k in range(N_METRICS):
                value, seen = values[:, k], np.isfinite(values[:, k])
                if seen.all():
                    count, total = rows, np.bincount(index, weights=value, minlength=size)
                else:
                    count = np.bincount(index[seen], minlength=size)
                    total = np.bincount(index[seen], weights=value[seen], minlength=size)
                metric = (*where, k)
                self._sum[metric] += total.reshape(shape)
                self._count[metric] += count.reshape(shape).astype(np.uint32)
        last = np.full(size, -1, dtype=np.int64)
        order = np.argsort(instants, kind="stable") if np.any(instants[1:] < instants[:-1]) else np.arange(len(index))
        last[index[order]] = order  # with repeated indices the last assignment stands
        age = np.where(last >= 0, instants[last] % STEP_MICROSECONDS + 1, 0).astype(np.uint32).reshape(shape)
        newer = (age > 0) & (age >= self._newest[where])
        self._newest[where] = np.where(newer, age, self._newest[where])
        self.states[where] = np.where(newer, states[last].reshape(shape), self.states[where])

    def _cells(self, servers: Integers, steps: Integers) -> tuple[Where, tuple[int, ...], Integers]:
        """Cells that rows belong to: an index into the table, its shape, and which of these cells each row is in.

        Rows usually come by time or by server and fill a rectangle of the table: then it is sliced. Otherwise its cells
        are listed.
        """
        top, left = int(servers.min()), int(steps.min())
        height, width = int(servers.max()) - top + 1, int(steps.max()) - left + 1
        if height * width <= _WORTH_A_BOX * len(servers):
            where = (slice(top, top + height), slice(left, left + width))
            return where, (height, width), (servers - top) * width + (steps - left)
        n_steps = self.states.shape[1]
        cells, index = np.unique(servers * n_steps + steps, return_inverse=True)
        return (cells // n_steps, cells % n_steps), (len(cells),), index.reshape(-1)

    def means(self, server: int | None = None) -> npt.NDArray[np.float32]:
        """Average of each cell, (n_servers, n_steps, n_metrics); NaN where nothing was measured.

        Parameters
        ----------
        server : int, optional
            Position of the only server that is wanted; all if left out.
        """
        wanted = slice(None) if server is None else slice(server, server + 1)
        all_sums, all_counts = self._sum[wanted], self._count[wanted]
        means = np.empty(all_sums.shape, dtype=np.float32)
        with np.errstate(invalid="ignore"):
            for some in _blocks(means):
                counts = all_counts[some]
                exact = np.divide(all_sums[some], counts)
                np.clip(exact, -LARGEST_MEAN, LARGEST_MEAN, out=exact)
                np.copyto(exact, np.nan, where=counts == 0)  # 0 / 0 is a NaN of either sign, by the processor
                means[some] = exact
        return means

    # ------------------------------------------------------------------------------------------- for a table that rolls

    def grow(self, n_servers: int) -> None:
        """Append empty servers."""
        more = GridAverages(n_servers, self.states.shape[1])
        for name, array in vars(self).items():
            setattr(self, name, np.concatenate([array, getattr(more, name)]))

    def keep(self, servers: list[int]) -> None:
        """Drop all servers but these."""
        for name, array in vars(self).items():
            setattr(self, name, array[servers])

    def shift(self, steps: int) -> None:
        """Drop the oldest steps and append as many empty ones."""
        n_steps = self.states.shape[1]
        for array in vars(self).values():
            if steps < n_steps:
                for some in _blocks(array):  # NumPy moves by way of a copy, which of the whole would be as large again
                    array[some, :-steps] = array[some, steps:]
            array[:, max(0, n_steps - steps) :] = -1 if array is self.states else 0


def _blocks(table: npt.NDArray[Any]) -> Iterator[slice]:
    """Slices of servers of which each is small enough for the processor's caches."""
    size = max(1, _BLOCK_NUMBERS // max(1, table[0].size if len(table) else 1))
    for start in range(0, len(table), size):
        yield slice(start, start + size)


def _self_check() -> None:
    rng = np.random.default_rng(0)
    n = 5_000
    servers, instants = rng.integers(0, 3, n), rng.integers(0, 3_000_000_000, n)
    steps = instants // STEP_MICROSECONDS
    values, states = rng.uniform(0, 100, (n, N_METRICS)), rng.integers(0, 8, n).astype(np.int8)
    whole, pieces = GridAverages(3, int(steps.max()) + 1), GridAverages(3, int(steps.max()) + 1)
    whole.add(servers, steps, instants, values, states)
    for start in range(0, n, 10):
        piece = slice(start, start + 10)
        pieces.add(servers[piece], steps[piece], instants[piece], values[piece], states[piece])
    assert np.allclose(whole.means(), pieces.means(), rtol=1e-6, equal_nan=True)
    assert np.array_equal(whole.states, pieces.states)
    cell = (servers == 1) & (steps == 2)
    assert np.allclose(whole.means()[1, 2], values[cell].mean(axis=0), rtol=1e-6)
    assert whole.states[1, 2] == states[cell][np.argmax(instants[cell])]
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
