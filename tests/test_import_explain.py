import gzip
import json
import math
import os
import re
import sys
from datetime import datetime, timedelta, timezone
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from contract_parquet import read_frame
from data_contract import DATA_FILE, METRIC_COLUMNS, DataFileError, ImportMappingError, ProductError
from explain_names import meaning
from explain_report import render_explanation
from explain_toml import plain_text, toml_text
from import_explain import Explanation, explain, write_mapping
from main import app
from metrics_importer import import_files, load_mapping, load_preset

ROOT = Path(__file__).parents[1]
SAMPLES = Path(__file__).parent / "data"
REAL = Path(os.environ.get("TFT_REAL_DATA", "/nonexistent"))
needs_real_data = pytest.mark.skipif(
    "TFT_REAL_DATA" not in os.environ, reason="TFT_REAL_DATA does not name the folder of real fleets"
)
START = datetime(2026, 3, 2, tzinfo=timezone.utc)
ROWS = 48
CPU = [round(20 + 15 * math.sin(i / 5) + i % 3, 2) for i in range(ROWS)]
MEM = [round(55 + 9 * math.cos(i / 7), 1) for i in range(ROWS)]
READ = [float(100 + 37 * (i % 5)) for i in range(ROWS)]
WRITE = [float(300 + 11 * (i % 7)) for i in range(ROWS)]
WAIT = [round(20 + (i * 7) % 11, 1) for i in range(ROWS)]


def moments(form: str = "%Y-%m-%d %H:%M:%S", minutes: float = 5) -> list[str]:
    return [(START + timedelta(minutes=minutes * i)).strftime(form) for i in range(ROWS)]


def epochs(factor: float = 1) -> list[int]:
    return [int((START + timedelta(minutes=5 * i)).timestamp() * factor) for i in range(ROWS)]


def table(separator: str, header: list[str] | None, *columns) -> str:
    """Text of a table; columns that are one value stand in every row."""
    full = [column if isinstance(column, list) else [column] * ROWS for column in columns]
    lines = [separator.join(map(str, row)) for row in zip(*full, strict=True)]
    return "\n".join([*([separator.join(header)] if header else []), *lines]) + "\n"


def saved(tmp_path: Path, text: str | bytes, name: str = "export.csv") -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def found(explanation: Explanation) -> dict[str, dict]:
    return {finding.field: finding.section or {} for finding in explanation.findings}


def confidence(explanation: Explanation) -> dict[str, str]:
    return {finding.field: finding.confidence for finding in explanation.findings}


def imported(source: Path, tmp_path: Path, explanation: Explanation) -> pd.DataFrame:
    """Write the proposed mapping, read it as a user's mapping file, and import the very source with it."""
    target = tmp_path / "made" / "mapping.toml"
    write_mapping(target, explanation, force=True)
    mapping = load_mapping(target)
    assert mapping.layouts == explanation.mapping.layouts
    import_files(source, mapping, tmp_path / "out")
    frame = read_frame(tmp_path / "out" / DATA_FILE)
    frame["server_name"] = frame["server_name"].astype(str)
    return frame


def round_trip(source: Path, tmp_path: Path, **expected) -> Explanation:
    """Explain, import with what was proposed, and compare the values of the first server."""
    explanation = explain(source)
    frame = imported(source, tmp_path, explanation)
    first = frame[frame["server_name"] == frame["server_name"].iloc[0]]
    for metric in METRIC_COLUMNS:
        values = expected.get(metric)
        if values is None:
            assert first[metric].isna().all(), metric
            assert confidence(explanation)[metric] == "not found"
        else:
            np.testing.assert_allclose(first[metric].to_numpy(), values, rtol=1e-4, atol=1e-4, err_msg=metric)
    assert first["timestamp"].iloc[0] == pd.Timestamp(expected.get("start", START))
    assert explanation.interval_minutes in {expected.get("interval", 5), None}
    return explanation


def shown(explanation: Explanation, width: int = 120) -> str:
    console = Console(file=StringIO(), width=width, highlight=False)
    render_explanation(explanation, console, with_mapping=True)
    return console.file.getvalue()


DISK_MB = [(r + w) / 1024 for r, w in zip(READ, WRITE, strict=True)]


# ------------------------------------------------------------------------------------------------ tables of usual tools
def test_a_plain_english_table_is_read_by_its_names_and_units(tmp_path):
    header = ["time", "host", "cpu_percent", "mem_percent", "disk_read_kb_s", "disk_write_kb_s", "response_time_ms"]
    text = table(",", header, moments("%Y-%m-%dT%H:%M:%SZ"), "web1", CPU, MEM, READ, WRITE, WAIT)
    explanation = round_trip(
        saved(tmp_path, text), tmp_path, cpu_pct=CPU, mem_pct=MEM, disk_io_mb_s=DISK_MB, latency_ms=WAIT
    )
    sections = found(explanation)
    assert sections["timestamp"] == {"column": "time"}
    assert sections["server_name"] == {"column": "host"}
    assert sections["cpu_pct"] == {"column": "cpu_percent", "unit": "percent"}
    assert sections["disk_io_mb_s"] == {"columns": ["disk_read_kb_s", "disk_write_kb_s"], "unit": "KB/s"}
    assert sections["latency_ms"] == {"column": "response_time_ms", "unit": "ms"}
    assert {confidence(explanation)[name] for name in METRIC_COLUMNS} == {"sure"}
    # The general preset knows only two of the names, so the mapping is to be taken.
    assert not explanation.take_preset


def test_a_german_export_with_decimal_commas_and_latin_letters_is_read(tmp_path):
    comma = [str(value).replace(".", ",") for value in CPU]
    used = [f"{value * 160:.1f}".replace(".", ",") for value in MEM]
    wait = [f"{value / 1000:.4f}".replace(".", ",") for value in WAIT]
    header = ["Zeitpunkt", "Rechner", "CPU-Auslastung [%]", "Speicher benutzt [MB]", "Speicher gesamt [GB]",
              "Platte gelesen [KB/s]", "Platte geschrieben [KB/s]", "Antwortzeit [s]", "Größe"]  # fmt: skip
    text = table(";", header, moments("%d.%m.%Y %H:%M"), "srv-köln", comma, used, "15,625", READ, WRITE, wait, 1)
    explanation = round_trip(
        saved(tmp_path, text.encode("latin-1")),
        tmp_path,
        cpu_pct=CPU,
        mem_pct=MEM,
        disk_io_mb_s=DISK_MB,
        latency_ms=WAIT,
    )
    assert explanation.form == {"format": "csv", "separator": ";", "encoding": "latin-1", "decimal": ","}
    sections = found(explanation)
    assert sections["timestamp"] == {"column": "Zeitpunkt", "format": "%d.%m.%Y %H:%M"}
    assert sections["mem_pct"] == {
        "column": "Speicher benutzt [MB]",
        "of": "Speicher gesamt [GB]",
        "unit": "MB",
        "of_unit": "GB",
    }
    assert any("latin-1 is a guess" in warning for warning in explanation.warnings)


