"""Explanations of forecasts from a file, as JSON and as tables."""

from __future__ import annotations

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from data_contract import METRIC_COLUMNS, METRICS, ContractError, ModelFolderError
from fleet_grid import FleetGrid
from forecast_explanation import explain
from main import app
from tft_explain import explain_file, show_explanation
from tft_forecaster import Forecaster


@pytest.fixture(scope="module")
def answer(settings, tiny_model_dir, fleet_file):
    return explain_file(settings, tiny_model_dir, fleet_file, "ppweb001")


def test_a_file_is_explained_as_its_rows_are(answer, tiny_model_dir, fleet_frame):
    of_rows = explain(Forecaster.load(tiny_model_dir), FleetGrid.from_frame(fleet_frame), "ppweb001").as_dict()
    assert answer["sentence"] == of_rows["sentence"] and answer["prediction_time"] == of_rows["prediction_time"]
    assert answer["past"] == pytest.approx(of_rows["past"], abs=1e-3)
    assert answer["model"]["name"] == tiny_model_dir.name


def test_servers_and_models_that_are_not_there_are_refused(settings, tiny_model_dir, fleet_file, tmp_path):
    with pytest.raises(ContractError, match="nobody"):
        explain_file(settings, tiny_model_dir, fleet_file, "nobody")
    with pytest.raises(ModelFolderError):
        explain_file(settings, tmp_path / "absent", fleet_file, "ppweb001")


@pytest.mark.parametrize("width", [80, 140])
def test_the_tables_show_every_part_and_fit_the_screen(answer, width):
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        show_explanation(answer, console)
    text = capture.get()
    assert max(map(len, text.splitlines())) <= width
    for part in (*(metric.label for metric in METRICS), next(iter(answer["past"])), "hours ahead", "it starts from"):
        assert part in text


def test_a_hostile_name_is_shown_as_it_is(answer):
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        show_explanation({**answer, "server_name": "[red]x[/red]", "sentence": "[bold]y"}, console)
    assert "[red]x[/red]" in capture.get() and "[bold]y" in capture.get()


def test_a_metric_that_is_not_reported_is_said_to_be_so(answer):
    anchors = {**answer["anchors"], METRIC_COLUMNS[3]: None}
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        show_explanation({**answer, "anchors": anchors}, console)
    assert "not reported" in capture.get()


def test_the_command_prints_json_alone_and_exits_with_1_for_a_server_that_is_not_there(tiny_model_dir, fleet_file):
    options = ["--model-dir", str(tiny_model_dir), "--data", str(fleet_file), "--json"]
    done = CliRunner().invoke(app, ["explain", "ppdb001", *options])
    assert done.exit_code == 0 and json.loads(done.stdout)["server_name"] == "ppdb001"
    done = CliRunner().invoke(app, ["explain", "nobody", *options])
    assert done.exit_code == 1 and done.stdout == ""
    assert "nobody" in json.loads(done.stderr)["error"]["what"]
