"""One answer for a page, and what had been forecast: over HTTP, with a real model."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from conftest import FLEET, make_fleet
from fastapi.testclient import TestClient
from test_tft_inference import NOW, assert_problem, json_rows, post_and_wait, running, wait_for

import daemon_schemas as schemas
from config import Settings
from daemon_snapshot import PARTS, PastForecasts, Snapshot
from data_contract import HORIZONS, METRIC_COLUMNS, STEP_MINUTES, TIMESTAMP
from forecast import Forecast
from forecast_archive import STORE_FILE, ForecastArchive

NAME = next(iter(FLEET))
STEP = timedelta(minutes=STEP_MINUTES)


@pytest.fixture
def quick(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(
        update={
            "history_dir": tmp_path / "history",
            "daemon_settle_seconds": 0.05,
            "rate_limit_per_second": 100_000,
            "demo_scenarios": True,
        }
    )


@pytest.fixture
def client(quick: Settings, tiny_model_dir: Path) -> Iterator[TestClient]:
    with running(quick, tiny_model_dir) as client:
        post_and_wait(client, json_rows(make_fleet(hours=36, end=NOW)))
        yield client


def test_all_parts_come_at_once_and_are_those_of_their_own_routes(client: TestClient) -> None:
    wanted = {"parts": ",".join(PARTS), "server": NAME, "hours": 6, "servers": [NAME, "nobody"], "metric": "mem_pct"}
    answer = client.get("/snapshot", params=wanted)
    assert answer.status_code == 200
    body = answer.json()
    Snapshot.model_validate(body)
    assert body["problems"] == {} and set(body["parts"]) == set(PARTS)
    assert body["parts"]["current"]["predictions"] == client.get("/predictions/current").json()["predictions"]
    assert body["parts"]["history"] == client.get(f"/history/{NAME}?hours=6").json()
    assert body["parts"]["forecasts"] == client.get(f"/forecasts/{NAME}?hours=6").json()
    assert body["parts"]["prediction"]["path"] == client.get(f"/predictions/{NAME}").json()["path"]
    assert body["parts"]["past_alerts"] == client.get(f"/alerts/history?hours=6&server={NAME}").json()
    assert body["parts"]["reasons"] == {NAME: client.get(f"/explain/{NAME}").json()}
    assert body["parts"]["scenario"] == {"scenario": None, "asked_at": None}
    assert body["parts"]["models"] == client.get("/models").json()
    series, path = body["parts"]["series"]["servers"], body["parts"]["prediction"]["path"]
    assert list(series) == [NAME]
    assert series[NAME]["measured"] == body["parts"]["history"]["metrics"]["mem_pct"]
    assert series[NAME]["first_measured"] == body["parts"]["history"]["timestamps"][0]
    assert series[NAME]["forecast"] == path["metrics"]["mem_pct"]
    assert series[NAME]["first_forecast"] == path["timestamps"][0]
    assert body["model"] == body["parts"]["current"]["model"]
    assert answer.headers["X-Prediction-Time"] == body["prediction_time"]


def test_forecasts_that_the_asker_knows_are_not_sent_again(client: TestClient) -> None:
    first = client.get("/snapshot").json()
    assert set(first["parts"]) == {"status", "current", "alerts"}
    again = client.get("/snapshot", params={"known": first["set"]}).json()
    assert again["set"] == first["set"] and again["parts"]["current"] is None
    later = make_fleet(hours=36, end=NOW + 2 * STEP)
    post_and_wait(client, json_rows(later[later[TIMESTAMP] > NOW]))
    wait_for(lambda: client.get("/snapshot").json()["set"] != first["set"])
    new = client.get("/snapshot", params={"known": first["set"]}).json()
    assert len(new["parts"]["current"]["predictions"]) == len(FLEET)


def test_series_are_by_default_of_the_metric_that_each_servers_risk_comes_from(client: TestClient) -> None:
    records = client.get("/predictions/current").json()["predictions"]
    names = [record["server_name"] for record in records]
    body = client.get("/snapshot", params={"parts": "series", "servers": names, "hours": 1}).json()
    assert {name: each["metric"] for name, each in body["parts"]["series"]["servers"].items()} == {
        record["server_name"]: record["risk_metric"] for record in records
    }
    assert all(len(each["measured"]) == 12 for each in body["parts"]["series"]["servers"].values())
    chosen = {"parts": "series", "servers": names[:2], "metric": ["disk_io_mb_s", "latency_ms"], "hours": 1}
    body = client.get("/snapshot", params=chosen).json()
    assert [each["metric"] for each in body["parts"]["series"]["servers"].values()] == chosen["metric"]
    assert_problem(client.get("/snapshot", params={**chosen, "servers": names[:3]}), 422, "invalid-request")
    too_many = client.get("/snapshot", params={"parts": "series", "servers": [f"s{i}" for i in range(51)]})
    assert_problem(too_many, 422, "invalid-request")


def test_history_and_past_forecasts_end_at_the_moment_that_is_asked_for(client: TestClient) -> None:
    newest = client.get(f"/history/{NAME}?hours=3").json()
    until = newest["timestamps"][11]
    older = client.get(f"/history/{NAME}", params={"hours": 1, "until": until}).json()
    assert older["timestamps"] == newest["timestamps"][:12]
    assert older["metrics"]["cpu_pct"] == newest["metrics"]["cpu_pct"][:12]
    past = client.get(f"/forecasts/{NAME}", params={"hours": 1, "until": until}).json()
    assert past["timestamps"] == older["timestamps"]
    both = client.get("/snapshot", params={"parts": "history,forecasts", "server": NAME, "hours": 1, "until": until})
    assert both.json()["parts"] == {"history": older, "forecasts": past}
    later = client.get(f"/history/{NAME}", params={"hours": 3, "until": "2999-01-01T00:00:00Z"}).json()
    assert later == newest
    assert_problem(client.get(f"/history/{NAME}", params={"until": "2026-01-05T10:00:00"}), 422, "invalid-request")


def test_a_part_that_cannot_be_given_says_why_and_the_others_are_there(client: TestClient) -> None:
    body = client.get("/snapshot", params={"parts": "status,prediction,history", "server": "nobody"}).json()
    Snapshot.model_validate(body)
    assert set(body["parts"]) == {"status"}
    assert body["problems"]["prediction"]["type"] == body["problems"]["history"]["type"]
    assert body["problems"]["history"]["status"] == 404 and "nobody" in body["problems"]["history"]["what"]


def test_without_a_model_there_is_a_reason_instead_of_forecasts(quick: Settings, tmp_path: Path) -> None:
    with running(quick, tmp_path / "none") as client:
        body = client.get("/snapshot").json()
    Snapshot.model_validate(body)
    assert set(body["parts"]) == {"status"} and body["set"] is None
    assert body["problems"]["current"]["type"].endswith("no-model") and body["problems"]["alerts"]["status"] == 503


@pytest.mark.parametrize("query", ["parts=everything", "parts=", "parts=history", "hours=0", "horizon=2hr"])
def test_what_is_not_understood_is_refused(client: TestClient, query: str) -> None:
    assert_problem(client.get(f"/snapshot?{query}"), 422, "invalid-request")


def test_what_had_been_forecast_is_there_after_a_restart(quick: Settings, tiny_model_dir: Path) -> None:
    fleet = make_fleet(hours=36, end=NOW + 8 * STEP)
    with running(quick, tiny_model_dir) as client:
        post_and_wait(client, json_rows(fleet[fleet[TIMESTAMP] <= NOW]))
        promised = client.get(f"/predictions/{NAME}").json()["quantiles"]
    with running(quick, tiny_model_dir) as client:
        post_and_wait(client, json_rows(fleet[fleet[TIMESTAMP] > NOW]))
        found = client.get(f"/forecasts/{NAME}", params={"horizon": "30min", "hours": 1})
        PastForecasts.model_validate(found.json())
        body = found.json()
        place = body["timestamps"].index((NOW + 6 * STEP).isoformat().replace("+00:00", "Z"))
        for metric in METRIC_COLUMNS:
            for quantile in ("p10", "p50", "p90"):
                told, was = body["metrics"][metric][quantile][place], promised[quantile]["30min"][metric]
                assert told == pytest.approx(was, abs=0.01) if was is not None else told is None
        assert body["metrics"]["cpu_pct"]["p50"][0] is None  # nobody had forecast that
        assert client.get("/forecasts/nobody").status_code == 404


def test_nothing_is_kept_where_nothing_is_to_be(quick: Settings, tiny_model_dir: Path) -> None:
    with running(quick.model_copy(update={"forecast_keep_days": 0}), tiny_model_dir) as client:
        post_and_wait(client, json_rows(make_fleet(hours=36, end=NOW)))
        found = client.get(f"/forecasts/{NAME}").json()
    assert set(found["metrics"]["cpu_pct"]["p50"]) == {None}
    assert not (quick.history_dir / STORE_FILE).exists()


def made(step: int, *, seed: int | None = None) -> Forecast:
    values = np.random.default_rng(step if seed is None else seed).uniform(0, 90, (2, 96, 4, 3)).astype(np.float32)
    origin = NOW + step * STEP
    return Forecast(("a", "b"), ("generic", "generic"), np.ones(2, np.bool_), origin, values, (0.1, 0.5, 0.9))


def test_old_forecasts_go_and_the_last_of_each_step_stays(tmp_path: Path) -> None:
    with closing(ForecastArchive(tmp_path, timedelta(hours=2))) as archive:
        for step in range(40):
            archive.note(made(step, seed=7))  # late rows change it a moment later
            archive.note(made(step))
        first, ahead = int(NOW.timestamp()) // 300, HORIZONS["1hr"]
        found = archive.of_server("b", "1hr", first, first + 60)["mem_pct", "p90"].dropna()
        # The newest, not yet written one counts, too; of the others two hours are kept.
        assert found.index.tolist() == [first + ahead + step for step in range(14, 40)]
        assert found[first + ahead + 30] == pytest.approx(made(30).values[1, ahead - 1, 1, 2])
        assert archive.of_server("nobody", "1hr", first, first + 60).isna().all(axis=None)
    with closing(sqlite3.connect(tmp_path / STORE_FILE)) as connection:
        origins = connection.execute("SELECT min(origin), max(origin), count(*) FROM forecasts").fetchone()
    assert origins == (first + 15, first + 39, 25 * 2)


def test_a_damaged_archive_is_set_aside_and_forecasts_go_on(quick: Settings, tiny_model_dir: Path) -> None:
    quick.history_dir.mkdir(parents=True)
    (quick.history_dir / STORE_FILE).write_bytes(b"no database at all" * 500)
    fleet = make_fleet(hours=36, end=NOW + 2 * STEP)
    with running(quick, tiny_model_dir) as client:
        post_and_wait(client, json_rows(fleet[fleet[TIMESTAMP] <= NOW]))
        post_and_wait(client, json_rows(fleet[fleet[TIMESTAMP] > NOW]))
        assert client.get("/predictions/current").json()["count"] == len(FLEET)
        assert client.get(f"/forecasts/{NAME}").status_code == 200
        wait_for(lambda: bool(list(quick.history_dir.glob(f"{STORE_FILE}.damaged-*"))))


def test_a_refresh_of_a_page_is_small(client: TestClient) -> None:
    first = client.get("/snapshot")
    again = client.get("/snapshot", params={"known": first.json()["set"]})
    assert len(again.content) < len(first.content) / 2
    assert json.loads(again.content)["parts"]["status"]["servers"] == len(FLEET)
    schemas.Status.model_validate(again.json()["parts"]["status"])
