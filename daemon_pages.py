"""Parts of the fleet's forecasts, page by page; all pages of a walk are of one set of forecasts.

A cursor names the set and the place in it. Otherwise a server whose risk changes while somebody turns the pages would
cross the place where the next page begins, and come twice or not at all. The last few sets that somebody walks through
are kept for that; of one that is not, the daemon says so.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, Final

from daemon_answers import ReadyAnswer, to_json
from daemon_core import Daemon
from daemon_problems import RequestError
from fleet_summary import MAX_CURSOR, CursorError
from forecast_loop import PredictionSet

KEPT_SETS: Final = 4  # some 1.5 kB a server each; at one forecast per step, 20 minutes to turn the pages
LONGEST_CURSOR: Final = MAX_CURSOR + 40  # with the set's name before it

_SET: Final = re.compile(r"[0-9a-f]{8}-[0-9]{1,18}")


@dataclass(frozen=True)
class PageQuery:
    """Which servers are asked for: of a profile, from a risk on, at most `limit`, after those a cursor has seen."""

    profile: str | None = None
    min_risk: float = 0.0
    limit: int | None = None
    cursor: str | None = None


@dataclass(frozen=True)
class PageAnswer:
    """A page, and where it comes from.

    Attributes
    ----------
    published : PredictionSet
        The set of which all pages of the walk are.
    provenance : dict
        The same as the answer tells it.
    body : bytes
        JSON.
    next_cursor : str or None
        None on the last page.
    """

    published: PredictionSet
    provenance: dict[str, Any]
    body: bytes
    next_cursor: str | None


class FleetPages:
    """Turns the pages, and keeps the sets that are being walked through. For the event loop alone.

    Parameters
    ----------
    daemon : Daemon
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._walked: OrderedDict[str, PredictionSet] = OrderedDict()

    def page(self, query: PageQuery) -> PageAnswer:
        """Make a page.

        Raises
        ------
        RequestError
            503 without a model, 422 for a cursor that is none, 410 for one of a set that is not kept any more.
        """
        published = self._daemon.require_published()
        set_id, place = self._daemon.set_id(published), None
        if query.cursor is not None:
            set_id, _, place = query.cursor.partition(".")
            published = self._set_of(set_id, published)
        try:
            page = published.ranked.page(
                profile=query.profile, min_risk=query.min_risk, limit=query.limit, cursor=place
            )
        except CursorError:
            raise _invalid_cursor() from None
        next_cursor = None
        if page.cursor is not None:
            next_cursor = f"{set_id}.{page.cursor}"
            self._keep(set_id, published)
        provenance = self._daemon.provenance(published)
        head = {**provenance, "count": len(page.names), "total": page.matching, "next_cursor": next_cursor}
        offline = [
            server
            for server in published.offline
            if place is None and query.min_risk <= 0 and query.profile in {None, server["profile"]}
        ]
        items = b",".join(published.records[name] for name in page.names)
        body = to_json(head)[:-1] + b',"predictions":[' + items + b'],"offline":' + to_json(offline) + b"}"
        return PageAnswer(published, provenance, body, next_cursor)

    def _set_of(self, set_id: str, published: PredictionSet) -> PredictionSet:
        if not _SET.fullmatch(set_id):
            raise _invalid_cursor()
        if set_id == self._daemon.set_id(published):
            return published
        kept = self._walked.get(set_id)
        if kept is None:
            raise RequestError(
                410,
                "cursor-expired",
                "The forecasts that the cursor leads through are not kept any more.",
                why=f"All pages are of one set of forecasts. The {KEPT_SETS} sets whose pages were turned last are "
                "kept, none of them over a restart.",
                fix="Begin anew without a cursor, with a larger `limit` or more quickly.",
            )
        return kept

    def _keep(self, set_id: str, published: PredictionSet) -> None:
        if set_id not in self._walked:
            # The arrays and the answer of the whole are many times larger than what pages are made of
            nothing = ReadyAnswer("predictions", ())
            self._walked[set_id] = replace(published, forecast=None, current=nothing, alerts=nothing)
        self._walked.move_to_end(set_id)
        while len(self._walked) > KEPT_SETS:
            self._walked.popitem(last=False)


def _invalid_cursor() -> RequestError:
    return RequestError(
        422,
        "invalid-request",
        "The cursor is none that a page has given.",
        why="Another place in the fleet could be meant.",
        fix="Take `next_cursor` of the page before as it is, or leave the cursor out to begin anew.",
    )
