"""Forecasts from a file without a daemon, as JSON and as a table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from data_contract import HORIZONS, METRIC_COLUMNS, ContractError, DataFileError, ModelFolderError
from tft_predict import forecast_file, show_forecasts, write_forecasts

ROOT = Path(__file__).resolve().parent.parent


def test_every_server_of_the_file_is_forecast_from_its_end(settings, tiny_model_dir, fleet_file, fleet_frame):
    answer = forecast_file(settings, tiny_model_dir, fleet_file)
    assert answer["count"] == 6 == len(answer["predictions"])
    assert {record["server_name"] for record in answer["predictions"]} == set(fleet_frame["server_name"])
    assert answer["prediction_time"] == fleet_frame["timestamp"].max().strftime("%Y-%m-%dT%H:%M:%SZ")
    assert answer["model"]["name"] == tiny_model_dir.name
    for record in answer["predictions"]:
        assert set(record["predictions"]) == set(HORIZONS) and record["known"] is True
        assert all(set(record["predictions"][horizon]) == set(METRIC_COLUMNS) for horizon in HORIZONS)
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer


def test_a_folder_of_files_does_as_well(settings, tiny_model_dir, fleet_file):
    assert forecast_file(settings, tiny_model_dir, fleet_file.parent)["count"] == 6


def test_only_the_named_servers_are_forecast_and_as_they_would_be_among_all(settings, tiny_model_dir, fleet_file):
    everything = {r["server_name"]: r for r in forecast_file(settings, tiny_model_dir, fleet_file)["predictions"]}
    answer = forecast_file(settings, tiny_model_dir, fleet_file, ["ppweb001"])
    assert answer["count"] == 1
    alone = answer["predictions"][0]
    for horizon in HORIZONS:
        for column in METRIC_COLUMNS:
            expected = everything["ppweb001"]["predictions"][horizon][column]
            assert alone["predictions"][horizon][column] == pytest.approx(expected, abs=2e-3)


def test_a_server_that_is_not_there_is_named(settings, tiny_model_dir, fleet_file):
    with pytest.raises(ContractError, match="nobody"):
        forecast_file(settings, tiny_model_dir, fleet_file, ["ppweb001", "nobody"])


def test_data_and_models_that_cannot_be_used_are_refused(settings, tiny_model_dir, fleet_file, tmp_path):
    with pytest.raises(DataFileError, match="no Parquet data"):
        forecast_file(settings, tiny_model_dir, tmp_path / "absent.parquet")
    with pytest.raises(ModelFolderError, match="no usable model folder"):
        forecast_file(settings, tmp_path / "absent", fleet_file)
    pq.write_table(pa.table({"cpu": [1.0]}), tmp_path / "foreign.parquet")
    with pytest.raises(ContractError, match="`timestamp` is missing"):
        forecast_file(settings, tiny_model_dir, tmp_path / "foreign.parquet")
    pq.write_table(pq.read_table(fleet_file).slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(ContractError, match="there are no rows"):
        forecast_file(settings, tiny_model_dir, tmp_path / "empty.parquet")


def test_a_file_that_cannot_be_written_is_told_and_nothing_is_left_behind(tmp_path):
    (tmp_path / "file").write_text("here first")
    (tmp_path / "folder.json").mkdir()
    for target in (tmp_path / "file" / "forecasts.json", tmp_path / "folder.json"):
        with pytest.raises(DataFileError, match="cannot be written") as caught:
            write_forecasts(target, {"count": 0})
        assert caught.value.why and "--out" in caught.value.fix and caught.value.document
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.json"]


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_shows_the_highest_risks_first_and_fits_the_screen(settings, tiny_model_dir, fleet_file, width):
    answer = forecast_file(settings, tiny_model_dir, fleet_file)
    for rank, record in enumerate(answer["predictions"]):
        record["risk"] = rank / 10
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        show_forecasts(answer, console, settings, limit=3)
    lines = capture.get().splitlines()
    rows = [line.split()[:2] for line in lines if line.strip().startswith("pp")]
    worst = [record["server_name"] for record in answer["predictions"][::-1][:3]]
    assert rows == [[name, f"{risk:.2f}"] for name, risk in zip(worst, (0.5, 0.4, 0.3), strict=True)]
    assert max(map(len, lines)) <= width and "3 of 6 servers" in capture.get()


def test_a_long_name_leaves_room_for_the_figures(settings, tiny_model_dir, fleet_file):
    answer = forecast_file(settings, tiny_model_dir, fleet_file)
    risk = max(record["risk"] for record in answer["predictions"])
    answer["predictions"][0]["server_name"] = "x" * 253
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        show_forecasts(answer, console, settings)
    assert "xxx…" in capture.get() and f"{risk:.2f}" in capture.get() and "CPU %" in capture.get()


def test_the_command_prints_json_alone_and_writes_a_file(tiny_model_dir, fleet_file, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "main.py"), "predict", "--model-dir", str(tiny_model_dir)),
            *("--data", str(fleet_file), "--server", "ppdb001", "--json", "--out", "forecasts.json"),
        ],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [record["server_name"] for record in answer["predictions"]] == ["ppdb001"]
    assert json.loads((tmp_path / "forecasts.json").read_text()) == answer
