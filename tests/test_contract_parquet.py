"""Do contract rows survive Parquet, whole and in pieces, and are damaged files told apart from missing ones?"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_fleet

from contract_parquet import (
    CONTRACT_SCHEMA,
    VERSION_KEY,
    iter_frames,
    open_dataset,
    open_writer,
    read_frame,
    to_table,
    unreadable,
)
from data_contract import CONTRACT_VERSION, METRIC_COLUMNS, REQUIRED_COLUMNS, DataFileError

ROOT = Path(__file__).resolve().parent.parent


def rows(steps: int = 10, start: str = "2026-01-01T00:00:00Z") -> pd.DataFrame:
    values = np.arange(steps * 4, dtype=np.float32).reshape(4, steps) / 7
    return pd.DataFrame(
        {
            "timestamp": pd.date_range(start, periods=steps, freq="5min"),
            "server_name": "ppweb001",
            **dict(zip(METRIC_COLUMNS, values, strict=True)),
            "state": "healthy",
            "profile": "web_api",
        }
    )


def write(path: Path, *frames: pd.DataFrame | pa.Table) -> Path:
    with open_writer(path) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def test_rows_come_back_as_they_were_written(tmp_path):
    frame = rows()
    frame.loc[[2, 5], "latency_ms"] = np.nan
    back = read_frame(write(tmp_path / "a.parquet", frame))
    assert tuple(back.columns) == REQUIRED_COLUMNS
    assert list(back["timestamp"]) == list(frame["timestamp"]) and str(back["timestamp"].dt.tz) == "UTC"
    for column in METRIC_COLUMNS:
        np.testing.assert_array_equal(back[column], frame[column])
    assert back["state"].astype(str).tolist() == ["healthy"] * 10


def test_a_written_file_has_the_contract_s_schema_and_version(tmp_path):
    schema = pq.read_schema(write(tmp_path / "a.parquet", rows()))
    assert schema.metadata[VERSION_KEY] == CONTRACT_VERSION.encode()
    assert schema.equals(CONTRACT_SCHEMA)


def test_frames_and_tables_of_several_types_may_be_mixed(tmp_path):
    first = rows().assign(rack="A7")
    second = rows(start="2026-01-02T00:00:00Z").astype({"cpu_pct": "float64", "mem_pct": "int64", "state": "category"})
    third = to_table(rows(start="2026-01-03T00:00:00Z"))
    back = read_frame(write(tmp_path / "a.parquet", first, second, third))
    assert len(back) == 30 and tuple(back.columns) == REQUIRED_COLUMNS


@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_naive_times_are_utc_and_others_are_converted(zone):
    frame = rows()
    frame["timestamp"] = frame["timestamp"].dt.tz_convert(zone)
    assert to_table(frame)["timestamp"].equals(to_table(rows())["timestamp"])


def test_rows_without_a_time_state_or_name_are_not_written(tmp_path):
    for column in ("timestamp", "server_name", "state", "profile"):
        frame = rows().astype({"server_name": object, "state": object, "profile": object})
        frame.loc[3, column] = None
        table = to_table(frame)
        assert table[column].null_count == 1
        with pytest.raises(ValueError, match=column):
            write(tmp_path / "a.parquet", table)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_does_not_appear_when_writing_breaks_off(tmp_path, error):
    write(tmp_path / "a.parquet", rows(3))
    with pytest.raises(error), open_writer(tmp_path / "a.parquet") as writer:
        writer.write(rows(5))
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"] and len(read_frame(tmp_path / "a.parquet")) == 3


def test_a_full_disk_is_a_data_file_error_and_keeps_the_old_file(tmp_path):
    write(tmp_path / "a.parquet", rows(3))
    code = """
import sys, numpy as np, pandas as pd
sys.path.insert(0, "tests")
from test_contract_parquet import rows, open_writer, DataFileError
from pathlib import Path
frame = rows(100_000)
frame["cpu_pct"] = np.random.default_rng(1).uniform(0, 100, len(frame))
try:
    with open_writer(Path(sys.argv[1])) as writer:
        for _ in range(5):
            writer.write(frame)
except DataFileError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.parquet")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout and "To fix it" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"] and len(read_frame(tmp_path / "a.parquet")) == 3


def test_a_file_is_read_in_pieces_that_add_up_to_it(tmp_path):
    path = write(tmp_path / "a.parquet", *(rows(50, f"2026-01-{day:02d}T00:00:00Z") for day in range(1, 9)))
    pieces = list(iter_frames(path, batch_rows=32))
    assert len(pieces) > 8 and max(map(len, pieces)) <= 32
    whole = pd.concat([piece.astype({"server_name": str, "state": str, "profile": str}) for piece in pieces])
    assert list(whole["timestamp"]) == list(read_frame(path)["timestamp"])


def test_only_wanted_columns_are_read(tmp_path):
    path = write(tmp_path / "a.parquet", rows())
    assert list(next(iter_frames(path, ["timestamp", "cpu_pct"])).columns) == ["timestamp", "cpu_pct"]
    assert list(read_frame(path, ["cpu_pct", "absent"]).columns) == ["cpu_pct"]


@pytest.mark.parametrize("zone", ["UTC", None])
def test_only_rows_from_a_time_on_are_read(tmp_path, zone):
    frame = rows()
    frame["timestamp"] = frame["timestamp"].dt.tz_convert(zone)
    frame.to_parquet(tmp_path / "a.parquet")
    assert len(read_frame(tmp_path / "a.parquet", since=pd.Timestamp("2026-01-01T00:30:00Z"))) == 4


