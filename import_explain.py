"""What an unknown file holds and how it could be imported: a preset that fits, or a mapping that is proposed, and why.

Looks at a bounded sample, tries what it proposes with the importer's own readers, and says how sure each part is. What
is not there is not proposed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from common_utils import atomic_path, iso_z
from data_contract import (
    METRIC_COLUMNS,
    PROFILE,
    SERVER_NAME,
    STATE,
    TIMESTAMP,
    DataFileError,
    ImportMappingError,
    ProductError,
)
from explain_keys import guess_profile, guess_server, guess_state, server_pattern
from explain_metrics import found_any, guess_metrics
from explain_names import Meaning, meaning, meanings, words
from explain_sample import Sample, find_data, first_with_rows
from explain_times import TimeGuess, guess_time
from explain_toml import mapping_toml
from explain_tools import CPU, DISK, LATENCY, MEMORY
from explain_trial import PresetFit, Trial, best_preset, misfits, try_mapping
from explain_values import Confidence, Facts, Finding, codes_of, facts_of, joined, rows_in_order, typical_step
from import_cells import NO_TIME, Integers
from import_mapping import PRESETS_FOLDER, Mapping, SourceSection
from import_sources import DOCUMENT, SourceFile

_UNUSED_SHOWN: Final = 20


@dataclass(frozen=True)
class Explanation:
    """What was seen and what is proposed.

    Attributes
    ----------
    paths : tuple of str
        What was named.
    files : int
        Data files that were found.
    sampled_file : str
        The one that was looked at.
    kind : str
        `csv` or `parquet`.
    form : dict
        How text is read: `[source]` of the mapping.
    columns : int
        Columns of the file.
    rows_sampled, rows_in_all : int, int or None
        Rows looked at, and that there are if that is known.
    servers : int
        Servers in the sample, or files if each is one.
    start, end : str
        First and last time in the sample; empty if there is none.
    interval_minutes : float or None
        Most usual time between the rows of a server.
    findings : tuple of Finding
        One for each column of the contract.
    evidence : dict
        Column of the contract → what its values are in the contract's units, in words.
    unused : tuple of (str, str)
        Columns that are not used, and why; at most 20.
    unused_in_all : int
        How many there are.
    preset : PresetFit or None
        The shipped mapping that fits best.
    take_preset : bool
        Whether it is to be taken rather than the mapping.
    mapping : Mapping or None
        What is proposed; None if no metric was found.
    toml : str
        The same as a file with comments; empty if there is none.
    warnings : tuple of str
        What to look at.
    """

    paths: tuple[str, ...]
    files: int
    sampled_file: str
    kind: str
    form: dict[str, Any]
    columns: int
    rows_sampled: int
    rows_in_all: int | None
    servers: int
    start: str
    end: str
    interval_minutes: float | None
    findings: tuple[Finding, ...]
    evidence: dict[str, str]
    names: dict[str, list[str]]
    unused: tuple[tuple[str, str], ...]
    unused_in_all: int
    preset: PresetFit | None
    take_preset: bool
    mapping: Mapping | None
    toml: str
    warnings: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """The same for `--json`."""
        return {
            "paths": list(self.paths),
            "files": self.files,
            "sampled_file": self.sampled_file,
            "kind": self.kind,
            "form": self.form,
            "columns": self.columns,
            "rows_sampled": self.rows_sampled,
            "rows_in_all": self.rows_in_all,
            "servers": self.servers,
            "start": self.start,
            "end": self.end,
            "interval_minutes": self.interval_minutes,
            "proposal": {
                finding.field: {
                    "columns": self.names[finding.field],
                    "unit": finding.unit,
                    "confidence": finding.confidence,
                    "evidence": self.evidence.get(finding.field, ""),
                    "why": list(finding.why),
                    "warnings": list(finding.warnings),
                }
                for finding in self.findings
            },
            "unused": [{"column": name, "why": why} for name, why in self.unused],
            "unused_in_all": self.unused_in_all,
            "preset": None if self.preset is None else {**self.preset.as_dict(), "recommended": self.take_preset},
            "mapping": None
            if self.mapping is None
            else self.mapping.model_dump(mode="json", exclude_defaults=True, exclude_none=True),
            "mapping_toml": self.toml,
            "warnings": list(self.warnings),
        }

    @property
    def source(self) -> str:
        """What was named, for people."""
        return joined(self.paths, 3)

    @property
    def fault(self) -> ImportMappingError | None:
        """The error to end with if nothing can be imported."""
        if self.mapping is not None:
            return None
        seen = "; ".join(f"{name!r:.60} {why}" for name, why in self.unused[:6])
        seen += f"; and {self.unused_in_all - 6:,} more" if self.unused_in_all > 6 else ""
        time = self.findings[0]
        if not time.section and found_any({f.field: f for f in self.findings if f.field in METRIC_COLUMNS}):
            return ImportMappingError(
                f"No times can be read in {self.source}: {'; '.join(time.why)}.",
                why="A value without its time cannot be placed, and made-up times would teach a rhythm that is none.",
                fix="Write a mapping file with `time.format` for these times, or export them as ISO 8601 with year.",
            )
        return ImportMappingError(
            f"No metric was found in {self.source}: {seen or 'no column can be read'}.",
            why="CPU, memory, disk I/O and latency must be recognised by their names; a guess at numbers alone would "
            "invent what nobody measured.",
            fix="If you know which column is which metric, write a mapping file and give it with --mapping: columns "
            "may be named by their place.",
        )


def explain(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Explanation:
    """Look at a file, or a folder of files, and propose how to import it.

    Parameters
    ----------
    paths : path or sequence of paths
        CSV or Parquet files, or a folder of them.

    Raises
    ------
    DataFileError
        If nothing can be read there.
    """
    listed = [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]
    files, pattern = find_data(listed)
    sample = first_with_rows(files, str(listed[0]), lambda name: meaning(name) is not None)
    return _Explainer(tuple(map(str, listed)), files, pattern, sample).explained()


def write_mapping(path: str | os.PathLike[str], explanation: Explanation, *, force: bool) -> None:
    """Write the proposed mapping as a file; one that is there already is kept unless `force`.

    Raises
    ------
    ImportMappingError
        If there is such a file.
    DataFileError
        If it cannot be written.
    """
    path = Path(path)
    if path.exists() and not (force and path.is_file()):
        raise ImportMappingError(
            f"{path} is there already.",
            why="A mapping that somebody corrected by hand would be lost.",
            fix="Choose another name" + ("." if path.is_dir() else ", or say --force to replace it."),
        )
    try:
        with atomic_path(path) as partial:
            partial.write_text(explanation.toml, encoding="utf-8")
    except OSError as error:
        raise DataFileError(
            f"The mapping cannot be written to {path}: {error.strerror or error}.",
            why="The next import reads it from there; nothing half-written was left behind.",
            fix="Choose another folder or free some space; without --write the mapping is printed.",
            document=DOCUMENT,
        ) from error


# ---------------------------------------------------------------------------------------------------------- explaining
class _Explainer:
    """Puts together what the parts find."""

    def __init__(self, paths: tuple[str, ...], files: list[SourceFile], pattern: str | None, sample: Sample) -> None:
        self._paths = paths
        self._files = files
        self._pattern = pattern
        self._sample = sample
        self._warnings = list(sample.warnings)
        self._modified = datetime.fromtimestamp(sample.file.path.stat().st_mtime, timezone.utc)
        self._said, self._context = _meanings(sample)
        self._refused: dict[int, str] = {}

    def explained(self) -> Explanation:
        """Everything that can be said."""
        sample, said = self._sample, self._said
        time = guess_time(sample, said, self._modified)
        paths = [file.path for file in self._files]
        server = guess_server(sample, said, time.times, time.columns, paths)
        codes = self._servers(server)
        order, same = rows_in_order(time.times, codes)
        interval = typical_step(time.times, order, same)
        if not time.columns and codes is not None and len(np.unique(codes[codes >= 0])) > 1:
            time = replace(
                time, section={}, why=(*time.why, "and rows of several servers cannot be counted"), warnings=()
            )
        numbers = SourceSection(decimal="," if sample.decimal == "," else ".")
        taken = {*time.columns, *server.columns}
        facts = {c.place: facts_of(c, numbers, order, same) for c in sample.columns if c.place not in taken}
        metrics = guess_metrics(sample, said, facts, interval if time.columns else None, self._per_period)
        self._refused = metrics.refused
        state = guess_state(sample, said, sorted(taken))
        profile = guess_profile(sample, said, sorted({*taken, *state.columns}))
        findings = {
            TIMESTAMP: _time_finding(time),
            SERVER_NAME: server,
            **metrics.findings,
            STATE: state,
            PROFILE: profile,
        }
        mapping, toml, trial = self._proposed(findings)
        preset = best_preset(sample.file)
        take_preset = preset is not None and self._prefers(preset, findings, trial, mapping)
        if mapping is None and preset is not None:
            mapping = preset.mapping
            toml = (PRESETS_FOLDER / f"{preset.name}.toml").read_text(encoding="utf-8")
        self._look_around(findings, facts, time, codes)
        used = {place for finding in findings.values() for place in finding.columns}
        unused = [(c.name, self._why_unused(c.place, facts)) for c in sample.columns if c.place not in used]
        known = time.times[time.times != NO_TIME]
        evidence = trial.evidence() if trial is not None else {}
        counted = len(self._files) if server.section == {"from_file_name": True} or not server.columns else 0
        folder = server.columns and sample.names[server.columns[0]] in sample.file.constants
        if folder:
            key = sample.names[server.columns[0]]
            counted = len({file.constants.get(key) for file in self._files})
        # What is doubtful in a proposal that nobody needs is not worth a warning.
        told = [
            warning
            for name, finding in findings.items()
            for warning in finding.warnings
            if mapping is not None and (not take_preset or (name in METRIC_COLUMNS and finding.confidence != "guess"))
        ]
        return Explanation(
            paths=self._paths,
            files=len(self._files),
            sampled_file=str(sample.file.path),
            kind=sample.kind,
            form=sample.source_section(),
            columns=len(sample.names),
            rows_sampled=sample.rows,
            rows_in_all=sample.rows_in_all,
            servers=counted or (len(np.unique(codes[codes >= 0])) if codes is not None else 1),
            start=_iso(known.min()) if len(known) else "",
            end=_iso(known.max()) if len(known) else "",
            interval_minutes=interval,
            findings=tuple(findings.values()),
            evidence=evidence,
            names={name: [sample.names[place] for place in finding.columns] for name, finding in findings.items()},
            unused=tuple(unused[:_UNUSED_SHOWN]),
            unused_in_all=len(sample.names) - len(used),
            preset=preset,
            take_preset=take_preset,
            mapping=mapping,
            toml=toml,
            warnings=tuple(dict.fromkeys([*self._warnings, *told])),
        )

    def _servers(self, server: Finding) -> Integers | None:
        if not server.columns:
            return None
        cells = next(column.cells for column in self._sample.columns if column.place == server.columns[0])
        coded = codes_of(cells)
        return None if coded is None else coded[1]

    def _per_period(self, place: int) -> bool:
        """Whether a column's bytes are of a sampling period: CloudWatch's are."""
        says = self._said[place]
        aws = {"aws", "ec2", "rds", "ebs", "cloudwatch", "elb"} & set(words(self._context))
        return says is not None and ("CloudWatch" in says.why or bool(aws))

    # -------------------------------------------------------------------------------------------------------- proposing

    def _proposed(self, findings: dict[str, Finding]) -> tuple[Mapping | None, str, Trial | None]:
        """Mapping of the findings, tried on the file; metrics of which the importer can use nothing are taken out."""
        if not findings[TIMESTAMP].section:
            return None, "", None
        while found_any({name: findings[name] for name in METRIC_COLUMNS}):
            toml = mapping_toml(self._name(), self._source_section(findings[SERVER_NAME]), findings, self._sample)
            try:
                mapping = toml.mapping()
                trial = try_mapping(self._sample.file, mapping)
            except ProductError as error:
                self._warnings.append(f"what was found cannot be imported: {error.what}")
                for name in METRIC_COLUMNS:
                    if findings[name].section:
                        findings[name] = Finding(name, why=("what was found cannot be imported",))
                return None, "", None
            if trial.rows and not trial.readable:
                findings[TIMESTAMP] = Finding(TIMESTAMP, why=("not one sampled row has a readable time and server",))
                return None, "", None
            dead = [name for name in METRIC_COLUMNS if findings[name].section and trial.is_dead(name)]
            if not dead and not trial.usable():
                for name in METRIC_COLUMNS:
                    if findings[name].section:
                        findings[name] = Finding(name, why=("has no value in the sample: stays missing",))
                return None, "", None
            if not dead:
                self._warnings += [*trial.warnings(), *misfits(self._files, self._sample.file, mapping)]
                return mapping, toml.text, trial
            for name in dead:
                for place in findings[name].columns:
                    self._refused[place] = f"the importer can use none of its values: {trial.faults(name)}"
                findings[name] = Finding(name, why=(f"not one sampled value can be used: {trial.faults(name)}",))
        return None, "", None

    def _name(self) -> str:
        stem = re.sub(r"[^A-Za-z0-9]+", "-", self._sample.file.path.name.split(".")[0]).strip("-").lower()
        return stem[:40] or "proposed"

    def _source_section(self, server: Finding) -> dict[str, Any]:
        section = self._sample.source_section()
        pattern = self._pattern
        if server.section == {"from_file_name": True}:
            pattern = server_pattern([file.path for file in self._files]) or pattern
        if pattern is not None:
            section["file_pattern"] = pattern
        return section

    def _prefers(
        self, preset: PresetFit, findings: dict[str, Finding], trial: Trial | None, mapping: Mapping | None
    ) -> bool:
        """Whether the preset is to be taken: it brings as many metrics, and its values are not contradicted."""
        if mapping is None or trial is None:
            return True
        own = {name for name in METRIC_COLUMNS if findings[name].section}
        lost = own - set(preset.trial.usable())
        if lost and not preset.by_file_name:
            return False
        for name, has in ((STATE, preset.trial.has_state), (PROFILE, preset.trial.has_profile)):
            if findings[name].section and findings[name].confidence != "guess" and not has:
                return False
        for name in own & set(preset.trial.usable()):
            mine, theirs = trial.middle(name), preset.trial.middle(name)
            if not preset.by_file_name and abs(mine - theirs) > 0.02 * max(abs(mine), abs(theirs)):
                self._warnings.append(
                    f"the preset {preset.name} would read {name} as {theirs:.4g} in the middle, "
                    f"this mapping as {mine:.4g}"
                )
                return False
        return True

    # -------------------------------------------------------------------------------------------------- looking around

    def _look_around(
        self, findings: dict[str, Finding], facts: dict[int, Facts], time: TimeGuess, codes: Integers | None
    ) -> None:
        """Warn of what makes a table unfit although its columns are known."""
        self._look_for_several_rows(findings, time, codes)
        sample = self._sample
        for column in sample.columns:
            says = self._said[column.place]
            if says is None or says.role != "metric" or column.place in findings[SERVER_NAME].columns:
                continue
            coded = codes_of(column.cells)
            several = [text for text in coded[0] if text.strip()] if coded else []
            if len(several) > 1 and any(said is not None and said.role == "value" for said in self._said):
                self._warnings.append(
                    f"each row is of one quantity, named in {column.name!r:.60} "
                    f"({joined([repr(t)[:30] for t in several], 4)}): the importer reads one column per metric; "
                    "split or pivot the table first"
                )
                for place, said in enumerate(self._said):
                    if said is not None and said.role == "value":
                        self._refused[place] = f"holds another quantity in each row (see {column.name!r:.60})"
        if not any(findings[name].section for name in METRIC_COLUMNS):
            nameless = [
                c
                for c in sample.columns
                if c.place in facts
                and facts[c.place].is_number
                and ((says := self._said[c.place]) is None or says.role == "server")
            ]
            if len(nameless) >= 3 and sample.has_header and time.columns and not findings[SERVER_NAME].columns:
                self._warnings.append(
                    f"{len(nameless):,} columns of numbers, e.g. {joined([repr(c.name)[:40] for c in nameless], 3)}, "
                    "may be one server each: the importer reads one row per server and time; turn the table first"
                )

    def _look_for_several_rows(self, findings: dict[str, Finding], time: TimeGuess, codes: Integers | None) -> None:
        """Warn if a server has several rows at one time, and name the column that tells them apart."""
        known = time.times != NO_TIME
        if not time.columns or known.sum() < 2:
            return
        who = np.zeros(len(known), np.int64) if codes is None else codes
        keys = np.stack([time.times[known], who[known]])
        repeated = 1 - np.unique(keys, axis=1).shape[1] / keys.shape[1]
        if repeated < 0.05:
            return
        used = {place for finding in findings.values() for place in finding.columns}
        for column in self._sample.columns:
            coded = (
                codes_of(column.cells)
                if column.place not in used and not pa.types.is_floating(column.cells.type)
                else None
            )
            if coded is None or not 1 < len(coded[0]) <= max(0.2 * len(known), 2):
                continue
            finer = np.vstack([keys, coded[1][known]])
            if np.unique(finer, axis=1).shape[1] >= 0.99 * keys.shape[1]:
                self._warnings.append(
                    f"{100 * repeated:.3g} % of the rows repeat server and time; {column.name!r:.60} tells them apart "
                    f"({joined([repr(text)[:30] for text in coded[0]], 4)}): the importer keeps the first of each, "
                    "so export only the rows of the whole machine"
                )
                return
        self._warnings.append(
            f"{100 * repeated:.3g} % of the rows repeat server and time: the importer keeps the first value of each"
        )

    def _why_unused(self, place: int, facts: dict[int, Facts]) -> str:
        if place in self._refused:
            return self._refused[place]
        says, seen = self._said[place], facts.get(place)
        if seen is None or not seen.present:
            return "is empty"
        if says is not None and says.role == "time":
            return "another time: the measurement's is taken from elsewhere"
        if says is not None and says.role in {"server", STATE, PROFILE}:
            return f"is called like a {says.role}, but its values are not, or another column is surer"
        if says is not None and says.role == "value":
            return "nothing says what its values are"
        shown = seen.told() if seen.is_number else joined([repr(text)[:30] for text in seen.examples], 2)
        if not self._sample.has_header and self._sample.names[place] == str(place + 1):
            return f"has no name, and its values alone ({shown}) do not say what they are"
        return f"no metric of the contract is called so ({shown})"


def _meanings(sample: Sample) -> tuple[list[Meaning | None], str]:
    """What the columns' names say, with the help of the file's name and of columns that never change."""
    said: list[Meaning | None] = [None] * len(sample.names)
    named = sample.has_header or sample.names != [str(place) for place in range(1, len(sample.names) + 1)]
    looked_at = [column for column in sample.columns if named or column.name in sample.file.constants]
    for column, says in zip(looked_at, meanings([column.name for column in looked_at]), strict=True):
        said[column.place] = says
    around = []
    for column in looked_at:
        says = said[column.place]
        hint = says is None or says.role == "metric" or (says.role == "server" and says.strength == 1)
        coded = codes_of(column.cells) if hint else None
        if coded is not None and len(coded[0]) == 1 and len(coded[0][0]) <= 80:
            around.append(coded[0][0])
    for context in (*around, re.sub(r"\..*", "", sample.file.path.name)):
        subjects = {says.role for says in (meaning(word) for word in _subjects(context)) if says is not None}
        if len(subjects & {CPU, MEMORY, DISK, LATENCY}) == 1:
            break
    else:
        return said, " ".join(around)
    if not named and len(sample.columns) - len(sample.file.constants) <= 3:
        return said, context
    helped = meanings([column.name for column in looked_at], context)
    for column, says in zip(looked_at, helped, strict=True):
        said[column.place] = says
    return said, context


def _subjects(context: str) -> tuple[str, ...]:
    return (context, *words(context))


def _time_finding(time: TimeGuess) -> Finding:
    if not time.section:
        return Finding(TIMESTAMP, why=time.why)
    confidence: Confidence = (
        "sure" if time.confidence == "sure" else "likely" if time.confidence == "likely" else "guess"
    )
    unit = time.section.get("unit") or time.section.get("format") or ("counted" if not time.columns else "ISO 8601")
    shown = " | ".join(unit) if isinstance(unit, list) else str(unit)
    return Finding(TIMESTAMP, time.columns, time.section, shown, confidence, time.why, time.warnings)


def _iso(moment: Any) -> str:
    return iso_z(datetime.fromtimestamp(int(moment) / 1e6, timezone.utc).replace(microsecond=0))


def _self_check() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        rows = "".join(f"2026-01-01 00:{5 * i:02},web1,{0.1 + i / 20:.2f}\n" for i in range(10))
        path.write_text(f"when,node,cpu\n{rows}", encoding="utf-8")
        explanation = explain(path)
        assert explanation.mapping is not None and explanation.interval_minutes == 5
        assert explanation.mapping.layouts[0].metrics["cpu_pct"].unit == "ratio"
        assert explanation.names[SERVER_NAME] == ["node"]
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
