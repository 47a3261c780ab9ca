"""What the importer itself makes of a sample: a mapping is tried before it is proposed, and so is every preset."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

import numpy as np
import pyarrow as pa

from data_contract import ImportMappingError, ProductError
from explain_sample import MAX_ROWS
from explain_values import Confidence, number, weaker
from import_cells import NO_TIME, ServerCodes, TimeReader, full_name, metric_values
from import_mapping import CLIP_UP_TO, Layout, Mapping, load_preset, presets
from import_report import Tally
from import_sources import Binding, SourceFile, bind

_OTHERS_OPENED: Final = 20
_GENERIC: Final = ("contract", "csv")  # fit many sources by their usual names


@dataclass(frozen=True)
class Trial:
    """What the first rows of a file become with a mapping.

    Attributes
    ----------
    layout : Layout
        The layout of the mapping that fits.
    rows : int
        Rows tried.
    readable : float
        Share of the rows that have a time and a server.
    values : dict
        Metric → values in the contract's units, NaN for missing.
    tally : Tally
        What was repaired.
    has_state, has_profile : bool
        Whether columns of state and role are read.
    """

    layout: Layout
    rows: int
    readable: float
    values: dict[str, Any]
    tally: Tally
    has_state: bool = False
    has_profile: bool = False

    def usable(self) -> list[str]:
        """Metrics that have values."""
        return [name for name, values in self.values.items() if np.isfinite(values).any()]

    def is_dead(self, metric: str) -> bool:
        """Whether there are values of which none can be used."""
        return (
            bool(self.rows) and metric in self.values and metric not in self.usable() and self.tally.present[metric] > 0
        )

    def faults(self, metric: str) -> str:
        """What happened to the values of a metric."""
        told = [f"{rule} {counts[metric]:,}" for rule, counts in self.tally.values.items() if counts[metric]]
        return ", ".join(told) or "they are missing in every readable row"

    def middle(self, metric: str) -> float:
        """Median in the contract's unit."""
        values = self.values[metric]
        return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")

    def evidence(self) -> dict[str, str]:
        """Minimum, median and maximum in the contract's unit and the share missing, in words."""
        told = {}
        for name, values in self.values.items():
            finite = values[np.isfinite(values)]
            if len(finite):
                gone = 1 - len(finite) / len(values)
                shown = [number(float(value)) for value in (finite.min(), np.median(finite), finite.max())]
                told[name] = " … ".join(shown) + (f", {100 * gone:.3g} % missing" if gone else "")
        return told

    def warnings(self) -> Iterator[str]:
        """What was repaired often."""
        if self.rows and self.readable < 0.95:
            lost = 100 * (1 - self.readable)
            yield f"{lost:.3g} % of the sampled rows have no readable time or server: they are dropped"
        for rule, counts in self.tally.values.items():
            for metric, count in counts.items():
                if count > 0.01 * max(self.tally.present[metric], 1) and rule != "clipped":
                    yield f"{metric}: {count:,} of the sampled values are taken as missing by the rule {rule}"


def try_mapping(file: SourceFile, mapping: Mapping) -> Trial:
    """Read the first rows of a file as an import would.

    Raises
    ------
    ProductError
        If the mapping does not fit, or the file cannot be read with it.
    """
    binding = bind(file, mapping)
    if binding is None:
        raise ImportMappingError(f"{file.path} is empty.", why="There is nothing to try.", fix="Name a file with rows.")
    tally = Tally()
    try:
        with contextlib.closing(binding.batches()) as batches:  # type: ignore[type-var]
            for batch in batches:
                rows = min(batch.rows, MAX_ROWS)
                cells = {place: array.slice(0, rows) for place, array in batch.cells.items()}
                return _tried(binding, rows, cells, tally)
    except pa.ArrowException as error:  # a column of a type that Arrow has but cannot compute with
        raise ImportMappingError(
            f"{file.path} cannot be read with the mapping “{mapping.name}”: {error}.",
            why="A mapping is only proposed if the importer can read the file with it.",
            fix="Write the columns as texts, numbers and times of usual types.",
        ) from error
    return Trial(binding.layout, 0, 0.0, {}, tally)


def _tried(binding: Binding, rows: int, cells: dict[int, pa.Array], tally: Tally) -> Trial:
    layout = binding.layout
    servers = ServerCodes()
    if binding.server is None:
        code = servers.code(full_name((binding.server_name or "").strip(), layout.server))
        server = np.full(rows, code, np.int32)
    else:
        server, _ = servers.read(cells[binding.server], layout.server)
    modified = datetime.fromtimestamp(binding.file.path.stat().st_mtime, timezone.utc)
    reader = TimeReader(layout.time, binding.file_groups, modified, {})
    times, _ = reader.read([cells[column] for column in binding.time], server, tally)
    keep = (server >= 0) & (times != NO_TIME)
    values = {}
    for bound in binding.metrics:
        parts = [cells[column].filter(pa.array(keep)) for column in bound.columns]
        capacity = None if bound.of is None else cells[bound.of].filter(pa.array(keep))
        values[bound.metric], _ = metric_values(parts, capacity, bound.metric, bound.section, layout.source, tally)
    readable = float(keep.mean()) if rows else 0.0
    return Trial(layout, rows, readable, values, tally, binding.state is not None, binding.profile is not None)


