"""Does the validator find every fault of frames, files and model folders, and say where it is?"""

from __future__ import annotations

import itertools
import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contract_judge
from common_utils import sha256_of_file, write_json
from contract_parquet import open_writer
from data_contract import (
    CONTRACT_VERSION,
    METRIC_COLUMNS,
    MODEL_FILES,
    REQUIRED_COLUMNS,
    VALID_PROFILES,
    VALID_STATES,
    ContractError,
    DataFileError,
    ModelFolderError,
)
from data_validator import DataValidator, load_valid_frame, load_valid_tail
from model_inputs import Layout
from server_encoder import ServerEncoder

SERVERS = {"ppweb001": "web_api", "ppdb001": "database", "mail.example.org": "generic"}


def sound_frame(steps: int = 12, start: str = "2026-01-01T00:00:00Z") -> pd.DataFrame:
    """Rows that obey the contract: `steps` of three servers, sorted by time."""
    times = pd.date_range(start, periods=steps, freq="5min")
    count = len(SERVERS)
    values = np.random.default_rng(1).uniform(0, 100, (4, steps * count))
    return pd.DataFrame(
        {
            "timestamp": times.repeat(count),
            "server_name": list(SERVERS) * steps,
            **dict(zip(METRIC_COLUMNS, values, strict=True)),
            "state": "healthy",
            "profile": list(SERVERS.values()) * steps,
        }
    )


def errors_of(frame: pd.DataFrame) -> list[str]:
    is_valid, errors, _ = DataValidator().validate_schema(frame)
    assert is_valid == (not errors)
    return errors


def only_error_of(frame: pd.DataFrame) -> str:
    errors = errors_of(frame)
    assert len(errors) == 1, errors
    return errors[0]


def write_contract(path: Path, *frames: pd.DataFrame) -> Path:
    with open_writer(path) as writer:
        for frame in frames:
            writer.write(frame)
    return path


# ------------------------------------------------------------------------------------------------------------- frames


def test_a_sound_frame_has_no_errors_and_no_warnings():
    assert DataValidator().validate_schema(sound_frame()) == (True, [], [])


def test_missing_values_are_allowed():
    frame = sound_frame()
    frame.loc[3:9, "cpu_pct"] = np.nan
    assert DataValidator().validate_schema(frame) == (True, [], [])


def test_a_metric_that_is_never_reported_is_a_warning():
    frame = sound_frame().assign(latency_ms=np.nan)
    is_valid, _, warnings = DataValidator().validate_schema(frame)
    assert is_valid and len(warnings) == 1 and "`latency_ms` is missing in every row" in warnings[0]


def test_a_metric_column_of_nulls_without_a_type_is_a_warning_too():
    is_valid, _, warnings = DataValidator().validate_schema(sound_frame().assign(latency_ms=None))
    assert is_valid and "`latency_ms` is missing in every row" in warnings[0]


@pytest.mark.parametrize("column", REQUIRED_COLUMNS)
def test_each_missing_column_is_named(column):
    assert f"column `{column}` is missing" in only_error_of(sound_frame().drop(columns=column))


def test_a_renamed_column_is_pointed_at():
    error = only_error_of(sound_frame().rename(columns={"cpu_pct": "cpu_percent"}))
    assert "`cpu_pct` is missing" in error and "`cpu_percent`" in error


def test_columns_outside_the_contract_are_a_warning():
    is_valid, _, warnings = DataValidator().validate_schema(sound_frame().assign(rack="A7"))
    assert is_valid and "rack" in warnings[0]


def test_a_column_that_is_there_twice_is_an_error():
    frame = sound_frame()
    assert "2 times" in only_error_of(pd.concat([frame, frame[["cpu_pct"]]], axis=1))


def test_an_empty_frame_is_an_error():
    assert errors_of(sound_frame().iloc[:0]) == ["there are no rows"]
    assert errors_of(pd.DataFrame(columns=list(REQUIRED_COLUMNS))) == ["there are no rows"]


def test_a_frame_without_any_column_names_all_eight_and_the_lack_of_rows():
    assert len(errors_of(pd.DataFrame())) == len(REQUIRED_COLUMNS) + 1


@pytest.mark.parametrize("column", ["cpu_pct", "mem_pct"])
def test_a_percentage_of_140_is_counted_and_its_server_named(column):
    frame = sound_frame()
    frame.loc[[4, 7], column] = [101.0, 140.0]
    error = only_error_of(frame)
    assert f"`{column}` is above 100 %" in error and "2 rows" in error and "140.0" in error
    assert frame.loc[7, "server_name"] in error and "2026-01-01T00:10:00Z" in error


