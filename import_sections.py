"""What each section of a mapping file may say: sources, times, servers, metrics and their units, states and profiles.

Contradictions are refused here, in sentences; `import_mapping.py` adds the place and tells all of them at once.
"""

from __future__ import annotations

import codecs
import difflib
import re
import zoneinfo
from collections.abc import Iterator
from datetime import date as calendar_date
from datetime import datetime, timedelta, timezone, tzinfo
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from data_contract import METRIC_COLUMNS, VALID_PROFILES, VALID_STATES, shorten
from import_units import CLIP_UP_TO, SHARE_UNITS, UNITS

FILE_NAME: Final = "file_name"
FILE_MODIFIED: Final = "file_modified"
ISO_8601: Final = "ISO8601"  # among formats: what is read without any, epoch numbers, too
HIGHEST: Final = "highest"
_MOST_FORMATS: Final = 10

ColumnRef: TypeAlias = StrictStr | Annotated[StrictInt, Field(ge=1)]  # a name, or the place counted from 1


AnySections: TypeAlias = dict[str, type[BaseModel]]  # name in the file → what it may say


# ------------------------------------------------------------------------------------------------------------ sections
class Section(BaseModel):
    """Part of a mapping file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Keys of which exactly one must be given
    alternatives: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _one_alternative(self) -> Section:
        given = [name for name in self.alternatives if getattr(self, name) not in (None, (), False)]
        if self.alternatives and len(given) != 1:
            wanted = ", ".join(f"`{name}`" for name in self.alternatives)
            raise ValueError(f"give exactly one of {wanted} ({'none' if not given else ' and '.join(given)} is given)")
        return self


class SourceSection(Section):
    """How files are read."""

    format: Literal["auto", "csv", "parquet"] = Field("auto", description="auto looks at the first bytes of a file")
    file_pattern: StrictStr | None = Field(
        None, description="regular expression for the whole file name; its groups `server`, `date`, `start` may be used"
    )
    separator: StrictStr = Field("auto", description="one or more characters, `whitespace`, or `auto`")
    header: StrictBool = Field(True, description="whether the first line names the columns")
    column_names: tuple[StrictStr, ...] = Field((), description="names to use where there is no header")
    skip_lines: StrictInt = Field(0, ge=0, description="lines to skip before the header")
    encoding: StrictStr = Field("utf-8", description="text encoding, e.g. utf-8, latin-1, utf-16")
    decimal: Literal[".", ","] = Field(".", description="decimal point or comma")
    quote: StrictStr = Field('"', min_length=1, max_length=1, description="character around quoted fields")
    missing_values: tuple[StrictStr | StrictInt | StrictFloat, ...] = Field(
        (), description="values that mean missing, beside empty, NA, N/A, NaN, null, None and -"
    )

    @field_validator("separator")
    @classmethod
    def _usable_separator(cls, separator: str) -> str:
        if not separator or any(c in separator for c in "\r\n\0"):
            raise ValueError("must be one or more characters other than line breaks")
        return separator

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            if codecs.lookup(encoding)._is_text_encoding:
                return encoding
        except LookupError:
            pass
        raise ValueError(f"{encoding!r} is no text encoding; try utf-8, latin-1, cp1252 or utf-16")

    @field_validator("file_pattern")
    @classmethod
    def _usable_pattern(cls, pattern: str | None) -> str | None:
        return None if pattern is None else _compiled(pattern).pattern

    @model_validator(mode="after")
    def _no_contradictions(self) -> SourceSection:
        if self.header and self.column_names:
            raise ValueError("`column_names` is for files without a header: set `header = false`")
        if len(set(self.column_names)) != len(self.column_names):
            raise ValueError("`column_names` holds a name twice")
        return self

    @property
    def file_groups(self) -> set[str]:
        """Names of the groups of `file_pattern`."""
        return set(_compiled(self.file_pattern).groupindex) if self.file_pattern else set()


class TimeSection(Section):
    """When a row was measured."""

    alternatives = ("column", "columns", "any_of", "start")

    column: ColumnRef | None = Field(None, description="column that holds the time")
    columns: tuple[ColumnRef, ...] = Field((), description="columns to join with a space, e.g. date and time")
    any_of: tuple[ColumnRef, ...] = Field((), description="names of which the first that is there is used")
    format: StrictStr | tuple[StrictStr, ...] | None = Field(
        None, description="strptime format, or a list of them; without it ISO 8601 or epoch numbers"
    )
    unit: Literal["ns", "us", "ms", "s", "min", "h"] | None = Field(None, description="unit of times that are numbers")
    origin: datetime | None = Field(None, description="where numbers count from, if not from 1970-01-01 UTC")
    timezone: StrictStr = Field("UTC", description="zone of times that state none, e.g. Europe/Berlin or +02:00")
    date: calendar_date | Literal["file_name", "file_modified"] | None = Field(
        None, description="day of times that are a time of day only"
    )
    start: datetime | Literal["file_name"] | None = Field(
        None, description="time of the first row of files that hold values only"
    )
    interval_minutes: float | None = Field(None, gt=0, le=1440, description="time between such rows")

    @field_validator("format")
    @classmethod
    def _usable_formats(cls, given: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        formats = (given,) if isinstance(given, str) else given or ()
        for text in formats:
            if text == ISO_8601:
                continue
            if "%" not in text:
                raise ValueError(f"{text!r} has no directive such as %Y; leave it out for ISO 8601")
            try:
                datetime.strptime("", text)  # noqa: DTZ007 - only asks whether the format can be used
            except (ValueError, IndexError, re.error) as error:
                if "does not match" not in str(error):
                    raise ValueError(f"{text!r} is no strptime format: {error}") from None
        if given is not None and not 0 < len(set(formats)) == len(formats) <= _MOST_FORMATS:
            raise ValueError(f"a list holds 1 to {_MOST_FORMATS} different formats")
        return given

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        zone_of(name)
        return name

    @model_validator(mode="after")
    def _no_contradictions(self) -> TimeSection:
        if (self.start is None) != (self.interval_minutes is None):
            raise ValueError("`start` and `interval_minutes` belong together")
        if self.start is not None and (self.format or self.unit or self.origin or self.date):
            raise ValueError("`format`, `unit`, `origin` and `date` are for a time column; with `start` there is none")
        if self.unit and self.format:
            raise ValueError("`unit` is for numbers, `format` for text: give one of them")
        if self.unit and self.origin is None and self.timezone != "UTC":
            raise ValueError("numbers since 1970 are UTC by definition: leave `timezone` out")
        if self.origin is not None and self.unit is None:
            raise ValueError("`origin` needs the `unit` of the numbers")
        if len({_holds_day(text) for text in self.formats}) > 1:
            raise ValueError("some of the formats in `format` hold a day and others only the time of day")
        if self.has_day and self.date is not None:
            raise ValueError("`date` is for a `format` that holds only the time of day, e.g. %H:%M:%S")
        if not self.has_day and self.date is None:
            raise ValueError(
                f"`format` {self.format!r} holds no day: set `date` to a day, to {FILE_NAME!r} (group `date` of "
                f"`source.file_pattern`) or to {FILE_MODIFIED!r}"
            )
        return self

    @property
    def has_day(self) -> bool:
        """Whether the times say on which day they are."""
        return all(_holds_day(text) for text in self.formats)

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats to try in this order; without any of them times are ISO 8601 or epoch numbers."""
        return (self.format,) if isinstance(self.format, str) else self.format or ()

    @cached_property
    def zone(self) -> tzinfo:
        """Zone of times that state none."""
        return zone_of(self.timezone)


