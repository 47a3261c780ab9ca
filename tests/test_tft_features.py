"""Tests of tft_features.py: what the network is shown, and the way back to units."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_fleet
from hypothesis import given, settings
from hypothesis import strategies as st

from data_contract import HORIZON_STEPS, METRIC_COLUMNS
from fleet_grid import DAY_STEPS, FleetGrid
from fleet_spreads import mean_root_spread, typical_spread
from model_inputs import CATEGORICALS, Layout
from tft_features import (
    RECENT_STEPS,
    Augmentation,
    FeatureSpec,
    FleetTensors,
    Scale,
    Windows,
    gather_windows,
    softened,
)

GRID = FleetGrid.from_frame(make_fleet(hours=80))
FINE = Layout(pieces=((36, 1),), patch=1, lag_days=(1,), cycles=False)
SPEC = FeatureSpec(FINE, tuple(str(k) for k in range(GRID.n_servers)), typical_spread(GRID))
IDS = [str(k) for k in range(GRID.n_servers)]


def windows_of(grid: FleetGrid, servers: list[int], origins: list[int], **more: object) -> Windows:
    """Windows at the given places."""
    fleet = FleetTensors.from_grid(grid, SPEC, IDS[: grid.n_servers])
    return gather_windows(fleet, torch.tensor(servers), torch.tensor(origins), SPEC, **more)


def real(windows: Windows, part: str, name: str) -> np.ndarray:
    """One variable of the network's input, (batch, steps)."""
    return windows.inputs[f"{part}_cont"][..., FINE.reals.index(name)].numpy()


def test_shapes_and_names_are_those_that_pytorch_forecasting_expects() -> None:
    windows = windows_of(GRID, [0, 1, 5], [400, 500, 600])
    assert windows.inputs["encoder_cont"].shape == (3, 36, len(FINE.reals))
    assert windows.inputs["decoder_cont"].shape == (3, HORIZON_STEPS, len(FINE.reals))
    assert windows.inputs["encoder_cat"].shape == (3, 36, len(CATEGORICALS))
    assert set(FINE.static_reals) | set(FINE.encoder_reals) | set(FINE.decoder_reals) == set(FINE.reals)
    assert all(torch.isfinite(tensor).all() for tensor in windows.inputs.values())


def test_the_future_cannot_be_seen_in_the_inputs_nor_in_the_scale() -> None:
    origin = 500
    values = GRID.values.copy()
    values[:, origin:] = 99.0
    states = GRID.states.copy()
    states[:, origin:] = 7
    before, after = (
        windows_of(grid, [0, 3], [origin, origin]) for grid in (GRID, replace(GRID, values=values, states=states))
    )
    for name, tensor in before.inputs.items():
        assert torch.equal(tensor, after.inputs[name]), name
    assert torch.equal(before.scale.center, after.scale.center) and torch.equal(before.scale.spread, after.scale.spread)
    assert not torch.equal(before.labels, after.labels)


def test_only_the_declared_history_can_be_seen() -> None:
    origin = 700
    values = GRID.values.copy()
    values[:, : origin - SPEC.history_steps] = 1.0
    before, after = (windows_of(grid, [2], [origin]) for grid in (GRID, replace(GRID, values=values)))
    assert all(torch.equal(tensor, after.inputs[name]) for name, tensor in before.inputs.items())


def test_labels_go_back_to_the_measured_units() -> None:
    origin = 500
    windows = windows_of(GRID, [4], [origin])
    units = windows.scale.units(windows.labels[..., None])[0, :, :, 0].numpy()
    np.testing.assert_allclose(units, GRID.values[4, origin : origin + HORIZON_STEPS], rtol=1e-4, atol=1e-3)


def test_decoded_values_stay_in_the_contracts_ranges() -> None:
    windows = windows_of(GRID, [0], [500])
    extreme = torch.linspace(-50, 50, 11).expand(1, HORIZON_STEPS, 4, 11)
    units = windows.scale.units(extreme)
    assert (units >= 0).all() and (units[:, :, :2] <= 100).all() and units.isfinite().all()
    assert (units.diff(dim=-1) >= 0).all()


def test_values_of_the_day_before_are_given_for_the_whole_horizon() -> None:
    origin = 600
    windows = windows_of(GRID, [1], [origin])
    for k, column in enumerate(METRIC_COLUMNS):
        ago = torch.from_numpy(GRID.values[1:2, origin - DAY_STEPS : origin - DAY_STEPS + HORIZON_STEPS])
        expected = windows.scale.scaled(ago)[0, :, k].numpy()
        np.testing.assert_allclose(real(windows, "decoder", f"{column}_1d_ago")[0], expected, atol=1e-6)
    assert not real(windows, "decoder", "1d_ago_missing").any()


