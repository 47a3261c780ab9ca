"""What the sampled values of a column look like: range, share missing, whole or fractional, constant, only rising.

Knows nothing of names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from explain_sample import Column
from import_cells import NO_TIME, Floats, Integers, coded_texts, numbers_of
from import_mapping import DURATION_UNITS, RATE_UNITS, SHARE_UNITS, SourceSection

Confidence = Literal["sure", "likely", "guess", "not found"]
_FEW: Final = 8  # values below which a rise says nothing


@dataclass(frozen=True)
class Facts:
    """What the values of one column look like.

    Attributes
    ----------
    values : array of float
        One per sampled row, NaN for missing.
    present : int
        Cells that are not empty.
    missing : float
        Share of empty cells.
    numeric : float
        Share of the present cells that are numbers.
    low, middle, high : float
        Minimum, median and maximum; NaN without numbers.
    whole, constant : bool
        Whether all are whole numbers, or all the same.
    counter : bool
        Whether they only rise, but for starting anew: then they count since a start.
    examples : tuple of str
        Some different cells.
    sign : str or None
        Unit that stands behind the numbers.
    """

    values: Floats
    present: int
    missing: float
    numeric: float
    low: float
    middle: float
    high: float
    whole: bool
    constant: bool
    counter: bool
    examples: tuple[str, ...]
    sign: str | None = None

    @property
    def is_number(self) -> bool:
        """Whether it can be taken as a column of numbers."""
        return self.numeric >= 0.9 and bool(np.isfinite(self.values).any())

    def told(self) -> str:
        """The evidence in few words."""
        if not np.isfinite(self.values).any():
            return "no numbers" if self.present else "empty"
        gone = f", {100 * self.missing:.3g} % missing" if self.missing else ""
        return f"{number(self.low)} … {number(self.middle)} … {number(self.high)}{gone}"


@dataclass(frozen=True)
class Finding:
    """What is proposed for one column of the contract.

    Attributes
    ----------
    field : str
        Column of the contract.
    columns : tuple of int
        Places of the source's columns.
    section : dict
        Section of the mapping; empty if nothing was found.
    unit : str
        Unit for people.
    confidence : str
        `sure`, `likely`, `guess` or `not found`.
    why, warnings : tuple of str
        The evidence, and what to look at.
    """

    field: str
    columns: tuple[int, ...] = ()
    section: dict[str, Any] | None = None
    unit: str = ""
    confidence: Confidence = "not found"
    why: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def number(value: float) -> str:
    """A number for people, in few digits."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def weaker(one: Confidence, other: Confidence) -> Confidence:
    """The smaller of two confidences."""
    order: tuple[Confidence, ...] = ("not found", "guess", "likely", "sure")
    return order[min(order.index(one), order.index(other))]


def facts_of(column: Column, source: SourceSection, order: Integers, same: npt.NDArray[np.bool_]) -> Facts:
    """Look at the values of a column.

    Parameters
    ----------
    column : Column
        The column.
    source : SourceSection
        How numbers are written.
    order : array of int
        Rows by server and time; rows without time are left out.
    same : array of bool
        Which rows of `order` are of the same server as the row before, one fewer than `order`.
    """
    cells = column.cells
    kind = cells.type
    rows = len(cells)
    if _unreadable(kind):
        empty = np.full(rows, np.nan)
        present = rows - cells.null_count
        gone = cells.null_count / max(rows, 1)
        nan = float("nan")
        return Facts(empty, present, gone, 0.0, nan, nan, nan, False, False, False, (str(kind),))
    sign = _sign_of(cells)
    values, unreadable = numbers_of(cells, source, sign or "%")
    values = np.where(np.abs(values) <= np.finfo(np.float32).max, values, np.nan)  # as the importer takes them
    finite = values[np.isfinite(values)]
    present = len(finite) + int(unreadable.sum())
    middle = float(np.median(finite)) if len(finite) else float("nan")
    return Facts(
        values=values,
        present=present,
        missing=1 - present / rows if rows else 1.0,
        numeric=len(finite) / present if present else 0.0,
        low=float(finite.min()) if len(finite) else float("nan"),
        middle=middle,
        high=float(finite.max()) if len(finite) else float("nan"),
        whole=bool(len(finite)) and bool((finite == np.round(finite)).all()),
        constant=present > 1 and len(set(finite[:1]) | set(np.unique(finite)[:2])) <= 1 and not unreadable.any(),
        counter=_only_rises(values, order, same),
        examples=_examples(cells),
        sign=sign,
    )


