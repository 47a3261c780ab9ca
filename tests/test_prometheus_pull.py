"""The daemon asks a Prometheus by itself: what rows become of it, and that neither's absence leaves a gap."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from local_prometheus import MISSING, WHY_NOT, Prometheus, backfill
from test_daemon_process import daemon, run_to_the_end, wait_for

from common_utils import floor_to_step, utc_now
from daemon_rows import RowLimits
from data_contract import STEP_MINUTES
from history_store import HistoryStore
from prometheus_mapping import parse_prometheus_mapping
from prometheus_pull import PROGRESS_FILE, judge_table
from prometheus_values import MappedValues

needs_prometheus = pytest.mark.skipif(bool(MISSING), reason=WHY_NOT)

QUERIES: dict[str, dict[str, Any]] = {
    "cpu_pct": {"query": "avg by (instance, role) (avg_over_time(host_idle[$step]))", "unit": "ratio_idle"},
    "mem_pct": {"query": "avg by (instance) (avg_over_time(host_mem[$step]))", "unit": "ratio"},
    "latency_ms": {"query": "avg by (instance) (avg_over_time(host_wait[$step]))", "unit": "s", "optional": True},
}
MAPPING: dict[str, Any] = {
    "prometheus": {"metrics": QUERIES},
    "profile": {"any_of": ["role"], "values": {"db": "database"}},
}
TOML = """
[profile]
any_of = ["role"]
values = { db = "database" }
""" + "".join(
    f"[prometheus.metrics.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
    for name, section in QUERIES.items()
)
NOW = datetime(2026, 3, 4, 12, tzinfo=timezone.utc)
LIMITS = RowLimits(NOW + timedelta(minutes=10), NOW - timedelta(days=30), 3, {"known": "ml_compute"}.get)
SERVERS = ("ppweb001", "ppdb001", "elsewhere")


# -------------------------------------------------------------------------------------------------------------- judging
def table(rows: list[tuple[datetime, str, str | None, dict[str, float]]]) -> pa.Table:
    """As `StepReader.read` makes them."""
    columns = {
        "timestamp": pa.array([time for time, *_ in rows], pa.timestamp("us", tz="UTC")),
        "server": pa.array([name for _, name, *_ in rows]).dictionary_encode(),
        "profile": pa.array([profile for *_, profile, _ in rows], pa.string()).dictionary_encode(),
    }
    metrics = {name: pa.array([values.get(name) for *_, values in rows], pa.float32()) for name in QUERIES}
    return pa.table(columns | metrics)


def judged(*rows: tuple[datetime, str, str | None, dict[str, float]], limits: RowLimits = LIMITS) -> Any:
    mapping = parse_prometheus_mapping(MAPPING)
    return judge_table(table(list(rows)), mapping, MappedValues(mapping), limits)


def test_a_pulled_row_is_in_the_contracts_units_and_has_its_profile() -> None:
    found = judged(
        (NOW, "ppweb001", "db", {"cpu_pct": 0.25, "mem_pct": 0.5, "latency_ms": 0.03}),
        (NOW, "known", None, {"cpu_pct": 1.0000001}),
        (NOW, "ppdb007", None, {"mem_pct": 0.1}),
    )
    assert found.rejected == 0 and found.rejections == []
    assert found.frame["profile"].tolist() == ["database", "ml_compute", "database"]
    assert found.frame["cpu_pct"].tolist()[:2] == [75.0, 0.0] and np.isnan(found.frame["cpu_pct"].iloc[2])
    assert found.frame["latency_ms"].iloc[0] == pytest.approx(30.0) and found.frame["disk_io_mb_s"].isna().all()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((NOW, "ppweb001", None, {"cpu_pct": -3.0}), "outside 0 to 100"),
        ((NOW, "ppweb001", None, {"latency_ms": float("inf")}), "latency_ms"),
        ((NOW + timedelta(hours=2), "ppweb001", None, {"cpu_pct": 0.5}), "future"),
        ((NOW - timedelta(days=40), "ppweb001", None, {"cpu_pct": 0.5}), "older"),
        ((NOW, "a\x07b", None, {"cpu_pct": 0.5}), "control"),
        ((NOW, "x" * 300, None, {"cpu_pct": 0.5}), "characters"),
    ],
)
def test_a_wrong_row_is_itemised_and_harms_no_other(row: Any, words: str) -> None:
    found = judged(row, (NOW, "ppdb001", None, {"cpu_pct": 0.5}))
    assert found.frame["server_name"].tolist() == ["ppdb001"] and found.rejected == 1
    assert words in found.rejections[0]["what"] and found.rejections[0]["row"] == 0


def test_a_wrong_value_takes_no_other_metric_of_its_row_with_it() -> None:
    found = judged((NOW, "ppweb001", None, {"cpu_pct": 7.0, "mem_pct": 0.5}))
    assert found.frame["mem_pct"].tolist() == [50.0] and found.frame["cpu_pct"].isna().all() and found.rejected == 1


def test_servers_beyond_the_limit_are_refused() -> None:
    rows = [(NOW, f"server{number}", None, {"cpu_pct": 0.5}) for number in range(5)]
    found = judged(*rows)
    assert len(found.frame) == 3 and found.rejected == 2


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"TFT_PULL_PROMETHEUS_URL": "prometheus:9090"}, "pull_prometheus_url"),
        ({"TFT_PULL_PROMETHEUS_URL": "http://127.0.0.1:9", "TFT_PULL_MAPPING": "nowhere.toml"}, "nowhere.toml"),
        ({"TFT_PULL_PROMETHEUS_URL": "http://127.0.0.1:9", "TFT_PROMETHEUS_USER": "me"}, "belong together"),
    ],
)
def test_what_cannot_be_asked_is_told_at_the_start(
    environment: dict[str, str], words: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    done = run_to_the_end(tmp_path, "--port", "0", "--model-dir", str(tiny_model_dir), **environment)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
    assert "To fix it" in done.stderr


# ---------------------------------------------------------------------------------------------------- a real Prometheus
@pytest.fixture
def history(tmp_path: Path) -> Iterator[tuple[Prometheus, datetime]]:
    """A Prometheus, not started, with 30 hours of three servers a minute apart, and the time of the newest sample."""
    prometheus = Prometheus(tmp_path / "prometheus")
    end = floor_to_step(utc_now(), STEP_MINUTES)
    begin = end - timedelta(hours=30)
    lines = []
    for metric in ("host_idle", "host_mem", "host_wait"):
        lines.append(f"# TYPE {metric} gauge")
        for place, name in enumerate(SERVERS):
            role = ',role="db"' if name == "elsewhere" and metric == "host_idle" else ""
            for minute in range(30 * 60 + 1):
                value = 0.3 + 0.1 * place + 0.2 * np.sin(minute / 200)
                at = (begin + timedelta(minutes=minute)).timestamp()
                lines.append(f'{metric}{{instance="{name}:9100"{role}}} {value:.4f} {at:.0f}')
    backfill(tmp_path / "prometheus", lines)
    return prometheus, end


def settings_of(tmp_path: Path, prometheus: Prometheus, **more: str) -> dict[str, str]:
    (tmp_path / "own.toml").write_text(TOML.replace("[prometheus.metrics.cpu_pct]", SECTION, 1))
    return {
        "TFT_PULL_PROMETHEUS_URL": prometheus.url,
        "TFT_PULL_MAPPING": str(tmp_path / "own.toml"),
        "TFT_PULL_LAG_SECONDS": "0",
        "TFT_HISTORY_HOURS": "32",
        **more,
    }


SECTION = "[prometheus]\nserver_pattern = '(?P<server>[^:]+):.*'\n\n[prometheus.metrics.cpu_pct]"


def pulled(process: Any) -> dict[str, Any]:
    status: dict[str, Any] = process.client.get("/status").json()["pull"]
    return status


@needs_prometheus
@pytest.mark.slow
def test_neither_a_prometheus_that_is_away_nor_a_killed_daemon_leaves_a_gap(
    history: tuple[Prometheus, datetime], tiny_model_dir: Path, tmp_path: Path
) -> None:
    prometheus, end = history
    folder = tmp_path / "daemon"
    lagging = settings_of(tmp_path, prometheus, TFT_PULL_LAG_SECONDS="3600")
    with daemon(folder, tiny_model_dir, **lagging) as process:
        failing = wait_for(lambda: (told := pulled(process))["error"] and told)  # nothing answers yet
        assert "does not answer" in failing["error"]["what"] and failing["errors"] >= 1 and failing["until"] is None
        assert "tft_pull_failing 1.0" in process.client.get("/metrics").text
        with prometheus:  # it comes, and is asked again
            told = wait_for(lambda: (told := pulled(process))["until"] and not told["behind_seconds"] and told)
            assert told["error"] is None and told["absent_metrics"] == [] and told["rows"]["rejected"] == 0
            record = wait_for(lambda: process.client.get("/predictions/elsewhere").status_code == 200)
            assert record and "tft_pull_failing 0.0" in process.client.get("/metrics").text
            process.signal(signal.SIGKILL)
            process.wait()
    assert process.log().count("a Prometheus could not be asked") == 1
    with HistoryStore(folder / "history") as store:
        before = store.rows
        newest = store.newest
    assert newest is not None and newest < end - timedelta(minutes=50)
    with prometheus, daemon(folder, tiny_model_dir, **settings_of(tmp_path, prometheus)) as process:
        told = wait_for(lambda: (told := pulled(process))["until"] and not told["behind_seconds"] and told)
        assert told["rows"]["accepted"] <= 14 * len(SERVERS)  # the hour and two steps, not all of it again
    with HistoryStore(folder / "history") as store:
        steps = {name: [step for step, _ in store_steps(store, name)] for name in SERVERS}
        assert store.rows > before
    for name, found in steps.items():
        assert found == sorted(set(found)), name
        assert np.diff(found).tolist() == [300] * (len(found) - 1), name  # no gap, none twice
        assert len(found) >= 30 * 12 - 2


def store_steps(store: HistoryStore, name: str) -> list[tuple[int, float]]:
    """Seconds and CPU of all rows of a server."""
    rows = []
    for page in store.pages(datetime(2000, 1, 1, tzinfo=timezone.utc)):
        own = page[page["server_name"] == name]
        rows += list(zip((own["timestamp"].astype("int64") // 10**6).tolist(), own["cpu_pct"].tolist(), strict=True))
    return sorted(rows)


@needs_prometheus
def test_a_query_that_finds_nothing_is_told_and_the_others_are_pulled(
    history: tuple[Prometheus, datetime], tiny_model_dir: Path, tmp_path: Path
) -> None:
    prometheus, _ = history
    settings = settings_of(tmp_path, prometheus)
    Path(settings["TFT_PULL_MAPPING"]).write_text(
        (tmp_path / "own.toml").read_text().replace("host_mem", "host_memory")
    )
    with prometheus, daemon(tmp_path / "daemon", tiny_model_dir, **settings) as process:
        told = wait_for(lambda: (told := pulled(process))["until"] and told)
        assert told["absent_metrics"] == ["mem_pct"] and told["rows"]["accepted"] > 0
        assert (tmp_path / "daemon" / "history" / PROGRESS_FILE).exists()


def test_without_the_setting_nothing_is_asked(tiny_model_dir: Path, tmp_path: Path) -> None:
    with daemon(tmp_path, tiny_model_dir, TFT_PULL_PROMETHEUS_URL="") as process:
        assert pulled(process) is None and "tft_pull" not in process.client.get("/metrics").text
