"""Tests of training_origins.py and training_windows.py: which windows there are, and which of them are drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FLEET, make_fleet
from hypothesis import given
from hypothesis import strategies as st

from config import default_threshold
from data_contract import HORIZON_STEPS, VALID_STATES, TrainingError
from fleet_grid import N_METRICS, FleetGrid
from fleet_spreads import typical_spread
from model_inputs import Layout
from tft_features import Augmentation, FeatureSpec, FleetTensors, Windows
from training_origins import EVENTFUL_SHARE, MIN_HISTORY_STEPS, MOST_TIMES, Origins, OriginSet, split_origins
from training_windows import WindowBatches

HEALTHY, CRITICAL, OFFLINE = (VALID_STATES.index(state) for state in ("healthy", "critical_issue", "offline"))
GRID = FleetGrid.from_frame(make_fleet(hours=48))


def quiet_fleet(servers: int = 4, steps: int = 2000, seed: int = 0) -> FleetGrid:
    """A fleet that nothing happens in."""
    values = np.random.default_rng(seed).uniform(20, 40, (servers, steps, N_METRICS)).astype(np.float32)
    names = tuple(f"ppweb{k:03}" for k in range(servers))
    return FleetGrid(names, ("web_api",) * servers, 5_000_000, values, np.full((servers, steps), HEALTHY, np.int8))


def batches_of(grid: FleetGrid, *, validation: bool = False, **options: object) -> WindowBatches:
    """Batches of a grid's training or validation windows."""
    ids = [str(k) for k in range(grid.n_servers)]
    spec = FeatureSpec(Layout(((24, 1),)), tuple(ids), typical_spread(grid))
    fleet = FleetTensors.from_grid(grid, spec, ids)
    split = split_origins(grid, 0.2)
    if validation:
        return WindowBatches(fleet, spec, split.validation, **options)
    return WindowBatches(fleet, spec, split.train, augmentation=Augmentation(), **options)


def same(one: Windows, other: Windows) -> bool:
    """Whether two batches are equal to the bit."""
    pairs = [(one.inputs[name], other.inputs[name]) for name in one.inputs]
    pairs += [(getattr(one, name), getattr(other, name)) for name in ("labels", "past", "anchors", "weight")]
    return all(torch.equal(a.nan_to_num(-99), b.nan_to_num(-99)) for a, b in pairs)


