"""What of an import is refused or warned of: nothing left, a metric without a value, figures that speak for a mistake.

Knows nothing of files: it judges by what was counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from data_contract import METRIC_COLUMNS, STEP_MINUTES, DataFileError, ImportMappingError, shorten
from import_report import RULES_BY_NAME, Tally

_DOCUMENT: Final = "Docs/IMPORTING.md"


def refuse_nothing(tally: Tally, kept: int, files: list[str]) -> None:
    """An import that has no rows is an error, with the reason.

    Raises
    ------
    DataFileError
        If there were no rows in the files.
    ImportMappingError
        If not one of them was kept.
    """
    if not tally.rows_in:
        raise DataFileError(
            f"There are no rows in {shorten(files)}.",
            why="Without rows there is nothing to validate, learn from or forecast.",
            fix="Check that the file is the one you meant and that it was written to its end.",
            document=_DOCUMENT,
        )
    if kept:
        return
    reasons = [
        f"{rule} {count:,}{_for_example(tally, rule)}: {RULES_BY_NAME[rule].text}"
        for rule, count in tally.dropped().items()
    ]
    reasons += _value_repairs(tally, METRIC_COLUMNS)
    raise ImportMappingError(
        f"Not one of the {tally.rows_in:,} rows could be used:\n" + "\n".join(f"    - {reason}" for reason in reasons),
        why="An import without rows would look like a fleet without servers.",
        fix="Correct `format`, `unit` or `timezone` in [time], the columns and units in [metrics], or "
        "`source.decimal`; or the source itself.",
    )


def refuse_dead_metrics(tally: Tally, empty: set[str]) -> None:
    """A metric of which no value could be used although there were some speaks for a wrong unit or number format.

    Raises
    ------
    ImportMappingError
        If there is one among the metrics that are empty.
    """
    dead = [
        metric
        for metric in METRIC_COLUMNS
        if metric in empty
        and any(tally.values.get(rule, Counter())[metric] for rule in ("other_unit", "not_a_number", "above_limit"))
    ]
    if dead:
        listed = "\n".join(f"    - {fault}" for fault in _value_repairs(tally, dead))
        raise ImportMappingError(
            f"Not one value could be used of:\n{listed}",
            why="The whole metric would be missing although the source has it.",
            fix="Correct the `unit` of the metric, `of`, `clip_up_to`, or `source.decimal`; or leave the metric out.",
        )


def _value_repairs(tally: Tally, metrics: Sequence[str]) -> Iterator[str]:
    """What was repaired of some metrics, one sentence each."""
    for metric in metrics:
        counts = [
            f"{rule} {found[metric]:,}{_for_example(tally, f'{rule}.{metric}')}"
            for rule, found in tally.values.items()
            if found[metric]
        ]
        if counts:
            yield f"`{metric}`: {', '.join(counts)}"


def _for_example(tally: Tally, key: str) -> str:
    return f" (e.g. {tally.examples[key]})" if key in tally.examples else ""


def doubts(
    tally: Tally, rows: int, highest: dict[str, float], interval_minutes: float | None, relative: dict[str, str]
) -> Iterator[str]:
    """What looks wrong although it could be imported, one sentence each.

    Parameters
    ----------
    tally : Tally
        What was repaired and dropped.
    rows : int
        Rows written.
    highest : dict
        Metric → highest value written.
    interval_minutes : float or None
        Usual time between two rows of a server.
    relative : dict
        Metric → what its percentages are shares of, where that is no capacity.
    """
    for metric, base in relative.items():
        yield f"{metric} is NOT a measured percentage: its capacity is unknown, and it is in percent of {base}"
    for rule, count in tally.dropped().items():
        example = tally.examples.get(rule, "")
        if rule == "unreadable_time" and re.search(r"\d", example):
            yield (
                f"{count:,} times could not be read, e.g. {example}: if they are times, name their format in "
                "`time.format`; it takes a list, too"
            )
        elif rule not in {"no_metrics", "duplicate", "merged"} and count > 0.05 * tally.rows_in:
            share = f"{100 * count / tally.rows_in:.0f} % of the rows"
            yield f"{share} were dropped by the rule {rule}{_for_example(tally, rule)}"
    for rule, counts in tally.values.items():
        for metric, count in counts.items():
            if RULES_BY_NAME[rule].effect == "value missing" and count > 0.05 * tally.present[metric]:
                share = f"{100 * count / tally.present[metric]:.0f} % of the values of {metric}"
                yield f"{share} are missing by the rule {rule}{_for_example(tally, f'{rule}.{metric}')}"
    for metric, signed in tally.signed.items():
        if 0 < signed < tally.present[metric]:
            bare = tally.present[metric] - signed
            yield (
                f"{signed:,} values of {metric} have their unit behind the number and {bare:,} have none: all were "
                "read in the mapping's unit"
            )
    for metric in ("cpu_pct", "mem_pct"):
        if rows >= 100 and 0 < highest[metric] <= 1:
            yield f'no value of {metric} is above 1 %: if they are ratios, set `unit = "ratio"`'
    if interval_minutes is not None and interval_minutes > STEP_MINUTES:
        yield (
            f"there is one sample every {interval_minutes:g} minutes, but the model's step is {STEP_MINUTES}: "
            "the steps between stay missing"
        )


def _self_check() -> None:
    tally = Tally()
    tally.rows_in = 10
    tally.count_values("above_limit", "cpu_pct", 10, "1250")
    try:
        refuse_dead_metrics(tally, {"cpu_pct"})
    except ImportMappingError as error:
        assert "above_limit 10 (e.g. 1250)" in str(error)
    else:
        raise AssertionError
    tally = Tally()
    tally.count_rows("unreadable_time", 1, "'03/04/2026'")
    (warning,) = doubts(tally, 9, {"cpu_pct": 50.0, "mem_pct": 50.0}, 5.0, {})
    assert "`time.format`" in warning
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