COARSE = Layout(pieces=((3, 12), (4, 3), (6, 1)), patch=6, lag_days=(1, 2))


def test_the_past_is_read_in_pieces_each_with_its_mean_its_reach_and_what_it_lacks() -> None:
    origin = 600
    values = GRID.values.copy()
    values[2, origin - 20 : origin - 18, 0] = np.nan  # ends of the newest hour but one quarter
    values[2, origin - 54 : origin - 42, 1] = np.nan  # the whole first piece
    grid = replace(GRID, values=values)
    spec = replace(SPEC, layout=COARSE)
    windows = gather_windows(FleetTensors.from_grid(grid, spec, IDS), torch.tensor([2]), torch.tensor([origin]), spec)
    shown = windows.inputs["encoder_cont"][0]
    assert shown.shape == (13, len(COARSE.reals))

    def column(name: str) -> np.ndarray:
        return shown[:, COARSE.reals.index(name)].numpy()

    begin = origin - COARSE.encoder_steps
    for place, steps in enumerate(COARSE.piece_steps):
        piece = values[2, begin : begin + steps]
        begin += steps
        for k, name in enumerate(METRIC_COLUMNS):
            known = piece[np.isfinite(piece[:, k]), k]
            assert column(f"{name}_missing")[place] == pytest.approx(1 - len(known) / steps)
            if not len(known):
                assert column(name)[place] == column(f"{name}_above")[place] == column(f"{name}_below")[place] == 0
                continue
            mean, highest, lowest = (
                float(windows.scale.scaled(torch.full((1, 1, 4), float(each)))[0, 0, k])
                for each in (known.mean(), known.max(), known.min())
            )
            assert column(name)[place] == pytest.approx(mean, abs=1e-4)
            assert column(f"{name}_above")[place] == pytest.approx(highest - mean, abs=1e-4)
            assert column(f"{name}_below")[place] == pytest.approx(mean - lowest, abs=1e-4)
    assert begin == origin
    assert column("relative_step")[-1] == pytest.approx(-1 / HORIZON_STEPS)
    assert column("piece_length")[0] > column("piece_length")[5] > column("piece_length")[-1] == 0


