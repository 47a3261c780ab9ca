"""Tests of trainings that end early: signals, kills, full disks, damaged and foreign checkpoints, and going on."""

from __future__ import annotations

import copy
import csv
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from conftest import FLEET, FLEET_END, make_fleet, write_fleet
from PIL import Image

import training_runs
from common_utils import sha256_of_file
from config import Settings
from data_contract import TrainingError
from model_folder import load_model
from tft_trainer import train
from training_checkpoints import load_checkpoint, save_checkpoint
from training_loop import LossNotFiniteError
from training_options import Restrictions
from training_runs import Run, interrupted_run, restarted_run

HERE = Path(__file__).parent
SHAPE = (
    "hidden_size",
    "attention_heads",
    "encoder_pieces",
    "decoder_patch",
    "batch_size",
    "windows_per_epoch",
    "validation_windows",
)


def run_training(
    data: Path, models: Path, settings: Settings, *options: str, at: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, with the settings of the tests, sent signals `at` given batches."""
    told = {f"TFT_{key.upper()}": str(getattr(settings, key)) for key in (*SHAPE, "learning_rate", "dropout")}
    command = [sys.executable, str(HERE / "stopped_training.py"), *at, "train"]
    return subprocess.run(
        [*command, "--data", str(data), "--models-dir", str(models), *options],
        cwd=HERE.parent,
        env=os.environ | told | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def weights_of(folder: Path) -> str:
    return sha256_of_file(folder / "model.safetensors")


def the_run(models: Path) -> Path:
    (run,) = (models / "runs").iterdir()
    return run


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Writing beyond this fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


# ------------------------------------------------------------------------------------------------------------- stopping
@pytest.mark.slow
def test_a_training_stopped_in_an_epoch_and_in_validation_ends_with_the_very_same_weights(
    fleet_file: Path, tiny_model_dir: Path, settings: Settings, tmp_path: Path
) -> None:
    stopped = run_training(fleet_file, tmp_path, settings, "--epochs", "2", at=("training:1:3:SIGTERM",))
    assert stopped.returncode == 1 and "Traceback" not in stopped.stderr, stopped.stderr
    assert "stopped by SIGTERM in epoch 2 of 2, after 4 batches" in stopped.stderr
    for part in ("Why it matters", "--resume", "Docs/TRAINING.md", "Expected: about", "on this machine (cpu, "):
        assert part in stopped.stderr
    assert not (tmp_path / "latest").exists()
    progress = load_checkpoint(the_run(tmp_path) / "last.safetensors")["progress"]
    assert (progress["epoch"], progress["batch"], progress["step"]) == (1, 4, 12)

    again = run_training(fleet_file, tmp_path, settings, "--resume", at=("validation:1:1:SIGINT",))
    assert again.returncode == 1 and "stopped by SIGINT" in again.stderr, again.stderr
    assert "Going on in epoch 2, batch 5" in again.stderr
    assert load_checkpoint(the_run(tmp_path) / "last.safetensors")["progress"]["batch"] == 8

    otherwise = settings.model_copy(update={"windows_per_epoch": 999, "hidden_size": 16, "encoder_pieces": "30x1"})
    folder = train(fleet_file, tmp_path, otherwise, epochs=9, resume=True)  # goes on as it was begun all the same
    assert weights_of(folder) == weights_of(tiny_model_dir)
    info, straight = (json.loads((each / "training_info.json").read_text()) for each in (folder, tiny_model_dir))
    for key in ("train_loss", "val_loss", "learning_rate", "epoch"):
        assert [each[key] for each in info["losses"]] == [each[key] for each in straight["losses"]]
    assert info["validation"] == straight["validation"]
    with pytest.raises(TrainingError, match="no interrupted training"):
        train(fleet_file, tmp_path, settings, resume=True)


@pytest.mark.slow
def test_a_signal_before_and_after_learning_is_told_and_leaves_no_grid_behind(
    fleet_file: Path, settings: Settings, tmp_path: Path
) -> None:
    # While the time is estimated, and while the model is judged.
    moments = ("validation:0:0:SIGTERM", "validation:2:0:SIGHUP")
    for moment in moments:
        name = moment.rpartition(":")[2]
        models = tmp_path / name
        stopped = run_training(fleet_file, models, settings, "--epochs", "1", at=(moment,))
        assert stopped.returncode == 1 and "Traceback" not in stopped.stderr, stopped.stderr
        assert f"stopped by {name}" in stopped.stderr and "--resume" in stopped.stderr
        assert not (the_run(models) / "grid").exists() and not (models / "latest").exists()
    assert train(fleet_file, models, settings, resume=True).is_dir()


@pytest.mark.slow
def test_a_killed_training_loses_only_what_lies_since_the_last_checkpoint(
    fleet_file: Path, tiny_model_dir: Path, settings: Settings, tmp_path: Path
) -> None:
    every_batch = {"TFT_CHECKPOINT_MINUTES": "1e-9"}
    killed = run_training(fleet_file, tmp_path, settings, "--epochs", "2", at=("training:1:6:SIGKILL",), **every_batch)
    assert killed.returncode == -signal.SIGKILL
    assert load_checkpoint(the_run(tmp_path) / "last.safetensors")["progress"]["batch"] == 6
    assert weights_of(train(fleet_file, tmp_path, settings, resume=True)) == weights_of(tiny_model_dir)


@pytest.mark.slow
def test_a_training_killed_before_its_first_checkpoint_begins_anew_on_resume(
    fleet_file: Path, tiny_model_dir: Path, settings: Settings, tmp_path: Path
) -> None:
    killed = run_training(fleet_file, tmp_path, settings, "--epochs", "2", at=("training:0:2:SIGKILL",))
    assert killed.returncode == -signal.SIGKILL
    assert not list(the_run(tmp_path).glob("*.safetensors"))
    assert weights_of(train(fleet_file, tmp_path, settings, resume=True)) == weights_of(tiny_model_dir)


def test_time_that_is_up_ends_a_training_with_a_model(fleet_file: Path, settings: Settings, tmp_path: Path) -> None:
    folder = train(fleet_file, tmp_path, settings, epochs=500, max_seconds=0.001)
    info = load_model(folder).info
    assert len(info["losses"]) == 1 and info["hyperparameters"]["epochs"] == 500


# -------------------------------------------------------------------------------------------------------------- records
def test_a_run_keeps_its_losses_as_a_table_and_as_a_picture(tiny_model_dir: Path) -> None:
    run = the_run(tiny_model_dir.parent)
    with (run / "losses.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    info = json.loads((tiny_model_dir / "training_info.json").read_text())
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert [float(row["val_loss"]) for row in rows] == [each["val_loss"] for each in info["losses"]]
    with Image.open(run / "losses.png") as picture:
        colours = picture.getcolors(1 << 16)
        assert picture.format == "PNG" and colours is not None and len(colours) > 5
    assert sorted(path.name for path in run.iterdir()) == [
        *("best.safetensors", "last.safetensors", "losses.csv", "losses.png", "run.json", "run.lock")
    ]


def test_a_picture_that_cannot_be_drawn_stops_no_training(
    fleet_file: Path, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    smallest = settings.model_copy(update={"windows_per_epoch": 32, "validation_windows": 32})
    run = Run.begin(tmp_path, smallest, 1)
    (run.folder / "losses.png").mkdir(parents=True)  # no file can take its place
    run.note()
    assert train(fleet_file, tmp_path, smallest, resume=True).is_dir()
    assert "picture" in caplog.text


# ----------------------------------------------------------------------------------------------------------- full disks
def test_a_disk_full_at_epoch_7_keeps_what_was_saved_and_the_training_goes_on_once_there_is_room(
    fleet_file: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = settings.model_copy(
        update={"windows_per_epoch": 64, "validation_windows": 32, "early_stopping_patience": 99}
    )
    straight = weights_of(train(fleet_file, tmp_path / "straight", short, epochs=8))
    save = training_runs.save_checkpoint

    def save_on_a_disk_full_at_epoch_7(checkpoint: dict, *paths: Path) -> None:
        with files_limited_to(20_000 if checkpoint["progress"]["epoch"] == 7 else 1 << 30):
            save(checkpoint, *paths)

    models = tmp_path / "models"
    with monkeypatch.context() as patched, pytest.raises(TrainingError, match="could not be saved") as caught:
        patched.setattr(training_runs, "save_checkpoint", save_on_a_disk_full_at_epoch_7)
        train(fleet_file, models, short, epochs=8)
    assert "--resume" in caught.value.fix
    run = the_run(models)
    assert {path.name for path in run.iterdir()} >= {"best.safetensors", "last.safetensors", "epoch-5.safetensors"}
    assert load_checkpoint(run / "last.safetensors")["progress"]["epoch"] == 6
    assert weights_of(train(fleet_file, models, short, resume=True)) == straight


# ----------------------------------------------------------------------------------------------- what cannot be resumed
def test_a_run_of_another_contract_or_model_version_or_with_other_inputs_is_refused_by_name(
    begun: Path, fleet_file: Path, settings: Settings
) -> None:
    file = the_run(begun) / "run.json"
    content = json.loads(file.read_text())
    changes = {
        "contract version '0.9.0', this program follows 1.0.0": {"contract_version": "0.9.0"},
        "model version '2.0.0', this program follows 3.0.0": {"model_version": "2.0.0"},
        "other inputs of the network": {"inputs": {"reals": ["cpu_pct"]}},
    }
    for told, change in changes.items():
        file.write_text(json.dumps({**content, **change}))
        with pytest.raises(TrainingError, match=told):
            train(fleet_file, begun, settings, resume=True)
    file.write_text(json.dumps({**content, "settings": {**content["settings"], "hidden_size": 7}}))
    with pytest.raises(TrainingError, match="its settings are not valid"):
        train(fleet_file, begun, settings, resume=True)
    file.write_text(json.dumps({**content, "settings": {**content["settings"], "hidden_size": 16}}))
    with pytest.raises(TrainingError, match="does not fit the network"):
        train(fleet_file, begun, settings, resume=True)


def test_a_checkpoint_of_another_version_is_refused_and_a_damaged_one_can_be_removed(
    begun: Path, fleet_file: Path, settings: Settings
) -> None:
    last = the_run(begun) / "last.safetensors"
    state = load_checkpoint(last)
    for change in ({"contract_version": "0.9.0"}, {"model_version": "2.0.0"}, {"fingerprint": "other"}):
        save_checkpoint({**state, **change}, last)
        with pytest.raises(TrainingError, match=r"was made for|not what the run"):
            train(fleet_file, begun, settings, resume=True)
    save_checkpoint({key: value for key, value in state.items() if key != "schedule"}, last)
    with pytest.raises(TrainingError, match="cannot be resumed"):
        train(fleet_file, begun, settings, resume=True)
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="cannot be read") as caught:
        train(fleet_file, begun, settings, resume=True)
    assert "Remove that file" in caught.value.fix
    last.unlink()
    assert train(fleet_file, begun, settings, resume=True).is_dir()


def test_a_run_that_is_at_work_elsewhere_is_left_alone_and_so_is_its_grid(
    begun: Path, fleet_file: Path, settings: Settings
) -> None:
    with interrupted_run(begun).at_work():
        grid = the_run(begun) / "grid" / "values.npy"
        grid.parent.mkdir()
        grid.touch()
        with pytest.raises(TrainingError, match="at work in another process"):
            train(fleet_file, begun, settings, resume=True)
        with Run.begin(begun, settings, 1).at_work():  # a new one beside it
            assert grid.is_file()
        assert grid.is_file()
    assert not grid.parent.exists()


def test_a_restart_goes_on_with_the_run_of_its_own_launch_alone(
    begun: Path, fleet_file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = settings.model_copy(update={"windows_per_epoch": 64, "validation_windows": 32})
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in {**launched, "TORCHELASTIC_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    older = the_run(begun)
    with pytest.raises(TrainingError, match="cannot be told"):  # nobody gave the launch a name
        train(fleet_file, begun, short, epochs=1)

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "this launch")
    train(fleet_file, begun, short, epochs=1)
    notes = {run: json.loads((run / "run.json").read_text()) for run in (begun / "runs").iterdir()}
    assert len(notes) == 2 and notes.pop(older)["model"] is None
    ((own, note),) = notes.items()
    assert note["launch"] == "this launch" and note["model"] is not None
    with pytest.raises(TrainingError, match=r"had ended: the run .* became"):  # rejected or not
        train(fleet_file, begun, short, epochs=1)
    Run(own, 1, note["settings"], note["fingerprint"], launch="this launch").note()
    found = restarted_run(begun, "this launch")
    assert found is not None and found.folder == own
    assert interrupted_run(begun).folder == own  # the newest


def test_what_a_killed_training_has_read_is_removed_by_the_next_one(begun: Path, settings: Settings) -> None:
    unread = begun / "runs" / "20260101_000000_000000"
    for run in (the_run(begun), unread):
        (run / "grid").mkdir(parents=True)
        (run / "grid" / "values.npy").touch()
    with Run.begin(begun, settings, 1).at_work():
        assert not list(begun.glob("runs/*/grid"))
    assert the_run(begun) != unread  # of which nothing is left


def test_after_a_loss_that_is_not_finite_resume_goes_on_more_slowly_from_the_last_good_checkpoint(
    begun: Path, fleet_file: Path, settings: Settings
) -> None:
    run = the_run(begun)
    good = load_checkpoint(run / "last.safetensors")
    poisoned = {key: value.clone() for key, value in good["weights"].items()}
    poisoned["output_layer.2.weight"].fill_(float("inf"))
    save_checkpoint({**good, "weights": poisoned}, run / "last.safetensors")
    with pytest.raises(TrainingError, match="not finite") as caught:
        train(fleet_file, begun, settings, resume=True)
    assert "holds values" in caught.value.what  # weights that are not finite are refused as such

    wild = copy.deepcopy(good)
    for group in wild["optimizer"]["param_groups"]:
        group |= {key: value * 1e30 for key, value in group.items() if key in ("lr", "max_lr", "initial_lr", "min_lr")}
    save_checkpoint(wild, run / "last.safetensors")
    with pytest.raises(TrainingError, match=r"not finite any more, in epoch 2, batch 2: .*disk_io_mb_s") as caught:
        train(fleet_file, begun, settings, resume=True)
    assert "last.safetensors" in caught.value.why and "0.1 times the learning rate" in caught.value.fix
    assert json.loads((run / "run.json").read_text())["rate"] == 0.1
    save_checkpoint(good, run / "last.safetensors")
    folder = train(fleet_file, begun, settings, resume=True)
    rates = [each["learning_rate"] for each in json.loads((folder / "training_info.json").read_text())["losses"]]
    assert rates[1] < rates[0]


def test_a_loss_that_is_not_finite_names_batch_and_metrics() -> None:
    told = LossNotFiniteError(3, 17, ["cpu_pct nan", "latency_ms inf"]).told("Kept.")
    assert "epoch 3, batch 17: cpu_pct nan, latency_ms inf" in told.what and "Kept." in told.why


def test_a_resumed_run_goes_on_not_seeing_what_it_was_begun_without(settings: Settings, tmp_path: Path) -> None:
    file = write_fleet(tmp_path / "f.parquet", make_fleet(("ppweb001", "ppweb002", "ppweb003"), hours=36))
    unseen = Restrictions(FLEET_END - timedelta(hours=4), 0.34)
    small = settings.model_copy(update={"windows_per_epoch": 64, "validation_windows": 32})
    gone = settings.model_copy(update={"windows_per_epoch": 64, "validation_windows": 32, "learning_rate": 1e18})
    with pytest.raises(TrainingError, match="not finite"):
        train(file, tmp_path, gone, epochs=1, restrictions=unseen)
    note = json.loads((the_run(tmp_path) / "run.json").read_text())
    assert (note["until"], note["hold_out"]) == ("2026-03-03T20:00:00Z", 0.34)
    with pytest.raises(TrainingError, match=r"begun with --until 2026-03-03T20:00:00Z --hold-out-servers 0.34"):
        train(file, tmp_path, small, resume=True, restrictions=Restrictions(hold_out=0.2))

    note["settings"]["learning_rate"] = 0.01
    (the_run(tmp_path) / "run.json").write_text(json.dumps(note))
    data = load_model(train(file, tmp_path, small, resume=True)).info["data"]
    assert (data["servers"], data["end"]) == (2, "2026-03-03T20:00:00Z")
    straight = train(file, tmp_path / "straight", small, epochs=1, restrictions=unseen)
    assert load_model(straight).info["data"] == data


@pytest.mark.parametrize("until", ["soon", 5, [], "2026-03-03T20:00:00+99:00"])
def test_a_run_whose_restrictions_are_none_is_no_run(begun: Path, until: object) -> None:
    note = json.loads((the_run(begun) / "run.json").read_text())
    (the_run(begun) / "run.json").write_text(json.dumps({**note, "until": until}))
    with pytest.raises(TrainingError, match="no interrupted training"):
        interrupted_run(begun)


@pytest.mark.parametrize("case", ["one server", "one profile", "constant", "missing"])
def test_odd_but_valid_fleets_are_learned(case: str, settings: Settings, tmp_path: Path) -> None:
    names = {"one server": FLEET[:1], "one profile": ("ppweb001", "ppweb002")}.get(case, FLEET[:3])
    frame = make_fleet(names, hours=30)
    if case == "constant":
        frame["latency_ms"] = 20.0
    elif case == "missing":
        frame["latency_ms"] = float("nan")
    file = write_fleet(tmp_path / "f.parquet", frame)
    info = load_model(train(file, tmp_path / "m", settings, epochs=1)).info
    assert info["data"]["servers"] == len(names)
    assert (info["validation"]["latency_ms"] is None) == (case == "missing")
    assert torch.isfinite(torch.tensor(info["validation_loss"]))
