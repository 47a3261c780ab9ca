"""Do incidents have causes, precursors and a ground truth that tells all of it, and nothing of it to the model?"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from config import default_threshold, load_settings
from contract_parquet import read_frame
from data_contract import METRIC_COLUMNS, REQUIRED_COLUMNS, VALID_PROFILES
from data_validator import DataValidator
from fleet_roles import CAUSES
from fleet_tables import INCIDENTS_SCHEMA
from metrics_generator import GeneratorOptions, generate

MONDAY = datetime(2026, 1, 5, tzinfo=timezone.utc)
STEP = pd.Timedelta(minutes=5)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The default fleet over 720 hours: folder, rows, incidents."""
    folder = tmp_path_factory.mktemp("fleet")
    result = generate(GeneratorOptions(start=MONDAY), folder)
    frame = read_frame(result.data_file)
    incidents = pd.read_parquet(result.incidents_file)
    assert len(incidents) == result.incidents
    return folder, frame, incidents


@pytest.fixture(scope="module")
def beyond(made):
    """Server × time: is any metric beyond the threshold that the product is shipped with?"""
    _, frame, _ = made
    over = np.zeros(len(frame), np.bool_)
    for metric in METRIC_COLUMNS:
        limits = {profile: default_threshold(metric, profile) for profile in VALID_PROFILES}
        over |= (frame[metric] > frame["profile"].astype(str).map(limits)).to_numpy()
    return (
        frame.assign(over=over)
        .pivot_table(index="timestamp", columns="server_name", values="over", observed=True)
        .astype(bool)
    )


def test_the_ground_truth_has_server_cause_onset_breach_and_end(made):
    folder, _, incidents = made
    assert pq.read_schema(folder / "metrics_incidents.parquet").equals(INCIDENTS_SCHEMA)
    assert list(incidents) == ["server_name", "cause", "onset", "breach", "end"]
    assert set(incidents["cause"]) == set(CAUSES)
    assert 60 < len(incidents) < 400
    assert incidents["breach"].is_monotonic_increasing


def test_first_signs_come_a_quarter_of_an_hour_to_six_hours_ahead_and_sudden_failures_have_none(made):
    _, _, incidents = made
    lead = incidents["breach"] - incidents["onset"]
    sudden = incidents["cause"] == "sudden_failure"
    assert (lead[sudden] == pd.Timedelta(0)).all() and sudden.any()
    assert lead[~sudden].between(pd.Timedelta(minutes=15), pd.Timedelta(hours=6)).all()
    assert lead[~sudden].max() > pd.Timedelta(hours=2) and lead[~sudden].median() > pd.Timedelta(minutes=30)
    ended = incidents["end"].notna()
    assert (incidents["end"] > incidents["breach"])[ended].all() and ended.mean() > 0.9


def test_a_threshold_breaks_at_the_breach_and_not_before(made, beyond):
    _, _, incidents = made
    for row in incidents.itertuples():
        series = beyond[row.server_name]
        assert row.breach < series.index[0] or series[row.breach], row  # it may have begun before the data
        between = series.loc[max(row.onset, series.index[0]) : row.breach - STEP]
        assert not between.any(), row


def test_every_broken_threshold_belongs_to_an_incident(made, beyond):
    _, _, incidents = made
    explained = pd.DataFrame(False, index=beyond.index, columns=beyond.columns)
    for row in incidents.itertuples():
        end = beyond.index[-1] if pd.isna(row.end) else row.end
        explained.loc[row.onset : end, row.server_name] = True
    assert not (beyond & ~explained).to_numpy().any()


