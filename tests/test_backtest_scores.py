"""Tests of backtest_scores.py: sums over windows against plain re-computations of each score, all labels at once."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_pinball_loss

from backtest_scores import BANDS, HELD_OUT, HELD_OUT_GENERIC, KNOWN, Labels, Scores, mean_score
from data_contract import HORIZON_STEPS, METRIC_COLUMNS, VALID_PROFILES, VALID_STATES

LEVELS = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
DECILES = LEVELS[1:-1]
SHAPE = (24, HORIZON_STEPS, len(METRIC_COLUMNS))


def some_windows(seed: int = 0, missing: float = 0.2) -> tuple[np.ndarray, Labels]:
    """Forecasts and labels of 24 windows, idle ones among them, with gaps."""
    rng = np.random.default_rng(seed)
    forecast = np.sort(rng.gamma(2.0, 10.0, (*SHAPE, len(LEVELS))), axis=-1)
    truth = rng.gamma(2.0, 10.0, SHAPE)
    forecast[3], truth[3] = 5.0, 5.0
    truth[rng.random(SHAPE) < missing] = np.nan
    truth[5, :, 1] = np.nan
    scale = rng.uniform(1, 5, (SHAPE[0], SHAPE[2]))
    scale[2, 0], scale[4, 1] = 0.0, np.nan
    labels = Labels(
        truth,
        rng.integers(-1, len(VALID_STATES), SHAPE[:2]).astype(np.int8),
        rng.integers(0, 3, SHAPE[0]),
        rng.choice([KNOWN, HELD_OUT_GENERIC, HELD_OUT], SHAPE[0]),
        scale,
    )
    return forecast, labels


def scored(forecast: np.ndarray, labels: Labels) -> Scores:
    scores = Scores(LEVELS)
    scores.add(forecast, labels)
    return scores


def row_of(rows: list[dict[str, Any]], **wanted: str) -> dict[str, Any]:
    (found,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return found


def plain_scores(forecast: np.ndarray, labels: Labels, chosen: np.ndarray, k: int) -> dict[str, float]:
    """Scores of metric `k` over the labels that a mask of (windows, 96) chooses, each from its definition."""
    seen = chosen & np.isfinite(labels.truth[..., k])
    y, q = labels.truth[..., k][seen], forecast[:, :, k][seen]
    losses = [mean_pinball_loss(y, q[:, LEVELS.index(level)], alpha=level) * len(y) for level in DECILES]
    ratios = []
    for window, its in enumerate(seen):
        scale = labels.scale[window, k]
        if its.any() and scale > 0:
            median = forecast[window, its, k, LEVELS.index(0.5)]
            ratios.append(mean_absolute_error(labels.truth[window, its, k], median) / scale)
    return {
        "crps": np.mean([2 * loss / np.abs(y).sum() for loss in losses]),
        "mase": np.mean(ratios),
        "mae": mean_absolute_error(y, q[:, LEVELS.index(0.5)]),
        "coverage_p10_p90": np.mean((y >= q[:, 1]) & (y <= q[:, -2])),
        "sharpness": np.mean(q[:, -2] - q[:, 1]),
        "bias": np.mean(q[:, LEVELS.index(0.5)] - y),
        "labels": len(y),
    }


def test_every_group_has_the_scores_that_its_labels_give_by_definition() -> None:
    forecast, labels = some_windows()
    rows = scored(forecast, labels).rows("some")
    everything = np.ones(SHAPE[:2], dtype=bool)
    steps = np.broadcast_to(np.arange(1, HORIZON_STEPS + 1), SHAPE[:2])
    groups = {("all", "all"): everything}
    groups |= {("horizon", name): (steps >= first) & (steps <= last) for name, (first, last) in BANDS.items()}
    groups |= {("state", name): labels.states == place for place, name in enumerate(VALID_STATES)}
    by_window = [("profile", VALID_PROFILES[place], labels.profiles == place) for place in range(3)]
    by_window += [("server", "known", labels.kinds == KNOWN), ("server", "held_out", labels.kinds != KNOWN)]
    groups |= {(group, name): everything & mask[:, None] for group, name, mask in by_window}
    for (group, value), chosen in groups.items():
        for k, metric in enumerate(METRIC_COLUMNS):
            row = row_of(rows, metric=metric, group=group, value=value)
            expected = plain_scores(forecast, labels, chosen, k)
            assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-9), (group, value, metric)
    assert {(row["group"], row["value"]) for row in rows} == set(groups)
    (hidden,) = [row for row in scored(forecast, labels).profile_rows("some", "known") if row["metric"] == "cpu_pct"]
    assert hidden["mae"] == pytest.approx(plain_scores(forecast, labels, (labels.kinds == HELD_OUT)[:, None], 0)["mae"])


def test_all_metrics_together_are_the_mean_of_what_has_no_unit() -> None:
    rows = scored(*some_windows()).rows("some")
    parts = [row_of(rows, metric=metric, group="all") for metric in METRIC_COLUMNS]
    whole = row_of(rows, metric="all", group="all")
    for key in ("crps", "mase", "coverage_p10_p90"):
        assert whole[key] == pytest.approx(np.mean([part[key] for part in parts]))
    assert (whole["mae"], whole["sharpness"], whole["bias"]) == (None, None, None)
    assert whole["labels"] == sum(part["labels"] for part in parts)
    assert mean_score([])["crps"] is None


def test_scores_at_a_step_are_those_of_its_labels() -> None:
    forecast, labels = some_windows()
    found = scored(forecast, labels).by_step("some")
    assert len(found) == HORIZON_STEPS * len(METRIC_COLUMNS)
    chosen = np.zeros(SHAPE[:2], dtype=bool)
    chosen[:, 11] = True
    expected = plain_scores(forecast, labels, chosen, 2)
    row = row_of([{**each, "step": str(each["step"])} for each in found], metric="disk_io_mb_s", step="12")
    for key in ("crps", "mae", "coverage_p10_p90", "sharpness"):
        assert row[key] == pytest.approx(expected[key])


def numbers_of(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, (int, float))}


@settings(max_examples=10, deadline=None, phases=[Phase.generate])
@given(st.integers(0, 2**31), st.lists(st.integers(1, 23), max_size=4))
def test_windows_added_in_pieces_and_merged_give_the_same_as_all_at_once(seed: int, cuts: list[int]) -> None:
    forecast, labels = some_windows(seed)
    whole, pieces = scored(forecast, labels), Scores(LEVELS)
    for rows in np.split(np.arange(SHAPE[0]), sorted(set(cuts))):
        of_piece = scored(forecast[rows], labels.of(rows))
        pieces.merge(pickle.loads(pickle.dumps(of_piece)))  # as from another process
    for one, other in zip(whole.rows("a"), pieces.rows("a"), strict=True):
        assert (one["metric"], one["value"]) == (other["metric"], other["value"])
        assert numbers_of(one) == pytest.approx(numbers_of(other), rel=1e-9)
    assert (whole.crossings, whole.unanswered) == (pieces.crossings, pieces.unanswered) == (0, 0)


# --------------------------------------------------------------------------------------------------------- calibration
def test_a_perfect_forecast_is_calibrated_and_a_shifted_one_is_not() -> None:
    rng = np.random.default_rng(1)
    truth = rng.uniform(0, 100, (300, *SHAPE[1:]))
    labels = Labels(
        truth,
        np.zeros(truth.shape[:2], np.int8),
        np.zeros(300, np.int64),
        np.zeros(300, np.int64),
        np.ones((300, len(METRIC_COLUMNS))),
    )
    uniform = np.broadcast_to(100 * np.asarray(LEVELS), (*truth.shape, len(LEVELS)))
    for row in scored(uniform, labels).calibration("perfect"):
        assert row["share_below"] == pytest.approx(row["quantile"], abs=0.01)
    low = [row["share_below"] - row["quantile"] for row in scored(uniform - 10, labels).calibration("low")]
    assert max(low) < 0 and min(low) == pytest.approx(-0.1, abs=0.02)


def test_a_server_that_stands_still_as_forecast_counts_as_calibrated() -> None:
    forecast, labels = some_windows(missing=0.0)
    still = labels.of(np.array([3]))
    for row in scored(forecast[3:4], still).calibration("still"):
        if row["metric"] != "mem_pct":
            assert row["share_below"] == pytest.approx(row["quantile"])
    # Of p02 to p40 below the label, the median and p60 equal to it, and the rest above:
    of_one = np.broadcast_to(np.array([1, 1, 1, 1, 1, 5, 5, 9, 9, 9, 9.0]), (1, *SHAPE[1:], len(LEVELS)))
    shares = [row["share_below"] for row in scored(of_one, still).calibration("some")[: len(LEVELS)]]
    assert shares == pytest.approx([0, 0, 0, 0, 0, 1 / 3, 2 / 3, 1, 1, 1, 1])


def test_crossed_quantiles_are_counted_once_per_step() -> None:
    forecast, labels = some_windows(missing=0.0)
    forecast[0, 7, 2, 4] = forecast[0, 7, 2, 9] + 1
    forecast[1, 8, 0, [3, 6]] = 1e6
    assert scored(forecast, labels).crossings == 2


# ------------------------------------------------------------------------------------------------- nothing to be scored
def test_labels_without_a_forecast_are_counted_and_not_scored() -> None:
    forecast, labels = some_windows(missing=0.0)
    forecast[0, :, 3] = np.nan
    forecast[1, 5, 0, 2] = np.nan
    scores = scored(forecast, labels)
    assert scores.unanswered == HORIZON_STEPS + 1
    assert scores.labels == np.isfinite(labels.truth).sum() - scores.unanswered


def test_a_metric_that_nobody_reports_has_no_scores_but_is_named() -> None:
    forecast, labels = some_windows()
    labels.truth[..., 3] = np.nan
    scores = scored(forecast, labels)
    row = row_of(scores.rows("some"), metric="latency_ms", group="all")
    assert row["labels"] == 0
    assert {row[key] for key in ("crps", "mase", "mae", "coverage_p10_p90", "sharpness", "bias")} == {None}
    assert not [row for row in scores.rows("some") if row["metric"] == "latency_ms" and row["group"] != "all"]
    assert {row["share_below"] for row in scores.calibration("some") if row["metric"] == "latency_ms"} == {None}


def test_labels_that_are_all_zero_have_errors_but_no_relative_ones() -> None:
    forecast, labels = some_windows()
    labels.truth[:] = 0.0
    labels.scale[:] = 0.0
    row = row_of(scored(forecast, labels).rows("some"), metric="cpu_pct", group="all")
    assert (row["crps"], row["mase"]) == (None, None) and row["mae"] > 0


def test_quantiles_without_a_decile_are_refused() -> None:
    with pytest.raises(ValueError, match=r"quantile 0\.2 is not among"):
        Scores((0.1, 0.5, 0.9))
