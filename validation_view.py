"""How the judgement of data and model folders looks in a terminal: findings first, then what the data is like.

Knows nothing of how it was judged: it draws the answers that `--json` prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
_OFFENDERS_SHOWN = {"warning": 3, "note": 1}
_INTERVALS_SHOWN = 4


def show_judgement(part: dict[str, Any], console: Console) -> None:
    """Print one judged source.

    Parameters
    ----------
    part : dict
        `ValidationReport.as_dict()`, or `source`, `is_valid`, `errors` and `warnings` of a model folder.
    console : Console
    """
    quality = part.get("quality")
    findings = quality["findings"] if quality else []
    in_the_table = {finding["sentence"] for finding in findings}
    for kind in ("error", "warning"):
        for sentence in part[f"{kind}s"]:
            if sentence not in in_the_table:
                console.print(f"[{_COLOURS[kind]}]{kind}[/{_COLOURS[kind]}] ", end="")
                console.print(sentence, markup=False, soft_wrap=True)
    if findings:
        _show_findings(findings, console)
    if quality and quality["servers"]:
        _show_quality(part, quality, console)
    mark = "[green]✓ valid[/green]" if part["is_valid"] else "[red]✗ not valid[/red]"
    console.print(f"{mark} ", end="")
    console.print(_size_of(part), markup=False, soft_wrap=True)


def _show_findings(findings: list[dict[str, Any]], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in findings:
        level = finding["level"]
        what = Text.assemble((finding["text"], "bold"), f" in {finding['servers']:,} of {finding['of']:,} servers")
        what.append(f" ({finding['note']})" if finding["note"] else "")
        table.add_row(Text(level, style=_COLOURS[level]), what)
        for offender in finding["worst"][: _OFFENDERS_SHOWN[level]]:
            table.add_row("", Text(f"· {offender['server']}: {offender['detail']}"))
        table.add_row("", Text(f"→ {finding['fix']}", style="dim"))
    console.print(table)


def _show_quality(part: dict[str, Any], quality: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column("what")
    facts.add_column("value")
    rhythms = [
        f"every {_seconds(found['seconds'])}" + (f": {found['servers']:,}" if len(quality["intervals"]) > 1 else "")
        for found in quality["intervals"][:_INTERVALS_SHOWN]
    ]
    if len(quality["intervals"]) > _INTERVALS_SHOWN:
        rhythms.append("…")
    if rhythms:
        facts.add_row("rows of a server", ", ".join(rhythms))
    for name, key in (("coverage", "coverage"), ("of the whole span", "coverage_of_span")):
        spread = quality[key]
        if spread and (key == "coverage" or spread != quality["coverage"]):
            facts.add_row(name, _coverage(spread))
    if quality["gaps"]:
        facts.add_row("gaps", f"{quality['gaps']:,}, the longest {_seconds(quality['longest_gap_seconds'])}")
    if quality["late_rows"]:
        facts.add_row("late rows", f"{quality['late_rows']:,} come after a newer one of their server")
    never = [name for name, rows in part["missing"].items() if rows == part["rows"]]
    reported = [
        f"{name} {_percent(1 - rows / part['rows'])}" for name, rows in part["missing"].items() if name not in never
    ]
    facts.add_row("reported", ", ".join(reported + [f"{name} never" for name in never]))
    facts.add_row(
        "states", ", ".join(f"{name} {_percent(rows / part['rows'])}" for name, rows in part["states"].items())
    )
    facts.add_row("profiles", ", ".join(f"{name} {count:,}" for name, count in part["profiles"].items()))
    console.print(facts)


def _coverage(spread: dict[str, float]) -> str:
    if spread["least"] == spread["most"]:
        return f"{_percent(spread['median'])} of the steps in every server"
    return (
        f"{_percent(spread['median'])} of the steps in the middle server, {_percent(spread['p05'])} in one of twenty, "
        f"{_percent(spread['least'])} at worst"
    )


def _percent(share: float) -> str:
    """A percentage that says 100 only if it is."""
    text = f"{100 * share:.1f}"
    if share < 1 and text == "100.0":
        text = "99.9"
    elif share > 0 and text == "0.0":
        return "below 0.1 %"
    return f"{text.removesuffix('.0')} %"


def _seconds(seconds: float) -> str:
    for unit, size, least in (("days", 86_400, 172_800), ("h", 3_600, 7_200), ("min", 60, 60)):
        if seconds >= least:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _size_of(part: dict[str, Any]) -> str:
    if "rows" not in part:
        return str(part["source"])
    period = f", {part['start']} to {part['end']}" if part["start"] else ""
    return f"{part['source']}: {part['rows']:,} rows of {part['servers']:,} servers{period}"


def _self_check() -> None:
    import io

    from rich.console import Console

    assert [_percent(share) for share in (1, 0.9999, 0.5, 0.0001, 0)] == [
        "100 %",
        "99.9 %",
        "50 %",
        "below 0.1 %",
        "0 %",
    ]
    assert [_seconds(seconds) for seconds in (5, 300, 113_400)] == ["5 s", "5 min", "31.5 h"]
    out = io.StringIO()
    model = {"source": "models/latest", "is_valid": False, "errors": ["`config.json` is missing"], "warnings": []}
    show_judgement(model, Console(file=out))
    assert out.getvalue() == "error `config.json` is missing\n✗ not valid models/latest\n"
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