def test_a_french_export_with_tabs_is_read(tmp_path):
    header = ["Horodatage", "Serveur", "Utilisation CPU (%)", "Mémoire utilisée (%)", "Lecture disque (Mo/s)",
              "Écriture disque (Mo/s)", "Temps de réponse (ms)"]  # fmt: skip
    text = table("\t", header, moments(), "hôte-1", CPU, MEM, READ, WRITE, WAIT)
    total = [r + w for r, w in zip(READ, WRITE, strict=True)]
    explanation = round_trip(
        saved(tmp_path, text, "releve.tsv"), tmp_path, cpu_pct=CPU, mem_pct=MEM, disk_io_mb_s=total, latency_ms=WAIT
    )
    assert explanation.form["separator"] == "\t"


def test_sadf_of_sysstat_is_read_as_what_is_neither_idle_nor_waiting(tmp_path):
    iowait = [round(1 + i % 3 * 0.5, 1) for i in range(ROWS)]
    idle = [round(100 - c - w, 2) for c, w in zip(CPU, iowait, strict=True)]
    header = ["# hostname", "interval", "timestamp", "CPU", "%user", "%nice", "%system", "%iowait", "%steal", "%idle"]
    text = table(";", header, "db1", 300, moments("%Y-%m-%d %H:%M:%S UTC"), -1, CPU, 0.0, 0.0, iowait, 0.0, idle)
    explanation = round_trip(saved(tmp_path, text), tmp_path, cpu_pct=CPU)
    assert found(explanation)["cpu_pct"] == {"columns": ["%idle", "%iowait"], "unit": "percent_idle"}
    assert "sysstat" in " ".join(explanation.findings[2].why)


def test_rows_per_core_are_warned_of_and_the_column_that_tells_them_apart_is_named(tmp_path):
    rows = [f"db1,{m},{c},{v}" for m in moments() for c, v in (("all", 20.5), ("0", 11.5), ("1", 29.5))]
    explanation = explain(saved(tmp_path, "host,time,core,cpu_pct\n" + "\n".join(rows) + "\n"))
    assert any("'core' tells them apart" in warning for warning in explanation.warnings)


def test_vmstat_with_its_line_of_groups_is_read(tmp_path):
    busy = [round(value) for value in CPU]
    header = "procs -----------memory---------- ---swap-- -----io---- -system-- ------cpu----- -----timestamp-----\n"
    names = " r  b   swpd   free   buff  cache   si   so    bi    bo   in   cs us sy id wa st                 UTC\n"
    lines = [
        f" 1  0      0 {800000 - i * 50}  1000  90000    0    0 {int(READ[i])} {int(WRITE[i])}  100  200 "
        f"{b} 0 {98 - b} 2 0 {m}\n"
        for i, (b, m) in enumerate(zip(busy, moments(), strict=True))
    ]
    explanation = round_trip(
        saved(tmp_path, header + names + "".join(lines), "vmstat.txt"), tmp_path, cpu_pct=busy, disk_io_mb_s=DISK_MB
    )
    assert explanation.form["separator"] == "whitespace"
    assert found(explanation)["timestamp"].keys() == {"columns"}
    assert found(explanation)["disk_io_mb_s"]["unit"] == "KB/s"


def test_dstat_with_its_lines_of_groups_is_read(tmp_path):
    groups = '"Dstat 0.7.4 CSV output"\n"Host:","web1",,,"User:","root"\n\n"epoch","total cpu usage",,,,"dsk/total",\n'
    header = [f'"{name}"' for name in ("epoch", "usr", "sys", "idl", "wai", "read", "writ")]
    idle = [round(97 - value, 2) for value in CPU]
    disks = [[value * 1024 for value in values] for values in (READ, WRITE)]
    text = groups + table(",", header, epochs(), CPU, 1.0, idle, 3.0, *disks)
    explanation = round_trip(saved(tmp_path, text), tmp_path, cpu_pct=CPU, disk_io_mb_s=DISK_MB)
    assert explanation.form["skip_lines"] == 4
    assert found(explanation)["cpu_pct"] == {"columns": ["idl", "wai"], "unit": "percent_idle"}


def test_proxmox_writes_two_words_as_one_and_that_is_read(tmp_path):
    header = ["time", "cpu", "maxcpu", "mem", "maxmem", "diskread", "diskwrite", "netin"]
    disks = [[value * 10_240 for value in values] for values in (READ, WRITE)]
    text = table(",", header, epochs(), [c / 100 for c in CPU], 4, [int(m * 8e7) for m in MEM], 8e9, *disks, 1)
    explanation = round_trip(
        saved(tmp_path, text), tmp_path, cpu_pct=CPU, mem_pct=MEM, disk_io_mb_s=[10 * value for value in DISK_MB]
    )
    assert found(explanation)["mem_pct"] == {"column": "mem", "of": "maxmem"}
    assert "network" in dict(explanation.unused)["netin"]


def test_windows_performance_counters_are_read_with_the_host_and_zone_of_the_header(tmp_path):
    header = [
        '"(PDH-CSV 4.0) (W. Europe Standard Time)(-60)"',
        r'"\\WEB01\Processor(_Total)\% Processor Time"',
        r'"\\WEB01\Memory\% Committed Bytes In Use"',
        r'"\\WEB01\PhysicalDisk(_Total)\Disk Read Bytes/sec"',
        r'"\\WEB01\PhysicalDisk(_Total)\Disk Write Bytes/sec"',
        r'"\\WEB01\PhysicalDisk(_Total)\Avg. Disk sec/Transfer"',
        r'"\\WEB01\Process(sqlservr)\% Processor Time"',
    ]
    quoted = [f'"{moment}"' for moment in moments("%m/%d/%Y %H:%M:%S.250")]
    columns = [
        [f'"{value * factor}"' for value in values]
        for values, factor in ((CPU, 1), (MEM, 1), (READ, 1024), (WRITE, 1024))
    ]
    explanation = round_trip(
        saved(tmp_path, table(",", header, quoted, *columns, '"0.004"', '"55.5"')),
        tmp_path,
        cpu_pct=CPU,
        mem_pct=MEM,
        disk_io_mb_s=DISK_MB,
        start=START - timedelta(hours=1) + timedelta(milliseconds=250),
    )
    assert found(explanation)["server_name"] == {"name": "WEB01"}
    assert found(explanation)["timestamp"]["timezone"] == "+01:00"
    unused = dict(explanation.unused)
    assert "one disk operation" in unused[r"\\WEB01\PhysicalDisk(_Total)\Avg. Disk sec/Transfer"]
    assert "one process" in unused[r"\\WEB01\Process(sqlservr)\% Processor Time"]


def test_telegraf_with_times_in_nanoseconds_is_read(tmp_path):
    header = ["time", "name", "cpu", "host", "usage_idle", "usage_iowait", "usage_system", "usage_user"]
    idle = [round(100 - value, 2) for value in CPU]
    text = table(",", header, epochs(1e9), "cpu", "cpu-total", "edge-7", idle, 0.0, 1.0, 2.0)
    explanation = round_trip(saved(tmp_path, text), tmp_path, cpu_pct=CPU)
    assert found(explanation)["timestamp"] == {"column": "time", "unit": "ns"}
    assert found(explanation)["server_name"] == {"column": "host"}


