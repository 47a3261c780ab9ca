"""Every shipped preset reads the format that it is for: small samples of each, and the untouched files themselves."""

from __future__ import annotations

import gzip
import os
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from import_helpers import BITBRAINS_HEADER, adds_up, refused, run, run_file, times
from rich.console import Console

from data_contract import DATA_FILE, ImportMappingError
from metrics_importer import import_files, load_preset, presets, render_report

SAMPLES = Path(__file__).parent / "data"
REAL = Path(os.environ.get("TFT_REAL_DATA", "/nonexistent"))
needs_real_data = pytest.mark.skipif(
    "TFT_REAL_DATA" not in os.environ, reason="TFT_REAL_DATA does not name the folder of real fleets"
)


# ------------------------------------------------------------------------------------------------------------- presets
def test_every_preset_loads_and_says_what_it_is_for():
    assert {"alibaba", "bitbrains", "contract", "csv", "nab", "top"} <= set(presets())
    for name, description in presets().items():
        assert load_preset(name).name == name
        assert len(description) > 20


def test_an_unknown_preset_is_named_with_the_known_ones():
    with refused(ImportMappingError, "bitbrain", "did you mean 'bitbrains'", "nab"):
        load_preset("bitbrain")


def test_native_bitbrains_files_give_percentages_of_provisioned_memory_and_summed_disk_throughput(tmp_path):
    rows = [
        "1373914531;\t4;\t10400.0;\t156.0;\t1.5;\t2048000.0;\t204800.0;\t512.0;\t1536.0;\t4.5;\t0.0",
        "1373914831;\t4;\t10400.0;\t0.0;\t182.1;\t0.0;\t64.0;\t0.0;\t0.0;\t0.0;\t0.0",  # memory being resized
        "1373914531;\t4;\t10400.0;\t156.0;\t1.5;\t2048000.0;\t204800.0;\t512.0;\t1536.0;\t4.5;\t0.0",
        "1373914231;\t4;\t10400.0;\t156.0;\t201;\t64.0;\t204800.0;\t0.0;\t0.0;\t4.5;\t0.0",
    ]
    report, frame = run(tmp_path, BITBRAINS_HEADER + "\n".join(rows) + "\n", load_preset("bitbrains"), "150.csv")
    assert frame["server_name"].tolist() == ["bb-rnd-150"] * 3
    assert times(frame) == ["2013-07-15T18:50:31Z", "2013-07-15T18:55:31Z", "2013-07-15T19:00:31Z"]
    np.testing.assert_allclose(frame["cpu_pct"], [np.nan, 1.5, 100], equal_nan=True)
    np.testing.assert_allclose(frame["mem_pct"], [np.nan, 10, np.nan], equal_nan=True)
    np.testing.assert_allclose(frame["disk_io_mb_s"], [0, 2, 0])
    assert frame["latency_ms"].isna().all()
    assert report.files == {"archive": 1}
    assert report.rows_dropped == {"duplicate": 1}
    assert report.values_repaired == {
        "no_capacity": {"mem_pct": 1},
        "above_limit": {"cpu_pct": 1, "mem_pct": 1},
        "clipped": {"cpu_pct": 1},
    }
    assert report.rows_noted == {"out_of_order": 2}
    assert (report.rows_repaired, report.rows_unchanged) == (2, 1)


def test_tidy_bitbrains_parquet_takes_the_other_layout_of_the_same_preset(tmp_path):
    frame = pd.DataFrame(
        {
            "server_name": ["vm-1", "vm-1"],
            "timestamp": pd.to_datetime(["2013-08-01 00:00", "2013-08-01 00:05"]),
            "cpu_pct": np.array([1.5, 107.3], np.float32),
            "mem_pct": [5.0, np.nan],
            "disk_io_mb_s": [0.1, 0.2],
            "cpu_cores": [2, 2],
        }
    )
    frame.to_parquet(tmp_path / "fleet.parquet")
    report, result = run_file(tmp_path / "fleet.parquet", load_preset("bitbrains"), tmp_path / "out")
    assert report.files == {"tidy": 1}
    assert result["cpu_pct"].tolist() == [1.5, 100.0]
    assert report.reported == {"cpu_pct": 1.0, "mem_pct": 0.5, "disk_io_mb_s": 1.0, "latency_ms": 0.0}
    assert result["state"].tolist() == ["idle", "critical_issue"]


