"""Our own programs and a daemon whose certificate is self-signed: known by `daemon_ca_file`, told apart without it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from made_certificate import make_certificate
from test_daemon_process import ROOT, Process

from common_utils import utc_now
from config import Settings, load_settings
from daemon_trust import certificate_fault, trust_of
from dashboard_answers import Wanted
from dashboard_fetch import Connection, fetch_snapshot, open_client
from data_contract import ConfigurationError, DaemonError
from doctor_daemon import check_daemon
from fleet_stream import stream
from metrics_generator import GeneratorOptions, generate
from tft_demo import _answers, _way_to_daemon
from tft_demo_check import CheckError, check_status
from tft_status import read_status


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def secure(own: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A daemon that speaks HTTPS with a certificate of its own."""
    folder = tmp_path_factory.mktemp("secure")
    flags = ("--tls-cert", str(own[0]), "--tls-key", str(own[1]))
    process = Process(folder, folder / "no_model", *flags)
    try:
        process.verify = trust_of(own[0])
        process.wait_until_listening()
        yield process
    finally:
        process.end()


def settings_for(process: Process, ca_file: Path | None, folder: Path) -> Settings:
    return load_settings(
        daemon_url=process.url, daemon_ca_file=ca_file, data_dir=folder, models_dir=folder, dashboard_port=9
    )


def fleet_in(folder: Path) -> Path:
    generate(GeneratorOptions(servers=3, hours=24, start=utc_now() - timedelta(hours=30)), folder)
    return folder


def main(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "NO_COLOR": "1", "COLUMNS": "400", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_status_knows_the_daemon_by_its_certificate(secure: Process, own: tuple[Path, Path], tmp_path: Path) -> None:
    done = main("status", "--json", folder=tmp_path, TFT_DAEMON_URL=secure.url, TFT_DAEMON_CA_FILE=str(own[0]))
    assert json.loads(done.stdout)["daemon"]["ok"] is True, done.stderr

    status = read_status(settings_for(secure, None, tmp_path))
    assert status["daemon"]["ok"] is False and "self-signed certificate" in status["daemon"]["problem"]
    assert "export TFT_DAEMON_CA_FILE=cert.pem" in [step["command"] for step in status["next"]]
    assert "python main.py serve" not in [step["command"] for step in status["next"]], "it runs already"


def test_the_stream_posts_to_it_or_says_why_not(secure: Process, own: tuple[Path, Path], tmp_path: Path) -> None:
    fleet = fleet_in(tmp_path / "fleet")
    result = stream(fleet, secure.url, speed=1e9, hours=1, warmup_hours=0, ca_file=own[0])
    assert result.accepted == result.rows > 0
    with pytest.raises(DaemonError, match="not trusted") as refused:
        stream(fleet, secure.url, speed=1e9, hours=1, warmup_hours=0)
    assert "TFT_DAEMON_CA_FILE" in refused.value.fix, "it is not waited for: time mends no certificate"
    done = main("generate", "--stream", "--out_dir", str(fleet), "--url", secure.url, folder=tmp_path)
    assert done.returncode == 1 and "not trusted" in done.stderr and "Traceback" not in done.stderr


def test_the_dashboard_reads_it_or_says_why_not(secure: Process, own: tuple[Path, Path]) -> None:
    with open_client(secure.url, 10, None, own[0]) as client:
        snapshot = fetch_snapshot(Connection(client, secure.url), Wanted(("status", "current")))
    assert snapshot.problem is not None and snapshot.problem.condition == "no_model", "it was let in, and asked"
    with open_client(secure.url, 10) as client:
        problem = fetch_snapshot(Connection(client, secure.url), Wanted(("status", "current"))).problem
    assert problem is not None and "not trusted: self-signed certificate" in problem.what
    assert "TFT_DAEMON_CA_FILE" in problem.fix and "serve" not in problem.fix


def test_the_doctor_tells_an_untrusted_daemon_from_an_absent_one(
    secure: Process, own: tuple[Path, Path], tmp_path: Path
) -> None:
    known = {finding.key for finding in check_daemon(settings_for(secure, own[0], tmp_path))}
    assert "daemon-no-model" in known and "daemon-untrusted" not in known
    for file in (None, tmp_path / "absent.pem"):
        assert [each.key for each in check_daemon(settings_for(secure, file, tmp_path))] == ["daemon-untrusted"]


def test_the_demo_reaches_a_daemon_that_has_a_certificate(
    secure: Process, own: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = load_settings(tls_cert=own[0], tls_key=own[1], models_dir=tmp_path)
    way = _way_to_daemon(settings, int(secure.url.rpartition(":")[2]))
    assert way.url == secure.url and _answers(f"{way.url}/livez", way.verify)
    assert way.environment == {"TFT_DAEMON_URL": secure.url, "TFT_DAEMON_CA_FILE": str(own[0])}
    with httpx2.Client(base_url=way.url, verify=way.verify, trust_env=False) as client, pytest.raises(CheckError):
        check_status(client, 3)  # which it gets to: there is no model to check
    with pytest.raises(DaemonError, match="not trusted"):
        _answers(f"{way.url}/livez")
    assert _way_to_daemon(load_settings(), 8000).environment == {"TFT_DAEMON_URL": "http://127.0.0.1:8000"}


def test_another_certificate_or_name_is_not_taken_for_the_daemon(secure: Process, tmp_path: Path) -> None:
    other, _ = make_certificate(tmp_path)
    with pytest.raises(httpx2.ConnectError) as refused:
        httpx2.get(f"{secure.url}/livez", verify=trust_of(other), trust_env=False)
    assert certificate_fault(refused.value) is not None


def test_a_name_that_the_certificate_lacks_is_told(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "DNS:elsewhere.example")
    process = Process(tmp_path / "run", tmp_path / "no_model", "--tls-cert", str(certificate), "--tls-key", str(key))
    try:
        process.wait_until_listening()
        problem = read_status(settings_for(process, certificate, tmp_path))["daemon"]["problem"]
        assert "mismatch" in problem and "127.0.0.1" in problem
    finally:
        process.end()


@pytest.mark.parametrize("content", [None, "", "no certificate", "the key"])
def test_a_file_without_a_certificate_is_refused_with_the_remedy(
    own: tuple[Path, Path], tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(own[1].read_text() if content == "the key" else content)
    with pytest.raises(ConfigurationError, match="holds no certificate") as refused:
        trust_of(file)
    assert "TFT_DAEMON_CA_FILE" in refused.value.fix
    done = main("status", folder=tmp_path, TFT_DAEMON_CA_FILE=str(file))
    assert "holds no certificate" in done.stdout and "Traceback" not in done.stderr


def test_a_refused_connection_is_no_matter_of_certificates() -> None:
    with pytest.raises(httpx2.ConnectError) as refused:
        httpx2.get("https://127.0.0.1:9/livez", trust_env=False)
    assert certificate_fault(refused.value) is None and trust_of(None) is True
