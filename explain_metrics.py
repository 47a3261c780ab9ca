"""Which columns of a sample are CPU, memory, disk I/O and latency, in which unit, and why the others are not.

Names propose, values confirm or refuse. A metric that no column speaks of is not found: nothing is invented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from explain_names import Meaning
from explain_sample import Sample
from explain_tools import CPU, DISK, LATENCY, MEMORY
from explain_values import Confidence, Facts, Finding, number, weaker
from import_mapping import CLIP_UP_TO, DURATION_UNITS, RATE_UNITS, SHARE_UNITS

_COUNTER: Final = "only rises: it counts since a start, and a mapping does not take differences; export its rate"


@dataclass(frozen=True)
class _Column:
    """A column that speaks of a metric."""

    place: int
    name: str
    says: Meaning
    facts: Facts

    @property
    def rank(self) -> float:
        """The clearer the name, the better; means before maxima, wholes before single cores."""
        return self.says.strength - 0.5 * self.says.statistic - 0.2 * (not self.facts.present) - len(self.name) / 10_000


@dataclass
class _Offer:
    """One way to fill a metric."""

    columns: tuple[int, ...]
    section: dict[str, Any]
    unit: str
    confidence: Confidence
    rank: float
    why: list[str]
    warnings: list[str] = field(default_factory=list)


@dataclass
class Metrics:
    """What was found: a finding per metric, and why columns near to one were not taken."""

    findings: dict[str, Finding]
    refused: dict[int, str]


def guess_metrics(
    sample: Sample,
    said: Sequence[Meaning | None],
    facts: dict[int, Facts],
    interval: float | None,
    per_period: Callable[[int], bool],
) -> Metrics:
    """Find the four metrics.

    Parameters
    ----------
    sample : Sample
        The file.
    said : sequence
        What the names say, by place.
    facts : dict
        What the values look like, by place.
    interval : float or None
        Minutes between the rows of a server.
    per_period : callable
        Whether the bytes of a column are counted per sampling period, as CloudWatch does.
    """
    refused: dict[int, str] = {}
    near: dict[str, list[_Column]] = {name: [] for name in (CPU, MEMORY, DISK, LATENCY)}
    for column in sample.columns:
        says = said[column.place]
        if says is None or column.place not in facts:
            continue
        if says.refused:
            refused[column.place] = says.refused
        elif says.role in near:
            fault = _fault(facts[column.place])
            if fault:
                refused[column.place] = fault
            else:
                near[says.role].append(
                    _Column(column.place, column.name, _with_sign(says, facts[column.place]), facts[column.place])
                )
    search = _Search(sample, refused, interval, per_period)
    findings = {
        CPU: search.best(CPU, [*search.cpu(near[CPU])], near[CPU]),
        MEMORY: search.best(MEMORY, [*search.memory(near[MEMORY])], near[MEMORY]),
        DISK: search.best(DISK, [*search.disk(near[DISK])], near[DISK]),
        LATENCY: search.best(LATENCY, [*search.latency(near[LATENCY])], near[LATENCY]),
    }
    return Metrics(findings, refused)


def _with_sign(says: Meaning, facts: Facts) -> Meaning:
    """The meaning with the unit that stands behind the numbers, if the name states none."""
    if says.unit is not None or facts.sign is None:
        return says
    unit = "percent" if facts.sign == "%" else facts.sign
    strength = min(says.strength + 1, 3)
    return replace(says, unit=unit, strength=strength, why=f"{says.why}; {facts.sign} stands behind its numbers")


def _fault(facts: Facts) -> str:
    """Why a column cannot be a metric, whatever its name."""
    if facts.present and facts.numeric < 0.5:
        return f"holds no numbers that can be read, e.g. {', '.join(map(repr, facts.examples[:2]))}"
    if facts.present and facts.high < 0:
        return "all values are negative"
    return ""


class _Search:
    """The ways in which each metric can be filled."""

    def __init__(
        self, sample: Sample, refused: dict[int, str], interval: float | None, per_period: Callable[[int], bool]
    ) -> None:
        self._sample = sample
        self._refused = refused
        self._interval = interval
        self._per_period = per_period

    def best(self, metric: str, offers: list[_Offer], near: list[_Column]) -> Finding:
        """The offer of the highest rank; the others' columns are told to be worse."""
        if not offers:
            names = [repr(column.name)[:60] for column in near]
            seen = f"; {', '.join(names[:3])} cannot be used" if names else ""
            return Finding(metric, why=(f"no usable column speaks of it{seen}: stays missing",))
        chosen = max(offers, key=lambda offer: offer.rank)
        for column in near:
            if column.place not in chosen.columns:
                self._refused.setdefault(column.place, f"another column is surer for `{metric}`")
        for place in chosen.columns:
            self._refused.pop(place, None)
        return Finding(
            metric,
            chosen.columns,
            chosen.section,
            chosen.unit,
            chosen.confidence,
            tuple(dict.fromkeys(chosen.why)),
            tuple(dict.fromkeys(chosen.warnings)),
        )

    def _section(self, columns: Sequence[_Column], **more: Any) -> dict[str, Any]:
        references = [self._sample.reference(column.place) for column in columns]
        section: dict[str, Any] = {"column": references[0]} if len(references) == 1 else {"columns": references}
        return section | {key: value for key, value in more.items() if value is not None}

    def _offer(
        self,
        columns: Sequence[_Column],
        unit: str,
        confidence: Confidence,
        why: list[str],
        warnings: list[str],
        rank: float,
    ) -> _Offer:
        told = [column.says.why for column in columns]
        for column in columns:
            if column.says.statistic >= 2:
                confidence = weaker(confidence, "likely")
                warnings = [*warnings, f"{column.name!r:.60} is a high or low quantile, not a mean"]
            if column.facts.constant:
                warnings = [
                    *warnings,
                    f"{column.name!r:.60} never changes in the sample ({number(column.facts.middle)})",
                ]
            if column.facts.missing > 0.5:
                warnings = [*warnings, f"{100 * column.facts.missing:.3g} % of {column.name!r:.60} is missing"]
        places = tuple(column.place for column in columns)
        return _Offer(places, self._section(columns, unit=unit), unit, confidence, rank, [*told, *why], warnings)

    # ------------------------------------------------------------------------------------------------------ percentages

    def cpu(self, near: list[_Column]) -> Iterator[_Offer]:
        """Busy percentage; or idle time and waiting; or the kinds of use added up; or used of capacity."""
        for column in _of(near, "busy"):
            yield from self._percentage(CPU, [column], column.rank + 0.5)
        idle, wait = _of(near, "idle")[:1], _of(near, "wait")[:1]
        if idle:
            together = [*idle, *(column for column in wait if _same_scale(column, idle[0]))]
            yield from self._percentage(CPU, together, idle[0].rank + 0.4)
        parts = _of(near, "user")
        if parts and not idle:
            yield from self._percentage(CPU, parts, parts[0].rank + (0.1 if len(parts) > 1 else -1.0))
        yield from self._shares(near)

    def memory(self, near: list[_Column]) -> Iterator[_Offer]:
        """Used percentage; or free percentage; or used of capacity."""
        amounts = []
        capacity = any(column.says.part == "capacity" for column in near)
        for column in near:
            says = column.says
            if says.part == "used" and says.unit is None and not capacity and column.facts.high <= CLIP_UP_TO[MEMORY]:
                column = replace(column, says=replace(says, part="busy"))  # noqa: PLW2901 - small as percentages are
            elif says.part == "busy" and says.unit is None and column.facts.high > CLIP_UP_TO[MEMORY]:
                column = replace(column, says=replace(says, part="used"))  # noqa: PLW2901 - too large for percent
            amounts.append(column)
        for part in ("busy", "idle"):
            for column in _of(amounts, part):
                yield from self._percentage(MEMORY, [column], column.rank + (0.5 if part == "busy" else 0.4))
        yield from self._shares(amounts)
        for column in _of(amounts, "free"):
            reason = "is an amount that is free: a mapping takes no differences; export the used amount or a percentage"
            self._refused.setdefault(column.place, reason)

    def _percentage(self, metric: str, columns: list[_Column], rank: float) -> Iterator[_Offer]:
        """Columns that hold, together, a percentage or a ratio of use or of idle time."""
        values = np.sum([column.facts.values for column in columns], axis=0)
        judged = _percent_unit(metric, columns[0], values, summed=len(columns) > 1)
        if isinstance(judged, str):
            for column in columns[:1]:
                self._refused.setdefault(column.place, judged)
            return
        unit, confidence, why, warnings = judged
        if columns[0].says.part in {"idle"}:
            unit += "_idle"
            meant = " nor waiting for I/O" if len(columns) > 1 else ""
            why.append(f"{'CPU' if metric == CPU else 'memory'} is what is not idle{meant}")
        elif columns[0].says.part == "user":
            why.append("the kinds of use are added up")
            if len(columns) == 1:
                confidence = "guess"
                warnings.append("only one kind of use is there: the true load is higher")
        yield self._offer(columns, unit, confidence, why, warnings, rank - (1.0 if confidence == "guess" else 0.0))

    def _shares(self, near: list[_Column]) -> Iterator[_Offer]:
        """A used amount and the capacity that it is a share of."""
        capacities = [column for column in _of(near, "capacity") if column.facts.is_number and column.facts.high > 0]
        for used in _of(near, "used"):
            options = [
                (judged, capacity) for capacity in capacities if (judged := _share_units(used, capacity)) is not None
            ]
            if not options:
                self._refused.setdefault(
                    used.place, "is an amount, and no column states the capacity: if you know it, say `capacity = …`"
                )
                continue
            (units, share, confidence, why), capacity = max(
                options, key=lambda option: (len(option[0][0]), option[1].rank, -abs(option[1].place - used.place))
            )
            warnings = []
            over = float(np.nanmean(share > 100)) if np.isfinite(share).any() else 0.0
            if over > 0.5:
                self._refused.setdefault(
                    used.place, f"is mostly above {capacity.name!r:.60}, so this is not its capacity"
                )
                continue
            if over:
                warnings.append(f"{100 * over:.3g} % of the shares are above 100 %: clipped or taken as missing")
            section = self._section([used], of=self._sample.reference(capacity.place), **units)
            told = [used.says.why, f"a share of {capacity.name!r:.60}", *why]
            label = f"share ({units.get('unit', 'same unit')})"
            yield _Offer((used.place, capacity.place), section, label, confidence, used.rank + 0.3, told, warnings)

    # ------------------------------------------------------------------------------------------------- rates and times

    def disk(self, near: list[_Column]) -> Iterator[_Offer]:
        """One column of all throughput, or reads and writes added up."""
        usable: list[tuple[_Column, tuple[str, Confidence, list[str], list[str]]]] = []
        for column in near:
            judged = self._rate_unit(column)
            if isinstance(judged, str):
                self._refused.setdefault(column.place, judged)
            else:
                usable.append((column, judged))
        groups = {part: [item for item in usable if item[0].says.part == part] for part in ("total", "read", "write")}
        for column, (unit, confidence, why, warnings) in groups["total"]:
            yield self._offer([column], unit, confidence, why, warnings, column.rank + 0.1)
        reads, writes = (_best_of_disks(groups[part]) for part in ("read", "write"))
        together = [*reads, *writes]
        if not together:
            return
        unit, confidence, why, warnings = together[0][1]
        same = [item for item in together if item[1][0] == unit]
        columns = [item[0] for item in same]
        for item in same:
            confidence = weaker(confidence, item[1][1])
            why, warnings = [*why, *item[1][2]], [*warnings, *item[1][3]]
        rank = min(column.rank for column in columns)
        if len(same) < len(together):
            warnings.append("reads and writes are in different units: only those of one unit are added up")
            confidence = "guess"
        if not reads or not writes:
            warnings.append(f"only {'writes' if writes else 'reads'} are there: the true disk I/O is higher")
            confidence = "guess"
        elif len(columns) > 2:
            warnings.append(f"{len(columns)} columns are added up: check that none is part of another")
            confidence = "guess"
        if reads and writes:
            why = [*why, "reads and writes are added up"]
        yield self._offer(columns, unit, confidence, why, warnings, rank)

    def _rate_unit(self, column: _Column) -> tuple[str, Confidence, list[str], list[str]] | str:
        """Unit of a throughput, how sure, why, and what to look at; or why it cannot be used."""
        facts, stated = column.facts, column.says.unit
        if facts.counter and (facts.high > 1_000 or stated in {"B", "KB"}):
            return _COUNTER
        if not facts.present:
            return _empty(stated if stated and "/" in stated else None, column)
        if not facts.is_number:
            return "holds too few numbers"
        if stated and "/" in stated:
            warnings = []
            if facts.middle * RATE_UNITS[stated][0] > 100_000:
                warnings.append(f"{number(facts.middle)} {stated} is more than any disk moves: check the unit")
            confidence: Confidence = "likely" if column.name.find("Mb") >= 0 and stated == "MB/s" else "sure"
            return stated, confidence, [f"the name states {stated}"], warnings
        if stated or self._per_period(column.place):
            return self._amount_unit(column, stated or "B")
        high = float(np.nanquantile(facts.values, 0.99))
        unit = "B/s" if high > 2e5 else "KB/s" if high > 5e3 else "MB/s"
        why = [f"values up to {number(facts.high)} would be {unit} by their size alone"]
        return unit, "guess", why, [f"the unit of {column.name!r:.60} is a guess: {unit}"]

    def _amount_unit(self, column: _Column, size: str) -> tuple[str, Confidence, list[str], list[str]]:
        """Bytes without their period: those of CloudWatch are of a sampling period, others are taken per second."""
        periods = {1.0: "min", 5.0: "5min", 60.0: "h"}
        if self._per_period(column.place) and self._interval in periods:
            unit = f"{size}/{periods[self._interval]}"
            why = [f"CloudWatch counts bytes per period, and there is one value every {self._interval:g} minutes"]
            return unit, "guess", why, [f"that {column.name!r:.60} holds sums of {self._interval:g} minutes is a guess"]
        unit = f"{size}/s"
        warning = f"{column.name!r:.60} states no period: {unit} is a guess"
        return unit, "guess", [f"amounts in {size}, which rise and fall as a rate does"], [warning]

    def latency(self, near: list[_Column]) -> Iterator[_Offer]:
        """Times of answers."""
        for column in near:
            facts, stated = column.facts, column.says.unit
            if facts.counter and facts.high > 1_000:
                self._refused.setdefault(column.place, _COUNTER)
                continue
            if not facts.present:
                judged = _empty(stated, column)
                if isinstance(judged, str):
                    self._refused.setdefault(column.place, judged)
                else:
                    yield self._offer([column], judged[0], judged[1], judged[2], judged[3], column.rank - 1)
                continue
            if not facts.is_number:
                self._refused.setdefault(column.place, "holds too few numbers")
                continue
            why, warnings = [], []
            confidence: Confidence = "sure" if column.says.strength >= 2 else "likely"
            unit = stated
            if unit is None:
                confidence = "guess"
                fractions = facts.middle < 1 and not facts.whole
                unit = "s" if fractions else "ms" if facts.middle < 1e5 else "us" if facts.middle < 1e8 else "ns"
                why.append(f"values around {number(facts.middle)} would be {unit} by their size alone")
                warnings.append(f"the unit of {column.name!r:.60} is a guess: {unit}")
            else:
                why.append(f"the name states {unit}")
                if facts.middle * DURATION_UNITS[unit][0] > 600_000:
                    warnings.append(f"{number(facts.middle)} {unit} is more than ten minutes: check the unit")
            yield self._offer([column], unit, confidence, why, warnings, column.rank - (unit != stated))