@pytest.mark.parametrize("column", METRIC_COLUMNS)
def test_negative_values_of_every_metric_are_errors(column):
    frame = sound_frame()
    frame.loc[5, column] = -0.25
    error = only_error_of(frame)
    assert f"`{column}` is below 0" in error and "-0.25" in error and "1 row," in error


@pytest.mark.parametrize("column", METRIC_COLUMNS)
def test_infinite_values_are_errors(column):
    frame = sound_frame()
    frame.loc[5, column] = np.inf
    assert f"`{column}` is infinite" in only_error_of(frame)


@pytest.mark.parametrize(
    ("values", "kind"), [("41%", "text"), (True, "true and false"), (1 + 2j, "numbers"), ([[1, 2]] * 36, "list")]
)
def test_metrics_that_are_no_numbers_are_errors(values, kind):
    error = only_error_of(sound_frame().assign(cpu_pct=values))
    assert "`cpu_pct` holds" in error and kind in error and "main.py import" in error


@pytest.mark.parametrize("dtype", ["float32", "int64", "Int64", "Float64", "float64[pyarrow]"])
def test_any_numeric_type_is_accepted(dtype):
    frame = sound_frame()
    frame["cpu_pct"] = frame["cpu_pct"].round().astype(dtype)
    assert errors_of(frame) == []


def test_a_ninth_state_is_an_error_that_lists_the_valid_ones():
    frame = sound_frame()
    frame.loc[[1, 2], "state"] = "exploded"
    error = only_error_of(frame)
    assert "'exploded'" in error and "2 rows" in error and all(state in error for state in VALID_STATES)


def test_an_unknown_profile_is_an_error_that_lists_the_valid_ones():
    frame = sound_frame()
    frame.loc[frame["server_name"] == "ppdb001", "profile"] = "db"
    error = only_error_of(frame)
    assert "'db'" in error and all(profile in error for profile in VALID_PROFILES)


def test_unused_categories_are_no_fault():
    frame = sound_frame()
    frame["state"] = pd.Categorical(frame["state"], categories=["healthy", "exploded"])
    frame["server_name"] = pd.Categorical(frame["server_name"], categories=[*SERVERS, ""])
    assert errors_of(frame) == []


def test_a_profile_that_changes_within_a_server_is_an_error():
    frame = sound_frame()
    frame.loc[6, "profile"] = "database"
    assert "`profile` changes within 1 server(s): ['ppweb001']" in only_error_of(frame)


@pytest.mark.parametrize("column", ["timestamp", "server_name", "state", "profile"])
def test_missing_keys_states_and_profiles_are_errors(column):
    frame = sound_frame().astype({"server_name": object, "state": object, "profile": object})
    frame.loc[[3, 8], column] = None
    error = only_error_of(frame)
    assert f"`{column}` is missing" in error and "2 rows" in error


@pytest.mark.parametrize(
    ("name", "fault"),
    [("", "is empty"), ("  ", "is empty"), ("a\nb", "control"), ("a\0b", "control"), ("x" * 254, "longer than 253")],
)
def test_unusable_server_names_are_errors(name, fault):
    frame = sound_frame()
    frame.loc[3, "server_name"] = name
    assert fault in only_error_of(frame)


def test_a_name_of_253_characters_in_any_script_is_accepted():
    frame = sound_frame().replace({"server_name": {"ppweb001": "ü" * 253, "ppdb001": "サーバー"}})
    assert errors_of(frame) == []


def test_numbers_as_server_names_are_an_error():
    assert "`server_name` holds numbers (int64), not text" in only_error_of(sound_frame().assign(server_name=7))


def test_values_that_cannot_be_compared_are_an_error_and_no_crash():
    frame = sound_frame()
    frame["state"] = pd.Series([["healthy"]] * len(frame))
    assert "`state` holds values of type list, not text" in only_error_of(frame)


def test_naive_times_are_utc_with_a_warning():
    frame = sound_frame()
    frame["timestamp"] = frame["timestamp"].dt.tz_localize(None)
    is_valid, _, warnings = DataValidator().validate_schema(frame)
    assert is_valid and warnings == ["`timestamp` has no time zone: it is taken as UTC"]


