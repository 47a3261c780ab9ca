"""How foreign CSV or Parquet becomes contract Parquet: read by a mapping, repaired by stated rules, counted, validated.

`import_mapping.py` says what a mapping may say, `import_sources.py` finds files, `import_cells.py` reads cells,
`import_runs.py` sorts rows, `import_rows.py` settles duplicates, and `import_report.py` holds the rules and the report;
this module leads rows through all of them and writes the result. Memory does not grow with the number of rows. Metrics
that the source lacks stay missing. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from common_utils import iso_z, utc_now, write_json, written_together
from contract_judge import ValidationReport
from contract_parquet import open_writer
from data_contract import (
    CONTRACT_VERSION,
    DATA_FILE,
    DATA_INFO,
    GENERIC_PROFILE,
    INCIDENTS_FILE,
    METRIC_COLUMNS,
    PROFILE,
    SERVER_MAPPING,
    SERVER_NAME,
    STATE,
    TIMESTAMP,
    VALID_PROFILES,
    VALID_STATES,
    DataFileError,
    ProductError,
    profile_for_name,
    shorten,
)
from data_validator import DataValidator
from derived_columns import derive_states
from import_cells import (
    NO_TIME,
    Codes,
    Mask,
    ServerCodes,
    Singles,
    TimeReader,
    choices,
    full_name,
    metric_values,
)
from import_doubts import doubts, refuse_dead_metrics, refuse_nothing
from import_mapping import Mapping, ProfileSection, load_mapping, load_preset, parse_mapping, presets
from import_readers import file_state, refuse_changed
from import_report import RULES_BY_NAME, ImportReport, Tally, merge_counts, render_report
from import_rows import NO_STATE, Gaps, Rows, regrouped, settled
from import_runs import Runs
from import_sources import DOCUMENT, Batch, Binding, SourceFile, bind, find_files
from server_encoder import ServerEncoder

__all__ = [
    "ImportReport",
    "Mapping",
    "import_files",
    "load_mapping",
    "load_preset",
    "parse_mapping",
    "presets",
    "render_report",
]

_ROWS_PER_GROUP: Final = 262_144
_STEPS: Final = 10_000  # of the progress bar
_READ_STEPS: Final = 5_500  # of them for reading, as measured on 4.3 million rows
_WRITE_STEPS: Final = 2_500  # for sorting and writing; the rest is for validating

Progress = Callable[[int, int], None]  # steps done, steps in all


def import_files(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    mapping: Mapping,
    out_dir: str | os.PathLike[str],
    progress: Progress | None = None,
) -> ImportReport:
    """Bring files under the contract.

    Writes `server_metrics.parquet` (sorted by server, then time), `metrics_metadata.json` (with the report) and
    `server_mapping.json`. The three appear together and only after the rows have passed the validator.

    Parameters
    ----------
    paths : path or sequence of paths
        Files, or folders that are searched through.
    mapping : Mapping
        From `load_preset`, `load_mapping` or `parse_mapping`.
    out_dir : path
        Folder to write to; made if it is not there.
    progress : callable, optional
        Called with the steps done and the steps in all.

    Returns
    -------
    ImportReport
        What came in, what was repaired by which rule, and what came out.

    Raises
    ------
    DataFileError
        If a file cannot be read, or the result not be written.
    ImportMappingError
        If the mapping does not fit a file, or nothing is left of the rows.
    """
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    files, passed = find_files([Path(path) for path in listed], mapping)
    advance = progress or _silent
    advance(0, _STEPS)
    with _work_folder(Path(out_dir)) as aside:
        collected = _Collected(aside)
        with contextlib.closing(collected.runs):
            _read_all(files, mapping, collected, advance)
            if passed:
                collected.note(f"{len(passed):,} other file(s) in the folder were passed over: {shorten(passed)}")
            report = _write(collected, mapping, Path(out_dir), aside, advance)
    advance(_STEPS, _STEPS)
    return report


def _silent(done: int, total: int) -> None:
    """Progress that nobody watches."""
    del done, total


# ------------------------------------------------------------------------------------------------------------- reading
class _Collected:
    """All that is known of what was read so far; the rows themselves are in `runs`."""

    def __init__(self, aside: Path) -> None:
        self.tally = Tally()
        self.servers = ServerCodes()
        self.runs = Runs(aside, self.servers.names)
        self.reported: set[str] = set()  # metrics of which some value could be used
        self.columns: set[str] = set()  # metrics of which there is a column
        self.profiles: dict[int, int] = {}  # server → place in VALID_PROFILES, if a column says so
        self.sections: dict[int, ProfileSection] = {}  # server → what the mapping says of its profile
        self.layouts: dict[str, int] = {}
        self.formats: Counter[str] = Counter()  # of times, where there are several: rows read by each
        self.doubtful_times = 0
        self.highest: dict[str, Singles] = {}  # metric that is relative → highest value of each server
        self.repeats: dict[tuple[int, int], tuple[int, bool]] = {}
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        """Keep an assumption for the report, once."""
        if text not in self.notes:
            self.notes.append(text)

    def watch_highest(self, metric: str, server: Codes, values: Singles) -> None:
        """Keep the highest value of each server."""
        known = self.highest.get(metric, np.zeros(0, np.float32))
        known = np.concatenate([known, np.zeros(len(self.servers.names) - len(known), np.float32)])
        np.fmax.at(known, server, values)
        self.highest[metric] = known


def _read_all(files: Sequence[SourceFile], mapping: Mapping, collected: _Collected, advance: Progress) -> None:
    """Read the rows of all files."""
    sizes = {file.path: file_state(file.path) for file in files}
    total = sum(state.size for state in sizes.values()) or 1
    empty: list[str] = []
    done = 0
    for file in files:
        binding = bind(file, mapping)
        rows_before = collected.tally.rows_in
        for batch in _read(binding, collected) if binding is not None else ():
            share = (done + batch.share_done * sizes[file.path].size) / total
            advance(int(_READ_STEPS * min(share, 1.0)), _STEPS)
        refuse_changed(file.path, sizes[file.path])
        done += sizes[file.path].size
        if collected.tally.rows_in == rows_before:
            empty.append(file.path.name)
    if empty:
        collected.warnings.append(f"{len(empty):,} file(s) hold no rows: {shorten(empty)}")
    if collected.formats:
        listed = ", ".join(f"{form} {count:,}" for form, count in collected.formats.items())
        collected.note(f"times by the format that they were read with: {listed}")
    if collected.doubtful_times:
        collected.warnings.append(
            f"{collected.doubtful_times:,} times fit more than one format of `time.format` and mean another time in "
            "each: they were read by the first"
        )
    collected.tally.count_rows("out_of_order", collected.runs.late)
    refuse_nothing(collected.tally, collected.runs.rows, [str(file.path) for file in files])
    refuse_dead_metrics(collected.tally, collected.columns - collected.reported)


def _read(binding: Binding, collected: _Collected) -> Iterator[Batch]:
    """Read one file into pieces."""
    layout, tally = binding.layout, collected.tally
    title = layout.layout_name or "file"
    collected.layouts[title] = collected.layouts.get(title, 0) + 1
    modified = datetime.fromtimestamp(file_state(binding.file.path).modified_ns / 1e9, timezone.utc)
    times = TimeReader(layout.time, binding.file_groups, modified, collected.repeats)
    for batch in binding.batches():
        tally.rows_in += batch.rows
        if batch.rows:
            _read_batch(binding, batch, times, collected)
        yield batch
    malformed = binding.source.malformed_lines
    tally.rows_in += malformed
    tally.count_rows("malformed_line", malformed, binding.source.first_malformed)
    for note in times.notes:
        collected.note(note)
    collected.formats.update(times.formats)
    collected.doubtful_times += times.doubtful


def _read_batch(binding: Binding, batch: Batch, times: TimeReader, collected: _Collected) -> None:
    layout, tally = binding.layout, collected.tally
    if binding.server is None:
        assert binding.server_name is not None
        code = collected.servers.code(full_name(binding.server_name.strip(), layout.server))
        server, spaced = np.full(batch.rows, code, np.int32), np.zeros(batch.rows, np.bool_)
    else:
        server, spaced = collected.servers.read(batch.cells[binding.server], layout.server)
    time, repaired = times.read([batch.cells[column] for column in binding.time], server, tally)
    nameless = (server < 0) & (time != NO_TIME)
    if nameless.any():
        tally.count_rows("unusable_name", int(nameless.sum()), _cell(batch, binding.server, nameless))
    keep = (server >= 0) & (time != NO_TIME)
    tally.count_rows("name_stripped", int((spaced & keep).sum()))
    if not keep.all():
        chosen = pa.array(keep)
        batch = Batch(int(keep.sum()), {p: cells.filter(chosen) for p, cells in batch.cells.items()}, batch.share_done)
        server, time, repaired = server[keep], time[keep], repaired[keep]
    for code in np.unique(server):
        collected.sections.setdefault(int(code), layout.profile)

    metrics: dict[str, Singles] = {}
    for bound in binding.metrics:
        parts = [batch.cells[column] for column in bound.columns]
        capacity = None if bound.of is None else batch.cells[bound.of]
        values, touched = metric_values(parts, capacity, bound.metric, bound.section, layout.source, tally)
        if bound.section.capacity is not None and not bound.section.is_relative:
            collected.note(
                f"{bound.metric} is a share of the mapping's capacity, {bound.section.capacity:g}, in all rows"
            )
        metrics[bound.metric] = values
        repaired = repaired | touched
    state = _read_states(binding, batch, tally)
    _read_profiles(binding, batch, server, collected)

    some = ~np.logical_and.reduce([np.isnan(values) for values in metrics.values()])
    tally.count_rows("no_metrics", int((~some).sum()))
    if not some.all():
        server, time, repaired = server[some], time[some], repaired[some]
        metrics = {metric: values[some] for metric, values in metrics.items()}
        state = None if state is None else state[some]
    if len(server):
        for bound in binding.metrics:
            if bound.section.is_relative:
                collected.watch_highest(bound.metric, server, metrics[bound.metric])
        collected.columns.update(metrics)
        collected.reported.update(name for name, values in metrics.items() if not np.isnan(values).all())
        collected.runs.add(Rows(server, time, metrics, state, repaired))


def _read_states(binding: Binding, batch: Batch, tally: Tally) -> npt.NDArray[np.int8] | None:
    if binding.state is None or binding.layout.state is None:
        return None
    codes, foreign = choices(batch.cells[binding.state], binding.layout.state.values, VALID_STATES)
    tally.count_rows("unknown_state", int(foreign.sum()), _cell(batch, binding.state, foreign))
    return codes.astype(np.int8)


def _read_profiles(binding: Binding, batch: Batch, server: Codes, collected: _Collected) -> None:
    """Keep the first profile that a column states for each server."""
    if binding.profile is None:
        return
    codes, foreign = choices(batch.cells[binding.profile], binding.layout.profile.values, VALID_PROFILES)
    collected.tally.count_rows("unknown_profile", int(foreign.sum()), _cell(batch, binding.profile, foreign))
    stated = codes >= 0
    pairs, first, counts = np.unique(
        server[stated].astype(np.int64) * len(VALID_PROFILES) + codes[stated], return_index=True, return_counts=True
    )
    for place in np.argsort(first):
        code, profile = divmod(int(pairs[place]), len(VALID_PROFILES))
        if collected.profiles.setdefault(code, profile) != profile:
            collected.tally.count_rows("profile_changed", int(counts[place]), collected.servers.names[code])


def _cell(batch: Batch, column: int | None, where: Mask) -> str | None:
    """The first of the cells, for an example."""
    if column is None or not where.any():
        return None
    return repr(batch.cells[column][int(np.argmax(where))].as_py())


def _profile(code: int, name: str, collected: _Collected) -> str:
    """A server's profile: by its column, else the rules, else the contract's name patterns, else the default."""
    if code in collected.profiles:
        return VALID_PROFILES[collected.profiles[code]]
    section = collected.sections[code]
    for rule in section.rules:
        if re.search(rule.pattern, name):
            return rule.profile
    named = profile_for_name(name)
    return named if named != GENERIC_PROFILE else section.default


# ------------------------------------------------------------------------------------------------------------- writing
@contextlib.contextmanager
def _work_folder(out_dir: Path) -> Iterator[Path]:
    """A hidden folder to work in; its three files move to `out_dir` together when the block ends well.

    What cannot be written is told as such. Folders that were made for the import go again if it fails.
    """
    absent = [folder for folder in (out_dir, *out_dir.parents) if not folder.exists()]
    try:
        # The ground truth of a made-up fleet is none of what replaces it.
        with written_together(out_dir, (SERVER_MAPPING, DATA_INFO, DATA_FILE), (INCIDENTS_FILE,)) as aside:
            yield aside
    except ProductError:
        raise
    except OSError as error:
        raise _unwritable(out_dir, error) from error
    finally:
        with contextlib.suppress(OSError):  # stops at the first that holds something
            for folder in absent:
                folder.rmdir()


def _unwritable(out_dir: Path, error: OSError) -> DataFileError:
    return DataFileError(
        f"The import cannot be written to {out_dir}: {_os_reason(error)}.",
        why="The next stages read it from there; nothing half-written was left behind.",
        fix="Free some space, or choose another folder with --out_dir, then import again.",
        document=DOCUMENT,
    )


def _write(collected: _Collected, mapping: Mapping, out_dir: Path, aside: Path, advance: Progress) -> ImportReport:
    """Write the three files and validate them."""
    written = _Written(collected, mapping)
    parts = written.scaled(settled(collected.runs.in_order(), written.names, collected.tally))
    try:
        with open_writer(aside / DATA_FILE) as writer:
            for rows in regrouped(parts, _ROWS_PER_GROUP):
                writer.write(written.table(rows))
                advance(_READ_STEPS + _WRITE_STEPS * writer.rows // collected.runs.rows, _STEPS)
    except DataFileError as error:  # it names the file in the work folder
        cause = error.__cause__
        raise _unwritable(out_dir, cause if isinstance(cause, OSError) else error) from error
    before = _READ_STEPS + _WRITE_STEPS
    found = DataValidator(strict=True).validate_file(
        aside / DATA_FILE,
        lambda done, total: advance(before + (_STEPS - before) * done // max(total, 1), _STEPS),
    )
    report = _report(written, collected, mapping, out_dir, found)
    encoder = ServerEncoder()
    encoder.create_mapping(written.names)
    encoder.save_mapping(aside / SERVER_MAPPING)
    write_json(aside / DATA_INFO, _metadata(report, found))
    return report


class _Written:
    """Makes contract tables of rows in their final order, and knows what was in them."""

    def __init__(self, collected: _Collected, mapping: Mapping) -> None:
        codes = collected.runs.servers()
        self._highest = {metric: values[codes] for metric, values in collected.highest.items()}
        self.relative = dict.fromkeys(mapping.relative_metrics, "the highest value that each server ever reported")
        self.names = [collected.servers.names[code] for code in codes]
        self.rows = 0
        self.repaired = 0
        self.derived = 0  # rows whose state the source did not say
        self.highest = dict.fromkeys(METRIC_COLUMNS, 0.0)
        self._gaps = Gaps()
        profiles = [_profile(int(code), collected.servers.names[code], collected) for code in codes]
        self._profiles = np.array([VALID_PROFILES.index(profile) for profile in profiles], np.int32)

    @property
    def interval_minutes(self) -> float | None:
        """Usual time between two rows of a server."""
        middle = self._gaps.median()
        return None if middle is None else middle / 60e6

    def scaled(self, parts: Iterable[Rows]) -> Iterator[Rows]:
        """The same rows with relative metrics in percent of the server's highest value."""
        for rows in parts:
            for metric, highest in self._highest.items():
                if metric in rows.metrics:
                    base = highest[rows.server].astype(np.float64)
                    share = rows.metrics[metric] / np.where(base > 0, base, 1.0)  # all values are 0 there
                    rows.metrics[metric] = (share * 100.0).astype(np.float32)
            yield rows

    def table(self, rows: Rows) -> pa.Table:
        """Contract table of the next rows."""
        count = len(rows)
        self.rows += count
        self.repaired += int(rows.repaired.sum())
        self._gaps.add(rows.server, rows.time)
        for name, values in rows.metrics.items():
            self.highest[name] = max(self.highest[name], float(np.fmax.reduce(values, initial=0.0)))
        # A share of nothing but itself says nothing about the server's state.
        measured = {name: values for name, values in rows.metrics.items() if name not in self.relative}
        state = derive_states(measured, count)
        unstated = np.ones(count, np.bool_) if rows.state is None else rows.state == NO_STATE
        if rows.state is not None:
            state = np.where(unstated, state, rows.state)
        self.derived += int(unstated.sum())
        first, last = int(rows.server[0]), int(rows.server[-1])  # names are kept once per row group
        columns = {
            TIMESTAMP: pa.array(rows.time).cast(pa.timestamp("us", tz="UTC")),
            SERVER_NAME: _coded(rows.server - first, self.names[first : last + 1]),
            **{
                name: pa.array(rows.metrics[name], from_pandas=True)
                if name in rows.metrics
                else pa.nulls(count, pa.float32())
                for name in METRIC_COLUMNS
            },
            STATE: _coded(state.astype(np.int32), VALID_STATES),
            PROFILE: _coded(self._profiles[rows.server], VALID_PROFILES),
        }
        return pa.table(columns)


