"""Exports say what the data says: cut or whole, CSV or Parquet, and an import of them is the same rows again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract_parquet import CONTRACT_SCHEMA, open_writer, read_frame
from data_contract import (
    DATA_FILE,
    METRIC_COLUMNS,
    METRICS,
    PROFILE,
    REQUIRED_COLUMNS,
    SERVER_NAME,
    STATE,
    TIMESTAMP,
    VALID_PROFILES,
    VALID_STATES,
    ContractError,
    DataFileError,
    name_fault,
)
from metrics_exporter import export_file
from metrics_importer import import_files, load_preset

ROOT = Path(__file__).resolve().parent.parent
JANUARY = datetime(2026, 1, 1, tzinfo=timezone.utc)


def fleet(rows: list[tuple[str, str]], **columns: object) -> pd.DataFrame:
    """Contract rows of (server, time)."""
    frame = pd.DataFrame(rows, columns=[SERVER_NAME, TIMESTAMP])
    frame[TIMESTAMP] = pd.to_datetime(frame[TIMESTAMP], utc=True, format="ISO8601")
    defaults = {**dict.fromkeys(METRIC_COLUMNS, 12.5), STATE: "healthy", PROFILE: "generic"}
    return frame.assign(**{**defaults, **columns})[list(REQUIRED_COLUMNS)]


def written(folder: Path, frame: pd.DataFrame) -> Path:
    with open_writer(folder / DATA_FILE) as writer:
        writer.write(frame)
    return folder / DATA_FILE


def plain(path: Path) -> pd.DataFrame:
    """Rows of a contract file with texts as texts."""
    frame = read_frame(path)
    return frame.assign(**{name: frame[name].astype(str) for name in (SERVER_NAME, STATE, PROFILE)})


@pytest.fixture
def three_rows(tmp_path: Path) -> Path:
    times = ["2026-01-01T00:00:00Z", "2026-01-01T00:05:00.25Z", "2026-01-02T00:00:00Z"]
    rows = list(zip(["web 1", "web 1", 'db,"ü"'], times, strict=True))
    return written(tmp_path, fleet(rows, latency_ms=[np.nan, 1e-7, 3e38]))


def test_csv_has_the_contracts_names_iso_times_and_empty_cells_for_what_is_missing(three_rows, tmp_path):
    report = export_file(three_rows, tmp_path / "new" / "fleet.csv", "csv")
    assert (tmp_path / "new" / "fleet.csv").read_text(encoding="utf-8").splitlines() == [
        '"timestamp","server_name","cpu_pct","mem_pct","disk_io_mb_s","latency_ms","state","profile"',
        '"2026-01-01T00:00:00Z","web 1",12.5,12.5,12.5,,"healthy","generic"',
        '"2026-01-01T00:05:00.250000Z","web 1",12.5,12.5,12.5,1e-7,"healthy","generic"',
        '"2026-01-02T00:00:00Z","db,""ü""",12.5,12.5,12.5,3e+38,"healthy","generic"',
    ]
    assert report.as_dict() == {
        "out": str(tmp_path / "new" / "fleet.csv"),
        "format": "csv",
        "rows": 3,
        "servers": 2,
        "bytes": (tmp_path / "new" / "fleet.csv").stat().st_size,
        "start": "2026-01-01T00:00:00Z",
        "end": "2026-01-02T00:00:00Z",
    }


def test_parquet_has_the_contracts_schema(three_rows, tmp_path):
    export_file(three_rows, tmp_path / "copy.parquet", "parquet")
    pd.testing.assert_frame_equal(plain(tmp_path / "copy.parquet"), plain(three_rows))
    import pyarrow.parquet as pq

    assert pq.read_schema(tmp_path / "copy.parquet").equals(CONTRACT_SCHEMA, check_metadata=False)


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        ({"servers": ['db,"ü"']}, [2]),
        ({"servers": ["web 1", 'db,"ü"']}, [0, 1, 2]),
        ({"since": JANUARY.replace(minute=5, microsecond=250_000)}, [1, 2]),
        ({"until": JANUARY.replace(minute=5, microsecond=250_000).replace(tzinfo=None)}, [0]),
        ({"servers": ["web 1"], "since": JANUARY.replace(minute=1), "until": JANUARY.replace(day=9)}, [1]),
    ],
)
def test_a_cut_keeps_the_servers_and_times_asked_for(three_rows, tmp_path, cut, kept):
    export_file(three_rows, tmp_path / "cut.parquet", "parquet", **cut)
    expected = plain(three_rows).iloc[kept].reset_index(drop=True)
    pd.testing.assert_frame_equal(plain(tmp_path / "cut.parquet"), expected)


def test_what_is_not_there_is_named_and_nothing_is_written(three_rows, tmp_path):
    (tmp_path / "out.csv").write_text("before")
    for cut, part in (
        ({"servers": ["web 1", "web 2"]}, "no rows of ['web 2']"),
        ({"since": JANUARY.replace(year=2027)}, "in the time asked for"),
    ):
        with pytest.raises(ContractError, match=re.escape(part)) as caught:
            export_file(three_rows, tmp_path / "out.csv", "csv", **cut)
        assert "between 2026-01-01T00:00:00Z and 2026-01-02T00:00:00Z" in str(caught.value)
    assert (tmp_path / "out.csv").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", DATA_FILE]


def test_data_that_breaks_the_contract_is_not_exported(tmp_path):
    path = written(tmp_path, fleet([("a", "2026-01-01"), ("a", "2026-01-01")]))
    with pytest.raises(ContractError, match="a at 2026-01-01T00:00:00Z"):
        export_file(path, tmp_path / "out.csv", "csv")
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(DataFileError, match="no Parquet data"):
        export_file(tmp_path / "absent.parquet", tmp_path / "out.csv", "csv")


