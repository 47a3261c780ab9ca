"""Tests of fleet_grid.py and grid_averages.py: rows on the 5-minute grid, whole and rolling."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from conftest import FLEET, FLEET_END, make_fleet
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contract import METRIC_COLUMNS, VALID_STATES, ContractError
from fleet_grid import FleetGrid, GridRows, RollingGrid, step_of, time_of
from grid_averages import GridAverages

MOMENT = datetime(2026, 1, 5, 12, 0, tzinfo=timezone.utc)


def row(minute: float, cpu: float, *, name: str = "ppweb001", state: str = "healthy") -> dict[str, object]:
    """One row with all metrics equal to `cpu`, `minute` minutes after MOMENT."""
    return {
        "timestamp": pd.Timestamp(MOMENT + timedelta(minutes=minute)),
        "server_name": name,
        **dict.fromkeys(METRIC_COLUMNS, cpu),
        "state": state,
        "profile": "web_api",
    }


def test_rows_in_any_order_land_in_their_cells() -> None:
    frame = make_fleet(hours=5)
    grid = FleetGrid.from_frame(frame.sample(frac=1, random_state=1))
    assert grid.names == FLEET and grid.n_steps == 60
    assert time_of(grid.origin_step) == FLEET_END
    expected = frame[frame["server_name"] == "ppml0001"][list(METRIC_COLUMNS)].to_numpy()
    np.testing.assert_allclose(grid.values[grid.names.index("ppml0001")], expected, rtol=1e-6)


def test_finer_rows_are_averaged_and_the_last_state_of_a_step_counts() -> None:
    frame = pd.DataFrame([row(4.9, 30, state="idle"), row(0, 10), row(2, 20), row(5, 99)])
    grid = FleetGrid.from_frame(frame)
    np.testing.assert_allclose(grid.values[0, :, 0], [20, 99])
    assert [VALID_STATES[code] for code in grid.states[0]] == ["idle", "healthy"]


def test_a_gap_stays_a_gap() -> None:
    grid = FleetGrid.from_frame(pd.DataFrame([row(0, 10), row(15, 20), row(5, float("nan"))]))
    np.testing.assert_array_equal(np.isnan(grid.values[0, :, 0]), [False, True, True, False])
    np.testing.assert_array_equal(grid.states[0] >= 0, [True, True, False, True])


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_every_time_resolution_and_zone_means_the_same_step(unit: str) -> None:
    frame = pd.DataFrame([row(0, 10), row(5, 20)])
    frame["timestamp"] = frame["timestamp"].dt.as_unit(unit)
    grid = FleetGrid.from_frame(frame)
    assert grid.first_step == step_of(MOMENT)
    frame["timestamp"] = frame["timestamp"].dt.tz_convert("Asia/Kolkata")
    assert FleetGrid.from_frame(frame).first_step == step_of(MOMENT)
    frame["timestamp"] = frame["timestamp"].dt.tz_convert("UTC").dt.tz_localize(None)
    assert FleetGrid.from_frame(frame).first_step == step_of(MOMENT)


def test_a_clock_that_was_wrong_by_decades_is_refused_instead_of_filling_the_memory() -> None:
    names = [f"s{k}" for k in range(300)]
    frame = pd.DataFrame([row(0, 1, name=name) for name in names])
    frame.loc[0, "timestamp"] = pd.Timestamp("1970-01-01", tz="UTC")
    with pytest.raises(ContractError, match="1970-01-01"):
        FleetGrid.from_frame(frame)


@settings(deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 300), st.integers(1, 2000), st.sampled_from([0.0, 0.5]), st.integers(1, 40)
)
def test_the_grid_holds_pandas_means_and_last_states_however_the_rows_are_cut_and_ordered(
    seed: int, rows: int, minutes: int, missing: float, piece: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 100, (rows, len(METRIC_COLUMNS)))
    values[rng.random(values.shape) < missing] = np.nan
    frame = pd.DataFrame(values, columns=list(METRIC_COLUMNS)).assign(
        timestamp=pd.Timestamp(MOMENT) + pd.to_timedelta(rng.integers(0, minutes * 6, rows) * 10, unit="s"),
        server_name=rng.choice(["c", "a", "b"], size=rows),
        state=rng.choice(VALID_STATES, size=rows),
        profile="web_api",
    )
    frame = frame.drop_duplicates(["timestamp", "server_name"])
    grid = FleetGrid.from_frame(frame)
    cells = frame.sort_values("timestamp").groupby(["server_name", frame["timestamp"].dt.floor("5min")])
    times = pd.DatetimeIndex([time_of(grid.first_step + k) for k in range(grid.n_steps)])
    index = pd.MultiIndex.from_product([grid.names, times])
    means = cells[list(METRIC_COLUMNS)].mean().reindex(index).to_numpy().reshape(grid.values.shape)
    np.testing.assert_allclose(grid.values, means, rtol=1e-6)
    states = cells["state"].last().reindex(index).to_numpy().reshape(grid.states.shape)
    told = np.array([*VALID_STATES, None], dtype=object)[grid.states]
    assert ((told == states) | (pd.isna(told) & pd.isna(states))).all()
    averages = GridAverages(len(grid.names), grid.n_steps)
    for start in range(0, len(frame), piece):
        part = GridRows.of(frame.iloc[start : start + piece], {name: k for k, name in enumerate(grid.names)})
        averages.add(part.servers, part.steps - grid.first_step, part.instants, part.values, part.states)
    np.testing.assert_allclose(averages.means(), grid.values, rtol=2**-22)
    np.testing.assert_array_equal(averages.states, grid.states)


def test_blocks_of_servers_go_through_the_whole_grid_in_bounded_pieces() -> None:
    grid = FleetGrid.from_frame(make_fleet(hours=5))
    for cells in (1, 60, 130, 10**6):
        blocks = list(grid.blocks(cells))
        assert [server for block in blocks for server in range(block.start, block.stop)] == list(range(grid.n_servers))
        assert all((block.stop - block.start) * grid.n_steps <= max(cells, grid.n_steps) for block in blocks)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ContractError, match="no rows"):
        FleetGrid.from_frame(make_fleet(hours=1).head(0))


def test_rolling_grid_equals_the_grid_of_its_newest_hours_whatever_the_order_of_arrival() -> None:
    frame = make_fleet(hours=30)
    frame = frame[~frame["timestamp"].dt.minute.eq(25)]  # gaps
    rolling = RollingGrid(hours=6)
    shuffled = frame.sample(frac=1, random_state=2)
    for start in range(0, len(shuffled), 177):
        rolling.add(shuffled.iloc[start : start + 177])
    snapshot, whole = rolling.snapshot(), FleetGrid.from_frame(frame)
    order = [snapshot.names.index(name) for name in whole.names]
    assert snapshot.first_step == whole.origin_step - 72
    np.testing.assert_allclose(snapshot.values[order], whole.values[:, -72:], rtol=1e-6)
    np.testing.assert_array_equal(snapshot.states[order], whole.states[:, -72:])


def test_rolling_grid_keeps_servers_in_the_order_in_which_they_were_first_heard_of() -> None:
    rolling = RollingGrid(hours=1)
    names = ["ppweb003", "ppweb001", "ppweb003", "ppweb002", "ppweb001"]
    rolling.add(pd.DataFrame([row(minute, 10, name=name) for minute, name in enumerate(names)]))
    rolling.add(pd.DataFrame([row(7, 10, name=name) for name in ("ppweb000", "ppweb002")]))
    assert rolling.snapshot().names == rolling.server_names == ("ppweb003", "ppweb001", "ppweb002", "ppweb000")


def test_rolling_grid_averages_finer_rows_that_arrive_apart_and_keeps_the_newest_state() -> None:
    rolling = RollingGrid(hours=1)
    rolling.add(pd.DataFrame([row(4, 30, state="idle")]))
    rolling.add(pd.DataFrame([row(0, 10)]))
    grid = rolling.snapshot()
    assert grid.values[0, -1, 0] == pytest.approx(20)
    assert VALID_STATES[grid.states[0, -1]] == "idle"


def test_rolling_grid_drops_what_is_older_than_it_remembers_even_after_a_long_silence() -> None:
    rolling = RollingGrid(hours=1)
    assert rolling.newest is None
    rolling.add(pd.DataFrame([row(0, 10)]))
    rolling.add(pd.DataFrame([row(60 * 24, 20, name="ppweb002")]))
    grid = rolling.snapshot()
    assert rolling.newest == MOMENT + timedelta(days=1)
    assert np.isnan(grid.values[0]).all() and grid.values[1, -1, 0] == 20
    assert rolling.last_seen("ppweb001") == MOMENT and rolling.last_seen("nobody") is None
    rolling.add(pd.DataFrame([row(0, 99)]))  # too old by now
    assert np.isnan(rolling.snapshot().values[0]).all()


def test_rolling_grid_forgets_servers_and_a_snapshot_is_independent() -> None:
    rolling = RollingGrid(hours=1)
    rolling.add(pd.DataFrame([row(0, 10), row(0, 20, name="ppweb002")]))
    before = rolling.snapshot()
    rolling.forget(["ppweb001"])
    rolling.add(pd.DataFrame([row(5, 30, name="ppweb002")]))
    after = rolling.snapshot()
    assert after.names == ("ppweb002",) and before.names == ("ppweb001", "ppweb002")
    np.testing.assert_allclose(after.values[0, -2:, 0], [20, 30])
    assert before.values[1, -1, 0] == 20


def test_until_since_and_select_cut_a_grid() -> None:
    grid = FleetGrid.from_frame(make_fleet(hours=2))
    assert grid.until(grid.first_step + 5).n_steps == 5
    assert grid.since(grid.first_step + 5).n_steps == 19
    assert grid.since(grid.first_step - 100).n_steps == 24
    assert grid.select([2, 0]).names == (FLEET[2], FLEET[0])
