"""How long a command of main.py takes, process start included, and in how much memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# In a process of its own: what its children used is then one command's.
_MEASURE = """
import json, resource, subprocess, sys, time
begin = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - begin
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([done.returncode, seconds, peak / 1e6]))
"""


def measure(*command: str) -> tuple[float, float]:
    """Seconds and peak MB of one command of main.py."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, sys.executable, str(ROOT / "main.py"), *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    code, seconds, peak_mb = json.loads(done.stdout)
    if code != 0:
        raise SystemExit(f"main.py {' '.join(command)} ended with exit code {code}")
    return seconds, peak_mb
