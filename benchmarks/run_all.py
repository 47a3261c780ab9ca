"""All benchmarks, one after another; each one's figures become a line of a file.

    python benchmarks/run_all.py                          # or `make bench`: short runs, some 20 minutes
    python benchmarks/run_all.py --full                   # or `make bench FULL=1`: whole ones, 2 hours
    python benchmarks/run_all.py --only daemon,restart

What is in the file already is not measured again, so a run that was interrupted goes on where it was; --again measures
anew. Ctrl-C stops the benchmark that runs, with all that it started. Benchmarks of recorded fleets are left out where
TFT_REAL_DATA does not name their folder. Exit codes: 0 all have figures, 1 one failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks"
GRACE_SECONDS = 30  # that an interrupted benchmark has to stop what it started


@dataclass(frozen=True)
class Benchmark:
    """A program of this folder and how it is called."""

    name: str
    quick: tuple[str, ...] | None = ()
    full: tuple[str, ...] = ()
    program: str = ""
    needs_model: bool = False
    needs_real_data: bool = False

    def arguments(self, *, full: bool, model_dir: Path) -> list[str] | None:
        """What stands after the program's name; None if it is left out of a quick run."""
        chosen = self.full if full else self.quick
        if chosen is None:
            return None
        return [*chosen, *(("--model-dir", str(model_dir)) if self.needs_model else ()), "--json"]

    def path(self) -> Path:
        """The program."""
        return FOLDER / (self.program or f"bench_{self.name}.py")


BENCHMARKS = (
    Benchmark("data", ("--quick", "--repeats", "1")),
    Benchmark("import"),
    Benchmark("prometheus", ("--servers", "10", "--days", "1", "--repeats", "1")),
    Benchmark("inference"),
    Benchmark("training", ("--quick",)),
    Benchmark("daemon", ("--seconds", "10", "--servers", "90", "1000"), needs_model=True),
    Benchmark("history", ("--servers", "100")),
    Benchmark("restart", ("--servers", "100"), needs_model=True),
    Benchmark("dashboard", ("--servers", "90", "--rounds", "3", "--viewer-seconds", "10"), needs_model=True),
    Benchmark("soak", ("--minutes", "2"), needs_model=True),
    Benchmark("notebook"),
    Benchmark("realism", ("--quick",), program="realism.py", needs_real_data=True),
    Benchmark("gifteval", None, ("--preset", "production"), program="gifteval.py", needs_real_data=True),
)


def main() -> int:
    """Run them; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="whole runs, whose figures may be quoted")
    parser.add_argument("--only", type=chosen_names, help="names with commas between: " + ", ".join(names()))
    parser.add_argument("--again", action="store_true", help="measure anew what is in the file already")
    parser.add_argument("--model-dir", type=Path, help="model that is served (trained for it in the output folder)")
    parser.add_argument("--out", type=Path, default=ROOT / "bench", help="folder of results.jsonl (bench/)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.jsonl"
    model_dir = options.model_dir or options.out / "models" / "latest"
    chosen = [each for each in BENCHMARKS if options.only is None or each.name in options.only]
    known = set() if options.again else set(measured(results))
    failed = 0
    try:
        for number, each in enumerate(chosen, start=1):
            arguments = each.arguments(full=options.full, model_dir=model_dir)
            head = f"[{number}/{len(chosen)}] {each.name}"
            if arguments is None or (each.needs_real_data and not os.environ.get("TFT_REAL_DATA")):
                why = "only with --full" if arguments is None else "TFT_REAL_DATA names no folder of recorded fleets"
                print(f"{head}: left out, {why}", flush=True)
            elif (each.name, tuple(arguments)) in known:
                print(f"{head}: in {results} already; --again measures anew", flush=True)
            else:
                if each.needs_model and options.model_dir is None and not model_dir.exists():
                    train_one(options.out)
                print(f"{head}: {' '.join(arguments)}", flush=True)
                failed += not run(each, arguments, results)
    except KeyboardInterrupt:
        print("\nStopped; what was measured is kept. The same command goes on from here.", file=sys.stderr)
        return 130
    print(f"{len(list(measured(results)))} results in {results}" + (f"; {failed} failed" if failed else ""))
    return 1 if failed else 0


def names() -> list[str]:
    """Of all benchmarks, in the order in which they run."""
    return [each.name for each in BENCHMARKS]


def chosen_names(text: str) -> list[str]:
    """Names with commas between; argparse shows the error."""
    chosen = [name.strip() for name in text.split(",")]
    if unknown := sorted(set(chosen) - set(names())):
        raise argparse.ArgumentTypeError(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(names())}")
    return chosen


def measured(results: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name and arguments of each result that is there."""
    if results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            result = json.loads(line)
            yield result["benchmark"], tuple(result["arguments"])


def train_one(out: Path) -> None:
    """Make a fleet and train a small model on it: what is served does not depend on how good it is."""
    program = [sys.executable, str(ROOT / "main.py")]
    print("Making a fleet and a small model to serve …", flush=True)
    finished([*program, "generate", "--hours", "336", "--out_dir", str(out / "training"), "--json"])
    data = str(out / "training" / "server_metrics.parquet")
    ended, _ = finished([*program, "train", "--data", data, "--preset", "quick", "--models-dir", str(out / "models")])
    if ended != 0:
        raise SystemExit(f"No model could be trained in {out}, see above.")


def run(each: Benchmark, arguments: Sequence[str], results: Path) -> bool:
    """Measure; write down the figures if there are any."""
    began, clock = datetime.now(timezone.utc), time.monotonic()
    code, output = finished([sys.executable, str(each.path()), *arguments])
    seconds = time.monotonic() - clock
    figures = figures_of(output) if code == 0 else None
    if figures is None:
        print(f"    failed after {seconds:.0f} s, exit code {code}\n{output[-2000:]}", file=sys.stderr, flush=True)
        return False
    result = {
        "benchmark": each.name,
        "arguments": list(arguments),
        "started_at": began.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": round(seconds, 1),
        "figures": figures,
    }
    with results.open("a", encoding="utf-8") as file:  # a line at a time: an interrupted run keeps what it has
        file.write(json.dumps(result) + "\n")
    told = ", ".join(f"{name} {value}" for name, value in figures.items() if not isinstance(value, (dict, list)))
    print(f"    {seconds:.0f} s: {told}", flush=True)
    return True


def figures_of(output: str) -> dict[str, Any] | None:
    """The JSON object of the last line; None if it is something else."""
    lines = output.strip().splitlines()
    try:
        figures = json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        return None
    return figures if isinstance(figures, dict) else None


def finished(command: Sequence[str]) -> tuple[int, str]:
    """Run a program to its end: exit code and standard output. Ctrl-C is handed on, and waited for."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            output, _ = child.communicate()
        except BaseException:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
            raise
    return child.returncode, output


if __name__ == "__main__":
    raise SystemExit(main())
