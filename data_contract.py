"""The data contract: what a valid row is, and the errors that say it is not.

`Docs/DATA_CONTRACT.md` is the law in words; this module is the same law for programs, and a test compares the two.
It knows nothing of pandas or torch: columns, ranges, states, profiles, names, versions and error classes only.
"""

from __future__ import annotations

import re
import reprlib
import unicodedata
from dataclasses import dataclass
from typing import Final

CONTRACT_VERSION: Final = "1.0.0"
MODEL_VERSION: Final = "3.0.0"

CONTRACT_DOCUMENT: Final = "Docs/DATA_CONTRACT.md"

TIMESTAMP: Final = "timestamp"
SERVER_NAME: Final = "server_name"
STATE: Final = "state"
PROFILE: Final = "profile"


@dataclass(frozen=True)
class Metric:
    """One measured quantity of a server: its column, unit and valid range (bounds included)."""

    column: str
    label: str
    unit: str
    lower: float
    upper: float | None  # None: no upper bound

    @property
    def is_percent(self) -> bool:
        """Whether values live in 0–100."""
        return self.upper is not None


METRICS: Final[tuple[Metric, ...]] = (
    Metric("cpu_pct", "CPU", "%", 0.0, 100.0),
    Metric("mem_pct", "Memory", "%", 0.0, 100.0),
    Metric("disk_io_mb_s", "Disk I/O", "MB/s", 0.0, None),
    Metric("latency_ms", "Latency", "ms", 0.0, None),
)
METRIC_COLUMNS: Final[tuple[str, ...]] = tuple(metric.column for metric in METRICS)
REQUIRED_COLUMNS: Final[tuple[str, ...]] = (TIMESTAMP, SERVER_NAME, *METRIC_COLUMNS, STATE, PROFILE)

VALID_STATES: Final[tuple[str, ...]] = (
    "critical_issue",
    "healthy",
    "heavy_load",
    "idle",
    "maintenance",
    "morning_spike",
    "offline",
    "recovery",
)

GENERIC_PROFILE: Final = "generic"
VALID_PROFILES: Final[tuple[str, ...]] = (
    "ml_compute",
    "database",
    "web_api",
    "conductor_mgmt",
    "data_ingest",
    "risk_analytics",
    GENERIC_PROFILE,
)

# A server's name tells its role: prefix and number of digits, e.g. ppweb001 (`#` in the contract is a digit).
NAME_FORMATS: Final[dict[str, tuple[str, int]]] = {
    "ml_compute": ("ppml", 4),
    "database": ("ppdb", 3),
    "web_api": ("ppweb", 3),
    "conductor_mgmt": ("ppcon", 2),
    "data_ingest": ("ppetl", 3),
    "risk_analytics": ("pprisk", 3),
    GENERIC_PROFILE: ("ppgen", 3),
}
# More digits than the format are accepted: a fleet of 10,000 needs ppweb1000 and on.
_NAME_PATTERNS: Final = {
    profile: re.compile(rf"{prefix}\d{{{digits},}}") for profile, (prefix, digits) in NAME_FORMATS.items()
}

DEFAULT_FLEET: Final[dict[str, int]] = {
    "web_api": 25,
    "ml_compute": 20,
    "database": 15,
    "data_ingest": 10,
    "risk_analytics": 8,
    GENERIC_PROFILE: 7,
    "conductor_mgmt": 5,
}

MAX_NAME_LENGTH: Final = 253  # the longest DNS name (RFC 1035, section 2.3.4)

STEP_MINUTES: Final = 5
HORIZON_STEPS: Final = 96
DAY_STEPS: Final = 24 * 60 // STEP_MINUTES
HORIZONS: Final[dict[str, int]] = {"30min": 6, "1hr": 12, "8hr": 96}  # steps of 5 minutes
SERVED_QUANTILES: Final[dict[str, float]] = {"p10": 0.1, "p50": 0.5, "p90": 0.9}

