"""Are the files of a generated fleet whole, valid, and there together or not at all?"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
import pytest

from contract_parquet import read_frame
from data_contract import CONTRACT_VERSION, VALID_PROFILES, ConfigurationError, DataFileError
from data_validator import DataValidator
from metrics_generator import GeneratorOptions, generate, generate_frame
from server_encoder import ServerEncoder

ROOT = Path(__file__).resolve().parent.parent
FILES = ["metrics_incidents.parquet", "metrics_metadata.json", "server_mapping.json", "server_metrics.parquet"]
SMALL = GeneratorOptions(servers=9, hours=24, start=datetime(2026, 1, 5, tzinfo=timezone.utc))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_files_are_written_valid_and_in_agreement(tmp_path):
    calls: list[tuple[int, int]] = []
    result = generate(SMALL, tmp_path / "new" / "folder", progress=lambda done, total: calls.append((done, total)))
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert DataValidator(strict=True).validate_file(result.data_file).warnings == []
    pd.testing.assert_frame_equal(read_frame(result.data_file), generate_frame(SMALL))
    mapping = ServerEncoder(result.mapping_file)
    assert set(mapping.name_to_id) == set(read_frame(result.data_file)["server_name"].unique())
    assert calls[-1] == (2592, 2592) and all(done <= total for done, total in calls)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_metadata_tells_the_contract_the_counts_and_how_to_go_on(tmp_path):
    generate(SMALL, tmp_path)
    metadata = json.loads((tmp_path / "metrics_metadata.json").read_text())
    frame = generate_frame(SMALL)
    assert metadata["source"] == "generated" and metadata["contract_version"] == CONTRACT_VERSION
    assert (metadata["rows"], metadata["servers"], metadata["scenario"]) == (2592, 9, "healthy")
    assert (metadata["start"], metadata["end"]) == ("2026-01-05T00:00:00Z", "2026-01-05T23:55:00Z")
    assert metadata["states"] == frame["state"].value_counts().loc[lambda counts: counts > 0].to_dict()
    assert set(metadata["profiles"]) <= set(VALID_PROFILES) and sum(metadata["profiles"].values()) == 9
    assert metadata["options"] == {
        "servers": 9,
        "hours": 24,
        "interval_seconds": 300,
        "start": "2026-01-05T00:00:00Z",
        "seed": 42,
        "offline_mode": "dense",
        "scenario": "healthy",
    }


def test_the_result_is_ready_for_json(tmp_path):
    described = json.loads(json.dumps(generate(SMALL, tmp_path).as_dict()))
    assert described["rows"] == 2592 and described["data_file"].endswith("server_metrics.parquet")


def test_the_same_options_write_the_same_data_again(tmp_path):
    generate(SMALL, tmp_path)
    before = files_of(tmp_path)
    generate(SMALL, tmp_path)
    after = files_of(tmp_path)
    assert before["server_metrics.parquet"] == after["server_metrics.parquet"]
    assert before["server_mapping.json"] == after["server_mapping.json"]


def test_by_default_the_fleet_ends_now_on_the_grid():
    options = GeneratorOptions(hours=48)
    age = datetime.now(timezone.utc) - options.end
    assert timedelta(0) <= age < timedelta(minutes=6) and options.end.minute % 5 == 0


def test_a_start_in_another_zone_or_off_the_grid_is_moved_to_it():
    start = datetime(2026, 1, 5, 10, 7, 31, tzinfo=timezone(timedelta(hours=2)))
    assert GeneratorOptions(start=start).begin == datetime(2026, 1, 5, 8, 5, tzinfo=timezone.utc)
    naive = start.astimezone(timezone.utc).replace(tzinfo=None)
    assert GeneratorOptions(start=naive).begin == datetime(2026, 1, 5, 8, 5, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "wrong",
    [
        {"servers": 0},
        {"servers": 2.5},
        {"servers": 10**9},
        {"hours": 23},
        {"hours": True},
        {"interval_seconds": 0},
        {"interval_seconds": 600},
        {"interval_seconds": 7},
        {"seed": -1},
        {"offline_mode": "none"},
        {"scenario": "on fire"},
        {"start": datetime(1950, 1, 1, tzinfo=timezone.utc)},
    ],
)
def test_contradictory_options_are_refused_and_named(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        GeneratorOptions(**wrong)


def test_the_script_takes_the_options_of_the_specification(tmp_path):
    for spelling in ("--out_dir", "--output"):
        folder = tmp_path / spelling.strip("-")
        done = run_generator("--servers", "9", "--hours", "24", "--offline_mode", "sparse", spelling, str(folder))
        assert done.returncode == 0, done.stderr
        assert sorted(path.name for path in folder.iterdir()) == FILES


def run_generator(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    if "preexec_fn" in options:  # where no file can be written, coverage cannot write its own, either
        options["env"] = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.run(
        [sys.executable, str(ROOT / "metrics_generator.py"), *arguments],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
        **options,
    )


# --------------------------------------------------------------------------------------------------- nothing half-done


def no_file_above(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [0, 2_000, 60_000])
def test_a_full_disk_leaves_the_old_files_as_they_were(tmp_path, size):
    generate(SMALL, tmp_path)
    before = files_of(tmp_path)
    done = run_generator(
        "--servers", "40", "--hours", "48", "--out_dir", str(tmp_path), preexec_fn=lambda: no_file_above(size)
    )
    assert done.returncode == 1
    for part in (str(tmp_path), "Why it matters", "To fix it", "Docs/DATA_CONTRACT.md"):
        assert part in done.stderr.replace("\n", " "), done.stderr
    assert "Traceback" not in done.stderr and ".writing-" not in done.stderr
    assert files_of(tmp_path) == before


def test_a_disk_that_fills_up_leaves_nothing_in_a_new_folder(tmp_path):
    folder = tmp_path / "new"
    done = run_generator(
        "--servers", "40", "--hours", "48", "--out_dir", str(folder), preexec_fn=lambda: no_file_above(9_000)
    )
    assert done.returncode == 1 and list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_a_data_file_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataFileError, match="cannot be written"):
        generate(SMALL, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"workers": 0}, "workers must be 1 to 256"), ({"file_format": "json"}, "format must be one of")],
)
def test_a_wrong_option_is_named_before_anything_is_written(tmp_path, wrong, told):
    with pytest.raises(ConfigurationError, match=told) as caught:
        generate(SMALL, tmp_path / "new", **wrong)
    assert "CSV" not in str(caught.value) and not (tmp_path / "new").exists()


def test_a_file_where_the_folder_should_be_is_a_data_file_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataFileError, match="taken"):
        generate(SMALL, tmp_path / "taken")


def test_ctrl_c_leaves_the_old_files_as_they_were(tmp_path):
    generate(SMALL, tmp_path)
    before = files_of(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "metrics_generator.py", "--servers", "1000", "--hours", "8000", "--out_dir", str(tmp_path)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not any(path.stat().st_size for path in tmp_path.glob(".writing-*/*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in stderr
    assert files_of(tmp_path) == before


# -------------------------------------------------------------------------------------------------- formats and workers


@pytest.mark.parametrize("interval_seconds", [300, 60])
def test_rows_are_the_same_whatever_the_format_and_the_number_of_workers(tmp_path, interval_seconds):
    options = GeneratorOptions(
        servers=9, hours=50, start=datetime(2026, 1, 5, 22, 55, tzinfo=timezone.utc), interval_seconds=interval_seconds
    )
    wanted = generate_frame(options)
    for file_format in ("parquet", "partitioned"):
        for workers in (1, 3):
            made = generate(options, tmp_path / f"{file_format}{workers}", file_format=file_format, workers=workers)
            pd.testing.assert_frame_equal(read_frame(made.data_file), wanted)


def test_partitioned_data_has_one_file_per_day_and_is_read_like_a_file(tmp_path):
    options = GeneratorOptions(servers=5, hours=60, start=datetime(2026, 1, 5, 12, tzinfo=timezone.utc))
    made = generate(options, tmp_path, file_format="partitioned")
    parts = sorted(str(path.relative_to(made.data_file)) for path in made.data_file.rglob("*") if path.is_file())
    assert parts == [f"date=2026-01-0{day}/part-0.parquet" for day in (5, 6, 7)]
    report = DataValidator(strict=True).validate_file(tmp_path)
    assert (report.rows, report.warnings) == (5 * 60 * 12, [])


def test_one_format_replaces_another_and_leaves_nothing_of_it(tmp_path):
    small = GeneratorOptions(servers=4, hours=24, start=SMALL.start)
    for file_format in ("partitioned", "csv", "parquet", "partitioned"):
        name = "server_metrics.csv" if file_format == "csv" else "server_metrics.parquet"
        made = generate(small, tmp_path, file_format=file_format)
        assert made.data_file.name == name and made.data_file.is_dir() == (file_format == "partitioned")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES[:3], name])


def test_csv_is_for_small_sets_and_comes_back_as_it_was(tmp_path):
    made = generate(GeneratorOptions(servers=4, hours=24, start=SMALL.start), tmp_path, file_format="csv")
    frame = pd.read_csv(made.data_file, parse_dates=["timestamp"])
    wanted = generate_frame(GeneratorOptions(servers=4, hours=24, start=SMALL.start))
    assert list(frame) == list(wanted) and (frame["timestamp"] == wanted["timestamp"]).all()
    for metric in ("cpu_pct", "mem_pct", "disk_io_mb_s", "latency_ms"):
        assert (frame[metric].astype("float32") == wanted[metric]).all(), metric
    with pytest.raises(ConfigurationError, match="less than 10,000 rows"):
        generate(GeneratorOptions(servers=40, hours=24), tmp_path, file_format="csv")
    assert made.data_file.exists()


def test_a_folder_of_that_name_that_holds_other_things_is_left_alone(tmp_path):
    (tmp_path / "server_metrics.parquet").mkdir()
    (tmp_path / "server_metrics.parquet" / "notes.txt").write_text("mine")
    for file_format in ("parquet", "partitioned"):
        with pytest.raises(DataFileError, match=r"is a folder|Is a directory"):
            generate(SMALL, tmp_path, file_format=file_format)
    assert (tmp_path / "server_metrics.parquet" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "seconds"), [("5m", 300), ("15s", 15), ("1", 60), ("60 s", 60), ("2.5m", None), ("7s", None)]
)
def test_intervals_are_told_in_minutes_or_seconds(tmp_path, text, seconds):
    done = run_generator("--servers", "1", "--hours", "24", "--interval", text, "--out_dir", str(tmp_path / "out"))
    if seconds is None:
        assert done.returncode in {1, 2} and not (tmp_path / "out").exists() and "Traceback" not in done.stderr
    else:
        frame = read_frame(tmp_path / "out" / "server_metrics.parquet")
        assert frame["timestamp"].diff().dropna().unique().tolist() == [pd.Timedelta(seconds=seconds)]
