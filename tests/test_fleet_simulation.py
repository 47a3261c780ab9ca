"""Does a generated fleet behave as its roles say, and do its numbers follow from seed and start alone?"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import load_settings
from data_contract import DEFAULT_FLEET, METRIC_COLUMNS, VALID_STATES, profile_for_name
from data_validator import DataValidator
from fleet_roles import fleet_names
from fleet_simulation import FleetSimulator
from fleet_tables import fleet_tables, scenario_pressure
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


@pytest.mark.parametrize("interval", [5, 1])
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
                interval_minutes=interval,
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
    fine = generate_frame(GeneratorOptions(**options, interval_minutes=1))
    assert len(fine) == 5 * len(coarse) and DataValidator().validate_schema(fine)[0]
    fine["timestamp"] = fine["timestamp"].dt.floor("5min")
    means = fine.groupby(["timestamp", "server_name"], observed=True)[list(METRIC_COLUMNS)].mean()
    steps = coarse.set_index(["timestamp", "server_name"])[list(METRIC_COLUMNS)]
    assert (means - steps).abs().max().max() < 0.15 * steps.max().max()
    assert np.corrcoef(means["cpu_pct"], steps.loc[means.index, "cpu_pct"])[0, 1] > 0.99


# ----------------------------------------------------------------------------------------------------------- behaviour


def test_the_web_tier_is_busy_in_office_hours_and_less_so_on_weekends(month):
    web = of_profile(month, "web_api")
    by_hour = web[~web["weekend"]].groupby("hour")["cpu_pct"].median()
    assert by_hour[11] > 2 * by_hour[3] and by_hour[9] > 1.2 * by_hour[11]
    midday = web[web["hour"].between(10, 16)].groupby("weekend")["cpu_pct"].median()
    assert midday[True] < 0.8 * midday[False]


def test_ingest_runs_at_night_and_risk_after_market_close_on_weekdays(month):
    ingest = of_profile(month, "data_ingest").groupby("hour")["cpu_pct"].median()
    assert ingest[3] > 2 * ingest[12]
    risk = of_profile(month, "risk_analytics")
    after_close = risk[risk["hour"] == 17].groupby("weekend")["cpu_pct"].median()
    assert after_close[False] > 45 and after_close[True] < 25


def test_generic_machines_are_mostly_idle_with_rare_bursts(month):
    generic = of_profile(month, "generic")
    assert generic["cpu_pct"].median() < 5
    assert generic["cpu_pct"].quantile(0.999) > 30


def test_noise_lasts_for_some_steps_and_differs_between_servers(month):
    night = month[(month["profile"] == "web_api") & month["hour"].between(0, 5) & (month["state"] == "healthy")]
    cpu = wide(night, "cpu_pct").diff(1).iloc[:, :10]
    level = wide(night, "cpu_pct").iloc[:, :10]
    level = level - level.rolling(36, center=True).mean()
    lags = [level[name].autocorr(1) for name in level]
    assert all(lag > 0.3 for lag in lags) and np.std(lags) > 0.01
    between = cpu.corr().to_numpy()[np.triu_indices(10, 1)]
    assert np.abs(between).max() < 0.5


def test_latency_rises_with_cpu_and_on_databases_with_disk(month):
    web = of_profile(month, "web_api")
    busy = web["cpu_pct"] > 85
    assert web[busy]["latency_ms"].median() > 1.5 * web[~busy]["latency_ms"].median()
    database = of_profile(month, "database")
    base = database.groupby("server_name", observed=True)["latency_ms"].transform("median")
    flooded = database["disk_io_mb_s"] > 700
    assert (database["latency_ms"] / base)[flooded].median() > 1.5


def test_a_slow_database_slows_its_web_servers(month):
    latency = wide(month, "latency_ms")
    web = [name for name in latency if name.startswith("ppweb")]
    databases = [name for name in latency if name.startswith("ppdb")]
    relative = latency / latency.median()
    slow = relative["ppdb001"] > 4
    assert slow.sum() > 3
    served = relative.loc[slow, web[0 :: len(databases)]].median().median()
    others = relative.loc[slow, web[1 :: len(databases)]].median().median()
    assert served > 1.3 * others


def test_memory_leaks_grow_for_hours_and_are_freed_at_once(month):
    memory = wide(month[month["profile"] == "web_api"], "mem_pct")
    drops = memory.diff()
    found = 0
    for name in memory:
        for moment in drops.index[drops[name] < -15]:
            before = memory.loc[moment - pd.Timedelta(hours=6) : moment - pd.Timedelta(minutes=5), name]
            grown = before.iloc[-1] - before.iloc[0]
            found += (
                len(before) == 72 and 4 < grown < 60 and before.rolling(24).mean().diff().dropna().gt(0).mean() > 0.8
            )
    assert found >= 3


def test_incidents_build_up_before_they_are_critical(month):
    """Some servers approach 95 % CPU for more than a quarter of an hour; few jump there."""
    cpu = wide(month[month["state"] != "offline"], "cpu_pct")
    arrivals = (cpu >= 95) & (cpu.shift(1) < 95)
    an_hour_before, quarter_before = cpu.shift(12), cpu.shift(3)
    rising = (quarter_before > an_hour_before + 5) & arrivals
    assert rising.to_numpy().sum() > 0.3 * arrivals.to_numpy().sum() > 3


def test_states_come_in_their_order(month):
    followers: dict[str, set[str]] = {state: set() for state in VALID_STATES}
    for _, rows in month.groupby("server_name", observed=True):
        states = rows["state"].astype(str).to_numpy()
        changes = np.flatnonzero(states[1:] != states[:-1])
        for change in changes:
            followers[states[change]].add(states[change + 1])
    assert "offline" in followers["maintenance"] and "offline" in followers["critical_issue"]
    assert "recovery" in followers["offline"]
    assert followers["offline"] <= {"recovery", "maintenance", "critical_issue"}


def test_breaches_of_the_thresholds_are_rare_but_there(month):
    chosen = load_settings()
    for metric in METRIC_COLUMNS:
        limits = month["profile"].astype(str).map(lambda profile, metric=metric: chosen.threshold(metric, profile))
        share = float((month[metric] > limits).mean())
        assert 0.0001 < share < 0.03, metric


# ------------------------------------------------------------------------------------------------------- offline modes


def test_dense_has_zero_load_and_sparse_no_rows_while_a_server_is_offline():
    options = {"servers": 60, "hours": 24 * 15, "start": MONDAY}
    dense = generate_frame(GeneratorOptions(**options, offline_mode="dense"))
    sparse = generate_frame(GeneratorOptions(**options, offline_mode="sparse"))
    offline = dense["state"] == "offline"
    assert offline.sum() > 100
    assert (dense.loc[offline, list(METRIC_COLUMNS)] == 0).all(axis=None)
    assert dense.loc[~offline, "mem_pct"].min() > 0
    assert sparse.equals(dense[~offline].reset_index(drop=True))


# ----------------------------------------------------------------------------------------------------------- scenarios


@pytest.mark.parametrize(("scenario", "hours", "share"), [("degrading", 24 * 5, 0.5), ("critical", 24, 0.4)])
def test_a_scenario_drives_its_share_of_the_servers_above_95_percent(scenario, hours, share):
    frame = generate_frame(GeneratorOptions(servers=90, hours=hours, start=MONDAY, scenario=scenario))
    assert DataValidator().validate_schema(frame)[0]
    cpu = wide(frame[frame["state"] != "offline"], "cpu_pct")
    suffering = cpu.iloc[-12:].mean() > 95
    assert share * 0.8 <= suffering.mean() <= share * 1.3
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
    before = plain["timestamp"] <= onset
    pd.testing.assert_frame_equal(plain[before], pressed[before])
    assert not plain[~before].equals(pressed[~before])
