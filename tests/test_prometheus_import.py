"""From a real Prometheus to contract Parquet: what a value means, chunks, resuming, and all that can go wrong."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pandas as pd
import pytest
from local_prometheus import MISSING, WHY_NOT, Program, Prometheus, backfill, free_port

from contract_parquet import read_frame
from data_contract import (
    DATA_FILE,
    DATA_INFO,
    ConfigurationError,
    DataFileError,
    ImportMappingError,
    ProductError,
    PrometheusError,
)
from data_validator import DataValidator
from import_mapping import load_preset, presets
from import_report import ImportReport
from prometheus_import import TimeRange, import_prometheus, parse_time
from prometheus_mapping import (
    PrometheusMapping,
    PrometheusMetric,
    PrometheusSection,
    load_prometheus_mapping,
    load_prometheus_preset,
    parse_prometheus_mapping,
)
from prometheus_query import Credentials, Limits
from prometheus_query import Prometheus as Client

needs_prometheus = pytest.mark.skipif(bool(MISSING), reason=WHY_NOT)
ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "Docs" / "IMPORTING.md").read_text(encoding="utf-8")
THREE_FILES = {DATA_FILE, DATA_INFO, "server_mapping.json"}

BEGIN = int(datetime(2024, 1, 1, tzinfo=timezone.utc).timestamp())
DAYS = 2
STEPS = DAYS * 288
HOUR = 12  # steps
SERVERS = ("db1", "web1", "web2")
GAP = range(30 * HOUR, 32 * HOUR)  # steps in which web1 is away
QUICK = Limits(patience_seconds=0.5, query_seconds=5, grace_seconds=1)


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith("TFT_PROMETHEUS")]:
        monkeypatch.delenv(name)


# -------------------------------------------------------------------------------------------------------------- history
def busy(server: int, step: int) -> float:
    """Share of a step in which a server was busy, 0–1: another one in every step."""
    return 0.5 + 0.4 * math.sin(step / 40 + server) + 0.05 * (step % 2)


def used(server: int, step: int) -> float:
    """Share of the memory that was used all through a step."""
    return 0.3 + 0.1 * server + 0.2 * ((step * 7) % 11) / 11


def written(server: int, step: int) -> float:
    """MB/s written in a step; half as much was read."""
    return 1 + server + step % 5


def samples() -> Iterator[tuple[str, str, float, float]]:
    """Two days of three servers, scraped every minute: metric, labels, value and time."""
    for number, server in enumerate(SERVERS):
        node = f'instance="{server}:9100",job="node",role="{"sql" if server == "db1" else "www"}"'
        idle = bytes_written = 0.0
        for step in range(STEPS):
            for minute in range(5):
                moment = BEGIN + 300 * step + 60 * minute
                if not (server == "web1" and step in GAP):
                    yield "node_cpu_seconds_total", f'{node},cpu="0",mode="idle"', idle, moment
                    for device in ("sda", "dm-0"):  # the second is made of the first
                        disk = f'{node},device="{device}"'
                        yield "node_disk_written_bytes_total", disk, bytes_written, moment
                        yield "node_disk_read_bytes_total", disk, bytes_written / 2, moment
                    for name in ("node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes"):
                        share = 1 - used(number, step) if "Available" in name else 1
                        yield name, node, share * 2**33, moment + 30
                idle += 60 * (1 - busy(number, step))
                bytes_written += 60 * written(number, step) * 2**20
            if server == "web2" and step == 100:  # rebooted
                idle = bytes_written = 0.0
    for host, seconds in (("https://db1/health", 0.25), ("db1:5432", 0.05), ("https://elsewhere.example/", 9.0)):
        for step in range(STEPS):
            fails = host == "https://db1/health" and step in range(50, 60)
            labels = f'instance="{host}",job="blackbox"'
            yield "probe_duration_seconds", labels, 0.001 if fails else seconds, BEGIN + 300 * step + 30
            yield "probe_success", labels, 0.0 if fails else 1.0, BEGIN + 300 * step + 30
    for step in range(STEPS):
        odd = {0: "NaN", 1: "+Inf", 2: "-Inf", 3: "1e300"}.get(step % 5, "0.5")
        yield "odd_ratio", 'instance="db1"', float(odd), BEGIN + 300 * step + 30


def openmetrics() -> Iterator[str]:
    families: dict[str, list[str]] = {}
    for name, labels, value, moment in samples():
        text = {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, str(value))
        families.setdefault(name, []).append(f"{name}{{{labels}}} {text} {moment}")
    for name, lines in families.items():
        yield f"# TYPE {name.removesuffix('_total')} {'counter' if name.endswith('_total') else 'gauge'}"
        yield from lines


@pytest.fixture(scope="module")
def history_folder(tmp_path_factory) -> Path:
    """Data folder of a Prometheus with history, to be copied."""
    if MISSING:
        pytest.skip(WHY_NOT)
    folder = tmp_path_factory.mktemp("history")
    backfill(folder, openmetrics())
    return folder / "data"


def with_history(history_folder: Path, folder: Path, *flags: str, web: str = "") -> Prometheus:
    shutil.copytree(history_folder, folder / "data")
    return Prometheus(folder, None, *flags, web=web)


@pytest.fixture(scope="module")
def history(history_folder, tmp_path_factory) -> Iterator[Prometheus]:
    """A Prometheus that has two days of three servers and scrapes nothing."""
    with with_history(history_folder, tmp_path_factory.mktemp("prometheus")) as prometheus:
        yield prometheus


@pytest.fixture
def own_history(history_folder, tmp_path) -> Iterator[Prometheus]:
    """The same for one test alone, which may stop it."""
    with with_history(history_folder, tmp_path / "prometheus") as prometheus:
        yield prometheus


def mapping(text: str = "", **metrics: Any) -> PrometheusMapping:
    """Mapping of queries: a text is a query, a dict all of a metric's section."""
    sections = {name: {"query": wanted} if isinstance(wanted, str) else wanted for name, wanted in metrics.items()}
    return parse_prometheus_mapping({"prometheus": {"metrics": sections}, **json.loads(text or "{}")}, name="test")


