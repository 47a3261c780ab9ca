"""What holds for every baseline: it cannot look ahead, its quantiles are honest and ordered, gaps stay gaps."""

from __future__ import annotations

import functools
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from baseline_boosting import BoostingBaseline
from baseline_classical import classical_baseline
from baseline_linear import RidgeBaseline
from baseline_mlp import MlpBaseline
from baseline_naive import NaiveBaseline, last_value, mean_24, seasonal_naive
from baseline_windows import DayScale, cut, draw_origins, last_seen, mean_of, same_time
from baselines import BASELINES, make_baseline
from data_contract import HORIZON_STEPS, METRICS, TrainingError
from fleet_grid import DAY_STEPS, N_METRICS, FleetGrid

LEVELS = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
DAYS = 14
UNTIL = 11 * DAY_STEPS  # the last three days are not learned from

# Each as it is, with less to learn from, so that the tests take seconds.
SMALL = {
    "last_value": lambda: NaiveBaseline("last_value", "", last_value, LEVELS, windows=1500),
    "seasonal_naive": lambda: NaiveBaseline("seasonal_naive", "", seasonal_naive, LEVELS, windows=1500),
    "mean_24": lambda: NaiveBaseline("mean_24", "", mean_24, LEVELS, windows=1500),
    "ridge": lambda: RidgeBaseline(LEVELS, windows=1500),
    "gradient_boosting": lambda: BoostingBaseline(LEVELS, windows=400, trees=20),
    "mlp": lambda: MlpBaseline(LEVELS, windows=6_000),
    "auto_ets": lambda: classical_baseline("auto_ets", "", LEVELS, windows=60),
    "auto_theta": lambda: classical_baseline("auto_theta", "", LEVELS, windows=40),
}
ALIKE = {"rtol": 1e-3, "atol": 1e-3, "equal_nan": True}  # sums in another order round differently


def fleet(n_servers: int = 10, days: int = DAYS, seed: int = 0) -> FleetGrid:
    """A stationary fleet with a daily rhythm and noise that fades within half an hour; latency is never reported."""
    rng = np.random.default_rng(seed)
    n_steps = days * DAY_STEPS
    noise = rng.normal(size=(n_servers, n_steps, N_METRICS))
    for step in range(1, n_steps):
        noise[:, step] += 0.7 * noise[:, step - 1]
    day = np.sin(2 * np.pi * np.arange(n_steps) / DAY_STEPS)[None, :, None]
    level = np.array([40.0, 60.0, 25.0, 30.0]) + rng.uniform(-10, 10, (n_servers, 1, N_METRICS))
    values = level + 8 * day + noise * rng.uniform(1, 3, (n_servers, 1, 1))
    values[:, :, 3] = np.nan
    names = tuple(f"ppgen{number:03d}" for number in range(n_servers))
    states = np.zeros((n_servers, n_steps), dtype=np.int8)
    return FleetGrid(names, ("generic",) * n_servers, 5_900_000, values.astype(np.float32), states)


def with_values(grid: FleetGrid, values: np.ndarray) -> FleetGrid:
    return FleetGrid(grid.names, grid.profiles, grid.first_step, values, grid.states)


@pytest.fixture(scope="module")
def grid():
    return fleet()


@pytest.fixture(scope="module")
def fitted(grid):
    """Any baseline, fitted once on the small fleet."""

    @functools.cache
    def fit(name: str):
        if reason := BASELINES[name].unavailable():
            pytest.skip(reason)
        method = SMALL[name]()
        method.fit(grid, UNTIL)
        return method

    return fit


def test_every_baseline_is_tested_here():
    assert set(SMALL) == set(BASELINES)


def test_the_document_lists_every_baseline():
    page = (Path(__file__).resolve().parent.parent / "Docs" / "BACKTEST.md").read_text(encoding="utf-8")
    section = page.split("## The baselines")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(BASELINES)


def test_every_baseline_has_a_title_and_a_sentence():
    for name, baseline in BASELINES.items():
        method = make_baseline(name, LEVELS)
        assert (method.name, method.title) == (name, baseline.title) == (baseline.name, baseline.title)
        assert baseline.sentence.endswith(".") and baseline.title[0].isupper()


@pytest.mark.parametrize("name", SMALL)
def test_values_from_the_origin_on_change_nothing_and_the_same_seed_gives_the_same_forecast(name, grid, fitted):
    spoilt = grid.values.copy()
    spoilt[:, UNTIL:] = np.random.default_rng(1).uniform(0, 1e6, spoilt[:, UNTIL:].shape)
    expected = fitted(name).forecast(grid, UNTIL)
    again, told = SMALL[name](), []
    again.fit(with_values(grid, spoilt), UNTIL, lambda done, of: told.append((done, of)))
    assert np.array_equal(again.forecast(with_values(grid, spoilt), UNTIL), expected, equal_nan=True)
    assert np.array_equal(again.forecast(grid.until(grid.first_step + UNTIL), UNTIL), expected, equal_nan=True)
    assert told == sorted(told) and told[-1][0] == told[-1][1] > 0


