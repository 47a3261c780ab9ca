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


class Scenarios:
    """Which scenario was asked for.

    Parameters
    ----------
    is_demo : bool
        Whether the daemon was started as a demo; there are no scenarios otherwise.
    """

    def __init__(self, *, is_demo: bool) -> None:
        self._is_demo = is_demo
        self._wish: dict[str, str | None] = {"scenario": None, "asked_at": None}

    def wish(self) -> dict[str, str | None]:
        """Answer of /scenario.

        Raises
        ------
        RequestError
            403 if this is no demo.
        """
        if not self._is_demo:
            raise RequestError(
                403,
                "not-a-demo",
                "This daemon was not started as a demo.",
                why="Its servers are real, as far as it knows, and play no scenarios.",
                fix="Run `python main.py demo`, or set TFT_DEMO_SCENARIOS=true where the fleet is made up.",
            )
        return self._wish

    def play(self, name: ScenarioName) -> dict[str, str | None]:
        """Have the fleet play a scenario; raises as `wish`."""
        self.wish()
        self._wish = {"scenario": name.value, "asked_at": iso_z(utc_now())}
        return self._wish


def scenario_routes(scenarios: Scenarios) -> APIRouter:
    """Make the routes."""
    router = APIRouter(tags=["demo"])
    no_demo = problems(s403="the daemon was not started as a demo")

    @router.get("/scenario", response_model=ScenarioWish, responses=no_demo)
    async def scenario() -> Response:
        """Which scenario was asked for; null before anybody did."""
        return Response(to_json(scenarios.wish()), media_type="application/json")

    @router.post(
        "/scenario/{name}", response_model=ScenarioWish, responses={**no_demo, **problems(s422="no such scenario")}
    )
    async def play(name: ScenarioName) -> Response:
        """Have the demo's fleet play a scenario from its next step on."""
        return Response(to_json(scenarios.play(name)), media_type="application/json")

    return router