def test_a_measurement_column_that_never_changes_helps_names_that_say_little(tmp_path):
    text = table(",", ["time", "measurement", "host", "used_percent"], moments(), "mem", "edge-7", MEM)
    explanation = round_trip(saved(tmp_path, text), tmp_path, mem_pct=MEM)
    assert "'mem'" in " ".join(explanation.findings[3].why)


def test_a_cloudwatch_export_of_one_metric_is_known_by_its_label(tmp_path):
    text = table(",", ["Timestamp", "Label", "InstanceId", "Average", "Unit"], moments("%Y-%m-%dT%H:%M:%S+00:00"),
                 "CPUUtilization", "i-0abc12", CPU, "Percent")  # fmt: skip
    explanation = round_trip(saved(tmp_path, text), tmp_path, cpu_pct=CPU)
    assert found(explanation)["cpu_pct"] == {"column": "Average", "unit": "percent"}
    assert found(explanation)["server_name"] == {"column": "InstanceId"}


def test_cloudwatch_bytes_are_taken_as_sums_of_the_period_but_only_as_a_guess(tmp_path):
    columns = [[value * 1024 * 300 for value in values] for values in (READ, WRITE)]
    text = table(",", ["Timestamp", "InstanceId", "DiskReadBytes", "DiskWriteBytes"], moments(), "i-1", *columns)
    explanation = round_trip(saved(tmp_path, text), tmp_path, disk_io_mb_s=DISK_MB)
    assert found(explanation)["disk_io_mb_s"]["unit"] == "B/5min"
    assert confidence(explanation)["disk_io_mb_s"] == "guess"
    assert "# GUESS" in explanation.toml


def test_azure_monitor_is_read_and_available_memory_is_turned_round(tmp_path):
    header = ["Time (UTC)", "Percentage CPU", "Available Memory Percentage", "OS Disk Read Bytes/sec",
              "OS Disk Write Bytes/sec", "Network In Total"]  # fmt: skip
    free = [round(100 - value, 2) for value in MEM]
    disks = [[value * 1024 for value in values] for values in (READ, WRITE)]
    text = table(",", header, moments("%m/%d/%Y %I:%M:%S %p"), CPU, free, *disks, 100)
    explanation = round_trip(
        saved(tmp_path, text, "vm-app-3.csv"), tmp_path, cpu_pct=CPU, mem_pct=MEM, disk_io_mb_s=DISK_MB
    )
    assert found(explanation)["timestamp"]["format"] == "%m/%d/%Y %I:%M:%S %p"
    assert found(explanation)["server_name"] == {"from_file_name": True}
    assert confidence(explanation)["server_name"] == "guess"


def test_zabbix_items_are_read(tmp_path):
    header = [
        "clock",
        "host",
        "system.cpu.util[,idle]",
        "vm.memory.size[pused]",
        "icmppingsec",
        "system.cpu.load[all,avg1]",
    ]
    idle = [round(100 - value, 2) for value in CPU]
    seconds = [value / 1000 for value in WAIT]
    names = [f'"{name}"' for name in header]
    explanation = round_trip(
        saved(tmp_path, table(",", names, epochs(), "zbx1", idle, MEM, seconds, 1.5)),
        tmp_path,
        cpu_pct=CPU,
        mem_pct=MEM,
        latency_ms=WAIT,
    )
    assert found(explanation)["latency_ms"]["unit"] == "s"
    assert "load average" in dict(explanation.unused)["system.cpu.load[all,avg1]"]


def test_hundredths_of_a_percent_from_vsphere_are_refused_with_the_remedy(tmp_path):
    header = ["Timestamp", "Entity", "cpu.usage.average", "mem.usage.average", "disk.usage.average"]
    many = [int(100 * value) + 500 for value in CPU]
    text = table(",", header, moments(), "esx01", many, MEM, READ)
    explanation = round_trip(saved(tmp_path, text), tmp_path, mem_pct=MEM, disk_io_mb_s=[v / 1024 for v in READ])
    assert "divide by 100" in dict(explanation.unused)["cpu.usage.average"]


def test_counters_of_node_exporter_are_refused_with_the_reason_and_nothing_is_invented(tmp_path):
    rising = [1_000_000 + 37 * i * i for i in range(ROWS)]
    header = ["time", "instance", "node_cpu_seconds_total", "node_disk_read_bytes_total",
              "node_memory_MemAvailable_bytes",
              "node_memory_MemTotal_bytes", "node_load1"]  # fmt: skip
    text = table(",", header, moments(), "web1:9100", rising, rising, 4_000_000_000, 8_000_000_000, 0.7)
    explanation = explain(saved(tmp_path, text))
    assert explanation.mapping is None and explanation.toml == ""
    unused = dict(explanation.unused)
    assert "CPU seconds" in unused["node_cpu_seconds_total"]
    assert "only rises" in unused["node_disk_read_bytes_total"]
    assert "takes no differences" in unused["node_memory_MemAvailable_bytes"]
    assert "load average" in unused["node_load1"]
    fault = explanation.fault
    assert fault is not None and "No metric was found" in fault.what and "node_load1" in shown(explanation)


# ----------------------------------------------------------------------------------------- the forms of the raw samples
def test_one_file_of_the_bitbrains_archive_is_for_its_preset_and_the_mapping_gives_the_same(tmp_path):
    header = ["Timestamp [ms]", "CPU cores", "CPU capacity provisioned [MHZ]", "CPU usage [MHZ]", "CPU usage [%]",
              "Memory capacity provisioned [KB]", "Memory usage [KB]", "Disk read throughput [KB/s]",
              "Disk write throughput [KB/s]", "Network received throughput [KB/s]",
              "Network transmitted throughput [KB/s]"]  # fmt: skip
    used = [value * 20_480 for value in MEM]
    text = table(
        ";\t", header, epochs(), 4, 10_400.0, [c * 104 for c in CPU], CPU, 2_048_000.0, used, READ, WRITE, 4.5, 0.0
    )
    source = saved(tmp_path, text, "150.csv")
    explanation = round_trip(source, tmp_path, cpu_pct=CPU, mem_pct=MEM, disk_io_mb_s=DISK_MB)
    assert (
        explanation.take_preset and explanation.preset.name == "bitbrains" and explanation.preset.confidence == "sure"
    )
    assert "--preset bitbrains" in shown(explanation)
    assert found(explanation)["timestamp"] == {"column": "Timestamp [ms]", "unit": "s"}
    assert any("the values are seconds" in warning for warning in explanation.findings[0].warnings)
    assert found(explanation)["mem_pct"]["of"] == "Memory capacity provisioned [KB]"


def test_a_numenta_file_is_for_its_preset_and_the_mapping_gives_the_same_values(tmp_path):
    source = SAMPLES / "nab_ec2_cpu_ac20cd.csv"
    explanation = explain(source)
    assert explanation.take_preset and explanation.preset.name == "nab"
    assert found(explanation)["cpu_pct"] == {"column": "value", "unit": "percent"}
    frame = imported(source, tmp_path, explanation)
    np.testing.assert_allclose(frame["cpu_pct"], pd.read_csv(source)["value"], rtol=1e-6)


