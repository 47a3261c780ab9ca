"""Rows come back in order from runs on disk, whatever their number and whichever order they came in."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peak_memory import PEAK_MB

from import_report import Tally
from import_rows import Gaps, Rows, concatenated, regrouped, settled
from import_runs import Runs

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["web", "db", "app", "é"]
ROW = st.tuples(
    st.integers(0, 3), st.integers(0, 6), st.sampled_from([None, 1.0, 2.0]), st.sampled_from([None, 3.0, 4.0])
)


def piece(rows: list[tuple[int, int, float | None, float | None]], *, memory: bool = True) -> Rows:
    columns = list(zip(*rows, strict=True))
    metrics = {"cpu_pct": np.array(columns[2], np.float32)}
    if memory:
        metrics["mem_pct"] = np.array(columns[3], np.float32)
    return Rows(
        np.array(columns[0], np.int32), np.array(columns[1], np.int64), metrics, None, np.zeros(len(rows), np.bool_)
    )


def one_by_one(rows: list[tuple[int, int, float | None, float | None]]) -> tuple[dict, dict[str, int], int]:
    """What the rules say, row by row: rows by (name, time), counts, and rows after a later one of their server."""
    found: dict[tuple[str, int], list[float | None]] = {}
    counts = {"conflict": 0, "merged": 0, "duplicate": 0}
    newest: dict[int, int] = {}
    late = 0
    for server, time, *values in rows:
        late += time < newest.get(server, -1)
        newest[server] = max(newest.get(server, -1), time)
        key = (NAMES[server], time)
        if key not in found:
            found[key] = list(values)
            continue
        pairs = list(zip(found[key], values, strict=True))
        contradicts = any(old is not None and new is not None and old != new for old, new in pairs)
        gives = any(old is None and new is not None for old, new in pairs)
        counts["conflict" if contradicts else "merged" if gives else "duplicate"] += 1
        found[key] = [new if old is None else old for old, new in pairs]
    return found, {rule: count for rule, count in counts.items() if count}, late


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(ROW, min_size=1, max_size=60),
    piece_rows=st.integers(1, 9),
    run_rows=st.integers(1, 30),
    part_rows=st.integers(1, 12),
    stride=st.integers(1, 4),
)
def test_any_division_into_runs_and_parts_gives_what_reading_row_by_row_gives(
    rows, piece_rows, run_rows, part_rows, stride, tmp_path_factory
):
    tally = Tally()
    folder = tmp_path_factory.mktemp("runs")
    with contextlib.closing(Runs(folder, NAMES, run_rows, part_rows, stride)) as runs:
        for begin in range(0, len(rows), piece_rows):
            runs.add(piece(rows[begin : begin + piece_rows]))
        names = [NAMES[code] for code in runs.servers()]
        done = concatenated(list(regrouped(settled(runs.in_order(), names, tally), 5)))
    expected, counts, late = one_by_one(rows)
    assert runs.rows == len(rows)
    assert runs.late == late
    assert tally.rows == counts
    assert names == sorted({NAMES[server] for server, *_ in rows})
    assert [(names[code], time) for code, time in zip(done.server, done.time, strict=True)] == sorted(expected)
    for place, metric in enumerate(("cpu_pct", "mem_pct")):
        wanted = [expected[key][place] for key in sorted(expected)]
        np.testing.assert_array_equal(done.metrics[metric], np.array(wanted, np.float32))
    assert list(folder.iterdir()) == []


def test_one_server_is_divided_by_time_and_one_moment_by_arrival(tmp_path):
    rows = [(0, time, float(time), None) for time in range(200)] + [(0, 77, 77.0, None)] * 300
    with contextlib.closing(Runs(tmp_path, NAMES, 100, 20, 2)) as runs:
        for begin in range(0, len(rows), 10):
            runs.add(piece(rows[begin : begin + 10]))
        parts = list(runs.in_order())
        assert max(map(len, parts)) <= 40
        for before, after in pairwise(parts):
            assert before.time[-1] <= after.time[0]
        tally = Tally()
        done = concatenated(list(settled(runs.in_order(), ["web"], tally)))
    assert done.time.tolist() == list(range(200))
    assert tally.rows == {"duplicate": 300}


def test_columns_that_only_some_pieces_have_are_missing_in_the_others(tmp_path):
    with contextlib.closing(Runs(tmp_path, NAMES, 1, 100)) as runs:
        runs.add(piece([(0, 2, 1.0, None)], memory=False))
        runs.add(piece([(0, 1, 2.0, 5.0)]))
        stated = piece([(0, 3, 2.0, 5.0)])
        stated.state = np.array([4], np.int8)
        runs.add(stated)
        done = concatenated(list(runs.in_order()))
    np.testing.assert_array_equal(done.metrics["mem_pct"], np.array([5.0, np.nan, 5.0], np.float32))
    assert done.state is not None
    assert done.state.tolist() == [-1, -1, 4]


@given(st.lists(st.integers(0, 50), min_size=2, max_size=40).map(sorted), st.integers(1, 7))
def test_the_median_gap_is_that_of_all_rows(times, size):
    gaps = Gaps()
    for begin in range(0, len(times), size):
        some = np.array(times[begin : begin + size], np.int64)
        gaps.add(np.zeros(len(some), np.int32), some)
    assert gaps.median() == np.median(np.diff(times))


def test_gaps_that_are_all_different_are_counted_less_precisely_instead_of_filling_the_memory():
    rng = np.random.default_rng(1)
    gaps = Gaps()
    exact = rng.integers(290_000_000, 310_000_000, 600_000)
    times = np.cumsum(exact)
    for part in np.array_split(times, 4):
        gaps.add(np.zeros(len(part), np.int32), part)
    assert gaps.median() == pytest.approx(np.median(np.diff(times)), abs=1_000)


def test_rows_of_different_servers_make_no_gap():
    gaps = Gaps()
    gaps.add(np.array([0, 1, 2], np.int32), np.array([1, 2, 3]))
    assert gaps.median() is None


def test_memory_does_not_grow_with_the_rows_even_of_a_single_server(tmp_path):
    script = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import numpy as np
        from pathlib import Path
        from import_report import Tally
        from import_rows import Rows, regrouped, settled
        from import_runs import Runs
        runs = Runs(Path(sys.argv[2]), ["a"])
        size, rng = 1 << 18, np.random.default_rng(1)
        for number in range(int(sys.argv[3])):
            time = rng.integers(0, 1 << 50, size)
            values = {name: time.astype(np.float32) for name in ("cpu_pct", "mem_pct", "disk_io_mb_s")}
            runs.add(Rows(np.zeros(size, np.int32), time, values, None, np.zeros(size, np.bool_)))
        done = sum(len(rows) for rows in regrouped(settled(runs.in_order(), ["a"], Tally()), size))
        assert done > 0.99 * runs.rows, done
        print(peak_mb())
    """

    def peak_mb(pieces: int) -> float:
        command = [sys.executable, "-c", PEAK_MB + textwrap.dedent(script), str(ROOT), str(tmp_path), str(pieces)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    small, large = peak_mb(12), peak_mb(32)  # 3.1 and 8.4 million rows of 33 bytes
    assert large < small + 60
