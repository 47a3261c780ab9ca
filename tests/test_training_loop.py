"""Tests of training_loop.py and its helpers in memory: what estimating costs, one tensor for all weights, curves."""

from __future__ import annotations

import copy
import math
import runpy
from pathlib import Path

import pytest
import torch
from conftest import FLEET, make_fleet

from data_contract import METRIC_COLUMNS
from flat_weights import flatten_weights
from fleet_grid import FleetGrid
from fleet_spreads import typical_spread
from model_inputs import Layout
from tft_features import Augmentation, FeatureSpec, FleetTensors
from tft_model import NetworkConfig
from training_loop import Batch, EpochRecord, ForecastLoss, LossNotFiniteError, Plan, StopRequest, Training
from training_options import Hardware
from training_origins import split_origins
from training_processes import Processes, ProcessLostError
from training_windows import WindowBatches

ROOT = Path(__file__).parent.parent
USUAL = (1.0, 1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def windows() -> tuple[FeatureSpec, WindowBatches, WindowBatches]:
    grid = FleetGrid.from_frame(make_fleet(FLEET[:2], hours=40))
    spec = FeatureSpec(Layout(((24, 1),)), ("1", "2"), typical_spread(grid))
    fleet = FleetTensors.from_grid(grid, spec, ["1", "2"])
    split = split_origins(grid, 0.2)
    training = WindowBatches(fleet, spec, split.train, windows=96, batch_size=32, seed=1, augmentation=Augmentation())
    return spec, training, WindowBatches(fleet, spec, split.validation, windows=32, batch_size=32, seed=1)


def training_of(
    windows: tuple[FeatureSpec, WindowBatches, WindowBatches],
    epochs: int = 2,
    seed: int = 0,
    processes: Processes | None = None,
) -> Training:
    spec, batches, validation = windows
    torch.manual_seed(0)
    plan = Plan(epochs=epochs, learning_rate=0.01, patience=99, seed=seed)
    learner = ForecastLoss(spec, NetworkConfig(8, 2), USUAL)
    return Training(learner, batches, validation, plan, processes or Processes.alone())


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


def test_the_mean_of_the_weights_is_what_is_validated_and_kept(
    windows: tuple[FeatureSpec, WindowBatches, WindowBatches],
) -> None:
    training, validation = training_of(windows), windows[2]
    training.run()
    kept = training.state()
    assert not torch.equal(kept["average"]["output_layer.0.weight"], kept["weights"]["output_layer.0.weight"])
    judge = training_of(windows).learner
    judge.network.load_state_dict(kept["average"])
    judge.eval()
    with torch.no_grad():
        losses = [(judge(Batch(each)).sum(), torch.isfinite(each.labels).sum()) for each in validation]
    loss, known = (sum(float(pair[k]) for pair in losses) for k in (0, 1))
    assert training.progress.records[-1].val_loss == pytest.approx(loss / known, rel=1e-5)

    other = training_of(windows, seed=5)  # goes on from both
    other.load_state(kept)
    again = other.state()
    for part in ("weights", "average"):
        assert all(torch.equal(value, again[part][name]) for name, value in kept[part].items())


def test_a_training_ends_when_it_is_told_to_after_an_epoch(
    windows: tuple[FeatureSpec, WindowBatches, WindowBatches],
) -> None:
    training, told = training_of(windows, epochs=9), []

    def after(record: EpochRecord) -> bool:
        told.append(record.epoch)
        return record.epoch == 2

    training.run(after_epoch=after)
    assert told == [1, 2]


def test_a_gradient_that_is_not_finite_under_a_finite_loss_stops_before_it_spoils_the_weights(
    windows: tuple[FeatureSpec, WindowBatches, WindowBatches],
) -> None:
    training = training_of(windows)
    next(training.learner.network.parameters()).register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(LossNotFiniteError) as caught:
        training.run()
    assert (caught.value.epoch, caught.value.batch) == (1, 1)
    told = caught.value.told("Kept.").what
    assert "The gradient of the loss is not finite any more, in epoch 1, batch 1: nan, while" in told
    assert any(f"{metric} has the largest loss" in told for metric in METRIC_COLUMNS)
    assert all(bool(torch.isfinite(value).all()) for value in training.state()["weights"].values())


def test_a_process_that_is_lost_in_the_forward_pass_is_told_as_such() -> None:
    class Broken(torch.nn.Module):
        def forward(self, batch: object) -> torch.Tensor:
            raise RuntimeError(f"[gloo/transport/tcp/pair.cc] Connection closed by peer, at {batch}")

    with pytest.raises(ProcessLostError):
        Processes.alone().forward(Broken(), "batch 1")


def test_the_largest_seed_is_learned_with(windows: tuple[FeatureSpec, WindowBatches, WindowBatches]) -> None:
    training = training_of(windows, epochs=1, seed=2**63 - 1)
    training.run()
    assert training.progress.step == 3


def test_the_time_is_estimated_in_the_precision_of_the_training(
    windows: tuple[FeatureSpec, WindowBatches, WindowBatches],
) -> None:
    seen: set[tuple[bool, bool]] = set()
    training = training_of(windows, processes=Processes(Hardware("cpu", precision="bf16")))
    training.learner.register_forward_pre_hook(
        lambda module, _: seen.add((module.training, torch.is_autocast_enabled("cpu")))
    )
    training.measure(0.01)
    assert seen == {(True, True), (False, True)}


def test_an_epoch_that_is_cut_short_says_how_much_of_it_there_was(
    windows: tuple[FeatureSpec, WindowBatches, WindowBatches],
) -> None:
    spec, batches, validation = windows
    plan = Plan(epochs=9, learning_rate=0.01, patience=99, seed=0)
    learner = ForecastLoss(spec, NetworkConfig(8, 2), USUAL)
    training = Training(learner, batches, validation, plan, Processes.alone(), stop=StopRequest(max_seconds=0.0))
    training.run()
    assert [record.share for record in training.progress.records] == [1 / 3]


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_state_whose_learning_rate_is_none_is_refused(
    rate: float, windows: tuple[FeatureSpec, WindowBatches, WindowBatches]
) -> None:
    state = training_of(windows).state()
    state["progress"]["rate"] = rate
    with pytest.raises(ValueError, match="share of the learning rate"):
        training_of(windows).load_state(state)


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