def test_a_real_cloudwatch_file_becomes_one_server_with_cpu_alone(tmp_path):
    report, frame = run_file(SAMPLES / "nab_ec2_cpu_ac20cd.csv", load_preset("nab"), tmp_path / "out")
    source = pd.read_csv(SAMPLES / "nab_ec2_cpu_ac20cd.csv")
    np.testing.assert_allclose(frame["cpu_pct"], source["value"], rtol=1e-6)
    assert frame["timestamp"].dt.tz_localize(None).tolist() == pd.to_datetime(source["timestamp"]).tolist()
    assert frame["server_name"].unique().tolist() == ["nab-ec2_cpu_ac20cd"]
    assert frame[["mem_pct", "disk_io_mb_s", "latency_ms"]].isna().all(axis=None)
    assert report.rows_in == report.rows_out == report.rows_unchanged == 1008


def test_servers_that_report_none_of_the_metrics_are_named_and_left_out(tmp_path):
    report, frame = run_file(SAMPLES / "nab_aws_sample.parquet", load_preset("nab"), tmp_path / "out")
    assert report.servers_without_metrics == (
        "nab-ec2_disk_write_bytes_1ef3de",
        "nab-ec2_request_latency_system_failure",
    )
    assert report.rows_dropped == {"no_metrics": 2 * 2016}
    assert frame["server_name"].nunique() == report.servers == 3


def test_rows_that_real_clocks_put_on_one_time_are_settled_and_counted(tmp_path):
    report, frame = run_file(SAMPLES / "nab_ec2_disk_write_1ef3de.csv", load_preset("nab"), tmp_path / "out")
    assert report.rows_in == 576
    assert report.rows_dropped == {"duplicate": 11}
    source = pd.read_csv(SAMPLES / "nab_ec2_disk_write_1ef3de.csv")
    assert frame["disk_io_mb_s"].max() == pytest.approx(source["value"].max() / 300 / 1024**2)


def test_a_hand_export_of_top_takes_the_day_from_the_file_and_counts_all_but_idle_as_busy(tmp_path):
    source = tmp_path / "export.csv"
    source.write_text(
        "Host Name,%CPU User,%CPU Sys,%CPU iowt,%CPU Idle,%Mem Used,Timestamp\n"
        "ppweb001,13.6,9.9,1.7,74.3,13.1,12:03:33\n"
        "ppdb001,0,0,0.2,100,9.5,23:59:00\n"  # after the file was written: the day before
        "ppml0001,0,0,0,104,9.5,12:03:00\n"
    )
    written = datetime(2026, 3, 5, 12, 10, tzinfo=timezone.utc).timestamp()
    os.utime(source, (written, written))
    report, frame = run_file(source, load_preset("top"), tmp_path / "out")
    assert frame["server_name"].tolist() == ["ppdb001", "ppml0001", "ppweb001"]
    assert times(frame) == ["2026-03-04T23:59:00Z", "2026-03-05T12:03:00Z", "2026-03-05T12:03:33Z"]
    np.testing.assert_allclose(frame["cpu_pct"], [0, np.nan, 24.0], rtol=1e-6, equal_nan=True)
    assert report.values_repaired == {"negative": {"cpu_pct": 1}, "clipped": {"cpu_pct": 1}}
    assert frame["profile"].tolist() == ["database", "ml_compute", "web_api"]
    assert any("2026-03-05" in note for note in report.notes)


def test_alibaba_counts_seconds_from_a_stated_origin_and_knows_its_marks_of_failed_readings(tmp_path):
    text = "m_1,0,41,90,,,43,33,5\nm_1,300,-1,101,,,43,33,101\nm_1,600,7,-1,,,1,1,1\n"
    report, frame = run(tmp_path, text, load_preset("alibaba"), "machine_usage.csv")
    assert times(frame) == ["2018-01-01T00:00:00Z", "2018-01-01T00:10:00Z"]
    np.testing.assert_allclose(frame["mem_pct"], [90, np.nan], equal_nan=True)
    assert report.rows_dropped == {"no_metrics": 1}
    assert report.values_repaired == {}
    report, frame = run(tmp_path, "cpu_util_percent,mem_util_percent\n16.1,87.1\n18,86\n", load_preset("alibaba"))
    assert times(frame) == ["2018-01-01T00:00:00Z", "2018-01-01T00:05:00Z"]
    assert any("time.start" in note for note in report.notes)


