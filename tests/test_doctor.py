"""Every finding of the doctor, provoked for real: files that are damaged, a daemon that runs, ports that are taken."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from conftest import FLEET, make_fleet, write_fleet
from local_answers import LocalAnswers
from pydantic import SecretStr
from rich.console import Console
from test_daemon_process import Process, daemon, json_rows, wait_for

from api_keys import create_key
from common_utils import floor_to_step, utc_now
from config import load_settings
from daemon_examples import EXAMPLES
from doctor import Diagnosis, examine, show_diagnosis
from doctor_daemon import check_daemon, check_dashboard, clock_findings, pull_findings, status_findings
from doctor_data import check_data, check_model
from doctor_findings import KINDS, SECTIONS, Finding
from doctor_installation import (
    check_settings,
    disk_findings,
    folder_findings,
    package_findings,
    python_findings,
    thread_findings,
    torch_findings,
)
from prometheus_pull import PullState

ROOT = Path(__file__).resolve().parent.parent
DAY_AHEAD = utc_now() + timedelta(days=1)
PROVOKED: set[str] = set()  # by the tests of this module, which hold it to KINDS when all of them have run


@pytest.fixture(scope="module", autouse=True)
def _every_kind_is_provoked(request):
    yield
    ran = {item.originalname for item in request.session.items if item.module is request.module}
    everything = {name for name in vars(request.module) if name.startswith("test_")}
    if ran == everything and not request.session.testsfailed:
        assert set(KINDS) - PROVOKED == set()


def keys_of(findings) -> set[str]:
    found = {finding.key for finding in findings}
    PROVOKED.update(found)
    return found


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder as the working directory, where nobody answers."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TFT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TFT_DAEMON_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TFT_DASHBOARD_PORT", "9")
    return tmp_path


# -------------------------------------------------------------------------------------------------------- installation
def test_a_python_that_the_packages_were_not_made_for():
    assert keys_of(python_findings((3, 9))) == {"python-version"}
    assert keys_of(python_findings((3, 11))) == set()


def test_packages_that_are_missing_and_such_as_are_not_the_tested_ones(tmp_path):
    wanted, lock = tmp_path / "requirements.txt", tmp_path / "requirements.lock"
    wanted.write_text('no-such-package-here>=1,<2\nrich>=13\ntomli>=2; python_version < "3.11"\n')
    lock.write_text("# pinned\nrich==0.1\nrich==0.2 ; python_full_version < '3.11'\n")
    found = {finding.key: finding.what for finding in package_findings(wanted, lock)}
    PROVOKED.update(found)
    assert set(found) == {"packages-missing", "packages-differ"}
    assert "no-such-package-here" in found["packages-missing"] and "tomli" not in found["packages-missing"]
    assert "not 0.1 or 0.2" in found["packages-differ"]
    assert list(package_findings(ROOT / "requirements.txt", lock.with_name("requirements.txt"))) == []


def test_a_torch_that_cannot_be_loaded(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise OSError('libtorch_cpu.so: wrong ELF class')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (finding,) = torch_findings(sys.executable)
    assert keys_of([finding]) == {"torch-broken"} and "wrong ELF class" in finding.what


def test_threads_that_do_not_fit_the_machine():
    assert keys_of(thread_findings({"OMP_NUM_THREADS": "3"}, 2)) == {"threads"}
    assert keys_of(thread_findings({"OMP_NUM_THREADS": "2"}, 2)) == keys_of(thread_findings({}, 2)) == set()


def test_a_folder_that_is_not_there_is_made_and_one_that_cannot_be_is_told(tmp_path):
    (finding,) = folder_findings("data_dir", tmp_path / "new" / "deeper")
    assert keys_of([finding]) == {"folder-missing"} and "made the folder" in finding.repair()
    assert list(folder_findings("data_dir", tmp_path / "new" / "deeper")) == []
    (tmp_path / "file").write_text("")
    for hopeless in (tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        assert keys_of(folder_findings("data_dir", hopeless)) == {"folder-not-writable"}


def test_a_disk_without_space_is_told_once(tmp_path):
    (finding,) = disk_findings([tmp_path / "a", tmp_path / "b"], least_gb=1e9)
    assert keys_of([finding]) == {"disk-low"}
    assert list(disk_findings([tmp_path], least_gb=0)) == []


# ------------------------------------------------------------------------------------------------------------ settings
def test_settings_that_are_none_or_cannot_be_are_told_each_by_itself(place, monkeypatch):
    monkeypatch.setenv("TFT_DAEMON_PROT", "9000")
    (place / "tft.toml").write_text("risk_yelow = 0.2\nbatch_size = 0\ndaemon_port = 99999\n")
    diagnosis = examine(("data",))
    assert keys_of(diagnosis.findings) == {"setting-unknown", "setting-bad"}
    told = " ".join(finding.what for finding in diagnosis.findings)
    assert "`daemon_port` meant" in told and "`risk_yellow` meant" in told and "batch_size" in told
    assert diagnosis.skipped == ("data",) and not diagnosis.is_well


@pytest.mark.parametrize("content", ["risk_yellow = ", 'api_key = "tft_x"', None])
def test_a_settings_file_that_cannot_be_read(place, monkeypatch, content):
    if content is None:
        monkeypatch.setenv("TFT_CONFIG_FILE", "absent.toml")
    else:
        (place / "tft.toml").write_text(content)
    assert keys_of(examine().findings) == {"settings-unreadable"}


def test_an_open_daemon_without_keys_and_tls_files_that_are_not_there(place):
    settings = load_settings(daemon_host="0.0.0.0", tls_cert=place / "no.pem", tls_key=place / "no.key")
    assert keys_of(check_settings(settings)) == {"open-without-keys", "tls-file"}


def test_keys_that_others_may_read_are_closed_and_damaged_ones_told(place):
    settings = load_settings()
    create_key(settings.api_keys_file, "tester", "read")
    assert keys_of(check_settings(settings)) == set()
    settings.api_keys_file.chmod(0o664)
    assert keys_of(examine(("settings",)).findings) == {"keys-readable"}
    mended = examine(("settings",), repair=True)
    assert mended.is_well and "mode 600" in mended.repaired[0]
    assert settings.api_keys_file.stat().st_mode & 0o777 == 0o600
    settings.api_keys_file.write_text("{")
    assert keys_of(check_settings(settings)) == {"keys-damaged"}


# ------------------------------------------------------------------------------------------------------ data and model
def test_data_that_is_missing_damaged_or_against_the_contract(tmp_path, fleet_frame):
    assert keys_of(check_data(tmp_path)) == {"data-missing"}
    path = tmp_path / "server_metrics.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    assert keys_of(check_data(tmp_path)) == {"data-invalid"}
    fleet_frame.assign(cpu_pct=140.0).to_parquet(path)
    assert "data-invalid" in keys_of(check_data(tmp_path))


def test_data_that_is_old_short_full_of_gaps_or_suspicious(tmp_path, fleet_frame):
    path = write_fleet(tmp_path / "server_metrics.parquet", fleet_frame)
    assert keys_of(check_data(tmp_path, fleet_frame["timestamp"].max().to_pydatetime())) == set()
    path.unlink()
    times = fleet_frame["timestamp"]
    start = times.min()
    odd = fleet_frame[
        ~times.between(start + timedelta(hours=3), start + timedelta(hours=6)) & (times < start + timedelta(hours=12))
    ]
    write_fleet(path, odd.assign(mem_pct=50.0))
    assert {"data-old", "data-short", "data-gaps", "data-suspicious"} == keys_of(check_data(tmp_path, DAY_AHEAD))


@pytest.fixture
def models(tmp_path, tiny_model_dir) -> Path:
    """A models folder whose `latest` is a copy of the tiny model."""
    folder = tmp_path / "models"
    shutil.copytree(tiny_model_dir, folder / tiny_model_dir.name)
    (folder / "latest").symlink_to(tiny_model_dir.name)
    return folder


def change_info(models: Path, **changes: object) -> None:
    path = models / "latest" / "training_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_sound_model_has_no_findings_but_a_missing_one_has(models, fleet_file, tmp_path):
    assert keys_of(check_model(models, fleet_file.parent)) == set()
    assert keys_of(check_model(tmp_path / "none", tmp_path)) == {"model-missing"}


def test_a_model_that_is_damaged_of_another_contract_old_or_not_good_enough(models, tmp_path):
    change_info(models, quality={"failures": ["cpu_pct is worse than the last value"]})
    month_later = utc_now() + timedelta(days=40)
    assert keys_of(check_model(models, tmp_path, month_later)) == {"model-quality", "model-old"}
    change_info(models, contract_version="0.9.0")
    assert keys_of(check_model(models, tmp_path)) == {"model-contract"}
    change_info(models, contract_version="1.0.0")
    with (models / "latest" / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, os.SEEK_END)
        weights.write(b"\x7f")
    assert keys_of(check_model(models, tmp_path)) == {"model-damaged"}


def test_a_model_that_has_not_learned_the_servers_of_the_data(models, tmp_path):
    write_fleet(tmp_path / "server_metrics.parquet", make_fleet(("other1", "other2", FLEET[0])))
    (finding,) = check_model(models, tmp_path)
    assert keys_of([finding]) == {"model-strangers"} and "2 of the 3" in finding.what


def test_a_link_to_a_model_that_has_gone_is_pointed_to_the_newest_sound_one(place, models, tiny_model_dir):
    (models / "tft_model_29990101_000000").mkdir()  # newer, and no model
    (models / "latest").unlink()
    (models / "latest").symlink_to("tft_model_gone")
    left = models / ".tft_model_20200101_000000.partial"
    left.mkdir()
    os.utime(left, (0, 0))
    assert keys_of(examine(("model",)).findings) == {"model-link-broken", "model-leftovers"}
    mended = examine(("model",), repair=True)
    assert len(mended.repaired) == 2 and mended.is_well, mended.findings
    assert (models / "latest").resolve().name == tiny_model_dir.name and not left.exists()


def test_a_link_without_any_model_beside_it_cannot_be_mended(place):
    (place / "models").mkdir()
    (place / "models" / "latest").symlink_to("tft_model_gone")
    (finding,) = examine(("model",), repair=True).findings
    assert finding.key == "model-link-broken" and finding.fix == "python main.py train"


# -------------------------------------------------------------------------------------------------------------- daemon
def asked(process: Process, tmp_path: Path, **settings: object) -> set[str]:
    return keys_of(check_daemon(load_settings(daemon_url=process.url, models_dir=tmp_path / "m", **settings)))


def test_nobody_somebody_else_and_somebody_who_says_nothing(place):
    assert keys_of(check_daemon(load_settings())) == {"daemon-absent"}
    assert keys_of(check_daemon(load_settings(daemon_url="nowhere"))) == {"daemon-stranger"}
    with LocalAnswers({"/status": {"other": 1}}) as answers:
        assert keys_of(check_daemon(load_settings(daemon_url=answers.url))) == {"daemon-stranger"}
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert keys_of(check_daemon(load_settings(daemon_url=url))) == {"daemon-hangs"}


def test_a_daemon_that_cannot_be_trusted_is_not_asked(place):
    settings = load_settings(daemon_url="https://127.0.0.1:9", daemon_ca_file=place / "absent.pem")
    assert keys_of(check_daemon(settings)) == {"daemon-untrusted"}


def test_a_daemon_without_model_rows_or_our_key_and_with_damaged_keys(tmp_path):
    keys = tmp_path / "keys.json"
    key, _ = create_key(keys, "doctor", "read")
    with daemon(tmp_path / "run", tmp_path / "absent", TFT_API_KEYS_FILE=str(keys)) as process:
        assert asked(process, tmp_path) == {"daemon-key"}
        ours = SecretStr(key)
        assert asked(process, tmp_path, api_key=ours) == {"daemon-no-model", "daemon-no-rows"}
        keys.write_text("{")
        wait_for(lambda: "daemon-keys-damaged" in asked(process, tmp_path, api_key=ours))


def test_a_daemon_with_damaged_history_old_rows_silent_servers_and_too_many_requests(tmp_path, tiny_model_dir):
    folder, models = tmp_path / "run", tmp_path / "m"
    shutil.copytree(tiny_model_dir, models / tiny_model_dir.name)
    (models / "latest").symlink_to(tiny_model_dir.name)
    (folder / "history").mkdir(parents=True)
    (folder / "history" / "history.sqlite3").write_bytes(b"not SQLite at all" * 1000)
    hours_ago = floor_to_step(utc_now(), 5) - timedelta(hours=4)
    old = make_fleet(FLEET, 30, hours_ago)
    silent = make_fleet(("silent1",), 3, hours_ago - timedelta(hours=5))
    with daemon(folder, models / "latest", TFT_RATE_LIMIT_PER_SECOND="20") as process:
        assert process.post(json_rows(pd.concat([old, silent])))["rejected"] == 0
        wait_for(
            lambda: {"daemon-history-damaged", "daemon-stale", "daemon-servers-silent"} <= asked(process, tmp_path)
        )
        # `wait_for` pauses between tries, and so might never be one too many
        wait_for(lambda: 429 in [process.client.get("/alerts/active").status_code for _ in range(80)])
        wait_for(lambda: "daemon-rate-limited" in asked(process, tmp_path))
        bad = [{"timestamp": "2026-01-05T00:00:00Z", "server_name": "x", "cpu_pct": 140.0}] * 500
        wait_for(lambda: process.client.post("/ingest", json={"rows": bad}).status_code == 422)
        wait_for(lambda: "daemon-rows-rejected" in asked(process, tmp_path))
        newer = models / "tft_model_29990101_000000"
        shutil.copytree(tiny_model_dir, newer)
        (models / "other").symlink_to(newer.name)
        (models / "other").replace(models / "latest")
        (newer / "model.safetensors").write_bytes(b"")
        wait_for(lambda: "daemon-model-refused" in asked(process, tmp_path))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, tiny_model_dir) -> Iterator[dict[str, object]]:
    """What a real daemon answers: for conditions that would need a full disk or a machine with another clock."""
    folder = tmp_path_factory.mktemp("recorded")
    with daemon(folder, tiny_model_dir) as process:
        now = floor_to_step(utc_now(), 5)  # not when the tests were collected: that may be a quarter of an hour ago
        process.post(json_rows(make_fleet(FLEET, 26, now)))
        wait_for(lambda: process.get("/status")["forecasts"]["count"])
        yield {
            "/status": process.get("/status"),
            "/alerts/delivery": process.get("/alerts/delivery"),
            "/metrics": process.client.get("/metrics").text,
        }


def test_a_daemon_that_is_well_has_no_findings(place, recorded):
    with LocalAnswers(recorded) as answers:
        assert keys_of(check_daemon(load_settings(daemon_url=answers.url))) == set()


def test_a_daemon_of_another_version_with_another_model_failing_forecasts_and_a_full_disk(place, recorded):
    (place / "models" / "tft_model_29990101_000000").mkdir(parents=True)
    (place / "models" / "latest").symlink_to("tft_model_29990101_000000")
    status = {**recorded["/status"], "version": "0.0.1"}
    status["forecasts"] = {**status["forecasts"], "errors": 2}
    full = '\ntft_http_requests_total{method="POST",route="/ingest",status="507"} 3.0\n'
    delivery = json.loads(json.dumps(recorded["/alerts/delivery"]))
    delivery["webhook"]["dead_letters"] = 4
    changed = {"/status": status, "/alerts/delivery": delivery, "/metrics": recorded["/metrics"] + full}
    with LocalAnswers(changed) as answers:
        assert keys_of(check_daemon(load_settings(daemon_url=answers.url))) == {
            "daemon-version",
            "daemon-model-other",
            "daemon-forecasts-fail",
            "daemon-disk-full",
            "daemon-dead-letters",
        }


def test_an_alertmanager_that_is_not_there(tmp_path, tiny_model_dir):
    with daemon(tmp_path / "run", tiny_model_dir, TFT_ALERTMANAGER_URL="http://127.0.0.1:9") as process:
        process.post(json_rows(make_fleet(FLEET, 26, floor_to_step(utc_now(), 5)).assign(cpu_pct=99.9)))
        wait_for(lambda: process.get("/alerts/active")["alerts"])
        wait_for(lambda: "daemon-alerts-undelivered" in asked(process, tmp_path))


def test_a_clock_that_goes_differently_there():
    date = "Mon, 23 Nov 2026 12:00:00 GMT"
    noon = pd.Timestamp("2026-11-23T12:00:00Z").to_pydatetime()
    assert keys_of(clock_findings(date, noon + timedelta(seconds=2))) == set()
    assert keys_of(clock_findings("", noon)) == keys_of(clock_findings("yesterday", noon)) == set()
    (finding,) = clock_findings(date, noon + timedelta(minutes=2))
    assert keys_of([finding]) == {"daemon-clock"} and "120 s behind" in finding.what


# ----------------------------------------------------------------------------------------------------------- dashboard
def test_a_dashboard_that_does_not_run_and_a_port_that_another_has(place):
    assert keys_of(check_dashboard(load_settings())) == {"dashboard-absent"}
    with LocalAnswers({"/_stcore/health": "no"}) as other:
        assert keys_of(check_dashboard(load_settings(dashboard_port=other.port))) == {"dashboard-port"}
    with LocalAnswers({"/_stcore/health": "ok"}) as ours:
        assert keys_of(check_dashboard(load_settings(dashboard_port=ours.port))) == set()


# ------------------------------------------------------------------------------------------------------------ the whole
def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "main.py"), "doctor", *arguments]
    return subprocess.run(line, cwd=place, capture_output=True, text=True, timeout=120, check=False)


def test_what_is_not_there_yet_is_a_problem_only_where_it_is_asked_for(place):
    alone, named = run(place, "--json", "settings", "data"), examine(())
    assert alone.returncode == 1 and [each["key"] for each in json.loads(alone.stdout)["findings"]] == ["data-missing"]
    absent = {finding.key for finding in named.findings if finding.kind.weight == "absent"}
    assert absent == {"data-missing", "model-missing", "daemon-absent", "dashboard-absent"}
    assert not any(named.is_problem(finding) for finding in named.findings if finding.key in absent)


def test_a_person_is_told_what_why_how_and_where_without_colours_in_a_pipe(place):
    done = run(place, "data")
    assert done.returncode == 1 and "\x1b[" not in done.stdout and done.stderr == ""
    for part in ("data-missing", "Why it matters:", "To fix it: python main.py generate", "More: Docs/", "not well"):
        assert part in done.stdout
    assert run(place, "settings").returncode == 0


def test_an_unknown_section_is_wrong_usage(place):
    done = run(place, "daemons")
    assert done.returncode == 2 and "daemon" in done.stderr and "Traceback" not in done.stderr


def test_a_day_of_the_history_that_is_damaged():
    settings = load_settings()
    status = json.loads(json.dumps(EXAMPLES["GET /status"]))
    status["history"]["damaged_days"] = ["2026-03-06.parquet.damaged-20260309T000000Z"]
    assert "daemon-day-damaged" in keys_of(status_findings(status, "http://127.0.0.1:8000", settings))


def test_a_pull_that_fails_lags_or_finds_nothing():
    well = PullState(until=floor_to_step(utc_now(), 5), last_success=utc_now()).as_dict(0)
    assert keys_of(pull_findings(None)) == keys_of(pull_findings(well)) == set()
    late = {**well, "behind_seconds": 3600, "absent_metrics": ["mem_pct"]}
    assert keys_of(pull_findings(late)) == {"daemon-pull-behind", "daemon-pull-absent"}
    failing = {**late, "error": {"what": "It does not answer."}, "absent_metrics": []}
    assert keys_of(pull_findings(failing)) == {"daemon-pull-fails"}


def test_brackets_in_names_are_not_taken_for_markup():
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        show_diagnosis(Diagnosis(("data",), (Finding("data-missing", "There is no [/] [bold]x."),)), console)
    assert "There is no [/] [bold]x." in capture.get()


def test_every_kind_names_a_section_and_a_document_that_exist():
    for key, kind in KINDS.items():
        assert kind.section in SECTIONS and (ROOT / kind.document).is_file(), key