def test_an_export_never_replaces_or_joins_its_own_source(three_rows, tmp_path):
    for source, out in (
        (three_rows, three_rows),
        (tmp_path, tmp_path / "more.parquet"),
        (three_rows, tmp_path),
    ):
        with pytest.raises(DataFileError, match="cannot be written: it is"):
            export_file(source, out, "parquet")
    assert [path.name for path in tmp_path.iterdir()] == [DATA_FILE]


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_a_full_disk_leaves_what_was_there(tmp_path, file_format):
    times = pd.date_range("2026", periods=30_000, freq="5min").astype(str)
    values = np.random.default_rng(1).random(30_000)
    path = written(tmp_path, fleet([("a", time) for time in times], cpu_pct=values))
    (tmp_path / "out").write_text("before")
    script = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from data_contract import DataFileError
from metrics_exporter import export_file
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # what a full disk is to a writer
try:
    export_file(sys.argv[2], sys.argv[3], sys.argv[4])
except DataFileError as error:
    print(error)
"""
    command = [sys.executable, "-c", script, str(ROOT), str(path), str(tmp_path / "out"), file_format]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "out cannot be written: " in done.stdout and "File too large" in done.stdout, done.stderr
    assert (tmp_path / "out").read_text() == "before"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["out", DATA_FILE]


def test_progress_goes_from_nothing_to_all(three_rows, tmp_path):
    seen: list[float] = []
    export_file(three_rows, tmp_path / "a.csv", "csv", progress=lambda done, total: seen.append(done / total))
    assert seen == sorted(seen)
    assert seen[-1] == 1


# ------------------------------------------------------------------------------------------------- the way out and back
# Spaces around a name are no part of it (the import takes them off), and the contract forbids control characters.
NAMES = st.one_of(
    st.sampled_from(["ppweb001", "a b", 'x,"y"', "'", ";|\t"[0:2], "NaN", "null", "-", "1e5", "ünïcode ☃", "a\u2028b"]),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12),
).filter(lambda name: name == name.strip() and not name_fault(name))
LATEST_US = int(datetime(2199, 12, 31, tzinfo=timezone.utc).timestamp()) * 1_000_000
MOMENTS = st.integers(0, LATEST_US) | st.integers(0, LATEST_US // 300_000_000).map(lambda step: step * 300_000_000)


def values(upper: float | None) -> st.SearchStrategy[float | None]:
    return st.none() | st.floats(0, 2.0**127 if upper is None else upper, width=32)


@st.composite
def fleets(draw: st.DrawFn) -> pd.DataFrame:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    rows = draw(st.lists(st.tuples(st.sampled_from(names), MOMENTS), min_size=1, max_size=12, unique=True))
    frame = pd.DataFrame(sorted(rows), columns=[SERVER_NAME, TIMESTAMP])
    frame[TIMESTAMP] = frame[TIMESTAMP].astype("datetime64[us]").dt.tz_localize("UTC")
    count = len(frame)
    for metric in METRICS:
        column = draw(st.lists(values(metric.upper), min_size=count, max_size=count))
        frame[metric.column] = np.array(column, np.float32)
    nothing = frame[list(METRIC_COLUMNS)].isna().all(axis=1)
    frame.loc[nothing, "cpu_pct"] = np.float32(0)  # a row without any metric is no sample
    frame[STATE] = draw(st.lists(st.sampled_from(VALID_STATES), min_size=count, max_size=count))
    roles = {name: draw(st.sampled_from(VALID_PROFILES)) for name in names}
    frame[PROFILE] = frame[SERVER_NAME].map(roles)
    return frame[list(REQUIRED_COLUMNS)]


@settings(max_examples=120, deadline=None)
@given(frame=fleets(), file_format=st.sampled_from(["csv", "parquet"]))
def test_import_after_export_is_the_identity(frame, file_format, tmp_path_factory):
    folder = tmp_path_factory.mktemp("way")
    path = written(folder, frame)
    exported = folder / f"fleet.{file_format}"
    export_file(path, exported, file_format)
    report = import_files(exported, load_preset("contract"), folder / "again")
    pd.testing.assert_frame_equal(plain(folder / "again" / DATA_FILE), plain(path))
    assert report.rows_unchanged == report.rows_in == len(frame)
    assert report.states_derived == 0


# --------------------------------------------------------------------------------------------------------- the command
def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "export", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
    )


def test_the_command_takes_the_format_from_the_ending_and_tells_what_it_wrote(three_rows, tmp_path):
    done = run(three_rows, "--out", "a.csv", "--server", "web 1", "--since", "2026-01-01", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 2
    assert len((tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()) == 3
    done = run(three_rows, "--out", "b.data", "--format", "parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 rows of 2 servers" in done.stdout
    assert len(read_frame(tmp_path / "b.data")) == 3


def test_the_command_tells_wrong_usage_with_2_and_the_users_mistakes_with_1(three_rows, tmp_path):
    assert run(three_rows, cwd=tmp_path).returncode == 2
    assert run(three_rows, "--out", "a.xlsx", cwd=tmp_path).returncode == 2
    assert run(three_rows, "--out", "a.csv", "--since", "soon", cwd=tmp_path).returncode == 2
    done = run(three_rows, "--out", "a.csv", "--server", "web", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert set(json.loads(done.stderr)["error"]) == {"what", "why", "fix", "document"}
    assert not (tmp_path / "a.csv").exists()
