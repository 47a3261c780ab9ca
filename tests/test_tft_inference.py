"""The daemon over HTTP with a real model: the owner's formats, honest refusals, and nothing served but forecasts."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import uvicorn
from conftest import FLEET, make_fleet, write_fleet
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import daemon_schemas as schemas
from common_utils import floor_to_step, utc_now
from config import Settings
from daemon_rows import LARGEST_VALUE
from data_contract import (
    METRIC_COLUMNS,
    MODEL_FILES,
    MODEL_WEIGHTS,
    SERVER_NAME,
    STATE,
    TIMESTAMP,
    ContractError,
    DataFileError,
    ModelFolderError,
)
from tft_forecaster import Forecaster
from tft_inference import _Stop, _StoppedError, create_app

NOW = floor_to_step(utc_now(), 5)  # when the tests were collected
UNKNOWN = "mail.example.org"


# ------------------------------------------------------------------------------------------------------------- helpers
def json_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    plain = frame.astype({TIMESTAMP: str}).astype(object)
    return plain.where(plain.notna(), None).to_dict("records")


def row(name: str = "ppweb001", moment: datetime | str = NOW, **values: Any) -> dict[str, Any]:
    text = moment if isinstance(moment, str) else moment.isoformat()
    return {"timestamp": text, "server_name": name, "cpu_pct": 41.5, **values}


def wait_for(answer: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true answer; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = answer()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("nothing happened in time")


def post(client: TestClient, rows: list[dict[str, Any]], status: int = 200) -> dict[str, Any]:
    response = client.post("/ingest", json={"rows": rows})
    assert response.status_code == status, response.text
    return response.json()


def post_and_wait(client: TestClient, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Post rows and wait for the forecasts that have seen them."""
    before = client.get("/status").json()["forecasts"]["count"]
    post(client, rows)
    wait_for(lambda: client.get("/status").json()["forecasts"]["count"] > before)
    return client.get("/predictions/current").json()


def assert_problem(response: Any, status: int, kind: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]
    problem: dict[str, Any] = response.json()
    schemas.Problem.model_validate(problem)
    assert (problem["status"], problem["type"]) == (status, f"urn:tft:problem:{kind}")
    assert all(problem[part] for part in ("title", "detail", "what", "why", "fix", "document"))
    return problem


@pytest.fixture
def quick(settings: Settings, tmp_path: Path) -> Settings:
    """Settings of a daemon that reacts at once and keeps its history in the test's folder."""
    return settings.model_copy(
        update={
            "history_dir": tmp_path / "history",
            "daemon_settle_seconds": 0.05,
            "model_check_seconds": 0.1,
            "rate_limit_per_second": 100_000,
        }
    )


