"""The whole product from an empty folder: `make demo CHECK=1`, how it stops, and that its checks can fail."""

from __future__ import annotations

import copy
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from local_answers import LocalAnswers

from data_contract import HORIZON_STEPS, HORIZONS, METRIC_COLUMNS
from tft_demo_check import CheckError, check_alerts, check_path, check_predictions, check_status

ROOT = Path(__file__).resolve().parent.parent

# A training of seconds; everything else is as in `make demo`.
SMALL = {
    "TFT_WINDOWS_PER_EPOCH": "256",
    "TFT_VALIDATION_WINDOWS": "128",
    "TFT_BATCH_SIZE": "32",
    "TFT_HIDDEN_SIZE": "8",
    "NO_COLOR": "1",
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "main.py"), "demo", *arguments]


def processes_in(folder: Path) -> list[str]:
    """Command lines of all processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder in which the demo was run with its checks, and what it printed."""
    folder = tmp_path_factory.mktemp("demo").resolve()
    done = subprocess.run(
        command("--check"),
        cwd=folder,
        env={**os.environ, **SMALL},
        capture_output=True,
        check=False,
        text=True,
        timeout=550,
    )
    return folder, done


@pytest.mark.slow
def test_from_an_empty_folder_the_demo_reaches_checked_forecasts_and_stops(demo):
    folder, done = demo
    assert done.returncode == 0, done.stdout + done.stderr
    assert "forecasts of all 90 servers" in done.stdout and "✗" not in done.stdout
    assert "http://127.0.0.1:" in done.stdout
    assert processes_in(folder) == []
    assert {path.name for path in (folder / "logs").iterdir()} == {"daemon.log", "replay.log", "dashboard.log"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_run_makes_nothing_anew_and_a_signal_stops_every_process(demo, number):
    folder, first = demo
    assert first.returncode == 0, first.stderr
    before = {path: path.stat().st_mtime_ns for path in (folder / "training").iterdir()}
    running = subprocess.Popen(
        command(), cwd=folder, env={**os.environ, **SMALL}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        shown = ""
        for line in running.stdout:
            shown += line
            if "Ctrl-C stops everything" in line:
                break
        assert "Ctrl-C stops everything" in shown, shown
        assert shown.count("(stands already)") == 2
        assert len(processes_in(folder)) >= 4  # the demo, the daemon, the replay, the dashboard
        running.send_signal(number)
        rest = running.stdout.read()
        assert running.wait(60) == 130, rest
        assert "Traceback" not in rest
    finally:
        running.stdout.close()
        running.kill()
        running.wait()
    assert processes_in(folder) == []
    assert {path: path.stat().st_mtime_ns for path in (folder / "training").iterdir()} == before


@pytest.mark.slow
def test_when_a_part_dies_the_others_are_stopped_and_its_last_words_are_shown(demo):
    folder, first = demo
    assert first.returncode == 0, first.stderr
    port = free_port()
    running = subprocess.Popen(
        command("--port", str(port)),
        cwd=folder,
        env={**os.environ, **SMALL},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for line in running.stdout:
            if "Ctrl-C stops everything" in line:
                break
        daemon = [
            process
            for process in psutil.Process(running.pid).children()
            if "serve" in process.cmdline() and str(port) in process.cmdline()
        ]
        assert len(daemon) == 1
        daemon[0].kill()
        rest = running.stdout.read()
        assert running.wait(60) == 1
    finally:
        running.stdout.close()
        running.kill()
        running.wait()
    assert "The daemon ended by itself with code -9" in rest and "logs/daemon.log" in rest
    assert "Traceback" not in rest
    assert processes_in(folder) == []


def test_a_port_that_was_asked_for_and_is_in_use_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            command("--port", str(port)), cwd=tmp_path, capture_output=True, check=False, text=True, timeout=120
        )
    assert done.returncode == 1 and f"Port {port} is in use" in done.stderr and "To fix it" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_data_that_was_not_generated_is_left_alone(tmp_path):
    training = tmp_path / "training"
    training.mkdir()
    (training / "server_metrics.parquet").write_bytes(b"the user's own")
    (training / "metrics_metadata.json").write_text('{"source": "imported"}')
    done = subprocess.run(command(), cwd=tmp_path, capture_output=True, check=False, text=True, timeout=120)
    assert done.returncode == 1 and "is not a generated fleet" in done.stderr
    assert "TFT_DATA_DIR=demo_data" in done.stderr
    assert (training / "server_metrics.parquet").read_bytes() == b"the user's own"


# ------------------------------------------------------------------------------------------- the checks themselves
FLEET = {"ppweb001": "web_api", "ppdb001": "database"}


def metrics(value):
    return dict.fromkeys(METRIC_COLUMNS, value)


def record(name, profile):
    return {
        "server_name": name,
        "profile": profile,
        "prediction_time": "2026-01-05T08:00:00Z",
        "predictions": {horizon: metrics(20.0) for horizon in HORIZONS},
        "quantiles": {
            quantile: {horizon: metrics(value) for horizon in HORIZONS}
            for quantile, value in (("p10", 10.0), ("p50", 20.0), ("p90", 30.0))
        },
        "risk": 0.1,
        "state": "healthy",
    }


def good_answers():
    path = {column: {"p10": [1.0] * 96, "p50": [2.0] * 96, "p90": [3.0] * 96} for column in METRIC_COLUMNS}
    return {
        "/predictions/current": {"count": 2, "predictions": [record(*item) for item in FLEET.items()]},
        "/predictions/ppweb001": {
            "server_name": "ppweb001",
            "path": {"timestamps": [""] * HORIZON_STEPS, "metrics": path},
        },
        "/alerts/active": {"count": 1, "alerts": [{"metric": "cpu_pct", "probability": 0.8}]},
        "/health": {"status": "ok", "model_loaded": True},
        "/status": {
            "servers": 2,
            "ingest": {"accepted": 2, "duplicates": 0},
            "stale": False,
            "data_age_seconds": 1.0,
            "forecasts": {"errors": 0},
        },
    }


CHECKS = {
    "predictions": lambda client: check_predictions(client, FLEET),
    "path": lambda client: check_path(client, "ppweb001"),
    "alerts": check_alerts,
    "status": lambda client: check_status(client, 2),
}


def test_the_checks_pass_on_good_answers():
    with LocalAnswers(good_answers()) as answers:
        for check in CHECKS.values():
            check(answers.client)


def wrong(path, *keys, value):
    content = copy.deepcopy(good_answers())
    place = content[path]
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return content


@pytest.mark.parametrize(
    ("check", "content", "said"),
    [
        ("predictions", wrong("/predictions/current", "predictions", value=[]), "2 of 2 servers have no forecast"),
        (
            "predictions",
            wrong("/predictions/current", "predictions", 0, "quantiles", "p90", "8hr", "mem_pct", value=5.0),
            "out of order",
        ),
        (
            "predictions",
            wrong("/predictions/current", "predictions", 1, "quantiles", "p10", "1hr", "cpu_pct", value=None),
            "not all finite",
        ),
        (
            "predictions",
            wrong("/predictions/current", "predictions", 1, "quantiles", "p90", "1hr", "cpu_pct", value=140.0),
            "leaves the metric's range",
        ),
        (
            "predictions",
            wrong("/predictions/current", "predictions", 0, "predictions", "1hr", "cpu_pct", value=21.0),
            "not the median",
        ),
        ("predictions", wrong("/predictions/current", "predictions", 0, "profile", value="generic"), "profile"),
        ("predictions", wrong("/predictions/current", "predictions", 0, "server_id", value="242378"), "an id"),
        (
            "predictions",
            wrong("/predictions/current", "predictions", 0, "prediction_time", value="2026-01-05T08:00:00+00:00"),
            "without Z",
        ),
        ("predictions", {}, "answers 404"),
        ("path", wrong("/predictions/ppweb001", "path", "timestamps", value=[""] * 12), "12 steps"),
        (
            "path",
            wrong("/predictions/ppweb001", "path", "metrics", "cpu_pct", "p50", value=[9.0] * 96),
            "out of order",
        ),
        ("alerts", wrong("/alerts/active", "count", value=3), "`count` is 3"),
        ("alerts", wrong("/alerts/active", "alerts", 0, "probability", value=1.5), "an alert reads"),
        ("status", wrong("/health", "model_loaded", value=False), "/health"),
        ("status", wrong("/status", "servers", value=1), "counts 1 servers"),
        ("status", wrong("/status", "ingest", "accepted", value=0), "no rows were ingested"),
        ("status", wrong("/status", "stale", value=True), "stale"),
        ("status", wrong("/status", "forecasts", "errors", value=2), "2 forecasts failed"),
    ],
)
def test_a_check_says_what_is_wrong(check, content, said):
    with LocalAnswers(content) as answers, pytest.raises(CheckError, match=said):
        CHECKS[check](answers.client)
