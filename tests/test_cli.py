"""What holds for all commands: versions, consistent options, the page of them, and completion in a real shell."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from cli_completion import completion_script
from cli_page import PAGE, cli_page
from cli_words import commands_of
from data_contract import CONTRACT_VERSION
from main import app

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = list(commands_of(typer.main.get_command(app)))
WITHOUT_JSON = {
    ("rules",),  # YAML
    ("completion",),  # a script
    ("serve",),  # these run until they are stopped
    ("dashboard",),
    ("demo",),
}


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "main.py"), *arguments]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_the_versions_are_told():
    done = run("--version")
    told = dict(line.split() for line in done.stdout.splitlines())
    assert done.returncode == 0 and told["contract"] == CONTRACT_VERSION and told["torch"] == version("torch")
    assert f'version = "{told["product"]}"' in (ROOT / "pyproject.toml").read_text()


def test_a_settings_file_can_be_named_before_any_command(tmp_path):
    (tmp_path / "other.toml").write_text('data_dir = "elsewhere"\n')
    assert (
        '"elsewhere/server_metrics.parquet"' in run("--config", "other.toml", "status", "--json", cwd=tmp_path).stdout
    )
    absent = run("--config", "absent.toml", "status", cwd=tmp_path)
    assert absent.returncode == 1 and "absent.toml" in absent.stderr and "Traceback" not in absent.stderr


def test_every_command_that_ends_speaks_json():
    without = {command.words for command in COMMANDS if all("--json" not in option.names for option in command.options)}
    assert without == WITHOUT_JSON


def test_every_option_is_explained_and_may_be_written_with_hyphens():
    for command in COMMANDS:
        for option in command.options:
            assert option.help.endswith((".", ")")), (command.words, option.names)
            for name in option.names:
                if option.is_option:
                    assert name[:2] + name[2:].replace("_", "-") in option.names, (command.words, name)


def test_one_name_means_one_kind_of_value_everywhere():
    kinds: dict[str, set[bool]] = {}
    for command in COMMANDS:
        for option in command.options:
            for name in option.names:
                kinds.setdefault(name, set()).add(option.takes_value)
    assert {name for name, values in kinds.items() if name.startswith("--") and len(values) > 1} == set()


def test_the_page_of_all_commands_is_that_of_the_program():
    assert PAGE.read_text(encoding="utf-8") == cli_page(COMMANDS), "run `make docs`"


# ---------------------------------------------------------------------------------------------------------- completion
def completed(line: str, cwd: Path = ROOT) -> set[str]:
    """What a real bash proposes at the end of a line."""
    words = line.split(" ")
    script = completion_script("bash", COMMANDS) + (
        f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; _tft\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-eu", "-c", script], cwd=cwd, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_commands_groups_options_and_choices():
    assert {"train", "doctor", "keys", "import", "--help"} <= completed("python main.py ")
    assert completed("python main.py do") == {"doctor"}
    assert completed("./main.py keys ") == {"create", "list", "revoke", "--help"}
    assert completed("python3 ./main.py keys create --scope ") == {"read", "write", "admin"}
    assert completed("python main.py train --pre") == {"--preset", "--precision"}
    assert completed("python main.py generate --format p") == {"parquet", "partitioned"}
    assert completed("python main.py completion ") >= {"bash", "zsh", "fish"}


def test_bash_leaves_files_and_other_scripts_alone():
    assert completed("python main.py train --data ") == completed("python other.py ") == completed("python ma") == set()


def test_every_option_of_every_command_is_completed():
    for command in COMMANDS:
        expected = {
            name for option in command.options if option.is_option for name in option.names if name.startswith("--")
        }
        assert expected <= completed(f"python main.py {' '.join(command.words)} --"), command.words


def test_the_script_that_is_printed_is_taken_by_its_shell(tmp_path):
    for shell in ("bash", "zsh", "fish"):
        done = run("completion", shell, cwd=tmp_path)
        assert done.returncode == 0 and "doctor" in done.stdout
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True, timeout=60)
    assert run("completion", "tcsh", cwd=tmp_path).returncode == 2


def _shell_says(shell: list[str], script: str, cwd: Path) -> str:
    if not shutil.which(shell[0]):
        pytest.skip(f"no {shell[0]}: apt-get install {shell[0]}")
    done = subprocess.run([*shell, script], capture_output=True, text=True, check=True, cwd=cwd, timeout=60)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    ("shell", "begin", "ask", "answer"),
    [
        (["bash", "--norc", "-c"], 'eval "$(%s)"', "complete -p main.py", "complete -o default -F _tft main.py"),
        (["zsh", "-f", "-c"], 'eval "$(%s)"', "print -r $_comps[main.py]", "_bash_complete -o default -F _tft"),
        (["fish", "--no-config", "-c"], "%s | source", "complete -C 'main.py doct' | string split -f1 \\t", "doctor"),
    ],
)
def test_the_script_can_be_evaluated_as_the_page_says(shell, begin, ask, answer, tmp_path):
    begin %= f"{sys.executable} {ROOT / 'main.py'} completion {shell[0]}"
    assert _shell_says(shell, f"{begin}; {ask}", tmp_path).strip() == answer


def test_fish_completes_what_bash_does(tmp_path):
    (tmp_path / "completion.fish").write_text(run("completion", "fish", cwd=tmp_path).stdout)
    expected = {
        "python main.py d": {"doctor", "dashboard", "demo"},
        "./main.py keys ": {"create", "list", "revoke"},
        "python3 /opt/tft/main.py keys create --scope ": {"read", "write", "admin"},
        "python main.py generate --servers 90 --format p": {"parquet", "partitioned"},
        "python main.py completion ": {"bash", "zsh", "fish"},
        "python main.py train --pres": {"--preset"},
        "python other.py d": set(),
    }
    lines = "; ".join(f"echo (complete -C '{line}' | string split -f1 \\t)" for line in expected)
    said = _shell_says(["fish", "--no-config", "-c"], f"source completion.fish; {lines}", tmp_path).splitlines()
    files = {"completion.fish"}  # fish offers them where nothing better is known
    assert [set(line.split()) - files for line in said] == list(expected.values())
