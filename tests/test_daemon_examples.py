"""Examples in the description of the routes: one for each, and each of them true to its schema."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from test_daemon_policy import running

from api_keys import KeyRing
from config import Settings
from daemon_examples import BODIES, EXAMPLES, PARAMETERS


@pytest.fixture(scope="module")
def described(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("described")
    quiet = settings.model_copy(update={"history_dir": folder / "history"})
    with running(quiet, KeyRing(folder / "absent"), folder) as client:
        found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def judge(described: dict[str, Any], schema: dict[str, Any], example: Any) -> None:
    whole = {**schema, "components": described["components"]}
    jsonschema.Draft202012Validator(whole).validate(example)


def operations(described: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }


def test_every_json_answer_has_an_example_that_its_schema_allows(described: dict[str, Any]) -> None:
    told = set()
    for row, operation in operations(described).items():
        for status, response in operation["responses"].items():
            plain = response.get("content", {}).get("application/json")
            if status.startswith("2") and plain is not None:
                judge(described, plain["schema"], plain["example"])
                told.add(row)
    assert told == set(EXAMPLES)


def test_every_body_and_parameter_has_one_too(described: dict[str, Any]) -> None:
    bodies, parameters = set(), set()
    for row, operation in operations(described).items():
        for parameter in operation.get("parameters", ()):
            schema = parameter["schema"]
            given = [parameter["example"]] if "example" in parameter else schema.get("examples", [])
            assert given, f"{row}: {parameter['name']}"
            judge(described, schema, given[0])
            parameters.add(parameter["name"])
        if "requestBody" in operation:
            body = operation["requestBody"]["content"].get("application/json")
            if body is None:  # bytes
                continue
            judge(described, body["schema"], body["example"])
            bodies.add(row)
    assert bodies == set(BODIES) and set(PARAMETERS) <= parameters


def test_no_schema_refers_to_what_is_not_there(described: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [each for value in node.values() for each in references(value)]
        return [each for value in node for each in references(value)] if isinstance(node, list) else []

    for reference in references(described):
        place: Any = described
        for part in reference.removeprefix("#/").split("/"):
            assert part in place, reference
            place = place[part]
