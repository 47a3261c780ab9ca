"""What is wrong here: every section looked at, told and, where nothing can be lost by it, mended.

Knows which module looks at what, and not what is looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape

from config import Settings
from doctor_findings import SECTIONS, Finding, Section

_MARKS = {"problem": "[red]✗[/red]", "absent": "[yellow]○[/yellow]", "hint": "[yellow]![/yellow]"}


@dataclass(frozen=True)
class Diagnosis:
    """What an examination found.

    Attributes
    ----------
    sections : tuple of str
        Those that were looked at, in order.
    findings : tuple of Finding
        In the same order; what was mended is not among them.
    named : bool
        Whether the sections were asked for by name: then what is not there yet counts as a problem, too.
    skipped : tuple of str
        Sections that could not be looked at, because the settings cannot be used.
    repaired : tuple of str
        What was done, a sentence each.
    """

    sections: tuple[Section, ...]
    findings: tuple[Finding, ...]
    named: bool = False
    skipped: tuple[Section, ...] = ()
    repaired: tuple[str, ...] = field(default=())

    def is_problem(self, finding: Finding) -> bool:
        """Whether a finding makes the exit code 1."""
        return finding.kind.weight == "problem" or (self.named and finding.kind.weight == "absent")

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong; hints do not count."""
        return not any(self.is_problem(finding) for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The same for `--json`."""
        return {
            "is_well": self.is_well,
            "sections": list(self.sections),
            "skipped": list(self.skipped),
            "repaired": list(self.repaired),
            "findings": [{**finding.as_dict(), "is_problem": self.is_problem(finding)} for finding in self.findings],
        }


def sections_named(names: Iterable[str]) -> tuple[Section, ...]:
    """Sections of these names, in the order in which they are looked at.

    Raises
    ------
    ValueError
        If there is no such section.
    """
    wanted = set(names)
    if wanted - set(SECTIONS):
        raise ValueError(f"there is no section {', '.join(sorted(wanted - set(SECTIONS)))}; {', '.join(SECTIONS)} are")
    return tuple(section for section in SECTIONS if section in wanted)


def examine(sections: Sequence[Section] = (), *, repair: bool = False) -> Diagnosis:
    """Look at some sections, or at all.

    Parameters
    ----------
    sections : sequence of str
        Names out of `SECTIONS`; none for all.
    repair : bool
        Mend what can be mended without losing anything, and look again.
    """
    found = _look(sections)
    if not repair:
        return found
    done = [_mended(finding) for finding in found.findings if finding.repair is not None]
    again = _look(sections)
    return Diagnosis(again.sections, again.findings, again.named, again.skipped, tuple(done))


def _mended(finding: Finding) -> str:
    assert finding.repair is not None
    try:
        return finding.repair()
    except OSError as error:  # it stays a finding
        return f"could not mend `{finding.key}`: {error.strerror or error}"


def _look(sections: Sequence[Section]) -> Diagnosis:
    from doctor_installation import read_settings

    wanted = tuple(section for section in SECTIONS if not sections or section in sections)
    settings, findings = read_settings()
    if settings is None:  # told whatever was asked for: nothing else can be looked at
        return Diagnosis(("settings",), tuple(findings), bool(sections), tuple(s for s in wanted if s != "settings"))
    for section in wanted:
        findings.extend(_checks(settings)[section]())
    return Diagnosis(wanted, tuple(findings), bool(sections))


def _checks(settings: Settings) -> dict[Section, Callable[[], Iterable[Finding]]]:
    from doctor_daemon import check_daemon, check_dashboard
    from doctor_data import check_data, check_model
    from doctor_installation import check_installation, check_settings

    return {
        "installation": lambda: check_installation(settings),
        "settings": lambda: check_settings(settings),
        "data": lambda: check_data(settings.data_dir),
        "model": lambda: check_model(settings.models_dir, settings.data_dir),
        "daemon": lambda: check_daemon(settings),
        "dashboard": lambda: check_dashboard(settings),
    }


def show_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Draw the diagnosis for a person: what, why, how to mend it and where to read on."""
    for sentence in diagnosis.repaired:
        console.print(f"[green]✓[/green] {escape(sentence)}", soft_wrap=True)
    for section in diagnosis.sections:
        console.print(f"[bold]{section}[/bold]")
        own = [finding for finding in diagnosis.findings if finding.kind.section == section]
        if not own:
            console.print("  [green]✓[/green] nothing found")
        for finding in own:
            for line in _lines(finding, problem=diagnosis.is_problem(finding)):
                console.print(line, soft_wrap=True)
    if diagnosis.skipped:
        console.print(f"Not looked at until the settings can be used: {', '.join(diagnosis.skipped)}.", soft_wrap=True)
    problems = sum(diagnosis.is_problem(finding) for finding in diagnosis.findings)
    others = len(diagnosis.findings) - problems
    verdict = "[red]not well[/red]" if problems else "[green]well[/green]"
    console.print(f"\n{verdict}: {problems} problem(s), {others} other finding(s)", soft_wrap=True)


def _lines(finding: Finding, *, problem: bool) -> Iterator[str]:
    kind = finding.kind
    mark = _MARKS["problem"] if problem else _MARKS[kind.weight]
    yield f"  {mark} {escape(finding.what)} [dim]({finding.key})[/dim]"
    yield f"      Why it matters: {escape(kind.why)}"
    yield f"      To fix it: [cyan]{escape(finding.fix or kind.fix)}[/cyan]"
    yield f"      More: {kind.document}"
