"""What still stands in the pages of a damaged SQLite file and its write-ahead log, read without SQLite.

SQLite gives up a table below the first page that it cannot trust; every page can be read on its own, though. Knows
nothing of what the records mean.

Source: Database File Format, https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100
TABLE_LEAF, INDEX_LEAF, INDEX_INTERIOR = 0x0D, 0x0A, 0x02

_USUAL_PAGE_SIZE = 4096
_WAL_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")
_WAL_MAGIC = 0x377F0682  # its last bit tells the byte order of the checksums
_WAL_VERSION = 3_007_000
_SERIAL_BYTES = np.array([0, 1, 2, 3, 4, 6, 8, 8, 0, 0], np.int64)  # of serial types 0 to 9: NULL and numbers
_BEYOND = 128  # zero bytes behind each page, so that a damaged offset never reads another page

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


def header_is_sound(header: bytes) -> bool:
    """Whether the first 100 bytes are those of a database that SQLite would read and write as it is.

    What they say of the file's content is not judged.
    """
    if len(header) < HEADER_BYTES or header[:16] != MAGIC:
        return False
    return (
        _page_size(header) is not None
        and header[18] in {1, 2}  # versions of the format: above, SQLite would not write
        and header[19] in {1, 2}
        and header[20] == 0
        and tuple(header[21:24]) == (64, 32, 32)
        and header[44:48] in {bytes(4), b"\0\0\0\1", b"\0\0\0\2", b"\0\0\0\3", b"\0\0\0\4"}
        and header[56:60] in {bytes(4), b"\0\0\0\1"}  # UTF-8, or no table yet
    )


def _page_size(header: bytes) -> int | None:
    size = int.from_bytes(header[16:18], "big")
    size = 65_536 if size == 1 else size
    return size if 512 <= size <= 65_536 and size & (size - 1) == 0 else None


@dataclass(frozen=True)
class IndexCells:
    """Records of index pages (those of tables WITHOUT ROWID, too), as numbers.

    Attributes
    ----------
    pages : int64 array, (n_cells,)
        Place of each cell's page among those that were given.
    types : uint8 array, (n_cells, n_columns)
        Serial types: 0 NULL, 1 to 6 integers, 7 a float, 8 and 9 the integers 0 and 1.
    values : int64 array, (n_cells, n_columns)
        Integers; of a float its 64 bits.
    is_whole : bool array, (n_cells,)
        False where there is no record of so many numbers; values and types mean nothing then.
    offsets : int64 array, (n_cells,)
        Where in its page each cell begins.
    """

    pages: Integers
    types: Bytes
    values: Integers
    is_whole: npt.NDArray[np.bool_]
    offsets: Integers


class PageFile:
    """Pages of a database file as its newest transaction left them, whatever state they are in.

    Pages that the write-ahead log beside it holds in sound, committed frames take the place of those in the file. What
    the file lacks at its end is read as zeros.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
        If the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal_path = path.with_name(path.name + "-wal")
        self._frames, wal_page_size = committed_frames(self._wal_path)
        with path.open("rb") as stream:
            header = stream.read(HEADER_BYTES)
        told = _page_size(header) if header[:16] == MAGIC else None
        self.page_size = wal_page_size or told or _USUAL_PAGE_SIZE
        self.size = path.stat().st_size
        self.count = max([-(-self.size // self.page_size), *self._frames])

    def blocks(self, pages_at_once: int) -> Iterator[tuple[int, Bytes]]:
        """Number of the first page of a block (they count from 1), and the block's pages."""
        with self._path.open("rb") as stream:
            for first in range(1, self.count + 1, pages_at_once):
                pages = min(pages_at_once, self.count + 1 - first)
                stream.seek((first - 1) * self.page_size)
                content = stream.read(pages * self.page_size)
                block = np.zeros((pages, self.page_size), np.uint8)
                block.reshape(-1)[: len(content)] = np.frombuffer(content, np.uint8)
                for number in self._frames.keys() & set(range(first, first + pages)):
                    block[number - first] = np.frombuffer(self._frame(number), np.uint8)
                yield first, block

    def page(self, number: int) -> bytes:
        """One page."""
        if number in self._frames:
            return self._frame(number)
        with self._path.open("rb") as stream:
            stream.seek((number - 1) * self.page_size)
            return stream.read(self.page_size).ljust(self.page_size, b"\0")

    def free_pages(self) -> set[int]:
        """Pages that held what was deleted; none if the list of them is not as long as the file says."""
        free: set[int] = set()
        trunk, told = struct.unpack_from(">2I", self.page(1), 32)
        while 1 < trunk <= self.count and trunk not in free:
            free.add(trunk)
            content = self.page(trunk)
            entries = min(int.from_bytes(content[4:8], "big"), self.page_size // 4 - 2)
            leaves = struct.unpack_from(f">{entries}I", content, 8)
            free.update(leaf for leaf in leaves if 1 < leaf <= self.count)
            trunk = int.from_bytes(content[:4], "big")
        return free if len(free) == told else set()

    def _frame(self, number: int) -> bytes:
        with self._wal_path.open("rb") as stream:
            stream.seek(self._frames[number])
            return stream.read(self.page_size)


def committed_frames(path: Path) -> tuple[dict[int, int], int | None]:
    """Place in a write-ahead log of the newest committed content of each page, as SQLite would recover it.

    Returns
    -------
    dict
        Number of a page → byte offset of its content. Frames count up to the last commit before the first frame whose
        checksum is wrong.
    int or None
        Bytes per page, None if there is no log that could be read.
    """
    try:
        content = memoryview(path.read_bytes())
    except OSError:
        return {}, None
    if len(content) < _WAL_HEADER.size:
        return {}, None
    magic, version, page_size, _, *salts, sum_0, sum_1 = _WAL_HEADER.unpack_from(content)
    order = ">" if magic & 1 else "<"
    checks = _checksum(content[:24], order, (0, 0))
    if magic & ~1 != _WAL_MAGIC or version != _WAL_VERSION or checks != (sum_0, sum_1):
        return {}, None
    committed: dict[int, int] = {}
    waiting: dict[int, int] = {}
    length = _FRAME_HEADER.size + page_size
    for start in range(_WAL_HEADER.size, len(content) - length + 1, length):
        number, size_after, *frame_salts, sum_0, sum_1 = _FRAME_HEADER.unpack_from(content, start)
        if frame_salts != salts:
            break
        checks = _checksum(content[start : start + 8], order, checks)
        checks = _checksum(content[start + _FRAME_HEADER.size : start + length], order, checks)
        if checks != (sum_0, sum_1):
            break
        waiting[number] = start + _FRAME_HEADER.size
        if size_after:
            committed.update(waiting)
            waiting.clear()
    return committed, page_size


def _checksum(content: memoryview, order: str, start: tuple[int, int]) -> tuple[int, int]:
    first, second = start
    words = struct.unpack(f"{order}{len(content) // 4}I", content)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


# ------------------------------------------------------------------------------------------------------------- records
def index_cells(pages: Bytes, columns: int) -> IndexCells:
    """Records of all index pages among the given ones, interior pages included; cells of other shapes are not whole.

    Parameters
    ----------
    pages : uint8 array, (n_pages, page_size)
    columns : int
        Numbers in each record, at most 12, so that neither a record nor its head needs a length of two bytes.
    """
    size = pages.shape[1]
    padded = np.pad(pages, ((0, 0), (0, _BEYOND)))
    is_interior = pages[:, 0] == INDEX_INTERIOR
    head = np.where(is_interior, 12, 8)
    counts = (pages[:, 3].astype(np.int64) << 8) | pages[:, 4]
    counts[~(is_interior | (pages[:, 0] == INDEX_LEAF)) | (head + counts * 2 > size)] = 0

    at = np.repeat(np.arange(len(pages)), counts)  # (n_cells,)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    pointer = head[at] + 2 * place
    offsets = (pages[at, pointer].astype(np.int64) << 8) | pages[at, pointer + 1]
    inside = (offsets >= head[at] + 2 * counts[at]) & (offsets < size)
    begin = np.where(inside, offsets, 0) + np.where(is_interior[at], 4, 0)  # behind the pointer to a child

    record = begin + 1
    types = padded[at[:, None], record[:, None] + 1 + np.arange(columns)]  # (n_cells, n_columns)
    lengths = _SERIAL_BYTES[np.minimum(types, 9)]
    body = record + 1 + columns
    ends = body + lengths.sum(1)
    is_whole = (
        inside
        & (padded[at, record] == 1 + columns)
        & (types <= 9).all(1)
        & (padded[at, begin] == ends - record)
        & (ends <= size)
    )
    starts = np.minimum(body[:, None] + np.cumsum(lengths, 1) - lengths, size + _BEYOND - 8)
    raw = padded[at[:, None, None], starts[:, :, None] + np.arange(8)]  # (n_cells, n_columns, 8)
    words = raw.view(">i8")[:, :, 0].astype(np.int64)
    values = np.where(lengths > 0, words >> (64 - 8 * np.maximum(lengths, 1)), types == 9)
    return IndexCells(at, types, values, is_whole, offsets)


def text_records(page: bytes, kind: int, shape: str) -> Iterator[tuple[int, list[str]]]:
    """Number and texts of each record of a leaf page that has the given shape and lies on the page whole.

    Parameters
    ----------
    page : bytes
    kind : int
        `TABLE_LEAF`, whose records have a number of their own, or `INDEX_LEAF`, whose last column it is.
    shape : str
        One letter per column: `n` (NULL), `t` (text) or `i` (integer).
    """
    if page[0] != kind:
        return
    count = int.from_bytes(page[3:5], "big")
    for pointer in range(8, min(8 + 2 * count, len(page) - 1), 2):
        try:
            record = _text_record(page, int.from_bytes(page[pointer : pointer + 2], "big"), kind, shape)
        except (IndexError, UnicodeDecodeError):  # it reaches beyond the page, or is no text
            continue
        if record is not None:
            yield record


def _text_record(page: bytes, at: int, kind: int, shape: str) -> tuple[int, list[str]] | None:
    length, at = _varint(page, at)
    number = 0
    if kind == TABLE_LEAF:
        number, at = _varint(page, at)
    end = at + length
    if end > len(page):
        return None
    head, at_type = _varint(page, at)
    at_value = at + head
    texts: list[str] = []
    for letter in shape:
        serial, at_type = _varint(page, at_type)
        if letter == "t" and serial >= 13 and serial % 2:
            width = (serial - 13) // 2
            texts.append(page[at_value : at_value + width].decode("utf-8"))
        elif letter == "i" and serial in {1, 2, 3, 4, 5, 6, 8, 9}:
            width = int(_SERIAL_BYTES[serial])
            number = (
                serial - 8 if serial >= 8 else int.from_bytes(page[at_value : at_value + width], "big", signed=True)
            )
        elif letter == "n" and serial == 0:
            width = 0
        else:
            return None
        at_value += width
    return (number, texts) if at_type == at + head and at_value == end else None


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """A number of 1 to 9 bytes, and where it ends."""
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | page[place] & 0x7F
        if page[place] < 0x80:
            return value, place + 1
    return value << 8 | page[at + 8], at + 9


def _self_check() -> None:
    import sqlite3
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.sqlite3"
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE t (a INTEGER, b REAL, PRIMARY KEY (a, b)) WITHOUT ROWID")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(number, number / 4) for number in range(-9, 999)])
        connection.commit()
        connection.close()
        assert header_is_sound(path.read_bytes()[:HEADER_BYTES])
        file = PageFile(path)
        cells = [index_cells(pages, 2) for _, pages in file.blocks(2)]
        found = [value for part in cells for value in part.values[part.is_whole, 0].tolist()]
        assert sorted(found) == list(range(-9, 999)) and file.free_pages() == set()
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
