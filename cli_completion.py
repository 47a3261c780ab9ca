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


_FISH: Final = """\
# Completion of `python main.py` and `./main.py` for fish: python main.py completion fish | source
function __tft_after  # whether the words given are those after main.py; --last: and nothing stands after them
    set -l words (commandline -opc)
    set -l at (contains -i -- main.py (string replace -r '.*/' '' -- $words)); or return 1
    set -e words[1..$at]
    set words (string match -v -- '-*' $words)
    if test "$argv[1]" = --last
        set -e argv[1]
        test (count $words) -eq (count $argv); or return 1
    end
    set -l length (count $argv)
    test $length -eq 0; and return 0
    test (count $words) -ge $length; and test "$words[1..$length]" = "$argv"
end
"""


def _fish(commands: Sequence[CommandWords]) -> str:
    lines = []
    for command in commands:
        *group, own = command.words
        about = _quoted(command.help.split("\n")[0])
        if group:
            lines.append(_fish_line(["--last"], f"-f -a {group[0]}"))
            lines.append(_fish_line(["--last", *group], f"-f -a {own} -d {about}"))
        else:
            lines.append(_fish_line(["--last"], f"-f -a {own} -d {about}"))
        for option in command.options:
            choices = f"-a {_quoted(' '.join(option.choices))}" if option.choices else ""
            if not option.is_option:
                lines += [_fish_line(command.words, f"-f {choices}")] if choices else []
                continue
            takes = f"-x {choices} " if choices else "-r " if option.takes_value else ""
            for name in option.names:
                lines.append(_fish_line(command.words, f"{_fish_name(name)} {takes}-d {_quoted(option.help)}"))
    return _FISH + "\n".join(dict.fromkeys(lines)) + "\n"


def _fish_name(option: str) -> str:
    return f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"


def _fish_line(words: Sequence[str], rest: str) -> str:
    """A line for the script itself and for a Python that runs it."""
    return f"complete -c main.py -c python -c python3 -n '__tft_after {' '.join(words)}' {rest}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
