"""Days of the history in files: what moves, what stays readable, and what a crash or damage costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import FLEET, make_fleet
from drills.test_disk_full import fill, small_disk
from test_daemon_process import daemon, json_rows, wait_for

from common_utils import floor_to_step, utc_now
from data_contract import METRIC_COLUMNS, REQUIRED_COLUMNS, SERVER_NAME, STEP_MINUTES, TIMESTAMP, DataFileError
from fleet_grid import step_of
from history_days import DAILY_FOLDER, HistoryDays
from history_store import HistoryStore

__all__ = ["small_disk"]  # a fixture

END = datetime(2026, 3, 9, tzinfo=timezone.utc)
ROOT = Path(__file__).resolve().parent.parent


def days_of_rows(days: int = 4) -> pd.DataFrame:
    return make_fleet(hours=24 * days, end=END)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HistoryStore]:
    with HistoryStore(tmp_path) as store:
        store.append(days_of_rows())
        yield store


def by_key(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.astype({SERVER_NAME: str, "state": str, "profile": str})
    return frame.sort_values([SERVER_NAME, TIMESTAMP]).reset_index(drop=True)[list(REQUIRED_COLUMNS)]


def test_whole_days_move_and_everything_is_read_as_before(store: HistoryStore, tmp_path: Path) -> None:
    rows, window = store.rows, by_key(store.window())
    first = step_of(END) - 3 * 288
    steps = store.server_steps("ppweb001", first, first + 700)
    assert store.compact(END - timedelta(hours=30)) == len(FLEET) * 288 * 2  # the day of that moment is not over
    assert sorted(path.name for path in (tmp_path / DAILY_FOLDER).iterdir()) == [
        "2026-03-05.parquet",
        "2026-03-06.parquet",
    ]
    assert store.rows == rows and store.compact(END - timedelta(hours=30)) == 0
    pd.testing.assert_frame_equal(by_key(store.window()), window)
    pd.testing.assert_frame_equal(store.server_steps("ppweb001", first, first + 700), steps)
    assert store.oldest == END - timedelta(days=4) and store.newest == END - timedelta(minutes=5)


def test_a_file_is_contract_parquet_that_others_can_read(store: HistoryStore, tmp_path: Path) -> None:
    store.compact(END)
    table = pq.read_table(tmp_path / DAILY_FOLDER / "2026-03-05.parquet")
    assert set(REQUIRED_COLUMNS) <= set(table.column_names) and table.num_rows == len(FLEET) * 288
    frame = table.to_pandas()
    assert frame[SERVER_NAME].astype(str).is_monotonic_increasing
    sent = days_of_rows().set_index([SERVER_NAME, TIMESTAMP])["cpu_pct"]
    assert np.array_equal(
        frame["cpu_pct"], [sent[name, time] for name, time in zip(frame[SERVER_NAME], frame[TIMESTAMP], strict=True)]
    )


def test_a_late_row_of_a_day_with_a_file_is_merged_and_sent_again_it_is_a_duplicate(store: HistoryStore) -> None:
    store.compact(END - timedelta(days=1))
    rows = store.rows
    late = days_of_rows().iloc[[5]].copy()
    assert store.append(late).tolist() == [False] and store.rows == rows
    late[TIMESTAMP] += pd.Timedelta(seconds=30)
    assert store.append(late).tolist() == [True] and store.rows == rows + 1
    assert store.compact(END - timedelta(days=1)) == 288 + 1, "that server's day goes back to its file"
    assert store.rows == rows + 1 and store.append(late).tolist() == [False]


def test_a_lacking_metric_is_added_to_a_row_of_a_file(tmp_path: Path) -> None:
    rows = days_of_rows(2)
    without = rows.assign(latency_ms=np.nan)
    with HistoryStore(tmp_path) as store:
        store.append(without)
        store.compact(END)
        assert (
            store.append(rows.iloc[:3]).tolist() == [True] * 3
            and store.append(without.iloc[:3]).tolist() == [False] * 3
        )
        store.compact(END)
        assert store.window()["latency_ms"].notna().sum() == 3 and store.rows == len(rows)


def test_retention_deletes_whole_files_and_tells_which_servers_are_gone(store: HistoryStore, tmp_path: Path) -> None:
    gone = make_fleet(("leaver",), hours=6, end=END - timedelta(days=3, hours=12))
    store.append(gone)
    store.compact(END - timedelta(days=1))
    assert store.prune(END - timedelta(days=3, hours=6)) == []  # inside a day with a file: nothing of it goes yet
    assert store.prune(END - timedelta(days=3)) == ["leaver"] and store.profile("leaver") is None
    assert store.rows == len(FLEET) * 288 * 3 and len(list((tmp_path / DAILY_FOLDER).iterdir())) == 2


def test_after_a_restart_files_count_and_silent_servers_are_known(store: HistoryStore, tmp_path: Path) -> None:
    store.append(make_fleet(("leaver",), hours=6, end=END - timedelta(days=3, hours=12)))
    store.compact(END)
    rows, seen = store.rows, store.last_seen("leaver")
    store.close()
    with HistoryStore(tmp_path) as again:
        assert again.rows == rows and again.last_seen("leaver") == seen and again.profile("leaver") == "generic"
        assert again.newest == END - timedelta(minutes=5) and again.append(days_of_rows()).sum() == 0


def test_a_damaged_history_does_not_cost_the_days_in_files(store: HistoryStore, tmp_path: Path) -> None:
    store.compact(END - timedelta(days=1))
    store.close()
    (tmp_path / "history.sqlite3").write_bytes(b"not a database at all" * 500)
    with HistoryStore(tmp_path) as again:
        assert again.set_aside is not None and again.rows == len(FLEET) * 288 * 3
        assert again.profile("ppdb001") == "database" and again.servers == len(FLEET)
        assert (
            again.server_steps("ppdb001", step_of(END) - 4 * 288, step_of(END) - 1)["cpu_pct"].notna().sum() == 3 * 288
        )


# --------------------------------------------------------------------------------------------------------------- damage
@pytest.mark.parametrize("place", ["footer", "length", "nothing"])
def test_a_damaged_day_is_set_aside_at_the_start_and_the_rest_serves(
    store: HistoryStore, tmp_path: Path, place: str
) -> None:
    store.compact(END)
    store.close()
    path = tmp_path / DAILY_FOLDER / "2026-03-06.parquet"
    content = bytearray(path.read_bytes())
    if place == "footer":
        content[-200] ^= 0xFF
        content[-400] ^= 0xFF
    path.write_bytes({"footer": bytes(content), "length": bytes(content[: len(content) // 2]), "nothing": b""}[place])
    with HistoryStore(tmp_path) as again:
        assert len(again.days.damaged) == 1 and again.days.damaged[0].startswith("2026-03-06.parquet.damaged-")
        assert again.rows == len(FLEET) * 288 * 3
        assert (tmp_path / DAILY_FOLDER / again.days.damaged[0]).exists()
        assert again.append(days_of_rows()).sum() == len(FLEET) * 288, "what is lost can be sent again"


def test_a_flipped_bit_is_found_when_it_is_read_and_costs_its_part_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("history_days._GROUP_ROWS", 500)
    with HistoryStore(tmp_path) as store:
        store.append(days_of_rows(2))
        store.compact(END)
        path = tmp_path / DAILY_FOLDER / "2026-03-07.parquet"
        place = pq.ParquetFile(path).metadata.row_group(1).column(2).data_page_offset + 200
        content = bytearray(path.read_bytes())
        content[place] ^= 0x10
        path.write_bytes(content)
        window = store.window()
        assert len(store.days.damaged) == 1
        assert len(window) == store.rows == len(FLEET) * 288 * 2 - 500
        assert HistoryDays(tmp_path / DAILY_FOLDER).rows == store.days.rows, "what was kept is on disk again"


# --------------------------------------------------------------------------------------------------------------- drills
MOVER = """
import sys, time
from datetime import datetime
from pathlib import Path
import history_store
history_store._DELETED_STEPS = 4
with history_store.HistoryStore(Path(sys.argv[1])) as store:
    print("ready", flush=True)
    store.compact(datetime.fromisoformat(sys.argv[2]))
    print("done", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("seconds", [0.02, 0.06, 0.12, 0.3, 0.8])
def test_kill_9_while_days_move_loses_no_row_and_doubles_none(
    store: HistoryStore, tmp_path: Path, seconds: float
) -> None:
    window = by_key(store.window())
    store.close()
    command = [sys.executable, "-c", MOVER, str(tmp_path), END.isoformat()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
    with HistoryStore(tmp_path) as again:
        assert again.set_aside is None and again.days.damaged == [] and again.rows == len(window)
        pd.testing.assert_frame_equal(by_key(again.window()), window)
        again.compact(END)
        assert again.rows == len(window)
        pd.testing.assert_frame_equal(by_key(again.window()), window)


def test_a_full_disk_stops_the_move_and_changes_nothing(small_disk: Path) -> None:
    with HistoryStore(small_disk) as store:
        store.append(days_of_rows(2))
        window = by_key(store.window())
        filler = fill(small_disk)
        with pytest.raises(DataFileError, match="cannot be read or written"):
            store.compact(END)
        pd.testing.assert_frame_equal(by_key(store.window()), window)
        filler.unlink()
        assert store.compact(END) == len(window) and not list((small_disk / DAILY_FOLDER).glob(".*"))
        pd.testing.assert_frame_equal(by_key(store.window()), window)


def test_rows_come_while_days_move(tmp_path: Path) -> None:
    """Writers add to every day, also those that are being moved, while another thread moves them again and again."""
    rows = days_of_rows()
    with HistoryStore(tmp_path) as store:
        store.append(rows.iloc[::2])
        stop = threading.Event()
        failures: list[BaseException] = []

        def move() -> None:
            try:
                while not stop.is_set():
                    store.compact(END)
            except BaseException as error:  # noqa: BLE001 - told by the test's own thread
                failures.append(error)

        thread = threading.Thread(target=move)
        thread.start()
        parts = np.array_split(np.random.default_rng(1).permutation(len(rows)), 10)
        for part in parts:
            store.append(rows.iloc[part])
            steps = store.server_steps("ppweb001", step_of(END) - 4 * 288, step_of(END) - 1)
            assert steps["cpu_pct"].notna().sum() >= 2 * 288 - 1
        stop.set()
        thread.join()
        assert failures == [] and store.rows == len(rows)
        pd.testing.assert_frame_equal(by_key(store.window()), by_key(rows.astype(dict.fromkeys(METRIC_COLUMNS, float))))


def test_the_daemon_moves_old_days_and_serves_their_history(tiny_model_dir: Path, tmp_path: Path) -> None:
    end = floor_to_step(utc_now(), STEP_MINUTES)
    folder = tmp_path / "daemon"
    settings = {"TFT_HISTORY_COMPACT_DAYS": "1", "TFT_HISTORY_HOURS": "32"}
    old = make_fleet(hours=24 * 6, end=end)
    with daemon(folder, tiny_model_dir, **settings) as process:
        for begin in range(0, len(old), 5000):
            process.post(json_rows(old.iloc[begin : begin + 5000]))
        wait_for(lambda: process.get("/status")["history"]["days"] >= 2)
    with daemon(folder, tiny_model_dir, **settings) as process:
        history = process.get("/status")["history"]
        assert history["rows"] == len(old) and history["days"] >= 2 and history["damaged_days"] == []
        series = process.get("/history/ppweb001?hours=150")
        assert sum(value is not None for value in series["metrics"]["cpu_pct"]) == 6 * 288
        assert "tft_store_day_files" in process.client.get("/metrics").text
    first = min((folder / "history" / DAILY_FOLDER).glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-20])
    with daemon(folder, tiny_model_dir, **settings) as process:
        status = process.get("/status")
        assert status["history"]["damaged_days"][0].startswith(first.name)
        assert process.client.get("/readyz").status_code in (200, 503) and json.dumps(status)
        wait_for(lambda: process.client.get("/predictions/ppweb001").status_code == 200)
