"""What follows from a row's metrics where its source did not say it: the state, for whole tables at once.

The rules themselves are the contract's. Knows nothing of where the rows come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from data_contract import DEFAULT_STATE, STATE_RULES, VALID_STATES


def derive_states(metrics: Mapping[str, npt.NDArray[np.floating[Any]]], rows: int) -> npt.NDArray[np.int8]:
    """Places in VALID_STATES by the contract's STATE_RULES, for rows whose source reports no state.

    Parameters
    ----------
    metrics : mapping of str to array
        Values of each metric column; NaN where a row lacks one, and columns that the source lacks may be left out.
    rows : int
        Number of rows, which is also the arrays' length.
    """
    states = np.full(rows, VALID_STATES.index(DEFAULT_STATE), np.int8)
    nothing = np.full(rows, np.nan, np.float32)
    for rule in reversed(STATE_RULES):  # the first that fits wins, so it is applied last
        fits = np.zeros(rows, np.bool_)
        for metric, bound in rule.at_least.items():
            fits |= metrics.get(metric, nothing) >= bound
        if rule.below:  # NaN is not lower
            fits |= np.logical_and.reduce(
                [metrics.get(metric, nothing) < bound for metric, bound in rule.below.items()]
            )
        states[fits] = VALID_STATES.index(rule.state)
    return states


def derived_state_names(metrics: Mapping[str, npt.NDArray[np.floating[Any]]], rows: int) -> npt.NDArray[np.object_]:
    """The same in words."""
    return np.array(VALID_STATES, dtype=object)[derive_states(metrics, rows)]


def derived_state(metrics: Mapping[str, float]) -> str:
    """The same for one row, without arrays: for rows that come one by one."""
    for rule in STATE_RULES:
        if any(metrics.get(metric, np.nan) >= bound for metric, bound in rule.at_least.items()):
            return rule.state
        if rule.below and all(metrics.get(metric, np.nan) < bound for metric, bound in rule.below.items()):
            return rule.state
    return DEFAULT_STATE


def _self_check() -> None:
    assert derived_state_names({"cpu_pct": np.array([96, 3, np.nan])}, 3).tolist() == [
        "critical_issue",
        "idle",
        "healthy",
    ]
    assert derived_state({"cpu_pct": 96.0}) == "critical_issue" and derived_state({"mem_pct": 1.0}) == "healthy"
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
