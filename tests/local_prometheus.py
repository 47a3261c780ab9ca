"""Real Prometheus, node_exporter and blackbox_exporter on loopback, for tests and benchmarks; history by promtool."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx2

PROGRAMS = ("prometheus", "promtool", "prometheus-node-exporter", "prometheus-blackbox-exporter")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
WHY_NOT = f"not installed: {', '.join(MISSING)} (Debian: prometheus, prometheus-node-exporter, …-blackbox-exporter)"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Program:
    """A program that runs as long as the block, with its output in a file."""

    def __init__(self, folder: Path, *command: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f"{command[0]}.log"
        self._command = command

    def __enter__(self) -> Program:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_for(self, url: str) -> None:
        """Wait until it answers 200."""
        for _ in range(600):
            if self._process.poll() is not None:
                break
            try:
                if httpx2.get(url, trust_env=False, timeout=5).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{self._command[0]} does not answer:\n{self._log.read_text()[-2000:]}")


class Prometheus(Program):
    """A Prometheus on a free port.

    Parameters
    ----------
    folder : Path
        Where its settings, log and data are.
    jobs : dict
        Scrape settings by name of the job; none for a Prometheus that only has history.
    flags : str
        Further flags of the program.
    web : str, optional
        Its web configuration, e.g. who may ask.
    """

    def __init__(self, folder: Path, jobs: dict[str, Any] | None = None, *flags: str, web: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        settings = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{"job_name": name, **job} for name, job in (jobs or {}).items()],
        }
        (folder / "settings.yml").write_text(json.dumps(settings))  # JSON is YAML
        if web:
            (folder / "web.yml").write_text(web)
        super().__init__(
            folder,
            "prometheus",
            f"--config.file={folder / 'settings.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
            *([f"--web.config.file={folder / 'web.yml'}"] if web else []),
            *flags,
        )
        self._guarded = bool(web)

    def start(self) -> None:
        super().start()
        if self._guarded:
            return
        try:
            self.wait_for(f"{self.url}/-/ready")
        except BaseException:
            self.stop()
            raise

    def values(self, promql: str) -> list[dict[str, Any]]:
        """Series of an instant query."""
        answer = httpx2.get(f"{self.url}/api/v1/query", params={"query": promql}, trust_env=False).json()
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


def backfill(folder: Path, lines: Iterable[str]) -> None:
    """Write history, in the OpenMetrics format without its last line, into the data folder of a Prometheus."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "history.txt"
    with source.open("w") as stream:
        stream.writelines(f"{line}\n" for line in lines)
        stream.write("# EOF\n")
    subprocess.run(
        [
            *("promtool", "tsdb", "create-blocks-from"),
            "--max-block-duration=168h",  # a block per 2 hours, each a pass through the file, would be slow
            *("openmetrics", str(source), str(folder / "data")),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    source.unlink()
