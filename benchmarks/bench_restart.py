"""How long a daemon with much history takes to forecast again after a restart, and what of it takes the time.

    python benchmarks/bench_restart.py --model-dir models/latest --json

1,000 servers × 3 days are posted to a daemon, which is then killed (SIGKILL) and started again with the same history;
then the same with 8 days, which is all that a daemon holds in memory by default. Time is taken from the start of the
process to the first answer with a forecast of every server. A process of its own then takes the same way part by part.
The last line of `--json` is one object:

restart_s_1000_servers   seconds with the fewest days
restart_s_1000_servers_3_days, restart_s_1000_servers_8_days
                         seconds with each
listening_s_…            of them, until the daemon listened
parts_…_s_3_days, …      import: Python's modules, torch among them; open: the store, checked and counted; read: its
                         rows, to the grid; load: the model; forecast: the whole fleet; ready: all answers serialised
rows_3_days, …           rows of history that it found
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from daemon_under_test import made_up_rows, present, running_daemon
from measured import report, say

DAYS_POSTED_AT_ONCE = 1


def days_of(text: str) -> float:
    """A number of days that is above 0."""
    days = float(text)
    if not 0 < days <= 30:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and up to 30")
    return days


def fill(model_dir: Path, folder: Path, servers: int, days: float) -> None:
    """Post the history and kill the daemon."""
    steps = round(days * 288)
    with running_daemon(model_dir, folder) as daemon:
        for done in range(0, steps, 288 * DAYS_POSTED_AT_ONCE):
            some = min(steps - done, 288 * DAYS_POSTED_AT_ONCE)
            daemon.post(made_up_rows(servers, present(steps - done), some, done))
        daemon.process.kill()
        daemon.process.wait()


def restart(model_dir: Path, folder: Path, servers: int) -> dict[str, float]:
    """Start again and wait for the first forecast of every server."""
    started = time.perf_counter()
    with running_daemon(model_dir, folder) as daemon:
        listening = time.perf_counter() - started
        while daemon.client.get("/predictions/current").json().get("count") != servers:
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        rows = daemon.client.get("/status").json()["history"]["rows"]
        return {"restart_s": round(seconds, 2), "listening_s": round(listening, 2), "rows": rows}


def parts(model_dir: Path, folder: Path) -> dict[str, float]:
    """What the time goes to, in this process."""
    times: dict[str, float] = {}
    began = last = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        times[f"parts_{name}_s"] = round(now - last, 2)
        last = now

    from datetime import timedelta

    import tft_inference  # noqa: F401 - all that the daemon imports
    from config import load_settings
    from daemon_answers import ReadyAnswer, to_json
    from fleet_grid import RollingGrid
    from history_store import HistoryStore
    from tft_forecaster import Forecaster
    from tft_risk import assess, prediction_records

    lap("import")
    settings = load_settings()
    store = HistoryStore(folder / "history")
    lap("open")
    grid = RollingGrid(settings.history_hours)
    assert store.newest is not None
    for page in store.pages(store.newest - timedelta(hours=settings.history_hours)):
        grid.add(page)
    store.close()
    lap("read")
    forecaster = Forecaster.load(model_dir)
    lap("load")
    fleet = grid.snapshot()
    forecast = forecaster.predict_grid(fleet)
    lap("forecast")
    records = prediction_records(forecast, assess(forecast, settings), fleet)
    ReadyAnswer("predictions", [to_json(record) for record in records])
    lap("ready")
    times["parts_all_s"] = round(last - began, 2)
    return times


def parts_apart(model_dir: Path, folder: Path) -> dict[str, float]:
    """The same in a process of its own, as a daemon begins: with nothing imported."""
    command = [sys.executable, __file__, "--parts", str(folder), "--model-dir", str(model_dir)]
    found: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=Path("models/latest"))
    parser.add_argument("--servers", type=int, default=1000)
    parser.add_argument(
        "--days", type=days_of, nargs="+", default=[3.0, 8.0], help="days of history, one after another"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--parts", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.model_dir.exists():
        raise SystemExit(f"There is no model folder at {options.model_dir}: train one, or name one with --model-dir.")
    if options.parts:
        print(json.dumps(parts(options.model_dir, options.parts)))
        return
    figures: dict[str, float] = {}
    for days in sorted(options.days):
        say(f"{options.servers:,} servers × {days:g} days: {options.servers * round(days * 288):,} rows")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            fill(options.model_dir, folder, options.servers, days)
            say("killed; starting again")
            found = restart(options.model_dir, folder, options.servers)
            size = f"{options.servers}_servers"
            figures.setdefault(f"restart_s_{size}", found["restart_s"])
            figures |= {f"{key}_{size}_{days:g}_days": found[key] for key in ("restart_s", "listening_s")}
            figures |= {f"{key}_{days:g}_days": value for key, value in parts_apart(options.model_dir, folder).items()}
            figures[f"rows_{days:g}_days"] = found["rows"]
    report(figures, as_json=options.json)


if __name__ == "__main__":
    main()