def _holds_day(text: str) -> bool:
    return text == ISO_8601 or any(part in text for part in ("%d", "%j", "%x", "%c", "%D", "%u", "%w"))


class ServerSection(Section):
    """Which server a row is of."""

    alternatives = ("column", "any_of", "name", "from_file_name")

    column: ColumnRef | None = Field(None, description="column that holds the name")
    any_of: tuple[ColumnRef, ...] = Field((), description="names of which the first that is there is used")
    name: StrictStr | None = Field(None, min_length=1, description="the one server of the source")
    from_file_name: StrictBool = Field(
        False, description="the group `server` of `source.file_pattern`, else the name without its ending"
    )
    prefix: StrictStr = Field("", description="text to put before the name")
    zero_pad: StrictInt = Field(0, ge=0, le=20, description="digits to fill a number up to, before the prefix")


class MetricSection(Section):
    """Where one metric of the contract comes from."""

    alternatives = ("column", "columns", "any_of")

    column: ColumnRef | None = Field(None, description="column that holds the values")
    columns: tuple[ColumnRef, ...] = Field((), description="columns to add up, e.g. read and written")
    any_of: tuple[ColumnRef, ...] = Field((), description="names of which the first that is there is used")
    unit: StrictStr | None = Field(None, description="unit of the values; without it the contract's")
    of: ColumnRef | None = Field(None, description="column that holds the capacity, for a share in percent")
    capacity: StrictFloat | StrictInt | StrictStr | None = Field(
        None,
        description='a capacity that is the same in every row, for a share in percent; "highest" where it is not '
        "known: the highest value of each server stands for it",
    )
    of_unit: StrictStr | None = Field(None, description="unit of the capacity, if it is not `unit`")
    clip_up_to: float | None = Field(
        None, ge=100, description="percentages up to this are clipped to 100, those above are taken as missing"
    )
    optional: StrictBool = Field(False, description="the column may be absent: the metric is then missing")

    @field_validator("capacity")
    @classmethod
    def _usable_capacity(cls, capacity: float | str | None) -> float | str | None:
        if isinstance(capacity, str) and capacity != HIGHEST:
            raise ValueError(f'must be a number above 0, or "{HIGHEST}"; the name of a column goes into `of`')
        if capacity is not None and not isinstance(capacity, str) and not 0 < capacity < float("inf"):
            raise ValueError(f'must be a number above 0, or "{HIGHEST}"')
        return capacity

    @property
    def is_relative(self) -> bool:
        """Whether the values are shares of the server's own highest one, so that they measure no capacity."""
        return self.capacity == HIGHEST

    @property
    def is_share(self) -> bool:
        """Whether the values are a share of something."""
        return self.of is not None or self.capacity is not None


