"""Cells of many kinds: units behind numbers, several formats of time in one column, capacities that no column holds."""

from __future__ import annotations

import pytest
from import_helpers import PLAIN, mapping, refused, run, times

from data_contract import ImportMappingError
from metrics_importer import parse_mapping


def imported(tmp_path, metric: str, section: dict[str, object], *rows: str, header: str = "x"):
    """Report and values of one metric, of rows with a running time."""
    wanted = parse_mapping({"time": {"column": "time"}, "server": {"name": "a"}, "metrics": {metric: section}})
    lines = [f"2026-01-01T00:{5 * place:02d},{row}" for place, row in enumerate(rows)]
    report, frame = run(tmp_path, "\n".join([f"time,{header}", *lines, ""]), wanted)
    return report, frame[metric].tolist()


# --------------------------------------------------------------------------------------------------------------- units
@pytest.mark.parametrize(
    ("metric", "unit", "cells", "expected", "foreign"),
    [
        ("cpu_pct", "percent", ["12 %", "0.3%", "5 GB", "7"], [12, 0.3, 7], 1),
        ("cpu_pct", "ratio", ["0.5", "12 %", "0.25"], [50, 25], 1),
        ("mem_pct", "percent_idle", ["88 %", "2 GiB", "1.5k"], [12], 2),
        ("disk_io_mb_s", "MB/s", ["5 MB/s", "12 %", "700 kB/s", "6"], [5, 6], 2),
        ("latency_ms", "ms", ["12 ms", "0.3 s", "40us", "9"], [12, 9], 2),
        ("latency_ms", "s", ["0.5s", "12 ms"], [500], 1),
    ],
)
def test_a_number_may_carry_the_mappings_unit_and_no_other(tmp_path, metric, unit, cells, expected, foreign):
    report, found = imported(tmp_path, metric, {"column": "x", "unit": unit}, *cells)
    assert found == pytest.approx(expected)
    assert report.values_repaired == {"other_unit": {metric: foreign}}
    assert report.rows_dropped == {"no_metrics": foreign}


def test_units_on_some_values_only_are_a_reason_to_look(tmp_path):
    report, found = imported(tmp_path, "cpu_pct", {"column": "x"}, "12 %", "0.3", "0.4", "")
    assert found == pytest.approx([12, 0.3, 0.4])
    assert any("1 values of cpu_pct have their unit behind the number and 2 have none" in w for w in report.warnings)
    report, _ = imported(tmp_path, "cpu_pct", {"column": "x"}, "12 %", "13%")
    assert not any("behind the number" in warning for warning in report.warnings)


def test_a_metric_that_is_in_another_unit_throughout_is_refused_with_an_example(tmp_path):
    section = {"cpu_pct": {"column": "cpu"}, "mem_pct": {"column": "mem"}}
    wanted = parse_mapping({"time": {"column": "time"}, "server": {"name": "a"}, "metrics": section})
    with refused(ImportMappingError, "`mem_pct`: other_unit 2 (e.g. '5 GB')", "`unit`"):
        run(tmp_path, "time,cpu,mem\n2026-01-01,1,5 GB\n2026-01-02,1,6 GB\n", wanted)


def test_words_are_no_numbers_whatever_unit_is_asked_for(tmp_path):
    report, _ = imported(tmp_path, "latency_ms", {"column": "x"}, "ms", "fast", "1 2", "5")
    assert report.values_repaired == {"not_a_number": {"latency_ms": 3}}


# ---------------------------------------------------------------------------------------------------------- capacities
def test_a_constant_capacity_makes_a_share_and_is_noted(tmp_path):
    section = {"column": "x", "capacity": 7000.0}
    report, found = imported(tmp_path, "cpu_pct", section, "700", "7000", "7700", "15000")
    assert found == pytest.approx([10, 100, 100])
    assert report.values_repaired == {"above_limit": {"cpu_pct": 1}, "clipped": {"cpu_pct": 1}}
    assert any("the mapping's capacity, 7000," in note for note in report.notes)
    _, found = imported(tmp_path, "mem_pct", {"column": "x", "capacity": 2, "unit": "MB", "of_unit": "GB"}, "512")
    assert found == pytest.approx([25])


def test_the_highest_value_is_that_of_each_server_over_all_files_and_after_repairs(tmp_path):
    wanted = mapping(PLAIN.replace('"cpu"', '"cpu"\n    capacity = "highest"'))
    text = "time,host,cpu\n2026-01-01,a,30\n2026-01-02,a,inf\n2026-01-03,a,-1\n2026-01-01,b,0\n2026-01-04,a,40\n"
    report, frame = run(tmp_path, text + "2026-01-02,c,5\n2026-01-02,c,10\n", wanted)
    assert frame["cpu_pct"].tolist() == [75, 100, 0, 50]  # c: the first of two values stays, the peak was seen
    assert report.relative == {"cpu_pct": "the highest value that each server ever reported"}
    assert report.values_repaired == {"infinite": {"cpu_pct": 1}, "negative": {"cpu_pct": 1}}


