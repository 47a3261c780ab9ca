"""How long a command of main.py takes, process start included, and in how much memory; how long functions take."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
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


def in_turn(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each side; they take turns, so that other load hits all, and a first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if number:
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def say(text: str) -> None:
    """Report progress where it does not mix with the results."""
    print(text, file=sys.stderr, flush=True)


def report(figures: Mapping[str, float | None], *, as_json: bool) -> None:
    """Print the figures of a benchmark, as a table or as one JSON object in the last line."""
    if as_json:
        print(json.dumps(figures, allow_nan=False))
        return
    for name, value in figures.items():
        print(f"{name:<40} {'never' if value is None else f'{value:,}':>12}")