AVERAGES = ("avg_over_time(node_memory_MemAvailable_bytes[$step])", "avg_over_time(node_memory_MemTotal_bytes[$step])")
MEMORY = {"query": f"1 - {' / '.join(AVERAGES)}", "unit": "ratio"}
NODE = load_prometheus_preset("node_exporter")
SINCE, UNTIL = "2024-01-01", "2024-01-03"


def run(
    url: str, out: Path, wanted: PrometheusMapping = NODE, since: str = SINCE, until: str = UNTIL, **more: Any
) -> tuple[ImportReport, pd.DataFrame]:
    """Import; the result always passes the validator, and nothing else is left in the folder."""
    report = import_prometheus(url, wanted, out, since, until, **more)
    assert {path.name for path in out.iterdir()} == THREE_FILES
    assert DataValidator().validate_file(out / DATA_FILE).errors == []
    assert report.rows_in == report.rows_out + sum(report.rows_dropped.values())
    assert json.loads((out / DATA_INFO).read_text())["report"] == json.loads(json.dumps(report.as_dict()))
    return report, frame_of(out)


def frame_of(out: Path) -> pd.DataFrame:
    frame = read_frame(out / DATA_FILE)
    frame["server_name"] = frame["server_name"].astype(str)
    frame["step"] = (frame["timestamp"].astype("datetime64[s, UTC]").astype(np.int64) - BEGIN) // 300
    return frame


def refused(error: type[ProductError], *parts: str):
    """Context that expects an error whose text holds all parts, and the four things every error says."""
    four = ("Why it matters", "To fix it", "Docs/IMPORTING.md")
    return pytest.raises(error, match="(?s)" + "".join(f"(?=.*{re.escape(part)})" for part in (*parts, *four)))


def kept_folders(out: Path) -> list[Path]:
    return sorted(out.glob(".prometheus-*"))


@pytest.fixture(scope="module")
def whole(history, tmp_path_factory) -> tuple[ImportReport, pd.DataFrame]:
    """The history as the shipped preset brings it in, in one chunk."""
    return run(history.url, tmp_path_factory.mktemp("whole"))


# --------------------------------------------------------------------------------------------------- what a value means
def test_a_value_stands_at_the_beginning_of_the_step_that_it_was_measured_in(whole):
    _, frame = whole
    for number, server in enumerate(SERVERS):
        own = frame[frame["server_name"] == server]
        # A rate needs the sample at the end of its window: the last step of all, those at a gap and the reboot lack it.
        usual = own[(own["step"] < STEPS - 1) & ~own["step"].isin([GAP[0] - 1, *GAP, 100])]
        assert len(usual) > 500
        np.testing.assert_allclose(usual["cpu_pct"], [100 * busy(number, step) for step in usual["step"]], atol=0.01)
        np.testing.assert_allclose(usual["mem_pct"], [100 * used(number, step) for step in usual["step"]], atol=0.01)
        np.testing.assert_allclose(usual["disk_io_mb_s"], [1.5 * written(number, s) for s in usual["step"]], atol=0.01)


def test_nothing_that_was_measured_after_a_time_changes_the_rows_before_it(history, whole, tmp_path):
    _, frame = run(history.url, tmp_path, until="2024-01-02T07:20:00Z")
    before = whole[1][whole[1]["timestamp"] < pd.Timestamp("2024-01-02T07:20:00Z")].reset_index(drop=True)
    pd.testing.assert_frame_equal(frame, before)


def test_gaps_stay_gaps_and_a_counter_that_starts_anew_gives_no_spike(whole):
    _, frame = whole
    steps = set(frame.loc[frame["server_name"] == "web1", "step"])
    assert steps == set(range(STEPS)) - set(GAP)
    rebooted = frame[(frame["server_name"] == "web2") & frame["step"].between(98, 102)]
    assert rebooted["cpu_pct"].between(0, 100).all() and rebooted["disk_io_mb_s"].max() < 12


def test_of_several_probes_of_a_host_the_slowest_counts_and_other_hosts_stay_out(whole):
    report, frame = whole
    assert set(frame["server_name"]) == set(SERVERS)  # and not elsewhere.example
    latency = frame[frame["server_name"] == "db1"].set_index("step")["latency_ms"]
    assert latency[10] == 250 and latency[55] == 50  # the other probe failed then
    assert frame[frame["server_name"] != "db1"]["latency_ms"].isna().all()
    assert 0 < report.reported["latency_ms"] < 1


def test_not_a_number_is_missing_and_infinity_is_counted_by_the_importers_rule(history, tmp_path):
    report, frame = run(
        history.url, tmp_path, mapping(cpu_pct={"query": "last_over_time(odd_ratio[$step])", "unit": "ratio"})
    )
    assert set(frame["step"] % 5) == {4} and set(frame["cpu_pct"]) == {50.0}
    assert report.values_repaired == {"infinite": {"cpu_pct": sum(step % 5 in {1, 2, 3} for step in range(STEPS))}}
    assert report.rows_dropped == {"no_metrics": report.rows_in - report.rows_out}


def test_rates_are_taken_over_four_scrapes_where_the_step_is_shorter(history, tmp_path):
    report, frame = run(history.url, tmp_path, since="2024-01-01T12:00", until="2024-01-01T13:00", step="1m")
    assert any("240 s" in note and "every 60 s" in note for note in report.notes)
    metadata = json.loads((tmp_path / DATA_INFO).read_text())["prometheus"]
    assert (metadata["step_seconds"], metadata["window_seconds"], metadata["url"]) == (60, 240, history.url)
    assert "[240s]" in metadata["queries"]["cpu_pct"] and "[60s]" in metadata["queries"]["mem_pct"]
    own = frame[frame["server_name"] == "db1"]
    assert len(own) == 60 and own["cpu_pct"].notna().all()
    assert report.interval_minutes == 1.0


