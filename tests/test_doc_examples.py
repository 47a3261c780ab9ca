"""The examples of the documents are run: every line of every code block, or it stands below with the reason why not."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from conftest import make_fleet, write_fleet
from test_daemon_process import Process, daemon, wait_for

from common_utils import floor_to_step, utc_now
from data_contract import STEP_MINUTES
from main import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "QUICK_START.md", *sorted((ROOT / "Docs").glob("*.md"))]
ADDRESS = "127.0.0.1:8000"  # of the daemon in the documents

# A command that matches is not run; the options of our own ones are still parsed.
NOT_RUN = {
    r"make .*": "a target of the Makefile: tests/test_demo.py and CI itself run the commands behind it",
    r"python3? main\.py setup": "installs packages; tests/test_setup.py",
    r"python3? main\.py generate --(servers 1000|interval 5s).*": (
        "makes millions of rows; tests/test_metrics_generator.py"
    ),
    r"python3? main\.py generate( --start .*)?": "takes the default size; the fixture makes a smaller fleet",
    r".*python3? main\.py generate --stream.*": "does not end by itself; tests/test_fleet_stream.py",
    r"(.* )?python3? main\.py (serve|dashboard|demo).*": (
        "does not end by itself; the fixture runs a daemon, tests/test_demo.py both"
    ),
    r"python3? tft_inference\.py --daemon.*": "does not end by itself; the fixture runs a daemon",
    r"(.* )?streamlit run .*": "does not end by itself; tests/test_dashboard_end_to_end.py",
    r"python3? main\.py train.*": "takes seconds each, and the fixture has trained; tests/test_tft_trainer.py, "
    "tests/test_training_resume.py, tests/test_training_processes.py",
    r"torchrun .*": "tests/test_training_processes.py",
    r"python3? main\.py backtest.*": "trains, and fits all baselines; tests/test_tft_backtest.py",
    r"(.* )?python3? main\.py import --prometheus.*": (
        "needs a Prometheus; tests/test_prometheus_import.py runs a real one"
    ),
    r".*(docker compose|cd deploy/container|GRAFANA_PASSWORD).*": "needs docker; tests/test_deploy.py lints the files",
    r"(systemctl|tar|nginx|git|export) .*|cp deploy/.*": (
        "changes the machine; tests/test_deploy.py and tests/test_operations.py read the files"
    ),
    r"openssl .*": "tests/test_daemon_trust.py, with a certificate of its own",
    r"(python benchmarks/|python Docs/make_profile_plots).*": (
        "takes minutes, or data from elsewhere; tests/test_run_all.py"
    ),
    r".*-m pytest .*": "a test of the tests",
    r"curl (-X POST|--json) .*/scenario/.*": "only of a daemon that plays a fleet; tests/test_daemon_scenario.py",
    r"curl -X POST .*/alerts/test.*": "needs a receiver; tests/test_alert_delivery.py",
    r"curl --json .*/acknowledge": "needs an open alert; tests/test_daemon_alert_routes.py",
    r"python3? main\.py keys revoke .*": "the key of the example is nobody's; tests/test_api_keys.py",
    r".*newcomer01.*": "of the machines of 2013; UNKNOWN_SERVER_HANDLING.md has the same with the present time",
    r"eval .*|.* \| source": "for the shell itself; tests/test_cli.py",
}
PYTHON_NOT_RUN = {
    "with connect(": "waits for ever; tests/test_daemon_process.py",
    "import_prometheus": "needs a Prometheus; tests/test_prometheus_import.py",
}
MAY_FAIL = re.compile(r"python main\.py doctor.*")  # 1 where something is wrong: here, no daemon runs
OVERWRITES = re.compile(r"python main\.py import (?!--list)")
CHEAP = {  # settings that make a training take seconds; what it learns does not matter here
    "TFT_HIDDEN_SIZE": "8",
    "TFT_ATTENTION_HEADS": "2",
    "TFT_ENCODER_PIECES": "3x12,12x1",
    "TFT_DECODER_PATCH": "12",
    "TFT_BATCH_SIZE": "32",
    "TFT_LEARNING_RATE": "0.01",
    "TFT_WINDOWS_PER_EPOCH": "256",
    "TFT_VALIDATION_WINDOWS": "64",
}


@dataclass(frozen=True)
class Example:
    """A command of a document, its continuation lines joined and its comment taken off."""

    page: str
    line: int
    command: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {self.command.splitlines()[-1][:60]}"


def blocks(language: str) -> Iterator[tuple[str, int, str]]:
    """Page, first line and text of each code block of a language."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            yield page.name, text[: found.start()].count("\n") + 2, found[1]


