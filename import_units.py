"""Which units a source may use, and what they are in the contract's."""

from __future__ import annotations

from typing import Final

from data_contract import METRICS

# Powers of 1024, as iostat, sar, vmstat and the hypervisors count; so 1 MB/s of the contract is 1,048,576 bytes/s.
_BYTES: Final = {"B": 1.0, "KB": 1024.0, "MB": 1024.0**2, "GB": 1024.0**3, "TB": 1024.0**4}
_PERIOD_SECONDS: Final = {"s": 1.0, "min": 60.0, "5min": 300.0, "h": 3600.0}

# unit → (factor, offset): contract value = factor × value + offset
PERCENT_UNITS: Final[dict[str, tuple[float, float]]] = {
    "percent": (1.0, 0.0),
    "ratio": (100.0, 0.0),
    "percent_idle": (-1.0, 100.0),
    "ratio_idle": (-100.0, 100.0),
}
RATE_UNITS: Final[dict[str, tuple[float, float]]] = {
    f"{size}/{period}": (bytes_ / seconds / _BYTES["MB"], 0.0)
    for size, bytes_ in _BYTES.items()
    for period, seconds in _PERIOD_SECONDS.items()
}
DURATION_UNITS: Final[dict[str, tuple[float, float]]] = {
    "ns": (1e-6, 0.0),
    "us": (1e-3, 0.0),
    "ms": (1.0, 0.0),
    "s": (1e3, 0.0),
    "min": (6e4, 0.0),
}
# Units of a used amount and of the capacity that it is a share of: unit → (dimension, factor)
SHARE_UNITS: Final[dict[str, tuple[str, float]]] = {
    **{size: ("bytes", bytes_) for size, bytes_ in _BYTES.items()},
    "MHz": ("frequency", 1.0),
    "GHz": ("frequency", 1000.0),
    "core_percent": ("cores", 0.01),
    "millicores": ("cores", 0.001),
    "cores": ("cores", 1.0),
}
TIME_UNITS: Final[dict[str, float]] = {  # microseconds
    "ns": 1e-3,
    "us": 1.0,
    "ms": 1e3,
    "s": 1e6,
    "min": 6e7,
    "h": 3.6e9,
}
_UNITS_OF_KIND: Final = {"%": PERCENT_UNITS, "MB/s": RATE_UNITS, "ms": DURATION_UNITS}
_CONTRACT_UNITS: Final = {"%": "percent", "MB/s": "MB/s", "ms": "ms"}
UNITS: Final[dict[str, dict[str, tuple[float, float]]]] = {
    metric.column: _UNITS_OF_KIND[metric.unit] for metric in METRICS
}
DEFAULT_UNITS: Final[dict[str, str]] = {metric.column: _CONTRACT_UNITS[metric.unit] for metric in METRICS}

# A CPU above 100 % is more cores or a higher clock than the base that it was divided by; memory can pass its base only
# by rounding or while the machine is being resized. What is further off has a wrong base and says nothing.
CLIP_UP_TO: Final[dict[str, float]] = {"cpu_pct": 200.0, "mem_pct": 110.0}


def _self_check() -> None:
    assert UNITS["disk_io_mb_s"]["KB/s"][0] * 1024 == 1
    assert UNITS["cpu_pct"]["ratio_idle"] == (-100.0, 100.0)
    assert all(DEFAULT_UNITS[metric] in UNITS[metric] for metric in UNITS)
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