def test_a_stated_window_and_grafanas_variables_are_used(history, tmp_path):
    wanted = parse_prometheus_mapping(
        {
            "prometheus": {
                "window_seconds": 600,
                "metrics": {
                    "disk_io_mb_s": {
                        "query": 'rate(node_disk_written_bytes_total{device="sda"}[$__rate_interval])',
                        "unit": "B/s",
                    },
                    "mem_pct": {**MEMORY, "query": MEMORY["query"].replace("$step", "$__interval")},
                },
            }
        }
    )
    run(history.url, tmp_path, wanted, until="2024-01-01T02:00")
    queries = json.loads((tmp_path / DATA_INFO).read_text())["prometheus"]["queries"]
    assert "[600s]" in queries["disk_io_mb_s"] and queries["mem_pct"].count("[300s]") == 2


def test_a_label_states_the_profile(history, tmp_path):
    profile = {"profile": {"column": "role", "values": {"sql": "database", "www": "web_api"}}}
    report, _ = run(history.url, tmp_path, mapping(json.dumps(profile), mem_pct=MEMORY), until="2024-01-01T02:00")
    assert report.profiles == {"database": 1, "web_api": 2}


def test_a_pattern_cuts_the_servers_name_out_of_its_label(history, tmp_path):
    section = {"metrics": {"mem_pct": MEMORY}, "server_pattern": r"(?P<server>web\d):\d+"}
    wanted = parse_prometheus_mapping({"prometheus": section})
    report, frame = run(history.url, tmp_path, wanted, until="2024-01-01T02:00")
    assert set(frame["server_name"]) == {"web1", "web2"}
    assert any("name no server" in note and "db1:9100" in note for note in report.notes)


# --------------------------------------------------------------------------------------------------------------- chunks
def test_the_size_of_the_chunks_changes_nothing(history, whole, tmp_path):
    report, frame = run(history.url, tmp_path, limits=Limits(points_per_request=100))
    assert report.files["Prometheus"] > 15 and whole[0].files["Prometheus"] == 1
    pd.testing.assert_frame_equal(frame, whole[1])


def test_more_steps_than_a_prometheus_gives_at_once_come_in_chunks(history, tmp_path):
    wanted = mapping(mem_pct=MEMORY["query"].replace("$step", "5m"))
    with Client(history.url) as client, pytest.raises(PrometheusError, match="11,000"):
        client.query_range("up", BEGIN, BEGIN + 86_400 * DAYS, 10)
    report, _ = run(history.url, tmp_path, wanted, step="10s")
    assert report.files["Prometheus"] == 2 and report.rows_out > 3 * 17_000


def test_a_prometheus_that_allows_few_samples_is_asked_for_less(history_folder, whole, tmp_path):
    with with_history(history_folder, tmp_path / "small", "--query.max-samples=600") as small:
        report, frame = run(small.url, tmp_path / "out")
        assert report.files["Prometheus"] > 3
        pd.testing.assert_frame_equal(frame, whole[1])