def test_times_of_another_zone_are_accepted():
    frame = sound_frame()
    frame["timestamp"] = frame["timestamp"].dt.tz_convert("Asia/Kolkata")
    assert DataValidator().validate_schema(frame) == (True, [], [])


def test_mixed_time_zones_are_an_error_that_points_to_the_importer():
    frame = sound_frame()
    moments = [moment.to_pydatetime() for moment in frame["timestamp"]]
    moments[5] = moments[5].astimezone(timezone(timedelta(hours=2)))
    moments[6] = moments[6].replace(tzinfo=None)
    frame["timestamp"] = pd.Series(moments, dtype=object)
    error = only_error_of(frame)
    assert "mixes time zones" in error and "none" in error and "UTC+02:00" in error and "main.py import" in error


@pytest.mark.parametrize("values", ["2026-01-01 00:00", 1_767_225_600])
def test_times_as_text_or_numbers_are_errors_that_point_to_the_importer(values):
    error = only_error_of(sound_frame().assign(timestamp=values))
    assert "`timestamp` holds" in error and "main.py import" in error


def test_duplicates_are_counted_with_an_example():
    frame = sound_frame()
    frame = pd.concat([frame, frame.iloc[[4, 4, 9]]], ignore_index=True)
    error = only_error_of(frame)
    assert "the same (server_name, timestamp) occurs again in 3 rows" in error
    assert "ppweb001 at 2026-01-01T00:15:00Z" in error


def test_disorder_within_a_server_is_a_warning():
    frame = sound_frame()
    is_valid, _, warnings = DataValidator().validate_schema(frame.iloc[::-1])
    assert is_valid and len(warnings) == 1 and "not in the order of time in 3 server(s)" in warnings[0]


def test_frames_sorted_by_server_are_in_order():
    assert DataValidator().validate_schema(sound_frame().sort_values(["server_name", "timestamp"])) == (True, [], [])


def test_all_faults_are_found_at_once():
    frame = sound_frame().drop(columns="disk_io_mb_s")
    frame.loc[0, "cpu_pct"] = 140.0
    frame.loc[1, "mem_pct"] = -1.0
    frame.loc[2, "latency_ms"] = np.inf
    frame.loc[3, "state"] = "exploded"
    frame.loc[6, "profile"] = "database"
    frame = pd.concat([frame, frame.iloc[[8]]], ignore_index=True)
    assert len(errors_of(frame)) == 7


def test_strict_validation_raises_all_findings_with_what_why_fix_and_document():
    frame = sound_frame()
    frame.loc[0, ["cpu_pct", "mem_pct"]] = 140.0
    with pytest.raises(ContractError) as caught:
        DataValidator(strict=True).validate_schema(frame)
    text = str(caught.value)
    for part in ("cpu_pct", "mem_pct", "Why it matters", "To fix it", "Docs/DATA_CONTRACT.md"):
        assert part in text


def test_validation_leaves_the_frame_as_it_was():
    frame = sound_frame()
    copy = frame.copy(deep=True)
    DataValidator().validate_schema(frame)
    pd.testing.assert_frame_equal(frame, copy)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 5),  # time step
            st.sampled_from(list(SERVERS)),
            st.one_of(st.none(), st.floats(-50, 150, width=32)),
            st.sampled_from([*VALID_STATES, "exploded"]),
        ),
        min_size=1,
        max_size=60,
    ),
    cuts=st.lists(st.integers(0, 60), max_size=3),
)
def test_counts_are_right_for_any_rows_in_any_pieces(rows, cuts):
    moments, names, values, states = zip(*rows, strict=True)
    frame = pd.DataFrame(
        {
            "timestamp": pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.array(moments) * 5, unit="min"),
            "server_name": names,
            **{column: np.array(values, dtype=np.float32) for column in METRIC_COLUMNS},
            "state": states,
            "profile": [SERVERS[name] for name in names],
        }
    )
    edges = [0, *sorted(cut for cut in cuts if cut < len(frame)), len(frame)]
    pieces = [frame.iloc[begin:end] for begin, end in itertools.pairwise(edges)]
    judge = contract_judge.RowJudge()
    for piece in pieces:
        judge.add(piece)
    judge.search_duplicates(lambda: pieces)
    found = "\n".join(judge.report("pieces").errors)

    duplicates = int(frame.duplicated(["timestamp", "server_name"]).sum())
    for text, count in (
        ("occurs again", duplicates),
        ("`cpu_pct` is above", int((frame["cpu_pct"] > 100).sum())),
        ("`latency_ms` is below", int((frame["latency_ms"] < 0).sum())),
        ("`state` is none", int((frame["state"] == "exploded").sum())),
    ):
        rows_text = f"in {count:,} row{'s' if count != 1 else ''},"
        lines = [line for line in found.splitlines() if text in line]
        assert len(lines) == (1 if count else 0)
        assert all(rows_text in line for line in lines)