# ------------------------------------------------------------------------------------------------------------- helpers
def _of(near: list[_Column], part: str) -> list[_Column]:
    """Columns that say so, the clearest first."""
    return sorted(
        (column for column in near if column.says.part == part), key=lambda column: (-column.rank, column.place)
    )


def _same_scale(one: _Column, other: _Column) -> bool:
    """Whether two columns may be added up: both percentages, or both ratios."""
    if one.says.unit and other.says.unit:
        return one.says.unit == other.says.unit
    return not (one.facts.high > 1.5 and other.facts.high <= 1.0)


def _best_of_disks(items: list[Any]) -> list[Any]:
    """Of columns for one direction: the clearest ones, and only one of those that hold the same values."""
    if not items:
        return []
    best = max(item[0].says.strength - item[0].says.statistic for item in items)
    chosen: list[Any] = []
    for item in items:
        if item[0].says.strength - item[0].says.statistic < best:
            continue
        if any(np.array_equal(item[0].facts.values, other[0].facts.values, equal_nan=True) for other in chosen):
            continue
        chosen.append(item)
    whole = [item for item in chosen if "total" in item[0].name.lower()]
    return whole[:1] or chosen[:8]


def _empty(unit: str | None, column: _Column) -> tuple[str, Confidence, list[str], list[str]] | str:
    """A column without any value in the sample is taken only if its name says all."""
    if unit is None or column.says.strength < 3:
        return "has no value in the sample, and its name does not state a unit"
    return (
        unit,
        "guess",
        ["no value in the sample: by the name alone"],
        [f"{column.name!r:.60} has no value in the sample"],
    )