def test_a_step_that_is_too_much_by_itself_is_told_in_the_words_of_the_prometheus(history_folder, tmp_path):
    with (
        with_history(history_folder, tmp_path / "tiny", "--query.max-samples=2") as tiny,
        refused(PrometheusError, "too many samples", "--query.max-samples"),
    ):
        run(tiny.url, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_answers_that_are_too_large_are_asked_for_in_smaller_parts(history, whole, tmp_path):
    report, frame = run(history.url, tmp_path / "a", limits=Limits(answer_mb=0.01))
    assert report.files["Prometheus"] > 3
    pd.testing.assert_frame_equal(frame, whole[1])
    with refused(PrometheusError, "larger than 1e-05 MB", "sum by (instance)"):
        run(history.url, tmp_path / "b", limits=Limits(answer_mb=0.00001))
    assert not (tmp_path / "b").exists()


# ------------------------------------------------------------------------------------------------------------- resuming
class Interrupted(KeyboardInterrupt):
    """Ctrl-C of a test."""


def stop_at(share: float, what: Callable[[], None]) -> Callable[[int, int], None]:
    """Progress that does something once when so much of the fetching is done."""
    waiting = [what]

    def advance(done: int, total: int) -> None:
        if waiting and done >= share * 0.8 * total:
            waiting.pop()()

    return advance


def interrupt() -> None:
    raise Interrupted


SMALL = replace(QUICK, points_per_request=100)


def test_an_interrupted_import_goes_on_where_it_stopped(history, whole, tmp_path):
    told: list[str] = []
    with pytest.raises(Interrupted):
        run(history.url, tmp_path, limits=SMALL, progress=stop_at(0.5, interrupt), tell=told.append)
    assert "the same command goes on" in told[-1] and str(tmp_path) in told[-1]
    (folder,) = kept_folders(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert len(before) > 5
    (folder / "1704000000-00007.parquet").write_bytes(b"left by a crash")
    shares: list[float] = []
    after: dict[str, int] = {}

    def watch(done: int, total: int) -> None:
        shares.append(done / total / 0.8)
        if folder.is_dir():
            after.update({path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")})

    _, frame = run(history.url, tmp_path, limits=SMALL, progress=watch, tell=told.append)
    assert "Going on with an unfinished import of 2024-01-01T00:00:00Z to 2024-01-03T00:00:00Z" in told[-1]
    assert shares[0] >= 0.5 and before.items() < after.items()
    pd.testing.assert_frame_equal(frame, whole[1])


def test_a_prometheus_that_goes_away_half_way_is_told_with_what_is_kept(own_history, whole, tmp_path):
    out = tmp_path / "out"
    with refused(PrometheusError, "does not answer", "of the time range is fetched", "the same command goes on"):
        run(own_history.url, out, limits=SMALL, progress=stop_at(0.3, own_history.stop))
    assert not (out / DATA_FILE).exists()
    with refused(PrometheusError, "does not answer", "the same command goes on"):
        run(own_history.url, out, limits=SMALL)
    own_history.start()
    _, frame = run(own_history.url, out, limits=SMALL)
    pd.testing.assert_frame_equal(frame, whole[1])


def test_a_short_outage_is_waited_for(own_history, whole, tmp_path):
    def restart() -> None:
        own_history.stop()
        threading.Timer(1.0, own_history.start).start()

    limits = replace(SMALL, patience_seconds=30)
    _, frame = run(own_history.url, tmp_path / "out", limits=limits, progress=stop_at(0.3, restart))
    pd.testing.assert_frame_equal(frame, whole[1])


def test_a_corrected_unit_needs_no_second_fetch(own_history, tmp_path):
    query = f"100 * ({MEMORY['query']})"
    out, told = tmp_path / "out", []
    with refused(ImportMappingError, "mem_pct", "above_limit"):
        run(own_history.url, out, mapping(mem_pct={"query": query, "unit": "ratio"}), tell=told.append)
    assert "100 % of the time range is fetched" in told[-1]
    own_history.stop()
    _, frame = run(own_history.url, out, mapping(mem_pct={"query": query, "unit": "percent"}))
    assert frame["mem_pct"].between(20, 80).all()
    own_history.start()


def test_relative_times_go_on_with_the_import_that_they_began(history, tmp_path):
    days = (datetime.now(timezone.utc) - datetime(2024, 1, 3, tzinfo=timezone.utc)).total_seconds() / 86_400
    since, until = f"-{days + 1:.4f}d", f"-{days:.4f}d"
    with pytest.raises(Interrupted):
        run(history.url, tmp_path, since=since, until=until, limits=SMALL, progress=stop_at(0.5, interrupt))
    ((plan,),) = ([json.loads((folder / "plan.json").read_text())] for folder in kept_folders(tmp_path))
    time.sleep(1.1)
    run(history.url, tmp_path, since=since, until=until, limits=SMALL)
    told = json.loads((tmp_path / DATA_INFO).read_text())["prometheus"]
    assert told["to"] == datetime.fromtimestamp(plan["until"], timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_damaged_plan_is_begun_anew(history, whole, tmp_path):
    for damage in ("", "[]", '{"url": 1}'):
        with pytest.raises(Interrupted):
            run(history.url, tmp_path, limits=SMALL, progress=stop_at(0.2, interrupt))
        (kept_folders(tmp_path)[0] / "plan.json").write_text(damage)
    _, frame = run(history.url, tmp_path)
    pd.testing.assert_frame_equal(frame, whole[1])


def test_other_unfinished_imports_are_told_and_old_ones_removed(history, tmp_path):
    for until in ("2024-01-02T12:00", "2024-01-02T18:00"):
        with pytest.raises(Interrupted):
            run(history.url, tmp_path, until=until, limits=SMALL, progress=stop_at(0.2, interrupt))
    young, old = sorted(kept_folders(tmp_path), key=lambda folder: "12:00" in (folder / "plan.json").read_text())
    week = time.time() - 8 * 86_400
    os.utime(old, (week, week))
    told: list[str] = []
    with pytest.raises(Interrupted):
        run(history.url, tmp_path, limits=SMALL, progress=stop_at(0.0, interrupt), tell=told.append)
    assert kept_folders(tmp_path) == [young]
    assert sorted(re.findall("was removed|is kept", " ".join(told))) == ["is kept", "was removed"]


def test_two_of_the_same_import_do_not_spoil_each_other(history, tmp_path):
    seen: list[ProductError] = []

    def again() -> None:
        with pytest.raises(DataFileError, match="at work") as caught:
            run(history.url, tmp_path, limits=SMALL)
        seen.append(caught.value)

    run(history.url, tmp_path, limits=SMALL, progress=stop_at(0.5, again))
    assert len(seen) == 1


# -------------------------------------------------------------------------------------------------------------- queries
def test_a_wrong_query_is_told_in_the_words_of_the_prometheus(history, tmp_path):
    with refused(ImportMappingError, "`cpu_pct`", "1:7: parse error: unclosed left parenthesis"):
        run(history.url, tmp_path / "out", mapping(cpu_pct="avg(up"))
    with refused(ImportMappingError, "`cpu_pct`", "found duplicate series"):
        query = "node_disk_written_bytes_total * on (instance) node_disk_written_bytes_total"
        run(history.url, tmp_path / "out", mapping(cpu_pct=query))
    assert not (tmp_path / "out").exists()


def test_a_query_that_finds_nothing_is_refused_unless_it_is_optional(history, tmp_path):
    typo = {"query": "node_memry_MemAvailable_bytes", "unit": "ratio"}
    with refused(ImportMappingError, "`cpu_pct`: node_memry_MemAvailable_bytes", "optional"):
        run(history.url, tmp_path / "a", mapping(mem_pct=MEMORY, cpu_pct=typo))
    report, frame = run(history.url, tmp_path / "b", mapping(mem_pct=MEMORY, cpu_pct={**typo, "optional": True}))
    assert frame["cpu_pct"].isna().all() and any("nothing for the query of cpu_pct" in note for note in report.notes)


def test_a_query_that_was_not_aggregated_is_refused_with_its_series(history, tmp_path):
    with refused(ImportMappingError, "`disk_io_mb_s`", "more than one series per server", "dm-0", "by (instance)"):
        run(history.url, tmp_path, mapping(disk_io_mb_s="rate(node_disk_written_bytes_total[$window])"))


def test_few_servers_with_several_series_are_settled_by_the_importers_rule_and_told(history, tmp_path):
    second = 'label_replace(node_memory_MemTotal_bytes{role="sql"} * 0 + 8, "z", "z", "", "")'
    query = f"node_memory_MemTotal_bytes * 0 + 7 or {second}"
    report, frame = run(history.url, tmp_path, mapping(mem_pct=query), until="2024-01-01T01:00")
    assert set(frame["mem_pct"]) == {7.0} and report.rows_dropped == {"conflict": 12}
    assert any("more than one series of mem_pct" in note and "db1" in note for note in report.notes)


def test_a_series_whose_labels_change_goes_on_as_the_same_server(history, tmp_path):
    def labelled(part: str, when: str) -> str:
        half = f"and on () (vector(time()) {when} {BEGIN + 86_400})"
        return f'label_replace({MEMORY["query"]}, "rack", "{part}", "", "") {half}'

    query = {**MEMORY, "query": f"{labelled('old', '<=')} or {labelled('new', '>')}"}
    report, frame = run(history.url, tmp_path, mapping(mem_pct=query))
    assert report.rows_dropped == {} and not any("more than one series" in note for note in report.notes)
    assert len(frame) == 3 * STEPS - len(GAP)


def test_what_lies_before_the_first_value_is_told(history, tmp_path):
    report, frame = run(history.url, tmp_path, since="2023-12-20", until="2024-01-01T02:00")
    assert frame["step"].min() == 0
    assert "the Prometheus has nothing of this fleet before 2024-01-01T00:00:00Z" in report.notes


def test_series_without_the_servers_label_are_refused_with_the_labels_that_there_are(history, tmp_path):
    with refused(ImportMappingError, "'instance'", "'job': 'node'", "by (instance)"):
        run(history.url, tmp_path, mapping(cpu_pct="sum by (job) (node_memory_MemTotal_bytes) * 0"))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({}, ["no section [prometheus]", "node_exporter"]),
        ({"prometheus": {"metrics": {}}}, ["at least one metric"]),
        ({"prometheus": {"metrics": {"cpu": {"query": "up"}}}}, ["`cpu` is no metric", "cpu_pct"]),
        (
            {"prometheus": {"metrics": {"cpu_pct": {"qery": "up"}}}},
            ["did you mean 'query'", "`prometheus.metrics.cpu_pct.query` is missing"],
        ),
        ({"prometheus": {"metrics": {"cpu_pct": {"query": " "}}}}, ["must not be empty"]),
        ({"prometheus": {"metrics": {"cpu_pct": {"query": "up{job='$job'}"}}}}, ["$job", "$window"]),
        ({"prometheus": {"metrics": {"cpu_pct": {"query": "up", "unit": "percnt"}}}}, ["did you mean 'percent'"]),
        ({"prometheus": {"metrics": {"latency_ms": {"query": "up", "clip_up_to": 110}}}}, ["for percentages"]),
        ({"prometheus": {"metrics": {"cpu_pct": {"query": "up", "join": True}}}}, ["nothing to join"]),
        ({"prometheus": {"metrics": {"cpu_pct": {"query": "up"}}, "server_pattern": "("}}, ["no regular expression"]),
        ({"prometheus": {"metrics": {"cpu_pct": {"query": "up"}}, "server_pattern": ".+"}}, ["(?P<server>…)"]),
        ({"prometheus": {"metrics": {"cpu_pct": {"query": "up"}}}, "profile": {"column": 1}}, ["labels have names"]),
        ({"prometheus": {"metrics": {"cpu_pct": {"query": "up"}}}, "time": {"column": "t"}}, ["unknown key `time`"]),
        ({"prometheus": {"metrics": {"cpu_pct": {"query": "up"}}, "window_seconds": 0}}, ["window_seconds"]),
    ],
)
def test_a_mapping_that_cannot_be_is_refused_with_all_that_is_wrong(content, parts):
    with refused(ImportMappingError, *parts):
        parse_prometheus_mapping(content, source="mine.toml")


def test_a_preset_for_a_prometheus_is_not_taken_for_one_of_files_and_the_other_way_round():
    with refused(ImportMappingError, "--prometheus"):
        load_preset("node_exporter")
    with refused(ImportMappingError, "node_exporter"):
        load_prometheus_preset("bitbrains")
    with refused(ImportMappingError, "did you mean 'node_exporter'"):
        load_prometheus_preset("node_export")


# ---------------------------------------------------------------------------------------------------------- who answers
class Gate:
    """A web server before a Prometheus, or in its place; `answer` may answer, or return False to pass on."""

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], bool], behind: str = "") -> None:
        gate = self
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.closing = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                gate.requests.append((self.path, dict(self.headers)))
                self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if not answer(self):
                    headers = {"content-type": self.headers.get("content-type", "")}
                    found = httpx2.request(
                        self.command, behind + self.path, content=self.body, headers=headers, trust_env=False
                    )
                    send(self, found.status_code, found.text, found.headers["content-type"])

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Gate:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def send(
    request: BaseHTTPRequestHandler, status: int, text: str, kind: str = "application/json", **headers: str
) -> bool:
    body = text.encode()
    request.send_response(status)
    for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)
    return True


