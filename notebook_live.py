"""How a notebook runs the daemon, live rows and the dashboard beside itself, and how none of them outlives it.

    live = start_live(DATA, MODELS / "latest", settings)     # again: what runs already is kept
    live.get("/predictions/current")
    live.stop()

A small process of its own starts and stops them. It reads what to start from a pipe that the notebook's kernel holds:
when the kernel ends, however it ends, the pipe ends, and all of them are stopped. An interrupted cell does not reach
them. Knows nothing of what the programs do.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx2

from child_processes import GRACE_SECONDS, ChildProcesses, ended_by_signals, next_free_port
from config import Settings, key_headers
from data_contract import DATA_FILE, DaemonError, ProductError
from tft_demo import HOST, ROOT, dashboard_command

FOLDER: Final = "live"  # beside the data: history of the daemon and logs, made anew at each start
READY_SECONDS: Final = 180.0
_DOCUMENT: Final = "Docs/ESSENTIAL_RAG.md"

_running: dict[tuple[Path, int, Path], Live] = {}


class Live:
    """A daemon that serves a model, and a made-up fleet that goes on living and posts its rows to it.

    Attributes
    ----------
    url : str
        Of the daemon.
    logs : Path
        Folder with what the programs print.
    """

    def __init__(self, data_dir: Path, model_dir: Path, settings: Settings) -> None:
        if settings.api_keys_file.exists() and settings.api_key is None:
            raise DaemonError(
                f"The daemon would ask for an API key of {settings.api_keys_file}, and the notebook has none.",
                why="It sends rows and reads forecasts, both of which take a key then.",
                fix="Set TFT_API_KEY to a key of scope write before Jupyter starts, or use a folder without keys.",
            )
        self._folder = data_dir / FOLDER
        shutil.rmtree(self._folder, ignore_errors=True)  # rows of an earlier fleet have no place beside this one's
        self.logs = self._folder / "logs"
        self.logs.mkdir(parents=True)
        self._settings = settings
        self._dashboard: str | None = None
        port = next_free_port(HOST, settings.daemon_port)
        self.url = f"http://{HOST}:{port}"
        self._keeper = subprocess.Popen(  # noqa: S603
            [sys.executable, str(Path(__file__).resolve()), str(self.logs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # or an interrupt of the notebook would reach it
        )
        try:
            self._start_daemon(data_dir, model_dir, port)
            self._start_stream(data_dir)
        except BaseException:
            self.stop()
            raise

    @property
    def is_running(self) -> bool:
        """Whether all that was started still runs."""
        return self._keeper.poll() is None

    def get(self, path: str) -> Any:
        """JSON of one of the daemon's answers.

        Raises
        ------
        DaemonError
            If it has ended, or refuses: with what it says.
        """
        self._insist_on_running()
        headers = key_headers(self._settings.api_key)
        response = httpx2.get(self.url + path, timeout=30, trust_env=False, headers=headers)
        answer = response.json()
        if response.is_success:
            return answer
        raise DaemonError(
            f"The daemon answers {path} with {response.status_code}: {answer.get('detail') or answer.get('title')}",
            why="It gives no forecast that it does not have.",
            fix=f"{answer.get('fix') or 'See its log'} ({self.logs}).",
        )

    def forecasts(self) -> list[dict[str, Any]]:
        """The forecasts of all servers, from now; waits for the first ones."""
        answer = self._wait(self._fresh, "the first forecasts")
        return list(answer["predictions"])

    def dashboard(self) -> str:
        """Address of the dashboard, which is started if it is not there yet."""
        if self._dashboard is None:
            port = next_free_port(HOST, self._settings.dashboard_port)
            url = f"http://{HOST}:{port}"
            self._start("dashboard", dashboard_command(HOST, port), {"TFT_DAEMON_URL": self.url})
            self._wait(lambda: _is_ready(f"{url}/_stcore/health"), "the dashboard")
            self._dashboard = url
        return self._dashboard

    def stop(self) -> None:
        """End all of them, cleanly; again does nothing."""
        with contextlib.suppress(OSError):
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
        try:
            self._keeper.wait(2 * GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._keeper.terminate()
            self._keeper.wait()
        assert self._keeper.stderr is not None
        self._keeper.stderr.close()

    # ------------------------------------------------------------------------------------------------------- starting
    def _start_daemon(self, data_dir: Path, model_dir: Path, port: int) -> None:
        command = [
            *(sys.executable, str(ROOT / "main.py"), "serve", "--host", HOST, "--port", str(port)),
            *("--model-dir", str(model_dir), "--history-dir", str(self._folder / "history")),
            *("--data", str(data_dir / DATA_FILE)),
        ]
        quiet = {"TFT_ALERTMANAGER_URL": "", "TFT_WEBHOOK_URL": ""}  # a made-up fleet wakes nobody up
        self._start("daemon", command, quiet)
        self._wait(lambda: _is_ready(f"{self.url}/readyz"), "the daemon")

    def _start_stream(self, data_dir: Path) -> None:
        command = [sys.executable, str(ROOT / "main.py"), "generate", "--stream"]
        self._start("stream", [*command, "--out_dir", str(data_dir), "--url", self.url], {})

    def _start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._insist_on_running()
        assert self._keeper.stdin is not None
        line = json.dumps({"name": name, "command": list(command), "environment": dict(environment)})
        with contextlib.suppress(BrokenPipeError):  # it has ended: the wait that follows says why
            self._keeper.stdin.write(line.encode() + b"\n")
            self._keeper.stdin.flush()

    # -------------------------------------------------------------------------------------------------------- waiting
    def _wait(self, ready: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + READY_SECONDS
        while not (answer := ready()):
            self._insist_on_running()
            if time.monotonic() > deadline:
                raise DaemonError(
                    f"Waited {READY_SECONDS:.0f} s for {what} in vain.",
                    why="The cells that follow need it.",
                    fix=f"See {self.logs}, then run the cell again; a very busy machine may just need longer.",
                    document=_DOCUMENT,
                )
            time.sleep(0.1)
        return answer

    def _fresh(self) -> Any:
        answer = self.get("/predictions/current")
        return None if answer["stale"] or not answer["predictions"] else answer

    def _insist_on_running(self) -> None:
        if self.is_running:
            return
        assert self._keeper.stderr is not None
        said = "" if self._keeper.stderr.closed else self._keeper.stderr.read().decode(errors="replace").strip()
        raise DaemonError(
            said or "The daemon was stopped.",
            why="Cells that ask it need it to run.",
            fix="Run the cell with `start_live` again.",
            document=_DOCUMENT,
        )


def start_live(data_dir: Path, model_dir: Path, settings: Settings) -> Live:
    """Give the running daemon of this data and model, or start one; of a kernel, one at a time.

    Parameters
    ----------
    data_dir : Path
        Folder of a generated fleet.
    model_dir : Path
        A model folder.

    Raises
    ------
    DaemonError
        If a program ends by itself; what it said is told.
    """
    data = data_dir / DATA_FILE
    # Of another fleet, another daemon; a new model behind `latest` is taken over by the one that runs.
    key = (data.absolute(), data.stat().st_mtime_ns if data.exists() else 0, model_dir.absolute())
    there = _running.get(key)
    if there is not None and there.is_running:
        return there
    stop_live()
    _running[key] = live = Live(data_dir, model_dir, settings)
    return live


def stop_live() -> None:
    """Stop what this kernel has started, if anything."""
    while _running:
        _running.popitem()[1].stop()


def _is_ready(url: str) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.get(url, timeout=5, trust_env=False).status_code == 200
    return False


# ------------------------------------------------------------------------------------------------- the keeper's process
def _keep(logs: Path) -> None:
    """Start what each line of standard input says, until it ends; then end all of it."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    with ended_by_signals(), ChildProcesses(logs) as children:
        while True:
            with contextlib.suppress(queue.Empty):
                line = lines.get(timeout=0.2)
                if line is None:
                    return
                order = json.loads(line)
                children.start(order["name"], order["command"], order["environment"])
            children.check()


def _main(logs: str) -> int:
    try:
        _keep(Path(logs))
    except ProductError as error:
        print(error.what, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _self_check() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        keeper = [sys.executable, str(Path(__file__).resolve()), folder]
        order = json.dumps({"name": "short", "command": [sys.executable, "-c", "exit(3)"], "environment": {}})
        done = subprocess.run(keeper, input=f"{order}\n", capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode in (0, 1)  # it may see the end of its input first
        assert (Path(folder) / "short.log").exists()
    print("✅ All tests passed")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(_main(sys.argv[1]))
    _self_check()
