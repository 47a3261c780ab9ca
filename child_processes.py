"""How long-running programs are started together and stopped together, so that none survives its parent.

Each child leads a process group of its own; the whole group is told to end, and ended if it does not. Knows nothing of
what the programs do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from data_contract import DaemonError, DataFileError

GRACE_SECONDS = 10.0  # between asking a child to end and ending it


@dataclass(frozen=True)
class Child:
    """A running program."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None

    def last_words(self, lines: int = 15) -> str:
        """End of its log."""
        if self.log is None:
            return ""
        try:
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


class ChildProcesses:
    """Context manager: whatever was started in it has ended when it is left, in whatever way.

    Parameters
    ----------
    log_dir : path
        Folder for the children's output, one `<name>.log` each.
    """

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._children: list[Child] = []

    def __enter__(self) -> ChildProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with _interrupts_wait():
            self.stop()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Child:
        """Start a program in a process group of its own, with its output in the log folder.

        Raises
        ------
        DataFileError
            If the log cannot be written.
        """
        log = self._log_dir / f"{name}.log"
        try:
            self._log_dir.mkdir(parents=True, exist_ok=True)
            output = log.open("wb")
        except OSError as error:
            raise DataFileError(
                f"{log} cannot be written: {error.strerror or error}.",
                why=f"Without its log nobody could see what the {name} says, so it was not started.",
                fix="Free some space, mend the permissions or run the command in another folder.",
                document="QUICK_START.md",
            ) from error
        with output:
            return self._start(name, command, environment, log, {"stdout": output, "stderr": subprocess.STDOUT})

    def run(self, name: str, command: Sequence[str]) -> int:
        """Run a program to its end, with its output on the screen; gives its exit code."""
        child = self._start(name, command, None, None, {})
        code = child.process.wait()
        self._children.remove(child)
        return code

    def _start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None,
        log: Path | None,
        output: dict[str, Any],
    ) -> Child:
        with _interrupts_wait():  # or a child could start and not be noted
            process = subprocess.Popen(  # noqa: S603
                list(command),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                **output,
            )
            child = Child(name, process, log)
            self._children.append(child)
        return child

    def check(self) -> None:
        """Refuse to go on when a child has ended by itself.

        Raises
        ------
        DaemonError
            Naming the child, its exit code and the end of its log.
        """
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                raise DaemonError(
                    f"The {child.name} ended by itself with code {code}:\n{_indented(child.last_words())}",
                    why="Without it the rest cannot go on, so everything was stopped.",
                    fix=f"Mend what it says (all of its output is in {child.log}), then run the command again.",
                )

    def stop(self) -> None:
        """End all children, the youngest first: ask, wait, then end what is left of their groups."""
        children, self._children = self._children[::-1], []
        for child in children:
            _signal_group(child, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
            _signal_group(child, getattr(signal, "SIGKILL", signal.SIGTERM))  # and whatever the child started itself
            child.process.wait()


def _signal_group(child: Child, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(child.process.pid, number)
        else:
            child.process.send_signal(number)


def _handlers(handler: Callable[[int, FrameType | None], None], *names: str) -> dict[int, Any]:
    """Set a handler for the signals that this system has; gives what was set before. Only the main thread may."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [int(number) for name in names if (number := getattr(signal, name, None)) is not None]
    return {number: signal.signal(number, handler) for number in numbers}


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let signals wait for the end of the block, so that starting and stopping are not cut in half by a second Ctrl-C.

    Handlers and not a signal mask: children would inherit the mask, and be deaf.
    """
    waiting: list[int] = []
    before = _handlers(lambda number, _frame: waiting.append(number), "SIGINT", "SIGTERM", "SIGHUP")
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP (a closed terminal) end the block as Ctrl-C does: by KeyboardInterrupt, with their name.

    Under `nohup`, which has SIGHUP ignored, it stays so.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        raise KeyboardInterrupt(signal.Signals(number).name)

    hangup = getattr(signal, "SIGHUP", None)
    is_deaf = hangup is not None and signal.getsignal(hangup) == signal.SIG_IGN
    before = _handlers(interrupt, "SIGINT", "SIGTERM", *(() if is_deaf else ("SIGHUP",)))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def next_free_port(host: str, first: int, tries: int = 50) -> int:
    """`first`, or the next port after it that is free.

    Raises
    ------
    DaemonError
        If none of the tried ports is free.
    """
    for port in range(first, min(first + tries, 65536)):
        if port_is_free(host, port):
            return port
    raise DaemonError(
        f"No port from {first} on is free at {host}.",
        why="The daemon and the dashboard need a port each to be reached at.",
        fix="Stop what listens there, or choose other ports, e.g. `python main.py demo --port 18000`.",
    )


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _self_check() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        with ChildProcesses(Path(folder)) as children:
            child = children.start("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"])
            children.check()
        assert child.process.returncode == -signal.SIGTERM
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not port_is_free("127.0.0.1", port) and next_free_port("127.0.0.1", port) > port
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
