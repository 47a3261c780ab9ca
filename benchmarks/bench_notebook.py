"""How long the notebook takes, from the first cell to the last, in a kernel of its own; and which cells take longest.

    python benchmarks/bench_notebook.py --json
    python benchmarks/bench_notebook.py --keep executed.ipynb       # with its outputs, to look at

It runs in a folder that is thrown away afterwards, with `QUICK` as it stands in the notebook.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent


class Timed(NotebookClient):
    """Notes how long each cell takes."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.seconds: dict[str, float] = {}

    async def async_execute_cell(self, cell, *arguments, **options):
        """Run one cell."""
        started = time.perf_counter()
        try:
            return await super().async_execute_cell(cell, *arguments, **options)
        finally:
            if cell.cell_type == "code":
                self.seconds[cell.id] = time.perf_counter() - started


def main() -> None:
    """Run it, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object, as the last line")
    parser.add_argument("--keep", type=Path, help="write the notebook with its outputs there")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    notebook = nbformat.read(ROOT / "_StartHere.ipynb", as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "tests" / "data", Path(folder) / "tests" / "data")
        client = Timed(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": folder}})
        started = time.perf_counter()
        try:
            client.execute()
        finally:
            if options.keep:
                nbformat.write(notebook, options.keep)
    total = time.perf_counter() - started
    slowest = sorted(client.seconds.items(), key=lambda item: -item[1])[:8]
    for name, seconds in slowest:
        print(f"{seconds:7.1f} s  {name}")
    print(f"{total:7.1f} s  in all, {len(client.seconds)} cells")
    if options.json:
        told = {"notebook_seconds": round(total, 1), "cells": len(client.seconds)}
        print(json.dumps(told | {"cell_seconds": {name: round(seconds, 1) for name, seconds in slowest}}))


if __name__ == "__main__":
    main()
