"""Which servers a generated fleet has, and how each role behaves: load through the day, noise, jobs, leaks, incidents.

Numbers only; what becomes of them is `fleet_simulation.py`'s work. They are plausible, not measured: normal peaks stay
below the default thresholds of `config.py`, incidents go beyond them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from data_contract import DEFAULT_FLEET, format_name

Range = tuple[float, float]

_NEVER: Range = (0.0, 0.0)


@dataclass(frozen=True)
class Role:
    """How servers of a profile behave; every range is drawn from once per server.

    CPU is in points of percent, disk in MB/s, latency in ms, times of day in hours.
    """

    cpu_rest: Range
    business: Range  # CPU added in office hours
    morning: Range  # CPU added at the peak of the morning
    evening: Range
    night_batch: Range  # CPU added while the nightly batch runs
    market_close: Range  # CPU added while the risk run after market close goes on
    daily_job: Range  # CPU added by one short job at a fixed time of the day
    follows_batches: Range  # CPU added when all batches of the fleet run
    weekend: float  # share of the office-hour load that is left on Saturday and Sunday
    memory: Range
    memory_of_load: float  # points per 100 points of CPU
    disk: Range
    disk_of_cpu: float  # MB/s per point of CPU
    disk_of_batch: Range
    latency: Range
    noise: Range  # standard deviation of CPU
    bursts_per_day: float
    burst_size: float
    jobs_per_day: float
    leaks_per_day: float
    incidents_per_day: float


ROLES: Final[dict[str, Role]] = {
    "web_api": Role(
        cpu_rest=(8, 16), business=(20, 34), morning=(16, 28), evening=(6, 14), night_batch=_NEVER,
        market_close=_NEVER, daily_job=_NEVER, follows_batches=_NEVER, weekend=0.55, memory=(40, 60),
        memory_of_load=15, disk=(4, 12), disk_of_cpu=0.15, disk_of_batch=_NEVER, latency=(25, 60), noise=(1.5, 3.5),
        bursts_per_day=3, burst_size=10, jobs_per_day=0, leaks_per_day=0.12, incidents_per_day=0.10,
    ),
    "ml_compute": Role(
        cpu_rest=(3, 8), business=(2, 7), morning=_NEVER, evening=_NEVER, night_batch=_NEVER, market_close=_NEVER,
        daily_job=_NEVER, follows_batches=_NEVER, weekend=0.7, memory=(28, 45), memory_of_load=35, disk=(8, 25),
        disk_of_cpu=1.2, disk_of_batch=_NEVER, latency=(15, 40), noise=(1.0, 2.5), bursts_per_day=1, burst_size=8,
        jobs_per_day=2.5, leaks_per_day=0.08, incidents_per_day=0.08,
    ),
    "database": Role(
        cpu_rest=(12, 22), business=(18, 30), morning=(10, 20), evening=(3, 8), night_batch=(6, 14),
        market_close=(0, 8), daily_job=_NEVER, follows_batches=_NEVER, weekend=0.6, memory=(62, 80),
        memory_of_load=8, disk=(40, 110), disk_of_cpu=1.8, disk_of_batch=(120, 280), latency=(4, 14),
        noise=(1.5, 3.0), bursts_per_day=2, burst_size=9, jobs_per_day=0, leaks_per_day=0.04, incidents_per_day=0.10,
    ),
    "conductor_mgmt": Role(
        cpu_rest=(6, 12), business=(8, 14), morning=(8, 16), evening=_NEVER, night_batch=_NEVER, market_close=_NEVER,
        daily_job=_NEVER, follows_batches=(18, 32), weekend=0.5, memory=(35, 55), memory_of_load=12, disk=(3, 10),
        disk_of_cpu=0.2, disk_of_batch=_NEVER, latency=(8, 20), noise=(1.0, 2.5), bursts_per_day=2, burst_size=7,
        jobs_per_day=0, leaks_per_day=0.10, incidents_per_day=0.06,
    ),
    "data_ingest": Role(
        cpu_rest=(6, 12), business=(6, 12), morning=(0, 6), evening=_NEVER, night_batch=(40, 60), market_close=_NEVER,
        daily_job=_NEVER, follows_batches=_NEVER, weekend=0.8, memory=(38, 52), memory_of_load=25, disk=(25, 60),
        disk_of_cpu=0.5, disk_of_batch=(200, 380), latency=(40, 90), noise=(1.5, 3.5), bursts_per_day=2, burst_size=9,
        jobs_per_day=0, leaks_per_day=0.08, incidents_per_day=0.09,
    ),
    "risk_analytics": Role(
        cpu_rest=(4, 9), business=(9, 16), morning=(0, 6), evening=_NEVER, night_batch=_NEVER, market_close=(44, 60),
        daily_job=_NEVER, follows_batches=_NEVER, weekend=0.15, memory=(35, 52), memory_of_load=28, disk=(8, 25),
        disk_of_cpu=0.8, disk_of_batch=(20, 70), latency=(60, 140), noise=(1.5, 3.0), bursts_per_day=1, burst_size=8,
        jobs_per_day=0, leaks_per_day=0.06, incidents_per_day=0.08,
    ),
    "generic": Role(
        cpu_rest=(0.5, 2.5), business=(0, 2), morning=_NEVER, evening=_NEVER, night_batch=_NEVER, market_close=_NEVER,
        daily_job=(0, 35), follows_batches=_NEVER, weekend=0.6, memory=(12, 38), memory_of_load=20, disk=(0.2, 2),
        disk_of_cpu=0.4, disk_of_batch=_NEVER, latency=(5, 30), noise=(0.2, 0.6), bursts_per_day=1.5, burst_size=22,
        jobs_per_day=0, leaks_per_day=0.03, incidents_per_day=0.04,
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
