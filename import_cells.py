"""How single cells become numbers, times and names, and what is repaired on the way.

Every function counts what it could not take in a `Tally`. Knows nothing of files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping as AnyMapping
from datetime import datetime, timezone, tzinfo
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data_contract import (
    ImportMappingError,
    name_fault,
)
from import_mapping import (
    CLIP_UP_TO,
    DEFAULT_UNITS,
    FILE_MODIFIED,
    FILE_NAME,
    ISO_8601,
    SHARE_UNITS,
    TIME_UNITS,
    UNITS,
    MetricSection,
    ServerSection,
    SourceSection,
    TimeSection,
)
from import_report import Tally

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

NO_TIME: Final = np.iinfo(np.int64).min
_DAY_US: Final = 86_400_000_000
_FIRST_US: Final = 0  # 1970-01-01
_LAST_US: Final = int(datetime(2200, 1, 1, tzinfo=timezone.utc).timestamp() * 1e6)
# Bare numbers are told apart by their size: as seconds, milliseconds, … of these years they do not overlap.
_LIKELY_SECONDS: Final = (
    datetime(2000, 1, 1, tzinfo=timezone.utc).timestamp(),
    datetime(2100, 1, 1, tzinfo=timezone.utc).timestamp(),
)
_EPOCH_US: Final = (  # numbers whose unit is known: what lies outside is no time since 1970
    datetime(1990, 1, 1, tzinfo=timezone.utc).timestamp() * 1e6,
    datetime(2100, 1, 1, tzinfo=timezone.utc).timestamp() * 1e6,
)
_MISSING_TEXTS: Final = ("", "na", "n/a", "nan", "null", "none", "-")
_NUMBER: Final = r"^[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf(?:inity)?|nan)$"
# A number with a unit behind it that is not the mapping's
_OTHER_UNIT: Final = (
    r"^[+-]?[\d.,]+\s*(?:%|[kmgtp]?i?b(?:[/p]?(?:s|min|h))?|[kmg]?hz|[nuµm]?s|sec|min|h|cores?|[kmgt])$"
)
_HAS_OFFSET: Final = r"[Tt ]\s*\d.*(?:[Zz]|[+-]\d{2}(?::?\d{2})?)$"
IDLE_ROUNDING: Final = 1.0  # idle and waiting time, both rounded, may add up to a bit more than 100 %


# ------------------------------------------------------------------------------------------------------------- numbers
def metric_values(
    parts: list[pa.Array],
    capacity: pa.Array | None,
    metric: str,
    section: MetricSection,
    source: SourceSection,
    tally: Tally,
) -> tuple[Singles, Mask]:
    """Values of one metric in the contract's unit, NaN for missing, and the rows in which something was repaired.

    Parameters
    ----------
    parts : list of Array
        The columns to add up; usually one.
    capacity : Array or None
        What the sum is a share of.
    metric : str
        Column of the contract.
    section, source : MetricSection, SourceSection
        What the mapping says of the metric, and of reading text.
    tally : Tally
        Counts the repairs.
    """
    numbers = [_checked(part, metric, section, source, tally) for part in parts]
    repaired: Mask = np.logical_or.reduce([bad for _, bad in numbers])
    values = np.sum([part for part, _ in numbers], axis=0)  # NaN where any part is missing
    if len(parts) > 1:
        partial = np.isnan(values) & ~np.logical_and.reduce([np.isnan(part) for part, _ in numbers])
        untouched = partial & ~repaired  # a part that was refused is counted already
        tally.count_values("partial_sum", metric, int(untouched.sum()))
        repaired |= partial
    if section.is_relative:  # shares are made of the values when all of them are known
        return values.astype(np.float32), repaired
    if not section.is_share:
        factor, offset = UNITS[metric][section.unit or DEFAULT_UNITS[metric]]
        values = values * factor + offset
        if factor < 0:  # idle time
            over = (values < 0) & (values >= -IDLE_ROUNDING)
            tally.count_values("clipped", metric, int(over.sum()), _example(values, over))
            values[over] = 0.0
            repaired |= over
            under = values < 0
            tally.count_values("negative", metric, int(under.sum()), _example(values, under))
            values[under] = np.nan
            repaired |= under
    else:
        base = _capacities(capacity, section, source, len(values))
        values, undefined = _share(values, base, section)
        tally.count_values("no_capacity", metric, int(undefined.sum()))
        repaired |= undefined
    if metric in CLIP_UP_TO:
        limit = CLIP_UP_TO[metric] if section.clip_up_to is None else section.clip_up_to
        high = values > 100.0
        if high.any():
            beyond = values > limit
            tally.count_values("above_limit", metric, int(beyond.sum()), _example(values, beyond))
            tally.count_values("clipped", metric, int((high & ~beyond).sum()), _example(values, high & ~beyond))
            values[high] = 100.0
            values[beyond] = np.nan
            repaired |= high
    return values.astype(np.float32), repaired


def _capacities(capacity: pa.Array | None, section: MetricSection, source: SourceSection, rows: int) -> Floats:
    if capacity is not None:
        return numbers_of(capacity, source)[0]
    assert isinstance(section.capacity, (int, float))
    return np.full(rows, float(section.capacity))


def _share(used: Floats, base: Floats, section: MetricSection) -> tuple[Floats, Mask]:
    """Percent that `used` is of the capacity, and where that is not defined although something was used."""
    unit = section.unit or "B"  # one unit for both: which one does not matter
    factor = SHARE_UNITS[unit][1] / SHARE_UNITS[section.of_unit or unit][1]
    usable = np.isfinite(base) & (base > 0)
    share = np.full(len(used), np.nan)
    np.divide(used * factor * 100.0, base, out=share, where=usable)
    return share, ~usable & ~np.isnan(used)


def _checked(
    array: pa.Array, metric: str, section: MetricSection, source: SourceSection, tally: Tally
) -> tuple[Floats, Mask]:
    """Numbers of a column with impossible ones taken as missing, and where that was."""
    sign = _unit_sign(metric, section)
    values, unreadable, text = _read_numbers(array, source, sign)
    bad = unreadable
    tally.present[metric] += int(np.count_nonzero(~np.isnan(values))) + int(np.count_nonzero(unreadable))
    if text is not None and sign is not None:
        tally.signed[metric] += pc.sum(pc.ends_with(text, sign)).as_py() or 0
    if text is not None and unreadable.any():
        other = pc.match_substring_regex(text, _OTHER_UNIT, ignore_case=True)
        foreign: Mask = unreadable & pc.fill_null(other, False).to_numpy(zero_copy_only=False).astype(np.bool_)
        for rule, where in (("other_unit", foreign), ("not_a_number", unreadable & ~foreign)):
            if where.any():
                tally.count_values(rule, metric, int(where.sum()), repr(text[int(np.argmax(where))].as_py()))
    infinite = np.abs(values) > np.finfo(np.float32).max
    if infinite.any():
        tally.count_values("infinite", metric, int(infinite.sum()), _example(values, infinite))
        values[infinite] = np.nan
        bad = bad | infinite
    negative = values < 0
    if negative.any():
        tally.count_values("negative", metric, int(negative.sum()), _example(values, negative))
        values[negative] = np.nan
        bad = bad | negative
    return values, bad


def _unit_sign(metric: str, section: MetricSection) -> str | None:
    """What may stand behind a number: the unit that the mapping says it has."""
    if section.is_share:
        return section.unit
    unit = section.unit or DEFAULT_UNITS[metric]
    return {"percent": "%", "percent_idle": "%", "ratio": None, "ratio_idle": None}.get(unit, unit)


def numbers_of(array: pa.Array, source: SourceSection, sign: str | None = "%") -> tuple[Floats, Mask]:
    """Cells as numbers, NaN for missing, and where a text is none (NaN there, too).

    The unit `sign` may stand behind a number.
    """
    values, unreadable, _ = _read_numbers(array, source, sign)
    return values, unreadable


def _read_numbers(array: pa.Array, source: SourceSection, sign: str | None) -> tuple[Floats, Mask, pa.Array | None]:
    """The same, and the texts where some of them are more than a plain number."""
    kind = array.type
    unreadable = np.zeros(len(array), np.bool_)
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan), unreadable, None
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).copy()
        return _unmarked(values, source), unreadable, None
    text = _without_missing(_trimmed(array), source)
    try:
        numbers = text.cast(pa.float64()).to_numpy(zero_copy_only=False).copy()
        return _unmarked(numbers, source), unreadable, None
    except pa.ArrowInvalid:
        plain = text
    if sign is not None:
        plain = pc.replace_substring_regex(plain, rf"^(.*[\d.,])\s*{re.escape(sign)}$", r"\1")
    plain = pc.utf8_lower(plain)
    if source.decimal == ",":
        plain = pc.replace_substring(plain, ",", ".")
    legible = pc.match_substring_regex(plain, _NUMBER)
    unreadable = pc.fill_null(pc.invert(legible), False).to_numpy(zero_copy_only=False).astype(np.bool_)
    numbers = pc.if_else(legible, plain, pa.scalar(None, plain.type)).cast(pa.float64())
    return _unmarked(numbers.to_numpy(zero_copy_only=False).copy(), source), unreadable, text


def _unmarked(values: Floats, source: SourceSection) -> Floats:
    """NaN in place of numbers that mean missing."""
    marks = [float(mark) for mark in source.missing_values if _is_number(mark)]
    if marks:
        values[np.isin(values, marks)] = np.nan
    return values


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def _trimmed(array: pa.Array) -> pa.Array:
    """Text without spaces around it."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        array = array.cast(pa.string())
    return pc.utf8_trim_whitespace(array)


