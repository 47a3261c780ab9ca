"""Does a person see at a glance what was found, which servers are worst and what to do; and a program the same?"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from test_quality_findings import between, fleet, of_server
from typer.testing import CliRunner

from contract_parquet import open_writer
from data_contract import METRIC_COLUMNS
from data_validator import DataValidator
from main import app
from validation_view import show_judgement


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "a.parquet"
    with open_writer(path) as writer:
        writer.write(fleet())
    return path


@pytest.fixture(scope="module")
def ailing(tmp_path_factory) -> Path:
    """Ratios throughout, a stuck exporter, a late starter, a hole; one name looks like markup."""
    frame = fleet(days=3)
    stuck = of_server(frame, 4) & between(frame, "2026-06-01T06:00", "2026-06-01T14:00")
    frame.loc[stuck, list(METRIC_COLUMNS)] = frame.loc[stuck, list(METRIC_COLUMNS)].iloc[0].to_numpy()
    frame["cpu_pct"] /= 100
    frame = frame[~(of_server(frame, 1) & between(frame, "2026-06-01", "2026-06-02T12:00"))]
    frame = frame[~(of_server(frame, 2) & between(frame, "2026-06-02T03:00", "2026-06-02T04:00"))]
    frame = frame.replace({"server_name": {"ppweb004": "[red]web[/red]"}})
    path = tmp_path_factory.mktemp("ailing") / "a.parquet"
    with open_writer(path) as writer:
        writer.write(frame)
    return path


def shown(path: Path, width: int = 120) -> str:
    out = io.StringIO()
    show_judgement(DataValidator().validate_file(path).as_dict(), Console(file=out, width=width))
    return out.getvalue()


def test_a_sound_fleet_is_told_in_a_few_lines_without_any_finding(sound):
    text = shown(sound)
    assert len(text.splitlines()) <= 6 and "✓ valid" in text and "8 servers" in text
    assert "every 5 min" in text and "100 % of the steps in every server" in text
    assert not any(word in text for word in ("warning", "note", "error", "gap"))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_findings_name_the_worst_servers_and_the_remedy_once(ailing, width):
    text = " ".join(shown(ailing, width).split())
    assert "`cpu_pct` looks like a ratio of 0–1 in 8 of 8 servers" in text and 'unit = "ratio"' in text
    assert "all metrics stood still at once in 1 of 8 servers" in text and "[red]web[/red]:" in text
    assert "2026-06-01T06:00:00Z to 2026-06-01T14:00:00Z (8 h)" in text
    assert text.count("looks like a ratio") == 1 and text.index("warning") < text.index("note")
    assert "of the whole span" in text and "gaps 1, the longest 70 min" in text


def test_the_owners_command_and_the_subcommand_say_the_same(ailing):
    root = Path(__file__).parent.parent
    told = [
        subprocess.run([sys.executable, *script, str(ailing)], capture_output=True, text=True, cwd=root, check=True)
        for script in (["data_validator.py"], ["main.py", "validate"])
    ]
    assert told[0].stdout == told[1].stdout != "" and told[0].stderr == ""


def test_quality_findings_are_warnings_and_strict_makes_them_errors(ailing, sound):
    runner = CliRunner()
    assert runner.invoke(app, ["validate", str(ailing)]).exit_code == 0
    assert runner.invoke(app, ["validate", str(ailing), "--strict"]).exit_code == 1
    assert runner.invoke(app, ["validate", str(sound), "--strict"]).exit_code == 0


def test_json_holds_the_findings_and_every_server_worst_first(ailing):
    done = CliRunner().invoke(app, ["validate", str(ailing), "--json", "--all-servers"])
    data = json.loads(done.stdout)["data"]
    findings = {finding["key"]: finding for finding in data["quality"]["findings"]}
    assert set(findings) == {"ratio_cpu_pct", "frozen", "starts_late"}
    assert all(findings[key]["sentence"] in data["warnings"] for key in ("ratio_cpu_pct", "frozen"))
    assert findings["starts_late"]["level"] == "note" and len(data["warnings"]) == 2
    servers = data["quality"]["per_server"]
    assert len(servers) == 8 and servers[0]["server_name"] == "[red]web[/red]"
    assert servers[0]["findings"] == ["frozen", "ratio_cpu_pct"]
    assert servers[0]["flat"]["all"]["from"] == "2026-06-01T06:00:00Z"


def test_names_and_errors_with_brackets_are_shown_as_they_are():
    out = io.StringIO()
    part = {"source": "[bold]", "is_valid": False, "errors": ["column `[red]` is missing"], "warnings": ["[/]"]}
    show_judgement(part, Console(file=out))
    assert out.getvalue() == "error column `[red]` is missing\nwarning [/]\n✗ not valid [bold]\n"