def test_the_metric_behind_a_cause_climbs_before_the_breach(made):
    _, frame, incidents = made
    metric_of = {"memory_leak": "mem_pct", "traffic_surge": "cpu_pct", "runaway_batch": "cpu_pct",
                 "disk_saturation": "disk_io_mb_s", "cascading_dependency": "latency_ms"}  # fmt: skip
    series = {metric: frame.pivot_table(index="timestamp", columns="server_name", values=metric, observed=True)
              for metric in set(metric_of.values())}  # fmt: skip
    for cause, metric in metric_of.items():
        climbs = []
        for row in incidents[incidents["cause"] == cause].itertuples():
            values = series[metric][row.server_name]
            usual = values.loc[row.onset - pd.Timedelta(hours=6) : row.onset - STEP]
            last = values.loc[row.breach - 2 * STEP : row.breach - STEP]
            if len(usual) > 12:
                climbs.append(last.mean() > usual.quantile(0.9))
        assert len(climbs) >= 3 and np.mean(climbs) > 0.7, (cause, climbs)


def test_a_cascade_begins_at_a_database_and_reaches_web_servers_that_ask_it():
    from fleet_simulation import FleetSimulator

    simulator = FleetSimulator(90, MONDAY, 3)
    names, days = list(simulator.names), simulator.days()
    found = [each for _ in range(60) for each in next(days).incidents if each.cause == "cascading_dependency"]
    roots = [each for each in found if names[each.server].startswith("ppdb")]
    victims = [each for each in found if names[each.server].startswith("ppweb")]
    assert len(roots) >= 3 and len(victims) >= 3 and len(roots) + len(victims) == len(found)
    for victim in victims:
        assert any(0 < victim.onset - root.onset <= 6 for root in roots)


def test_states_tell_the_incident_from_its_breach_on(made):
    _, frame, incidents = made
    states = frame.assign(state=frame["state"].astype(str)).pivot_table(
        index="timestamp", columns="server_name", values="state", aggfunc="first", observed=True
    )
    seen = incidents[incidents["breach"] >= states.index[0]]
    at_breach = [states.loc[row.breach, row.server_name] for row in seen.itertuples()]
    assert set(at_breach) == {"critical_issue"}
    before = [states.loc[row.breach - STEP, row.server_name] for row in seen.iloc[1:].itertuples()]
    assert "critical_issue" not in before
    sudden = seen[(seen["cause"] == "sudden_failure") & (seen["breach"] < states.index[-1])]
    assert {states.loc[row.breach + STEP, row.server_name] for row in sudden.itertuples()} == {"offline"}


def test_a_longer_fleet_has_the_incidents_of_the_shorter_one(tmp_path):
    def incidents(hours: int) -> pd.DataFrame:
        made = generate(GeneratorOptions(servers=60, hours=hours, start=MONDAY), tmp_path / str(hours))
        return pd.read_parquet(made.incidents_file)

    short, long = incidents(120), incidents(240)
    edge = pd.Timestamp(MONDAY + timedelta(hours=120))
    same = long[long["breach"] < edge].reset_index(drop=True)
    same["end"] = same["end"].where(same["end"] <= edge)
    assert len(short) > 5
    pd.testing.assert_frame_equal(short, same)


def test_servers_of_a_scenario_are_in_the_ground_truth(tmp_path):
    made = generate(GeneratorOptions(servers=30, hours=24, start=MONDAY, scenario="critical"), tmp_path)
    incidents = pd.read_parquet(made.incidents_file)
    open_ended = incidents[incidents["end"].isna() & incidents["cause"].isin(["traffic_surge", "runaway_batch"])]
    assert open_ended["server_name"].nunique() >= 10


def test_the_ground_truth_is_no_input(made):
    folder, frame, _ = made
    report = DataValidator(strict=True).validate_file(folder)  # the whole folder, as `validate` reads it
    assert report.rows == len(frame) and list(frame) == list(REQUIRED_COLUMNS)
    assert report.warnings == []  # nothing in a made-up fleet looks like a fault of the monitoring
    assert read_frame(folder).equals(frame)


def test_the_ground_truth_is_told_by_the_thresholds_as_shipped_whatever_is_set(monkeypatch):
    shipped = default_threshold("cpu_pct", "web_api")
    monkeypatch.setenv("TFT_CRITICAL_THRESHOLDS", '{"cpu_pct":50,"mem_pct":50,"disk_io_mb_s":5,"latency_ms":5}')
    assert load_settings().threshold("cpu_pct", "web_api") == 50 and default_threshold("cpu_pct", "web_api") == shipped
