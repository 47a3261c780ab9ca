"""`_StartHere.ipynb` runs in a real kernel, whole, section by section and again, and is committed without outputs."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from jupyter_client.manager import KernelManager, start_new_kernel

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = nbformat.read(ROOT / "_StartHere.ipynb", as_version=4)
CELLS = {cell.id: cell for cell in NOTEBOOK.cells}

# The same cells with a fleet and a network that take seconds.
SMALL = """
settings = load_settings(
    hidden_size=8, attention_heads=2, encoder_pieces="3x12,12x1", decoder_patch=12,
    windows_per_epoch=256, validation_windows=64, learning_rate=0.01, daemon_port=18700, dashboard_port=18800,
)
import metrics_generator as _generator, dataclasses as _dataclasses
_made = _generator.GeneratorOptions
_generator.GeneratorOptions = lambda servers, hours: _made(servers=20, hours=7 * 24)
"""


class Kernel:
    """A notebook's kernel in a folder of its own, as a person has it open."""

    def __init__(self, folder: Path) -> None:
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": paths, "TFT_LOG_LEVEL": "INFO"}
        self.manager: KernelManager
        self.manager, self.client = start_new_kernel(cwd=str(folder), env=environment)

    def run(self, source: str, seconds: float = 240.0) -> dict[str, Any]:
        """Run a cell: its status, what it printed, and what it showed, by kind."""
        shown: dict[str, Any] = {"text": "", "data": {}, "errors": []}

        def hook(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                shown["text"] += content["text"]
            elif message["msg_type"] in ("execute_result", "display_data"):
                shown["data"] |= content["data"]
                shown["text"] += content["data"].get("text/plain", "") + "\n"
            elif message["msg_type"] == "error":
                shown["errors"] += content["traceback"]

        reply = self.client.execute_interactive(source, timeout=seconds, output_hook=hook)
        return {"status": reply["content"]["status"], **shown}

    def cell(self, name: str) -> dict[str, Any]:
        """Run one of the notebook's cells, which must work."""
        done = self.run(CELLS[name].source)
        assert done["status"] == "ok", "\n".join(done["errors"])
        return done

    def set_up(self) -> None:
        """The first cell, then what makes it small."""
        self.cell("setup")
        assert self.run(SMALL)["status"] == "ok"

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def sections() -> dict[str, list[str]]:
    """Heading → ids of its code cells."""
    found: dict[str, list[str]] = {}
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "markdown" and (heading := re.match(r"## (\d+\. .+)", cell.source)):
            found[heading[1]] = []
        elif cell.cell_type == "code" and found:
            list(found.values())[-1].append(cell.id)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder with nothing in it but the sample of real data."""
    path = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "tests" / "data", path / "tests" / "data")
    return path


@pytest.fixture(scope="module")
def kernel(folder: Path) -> Iterator[Kernel]:
    """One kernel in which the whole notebook ran, in order."""
    kernel = Kernel(folder)
    try:
        kernel.set_up()
        kernel.results = {name: kernel.cell(name) for of in sections().values() for name in of}
        yield kernel
    finally:
        kernel.end()


def programs(folder: Path) -> list[psutil.Process]:
    """What still runs of what a notebook in this folder has started."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        line = process.info["cmdline"] or []
        if process.info["cwd"] == str(folder) and any(part.endswith(("main.py", "notebook_live.py")) for part in line):
            found.append(process)
    return found


def wait_until(true: Any, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (answer := true()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(answer)


# ------------------------------------------------------------------------------------------------- what lies in git
def test_it_is_a_valid_notebook_without_outputs_or_traces_of_a_machine():
    nbformat.validate(NOTEBOOK)
    for cell in NOTEBOOK.cells:
        assert not cell.get("outputs") and not cell.get("execution_count") and not cell.metadata, cell.id
    assert NOTEBOOK.metadata.keys() == {"kernelspec", "language_info"}
    assert NOTEBOOK.metadata.language_info == {"name": "python"}


def test_every_section_of_the_specification_is_there_in_order():
    assert [re.sub(r"^\d+\. ", "", heading) for heading in sections()] == [
        "Data",
        "Look at it",
        "Validate",
        "Train",
        "Judge",
        "Forecast",
        "Explain",
        "A server that the model has never seen",
        "Serve",
        "Dashboard",
        "Bring your own data",
    ]
    assert all(sections().values())


def test_a_section_says_what_it_needs_and_cells_are_short():
    for cell in NOTEBOOK.cells:
        heading = re.match(r"## (\d+)\. ", cell.source) if cell.cell_type == "markdown" else None
        if heading and int(heading[1]) > 1:
            assert re.search(r"\*Needs the (data of section 1|model of section 4)[^*]*\.\*", cell.source), heading[0]
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 15, cell.id
            assert not re.search(r"^\s*(def|class|for|while) ", cell.source, re.MULTILINE), "that belongs into a module"


# ------------------------------------------------------------------------------------------------------ in a kernel
@pytest.mark.slow
def test_all_cells_run_in_order_and_show_what_they_promise(kernel, folder):
    results = kernel.results
    figures = [name for name, done in results.items() if "application/vnd.plotly.v1+json" in done["data"]]
    assert figures == [
        *("fleet", "measured", "losses", "errors", "calibration", "example", "fan", "risks", "explaining", "stranger"),
        "ownfan",
    ]
    assert "✓ valid" in results["validation"]["text"]
    assert "epoch 5/5" in results["training"]["text"]
    assert "TFT (this product)" in results["backtest"]["data"]["text/html"]
    assert "(20, 96, 4, 11)" in results["forecasting"]["text"]
    assert "unknown to the model" in json.dumps(results["stranger"]["data"])
    assert "'model_loaded': True" in results["serving"]["data"]["text/plain"]
    assert results["served"]["data"]["text/html"].count("<tr") == 1 + 5
    assert re.search(r"http://127\.0\.0\.1:\d+", results["looking"]["data"]["text/plain"])
    assert "= out" in results["import"]["text"]
    assert "not reported, so not forecast" in json.dumps(results["ownfan"]["data"])
    assert wait_until(lambda: not programs(folder)), "the last cells of section 10 stop everything"


@pytest.mark.slow
def test_every_figure_names_its_units(kernel):
    for name, done in kernel.results.items():
        figure = done["data"].get("application/vnd.plotly.v1+json")
        if figure is None:
            continue
        layout = figure["layout"]
        told = " ".join(
            [layout["title"]["text"]]
            + [axis["title"]["text"] for key, axis in layout.items() if key[1:5] == "axis" and "title" in axis]
        )
        assert re.search(r"%|MB/s|lower is better", told), (name, told)


@pytest.mark.slow
def test_each_section_works_by_itself_after_a_restart(kernel, folder):
    """Names are forgotten between the sections, as after a restart; what is on disk stays."""
    for heading, names in sections().items():
        if heading.startswith(("1.", "4.", "5.")):  # they make what the others need, or take long
            continue
        assert kernel.run("%reset -f")["status"] == "ok"
        kernel.set_up()
        for name in names:
            kernel.cell(name)


@pytest.mark.slow
def test_serving_again_keeps_what_runs_and_a_killed_kernel_takes_all_of_it_along(kernel, folder):
    other = Kernel(folder)
    try:
        other.set_up()
        first = other.cell("serving")["text"]
        assert other.cell("serving")["text"] == first
        assert len(programs(folder)) >= 3  # the keeper, the daemon and the stream
        other.manager.interrupt_kernel()
        assert other.run("live.is_running")["data"]["text/plain"] == "True"
    finally:
        other.manager.shutdown_kernel(now=True)  # SIGKILL: nothing of the kernel's own can clean up
        other.client.stop_channels()
    assert wait_until(lambda: not programs(folder)), programs(folder)


@pytest.mark.slow
def test_a_mistake_is_told_without_a_traceback(kernel):
    done = kernel.run("load_valid_frame(Path('nowhere.parquet'))")
    assert done["status"] == "error"
    told = "\n".join(done["errors"])
    assert "To fix it" in told and "Traceback" not in told and "line" not in told.split("To fix it")[0]
    assert "ZeroDivisionError" in "\n".join(kernel.run("1 / 0")["errors"])
