"""What all commands share: how they are registered, what their errors, results and progress look like."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from data_contract import ProductError

if TYPE_CHECKING:
    from config import Settings


class Command(typer.core.TyperCommand):
    """A command that tells the product's own errors in four parts and exits with 1; bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command's body."""
        try:
            return super().invoke(ctx)
        except ProductError as error:
            show_error(error, as_json=bool(ctx.params.get("as_json")))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("\nStopped.", file=sys.stderr)
            raise typer.Exit(130) from None


HELP_FLAGS = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="main.py",
    help="Learns how a fleet of servers behaves and says what CPU, memory, disk I/O and latency will be 30 minutes, "
    "1 hour and 8 hours from now.\n\nUsual order: [bold]setup → generate or import → train → serve → dashboard"
    "[/bold]; [bold]demo[/bold] does all of it, [bold]status[/bold] tells where you are.",
    epilog="Zero to forecast: QUICK_START.md · All documents: Docs/INDEX.md · Settings: `python config.py`",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings=HELP_FLAGS,
)


Body = TypeVar("Body", bound=Callable[..., None])


def command(name: str, document: str, *examples: str, group: typer.Typer = app) -> Callable[[Body], Body]:
    """Register a command whose help ends with examples and the document that explains it."""
    lines = ["[bold]Examples[/bold]", *(f"  [cyan]{example}[/cyan]" for example in examples), f"\nMore: {document}"]
    return group.command(name, cls=Command, epilog="\n".join(lines), context_settings=HELP_FLAGS)


def show_error(error: ProductError, *, as_json: bool) -> None:
    """Print what went wrong, why it matters, how to fix it and where to read on, to standard error."""
    if as_json:
        print(json.dumps({"error": error.as_dict()}, ensure_ascii=False), file=sys.stderr)
        return
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("[bold red]Error:[/bold red] ", end="")
    console.print(str(error), markup=False)


def show_json(content: Any) -> None:
    """Print JSON, and nothing else, to standard output."""
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


def settings_of(**flags: Any) -> Settings:
    """Settings with the flags that were given on top, and logging set up after them."""
    from config import load_settings

    return load_settings(**flags)


def stdout() -> Console:
    """Console of what a command answers; it obeys NO_COLOR and pipes."""
    return Console(highlight=False)


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, to standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress: the result and errors alone.")]
ModelDir = Annotated[
    Path | None, typer.Option("--model-dir", help="Model folder.", show_default="models_dir/latest, ./models/latest/")
]
OutDir = Annotated[
    Path | None,
    typer.Option("--out_dir", "--out-dir", help="Folder to write to.", show_default="setting data_dir, ./training/"),
]

TIME_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]


@contextlib.contextmanager
def progress_bar(description: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Progress bar on standard error, which leaves standard output to the result; gives `advance(done, total)`."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def progress_bars(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars on standard error, one after the other; gives `tell(what, done, total)`."""
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    bars = Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True)
    tasks: dict[str, TaskID] = {}

    def tell(what: str, done: int, total: int) -> None:
        if what not in tasks:
            for task in tasks.values():
                bars.update(task, visible=False)
            tasks[what] = bars.add_task(what)
            bars.start()
        bars.update(tasks[what], completed=done, total=total)
        if done >= total:  # what comes next may draw its own
            bars.update(tasks[what], visible=False)
            bars.stop()
            tasks.clear()

    try:
        yield tell
    finally:
        bars.stop()


def done(what: str, where: object) -> None:
    """Say that something was finished, and where its result lies."""
    console = stdout()
    console.print("[green]✓[/green] ", end="")
    console.print(f"{what}\n  {where}", markup=False, soft_wrap=True)
