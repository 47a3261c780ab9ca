"""Does the watch measure each server exactly, across the edges of pieces, and know the nights of clock change?"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from data_quality import (
    BIN_EDGES,
    DAY,
    FROZEN,
    HOUR,
    MISSING_BIN,
    SECOND,
    OrderedRows,
    QualityWatch,
    goes_back,
    goes_forward,
)

BEGIN = 20_000 * DAY
STEP = 300 * SECOND


def watched(times: list[int], values: list[float] | None = None, cuts: tuple[int, ...] = ()) -> QualityWatch:
    """One server's rows in pieces; times are counted in steps."""
    watch = QualityWatch(BEGIN + 100 * DAY, 0, 0)
    moments = BEGIN + np.array(times) * STEP
    cpu = np.full(len(times), 50.0) if values is None else np.array(values)
    for part in np.split(np.arange(len(times)), cuts):
        begins = np.arange(len(part)) == 0
        rows = OrderedRows(slice(None), np.zeros(len(part), np.int64), moments[part], begins)
        watch.add(rows, {"cpu_pct": cpu[part], "mem_pct": cpu[part] / 2}, 1)
    return watch


@pytest.mark.parametrize("cuts", [(), (1,), (3,), (4,), (1, 2, 3, 4, 5, 6)])
def test_the_longest_step_is_found_on_both_sides_of_an_edge(cuts):
    table = watched([0, 1, 2, 6, 7, 8, 12], cuts=cuts).finish()
    assert table.longest[0] == 4 * STEP and table.longest_from[0] == BEGIN + 2 * STEP  # the first of two as long
    assert table.steps[0].sum() == 6 and table.step_sums[0].sum() == 12 * STEP and table.rows[0] == 7


@pytest.mark.parametrize("cuts", [(), (2,), (3,), (5,), (1, 2, 3, 4, 5, 6, 7)])
def test_a_run_of_equal_values_goes_on_from_piece_to_piece(cuts):
    table = watched(list(range(8)), [10, 20, 20, 20, 20, 30, 30, np.nan], cuts=cuts).finish()
    for run in (0, FROZEN):
        assert table.flat[0, run] == 3 * STEP and table.flat_from[0, run] == BEGIN + STEP
        assert table.flat_value[0, run] == 20
    assert table.values[0, 0, MISSING_BIN] == 1 and (table.least[0, 0], table.most[0, 0]) == (10, 30)


@pytest.mark.parametrize("cuts", [(), (3,), (4,), (1, 2, 3, 4, 5)])
def test_rows_after_newer_ones_are_late_and_repeats_are_counted(cuts):
    table = watched([0, 1, 5, 2, 3, 5], cuts=cuts).finish()
    assert (table.late[0], table.late_by[0], table.late_at[0]) == (2, 3 * STEP, BEGIN + 2 * STEP)
    assert (table.repeats[0], table.repeat_at[0]) == (1, BEGIN + 5 * STEP)
    assert table.last[0] == BEGIN + 5 * STEP and table.longest[0] == 4 * STEP


def test_values_beyond_single_precision_do_no_harm():
    table = watched([0, 1, 2], [1e300, -1e300, 5e-324]).finish()
    assert table.values[0, 0].sum() == 3


def test_every_step_has_one_bin():
    assert (np.diff(BIN_EDGES) > 0).all() and (BIN_EDGES[8:] == 2 * BIN_EDGES[:-8]).all()
    table = watched([0, 1]).finish()
    place = int(np.argmax(table.steps[0]))
    assert BIN_EDGES[place] <= STEP < BIN_EDGES[place + 1]


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "Europe/London", "America/New_York", "Australia/Sydney", "Pacific/Auckland"]
)
def test_the_nights_of_clock_change_are_those_of_the_time_zone_database(zone):
    place = ZoneInfo(zone)
    moment = datetime(2020, 1, 1, tzinfo=timezone.utc)
    changes = 0
    while moment < datetime(2031, 1, 1, tzinfo=timezone.utc):
        after = moment + timedelta(hours=1)
        shift = after.astimezone(place).utcoffset() - moment.astimezone(place).utcoffset()
        if shift:
            changes += 1
            local = np.array([int(after.astimezone(place).replace(tzinfo=timezone.utc).timestamp()) * SECOND])
            assert (goes_forward(local)[0], goes_back(local)[0]) == (shift > timedelta(0), shift < timedelta(0)), after
        moment = after
    assert changes == 22


def test_other_nights_are_none_of_clock_change():
    hours = BEGIN + np.arange(366 * 24) * HOUR
    assert goes_forward(hours).sum() <= 5 * 3 and goes_back(hours).sum() <= 3 * 2