def _sign_of(cells: pa.Array) -> str | None:
    """Unit that stands behind nearly all of the first numbers: 12 ms, 5 MB/s."""
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        return None
    texts = [text.strip() for text in cells[:200].to_pylist() if text and text.strip()]
    behind = Counter(match[1] for text in texts if (match := re.fullmatch(r"[+-]?[\d.,]+\s*([A-Za-z%/]+)", text)))
    sign, count = behind.most_common(1)[0] if behind else ("", 0)
    known = sign == "%" or sign in RATE_UNITS or sign in DURATION_UNITS or sign in SHARE_UNITS
    return sign if known and count >= 0.8 * len(texts) else None


def _unreadable(kind: pa.DataType) -> bool:
    """Whether the importer takes such a column neither for numbers nor for text."""
    types = pa.types
    readable = (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_null(kind)
    )
    return not readable


def _only_rises(values: Floats, order: Integers, same: npt.NDArray[np.bool_]) -> bool:
    """Whether the values of each server only rise, but for falls to nearly nothing."""
    ordered = values[order]
    if len(ordered) < 2:
        return False
    before, after = ordered[:-1][same], ordered[1:][same]
    known = np.isfinite(before) & np.isfinite(after)
    before, after = before[known], after[known]
    if len(after) < _FEW:
        return False
    rises = int((after > before).sum())
    falls = int(((after < before) & (after > 0.1 * before)).sum())
    resets = int(((after < before) & (after <= 0.1 * before)).sum())
    return rises >= 0.3 * len(after) and falls <= 0.002 * len(after) and resets <= max(0.02 * len(after), 1)


def _examples(cells: pa.Array) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for cell in cells[:200].to_pylist():
        text = "" if cell is None else str(cell).strip()
        if text:
            found.setdefault(text[:60])
        if len(found) == 3:
            break
    return tuple(found)


def rows_in_order(times: Integers, servers: Integers | None) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Rows by server and time, and which are of the same server as the row before."""
    usable = np.flatnonzero(times != NO_TIME)
    who = np.zeros(len(times), np.int64) if servers is None else servers
    order: Integers = usable[np.lexsort((times[usable], who[usable]))]
    return order, who[order][1:] == who[order][:-1]


def codes_of(cells: pa.Array) -> tuple[list[str], Integers] | None:
    """Different texts of a column and the place of each cell's text, -1 for none; None without texts and numbers."""
    if _unreadable(cells.type) or pa.types.is_float16(cells.type):
        return None
    texts, places = coded_texts(cells)
    return texts, places


def typical_step(times: Integers, order: Integers, same: npt.NDArray[np.bool_]) -> float | None:
    """Most usual minutes between the rows of a server; None if there are none."""
    steps = np.diff(times[order])[same]
    steps = steps[steps > 0]
    return float(np.median(steps)) / 60e6 if len(steps) else None


def joined(parts: Sequence[str], limit: int = 5) -> str:
    """Some parts and how many more there are."""
    more = f" and {len(parts) - limit:,} more" if len(parts) > limit else ""
    return ", ".join(parts[:limit]) + more


def _self_check() -> None:
    times = np.arange(20, dtype=np.int64) * 300_000_000
    order, same = rows_in_order(times, None)
    rising = Column(0, "c", pa.array([str(100 + 7 * i) for i in range(20)]))
    assert facts_of(rising, SourceSection(), order, same).counter
    shares = Column(0, "c", pa.array([f"0,{i % 7}" for i in range(20)]))
    facts = facts_of(shares, SourceSection(decimal=","), order, same)
    assert facts.is_number and facts.high == 0.6 and not facts.counter
    assert typical_step(times, order, same) == 5
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
