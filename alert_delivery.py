"""How alerts leave the house: to an Alertmanager and to a webhook, by a thread that nothing else waits for.

Alertmanager is told what is open now, again and again (it takes what it does not hear of for over): one that was away
or was restarted knows everything a moment later. The webhook is told each opening and closing at least once: events
wait on disk until a receiver has taken them, and those that are given up go to a file of dead letters. Redirects are
not followed, every request is bounded as a whole, and no log shows more of an address than its host.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

import anyio
import httpx2
import structlog
from pydantic import SecretStr

from alert_desk import AlertDesk
from alert_messages import (
    SIGNATURE_HEADER,
    alertmanager_alert,
    event,
    signature,
    test_alert,
    webhook_body,
)
from alert_store import MAX_EVENTS, WaitingEvent, new_id
from common_utils import iso_z, utc_now
from config import Settings
from data_contract import ConfigurationError, ProductError

log = structlog.stdlib.get_logger(__name__)

SECRET: Final = "TFT_WEBHOOK_SECRET"  # noqa: S105 - name of a variable, not what is in it
DEAD_LETTERS: Final = "webhook-dead-letters.jsonl"
DOCUMENT: Final = "Docs/DAEMON.md"

_MIN_SECRET: Final = 16  # characters
_REQUEST_SECONDS: Final = 10.0
_FIRST_RETRY_SECONDS: Final = 0.5
_LONGEST_RETRY_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.5  # between two messages to Alertmanager, so that many changes make few messages
_LOOK_SECONDS: Final = 30.0  # between two looks at silences, outcomes and what is too old
_ALERTS_PER_REQUEST: Final = 256
_EVENTS_PER_REQUEST: Final = 100
_ANSWER_BYTES: Final = 300  # of a refusal, for the log
_DEAD_LETTER_BYTES: Final = 10_000_000  # then the file becomes the old one, and the old one before goes
_PRUNE_SECONDS: Final = 3600.0
_LIVES: Final = 4  # as Prometheus: an alert outlives so many messages that do not come


class _FailedError(Exception):
    """A message was not taken; `refused`: it came there, so the next one may be."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


@dataclass(frozen=True)
class Receiver:
    """Where messages go.

    Attributes
    ----------
    url : str
        Without user and password.
    auth : (str, str) or None
    shown : str
        What logs and people may see of it.
    """

    url: str
    auth: tuple[str, str] | None
    shown: str

    @classmethod
    def of(cls, address: SecretStr, path: str = "") -> Receiver | None:
        """Receiver at an address; None if none is set."""
        if not address.get_secret_value():
            return None
        parts = urlsplit(address.get_secret_value())
        place = parts.netloc.rpartition("@")[2]
        auth = None
        if parts.username is not None:
            auth = unquote(parts.username), unquote(parts.password or "")
        full_path = parts.path.rstrip("/") + path if path else parts.path
        return cls(urlunsplit((parts.scheme, place, full_path, parts.query, "")), auth, f"{parts.scheme}://{place}")

    def client(self) -> httpx2.AsyncClient:
        """Client for this receiver alone; certificates are checked."""
        return httpx2.AsyncClient(
            auth=httpx2.BasicAuth(*self.auth) if self.auth else None,
            trust_env=not _is_loopback(self.url),  # proxies, and certificates of the house
            follow_redirects=False,
            timeout=_REQUEST_SECONDS,
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
        )


