"""Tests of tft_trainer.py and its siblings: real tiny trainings, interrupted, resumed, starved and refused."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FLEET, make_fleet, write_fleet
from rich.console import Console
from safetensors.torch import load_file, save_file

import tft_trainer
import training_scores
from common_utils import sha256_of_file
from config import Settings
from data_contract import (
    CONTRACT_VERSION,
    METRIC_COLUMNS,
    MODEL_FILES,
    MODEL_VERSION,
    VALID_PROFILES,
    VALID_STATES,
    ContractError,
    DataFileError,
    ModelFolderError,
    TrainingError,
)
from model_folder import load_model
from tft_trainer import train
from training_checkpoints import load_checkpoint, save_checkpoint
from training_loop import EpochRecord
from training_options import Restrictions
from training_runs import Run
from training_scores import judge_quality

ROOT = Path(__file__).parent.parent


def test_a_model_folder_holds_the_four_files_and_nothing_else(tiny_model_dir: Path) -> None:
    assert sorted(path.name for path in tiny_model_dir.iterdir()) == sorted(MODEL_FILES)
    assert (tiny_model_dir.parent / "latest").resolve() == tiny_model_dir
    assert tiny_model_dir.name.startswith("tft_model_") and len(tiny_model_dir.name) == len("tft_model_20260101_000000")


def test_nothing_that_training_leaves_behind_is_pickled(tiny_model_dir: Path) -> None:
    files = [path for path in tiny_model_dir.parent.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".csv", ".json", ".png", ".safetensors", ".lock"}
    assert not any(path.stat().st_size for path in files if path.suffix == ".lock")
    for path in files:
        head = path.read_bytes()[:16]
        assert head[:2] != b"PK" and head[:1] != b"\x80", path  # zip archives of torch.save, and pickles


def test_training_info_tells_what_a_later_reader_needs(tiny_model_dir: Path) -> None:
    info = json.loads((tiny_model_dir / "training_info.json").read_text())
    assert info["contract_version"] == CONTRACT_VERSION and info["model_version"] == MODEL_VERSION
    assert info["states"] == list(VALID_STATES) and info["profiles"] == list(VALID_PROFILES)
    assert info["weights_sha256"] == sha256_of_file(tiny_model_dir / "model.safetensors")
    assert info["data"]["servers"] == len(FLEET) and info["data"]["end"] == "2026-03-04T00:00:00Z"
    assert len(info["losses"]) == 2 and info["validation_loss"] == min(each["val_loss"] for each in info["losses"])
    assert info["losses"][1]["train_loss"] < info["losses"][0]["train_loss"]
    for metric in METRIC_COLUMNS:
        assert info["validation"][metric]["mae"] > 0 and 0 <= info["validation"][metric]["coverage"] <= 1


def test_the_same_seed_and_data_give_the_same_weights(
    fleet_file: Path, tiny_model_dir: Path, settings: Settings, tmp_path: Path
) -> None:
    again = load_file(train(fleet_file, tmp_path, settings, epochs=2) / "model.safetensors")
    first = load_file(tiny_model_dir / "model.safetensors")
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_progress_names_losses_learning_rate_and_remaining_time(
    fleet_file: Path, settings: Settings, tmp_path: Path
) -> None:
    screen = io.StringIO()
    train(fleet_file, tmp_path, settings, epochs=1, console=Console(file=screen, width=200))
    text = screen.getvalue()
    for part in ("Learning from 6 servers", "epoch 1/1", "train_loss", "val_loss", "lr ", "windows/s", "remaining"):
        assert part in text


def test_a_training_of_a_single_step_makes_a_model(fleet_file: Path, settings: Settings, tmp_path: Path) -> None:
    smallest = settings.model_copy(update={"windows_per_epoch": 1, "validation_windows": 1})
    assert load_model(train(fleet_file, tmp_path, smallest, epochs=1)).info["losses"][0]["epoch"] == 1


def test_a_metric_that_is_missing_throughout_is_learned_around(settings: Settings, tmp_path: Path) -> None:
    file = write_fleet(tmp_path / "f.parquet", make_fleet(FLEET[:3], hours=30).assign(latency_ms=np.nan))
    info = json.loads((train(file, tmp_path / "m", settings, epochs=1) / "training_info.json").read_text())
    assert info["validation"]["latency_ms"] is None and info["validation"]["cpu_pct"]["mae"] > 0


def test_neither_held_out_servers_nor_later_rows_reach_anything_that_is_learned(
    settings: Settings, tmp_path: Path
) -> None:
    names = ("ppweb001", "ppweb002", "ppweb003", "ppweb004", "ppweb005")
    frame = make_fleet(names, hours=40)
    until = frame["timestamp"].min() + pd.Timedelta(hours=32)
    unseen = Restrictions(until.to_pydatetime(), 0.2)
    small = settings.model_copy(update={"windows_per_epoch": 64, "validation_windows": 32})
    model = train(write_fleet(tmp_path / "1.parquet", frame), tmp_path / "1", small, epochs=1, restrictions=unseen)
    data = json.loads((model / "training_info.json").read_text())["data"]
    (held_out,) = data["unseen"]["held_out_servers"]
    assert data["unseen"]["until"] == data["end"] == "2026-03-03T16:00:00Z" and data["unseen"]["hold_out"] == 0.2
    assert data["servers"] == 4 and held_out not in load_model(model).encoder

    left = frame[(frame["server_name"] != held_out) & (frame["timestamp"] < until)]
    alone = train(write_fleet(tmp_path / "2.parquet", left), tmp_path / "2", small, epochs=1)
    for name in ("model.safetensors", "config.json", "server_mapping.json"):
        assert (alone / name).read_bytes() == (model / name).read_bytes(), name


# ----------------------------------------------------------------------------------------------------------- bad input
def test_one_server_with_three_rows_is_too_little_and_says_so(settings: Settings, tmp_path: Path) -> None:
    file = write_fleet(tmp_path / "f.parquet", make_fleet(("ppweb001",), hours=1).tail(3))
    with pytest.raises(TrainingError, match="too little history") as caught:
        train(file, tmp_path / "models", settings)
    assert "24 hours" in caught.value.fix
    assert not (tmp_path / "models").exists()


def test_missing_unreadable_and_invalid_data_are_refused_before_anything_is_written(
    settings: Settings, fleet_file: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    with pytest.raises(DataFileError, match="no Parquet data"):
        train(tmp_path / "absent.parquet", models, settings)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(fleet_file.read_bytes()[:5000])
    with pytest.raises(DataFileError, match="cannot be read"):
        train(cut, models, settings)
    hot = write_fleet(tmp_path / "hot.parquet", make_fleet(hours=2).assign(cpu_pct=140.0))
    with pytest.raises(ContractError, match="140"):
        train(hot, models, settings)
    assert not models.exists()


def test_resume_needs_an_interrupted_run_on_the_same_data(settings: Settings, fleet_file: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no interrupted training"):
        train(fleet_file, tmp_path, settings, resume=True)
    run = tmp_path / "runs" / "20260101_000000_000000"
    run.mkdir(parents=True)
    Run(run, 2, settings.model_dump(mode="json"), "other").note()
    with pytest.raises(TrainingError, match="not what the run"):
        train(fleet_file, tmp_path, settings, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_training_with_exit_1_and_it_can_be_resumed(
    fleet_file: Path, tmp_path: Path, number: signal.Signals
) -> None:
    environment = os.environ | {
        "TFT_HIDDEN_SIZE": "8",
        "TFT_ATTENTION_HEADS": "2",
        "TFT_ENCODER_PIECES": "3x12,12x1",
        "TFT_WINDOWS_PER_EPOCH": "512",
        "TFT_LEARNING_RATE": "0.1",  # a schedule of 500 epochs begins with a 25th of it
        "TFT_VALIDATION_WINDOWS": "64",
    }
    models = tmp_path / "models"
    command = [sys.executable, "tft_trainer.py", "--data", str(fleet_file), "--models-dir", str(models)]
    with subprocess.Popen(
        [*command, "--epochs", "500"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not list(models.glob("runs/*/last.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    for part in ("stopped by", "Why it matters", "--resume", "More information", "Docs/"):
        assert part in errors
    assert "Traceback" not in errors
    assert not (models / "latest").exists() and not list(models.glob("tft_model_*"))
    (run,) = models.glob("runs/*")
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, "epochs": 500}))
    resumed = subprocess.run(
        [*command, "--resume", "--max-time", "1s"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert resumed.returncode == 0, resumed.stderr
    (folder,) = models.glob("tft_model_*")
    assert load_model(models / "latest").name == folder.name


def test_a_full_disk_while_saving_leaves_nothing_half_written_and_can_be_resumed(
    fleet_file: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = tft_trainer.save_model
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def save_on_a_full_disk(*arguments: object, **more: object) -> Path:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # writing beyond this fails like a full disk
        try:
            return save(*arguments, **more)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    try:
        with monkeypatch.context() as patched, pytest.raises(TrainingError, match="could not be saved") as caught:
            patched.setattr(tft_trainer, "save_model", save_on_a_full_disk)
            train(fleet_file, tmp_path, settings, epochs=1)
    finally:
        signal.signal(signal.SIGXFSZ, before)
    assert "--resume" in caught.value.fix
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    assert train(fleet_file, tmp_path, settings, resume=True).is_dir()


def test_a_disk_that_is_full_from_the_start_is_told_without_a_traceback(
    fleet_file: Path, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(TrainingError, match="cannot write to") as caught:
        train(fleet_file, tmp_path / "models", settings, epochs=1)
    assert "--models-dir" in caught.value.fix


def test_a_loss_that_is_not_finite_stops_the_training_and_says_where(
    fleet_file: Path, settings: Settings, tmp_path: Path
) -> None:
    wild = settings.model_copy(update={"learning_rate": 1e18})
    with pytest.raises(TrainingError, match=r"loss is not finite any more, in epoch 1, batch \d+: .*cpu_pct nan"):
        train(fleet_file, tmp_path, wild, epochs=2)


def test_a_model_that_fails_the_quality_gate_is_kept_aside_with_the_reason(
    fleet_file: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_scores, "MAX_LOSS_RATIO", 0.01)
    with pytest.raises(TrainingError, match="quality gate"):
        train(fleet_file, tmp_path, settings, epochs=1)
    assert not (tmp_path / "latest").exists() and not list(tmp_path.glob("tft_model_*"))
    (rejected,) = (tmp_path / "rejected").iterdir()
    assert "0.01" in json.loads((rejected / "training_info.json").read_text())["quality"]["failures"][0]


def test_the_quality_gate_wants_a_falling_loss_and_no_learning_by_heart() -> None:
    def record(epoch: int, train_loss: float, val_loss: float) -> EpochRecord:
        return EpochRecord(epoch, train_loss, val_loss, 1e-3, 100.0, 1.0)

    assert judge_quality([record(1, 0.5, 0.5), record(2, 0.4, 0.45)])["failures"] == []
    assert "did not fall" in judge_quality([record(1, 0.5, 0.5), record(2, 0.6, 0.4)])["failures"][0]
    assert "1.75 times" in judge_quality([record(1, 0.5, 0.9), record(2, 0.4, 0.7)])["failures"][0]


def test_an_epoch_that_was_cut_short_is_not_judged_like_a_whole_one() -> None:
    whole = [EpochRecord(1, 0.5, 0.5, 1e-3, 100.0, 1.0), EpochRecord(2, 0.4, 0.45, 1e-3, 100.0, 1.0)]
    unlucky = EpochRecord(3, 0.9, 0.46, 1e-3, 100.0, 0.1, share=0.01)
    assert judge_quality([*whole, unlucky])["failures"] == []
    assert judge_quality([whole[0], unlucky])["failures"] == []  # one whole epoch cannot have fallen
    easy = EpochRecord(3, 0.1, 0.44, 1e-3, 100.0, 0.1, share=0.01)
    assert judge_quality([*whole, easy]) == {"validation_to_training_loss": 1.1, "failures": []}
    assert judge_quality([easy])["validation_to_training_loss"] == 4.4  # there is nothing else


# ------------------------------------------------------------------------------------------------- folders, checkpoints
def damaged(tiny_model_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / tiny_model_dir.name
    shutil.copytree(tiny_model_dir, folder)
    return folder


def rewrite_weights(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Exchange the weights and their checksum, so that only their content can be found fault with."""
    save_file(weights, folder / "model.safetensors")
    info = json.loads((folder / "training_info.json").read_text())
    info["weights_sha256"] = sha256_of_file(folder / "model.safetensors")
    (folder / "training_info.json").write_text(json.dumps(info))


