"""Which servers a generated fleet has, and what each role adds to a real machine: rhythm, work, latency, mishaps.

Numbers only; what becomes of them is the work of `fleet_rhythm.py`, `fleet_load.py` and `fleet_incidents.py`. What
machines are like apart from their role was measured (`fleet_archetypes.py`); what stands here is plausible only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from data_contract import DEFAULT_FLEET, format_name

Range = tuple[float, float]

_NEVER: Range = (0.0, 0.0)

# What can befall a server; `Docs/SERVER_PROFILES.md` tells how each begins and ends.
CAUSES: Final = (
    "memory_leak",
    "disk_saturation",
    "traffic_surge",
    "runaway_batch",
    "cascading_dependency",
    "sudden_failure",
)


@dataclass(frozen=True)
class Role:
    """How servers of a profile behave; every range is drawn from once per server.

    Attributes
    ----------
    business, morning, evening, night_batch, market_close, daily_job, follows_batches : (float, float)
        Height of the parts of the daily rhythm, relative to one another: office hours, the peak of the morning, the
        evening, the batch at night, the risk run after the market has closed, one short job at a fixed time, and the
        batches of the whole fleet.
    weekend : float
        Share of the office-hour load that is left on Saturday and Sunday.
    busy : float
        Share of the servers that visibly do the role's work; the others are as idle as most real machines.
    rhythm : (float, float)
        Share of the variance that follows the rhythm, on busy servers.
    peak : (float, float)
        CPU that busy servers reach one hour in a day or so, percent.
    disk_peak : (float, float)
        Disk I/O that they reach then, MB/s.
    memory_floor : (float, float)
        Memory that busy servers never fall below, percent.
    latency : (float, float)
        Milliseconds at rest.
    leaks_per_day, incidents_per_day : float
        How often slow leaks that are mended in time, and incidents, begin.
    causes : tuple of float
        How often each of `CAUSES` is behind an incident, relative to one another.
    """

    business: Range
    morning: Range
    evening: Range
    night_batch: Range
    market_close: Range
    daily_job: Range
    follows_batches: Range
    weekend: float
    busy: float
    rhythm: Range
    peak: Range
    disk_peak: Range
    memory_floor: Range
    latency: Range
    leaks_per_day: float
    incidents_per_day: float
    causes: tuple[float, float, float, float, float, float]


ROLES: Final[dict[str, Role]] = {
    "web_api": Role(
        business=(0.8, 1.2), morning=(0.5, 1.0), evening=(0.2, 0.5), night_batch=_NEVER, market_close=_NEVER,
        daily_job=(0, 0.2), follows_batches=_NEVER, weekend=0.45, busy=0.4, rhythm=(0.4, 0.75), peak=(12, 60),
        disk_peak=(0.1, 3), memory_floor=_NEVER, latency=(25, 60), leaks_per_day=0.05, incidents_per_day=0.05,
        causes=(2, 0.5, 4, 0, 0, 1),
    ),
    "ml_compute": Role(
        business=(0.4, 1.0), morning=_NEVER, evening=(0, 0.3), night_batch=_NEVER, market_close=_NEVER,
        daily_job=_NEVER, follows_batches=_NEVER, weekend=0.7, busy=0.25, rhythm=(0.05, 0.2), peak=(80, 96),
        disk_peak=(1, 40), memory_floor=_NEVER, latency=(15, 40), leaks_per_day=0.04, incidents_per_day=0.05,
        causes=(2, 1, 0, 5, 0, 1),
    ),
    "database": Role(
        business=(0.8, 1.0), morning=(0.3, 0.6), evening=(0, 0.2), night_batch=(0.5, 1.5), market_close=(0, 0.3),
        daily_job=_NEVER, follows_batches=_NEVER, weekend=0.55, busy=0.4, rhythm=(0.3, 0.65), peak=(10, 45),
        disk_peak=(8, 90), memory_floor=(20, 55), latency=(4, 14), leaks_per_day=0.03, incidents_per_day=0.06,
        causes=(1, 4, 1, 0.5, 3, 1),
    ),
    "conductor_mgmt": Role(
        business=(0.3, 0.6), morning=(0.2, 0.5), evening=_NEVER, night_batch=_NEVER, market_close=_NEVER,
        daily_job=(0, 0.3), follows_batches=(0.8, 1.2), weekend=0.5, busy=0.4, rhythm=(0.3, 0.6), peak=(8, 40),
        disk_peak=(0.1, 2), memory_floor=_NEVER, latency=(8, 20), leaks_per_day=0.05, incidents_per_day=0.04,
        causes=(3, 1, 1, 2, 0, 1),
    ),
    "data_ingest": Role(
        business=(0.1, 0.3), morning=_NEVER, evening=_NEVER, night_batch=(1, 1), market_close=_NEVER,
        daily_job=_NEVER, follows_batches=_NEVER, weekend=0.8, busy=0.5, rhythm=(0.45, 0.8), peak=(25, 75),
        disk_peak=(10, 120), memory_floor=_NEVER, latency=(40, 90), leaks_per_day=0.04, incidents_per_day=0.06,
        causes=(1, 4, 0, 4, 0, 1),
    ),
    "risk_analytics": Role(
        business=(0.1, 0.3), morning=(0, 0.1), evening=_NEVER, night_batch=_NEVER, market_close=(1, 1),
        daily_job=_NEVER, follows_batches=_NEVER, weekend=0.15, busy=0.5, rhythm=(0.45, 0.8), peak=(25, 75),
        disk_peak=(0.5, 15), memory_floor=_NEVER, latency=(60, 140), leaks_per_day=0.03, incidents_per_day=0.05,
        causes=(2, 1, 0, 5, 0, 1),
    ),
    "generic": Role(
        business=(0.2, 0.6), morning=_NEVER, evening=_NEVER, night_batch=_NEVER, market_close=_NEVER,
        daily_job=(0.5, 1.0), follows_batches=_NEVER, weekend=0.6, busy=0.0, rhythm=_NEVER, peak=(5, 30),
        disk_peak=(0.01, 2), memory_floor=_NEVER, latency=(5, 30), leaks_per_day=0.02, incidents_per_day=0.03,
        causes=(2, 2, 1, 1, 0, 2),
    ),
}  # fmt: skip


def fleet_names(servers: int) -> dict[str, str]:
    """Name and profile of each server of a fleet, in the proportions of the default one (largest remainder).

    Examples
    --------
    >>> fleet_names(2)
    {'ppweb001': 'web_api', 'ppml0001': 'ml_compute'}
    """
    total = sum(DEFAULT_FLEET.values())
    counts = {profile: servers * share // total for profile, share in DEFAULT_FLEET.items()}
    remainders = sorted(DEFAULT_FLEET, key=lambda profile: -(servers * DEFAULT_FLEET[profile] % total))
    for profile in remainders[: servers - sum(counts.values())]:
        counts[profile] += 1
    return {
        format_name(profile, number): profile for profile, count in counts.items() for number in range(1, count + 1)
    }
