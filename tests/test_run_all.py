from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUN_ALL = ROOT / "benchmarks" / "run_all.py"
sys.path.insert(0, str(RUN_ALL.parent))

from run_all import BENCHMARKS, FOLDER, figures_of, names  # noqa: E402


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TFT_REAL_DATA"}
    command = [sys.executable, str(RUN_ALL), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_every_benchmark_is_among_them_and_knows_its_options():
    programs = {each.path().name for each in BENCHMARKS}
    assert {path.name for path in FOLDER.glob("bench_*.py")} <= programs
    for each in BENCHMARKS:
        text = each.path().read_text(encoding="utf-8")
        options = [word for word in (*(each.quick or ()), *each.full) if word.startswith("--")]
        assert all(f'"{option}"' in text for option in [*options, "--json"]), each.name
        assert ('"--model-dir"' in text) >= each.needs_model, each.name


@pytest.mark.parametrize("each", BENCHMARKS, ids=names())
def test_every_benchmark_starts_from_any_folder(each, tmp_path):
    command = [sys.executable, str(each.path()), "--help"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--json" in done.stdout, done.stderr


def test_results_are_kept_and_not_measured_twice(tmp_path):
    first = run("--only", "data,realism,gifteval", "--out", str(tmp_path))
    assert first.returncode == 0, first.stderr
    result = json.loads((tmp_path / "results.jsonl").read_text())
    assert result["benchmark"] == "data" and result["figures"]["seconds_777600_rows"] > 0
    assert "realism: left out, TFT_REAL_DATA" in first.stdout and "gifteval: left out, only with --full" in first.stdout
    second = run("--only", "data", "--out", str(tmp_path))
    assert second.returncode == 0 and "already" in second.stdout
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1


def test_one_that_fails_is_told_and_leaves_no_result(tmp_path):
    done = run("--only", "restart", "--model-dir", str(tmp_path / "nothing"), "--out", str(tmp_path))
    assert done.returncode == 1 and "failed after" in done.stderr and "1 failed" in done.stdout
    assert not (tmp_path / "results.jsonl").exists()


def test_ctrl_c_stops_the_benchmark_that_runs(tmp_path):
    command = [sys.executable, str(RUN_ALL), "--only", "data", "--full", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "[1/1] data" in process.stdout.readline()
        time.sleep(1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        started = children.read_text().split() if children.exists() else []
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "Stopped" in told and "Traceback" not in told.split("Stopped")[1]
    assert not any(Path(f"/proc/{child}").exists() for child in started)
    assert not (tmp_path / "results.jsonl").exists()


@pytest.mark.parametrize("output", ["", "words", "{", "[1]", "{}\nwords"])
def test_what_is_no_json_object_is_no_result(output):
    assert figures_of(output) is None


def test_a_wrong_name_lists_the_right_ones(tmp_path):
    done = run("--only", "demon", "--out", str(tmp_path))
    assert done.returncode == 2 and all(name in done.stderr for name in names())
