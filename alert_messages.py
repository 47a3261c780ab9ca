"""What receivers of alerts are told: Alertmanager's alerts, a webhook's events, and how their bodies are signed.

Labels tell alerts apart and stay the same for an alert's life; what changes with every forecast stands in annotations,
written for whoever is woken up by them. Pure: knows nothing of how messages are sent.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final, Literal
from urllib.parse import urlencode

from alert_store import Acknowledgement
from common_utils import iso_z

ALERT_NAME: Final = "TFTBreachForecast"
TEST_NAME: Final = "TFTTestAlert"
BODY_VERSION: Final = 1
SIGNATURE_HEADER: Final = "X-TFT-Signature"

Kind = Literal["opened", "closed", "test"]

_BECAUSE: Final = {
    "risk-fell": "A breach is no longer likely.",
    "no-forecast": "Closed because the server is not forecast any more: nothing is heard of it, or not of this metric.",
}


@dataclass(frozen=True)
class Outgoing:
    """An alert as Alertmanager shall see it now.

    Attributes
    ----------
    alert : dict
        As it is served, or was served last.
    profile : str
        The server's when the alert opened.
    started, ended : datetime
        By the clock; None while it is open.
    because : str or None
        Why it closed.
    highest : float
        Highest probability so far.
    acknowledgement : Acknowledgement or None
    """

    alert: dict[str, Any]
    profile: str
    started: datetime
    highest: float
    ended: datetime | None = None
    because: str | None = None
    acknowledgement: Acknowledgement | None = None


def alert_id(server_name: str, metric: str, opened_at: str) -> str:
    """Id of an alert: the same after a restart, another one when it opens again."""
    return hashlib.sha256("\x00".join((server_name, metric, opened_at)).encode()).hexdigest()[:16]


def parse_time(text: str) -> datetime:
    """Inverse of `common_utils.iso_z`."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def link_to(dashboard: str, server_name: str, metric: str) -> str:
    """Address of the dashboard's page about a server; empty if there is no dashboard."""
    query = urlencode({"panel": "historical", "server": server_name, "metric": metric})
    return f"{dashboard.rstrip('/')}/?{query}" if dashboard else ""


# -------------------------------------------------------------------------------------------------------- Alertmanager
def alertmanager_alert(
    outgoing: Outgoing, *, ends_at: datetime, severity: str, dashboard: str, data_from: str | None
) -> dict[str, Any]:
    """One alert of a `POST /api/v2/alerts`.

    Parameters
    ----------
    ends_at : datetime
        When Alertmanager shall take an open alert for over, unless it hears of it again.
    data_from : str, optional
        Time of the newest data, where that is old enough to be told.
    """
    alert = outgoing.alert
    name, metric = alert["server_name"], alert["metric"]
    annotations = {
        "summary": alert["message"] if outgoing.because is None else _BECAUSE[outgoing.because],
        "description": "\n".join(_description(outgoing)),
        "probability": f"{alert['probability']:g}",
        "threshold": f"{alert['threshold']:g} {alert['unit']}",
        "alert_id": alert_id(name, metric, alert["opened_at"]),
    }
    if (seen := outgoing.acknowledgement) is not None:
        annotations["acknowledged"] = f"by {seen.author} at {iso_z(seen.at)}: {seen.comment}"
    if data_from is not None:
        annotations["stale"] = f"No data is newer than {data_from}."
    result = {
        "labels": {
            "alertname": ALERT_NAME,
            "server_name": name,
            "metric": metric,
            "profile": outgoing.profile,
            "severity": severity,
        },
        "annotations": annotations,
        "startsAt": iso_z(outgoing.started),
        "endsAt": iso_z(ends_at if outgoing.ended is None else max(outgoing.ended, outgoing.started)),
    }
    if link := link_to(dashboard, name, metric):
        annotations["dashboard"] = result["generatorURL"] = link
    return result


def _description(outgoing: Outgoing) -> list[str]:
    alert = outgoing.alert
    unit, times = alert["unit"], alert["breach_time"]
    lines = [
        f"Probability {alert['probability']:.0%} within 8 hours (highest so far {outgoing.highest:.0%}).",
        f"Threshold {alert['threshold']:g} {unit}, median forecast {alert['median_forecast']:g} {unit}.",
        f"If it comes: probably at {times['median']} (earliest {times['earliest']}, latest {times['latest']}).",
        f"Open since {alert['opened_at']}; profile {alert['profile']}.",
    ]
    return lines if outgoing.ended is None else ["What was said last:", *lines]


def test_alert(now: datetime, ends_at: datetime, severity: str) -> dict[str, Any]:
    """An alert that tries the way to Alertmanager and ends soon."""
    return {
        "labels": {"alertname": TEST_NAME, "severity": severity},
        "annotations": {"summary": "Test of the way that alerts take. Nothing is wrong; it ends by itself."},
        "startsAt": iso_z(now),
        "endsAt": iso_z(ends_at),
    }


# ------------------------------------------------------------------------------------------------------------- webhook
def event(kind: Kind, id_: str, now: datetime, alert: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """One event of a webhook's body.

    Parameters
    ----------
    id_ : str
        The same however often the event is sent, so that a receiver can drop what it has seen.
    """
    return {"id": id_, "type": kind, "time": iso_z(now), "alert": alert, **more}


def webhook_body(events: Sequence[str], now: datetime) -> bytes:
    """Body of a request that tells of events, each of which is a JSON object already."""
    head = json.dumps({"version": BODY_VERSION, "sent_at": iso_z(now)})
    return f'{head[:-1]}, "events": [{", ".join(events)}]}}'.encode()


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """Value of `X-TFT-Signature`: the time, and HMAC-SHA256 (RFC 2104) over `<time>.<body>` as hex digits."""
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def _self_check() -> None:
    now = datetime(2026, 1, 5, tzinfo=timezone.utc)
    assert parse_time(iso_z(now)) == now
    body = webhook_body([json.dumps(event("test", "a", now, None))], now)
    assert json.loads(body)["events"][0]["id"] == "a"
    # RFC 4231, test case 2, is the key "Jefe" over "what do ya want for nothing?": here a time stands before it
    assert signature("Jefe", 1, b"x") != signature("Jefe", 2, b"x") != signature("jefe", 2, b"x")
    assert alert_id("a", "b", "c") != alert_id("a", "bc", "")
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
