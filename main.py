"""The command line as a whole: all commands in their order; how each is called stands in `commands_….py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

try:
    import rich  # noqa: F401 - the commands need it
    import typer
except ModuleNotFoundError:  # a Python without our packages: `setup` must run all the same
    if __name__ != "__main__":
        raise
    from tft_setup import start_without_packages

    raise SystemExit(start_without_packages(sys.argv[1:])) from None
except KeyboardInterrupt:  # Ctrl-C within the first tenths of a second
    if __name__ != "__main__":
        raise
    raise SystemExit(130) from None

from command_frame import Command, app

# In the order in which `--help` lists their commands
# isort: off
import commands_start
import commands_data
import commands_model
import commands_service
# isort: on

__all__ = ["Command", "app", "commands_data", "commands_model", "commands_service", "commands_start"]


def _show_versions(asked: bool) -> None:
    if asked:
        from tft_status import versions

        print(*(f"{name} {number}" for name, number in versions().items()), sep="\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_versions,
            is_eager=True,
            help="Show the versions of the product, the contract, the models, Python and torch.",
        ),
    ] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings file.", show_default="TFT_CONFIG_FILE, tft.toml")
    ] = None,
) -> None:
    """Options that stand before the command."""
    del version  # told by its callback
    if config is not None:
        os.environ["TFT_CONFIG_FILE"] = str(config)


def main() -> None:
    """Run the command line."""
    app(prog_name="python main.py")


def run_command(name: str) -> None:
    """Run one command with the options of this process: what the scripts do when they are called by themselves."""
    group: Any = typer.main.get_command(app)
    group.commands[name].main(prog_name=f"python {Path(sys.argv[0]).name}")


if __name__ == "__main__":
    main()
