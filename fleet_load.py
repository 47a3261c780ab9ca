"""How the normal load of a fleet moves: CPU, memory and disk I/O of every server when nothing is wrong.

Each metric is a Gaussian process sent through the server's own quantiles, so that its values are distributed as a real
machine's while rhythm, memory and coupling are free to choose (a translation process: Grigoriu, "Applied Non-Gaussian
Processes", 1995; Cario and Nelson, "Autoregressive to anything", Operations Research Letters 19, 1996). The process is
a sum of the role's daily rhythm, pulses within the hour (cron), and the kinds of noise in `fleet_archetypes.NOISES`;
memory and disk share a part of CPU's. Arrays are (servers, steps) with 288 steps of 5 minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from data_contract import VALID_PROFILES
from fleet_archetypes import ALTERNATING, ERA, KNOTS, LEVEL, NOISES, QUICK, QUICK_NOISES, Archetypes, archetypes
from fleet_rhythm import STEPS_PER_DAY, STEPS_PER_HOUR, RhythmOfDay, Rhythms
from fleet_roles import ROLES, Range, Role

Floats = npt.NDArray[np.floating[Any]]

_CPU, _MEM, _DISK = range(3)
_KNOTS: Final = np.array(KNOTS, np.float32)
_FLOORS: Final = np.array([0.05, 0.3, 0.001], np.float32)  # below these, quantiles are interpolated linearly

# Normal load stays below the default thresholds of `config.py`; what goes beyond them is an incident.
_HIGHEST_CPU: Final = 84.0
_HIGHEST_CPU_OF: Final = {"ml_compute": 96.5}
_HIGHEST_MEMORY: Final = 88.0
_NOT_IDLE: Final = 4.0
_BUSY: Final = 50.0  # machines that reach this much CPU sway when they are at their highest

_JITTER: Final = (0.0, 0.1, 0.1)  # spread of the logarithm by which a server's level differs from its archetype's
_WOBBLE: Final = np.float32(8e-6)
_TIER_SHARE: Final = 0.06  # share of the quick noise that all servers of a role have in common
_LATENCY_MEMORY: Final = 0.7


@dataclass(frozen=True)
class NormalLoad:
    """One day of it; arrays (servers, steps).

    Attributes
    ----------
    cpu, memory : array
        Percent.
    disk : array
        MB/s.
    wait : array
        Standard normal noise of the latency.
    rhythm : RhythmOfDay
        What the time of the day brought.
    """

    cpu: Floats
    memory: Floats
    disk: Floats
    wait: Floats
    rhythm: RhythmOfDay


class Load:
    """The normal load of a fleet, day after day.

    Parameters
    ----------
    profiles : list of str
        Of each server.
    machines : Archetypes
        What each server is like, one per entry; `draw_machines` draws them.
    busy : array of bool, shape (servers,)
        Which servers visibly do their role's work.
    rng : Generator
        Draws what is left to chance: when jobs run, in which step the noise begins.
    """

    def __init__(
        self, profiles: list[str], machines: Archetypes, busy: npt.NDArray[np.bool_], rng: np.random.Generator
    ) -> None:
        self._n = len(profiles)
        self._profile = np.array([VALID_PROFILES.index(profile) for profile in profiles])
        self._quantum = np.maximum(machines.quantum, 1e-5)
        self._wobble = np.rint(machines.wobble).astype(np.float32)
        quantiles = machines.quantiles
        daily, hourly = machines.daily, machines.hourly
        self._highest = np.where(quantiles[:, _CPU, -1] > _BUSY, quantiles[:, _CPU, -1], 100)[:, None]
        # Between two knots values are interpolated on a logarithmic scale: what lies beyond the usual is rare.
        self._table = np.log(quantiles + _FLOORS[None, :, None]).transpose(1, 0, 2).copy()
        hourly = np.minimum(hourly, 0.95 - daily)
        rest = np.sqrt(1 - daily - hourly)
        self._of_day, self._of_hour = np.sqrt(daily)[:, :, None], np.sqrt(hourly)[:, :, None]
        weights = np.sqrt(machines.weights) * rest[:, :, None]  # (servers, metrics, noises)
        quick = np.arange(len(NOISES)) < QUICK_NOISES
        shared = np.where(quick, machines.together[..., :1], machines.together[..., 1:])  # (servers, metrics, noises)
        shared[:, _CPU] = 1
        self._shared = weights * np.sqrt(shared)
        self._own = weights * np.sqrt(1 - shared)
        self._common = np.where(quick, machines.memory_and_disk[:, _DISK, :1], machines.memory_and_disk[:, _DISK, 1:])
        self._beat = _roll(machines.beat, rng)
        self._rhythms = Rhythms([ROLES[profile] for profile in profiles], busy, rng)
        # Channels of fading noise: 2 kinds × (shared, own of memory, own of disk), then the latency's
        self._keep = np.array([QUICK] * 3 + [ALTERNATING] * 3 + [_LATENCY_MEMORY], np.float32)[:, None]
        self._fading = rng.standard_normal((len(self._keep), self._n), dtype=np.float32)
        self._levels = rng.standard_normal((6, self._n), dtype=np.float32)  # three hold for hours, three for days
        self._last = rng.standard_normal((3, self._n, 1), dtype=np.float32)

    def day(self, day: date, rng: np.random.Generator) -> NormalLoad:
        """Let a day pass."""
        white = rng.standard_normal((3, self._n, STEPS_PER_DAY), dtype=np.float32)
        overlapping = self._draw_overlapping(rng)
        fading = self._draw_fading(rng)
        levels = self._draw_levels(rng)
        rhythm = self._rhythms.day(day, rng)
        values = []
        kinds = [white, overlapping, fading[:3].copy(), fading[3:6].copy(), levels[:3], levels[3:]]
        for kind, common in zip(kinds, self._common.T[..., None], strict=True):  # what memory and disk share beside CPU
            kind[_DISK] = np.sqrt(common) * kind[_MEM] + np.sqrt(1 - common) * kind[_DISK]
        for metric in (_CPU, _MEM, _DISK):
            daily = rhythm.batch if metric == _DISK else rhythm.load
            score = self._of_day[:, metric] * daily + self._of_hour[:, metric] * self._beat[:, metric]
            # All of CPU's noise is shared; memory and disk have some of their own.
            for source, weights in ((_CPU, self._shared), (metric, self._own)):
                if source != _CPU or weights is self._shared:
                    for place in range(len(NOISES)):
                        score = score + weights[:, metric, place, None] * kinds[place][source]
            values.append(self._translate(metric, score, rng))
        # A machine that is as busy as it may be still sways.
        highest = self._highest * (1 - np.float32(0.015) * np.minimum(np.abs(fading[6]), 2))
        values[_CPU] = np.where(values[_CPU] > highest, self._in_steps(_CPU, highest), values[_CPU])
        # One that is not idle never reads the same for hours: the last step of its value is noise.
        step = np.rint(np.float32(0.7) * white[_MEM]) * self._quantum[:, _CPU, None]
        values[_CPU] = np.where(values[_CPU] > _NOT_IDLE, np.minimum(values[_CPU] + step, self._highest), values[_CPU])
        return NormalLoad(values[_CPU], values[_MEM], values[_DISK], fading[6], rhythm)

    def _translate(self, metric: int, score: Floats, rng: np.random.Generator) -> Floats:
        """Values of the normal scores, by each server's quantiles, in its own smallest steps."""
        table = self._table[metric]
        place = np.clip(np.searchsorted(_KNOTS, score.ravel()).reshape(score.shape), 1, len(_KNOTS) - 1)
        share = np.clip((score - _KNOTS[place - 1]) / (_KNOTS[place] - _KNOTS[place - 1]), 0, 1)
        row = np.arange(self._n)[:, None]
        low = table[row, place - 1]
        logs = low + (table[row, place] - low) * share
        values = self._in_steps(metric, np.exp(logs) - _FLOORS[metric])
        if metric == _MEM:  # sums of many readings are all but equal
            values = values * (
                1 - _WOBBLE * np.floor(rng.random(score.shape, dtype=np.float32) * self._wobble[:, 1, None])
            )
        return np.maximum(values, 0)

    def _in_steps(self, metric: int, values: Floats) -> Floats:
        """Values in each server's smallest steps."""
        quantum = self._quantum[:, metric, None]
        stepped: Floats = np.rint(values / quantum) * quantum
        return stepped

    def _draw_overlapping(self, rng: np.random.Generator) -> Floats:
        """Noise of variance 1 of which each step shares half with the next, (channels, servers, steps)."""
        drawn = np.concatenate([self._last, rng.standard_normal((3, self._n, STEPS_PER_DAY), dtype=np.float32)], axis=2)
        self._last = drawn[..., -1:].copy()
        overlapping: Floats = (drawn[..., 1:] + drawn[..., :-1]) * np.float32(np.sqrt(0.5))
        return overlapping

    def _draw_fading(self, rng: np.random.Generator) -> Floats:
        """First-order autoregressive noise of variance 1, (channels, servers, steps)."""
        drawn = rng.standard_normal((STEPS_PER_DAY, len(self._keep), self._n), dtype=np.float32)
        tiers = rng.standard_normal((STEPS_PER_DAY, len(VALID_PROFILES)), dtype=np.float32)
        drawn[:, 0] = np.sqrt(1 - _TIER_SHARE) * drawn[:, 0] + np.sqrt(_TIER_SHARE) * tiers[:, self._profile]
        drawn *= np.sqrt(1 - self._keep**2)
        before = self._fading
        for step in range(STEPS_PER_DAY):
            drawn[step] += self._keep * before
            before = drawn[step]
        self._fading = before.copy()
        faded: Floats = drawn.transpose(1, 2, 0)
        return faded

    def _draw_levels(self, rng: np.random.Generator) -> Floats:
        """Levels that hold until they change, of variance 1, (channels, servers, steps)."""
        shape = (6, self._n, STEPS_PER_DAY)
        often = np.array([1 - LEVEL] * 3 + [1 - ERA] * 3, np.float32)[:, None, None]
        changes = rng.random(shape, dtype=np.float32) < often
        drawn = rng.standard_normal(shape, dtype=np.float32)
        drawn[..., 0] = np.where(changes[..., 0], drawn[..., 0], self._levels)
        changes[..., 0] = True
        since = np.maximum.accumulate(np.where(changes, np.arange(STEPS_PER_DAY), 0), axis=2)
        levels: Floats = np.take_along_axis(drawn, since, axis=2)
        self._levels = levels[..., -1].copy()
        return levels


