"""What a mapping file of the importer may say: sources, times, servers, metrics and their units, states and profiles.

A mapping is a small TOML file that a user writes (`Docs/IMPORTING.md` shows every key) or one of the shipped presets.
Everything that is wrong with it is told at once. Knows nothing of the files that a mapping is applied to.
"""

from __future__ import annotations

import codecs
import difflib
import os
import re
import zoneinfo
from collections.abc import Iterator
from datetime import date as calendar_date
from datetime import datetime, timedelta, timezone, tzinfo
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from data_contract import METRIC_COLUMNS, METRICS, VALID_PROFILES, VALID_STATES, ImportMappingError, shorten

PRESETS_FOLDER: Final = Path(__file__).parent / "presets"
FILE_NAME: Final = "file_name"
FILE_MODIFIED: Final = "file_modified"

# ------------------------------------------------------------------------------------------------------------- units
# Powers of 1024, as iostat, sar, vmstat and the hypervisors count; so 1 MB/s of the contract is 1,048,576 bytes/s.
_BYTES: Final = {"B": 1.0, "KB": 1024.0, "MB": 1024.0**2, "GB": 1024.0**3, "TB": 1024.0**4}
_PERIOD_SECONDS: Final = {"s": 1.0, "min": 60.0, "5min": 300.0, "h": 3600.0}

# unit → (factor, offset): contract value = factor × value + offset
PERCENT_UNITS: Final[dict[str, tuple[float, float]]] = {
    "percent": (1.0, 0.0),
    "ratio": (100.0, 0.0),
    "percent_idle": (-1.0, 100.0),
    "ratio_idle": (-100.0, 100.0),
}
RATE_UNITS: Final[dict[str, tuple[float, float]]] = {
    f"{size}/{period}": (bytes_ / seconds / _BYTES["MB"], 0.0)
    for size, bytes_ in _BYTES.items()
    for period, seconds in _PERIOD_SECONDS.items()
}
DURATION_UNITS: Final[dict[str, tuple[float, float]]] = {
    "ns": (1e-6, 0.0),
    "us": (1e-3, 0.0),
    "ms": (1.0, 0.0),
    "s": (1e3, 0.0),
    "min": (6e4, 0.0),
}
# Units of a used amount and of the capacity that it is a share of: unit → (dimension, factor)
SHARE_UNITS: Final[dict[str, tuple[str, float]]] = {
    **{size: ("bytes", bytes_) for size, bytes_ in _BYTES.items()},
    "MHz": ("frequency", 1.0),
    "GHz": ("frequency", 1000.0),
    "core_percent": ("cores", 0.01),
    "millicores": ("cores", 0.001),
    "cores": ("cores", 1.0),
}
TIME_UNITS: Final[dict[str, float]] = {  # microseconds
    "ns": 1e-3,
    "us": 1.0,
    "ms": 1e3,
    "s": 1e6,
    "min": 6e7,
    "h": 3.6e9,
}
_UNITS_OF_KIND: Final = {"%": PERCENT_UNITS, "MB/s": RATE_UNITS, "ms": DURATION_UNITS}
_CONTRACT_UNITS: Final = {"%": "percent", "MB/s": "MB/s", "ms": "ms"}
UNITS: Final[dict[str, dict[str, tuple[float, float]]]] = {
    metric.column: _UNITS_OF_KIND[metric.unit] for metric in METRICS
}
DEFAULT_UNITS: Final[dict[str, str]] = {metric.column: _CONTRACT_UNITS[metric.unit] for metric in METRICS}

# A CPU above 100 % is more cores or a higher clock than the base that it was divided by; memory can pass its base only
# by rounding or while the machine is being resized. What is further off has a wrong base and says nothing.
CLIP_UP_TO: Final[dict[str, float]] = {"cpu_pct": 200.0, "mem_pct": 110.0}