@contextmanager
def running(settings: Settings, model_dir: Path, data: Path | None = None) -> Iterator[TestClient]:
    with TestClient(create_app(settings, model_dir, data), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(quick: Settings, tiny_model_dir: Path) -> Iterator[TestClient]:
    """A daemon with a model and without data."""
    with running(quick, tiny_model_dir) as client:
        yield client


@pytest.fixture(scope="module")
def fleet_now() -> pd.DataFrame:
    """A day and a half of the fleet up to the present; one server never reports its latency."""
    frame = make_fleet(hours=36, end=NOW)
    frame.loc[frame[SERVER_NAME] == "ppdb001", "latency_ms"] = np.nan
    return frame


@pytest.fixture(scope="module")
def served(
    settings: Settings, tiny_model_dir: Path, fleet_now: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """A daemon that forecasts the fleet and a server unknown to the model; for tests that only read."""
    quick = settings.model_copy(
        update={
            "history_dir": tmp_path_factory.mktemp("served"),
            "daemon_settle_seconds": 0.05,
            "rate_limit_per_second": 100_000,
            "stale_after_minutes": 24 * 60.0,  # NOW is when the tests were collected, however long ago that is
        }
    )
    with running(quick, tiny_model_dir) as client:
        post_and_wait(client, json_rows(fleet_now))
        post_and_wait(
            client, [row(UNKNOWN, NOW - timedelta(minutes=5 * back), cpu_pct=20.0 + back) for back in (1, 2, 3)]
        )
        yield client


# --------------------------------------------------------------------------------------------------- the owner's routes
def test_health_says_ok_and_whether_a_model_is_loaded(served: TestClient) -> None:
    assert served.get("/health").json() == {"status": "ok", "model_loaded": True}
    assert served.get("/livez").json() == {"status": "ok"}
    assert served.get("/readyz").json() == {"status": "ready"}


def test_current_predictions_are_in_the_owners_format(served: TestClient) -> None:
    answer = served.get("/predictions/current").json()
    schemas.CurrentPredictions.model_validate(answer)
    assert [each["server_name"] for each in answer["predictions"]] == [*FLEET, UNKNOWN]
    assert answer["count"] == 7 and answer["offline"] == [] and answer["stale"] is False
    assert answer["model"]["model_version"] == "3.0.0"
    first = answer["predictions"][0]
    assert list(first["predictions"]) == ["30min", "1hr", "8hr"] and list(first["quantiles"]) == ["p10", "p50", "p90"]
    assert first["predictions"] == first["quantiles"]["p50"]
    assert first["prediction_time"] == answer["prediction_time"] and answer["prediction_time"].endswith("Z")


def test_what_is_served_is_what_the_model_forecasts(
    served: TestClient, tiny_model_dir: Path, fleet_now: pd.DataFrame
) -> None:
    forecast = Forecaster.load(tiny_model_dir).predict(fleet_now)
    records = {each["server_name"]: each for each in served.get("/predictions/current").json()["predictions"]}
    for i, name in enumerate(forecast.server_names):
        for label, step in (("30min", 6), ("1hr", 12), ("8hr", 96)):
            for quantile, level in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
                found = [records[name]["quantiles"][quantile][label][metric] for metric in METRIC_COLUMNS]
                np.testing.assert_allclose(
                    np.array(found, dtype=float), forecast.at(level)[i, step - 1], rtol=1e-3, atol=2e-2
                )


def test_a_metric_that_is_never_reported_is_null_everywhere(served: TestClient) -> None:
    answer = served.get("/predictions/ppdb001").json()
    for horizons in answer["quantiles"].values():
        assert all(values["latency_ms"] is None and values["cpu_pct"] is not None for values in horizons.values())
    assert answer["risks"]["latency_ms"] is None and answer["current"]["latency_ms"] is None
    assert answer["path"]["metrics"]["latency_ms"] is None
    assert set(served.get("/history/ppdb001").json()["metrics"]["latency_ms"]) == {None}


def test_the_forecast_of_one_server_has_its_whole_path(served: TestClient) -> None:
    answer = served.get("/predictions/ppweb001").json()
    schemas.ServerPrediction.model_validate(answer)
    record = next(
        each for each in served.get("/predictions/current").json()["predictions"] if each["server_name"] == "ppweb001"
    )
    assert {key: answer[key] for key in record} == record
    path = answer["path"]
    assert len(path["timestamps"]) == 96
    for step, label in ((6, "30min"), (12, "1hr"), (96, "8hr")):
        moment = datetime.fromisoformat(answer["prediction_time"].replace("Z", "+00:00")) + timedelta(minutes=5 * step)
        assert path["timestamps"][step - 1] == moment.isoformat().replace("+00:00", "Z")
        assert path["metrics"]["cpu_pct"]["p90"][step - 1] == record["quantiles"]["p90"][label]["cpu_pct"]


def test_an_unknown_server_is_forecast_by_the_model_and_counted(served: TestClient) -> None:
    answer = served.get(f"/predictions/{UNKNOWN}").json()
    schemas.ServerPrediction.model_validate(answer)
    assert answer["known"] is False and answer["profile"] == "generic"
    assert answer["predictions"]["8hr"]["cpu_pct"] is not None
    assert served.get("/status").json()["unknown_servers"] == {"count": 1, "names": [UNKNOWN]}


def test_history_is_what_was_measured(served: TestClient, fleet_now: pd.DataFrame) -> None:
    answer = served.get("/history/ppml0001?hours=6").json()
    schemas.History.model_validate(answer)
    own = fleet_now[fleet_now[SERVER_NAME] == "ppml0001"].tail(72)
    assert answer["timestamps"][-1] == (NOW - timedelta(minutes=5)).isoformat().replace("+00:00", "Z")
    assert len(answer["timestamps"]) == 72 and answer["profile"] == "ml_compute"
    np.testing.assert_allclose(answer["metrics"]["cpu_pct"], own["cpu_pct"], atol=1e-4)
    assert answer["states"] == own[STATE].tolist()
    gaps = served.get(f"/history/{UNKNOWN}?hours=1").json()
    assert gaps["metrics"]["cpu_pct"] == [None] * 9 + [23.0, 22.0, 21.0] and gaps["states"][:9] == [None] * 9


def test_status_tells_everything_at_a_glance(served: TestClient, fleet_now: pd.DataFrame) -> None:
    status = served.get("/status").json()
    schemas.Status.model_validate(status)
    assert status["servers"] == 7 and status["history"]["rows"] == len(fleet_now) + 3
    assert status["ingest"]["accepted"] == len(fleet_now) + 3  # what other tests sent was refused, or there already
    assert status["model"]["known_servers"] == len(FLEET) and status["model_error"] is None
    assert status["forecasts"]["errors"] == 0 and status["forecasts"]["predictions_per_second"] > 0
    assert status["stale"] is False and 0 <= status["data_age_seconds"] < 24 * 3600


def test_every_answer_tells_its_model_time_and_data_age(served: TestClient) -> None:
    for path in ("/predictions/current", "/predictions/ppweb001", "/alerts/active"):
        response = served.get(path)
        answer = response.json()
        assert answer["model"]["name"].startswith("tft_model_") and answer["generated_at"].endswith("Z")
        assert response.headers["x-model-version"] == answer["model"]["model_version"]
        assert response.headers["x-prediction-time"] == answer["prediction_time"]
        assert abs(int(response.headers["x-data-age-seconds"]) - answer["data_age_seconds"]) <= 1
        assert answer["stale"] is False


def test_no_answer_holds_a_server_id_or_a_path(served: TestClient, tiny_model_dir: Path) -> None:
    ids = json.loads((tiny_model_dir / "server_mapping.json").read_text())["id_to_name"]
    for path in ("/predictions/current", "/predictions/ppweb001", "/status", "/alerts/active", "/history/ppweb001"):
        text = served.get(path).text
        assert not [i for i in ids if re.search(rf'"{i}"', text)]
        assert "server_id" not in text and str(tiny_model_dir.parent) not in text


def test_reading_never_runs_the_model(served: TestClient) -> None:
    before = served.get("/status").json()["forecasts"]["count"]
    for _ in range(10):
        for path in ("/predictions/current", "/predictions/ppweb001", "/alerts/active", "/status"):
            assert served.get(path).status_code == 200
    assert served.get("/status").json()["forecasts"]["count"] == before


def test_an_unchanged_set_is_answered_304_and_gzip_says_the_same(served: TestClient) -> None:
    plain = served.get("/predictions/current", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    for path in ("/predictions/current", "/alerts/active"):
        tag = served.get(path).headers["etag"]
        again = served.get(path, headers={"If-None-Match": f'"other", {tag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert again.headers["x-data-age-seconds"] and again.headers["vary"] == "Accept-Encoding"
        assert served.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    for _ in range(2):  # the second one comes from the cache
        with served.stream("GET", "/predictions/current", headers={"Accept-Encoding": "gzip"}) as packed:
            assert packed.headers["content-encoding"] == "gzip"
            unpacked = json.loads(gzip.decompress(b"".join(packed.iter_raw())))
        assert {**unpacked, "data_age_seconds": 0} == {**plain.json(), "data_age_seconds": 0}


def test_openapi_describes_every_route(served: TestClient) -> None:
    paths = served.get("/openapi.json").json()["paths"]
    assert {
        "/health",
        "/livez",
        "/readyz",
        "/status",
        "/predictions/current",
        "/predictions/{server_name}",
        "/alerts/active",
        "/history/{server_name}",
        "/ingest",
    } <= set(paths)


def test_the_version_is_that_of_the_project() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert f'version = "{schemas.PRODUCT_VERSION}"' in project


# ------------------------------------------------------------------------------------------------------------ problems
def test_what_is_no_route_is_a_problem_of_the_same_shape(served: TestClient) -> None:
    assert_problem(served.get("/nothing/here"), 404, "no-such-route")
    assert "GET" in assert_problem(served.get("/ingest"), 405, "wrong-method")["what"]
    assert_problem(served.post("/status"), 405, "wrong-method")
    assert_problem(served.get("/status/"), 404, "no-such-route")


@pytest.mark.parametrize("hours", ["0", "-1", "x", "2161", "1e9", "", "9" * 400])
def test_hours_out_of_bounds_are_a_problem_of_the_same_shape(served: TestClient, hours: str) -> None:
    problem = assert_problem(served.get(f"/history/ppweb001?hours={hours}"), 422, "invalid-request")
    assert problem["errors"][0]["where"] == "query.hours"


@pytest.mark.parametrize(
    "name", ["nobody", "a/b/c", "<script>alert(1)</script>", "x" * 5000, "%00", "\0", "\u202e", "'; --"]
)
def test_servers_that_are_not_known_are_404(served: TestClient, name: str) -> None:
    assert_problem(served.get(f"/predictions/{quote(name, safe='')}"), 404, "no-such-server")
    assert_problem(served.get(f"/history/{quote(name, safe='')}"), 404, "no-such-server")


def test_a_fault_of_our_own_is_a_problem_without_a_traceback(quick: Settings, tmp_path: Path) -> None:
    app = create_app(quick, tmp_path / "none")

    def broken() -> None:
        raise ZeroDivisionError("secret detail")

    app.state.daemon.status = broken
    with TestClient(app, raise_server_exceptions=False) as client:
        response = client.get("/status", headers={"X-Request-ID": "ours-1"})
        assert response.headers["x-request-id"] == "ours-1"
        problem = assert_problem(response, 500, "internal-error")
        assert "ours-1" in problem["what"] and "secret" not in response.text and "Traceback" not in response.text
        assert client.get("/health").status_code == 200


def test_a_request_id_that_could_forge_a_log_is_replaced(served: TestClient) -> None:
    for sent in ("a b", "x" * 65, 'a"b', ""):
        assert re.fullmatch(
            "[0-9a-f]{16}", served.get("/health", headers={"X-Request-ID": sent}).headers["x-request-id"]
        )


# ------------------------------------------------------------------------------------------------------------- no model
def test_without_a_model_there_is_no_prediction_but_the_reason(
    quick: Settings, tmp_path: Path, fleet_now: pd.DataFrame
) -> None:
    with running(quick, tmp_path / "models" / "latest") as client:
        assert client.get("/health").json() == {"status": "ok", "model_loaded": False}
        for path in ("/predictions/current", "/predictions/ppweb001", "/alerts/active", "/readyz"):
            response = client.get(path)
            assert "model" in assert_problem(response, 503, "no-model")["what"]
            assert int(response.headers["retry-after"]) > 0
        assert client.get("/livez").status_code == 200
        post(client, json_rows(fleet_now.tail(100)))
        assert client.get(f"/history/{fleet_now[SERVER_NAME].iloc[-1]}").status_code == 200
        status = client.get("/status").json()
        schemas.Status.model_validate(status)
        assert str(tmp_path) not in client.get("/status").text + client.get("/predictions/current").text
        assert status["model"] is None and set(status["model_error"]) == {"what", "why", "fix", "document"}
        assert status["history"]["rows"] == 100 and status["prediction_time"] is None


def test_a_model_without_data_gives_an_empty_set(client: TestClient) -> None:
    answer = client.get("/predictions/current").json()
    schemas.CurrentPredictions.model_validate(answer)
    assert (answer["count"], answer["predictions"], answer["prediction_time"]) == (0, [], None)
    assert answer["data_age_seconds"] is None and answer["stale"] is True
    alerts = client.get("/alerts/active").json()
    schemas.ActiveAlerts.model_validate(alerts)
    assert alerts["alerts"] == []
    assert_problem(client.get("/predictions/ppweb001"), 404, "no-such-server")


def test_a_model_that_appears_is_taken_over_and_a_bad_one_is_refused(
    quick: Settings, tiny_model_dir: Path, fleet_now: pd.DataFrame, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    with running(quick, models / "latest") as client:
        post(client, json_rows(fleet_now))
        assert client.get("/readyz").status_code == 503

        shutil.copytree(tiny_model_dir, models / "first")
        (models / "latest").symlink_to("first")
        wait_for(lambda: client.get("/readyz").status_code == 200)
        first = client.get("/predictions/current").json()
        assert first["count"] == len(FLEET)

        shutil.copytree(tiny_model_dir, models / "bad")
        weights = bytearray((models / "bad" / MODEL_WEIGHTS).read_bytes())
        weights[-1] ^= 0xFF
        (models / "bad" / MODEL_WEIGHTS).write_bytes(weights)
        (models / "link").symlink_to("bad")
        (models / "link").replace(models / "latest")
        error = wait_for(lambda: client.get("/status").json()["model_error"])
        assert MODEL_WEIGHTS in error["what"] and str(tmp_path) not in str(error)
        assert client.get("/health").json()["model_loaded"] is True
        assert client.get("/predictions/current").json()["predictions"] == first["predictions"]

        shutil.copytree(tiny_model_dir, models / "second")
        info = json.loads((models / "second" / "training_info.json").read_text())
        info["model_name"] = "tft_model_20990101_000000"
        (models / "second" / "training_info.json").write_text(json.dumps(info))
        (models / "second").rename(models / "tft_model_20990101_000000")
        (models / "link").symlink_to("tft_model_20990101_000000")
        (models / "link").replace(models / "latest")
        wait_for(lambda: client.get("/status").json()["model_error"] is None)
        second = client.get("/predictions/current").json()
        assert second["model"]["name"] == "tft_model_20990101_000000"
        assert second["predictions"] == first["predictions"]


def test_a_model_folder_that_is_there_and_broken_keeps_it_from_opening(
    quick: Settings, tiny_model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "dangling").symlink_to("absent")
    broken = [tmp_path / "file", tmp_path / "dangling"]
    for name in MODEL_FILES:
        broken.append(tmp_path / f"without_{name}")
        shutil.copytree(tiny_model_dir, broken[-1])
        (broken[-1] / name).unlink()
    for folder in broken:
        daemon = create_app(quick, folder).state.daemon
        with pytest.raises(ModelFolderError, match=folder.name):
            daemon.open()
        daemon.close()
    (tmp_path / "empty").mkdir()
    with running(quick, tmp_path / "empty") as client:  # and what was refused has let go of the history
        assert_problem(client.get("/predictions/current"), 503, "no-model")


# -------------------------------------------------------------------------------------------------------------- ingest
def test_rows_are_counted_as_accepted_duplicate_and_rejected(client: TestClient) -> None:
    rows = [row(cpu_pct=10.0), row("ppdb001"), row(cpu_pct=99.0), row("ppdb002", cpu_pct=140.0)]
    answer = post(client, rows)
    schemas.IngestResult.model_validate(answer)
    assert (answer["accepted"], answer["duplicates"], answer["rejected"]) == (2, 1, 1)
    assert answer["errors"] == [{"row": 3, "server_name": "ppdb002", "what": "`cpu_pct` is 140.0, outside 0 to 100 %"}]
    assert client.get("/history/ppweb001?hours=1").json()["metrics"]["cpu_pct"][-1] == 10.0
    bare = client.post("/ingest", json=rows[:1])
    assert bare.json() == {"accepted": 0, "duplicates": 1, "rejected": 0, "errors": []}
    assert client.get("/status").json()["ingest"] == {"accepted": 2, "duplicates": 2, "rejected": 1}
    assert post(client, []) == {"accepted": 0, "duplicates": 0, "rejected": 0, "errors": []}


def test_what_a_row_leaves_out_is_derived_by_the_contract(client: TestClient) -> None:
    rows = [
        row("ppml0007", cpu_pct=96.0),
        row("ppdb007", cpu_pct=85.0, mem_pct=None),
        row("ppweb007", cpu_pct=1.0, latency_ms=3),
        {"timestamp": NOW.isoformat(), "server_name": "host7", "mem_pct": 50.0},
        row("host8", cpu_pct=1.0, state="maintenance", profile="database"),
    ]
    assert post(client, rows)["accepted"] == 5
    found = [client.get(f"/history/{each['server_name']}?hours=1").json() for each in rows]
    assert [each["states"][-1] for each in found] == ["critical_issue", "heavy_load", "idle", "healthy", "maintenance"]
    assert [each["profile"] for each in found] == ["ml_compute", "database", "web_api", "generic", "database"]
    post(client, [row("host8", NOW - timedelta(minutes=5))])
    assert client.get("/history/host8").json()["profile"] == "database", "a known server keeps its profile"


HOSTILE_ROWS: list[tuple[Any, str]] = [
    ("text", "text, not an object"),
    (None, "null, not an object"),
    ([1], "a list, not an object"),
    (row(cpu_pct=float("nan")), "NaN"),
    (row(latency_ms=float("inf")), "outside"),
    (row(latency_ms=float("-inf")), "outside"),
    (row(disk_io_mb_s=1e308), "outside"),
    (row(disk_io_mb_s=LARGEST_VALUE * 2), "outside"),
    (row(latency_ms=10**4000), "a huge number"),
    (row(mem_pct=-0.001), "outside"),
    (row(mem_pct=100.001), "outside"),
    (row(cpu_pct="41.5"), "text, not a number"),
    (row(cpu_pct=True), "true or false, not a number"),
    (row(cpu_pct=[1]), "a list, not a number"),
    (row(state="exploded"), "`state`"),
    (row(state=3), "`state`"),
    (row(profile="mainframe"), "`profile`"),
    (row(profile={}), "`profile`"),
    (row(cpu=1), "unknown member"),
    ({"server_name": "ppweb001"}, "`timestamp` is missing"),
    (row(moment="yesterday"), "not ISO 8601"),
    (row(moment=""), "not ISO 8601"),
    (row(moment="2026-02-30T00:00:00Z"), "not ISO 8601"),
    (row(moment="0001-01-01T00:00:00+14:00"), "older than what is kept"),
    (row(moment="9999-12-31T23:59:59-14:00"), "future"),
    (row(moment="1969-12-31T23:59:59Z"), "older than what is kept"),
    ({**row(), "timestamp": 1767261600}, "a number, not ISO 8601"),
    (row(moment=utc_now() + timedelta(hours=2)), "future"),
    ({"timestamp": NOW.isoformat()}, "`server_name` is missing"),
    (row(name=""), "empty"),
    (row(name="  "), "empty"),
    (row(name="x" * 254), "longer than 253"),
    (row(name="x" * 10_000), "longer than 253"),
    (row(name="a\nb"), "control characters"),
    (row(name="a\0b"), "control characters"),
    (row(name="\ud800"), "control characters"),
    ({**row(), "server_name": 7}, "a number, not text"),
    ({**row(), "\ud800": 7}, "unknown member"),
]


@pytest.mark.parametrize(("hostile", "reason"), HOSTILE_ROWS, ids=[str(number) for number in range(len(HOSTILE_ROWS))])
def test_a_hostile_row_is_itemised_and_harms_no_other(served: TestClient, hostile: Any, reason: str) -> None:
    rows = [row("ppweb001", NOW - timedelta(minutes=5)), hostile]
    response = served.post("/ingest", content=json.dumps({"rows": rows}), headers={"Content-Type": "application/json"})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["accepted"], answer["duplicates"], answer["rejected"]) == (0, 1, 1)
    assert answer["errors"][0]["row"] == 1 and reason in answer["errors"][0]["what"]
    assert len(response.text) < 2_000


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "a/b", "רשת-1", "\u202egnp.exe", "x" * 253, "current ", "ä b"]
)
def test_odd_but_valid_names_are_forecast_and_found(client: TestClient, fleet_now: pd.DataFrame, name: str) -> None:
    own = fleet_now[fleet_now[SERVER_NAME] == "ppgen001"].assign(**{SERVER_NAME: name})
    post_and_wait(client, json_rows(own))
    assert client.get(f"/predictions/{quote(name, safe='')}").json()["server_name"] == name
    assert client.get(f"/history/{quote(name, safe='')}").json()["server_name"] == name


def test_rows_that_are_all_wrong_are_a_422_with_the_list(client: TestClient) -> None:
    rows = [row(cpu_pct=200.0 + number) for number in range(250)]
    problem = assert_problem(client.post("/ingest", json={"rows": rows}), 422, "no-valid-rows")
    assert (problem["rejected"], problem["accepted"], len(problem["errors"])) == (250, 0, 100)
    assert client.get("/status").json()["ingest"]["rejected"] == 250


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"", 400, "no-json"),
        (b"{", 400, "no-json"),
        (b"\xff\xfe", 400, "no-json"),
        (b"[" * 100_000, 400, "no-json"),
        (b'{"rows": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, "no-json"),
        (b"1" * 10_000, 400, "no-json"),
        (b"null", 422, "no-rows"),
        (b"7", 422, "no-rows"),
        (b"{}", 422, "no-rows"),
        (b'{"rows": {}}', 422, "no-rows"),
        (b'{"rows": [], "more": 1}', 422, "no-rows"),
    ],
)
def test_a_body_without_rows_is_refused(served: TestClient, body: bytes, status: int, kind: str) -> None:
    assert_problem(served.post("/ingest", content=body, headers={"Content-Type": "application/json"}), status, kind)


def test_bodies_and_rows_are_bounded(quick: Settings, tmp_path: Path) -> None:
    small = quick.model_copy(update={"max_body_mb": 0.01, "max_rows_per_request": 20})
    with running(small, tmp_path / "none") as client:
        assert_problem(client.post("/ingest", json=[row()] * 21), 413, "too-many-rows")
        assert_problem(client.post("/ingest", json=[row()] * 1000), 413, "too-large")

        def endless() -> Iterator[bytes]:  # without a Content-Length
            for _ in range(1000):
                yield b" " * 1000

        response = client.post("/ingest", content=endless(), headers={"Content-Type": "application/json"})
        assert_problem(response, 413, "too-large")
        assert post(client, [row()])["accepted"] == 1
        assert client.get("/status").json()["history"]["rows"] == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": ""},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
def test_other_formats_are_refused(served: TestClient, headers: dict[str, str]) -> None:
    assert_problem(served.post("/ingest", content=json.dumps([row()]), headers=headers), 415, "not-json")


def test_rows_older_than_what_is_kept_are_refused_and_old_ones_are_deleted(
    quick: Settings, tiny_model_dir: Path
) -> None:
    short = quick.model_copy(update={"history_keep_days": 3, "offline_after_minutes": 60.0})
    with running(short, tiny_model_dir) as client:
        post(client, [row("gone", NOW - timedelta(days=10)), row("ppweb001", NOW - timedelta(days=10))])
        post_and_wait(client, [row("ppweb001", NOW)])
        wait_for(lambda: client.get("/status").json()["history"]["rows"] == 1)
        assert_problem(client.get("/history/gone"), 404, "no-such-server")
        wait_for(lambda: client.get("/status").json()["servers"] == 1)
        answer = post(client, [row("gone", NOW - timedelta(days=10)), row("ppweb001")])
        assert answer["rejected"] == 1 and "older than what is kept" in answer["errors"][0]["what"]


def test_a_fleet_has_a_bound(quick: Settings, tmp_path: Path) -> None:
    with running(quick.model_copy(update={"max_servers": 2}), tmp_path / "none") as client:
        answer = post(client, [row("a"), row("b"), row("c"), row("a", NOW - timedelta(minutes=5)), row("d")])
        assert (answer["accepted"], answer["rejected"]) == (3, 2)
        assert "no room" in answer["errors"][0]["what"]
        assert post(client, [row("b", NOW - timedelta(minutes=5))])["accepted"] == 1


def test_a_full_disk_refuses_rows_while_reading_goes_on(client: TestClient, fleet_now: pd.DataFrame) -> None:
    app = client.app
    assert isinstance(app, FastAPI)
    before = post_and_wait(client, json_rows(fleet_now))
    connection = app.state.daemon._store._file._connection
    connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the present size as the least
    many = [row("host1", NOW - timedelta(seconds=number + 1)) for number in range(20_000)]
    assert "full" in assert_problem(client.post("/ingest", json=many), 507, "storage-failed")["what"]
    assert client.get("/predictions/current").json()["predictions"] == before["predictions"]
    assert client.get("/history/ppweb001").status_code == 200
    assert client.get("/status").json()["history"]["rows"] == len(fleet_now)
    connection.execute("PRAGMA max_page_count = 1000000")
    assert post(client, many)["accepted"] == 20_000


def test_a_client_that_asks_too_often_is_told_when_to_come_back(quick: Settings, tmp_path: Path) -> None:
    with running(quick.model_copy(update={"rate_limit_per_second": 5}), tmp_path / "none") as client:
        responses = [client.get("/status") for _ in range(30)]
        limited = [response for response in responses if response.status_code == 429]
        assert responses[0].status_code == 200 and limited
        assert_problem(limited[0], 429, "too-many-requests")
        assert int(limited[0].headers["retry-after"]) >= 1
        assert all(client.get(path).status_code == 200 for path in ("/health", "/livez") for _ in range(20))
        wait_for(lambda: client.get("/status").status_code == 200)


# -------------------------------------------------------------------------------------------------- time and silence
def test_a_silent_server_is_offline_and_not_forecast_from_old_data(client: TestClient, fleet_now: pd.DataFrame) -> None:
    silent = fleet_now[(fleet_now[SERVER_NAME] != "ppdb001") | (fleet_now[TIMESTAMP] < NOW - timedelta(minutes=90))]
    answer = post_and_wait(client, json_rows(silent))
    schemas.CurrentPredictions.model_validate(answer)
    assert answer["count"] == len(FLEET) - 1 and "ppdb001" not in {p["server_name"] for p in answer["predictions"]}
    last = (NOW - timedelta(minutes=95)).isoformat().replace("+00:00", "Z")
    assert answer["offline"] == [
        {"server_name": "ppdb001", "profile": "database", "state": "offline", "stale": True, "last_seen": last}
    ]
    assert client.get("/status").json()["offline_servers"] == {"count": 1, "names": ["ppdb001"]}
    assert last in assert_problem(client.get("/predictions/ppdb001"), 404, "server-offline")["what"]
    assert client.get("/history/ppdb001").status_code == 200
    back = post_and_wait(client, [row("ppdb001", NOW - timedelta(minutes=5))])
    assert back["count"] == len(FLEET) and back["offline"] == []


def test_recorded_data_is_served_and_called_stale(
    quick: Settings, tiny_model_dir: Path, fleet_file: Path, fleet_frame: pd.DataFrame
) -> None:
    long_ago = fleet_frame.assign(**{TIMESTAMP: fleet_frame[TIMESTAMP] - pd.Timedelta(days=4000)})
    data = write_fleet(quick.history_dir.parent / "old.parquet", long_ago)
    with running(quick, tiny_model_dir, data) as client:
        answer = client.get("/predictions/current").json()
        assert answer["count"] == len(FLEET) and answer["stale"] is True
        assert answer["data_age_seconds"] > 3000 * 86_400
        assert client.get("/status").json()["history"]["rows"] == len(fleet_frame)
        assert client.get("/status").json()["stale"] is True
    with running(quick, tiny_model_dir, data) as client:  # once more: all known
        status = client.get("/status").json()
        assert status["ingest"] == {"accepted": 0, "duplicates": len(fleet_frame), "rejected": 0}
        assert client.get("/predictions/current").json()["predictions"] == answer["predictions"]


def test_of_a_data_file_only_what_forecasts_need_is_taken_in(quick: Settings, tmp_path: Path) -> None:
    data = write_fleet(tmp_path / "long.parquet", make_fleet(names=("ppweb001",), hours=24 * 5, end=NOW))
    with running(quick.model_copy(update={"history_hours": 48}), tmp_path / "none", data) as client:
        assert client.get("/status").json()["history"]["rows"] == 48 * 12 + 1


def test_a_data_file_that_cannot_be_used_stops_the_start_and_leaves_the_store_free(
    quick: Settings, tmp_path: Path, fleet_frame: pd.DataFrame
) -> None:
    bad = fleet_frame.assign(cpu_pct=140.0)
    no_time = tmp_path / "no_time.parquet"
    fleet_frame.drop(columns=[TIMESTAMP]).to_parquet(no_time)
    for path, error in (
        (tmp_path / "absent.parquet", DataFileError),
        (write_fleet(tmp_path / "bad.parquet", bad), ContractError),
        (no_time, ContractError),
    ):
        with pytest.raises(error), running(quick, tmp_path / "none", path):
            pass
    with running(quick, tmp_path / "none") as client:
        assert client.get("/status").json()["history"]["rows"] == 0


def test_history_outlives_a_restart_and_is_forecast_at_once(
    quick: Settings, tiny_model_dir: Path, fleet_now: pd.DataFrame
) -> None:
    with running(quick, tiny_model_dir) as client:
        before = post_and_wait(client, json_rows(fleet_now))
    with running(quick, tiny_model_dir) as client:
        after = client.get("/predictions/current").json()
        assert after["predictions"] == before["predictions"] and after["count"] == len(FLEET)
        assert client.get("/status").json()["history"]["rows"] == len(fleet_now)


def test_a_damaged_history_is_reported_and_the_daemon_serves(quick: Settings, tiny_model_dir: Path) -> None:
    quick.history_dir.mkdir()
    (quick.history_dir / "history.sqlite3").write_bytes(b"rubbish" * 1000)
    with running(quick, tiny_model_dir) as client:
        assert client.get("/status").json()["history"]["set_aside"].startswith("history.sqlite3.damaged-")
        assert client.get("/status").json()["history"]["rescued_rows"] == 0
        assert post(client, [row()])["accepted"] == 1


# -------------------------------------------------------------------------------------------------------------- alerts
def test_alerts_are_in_the_agreed_format(quick: Settings, tiny_model_dir: Path, fleet_now: pd.DataFrame) -> None:
    nervous = quick.model_copy(
        update={"critical_thresholds": dict.fromkeys(METRIC_COLUMNS, 0.5), "profile_thresholds": {}}
    )
    with running(nervous, tiny_model_dir) as client:
        current = post_and_wait(client, json_rows(fleet_now))
        answer = client.get("/alerts/active").json()
        schemas.ActiveAlerts.model_validate(answer)
        assert answer["count"] == len(answer["alerts"]) > 0
        alert = answer["alerts"][0]
        record = next(each for each in current["predictions"] if each["server_name"] == alert["server_name"])
        assert alert["probability"] == record["risks"][alert["metric"]] >= nervous.alert_open_risk
        assert alert["threshold"] == 0.5 and alert["message"]


# ----------------------------------------------------------------------------------------------------------- WebSocket
def test_a_websocket_gets_the_present_set_and_then_every_new_one(client: TestClient, fleet_now: pd.DataFrame) -> None:
    with client.websocket_connect("/ws/predictions") as socket_:
        first = socket_.receive_json()
        assert (first["type"], first["count"]) == ("predictions", 0)
        socket_.send_text("whatever a client says means nothing")
        post(client, json_rows(fleet_now))
        second = socket_.receive_json()
        assert second["count"] == len(FLEET)
        assert second.pop("type") == "predictions"
        schemas.CurrentPredictions.model_validate(second)
        assert second["predictions"] == client.get("/predictions/current").json()["predictions"]


def test_an_idle_websocket_is_pinged(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon_stream.PING_SECONDS", 0.1)
    with client.websocket_connect("/ws/predictions") as socket_:
        assert socket_.receive_json()["type"] == "predictions"
        assert socket_.receive_json()["type"] == "ping"


def test_websockets_are_bounded_and_closed_to_pages_of_other_sites(quick: Settings, tiny_model_dir: Path) -> None:
    with running(quick.model_copy(update={"max_websockets": 1}), tiny_model_dir) as client:
        with pytest.raises(WebSocketDisconnect):
            client.websocket_connect("/ws/predictions", headers={"Origin": "http://evil.example"}).__enter__()
        with client.websocket_connect("/ws/predictions", headers={"Origin": "http://testserver"}) as first:
            assert first.receive_json()["type"] == "predictions"
            with pytest.raises(WebSocketDisconnect):
                client.websocket_connect("/ws/predictions").__enter__()
        wait_for(lambda: not client.app.state.daemon.stream._clients)
        with client.websocket_connect("/ws/predictions") as again:
            assert again.receive_json()["type"] == "predictions"


# ------------------------------------------------------------------------------------------------------------- the end
def test_a_signal_that_python_swallowed_while_starting_stops_it_all_the_same() -> None:
    stop = _Stop()
    with pytest.raises(_StoppedError):
        stop(15, None)  # as within a callback of the import system, where it goes no further
    with pytest.raises(_StoppedError):
        stop.watch(uvicorn.Server(uvicorn.Config(FastAPI())))
    running_one, other = uvicorn.Server(uvicorn.Config(FastAPI())), _Stop()
    other.watch(running_one)
    other(15, None)
    assert running_one.should_exit


# --------------------------------------------------------------------------------------------------------- the document
def test_the_document_names_every_route_problem_and_setting(served: TestClient) -> None:
    root = Path(schemas.__file__).parent
    document = (root / "Docs" / "DAEMON.md").read_text()
    for path, methods in served.get("/openapi.json").json()["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in document
    kinds = set()
    for module in root.glob("daemon_*.py"):
        kinds |= set(re.findall(r'RequestError\(\s*\d+,\s*"([a-z-]+)"|kind="([a-z-]+)"', module.read_text()))
    assert len(kinds) > 10
    assert all(f"`{first or second}`" in document for first, second in kinds)
    own = (root / "config.py").read_text().split("# Daemon\n")[1].split("\n\n")[0]
    settings = re.findall(r"^    (\w+):", own, re.MULTILINE)
    assert len(settings) > 10 and all(f"`{name}`" in document for name in settings)


def test_an_arrow_stream_is_taken_in_as_json_rows_are(client: TestClient) -> None:
    table = pa.table(
        {
            TIMESTAMP: pa.array([NOW, NOW, NOW], pa.timestamp("ms", tz="UTC")),
            SERVER_NAME: pa.array(["ppweb001", "ppweb001", "ppdb001"]).dictionary_encode(),
            "cpu_pct": [41.5, 41.5, 140.0],
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    body, headers = sink.getvalue().to_pybytes(), {"Content-Type": "application/vnd.apache.arrow.stream"}
    answer = client.post("/ingest", content=body, headers=headers)
    schemas.IngestResult.model_validate(answer.json())
    assert answer.json()["accepted"] == answer.json()["duplicates"] == answer.json()["rejected"] == 1
    assert answer.json()["errors"][0]["what"] == "`cpu_pct` is 140.0, outside 0 to 100 %"
    assert post(client, [row()]) == {"accepted": 0, "duplicates": 1, "rejected": 0, "errors": []}
    assert_problem(client.post("/ingest", content=body[:-100], headers=headers), 400, "no-arrow")
    assert_problem(
        client.post("/ingest", content=body, headers={**headers, "Content-Encoding": "gzip"}), 415, "not-json"
    )
