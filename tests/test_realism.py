"""The realism benchmark: its figures on series whose answer is known, its classifier on fleets alike and unlike."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metrics_generator import GeneratorOptions, generate_frame

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import realism
import realism_classifier
import realism_features
import realism_fleets
import realism_measures as measures
import realism_plot
from realism_measures import DAY, HOUR

TIME_OF_DAY = np.tile(np.arange(DAY), 30)
SINE = np.sin(TIME_OF_DAY / DAY * 2 * np.pi)
WEEKDAY = np.repeat(np.arange(30) % 7, DAY)


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture(scope="module")
def fleet():
    start = datetime(2026, 1, 5, tzinfo=timezone.utc)
    return realism_fleets.to_fleet(generate_frame(GeneratorOptions(servers=120, hours=4 * 24, start=start, seed=3)))


def noise(rng, servers=4, days=30):
    return rng.standard_normal((servers, days * DAY))


# --------------------------------------------------------------------------------------------------------- the figures
def test_a_daily_sine_is_all_daily_and_nothing_weekly():
    assert measures.daily_share(SINE[None]) == pytest.approx(1, abs=0.01)
    assert measures.weekly_share(SINE[None]) == pytest.approx(0, abs=0.01)


def test_white_noise_has_no_rhythm_and_no_memory(rng):
    white = noise(rng)
    assert np.abs(measures.daily_share(white)).max() < 0.02  # a plain R² of the daily mean would be 1/30
    assert np.abs(measures.weekly_share(white)).max() < 0.03
    assert all(np.abs(measures.autocorrelation(white, lag)).max() < 0.05 for lag in (1, HOUR, DAY))


def test_half_rhythm_and_half_noise_is_half_daily(rng):
    mixed = SINE * np.sqrt(2) + noise(rng)
    assert measures.daily_share(mixed) == pytest.approx(0.5, abs=0.03)


def test_a_slow_drift_is_no_rhythm(rng):
    drift = np.cumsum(noise(rng, servers=20), axis=1)
    drift -= np.linspace(0, 1, drift.shape[1]) * drift[:, -1:]
    assert abs(np.median(measures.daily_share(drift))) < 0.02
    assert abs(np.median(measures.weekly_share(drift))) < 0.1


def test_quiet_weekends_are_weekly_and_not_daily():
    week = np.where(WEEKDAY >= 5, 0.0, 1.0)[None]
    assert measures.weekly_share(week) == pytest.approx(1, abs=0.1)
    assert measures.daily_share(week) == pytest.approx(0, abs=0.01)


def test_gaps_do_not_change_a_rhythm(rng):
    holed = np.where(rng.random(SINE.shape) < 0.3, np.nan, SINE)[None]
    holed[0, 5 * DAY : 7 * DAY] = np.nan
    assert measures.daily_share(holed) == pytest.approx(1, abs=0.05)
    assert measures.autocorrelation(holed, 1) == pytest.approx(1, abs=0.01)


def test_a_constant_has_no_answer_rather_than_a_wrong_one():
    constant = np.full((1, 10 * DAY), 7.0)
    for figure in (measures.daily_share, measures.weekly_share, lambda x: measures.autocorrelation(x, 1)):
        assert np.isnan(figure(constant)).all()
    assert measures.repeat_share(constant) == 1 and measures.zero_share(constant) == 0
    assert np.isnan(measures.spearman(constant, SINE[None, : 10 * DAY])).all()


def test_bursts_are_counted_measured_and_joined_over_midnight(rng):
    series = 10 + 0.1 * noise(rng, servers=2, days=4)
    series[0, 100:106] += 50
    series[0, 2 * DAY - 2 : 2 * DAY + 2] += 30
    series[1, DAY + 7] += 4.0  # below the floor
    bursts = measures.find_bursts(series, floor=5.0)
    assert bursts.server.tolist() == [0, 0] and bursts.steps.tolist() == [6, 4]
    assert bursts.height == pytest.approx([50, 30], abs=1)
    assert bursts.rate() == pytest.approx([0.5, 0])


def test_decimals_zeros_and_repeats_are_seen(rng):
    rounded = np.round(rng.random((1, 1000)) * 100, 2).astype(np.float32)
    fifteenths = (rng.integers(1, 300, (1, 1000)) / 15).astype(np.float32)
    assert measures.decimals(rounded) == 2 and measures.decimals(fifteenths) == 5
    assert measures.zero_share(np.array([[0.0, 1.0, np.nan, 0.0]])) == pytest.approx(2 / 3)
    assert measures.repeat_share(np.array([[1.0, 1.0, 2.0, np.nan, 2.0, 2.0]])) == pytest.approx(2 / 3)


def test_servers_that_move_together_are_correlated(rng):
    shared = noise(rng, servers=1)
    alike = shared + noise(rng)
    assert measures.correlation_between(alike) == pytest.approx(0.5, abs=0.03)
    assert np.abs(measures.correlation_between(noise(rng))).max() < 0.05
    rhythm = 10 * SINE + noise(rng)
    assert np.abs(measures.correlation_between(measures.without_daily_profile(rhythm))).max() < 0.05


# -------------------------------------------------------------------------------------------------------- the features
def test_features_of_a_window_mean_what_they_say(rng):
    window = rng.random((2, 3, DAY)) * 10
    window[1, 0] = np.repeat(np.arange(24.0), HOUR)
    window[1, 1] = 2 * window[1, 0]
    window[1, 2] = np.nan
    features, kinds = realism_features.window_features(window)
    assert features.keys() == kinds.keys() and set(kinds.values()) == set(realism_features.KINDS)
    assert features["cpu_pct_p50"][1] == 11.5 and features["cpu_pct_max"][1] == 23
    assert features["cpu_pct_repeats"][1] == pytest.approx((DAY - 24) / (DAY - 1))
    assert features["cpu_pct_distinct"][1] == pytest.approx(24 / DAY)
    assert features["cpu_pct_hour_of_max"][1] == 23 and features["cpu_pct_trend"][1] > 0.99
    assert features["correlation_cpu_mem"][1] == pytest.approx(1)
    assert np.isnan(features["disk_io_mb_s_mean"][1]) and np.isnan(features["correlation_cpu_disk"][1])
    assert abs(features["cpu_pct_acf_1_step"][0]) < 0.2 and features["cpu_pct_two_decimals"][0] < 0.1


def test_shape_features_do_not_know_the_scale(rng):
    window = rng.random((3, 3, DAY)) ** 4
    features, kinds = realism_features.window_features(window)
    scaled, _ = realism_features.window_features(window * 64)  # a power of two: no rounding on the way
    for name in (name for name, kind in kinds.items() if kind == "shape"):
        assert scaled[name] == pytest.approx(features[name], nan_ok=True), name


def test_quantiles_are_those_of_numpy(rng):
    values = np.where(rng.random((5, 50)) < 0.4, np.nan, rng.random((5, 50)))
    wanted = (0.0, 0.05, 0.5, 0.95, 1.0)
    assert realism_features.quantiles(values, wanted) == pytest.approx(np.nanquantile(values, wanted, axis=1).T)


# ------------------------------------------------------------------------------------------------------ the classifier
def verdict_on(one, two, **options):
    pools = realism_classifier.Pool([one], "one/"), realism_classifier.Pool([two], "two/")
    features = np.concatenate([pool.features(np.arange(len(pool))) for pool in pools])
    is_second = np.repeat([False, True], [len(pool) for pool in pools])
    group = np.concatenate([pool.group for pool in pools])
    names = list(pools[0].kinds)
    return realism_classifier.tell_apart(features, is_second, group, names, folds=3, seed=1, **options)


def test_two_halves_of_a_fleet_cannot_be_told_apart(fleet):
    halves = [fleet.select(np.arange(side, len(fleet.names), 2)) for side in (0, 1)]
    assert 0.25 < verdict_on(*halves).auc < 0.75


def test_a_fleet_shuffled_in_time_is_recognised_by_its_lost_memory(fleet, rng):
    halves = [fleet.select(np.arange(side, len(fleet.names), 2)) for side in (0, 1)]
    shuffled = realism_fleets.Fleet(
        halves[1].names,
        halves[1].profiles,
        halves[1].values[:, :, rng.permutation(halves[1].values.shape[2])],
        halves[1].first_weekday,
    )
    verdict = verdict_on(halves[0], shuffled, important=True)
    assert verdict.auc > 0.9
    assert verdict == verdict_on(halves[0], shuffled, important=True)
    assert max(verdict.importance.values()) > 0.01


def test_no_server_is_on_both_sides_of_a_fold(rng):
    group = rng.choice([f"s{number}" for number in range(30)], 400)
    is_second = np.isin(group, [f"s{number}" for number in range(8)])
    folds = realism_classifier.deal_servers(group, is_second, 4, rng)
    for server in np.unique(group):
        assert len(np.unique(folds[group == server])) == 1
    assert [len(np.unique(group[is_second & (folds == fold)])) for fold in range(4)] == [2, 2, 2, 2]


def test_too_few_servers_give_no_verdict_rather_than_a_flattering_one(fleet):
    assert verdict_on(fleet.select(np.arange(4)), fleet.select(np.arange(4, 100))) is None


def test_matched_windows_are_as_many_of_each_level(fleet, rng):
    one, two = (
        realism_classifier.Pool([fleet.select(part)], "x/") for part in (np.arange(0, 120, 4), np.arange(1, 120, 4))
    )
    mine, theirs = realism_classifier.draw_matched(rng, one, np.arange(len(one)), two, np.arange(len(two)), 1000)
    assert len(mine) and len(np.unique(mine)) == len(mine) and len(np.unique(theirs)) == len(theirs)
    assert one.coarse[mine].tolist() == two.coarse[theirs].tolist()


# ------------------------------------------------------------------------------------------------------- the whole
@pytest.fixture(scope="module")
def recorded_folder(tmp_path_factory):
    """Two months as the recorded ones are stored, of a few days and machines, CPU above 100 % included."""
    folder = tmp_path_factory.mktemp("recorded")
    rng = np.random.default_rng(5)
    for number, name in enumerate(realism_fleets.REAL_MONTHS.values()):
        begin = datetime(2013, 6 + number, 30 + number, 22)  # noqa: DTZ001 - the files state no zone
        times = [begin + timedelta(minutes=5 * step) for step in range(5 * DAY)]
        frames = [
            pd.DataFrame(
                {
                    "server_name": f"bb-rnd-{server:03d}",
                    "timestamp": times,
                    "cpu_pct": np.abs(rng.standard_normal(len(times))) * (60 if server == 1 else 1),
                    "mem_pct": 5 + rng.random(len(times)),
                    "disk_io_mb_s": rng.random(len(times)) / 100,
                }
            )
            for server in range(1, 25)
        ]
        pd.concat(frames).to_parquet(folder / name)
    return folder


def test_recorded_months_come_in_through_the_importer_and_begin_at_local_midnight(
    recorded_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv(realism_fleets.REAL_FOLDER, str(recorded_folder))
    fleets = realism_fleets.real_fleets(tmp_path / "cache")
    assert list(fleets) == ["july", "august"]
    assert fleets["july"].values.shape == (24, 3, 5 * DAY) and np.isfinite(fleets["july"].values[0]).all()
    assert fleets["july"].values[:, 0].max() == 100 and (fleets["july"].first_weekday, fleets["august"].days) == (0, 5)
    kept = sorted(path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.parquet"))
    realism_fleets.real_fleets(tmp_path / "cache")
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.parquet")) == kept


def test_everything_is_measured_and_said_in_one_line_of_json(recorded_folder, fleet, monkeypatch):
    monkeypatch.setenv(realism_fleets.REAL_FOLDER, str(recorded_folder))
    real = realism_fleets.real_fleets(None)
    effort = realism.Effort(12, 110, 60, 2)
    result = realism.measure(real, fleet, effort, seed=1)
    said = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert said["auc_whole_fleet"] > 0.95 and said["auc_web_api"] is None and said["windows_web_api"] == 0
    assert abs(said["auc_real_july_vs_august"] - 0.5) < 0.3
    assert abs(said["acf_1_step_cpu_pct_real"]) < 0.1 and said["cpu_pct_p50_generated"] > 0
    assert said["ks_mean_real_july_vs_august"] < said["ks_mean"]
    assert said["clues"]["whole_fleet"]
    clue = result.judgement.clues["whole_fleet"][0]
    assert clue.alone > 0.7 and clue.real[1] != clue.generated[1]


def test_charts_are_written_to_one_page(recorded_folder, fleet, tmp_path, monkeypatch):
    monkeypatch.setenv(realism_fleets.REAL_FOLDER, str(recorded_folder))
    page = realism_plot.write_page(tmp_path / "new", list(realism_fleets.real_fleets(None).values()), fleet, seed=1)
    text = page.read_text(encoding="utf-8")
    assert text.count('class="plotly-graph-div"') == 6 and "bb-rnd-" in text and "web_api" in text


def test_without_the_recorded_months_the_script_says_so_and_ends_well(monkeypatch, capsys):
    monkeypatch.delenv(realism_fleets.REAL_FOLDER, raising=False)
    monkeypatch.setattr(sys, "argv", ["realism.py", "--json"])
    realism.main()
    out, err = capsys.readouterr()
    assert out == "" and realism_fleets.REAL_FOLDER in err
