"""What an import did: which rule repaired or dropped how much, and whether the figures add up.

The rules stand here once, for the report, the document and the tests. Knows nothing of how they are applied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from data_contract import METRIC_COLUMNS

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Rule:
    """One repair.

    Attributes
    ----------
    name : str
        Key in the report.
    effect : str
        `row dropped`; `value missing` or `value changed` (counted per metric); `row changed`; `row kept` for what was
        put right without changing what was measured.
    text : str
        What it does, and when.
    why : str
        Why this and nothing else.
    """

    name: str
    effect: Literal["row dropped", "value missing", "value changed", "row changed", "row kept"]
    text: str
    why: str


RULES: Final[tuple[Rule, ...]] = (  # in the order in which they apply
    Rule(
        "malformed_line",
        "row dropped",
        "the line has more or fewer fields than the others",
        "it cannot be told which field is which",
    ),
    Rule(
        "unreadable_time",
        "row dropped",
        "the time is empty, cannot be read, or lies outside 1970–2199 (numbers: outside 1990–2099)",
        "a value without its time cannot be placed",
    ),
    Rule(
        "nonexistent_time",
        "row dropped",
        "the local time was skipped when the clocks went forward",
        "no such moment existed, and any other would be a guess",
    ),
    Rule(
        "ambiguous_time",
        "row changed",
        "the local time occurs twice as clocks go back: summer time until the server's clock steps back, then winter",
        "rows are written in the order of time",
    ),
    Rule(
        "unusable_name",
        "row dropped",
        "the server's name is empty, longer than 253 characters or holds control characters",
        "every forecast is addressed by its server's name",
    ),
    Rule(
        "name_stripped",
        "row kept",
        "the server's name has spaces around it: taken off",
        "they would make another server",
    ),
    Rule(
        "other_unit",
        "value missing",
        "the number has another unit behind it than the mapping names, e.g. 5 GB where `unit` is percent",
        "read in the wrong unit it would look like a measurement",
    ),
    Rule(
        "not_a_number",
        "value missing",
        "the text cannot be read as a number",
        "what it meant is not known",
    ),
    Rule(
        "infinite",
        "value missing",
        "the value is infinite",
        "it is a division by zero, not a measurement",
    ),
    Rule(
        "negative",
        "value missing",
        "the value is below 0",
        "no metric can be; sources use -1 for a failed reading",
    ),
    Rule(
        "partial_sum",
        "value missing",
        "some of the columns to add up have no value",
        "a part is not the sum",
    ),
    Rule(
        "no_capacity",
        "value missing",
        "the capacity that a share is taken of is zero, negative or missing",
        "the share is not defined",
    ),
    Rule(
        "above_limit",
        "value missing",
        "the percentage is above the limit: 200 for CPU, 110 for memory, or `clip_up_to`",
        "its base is wrong (a machine being resized), so it says nothing about the load",
    ),
    Rule(
        "clipped",
        "value changed",
        "the percentage is above 100 up to the limit: set to 100 (or idle time is up to 101: the server was 0 % busy)",
        "more cores or a higher clock than the base, or rounding: the machine was full, or idle",
    ),
    Rule(
        "unknown_state",
        "row kept",
        "the source's state is no state of the contract: derived by the contract's rule instead",
        "add it to `state.values` to keep it",
    ),
    Rule(
        "unknown_profile",
        "row kept",
        "the source's role is no profile of the contract: rules, name pattern or default instead",
        "add it to `profile.values` to keep it",
    ),
    Rule(
        "profile_changed",
        "row kept",
        "the server had another profile before: the first stays",
        "a profile is constant per server",
    ),
    Rule(
        "no_metrics",
        "row dropped",
        "none of the four metrics has a value, after the repairs above",
        "an absent row says the same: a missing sample",
    ),
    Rule(
        "out_of_order",
        "row kept",
        "the row comes after a later one of the same server: put in its place",
        "the output is sorted by server, then time",
    ),
    Rule(
        "duplicate",
        "row dropped",
        "an earlier row has the same server and time, and this one repeats it",
        "nothing is lost",
    ),
    Rule(
        "merged",
        "row dropped",
        "an earlier row has the same server and time but lacks metrics that this one has: they move there",
        "exports with one metric per row or file become whole rows",
    ),
    Rule(
        "conflict",
        "row dropped",
        "an earlier row has the same server and time and other values: the first value of each metric stays",
        "the daemon's rule for rows posted twice; a mean would be a value that nobody measured",
    ),
)
RULES_BY_NAME: Final = {rule.name: rule for rule in RULES}


class Tally:
    """Counts repairs while rows are read; an example is kept of each rule."""

    def __init__(self) -> None:
        self.rows_in = 0
        self.rows: Counter[str] = Counter()  # rule → rows
        self.values: dict[str, Counter[str]] = {}  # rule → metric → values
        self.present: Counter[str] = Counter()  # metric → cells that held something
        self.signed: Counter[str] = Counter()  # metric → cells that have the unit behind the number
        self.examples: dict[str, str] = {}

    def count_rows(self, rule: str, rows: int, example: object = None) -> None:
        """Note that `rule` applied to so many rows."""
        if rows:
            self.rows[RULES_BY_NAME[rule].name] += rows
            self._note(rule, example)

    def count_values(self, rule: str, metric: str, values: int, example: object = None) -> None:
        """Note that `rule` applied to so many values of a metric."""
        if values:
            self.values.setdefault(RULES_BY_NAME[rule].name, Counter())[metric] += values
            self._note(f"{rule}.{metric}", example)

    def _note(self, key: str, example: object) -> None:
        if example is not None:
            self.examples.setdefault(key, str(example)[:80])

    def dropped(self) -> dict[str, int]:
        """Rows dropped so far, by rule."""
        return {
            rule.name: self.rows[rule.name] for rule in RULES if rule.effect == "row dropped" and self.rows[rule.name]
        }


@dataclass(frozen=True)
class ImportReport:
    """What came in, what was repaired by which rule, and what came out.

    It adds up: `rows_in` = `rows_out` + all of `rows_dropped`; `rows_out` = `rows_unchanged` + `rows_repaired`.

    Attributes
    ----------
    mapping : str
        Name of the preset or mapping file.
    files : dict
        Layout → number of files read with it.
    out_dir : str
        Where the three files are.
    rows_in, rows_out : int
        Data rows read and written.
    rows_dropped : dict
        Rule → rows.
    values_repaired : dict
        Rule → metric → values, in rows whose time and server could be read.
    rows_noted : dict
        Rule → rows that were put right without touching their values.
    rows_repaired, rows_unchanged : int
        Rows written with and without a repaired value or time.
    servers : int
        Servers written.
    start, end : str
        First and last time written, ISO 8601.
    interval_minutes : float or None
        Usual time between two rows of a server.
    reported : dict
        Metric → share of the rows written that have it, 0–1.
    profiles : dict
        Profile → servers.
    states : dict
        State → rows.
    states_derived : int
        Rows whose state was derived by the contract's rule because the source has none.
    relative : dict
        Metric → what its percentages are shares of, where that is no capacity; empty for measured percentages.
    servers_without_metrics : tuple of str
        Servers of the source that never reported any of the four metrics, and so are not in the output.
    notes, warnings : tuple of str
        Assumptions that were made, and what looks wrong.
    """

    mapping: str
    files: dict[str, int]
    out_dir: str
    rows_in: int
    rows_out: int
    rows_dropped: dict[str, int]
    values_repaired: dict[str, dict[str, int]]
    rows_noted: dict[str, int]
    rows_repaired: int
    rows_unchanged: int
    servers: int
    start: str
    end: str
    interval_minutes: float | None
    reported: dict[str, float]
    profiles: dict[str, int]
    states: dict[str, int]
    states_derived: int
    relative: dict[str, str] = field(default_factory=dict)
    servers_without_metrics: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """The same for `--json` and `metrics_metadata.json`."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def render_report(report: ImportReport, console: Console) -> None:
    """Print a report for people: rows in, repaired by rule, out; metrics; what to know about it."""
    from rich.table import Table
    from rich.text import Text

    files = sum(report.files.values())
    console.print(
        Text.assemble(
            (f"Imported {files:,} file{'s' * (files != 1)} ", "bold"),
            (f"with the mapping “{report.mapping}” into {report.out_dir}", ""),
        )
    )
    rows = Table(title="Rows", title_justify="left", show_header=False, box=None, pad_edge=False)
    rows.add_column("what")
    rows.add_column("rows", justify="right")
    rows.add_column("why", style="dim")
    rows.add_row("in", f"{report.rows_in:,}", "")
    for name, count in report.rows_dropped.items():
        rows.add_row(f"− dropped: {name}", f"{count:,}", RULES_BY_NAME[name].text)
    rows.add_row("= out", f"{report.rows_out:,}", "", style="bold")
    rows.add_row("  of these unchanged", f"{report.rows_unchanged:,}", "")
    rows.add_row("  of these repaired", f"{report.rows_repaired:,}", "with a repaired value or time")
    for name, count in report.rows_noted.items():
        rows.add_row(f"put right: {name}", f"{count:,}", RULES_BY_NAME[name].text)
    console.print(rows)

    if report.values_repaired:
        values = Table(title="\nValues repaired", title_justify="left", box=None, pad_edge=False)
        values.add_column("rule")
        touched = [m for m in METRIC_COLUMNS if any(m in counts for counts in report.values_repaired.values())]
        for metric in touched:
            values.add_column(metric, justify="right")
        values.add_column("how", style="dim")
        for name, counts in report.values_repaired.items():
            rule = RULES_BY_NAME[name]
            cells = [f"{counts[metric]:,}" if metric in counts else "" for metric in touched]
            values.add_row(name, *cells, f"{rule.effect.removeprefix('value ')}: {rule.text}")
        console.print(values)

    facts = Table(title="\nResult", title_justify="left", show_header=False, box=None, pad_edge=False)
    facts.add_column("what")
    facts.add_column("value")
    interval = "" if report.interval_minutes is None else f", every {report.interval_minutes:g} min"
    facts.add_row("servers", f"{report.servers:,} ({_listed(report.profiles)})")
    facts.add_row("time", f"{report.start} to {report.end}{interval}")
    facts.add_row("metrics", ", ".join(f"{name} {_share(share)}" for name, share in report.reported.items()))
    for name, base in report.relative.items():
        facts.add_row("NOT MEASURED", f"{name} is in percent of {base}", style="bold yellow")
    origin = "derived by the contract's rule" if report.states_derived else "from the source"
    if 0 < report.states_derived < report.rows_out:
        origin = f"{report.states_derived:,} of them {origin}"
    facts.add_row("states", Text(f"{_listed(report.states)}; {origin}"))
    console.print(facts)
    for note in report.notes:
        console.print(Text.assemble(("note ", "cyan"), note))
    for warning in report.warnings:
        console.print(Text.assemble(("warning ", "yellow"), warning))


def _share(share: float) -> str:
    return "never reported" if not share else "in every row" if share == 1 else f"in {100 * share:.1f} % of the rows"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def merge_counts(counters: Iterable[tuple[str, Counter[str]]]) -> dict[str, dict[str, int]]:
    """Counts per rule and metric, rules and metrics in their usual order."""
    found = dict(counters)
    return {
        rule.name: {metric: found[rule.name][metric] for metric in METRIC_COLUMNS if found[rule.name][metric]}
        for rule in RULES
        if rule.name in found
    }


def _self_check() -> None:
    tally = Tally()
    tally.count_rows("duplicate", 2)
    tally.count_values("clipped", "cpu_pct", 3)
    assert tally.dropped() == {"duplicate": 2}
    assert merge_counts(tally.values.items()) == {"clipped": {"cpu_pct": 3}}
    assert len(RULES_BY_NAME) == len(RULES)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