def misfits(files: Sequence[SourceFile], sampled: SourceFile, mapping: Mapping) -> Iterator[str]:
    """Which of the first files beside the sampled one a mapping does not fit."""
    others = [file for file in files if file.path != sampled.path][:_OTHERS_OPENED]
    faults = []
    for file in others:
        try:
            bind(file, mapping)
        except ProductError as error:
            faults.append((file.path.name, error.what.splitlines()))
    if faults:
        name, reason = faults[0]
        yield (
            f"the mapping does not fit {len(faults)} of {len(others)} other files that were opened, e.g. {name}: "
            f"{' '.join(line.strip() for line in reason[1:2]) or reason[0]}; import those with a mapping of their own"
        )


# ------------------------------------------------------------------------------------------------------------- presets
@dataclass(frozen=True)
class PresetFit:
    """A shipped mapping that reads the file."""

    name: str
    mapping: Mapping
    layout_name: str
    confidence: Confidence
    why: str
    by_file_name: bool
    trial: Trial

    def as_dict(self) -> dict[str, Any]:
        """The same for `--json`."""
        return {
            "name": self.name,
            "layout": self.layout_name,
            "confidence": self.confidence,
            "why": self.why,
            "metrics": self.trial.usable(),
        }


def best_preset(file: SourceFile) -> PresetFit | None:
    """The shipped mapping that reads the file best; None if none does."""
    fits = [fit for name in presets() if (fit := _fit(file, name)) is not None]
    if not fits:
        return None
    return max(fits, key=_rank)


def _rank(fit: PresetFit) -> tuple[int, int, int]:
    sure = ("not found", "guess", "likely", "sure").index(fit.confidence)
    # `contract` is the plainest of those that know the same names
    return sure, len(fit.trial.usable()), {"contract": 2, "csv": 1}.get(fit.name, 0)


def _fit(file: SourceFile, name: str) -> PresetFit | None:
    try:
        mapping = load_preset(name)
        trial = try_mapping(file, mapping)
    except ProductError:
        return None
    usable = trial.usable()
    if not usable or trial.readable < 0.9 or any(trial.is_dead(metric) for metric in trial.values):
        return None
    layout = trial.layout
    named = _named_columns(layout)
    pattern = layout.source.file_pattern
    listed = f"{', '.join(usable)} in {100 * trial.readable:.3g} % of {trial.rows:,} rows tried"
    suspicious = [
        metric
        for metric in usable
        if metric in CLIP_UP_TO
        and not layout.metrics[metric].is_relative
        and trial.rows >= 20
        and float(np.nanmax(trial.values[metric])) <= 1.0
    ]
    confidence: Confidence = "likely"
    if pattern is not None and (named or not layout.source.header):
        why = (
            f"the file's name and {'its columns' if named else 'its form'} are those of this source; it gives {listed}"
        )
        confidence = "sure" if len(named) >= 2 else "likely"
    elif len(named) >= 4 and name not in _GENERIC:
        why, confidence = f"{len(named)} columns are called as in this source; it gives {listed}", "sure"
    elif name == "contract":
        why = f"the columns are called as in the contract; it gives {listed}"
        confidence = "sure"
    else:
        why = f"columns have the names that it knows; it gives {listed}"
    relative = [name for name, section in layout.metrics.items() if section.is_relative]
    if relative:
        why = f"{why}; but {', '.join(relative)} would be shares of each server's own peak, not measured percentages"
        confidence = weaker(confidence, "likely")
    if suspicious:
        confidence, why = "guess", f"{why}; but no value of {', '.join(suspicious)} is above 1 %"
    return PresetFit(name, mapping, layout.layout_name, confidence, why, pattern is not None, trial)


def _named_columns(layout: Layout) -> set[str]:
    """Columns that a layout asks for by one name."""
    wanted: list[Any] = [layout.time.column, *layout.time.columns, layout.server.column]
    for metric in layout.metrics.values():
        wanted += [metric.column, *metric.columns, metric.of]
    return {ref for ref in wanted if isinstance(ref, str)}


def _self_check() -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_text("timestamp,server_name,cpu_pct\n2026-01-01T00:00:00Z,web1,55\n", encoding="utf-8")
        fit = best_preset(SourceFile(path))
        assert fit is not None and fit.name == "contract" and fit.trial.middle("cpu_pct") == 55
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
