"""When servers work: the daily and weekly rhythm of every role, on every server in its own version.

All times are UTC; office hours are those of a site on UTC. Arrays are (servers, steps) with 288 steps of 5 minutes.
Knows nothing of metrics: rhythms are dimensionless, with mean 0 and variance 1 over a week.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from data_contract import STEP_MINUTES
from fleet_roles import Role

STEPS_PER_DAY: Final = 24 * 60 // STEP_MINUTES
STEPS_PER_HOUR: Final = 60 // STEP_MINUTES

Floats = npt.NDArray[np.floating[Any]]

_LEAST_MORNING: Final = 0.25  # below this the morning is no peak of its own
_A_MONDAY: Final = date(2024, 1, 1)


@dataclass(frozen=True)
class RhythmOfDay:
    """What the time of one day brings.

    Attributes
    ----------
    load : array, shape (servers, steps)
        Rhythm of CPU and memory, mean 0 and variance 1 over a week.
    batch : array, shape (servers, steps)
        The same of disk I/O: batches, backups and, weaker, the load.
    morning : array, shape (servers, steps)
        How much of the load is the peak of the morning, 0 to 1.
    """

    load: Floats
    batch: Floats
    morning: Floats


class Rhythms:
    """The rhythms of a fleet's servers.

    Parameters
    ----------
    roles : list of Role
        Of each server.
    busy : array of bool, shape (servers,)
        Which of them visibly do their role's work; the others do little more than one short job of their own a day.
    rng : Generator
        Draws each server's own version.
    """

    def __init__(self, roles: list[Role], busy: npt.NDArray[np.bool_], rng: np.random.Generator) -> None:
        self._n = len(roles)
        self._busy = busy[:, None]

        def drawn(name: str) -> Floats:
            low, high = np.array([getattr(role, name) for role in roles]).T
            return np.asarray(rng.uniform(low, high), np.float32)[:, None]

        def uniform(low: float, high: float) -> Floats:
            return np.asarray(rng.uniform(low, high, self._n), np.float32)[:, None]

        self._business, self._morning, self._evening = drawn("business"), drawn("morning"), drawn("evening")
        self._night, self._market = drawn("night_batch"), drawn("market_close")
        self._daily, self._follows = drawn("daily_job"), drawn("follows_batches")
        self._weekend = np.array([role.weekend for role in roles], np.float32)[:, None]
        self._phase = uniform(-0.4, 0.4)  # hours
        self._night_begin, self._night_hours = uniform(0.3, 3.2), uniform(0.7, 4.0)
        self._market_begin, self._market_hours = uniform(16.0, 16.8), uniform(1.2, 2.4)
        self._daily_begin, self._daily_hours = uniform(0, 24), uniform(0.1, 0.8)
        self._backup_begin, self._backup_hours = uniform(0, 5), uniform(0.15, 1.0)
        by_night = rng.random((self._n, 1)) < 0.6
        self._own_begin = np.where(by_night, uniform(0, 6), uniform(0, 24)).astype(np.float32)
        self._own_hours = np.exp(uniform(np.log(0.08), np.log(1.5)))
        # What an ordinary week is like, to bring every rhythm to the same scale
        sums = np.zeros((4, self._n, 1), np.float64)
        for weekday in range(7):
            load, batch, _ = self._parts(_A_MONDAY + timedelta(days=weekday), None)
            for place, part in enumerate((load, batch)):
                sums[2 * place] += part.mean(axis=1, keepdims=True) / 7
                sums[2 * place + 1] += (part**2).mean(axis=1, keepdims=True) / 7
        self._mean = sums[[0, 2]].astype(np.float32)
        self._scale = np.sqrt(np.maximum(sums[[1, 3]] - sums[[0, 2]] ** 2, 1e-6)).astype(np.float32)

    def day(self, day: date, rng: np.random.Generator) -> RhythmOfDay:
        """Rhythm of one day: no two are alike, batches start late and mornings differ."""
        load, batch, morning = self._parts(day, rng)
        peak = np.maximum(self._business + self._morning, 1e-3)
        spike = np.where(self._morning > _LEAST_MORNING, morning / peak, 0)
        return RhythmOfDay((load - self._mean[0]) / self._scale[0], (batch - self._mean[1]) / self._scale[1], spike)

    def _parts(self, day: date, rng: np.random.Generator | None) -> tuple[Floats, Floats, Floats]:
        """Load, batch and morning peak, in the units of `Role`; without a generator those of an ordinary day."""

        def varied(spread: float, centre: float = 0.0) -> Floats:
            drawn = rng.normal(centre, spread, (self._n, 1)) if rng is not None else np.full((self._n, 1), centre)
            return drawn.astype(np.float32)

        busy_day = 1.0 if rng is None else float(np.exp(rng.normal(0, 0.08)))  # the whole fleet's
        own = np.exp(varied(0.1))
        late = varied(0.2)  # hours by which a batch starts late
        long = np.exp(varied(0.15, 0.15 if day.day == 1 or day.day >= 28 else 0.0))
        crowd = np.exp(varied(0.15, 0.08 if day.weekday() == 0 else 0.0))
        heavy = np.exp(varied(0.12))  # how much there is to do in a batch

        hour = (np.arange(STEPS_PER_DAY, dtype=np.float32) * np.float32(STEP_MINUTES / 60))[None, :]
        local = hour + self._phase
        weekend = day.weekday() >= 5
        workday = np.float32(0.0 if weekend else 1.0)
        share = (self._weekend if weekend else np.float32(1.0)) * np.float32(busy_day) * own
        office = _rise(local - 7.6, 0.45) * _rise(18.2 - local, 0.6) - 0.15 * _hump(local - 12.7, 0.6)
        morning = workday * crowd * share * self._morning * _hump(local - 9.1, 0.55)
        night = (
            heavy
            * (np.sqrt(self._weekend) if weekend else np.float32(1.0))
            * _window(hour, self._night_begin + late, self._night_hours * long)
        )
        market = workday * heavy * _window(hour, self._market_begin + late, self._market_hours * long)
        hourly = 0.18 * office * (hour % 1 < 0.25)  # small risk runs at every full hour
        running = np.maximum(night * (self._night > 0.3), market * (self._market > 0.3))
        batches = running[(self._night + self._market)[:, 0] > 0.3]
        busyness = batches.mean(axis=0, keepdims=True) if len(batches) else np.zeros_like(hour)
        load = (
            share * (self._business * office + self._evening * _hump(local - 20.4, 1.5))
            + morning
            + self._night * night
            + self._market * np.maximum(market, hourly)
            + self._daily * _window(hour, self._daily_begin, self._daily_hours)
            + self._follows * busyness
        )
        backup = _window(hour, self._backup_begin + 0.3 * late, self._backup_hours)
        batch = np.maximum(running, 0.7 * backup) + 0.35 * load
        own_job = _window(hour, self._own_begin, self._own_hours)
        quiet = own_job + np.float32(0.1) * load
        return np.where(self._busy, load, quiet), np.where(self._busy, batch, quiet), morning


def _rise(x: Floats, width: float) -> Floats:
    """Smooth step from 0 to 1 around x = 0."""
    risen: Floats = 0.5 * (1 + np.tanh(x / np.float32(2 * width)))
    return risen


def _hump(x: Floats, width: float) -> Floats:
    """Bell with its peak of 1 at x = 0."""
    bell: Floats = np.exp(np.float32(-0.5) * (x / np.float32(width)) ** 2)
    return bell


def _window(hour: Floats, begin: Floats, length: Floats) -> Floats:
    """1 from `begin` on for `length` hours, with soft edges of a few minutes; windows may cross midnight."""
    since = (hour - begin + 1) % 24 - 1
    return _rise(since, 0.06) * _rise(length - since, 0.09)


def _self_check() -> None:
    from fleet_roles import ROLES

    rhythms = Rhythms(list(ROLES.values()), np.ones(len(ROLES), np.bool_), np.random.default_rng(1))
    week = [rhythms.day(_A_MONDAY + timedelta(days=day), np.random.default_rng(day)) for day in range(7)]
    load = np.concatenate([day.load for day in week], axis=1)
    assert load.shape == (len(ROLES), 7 * STEPS_PER_DAY) and np.isfinite(load).all()
    assert np.abs(load.mean(axis=1)).max() < 0.2 and 0.7 < load.std() < 1.3
    web = list(ROLES).index("web_api")
    assert week[0].load[web, 9 * STEPS_PER_HOUR] > week[0].load[web, 3 * STEPS_PER_HOUR] + 1
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
