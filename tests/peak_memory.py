"""How much memory a process of its own has used: code for the child to run."""

from __future__ import annotations

# What `getrusage` says of a child on Linux includes the memory of the process that started it, as it was then; what
# /proc says begins anew with the child's own program.
PEAK_MB = """
def peak_mb():
    from pathlib import Path
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource, sys
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
"""