def test_duplicates_are_found_when_servers_must_be_searched_in_groups(monkeypatch):
    monkeypatch.setattr(contract_judge, "_ROWS_PER_DUPLICATE_SEARCH", 13)
    frame = sound_frame()
    frame = pd.concat([frame, frame.iloc[:6]], ignore_index=True)
    assert "occurs again in 6 rows" in only_error_of(frame)


# -------------------------------------------------------------------------------------------------------------- files


def test_a_sound_file_is_valid_and_described(tmp_path):
    path = write_contract(tmp_path / "a.parquet", sound_frame(12))
    calls: list[tuple[int, int]] = []
    report = DataValidator(strict=True).validate_file(path, progress=lambda done, total: calls.append((done, total)))
    assert report.is_valid and report.errors == [] and report.warnings == []
    assert (report.rows, report.servers) == (36, 3)
    assert report.start == datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert report.end == datetime(2026, 1, 1, 0, 55, tzinfo=timezone.utc)
    assert report.profiles == {"database": 1, "web_api": 1, "generic": 1}
    assert report.states == {"healthy": 36}
    assert report.missing == dict.fromkeys(METRIC_COLUMNS, 0)
    assert calls[-1] == (36, 36)
    described = json.loads(json.dumps(report.as_dict()))
    assert described["is_valid"] is True and described["end"] == "2026-01-01T00:55:00Z"


def test_a_folder_of_files_is_judged_as_one(tmp_path):
    write_contract(tmp_path / "1.parquet", sound_frame(6))
    write_contract(tmp_path / "2.parquet", sound_frame(6, "2026-01-01T00:25:00Z"))  # one step overlaps
    report = DataValidator().validate_file(tmp_path)
    assert report.rows == 36 and report.servers == 3
    assert len(report.errors) == 1 and "occurs again in 3 rows" in report.errors[0]


def test_a_profile_that_changes_between_files_is_found(tmp_path):
    write_contract(tmp_path / "1.parquet", sound_frame(2))
    write_contract(tmp_path / "2.parquet", sound_frame(2, "2026-01-02T00:00:00Z").replace("web_api", "generic"))
    assert "`profile` changes within 1 server(s)" in DataValidator().validate_file(tmp_path).errors[0]


def test_a_column_that_only_some_files_lack_is_an_error(tmp_path):
    write_contract(tmp_path / "1.parquet", sound_frame(2))
    sound_frame(2, "2026-01-02T00:00:00Z").drop(columns="cpu_pct").to_parquet(tmp_path / "2.parquet")
    expected = "column `cpu_pct` is missing in some files: ['2.parquet']"
    assert expected in DataValidator().validate_file(tmp_path).errors
    with pytest.raises(ContractError, match="cpu_pct"):
        load_valid_frame(tmp_path)


@pytest.mark.parametrize("fault", ["no names", "numbers for names", "no times", "times as text"])
def test_files_of_another_kind_do_not_hinder_the_search_for_duplicates(tmp_path, fault):
    rows = sound_frame(2)
    write_contract(tmp_path / "1.parquet", pd.concat([rows, rows]))
    other = sound_frame(2, "2026-01-02T00:00:00Z")
    if fault.startswith("no "):
        other = other.drop(columns="server_name" if fault == "no names" else "timestamp")
    elif fault == "times as text":
        other["timestamp"] = other["timestamp"].astype(str)
    else:
        other["server_name"] = np.arange(len(other))
    other.to_parquet(tmp_path / "2.parquet")
    told = DataValidator().validate_file(tmp_path).errors
    assert any("occurs again in 6 rows" in error for error in told)
    assert any("missing in some files" in error or "of different types" in error for error in told)


def test_a_column_may_be_told_by_the_folders_names(tmp_path):
    for name, rows in sound_frame(4).groupby("profile"):
        (tmp_path / f"profile={name}").mkdir()
        rows.drop(columns="profile").to_parquet(tmp_path / f"profile={name}" / "a.parquet")
    report = DataValidator().validate_file(tmp_path)
    assert report.errors == [] and report.profiles == {"database": 1, "web_api": 1, "generic": 1}


