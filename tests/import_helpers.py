"""What the importer's tests share: mappings of TOML text, and imports whose result always keeps its promises."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from contract_parquet import CONTRACT_SCHEMA, read_frame
from data_contract import DATA_FILE, DATA_INFO, ProductError
from data_validator import DataValidator
from import_report import ImportReport
from metrics_importer import Mapping, import_files, parse_mapping
from server_encoder import ServerEncoder

THREE_FILES = {DATA_FILE, DATA_INFO, "server_mapping.json"}

BITBRAINS_HEADER = (
    "Timestamp [ms];\tCPU cores;\tCPU capacity provisioned [MHZ];\tCPU usage [MHZ];\tCPU usage [%];\t"
    "Memory capacity provisioned [KB];\tMemory usage [KB];\tDisk read throughput [KB/s];\t"
    "Disk write throughput [KB/s];\tNetwork received throughput [KB/s];\tNetwork transmitted throughput [KB/s]\n"
)

PLAIN = """
    [time]
    column = "time"
    [server]
    column = "host"
    [metrics.cpu_pct]
    column = "cpu"
"""


def mapping(text: str, **sections: object) -> Mapping:
    """Mapping of TOML text, as a user would write it."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return parse_mapping({**tomllib.loads(textwrap.dedent(text)), **sections}, name="test")


def run(
    tmp_path: Path, text: str | bytes, wanted: Mapping | None = None, name: str = "source.csv"
) -> tuple[ImportReport, pd.DataFrame]:
    """Import text as a file; the result always passes the validator and adds up."""
    source = tmp_path / name
    source.write_bytes(text if isinstance(text, bytes) else text.encode())
    return run_file(source, wanted or mapping(PLAIN), tmp_path / "out")


def run_file(source: object, wanted: Mapping, out: Path) -> tuple[ImportReport, pd.DataFrame]:
    report = import_files(source, wanted, out)
    assert {path.name for path in out.iterdir()} == THREE_FILES
    assert DataValidator().validate_file(out / DATA_FILE).errors == []
    assert pq.read_schema(out / DATA_FILE).equals(CONTRACT_SCHEMA)
    adds_up(report)
    frame = read_frame(out / DATA_FILE)
    frame["server_name"] = frame["server_name"].astype(str)
    assert len(frame) == report.rows_out
    order = frame.sort_values(["server_name", "timestamp"], kind="stable")
    assert order.index.equals(frame.index)
    metadata = json.loads((out / DATA_INFO).read_text())
    assert metadata["report"] == json.loads(json.dumps(report.as_dict()))
    assert (metadata["source"], metadata["rows"], metadata["servers"]) == ("imported", report.rows_out, report.servers)
    assert set(ServerEncoder(out / "server_mapping.json").name_to_id) == set(frame["server_name"])
    return report, frame


def adds_up(report: ImportReport) -> None:
    assert report.rows_in == report.rows_out + sum(report.rows_dropped.values())
    assert report.rows_out == report.rows_unchanged + report.rows_repaired


def times(frame: pd.DataFrame) -> list[str]:
    return [moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in frame["timestamp"]]


def refused(error: type[ProductError], *parts: str):
    """Context that expects an error whose text holds all parts, and the four things every error says."""
    return pytest.raises(error, match="(?s)" + "".join(f"(?=.*{re.escape(part)})" for part in (*parts, "To fix it")))