def test_an_address_where_nothing_answers_is_told_at_once(tmp_path):
    with refused(PrometheusError, "does not answer", "-/ready"):
        run(f"http://127.0.0.1:{free_port()}", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("status", "text", "kind", "part"),
    [
        (200, "<html>Grafana</html>", "text/html; charset=utf-8", "200 OK, text/html"),
        (404, "page not found", "text/plain", "404 Not Found"),
        (200, '{"status": "ok"}', "application/json", "200 OK"),
        (200, '{"status": "success", "data": {"resultType": "matrix", "result": [{"values": 1}]}}', "", "no series"),
        (200, '{"status": "success", "data": ["' + "[" * 9999, "application/json", "200 OK"),
        (400, '{"status": "error", "error": "no org id"}', "application/json", "no org id"),
    ],
)
def test_something_else_than_a_prometheus_is_told_by_what_it_answers(tmp_path, status, text, kind, part):
    with Gate(lambda request: send(request, status, text, kind)) as gate, refused(PrometheusError, part):
        run(gate.url, tmp_path)


def test_a_prometheus_that_wants_a_password_gets_it_from_the_environment(history_folder, tmp_path, monkeypatch):
    # "test", hashed with bcrypt as Prometheus wants it
    web = "basic_auth_users: {admin: $2b$12$hNf2lSsxfm0.i4a.1kVpSOVyBCfIB51VRjgBUyv6kdnyTlgWj81Ay}"
    with with_history(history_folder, tmp_path / "guarded", web=web) as guarded:
        wait_until_it_listens(guarded)
        with refused(PrometheusError, "401", "it wants credentials", "TFT_PROMETHEUS_TOKEN"):
            run(guarded.url, tmp_path / "out")
        monkeypatch.setenv("TFT_PROMETHEUS_USER", "admin")
        with refused(ConfigurationError, "belong together"):
            run(guarded.url, tmp_path / "out")
        monkeypatch.setenv("TFT_PROMETHEUS_PASSWORD", "wrong-secret")
        with refused(PrometheusError, "401", "it does not accept TFT_PROMETHEUS_USER") as caught:
            run(guarded.url, tmp_path / "out")
        assert "wrong-secret" not in str(caught.value)
        monkeypatch.setenv("TFT_PROMETHEUS_PASSWORD", "test")
        run(guarded.url, tmp_path / "out", until="2024-01-01T01:00")


