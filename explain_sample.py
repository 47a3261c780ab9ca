"""What a bounded sample of an unknown file looks like: encoding, separator, header, decimal sign, and its cells.

Some megabytes of the beginning and a few places further on are read, never the whole file. What the columns mean is
decided elsewhere.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from contract_parquet import unreadable
from data_contract import DataFileError
from explain_layout import LINES_TO_JUDGE, decimal_of, layout_of, separator_of, split_lines
from import_mapping import parse_mapping
from import_sources import DOCUMENT, SourceFile, find_files

HEAD_BYTES: Final = 4 << 20
_PLACE_BYTES: Final = 256 << 10  # at each of the places further on
_PLACES: Final = (1 / 3, 2 / 3, 1.0)  # share of the file
MAX_ROWS: Final = 20_000
_MAX_CELLS: Final = 2_000_000
MAX_COLUMNS: Final = 1_000  # that are looked at
_MAX_HEADER_BYTES: Final = 1 << 20
_MAX_NAMES: Final = 100_000  # columns that a text file may have
_MAX_FOOTER_BYTES: Final = 64 << 20  # of Parquet: some 100,000 columns
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
_OTHER_KINDS: Final = {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet: unpack it, or save the sheet as CSV",
    b"\xfd7zXZ": "packed with xz: unpack it, or pack it with gzip or zstd",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"\x04\x22\x4d\x18": "packed with lz4: unpack it, or pack it with gzip or zstd",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet: save the sheet as CSV",
    b"SQLite format 3": "an SQLite database: export the table as CSV",
    b"ARROW1": "an Arrow file: write it as Parquet",
    b"ORC": "an ORC file: write it as Parquet",
    b"Obj\x01": "an Avro file: write it as Parquet",
    b"%PDF": "a PDF document: export the table as CSV",
    b"\x89PNG": "a picture",
    b"\x7fELF": "a program",
    b"\x89HDF": "an HDF5 file: write it as Parquet",
}
_OPENED: Final = 5  # files of a folder that are opened to find one with rows
_PROBE: Final[dict[str, Any]] = {  # fits anything: only what files are called matters
    "time": {"start": datetime(2000, 1, 1, tzinfo=timezone.utc), "interval_minutes": 5},
    "server": {"name": "probe"},
    "metrics": {"cpu_pct": {"column": 1}},
}


@dataclass(frozen=True)
class Column:
    """One column of a sample: its place counted from 0, its name and its cells."""

    place: int
    name: str
    cells: pa.Array


@dataclass(frozen=True)
class Sample:
    """What was read of a file.

    Attributes
    ----------
    file : SourceFile
        Where it is.
    kind : str
        `csv` or `parquet`.
    names : list of str
        All columns; those that folder names state come last.
    columns : list of Column
        The columns that are looked at, at most `MAX_COLUMNS`.
    rows, rows_in_all : int, int or None
        Rows that were sampled, and that there are if that is known.
    bytes_per_row : float
        Of text, in the file; 0 if it is not known.
    encoding, separator, has_header, skip_lines, decimal
        How text is to be read, in the words of a mapping's `[source]`.
    warnings : tuple of str
        What is odd about the file.
    """

    file: SourceFile
    kind: str
    names: list[str]
    columns: list[Column]
    rows: int
    rows_in_all: int | None
    bytes_per_row: float = 0.0
    encoding: str = "utf-8"
    separator: str = ","
    has_header: bool = True
    skip_lines: int = 0
    decimal: str = "."
    warnings: tuple[str, ...] = ()

    def source_section(self) -> dict[str, Any]:
        """`[source]` of a mapping that reads the file like this."""
        if self.kind == "parquet":
            return {"format": "parquet"}
        section: dict[str, Any] = {"format": "csv", "separator": self.separator}
        if not self.has_header:
            section["header"] = False
        if self.skip_lines:
            section["skip_lines"] = self.skip_lines
        if self.encoding != "utf-8":
            section["encoding"] = self.encoding
        if self.decimal != ".":
            section["decimal"] = self.decimal
        return section

    def reference(self, place: int) -> str | int:
        """How a mapping names a column: by its name where that is unique and can be typed, else by its place."""
        name = self.names[place]
        same = sum(other.casefold() == name.casefold() for other in self.names)
        typed = name.isprintable() and name == name.strip() and 0 < len(name) <= 200
        by_name = typed and same == 1 and (self.kind == "parquet" or self.has_header or place >= self._own)
        return name if by_name else place + 1

    @property
    def _own(self) -> int:
        return len(self.names) - sum(name in self.file.constants for name in self.names)


def read_sample(file: SourceFile, interesting: Callable[[str], bool]) -> Sample | None:
    """Sample a file; None if it is empty.

    Parameters
    ----------
    file : SourceFile
        File to look at.
    interesting : callable
        Which columns to look at beyond the first `MAX_COLUMNS / 2`, by name.

    Raises
    ------
    DataFileError
        If it cannot be read, or is neither separated text nor Parquet.
    """
    try:
        if not file.path.is_file():
            raise no_table(file.path, "it is no regular file")
        with file.path.open("rb") as stream:
            head = stream.read(16)
        if not head:
            return None
        if head.startswith(b"PAR1"):
            return _read_parquet(file, interesting)
        for magic, kind in _OTHER_KINDS.items():
            if head.startswith(magic):
                raise no_table(file.path, f"it is {kind}")
        if file.path.suffix.lower() in {".parquet", ".pq"}:
            raise no_table(file.path, "it ends in .parquet but does not begin like Parquet")
        return _read_text(file, interesting)
    except (pa.ArrowException, OSError, EOFError, UnicodeError) as error:
        if isinstance(error, DataFileError):
            raise
        raise no_table(file.path, (str(error) or type(error).__name__).splitlines()[0]) from error


def no_table(path: str | os.PathLike[str], reason: str) -> DataFileError:
    """Error for a file in which no table can be seen."""
    return DataFileError(
        f"{path} cannot be explained: {reason}.",
        why="A mapping can only be proposed for rows and columns that can be seen.",
        fix="Check that the file is whole and is CSV (or other separated text, also .gz, .bz2, .zst) or Parquet.",
        document=DOCUMENT,
    )


# --------------------------------------------------------------------------------------------------------------- files
def find_data(paths: Sequence[Path]) -> tuple[list[SourceFile], str | None]:
    """Data files, and the pattern that finds them if the usual endings do not."""
    try:
        return find_files(paths, parse_mapping(_PROBE))[0], None
    except DataFileError:
        folders = [path for path in paths if path.is_dir()]
        ending = _usual_ending(folders)
        if ending is None or not all(path.exists() for path in paths):
            raise
        pattern = rf".+{re.escape(ending)}" if ending else r"[^.]+"
        return find_files(paths, parse_mapping({**_PROBE, "source": {"file_pattern": pattern}}))[0], pattern


def _usual_ending(folders: Sequence[Path]) -> str | None:
    """The most usual ending of the files in some folders; None without files."""
    endings = Counter(
        Path(name).suffix
        for folder in folders
        for _, _, names in os.walk(folder)
        for name in names
        if not name.startswith((".", "_"))
    )
    return endings.most_common(1)[0][0] if endings else None


def first_with_rows(files: Sequence[SourceFile], source: str, interesting: Callable[[str], bool]) -> Sample:
    """Sample of the first file that has rows."""
    fault: DataFileError | None = None
    for file in files[:_OPENED]:
        try:
            sample = read_sample(file, interesting)
        except DataFileError as error:
            fault = fault or error
            continue
        if sample is not None and sample.rows:
            return sample
    if fault is not None:
        raise fault
    raise no_table(source, "there are no rows in it" if len(files) == 1 else "the first files have no rows")


# ------------------------------------------------------------------------------------------------------------- Parquet
def _read_parquet(file: SourceFile, interesting: Callable[[str], bool]) -> Sample:
    path = file.path
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - 8, 0))
        footer = int.from_bytes(stream.read(4), "little")
    if _MAX_FOOTER_BYTES < footer < size:
        raise no_table(path, f"its description takes {footer >> 20:,} MB: there are far too many columns")
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as parquet:
            names = list(parquet.schema_arrow.names)
            types = list(parquet.schema_arrow.types)
            rows_in_all = parquet.metadata.num_rows
            unique = Counter(names)
            chosen = [p for p in _chosen(names, interesting) if unique[names[p]] == 1 and not _nested(types[p])]
            tables = _pieces(parquet, [names[place] for place in chosen], max(_MAX_CELLS // max(len(chosen), 1), 100))
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error
    rows = sum(table.num_rows for table in tables)
    columns = [
        Column(place, names[place], _flat([table.column(names[place]) for table in tables], types[place]))
        for place in chosen
    ]
    columns += _constants(file, names, rows)
    return Sample(file, "parquet", names, columns, rows, rows_in_all)


def _pieces(parquet: pq.ParquetFile, names: list[str], most: int) -> list[pa.Table]:
    """Rows of the first row group, and fewer of some further on."""
    groups = parquet.metadata.num_row_groups
    further = sorted({int(share * (groups - 1)) for share in _PLACES} - {0}) if groups else []
    pieces = []
    for group, rows in [(0, min(MAX_ROWS, most)), *((group, min(MAX_ROWS, most) // 8) for group in further)]:
        if group < groups and rows and names:
            for record in parquet.iter_batches(rows, row_groups=[group], columns=names):
                pieces.append(pa.Table.from_batches([record]))
                break
    return pieces


def _flat(parts: list[pa.ChunkedArray], kind: pa.DataType) -> pa.Array:
    chunks = [chunk for part in parts for chunk in part.chunks]
    if pa.types.is_dictionary(kind):
        chunks = [chunk.dictionary_decode() for chunk in chunks]
        kind = kind.value_type
    return pa.concat_arrays(chunks) if chunks else pa.nulls(0, kind)


def _nested(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind))


def _chosen(names: Sequence[str], interesting: Callable[[str], bool]) -> list[int]:
    """Places of the columns to look at: the first ones, and others that have a telling name."""
    chosen = list(range(min(len(names), MAX_COLUMNS // 2)))
    for place in range(len(chosen), len(names)):
        if len(chosen) >= MAX_COLUMNS:
            break
        if len(names) <= MAX_COLUMNS or interesting(names[place]):
            chosen.append(place)
    return chosen


def _constants(file: SourceFile, names: list[str], rows: int) -> list[Column]:
    """Columns that folder names state; their names are added."""
    added = {name: value for name, value in file.constants.items() if name not in names}
    names += list(added)
    first = len(names) - len(added)
    return [Column(first + i, name, pa.repeat(pa.scalar(added[name]), rows)) for i, name in enumerate(added)]


# ---------------------------------------------------------------------------------------------------------------- text
@dataclass
class _Text:
    """Decoded lines of a text file: those of the beginning, and whole ones of places further on."""

    lines: list[str]
    further: list[str]
    encoding: str
    complete: bool
    bytes_per_line: float
    warnings: list[str] = field(default_factory=list)


def _read_text(file: SourceFile, interesting: Callable[[str], bool]) -> Sample | None:
    text = _decoded(file.path)
    while text.lines and not text.lines[-1].strip():
        text.lines.pop()
    filled = [place for place, line in enumerate(text.lines) if line.strip()]
    if not filled:
        return None
    first = text.lines[filled[0]].lstrip()
    if first.startswith(("{", "[")) and not first.startswith("[["):
        raise no_table(file.path, "it looks like JSON, which is not read: write its rows as CSV or Parquet")
    if first.startswith(("<?xml", "<!DOCTYPE", "<html")):
        raise no_table(file.path, "it is XML or HTML: export the table as CSV")
    if len(first) > _MAX_HEADER_BYTES:
        raise no_table(file.path, f"its first line is longer than {_MAX_HEADER_BYTES >> 20} MB: far too many columns")
    separator = separator_of([text.lines[place] for place in filled[:LINES_TO_JUDGE]])
    layout = layout_of(text.lines, separator)
    if not layout.names:
        return None
    if len(layout.names) > _MAX_NAMES:
        raise no_table(file.path, f"it has {len(layout.names):,} columns: no table of measurements has so many")
    names = list(layout.names)
    width = len(names)
    chosen = _chosen(names, interesting)
    rows: list[list[str]] = []
    malformed = 0
    most = min(MAX_ROWS, max(_MAX_CELLS // width, 100))
    for lines, limit in ((text.lines[layout.first_row :], most), (text.further, len(rows) + most + most // 2)):
        for fields in split_lines(lines, separator):
            if len(rows) >= limit:
                break
            if len(fields) == width:
                rows.append([fields[place].strip() for place in chosen])
            elif any(cell.strip() for cell in fields):
                malformed += 1
    decimal, odd = decimal_of(rows)
    if separator == "," and width == 1 and decimal == ",":
        separator = ";"  # the comma is in the numbers
    warnings = [*text.warnings, *layout.warnings, *odd]
    if malformed:
        warnings.append(
            f"{malformed:,} of the sampled lines have more or fewer than {width:,} fields: they are dropped"
        )
    columns = [Column(p, names[p], pa.array([row[i] for row in rows], pa.string())) for i, p in enumerate(chosen)]
    columns += _constants(file, names, len(rows))
    known = text.complete and len(rows) + malformed >= len(text.lines) - layout.first_row
    return Sample(
        file=file,
        kind="csv",
        names=names,
        columns=columns,
        rows=len(rows),
        rows_in_all=len(rows) if known else None,
        bytes_per_row=text.bytes_per_line,
        encoding=text.encoding,
        separator=separator,
        has_header=layout.has_header,
        skip_lines=layout.skip_lines,
        decimal=decimal,
        warnings=tuple(warnings),
    )


def _decoded(path: Path) -> _Text:
    """The beginning of a text file and some places further on, decoded."""
    parts: list[bytes] = []
    with path.open("rb") as raw:
        magic = raw.read(4)
        raw.seek(0)
        codec = next((codec for start, codec in _COMPRESSED.items() if magic.startswith(start)), None)
        stream: Any = raw if codec is None else pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)
        head = _read_up_to(stream, HEAD_BYTES)
        complete = not stream.read(1)
        read = raw.tell()
        size = raw.seek(0, os.SEEK_END)
        if not complete and codec is None:
            parts = list(_further(raw, len(head), size))
    encoding, warnings = _encoding(head, parts, path, complete=complete)
    lines = _lines(head.decode(encoding, errors="ignore" if not complete else "strict").removeprefix("\ufeff"))
    if not complete and len(lines) > 1:
        lines.pop()  # cut through
    further = (
        [] if encoding.startswith("utf-16") else [line for part in parts for line in _lines(part.decode(encoding))]
    )
    per_line = (size if complete else size * len(head) / max(read, 1) if codec is None else read) / max(len(lines), 1)
    if codec is None and not complete:
        per_line = len(head) / max(len(lines), 1)
    return _Text(lines, further, encoding, complete, per_line, warnings)


def _read_up_to(stream: Any, limit: int) -> bytes:
    blocks: list[bytes] = []
    left = limit
    while left:
        block = stream.read(left)
        if not block:
            break
        blocks.append(bytes(block))
        left -= len(block)
    return b"".join(blocks)


def _further(raw: BinaryIO, begin: int, size: int) -> Iterator[bytes]:
    """Whole lines at some places after the beginning."""
    for share in _PLACES:
        place = int(begin + share * (size - begin)) - _PLACE_BYTES
        if place > begin:
            raw.seek(place)
            block = raw.read(_PLACE_BYTES)
            if block.count(b"\n") > 2:
                yield block[block.index(b"\n") + 1 : block.rindex(b"\n") + 1]


def _encoding(head: bytes, parts: list[bytes], path: Path, *, complete: bool) -> tuple[str, list[str]]:
    """Encoding of text: by its mark, its zeros, or what can be decoded."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16", []
    if b"\0" in head:
        even, odd = head[0:4096:2].count(0), head[1:4096:2].count(0)
        few = len(head[:4096]) // 20
        if odd > 8 * few and even <= few:
            return "utf-16-le", []
        if even > 8 * few and odd <= few:
            return "utf-16-be", []
        raise no_table(path, "it is binary, not text")
    strange = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head[:65_536])
    if strange > len(head[:65_536]) // 100:
        raise no_table(path, "it is binary, not text")
    try:
        _utf8(head, complete=complete)
        for part in parts:
            _utf8(part, complete=True)
    except UnicodeDecodeError:
        pass
    else:
        return "utf-8", []
    everything = b"".join([head, *parts])
    name = "latin-1"
    if any(128 <= byte < 160 for byte in set(everything)):
        try:
            everything.decode("cp1252")
            name = "cp1252"
        except UnicodeDecodeError:
            pass
    return name, [f"the text is not UTF-8; {name} is a guess: look at the letters beyond A–Z"]


def _utf8(data: bytes, *, complete: bool) -> None:
    """Raise if bytes are no UTF-8; a letter may be cut through at the end of an incomplete piece."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if complete or error.start < len(data) - 4:
            raise


def _lines(text: str) -> list[str]:
    return re.split(r"\r\n|\n|\r", text)


def _self_check() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes("Bericht\nZeit;Rechner;Last\n2026-01-01 00:05;köln;1,5\n".encode("latin-1"))
        sample = read_sample(SourceFile(path), bool)
        assert sample is not None and sample.names == ["Zeit", "Rechner", "Last"] and sample.rows == 1
        assert sample.source_section() == {
            "format": "csv",
            "separator": ";",
            "skip_lines": 1,
            "encoding": "latin-1",
            "decimal": ",",
        }
        path.write_bytes(b"")
        assert read_sample(SourceFile(path), bool) is None
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
