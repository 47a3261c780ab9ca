"""The routes that tell of the fleet and the models as a whole: summary, explanations, which models there are.

A route parses, asks and answers. What takes long runs in a worker thread, one at a time, so that nobody keeps the
forecasts waiting by asking often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Request, Response
from pydantic import AwareDatetime, Field

import daemon_schemas as schemas
from daemon_answers import to_json
from daemon_core import Daemon
from daemon_explanations import Explainer
from daemon_problems import RequestError, busy
from daemon_schemas import Answer, problems
from data_contract import MAX_NAME_LENGTH
from forecast_loop import PredictionSet
from model_listing import list_models

_RELOAD_SECONDS: Final = 120.0

Note = Callable[[Request, PredictionSet, dict[str, Any]], dict[str, str]]


# ------------------------------------------------------------------------------------------------------- what comes out
class ServerCounts(Answer):
    """Servers that are forecast, that are silent for too long, and that the model was not trained on."""

    forecast: int
    offline: int
    unknown_to_model: int


class LevelCounts(Answer):
    """Servers by their risk within 8 hours: red, yellow, green, and none."""

    critical: int
    watch: int
    healthy: int
    unknown: int


class ProfileCounts(LevelCounts):
    """The same of one profile."""

    offline: int


class QuantileCounts(Answer):
    """Servers of which a quantile is above the critical threshold."""

    p10: int
    p50: int
    p90: int


class MetricCounts(Answer):
    """The same for each metric."""

    cpu_pct: QuantileCounts
    mem_pct: QuantileCounts
    disk_io_mb_s: QuantileCounts
    latency_ms: QuantileCounts


class HistogramBin(Answer):
    """Servers whose risk lies in a tenth; 1 counts into the last."""

    from_: float = Field(alias="from")
    to: float
    servers: int


class WorstServer(Answer):
    """One of the servers with the highest risk."""

    server_name: str
    profile: str
    risk: float
    risk_metric: str | None
    level: Literal["critical", "watch", "healthy", "unknown"]


class FleetSummary(schemas.Provenance):
    """The fleet in figures."""

    servers: ServerCounts
    levels: LevelCounts
    horizons: dict[str, MetricCounts]
    profiles: dict[str, ProfileCounts]
    risk_histogram: list[HistogramBin]
    worst: list[WorstServer]
    open_alerts: int


class Attention(Answer):
    """Where the forecast looked: past hours, steps ahead, and steps without data; adds up to 1."""

    past_hours: list[dict[str, float]]
    ahead: float
    without_data: float


class ExplanationAnswer(Answer):
    """What drove the forecast of one server; shares, the largest first."""

    server_name: str
    profile: str
    known: bool
    prediction_time: AwareDatetime
    sentence: str
    static: dict[str, float]
    past: dict[str, float]
    future: dict[str, float]
    attention: Attention
    attention_at: dict[str, Attention]
    anchors: dict[str, dict[str, dict[str, float]] | None]
    model: schemas.ModelName


class ListedModel(Answer):
    """A model folder beside the one that is served."""

    name: str
    served: bool
    model_version: str | None
    contract_version: str | None
    created_at: str | None
    servers: int | None
    validation: dict[str, Any] | None = Field(description="scores on time that was not learned from, as trained")
    problem: str | None = Field(description="why what is known of it cannot be read")


class Models(Answer):
    """Models that there are, the newest first; `refused` says why the one that should be served is not."""

    served: schemas.ModelStatus | None
    refused: schemas.ErrorParts | None
    count: int
    models: list[ListedModel]


class Reloaded(Answer):
    """What is served now, and whether that has changed."""

    served: schemas.ModelStatus
    changed: bool


# ----------------------------------------------------------------------------------------------------------- the routes
def fleet_routes(daemon: Daemon, explainer: Explainer, note: Note) -> APIRouter:
    """Make the routes.

    Parameters
    ----------
    note : callable
        Logs which forecasts an answer is made of, and gives the headers that tell it.
    """
    router = APIRouter()
    no_model = problems(s503="no model: there is no prediction, and the reason is told")

    @router.get("/fleet/summary", response_model=FleetSummary, tags=["predictions"], responses=no_model)
    async def fleet_summary(request: Request) -> Response:
        """The fleet in figures: servers by level, horizon and profile, and the worst of them."""
        published = daemon.require_published()
        provenance = daemon.provenance(published)
        headers = note(request, published, provenance)
        return _json({**provenance, **published.summary, "open_alerts": published.alert_count}, headers)

    # `path`, because a server's name may hold a slash
    @router.get(
        "/explain/{server_name:path}",
        response_model=ExplanationAnswer,
        tags=["predictions"],
        responses={**problems(s404="no forecast of this server"), **problems(s503="no model, or too many ask at once")},
    )
    def explain(request: Request, server_name: Annotated[str, Path(max_length=MAX_NAME_LENGTH)]) -> Response:
        """Why one server's forecast is what it is: what the model read, where it looked and what it starts from."""
        published = daemon.require_published()
        content = explainer.explain(published, server_name)
        return Response(content, 200, note(request, published, daemon.provenance(published)), "application/json")

    @router.get("/models", response_model=Models, tags=["operation"])
    def models() -> Response:
        """Models that lie beside the one that is served, and how good they were on time that they had not seen."""
        return _json(models_of(daemon))

    @router.post(
        "/models/reload",
        response_model=Reloaded,
        tags=["operation"],
        responses=problems(
            s409="the model is refused; the one before stays", s503="no answer in time, or shutting down"
        ),
    )
    async def reload() -> Response:
        """Look at the model folder now: take over what is new and good, or say why not. The old one stays meanwhile."""
        before = daemon.status()["model"]
        asked = daemon.reload_model()
        try:
            refused = await asyncio.wait_for(asyncio.wrap_future(asked), _RELOAD_SECONDS)
        except (asyncio.TimeoutError, asyncio.CancelledError):
            if not asked.cancelled() and not asked.done():
                raise
            what = "The model could not be looked at: the daemon is shutting down, or busy."
            raise busy(what, status=503, kind="busy", retry_after_seconds=10) from None
        after = daemon.status()["model"]
        if refused is not None:
            kept = "There is none to serve." if after is None else f"{after['name']} is still served."
            raise RequestError(
                409,
                "model-refused",
                f"{refused.what} {kept}",
                why=refused.why,
                fix=refused.fix,
                document=refused.document,
            )
        return _json({"served": after, "changed": after != before})

    return router


def models_of(daemon: Daemon) -> dict[str, Any]:
    """Answer of /models."""
    status = daemon.status()
    name = status["model"] and status["model"]["name"]
    found = list_models(daemon.model_dir, name)
    return {"served": status["model"], "refused": status["model_error"], "count": len(found), "models": found}


def _json(content: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(content), 200, headers, "application/json")