def test_faults_in_many_row_groups_are_added_up(tmp_path):
    frames = [sound_frame(2, f"2026-01-0{day}T00:00:00Z") for day in range(1, 6)]
    for value, frame in enumerate(frames):
        frame.loc[1, "cpu_pct"] = 110.0 + value
    report = DataValidator().validate_file(write_contract(tmp_path / "a.parquet", *frames))
    assert len(report.errors) == 1 and "5 rows" in report.errors[0] and "114" in report.errors[0]
    assert "2026-01-05T00:00:00Z" in report.errors[0]


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(DataFileError, match=r"main\.py generate"):
        DataValidator().validate_file(tmp_path / "absent.parquet")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.999])
def test_a_truncated_parquet_is_a_data_file_error(tmp_path, share):
    path = write_contract(tmp_path / "a.parquet", sound_frame(2000))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataFileError, match="cannot be read as Parquet"):
        DataValidator().validate_file(path)


def test_a_parquet_with_damaged_pages_is_a_data_file_error(tmp_path):
    path = write_contract(tmp_path / "a.parquet", sound_frame(2000))
    content = bytearray(path.read_bytes())
    content[len(content) // 10 : len(content) // 2] = b"\xff" * (len(content) // 2 - len(content) // 10)
    path.write_bytes(content)
    with pytest.raises(DataFileError, match="cannot be read as Parquet"):
        DataValidator().validate_file(path)
    with pytest.raises(DataFileError, match="cannot be read as Parquet"):
        load_valid_frame(path)


def test_a_damaged_file_among_sound_ones_is_a_data_file_error(tmp_path):
    write_contract(tmp_path / "1.parquet", sound_frame(2))
    (tmp_path / "2.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataFileError):
        DataValidator().validate_file(tmp_path)


def test_all_damaged_files_of_a_folder_are_named_with_their_faults(tmp_path):
    for number in range(6):
        path = write_contract(tmp_path / f"{number}.parquet", sound_frame(200, f"2026-01-0{number + 1}T00:00:00Z"))
        if number % 2 == 0:
            path.write_bytes(path.read_bytes()[: 1000 * number])
    with pytest.raises(DataFileError, match="3 of 6 files") as caught:
        DataValidator().validate_file(tmp_path)
    for number in range(6):
        assert (f"{number}.parquet cannot be read" in caught.value.what) == (number % 2 == 0)
    assert "is writing it just now" in caught.value.fix


def test_the_file_with_damaged_pages_is_named_among_the_sound_ones(tmp_path):
    write_contract(tmp_path / "1.parquet", sound_frame(2000))
    path = write_contract(tmp_path / "2.parquet", sound_frame(2000, "2026-02-01T00:00:00Z"))
    content = bytearray(path.read_bytes())
    content[len(content) // 10 : len(content) // 2] = b"\xff" * (len(content) // 2 - len(content) // 10)
    path.write_bytes(content)
    with pytest.raises(DataFileError, match=r"2\.parquet cannot be read as Parquet"):
        DataValidator().validate_file(tmp_path)


def test_files_whose_columns_differ_are_told_apart(tmp_path):
    sound_frame(3).drop(columns=["mem_pct", "state"]).to_parquet(tmp_path / "1.parquet")  # the first sets no measure
    later = sound_frame(3, "2026-01-02T00:00:00Z")
    write_contract(tmp_path / "2.parquet", later)
    later = sound_frame(3, "2026-01-03T00:00:00Z")
    later.assign(cpu_pct="41", timestamp=later["timestamp"].astype(str)).to_parquet(tmp_path / "3.parquet")
    later = sound_frame(3, "2026-01-04T00:00:00Z").assign(latency_ms=None)  # a column without a type is no fault
    later.to_parquet(tmp_path / "4.parquet")
    found = "\n".join(DataValidator().validate_file(tmp_path).errors)
    assert "column `mem_pct` is missing in some files: ['1.parquet']" in found
    assert "column `state` is missing in some files: ['1.parquet']" in found
    assert (
        "column `cpu_pct` is of different types: numbers in ['1.parquet'," in found and "text in ['3.parquet']" in found
    )
    assert "column `timestamp` is of different types: times in" in found and "latency_ms" not in found
    with pytest.raises(ContractError, match="of different types"):
        load_valid_frame(tmp_path)


def test_an_empty_folder_and_one_of_other_files_say_how_to_make_data(tmp_path):
    for _ in range(2):
        with pytest.raises(DataFileError, match=r"There is no Parquet data at .*") as caught:
            DataValidator().validate_file(tmp_path)
        assert "main.py generate" in caught.value.fix
        (tmp_path / "notes.csv").write_text("a,b\n")
        (tmp_path / ".half.parquet").write_bytes(b"PAR1")  # hidden: somebody is still writing it


def test_a_file_with_a_great_many_columns_is_told_in_a_few_lines(tmp_path):
    names = [f"cpu_pct_{number}" for number in range(20_000)]
    pq.write_table(pa.table([pa.array([1.0])] * len(names), names=names), tmp_path / "a.parquet")
    report = DataValidator().validate_file(tmp_path / "a.parquet")
    assert len(report.errors) == len(REQUIRED_COLUMNS) and "there is `cpu_pct_" in "".join(report.errors)
    assert all(len(sentence) < 300 for sentence in [*report.errors, *report.warnings])


def test_an_empty_file_is_an_error(tmp_path):
    report = DataValidator().validate_file(write_contract(tmp_path / "a.parquet", sound_frame().iloc[:0]))
    assert report.errors == ["there are no rows"] and report.start is None
    with pytest.raises(ContractError):
        DataValidator(strict=True).validate_file(tmp_path / "a.parquet")


def test_a_file_without_any_contract_column_names_all_of_them(tmp_path):
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "a.parquet")
    report = DataValidator().validate_file(tmp_path / "a.parquet")
    assert sum("is missing" in error for error in report.errors) == len(REQUIRED_COLUMNS)


def test_a_file_without_a_contract_version_is_a_warning(tmp_path):
    sound_frame().to_parquet(tmp_path / "a.parquet")
    report = DataValidator().validate_file(tmp_path / "a.parquet")
    assert report.is_valid and "does not say which contract version" in report.warnings[0]


def test_a_file_of_another_contract_version_is_an_error(tmp_path):
    path = write_contract(tmp_path / "a.parquet", sound_frame())
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"contract_version": b"2.0.0"}), path)
    for errors in (DataValidator().validate_file(path).errors, _errors_of_load(path)):
        assert "contract version '2.0.0' instead of 1.0.0" in errors[0]


