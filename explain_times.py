"""Which columns of a sample hold the time, how they are written, and how sure that is.

Every proposal is read by the importer's own reader before it is made. Knows nothing of metrics.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from data_contract import ImportMappingError
from explain_names import Meaning, duration_unit
from explain_sample import Column, Sample
from import_cells import NO_TIME, Integers, TimeReader, numbers_of
from import_mapping import ISO_8601, TIME_UNITS, SourceSection, TimeSection
from import_report import Tally

_ENOUGH: Final = 0.98  # of the cells must be readable for a format to be taken without more ado
_SOME: Final = 0.5
_TRIED: Final = 400  # different texts with which formats are tried
_DAY_US: Final = 86_400_000_000
_UNIT_WORDS: Final = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_NO_MOMENT: Final = 1e30  # nanoseconds since 1970 are far below
_EPOCH_YEARS: Final = (2000, 2100)
# Windows writes the zone of its clock into the name of the first column: (PDH-CSV 4.0) (W. Europe Standard Time)(-60)
_PERFMON: Final = re.compile(r"\(PDH-[CT]SV \d\.\d\).*\((-?\d{1,4})\)")


@dataclass(frozen=True)
class TimeGuess:
    """What is proposed for `[time]`.

    Attributes
    ----------
    section : dict
        Section of the mapping.
    columns : tuple of int
        Places of the columns; none if the times are counted.
    confidence : str
        `sure`, `likely` or `guess`.
    why : tuple of str
        The evidence.
    warnings : tuple of str
        What to look at.
    times : array of int64
        Microseconds since 1970 UTC of each sampled row, NO_TIME where unreadable.
    readable : float
        Share of the rows whose time could be read.
    """

    section: dict[str, Any]
    columns: tuple[int, ...]
    confidence: str
    why: tuple[str, ...]
    times: Integers
    readable: float
    warnings: tuple[str, ...] = ()


@dataclass
class _Found:
    """A way in which a column can be read as times."""

    section: dict[str, Any]
    columns: tuple[int, ...]
    times: Integers
    readable: float
    rank: float
    confidence: str
    why: list[str]
    warnings: list[str] = field(default_factory=list)


def guess_time(sample: Sample, said: Sequence[Meaning | None], modified: datetime) -> TimeGuess:
    """Find the time of the rows; without one it is counted from a stated beginning.

    Parameters
    ----------
    sample : Sample
        The file.
    said : sequence
        What the names say, by place.
    modified : datetime
        When the file was last written, aware: times are not later.
    """
    found = [
        guess for column in sample.columns for guess in _column_guesses(column, sample, said[column.place], modified)
    ]
    found += _pairs(sample, modified)
    if not found:
        return _unread(sample, said) or _counted(sample, modified)
    best = max(found, key=lambda guess: guess.rank)
    others = {guess.columns[0] for guess in found if guess.readable > _ENOUGH} - set(best.columns)
    if others:
        names = ", ".join(repr(sample.names[place])[:60] for place in sorted(others)[:3])
        best.why.append(f"other times stand in {names}: taken is the one that looks most like that of the measurement")
    if best.readable < _ENOUGH:
        best.warnings.append(
            f"{100 * (1 - best.readable):.3g} % of the sampled times cannot be read: their rows are dropped"
        )
    return TimeGuess(
        best.section, best.columns, best.confidence, tuple(best.why), best.times, best.readable, tuple(best.warnings)
    )


# ------------------------------------------------------------------------------------------------------------- columns
def _column_guesses(column: Column, sample: Sample, said: Meaning | None, modified: datetime) -> Iterator[_Found]:
    named = said is not None and said.role == "time"
    kind = column.cells.type
    other = said is not None and said.role not in {"time", "value", ""} and said.strength >= 2 and not said.refused
    if other and not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return  # the name says that it is something else
    rank = _rank(said, column.place)
    section = {"column": sample.reference(column.place)}
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        times = read_times(section, [column.cells], modified)
        if times is not None and len(times) and _share(times):
            why = [f"holds {kind}", *([said.why] if named and said is not None else [])]
            yield _Found(section, (column.place,), times, _share(times), rank + 5, "sure", why)
        return
    if pa.types.is_boolean(kind) or pa.types.is_binary(kind) or pa.types.is_nested(kind) or pa.types.is_null(kind):
        return
    numbers, unreadable = _numbers(column)
    numbers = np.where(np.abs(numbers) < _NO_MOMENT, numbers, np.nan)
    present = int(np.isfinite(numbers).sum())
    if present and present >= 0.9 * (present + int(unreadable.sum())):
        yield from _of_numbers(column, numbers, section, said, rank, modified)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from _of_texts(column, section, said, rank, modified)


def _rank(said: Meaning | None, place: int) -> float:
    named = said is not None and said.role == "time"
    rank = 3.0 * named - place / 10_000
    if said is not None and named:
        rank += 0.3 * said.strength - (2.0 if said.part == "end" else 0.0)
    return rank


def _numbers(column: Column) -> tuple[Any, Any]:
    return numbers_of(column.cells, SourceSection())


def _of_numbers(
    column: Column, numbers: Any, section: dict[str, Any], said: Meaning | None, rank: float, modified: datetime
) -> Iterator[_Found]:
    """Times that are numbers: since 1970, or since a moment that the file does not state."""
    values = numbers[np.isfinite(numbers)]
    named = said is not None and said.role == "time"
    middle = float(np.median(values))
    unit = _epoch_unit(middle)
    if unit is not None and float(np.mean([_epoch_unit(float(value)) == unit for value in values[:_TRIED]])) > _SOME:
        if not named and not _may_be_time(values, unit, modified):
            return
        full = {**section, "unit": unit}
        times = read_times(full, [column.cells], modified)
        if times is None:
            return
        why = [f"numbers such as {values[0]:.15g} are {_UNIT_WORDS[unit]} since 1970"]
        warnings = []
        stated = duration_unit(column.name)
        if stated and stated != unit:
            warnings.append(
                f"the name {column.name!r:.60} says {_UNIT_WORDS.get(stated, stated)}, "
                f"the values are {_UNIT_WORDS[unit]}: the values are believed"
            )
        confidence = "sure" if named else "likely"
        yield _Found(full, (column.place,), times, _share(times), rank + 2, confidence, why, warnings)
        return
    rising = len(values) > 1 and bool((np.diff(np.unique(values)) > 0).any()) and values.min() >= 0
    if not named or not rising or _looks_like_dates(column):
        return
    assert said is not None
    unit = said.unit or duration_unit(column.name) or "s"
    start = _beginning(modified, float(values.max()) * TIME_UNITS[unit] / 6e7)
    full = {**section, "unit": unit, "origin": start}
    times = read_times(full, [column.cells], modified)
    if times is not None:
        why = [
            f"numbers from {values.min():.15g} to {values.max():.15g} count from a moment that the file does not state"
        ]
        warnings = [f"`time.origin` is a placeholder ({start:%Y-%m-%d}): put in when the file really begins"]
        yield _Found(full, (column.place,), times, _share(times), rank, "guess", why, warnings)


def _may_be_time(values: Any, unit: str, modified: datetime) -> bool:
    """Whether numbers of no telling name could be times: several, and none after the file was written."""
    latest = (modified + timedelta(days=1)).timestamp() * 1e6 / TIME_UNITS[unit]
    return len(np.unique(values[:_TRIED])) > 1 and float(values.max()) <= latest


def _looks_like_dates(column: Column) -> bool:
    """Whether numbers are dates without separators: 20260101, or 20260101000500."""
    texts = _texts(column.cells)[:20]
    return bool(texts) and all(re.fullmatch(r"(?:19|20)\d{6}(?:\d{4}|\d{6})?", text) for text in texts)


def _epoch_unit(number: float) -> str | None:
    """Unit in which a number lies between 2000 and 2100 as a time since 1970; the units' ranges do not overlap."""
    for unit in ("s", "ms", "us", "ns"):
        moment = number * TIME_UNITS[unit] / 1e6
        first, last = (datetime(year, 1, 1, tzinfo=timezone.utc).timestamp() for year in _EPOCH_YEARS)
        if first <= moment < last:
            return unit
    return None


