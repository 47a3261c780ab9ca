"""In which state a generated server is: a process with durations, not a label of single rows.

What is planned or has happened comes first: maintenance, an incident from its breach on, the outage that may follow,
the recovery after it. Otherwise the load decides, smoothed over an hour and with a margin between entering and
leaving a state, so that none lasts only for a moment. Arrays are (servers, steps).
"""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from data_contract import VALID_STATES

Floats = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
States = npt.NDArray[np.int8]

_CODE: Final = {state: np.int8(code) for code, state in enumerate(VALID_STATES)}

_SMOOTHED_STEPS: Final = 12  # an hour
_IDLE: Final = (4.0, 6.0)  # percent of CPU: idle below the first, until above the second
_HEAVY_CPU: Final = (80.0, 70.0)  # heavy load from the first on, until below the second
_HEAVY_MEMORY: Final = (90.0, 86.0)
_SPIKE: Final = (0.35, 0.2)  # share of the morning's peak that has come


class StateBook:
    """States of a fleet, day after day; remembers what the day before ended with.

    Parameters
    ----------
    servers : int
        Size of the fleet.
    """

    def __init__(self, servers: int) -> None:
        self._cpu_before = np.full((servers, _SMOOTHED_STEPS - 1), np.nan, np.float32)
        self._memory_before = self._cpu_before.copy()
        self._was = {name: np.zeros(servers, np.bool_) for name in ("idle", "cpu", "memory", "spike")}

    def day(
        self,
        cpu: Floats,
        memory: Floats,
        spike: Floats,
        *,
        critical: Mask,
        recovering: Mask,
        patching: Mask,
        down: Mask,
    ) -> States:
        """States of one day, as places in `VALID_STATES`.

        Parameters
        ----------
        cpu, memory : array
            Percent.
        spike : array
            How much of the load is the peak of the morning, 0 to 1.
        critical, recovering, patching, down : array of bool
            What is planned or has happened.
        """
        load = self._smooth("_cpu_before", cpu)
        fullness = self._smooth("_memory_before", memory)
        idle = self._hold("idle", load < _IDLE[0], load > _IDLE[1])
        heavy = self._hold("cpu", load >= _HEAVY_CPU[0], load < _HEAVY_CPU[1])
        heavy |= self._hold("memory", fullness >= _HEAVY_MEMORY[0], fullness < _HEAVY_MEMORY[1])
        spiking = self._hold("spike", spike >= _SPIKE[0], spike < _SPIKE[1])
        states = np.full(cpu.shape, _CODE["healthy"], np.int8)
        for state, where in (  # the later, the stronger
            ("idle", idle),
            ("morning_spike", spiking & ~idle),
            ("heavy_load", heavy),
            ("recovery", recovering),
            ("critical_issue", critical),
            ("maintenance", patching),
            ("offline", down),
        ):
            states[where] = _CODE[state]
        return states

    def _smooth(self, before: str, values: Floats) -> Floats:
        """Mean of the last hour; at the very beginning of what there is of it."""
        joined = np.concatenate([getattr(self, before), values], axis=1)
        setattr(self, before, joined[:, -(_SMOOTHED_STEPS - 1) :].copy())
        missing = np.isnan(joined)
        if missing.any():
            joined = np.where(missing, values[:, :1], joined)
        sums = np.cumsum(joined, axis=1, dtype=np.float64)
        sums[:, _SMOOTHED_STEPS:] -= sums[:, :-_SMOOTHED_STEPS].copy()
        smoothed: Floats = sums[:, _SMOOTHED_STEPS - 1 :] / _SMOOTHED_STEPS
        return smoothed

    def _hold(self, name: str, enters: Mask, leaves: Mask) -> Mask:
        """True from entering until leaving (a Schmitt trigger), on from the day before."""
        decided = enters | leaves
        steps = np.arange(enters.shape[1])
        last = np.maximum.accumulate(np.where(decided, steps, -1), axis=1)
        held = np.where(last >= 0, np.take_along_axis(enters, np.maximum(last, 0), axis=1), self._was[name][:, None])
        self._was[name] = held[:, -1].copy()
        return held


def _self_check() -> None:
    book = StateBook(1)
    cpu = np.array([[1.0] * 10 + [4.9, 5.1] * 10 + [50.0] * 30], np.float32)
    none = np.zeros(cpu.shape, np.bool_)
    calm = {"critical": none, "recovering": none, "patching": none, "down": none}
    states = book.day(cpu, cpu, np.zeros(cpu.shape), **calm)
    names = [VALID_STATES[code] for code in states[0]]
    assert names[0] == "idle" and names[29] == "idle" and names[-1] == "healthy"
    assert sum(first != second for first, second in itertools.pairwise(names)) == 1
    again = book.day(cpu[:, 10:30], cpu[:, 10:30], np.zeros((1, 20)), **dict.fromkeys(calm, none[:, 10:30]))
    assert VALID_STATES[again[0, 0]] == "healthy"  # it was healthy at midnight, and between the margins stays so
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