# ------------------------------------------------------------------------------------------------------ sets of origins
@given(st.integers(1, 6), st.integers(1, 1600), st.floats(0, 1), st.integers(0, 99))
def test_a_set_of_origins_holds_finds_and_counts_what_its_mask_says(
    n_servers: int, n_steps: int, share: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((n_servers, n_steps)) < share
    origins = OriginSet.from_mask(mask)
    assert len(origins) == mask.sum()
    np.testing.assert_array_equal(origins.mask(), mask)
    servers, columns = np.nonzero(mask)
    numbers = np.random.default_rng(0).permutation(len(servers))
    found = origins.nth(numbers)
    np.testing.assert_array_equal(found[0], servers[numbers])
    np.testing.assert_array_equal(found[1], columns[numbers])
    everywhere = np.indices(mask.shape).reshape(2, -1)
    np.testing.assert_array_equal(origins.has(*everywhere), mask.ravel())


@given(st.integers(1, 5), st.integers(1, 2000), st.data())
def test_validation_windows_come_once_each_and_in_every_stretch(servers: int, steps: int, data: st.DataObject) -> None:
    origins = Origins(OriginSet.from_mask(np.ones((servers, steps), np.bool_)))
    of = data.draw(st.integers(1, servers * steps))
    drawn = origins.spread(0, of, of, np.random.default_rng(1))
    number = drawn[0] * steps + drawn[1]
    assert (np.diff(number) > 0).all() and len(number) == of
    assert ((number * of // (servers * steps) - np.arange(of)) <= 1).all()


# -------------------------------------------------------------------------------------------------------------- splits
def test_training_windows_end_before_the_validation_period_begins() -> None:
    split = split_origins(GRID, 0.25)
    train, validation = split.train.usable.mask(), split.validation.usable.mask()
    assert np.flatnonzero(train.any(axis=0)).max() + HORIZON_STEPS <= split.train_end
    assert np.flatnonzero(validation.any(axis=0)).min() == split.train_end
    assert validation.any(axis=0).sum() >= 12


def test_windows_without_any_label_or_recent_history_are_not_drawn() -> None:
    frame = make_fleet(("ppweb001", "ppweb002"), hours=48)
    gone = (frame["server_name"] == "ppweb002") & (frame.index % 576 > 100)
    split = split_origins(FleetGrid.from_frame(frame[~gone]), 0.2)
    assert np.flatnonzero(split.train.usable.mask()[1]).max() <= 101 and not split.validation.usable.mask()[1].any()


@pytest.mark.parametrize("share_of_values", [0.9, 0.02])
def test_usable_origins_are_those_that_the_definition_names_one_by_one(share_of_values: float) -> None:
    rng = np.random.default_rng(3)
    grid = quiet_fleet(servers=3, steps=700)
    grid.values[rng.random(grid.values.shape[:2]) > share_of_values] = np.nan
    grid.values[1, 200:500] = np.nan
    split = split_origins(grid, 0.3)
    seen = np.isfinite(grid.values).any(axis=-1)
    train, validation = np.zeros((2, 3, 700), np.bool_)
    for server, column in np.ndindex(3, 700):
        past, horizon = seen[server, max(0, column - MIN_HISTORY_STEPS) : column], seen[server, column:][:HORIZON_STEPS]
        fits = column >= MIN_HISTORY_STEPS and len(horizon) == HORIZON_STEPS and past.any() and horizon.any()
        train[server, column] = fits and column + HORIZON_STEPS <= split.train_end
        validation[server, column] = fits and column >= split.train_end
    np.testing.assert_array_equal(split.train.usable.mask(), train)
    np.testing.assert_array_equal(split.validation.usable.mask(), validation)


def test_the_split_is_the_same_whatever_block_of_servers_is_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = quiet_fleet(servers=7)
    grid.states[2, 300:305] = CRITICAL
    whole = split_origins(grid, 0.2)
    spread = typical_spread(grid)
    at_once = FleetGrid.blocks
    monkeypatch.setattr(FleetGrid, "blocks", lambda grid: at_once(grid, 3 * grid.n_steps))
    assert len(list(grid.blocks())) == 3
    pieces = split_origins(grid, 0.2)
    for one, other in ((whole.train, pieces.train), (whole.validation, pieces.validation)):
        np.testing.assert_array_equal(one.usable.mask(), other.usable.mask())
    assert whole.train.eventful and pieces.train.eventful and whole.rare_states == pieces.rare_states
    np.testing.assert_array_equal(whole.train.eventful.mask(), pieces.train.eventful.mask())
    np.testing.assert_allclose(typical_spread(grid), spread, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------- eventful windows
def test_a_window_is_eventful_when_a_rare_state_or_the_begin_of_a_breach_lies_in_its_horizon() -> None:
    grid = quiet_fleet()
    grid.states[0, 500] = CRITICAL
    grid.states[1, 700:705] = VALID_STATES.index("idle")  # quiet, however rare
    grid.values[2, 800:900, 0] = default_threshold("cpu_pct", "web_api") + 1  # it begins once and lasts
    grid.values[3, 300, 2] = default_threshold("disk_io_mb_s", "web_api")  # reached, not exceeded
    split = split_origins(grid, 0.2)
    assert split.train.eventful is not None and split.rare_states == {"critical_issue": pytest.approx(1 / 6400)}
    expected = np.zeros((4, 2000), np.bool_)
    expected[0, 500 - HORIZON_STEPS + 1 : 501] = True
    expected[2, 800 - HORIZON_STEPS + 1 : 801] = True
    np.testing.assert_array_equal(split.train.eventful.mask(), expected)


def test_what_happens_in_the_validation_period_has_no_say_in_what_is_drawn_for_training() -> None:
    grid = quiet_fleet()
    grid.states[0, 500] = CRITICAL
    end = split_origins(grid, 0.2).train_end
    later = replace(grid, states=grid.states.copy(), values=grid.values.copy())
    later.states[:, end:] = OFFLINE
    later.values[:, end:] = 99
    before, after = split_origins(grid, 0.2), split_origins(later, 0.2)
    assert before.describe() == after.describe() and before.train.eventful and after.train.eventful
    np.testing.assert_array_equal(before.train.eventful.mask(), after.train.eventful.mask())


def test_a_state_that_is_usual_in_this_fleet_makes_no_window_eventful() -> None:
    grid = quiet_fleet()
    grid.states[:2] = VALID_STATES.index("heavy_load")
    split = split_origins(grid, 0.2)
    assert split.rare_states == {} and split.train.eventful_share == 0 == split.train.drawn_share
    _, _, weight = split.train.draw(100, np.random.default_rng(0))
    assert (weight == 1).all()


@pytest.mark.parametrize(
    ("share", "drawn"), [(0.01, 0.01 * MOST_TIMES), (0.1, EVENTFUL_SHARE), (0.6, 0.6), (1.0, 1.0), (0.0, 0.0)]
)
def test_eventful_windows_are_drawn_at_the_stated_share_with_weights_that_make_up_for_it(
    share: float, drawn: float
) -> None:
    mask = np.zeros((10, 1000), np.bool_)
    mask[:, : round(1000 * share)] = True
    origins = Origins(OriginSet.from_mask(np.ones_like(mask)), OriginSet.from_mask(mask))
    assert origins.drawn_share == pytest.approx(drawn)
    n = 200_000
    servers, columns, weight = origins.draw(n, np.random.default_rng(7))
    among = mask[servers, columns]
    assert among.mean() == pytest.approx(drawn, abs=5 * np.sqrt(0.25 / n))
    assert weight.mean() == pytest.approx(1, abs=5 * weight.std() / np.sqrt(n) + 1e-6)
    assert (weight * among).mean() == pytest.approx(share, abs=5 * np.std(weight * among) / np.sqrt(n) + 1e-6)
    for indicator, uniform in ((servers == 3, 0.1), (columns < 50, 0.05), (columns >= 900, 0.1)):
        counted = weight * indicator
        assert counted.mean() == pytest.approx(uniform, abs=5 * counted.std() / np.sqrt(n))
    counts = np.bincount(columns[among], minlength=1000)[: round(1000 * share)]
    if share:
        assert counts.max() < 2 * counts.mean() + 30  # alike among themselves


# ------------------------------------------------------------------------------------------------------------- batches
def test_every_epoch_draws_other_windows_and_validation_always_the_same() -> None:
    training = batches_of(GRID, windows=70, batch_size=32, seed=1)
    assert len(training) == 3
    first = list(training)
    assert [len(batch.labels) for batch in first] == [23, 23, 24]
    assert all(same(a, b) for a, b in zip(first, training, strict=True))
    training.epoch = 1
    assert not torch.equal(next(iter(training)).labels, first[0].labels)
    validation = batches_of(GRID, validation=True, windows=10, batch_size=32, seed=1)
    before = next(iter(validation))
    validation.epoch = 5
    assert same(before, next(iter(validation))) and (before.weight == 1).all()


def test_other_seeds_draw_other_windows() -> None:
    for validation in (False, True):
        one, other = (
            next(iter(batches_of(GRID, validation=validation, windows=10, batch_size=10, seed=k))) for k in (1, 2)
        )
        assert not same(one, other)


def test_validation_takes_no_more_windows_than_there_are() -> None:
    batches = batches_of(GRID, validation=True, windows=10**9, batch_size=100, seed=1)
    origins = split_origins(GRID, 0.2).validation.usable
    assert batches.windows == len(origins) == sum(len(batch.labels) for batch in batches)


def test_an_iteration_that_begins_with_a_later_batch_goes_on_as_the_whole_one_would_have() -> None:
    batches = batches_of(GRID, windows=100, batch_size=20, seed=3)
    batches.epoch = 2
    whole = list(batches)
    batches.first_batch = 3
    rest = list(batches)
    assert len(rest) == 2 and all(same(a, b) for a, b in zip(whole[3:], rest, strict=True))
    assert batches.first_batch == 0 and len(list(batches)) == 5


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("ranks", [2, 3])
def test_several_processes_share_the_very_batches_that_one_would_have_got(validation: bool, ranks: int) -> None:
    options = {"validation": validation, "windows": 71, "batch_size": 16, "seed": 3}
    parts = [list(batches_of(GRID, rank=rank, ranks=ranks, **options)) for rank in range(ranks)]
    for number, whole in enumerate(batches_of(GRID, **options)):
        for rank in range(ranks):
            part, expected = parts[rank][number], slice(rank, None, ranks)
            assert len(part.labels) and torch.equal(part.weight, whole.weight[expected])
            assert torch.equal(part.labels.nan_to_num(-99), whole.labels[expected].nan_to_num(-99))
            assert torch.equal(part.anchors, whole.anchors[expected])
            assert all(torch.equal(part.inputs[name], whole.inputs[name][expected]) for name in whole.inputs)
    assert {len(part) for part in parts} == {5}


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(1, 8))
def test_no_process_is_left_without_a_part_of_a_batch(windows: int, batch_size: int, ranks: int) -> None:
    options = {"windows": windows, "batch_size": batch_size, "seed": 0, "augmentation": Augmentation(), "ranks": ranks}
    origins = Origins(OriginSet.from_mask(np.ones((2, 600), np.bool_)))
    spec = FeatureSpec(Layout(((12, 1),)), (), (1.0,) * N_METRICS)
    fleet = FleetTensors.from_grid(quiet_fleet(2, 600), spec, [None, None])
    try:
        batches = WindowBatches(fleet, spec, origins, **options)
    except TrainingError as error:
        assert min(windows, batch_size) < 2 * ranks and "fewer processes" in error.fix
        return
    number = len(batches)
    sizes = np.diff([k * windows // number for k in range(number + 1)])
    assert ranks <= sizes.min() <= sizes.max() <= batch_size and sizes.sum() == windows and np.ptp(sizes) <= 1


def test_batches_carry_the_weights_of_their_windows() -> None:
    grid = quiet_fleet()
    grid.states[0, 500:510] = CRITICAL
    split = split_origins(grid, 0.2)
    batches = batches_of(grid, windows=4000, batch_size=500, seed=3)
    weight = torch.cat([batch.weight for batch in batches])
    assert weight.unique().numel() == 2 and weight.mean().item() == pytest.approx(1, abs=0.05)
    rare = (weight == weight.min()).float().mean().item()
    assert rare == pytest.approx(split.train.drawn_share, abs=0.03) and rare > 3 * split.train.eventful_share


# ----------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("steps", [1, 2 * HORIZON_STEPS])
def test_too_little_history_is_told_with_what_is_needed(steps: int) -> None:
    with pytest.raises(TrainingError, match="too little history") as caught:
        split_origins(quiet_fleet(1, steps), 0.2)
    assert "24 hours" in caught.value.fix


def test_a_fleet_that_was_only_measured_at_its_end_is_told_so() -> None:
    grid = quiet_fleet()
    grid.values[:, :1700] = np.nan
    with pytest.raises(TrainingError, match="in both periods"):
        split_origins(grid, 0.2)


def test_one_server_one_profile_a_constant_and_an_unreported_metric_give_finite_batches() -> None:
    frame = make_fleet(FLEET[:1], hours=40)
    frame["mem_pct"], frame["latency_ms"] = 50.0, np.nan
    grid = FleetGrid.from_frame(frame)
    for windows in batches_of(grid, windows=64, batch_size=32, seed=1):
        assert all(torch.isfinite(tensor).all() for tensor in windows.inputs.values())
        assert torch.isfinite(windows.scale.spread).all() and not windows.observed[:, 3].any()
        assert torch.isnan(windows.labels[..., 3]).all() and (windows.labels[..., 1] == 0).all()