def wait_until_it_listens(prometheus: Prometheus) -> None:
    for _ in range(400):
        try:
            httpx2.get(prometheus.url, trust_env=False)
        except httpx2.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("it does not listen")


@needs_prometheus
def test_a_token_from_the_environment_is_sent_and_a_wrong_one_told(history, tmp_path, monkeypatch):
    def guard(request: BaseHTTPRequestHandler) -> bool:
        if request.headers.get("authorization") == "Bearer s3cr3t":
            return False
        return send(request, 403, "no", "text/plain")

    with Gate(guard, history.url) as gate:
        monkeypatch.setenv("TFT_PROMETHEUS_TOKEN", "guessed-token")
        with refused(PrometheusError, "403", "it does not accept the token in TFT_PROMETHEUS_TOKEN") as caught:
            run(gate.url, tmp_path)
        assert "guessed-token" not in str(caught.value)
        monkeypatch.setenv("TFT_PROMETHEUS_TOKEN", "s3cr3t")
        run(gate.url, tmp_path, until="2024-01-01T01:00")
    assert "s3cr3t" not in (tmp_path / DATA_INFO).read_text()


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"TFT_PROMETHEUS_TOKEN": "a", "TFT_PROMETHEUS_USER": "b", "TFT_PROMETHEUS_PASSWORD": "c"}, "both set"),
        ({"TFT_PROMETHEUS_PASSWORD": "c"}, "belong together"),
        ({"TFT_PROMETHEUS_TOKEN": "two words"}, "spaces"),
        ({"TFT_PROMETHEUS_TOKEN": "tökén"}, "other characters"),
        ({"TFT_PROMETHEUS_USER": "a:b", "TFT_PROMETHEUS_PASSWORD": "c"}, "colon"),
    ],
)
def test_credentials_that_cannot_be_sent_are_refused(variables, part):
    with refused(ConfigurationError, part):
        Credentials.from_environment(variables)


def test_a_redirect_is_told_and_carries_no_credentials_to_another_host(tmp_path, monkeypatch):
    monkeypatch.setenv("TFT_PROMETHEUS_TOKEN", "s3cr3t")
    with (
        Gate(lambda request: send(request, 200, "{}")) as other,
        Gate(lambda request: send(request, 307, "", location=f"{other.url}/api?key=hidden")) as gate,
    ):
        with refused(PrometheusError, "redirects to", "/api") as caught:
            run(gate.url, tmp_path)
        assert "hidden" not in str(caught.value)
        assert other.requests == [] and "s3cr3t" in gate.requests[0][1]["Authorization"]


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("prometheus:9090", "must begin with http://"),
        ("ftp://prometheus", "must begin with http://"),
        ("http://", "name a host"),
        ("http://a:99999", "Port out of range"),
        ("http://a/graph?g0.expr=up", "leave out"),
        ("http://admin:hunter2@a:9090", "holds a user or password"),
    ],
)
def test_an_address_that_is_none_is_refused_and_no_password_shown(tmp_path, url, part):
    with refused(ConfigurationError, part) as caught:
        run(url, tmp_path)
    assert "hunter2" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------- slow, in trouble
@needs_prometheus
def test_a_prometheus_that_is_overloaded_for_a_moment_is_asked_again(history, whole, tmp_path):
    count = iter(range(10_000))
    trouble = {3: (503, {}), 5: (429, {"retry_after": "0.1"}), 6: (502, {})}

    def stumble(request: BaseHTTPRequestHandler) -> bool:
        status, headers = trouble.get(next(count), (0, {}))
        return bool(status) and send(request, status, "busy", "text/plain", **headers)

    with Gate(stumble, history.url) as gate:
        _, frame = run(gate.url, tmp_path, limits=replace(QUICK, patience_seconds=20))
    pd.testing.assert_frame_equal(frame, whole[1])


@needs_prometheus
def test_slow_queries_are_asked_in_smaller_parts_and_told_if_that_does_not_help(history, whole, tmp_path):
    def slow_beyond(steps: float) -> Callable[[BaseHTTPRequestHandler], bool]:
        def answer(request: BaseHTTPRequestHandler) -> bool:
            form = dict(part.split("=") for part in request.body.decode().split("&")) if request.body else {}
            if "start" not in form or (float(form["end"]) - float(form["start"])) / float(form["step"]) < steps:
                return False
            return not gate.closing.wait(1.0) and send(request, 200, "too late")

        return answer

    limits = Limits(query_seconds=0.4, grace_seconds=0.2)
    with Gate(slow_beyond(300), history.url) as gate:
        _, frame = run(gate.url, tmp_path / "a", limits=limits)
    pd.testing.assert_frame_equal(frame, whole[1])
    with Gate(slow_beyond(0), history.url) as gate, refused(PrometheusError, "no whole answer in time"):
        run(gate.url, tmp_path / "b", limits=limits, until="2024-01-01T00:10")