def _of_texts(
    column: Column, section: dict[str, Any], said: Meaning | None, rank: float, modified: datetime
) -> Iterator[_Found]:
    """Times that are texts: ISO 8601, or in a format that their shape tells."""
    texts = _texts(column.cells)
    examples = texts[:_TRIED]
    timelike = [text for text in examples if _is_timelike(text)]
    if not examples or len(timelike) < _SOME * len(examples):
        return
    if all(re.fullmatch(r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?[AaPp][Mm])?", text) for text in timelike):
        yield from _time_of_day(column, timelike[0], section, rank, modified)
        return
    options = _readings(timelike, section, modified, examples)
    if not options:
        return
    chosen, why, warnings, confidence = _settle(options, column, modified)
    times = read_times(chosen, [column.cells], modified)
    if times is None:
        return
    hours = _PERFMON.search(column.name)
    if hours:
        minutes = -int(hours[1])
        zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
        chosen = {**chosen, **({} if zone == "+00:00" else {"timezone": zone})}
        why.append(f"the name of the column states the zone ({hours[1]} minutes to UTC; without summer time)")
    elif not any(map(states_zone, timelike)):
        why.append("no zone is stated: taken as UTC (`time.timezone`, if they are local times)")
    if said is not None and said.role == "time":
        why.append(said.why)
    date_only = all(":" not in text and not re.search(r"\d{10}", text) for text in timelike)
    yield _Found(chosen, (column.place,), times, _share(times), rank + 3 - 1.5 * date_only, confidence, why, warnings)


def _is_timelike(text: str) -> bool:
    """Whether a text may be a time, and is no number that counts since 1970."""
    if re.fullmatch(r"[+-]?\d+(?:\.\d*)?", text):
        return bool(re.fullmatch(r"(?:19|20)\d{6}(?:\d{4}|\d{6})?", text)) and _epoch_unit(float(text)) is None
    return sum(map(str.isdigit, text)) >= 3 and bool(re.search(r"[-/.:T ]", text))


def _time_of_day(
    column: Column, example: str, section: dict[str, Any], rank: float, modified: datetime
) -> Iterator[_Found]:
    time_format = next(_times(example), None)
    if time_format is None:
        return
    full = {**section, "format": time_format, "date": "file_modified"}
    times = read_times(full, [column.cells], modified)
    if times is not None and _share(times):
        why = [f"texts such as {example!r} are a time of day; the day is taken from the file's last change"]
        warning = "the file states no day: check that it was written on the day that it tells of (`time.date`)"
        yield _Found(full, (column.place,), times, _share(times), rank, "guess", why, [warning])


def _pairs(sample: Sample, modified: datetime) -> Iterator[_Found]:
    """A date and a time of day in two columns."""
    dates: list[Column] = []
    clocks: list[Column] = []
    for column in sample.columns:
        examples = _texts(column.cells)[:50] if pa.types.is_string(column.cells.type) else []
        if examples and all(
            re.fullmatch(r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?[AaPp][Mm])?", text) for text in examples
        ):
            clocks.append(column)
        elif examples and all(next(_dates(text), None) and not re.search(r":|\d{10}", text) for text in examples):
            dates.append(column)
    for date in dates[:3]:
        for clock in sorted(clocks, key=lambda column: abs(column.place - date.place))[:1]:
            section = {"columns": [sample.reference(date.place), sample.reference(clock.place)]}
            joined = pc.binary_join_element_wise(date.cells, clock.cells, " ")
            column = Column(date.place, date.name, joined)
            for found in _of_texts(column, section, None, 4.0, modified):
                found.columns = (date.place, clock.place)
                found.why.insert(0, "one column holds the date, another the time of day")
                yield found


# ------------------------------------------------------------------------------------------------------------- formats
def _readings(
    timelike: list[str], section: dict[str, Any], modified: datetime, examples: list[str]
) -> list[tuple[dict[str, Any], Integers]]:
    """Sections with which most of the examples can be read, the best first."""
    shapes: dict[str, str] = {}
    for text in timelike:  # one example of each shape
        shapes.setdefault(re.sub(r"\d+", "9", text), text)
    formats: list[str | None] = [None]
    for text in list(shapes.values())[:6]:
        formats += [found for found in _formats(text) if found not in formats]
    cells = pa.array(examples, pa.string())
    options = []
    for text_format in formats[:24]:
        full = section if text_format is None else {**section, "format": text_format}
        times = read_times(full, [cells], modified)
        if times is not None and _share(times) > 0.02:
            options.append((full, times))
    options.sort(key=lambda option: -_share(option[1]))
    if options and _share(options[0][1]) < _ENOUGH:
        options = _several_formats(options, section, cells, modified) or options
    return options


def _several_formats(
    options: list[tuple[dict[str, Any], Integers]], section: dict[str, Any], cells: pa.Array, modified: datetime
) -> list[tuple[dict[str, Any], Integers]]:
    """The fewest formats that read together what one alone cannot, if a mapping may name several."""
    left = np.ones(len(cells), np.bool_)
    formats: list[str] = []
    for _ in range(4):
        gains = [(int((left & (times != NO_TIME)).sum()), full.get("format", ISO_8601)) for full, times in options]
        gain, best = max(gains, default=(0, ""), key=lambda item: item[0])
        if not gain:
            break
        formats.append(best)
        left &= next(times for full, times in options if full.get("format", ISO_8601) == best) == NO_TIME
    if len(formats) < 2:
        return []
    full = {**section, "format": formats}
    times = read_times(full, [cells], modified)
    return [] if times is None or _share(times) <= _share(options[0][1]) else [(full, times)]


def _settle(
    options: list[tuple[dict[str, Any], Integers]], column: Column, modified: datetime
) -> tuple[dict[str, Any], list[str], list[str], str]:
    """The reading to take, why, what to look at, and how sure it is."""
    section, times = options[0]
    text_format = section.get("format")
    example = _texts(column.cells)[0]
    mixed = _share(times) < _ENOUGH and sum(_share(other) > 0.02 for _, other in options) > 1
    if text_format is None and not mixed:
        sure = "sure" if _share(times) > _ENOUGH else "likely"
        return section, [f"texts such as {example!r:.50} are ISO 8601"], [], sure
    if isinstance(text_format, list):
        warning = f"the times are written in several formats ({', '.join(text_format)}): check that each is meant so"
        return section, [f"texts such as {example!r:.50}, in {len(text_format)} formats"], [warning], "guess"
    if mixed:
        found = [str(other.get("format", "ISO 8601")) for other, _ in options[:4]]
        warning = f"the times are written in several formats ({', '.join(found)}): only those in the first are read"
        return section, [f"texts such as {example!r:.50} fit {found[0]}"], [warning], "guess"
    rivals = [
        (other, read) for other, read in options[1:] if _share(read) >= _share(times) - 0.005 and "format" in other
    ]
    rivals = [(other, read) for other, read in rivals if not np.array_equal(read, times)]
    if not rivals:
        return section, [f"texts such as {example!r:.50} fit {text_format} alone"], [], "sure"
    months_first = bool(_PERFMON.search(column.name) or re.search(r"[AaPp][Mm]$", example))
    return _day_or_month([options[0], *rivals], example, modified, months_first=months_first)


def _day_or_month(
    options: list[tuple[dict[str, Any], Integers]], example: str, modified: datetime, *, months_first: bool
) -> tuple[dict[str, Any], list[str], list[str], str]:
    """Decide whether day or month comes first, by what the times would be, else by custom."""
    latest = int((modified + timedelta(days=1)).timestamp() * 1e6)

    def doubts(times: Integers) -> tuple[int, int, int]:
        known = times[times != NO_TIME]
        steps = np.diff(known)
        return (
            int((known > latest).sum()),  # of the future
            int((np.abs(steps) > 20 * _DAY_US).sum()),  # jumps over weeks
            int((steps < 0).sum()),
        )

    def against_custom(section: dict[str, Any]) -> bool:
        return months_first != str(section["format"]).startswith("%m")

    judged = sorted((doubts(times), against_custom(full), place) for place, (full, times) in enumerate(options))
    section = options[judged[0][2]][0]
    taken = str(section["format"])
    others = " or ".join(str(options[place][0]["format"]) for *_, place in judged[1:])
    if judged[0][0] != judged[1][0]:
        reasons = (
            "the other puts times into the future",
            "the other makes them jump",
            "the other makes them step back",
        )
        which = next(i for i in range(3) if judged[0][0][i] != judged[1][0][i])
        return section, [f"texts such as {example!r:.50} fit {taken} and {others}, but {reasons[which]}"], [], "likely"
    if months_first:
        custom = "with AM and PM, and in counters of Windows, the month comes first"
        return section, [f"texts such as {example!r:.50} fit {taken} and {others}: {custom}"], [], "likely"
    warning = f"day and month cannot be told apart in {example!r:.50}: {taken} is taken, it may be {others}"
    return section, [f"texts such as {example!r:.50} fit {taken} and {others} alike"], [warning], "guess"


def _formats(text: str) -> Iterator[str]:
    """Formats that a text may be written in, the usual ones first."""
    match = re.fullmatch(r"(?P<day>(?:[A-Za-z]{3,9},? )?.*?\d)(?P<mid>T|, | - |[ :_])(?P<clock>\d{1,2}:\d{2}.*)", text)
    if match:
        for date in _dates(match["day"]):
            for clock in _times(match["clock"]):
                yield f"{date}{match['mid']}{clock}"
        return
    if re.fullmatch(r"\d{14}|\d{12}", text):
        yield "%Y%m%d%H%M%S" if len(text) == 14 else "%Y%m%d%H%M"
    compact = re.fullmatch(r"\d{8}([ T_-])(\d{6}|\d{4})", text)
    if compact:
        yield f"%Y%m%d{compact[1]}%H%M{'%S' * (len(compact[2]) == 6)}"
    yield from _dates(text)


def _dates(text: str) -> Iterator[str]:
    weekday = re.match(r"([A-Za-z]{3,9})(,? )(?=\d|[A-Za-z])", text)
    prefix = ""
    if weekday and weekday[1][:3].lower() in {"mon", "tue", "wed", "thu", "fri", "sat", "sun"}:
        prefix = ("%a" if len(weekday[1]) == 3 else "%A") + weekday[2]
        text = text[weekday.end() :]
    if re.fullmatch(r"(?:19|20)\d{6}", text):
        yield f"{prefix}%Y%m%d"
    match = re.fullmatch(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})", text)
    if match:
        yield f"{prefix}%Y{match[2]}%m{match[2]}%d"
    match = re.fullmatch(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4}|\d{2})", text)
    if match:
        year, sign = "%Y" if len(match[4]) == 4 else "%y", match[2]
        yield f"{prefix}%d{sign}%m{sign}{year}"
        if sign != ".":
            yield f"{prefix}%m{sign}%d{sign}{year}"
            if year == "%y":
                yield f"{prefix}%y{sign}%m{sign}%d"
    match = re.fullmatch(r"\d{1,2}([-/ ])([A-Za-z]{3,9})\1(\d{4}|\d{2})", text)
    if match:
        month, year = ("%b" if len(match[2]) == 3 else "%B"), ("%Y" if len(match[3]) == 4 else "%y")
        yield f"{prefix}%d{match[1]}{month}{match[1]}{year}"
    match = re.fullmatch(r"\d{1,2}\. ([A-Za-z]{3,9}) \d{4}", text)
    if match:
        yield f"{prefix}%d. {'%b' if len(match[1]) == 3 else '%B'} %Y"
    match = re.fullmatch(r"([A-Za-z]{3,9}) \d{1,2}(,?) \d{4}", text)
    if match:
        yield f"{prefix}{'%b' if len(match[1]) == 3 else '%B'} %d{match[2]} %Y"


