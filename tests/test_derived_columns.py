"""States that no source reported follow from the metrics by the contract's rules."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_contract import METRIC_COLUMNS, STATE_RULES, VALID_STATES
from derived_columns import derive_states, derived_state, derived_state_names

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


EDGES = [bound for rule in STATE_RULES for bound in (*rule.at_least.values(), *rule.below.values())]
VALUES = st.none() | st.sampled_from([*EDGES, math.nan]) | st.floats(0, 100)


@given(st.fixed_dictionaries(dict.fromkeys(METRIC_COLUMNS, VALUES)))
def test_one_row_has_the_state_that_it_has_in_a_table(metrics: dict[str, float | None]) -> None:
    known = {name: value for name, value in metrics.items() if value is not None}
    table = {name: np.array([value]) for name, value in known.items()}
    assert derived_state(known) == derived_state_names(table, 1)[0]
