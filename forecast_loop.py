"""When the fleet is forecast, with which model, and what is ready to be served: one thread, away from all requests.

New rows wake it; it lets them settle, forecasts the whole fleet in one batch and publishes a `PredictionSet`, which is
never changed again: an answer is of one model and one moment. It looks at the model folder now and then and takes over
a model that is new and good; a bad one is refused and the old one keeps serving. Without a model there is no
prediction, and the reason is kept. Knows nothing of HTTP; torch is imported when there is a model to load.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import structlog

from alert_desk import AlertDesk
from common_utils import iso_z, utc_now
from config import Settings
from daemon_answers import ReadyAnswer, to_json
from data_contract import MODEL_FILES, TIMESTAMP, ModelFolderError, ProductError
from fleet_grid import FleetGrid, RollingGrid
from fleet_summary import RankedFleet, summary_of
from forecast import Forecast
from tft_risk import AlertBook, Breaches, ServerRisk, assess, prediction_records

if TYPE_CHECKING:
    from forecast_explanation import Explanation
    from tft_forecaster import Forecaster, ModelInfo

log = structlog.stdlib.get_logger(__name__)

_MAX_SETTLE_FACTOR = 10  # rows that never cease to come put a forecast off for so many settling times at most


@dataclass(frozen=True)
class PredictionSet:
    """Forecasts of the whole fleet by one model at one moment, ready to be served.

    Attributes
    ----------
    sequence : int
        Counts up; another set has another number.
    model : ModelInfo
        The model that made it.
    forecast : Forecast or None
        None while there is no data.
    records : dict
        Server name → serialised record.
    unknown : tuple of str
        Servers that the model was not trained on.
    offline : tuple of dict
        Servers that are silent for too long: name, profile, state and when they were last seen. Not forecast.
    newest : datetime or None
        Time of the newest row that was known.
    prediction_time, generated_at : str or None
        ISO 8601: the last step used, and when the set was made.
    current, alerts : ReadyAnswer
        The answers of /predictions/current and /alerts/active.
    risks : tuple of ServerRisk
        One per forecast server.
    ranked : RankedFleet
        The same servers by risk.
    summary : dict
        The fleet in figures.
    open_alerts : tuple of dict
        What is in `alerts`, before it says who has seen them and which are silenced.
    alert_count : int
    """

    sequence: int
    model: ModelInfo
    forecast: Forecast | None
    records: dict[str, bytes]
    unknown: tuple[str, ...]
    offline: tuple[dict[str, Any], ...]
    newest: datetime | None
    prediction_time: str | None
    generated_at: str
    current: ReadyAnswer
    alerts: ReadyAnswer
    risks: tuple[ServerRisk, ...]
    ranked: RankedFleet
    summary: dict[str, Any]
    open_alerts: tuple[dict[str, Any], ...]
    alert_count: int


@dataclass(frozen=True)
class LoopStatistics:
    """What the loop has done since it began; replaced as a whole, so that readers see figures that belong together."""

    count: int = 0
    errors: int = 0
    servers: int = 0  # forecasts of single servers
    seconds: float = 0.0
    last_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The `forecasts` part of /status."""
        attempts = self.count + self.errors
        return {
            "count": self.count,
            "errors": self.errors,
            "last_duration_ms": round(self.last_seconds * 1e3, 1),
            "average_duration_ms": round(self.seconds / self.count * 1e3, 1) if self.count else 0.0,
            "predictions_per_second": round(self.servers / self.seconds, 1) if self.seconds else 0.0,
            "error_rate": round(self.errors / attempts, 4) if attempts else 0.0,
        }


