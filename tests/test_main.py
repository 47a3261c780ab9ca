"""The command line: help, exit codes, errors in four parts, JSON that is only JSON, and quick answers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from config import Settings
from data_contract import DaemonError
from main import Command, app

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = (
    "setup",
    "status",
    "doctor",
    "generate",
    "import",
    "rules",
    "export",
    "validate",
    "train",
    "predict",
    "explain",
    "backtest",
    "serve",
    "dashboard",
    "demo",
    "completion",
)


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
    assert re.findall(r"^│ ([a-z]+)  ", done.stdout, re.MULTILINE) == [*COMMANDS, "keys"]


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
        ("export", "--out --format --server --since --until --json"),
        ("validate", "--model-dir --strict --json"),
        (
            "train",
            (
                "--data --epochs --models-dir --resume --preset --max-time --json "
                "--precision --accelerator --devices --strategy --until --hold-out-servers"
            ),
        ),
        (
            "backtest",
            (
                "--data --model --test-days --every --origins --baselines --hold-out-servers --preset --epochs "
                "--max-time --resume --models-dir --workers --output --seed --json"
            ),
        ),
        ("predict", "--model-dir --data --server --json --out"),
        ("explain", "--model-dir --data --json"),
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
        ["backtest", "--baselines", "prophet"],
        ["backtest", "--every", "7m"],
        ["backtest", "--alerts", "--alert-every", "7m"],
        ["backtest", "--alert-every", "15m"],
        ["backtest", "--model", "models/latest", "--resume"],
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


def test_ctrl_c_while_libraries_are_loaded_is_no_traceback(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "def interrupt(event, arguments):\n"
        "    if event == 'import' and arguments[0] == 'typer':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(interrupt)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    line = [sys.executable, str(ROOT / "main.py"), "status"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130 and "Traceback" not in done.stderr


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
    everywhere = [
        *app.registered_commands,
        *(each for group in app.registered_groups for each in group.typer_instance.registered_commands),
    ]
    assert {command.cls for command in everywhere} == {Command}


# ------------------------------------------------------------------------------------------------ commands that do work
def test_generate_validate_and_status_speak_json_and_agree(tmp_path):
    made = run("generate", "--servers", "3", "--hours", "24", "--seed", "5", "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    fleet = parse_only(made.stdout)
    assert fleet["servers"] == 3 and fleet["rows"] == 3 * 288
    judged = run("validate", "--json", cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr
    assert parse_only(judged.stdout)["data"]["rows"] == fleet["rows"]
    status = parse_only(run("status", "--json", cwd=tmp_path).stdout)
    assert (status["data"]["ok"], status["data"]["servers"]) == (True, 3)


@pytest.mark.parametrize("flag", ["--out_dir", "--output"])
def test_both_spellings_of_the_output_folder_are_taken_and_the_same_seed_makes_the_same_fleet(tmp_path, flag):
    start = ("--start", "2026-01-05T00:00:00Z", "--hours", "24", "--servers", "2", "--seed", "9")
    for folder in ("one", "two"):
        done = run("generate", *start, flag, folder, cwd=tmp_path)
        assert done.returncode == 0 and "576 rows of 2 servers, 2026-01-05T00:00:00Z" in done.stdout, done.stderr
    frames = [pd.read_parquet(tmp_path / folder / "server_metrics.parquet") for folder in ("one", "two")]
    assert frames[0].equals(frames[1])


def test_invalid_data_is_told_in_full_and_exits_with_1_and_strict_counts_warnings(tmp_path):
    frame = pd.DataFrame(
        {
            "timestamp": pd.to_datetime(["2026-01-05T00:00:00", "2026-01-05T00:05:00"]),
            "server_name": "ppweb001",
            **dict.fromkeys(("cpu_pct", "mem_pct", "disk_io_mb_s", "latency_ms"), 1.0),
            "state": "healthy",
            "profile": "web_api",
        }
    )
    frame.to_parquet(tmp_path / "naive.parquet")
    loose, strict = (run("validate", "naive.parquet", *flags, cwd=tmp_path) for flags in ([], ["--strict"]))
    assert (loose.returncode, strict.returncode) == (0, 1)
    assert "no time zone" in loose.stdout and "Traceback" not in strict.stderr
    frame.assign(cpu_pct=140.0, state="sleepy").to_parquet(tmp_path / "wrong.parquet")
    wrong = run("validate", "wrong.parquet", "--json", cwd=tmp_path)
    assert wrong.returncode == 1
    errors = " ".join(parse_only(wrong.stdout)["data"]["errors"])
    assert "140" in errors and "sleepy" in errors


def test_import_reports_what_it_did_to_people_and_programs(tmp_path):
    (tmp_path / "host.csv").write_text(
        "timestamp,server_name,cpu_pct,mem_pct\n"
        "2026-01-05T00:00:00Z,alpha,140,50\n2026-01-05T00:05:00Z,alpha,20,51\n2026-01-05T00:05:00Z,alpha,20,51\n"
    )
    shown = run("import", "host.csv", "--preset", "contract", "--out_dir", "a", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "Imported 1 file" in shown.stdout and "duplicate" in shown.stdout
    done = run("import", "host.csv", "--preset", "contract", "--out_dir", "b", "--json", cwd=tmp_path)
    report = parse_only(done.stdout)
    assert (report["rows_in"], report["rows_out"], report["servers"]) == (3, 2, 1)
    assert run("import", "host.csv", "--preset", "no-such", cwd=tmp_path).returncode == 1
    assert "bitbrains" in run("import", "--list-presets").stdout.split()
    assert "bitbrains" in parse_only(run("import", "--list-presets", "--json").stdout)


@pytest.mark.slow
def test_train_prints_json_alone_and_settings_win_over_the_preset(fleet_file, tmp_path):
    small = {
        "TFT_HIDDEN_SIZE": "8",
        "TFT_ENCODER_PIECES": "3x12,12x1",
        "TFT_BATCH_SIZE": "32",
        "TFT_WINDOWS_PER_EPOCH": "128",
    }
    arguments = ("--data", str(fleet_file), "--epochs", "1", "--preset", "quick", "--json")
    done = run("train", *arguments, cwd=tmp_path, **small)
    assert done.returncode == 0, done.stderr
    info = parse_only(done.stdout)
    assert Path(info["model_dir"]).parent == Path("models") and (tmp_path / "models" / "latest").is_dir()
    windows = {key: info["hyperparameters"][key] for key in ("windows_per_epoch", "validation_windows", "epochs")}
    assert windows == {"windows_per_epoch": 128, "validation_windows": 1_024, "epochs": 1}
    judged = run("validate", "--model-dir", "models/latest", "--json", cwd=tmp_path)
    assert judged.returncode == 0 and parse_only(judged.stdout)["model"]["is_valid"]


def test_a_broken_model_folder_is_not_valid(tmp_path):
    (tmp_path / "model").mkdir()
    done = run("validate", "--model-dir", "model", cwd=tmp_path)
    assert done.returncode == 1 and "model.safetensors" in done.stdout and "not valid" in done.stdout
    assert all(part in done.stderr for part in ("Why it matters", "To fix it", "Docs/MODEL_FOLDER.md"))


def test_data_that_is_not_valid_is_told_with_reason_remedy_and_document(fleet_file, tmp_path):
    pq.write_table(pq.read_table(fleet_file).slice(0, 0), tmp_path / "empty.parquet")
    done = run("validate", "empty.parquet", cwd=tmp_path)
    assert done.returncode == 1 and "there are no rows" in done.stdout and "None" not in done.stdout
    assert all(part in done.stderr for part in ("Why it matters", "To fix it", "Docs/DATA_CONTRACT.md"))
    assert not run("validate", str(fleet_file)).stderr
    as_json = run("validate", "empty.parquet", "--json", cwd=tmp_path)
    assert as_json.returncode == 1 and not as_json.stderr and parse_only(as_json.stdout)["is_valid"] is False


def test_ctrl_c_stops_a_stream_that_waits_for_its_daemon(tmp_path):
    assert run("generate", "--servers", "1", "--hours", "24", cwd=tmp_path).returncode == 0
    waiting = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "generate", "--stream", "--url", "http://127.0.0.1:9"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = ""
        for line in waiting.stderr:
            said += line
            if "Waiting for the daemon" in line:
                break
        waiting.send_signal(signal.SIGINT)
        said += waiting.stderr.read()
        assert waiting.wait(30) == 130
    finally:
        waiting.stderr.close()
        waiting.kill()
        waiting.wait()
    assert "Stopped; nothing was posted." in said and "Traceback" not in said


def test_a_dashboards_port_that_is_in_use_is_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("dashboard", "--port", str(taken.getsockname()[1]), cwd=tmp_path)
    assert done.returncode == 1 and "is in use" in done.stderr and "--port" in done.stderr


def test_quiet_leaves_the_result_alone(fleet_file, tmp_path):
    cheap = {"TFT_HIDDEN_SIZE": "8", "TFT_ATTENTION_HEADS": "2", "TFT_WINDOWS_PER_EPOCH": "128", "TFT_BATCH_SIZE": "32"}
    cheap |= {"TFT_ENCODER_PIECES": "3x12,12x1", "TFT_DECODER_PATCH": "12", "TFT_LEARNING_RATE": "0.01"}
    words = ("train", "--data", str(fleet_file), "--preset", "quick", "--models-dir", str(tmp_path / "models"))
    done = run(*words, "--quiet", **cheap)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(done.stdout.splitlines()) == 2 and "The model is trained" in done.stdout
    wrong = run("validate", str(tmp_path / "nothing.parquet"), "-q")
    assert wrong.returncode == 1 and "To fix it" in wrong.stderr


@pytest.mark.parametrize("command", ["generate", "import", "export", "validate", "train", "backtest"])
def test_every_long_command_can_be_quiet(command):
    assert "--quiet" in help_of(command)
