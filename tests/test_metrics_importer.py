import gzip
import json
import math
import os
import re
import subprocess
import sys
import textwrap
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from contract_parquet import CONTRACT_SCHEMA, read_frame
from data_contract import DATA_FILE, DATA_INFO, METRIC_COLUMNS, DataFileError, ImportMappingError, ProductError
from data_validator import DataValidator
from import_mapping import DURATION_UNITS, PERCENT_UNITS, RATE_UNITS, SHARE_UNITS, TIME_UNITS, Layout
from import_report import RULES, ImportReport
from metrics_importer import (
    import_files,
    load_mapping,
    load_preset,
    parse_mapping,
    presets,
    render_report,
)
from server_encoder import ServerEncoder

ROOT = Path(__file__).parents[1]
SAMPLES = Path(__file__).parent / "data"
REAL = Path(os.environ.get("TFT_REAL_DATA", "/nonexistent"))
needs_real_data = pytest.mark.skipif(
    "TFT_REAL_DATA" not in os.environ, reason="TFT_REAL_DATA does not name the folder of real fleets"
)
THREE_FILES = {DATA_FILE, DATA_INFO, "server_mapping.json"}
BITBRAINS_HEADER = (
    "Timestamp [ms];\tCPU cores;\tCPU capacity provisioned [MHZ];\tCPU usage [MHZ];\tCPU usage [%];\t"
    "Memory capacity provisioned [KB];\tMemory usage [KB];\tDisk read throughput [KB/s];\t"
    "Disk write throughput [KB/s];\tNetwork received throughput [KB/s];\tNetwork transmitted throughput [KB/s]\n"
)


def mapping(text: str, **sections: object):
    """Mapping of TOML text, as a user would write it."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return parse_mapping({**tomllib.loads(textwrap.dedent(text)), **sections}, name="test")


PLAIN = """
    [time]
    column = "time"
    [server]
    column = "host"
    [metrics.cpu_pct]
    column = "cpu"
