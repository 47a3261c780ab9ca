"""The notebook's figures show what they were given: values in their place, units on the axes, gaps as gaps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data_contract import METRIC_COLUMNS, METRICS
from data_validator import load_valid_frame
from fleet_grid import FleetGrid
from forecast_explanation import explain
from notebook_plots import (
    calibration_chart,
    error_chart,
    example_chart,
    explanation_chart,
    fleet_heatmap,
    forecast_chart,
    loss_chart,
    measured_chart,
    risk_chart,
    score_table,
)
from tft_backtest import BacktestOptions, run_backtest
from tft_forecaster import Forecaster
from tft_risk import ServerRisk


@pytest.fixture(scope="module")
def history(fleet_file):
    return load_valid_frame(fleet_file)


@pytest.fixture(scope="module")
def forecaster(tiny_model_dir):
    return Forecaster.load(tiny_model_dir)


@pytest.fixture(scope="module")
def forecast(forecaster, history):
    return forecaster.predict(history)


@pytest.fixture(scope="module")
def result(fleet_file, settings, tmp_path_factory):
    """A backtest of a model that was trained for it."""
    folder = tmp_path_factory.mktemp("backtest")
    options = BacktestOptions(
        test_days=0.5, every_steps=24, hold_out=0.2, epochs=1, baselines=("last_value", "mean_24")
    )
    return run_backtest(fleet_file, settings.model_copy(update={"models_dir": folder}), options).as_dict()


def panel_titles(figure):
    return [annotation.text for annotation in figure.layout.annotations]


def test_the_heatmap_has_a_row_per_server_and_hourly_means(history):
    figure = fleet_heatmap(history, METRICS[1])
    names = [label.split(" · ")[0] for label in figure.data[0].y]
    assert sorted(names) == sorted(history["server_name"].unique())
    one = history[history["server_name"] == names[0]]
    hour = one["timestamp"].min().floor("h")
    wanted = one[one["timestamp"] < hour + pd.Timedelta(hours=1)]["mem_pct"].mean()
    assert figure.data[0].z[0][0] == pytest.approx(wanted)
    assert figure.data[0].colorbar.title.text == "%" and figure.data[0].zmax == 100


def test_the_heatmap_scales_what_has_no_upper_bound_by_itself(history):
    assert fleet_heatmap(history, METRICS[3]).data[0].zmax is None


def test_measured_values_are_shown_with_their_units_and_gaps(history):
    holey = history.copy()
    of_server = holey["server_name"] == "ppweb001"
    holey.loc[holey[of_server].index[-5:], "cpu_pct"] = np.nan
    figure = measured_chart(holey, "ppweb001", hours=24)
    assert [axis.title.text for axis in figure.select_yaxes()] == [metric.unit for metric in METRICS]
    assert len(figure.data[0].x) == 24 * 12 and np.isnan(figure.data[0].y[-5:]).all()


def test_losses_are_those_of_the_model_folder(tiny_model_dir):
    training, validation, served = loss_chart(tiny_model_dir).data
    assert list(training.x) == [1, 2] and len(served.x) == 1
    assert served.y[0] == validation.y[list(validation.x).index(served.x[0])]


def test_a_backtest_shows_every_method_and_the_model_on_top(result):
    names = [method["title"] for method in result["methods"]]
    figure = error_chart(result)
    assert sorted(line.name for line in figure.data) == sorted(names)
    assert figure.data[-1].name == "TFT (this product)" and len(figure.data[-1].x) == 16  # half hours in 8
    table = score_table(result)
    assert sorted(table.index) == sorted(names) and table["CRPS, scaled"].is_monotonic_increasing
    assert table.filter(like="p90").to_numpy().max() > 1, "in percent"


def test_a_method_that_was_left_out_is_not_drawn(result):
    told = {"name": "auto_ets", "title": "AutoETS", "skipped": "not installed"}
    assert "AutoETS" not in {line.name for line in error_chart({**result, "methods": [*result["methods"], told]}).data}


def test_calibration_has_a_curve_per_metric_beside_the_diagonal(result):
    diagonal, *curves = calibration_chart(result).data
    assert list(diagonal.x) == list(diagonal.y) == [0, 100]
    assert [curve.name for curve in curves] == [metric.label for metric in METRICS]
    assert min(curves[0].x) >= 2.0 and max(curves[0].x) <= 98.0


def test_a_metric_without_labels_has_no_calibration_curve(result):
    rows = [{**row, "share_below": None} if row["metric"] == "latency_ms" else row for row in result["calibration"]]
    figure = calibration_chart({**result, "calibration": rows})
    assert [curve.name for curve in figure.data[1:]] == ["CPU", "Memory", "Disk I/O"]


def test_examples_name_their_servers_and_join_past_and_truth(result):
    figure = example_chart(result)
    examples = {each["metric"]: each for each in result["examples"] if each["why"] == "typical"}
    assert panel_titles(figure)[0] == f"CPU of {examples['cpu_pct']['server']}"
    measured = next(line for line in figure.data if line.name == "measured")
    assert len(measured.x) == 288 + 96 and measured.x[287] == 0


def test_a_kind_of_example_that_there_is_not_leaves_the_panels_empty(result):
    assert not example_chart(result, "no such reason").data


def test_a_forecast_stands_beside_the_day_before_and_its_limit(forecast, history, settings):
    figure = forecast_chart(forecast, history, "ppdb001", settings)
    median = next(line for line in figure.data if line.name == "median")
    assert np.allclose(median.y, forecast.at(0.5)[forecast.index("ppdb001"), :, 0])
    assert pd.Timestamp(median.x[0]) == pd.Timestamp(forecast.times[0])
    assert len(next(line for line in figure.data if line.name == "measured").x) == 288
    assert "critical limit" in panel_titles(figure)[0] and "ppdb001 (database)" in figure.layout.title.text


def test_a_limit_is_drawn_only_where_it_is_near(forecast, history, settings):
    lines = [line for line in forecast_chart(forecast, history, "ppdb001", settings).data if "limit" in line.name]
    row = forecast.index("ppdb001")
    for place, column in enumerate(METRIC_COLUMNS):
        limit = settings.threshold(column, "database")
        recent = history[history["server_name"] == "ppdb001"].tail(288)[column].max()
        seen = max(recent, forecast.at(0.9)[row, :, place].max())
        assert (seen > limit / 2) == any(line.y[0] == limit for line in lines), column


def test_a_metric_that_is_never_reported_says_so(forecaster, history, settings):
    silent = history.assign(latency_ms=np.nan)
    figure = forecast_chart(forecaster.predict(silent), silent, "ppweb001", settings)
    assert panel_titles(figure)[3] == "Latency: not reported, so not forecast"


def test_an_unknown_server_is_called_so(forecaster, history, settings):
    renamed = history.astype({"server_name": str}).replace({"server_name": {"ppweb001": "newcomer"}})
    figure = forecast_chart(forecaster.predict(renamed), renamed, "newcomer", settings)
    assert "unknown to the model" in figure.layout.title.text


def test_a_server_without_a_forecast_is_an_error(forecast, history, settings):
    with pytest.raises(ValueError, match="not in tuple"):
        forecast_chart(forecast, history, "nobody", settings)


def test_risks_are_sorted_coloured_by_the_settings_and_told_in_percent(settings):
    risks = [
        ServerRisk(f"ppweb00{place}", "web_api", risk, None if risk is None else "cpu_pct", {})
        for place, risk in enumerate((0.1, None, 0.9, 0.5))
    ]
    bars = risk_chart(risks, settings).data[0]
    assert list(bars.y) == ["ppweb000", "ppweb003", "ppweb002"] and list(bars.x) == pytest.approx([10, 50, 90])
    assert len(set(bars.marker.color)) == 3 and bars.text[-1] == "90 %  CPU"


def test_an_explanation_shows_its_shares_in_percent(forecaster, history):
    explanation = explain(forecaster, FleetGrid.from_frame(history), "ppml0001")
    read, looked = explanation_chart(explanation).data
    assert sum(read.x) == pytest.approx(100, abs=1) and max(looked.x) == -1
    assert sum(looked.y) == pytest.approx(100 * sum(hour.share for hour in explanation.attention.past_hours))
