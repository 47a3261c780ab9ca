"""How a Prometheus finds the daemon's metrics by asking the daemon, with keys and without."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from local_prometheus import Prometheus
from pydantic import TypeAdapter
from test_daemon_process import daemon, wait_for
from test_tft_inference import running

from api_keys import create_key
from config import Settings, load_settings
from daemon_discovery import DiscoveredTarget, targets
from data_contract import ConfigurationError


@pytest.mark.parametrize(
    ("scope", "public_url", "target", "scheme", "path"),
    [
        ({"server": ("10.0.0.7", 8000), "scheme": "http"}, "", "10.0.0.7:8000", "http", "/metrics"),
        ({"server": ("fd00::1", 443), "scheme": "https"}, "", "[fd00::1]:443", "https", "/metrics"),
        ({}, "https://ops.example.org/tft/", "ops.example.org", "https", "/tft/metrics"),
        ({"server": ("10.0.0.7", 8000)}, "http://[fd00::2]:9000", "[fd00::2]:9000", "http", "/metrics"),
    ],
)
def test_the_target_is_where_it_was_asked_or_what_is_set(
    scope: dict[str, Any], public_url: str, target: str, scheme: str, path: str
) -> None:
    (found,) = targets({"type": "http", **scope}, public_url)
    assert found == {"targets": [target], "labels": {"__scheme__": scheme, "__metrics_path__": path}}


@pytest.mark.parametrize(
    "url", ["ops.example.org", "ftp://x", "http://", "http://x:0", "http://u:secret@x", "http://x/?a=b", "http://a b"]
)
def test_a_public_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="public_url") as refused:
        load_settings(public_url=url)
    assert "secret" not in str(refused.value)


def test_who_asks_cannot_send_a_prometheus_elsewhere(settings: Settings, tmp_path: Path) -> None:
    with running(settings.model_copy(update={"history_dir": tmp_path}), tmp_path / "none") as client:
        answer = client.get(
            "/discovery/prometheus", headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
        )
        TypeAdapter(list[DiscoveredTarget]).validate_python(answer.json())
        assert answer.headers["content-type"] == "application/json" and "evil" not in answer.text


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus: apt-get install prometheus")
def test_a_prometheus_finds_the_metrics_with_a_key(tmp_path: Path) -> None:
    key, _ = create_key(tmp_path / "api_keys.json", "prometheus", "read")
    authorization = {"type": "Bearer", "credentials": key}  # Prometheus 2.42 forgets its default here
    with daemon(tmp_path, tmp_path / "no_model") as process:
        sd = {"url": f"{process.url}/discovery/prometheus", "authorization": authorization}
        job = {"authorization": authorization, "http_sd_configs": [sd]}
        with Prometheus(tmp_path / "prometheus", {"tft": job}) as prometheus:
            (series,) = wait_for(lambda: prometheus.values('tft_build_info{job="tft"}'))
    assert series["metric"]["instance"] == process.url.removeprefix("http://")
