"""The routes of alerts over HTTP, with a real model that finds everything alarming."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import FLEET, make_fleet
from fastapi.testclient import TestClient
from local_receivers import LocalReceiver
from test_tft_inference import NOW, assert_problem, json_rows, post_and_wait, running, wait_for

import daemon_alert_routes as routes
import daemon_schemas as schemas
from config import Settings
from data_contract import TIMESTAMP

AUTHOR = {"author": "kim", "comment": "moving the batch job"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[LocalReceiver]:
    with LocalReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def alarming(
    settings: Settings, receiver: LocalReceiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Settings by which every server's CPU is critical."""
    from pydantic import SecretStr

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TFT_WEBHOOK_SECRET", "0123456789abcdef")
        yield settings.model_copy(
            update={
                "history_dir": tmp_path_factory.mktemp("alarming"),
                "daemon_settle_seconds": 0.05,
                "rate_limit_per_second": 100_000,
                "critical_thresholds": {"cpu_pct": 1.0, "mem_pct": 101.0, "disk_io_mb_s": 1e9, "latency_ms": 1e9},
                "profile_thresholds": {},
                "alert_open_risk": 0.5,
                "alert_close_risk": 0.4,
                "webhook_url": SecretStr(receiver.url),
                "alertmanager_url": SecretStr("http://kim:passw0rd@127.0.0.1:9"),
            }
        )


@pytest.fixture(scope="module")
def client(alarming: Settings, tiny_model_dir: Path) -> Iterator[TestClient]:
    with running(alarming, tiny_model_dir) as client:
        post_and_wait(client, json_rows(make_fleet(hours=36, end=NOW)))
        yield client


def active(client: TestClient, server: str = "ppweb001") -> dict[str, Any]:
    answer = client.get("/alerts/active").json()
    schemas.ActiveAlerts.model_validate(answer)
    return next(alert for alert in answer["alerts"] if alert["server_name"] == server)


def test_open_alerts_are_in_the_history_and_went_out(client: TestClient, receiver: LocalReceiver) -> None:
    answer = client.get("/alerts/history").json()
    routes.AlertHistory.model_validate(answer)
    assert {alert["server_name"] for alert in answer["alerts"]} == set(FLEET) and answer["cursor"] is None
    assert active(client)["id"] in {alert["id"] for alert in answer["alerts"]}
    wait_for(lambda: {event["alert"]["server_name"] for event in receiver.events if event["alert"]} == set(FLEET))


def test_history_is_by_server_and_in_pages(client: TestClient) -> None:
    (only,) = client.get("/alerts/history", params={"server": "ppdb001"}).json()["alerts"]
    assert only["server_name"] == "ppdb001" and only["closed_at"] is None
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.get("/alerts/history", params={"limit": 4, **cursor}).json()
        seen += [alert["id"] for alert in page["alerts"]]
        if page["cursor"] is None:
            break
        cursor = {"cursor": page["cursor"]}
    assert len(seen) == len(set(seen)) == len(FLEET)
    assert client.get("/alerts/history", params={"server": "nobody"}).json()["count"] == 0


@pytest.mark.parametrize(
    "wrong", [{"hours": 0}, {"limit": 0}, {"limit": 1001}, {"cursor": "x"}, {"cursor": "9" * 19}, {"server": "x" * 300}]
)
def test_history_out_of_bounds_is_refused(client: TestClient, wrong: dict[str, Any]) -> None:
    assert_problem(client.get("/alerts/history", params=wrong), 422, "invalid-request")


def test_an_alert_is_acknowledged_seen_by_all_and_the_etag_changes(client: TestClient) -> None:
    alert = active(client)
    etag = client.get("/alerts/active").headers["etag"]
    answer = client.post(f"/alerts/{alert['id']}/acknowledge", json=AUTHOR)
    assert answer.status_code == 200
    routes.PastAlert.model_validate(answer.json())
    changed = client.get("/alerts/active", headers={"If-None-Match": etag})
    assert changed.status_code == 200 and active(client)["acknowledged"]["author"] == "kim"
    assert client.get("/alerts/active", headers={"If-None-Match": changed.headers["etag"]}).status_code == 304
    assert client.delete(f"/alerts/{alert['id']}/acknowledge").json()["acknowledged"] is None
    assert active(client)["acknowledged"] is None
    assert_problem(client.post(f"/alerts/{'0' * 16}/acknowledge", json=AUTHOR), 404, "no-such-alert")
    assert_problem(client.delete(f"/alerts/{'0' * 16}/acknowledge"), 404, "no-such-alert")


def test_a_silence_is_made_shown_listed_and_ended(client: TestClient) -> None:
    asked = {"profile": "web_api", "metric": "cpu_pct", "duration_minutes": 60, **AUTHOR}
    answer = client.post("/alerts/silences", json=asked)
    assert answer.status_code == 201
    made = answer.json()
    routes.SilenceAnswer.model_validate(made)
    assert made["state"] == "active" and made["server_name"] is None
    assert active(client)["silenced_by"] == [made["id"]] and active(client, "ppdb001")["silenced_by"] == []
    listed = client.get("/alerts/silences").json()
    routes.Silences.model_validate(listed)
    assert made["id"] in {each["id"] for each in listed["silences"]}
    assert client.delete(f"/alerts/silences/{made['id']}").status_code == 204
    assert active(client)["silenced_by"] == []
    assert_problem(client.delete(f"/alerts/silences/{made['id']}"), 404, "no-such-silence")


