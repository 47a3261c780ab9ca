"""How the daemon says that something went wrong: every error, whoever raised it, in one shape (RFC 9457).

`application/problem+json` with `type`, `title`, `status` and `detail`, and the product's four parts `what`, `why`,
`fix` and `document`. No answer tells a path, a traceback or a value that was not sent by the asker.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import pydantic_core
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from data_contract import DataFileError, ProductError, shorten

DAEMON_DOCUMENT = "Docs/DAEMON.md"
PROBLEM_JSON = "application/problem+json"


class RequestError(ProductError):
    """A request that cannot be answered as asked.

    Parameters
    ----------
    status : int
        HTTP status.
    kind : str
        Short name of the problem, such as `no-model`: the part of `type` that programs compare.
    headers : mapping, optional
        Further response headers.
    extra : mapping, optional
        Further members of the answer.
    """

    document = DAEMON_DOCUMENT

    def __init__(
        self,
        status: int,
        kind: str,
        what: str,
        *,
        why: str,
        fix: str,
        document: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(what, why=why, fix=fix, document=document)
        self.status = status
        self.kind = kind
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


def busy(what: str, *, status: int, kind: str, retry_after_seconds: float) -> RequestError:
    """Error for a request that will be welcome later: 429 or 503 with `Retry-After`."""
    seconds = max(1, math.ceil(retry_after_seconds))
    return RequestError(
        status,
        kind,
        what,
        why="Bounds keep the daemon quick for everybody, whatever one client does.",
        fix=f"Wait {seconds} s (the Retry-After header) and send the request again, or send fewer, larger requests.",
        headers={"Retry-After": str(seconds)},
    )


def internal_error(request_id: str) -> RequestError:
    """Error for a fault of our own; what it was stands in the log under the request's id."""
    return RequestError(
        500,
        "internal-error",
        f"The daemon failed to answer request {request_id}.",
        why="This is a fault of the daemon, not of the request.",
        fix=f"Look for {request_id} in the daemon's log, and report what stands there.",
    )


def problem_content(error: RequestError) -> dict[str, Any]:
    """The members of the answer that tells of an error."""
    return {
        "type": f"urn:tft:problem:{error.kind}",
        "title": error.kind.replace("-", " ").capitalize(),
        "status": error.status,
        "detail": error.what,
        **error.as_dict(),
        **error.extra,
    }


def problem_response(error: RequestError) -> Response:
    """The error as an HTTP response."""
    return Response(pydantic_core.to_json(problem_content(error)), error.status, error.headers, PROBLEM_JSON)


def install_problem_handlers(app: FastAPI) -> None:
    """Give every error that a route or the framework raises this one shape; `daemon_gate.Gate` does it for bugs."""

    async def product_error(request: Request, error: Exception) -> Response:
        del request
        assert isinstance(error, ProductError)
        return problem_response(as_request_error(error))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem_response(_from_http(request, error))

    async def invalid_request(request: Request, error: Exception) -> Response:
        del request
        assert isinstance(error, RequestValidationError)
        faults = [{"where": ".".join(str(part) for part in f["loc"]), "what": f["msg"]} for f in error.errors()]
        listed = "; ".join(f"{fault['where']}: {fault['what']}" for fault in faults[:6])
        return problem_response(
            RequestError(
                422,
                "invalid-request",
                f"The request cannot be understood: {listed}.",
                why="A guess at what was meant could answer another question than the one that was asked.",
                fix="Correct the named parameters; the route is described under /docs.",
                extra={"errors": faults},
            )
        )

    app.add_exception_handler(ProductError, product_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid_request)


def as_request_error(error: ProductError) -> RequestError:
    """A product error with the status that suits it: 507 where the disk is at fault, else 503."""
    if isinstance(error, RequestError):
        return error
    status, kind = (507, "storage-failed") if isinstance(error, DataFileError) else (503, "unavailable")
    return RequestError(status, kind, error.what, why=error.why, fix=error.fix, document=error.document)


def no_route(method: str, path: str, allowed: str | None = None) -> RequestError:
    """404, or 405 where the path allows other methods."""
    asked = f"{method} {shorten(path)}"
    return RequestError(
        404 if allowed is None else 405,
        "no-such-route" if allowed is None else "wrong-method",
        f"There is no {asked}." if allowed is None else f"There is no {asked}; this path allows {allowed}.",
        why="The request reached the daemon but nothing that could answer it.",
        fix="Check the address; all routes are listed under /docs and in the document.",
        headers=None if allowed is None else {"Allow": allowed},
    )


def _from_http(request: Request, error: HTTPException) -> RequestError:
    """404 and 405 for what is no route."""
    if error.status_code in {404, 405}:
        allowed = (error.headers or {}).get("Allow", "other methods") if error.status_code == 405 else None
        return no_route(request.method, request.url.path, allowed)
    return RequestError(
        error.status_code,
        HTTPStatus(error.status_code).phrase.lower().replace(" ", "-"),
        str(error.detail),
        why="The request reached the daemon but nothing that could answer it.",
        fix="Check the address; all routes are listed under /docs and in the document.",
        headers=error.headers,
    )
