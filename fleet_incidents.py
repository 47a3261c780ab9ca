"""What happens to a fleet: incidents with a cause and an onset, near misses, slow leaks, planned maintenance.

An event builds up, holds, and then takes its server down or fades. Here it is drawn and laid over the normal load as
pressure on each metric; what the pressure makes of values, and when a threshold is broken, is found by
`fleet_simulation.py`. Steps are of 5 minutes and count from the simulation's first day.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from data_contract import VALID_PROFILES
from fleet_rhythm import STEPS_PER_DAY, STEPS_PER_HOUR
from fleet_roles import CAUSES, ROLES

Floats = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]

NEAR_MISS: Final = "near_miss"
SLOW_LEAK: Final = "slow_leak"
MAINTENANCE: Final = "maintenance"

# From the first sign to the breach: 15 minutes to 6 hours, all causes but the sudden failure.
LEAST_LEAD: Final = 3
LONGEST_LEAD: Final = 72
ENDLESS: Final = 1 << 40

_GENTLE: Final = 0.12  # how far a metric is driven at most within the least lead

# How hard each cause presses on CPU, memory, disk and latency when it has built up; 1 leads beyond the threshold.
_PRESSURE: Final[dict[str, tuple[float, float, float, float]]] = {
    "memory_leak": (0.08, 1.0, 0.05, 0.25),
    "disk_saturation": (0.2, 0.05, 1.0, 0.3),
    "traffic_surge": (1.0, 0.35, 0.1, 0.35),
    "runaway_batch": (1.0, 0.5, 0.3, 0.25),
    "cascading_dependency": (0.3, 0.1, 0.05, 1.0),
    "sudden_failure": (0.0, 0.0, 0.0, 1.0),
}


@dataclass(frozen=True)
class Event:
    """Something that happens to a server: `build` steps up, `hold` steps at its height, `down`, `back`.

    Attributes
    ----------
    kind : str
        One of `CAUSES`, or near_miss, slow_leak, maintenance.
    cause : str
        Which pressure it makes (near misses have that of a cause).
    size : float
        Height: 1 for incidents; below for near misses; points of memory for slow leaks.
    bend : float
        Exponent of the build-up: above 1 it comes late and quickly.
    stairs : int
        Steps of the build-up if it does not come smoothly (jobs that pile up), else 0.
    """

    server: int
    kind: str
    cause: str
    begin: int
    build: int
    hold: int
    down: int = 0
    back: int = 0
    size: float = 1.0
    bend: float = 1.0
    stairs: int = 0

    @property
    def end(self) -> int:
        """First step after it."""
        return self.begin + self.build + self.hold + self.down + self.back


@dataclass(frozen=True)
class Incident:
    """Ground truth of one incident; steps as in `Event`."""

    server: int
    cause: str
    onset: int
    breach: int
    end: int


@dataclass
class Overlay:
    """Events drawn over one day; arrays (servers, steps)."""

    cpu: Floats
    memory: Floats
    disk: Floats
    latency: Floats
    near: Mask  # pressure leads below the threshold only
    leak: Floats  # points of memory
    down: Mask
    patching: Mask
    rebooting: Mask
    recovery: Floats  # 1 right after the worst is over, falling to 0
    cold: Floats  # the same after a restart
    incidents: list[Event] = field(default_factory=list)  # those that touch the day


class EventBook:
    """Draws events day by day and remembers those that go on.

    Parameters
    ----------
    profiles : list of str
        Of each server.
    busy : array of bool, shape (servers,)
        Which servers do visible work: more befalls them.
    rng : Generator
        Draws what does not change: leaky software, days of maintenance, which web server asks which database.
    """

    def __init__(self, profiles: list[str], busy: Mask, rng: np.random.Generator) -> None:
        self._n = len(profiles)
        self._profiles = np.array([VALID_PROFILES.index(profile) for profile in profiles])
        roles = [ROLES[profile] for profile in profiles]
        self._rate = np.array([role.incidents_per_day for role in roles]) * np.where(busy, 1.8, 0.6)
        self._causes = np.cumsum([np.array(role.causes) / sum(role.causes) for role in roles], axis=1)
        # Leaks come with the software: a third of the servers have three times as many, the others none.
        self._leaks = np.array([role.leaks_per_day for role in roles]) * 3 * (rng.random(self._n) < 1 / 3)
        self._patch_day = rng.integers(0, 14, self._n)
        self._patch_begin = (rng.uniform(1.0, 4.5, self._n) * STEPS_PER_HOUR).astype(int)
        self._patch_steps = rng.integers(6, 18, self._n)
        databases = np.flatnonzero(self._profiles == VALID_PROFILES.index("database"))
        self.web = np.flatnonzero(self._profiles == VALID_PROFILES.index("web_api"))
        # The web tier is spread over the databases; -1 where there is none.
        self.database_of_web = databases[np.arange(len(self.web)) % len(databases)] if len(databases) else None
        self._running: list[Event] = []

    def schedule(self, event: Event) -> None:
        """Let something happen that was not drawn, such as a scenario."""
        self._running.append(event)

    def day(self, day: date, first: int, rng: np.random.Generator) -> Overlay:
        """Draw what begins on a day and lay all that goes on over it; `first` is the day's first step."""
        of_server: dict[int, list[Event]] = {}
        for event in self._running:
            of_server.setdefault(event.server, []).append(event)
        for leader, *followers in self._draw(day, first, rng):
            if not _is_free(leader, of_server.get(leader.server, [])):
                continue  # what it would have brought upon others does not come either
            for event in (leader, *followers):
                others = of_server.setdefault(event.server, [])
                if _is_free(event, others):
                    others.append(event)
                    self._running.append(event)
        shape = (self._n, STEPS_PER_DAY)
        overlay = Overlay(
            cpu=np.zeros(shape, np.float32),
            memory=np.zeros(shape, np.float32),
            disk=np.zeros(shape, np.float32),
            latency=np.zeros(shape, np.float32),
            near=np.zeros(shape, np.bool_),
            leak=np.zeros(shape, np.float32),
            down=np.zeros(shape, np.bool_),
            patching=np.zeros(shape, np.bool_),
            rebooting=np.zeros(shape, np.bool_),
            recovery=np.zeros(shape, np.float32),
            cold=np.zeros(shape, np.float32),
        )
        for event in self._running:
            _lay(event, first, overlay)
        self._running = [event for event in self._running if event.end > first + STEPS_PER_DAY]
        return overlay

    # ------------------------------------------------------------------------------------------------ what begins

    def _draw(self, day: date, first: int, rng: np.random.Generator) -> Iterator[list[Event]]:
        """What begins on this day, each with what it brings upon others.

        Whether it finds its server free changes nothing of what is drawn next.
        """
        for server in np.flatnonzero((day.toordinal() + self._patch_day) % 14 == 0):  # every fortnight
            yield [
                Event(
                    server=int(server),
                    kind=MAINTENANCE,
                    cause=MAINTENANCE,
                    begin=first + int(self._patch_begin[server]),
                    build=int(self._patch_steps[server]),
                    hold=0,
                    down=2 + int(server) % 3,  # the reboot
                )
            ]
        struck = np.flatnonzero(rng.random(self._n) < self._rate)
        for server in struck:
            yield list(self._draw_incident(int(server), first, rng))
        for server in np.flatnonzero(rng.random(self._n) < self._leaks):
            yield [
                Event(
                    server=int(server),
                    kind=SLOW_LEAK,
                    cause=SLOW_LEAK,
                    begin=first + int(rng.integers(0, STEPS_PER_DAY)),
                    build=int(rng.integers(72, 480)),  # 6 to 40 hours, then the process is restarted and all is free
                    hold=0,
                    size=float(rng.uniform(6, 40)),
                    bend=float(rng.uniform(0.9, 1.2)),
                )
            ]

    def _draw_incident(self, server: int, first: int, rng: np.random.Generator) -> Iterator[Event]:
        """An incident or near miss of a server, and after it what it brings upon others."""
        cause = CAUSES[min(int(np.searchsorted(self._causes[server], rng.random())), len(CAUSES) - 1)]
        begin = first + int(rng.integers(0, STEPS_PER_DAY))
        near_miss = rng.random() < 0.25
        build = int(np.exp(rng.uniform(np.log(LEAST_LEAD + 3), np.log(LONGEST_LEAD))))
        hold = int(rng.integers(2, 18))
        down = int(rng.integers(2, 18)) if rng.random() < _CRASHES[cause] else 0
        back = int(rng.integers(4, 18))
        size, bend = float(rng.uniform(0.3, 0.9)), float(rng.uniform(0.8, 1.8))
        stairs = int(rng.integers(2, 6)) if cause == "runaway_batch" else 0
        others = rng.random(self._n)
        by_day, hour = rng.random() < 0.85, float(np.clip(rng.normal(12.5, 3.5), 5, 22))
        if cause == "traffic_surge" and by_day:  # people are awake
            begin = first + int(hour * STEPS_PER_HOUR)
        if cause == "memory_leak":  # slow by nature
            build = int(LONGEST_LEAD * (build / LONGEST_LEAD) ** 0.4)
        if cause == "sudden_failure":
            yield Event(server, cause, cause, begin, build=0, hold=1, down=max(down, 2), back=back)
            return
        if near_miss:
            yield Event(server, NEAR_MISS, cause, begin, build, hold, 0, back, size, bend, stairs)
            return
        yield Event(server, cause, cause, begin, build, hold, down, back, 1.0, bend, stairs)
        if cause == "traffic_surge":  # the rest of the tier feels it
            mates = np.flatnonzero((self._profiles == self._profiles[server]) & (others < 0.2))
            for mate in mates[mates != server]:
                yield Event(int(mate), NEAR_MISS, cause, begin, build, hold, 0, back, float(others[mate]) * 4, bend)
        elif cause == "cascading_dependency" and self.database_of_web is not None:
            for place in np.flatnonzero(self.database_of_web == server):
                web = int(self.web[place])
                late = 1 + int(others[web] * 6)
                yield Event(web, cause, cause, begin + late, build, hold, 0, back, 1.0, bend)


