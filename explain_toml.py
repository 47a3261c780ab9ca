"""How a proposed mapping is written as a TOML file that a person can read, check and keep.

Whatever the names of columns hold, the text is valid TOML and shows no control characters.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from common_utils import iso_z
from data_contract import METRIC_COLUMNS, PROFILE, SERVER_NAME, STATE, TIMESTAMP
from explain_sample import Sample
from explain_values import Finding
from import_mapping import Mapping, parse_mapping


@dataclass(frozen=True)
class MappingText:
    """A mapping as the text of its file."""

    text: str

    def mapping(self) -> Mapping:
        """The mapping that the importer reads from it.

        Raises
        ------
        ImportMappingError
            If it says something that cannot be.
        """
        tomllib: Any = import_module("tomllib" if find_spec("tomllib") else "tomli")
        return parse_mapping(tomllib.loads(self.text), source="The proposed mapping")


def mapping_toml(name: str, source: dict[str, Any], findings: AnyMapping[str, Finding], sample: Sample) -> MappingText:
    """Write the proposal.

    Parameters
    ----------
    name : str
        Name of the mapping.
    source : dict
        `[source]`.
    findings : mapping
        What was found, by column of the contract.
    sample : Sample
        The file.
    """
    lines = ["# Proposed by `python main.py import --explain` from a sample of the file: read what is marked GUESS."]
    lines += [f"name = {toml_text(name)}", "", *_section("source", source, [])]
    for title, field in (("time", TIMESTAMP), ("server", SERVER_NAME)):
        lines += _section(title, findings[field].section or {}, _comments(findings[field], sample))
    for metric in METRIC_COLUMNS:
        finding = findings[metric]
        if finding.section:
            lines += _section(f"metrics.{metric}", finding.section, _comments(finding, sample))
        else:
            lines += [f"# {metric}: not found, stays missing", ""]
    for field in (STATE, PROFILE):
        if findings[field].section:
            lines += _section(field, findings[field].section or {}, _comments(findings[field], sample))
    return MappingText("\n".join(lines).rstrip("\n") + "\n")


def _comments(finding: Finding, sample: Sample) -> list[str]:
    """What a person should know of a section."""
    mark = {"guess": "GUESS: ", "likely": "likely: ", "sure": ""}.get(finding.confidence, "")
    comments = [mark + "; ".join(finding.why)]
    comments += [f"look: {warning}" for warning in finding.warnings]
    by_place = [place for place in finding.columns if isinstance(sample.reference(place), int) and sample.names[place]]
    comments += [
        f"column {place + 1} is called {sample.names[place]!r:.100}" for place in by_place if _named(sample, place)
    ]
    return comments


def _named(sample: Sample, place: int) -> bool:
    return sample.names[place] != str(place + 1)


def _section(title: str, content: AnyMapping[str, Any], comments: list[str]) -> list[str]:
    lines = []
    for comment in comments:
        plain = plain_text(comment, 600)
        lines += [f"# {line}" for line in textwrap.wrap(plain, 110, break_on_hyphens=False)]
    return [*lines, f"[{title}]", *(f"{key} = {_value(value)}" for key, value in content.items()), ""]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, datetime):
        return iso_z(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml_text(key)} = {_value(part)}" for key, part in value.items()) + " }"
    return toml_text(str(value))


def toml_text(text: str) -> str:
    """A TOML string; control and invisible characters are written as escapes."""
    if "\\" in text and "'" not in text and all(_is_plain(character) for character in text):
        return f"'{text}'"  # regular expressions and Windows' counters stay legible
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in {'"', "\\"}:
        return f"\\{character}"
    if _is_plain(character):
        return character
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF:  # half a character, which TOML cannot write
        return "\\uFFFD"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def _is_plain(character: str) -> bool:
    return character == " " or unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


def plain_text(text: str, limit: int) -> str:
    """Text for a terminal or a comment: no control or invisible characters, and not longer than `limit`."""
    shown = "".join(
        character
        if _is_plain(character)
        else " "
        if character.isspace() and character not in "\x1c\x1d\x1e\x1f\x85"
        else "�"
        for character in text[: 2 * limit]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _self_check() -> None:
    tomllib: Any = import_module("tomllib" if find_spec("tomllib") else "tomli")
    for text in ('a"b\\c', "x\ny\x00\x7f\u202e😀", "it's \\d+", "", "[red]", "\ud800"):
        back = tomllib.loads(f"a = {toml_text(text)}")["a"]
        assert back == text.replace("\ud800", "\ufffd"), text
    assert plain_text("a\x1b[31m\nb", 20) == "a�[31m b"
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