def test_weights_that_do_not_fit_to_the_last_key_shape_dtype_and_value_are_refused(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    weights = load_file(tiny_model_dir / "model.safetensors")
    key = "lstm_encoder.weight_ih_l0"
    changes = {
        "missing": {k: v for k, v in weights.items() if k != key},
        "lacks": {**weights, "extra": torch.zeros(1)},
        "is (": {**weights, key: weights[key][:-1].clone()},
        "float64": {**weights, key: weights[key].double()},
        "finite": {**weights, key: torch.full_like(weights[key], float("nan"))},
    }
    for number, (part, changed) in enumerate(changes.items()):
        folder = damaged(tiny_model_dir, tmp_path / str(number))
        rewrite_weights(folder, changed)
        with pytest.raises(ModelFolderError) as caught:
            load_model(folder)
        assert part in caught.value.what, part


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hidden_size": 1_000_000}, "hidden_size is 1000000"),
        ({"attention_heads": 0}, "attention_heads is 0"),
        ({"attention_heads": 3}, "does not divide"),
        ({"lstm_layers": 10**9}, "lstm_layers is 1000000000"),
        ({"dropout": float("nan")}, "NaN"),
        ({"pieces": [[10**12, 1]]}, "pieces"),
        ({"patch": 7}, "patch is 7"),
        ({"lag_days": [1, 400]}, "lag_days"),
        ({"cycles": "yes"}, "cycles is 'yes'"),
        ({"quantiles": [0.1, 0.5, 0.9]}, "quantiles"),
        ({"states": ["healthy"]}, "profiles or states"),
        ({"prior_scale": [1.0, -1.0, 1.0, 1.0]}, "prior_scale"),
        ({"server_ids": [str(number) for number in range(100_000)]}, "server_ids are not those"),
        ({"model_version": "2.0.0"}, "model_version is '2.0.0'"),
    ],
)
def test_a_config_that_would_build_another_or_an_absurd_network_is_refused_before_it_is_built(
    change: dict, told: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = damaged(tiny_model_dir, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["network"], config["features"]):
        part |= {key: value for key, value in change.items() if key in part}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFolderError) as caught:
        load_model(folder)
    assert told in caught.value.what