def commands() -> Iterator[Example]:
    """Every command of every shell block."""
    for page, first, text in blocks("bash"):
        lines = text.splitlines()
        at, before = 0, ""
        while at < len(lines):
            begin, command = at, lines[at]
            if heredoc := re.search(r"<<'(\w+)'$", command):
                while lines[at] != heredoc[1]:
                    at += 1
                    command += "\n" + lines[at]
            else:
                while command.endswith("\\"):
                    at += 1
                    command = command[:-1] + lines[at].strip()
                command = re.sub(r"\s+# .*$", "", command).strip()
            at += 1
            if re.match(r"\w+=\$|cat > ", command) or (before and at < len(lines)):
                before += command + "\n"  # what follows in the block needs it: one example
            elif command:
                yield Example(page, first + begin, before + command)


def reason_not_to_run(command: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.fullmatch(pattern, command)), None)


EXAMPLES = list(commands())
RUN = list({each.command: each for each in EXAMPLES if reason_not_to_run(each.command) is None}.values())
PARSED = [each for each in EXAMPLES if re.search(r"\bmain\.py [a-z]", each.command)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the examples name: our programs, a fleet, a model, files of others."""
    place = tmp_path_factory.mktemp("examples")
    for path in (*ROOT.glob("*.py"), ROOT / "presets", ROOT / "tests"):
        (place / path.name).symlink_to(path)
    begun = "2026-01-05"
    shell(place, f"python main.py generate --servers 14 --hours 168 --start {begun} --seed 3")
    shell(place, "python main.py train --preset quick")
    frame = pd.read_parquet(place / "training" / "server_metrics.parquet")
    for name in ("vms.parquet", "bitbrains_rnd_small_40vms_2013-08.parquet"):
        frame.to_parquet(place / name)
    (place / "exports").mkdir()
    shutil.copy(place / "training" / "server_metrics.parquet", place / "exports" / "week.parquet")
    shutil.copy(place / "training" / "server_metrics.parquet", place / "other_fleet.parquet")
    one = frame[frame["server_name"] == "ppweb001"]
    (place / "other.toml").write_text("seed = 7\n")
    (place / "fleet_folder").mkdir()
    for name in ("unknown.csv", "export.csv", "host1.csv", "host2.csv", "fleet_folder/ppweb001.csv"):
        foreign = one.assign(host=Path(name).stem).rename(columns={"cpu_pct": "cpu_percent"})
        foreign["timestamp"] = foreign["timestamp"].dt.strftime("%Y-%m-%d %H:%M:%S")
        foreign[["timestamp", "host", "cpu_percent"]].to_csv(place / name, index=False)
    shell(place, "python main.py import --explain unknown.csv --write my_mapping.toml")
    shutil.copy(ROOT / "presets" / "node_exporter.toml", place / "my_queries.toml")
    return place


@pytest.fixture(scope="module")
def running(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A daemon that has forecast a fleet of which the documents' servers are part."""
    elsewhere = tmp_path_factory.mktemp("daemon")
    end = floor_to_step(utc_now(), STEP_MINUTES)
    rows = make_fleet(("ppweb001", "ppdb001", "mail.example.org"), hours=24, end=end)
    data = write_fleet(elsewhere / "server_metrics.parquet", rows)
    with daemon(elsewhere, folder / "models" / "latest", "--data", str(data)) as process:
        wait_for(lambda: process.client.get("/predictions/current").status_code == 200)
        yield process


def shell(place: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader would, in an environment whose `python` is ours."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=place,
        env={**os.environ, **CHEAP, "PATH": programs, "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    accepted = (0, 1) if MAY_FAIL.match(command) else (0,)
    assert done.returncode in accepted, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.mark.parametrize("example", [each for each in RUN if ADDRESS not in each.command], ids=str)
def test_the_command_does_what_the_page_says(example, folder, tmp_path):
    if OVERWRITES.match(example.command):
        folder = shutil.copytree(folder, tmp_path / "copy", symlinks=True)
        if "--write" in example.command:
            (folder / "my_mapping.toml").unlink()
    shell(folder, example.command)


@pytest.mark.parametrize("example", [each for each in RUN if ADDRESS in each.command], ids=str)
def test_the_daemon_answers_as_the_page_says(example, folder, running):
    command = example.command.replace(ADDRESS, running.url.removeprefix("http://"))
    command = re.sub(r"curl (?!-sf)", "curl --fail-with-body --max-time 30 ", command)
    told = shell(folder, command, TFT_API_KEY="tft_none").stdout
    at = 0
    while at < len(told):  # one answer after another, nothing between them
        answer, at = json.JSONDecoder().raw_decode(told, at)
        assert isinstance(answer, dict) and "urn:tft:problem" not in json.dumps(answer)


@pytest.mark.parametrize(
    ("page", "line", "text"), [pytest.param(*each, id=f"{each[0]}:{each[1]}") for each in blocks("python")]
)
def test_the_python_of_the_page_runs(page, line, text, folder, request, monkeypatch, tmp_path):
    reason = next((why for mark, why in PYTHON_NOT_RUN.items() if mark in text), None)
    if reason is not None:
        compile(text, page, "exec")
        return
    if ADDRESS in text:
        text = text.replace(ADDRESS, request.getfixturevalue("running").url.removeprefix("http://"))
    if text.startswith(">>> "):
        import doctest

        test = doctest.DocTestParser().get_doctest(text, {}, page, page, line)
        assert doctest.DocTestRunner(verbose=False).run(test).failed == 0
        return
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "copy", symlinks=True))
    frame = pd.read_parquet("training/server_metrics.parquet")
    known: dict[str, Any] = {"__name__": "example", "frame": frame, "history": frame}  # what the text speaks of
    exec(compile(text, f"{page}:{line}", "exec"), known)


@pytest.mark.parametrize("example", PARSED, ids=str)
def test_the_options_of_the_command_are_there(example):
    words = shlex.split(re.split(r"[|>&)]|\s\d>| …", example.command.split("main.py ", 1)[1])[0].replace("…", "x"))
    group: Any = typer.main.get_command(app)
    if words[0].startswith("-") or "--help" in words:
        return
    command = group.commands[words[0]]
    if hasattr(command, "commands"):
        words, command = words[1:], command.commands[words[1]]
    command.make_context(words[0], words[1:], resilient_parsing=False)


def test_what_is_not_run_is_there_and_has_a_test_that_is_there():
    for pattern, why in NOT_RUN.items():
        assert any(re.fullmatch(pattern, each.command) for each in EXAMPLES), f"no example matches {pattern} any more"
        for name in re.findall(r"tests/\w+\.py", why):
            assert (ROOT / name).exists(), f"{pattern}: {name} does not exist"
    texts = [text for _, _, text in blocks("python")]
    for mark, why in PYTHON_NOT_RUN.items():
        assert any(mark in text for text in texts), f"no example holds {mark} any more"
        assert all((ROOT / name).exists() for name in re.findall(r"tests/\w+\.py", why)), why


def test_most_examples_are_run():
    assert len(EXAMPLES) > 150 and len(RUN) > 45
