"""Tests of training_data.py: files of any size as a fleet on disk, equal to what the same rows give in memory."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FLEET, make_fleet, write_fleet
from hypothesis import given, settings
from hypothesis import strategies as st
from peak_memory import PEAK_MB

import training_data
from data_contract import (
    DEFAULT_FLEET,
    METRIC_COLUMNS,
    VALID_STATES,
    ContractError,
    DataFileError,
    TrainingError,
    format_name,
    profile_for_name,
)
from data_validator import load_valid_frame
from fleet_grid import FleetGrid
from fleet_spreads import typical_spread
from metrics_generator import GeneratorOptions, generate_frame
from model_inputs import Layout
from tft_features import FeatureSpec, FleetTensors, gather_windows
from training_data import FLEET_FILE, STATES_FILE, VALUES_FILE, copy_servers, load_fleet, open_fleet
from training_options import Restrictions, held_out_servers

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("ppweb001", "ppdb001", "mail.example.org", "ppml0001")


def random_rows(seed: int, rows: int, minutes: int, seconds: int, missing: float) -> pd.DataFrame:
    """Rows of a few servers at irregular times, in any order, none twice."""
    rng = np.random.default_rng(seed)
    begin = pd.Timestamp("2026-03-01T23:00:00Z")
    ticks = rng.choice(minutes * 60 // seconds, size=rows)
    frame = pd.DataFrame(
        {
            "timestamp": (begin + pd.to_timedelta(ticks * seconds, unit="s")).as_unit("us"),
            "server_name": rng.choice(NAMES, size=rows),
            "state": rng.choice(VALID_STATES, size=rows),
        }
    )
    values = rng.uniform(0, 100, (rows, len(METRIC_COLUMNS))).astype(np.float32)
    values[rng.random(values.shape) < missing] = np.nan
    frame[list(METRIC_COLUMNS)] = values
    frame["profile"] = frame["server_name"].map(profile_for_name)
    return frame.drop_duplicates(["timestamp", "server_name"], ignore_index=True)


def write_pieces(folder: Path, frame: pd.DataFrame, pieces: int) -> Path:
    """A partitioned data set: the rows as they come, cut into files of several folders."""
    for number, rows in enumerate(np.array_split(np.arange(len(frame)), min(pieces, len(frame)))):
        write_fleet(folder / f"part={number % 2}" / f"{number}.parquet", frame.iloc[rows])
    return folder


def assert_equal(one: FleetGrid, other: FleetGrid) -> None:
    """Equal grids: averages within the rounding of one float32 operation, all else exactly."""
    assert (one.names, one.profiles, one.first_step) == (other.names, other.profiles, other.first_step)
    np.testing.assert_array_equal(one.states, other.states)
    np.testing.assert_allclose(one.values, other.values, rtol=2**-22)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 400),
    minutes=st.integers(5, 600),
    seconds=st.sampled_from([5, 60, 300]),
    missing=st.sampled_from([0.0, 0.3, 1.0]),
    pieces=st.integers(1, 5),
    at_once=st.sampled_from([1, 7, 50, 10**6]),
)
def test_files_in_any_order_and_number_give_the_grid_that_their_rows_give_in_memory(
    seed: int, rows: int, minutes: int, seconds: int, missing: float, pieces: int, at_once: int
) -> None:
    frame = random_rows(seed, rows, minutes, seconds, missing)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_data, "_CELLS_AT_ONCE", at_once)
        data = load_fleet(write_pieces(Path(folder, "data"), frame, pieces), Path(folder, "fleet"))
        assert data.rows == len(frame)
        assert_equal(data.grid, FleetGrid.from_frame(frame))


@pytest.mark.parametrize("at_once", [10_000, 10**7])
def test_a_generated_fleet_of_finer_rows_is_loaded_from_a_folder_of_days(
    tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = generate_frame(GeneratorOptions(hours=50, servers=20, interval_seconds=60))
    for day, rows in frame.groupby(frame["timestamp"].dt.date):
        write_fleet(tmp_path / "data" / f"date={day}" / "part-0.parquet", rows)
    monkeypatch.setattr(training_data, "_CELLS_AT_ONCE", at_once)
    data = load_fleet(tmp_path / "data", tmp_path / "fleet")
    assert_equal(data.grid, FleetGrid.from_frame(load_valid_frame(tmp_path / "data")))
    assert data.rows == 20 * 50 * 60


def test_other_processes_map_the_same_and_nothing_is_pickled_or_left_over(tmp_path: Path, fleet_file: Path) -> None:
    data = load_fleet(fleet_file, tmp_path / "fleet")
    again = open_fleet(tmp_path / "fleet")
    assert_equal(again.grid, data.grid)
    assert (again.fingerprint, again.rows) == (data.fingerprint, data.rows) == (data.fingerprint, 6 * 72 * 12)
    assert {path.name for path in (tmp_path / "fleet").iterdir()} == {VALUES_FILE, STATES_FILE, FLEET_FILE}
    for name in (VALUES_FILE, STATES_FILE):
        assert np.load(tmp_path / "fleet" / name, allow_pickle=False).dtype.kind in "fi"
        mapped = np.load(tmp_path / "fleet" / name, mmap_mode="r")
        assert (mapped.ndim, mapped.offset % 64) == ({VALUES_FILE: 3, STATES_FILE: 2}[name], 0)
    assert not data.grid.values.flags.writeable


def test_windows_cut_from_mapped_files_are_those_cut_from_memory(tmp_path: Path, fleet_file: Path) -> None:
    mapped, whole = load_fleet(fleet_file, tmp_path / "fleet").grid, FleetGrid.from_frame(make_fleet())
    ids = [str(k) for k in range(len(FLEET))]
    spec = FeatureSpec(Layout(((24, 1),)), tuple(ids), typical_spread(whole))
    assert typical_spread(mapped) == spec.prior_scale
    servers, origins = torch.tensor([0, 5, 3]), torch.tensor([20, 500, mapped.n_steps])
    one, other = (
        gather_windows(FleetTensors.from_grid(grid, spec, ids), servers, origins, spec) for grid in (mapped, whole)
    )
    assert all(torch.equal(tensor, other.inputs[name]) for name, tensor in one.inputs.items())
    tensors = FleetTensors.from_grid(mapped, spec, ids)
    assert tensors.values.data_ptr() == mapped.values.ctypes.data  # in place, not copied


def test_the_fingerprint_is_the_datas_and_not_its_files(tmp_path: Path) -> None:
    frame = make_fleet(FLEET[:3], hours=30)
    whole = load_fleet(write_fleet(tmp_path / "whole.parquet", frame), tmp_path / "1")
    pieces = load_fleet(write_pieces(tmp_path / "pieces", frame, 4), tmp_path / "2")
    assert whole.fingerprint == pieces.fingerprint and len(whole.fingerprint) == 64
    seen = {whole.fingerprint}
    for number, (column, value) in enumerate(
        [("cpu_pct", 1.0), ("state", "idle"), ("server_name", "ppzz"), ("profile", "generic")]
    ):
        other = frame.copy()
        rows = other["server_name"] == FLEET[0] if column in {"server_name", "profile"} else other.index == 10
        other.loc[rows, column] = value
        seen.add(load_fleet(write_fleet(tmp_path / f"{number}.parquet", other), tmp_path / f"f{number}").fingerprint)
    later = frame.assign(timestamp=frame["timestamp"] + pd.Timedelta("1D"))
    seen.add(load_fleet(write_fleet(tmp_path / "later.parquet", later), tmp_path / "later").fingerprint)
    assert len(seen) == 6


def test_progress_rises_to_the_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_data, "_CELLS_AT_ONCE", 300)
    told: list[tuple[int, int]] = []
    frame = make_fleet(hours=30)
    data = write_pieces(tmp_path / "data", frame, 5)
    load_fleet(data, tmp_path / "fleet", lambda done, rows: told.append((done, rows)))
    assert told == sorted(told) and told[-1] == (len(frame), len(frame)) and {rows for _, rows in told} == {len(frame)}
    assert any(done <= len(frame) // 2 for done, _ in told)


# ----------------------------------------------------------------------------------------------------------- bad input
def faulty_fleets() -> dict[str, pd.DataFrame]:
    """Frames with one kind of fault each."""
    frame = make_fleet(FLEET[:2], hours=30)
    return {
        "a row twice": pd.concat([frame, frame.iloc[[5]]]),
        "out of range": frame.assign(cpu_pct=frame["cpu_pct"].where(frame.index != 7, 140.0)),
        "infinite": frame.assign(latency_ms=frame["latency_ms"].where(frame.index != 7, np.inf)),
        "foreign state": frame.assign(state=frame["state"].where(frame.index != 9, "sleepy")),
        "changing profile": frame.assign(profile=frame["profile"].where(frame.index != 9, "generic")),
        "no rows": frame.head(0),
    }


@pytest.mark.parametrize("fault", faulty_fleets())
def test_what_breaks_the_contract_is_refused_with_the_findings_of_the_validator(tmp_path: Path, fault: str) -> None:
    file = write_fleet(tmp_path / "fleet.parquet", faulty_fleets()[fault])
    with pytest.raises(ContractError) as expected:
        load_valid_frame(file)
    with pytest.raises(ContractError) as caught:
        load_fleet(file, tmp_path / "kept")
    assert str(caught.value) == str(expected.value)
    assert not (tmp_path / "kept").exists()


def test_the_validators_warnings_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = make_fleet(FLEET[:1], hours=30).assign(latency_ms=np.nan)
    with caplog.at_level(logging.WARNING):
        load_fleet(write_fleet(tmp_path / "fleet.parquet", frame), tmp_path / "kept")
    assert "`latency_ms` is missing in every row" in caplog.text


def test_data_that_is_not_there_or_no_parquet_is_told_as_everywhere(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no Parquet")
    for name in ("absent.parquet", "text.parquet"):
        with pytest.raises(DataFileError, match=name):
            load_fleet(tmp_path / name, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_clock_that_was_wrong_by_decades_is_told_instead_of_filling_the_disk(tmp_path: Path) -> None:
    times = pd.to_datetime(["2026-01-01T00:00:00Z", "1971-01-01T00:00:00Z"])
    frame = make_fleet(tuple(f"s{k}" for k in range(100)), hours=1)
    frame.loc[0, "timestamp"] = times[1]
    with pytest.raises(ContractError, match="1971-01-01") as caught:
        load_fleet(write_fleet(tmp_path / "fleet.parquet", frame), tmp_path / "kept")
    assert "wrong times" in caught.value.fix and not (tmp_path / "kept").exists()


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, fleet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(TrainingError, match=r"needs 0.0 GB .* free"):
        load_fleet(fleet_file, tmp_path / "kept")
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_disk_that_becomes_full_leaves_what_was_there_before(tmp_path: Path, fleet_file: Path) -> None:
    before = load_fleet(write_fleet(tmp_path / "small.parquet", make_fleet(hours=2)), tmp_path / "kept")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # writing beyond this fails like a full disk
    try:
        with pytest.raises(TrainingError, match="cannot be written") as caught:
            load_fleet(fleet_file, tmp_path / "kept")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.strerror(errno.EFBIG) in caught.value.what
    assert open_fleet(tmp_path / "kept").fingerprint == before.fingerprint
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_data_that_changes_while_it_is_read_is_refused(tmp_path: Path, fleet_file: Path) -> None:
    for number, change in enumerate(
        (
            lambda frame: frame.assign(server_name=frame["server_name"].replace(FLEET[0], "ppweb999")),
            lambda frame: frame.assign(timestamp=frame["timestamp"] + pd.Timedelta("1h")),
            lambda frame: frame.tail(-1),
        )
    ):
        file = tmp_path / f"{number}.parquet"
        shutil.copy(fleet_file, file)

        def judged(done: int, rows: int, file: Path = file, change: object = change) -> None:
            if done == rows // 2:  # all rows are judged, none is averaged
                write_fleet(file, change(make_fleet()))

        with pytest.raises(DataFileError, match="changed while it was read"):
            load_fleet(file, tmp_path / "kept", judged)
    assert list((tmp_path / "kept").iterdir()) == []


@pytest.mark.parametrize(
    "damage", ["absent", "no JSON", "other version", "cut short", "other shape", "pickled", "names"]
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path, fleet_file: Path, damage: str) -> None:
    folder = tmp_path / "kept"
    load_fleet(fleet_file, folder)
    content = json.loads((folder / FLEET_FILE).read_text())
    if damage == "absent":
        (folder / FLEET_FILE).unlink()
    elif damage == "no JSON":
        (folder / FLEET_FILE).write_text("{")
    elif damage == "other version":
        (folder / FLEET_FILE).write_text(json.dumps({**content, "format": 0}))
    elif damage == "names":
        (folder / FLEET_FILE).write_text(json.dumps({**content, "names": content["names"][1:]}))
    elif damage == "cut short":
        os.truncate(folder / VALUES_FILE, 1000)
    elif damage == "other shape":
        np.save(folder / STATES_FILE, np.zeros((6, 3), np.int8))
    else:
        np.save(folder / VALUES_FILE, np.array([object()]), allow_pickle=True)
    with pytest.raises(TrainingError, match="cannot be used"):
        open_fleet(folder)


def test_absurdly_large_values_stay_finite_on_the_grid(tmp_path: Path) -> None:
    frame = make_fleet(FLEET[:1], hours=30)
    frame["latency_ms"] = 1e308
    assert FleetGrid.from_frame(frame).values[..., 3].max() == np.float32(1e30)


# -------------------------------------------------------------------------------------------------------------- memory
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Days of 288,000 rows each: what two of them need at the most is what fifteen need."""
    frame = generate_frame(GeneratorOptions(hours=24, servers=50, interval_seconds=15))
    peaks = []
    for days in (2, 15):
        source = tmp_path / f"{days}days"
        for day in range(days):
            rows = frame.assign(timestamp=frame["timestamp"] + pd.Timedelta(days=day))
            write_fleet(source / f"{day:02}.parquet", rows)
        script = PEAK_MB + (
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
            "from training_data import load_fleet\n"
            f"data = load_fleet(Path({str(source)!r}), Path({str(tmp_path / 'kept')!r}))\n"
            "print(data.rows, peak_mb())"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        count, peak = done.stdout.split()
        assert int(count) == days * len(frame)
        peaks.append(float(peak))
    further_rows = 13 * frame.memory_usage().sum() / 1e6
    assert peaks[1] - peaks[0] < 0.75 * further_rows, (peaks, further_rows)


# ---------------------------------------------------------------------------------------------- what may not be learned
def test_a_restricted_grid_is_the_grid_of_the_rows_that_are_left(tmp_path: Path) -> None:
    names = (*(f"ppweb{number:03d}" for number in range(8)), "ppdb001", "ppdb002")
    frame = make_fleet(names, hours=30)
    until = frame["timestamp"].min() + pd.Timedelta(hours=20, minutes=2)  # within a step, which then is not whole
    limits = Restrictions(until.to_pydatetime(), 0.2)
    data = load_fleet(write_pieces(tmp_path / "all", frame, 4), tmp_path / "1", restrictions=limits)
    assert len(data.held_out) == 2 and set(data.grid.names) == set(names) - set(data.held_out)
    left = frame[~frame["server_name"].isin(data.held_out) & (frame["timestamp"] < until.floor("5min"))]
    alone = load_fleet(write_fleet(tmp_path / "left.parquet", left), tmp_path / "2")
    assert_equal(data.grid, alone.grid)
    assert (data.rows, data.fingerprint) == (len(left), alone.fingerprint)
    assert data.restrictions == limits == open_fleet(tmp_path / "1").restrictions


def test_what_is_not_to_be_seen_changes_nothing_whatever_it_is(tmp_path: Path) -> None:
    names = ("ppweb001", "ppweb002", "ppweb003", "ppweb004", "ppweb005")
    frame = make_fleet(names, hours=30)
    until = frame["timestamp"].min() + pd.Timedelta(hours=20)
    limits = Restrictions(until.to_pydatetime(), 0.2)
    seen = load_fleet(write_fleet(tmp_path / "1.parquet", frame), tmp_path / "1", restrictions=limits)
    hidden = frame["server_name"].isin(seen.held_out) | (frame["timestamp"] >= until)
    frame.loc[hidden, list(METRIC_COLUMNS)] = 1.0
    frame.loc[hidden, "state"] = "offline"
    newcomer = make_fleet(("ppnew001",), hours=2)  # its rows come after `until`: it must not become known
    other = pd.concat([frame, newcomer], ignore_index=True)
    again = load_fleet(write_fleet(tmp_path / "2.parquet", other), tmp_path / "2", restrictions=limits)
    assert again.fingerprint == seen.fingerprint and again.grid.names == seen.grid.names


def test_some_servers_are_copied_to_files_as_they_are(fleet_file: Path, tmp_path: Path) -> None:
    grid = load_fleet(fleet_file, tmp_path / "fleet").grid
    part = copy_servers(grid.until(grid.first_step + 100), [4, 1], tmp_path / "part")
    chosen = grid.until(grid.first_step + 100).select([4, 1])
    assert_equal(part, chosen)
    assert isinstance(part.values.base, np.memmap) and not part.values.flags.writeable
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot be written"):
        copy_servers(grid, [0], tmp_path / "file" / "part")


def test_restrictions_that_leave_nothing_are_refused_with_the_time_from_which_there_is_something(
    fleet_file: Path, tmp_path: Path
) -> None:
    before = Restrictions(datetime(2026, 3, 1, tzinfo=timezone.utc))
    with pytest.raises(TrainingError, match=r"No server .* has a row before 2026-03-01 00:00") as caught:
        load_fleet(fleet_file, tmp_path / "kept", restrictions=before)
    assert "begins at 2026-03-01 00:00" in caught.value.fix
    alone = write_fleet(tmp_path / "alone.parquet", make_fleet(("ppweb001",), hours=2))
    with pytest.raises(TrainingError, match="No server can be held out of 1"):
        load_fleet(alone, tmp_path / "kept", restrictions=Restrictions(hold_out=0.2))
    assert not (tmp_path / "kept").exists()


def test_held_out_servers_follow_from_the_names_and_leave_a_teacher_in_every_profile() -> None:
    fleet = {format_name(profile, number): profile for profile, n in DEFAULT_FLEET.items() for number in range(n)}
    chosen = held_out_servers(fleet, 0.2)
    assert len(chosen) == 18 and chosen == held_out_servers(dict(sorted(fleet.items())), 0.2)
    by_profile = {profile: sum(fleet[name] == profile for name in chosen) for profile in DEFAULT_FLEET}
    assert all(abs(by_profile[profile] - 0.2 * n) < 1 for profile, n in DEFAULT_FLEET.items())
    halves = held_out_servers({"a": "generic", "b": "generic", "ppweb001": "web_api"}, 0.5)
    assert len(halves) == 1 and halves < {"a", "b"}
    assert held_out_servers({"a": "generic", "ppweb001": "web_api"}, 0.5) == held_out_servers(fleet, 0) == frozenset()
    with pytest.raises(TrainingError, match="cannot be held out"):
        Restrictions(hold_out=0.7)
