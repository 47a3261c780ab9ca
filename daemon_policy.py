"""Who may use which route: one row per route, and nothing that has no row is answered.

A test walks the app's routes and fails for one without a row. `/api/v1` before an address is another name for it, so
that there is one row, one line of metrics and one description of each. Knows nothing of what the routes do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from starlette.datastructures import Headers
from starlette.routing import compile_path
from starlette.types import Scope

from api_keys import KeyScope
from daemon_problems import RequestError
from daemon_schemas import problems

VERSION_PREFIX: Final = "/api/v1"
UNMATCHED: Final = "unmatched"  # stands for every path without a row, however many are tried

Access = Literal["probe", "public", "read", "write", "admin"]

# method and address as the app declares it → who may:
#   probe   everybody, never limited nor logged: a busy daemon must not be taken for a dead one
#   public  everybody; the same for every installation of this release
#   read, write, admin   keys with this scope or a wider one; everybody while there are no keys
POLICY: Final[dict[str, Access]] = {
    "GET /health": "probe",
    "GET /livez": "probe",
    "GET /readyz": "probe",
    "GET /docs": "public",
    "GET /docs/{asset}": "public",
    "GET /openapi.json": "public",
    "GET /status": "read",
    "GET /metrics": "read",
    "GET /predictions/current": "read",
    "GET /predictions/{server_name:path}": "read",
    "GET /alerts/active": "read",
    "GET /alerts/history": "read",
    "GET /alerts/silences": "read",
    "POST /alerts/silences": "write",
    "DELETE /alerts/silences/{silence_id}": "write",
    "POST /alerts/{alert_id}/acknowledge": "write",
    "DELETE /alerts/{alert_id}/acknowledge": "write",
    "GET /alerts/delivery": "read",
    "POST /alerts/test": "admin",
    "GET /history/{server_name:path}": "read",
    "GET /forecasts/{server_name:path}": "read",
    "GET /scenario": "read",
    "POST /scenario/{name}": "write",
    "GET /snapshot": "read",
    "GET /fleet/summary": "read",
    "GET /explain/{server_name:path}": "read",
    "GET /discovery/prometheus": "read",
    "GET /models": "read",
    "POST /models/reload": "admin",
    "POST /ingest": "write",
    "POST /write": "write",
    "WS /ws/predictions": "read",
}

# Routes whose clients take a 4xx for final and drop what they have sent, a 429 among them (a Prometheus, unless
# `retry_on_http_429` is set), but send again after a 5xx: where others are told 429, they are told 503.
GIVES_UP_ON_4XX: Final = frozenset({"/write"})

# What a WebSocket client of a browser, which cannot set headers, offers as subprotocols: its key, and this one, which
# is chosen. The way of Kubernetes' API server (`base64url.bearer.authorization.k8s.io.<token>`); an address with the
# key in it would stand in histories and in the logs of proxies.
STREAM_PROTOCOL: Final = "tft.v1"
_KEY_PROTOCOL: Final = "tft.key."


@dataclass(frozen=True)
class Place:
    """What a request asks for.

    Attributes
    ----------
    route : str
        Address as declared, such as `/history/{server_name}`; `unmatched` for what has no row.
    access : str or None
        Who may; None where there is no such route, or not with this method.
    methods : tuple of str
        Methods that the address has rows for.
    prefix : str
        `/api/v1` where the address was asked for under its versioned name.
    """

    route: str
    access: Access | None
    methods: tuple[str, ...]
    prefix: str

    @property
    def needs(self) -> KeyScope | None:
        """Scope that a key must have, None where none is needed or there is no such route."""
        return None if self.access is None or self.access == "probe" or self.access == "public" else self.access  # noqa: PLR1714 - mypy follows it


def place_of(method: str, path: str) -> Place:
    """Find the row of a request.

    Parameters
    ----------
    method : str
        HTTP method, or `WS` for a WebSocket.
    """
    for prefix in ("", VERSION_PREFIX):
        if not path.startswith(f"{prefix}/"):
            continue
        found = _row(path[len(prefix) :])
        # A WebSocket is no method of a page, nor the other way round
        same_kind = (
            {} if found is None else {name: who for name, who in found[1].items() if (name == "WS") == (method == "WS")}
        )
        if found is not None and same_kind:
            return Place(found[0], same_kind.get(method), tuple(sorted(same_kind)), prefix)
    return Place(UNMATCHED, None, (), "")


@cache
def _rows() -> tuple[dict[str, dict[str, Access]], list[tuple[re.Pattern[str], str, dict[str, Access]]]]:
    """Rows of addresses without and with parameters, each with the access of its methods."""
    plain: dict[str, dict[str, Access]] = {}
    for row, access in POLICY.items():
        method, _, template = row.partition(" ")
        plain.setdefault(template, {})[method] = access
    patterns = []
    for template in [template for template in plain if "{" in template]:
        pattern, shown, _ = compile_path(template)  # the same expression as the router's
        patterns.append((pattern, shown, plain.pop(template)))
    return plain, patterns


def _row(path: str) -> tuple[str, dict[str, Access]] | None:
    plain, patterns = _rows()
    if path in plain:
        return path, plain[path]
    for pattern, shown, methods in patterns:
        if pattern.match(path):
            return shown, methods
    return None


# ----------------------------------------------------------------------------------------------------------------- keys
def presented_key(scope: Scope) -> str | None:
    """The API key that a request brings, None if it brings none."""
    headers = Headers(scope=scope)
    scheme, _, credentials = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    key = headers.get("x-api-key", "").strip()
    if key:
        return key
    for offered in scope.get("subprotocols", ()):
        if offered.startswith(_KEY_PROTOCOL):
            return str(offered).removeprefix(_KEY_PROTOCOL)
    return None


def unauthorised(reason: str | None) -> RequestError:
    """401: no key, or one that is not in force.

    Parameters
    ----------
    reason : {"unknown", "expired", "revoked"} or None
        None if none was sent.
    """
    error = "" if reason is None else ', error="invalid_token"'  # RFC 6750, section 3.1
    return RequestError(
        401,
        "no-key" if reason is None else "invalid-key",
        "No API key was sent." if reason is None else f"The API key that was sent is {reason}.",
        why="Forecasts and measurements are for those whom the daemon's operator has given a key.",
        fix="Send the header `Authorization: Bearer <key>`; for our own programs set TFT_API_KEY. The operator makes "
        "keys with `python main.py keys create`.",
        headers={"WWW-Authenticate": f'Bearer realm="tft"{error}'},
    )


def forbidden(has: str, needed: str) -> RequestError:
    """403: a key that is in force, but not for this."""
    return RequestError(
        403,
        "insufficient-scope",
        f"The API key has the scope {has}; this takes the scope {needed}.",
        why="A key that can do no more than it must does less harm when it is lost.",
        fix=f"Use a key that was made with `python main.py keys create --scope {needed}`.",
        headers={"WWW-Authenticate": f'Bearer realm="tft", error="insufficient_scope", scope="{needed}"'},
    )


# ------------------------------------------------------------------------------------------------------ the description
def describe(openapi: dict[str, Any]) -> None:
    """Write into the OpenAPI description which scope each route takes, and where the versioned names lie."""
    openapi["servers"] = [
        {"url": "/", "description": "as documented"},
        {"url": VERSION_PREFIX, "description": "the same under a versioned name"},
    ]
    openapi.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key"},
    }
    described = {re.sub(r":\w+}", "}", row): access for row, access in POLICY.items()}
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            access = described.get(f"{method.upper()} {path}")
            if access == "probe" or access is None:
                continue
            _add(operation, problems(s429="too many requests"))
            if access != "public":
                operation["security"] = [{"bearer": [access]}, {"header": [access]}]
                _add(operation, problems(s401="no key, or none that is in force", s403=f"no key of scope {access}"))


def _add(operation: dict[str, Any], responses: Mapping[int | str, Any]) -> None:
    for status, response in responses.items():
        operation["responses"].setdefault(str(status), response)