def _percent_unit(
    metric: str, column: _Column, values: Any, *, summed: bool
) -> tuple[str, Confidence, list[str], list[str]] | str:
    """`percent` or `ratio`, how sure, why, and what to look at; or why the values are neither."""
    facts, stated, strength = column.facts, column.says.unit, column.says.strength
    finite = values[np.isfinite(values)]
    if not len(finite):
        return _empty(stated, column)
    if facts.numeric < 0.9:
        return f"holds too few numbers, e.g. {', '.join(map(repr, facts.examples))}"
    high, middle, whole = float(finite.max()), float(np.median(finite)), bool((finite == np.round(finite)).all())
    if facts.counter and high > 200:
        return _COUNTER
    limit = CLIP_UP_TO[metric]
    shown = f"values from {number(float(finite.min()))} to {number(high)}"
    warnings: list[str] = []
    small = high <= 1.0 and not whole
    if stated == "ratio" and high <= 1.5:
        return "ratio", "sure", [f"the name says ratio, {shown}"], []
    if stated == "percent" and small and (column.says.part == "idle" or middle > 0.05):
        warnings.append(f"{column.name!r:.60} is called a percentage, but no value is above 1: taken as a ratio")
        return "ratio", "guess", [f"{shown}: ratios, against the name"], warnings
    if stated == "percent" and small:
        warnings.append(f"no value of {column.name!r:.60} is above 1: if it holds ratios, set unit to ratio")
        return "percent", "likely", [f"the name says percent, {shown}"], warnings
    if stated is None and small:
        confidence: Confidence = "likely" if len(finite) >= 20 and strength >= 2 else "guess"
        return "ratio", confidence, [f"{shown}: none is above 1, so they are ratios"], []
    if stated is None and facts.constant and whole and strength < 3 and not summed:
        return f"never changes ({number(middle)}): rather a size or a number of cores than a load"
    if stated is None and high <= 1.0:
        return "is only 0 and 1: a flag, not a load"
    beyond = float(np.mean(finite > limit))
    if beyond > 0.5:
        if high <= 10_000 and middle > 100 and column.name.lower().endswith(".average"):
            return "looks like hundredths of a percent, as vSphere's interface gives them: divide by 100 first"
        return f"{shown}: mostly above {limit:g}, so no percentage of the machine"
    if high > 100.0 + 0.5 * summed:
        above = 100 * float(np.mean(finite > 100))
        warnings.append(
            f"{above:.3g} % of {column.name!r:.60} is above 100 (up to {number(high)}): clipped to 100, or taken as "
            f"missing above {limit:g}"
        )
    if stated == "percent":
        return "percent", "sure", [f"the name says percent, {shown}"], warnings
    if stated == "ratio":
        warnings.append(f"{column.name!r:.60} is called a ratio, but goes up to {number(high)}: taken as percent")
        return "percent", "guess", [f"{shown}: percentages, against the name"], warnings
    confidence = "likely" if strength >= 2 or (middle > 1 and high <= 100) else "guess"
    return "percent", weaker(confidence, "guess" if beyond else "likely"), [f"{shown}: as percentages are"], warnings


