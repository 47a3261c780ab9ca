"""Which column names usual monitoring tools write, and what they mean there: metric, part, unit, or why it is none."""

from __future__ import annotations

from typing import Final

CPU: Final = "cpu_pct"
MEMORY: Final = "mem_pct"
DISK: Final = "disk_io_mb_s"
LATENCY: Final = "latency_ms"

# Why a column that is near to a metric cannot be used
OPERATIONS: Final = "counts operations, not bytes"
BLOCKS: Final = "counts blocks of 512 bytes, a unit that a mapping does not have"
BUSY_DISK: Final = "says how long the disk was busy, not how much it moved"
DISK_TIME: Final = "is the time of one disk operation, not of an answer to a user"

Known = tuple[str, str, "str | None", str]  # role, part, unit, why it cannot be used

# tool → name in lower case, without a leading `#` → what it means
TOOLS: Final[dict[str, dict[str, Known]]] = {
    "sar and iostat (sysstat manual)": {
        "%usr": (CPU, "user", "percent", ""),
        "%user": (CPU, "user", "percent", ""),
        "%nice": (CPU, "user", "percent", ""),
        "%sys": (CPU, "user", "percent", ""),
        "%system": (CPU, "user", "percent", ""),
        "%irq": (CPU, "user", "percent", ""),
        "%soft": (CPU, "user", "percent", ""),
        "%steal": (CPU, "user", "percent", ""),
        "%guest": (CPU, "busy", "percent", "is part of %user already"),
        "%gnice": (CPU, "busy", "percent", "is part of %nice already"),
        "%iowait": (CPU, "wait", "percent", ""),
        "%idle": (CPU, "idle", "percent", ""),
        "%memused": (MEMORY, "busy", "percent", ""),
        "kbmemused": (MEMORY, "used", "KB", ""),
        "kbmemfree": (MEMORY, "free", "KB", ""),
        "kbavail": (MEMORY, "free", "KB", ""),
        "rkb/s": (DISK, "read", "KB/s", ""),
        "wkb/s": (DISK, "write", "KB/s", ""),
        "rmb/s": (DISK, "read", "MB/s", ""),
        "wmb/s": (DISK, "write", "MB/s", ""),
        "kb_read/s": (DISK, "read", "KB/s", ""),
        "kb_wrtn/s": (DISK, "write", "KB/s", ""),
        "mb_read/s": (DISK, "read", "MB/s", ""),
        "mb_wrtn/s": (DISK, "write", "MB/s", ""),
        "kb_read": (DISK, "read", "KB", "is a sum of kilobytes, not a rate"),
        "kb_wrtn": (DISK, "write", "KB", "is a sum of kilobytes, not a rate"),
        "bread/s": (DISK, "read", None, BLOCKS),
        "bwrtn/s": (DISK, "write", None, BLOCKS),
        "tps": (DISK, "total", None, OPERATIONS),
        "rtps": (DISK, "read", None, OPERATIONS),
        "wtps": (DISK, "write", None, OPERATIONS),
        "%util": (DISK, "total", None, BUSY_DISK),
        "await": (LATENCY, "total", "ms", DISK_TIME),
        "r_await": (LATENCY, "total", "ms", DISK_TIME),
        "w_await": (LATENCY, "total", "ms", DISK_TIME),
        "svctm": (LATENCY, "total", "ms", DISK_TIME),
    },
    "CloudWatch": {
        "cpuutilization": (CPU, "busy", "percent", ""),
        "mem_used_percent": (MEMORY, "busy", "percent", ""),
        "memoryutilization": (MEMORY, "busy", "percent", ""),
        "diskreadbytes": (DISK, "read", "B", ""),
        "diskwritebytes": (DISK, "write", "B", ""),
        "ebsreadbytes": (DISK, "read", "B", ""),
        "ebswritebytes": (DISK, "write", "B", ""),
        "volumereadbytes": (DISK, "read", "B", ""),
        "volumewritebytes": (DISK, "write", "B", ""),
        "targetresponsetime": (LATENCY, "total", "s", ""),
        "cpucreditbalance": (CPU, "busy", None, "counts credits, not load"),
        "cpucreditusage": (CPU, "busy", None, "counts credits, not load"),
    },
    "Azure Monitor": {
        "percentage cpu": (CPU, "busy", "percent", ""),
        "available memory percentage": (MEMORY, "idle", "percent", ""),
        "disk read bytes/sec": (DISK, "read", "B/s", ""),
        "disk write bytes/sec": (DISK, "write", "B/s", ""),
        "os disk read bytes/sec": (DISK, "read", "B/s", ""),
        "os disk write bytes/sec": (DISK, "write", "B/s", ""),
        "httpresponsetime": (LATENCY, "total", "s", ""),
        "average response time": (LATENCY, "total", None, ""),
    },
    "vSphere": {
        "cpu.usage.average": (CPU, "busy", "percent", ""),
        "mem.usage.average": (MEMORY, "busy", "percent", ""),
        "disk.usage.average": (DISK, "total", "KB/s", ""),
        "disk.read.average": (DISK, "read", "KB/s", ""),
        "disk.write.average": (DISK, "write", "KB/s", ""),
        "virtualdisk.read.average": (DISK, "read", "KB/s", ""),
        "virtualdisk.write.average": (DISK, "write", "KB/s", ""),
        "mem.consumed.average": (MEMORY, "used", "KB", ""),
        "cpu.usagemhz.average": (CPU, "used", "MHz", ""),
    },
    "Windows performance counters": {
        "% processor time": (CPU, "busy", "percent", ""),
        "% processor utility": (CPU, "busy", "percent", ""),
        "% idle time": (CPU, "idle", "percent", ""),
        "% user time": (CPU, "user", "percent", ""),
        "% privileged time": (CPU, "user", "percent", ""),
        "% committed bytes in use": (MEMORY, "busy", "percent", ""),
        "disk bytes/sec": (DISK, "total", "B/s", ""),
        "disk transfers/sec": (DISK, "total", None, OPERATIONS),
        "avg. disk sec/transfer": (LATENCY, "total", "s", DISK_TIME),
    },
    "telegraf": {
        "usage_idle": (CPU, "idle", "percent", ""),
        "usage_iowait": (CPU, "wait", "percent", ""),
        "usage_user": (CPU, "user", "percent", ""),
        "usage_system": (CPU, "user", "percent", ""),
        "usage_nice": (CPU, "user", "percent", ""),
        "usage_irq": (CPU, "user", "percent", ""),
        "usage_softirq": (CPU, "user", "percent", ""),
        "usage_steal": (CPU, "user", "percent", ""),
        "usage_guest": (CPU, "busy", "percent", "is part of usage_user already"),
        "usage_guest_nice": (CPU, "busy", "percent", "is part of usage_nice already"),
        "available_percent": (MEMORY, "idle", "percent", ""),
        "average_response_ms": (LATENCY, "total", "ms", ""),
    },
    "Zabbix": {
        "system.cpu.util": (CPU, "busy", "percent", ""),
        "cpu utilization": (CPU, "busy", "percent", ""),
        "vm.memory.utilization": (MEMORY, "busy", "percent", ""),
        "memory utilization": (MEMORY, "busy", "percent", ""),
        "vm.memory.size[pused]": (MEMORY, "busy", "percent", ""),
        "vm.memory.size[pavailable]": (MEMORY, "idle", "percent", ""),
        "system.cpu.util[,idle]": (CPU, "idle", "percent", ""),
        "system.cpu.util[,iowait]": (CPU, "wait", "percent", ""),
        "icmppingsec": (LATENCY, "total", "s", ""),
    },
    "Alibaba cluster trace": {
        "cpu_util_percent": (CPU, "busy", "percent", ""),
        "mem_util_percent": (MEMORY, "busy", "percent", ""),
        "mem_gps": (MEMORY, "busy", None, "is memory bandwidth, not how full it is"),
        "disk_io_percent": (DISK, "total", None, "is a share of a capacity that is not stated"),
        "time_stamp": ("time", "total", None, ""),
        "machine_id": ("server", "total", None, ""),
    },
}
# Too short to mean anything by themselves: counted only where several of one tool stand together.
SHORT: Final[dict[str, dict[str, Known]]] = {
    "vmstat (procps manual)": {
        "us": (CPU, "user", "percent", ""),
        "sy": (CPU, "user", "percent", ""),
        "id": (CPU, "idle", "percent", ""),
        "wa": (CPU, "wait", "percent", ""),
        "st": (CPU, "user", "percent", ""),
        "bi": (DISK, "read", "KB/s", ""),
        "bo": (DISK, "write", "KB/s", ""),
        "free": (MEMORY, "free", "KB", ""),
    },
    "top": {
        "us": (CPU, "user", "percent", ""),
        "sy": (CPU, "user", "percent", ""),
        "ni": (CPU, "user", "percent", ""),
        "id": (CPU, "idle", "percent", ""),
        "wa": (CPU, "wait", "percent", ""),
        "hi": (CPU, "user", "percent", ""),
        "si": (CPU, "user", "percent", ""),
        "st": (CPU, "user", "percent", ""),
    },
    "dstat": {
        "usr": (CPU, "user", "percent", ""),
        "sys": (CPU, "user", "percent", ""),
        "idl": (CPU, "idle", "percent", ""),
        "wai": (CPU, "wait", "percent", ""),
        "stl": (CPU, "user", "percent", ""),
        "read": (DISK, "read", "B/s", ""),
        "writ": (DISK, "write", "B/s", ""),
        "used": (MEMORY, "used", "B", ""),
    },
}


def _self_check() -> None:
    for known in (*TOOLS.values(), *SHORT.values()):
        assert all(name == name.lower() and len(meaning) == 4 for name, meaning in known.items())
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