@pytest.mark.parametrize("value", ["16777217", "0.1", "3e38", "1e-30"])
def test_the_peak_is_exactly_one_hundred_percent(tmp_path, value):
    assert imported(tmp_path, "cpu_pct", {"column": "x", "capacity": "highest"}, value, "0")[1] == [100, 0]


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ({"capacity": 0}, "must be a number above 0"),
        ({"capacity": -5.0}, "must be a number above 0"),
        ({"capacity": float("inf")}, "must be a number above 0"),
        ({"capacity": "size"}, "the name of a column goes into `of`"),
        ({"capacity": 5, "of": "size"}, "give `of` or `capacity`, not both"),
        ({"capacity": "highest", "unit": "MB"}, "takes no `unit`"),
        ({"capacity": 5, "unit": "percent"}, "none of B, KB"),
        ({"of_unit": "MB"}, "which are not given"),
    ],
)
def test_capacities_that_cannot_be_are_refused(section, part):
    metrics = {"cpu_pct": {"column": "x", **section}}
    with refused(ImportMappingError, part):
        parse_mapping({"time": {"column": "t"}, "server": {"name": "a"}, "metrics": metrics})


def test_capacities_are_for_percentages_and_relative_ones_for_all_layouts(tmp_path):
    base = {"time": {"column": "t"}, "server": {"name": "a"}}
    with refused(ImportMappingError, "`disk_io_mb_s.capacity` gives a percentage"):
        parse_mapping({**base, "metrics": {"disk_io_mb_s": {"column": "x", "capacity": 5}}})
    relative = {**base, "metrics": {"cpu_pct": {"column": "x", "capacity": "highest"}}}
    with refused(ImportMappingError, "make two mappings"):
        parse_mapping({"layout": [relative, {**base, "metrics": {"cpu_pct": {"column": "y"}}}]})


# --------------------------------------------------------------------------------------------------------------- times
def moments(tmp_path, form: object, *texts: str):
    """Report and times that texts become."""
    section = {"column": "t"} if form is None else {"column": "t", "format": form}
    wanted = parse_mapping({"time": section, "server": {"name": "a"}, "metrics": {"cpu_pct": {"column": "x"}}})
    report, frame = run(tmp_path, "t;x\n" + "".join(f"{text};{place}\n" for place, text in enumerate(texts)), wanted)
    found = dict(zip(frame["cpu_pct"].astype(int), times(frame), strict=True))
    return report, [found.get(place) for place in range(len(texts))]


def test_three_formats_in_one_column_are_read_when_they_are_named_and_each_is_counted(tmp_path):
    texts = ["2026-04-03 00:00", "03/04/2026 01:00", "Apr 3 2026 02:00", "1775185200", "03/04/2026 04:00", "soon"]
    report, found = moments(tmp_path, ["%d/%m/%Y %H:%M", "%b %d %Y %H:%M", "ISO8601"], *texts)
    assert found == [f"2026-04-03T0{hour}:00:00Z" for hour in range(5)] + [None]
    assert "times by the format that they were read with: %d/%m/%Y %H:%M 2, %b %d %Y %H:%M 1, ISO8601 2" in report.notes
    assert report.rows_dropped == {"unreadable_time": 1}


def test_without_a_format_unambiguous_times_are_read_and_others_dropped_with_advice(tmp_path):
    texts = ["2026-04-03T00:00:00+02:00", "1775185200", "1775185200000", "2026-04-03", "03/04/2026 01:00"]
    report, found = moments(tmp_path, None, *texts)
    assert found[:1] == ["2026-04-02T22:00:00Z"] and found[-1] is None
    assert report.rows_dropped["unreadable_time"] == 1
    assert any("'03/04/2026 01:00'" in text and "it takes a list, too" in text for text in report.warnings)


def test_a_time_that_fits_several_formats_is_read_by_the_first_and_the_report_warns(tmp_path):
    texts = ["03/04/2026", "13/04/2026", "04/13/2026", "05/05/2026"]
    report, found = moments(tmp_path, ["%d/%m/%Y", "%m/%d/%Y"], *texts)
    assert found == ["2026-04-03T00:00:00Z", "2026-04-13T00:00:00Z", None, "2026-05-05T00:00:00Z"]
    assert report.rows_dropped == {"conflict": 1}
    assert any("1 times fit more than one format" in warning for warning in report.warnings)


def test_zones_are_taken_from_the_format_that_fits(tmp_path):
    section = {"column": "t", "format": ["%d.%m.%Y %H:%M %z", "%d.%m.%Y %H:%M"], "timezone": "Europe/Berlin"}
    wanted = parse_mapping({"time": section, "server": {"name": "a"}, "metrics": {"cpu_pct": {"column": "x"}}})
    _, frame = run(tmp_path, "t;x\n05.01.2026 12:00 +0000;1\n05.01.2026 12:00;2\n", wanted)
    assert times(frame) == ["2026-01-05T11:00:00Z", "2026-01-05T12:00:00Z"]


@pytest.mark.parametrize(
    ("form", "part"),
    [
        ([], "1 to 10 different formats"),
        (["%d.%m.%Y", "%d.%m.%Y"], "1 to 10 different formats"),
        (["%d.%m.%Y", "%H:%M"], "others only the time of day"),
        (["%d.%m.%Y", "iso"], "'iso' has no directive"),
        (["%d.%m.%Y", 5], "`time.format`"),
    ],
)
def test_lists_of_formats_that_cannot_be_are_refused(form, part):
    with refused(ImportMappingError, part):
        parse_mapping(
            {
                "time": {"column": "t", "format": form},
                "server": {"name": "a"},
                "metrics": {"cpu_pct": {"column": "x"}},
            }
        )