def _times(text: str) -> Iterator[str]:
    match = re.fullmatch(
        r"\d{1,2}:\d{2}(?P<s>:\d{2}(?P<f>[.,]\d{1,9})?)?(?P<half> ?[AaPp][Mm])?"
        r"(?P<z> ?(?:Z|[+-]\d{2}:?\d{2}|UTC|GMT))?",
        text,
    )
    if match:
        fraction = f"{match['f'][0]}%f" if match["f"] else ""
        seconds = f":%S{fraction}" if match["s"] else ""
        half = match["half"] or ""
        hour = "%I" if half else "%H"
        zone = match["z"] or ""
        space = " " * (len(zone) - len(zone.lstrip()))
        # A bare offset or Z is %z; UTC and GMT are words that pandas reads as %Z.
        stated = "" if not zone else f"{space}{'%Z' if zone.strip() in {'UTC', 'GMT'} else '%z'}"
        yield f"{hour}:%M{seconds}{' ' * half.startswith(' ')}{'%p' if half else ''}{stated}"


def states_zone(text: str) -> bool:
    """Whether a time says in which zone it is."""
    return bool(re.search(r"\d(?:\.\d+)?\s*(?:[Zz]|UTC|GMT|[+-]\d{2}:?\d{2})$", text)) and ":" in text


