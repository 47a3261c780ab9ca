"""What `status` says of each part: there, not there, or there and not usable; and what to do next."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
from local_answers import LocalAnswers
from rich.console import Console

from config import load_settings
from data_contract import MODEL_FILES
from metrics_generator import GeneratorOptions, generate
from tft_status import read_status, show_status

DAEMON = {
    "status": "ok",
    "model_loaded": True,
    "model": {"name": "tft_model_20260105_080000"},
    "servers": 90,
    "prediction_time": "2026-01-05T08:00:00Z",
    "stale": False,
    "uptime_seconds": 12.0,
}


@pytest.fixture
def nothing(tmp_path):
    """Settings of a place where nothing is there and nobody answers."""
    return load_settings(
        data_dir=tmp_path / "training",
        models_dir=tmp_path / "models",
        daemon_url="http://127.0.0.1:9",
        dashboard_port=9,
    )


def shown(status) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        show_status(status, console)
    return capture.get()


def test_a_generated_fleet_is_described_by_its_metadata(nothing):
    generate(GeneratorOptions(servers=4, hours=24, seed=1), nothing.data_dir)
    data = read_status(nothing)["data"]
    assert data["ok"] and data["servers"] == 4 and data["rows"] == 4 * 288 and data["source"] == "generated"
    assert "4 servers" in shown(read_status(nothing))


def test_folders_that_cannot_be_looked_into_are_a_finding(tmp_path):
    nameless = tmp_path / ("x" * 300)  # no file system takes such a name
    settings = load_settings(data_dir=nameless, models_dir=nameless, daemon_url="http://127.0.0.1:9", dashboard_port=9)
    status = read_status(settings)
    assert not status["data"]["ok"] and not status["model"]["ok"]
    assert "train" in shown(status)


def test_data_without_metadata_is_there_all_the_same(nothing):
    nothing.data_dir.mkdir()
    (nothing.data_dir / "server_metrics.parquet").write_bytes(b"PAR1")
    (nothing.data_dir / "metrics_metadata.json").write_text("not JSON")
    status = read_status(nothing)
    assert status["data"]["ok"] and "servers" not in status["data"]
    assert "server_metrics.parquet" in shown(status)


def test_a_trained_model_is_named(nothing, tiny_model_dir):
    nothing.models_dir.mkdir()
    (nothing.models_dir / "latest").symlink_to(tiny_model_dir)
    model = read_status(nothing)["model"]
    assert model["ok"] and model["name"] == tiny_model_dir.name and model["model_version"] == "3.0.0"
    assert model["created_at"].endswith("Z") and tiny_model_dir.name in shown(read_status(nothing))


@pytest.mark.parametrize("missing", MODEL_FILES)
def test_a_model_without_one_of_its_files_is_not_usable(nothing, tiny_model_dir, missing):
    shutil.copytree(tiny_model_dir, nothing.models_dir / "latest")
    (nothing.models_dir / "latest" / missing).unlink()
    status = read_status(nothing)
    assert not status["model"]["ok"] and missing in status["model"]["problem"]
    assert "python main.py train" in [step["command"] for step in status["next"]]


def test_a_model_of_another_contract_is_not_usable(nothing, tiny_model_dir):
    shutil.copytree(tiny_model_dir, nothing.models_dir / "latest")
    path = nothing.models_dir / "latest" / "training_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "contract_version": "2.0.0"}))
    assert "2.0.0" in read_status(nothing)["model"]["problem"]


def test_a_running_daemon_and_dashboard_are_asked_what_they_do(nothing):
    with LocalAnswers({"/status": DAEMON, "/_stcore/health": "ok"}) as answers:
        status = read_status(nothing.model_copy(update={"daemon_url": answers.url, "dashboard_port": answers.port}))
    assert status["daemon"]["ok"] and status["daemon"]["servers"] == 90
    assert status["dashboard"] == {"ok": True, "url": answers.url}
    assert "tft_model_20260105_080000, 90 servers, forecasts of 2026-01-05T08:00:00Z" in shown(status)


def test_a_daemon_without_rows_needs_some(nothing):
    with LocalAnswers({"/status": {**DAEMON, "servers": 0, "prediction_time": None}}) as answers:
        status = read_status(nothing.model_copy(update={"daemon_url": answers.url}))
    assert "python main.py generate --stream" in [step["command"] for step in status["next"]]
    assert "no forecast yet" in shown(status)


@pytest.mark.parametrize("content", [{}, {"/status": [1]}, {"/status": "<html>"}, {"/status": {"other": 1}}])
def test_another_program_at_the_address_is_not_taken_for_the_daemon(nothing, content):
    with LocalAnswers({**content, "/_stcore/health": "no"}) as answers:
        status = read_status(nothing.model_copy(update={"daemon_url": answers.url, "dashboard_port": answers.port}))
    assert not status["daemon"]["ok"] and status["daemon"]["problem"]
    assert status["dashboard"]["problem"] == "something else answers at this address"


def test_somebody_who_accepts_and_says_nothing_is_not_waited_for(nothing):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        daemon = read_status(nothing.model_copy(update={"daemon_url": url}))["daemon"]
    assert not daemon["ok"] and daemon["problem"].startswith("no answer within")


def test_an_address_that_is_none_is_told(nothing):
    daemon = read_status(nothing.model_copy(update={"daemon_url": "nowhere"}))["daemon"]
    assert not daemon["ok"] and daemon["problem"]


def test_when_all_runs_the_dashboards_address_is_what_is_left_to_say(nothing, tiny_model_dir):
    generate(GeneratorOptions(servers=1, hours=24, seed=1), nothing.data_dir)
    nothing.models_dir.mkdir()
    (nothing.models_dir / "latest").symlink_to(tiny_model_dir)
    with LocalAnswers({"/status": DAEMON, "/_stcore/health": "ok"}) as answers:
        status = read_status(nothing.model_copy(update={"daemon_url": answers.url, "dashboard_port": answers.port}))
    assert status["next"] == []
    assert f"open {answers.url}" in shown(status)