def _without_missing(text: pa.Array, source: SourceSection) -> pa.Array:
    """Null in place of texts that mean missing."""
    marks = pa.array([*_MISSING_TEXTS, *(str(mark).lower() for mark in source.missing_values)], text.type)
    return pc.if_else(pc.is_in(pc.utf8_lower(text), marks), pa.scalar(None, text.type), text)


def _example(values: Floats, where: Mask) -> str | None:
    return f"{values[int(np.argmax(where))]:g}" if where.any() else None


# --------------------------------------------------------------------------------------------------------------- times
class TimeReader:
    """Reads the times of one file, batch by batch.

    Parameters
    ----------
    section : TimeSection
        What the mapping says of times.
    file_groups : dict
        What the name of the file states, by group of `source.file_pattern`.
    modified : datetime
        When the file was last written, aware.
    repeats : dict
        Where each server stands in an hour that occurs twice; shared by all files of an import.
    """

    def __init__(
        self,
        section: TimeSection,
        file_groups: AnyMapping[str, str],
        modified: datetime,
        repeats: dict[tuple[int, int], tuple[int, bool]],  # (server, day) → (last local time, second pass)
    ) -> None:
        self._section = section
        self._repeats = repeats
        self._rows = 0
        self._day_us = 0
        self._latest_us: int | None = None  # a time of day may not come after this
        self.formats: Counter[str] = Counter()  # rows read by each of several formats
        self.doubtful = 0  # rows that another format reads as another time
        self.notes: list[str] = []
        if section.start is not None:
            start = file_groups["start"] if section.start == FILE_NAME else section.start
            self._start_us = self._single(start, "the file name's `start`")
            self.notes.append("the source states no times: they are counted from the mapping's `time.start`")
        elif section.date == FILE_NAME:
            self._day_us = self._single(file_groups["date"], "the file name's `date`", local=True) // _DAY_US * _DAY_US
        elif section.date == FILE_MODIFIED:
            local = modified.astimezone(section.zone).replace(tzinfo=timezone.utc)
            self._latest_us = int(local.timestamp() * 1e6)
            self._day_us = self._latest_us // _DAY_US * _DAY_US
            self.notes.append(
                "the source states only the time of day: the day is that of the file's last change "
                f"({local.date().isoformat()})"
            )
        elif section.date is not None:
            day = datetime(section.date.year, section.date.month, section.date.day, tzinfo=timezone.utc)
            self._day_us = int(day.timestamp() * 1e6)
        self._origin_us = 0
        if section.origin is not None:
            self._origin_us = self._single(section.origin, "`time.origin`")
            self.notes.append(f"times are counted from the mapping's `time.origin` {section.origin.isoformat()}")

    def read(self, arrays: list[pa.Array], servers: Codes, tally: Tally) -> tuple[Integers, Mask]:
        """Microseconds since 1970 UTC, NO_TIME for rows to drop, and the rows whose time was ambiguous."""
        rows = len(servers)
        if self._section.start is not None:
            assert self._section.interval_minutes is not None
            step = self._section.interval_minutes * 60e6
            times = self._start_us + np.rint(np.arange(self._rows, self._rows + rows) * step).astype(np.int64)
            self._rows += rows
            return times, np.zeros(rows, np.bool_)
        array = arrays[0]
        if len(arrays) > 1:
            array = pc.binary_join_element_wise(*[_trimmed(part) for part in arrays], " ")
        times, is_utc = self._parse(array)
        outside = (times != NO_TIME) & ((times < _FIRST_US - _DAY_US) | (times >= _LAST_US + _DAY_US))
        times[outside] = NO_TIME
        unreadable = times == NO_TIME
        if unreadable.any():
            example = array.take(pa.array([int(np.argmax(unreadable))])).cast(pa.string())[0].as_py()
            tally.count_rows("unreadable_time", int(unreadable.sum()), repr(example))
        if self._section.zone is timezone.utc:
            return times, np.zeros(rows, np.bool_)
        local = ~is_utc & ~unreadable
        ambiguous = np.zeros(rows, np.bool_)
        if local.any():
            times[local], ambiguous[local] = self._to_utc(times[local], servers[local])
            skipped = local & (times == NO_TIME)
            if skipped.any():
                example = array.take(pa.array([int(np.argmax(skipped))])).cast(pa.string())[0].as_py()
                tally.count_rows("nonexistent_time", int(skipped.sum()), repr(example))
            tally.count_rows("ambiguous_time", int(ambiguous.sum()))
        return times, ambiguous

    # --------------------------------------------------------------------------------------------------------- parsing

    def _parse(self, array: pa.Array) -> tuple[Integers, Mask]:
        """Microseconds as they stand in the source, and whether they are UTC already."""
        kind = array.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            times = _filled(array.cast(pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False).cast(pa.int64()))
            return times, np.full(len(times), getattr(kind, "tz", None) is not None)
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            numbers = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            return self._from_numbers(numbers), np.ones(len(array), np.bool_)
        # Times repeat across servers, so each text is read once.
        coded = (array if pa.types.is_dictionary(kind) else pc.dictionary_encode(array)).cast(
            pa.dictionary(pa.int32(), pa.string())
        )
        place = pc.fill_null(coded.indices, len(coded.dictionary)).to_numpy(zero_copy_only=False)
        times, is_utc = self._from_texts(coded.dictionary, np.bincount(place, minlength=len(coded.dictionary) + 1))
        return np.append(times, NO_TIME)[place], np.append(is_utc, True)[place]

    def _from_numbers(self, numbers: Floats) -> Integers:
        """Times that are numbers of the mapping's unit, else of the unit that their size tells."""
        unit = self._section.unit
        result = np.full(len(numbers), NO_TIME)
        with np.errstate(invalid="ignore", over="ignore"):
            if unit is not None:
                moments = numbers * TIME_UNITS[unit] + self._origin_us
                low, high = float(_FIRST_US), float(_LAST_US)
                if self._section.origin is None:
                    self._doubt(numbers, unit)
                    low, high = _EPOCH_US  # a time of 0 is none
                usable = (moments >= low) & (moments < high)
                result[usable] = np.rint(moments[usable]).astype(np.int64)
                return result
            for name in ("s", "ms", "us", "ns"):
                least, most = (bound * 1e6 / TIME_UNITS[name] for bound in _LIKELY_SECONDS)
                fits = (numbers >= least) & (numbers < most)
                if fits.any():
                    result[fits] = np.rint(numbers[fits] * TIME_UNITS[name]).astype(np.int64)
                    self._note(f"times are numbers: taken as {_UNIT_WORDS[name]} since 1970, by their size")
        return result

    def _doubt(self, numbers: Floats, unit: str) -> None:
        """Refuse a unit that puts the times into another age."""
        usable = numbers[np.isfinite(numbers) & (numbers != 0)]
        if not len(usable):
            return
        middle = float(np.median(usable))
        if _EPOCH_US[0] <= middle * TIME_UNITS[unit] < _EPOCH_US[1]:
            return
        fitting = [
            name
            for name, factor in TIME_UNITS.items()
            if _LIKELY_SECONDS[0] <= middle * factor / 1e6 < _LIKELY_SECONDS[1]
        ]
        advice = f'set `unit = "{fitting[-1]}"` in [time]' if fitting else "check the column and the unit in [time]"
        raise ImportMappingError(
            f'As `unit = "{unit}"` since 1970, times such as {usable[0]:.15g} do not lie between 1990 and 2100.',
            why="With wrong times the model would learn a daily rhythm that is none.",
            fix=f"{advice[0].upper()}{advice[1:]}; numbers that count from another moment need `origin`.",
        )

    def _from_texts(self, texts: pa.Array, rows: Integers) -> tuple[Integers, Mask]:
        """Times that are texts, each of which so many rows have."""
        section = self._section
        if section.unit is not None:
            numbers, _ = numbers_of(texts, SourceSection(), None)
            return self._from_numbers(numbers), np.ones(len(texts), np.bool_)
        formats = section.formats or (ISO_8601,)
        times, is_utc = self._by_format(texts, formats[0])
        if len(formats) == 1:
            return times, is_utc
        rows = rows[: len(texts)]
        doubtful = np.zeros(len(texts), np.bool_)
        self.formats[formats[0]] += int(rows[times != NO_TIME].sum())
        for text in formats[1:]:
            others, others_utc = self._by_format(texts, text)
            fresh = (times == NO_TIME) & (others != NO_TIME)
            doubtful |= (times != others) & (times != NO_TIME) & (others != NO_TIME)
            times[fresh], is_utc[fresh] = others[fresh], others_utc[fresh]
            self.formats[text] += int(rows[fresh].sum())
        self.doubtful += int(rows[doubtful].sum())
        return times, is_utc

    def _by_format(self, texts: pa.Array, form: str) -> tuple[Integers, Mask]:
        """Times of the texts that fit a format, and which of them are UTC already."""
        text = pd.Series(pc.fill_null(_trimmed(texts), "").to_pylist(), dtype=object)
        if form != ISO_8601:
            times = _microseconds(pd.to_datetime(text, format=form, errors="coerce", utc=True))
            if not self._section.has_day:
                times[times != NO_TIME] = times[times != NO_TIME] % _DAY_US + self._day_us
                if self._latest_us is not None:
                    times[times > self._latest_us] -= _DAY_US
            return times, np.full(len(times), "%z" in form or "%Z" in form)
        text = text.str.replace(r"\s*(?:UTC|GMT)$", "Z", regex=True)
        times = _microseconds(pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True))
        is_utc = text.str.contains(_HAS_OFFSET, regex=True).to_numpy(dtype=np.bool_)
        numbers, not_numbers = numbers_of(texts, SourceSection(), None)
        counted = ~not_numbers & (numbers >= _LIKELY_SECONDS[0])  # fewer digits are dates: 20130801
        if counted.any():
            times[counted] = self._from_numbers(numbers[counted])
            is_utc = is_utc | counted
        return times, is_utc

    def _to_utc(self, local: Integers, servers: Codes) -> tuple[Integers, Mask]:
        """Times of the mapping's zone as UTC, NO_TIME where there is no such time, and which occur twice."""
        index = pd.DatetimeIndex(local.view("datetime64[us]"))
        every = np.ones(len(local), np.bool_)
        summer = _zoned(index, self._section.zone, every)
        winter = _zoned(index, self._section.zone, ~every)
        ambiguous = summer != winter
        for row in np.flatnonzero(ambiguous):
            # Rows come in the order of time: when a server's clock steps back within the hour, the second pass begins.
            key = (int(servers[row]), int(local[row] // _DAY_US))
            before, second = self._repeats.get(key, (int(local[row]) - 1, False))
            second = second or int(local[row]) < before
            self._repeats[key] = (int(local[row]), second)
            if second:
                summer[row] = winter[row]
        return summer, ambiguous

    # ------------------------------------------------------------------------------------------------------------ misc

    def _single(self, moment: object, what: str, *, local: bool = False) -> int:
        """Microseconds of one moment given in the mapping or a file name."""
        try:
            stamp = pd.Timestamp(moment if isinstance(moment, datetime) else str(moment))
            if stamp.tzinfo is None and not local:
                stamp = stamp.tz_localize(self._section.zone, ambiguous=True, nonexistent="shift_forward")
            return int(stamp.timestamp() * 1e6)
        except (ValueError, OverflowError) as error:
            raise ImportMappingError(
                f"{what} {str(moment)!r} is no moment: {error}.",
                why="All times of the file are counted from it.",
                fix="Write it as ISO 8601, e.g. 2011-03-03T00:00:00Z or 20110303.",
            ) from None

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


_UNIT_WORDS: Final = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def _zoned(index: pd.DatetimeIndex, zone: tzinfo, ambiguous: Mask) -> Integers:
    aware = index.tz_localize(zone, ambiguous=ambiguous, nonexistent="NaT")
    return _microseconds(aware.to_series())


def _microseconds(moments: pd.Series[Any]) -> Integers:
    times: Integers = (
        moments.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(dtype="datetime64[us]").astype(np.int64)
    )
    return times


def _filled(integers: pa.Array) -> Integers:
    times: Integers = pc.fill_null(integers, NO_TIME).to_numpy(zero_copy_only=False).astype(np.int64)
    return times


# --------------------------------------------------------------------------------------------------- names and choices
class ServerCodes:
    """Numbers the servers of an import in the order in which they are seen."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._codes: dict[str, int] = {}

    def code(self, name: str) -> int:
        """Number of a server, -1 for a name that cannot be used."""
        if name_fault(name):
            return -1
        code = self._codes.setdefault(name, len(self.names))
        if code == len(self.names):
            self.names.append(name)
        return code

    def read(self, array: pa.Array, section: ServerSection) -> tuple[Codes, Mask]:
        """Numbers of the servers in a column, -1 for unusable names, and which names had spaces around them."""
        texts, places = coded_texts(array)
        codes = np.full(len(texts) + 1, -1, np.int32)
        spaced = np.zeros(len(texts) + 1, np.bool_)
        for place, text in enumerate(texts):
            stripped = text.strip()
            codes[place] = self.code(full_name(stripped, section)) if stripped else -1
            spaced[place] = stripped != text
        return codes[places], spaced[places]


def full_name(name: str, section: ServerSection) -> str:
    """Name of a server as the mapping wants it."""
    return section.prefix + name.zfill(section.zero_pad)


def coded_texts(array: pa.Array) -> tuple[list[str], Integers]:
    """Distinct texts of a column, and for each cell the place of its text, -1 for none."""
    if pa.types.is_floating(array.type):  # whole numbers that were widened because some are missing
        array = pc.if_else(pc.is_finite(array), array, None)
        if pc.all(pc.equal(pc.floor(array), array)).as_py() is not False:
            array = array.cast(pa.int64(), safe=False)
    coded = array if pa.types.is_dictionary(array.type) else pc.dictionary_encode(array)
    texts = coded.dictionary.cast(pa.string()).to_pylist()
    places = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return ["" if text is None else text for text in texts], places


def choices(array: pa.Array, values: AnyMapping[str, str], valid: tuple[str, ...]) -> tuple[Integers, Mask]:
    """Places in `valid` that the cells of a state or profile column name, -1 for none, and which are foreign words."""
    texts, places = coded_texts(array)
    lookup = {word.casefold(): word for word in valid} | {word.strip().casefold(): to for word, to in values.items()}
    codes = np.full(len(texts) + 1, -1, np.int64)
    foreign = np.zeros(len(texts) + 1, np.bool_)
    for place, text in enumerate(texts):
        word = lookup.get(text.strip().casefold())
        codes[place] = -1 if word is None else valid.index(word)
        foreign[place] = word is None and text.strip().lower() not in _MISSING_TEXTS
    return codes[places], foreign[places]


def _self_check() -> None:
    tally = Tally()
    share = MetricSection(column="used", of="size", unit="KB")
    values, repaired = metric_values(
        [pa.array(["50", "x", "7", "300", "130,5"])],
        pa.array([100.0, 100.0, 0.0, 100.0, 125.0]),
        "mem_pct",
        share,
        SourceSection(decimal=","),
        tally,
    )
    assert values[0] == 50 and values[4] == 100 and np.isnan(values[1:4]).all() and repaired.tolist() == [0, 1, 1, 1, 1]
    assert {rule: sum(counts.values()) for rule, counts in tally.values.items()} == {
        "not_a_number": 1,
        "no_capacity": 1,
        "above_limit": 1,
        "clipped": 1,
    }
    section = TimeSection(column="t", timezone="Europe/Berlin")
    reader = TimeReader(section, {}, datetime.now(timezone.utc), {})
    texts = pa.array(["2026-03-29 02:30", "2026-10-25 02:30", "2026-10-25 02:00", "2026-01-01T00:00+09:00", "soon"])
    times, _ = reader.read([texts], np.zeros(5, np.int32), tally)
    assert times[2] - times[1] == 30 * 60_000_000 and times[0] == times[4] == NO_TIME
    assert tally.rows == {"unreadable_time": 1, "nonexistent_time": 1, "ambiguous_time": 2}
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