ColumnRef: TypeAlias = StrictStr | Annotated[StrictInt, Field(ge=1)]  # a name, or the place counted from 1


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
    format: StrictStr | None = Field(None, description="strptime format; without it ISO 8601 or epoch numbers")
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
    def _usable_format(cls, text: str | None) -> str | None:
        if text is not None:
            if "%" not in text:
                raise ValueError(f"{text!r} has no directive such as %Y; leave it out for ISO 8601")
            try:
                datetime.strptime("", text)  # noqa: DTZ007 - only asks whether the format can be used
            except (ValueError, IndexError, re.error) as error:
                if "does not match" not in str(error):
                    raise ValueError(f"{text!r} is no strptime format: {error}") from None
        return text

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
        return self.format is None or any(part in self.format for part in ("%d", "%j", "%x", "%c", "%D", "%u", "%w"))

    @cached_property
    def zone(self) -> tzinfo:
        """Zone of times that state none."""
        return zone_of(self.timezone)


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
    of_unit: StrictStr | None = Field(None, description="unit of the capacity, if it is not `unit`")
    clip_up_to: float | None = Field(
        None, ge=100, description="percentages up to this are clipped to 100, those above are taken as missing"
    )
    optional: StrictBool = Field(False, description="the column may be absent: the metric is then missing")


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


# ------------------------------------------------------------------------------------------------------------- loading
def load_mapping(path: str | os.PathLike[str]) -> Mapping:
    """Read a mapping file.

    Raises
    ------
    ImportMappingError
        If there is no such file, if it is no TOML, or if it says something that cannot be; all faults are listed.
    """
    path = Path(path)
    return parse_mapping(read_mapping_file(path), name=path.stem, source=str(path))


def read_mapping_file(path: Path) -> dict[str, Any]:
    """Content of a mapping file as it stands there.

    Raises
    ------
    ImportMappingError
        If there is no such file, or it is no TOML.
    """
    tomllib: Any = import_module("tomllib" if _has_module("tomllib") else "tomli")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ImportMappingError(
            f"The mapping file {path} cannot be read: {error.strerror or error}.",
            why="The mapping says which column is which metric; without it nothing can be imported.",
            fix="Check the path, or take a shipped mapping with --preset: " + ", ".join(presets()) + ".",
        ) from error
    except UnicodeDecodeError as error:
        raise _not_toml(path, f"it is no UTF-8 text (byte {error.start:,})") from error
    try:
        content: dict[str, Any] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _not_toml(path, str(error)) from error
    return content


def load_preset(name: str) -> Mapping:
    """Shipped mapping of that name.

    Raises
    ------
    ImportMappingError
        If there is none, or it is for a Prometheus.
    """
    return load_mapping(preset_file(name))


def preset_file(name: str) -> Path:
    """File of the shipped mapping of that name.

    Raises
    ------
    ImportMappingError
        If there is none.
    """
    known = presets() | presets(prometheus=True)
    if name not in known:
        raise ImportMappingError(
            f"There is no preset {name!r}{near(name, known)}.",
            why="A preset says which column is which metric, so a wrong one cannot be guessed.",
            fix=f"Take one of {', '.join(known)}, or write a mapping file and give it with --mapping.",
        )
    return PRESETS_FOLDER / f"{name}.toml"


def presets(*, prometheus: bool = False) -> dict[str, str]:
    """Shipped mappings for files, or those for a Prometheus: name → one sentence."""
    contents = {path.stem: read_mapping_file(path) for path in sorted(PRESETS_FOLDER.glob("*.toml"))}
    return {
        name: str(content.get("description", ""))
        for name, content in contents.items()
        if ("prometheus" in content) == prometheus
    }


def parse_mapping(content: dict[str, Any], *, name: str = "mapping", source: str = "The mapping") -> Mapping:
    """Make a mapping of the content of a mapping file.

    Parameters
    ----------
    content : dict
        Sections as in the file: either those of one layout, or a list `layout` of several.
    name : str
        Name to use if the content states none.
    source : str
        What to call the content in an error.

    Raises
    ------
    ImportMappingError
        With everything that is wrong with it.
    """
    if "prometheus" in content:
        raise ImportMappingError(
            f"{source} says what to ask a Prometheus, not how files are to be read.",
            why="Without the columns' names nothing can be read from files.",
            fix="Give the address of the Prometheus with --prometheus URL, or take another mapping for files.",
        )
    top = {key: content[key] for key in ("name", "description") if key in content}
    sections = {key: value for key, value in content.items() if key not in top}
    several = "layout" in sections
    layouts = sections.pop("layout") if several else [sections]
    if several and sections:
        misplaced = ", ".join(f"`{key}`" for key in sections)
        raise wrong_mapping(source, [f"{misplaced} beside [[layout]]: put it into one of the layouts as `layout.…`"])
    try:
        return Mapping.model_validate({"name": name, **top, "layouts": layouts})
    except ValidationError as error:
        raise wrong_mapping(
            source, [describe_fault(dict(fault), several=several) for fault in error.errors()]
        ) from None


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


