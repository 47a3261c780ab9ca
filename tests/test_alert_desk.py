"""Tests of alert_desk.py and alert_store.py: what is remembered of alerts, over restarts, damage and a full disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from alert_helpers import CALM, DOUBTFUL, LIKELY, ORIGIN, Shift, alert_settings

import alert_store
from alert_desk import as_history
from alert_silences import Silence
from alert_store import STORE_FILE, AlertStore, new_id
from common_utils import iso_z, utc_now
from data_contract import DaemonError

HOUR = timedelta(hours=1)


@pytest.fixture
def shift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shift]:
    shift = Shift(tmp_path, alert_settings(webhook_url="http://127.0.0.1:9/hook"))
    yield shift
    shift.desk.close()


def silence(begin: datetime | None = None, end: datetime | None = None, **what: str) -> Silence:
    now = utc_now()
    named = {name: what.get(name) for name in ("server_name", "profile", "metric")}
    return Silence(
        id=new_id(),
        **named,
        author="kim",
        comment="disk is replaced",
        starts_at=begin or now,
        ends_at=end or now + HOUR,
        created_at=now,
    )


def test_an_alert_has_one_id_for_its_life_and_another_when_it_opens_again(shift: Shift) -> None:
    (opened,) = shift.take(0, ppweb001=LIKELY)
    (renewed,) = shift.take(5, ppweb001=DOUBTFUL)
    assert opened["id"] == renewed["id"] and opened["acknowledged"] is None and opened["silenced_by"] == []
    assert shift.take(10, ppweb001=CALM) == []
    (again,) = shift.take(15, ppweb001=LIKELY)
    assert again["id"] != opened["id"]


def test_what_was_open_is_still_open_after_a_restart_and_nobody_is_told_again(shift: Shift) -> None:
    (opened,) = shift.take(0, ppweb001=LIKELY, ppdb001=CALM)
    assert shift.waiting() == ["opened"]
    shift.restart()
    (kept,) = shift.take(5, ppdb001=CALM, ppweb001=DOUBTFUL)  # too unlikely to open now, likely enough to stay
    assert (kept["id"], kept["opened_at"]) == (opened["id"], opened["opened_at"])
    assert shift.waiting() == ["opened"]
    assert shift.take(10, ppdb001=CALM, ppweb001=CALM) == []
    assert shift.waiting() == ["opened", "closed"]
    shift.restart()
    assert shift.take(15, ppdb001=CALM, ppweb001=DOUBTFUL) == [] and shift.waiting() == ["opened", "closed"]


def test_history_tells_the_highest_probability_and_why_an_alert_closed(shift: Shift) -> None:
    shift.take(0, ppweb001=LIKELY, ppdb001=LIKELY)
    shift.take(5, ppweb001=LIKELY + 5, ppdb001=LIKELY)
    shift.take(10, ppweb001=CALM)
    found = {alert.server_name: as_history(alert) for alert in shift.desk.store.history(ORIGIN)}
    assert found["ppweb001"]["highest_probability"] == pytest.approx(0.8, abs=1e-3)
    assert found["ppweb001"]["closed_at"] == iso_z(ORIGIN + timedelta(minutes=10))
    assert found["ppweb001"]["closed_because"] == "risk-fell"
    assert found["ppdb001"]["closed_because"] == "no-forecast"
    assert shift.desk.store.history(ORIGIN + timedelta(minutes=15)) == []


def test_an_alert_that_a_forecast_of_the_same_step_closes_and_opens_is_one_alert(shift: Shift) -> None:
    (first,) = shift.take(0, ppweb001=LIKELY)
    shift.take(0, ppdb001=CALM)
    (second,) = shift.take(0, ppweb001=LIKELY)
    assert second["id"] == first["id"] and len(shift.desk.store.history(ORIGIN)) == 1
    assert shift.waiting() == ["opened", "closed", "opened"]


def test_acknowledged_and_silenced_alerts_stay_visible_as_such_over_restarts(shift: Shift) -> None:
    web, _ = sorted(shift.take(0, ppweb001=LIKELY + 1, ppdb001=LIKELY), key=lambda a: a["server_name"], reverse=True)
    made = silence(profile="database", metric="cpu_pct")
    shift.desk.add_silence(made)
    assert shift.desk.acknowledge(web["id"], "kim", "moving it")
    shift.restart()
    marked = {alert["server_name"]: alert for alert in shift.take(5, ppweb001=LIKELY, ppdb001=LIKELY)}
    assert marked["ppweb001"]["acknowledged"]["author"] == "kim" and marked["ppweb001"]["silenced_by"] == []
    assert marked["ppdb001"]["acknowledged"] is None and marked["ppdb001"]["silenced_by"] == [made.id]
    (sent,) = shift.desk.outgoing()
    assert sent.alert["server_name"] == "ppweb001" and sent.acknowledgement is not None
    assert shift.desk.unacknowledge(web["id"]) and shift.desk.remove_silence(made.id)
    assert len(shift.desk.outgoing()) == 2
    assert shift.desk.acknowledge("0" * 16, "kim", "?") is None and not shift.desk.remove_silence(made.id)


def test_a_silence_holds_for_what_it_names_and_no_more() -> None:
    alert = {"server_name": "ppdb001", "profile": "database", "metric": "cpu_pct"}
    assert silence(server_name="ppdb001").matches(alert) and silence(metric="cpu_pct").matches(alert)
    assert silence(server_name="ppdb001", metric="cpu_pct", profile="database").matches(alert)
    assert not silence(server_name="ppdb001", metric="mem_pct").matches(alert)
    assert not silence(server_name="ppdb00").matches(alert)


def test_an_alert_that_opens_while_silenced_is_told_when_the_silence_is_over(shift: Shift) -> None:
    made = silence(server_name="ppweb001")
    shift.desk.add_silence(made)
    shift.take(0, ppweb001=LIKELY)
    assert shift.waiting() == []
    shift.desk.remove_silence(made.id)
    shift.desk.settle()
    assert shift.waiting() == ["opened"]
    shift.desk.settle()
    assert shift.waiting() == ["opened"]


def test_an_alert_nobody_was_told_of_closes_silently(shift: Shift) -> None:
    shift.desk.add_silence(silence(server_name="ppweb001"))
    shift.take(0, ppweb001=LIKELY)
    shift.take(5, ppweb001=CALM)
    assert shift.waiting() == [] and len(shift.desk.store.history(ORIGIN)) == 1


def test_the_next_begin_or_end_of_a_silence_is_known(shift: Shift) -> None:
    later = silence(utc_now() + HOUR, utc_now() + 2 * HOUR, metric="cpu_pct")
    shift.desk.add_silence(later)
    assert shift.desk.settle() == later.starts_at
    assert shift.desk.silences()[0]["state"] == "pending"


def test_what_an_old_forecast_said_is_not_sent(shift: Shift) -> None:
    """Recorded data of last year opens alerts, too, but nobody shall be woken up by them."""
    shift.take(-9 * 60, ppweb001=LIKELY)
    assert shift.desk.outgoing() == [] and shift.waiting() == []
    assert len(shift.desk.store.history(ORIGIN - 10 * HOUR)) == 1


def test_a_closed_alert_is_sent_as_over_and_not_beside_its_successor(shift: Shift) -> None:
    shift.take(0, ppweb001=LIKELY)
    shift.take(5, ppweb001=CALM)
    (over,) = shift.desk.outgoing()
    assert over.ended is not None and over.because == "risk-fell"
    shift.restart()
    shift.take(5, ppweb001=CALM)
    assert len(shift.desk.outgoing()) == 1
    shift.take(10, ppweb001=LIKELY)
    (open_again,) = shift.desk.outgoing()
    assert open_again.ended is None


def test_retention_forgets_what_ended_long_ago_and_keeps_what_is_open(shift: Shift) -> None:
    shift.take(0, ppweb001=LIKELY, ppdb001=LIKELY)
    shift.take(5, ppweb001=CALM, ppdb001=LIKELY)
    shift.desk.prune(HOUR)
    assert len(shift.desk.store.history(ORIGIN)) == 2
    shift.desk.prune(timedelta(0))
    (kept,) = shift.desk.store.history(ORIGIN)
    assert kept.server_name == "ppdb001"


def test_no_more_closed_alerts_are_kept_than_fit(shift: Shift, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_store, "MAX_CLOSED", 2)
    for step in range(5):
        shift.take(10 * step, ppweb001=LIKELY)
        shift.take(10 * step + 5, ppweb001=CALM)
    shift.desk.prune(HOUR)
    assert [alert.number for alert in shift.desk.store.history(ORIGIN)] == [5, 4]


def test_history_comes_in_pages_that_neither_repeat_nor_skip(shift: Shift) -> None:
    shift.take(0, **{f"ppweb{number:03d}": LIKELY for number in range(7)}, ppdb001=LIKELY)
    store, before, seen = shift.desk.store, None, []
    while page := store.history(ORIGIN, None, before, 3):
        seen += [alert.id for alert in page]
        before = page[-1].number
    assert len(seen) == len(set(seen)) == 8
    assert [alert.server_name for alert in store.history(ORIGIN, "ppdb001")] == ["ppdb001"]


def test_a_full_disk_puts_off_what_is_remembered_and_stops_nothing(shift: Shift) -> None:
    with shift.desk.store._file.reading() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    names = {f"ppweb{number:03d}": LIKELY for number in range(200)}
    assert len(shift.take(0, **names)) == 200 and len(shift.desk.outgoing()) == 200
    assert shift.desk.store.history(ORIGIN) == [] and shift.waiting() == []
    with shift.desk.store._file.reading() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    shift.take(5, **names)
    assert len(shift.desk.store.history(ORIGIN, limit=1000)) == 200 and len(shift.waiting()) == 200


@pytest.mark.parametrize("damage", ["rubbish", "a page overwritten"])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(tmp_path: Path, damage: str) -> None:
    shift = Shift(tmp_path, alert_settings())
    shift.take(0, **{f"ppweb{number:03d}": LIKELY for number in range(100)})
    shift.desk.close()
    path = tmp_path / STORE_FILE
    if damage == "rubbish":
        path.write_bytes(b"no database at all" * 1000)
    else:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 8192)
    store = AlertStore(tmp_path)
    assert store.set_aside is not None and store.set_aside.exists() and store.open_alerts() == []
    store.close()


def test_a_file_of_somebody_else_and_one_in_use_are_refused(tmp_path: Path) -> None:
    store = AlertStore(tmp_path)
    with pytest.raises(DaemonError, match="in use"):
        AlertStore(tmp_path)
    store.close()
    with sqlite3.connect(tmp_path / STORE_FILE) as foreign:
        foreign.execute("PRAGMA application_id = 7")
        foreign.execute("CREATE TABLE theirs (a)")
    foreign.close()
    with pytest.raises(DaemonError, match="not written by this product"):
        AlertStore(tmp_path)


def test_times_are_kept_to_the_microsecond(tmp_path: Path) -> None:
    moment = datetime(2026, 1, 5, 12, 30, 1, 123456, tzinfo=timezone.utc)
    store = AlertStore(tmp_path)
    with store.change() as change:
        change.silence(silence(moment, moment + HOUR, metric="cpu_pct"))
    (kept,) = store.silences()
    store.close()
    assert (kept.starts_at, kept.ends_at) == (moment, moment + HOUR)
