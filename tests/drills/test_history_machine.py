"""Whatever is done to the store, in whatever order: it holds what a plain dictionary holds."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

import history_store
from data_contract import (
    DAY_STEPS,
    METRIC_COLUMNS,
    PROFILE,
    REQUIRED_COLUMNS,
    SERVER_NAME,
    STATE,
    TIMESTAMP,
    DataFileError,
    profile_for_name,
)
from derived_columns import derived_state_names
from fleet_grid import step_of
from history_store import HistoryStore

START = datetime(2026, 1, 5, tzinfo=timezone.utc)
STEP = timedelta(minutes=5)
DAY = timedelta(days=1)
SERVERS = ("ppweb001", "ppdb001", "mail.example.org", "x" * 253)

Key = tuple[str, datetime]
Values = tuple[float | None, ...]
Row = tuple[Key, Values, str | None]  # a state of None follows from the metrics

moments = st.builds(
    lambda day, step, micro: START + day * DAY + step * STEP + timedelta(microseconds=micro),
    st.integers(0, 4),
    st.sampled_from([0, 1, 2, 143, 286, 287]),
    st.sampled_from([0, 1, 150_000_000, 299_999_999]),
)
numbers = st.none() | st.integers(0, 100).map(float) | st.floats(0, 100, allow_subnormal=False).map(abs)
rows = st.tuples(
    st.tuples(st.sampled_from(SERVERS), moments),
    st.tuples(*[numbers] * len(METRIC_COLUMNS)),
    st.sampled_from([None, None, "maintenance", "offline"]),
)
frames = st.lists(rows, max_size=12)


def derived(values: Values) -> str:
    arrays = {
        name: np.array([math.nan if value is None else value])
        for name, value in zip(METRIC_COLUMNS, values, strict=True)
    }
    return str(derived_state_names(arrays, 1)[0])


def as_frame(rows_: Sequence[Row]) -> pd.DataFrame:
    frame = pd.DataFrame(
        [
            [moment, name, *values, derived(values) if state is None else state, profile_for_name(name)]
            for (name, moment), values, state in rows_
        ],
        columns=list(REQUIRED_COLUMNS),
    )
    frame[TIMESTAMP] = pd.to_datetime(frame[TIMESTAMP], utc=True).dt.as_unit("us")
    return frame.astype(dict.fromkeys(METRIC_COLUMNS, "float64"))


class HistoryMachine(RuleBasedStateMachine):
    """The store beside `self.kept`: (server, time) → metrics and state."""

    sent = Bundle("sent")

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="history-machine-"))
        self.kept: dict[Key, tuple[Values, str]] = {}
        self.store = HistoryStore(self.folder)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    # --- what is done
    @rule(target=sent, frame=frames)
    def append(self, frame: list[Row]) -> list[Row]:
        expected = self.take(frame)
        assert self.store.append(as_frame(frame)).tolist() == expected
        return frame

    @rule(frame=sent)
    def send_again(self, frame: list[Row]) -> None:
        kept = dict(self.kept)
        expected = self.take(frame)  # of what was pruned, rows are new again
        assert self.store.append(as_frame(frame)).tolist() == expected
        assert all(expected) or kept.keys() & {key for key, _, _ in frame}

    @rule(several=st.lists(frames, max_size=4))
    def append_several(self, several: list[list[Row]]) -> None:
        expected = [self.take(frame) for frame in several]
        stored = self.store.append_all([as_frame(frame) for frame in several])
        assert [each.changed.tolist() for each in stored] == expected

    @rule(moment=moments)
    def compact(self, moment: datetime) -> None:
        whole = step_of(moment) // DAY_STEPS
        there = sum(step_of(at) // DAY_STEPS < whole for _, at in self.kept)
        moved = self.store.compact(moment)
        assert moved <= there
        connection = self.store._file._connection
        left = connection.execute("SELECT count(*) FROM samples WHERE step < ?", (whole * DAY_STEPS,)).fetchone()[0]
        assert left == 0 and set(self.store.days.days) >= {
            step_of(at) // DAY_STEPS for _, at in self.kept if step_of(at) // DAY_STEPS < whole
        }

    @rule(moment=moments)
    def compact_and_crash_before_rows_are_deleted(self, moment: datetime) -> None:
        """The file is in its place, and SQLite still has all that is in it, or a part."""
        delete, calls = HistoryStore._delete, iter(range(1000))

        def crash(store: HistoryStore, after: int, until: int) -> int:
            if next(calls) > 2:
                raise DataFileError("killed", why="", fix="")
            return delete(store, after, until)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(HistoryStore, "_delete", crash)
            with contextlib.suppress(DataFileError):
                self.store.compact(moment)
        self.close_and_open()

    @rule(moment=moments)
    def prune(self, moment: datetime) -> None:
        names = {name for name, _ in self.kept}
        before = step_of(moment)
        if before // DAY_STEPS in self.store.days.days:
            before -= before % DAY_STEPS  # a day that has a file goes as a whole
        self.kept = {key: row for key, row in self.kept.items() if step_of(key[1]) >= before}
        assert set(self.store.prune(moment)) == names - {name for name, _ in self.kept}

    @rule()
    def close_and_open(self) -> None:
        self.store.close()
        self.store = HistoryStore(self.folder)
        assert self.store.set_aside is None and self.store.rescued_rows == 0

    @rule(frame=frames)
    def append_to_a_full_disk(self, frame: list[Row]) -> None:
        """More than fits, so that the transaction fails half-way; the next one is whole again."""
        connection = self.store._file._connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        many = [
            (("ppml0001", START + timedelta(seconds=number)), (1.0,) * len(METRIC_COLUMNS), None)
            for number in range(500)
        ]
        try:
            with pytest.raises(DataFileError, match="full"):
                self.store.append_all([as_frame(frame), as_frame(many)])
        finally:
            connection.execute("PRAGMA max_page_count = 1000000")

    # --- what is seen
    @invariant()
    def it_knows_what_it_holds(self) -> None:
        times = [moment for _, moment in self.kept]
        assert self.store.rows == len(self.kept)
        assert self.store.oldest == min(times, default=None)
        assert self.store.newest == max(times, default=None)
        for name in SERVERS:
            own = [moment for server, moment in self.kept if server == name]
            assert self.store.last_seen(name) == max(own, default=None)
            assert self.store.profile(name) == (profile_for_name(name) if own else None)
        assert self.store.servers == len({name for name, _ in self.kept})

    @rule(since=st.none() | moments)
    def look_through_a_window(self, since: datetime | None) -> None:
        first = -1 if since is None else step_of(since)
        expected = {key: row for key, row in self.kept.items() if step_of(key[1]) >= first}
        window = self.store.window(since)
        assert len(window) == len(expected)
        found = {}
        for name, moment, *values, state, profile in window[
            [SERVER_NAME, TIMESTAMP, *METRIC_COLUMNS, STATE, PROFILE]
        ].itertuples(index=False):
            assert profile == profile_for_name(name)
            plain = tuple(None if math.isnan(value) else value for value in values)
            found[name, moment.to_pydatetime()] = (plain, state)
        assert found == expected

    @rule(since=st.none() | moments)
    @precondition(lambda self: len(self.kept) > 5)
    def turn_pages(self, since: datetime | None) -> None:
        before, history_store._PAGE_ROWS = history_store._PAGE_ROWS, 3
        try:
            pages = list(self.store.pages(since))
        finally:
            history_store._PAGE_ROWS = before
        steps = [step_of(moment) for page in pages for moment in page[TIMESTAMP]]
        assert steps == sorted(steps)
        first = -1 if since is None else step_of(since)
        assert len(steps) == sum(step_of(moment) >= first for _, moment in self.kept)

    @rule(name=st.sampled_from((*SERVERS, "nobody")), moment=moments, count=st.integers(1, 700))
    def look_at_a_servers_steps(self, name: str, moment: datetime, count: int) -> None:
        first = step_of(moment)
        found = self.store.server_steps(name, first, first + count - 1)
        assert list(found.index) == list(range(first, first + count))
        own: dict[int, list[tuple[datetime, Values, str]]] = {}
        for (server, at), (values, state) in self.kept.items():
            if server == name and first <= step_of(at) < first + count:
                own.setdefault(step_of(at), []).append((at, values, state))
        filled = found[found[STATE].notna()]
        assert set(filled.index) == set(own)
        for step, there in own.items():
            there.sort(key=lambda row: row[0])
            assert found.loc[step, STATE] == there[-1][2]
            for k, column in enumerate(METRIC_COLUMNS):
                reported = [values[k] for _, values, _ in there if values[k] is not None]
                expected = sum(reported) / len(reported) if reported else math.nan
                assert found.loc[step, column] == pytest.approx(expected, nan_ok=True, rel=1e-12, abs=1e-12)

    # --- the model
    def take(self, frame: Sequence[Row]) -> list[bool]:
        """What the contract of the store says: the first value of each metric stays, a lacking one is added.

        Within a frame, rows that are new come first; then the others add what is lacking, in their order.
        """
        changed = [False] * len(frame)
        for position, (key, values, state) in enumerate(frame):
            if key not in self.kept:
                self.kept[key] = (values, derived(values) if state is None else state)
                changed[position] = True
        for position, (key, values, _) in enumerate(frame):
            before, state = self.kept[key]
            after = tuple(new if old is None else old for old, new in zip(before, values, strict=True))
            if not changed[position] and after != before:
                self.kept[key] = (after, derived(after) if state == derived(before) else state)
                changed[position] = True
        return changed


HistoryMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
test_the_store_holds_what_a_dictionary_holds = HistoryMachine.TestCase