def test_a_silence_that_begins_or_ends_by_itself_is_shown(client: TestClient) -> None:
    asked = {"server_name": "ppweb002", "duration_minutes": 1 / 60, **AUTHOR}
    made = client.post("/alerts/silences", json=asked).json()
    assert active(client, "ppweb002")["silenced_by"] == [made["id"]]
    wait_for(lambda: active(client, "ppweb002")["silenced_by"] == [])
    found = {each["id"]: each["state"] for each in client.get("/alerts/silences").json()["silences"]}
    assert found[made["id"]] == "expired"


GOOD = {"server_name": "a", "duration_minutes": 1, **AUTHOR}


@pytest.mark.parametrize(
    "wrong",
    [
        {**GOOD, "server_name": None},
        {**GOOD, "server_name": "a\nb"},
        {**GOOD, "server_name": "x" * 254},
        {**GOOD, "metric": "cpu"},
        {**GOOD, "profile": "web"},
        {**GOOD, "author": " "},
        {**GOOD, "comment": "x" * 1001},
        {**GOOD, "comment": "a\x1b[2Jb"},
        {**GOOD, "duration_minutes": None},
        {**GOOD, "duration_minutes": -1},
        {**GOOD, "duration_minutes": 1e300},
        {**GOOD, "ends_at": "2100-01-01T00:00:00Z"},
        {**GOOD, "starts_at": "2026-01-01T00:00:00"},
        {**GOOD, "duration_minutes": None, "ends_at": "2001-01-01T00:00:00Z"},
        {**GOOD, "duration_minutes": None, "ends_at": "9999-12-31T23:59:59Z"},
        {**GOOD, "starts_at": "9999-12-31T23:59:59-14:00"},
        {**GOOD, "starts_at": "0001-01-01T00:00:00+14:00"},
        {**GOOD, "id": "chosen"},
        [],
        "text",
    ],
)
def test_a_silence_that_is_no_silence_is_refused(client: TestClient, wrong: Any) -> None:
    before = client.get("/alerts/silences").json()["count"]
    assert_problem(client.post("/alerts/silences", json=wrong), 422, "invalid-request")
    assert client.get("/alerts/silences").json()["count"] == before


def test_bodies_are_small_and_json(client: TestClient) -> None:
    path = "/alerts/silences"
    json_header = {"Content-Type": "application/json"}
    assert_problem(client.post(path, content=b"{", headers=json_header), 400, "no-json")
    assert_problem(client.post(path, content=b"\xff\xfe", headers=json_header), 400, "no-json")
    assert_problem(client.post(path, content=b"[" * 16_000, headers=json_header), 400, "no-json")
    assert_problem(client.post(path, content=b"{}", headers={"Content-Type": "text/plain"}), 415, "not-json")
    assert_problem(client.post(path, content=b" " * 20_000, headers=json_header), 413, "too-large")
    assert_problem(client.post("/alerts/..%2f/acknowledge", json=AUTHOR), 404, "no-such-route")
    assert_problem(client.post("/alerts/Z/acknowledge", json=AUTHOR), 422, "invalid-request")


def test_there_are_not_more_silences_than_can_be_compared(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alert_desk.MAX_SILENCES", 0)
    assert client.post("/alerts/silences", json={**GOOD, "duration_minutes": 1e-3}).status_code in {201, 409}
    for each in client.get("/alerts/silences").json()["silences"]:
        client.delete(f"/alerts/silences/{each['id']}")
    assert_problem(client.post("/alerts/silences", json=GOOD), 409, "too-many-silences")


def test_delivery_tells_how_it_goes_and_of_addresses_no_more_than_the_host(
    client: TestClient, receiver: LocalReceiver
) -> None:
    wait_for(lambda: client.get("/alerts/delivery").json()["alertmanager"]["failing_since"])
    assert 'tft_alert_delivery_failing{receiver="alertmanager"} 1.0' in client.get("/metrics").text
    answer = client.get("/alerts/delivery")
    routes.DeliveryStatus.model_validate(answer.json())
    assert answer.json()["webhook"]["receiver"] == f"http://127.0.0.1:{receiver.port}"
    assert "passw0rd" not in answer.text and "hook" not in answer.json()["webhook"]["receiver"]


def test_a_test_alert_says_what_became_of_it(client: TestClient, receiver: LocalReceiver) -> None:
    answer = client.post("/alerts/test").json()
    routes.TestResult.model_validate(answer)
    assert answer["webhook"] == {"configured": True, "delivered": True, "error": None}
    assert answer["alertmanager"]["delivered"] is False and "Connect" in answer["alertmanager"]["error"]
    assert receiver.events[-1]["type"] == "test"


def test_after_a_restart_alerts_are_the_same_and_nobody_is_told_again(
    alarming: Settings, tiny_model_dir: Path, tmp_path: Path, receiver: LocalReceiver
) -> None:
    again = alarming.model_copy(update={"history_dir": tmp_path})
    frame = make_fleet(hours=30, end=NOW)
    first = frame[frame[TIMESTAMP] < NOW - timedelta(minutes=5)]
    with running(again, tiny_model_dir) as client:
        post_and_wait(client, json_rows(first))
        before = active(client)
        client.post(f"/alerts/{before['id']}/acknowledge", json=AUTHOR)
        wait_for(lambda: client.get("/alerts/delivery").json()["webhook"]["waiting"] == 0)
    told = len(receiver.events)
    with running(again, tiny_model_dir) as client:
        restored = active(client)
        assert (restored["id"], restored["opened_at"]) == (before["id"], before["opened_at"])
        assert restored["acknowledged"]["author"] == "kim"
        post_and_wait(client, json_rows(frame[~frame.index.isin(first.index)]))
        assert active(client)["id"] == before["id"]
        assert client.get("/alerts/delivery").json()["webhook"]["waiting"] == 0 and len(receiver.events) == told