def _errors_of_load(path: Path) -> list[str]:
    with pytest.raises(ContractError) as caught:
        load_valid_frame(path)
    return caught.value.what.splitlines()[1:]


def test_a_text_time_column_in_a_file_is_an_error(tmp_path):
    frame = sound_frame()
    frame.assign(timestamp=frame["timestamp"].astype(str)).to_parquet(tmp_path / "a.parquet")
    (error,) = DataValidator().validate_file(tmp_path / "a.parquet").errors
    assert "`timestamp` holds text" in error


def test_loading_gives_valid_rows_in_utc_and_logs_warnings(tmp_path, caplog):
    frame = sound_frame()
    frame["timestamp"] = frame["timestamp"].dt.tz_localize(None)
    frame.to_parquet(tmp_path / "a.parquet")
    loaded = load_valid_frame(tmp_path / "a.parquet")
    assert str(loaded["timestamp"].dt.tz) == "UTC" and len(loaded) == len(frame)
    assert "no time zone" in caplog.text


@pytest.mark.parametrize("zone", [None, "UTC"])
def test_loading_only_the_newest_rows(tmp_path, zone):
    frame = sound_frame()
    if zone is None:
        frame["timestamp"] = frame["timestamp"].dt.tz_localize(None)
    frame.to_parquet(tmp_path / "a.parquet")
    since = pd.Timestamp("2026-01-01T00:40:00Z")
    loaded = load_valid_frame(tmp_path / "a.parquet", since=since)
    assert loaded["timestamp"].min() == since and len(loaded) == 12
    with pytest.raises(ContractError, match="there are no rows"):
        load_valid_frame(tmp_path / "a.parquet", since=since + pd.Timedelta(days=1))


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_the_tail_is_counted_back_from_the_newest_row_or_from_the_latest_moment(tmp_path, zone):
    frame = sound_frame()
    newest = frame["timestamp"].max()
    frame["timestamp"] = frame["timestamp"].dt.tz_convert("UTC").dt.tz_convert(zone)
    frame.to_parquet(tmp_path / "a.parquet")
    tail = load_valid_tail(tmp_path / "a.parquet", 0.25)
    assert tail["timestamp"].min() == newest - pd.Timedelta(minutes=15) and tail["timestamp"].max() == newest
    latest = newest - pd.Timedelta(minutes=20)
    assert load_valid_tail(tmp_path / "a.parquet", 0.25, latest)["timestamp"].min() == latest - pd.Timedelta(minutes=15)