class _Way:
    """How it goes with one receiver; also the backoff after failures."""

    def __init__(self, name: str, receiver: Receiver | None) -> None:
        self.name = name
        self.receiver = receiver
        self.delivered_at: datetime | None = None
        self.failing_since: datetime | None = None
        self.last_error: str | None = None
        self._failures = 0

    def succeeded(self) -> None:
        self.delivered_at = utc_now()
        if self.failing_since is not None:
            log.info("alerts reach their receiver again", way=self.name, receiver=self._shown)
        self.failing_since, self.last_error, self._failures = None, None, 0

    def failed(self, error: Exception) -> float:
        """Seconds to wait before the next try."""
        reason = str(error) if isinstance(error, _FailedError) else type(error).__name__
        if reason != self.last_error:  # told once, not try by try
            log.warning("alerts do not reach their receiver", way=self.name, receiver=self._shown, reason=reason)
        self.failing_since = self.failing_since or utc_now()
        self.last_error = reason
        self._failures += 1
        return float(min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2 ** min(self._failures - 1, 16)))

    @property
    def _shown(self) -> str | None:
        return None if self.receiver is None else self.receiver.shown

    def as_dict(self) -> dict[str, Any]:
        """What /alerts/delivery says of it."""
        return {
            "configured": self.receiver is not None,
            "receiver": self._shown,
            "delivered_at": self.delivered_at and iso_z(self.delivered_at),
            "failing_since": self.failing_since and iso_z(self.failing_since),
            "last_error": self.last_error,
        }


