"""The fleet in figures, page by page and explained, and which models there are: over HTTP, with a real model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FLEET, make_fleet
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from test_tft_inference import NOW, assert_problem, json_rows, post_and_wait, running, wait_for

import daemon_schemas as schemas
from config import Settings
from daemon_fleet_routes import ExplanationAnswer, FleetSummary, Models, Reloaded
from daemon_pages import KEPT_SETS
from data_contract import MAX_NAME_LENGTH, MODEL_WEIGHTS, PROFILE, SERVER_NAME, TIMESTAMP, TRAINING_INFO
from fleet_summary import CursorError, RankedFleet, level_of
from tft_risk import ServerRisk

NAME = FLEET[0]
PROFILES = dict(make_fleet(hours=1)[[SERVER_NAME, PROFILE]].drop_duplicates().to_numpy().tolist())


def copy_model(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    info = json.loads((target / TRAINING_INFO).read_text())
    (target / TRAINING_INFO).write_text(json.dumps({**info, "model_name": target.name}))


@pytest.fixture(scope="module")
def module_settings(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings.model_copy(
        update={
            "history_dir": tmp_path_factory.mktemp("history"),
            "daemon_settle_seconds": 0.05,
            "model_check_seconds": 0.1,
            "rate_limit_per_second": 100_000,
            "offline_after_minutes": 60.0,
        }
    )


@pytest.fixture(scope="module")
def silent() -> str:
    """A server that has not been heard of for long."""
    return FLEET[-1]


@pytest.fixture(scope="module")
def client(module_settings: Settings, tiny_model_dir: Path, silent: str) -> Iterator[TestClient]:
    fleet = make_fleet(hours=36, end=NOW)
    heard = fleet[(fleet[SERVER_NAME] != silent) | (fleet[TIMESTAMP] < NOW - timedelta(hours=3))]
    with running(module_settings, tiny_model_dir) as client:
        post_and_wait(client, json_rows(heard))
        wait_for(lambda: client.get("/fleet/summary").json()["servers"]["offline"] == 1)
        yield client


def with_history(settings: Settings, name: str) -> Settings:
    """The same settings, with nothing measured yet."""
    return settings.model_copy(update={"history_dir": settings.history_dir / name})


# ------------------------------------------------------------------------------------------------------------- summary
def test_the_summary_counts_what_the_forecasts_say(client: TestClient, silent: str, settings: Settings) -> None:
    answer = client.get("/fleet/summary")
    body = answer.json()
    FleetSummary.model_validate(body)
    current = client.get("/predictions/current").json()
    risks = [record["risk"] for record in current["predictions"]]
    assert body["servers"] == {
        "forecast": len(FLEET) - 1,
        "offline": 1,
        "unknown_to_model": sum(not record["known"] for record in current["predictions"]),
    }
    for level, count in body["levels"].items():
        assert count == sum(level_of(risk, settings) == level for risk in risks)
    assert body["profiles"][PROFILES[silent]]["offline"] == 1
    assert sum(sum(counts.values()) for counts in body["profiles"].values()) == len(FLEET)
    assert sum(each["servers"] for each in body["risk_histogram"]) == sum(risk is not None for risk in risks)
    assert [each["risk"] for each in body["worst"]] == sorted((r for r in risks if r is not None), reverse=True)[:10]
    threshold = settings.threshold("cpu_pct", PROFILES[NAME])
    over = sum(
        record["quantiles"]["p90"]["8hr"]["cpu_pct"] > settings.threshold("cpu_pct", record["profile"])
        for record in current["predictions"]
        if record["quantiles"]["p90"]["8hr"]["cpu_pct"] is not None
    )
    assert threshold > 0 and body["horizons"]["8hr"]["cpu_pct"]["p90"] == over
    assert body["open_alerts"] == client.get("/alerts/active").json()["count"]
    assert answer.headers["X-Prediction-Time"] == body["prediction_time"]


# --------------------------------------------------------------------------------------------------------------- pages
def test_pages_lead_through_the_whole_fleet_worst_first(client: TestClient, silent: str) -> None:
    everyone = {record["server_name"]: record for record in client.get("/predictions/current").json()["predictions"]}
    seen: list[dict[str, Any]] = []
    query = "?limit=2"
    while query:
        answer = client.get(f"/predictions/current{query}")
        body = answer.json()
        schemas.CurrentPredictions.model_validate(body)
        assert body["count"] == len(body["predictions"]) <= 2 and body["total"] == len(everyone)
        assert [server["server_name"] for server in body["offline"]] == ([silent] if not seen else [])
        seen += body["predictions"]
        query = answer.headers["Link"].removeprefix("<").removesuffix('>; rel="next"') if body["next_cursor"] else ""
        assert ("Link" in answer.headers) == (body["next_cursor"] is not None)
    assert {record["server_name"]: record for record in seen} == everyone
    assert len(seen) == len(everyone)
    assert [record["risk"] for record in seen] == sorted((record["risk"] for record in seen), reverse=True)


def test_a_profile_and_a_risk_narrow_the_fleet(client: TestClient) -> None:
    profile = PROFILES[NAME]
    body = client.get("/predictions/current", params={"profile": profile}).json()
    assert body["predictions"] and {record["profile"] for record in body["predictions"]} == {profile}
    risks = [record["risk"] for record in client.get("/predictions/current").json()["predictions"]]
    bound = float(np.median(risks))
    body = client.get("/predictions/current", params={"min_risk": bound}).json()
    assert sorted(record["risk"] for record in body["predictions"]) == sorted(risk for risk in risks if risk >= bound)
    assert client.get("/predictions/current", params={"min_risk": 1}).json()["count"] == sum(r == 1 for r in risks)


@pytest.mark.parametrize(
    "query",
    ["profile=printer", "min_risk=2", "min_risk=nan", "limit=0", "cursor=!", "cursor=YWJj", "cursor=" + "A" * 2001],
)
def test_parameters_out_of_bounds_are_refused(client: TestClient, query: str) -> None:
    assert_problem(client.get(f"/predictions/current?{query}"), 422, "invalid-request")


def test_all_pages_are_of_the_forecasts_of_the_first(module_settings: Settings, tiny_model_dir: Path) -> None:
    fleet = make_fleet(hours=36, end=NOW)
    with running(with_history(module_settings, "walk"), tiny_model_dir) as client:
        post_and_wait(client, json_rows(fleet[fleet[TIMESTAMP] <= NOW - timedelta(hours=6)]))
        first = client.get("/predictions/current?limit=3").json()
        whole = {record["server_name"]: record for record in client.get("/predictions/current").json()["predictions"]}
        expired = client.get("/predictions/current?limit=1").json()["next_cursor"]
        for hours in (3, 0):  # forecast anew between the pages, with other risks
            post_and_wait(client, json_rows(fleet[fleet[TIMESTAMP] <= NOW - timedelta(hours=hours)]))
        newest = client.get("/predictions/current").json()
        assert newest["prediction_time"] > first["prediction_time"]
        seen, body = list(first["predictions"]), first
        while body["next_cursor"]:
            answer = client.get(f"/predictions/current?limit=3&cursor={body['next_cursor']}")
            body = answer.json()
            assert body["prediction_time"] == first["prediction_time"] == answer.headers["X-Prediction-Time"]
            assert body["generated_at"] == first["generated_at"]
            seen += body["predictions"]
        assert {record["server_name"]: record for record in seen} == whole and len(seen) == len(FLEET)
        assert client.get("/predictions/current?limit=3").json()["prediction_time"] == newest["prediction_time"]

        for count in range(KEPT_SETS):  # as many sets whose pages are turned, and the first is let go
            post_and_wait(client, json_rows(fleet.assign(**{SERVER_NAME: f"late{count}"}).iloc[-1:]))
            assert client.get("/predictions/current?limit=1").json()["next_cursor"]
        problem = assert_problem(client.get(f"/predictions/current?limit=1&cursor={expired}"), 410, "cursor-expired")
        assert "without a cursor" in problem["fix"]
        foreign = "00000000" + expired[8:]  # of the process before
        assert_problem(client.get(f"/predictions/current?cursor={foreign}"), 410, "cursor-expired")
        assert_problem(client.get(f"/predictions/current?cursor={expired.partition('.')[0]}"), 410, "cursor-expired")


def test_a_server_with_the_longest_name_has_a_cursor_that_is_taken(
    module_settings: Settings, tiny_model_dir: Path
) -> None:
    fleet = make_fleet(hours=30, end=NOW)
    rows = fleet[fleet[SERVER_NAME] == NAME]
    names = ["\U0001f5a5" * MAX_NAME_LENGTH, "\U0001f5a5" * (MAX_NAME_LENGTH - 1)]
    with running(with_history(module_settings, "long"), tiny_model_dir) as client:
        post_and_wait(client, [row for name in names for row in json_rows(rows.assign(**{SERVER_NAME: name}))])
        first = client.get("/predictions/current?limit=1").json()
        second = client.get("/predictions/current", params={"cursor": first["next_cursor"]}).json()
        assert {first["predictions"][0]["server_name"], second["predictions"][0]["server_name"]} == set(names)


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=30),
    st.integers(1, 7),
    st.lists(st.text(min_size=1, max_size=5), max_size=30, unique=True),
)
def test_pages_miss_nobody_and_repeat_nobody(risks: list[float | None], limit: int, names: list[str]) -> None:
    fleet = [ServerRisk(name, "generic", risk, None, {}) for name, risk in zip(names, risks, strict=False)]
    ranked = RankedFleet(fleet)
    seen: list[str] = []
    cursor = None
    for _ in range(len(fleet) + 1):
        page = ranked.page(limit=limit, cursor=cursor)
        seen += page.names
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(seen) == sorted(server.server_name for server in fleet)


@given(st.text(max_size=40))
def test_a_foreign_cursor_is_refused_or_is_a_place(text: str) -> None:
    try:
        page = RankedFleet([ServerRisk("a", "generic", 0.5, None, {})]).page(cursor=text)
    except CursorError:
        return
    assert set(page.names) <= {"a"}


# --------------------------------------------------------------------------------------------------------- explanation
def test_an_explanation_is_of_the_forecasts_that_are_served(client: TestClient, silent: str) -> None:
    answer = client.get(f"/explain/{NAME}")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    ExplanationAnswer.model_validate(body)
    record = client.get(f"/predictions/{NAME}").json()
    assert body["prediction_time"] == record["prediction_time"] and body["model"] == record["model"]
    assert sum(body["past"].values()) == pytest.approx(1, abs=0.01) and NAME in body["sentence"]
    assert client.get(f"/explain/{NAME}").content == answer.content
    assert_problem(client.get("/explain/nobody"), 404, "no-such-server")
    assert_problem(client.get(f"/explain/{silent}"), 404, "server-offline")


def test_many_who_ask_for_explanations_get_one_or_are_told_to_wait(client: TestClient, silent: str) -> None:
    names = [name for name in FLEET if name != silent] * 4
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: client.get(f"/explain/{name}"), names))
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert all(answer.headers["Retry-After"] for answer in answers if answer.status_code == 503)
    assert any(answer.status_code == 200 for answer in answers)


# -------------------------------------------------------------------------------------------------------------- models
def test_models_are_listed_and_a_new_one_is_taken_over_at_once(
    module_settings: Settings, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folders = tmp_path / "models"
    first, second = (folders / f"tft_model_2026010{day}_000000" for day in (1, 2))
    copy_model(tiny_model_dir, first)
    latest = folders / "latest"
    latest.symlink_to(first.name)
    slow = module_settings.model_copy(update={"history_dir": tmp_path / "history", "model_check_seconds": 3600})
    with running(slow, latest) as client:
        post_and_wait(client, json_rows(make_fleet(hours=36, end=NOW)))
        copy_model(tiny_model_dir, second)
        (folders / "tft_model_20250101_000000").mkdir()
        listed = client.get("/models").json()
        Models.model_validate(listed)
        assert [model["name"] for model in listed["models"]] == [second.name, first.name, "tft_model_20250101_000000"]
        assert [model["served"] for model in listed["models"]] == [False, True, False]
        assert listed["models"][1]["validation"] == json.loads((first / TRAINING_INFO).read_text())["validation"]
        assert listed["models"][2]["problem"] and str(tmp_path) not in json.dumps(listed)

        assert client.post("/models/reload").json()["changed"] is False
        latest.unlink()
        latest.symlink_to(second.name)
        answer = client.post("/models/reload")
        Reloaded.model_validate(answer.json())
        assert answer.json()["changed"] and answer.json()["served"]["name"] == second.name
        assert client.get("/predictions/current").json()["model"]["name"] == second.name

        latest.unlink()
        (first / MODEL_WEIGHTS).write_bytes(b"\0" * 100)
        latest.symlink_to(first.name)
        refused = assert_problem(client.post("/models/reload"), 409, "model-refused")
        assert second.name in refused["what"] and str(tmp_path) not in json.dumps(refused)
        assert client.get("/predictions/current").json()["model"]["name"] == second.name
        assert client.get("/models").json()["refused"]["what"]
        # asked again, it is judged again: what was mended in place must not wait for a change of its files' times
        assert_problem(client.post("/models/reload"), 409, "model-refused")
