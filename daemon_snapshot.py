"""All that one page shows, of one moment and in one answer; and what was forecast for a server before.

A page that asked for status, forecasts and alerts one after the other could show the forecasts of one model beside the
alerts of the next. The parts are the answers of the routes of their own; a part that cannot be given says why, and the
others are there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime, Field

import daemon_schemas as schemas
from daemon_alert_routes import AlertHistory, Silences, past_alerts, silences_of
from daemon_answers import to_json
from daemon_core import MAX_HISTORY_HOURS, Daemon
from daemon_explanations import Explainer
from daemon_fleet_routes import ExplanationAnswer, Models, models_of
from daemon_problems import RequestError, as_request_error, problem_content
from daemon_scenario import Scenarios, ScenarioWish
from daemon_schemas import Answer, problems
from data_contract import MAX_NAME_LENGTH, METRIC_COLUMNS, ProductError
from forecast_loop import PredictionSet

PARTS: Final = (
    "status",
    "current",
    "alerts",
    "prediction",
    "history",
    "forecasts",
    "past_alerts",
    "silences",
    "series",
    "reasons",
    "models",
    "scenario",
)
_OF_SERVER: Final = frozenset({"prediction", "history", "forecasts"})
_DEFAULT_PARTS: Final = "status,current,alerts"
MAX_SERVERS: Final = 50
_REASONS_SECONDS: Final = 0.25  # for explanations that nobody has asked for yet; the next answer has more of them

Horizon = Literal["30min", "1hr", "8hr"]
Hours = Annotated[int, Query(ge=1, le=MAX_HISTORY_HOURS)]
Until = Annotated[
    AwareDatetime | None, Query(description="end of the hours; the fleet's newest step if left out or later")
]
Metric = Literal[METRIC_COLUMNS]  # type: ignore[valid-type]
Name = Annotated[str, Field(max_length=MAX_NAME_LENGTH)]


class PastQuantiles(Answer):
    """One value per step, null where nothing had been forecast."""

    p10: list[float | None]
    p50: list[float | None]
    p90: list[float | None]


class PastPaths(Answer):
    """What had been forecast of each metric."""

    cpu_pct: PastQuantiles
    mem_pct: PastQuantiles
    disk_io_mb_s: PastQuantiles
    latency_ms: PastQuantiles


class PastForecasts(Answer):
    """What had been forecast for each step, `horizon` before it; the steps are those of /history."""

    server_name: str
    profile: str
    horizon: Horizon
    step_minutes: int
    timestamps: list[AwareDatetime]
    metrics: PastPaths


class ServerSeries(Answer):
    """One metric of a server, a value per step; null where nothing was measured or is forecast."""

    metric: str
    first_measured: AwareDatetime
    measured: list[float | None]
    first_forecast: AwareDatetime
    forecast: schemas.QuantilePath | None


class Series(Answer):
    """One metric of several servers, by name; those without a forecast are left out."""

    step_minutes: int
    servers: dict[str, ServerSeries]


class Parts(Answer):
    """What was asked for and could be given; `current` is null where the asker knows it."""

    status: schemas.Status | None = None
    current: schemas.CurrentPredictions | None = None
    alerts: schemas.ActiveAlerts | None = None
    prediction: schemas.ServerPrediction | None = None
    history: schemas.History | None = None
    forecasts: PastForecasts | None = None
    past_alerts: AlertHistory | None = None
    silences: Silences | None = None
    series: Series | None = None
    reasons: dict[str, ExplanationAnswer] | None = None
    models: Models | None = None
    scenario: ScenarioWish | None = None


class Snapshot(Answer):
    """Parts that belong together; which forecasts they are of, while there are any."""

    parts: Parts
    problems: dict[str, schemas.Problem]
    set: str | None = Field(description="the same as long as the forecasts are", examples=["5f2ac1d0-17"])
    model: schemas.ModelName | None = None
    prediction_time: AwareDatetime | None = None
    generated_at: AwareDatetime | None = None
    data_age_seconds: float | None = None
    stale: bool | None = None


def snapshot_routes(
    daemon: Daemon,
    explainer: Explainer,
    scenarios: Scenarios,
    status_of: Callable[[], dict[str, Any]],
    note: Callable[[Request, PredictionSet, dict[str, Any]], dict[str, str]],
) -> APIRouter:
    """Make the routes.

    Parameters
    ----------
    status_of : callable
        Gives the answer of /status.
    note : callable
        Logs which forecasts an answer is made of, and gives the headers that tell it.
    """
    router = APIRouter(tags=["predictions"])

    # `path`, because a server's name may hold a slash
    @router.get(
        "/forecasts/{server_name:path}",
        response_model=PastForecasts,
        responses=problems(s404="no such server", s422="a parameter is out of bounds"),
    )
    def forecasts(server_name: str, horizon: Horizon = "1hr", hours: Hours = 24, until: Until = None) -> Response:
        """What had been forecast for one server's last hours, half an hour, an hour or eight before; null for gaps."""
        content = to_json(daemon.past_forecasts(server_name, horizon, hours, until))
        return Response(content, media_type="application/json")

    @router.get(
        "/snapshot",
        response_model=Snapshot,
        responses=problems(s422="an unknown part, or a parameter out of bounds"),
    )
    def snapshot(
        request: Request,
        parts: Annotated[str, Query(max_length=200, description=f"some of {', '.join(PARTS)}")] = _DEFAULT_PARTS,
        server: Annotated[str | None, Query(max_length=MAX_NAME_LENGTH)] = None,
        hours: Hours = 24,
        until: Until = None,
        horizon: Horizon = "1hr",
        servers: Annotated[
            list[Name] | None, Query(max_length=MAX_SERVERS, description="whose `series` and `reasons` are given")
        ] = None,
        metric: Annotated[
            list[Metric] | None,
            Query(
                max_length=MAX_SERVERS,
                description="of `series`: one for all servers, or one for each; that of its risk if left out",
            ),
        ] = None,
        known: Annotated[
            str | None,
            Query(max_length=64, description="`set` of an earlier answer: then `current` may be null"),
        ] = None,
    ) -> Response:
        """Several answers at once, all of the same forecasts; what cannot be given is told in `problems`."""
        asked = _parts_of(parts, server)
        named = list(dict.fromkeys(servers or ()))
        metrics = _metrics_of(named, metric)
        published: PredictionSet | None = None
        reason: RequestError | None = None
        try:
            published = daemon.require_published()
        except RequestError as error:
            reason = error
        headers: dict[str, str] = {}
        name = server or ""

        def of_set(give: Callable[[PredictionSet], bytes]) -> bytes:
            if published is None:
                assert reason is not None
                raise reason
            return give(published)

        def head(count: int) -> dict[str, Any]:
            assert published is not None
            return {**daemon.provenance(published), "count": count}

        set_id = None if published is None else daemon.set_id(published)
        givers: dict[str, Callable[[], bytes]] = {
            "status": lambda: to_json(status_of()),
            "current": lambda: of_set(
                lambda it: b"null" if known == set_id else it.current.plain(head(len(it.records)))
            ),
            "alerts": lambda: of_set(lambda it: it.alerts.plain(head(it.alert_count))),
            "prediction": lambda: of_set(lambda it: daemon.server_prediction(it, name)[0]),
            "history": lambda: to_json(daemon.history(name, hours, until)),
            "forecasts": lambda: to_json(daemon.past_forecasts(name, horizon, hours, until)),
            "past_alerts": lambda: to_json(past_alerts(daemon, hours, server)),
            "silences": lambda: to_json(silences_of(daemon)),
            "series": lambda: of_set(lambda it: to_json(daemon.series(it, metrics, hours))),
            "reasons": lambda: of_set(lambda it: explainer.explain_some(it, named, _REASONS_SECONDS)),
            "models": lambda: to_json(models_of(daemon)),
            "scenario": lambda: to_json(scenarios.wish()),
        }
        if published is not None:
            headers = note(request, published, daemon.provenance(published))
        given: list[bytes] = []
        failed: dict[str, Any] = {}
        for part in asked:
            try:
                given.append(to_json(part) + b":" + givers[part]())
            except (RequestError, ProductError) as error:
                failed[part] = problem_content(as_request_error(error))
        ending = {"problems": failed, "set": set_id, **({} if published is None else daemon.provenance(published))}
        body = b'{"parts":{' + b",".join(given) + b"}," + to_json(ending)[1:]
        return Response(body, 200, headers, "application/json")

    return router


