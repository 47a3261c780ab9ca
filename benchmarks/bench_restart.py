"""How long a daemon with much history takes to forecast again after a restart.

    python benchmarks/bench_restart.py --model-dir models/latest --json

1,000 servers × 3 days are posted to a daemon, which is then killed (SIGKILL) and started again with the same history.
Time is taken from the start of the process to the first answer with a forecast of every server. The last line of
`--json` is one object:

restart_s_1000_servers   seconds
listening_s              of them, until the daemon listened
rows                     rows of history that it found
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from daemon_under_test import made_up_rows, present, running_daemon
from measured import report, say


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=Path("models/latest"))
    parser.add_argument("--servers", type=int, default=1000)
    parser.add_argument("--days", type=float, default=3.0)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    if not options.model_dir.exists():
        raise SystemExit(f"There is no model folder at {options.model_dir}: train one, or name one with --model-dir.")
    steps = round(options.days * 288)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say(f"{options.servers:,} servers × {options.days:g} days: {options.servers * steps:,} rows")
        with running_daemon(options.model_dir, folder) as daemon:
            daemon.post(made_up_rows(options.servers, present(steps), steps))
            daemon.process.kill()
            daemon.process.wait()
        say("killed; starting again")
        started = time.perf_counter()
        with running_daemon(options.model_dir, folder) as daemon:
            listening = time.perf_counter() - started
            while daemon.client.get("/predictions/current").json().get("count") != options.servers:
                time.sleep(0.02)
            seconds = time.perf_counter() - started
            rows = daemon.client.get("/status").json()["history"]["rows"]
    report(
        {
            f"restart_s_{options.servers}_servers": round(seconds, 2),
            "listening_s": round(listening, 2),
            "rows": rows,
        },
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
