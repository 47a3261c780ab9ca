"""Tests of the benchmarks of training and inference: they run, and both sides see the same windows and the future."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_contract import HORIZON_STEPS, METRIC_COLUMNS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import bench_training
import stock

ROOT = Path(__file__).resolve().parent.parent

TRAINING_KEYS = {
    "ratio_vs_stock",
    "train_samples_per_s",
    "stock_samples_per_s",
    "ratio_vs_stock_step",
    "ms_gather",
    "stock_best_loss",
    "seconds_stock",
}
# The product need not be better after a few batches of eight windows: then these are null.
CROSSING_KEYS = {"ratio_time_to_stock_best_loss", "seconds_ours", "epochs_ours"}
INFERENCE_KEYS = {
    "ms_3_servers",
    "s_7_servers",
    "ratio_vs_stock_7_servers",
    "stock_ms_7_servers",
    "ratio_vs_stock_forward",
    "cost_per_server_7_to_3",
    "peak_mb_7_servers",
    "growth_mb_7_servers",
}


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks" / script), "--tiny", "--json", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def figures():
    """Last lines of both benchmarks, which run at the same time."""
    started = {"training": start("bench_training.py", "--epochs", "1"), "inference": start("bench_inference.py")}
    try:
        printed = {name: process.communicate(timeout=300)[0] for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
    assert all(process.returncode == 0 for process in started.values())
    return {name: json.loads(text.splitlines()[-1]) for name, text in printed.items()}


@pytest.fixture(scope="module")
def problem() -> bench_training.Problem:
    return bench_training.Problem(bench_training.TINY)


def test_the_benchmark_of_training_tells_its_figures(figures):
    told = figures["training"]
    assert told.keys() >= TRAINING_KEYS | CROSSING_KEYS
    assert all(math.isfinite(told[key]) and told[key] > 0 for key in TRAINING_KEYS)
    assert len({told[key] is None for key in CROSSING_KEYS}) == 1


def test_the_benchmark_of_inference_tells_its_figures(figures):
    told = figures["inference"]
    assert told.keys() >= INFERENCE_KEYS
    assert all(math.isfinite(told[key]) and told[key] > 0 for key in INFERENCE_KEYS)


def test_both_sides_are_scored_on_the_same_truth(problem):
    _, theirs = stock.stock_quantiles(a_network(problem), problem.stock_validation)
    ours = np.concatenate(
        [part.scale.units(part.labels[..., None])[..., 0].numpy() for part in problem.windows], axis=0
    )
    assert theirs.shape == ours.shape == (bench_training.TINY.validation, HORIZON_STEPS, len(METRIC_COLUMNS))
    np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-4, atol=1e-3)


def test_the_common_loss_is_zero_for_the_truth_and_the_same_for_a_shift_up_as_for_one_down(problem):
    n_quantiles = len(problem.spec.quantiles)
    exact = problem.truth[..., None].expand(-1, -1, -1, n_quantiles)
    assert problem.losses(exact) == pytest.approx({"scaled": 0.0, "spreads": 0.0}, abs=1e-6)
    up, down = (problem.losses(exact + step)["spreads"] for step in (0.5, -0.5))
    assert up == pytest.approx(down, rel=1e-3)
    assert up == pytest.approx(0.25 * float(np.mean(1 / np.array(problem.spreads))), rel=1e-3)


def test_the_other_side_reads_as_many_variables_as_the_network_of_the_product(problem):
    read = a_network(problem).hparams
    assert len(read.static_reals) == len(stock.LAYOUT.static_reals)
    assert len(read.time_varying_reals_encoder) == len(stock.LAYOUT.encoder_reals)
    assert len(read.time_varying_reals_decoder) == len(stock.LAYOUT.decoder_reals)
    assert len(read.static_categoricals) == 2 and len(read.time_varying_categoricals_encoder) == 1


def test_the_other_side_forecasts_the_future_of_every_server_in_order(problem):
    history = problem.grid.since(problem.grid.origin_step - stock.HISTORY_STEPS)
    windows = stock.future_windows(problem.stock_training, stock.stock_frame(history, future=True))
    index = windows.decoded_index
    assert tuple(index["server_id"]) == problem.grid.names
    assert (index["time_idx_first_prediction"] == history.n_steps).all()


def a_network(problem: bench_training.Problem):
    return stock.stock_network(
        problem.stock_training, problem.spreads, bench_training.NetworkConfig(), stock.StockSettings()
    )