def _parts_of(text: str, server: str | None) -> list[str]:
    """Parts that are asked for, each once.

    Raises
    ------
    RequestError
        422.
    """
    asked = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [part for part in asked if part not in PARTS]
    if unknown or not asked or (server is None and _OF_SERVER & set(asked)):
        wrong = f"there is no part {unknown[0][:40]!r}" if unknown else "a server's part needs `server`"
        raise RequestError(
            422,
            "invalid-request",
            f"The parts cannot be given: {wrong if asked else 'none is named'}.",
            why="What is not understood is not guessed.",
            fix=f"Name some of {', '.join(PARTS)}, separated by commas; for {', '.join(sorted(_OF_SERVER))} give "
            "`server`, too.",
        )
    return asked


def _metrics_of(servers: list[str], metrics: list[str] | None) -> dict[str, str | None]:
    """Which metric of each server is asked for; None for that which its risk comes from.

    Raises
    ------
    RequestError
        422.
    """
    chosen: list[str | None] = [None] if metrics is None else [*metrics]
    if len(chosen) == 1:
        chosen *= len(servers)
    if len(chosen) != len(servers):
        raise RequestError(
            422,
            "invalid-request",
            f"There are {len(servers)} servers and {len(chosen)} metrics.",
            why="Which metric is meant for which server is not guessed.",
            fix="Give `metric` once for all servers, once for each in their order, or not at all.",
        )
    return dict(zip(servers, chosen, strict=True))
