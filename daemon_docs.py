"""The page that describes the routes, without a network: Swagger UI from this machine, under a strict policy.

The scripts are those of the package fastapi-offline (Swagger UI 5, Apache 2.0). The page's Content-Security-Policy lets
it load from, and talk to, the daemon alone. It is the same for every installation of a release and says nothing of the
fleet, so it is shown without a key; a key that is typed into it goes along with what is tried on it, and nowhere else.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request, Response

from daemon_problems import no_route

router = APIRouter(include_in_schema=False)

_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # Swagger UI sets styles of its elements; styles can run nothing
        "img-src 'self' data:",  # its icons are within its style sheet
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}

# Addresses are relative, so that the page also works under /api/v1 and behind a proxy that adds a prefix.
_PAGE: Final = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TFT Monitoring Prediction System: routes</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="routes"></div>
<noscript>This page needs JavaScript. The same as JSON: <a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START: Final = b"""SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#routes",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""
_BUNDLE: Final = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}


@router.get("/docs")
async def docs() -> Response:
    """The page."""
    return Response(_PAGE, headers=_HEADERS, media_type="text/html")


@router.get("/docs/{asset}")
def docs_asset(request: Request, asset: str) -> Response:
    """What the page loads."""
    if asset == "start.js":
        return Response(_START, headers=_HEADERS, media_type="text/javascript")
    if asset not in _BUNDLE:
        raise no_route("GET", request.url.path)
    content = files("fastapi_offline").joinpath("static").joinpath(asset).read_bytes()
    return Response(content, headers={**_HEADERS, "Cache-Control": "max-age=3600"}, media_type=_BUNDLE[asset])
