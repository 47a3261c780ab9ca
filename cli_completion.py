"""How a shell completes our commands: a script with all words in it, so that no Python is started at a press of TAB.

Typer's own completion starts the program at each press and wants a program of its own name; ours is called as
`python main.py`. Knows nothing of what the commands do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from cli_words import CommandWords, OptionWords

Shell = Literal["bash", "zsh", "fish"]

_BASH: Final = """\
# Completion of `python main.py` and `./main.py` for bash: eval "$(python main.py completion bash)"
_tft_words() {
    case "$1" in
%(cases)s
    esac
}
_tft() {
    local at=1 path="" word previous="${COMP_WORDS[COMP_CWORD-1]}" current="${COMP_WORDS[COMP_CWORD]}"
    if [[ "${COMP_WORDS[0]##*/}" != main.py ]]; then  # called as python: main.py must be its script
        if (( COMP_CWORD < 2 )) || [[ "${COMP_WORDS[1]##*/}" != main.py ]]; then COMPREPLY=(); return; fi
        at=2
    fi
    while (( at < COMP_CWORD )); do
        word="${COMP_WORDS[at]}"
        case " %(paths)s " in *" ${path:+$path/}$word "*) path="${path:+$path/}$word" ;; esac
        (( at += 1 ))
    done
    COMPREPLY=()
    if [[ "$previous" == -* ]]; then
        word="$(_tft_words "$path $previous")"
        if [[ "$word" == "FILE" ]]; then return; fi  # -o default: names of files
        if [[ -n "$word" ]]; then COMPREPLY=($(compgen -W "$word" -- "$current")); return; fi
    fi
    COMPREPLY=($(compgen -W "$(_tft_words "$path")" -- "$current"))
}
complete -o default -F _tft main.py python python3
"""

_ZSH: Final = """\
# Completion of `python main.py` and `./main.py` for zsh: eval "$(python main.py completion zsh)"
autoload -Uz +X compinit && compinit
autoload -Uz +X bashcompinit && bashcompinit
"""


def completion_script(shell: Shell, commands: Sequence[CommandWords]) -> str:
    """Script for a shell to run, which completes every command, option and choice."""
    if shell == "fish":
        return _fish(commands)
    bash = _bash(commands)
    return bash if shell == "bash" else _ZSH + bash.split("\n", 1)[1]


def _bash(commands: Sequence[CommandWords]) -> str:
    groups: dict[tuple[str, ...], list[str]] = {}
    cases = []
    for command in commands:
        for depth in range(len(command.words)):
            known = groups.setdefault(command.words[:depth], [])
            if command.words[depth] not in known:
                known.append(command.words[depth])
        path = "/".join(command.words)
        for option in command.options:
            if option.is_option and option.takes_value:
                after = " ".join(option.choices) or "FILE"
                pattern = "|".join(f'"{path} {name}"' for name in option.names)
                cases.append(f'        {pattern}) echo "{after}" ;;')
        cases.append(f'        "{path}") echo "{" ".join(_words(command.options))}" ;;')
    cases += [f'        "{"/".join(path)}") echo "{" ".join(names)} --help" ;;' for path, names in groups.items()]
    paths = ["/".join(path) for path in groups if path] + ["/".join(command.words) for command in commands]
    return _BASH % {"cases": "\n".join(cases), "paths": " ".join(paths)}


def _words(options: Sequence[OptionWords]) -> list[str]:
    words = [word for option in options if not option.is_option for word in option.choices]
    return [*words, *(name for option in options if option.is_option for name in option.names), "--help"]


def _fish(commands: Sequence[CommandWords]) -> str:
    lines = ["# Completion of `python main.py` and `./main.py` for fish: python main.py completion fish | source"]
    first = list(dict.fromkeys(command.words[0] for command in commands))
    seen = "string match -q '*main.py*' (commandline -o)"
    for name in first:
        about = next(command.help for command in commands if command.words[0] == name).split("\n")[0]
        when = f"{seen}; and not __fish_seen_subcommand_from {' '.join(first)}"
        lines += [_fish_line(program, when, f"-a {name} -d {_quoted(about)}") for program in _PROGRAMS]
    for command in commands:
        when = f"{seen}; and __fish_seen_subcommand_from {command.words[0]}"
        if len(command.words) > 1:
            here = f"{when}; and not __fish_seen_subcommand_from {command.words[1]}"
            lines += [_fish_line(program, here, f"-a {command.words[1]}") for program in _PROGRAMS]
            when += f"; and __fish_seen_subcommand_from {command.words[1]}"
        for option in command.options:
            if not option.is_option:
                continue
            takes = f" -x -a {_quoted(' '.join(option.choices))}" if option.choices else " -r" * option.takes_value
            for name in option.names:
                rest = f"-l {name.removeprefix('--')}{takes} -d {_quoted(option.help)}"
                lines += [_fish_line(program, when, rest) for program in _PROGRAMS]
    return "\n".join(lines) + "\n"


_PROGRAMS: Final = ("main.py", "python", "python3")


def _fish_line(program: str, when: str, rest: str) -> str:
    return f"complete -c {program} -n {_quoted(when)} {rest}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
