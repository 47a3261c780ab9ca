"""How statsforecast's models are asked in a Python of their own, and what is said where there is none."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import baseline_classical
from baseline_classical import PYTHON_VARIABLE, ClassicalPoints, unavailable
from baseline_statsforecast import forecast_all
from baselines import BASELINES
from data_contract import TrainingError
from fleet_grid import DAY_STEPS, N_METRICS


@pytest.fixture
def no_statsforecast(monkeypatch, tmp_path):
    """A named Python that is none."""
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "python"))


def past(n: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(40, 60, (n, 8 * DAY_STEPS, N_METRICS)).astype(np.float32)


@pytest.mark.parametrize("name", ["auto_ets", "auto_theta"])
def test_without_statsforecast_the_reason_and_the_remedy_are_told(name, no_statsforecast):
    reason = BASELINES[name].unavailable()
    assert PYTHON_VARIABLE in reason and "make baselines" in reason
    assert BASELINES[name].package == "statsforecast" and BASELINES[name].slow


def test_asking_without_statsforecast_is_an_error_that_says_what_to_do(no_statsforecast):
    with pytest.raises(TrainingError, match="AutoETS") as refused:
        ClassicalPoints("AutoETS", 1, DAY_STEPS)(past())
    assert "make baselines" in refused.value.fix


def test_a_worker_that_ends_at_once_is_an_error(monkeypatch):
    monkeypatch.setattr(baseline_classical, "python_with_statsforecast", lambda: sys.executable)
    with pytest.raises(TrainingError, match="it ended"):
        ClassicalPoints("NoSuchModel", 1, DAY_STEPS)(past())


def test_a_model_that_cannot_be_fitted_leaves_its_series_without_points():
    class Picky:
        def forecast(self, y: np.ndarray, h: int) -> dict[str, np.ndarray]:
            if y[0] < 0:
                raise ValueError("negative")
            return {"mean": np.full(h, y[-1])}

    points = forecast_all(Picky, np.array([[1.0, 2.0], [-1.0, 2.0]]))
    assert (points[0] == 2).all() and np.isnan(points[1]).all()


def test_a_past_with_hardly_a_value_is_forecast_by_its_last_one_without_asking(no_statsforecast):
    few = np.full_like(past(), np.nan)
    few[0, -5:, 0] = 7.0
    points = ClassicalPoints("AutoETS", 1, DAY_STEPS)(few)
    assert (points[0, :, 0] == 7).all() and np.isnan(points[1]).all()


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_a_worker_answers_until_it_is_no_longer_needed():
    points = ClassicalPoints("AutoETS", 1, DAY_STEPS)
    gaps = past()
    gaps[0, -100:-60] = np.nan
    first = points(gaps)
    worker = points._process
    assert first.shape == (2, 96, N_METRICS) and np.isfinite(first).all()
    assert np.abs(first - 50).max() < 15
    assert np.array_equal(points(gaps), first) and points._process is worker, "one worker for all questions"
    del points
    assert worker.poll() is not None
