"""Who may use which route of the daemon: every route has a row, and who has no key learns and does nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute, Match
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from test_tft_inference import assert_problem, row

from api_keys import KeyRing, KeyScope, create_key, revoke_key
from config import Settings
from daemon_gate import Gate
from daemon_policy import POLICY, STREAM_PROTOCOL, UNMATCHED, place_of
from tft_inference import create_app

SAMPLES = {"{server_name:path}": "rack 7/b", "{asset}": "start.js", "{name}": "healthy"}


def sample(template: str) -> str:
    """An address that a template stands for."""
    return re.sub(r"\{[^}]+\}", lambda found: SAMPLES.get(found[0], "x"), template)


def flat(routes: list[BaseRoute]) -> Iterator[Any]:
    """All routes, those of routers that were included, too (newer FastAPIs keep them in a branch of their own)."""
    for route in routes:
        inner = getattr(route, "effective_route_contexts", None)
        if inner is None:
            yield route
        else:
            for context in inner():
                yield context.starlette_route or context


def rows_of(app: FastAPI) -> dict[str, Any]:
    """`METHOD /template` → route of all that the app answers."""
    found = {}
    for route in flat(app.routes):
        for method in getattr(route, "methods", None) or {"WS"}:
            found[f"{method} {route.path}"] = route
    found.pop("HEAD /openapi.json")  # FastAPI's own; without a row it is answered 405
    return found


@pytest.fixture
def quick(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"history_dir": tmp_path / "history", "rate_limit_per_second": 100_000})


@contextmanager
def running(settings: Settings, keys: KeyRing, tmp_path: Path) -> Iterator[TestClient]:
    app = create_app(settings, tmp_path / "no_model", None, keys)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


class Secured:
    """A daemon that asks for keys, and one key of each scope."""

    def __init__(self, client: TestClient, path: Path, keys: dict[str, str]) -> None:
        self.client = client
        self.path = path
        self.keys = keys

    def ask(self, method: str, path: str, key: str | None, **more: Any) -> Any:
        headers = {} if key is None else {"Authorization": f"Bearer {self.keys.get(key, key)}"}
        return self.client.request(method, path, headers=headers, **more)


@pytest.fixture
def secured(quick: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Secured]:
    monkeypatch.setattr("api_keys.CHECK_SECONDS", 0.0)
    path = tmp_path / "keys.json"
    scopes: tuple[KeyScope, ...] = ("read", "write", "admin")
    keys = {scope: create_key(path, scope, scope)[0] for scope in scopes}
    with running(quick, KeyRing(path), tmp_path) as client:
        yield Secured(client, path, keys)


# ------------------------------------------------------------------------------------------------------------ the table
def test_every_route_has_a_row_and_every_row_a_route(quick: Settings, tmp_path: Path) -> None:
    assert set(rows_of(create_app(quick, tmp_path))) == set(POLICY)


def test_the_table_and_the_router_mean_the_same_route(quick: Settings, tmp_path: Path) -> None:
    routes = rows_of(create_app(quick, tmp_path))
    for row_name, access in POLICY.items():
        method, template = row_name.split(" ")
        path = sample(template)
        kind = {"type": "websocket"} if method == "WS" else {"type": "http", "method": method}
        scope = {**kind, "path": path, "headers": []}
        first = next(name for name, route in routes.items() if route.matches(dict(scope))[0] is Match.FULL)
        assert first == row_name
        for prefix in ("", "/api/v1"):
            place = place_of(method, prefix + path)
            assert (place.access, place.prefix, place.route) == (access, prefix, re.sub(r":\w+}", "}", template))


def test_a_route_without_a_row_is_not_answered(quick: Settings, tmp_path: Path) -> None:
    app = create_app(quick, tmp_path / "no_model", None, KeyRing(tmp_path / "absent"))
    app.add_api_route("/forgotten", lambda: "secret", methods=["GET"])
    app.add_api_websocket_route("/ws/forgotten", lambda websocket: websocket.accept())
    with TestClient(app) as client:
        for path in ("/forgotten", "/api/v1/forgotten"):
            assert_problem(client.get(path), 404, "no-such-route")
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws/forgotten"):
            pass


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/api/v1"),
        ("GET", "/api/v1/"),
        ("GET", "/api/v1/api/v1/status"),
        ("GET", "/status/"),
        ("GET", "//status"),
        ("GET", "/ws/predictions"),
        ("WS", "/status"),
        ("GET", "/docs/a/b"),
    ],
)
def test_what_is_no_address_has_no_row(method: str, path: str) -> None:
    assert (place_of(method, path).route, place_of(method, path).access) == (UNMATCHED, None)


# ----------------------------------------------------------------------------------------------------------------- keys
def test_without_a_key_every_address_but_the_public_ones_is_401(secured: Secured) -> None:
    for row_name, access in POLICY.items():
        method, template = row_name.split(" ")
        if method == "WS":
            continue
        for prefix in ("", "/api/v1"):
            response = secured.ask(method, prefix + sample(template), None)
            if access in {"probe", "public"}:
                assert response.status_code in {200, 503}
            else:
                assert_problem(response, 401, "no-key")
                assert response.headers["www-authenticate"] == 'Bearer realm="tft"'
    answers = [
        secured.ask(*asked, None)
        for asked in (("GET", "/no/such/route"), ("GET", "/predictions/nobody"), ("PUT", "/health"), ("GET", "/ingest"))
    ]
    assert {answer.status_code for answer in answers} == {401}, "who has no key learns of no address"
    assert len({answer.json()["what"] for answer in answers}) == 1


def test_with_a_key_what_is_no_route_is_told_as_always(secured: Secured) -> None:
    assert_problem(secured.ask("GET", "/no/such/route", "read"), 404, "no-such-route")
    refused = secured.ask("GET", "/ingest", "read")
    assert_problem(refused, 405, "wrong-method")
    assert refused.headers["allow"] == "POST"


def test_a_key_opens_what_its_scope_includes(secured: Secured) -> None:
    body = {"rows": [row()]}
    assert secured.ask("GET", "/status", "read").status_code == 200
    refused = secured.ask("POST", "/ingest", "read", json=body)
    assert "scope read" in assert_problem(refused, 403, "insufficient-scope")["what"]
    assert refused.headers["www-authenticate"] == 'Bearer realm="tft", error="insufficient_scope", scope="write"'
    for key in ("write", "admin"):
        assert secured.ask("GET", "/status", key).status_code == 200
        assert secured.ask("POST", "/ingest", key, json=body).status_code == 200
    assert secured.ask("GET", "/status", "read").json()["ingest"]["accepted"] == 1


def test_a_key_may_come_in_either_header(secured: Secured) -> None:
    key = secured.keys["read"]
    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer   {key} "},
        {"X-API-Key": key},
        {"Authorization": "Basic dXNlcjpwYXNz", "X-API-Key": key},  # a proxy's own
    ):
        assert secured.client.get("/status", headers=headers).status_code == 200, headers
    for headers in ({"Authorization": f"Basic {key}"}, {"Authorization": key}, {"Cookie": f"key={key}"}):
        assert_problem(secured.client.get("/status", headers=headers), 401, "no-key")
    assert_problem(secured.client.get(f"/status?api_key={key}"), 401, "no-key")


def test_a_key_that_was_revoked_opens_nothing_any_more(secured: Secured) -> None:
    assert secured.ask("GET", "/status", "read").status_code == 200
    revoke_key(secured.path, secured.keys["read"].split("_")[1])
    refused = secured.ask("GET", "/status", "read")
    assert "revoked" in assert_problem(refused, 401, "invalid-key")["what"]
    assert refused.headers["www-authenticate"] == 'Bearer realm="tft", error="invalid_token"'


def test_status_says_whether_keys_are_asked_for_and_what_is_wrong_with_them(secured: Secured) -> None:
    assert secured.ask("GET", "/status", "read").json()["access"] == {
        "keys_required": True,
        "active_keys": 3,
        "problem": None,
    }
    secured.path.write_text("damaged")
    access = secured.ask("GET", "/status", "read").json()["access"]
    assert access["active_keys"] == 3 and "keys.json" in access["problem"]["what"]


def test_without_a_file_of_keys_everybody_may(quick: Settings, tmp_path: Path) -> None:
    with running(quick, KeyRing(tmp_path / "absent"), tmp_path) as client:
        assert client.post("/ingest", json={"rows": [row()]}).status_code == 200
        assert client.get("/status").json()["access"]["keys_required"] is False
        assert client.get("/status", headers={"Authorization": "Bearer whatever"}).status_code == 200


# --------------------------------------------------------------------------------------------------------------- limits
def test_each_key_has_a_rate_of_its_own(quick: Settings, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    one, other = (create_key(path, "both", "read")[0] for _ in range(2))
    with running(quick.model_copy(update={"rate_limit_per_second": 3}), KeyRing(path), tmp_path) as client:

        def ask(key: str) -> Any:
            return client.get("/status", headers={"X-API-Key": key})

        answers = [ask(one) for _ in range(30)]
        limited = next(answer for answer in answers if answer.status_code != 200)
        assert_problem(limited, 429, "too-many-requests")
        assert int(limited.headers["retry-after"]) >= 1
        assert ask(other).status_code == 200, "another key of the same address is not held up"
        assert client.get("/health").status_code == 200


def test_a_prometheus_that_sends_too_often_is_told_503_and_so_sends_again(quick: Settings, tmp_path: Path) -> None:
    with running(
        quick.model_copy(update={"rate_limit_per_second": 3}), KeyRing(tmp_path / "absent"), tmp_path
    ) as client:
        limited = next(answer for _ in range(30) if (answer := client.post("/api/v1/write")).status_code != 404)
        assert_problem(limited, 503, "too-many-requests")
        assert int(limited.headers["retry-after"]) >= 1


def test_wrong_keys_are_limited_and_right_ones_of_the_same_address_are_let_in(quick: Settings, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, _ = create_key(path, "both", "read")
    with running(quick.model_copy(update={"wrong_keys_per_minute": 5}), KeyRing(path), tmp_path) as client:
        answers = [client.get("/status", headers={"X-API-Key": f"wrong {number}"}) for number in range(12)]
        assert_problem(answers[0], 401, "invalid-key")
        assert_problem(answers[-1], 429, "too-many-wrong-keys")
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert client.get("/status", headers={"X-API-Key": key}).status_code == 200


# ------------------------------------------------------------------------------------------------------------ WebSocket
def test_a_websocket_takes_its_key_from_a_header_or_for_browsers_from_a_subprotocol(secured: Secured) -> None:
    key = secured.keys["read"]
    with secured.client.websocket_connect("/ws/predictions", headers={"Authorization": f"Bearer {key}"}) as stream:
        assert stream.accepted_subprotocol is None
    with secured.client.websocket_connect("/api/v1/ws/predictions", [STREAM_PROTOCOL, f"tft.key.{key}"]) as stream:
        assert stream.accepted_subprotocol == STREAM_PROTOCOL, "the key is not sent back"
    for protocols in (None, [STREAM_PROTOCOL], [STREAM_PROTOCOL, "tft.key.wrong"]):
        with (
            pytest.raises(WebSocketDenialResponse) as refused,
            secured.client.websocket_connect("/ws/predictions", protocols),
        ):
            pass
        assert refused.value.status_code == 401 and key not in refused.value.text


def test_a_websocket_is_closed_when_its_key_is_revoked(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon_stream.PING_SECONDS", 0.05)
    headers = {"X-API-Key": secured.keys["read"]}
    with secured.client.websocket_connect("/ws/predictions", headers=headers) as stream:
        assert stream.receive_json()["type"] == "ping"
        revoke_key(secured.path, secured.keys["read"].split("_")[1])
        with pytest.raises(WebSocketDisconnect) as closed:
            for _ in range(100):
                stream.receive_json()
        assert closed.value.code == 1008


def test_a_websocket_that_was_open_to_all_is_closed_by_the_first_key(
    quick: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api_keys.CHECK_SECONDS", 0.0)
    monkeypatch.setattr("daemon_stream.PING_SECONDS", 0.05)
    path = tmp_path / "keys.json"
    with running(quick, KeyRing(path), tmp_path) as client, client.websocket_connect("/ws/predictions") as stream:
        assert stream.receive_json()["type"] == "ping"
        create_key(path, "first", "read")
        with pytest.raises(WebSocketDisconnect):
            for _ in range(100):
                stream.receive_json()


# ----------------------------------------------------------------------------------------------------------- the alias
def test_every_route_answers_under_its_versioned_name_too(secured: Secured) -> None:
    plain, versioned = (secured.ask("GET", f"{prefix}/status", "read") for prefix in ("", "/api/v1"))
    assert plain.json().keys() == versioned.json().keys()
    ingested = secured.ask("POST", "/api/v1/ingest", "write", json={"rows": [row()]})
    assert ingested.json()["accepted"] == 1
    assert_problem(secured.ask("GET", "/api/v1/history/nobody", "read"), 404, "no-such-server")
    missing = assert_problem(secured.ask("GET", "/api/v1/nothing", "read"), 404, "no-such-route")
    assert "/api/v1/nothing" in missing["what"]


def test_the_description_has_each_operation_once_with_its_scope(secured: Secured) -> None:
    described = secured.client.get("/openapi.json").json()
    assert secured.client.get("/api/v1/openapi.json").json() == described
    assert [server["url"] for server in described["servers"]] == ["/", "/api/v1"]
    for path, operations in described["paths"].items():
        assert not path.startswith("/api/v1/") or path == "/api/v1/write"
        for method, operation in operations.items():
            place = place_of(method.upper(), sample(path))
            scopes = [name for each in operation.get("security", []) for names in each.values() for name in names]
            assert set(scopes) == ({place.needs} if place.needs else set())
            assert ("401" in operation["responses"]) == (place.needs is not None)


def test_the_gate_is_the_outermost_layer(quick: Settings, tmp_path: Path) -> None:
    """What stands outside it would see requests that nobody has let in."""
    assert create_app(quick, tmp_path).user_middleware[0].cls is Gate