@needs_prometheus
def test_an_answer_that_drips_is_not_waited_for_for_ever(history, tmp_path):
    def drip(request: BaseHTTPRequestHandler) -> bool:
        if b"start=" not in request.body:
            return False
        request.send_response(200)
        request.send_header("content-length", "1000000")
        request.end_headers()
        try:
            while not gate.closing.wait(0.05):
                request.wfile.write(b" ")
        except OSError:
            pass
        return True

    with Gate(drip, history.url) as gate, refused(PrometheusError, "no whole answer in time"):
        run(gate.url, tmp_path, limits=Limits(query_seconds=0.3, grace_seconds=0.1), until="2024-01-01T00:10")


@needs_prometheus
def test_what_a_prometheus_warns_of_is_in_the_report(history, tmp_path):
    def warn(request: BaseHTTPRequestHandler) -> bool:
        if b"start=" not in request.body:
            return False
        form = {"content-type": request.headers["content-type"]}
        found = httpx2.post(history.url + request.path, content=request.body, headers=form, trust_env=False).json()
        return send(request, 200, json.dumps({**found, "warnings": ["a store did not answer"]}))

    with Gate(warn, history.url) as gate:
        report, _ = run(gate.url, tmp_path, until="2024-01-01T01:00")
    assert "the Prometheus warns: a store did not answer" in report.notes


def test_a_time_in_which_there_is_nothing_is_told_with_the_time_that_has_something(history, tmp_path):
    with refused(PrometheusError, "has nothing", "2024-02-01T00:00:00Z and 2024-02-03", "from about 2024-01-0"):
        run(history.url, tmp_path / "out", since="2024-02-01", until="2024-02-03")
    assert not (tmp_path / "out").exists()


def test_a_prometheus_without_any_of_the_metrics_is_told_with_those_that_it_has(tmp_path):
    if MISSING:
        pytest.skip(WHY_NOT)
    with Prometheus(tmp_path / "empty") as empty, refused(PrometheusError, "It tells of no metrics at all"):
        run(empty.url, tmp_path / "out", since="-1h", until="now")


# ---------------------------------------------------------------------------------------------------------------- times
NOW = datetime(2026, 11, 22, 12, 34, 56, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-11-01", "2026-11-01T00:00:00"),
        ("2026-11-01T08:00", "2026-11-01T08:00:00"),
        ("2026-11-01 08:00:00Z", "2026-11-01T08:00:00"),
        ("2026-11-01T08:00:00+02:00", "2026-11-01T06:00:00"),
        ("now", "2026-11-22T12:34:56"),
        ("-30d", "2026-10-23T12:34:56"),
        (" -1d12h ", "2026-11-21T00:34:56"),
        ("now - 90M", "2026-11-22T11:04:56"),
        ("-1.5h", "2026-11-22T11:04:56"),
        (datetime(2026, 11, 1), "2026-11-01T00:00:00"),  # noqa: DTZ001 - naive is UTC
    ],
)
def test_times_are_read_as_people_write_them(text, meant):
    assert parse_time(text, NOW).isoformat() == f"{meant}+00:00"


@pytest.mark.parametrize(
    ("since", "until", "step", "part"),
    [
        ("2026-11-02", "2026-11-01", "5m", "is not before"),
        ("-1h", "-1h", "5m", "is not before"),
        ("2026-11-01", "2026-11-23", "5m", "is in the future"),
        ("2027-01-01", "2027-01-02", "5m", "is in the future"),
        ("-100000d", "now", "5m", "lies before 1970"),
        ("-4m", "now", "5m", "no whole step"),
        ("yesterday", "now", "5m", "'yesterday' is no time"),
        ("", "now", "5m", "is no time"),
        ("-", "now", "5m", "is no time"),
        ("-999999999d", "now", "5m", "is no time"),
        ("-1d", "01.11.2026", "5m", "is no time"),
        ("-1d", "now", "7m", "does not divide 5 minutes"),
        ("-1d", "now", "1h", "does not divide 5 minutes"),
        ("-1d", "now", "0s", "does not divide 5 minutes"),
        ("-1d", "now", "soon", "does not divide 5 minutes"),
    ],
)
def test_times_that_cannot_be_imported_are_refused(since, until, step, part):
    with refused(ConfigurationError, part):
        TimeRange.of(since, until, step, NOW)


def test_only_whole_steps_between_the_times_are_asked_for():
    found = TimeRange.of("2026-11-01T00:01", "2026-11-01T00:59", "5m", NOW)
    assert (found.since % 300, found.until % 300, (found.until - found.since) // 300) == (0, 0, 10)


# ---------------------------------------------------------------------------------------------------------- the command
def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "import", *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment},
    )


def test_the_help_names_the_options_and_an_example():
    text = command("--help").stdout
    for part in ("--prometheus", "--from", "--to", "--step", "-30d", "--preset node_exporter"):
        assert part in text
    assert "node_exporter" in command("--list-presets").stdout.split()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--from", "-1d", "a.csv", "--preset", "csv"], "--prometheus"),
        (["--prometheus", "http://a", "a.csv", "--preset", "node_exporter", "--from", "-1d"], "either files or"),
        (["--prometheus", "http://a", "--from", "-1d"], "--preset"),
        (["--prometheus", "http://a", "--preset", "node_exporter"], "--from"),
    ],
)
def test_wrong_usage_exits_with_2(arguments, part):
    done = command(*arguments)
    assert done.returncode == 2 and part in done.stderr


def test_errors_exit_with_1_and_json_is_only_json(tmp_path):
    options = ("--preset", "node_exporter", "--from", "-1d", "--out_dir", str(tmp_path / "out"))
    done = command("--prometheus", f"http://127.0.0.1:{free_port()}", *options, "--json")
    assert done.returncode == 1 and done.stdout == ""
    assert set(json.loads(done.stderr)["error"]) == {"what", "why", "fix", "document"}


