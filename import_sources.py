"""Which files an import reads, which layout of the mapping fits each, and their columns in batches of Arrow arrays.

Text stays text here: turning cells into numbers and times is `import_cells.py`'s work.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Protocol
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from contract_parquet import unreadable
from data_contract import DataFileError, ImportMappingError, shorten
from import_mapping import FILE_NAME, Layout, Mapping, MetricSection, SourceSection

DOCUMENT: Final = "Docs/IMPORTING.md"
BATCH_ROWS: Final = 262_144
_CSV_BLOCK_BYTES: Final = 4 << 20  # eight blocks are read ahead: 8 MB each would cost 100 MB more
_HEAD_BYTES: Final = 1 << 16
_SEPARATORS: Final = (",", ";", "\t", "|")
_UNIT_SEPARATOR: Final = "\x1f"  # stands for separators that Arrow cannot take: it reads single bytes only
_CSV_ENDINGS: Final = (".csv", ".tsv")
_PARQUET_ENDINGS: Final = (".parquet", ".pq")
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
_COMPRESSED_ENDINGS: Final = (".gz", ".bz2", ".zst")


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


@dataclass(frozen=True)
class BoundMetric:
    """A metric and where its values stand."""

    metric: str
    section: MetricSection
    columns: tuple[int, ...]
    of: int | None


@dataclass(frozen=True)
class Binding:
    """A file together with the layout that fits it, columns resolved to places."""

    file: SourceFile
    source: Source
    layout: Layout
    time: tuple[int, ...]
    server: int | None
    server_name: str | None  # of the whole file
    metrics: tuple[BoundMetric, ...]
    state: int | None
    profile: int | None
    file_groups: dict[str, str]

    def batches(self) -> Iterator[Batch]:
        """Read all columns that the layout needs."""
        wanted = {*self.time, *(column for metric in self.metrics for column in metric.columns)}
        wanted |= {column for column in (self.server, self.state, self.profile) if column is not None}
        wanted |= {metric.of for metric in self.metrics if metric.of is not None}
        return self.source.batches(sorted(wanted), every_line_counts=not self.time)


# ----------------------------------------------------------------------------------------------------------- discovery
def find_files(paths: Sequence[Path], mapping: Mapping) -> tuple[list[SourceFile], list[str]]:
    """Files to read, folders searched through, and names of files in folders that were passed over.

    Raises
    ------
    DataFileError
        If a path is absent or a folder holds no data.
    """
    found: list[SourceFile] = []
    passed: list[str] = []
    for path in paths:
        if path.is_dir():
            inside = [name for name in sorted(path.rglob("*")) if name.is_file() and not _hidden(name, path)]
            data = [name for name in inside if _wanted(name, mapping)]
            if not data:
                held = f"only {shorten([name.name for name in inside])}" if inside else "nothing"
                raise DataFileError(
                    f"The folder {path} holds no data to import: {held}.",
                    why="Without rows there is nothing to import.",
                    fix="Name the files themselves, or set `source.file_pattern` in the mapping to what they are "
                    "called; without it files ending in .csv, .tsv or .parquet are taken (also .gz, .bz2, .zst).",
                    document=DOCUMENT,
                )
            passed += [name.name for name in inside if name not in set(data)]
            found += [SourceFile(name, _partitions(name, path)) for name in data]
        elif path.exists():
            found.append(SourceFile(path))
        else:
            raise DataFileError(
                f"There is no file {path}.",
                why="Without rows there is nothing to import.",
                fix="Check the path; a folder of CSV or Parquet files can be named, too.",
                document=DOCUMENT,
            )
    return found, passed


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.relative_to(root).parts)


def _wanted(path: Path, mapping: Mapping) -> bool:
    """Whether a file in a folder is data, judged by its name."""
    name = path.name.lower()
    for ending in _COMPRESSED_ENDINGS:
        name = name.removesuffix(ending)
    for layout in mapping.layouts:
        pattern = layout.source.file_pattern
        endings = {"csv": _CSV_ENDINGS, "parquet": _PARQUET_ENDINGS}.get(
            layout.source.format, _CSV_ENDINGS + _PARQUET_ENDINGS
        )
        if re.fullmatch(pattern, path.name) if pattern else name.endswith(endings):
            return True
    return False


def _partitions(path: Path, root: Path) -> dict[str, str]:
    pairs = (part.split("=", 1) for part in path.relative_to(root).parts[:-1] if "=" in part)
    return {name: unquote(value) for name, value in pairs}


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
        raise _no_data(path, error.strerror or str(error)) from error
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


# ------------------------------------------------------------------------------------------------------------- binding
class _MisfitError(Exception):
    """A layout does not fit a file, with the reasons."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(*reasons)
        self.reasons = reasons