def _coded(codes: Codes, words: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(words, pa.string()))


def _report(
    written: _Written, collected: _Collected, mapping: Mapping, out_dir: Path, found: ValidationReport
) -> ImportReport:
    tally = collected.tally
    assert found.start is not None and found.end is not None
    lost = tuple(sorted(set(collected.servers.names) - set(written.names)))
    if lost:
        collected.note(f"{len(lost):,} server(s) of the source never report any of the four metrics: {shorten(lost)}")
    return ImportReport(
        mapping=mapping.name,
        files=collected.layouts,
        out_dir=str(out_dir),
        rows_in=tally.rows_in,
        rows_out=found.rows,
        rows_dropped=tally.dropped(),
        values_repaired=merge_counts(tally.values.items()),
        rows_noted={
            name: tally.rows[name]
            for name, rule in RULES_BY_NAME.items()
            if rule.effect in {"row changed", "row kept"} and tally.rows[name]
        },
        rows_repaired=written.repaired,
        rows_unchanged=found.rows - written.repaired,
        servers=found.servers,
        start=iso_z(found.start),
        end=iso_z(found.end),
        interval_minutes=written.interval_minutes,
        reported={name: 1 - found.missing[name] / found.rows for name in METRIC_COLUMNS},
        profiles=found.profiles,
        states=found.states,
        states_derived=written.derived,
        relative=written.relative,
        servers_without_metrics=lost,
        notes=tuple(collected.notes),
        warnings=(
            *collected.warnings,
            *doubts(tally, written.rows, written.highest, written.interval_minutes, written.relative),
            *found.warnings,
        ),
    )


def _metadata(report: ImportReport, found: ValidationReport) -> dict[str, Any]:
    described = found.as_dict()
    return {
        "source": "imported",
        "contract_version": CONTRACT_VERSION,
        "imported_at": iso_z(utc_now().replace(microsecond=0)),
        **{key: described[key] for key in ("rows", "servers", "start", "end", "profiles", "states", "missing")},
        "interval_minutes": report.interval_minutes,
        "report": report.as_dict(),
    }


def _os_reason(error: OSError) -> str:
    """The operating system's words; Arrow wraps them into a text of its own."""
    return re.sub(r"^.*\[errno \d+\] ", "", error.strerror or str(error))


if __name__ == "__main__":
    from main import run_command

    run_command("import")
