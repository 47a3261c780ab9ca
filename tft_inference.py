"""The daemon: rows in over HTTP, forecasts and alerts out.

    python tft_inference.py --daemon --port 8000 --model-dir ./models/latest/

One process. Ingested rows go to the store (on disk before they are acknowledged), then to the forecast loop, which
keeps the answers ready; a GET never runs the model and never waits for it. A route parses, asks and answers; what
stands behind the routes is `daemon_core.Daemon`. Knows nothing of Streamlit.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import structlog
import uvicorn
from fastapi import FastAPI, Query, Request, Response, WebSocket

import daemon_docs
import daemon_schemas as schemas
from api_keys import KeyRing
from common_utils import configure_logging
from config import Settings
from daemon_alert_routes import alert_routes
from daemon_answers import ReadyAnswer, accepts_gzip, to_json
from daemon_arrow import ARROW_STREAM
from daemon_connections import ConnectionLimits, guarded
from daemon_core import Daemon, require_rows
from daemon_discovery import discovery_routes
from daemon_examples import add_examples
from daemon_explanations import Explainer
from daemon_fleet_routes import fleet_routes
from daemon_gate import Gate, Limits
from daemon_metrics import DaemonMetrics
from daemon_pages import LONGEST_CURSOR, FleetPages, PageQuery
from daemon_policy import describe
from daemon_problems import DAEMON_DOCUMENT, RequestError, install_problem_handlers
from daemon_scenario import Scenarios, scenario_routes
from daemon_schemas import problems
from daemon_snapshot import Hours, Until, snapshot_routes
from daemon_write_routes import write_routes
from data_contract import VALID_PROFILES, DaemonError, ProductError
from forecast_loop import PredictionSet

log = structlog.stdlib.get_logger(__name__)

ProfileName = Literal[VALID_PROFILES]  # type: ignore[valid-type]

_SHUTDOWN_SECONDS = 10
_MAX_MESSAGE_BYTES = 64 * 1024  # of a WebSocket client, who has nothing to say
_SWITCH_SECONDS = 0.0002  # how long a busy worker thread may keep the event loop from running


# -------------------------------------------------------------------------------------------------------------- the app
def create_app(settings: Settings, model_dir: Path, data: Path | None = None, keys: KeyRing | None = None) -> FastAPI:
    """Make the daemon's web application; it opens store and model when it starts and closes them when it ends.

    Parameters
    ----------
    settings : Settings
    model_dir : Path
        Model folder, or the link `models/latest`. Without one the prediction routes answer 503 with the reason until
        one appears; one that is there and cannot be used keeps the daemon from starting.
    data : Path, optional
        Contract Parquet whose newest hours are taken in at the start.
    keys : KeyRing, optional
        Who may ask; those of the settings' file if left out.
    """
    daemon = Daemon(settings, model_dir, data)
    keys = keys or open_keys(settings)

    def status() -> dict[str, Any]:
        return {**daemon.status(), "access": keys.as_dict()}

    metrics = DaemonMetrics(status, lambda: daemon.open_alerts, daemon.delivery.status)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        await asyncio.to_thread(daemon.open)
        daemon.stream.attach()
        try:
            yield
        finally:
            daemon.stream.detach()
            await asyncio.to_thread(daemon.close)

    app = FastAPI(
        title="TFT Monitoring Prediction System",
        version=schemas.PRODUCT_VERSION,
        description="Forecasts of every server's CPU, memory, disk I/O and latency, 30 minutes to 8 hours ahead.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # `daemon_docs` has it, without other people's servers
        redoc_url=None,
        root_path_in_servers=False,
    )
    app.state.daemon = daemon
    limits = Limits(settings.rate_limit_per_second, settings.wrong_keys_per_minute)
    app.add_middleware(Gate, limits=limits, keys=keys, observe=metrics.observe)
    install_problem_handlers(app)
    app.include_router(daemon_docs.router)
    app.include_router(alert_routes(daemon))
    explainer = Explainer(daemon)
    scenarios = Scenarios(is_demo=settings.demo_scenarios)
    app.include_router(snapshot_routes(daemon, explainer, scenarios, status, _note))
    app.include_router(fleet_routes(daemon, explainer, _note))
    app.include_router(discovery_routes(settings.public_url))
    app.include_router(scenario_routes(scenarios))
    app.include_router(write_routes(daemon))
    _add_operation_routes(app, daemon, status, metrics)
    _add_prediction_routes(app, daemon)
    _add_data_routes(app, daemon)
    _describe_policy(app)
    return app


def open_keys(settings: Settings) -> KeyRing:
    """The API keys of the settings' file; one that somebody has named must be there.

    Raises
    ------
    ApiKeyError
        If the file cannot be used.
    """
    return KeyRing(settings.api_keys_file, required="api_keys_file" in settings.model_fields_set)


def _describe_policy(app: FastAPI) -> None:
    """Have the OpenAPI description say who may use which route, and how its answers look."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            described_so_far = plain()  # which keeps what it gives
            describe(described_so_far)
            add_examples(described_so_far)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _add_operation_routes(
    app: FastAPI, daemon: Daemon, status_of: Callable[[], dict[str, Any]], metrics: DaemonMetrics
) -> None:
    @app.get("/health", response_model=schemas.Health, tags=["operation"])
    async def health() -> Response:
        """Whether the daemon runs, and whether it can forecast."""
        return _json({"status": "ok", "model_loaded": daemon.model_loaded})

    @app.get("/livez", response_model=schemas.Live, tags=["operation"])
    async def livez() -> Response:
        """Whether the process answers; for a supervisor that restarts it otherwise."""
        return _json({"status": "ok"})

    @app.get("/readyz", response_model=schemas.Ready, tags=["operation"], responses=problems(s503="not ready"))
    async def readyz() -> Response:
        """Whether forecasts can be asked for; for a load balancer that sends requests elsewhere otherwise."""
        daemon.require_ready()
        return _json({"status": "ready"})

    @app.get("/status", response_model=schemas.Status, tags=["operation"])
    async def status() -> Response:
        """Model, data, forecasts and counters at a glance."""
        return _json(status_of())

    text = {"text/plain": {"schema": {"type": "string"}, "example": "tft_servers 90.0\n"}}

    @app.get(
        "/metrics", response_class=Response, tags=["operation"], responses={200: {"description": "", "content": text}}
    )
    async def metrics_of_daemon(request: Request) -> Response:
        """How the daemon itself does, for a Prometheus: requests, forecasts, rows, model, process."""
        content, media_type = metrics.render(request.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": media_type})


def _add_prediction_routes(app: FastAPI, daemon: Daemon) -> None:
    no_model = problems(s503="no model: there is no prediction, and the reason is told")
    pages = FleetPages(daemon)

    def fleet_answer(request: Request, choose: Callable[[PredictionSet], tuple[ReadyAnswer, int]]) -> Response:
        published = daemon.require_published()
        ready, count = choose(published)
        head = {**daemon.provenance(published), "count": count}
        headers = _note(request, published, head)
        headers["ETag"] = etag = daemon.etag(published, stale=head["stale"])
        headers["Vary"] = "Accept-Encoding"
        asked = {tag.strip() for tag in request.headers.get("if-none-match", "").split(",")}
        if asked & {etag, "*"}:
            return Response(None, 304, headers)
        if accepts_gzip(request.headers.get("accept-encoding", "")):
            headers["Content-Encoding"] = "gzip"
            return Response(ready.gzipped(head), 200, headers, "application/json")
        return Response(ready.plain(head), 200, headers, "application/json")

    @app.get(
        "/predictions/current",
        response_model=schemas.CurrentPredictions,
        tags=["predictions"],
        responses={
            **no_model,
            **problems(s410="a cursor of forecasts that are not kept any more", s422="a parameter that no page has"),
        },
    )
    async def predictions_current(
        request: Request,
        profile: Annotated[ProfileName | None, Query(description="servers of this profile alone")] = None,
        min_risk: Annotated[float, Query(ge=0, le=1, description="servers with this risk or more")] = 0.0,
        limit: Annotated[int | None, Query(ge=1, le=100_000, description="servers of a page")] = None,
        cursor: Annotated[str | None, Query(max_length=LONGEST_CURSOR, description="`next_cursor` of a page")] = None,
    ) -> Response:
        """Forecasts of the whole fleet, or of a part of it with the highest risk first: 30 minutes to 8 hours ahead."""
        if profile is None and min_risk <= 0 and limit is None and cursor is None:
            return fleet_answer(request, lambda published: (published.current, len(published.records)))
        answer = pages.page(PageQuery(profile, min_risk, limit, cursor))
        headers = _note(request, answer.published, answer.provenance)
        if answer.next_cursor is not None:
            following = request.url.include_query_params(cursor=answer.next_cursor).query
            headers["Link"] = f'<?{following}>; rel="next"'  # RFC 8288; relative, whatever the proxy is called
        return Response(answer.body, 200, headers, "application/json")

    @app.get("/alerts/active", response_model=schemas.ActiveAlerts, tags=["predictions"], responses=no_model)
    async def alerts_active(request: Request) -> Response:
        """Alerts that are open now, the most likely first."""
        return fleet_answer(request, lambda published: (published.alerts, published.alert_count))

    # `path`, because a server's name may hold a slash
    @app.get(
        "/predictions/{server_name:path}",
        response_model=schemas.ServerPrediction,
        tags=["predictions"],
        responses={**no_model, **problems(s404="no forecast of this server")},
    )
    def prediction_of_server(request: Request, server_name: str) -> Response:
        """Forecast of one server with its whole path of 96 steps."""
        published = daemon.require_published()
        content, provenance = daemon.server_prediction(published, server_name)
        return Response(content, 200, _note(request, published, provenance), "application/json")

    @app.websocket("/ws/predictions")
    async def ws_predictions(websocket: WebSocket) -> None:
        """Every new set of forecasts as soon as there is one, in the form of /predictions/current."""
        await daemon.stream.serve(websocket, daemon.stream_message)


def _add_data_routes(app: FastAPI, daemon: Daemon) -> None:
    @app.get(
        "/history/{server_name:path}",
        response_model=schemas.History,
        tags=["data"],
        responses=problems(s404="no such server", s422="hours out of bounds"),
    )
    def history(server_name: str, hours: Hours = 24, until: Until = None) -> Response:
        """What was measured on one server in the last hours, averaged over 5-minute steps; null for gaps."""
        return _json(daemon.history(server_name, hours, until))

    body = {
        "required": True,
        "content": {
            "application/json": {"schema": schemas.body_schema(schemas.IngestRequest)},
            ARROW_STREAM: {"schema": {"type": "string", "format": "binary"}},
        },
    }

    @app.post(
        "/ingest",
        response_model=schemas.IngestResult,
        tags=["data"],
        openapi_extra={"requestBody": body},
        responses=problems(
            s400="no JSON, or no Arrow stream",
            s408="the body came too slowly",
            s413="too many bytes or rows",
            s415="another format than JSON or an Arrow stream",
            s422="no row could be accepted",
            s503="too much at once",
            s507="the disk is full",
        ),
    )
    async def ingest(request: Request) -> Response:
        """Take in measurements. A 200 means that the accepted rows are on disk; what was sent before is a duplicate."""
        kind = require_rows(request)
        async with daemon.receive_body(request) as content:
            result = await daemon.ingest(content, kind)
        if result["rejected"] and not result["accepted"] and not result["duplicates"]:
            raise RequestError(
                422,
                "no-valid-rows",
                f"None of the {result['rejected']:,} rows could be accepted; the first: {result['errors'][0]['what']}.",
                why="Rows that break the contract would make forecasts silently wrong.",
                fix="Correct the rows as `errors` says; the columns are in the document.",
                document="Docs/DATA_CONTRACT.md",
                extra=result,
            )
        return _json(result)


def _json(content: Any) -> Response:
    return Response(to_json(content), media_type="application/json")


def _note(request: Request, published: PredictionSet, provenance: dict[str, Any]) -> dict[str, str]:
    """Log what an answer is made of, and say it in its headers, so that a 304 tells it, too."""
    request.scope["state"]["log"].update(model=published.model.name, prediction_time=published.prediction_time)
    return {
        "X-Model-Version": published.model.model_version,
        "X-Prediction-Time": published.prediction_time or "none",
        "X-Data-Age-Seconds": "unknown"
        if provenance["data_age_seconds"] is None
        else str(provenance["data_age_seconds"]),
    }


# ----------------------------------------------------------------------------------------------------------- the server
def serve(settings: Settings, model_dir: Path, host: str, port: int, data: Path | None = None) -> None:
    """Run the daemon until SIGTERM or Ctrl-C; then finish what is under way, close the store and return.

    Parameters
    ----------
    host, port
        Address to listen on; port 0 takes a free one, which is printed.
    data : Path, optional
        Contract Parquet whose newest hours are taken in at the start.

    Raises
    ------
    ProductError
        If the daemon cannot start: the port is in use, the address is open to the network without leave, the history,
        the model folder or `data` cannot be used.
    """
    configure_logging(settings.log_level, json_lines=settings.log_json)
    sys.setswitchinterval(_SWITCH_SECONDS)
    # One core is left to the requests. torch reads this when it is imported; with as many threads as cores, both sides
    # wait for each other: measured on 2 cores under load, the forecasts took 4 times as long, and so did the answers.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) - 1)))
    _check_tls(settings)
    keys = open_keys(settings)
    with (
        _graceful_signals() as stop,
        contextlib.suppress(_StoppedError),
        _bound_socket(host, port, may_be_open=keys.protects or settings.allow_open_bind) as listener,
    ):
        app = create_app(settings, model_dir, data, keys)
        daemon: Daemon = app.state.daemon
        try:
            daemon.open()
            # What is there now stays: the collector of cycles, for which all threads wait, passes it over from now on
            gc.collect()
            gc.freeze()
            address = _url(host, listener.getsockname()[1], secure=settings.tls_cert is not None)
            server = _Server(
                uvicorn.Config(
                    app,
                    log_config=None,
                    log_level="warning",
                    access_log=False,
                    http=guarded(ConnectionLimits(settings.client_timeout_seconds, settings.max_connections)),
                    proxy_headers=False,  # any local client could choose its address, and so escape the rate limit
                    server_header=False,
                    ws_max_size=_MAX_MESSAGE_BYTES,
                    ws_per_message_deflate=False,  # compressing for each client would hold up all
                    timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
                    ssl_certfile=settings.tls_cert,
                    ssl_keyfile=settings.tls_key,
                ),
                lambda: _announce(daemon, address),
            )
            stop.watch(server)
            server.run(sockets=[listener])
        except ProductError:  # some of ours are OSErrors, too
            raise
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        finally:
            daemon.close()
    log.info("stopped")


class _StoppedError(BaseException):
    """Asked to stop before the server ran."""


class _Stop:
    """Signal handler: stops the server, or the start if there is no server yet."""

    def __init__(self) -> None:
        self._server: uvicorn.Server | None = None
        self._asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._asked = True
        if self._server is None:
            raise _StoppedError
        self._server.should_exit = True  # uvicorn, having ended, raises the signal that it got once more

    def watch(self, server: uvicorn.Server) -> None:
        """Stop this server from now on; at once if it was asked before, and Python had swallowed what was raised.

        It does where a signal arrives within a callback of its own, such as one of the import system.
        """
        self._server = server
        if self._asked:
            raise _StoppedError


@contextlib.contextmanager
def _graceful_signals() -> Iterator[_Stop]:
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it listens."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()


def _announce(daemon: Daemon, address: str) -> None:
    log.info("listening", address=address, model_loaded=daemon.model_loaded)
    print(f"Listening on {address} (Ctrl-C stops it).", flush=True)


@contextlib.contextmanager
def _bound_socket(host: str, port: int, *, may_be_open: bool) -> Iterator[socket.socket]:
    """Socket bound to the address, or an error that says why not."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # With the protocol named, asyncio sends at once (TCP_NODELAY); without it, the body of an answer waits 40 ms
        # for the client to acknowledge its head.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    with listener:
        if not ipaddress.ip_address(address[0]).is_loopback and not may_be_open:
            raise DaemonError(
                f"{host} can be reached from other machines, and there are no API keys to ask for.",
                why="Whoever reaches it could read every forecast and post false measurements.",
                fix="Make a key with `python main.py keys create --name NAME --scope admin`, then start the daemon "
                "again. TFT_ALLOW_OPEN_BIND=true lets everybody in instead, in a network that you trust.",
                document=DAEMON_DOCUMENT,
            )
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        yield listener


def _cannot_listen(host: str, port: int, error: OSError) -> DaemonError:
    return DaemonError(
        f"The daemon cannot listen on {host} port {port}: {error.strerror or error}.",
        why="Another program, perhaps another daemon, has the port, or the address is not this machine's.",
        fix="Stop the other program, or choose another port with --port (0 takes a free one).",
        document=DAEMON_DOCUMENT,
    )


def _check_tls(settings: Settings) -> None:
    """Refuse a certificate or key that cannot be used, before anything is opened.

    Raises
    ------
    DaemonError
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return
    try:
        # Without a passphrase of its own, OpenSSL would ask for one on the terminal
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.tls_cert, settings.tls_key, password=lambda: ""
        )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise DaemonError(
            f"The daemon cannot speak HTTPS with {settings.tls_cert} and {settings.tls_key}: {reason}.",
            why="Without them keys and forecasts would cross the network unencrypted, so it was not started.",
            fix="Name a PEM certificate chain with --tls-cert and its private key, without passphrase, with --tls-key.",
            document=DAEMON_DOCUMENT,
        ) from error


def _url(host: str, port: int, *, secure: bool) -> str:
    return f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


if __name__ == "__main__":
    from main import run_command

    run_command("serve")
