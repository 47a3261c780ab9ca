"""Which rows a generated fleet has: options → Arrow tables in the contract's schema, one per day, without end.

Knows nothing of files and HTTP. The rows for a start, seed and size do not depend on how long the fleet is watched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from common_utils import floor_to_step, utc_now
from contract_parquet import CONTRACT_SCHEMA
from data_contract import METRIC_COLUMNS, STEP_MINUTES, VALID_PROFILES, VALID_STATES, ConfigurationError
from fleet_simulation import FleetSimulator, Pressure, SimulatedDay
from server_encoder import ID_SPACE

OfflineMode = Literal["dense", "sparse"]
Scenario = Literal["healthy", "degrading", "critical"]

LEAST_HOURS: Final = 24

# How far a row that is finer than the 5-minute grid strays from its step, as a share of the value.
_FINE_NOISE: Final = np.array([0.02, 0.002, 0.06, 0.05], np.float32)

_OFFLINE: Final = VALID_STATES.index("offline")


@dataclass(frozen=True)
class GeneratorOptions:
    """What fleet to make. Contradictions are refused.

    Attributes
    ----------
    servers : int
        Size of the fleet; the profiles keep the proportions of the default fleet of 90.
    hours : int
        How long it is watched, 24 or more.
    interval_minutes : int
        Minutes between two rows of a server, 1 to 5; finer rows stray around the value of their 5-minute step.
    start : datetime, optional
        First timestamp, UTC if it is naive, moved back to the 5-minute grid. By default the fleet ends now.
    seed : int
        Same seed, start and servers: same rows.
    offline_mode : {"dense", "sparse"}
        Servers that are down have rows with state `offline` and zero load, or no rows.
    scenario : {"healthy", "degrading", "critical"}
        With the latter two, from 6 hours after the start on, more and more servers are driven towards their
        thresholds: half of the fleet within four days, or 40 % of it within 12 hours.
    """

    servers: int = 90
    hours: int = 720
    interval_minutes: int = STEP_MINUTES
    start: datetime | None = None
    seed: int = 42
    offline_mode: OfflineMode = "dense"
    scenario: Scenario = "healthy"

    def __post_init__(self) -> None:
        for name, low, high in (
            ("servers", 1, ID_SPACE // 10),  # ids of a fuller space would collide all the time
            ("hours", LEAST_HOURS, 24 * 366 * 10),
            ("interval_minutes", 1, STEP_MINUTES),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise _wrong_option(f"{name} must be a whole number from {low:,} to {high:,}, not {value!r}")
        for name, choices in (("offline_mode", get_args(OfflineMode)), ("scenario", get_args(Scenario))):
            if getattr(self, name) not in choices:
                raise _wrong_option(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        start = self.start or utc_now() - timedelta(hours=self.hours)
        if not 1970 <= start.year <= 2200:
            raise _wrong_option(f"start must lie between 1970 and 2200, not {start:%Y-%m-%d}")
        object.__setattr__(self, "start", floor_to_step(start, STEP_MINUTES))

    @property
    def begin(self) -> datetime:
        """First timestamp, aware."""
        assert self.start is not None  # set by __post_init__
        return self.start

    @property
    def end(self) -> datetime:
        """First moment after the time that is watched."""
        return self.begin + timedelta(hours=self.hours)

    @property
    def most_rows(self) -> int:
        """Rows when every server has one at each step."""
        return self.servers * self.hours * 60 // self.interval_minutes


def scenario_pressure(scenario: Scenario, onset: datetime, *, live: bool = False) -> tuple[Pressure, ...]:
    """What a scenario does to a fleet from `onset` on; live it is quick enough to be watched."""
    if scenario == "healthy":
        return ()
    spread, ramp = {
        ("degrading", False): (96.0, (2.0, 8.0)),
        ("degrading", True): (6.0, (0.75, 2.0)),
        ("critical", False): (12.0, (0.5, 3.0)),
        ("critical", True): (0.5, (0.25, 0.5)),
    }[scenario, live]
    share = {"degrading": 0.5, "critical": 0.4}[scenario]
    return (Pressure(onset, share, spread, ramp),)


def fleet_tables(
    options: GeneratorOptions, since: datetime, until: datetime | None, pressures: Sequence[Pressure] = ()
) -> Iterator[pa.Table]:
    """Rows from `since` on and before `until` (None: without end), day by day, sorted by time.

    `since` may be before or after the time that `options` watch; the fleet is the same. Nothing is there before
    its start.
    """
    of_file = scenario_pressure(options.scenario, options.begin + timedelta(hours=6))
    simulator = FleetSimulator(options.servers, options.begin, options.seed, (*of_file, *pressures))
    names = pa.array(list(simulator.names), pa.string())
    profiles = np.array([VALID_PROFILES.index(profile) for profile in simulator.names.values()], np.int32)
    since = max(since, options.begin)
    for day in simulator.days():
        if until is not None and day.begin >= until:
            return
        if day.begin + timedelta(days=1) <= since:
            continue
        table = _table(options, day, since, until, names, profiles)
        if table.num_rows:
            yield table


def _table(
    options: GeneratorOptions,
    day: SimulatedDay,
    since: datetime,
    until: datetime | None,
    names: pa.Array,
    profiles: npt.NDArray[np.int32],
) -> pa.Table:
    values, states = day.values, day.states
    midnight = int(day.begin.timestamp())
    offset = (int(options.begin.timestamp()) - midnight) // 60 % options.interval_minutes
    minutes = np.arange(offset, 24 * 60, options.interval_minutes)
    if options.interval_minutes < STEP_MINUTES:
        values, states = values[minutes // STEP_MINUTES], states[minutes // STEP_MINUTES]
        rng = np.random.default_rng([options.seed, 2, day.begin.toordinal()])
        values = values * (1 + _FINE_NOISE * rng.standard_normal(values.shape, dtype=np.float32).clip(-4, 4))
        values[..., :2] = np.minimum(values[..., :2], 100)
        values = np.round(values, 2)
    seconds = midnight + minutes * 60
    keep = seconds >= since.timestamp()
    if until is not None:
        keep &= seconds < until.timestamp()
    values, states, seconds = values[keep], states[keep], seconds[keep]
    servers = len(names)
    columns: list[Any] = [
        pa.array(np.repeat(seconds * 1_000_000, servers), pa.timestamp("us", tz="UTC")),
        pa.DictionaryArray.from_arrays(np.tile(np.arange(servers, dtype=np.int32), len(seconds)), names),
        *(pa.array(np.ascontiguousarray(values[..., place]).ravel()) for place in range(len(METRIC_COLUMNS))),
        pa.DictionaryArray.from_arrays(states.ravel().astype(np.int32), pa.array(VALID_STATES)),
        pa.DictionaryArray.from_arrays(np.tile(profiles, len(seconds)), pa.array(VALID_PROFILES)),
    ]
    table = pa.table(columns, schema=CONTRACT_SCHEMA)
    return table if options.offline_mode == "dense" else table.filter(pa.array(states.ravel() != _OFFLINE))


def _wrong_option(reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"This fleet cannot be made: {reason}.",
        why="A fleet that differs from what you asked for would be learnt all the same.",
        fix="Correct the option; `python main.py generate --help` lists them with their bounds.",
        document="QUICK_START.md",
    )


def _self_check() -> None:
    start = datetime(2026, 1, 5, 13, 25, tzinfo=timezone.utc)
    short, long = (GeneratorOptions(servers=5, hours=hours, start=start, seed=7) for hours in (24, 48))
    first, whole = (pa.concat_tables(fleet_tables(each, each.begin, each.end)) for each in (short, long))
    assert (first.num_rows, whole.num_rows) == (short.most_rows, long.most_rows)
    assert first.equals(whole.slice(0, first.num_rows))
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
