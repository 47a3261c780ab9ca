"""Which rows a generated fleet has: options → Arrow tables in the contract's schema, piece by piece, without end.

Knows nothing of files and HTTP. The rows for a start, seed and size do not depend on how long the fleet is watched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from common_utils import floor_to_step, utc_now
from contract_parquet import CONTRACT_SCHEMA
from data_contract import METRIC_COLUMNS, SERVER_NAME, STEP_MINUTES, VALID_PROFILES, VALID_STATES, ConfigurationError
from fleet_incidents import Incident
from fleet_simulation import FleetSimulator, Pressure, SimulatedDay
from server_encoder import ID_SPACE

OfflineMode = Literal["dense", "sparse"]
Scenario = Literal["healthy", "degrading", "critical"]

LEAST_HOURS: Final = 24

# Rows that are finer than the 5-minute step stray around it by so much of the value (standard deviation), and come
# from the value of the step before within about a minute.
_FINE_NOISE: Final = np.array([0.05, 0.01, 0.1, 0.06], np.float32)
_FINE_MINUTES: Final = 0.75
_FINE_QUANTUM: Final = np.array([0.01, 0.01, 0.001, 0.01], np.float32)

_PIECE_ROWS: Final = 400_000  # in one table, unless one hour has more

# One row per incident: when its first sign could be seen, when a threshold broke, when all was well again.
INCIDENTS_SCHEMA: Final = pa.schema(
    [
        pa.field(SERVER_NAME, pa.string(), nullable=False),
        pa.field("cause", pa.string(), nullable=False),
        pa.field("onset", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("breach", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("end", pa.timestamp("us", tz="UTC")),  # null: it went on when the data ended
    ]
)

Floats = npt.NDArray[np.floating[Any]]

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
    interval_seconds : int
        Seconds between two rows of a server, 1 to 300, a divisor of 300: finer rows stray around the value of their
        5-minute step.
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
    interval_seconds: int = 60 * STEP_MINUTES
    start: datetime | None = None
    seed: int = 42
    offline_mode: OfflineMode = "dense"
    scenario: Scenario = "healthy"

    def __post_init__(self) -> None:
        for name, low, high in (
            ("servers", 1, ID_SPACE // 10),  # ids of a fuller space would collide all the time
            ("hours", LEAST_HOURS, 24 * 366 * 10),
            ("interval_seconds", 1, 60 * STEP_MINUTES),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise wrong_option(f"{name} must be a whole number from {low:,} to {high:,}, not {value!r}")
        if 60 * STEP_MINUTES % self.interval_seconds:
            raise wrong_option(
                f"interval_seconds must divide the {STEP_MINUTES}-minute step, and {self.interval_seconds} does not"
            )
        for name, choices in (("offline_mode", get_args(OfflineMode)), ("scenario", get_args(Scenario))):
            if getattr(self, name) not in choices:
                raise wrong_option(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        start = self.start or utc_now() - timedelta(hours=self.hours)
        if not 1970 <= start.year <= 2200:
            raise wrong_option(f"start must lie between 1970 and 2200, not {start:%Y-%m-%d}")
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
        return self.servers * self.hours * 3600 // self.interval_seconds


def scenario_pressure(scenario: Scenario, onset: datetime, *, live: bool = False) -> tuple[Pressure, ...]:
    """What a scenario does to a fleet from `onset` on; live it is quick enough to be watched."""
    if scenario == "healthy":
        return ()
    spread, ramp = {
        ("degrading", False): (96.0, (2.0, 5.5)),
        ("degrading", True): (6.0, (0.75, 2.0)),
        ("critical", False): (12.0, (0.5, 3.0)),
        ("critical", True): (0.5, (0.25, 0.5)),
    }[scenario, live]
    share = {"degrading": 0.5, "critical": 0.4}[scenario]
    return (Pressure(onset, share, spread, ramp),)


class FleetRows:
    """The rows of a fleet, day by day and piece by piece; the same whatever the size of the pieces.

    Parameters
    ----------
    options : GeneratorOptions
    pressures : sequence of Pressure
        Scenarios laid over the fleet beside that of the options.
    piece_rows : int
        Most rows in a piece, unless one hour has more.
    """

    def __init__(
        self, options: GeneratorOptions, pressures: Sequence[Pressure] = (), piece_rows: int = _PIECE_ROWS
    ) -> None:
        self.options = options
        of_file = scenario_pressure(options.scenario, options.begin + timedelta(hours=6))
        self._simulator = FleetSimulator(options.servers, options.begin, options.seed, (*of_file, *pressures))
        self._names = list(self._simulator.names)
        self._dictionaries = (pa.array(self._names, pa.string()), pa.array(VALID_STATES), pa.array(VALID_PROFILES))
        profiles = self._simulator.names.values()
        self._profiles = np.array([VALID_PROFILES.index(profile) for profile in profiles], np.int32)
        self._piece_hours = max(1, piece_rows * options.interval_seconds // (3600 * options.servers))

    def days(self, since: datetime, until: datetime | None) -> Iterator[SimulatedDay]:
        """Let the fleet live and give the days that touch a time (until None: without end)."""
        for day in self._simulator.days():
            if until is not None and day.begin >= until:
                return
            if day.begin + timedelta(days=1) > since:
                yield day

    def pieces(self, day: SimulatedDay, since: datetime, until: datetime | None) -> Iterator[pa.Table]:
        """Rows of one day from `since` on and before `until`, sorted by time; nothing is there before the start."""
        for task in self.tasks(day, since, until):
            table = task()
            if table.num_rows:  # sparse: all may be offline
                yield table

    def tasks(self, day: SimulatedDay, since: datetime, until: datetime | None) -> Iterator[Callable[[], pa.Table]]:
        """Make the pieces of a day in any thread: each call gives one."""
        since = max(since, self.options.begin)
        for hour in range(0, 24, self._piece_hours):
            begin = day.begin + timedelta(hours=hour)
            end = day.begin + timedelta(hours=min(24, hour + self._piece_hours))
            if end <= since or (until is not None and begin >= until):
                continue
            yield partial(self._table, day, max(begin, since), end if until is None else min(end, until))

    def incidents(self, befallen: Sequence[Incident], since: datetime, until: datetime) -> pa.Table:
        """Ground truth: incidents whose breach and end a time touches; those that went on beyond it have no end."""

        def moment(step: int) -> datetime:
            return self._simulator.moment(min(step, 1 << 27))

        within = [each for each in befallen if since < moment(each.end) and moment(each.breach) < until]
        names = [self._names[incident.server] for incident in within]
        causes = [incident.cause for incident in within]
        onsets, breaches = ([moment(getattr(each, part)) for each in within] for part in ("onset", "breach"))
        last = (until - moment(0)) // timedelta(minutes=STEP_MINUTES)
        ends = [moment(incident.end) if incident.end <= last else None for incident in within]
        return pa.table([names, causes, onsets, breaches, ends], schema=INCIDENTS_SCHEMA)

    def _table(self, day: SimulatedDay, since: datetime, until: datetime) -> pa.Table:
        interval = self.options.interval_seconds
        first, last = ((moment - day.begin) / timedelta(seconds=interval) for moment in (since, until))
        places = np.arange(math.ceil(first), math.ceil(last))  # rows of a server since midnight
        steps = places * interval // (60 * STEP_MINUTES)
        values, states = day.values[steps], day.states[steps]
        if interval < 60 * STEP_MINUTES:
            values = self._refined(day, places, values, states)
        servers = len(self._names)
        names, state_names, profile_names = self._dictionaries
        moments = (int(day.begin.timestamp()) + places * interval) * 1_000_000
        columns: list[Any] = [
            pa.array(np.repeat(moments, servers), pa.timestamp("us", tz="UTC")),
            pa.DictionaryArray.from_arrays(np.tile(np.arange(servers, dtype=np.int32), len(places)), names),
            *(pa.array(np.ascontiguousarray(values[..., place]).ravel()) for place in range(len(METRIC_COLUMNS))),
            pa.DictionaryArray.from_arrays(states.ravel().astype(np.int32), state_names),
            pa.DictionaryArray.from_arrays(np.tile(self._profiles, len(places)), profile_names),
        ]
        table = pa.table(columns, schema=CONTRACT_SCHEMA)
        return table if self.options.offline_mode == "dense" else table.filter(pa.array(states.ravel() != _OFFLINE))

    def _refined(
        self, day: SimulatedDay, places: npt.NDArray[np.int64], values: Floats, states: npt.NDArray[np.int8]
    ) -> Floats:
        """Rows within the steps: they come from the value before and stray, each hour with noise of its own."""
        interval = self.options.interval_seconds
        per_step, per_hour = 60 * STEP_MINUTES // interval, 3600 // interval
        steps = places // per_step
        before = np.where(steps[:, None, None] > 0, day.values[np.maximum(steps - 1, 0)], day.before[None])
        minutes = (places % per_step)[:, None, None] * np.float32(interval / 60)
        fine: Floats = values + (before - values) * np.exp(-(minutes + interval / 120) / _FINE_MINUTES).astype(
            np.float32
        )
        noise = np.concatenate(
            [
                np.random.default_rng([self.options.seed, 2, day.begin.toordinal(), hour]).standard_normal(
                    (per_hour, *values.shape[1:]), dtype=np.float32
                )
                for hour in range(int(places[0]) // per_hour, int(places[-1]) // per_hour + 1)
            ]
        )
        begin = int(places[0]) % per_hour
        fine *= 1 + _FINE_NOISE * noise[begin : begin + len(places)].clip(-4, 4)
        fine = np.rint(fine / _FINE_QUANTUM) * _FINE_QUANTUM
        fine[..., :2] = np.minimum(fine[..., :2], 100)
        fine[states == _OFFLINE] = 0
        return fine


def fleet_tables(
    options: GeneratorOptions, since: datetime, until: datetime | None, pressures: Sequence[Pressure] = ()
) -> Iterator[pa.Table]:
    """Rows from `since` on and before `until` (None: without end), piece by piece, sorted by time.

    `since` may be before or after the time that `options` watch; the fleet is the same. Nothing is there before
    its start.
    """
    rows = FleetRows(options, pressures)
    for day in rows.days(since, until):
        yield from rows.pieces(day, since, until)


def wrong_option(reason: str) -> ConfigurationError:
    """Error for an option of a fleet that cannot be made."""
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
