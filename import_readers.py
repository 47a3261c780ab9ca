"""How one file is read: which columns it has, and their cells in batches of Arrow arrays, in constant memory.

Text stays text here: turning cells into numbers and times is `import_cells.py`'s work.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from contract_parquet import unreadable
from data_contract import DataFileError, ImportMappingError
from import_mapping import SourceSection

DOCUMENT: Final = "Docs/IMPORTING.md"
BATCH_ROWS: Final = 262_144
_CSV_BLOCK_BYTES: Final = 4 << 20  # eight blocks are read ahead: 8 MB each would cost 100 MB more
_HEAD_BYTES: Final = 1 << 16
_LINE_BYTES: Final = _CSV_BLOCK_BYTES  # a line must fit into a block
_MOST_QUOTED_ROWS: Final = 10  # what holds more lines that look like rows is no text, but a quote that is not closed
_SHORT_BYTES: Final = 256  # cells are not looked through for lines up to this length
_MOST_COLUMNS: Final = 10_000
_FOOTER_BYTES: Final = 32 << 20  # measured: opening a footer takes ten times its size in memory
_SEPARATORS: Final = (",", ";", "\t", "|")
_UNIT_SEPARATOR: Final = "\x1f"  # stands for separators that Arrow cannot take: it reads single bytes only
CSV_ENDINGS: Final = (".csv", ".tsv")
PARQUET_ENDINGS: Final = (".parquet", ".pq")
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
COMPRESSED_ENDINGS: Final = (".gz", ".bz2", ".zst")


@dataclass(frozen=True)
class SourceFile:
    """A file to read; `constants` are columns that folder names like `host=web1` state (Hive partitioning)."""

    path: Path
    constants: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Some rows of a source: place of a column → its cells."""

    rows: int
    cells: dict[int, pa.Array]
    share_done: float  # of the file, 0–1


class Source(Protocol):
    """An open file whose columns are known."""

    names: list[str]
    types: list[pa.DataType]
    malformed_lines: int
    first_malformed: str

    def batches(self, wanted: Sequence[int], *, every_line_counts: bool) -> Iterator[Batch]:
        """Read the wanted columns."""
        ...  # pragma: no cover


class MisfitError(Exception):
    """A layout does not fit a file, with the reasons."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(*reasons)
        self.reasons = reasons


class FileState(NamedTuple):
    """What tells whether a file is still the same."""

    size: int
    modified_ns: int
    number: int  # of the file in its file system


def file_state(path: Path) -> FileState:
    """State of a file.

    Raises
    ------
    DataFileError
        If it cannot be looked at.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise unreadable_source(path, error.strerror or str(error)) from error
    return FileState(found.st_size, found.st_mtime_ns, found.st_ino)


def refuse_changed(path: Path, before: FileState) -> None:
    """A file that was written to or replaced while it was read.

    Raises
    ------
    DataFileError
        If its state is not as before, or it is gone.
    """
    try:
        same = file_state(path) == before
        reason = "it was changed while it was read"
    except DataFileError:
        same, reason = False, "it vanished while it was read"
    if not same:
        raise DataFileError(
            f"{path} cannot be imported: {reason}.",
            why="What was read is neither what was there before nor what is there now.",
            fix="Wait until nobody writes to it, or copy it and import the copy.",
            document=DOCUMENT,
        )


def kind_of(path: Path) -> str | None:
    """`csv`, `parquet` or None for an empty file, by the first bytes."""
    try:
        if not path.is_file():
            raise unreadable_source(path, "it is no regular file")
        with path.open("rb") as stream:
            head = stream.read(4)
    except OSError as error:
        if isinstance(error, DataFileError):
            raise
        raise unreadable_source(path, error.strerror or str(error)) from error
    if not head:
        return None
    if head == b"PAR1":
        return "parquet"
    if path.name.lower().endswith(PARQUET_ENDINGS):
        raise unreadable_source(path, "it ends in .parquet but does not begin like Parquet")
    if head.startswith(b"PK\x03\x04"):
        raise unreadable_source(path, "it is a ZIP archive or a spreadsheet: unpack it, or save the sheet as CSV")
    return "csv"


