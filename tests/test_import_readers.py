"""Sources of every size and kind are read in bounded time and memory, or refused with a reason, and nothing is left."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from import_helpers import PLAIN, THREE_FILES, mapping, refused, run, run_file
from peak_memory import PEAK_MB

from data_contract import DataFileError, ImportMappingError
from metrics_importer import import_files

ROOT = Path(__file__).resolve().parent.parent
CHILD = f"""{PEAK_MB}
import json, sys
sys.path.insert(0, sys.argv[1])
from data_contract import ProductError
from metrics_importer import import_files, parse_mapping
wanted = parse_mapping(
    {{"time": {{"column": "time"}}, "server": {{"column": "host"}}, "metrics": {{"cpu_pct": {{"column": "cpu"}}}}}}
)
answer = {{}}
try:
    answer["rows"] = import_files(sys.argv[2], wanted, sys.argv[3]).rows_out
except ProductError as error:
    answer["error"] = str(error)
print(json.dumps({{**answer, "peak_mb": peak_mb()}}))
"""


def in_child(source: Path, out: Path) -> dict[str, float]:
    """What an import in a process of its own gave, and its peak memory."""
    command = [sys.executable, "-c", CHILD, str(ROOT), str(source), str(out)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# ------------------------------------------------------------------------------------------------------- wide and long
def test_a_header_longer_than_the_first_read_is_seen_whole(tmp_path):
    names = ["time", *(f"a column with quite a long name {number}" for number in range(5_000)), "host", "cpu"]
    row = ",".join(["2026-01-01", *["1"] * 5_000, "a", "7"])
    assert len(",".join(names)) > 2 * 65_536
    report, frame = run(tmp_path, ",".join(names) + "\n" + row + "\n")
    assert (report.rows_in, frame["cpu_pct"].tolist()) == (1, [7])


@pytest.mark.parametrize("columns", [10_001, 300_000, 1_000_000])
def test_a_csv_of_a_million_columns_is_refused_at_once(tmp_path, columns):
    header = ",".join(["time", "host", "cpu", *(f"m{number}" for number in range(columns))])
    with refused(DataFileError, "columns", "10,000"):
        run(tmp_path, f"{header}\n{'1,' * (columns + 2)}1\n")
    assert not (tmp_path / "out").exists()


def test_a_parquet_file_with_too_many_columns_or_too_large_a_footer_is_refused(tmp_path):
    wide = pa.table([pa.array([1.0])] * 10_500, names=[f"m{number}" for number in range(10_500)])
    pq.write_table(wide, tmp_path / "wide.parquet")
    with refused(DataFileError, "wide.parquet", "10,500 columns"):
        import_files(tmp_path / "wide.parquet", mapping(PLAIN), tmp_path / "out")
    with (tmp_path / "footer.parquet").open("wb") as stream:  # as long as its own footer says, without the work
        stream.write(b"PAR1")
        stream.truncate(40 << 20)
        stream.seek(0, os.SEEK_END)
        stream.write((39 << 20).to_bytes(4, "little") + b"PAR1")
    with refused(DataFileError, "footer.parquet", "39 MB"):
        import_files(tmp_path / "footer.parquet", mapping(PLAIN), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"time,host,cpu\n" + b"2026-01-01,a,5\n" * 9 + b"x" * (17 << 20),
        b'time,host,cpu\n2026-01-01,"a,5\n' + b"2026-01-01,a,5\n" * 1_200_000,
        b"x" * (17 << 20),
    ],
    ids=["a line without end", "a quote that is never closed", "no line at all"],
)
def test_lines_without_end_are_refused(tmp_path, content):
    with refused(DataFileError, "more than 4 MB"):
        run(tmp_path, content)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("first", ['"2026-01-01,a,5,x', '2026-01-01,a,"5,x', '2026-01-01,a,5,"x'])
def test_a_quote_that_takes_the_rows_after_it_into_its_field_is_refused(tmp_path, first):
    rows = "".join(f"2026-01-01T00:{minute:02d},a,5,x\n" for minute in range(60))
    with refused(DataFileError, "a quote is opened and not closed for 6"):
        run(tmp_path, f"time,host,cpu,note\n{first}\n{rows}".encode())
    assert not (tmp_path / "out").exists()


def test_texts_of_many_lines_may_stand_beside_metrics(tmp_path):
    trace = '"' + "in a call, of a call\n" * 200 + '"'
    report, _ = run(tmp_path, f"time,host,cpu,note\n2026-01-01,a,5,{trace}\n2026-01-02,a,5,x\n".encode())
    assert report.rows_out == 2


def test_a_packed_line_without_end_does_not_fill_the_memory_where_separators_are_replaced(tmp_path):
    source = tmp_path / "bomb.csv.gz"
    with gzip.open(source, "wb", compresslevel=1) as stream:
        stream.write(b"time host cpu\n2026-01-01T00:00:00Z a 5\n")
        for _ in range(200):
            stream.write(b"x" * 1_000_000)
    answer = in_child(source, tmp_path / "out")
    assert "more than 4 MB" in answer["error"] and answer["peak_mb"] < 400


def test_signs_that_end_lines_elsewhere_may_stand_in_names(tmp_path):
    text = "time,host,cpu\n2026-01-01,a\u2028b,5\n2026-01-01,a\x0cb,5\n2026-01-02,a\u2028b,6\n"
    report, frame = run(tmp_path, text)
    assert frame["server_name"].tolist() == ["a\u2028b", "a\u2028b"]
    assert report.rows_dropped == {"unusable_name": 1}  # a form feed is a control character


# -------------------------------------------------------------------------------------------------------------- memory
@pytest.mark.slow
def test_memory_does_not_grow_with_the_source_be_it_packed_text_or_one_row_group(tmp_path):
    def peaks(write) -> list[float]:
        found = []
        for rows in (800_000, 3_200_000):
            path = write(rows)
            answer = in_child(path, tmp_path / "out")
            assert answer["rows"] == rows
            found.append(answer["peak_mb"])
            path.unlink()
        return found

    def frame(rows: int) -> pd.DataFrame:  # as monitoring exports come: time after time, all servers
        moments = pd.Series(np.arange(rows) // 20 * 60_000_000 + 1_767_225_600_000_000)
        values = (np.arange(rows) % 997 / 10).astype(np.float32)
        return pd.DataFrame({"time": moments.astype("datetime64[us]"), "host": np.arange(rows) % 20, "cpu": values})

    def parquet(rows: int) -> Path:
        frame(rows).to_parquet(tmp_path / "one.parquet", row_group_size=rows)
        return tmp_path / "one.parquet"

    def packed_csv(rows: int) -> Path:
        with pa.CompressedOutputStream(str(tmp_path / "a.csv.gz"), "gzip") as stream:
            pa_csv.write_csv(pa.Table.from_pandas(frame(rows), preserve_index=False), stream)
        return tmp_path / "a.csv.gz"

    for write in (parquet, packed_csv):
        small, large = peaks(write)
        assert large < 600, write.__name__
        assert large < small + 200, write.__name__  # a run and a part; the rest of four times the rows is on disk


# ------------------------------------------------------------------------------------------------- folders and packing
def test_partitions_of_packed_csv_files_are_read_with_the_columns_that_folders_state(tmp_path):
    for number, (host, pack) in enumerate({"a": gzip.compress, "b c": bz2.compress}.items(), 1):
        folder = tmp_path / "fleet" / f"host={host.replace(' ', '%20')}" / "day=1"
        folder.mkdir(parents=True)
        name = {gzip.compress: "x.csv.gz", bz2.compress: "x.csv.bz2"}[pack]
        (folder / name).write_bytes(pack(f"time,cpu\n2026-01-0{number},{number}\n".encode()))
    _, frame = run_file(tmp_path / "fleet", mapping(PLAIN), tmp_path / "out")
    assert frame[["server_name", "cpu_pct"]].to_numpy().tolist() == [["a", 1], ["b c", 2]]


def test_rows_in_the_folder_of_those_without_a_value_have_no_server(tmp_path):
    for number, host in enumerate(("a", "__HIVE_DEFAULT_PARTITION__"), 1):
        folder = tmp_path / "fleet" / f"host={host}"
        folder.mkdir(parents=True)
        (folder / "x.csv").write_text(f"time,cpu\n2026-01-0{number},{number}\n")
    report, frame = run_file(tmp_path / "fleet", mapping(PLAIN), tmp_path / "out")
    assert frame["server_name"].tolist() == ["a"] and report.rows_dropped == {"unusable_name": 1}


# ---------------------------------------------------------------------------------------------------- sources that move
def rows_of(count: int) -> str:
    moments = pd.date_range("2026", periods=count, freq="min")
    return "time,host,cpu\n" + "".join(f"{moment},a,{number % 100}\n" for number, moment in enumerate(moments))


@pytest.mark.parametrize("kind", ["grows", "shrinks", "is replaced", "vanishes"])
def test_a_source_that_changes_half_way_is_refused_and_nothing_is_left(tmp_path, kind):
    source = tmp_path / "live.csv"
    source.write_text(rows_of(200_000))
    touched = []

    def meddle(done: int, total: int) -> None:
        if done and not touched:
            touched.append(done)
            if kind == "grows":
                with source.open("a") as stream:
                    stream.write("2027-01-01,a,5\n")
            elif kind == "shrinks":
                os.truncate(source, 9_000)
            elif kind == "is replaced":
                (tmp_path / "other").write_text(source.read_text())
                (tmp_path / "other").replace(source)
            else:
                source.unlink()

    with refused(DataFileError, "live.csv", "vanished while" if kind == "vanishes" else "changed while", "copy"):
        import_files(source, mapping(PLAIN), tmp_path / "out", progress=meddle)
    assert touched
    assert not (tmp_path / "out").exists()


def test_a_file_that_vanishes_before_its_turn_is_named(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(rows_of(100))

    def meddle(done: int, total: int) -> None:
        if done:
            (tmp_path / "b.csv").unlink(missing_ok=True)

    with refused(DataFileError, "b.csv"):
        import_files([tmp_path / "a.csv", tmp_path / "b.csv"], mapping(PLAIN), tmp_path / "out", progress=meddle)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------- targets that do not
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told_before_anything_is_read(tmp_path):
    (tmp_path / "a.csv").write_text(rows_of(10))
    (tmp_path / "locked").mkdir(mode=0o500)
    with refused(DataFileError, "cannot be written to", "Permission denied"):
        import_files(tmp_path / "a.csv", mapping(PLAIN), tmp_path / "locked" / "out")


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 12 MB, which only root can make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("a small disk cannot be mounted here: it takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("rows", [2_600_000, 600_000], ids=["while sorting", "while writing"])
def test_no_disk_left_is_told_and_leaves_what_was_there(tmp_path, small_disk, rows):
    run_file_text = "time,host,cpu\n2026-01-01,a,5\n"
    (tmp_path / "first.csv").write_text(run_file_text)
    import_files(tmp_path / "first.csv", mapping(PLAIN), small_disk / "out")
    before = {path.name: path.read_bytes() for path in (small_disk / "out").iterdir()}
    if rows < 1_000_000:  # too few to be sorted on disk: leave too little for the result
        (small_disk / "ballast").write_bytes(bytes(10 << 20))
    values = np.random.default_rng(1).random((rows,)) * 100
    moments = np.arange(rows) * 1_000_000 + 1_767_225_600_000_000
    table = pa.table({"time": pa.array(moments, pa.timestamp("us")), "host": pa.repeat("a", rows), "cpu": values})
    pq.write_table(table, tmp_path / "big.parquet")
    with refused(DataFileError, f"cannot be written to {small_disk / 'out'}: No space left on device", "--out_dir"):
        import_files(tmp_path / "big.parquet", mapping(PLAIN), small_disk / "out")
    assert {path.name: path.read_bytes() for path in (small_disk / "out").iterdir()} == before
    with refused(DataFileError, "No space left on device"):
        import_files(tmp_path / "big.parquet", mapping(PLAIN), small_disk / "new" / "below")
    assert not (small_disk / "new").exists()


def test_the_work_of_a_killed_import_is_removed_by_the_next_one(tmp_path):
    (tmp_path / "a.csv").write_text(rows_of(10))
    script = """
        import os, signal, sys
        sys.path.insert(0, sys.argv[1])
        from metrics_importer import import_files, load_preset, parse_mapping
        wanted = parse_mapping(
            {"time": {"column": "time"}, "server": {"column": "host"}, "metrics": {"cpu_pct": {"column": "cpu"}}}
        )
        import_files("a.csv", wanted, "out", lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done else None)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(ROOT)]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == -signal.SIGKILL
    (left,) = (tmp_path / "out").iterdir()
    assert left.name.startswith(".")
    long_ago = time.time() - 3_600
    os.utime(left, (long_ago, long_ago))
    import_files(tmp_path / "a.csv", mapping(PLAIN), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == THREE_FILES


def test_a_mapping_that_fits_nothing_leaves_no_folder(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with refused(ImportMappingError, "'x', 'y'"):
        import_files(tmp_path / "a.csv", mapping(PLAIN), tmp_path / "deep" / "er" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
