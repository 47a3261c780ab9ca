"""The routes of what people do about alerts: acknowledge, silence, look back, and see whether alerts go out.

Alerts that are open are `/alerts/active`, which `tft_inference.py` serves with the forecasts. What goes in is small and
read within bounds. A route parses and calls; what is remembered is `alert_desk.py`'s.
"""

from __future__ import annotations

import asyncio
import unicodedata
from datetime import timedelta
from typing import Annotated, Any, Literal, TypeVar

import anyio
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from alert_desk import MAX_SILENCES, TooManySilencesError, as_history
from alert_silences import LONGEST_DAYS, MATCHED, Silence
from alert_store import new_id
from common_utils import iso_z, utc_now
from daemon_answers import to_json
from daemon_core import Daemon
from daemon_problems import RequestError
from daemon_schemas import Acknowledged, Answer, body_schema, problems
from data_contract import MAX_NAME_LENGTH, METRIC_COLUMNS, VALID_PROFILES, name_fault

MAX_HISTORY_HOURS = 366 * 24
_MAX_BODY_BYTES = 16_384
_BODY_SECONDS = 10.0


# --------------------------------------------------------------------------------------------------------- what goes in
def _plain_text(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        raise ValueError("holds control characters")
    return text.strip()


def _known_name(text: str) -> str:
    fault = name_fault(text)
    if fault:
        raise ValueError(fault)
    return text


Author = Annotated[str, Field(max_length=100), AfterValidator(_plain_text)]
Comment = Annotated[str, Field(max_length=1000), AfterValidator(_plain_text)]
AlertId = Annotated[str, Path(max_length=64, pattern="^[0-9a-f]+$", examples=["3f0c7c1be0a94d52"])]


class AcknowledgeRequest(BaseModel):
    """Who takes care of an alert."""

    model_config = ConfigDict(extra="forbid")

    author: Author = Field(examples=["kim"])
    comment: Comment = Field(examples=["moving the batch job to another node"])


class SilenceRequest(BaseModel):
    """What is silenced, by whom, why and for how long: at least one of server, profile and metric, and one end."""

    model_config = ConfigDict(extra="forbid")

    server_name: Annotated[str, Field(max_length=MAX_NAME_LENGTH), AfterValidator(_known_name)] | None = Field(
        None, examples=["ppdb001"]
    )
    profile: Literal[VALID_PROFILES] | None = None  # type: ignore[valid-type]
    metric: Literal[METRIC_COLUMNS] | None = None  # type: ignore[valid-type]
    author: Author = Field(examples=["kim"])
    comment: Comment = Field(examples=["the disk is being replaced"])
    starts_at: AwareDatetime | None = Field(None, description="now, if left out")
    ends_at: AwareDatetime | None = None
    duration_minutes: float | None = Field(
        None, gt=0, le=LONGEST_DAYS * 24 * 60, description="instead of `ends_at`", examples=[120]
    )

    @model_validator(mode="after")
    def _is_complete(self) -> SilenceRequest:
        if all(getattr(self, name) is None for name in MATCHED):
            raise ValueError("name a server_name, a profile or a metric, or several of them")
        if (self.ends_at is None) == (self.duration_minutes is None):
            raise ValueError("give either ends_at or duration_minutes")
        return self


# ------------------------------------------------------------------------------------------------------- what comes out
class PastAlert(Answer):
    """An alert that is or was open; `outcome` is null while it is not known whether what it said came true."""

    id: str
    server_name: str
    profile: str
    metric: str
    unit: str
    threshold: float
    highest_probability: float
    opened_at: AwareDatetime
    closed_at: AwareDatetime | None
    closed_because: Literal["risk-fell", "no-forecast"] | None
    acknowledged: Acknowledged | None
    outcome: Literal["true", "false", "late", "undecided"] | None
    breached_at: AwareDatetime | None
    message: str


class AlertHistory(Answer):
    """Alerts, the last opened first; `cursor` asks for those before them, null at the end."""

    count: int
    cursor: str | None
    alerts: list[PastAlert]


class SilenceAnswer(Answer):
    """A silence."""

    id: str
    server_name: str | None
    profile: str | None
    metric: str | None
    author: str
    comment: str
    starts_at: AwareDatetime
    ends_at: AwareDatetime
    created_at: AwareDatetime
    state: Literal["pending", "active", "expired"]


class Silences(Answer):
    """All silences that are kept."""

    count: int
    silences: list[SilenceAnswer]


class WayStatus(Answer):
    """How it goes with one receiver; of its address, no more than the host is shown."""

    configured: bool
    receiver: str | None = Field(examples=["http://127.0.0.1:9093"])
    delivered_at: AwareDatetime | None
    failing_since: AwareDatetime | None
    last_error: str | None


class AlertmanagerStatus(WayStatus):
    """The way to Alertmanager."""

    resend_seconds: float


class WebhookStatus(WayStatus):
    """The way to the webhook: events that wait, and events given up since the start."""

    waiting: int
    dead_letters: int


class DeliveryStatus(Answer):
    """Whether alerts go out."""

    alertmanager: AlertmanagerStatus
    webhook: WebhookStatus


class Trial(Answer):
    """What became of a test alert."""

    configured: bool
    delivered: bool
    error: str | None


class TestResult(Answer):
    """What became of the test alerts."""

    alertmanager: Trial
    webhook: Trial


async def _small_body(request: Request) -> bytes:
    """Body of a request, bounded in size and time; JSON alone, which foreign pages in a browser may not send."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(
            415,
            "not-json",
            "The body is not said to be JSON.",
            why="Pages of other sites can send anything else from a browser.",
            fix="Send the header Content-Type: application/json (`curl --json …`).",
        )
    body = bytearray()
    try:
        with anyio.fail_after(_BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > _MAX_BODY_BYTES:
                    raise RequestError(
                        413,
                        "too-large",
                        f"The body is larger than {_MAX_BODY_BYTES:,} bytes.",
                        why="Nothing that belongs into it is so long.",
                        fix="Shorten the comment.",
                        headers={"Connection": "close"},
                    )
    except TimeoutError:
        raise RequestError(
            408,
            "too-slow",
            f"The body did not arrive within {_BODY_SECONDS:g} s.",
            why="A request that never ends would be waited for.",
            fix="Send it again.",
        ) from None
    return bytes(body)


Body = Annotated[bytes, Depends(_small_body)]


# ----------------------------------------------------------------------------------------------------------- the routes
def alert_routes(daemon: Daemon) -> APIRouter:
    """Make the routes."""
    router = APIRouter(prefix="/alerts", tags=["alerts"])
    desk = daemon.alerts
    failed = {"s507": "the disk is full"}
    sent = {
        "s400": "no JSON",
        "s408": "the body came too slowly",
        "s413": "the body is too large",
        "s415": "another format than JSON",
        "s422": "it cannot be understood",
    }

    @router.get("/history", response_model=AlertHistory, responses=problems(s422="a parameter is out of bounds"))
    def history(
        hours: Annotated[int, Query(ge=1, le=MAX_HISTORY_HOURS)] = 24,
        server: Annotated[str | None, Query(max_length=MAX_NAME_LENGTH)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Annotated[str | None, Query(max_length=18, pattern="^[0-9]+$")] = None,
    ) -> Response:
        """Alerts that were open in the last hours of the data, with what became of them; the last opened first."""
        return _json(past_alerts(daemon, hours, server, limit, None if cursor is None else int(cursor)))

    @router.get("/silences", response_model=Silences)
    def silences() -> Response:
        """Silences that hold, that will, or that held lately."""
        return _json(silences_of(daemon))

    @router.post(
        "/silences",
        response_model=SilenceAnswer,
        status_code=201,
        openapi_extra=_body_of(SilenceRequest),
        responses=problems(**sent, **failed, s409="too many silences"),
    )
    def add_silence(body: Body) -> Response:
        """Keep alerts of a server, a profile or a metric from being sent for a while; they stay visible."""
        asked = _parsed(SilenceRequest, body)
        try:
            return _json(desk.add_silence(_silence_of(asked)), 201)
        except TooManySilencesError:
            raise RequestError(
                409,
                "too-many-silences",
                f"There are {MAX_SILENCES:,} silences already.",
                why="So many hide what they are about, and each alert is compared with all of them.",
                fix="Remove some with DELETE /alerts/silences/{id}, or silence a whole profile or metric.",
            ) from None

    @router.delete(
        "/silences/{silence_id}", status_code=204, responses=problems(s404="no such silence", s422="no id", **failed)
    )
    def remove_silence(silence_id: AlertId) -> Response:
        """End a silence and forget it; open alerts that it kept back are sent."""
        if not desk.remove_silence(silence_id):
            raise RequestError(
                404,
                "no-such-silence",
                f"There is no silence {silence_id}.",
                why="It was removed, or it ended long ago.",
                fix="GET /alerts/silences lists them.",
            )
        return Response(None, 204)

    @router.post(
        "/{alert_id}/acknowledge",
        response_model=PastAlert,
        openapi_extra=_body_of(AcknowledgeRequest),
        responses=problems(**sent, **failed, s404="no alert of that id is open"),
    )
    def acknowledge(alert_id: AlertId, body: Body) -> Response:
        """Say that somebody takes care of an open alert."""
        asked = _parsed(AcknowledgeRequest, body)
        return _json(_open_alert(alert_id, desk.acknowledge(alert_id, asked.author, asked.comment)))

    @router.delete(
        "/{alert_id}/acknowledge",
        response_model=PastAlert,
        responses=problems(s404="no alert of that id is open", s422="no id", **failed),
    )
    def unacknowledge(alert_id: AlertId) -> Response:
        """Take that back."""
        return _json(_open_alert(alert_id, desk.unacknowledge(alert_id)))

    @router.get("/delivery", response_model=DeliveryStatus)
    def delivery() -> Response:
        """Whether alerts reach Alertmanager and the webhook."""
        return _json(daemon.delivery.status())

    @router.post("/test", response_model=TestResult)
    async def test() -> Response:
        """Send a test alert to each receiver that is set, once, and say what became of it."""
        return _json(await asyncio.wrap_future(daemon.delivery.test()))

    return router


def past_alerts(
    daemon: Daemon, hours: int, server: str | None, limit: int = 100, before: int | None = None
) -> dict[str, Any]:
    """Answer of /alerts/history: those that were open in the last hours of the data, the last opened first."""
    since = (daemon.newest or utc_now()) - timedelta(hours=hours)
    found = daemon.alerts.store.history(since, server, before, limit + 1)
    alerts, more = found[:limit], len(found) > limit
    return {
        "count": len(alerts),
        "cursor": str(alerts[-1].number) if more else None,
        "alerts": [as_history(alert) for alert in alerts],
    }


def silences_of(daemon: Daemon) -> dict[str, Any]:
    """Answer of /alerts/silences."""
    found = daemon.alerts.silences()
    return {"count": len(found), "silences": found}


def _json(content: Any, status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")


def _body_of(model: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": body_schema(model)}}}}


def _open_alert(id_: str, alert: dict[str, Any] | None) -> dict[str, Any]:
    if alert is None:
        raise RequestError(
            404,
            "no-such-alert",
            f"No alert {id_} is open.",
            why="Only alerts that are open can be taken care of; this one has closed, or never was.",
            fix="GET /alerts/active lists those that are open, each with its `id`; /alerts/history the others.",
        )
    return alert


def _silence_of(asked: SilenceRequest) -> Silence:
    now = utc_now()
    starts_at = asked.starts_at or now
    try:
        ends_at = asked.ends_at or starts_at + timedelta(minutes=asked.duration_minutes or 0)
        is_long = ends_at - starts_at > timedelta(days=LONGEST_DAYS) or starts_at - now > timedelta(days=LONGEST_DAYS)
        iso_z(starts_at), iso_z(ends_at)
    except OverflowError:
        is_long, ends_at = True, now
    if is_long:
        raise _invalid(f"it begins or lasts more than {LONGEST_DAYS} days ahead")
    if ends_at <= max(now, starts_at):
        raise _invalid(f"it ends at {iso_z(ends_at)}, before it would begin or before now ({iso_z(now)})")
    return Silence(
        new_id(),
        asked.server_name,
        asked.profile,
        asked.metric,
        asked.author,
        asked.comment,
        starts_at,
        ends_at,
        now,
    )


_Model = TypeVar("_Model", bound=BaseModel)


def _parsed(model: type[_Model], body: bytes) -> _Model:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False, include_context=False)
        if any(fault["type"] == "json_invalid" for fault in faults):
            raise RequestError(
                400,
                "no-json",
                "The body is no JSON.",
                why="What was meant cannot be told.",
                fix="Send a JSON object; the members are under /docs and in the document.",
            ) from None
        listed = [
            f"{'.'.join(str(part)[:40] for part in fault['loc']) or 'body'}: {fault['msg']}" for fault in faults[:6]
        ]
        raise _invalid("; ".join(listed)) from None


def _invalid(reason: str) -> RequestError:
    return RequestError(
        422,
        "invalid-request",
        f"The request cannot be understood: {reason}.",
        why="A guess at what was meant could hide an alert that somebody waits for.",
        fix="Correct what is named; the members are under /docs and in the document.",
    )
