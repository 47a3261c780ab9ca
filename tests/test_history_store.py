"""The daemon's store: nothing acknowledged is lost, nothing is stored twice, nothing is half-written."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import history_store
from data_contract import (
    METRIC_COLUMNS,
    PROFILE,
    REQUIRED_COLUMNS,
    SERVER_NAME,
    STATE,
    TIMESTAMP,
    DaemonError,
    DataFileError,
)
from data_validator import DataValidator
from derived_columns import derived_state_names
from fleet_grid import FleetGrid, step_of
from history_store import HistoryStore
from history_tables import SCHEMA, STORE_FILE

START = datetime(2026, 1, 5, tzinfo=timezone.utc)
ROOT = Path(history_store.__file__).parent


def rows(
    names: tuple[str, ...] = ("ppweb001", "ppdb001"),
    steps: int = 6,
    start: datetime = START,
    minutes: float = 5,
    value: float | None = None,
    profile: str | None = None,
    state: str = "healthy",
) -> pd.DataFrame:
    times = pd.date_range(start, periods=steps, freq=pd.Timedelta(minutes=minutes)).as_unit("us")
    frame = pd.DataFrame([(moment, name) for moment in times for name in names], columns=[TIMESTAMP, SERVER_NAME])
    numbers = np.random.default_rng(0).uniform(0, 100, (len(frame), len(METRIC_COLUMNS)))
    frame[list(METRIC_COLUMNS)] = numbers if value is None else value
    frame[STATE] = state
    frame[PROFILE] = profile or frame[SERVER_NAME].map({"ppdb001": "database"}).fillna("web_api")
    return frame


def by_server_and_time(frame: pd.DataFrame) -> pd.DataFrame:
    plain = frame.astype({SERVER_NAME: object, STATE: object, PROFILE: object})
    return plain.sort_values([SERVER_NAME, TIMESTAMP]).reset_index(drop=True)[list(REQUIRED_COLUMNS)]


def assert_same_rows(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(by_server_and_time(found), by_server_and_time(expected))


def test_rows_come_back_exactly_after_the_store_was_closed_and_opened_again(tmp_path: Path) -> None:
    frame = rows()
    frame.loc[3, "cpu_pct"] = np.nan
    frame["latency_ms"] = np.nan
    with HistoryStore(tmp_path) as store:
        assert store.append(frame).all()
    with HistoryStore(tmp_path) as store:
        assert_same_rows(store.window(), frame)
        assert (store.rows, store.servers) == (12, 2)
        assert (store.oldest, store.newest) == (START, START + timedelta(minutes=25))
        assert store.last_seen("ppdb001") == START + timedelta(minutes=25)
        assert store.profile("ppdb001") == "database" and store.profile("nobody") is None
        assert store.set_aside is None


def test_a_new_store_is_empty(tmp_path: Path) -> None:
    with HistoryStore(tmp_path / "made" / "here") as store:
        assert (store.rows, store.servers, store.oldest, store.newest) == (0, 0, None, None)
        assert list(store.window().columns) == list(REQUIRED_COLUMNS) and store.window().empty
        assert store.append(rows().iloc[:0]).tolist() == []


def test_the_first_value_of_a_server_and_time_stays(tmp_path: Path) -> None:
    first = rows(value=1.0)
    with HistoryStore(tmp_path) as store:
        store.append(first)
        later = pd.concat([rows(value=2.0), rows(start=START + timedelta(minutes=30), value=3.0)], ignore_index=True)
        assert store.append(later).tolist() == [False] * 12 + [True] * 12
        assert store.rows == 24
        assert sorted(set(store.window()["cpu_pct"])) == [1.0, 3.0]


def test_of_equal_rows_in_one_frame_the_first_is_stored(tmp_path: Path) -> None:
    frame = pd.concat([rows(steps=1, value=1.0), rows(steps=1, value=2.0)], ignore_index=True)
    with HistoryStore(tmp_path) as store:
        assert store.append(frame).tolist() == [True, True, False, False]
        assert set(store.window()["mem_pct"]) == {1.0}


def partial(
    moment: datetime = START, name: str = "ppweb001", state: str | None = None, **metrics: float
) -> pd.DataFrame:
    """One row with some metrics; its state follows from them unless it is stated."""
    values = {column: np.array([metrics.get(column, np.nan)]) for column in METRIC_COLUMNS}
    frame = pd.DataFrame({TIMESTAMP: pd.DatetimeIndex([moment]).as_unit("us"), SERVER_NAME: [name], **values})
    frame[STATE] = state or derived_state_names(values, 1)
    frame[PROFILE] = "web_api"
    return frame


def test_metrics_that_come_one_after_the_other_become_one_row(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        assert store.append(partial(mem_pct=40.0)).all()
        late, again = store.append_all([partial(cpu_pct=97.0, mem_pct=50.0), partial(cpu_pct=1.0, mem_pct=2.0)])
        assert late.changed.all() and not again.changed.any() and again.added.empty
        # memory takes in what is new alone, with the state that the whole row now has
        assert late.added["cpu_pct"].tolist() == [97.0] and late.added["mem_pct"].isna().all()
        assert late.added[STATE].tolist() == ["critical_issue"]
        assert store.rows == 1
    with HistoryStore(tmp_path) as store:
        assert_same_rows(store.window(), partial(cpu_pct=97.0, mem_pct=40.0))


def test_a_stated_state_outlives_a_late_metric_and_parts_of_one_frame_join(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        store.append(partial(mem_pct=40.0, state="maintenance"))
        store.append(partial(cpu_pct=97.0))
        other = [partial(name="ppdb001", cpu_pct=20.0), partial(name="ppdb001", latency_ms=9.0), rows(steps=2)]
        stored = store.append_all([pd.concat(other, ignore_index=True)])[0]
        assert stored.changed.tolist() == [True, True, True, True, True, True]
        found = store.window().set_index([TIMESTAMP, SERVER_NAME]).loc[START]
        assert found.loc["ppweb001", STATE] == "maintenance" and found.loc["ppweb001", "cpu_pct"] == 97.0
        assert found.loc["ppdb001", ["cpu_pct", "latency_ms"]].tolist() == [20.0, 9.0]
        assert store.rows == 4


def test_a_late_metric_may_state_the_profile_and_a_repetition_may_not(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        store.append(partial(mem_pct=40.0))
        store.append(partial(mem_pct=40.0).assign(**{PROFILE: "generic"}))
        assert store.profile("ppweb001") == "web_api"
        late = store.append_all([partial(cpu_pct=50.0).assign(**{PROFILE: "database"})])[0]
        assert store.profile("ppweb001") == "database" == late.added[PROFILE].item()
    with HistoryStore(tmp_path) as store:
        assert store.profile("ppweb001") == "database" and set(store.window()[PROFILE]) == {"database"}


def test_a_late_metric_that_cannot_be_written_leaves_the_row_as_it_was(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        store.append(partial(mem_pct=40.0))
        store._file._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(DataFileError):
            store.append(partial(cpu_pct=97.0))
        store._file._connection.execute("PRAGMA query_only = OFF")
        assert_same_rows(store.window(), partial(mem_pct=40.0))
        assert store.append(partial(cpu_pct=97.0)).all()


def test_times_that_differ_by_a_microsecond_are_two_rows(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        store.append(rows(steps=1))
        assert store.append(rows(steps=1, start=START + timedelta(microseconds=1))).all()
        assert store.newest == START + timedelta(microseconds=1)


def test_frames_of_one_group_know_each_other(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        fresh = store.append_all([rows(steps=2), rows(steps=3), rows(names=("ppml0001",), steps=1)])
        assert [each.changed.sum() for each in fresh] == [4, 2, 1]
        assert (store.rows, store.servers) == (7, 3)


def test_what_is_kept_is_valid_contract_data_in_any_column_type(tmp_path: Path) -> None:
    frame = rows().astype({SERVER_NAME: "category", STATE: "category", PROFILE: "category", "cpu_pct": "float32"})
    with HistoryStore(tmp_path) as store:
        store.append(frame)
        valid, errors, warnings = DataValidator().validate_schema(store.window())
        assert (valid, errors, warnings) == (True, [], [])


def test_naive_times_are_utc(tmp_path: Path) -> None:
    frame = rows()
    frame[TIMESTAMP] = frame[TIMESTAMP].dt.tz_localize(None)
    with HistoryStore(tmp_path) as store:
        store.append(frame)
        assert not store.append(rows()).any()


def test_a_window_begins_with_the_step_of_its_moment_and_pages_join_without_a_seam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_store, "_PAGE_ROWS", 7)
    frame = rows(names=("ppweb001", "ppdb001", "ppml0001"), steps=20, minutes=2.5)
    with HistoryStore(tmp_path) as store:
        store.append(frame)
        assert_same_rows(pd.concat(store.pages()), frame)
        assert_same_rows(
            store.window(START + timedelta(minutes=12)), frame[frame[TIMESTAMP] >= START + timedelta(minutes=10)]
        )


def test_a_servers_steps_hold_means_last_states_and_gaps(tmp_path: Path) -> None:
    fine = rows(names=("ppweb001",), steps=20, minutes=1)
    fine.loc[4, STATE] = "heavy_load"  # the last minute of the first step
    fine.loc[[0, 1, 2, 3, 4], "latency_ms"] = np.nan
    fine = fine.drop(index=range(5, 10))
    with HistoryStore(tmp_path) as store:
        store.append(pd.concat([fine, rows(names=("ppdb001",))]))
        steps = store.server_steps("ppweb001", step_of(START), step_of(START) + 4)
        grid = FleetGrid.from_frame(fine)
        np.testing.assert_allclose(steps[list(METRIC_COLUMNS)].to_numpy()[:4], grid.values[0], rtol=1e-5)
        assert steps[STATE].tolist() == ["heavy_load", None, "healthy", "healthy", None]
        assert steps["latency_ms"].isna().tolist() == [True, True, False, False, True]
        assert store.server_steps("nobody", 0, 3)["cpu_pct"].isna().all()


def test_the_profile_given_last_by_a_new_row_is_the_servers(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        store.append(rows(names=("host1",), profile="generic"))
        store.append(rows(names=("host1",), profile="database"))  # all known: changes nothing
        assert store.profile("host1") == "generic"
        store.append(rows(names=("host1",), steps=7, profile="database"))
        assert store.profile("host1") == "database"
    with HistoryStore(tmp_path) as store:
        assert set(store.window()[PROFILE]) == {"database"}


def test_pruning_deletes_old_steps_and_names_servers_of_which_nothing_is_left(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        store.append(rows(names=("old",), steps=40))
        store.append(rows(names=("ppweb001",), steps=100))
        assert store.prune(START) == []
        cut = START + timedelta(minutes=5 * 60)
        assert store.prune(cut) == ["old"]
        assert (store.rows, store.servers, store.oldest) == (40, 1, cut)
        assert store.append(rows(names=("old",), steps=1, start=cut)).all()
    with HistoryStore(tmp_path) as store:
        assert (store.rows, store.servers, store.oldest) == (41, 2, cut)
        assert set(store.prune(cut + timedelta(days=9))) == {"old", "ppweb001"}
        assert (store.rows, store.servers, store.oldest, store.newest) == (0, 0, None, None)


def test_a_full_disk_refuses_rows_whole_and_recovers_without_a_restart(tmp_path: Path) -> None:
    with HistoryStore(tmp_path) as store:
        store.append(rows())
        pages = store._file._connection.execute("PRAGMA page_count").fetchone()[0]
        store._file._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        many = rows(names=("ppml0001", "ppml0002"), steps=2_000)
        with pytest.raises(DataFileError, match="full") as caught:
            store.append_all([rows(start=START + timedelta(hours=1)), many])
        assert caught.value.document == "Docs/DAEMON.md"
        assert (store.rows, store.servers, store.newest) == (12, 2, START + timedelta(minutes=25))
        assert_same_rows(store.window(), rows())
        store._file._connection.execute("PRAGMA max_page_count = 1000000")
        assert store.append(many).all()
    with HistoryStore(tmp_path) as store:
        assert store.rows == 12 + len(many) and store.set_aside is None


@pytest.mark.parametrize("damage", [lambda content: b"this is no database at all" * 100, lambda content: b""])
def test_a_file_that_holds_nothing_any_more_is_set_aside_and_a_new_one_begun(tmp_path: Path, damage) -> None:
    """What can be read of a damaged file is saved: see tests/drills/test_history_damage.py."""
    with HistoryStore(tmp_path) as store:
        store.append(rows(steps=2_000))
    path = tmp_path / STORE_FILE
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with HistoryStore(tmp_path) as store:
        assert (store.set_aside is not None) == bool(damaged)  # an empty file is a new one
        if store.set_aside is not None:
            assert store.set_aside.read_bytes() == damaged
            assert store.set_aside.name.startswith(f"{STORE_FILE}.damaged-")
        assert (store.rows, store.rescued_rows) == (0, 0)
        assert store.append(rows()).all()
    with HistoryStore(tmp_path) as store:
        assert store.set_aside is None and store.rows == 12 and store.rescued_rows == 0


def test_a_second_owner_of_the_file_is_refused(tmp_path: Path) -> None:
    with HistoryStore(tmp_path), pytest.raises(DaemonError, match="in use by another process"):
        HistoryStore(tmp_path)
    HistoryStore(tmp_path).close()


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / STORE_FILE)
    connection.execute("CREATE TABLE theirs (a)")
    connection.commit()
    connection.close()
    before = (tmp_path / STORE_FILE).read_bytes()
    with pytest.raises(DaemonError, match="not written by this product"):
        HistoryStore(tmp_path)
    assert (tmp_path / STORE_FILE).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [STORE_FILE]


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    HistoryStore(tmp_path).close()
    connection = sqlite3.connect(tmp_path / STORE_FILE)
    connection.execute(f"PRAGMA user_version = {SCHEMA.version + 1}")
    connection.close()
    with pytest.raises(DaemonError, match="reads up to 1"):
        HistoryStore(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [STORE_FILE]


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataFileError, match="cannot be opened") as caught:
        HistoryStore(tmp_path / "file" / "history")
    assert all(caught.value.as_dict().values())


WRITER = """
import sys
from datetime import timedelta
from pathlib import Path
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from test_history_store import START, rows
from history_store import HistoryStore
store = HistoryStore(Path(sys.argv[1]))
for number in range(100_000):
    store.append(rows(start=START + timedelta(hours=number)))
    print(number, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 40])
def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(ROOT), str(ROOT / "tests")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) == acknowledged:
                os.kill(writer.pid, signal.SIGKILL)
                break
        late = [int(line) for line in writer.stdout]
    last = max([acknowledged, *late])
    with HistoryStore(tmp_path) as store:
        assert store.set_aside is None
        window = store.window()
        hours = (window[TIMESTAMP] - START) // pd.Timedelta(hours=1)
        assert set(range(last + 1)) <= set(hours) <= set(range(last + 2))
        assert set(hours.value_counts()) == {12}, "a batch was stored in part or twice"