def test_json_with_doubled_keys_huge_files_and_a_name_that_is_a_path_are_refused(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = damaged(tiny_model_dir, tmp_path / "twice")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"dropout"', '"hidden_size": 8,\n"dropout"'))
    with pytest.raises(ModelFolderError, match=r"holds \['hidden_size'\] twice"):
        load_model(folder)
    folder = damaged(tiny_model_dir, tmp_path / "name")
    info = json.loads((folder / "training_info.json").read_text())
    (folder / "training_info.json").write_text(json.dumps({**info, "model_name": "../../etc"}))
    with pytest.raises(ModelFolderError, match="model_name"):
        load_model(folder)
    for file, told in (("training_info.json", "larger than 256 MB"), ("model.safetensors", "larger than its")):
        folder = damaged(tiny_model_dir, tmp_path / file)
        if file.endswith("json"):
            os.truncate(folder / file, 300_000_000)
        else:
            weights = load_file(folder / file)
            rewrite_weights(folder, {**weights, "extra": torch.zeros(1_000_000)})
        with pytest.raises(ModelFolderError, match=told):
            load_model(folder)


def test_a_config_of_other_inputs_or_none_at_all_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    for number, change in enumerate(({"features": {}}, {"features": None}, {"network": {"hidden_size": "wide"}})):
        folder = damaged(tiny_model_dir, tmp_path / str(number))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ModelFolderError, match=r"config\.json"):
            load_model(folder)
    for part in ("reals", "anchors"):
        folder = damaged(tiny_model_dir, tmp_path / part)
        config = json.loads((folder / "config.json").read_text())
        config["features"][part].reverse()
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelFolderError, match="another version of this program"):
            load_model(folder)


def test_a_checkpoint_comes_back_as_it_was_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "last.safetensors"
    checkpoint = {
        "epoch": 3,
        "state_dict": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(5.0)}}, "param_groups": [{"betas": (0.9, 0.999)}]}],
        "best": float("inf"),
        "nothing": None,
    }
    save_checkpoint(checkpoint, file)
    back = load_checkpoint(file)
    assert torch.equal(back["state_dict"]["a"], checkpoint["state_dict"]["a"])
    assert back["optimizer_states"][0]["state"][0]["step"] == 5 and back["best"] == float("inf")
    assert back["optimizer_states"][0]["param_groups"][0]["betas"] == (0.9, 0.999) and back["nothing"] is None
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(TrainingError, match="cannot be read"):
        load_checkpoint(file)
    with pytest.raises(TypeError, match="must not hold"):
        save_checkpoint({"code": object()}, tmp_path / "x")