def test_bytes_written_per_period_in_a_numenta_file_are_a_guess_that_says_so(tmp_path):
    assert explain(SAMPLES / "nab_ec2_disk_write_1ef3de.csv").take_preset  # it knows the period
    source = tmp_path / "ec2-disk-write-bytes.csv"
    source.write_bytes((SAMPLES / "nab_ec2_disk_write_1ef3de.csv").read_bytes())
    explanation = explain(source)
    assert found(explanation)["disk_io_mb_s"] == {"column": "value", "unit": "B/5min"}
    assert confidence(explanation)["disk_io_mb_s"] == "guess"
    assert any("only writes" in warning for warning in explanation.warnings)
    frame = imported(source, tmp_path, explanation)
    assert frame["disk_io_mb_s"].max() == pytest.approx(pd.read_csv(source)["value"].max() / 300 / 1024**2)


def test_a_table_without_times_counts_them_from_a_stated_placeholder(tmp_path):
    text = table(",", ["cpu_util", "mem_util", "net_in"], CPU, MEM, 1.5)
    source = saved(tmp_path, text, "dcmean_60s.csv")
    written = datetime(2026, 5, 6, 7, 8, tzinfo=timezone.utc).timestamp()
    os.utime(source, (written, written))
    explanation = round_trip(
        source, tmp_path, cpu_pct=CPU, mem_pct=MEM, start=datetime(2026, 5, 6, tzinfo=timezone.utc), interval=1
    )
    section = found(explanation)["timestamp"]
    assert section == {"start": datetime(2026, 5, 6, tzinfo=timezone.utc), "interval_minutes": 1}
    assert any("placeholder" in warning for warning in explanation.warnings)
    assert "start = 2026-05-06T00:00:00Z" in explanation.toml


@pytest.mark.parametrize(
    ("name", "preset", "text"),
    [
        ("gcd_vm_17_3.tsv", "gcd", table(" ", None, CPU, MEM)),
        (
            "vm_cpu_readings-file-1-of-195.csv",
            "azure",
            table(",", None, [300 * i for i in range(ROWS)], "vmA", 1, 9, CPU),
        ),
        ("cluster7-dataseries-cpu-mem-202408_1.csv", "cloudcluster", table(",", None, "c7", moments(), "", CPU, MEM)),
        ("planetlab_20110303_one.txt", "planetlab", table(",", None, [int(value) for value in CPU])),
    ],
)
def test_values_without_names_are_known_by_the_preset_of_their_file_name_alone(tmp_path, name, preset, text):
    explanation = explain(saved(tmp_path, text, name))
    assert explanation.preset.name == preset and explanation.take_preset
    assert explanation.toml == (ROOT / "presets" / f"{preset}.toml").read_text()
    frame = imported(tmp_path / name, tmp_path, explanation)
    if preset == "cloudcluster":  # shares of the pool's own peak, which is told
        assert frame["cpu_pct"].max() == 100 and "not measured" in explanation.preset.why
        return
    assert frame["cpu_pct"].iloc[0] == pytest.approx(CPU[0], abs=1)
    # Under another name nothing says what the numbers are.
    other = explain(saved(tmp_path, text, "other.txt"))
    assert other.mapping is None and other.preset is None
    assert "do not say what they are" in " ".join(why for _, why in other.unused)


def test_a_hand_export_of_top_is_for_its_preset_and_its_constant_cpu_is_no_load(tmp_path):
    header = [
        "Host Name",
        "Load",
        "%CPU User",
        "%CPU iowt",
        "%CPU Idle",
        "Java CPU",
        "%Mem Used",
        "Disk Usage",
        "Timestamp",
        "CPU",
    ]
    hosts = [f"ppvra{i:02}" for i in range(ROWS)]
    idle = [round(98 - value, 2) for value in CPU]
    clock = moments("%H:%M:%S", minutes=0.1)
    text = table(",", header, hosts, 0.7, CPU, 2.0, idle, 696.9, MEM, "67% /work", clock, 16)
    source = saved(tmp_path, text)
    explanation = explain(source)
    assert explanation.preset.name == "top" and explanation.take_preset
    frame = imported(source, tmp_path, explanation).sort_values("server_name")
    np.testing.assert_allclose(frame["cpu_pct"], CPU, rtol=1e-4)
    unused = dict(explanation.unused)
    assert (
        "number of cores" in unused["CPU"]
        and "one process" in unused["Java CPU"]
        and "how full" in unused["Disk Usage"]
    )


# -------------------------------------------------------------------------------------------------- values as evidence
def test_ratios_and_shares_are_told_by_their_values(tmp_path):
    text = table(",", ["ts", "node", "cpu", "memory_used", "memory_total"], epochs(1000), "n1",
                 [round(value / 100, 4) for value in CPU], [int(value * 81_920) for value in MEM],
                 8_192_000)  # fmt: skip
    explanation = round_trip(saved(tmp_path, text), tmp_path, cpu_pct=CPU, mem_pct=MEM)
    sections = found(explanation)
    assert sections["timestamp"] == {"column": "ts", "unit": "ms"}
    assert sections["cpu_pct"] == {"column": "cpu", "unit": "ratio"}
    assert sections["mem_pct"] == {"column": "memory_used", "of": "memory_total"}
    assert confidence(explanation)["cpu_pct"] == "guess"


def test_a_percentage_whose_values_are_ratios_is_believed_by_its_values_with_a_warning(tmp_path):
    text = table(",", ["time", "host", "mem_pct"], moments(), "n1", [round(value / 100, 4) for value in MEM])
    explanation = round_trip(saved(tmp_path, text), tmp_path, mem_pct=MEM)
    assert found(explanation)["mem_pct"]["unit"] == "ratio"
    assert any("taken as a ratio" in warning for warning in explanation.warnings)
    assert not explanation.take_preset  # presets would read percentages


def test_units_behind_the_numbers_are_evidence(tmp_path):
    header = ["time", "host", "cpu", "disk throughput", "answer time"]
    columns = [[f"{value} {unit}" for value in values] for values, unit in ((CPU, "%"), (READ, "KB/s"), (WAIT, "ms"))]
    explanation = round_trip(
        saved(tmp_path, table(";", header, moments(), "s1", *columns)),
        tmp_path,
        cpu_pct=CPU,
        disk_io_mb_s=[value / 1024 for value in READ],
        latency_ms=WAIT,
    )
    assert found(explanation)["disk_io_mb_s"]["unit"] == "KB/s" and "stands behind" in " ".join(
        explanation.findings[4].why
    )


def test_an_amount_without_capacity_is_no_percentage_and_the_way_out_is_named(tmp_path):
    text = table(",", ["time", "host", "cpu_percent", "mem_used_mb"], moments(), "s1", CPU, [int(m * 300) for m in MEM])
    explanation = round_trip(saved(tmp_path, text), tmp_path, cpu_pct=CPU)
    assert "capacity = …" in dict(explanation.unused)["mem_used_mb"]


@pytest.mark.parametrize(("factor", "unit"), [(1024, "B/s"), (30, "KB/s"), (0.5, "MB/s")])
def test_a_throughput_without_unit_is_guessed_by_its_size(tmp_path, factor, unit):
    values = [value * factor * (1000 if unit == "B/s" else 1) for value in READ]
    text = table(",", ["time", "host", "disk_throughput"], moments(), "n1", values)
    explanation = explain(saved(tmp_path, text))
    assert found(explanation)["disk_io_mb_s"]["unit"] == unit
    assert confidence(explanation)["disk_io_mb_s"] == "guess" and "GUESS" in explanation.toml


