"""States that no source reported follow from the metrics by the contract's rules."""

from __future__ import annotations

import numpy as np

from data_contract import VALID_STATES
from derived_columns import derive_states, derived_state_names

CPU = np.array([95, 94.9, 80, 79, 5, 4.9, np.nan, 1], np.float32)
MEM = np.array([0, 98, 0, 90, 0, 0, 0, 97.9], np.float32)
STATES = ["critical_issue", "critical_issue", "heavy_load", "heavy_load", "healthy", "idle", "healthy", "heavy_load"]


def test_states_are_derived_by_the_contracts_rules() -> None:
    metrics = {"cpu_pct": CPU, "mem_pct": MEM}
    assert [VALID_STATES[code] for code in derive_states(metrics, 8)] == STATES
    assert derived_state_names(metrics, 8).tolist() == STATES


def test_rows_without_any_metric_are_healthy() -> None:
    assert derived_state_names({}, 2).tolist() == ["healthy", "healthy"]
    assert derived_state_names({}, 0).tolist() == []