class ParquetSource:
    """A Parquet file."""

    malformed_lines = 0
    first_malformed = ""

    def __init__(self, file: SourceFile, section: SourceSection) -> None:
        del section  # says how text is read
        self._path = file.path
        try:
            _refuse_large_footer(file.path)
            with pq.ParquetFile(file.path) as parquet:
                _refuse_wide(file.path, parquet.metadata.num_columns)
                schema = parquet.schema_arrow
                self._rows = parquet.metadata.num_rows
        except DataFileError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise unreadable(file.path, error) from error
        self._constants = {name: value for name, value in file.constants.items() if name not in schema.names}
        self._own = list(schema.names)
        self.names = [*self._own, *self._constants]
        self.types = [*schema.types, *(pa.string() for _ in self._constants)]

    def batches(self, wanted: Sequence[int], *, every_line_counts: bool) -> Iterator[Batch]:
        """Read the wanted columns; texts that repeat are kept as codes."""
        del every_line_counts
        own = {place: self._own[place] for place in wanted if place < len(self._own)}
        texts = [name for place, name in own.items() if pa.types.is_string(self.types[place])]
        done = 0
        try:
            # Without pre-buffering a row group is read page by page, however large it is.
            options: Any = {"pre_buffer": False, "buffer_size": 1 << 20}
            with pq.ParquetFile(self._path, read_dictionary=texts, **options) as parquet:
                for record in parquet.iter_batches(batch_size=BATCH_ROWS, columns=list(own.values())):
                    done += record.num_rows
                    cells = {place: record.column(name) for place, name in own.items()}
                    cells |= _constant_cells(self, wanted, len(self._own), self._constants, record.num_rows)
                    yield Batch(record.num_rows, cells, done / max(self._rows, 1))
        except (pa.ArrowException, OSError) as error:
            raise unreadable(self._path, error) from error


def _refuse_large_footer(path: Path) -> None:
    """Opening a file takes time and memory for every column of every row group."""
    if path.stat().st_size < 12:  # no Parquet, as will be told
        return
    with path.open("rb") as stream:
        stream.seek(-8, os.SEEK_END)
        footer = int.from_bytes(stream.read(4), "little")
    if _FOOTER_BYTES < footer < path.stat().st_size:
        raise unreadable_source(
            path,
            f"its footer, which describes every column of every row group, has {footer >> 20:,} MB (at most "
            f"{_FOOTER_BYTES >> 20} MB are read): write the needed columns alone, in row groups of 100,000 rows",
        )


def _refuse_wide(path: Path, columns: int) -> None:
    if columns > _MOST_COLUMNS:
        raise unreadable_source(
            path,
            f"it has {columns:,} columns (at most {_MOST_COLUMNS:,} are read): write the needed ones alone, or one row "
            "per server and time if there is a column per server",
        )


