"""Tests of benchmarks/gifteval.py: the protocol's scores, and that it is the published one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import gifteval

from data_validator import load_valid_frame

STEPS = 1200
REAL = os.environ.get("TFT_REAL_DATA")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Two servers of 100 and 20 MHz per percent, one of them with a gap."""
    rng = np.random.default_rng(0)
    times = pd.date_range("2026-01-01", periods=STEPS, freq="5min")
    parts = []
    for name, capacity in (("a", 100.0), ("b", 20.0)):
        percent = rng.uniform(1, 150, STEPS)
        percent[700:710] = np.nan
        rows = {"server_name": name, "timestamp": times, "cpu_pct": percent, "cpu_mhz": percent * capacity}
        parts.append(pd.DataFrame(rows))
    return pd.concat(parts, ignore_index=True)


def scored(task: gifteval.Task, shift: float) -> dict[str, float]:
    """Scores of the truth moved by so many percent of it, as every quantile."""
    for origin in task.origins():
        for name, series in task.series.items():
            point = np.nan_to_num(series[:, origin : origin + gifteval.HORIZON]) * (1 + shift)
            task.add(origin, name, np.repeat(point[..., None], len(gifteval.QUANTILES), axis=-1))
    return task.scores()


def test_the_truth_scores_nothing_and_a_shift_what_it_is(frame):
    assert scored(gifteval.Task(frame, STEPS), 0.0) == {
        "crps": 0.0, "mase": 0.0, "nd": 0.0, "coverage_p10_p90": 1.0, "crossed_steps": 0,
    }  # fmt: skip
    off = scored(gifteval.Task(frame, STEPS), 0.1)
    assert off["nd"] == pytest.approx(0.1, abs=1e-4)
    assert off["crps"] == pytest.approx(0.1, abs=1e-4)  # 2 · mean over q of (1 − q), which is ½
    assert off["coverage_p10_p90"] == 0.0 and off["mase"] > 0


def test_crossed_quantiles_are_counted_and_forecasts_that_are_not_finite_are_refused(frame):
    task = gifteval.Task(frame, STEPS)
    falling = np.broadcast_to(np.arange(9.0)[::-1], (2, gifteval.HORIZON, 9))
    task.add(task.first_label, "cpu_pct", falling)
    assert task.scores()["crossed_steps"] == 2 * gifteval.HORIZON
    with pytest.raises(SystemExit, match="not finite"):
        task.add(task.first_label, "cpu_pct", falling * np.nan)


def test_what_the_product_is_given_are_valid_contract_rows_and_the_capacity_is_found(frame, tmp_path):
    path = tmp_path / "server_metrics.parquet"
    gifteval.write_contract_rows(frame, path)
    rows = load_valid_frame(path)
    assert len(rows) == frame["cpu_pct"].notna().sum()
    assert rows["cpu_pct"].max() == pytest.approx(frame["cpu_pct"].max() / gifteval.CORES, rel=1e-5)
    np.testing.assert_allclose(gifteval._capacity(gifteval.Task(frame, STEPS)), [100.0, 20.0])


def test_the_published_figures_of_the_last_value_come_out():
    if not REAL:
        pytest.skip("TFT_REAL_DATA names no folder of real fleets")
    real = pd.read_parquet(Path(REAL) / gifteval.FILE)
    task = gifteval.Task(real, real["timestamp"].nunique())
    for origin in task.origins():
        for name, series in task.series.items():
            last = gifteval._last(series[:, :origin])
            shape = (len(last), gifteval.HORIZON, len(gifteval.QUANTILES))
            task.add(origin, name, np.broadcast_to(last[:, None, None], shape))
    scores = task.scores()
    assert scores["mase"] == pytest.approx(2.056, abs=2e-3) and scores["nd"] == pytest.approx(0.533, abs=2e-3)
