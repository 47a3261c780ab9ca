"""What a report is made of: tables, figures and texts, read out of JSON that may lack any part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from backtest_plots import Style
from backtest_words import number

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One number of a table, and whether it is the best of its column or beats the model."""

    text: str
    is_best: bool = False
    beats_model: bool = False
    is_lost: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a heading over each column; the first cell of a row is its name."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A plot under its caption."""

    title: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class Legend:
    """Names of the lines that several plots share."""

    entries: tuple[tuple[str, Style], ...] = field(default=())


def rows_of(part: object, key: str) -> list[Row]:
    """The records of a list; none if there is no such list."""
    found = part.get(key) if isinstance(part, Mapping) else None
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list | tuple) else []


def part_of(part: object, key: str) -> Mapping[str, Any]:
    """An object within an object; an empty one if there is none."""
    found = part.get(key) if isinstance(part, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def text_of(part: Mapping[str, Any], key: str, unknown: str = "–") -> str:
    """A value as text."""
    value = part.get(key)
    return unknown if value is None else str(value)


def moment_of(part: Mapping[str, Any], key: str) -> str:
    """A time as people write it: 2026-01-05 08:00 UTC."""
    text = text_of(part, key)
    return f"{text[:10]} {text[11:16]} UTC" if len(text) >= 16 and text[10:11] == "T" else text


def count_text(value: object) -> str:
    """A whole number with its thousands apart."""
    found = number(value)
    return "–" if found is None else f"{found:,.0f}"


def seconds_text(value: object) -> str:
    """A duration in the unit that suits it."""
    found = number(value)
    if found is None:
        return "–"
    if found < 1:
        return f"{1000 * found:.0f} ms"
    if found < 120:
        return f"{found:.1f} s"
    return f"{found / 60:.0f} min" if found < 7200 else f"{found / 3600:.1f} h"


def figure_of(title: str, svg: str, note: str = "") -> Figure:
    """A plot that `backtest_plots` drew."""
    return Figure(title, Markup(svg), note)  # noqa: S704  # drawn of numbers; its texts are escaped in `backtest_plots`


def _self_check() -> None:
    assert rows_of({"a": [{}, 3]}, "a") == [{}] and rows_of(None, "a") == [] and part_of({"a": 3}, "a") == {}
    assert moment_of({"at": "2026-01-05T08:00:00Z"}, "at") == "2026-01-05 08:00 UTC" and moment_of({}, "at") == "–"
    assert [seconds_text(each) for each in (0.5, 90, 600, 9000, None)] == ["500 ms", "90.0 s", "10 min", "2.5 h", "–"]
    assert count_text(12345) == "12,345" and count_text("x") == "–"
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