def test_a_tail_without_usable_times_says_what_is_wrong_with_them(tmp_path):
    frame = sound_frame()
    faults = {
        "column `timestamp` is missing": frame.drop(columns="timestamp"),
        "`timestamp` holds text": frame.assign(timestamp=frame["timestamp"].astype(str)),
        "there are no rows": frame.iloc[:0],
        "`timestamp` is missing in": frame.assign(timestamp=pd.Series(pd.NaT, frame.index, "datetime64[us, UTC]")),
    }
    for fault, broken in faults.items():
        broken.to_parquet(tmp_path / "a.parquet")
        with pytest.raises(ContractError, match=fault):
            load_valid_tail(tmp_path / "a.parquet", 1)
    (tmp_path / "folder").mkdir()
    frame.to_parquet(tmp_path / "folder" / "1.parquet")
    frame.drop(columns="timestamp").to_parquet(tmp_path / "folder" / "2.parquet")
    with pytest.raises(ContractError, match="column `timestamp` is missing in some files"):
        load_valid_tail(tmp_path / "folder", 1)


def test_loading_invalid_rows_raises(tmp_path):
    frame = sound_frame()
    frame.loc[0, "cpu_pct"] = 140.0
    with pytest.raises(ContractError, match="cpu_pct"):
        load_valid_frame(write_contract(tmp_path / "a.parquet", frame))


# ------------------------------------------------------------------------------------------------------ model folders


@pytest.fixture
def model_folder(tmp_path) -> Path:
    """A folder with the four files; the weights' bytes are what the checksum is of."""
    folder = tmp_path / "tft_model_20260101_000000"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    write_json(
        folder / "config.json", {"network": {"hidden_size": 32}, "features": {**Layout().as_dict(), **Layout().names()}}
    )
    write_json(
        folder / "training_info.json",
        {
            "contract_version": CONTRACT_VERSION,
            "states": list(VALID_STATES),
            "profiles": list(VALID_PROFILES),
            "metrics": list(METRIC_COLUMNS),
            "weights_sha256": sha256_of_file(folder / "model.safetensors"),
        },
    )
    encoder = ServerEncoder()
    encoder.create_mapping(SERVERS)
    encoder.save_mapping(folder / "server_mapping.json")
    return folder


def change_info(folder: Path, **changes: object) -> None:
    path = folder / "training_info.json"
    info = {**json.loads(path.read_text()), **changes}
    write_json(path, {key: value for key, value in info.items() if value is not None})


def model_errors(folder: Path, frame: pd.DataFrame | None = None) -> list[str]:
    compatible, errors = DataValidator().validate_model_compatibility(folder, frame)
    assert compatible == (not errors)
    return errors


def test_a_whole_model_folder_is_compatible_also_with_unknown_servers(model_folder):
    assert model_errors(model_folder) == []
    assert model_errors(model_folder, sound_frame().replace("ppweb001", "never-seen-before")) == []


@pytest.mark.parametrize("name", MODEL_FILES)
def test_each_missing_model_file_is_named(model_folder, name):
    (model_folder / name).unlink()
    assert model_errors(model_folder) == [f"`{name}` is missing"]


def test_all_missing_model_files_are_named_at_once(model_folder):
    for name in MODEL_FILES:
        (model_folder / name).unlink()
    assert model_errors(model_folder) == [f"`{name}` is missing" for name in MODEL_FILES]


def test_a_missing_model_folder_is_named(tmp_path):
    assert str(tmp_path / "absent") in model_errors(tmp_path / "absent")[0]