@pytest.mark.parametrize("name", SMALL)
def test_values_before_the_origin_do_change_something(name, grid, fitted):
    other = grid.values.copy()
    other[:, UNTIL - DAY_STEPS : UNTIL] += 5
    assert not np.array_equal(
        fitted(name).forecast(with_values(grid, other), UNTIL), fitted(name).forecast(grid, UNTIL), equal_nan=True
    )


@pytest.mark.parametrize("name", SMALL)
def test_quantiles_never_cross_and_stay_in_range(name, grid, fitted):
    wild = grid.values.copy()
    wild[0, UNTIL - DAY_STEPS : UNTIL, :2] = np.random.default_rng(2).choice([0, 100], (DAY_STEPS, 2))
    wild[1, UNTIL - DAY_STEPS : UNTIL, :3] = 0
    wild[2, UNTIL - DAY_STEPS : UNTIL, 2] = np.geomspace(1e-3, 1e6, DAY_STEPS)
    forecast = fitted(name).forecast(with_values(grid, wild), UNTIL)
    assert forecast.dtype == np.float32
    assert forecast.shape == (grid.n_servers, HORIZON_STEPS, N_METRICS, len(LEVELS))
    assert np.isfinite(forecast[:, :, :3]).all()
    assert (np.diff(forecast[:, :, :3], axis=-1) >= 0).all()
    for k, metric in enumerate(METRICS[:3]):
        assert forecast[:, :, k].min() >= metric.lower
        assert metric.upper is None or forecast[:, :, k].max() <= metric.upper


@pytest.mark.parametrize("name", SMALL)
def test_gaps_are_no_values_and_a_metric_that_was_never_reported_has_no_forecast(name, grid, fitted):
    gaps = grid.values.copy()
    gaps[0, UNTIL - 40 : UNTIL] = np.nan  # a gap right before the origin
    gaps[1, UNTIL - 2 * DAY_STEPS : UNTIL] = np.nan  # two days of silence
    gaps[2, :UNTIL, 0] = np.nan  # never reported, by one server
    gaps[3, :UNTIL:2] = np.nan  # every other sample
    gaps[4, :UNTIL] = np.nan  # never heard of
    forecast = fitted(name).forecast(with_values(grid, gaps), UNTIL)
    assert np.isfinite(forecast[[0, 1, 3, 5], :, :3]).all()
    assert np.isnan(forecast[2, :, 0]).all() and np.isfinite(forecast[2, :, 1:3]).all()
    assert np.isnan(forecast[4]).all()
    assert np.isnan(forecast[:, :, 3]).all(), "no server ever reported its latency"


@pytest.mark.parametrize("name", SMALL)
def test_quantiles_are_calibrated_on_a_stationary_fleet_seen_or_not(name, grid, fitted):
    unseen = fleet(seed=7)
    for each in (grid, unseen):
        below = []
        columns = range(UNTIL, DAYS * DAY_STEPS - HORIZON_STEPS + 1, HORIZON_STEPS)
        for column in columns[:: 4 if BASELINES[name].slow else 1]:
            forecast = fitted(name).forecast(each, column)[:, :, :3]
            truth = each.values[:, column : column + HORIZON_STEPS, :3, None]
            below.append((truth <= forecast).mean(axis=(0, 1, 2)))
        tolerance = 0.15 if name in {"mlp", "auto_ets", "auto_theta"} else 0.08  # these have learned from very little
        assert np.abs(np.mean(below, axis=0) - LEVELS).max() < tolerance


@pytest.mark.parametrize("name", SMALL)
def test_a_server_is_forecast_alike_alone_and_among_others(name, grid, fitted):
    expected = fitted(name).forecast(grid, UNTIL)
    alone = fitted(name).forecast(grid.select([7]), UNTIL)
    assert np.allclose(alone[0], expected[7], **ALIKE)


@pytest.mark.parametrize("name", SMALL)
def test_a_first_step_that_is_not_the_training_s_is_no_matter(name, grid, fitted):
    some = grid.select([0, 1])
    later = some.since(grid.first_step + DAY_STEPS)  # the same days, in another grid
    expected = fitted(name).forecast(some, UNTIL)
    assert np.allclose(fitted(name).forecast(later, UNTIL - DAY_STEPS), expected, **ALIKE)


@pytest.mark.parametrize("name", SMALL)
def test_too_little_history_is_an_error_that_says_what_to_do(name, grid):
    if reason := BASELINES[name].unavailable():
        pytest.skip(reason)
    with pytest.raises(TrainingError, match="too little history") as refused:
        SMALL[name]().fit(grid, 100)
    assert "30 days" in refused.value.fix