def draw_machines(profiles: list[str], rng: np.random.Generator) -> tuple[Archetypes, npt.NDArray[np.bool_]]:
    """What every server is like: as a real machine that resembles its profile, or, if it is busy, as its role says.

    Returns
    -------
    machines : Archetypes
        One per server.
    busy : array of bool, shape (servers,)
        Which of them visibly do their role's work.
    """
    drawn = _draw_archetypes(profiles, rng)
    spread = rng.normal(0, _JITTER, (len(profiles), 3)).astype(np.float32)
    quantiles, daily = drawn.quantiles * np.exp(spread)[:, :, None], drawn.daily.copy()
    busy = _busiest(profiles, quantiles[:, _CPU])
    _put_to_work(quantiles, daily, busy, [ROLES[profile] for profile in profiles], rng)
    highest = np.array([_HIGHEST_CPU_OF.get(profile, _HIGHEST_CPU) for profile in profiles], np.float32)
    limit = highest * rng.uniform(0.93, 1.0, len(profiles)).astype(np.float32)
    quantiles[:, _CPU] = np.minimum(quantiles[:, _CPU], limit[:, None])
    quantiles[:, _MEM] = np.minimum(quantiles[:, _MEM], np.float32(_HIGHEST_MEMORY))
    return replace(drawn, quantiles=quantiles, daily=daily), busy


