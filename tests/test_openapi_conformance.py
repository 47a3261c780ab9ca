"""What the OpenAPI description promises is what a daemon does, whatever it is sent and whoever sends it.

A real daemon with a model, a fleet and keys. schemathesis makes requests of the description, such as it allows and such
as it does not; the same ones each time, so that a failure can be repeated. `CONFORMANCE_EXAMPLES` makes more of them.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import FLEET, make_fleet
from test_daemon_process import NOW, Process, daemon, json_rows, wait_for

from api_keys import create_key

if sys.version_info < (3, 11):
    pytest.skip("schemathesis needs Python 3.11", allow_module_level=True)

import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as limits
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

EXAMPLES = int(os.environ.get("CONFORMANCE_EXAMPLES", "10"))  # requests per operation, kind and scope
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


@schemathesis.serializer("application/vnd.apache.arrow.stream", "application/x-protobuf")
def as_bytes(context: Any, value: Any) -> bytes:
    """Whatever was made up, as it is: hardly ever what the media type says."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@pytest.fixture(scope="module")
def secured(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, dict[str, str]]]:
    """A daemon that forecasts a fleet and asks for keys; a key of each scope, and a wrong one."""
    folder = tmp_path_factory.mktemp("conformance")
    file = folder / "api_keys.json"
    keys = {scope: create_key(file, scope, scope)[0] for scope in ("read", "write", "admin")}
    keys["wrong"] = f"tft_000000000000_{'A' * 43}"
    with daemon(folder, tiny_model_dir, TFT_WRONG_KEYS_PER_MINUTE="1000000") as process:
        process.client.headers["Authorization"] = f"Bearer {keys['admin']}"
        process.post(json_rows(make_fleet(hours=24, end=NOW)))
        wait_for(lambda: process.get("/predictions/current")["count"] == len(FLEET))
        yield process, keys


@pytest.mark.parametrize("who", ["admin", "read", "wrong", None])
def test_every_answer_is_as_described(secured: tuple[Process, dict[str, str]], who: str | None) -> None:
    process, keys = secured
    headers = {} if who is None else {"Authorization": f"Bearer {keys[who]}"}
    faults, statuses = [], set()

    def ask(case: Any) -> None:
        response = case.call(headers=headers)
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS, headers=headers)

    bounds = limits(
        max_examples=EXAMPLES if who == "admin" else 3,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    operations = [
        each.ok() for each in schemathesis.openapi.from_url(f"{process.url}/openapi.json").get_all_operations()
    ]
    for operation in operations:
        kinds: list[dict[str, Any]] = [{}]
        if "{server_name}" in operation.path:
            kinds.append({"path_parameters": {"server_name": "ppweb001"}})  # nobody is there by chance
        for mode, kind in itertools.product((GenerationMode.POSITIVE, GenerationMode.NEGATIVE), kinds):
            try:
                bounds(given(case=operation.as_strategy(generation_mode=mode, **kind))(ask))()
            except Unsatisfiable:  # nothing can be wrong with a request that has no parts
                assert mode is GenerationMode.NEGATIVE
            except Exception as error:  # noqa: BLE001 - all are told together
                faults.append(f"{operation.label} ({mode.value}): {error}"[:2000])
    assert faults == [], "\n\n".join(faults)
    assert len(operations) > 20 and "Traceback" not in process.log()
    expected = {"admin": {200, 404, 422}, "read": {200, 403, 404}, "wrong": {200, 401}, None: {200, 401}}[who]
    assert expected <= statuses, "the drill has tried what it is there for"
