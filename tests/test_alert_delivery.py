"""Tests of alert_delivery.py against a real Alertmanager and real web servers that fail, hang and come back."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alert_helpers import CALM, LIKELY, Shift, alert_settings, wait_for
from local_prometheus import free_port
from local_receivers import MISSING, WHY_NOT, Alertmanager, LocalReceiver

import alert_delivery
from alert_delivery import DEAD_LETTERS, AlertDelivery, append_dead_letters
from alert_silences import Silence
from alert_store import WaitingEvent
from common_utils import utc_now
from config import load_settings
from data_contract import ConfigurationError

SECRET = "0123456789abcdef-of-the-test"

needs_alertmanager = pytest.mark.skipif(bool(MISSING), reason=WHY_NOT)


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(alert_delivery.SECRET, SECRET)


@contextlib.contextmanager
def delivering(
    folder: Path, *, judge: Callable[[], bool] = lambda: False, **settings: Any
) -> Iterator[tuple[Shift, AlertDelivery]]:
    """A desk whose alerts go out."""
    chosen = alert_settings(**settings)
    shift = Shift(folder, chosen)
    with contextlib.ExitStack() as undo:
        undo.callback(lambda: shift.desk.close())  # noqa: PLW0108 - the one that is there then
        delivery = AlertDelivery(chosen, shift.desk, folder, judge)
        undo.callback(delivery.stop)
        shift.desk.watched_by(lambda: None, delivery.poke)
        delivery.start()
        yield shift, delivery


# ------------------------------------------------------------------------------------------------------------- webhook
def test_openings_and_closings_are_told_signed_and_once(tmp_path: Path) -> None:
    with LocalReceiver() as receiver, delivering(tmp_path, webhook_url=receiver.url) as (shift, delivery):
        (alert,) = shift.take(0, ppweb001=LIKELY)
        wait_for(lambda: len(receiver.events) == 1)
        shift.take(5, ppweb001=LIKELY)
        shift.take(10, ppweb001=CALM)
        wait_for(lambda: len(receiver.events) == 2)
        wait_for(lambda: delivery.status()["webhook"]["waiting"] == 0)
        opened, closed = receiver.events
        assert (opened["type"], closed["type"]) == ("opened", "closed") and opened["id"] != closed["id"]
        assert opened["alert"]["id"] == closed["alert"]["id"] == alert["id"]
        assert (
            opened["alert"]["probability"] == alert["probability"] and "CPU of ppweb001" in opened["alert"]["message"]
        )
        assert closed["alert"]["closed_because"] == "risk-fell" and "server=ppweb001" in opened["link"]
        for headers, body in receiver.requests:
            time_part, hash_part = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", headers["x-tft-signature"]).groups()
            expected = hmac.new(SECRET.encode(), f"{time_part}.".encode() + body, hashlib.sha256).hexdigest()
            assert hash_part == expected and headers["content-type"] == "application/json"
        assert delivery.status()["webhook"]["delivered_at"] is not None


def test_a_receiver_that_fails_some_times_gets_every_event_in_order_with_its_id(tmp_path: Path) -> None:
    answers = iter([500, 301, 429])
    with (
        LocalReceiver(lambda _: next(answers, 200)) as receiver,
        delivering(tmp_path, webhook_url=receiver.url) as (shift, delivery),
    ):
        shift.take(0, ppweb001=LIKELY)
        shift.take(5, ppweb001=CALM)
        wait_for(lambda: delivery.status()["webhook"]["delivered_at"])
        assert len(receiver.requests) >= 4
        failed, taken = receiver.bodies[:3], receiver.bodies[3:]
        assert [event["type"] for body in taken for event in body["events"]] == ["opened", "closed"]
        assert {body["events"][0]["id"] for body in failed} == {taken[0]["events"][0]["id"]}
        assert delivery.status()["webhook"]["failing_since"] is None


def test_events_wait_on_disk_while_the_receiver_and_the_daemon_are_down(tmp_path: Path) -> None:
    port = free_port()
    with delivering(tmp_path, webhook_url=f"http://127.0.0.1:{port}/hook") as (shift, delivery):
        shift.take(0, ppweb001=LIKELY)
        wait_for(lambda: delivery.status()["webhook"]["failing_since"])
        assert "ConnectError" in delivery.status()["webhook"]["last_error"]
        (waiting,) = shift.desk.store.waiting(10)
    with (
        LocalReceiver(port=port) as receiver,
        delivering(tmp_path, webhook_url=receiver.url) as (shift, _),
    ):
        wait_for(lambda: receiver.events)
        assert receiver.events[0]["id"] == waiting.id
        shift.take(5, ppweb001=LIKELY)
        wait_for(lambda: shift.waiting() == [])
        assert len(receiver.events) == 1


def test_after_the_last_try_events_are_in_the_file_of_dead_letters(tmp_path: Path) -> None:
    with (
        LocalReceiver(lambda _: 404) as receiver,
        delivering(tmp_path, webhook_url=receiver.url, webhook_tries=2) as (shift, delivery),
    ):
        shift.take(0, ppweb001=LIKELY)
        wait_for(lambda: delivery.status()["webhook"]["dead_letters"] == 1)
        assert len(receiver.requests) == 2 and shift.waiting() == []
    (line,) = (tmp_path / DEAD_LETTERS).read_text().splitlines()
    letter = json.loads(line)
    assert letter["event"] == receiver.events[0] and letter["tries"] == 2 and "404" in letter["reason"]
    assert (tmp_path / DEAD_LETTERS).stat().st_mode & 0o777 == 0o600


def test_when_dead_letters_cannot_be_written_the_events_go_on_waiting(tmp_path: Path) -> None:
    (tmp_path / DEAD_LETTERS).mkdir()
    with (
        LocalReceiver(lambda number: 500 if number < 2 else 200) as receiver,
        delivering(tmp_path, webhook_url=receiver.url, webhook_tries=1) as (shift, delivery),
    ):
        shift.take(0, ppweb001=LIKELY)
        wait_for(lambda: len(receiver.requests) == 3 and shift.waiting() == [])
        assert delivery.status()["webhook"]["dead_letters"] == 0
        assert len({event["id"] for event in receiver.events}) == 1


def test_the_file_of_dead_letters_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_delivery, "_DEAD_LETTER_BYTES", 2000)
    path = tmp_path / DEAD_LETTERS
    for number in range(100):
        append_dead_letters(path, [WaitingEvent(number, "a", '{"id": "a"}', 1)], "gone")
    assert path.stat().st_size < 2200 and {each.name for each in tmp_path.iterdir()} == {path.name, f"{path.name}.1"}


def test_too_many_waiting_events_give_way_to_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_delivery, "MAX_EVENTS", 5)
    with (
        LocalReceiver(lambda _: 500) as receiver,
        delivering(tmp_path, webhook_url=receiver.url) as (shift, delivery),
    ):
        shift.take(0, **{f"ppweb{number:03d}": LIKELY for number in range(12)})
        wait_for(lambda: delivery.status()["webhook"]["dead_letters"] == 7)
        assert len(shift.waiting()) == 5
        assert len((tmp_path / DEAD_LETTERS).read_text().splitlines()) == 7


def test_a_receiver_that_never_answers_holds_up_neither_forecasts_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalReceiver(lambda _: None) as receiver, delivering(tmp_path, webhook_url=receiver.url) as (shift, delivery):
        shift.take(0, ppweb001=LIKELY)
        wait_for(lambda: receiver.requests)
        shift.take(5, ppweb001=CALM)  # returns although the request is still under way
        delivery.stop()  # breaks it off
        assert shift.waiting() == ["opened", "closed"] and len(receiver.requests) == 1


def test_a_request_is_bounded_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_delivery, "_REQUEST_SECONDS", 0.2)
    with (
        LocalReceiver(lambda number: None if number == 0 else 200) as receiver,
        delivering(tmp_path, webhook_url=receiver.url) as (shift, _),
    ):
        shift.take(0, ppweb001=LIKELY)
        wait_for(lambda: shift.waiting() == [])
        assert len(receiver.requests) == 2 and receiver.events[0]["id"] == receiver.events[1]["id"]


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    with (
        LocalReceiver(lambda _: 307) as receiver,
        delivering(tmp_path, webhook_url=receiver.url) as (_, delivery),
    ):
        result = delivery.test().result(30)["webhook"]
        assert result == {
            "configured": True,
            "delivered": False,
            "error": "it answers 307: redirects are not followed",
        }


def test_a_silence_that_ends_lets_the_alert_out(tmp_path: Path) -> None:
    with LocalReceiver() as receiver, delivering(tmp_path, webhook_url=receiver.url) as (shift, _):
        now = utc_now()
        end = now + timedelta(seconds=1)
        shift.desk.add_silence(Silence("aa", "ppweb001", None, None, "kim", "…", now, end, now))
        shift.take(0, ppweb001=LIKELY)
        wait_for(lambda: receiver.events)
        assert receiver.events[0]["time"] >= end.replace(tzinfo=None).isoformat()


def test_a_webhook_without_a_secret_is_refused_and_no_address_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(alert_delivery.SECRET, "short")
    with (
        pytest.raises(ConfigurationError, match="shorter than 16"),
        delivering(tmp_path, webhook_url="https://user:passw0rd@hooks.example.org/t0ken"),
    ):
        raise AssertionError
    for wrong in (
        "ftp://user:passw0rd@example.org",
        "http://",
        "http://user:passw0rd@example.org:99999/",
        "http://a b/",
    ):
        with pytest.raises(ConfigurationError) as caught:
            load_settings(alertmanager_url=wrong)
        assert "passw0rd" not in str(caught.value) and "alertmanager_url" in str(caught.value)
    shown = repr(load_settings(webhook_url="https://user:passw0rd@hooks.example.org/t0ken"))
    assert "passw0rd" not in shown and "t0ken" not in shown


def test_no_log_shows_user_password_or_path_of_a_receiver(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = iter([500])
    with (
        caplog.at_level(logging.DEBUG),
        LocalReceiver(lambda _: next(answers, 200)) as receiver,
        delivering(
            tmp_path, webhook_url=receiver.url.replace("http://", "http://kim:passw0rd@").replace("hook", "t0ken")
        ) as (shift, delivery),
    ):
        shift.take(0, ppweb001=LIKELY)
        wait_for(lambda: shift.waiting() == [] and len(receiver.requests) == 2)
        assert receiver.requests[0][0]["authorization"].startswith("Basic ")
        told = json.dumps(delivery.status())
    output = "".join((told, caplog.text, *capfd.readouterr()))
    assert "do not reach" in output and SECRET not in output
    assert "passw0rd" not in output and "t0ken" not in output and "kim:" not in output


# -------------------------------------------------------------------------------------------------------- Alertmanager
@needs_alertmanager
def test_a_real_alertmanager_receives_groups_and_resolves_and_knows_all_after_its_restart(tmp_path: Path) -> None:
    with (
        LocalReceiver() as shift_phone,
        Alertmanager(tmp_path / "am", shift_phone.url) as alertmanager,
        delivering(tmp_path / "desk", alertmanager_url=f"{alertmanager.url}/") as (shift, delivery),
    ):

        def told(status: str) -> set[str]:
            """Servers of which the notifications, one per group, say so."""
            alerts = [alert for body in shift_phone.bodies for alert in body["alerts"]]
            return {alert["labels"]["server_name"] for alert in alerts if alert["status"] == status}

        shift.take(0, ppweb001=LIKELY, ppweb002=LIKELY, ppdb001=LIKELY)
        wait_for(lambda: len(alertmanager.alerts()) == 3)
        wait_for(lambda: alertmanager.groups() == {"database": ["ppdb001"], "web_api": ["ppweb001", "ppweb002"]})
        wait_for(lambda: told("firing") == {"ppweb001", "ppweb002", "ppdb001"})
        (one,) = (alert for alert in alertmanager.alerts() if alert["labels"]["server_name"] == "ppdb001")
        assert one["labels"] == {
            "alertname": "TFTBreachForecast",
            "server_name": "ppdb001",
            "metric": "cpu_pct",
            "profile": "database",
            "severity": "critical",
        }
        assert "CPU of ppdb001 will exceed 90 %" in one["annotations"]["summary"]
        assert all(word in one["annotations"]["description"] for word in ("Probability 75%", "median forecast 115 %"))
        assert one["generatorURL"].startswith("http://127.0.0.1:8501/?")

        before = one["endsAt"]
        wait_for(lambda: all(alert["endsAt"] > before for alert in alertmanager.alerts()))  # sent again before it ends

        alertmanager.stop()  # it forgets alerts, and is away for a while
        shift.take(5, ppweb001=CALM, ppweb002=LIKELY, ppdb001=LIKELY)
        wait_for(lambda: delivery.status()["alertmanager"]["failing_since"])
        alertmanager.start()
        wait_for(lambda: {a["labels"]["server_name"] for a in alertmanager.alerts()} == {"ppweb002", "ppdb001"})
        (same,) = (alert for alert in alertmanager.alerts() if alert["labels"]["server_name"] == "ppdb001")
        assert (same["fingerprint"], same["startsAt"]) == (one["fingerprint"], one["startsAt"])

        listed = subprocess.run(
            ["amtool", "alert", "query", "-o", "json", f"--alertmanager.url={alertmanager.url}", "profile=web_api"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        assert [alert["labels"]["server_name"] for alert in json.loads(listed.stdout)] == ["ppweb002"]

        shift.take(10, ppweb001=CALM, ppweb002=CALM, ppdb001=CALM)
        wait_for(lambda: alertmanager.alerts() == [])
        wait_for(lambda: told("resolved") >= {"ppweb002", "ppdb001"})
        assert delivery.status()["alertmanager"]["last_error"] is None


@needs_alertmanager
def test_alertmanager_hears_of_acknowledgements_and_nothing_of_silenced_alerts(tmp_path: Path) -> None:
    with (
        LocalReceiver() as phone,
        Alertmanager(tmp_path / "am", phone.url) as alertmanager,
        delivering(tmp_path / "desk", alertmanager_url=alertmanager.url) as (shift, delivery),
    ):
        now = utc_now()
        shift.desk.add_silence(Silence("aa", None, "database", None, "kim", "…", now, now.replace(year=2100), now))
        web, _ = sorted(shift.take(0, ppweb001=LIKELY, ppdb001=LIKELY), key=lambda a: a["profile"], reverse=True)
        wait_for(alertmanager.alerts)
        shift.desk.acknowledge(web["id"], "kim", "“moving” it \U0001f680")
        wait_for(lambda: "acknowledged" in alertmanager.alerts()[0]["annotations"])
        (alert,) = alertmanager.alerts()
        assert alert["labels"]["server_name"] == "ppweb001"
        assert alert["annotations"]["acknowledged"].endswith("“moving” it \U0001f680")
        assert delivery.test().result(30) == {
            "alertmanager": {"configured": True, "delivered": True, "error": None},
            "webhook": {"configured": False, "delivered": False, "error": None},
        }
        wait_for(lambda: any(each["labels"]["alertname"] == "TFTTestAlert" for each in alertmanager.alerts()))


@needs_alertmanager
def test_a_real_alertmanager_takes_hostile_names_and_many_alerts_at_once(tmp_path: Path) -> None:
    names = ['<img src=x onerror="alert(1)">', '{{ .Labels }}"\\', "\u202eeman", "x" * 253]
    with (
        LocalReceiver() as phone,
        Alertmanager(tmp_path / "am", phone.url) as alertmanager,
        delivering(tmp_path / "desk", alertmanager_url=alertmanager.url) as (shift, _),
    ):
        shift.take(0, **dict.fromkeys(names, LIKELY), **{f"ppweb{number:03d}": LIKELY for number in range(300)})
        wait_for(lambda: len(alertmanager.alerts()) == 304)
        assert {alert["labels"]["server_name"] for alert in alertmanager.alerts()} >= set(names)