def _draw_archetypes(profiles: list[str], rng: np.random.Generator) -> Archetypes:
    """A real machine's statistics for every server, of those that were given to its profile."""
    known = archetypes()
    parts: dict[str, list[Any]] = {name: [] for name in Archetypes.__dataclass_fields__}
    # Without repetition as long as there are enough, so that a fleet is as mixed as the real one.
    places = np.empty(len(profiles), np.int64)
    for profile in dict.fromkeys(profiles):
        own = np.flatnonzero([each == profile for each in profiles])
        machines = len(known[profile].quantum)
        rounds = -(-len(own) // machines)
        places[own] = np.concatenate([rng.permutation(machines) for _ in range(rounds)])[: len(own)]
    for profile, place in zip(profiles, places, strict=True):
        for name, part in parts.items():
            part.append(getattr(known[profile], name)[place])
    return Archetypes(**{name: np.array(part, np.float32) for name, part in parts.items()})


def _busiest(profiles: list[str], quantiles: Floats) -> npt.NDArray[np.bool_]:
    """The servers of each profile with the highest load: as many as its role says."""
    busy = np.zeros(len(profiles), np.bool_)
    often = quantiles[:, KNOTS.index(1.282)] + quantiles[:, KNOTS.index(1.645)]
    for profile in dict.fromkeys(profiles):
        own = np.flatnonzero([each == profile for each in profiles])
        count = int(np.ceil(ROLES[profile].busy * len(own)))
        busy[own[np.argsort(-often[own], kind="stable")[:count]]] = True
    return busy


def _put_to_work(
    quantiles: Floats, daily: Floats, busy: npt.NDArray[np.bool_], roles: list[Role], rng: np.random.Generator
) -> None:
    """Give the busy servers their role's rhythm and enough load for it to be seen."""

    def drawn(name: str) -> Floats:
        ranges: list[Range] = [getattr(role, name) for role in roles]
        low, high = np.array(ranges).T
        return np.asarray(rng.uniform(low, high), np.float32)[busy]

    often, rare = KNOTS.index(1.645), KNOTS.index(2.326)
    for metric, name in ((_CPU, "peak"), (_DISK, "disk_peak")):
        wanted = drawn(name)
        base = quantiles[busy, metric]
        # The busier, the more: rest stays what it is, and the peak becomes what is wanted where it is lower now.
        missing = np.maximum(wanted - 0.5 * (base[:, often] + base[:, rare]), 0)
        shape = _PEAK_SHAPE[None, :]
        quantiles[busy, metric] = base + missing[:, None] * shape
    lift = np.maximum(drawn("memory_floor") - quantiles[busy, _MEM, 0], 0)[:, None]
    quantiles[busy, _MEM] += lift * np.float32(0.9)
    strength = drawn("rhythm")
    for metric, part in ((_CPU, 1.0), (_MEM, 0.5), (_DISK, 0.7)):
        daily[busy, metric] = np.maximum(daily[busy, metric], part * strength)


# How much of what is missing at the peak is added at each knot: little at rest, all of it when the rhythm is high.
_PEAK_SHAPE: Final = np.array(
    [0, 0, 0.005, 0.015, 0.05, 0.1, 0.16, 0.25, 0.42, 0.78, 0.95, 1.12, 1.25, 1.3], np.float32
)


def _roll(beat: Floats, rng: np.random.Generator) -> Floats:
    """What happens within every hour, over one day; every server's hour begins at its own minute."""
    shift = rng.integers(0, STEPS_PER_HOUR, len(beat))
    phase = (np.arange(STEPS_PER_DAY)[None, :] + shift[:, None]) % STEPS_PER_HOUR  # (servers, steps)
    rolled: Floats = np.take_along_axis(beat, np.broadcast_to(phase[:, None], (*beat.shape[:2], STEPS_PER_DAY)), axis=2)
    return rolled


def _self_check() -> None:
    profiles = ["web_api", "generic", "ml_compute"] * 10
    rng = np.random.default_rng(3)
    machines, busy = draw_machines(profiles, rng)
    load = Load(profiles, machines, busy, rng)
    days = [load.day(date(2026, 1, 5 + number), np.random.default_rng(number)) for number in range(3)]
    cpu = np.concatenate([each.cpu for each in days], axis=1)
    assert cpu.shape == (30, 3 * STEPS_PER_DAY) and np.isfinite(cpu).all() and cpu.min() >= 0
    assert cpu.max() <= 97 and min(each.disk.min() for each in days) >= 0
    inside = (cpu >= machines.quantiles[:, _CPU, 3, None] - 1) & (cpu <= machines.quantiles[:, _CPU, 9, None] + 1)
    assert 0.6 < inside.mean() <= 1  # about 80 % between the deciles, more where values repeat
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
