"""Tests of tft_backtest.py and its siblings: a real tiny model and real baselines, judged and judged again by hand."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import FLEET, FLEET_END, make_fleet, write_fleet
from rich.console import Console
from test_backtest_scores import numbers_of

import backtest_runs
from backtest_origins import Judge, choose_window, seasonal_scales
from backtest_view import show_backtest
from config import Settings
from data_contract import HORIZON_STEPS, METRIC_COLUMNS, BacktestError, ModelFolderError, TrainingError
from fleet_grid import DAY_STEPS, FleetGrid
from model_folder import load_model
from tft_backtest import BacktestOptions, baselines_named, insist_on_output, run_backtest, write_result
from tft_forecaster import Forecaster
from training_data import load_fleet

ROOT = Path(__file__).resolve().parent.parent
WRITTEN = ("result.json", "report.html")
CHEAP = ("last_value", "seasonal_naive")
DECILES = [k / 10 for k in range(1, 10)]
TWO_BLOCKS = 2 * HORIZON_STEPS / DAY_STEPS


def small(settings: Settings, models_dir: Path) -> Settings:
    return settings.model_copy(update={"windows_per_epoch": 128, "validation_windows": 64, "models_dir": models_dir})


def row_of(answer: dict[str, Any], **wanted: str) -> dict[str, Any]:
    (found,) = [row for row in answer["scores"] if all(row[key] == value for key, value in wanted.items())]
    return found


def empty_grid(servers: int, steps: int) -> FleetGrid:
    values = np.zeros((servers, steps, len(METRIC_COLUMNS)), dtype=np.float32)
    names = tuple(f"ppweb{number:03d}" for number in range(servers))
    return FleetGrid(names, ("web_api",) * servers, 0, values, np.zeros((servers, steps), dtype=np.int8))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def answer(fleet_file: Path, settings: Settings, models: Path) -> dict[str, Any]:
    """A backtest that has trained its own model, without one of two web servers."""
    options = BacktestOptions(test_days=TWO_BLOCKS, baselines=CHEAP, epochs=1)
    return run_backtest(fleet_file, small(settings, models), options).as_dict()


@pytest.fixture(scope="module")
def own_model(answer: dict[str, Any], models: Path) -> Path:
    assert answer["what"]["model"]["name"] == (models / "backtest" / "latest").resolve().name
    return (models / "backtest" / "latest").resolve()


# ------------------------------------------------------------------------------------------------------------ the whole
def test_the_result_says_what_was_judged_and_has_every_part(answer: dict[str, Any], own_model: Path) -> None:
    what = answer["what"]
    assert (what["servers"], what["held_out_servers"], what["origins"]) == (len(FLEET), 1, 2)
    assert what["test_until"] == "2026-03-04T00:00:00Z" and what["test_from"] == "2026-03-03T08:00:00Z"
    assert what["model"]["trained_until"] == what["test_from"] and what["model"]["known_servers"] == len(FLEET) - 1
    assert [method["name"] for method in answer["methods"]] == ["tft", *CHEAP]
    assert all(method["skipped"] is None and method["forecast_seconds"] > 0 for method in answer["methods"])
    assert answer["crossings"] == dict.fromkeys(["tft", *CHEAP], 0)
    assert len(answer["calibration"]) == 3 * 4 * len(what["quantiles"]) and len(answer["by_step"]) == 3 * 4 * 96
    groups = {(row["group"], row["value"]) for row in answer["scores"] if row["method"] == "tft"}
    assert groups >= {("all", "all"), ("horizon", "8hr"), ("profile", "web_api"), ("state", "healthy")}
    assert groups >= {(group, value) for group, value in (("server", "known"), ("server", "held_out"))}
    assert groups >= {("profile_known", "known"), ("profile_known", "generic")}
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    data = load_model(own_model).info["data"]
    assert data["unseen"]["until"] == what["test_from"] and len(data["unseen"]["held_out_servers"]) == 1


def test_the_models_scores_are_those_of_forecasts_made_by_hand_from_what_was_known(
    answer: dict[str, Any], own_model: Path, fleet_frame: pd.DataFrame
) -> None:
    forecaster = Forecaster.load(own_model)
    times = pd.date_range(end=FLEET_END, periods=2 * HORIZON_STEPS + 1, freq="5min")[:-1]
    forecasts, truths, scales = [], [], []
    for origin in (times[0], times[HORIZON_STEPS]):
        known = fleet_frame[fleet_frame["timestamp"] < origin]
        forecast = forecaster.predict(known)
        assert forecast.server_names == tuple(sorted(FLEET))
        forecasts.append(forecast.values)
        for name in forecast.server_names:
            of_server = fleet_frame[fleet_frame["server_name"] == name].set_index("timestamp")[list(METRIC_COLUMNS)]
            truths.append(of_server.loc[origin : origin + timedelta(minutes=5 * 95)].to_numpy())
            past = of_server[of_server.index < origin].to_numpy()
            scales.append(np.abs(past[DAY_STEPS:] - past[:-DAY_STEPS]).mean(axis=0))
    values, truth, scale = np.concatenate(forecasts), np.stack(truths), np.stack(scales)
    held_out = np.array([name not in load_model(own_model).encoder for name in sorted(FLEET)] * 2)
    levels = [forecaster.predict(known).quantiles.index(level) for level in DECILES]
    for k, metric in enumerate(METRIC_COLUMNS):
        for group, value, chosen in (("all", "all", np.ones(12, bool)), ("server", "held_out", held_out)):
            y, q = truth[chosen][..., k], values[chosen][:, :, k][..., levels]
            error = y[..., None] - q
            losses = np.maximum(np.array(DECILES) * error, (np.array(DECILES) - 1) * error)
            median = np.abs(error[..., 4])
            row = row_of(answer, method="tft", metric=metric, group=group, value=value)
            assert row["crps"] == pytest.approx(2 * losses.sum(axis=(0, 1)).mean() / np.abs(y).sum(), rel=1e-4)
            assert row["mase"] == pytest.approx((median.mean(axis=1) / scale[chosen, k]).mean(), rel=1e-4)
            inside = (error[..., 0] >= 0) & (error[..., -1] <= 0)
            assert row["coverage_p10_p90"] == pytest.approx(inside.mean(), abs=2e-3)
            assert row["labels"] == y.size


def test_the_last_value_is_scored_as_the_last_value(answer: dict[str, Any], fleet_frame: pd.DataFrame) -> None:
    errors = []
    for begin in (2, 1):
        origin = FLEET_END - timedelta(hours=8 * begin)
        for _, of_server in fleet_frame.groupby("server_name"):
            cpu = of_server.set_index("timestamp")["cpu_pct"]
            errors.append((cpu.loc[origin : origin + timedelta(minutes=475)] - cpu[cpu.index < origin].iloc[-1]).abs())
    row = row_of(answer, method="last_value", metric="cpu_pct", group="all")
    assert row["mae"] == pytest.approx(np.mean(np.concatenate(errors)), rel=1e-4)


def test_examples_show_a_past_what_was_forecast_and_what_came_true(
    answer: dict[str, Any], fleet_frame: pd.DataFrame
) -> None:
    assert {example["metric"] for example in answer["examples"]} == set(METRIC_COLUMNS)
    assert {example["why"] for example in answer["examples"]} == {
        "typical",
        "largest error",
        "typical, server not learned from",
    }
    for example in answer["examples"]:
        of_server = fleet_frame[fleet_frame["server_name"] == example["server"]].set_index("timestamp")
        values = of_server[example["metric"]]
        origin = pd.Timestamp(example["origin"])
        assert example["past"][-1] == pytest.approx(values[origin], abs=1e-3) and len(example["past"]) == DAY_STEPS
        assert example["actual"] == pytest.approx(values[values.index > origin][:HORIZON_STEPS].tolist(), abs=1e-3)
        low, middle, high = (np.array(example["quantiles"][level]) for level in ("0.1", "0.5", "0.9"))
        assert (low <= middle).all() and (middle <= high).all()
        assert example["mae"] == pytest.approx(np.abs(np.array(example["actual"]) - middle).mean(), abs=2e-3)
        assert example["held_out"] or "not learned from" not in example["why"]


@pytest.mark.parametrize("way", ["in pieces of two servers", "in two processes"])
def test_the_scores_do_not_depend_on_how_the_work_is_cut(
    way: str,
    answer: dict[str, Any],
    own_model: Path,
    fleet_file: Path,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backtest_runs, "SERVERS_AT_ONCE", 2)
    if way == "in two processes":
        monkeypatch.setattr(backtest_runs, "_WORTH_PROCESSES_SECONDS", -1.0)
    options = BacktestOptions(model_dir=own_model, test_days=TWO_BLOCKS, baselines=CHEAP[:1], workers=2)
    again = run_backtest(fleet_file, small(settings, tmp_path), options).as_dict()
    for row in again["scores"]:
        if row["group"] != "profile_known":
            keys = ("method", "metric", "group", "value")
            before = row_of(answer, **{key: row[key] for key in keys})
            assert numbers_of(row) == pytest.approx(numbers_of(before), rel=1e-3, abs=1e-4)  # batches differ
    assert not list(tmp_path.iterdir())  # the grid is gone, and no model was made


class Elsewhere:
    """A method that says "0" here, and in any other process does something wrong."""

    name = title = "elsewhere"

    def __init__(self, wrong: str) -> None:
        self._here, self._wrong = os.getpid(), wrong

    def fit(self, grid: FleetGrid, until: int, progress: object = None) -> None:
        del grid, until, progress

    def forecast(self, grid: FleetGrid, column: int) -> np.ndarray:
        del column
        if os.getpid() != self._here:
            if self._wrong == "dies":
                os._exit(9)
            raise TrainingError("It cannot be asked.", why="It is broken.", fix="Mend it.")
        return np.zeros((grid.n_servers, HORIZON_STEPS, len(METRIC_COLUMNS), 9), dtype=np.float32)


@pytest.mark.parametrize(
    ("wrong", "told"), [("dies", "has ended before its work was done"), ("fails", "cannot be asked")]
)
def test_a_process_that_dies_or_fails_is_told_and_leaves_no_other_behind(
    wrong: str, told: str, fleet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backtest_runs, "SERVERS_AT_ONCE", 2)
    monkeypatch.setattr(backtest_runs, "_WORTH_PROCESSES_SECONDS", -1.0)
    load_fleet(fleet_file, tmp_path)
    judge = Judge.begin(tmp_path, (600, 700), np.zeros(len(FLEET), dtype=np.int64))
    before = {child.pid for child in multiprocessing.active_children()}
    with pytest.raises(BacktestError, match=told):
        backtest_runs.run_method(judge, Elsewhere(wrong), DECILES, workers=2)
    assert {child.pid for child in multiprocessing.active_children()} == before
    alone, _ = backtest_runs.run_method(judge, Elsewhere(wrong), DECILES, workers=1)
    assert alone.labels == 2 * len(FLEET) * HORIZON_STEPS * len(METRIC_COLUMNS)


# ------------------------------------------------------------------------------------------------------------- stopping
def test_ctrl_c_while_baselines_are_scored_tells_what_was_finished(
    own_model: Path, fleet_file: Path, settings: Settings, tmp_path: Path
) -> None:
    def press(what: str, _done: int, _total: int) -> None:
        if what.startswith("Same time yesterday"):
            raise KeyboardInterrupt

    options = BacktestOptions(model_dir=own_model, test_days=TWO_BLOCKS, baselines=(*CHEAP, "mean_24"))
    stopped = run_backtest(fleet_file, small(settings, tmp_path), options, tell=press)
    assert stopped.stopped
    skipped = {method["name"]: method["skipped"] for method in stopped.methods}
    assert skipped["tft"] is skipped["last_value"] is None
    assert "stopped" in skipped["seasonal_naive"] and "stopped" in skipped["mean_24"]
    assert {row["method"] for row in stopped.scores} == {"tft", "last_value"}
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_alerts_are_judged_keeps_the_models_scores(
    own_model: Path, fleet_file: Path, settings: Settings, tmp_path: Path
) -> None:
    def press(what: str, _done: int, _total: int) -> None:
        if "TFT" not in what and what != "reading":
            raise KeyboardInterrupt

    options = BacktestOptions(model_dir=own_model, test_days=TWO_BLOCKS, baselines=CHEAP, alerts=True)
    stopped = run_backtest(fleet_file, small(settings, tmp_path), options, tell=press)
    assert stopped.stopped and stopped.alerts is None and stopped.scores
    assert [method["skipped"] is None for method in stopped.methods] == [True, False, False]


def test_a_training_that_was_interrupted_is_gone_on_with_and_then_judged(
    fleet_file: Path, settings: Settings, tmp_path: Path
) -> None:
    wild = small(settings, tmp_path).model_copy(update={"learning_rate": 1e18})
    options = BacktestOptions(test_days=TWO_BLOCKS, baselines=(), epochs=1)
    with pytest.raises(TrainingError, match="not finite"):
        run_backtest(fleet_file, wild, options)
    (run,) = (tmp_path / "backtest" / "runs").iterdir()
    note = json.loads((run / "run.json").read_text())
    note["settings"]["learning_rate"] = 0.01
    (run / "run.json").write_text(json.dumps(note))
    resumed = run_backtest(fleet_file, wild, BacktestOptions(test_days=TWO_BLOCKS, baselines=(), epochs=1, resume=True))
    assert resumed.what["model"]["trained_until"] == "2026-03-03T08:00:00Z"
    assert [path.name for path in (tmp_path / "backtest" / "runs").iterdir()] == [run.name]
    with pytest.raises(TrainingError, match="no interrupted training"):
        run_backtest(fleet_file, wild, BacktestOptions(test_days=TWO_BLOCKS, resume=True))


# ------------------------------------------------------------------------------------------------------- what is unfair
def test_a_model_that_has_learned_from_the_test_is_refused_with_the_time_from_which_it_may_be_judged(
    tiny_model_dir: Path, own_model: Path, fleet_file: Path, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(BacktestError, match="has learned from data up to 2026-03-04 00:00 UTC") as caught:
        run_backtest(fleet_file, small(settings, tmp_path), BacktestOptions(model_dir=tiny_model_dir))
    assert "leave --model out" in caught.value.fix
    with pytest.raises(BacktestError, match="test would begin at 2026-03-03 00:00 UTC") as caught:
        run_backtest(fleet_file, small(settings, tmp_path), BacktestOptions(model_dir=own_model, test_days=1))
    assert "from 2026-03-03 08:00 UTC on: give --test-days 0.66 or less" in caught.value.fix


def test_a_model_may_be_judged_at_any_time_on_servers_that_it_knows_none_of(
    tiny_model_dir: Path, settings: Settings, tmp_path: Path
) -> None:
    file = write_fleet(tmp_path / "f.parquet", make_fleet(("ppdb100", "ppdb101"), hours=40, seed=5))
    options = BacktestOptions(model_dir=tiny_model_dir, baselines=CHEAP[:1])
    found = run_backtest(file, small(settings, tmp_path / "models"), options).as_dict()
    assert found["what"]["held_out_servers"] == 2 and "none of these servers" in found["what"]["notes"][0]
    assert {row["value"] for row in found["scores"] if row["group"] == "server"} == {"held_out"}
    assert not (tmp_path / "models").exists()


def test_a_model_that_does_not_say_what_it_has_learned_from_is_refused(
    tiny_model_dir: Path, fleet_file: Path, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / tiny_model_dir.name
    shutil.copytree(tiny_model_dir, folder)
    info = json.loads((folder / "training_info.json").read_text())
    (folder / "training_info.json").write_text(json.dumps({**info, "data": {}}))
    with pytest.raises(ModelFolderError, match="does not say until when"):
        run_backtest(fleet_file, small(settings, tmp_path / "models"), BacktestOptions(model_dir=folder))


# ------------------------------------------------------------------------------------------------- small and odd fleets
def test_one_server_that_never_reports_a_metric_is_judged_and_what_cannot_be_said_is_left_open(
    settings: Settings, tmp_path: Path
) -> None:
    frame = make_fleet(("ppweb001",), hours=36).assign(latency_ms=np.nan)
    file = write_fleet(tmp_path / "f.parquet", frame)
    options = BacktestOptions(baselines=CHEAP, epochs=1)
    found = run_backtest(file, small(settings, tmp_path / "models"), options).as_dict()
    assert found["what"]["held_out_servers"] == 0
    assert any("No server could be held out" in note for note in found["what"]["notes"])
    row = row_of(found, method="tft", metric="latency_ms", group="all")
    assert row["labels"] == 0 and row["crps"] is None and row["mae"] is None
    assert row_of(found, method="tft", metric="cpu_pct", group="all")["crps"] > 0
    assert not [row for row in found["scores"] if row["value"] in ("held_out", "generic") and row["group"] != "profile"]
    json.dumps(found, allow_nan=False)
    show_backtest(found, Console(file=io.StringIO(), width=80))


def test_too_little_data_and_too_long_a_test_are_refused_with_what_would_do() -> None:
    kept: dict[str, Any] = {"every_steps": HORIZON_STEPS, "most": None}
    with pytest.raises(BacktestError, match=r"too little data for a backtest: 26 h .* 27 h are needed"):
        choose_window(empty_grid(1, 26 * 12), test_days=None, learns=True, **kept)
    assert choose_window(empty_grid(1, 9 * 12), test_days=None, learns=False, **kept).columns == (12,)
    with pytest.raises(BacktestError, match="--test-days 2 leaves too little") as caught:
        choose_window(empty_grid(1, 2 * DAY_STEPS), test_days=2, learns=True, **kept)
    assert "at most --test-days 1, " in caught.value.fix
    assert len(choose_window(empty_grid(1, 2 * DAY_STEPS), test_days=1, learns=True, **kept).columns) == 3


def test_the_test_is_the_last_fifth_nine_days_at_most_in_whole_horizons_that_end_with_the_data() -> None:
    kept: dict[str, Any] = {"test_days": None, "learns": True}
    whole = choose_window(empty_grid(1, 30 * DAY_STEPS + 7), every_steps=96, most=None, **kept)
    assert len(whole.columns) == 18 and whole.columns[-1] + HORIZON_STEPS == 30 * DAY_STEPS + 7
    assert set(np.diff(whole.columns)) == {HORIZON_STEPS}
    assert len(choose_window(empty_grid(1, 80 * DAY_STEPS), every_steps=96, most=None, **kept).columns) == 27
    often = choose_window(empty_grid(1, 30 * DAY_STEPS + 7), every_steps=12, most=None, **kept)
    assert often.begin == whole.begin and len(often.columns) == 17 * 8 + 1
    few = choose_window(empty_grid(1, 30 * DAY_STEPS + 7), every_steps=12, most=3, **kept)
    assert few.columns == (often.columns[0], often.columns[68], often.columns[-1])


def test_the_scale_of_mase_is_that_of_the_published_benchmark() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 100, (5, 1000, len(METRIC_COLUMNS))).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    values[2, :, 1] = np.nan
    columns = (288, 289, 640, 1000)
    for column, scales in zip(columns, seasonal_scales(values, columns).swapaxes(0, 1), strict=True):
        for k in range(len(METRIC_COLUMNS)):
            past = values[:, :column, k].astype(np.float64)
            step = np.abs(past[:, 288:] - past[:, :-288])
            expected = np.nansum(step, axis=1) / np.maximum(np.isfinite(step).sum(axis=1), 1)
            assert np.nan_to_num(scales[:, k]) == pytest.approx(expected)


def test_names_of_baselines_are_read_and_wrong_ones_are_told_with_the_right_ones() -> None:
    assert baselines_named("all") is None and baselines_named("none") == ()
    assert baselines_named("last_value, ridge,last_value") == ("last_value", "ridge")
    for wrong in ("prophet", "ridge,prophet", "", ","):
        with pytest.raises(ValueError, match="there are last_value"):
            baselines_named(wrong)


# --------------------------------------------------------------------------------------------------------- what is seen
def test_the_terminal_marks_the_best_and_says_plainly_where_the_model_loses(answer: dict[str, Any]) -> None:
    told = json.loads(json.dumps(answer))
    for metric in ("all", *METRIC_COLUMNS):
        for method, crps in (("tft", 0.5), ("last_value", 0.4), ("seasonal_naive", 0.6)):
            row_of(told, method=method, metric=metric, group="all").update(crps=crps, mase=1 - crps)
    green, plain = "\x1b[1;32m", "\x1b[0m"
    for width, parts in (
        (80, ("last_value", f"{green}0.400{plain}", f"{green}0.400{plain}", " 0.500 ")),
        (140, ("Last value", f"{green}0.400{plain}/0.600", f"0.600/{green}0.400{plain}", "0.500/0.500")),
    ):
        file = io.StringIO()
        console = Console(file=file, width=width, force_terminal=True, color_system="standard", highlight=False)
        show_backtest(told, console)
        for part in (*parts, "It loses against Last value in CPU"):
            assert part in file.getvalue(), part
        text = re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())
        table = text[text.index("CRPS") : text.index("Lower is better")].splitlines()
        assert max(map(len, table)) <= width and not any("…" in line for line in table)


def test_a_result_is_written_whole_or_not_at_all(answer: dict[str, Any], tmp_path: Path) -> None:
    insist_on_output(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    folder = tmp_path / "report"
    assert write_result(answer, folder) == [folder / "result.json", folder / "report.html"]
    assert json.loads((folder / "result.json").read_text()) == answer
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(method["title"] in page for method in answer["methods"])
    assert all(f"{explanation['server_name']}, " in page for explanation in answer["explanations"])
    (tmp_path / "file").touch()
    for write in (insist_on_output, lambda folder: write_result(answer, folder)):
        with pytest.raises(BacktestError, match="cannot be written"):
            write(tmp_path / "file")


def test_the_command_prints_json_alone_and_tells_errors_with_exit_code_1(
    own_model: Path, tiny_model_dir: Path, fleet_file: Path, tmp_path: Path
) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "main.py"), "backtest", "--data", str(fleet_file), *options]
        return subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"TFT_MODELS_DIR": "m"}, capture_output=True, text=True, check=False
        )

    done = run("--model", str(own_model), "--test-days", "0.4", "--baselines", "none", "--json", "--output", "out")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert [method["name"] for method in printed["methods"]] == ["tft"] and printed["what"]["origins"] == 1
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    refused = run("--model", str(tiny_model_dir), "--json")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert json.loads(refused.stderr)["error"]["document"] == "Docs/BACKTEST.md"
