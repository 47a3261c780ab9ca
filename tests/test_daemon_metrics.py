"""What `/metrics` tells: the promised names, figures that agree with /status, few labels, and formats that are read."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from conftest import FLEET, make_fleet
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from test_tft_inference import NOW, json_rows, post_and_wait, row, running

from config import Settings
from daemon_metrics import DaemonMetrics

PROMTOOL = shutil.which("promtool")

OWNERS = {"tft_predictions_per_second", "tft_average_latency_seconds", "tft_error_rate", "tft_unknown_servers"}


@pytest.fixture(scope="module")
def served(settings: Settings, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A daemon that forecasts a fleet with a server unknown to its model, and was asked this and that."""
    quick = settings.model_copy(
        update={
            "history_dir": tmp_path_factory.mktemp("metrics"),
            "daemon_settle_seconds": 0.05,
            "rate_limit_per_second": 100_000,
        }
    )
    with running(quick, tiny_model_dir) as client:
        post_and_wait(
            client, [*json_rows(make_fleet(hours=36, end=NOW)), row("mail.example.org"), row("mail.example.org")]
        )
        client.post("/ingest", json={"rows": [row(cpu_pct=140)]})
        client.get("/api/v1/predictions/ppweb001")
        client.get("/predictions/nobody")
        for number in range(50):
            client.get(f"/scanned/{number}")
            client.request(f"M{number}", "/status")
        yield client


def scrape(client: TestClient) -> dict[str, dict[tuple[str, ...], float]]:
    """Sample name → values of its labels, these in alphabetical order → value."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels[name] for name in sorted(sample.labels))] = (
                sample.value
            )
    return found


def value(metrics: dict[str, dict[tuple[str, ...], float]], name: str) -> float:
    return metrics[name][()]


def test_the_four_inference_metrics_are_there_and_agree_with_status(served: TestClient) -> None:
    metrics, status = scrape(served), served.get("/status").json()
    assert set(metrics) >= OWNERS
    forecasts = status["forecasts"]
    assert value(metrics, "tft_predictions_per_second") == forecasts["predictions_per_second"] > 0
    assert value(metrics, "tft_average_latency_seconds") == pytest.approx(forecasts["average_duration_ms"] / 1e3)
    assert value(metrics, "tft_error_rate") == forecasts["error_rate"] == 0
    assert value(metrics, "tft_unknown_servers") == status["unknown_servers"]["count"] == 1


def test_rows_servers_model_and_data_are_told(served: TestClient) -> None:
    metrics, status = scrape(served), served.get("/status").json()
    for result in ("accepted", "duplicates", "rejected"):
        assert metrics["tft_ingest_rows_total"][(result,)] == status["ingest"][result] > 0
    assert value(metrics, "tft_servers") == len(FLEET) + 1
    assert value(metrics, "tft_store_rows") == status["history"]["rows"]
    assert value(metrics, "tft_model_loaded") == 1 and value(metrics, "tft_model_refused") == 0
    assert {status["model"]["name"], "3.0.0"} <= set(next(iter(metrics["tft_model_info"])))
    assert value(metrics, "tft_data_age_seconds") >= 0 and value(metrics, "tft_data_stale") == status["stale"]
    assert value(metrics, "tft_alerts_open") == served.get("/alerts/active").json()["count"]
    assert value(metrics, "process_resident_memory_bytes") > 1e6 and value(metrics, "process_open_fds") > 3


def test_requests_are_counted_by_route_as_declared_and_under_both_names(served: TestClient) -> None:
    requests = scrape(served)["tft_http_requests_total"]
    assert requests["GET", "/predictions/{server_name}", "200"] == 1
    assert requests["GET", "/predictions/{server_name}", "404"] == 1
    assert requests["POST", "/ingest", "422"] == 1
    before = scrape(served)
    served.get("/alerts/active")
    after = scrape(served)
    for name in ("tft_http_request_duration_seconds_count", "tft_http_requests_total"):
        labels = ("/alerts/active",) if name.endswith("_count") else ("GET", "/alerts/active", "200")
        assert after[name][labels] == before[name].get(labels, 0) + 1


def test_nobody_can_make_new_series(served: TestClient) -> None:
    requests = scrape(served)["tft_http_requests_total"]
    assert requests["GET", "unmatched", "404"] == 50
    assert requests["other", "/status", "405"] == 50
    assert not any("scanned" in label or "nobody" in label for labels in requests for label in labels)


def test_nothing_of_the_global_registry_slips_in(served: TestClient) -> None:
    stray = prometheus_client.Counter("stray_total", "Registered by some library.")
    try:
        assert "stray" not in served.get("/metrics").text
    finally:
        prometheus_client.REGISTRY.unregister(stray)


def test_openmetrics_is_answered_to_who_asks_for_it(served: TestClient) -> None:
    response = served.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert {family.name for family in read_openmetrics(response.text)} >= OWNERS


def test_without_a_model_or_data_what_is_not_known_is_left_out(settings: Settings, tmp_path: Path) -> None:
    quiet = settings.model_copy(update={"history_dir": tmp_path / "history"})
    with running(quiet, tmp_path / "no_model") as client:
        metrics = scrape(client)
    assert value(metrics, "tft_model_loaded") == 0 and value(metrics, "tft_model_refused") == 1
    assert not {"tft_model_info", "tft_data_age_seconds", "tft_alerts_open"} & set(metrics)
    assert value(metrics, "tft_data_stale") == 1


def test_a_websocket_is_counted_but_its_length_is_no_latency() -> None:
    def nothing() -> Any:
        raise AssertionError("not asked for")

    metrics = DaemonMetrics(nothing, nothing, nothing)
    metrics.observe("/ws/predictions", "WS", 101, 3600.0)
    assert metrics._requests.labels("/ws/predictions", "WS", "101")._value.get() == 1
    assert list(metrics._seconds._metrics) == []


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool: apt-get install prometheus")
def test_promtool_finds_nothing_to_say(served: TestClient) -> None:
    text = served.get("/metrics").content
    checked = subprocess.run([str(PROMTOOL), "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
