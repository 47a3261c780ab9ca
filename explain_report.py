"""How an explanation of an unknown file is shown to people: what was seen, what is proposed and why, and what next."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from explain_toml import plain_text
from explain_values import Finding
from import_explain import Explanation

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_COLOURS: Final = {"sure": "green", "likely": "cyan", "guess": "yellow", "not found": "dim"}
_WARNINGS_SHOWN: Final = 20
_SEPARATOR_WORDS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", "whitespace": "spaces"}


def render_explanation(explanation: Explanation, console: Console, *, with_mapping: bool) -> None:
    """Print an explanation.

    Parameters
    ----------
    explanation : Explanation
        What to show.
    console : Console
        Where to.
    with_mapping : bool
        Whether the mapping is printed, too; not if it was written to a file.
    """
    console.print(_text((plain_text(explanation.source, 300), "bold"), (f": {_seen(explanation)}", "")), soft_wrap=True)
    preset = explanation.preset
    if preset is not None:
        layout = f" (layout {preset.layout_name})" if preset.layout_name else ""
        but = "" if explanation.take_preset else "; the mapping below says more, or otherwise"
        fits = f"the preset {preset.name}{layout} fits: {preset.why}{but}"
        console.print(_text(("preset ", "green"), (f"{preset.confidence}: ", "bold"), (plain_text(fits, 600), "")))
    console.print(_proposal(explanation))
    console.print(_reasons(explanation))
    if explanation.unused:
        console.print(_unused(explanation))
    for warning in explanation.warnings[:_WARNINGS_SHOWN]:
        console.print(_text(("warning ", "yellow"), (plain_text(warning, 600), "")))
    if len(explanation.warnings) > _WARNINGS_SHOWN:
        console.print(_text((f"… and {len(explanation.warnings) - _WARNINGS_SHOWN} more warnings", "yellow")))
    if explanation.mapping is None:
        return
    named = " ".join(plain_text(shlex.quote(path), 300) for path in explanation.paths[:20])
    if explanation.take_preset and preset is not None:
        console.print(
            _text(("\nTake the preset: ", "bold"), (f"python main.py import {named} --preset {preset.name}", "")),
            soft_wrap=True,
        )
    elif with_mapping:
        console.print(_text(("\nProposed mapping", "bold"), (" (--write my_mapping.toml keeps it):\n", "")))
        console.print(explanation.toml, markup=False, highlight=False, soft_wrap=True, end="")
        next_step = f"python main.py import {named} --mapping my_mapping.toml"
        console.print(_text(("\nNext: ", "bold"), (next_step, "")), soft_wrap=True)


def _seen(explanation: Explanation) -> str:
    """What was looked at, in one sentence."""
    parts = []
    if explanation.files > 1:
        parts.append(f"{explanation.files:,} files, of which {plain_text(explanation.sampled_file, 200)} was looked at")
    form = explanation.form
    if explanation.kind == "parquet":
        parts.append("Parquet")
    else:
        separator = _SEPARATOR_WORDS.get(form["separator"], repr(form["separator"]))
        details = [f"separated by {separator}", form.get("encoding", "utf-8")]
        details.append("with a header" if form.get("header", True) else "without a header")
        if "decimal" in form:
            details.append("decimal comma")
        if "skip_lines" in form:
            details.append(f"{form['skip_lines']} lines before the table")
        parts.append("text, " + ", ".join(details))
    all_rows = explanation.rows_in_all
    of_all = "" if all_rows is None or all_rows == explanation.rows_sampled else f" of {all_rows:,}"
    parts.append(f"{explanation.columns:,} columns, {explanation.rows_sampled:,}{of_all} rows sampled")
    if explanation.start:
        every = "" if explanation.interval_minutes is None else f", every {explanation.interval_minutes:g} min"
        servers = f"{explanation.servers:,} server{'s' * (explanation.servers != 1)} seen"
        parts.append(f"{servers}, {explanation.start} to {explanation.end}{every}")
    return "; ".join(parts)


def _proposal(explanation: Explanation) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title="\nWhat the columns are", title_justify="left")
    for title in ("contract", "source", "unit", "how sure", "min … median … max, converted"):
        table.add_column(title, overflow="fold")
    for finding in explanation.findings:
        names = [plain_text(name, 60) for name in explanation.names[finding.field]]
        table.add_row(
            finding.field,
            _text(((" of " if "of" in (finding.section or {}) else " + ").join(names) or _without_column(finding), "")),
            _text((plain_text(finding.unit, 40), "")),
            _text((finding.confidence, _COLOURS[finding.confidence])),
            _text((plain_text(explanation.evidence.get(finding.field, ""), 80), "")),
        )
    return table


def _reasons(explanation: Explanation) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title="\nWhy", title_justify="left", show_header=False)
    table.add_column("contract")
    table.add_column("why", style="dim", overflow="fold")
    for finding in explanation.findings:
        table.add_row(finding.field, _text((plain_text("; ".join(finding.why), 500), "")))
    return table


def _without_column(finding: Finding) -> str:
    """What stands in the place of a column."""
    section = finding.section or {}
    if "start" in section:
        return "(counted)"
    if "from_file_name" in section:
        return "(file name)"
    return str(section.get("name", "–"))


def _unused(explanation: Explanation) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title="\nNot used", title_justify="left", show_header=False)
    table.add_column("column", overflow="fold")
    table.add_column("why", style="dim", overflow="fold")
    for name, why in explanation.unused:
        table.add_row(_text((plain_text(name, 60), "")), _text((plain_text(why, 300), "")))
    more = explanation.unused_in_all - len(explanation.unused)
    if more > 0:
        table.add_row(f"… and {more:,} more", "")
    return table


def _text(*parts: tuple[str, str]) -> Text:
    """Text that is shown as it is, whatever it holds."""
    from rich.text import Text as Styled

    return Styled.assemble(*parts)


def _self_check() -> None:
    import tempfile
    from io import StringIO
    from pathlib import Path

    from rich.console import Console

    from import_explain import explain

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_text("time,host,[red]cpu %\n2026-01-01 00:00,web1,55\n", encoding="utf-8")
        console = Console(file=StringIO(), width=120)
        render_explanation(explain(path), console, with_mapping=True)
        assert isinstance(console.file, StringIO) and "[red]cpu %" in console.file.getvalue()
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