def test_a_folder_that_cannot_be_written_is_told(history, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with refused(DataFileError, "cannot be written", "--out_dir"):
        run(history.url, tmp_path / "file" / "out")


@pytest.mark.parametrize(("size", "kept"), [(200, False), (5_000, True)])
def test_a_full_disk_is_told_and_what_was_fetched_is_kept(history, whole, tmp_path, size, kept):
    code = f"""
import resource, sys
from pathlib import Path
from data_contract import DataFileError
from prometheus_import import import_prometheus
from prometheus_mapping import load_prometheus_preset
from prometheus_query import Limits
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))  # what a full disk is to a writer
preset, out, limits = load_prometheus_preset("node_exporter"), Path(sys.argv[2]), Limits(points_per_request=100)
try:
    import_prometheus(sys.argv[1], preset, out, "{SINCE}", "{UNTIL}", tell=print, limits=limits)
except DataFileError as error:
    print(error)
    sys.exit(1)
"""
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", code, history.url, str(out)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stdout and "To fix it" in done.stdout
    assert ("100 % of the time range is fetched" in done.stdout) == kept == out.exists()
    assert not (out / DATA_FILE).exists()
    _, frame = run(history.url, out)
    pd.testing.assert_frame_equal(frame, whole[1])


def test_ctrl_c_exits_with_130_and_says_what_is_kept(history, tmp_path):
    line = [sys.executable, str(ROOT / "main.py"), "import", "--prometheus", history.url, "--preset", "node_exporter"]
    process = subprocess.Popen(
        [*line, "--from", SINCE, "--to", UNTIL, "--step", "1s", "--out_dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(1200):
        if list(tmp_path.glob(".prometheus-*/*.parquet")) or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "of the time range is fetched" in told and "the same command goes on from there" in told
    assert "Traceback" not in told and len(kept_folders(tmp_path)) == 1


# --------------------------------------------------------------------------------------------------------- this machine
@pytest.fixture(scope="module", autouse=True)
def live(tmp_path_factory) -> Iterator[Prometheus | None]:
    """A Prometheus that scrapes this machine from the first test on, so that the last one finds something."""
    if MISSING:
        yield None
        return
    folder = tmp_path_factory.mktemp("live")
    node, probe = (f"127.0.0.1:{free_port()}" for _ in range(2))
    (folder / "blackbox.yml").write_text(
        '{"modules": {"http": {"prober": "http", "http": {"no_follow_redirects": true}}}}'
    )
    blackbox = {
        "metrics_path": "/probe",
        "params": {"module": ["http"]},
        "static_configs": [{"targets": [f"http://{node}/"]}],
        "relabel_configs": [
            {"source_labels": ["__address__"], "target_label": "__param_target"},
            {"source_labels": ["__param_target"], "target_label": "instance"},
            {"target_label": "__address__", "replacement": probe},
        ],
    }
    jobs = {"node": {"static_configs": [{"targets": [node]}]}, "blackbox": blackbox}
    config = f"--config.file={folder / 'blackbox.yml'}"
    with (
        Program(folder / "node", "prometheus-node-exporter", f"--web.listen-address={node}"),
        Program(folder / "probe", "prometheus-blackbox-exporter", config, f"--web.listen-address={probe}"),
        Prometheus(folder / "prometheus", jobs) as prometheus,
    ):
        yield prometheus


@needs_prometheus
def test_this_very_machine_comes_in_as_valid_contract_data(live, tmp_path):
    for _ in range(300):  # 20 s of it
        found = live.values(
            "min(count_over_time(node_memory_MemTotal_bytes[5m]) and on () count_over_time(probe_success[5m]))"
        )
        if found and int(found[0]["value"][1]) >= 20:
            break
        time.sleep(0.1)
    out = tmp_path / "out"
    options = ("--preset", "node_exporter", "--from", "-10m", "--step", "5s", "--out_dir", str(out), "--json")
    done = command("--prometheus", live.url, *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert DataValidator(strict=True).validate_file(out / DATA_FILE).errors == []
    frame = frame_of(out)
    assert set(frame["server_name"]) == {"127.0.0.1"} and len(frame) >= 3
    assert (frame["timestamp"].astype("datetime64[s, UTC]").astype(np.int64) % 5 == 0).all()
    whole_rows = frame.dropna()
    assert len(whole_rows) >= 2, frame
    assert whole_rows["cpu_pct"].between(0, 100).all() and (whole_rows["latency_ms"] > 0).all()
    memory = dict(re.findall(r"^(\w+): +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE))
    used_now = 100 * (1 - int(memory["MemAvailable"]) / int(memory["MemTotal"]))
    assert abs(frame["mem_pct"].iloc[-1] - used_now) < 25
    assert report["states_derived"] == report["rows_out"] == len(frame)
    assert frame["timestamp"].max() + pd.Timedelta(seconds=5) <= pd.Timestamp.now(tz="UTC")


# ------------------------------------------------------------------------------------------------------------ documents
def test_the_document_lists_every_preset_and_key():
    rows = set(re.findall(r"^\| `([^`]+)`", DOCUMENT, re.MULTILINE))
    assert set(presets(prometheus=True)) <= rows
    for prefix, section in (("prometheus", PrometheusSection), ("prometheus.metrics.…", PrometheusMetric)):
        for name, field in section.model_fields.items():
            if name != "metrics":
                assert f"{prefix}.{name}" in rows, name
                assert field.description in DOCUMENT, name
    for variable in ("TFT_PROMETHEUS_TOKEN", "TFT_PROMETHEUS_USER", "TFT_PROMETHEUS_PASSWORD"):
        assert variable in DOCUMENT


def test_a_prometheus_can_evaluate_the_queries_of_the_document_and_the_presets(history, tmp_path):
    (example,) = [each for each in re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL) if "[prometheus]" in each]
    (tmp_path / "example.toml").write_text(example, encoding="utf-8")
    mappings = [load_prometheus_mapping(tmp_path / "example.toml")]
    mappings += [load_prometheus_preset(name) for name in presets(prometheus=True)]
    with Client(history.url) as client:
        client.check()
        for wanted in mappings:
            for query in wanted.queries(300, 600).values():
                client.query(query, BEGIN + 3600)
    assert mappings[0].server_of("cpu_pct", {"instance": "db1.example.org:9182"}) == "db1"