def _share_units(used: _Column, capacity: _Column) -> tuple[dict[str, str], Any, Confidence, list[str]] | None:
    """Units of a used amount and its capacity, the shares in percent, how sure and why; None if they do not fit."""
    units = (used.says.unit, capacity.says.unit)
    if any(unit is not None and unit not in SHARE_UNITS for unit in units):
        return None
    base = np.where(capacity.facts.values > 0, capacity.facts.values, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = 100.0 * used.facts.values / base
    if not np.isfinite(share).any():
        return None
    section = {key: unit for key, unit in zip(("unit", "of_unit"), units, strict=True) if unit}
    if units[0] and units[1]:
        if SHARE_UNITS[units[0]][0] != SHARE_UNITS[units[1]][0]:
            return None
        share = share * SHARE_UNITS[units[0]][1] / SHARE_UNITS[units[1]][1]
        if units[0] == units[1]:
            section.pop("of_unit")
        return section, share, "sure", [f"both names state their unit ({units[0]}, {units[1]})"]
    one = units[0] or units[1]
    if float(np.nanmedian(share)) <= 105:
        known = {"unit": one} if one else {}
        why = "the used amount is below the capacity, so both are taken to be in one unit"
        return known, share, "likely", [f"{why} ({one})" if one else why]
    return None


def found_any(findings: dict[str, Finding]) -> bool:
    """Whether at least one metric was found."""
    return any(finding.section for finding in findings.values())


def _self_check() -> None:
    says = Meaning(CPU, "busy", None, 1, "")
    values = np.array([0.1, 0.5, 0.9] * 10)
    facts = Facts(values, 30, 0.0, 1.0, 0.1, 0.5, 0.9, False, False, False, ())
    judged = _percent_unit(CPU, _Column(0, "cpu", says, facts), values, summed=False)
    assert not isinstance(judged, str) and judged[0] == "ratio"
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