def bind(file: SourceFile, mapping: Mapping) -> Binding | None:
    """Open a file with the first layout of the mapping that fits it; None if the file is empty.

    Raises
    ------
    DataFileError
        If the file cannot be read.
    ImportMappingError
        If no layout fits, with the reasons for each and the columns that there are.
    """
    kind = _kind(file.path)
    if kind is None:
        return None
    misfits: list[str] = []
    for number, layout in enumerate(mapping.layouts, 1):
        try:
            return _bind_layout(file, kind, layout)
        except _MisfitError as misfit:
            title = f"layout {layout.layout_name or number}: " if len(mapping.layouts) > 1 else ""
            misfits += [f"{title}{reason}" for reason in misfit.reasons]
    listed = "\n".join(f"    - {misfit}" for misfit in misfits)
    raise ImportMappingError(
        f"{file.path} does not fit the mapping “{mapping.name}”:\n{listed}",
        why="Columns that are not there cannot be read, and a guess would fill the metrics with wrong values.",
        fix="Correct the names in the mapping (or take a preset that fits: `python main.py import --list-presets`); "
        "for a metric that only some files have, set `optional = true`.",
    )


def _bind_layout(file: SourceFile, kind: str, layout: Layout) -> Binding:
    section = layout.source
    if section.format not in {"auto", kind}:
        raise _MisfitError(f"the file is {_KINDS[kind]}, not {_KINDS[section.format]}")
    groups: dict[str, str] = {}
    if section.file_pattern:
        match = re.fullmatch(section.file_pattern, file.path.name)
        if match is None:
            raise _MisfitError(
                f"the name {file.path.name!r} does not fit `source.file_pattern` {section.file_pattern!r}"
            )
        groups = {name: value for name, value in match.groupdict().items() if value is not None}
        for user, group in ((layout.time.start, "start"), (layout.time.date, "date")):
            if user == FILE_NAME and group not in groups:
                raise _MisfitError(f"the name {file.path.name!r} states no `{group}`")
    source = _ParquetSource(file, section) if kind == "parquet" else _CsvSource(file, section)
    finder = _Finder(source)
    time = layout.time
    time_columns = finder.choice("time", time.column, time.columns, time.any_of, kinds="time")
    server_columns = finder.choice("server", layout.server.column, (), layout.server.any_of, kinds="text")
    server_name = layout.server.name
    if layout.server.from_file_name:
        server_name = groups.get("server") or file.path.name.split(".")[0]
    metrics = []
    for metric, wanted in layout.metrics.items():
        title = f"metrics.{metric}"
        columns = finder.choice(
            title, wanted.column, wanted.columns, wanted.any_of, kinds="number", optional=wanted.optional
        )
        of = finder.choice(f"{title}.of", wanted.of, (), (), kinds="number", optional=wanted.optional)
        if columns and (wanted.of is None or of):
            metrics.append(BoundMetric(metric, wanted, columns, of[0] if of else None))
    state: tuple[int, ...] = ()
    if layout.state is not None:
        state = finder.choice(
            "state", layout.state.column, (), layout.state.any_of, kinds="text", optional=layout.state.optional
        )
    profile = finder.choice(
        "profile", layout.profile.column, (), layout.profile.any_of, kinds="text", optional=layout.profile.optional
    )
    if not metrics and not finder.faults:
        finder.faults.append("none of the metrics' columns is there")
    if finder.faults:
        raise _MisfitError(*finder.faults, finder.listing())
    return Binding(
        file=file,
        source=source,
        layout=layout,
        time=time_columns,
        server=server_columns[0] if server_columns else None,
        server_name=server_name,
        metrics=tuple(metrics),
        state=state[0] if state else None,
        profile=profile[0] if profile else None,
        file_groups=groups,
    )


