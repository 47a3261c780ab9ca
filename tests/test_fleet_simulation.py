"""Does a generated fleet behave as its roles say, and do its numbers follow from seed and start alone?"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import load_settings
from data_contract import DEFAULT_FLEET, METRIC_COLUMNS, VALID_STATES, profile_for_name
from data_validator import DataValidator
from fleet_roles import fleet_names
from fleet_simulation import FleetSimulator
from fleet_tables import FleetRows, fleet_tables, scenario_pressure
from metrics_generator import GeneratorOptions, generate_frame

MONDAY = datetime(2026, 1, 5, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def month() -> pd.DataFrame:
    """The default fleet over 720 hours."""
    frame = generate_frame(GeneratorOptions(start=MONDAY))
    frame["hour"] = frame["timestamp"].dt.hour
    frame["weekend"] = frame["timestamp"].dt.weekday >= 5
    return frame


def of_profile(frame: pd.DataFrame, profile: str) -> pd.DataFrame:
    return frame[(frame["profile"] == profile) & (frame["state"] != "offline")]


def wide(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    return frame.pivot_table(index="timestamp", columns="server_name", values=metric, observed=True)


# -------------------------------------------------------------------------------------------------------------- names


def test_the_default_fleet_has_the_default_number_of_each_profile():
    names = fleet_names(90)
    assert {profile: list(names.values()).count(profile) for profile in DEFAULT_FLEET} == DEFAULT_FLEET


@settings(max_examples=100, deadline=None)
@given(servers=st.integers(1, 5000))
def test_every_size_keeps_the_proportions_and_names_tell_the_profile(servers):
    names = fleet_names(servers)
    assert len(names) == servers
    for profile, share in DEFAULT_FLEET.items():
        count = sum(1 for each in names.values() if each == profile)
        assert abs(count - servers * share / 90) < 1
    assert all(profile_for_name(name) == profile for name, profile in names.items())


# -------------------------------------------------------------------------------------------------------- determinism


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    options = GeneratorOptions(servers=9, hours=24, start=MONDAY, seed=3)
    frame = generate_frame(options)
    pd.testing.assert_frame_equal(frame, generate_frame(options))
    other = generate_frame(GeneratorOptions(servers=9, hours=24, start=MONDAY, seed=4))
    assert not np.array_equal(frame["cpu_pct"], other["cpu_pct"])


@pytest.mark.parametrize("interval", [300, 60])
@pytest.mark.parametrize("offline_mode", ["dense", "sparse"])
@pytest.mark.parametrize("scenario", ["healthy", "critical"])
def test_a_longer_run_begins_with_the_shorter_one(interval, offline_mode, scenario):
    start = MONDAY + timedelta(hours=13, minutes=25)

    def rows(hours: int) -> pd.DataFrame:
        return generate_frame(
            GeneratorOptions(
                servers=12,
                hours=hours,
                start=start,
                interval_seconds=interval,
                offline_mode=offline_mode,
                scenario=scenario,
            )
        )

    short, long = rows(24), rows(90)
    assert len(long) > 3 * len(short)
    pd.testing.assert_frame_equal(short, long.iloc[: len(short)])


def test_rows_taken_from_the_middle_on_are_those_of_the_whole():
    options = GeneratorOptions(servers=12, hours=96, start=MONDAY)
    since = MONDAY + timedelta(hours=50, minutes=35)
    whole = generate_frame(options)
    part = pd.concat([table.to_pandas() for table in fleet_tables(options, since, options.end)], ignore_index=True)
    pd.testing.assert_frame_equal(part, whole[whole["timestamp"] >= since].reset_index(drop=True))


# ------------------------------------------------------------------------------------------------------------ validity


def test_a_month_is_valid_whole_and_shows_all_eight_states(month):
    rows = month.drop(columns=["hour", "weekend"])
    assert DataValidator().validate_schema(rows) == (True, [], [])
    assert len(rows) == 90 * 720 * 12
    assert set(rows["state"].unique()) == set(VALID_STATES)


@pytest.mark.parametrize("seed", range(5))
def test_all_states_appear_whatever_the_seed(seed):
    days = FleetSimulator(90, MONDAY, seed).days()
    states = {int(state) for _ in range(30) for state in np.unique(next(days).states)}
    assert states == set(range(8))


@settings(max_examples=15, deadline=None)
@given(servers=st.integers(1, 40), seed=st.integers(0, 2**62), minutes=st.integers(0, 60 * 24 * 365))
def test_any_fleet_at_any_time_is_valid(servers, seed, minutes):
    start = MONDAY + timedelta(minutes=minutes)
    frame = generate_frame(GeneratorOptions(servers=servers, hours=24, start=start, seed=seed))
    assert len(frame) == servers * 288
    assert DataValidator().validate_schema(frame) == (True, [], [])


def test_rare_coincidences_of_a_large_fleet_stay_within_the_contract():
    days = FleetSimulator(5000, MONDAY, 42).days()
    for _ in range(4):
        values = next(days).values
        assert np.isfinite(values).all() and values.min() >= 0 and values[..., :2].max() <= 100


def test_finer_rows_stray_around_the_same_steps():
    options = {"servers": 12, "hours": 24, "start": MONDAY + timedelta(minutes=7)}
    coarse = generate_frame(GeneratorOptions(**options))
    fine = generate_frame(GeneratorOptions(**options, interval_seconds=15))
    assert len(fine) == 20 * len(coarse) and DataValidator().validate_schema(fine)[0]
    fine["timestamp"] = fine["timestamp"].dt.floor("5min")
    means = fine.groupby(["timestamp", "server_name"], observed=True)[list(METRIC_COLUMNS)].mean()
    steps = coarse.set_index(["timestamp", "server_name"])[list(METRIC_COLUMNS)]
    for metric in METRIC_COLUMNS:
        assert np.corrcoef(means[metric], steps.loc[means.index, metric])[0, 1] > 0.97, metric


@pytest.mark.parametrize("interval", [300, 60, 5])
def test_rows_are_the_same_whatever_the_size_of_the_pieces(interval):
    options = GeneratorOptions(servers=7, hours=26, start=MONDAY + timedelta(hours=13), interval_seconds=interval)

    def rows(piece_rows: int) -> pd.DataFrame:
        fleet = FleetRows(options, piece_rows=piece_rows)
        tables = [
            table
            for day in fleet.days(options.begin, options.end)
            for table in fleet.pieces(day, options.begin, options.end)
        ]
        return pa.concat_tables(tables).to_pandas()

    small, large = rows(1), rows(10**9)
    assert len(small) == options.most_rows
    pd.testing.assert_frame_equal(small, large)


# ----------------------------------------------------------------------------------------------------------- behaviour


def by_hour(frame: pd.DataFrame, profile: str, metric: str = "cpu_pct") -> pd.DataFrame:
    """Mean of a role, hour × weekend."""
    rows = of_profile(frame, profile)
    return rows.pivot_table(index="hour", columns="weekend", values=metric, observed=True)


def test_the_web_tier_is_busy_in_office_hours_most_of_all_in_the_morning_and_less_on_weekends(month):
    web = by_hour(month, "web_api")
    assert web.loc[11, False] > 1.5 * web.loc[3, False] and web.loc[9, False] > 1.2 * web.loc[11, False]
    assert web.loc[9:16, True].mean() < 0.7 * web.loc[9:16, False].mean()


def test_ingest_runs_at_night_and_risk_after_market_close_on_weekdays(month):
    ingest = by_hour(month, "data_ingest")
    assert ingest.loc[2, False] > 2 * ingest.loc[13, False] and ingest.loc[2, True] > 2 * ingest.loc[13, True]
    disk = by_hour(month, "data_ingest", "disk_io_mb_s")
    assert disk.loc[2, False] > 3 * disk.loc[13, False]
    risk = by_hour(month, "risk_analytics")
    assert risk.loc[17, False] > 2 * risk.loc[13, False] and risk.loc[17, True] < 0.5 * risk.loc[17, False]


def test_the_conductors_work_when_the_batches_do(month):
    conductors = by_hour(month, "conductor_mgmt")[False]
    assert min(conductors[2], conductors[17]) > 1.5 * conductors[22]


def test_most_machines_are_mostly_idle_with_rare_bursts(month):
    cpu = wide(month, "cpu_pct")
    assert 0.5 < (cpu.median() < 5).mean() < 0.95
    generic = of_profile(month, "generic")["cpu_pct"]
    assert generic.median() < 2 and generic.max() > 20


def test_the_noise_of_servers_is_their_own(month):
    cpu = wide(month[month["profile"] == "web_api"], "cpu_pct").diff()
    between = cpu.corr().to_numpy()[np.triu_indices(cpu.shape[1], 1)]
    assert np.nanmedian(np.abs(between)) < 0.1


def test_the_tier_shares_its_days(month):
    """Daily means of web servers go up and down together, with the week."""
    daily = wide(of_profile(month, "web_api"), "cpu_pct").resample("1D").mean()
    busy = daily.loc[:, daily.mean() > 4]
    between = busy.corr().to_numpy()[np.triu_indices(busy.shape[1], 1)]
    assert np.nanmedian(between) > 0.15


def test_memory_and_disk_move_with_cpu(month):
    frame = month[month["state"] != "offline"]
    for metric in ("mem_pct", "disk_io_mb_s"):
        related = [
            rows["cpu_pct"].corr(rows[metric], method="spearman")
            for _, rows in frame.groupby("server_name", observed=True)
        ]
        assert np.nanmedian(related) > 0.2, metric


def test_latency_rises_with_cpu(month):
    latency = month.assign(usual=month.groupby("server_name", observed=True)["latency_ms"].transform("median"))
    relative = latency["latency_ms"] / latency["usual"]
    assert relative[month["cpu_pct"] > 80].median() > 1.2 > relative[month["cpu_pct"] < 10].median()


def test_a_slow_database_slows_its_web_servers():
    simulator = FleetSimulator(90, MONDAY, 1)
    days = simulator.days()
    latency = np.concatenate([next(days).values[..., 3] for _ in range(30)])  # (steps, servers)
    relative = latency / np.median(latency, axis=0)
    names = list(simulator.names)
    web = np.array([name.startswith("ppweb") for name in names])
    ratios = []
    for place, first in enumerate(np.flatnonzero([name.startswith("ppdb") for name in names])):
        slow = relative[:, first] > 6
        if slow.sum() < 4:
            continue
        served = np.flatnonzero(web)[place::15]  # the web tier is spread over the 15 databases in order
        others = np.setdiff1d(np.flatnonzero(web), served)
        ratios.append(np.median(relative[slow][:, served]) / np.median(relative[slow][:, others]))
    assert len(ratios) >= 3 and np.median(ratios) > 1.5


def test_memory_leaks_grow_for_hours_and_are_freed_at_once(month):
    memory = wide(month, "mem_pct")
    smooth = memory.rolling(6).median()
    found = 0
    for name in smooth:
        drops = smooth.index[(smooth[name].diff(6) < -15)]
        for moment in drops:
            before = smooth.loc[moment - pd.Timedelta(hours=7) : moment - pd.Timedelta(minutes=35), name]
            found += len(before) > 70 and 4 < before.iloc[-6:].mean() - before.iloc[:6].mean() < 60
    assert found >= 3


# -------------------------------------------------------------------------------------------------------------- states


def changes_of(frame: pd.DataFrame) -> dict[tuple[str, str], int]:
    """How often one state follows upon another."""
    counts: dict[tuple[str, str], int] = {}
    for _, rows in frame.groupby("server_name", observed=True):
        states = rows["state"].astype(str).to_numpy()
        for change in np.flatnonzero(states[1:] != states[:-1]):
            pair = (states[change], states[change + 1])
            counts[pair] = counts.get(pair, 0) + 1
    return counts


def test_outages_follow_a_critical_issue_and_end_in_recovery(month):
    changes = changes_of(month)
    assert {before for before, after in changes if after == "offline"} == {"critical_issue"}
    assert {after for before, after in changes if before == "offline"} == {"recovery"}
    assert {before for before, after in changes if after == "recovery"} <= {"critical_issue", "offline"}
    assert not {after for before, after in changes if before == "critical_issue"} - {"offline", "recovery"}


def test_states_last_and_do_not_flicker(month):
    runs: dict[str, list[int]] = {state: [] for state in VALID_STATES}
    for _, rows in month.groupby("server_name", observed=True):
        states = rows["state"].astype(str).to_numpy()
        edges = np.flatnonzero(np.concatenate([[True], states[1:] != states[:-1], [True]]))
        for begin, length in zip(edges[1:-1], np.diff(edges)[1:], strict=True):  # the first may have begun before
            runs[states[begin]].append(int(length))
    assert np.median(runs["idle"]) >= 12 and np.median(runs["healthy"]) >= 6
    assert min(runs["maintenance"][:-1]) >= 6  # half an hour; the last may be cut by the end


def test_maintenance_is_planned_every_fortnight_at_the_same_time(month):
    patched = month[month["state"] == "maintenance"]
    begins = patched.groupby(["server_name", patched["timestamp"].dt.date], observed=True)["timestamp"].min()
    found = 0
    for _, moments in begins.groupby("server_name", observed=True):
        ordered = moments.sort_values()
        if len(ordered) > 1:
            assert (ordered.diff().dropna() % pd.Timedelta(days=14) == pd.Timedelta(0)).all()  # put off by an incident
            found += 1
    assert found > 40 and begins.dt.hour.max() < 6


def test_breaches_of_the_thresholds_are_rare_but_there(month):
    chosen = load_settings()
    for metric in METRIC_COLUMNS:
        limits = month["profile"].astype(str).map(lambda profile, metric=metric: chosen.threshold(metric, profile))
        share = float((month[metric] > limits).mean())
        assert 0.00005 < share < 0.03, metric


# ------------------------------------------------------------------------------------------------------- offline modes


def test_dense_has_zero_load_and_sparse_no_rows_while_a_server_is_offline():
    options = {"servers": 60, "hours": 24 * 15, "start": MONDAY}
    dense = generate_frame(GeneratorOptions(**options, offline_mode="dense"))
    sparse = generate_frame(GeneratorOptions(**options, offline_mode="sparse"))
    offline = dense["state"] == "offline"
    assert offline.sum() > 100
    assert (dense.loc[offline, list(METRIC_COLUMNS)] == 0).all(axis=None)
    assert dense.loc[~offline, "latency_ms"].min() > 0
    assert sparse.equals(dense[~offline].reset_index(drop=True))


# ----------------------------------------------------------------------------------------------------------- scenarios


@pytest.mark.parametrize(("scenario", "hours", "share"), [("degrading", 24 * 5, 0.5), ("critical", 24, 0.4)])
def test_a_scenario_drives_its_share_of_the_servers_above_95_percent(scenario, hours, share):
    frame = generate_frame(GeneratorOptions(servers=90, hours=hours, start=MONDAY, scenario=scenario))
    assert DataValidator().validate_schema(frame)[0]
    cpu = wide(frame[frame["state"] != "offline"], "cpu_pct")
    suffering = cpu.iloc[-12:].mean() > 95
    assert share * 0.8 <= suffering.mean() <= share * 1.3
    disk = frame.loc[frame["timestamp"] == frame["timestamp"].max(), "disk_io_mb_s"]
    assert disk.round(1).value_counts().iloc[0] < 0.9 * len(disk)  # they do not all sit at one value
    assert (cpu.iloc[:12].mean() > 95).mean() < 0.1
    states = frame[frame["timestamp"] == frame["timestamp"].max()].set_index("server_name")["state"]
    assert (states[suffering.index[suffering]] == "critical_issue").mean() > 0.9


def test_a_live_degrading_fleet_gets_worse_by_the_hour():
    options = GeneratorOptions(servers=90, hours=24, start=MONDAY)
    onset = MONDAY + timedelta(hours=40)
    pressures = scenario_pressure("degrading", onset, live=True)
    tables = fleet_tables(options, MONDAY, onset + timedelta(hours=9), pressures)
    cpu = wide(pd.concat([table.to_pandas() for table in tables]), "cpu_pct")
    shares = [float((cpu.loc[onset + timedelta(hours=hour)] > 95).mean()) for hour in (0, 2, 4, 8)]
    assert shares == sorted(shares) and shares[0] < 0.1 and shares[-1] > 0.4


def test_a_scenario_leaves_the_time_before_it_as_it_was():
    options = GeneratorOptions(servers=20, hours=24, start=MONDAY)
    onset = MONDAY + timedelta(hours=20)
    plain = generate_frame(options)
    pressures = scenario_pressure("critical", onset, live=True)
    pressed = pd.concat(
        [table.to_pandas() for table in fleet_tables(options, MONDAY, options.end, pressures)], ignore_index=True
    )
    before = plain["timestamp"] < onset
    pd.testing.assert_frame_equal(plain[before], pressed[before])
    assert not plain[~before].equals(pressed[~before])
