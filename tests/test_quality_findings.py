"""Is every fault of clocks, gaps, flat lines and units found, and nothing in sound fleets, whatever the pieces?"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_quality
from contract_judge import RowJudge
from data_contract import METRIC_COLUMNS
from data_quality import DAY, SECOND, QualityWatch
from quality_checks import CHECKS, FUTURE_TOLERANCE, OLDEST, SERVERS_LISTED, Finding, Quality

NOW = int(pd.Timestamp("2026-12-01", tz="UTC").timestamp()) * SECOND


def fleet(servers: int = 8, days: float = 3, start: str = "2026-06-01", seconds: float = 300) -> pd.DataFrame:
    """A sound fleet, sorted by time, as the generator writes it."""
    steps = int(days * 86_400 / seconds)
    random = np.random.default_rng(7)
    times = pd.Timestamp(start, tz="UTC") + pd.to_timedelta(np.arange(steps) * seconds, unit="s")
    daily = 30 + 20 * np.sin(np.arange(steps) * seconds * 2 * np.pi / 86_400)[:, None]
    shape = (steps, servers)
    return pd.DataFrame(
        {
            "timestamp": times.repeat(servers),
            "server_name": [f"ppweb{number:03d}" for number in range(servers)] * steps,
            "cpu_pct": (daily + random.uniform(0, 20, shape)).ravel(),
            "mem_pct": random.uniform(30, 80, shape).ravel(),
            "disk_io_mb_s": random.lognormal(1, 1, shape).ravel(),
            "latency_ms": random.lognormal(3, 0.5, shape).ravel(),
            "state": "healthy",
            "profile": "web_api",
        }
    ).astype(dict.fromkeys(METRIC_COLUMNS, "float32"))


def quality_of(frame: pd.DataFrame, cuts: tuple[int, ...] = ()) -> Quality:
    judge = RowJudge(QualityWatch(NOW, OLDEST, FUTURE_TOLERANCE))
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(frame)), len(frame)]
    pieces = [frame.iloc[begin:end] for begin, end in itertools.pairwise(edges)]
    for piece in pieces:
        judge.add(piece)
    judge.search_duplicates(lambda: pieces)
    quality = judge.report("pieces").quality
    assert quality is not None
    return quality


def found_in(frame: pd.DataFrame) -> dict[str, Finding]:
    return {finding.check.key: finding for finding in quality_of(frame).findings}


def only_finding(frame: pd.DataFrame) -> Finding:
    found = found_in(frame)
    assert len(found) == 1, {key: finding.sentence() for key, finding in found.items()}
    return next(iter(found.values()))


def of_server(frame: pd.DataFrame, number: int) -> pd.Series:
    return frame["server_name"] == f"ppweb{number:03d}"


def between(frame: pd.DataFrame, begin: str, end: str) -> pd.Series:
    return frame["timestamp"].between(pd.Timestamp(begin, tz="UTC"), pd.Timestamp(end, tz="UTC"))


# -------------------------------------------------------------------------------------------------------- sound fleets


@pytest.mark.parametrize("order", [["timestamp", "server_name"], ["server_name", "timestamp"]])
@pytest.mark.parametrize(("seconds", "days"), [(300, 3), (5, 0.2), (60, 1)])
def test_a_sound_fleet_has_no_findings_in_either_order(order, seconds, days):
    quality = quality_of(fleet(seconds=seconds, days=days).sort_values(order))
    assert quality.findings == () and quality.warnings == []
    assert quality.intervals == {float(seconds): 8}
    assert quality.coverage == {"least": 1.0, "p05": 1.0, "median": 1.0, "most": 1.0} == quality.coverage_of_span
    assert (quality.gaps, quality.late_rows, quality.duplicates) == (0, 0, 0)


def test_servers_that_are_off_or_idle_or_at_their_limit_are_no_flat_lines():
    frame = fleet(days=2).astype(dict.fromkeys(METRIC_COLUMNS, "float64"))
    frame.loc[of_server(frame, 0), list(METRIC_COLUMNS)] = 0.0  # off, dense
    frame.loc[of_server(frame, 0), "state"] = "offline"
    frame.loc[of_server(frame, 1), ["cpu_pct", "disk_io_mb_s"]] = [0.2, 0.0]  # idle, its latency is measured
    frame.loc[of_server(frame, 2), "cpu_pct"] = 100.0  # a batch job
    frame.loc[of_server(frame, 3), "mem_pct"] = 41.0  # nothing allocates
    frame.loc[of_server(frame, 4), ["cpu_pct", "disk_io_mb_s", "latency_ms"]] = [0.0, 0.0, np.nan]
    frame.loc[of_server(frame, 4), "mem_pct"] = 12.5  # idle throughout: memory alone may rest
    assert found_in(frame) == {}


def test_single_idle_machines_below_one_percent_are_not_called_ratios():
    frame = fleet()
    idle = of_server(frame, 0) | of_server(frame, 1)
    frame.loc[idle, "cpu_pct"] /= 100
    assert found_in(frame) == {}


def test_few_rows_say_nothing():
    frame = fleet(servers=2).iloc[:60]
    frame[list(METRIC_COLUMNS)] = 0.5
    assert found_in(frame) == {}


# --------------------------------------------------------------------------------------------------- rhythm and holes


def test_gaps_are_counted_and_the_longest_is_told_from_and_to():
    frame = fleet()
    hole = of_server(frame, 2) & (
        between(frame, "2026-06-01T10:00", "2026-06-01T10:55") | between(frame, "2026-06-02T03:00", "2026-06-02T03:00")
    )
    quality = quality_of(frame[~hole])
    assert quality.findings == () and quality.gaps == 2
    record = next(record for record in quality.records if record["server_name"] == "ppweb002")
    assert record["rows"] == 864 - 13 and record["gaps"] == 2
    assert record["longest_gap"] == {"from": "2026-06-01T09:55:00Z", "to": "2026-06-01T11:00:00Z", "seconds": 3900.0}
    assert record["coverage"] == pytest.approx((864 - 13) / 864, abs=1e-6)


def test_a_day_without_rows_is_a_finding_that_servers_share():
    frame = fleet(days=4)
    hole = between(frame, "2026-06-02T00:00", "2026-06-03T05:55") & ~of_server(frame, 0)
    quality = quality_of(frame[~hole])
    found = {finding.check.key: finding for finding in quality.findings}
    assert set(found) == {"gap", "coverage"}
    assert found["gap"].servers == 7 and found["gap"].note == "7 of them from 2026-06-01T23:55:00Z on"
    assert "2026-06-01T23:55:00Z to 2026-06-03T06:00:00Z (30.08 h)" in found["gap"].sentence()
    assert quality.records[0]["server_name"] == "ppweb001" and quality.records[-1]["server_name"] == "ppweb000"


def test_samples_lost_at_random_are_missing_coverage():
    frame = fleet()
    lost = of_server(frame, 3) & (np.random.default_rng(1).random(len(frame)) < 0.2)
    finding = only_finding(frame[~lost])
    assert finding.check.key == "coverage" and finding.worst[0].server == "ppweb003"
    share = 100 * (1 - lost.sum() / 864)
    assert float(re.match(r"([\d.]+) %", finding.worst[0].detail)[1]) == pytest.approx(share, abs=0.3)


def test_a_late_start_and_an_early_end_are_notes_and_no_warnings():
    frame = fleet(days=4)
    frame = frame[~(of_server(frame, 1) & between(frame, "2026-06-01", "2026-06-02T12:00"))]
    frame = frame[~(of_server(frame, 2) & between(frame, "2026-06-03", "2026-06-05"))]
    quality = quality_of(frame)
    assert [(f.check.key, f.worst[0].server) for f in quality.findings] == [
        ("starts_late", "ppweb001"),
        ("ends_early", "ppweb002"),
    ]
    assert quality.warnings == []
    record = next(record for record in quality.records if record["server_name"] == "ppweb001")
    assert record["coverage"] == 1.0 and record["coverage_of_span"] == pytest.approx(1 - 433 / 1152, abs=1e-6)


def test_an_interval_longer_than_the_models_step_is_found():
    finding = only_finding(fleet(seconds=900, days=4))
    assert finding.check.key == "coarse" and finding.servers == 8 and "every 15 min" in finding.worst[0].detail


def test_an_interval_that_changes_is_told_and_is_no_gap():
    fine, rough = fleet(seconds=60, days=1), fleet(seconds=300, days=2, start="2026-06-02")
    quality = quality_of(pd.concat([fine, rough]))
    (finding,) = quality.findings
    assert finding.check.key == "interval_change" and quality.gaps == 0
    assert finding.worst[0].detail == "every 60 s, but every 5 min in 66.6 % of the time"


def test_jitter_and_drift_are_told_apart():
    frame = fleet(servers=6)
    random = np.random.default_rng(3)
    frame["timestamp"] = frame["timestamp"].astype("datetime64[us, UTC]")
    jittered, drifting = of_server(frame, 1), of_server(frame, 2)
    frame.loc[jittered, "timestamp"] += pd.to_timedelta(random.integers(-90, 90, jittered.sum()), unit="s")
    frame.loc[drifting, "timestamp"] += pd.to_timedelta(np.arange(drifting.sum()) * 1.5, unit="s")
    found = found_in(frame)
    assert found["jitter"].worst[0].server == "ppweb001" and found["jitter"].servers == 1
    assert found["drift"].worst[0].server == "ppweb002" and found["drift"].servers == 1
    assert "every 5.025 min instead of 5 min" in found["drift"].worst[0].detail
    assert set(found) == {"jitter", "drift"}


def test_a_little_jitter_is_normal():
    frame = fleet()
    frame["timestamp"] = frame["timestamp"].astype("datetime64[us, UTC]")
    frame["timestamp"] += pd.to_timedelta(np.random.default_rng(3).integers(0, 9_000_000, len(frame)), unit="us")
    quality = quality_of(frame.sort_values("timestamp"))
    assert quality.findings == () and quality.intervals == {300.0: 8} and quality.gaps == 0


# -------------------------------------------------------------------------------------------------------------- clocks


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Europe/London", "Australia/Sydney"])
@pytest.mark.parametrize("change", ["forward", "back"])
@pytest.mark.parametrize("order", ["as it came", "sorted"])
def test_local_times_taken_as_utc_are_seen_when_clocks_change(zone, change, order):
    changes = {  # the day before each
        ("Europe/Berlin", "forward"): "2026-03-28",
        ("Europe/London", "forward"): "2026-03-28",
        ("America/New_York", "forward"): "2026-03-07",
        ("Australia/Sydney", "forward"): "2026-10-03",
        ("Europe/Berlin", "back"): "2026-10-24",
        ("Europe/London", "back"): "2026-10-24",
        ("America/New_York", "back"): "2026-10-31",
        ("Australia/Sydney", "back"): "2026-04-04",
    }
    frame = fleet(start=changes[zone, change])
    frame["timestamp"] = frame["timestamp"].dt.tz_convert(zone).dt.tz_localize(None).dt.tz_localize("UTC")
    if order == "sorted":
        frame = frame.sort_values(["server_name", "timestamp"])
    finding = only_finding(frame)
    assert finding.check.key == f"clock_{change}" and finding.servers == 8
    assert re.search(r"T0[123]:00:00Z", finding.worst[0].detail), finding.worst[0].detail


def test_an_hour_without_rows_on_another_night_is_an_outage_and_no_clock():
    frame = fleet(start="2026-03-21")
    assert found_in(frame[~between(frame, "2026-03-22T02:00", "2026-03-22T02:55")]) == {}


def test_one_server_in_another_time_zone_is_found():
    frame = fleet()
    frame.loc[of_server(frame, 5), "timestamp"] += pd.Timedelta(hours=5.5)
    finding = only_finding(frame)
    assert finding.check.key == "clock_shift" and "+5.5 hours" in finding.worst[0].detail
    assert finding.worst[0].server == "ppweb005"


def test_a_server_that_samples_at_another_second_is_a_note():
    frame = fleet()
    frame.loc[of_server(frame, 5), "timestamp"] -= pd.Timedelta(seconds=37)
    quality = quality_of(frame)
    assert [finding.check.key for finding in quality.findings] == ["clock_skew"] and quality.warnings == []
    assert quality.findings[0].worst[0].detail == "-37 s"


def test_times_ahead_of_now_and_before_2000_are_counted():
    frame = fleet()
    frame.loc[3, "timestamp"] = pd.Timestamp("1970-01-21", tz="UTC")
    frame.loc[[11, 19], "timestamp"] = pd.Timestamp("2026-12-01T02:00", tz="UTC") + pd.to_timedelta([0, 5], unit="min")
    found = found_in(frame)
    assert found["ancient"].worst[0].server == "ppweb003" and found["ancient"].worst[0].detail == "1 row"
    assert found["future"].worst[0].detail == "2 rows, up to 2026-12-01T02:05:00Z"
    record = next(record for record in quality_of(frame).records if record["server_name"] == "ppweb003")
    assert record["rows_before_2000"] == 1 and record["rows_in_the_future"] == 2


def test_rows_that_come_late_are_counted_and_open_no_gap():
    frame = fleet(days=1)
    late = of_server(frame, 0) & between(frame, "2026-06-01T05:00", "2026-06-01T06:00")
    quality = quality_of(pd.concat([frame[~late], frame[late]]))
    record = next(record for record in quality.records if record["server_name"] == "ppweb000")
    assert record["late_rows"] == 13 == quality.late_rows and record["late_by_seconds"] == (23 * 60 + 55 - 300) * 60
    assert record["rows"] == 288


def test_duplicates_count_for_each_server():
    frame = fleet(days=1)
    quality = quality_of(pd.concat([frame, frame[of_server(frame, 1)].iloc[:7]]))
    records = {record["server_name"]: record for record in quality.records}
    assert records["ppweb001"]["duplicates"] == 7 == quality.duplicates and records["ppweb000"]["duplicates"] == 0


# ---------------------------------------------------------------------------------------------------------- flat lines


def test_a_stuck_exporter_is_found_with_its_time_and_told_once():
    frame = fleet()
    stuck = of_server(frame, 4) & between(frame, "2026-06-01T06:00", "2026-06-01T14:00")
    frame.loc[stuck, list(METRIC_COLUMNS)] = frame.loc[stuck, list(METRIC_COLUMNS)].iloc[0].to_numpy()
    finding = only_finding(frame)
    assert finding.check.key == "frozen" and finding.worst[0].server == "ppweb004"
    assert "2026-06-01T06:00:00Z to 2026-06-01T14:00:00Z (8 h)" in finding.worst[0].detail
    assert f"{frame.loc[stuck, 'cpu_pct'].iloc[0]:.4g}" in finding.worst[0].detail


@pytest.mark.parametrize("column", ["cpu_pct", "latency_ms"])
@pytest.mark.parametrize(("hours", "is_found"), [(7, True), (5, False)])
def test_a_busy_cpu_or_a_latency_that_stands_still_for_six_hours_is_found(column, hours, is_found):
    frame = fleet()
    flat = of_server(frame, 4) & between(frame, "2026-06-02T06:00", f"2026-06-02T{6 + hours:02d}:00")
    frame.loc[flat, column] = 30.0
    assert set(found_in(frame)) == ({f"flat_{column}"} if is_found else set())


def test_a_run_does_not_go_on_across_a_hole():
    frame = fleet()
    flat = of_server(frame, 4) & between(frame, "2026-06-02T06:00", "2026-06-02T14:00")
    frame.loc[flat, "latency_ms"] = 30.0
    hole = of_server(frame, 4) & between(frame, "2026-06-02T09:00", "2026-06-02T11:30")
    assert found_in(frame[~hole]) == {}


# --------------------------------------------------------------------------------------------------------------- units


@pytest.mark.parametrize(
    ("column", "factor", "key", "unit"),
    [
        ("cpu_pct", 0.01, "ratio_cpu_pct", "ratio"),
        ("mem_pct", 0.01, "ratio_mem_pct", "ratio"),
        ("disk_io_mb_s", 2**20, "bytes_disk", "B/s"),
        ("latency_ms", 1e-3, "seconds_latency", "s"),
        ("latency_ms", 1e3, "microseconds_latency", "us"),
    ],
)
def test_a_wrong_unit_is_found_with_evidence_and_the_line_that_mends_it(column, factor, key, unit):
    frame = fleet()
    frame[column] *= factor
    finding = only_finding(frame)
    assert finding.check.key == key and finding.servers == 8
    assert f'`unit = "{unit}"`' in finding.sentence()
    assert "864 values from" in finding.worst[0].detail


def test_kilobytes_are_told_where_the_machines_are_busy():
    frame = fleet()
    frame["disk_io_mb_s"] = frame["disk_io_mb_s"] * 5 * 1024
    assert only_finding(frame).check.key == "kilobytes_disk"


def test_a_wrong_unit_of_one_server_is_told_of_it_alone():
    frame = fleet()
    frame.loc[of_server(frame, 6), ["cpu_pct", "mem_pct"]] /= 100
    frame.loc[of_server(frame, 7), "disk_io_mb_s"] *= 1e6
    found = found_in(frame)
    assert {key: (finding.servers, finding.worst[0].server) for key, finding in found.items()} == {
        "ratio_cpu_pct": (1, "ppweb006"),
        "ratio_mem_pct": (1, "ppweb006"),
        "bytes_disk": (1, "ppweb007"),
    }


def test_a_metric_that_most_rows_lack_is_found():
    frame = fleet()
    lacking = of_server(frame, 2) & (np.arange(len(frame)) // 8 % 3 != 0)
    frame.loc[lacking, "mem_pct"] = np.nan
    finding = only_finding(frame)
    assert finding.check.key == "patchy" and finding.worst[0].detail == "`mem_pct` in 33.3 % of its rows"


def test_names_that_are_no_machines_are_noticed():
    frame = fleet(servers=150, days=0.01)
    frame["server_name"] = [f"request-{number}" for number in range(len(frame))]
    assert "half have up to 1 rows" in found_in(frame)["names"].sentence()


def test_more_names_than_a_fleet_has_are_bounded(monkeypatch):
    monkeypatch.setattr(data_quality, "MAX_SERVERS", 100)
    quality = quality_of(fleet(servers=150, days=0.5), cuts=(500, 7000))
    assert quality.servers == 100 and [finding.check.key for finding in quality.findings] == ["names"]


# -------------------------------------------------------------------------------------------------------- the whole


def test_a_large_fleet_lists_its_worst_servers_only_unless_all_are_asked_for():
    frame = fleet(servers=SERVERS_LISTED + 5, days=0.2)
    gone = of_server(frame, 77) & between(frame, "2026-06-01T01:00", "2026-06-01T02:00")
    quality = quality_of(frame[~gone])
    short, full = quality.as_dict(), quality.as_dict(all_servers=True)
    assert short["servers"] == SERVERS_LISTED + 5 and len(short["per_server"]) == SERVERS_LISTED
    assert len(full["per_server"]) == SERVERS_LISTED + 5 and short["per_server"][0]["server_name"] == "ppweb077"


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 8 * 288), max_size=6).map(tuple),
    shuffled=st.integers(0, 60),
    seed=st.integers(0, 5),
)
def test_the_pieces_make_no_difference(cuts, shuffled, seed):
    frame = fleet(days=1)
    random = np.random.default_rng(seed)
    frame["latency_ms"] = frame["latency_ms"].round(-1)  # runs everywhere
    frame.loc[random.random(len(frame)) < 0.05, "cpu_pct"] = np.nan
    frame = frame[random.random(len(frame)) < 0.9]
    places = np.arange(len(frame))
    some = random.choice(len(frame), shuffled, replace=False)
    places[np.sort(some)] = some
    frame = frame.iloc[places]
    assert quality_of(frame, cuts).as_dict() == quality_of(frame).as_dict()


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_next_to_no_rows_have_next_to_no_findings(rows):
    quality = quality_of(fleet().iloc[:rows])
    assert quality.findings == () and len(quality.as_dict()["per_server"]) == min(rows, 8)


def test_a_fleet_of_the_year_1970_has_no_rhythm_and_does_not_fail():
    quality = quality_of(fleet(days=1, start="1970-01-20"))
    assert [finding.check.key for finding in quality.findings] == ["ancient"] and quality.coverage == {}
    assert quality.records[0]["first"] is None and quality.records[0]["rows"] == 0


def test_rows_without_usable_times_or_names_have_no_quality():
    frame = fleet(days=0.1)
    assert quality_of(frame.drop(columns="timestamp")).servers == 0
    assert quality_of(frame.assign(timestamp=pd.NaT, server_name=" ")).servers == 0
    assert quality_of(frame.drop(columns=list(METRIC_COLUMNS))).findings == ()


def test_the_document_tells_every_check_as_the_program_does():
    text = (Path(__file__).parent.parent / "Docs" / "DATA_QUALITY.md").read_text(encoding="utf-8")
    section = text.split("\n## Checks")[1].split("\n## ")[0]
    told = [tuple(cell.strip() for cell in line.split(" | ")) for line in re.findall(r"^\| (`.+) \|$", section, re.M)]
    assert told == [(f"`{c.key}`", c.level, c.text, c.limit, c.why, c.fix) for c in CHECKS]


def test_the_document_tells_every_figure_of_a_server():
    text = (Path(__file__).parent.parent / "Docs" / "DATA_QUALITY.md").read_text(encoding="utf-8")
    section = text.split("\n## What is measured for each server")[1].split("\n## ")[0]
    told = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.+?) \|", section, re.M))))
    assert told == set(quality_of(fleet(servers=1)).records[0]) - {"server_name"}


@pytest.mark.skipif("TFT_REAL_DATA" not in os.environ, reason="TFT_REAL_DATA names no folder of real fleets")
def test_a_real_fleet_is_not_flooded_with_findings():
    frame = pd.read_parquet(Path(os.environ["TFT_REAL_DATA"]) / "bitbrains_rnd_small_40vms_2013-08.parquet")
    frame["timestamp"] = frame["timestamp"].dt.tz_localize("UTC")
    frame["cpu_pct"] = frame["cpu_pct"].clip(upper=100)
    frame = frame.assign(latency_ms=np.nan, state="healthy", profile="generic")
    quality = quality_of(frame)
    assert quality.findings == () and quality.intervals == {300.0: 40} and quality.coverage["least"] > 0.99
    assert quality.longest_gap_seconds < DAY / SECOND