def test_each_patch_of_the_horizon_is_shown_the_mean_and_the_peak_of_its_time_on_earlier_days() -> None:
    origin = 700
    spec = replace(SPEC, layout=COARSE)
    windows = gather_windows(FleetTensors.from_grid(GRID, spec, IDS), torch.tensor([1]), torch.tensor([origin]), spec)
    shown = windows.inputs["decoder_cont"][0]
    assert shown.shape == (HORIZON_STEPS // 6, len(COARSE.reals)) and windows.labels.shape[1] == HORIZON_STEPS
    for days in (1, 2):
        begin = origin - days * DAY_STEPS
        ago = windows.scale.scaled(torch.from_numpy(GRID.values[1:2, begin : begin + HORIZON_STEPS]))[0]
        patches = ago.reshape(-1, 6, 4)
        for k, name in enumerate(METRIC_COLUMNS):
            mean = shown[:, COARSE.reals.index(f"{name}_{days}d_ago")]
            peak = shown[:, COARSE.reals.index(f"{name}_{days}d_ago_peak")]
            torch.testing.assert_close(mean, patches[..., k].mean(dim=1), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(mean + peak, patches[..., k].amax(dim=1), rtol=1e-4, atol=1e-5)


def test_layouts_without_sense_are_refused() -> None:
    for pieces, patch in (("", 6), ("24x12,", 6), ("0x12", 6), ("1x289", 6), ("8x288", 6), ("24x12", 7), ("24x12", 0)):
        with pytest.raises(ValueError, match=r"pieces|patch|count x steps"):
            Layout.parse(pieces, patch)


@pytest.mark.parametrize("layout", [COARSE, replace(FINE, cycles=True)], ids=["in patches", "step by step"])
def test_the_last_period_of_each_metric_is_shown_and_is_an_anchor(layout) -> None:
    values = GRID.values[:1].copy()
    steps = np.arange(values.shape[1])
    values[0, :, 0] = 10 + 60 * (steps % 25 < 9)  # a job every 125 minutes
    values[0, :, 3] = np.nan
    grid, origin = replace(GRID, names=GRID.names[:1], profiles=GRID.profiles[:1], values=values), 700
    spec = replace(SPEC, layout=layout)
    windows = gather_windows(
        FleetTensors.from_grid(replace(grid, states=GRID.states[:1]), spec, IDS[:1]),
        torch.tensor([0]),
        torch.tensor([origin]),
        spec,
    )
    names = (*layout.static_reals, *layout.cycle_reals)
    shown = {name: windows.inputs["decoder_cont"][0, :, layout.reals.index(name)] for name in names}
    true = windows.scale.scaled(torch.from_numpy(values[:, origin : origin + HORIZON_STEPS]))[0, :, 0]
    of_patches = true.view(-1, layout.patch)
    torch.testing.assert_close(shown["cpu_pct_cycle"], of_patches.mean(dim=1))
    if layout.patch > 1:
        torch.testing.assert_close(shown["cpu_pct_cycle_peak"], of_patches.amax(dim=1) - of_patches.mean(dim=1))
    assert (shown["cpu_pct_cycle_strength"] > 0.95).all() and (shown["latency_ms_cycle_strength"] == 0).all()
    assert layout.anchors[4] == "cycle"
    torch.testing.assert_close(windows.anchors[0, :, 0, 4], true)
    assert (windows.anchors[0, :, 3, 4] == 0).all()


def test_anchors_are_the_recent_level_the_last_value_the_day_before_and_the_median() -> None:
    origin = 600
    values = GRID.values.copy()
    values[0, origin - 1, 0] = np.nan
    values[0, origin - 2, 1] = 99.0  # one outlier does not move the recent level
    windows = windows_of(replace(GRID, values=values), [0], [origin])
    units = windows.scale.units(windows.anchors)[0].numpy()  # (horizon, n_metrics, n_anchors)
    recent = np.nanmedian(values[0, origin - RECENT_STEPS : origin], axis=0)
    np.testing.assert_allclose(units[:, 2:, 0], np.broadcast_to(recent[2:], (HORIZON_STEPS, 2)), rtol=0.1)
    assert abs(units[0, 1, 0] - recent[1]) < 3 and len(FINE.anchors) == units.shape[-1]
    np.testing.assert_allclose(
        units[:, 1:, 1], np.broadcast_to(values[0, origin - 1, 1:], (HORIZON_STEPS, 3)), rtol=1e-3
    )
    np.testing.assert_allclose(units[:, 0, 1], values[0, origin - 2, 0], rtol=1e-3)
    np.testing.assert_allclose(units[..., 2], values[0, origin - DAY_STEPS :][:HORIZON_STEPS], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(units[0, :, 3], windows.scale.center[0], rtol=1e-5)


def test_anchors_of_a_server_that_has_just_gone_silent_start_from_its_last_value() -> None:
    values = GRID.values.copy()
    values[0, 590:600] = np.nan
    windows = windows_of(replace(GRID, values=values), [0], [600])
    np.testing.assert_allclose(windows.scale.units(windows.anchors)[0, 0, :, 0], values[0, 589], rtol=1e-3)
    nothing = windows_of(replace(GRID, values=np.full_like(values, np.nan)), [0], [600])
    assert (nothing.anchors == 0).all() and not nothing.observed.any()


def test_missing_values_are_masked_and_flagged_never_filled() -> None:
    values = GRID.values.copy()
    values[0, 490:495, 0] = np.nan
    windows = windows_of(replace(GRID, values=values), [0], [500])
    flagged = real(windows, "encoder", "cpu_pct_missing")[0]
    np.testing.assert_array_equal(np.flatnonzero(flagged), np.arange(26, 31))
    assert (real(windows, "encoder", "cpu_pct")[0][26:31] == 0).all()
    assert not real(windows, "encoder", "mem_pct_missing").any()


def test_a_window_at_the_very_start_has_all_its_missing_past_masked() -> None:
    windows = windows_of(GRID, [0], [1])
    assert real(windows, "encoder", "cpu_pct_missing")[0].sum() == 35
    assert real(windows, "decoder", "1d_ago_missing").all()
    assert windows.observed.all()
    naive, day_ago = windows.naive
    np.testing.assert_allclose(naive[0, :, 0], GRID.values[0, 0, 0])
    assert torch.isnan(day_ago).all()


def test_a_metric_that_was_never_seen_in_the_day_before_is_not_observed() -> None:
    values = GRID.values.copy()
    values[0, : 600 - 1, 3] = np.nan
    values[0, 600 - DAY_STEPS - 5, 3] = 12.0  # more than a day ago
    values[1, 599, 3] = 12.0
    values[0, 599, 3] = np.nan
    windows = windows_of(replace(GRID, values=values), [0, 1], [600, 600])
    assert windows.observed.tolist() == [[True, True, True, False], [True, True, True, True]]


def test_a_constant_metric_has_a_usable_scale() -> None:
    values = GRID.values.copy()
    values[0, :, 1] = 42.0
    windows = windows_of(replace(GRID, values=values), [0], [600])
    assert windows.scale.center[0, 1] == 42 and windows.scale.spread[0, 1] > 0
    assert (real(windows, "encoder", "mem_pct") == 0).all()


def test_calendar_is_utc_and_knows_the_weekend() -> None:
    # 2026-03-04 00:00 UTC, a Wednesday, is the end of the grid: 80 hours long.
    noon = GRID.n_steps - DAY_STEPS // 2
    windows = windows_of(GRID, [0], [noon])
    np.testing.assert_allclose(real(windows, "decoder", "time_of_day_cos")[0, 0], -1, atol=1e-6)
    assert not real(windows, "decoder", "is_weekend").any()
    sunday = windows_of(GRID, [0], [100])  # 2026-03-01 is a Sunday
    assert real(sunday, "decoder", "is_weekend")[0, 0] == 1
    relative = real(windows, "encoder", "relative_step")[0, -1], real(windows, "decoder", "relative_step")[0, 0]
    np.testing.assert_allclose(relative, [-1 / HORIZON_STEPS, 0])


def test_unknown_names_profiles_and_states_take_the_nan_category() -> None:
    states = np.full_like(GRID.states, -1)
    grid = replace(GRID, states=states, profiles=("mainframe", *GRID.profiles[1:]))
    fleet = FleetTensors.from_grid(grid, SPEC, [None, "999999", *IDS[2:]])
    windows = gather_windows(fleet, torch.tensor([0, 1, 2]), torch.tensor([500] * 3), SPEC)
    profile, server, state = (windows.inputs["encoder_cat"][:, 0, k].tolist() for k in range(3))
    assert server == [0, 0, 3] and profile[0] == 0 and min(profile[1:]) > 0 and state == [0, 0, 0]


def test_augmentation_hides_the_stated_share_and_is_reproducible() -> None:
    servers, origins = [1] * 2000, [600] * 2000
    hide = Augmentation(unknown_server=0.3, unknown_profile=0.0, unknown_state=1.0, short_history=0.5)
    first, second = (
        windows_of(GRID, servers, origins, augmentation=hide, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert all(torch.equal(tensor, second.inputs[name]) for name, tensor in first.inputs.items())
    profile, server, state = (first.inputs["encoder_cat"][:, 0, k] for k in range(3))
    assert 0.25 < (server == 0).float().mean() < 0.35
    assert (profile > 0).all() and (first.inputs["encoder_cat"][..., 2] == 0).all() and (state == 0).all()
    short = real(first, "decoder", "1d_ago_missing").all(axis=1)
    assert 0.45 < short.mean() < 0.55
    kept = (~real(first, "encoder", "cpu_pct_missing").astype(bool)).sum(axis=1)[short]
    assert kept.min() == 1 and np.median(kept) < 20  # very short ones are often among them
    assert not real(first, "encoder", "cpu_pct_missing")[:, -1].any()  # the newest step always stays
    assert torch.isfinite(first.labels).all()


VALUE = st.sampled_from([0.0, 1e-30, 0.5, 42.0, 100.0, 1e6, 1e30]) | st.floats(0, 100, width=32)


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 800),
    st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    st.lists(VALUE, min_size=1),
    st.data(),
)
def test_inputs_scales_and_anchors_are_finite_whatever_a_fleet_reports(
    seed: int, steps: int, missing: float, levels: list[float], data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice(np.array(levels, np.float32), (2, steps, len(METRIC_COLUMNS)))  # also constant ones
    values[rng.random(values.shape) < missing] = np.nan
    values[..., data.draw(st.integers(0, 3))] = np.nan  # never reported
    states = rng.integers(-1, 8, (2, steps)).astype(np.int8)
    grid = FleetGrid(("ppweb001", "x"), ("web_api", "generic"), 5_900_000, values, states)
    spec = FeatureSpec(Layout(), ("0",), typical_spread(grid))
    fleet = FleetTensors.from_grid(grid, spec, ["0", None])
    origins = torch.from_numpy(rng.integers(0, steps + 1, 8))
    for hide in (None, Augmentation(short_history=0.5)):
        windows = gather_windows(fleet, torch.tensor([0, 1] * 4), origins, spec, hide, torch.Generator().manual_seed(1))
        tensors = [*windows.inputs.values(), windows.scale.center, windows.scale.spread, windows.anchors]
        assert all(torch.isfinite(tensor).all() for tensor in tensors)
        expected = np.full((8, HORIZON_STEPS), np.nan, np.float32)
        for row, origin in enumerate(origins.tolist()):
            ahead = values[row % 2, origin : origin + HORIZON_STEPS, 0]
            expected[row, : len(ahead)] = ahead
        np.testing.assert_array_equal(torch.isnan(windows.labels[..., 0]), np.isnan(expected))
        units = windows.scale.units(windows.labels[..., None])
        assert torch.equal(torch.isfinite(units), torch.isfinite(windows.labels[..., None]))


def test_a_part_of_a_batch_is_what_the_whole_has_there_with_the_same_things_hidden() -> None:
    servers, origins = [0, 1, 2, 3, 4] * 8, list(range(300, 700, 10))
    whole, part = (
        windows_of(
            GRID, servers, origins, augmentation=Augmentation(), generator=torch.Generator().manual_seed(3), **more
        )
        for more in ({}, {"part": slice(1, None, 3)})
    )
    assert all(torch.equal(tensor, whole.inputs[name][1::3]) for name, tensor in part.inputs.items())
    assert torch.equal(part.labels, whole.labels[1::3]) and torch.equal(part.weight, torch.ones(len(part.labels)))


def test_a_grid_cut_out_of_a_longer_or_wider_one_gives_the_windows_of_its_own_columns() -> None:
    begin = 200
    later = GRID.since(GRID.first_step + begin)
    odd = FleetGrid(later.names, later.profiles, later.first_step, later.values[:, :, ::-1][:, :, ::-1], later.states)
    swapped = replace(later, values=np.asfortranarray(later.values), states=np.asfortranarray(later.states))
    for grid in (later, odd, swapped):
        one, other = windows_of(GRID, [3, 5], [700, 800]), windows_of(grid, [3, 5], [700 - begin, 800 - begin])
        assert torch.equal(one.inputs["encoder_cont"], other.inputs["encoder_cont"])
        assert torch.equal(one.inputs["encoder_cat"], other.inputs["encoder_cat"])
        assert torch.equal(one.labels.nan_to_num(-9), other.labels.nan_to_num(-9))


def test_the_median_of_a_window_is_the_lower_one_of_what_is_there() -> None:
    values = torch.from_numpy(GRID.values[:, :289]).clone()
    values[torch.rand(values.shape, generator=torch.Generator().manual_seed(1)) < 0.5] = torch.nan
    values[0, :, 0], values[1, 1:, 1] = torch.nan, torch.nan
    windows = windows_of(replace(GRID, values=values.numpy(), states=GRID.states[:, :289]), [0, 1, 2], [289] * 3)
    expected = torch.nanmedian(values[:3, 1:], dim=1).values.nan_to_num()
    assert torch.equal(windows.scale.center, expected)


def test_the_space_of_the_loss_is_monotone_odd_and_smooth() -> None:
    scaled = torch.linspace(-12, 12, 2401, dtype=torch.float64, requires_grad=True)
    soft = softened(scaled)
    (slope,) = torch.autograd.grad(soft.sum(), scaled)
    assert (soft.diff() > 0).all() and torch.isfinite(slope).all() and (slope > 0.5).all()
    torch.testing.assert_close(soft, -soft.flip(0))
    assert slope.diff().abs().max() < 0.5  # also where the straight line begins
    assert softened(torch.tensor([float(np.arcsinh(3.0))])).item() == pytest.approx(2.0, abs=1e-5)
    assert torch.isnan(softened(torch.tensor([float("nan")]))).all()


def test_busy_windows_count_more_and_all_of_them_one_on_average() -> None:
    usual = torch.tensor(mean_root_spread(GRID))
    days = torch.tensor([typical_spread(GRID), [4 * each for each in typical_spread(GRID)]])
    importance = Scale(torch.zeros_like(days), days).importance(usual)
    torch.testing.assert_close(importance[1], 2 * importance[0])  # the root of the spread
    assert ((importance[0] > 0.5) & (importance[0] < 1.5)).all()
    values = GRID.values.copy()
    values[..., 3] = np.nan
    assert all(each > 0 for each in mean_root_spread(replace(GRID, values=values)))  # nothing is divided by zero


def test_typical_spread_ignores_metrics_that_are_never_reported() -> None:
    values = GRID.values.copy()
    values[..., 3] = np.nan
    spread = typical_spread(replace(GRID, values=values))
    assert spread[3] == 0.0 and all(each > 0 for each in spread[:3])
