"""Pages of SQLite files read without SQLite: what SQLite wrote is what is read."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from sqlite_pages import (
    HEADER_BYTES,
    INDEX_LEAF,
    TABLE_LEAF,
    PageFile,
    committed_frames,
    header_is_sound,
    index_cells,
    text_records,
)

NUMBERS = [0, 1, -1, 127, -128, 32_767, -32_768, 2**23 - 1, -(2**23), 2**31 - 1, 2**47 - 1, -(2**47), 2**62, -(2**63)]


def make(path: Path, page_size: int = 4096) -> list[tuple[int, float | None]]:
    rows = [(number + shift, value) for shift in range(400) for number in NUMBERS[:-2] for value in (None, shift / 8)]
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA page_size = {page_size}")
    connection.execute("CREATE TABLE t (n INTEGER, v REAL, k INTEGER, PRIMARY KEY (n, k)) WITHOUT ROWID")
    connection.execute("BEGIN")
    for key, (number, value) in enumerate(rows):
        connection.execute("INSERT INTO t VALUES (?, ?, ?)", (number, value, key))
    connection.execute("COMMIT")
    connection.close()
    return rows


def read(path: Path) -> list[tuple[int, float | None]]:
    found = []
    for _, pages in PageFile(path).blocks(7):
        cells = index_cells(pages, 3)
        for types, (number, _, bits) in zip(
            cells.types[cells.is_whole].tolist(), cells.values[cells.is_whole].tolist(), strict=True
        ):
            value = np.int64(bits).view(np.float64).item() if types[2] == 7 else None if types[2] == 0 else float(bits)
            found.append((number, value))
    return found


@pytest.mark.parametrize("page_size", [512, 4096, 65_536])
def test_numbers_of_every_length_are_read_from_pages_of_any_size(tmp_path: Path, page_size: int) -> None:
    rows = make(tmp_path / "a", page_size)
    # the primary key of a table WITHOUT ROWID comes first: n, k, v
    assert sorted(read(tmp_path / "a"), key=str) == sorted(rows, key=str)


def test_the_log_takes_the_place_of_pages_and_uncommitted_frames_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a"
    rows = make(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("UPDATE t SET v = 0.125 WHERE k % 10 = 0")
    connection.execute("PRAGMA cache_size = 1")  # what is not committed reaches the log, too
    connection.execute("BEGIN")
    connection.execute("UPDATE t SET v = 77.5")
    frames, page_size = committed_frames(tmp_path / "a-wal")
    assert page_size == 4096 and frames
    expected = [(number, 0.125 if key % 10 == 0 else value) for key, (number, value) in enumerate(rows)]
    assert sorted(read(path), key=str) == sorted(expected, key=str)
    connection.execute("ROLLBACK")
    connection.close()


def test_there_is_no_log_in_rubbish(tmp_path: Path) -> None:
    assert committed_frames(tmp_path / "absent") == ({}, None)
    for content in (b"", b"\0" * 40, b"\xff" * 9_000):
        (tmp_path / "rubbish").write_bytes(content)
        assert committed_frames(tmp_path / "rubbish") == ({}, None)


def test_random_bytes_are_read_without_harm(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in (TABLE_LEAF, INDEX_LEAF, 2):
        pages = rng.integers(0, 256, (64, 4096), dtype=np.uint8)
        pages[:, 0] = kind
        cells = index_cells(pages, 8)
        assert cells.is_whole.sum() < 5
        for page in pages:
            list(text_records(page.tobytes(), kind, "ntt"))
    (tmp_path / "a").write_bytes(pages.tobytes())
    assert PageFile(tmp_path / "a").free_pages() == set()


def test_names_are_read_from_tables_and_indexes(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "a")
    connection.execute("CREATE TABLE s (id INTEGER PRIMARY KEY, name TEXT UNIQUE, profile TEXT)")
    names = ["a", "ß" * 120, "x" * 253, "ö"]
    connection.executemany("INSERT INTO s VALUES (?, ?, 'p')", [(7**k, name) for k, name in enumerate(names)])
    connection.commit()
    connection.close()
    file = PageFile(tmp_path / "a")
    expected = {7**k: name for k, name in enumerate(names)}
    assert {key: name for key, (name, _) in text_records(file.page(2), TABLE_LEAF, "ntt")} == expected
    assert {key: name for key, (name,) in text_records(file.page(3), INDEX_LEAF, "ti")} == expected
    assert list(text_records(file.page(2), TABLE_LEAF, "nt")) == []


def test_free_pages_are_those_that_sqlite_counts(tmp_path: Path) -> None:
    make(tmp_path / "a")
    connection = sqlite3.connect(tmp_path / "a", isolation_level=None)
    connection.execute("DELETE FROM t WHERE n > 0")
    count = connection.execute("PRAGMA freelist_count").fetchone()[0]
    connection.close()
    assert len(PageFile(tmp_path / "a").free_pages()) == count > 10


def test_heads_that_sqlite_would_not_write_are_unsound(tmp_path: Path) -> None:
    make(tmp_path / "a")
    head = (tmp_path / "a").read_bytes()[:HEADER_BYTES]
    assert header_is_sound(head) and not header_is_sound(head[:99])
    for place, value in ((0, 0), (16, 3), (18, 3), (19, 9), (20, 1), (21, 63), (47, 200), (59, 2)):
        assert not header_is_sound(head[:place] + bytes([value]) + head[place + 1 :]), place
