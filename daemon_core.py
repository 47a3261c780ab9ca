"""What stands behind the daemon's routes: store, writer and forecast loop, opened, joined and closed together.

Knows requests only as bytes that come in pieces; which route asks is `tft_inference.py`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import structlog
from fastapi import Request

from alert_delivery import AlertDelivery
from alert_desk import AlertDesk
from alert_outcomes import OutcomeJudge
from common_utils import iso_z, utc_now
from config import Settings
from daemon_answers import to_json
from daemon_arrow import ARROW_STREAM, StreamLimits, judge_stream
from daemon_problems import RequestError, busy
from daemon_rows import JudgedRows, RowLimits, judge_rows, rows_of_body
from daemon_schemas import PRODUCT_VERSION
from daemon_stream import PredictionStream
from daemon_writer import Fresh, RowWriter
from data_contract import METRIC_COLUMNS, SERVED_QUANTILES, STATE, STEP_MINUTES, TIMESTAMP, ProductError, shorten
from data_validator import load_valid_tail
from fleet_grid import step_of, time_of
from forecast_archive import ForecastArchive
from forecast_loop import ForecastLoop, PredictionSet
from history_store import HistoryStore
from prometheus_mapping import mapping_named
from prometheus_pull import pull_of
from remote_write import RemoteWrite, WrittenRows
from tft_risk import path_record

log = structlog.stdlib.get_logger(__name__)

MAX_HISTORY_HOURS = 90 * 24

_NAMES_IN_STATUS = 20
_BODIES_AT_ONCE = 4  # largest bodies held in memory at a time
_FILE_ROWS = 100_000  # rows of a data file stored per transaction
_PRUNE_EVERY = timedelta(hours=1)  # of the data's time


@dataclass(frozen=True)
class Taken:
    """What became of a body of samples.

    Attributes
    ----------
    counts : dict
        Rows accepted and duplicates; samples rejected and ignored.
    errors : list of dict
        What was wrong with the first of those rejected.
    """

    counts: dict[str, int]
    errors: list[dict[str, Any]]

    @property
    def rejected(self) -> int:
        """Number of samples that were refused."""
        return self.counts["rejected"]


class Daemon:
    """All parts of the daemon, joined.

    Parameters
    ----------
    settings : Settings
    model_dir : Path
        Model folder, or the link `models/latest`; it may appear and change later.
    data : Path, optional
        Contract Parquet whose newest hours are ingested when the daemon opens.
    """

    def __init__(self, settings: Settings, model_dir: Path, data: Path | None = None) -> None:
        self._settings = settings
        self.model_dir = model_dir
        self._data = data
        self._started_at = utc_now()
        self._started = time.monotonic()  # which goes on evenly when somebody sets the clock
        self._boot = secrets.token_hex(4)  # makes the ETags of this process differ from those of the one before
        self._is_open = False
        self._counts = {"accepted": 0, "duplicates": 0, "rejected": 0}
        self._counting = threading.Lock()  # rows come by the event loop, and by the thread that pulls
        self._body_bytes = 0
        self._pruned_until: datetime | None = None
        self._compacting: threading.Thread | None = None
        self.stream = PredictionStream(settings.max_websockets)
        self.alerts = AlertDesk(settings)
        self.delivery = AlertDelivery(settings, self.alerts, settings.history_dir, self._judge_alerts)
        self._remote_write = _remote_write_of(settings)
        self._pull = pull_of(settings, self._take_in, self._limits)
        self._archive = ForecastArchive(settings.history_dir, timedelta(days=settings.forecast_keep_days))
        self._loop = ForecastLoop(settings, model_dir, self._published, self._prune, self.alerts)
        self.alerts.watched_by(self._loop.refresh_alerts, self.delivery.poke)

    # ------------------------------------------------------------------------------------------------ opening, closing

    def open(self) -> None:
        """Open the store, take in history and `data`, load the model, begin to forecast. Does nothing when open.

        Raises
        ------
        ProductError
            If the store, `data` or the model folder cannot be used. No model at all is no obstacle: one may come.
        """
        if self._is_open:
            return
        settings = self._settings
        with contextlib.ExitStack() as undo:
            self._store = undo.enter_context(HistoryStore(settings.history_dir))
            if self._store.set_aside is not None:
                rescued = self._store.rescued_rows
                log.error("damaged history set aside", file=str(self._store.set_aside), rescued_rows=rescued)
            if self._store.newest is not None:
                for page in self._store.pages(self._store.newest - timedelta(hours=settings.history_hours)):
                    self._loop.add(page)
            self.alerts.open(settings.history_dir)
            undo.callback(self.alerts.close)
            self._loop.restore_alerts()
            self._outcomes = OutcomeJudge(self._store.server_steps)
            self._writer = RowWriter(self._store, self._loop.add)
            undo.callback(self._writer.stop)
            if self._data is not None:
                self._ingest_file(self._data)
            refused = self._loop.check_model()
            if refused is not None:
                raise refused
            self._judging = ThreadPoolExecutor(1, thread_name_prefix="judge-rows")
            undo.pop_all()
        self._loop.start()
        self.delivery.start()
        if self._pull is not None:
            self._pull.start()
        self._is_open = True

    def close(self) -> None:
        """Finish what is under way and release everything. May be called again."""
        if self._is_open:
            self._is_open = False
            if self._pull is not None:
                self._pull.stop()
            self._judging.shutdown()
            self._writer.stop()
            self._loop.stop()
            self._archive.close()
            self.delivery.stop()
            self.alerts.close()
            self._store.close()

    # ---------------------------------------------------------------------------------------------------------- ingest

    @contextlib.asynccontextmanager
    async def receive_body(self, request: Request) -> AsyncIterator[bytes]:
        """Body of a request whose format was checked, read within the bounds of size, time and memory.

        Raises
        ------
        RequestError
            413, 408 or 503.
        """
        settings = self._settings
        limit = int(settings.max_body_mb * 1_000_000)
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > limit:
            raise _too_large(limit)
        pieces: list[bytes] = []
        size = 0
        try:
            try:
                with anyio.fail_after(settings.body_timeout_seconds):
                    async for piece in request.stream():
                        size += len(piece)
                        self._body_bytes += len(piece)
                        if size > limit:
                            raise _too_large(limit)
                        if self._body_bytes > limit * _BODIES_AT_ONCE:
                            what = "Too many large bodies are being received at once."
                            raise busy(what, status=503, kind="busy", retry_after_seconds=1)
                        pieces.append(piece)
            except TimeoutError:
                raise RequestError(
                    408,
                    "too-slow",
                    f"The body did not arrive within {settings.body_timeout_seconds:g} s.",
                    why="A request that never ends would hold memory for ever. Nothing of it was stored.",
                    fix="Send fewer rows at a time, or raise TFT_BODY_TIMEOUT_SECONDS.",
                ) from None
            body = b"".join(pieces)
            pieces.clear()
            yield body
        finally:
            self._body_bytes -= size

    async def ingest(self, body: bytes, kind: str = "application/json") -> dict[str, Any]:
        """Take in the rows of a body; when this returns, the accepted ones are on disk and will be forecast.

        Parameters
        ----------
        body : bytes
        kind : str
            Media type of the body, as `require_rows` gave it.

        Raises
        ------
        RequestError
            If the body holds no rows.
        DataFileError
            If the disk is full or fails; none of the rows is stored then.
        """
        judged = await asyncio.get_running_loop().run_in_executor(self._judging, self._judge, body, kind)
        return {**await self._store_rows(judged), "errors": judged.rejections}

    async def _store_rows(self, judged: JudgedRows) -> dict[str, int]:
        new = np.zeros(0, dtype=np.bool_)
        if len(judged.frame):
            new = await asyncio.wrap_future(self._writer.submit(judged.frame))
        return self._count(new, judged)

    def _take_in(self, judged: JudgedRows) -> dict[str, int]:
        """The same for a thread that may wait."""
        frame = judged.frame
        return self._count(self._writer.submit(frame).result() if len(frame) else np.zeros(0, np.bool_), judged)

    def _count(self, new: Fresh, judged: JudgedRows) -> dict[str, int]:
        result = {
            "accepted": int(new.sum()),
            "duplicates": int(len(new) - new.sum()),
            "rejected": judged.rejected,
        }
        with self._counting:
            for name, count in result.items():
                self._counts[name] += count
        return result

    def require_remote_write(self) -> RemoteWrite:
        """What reads requests of a Prometheus.

        Raises
        ------
        RequestError
            404 if no mapping is set.
        """
        if self._remote_write is None:
            raise RequestError(
                404,
                "no-mapping",
                "No mapping says which series of a Prometheus are CPU, memory, disk I/O and latency.",
                why="To guess it could take one for the other.",
                fix="Start the daemon with TFT_REMOTE_WRITE_MAPPING=node_exporter, or with a mapping file of your own.",
                document="Docs/DAEMON.md",
            )
        return self._remote_write

    async def write(self, body: bytes) -> Taken:
        """Take in what a Prometheus has sent; when this returns, it is on disk and will be forecast.

        Raises
        ------
        RequestError
            If the body is no remote write request.
        DataFileError
            If the disk is full or fails; nothing of the body is stored then.
        """
        reader, settings = self.require_remote_write(), self._settings
        most = int(settings.max_body_mb * 1_000_000)

        def read() -> WrittenRows:
            return reader.read(body, most, self._limits(), settings.max_rows_per_request)

        written = await asyncio.get_running_loop().run_in_executor(self._judging, read)
        counts = await self._store_rows(written.rows)
        return Taken({**counts, "ignored": written.ignored}, written.rows.rejections)

    def _judge(self, body: bytes, kind: str) -> JudgedRows:
        most = self._settings.max_rows_per_request
        if kind == ARROW_STREAM:
            stream_limits = StreamLimits.of_body(int(self._settings.max_body_mb * 1_000_000), most)
            return judge_stream(body, stream_limits, self._limits())
        return judge_rows(rows_of_body(body, most), self._limits())

    def _limits(self) -> RowLimits:
        """What a row's time and server may be now. Age counts from the newest row: recorded data may be old."""
        newest = self._store.newest
        return RowLimits(
            latest=utc_now() + timedelta(minutes=self._settings.max_future_minutes),
            earliest=None if newest is None else newest - timedelta(days=self._settings.history_keep_days),
            new_servers=self._settings.max_servers - self._store.servers,
            profile=self._store.profile,
        )

    def _ingest_file(self, path: Path) -> None:
        """Take in the newest hours of a contract file by the way that posted rows go."""
        limits = self._limits()
        frame = load_valid_tail(path, self._settings.history_hours, limits.latest)
        times = frame[TIMESTAMP]
        kept = times <= limits.latest
        if limits.earliest is not None:
            kept &= times >= limits.earliest
        result = {"accepted": 0, "duplicates": 0, "rejected": int((~kept).sum())}
        frame = frame[kept].sort_values(TIMESTAMP)
        for start in range(0, len(frame), _FILE_ROWS):
            new = self._writer.submit(frame.iloc[start : start + _FILE_ROWS]).result()
            result["accepted"] += int(new.sum())
            result["duplicates"] += int(len(new) - new.sum())
        for name, count in result.items():
            self._counts[name] += count
        if result["rejected"]:
            log.warning("rows of the file lie in the future, or before what is kept", rows=result["rejected"])
        log.info("file taken in", file=path.name, **result)

    def _prune(self) -> None:
        """Delete what is older than what is kept; called by the forecast loop now and then."""
        newest = self._store.newest
        if newest is None:
            return
        until = newest - timedelta(days=self._settings.history_keep_days)
        if self._pruned_until is not None and until - self._pruned_until < _PRUNE_EVERY:
            return
        self._pruned_until = until
        try:
            self._loop.forget(self._store.prune(until))
        except ProductError as error:
            log.warning("old history could not be deleted", reason=error.what)
        if self._settings.history_compact_days and not (self._compacting and self._compacting.is_alive()):
            # What forecasts are made of stays in SQLite, so that a start reads no file of a day
            days = max(self._settings.history_compact_days, self._settings.history_hours / 24 + 1)
            self._compacting = threading.Thread(
                target=self._compact, args=(newest - timedelta(days=days),), name="history-upkeep", daemon=True
            )
            self._compacting.start()

    def _compact(self, before: datetime) -> None:
        """Move old days to their files, in a thread of its own."""
        try:
            moved = self._store.compact(before)
        except ProductError as error:
            log.warning("old days could not be moved to files", reason=error.what)
        else:
            if moved:
                log.info("old days moved to files", rows=moved, days=len(self._store.days.days))

    def _published(self, published: PredictionSet) -> None:
        """Tell those who wait for new forecasts, and remember them; called by the forecast loop."""
        self.stream.publish()
        if published.forecast is None or not self._settings.forecast_keep_days:
            return
        try:
            self._archive.note(published.forecast)
        except ProductError as error:  # a comparison less; forecasting goes on
            log.warning("past forecasts could not be kept", reason=error.what)

    def _judge_alerts(self) -> bool:
        return self._outcomes.judge(self.alerts.store, self._store.newest)

    # --------------------------------------------------------------------------------------------------------- answers

    @property
    def newest(self) -> datetime | None:
        """Time of the newest row."""
        return self._store.newest

    @property
    def model_loaded(self) -> bool:
        """Whether there is a model to forecast with."""
        return self._loop.model is not None

    @property
    def open_alerts(self) -> int | None:
        """Number of open alerts, None while there are no forecasts."""
        published = self._loop.published
        return None if published is None else published.alert_count

    def require_ready(self) -> None:
        """Raise the 503 that says why forecasts cannot be asked for, if they cannot."""
        if not self._is_open:
            raise RequestError(
                503,
                "shutting-down",
                "The daemon is shutting down.",
                why="It finishes what is under way and takes nothing new.",
                fix="Ask again when it has been started again.",
                headers={"Retry-After": "5"},
            )
        self.require_published()

    def require_published(self) -> PredictionSet:
        """The newest forecasts.

        Raises
        ------
        RequestError
            503 with the reason if there is no model: no prediction is ever substituted.
        """
        published = self._loop.published
        if published is None:
            error = self._loop.model_error
            reason = error.what if error else "It is still being loaded."
            raise RequestError(
                503,
                "no-model",
                f"There is no model to forecast with. {reason}",
                why="Every forecast comes from the model; nothing else is served in its place.",
                fix=error.fix if error else "Wait a few seconds.",
                document=error.document if error else None,
                headers={"Retry-After": "5"},
            )
        return published

    def etag(self, published: PredictionSet, *, stale: bool) -> str:
        """Weak validator: an answer with the same tag differs in the data's age at most."""
        return f'W/"{self.set_id(published)}-{int(stale)}"'

    def set_id(self, published: PredictionSet) -> str:
        """Tells one set of forecasts from another, also from those of the process before."""
        return f"{self._boot}-{published.sequence}"

    def provenance(self, published: PredictionSet, newest: datetime | None = None) -> dict[str, Any]:
        """Which model, from when, how old: what every answer with forecasts tells.

        Parameters
        ----------
        newest : datetime, optional
            Time of the newest row that counts; that of the fleet if left out.
        """
        return {
            "model": {"name": published.model.name, "model_version": published.model.model_version},
            "prediction_time": published.prediction_time,
            "generated_at": published.generated_at,
            **self._age(newest or published.newest),
        }

    def server_prediction(self, published: PredictionSet, name: str) -> tuple[bytes, dict[str, Any]]:
        """Answer with one server's forecast and its path, and what of it is provenance.

        Raises
        ------
        RequestError
            404 if the server has no forecast, with the reason.
        """
        record = published.records.get(name)
        if record is None or published.forecast is None or published.newest is None:
            raise self._no_forecast(published, name)
        seen = self._store.last_seen(name)
        provenance = self.provenance(published, None if seen is None else min(seen, published.newest))
        more = {"path": path_record(published.forecast, name), **provenance}
        del more["prediction_time"]  # the record has it
        return record[:-1] + b"," + to_json(more)[1:], provenance

    def history(self, name: str, hours: int, until: datetime | None = None) -> dict[str, Any]:
        """Answer with one server's measurements of some hours up to a moment, at most the fleet's newest step.

        Raises
        ------
        RequestError
            404 if no row of the server is kept.
        """
        profile, newest = self._store.profile(name), self._store.newest
        if profile is None or newest is None:
            raise _no_server(name)
        last = step_of(newest if until is None else min(until, newest))
        steps = self._store.server_steps(name, last - hours * 60 // STEP_MINUTES + 1, last)
        return {
            "server_name": name,
            "profile": profile,
            "step_minutes": STEP_MINUTES,
            "timestamps": [iso_z(time_of(step)) for step in steps.index],
            "metrics": {column: steps[column].round(4).tolist() for column in METRIC_COLUMNS},  # NaN becomes null
            "states": steps[STATE].tolist(),
        }

    def explain(self, published: PredictionSet, name: str) -> dict[str, Any]:
        """Answer of /explain: what drives a server's forecast; made from the newest rows with the model in use.

        Raises
        ------
        RequestError
            503 if the model has changed since the forecasts were made: theirs cannot be explained any more.
        """
        try:
            model, explanation = self._loop.explain(name)
        except KeyError:
            raise self._no_forecast(published, name) from None
        if model != published.model:
            what = "Another model has just been taken over."
            raise busy(what, status=503, kind="busy", retry_after_seconds=1)
        return {
            **explanation.as_dict(),
            "model": {"name": model.name, "model_version": model.model_version},
        }

    def reload_model(self) -> Future[ProductError | None]:
        """Have the model folder judged now; the future tells why what lies there is refused, if it is."""
        return self._loop.reload()

    def past_forecasts(self, name: str, horizon: str, hours: int, until: datetime | None = None) -> dict[str, Any]:
        """Answer with what had been forecast for the steps that `history` gives, a horizon ahead of each.

        Raises
        ------
        RequestError
            404 if no row of the server is kept.
        """
        profile, newest = self._store.profile(name), self._store.newest
        if profile is None or newest is None:
            raise _no_server(name)
        last = step_of(newest if until is None else min(until, newest))
        found = self._archive.of_server(name, horizon, last - hours * 60 // STEP_MINUTES + 1, last)
        return {
            "server_name": name,
            "profile": profile,
            "horizon": horizon,
            "step_minutes": STEP_MINUTES,
            "timestamps": [iso_z(time_of(step)) for step in found.index],
            "metrics": {
                metric: {quantile: found[metric, quantile].round(3).tolist() for quantile in SERVED_QUANTILES}
                for metric in METRIC_COLUMNS
            },
        }

    def series(self, published: PredictionSet, metrics: Mapping[str, str | None], hours: int) -> dict[str, Any]:
        """Answer with one metric of several servers: what was measured up to the newest step, and the forecast path.

        Parameters
        ----------
        metrics : mapping
            Column by server; None for that which its risk comes from.

        Returns
        -------
        dict
            By server name; one that is not forecast is left out, and a metric that it does not report is null.
        """
        forecast, newest = published.forecast, self._store.newest
        if forecast is None or newest is None:
            return {"step_minutes": STEP_MINUTES, "servers": {}}
        found: dict[str, Any] = {}
        last = step_of(newest)
        for name, metric in metrics.items():
            if name not in published.records:
                continue
            column = metric or published.risks[forecast.index(name)].risk_metric or METRIC_COLUMNS[0]
            steps = self._store.server_steps(name, last - hours * 60 // STEP_MINUTES + 1, last)
            path = path_record(forecast, name)
            found[name] = {
                "metric": column,
                "first_measured": iso_z(time_of(int(steps.index[0]))),
                "measured": steps[column].round(4).tolist(),
                "first_forecast": path["timestamps"][0],
                "forecast": path["metrics"][column],
            }
        return {"step_minutes": STEP_MINUTES, "servers": found}

    def stream_message(self) -> bytes | None:
        """The newest set as a WebSocket message, None while there is no model."""
        published = self._loop.published
        if published is None:
            return None
        head = {"type": "predictions", **self.provenance(published), "count": len(published.records)}
        return published.current.plain(head)

    def status(self) -> dict[str, Any]:
        """Answer of /status."""
        settings, loop, store = self._settings, self._loop, self._store
        published, model = loop.published, loop.model
        names = _counted(published.unknown if published else ())
        offline = _counted(tuple(server["server_name"] for server in published.offline) if published else ())
        newest = published.newest if published and published.newest else store.newest
        return {
            "status": "ok",
            "version": PRODUCT_VERSION,
            "model_loaded": model is not None,
            "model": model
            and {
                "name": model.name,
                "model_version": model.model_version,
                "contract_version": model.contract_version,
                "trained_at": model.trained_at or None,
                "known_servers": model.known_servers,
                "profiles": list(model.profiles),
            },
            "model_error": loop.model_error and loop.model_error.as_dict(),
            "started_at": iso_z(self._started_at),
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "servers": loop.servers,
            "unknown_servers": names,
            "offline_servers": offline,
            "history": {
                "rows": store.rows,
                "oldest": store.oldest and iso_z(store.oldest),
                "newest": store.newest and iso_z(store.newest),
                "set_aside": store.set_aside and store.set_aside.name,
                "rescued_rows": store.rescued_rows,
                "days": len(store.days.days),
                "damaged_days": list(store.days.damaged),
            },
            "prediction_time": published.prediction_time if published else None,
            "generated_at": published.generated_at if published else None,
            **self._age(newest),
            "forecasts": loop.statistics.as_dict(),
            "ingest": dict(self._counts),
            "pull": None if self._pull is None else self._pull.status(),
            "settings": {
                "risk_yellow": settings.risk_yellow,
                "risk_red": settings.risk_red,
                "critical_thresholds": settings.critical_thresholds,
                "profile_thresholds": settings.profile_thresholds,
                "stale_after_minutes": settings.stale_after_minutes,
                "offline_after_minutes": settings.offline_after_minutes,
            },
        }

    def _age(self, newest: datetime | None) -> dict[str, Any]:
        """Whole seconds since the newest row, and whether that is too long. No data at all is not fresh, either.

        Nor is data from further ahead than any row is taken from: the clock has been set back since, and how old the
        data is cannot be told from it. Rows at the right time are refused then, so it grows older unseen.
        """
        now = utc_now()
        if newest is None or newest > now + timedelta(minutes=self._settings.max_future_minutes):
            return {"data_age_seconds": None, "stale": True}
        seconds = max(0, int((now - newest).total_seconds()))
        return {"data_age_seconds": seconds, "stale": seconds > self._settings.stale_after_minutes * 60}

    def _no_forecast(self, published: PredictionSet, name: str) -> RequestError:
        for server in published.offline:
            if server["server_name"] == name:
                return RequestError(
                    404,
                    "server-offline",
                    f"{shorten(name)} has been silent since {server['last_seen']}, so it is not forecast.",
                    why="A forecast from old data would pretend to know how the server is now.",
                    fix="Find out why nothing is heard of it; with new rows it is forecast again.",
                    extra={"last_seen": server["last_seen"], "state": "offline"},
                )
        if self._store.profile(name) is None:
            return _no_server(name)
        return RequestError(
            404,
            "no-forecast-yet",
            f"There is no forecast of {shorten(name)} yet.",
            why="Its rows have only just come; the fleet is forecast when they have settled.",
            fix="Ask again in a few seconds.",
            headers={"Retry-After": "2"},
        )


def _remote_write_of(settings: Settings) -> RemoteWrite | None:
    """What reads remote write by the mapping of the settings; None if none is set."""
    named = settings.remote_write_mapping
    return RemoteWrite(mapping_named(named)) if named else None


def require_rows(request: Request) -> str:
    """Media type of a body of rows; other ones are refused.

    This also keeps foreign pages in a browser from posting, as they may send neither without being asked first.

    Raises
    ------
    RequestError
        415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if kind in {"application/json", ARROW_STREAM} and coding in {"", "identity"}:
        return kind
    raise RequestError(
        415,
        "not-json",
        f"The body is {shorten(kind or 'of no stated type')}, content encoding {shorten(coding)}.",
        why="Rows are taken as plain JSON or as an Arrow stream, which compresses its own buffers.",
        fix="Send the header Content-Type: application/json (`curl --json @rows.json`) or "
        f"{ARROW_STREAM}, and no Content-Encoding.",
    )


def _too_large(limit: int) -> RequestError:
    return RequestError(
        413,
        "too-large",
        f"The body is larger than {limit:,} bytes.",
        why="A body is held in memory while it is read. Nothing of it was stored.",
        fix="Send fewer rows at a time, or raise TFT_MAX_BODY_MB.",
        headers={"Connection": "close"},
    )


def _no_server(name: str) -> RequestError:
    return RequestError(
        404,
        "no-such-server",
        f"No row of a server {shorten(name)} is kept.",
        why="Only servers whose measurements were ingested are known.",
        fix="Check the spelling: /predictions/current lists the servers. A new one appears after its first row.",
    )


def _counted(names: tuple[str, ...]) -> dict[str, Any]:
    return {"count": len(names), "names": list(names[:_NAMES_IN_STATUS])}
