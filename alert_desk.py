"""Which alerts there are, who has seen them, which are silenced, and which events are due: the forecasts' view on disk.

The forecast loop hands over what is open; the desk compares it with what it remembers and writes the difference, events
for the webhook included, in one transaction. So a restart opens nothing anew, and a full disk only puts it off: the
next forecast compares again. Knows nothing of HTTP, nor of how messages are sent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from alert_messages import Kind, Outgoing, alert_id, event, link_to, parse_time
from alert_silences import Silence, next_change, silencing
from alert_store import Acknowledgement, AlertStore, Because, Change, Key, Steps, StoredAlert, new_id
from common_utils import iso_z, utc_now
from config import Settings
from data_contract import HORIZON_STEPS, STEP_MINUTES, ProductError
from tft_risk import AlertBook

log = structlog.stdlib.get_logger(__name__)

MAX_SILENCES = 1_000
RESOLVED_FOR = timedelta(minutes=15)  # how long it is repeated that an alert is over, as Prometheus does

_HORIZON = timedelta(minutes=STEP_MINUTES * HORIZON_STEPS)


class TooManySilencesError(ValueError):
    """There is no room for another silence."""


class AlertDesk:
    """The alerts of one daemon.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._tells_events = bool(settings.webhook_url.get_secret_value())
        self._link_url = settings.alert_link_url
        self._on_marked: Callable[[], None] = lambda: None
        self._on_news: Callable[[], None] = lambda: None
        self._lock = threading.RLock()
        self._active: dict[str, dict[str, Any]] = {}  # as served, the most likely first
        self._origin: datetime | None = None  # of the forecast that they come from
        self._open: dict[str, StoredAlert] = {}  # on disk
        self._recent: list[StoredAlert] = []  # closed lately
        self._states: dict[Key, Steps] = {}  # on disk
        self._renewed: datetime | None = None  # origin of the forecast that is on disk
        self._silences: list[Silence] = []
        self._holding: list[str] = []  # ids of those that held when it was looked last

    def watched_by(self, on_marked: Callable[[], None], on_news: Callable[[], None]) -> None:
        """Have functions called, in any thread and without a lock held, when something has changed.

        Parameters
        ----------
        on_marked : callable
            When an alert was acknowledged or silenced, or is not any more.
        on_news : callable
            When a receiver may have to be told something.
        """
        self._on_marked, self._on_news = on_marked, on_news

    def open(self, folder: Path) -> None:
        """Read what was remembered.

        Raises
        ------
        ProductError
            If the file cannot be used. A damaged one is set aside, and a new one begun.
        """
        self.store = AlertStore(folder)
        if self.store.set_aside is not None:
            log.error("damaged file of alerts set aside, a new one begun", file=str(self.store.set_aside))
        self._states = self.store.states()
        self._silences = self.store.silences()
        self._reload()

    def close(self) -> None:
        """Release the file."""
        self.store.close()

    # ---------------------------------------------------------------------------------------------- the forecasts' side
    def restore(self, book: AlertBook) -> None:
        """Give a new book the hysteresis of the one before, so that a restart neither opens nor closes anything."""
        book.restore(self._states)

    def note(self, book: AlertBook, origin: datetime) -> None:
        """Take in what is open after a forecast. A disk that fails is logged; the next forecast tries again."""
        now = utc_now()
        active = {alert_id(a["server_name"], a["metric"], a["opened_at"]): a for a in book.active()}
        states = book.states()
        with self._lock:
            self._active, self._origin = active, origin
            opened = [_new_alert(id_, alert, now) for id_, alert in active.items() if id_ not in self._open]
            closed = [alert for id_, alert in self._open.items() if id_ not in active]
            renewed = {} if origin == self._renewed else self._renewals(active)
            if not (opened or closed or renewed or states != self._states):
                return
            try:
                with self.store.change() as change:
                    for key in states.keys() | self._states.keys():
                        if states.get(key) != self._states.get(key):
                            change.state(key, states.get(key))
                    for id_, (highest, latest) in renewed.items():
                        change.renew(id_, highest, latest)
                    for alert in closed:
                        self._close(change, alert, origin, now, was_scored=book.has_score(*alert.key))
                    for alert in opened:
                        change.open(alert)
                    kept = [alert for id_, alert in self._open.items() if id_ in active]
                    self._tell_opened(change, [*kept, *opened], now)
                self._states, self._renewed = states, origin
                self._reload()
            except ProductError as error:
                log.warning("alerts could not be written; it is tried again with the next forecast", reason=error.what)
        if opened or closed:
            self._on_news()

    def mark(self, alerts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Alerts with their ids, who has seen them, and which silences hold for them."""
        now = utc_now()
        with self._lock:
            marked = []
            for alert in alerts:
                id_ = alert_id(alert["server_name"], alert["metric"], alert["opened_at"])
                known = self._open.get(id_)
                marked.append(
                    {
                        **alert,
                        "id": id_,
                        "acknowledged": _seen(known.acknowledgement if known else None),
                        "silenced_by": silencing(self._silences, alert, now),
                    }
                )
            return marked

    # -------------------------------------------------------------------------------------------------- people's side
    def acknowledge(self, id_: str, author: str, comment: str) -> dict[str, Any] | None:
        """Note that somebody takes care of an open alert; None if no alert of that id is open."""
        return self._acknowledge(id_, Acknowledgement(author, comment, utc_now()))

    def unacknowledge(self, id_: str) -> dict[str, Any] | None:
        """Undo it; None if no alert of that id is open."""
        return self._acknowledge(id_, None)

    def _acknowledge(self, id_: str, seen: Acknowledgement | None) -> dict[str, Any] | None:
        with self._lock:
            alert = self._open.get(id_)
            if alert is None:
                return None
            with self.store.change() as change:
                change.acknowledge(id_, seen)
                self._open[id_] = alert = replace(alert, acknowledgement=seen)
                self._tell_opened(change, [alert], utc_now())
            self._reload()
            result = as_history(alert)
        self._changed()
        return result

    def silences(self) -> list[dict[str, Any]]:
        """All silences that are kept, those that begin first at the front."""
        now = utc_now()
        with self._lock:
            return [silence.as_dict(now) for silence in self._silences]

    def add_silence(self, silence: Silence) -> dict[str, Any]:
        """Add a silence.

        Raises
        ------
        TooManySilencesError
            If there are too many that have not ended.
        """
        now = utc_now()
        with self._lock:
            over = [each.id for each in self._silences if each.state(now) == "expired"]
            too_many = len(self._silences) >= MAX_SILENCES
            if too_many and not over:
                raise TooManySilencesError
            with self.store.change() as change:
                if too_many:
                    change.unsilence(over)
                change.silence(silence)
            self._silences = self.store.silences()
        self._changed()
        return silence.as_dict(now)

    def remove_silence(self, id_: str) -> bool:
        """Remove a silence; False if there is none of that id."""
        with self._lock:
            if all(each.id != id_ for each in self._silences):
                return False
            with self.store.change() as change:
                change.unsilence([id_])
            self._silences = self.store.silences()
        self._changed()
        return True

    # ------------------------------------------------------------------------------------------------ the sender's side
    def outgoing(self) -> list[Outgoing]:
        """Alerts that Alertmanager shall know of now: those that are open, and those that have closed lately.

        Silenced ones are left out, and so is everything when the newest forecast ended before now: it says nothing of
        the present.
        """
        now = utc_now()
        with self._lock:
            if not self._speaks_of(now):
                return []
            result = []
            for id_, alert in self._active.items():
                if silencing(self._silences, alert, now):
                    continue
                known = self._open.get(id_) or _new_alert(id_, alert, now)
                result.append(
                    Outgoing(
                        alert,
                        known.profile,
                        min(known.opened_at, known.noted_at),
                        max(known.highest_probability, alert["probability"]),
                        acknowledgement=known.acknowledgement,
                    )
                )
            open_keys = {(alert["server_name"], alert["metric"]) for alert in self._active.values()}
            for known in self._recent:
                assert known.ended_at is not None
                over = now - known.ended_at > RESOLVED_FOR or known.key in open_keys
                if not over and not silencing(self._silences, known.latest, now):
                    result.append(
                        Outgoing(
                            known.latest,
                            known.profile,
                            min(known.opened_at, known.noted_at),
                            known.highest_probability,
                            known.ended_at,
                            known.because,
                            known.acknowledgement,
                        )
                    )
            return result

    @property
    def origin(self) -> datetime | None:
        """Origin of the forecast that the open alerts come from."""
        return self._origin

    def settle(self) -> datetime | None:
        """Take notice of silences that have begun or ended; says when the next one will."""
        now = utc_now()
        with self._lock:
            alerts = list(self._open.values())
            if any(self._is_due(alert, now) for alert in alerts):
                with self.store.change() as change:
                    self._tell_opened(change, alerts, now)
                self._reload()
            holding = [silence.id for silence in self._silences if silence.state(now) == "active"]
            is_new, self._holding = holding != self._holding, holding
            upcoming = next_change(self._silences, now)
        if is_new:
            self._changed()
        return upcoming

    def prune(self, keep: timedelta) -> None:
        """Forget what ended longer ago."""
        with self._lock:
            self.store.prune(utc_now() - keep)
            self._silences = self.store.silences()

    # -------------------------------------------------------------------------------------------------------- internal
    def _changed(self) -> None:
        self._on_marked()
        self._on_news()

    def _speaks_of(self, now: datetime) -> bool:
        return self._origin is not None and now < self._origin + _HORIZON

    def _is_due(self, alert: StoredAlert, now: datetime) -> bool:
        """Whether an event shall tell of an open alert."""
        return (
            self._tells_events
            and self._speaks_of(now)
            and not alert.notified
            and alert.acknowledgement is None
            and alert.id in self._active
            and not silencing(self._silences, self._active[alert.id], now)
        )

    def _tell_opened(self, change: Change, alerts: Iterable[StoredAlert], now: datetime) -> None:
        for alert in alerts:
            if self._is_due(alert, now):
                self._queue(change, "opened", replace(alert, latest=self._active[alert.id]), now)
                change.notified(alert.id)

    def _close(self, change: Change, alert: StoredAlert, origin: datetime, now: datetime, *, was_scored: bool) -> None:
        because: Because = "risk-fell" if was_scored else "no-forecast"
        change.close(alert.id, origin, now, because)
        if alert.notified and self._tells_events:
            ended = replace(alert, closed_at=origin, ended_at=now, because=because)
            self._queue(change, "closed", ended, now)

    def _queue(self, change: Change, kind: Kind, alert: StoredAlert, now: datetime) -> None:
        id_ = new_id()
        link = link_to(self._link_url, alert.server_name, alert.metric)
        change.event(id_, event(kind, id_, now, {**alert.latest, **as_history(alert)}, link=link or None))

    def _renewals(self, active: dict[str, dict[str, Any]]) -> dict[str, tuple[float, dict[str, Any]]]:
        return {
            id_: (max(known.highest_probability, active[id_]["probability"]), active[id_])
            for id_, known in self._open.items()
            if id_ in active
        }

    def _reload(self) -> None:
        self._open = {alert.id: alert for alert in self.store.open_alerts()}
        self._recent = self.store.ended_since(utc_now() - RESOLVED_FOR)


def as_history(alert: StoredAlert) -> dict[str, Any]:
    """An alert as `/alerts/history` tells it."""
    return {
        "id": alert.id,
        "server_name": alert.server_name,
        "profile": alert.profile,
        "metric": alert.metric,
        "unit": alert.latest["unit"],
        "threshold": alert.threshold,
        "highest_probability": alert.highest_probability,
        "opened_at": iso_z(alert.opened_at),
        "closed_at": alert.closed_at and iso_z(alert.closed_at),
        "closed_because": alert.because,
        "acknowledged": _seen(alert.acknowledgement),
        "outcome": alert.outcome,
        "breached_at": alert.breached_at and iso_z(alert.breached_at),
        "message": alert.latest["message"],
    }


def _seen(acknowledgement: Acknowledgement | None) -> dict[str, Any] | None:
    if acknowledgement is None:
        return None
    return {"author": acknowledgement.author, "comment": acknowledgement.comment, "at": iso_z(acknowledgement.at)}


def _new_alert(id_: str, alert: dict[str, Any], now: datetime) -> StoredAlert:
    return StoredAlert(
        number=0,
        id=id_,
        server_name=alert["server_name"],
        profile=alert["profile"],
        metric=alert["metric"],
        threshold=alert["threshold"],
        opened_at=parse_time(alert["opened_at"]),
        noted_at=now,
        highest_probability=alert["probability"],
        latest=alert,
    )