class StateSection(Section):
    """Where the state comes from; without this section it is derived by the contract's rule."""

    alternatives = ("column", "any_of")

    column: ColumnRef | None = Field(None, description="column that holds the state")
    any_of: tuple[ColumnRef, ...] = Field((), description="names of which the first that is there is used")
    values: dict[str, StrictStr] = Field({}, description="the source's word → the contract's state")
    optional: StrictBool = Field(False, description="the column may be absent")

    @field_validator("values")
    @classmethod
    def _valid_states(cls, values: dict[str, str]) -> dict[str, str]:
        return _all_in(values, VALID_STATES, "state")


class ProfileRule(Section):
    """Servers whose name fits have this profile."""

    pattern: StrictStr = Field(description="regular expression, searched anywhere in the server's name")
    profile: StrictStr = Field(description="one of the contract's profiles")

    @field_validator("pattern")
    @classmethod
    def _usable_pattern(cls, pattern: str) -> str:
        return _compiled(pattern).pattern

    @field_validator("profile")
    @classmethod
    def _valid_profile(cls, profile: str) -> str:
        return _all_in({"": profile}, VALID_PROFILES, "profile")[""]


class ProfileSection(Section):
    """A server's profile: by its column, else the rules, else the contract's name patterns, else `default`."""

    column: ColumnRef | None = Field(None, description="column that holds the role")
    any_of: tuple[ColumnRef, ...] = Field((), description="names of which the first that is there is used")
    values: dict[str, StrictStr] = Field({}, description="the source's word → the contract's profile")
    rules: tuple[ProfileRule, ...] = Field((), description="patterns of server names; the first that fits wins")
    default: StrictStr = Field("generic", description="profile of the servers that nothing else fits")
    optional: StrictBool = Field(False, description="the column may be absent")

    @field_validator("values")
    @classmethod
    def _valid_profiles(cls, values: dict[str, str]) -> dict[str, str]:
        return _all_in(values, VALID_PROFILES, "profile")

    @field_validator("default")
    @classmethod
    def _valid_default(cls, default: str) -> str:
        return _all_in({"": default}, VALID_PROFILES, "profile")[""]

    @model_validator(mode="after")
    def _no_contradictions(self) -> ProfileSection:
        if self.column is not None and self.any_of:
            raise ValueError("give `column` or `any_of`, not both")
        if self.values and self.column is None and not self.any_of:
            raise ValueError("`values` translates a column: give `column`, too")
        return self


class Layout(Section):
    """One form in which the data comes; a mapping holds one or several, and each file takes the first that fits."""

    layout_name: StrictStr = Field("", description="name of the layout for messages and the report")
    source: SourceSection = SourceSection()
    time: TimeSection
    server: ServerSection
    metrics: dict[str, MetricSection]
    state: StateSection | None = None
    profile: ProfileSection = ProfileSection()

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, metrics: dict[str, MetricSection]) -> dict[str, MetricSection]:
        faults = [f"`{name}` is no metric{near(name, METRIC_COLUMNS)}" for name in metrics if name not in UNITS]
        faults += [fault for name, metric in metrics.items() if name in UNITS for fault in _unit_faults(name, metric)]
        if not metrics:
            faults.append("at least one metric is needed")
        if faults:
            raise ValueError("; ".join(faults) + f". The contract's metrics are {', '.join(METRIC_COLUMNS)}")
        return metrics

    @model_validator(mode="after")
    def _groups_are_there(self) -> Layout:
        needed = {
            "start": self.time.start == FILE_NAME and "`time.start`",
            "date": self.time.date == FILE_NAME and "`time.date`",
        }
        for group, user in needed.items():
            if user and group not in self.source.file_groups:
                raise ValueError(f"{user} = {FILE_NAME!r} needs a group (?P<{group}>…) in `source.file_pattern`")
        unused = self.source.file_groups - {"server", "date", "start"}
        if unused:
            raise ValueError(f"`source.file_pattern` has groups that mean nothing here: {', '.join(sorted(unused))}")
        return self