# ---------------------------------------------------------------------------------------------------------- no times
def _unread(sample: Sample, said: Sequence[Meaning | None]) -> TimeGuess | None:
    """Nothing, with the reason, where a column is called a time but cannot be read as one: to count would invent."""
    for column in sample.columns:
        says, texts = said[column.place], _texts(column.cells)
        if says is not None and says.role == "time" and any(map(_has_digit, texts)):
            why = f"{column.name!r:.60} is called a time, but texts such as {texts[0]!r:.50} are in no known format"
            return TimeGuess({}, (), "not found", (why,), np.full(sample.rows, NO_TIME), 0.0)
    return None


def _has_digit(text: str) -> bool:
    return any(map(str.isdigit, text))


def _counted(sample: Sample, modified: datetime) -> TimeGuess:
    """Times that are counted from a stated beginning because the file has none."""
    minutes = _interval_of_name(sample.file.path.name)
    why = ["no column holds times"]
    if minutes is None:
        minutes = 5.0
        why.append("the interval of 5 minutes is a guess")
    else:
        why.append(f"the file's name speaks of an interval of {minutes:g} minutes")
    rows = sample.rows_in_all
    if rows is None:
        size = sample.file.path.stat().st_size
        rows = int(size / max(sample.bytes_per_row, 1))
    start = _beginning(modified, rows * minutes)
    section = {"start": start, "interval_minutes": int(minutes) if minutes == int(minutes) else minutes}
    first = int(start.timestamp() * 1e6)
    times = first + np.arange(sample.rows, dtype=np.int64) * int(minutes * 60e6)
    warning = (
        f"`time.start` is a placeholder ({start:%Y-%m-%d}): put in when the file really begins, and at what interval"
    )
    return TimeGuess(section, (), "guess", tuple(why), times, 1.0, (warning,))