# What the generator and the importer write into the data folder, beside the SERVER_MAPPING
DATA_FILE: Final = "server_metrics.parquet"
DATA_INFO: Final = "metrics_metadata.json"
# Ground truth of a generated fleet's incidents: for judging forecasts and alerts, never an input of the model
INCIDENTS_FILE: Final = "metrics_incidents.parquet"

MODEL_WEIGHTS: Final = "model.safetensors"
MODEL_CONFIG: Final = "config.json"
TRAINING_INFO: Final = "training_info.json"
SERVER_MAPPING: Final = "server_mapping.json"
MODEL_FILES: Final[tuple[str, ...]] = (MODEL_WEIGHTS, MODEL_CONFIG, TRAINING_INFO, SERVER_MAPPING)


@dataclass(frozen=True)
class StateRule:
    """A row is in `state` when any metric of `at_least` is reached, or all of `below` are reported and lower."""

    state: str
    at_least: dict[str, float]
    below: dict[str, float]


# For sources that report no state. Rules apply in order, the first that fits wins, and `healthy` is what is left.
# Maintenance, morning_spike, offline and recovery cannot be read off one row, so they are never derived.
STATE_RULES: Final[tuple[StateRule, ...]] = (
    StateRule("critical_issue", at_least={"cpu_pct": 95.0, "mem_pct": 98.0}, below={}),
    StateRule("heavy_load", at_least={"cpu_pct": 80.0, "mem_pct": 90.0}, below={}),
    StateRule("idle", at_least={}, below={"cpu_pct": 5.0}),
)
DEFAULT_STATE: Final = "healthy"


def profile_for_name(server_name: str) -> str:
    """Role that a server's name declares, `generic` when it follows no naming pattern.

    Examples
    --------
    >>> profile_for_name("ppweb001"), profile_for_name("mail.example.org")
    ('web_api', 'generic')
    """
    for profile, pattern in _NAME_PATTERNS.items():
        if pattern.fullmatch(server_name):
            return profile
    return GENERIC_PROFILE


def format_name(profile: str, number: int) -> str:
    """Server name of the given role and running number, e.g. `ppweb001`."""
    prefix, digits = NAME_FORMATS[profile]
    return f"{prefix}{number:0{digits}d}"


def name_fault(server_name: str) -> str | None:
    """What is wrong with a server's name, to follow upon "`server_name`", or None.

    Examples
    --------
    >>> name_fault("mail.example.org"), name_fault(" ")
    (None, 'is empty')
    """
    if not server_name.strip():
        return "is empty"
    if len(server_name) > MAX_NAME_LENGTH:
        return f"is longer than {MAX_NAME_LENGTH} characters"
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in server_name):
        return "holds control characters"
    return None


def shorten(items: object, limit: int = 6) -> str:
    """Readable, bounded listing of offenders for a message."""
    short = reprlib.Repr()
    short.maxlist = short.maxtuple = short.maxset = short.maxdict = limit
    short.maxstring = 80
    return short.repr(items)


# ------------------------------------------------------------------------------------------------------------- errors
# ProductError                      everything that a user can cause and mend; the CLI prints it and exits with 1
#   ContractError (ValueError)      rows or columns break the contract
#   DataFileError (OSError)         a data file cannot be read or written
#   ImportMappingError (ValueError) a mapping file of the importer is wrong or does not fit the source
#   PrometheusError (RuntimeError)  a Prometheus cannot be asked, or its answers cannot be used
#   ModelFolderError (ValueError)   a model folder is incomplete, damaged or of another contract
#   TrainingError (RuntimeError)    training cannot start or did not produce a usable model
#   BacktestError (ValueError)      forecasts cannot be judged, or could only be judged unfairly
#   ConfigurationError (ValueError) a setting is wrong
#   DaemonError (RuntimeError)      the daemon cannot start or cannot be reached
#   ApiKeyError (ValueError)        an API key, or the file of them, cannot be used
#   UnknownServerIdError (KeyError) an id that no server of the mapping has