class Mapping(BaseModel):
    """How foreign data becomes contract data.

    Attributes
    ----------
    name : str
        Name for the report: the preset's, or the file's.
    description : str
        One sentence.
    layouts : tuple of Layout
        Forms in which the data comes, tried in this order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: StrictStr
    description: StrictStr = ""
    layouts: tuple[Layout, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _relative_everywhere(self) -> Mapping:
        for metric in METRIC_COLUMNS:
            sections = [layout.metrics[metric] for layout in self.layouts if metric in layout.metrics]
            if len({section.is_relative for section in sections}) > 1:
                raise ValueError(
                    f'`{metric}.capacity = "{HIGHEST}"` in one layout and not in another would mix shares of different '
                    "things in one column: make two mappings"
                )
        return self

    @property
    def relative_metrics(self) -> tuple[str, ...]:
        """Metrics that are shares of each server's own highest value."""
        found = [name for layout in self.layouts for name, metric in layout.metrics.items() if metric.is_relative]
        return tuple(name for name in METRIC_COLUMNS if name in found)


# -------------------------------------------------------------------------------------------------------------- faults
def _unit_faults(name: str, metric: MetricSection) -> Iterator[str]:
    """What is wrong with the units of a metric."""
    if metric.clip_up_to is not None and name not in CLIP_UP_TO:
        yield f"`{name}.clip_up_to` is for percentages"
    if not metric.is_share:
        if metric.of_unit is not None:
            yield f"`{name}.of_unit` is the unit of `of` or `capacity`, which are not given"
        if metric.unit is not None and metric.unit not in UNITS[name]:
            hint = near(metric.unit, UNITS[name])
            share = " (a share of a capacity also needs `of` or `capacity`)" if metric.unit in SHARE_UNITS else ""
            yield f"`{name}.unit` {metric.unit!r} is none of {', '.join(UNITS[name])}{hint}{share}"
        return
    key = "capacity" if metric.of is None else "of"
    if metric.of is not None and metric.capacity is not None:
        yield f"`{name}`: give `of` or `capacity`, not both"
        return
    if name not in CLIP_UP_TO:
        yield f"`{name}.{key}` gives a percentage, but `{name}` is none"
        return
    if metric.is_relative and (metric.unit or metric.of_unit or metric.clip_up_to):
        yield f'`{name}.capacity = "{HIGHEST}"` takes no `unit`, `of_unit` or `clip_up_to`: all values have one unit'
        return
    units = [unit for unit in (metric.unit, metric.of_unit) if unit is not None]
    unknown = [unit for unit in units if unit not in SHARE_UNITS]
    if unknown:
        yield f"`{name}` with `{key}` has a unit {shorten(unknown)} that is none of {', '.join(SHARE_UNITS)}"
    elif len(units) == 2 and SHARE_UNITS[units[0]][0] != SHARE_UNITS[units[1]][0]:
        yield f"`{name}.unit` {units[0]!r} and `of_unit` {units[1]!r} measure different things"
    elif metric.of_unit is not None and metric.unit is None:
        yield f"`{name}.of_unit` needs `unit`, too"


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None


def _all_in(values: dict[str, str], valid: tuple[str, ...], kind: str) -> dict[str, str]:
    wrong = [value for value in values.values() if value not in valid]
    if wrong:
        raise ValueError(f"{shorten(wrong)} is no {kind} of the contract, which are {', '.join(valid)}")
    return values


def near(word: object, known: Any) -> str:
    """Hint at the known word that is most like another; empty if none is."""
    close = difflib.get_close_matches(str(word), [str(name) for name in known], 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def zone_of(name: str) -> tzinfo:
    """Time zone of an IANA name, `UTC` or a fixed offset such as `+02:00`; ValueError if there is none."""
    offset = re.fullmatch(r"([+-])(\d{2}):?(\d{2})", name)
    if offset:
        sign, hours, minutes = offset.groups()
        span = timedelta(hours=int(hours), minutes=int(minutes))
        return timezone(-span if sign == "-" else span)
    if name == "UTC":
        return timezone.utc
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        hint = near(name, zoneinfo.available_timezones())
        raise ValueError(f"{name!r} is no time zone{hint}; write e.g. Europe/Berlin, UTC or +02:00") from None


def _self_check() -> None:
    assert MetricSection(column="a").unit is None
    assert zone_of("+02:30").utcoffset(None) == timedelta(hours=2, minutes=30)
    assert list(_unit_faults("mem_pct", MetricSection(column="a", unit="KB")))
    try:
        TimeSection(column="t", format="%H:%M")
    except ValueError as error:
        assert "holds no day" in str(error)
    else:
        raise AssertionError
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