def _beginning(modified: datetime, minutes: float) -> datetime:
    """Midnight UTC from which so many minutes end before the file was last written."""
    span = timedelta(minutes=min(max(minutes, 0.0), 10 * 365 * 1440.0))
    moment = max(modified.astimezone(timezone.utc) - span, datetime(1971, 1, 1, tzinfo=timezone.utc))
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _interval_of_name(name: str) -> float | None:
    match = re.search(r"(?<![A-Za-z0-9])(\d{1,4}) ?(s|sec|m|min|h)(?![A-Za-z0-9])", name.replace("_", " "))
    if not match:
        return None
    minutes = int(match[1]) * {"s": 1 / 60, "sec": 1 / 60, "m": 1.0, "min": 1.0, "h": 60.0}[match[2]]
    return minutes if 0 < minutes <= 1440 else None


# ------------------------------------------------------------------------------------------------------------- reading
def read_times(section: dict[str, Any], cells: list[pa.Array], modified: datetime) -> Integers | None:
    """Times of some cells as the importer reads them; None if it refuses the section."""
    try:
        reader = TimeReader(TimeSection.model_validate(section), {}, modified, {})
        times, _ = reader.read(cells, np.zeros(len(cells[0]), np.int32), Tally())
    except (ValidationError, ImportMappingError, ValueError, OverflowError, pa.ArrowException):
        return None
    return times


def _share(times: Integers) -> float:
    return float(np.mean(times != NO_TIME)) if len(times) else 0.0


def _texts(cells: pa.Array) -> list[str]:
    """Different texts of some cells that are not empty, the first ones first."""
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        return []
    trimmed = (text.strip() for text in cells.to_pylist() if text is not None)
    return list(
        Counter(text for text in trimmed if text and text.lower() not in {"na", "n/a", "nan", "null", "none", "-"})
    )


def _self_check() -> None:
    assert list(_formats("03/04/2026 10:05 PM")) == ["%d/%m/%Y %I:%M %p", "%m/%d/%Y %I:%M %p"]
    assert list(_formats("22.11.2026 16:05")) == ["%d.%m.%Y %H:%M"]
    assert list(_formats("10/Oct/2026:13:55:36 -0700")) == ["%d/%b/%Y:%H:%M:%S %z"]
    assert _interval_of_name("dcmean_day1_300s.csv") == 5 and _interval_of_name("web1.csv") is None
    assert _epoch_unit(1.7e12) == "ms" and _epoch_unit(300) is None
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
