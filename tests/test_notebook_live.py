"""What a notebook starts beside itself: refused in words when it cannot run, and never left behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import notebook_live
from config import load_settings
from data_contract import DaemonError
from metrics_generator import GeneratorOptions, generate
from notebook_errors import plain_errors
from notebook_live import start_live, stop_live


@pytest.fixture(autouse=True)
def _stopped():
    yield
    stop_live()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    generate(GeneratorOptions(servers=6, hours=72), folder)
    return folder


def test_a_daemon_that_cannot_start_says_why_and_leaves_nothing_behind(tmp_path, data_dir):
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    with pytest.raises(DaemonError, match="The daemon ended by itself") as refused:
        start_live(data_dir, broken, load_settings(daemon_port=18900))
    assert "start_live" in refused.value.fix
    assert not notebook_live._running


def test_a_life_of_what_runs_beside_a_notebook(data_dir, tiny_model_dir):
    settings = load_settings(daemon_port=18910)
    live = start_live(data_dir, tiny_model_dir, settings)
    assert start_live(data_dir, tiny_model_dir, settings) is live
    assert {record["server_name"] for record in live.forecasts()} >= {"ppweb001", "ppdb001"}
    with pytest.raises(DaemonError, match="answers /predictions/nobody with 404"):
        live.get("/predictions/nobody")
    live.stop()
    live.stop()
    with pytest.raises(DaemonError, match="was stopped"):
        live.get("/health")
    assert start_live(data_dir, tiny_model_dir, settings) is not live, "a stopped one is started anew"


def test_keys_that_the_notebook_does_not_have_are_told_beforehand(data_dir, tiny_model_dir, tmp_path):
    keys = tmp_path / "api_keys.json"
    keys.write_text("{}")
    with pytest.raises(DaemonError, match="API key"):
        start_live(data_dir, tiny_model_dir, load_settings(api_keys_file=keys))


def test_errors_keep_their_traceback_where_there_is_no_notebook(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    plain_errors()  # nothing to set, nothing to fail
