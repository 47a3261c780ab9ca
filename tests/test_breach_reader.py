"""Tests of breach_reader.py and breach_training.py: what is shown, what is learned, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from alert_events import find_crossings, limits_of, outcomes
from alert_hysteresis import AlertPolicy
from alert_replay import CALL_COST
from breach_reader import CLOCK_ENDS, PREFIX, RECENT_STEPS, BreachReader, count_inputs, reader_inputs
from breach_training import LEAST_EVENTS, Lessons, gather_lessons, train_reader, train_risk_calibration
from common_utils import iso_z
from config import load_settings
from data_contract import (
    HORIZON_STEPS,
    METRIC_COLUMNS,
    MODEL_CONFIG,
    MODEL_WEIGHTS,
    STEP_MINUTES,
    TRAINING_INFO,
    ModelFolderError,
)
from fleet_grid import DAY_STEPS, FleetGrid, time_of
from forecast import Forecast
from model_folder import load_model, save_model
from risk_calibration import RiskCalibration, RiskMap
from tft_features import QUANTILES
from tft_forecaster import Forecaster
from tft_model import NetworkConfig
from tft_risk import (
    AlertBook,
    above_now,
    assess,
    breach_probability,
    breach_steps,
    inputs_of_reader,
    raw_risk,
    risk_of,
    thresholds_of,
)

SETTINGS = load_settings()
N_METRICS = len(METRIC_COLUMNS)


def make_reader(seed: int = 0, networks: int = 2) -> BreachReader:
    """A reader that says something, though nothing that was learned."""
    rng = np.random.default_rng(seed)
    width = count_inputs()

    def layer(out: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(0, 0.3, (out, size)).astype(np.float32), rng.normal(0, 0.3, out).astype(np.float32)

    mean, spread = rng.normal(size=width).astype(np.float32), rng.uniform(0.5, 2, width).astype(np.float32)
    whether, when = (
        tuple((layer(8, width), layer(4, 8), layer(outputs, 4)) for _ in range(networks))
        for outputs in (1, len(CLOCK_ENDS))
    )
    return BreachReader(mean, spread, whether, when)


def make_grid(n_servers: int = 12, days: int = 9, seed: int = 1) -> FleetGrid:
    """Twice a day CPU climbs; from 40 on it either falls back, or goes on to above its threshold."""
    rng = np.random.default_rng(seed)
    values = (10 + rng.normal(0, 0.5, (n_servers, days * DAY_STEPS, N_METRICS))).astype(np.float32)
    for server in range(n_servers):
        for half in range(2 * days - 1):
            first = half * 144 + int(rng.integers(5, 80))
            values[server, first : first + 6, 0] = np.linspace(15, 40, 6)
            if rng.random() < 0.5:  # what goes on shows it by its latency
                values[server, first : first + 6, 3] = 100
                values[server, first + 6 : first + 12, 0] = np.linspace(45, 88, 6)
                values[server, first + 12 : first + 20, 0] = 97
    names = tuple(f"ppweb{k:03d}" for k in range(n_servers))
    return FleetGrid(names, ("web_api",) * n_servers, 5_000_000, values, np.zeros(values.shape[:2], dtype=np.int8))


def predict(grid: FleetGrid) -> Forecast:
    """A forecaster that knows nothing: all will stay as it is, more or less."""
    levels = np.array(QUANTILES)
    values = (grid.values[:, -1:, :, None] * (0.5 + levels)).repeat(HORIZON_STEPS, axis=1).astype(np.float32)
    known = np.ones(grid.n_servers, dtype=np.bool_)
    origin, recent = time_of(grid.origin_step - 1), grid.values[:, -RECENT_STEPS:]
    return Forecast(grid.names, grid.profiles, known, origin, values, QUANTILES, None, recent)


def shown(recent: np.ndarray, limit: float = 90.0) -> np.ndarray:
    """Inputs of one server whose metrics are all alike."""
    cells = np.repeat(np.asarray(recent, dtype=np.float32)[None, :, None], N_METRICS, axis=2)
    curve = np.full((1, HORIZON_STEPS, N_METRICS), 20.0, dtype=np.float32)
    limits = np.full((1, N_METRICS), limit)
    return reader_inputs(cells, limits, ("web_api",), 1000, np.full(curve.shape, 0.01), curve, curve)


def test_metrics_are_shown_as_shares_of_their_thresholds_whatever_their_unit() -> None:
    recent = np.linspace(5, 60, RECENT_STEPS)
    curve = np.full((1, HORIZON_STEPS, N_METRICS), 20.0, dtype=np.float32)

    def of(scale: float) -> np.ndarray:
        cells = np.repeat((scale * recent).astype(np.float32)[None, :, None], N_METRICS, axis=2)
        limits = np.full((1, N_METRICS), scale * 90.0)
        calm = np.full(curve.shape, 0.01)
        return reader_inputs(cells, limits, ("web_api",), 1000, calm, scale * curve, scale * curve)

    np.testing.assert_allclose(of(7.0), of(1.0), atol=1e-4)
    assert of(1.0).shape == (1, N_METRICS, count_inputs()) and of(1.0).dtype == np.float32


def test_nothing_that_is_missing_huge_or_idle_makes_an_input_that_is_not_finite() -> None:
    for recent in (np.full(RECENT_STEPS, np.nan), np.full(RECENT_STEPS, 1e12), np.zeros(RECENT_STEPS)):
        assert np.isfinite(shown(recent)).all()
        assert np.isfinite(make_reader()(shown(recent))).all()


def test_a_reader_survives_its_arrays_and_answers_between_0_and_1() -> None:
    reader = make_reader()
    again = BreachReader.from_arrays(reader.arrays())
    inputs = np.random.default_rng(2).normal(0, 5, (7, N_METRICS, count_inputs())).astype(np.float32)
    assert np.array_equal(again(inputs), reader(inputs)) and reader(inputs).shape == (7, N_METRICS)
    assert 0 < reader(inputs).min() <= reader(inputs).max() < 1
    course = reader.course(inputs)
    assert np.array_equal(again.course(inputs), course) and course.shape == (7, N_METRICS, HORIZON_STEPS)
    assert course.min() > 0 and (np.diff(course) >= 0).all() and (course[..., -1] == 1).all()


def test_what_is_no_reader_is_refused() -> None:
    good = make_reader().arrays()
    width = count_inputs()
    changes: list[dict[str, np.ndarray | None]] = [
        {f"{PREFIX}mean": None},
        {f"{PREFIX}mean": np.zeros(width - 1, dtype=np.float32)},
        {f"{PREFIX}mean": np.zeros(width)},  # float64
        {f"{PREFIX}spread": np.zeros(width, dtype=np.float32)},
        {f"{PREFIX}0.0.weight": np.full((8, width), np.nan, dtype=np.float32)},
        {f"{PREFIX}0.1.weight": None},
        {f"{PREFIX}0.1.bias": None},
        {f"{PREFIX}0.1.weight": np.zeros((4, 9), dtype=np.float32)},
        {f"{PREFIX}0.2.weight": np.zeros((2, 4), dtype=np.float32)},
        {f"{PREFIX}0.0.bias": np.zeros((8, 1), dtype=np.float32)},
        {f"{PREFIX}0.9.weight": np.zeros((1, 1), dtype=np.float32)},
        {f"{PREFIX}clock.0.2.weight": np.zeros((1, 4), dtype=np.float32)},
        {f"{PREFIX}clock.1.1.bias": None},
        {f"{PREFIX}secret": np.zeros(1, dtype=np.float32)},
    ]
    for change in changes:
        arrays = {name: array for name, array in {**good, **change}.items() if array is not None}
        with pytest.raises(ValueError, match=r"breach"):
            BreachReader.from_arrays(arrays)
    with pytest.raises(ValueError, match="1 to 8 networks"):
        BreachReader.from_arrays({})


def test_a_reader_learns_known_probabilities_and_leaves_random_numbers_alone() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(12_000, 5)).astype(np.float32)
    truth = 1 / (1 + np.exp(2 - 2 * inputs[:, 0]))
    came_true = rng.random(len(inputs)) < truth
    kept = came_true | (rng.random(len(inputs)) < 0.3)  # the others count for more
    weight = np.where(came_true, 1.0, 1 / 0.3).astype(np.float32)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    steps = came_true.astype(np.int64)
    reader = train_reader(Lessons(inputs[kept], steps[kept], weight[kept]), seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert reader is not None and np.abs(reader(inputs) - truth).mean() < 0.04
    again = train_reader(Lessons(inputs[kept], steps[kept], weight[kept]), seed=1)
    assert again is not None and np.array_equal(reader(inputs), again(inputs))
    assert np.array_equal(reader.course(inputs), again.course(inputs))


def test_a_reader_learns_when_breaches_come_and_how_sure_that_is() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(12_000, 5)).astype(np.float32)
    came = np.exp(2.2 + inputs[:, 0] + rng.normal(0, 0.4, len(inputs)))  # steps; known up to a factor of about 1.5
    steps = np.where(rng.random(len(inputs)) < 0.3, np.clip(np.ceil(came), 1, HORIZON_STEPS), 0).astype(np.int64)
    reader = train_reader(Lessons(inputs, steps, np.ones(len(inputs), dtype=np.float32)), seed=1)
    assert reader is not None
    earliest, median, latest = np.moveaxis(breach_steps(reader.course(inputs[steps > 0])), -1, 0)
    truth = steps[steps > 0]
    assert 0.74 < ((earliest <= truth) & (truth <= latest)).mean() < 0.95  # bins are wide: rather too many than too few
    assert 0.4 < (median >= truth).mean() < 0.65
    assert np.abs(np.log(median / truth)).mean() < 0.45
    assert (latest < 2.5 * earliest + 12).mean() > 0.5  # not just anything


def test_an_alert_tells_when_by_the_clock_and_of_what_is_above_already_by_the_quantiles(
    fleet_frame: pd.DataFrame, tiny_model_dir: Path
) -> None:
    forecast = Forecaster.load(tiny_model_dir).predict(fleet_frame)
    assert forecast.recent is not None
    reader, limits = make_reader(), thresholds_of(forecast, SETTINGS)
    certain = (RiskMap((0.0, 1.0), (0.9, 0.99)),) * N_METRICS
    forecast = replace(forecast, calibration=RiskCalibration(certain, AlertPolicy(0.6, 0.3), {}, reader))
    recent = forecast.recent.copy()
    recent[:, -1] = 1.0
    recent[0, -1, 0] = 99.0
    forecast = replace(forecast, recent=recent)
    by_step = breach_probability(forecast, limits)
    told = breach_steps(reader.course(inputs_of_reader(forecast, limits, by_step)))
    told[0, 0] = breach_steps(np.maximum.accumulate(by_step[0, :, 0]))
    book = AlertBook(SETTINGS)
    for _ in range(2):
        book.update(forecast)
    alerts = book.active()
    assert len(alerts) == len(forecast.server_names) * N_METRICS
    for alert in alerts:
        server = forecast.index(alert["server_name"])
        steps = told[server, METRIC_COLUMNS.index(alert["metric"])].tolist()
        expected = [iso_z(forecast.origin + timedelta(minutes=STEP_MINUTES * step)) for step in steps]
        assert [alert["breach_time"][each] for each in ("earliest", "median", "latest")] == expected
        assert alert["lead_time_minutes"] == STEP_MINUTES * steps[1]


def test_a_reader_without_clocks_tells_when_by_the_quantiles(tiny_model_dir: Path, fleet_frame: pd.DataFrame) -> None:
    old = replace(make_reader(), clocks=())
    assert BreachReader.from_arrays(old.arrays()).clocks == ()
    with pytest.raises(ValueError, match="no clocks"):
        old.course(np.zeros((1, count_inputs()), dtype=np.float32))
    forecast = Forecaster.load(tiny_model_dir).predict(fleet_frame)
    limits = thresholds_of(forecast, SETTINGS)
    by_step = breach_probability(forecast, limits)
    assert np.array_equal(
        raw_risk(forecast, limits, by_step, old).course, raw_risk(forecast, limits, by_step, None).course
    )


def test_lessons_see_nothing_from_their_end_on_and_stand_for_all_forecasts() -> None:
    grid = make_grid()
    end = 5 * DAY_STEPS
    limits = limits_of(grid, SETTINGS)
    spoilt = replace(grid, values=grid.values.copy())
    spoilt.values[:, end:] = np.nan
    of_both = []
    for each in (grid, spoilt):
        told = [event for event in find_crossings(each, limits) if event.breach < end]
        lessons = gather_lessons(predict, each, limits, told, end, 4000, DAY_STEPS, 1)
        assert lessons is not None
        of_both.append(lessons)
    assert np.array_equal(of_both[0].inputs, of_both[1].inputs)
    assert np.array_equal(of_both[0].came_true, of_both[1].came_true)
    columns = np.arange(72, end - HORIZON_STEPS + 1)
    ahead, during = outcomes([event for event in find_crossings(grid, limits) if event.breach < end], columns, 12)
    calm = of_both[0].weight[~of_both[0].came_true].sum()
    assert calm == pytest.approx((~ahead & ~during).sum(), rel=0.15)
    # a breach counts for less, the further away it is: over 8 hours, about as much as 12 steps
    breaches = of_both[0].weight[of_both[0].came_true].sum()
    assert 0.05 * (ahead & ~during).sum() < breaches < 0.4 * (ahead & ~during).sum()
    assert len(of_both[0].inputs) < 4000 * N_METRICS


def test_too_few_events_make_no_reader() -> None:
    grid = make_grid()
    limits = limits_of(grid, SETTINGS)
    few = find_crossings(grid, limits)[: LEAST_EVENTS - 1]
    assert gather_lessons(predict, grid, limits, few, grid.n_steps, 4000, DAY_STEPS, 1) is None


def test_what_a_training_ends_with_takes_no_more_work_than_it_may() -> None:
    grid = make_grid()
    work = []

    def spy(part: FleetGrid) -> Forecast:
        work.append(part.n_servers + CALL_COST)
        return predict(part)

    found = train_risk_calibration(spy, grid, 6 * DAY_STEPS, SETTINGS, history_steps=DAY_STEPS, most=8_000)
    assert found is not None and found.reader is not None
    assert 4_000 < sum(work) < 9_000


def test_thresholds_of_zero_and_servers_without_a_past_make_no_warning() -> None:
    assert np.isfinite(shown(np.full(RECENT_STEPS, 5.0), limit=0.0)).all()
    grid = make_grid(2, 2)
    forecast = replace(predict(grid), recent=None)
    limits = limits_of(grid, SETTINGS)
    raw = raw_risk(forecast, limits, breach_probability(forecast, limits), make_reader())
    assert np.isfinite(raw.probability).all() and raw.probability.shape == (2, N_METRICS)
    assert np.isfinite(raw.course).all() and raw.course.shape == (2, N_METRICS, HORIZON_STEPS)


def test_a_trained_reader_tells_climbs_that_go_on_from_those_that_fall_back() -> None:
    grid = make_grid()
    first = 6 * DAY_STEPS
    calibration = train_risk_calibration(
        predict, grid, first, SETTINGS, history_steps=DAY_STEPS, end=8 * DAY_STEPS, most=16_000
    )
    assert calibration is not None and calibration.reader is not None
    limits = limits_of(grid, SETTINGS)
    risks: dict[bool, list[float]] = {True: [], False: []}
    breaches = {(event.server, event.breach) for event in find_crossings(grid, limits)}
    for server in range(grid.n_servers):
        for column in range(8 * DAY_STEPS, 9 * DAY_STEPS - 100):
            if 39.9 < grid.values[server, column - 1, 0] < 40.1:  # here their ways part
                forecast = predict(grid.until(grid.first_step + column).select([server]))
                by_step = breach_probability(forecast, limits[[server]])
                raw = raw_risk(forecast, limits[[server]], by_step, calibration.reader)
                goes_on = any((server, each) in breaches for each in range(column, column + 12))
                risks[goes_on].append(float(calibration.probability(raw.probability)[0, 0]))
    assert len(risks[True]) > 3 and len(risks[False]) > 3
    assert np.mean(risks[True]) > 0.75 and np.mean(risks[True]) > np.mean(risks[False]) + 0.3


def test_a_metric_that_is_above_its_threshold_and_stays_there_is_a_risk_whatever_a_calibration_says(
    fleet_frame: pd.DataFrame, tiny_model_dir: Path
) -> None:
    forecast = Forecaster.load(tiny_model_dir).predict(fleet_frame)
    assert forecast.recent is not None
    never = (RiskMap((0.0, 1.0), (0.01, 0.02)),) * N_METRICS  # the calibration of a reader that sees no breach at all
    forecast = replace(forecast, calibration=RiskCalibration(never, AlertPolicy(0.6, 0.3), {}))
    limits = thresholds_of(forecast, SETTINGS)
    values, recent = forecast.values.copy(), forecast.recent.copy()
    recent[:, -RECENT_STEPS:] = 10.0
    values[:, :, 0] = 97.0 + np.linspace(-0.5, 0.5, values.shape[-1], dtype=np.float32)
    recent[0, -1, 0] = recent[1, -3, 0] = 98.0  # the second was last measured 10 minutes before the newest step
    recent[1, -2:, 0] = np.nan
    recent[2, -3, 0], recent[2, -1, 0] = 98.0, 40.0  # the third is below again
    recent[3, -4, 0] = 98.0  # the fourth is not known to be anything
    recent[3, -3:, 0] = np.nan
    stuck = replace(forecast, values=values, recent=recent)
    assert above_now(stuck, limits)[:4, 0].tolist() == [True, True, False, False]
    risks = [risk.risks["cpu_pct"] for risk in assess(stuck, SETTINGS)[:4]]
    assert risks[0] == risks[1] == pytest.approx(0.99) and max(risks[2] or 0, risks[3] or 0) < 0.03
    book = AlertBook(SETTINGS)
    for _ in range(2):
        book.update(stuck)
    assert {alert["server_name"] for alert in book.active()} == set(stuck.server_names[:2])
    calm = values.copy()
    calm[:, :, 0] = 20.0 + np.linspace(-0.5, 0.5, values.shape[-1], dtype=np.float32)
    recovering = replace(stuck, values=calm)
    below = risk_of(recovering, limits, breach_probability(recovering, limits))
    assert below.probability[0, 0] < 0.03  # it is forecast to be well in the next step


def test_a_model_folder_keeps_the_reader_with_its_weights_and_refuses_half_of_it(
    tiny_model_dir: Path, fleet_frame: pd.DataFrame, tmp_path: Path
) -> None:
    plain = load_model(tiny_model_dir)
    reader = make_reader()
    maps = (RiskMap((0.0, 1.0), (0.1, 0.9)),) * N_METRICS
    calibration = RiskCalibration(maps, AlertPolicy(0.6, 0.3), {}, reader)
    weights = load_file(tiny_model_dir / MODEL_WEIGHTS)  # of a reader, if it has one, the next one takes the place
    weights = {key: tensor for key, tensor in weights.items() if not key.startswith(PREFIX)}
    sizes = NetworkConfig.from_dict(json.loads((tiny_model_dir / MODEL_CONFIG).read_text())["network"])
    info = {**plain.info, "risk_calibration": calibration.as_dict()}
    own = ("contract_version", "model_version", "model_name", "states", "profiles", "metrics", "weights_sha256")
    rest = {key: value for key, value in info.items() if key not in own}
    folder = save_model(tmp_path, plain.name, weights, plain.spec, sizes, rest, plain.encoder, reader=reader)
    forecaster = Forecaster.load(folder)
    assert forecaster.calibration is not None and forecaster.calibration.reader is not None
    forecast = forecaster.predict(fleet_frame)
    assert forecast.recent is not None and forecast.recent.shape[1] == RECENT_STEPS
    limits = thresholds_of(forecast, SETTINGS)
    by_step = breach_probability(forecast, limits)
    expected = calibration.probability(raw_risk(forecast, limits, by_step, reader).probability).max(axis=1)
    assert [risk.risk for risk in assess(forecast, SETTINGS)] == pytest.approx(expected.tolist(), abs=2e-3)

    half = Path(shutil.copytree(folder, tmp_path / "half"))
    tensors = load_file(half / MODEL_WEIGHTS)
    told = json.loads((half / TRAINING_INFO).read_text())
    for kept, content in (
        ({key: tensor for key, tensor in tensors.items() if not key.startswith(PREFIX)}, told),
        ({key: tensor for key, tensor in tensors.items() if key != f"{PREFIX}mean"}, told),
        ({**tensors, f"{PREFIX}mean": tensors[f"{PREFIX}mean"].bfloat16()}, told),
        (tensors, {**told, "risk_calibration": None}),
        (tensors, {**told, "risk_calibration": {**told["risk_calibration"], "reader": False}}),
    ):
        save_file(kept, half / MODEL_WEIGHTS)
        (half / TRAINING_INFO).write_text(json.dumps(content))
        with pytest.raises(ModelFolderError):
            load_model(half)
