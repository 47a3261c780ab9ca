"""Tests of training_loop.py and its helpers in memory: what estimating costs, one tensor for all weights, curves."""

from __future__ import annotations

import copy
import math
import runpy
from pathlib import Path

import pytest
import torch
from conftest import FLEET, make_fleet

from flat_weights import flatten_weights
from fleet_grid import FleetGrid
from tft_features import Augmentation, FeatureSpec, FleetTensors, typical_spread
from tft_model import NetworkConfig
from training_loop import Batch, EpochRecord, ForecastLoss, Plan, Training
from training_origins import split_origins
from training_processes import Processes
from training_windows import WindowBatches

ROOT = Path(__file__).parent.parent
USUAL = (1.0, 1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def windows() -> tuple[FeatureSpec, WindowBatches, WindowBatches]:
    grid = FleetGrid.from_frame(make_fleet(FLEET[:2], hours=40))
    spec = FeatureSpec(24, ("1", "2"), typical_spread(grid))
    fleet = FleetTensors.from_grid(grid, spec, ["1", "2"])
    split = split_origins(grid, 0.2)
    training = WindowBatches(fleet, spec, split.train, windows=96, batch_size=32, seed=1, augmentation=Augmentation())
    return spec, training, WindowBatches(fleet, spec, split.validation, windows=32, batch_size=32, seed=1)


def training_of(windows: tuple[FeatureSpec, WindowBatches, WindowBatches], epochs: int = 2) -> Training:
    spec, batches, validation = windows
    torch.manual_seed(0)
    plan = Plan(epochs=epochs, learning_rate=0.01, patience=99, seed=0)
    return Training(ForecastLoss(spec, NetworkConfig(8, 2), USUAL), batches, validation, plan, Processes.alone())


def test_estimating_the_time_changes_nothing(windows: tuple[FeatureSpec, WindowBatches, WindowBatches]) -> None:
    straight, estimated = training_of(windows), training_of(windows)
    assert 0 < estimated.expected_seconds() < math.inf
    straight.run()
    estimated.run()
    assert [each.val_loss for each in straight.progress.records] == [
        each.val_loss for each in estimated.progress.records
    ]
    weights = estimated.learner.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in straight.learner.state_dict().items())


def test_a_training_ends_when_it_is_told_to_after_an_epoch(
    windows: tuple[FeatureSpec, WindowBatches, WindowBatches],
) -> None:
    training, told = training_of(windows, epochs=9), []

    def after(record: EpochRecord) -> bool:
        told.append(record.epoch)
        return record.epoch == 2

    training.run(after_epoch=after)
    assert told == [1, 2]


def test_weights_in_one_tensor_learn_as_weights_in_many(
    windows: tuple[FeatureSpec, WindowBatches, WindowBatches],
) -> None:
    spec, batches, _ = windows
    torch.manual_seed(0)
    many = ForecastLoss(spec, NetworkConfig(8, 2, dropout=0.0), USUAL)
    one = copy.deepcopy(many)
    weights = [flatten_weights(one)], list(many.parameters())
    for learner, parameters in zip((one, many), weights, strict=True):
        optimizer = torch.optim.SGD(parameters, lr=0.1)  # Adam would blow up rounding where gradients are zero
        for drawn in batches:
            optimizer.zero_grad(set_to_none=False)
            learner(Batch(drawn)).sum().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
    for key, value in many.state_dict().items():
        torch.testing.assert_close(one.state_dict()[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("module", ["flat_weights", "loss_curve", "training_options"])
def test_self_checks_pass(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / f"{module}.py"), run_name="__main__")
    assert "All tests passed" in capsys.readouterr().out