class AlertDelivery:
    """The thread that tells receivers of alerts.

    Parameters
    ----------
    settings : Settings
    desk : AlertDesk
        Open when this is started.
    folder : Path
        Where dead letters go.
    judge : callable
        Called now and then: decides whether alerts came true; whether there is more to decide at once.

    Raises
    ------
    ConfigurationError
        If a webhook is set without a secret to sign with.
    """

    def __init__(self, settings: Settings, desk: AlertDesk, folder: Path, judge: Callable[[], bool]) -> None:
        self._settings = settings
        self._desk = desk
        self._folder = folder
        self._judge = judge
        self._alertmanager = _Way("alertmanager", Receiver.of(settings.alertmanager_url, "/api/v2/alerts"))
        self._webhook = _Way("webhook", Receiver.of(settings.webhook_url))
        self._secret = SecretStr(os.environ.get(SECRET, "").strip())
        if self._webhook.receiver is not None and len(self._secret.get_secret_value()) < _MIN_SECRET:
            raise ConfigurationError(
                f"TFT_WEBHOOK_URL is set, but {SECRET} is not, or is shorter than {_MIN_SECRET} characters.",
                why="Without a signature anybody could tell the receiver of alerts that there are none.",
                fix=f"Set {SECRET} in the environment of the daemon, for instance `openssl rand -hex 32`.",
                document=DOCUMENT,
            )
        self._untold: list[int] = []  # delivered events that could not be forgotten yet
        self._dead = 0  # dead letters since the start
        self._pruned_at = -_PRUNE_SECONDS
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: list[asyncio.Event] = []
        self._main: asyncio.Task[None] | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alert-delivery", daemon=True)

    # --------------------------------------------------------------------------------------- called from other threads
    def start(self) -> None:
        """Begin to tell."""
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs whole addresses
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Break off what is being sent, which is then sent after the next start, and end."""
        loop, main = self._loop, self._main
        if loop is not None and main is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                loop.call_soon_threadsafe(main.cancel)
        if self._thread.is_alive():
            self._thread.join()

    def poke(self) -> None:
        """Say that there may be something to tell."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._wake)

    def status(self) -> dict[str, Any]:
        """Answer of /alerts/delivery."""
        return {
            "alertmanager": {**self._alertmanager.as_dict(), "resend_seconds": self._settings.alert_resend_seconds},
            "webhook": {
                **self._webhook.as_dict(),
                "waiting": self._desk.store.count_waiting(),
                "dead_letters": self._dead,
            },
        }

    def test(self) -> Future[dict[str, Any]]:
        """Send a test alert to each receiver once, and say what became of it.

        Raises
        ------
        RuntimeError
            If the thread does not run.
        """
        if self._loop is None:
            raise RuntimeError("the delivery of alerts does not run")
        return asyncio.run_coroutine_threadsafe(self._test(), self._loop)

    # ------------------------------------------------------------------------------------------------------ the thread
    def _run(self) -> None:
        try:
            asyncio.run(self._tell())
        except asyncio.CancelledError:
            pass
        except Exception:
            log.exception("alerts are not delivered any more")
        finally:
            self._loop = None
            self._ready.set()

    async def _tell(self) -> None:
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        works = [self._look_around]
        if self._alertmanager.receiver is not None:
            works.append(self._tell_alertmanager)
        if self._webhook.receiver is not None:
            works.append(self._tell_webhook)
        self._news = [asyncio.Event() for _ in works]
        self._ready.set()
        await asyncio.gather(*(self._again(work, news) for work, news in zip(works, self._news, strict=True)))

    def _wake(self) -> None:
        for news in self._news:
            news.set()

    async def _again(self, work: Callable[[asyncio.Event], Awaitable[None]], news: asyncio.Event) -> None:
        """Do some work for ever; a fault of ours or of the disk delays it and no more."""
        while True:
            try:
                await work(news)
            except ProductError as error:
                log.warning("alerts wait, as the disk does not take what is to be remembered", reason=error.what)
                await asyncio.sleep(_LOOK_SECONDS)
            except Exception:
                log.exception("the delivery of alerts goes on after an error")
                await asyncio.sleep(_LOOK_SECONDS)

    async def _look_around(self, news: asyncio.Event) -> None:
        """Silences that begin or end, alerts that came true or did not, and what is old enough to be forgotten."""
        upcoming = self._desk.settle()
        if await asyncio.to_thread(self._judge):
            return  # there is more to decide
        if time.monotonic() - self._pruned_at > _PRUNE_SECONDS:
            self._pruned_at = time.monotonic()
            self._desk.prune(timedelta(days=self._settings.alert_history_days))
        seconds = _LOOK_SECONDS
        if upcoming is not None:
            seconds = min(seconds, max(0.0, (upcoming - utc_now()).total_seconds()) + 0.001)
        await _wait(news, seconds)

    # ---------------------------------------------------------------------------------------------------- Alertmanager
    async def _tell_alertmanager(self, news: asyncio.Event) -> None:
        receiver = self._alertmanager.receiver
        assert receiver is not None
        async with receiver.client() as client:
            while True:
                news.clear()
                alerts = self._alertmanager_alerts()
                refused: _FailedError | None = None
                for start in range(0, len(alerts), _ALERTS_PER_REQUEST):
                    try:
                        await _post(client, receiver.url, _json(alerts[start : start + _ALERTS_PER_REQUEST]))
                    except _FailedError as error:
                        refused = error
                        if not error.refused:
                            break
                if refused is not None:
                    await asyncio.sleep(self._alertmanager.failed(refused))
                    continue
                if alerts:
                    self._alertmanager.succeeded()
                await asyncio.sleep(_PAUSE_SECONDS)
                await _wait(news, self._settings.alert_resend_seconds)

    def _alertmanager_alerts(self) -> list[dict[str, Any]]:
        settings, now = self._settings, utc_now()
        # Long enough for the longest pause after failures, too
        ends_at = now + timedelta(seconds=_LIVES * max(settings.alert_resend_seconds, _LONGEST_RETRY_SECONDS))
        origin = self._desk.origin
        is_old = origin is not None and (
            now - origin > timedelta(minutes=settings.stale_after_minutes)
            or origin - now > timedelta(minutes=settings.max_future_minutes)  # the clock was set back, see /status
        )
        return [
            alertmanager_alert(
                outgoing,
                ends_at=ends_at,
                severity=settings.alert_severity,
                dashboard=settings.alert_link_url,
                data_from=iso_z(origin) if origin is not None and is_old else None,
            )
            for outgoing in self._desk.outgoing()
        ]

    # --------------------------------------------------------------------------------------------------------- webhook
    async def _tell_webhook(self, news: asyncio.Event) -> None:
        receiver, store = self._webhook.receiver, self._desk.store
        assert receiver is not None
        async with receiver.client() as client:
            while True:
                news.clear()
                if self._untold:
                    store.settle(self._untold)
                    self._untold.clear()
                excess = store.count_waiting() - MAX_EVENTS
                if excess > 0:
                    self._give_up(store.waiting(excess), "too many events wait")
                waiting = store.waiting(_EVENTS_PER_REQUEST)
                if not waiting:
                    await _wait(news, _LOOK_SECONDS)
                    continue
                try:
                    await self._post_events(client, receiver, [each.body for each in waiting])
                except _FailedError as error:
                    store.count_try([each.number for each in waiting])
                    last = [each for each in waiting if each.tries + 1 >= self._settings.webhook_tries]
                    seconds = self._webhook.failed(error)
                    if last:
                        self._give_up(last, str(error))
                    await asyncio.sleep(seconds)
                    continue
                self._untold = [each.number for each in waiting]
                self._webhook.succeeded()

    async def _post_events(self, client: httpx2.AsyncClient, receiver: Receiver, events: Sequence[str]) -> None:
        now = utc_now()
        body = webhook_body(events, now)
        signed = signature(self._secret.get_secret_value(), int(now.timestamp()), body)
        await _post(client, receiver.url, body, {SIGNATURE_HEADER: signed})

    def _give_up(self, events: Sequence[WaitingEvent], reason: str) -> None:
        """Put events into the file of dead letters, and forget them when they are safe there."""
        path = self._folder / DEAD_LETTERS
        try:
            append_dead_letters(path, events, reason)
        except OSError as error:
            log.warning("dead letters cannot be written, so the events go on waiting", reason=error.strerror)
            return
        self._desk.store.settle([each.number for each in events])
        self._dead += len(events)
        log.error("events were given up", events=len(events), file=path.name, reason=reason)

    # ------------------------------------------------------------------------------------------------------------ test
    async def _test(self) -> dict[str, Any]:
        now = utc_now()

        async def alertmanager(client: httpx2.AsyncClient, receiver: Receiver) -> None:
            alert = test_alert(now, now + timedelta(minutes=1), self._settings.alert_severity)
            await _post(client, receiver.url, _json([alert]))

        async def webhook(client: httpx2.AsyncClient, receiver: Receiver) -> None:
            await self._post_events(client, receiver, [json.dumps(event("test", new_id(), now, None))])

        async def trial(way: _Way, send: Callable[[httpx2.AsyncClient, Receiver], Awaitable[None]]) -> dict[str, Any]:
            result: dict[str, Any] = {"configured": way.receiver is not None, "delivered": False, "error": None}
            if way.receiver is not None:
                async with way.receiver.client() as client:
                    try:
                        await send(client, way.receiver)
                        result["delivered"] = True
                    except _FailedError as error:
                        result["error"] = str(error)
            return result

        tried = await asyncio.gather(trial(self._alertmanager, alertmanager), trial(self._webhook, webhook))
        return dict(zip(("alertmanager", "webhook"), tried, strict=True))