def _is_free(event: Event, others: list[Event]) -> bool:
    """One thing at a time: incidents, near misses and maintenance of a server keep an hour's distance."""
    if event.kind == SLOW_LEAK:
        return all(other.kind != SLOW_LEAK for other in others)
    for other in others:
        if other.kind == SLOW_LEAK:
            continue
        if other.hold >= ENDLESS:  # a scenario changes nothing of what began before it
            if event.begin >= other.begin:
                return False
        elif event.begin < other.end + STEPS_PER_HOUR and other.begin < event.end + STEPS_PER_HOUR:
            return False
    return True


# How often an incident ends with the server going down.
_CRASHES: Final[dict[str, float]] = {
    "memory_leak": 0.8,  # killed for want of memory
    "disk_saturation": 0.2,
    "traffic_surge": 0.25,
    "runaway_batch": 0.35,
    "cascading_dependency": 0.0,
    "sudden_failure": 1.0,
}


def _lay(event: Event, first: int, overlay: Overlay) -> None:
    """Draw one event over the day that begins at step `first`."""
    begin, end = max(event.begin, first) - first, min(event.end, first + STEPS_PER_DAY) - first
    if begin >= end:
        return
    steps = slice(begin, end)
    row = event.server
    since = np.arange(begin, end) + first - event.begin  # steps since the event's begin
    built = event.build
    held = built + event.hold
    downed = held + event.down
    if event.kind == MAINTENANCE:
        overlay.patching[row, steps] = True
        overlay.rebooting[row, steps] = since >= held
        return
    progress = np.clip((since + 1) / max(built, 1), 0, 1)
    if event.stairs:
        progress = np.ceil(progress * event.stairs) / event.stairs
    level = event.size * progress**event.bend
    if event.kind == SLOW_LEAK:
        overlay.leak[row, steps] = np.maximum(overlay.leak[row, steps], level)
        return
    level = np.where(since < LEAST_LEAD, np.minimum(level, _GENTLE), level) if built else level
    left = np.clip(1 - (since - downed + 1) / max(event.back, 1), 0, 1)  # 1 → 0 while it comes back
    level = np.where(since >= held, event.size * left**2 if not event.down else 0.0, level)
    for pressed, weight in zip(
        (overlay.cpu, overlay.memory, overlay.disk, overlay.latency), _PRESSURE[event.cause], strict=True
    ):
        pressed[row, steps] = np.maximum(pressed[row, steps], weight * level)
    if event.kind == NEAR_MISS:
        overlay.near[row, steps] = True
        return
    overlay.down[row, steps] |= (since >= held) & (since < downed)
    overlay.recovery[row, steps] = np.maximum(overlay.recovery[row, steps], np.where(since >= downed, left, 0))
    if event.down:
        overlay.cold[row, steps] = overlay.recovery[row, steps]
    overlay.incidents.append(event)


def _self_check() -> None:
    profiles = ["web_api"] * 30 + ["database"] * 10
    book = EventBook(profiles, np.ones(40, np.bool_), np.random.default_rng(1))
    kinds: set[str] = set()
    for number in range(40):
        today = date.fromordinal(date(2026, 1, 5).toordinal() + number)
        overlay = book.day(today, number * STEPS_PER_DAY, np.random.default_rng(number))
        assert overlay.cpu.shape == (40, STEPS_PER_DAY) and 0 <= overlay.cpu.min() <= overlay.cpu.max() <= 1
        kinds.update(event.cause for event in overlay.incidents)
    assert kinds >= {"traffic_surge", "disk_saturation", "cascading_dependency", "sudden_failure"}, kinds
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
