"""What real machines are like: statistics of 416 of them, measured once, from which made-up servers are drawn.

`fleet_archetypes.parquet` holds them, each given to the profile that it resembles; `benchmarks/fit_archetypes.py`
made it and says how. Numbers only: quantiles of each metric, how much of the movement follows the day and the hour, how
long the rest is remembered, and how far memory and disk move with CPU. Source of the measurements: Grid Workloads
Archive, GWA-T-12 Bitbrains (Shen, van Beek, Iosup, CCGrid 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_contract import VALID_PROFILES

Floats = npt.NDArray[np.float32]

FILE: Final = Path(__file__).resolve().parent / "fleet_archetypes.parquet"

METRICS_MEASURED: Final = ("cpu_pct", "mem_pct", "disk_io_mb_s")

# Normal scores at which quantiles are known: 0.1 %, 1 %, 5 %, 10 %, 25 %, … 99.9 % of the time, and the far end.
KNOTS: Final = (-3.09, -2.326, -1.645, -1.282, -0.674, -0.253, 0.0, 0.253, 0.674, 1.282, 1.645, 2.326, 3.09, 3.6)

# Kinds of noise that a machine's movements are made of: gone at the next step; shared by two steps (a reading that
# averages over more than one); fading quickly; up and down in turn; a level that holds for some hours and then jumps,
# as jobs do; an era of some days.
NOISES: Final = ("white", "overlapping", "quick", "alternating", "level", "era")
QUICK_NOISES: Final = 4  # the first so many of them are quick, the rest slow
QUICK, ALTERNATING, LEVEL, ERA = 0.7, -0.6, 0.98, 0.998  # share of a deviation that is left a step later, in the mean


def noise_correlations(lag: int) -> tuple[float, ...]:
    """Autocorrelation of each kind of noise at a lag of so many steps."""
    return (float(lag == 0), {0: 1.0, 1: 0.5}.get(lag, 0.0), QUICK**lag, ALTERNATING**lag, LEVEL**lag, ERA**lag)


@dataclass(frozen=True)
class Archetypes:
    """Real machines of a profile, one per entry of the arrays' first axis; the second is `METRICS_MEASURED`.

    Attributes
    ----------
    quantiles : array, shape (machines, 3, knots)
        Values at `KNOTS`, in the contract's units.
    quantum : array, shape (machines, 3)
        Smallest step between two values.
    wobble : array, shape (machines, 3)
        Into how many values, all but equal, each step is split.
    daily, hourly : array, shape (machines, 3)
        Share of the variance (of normal scores) that follows the time of the day, and the minute of the hour.
    beat : array, shape (machines, 3, 12)
        What happens within every hour, per 5 minutes; mean 0 and variance 1, or all 0.
    weights : array, shape (machines, 3, noises)
        Share of the rest that each kind in `NOISES` has; adds up to 1.
    together : array, shape (machines, 3, 2)
        Of memory and disk: correlation of the quick noise (the first `QUICK_NOISES`) with CPU's, and of the slow.
    memory_and_disk : array, shape (machines, 3, 2)
        Of the disk: the same with memory, of the noise that is not shared with CPU.
    """

    quantiles: Floats
    quantum: Floats
    wobble: Floats
    daily: Floats
    hourly: Floats
    beat: Floats
    weights: Floats
    together: Floats
    memory_and_disk: Floats


@cache
def archetypes() -> dict[str, Archetypes]:
    """Real machines by profile."""
    table = pq.read_table(FILE)
    profiles = table["profile"].to_numpy()
    return {profile: _archetypes(table.filter(pa.array(profiles == profile))) for profile in VALID_PROFILES}


def _archetypes(machines: pa.Table) -> Archetypes:
    def facts(name: str) -> Floats:
        numbers: Floats = machines[name].combine_chunks().flatten().to_numpy().astype(np.float32)
        return numbers.reshape(machines.num_rows, len(METRICS_MEASURED), -1)

    def fact(name: str) -> Floats:
        return facts(name)[..., 0]

    return Archetypes(
        facts("quantiles"),
        fact("quantum"),
        fact("wobble"),
        fact("daily"),
        fact("hourly"),
        facts("beat"),
        facts("weights"),
        facts("together"),
        facts("memory_and_disk"),
    )


def _self_check() -> None:
    found = archetypes()
    assert set(found) == set(VALID_PROFILES)
    for kinds in found.values():
        assert kinds.quantiles.shape[1:] == (3, len(KNOTS)) and kinds.weights.shape[2] == len(NOISES)
        assert (np.diff(kinds.quantiles, axis=2) >= 0).all() and kinds.quantiles.min() >= 0
        assert kinds.quantiles[:, :2].max() <= 100 and np.allclose(kinds.weights.sum(axis=2), 1, atol=0.02)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