def append_dead_letters(path: Path, events: Sequence[WaitingEvent], reason: str) -> None:
    """Append one JSON line per event; on disk when this returns. A file that has grown too large becomes `….1`."""
    now = iso_z(utc_now())
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _DEAD_LETTER_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    lines = [
        json.dumps(
            {"given_up_at": now, "tries": each.tries + 1, "reason": reason, "event": json.loads(each.body)},
            ensure_ascii=False,
        )
        for each in events
    ]
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "a", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)
        stream.flush()
        os.fsync(stream.fileno())


async def _post(client: httpx2.AsyncClient, url: str, body: bytes, headers: dict[str, str] | None = None) -> None:
    """Post once; the whole of it is bounded in time.

    Raises
    ------
    _FailedError
        If no 2xx comes.
    """
    said = b""
    try:
        with anyio.fail_after(_REQUEST_SECONDS):
            async with client.stream("POST", url, content=body, headers=headers) as response:
                status = response.status_code
                if not 200 <= status < 300:
                    async for piece in response.aiter_raw():
                        said += piece
                        if len(said) >= _ANSWER_BYTES:
                            break
    except (TimeoutError, httpx2.TimeoutException) as error:
        raise _FailedError(f"no answer within {_REQUEST_SECONDS:g} s") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise _FailedError(f"{type(error).__name__}: {str(error)[:200]}") from error
    if 300 <= status < 400:
        raise _FailedError(f"it answers {status}: redirects are not followed")
    if not 200 <= status < 300:
        text = said[:_ANSWER_BYTES].decode("utf-8", "replace")
        shown = "".join(each if each.isprintable() else " " for each in text).strip()
        raise _FailedError(f"it answers {status}" + (f": {shown}" if shown else ""), refused=status < 500)


async def _wait(news: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(news.wait(), seconds)
    news.clear()


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
