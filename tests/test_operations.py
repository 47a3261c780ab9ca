"""The operations guide: a section for each rule of deploy/, a row for each finding of the doctor, nginx' judgement."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from config import Settings
from doctor_findings import KINDS

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "Docs" / "OPERATIONS.md").read_text(encoding="utf-8")
NGINX = ROOT / "deploy" / "nginx" / "tft-monitor.conf"


def test_every_rule_of_the_prometheus_has_a_section():
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    names = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert re.findall(r"^### (Tft\w+)$", GUIDE, re.MULTILINE) == names


def test_every_finding_of_the_doctor_has_its_row():
    rows = re.findall(r"^\| `([a-z-]+)` \| (\w+) \| (.+?) \| (.+) \|$", GUIDE, re.MULTILINE)
    assert rows == [(key, kind.weight, kind.why, kind.fix.replace("|", r"\|")) for key, kind in KINDS.items()]


def test_the_sizing_table_has_the_figures_that_were_measured():
    measured = (ROOT / "Docs" / "PERFORMANCE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d,]+) \| ([\d.]+ m?s) \| ([\d,]+) MB \|$", GUIDE, re.MULTILINE)
    assert [row[0] for row in rows] == ["90", "1,000", "10,000"]
    assert " / ".join(row[1] for row in rows) in measured and " / ".join(row[2] for row in rows) + " MB" in measured


def test_the_limits_of_the_proxy_are_those_of_the_daemon():
    text, fields = NGINX.read_text(), Settings.model_fields
    assert f"client_max_body_size {fields['max_body_mb'].default:g}m;" in text
    assert f"client_body_timeout {fields['body_timeout_seconds'].default:g}s;" in text
    assert f"server 127.0.0.1:{fields['daemon_port'].default};" in text


@pytest.mark.skipif(not shutil.which("nginx"), reason="no nginx here")
def test_nginx_takes_the_file(tmp_path):
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    files = ["-keyout", str(tmp_path / "privkey.pem"), "-out", str(tmp_path / "fullchain.pem")]
    subprocess.run([*certificate, *files], check=True, capture_output=True)
    text = NGINX.read_text().replace("/etc/ssl/tft-monitor", str(tmp_path))
    (tmp_path / "tft.conf").write_text(text)
    whole = tmp_path / "nginx.conf"
    whole.write_text(f"pid {tmp_path}/pid; events {{}} http {{ access_log off; include {tmp_path}/tft.conf; }}")
    done = subprocess.run(
        ["nginx", "-t", "-c", whole, "-e", tmp_path / "log"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