@pytest.mark.parametrize("name", ["config.json", "training_info.json", "server_mapping.json"])
@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe", b"[1, 2]", b"[" * 100_000])
def test_damaged_json_is_named(model_folder, name, content):
    (model_folder / name).write_bytes(content)
    (error,) = model_errors(model_folder)
    assert name in error


def test_weights_larger_than_any_network_are_refused_unread(model_folder):
    os.truncate(model_folder / "model.safetensors", 2_000_000_000)  # a file with a hole: it takes no space
    (error,) = DataValidator().validate_model_compatibility(model_folder)[1]
    assert "larger than 1000 MB" in error and "SHA-256" not in error


def test_exchanged_weights_are_noticed(model_folder):
    (model_folder / "model.safetensors").write_bytes(b"other weights")
    (error,) = model_errors(model_folder)
    assert "model.safetensors" in error and "SHA-256" in error


def test_weights_without_a_noted_checksum_are_refused(model_folder):
    change_info(model_folder, weights_sha256=None)
    (error,) = model_errors(model_folder)
    assert "weights_sha256 is missing" in error


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"contract_version": "0.9.0"}, ["0.9.0", CONTRACT_VERSION]),
        ({"contract_version": None}, ["contract_version", CONTRACT_VERSION]),
        ({"states": [*VALID_STATES, "exploded"]}, ["states", "exploded"]),
        ({"states": list(VALID_STATES[1:])}, ["states", VALID_STATES[0]]),
        ({"profiles": ["web_api"]}, ["profiles", "lacks"]),
        ({"metrics": ["cpu_pct", "gpu_pct"]}, ["metrics", "gpu_pct", "mem_pct"]),
        ({"metrics": 4}, ["metrics", "4"]),
    ],
)
def test_a_model_of_another_contract_is_refused(model_folder, changes, words):
    change_info(model_folder, **changes)
    (error,) = model_errors(model_folder)
    assert all(word in error for word in words)


def test_data_that_breaks_the_contract_is_not_compatible_with_any_model(model_folder):
    frame = sound_frame()
    frame.loc[0, "cpu_pct"] = 140.0
    (error,) = model_errors(model_folder, frame)
    assert error.startswith("data: ") and "cpu_pct" in error


def test_states_that_the_model_was_not_made_for_are_named(model_folder):
    change_info(model_folder, states=list(VALID_STATES[:-1]))
    frame = sound_frame()
    frame.loc[0, "state"] = VALID_STATES[-1]
    errors = model_errors(model_folder, frame)
    assert len(errors) == 2 and VALID_STATES[-1] in errors[1]


def test_strict_refusal_of_a_model_names_everything(model_folder):
    (model_folder / "config.json").unlink()
    change_info(model_folder, contract_version="0.9.0")
    with pytest.raises(ModelFolderError) as caught:
        DataValidator(strict=True).validate_model_compatibility(model_folder)
    for part in ("config.json", "0.9.0", "Why it matters", "To fix it", "Docs/MODEL_FOLDER.md"):
        assert part in str(caught.value)


# --------------------------------------------------------------------------------------------------------- real fleets


@pytest.mark.skipif("TFT_REAL_DATA" not in os.environ, reason="TFT_REAL_DATA names no folder of real fleets")
def test_the_faults_of_a_real_fleet_are_counted_exactly(tmp_path):
    frame = pd.read_parquet(Path(os.environ["TFT_REAL_DATA"]) / "bitbrains_rnd_small_40vms_2013-08.parquet")
    frame = frame.assign(latency_ms=np.nan, state="healthy", profile="generic")
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=50_000)
    report = DataValidator().validate_file(tmp_path / "a.parquet")
    assert (report.rows, report.servers) == (len(frame), 40)
    above = frame[frame["cpu_pct"] > 100]
    (error,) = report.errors
    assert f"`cpu_pct` is above 100 % in {len(above):,} rows, e.g. {above['cpu_pct'].max()!s}" in error
    assert report.missing["mem_pct"] == frame["mem_pct"].isna().sum() and report.missing["latency_ms"] == len(frame)
    assert sorted(warning.split()[0] for warning in report.warnings) == [
        "`latency_ms`",
        "`timestamp`",
        "columns",
        "the",
    ]


def test_a_file_without_any_column_of_the_contract_is_not_called_empty(tmp_path):
    file = tmp_path / "foreign.parquet"
    pd.DataFrame({"when": [1, 2, 3], "load": [0.1, 0.2, 0.3]}).to_parquet(file)
    report = DataValidator().validate_file(file)
    assert report.rows == 3 and len(report.errors) == len(REQUIRED_COLUMNS)
    assert all("is missing" in error for error in report.errors)
    with pytest.raises(ContractError) as caught:
        load_valid_frame(file)
    assert "no rows" not in caught.value.what