class ProductError(Exception):
    """An error that a user can mend: it says what happened, why it matters, how to fix it and where to read on.

    Attributes
    ----------
    what, why, fix : str
        One sentence each.
    document : str
        Path of the document that explains it.
    """

    document = "README.md"

    def __init__(self, what: str, *, why: str, fix: str, document: str | None = None) -> None:
        self.what = what
        self.why = why
        self.fix = fix
        if document is not None:
            self.document = document
        super().__init__(what)

    def __str__(self) -> str:
        return f"{self.what}\n{self.advice}"

    @property
    def advice(self) -> str:
        """All but what went wrong, where that has been told already."""
        return f"  Why it matters: {self.why}\n  To fix it: {self.fix}\n  More information: {self.document}"

    def as_dict(self) -> dict[str, str]:
        """The same four parts for `--json` and problem details (RFC 9457)."""
        return {"what": self.what, "why": self.why, "fix": self.fix, "document": self.document}


class ContractError(ProductError, ValueError):
    """Rows or columns that break the contract."""

    document = CONTRACT_DOCUMENT

    @classmethod
    def from_findings(cls, source: str, findings: list[str]) -> ContractError:
        """Join all that was found wrong in `source` into one error."""
        listed = "\n".join(f"    - {finding}" for finding in findings[:20])
        more = f"\n    … and {len(findings) - 20} more" if len(findings) > 20 else ""
        return cls(
            f"{source} breaks the data contract {CONTRACT_VERSION} in {len(findings)} place(s):\n{listed}{more}",
            why="Data that drifts from the contract makes forecasts silently wrong, so every stage refuses it.",
            fix="Correct the source, or bring foreign data in with `python main.py import FILE --preset …`.",
        )


class DataFileError(ProductError, OSError):
    """A data file that cannot be read or written."""

    document = "Docs/DATA_CONTRACT.md"


class ImportMappingError(ProductError, ValueError):
    """A mapping file of the importer that is wrong or does not fit the source."""

    document = "Docs/IMPORTING.md"


class PrometheusError(ProductError, RuntimeError):
    """A Prometheus that cannot be asked, or whose answers cannot be used."""

    document = "Docs/IMPORTING.md"


class ModelFolderError(ProductError, ValueError):
    """A model folder that is incomplete, damaged or made for another contract."""

    document = "Docs/MODEL_FOLDER.md"


class TrainingError(ProductError, RuntimeError):
    """Training that cannot start or did not produce a usable model."""

    document = "Docs/MODEL_FOLDER.md"


class BacktestError(ProductError, ValueError):
    """Forecasts that cannot be judged, or only on what their model has learned from."""

    document = "Docs/BACKTEST.md"


class ConfigurationError(ProductError, ValueError):
    """A setting that is wrong or contradicts another."""

    document = "Docs/ESSENTIAL_RAG.md"


class DaemonError(ProductError, RuntimeError):
    """A daemon that cannot start or cannot be reached."""

    document = "QUICK_START.md"


class ApiKeyError(ProductError, ValueError):
    """An API key, or the file of them, that cannot be used."""

    document = "Docs/DAEMON.md"


class UnknownServerIdError(ProductError, KeyError):
    """An id that no server of the mapping has."""

    document = "Docs/UNKNOWN_SERVER_HANDLING.md"


def _self_check() -> None:
    assert len(VALID_STATES) == 8 and len(VALID_PROFILES) == 7 and sum(DEFAULT_FLEET.values()) == 90
    assert list(VALID_STATES) == sorted(VALID_STATES)
    for profile in VALID_PROFILES:
        assert profile_for_name(format_name(profile, 1)) == profile
    assert profile_for_name("ppvra00a01") == GENERIC_PROFILE
    assert name_fault("ppweb001") is None and all(map(name_fault, (" ", "a\nb", "x" * (MAX_NAME_LENGTH + 1))))
    error = ContractError.from_findings("demo.parquet", ["column `cpu_pct` is missing"])
    assert all(part in str(error) for part in ("Why it matters", "To fix it", CONTRACT_DOCUMENT))
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
