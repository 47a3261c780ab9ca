"""Scenarios of the demo: the daemon keeps the wish, the fleet's stream plays it, and only a demo has any."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from test_daemon_process import daemon
from test_tft_inference import assert_problem, running

import fleet_stream
from config import Settings
from daemon_scenario import ScenarioWish
from fleet_stream import StreamEvent, stream
from metrics_generator import GeneratorOptions, generate


def test_only_a_demo_plays_scenarios(settings: Settings, tmp_path: Path) -> None:
    quick = settings.model_copy(update={"history_dir": tmp_path / "history"})
    with running(quick, tmp_path / "no_model") as client:
        assert_problem(client.get("/scenario"), 403, "not-a-demo")
        assert_problem(client.post("/scenario/critical"), 403, "not-a-demo")
    with running(quick.model_copy(update={"demo_scenarios": True}), tmp_path / "no_model") as client:
        assert client.get("/scenario").json() == {"scenario": None, "asked_at": None}
        for name in ("degrading", "critical", "healthy"):
            answer = client.post(f"/scenario/{name}").json()
            ScenarioWish.model_validate(answer)
            assert answer["scenario"] == name and client.get("/scenario").json() == answer
        assert_problem(client.post("/scenario/chaos"), 422, "invalid-request")


def test_the_stream_plays_what_is_asked_for_from_its_next_step_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From healthy to critical and back while the stream goes on: every step once, and CPU that shows it."""
    monkeypatch.setattr(fleet_stream, "_ROWS_PER_REQUEST", 9 * 12)
    fleet = tmp_path / "fleet"
    generate(GeneratorOptions(servers=9, hours=36, start=datetime.now(timezone.utc) - timedelta(hours=60)), fleet)
    switched: list[tuple[str, datetime]] = []
    with daemon(tmp_path / "run", tmp_path / "no_model", TFT_DEMO_SCENARIOS="true") as process:
        posted = 0

        def watch(event: StreamEvent) -> None:
            nonlocal posted
            if event.kind == "scenario" and event.timestamp is not None:
                switched.append((event.message.split()[3], event.timestamp))
            posted += event.kind == "posted"
            for count, name in ((6, "critical"), (12, "healthy")):
                if event.kind == "posted" and posted == count:
                    assert process.client.post(f"/scenario/{name}").status_code == 200

        result = stream(fleet, process.url, speed=1e9, hours=18, warmup_hours=2, on_event=watch)
        (_, ill), (_, well) = switched
        assert [name for name, _ in switched] == ["critical", "healthy"] and ill < well
        assert (result.rows, result.duplicates) == (9 * 20 * 12, 0) and result.accepted == result.rows
        assert process.get("/status")["history"]["rows"] == result.rows, "no step is missing, none came twice"

        def highest(since: datetime, until: datetime) -> int:
            """Servers that were above 95 % CPU in a span of time."""
            found = 0
            for name in names:
                history = process.get(f"/history/{name}?hours=30")
                times = [datetime.fromisoformat(text.replace("Z", "+00:00")) for text in history["timestamps"]]
                values = [
                    value or 0.0
                    for time, value in zip(times, history["metrics"]["cpu_pct"], strict=True)
                    if since <= time < until
                ]
                found += max(values) > 95
            return found

        names = json.loads((fleet / "server_mapping.json").read_text())["name_to_id"]
        during = highest(ill, well)
        assert during >= 3, "40 % of nine"
        assert highest(well, well + timedelta(hours=2)) < during


def test_a_daemon_that_is_no_demo_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_stream, "_ROWS_PER_REQUEST", 5 * 12)
    fleet = tmp_path / "fleet"
    generate(GeneratorOptions(servers=5, hours=24, start=datetime.now(timezone.utc) - timedelta(hours=40)), fleet)
    with daemon(tmp_path / "run", tmp_path / "no_model") as process:
        result = stream(fleet, process.url, speed=1e9, hours=4, warmup_hours=1)
        assert result.accepted == result.rows == 5 * 5 * 12
        assert process.log().count("path=/scenario ") == 1
