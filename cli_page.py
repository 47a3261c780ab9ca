"""How Docs/CLI.md is written out of the parsers: `make docs` does it, a test compares it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cli_words import CommandWords, OptionWords, plain

PAGE: Final = Path(__file__).resolve().parent / "Docs" / "CLI.md"

_HEAD: Final = """\
# All commands

**Purpose.** Every command with every option. This page is written by `make docs` out of the program itself.

**Prerequisites.** `python main.py setup`.

Last updated: 2026-11-23

Exit codes: 0 done, 1 a mistake that you can mend (told with what, why, fix and document), 2 wrong usage, 130 Ctrl-C
(1 where a training was stopped). Results go to standard output, progress and errors to standard error; `--json` prints
JSON and nothing else. Colours stay out of pipes, and out of everything with `NO_COLOR`. Before the command may stand
`--config FILE` (settings file) and `--version`. `_` and `-` within an option's name are the same.

```bash
python main.py --version
python main.py --config other.toml status
eval "$(python main.py completion bash)"     # or zsh; fish: python main.py completion fish | source
```
"""

_TAIL: Final = """
## Troubleshooting

Wrong usage shows how the command is used. `python main.py doctor` finds what is wrong
with the place that a command runs in.
"""


def cli_page(commands: Sequence[CommandWords]) -> str:
    """The whole page, as Markdown."""
    return _HEAD + "".join(_section(command) for command in commands) + _TAIL


def _section(command: CommandWords) -> str:
    lines = ["", f"## {' '.join(command.words)}", "", " ".join(command.help.split()), "", "```bash"]
    examples, _, documents = plain(command.epilog).partition("More: ")
    lines += [line.strip() for line in examples.splitlines() if line.startswith("  ")]
    lines += ["```", ""]
    if command.options:
        lines += ["| option | what it does | default |", "|---|---|---|"]
        lines += [_row(option) for option in command.options]
        lines.append("")
    named = re.findall(r"[\w/]+\.md", documents)
    links = (f"[{Path(name).name}]({name.removeprefix('Docs/') if '/' in name else f'../{name}'})" for name in named)
    return "\n".join([*lines, f"More: {', '.join(links)}", ""])


def _row(option: OptionWords) -> str:
    names = ", ".join(f"`{name}`" for name in option.names)
    choices = f" ({', '.join(option.choices)})" if option.choices else ""
    about = " ".join((option.help + choices).split()).replace("|", r"\|")
    return f"| {names} | {about} | {option.default} |"


if __name__ == "__main__":
    import typer

    from cli_words import commands_of
    from main import app

    PAGE.write_text(cli_page(list(commands_of(typer.main.get_command(app)))), encoding="utf-8")
    print(f"Written: {PAGE}")
