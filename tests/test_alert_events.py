"""Tests of alert_events.py: sustained crossings and the incidents of a generated fleet."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alert_events import CROSSING, Event, find_crossings, limits_of, outcomes, read_incidents
from config import load_settings
from data_contract import METRIC_COLUMNS, DataFileError
from fleet_grid import FleetGrid, step_of
from fleet_tables import INCIDENTS_SCHEMA
from metrics_generator import GeneratorOptions, generate

START = datetime(2026, 1, 5, tzinfo=timezone.utc)


def make_grid(cpu: list[float], names: tuple[str, ...] = ("ppweb001",)) -> FleetGrid:
    """Servers with the same CPU and nothing else to tell."""
    values = np.full((len(names), len(cpu), len(METRIC_COLUMNS)), 10.0, dtype=np.float32)
    values[:, :, 0] = cpu
    states = np.full(values.shape[:2], -1, dtype=np.int8)
    return FleetGrid(names, ("web_api",) * len(names), step_of(START), values, states)


def crossings(cpu: list[float]) -> list[tuple[int, int]]:
    grid = make_grid(cpu)
    limits = np.full((1, len(METRIC_COLUMNS)), 90.0)
    found = find_crossings(grid, limits)
    assert all(event.server == 0 and event.metrics == (0,) and event.kind == CROSSING for event in found)
    return [(event.breach, event.end) for event in found]


def test_a_crossing_is_sustained_and_one_value_that_sticks_out_is_none() -> None:
    calm = [10.0] * 10
    assert crossings([*calm, 95, *calm]) == []
    assert crossings([*calm, 95, 95, *calm]) == [(10, 12)]
    assert crossings([*calm, 95, 10, 95, *calm]) == [(10, 13)]
    assert crossings([*calm, 95, 10, 10, 95, *calm]) == []
    assert crossings([*calm, 90, 90, *calm]) == []  # on the threshold is not above it


def test_a_crossing_goes_on_until_half_an_hour_has_passed_without_one() -> None:
    calm = [10.0] * 10
    assert crossings([*calm, 95, 95, *[10.0] * 5, 95, *calm]) == [(10, 18)]
    assert crossings([*calm, 95, 95, *[10.0] * 6, 95, 95, *calm]) == [(10, 12), (18, 20)]
    assert crossings([*calm, 95, 95]) == [(10, 12)]


def test_a_gap_is_above_nothing() -> None:
    assert crossings([10.0, float("nan"), 95, float("nan"), 95, float("nan")]) == [(2, 5)]


def test_thresholds_are_those_of_the_profile() -> None:
    grid = make_grid([10.0], ("ppweb001", "ppweb002"))
    settings = load_settings(profile_thresholds={"web_api": {"cpu_pct": 80.0}})
    assert limits_of(grid, settings)[:, 0].tolist() == [80, 80]


def test_what_came_true_of_forecasts_is_told_by_column() -> None:
    event = Event(0, (0, 2), 5, 20, 30, "memory_leak")
    ahead, during = outcomes([event], np.arange(40), 2, horizon=10)
    assert np.flatnonzero(ahead[:, 0, 0]).tolist() == list(range(11, 21))
    assert np.flatnonzero(during[:, 0, 2]).tolist() == list(range(21, 30))
    assert not ahead[:, 0, 1].any() and not ahead[:, 1].any() and not during[:, 1].any()
    assert during[21:30, 0].all()  # an incident is the trouble of the whole server
    during = outcomes([Event(0, (0,), None, 20, 30, CROSSING)], np.arange(40), 2)[1]
    assert during[21:30, 0, 0].all() and not during[:, 0, 1:].any()


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[FleetGrid, Path]:
    """Ten days of 40 servers, and their incidents."""
    folder = tmp_path_factory.mktemp("generated")
    generate(GeneratorOptions(servers=40, hours=240, start=START, seed=6), folder)
    frame = pd.read_parquet(folder / "server_metrics.parquet")
    return FleetGrid.from_frame(frame), folder / "metrics_incidents.parquet"


def test_incidents_of_a_generated_fleet_say_which_metrics_and_which_came_suddenly(
    generated: tuple[FleetGrid, Path],
) -> None:
    grid, path = generated
    limits = limits_of(grid, load_settings())
    events = read_incidents(path, grid, limits)
    assert len(events) == pq.read_metadata(path).num_rows > 5
    assert {event.is_sudden for event in events} == {True, False}
    assert all(event.is_sudden == (event.kind == "sudden_failure") for event in events)
    for event in events:
        if event.breach >= 0:
            first = grid.values[event.server, event.breach] > limits[event.server]
            assert first.any() and set(np.flatnonzero(first)) <= set(event.metrics)
    longer = [event for event in find_crossings(grid, limits) if event.breach > 0]
    for crossing in longer:  # in a healthy fleet, every broken threshold belongs to an incident
        assert any(
            event.server == crossing.server and crossing.metrics[0] in event.metrics
            and event.breach <= crossing.breach < event.end
            for event in events
        )  # fmt: skip


def test_incidents_beyond_the_servers_and_thresholds_that_are_asked_for_are_left_out(
    generated: tuple[FleetGrid, Path],
) -> None:
    grid, path = generated
    limits = limits_of(grid, load_settings())
    all_of_them = read_incidents(path, grid, limits)
    half = grid.select(range(15))
    assert len(read_incidents(path, half, limits[:15])) == sum(event.server < 15 for event in all_of_them)
    assert read_incidents(path, grid, np.full_like(limits, 1e9)) == []


def test_a_file_that_holds_no_incidents_is_refused(tmp_path: Path) -> None:
    grid, path = make_grid([10.0]), tmp_path / "metrics_incidents.parquet"
    row = {"server_name": "ppweb001", "cause": "memory_leak", "onset": START, "breach": None, "end": None}
    for content in (
        pa.table({"a": [1]}),
        pa.table({name: ["ppweb001"] for name in INCIDENTS_SCHEMA.names}),
        pa.Table.from_pylist([row]),
        pa.Table.from_pylist([{**row, "breach": START + timedelta(hours=1), "onset": None}]),
    ):
        pq.write_table(content, path)
        with pytest.raises(DataFileError, match="cannot be used"):
            read_incidents(path, grid, np.full((1, 4), 90.0))
    path.write_bytes(b"PAR1 or not")
    with pytest.raises(DataFileError, match="cannot be used"):
        read_incidents(path, grid, np.full((1, 4), 90.0))
