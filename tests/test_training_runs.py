"""Tests of training_runs.py: which weights become the model, on what a run goes on, checkpoints made by strangers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from config import Settings
from data_contract import TrainingError
from tft_trainer import train
from training_checkpoints import load_checkpoint, save_checkpoint
from training_runs import Run


def state(*losses: float, batch: int = 0) -> dict[str, Any]:
    """A training after epochs with these validation losses; its weights tell which one it is."""
    records = [
        {"epoch": number, "train_loss": loss, "val_loss": loss, "learning_rate": 1e-3, "seconds": 1.0}
        for number, loss in enumerate(losses, 1)
    ]
    return {
        "progress": {"epoch": len(losses), "batch": batch, "records": records},
        "weights": {"w": torch.tensor([-1.0])},
        "average": {"w": torch.tensor([losses[-1]])},
    }


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Run:
    begun = replace(Run.begin(tmp_path, settings, 9), fingerprint="data")
    begun.folder.mkdir(parents=True)
    return begun.note()


# --------------------------------------------------------------------------------------------------------- best weights
def test_the_best_weights_are_those_of_the_epoch_that_is_told(run: Run) -> None:
    run.save(state(0.5, 0.4), ("best", "last"))
    run.save(state(0.5, 0.4, 0.6), ("last",))
    assert torch.equal(run.best_weights(2, 0.4)["w"], torch.tensor([0.4]))


def test_a_best_checkpoint_of_an_epoch_that_went_another_way_becomes_no_model(run: Run) -> None:
    run.save(state(0.5, 0.4), ("last",))
    run.save(state(0.5, 0.4, 0.3), ("best",))  # killed before `last`, and never got there again
    assert torch.equal(run.best_weights(2, 0.4)["w"], torch.tensor([0.4]))
    run.save(state(0.5, 0.4, batch=3), ("last",))  # in the middle of the next epoch, so other weights
    with pytest.raises(TrainingError, match=r"best epoch, 2: best\.safetensors is of another state") as caught:
        run.best_weights(2, 0.4)
    assert "Remove" not in caught.value.fix
    run.save(state(0.5, 0.4), ("epoch-2",))
    assert torch.equal(run.best_weights(2, 0.4)["w"], torch.tensor([0.4]))


@pytest.mark.parametrize("content", [b"cut", None])
def test_a_best_checkpoint_that_is_damaged_or_missing_is_told_without_advice_to_remove_it(
    run: Run, content: bytes | None
) -> None:
    run.save(state(0.5, 0.4, 0.6), ("last",))
    if content is not None:
        (run.folder / "best.safetensors").write_bytes(content)
    with pytest.raises(TrainingError, match=r"best\.safetensors is missing or damaged") as caught:
        run.best_weights(2, 0.4)
    assert "Remove" not in caught.value.fix and "Restore best.safetensors" in caught.value.fix


# ------------------------------------------------------------------------------------------------------------- hardware
def test_a_run_goes_on_only_on_the_kind_of_device_and_in_the_precision_that_it_was_begun_with(run: Run) -> None:
    begun = run.on("cuda", "16-mixed")
    assert begun.on("cuda", "16-mixed") == begun
    for device, precision in (("cpu", "16-mixed"), ("cuda", "32-true")):
        with pytest.raises(TrainingError, match="was begun on cuda in 16-mixed") as caught:
            begun.on(device, precision)
        assert "--accelerator cuda --precision 16," in caught.value.fix


@pytest.fixture
def run_folder(begun: Path) -> Path:
    """Folder of the run that ended early."""
    (folder,) = (begun / "runs").iterdir()
    return folder


def test_device_and_precision_are_noted_and_others_refused_on_resume(
    run_folder: Path, fleet_file: Path, settings: Settings, tmp_path: Path
) -> None:
    content = json.loads((run_folder / "run.json").read_text())
    assert (content["device"], content["precision"]) == ("cpu", "32-true")
    for change in ({"device": "cuda"}, {"precision": "bf16-mixed"}):
        (run_folder / "run.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(TrainingError, match="was begun on"):
            train(fleet_file, tmp_path, settings, resume=True)


# ------------------------------------------------------------------------------------------------ checkpoints by others
@pytest.mark.parametrize("name", ["weights", "average"])
@pytest.mark.parametrize("weights", [[1, 2], "none", None, {"w": "text"}, {1: torch.zeros(1)}])
def test_a_checkpoint_whose_weights_are_none_is_refused(
    name: str, weights: Any, run_folder: Path, fleet_file: Path, settings: Settings, tmp_path: Path
) -> None:
    last = run_folder / "last.safetensors"
    save_checkpoint({**load_checkpoint(last), name: weights}, last)
    with pytest.raises(TrainingError, match="cannot be resumed"):
        train(fleet_file, tmp_path, settings, resume=True)


def test_a_checkpoint_whose_learning_rate_is_zero_is_refused(
    run_folder: Path, fleet_file: Path, settings: Settings, tmp_path: Path
) -> None:
    last = run_folder / "last.safetensors"
    content = load_checkpoint(last)
    save_checkpoint({**content, "progress": {**content["progress"], "rate": 0.0}}, last)
    with pytest.raises(TrainingError, match=r"cannot be resumed.*share of the learning rate"):
        train(fleet_file, tmp_path, settings, resume=True)


def test_the_model_tells_the_share_of_the_learning_rate_that_it_learned_with(
    run_folder: Path, fleet_file: Path, settings: Settings, tmp_path: Path
) -> None:
    content = json.loads((run_folder / "run.json").read_text())
    (run_folder / "run.json").write_text(json.dumps({**content, "rate": 0.1}))
    folder = train(fleet_file, tmp_path, settings, resume=True)
    told = json.loads((folder / "training_info.json").read_text())["hyperparameters"]
    assert told["learning_rate_share"] == 0.1 and told["learning_rate"] == settings.learning_rate
