"""Tests of tft_cycles.py: periods that nobody has named, and what they say of the horizon."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contract import DAY_STEPS, HORIZON_STEPS
from tft_cycles import CYCLE_STEPS, LONGEST, SHORTEST, last_cycle

LENGTH = CYCLE_STEPS + HORIZON_STEPS


def of(series: np.ndarray) -> tuple[np.ndarray, float]:
    """What `last_cycle` says of the past of one series."""
    past = torch.from_numpy(series[:CYCLE_STEPS].astype(np.float32))[None, :, None]
    values, strength = last_cycle(past)
    assert values.shape == (1, HORIZON_STEPS, 1) and strength.shape == (1, 1)
    return values[0, :, 0].numpy(), float(strength)


def jobs(period: int, busy: int) -> np.ndarray:
    """A job of `busy` steps that begins every `period` steps."""
    return (np.arange(LENGTH) % period < busy) * 4.0


@pytest.mark.parametrize(("period", "busy"), [(SHORTEST, 2), (12, 3), (23, 15), (36, 4), (100, 30), (DAY_STEPS, 20)])
def test_a_job_that_comes_again_and_again_is_forecast_to_the_step(period, busy):
    series = jobs(period, busy)
    values, strength = of(series)
    np.testing.assert_array_equal(values, series[CYCLE_STEPS:].astype(np.float32))
    assert strength > 0.95


def test_a_nightly_job_that_begins_later_every_night_is_followed():
    series = jobs(DAY_STEPS + 4, 20)
    values, strength = of(series)
    np.testing.assert_array_equal(values, series[CYCLE_STEPS:].astype(np.float32))
    assert strength > 0.95


def test_noise_and_gaps_do_not_hide_a_period():
    rng = np.random.default_rng(1)
    clean = jobs(30, 8)
    series = clean + rng.normal(0, 0.5, LENGTH)
    series[rng.random(LENGTH) < 0.1] = np.nan
    values, strength = of(series)
    assert 0.5 < strength < 1
    assert np.nanmean(np.abs(values - clean[CYCLE_STEPS:])) < 1 < np.abs(clean.mean() - clean[CYCLE_STEPS:]).mean()


@pytest.mark.parametrize(
    "series",
    [np.full(LENGTH, 3.0), np.full(LENGTH, np.nan), np.arange(LENGTH) / 100.0],
    ids=["still", "never measured", "rising"],
)
def test_without_a_period_it_is_the_day_before(series):
    values, strength = of(series)
    assert strength == 0
    np.testing.assert_array_equal(values, series[CYCLE_STEPS - DAY_STEPS :][:HORIZON_STEPS].astype(np.float32))


def test_metrics_and_servers_have_periods_of_their_own():
    rows = np.stack([np.stack([jobs(20, 5), jobs(33, 9)], axis=-1), np.stack([jobs(48, 3), jobs(7, 2)], axis=-1)])
    values, _ = last_cycle(torch.from_numpy(rows[:, :CYCLE_STEPS].astype(np.float32)))
    np.testing.assert_array_equal(values.numpy(), rows[:, CYCLE_STEPS:].astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), missing=st.floats(0, 1), height=st.floats(1e-3, 12))
def test_whatever_is_measured_the_answer_is_of_the_past_and_a_correlation(seed, missing, height):
    rng = np.random.default_rng(seed)
    series = rng.normal(0, height, LENGTH)
    series[rng.random(LENGTH) < missing] = np.nan
    values, strength = of(series)
    assert 0 <= strength <= 1
    last = series[CYCLE_STEPS - LONGEST : CYCLE_STEPS].astype(np.float32)
    assert np.isin(values[np.isfinite(values)], last).all()
