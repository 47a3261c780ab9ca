"""What a fleet of servers could do, day by day: normal load, what befalls it, latency, thresholds broken, states.

One `SimulatedDay` follows from the seed, the date and what the days before left behind, never from how many days are
asked for. So a longer run has the shorter one as its beginning, and a live stream goes on where a file ends. Knows
nothing of files, pandas or HTTP.

All times are UTC. Arrays are (servers, steps) with 288 steps of 5 minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from config import default_threshold
from data_contract import METRIC_COLUMNS, STEP_MINUTES
from fleet_archetypes import KNOTS
from fleet_incidents import ENDLESS, Event, EventBook, Incident, Overlay
from fleet_load import Load, draw_machines
from fleet_rhythm import STEPS_PER_DAY
from fleet_roles import ROLES, Range, fleet_names
from fleet_states import StateBook

# Raised whenever the same seed gives other numbers: a file of another version cannot be continued.
SIMULATION_VERSION: Final = 2

Floats = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]

_CPU, _MEM, _DISK, _LATENCY = range(4)

# Apart from incidents no metric comes nearer to its threshold than this share of it.
_CALM: Final = 0.94
# How unsteadily each metric gives way to pressure: what leaks does not come back.
_UNSTEADY: Final = (0.2, 0.04, 0.12, 0.12)
_LATENCY_QUANTUM: Final = np.float32(0.01)


@dataclass(frozen=True)
class Pressure:
    """A scenario: from `onset` on, more and more servers are driven beyond their thresholds and stay there.

    Attributes
    ----------
    onset : datetime
        When the first server begins to suffer, UTC.
    share : float
        Share of the fleet that suffers in the end.
    spread_hours : float
        Time until the last of them has begun.
    ramp_hours : (float, float)
        Time that a server takes from normal to above 95 % CPU.
    """

    onset: datetime
    share: float
    spread_hours: float
    ramp_hours: Range


@dataclass(frozen=True)
class SimulatedDay:
    """One UTC day of the fleet.

    Attributes
    ----------
    begin : datetime
        Midnight, UTC.
    before : array of float32
        Shape (servers, 4), the values of the step before midnight.
    values : array of float32
        Shape (steps, servers, 4), the metrics in the contract's order.
    states : array of int8
        Shape (steps, servers), places in `VALID_STATES`.
    incidents : tuple of Incident
        Those that break a threshold on this day, in the order of their breaches, and on the first day also those that
        go on from the day before; see `FleetSimulator.moment` for their steps.
    """

    begin: datetime
    before: npt.NDArray[np.float32]
    values: npt.NDArray[np.float32]
    states: npt.NDArray[np.int8]
    incidents: tuple[Incident, ...]


class FleetSimulator:
    """A fleet that lives from the day of `start` on; `days()` lets the days pass.

    Parameters
    ----------
    servers : int
        Size of the fleet.
    start : datetime
        First moment that is wanted; the simulation begins a day earlier, so that something is already going on.
    seed : int
        Same seed, start and size, same numbers.
    pressures : sequence of Pressure
        Scenarios laid over the fleet; other servers are as they would be without.
    """

    def __init__(self, servers: int, start: datetime, seed: int, pressures: tuple[Pressure, ...] = ()) -> None:
        self.names = fleet_names(servers)
        self._seed = seed
        self._n = servers
        self._first_day = start.astimezone(timezone.utc).date() - timedelta(days=1)
        profiles = list(self.names.values())
        rng = np.random.default_rng([seed, 0])
        machines, self._busy = draw_machines(profiles, rng)
        self._load = Load(profiles, machines, self._busy, rng)
        self._events = EventBook(profiles, self._busy, rng)
        self._states = StateBook(servers)
        self._draw_limits(profiles, machines.quantiles, rng)
        self._critical_from: dict[tuple[int, int], int] = {}  # (server, begin) of a running incident → its breach
        self._before = np.zeros((servers, 4), np.float32)
        fate, haste = rng.permutation(servers) / servers, rng.random(servers)
        for pressure in pressures:
            self._lay(pressure, profiles, fate, haste)

    def days(self) -> Iterator[SimulatedDay]:
        """Let the days pass, one after the other, without end; the first is the day of `start`."""
        before = self._live_through(self._first_day).incidents
        day = self._first_day
        while True:
            day += timedelta(days=1)
            lived = self._live_through(day)
            going_on = tuple(incident for incident in before if incident.end > STEPS_PER_DAY)
            yield replace(lived, incidents=(*going_on, *lived.incidents))
            before = ()

    def moment(self, step: int) -> datetime:
        """Time at which a step of an incident begins, UTC."""
        midnight = datetime(self._first_day.year, self._first_day.month, self._first_day.day, tzinfo=timezone.utc)
        return midnight + timedelta(minutes=STEP_MINUTES * step)

    # ------------------------------------------------------------------------------------------------ what servers are

    def _draw_limits(self, profiles: list[str], quantiles: Floats, rng: np.random.Generator) -> None:
        """Thresholds, and where incidents drive each server."""

        def uniform(low: float, high: float) -> Floats:
            return np.asarray(rng.uniform(low, high, self._n), np.float32)[:, None]

        limits = [[default_threshold(metric, profile) for profile in profiles] for metric in METRIC_COLUMNS]
        self._limit = np.array(limits, np.float32)[:, :, None]  # (metrics, servers, 1)
        low, high = np.array([ROLES[profile].latency for profile in profiles]).T
        self._latency = np.asarray(rng.uniform(low, high), np.float32)[:, None]
        self._wait_spread = uniform(0.05, 0.16)
        self._target = np.stack(
            [
                np.where(self._limit[_CPU] < 95, uniform(97.5, 99.6), uniform(99.4, 99.9)),
                np.minimum(self._limit[_MEM] + uniform(3, 4.5), uniform(98.8, 99.8)),
                self._limit[_DISK] * uniform(1.1, 1.6),
                self._limit[_LATENCY] * uniform(1.4, 4.0),
            ]
        )
        often, rarely = quantiles[..., KNOTS.index(1.645), None], quantiles[..., KNOTS.index(2.326), None]
        disk = quantiles[:, _DISK]
        self._usual = often + np.array([5, 1, 1], np.float32)[:, None]  # (servers, metrics, 1)
        # A near miss is one for the server that it happens to: well above what it rarely reaches.
        near = [1.6 * rarely[:, _CPU] + 5, 1.4 * rarely[:, _MEM] + 4, 2 * rarely[:, _DISK] + 0.5, 4 * self._latency]
        self._near = np.minimum(np.stack(near), _CALM * self._limit)
        self._patch_cpu = uniform(5, 22)
        self._patching = 1.5 * disk[:, -2][:, None] + uniform(0.05, 0.5)  # MB/s
        self._capacity = np.maximum(disk[:, -1] * 4, 60)[:, None]  # MB/s

    def _lay(self, pressure: Pressure, profiles: list[str], fate: Floats, haste: Floats) -> None:
        """Schedule a scenario: one endless event per server that it reaches."""
        onset = int((pressure.onset - self.moment(0)).total_seconds() // (60 * STEP_MINUTES))
        low, high = pressure.ramp_hours
        per_hour = 60 / STEP_MINUTES
        for server in np.flatnonzero(fate < pressure.share):
            served = profiles[server] in {"web_api", "database", "conductor_mgmt", "generic"}
            cause = "traffic_surge" if served else "runaway_batch"
            self._events.schedule(
                Event(
                    server=int(server),
                    kind=cause,
                    cause=cause,
                    begin=onset + int(fate[server] / pressure.share * pressure.spread_hours * per_hour),
                    build=max(1, int((low + (high - low) * haste[server]) * per_hour)),
                    hold=ENDLESS,
                )
            )

    # ------------------------------------------------------------------------------------------------ what happens

    def _live_through(self, day: date) -> SimulatedDay:
        """Let one day pass: normal load, pressure on it, what waits for what, breaches, states."""
        rng = np.random.default_rng([self._seed, 1, day.toordinal()])
        first = (day - self._first_day).days * STEPS_PER_DAY
        load = self._load.day(day, rng)
        overlay = self._events.day(day, first, rng)

        calm = load.cpu + np.minimum(0.5 * load.cpu + 4, 15) * overlay.cold  # what was left undone is caught up
        cpu = self._pressed(_CPU, calm, overlay.cpu, overlay, load.wait)
        memory: Floats = load.memory + overlay.leak
        memory = memory * (1 - 0.5 * overlay.cold)  # caches are empty after a restart
        swapping = np.clip((overlay.memory - 0.75) * 4, 0, 1)
        memory = self._pressed(_MEM, memory, overlay.memory, overlay, load.wait)
        disk = load.disk + self._patching * overlay.patching + 15 * swapping + self._patching * overlay.cold
        disk = self._pressed(_DISK, disk, overlay.disk, overlay, load.wait)
        patching = self._patch_cpu * (1 + 0.25 * np.clip(load.wait, -2, 2))
        cpu = np.where(overlay.patching, np.minimum(0.3 * cpu + patching, 60), cpu)

        share = [np.minimum(values / self._usual[:, metric], 1.5) for metric, values in ((_CPU, cpu), (_DISK, disk))]
        busy = 0.12 * _queue(cpu / 100) + 0.25 * _queue(disk / self._capacity) + 1.5 * overlay.cold
        busy += 0.45 * share[_CPU] + 0.25 * share[1]
        wait = self._latency * (1 + busy) * np.exp(self._wait_spread * load.wait)
        if self._events.database_of_web is not None:  # whoever waits for a slow database is slow
            base = self._latency[self._events.database_of_web]
            slow = np.where(
                overlay.down[self._events.database_of_web], 6.0, wait[self._events.database_of_web] / base - 2.2
            )
            # a database that an incident has slowed down counts at its full wait
            pressed = overlay.latency[self._events.database_of_web]
            slow = np.maximum(slow, 8 * pressed)
            wait[self._events.web] *= 1 + 0.5 * np.clip(slow, 0, 8)
        latency = self._pressed(_LATENCY, wait, overlay.latency, overlay, load.wait)
        latency = np.rint(latency / _LATENCY_QUANTUM) * _LATENCY_QUANTUM

        values = np.stack([cpu, memory, disk, latency]).astype(np.float32)
        values[:, overlay.rebooting] *= np.array([0.05, 0.2, 0.0, 1.0], np.float32)[:, None]
        found, critical = self._find_breaches(overlay, values, first)
        values[:, overlay.down] = 0.0
        states = self._states.day(
            values[_CPU],
            values[_MEM],
            np.where(self._busy[:, None], load.rhythm.morning, 0),
            critical=critical,
            recovering=overlay.recovery > 0,
            patching=overlay.patching,
            down=overlay.down,
        )
        begin = datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
        before, self._before = self._before, values[:, :, -1].T.copy()
        return SimulatedDay(begin, before, np.ascontiguousarray(values.transpose(2, 1, 0)), states.T, found)

    def _pressed(self, metric: int, calm: Floats, pressure: Floats, overlay: Overlay, sway: Floats) -> Floats:
        """Values under pressure: kept below the threshold without an incident, driven beyond it by one."""
        swing = np.clip(np.abs(sway), 0, 2)
        ceiling = _CALM * self._limit[metric] * (1 - 0.03 * swing)  # no value stays the same for hours
        calm = np.minimum(calm, ceiling)
        beyond = np.abs(self._target[metric] - self._limit[metric])
        # At its height it sways, but never back below the threshold.
        height = self._target[metric] - 0.4 * swing * (beyond if metric >= _DISK else np.minimum(beyond, 3))
        target = np.where(overlay.near, np.minimum(self._near[metric], ceiling), height)
        pressure = np.where(
            pressure < 1, np.clip(pressure * (1 + _UNSTEADY[metric] * np.clip(sway, -2, 2)), 0, 1), pressure
        )
        if metric == _DISK:  # most disks are nearly idle: a little pressure is a little in MB/s
            pressure = pressure**3
        if metric == _LATENCY:  # waiting multiplies
            driven = calm * (np.maximum(target, calm) / np.maximum(calm, 0.1)) ** pressure
        else:
            driven = calm + np.maximum(target - calm, 0) * pressure
        upper = 100.0 if metric in {_CPU, _MEM} else np.inf
        return np.where(pressure > 0, np.minimum(driven, upper), calm)

    def _find_breaches(self, overlay: Overlay, values: Floats, first: int) -> tuple[tuple[Incident, ...], Mask]:
        """Incidents that break a threshold today, and where servers are critical: from the breach to the end of it."""
        critical = np.zeros(values.shape[1:], np.bool_)
        found = []
        for event in overlay.incidents:
            key = (event.server, event.begin)
            held = event.begin + event.build + event.hold  # the first step after its height
            end = min(max(held - first, 0), STEPS_PER_DAY)
            if key not in self._critical_from:
                begin = max(event.begin - first, 0)
                beyond = values[:, event.server, begin:end] > self._limit[:, event.server]
                broken = np.flatnonzero(beyond.any(axis=0))
                if not len(broken):
                    continue
                self._critical_from[key] = first + begin + int(broken[0])
                found.append(Incident(event.server, event.cause, event.begin, self._critical_from[key], event.end))
            critical[event.server, max(self._critical_from[key] - first, 0) : end] = True
            if event.end <= first + STEPS_PER_DAY:
                del self._critical_from[key]
        return tuple(sorted(found, key=lambda incident: (incident.breach, incident.server))), critical


def _queue(busy: Floats) -> Floats:
    """How long requests wait for a resource that is busy to this share: they pile up before it is full."""
    busy = np.minimum(busy, 0.96)
    return busy / (1 - busy)


def _self_check() -> None:
    start = datetime(2026, 1, 5, 13, tzinfo=timezone.utc)
    first, second = (FleetSimulator(12, start, seed=7).days() for _ in range(2))
    for _ in range(3):
        day, again = next(first), next(second)
        assert day.values.shape == (STEPS_PER_DAY, 12, 4) and np.isfinite(day.values).all()
        assert day.values.min() >= 0 and day.values[..., :2].max() <= 100
        assert np.array_equal(day.values, again.values) and np.array_equal(day.states, again.states)
        assert day.incidents == again.incidents
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
