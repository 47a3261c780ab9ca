"""When alerts open and close, given how likely a breach is at each forecast: one state machine for daemon and backtest.

An alert opens when its score has been at `open_at` or above for `confirm_minutes`, and closes when it has been below
`close_at` for `release_minutes`, or at once when there is no score any more. Time is that of the forecasts' origins, so
several forecasts within one step change nothing. Scores are probabilities of a breach, or whatever a rule compares with
a limit. Pure NumPy: states in, states out. Knows nothing of servers, forecasts or models.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_contract import STEP_MINUTES

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_NEVER = -1
_LONGEST_MINUTES = 24 * 60


@dataclass(frozen=True)
class AlertPolicy:
    """At which score alerts open and close, and how long that must last.

    Attributes
    ----------
    open_at, close_at : float
        Scores; `close_at` is not above `open_at`, or alerts would flap.
    confirm_minutes, release_minutes : int
        How long a score must be high enough before the alert opens, and too low before it closes; 0 is at once.
    """

    open_at: float
    close_at: float
    confirm_minutes: int = 0
    release_minutes: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.open_at) and math.isfinite(self.close_at) and self.close_at <= self.open_at):
            raise ValueError(f"an alert that opens at {self.open_at} cannot close at {self.close_at}")
        for minutes in (self.confirm_minutes, self.release_minutes):
            if not 0 <= minutes <= _LONGEST_MINUTES:
                raise ValueError(f"{minutes} minutes are not within a day")

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> AlertPolicy:
        """Inverse of `as_dict`; KeyError, TypeError or ValueError on anything else."""
        return cls(
            float(content["open_at"]),
            float(content["close_at"]),
            int(content["confirm_minutes"]),
            int(content["release_minutes"]),
        )


@dataclass(frozen=True)
class AlertStates:
    """Which alerts are open, in arrays of any one shape; steps are 5-minute steps since 1970, -1 means never.

    Attributes
    ----------
    opened : int64 array
        Step at which the open alert opened, -1 where none is open.
    high_since, low_since : int64 arrays
        First step of the present run of scores that are high enough to open, or too low to stay open.
    """

    opened: Integers
    high_since: Integers
    low_since: Integers

    @classmethod
    def none_open(cls, shape: tuple[int, ...]) -> AlertStates:
        """Nothing has happened yet."""
        return cls(*(np.full(shape, _NEVER, dtype=np.int64) for _ in range(3)))

    @property
    def is_open(self) -> Mask:
        """Where an alert is open."""
        return self.opened >= 0

    def advance(self, score: npt.NDArray[np.floating[Any]], step: int, policy: AlertPolicy) -> AlertStates:
        """Take in the scores of the forecast that begins with a step; NaN is no score.

        Parameters
        ----------
        score : float array of the states' shape
        step : int
            Not before that of the scores taken in last.
        """
        wait, linger = (minutes / STEP_MINUTES for minutes in (policy.confirm_minutes, policy.release_minutes))
        high, low = score >= policy.open_at, ~(score >= policy.close_at)
        high_since = np.where(high, np.where(self.high_since < 0, step, self.high_since), _NEVER)
        low_since = np.where(low, np.where(self.low_since < 0, step, self.low_since), _NEVER)
        stays = self.is_open & ~np.isnan(score) & ~(low & (step - low_since >= linger))
        opens = ~self.is_open & high & (step - high_since >= wait)
        opened = np.where(stays, self.opened, np.where(opens, step, _NEVER))
        return AlertStates(opened, high_since, low_since)

    def select(self, places: Integers) -> AlertStates:
        """States of other rows: row k of the answer is row `places[k]` of this, or nothing yet where that is -1."""
        known = places >= 0
        result = AlertStates.none_open((len(places), *self.opened.shape[1:]))
        for mine, theirs in zip(vars(self).values(), vars(result).values(), strict=True):
            theirs[known] = mine[places[known]]
        return result


def _self_check() -> None:
    policy = AlertPolicy(open_at=0.7, close_at=0.5, release_minutes=10)
    states = AlertStates.none_open((1,))
    is_open = []
    for step, probability in enumerate((0.6, 0.7, 0.6, 0.4, 0.6, 0.4, 0.4, 0.4, 0.6)):
        states = states.advance(np.array([probability]), step, policy)
        is_open.append(bool(states.is_open[0]))
    assert is_open == [False, True, True, True, True, True, True, False, False], is_open
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