class CsvSource:
    """A file of separated fields, all of them read as text."""

    def __init__(self, file: SourceFile, section: SourceSection) -> None:
        self._path, self._section = file.path, section
        self.malformed_lines = 0
        self.first_malformed = ""
        lines = self._head_lines()
        start = _first_line(lines, section)
        sample = [line for line in lines[start : start + 20] if line.strip()]
        self.separator = _guess_separator(sample, section) if section.separator == "auto" else section.separator
        if len(self.separator) > 1 and self.separator != "whitespace":
            self.separator = self.separator.strip() or self.separator[0]  # `;` and a tab: cells are trimmed anyway
        header = self._fields(sample[0]) if sample else []
        _refuse_wide(file.path, len(header))
        self.has_header = section.header
        self._skip_rows = start + 1 if section.header else start
        if section.header:
            own = header
        elif section.column_names:
            own = list(section.column_names)
            if len(own) != len(header):
                raise MisfitError(f"`source.column_names` names {len(own)} columns, but there are {len(header)}")
        else:
            own = [str(place) for place in range(1, len(header) + 1)]
        self._width = len(own)
        self._constants = {name: value for name, value in file.constants.items() if name not in own}
        self.names = [*own, *self._constants]
        self.types = [pa.string() for _ in self.names]

    def batches(self, wanted: Sequence[int], *, every_line_counts: bool) -> Iterator[Batch]:
        """Read the wanted columns; lines with another number of fields are counted and skipped.

        Where times are counted by lines, blank lines are kept as missing and malformed ones refused.
        """
        swallowed = ""  # what stands in a quote that is not closed

        def on_malformed(row: Any) -> str:
            nonlocal swallowed
            self.malformed_lines += 1
            if self._holds_rows(row.text or ""):
                swallowed = row.text
                return "error"
            self.first_malformed = self.first_malformed or f"{row.actual_columns} fields instead of {self._width}"
            return "error" if every_line_counts else "skip"

        places = [place for place in wanted if place < self._width]
        keys = [str(place) for place in places]
        # The last column is read in any case: a quote that is not closed there leaves the number of fields as it is
        read = list(dict.fromkeys([*keys, str(self._width - 1)]))
        arrow_separator = self._arrow_separator()
        try:
            size = max(self._path.stat().st_size, 1)
            with self._path.open("rb") as raw:
                stream: Any = _decompressed(raw)
                encoding = self._section.encoding
                if arrow_separator != self.separator:
                    stream, encoding = _Respaced(stream, encoding, self.separator, arrow_separator), "utf-8"
                reader = pa_csv.open_csv(
                    stream,
                    pa_csv.ReadOptions(
                        block_size=_CSV_BLOCK_BYTES,
                        skip_rows=self._skip_rows,
                        column_names=[str(place) for place in range(self._width)],
                        encoding=encoding,
                    ),
                    pa_csv.ParseOptions(
                        delimiter=arrow_separator,
                        quote_char=self._section.quote,
                        ignore_empty_lines=not every_line_counts,
                        invalid_row_handler=on_malformed,
                    ),
                    pa_csv.ConvertOptions(
                        column_types=dict.fromkeys(read, pa.string()), include_columns=read, strings_can_be_null=False
                    ),
                )
                for record in reader:
                    swallowed = next(filter(None, map(self._swallowed, record.columns)), "")
                    if swallowed:
                        raise pa.ArrowInvalid("a quote is not closed")
                    cells = {place: record.column(key) for place, key in zip(places, keys, strict=True)}
                    cells |= _constant_cells(self, wanted, self._width, self._constants, record.num_rows)
                    yield Batch(record.num_rows, cells, min(raw.tell() / size, 1.0))
        except (pa.ArrowException, UnicodeError, OSError, EOFError) as error:
            if "Empty CSV file" in str(error) or "Could not skip initial" in str(error):  # nothing after the header
                return
            if swallowed:
                begin = swallowed.lstrip().splitlines()[0][:80] if swallowed.strip() else ""
                raise unreadable_source(
                    self._path,
                    f"a quote is opened and not closed for {swallowed.count(chr(10)):,} lines, from {begin!r} on; "
                    "if quotes mean nothing in it, name another `source.quote`",
                ) from error
            if every_line_counts and self.malformed_lines:
                raise ImportMappingError(
                    f"{self._path} has a line with {self.first_malformed}.",
                    why="The times of this file are counted by its lines, so that none may be left out.",
                    fix="Correct the line; an empty field is a missing value.",
                ) from error
            raise self._unreadable(error) from error

    def _holds_rows(self, text: str) -> bool:
        """Whether a single field or row holds lines that look like rows: a quote was opened and not closed."""
        if text.count("\n") <= _MOST_QUOTED_ROWS:
            return False
        separator = self._arrow_separator()
        return sum(line.count(separator) == self._width - 1 for line in text.splitlines()) > _MOST_QUOTED_ROWS

    def _swallowed(self, column: pa.Array) -> str:
        """The first cell that holds rows; empty if there is none."""
        long = column.filter(pc.greater(pc.binary_length(column), _SHORT_BYTES))
        return next(filter(self._holds_rows, long.to_pylist()), "")

    def _head_lines(self) -> list[str]:
        """First lines, decoded; as many bytes as it takes to see the first data or column names whole."""
        size = _HEAD_BYTES
        while True:
            text, whole = self._head(size)
            lines = re.split(r"\r\n|\n|\r", text)  # other signs that may end a line can stand in names
            if not whole:
                del lines[-1:]  # it may go on
            if whole or _first_line(lines, self._section) < len(lines):
                return lines
            if size >= _LINE_BYTES:
                raise unreadable_source(
                    self._path,
                    f"its first line has more than {_LINE_BYTES >> 20} MB: there are no line breaks, or more than "
                    f"{_MOST_COLUMNS:,} columns",
                )
            size *= 4

    def _head(self, size: int) -> tuple[str, bool]:
        """Text of the first bytes, and whether that is all."""
        try:
            with self._path.open("rb") as raw:
                stream, head = _decompressed(raw), b""
                while len(head) < size and (piece := stream.read(size - len(head))):
                    head += piece
                whole = len(head) < size
                decoder = codecs.getincrementaldecoder(self._section.encoding)()
                text = decoder.decode(head, final=whole)
        except (pa.ArrowException, UnicodeError, OSError, EOFError) as error:
            raise self._unreadable(error) from error
        if "\0" in text:
            raise unreadable_source(self._path, f"it is binary, not {self._section.encoding} text")
        return text.removeprefix("\ufeff"), whole

    def _fields(self, line: str) -> list[str]:
        separator = self._arrow_separator()
        line = _respace(line, self.separator, separator)
        fields = next(csv.reader([line], delimiter=separator, quotechar=self._section.quote), [])
        return [field.strip() for field in fields]

    def _arrow_separator(self) -> str:
        if self.separator == "whitespace":
            return "\t"
        return self.separator if len(self.separator.encode()) == 1 else _UNIT_SEPARATOR

    def _unreadable(self, error: BaseException) -> DataFileError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnicodeError) or "UTF8" in reason or "UTF-8" in reason:
            reason = f"it is no {self._section.encoding} text ({reason}); if it is text, set `source.encoding`"
        elif "straddling" in reason or "out of sync" in reason:
            reason = f"a line has more than {_LINE_BYTES >> 20} MB, or a quote is never closed"
        return unreadable_source(self._path, reason)


