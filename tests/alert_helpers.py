"""Forecasts that open and close alerts as a test wants, taken in by a real book and a real desk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from alert_desk import AlertDesk
from common_utils import floor_to_step, utc_now
from config import Settings, load_settings
from data_contract import HORIZON_STEPS, METRIC_COLUMNS, profile_for_name
from forecast import Forecast
from tft_features import QUANTILES
from tft_risk import AlertBook

ORIGIN = floor_to_step(utc_now(), 5) - timedelta(minutes=5)
LIKELY, DOUBTFUL, CALM = 115.0, 95.0, 50.0  # median CPU: probabilities of 0.75, 0.55 and about 0.1


def alert_settings(**changes: Any) -> Settings:
    return load_settings(
        critical_thresholds={"cpu_pct": 90.0, "mem_pct": 95.0, "disk_io_mb_s": 500.0, "latency_ms": 500.0},
        profile_thresholds={},
        alert_resend_seconds=1.0,
        **changes,
    )


def forecast_of(origin: datetime = ORIGIN, **medians: float) -> Forecast:
    """Forecast of servers: CPU uniform around a median, everything else calm at 10."""
    shape = (len(medians), HORIZON_STEPS, len(METRIC_COLUMNS), len(QUANTILES))
    values = np.full(shape, 10.0, dtype=np.float32)
    for row, median in enumerate(medians.values()):
        values[row, :, 0] = median + 100 * (np.array(QUANTILES) - 0.5)
    names = tuple(medians)
    profiles = tuple(profile_for_name(name) for name in names)
    return Forecast(names, profiles, np.ones(len(names), dtype=bool), origin, values, QUANTILES)


class Shift:
    """A desk and the book that feeds it, as the daemon has them; `restart` makes both anew from the disk."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self._begin()

    def _begin(self) -> None:
        self.desk = AlertDesk(self.settings)
        self.desk.open(self.folder)
        self.book = AlertBook(self.settings)
        self.desk.restore(self.book)

    def restart(self) -> None:
        self.desk.close()
        self._begin()

    def take(self, minutes: float = 0, /, **medians: float) -> list[dict[str, Any]]:
        """Take in a forecast; the open alerts as they are served."""
        origin = ORIGIN + timedelta(minutes=minutes)
        self.book.update(forecast_of(origin, **medians))
        self.desk.note(self.book, origin)
        return self.desk.mark(self.book.active())

    def waiting(self) -> list[str]:
        """Types of the events that wait."""
        return [json.loads(each.body)["type"] for each in self.desk.store.waiting(1000)]


def wait_for(answer: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true answer; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = answer()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("nothing happened in time")
