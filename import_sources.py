"""Which files an import reads, which layout of the mapping fits each, and where its columns stand.

Reading them is `import_readers.py`'s work.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import pyarrow as pa

from data_contract import INCIDENTS_FILE, DataFileError, ImportMappingError, shorten
from import_mapping import FILE_NAME, Layout, Mapping, MetricSection
from import_readers import (
    COMPRESSED_ENDINGS,
    CSV_ENDINGS,
    DOCUMENT,
    PARQUET_ENDINGS,
    Batch,
    CsvSource,
    MisfitError,
    ParquetSource,
    Source,
    SourceFile,
    kind_of,
)

__all__ = ["DOCUMENT", "Batch", "Binding", "BoundMetric", "SourceFile", "bind", "find_files"]


_NO_VALUE: Final = "__HIVE_DEFAULT_PARTITION__"  # how Hive and Spark name the folder of rows that have none


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
    for ending in COMPRESSED_ENDINGS:
        name = name.removesuffix(ending)
    for layout in mapping.layouts:
        pattern = layout.source.file_pattern
        endings = {"csv": CSV_ENDINGS, "parquet": PARQUET_ENDINGS}.get(
            layout.source.format, CSV_ENDINGS + PARQUET_ENDINGS
        )
        if re.fullmatch(pattern, path.name) if pattern else name.endswith(endings) and name != INCIDENTS_FILE:
            return True
    return False


def _partitions(path: Path, root: Path) -> dict[str, str]:
    pairs = (part.split("=", 1) for part in path.relative_to(root).parts[:-1] if "=" in part)
    return {name: "" if value == _NO_VALUE else unquote(value) for name, value in pairs}


# ------------------------------------------------------------------------------------------------------------- binding
def bind(file: SourceFile, mapping: Mapping) -> Binding | None:
    """Open a file with the first layout of the mapping that fits it; None if the file is empty.

    Raises
    ------
    DataFileError
        If the file cannot be read.
    ImportMappingError
        If no layout fits, with the reasons for each and the columns that there are.
    """
    kind = kind_of(file.path)
    if kind is None:
        return None
    misfits: list[str] = []
    for number, layout in enumerate(mapping.layouts, 1):
        try:
            return _bind_layout(file, kind, layout)
        except MisfitError as misfit:
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
        raise MisfitError(f"the file is {_KINDS[kind]}, not {_KINDS[section.format]}")
    groups: dict[str, str] = {}
    if section.file_pattern:
        match = re.fullmatch(section.file_pattern, file.path.name)
        if match is None:
            raise MisfitError(
                f"the name {file.path.name!r} does not fit `source.file_pattern` {section.file_pattern!r}"
            )
        groups = {name: value for name, value in match.groupdict().items() if value is not None}
        for user, group in ((layout.time.start, "start"), (layout.time.date, "date")):
            if user == FILE_NAME and group not in groups:
                raise MisfitError(f"the name {file.path.name!r} states no `{group}`")
    source = ParquetSource(file, section) if kind == "parquet" else CsvSource(file, section)
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
        raise MisfitError(*finder.faults, finder.listing())
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
        if isinstance(self.source, CsvSource):
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