class _Respaced(io.RawIOBase):
    """A text stream with separators that Arrow cannot take replaced by one that it can, as UTF-8 bytes."""

    def __init__(self, stream: Any, encoding: str, separator: str, replacement: str) -> None:
        self._reader = io.TextIOWrapper(stream, encoding, newline="")
        self._separator, self._replacement = separator, replacement
        self._rest = b""

    def readable(self) -> bool:
        """Whether it can be read from: it can."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes."""
        while not self._rest:
            lines = self._lines() if not self.closed else []
            if not lines:
                return 0
            self._rest = "".join(_respace(line, self._separator, self._replacement) for line in lines).encode()
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def _lines(self) -> list[str]:
        """The next lines, about a million characters; one that never ends must not fill the memory."""
        lines, size = [], 0
        while size < 1 << 20 and (line := self._reader.readline(_LINE_BYTES + 1)):
            if len(line) > _LINE_BYTES:
                raise OSError("straddling object: a line does not fit into a block")
            lines.append(line)
            size += len(line)
        return lines


def _first_line(lines: Sequence[str], section: SourceSection) -> int:
    """Place of the first line that holds something, after those to skip; the number of lines if there is none."""
    start = section.skip_lines
    while start < len(lines) and not lines[start].strip():
        start += 1
    return min(start, len(lines))


def _respace(line: str, separator: str, replacement: str) -> str:
    if separator == replacement:
        return line
    if separator == "whitespace":
        ending = "\n" if line.endswith(("\n", "\r")) else ""
        return re.sub(r"\s+", replacement, line.strip()) + ending
    return line.replace(separator, replacement)


def _guess_separator(sample: list[str], section: SourceSection) -> str:
    """The separator that divides the first lines into the same number of fields, most likely one first."""

    def widths(separator: str) -> list[int]:
        return [len(fields) for fields in csv.reader(sample, delimiter=separator, quotechar=section.quote)]

    candidates = [c for c in _SEPARATORS if sample and c in sample[0] and not (c == "," and section.decimal == ",")]
    if candidates:
        return max(candidates, key=lambda c: (-len(set(widths(c))), widths(c)[0], -_SEPARATORS.index(c)))
    words = {len(line.split()) for line in sample}
    return "whitespace" if len(words) == 1 and words != {1} else ","


def _decompressed(raw: BinaryIO) -> Any:
    """The stream itself, or what it unpacks to."""
    head = raw.read(4)
    raw.seek(0)
    for magic, codec in _COMPRESSED.items():
        if head.startswith(magic):
            return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)
    return raw


def _constant_cells(
    source: Source, wanted: Sequence[int], own: int, constants: dict[str, str], rows: int
) -> dict[int, pa.Array]:
    return {place: pa.repeat(constants[source.names[place]], rows) for place in wanted if place >= own}


def unreadable_source(path: str | os.PathLike[str], reason: str) -> DataFileError:
    """Error for a file that is there but cannot be used."""
    return DataFileError(
        f"{path} cannot be read: {reason}.",
        why="Rows that cannot be read for certain must not be learned from.",
        fix="Check that the file is whole and is CSV (or other separated text) or Parquet.",
        document=DOCUMENT,
    )


def _self_check() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_text("t;s ;c\n2026-01-01;a;5\n2026-01-01;b\n", encoding="utf-8")
        source = CsvSource(SourceFile(path, {"site": "x"}), SourceSection())
        assert source.names == ["t", "s", "c", "site"]
        batches = list(source.batches([2, 3], every_line_counts=False))
        assert [batch.cells[2].to_pylist() for batch in batches] == [["5"]]
        assert batches[0].cells[3].to_pylist() == ["x"]
        assert source.malformed_lines == 1
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
