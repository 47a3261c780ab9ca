"""What `deploy/` holds is what the programs it is for accept, and names only what the daemon has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from local_prometheus import Prometheus
from test_daemon_process import daemon, row, wait_for

import daemon_schemas
from api_keys import KeyRing, create_key
from config import Settings
from tft_inference import create_app

ROOT = Path(daemon_schemas.__file__).parent
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
UNIT = ROOT / "deploy" / "systemd" / "tft-monitor.service"

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: apt-get install prometheus")


@needs_promtool
def test_the_rules_are_valid_and_their_own_tests_hold() -> None:
    for command in (["check", "rules", RULES.name], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run(["promtool", *command], cwd=RULES.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout + done.stderr


def test_every_rule_is_tried_both_ways() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    tried = re.split(r"\n  - name: ", (RULES.parent / "rules_test.yml").read_text())[1:]
    quiet, loud = (set(re.findall(r"alertname: (\w+)", each)) for each in tried)
    assert len(alerts) == len(set(alerts)) == 11 and quiet == loud == set(alerts)


def test_the_rules_name_metrics_that_the_daemon_has(settings: Settings, tmp_path: Path) -> None:
    quiet = settings.model_copy(update={"history_dir": tmp_path / "history"})
    app = create_app(quiet, tmp_path / "no_model", None, KeyRing(tmp_path / "absent"))
    with TestClient(app) as client:
        client.get("/status")
        served = set(re.findall(r"^(tft_\w+)", client.get("/metrics").text, re.MULTILINE))
    text = re.sub(r"(summary|description): .*|#.*", "", RULES.read_text())
    assert set(re.findall(r"\btft_[a-z_]+\b", text)) <= served


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no Prometheus: apt-get install prometheus")
def test_a_real_prometheus_scrapes_the_daemon_with_a_key(tmp_path: Path) -> None:
    key, _ = create_key(tmp_path / "api_keys.json", "prometheus", "read")
    writer, _ = create_key(tmp_path / "api_keys.json", "sender", "write")
    (tmp_path / "key").write_text(key)
    with daemon(tmp_path, tmp_path / "no_model") as process:
        rows = {"rows": [row(f"host{number}", 5) for number in range(3)]}
        assert process.client.post("/ingest", json=rows, headers={"X-API-Key": writer}).status_code == 200
        target = {"static_configs": [{"targets": [process.url.removeprefix("http://")]}]}
        jobs = {
            "tft": {**target, "authorization": {"credentials_file": str(tmp_path / "key")}},
            "versioned": {**target, "metrics_path": "/api/v1/metrics", "authorization": {"credentials": key}},
            "keyless": target,
        }
        with Prometheus(tmp_path / "prometheus", jobs) as prometheus:

            def up() -> dict[str, str]:
                return {each["metric"]["job"]: each["value"][1] for each in prometheus.values("up")}

            wait_for(lambda: up() == {"tft": "1", "versioned": "1", "keyless": "0"})
            for query in ('tft_servers{job="tft"}', 'tft_ingest_rows_total{job="versioned", result="accepted"}'):
                assert [each["value"][1] for each in prometheus.values(query)] == ["3"], query


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze: apt-get install systemd")
def test_the_unit_is_valid_and_starts_a_command_that_there_is(tmp_path: Path) -> None:
    text = UNIT.read_text()
    command = re.search(r"^ExecStart=(\S+) /opt/tft-monitor/(main\.py) (serve)$", text, re.MULTILINE)
    assert command is not None and (ROOT / command[2]).is_file()
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(command[1], sys.executable))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")
