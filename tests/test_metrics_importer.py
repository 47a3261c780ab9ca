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
from import_helpers import BITBRAINS_HEADER, PLAIN, THREE_FILES, mapping, refused, run, run_file, times
from rich.console import Console

from data_contract import DATA_INFO, INCIDENTS_FILE, METRIC_COLUMNS, DataFileError, ImportMappingError
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
        ('[metrics.mem_pct]\ncolumn = "x"\nunit = "KB"', ["also needs `of` or `capacity`"]),
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
        ("cut.parquet", b"PAR1", "cannot be read as Parquet"),
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


def test_the_ground_truth_of_a_made_up_fleet_is_neither_imported_nor_left_beside_real_data(tmp_path):
    run(tmp_path, "time,host,cpu\n2026-01-01,a,5\n")
    pq.write_table(pa.table({"server": ["a"], "cause": ["leak"]}), tmp_path / "out" / INCIDENTS_FILE)
    report = import_files(tmp_path / "out", load_preset("contract"), tmp_path / "copy")
    assert (report.rows_in, report.rows_out) == (1, 1)
    assert (tmp_path / "out" / INCIDENTS_FILE).exists()
    run_file(tmp_path / "source.csv", mapping(PLAIN), tmp_path / "out")  # looks at what is in the folder
    assert not (tmp_path / "out" / INCIDENTS_FILE).exists()


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
