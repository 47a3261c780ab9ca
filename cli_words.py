"""Which commands and options there are, read off the parsers. Knows nothing of what they do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin


@dataclass(frozen=True)
class OptionWords:
    """One option or argument.

    Attributes
    ----------
    names : tuple of str
        Its spellings, such as `--out_dir`; of an argument, what the usage calls it.
    choices : tuple of str
        Words that it takes; none where it takes others.
    takes_value : bool
        Whether a word has to follow.
    help : str
        What it does, without markup.
    default : str
        As the help shows it; empty where there is none.
    """

    names: tuple[str, ...]
    choices: tuple[str, ...]
    takes_value: bool
    help: str
    default: str

    @property
    def is_option(self) -> bool:
        """Whether it begins with a hyphen."""
        return self.names[0].startswith("-")


@dataclass(frozen=True)
class CommandWords:
    """One command: its words (`("keys", "create")`), what it does, how its help ends, and its options in order."""

    words: tuple[str, ...]
    help: str
    epilog: str
    options: tuple[OptionWords, ...]


def commands_of(group: Any, words: tuple[str, ...] = ()) -> Iterator[CommandWords]:
    """All commands of a group and of those in it, in the order of the help."""
    for name, command in group.commands.items():
        path = (*words, name)
        if hasattr(command, "commands"):
            yield from commands_of(command, path)
            continue
        options = tuple(_option(parameter) for parameter in command.params)
        yield CommandWords(path, plain(command.help or ""), command.epilog or "", options)


def plain(text: str) -> str:
    """Text without rich's markup."""
    return re.sub(r"\[/?[a-z ]*\]", "", text).strip()


def _option(parameter: Any) -> OptionWords:
    is_option = parameter.param_type_name == "option"
    names = tuple(parameter.opts) if is_option else (parameter.metavar or parameter.name.upper(),)
    shown = getattr(parameter, "show_default", None)
    value = parameter.default
    told = isinstance(value, str | int | float) and not isinstance(value, bool)
    default = shown if isinstance(shown, str) else str(value) if told else ""
    return OptionWords(
        names,
        _choices(parameter),
        is_option and not parameter.is_flag,
        plain(getattr(parameter, "help", None) or ""),
        default,
    )


def _choices(parameter: Any) -> tuple[str, ...]:
    """Words of a Literal: newer typers keep the annotation, older ones a type with choices."""
    annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
    if get_origin(annotation) is Literal:
        return tuple(map(str, get_args(annotation)))
    return tuple(map(str, getattr(getattr(parameter, "type", None), "choices", ())))
