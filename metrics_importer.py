"""How foreign CSV or Parquet becomes contract Parquet: read by a mapping, repaired by stated rules, counted, validated.

`import_mapping.py` says what a mapping may say, `import_sources.py` opens files, `import_cells.py` reads cells, and
`import_report.py` holds the rules and the report; this module puts rows together and writes the result. Metrics that
the source lacks stay missing. Knows nothing of models.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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
    METRIC_COLUMNS,
    PROFILE,
    SERVER_MAPPING,
    SERVER_NAME,
    STATE,
    STEP_MINUTES,
    TIMESTAMP,
    VALID_PROFILES,
    VALID_STATES,
    DataFileError,
    ImportMappingError,
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
from import_mapping import Mapping, ProfileSection, load_mapping, load_preset, parse_mapping, presets
from import_report import RULES_BY_NAME, ImportReport, Tally, merge_counts, render_report
from import_rows import NO_STATE, Piece, Rows, assemble
from import_sources import DOCUMENT, Batch, Binding, bind, find_files
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
_READ_STEPS: Final = 7_000  # of them for reading; the rest is for writing and validating

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
    collected = _Collected()
    empty: list[str] = []
    size = sum(file.path.stat().st_size for file in files) or 1
    done = 0
    for file in files:
        binding = bind(file, mapping)
        rows_before = collected.tally.rows_in
        for batch in _read(binding, collected) if binding is not None else ():
            share = (done + batch.share_done * file.path.stat().st_size) / size
            advance(int(_READ_STEPS * min(share, 1.0)), _STEPS)
        done += file.path.stat().st_size
        if collected.tally.rows_in == rows_before:
            empty.append(file.path.name)
    _refuse_nothing(collected, [str(file.path) for file in files])
    rows = assemble(
        collected.pieces,
        collected.servers.names,
        lambda code, name: _profile(code, name, collected),
        collected.tally,
    )
    _refuse_dead_metrics(rows, collected.tally)
    if passed:
        collected.note(f"{len(passed):,} other file(s) in the folder were passed over: {shorten(passed)}")
    if empty:
        collected.warnings.append(f"{len(empty):,} file(s) hold no rows: {shorten(empty)}")
    return _write(rows, collected, mapping, Path(out_dir), advance)


def _silent(done: int, total: int) -> None:
    """Progress that nobody watches."""
    del done, total


# ------------------------------------------------------------------------------------------------------------- reading
@dataclass
class _Collected:
    """All that was read so far."""

    tally: Tally = field(default_factory=Tally)
    servers: ServerCodes = field(default_factory=ServerCodes)
    pieces: list[Piece] = field(default_factory=list)
    profiles: dict[int, int] = field(default_factory=dict)  # server → place in VALID_PROFILES, if a column says so
    sections: dict[int, ProfileSection] = field(default_factory=dict)  # server → what the mapping says of its profile
    layouts: dict[str, int] = field(default_factory=dict)
    repeats: dict[tuple[int, int], tuple[int, bool]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep an assumption for the report, once."""
        if text not in self.notes:
            self.notes.append(text)


def _read(binding: Binding, collected: _Collected) -> Iterator[Batch]:
    """Read one file into pieces."""
    layout, tally = binding.layout, collected.tally
    title = layout.layout_name or "file"
    collected.layouts[title] = collected.layouts.get(title, 0) + 1
    modified = datetime.fromtimestamp(binding.file.path.stat().st_mtime, timezone.utc)
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
        collected.pieces.append(Piece(server, time, metrics, state, repaired))


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