def test_percentages_above_100_are_warned_of(tmp_path):
    text = table(",", ["time", "host", "cpu_percent"], moments(), "n1", [value * 4 for value in CPU])
    explanation = explain(saved(tmp_path, text))
    assert any("is above 100" in warning for warning in explanation.warnings)


def test_a_constant_column_and_numbers_of_operations_are_told(tmp_path):
    text = table(",", ["time", "host", "cpu_percent", "disk_iops", "mem_percent"], moments(), "n1", CPU, 120, 50.0)
    explanation = explain(saved(tmp_path, text))
    assert any("'mem_percent' never changes" in warning for warning in explanation.warnings)
    assert "operations" in dict(explanation.unused)["disk_iops"]


def test_the_mean_is_taken_rather_than_maximum_or_minimum(tmp_path):
    text = table(",", ["time", "vm_id", "min_cpu", "max_cpu", "avg_cpu"], moments(), "vm-a", [c - 1 for c in CPU],
                 [c + 1 for c in CPU], CPU)  # fmt: skip
    explanation = round_trip(saved(tmp_path, text), tmp_path, cpu_pct=CPU)
    assert found(explanation)["cpu_pct"]["column"] == "avg_cpu"


def test_kinds_of_use_are_added_up_where_nothing_states_the_whole(tmp_path):
    half = [round(value / 2, 3) for value in CPU]
    text = table(",", ["time", "host", "cpu_user", "cpu_system"], moments(), "n1", half, half)
    explanation = round_trip(saved(tmp_path, text), tmp_path, cpu_pct=[2 * value for value in half])
    assert found(explanation)["cpu_pct"]["columns"] == ["cpu_user", "cpu_system"]


# ---------------------------------------------------------------------------------------------------------------- times
def test_date_and_time_of_day_in_two_columns_are_joined(tmp_path):
    text = table(",", ["Date", "Time", "Server", "CPU %"], moments("%d/%m/%Y"), moments("%H:%M"), "s1", CPU)
    source = saved(tmp_path, text)
    written = (START + timedelta(days=2)).timestamp()
    os.utime(source, (written, written))
    explanation = round_trip(source, tmp_path, cpu_pct=CPU)
    assert found(explanation)["timestamp"] == {"columns": ["Date", "Time"], "format": "%d/%m/%Y %H:%M"}


def test_day_and_month_that_cannot_be_told_apart_are_a_guess_with_a_warning(tmp_path):
    text = table(
        ",", ["time", "host", "cpu_pct"], [m.replace("2026", "2020") for m in moments("%m/%m/%Y %H:%M")], "s1", CPU
    )
    text = text.replace("03/03/2020", "03/04/2020")
    explanation = explain(saved(tmp_path, text))
    assert found(explanation)["timestamp"]["format"] == "%d/%m/%Y %H:%M"
    assert confidence(explanation)["timestamp"] == "guess"
    assert any("cannot be told apart" in warning and "%m/%d/%Y" in warning for warning in explanation.warnings)


def test_times_that_would_lie_in_the_future_tell_day_from_month(tmp_path):
    days = moments("%m/%d/%Y %H:%M")  # 03/02/2026 is the 2nd of March
    source = saved(
        tmp_path, table(",", ["time", "host", "cpu_pct"], [d.replace("03/02", "01/12") for d in days], "s1", CPU)
    )
    written = datetime(2026, 1, 13, tzinfo=timezone.utc).timestamp()
    os.utime(source, (written, written))
    explanation = explain(source)
    assert found(explanation)["timestamp"]["format"] == "%m/%d/%Y %H:%M"
    assert "future" in " ".join(explanation.findings[0].why)


def test_three_date_formats_in_one_column_are_named(tmp_path):
    forms = ["%Y-%m-%d %H:%M:%S", "%d.%m.%Y %H:%M", "%b %d, %Y %H:%M"]
    times = [(START + timedelta(minutes=5 * i)).strftime(forms[i % 3]) for i in range(ROWS)]
    explanation = explain(saved(tmp_path, table(";", ["time", "host", "cpu_pct"], times, "s1", CPU)))
    assert confidence(explanation)["timestamp"] == "guess"
    assert any("formats" in warning and "%d.%m.%Y %H:%M" in warning for warning in explanation.warnings)
    frame = imported(tmp_path / "export.csv", tmp_path, explanation)
    assert len(frame) >= ROWS // 3


def test_times_without_a_year_are_refused_rather_than_counted_from_a_placeholder(tmp_path):
    source = saved(tmp_path, table(",", ["time", "host", "cpu_pct"], moments("%d-%m %H:%M:%S"), "s1", CPU))
    explanation = explain(source)
    assert explanation.mapping is None and confidence(explanation)["timestamp"] == "not found"
    assert explanation.fault is not None and "No times can be read" in explanation.fault.what
    assert confidence(explanation)["cpu_pct"] == "sure"


