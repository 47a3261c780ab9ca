"""Commands for the beginning: what is here, what is wrong, what to do next."""

from __future__ import annotations

from typing import Annotated

import typer

from command_frame import (
    Json,
    command,
    settings_of,
    show_json,
    stdout,
)


@command("setup", "QUICK_START.md", "python main.py setup")
def setup(as_json: Json = False) -> None:
    """Make .venv, install the pinned packages, check them, and say what was found. Runs on a bare Python."""
    from tft_setup import run_setup

    run_setup(as_json=as_json)


@command("status", "QUICK_START.md", "python main.py status", "python main.py status --json")
def status(as_json: Json = False) -> None:
    """Show data set, model, daemon and dashboard, and what to do next."""
    from tft_status import read_status, show_status

    found = read_status(settings_of())
    if as_json:
        show_json(found)
    else:
        show_status(found, stdout())


@command(
    "doctor",
    "Docs/OPERATIONS.md",
    "python main.py doctor",
    "python main.py doctor installation data",
    "python main.py doctor daemon --json",
    "python main.py doctor model --fix",
)
def doctor(
    sections: Annotated[
        list[str] | None,
        typer.Argument(metavar="SECTION…", help="installation, settings, data, model, daemon, dashboard; all without."),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what can be mended without losing anything; say what was done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find what is wrong here, say why it matters and which command mends it; exit 1 if there are problems.

    What is not there yet, such as a model, is a problem only if its section is named.
    """
    from doctor import examine, sections_named, show_diagnosis

    try:
        chosen = sections_named(sections or ())
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="SECTION…") from None
    found = examine(chosen, repair=fix)
    if as_json:
        show_json(found.as_dict())
    else:
        show_diagnosis(found, stdout())
    if not found.is_well:
        raise typer.Exit(1)
