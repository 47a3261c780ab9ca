"""Tests of alert_outcomes.py: whether alerts came true, by what a real store holds of the time after them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from alert_helpers import LIKELY, ORIGIN, Shift, alert_settings
from conftest import make_fleet

from alert_outcomes import OutcomeJudge
from alert_store import StoredAlert
from data_contract import TIMESTAMP
from history_store import HistoryStore

STEP = timedelta(minutes=5)


@pytest.fixture
def shift(tmp_path: Path) -> Iterator[Shift]:
    shift = Shift(tmp_path, alert_settings())
    shift.take(0, ppweb001=LIKELY)
    yield shift
    shift.desk.close()


def judged(shift: Shift, steps_after: int, above: tuple[int, ...] = (), missing: slice | None = None) -> StoredAlert:
    """The alert after so many steps were measured; `above` and `missing` count steps after the forecast's origin."""
    frame = make_fleet(("ppweb001",), hours=24, end=ORIGIN + (steps_after + 1) * STEP)
    after = ((frame[TIMESTAMP] - pd.Timestamp(ORIGIN)) / STEP).astype(int).to_numpy()
    frame["cpu_pct"] = np.where(np.isin(after, above), 95.0, 40.0)
    if missing is not None:
        frame = frame[~np.isin(after, np.arange(missing.start, missing.stop))]
    with HistoryStore(shift.folder) as store:
        store.append(frame)
        judge = OutcomeJudge(store.server_steps)
        assert judge.judge(shift.desk.store, store.newest) is False
    (alert,) = shift.desk.store.history(ORIGIN)
    return alert


def test_a_sustained_breach_within_eight_hours_makes_an_alert_true(shift: Shift) -> None:
    alert = judged(shift, 60, above=(40, 41))
    assert (alert.outcome, alert.breached_at) == ("true", ORIGIN + 40 * STEP)


def test_a_breach_that_may_still_come_is_waited_for(shift: Shift) -> None:
    assert judged(shift, 60, above=(40,)).outcome is None  # one value that sticks out is no breach


def test_eight_hours_without_a_breach_make_it_false(shift: Shift) -> None:
    alert = judged(shift, 120, above=(99, 100, 101))
    assert (alert.outcome, alert.breached_at) == ("false", None)


def test_what_was_in_trouble_already_is_late(shift: Shift) -> None:
    assert judged(shift, 60, above=(-2, -1, 0, 1, 2)).outcome == "late"


def test_hours_that_nobody_measured_prove_nothing(shift: Shift) -> None:
    assert judged(shift, 120, missing=slice(10, 100)).outcome == "undecided"


def test_many_alerts_are_judged_bit_by_bit(tmp_path: Path) -> None:
    shift = Shift(tmp_path, alert_settings())
    shift.take(0, **{f"ppweb{number:03d}": LIKELY for number in range(150)})
    with HistoryStore(tmp_path) as store:
        store.append(make_fleet(("ppweb001",), hours=12, end=ORIGIN + 120 * STEP))
        judge = OutcomeJudge(store.server_steps)
        assert judge.judge(shift.desk.store, store.newest) and not judge.judge(shift.desk.store, store.newest)
    outcomes = {alert.outcome for alert in shift.desk.store.history(ORIGIN, limit=1000)}
    assert outcomes == {"false", "undecided"}
    shift.desk.close()