class _Finder:
    """Looks columns up by name or place and keeps what is not there."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.faults: list[str] = []

    def choice(
        self,
        title: str,
        column: str | int | None,
        columns: Sequence[str | int],
        any_of: Sequence[str | int],
        *,
        kinds: str,
        optional: bool = False,
    ) -> tuple[int, ...]:
        """Places of the columns that a section asks for; empty if it asks for none or an optional one is absent."""
        wanted = [column] if column is not None else list(columns)
        if any_of:
            wanted = [ref for ref in any_of if isinstance(self._place(ref), int)][:1]
            if not wanted and not optional:
                self.faults.append(f"`{title}`: none of the columns {shorten(list(any_of), 12)} is there")
        places = [self._place(ref) for ref in wanted]
        absent = [place for place in places if isinstance(place, str)]
        if absent:
            if not optional or any("more than one" in reason for reason in absent):
                self.faults += [f"`{title}`: {reason}" for reason in absent]
            return ()
        found = [place for place in places if isinstance(place, int)]
        for place in found:
            if not _TYPE_TESTS[kinds](self.source.types[place]):
                held = f"holds {self.source.types[place]}, not {_TYPE_WORDS[kinds]}"
                self.faults.append(f"`{title}`: the column {self.source.names[place]!r} {held}")
        return tuple(found)

    def listing(self) -> str:
        """The columns that there are, and what may be the matter."""
        names = self.source.names
        text = f"the columns are {shorten(names, 40)}"
        if isinstance(self.source, _CsvSource):
            if len(names) == 1:
                text += f": only one, so the separator may not be {self.source.separator!r} (set `source.separator`)"
            if any(re.fullmatch(r"[-+]?[\d.,]+(?:[eE][-+]?\d+)?", name) for name in names) and self.source.has_header:
                text += ": they look like data, so there may be no header (set `source.header = false`)"
        return text

    def _place(self, ref: str | int) -> int | str:
        """Place of a column, or why it has none."""
        names = self.source.names
        if isinstance(ref, int):
            return ref - 1 if ref <= len(names) else f"there is no column {ref}, only {len(names)}"
        for spelling in (str, str.casefold):
            places = [place for place, name in enumerate(names) if spelling(name) == spelling(ref.strip())]
            if len(places) == 1:
                return places[0]
            if places:
                numbers = " and ".join(str(place + 1) for place in places)
                return f"more than one column is called {ref!r}: give its place instead, {numbers}"
        near = difflib.get_close_matches(ref, names, 1)
        return f"there is no column {ref!r}" + (f" (did you mean {near[0]!r}?)" if near else "")


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


_TYPE_TESTS: Final[dict[str, Callable[[pa.DataType], bool]]] = {
    "text": lambda kind: _is_text(kind) or _is_number(kind),
    "number": lambda kind: _is_text(kind) or _is_number(kind),
    "time": lambda kind: _is_text(kind) or _is_number(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind),
}
_TYPE_WORDS: Final = {"text": "text", "number": "numbers", "time": "times"}
_KINDS: Final = {"csv": "text (CSV)", "parquet": "Parquet"}


# --------------------------------------------------------------------------------------------------------------- files
def _kind(path: Path) -> str | None:
    """`csv`, `parquet` or None for an empty file, by the first bytes."""
    try:
        if not path.is_file():
            raise _no_data(path, "it is no regular file")
        with path.open("rb") as stream:
            head = stream.read(4)
    except OSError as error:
        if isinstance(error, DataFileError):
            raise
        raise _no_data(path, error.strerror or str(error)) from error
    if not head:
        return None
    if head == b"PAR1":
        return "parquet"
    if path.name.lower().endswith(_PARQUET_ENDINGS):
        raise _no_data(path, "it ends in .parquet but does not begin like Parquet")
    if head.startswith(b"PK\x03\x04"):
        raise _no_data(path, "it is a ZIP archive or a spreadsheet: unpack it, or save the sheet as CSV")
    return "csv"


class _ParquetSource:
    """A Parquet file."""

    malformed_lines = 0
    first_malformed = ""

    def __init__(self, file: SourceFile, section: SourceSection) -> None:
        del section  # says how text is read
        self._path = file.path
        try:
            with pq.ParquetFile(file.path) as parquet:
                schema = parquet.schema_arrow
                self._rows = parquet.metadata.num_rows
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


class _CsvSource:
    """A file of separated fields, all of them read as text."""

    def __init__(self, file: SourceFile, section: SourceSection) -> None:
        self._path, self._section = file.path, section
        self.malformed_lines = 0
        self.first_malformed = ""
        lines = self._head_lines()
        start = section.skip_lines
        while start < len(lines) and not lines[start].strip():
            start += 1
        sample = [line for line in lines[start : start + 20] if line.strip()]
        self.separator = _guess_separator(sample, section) if section.separator == "auto" else section.separator
        if len(self.separator) > 1 and self.separator != "whitespace":
            self.separator = self.separator.strip() or self.separator[0]  # `;` and a tab: cells are trimmed anyway
        header = self._fields(sample[0]) if sample else []
        self.has_header = section.header
        self._skip_rows = start + 1 if section.header else start
        if section.header:
            own = header
        elif section.column_names:
            own = list(section.column_names)
            if len(own) != len(header):
                raise _MisfitError(f"`source.column_names` names {len(own)} columns, but there are {len(header)}")
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

        def on_malformed(row: Any) -> str:
            self.malformed_lines += 1
            self.first_malformed = self.first_malformed or f"{row.actual_columns} fields instead of {self._width}"
            return "error" if every_line_counts else "skip"

        places = [place for place in wanted if place < self._width]
        keys = [str(place) for place in places]
        arrow_separator = self._arrow_separator()
        size = max(self._path.stat().st_size, 1)
        try:
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
                        column_types=dict.fromkeys(keys, pa.string()), include_columns=keys, strings_can_be_null=False
                    ),
                )
                for record in reader:
                    cells = {place: record.column(key) for place, key in zip(places, keys, strict=True)}
                    cells |= _constant_cells(self, wanted, self._width, self._constants, record.num_rows)
                    yield Batch(record.num_rows, cells, min(raw.tell() / size, 1.0))
        except (pa.ArrowException, UnicodeError, OSError, EOFError) as error:
            if "Empty CSV file" in str(error) or "Could not skip initial" in str(error):  # nothing after the header
                return
            if every_line_counts and self.malformed_lines:
                raise ImportMappingError(
                    f"{self._path} has a line with {self.first_malformed}.",
                    why="The times of this file are counted by its lines, so that none may be left out.",
                    fix="Correct the line; an empty field is a missing value.",
                ) from error
            raise self._unreadable(error) from error

    def _head_lines(self) -> list[str]:
        """First lines, decoded."""
        try:
            with self._path.open("rb") as raw:
                head = _decompressed(raw).read(_HEAD_BYTES)
                decoder = codecs.getincrementaldecoder(self._section.encoding)()
                text = decoder.decode(head, final=len(head) < _HEAD_BYTES)
        except (pa.ArrowException, UnicodeError, OSError, EOFError) as error:
            raise self._unreadable(error) from error
        if "\0" in text:
            raise _no_data(self._path, f"it is binary, not {self._section.encoding} text")
        return text.removeprefix("\ufeff").splitlines()

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
        return _no_data(self._path, reason)


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
            lines = self._reader.readlines(1 << 20) if not self.closed else []
            if not lines:
                return 0
            self._rest = "".join(_respace(line, self._separator, self._replacement) for line in lines).encode()
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


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


def _no_data(path: str | os.PathLike[str], reason: str) -> DataFileError:
    return DataFileError(
        f"{path} cannot be read: {reason}.",
        why="Rows that cannot be read for certain must not be learned from.",
        fix="Check that the file is whole and is CSV (or other separated text) or Parquet.",
        document=DOCUMENT,
    )


def _self_check() -> None:
    import tempfile

    from import_mapping import parse_mapping

    wanted = parse_mapping(
        {"time": {"column": "t"}, "server": {"column": "s"}, "metrics": {"cpu_pct": {"column": "c"}}}
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_text("t;s ;c\n2026-01-01;a;5\n2026-01-01;b\n", encoding="utf-8")
        files, _ = find_files([Path(folder)], wanted)
        binding = bind(files[0], wanted)
        assert binding is not None
        assert [batch.cells[2].to_pylist() for batch in binding.batches()] == [["5"]]
        assert binding.source.malformed_lines == 1
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