# -------------------------------------------------------------------------------------------------------------- limits
def _refuse_nothing(collected: _Collected, files: list[str]) -> None:
    """An import that has no rows is an error, with the reason."""
    tally = collected.tally
    if not tally.rows_in:
        raise DataFileError(
            f"There are no rows in {shorten(files)}.",
            why="Without rows there is nothing to validate, learn from or forecast.",
            fix="Check that the file is the one you meant and that it was written to its end.",
            document=DOCUMENT,
        )
    if collected.pieces:
        return
    reasons = [
        f"{rule} {count:,}{_for_example(tally, rule)}: {RULES_BY_NAME[rule].text}"
        for rule, count in tally.dropped().items()
    ]
    reasons += _value_repairs(tally, METRIC_COLUMNS)
    raise ImportMappingError(
        f"Not one of the {tally.rows_in:,} rows could be used:\n" + "\n".join(f"    - {reason}" for reason in reasons),
        why="An import without rows would look like a fleet without servers.",
        fix="Correct `format`, `unit` or `timezone` in [time], the columns and units in [metrics], or "
        "`source.decimal`; or the source itself.",
    )


def _refuse_dead_metrics(rows: Rows, tally: Tally) -> None:
    """A metric of which no value could be used although there were some speaks for a wrong unit or number format."""
    dead = [
        metric
        for metric, values in rows.metrics.items()
        if any(tally.values.get(rule, Counter())[metric] for rule in ("not_a_number", "above_limit"))
        and bool(np.isnan(values).all())
    ]
    if dead:
        listed = "\n".join(f"    - {fault}" for fault in _value_repairs(tally, dead))
        raise ImportMappingError(
            f"Not one value could be used of:\n{listed}",
            why="The whole metric would be missing although the source has it.",
            fix="Correct the `unit` of the metric, `of`, `clip_up_to`, or `source.decimal`; or leave the metric out.",
        )


def _value_repairs(tally: Tally, metrics: Sequence[str]) -> Iterator[str]:
    """What was repaired of some metrics, one sentence each."""
    for metric in metrics:
        counts = [
            f"{rule} {found[metric]:,}{_for_example(tally, f'{rule}.{metric}')}"
            for rule, found in tally.values.items()
            if found[metric]
        ]
        if counts:
            yield f"`{metric}`: {', '.join(counts)}"


def _for_example(tally: Tally, key: str) -> str:
    return f" (e.g. {tally.examples[key]})" if key in tally.examples else ""


def _warnings(rows: Rows, tally: Tally, interval: float | None) -> Iterator[str]:
    """What looks wrong although it could be imported."""
    for rule, count in tally.dropped().items():
        if rule not in {"no_metrics", "duplicate", "merged"} and count > 0.05 * tally.rows_in:
            share = f"{100 * count / tally.rows_in:.0f} % of the rows"
            yield f"{share} were dropped by the rule {rule}{_for_example(tally, rule)}"
    for rule, counts in tally.values.items():
        for metric, count in counts.items():
            if RULES_BY_NAME[rule].effect == "value missing" and count > 0.05 * tally.present[metric]:
                share = f"{100 * count / tally.present[metric]:.0f} % of the values of {metric}"
                yield f"{share} are missing by the rule {rule}{_for_example(tally, f'{rule}.{metric}')}"
    for metric in ("cpu_pct", "mem_pct"):
        values = rows.metrics.get(metric)
        if values is not None and len(values) >= 100 and 0 < np.nanmax(values, initial=0.0) <= 1:
            yield f'no value of {metric} is above 1 %: if they are ratios, set `unit = "ratio"`'
    if interval is not None and interval > STEP_MINUTES:
        yield (
            f"there is one sample every {interval:g} minutes, but the model's step is {STEP_MINUTES}: "
            "the steps between stay missing"
        )