def test_azures_readings_count_seconds_from_a_stated_origin_and_come_packed(tmp_path):
    text = "0,hashOfVm1==,1.5,40.25,12.125\n0,hash/Of+Vm2,0,0,0\n300,hashOfVm1==,2,30,7.5\n"
    report, frame = run(
        tmp_path, gzip.compress(text.encode()), load_preset("azure"), "vm_cpu_readings-file-1-of-195.csv.gz"
    )
    assert frame["server_name"].tolist() == ["hash/Of+Vm2", "hashOfVm1==", "hashOfVm1=="]
    assert times(frame) == ["2017-01-01T00:00:00Z", "2017-01-01T00:00:00Z", "2017-01-01T00:05:00Z"]
    assert frame["cpu_pct"].tolist() == [0, 12.125, 7.5]  # the average, not the minimum or maximum
    assert any("time.origin" in note for note in report.notes)
    assert report.rows_in == report.rows_unchanged == 3


POOLS = (
    "cluster7,2024-08-01 00:00:00,2024-08-01 00:00:30,1000.5,200.25\n"
    "cluster7,2024-08-01 00:00:30,,1000.5,200.25\n"
    "cluster7,2024-08-01 00:01:00,2024-08-01 00:01:30,4002.0,100.125\n"
    "cluster9,2024-08-01 00:01:00,2024-08-01 00:01:30,3,0\n"
)


@pytest.mark.parametrize("name", ["cloudcluster7_202408_1.csv", "cluster7-dataseries-cpu-mem-202408_1-stat.csv"])
def test_pools_of_unknown_capacity_are_relative_to_their_own_peak_and_nobody_can_overlook_it(tmp_path, name):
    report, frame = run(tmp_path, POOLS, load_preset("cloudcluster"), name)
    assert frame["server_name"].tolist() == ["relative-cluster7"] * 3 + ["relative-cluster9"]
    assert frame["cpu_pct"].tolist() == [25, 25, 100, 100]
    assert frame["mem_pct"].tolist() == [100, 100, 50, 0]
    assert frame["state"].unique().tolist() == ["healthy"]  # a peak of its own is no critical issue
    assert set(report.relative) == {"cpu_pct", "mem_pct"}
    for metric in report.relative:
        assert any(f"{metric} is NOT a measured percentage" in warning for warning in report.warnings)
    screen = StringIO()
    render_report(report, Console(file=screen, width=140))
    assert screen.getvalue().count("NOT MEASURED") == 2


def test_files_of_bare_values_take_their_times_from_the_name_and_the_interval(tmp_path):
    _, frame = run(tmp_path, "47\n\n38\n", load_preset("planetlab"), "planetlab_20110303_one.txt")
    assert times(frame) == ["2011-03-03T00:00:00Z", "2011-03-03T00:10:00Z"]  # a blank line is a missing sample
    assert frame["cpu_pct"].tolist() == [47, 38]
    _, frame = run(tmp_path, "11.5 7.25\n 9.5   7.0\n", load_preset("gcd"), "gcd_vm_61_9.tsv")
    assert frame[["server_name", "cpu_pct", "mem_pct"]].to_numpy().tolist() == [
        ["gcd-61_9", 11.5, 7.25],
        ["gcd-61_9", 9.5, 7.0],
    ]


def test_common_column_names_are_understood_only_where_they_state_their_unit(tmp_path):
    text = "Time,Host,CPU_percent,Memory [%],response_time_ms\n2026-01-01 00:00,web1,50,40,12\n"
    _, frame = run(tmp_path, text, load_preset("csv"))
    assert frame.loc[0, ["cpu_pct", "mem_pct", "latency_ms"]].tolist() == [50, 40, 12]
    with refused(ImportMappingError, "none of the metrics' columns is there", "'cpu'"):
        run(tmp_path, "time,host,cpu\n2026-01-01 00:00,web1,50\n", load_preset("csv"))


def test_contract_columns_keep_their_states_and_profiles_and_come_back_unchanged(tmp_path):
    text = (
        "timestamp,server_name,cpu_pct,mem_pct,disk_io_mb_s,latency_ms,state,profile\n"
        "2026-01-01T00:00:00Z,web1,99,40,1,2,maintenance,database\n"
        "2026-01-01T00:05:00Z,web1,99,40,1,2,,database\n"
        "2026-01-01T00:10:00Z,web1,99,40,1,2,broken,web_api\n"
    )
    report, frame = run(tmp_path, text, load_preset("contract"))
    assert frame["state"].tolist() == ["maintenance", "critical_issue", "critical_issue"]
    assert frame["profile"].tolist() == ["database"] * 3
    assert report.states_derived == 2
    assert report.rows_noted == {"unknown_state": 1, "profile_changed": 1}
    again, second = run_file(tmp_path / "out" / DATA_FILE, load_preset("contract"), tmp_path / "again")
    pd.testing.assert_frame_equal(frame, second, check_categorical=False)
    assert again.rows_unchanged == 3


