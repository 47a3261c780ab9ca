"""How a mapping file is read, and how everything that is wrong with it is told at once.

A mapping is a small TOML file that a user writes (`Docs/IMPORTING.md` shows every key) or one of the shipped presets;
`import_sections.py` says what may stand in it. Knows nothing of the files that a mapping is applied to.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from data_contract import ImportMappingError, shorten
from import_sections import (
    FILE_MODIFIED,
    FILE_NAME,
    HIGHEST,
    ISO_8601,
    AnySections,
    Layout,
    Mapping,
    MetricSection,
    ProfileRule,
    ProfileSection,
    Section,
    ServerSection,
    SourceSection,
    StateSection,
    TimeSection,
    near,
    zone_of,
)
from import_units import (
    CLIP_UP_TO,
    DEFAULT_UNITS,
    DURATION_UNITS,
    PERCENT_UNITS,
    RATE_UNITS,
    SHARE_UNITS,
    TIME_UNITS,
    UNITS,
)

__all__ = [
    "CLIP_UP_TO",
    "DEFAULT_UNITS",
    "DURATION_UNITS",
    "FILE_MODIFIED",
    "FILE_NAME",
    "HIGHEST",
    "ISO_8601",
    "PERCENT_UNITS",
    "RATE_UNITS",
    "SHARE_UNITS",
    "TIME_UNITS",
    "UNITS",
    "AnySections",
    "Layout",
    "Mapping",
    "MetricSection",
    "ProfileSection",
    "Section",
    "ServerSection",
    "SourceSection",
    "StateSection",
    "TimeSection",
    "describe_fault",
    "load_mapping",
    "load_preset",
    "near",
    "parse_mapping",
    "preset_file",
    "presets",
    "read_mapping_file",
    "wrong_mapping",
    "zone_of",
]

PRESETS_FOLDER: Final = Path(__file__).parent / "presets"


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


# -------------------------------------------------------------------------------------------------------------- faults
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
        or part.startswith(("constrained-", "literal[", "function-", "tuple["))
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