@pytest.mark.parametrize("name", ["seasonal_naive", "ridge", "gradient_boosting", "mlp"])
def test_two_days_are_enough_to_learn_from_and_no_week_is_needed_to_forecast(name, grid):
    method = SMALL[name]()
    method.fit(grid, 2 * DAY_STEPS)
    assert np.isfinite(method.forecast(grid, 3 * DAY_STEPS)[:, :, :3]).all()
    assert np.isfinite(method.forecast(grid, DAY_STEPS // 2)[:, :, :3]).all()


@pytest.mark.parametrize("name", SMALL)
def test_a_fitted_baseline_can_be_handed_to_another_process(name, grid, fitted):
    some = grid.select([0, 1])
    copy = pickle.loads(pickle.dumps(fitted(name)))
    assert np.array_equal(copy.forecast(some, UNTIL), fitted(name).forecast(some, UNTIL), equal_nan=True)


@pytest.mark.parametrize("name", SMALL)
def test_a_baseline_that_was_not_fitted_says_so(name, grid):
    with pytest.raises(RuntimeError, match="fitted first"):
        SMALL[name]().forecast(grid, UNTIL)


# ------------------------------------------------------------------------------------------------------- the naive ones
def one_server(values: np.ndarray) -> np.ndarray:
    """A past of one server and one metric."""
    return values.astype(np.float32)[None, :, None]


def test_the_last_value_is_the_newest_that_was_measured():
    past = one_server(np.arange(2 * DAY_STEPS))
    past[0, -3:] = np.nan
    assert (last_value(past) == 2 * DAY_STEPS - 4).all()


def test_seasonal_naive_is_yesterday_s_value_then_an_older_day_s_then_the_last():
    past = one_server(np.arange(8 * DAY_STEPS))
    past[0, -DAY_STEPS + 1] = np.nan  # yesterday at the second step
    past[0, 2 - DAY_STEPS * np.arange(1, 8)] = np.nan  # the third step, on every day
    expected = np.arange(7 * DAY_STEPS, 7 * DAY_STEPS + HORIZON_STEPS, dtype=np.float32)
    expected[1] -= DAY_STEPS
    expected[2] = 8 * DAY_STEPS - 1
    assert np.array_equal(seasonal_naive(past)[0, :, 0], expected)


def test_mean_24_is_the_mean_of_the_day_s_288_steps_without_its_gaps():
    past = one_server(np.r_[np.full(DAY_STEPS, 1000.0), np.full(DAY_STEPS // 2, 1.0), np.full(DAY_STEPS // 2, 3.0)])
    past[0, -10:] = np.nan
    assert np.allclose(mean_24(past), (144 + 3 * 134) / 278)
    past[0, -DAY_STEPS:] = np.nan
    assert (mean_24(past) == 1000).all(), "the last value where the day is empty"


@pytest.mark.parametrize(("name", "point"), [("last_value", last_value), ("mean_24", mean_24)])
def test_the_median_of_a_naive_baseline_is_its_point(name, point, grid, fitted):
    median = fitted(name).forecast(grid, UNTIL)[:, :, :3, LEVELS.index(0.5)]
    expected = point(grid.values[:, UNTIL - 8 * DAY_STEPS : UNTIL])[..., :3]
    assert np.allclose(median, expected)


# ------------------------------------------------------------------------------------------------------------- windows
def test_windows_are_nan_outside_of_what_is_known(grid):
    known = grid.values[:, :300]
    window = cut(known, np.array([0, 1]), np.array([-5, 290]), 20)
    assert np.isnan(window[0, :5]).all() and np.array_equal(window[0, 5:], known[0, :15], equal_nan=True)
    assert np.isnan(window[1, 10:]).all() and np.array_equal(window[1, :10], known[1, 290:], equal_nan=True)
    assert np.isnan(cut(known, np.array([0]), np.array([900]), 20)).all()


def test_origins_are_spread_over_all_servers_and_their_horizons_end_in_time(grid):
    servers, columns = draw_origins(grid, UNTIL, 500, np.random.default_rng(0))
    assert np.bincount(servers).tolist() == [50] * grid.n_servers
    assert columns.max() <= UNTIL - HORIZON_STEPS and columns.min() >= 12
    assert columns.max() - columns.min() > 0.9 * (UNTIL - HORIZON_STEPS)


def test_statistics_of_empty_windows_are_missing():
    empty = np.full((2, 8 * DAY_STEPS, N_METRICS), np.nan, dtype=np.float32)
    assert np.isnan(last_seen(empty)).all() and np.isnan(mean_of(empty)).all()
    assert np.isnan(same_time(empty, range(1, 8))).all()
    scale = DayScale.of(empty)
    assert np.isnan(scale.center).all() and (scale.observed == 0).all()
    assert (scale.spread(scale.typical()) > 0).all()
