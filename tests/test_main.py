"""The command line: help, exit codes, errors in four parts, JSON that is only JSON, and quick answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from config import Settings
from data_contract import DaemonError
from main import Command, app

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("setup", "status", "generate", "import", "validate", "train", "predict", "serve", "dashboard", "demo")


def run(
    *arguments: str, cwd: Path = ROOT, script: str = "main.py", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=cwd,
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment},
    )


@cache
def help_of(command: str, script: str = "main.py") -> str:
    done = run(*([command] if script == "main.py" else []), "--help", script=script)
    assert done.returncode == 0, done.stderr
    return done.stdout


def parse_only(text: str) -> object:
    """JSON and nothing else."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_the_commands_are_those_of_the_specification():
    done = run("--help")
    assert done.returncode == 0
    assert re.findall(r"^│ ([a-z]+)  ", done.stdout, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_examples_and_a_document_that_exists(command):
    shown = help_of(command)
    assert "Examples" in shown and f" {command}" in shown
    documents = re.search(r"More: (.+)", shown)
    assert documents, shown
    for document in documents[1].split(","):
        assert (ROOT / document.strip()).is_file(), document


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (
            "generate",
            "--servers --hours --offline_mode --out_dir --output --seed --interval --start --scenario",
        ),
        (
            "generate",
            "--stream --url --speed --warmup_hours --json",
        ),
        ("import", "--preset --mapping --out_dir --json --list-presets"),
        ("validate", "--model-dir --strict --json"),
        ("train", "--data --epochs --models-dir --resume --preset --max-minutes --json"),
        ("predict", "--model-dir --data --server --json --out"),
        ("serve", "--daemon --host --port --model-dir --data --history-dir"),
        ("dashboard", "--port --daemon-url"),
        ("demo", "--check"),
        ("status", "--json"),
        ("setup", "--json"),
    ],
)
def test_every_command_has_its_flags(command, flags):
    shown = set(re.findall(r"--[a-z][a-z_-]+", help_of(command)))
    assert set(flags.split()) <= shown


def test_defaults_that_the_help_names_are_those_of_the_settings():
    named = [
        (setting, value)
        for command in COMMANDS
        for setting, value in re.findall(r"setting ([a-z_]+), ([^)\s]+)\)", help_of(command))
    ]
    assert len(named) >= 8
    for setting, value in named:
        default = Settings.model_fields[setting].default
        assert Path(value) == default if isinstance(default, Path) else value == str(default), setting


def test_status_in_an_empty_folder_names_what_is_missing_and_what_to_do(tmp_path):
    nobody = {"TFT_DAEMON_URL": "http://127.0.0.1:9", "TFT_DASHBOARD_PORT": "9"}
    done = run("status", "--json", cwd=tmp_path, **nobody)
    assert done.returncode == 0, done.stderr
    status = parse_only(done.stdout)
    assert [status[part]["ok"] for part in ("data", "model", "daemon", "dashboard")] == [False] * 4
    assert [step["command"] for step in status["next"]][:2] == ["make demo", "python main.py generate"]
    shown = run("status", cwd=tmp_path, **nobody)
    assert shown.returncode == 0 and "python main.py train" in shown.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["status"], ["--help"], ["train", "--help"]])
def test_quick_commands_import_no_heavy_packages(arguments, tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "main.py"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
        env={**os.environ, "TFT_DAEMON_URL": "http://127.0.0.1:9", "TFT_DASHBOARD_PORT": "9"},
    )
    assert done.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in imported
    assert not imported & {"numpy", "pandas", "pyarrow", "torch", "lightning", "streamlit", "fastapi", "plotly"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["generate", "--hours", "3"],
        ["generate", "--servers", "0"],
        ["generate", "--offline_mode", "thin"],
        ["generate", "--start", "yesterday"],
        ["import"],
        ["import", "a.csv"],
        ["import", "a.csv", "--preset", "bitbrains", "--mapping", "b.toml"],
        ["train", "--epochs", "0"],
        ["train", "--preset", "slow"],
        ["serve", "--port", "70000"],
        ["predict", "--out", "forecasts.txt"],
    ],
)
def test_wrong_usage_exits_with_2_and_no_traceback(arguments, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Usage: python main.py" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "" and list(tmp_path.iterdir()) == []


def test_a_users_mistake_is_told_in_four_parts_and_exits_with_1(tmp_path):
    done = run("validate", "absent.parquet", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("Error: ") and "absent.parquet" in done.stderr
    assert all(part in done.stderr for part in ("Why it matters:", "To fix it:", "More information: Docs/"))
    assert "Traceback" not in done.stderr and "\x1b[" not in done.stderr


def test_with_json_a_mistake_is_one_json_object_on_standard_error(tmp_path):
    done = run("validate", "absent.parquet", "--json", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert set(parse_only(done.stderr)["error"]) == {"what", "why", "fix", "document"}


@pytest.mark.parametrize(
    "environment",
    [{"TFT_DAEMON_PORT": "many"}, {"TFT_RISK_YELLOW": "0.9"}, {"TFT_CONFIG_FILE": "absent.toml"}],
)
def test_a_wrong_setting_is_a_users_mistake(environment, tmp_path):
    done = run("status", cwd=tmp_path, **environment)
    assert done.returncode == 1 and "Docs/ESSENTIAL_RAG.md" in done.stderr and "Traceback" not in done.stderr


def failing(error: BaseException) -> Command:
    def body() -> None:
        raise error

    return Command("failing", callback=body)


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError("a bug")).main([])


def test_ctrl_c_exits_with_130_and_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        failing(KeyboardInterrupt()).main([])
    assert stopped.value.code == 130
    assert capsys.readouterr().err.split() == ["Stopped."]


def test_brackets_in_an_error_are_not_taken_for_markup(capsys):
    with pytest.raises(SystemExit):
        failing(DaemonError("[bold]no[/bold] [/]", why="w", fix="f")).main([])
    assert "[bold]no[/bold] [/]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "script",
    ["metrics_generator.py", "metrics_importer.py", "data_validator.py", "tft_trainer.py", "tft_inference.py"],
)
def test_scripts_take_the_options_of_their_command(script):
    name = {
        "metrics_generator.py": "generate",
        "metrics_importer.py": "import",
        "data_validator.py": "validate",
        "tft_trainer.py": "train",
        "tft_inference.py": "serve",
    }[script]
    own, ours = help_of(name, script), help_of(name)
    assert f"Usage: python {script} " in own
    assert own.splitlines()[3:] == ours.splitlines()[3:]


def test_every_registered_command_reports_errors_the_same_way():
    assert {command.name for command in app.registered_commands} == set(COMMANDS)
    assert {command.cls for command in app.registered_commands} == {Command}