"""


def run(tmp_path: Path, text: str | bytes, wanted=None, name: str = "source.csv") -> tuple[ImportReport, pd.DataFrame]:
    """Import text as a file; the result always passes the validator and adds up."""
    source = tmp_path / name
    source.write_bytes(text if isinstance(text, bytes) else text.encode())
    return run_file(source, wanted or mapping(PLAIN), tmp_path / "out")


def run_file(source, wanted, out: Path) -> tuple[ImportReport, pd.DataFrame]:
    report = import_files(source, wanted, out)
    assert {path.name for path in out.iterdir()} == THREE_FILES
    assert DataValidator().validate_file(out / DATA_FILE).errors == []
    assert pq.read_schema(out / DATA_FILE).equals(CONTRACT_SCHEMA)
    adds_up(report)
    frame = read_frame(out / DATA_FILE)
    frame["server_name"] = frame["server_name"].astype(str)
    assert len(frame) == report.rows_out
    order = frame.sort_values(["server_name", "timestamp"], kind="stable")
    assert order.index.equals(frame.index)
    metadata = json.loads((out / DATA_INFO).read_text())
    assert metadata["report"] == json.loads(json.dumps(report.as_dict()))
    assert (metadata["source"], metadata["rows"], metadata["servers"]) == ("imported", report.rows_out, report.servers)
    assert set(ServerEncoder(out / "server_mapping.json").name_to_id) == set(frame["server_name"])
    return report, frame


def adds_up(report: ImportReport) -> None:
    assert report.rows_in == report.rows_out + sum(report.rows_dropped.values())
    assert report.rows_out == report.rows_unchanged + report.rows_repaired


def times(frame: pd.DataFrame) -> list[str]:
    return [moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in frame["timestamp"]]


def refused(error: type[ProductError], *parts: str):
    """Context that expects an error whose text holds all parts, and the four things every error says."""
    return pytest.raises(error, match="(?s)" + "".join(f"(?=.*{re.escape(part)})" for part in (*parts, "To fix it")))


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
    wanted = mapping("""
        [time]
        column = "timestamp"
        [server]
        name = "i-1ef3de"
        [metrics.disk_io_mb_s]
        column = "value"
        unit = "B/5min"
    """)
    report, frame = run_file(SAMPLES / "nab_ec2_disk_write_1ef3de.csv", wanted, tmp_path / "out")
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


# --------------------------------------------------------------------------------------------------------------- units
def cells(
    tmp_path, metric: str, section: dict[str, object], header: str, *rows: str
) -> tuple[ImportReport, list[float]]:
    """Values of one metric, imported from rows that hold nothing else but a running time."""
    wanted = parse_mapping({"time": {"column": "time"}, "server": {"name": "a"}, "metrics": {metric: section}})
    lines = [f"2026-01-01T00:{5 * place:02d},{row}" for place, row in enumerate(rows)]
    report, frame = run(tmp_path, "\n".join([f"time,{header}", *lines, ""]), wanted)
    return report, frame[metric].tolist()


@pytest.mark.parametrize(
    ("metric", "unit", "value", "expected"),
    [
        ("cpu_pct", "percent", "12.5", 12.5),
        ("cpu_pct", "ratio", "0.125", 12.5),
        ("cpu_pct", "percent_idle", "87.5", 12.5),
        ("cpu_pct", "ratio_idle", "0.875", 12.5),
        ("mem_pct", "percent", "12.5 %", 12.5),
        ("disk_io_mb_s", "B/s", "1048576", 1),
        ("disk_io_mb_s", "KB/s", "512", 0.5),
        ("disk_io_mb_s", "MB/s", "2.5", 2.5),
        ("disk_io_mb_s", "GB/h", "3600", 1024),
        ("disk_io_mb_s", "KB/min", "61440", 1),
        ("latency_ms", "s", "0.25", 250),
        ("latency_ms", "us", "250", 0.25),
        ("latency_ms", "ms", "1e3", 1000),
    ],
)
def test_named_units_become_the_contracts(tmp_path, metric, unit, value, expected):
    _, values = cells(tmp_path, metric, {"column": "x", "unit": unit}, "x", value)
    assert values == pytest.approx([expected])


@pytest.mark.parametrize(
    ("unit", "of_unit", "used", "capacity"),
    [
        ("KB", None, 512, 2048),
        ("MB", "GB", 512, 2),
        ("MHz", "GHz", 650, 2.6),
        ("core_percent", "cores", 200, 8),
        (None, None, 1, 4),
    ],
)
def test_a_share_of_a_capacity_becomes_percent_in_whatever_units(tmp_path, unit, of_unit, used, capacity):
    section = {"column": "used", "of": "size", "unit": unit, "of_unit": of_unit}
    section = {key: value for key, value in section.items() if value is not None}
    _, values = cells(tmp_path, "cpu_pct", section, "used,size", f"{used},{capacity}")
    assert values == pytest.approx([25])


def test_a_sum_with_a_missing_or_impossible_part_is_missing(tmp_path):
    report, values = cells(
        tmp_path, "disk_io_mb_s", {"columns": ["r", "w"]}, "r,w", "1,2", "1,", "-1,5", ",", "inf,1", "x,1", "0,0"
    )
    assert values == [3, 0]
    assert report.values_repaired["partial_sum"] == {"disk_io_mb_s": 1}
    assert report.values_repaired["negative"] == {"disk_io_mb_s": 1}
    assert report.values_repaired["infinite"] == {"disk_io_mb_s": 1}
    assert report.values_repaired["not_a_number"] == {"disk_io_mb_s": 1}
    assert report.rows_dropped == {"no_metrics": 5}


def test_percentages_are_clipped_up_to_the_limit_and_missing_beyond(tmp_path):
    rows = ["100", "100.01", "200", "200.5", "-0.1", "Infinity", "-INF", "NaN", "", "n/a", "50"]
    report, values = cells(tmp_path, "cpu_pct", {"column": "x"}, "x", *rows)
    assert values == [100, 100, 100, 50]
    assert report.values_repaired == {
        "infinite": {"cpu_pct": 2},
        "negative": {"cpu_pct": 1},
        "above_limit": {"cpu_pct": 1},
        "clipped": {"cpu_pct": 2},
    }
    assert report.rows_repaired == 2
    _, values = cells(tmp_path, "mem_pct", {"column": "x"}, "x", "110", "110.5", "1")
    assert values == [100, 1]
    _, values = cells(tmp_path, "cpu_pct", {"column": "x", "clip_up_to": 100}, "x", "101", "99")
    assert values == [99]


def test_values_beyond_single_precision_are_infinite_and_not_an_overflow(tmp_path):
    report, values = cells(tmp_path, "disk_io_mb_s", {"column": "x"}, "x", "1e300", "1")
    assert values == [1]
    assert report.values_repaired == {"infinite": {"disk_io_mb_s": 1}}


# --------------------------------------------------------------------------------------------------------------- times
def moments(tmp_path, section: dict[str, object], *texts: str) -> tuple[ImportReport, list[str]]:
    """Times that texts become, for one server, in order of time."""
    wanted = parse_mapping(
        {"time": {"column": "t", **section}, "server": {"name": "a"}, "metrics": {"cpu_pct": {"column": "x"}}}
    )
    report, frame = run(tmp_path, "t;x\n" + "".join(f"{text};{place}\n" for place, text in enumerate(texts)), wanted)
    found = dict(zip(frame["cpu_pct"].astype(int), times(frame), strict=True))
    return report, [found[place] for place in sorted(found)]


@pytest.mark.parametrize(
    ("section", "text", "expected"),
    [
        ({}, "2026-01-05 12:00", "2026-01-05T12:00:00Z"),
        ({}, "2026-01-05T12:00:00.5+0530", "2026-01-05T06:30:00Z"),
        ({}, "2026-01-05 12:00:00 UTC", "2026-01-05T12:00:00Z"),
        ({}, "1767614400", "2026-01-05T12:00:00Z"),
        ({}, "1767614400000", "2026-01-05T12:00:00Z"),
        ({}, "1767614400000000000", "2026-01-05T12:00:00Z"),
        ({}, "20260105", "2026-01-05T00:00:00Z"),
        ({"unit": "s"}, "1767614400.0", "2026-01-05T12:00:00Z"),
        ({"unit": "min", "origin": "2026-01-05T00:00:00Z"}, "720", "2026-01-05T12:00:00Z"),
        ({"format": "%d.%m.%Y %H:%M"}, "05.01.2026 12:00", "2026-01-05T12:00:00Z"),
        ({"format": "%m/%d/%Y %I:%M:%S %p"}, "01/05/2026 12:00:00 PM", "2026-01-05T12:00:00Z"),
        ({"format": "%d/%b/%Y:%H:%M:%S %z"}, "05/Jan/2026:14:00:00 +0200", "2026-01-05T12:00:00Z"),
        ({"timezone": "Europe/Berlin"}, "2026-01-05 12:00", "2026-01-05T11:00:00Z"),
        ({"timezone": "Europe/Berlin"}, "2026-07-05 12:00", "2026-07-05T10:00:00Z"),
        ({"timezone": "Europe/Berlin"}, "2026-07-05 12:00Z", "2026-07-05T12:00:00Z"),
        ({"timezone": "+05:30"}, "2026-01-05 12:00", "2026-01-05T06:30:00Z"),
        ({"format": "%H:%M", "date": "2026-01-05", "timezone": "Asia/Tokyo"}, "12:00", "2026-01-05T03:00:00Z"),
    ],
)
def test_times_of_many_kinds_become_utc(tmp_path, section, text, expected):
    assert moments(tmp_path, section, text)[1] == [expected]


def test_mixed_time_zones_in_one_column_become_utc(tmp_path):
    texts = ["2026-01-05T12:00:00+02:00", "2026-01-05T10:05:00Z", "2026-01-05 10:10:00", "2026-01-05T05:15:00-05:00"]
    _, found = moments(tmp_path, {}, *texts)
    assert found == [f"2026-01-05T10:{minute:02d}:00Z" for minute in (0, 5, 10, 15)]


def test_unreadable_times_are_dropped_and_counted_with_an_example(tmp_path):
    texts = ["2026-01-05", "soon", "", "1871-01-01", "2300-01-01", "NaT"]
    report, found = moments(tmp_path, {}, *texts)
    assert found == ["2026-01-05T00:00:00Z"]
    assert report.rows_dropped == {"unreadable_time": 5}
    assert any("'soon'" in warning for warning in report.warnings)


def test_the_skipped_hour_is_dropped_and_the_repeated_hour_told_apart_by_order(tmp_path):
    rows = ["2026-03-29 01:55", "2026-03-29 02:30", "2026-03-29 03:00"]
    report, found = moments(tmp_path, {"timezone": "Europe/Berlin"}, *rows)
    assert found == ["2026-03-29T00:55:00Z", "2026-03-29T01:00:00Z"]
    assert report.rows_dropped == {"nonexistent_time": 1}

    text = "time,host,cpu\n"
    for local in ("02:00", "02:30", "02:00", "02:30"):  # two servers take turns through both passes of the hour
        text += f"2026-10-25 {local},a,10\n2026-10-25 {local},b,20\n"
    text += "2026-10-25 03:00,a,10\n"
    berlin = mapping(PLAIN.replace('"time"', '"time"\n    timezone = "Europe/Berlin"'))
    report, frame = run(tmp_path, text, berlin)
    hours = ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"]
    assert times(frame) == [*hours, "2026-10-25T02:00:00Z", *hours]
    assert report.rows_noted == {"ambiguous_time": 8}
    assert (report.rows_repaired, report.rows_unchanged) == (8, 1)
    assert report.rows_dropped == {}


def test_parquet_times_with_and_without_zone_and_as_numbers_become_utc(tmp_path):
    moment = pd.Timestamp("2026-01-05T12:00:00Z")
    columns = {
        "naive": pa.array([moment.tz_localize(None)], pa.timestamp("ns")),
        "zoned": pa.array([moment], pa.timestamp("ms", tz="Asia/Tokyo")),
        "epoch": pa.array([int(moment.timestamp())], pa.int64()),
        "text": pa.array(["2026-01-05T13:00:00+01:00"]).dictionary_encode(),
        "day": pa.array([moment.date()], pa.date32()),
    }
    pq.write_table(pa.table({**columns, "host": ["a"], "cpu": pa.array([5], pa.int32())}), tmp_path / "t.parquet")
    for column in columns:
        wanted = mapping(PLAIN.replace('"time"', f'"{column}"'))
        _, frame = run_file(tmp_path / "t.parquet", wanted, tmp_path / "out")
        assert times(frame) == ["2026-01-05T00:00:00Z" if column == "day" else "2026-01-05T12:00:00Z"], column
    berlin = mapping(PLAIN.replace('"time"', '"naive"\n    timezone = "Europe/Berlin"'))
    assert times(run_file(tmp_path / "t.parquet", berlin, tmp_path / "out")[1]) == ["2026-01-05T11:00:00Z"]


def test_a_unit_that_puts_times_into_another_age_is_refused_with_the_one_that_fits(tmp_path):
    with refused(ImportMappingError, 'unit = "ms"', 'unit = "s"', "1373914531"):
        moments(tmp_path, {"unit": "ms"}, "1373914531", "1373914831")


def test_date_and_time_in_two_columns_are_joined(tmp_path):
    wanted = mapping("""
        [time]
        columns = ["day", "clock"]
        format = "%d.%m.%y %H:%M"
        [server]
        name = "a"
        [metrics.cpu_pct]
        column = "x"
    """)
    _, frame = run(tmp_path, "day,clock,x\n05.01.26, 12:00,1\n", wanted)
    assert times(frame) == ["2026-01-05T12:00:00Z"]


# ---------------------------------------------------------------------------------------------- duplicates and disorder
def test_duplicates_are_dropped_gaps_merged_and_conflicts_keep_the_first(tmp_path):
    wanted = mapping(PLAIN + '\n    [metrics.mem_pct]\n    column = "mem"\n')
    text = (
        "time,host,cpu,mem\n"
        "2026-01-01T00:05,a,5,50\n"
        "2026-01-01T00:00,a,1,\n"
        "2026-01-01T00:00,a,,10\n"  # fills the gap
        "2026-01-01T00:00,a,1,10\n"  # repeats
        "2026-01-01T00:05,a,6,50\n"  # contradicts
        "2026-01-01T00:00,b,7,70\n"
    )
    report, frame = run(tmp_path, text, wanted)
    assert frame[["server_name", "cpu_pct", "mem_pct"]].to_numpy().tolist() == [
        ["a", 1, 10],
        ["a", 5, 50],
        ["b", 7, 70],
    ]
    assert report.rows_dropped == {"duplicate": 1, "merged": 1, "conflict": 1}
    assert report.rows_noted == {"out_of_order": 3}
    assert (report.rows_repaired, report.rows_unchanged) == (1, 2)


def test_server_names_are_stripped_and_unusable_ones_dropped(tmp_path):
    text = "time,host,cpu\n" + "".join(
        f"2026-01-01T00:{minute:02d},{name},5\n"
        for minute, name in enumerate(["web1", '" web1 "', "", '"  "', "x" * 254, "a\x07b", "Ünïcode-1"])
    )
    report, frame = run(tmp_path, text)
    assert frame["server_name"].tolist() == ["web1", "web1", "Ünïcode-1"]
    assert report.rows_dropped == {"unusable_name": 4}
    assert report.rows_noted == {"name_stripped": 1}


def test_numbers_serve_as_server_names(tmp_path):
    table = pa.table({"time": ["2026-01-01"] * 3, "host": pa.array([7.0, 12.0, None]), "cpu": [1, 2, 3]})
    pq.write_table(table, tmp_path / "t.parquet")
    wanted = mapping(PLAIN.replace('"host"', '"host"\n    prefix = "vm-"\n    zero_pad = 3'))
    report, frame = run_file(tmp_path / "t.parquet", wanted, tmp_path / "out")
    assert frame["server_name"].tolist() == ["vm-007", "vm-012"]
    assert report.rows_dropped == {"unusable_name": 1}


VALUES = st.sampled_from(["", "-1", "0", "50", "99.5", "150", "250", "inf", "x"])
ROW = st.tuples(st.sampled_from(["t0", "t1", "t2", "bad"]), st.sampled_from(["a", " a", "b", ""]), VALUES, VALUES)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=25))
def test_any_mixture_of_faults_gives_what_reading_row_by_row_gives(rows, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("mixture")
    stamps = {"t0": "2026-01-01T00:00", "t1": "2026-01-01T00:05", "t2": "2026-01-01T00:10", "bad": "?"}
    text = "time,host,cpu,mem\n" + "".join(f"{stamps[t]},{host},{cpu},{mem}\n" for t, host, cpu, mem in rows)
    wanted = mapping(PLAIN + '\n    [metrics.mem_pct]\n    column = "mem"\n')

    def value(cell: str, limit: float) -> float:
        number = float(cell) if cell not in ("", "x") else math.nan
        return math.nan if not 0 <= number <= limit else min(number, 100.0)

    expected: dict[tuple[str, str], list[float]] = {}
    for t, host, cpu, mem in rows:
        pair = [value(cpu, 200), value(mem, 110)]
        if t != "bad" and host.strip() and not all(map(math.isnan, pair)):
            first = expected.setdefault((host.strip(), t), pair)
            expected[host.strip(), t] = [b if math.isnan(a) else a for a, b in zip(first, pair, strict=True)]
    try:
        report, frame = run(tmp_path, text, wanted)
    except ImportMappingError:  # nothing left, or not one value of a metric
        kept = list(expected.values())
        assert not kept or any(all(math.isnan(pair[place]) for pair in kept) for place in (0, 1))
        return
    assert report.rows_in == len(rows)
    assert len(frame) == len(expected)
    for (_, row), key in zip(frame.iterrows(), sorted(expected), strict=True):
        assert (row["server_name"], row["timestamp"].strftime("%Y-%m-%dT%H:%M")) == (key[0], stamps[key[1]])
        np.testing.assert_array_equal([row["cpu_pct"], row["mem_pct"]], expected[key])


# ----------------------------------------------------------------------------------------------------- text and folders
@pytest.mark.parametrize("separator", [",", ";", "\t", "|", ";\t", "||", "¦", " ; "])
def test_any_separator_is_read_when_named(tmp_path, separator):
    text = "".join(separator.join(row) + "\n" for row in (["time", "host", "cpu"], ["2026-01-01", "a", "5"]))
    wanted = mapping(PLAIN, source={"separator": separator})
    assert run(tmp_path, text, wanted)[1]["cpu_pct"].tolist() == [5]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_usual_separators_are_found_by_looking(tmp_path, separator):
    text = "".join(separator.join(row) + "\n" for row in (["time", "host", "cpu"], ["2026-01-01 00:00", "a", "5"]))
    assert run(tmp_path, text)[1]["cpu_pct"].tolist() == [5]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize("separator", [",", "||"])
def test_encodings_are_read_as_named(tmp_path, encoding, separator):
    text = "time,hôst,cpu\r\n2026-01-01,é1,5\r\n\r\n2026-01-02,é1,6\r\n".replace(",", separator)
    wanted = mapping(PLAIN.replace('"host"', '"hôst"'), source={"encoding": encoding, "separator": separator})
    report, frame = run(tmp_path, text.encode(encoding), wanted)
    assert frame["server_name"].tolist() == ["é1", "é1"]
    assert report.rows_in == 2  # blank lines are passed over


def test_a_byte_order_mark_does_not_become_part_of_the_first_name(tmp_path):
    text = "\ufefftime,host,cpu\n2026-01-01,a,5\n"
    assert run(tmp_path, text)[0].rows_out == 1
    headerless = mapping(
        PLAIN.replace('"time"', "1").replace('"host"', "2").replace('"cpu"', "3"), source={"header": False}
    )
    assert run(tmp_path, "\ufeff2026-01-01,a,5\n", headerless)[0].rows_out == 1


def test_headerless_files_are_read_by_place_or_by_given_names(tmp_path):
    by_place = PLAIN.replace('"time"', "2").replace('"host"', "1").replace('"cpu"', "4")
    text = "web1,2026-01-01,,5\nweb1,2026-01-02,,6\n"
    assert run(tmp_path, text, mapping(by_place, source={"header": False}))[0].rows_out == 2
    named = mapping(PLAIN, source={"header": False, "column_names": ["host", "time", "end", "cpu"]})
    assert run(tmp_path, text, named)[0].rows_out == 2
    short = mapping(PLAIN, source={"header": False, "column_names": ["host", "time", "cpu"]})
    with refused(ImportMappingError, "names 3 columns, but there are 4"):
        run(tmp_path, text, short)


def test_lines_before_the_header_quotes_decimal_commas_and_marks_of_missing_values(tmp_path):
    text = 'made by x\n\n"time";"host";"cpu"\n"2026-01-01";"a; b";"12,5"\n2026-01-02;a;9999\n2026-01-03;a;7,0\n'
    wanted = mapping(PLAIN, source={"skip_lines": 1, "decimal": ",", "missing_values": [9999], "separator": ";"})
    report, frame = run(tmp_path, text, wanted)
    assert frame[["server_name", "cpu_pct"]].to_numpy().tolist() == [["a", 7.0], ["a; b", 12.5]]
    assert report.values_repaired == {}


def test_lines_with_another_number_of_fields_are_dropped_and_counted(tmp_path):
    text = "time,host,cpu\n2026-01-01,a,5\n2026-01-02,a\n2026-01-03,a,5,6\n2026-01-04,a,7\n"
    report, frame = run(tmp_path, text)
    assert report.rows_in == 4
    assert report.rows_dropped == {"malformed_line": 2}
    assert frame["cpu_pct"].tolist() == [5, 7]


def test_a_malformed_line_is_refused_where_times_are_counted_by_lines(tmp_path):
    with refused(ImportMappingError, "3 fields instead of 2"):
        run(tmp_path, "1 2\n1 2 3\n1 2\n", load_preset("gcd"), "gcd_vm_1_1.tsv")


def test_columns_of_one_name_are_taken_by_their_place(tmp_path):
    text = "time,host,cpu,cpu\n2026-01-01,a,5,50\n"
    with refused(ImportMappingError, "more than one column is called 'cpu'", "3 and 4"):
        run(tmp_path, text)
    assert run(tmp_path, text, mapping(PLAIN.replace('"cpu"', "4")))[1]["cpu_pct"].tolist() == [50]


def test_compressed_text_is_unpacked(tmp_path):
    text = "time,host,cpu\n2026-01-01,a,5\n"
    assert run(tmp_path, gzip.compress(text.encode()), name="source.csv.gz")[0].rows_out == 1
    spaced = mapping(PLAIN, source={"separator": "whitespace"})
    assert run(tmp_path, gzip.compress(text.replace(",", "  ").encode()), spaced, "x.gz")[0].rows_out == 1


def test_a_folder_is_read_whole_with_columns_that_its_folder_names_state(tmp_path):
    for host, day in (("web1", 1), ("web1", 2), ("db%201", 1)):
        part = tmp_path / "fleet" / f"host={host}" / f"{day}.parquet"
        part.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"time": [f"2026-01-0{day}"], "cpu": [float(day)]}), part)
    (tmp_path / "fleet" / "_SUCCESS").touch()
    (tmp_path / "fleet" / "host=web1" / "notes.txt").write_text("not data")
    report, frame = run_file(tmp_path / "fleet", mapping(PLAIN), tmp_path / "out")
    assert frame[["server_name", "cpu_pct"]].to_numpy().tolist() == [["db 1", 1], ["web1", 1], ["web1", 2]]
    assert report.files == {"file": 3}
    assert any("notes.txt" in note for note in report.notes)


def test_several_files_are_put_together_and_empty_ones_are_mentioned(tmp_path):
    for name, text in {"b.csv": "2026-01-02,a,6\n", "a.csv": "2026-01-01,a,5\n", "c.csv": ""}.items():
        (tmp_path / name).write_text("time,host,cpu\n" + text if name != "d.csv" else "")
    (tmp_path / "d.csv").touch()
    files = [tmp_path / name for name in ("b.csv", "a.csv", "c.csv", "d.csv")]
    report, frame = run_file(files, mapping(PLAIN), tmp_path / "out")
    assert frame["cpu_pct"].tolist() == [5, 6]
    assert report.rows_noted == {"out_of_order": 1}
    assert any("'c.csv', 'd.csv'" in warning for warning in report.warnings)


def test_parquet_of_many_types_and_row_groups_is_read(tmp_path):
    rows = 1000
    table = pa.table(
        {
            "time": pd.date_range("2026-01-01", periods=rows, freq="5min"),
            "host": pa.array(["a"] * rows).dictionary_encode(),
            "cpu": pa.array(range(rows), pa.int16()).cast(pa.decimal128(10, 2)),
            "mem": pa.array(["12.5"] * rows, pa.large_string()),
            "disk": pa.nulls(rows),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    wanted = mapping(
        PLAIN, metrics={"cpu_pct": {"column": "cpu"}, "mem_pct": {"column": "mem"}, "disk_io_mb_s": {"column": "disk"}}
    )
    report, frame = run_file(tmp_path / "t.parquet", wanted, tmp_path / "out")
    assert report.rows_in == rows
    assert frame["mem_pct"].unique().tolist() == [12.5]
    assert report.values_repaired == {"above_limit": {"cpu_pct": 799}, "clipped": {"cpu_pct": 100}}


# ------------------------------------------------------------------------------------------------- states and profiles
def test_missing_states_are_derived_and_source_states_translated(tmp_path):
    wanted = mapping(PLAIN + '\n    [state]\n    column = "st"\n    values = { down = "offline" }\n')
    text = "time,host,cpu,st\n2026-01-01,a,50,DOWN\n2026-01-02,a,50,\n2026-01-03,a,50,idle\n2026-01-04,a,50,eh\n"
    report, frame = run(tmp_path, text, wanted)
    assert frame["state"].tolist() == ["offline", "healthy", "idle", "healthy"]
    assert report.rows_noted == {"unknown_state": 1}
    assert report.states_derived == 2


def test_profiles_come_from_the_column_then_rules_then_name_patterns_then_the_default(tmp_path):
    wanted = mapping(
        PLAIN
        + """
    [profile]
    column = "role"
    values = { sql = "database" }
    rules = [{ pattern = "^etl", profile = "data_ingest" }]
    default = "risk_analytics"
    """
    )
    hosts = {"etl1": "sql", "etl2": "", "ppweb001": "?", "other": "", "ppml0001": "web_api"}
    text = "time,host,cpu,role\n" + "".join(f"2026-01-01,{host},50,{role}\n" for host, role in hosts.items())
    report, frame = run(tmp_path, text, wanted)
    assert dict(zip(frame["server_name"], frame["profile"], strict=True)) == {
        "etl1": "database",
        "etl2": "data_ingest",
        "ppweb001": "web_api",
        "other": "risk_analytics",
        "ppml0001": "web_api",
    }
    assert report.rows_noted == {"unknown_profile": 1}


# -------------------------------------------------------------------------------------------------------------- report
def test_the_report_says_what_looks_wrong(tmp_path):
    rows = "".join(f"2026-01-01T{h:02d}:{m:02d},a,0.{h:02d}{m:02d}\n" for h in range(24) for m in range(0, 60, 10))
    report, _ = run(tmp_path, "time,host,cpu\n" + rows)
    assert any("ratio" in warning for warning in report.warnings)
    assert any("every 10 minutes" in warning for warning in report.warnings)
    assert report.interval_minutes == 10


def test_the_report_can_be_read_by_people(tmp_path):
    text = BITBRAINS_HEADER + "1373914531;4;1;1;150;100;50;1;1;0;0\n" * 2
    report, _ = run(tmp_path, text, load_preset("bitbrains"), "7.csv")
    screen = StringIO()
    render_report(report, Console(file=screen, width=140))
    shown = screen.getvalue()
    for part in ("bitbrains", "duplicate", "clipped", "latency_ms never reported", "2013-07-15T18:55:31Z"):
        assert part in shown
    assert json.dumps(report.as_dict())


def test_progress_goes_from_nothing_to_all(tmp_path):
    seen = []
    (tmp_path / "a.csv").write_text("time,host,cpu\n2026-01-01,a,5\n")
    import_files(
        tmp_path / "a.csv", mapping(PLAIN), tmp_path / "out", progress=lambda done, total: seen.append(done / total)
    )
    assert seen[0] == 0
    assert seen[-1] == 1
    assert seen == sorted(seen)


# ------------------------------------------------------------------------------------------------------- wrong mappings
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('[time]\ncolum = "t"', ["unknown key `time.colum`", "did you mean 'column'"]),
        ('[tiem]\ncolumn = "t"', ["unknown key `tiem`", "did you mean 'time'", "`server` is missing"]),
        ("[time]\n", ["`time`: give exactly one of", "`start`"]),
        ('[time]\ncolumn = "t"\nany_of = ["u"]', ["column and any_of is given"]),
        ('[time]\ncolumn = "t"\ntimezone = "Europe/Berln"', ["`time.timezone`", "Europe/Berlin"]),
        ('[time]\ncolumn = "t"\nunit = "weeks"', ["`time.unit`", "'min'", "'weeks'"]),
        ('[time]\ncolumn = "t"\nunit = "s"\ntimezone = "+01:00"', ["UTC by definition"]),
        ('[time]\ncolumn = "t"\nformat = "%Q"', ["no strptime format"]),
        ('[time]\ncolumn = "t"\nformat = "%H:%M"', ["holds no day", "file_modified"]),
        ('[time]\ncolumn = "t"\nformat = "%H:%M"\ndate = "file_name"', ["needs a group (?P<date>…)"]),
        ("[time]\nstart = 2026-01-01T00:00:00Z", ["`start` and `interval_minutes` belong together"]),
        ('[source]\nencoding = "klingon"', ["`source.encoding`", "latin-1"]),
        ('[source]\nencoding = "base64"', ["no text encoding"]),
        ('[source]\nseparator = ""', ["`source.separator`"]),
        ('[source]\nfile_pattern = "("', ["no regular expression"]),
        ('[source]\ncolumn_names = ["a"]', ["header = false"]),
        ('[metrics.cpu]\ncolumn = "x"', ["`cpu` is no metric", "did you mean 'cpu_pct'", "latency_ms"]),
        ('[metrics.cpu_pct]\ncolumn = "x"\nunit = "volt"', ["'volt'", "percent_idle"]),
        ('[metrics.mem_pct]\ncolumn = "x"\nunit = "KB"', ["also needs `of`"]),
        ('[metrics.disk_io_mb_s]\ncolumn = "x"\nunit = "KBps"', ["'KBps'", "KB/s"]),
        ('[metrics.disk_io_mb_s]\ncolumn = "x"\nof = "y"', ["gives a percentage"]),
        ('[metrics.mem_pct]\ncolumn = "x"\nof = "y"\nunit = "KB"\nof_unit = "MHz"', ["measure different things"]),
        ('[metrics.latency_ms]\ncolumn = "x"\nclip_up_to = 200', ["is for percentages"]),
        ('[state]\ncolumn = "s"\nvalues = { up = "fine" }', ["'fine'", "heavy_load"]),
        ('[profile]\ndefault = "mainframe"', ["'mainframe'", "risk_analytics"]),
        ('[profile]\nrules = [{ patern = "x", profile = "generic" }]', ["did you mean 'pattern'"]),
        ('[server]\nname = "a"\nfrom_file_name = true', ["name and from_file_name is given"]),
        ("metrics = 5", ["`metrics`"]),
        ("[[layout]]\n[layout.time]\ncolumn = 0", ["layout 1.time.column", "greater than or equal to 1"]),
        ('[time]\ncolumn = "t"\n[[layout]]\n', ["beside [[layout]]"]),
    ],
)
def test_a_wrong_mapping_is_refused_with_the_place_and_what_is_known_there(tmp_path, text, parts):
    for section, default in {"time": 'column = "t"', "server": 'name = "a"', "metrics": 'cpu_pct.column = "x"'}.items():
        if not re.search(rf"\b({section}|tiem|layout)\b", text) and not (section == "server" and "tiem" in text):
            text += f"\n[{section}]\n{default}\n"
    (tmp_path / "wrong.toml").write_text(text)
    with refused(ImportMappingError, "wrong.toml", "Docs/IMPORTING.md", *parts):
        load_mapping(tmp_path / "wrong.toml")


def test_all_faults_of_a_mapping_are_told_at_once(tmp_path):
    (tmp_path / "m.toml").write_text('[time]\ncolum = "t"\n[server]\nnam = "a"\n[metrics.cpu_pct]\ncolumn = 1.5\n')
    with refused(ImportMappingError, "`time.colum`", "`server.nam`", "`metrics.cpu_pct.column`"):
        load_mapping(tmp_path / "m.toml")


@pytest.mark.parametrize(
    "content", [b"[time\n", b"time: {column: t}\n", b"PAR1\x00\xff\xfe", b"\xff\xfe\x00", b"a,b\n1,2\n"]
)
def test_a_mapping_that_is_no_toml_is_refused(tmp_path, content):
    (tmp_path / "m.toml").write_bytes(content)
    with refused(ImportMappingError, "m.toml is no TOML file"):
        load_mapping(tmp_path / "m.toml")


def test_a_mapping_that_is_not_there_is_refused(tmp_path):
    with refused(ImportMappingError, "absent.toml", "bitbrains"):
        load_mapping(tmp_path / "absent.toml")


def test_columns_that_the_source_lacks_are_named_with_those_that_there_are(tmp_path):
    with refused(ImportMappingError, "no column 'cpu' (did you mean 'cpus'?)", "no column 'host'", "'time', 'cpus'"):
        run(tmp_path, "time,cpus\n2026-01-01,5\n")
    with refused(ImportMappingError, "only one, so the separator may not be ';'"):
        run(tmp_path, "time,host,cpu\n2026-01-01,a,5\n", mapping(PLAIN, source={"separator": ";"}))
    with refused(ImportMappingError, "source.header = false"):
        run(tmp_path, "2026-01-01,a,5\n2026-01-02,a,5\n")
    with refused(ImportMappingError, "there is no column 9, only 3"):
        run(tmp_path, "time,host,cpu\n2026-01-01,a,5\n", mapping(PLAIN.replace('"cpu"', "9")))


def test_columns_of_the_wrong_type_are_refused(tmp_path):
    table = pa.table({"time": [True], "host": [["a"]], "cpu": pa.array([datetime(2026, 1, 1, tzinfo=timezone.utc)])})
    pq.write_table(table, tmp_path / "t.parquet")
    with refused(ImportMappingError, "'time' holds bool, not times", "'host' holds list", "'cpu' holds timestamp"):
        import_files(tmp_path / "t.parquet", mapping(PLAIN), tmp_path / "out")


def test_a_metric_of_which_nothing_can_be_read_is_refused_with_examples(tmp_path):
    comma = "time;host;cpu;mem\n2026-01-01;a;12,5;1\n2026-01-02;a;13,5;2\n"
    with refused(ImportMappingError, "Not one of the 2 rows", "`cpu_pct`: not_a_number 2 (e.g. '12,5')", "decimal"):
        run(tmp_path, comma)
    both = mapping(PLAIN, metrics={"cpu_pct": {"column": "cpu"}, "mem_pct": {"column": "mem"}})
    with refused(ImportMappingError, "Not one value", "`cpu_pct`: not_a_number 2 (e.g. '12,5')", "decimal"):
        run(tmp_path, comma, both)
    ratio = mapping(PLAIN, metrics={"cpu_pct": {"column": "cpu", "unit": "ratio"}, "mem_pct": {"column": "mem"}})
    with refused(ImportMappingError, "`cpu_pct`: above_limit 1 (e.g. 1250)", "`unit`"):
        run(tmp_path, "time,host,cpu,mem\n2026-01-01,a,12.5,1\n", ratio)


def test_an_import_of_which_no_row_is_left_is_refused_with_the_reasons(tmp_path):
    with refused(ImportMappingError, "Not one of the 2 rows", "unreadable_time 2", "'05.01.2026'", "`format`"):
        run(tmp_path, "time,host,cpu\n05.01.2026,a,1\n06.01.2026,a,1\n")
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------------- broken files
@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("empty.csv", b"", "no rows"),
        ("header.csv", b"time,host,cpu\n", "no rows"),
        ("header.csv", b"time,host,cpu", "no rows"),
        ("junk.csv", bytes(range(256)) * 40, "utf-8"),
        ("junk.csv", b"time,host,cpu\n\0\0\0", "binary"),
        ("late.csv", b"time,host,cpu\n" + b"2026-01-01,a,1\n" * 9000 + b"2026-01-01,\xff\xfe,1\n", "utf-8"),
        ("sheet.csv", b"PK\x03\x04" + b"x" * 99, "spreadsheet"),
        ("cut.csv.gz", gzip.compress(b"time,host,cpu\n" + os.urandom(9999))[:-900], "cut.csv.gz"),
        ("text.parquet", b"time,host,cpu\n2026-01-01,a,1\n", "does not begin like Parquet"),
        ("cut.parquet", b"PAR1" + b"\x15\x04" * 200, "cannot be read as Parquet"),
    ],
)
def test_files_that_cannot_be_read_are_refused_and_leave_nothing(tmp_path, name, content, part):
    (tmp_path / name).write_bytes(content)
    with refused(DataFileError, name, part):
        import_files(tmp_path / name, mapping(PLAIN), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_parquet_file_damaged_in_the_middle_is_refused(tmp_path):
    frame = pd.DataFrame(
        {
            "time": pd.date_range("2026", periods=50_000, freq="5min"),
            "host": "a",
            "cpu": np.random.default_rng(1).random(50_000),
        }
    )
    frame.to_parquet(tmp_path / "t.parquet", compression="zstd")
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[len(content) // 3 : len(content) // 3 * 2] = bytes(len(content) // 3 * 2 - len(content) // 3)
    (tmp_path / "t.parquet").write_bytes(content)
    with refused(DataFileError, "t.parquet", "cannot be read as Parquet"):
        import_files(tmp_path / "t.parquet", mapping(PLAIN), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_absent_files_folders_without_data_and_devices_are_refused(tmp_path):
    with refused(DataFileError, "There is no file", "absent.csv"):
        import_files(tmp_path / "absent.csv", mapping(PLAIN), tmp_path / "out")
    (tmp_path / "folder").mkdir()
    with refused(DataFileError, "holds no data to import: nothing"):
        import_files(tmp_path / "folder", mapping(PLAIN), tmp_path / "out")
    (tmp_path / "folder" / "notes.txt").write_text("x")
    with refused(DataFileError, "notes.txt", "file_pattern"):
        import_files(tmp_path / "folder", mapping(PLAIN), tmp_path / "out")
    with refused(DataFileError, "no regular file"):
        import_files("/dev/null", mapping(PLAIN), tmp_path / "out")


# ------------------------------------------------------------------------------------------------------------- writing
def test_an_import_over_an_earlier_one_replaces_all_three_files(tmp_path):
    run(tmp_path, "time,host,cpu\n2026-01-01,a,5\n")
    (tmp_path / "out" / "mine.txt").write_text("stays")
    (tmp_path / "b.csv").write_text("time,host,cpu\n2026-01-01,b,5\n")
    import_files(tmp_path / "b.csv", mapping(PLAIN), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*THREE_FILES, "mine.txt"}
    assert list(ServerEncoder(tmp_path / "out" / "server_mapping.json").name_to_id) == ["b"]
    assert json.loads((tmp_path / "out" / DATA_INFO).read_text())["servers"] == 1


def test_a_target_that_cannot_be_written_is_refused_and_what_was_there_stays(tmp_path):
    (tmp_path / "a.csv").write_text("time,host,cpu\n2026-01-01,a,5\n")
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with refused(DataFileError, str(target), "--out_dir"):
            import_files(tmp_path / "a.csv", mapping(PLAIN), target)
    assert (tmp_path / "file").read_text() == "x"


def test_a_full_disk_leaves_what_was_there(tmp_path):
    run(tmp_path, "time,host,cpu\n2026-01-01,a,5\n")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    values = np.random.default_rng(1).random(20_000) * 100
    rows = (
        f"{moment},a,{v}\n" for moment, v in zip(pd.date_range("2026", periods=20_000, freq="min"), values, strict=True)
    )
    (tmp_path / "big.csv").write_text("time,host,cpu\n" + "".join(rows))
    (tmp_path / "m.toml").write_text(textwrap.dedent(PLAIN))
    script = """
        import resource, sys
        sys.path.insert(0, sys.argv[1])
        from data_contract import DataFileError
        from metrics_importer import import_files, load_mapping
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # what a full disk is to a writer
        try:
            import_files("big.csv", load_mapping("m.toml"), sys.argv[2])
        except DataFileError as error:
            print(error)
    """
    for target in ("out", "new"):
        command = [sys.executable, "-c", textwrap.dedent(script), str(ROOT), target]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert f"cannot be written to {target}: File too large" in done.stdout, done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_an_interrupted_import_leaves_nothing(tmp_path):
    (tmp_path / "a.csv").write_text("time,host,cpu\n2026-01-01,a,5\n")

    def interrupt(done: int, total: int) -> None:
        if done > 0.8 * total:  # while the staged file is validated
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_files(tmp_path / "a.csv", mapping(PLAIN), tmp_path / "out", progress=interrupt)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------------ documents
DOCUMENT = (ROOT / "Docs" / "IMPORTING.md").read_text(encoding="utf-8")


def test_the_document_lists_every_preset_rule_unit_and_key():
    table_rows = set(re.findall(r"^\| `([^`]+)`", DOCUMENT, re.MULTILINE))
    assert {rule.name for rule in RULES} <= table_rows
    assert set(presets()) <= table_rows
    for rule in RULES:
        assert f"| `{rule.name}` | {rule.effect} | {rule.text} | {rule.why} |" in DOCUMENT
    for unit in (*PERCENT_UNITS, *DURATION_UNITS, *SHARE_UNITS, *TIME_UNITS, *RATE_UNITS):
        assert f"`{unit}`" in DOCUMENT, unit
    for name, field in Layout.model_fields.items():
        sections = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for section in sections:
            for key in getattr(section, "model_fields", {}):
                assert f"`{name}.{key}`" in DOCUMENT or f"`metrics.….{key}`" in DOCUMENT, f"{name}.{key}"


def test_the_mapping_files_in_the_document_are_valid(tmp_path):
    examples = [each for each in re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL) if "[prometheus]" not in each]
    assert len(examples) >= 3
    for number, example in enumerate(examples):
        (tmp_path / f"{number}.toml").write_text(example, encoding="utf-8")
        assert set(load_mapping(tmp_path / f"{number}.toml").layouts[0].metrics) <= set(METRIC_COLUMNS)


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
    ],
)
def test_untouched_files_come_in_by_their_preset(tmp_path, preset, name, rows):
    report, _ = run_file(REAL / "raw_samples" / name, load_preset(preset), tmp_path / "out")
    assert report.rows_in == report.rows_out == rows


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