# ------------------------------------------------------------------------------------------------------------ real data
@needs_real_data
def test_forty_real_machines_come_in_with_every_repair_counted(tmp_path):
    source = REAL / "bitbrains_rnd_small_40vms_2013-08.parquet"
    report, frame = run_file(source, load_preset("bitbrains"), tmp_path / "out")
    assert report.rows_in == report.rows_out == 344_906
    assert report.rows_dropped == {}
    assert report.values_repaired == {"clipped": {"cpu_pct": 43_503}}
    assert (report.servers, report.rows_repaired) == (40, 43_503)
    raw = pd.read_parquet(source).sort_values(["server_name", "timestamp"], ignore_index=True)
    np.testing.assert_array_equal(frame["cpu_pct"], raw["cpu_pct"].clip(upper=100))
    for column in ("mem_pct", "disk_io_mb_s"):
        np.testing.assert_array_equal(frame[column], raw[column])
    assert frame["latency_ms"].isna().all()


@needs_real_data
@pytest.mark.slow
def test_a_real_month_comes_in_with_memory_beyond_its_base_taken_as_missing(tmp_path):
    report = import_files(REAL / "bitbrains_rnd_5min_2013-08.parquet", load_preset("bitbrains"), tmp_path / "out")
    adds_up(report)
    assert report.rows_out == 4_307_243
    assert report.values_repaired == {
        "above_limit": {"mem_pct": 75},
        "clipped": {"cpu_pct": 95_137, "mem_pct": 8},
    }


@needs_real_data
@pytest.mark.parametrize(
    ("preset", "name", "rows"),
    [
        ("bitbrains", "bitbrains_rnd_2013-7_150.csv", 3973),
        ("nab", "nab_ec2_cpu_ac20cd.csv", 4032),
        ("top", "aimlp_server_metrics.csv", 13),
        ("alibaba", "alibaba2018_dcmean_day1_300s.csv", 289),
        ("planetlab", "planetlab_20110303_one.txt", 288),
        ("gcd", "gcd_vm_6127640366_9.tsv", 288),
        ("cloudcluster", "cloudcluster12_202408_1.csv", 14_639),
    ],
)
def test_untouched_files_come_in_by_their_preset(tmp_path, preset, name, rows):
    report, _ = run_file(REAL / "raw_samples" / name, load_preset(preset), tmp_path / "out")
    assert report.rows_in == report.rows_out == rows


@needs_real_data
def test_every_raw_sample_comes_in(tmp_path):
    by_preset = {
        "bitbrains_rnd_2013-7_150.csv": "bitbrains",
        "nab_ec2_cpu_ac20cd.csv": "nab",
        "nab_ec2_disk_write_1ef3de.csv": "nab",
        "aimlp_server_metrics.csv": "top",
        "alibaba2018_dcmean_day1_300s.csv": "alibaba",
        "planetlab_20110303_one.txt": "planetlab",
        "gcd_vm_6127640366_9.tsv": "gcd",
        "cloudcluster12_202408_1.csv": "cloudcluster",
    }
    for sample in sorted((REAL / "raw_samples").iterdir()):
        report, _ = run_file(sample, load_preset(by_preset[sample.name]), tmp_path / "out")
        assert report.rows_out > 10, sample.name


@needs_real_data
def test_a_native_file_gives_what_the_tidy_table_of_the_same_machine_gives(tmp_path):
    _, native = run_file(
        REAL / "raw_samples" / "bitbrains_rnd_2013-7_150.csv", load_preset("bitbrains"), tmp_path / "out"
    )
    tidy = pd.read_parquet(REAL / "bitbrains_rnd_5min_2013-07.parquet", filters=[("server_name", "==", "bb-rnd-150")])
    assert native["server_name"].unique().tolist() == ["bb-rnd-150"]
    np.testing.assert_array_equal(native["cpu_pct"], tidy["cpu_pct"])
    np.testing.assert_array_equal(native["disk_io_mb_s"], tidy["disk_io_mb_s"])
    np.testing.assert_array_equal(native["mem_pct"], tidy["mem_pct"].where(tidy["mem_pct"] <= 110))