class ForecastLoop:
    """Keeps the newest hours in memory and the newest forecasts ready.

    Parameters
    ----------
    settings : Settings
    model_dir : Path
        Model folder, or a link to one; it may appear and change later.
    on_published : callable
        Called in the loop's thread with every new set.
    on_tick : callable
        Called in the loop's thread now and then, for what needs doing from time to time.
    alerts : AlertDesk
        Is told which alerts are open after every forecast, and marks them.
    """

    def __init__(
        self,
        settings: Settings,
        model_dir: Path,
        on_published: Callable[[PredictionSet], None],
        on_tick: Callable[[], None],
        alerts: AlertDesk,
    ) -> None:
        self._settings = settings
        self._model_dir = model_dir
        self._on_published = on_published
        self._on_tick = on_tick
        self._grid = RollingGrid(settings.history_hours)
        self._grid_lock = threading.Lock()
        self._newest: datetime | None = None
        self._alerts = alerts
        self._alert_book = AlertBook(settings)
        self._forecaster: Forecaster | None = None
        self._judged: object = None  # state of the model folder that was loaded or refused last
        self._sequence = 0
        self._publishing = threading.Lock()
        self.published: PredictionSet | None = None
        self.model_error: ProductError | None = None
        self.statistics = LoopStatistics()
        self._wake = threading.Condition()
        self._servers = 0
        self._added = 0  # counts arrivals of rows
        self._forecast_added = 0  # those that the newest forecast, or attempt at one, has seen
        self._added_at = 0.0
        self._stopping = False
        self._reloads: list[Future[ProductError | None]] = []
        self._thread = threading.Thread(target=self._run, name="forecast-loop", daemon=True)

    # --------------------------------------------------------------------------------------- called from other threads

    def add(self, frame: pd.DataFrame) -> None:
        """Take in new rows, and forecast soon."""
        with self._grid_lock:
            self._grid.add(frame)
            newest = frame[TIMESTAMP].max().to_pydatetime()
            self._newest = newest if self._newest is None else max(self._newest, newest)
            self._servers = len(self._grid.server_names)
            self._added += 1
        with self._wake:
            self._added_at = time.monotonic()
            self._wake.notify()

    def forget(self, names: Sequence[str]) -> None:
        """Drop servers of which no row is kept any more."""
        with self._grid_lock:
            self._grid.forget(names)
            self._servers = len(self._grid.server_names)

    @property
    def servers(self) -> int:
        """Number of servers in memory."""
        return self._servers

    @property
    def newest_step(self) -> datetime | None:
        """Start of the newest step that holds a row."""
        return self._grid.newest

    @property
    def model(self) -> ModelInfo | None:
        """The model in use."""
        forecaster = self._forecaster
        return None if forecaster is None else forecaster.info

    def restore_alerts(self) -> None:
        """Go on with the alerts that the desk remembers; called before the first forecast."""
        self._alerts.restore(self._alert_book)

    def refresh_alerts(self) -> None:
        """Make the answer of /alerts/active anew, after alerts were acknowledged or silenced."""
        with self._publishing:
            if self.published is not None:
                self.published = self._marked(self.published)

    def reload(self) -> Future[ProductError | None]:
        """Judge the model folder now, even one that was refused before; the future tells why it is refused, if so."""
        asked: Future[ProductError | None] = Future()
        with self._wake:
            if self._stopping:
                asked.cancel()
                return asked
            self._reloads.append(asked)
            self._wake.notify()
        return asked

    def explain(self, name: str) -> tuple[ModelInfo, Explanation]:
        """Say what drives the forecast of one server that the newest rows give, with the model in use.

        Raises
        ------
        KeyError
            If there is no model, or no row of the server in memory.
        """
        from forecast_explanation import explain

        forecaster = self._forecaster
        with self._grid_lock:
            grid = self._grid.of_server(name)
        if forecaster is None:
            raise KeyError(name)
        return forecaster.info, explain(forecaster, grid, name)

    def start(self) -> None:
        """Begin to forecast."""
        self._thread.start()

    def stop(self) -> None:
        """End after the forecast that is being made, if any."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        for asked in self._reloads:
            asked.cancel()

    def check_model(self) -> ProductError | None:
        """Load the model if the folder is new or has changed since it was last judged; called before `start`, too.

        A folder that cannot be used is refused with the reason in `model_error`, and not tried again until it changes.

        Returns
        -------
        ProductError or None
            Why what lies there was refused just now. No model at all is no refusal: one may still be trained.
        """
        present = _fingerprint(self._model_dir)
        if present == self._judged:
            return None
        self._judged = present
        if not _holds_model(self._model_dir):
            self._refuse(_no_model())  # told at once, without importing torch
            return None
        refused: ProductError
        try:
            from tft_forecaster import Forecaster

            forecaster = Forecaster.load(self._model_dir)
            published = self._forecast(forecaster)  # before anybody depends on it
        except ProductError as error:
            refused = error
        except Exception as error:
            log.exception("the model cannot be used")
            refused = ModelFolderError(
                f"The model cannot be used ({type(error).__name__}).",
                why="Every forecast comes from the model, so there are none without it.",
                fix="See the daemon's log; check the folder with `python main.py validate --model-dir DIR`.",
            )
        else:
            self._forecaster = forecaster
            self.model_error = None
            log.info(
                "model loaded",
                model=forecaster.info.name,
                model_version=forecaster.info.model_version,
                risk="uncalibrated" if forecaster.calibration is None else "calibrated",
            )
            self._publish(published)
            return None
        self._refuse(refused)
        return refused

    # -------------------------------------------------------------------------------------------------- the loop itself

    def _run(self) -> None:
        while self._await_work():
            try:
                self._answer_reloads()
                self.check_model()
                if self._forecaster is None:
                    self._forecast_added = self._added  # nothing to do with them until there is a model
                elif self._forecast_added != self._added:
                    started = time.monotonic()
                    self._publish(self._forecast(self._forecaster))
                    self._pause(time.monotonic() - started)  # leave half of the time to everything else
                self._on_tick()
            except Exception:
                log.exception("the forecast loop goes on after an error")

    def _answer_reloads(self) -> None:
        with self._wake:
            asked, self._reloads = self._reloads, []
        if not asked:
            return
        self._judged = None
        self.check_model()
        for each in asked:
            if each.set_running_or_notify_cancel():
                each.set_result(self.model_error)

    def _await_work(self) -> bool:
        """Wait for new rows that have settled, or for the next look at the model; False when it is time to end."""
        settle = self._settings.daemon_settle_seconds
        with self._wake:
            self._wake.wait_for(
                lambda: self._stopping or bool(self._reloads) or self._forecast_added != self._added,
                self._settings.model_check_seconds,
            )
            latest = time.monotonic() + settle * _MAX_SETTLE_FACTOR
            while not self._stopping and not self._reloads and self._forecast_added != self._added:
                left = min(self._added_at + settle, latest) - time.monotonic()
                if left <= 0:
                    break
                self._wake.wait(left)
            return not self._stopping

    def _pause(self, seconds: float) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._stopping, seconds)

    def _refuse(self, error: ProductError) -> None:
        parts = error.as_dict()
        for path in (real_path(self._model_dir), self._model_dir):  # clients learn the folder's name, not its place
            parts = {part: text.replace(str(path), path.name or "the folder") for part, text in parts.items()}
        self.model_error = ModelFolderError(**parts)
        log.warning("model refused", reason=error.what, still_serving=self.model and self.model.name)

    def _forecast(self, forecaster: Forecaster) -> PredictionSet:
        """Forecast everybody who is not silent, in one batch."""
        started = time.perf_counter()
        with self._grid_lock:
            self._forecast_added = self._added
            newest = self._newest
            grid = self._grid.snapshot() if newest is not None else None
            seen = {name: self._grid.last_seen(name) for name in self._grid.server_names}
        if grid is None or newest is None:
            return self._ready(forecaster, None, None, (), None)
        try:
            live, offline = self._split(grid, seen)
            fleet = grid.select(live) if offline else grid
            published = self._ready(forecaster, forecaster.predict_grid(fleet), fleet, offline, newest)
        except Exception:
            self.statistics = replace(self.statistics, errors=self.statistics.errors + 1)
            raise
        seconds = time.perf_counter() - started
        self.statistics = replace(
            self.statistics,
            count=self.statistics.count + 1,
            servers=self.statistics.servers + len(published.records),
            seconds=self.statistics.seconds + seconds,
            last_seconds=seconds,
        )
        return published

    def _split(self, grid: FleetGrid, seen: dict[str, datetime | None]) -> tuple[list[int], tuple[dict[str, Any], ...]]:
        """Positions of the servers that are heard of, and who is not: silent for too long, compared with the rest."""
        newest = max(moment for moment in seen.values() if moment is not None)
        earliest = newest - timedelta(minutes=self._settings.offline_after_minutes)
        live: list[int] = []
        offline: list[dict[str, Any]] = []
        for position, (name, profile) in enumerate(zip(grid.names, grid.profiles, strict=True)):
            moment = seen[name]
            assert moment is not None
            if moment >= earliest:
                live.append(position)
            else:
                offline.append(
                    {
                        "server_name": name,
                        "profile": profile,
                        "state": "offline",
                        "stale": True,
                        "last_seen": iso_z(moment),
                    }
                )
        return live, tuple(offline)

    def _ready(
        self,
        forecaster: Forecaster,
        forecast: Forecast | None,
        grid: FleetGrid | None,
        offline: tuple[dict[str, Any], ...],
        newest: datetime | None,
    ) -> PredictionSet:
        """Serialise everything that will be asked for."""
        items: dict[str, bytes] = {}
        unknown: list[str] = []
        alerts: list[dict[str, Any]] = []
        risks: list[ServerRisk] = []
        if forecast is not None and grid is not None:
            breaches = Breaches.of(forecast, self._settings)
            risks = assess(forecast, self._settings, breaches)
            for record in prediction_records(forecast, risks, grid):
                items[record["server_name"]] = to_json(record)
                if not record["known"]:
                    unknown.append(record["server_name"])
            self._alert_book.update(forecast, breaches)
            alerts = self._alert_book.active()
            self._alerts.note(self._alert_book, forecast.origin)
        return PredictionSet(
            sequence=0,  # given when it is published
            model=forecaster.info,
            forecast=forecast,
            records=items,
            unknown=tuple(unknown),
            offline=offline,
            newest=newest,
            prediction_time=None if forecast is None else iso_z(forecast.origin),
            generated_at=iso_z(utc_now()),
            current=ReadyAnswer("predictions", list(items.values()), {"offline": list(offline)}),
            alerts=ReadyAnswer("alerts", ()),  # made when it is published
            risks=tuple(risks),
            ranked=RankedFleet(risks),
            summary=summary_of(forecast, risks, offline, len(unknown), self._settings),
            open_alerts=tuple(alerts),
            alert_count=len(alerts),
        )

    def _publish(self, published: PredictionSet) -> None:
        with self._publishing:
            self.published = published = self._marked(published)
        self._on_published(published)

    def _marked(self, published: PredictionSet) -> PredictionSet:
        """The set with a number of its own, and its alerts with what people said of them."""
        self._sequence += 1
        items = [to_json(alert) for alert in self._alerts.mark(published.open_alerts)]
        return replace(published, sequence=self._sequence, alerts=ReadyAnswer("alerts", items))


def _holds_model(model_dir: Path) -> bool:
    """Whether something lies there that is or should be a model: any of its files, a file, or a link to nothing."""
    if model_dir.is_dir():
        return any((model_dir / name).exists() for name in MODEL_FILES)
    return os.path.lexists(model_dir)


def _no_model() -> ModelFolderError:
    return ModelFolderError(
        "There is no model yet.",
        why="Every forecast comes from the model, so there are none without it.",
        fix="Train one with `python main.py train`, or name another folder with --model-dir; it is found by itself.",
    )


def real_path(path: Path) -> Path:
    """Where a path leads; unlike `Path.resolve`, also for a link to itself, which leads nowhere."""
    return Path(os.path.realpath(path))


def _fingerprint(model_dir: Path) -> object:
    """What changes when another model lies at `model_dir`: cheap to ask, without reading the files."""
    marks: list[object] = [str(real_path(model_dir))]
    for name in MODEL_FILES:
        try:
            stat = (model_dir / name).stat()
            marks.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        except OSError:
            marks.append(None)
    return tuple(marks)