def test_rows_of_several_servers_without_times_cannot_be_counted(tmp_path):
    text = table(",", ["host", "cpu_percent"], ["s1", "s2"] * (ROWS // 2), CPU)
    explanation = explain(saved(tmp_path, text))
    assert explanation.mapping is None and "several servers cannot be counted" in explanation.fault.what


def test_large_numbers_of_no_telling_name_are_no_times(tmp_path):
    text = table(",", ["cpu_percent", "total"], CPU, 4_000_000_000)
    explanation = explain(saved(tmp_path, text))
    assert set(found(explanation)["timestamp"]) == {"start", "interval_minutes"}


def test_seconds_since_an_unknown_beginning_get_a_placeholder_as_origin(tmp_path):
    text = table(",", ["timestamp", "vm_id", "cpu_percent"], [300 * i for i in range(ROWS)], "vm-a", CPU)
    explanation = explain(saved(tmp_path, text))
    section = found(explanation)["timestamp"]
    assert section["unit"] == "s" and section["origin"].hour == 0
    assert confidence(explanation)["timestamp"] == "guess" and "origin = " in explanation.toml
    assert len(imported(tmp_path / "export.csv", tmp_path, explanation)) == ROWS


@pytest.mark.parametrize(("factor", "unit"), [(1, "s"), (1e3, "ms"), (1e6, "us"), (1e9, "ns")])
def test_numbers_since_1970_are_told_by_their_size(tmp_path, factor, unit):
    text = table("|", ["epoch", "host", "cpu_pct"], epochs(factor), "s1", CPU)
    explanation = round_trip(saved(tmp_path, text), tmp_path, cpu_pct=CPU)
    assert found(explanation)["timestamp"] == {"column": "epoch", "unit": unit}


@pytest.mark.parametrize(
    "form",
    [
        "%Y%m%d%H%M%S",
        "%d-%b-%Y %H:%M",
        "%a %d/%m/%Y %H:%M:%S",
        "%Y/%m/%d %H:%M",
        "%d/%b/%Y:%H:%M:%S +0000",
        "%d.%m.%y %H:%M",
    ],
)
def test_usual_ways_of_writing_times_are_recognised(tmp_path, form):
    global START  # noqa: PLW0603 - a day that cannot be a month
    before, START = START, datetime(2026, 3, 22, tzinfo=timezone.utc)
    try:
        text = table(";", ["when", "host", "cpu_pct"], moments(form), "s1", CPU)
        round_trip(saved(tmp_path, text), tmp_path, cpu_pct=CPU, start=START)
    finally:
        START = before


# ------------------------------------------------------------------------------------------- servers, states and roles
def test_a_server_column_without_a_telling_name_is_found_by_what_it_tells_apart(tmp_path):
    rows = [f"{m},{s},{v}" for m, v in zip(moments(), CPU, strict=True) for s in ("alpha-1", "beta-2", "gamma-3")]
    explanation = explain(saved(tmp_path, "time,what,cpu_pct\n" + "\n".join(rows) + "\n"))
    assert found(explanation)["server_name"] == {"column": "what"}
    assert confidence(explanation)["server_name"] == "guess" and explanation.servers == 3


def test_states_and_roles_are_translated_where_that_is_obvious(tmp_path):
    states = ["running", "Wartung", "poweredOff", "quiet"] * (ROWS // 4)
    text = table(",", ["time", "host", "cpu_pct", "status", "role"], moments(), "s1", CPU, states, "Postgres")
    explanation = explain(saved(tmp_path, text))
    assert found(explanation)["state"] == {
        "column": "status",
        "values": {"Wartung": "maintenance", "poweredOff": "offline", "running": "healthy"},
    }
    assert found(explanation)["profile"] == {"column": "role", "values": {"Postgres": "database"}}
    assert any("'quiet'" in warning for warning in explanation.warnings)
    frame = imported(tmp_path / "export.csv", tmp_path, explanation)
    assert frame["profile"].unique().tolist() == ["database"]
    assert frame["state"].iloc[1] == "maintenance"


def test_contract_columns_are_for_the_contract_preset(tmp_path):
    text = table(
        ",", ["timestamp", "server_name", "cpu_pct", "mem_pct", "state"], moments(), "ppweb001", CPU, MEM, "healthy"
    )
    explanation = explain(saved(tmp_path, text))
    assert explanation.preset.name == "contract" and explanation.preset.confidence == "sure" and explanation.take_preset


# -------------------------------------------------------------------------------------------------- files and folders
def test_a_partitioned_folder_of_parquet_takes_the_server_from_its_folders(tmp_path):
    for number in range(3):
        frame = pd.DataFrame({"ts": pd.to_datetime(moments()), "cpu_percent": CPU, "mem_percent": MEM})
        folder = tmp_path / "lake" / f"host=web{number}"
        folder.mkdir(parents=True)
        frame.to_parquet(folder / "part-0.parquet", index=False)
    explanation = round_trip(tmp_path / "lake", tmp_path, cpu_pct=CPU, mem_pct=MEM)
    assert found(explanation)["server_name"] == {"column": "host"}
    assert (explanation.files, explanation.servers, explanation.kind) == (3, 3, "parquet")


def test_a_folder_with_one_file_per_server_takes_what_differs_in_the_names(tmp_path):
    for name in ("db-1", "web-1.example.org"):
        saved(tmp_path, table(",", ["time", "cpu_percent"], moments(), CPU), f"fleet/export_{name}_daily.csv.gz")
    for path in (tmp_path / "fleet").iterdir():
        path.write_bytes(gzip.compress(path.read_bytes()))
    explanation = explain(tmp_path / "fleet")
    frame = imported(tmp_path / "fleet", tmp_path, explanation)
    assert sorted(frame["server_name"].unique()) == ["db-1", "web-1.example.org"]
    assert explanation.mapping.layouts[0].source.file_pattern is not None


def test_a_folder_of_files_with_unusual_endings_is_found_by_a_pattern(tmp_path):
    for name in ("a1", "b2"):
        saved(tmp_path, table(" ", ["time", "cpu_percent"], epochs(), CPU), f"logs/{name}.log")
    explanation = explain(tmp_path / "logs")
    frame = imported(tmp_path / "logs", tmp_path, explanation)
    assert sorted(frame["server_name"].unique()) == ["a1", "b2"]


def test_other_files_of_a_folder_that_do_not_fit_are_named(tmp_path):
    saved(tmp_path, table(",", ["time", "cpu_percent"], epochs(), CPU), "mixed/a.csv")
    saved(tmp_path, table(",", ["time", "mem_percent"], epochs(), MEM), "mixed/b.csv")
    warnings = explain(tmp_path / "mixed").warnings
    assert any("does not fit 1 of 1 other files" in warning and "b.csv" in warning for warning in warnings)


def test_files_of_one_name_in_several_folders_are_warned_of(tmp_path):
    for name in ("a1", "b2"):
        saved(tmp_path, table(",", ["time", "cpu_percent"], epochs(), CPU), f"hosts/{name}/metrics.csv")
    assert any("host=NAME" in warning for warning in explain(tmp_path / "hosts").warnings)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_encodings_that_the_importer_reads_are_recognised(tmp_path, encoding):
    text = table(",", ["Zeit", "Rechner", "CPU-Last %", "Maß – Notiz"], moments(), "Gerät", CPU, "x")
    explanation = round_trip(saved(tmp_path, text.encode(encoding)), tmp_path, cpu_pct=CPU)
    assert explanation.form.get("encoding", "utf-8") == encoding.removesuffix("-sig")


def test_parquet_with_numbers_and_times_of_many_types_is_read(tmp_path):
    arrays = {
        "when": pa.array([START + timedelta(minutes=5 * i) for i in range(ROWS)], pa.timestamp("ms", tz="UTC")),
        "vm": pa.array([f"vm{i % 2}" for i in range(ROWS)]).dictionary_encode(),
        "cpu_usage": pa.array(CPU, pa.float32()),
        "mem_used_bytes": pa.array([int(value * 10_000_000) for value in MEM], pa.int64()),
        "mem_total_bytes": pa.array([1_000_000_000] * ROWS, pa.int64()),
        "tags": pa.array([["a"]] * ROWS),
        "raw": pa.array([b"\x00"] * ROWS),
        "up": pa.array([True] * ROWS),
    }
    pq.write_table(pa.table(arrays), tmp_path / "vms.parquet", row_group_size=10)
    explanation = round_trip(tmp_path / "vms.parquet", tmp_path, cpu_pct=CPU[::2], mem_pct=MEM[::2], interval=10)
    assert found(explanation)["mem_pct"] == {"column": "mem_used_bytes", "of": "mem_total_bytes", "unit": "B"}
    assert explanation.rows_in_all == ROWS


def test_lines_before_the_table_a_missing_header_and_quotes_are_seen(tmp_path):
    header = ["time", "host", "cpu_percent", "note"]
    text = "Report of the fleet\n\n" + table(",", header, moments(), "s1", CPU, '"a, b"')
    explanation = round_trip(saved(tmp_path, text), tmp_path, cpu_pct=CPU)
    assert explanation.form["skip_lines"] == 2
    nameless = explain(saved(tmp_path, table(",", None, moments(), "srv-01", CPU), "cpu.csv"))
    assert nameless.form["header"] is False and found(nameless)["server_name"] == {"column": 2}


def test_columns_of_one_name_are_given_by_their_place(tmp_path):
    text = table(",", ["time", "host", "cpu_percent", "cpu_percent"], moments(), "s1", CPU, CPU)
    explanation = round_trip(saved(tmp_path, text), tmp_path, cpu_pct=CPU)
    assert found(explanation)["cpu_pct"]["column"] == 3


def test_a_long_table_of_many_quantities_is_refused_with_the_reason(tmp_path):
    rows = [f"{m},s1,{q},{v}" for m, v in zip(moments(), CPU, strict=True) for q in ("cpu", "mem")]
    explanation = explain(saved(tmp_path, "time,host,metric,value\n" + "\n".join(rows) + "\n"))
    assert explanation.mapping is None
    assert any("one column per metric" in warning for warning in explanation.warnings)


def test_a_wide_table_with_one_server_per_column_is_told(tmp_path):
    text = table(",", ["Time", "srv-a", "srv-b", "srv-c"], moments(), CPU, CPU, CPU)
    explanation = explain(saved(tmp_path, text))
    assert explanation.mapping is None
    assert any("one server each" in warning for warning in explanation.warnings)


# ------------------------------------------------------------------------------------------------------------ bad input
def refused(path: Path | list[Path], *parts: str) -> None:
    with pytest.raises(DataFileError) as caught:
        explain(path)
    text = str(caught.value)
    for part in (*parts, "Why it matters", "To fix it", "More information"):
        assert part in text, text


def test_files_in_which_no_table_can_be_seen_are_refused_with_the_reason(tmp_path):
    rng = np.random.default_rng(1)
    refused(saved(tmp_path, b"", "a.csv"), "no rows")
    refused(saved(tmp_path, b"\n\n \n", "b.csv"), "no rows")
    refused(saved(tmp_path, "time,cpu_pct\n", "c.csv"), "no rows")
    refused(saved(tmp_path, '"\n', "quotes.csv"), "no rows")
    refused(saved(tmp_path, rng.bytes(50_000), "d.csv"), "binary")
    refused(saved(tmp_path, b"PK\x03\x04" + rng.bytes(100), "e.csv"), "spreadsheet")
    refused(saved(tmp_path, '{"a": [1, 2]}\n', "f.csv"), "JSON")
    refused(saved(tmp_path, b"PAR1" + rng.bytes(100), "g.parquet"), "cannot be read as Parquet")
    refused(saved(tmp_path, b"nothing", "h.parquet"), "does not begin like Parquet")
    refused(saved(tmp_path, gzip.compress(b"a,b\n" * 99)[:-9], "i.csv.gz"), "cannot be explained")
    refused(tmp_path / "absent.csv", "no file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no data")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "no regular file")


def test_a_truncated_parquet_is_refused(tmp_path):
    pd.DataFrame({"time": moments(), "cpu_pct": CPU}).to_parquet(tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for length in (5, 100, len(whole) - 1):
        refused(saved(tmp_path, whole[:length], "b.parquet"), "b.parquet")


def test_a_million_columns_are_refused_or_looked_at_in_part(tmp_path):
    refused(saved(tmp_path, ",".join(f"c{i}" for i in range(1_000_000)) + "\n1,2\n"), "columns")
    many = [f"x{i}" for i in range(3_000)]
    text = ",".join(["time", "host", *many, "cpu_percent"]) + "\n"
    text += "\n".join(f"{m},s1,{'0,' * 3_000}{c}" for m, c in zip(moments(), CPU, strict=True))
    explanation = explain(saved(tmp_path, text, "wide.csv"))
    assert found(explanation)["cpu_pct"] == {"column": "cpu_percent", "unit": "percent"}
    assert len(explanation.unused) == 20 and explanation.unused_in_all == 3_000
    assert "and 2,980 more" in shown(explanation)


def test_a_text_is_no_table_and_says_so(tmp_path):
    explanation = explain(saved(tmp_path, (ROOT / "Docs" / "IMPORTING.md").read_bytes(), "text.csv"))
    assert explanation.mapping is None and explanation.fault is not None


HOSTILE = [
    "[red]cpu_pct[/red]",
    'cpu "percent"',
    "cpu\u202epct",
    "CPU %" + "x" * 5_000,
    "cpu_percent\x1b[31m",
    "cpu\\n%",
    "'",
    "%(a)s",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_break_neither_the_table_nor_the_mapping(tmp_path, name):
    quoted = '"' + name.replace('"', '""') + '"'
    text = table(",", ["time", "host", "mem_percent", quoted], moments(), "s1", MEM, CPU)
    explanation = explain(saved(tmp_path, text))
    frame = imported(tmp_path / "export.csv", tmp_path, explanation)
    np.testing.assert_allclose(frame["mem_pct"], MEM, rtol=1e-5)
    for output in (shown(explanation), explanation.toml):
        assert not any(c in output for c in "\x1b\x00\u202e")
    json.dumps(explanation.as_dict(), allow_nan=False)


def test_types_that_cannot_be_computed_with_and_half_characters_give_no_traceback(tmp_path):
    halves = pa.array(np.linspace(0, 90, ROWS).astype(np.float16))
    columns = {"timestamp": pa.array(moments()), "server_name": halves, "cpu_pct": halves}
    pq.write_table(pa.table(columns), tmp_path / "half.parquet")
    explanation = explain(tmp_path / "half.parquet")
    assert found(explanation)["server_name"] == {"from_file_name": True} and explanation.preset is None
    refused(saved(tmp_path, "time,cpu\n1,2\n".encode("utf-16-le") + b"1"), "cannot be explained")


def test_a_header_over_several_lines_is_read_by_places(tmp_path):
    text = table(",", ["time", "host", '"CPU\n%"'], moments(), "s1", CPU)
    explanation = round_trip(saved(tmp_path, text), tmp_path, cpu_pct=CPU)
    assert found(explanation)["cpu_pct"]["column"] == 3 and explanation.form["skip_lines"] == 2


words = st.sampled_from(["time", "host", "cpu_pct", "mem [%]", "disk read KB/s", "latency", "state", "value", "1", ""])
names = st.one_of(words, st.text(max_size=12))
cells = st.one_of(
    st.sampled_from(
        ["", "2026-01-01", "2026-01-01 00:05", "1767225600", "12:00", "0.5", "55", "1,5", "x", "NaN", "-1"]
    ),
    st.floats(allow_nan=True).map(str),
    st.text(max_size=8),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(names, min_size=1, max_size=5).flatmap(
        lambda header: st.tuples(
            st.just(header), st.lists(st.lists(cells, min_size=len(header), max_size=len(header)), max_size=12)
        )
    ),
    st.sampled_from([",", ";", "\t", "|", " "]),
    st.sampled_from(["utf-8", "utf-16", "latin-1"]),
)
@example((["cpu_pct"], [["1"], ["inf"], ["1e308"]]), ",", "utf-8")
@example((["time", "cpu_pct"], [["99999999999999999999", "1"], ["1767225600", "5"]]), ",", "utf-8")
def test_any_table_gives_a_product_error_or_a_mapping_that_parses(tmp_path, content, separator, encoding):
    header, rows = content

    def field(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"' if set(cell) & set(' ,;\t|"\n\r') else cell

    text = "\n".join(separator.join(map(field, row)) for row in [header, *rows])
    path = tmp_path / "any.csv"
    path.write_bytes(text.encode(encoding, errors="replace"))
    try:
        explanation = explain(path)
    except ProductError as error:
        assert all(error.as_dict().values())
        return
    output = shown(explanation)
    assert all(character.isprintable() or character in "\n" for character in output)
    json.dumps(explanation.as_dict(), allow_nan=False)
    if explanation.mapping is None:
        assert explanation.fault is not None
        return
    write_mapping(tmp_path / "any.toml", explanation, force=True)
    mapping = load_mapping(tmp_path / "any.toml")
    try:
        import_files(path, mapping, tmp_path / "any_out")
    except ImportMappingError as error:  # nothing of so small a table may be usable, but its mapping fits
        assert "does not fit" not in error.what


# -------------------------------------------------------------------------------------------------------- command line
def run(*arguments: object):
    """The command in this process; `main.py` as a process of its own is the matter of other tests."""
    return CliRunner().invoke(app, ["import", *map(str, arguments)])


def test_the_command_prints_writes_and_does_not_overwrite(tmp_path):
    source = saved(tmp_path, table(",", ["time", "host", "cpu_usage"], moments(), "s1", CPU))
    target = tmp_path / "mine.toml"
    first = run("--explain", source)
    assert first.exit_code == 0 and "[metrics.cpu_pct]" in first.stdout and "likely" in first.stdout
    assert run("--explain", source, "--write", target).exit_code == 0
    kept = target.read_text()
    again = run("--explain", source, "--write", target)
    assert again.exit_code == 1 and "--force" in again.stderr and target.read_text() == kept
    assert run("--explain", source, "--write", target, "--force").exit_code == 0
    assert run(source, "--mapping", target, "--out_dir", tmp_path / "out").exit_code == 0
    answer = json.loads(run("--explain", source, "--json").stdout)
    assert answer["proposal"]["cpu_pct"]["columns"] == ["cpu_usage"]
    assert answer["mapping_toml"] == kept and answer["mapping"]["layouts"][0]["metrics"]["cpu_pct"]["unit"] == "percent"


def test_the_command_ends_with_1_where_there_is_no_metric_and_with_2_on_wrong_usage(tmp_path):
    source = saved(tmp_path, table(",", ["time", "host", "weight"], moments(), "s1", CPU))
    nothing = run("--explain", source)
    assert nothing.exit_code == 1 and "weight" in nothing.stdout and "No metric was found" in nothing.stderr
    as_json = run("--explain", source, "--json")
    assert as_json.exit_code == 1 and json.loads(as_json.stdout)["mapping"] is None
    assert set(json.loads(as_json.stderr)["error"]) == {"what", "why", "fix", "document"}
    for wrong in (("--explain",), ("--explain", source, "--preset", "csv"), (source, "--preset", "csv", "--force")):
        assert run(*wrong).exit_code == 2


def test_a_mapping_that_cannot_be_written_is_told(tmp_path):
    explanation = explain(saved(tmp_path, table(",", ["time", "cpu_percent"], moments(), CPU)))
    with pytest.raises(ImportMappingError, match="is there already"):
        write_mapping(tmp_path, explanation, force=True)
    with pytest.raises(DataFileError, match="cannot be written"):
        write_mapping(tmp_path / "export.csv" / "a.toml", explanation, force=False)


# --------------------------------------------------------------------------------------------------------------- parts
@pytest.mark.parametrize(
    ("name", "role", "unit"),
    [
        ("CPUUtilization", "cpu_pct", "percent"),
        ("Prozessorauslastung (%)", "cpu_pct", "percent"),
        ("system.mem.pct_usable", "mem_pct", "percent"),
        ("Arbeitsspeicher frei [MB]", "mem_pct", "MB"),
        ("wkB/s", "disk_io_mb_s", "KB/s"),
        ("disk_write_bytes_per_second", "disk_io_mb_s", "B/s"),
        ("http_request_duration_seconds", "latency_ms", "s"),
        ("Antwortzeit in ms", "latency_ms", "ms"),
        ("Hostname", "server", None),
        ("Zustand", "state", None),
    ],
)
def test_names_of_tools_and_languages_are_understood(name, role, unit):
    said = meaning(name)
    assert said is not None and (said.role, said.unit, said.refused) == (role, unit, "")


@pytest.mark.parametrize(
    "name",
    [
        "swap_used_percent",
        "disk_used_percent",
        "cpu0",
        "Processor 1 (raw)",
        "network_bytes_in",
        "load_avg_5",
        "cpu_temp",
        "iops",
    ],
)
def test_what_is_only_near_to_a_metric_is_none(name):
    said = meaning(name)
    assert said is not None and said.refused


@given(st.text())
def test_any_text_can_be_written_as_toml_and_shown(text):
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    text = text.encode("utf-8", "replace").decode()
    assert tomllib.loads(f"a = {toml_text(text)}")["a"] == text
    assert plain_text(text, 30).isprintable() and len(plain_text(text, 30)) <= 30


# ----------------------------------------------------------------------------------------------------------- document
def test_the_example_of_the_document_is_what_the_command_says(tmp_path):
    section = (ROOT / "Docs" / "IMPORTING.md").read_text().split("## An unknown file")[1].split("\n## ")[0]
    source, told = re.findall(r"```text\n(.+?)```", section, re.DOTALL)
    mapping = re.search(r"```toml\n(.+?)```", section, re.DOTALL)[1]
    path = saved(tmp_path, source)
    explanation = explain(path)
    assert explanation.toml == mapping
    lines = [line.rstrip() for line in shown(explanation, 110).splitlines()]
    for line in told.splitlines():
        assert line in lines
    frame = imported(path, tmp_path, explanation)
    np.testing.assert_allclose(frame[frame["server_name"] == "web1"]["cpu_pct"], [20.4, 23.9, 22.8], rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------- real fleets
@needs_real_data
@pytest.mark.parametrize("name", sorted(path.name for path in (REAL / "raw_samples").glob("*")) or ["absent"])
def test_every_real_sample_gets_a_preset_or_a_mapping_that_imports(tmp_path, name):
    source = REAL / "raw_samples" / name
    explanation = explain(source)
    assert explanation.mapping is not None
    assert len(imported(source, tmp_path, explanation)) > 0
    if explanation.take_preset:
        report = import_files(source, load_preset(explanation.preset.name), tmp_path / "preset")
        assert report.rows_out > 0


@needs_real_data
def test_the_small_real_fleet_is_for_its_preset_and_the_mapping_gives_the_same(tmp_path):
    source = REAL / "bitbrains_rnd_small_40vms_2013-08.parquet"
    explanation = explain(source)
    assert explanation.preset is not None and explanation.take_preset
    frame = imported(source, tmp_path, explanation)
    import_files(source, load_preset(explanation.preset.name), tmp_path / "preset")
    other = read_frame(tmp_path / "preset" / DATA_FILE)
    assert len(frame) == len(other) and frame["server_name"].nunique() == 40
    for metric in METRIC_COLUMNS:
        np.testing.assert_array_equal(frame[metric], other[metric])
