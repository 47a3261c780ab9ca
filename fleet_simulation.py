"""What a fleet of servers could do, day by day: rhythms, noise, jobs, leaks, incidents, maintenance and their coupling.

One `SimulatedDay` follows from the seed, the date and what the days before left behind, never from how many days are
asked for. So a longer run has the shorter one as its beginning, and a live stream goes on where a file ends. Knows
nothing of files, pandas or HTTP; the numbers are plausible, not measured.

All times are UTC; office hours are those of a site on UTC. Arrays are (servers, steps) with 288 steps of 5 minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta, timezone
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from data_contract import STEP_MINUTES, VALID_PROFILES, VALID_STATES
from fleet_roles import ROLES, Range, fleet_names

# Raised whenever the same seed gives other numbers: a file of another version cannot be continued.
SIMULATION_VERSION: Final = 1

STEPS_PER_DAY: Final = 24 * 60 // STEP_MINUTES

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_STATE = {state: np.int8(code) for code, state in enumerate(VALID_STATES)}


@dataclass(frozen=True)
class Pressure:
    """A scenario: from `onset` on, more and more servers are driven towards their thresholds and stay there.

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
    values : array of float32
        Shape (steps, servers, 4), the metrics in the contract's order.
    states : array of int8
        Shape (steps, servers), places in `VALID_STATES`.
    """

    begin: datetime
    values: Floats
    states: npt.NDArray[np.int8]


# Kinds of events
_CPU, _MEMORY, _DISK, _LATENCY, _LEAK, _JOB, _MAINTENANCE = range(7)


@dataclass(frozen=True)
class _Events:
    """Things that happen to servers; steps count from the simulation's first day. One entry per event in each array.

    An event builds up, holds, and then either takes the server down and lets it recover (`down` > 0) or fades.
    """

    kind: Integers
    server: Integers
    begin: Integers
    build: Integers
    hold: Integers
    down: Integers
    back: Integers
    size: npt.NDArray[np.float64]
    bend: npt.NDArray[np.float64]  # exponent of the build-up

    @property
    def end(self) -> Integers:
        return self.begin + self.build + self.hold + self.down + self.back

    def where(self, mask: Mask) -> _Events:
        return _Events(*(getattr(self, field.name)[mask] for field in fields(self)))

    def and_then(self, other: _Events) -> _Events:
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return _Events(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class _Traces:
    """Events of one kind drawn over one day, each array (servers, steps)."""

    level: Floats
    holding: Mask
    down: Mask
    recovery: Floats  # 1 right after the server is back, falling to 0


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
        Scenarios laid over the fleet; they leave no trace in what is carried from day to day.
    """

    def __init__(self, servers: int, start: datetime, seed: int, pressures: tuple[Pressure, ...] = ()) -> None:
        self.names = fleet_names(servers)
        self.pressures = pressures
        self._seed = seed
        self._first_day = start.astimezone(timezone.utc).date() - timedelta(days=1)
        self._n = servers
        self._profile = np.array([VALID_PROFILES.index(profile) for profile in self.names.values()])
        self._roles = [ROLES[profile] for profile in self.names.values()]
        self._draw_characters(np.random.default_rng([seed, 0]))
        self._noise = np.zeros((6, servers), np.float32)
        self._tier_noise = np.zeros(len(VALID_PROFILES), np.float32)
        self._running = _no_events()

    def days(self) -> Iterator[SimulatedDay]:
        """Let the days pass, one after the other, without end; the first is the day of `start`."""
        self._live_through(self._first_day)
        day = self._first_day
        while True:
            day += timedelta(days=1)
            yield self._live_through(day)

    # ------------------------------------------------------------------------------------------------ what servers are

    def _draw_characters(self, rng: np.random.Generator) -> None:
        """Give every server its own version of its role."""

        def drawn(name: str) -> Floats:
            low, high = np.array([getattr(role, name) for role in self._roles]).T
            return np.asarray(rng.uniform(low, high), np.float32)[:, None]

        def fixed(name: str) -> Floats:
            return np.array([getattr(role, name) for role in self._roles], np.float32)[:, None]

        def uniform(low: float, high: float) -> Floats:
            return np.asarray(rng.uniform(low, high, self._n), np.float32)[:, None]

        self._rest, self._business, self._morning = drawn("cpu_rest"), drawn("business"), drawn("morning")
        self._evening, self._night, self._market = drawn("evening"), drawn("night_batch"), drawn("market_close")
        self._daily, self._follows = drawn("daily_job"), drawn("follows_batches")
        self._memory, self._disk, self._latency = drawn("memory"), drawn("disk"), drawn("latency")
        self._disk_batch, self._weekend = drawn("disk_of_batch"), fixed("weekend")
        self._memory_of_load, self._disk_of_cpu = fixed("memory_of_load"), fixed("disk_of_cpu")
        self._bursts, self._burst_size = fixed("bursts_per_day")[:, 0], fixed("burst_size")[:, 0]
        self._jobs, self._incidents = fixed("jobs_per_day")[:, 0], fixed("incidents_per_day")[:, 0]
        # Leaks come with the software: a third of the servers have three times as many, the others none.
        self._leaks = fixed("leaks_per_day")[:, 0] * 3 * (rng.random(self._n) < 1 / 3)
        self._phase = uniform(-0.4, 0.4)  # hours
        self._night_begin, self._night_hours = uniform(0.8, 2.8), uniform(1.8, 4.0)
        self._market_begin, self._market_hours = uniform(16.0, 16.6), uniform(1.4, 2.4)
        self._daily_begin, self._daily_hours = uniform(0, 23), uniform(0.25, 0.8)
        # One server in ten is too small: its peaks reach the thresholds, at times that can be learnt.
        daytime = self._business + np.maximum(0.8 * self._morning, self._follows)
        peak = self._rest + np.maximum.reduce([daytime, self._night, self._market + 0.4 * self._business, self._daily])
        self._strain = np.where(uniform(0, 1) < 0.1, np.clip(uniform(86, 98) / peak, 1, 1.8), 1).astype(np.float32)
        self._ripple_steps = uniform(4, 12)  # epochs of a training job
        self._target = uniform(96.5, 100.5)  # where CPU and memory go in an incident
        self._patch_day, self._patch_hour = rng.integers(0, 14, self._n), uniform(1.0, 4.5)[:, 0]
        self._patch_steps = rng.integers(6, 18, self._n)
        # The web tier is spread over the databases.
        self._databases = np.flatnonzero(self._profile == VALID_PROFILES.index("database"))
        self._web = np.flatnonzero(self._profile == VALID_PROFILES.index("web_api"))
        self._database_of_web = (
            self._databases[np.arange(len(self._web)) % max(1, len(self._databases))]
            if len(self._databases)
            else np.zeros(0, np.int64)
        )
        # Channels of noise: CPU, slow drift of CPU, memory, log disk, log latency, bursts
        noise = drawn("noise")[:, 0]
        keep = np.stack([rng.uniform(low, high, self._n) for low, high in _MEMORY_OF_NOISE]).astype(np.float32)
        spread = np.stack([noise, 0.7 * noise, *(rng.uniform(low, high, self._n) for low, high in _SPREAD_OF_NOISE)])
        self._noise_keep = keep
        self._noise_scale = (spread * np.sqrt(1 - keep[:5] ** 2)).astype(np.float32)
        # The order in which servers fall to a scenario, and how fast
        self._fate = rng.permutation(self._n) / self._n
        self._haste = rng.random(self._n)

    # ------------------------------------------------------------------------------------------------ what happens

    def _live_through(self, day: date) -> SimulatedDay:
        """Let one day pass: draw what happens, add it up, and carry on what has not ended by midnight."""
        rng = np.random.default_rng([self._seed, 1, day.toordinal()])
        first = (day - self._first_day).days * STEPS_PER_DAY
        self._running = self._running.and_then(self._draw_events(rng, day, first))
        draw = self._drawer(first)
        jobs, leaks, patches = draw(_JOB), draw(_LEAK), draw(_MAINTENANCE)
        hot, full, busy, slow = draw(_CPU), draw(_MEMORY), draw(_DISK), draw(_LATENCY)
        self._running = self._running.where(self._running.end > first + STEPS_PER_DAY)

        traces = (jobs, leaks, patches, hot, full, busy, slow)
        down = np.logical_or.reduce([trace.down for trace in traces])
        recovery = np.maximum.reduce([trace.recovery for trace in traces])
        critical = hot.holding | full.holding | busy.holding | slow.holding
        maintained = patches.level > 0

        cpu_noise, drift, memory_noise, disk_noise, latency_noise, bursts = self._draw_noise(rng)
        load, batch, spike = self._rhythm(rng, day)
        steps = np.arange(STEPS_PER_DAY)
        ripple = 1 - 0.12 * ((steps + first) % self._ripple_steps < 1)  # a training job pauses between its epochs
        demand = load * self._strain * np.exp(self._draw_tier_noise(rng)[self._profile]) + cpu_noise + drift + bursts
        demand = np.maximum(demand, jobs.level * ripple + cpu_noise)
        demand += (self._target - demand) * np.maximum(hot.level, 0.3 * busy.level)
        demand = np.where(maintained, 4 + 0.25 * demand, demand)
        memory = self._memory + self._memory_of_load * demand / 100 + memory_noise + leaks.level
        memory += (self._target + 2 - memory) * full.level
        memory -= 0.45 * self._memory * recovery  # caches are cold after a restart
        capacity = self._disk * 3 + 700  # MB/s
        disk = self._disk + self._disk_of_cpu * np.maximum(demand, 0) + self._disk_batch * batch
        disk += np.where(maintained, 40, 0) + np.where(jobs.level * (ripple < 1) > 0, 130, 0)  # patches; checkpoints
        disk = disk * np.exp(disk_noise)
        disk += (0.93 * capacity - disk) * busy.level

        for pressure in self.pressures:
            weight = self._weight(pressure, day)
            demand += (self._target + 1 + 0.2 * cpu_noise - demand) * weight
            memory += (self._target - 4 - memory) * 0.9 * weight
            disk += (0.85 * capacity - disk) * weight

        cpu = 100 - _soften(100 - _soften(demand, 0.5), 2.0)
        memory = 100 - _soften(100 - _soften(memory, 0.5), 1.0)
        factor = 1 + 0.15 * _queue(cpu / 100) + 0.5 * _queue(disk / capacity) + 12 * slow.level + 2 * recovery
        if len(self._databases):  # whoever waits for a slow database is slow
            wait = np.where(down, 6, np.minimum(factor - 2.2, 8))[self._database_of_web]
            factor[self._web] += 0.7 * np.maximum(wait, 0)
        latency = self._latency * factor * np.exp(latency_noise)

        values = np.stack([cpu, memory, disk, latency], axis=-1).astype(np.float32)
        values[down] = 0.0
        states = _states(cpu, memory, spike, critical, maintained, recovery > 0, down)
        begin = datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
        rounded = np.round(values, 2)
        return SimulatedDay(begin, rounded.transpose(1, 0, 2), states.T)

    def _rhythm(self, rng: np.random.Generator, day: date) -> tuple[Floats, Floats, Floats]:
        """What the time of the day and of the week bring: CPU, the share of the batch that runs, the morning peak."""
        n = self._n
        busy_day = float(np.exp(rng.normal(0, 0.06)))  # the whole fleet's
        own = np.exp(rng.normal(0, 0.05, (n, 1))).astype(np.float32)
        late = rng.normal(0, 0.2, (n, 1)).astype(np.float32)  # hours by which a batch starts late
        long = np.exp(rng.normal(0.15 if day.day == 1 or day.day >= 28 else 0, 0.12, (n, 1))).astype(np.float32)
        crowd = np.exp(rng.normal(0.08 if day.weekday() == 0 else 0, 0.12, (n, 1))).astype(np.float32)

        hour = (np.arange(STEPS_PER_DAY, dtype=np.float32) * (STEP_MINUTES / 60))[None, :]
        local = hour + self._phase
        weekend = day.weekday() >= 5
        share = (self._weekend if weekend else 1.0) * busy_day * own
        office = _rise(local - 7.6, 0.45) * _rise(18.2 - local, 0.6) - 0.15 * _hump(local - 12.7, 0.6)
        morning = np.float32(0.0 if weekend else 1.0) * crowd * _hump(local - 9.1, 0.55)
        night = _window(hour, self._night_begin + late, self._night_hours * long)
        market = np.float32(0.0 if weekend else 1.0) * _window(
            hour, self._market_begin + late, self._market_hours * long
        )
        hourly = 0.18 * office * (hour % 1 < 0.25) * (self._market > 0)  # small risk runs at every full hour
        daily = _window(hour, self._daily_begin, self._daily_hours)
        batch = np.maximum(night * (self._night > 0), market * (self._market > 0))
        running = batch[(self._night + self._market)[:, 0] > 10]
        busyness = running.mean(axis=0, keepdims=True) if len(running) else np.zeros((1, STEPS_PER_DAY), np.float32)
        load = (
            self._rest
            + share * (self._business * office + self._evening * _hump(local - 20.4, 1.5))
            + share * self._morning * morning
            + self._night * night
            + self._market * np.maximum(market, hourly)
            + self._daily * daily
            + self._follows * busyness
        )
        spike = share * self._morning * morning
        return load, batch, spike

    def _draw_noise(self, rng: np.random.Generator) -> list[Floats]:
        """Noise of each channel, (servers, steps): first-order autoregressive, each server with its own memory."""
        shape = (STEPS_PER_DAY, 6, self._n)
        noise = np.empty(shape, np.float32)
        noise[:, :5] = rng.standard_normal((STEPS_PER_DAY, 5, self._n), dtype=np.float32) * self._noise_scale
        begins = rng.random((STEPS_PER_DAY, self._n), dtype=np.float32) < self._bursts / STEPS_PER_DAY
        noise[:, 5] = begins * rng.standard_exponential((STEPS_PER_DAY, self._n), dtype=np.float32) * self._burst_size
        before = self._noise
        for step in range(STEPS_PER_DAY):
            noise[step] += self._noise_keep * before
            before = noise[step]  # (channels, servers)
        self._noise = before.copy()
        return [noise[:, channel].T for channel in range(6)]

    def _draw_tier_noise(self, rng: np.random.Generator) -> Floats:
        """Log of the demand that all servers of a profile share, (profiles, steps)."""
        noise = rng.normal(0, 0.02, (STEPS_PER_DAY, len(VALID_PROFILES))).astype(np.float32)
        before = self._tier_noise
        for step in range(STEPS_PER_DAY):
            noise[step] += np.float32(0.93) * before
            before = noise[step]
        self._tier_noise = before.copy()
        tier_noise: Floats = noise.T
        return tier_noise

    def _draw_events(self, rng: np.random.Generator, day: date, first: int) -> _Events:
        """What begins on this day."""
        incidents = self._strike(rng, self._incidents)
        count = len(incidents)
        kinds = np.array([_CPU, _MEMORY, _DISK, _LATENCY])[rng.choice(4, count, p=[0.4, 0.2, 0.25, 0.15])]
        near_miss = rng.random(count) < 0.3
        crash = (rng.random(count) < 0.35) & ~near_miss
        trouble = _Events(
            kind=kinds,
            server=incidents,
            begin=first + rng.integers(0, STEPS_PER_DAY, count),
            build=np.exp(rng.uniform(np.log(3), np.log(72), count)).astype(np.int64),  # 15 minutes to 6 hours
            hold=np.where(near_miss, 0, rng.integers(2, 18, count)),
            down=np.where(crash, rng.integers(2, 18, count), 0),
            back=rng.integers(4, 18, count),
            size=np.where(near_miss, rng.uniform(0.25, 0.7, count), 1.0),
            bend=rng.uniform(0.8, 1.8, count),
        )
        leaking = self._strike(rng, self._leaks)
        count = len(leaking)
        leaks = _Events(
            kind=np.full(count, _LEAK),
            server=leaking,
            begin=first + rng.integers(0, STEPS_PER_DAY, count),
            build=rng.integers(72, 480, count),  # 6 to 40 hours, then the process is restarted and all is free again
            hold=np.zeros(count, np.int64),
            down=np.where(rng.random(count) < 0.15, rng.integers(2, 5, count), 0),
            back=rng.integers(2, 6, count),
            size=rng.uniform(12, 45, count),
            bend=rng.uniform(0.9, 1.2, count),
        )
        starting = np.repeat(np.arange(self._n), rng.poisson(self._jobs))
        count = len(starting)
        in_office = rng.random(count) < 0.6
        jobs = _Events(
            kind=np.full(count, _JOB),
            server=starting,
            begin=first + np.where(in_office, rng.integers(102, 228, count), rng.integers(0, STEPS_PER_DAY, count)),
            build=np.full(count, 2),
            hold=np.clip(np.exp(rng.normal(np.log(36), 0.8, count)), 6, 168).astype(np.int64),  # median 3 hours
            down=np.zeros(count, np.int64),
            back=np.zeros(count, np.int64),
            size=rng.uniform(58, 90, count),
            bend=np.ones(count),
        )
        due = np.flatnonzero((day.toordinal() + self._patch_day) % 14 == 0)  # every fortnight
        count = len(due)
        patches = _Events(
            kind=np.full(count, _MAINTENANCE),
            server=due,
            begin=first + (self._patch_hour[due] * 12).astype(np.int64),
            build=self._patch_steps[due],
            hold=np.zeros(count, np.int64),
            down=rng.integers(2, 5, count),  # the reboot
            back=rng.integers(3, 9, count),
            size=np.ones(count),
            bend=np.zeros(count),
        )
        return trouble.and_then(leaks).and_then(jobs).and_then(patches)

    def _strike(self, rng: np.random.Generator, rate_per_day: npt.NDArray[Any]) -> Integers:
        """Servers that something of the given daily rate befalls today."""
        return np.flatnonzero(rng.random(self._n) < rate_per_day)

    def _drawer(self, first: int) -> Any:
        """Function that draws all running events of one kind over the day that begins at step `first`."""
        events = self._running
        order = np.argsort(events.server, kind="stable")
        sorted_events = events.where(order)  # type: ignore[arg-type]

        def draw(kind: int) -> _Traces:
            return _trace(sorted_events.where(sorted_events.kind == kind), first, self._n)

        return draw

    def _weight(self, pressure: Pressure, day: date) -> Floats:
        """How far each server is driven by a scenario, 0 to 1, (servers, steps)."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
        hours = (midnight - pressure.onset).total_seconds() / 3600 + np.arange(STEPS_PER_DAY) * (STEP_MINUTES / 60)
        fate = (self._fate / pressure.share)[:, None]  # below 1: this server's turn comes
        low, high = pressure.ramp_hours
        ramp = (low + (high - low) * self._haste)[:, None]
        weight = np.clip((hours[None, :] - fate * pressure.spread_hours) / ramp, 0, 1)
        return np.where(fate < 1, weight, 0).astype(np.float32)


# Ranges that each server draws its own from: how much of a channel's noise is left a step later, and how wide it is.
_MEMORY_OF_NOISE: Final[tuple[Range, ...]] = (
    (0.55, 0.92),
    (0.985, 0.996),
    (0.97, 0.99),
    (0.5, 0.85),
    (0.5, 0.85),
    (0.4, 0.8),
)
_SPREAD_OF_NOISE: Final[tuple[Range, ...]] = ((0.6, 1.6), (0.15, 0.3), (0.07, 0.15))


def _no_events() -> _Events:
    whole, real = np.zeros(0, np.int64), np.zeros(0)
    return _Events(whole, whole, whole, whole, whole, whole, whole, real, real)


def _trace(events: _Events, first: int, servers: int) -> _Traces:
    """Draw events, sorted by server, over one day; where some overlap on a server the strongest counts."""
    shape = (servers, STEPS_PER_DAY)
    if not len(events.server):
        nothing = np.zeros(shape, np.bool_)
        return _Traces(np.zeros(shape, np.float32), nothing, nothing, np.zeros(shape, np.float32))
    t = first + np.arange(STEPS_PER_DAY)[None, :] - events.begin[:, None]  # steps since each event's begin
    built, held, downed = (
        events.build[:, None],
        (events.build + events.hold)[:, None],
        (events.build + events.hold + events.down)[:, None],
    )
    size, back = events.size[:, None], np.maximum(events.back, 1)[:, None]
    begun = t >= 0
    building = begun & (t < built)
    holding = (t >= built) & (t < held)
    down = (t >= held) & (t < downed)
    after = (t >= downed) & (t < downed + events.back[:, None])
    crashed = (events.down > 0)[:, None]
    left = 1 - (t - downed) / back  # 1 → 0
    level = np.where(building, size * (np.clip(t + 1, 0, built) / built) ** events.bend[:, None], 0.0)
    level = np.where(holding, size, level)
    level = np.where(after & ~crashed & (events.kind != _LEAK)[:, None], size * left**2, level)
    recovery = np.where(after & (crashed | (events.size >= 1)[:, None] & (events.hold > 0)[:, None]), left, 0.0)
    begins = np.flatnonzero(np.concatenate([[True], events.server[1:] != events.server[:-1]]))
    hit = events.server[begins]

    def spread(drawn: npt.NDArray[Any], dtype: type) -> Any:
        traced: npt.NDArray[Any] = np.zeros(shape, dtype)
        traced[hit] = np.maximum.reduceat(drawn, begins, axis=0)
        return traced

    return _Traces(
        level=spread(level, np.float32),
        holding=spread(holding & (events.kind != _JOB)[:, None], np.bool_),
        down=spread(down, np.bool_),
        recovery=spread(recovery, np.float32),
    )


def _states(
    cpu: Floats, memory: Floats, spike: Floats, critical: Mask, maintained: Mask, recovering: Mask, down: Mask
) -> npt.NDArray[np.int8]:
    """State of each server and step; the later a rule, the stronger."""
    states = np.full(cpu.shape, _STATE["healthy"], np.int8)
    for state, where in (
        ("idle", cpu < 5),
        ("morning_spike", spike > 7),
        ("heavy_load", (cpu >= 80) | (memory >= 90)),
        ("critical_issue", (cpu >= 95) | (memory >= 98) | critical),
        ("recovery", recovering),
        ("maintenance", maintained),
        ("offline", down),
    ):
        states[where] = _STATE[state]
    return states


def _rise(x: Floats, width: float) -> Floats:
    """Smooth step from 0 to 1 around x = 0."""
    risen: Floats = 0.5 * (1 + np.tanh(x / (2 * width)))
    return risen


def _hump(x: Floats, width: float) -> Floats:
    """Bell with its peak of 1 at x = 0."""
    bell: Floats = np.exp(-0.5 * (x / width) ** 2)
    return bell


def _window(hour: Floats, begin: Floats, length: Floats) -> Floats:
    """1 from `begin` on for `length` hours, with soft edges of a few minutes; windows may cross midnight."""
    since = (hour - begin + 1) % 24 - 1
    return _rise(since, 0.06) * _rise(length - since, 0.09)


def _queue(busy: Floats) -> Floats:
    """How long requests wait for a resource that is busy to this share: they pile up before it is full."""
    busy = np.minimum(busy, 0.96)
    return busy / (1 - busy)


def _soften(x: Floats, width: float) -> Floats:
    """Smooth maximum of x and 0: far above 0 it is x."""
    softened: Floats = 0.5 * (x + np.sqrt(x * x + width * width))
    return softened


def _self_check() -> None:
    start = datetime(2026, 1, 5, 13, tzinfo=timezone.utc)
    first, second = (FleetSimulator(12, start, seed=7).days() for _ in range(2))
    for _ in range(3):
        day, again = next(first), next(second)
        assert day.values.shape == (STEPS_PER_DAY, 12, 4) and np.isfinite(day.values).all()
        assert day.values.min() >= 0 and day.values[..., :2].max() <= 100
        assert np.array_equal(day.values, again.values) and np.array_equal(day.states, again.states)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
