"""Tests of forecast_explanation.py and `Forecaster.explain_grid`: what a real tiny model weighed, told in words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FLEET, make_fleet

import tft_model
from data_contract import HORIZON_STEPS, HORIZONS, METRIC_COLUMNS, SERVER_NAME, ContractError
from fleet_grid import FleetGrid
from forecast_explanation import ALL_METRICS, GAPS, Explanation, explain, title_of
from model_folder import load_model
from model_inputs import CATEGORICALS, Layout
from tft_features import FleetTensors, gather_windows
from tft_forecaster import Forecaster


@pytest.fixture(scope="module")
def forecaster(tiny_model_dir: Path) -> Forecaster:
    return Forecaster.load(tiny_model_dir)


@pytest.fixture(scope="module")
def grid(fleet_frame: pd.DataFrame) -> FleetGrid:
    return FleetGrid.from_frame(fleet_frame)


@pytest.fixture(scope="module")
def explanation(forecaster: Forecaster, grid: FleetGrid) -> Explanation:
    return explain(forecaster, grid, "ppweb001")


def without(grid: FleetGrid, server: str, steps: slice, metrics: slice = slice(None)) -> FleetGrid:
    """The same history with a hole."""
    values = grid.values.copy()
    values[grid.names.index(server), steps, metrics] = np.nan
    return dataclasses.replace(grid, values=values)


def total(attention) -> float:
    return sum(hour.share for hour in attention.past_hours) + attention.ahead + attention.without_data


def test_shares_add_up_to_one(explanation):
    for shares in (explanation.static, explanation.past, explanation.future):
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert min(shares.values()) >= 0 and list(shares.values()) == sorted(shares.values(), reverse=True)
    for attention in (explanation.attention, *explanation.attention_at.values()):
        assert total(attention) == pytest.approx(1, abs=1e-5)
    assert set(explanation.attention_at) == set(HORIZONS)
    for metric in (ALL_METRICS, *METRIC_COLUMNS):
        shares = explanation.anchors[metric]
        assert set(shares) == set(HORIZONS)
        assert all(sum(each.values()) == pytest.approx(1, abs=1e-5) for each in shares.values())


def test_every_input_of_the_network_is_counted_once_and_under_its_own_name(forecaster, grid, settings):
    layout = Layout.parse(settings.encoder_pieces, settings.decoder_patch)
    weights = forecaster.explain_grid(grid, 2)
    assert set(weights.static) == {*layout.static_reals, "profile", "server_id"}
    assert sorted(weights.past_names) == sorted((*layout.encoder_reals, "state"))
    assert sorted(weights.future_names) == sorted(layout.decoder_reals)
    for rows in (weights.past, weights.future, weights.attention, weights.anchors):
        np.testing.assert_allclose(rows.sum(axis=-1), 1, rtol=1e-4)
    assert weights.anchors.shape == (HORIZON_STEPS, len(METRIC_COLUMNS), len(Layout().anchors))


def test_the_shares_of_the_anchors_are_those_that_the_forecast_is_made_with(
    forecaster, grid, tiny_model_dir, monkeypatch
):
    """The anchors, weighed by the shares that are told, and nothing else between them and the median."""
    place = grid.names.index("ppml0001")
    weights = forecaster.explain_grid(grid, place)
    model = load_model(tiny_model_dir)
    alone = grid.select([place]).since(grid.origin_step - model.spec.history_steps)
    fleet = FleetTensors.from_grid(alone, model.spec, [model.encoder.encode("ppml0001")])
    windows = gather_windows(fleet, torch.tensor([0]), torch.tensor([alone.n_steps]), model.spec)
    started: list[torch.Tensor] = []
    ordered = tft_model.ordered_quantiles

    def ordered_quantiles(raw, start=None):
        started.append(start)
        return ordered(raw, start)

    with monkeypatch.context() as patched, torch.inference_mode():
        patched.setattr(tft_model, "ordered_quantiles", ordered_quantiles)
        tft_model.forecast_scaled(model.network, windows)
    expected = (weights.anchors * windows.anchors[0].numpy()).sum(axis=-1)
    np.testing.assert_allclose(started[0][:, 0].numpy().T, expected, rtol=1e-3, atol=1e-4)


def test_hours_without_data_get_no_attention(forecaster, grid):
    whole = explain(forecaster, grid, "ppweb001")
    holed = explain(forecaster, without(grid, "ppweb001", slice(-24, -12)), "ppweb001")
    assert whole.attention.without_data == 0 and GAPS in whole.past
    hour = holed.attention.past_hours[1]
    assert (hour.hours_before, hour.share, hour.measured) == (2, 0.0, 0.0)
    assert holed.attention.without_data > 0
    assert holed.attention.past_hours[0].measured == 1.0
    assert total(holed.attention) == pytest.approx(1, abs=1e-5)


def test_a_server_that_was_heard_of_an_hour_ago_is_explained_by_that_hour_alone(forecaster, grid):
    found = explain(forecaster, without(grid, "ppweb001", slice(None, -12)), "ppweb001")
    assert [hour.hours_before for hour in found.attention.past_hours if hour.share > 0] == [1]
    assert sum(hour.measured for hour in found.attention.past_hours) == 1


def test_a_metric_that_is_not_reported_drives_nothing_and_has_no_anchors(forecaster, grid):
    found = explain(forecaster, without(grid, "ppweb001", slice(None), slice(3, 4)), "ppweb001")
    assert found.past[title_of("latency_ms")] == 0 and found.past[title_of("cpu_pct")] > 0
    assert found.anchors["latency_ms"] is None and found.anchors["cpu_pct"] is not None
    assert sum(found.past.values()) == pytest.approx(1, abs=1e-5)


def test_a_silent_server_has_no_forecast_to_explain(forecaster, grid):
    found = explain(forecaster, without(grid, "ppweb001", slice(None)), "ppweb001")
    assert found.anchors == dict.fromkeys((ALL_METRICS, *METRIC_COLUMNS))
    assert "no forecast" in found.sentence and found.attention.without_data > 0
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_changed_input_changes_the_explanation_and_that_of_no_other_server(forecaster, grid):
    values = grid.values.copy()
    values[grid.names.index("ppweb001"), -12:, 0] = 99.0
    changed = dataclasses.replace(grid, values=values)
    before, after = (explain(forecaster, each, "ppweb001") for each in (grid, changed))
    assert before.past != after.past and before.attention != after.attention
    assert explain(forecaster, grid, "ppdb001") == explain(forecaster, changed, "ppdb001")


def test_an_unknown_server_is_explained_as_such(forecaster, grid, fleet_frame):
    twin = fleet_frame[fleet_frame[SERVER_NAME] == "ppweb001"].assign(**{SERVER_NAME: "newcomer"})
    found = explain(forecaster, FleetGrid.from_frame(pd.concat([fleet_frame, twin])), "newcomer")
    known = explain(forecaster, grid, "ppweb001")
    assert not found.known and known.known
    assert found.profile == "web_api" and "newcomer" in found.sentence
    assert found.static != known.static


def test_a_server_that_is_not_there_is_told_by_name_and_a_hostile_name_does_no_harm(forecaster, grid):
    with pytest.raises(ContractError, match="'nobody'") as caught:
        explain(forecaster, grid, "nobody")
    assert caught.value.document == "Docs/EXPLANATIONS.md" and str(len(FLEET)) in caught.value.what
    with pytest.raises(ContractError) as caught:
        explain(forecaster, grid, "\n" + "x" * 100_000)
    assert len(str(caught.value)) < 1_000 and "\n" not in caught.value.what


def test_one_single_row_is_enough(forecaster):
    found = explain(forecaster, FleetGrid.from_frame(make_fleet(("newcomer",), hours=1).tail(1)), "newcomer")
    assert total(found.attention) == pytest.approx(1, abs=1e-5)
    assert found.attention.without_data > found.attention.past_hours[0].share > 0
    assert found.attention.past_hours[0].measured == pytest.approx(1 / 12)


def test_the_json_is_plain_and_says_what_the_explanation_says(explanation):
    content = explanation.as_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["server_name"] == "ppweb001" and content["sentence"] == explanation.sentence
    assert content["prediction_time"] == "2026-03-03T23:55:00Z"
    assert [hour["hours_before"] for hour in content["attention"]["past_hours"]] == list(
        range(1, len(explanation.attention.past_hours) + 1)
    )
    assert set(content["anchors"]) == {ALL_METRICS, *METRIC_COLUMNS}


def test_the_sentence_is_one_line_with_the_first_variable_and_an_anchor(explanation):
    assert next(iter(explanation.past)) in explanation.sentence
    assert next(iter(explanation.anchors[ALL_METRICS]["30min"])) in explanation.sentence
    assert "\n" not in explanation.sentence and explanation.sentence.endswith(".")


def test_no_name_of_the_network_reaches_a_person():
    for name in (*Layout().reals, *CATEGORICALS):
        assert "_" not in title_of(name), name


@pytest.mark.parametrize(
    ("variable", "title"),
    [
        ("cpu_pct", "CPU of the last hours"),
        ("latency_ms_missing", GAPS),
        ("mem_pct_1d_ago", "same time yesterday"),
        ("1d_ago_missing", "same time yesterday"),
        ("disk_io_mb_s_7d_ago_peak", "same time last week"),
        ("cpu_pct_2d_ago", "same time 2 days ago"),
        ("mem_pct_above", "Memory of the last hours"),
        ("cpu_pct_hour_mean", "CPU: hour mean"),
        ("something_new", "something new"),
        ("time_of_day_cos", "time of day"),
    ],
)
def test_variables_have_names_for_people_also_those_to_come(variable, title):
    assert title_of(variable) == title
