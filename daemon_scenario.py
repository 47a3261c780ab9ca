"""Which scenario the demo's fleet is to play: a wish that the daemon keeps, and that the fleet's stream asks for.

The daemon changes no row. Whoever streams a made-up fleet to it (`generate --stream`) asks before each step, and lets
the fleet degrade, or recover, from that step on; so what is seen then is forecast from rows like any other. Only a
daemon that was started as a demo has these routes.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import AwareDatetime

from common_utils import iso_z, utc_now
from daemon_answers import to_json
from daemon_problems import RequestError
from daemon_schemas import Answer, problems


class ScenarioName(str, Enum):
    """What a fleet can play."""

    HEALTHY = "healthy"
    DEGRADING = "degrading"
    CRITICAL = "critical"


class ScenarioWish(Answer):
    """What the demo's fleet is to play; null before anybody asked for anything."""

    scenario: Literal["healthy", "degrading", "critical"] | None
    asked_at: AwareDatetime | None


def scenario_routes(*, is_demo: bool) -> APIRouter:
    """Make the routes.

    Parameters
    ----------
    is_demo : bool
        Whether the daemon was started as a demo; they answer 403 otherwise.
    """
    router = APIRouter(tags=["demo"])
    no_demo = problems(s403="the daemon was not started as a demo")
    wish: dict[str, str | None] = {"scenario": None, "asked_at": None}

    @router.get("/scenario", response_model=ScenarioWish, responses=no_demo)
    async def scenario() -> Response:
        """Which scenario was asked for; null before anybody did."""
        _require(is_demo=is_demo)
        return Response(to_json(wish), media_type="application/json")

    @router.post(
        "/scenario/{name}", response_model=ScenarioWish, responses={**no_demo, **problems(s422="no such scenario")}
    )
    async def play(name: ScenarioName) -> Response:
        """Have the demo's fleet play a scenario from its next step on."""
        _require(is_demo=is_demo)
        wish.update(scenario=name.value, asked_at=iso_z(utc_now()))
        return Response(to_json(wish), media_type="application/json")

    return router


def _require(*, is_demo: bool) -> None:
    if not is_demo:
        raise RequestError(
            403,
            "not-a-demo",
            "This daemon was not started as a demo.",
            why="Its servers are real, as far as it knows, and play no scenarios.",
            fix="Run `python main.py demo`, or set TFT_DEMO_SCENARIOS=true where the fleet is made up.",
        )
