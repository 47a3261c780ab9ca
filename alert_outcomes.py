"""Whether what alerts said came true, by what was measured afterwards; the same rules as in a backtest.

An alert is `true` if its metric begins a sustained crossing of the threshold (`alert_events.py`) within 8 hours of the
opening, `late` if it was above it already, `false` if 8 hours went by without one, and `undecided` if less than half of
them was measured. Knows nothing of how alerts are kept, nor of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import numpy as np
import pandas as pd
import structlog

from alert_events import sustained
from alert_store import AlertStore, Outcome, StoredAlert
from data_contract import HORIZON_STEPS, METRIC_COLUMNS
from fleet_grid import step_of, time_of

log = structlog.stdlib.get_logger(__name__)

_BEFORE_STEPS = 24  # looked back, for a crossing that has begun already
_STRAGGLER_STEPS = 12  # late rows are waited for, before it is said that nothing came
_AT_ONCE = 100  # alerts looked at per call: each is a few hundred short look-ups

StepsOf = Callable[[str, int, int], pd.DataFrame]  # as `HistoryStore.server_steps`


def outcome_of(alert: StoredAlert, steps_of: StepsOf, newest_step: int) -> tuple[Outcome, datetime | None] | None:
    """What became of an alert, and when the breach began; None while that is open.

    Parameters
    ----------
    newest_step : int
        Newest step of the fleet; it may not be complete, so it does not count.
    """
    opened = step_of(alert.opened_at) + 1
    end = opened + HORIZON_STEPS
    first, last = opened - _BEFORE_STEPS, min(end, newest_step) - 1
    if last < opened:
        return None
    values = steps_of(alert.server_name, first, last)[alert.metric].to_numpy()
    for begin, after in sustained(values > alert.threshold):
        if first + begin < opened < first + after:
            return "late", time_of(first + begin)
        if first + begin >= opened:
            return "true", time_of(first + begin)
    if newest_step < end + _STRAGGLER_STEPS:
        return None
    measured = np.count_nonzero(np.isfinite(values[_BEFORE_STEPS:]))
    return ("undecided" if measured * 2 < HORIZON_STEPS else "false"), None


class OutcomeJudge:
    """Decides open questions bit by bit.

    Parameters
    ----------
    steps_of : callable
        Measured history of a server.
    """

    def __init__(self, steps_of: StepsOf) -> None:
        self._steps_of = steps_of
        self._after = 0  # number of the alert looked at last
        self._judged_step = -1

    def judge(self, store: AlertStore, newest: datetime | None) -> bool:
        """Look at some alerts that are undecided yet; whether there are more to look at now."""
        if newest is None or step_of(newest) == self._judged_step:
            return False
        newest_step = step_of(newest)
        alerts = store.undecided(self._after, _AT_ONCE)
        for alert in alerts:
            found = outcome_of(alert, self._steps_of, newest_step)
            if found is not None:
                with store.change() as change:
                    change.decide(alert.id, *found)
        if len(alerts) == _AT_ONCE:
            self._after = alerts[-1].number
            return True
        self._after, self._judged_step = 0, newest_step
        return False


def _self_check() -> None:
    alert = StoredAlert(1, "a", "s", "generic", "cpu_pct", 90.0, time_of(999), time_of(999), 0.8, {})

    def measured(*above: int) -> StepsOf:
        def steps(name: str, first: int, last: int) -> pd.DataFrame:
            del name
            index = pd.RangeIndex(first, last + 1)
            return pd.DataFrame({"cpu_pct": np.where(index.isin(above), 95.0, 10.0)}, index=index)

        return steps

    assert METRIC_COLUMNS[0] == "cpu_pct"
    assert outcome_of(alert, measured(1010, 1011), 1020) == ("true", time_of(1010))
    assert outcome_of(alert, measured(998, 999, 1000), 1020) == ("late", time_of(998))
    assert outcome_of(alert, measured(1010), 1020) is None and outcome_of(alert, measured(), 1200) == ("false", None)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