# -------------------------------------------------------------------------------------------------------------- faults
def _unit_faults(name: str, metric: MetricSection) -> Iterator[str]:
    """What is wrong with the units of a metric."""
    if metric.clip_up_to is not None and name not in CLIP_UP_TO:
        yield f"`{name}.clip_up_to` is for percentages"
    if metric.of is None:
        if metric.of_unit is not None:
            yield f"`{name}.of_unit` is the unit of `of`, which is not given"
        if metric.unit is not None and metric.unit not in UNITS[name]:
            hint = near(metric.unit, UNITS[name])
            share = " (a share of a capacity also needs `of`)" if metric.unit in SHARE_UNITS else ""
            yield f"`{name}.unit` {metric.unit!r} is none of {', '.join(UNITS[name])}{hint}{share}"
        return
    if name not in CLIP_UP_TO:
        yield f"`{name}.of` gives a percentage, but `{name}` is none"
        return
    units = [unit for unit in (metric.unit, metric.of_unit) if unit is not None]
    unknown = [unit for unit in units if unit not in SHARE_UNITS]
    if unknown:
        yield f"`{name}` with `of` has a unit {shorten(unknown)} that is none of {', '.join(SHARE_UNITS)}"
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


AnySections: TypeAlias = dict[str, type[BaseModel]]

_SECTIONS: Final[AnySections] = {
    "source": SourceSection,
    "time": TimeSection,
    "server": ServerSection,
    "metrics": MetricSection,
    "state": StateSection,
    "rules": ProfileRule,
    "profile": ProfileSection,
}


def describe_fault(
    fault: dict[str, Any], *, several: bool = False, root: type[BaseModel] = Layout, sections: AnySections = _SECTIONS
) -> str:
    """One sentence for one fault that pydantic found, in the words of the file."""
    place = list(fault["loc"])
    if place[:1] == ["layouts"]:
        place = [f"layout {place[1] + 1}" if several else "", *place[2:]] if len(place) > 1 else ["layout"]
    parts = [str(part) for part in place if part != "" and not _is_branch(part)]
    where = ".".join(parts) or "mapping"
    if fault["type"] == "extra_forbidden":
        section = next((model for part, model in reversed(sections.items()) if part in parts[:-1]), root)
        if "rules" in parts:
            section = ProfileRule
        known = [*section.model_fields, *(["name", "description", "layout"] if section is Layout else [])]
        return f"unknown key `{where}`{near(parts[-1], known)}; known here: {', '.join(known)}"
    if fault["type"] == "missing":
        return f"`{where}` is missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    given = fault.get("input")
    shown = f" (given: {shorten(given)})" if isinstance(given, (str, int, float, bool)) else ""
    return f"`{where}`: {message}{'' if repr(given) in message else shown}"


def _is_branch(part: object) -> bool:
    """Whether a part of a fault's place names a branch of a union, which no user wrote."""
    return isinstance(part, str) and (
        part in {"str", "int", "float", "datetime", "date"}
        or part.startswith(("constrained-", "literal[", "function-"))
    )


def wrong_mapping(source: str, faults: list[str]) -> ImportMappingError:
    """Error that lists all that is wrong with a mapping."""
    listed = "\n".join(f"    - {fault}" for fault in dict.fromkeys(faults))
    return ImportMappingError(
        f"{source} says something that cannot be:\n{listed}",
        why="A mapping that is read otherwise than you meant it would fill the metrics with wrong values.",
        fix="Correct these places; Docs/IMPORTING.md shows a commented mapping file with every key.",
    )


def _not_toml(path: Path, reason: str) -> ImportMappingError:
    return ImportMappingError(
        f"{path} is no TOML file: {reason}.",
        why="The mapping says which column is which metric; without it nothing can be imported.",
        fix='Write it as in Docs/IMPORTING.md, e.g. [server] and below it column = "host"; quote texts. '
        "The data files themselves come first, the mapping after --mapping.",
    )


def _has_module(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _self_check() -> None:
    assert UNITS["disk_io_mb_s"]["KB/s"][0] * 1024 == 1
    for name in presets():
        assert load_preset(name).layouts, name
    try:
        parse_mapping({"time": {"colum": "t"}, "server": {"name": "a"}, "metrics": {"cpu_pct": {"unit": "volts"}}})
    except ImportMappingError as error:
        assert "did you mean 'column'" in str(error) and "cpu_pct" in str(error)
    else:
        raise AssertionError
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
