"""How the lines of an unknown text make a table: separator, lines before it, names of its columns, decimal sign."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

LINES_TO_JUDGE: Final = 200
_SEPARATORS: Final = (",", ";", "\t", "|")
_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?\s*%?")
_TIME: Final = re.compile(
    r"(?:\w{3,9},? )?(?:\d{1,4}[-/.]\w{1,9}[-/.]\d{1,4}|\d{8}|\w{3,9} \d{1,2},? \d{4}|\d{1,2} \w{3,9} \d{4})"
    r"(?:[T :,].*)?|\d{1,2}:\d{2}(?::\d{2})?.*"
)
_MISSING: Final = {"", "na", "n/a", "nan", "null", "none", "-"}


def split_lines(lines: Sequence[str], separator: str) -> Iterator[list[str]]:
    """Fields of each line that is not blank."""
    if separator == "whitespace":
        yield from (line.split() for line in lines if line.strip())
        return
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:  # a field of more than 128 KB: no measurement
            fields = [""]
        if fields and (len(fields) > 1 or fields[0].strip()):
            yield fields


def separator_of(lines: list[str]) -> str:
    """The separator that divides most lines into the same number of fields that hold no other separators."""
    best, best_score = ",", 0.0
    for candidate in (*_SEPARATORS, "whitespace"):
        rows = list(split_lines(lines, candidate))
        width, count = _usual_width(rows)
        if width < 2:
            continue
        cells = [cell.strip() for row in rows if len(row) == width for cell in row][:2_000]
        clean = sum(bool(_NUMBER.fullmatch(cell)) or not _mixed(cell, candidate) for cell in cells) / len(cells)
        score = count / len(rows) + clean + min(width, 50) / 1_000
        if candidate == "whitespace":
            score -= 0.75  # spaces are in times and names, too
        if count / len(rows) >= 0.5 and score > best_score + 1e-9:
            best, best_score = candidate, score
    return best


def _mixed(cell: str, separator: str) -> bool:
    """Whether a cell holds another separator."""
    return any(other in cell for other in _SEPARATORS if other != separator)


def _usual_width(rows: list[list[str]]) -> tuple[int, int]:
    """Most usual number of fields, and how many rows have it."""
    widths = Counter(len(row) for row in rows)
    return max(widths.items(), key=lambda item: (item[1], item[0])) if widths else (0, 0)


# -------------------------------------------------------------------------------------------------------------- header
@dataclass(frozen=True)
class TableLayout:
    """Where the table of a text begins.

    Attributes
    ----------
    names : list of str
        Columns; their places where nothing names them.
    has_header, skip_lines
        As the importer is to be told.
    first_row : int
        Line of the first row.
    warnings : tuple of str
        What is odd.
    """

    names: list[str]
    has_header: bool
    skip_lines: int
    first_row: int
    warnings: tuple[str, ...] = ()


def layout_of(lines: list[str], separator: str) -> TableLayout:
    """Where the table begins and what its columns are called."""
    records = list(_records(lines[: 5 * LINES_TO_JUDGE], separator))
    if not records:  # nothing but quotes
        return TableLayout([], False, 0, 0)
    width, _ = _usual_width([fields for _, _, fields in records[-LINES_TO_JUDGE:]])
    start = next(number for number, (_, _, fields) in enumerate(records) if len(fields) == width)
    start = _last_of_header(records, start, width)
    begin, end, first = records[start]
    body = [fields for _, _, fields in records[start + 1 :] if len(fields) == width]
    warnings = [f"{start:,} line(s) stand before the table: they are skipped"] if start else []
    if not _is_header(first, body):
        if start and len(records[start - 1][2]) == width - 1 and _is_header(records[start - 1][2], body):
            # Rows end with a separator that the header lacks: the importer cannot match them by name.
            before = records[start - 1]
            return TableLayout([*_cleaned(before[2]), str(width)], False, before[1], before[1])
        names = [str(place) for place in range(1, width + 1)]
        skip = begin if start else 0
        return TableLayout(names, False, skip, begin, tuple(warnings))
    names = _cleaned(first)
    if end - begin > 1:  # a header over several lines, which the importer does not read
        return TableLayout(names, False, end, end, tuple(warnings))
    return TableLayout(names, True, begin if start else 0, end, tuple(warnings))


def _last_of_header(records: list[tuple[int, int, list[str]]], start: int, width: int) -> int:
    """The line that names the columns where lines above it name groups of them, as dstat writes."""
    while start + 2 < len(records):
        this, below = records[start][2], records[start + 1][2]
        body = [fields for _, _, fields in records[start + 2 :] if len(fields) == width]
        words = [cell for cell in below if cell.strip()]
        if len(below) != width or any(map(_is_value, (*this, *below))) or not _is_header(below, body):
            break
        if len(words) < width or len({cell for cell in this if cell.strip()}) >= width or not _values_in(body):
            break
        start += 1
    return start


def _values_in(body: list[list[str]]) -> bool:
    return bool(body) and any(map(_is_value, body[0]))


def _records(lines: list[str], separator: str) -> Iterator[tuple[int, int, list[str]]]:
    """First line, line after the last and fields of each record that is not blank."""
    if separator == "whitespace":
        yield from ((place, place + 1, line.split()) for place, line in enumerate(lines) if line.strip())
        return
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator)
    begin = 0
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            fields = [""]
        if fields and (len(fields) > 1 or fields[0].strip()):
            yield begin, reader.line_num, fields
        begin = reader.line_num


def _cleaned(names: Sequence[str]) -> list[str]:
    return [name.strip() for name in names]


def _is_header(first: list[str], body: list[list[str]]) -> bool:
    """Whether the first row names the columns: its cells are words where those below are numbers or times."""
    for_header = against = 0
    for place, cell in enumerate(first):
        below = [row[place].strip() for row in body[:LINES_TO_JUDGE] if place < len(row)]
        below = [text for text in below if text.lower() not in _MISSING]
        if cell.strip().lower() in _MISSING:
            continue
        if not below:
            against += _is_value(cell)
        elif sum(map(_is_value, below)) >= 0.8 * len(below):
            for_header += not _is_value(cell)
            against += _is_value(cell)
        else:
            against += cell.strip() in below
    if not body:
        return not any(map(_is_value, first))
    return for_header > 0.3 * against or (for_header == against == 0)


def _is_value(cell: str) -> bool:
    cell = cell.strip()
    return bool(_NUMBER.fullmatch(cell) or (cell[:1].isalnum() and _TIME.fullmatch(cell) and _has_digits(cell)))


def _has_digits(cell: str) -> bool:
    return sum(character.isdigit() for character in cell) >= 3


def decimal_of(rows: list[list[str]]) -> tuple[str, list[str]]:
    """Decimal sign of the numbers, and what is odd about them."""
    commas = points = grouped = 0
    for row in rows[:2_000]:
        for cell in row:
            if "," in cell and re.fullmatch(r"[+-]?\d[\d.]*,\d+\s*%?", cell):
                commas += 1
                grouped += bool(re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", cell))
            elif re.fullmatch(r"[+-]?\d[\d,]*\.\d+\s*%?", cell):
                points += 1
                grouped += "," in cell
            elif re.fullmatch(r"[+-]?[1-9]\d{0,2}(?:,\d{3}){2,}", cell):
                grouped += 1
    if commas > grouped and commas > points:
        return ",", []
    if grouped:
        return ".", [
            "numbers such as 1,234 have a sign between thousands, or three decimals: the importer reads neither"
        ]
    return ".", []


def _self_check() -> None:
    lines = ["Report", "", "time;cpu [%]", "2026-01-01 00:00;1,5", "2026-01-01 00:05;2,5"]
    separator = separator_of(lines)
    layout = layout_of(lines, separator)
    assert separator == ";" and layout.names == ["time", "cpu [%]"] and layout.skip_lines == 2
    assert decimal_of([["x", "1,5"], ["y", "2,5"]])[0] == ","
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
