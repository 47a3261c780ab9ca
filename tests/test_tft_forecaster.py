"""Tests of tft_forecaster.py and forecast.py: a real tiny model forecasts a real small fleet."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FLEET, FLEET_END, make_fleet

from data_contract import HORIZON_STEPS, METRIC_COLUMNS, MODEL_FILES, SERVER_NAME, ContractError, ModelFolderError
from tft_forecaster import Forecaster


@pytest.fixture(scope="module")
def forecaster(tiny_model_dir: Path) -> Forecaster:
    return Forecaster.load(tiny_model_dir)


def test_forecasts_every_server_of_the_history_from_its_end_on(
    forecaster: Forecaster, fleet_frame: pd.DataFrame
) -> None:
    forecast = forecaster.predict(fleet_frame.sample(frac=1, random_state=0))
    assert forecast.server_names == FLEET
    assert forecast.origin == FLEET_END - timedelta(minutes=5)
    assert forecast.times[0] == FLEET_END and len(forecast.times) == HORIZON_STEPS
    assert forecast.values.shape == (len(FLEET), HORIZON_STEPS, len(METRIC_COLUMNS), len(forecast.quantiles))
    assert np.isfinite(forecast.values).all() and forecast.known.all()


def test_quantiles_never_cross_and_values_stay_in_their_ranges(
    forecaster: Forecaster, fleet_frame: pd.DataFrame
) -> None:
    frame = fleet_frame.assign(cpu_pct=fleet_frame["cpu_pct"].where(fleet_frame["cpu_pct"] < 60, 100.0))
    values = forecaster.predict(frame).values
    assert (np.diff(values, axis=-1) >= 0).all()
    assert (values >= 0).all() and (values[:, :, :2] <= 100).all()


def test_quantiles_are_selected_by_value_and_an_absent_one_is_refused(
    forecaster: Forecaster, fleet_frame: pd.DataFrame
) -> None:
    forecast = forecaster.predict(fleet_frame)
    assert np.array_equal(forecast.at(0.5), forecast.values[..., len(forecast.quantiles) // 2])
    with pytest.raises(KeyError, match=r"0\.55"):
        forecast.at(0.55)


def test_unknown_servers_in_between_do_not_disturb_the_forecasts_of_known_ones(
    forecaster: Forecaster, fleet_frame: pd.DataFrame
) -> None:
    alone = forecaster.predict(fleet_frame)
    strangers = make_fleet(("ppaaa", "ppml0000", "ppweb001x", "zz"), seed=9)
    mixed = forecaster.predict(pd.concat([strangers, fleet_frame], ignore_index=True))
    assert len(mixed.server_names) == len(FLEET) + 4
    for name in FLEET:
        np.testing.assert_allclose(
            mixed.values[mixed.index(name)], alone.values[alone.index(name)], rtol=1e-4, atol=1e-3
        )
        assert mixed.known[mixed.index(name)]
    for name in ("ppaaa", "ppml0000", "ppweb001x", "zz"):
        assert not mixed.known[mixed.index(name)]
        assert np.isfinite(mixed.values[mixed.index(name)]).all()


def test_the_known_server_and_its_unknown_twin_are_told_apart_by_their_category_alone(
    forecaster: Forecaster, fleet_frame: pd.DataFrame
) -> None:
    known = fleet_frame[fleet_frame[SERVER_NAME] == "ppweb001"]
    twin = known.assign(**{SERVER_NAME: "ppweb999"})
    forecast = forecaster.predict(pd.concat([known, twin]))
    first, second = (forecast.values[forecast.index(name)] for name in ("ppweb001", "ppweb999"))
    assert not np.array_equal(first, second)
    # Same history, same profile: the unknown twin's median stays within the known server's range of a day.
    assert np.abs(first[..., 5] - second[..., 5]).max() < 60


def test_a_metric_that_is_never_reported_has_no_forecast_and_leaves_the_others_alone(
    forecaster: Forecaster, fleet_frame: pd.DataFrame
) -> None:
    silent = fleet_frame.assign(latency_ms=np.nan)
    values = forecaster.predict(silent).values
    assert np.isnan(values[:, :, 3]).all()
    assert np.isfinite(values[:, :, :3]).all()


def test_one_single_row_of_an_unknown_server_is_enough_for_a_forecast(forecaster: Forecaster) -> None:
    row = make_fleet(("newcomer",), hours=1).tail(1)
    forecast = forecaster.predict(row)
    assert np.isfinite(forecast.values).all()
    assert not forecast.known[0]
    spread = forecast.at(0.9)[0, :, 0] - forecast.at(0.1)[0, :, 0]
    assert (spread > 0).all()


def test_only_the_last_thirty_hours_count(forecaster: Forecaster, fleet_frame: pd.DataFrame) -> None:
    recent = fleet_frame[fleet_frame["timestamp"] >= FLEET_END - timedelta(minutes=5 * forecaster.history_steps)]
    np.testing.assert_allclose(
        forecaster.predict(recent).values, forecaster.predict(fleet_frame).values, rtol=1e-5, atol=1e-4
    )


def test_finer_data_is_averaged_onto_the_grid(forecaster: Forecaster, fleet_frame: pd.DataFrame) -> None:
    finer = [fleet_frame.assign(timestamp=fleet_frame["timestamp"] + timedelta(minutes=k)) for k in range(5)]
    np.testing.assert_allclose(
        forecaster.predict(pd.concat(finer)).values, forecaster.predict(fleet_frame).values, rtol=1e-4, atol=1e-3
    )


def test_an_empty_history_is_refused(forecaster: Forecaster, fleet_frame: pd.DataFrame) -> None:
    with pytest.raises(ContractError, match="no rows"):
        forecaster.predict(fleet_frame.head(0))


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_model_folder_without_one_of_its_files_is_refused(tiny_model_dir: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / tiny_model_dir.name
    shutil.copytree(tiny_model_dir, folder)
    (folder / name).unlink()
    with pytest.raises(ModelFolderError) as caught:
        Forecaster.load(folder)
    assert name in caught.value.what
    assert caught.value.fix and caught.value.why and caught.value.document