# ------------------------------------------------------------------------------------------------------------- writing
def _write(rows: Rows, collected: _Collected, mapping: Mapping, out_dir: Path, advance: Progress) -> ImportReport:
    """Write the three files aside, validate them, and move them into place together."""
    made = not out_dir.exists()
    try:
        with written_together(out_dir, (SERVER_MAPPING, DATA_INFO, DATA_FILE)) as aside:
            derived = _write_rows(rows, aside / DATA_FILE, advance)
            advance(_READ_STEPS + 1_500, _STEPS)
            found = DataValidator(strict=True).validate_file(
                aside / DATA_FILE,
                lambda done, total: advance(_READ_STEPS + 1_500 + 1_500 * done // max(total, 1), _STEPS),
            )
            report = _report(rows, collected, mapping, out_dir, found, derived)
            encoder = ServerEncoder()
            encoder.create_mapping(rows.names)
            encoder.save_mapping(aside / SERVER_MAPPING)
            write_json(aside / DATA_INFO, _metadata(report, found))
    except OSError as error:
        cause = error.__cause__ if isinstance(error, DataFileError) else error
        if not isinstance(cause, OSError):
            raise
        raise DataFileError(
            f"The import cannot be written to {out_dir}: {_os_reason(cause)}.",
            why="The next stages read it from there; nothing half-written was left behind.",
            fix="Free some space, or choose another folder with --out_dir, then import again.",
            document=DOCUMENT,
        ) from error
    finally:
        if made and out_dir.is_dir() and not any(out_dir.iterdir()):
            out_dir.rmdir()
    advance(_STEPS, _STEPS)
    return report


def _write_rows(rows: Rows, path: Path, advance: Progress) -> int:
    """Write the rows; return for how many the state was derived."""
    names = pa.array(rows.names, pa.string())
    states = pa.array(VALID_STATES, pa.string())
    profile_codes = np.array([VALID_PROFILES.index(profile) for profile in rows.profiles], np.int32)
    profiles = pa.array(VALID_PROFILES, pa.string())
    total, derived = len(rows.time), 0
    with open_writer(path) as writer:
        for begin in range(0, total, _ROWS_PER_GROUP):
            part = slice(begin, begin + _ROWS_PER_GROUP)
            count = len(rows.time[part])
            metrics = {name: values[part] for name, values in rows.metrics.items()}
            state = derive_states(metrics, count)
            if rows.state is not None:
                state = np.where(rows.state[part] == NO_STATE, state, rows.state[part])
                derived += int((rows.state[part] == NO_STATE).sum())
            else:
                derived += count
            server = rows.server[part]
            columns = {
                TIMESTAMP: pa.array(rows.time[part]).cast(pa.timestamp("us", tz="UTC")),
                SERVER_NAME: pa.DictionaryArray.from_arrays(pa.array(server), names),
                **{
                    name: pa.array(metrics[name], from_pandas=True)
                    if name in metrics
                    else pa.nulls(count, pa.float32())
                    for name in METRIC_COLUMNS
                },
                STATE: pa.DictionaryArray.from_arrays(pa.array(state.astype(np.int32)), states),
                PROFILE: pa.DictionaryArray.from_arrays(pa.array(profile_codes[server]), profiles),
            }
            writer.write(pa.table(columns))
            advance(_READ_STEPS + 1_500 * (begin + count) // total, _STEPS)
    return derived


def _report(
    rows: Rows, collected: _Collected, mapping: Mapping, out_dir: Path, found: ValidationReport, derived: int
) -> ImportReport:
    tally = collected.tally
    assert found.start is not None and found.end is not None
    apart = np.diff(rows.time)[rows.server[1:] == rows.server[:-1]]
    interval = float(np.median(apart)) / 60e6 if len(apart) else None
    repaired = int(rows.repaired.sum())
    lost = tuple(sorted(set(collected.servers.names) - set(rows.names)))
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
        rows_repaired=repaired,
        rows_unchanged=found.rows - repaired,
        servers=found.servers,
        start=iso_z(found.start),
        end=iso_z(found.end),
        interval_minutes=interval,
        reported={name: 1 - found.missing[name] / found.rows for name in METRIC_COLUMNS},
        profiles=found.profiles,
        states=found.states,
        states_derived=derived,
        servers_without_metrics=lost,
        notes=tuple(collected.notes),
        warnings=(*collected.warnings, *_warnings(rows, tally, interval), *found.warnings),
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