def test_a_folder_is_read_as_one_and_hidden_files_in_it_are_not(tmp_path):
    write(tmp_path / "1.parquet", rows())
    write(tmp_path / "deeper" / "2.parquet", rows(start="2026-01-02T00:00:00Z"))
    (tmp_path / ".server_metrics.parquet.x.partial").write_bytes(b"half")
    (tmp_path / ".writing-x").mkdir()
    (tmp_path / ".writing-x" / "server_metrics.parquet").write_bytes(b"half")
    (tmp_path / "metrics_metadata.json").write_text("{}")
    assert len(read_frame(tmp_path)) == 20


@pytest.mark.parametrize("kind", ["absent", "empty folder", "folder of other files"])
def test_nothing_to_read_says_how_to_make_data(tmp_path, kind):
    path = tmp_path / "here"
    if kind != "absent":
        path.mkdir()
    if kind == "folder of other files":
        (path / "a.csv").write_text("a,b\n")
    for read in (open_dataset, read_frame, lambda where: list(iter_frames(where))):
        with pytest.raises(DataFileError, match=r"main\.py generate"):
            read(path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"timestamp,server_name\n1,2\n", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_what_is_no_parquet_is_a_data_file_error(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    for read in (read_frame, lambda where: list(iter_frames(where))):
        with pytest.raises(DataFileError, match="cannot be read as Parquet"):
            read(tmp_path / "a.parquet")


def test_pages_that_are_damaged_are_a_data_file_error(tmp_path):
    path = write(tmp_path / "a.parquet", rows(20_000))
    content = bytearray(path.read_bytes())
    content[200 : len(content) // 2] = b"\xff" * (len(content) // 2 - 200)
    path.write_bytes(content)
    for read in (read_frame, lambda where: list(iter_frames(where))):
        with pytest.raises(DataFileError, match="cannot be read as Parquet"):
            read(path)


def test_small_files_share_a_piece_and_columns_told_by_folders_stay_right(tmp_path):
    roles = {"ppweb001": "web_api", "ppdb001": "database"}
    for name, role in roles.items():
        (tmp_path / f"profile={role}").mkdir()
        for day in range(1, 10):
            part = rows(4, f"2026-01-{day:02d}T00:00:00Z").assign(server_name=name).drop(columns="profile")
            part = part.assign(state=pd.Categorical(part["state"], categories=["idle", "healthy"][day % 2 :]))
            part.to_parquet(tmp_path / f"profile={role}" / f"{day}.parquet")
    (piece,) = iter_frames(tmp_path)
    assert len(piece) == 72 and set(piece["state"]) == {"healthy"}
    assert piece.groupby("server_name")["profile"].unique().map(list).to_dict() == {
        name: [role] for name, role in roles.items()
    }


def test_files_of_different_columns_never_share_a_piece(tmp_path):
    rows(4).to_parquet(tmp_path / "1.parquet")
    rows(4, "2026-01-02T00:00:00Z").drop(columns="cpu_pct").to_parquet(tmp_path / "2.parquet")
    rows(4, "2026-01-03T00:00:00Z").assign(cpu_pct="41").to_parquet(tmp_path / "3.parquet")
    pieces = list(iter_frames(tmp_path))
    assert [len(piece) for piece in pieces] == [len(rows(4))] * 3 and "cpu_pct" not in pieces[1]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", None])
@pytest.mark.parametrize("statistics", [True, False])
def test_of_a_period_all_rows_come_and_row_groups_outside_it_stay_unread(tmp_path, unit, zone, statistics):
    days = [rows(288, f"2026-01-{day:02}T00:00:00Z") for day in (1, 2, 3, 4)]
    frame = pd.concat(days, ignore_index=True)
    frame["timestamp"] = frame["timestamp"].dt.as_unit(unit).dt.tz_convert(zone)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for name, part in (("1.parquet", table.slice(0, 2 * 288)), ("2.parquet", table.slice(2 * 288))):
        pq.write_table(part, tmp_path / name, row_group_size=288, write_statistics=statistics)
    begin, end = (pd.Timestamp(text, tz="UTC").value // 1000 for text in ("2026-01-02T00:00", "2026-01-03T00:05"))
    read = pd.concat(iter_frames(tmp_path, period=(begin, end)), ignore_index=True)
    assert len(read) == (2 * 288 if statistics else 4 * 288)
    times = read["timestamp"].dt.tz_localize("UTC") if zone is None else read["timestamp"]
    assert ((times >= "2026-01-02T00:00Z") & (times < "2026-01-03T00:05Z")).sum() == 289
    last = pd.concat(iter_frames(tmp_path, period=(end - 1, end)))  # one microsecond before the end
    assert len(last) == (288 if statistics else 4 * 288)
    if statistics:
        assert list(iter_frames(tmp_path, period=(0, begin - 86_400_000_000))) == []


def test_a_file_that_may_not_be_read_is_not_called_damaged():
    error = unreadable("fleet.parquet", PermissionError(13, "Permission denied"))
    assert "permission" in error.what and "chmod" in error.fix and "damaged" not in str(error)


def test_a_byte_that_flipped_on_the_disk_is_never_read_as_a_value(tmp_path):
    path = tmp_path / "server_metrics.parquet"
    with open_writer(path) as writer:
        writer.write(make_fleet(hours=24))
    whole, rows = path.read_bytes(), read_frame(path)
    noticed = 0
    for place in np.random.default_rng(1).integers(100, len(whole) - 4_000, 40):  # before the footer
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(bytes(damaged))
        for read in (read_frame, lambda file: pd.concat(iter_frames(file), ignore_index=True)):
            try:
                assert read(path)[list(rows)].equals(rows)  # what flipped is no value, such as a statistic of a page
            except DataFileError as error:
                noticed += "cannot be read" in str(error)
    assert noticed > 60
